//! Queues longer than memory: which of them put messages out of it, and what a restart leaves there.
//!
//! Once messages take more than [`Limits::paging_bytes`](crate::Limits), those queues that have most in memory put
//! theirs out of it, the last ones first, until messages take an eighth less. So does a queue that flows to disk with
//! what is beyond its limit. A message that is written down leaves when that is stored; its record is where it can be
//! read. Another one is written to the page file, as long as that takes it; otherwise it stays.
//!
//! A queue that has to know all its messages keeps them in memory: see [`Queue::is_resident`](crate::queue::Queue).

use super::deliver::{note_gone, set_expiry_timer};
use super::{Due, Shard};
use crate::Name;
use crate::QueueId;
use crate::journal::{Journal, Position, StoreKey, StoredPlace};
use crate::message::MessageStore;
use crate::queue::{Depth, Item, Kept, PagedItem, Ready};

/// Most that is read at once for a queue, about, in bytes.
const MOST_READ_BYTES: u64 = 2 << 20;
const LEAST_READ_BYTES: u64 = 16 << 10;

/// Messages that leave memory in a turn, besides two for each that came since the last one.
const BUDGET: usize = 1024;

/// Queues chosen at a time.
const CHOSEN: usize = 16;

/// How many messages that come are as good a reason to look through queues as something that was stored.
const STORE_WORTH: usize = 64;

/// How long to wait before queues are looked through again, in nanoseconds; doubled while that is of no use.
const LEAST_PAUSE_NS: u64 = 1_000_000;
const MOST_PAUSE_NS: u64 = 16_000_000;

/// What is known of paging.
pub(super) struct Paging {
    /// Queues that put messages out of memory, the one with most last.
    chosen: Vec<QueueId>,
    /// What each queue may keep, in bytes.
    kept_bytes: u64,
    /// Queues with more in memory than they should have.
    beyond: Vec<QueueId>,
    /// Before then queues are not looked through, unless much has come or been stored; how long that is, and what had left
    /// when they last were.
    next_look_ns: u64,
    pause_ns: u64,
    left_before: u64,
    /// Messages that have come since then, and as many as one store is worth for each.
    stirred: usize,
    /// What was stored then.
    stored: Position,
    /// There was more to do than one turn does.
    pub(super) has_more: bool,
    /// Messages that came since the last turn.
    pub(super) came: usize,
    /// The last message that a restart has found, if any; `None` once all are there.
    restoring: Option<Option<Restoring>>,
}

/// A message that a restart has found, with others of its batch that follow it.
struct Restoring {
    queue: QueueId,
    paged: PagedItem,
    /// Others may hold its record.
    is_shared: bool,
}

impl Paging {
    pub(super) fn new(paging_bytes: u64) -> Self {
        Paging {
            chosen: Vec::new(),
            kept_bytes: read_bytes(paging_bytes, 1),
            beyond: Vec::new(),
            next_look_ns: 0,
            pause_ns: LEAST_PAUSE_NS,
            left_before: 0,
            stirred: 0,
            stored: Position::NONE,
            has_more: false,
            came: 0,
            restoring: Some(None),
        }
    }

    /// A queue has more in memory than it should have.
    pub(super) fn note_beyond(&mut self, queue: QueueId) {
        if self.beyond.last() != Some(&queue) && !self.beyond.contains(&queue) {
            self.beyond.push(queue);
        }
    }
}

/// How much is read at once if so many queues have messages out of memory.
pub(super) fn read_bytes(paging_bytes: u64, queues: u64) -> u64 {
    let share = paging_bytes / 4 / queues.max(1);
    share.clamp(LEAST_READ_BYTES, MOST_READ_BYTES).min(paging_bytes / 16).max(1)
}

impl Shard {
    /// Puts messages out of memory if they take too much of it. Whether any have left.
    #[inline]
    pub(super) fn page_out(&mut self) -> bool {
        let is_short = self.store.memory_bytes() > self.config.limits.paging_bytes || self.paging.has_more;
        (is_short || !self.paging.beyond.is_empty()) && self.journal.is_some() && self.page_some_out()
    }

    #[cold]
    fn page_some_out(&mut self) -> bool {
        let most_bytes = self.config.limits.paging_bytes;
        let target = most_bytes - most_bytes / 8;
        let came = std::mem::take(&mut self.paging.came);
        let mut budget = BUDGET + 2 * came;
        let before = budget;
        if self.stored != self.paging.stored {
            self.paging.stored = self.stored;
            self.paging.stirred += STORE_WORTH;
        }
        self.paging.stirred += came;
        self.paging.has_more = false;
        for id in std::mem::take(&mut self.paging.beyond) {
            self.page_beyond(id, &mut budget);
        }
        if self.store.memory_bytes() > most_bytes && self.paging.chosen.is_empty() {
            self.choose();
        }
        while self.store.memory_bytes() > target
            && budget > 0
            && let Some(&id) = self.paging.chosen.last()
        {
            let kept = Kept { messages: u64::MAX, bytes: self.paging.kept_bytes };
            self.page_queue_out(id, kept, target, &mut budget);
            if budget > 0 {
                self.paging.chosen.pop();
            }
        }
        if self.store.memory_bytes() <= target {
            self.paging.chosen.clear();
        }
        self.paging.has_more |= budget == 0;
        budget < before
    }

    /// Puts out of memory what a queue has too much there.
    fn page_beyond(&mut self, id: QueueId, budget: &mut usize) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let Depth { messages, bytes } = queue.share();
        self.page_queue_out(id, Kept { messages, bytes }, 0, budget);
        if self.queues.get_mut(id).is_some_and(|queue| queue.is_beyond_share() && queue.may_page_out()) {
            self.paging.beyond.push(id);
        }
    }

    fn page_queue_out(&mut self, id: QueueId, kept: Kept, target: u64, budget: &mut usize) {
        let Some(queue) = self.queues.get_mut(id).filter(|queue| !queue.is_resident()) else { return };
        let (Some(journal), store, stored) = (&mut self.journal, &mut self.store, self.stored) else {
            return;
        };
        let left = queue.ready_mut().page_out(kept, |item| {
            if *budget == 0 || store.memory_bytes() <= target {
                return None;
            }
            let at = page(store, journal.as_mut(), stored, item)?;
            *budget -= 1;
            Some(at)
        });
        self.stats.paged_out += left as u64;
    }

    /// Looks for the queues that have most in memory.
    fn choose(&mut self) {
        let now_ns = self.clock.monotonic_ns;
        if now_ns < self.paging.next_look_ns && self.paging.stirred <= self.queues.len() / 4 {
            return;
        }
        self.paging.stirred = 0;
        let (mut queues, mut paged) = (0, 0);
        let mut found: Vec<(u64, QueueId)> = Vec::new();
        for queue in self.queues.iter() {
            paged += u64::from(queue.is_paged());
            let bytes = queue.ready().memory_bytes();
            queues += u64::from(bytes > 0);
            if bytes > 0 && !queue.is_resident() {
                found.push((bytes, queue.id()));
            }
        }
        let most_bytes = self.config.limits.paging_bytes;
        self.reads.bytes = read_bytes(most_bytes, paged);
        self.paging.kept_bytes = (most_bytes / 2 / queues.max(1)).min(2 * self.reads.bytes);
        let from = found.len().saturating_sub(CHOSEN);
        if from > 0 {
            found.select_nth_unstable(from);
        }
        let mut chosen = found.split_off(from);
        chosen.sort_unstable();
        self.paging.chosen = chosen.into_iter().map(|(_, id)| id).collect();
        let was_of_use = self.stats.paged_out > self.paging.left_before;
        self.paging.left_before = self.stats.paged_out;
        self.paging.pause_ns =
            if was_of_use { LEAST_PAUSE_NS } else { (2 * self.paging.pause_ns).min(MOST_PAUSE_NS) };
        if self.paging.next_look_ns <= now_ns {
            // Otherwise the timer is set.
            self.timers.set(now_ns + self.paging.pause_ns, Due::PageOut);
            self.paging.next_look_ns = now_ns + self.paging.pause_ns;
        }
    }
}

/// The place where a message can be read that leaves memory now; `None`: it has to stay.
fn page(
    store: &mut MessageStore,
    journal: &mut dyn Journal,
    stored: Position,
    item: &Item,
) -> Option<Position> {
    let (message, messages) = (item.message, item.messages() as u32);
    let position = store.position(message);
    if item.recorded && position.is_some() && !position.is_page() {
        if position >= stored {
            return None;
        }
    } else if !position.is_page() {
        if !journal.can_page_out() {
            return None;
        }
        let at = journal.page_out(&store.get(message).to_store());
        if position.is_some() {
            // The record is another queue's.
            store.release_many(message, messages);
            return Some(at);
        }
        store.set_position(message, at);
    }
    let at = store.position(message);
    store.page_out(message, messages);
    Some(at)
}

/// After a restart.
impl Shard {
    /// After a restart: a message stands in a durable queue at home here. After the topology and
    /// [`Shard::restore_handed_out`], queue by queue in order of place; later only what a transaction had. `false`: no such
    /// queue is at home here.
    pub fn restore_place(&mut self, found: &StoredPlace) -> bool {
        if self.set_aside(found) {
            if found.is_shared {
                self.store.add_holder(found.at);
            }
            return true;
        }
        let Some(id) = self.topology.queue_by_key(found.place.queue) else { return self.restore_left(found) };
        let Some(queue) = self.queues.get_mut(id) else { return false };
        let item = queue.restored(&found.place, found.part, self.clock);
        queue.note_held(item.expires_ns, item.sequence);
        let paged = PagedItem::new(item, found.at);
        if let Some(restoring) = &mut self.paging.restoring {
            let follows = |last: &mut Restoring| last.queue == id && last.paged.grows_by(&paged);
            if !restoring.as_mut().is_some_and(follows) {
                let before = restoring.replace(Restoring { queue: id, paged, is_shared: found.is_shared });
                self.put_restored(before);
            }
            return true;
        }
        // What was set aside comes late, and its record has been counted.
        self.put_restored(Some(Restoring { queue: id, paged, is_shared: false }));
        if let Some(queue) = self.queues.get_mut(id) {
            queue.consumers.look_back(item.priority, item.sequence);
            set_expiry_timer(queue, &mut self.timers);
        }
        self.read_all(id);
        self.schedule(id);
        true
    }

    /// After a restart: everything is restored. Before anybody is served.
    pub fn end_restore(&mut self) {
        let last = self.paging.restoring.take().flatten();
        self.put_restored(last);
        self.end_restore_of_transactions();
        self.end_restore_of_left();
        let ids: Vec<QueueId> = self.queues.iter().map(|queue| queue.id()).collect();
        let paged = self.queues.iter().filter(|queue| queue.is_paged()).count();
        self.reads.bytes = read_bytes(self.config.limits.paging_bytes, paged as u64);
        for id in ids {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            queue.end_restore();
            set_expiry_timer(queue, &mut self.timers);
            self.read_all(id);
            self.schedule(id);
        }
    }

    fn put_restored(&mut self, restoring: Option<Restoring>) {
        let Some(Restoring { queue, paged, is_shared }) = restoring else { return };
        if is_shared {
            self.store.add_holder(paged.at);
        }
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.ready_mut().put_away(paged);
        }
    }

    /// A message of a queue that has to know all of them has been read: which key or group it is of.
    pub(super) fn note_restored(&mut self, id: QueueId, item: &Item) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let group = queue.group_header().cloned();
        let Some(header) = group.clone().or_else(|| queue.last_value_header().cloned()) else { return };
        let mut text: Name = self.text_of(item.message, &header);
        if group.is_some() && text.is_empty() {
            text = self.default_group.clone();
        }
        let Some(queue) = self.queues.get_mut(id) else { return };
        if let Some(item) = queue.note_restored(item, text) {
            note_gone(queue, &item, &mut self.thinned);
            self.departures.note(queue, &item);
            self.stats.replaced += 1;
            self.store.release(item.message);
        }
    }
}

/// What the journal asks of messages that are out of memory, or that a restart has set aside for a transaction.
impl Shard {
    /// Where the record is that a restart has to find of the message at a place of a queue, which is out of memory.
    pub(super) fn position_paged(&mut self, key: StoreKey, place: u64) -> Option<Position> {
        if let Some(found) = self.parts.aside_at(key, place) {
            return Some(found.at);
        }
        let ready = self.ready_with(key, place);
        ready.filter(|ready| ready.is_paged())?.away_at(place)
    }

    /// The record of a message that is out of memory is elsewhere now. Whether there is such a message.
    pub(super) fn relocate_paged(&mut self, key: StoreKey, place: u64, old: Position, new: Position) -> bool {
        if let Some(found) = self.parts.aside_at(key, place) {
            if found.at == old {
                found.at = new;
                self.store.move_holder(old, new);
            }
            return true;
        }
        let ready = self.ready_with(key, place);
        let Some(is_moved) = ready.and_then(|ready| ready.relocate(place, old, new)) else { return false };
        if is_moved {
            self.store.move_holder(old, new);
        }
        true
    }

    /// Where the message at a place of a queue waits, if it does.
    fn ready_with(&mut self, key: StoreKey, place: u64) -> Option<&mut Ready> {
        if let Some(slot) = self.burial_of(key, place) {
            return self.buried(slot);
        }
        let id = self.topology.queue_by_key(key)?;
        self.queues.get_mut(id).map(|queue| queue.ready_mut())
    }
}
