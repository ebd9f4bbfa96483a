//! How queues end, and what becomes of what is in them: it is thrown away, or goes by an alternate exchange.
//!
//! 1. A queue that outlives the process keeps its messages until it is stored that it has ended: a restart finds all of
//!    it or nothing.
//! 2. What goes by the alternate exchange of such a queue is on its way under the queue's key. A restart takes up what
//!    has not arrived, until it is written down that all has.

use std::sync::Arc;

use super::Shard;
use super::deadletter::Reason;
use super::envelope::{Bereft, Letter};
use super::home::Trash;
use super::reading::Reader;
use super::stored::Waiter;
use crate::journal::{StoreKey, StoredPlace};
use crate::mesh::Lane;
use crate::queue::{Item, Leaving, PagedItem, Ready};
use crate::topology::{Change, QueueEntry};
use crate::{QueueId, ShardId};

/// A queue that was at home here, whose messages go by its alternate exchange.
pub(super) struct Left {
    key: StoreKey,
    /// When everything that was handed over before this number has arrived, what the queue left has too. `None`: some of
    /// it may not be on its way.
    behind: Option<u64>,
}

impl Shard {
    /// Ends a queue: its messages and consumers go at once, its name when every shard has been told. Whether that
    /// is done already.
    pub(super) fn end_queue(&mut self, id: QueueId) -> bool {
        let Some(consumers) = self.bury_queue(id) else { return true };
        let is_forgotten = self.queue_ended(id);
        if is_forgotten {
            self.tell_cancelled(id, consumers);
        } else {
            self.cancelled.push((id, consumers));
        }
        is_forgotten
    }

    /// Ends what the home has of a queue, and returns its consumers. `None`: it was gone.
    pub(super) fn bury_queue(&mut self, id: QueueId) -> Option<Vec<Bereft>> {
        let mut queue = self.queues.remove(id)?;
        self.answer_flushed(queue.consumers.take_flushed(true));
        for consumer in queue.consumers.iter() {
            self.accounts.leave(consumer.account);
        }
        self.confirm_withheld(queue.take_withheld());
        let (mut ready, unsettled) = (queue.take_ready(), queue.take_unsettled().into_items());
        let entry = queue.entry().clone();
        if queue.is_recorded() {
            unsettled.for_each(|item| ready.put_back(item));
            if !ready.is_empty() {
                self.keep_buried(entry, ready);
            }
        } else if queue.options().alternate.is_none() {
            self.throw_away(Trash::new(ready.into_leaving()));
            self.throw_away(Trash::new(unsettled.map(Leaving::Here)));
        } else if ready.is_paged() {
            unsettled.for_each(|item| ready.put_back(item));
            self.bury_paged(entry, ready, Reason::QueueEnded);
        } else {
            let mut items: Vec<Item> =
                ready.into_leaving().filter_map(Leaving::here).chain(unsettled).collect();
            items.sort_unstable();
            self.throw_away(Trash::of_ended(items, entry));
            self.bury_dead();
        }
        Some(queue.consumers.iter().map(Bereft::of).collect())
    }

    /// The end of a queue that was at home here is being applied: what is left of it goes when that is stored.
    pub(super) fn end_when_stored(&mut self, id: QueueId) {
        // What others leave goes by itself.
        let entry = self.topology.queue_by_id(id).filter(|entry| entry.store_key.is_some());
        let Some(has_alternate) = entry.map(|entry| entry.options.alternate.is_some()) else { return };
        if !has_alternate && self.burial_of_queue(id).is_none() {
            return;
        }
        if self.journal.is_none() {
            self.begin_ending(id);
        } else if self.lost.is_none() {
            self.await_stored(Waiter::Ending(id));
        }
    }

    /// A restart will not bring a queue back that has ended here: what is left of it goes.
    pub(super) fn begin_ending(&mut self, id: QueueId) {
        let with_alternate = self.topology.queue_by_id(id).filter(|entry| entry.options.alternate.is_some());
        let left = with_alternate.or_else(|| self.topology.all_leaving().find(|entry| entry.id == id));
        let key = left.and_then(|entry| entry.store_key);
        self.left.extend(key.map(|key| Left { key, behind: None }));
        match (self.burial_of_queue(id), key) {
            (Some(slot), Some(_)) => {
                self.wake_reader(Reader::Burial(slot as u32));
                self.go_on_burying();
                self.bury_dead();
            }
            (Some(slot), None) => {
                if let Some(ready) = self.take_buried(slot) {
                    self.throw_away(Trash::new(ready.into_leaving()));
                }
            }
            (None, _) => {}
        }
    }

    /// Says which of the queues that have ended here have left nothing on its way. Whether there are any.
    pub(super) fn tell_left(&mut self) -> bool {
        // What arrives in queues here is not written down any more once the journal has failed.
        if self.left.is_empty() || self.failure.is_some() {
            return false;
        }
        let (left, all) = (std::mem::take(&mut self.left), self.left.len());
        for mut left in left {
            if left.behind.is_none() && self.is_all_on_its_way(left.key) {
                left.behind = Some(self.handovers.next());
            }
            match left.behind.is_some_and(|behind| self.handovers.have_arrived(behind)) {
                false => self.left.push(left),
                true if self.config.id == ShardId::CONTROL => self.plan_left(left.key),
                true => self.send(ShardId::CONTROL, Lane::Control, Letter::QueueLeft(left.key)),
            }
        }
        self.left.len() < all
    }

    /// Control shard: what a queue left has arrived.
    pub(super) fn plan_left(&mut self, key: StoreKey) {
        if self.topology.leaving(key).is_some() {
            self.commit(vec![Change::QueueLeft(key)]);
        }
    }

    /// Whether nothing that a queue left waits to be handed over.
    fn is_all_on_its_way(&self, key: StoreKey) -> bool {
        self.dead.is_empty() && !self.is_burying(key) && !self.parts.has_aside_of(key)
    }

    /// After a restart: a message was on its way from a queue that had ended here. `false`: from none.
    pub(super) fn restore_left(&mut self, found: &StoredPlace) -> bool {
        let Some(entry) = self.topology.leaving(found.place.queue) else { return false };
        if entry.id.home != self.config.id {
            return false;
        }
        let entry = entry.clone();
        if found.is_shared {
            self.store.add_holder(found.at);
        }
        let highest = entry.options.max_priority.unwrap_or(0);
        let item = Item::restored(&found.place, found.part, highest, self.clock);
        let slot = match self.burial_of_queue(entry.id) {
            Some(slot) => slot,
            None => self.keep_buried(entry, Ready::new(highest)),
        };
        if let Some(ready) = self.buried(slot) {
            ready.put_away(PagedItem::new(item, found.at));
        }
        true
    }

    /// After a restart: everything is there.
    pub(super) fn end_restore_of_left(&mut self) {
        let own = self.config.id;
        let left = self.topology.all_leaving().filter(|entry| entry.id.home == own);
        let left: Vec<QueueId> = left.map(|entry| entry.id).collect();
        left.into_iter().for_each(|id| self.begin_ending(id));
    }

    /// What is left of a queue that has ended stays until somebody says that it goes.
    fn keep_buried(&mut self, entry: Arc<QueueEntry>, mut ready: Ready) -> usize {
        self.give_up_readings(entry.id, &mut ready);
        self.insert_burial(entry, ready)
    }
}
