//! A worker and the log of its shard: what the shard appends is handed to the transport once a turn, and what became of
//! it goes back to the shard.
//!
//! Neither the shard nor the transport is called while the log is borrowed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use fulmar_core::Shard;
use fulmar_core::journal::{Position, Reason, StoreKey};
use fulmar_core::topology::StoredChange;
use fulmar_journal::{Files, Footprint, Holder, Log, Metrics, Told, clean};
use fulmar_transport::Transport;
use fulmar_transport::file::{FileDone, FileOperation};

use super::Worker;

/// How often the log says that the journal is full.
const SAY_FULL_NS: u64 = 60_000_000_000;
/// How often what is shown of a log is renewed.
const SHOW_NS: u64 = 1_000_000_000;

/// A log in the hands of its worker.
pub(super) struct Store {
    log: Rc<RefCell<Log>>,
    outlook: Arc<Outlook>,
    /// What was last told to the log of the file system.
    free_bytes: u64,
    /// Why nothing is admitted, as publishers were told.
    refusal: Option<Reason>,
    shown_ns: u64,
    said_full_ns: Option<u64>,
}

/// What a worker and the threads around it tell each other of a log.
#[derive(Debug)]
pub struct Outlook {
    /// Free bytes of the file system; [`Outlook::UNKNOWN`] if nobody has looked.
    pub free_bytes: AtomicU64,
    shown: Mutex<Option<Shown>>,
}

/// A log at one moment.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What it has done.
    pub metrics: Metrics,
    /// What its files are.
    pub footprint: Footprint,
}

impl Outlook {
    /// No number of bytes.
    pub const UNKNOWN: u64 = u64::MAX;

    /// The log as it was not long ago; `None` before the first look.
    pub fn shown(&self) -> Option<Shown> {
        self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Default for Outlook {
    fn default() -> Self {
        Outlook { free_bytes: AtomicU64::new(Self::UNKNOWN), shown: Mutex::new(None) }
    }
}

impl Store {
    pub fn new(log: Rc<RefCell<Log>>, outlook: Arc<Outlook>) -> Self {
        Store { log, outlook, free_bytes: Outlook::UNKNOWN, refusal: None, shown_ns: 0, said_full_ns: None }
    }

    /// Whether more is appended than should wait to be stored.
    pub fn is_congested(&self) -> bool {
        self.log.borrow().is_congested()
    }

    /// Has everything stored at once. Whether nothing waits to be, or nothing will be.
    pub fn settle(&self) -> bool {
        let mut log = self.log.borrow_mut();
        log.await_end();
        !log.has_told() && (log.is_idle() || log.failure().is_some())
    }

    /// Why publishers should wait.
    pub fn refusal(&self) -> Option<&Reason> {
        self.refusal.as_ref()
    }

    /// Whether records are on their way to the disk.
    pub fn is_flushing(&self) -> bool {
        self.log.borrow().is_flushing()
    }

    pub fn has_told(&self) -> bool {
        self.log.borrow().has_told()
    }

    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.log.borrow().next_deadline_ns()
    }

    fn look_at_free_bytes(&mut self) {
        let free_bytes = self.outlook.free_bytes.load(Ordering::Relaxed);
        if free_bytes != self.free_bytes {
            self.free_bytes = free_bytes;
            self.log.borrow_mut().set_disk_free_bytes(free_bytes);
        }
    }

    /// Shows others how the log is.
    pub fn show(&mut self, now_ns: u64) {
        self.shown_ns = now_ns;
        let log = self.log.borrow();
        let shown = Shown { metrics: log.metrics().clone(), footprint: log.footprint() };
        // Whoever looks at it just now sees the one before.
        if let Ok(mut place) = self.outlook.shown.try_lock() {
            *place = Some(shown);
        }
    }
}

struct TransportFiles<'a, T>(&'a mut T);

impl<T: Transport> Files for TransportFiles<'_, T> {
    fn start(&mut self, token: u64, operation: FileOperation) {
        self.0.file(token, operation);
    }
}

struct ShardHolds<'a>(&'a mut Shard);

impl Holder for ShardHolds<'_> {
    fn holds(&mut self, queue: StoreKey, place: u64, at: Position) -> bool {
        self.0.holds(queue, place, at)
    }

    fn relocated(&mut self, queue: StoreKey, place: u64, old: Position, new: Position) {
        let _ = self.0.relocated(queue, place, old, new);
    }

    fn topology(&self) -> Vec<StoredChange> {
        self.0.topology_changes()
    }
}

impl<T: Transport> Worker<T> {
    /// Gives the worker the log that its shard appends to.
    pub fn set_log(&mut self, log: Rc<RefCell<Log>>, outlook: Arc<Outlook>) {
        self.store = Some(Store::new(log, outlook));
    }

    /// An operation on a file has ended.
    pub(super) fn file_done(&mut self, done: FileDone) {
        if let Some(store) = &self.store {
            store.log.borrow_mut().completed(done, self.now_ns);
        }
    }

    /// Tells the shard what has become of what it wrote down or asked for. Whether there was something.
    pub(super) fn hear_log(&mut self) -> bool {
        let Some(store) = &self.store else { return false };
        let log = Rc::clone(&store.log);
        let mut heard = false;
        loop {
            let told = log.borrow_mut().take_told();
            let Some(told) = told else { return heard };
            heard = true;
            match told {
                Told::Stored(position) => self.shard.stored(position),
                Told::Failed(reason) => {
                    log::error!("{reason}; nothing is stored any more, and publishers are told so");
                    self.counters.journal_failures.add(1);
                    self.shard.journal_failed(reason);
                }
                Told::Read(back) => {
                    for message in back.messages() {
                        self.shard.read_back(back.ticket, &message);
                    }
                    if let Some(reason) = &back.failed {
                        log::error!("{reason}");
                        self.shard.read_failed(back.ticket);
                    }
                    log.borrow_mut().recycle(back);
                }
                Told::Notice(text) => log::warn!("{text}"),
            }
        }
    }

    /// Hands in what the shard has appended in this turn, and what the log does beside that.
    pub(super) fn drive_log(&mut self) {
        let Some(store) = &mut self.store else { return };
        store.look_at_free_bytes();
        clean(&store.log, &mut ShardHolds(&mut self.shard));
        store.log.borrow_mut().submit(&mut TransportFiles(&mut self.transport), self.now_ns);
        if self.now_ns.saturating_sub(store.shown_ns) >= SHOW_NS {
            store.show(self.now_ns);
        }
        self.watch_space();
    }

    /// Tells publishers when nothing is admitted any more for want of space, and when something is again.
    fn watch_space(&mut self) {
        let Some(store) = &mut self.store else { return };
        let log = store.log.borrow();
        let refusal = match log.failure() {
            // That does not pass, and whoever publishes is refused one by one.
            Some(_) => None,
            None => log.admit(0).err(),
        };
        drop(log);
        if refusal.is_some() == store.refusal.is_some() {
            return;
        }
        match &refusal {
            Some(reason) => {
                self.counters.journal_full.add(1);
                // At the brink it may come and go many times a second.
                if store.said_full_ns.is_none_or(|said_ns| self.now_ns >= said_ns + SAY_FULL_NS) {
                    store.said_full_ns = Some(self.now_ns);
                    log::warn!("{reason}");
                }
            }
            None => log::debug!("the journal has space again"),
        }
        store.refusal = refusal;
        for index in 0..self.slots.len() {
            self.tell_of_space(index);
        }
    }

    /// Tells a publisher what it has not been told yet of the journal's space.
    pub(super) fn tell_of_space(&mut self, index: usize) {
        let refusal = self.store.as_ref().and_then(Store::refusal).cloned();
        let is_publisher = self.slots[index].is_publisher();
        let slot = &mut self.slots[index];
        let tell = refusal.filter(|_| is_publisher);
        if tell.is_some() == slot.refused {
            return;
        }
        slot.refused = tell.is_some();
        if slot.blocked {
            // It has been told that it has to wait, and will be told when it need not.
            return;
        }
        let text = tell.as_deref().map(shortened);
        self.with_connection(index, |connection, cx| connection.set_blocked(cx, text));
    }
}

/// What the shortest kind of text that a protocol has can carry.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
