//! How long queues live: those that belong to a connection, and those that go when nobody uses them any more.

use super::envelope::Letter;
use super::{Due, Shard};
use crate::mesh::Lane;
use crate::request::Lifetime;
use crate::topology::Change;
use crate::{QueueId, ShardId};

pub(super) const NS_PER_MS: u64 = 1_000_000;

impl Shard {
    /// The connection that a queue belonged to has gone. The queue goes with it, or becomes anybody's.
    pub(super) fn end_owned_queue(&mut self, queue: QueueId) {
        if queue.home == self.config.id {
            self.owner_gone(queue);
        } else {
            self.send(queue.home, Lane::Data, Letter::OwnerGone(queue));
        }
    }

    pub(super) fn owner_gone(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if !queue.options().outlives_owner {
            self.end_queue(id);
            return;
        }
        queue.disown();
        self.end_if_abandoned(id);
        if self.queues.get_mut(id).is_some() {
            self.release_queue(id);
        }
    }

    /// Whether somebody consumes from a queue that somebody else has just been given.
    pub(super) fn is_used_by_others(&mut self, id: QueueId) -> bool {
        let Some(queue) = self.queues.get_mut(id) else { return false };
        let Some(owner) = queue.entry().owner.filter(|_| queue.options().outlives_owner) else {
            return false;
        };
        queue.consumers.iter().any(|consumer| self.accounts.connection(consumer.account) != owner)
    }

    /// Ends an auto-delete queue that nobody uses, at once or when its delay is over. Whether it is gone everywhere, or
    /// stays.
    pub(super) fn end_if_abandoned(&mut self, id: QueueId) -> bool {
        let now_ns = self.clock.monotonic_ns;
        let Some(queue) = self.queues.get_mut(id).filter(|queue| queue.is_abandoned()) else { return true };
        let delay_ms = queue.options().auto_delete_delay_ms;
        if delay_ms == 0 {
            return self.end_queue(id);
        }
        let deadline_ns = now_ns.saturating_add(delay_ms.saturating_mul(NS_PER_MS));
        queue.auto_delete_ns = Some(deadline_ns);
        self.timers.set(deadline_ns, Due::AutoDelete(id));
        true
    }

    /// Somebody wants a queue to be there: the delay after which it goes starts anew.
    pub(super) fn postpone_auto_delete(&mut self, id: QueueId) {
        if self.queues.get_mut(id).is_some_and(|queue| queue.auto_delete_ns.is_some()) {
            self.end_if_abandoned(id);
        }
    }

    /// The delay of an auto-delete queue is over, unless it was used meanwhile.
    pub(super) fn auto_delete_at(&mut self, id: QueueId, deadline_ns: u64) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if queue.auto_delete_ns != Some(deadline_ns) {
            return;
        }
        queue.auto_delete_ns = None;
        if queue.is_abandoned() {
            self.stats.queues_expired += 1;
            self.end_queue(id);
        }
    }

    /// Messages have left a queue, which may have waited for that with its end.
    pub(super) fn end_if_emptied(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if queue.options().lifetime == Lifetime::UnusedAndEmpty && queue.auto_delete_ns.is_none() {
            self.end_if_abandoned(id);
        }
    }

    /// A queue at home here belongs to nobody any more; that goes everywhere.
    fn release_queue(&mut self, queue: QueueId) {
        if self.config.id == ShardId::CONTROL {
            self.plan_release(queue);
        } else {
            self.send(ShardId::CONTROL, Lane::Control, Letter::QueueReleased(queue));
        }
    }

    /// Control shard: a queue belongs to nobody any more.
    pub(super) fn plan_release(&mut self, queue: QueueId) {
        if self.topology.queue_by_id(queue).is_some_and(|entry| entry.owner.is_some()) {
            self.commit(vec![Change::QueueOwned(queue, None)]);
        }
    }
}
