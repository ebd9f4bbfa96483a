//! What exchanges of type `x-delayed-message` hold back: it waits in a queue that such an exchange has for this, which has
//! a home, as every queue has, and comes back after a restart as what is in other queues does.
//!
//! When its time has come a message goes the way that its exchange has for it then. It leaves its place by a record that
//! a restart finds together with that of its new places, if those are here too; otherwise as a dead letter does.

use super::deliver::{note_push, set_expiry_timer};
use super::publish::{Selected, Taken, Waits};
use super::{Due, Shard};
use crate::journal::{Joined, Record, StoreKey};
use crate::message::Message;
use crate::queue::{Item, Look};
use crate::topology::QueueEntry;
use crate::{MessageId, QueueId, SessionId, VhostId};

/// Messages of one queue that are let go in one turn.
const BUDGET: usize = 1024;

impl Shard {
    /// Holds a message back in a queue at home here that is for this. Takes it over.
    pub(super) fn hold_back(&mut self, id: QueueId, message: MessageId) -> Taken {
        let content = self.store.get(message);
        let (bytes, delay_ms) = (content.body_bytes(), delay_ms(content).unwrap_or(0));
        let is_persistent = content.is_persistent();
        let is_recorded = self.queues.get_mut(id).is_some_and(|queue| is_persistent && queue.is_recorded());
        let message = if is_recorded { self.recordable(message) } else { message };
        let Some(queue) = self.queues.get_mut(id) else { return Taken::Yes };
        queue.hold_next(delay_ms, self.clock.monotonic_ns);
        if !is_recorded {
            queue.push(message, 0, bytes, 0, Some(delay_ms), self.clock.monotonic_ns);
            note_push(queue, &mut self.ready, &mut self.timers);
            return Taken::Yes;
        }
        let place = queue.push_recorded(message, 0, bytes, 0, Some(delay_ms), self.clock);
        note_push(queue, &mut self.ready, &mut self.timers);
        self.record_place(message, place);
        Taken::Later(Waits { is_stopped: false, is_recorded: true })
    }

    /// Lets messages go whose time has come.
    pub(super) fn release_held(&mut self, id: QueueId) {
        let now_ns = self.clock.monotonic_ns;
        for _ in 0..BUDGET {
            let Some(queue) = self.queues.get_mut(id) else { return };
            let entry = queue.entry().clone();
            match queue.take_due(now_ns) {
                Some(Ok(item)) => self.let_go(&entry, item),
                // Whoever reads it sets the timer.
                Some(Err(Look::Away { level, place })) => return self.want_of(id, level, Some(place)),
                _ => return set_expiry_timer(queue, &mut self.timers),
            }
        }
        let Some(queue) = self.queues.get_mut(id) else { return };
        queue.expiry_timer_ns = now_ns + 1;
        self.timers.set(now_ns + 1, Due::Expiry(id));
    }

    fn let_go(&mut self, hold: &QueueEntry, item: Item) {
        let (vhost, message) = (hold.vhost, item.message);
        let view = self.store.view(message);
        let is_kept = self.topology.keeping(vhost, view.exchange).is_some();
        let targets = if is_kept { Vec::new() } else { self.targets_of_held(vhost, message) };
        let is_here = !is_kept && targets.iter().all(|queue| queue.home == self.config.id);
        if let Some(key) = hold.store_key.filter(|_| item.recorded && is_here) {
            return self.let_go_at_once(key, item, &targets);
        }
        let origin = self.origin_of(hold, &item);
        let handover = self.begin_handover(origin);
        let missing = match is_kept {
            true => self.publish_later(vhost, message, handover),
            false => self.distribute_held(message, &targets, handover),
        };
        self.end_handover(handover, missing);
    }

    /// The message joins its queues, all of them here, and leaves its place: a restart finds both or neither.
    fn let_go_at_once(&mut self, queue: StoreKey, item: Item, targets: &[QueueId]) {
        let before = std::mem::replace(&mut self.joined, Joined::ToNext);
        self.distribute_held(item.message, targets, None);
        self.joined = before;
        self.record(&Record::Dequeued { queue, first: item.sequence, count: 1 });
    }

    fn distribute_held(
        &mut self,
        message: MessageId,
        targets: &[QueueId],
        handover: Option<(SessionId, u64)>,
    ) -> u32 {
        let has_blind_keys = Selected::of(self.store.get(message)).has_blind_keys();
        let message = if has_blind_keys { self.without_blind_keys(message) } else { message };
        self.distribute_internally(message, targets, handover)
    }

    /// The queues that a message goes to that was held back. An exchange that has gone takes nothing.
    fn targets_of_held(&mut self, vhost: VhostId, message: MessageId) -> Vec<QueueId> {
        let selected = Selected::of(self.store.get(message));
        let mut targets = Vec::new();
        match self.route_by_topology(vhost, message, &selected, &mut targets) {
            Ok(_) => targets,
            Err(_) => Vec::new(),
        }
    }

    /// Publishes a message that nobody waits for any more, be it to an exchange that keeps something. Takes it over. How
    /// many will say to whom it was handed over that it has arrived.
    pub(super) fn publish_later(
        &mut self,
        vhost: VhostId,
        message: MessageId,
        handover: Option<(SessionId, u64)>,
    ) -> u32 {
        let exchange = self.store.view(message).exchange.to_vec();
        if let Some(missing) = self.pass_to_keeper(vhost, &exchange, message, false, handover) {
            return missing;
        }
        let targets = self.targets_of_held(vhost, message);
        self.distribute_held(message, &targets, handover)
    }
}

/// How long the publisher wants a message to be held back, in milliseconds.
pub(super) fn delay_ms(content: &Message) -> Option<u64> {
    if !content.has_headers() {
        return None;
    }
    let view = content.view();
    let delay = view.encoding.header(view.properties, b"x-delay")?.as_i64()?;
    u64::try_from(delay).ok().filter(|&ms| ms > 0)
}
