//! Messages that are out of memory and are read again, ahead of who takes them or when somebody asks for them.
//!
//! 1. The shard never waits for a reading. Whoever needs what is out of memory is taken up again when it has come.
//! 2. A level of a queue has one reading under way. A shard has some; further queues stand in line for them.
//! 3. What cannot be read stays out of memory, and is asked for again later.

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::deadletter::{Reason, has_somewhere_to_go};
use super::deliver::{note_gone, note_push, set_expiry_timer};
use super::envelope::Ask;
use super::{Due, Shard};
use crate::hash::Map;
use crate::journal::{Position, StoreKey, StoredMessage, Ticket};
use crate::queue::{Item, Look, PagedItem, Queue, Ready};
use crate::topology::QueueEntry;
use crate::{QueueId, SessionId};

/// Readings under way at a time.
const READINGS: usize = 16;

/// How long nothing is read for a queue after that has failed, in nanoseconds.
const RETRY_NS: u64 = 1_000_000_000;

/// Messages of a queue that has ended which go by its alternate exchange in one turn.
const BURIAL_BUDGET: usize = 1024;

/// For whom something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reader {
    Queue(QueueId),
    /// Messages that a queue has given up.
    Burial(u32),
}

/// What is to be read: of a level the first messages that are out of memory, or those from a place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Want {
    pub(super) reader: Reader,
    pub(super) level: u8,
    pub(super) place: Option<u64>,
}

struct Reading {
    ticket: Ticket,
    reader: Reader,
    level: u8,
}

/// Messages that a queue has given up and that have somewhere to go.
struct Burial {
    queue: Arc<QueueEntry>,
    ready: Ready,
    reason: Reason,
    /// What comes next is being read.
    waits: bool,
}

/// What is being read, and who waits for it.
pub(super) struct Reads {
    under_way: Slab<Reading>,
    /// How many have begun.
    begun: u32,
    /// Those that wait until there are fewer.
    line: VecDeque<Want>,
    in_line: Map<Want, ()>,
    /// For whom nothing is read until some time has passed.
    failed: Vec<Reader>,
    /// Sessions anywhere that asked for messages.
    asks: Vec<(QueueId, SessionId, Ask)>,
    burials: Slab<Burial>,
    /// How much one reading brings, about, in bytes.
    pub(super) bytes: u64,
    // Kept for its memory.
    positions: Vec<Position>,
}

impl Reads {
    pub(super) fn new(bytes: u64) -> Self {
        Reads {
            under_way: Slab::new(),
            begun: 0,
            line: VecDeque::new(),
            in_line: Map::default(),
            failed: Vec::new(),
            asks: Vec::new(),
            burials: Slab::new(),
            bytes,
            positions: Vec::new(),
        }
    }

    #[inline]
    fn find(&self, ticket: Ticket) -> Option<(Reader, u8)> {
        let reading = self.under_way.get(ticket.0 as u32 as usize)?;
        (reading.ticket == ticket).then_some((reading.reader, reading.level))
    }

    fn end(&mut self, ticket: Ticket) {
        if self.find(ticket).is_some() {
            self.under_way.remove(ticket.0 as u32 as usize);
        }
    }

    /// A session has gone which may have asked for messages.
    pub(super) fn forget_asks(&mut self, session: SessionId) {
        self.asks.retain(|(_, asker, _)| *asker != session);
    }

    /// Whether something is to be done at once.
    pub(super) fn has_work(&self) -> bool {
        self.burials.iter().any(|(_, burial)| !burial.waits)
    }
}

/// What the journal brings.
impl Shard {
    /// The next message of those that were to be read ([`Journal::read`](crate::journal::Journal::read)).
    pub fn read_back(&mut self, ticket: Ticket, message: &StoredMessage<'_>) {
        let Some((reader, level)) = self.reads.find(ticket) else { return };
        let ready = match reader {
            Reader::Queue(id) => self.queues.get_mut(id).map(|queue| queue.ready_mut()),
            Reader::Burial(slot) => self.reads.burials.get_mut(slot as usize).map(|burial| &mut burial.ready),
        };
        let next = ready.and_then(|ready| Some((*ready.arriving(ticket, level)?.front()?, ready)));
        let Some((next, ready)) = next else {
            // Purged or deleted meanwhile.
            return self.reads.end(ticket);
        };
        let messages = next.item.messages() as u16;
        let Some(id) = self.store.read_back(message, next.item.message.part, messages, next.at) else {
            return self.read_failed(ticket);
        };
        let is_last = ready.arrive(level, id);
        self.stats.read_back += u64::from(messages);
        if let Reader::Queue(queue) = reader {
            self.note_arrived(queue, &Item { message: id, ..next.item });
        }
        if is_last {
            self.end_read(ticket, reader);
        }
    }

    /// What is missing of those that were to be read cannot be; they are asked for again later.
    pub fn read_failed(&mut self, ticket: Ticket) {
        let Some((reader, level)) = self.reads.find(ticket) else { return };
        match reader {
            Reader::Queue(id) => {
                if let Some(queue) = self.queues.get_mut(id) {
                    queue.ready_mut().give_up_read(ticket, level);
                }
            }
            Reader::Burial(slot) => {
                if let Some(burial) = self.reads.burials.get_mut(slot as usize) {
                    burial.ready.give_up_read(ticket, level);
                }
            }
        }
        self.reads.end(ticket);
        if self.reads.failed.is_empty() {
            self.timers.set(self.clock.monotonic_ns.saturating_add(RETRY_NS), Due::ReadAgain);
        }
        if !self.reads.failed.contains(&reader) {
            self.reads.failed.push(reader);
        }
        self.serve_readers();
    }

    /// A message of a queue here has come.
    fn note_arrived(&mut self, id: QueueId, item: &Item) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if queue.is_resident() {
            return self.note_restored(id, item);
        }
        if !queue.scheduled && queue.has_work() {
            note_push(queue, &mut self.ready, &mut self.timers);
        }
    }

    /// What was to be read has come.
    fn end_read(&mut self, ticket: Ticket, reader: Reader) {
        self.reads.end(ticket);
        self.wake_reader(reader);
        self.serve_readers();
    }

    /// What failed some time ago is tried again.
    pub(super) fn read_again(&mut self) {
        for reader in std::mem::take(&mut self.reads.failed) {
            self.wake_reader(reader);
        }
        self.serve_readers();
    }

    /// Those who waited for messages of a queue go on.
    pub(super) fn wake_reader(&mut self, reader: Reader) {
        let id = match reader {
            Reader::Queue(id) => id,
            Reader::Burial(slot) => {
                if let Some(burial) = self.reads.burials.get_mut(slot as usize) {
                    burial.waits = false;
                }
                return;
            }
        };
        let Some(queue) = self.queues.get_mut(id) else { return };
        queue.look_again();
        set_expiry_timer(queue, &mut self.timers);
        self.moving.iter_mut().filter(|moving| moving.is_of(id)).for_each(|moving| moving.waits = false);
        self.enforce_limits(id);
        for (_, session, ask) in
            self.reads.asks.extract_if(.., |(queue, ..)| *queue == id).collect::<Vec<_>>()
        {
            self.ask_again(session, ask);
        }
        self.read_all(id);
        self.schedule(id);
        self.end_flushes(id);
    }

    /// Gives those in line their turn.
    fn serve_readers(&mut self) {
        while self.reads.under_way.len() < READINGS {
            let Some(want) = self.reads.line.pop_front() else { return };
            self.reads.in_line.remove(&want);
            self.want(want);
        }
    }
}

/// Who wants something.
impl Shard {
    /// Has something read, now or when there are fewer readings. Whoever wants it is woken when it has come.
    pub(super) fn want(&mut self, want: Want) {
        match want.reader {
            Reader::Queue(id) => self.want_of(id, want.level, want.place),
            Reader::Burial(slot) => {
                let Some(burial) = self.reads.burials.get_mut(slot as usize) else { return };
                let (entry, reason) = (burial.queue.clone(), burial.reason);
                let mut ready = std::mem::replace(&mut burial.ready, Ready::new(0));
                self.read(&mut ready, want);
                self.reads.burials[slot as usize] = Burial { queue: entry, ready, reason, waits: true };
            }
        }
    }

    /// The same for a queue at home here.
    pub(super) fn want_of(&mut self, id: QueueId, level: u8, place: Option<u64>) {
        if self.queues.get_mut(id).is_none() {
            return;
        }
        let Some(mut queue) = self.queues.take(id.index) else { return };
        self.read(queue.ready_mut(), Want { reader: Reader::Queue(id), level, place });
        self.queues.put(id.index, queue);
    }

    /// The same for what waits in a queue.
    pub(super) fn read(&mut self, ready: &mut Ready, want: Want) {
        let Some(journal) = &mut self.journal else { return };
        if self.reads.failed.contains(&want.reader) || !ready.can_read(want.level) {
            return;
        }
        if self.reads.under_way.len() >= READINGS {
            if self.reads.in_line.insert(want, ()).is_none() {
                self.reads.line.push_back(want);
            }
            return;
        }
        self.reads.begun = self.reads.begun.wrapping_add(1);
        let slot = self.reads.under_way.vacant_entry();
        let ticket = Ticket(u64::from(self.reads.begun) << 32 | slot.key() as u64);
        if !ready.begin_read(ticket, want.level, want.place, self.reads.bytes) {
            return;
        }
        slot.insert(Reading { ticket, reader: want.reader, level: want.level });
        let positions = &mut self.reads.positions;
        positions.clear();
        positions.extend(ready.arriving(ticket, want.level).into_iter().flatten().map(|paged| paged.at));
        journal.read(ticket, positions);
    }

    /// Has the next messages of a queue read before somebody takes them.
    pub(super) fn read_ahead(&mut self, queue: &mut Queue) {
        if queue.consumers.is_empty() {
            return;
        }
        let reader = Reader::Queue(queue.id());
        if let Some(level) = queue.ready().level_to_read(self.reads.bytes) {
            self.read(queue.ready_mut(), Want { reader, level, place: None });
        }
    }

    /// The same for a queue that nobody serves at the moment.
    pub(super) fn read_ahead_of(&mut self, id: QueueId) {
        if let Some(mut queue) = self.queues.take(id.index) {
            self.read_ahead(&mut queue);
            self.queues.put(id.index, queue);
        }
    }

    /// A queue gives the first message of a level up that is out of memory. If nobody wants it, it is dropped unseen;
    /// otherwise, `false`, it is read first.
    pub(super) fn drop_away(&mut self, id: QueueId, level: u8, reason: Reason) -> bool {
        let Some(queue) = self.queues.get_mut(id) else { return false };
        // Those that expire do so together; otherwise a batch comes apart in memory.
        let is_batch = || queue.ready().head_away(level).is_some_and(|away| away.item.followers > 0);
        if has_somewhere_to_go(queue.options(), reason) || reason != Reason::Expired && is_batch() {
            self.want_of(id, level, None);
            return false;
        }
        let Some(PagedItem { item, at }) = queue.ready_mut().pop_away_of(level) else { return false };
        note_gone(queue, &item, &mut self.thinned);
        self.departures.note(queue, &item);
        self.note_discarded(reason, item.messages());
        self.store.drop_holder(at, item.all_body_bytes() as usize);
        true
    }

    /// Has all of a queue read that has to be in memory.
    pub(super) fn read_all(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id).filter(|queue| queue.is_resident()) else { return };
        if let Some(level) = queue.ready().level_to_read(u64::MAX) {
            self.want_of(id, level, None);
        }
    }

    /// Has somebody who asks for messages wait until the first ones of a queue have been read.
    pub(super) fn await_head(&mut self, session: SessionId, id: QueueId, ask: Ask) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let level = queue.ready().level_of_next();
        self.await_place_of(session, id, ask, level, None);
    }

    /// The same for those from a place on.
    pub(super) fn await_place_of(
        &mut self,
        session: SessionId,
        id: QueueId,
        ask: Ask,
        level: u8,
        place: Option<u64>,
    ) {
        self.reads.asks.push((id, session, ask));
        self.want_of(id, level, place);
    }
}

/// Messages that queues have given up.
impl Shard {
    /// Messages of a queue go where what it gives up for this reason goes, some of them from out of memory.
    pub(super) fn bury_paged(&mut self, queue: Arc<QueueEntry>, ready: Ready, reason: Reason) {
        self.reads.burials.insert(Burial { queue, ready, reason, waits: false });
    }

    /// What is left of a queue that has ended stays as it is until it is woken.
    pub(super) fn insert_burial(&mut self, queue: Arc<QueueEntry>, ready: Ready) -> usize {
        self.reads.burials.insert(Burial { queue, ready, reason: Reason::QueueEnded, waits: true })
    }

    /// What is being read for a queue is not for it any more.
    pub(super) fn give_up_readings(&mut self, id: QueueId, ready: &mut Ready) {
        for (_, reading) in
            self.reads.under_way.iter().filter(|(_, reading)| reading.reader == Reader::Queue(id))
        {
            ready.give_up_read(reading.ticket, reading.level);
        }
    }

    /// What is left of a queue that has ended.
    pub(super) fn burial_of_queue(&self, id: QueueId) -> Option<usize> {
        let is_its = |burial: &Burial| burial.queue.id == id && burial.reason == Reason::QueueEnded;
        self.reads.burials.iter().find(|(_, burial)| is_its(burial)).map(|(slot, _)| slot)
    }

    /// Nobody wants it.
    pub(super) fn take_buried(&mut self, slot: usize) -> Option<Ready> {
        self.reads.burials.try_remove(slot).map(|burial| burial.ready)
    }

    /// Whether messages of a durable queue, given up, are not on their way yet.
    pub(super) fn is_burying(&self, key: StoreKey) -> bool {
        self.reads.burials.iter().any(|(_, burial)| burial.queue.store_key == Some(key))
    }

    /// Goes on with that.
    pub(super) fn go_on_burying(&mut self) -> bool {
        if !self.reads.has_work() {
            return false;
        }
        let going_on = self.reads.burials.iter().filter(|(_, burial)| !burial.waits);
        let slots: Vec<usize> = going_on.map(|(slot, _)| slot).collect();
        for slot in slots {
            self.bury_some_of(slot);
        }
        true
    }

    fn bury_some_of(&mut self, slot: usize) {
        for _ in 0..BURIAL_BUDGET {
            let Some(burial) = self.reads.burials.get_mut(slot).filter(|burial| !burial.waits) else {
                return;
            };
            match burial.ready.next_at(0) {
                Some(Look::Here(item)) => {
                    let Some(item) = burial.ready.remove(item.priority, item.sequence) else { return };
                    let (queue, reason) = (burial.queue.clone(), burial.reason);
                    self.discard(&queue, item, reason);
                }
                Some(Look::Away { level, .. }) => {
                    let reader = Reader::Burial(slot as u32);
                    return self.want(Want { reader, level, place: None });
                }
                None => {
                    self.reads.burials.remove(slot);
                    return;
                }
            }
        }
    }

    /// Who has the message at a place of a durable queue, if that has given it up.
    pub(super) fn burial_of(&self, key: StoreKey, place: u64) -> Option<usize> {
        let has_it =
            |burial: &Burial| burial.queue.store_key == Some(key) && burial.ready.at(place).is_some();
        self.reads.burials.iter().find(|(_, burial)| has_it(burial)).map(|(slot, _)| slot)
    }

    /// The messages that are being given up there.
    pub(super) fn buried(&mut self, burial: usize) -> Option<&mut Ready> {
        self.reads.burials.get_mut(burial).map(|burial| &mut burial.ready)
    }
}
