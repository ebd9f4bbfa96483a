//! A journal in memory: keeps what is appended, stores as much of it as the test says, and tells what a restart finds.

use std::cell::{Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use crate::journal::{
    Decision, Joined, Journal, Position, PreparedBranch, PreparedPublish, PreparedSettlement, QueuePlace,
    Reason, Record, RecoveredTransactions, Step, StoreKey, StoredMessage, StoredPlace, Ticket,
    TransactionKey,
};
use crate::message::Encoding;
use crate::topology::StoredChange;
use crate::transaction::Xid;
use crate::{Shard, ShardId};

/// A message that was written down.
#[derive(Clone)]
pub struct Stored {
    encoding: &'static dyn Encoding,
    exchange: Vec<u8>,
    routing_key: Vec<u8>,
    properties: Vec<u8>,
    bodies: Vec<u8>,
    messages: u16,
    ttl_ms: Option<u64>,
    priority: u8,
    has_headers: bool,
    persistent: bool,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.message().fmt(f)
    }
}

impl Stored {
    fn new(message: &StoredMessage<'_>) -> Self {
        Stored {
            encoding: message.encoding,
            exchange: message.exchange.to_vec(),
            routing_key: message.routing_key.to_vec(),
            properties: message.properties.to_vec(),
            bodies: message.bodies.to_vec(),
            messages: message.messages,
            ttl_ms: message.ttl_ms,
            priority: message.priority,
            has_headers: message.has_headers,
            persistent: message.persistent,
        }
    }

    /// As it is read again.
    pub fn message(&self) -> StoredMessage<'_> {
        StoredMessage {
            encoding: self.encoding,
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            properties: &self.properties,
            bodies: &self.bodies,
            messages: self.messages,
            ttl_ms: self.ttl_ms,
            priority: self.priority,
            has_headers: self.has_headers,
            persistent: self.persistent,
        }
    }
}

/// A record that was appended.
#[derive(Clone)]
pub enum Written {
    Enqueued { message: Stored, places: Vec<QueuePlace> },
    Dequeued { queue: StoreKey, first: u64, count: u64 },
    HandedOut { queue: StoreKey, below: u64 },
    Changed(Vec<StoredChange>),
    Topology(Vec<StoredChange>),
    Transaction { transaction: TransactionKey, step: WrittenStep },
}

impl Written {
    fn new(record: &Record<'_>) -> Self {
        match *record {
            Record::Enqueued { message, places } => {
                Written::Enqueued { message: Stored::new(&message), places: places.to_vec() }
            }
            Record::Dequeued { queue, first, count } => Written::Dequeued { queue, first, count },
            Record::HandedOut { queue, below } => Written::HandedOut { queue, below },
            Record::Changed(changes) => Written::Changed(changes.to_vec()),
            Record::Topology(changes) => Written::Topology(changes.to_vec()),
            Record::Transaction { transaction, step } => {
                Written::Transaction { transaction, step: WrittenStep::new(&step) }
            }
        }
    }
}

/// What has become of a transaction.
#[derive(Clone, Debug)]
pub enum WrittenStep {
    Prepared { publishes: Vec<(Stored, Vec<StoreKey>)>, settlements: Vec<PreparedSettlement> },
    Ended,
    Branch { vhost: Vec<u8>, xid: Xid, homes: Vec<ShardId>, timeout_s: u32 },
    Decided(Decision),
    Forgotten,
    Closed,
}

impl WrittenStep {
    fn new(step: &Step<'_>) -> Self {
        match *step {
            Step::Prepared { publishes, settlements } => WrittenStep::Prepared {
                publishes: publishes
                    .iter()
                    .map(|publish| (Stored::new(&publish.message), publish.queues.to_vec()))
                    .collect(),
                settlements: settlements.to_vec(),
            },
            Step::Ended => WrittenStep::Ended,
            Step::Branch(PreparedBranch { vhost, xid, homes, timeout_s }) => {
                let (vhost, xid, homes) = (vhost.to_vec(), xid.clone(), homes.to_vec());
                WrittenStep::Branch { vhost, xid, homes, timeout_s }
            }
            Step::Decided(decision) => WrittenStep::Decided(decision),
            Step::Forgotten => WrittenStep::Forgotten,
            Step::Closed => WrittenStep::Closed,
        }
    }

    /// As it is read again.
    fn read<R>(&self, reader: impl FnOnce(&Step<'_>) -> R) -> R {
        match self {
            WrittenStep::Prepared { publishes, settlements } => {
                let publishes: Vec<_> = publishes
                    .iter()
                    .map(|(message, queues)| PreparedPublish { message: message.message(), queues })
                    .collect();
                reader(&Step::Prepared { publishes: &publishes, settlements })
            }
            WrittenStep::Ended => reader(&Step::Ended),
            WrittenStep::Branch { vhost, xid, homes, timeout_s } => {
                reader(&Step::Branch(PreparedBranch { vhost, xid, homes, timeout_s: *timeout_s }))
            }
            WrittenStep::Decided(decision) => reader(&Step::Decided(*decision)),
            WrittenStep::Forgotten => reader(&Step::Forgotten),
            WrittenStep::Closed => reader(&Step::Closed),
        }
    }
}

/// The file that outlives the shard.
#[derive(Default)]
pub struct File {
    /// What was appended. The record at index `n` is at position `n + 1`.
    pub records: Vec<(Written, Joined)>,
    /// So many of them are stored.
    pub stored: usize,
    /// Records that nobody needs any more.
    pub retired: Vec<(Position, usize)>,
    /// What was asked for, and not brought.
    pub reads: Vec<(Ticket, Vec<Position>)>,
    /// Why nothing more is taken.
    pub full: Option<Reason>,
    /// Nothing that is appended now is written.
    pub failed: bool,
    /// So many records are of runs before.
    old: usize,
    pages: BTreeMap<Position, Stored>,
    next_page: u64,
    run: u32,
}

impl File {
    /// What was written to the page file.
    pub fn pages(&self) -> BTreeSet<Position> {
        self.pages.keys().copied().collect()
    }
}

/// A journal and its file. Clones share it.
#[derive(Clone, Default)]
pub struct TestJournal(Rc<RefCell<File>>);

impl TestJournal {
    /// An empty one of a broker that has run so many times.
    pub fn of_run(run: u32) -> Self {
        TestJournal(Rc::new(RefCell::new(File { run, ..File::default() })))
    }

    /// The file.
    pub fn file(&self) -> Ref<'_, File> {
        self.0.borrow()
    }

    /// Changes the file.
    pub fn change(&self, change: impl FnOnce(&mut File)) {
        change(&mut self.0.borrow_mut());
    }

    /// Gives a shard this journal, in the next run.
    pub fn give_to(&self, shard: &mut Shard) {
        self.change(|file| file.run += 1);
        shard.set_journal(Box::new(self.clone()));
    }

    /// Stores so many more records, and tells the shard.
    pub fn store(&self, shard: &mut Shard, records: usize) {
        let stored = {
            let mut file = self.0.borrow_mut();
            if file.failed {
                return;
            }
            file.stored = (file.stored + records).min(file.records.len());
            file.stored as u64 + 1
        };
        shard.stored(Position(stored));
    }

    /// Stores all, and tells the shard.
    pub fn store_all(&self, shard: &mut Shard) {
        self.store(shard, usize::MAX / 2);
    }

    /// Stores nothing more, and tells the shard.
    pub fn fail(&self, shard: &mut Shard, reason: &str) {
        self.change(|file| file.failed = true);
        shard.journal_failed(Arc::from(reason));
    }

    /// The shard has gone, with what was not stored but for `more` records, and groups of which some are missing.
    pub fn crash(&self, more: usize) {
        self.change(|file| {
            let mut kept = (file.stored + more).min(file.records.len());
            while kept > 0 && file.records[kept - 1].1 == Joined::ToNext {
                kept -= 1;
            }
            file.records.truncate(kept);
            (file.stored, file.old) = (kept, kept);
            file.retired.clear();
            file.reads.clear();
            file.pages.clear();
            file.failed = false;
        });
    }

    /// The index of the first record that this run appended.
    pub fn first_of_run(&self) -> usize {
        self.file().old
    }

    /// The changes that make the topology.
    pub fn changes(&self) -> Vec<StoredChange> {
        let mut changes = Vec::new();
        for (record, _) in &self.file().records {
            match record {
                Written::Changed(more) => changes.extend_from_slice(more),
                Written::Topology(all) => changes.clone_from(all),
                _ => {}
            }
        }
        changes
    }

    /// What stands in queues, queue by queue in order of place.
    pub fn places(&self) -> Vec<StoredPlace> {
        let file = self.file();
        let mut gone = BTreeSet::new();
        for (record, _) in &file.records {
            if let Written::Dequeued { queue, first, count } = record {
                gone.extend((*first..first + count).map(|place| (*queue, place)));
            }
        }
        let mut found = BTreeMap::new();
        for (index, (record, _)) in file.records.iter().enumerate() {
            let Written::Enqueued { message, places } = record else { continue };
            for first in places {
                for part in 0..message.messages {
                    let place = QueuePlace { place: first.place + u64::from(part), ..*first };
                    if !gone.contains(&(place.queue, place.place)) {
                        let at = Position(index as u64 + 1);
                        let is_shared = message.messages > 1 || places.len() > 1;
                        found.insert((place.queue, place.place), StoredPlace { place, part, at, is_shared });
                    }
                }
            }
        }
        found.into_values().collect()
    }

    /// What has become of transactions, for a shard whose journal it is.
    pub fn transactions(&self, shard: ShardId, found: &mut RecoveredTransactions) {
        for (record, _) in &self.file().records {
            if let Written::Transaction { transaction, step } = record {
                step.read(|step| found.note(shard, *transaction, step));
            }
        }
    }

    /// The steps of transactions, in order.
    pub fn steps(&self) -> Vec<WrittenStep> {
        let records = &self.file().records;
        let steps = records.iter().filter_map(|(record, _)| match record {
            Written::Transaction { step, .. } => Some(step.clone()),
            _ => None,
        });
        steps.collect()
    }

    /// Below which places messages may have been handed out.
    pub fn handed_out(&self) -> BTreeMap<StoreKey, u64> {
        let records = &self.file().records;
        let marks = records.iter().filter_map(|(record, _)| match record {
            Written::HandedOut { queue, below } => Some((*queue, *below)),
            _ => None,
        });
        marks.collect()
    }

    /// Brings what was asked for to be read.
    pub fn read_all(&self, shard: &mut Shard) {
        let reads = std::mem::take(&mut self.0.borrow_mut().reads);
        for (ticket, positions) in reads {
            for position in positions {
                let message = self.message_at(position);
                shard.read_back(ticket, &message.message());
            }
        }
    }

    /// The message of a record.
    pub fn message_at(&self, position: Position) -> Stored {
        let file = self.file();
        if position.is_page() {
            return file.pages[&position].clone();
        }
        match &file.records[position.0 as usize - 1].0 {
            Written::Enqueued { message, .. } => message.clone(),
            _ => panic!("no message is at {position:?}"),
        }
    }
}

impl Journal for TestJournal {
    fn admit(&self, _bytes: usize) -> Result<(), Reason> {
        self.file().full.clone().map_or(Ok(()), Err)
    }

    fn append(&mut self, record: &Record<'_>, joined: Joined) -> Position {
        let mut file = self.0.borrow_mut();
        if !file.failed {
            file.records.push((Written::new(record), joined));
        }
        Position(file.records.len() as u64)
    }

    fn end(&self) -> Position {
        Position(self.file().records.len() as u64 + 1)
    }

    fn retire(&mut self, at: Position, bytes: usize) {
        let mut file = self.0.borrow_mut();
        assert!(file.retired.iter().all(|(other, _)| *other != at), "{at:?} was retired before");
        file.retired.push((at, bytes));
    }

    fn can_page_out(&self) -> bool {
        true
    }

    fn page_out(&mut self, message: &StoredMessage<'_>) -> Position {
        let mut file = self.0.borrow_mut();
        file.next_page += 1;
        let at = Position(file.next_page | Position::PAGE);
        file.pages.insert(at, Stored::new(message));
        at
    }

    fn read(&mut self, ticket: Ticket, positions: &[Position]) {
        self.0.borrow_mut().reads.push((ticket, positions.to_vec()));
    }

    fn run(&self) -> u32 {
        self.file().run
    }
}
