//! Queues with a policy: what becomes of a message that comes to one, confirms that wait for one, events for management.

use super::deadletter::Reason;
use super::deliver::note_gone;
use super::envelope::Letter;
use super::publish::{Taken, Waits};
use super::sessions::OpenConfirm;
use super::stored::Waiter;
use super::{Published, Shard};
use crate::ids::ClientId;
use crate::mesh::Lane;
use crate::message::Edit;
use crate::message::Message;
use crate::queue::{Admission, Alert, Depth, Queue, QueueCounters};
use crate::{MessageId, Name, QueueId, Refusal, SessionId, Value, VhostId};

/// A confirm that waits for queues at home here.
pub(super) struct Withheld {
    session: SessionId,
    sequence: u64,
    /// Queues that have stopped, and the journal if it has to store the message.
    pub(super) missing: u32,
    pub(super) accepted: bool,
}

/// Something that management wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A queue has passed a threshold.
    Alert {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        queue: Name,
        /// Which way.
        alert: Alert,
        /// How deep it is.
        depth: Depth,
    },
}

impl Shard {
    /// The next thing to tell management. Of more than [`Limits::events`](crate::Limits) the oldest are forgotten.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Names the group of messages that name none; at first it is `qpid.no-group`.
    pub fn set_default_group(&mut self, name: Name) {
        self.default_group = name;
    }

    /// What a queue at home here has done by its policy.
    pub fn queue_counters(&mut self, queue: QueueId) -> Option<QueueCounters> {
        self.queues.get_mut(queue).map(|queue| queue.counters())
    }

    /// Appends a message to a queue that looks at each one. Takes the message over. `is_promised`: the queue has agreed
    /// to take it.
    pub(super) fn enqueue_by_policy(&mut self, id: QueueId, message: MessageId, is_promised: bool) -> Taken {
        let Some(queue) = self.queues.get_mut(id) else { return Taken::Yes };
        if queue.holds_back() {
            return self.hold_back(id, message);
        }
        let is_local = queue.options().no_local && queue.is_of(self.store.get(message).publisher());
        if is_local || !queue.wants(&self.store.view(message)) {
            self.store.release(message);
            return Taken::Yes;
        }
        let content = self.store.get(message);
        let (priority, ttl_ms) = (content.priority(), content.ttl_ms());
        let bytes = counted_bytes(queue, content);
        if let Some(taken) = self.refuse_or_make_room(id, message, bytes, priority, is_promised) {
            return taken;
        }
        let Some(queue) = self.queues.get_mut(id) else { return Taken::Yes };
        let now_ns = self.clock.monotonic_ns;
        let message = match queue.options().sequence_header.clone() {
            Some(header) => {
                let number = queue.next_place() + 1;
                self.numbered(message, header, number)
            }
            None => message,
        };
        let is_persistent = self.store.get(message).is_persistent();
        let is_recorded = is_persistent && self.queues.get_mut(id).is_some_and(|queue| queue.is_recorded());
        let message = if is_recorded { self.recordable(message) } else { message };
        let Some(queue) = self.queues.get_mut(id) else { return Taken::Yes };
        if is_recorded {
            let place = queue.push_recorded(message, 0, bytes, priority, ttl_ms, self.clock);
            self.record_place(message, place);
        } else {
            queue.push(message, 0, bytes, priority, ttl_ms, now_ns);
        }
        let Some(queue) = self.queues.get_mut(id) else { return Taken::Yes };
        if let Some(header) = queue.last_value_header().cloned() {
            self.replace_last_value(id, message, &header, priority);
        } else if let Some(header) = queue.group_header().cloned() {
            self.note_group(id, message, &header);
        }
        let enqueued = self.queues.get_mut(id).map(|queue| queue.note_enqueued(now_ns)).unwrap_or_default();
        if self.queues.get_mut(id).is_some_and(|queue| queue.is_beyond_share()) {
            self.paging.note_beyond(id);
        }
        self.tell_alerts(id, enqueued.alerts);
        self.after_push(id);
        self.enforce_limits(id);
        let is_stopped = enqueued.stopped;
        if is_stopped || is_recorded { Taken::Later(Waits { is_stopped, is_recorded }) } else { Taken::Yes }
    }

    /// Makes room for a message, or does with it what its queue does with one too many: then that is the outcome.
    fn refuse_or_make_room(
        &mut self,
        id: QueueId,
        message: MessageId,
        bytes: usize,
        priority: u8,
        is_promised: bool,
    ) -> Option<Taken> {
        let queue = self.queues.get_mut(id)?;
        if queue.refuses(bytes) || !queue.has_room(bytes) {
            // What consumers can take at once does not count as waiting.
            self.dispatch(id.index, usize::MAX);
        }
        if !is_promised && self.queues.get_mut(id)?.refuses(bytes) {
            self.refuse(id, message);
            return Some(Taken::No);
        }
        loop {
            let Some(queue) = self.queues.get_mut(id) else {
                self.store.release(message);
                return Some(Taken::Yes);
            };
            match queue.admit(bytes as u64, priority) {
                Admission::Take => return None,
                Admission::Displace => {
                    let item = queue.displace()?;
                    note_gone(queue, &item, &mut self.thinned);
                    let entry = queue.entry().clone();
                    self.discard(&entry, item, Reason::Overwritten);
                }
                Admission::Drop => {
                    self.stats.overwritten += 1;
                    self.store.release(message);
                    return Some(Taken::Yes);
                }
                Admission::Refuse if is_promised => return None,
                Admission::Refuse => {
                    self.refuse(id, message);
                    return Some(Taken::No);
                }
                Admission::Destroy => {
                    self.end_queue(id);
                    self.store.release(message);
                    return Some(Taken::Yes);
                }
            }
        }
    }

    /// Keeps room in a queue at home here for a message of a transaction, if the queue will take it. A queue that has
    /// gone takes whatever comes.
    pub(super) fn promise_room(&mut self, id: QueueId, message: MessageId) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get_mut(id) else { return Ok(()) };
        let bytes = counted_bytes(queue, self.store.get(message));
        if queue.refuses_promise(bytes) {
            // What consumers can take at once does not count as waiting.
            self.dispatch(id.index, usize::MAX);
        }
        let Some(queue) = self.queues.get_mut(id) else { return Ok(()) };
        if queue.refuses_promise(bytes) {
            self.stats.refused += 1;
            return Err(Refusal::QueueFull(queue.entry().name.clone()));
        }
        self.admit(&[id], self.store.get(message))?;
        let Some(queue) = self.queues.get_mut(id) else { return Ok(()) };
        queue.keep_room(bytes);
        Ok(())
    }

    /// Keeps room in a queue at home here for a message that it has agreed to take before.
    pub(super) fn keep_room(&mut self, id: QueueId, message: MessageId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let bytes = counted_bytes(queue, self.store.get(message));
        queue.keep_room(bytes);
    }

    /// Gives up the room that a queue keeps for a message, which comes now or never.
    pub(super) fn give_up_room(&mut self, id: QueueId, message: MessageId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let bytes = counted_bytes(queue, self.store.get(message));
        queue.give_up_room(bytes);
    }

    /// A queue that wants nothing from its owner has one here: its home wants to know who that is.
    pub(super) fn tell_owner(&mut self, id: QueueId, client: ClientId) {
        if !self.topology.queue_by_id(id).is_some_and(|entry| entry.options.no_local) {
            return;
        }
        if id.home == self.config.id {
            self.note_owner(id, client);
        } else {
            self.send(id.home, Lane::Data, Letter::Owner { queue: id, client });
        }
    }

    /// Who owns a queue at home here.
    pub(super) fn note_owner(&mut self, id: QueueId, client: ClientId) {
        if let Some(queue) = self.queues.get_mut(id) {
            queue.set_owner(client);
        }
    }

    /// The message with its number in the queue in a header, in place of the message.
    fn numbered(&mut self, message: MessageId, header: Name, number: u64) -> MessageId {
        let content = self.store.get(message);
        let (view, ttl_ms) = (self.store.view(message), content.ttl_ms());
        let number = Value::U32(number as u32);
        let edit = Edit { set_headers: vec![(header, number)], ..Edit::default() };
        let properties = view.encoding.edit(view.properties, &edit);
        let (exchange, key) = (view.exchange.to_vec(), view.routing_key.to_vec());
        let numbered = self.store.derive(message, &exchange, &key, &properties, ttl_ms);
        self.store.release(message);
        numbered
    }

    /// The message that came last to a queue takes the place of the one with the same key.
    fn replace_last_value(&mut self, id: QueueId, message: MessageId, header: &Name, priority: u8) {
        let key = self.text_of(message, header);
        let Some(queue) = self.queues.get_mut(id) else { return };
        if let Some(item) = queue.replace(key, priority) {
            note_gone(queue, &item, &mut self.thinned);
            self.departures.note(queue, &item);
            self.stats.replaced += 1;
            self.store.release(item.message);
        }
    }

    /// Notes the group of the message that came last to a queue.
    fn note_group(&mut self, id: QueueId, message: MessageId, header: &Name) {
        let mut name = self.text_of(message, header);
        if name.is_empty() {
            name = self.default_group.clone();
        }
        if let Some(queue) = self.queues.get_mut(id) {
            queue.note_group(name);
        }
    }

    /// A header as text; empty if there is none.
    pub(super) fn text_of(&self, message: MessageId, header: &Name) -> Name {
        let view = self.store.view(message);
        match view.encoding.header(view.properties, header.as_bytes()) {
            Some(Value::Text(text) | Value::Bytes(text)) => text,
            Some(other) => Name::from(other.to_string()),
            None => Name::default(),
        }
    }

    /// The confirm of the only message that a session has just published waits for the queue that took it, or for the
    /// journal, or for both.
    #[inline(never)]
    pub(super) fn expect_confirm(
        &mut self,
        id: SessionId,
        queue: QueueId,
        confirm: Option<u64>,
        waits: Waits,
    ) -> Published {
        if !waits.is_stopped {
            return self.expect_stored(id, confirm, 1);
        }
        let Some(sequence) = confirm else { return Published::Confirmed };
        let mut slot = None;
        self.withhold(queue, (id, sequence), &mut slot);
        if let (Some(slot), true) = (slot, waits.is_recorded) {
            self.withheld[slot as usize].missing += 1;
            self.await_stored(Waiter::Withheld(slot));
        }
        if let Some(session) = self.session_mut(id) {
            session.confirms.push_back(OpenConfirm { sequence, missing: 1, accepted: true });
        }
        Published::Pending
    }

    /// A confirm waits for a queue, and for others if there is a slot for it already.
    #[cold]
    pub(super) fn withhold(&mut self, id: QueueId, confirm: (SessionId, u64), slot: &mut Option<u32>) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let (session, sequence) = confirm;
        let slot = *slot.get_or_insert_with(|| {
            self.withheld.insert(Withheld { session, sequence, missing: 0, accepted: true }) as u32
        });
        self.withheld[slot as usize].missing += 1;
        queue.withhold(slot);
    }

    /// Looks at the queues that messages have left: publishers may go on, management may want to know.
    pub(super) fn observe_thinned(&mut self) -> bool {
        let thinned = std::mem::take(&mut self.thinned);
        for &id in &thinned {
            let Some(queue) = self.queues.get_mut(id) else { continue };
            let (released, alerts) = queue.observe();
            self.tell_alerts(id, alerts);
            self.confirm_withheld(released);
            self.schedule(id);
            self.end_if_emptied(id);
        }
        !thinned.is_empty()
    }

    /// One queue less to wait for.
    pub(super) fn confirm_withheld(&mut self, released: Vec<u32>) {
        for slot in released {
            let withheld = &mut self.withheld[slot as usize];
            withheld.missing -= 1;
            if withheld.missing > 0 {
                continue;
            }
            let Withheld { session, sequence, accepted, .. } = self.withheld.remove(slot as usize);
            self.confirm_anywhere(session, sequence, accepted);
        }
    }

    fn tell_alerts(&mut self, id: QueueId, alerts: [Option<Alert>; 2]) {
        for alert in alerts.into_iter().flatten() {
            let Some(queue) = self.queues.get_mut(id) else { return };
            let depth = queue.depth();
            let (vhost, name) = (queue.entry().vhost, queue.entry().name.clone());
            self.tell_event(Event::Alert { vhost, queue: name, alert, depth });
        }
    }

    fn tell_event(&mut self, event: Event) {
        if self.events.len() >= self.config.limits.events {
            self.events.pop_front();
            self.stats.events_lost += 1;
        }
        self.events.push_back(event);
    }
}

/// The bytes of a message that count for a queue's limit.
fn counted_bytes(queue: &Queue, message: &Message) -> usize {
    if queue.options().overflow.counts_unsettled() { message.credit_bytes() } else { message.body_bytes() }
}
