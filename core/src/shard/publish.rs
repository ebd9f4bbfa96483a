//! From a session to queues: routing, and handing a message to every queue that it is for.

use super::deliver::note_push;
use super::envelope::{Letter, Targets};
use super::handover::is_handover;
use super::holding::delay_ms;
use super::route::{LastRoute, Route};
use super::sessions::OpenConfirm;
use super::stored::Waiter;
use super::{Published, Shard};
use crate::mesh::Lane;
use crate::message::{Edit, Message, MessageHead, MessageHeader, MessageView};
use crate::topology::Keeping;
use crate::{MessageId, Name, QueueId, Refusal, SessionId, ShardId, Value, VhostId};

/// The outcome of routing.
pub(super) enum Routed {
    /// The message, or the one that took its place because a header had to go.
    Onward(MessageId),
    /// To the home of its exchange, which keeps something.
    Kept(MessageId, Keeping),
}

impl Shard {
    /// Starts a message. Its body follows by [`Shard::append_body`]. The caller owns the message until it publishes or
    /// releases it.
    pub fn begin_message(&mut self, header: &MessageHeader<'_>) -> MessageId {
        self.store.begin(header)
    }

    /// A message with what is there of its body; otherwise as [`Shard::begin_message`].
    pub fn begin_message_with(&mut self, header: &MessageHeader<'_>, body: &[u8]) -> MessageId {
        self.store.begin_with(header, body)
    }

    /// A message with all of its body. The caller owns it until it publishes or releases it.
    #[inline]
    pub fn whole_message(&mut self, head: &MessageHead, body: &[u8]) -> MessageId {
        self.store.whole(head, body)
    }

    /// Adds to the body of a message that is not complete. Memory is taken as the bytes arrive.
    pub fn append_body(&mut self, message: MessageId, bytes: &[u8]) {
        self.store.append(message, bytes);
    }

    /// A look at a message that the caller holds.
    #[inline]
    pub fn message(&self, message: MessageId) -> MessageView<'_> {
        self.store.view(message)
    }

    /// The bodies of what follows in the batch of a delivered message; all else is as in that one.
    #[inline]
    pub fn bodies_after(&self, message: MessageId, followers: u16) -> impl Iterator<Item = &[u8]> {
        self.store.bodies_after(message, followers)
    }

    /// Gives a message back.
    pub fn release(&mut self, message: MessageId) {
        self.store.release(message);
    }

    /// Gives a delivered message back, and those that followed it.
    #[inline]
    pub fn release_all(&mut self, message: MessageId, followers: u16) {
        self.store.release_many(message, u32::from(followers) + 1);
    }

    /// Routes a complete message and hands it to its queues. Takes the message over, except as
    /// [`Published::Unroutable`] says. `confirm`: a number that comes back in [`Output::Confirmed`](super::Output) if
    /// the answer is [`Published::Pending`]; higher than all that the session used before.
    ///
    /// # Errors
    /// [`Refusal::NoExchange`], [`Refusal::Internal`], [`Refusal::Denied`] and [`Refusal::NotStored`]; the message is
    /// released.
    #[inline]
    pub fn publish(
        &mut self,
        session_id: SessionId,
        vhost: VhostId,
        message: MessageId,
        mandatory: bool,
        confirm: Option<u64>,
    ) -> Result<Published, Refusal> {
        self.stats.published += 1;
        self.note_publisher(session_id, message);
        let content = self.store.get(message);
        let usual = self.usual_route(session_id, vhost, content.has_headers(), content.address());
        if let Some(queue) = usual.and_then(Route::only_local) {
            if content.is_persistent() {
                self.admit_or_release(&[queue], message)?;
            }
            let taken = self.enqueue(queue, message);
            self.bury_dead();
            return Ok(match taken {
                Taken::Yes => Published::Confirmed,
                Taken::No => Published::Rejected,
                Taken::Later(waits) => self.expect_confirm(session_id, queue, confirm, waits),
            });
        }
        self.publish_anywhere(session_id, vhost, message, mandatory, confirm)
    }

    /// A message remembers who published it, as long as the broker runs.
    #[inline]
    pub(super) fn note_publisher(&mut self, session: SessionId, message: MessageId) {
        if let Some(session) = self.sessions.get(session.index, session.generation) {
            self.store.set_publisher(message, session.client);
        }
    }

    /// Publishes messages that differ in their bodies alone, at most [`batch_limit`](crate::message::batch_limit) of
    /// them, if they all go where the session's last message went, and that is one queue, which takes whatever comes if
    /// it is at home here. `confirm` is as in [`Shard::publish`], the first one's; the others' follow it. The outcome is
    /// [`Published::Confirmed`] or [`Published::Pending`] for all. `None`: nothing was done, each has to be published by
    /// itself.
    ///
    /// # Panics
    /// If there are no bodies, or one is not of `body_bytes`.
    #[inline]
    pub fn publish_alike<'a>(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        head: &MessageHead,
        body_bytes: usize,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
        confirm: Option<u64>,
    ) -> Option<Published> {
        let messages = bodies.len() as u64;
        let publisher = self.sessions.get(session.index, session.generation)?.client;
        let route = self.usual_route(session, vhost, head.has_headers(), head.address())?;
        let published = match (&route.local[..], &route.remote[..]) {
            (&[queue], []) => {
                if self.queues.get_mut(queue).is_none_or(|queue| !queue.takes_all()) {
                    return None;
                }
                if head.is_persistent() {
                    self.admit_bytes(&[queue], head.total_bytes() + bodies.len() * body_bytes).ok()?;
                }
                let first = self.store.batch(head, publisher, body_bytes, bodies);
                match self.enqueue_batch(queue, first) {
                    Some(true) => self.expect_stored(session, confirm, messages),
                    _ => Published::Confirmed,
                }
            }
            ([], [(shard, Targets::One(queue))]) => {
                let (shard, targets) = (*shard, Targets::One(*queue));
                let message = self.store.compose(head, publisher, body_bytes, bodies);
                self.send_publish(shard, &targets, message, confirm.map(|sequence| (session, sequence)));
                self.expect_confirms(session, confirm, messages)
            }
            _ => return None,
        };
        self.stats.published += messages;
        Some(published)
    }

    /// Notes confirms that one other shard owes.
    fn expect_confirms(&mut self, id: SessionId, first: Option<u64>, messages: u64) -> Published {
        let (Some(first), Some(session)) = (first, self.session_mut(id)) else { return Published::Confirmed };
        let open = |sequence| OpenConfirm { sequence, missing: 1, accepted: true };
        session.confirms.extend((first..first + messages).map(open));
        Published::Pending
    }

    /// Appends a whole batch to a queue at home here. Takes the batch over. Says whether it was written down; `None`:
    /// nothing was done, since the queue looks at each message.
    pub(super) fn enqueue_batch(&mut self, id: QueueId, first: MessageId) -> Option<bool> {
        let content = self.store.get(first);
        let messages = content.messages();
        let (body_bytes, priority, ttl_ms) = (content.body_bytes(), content.priority(), content.ttl_ms());
        let mut is_recorded = false;
        match self.queues.get_mut(id) {
            Some(queue) if !queue.takes_all() => return None,
            Some(queue) if content.is_persistent() && queue.is_recorded() => {
                let followers = messages as u8 - 1;
                let place = queue.push_recorded(first, followers, body_bytes, priority, ttl_ms, self.clock);
                note_push(queue, &mut self.ready, &mut self.timers);
                self.record_place(first, place);
                is_recorded = true;
            }
            Some(queue) => {
                queue.push(first, messages as u8 - 1, body_bytes, priority, ttl_ms, self.clock.monotonic_ns);
                note_push(queue, &mut self.ready, &mut self.timers);
            }
            // Deleted while the messages were on their way.
            None => self.store.release_many(first, messages.into()),
        }
        self.enqueued += usize::from(messages);
        Some(is_recorded)
    }

    /// A message's route, if the session's last message took it too.
    #[inline]
    fn usual_route(
        &self,
        session: SessionId,
        vhost: VhostId,
        has_headers: bool,
        address: (&[u8], usize),
    ) -> Option<&Route> {
        let last = &self.sessions.get(session.index, session.generation)?.last_route;
        (!has_headers && last.is(self.topology.epoch(), vhost, address)).then_some(&last.route)
    }

    /// [`Shard::publish`], but for its short way.
    fn publish_anywhere(
        &mut self,
        session_id: SessionId,
        vhost: VhostId,
        message: MessageId,
        mandatory: bool,
        confirm: Option<u64>,
    ) -> Result<Published, Refusal> {
        let epoch = self.topology.epoch();
        let content = self.store.get(message);
        let Some(session) = self.sessions.get_mut(session_id.index, session_id.generation) else {
            self.store.release(message);
            return Ok(Published::Confirmed);
        };
        let selected = Selected::of(content);
        if selected.is_empty() && session.last_route.is(epoch, vhost, content.address()) {
            let last = std::mem::take(&mut session.last_route);
            let published = self.distribute(session_id, message, &last.route, mandatory, confirm);
            self.keep_route(session_id, last);
            return published;
        }
        if let Err(refusal) = self.may_publish(session_id, message) {
            self.store.release(message);
            return Err(refusal);
        }
        let Some(session) = self.session_mut(session_id) else { return Ok(Published::Confirmed) };
        let mut last = std::mem::take(&mut session.last_route);
        let routed = self.route_publish(vhost, message, epoch, &selected, &mut last);
        let published = match routed {
            Ok(Routed::Onward(message)) => {
                self.distribute(session_id, message, &last.route, mandatory, confirm)
            }
            Ok(Routed::Kept(message, keeping)) => {
                Ok(self.publish_to_keeper(session_id, vhost, message, mandatory, confirm, keeping))
            }
            Err(refusal) => {
                self.store.release(message);
                Err(refusal)
            }
        };
        self.keep_route(session_id, last);
        published
    }

    /// Appends a message to a queue at home here. Takes the message over.
    #[inline]
    pub(super) fn enqueue(&mut self, id: QueueId, message: MessageId) -> Taken {
        self.enqueued += 1;
        match self.queues.get_mut(id) {
            Some(queue) if queue.takes_all() => {
                let content = self.store.get(message);
                let (body_bytes, priority, ttl_ms) =
                    (content.body_bytes(), content.priority(), content.ttl_ms());
                if content.is_persistent() && queue.is_recorded() {
                    return self.enqueue_recorded(id, message);
                }
                queue.push(message, 0, body_bytes, priority, ttl_ms, self.clock.monotonic_ns);
                note_push(queue, &mut self.ready, &mut self.timers);
                Taken::Yes
            }
            Some(_) => self.enqueue_by_policy(id, message, false),
            None => {
                // Deleted while the message was on its way.
                self.store.release(message);
                Taken::Yes
            }
        }
    }

    /// Appends a message to a queue at home here that takes whatever comes, and writes that down. Takes the message over.
    #[inline(never)]
    fn enqueue_recorded(&mut self, id: QueueId, message: MessageId) -> Taken {
        let message = self.recordable(message);
        let content = self.store.get(message);
        let (body_bytes, priority, ttl_ms) = (content.body_bytes(), content.priority(), content.ttl_ms());
        let Some(queue) = self.queues.get_mut(id) else { return Taken::Yes };
        let place = queue.push_recorded(message, 0, body_bytes, priority, ttl_ms, self.clock);
        note_push(queue, &mut self.ready, &mut self.timers);
        self.record_place(message, place);
        Taken::Later(Waits { is_stopped: false, is_recorded: true })
    }

    /// Appends a message to queues at home here that have agreed to take it. Takes the message over.
    pub(super) fn enqueue_all_promised(&mut self, targets: &[QueueId], message: MessageId) {
        let is_joining = self.is_joining(targets, message);
        let (message, before) = match is_joining {
            true => self.begin_joining(message),
            false => (message, None),
        };
        for (place, &queue) in targets.iter().enumerate() {
            if place + 1 < targets.len() {
                self.store.retain(message);
            }
            self.enqueue_promised(queue, message);
        }
        if is_joining {
            self.end_joining(before);
        }
    }

    fn enqueue_promised(&mut self, id: QueueId, message: MessageId) {
        match self.queues.get_mut(id) {
            Some(queue) if !queue.takes_all() => {
                self.enqueued += 1;
                self.enqueue_by_policy(id, message, true);
            }
            _ => {
                self.enqueue(id, message);
            }
        }
    }

    /// Whether what happens to a message is to be one record.
    #[inline]
    fn is_joining(&self, targets: &[QueueId], message: MessageId) -> bool {
        targets.len() > 1 && self.journal.is_some() && self.store.get(message).is_persistent()
    }

    /// Appends a message to several queues at home here. Takes the message over. `confirm` is whose confirm has to wait
    /// if one of the queues has stopped its publishers.
    pub(super) fn enqueue_all(
        &mut self,
        targets: &[QueueId],
        message: MessageId,
        confirm: Option<(SessionId, u64)>,
    ) -> Outcome {
        let is_joining = self.is_joining(targets, message);
        let (message, before) = match is_joining {
            true => self.begin_joining(message),
            false => (message, None),
        };
        let (mut accepted, mut withheld, mut is_recorded) = (true, None, false);
        for (place, &queue) in targets.iter().enumerate() {
            if place + 1 < targets.len() {
                self.store.retain(message);
            }
            match (self.enqueue(queue, message), confirm) {
                (Taken::No, _) => accepted = false,
                (Taken::Later(waits), Some(confirm)) => {
                    is_recorded |= waits.is_recorded;
                    if waits.is_stopped && !is_handover(confirm.0) {
                        self.withhold(queue, confirm, &mut withheld);
                    }
                }
                _ => {}
            }
        }
        if is_joining {
            self.end_joining(before);
        }
        let is_pending = self.await_queues(confirm.filter(|_| is_recorded), withheld, accepted);
        self.bury_dead();
        Outcome { accepted, withheld: is_pending }
    }

    /// A confirm waits for the journal, if it is one, and for the queues that `withheld` says, if any. Whether it waits.
    #[inline]
    fn await_queues(
        &mut self,
        to_store: Option<(SessionId, u64)>,
        withheld: Option<u32>,
        accepted: bool,
    ) -> bool {
        match (to_store, withheld) {
            (None, None) => return false,
            (Some((session, sequence)), None) => {
                let (first, last) = (sequence, sequence);
                self.await_stored(Waiter::Confirms { session, first, last, accepted });
            }
            (to_store, Some(slot)) => {
                self.withheld[slot as usize].accepted = accepted;
                if to_store.is_some() {
                    self.withheld[slot as usize].missing += 1;
                    self.await_stored(Waiter::Withheld(slot));
                }
            }
        }
        true
    }

    /// Hands a message to queues, without a publisher. Takes it over. How many will say to whom it was handed over that it
    /// has arrived.
    pub(super) fn distribute_internally(
        &mut self,
        message: MessageId,
        targets: &[QueueId],
        handover: Option<(SessionId, u64)>,
    ) -> u32 {
        let mut route = Route::default();
        route.set(targets, self.config.id);
        let outcome = self.hand_to_all(message, &route, handover);
        route.remote.len() as u32 + u32::from(outcome.withheld)
    }

    /// Asks the topology, whatever is remembered, for the message's routing key and those in its headers. Appends each
    /// target once. Whether the answer may be remembered.
    pub(super) fn route_by_topology(
        &mut self,
        vhost: VhostId,
        message: MessageId,
        selected: &Selected,
        targets: &mut Vec<QueueId>,
    ) -> Result<bool, Refusal> {
        self.route_by_exchange(vhost, None, message, selected, targets)
    }

    /// The same, as if the message had been published to another exchange than its own.
    pub(super) fn route_by_exchange(
        &mut self,
        vhost: VhostId,
        other: Option<&[u8]>,
        message: MessageId,
        selected: &Selected,
        targets: &mut Vec<QueueId>,
    ) -> Result<bool, Refusal> {
        let random = self.random.next();
        let content = self.store.get(message);
        let exchange = other.unwrap_or(content.view().exchange);
        let further: Vec<&[u8]> = selected.copies.iter().chain(&selected.blind).map(Name::as_bytes).collect();
        self.topology.route_keys(vhost, exchange, &content.routable(random), &further, targets)
    }

    /// Routes a message that is handed on later. `last` may know the way, and knows it then.
    pub(super) fn route_anew(
        &mut self,
        vhost: VhostId,
        message: MessageId,
        last: &mut LastRoute,
    ) -> Result<Routed, Refusal> {
        let epoch = self.topology.epoch();
        let content = self.store.get(message);
        let selected = Selected::of(content);
        if selected.is_empty() && last.is(epoch, vhost, content.address()) {
            return Ok(Routed::Onward(message));
        }
        self.route_publish(vhost, message, epoch, &selected, last)
    }

    /// The full way of routing: what the shard remembers, exchanges that hold messages back, further routing keys in
    /// headers. Leaves the route in `last`.
    fn route_publish(
        &mut self,
        vhost: VhostId,
        message: MessageId,
        epoch: u64,
        selected: &Selected,
        last: &mut LastRoute,
    ) -> Result<Routed, Refusal> {
        last.forget();
        let content = self.store.get(message);
        let view = content.view();
        if let Some(targets) = self.routes.get(epoch, vhost, view.exchange, view.routing_key) {
            if selected.is_empty() {
                last.route.set(targets, self.config.id);
                last.remember(epoch, vhost, content.address());
                return Ok(Routed::Onward(message));
            }
        } else if let Some(options) = self.topology.exchange(vhost, view.exchange) {
            if options.internal {
                return Err(Refusal::Internal(Name::from(view.exchange)));
            }
            if let Some(hold) = self.topology.hold(vhost, view.exchange)
                && delay_ms(content).is_some()
            {
                last.route.set(&[hold], self.config.id);
                return Ok(Routed::Onward(message));
            }
            if let Some(keeping) = self.topology.keeping(vhost, view.exchange) {
                return Ok(Routed::Kept(message, keeping));
            }
        }
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        let cacheable = self.route_by_topology(vhost, message, selected, &mut targets)?;
        last.route.set(&targets, self.config.id);
        if cacheable {
            let content = self.store.get(message);
            let view = content.view();
            self.routes.insert(epoch, vhost, view.exchange, view.routing_key, &targets);
            last.remember(epoch, vhost, content.address());
        }
        self.targets = targets;
        if selected.blind.is_empty() || last.route.is_empty() {
            return Ok(Routed::Onward(message));
        }
        Ok(Routed::Onward(self.without_blind_keys(message)))
    }

    fn keep_route(&mut self, id: SessionId, last: LastRoute) {
        if let Some(session) = self.session_mut(id) {
            session.last_route = last;
        }
    }

    pub(super) fn without_blind_keys(&mut self, message: MessageId) -> MessageId {
        let edit = Edit { remove_headers: vec![Name::from("BCC")], ..Edit::default() };
        self.store.edit(message, &edit)
    }

    /// Hands a message to the queues of a route and says what is known of its fate. Takes it over.
    fn distribute(
        &mut self,
        session: SessionId,
        message: MessageId,
        route: &Route,
        mandatory: bool,
        confirm: Option<u64>,
    ) -> Result<Published, Refusal> {
        if route.is_empty() {
            self.stats.unroutable += 1;
            if mandatory {
                return Ok(Published::Unroutable(message));
            }
            self.store.release(message);
            return Ok(Published::Confirmed);
        }
        if self.store.get(message).is_persistent() {
            self.admit_or_release(&route.local, message)?;
        }
        let outcome = self.hand_to_all(message, route, confirm.map(|sequence| (session, sequence)));
        let accepted = outcome.accepted;
        let missing = route.remote.len() as u32 + u32::from(outcome.withheld);
        if let (Some(sequence), 1..) = (confirm, missing) {
            if let Some(session) = self.session_mut(session) {
                debug_assert!(session.confirms.back().is_none_or(|last| last.sequence < sequence));
                session.confirms.push_back(OpenConfirm { sequence, missing, accepted });
            }
            return Ok(Published::Pending);
        }
        Ok(if accepted { Published::Confirmed } else { Published::Rejected })
    }

    /// Hands a message to all queues of a route. Takes it over. What became of it here.
    pub(super) fn hand_to_all(
        &mut self,
        message: MessageId,
        route: &Route,
        confirm: Option<(SessionId, u64)>,
    ) -> Outcome {
        for (shard, targets) in route.remote.iter().skip(usize::from(route.local.is_empty())) {
            let copy = self.store.copy(message);
            self.send_publish(*shard, targets, copy, confirm);
        }
        if !route.local.is_empty() {
            return self.enqueue_all(&route.local, message, confirm);
        }
        match route.remote.first() {
            Some((shard, targets)) => {
                let whole = self.store.extract(message);
                self.send_publish(*shard, targets, whole, confirm);
            }
            None => self.store.release(message),
        }
        Outcome { accepted: true, withheld: false }
    }

    fn send_publish(
        &mut self,
        shard: ShardId,
        targets: &Targets,
        message: Message,
        confirm: Option<(SessionId, u64)>,
    ) {
        self.send(shard, Lane::Data, Letter::Publish { targets: targets.clone(), message, confirm });
    }
}

/// What a queue did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// It is in the queue, and its confirm should wait.
    Later(Waits),
    /// The queue refuses it.
    No,
}

/// What the confirm of a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waits {
    /// Publishers of the queue are stopped.
    pub(super) is_stopped: bool,
    /// Its place in the queue was written down.
    pub(super) is_recorded: bool,
}

/// What the queues at home here did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// None refuses it.
    pub(super) accepted: bool,
    /// The confirm waits for the journal, or until a queue resumes its publishers.
    pub(super) withheld: bool,
}

/// Further routing keys that a publisher put into headers.
#[derive(Default)]
pub(super) struct Selected {
    /// Header `CC`.
    copies: Vec<Name>,
    /// Header `BCC`, which consumers do not see.
    blind: Vec<Name>,
}

impl Selected {
    pub(super) fn of(content: &Message) -> Self {
        if !content.has_headers() {
            return Selected::default();
        }
        let view = content.view();
        Selected { copies: keys(&view, b"CC"), blind: keys(&view, b"BCC") }
    }

    /// Keys that everybody may see.
    pub(super) fn visible(copies: Vec<Name>) -> Self {
        Selected { copies, blind: Vec::new() }
    }

    pub(super) fn has_blind_keys(&self) -> bool {
        !self.blind.is_empty()
    }

    /// All of them.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Name> {
        self.copies.iter().chain(&self.blind)
    }

    fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.blind.is_empty()
    }
}

/// The routing keys in an array under a header.
pub(super) fn keys(view: &MessageView<'_>, header: &[u8]) -> Vec<Name> {
    if !view.encoding.has_further_keys() {
        return Vec::new();
    }
    match view.encoding.header(view.properties, header) {
        Some(Value::Array(values)) => {
            values.iter().filter_map(|value| value.as_bytes().map(Name::from)).collect()
        }
        _ => Vec::new(),
    }
}
