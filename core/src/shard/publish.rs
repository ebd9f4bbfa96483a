//! From a session to queues: routing, and handing a message to every queue that it is for.

use super::envelope::{Letter, Targets};
use super::route::Route;
use super::sessions::OpenConfirm;
use super::{Published, Shard};
use crate::mesh::Lane;
use crate::message::{Edit, MessageHeader, MessageView};
use crate::topology::Routable;
use crate::{MessageId, Name, QueueId, Refusal, SessionId, ShardId, Value, VhostId};

/// Name of the type of exchanges that hold messages back.
const DELAYED_KIND: &[u8] = b"x-delayed-message";
const NS_PER_MS: u64 = 1_000_000;

/// The outcome of routing a message that is not sent on at once.
enum Routed {
    To(Route),
    /// Held back; it will be routed when its time comes.
    Held,
}

impl Shard {
    /// Starts a message. Its body follows by [`Shard::append_body`]. The caller owns the message until it publishes or
    /// releases it.
    pub fn begin_message(&mut self, header: &MessageHeader<'_>) -> MessageId {
        self.store.begin(header)
    }

    /// Adds to the body of a message that is not complete. Memory is taken as the bytes arrive.
    pub fn append_body(&mut self, message: MessageId, bytes: &[u8]) {
        self.store.append(message, bytes);
    }

    /// A look at a message that the caller holds.
    pub fn message(&self, message: MessageId) -> MessageView<'_> {
        self.store.view(message)
    }

    /// Gives a message back.
    pub fn release(&mut self, message: MessageId) {
        self.store.release(message);
    }

    /// Routes a complete message and hands it to its queues. Takes the message over, except as
    /// [`Published::Unroutable`] says. `confirm`: a number that comes back in [`Output::Confirmed`](super::Output) if
    /// the answer is [`Published::Pending`]; higher than all that the session used before.
    ///
    /// # Errors
    /// [`Refusal::NoExchange`] and [`Refusal::Internal`]; the message is released.
    pub fn publish(
        &mut self,
        session_id: SessionId,
        vhost: VhostId,
        message: MessageId,
        mandatory: bool,
        confirm: Option<u64>,
    ) -> Result<Published, Refusal> {
        self.stats.published += 1;
        let epoch = self.topology.epoch();
        let content = self.store.get(message);
        let has_headers = content.has_headers();
        let Some(session) = self.sessions.get_mut(session_id.index, session_id.generation) else {
            self.store.release(message);
            return Ok(Published::Confirmed);
        };
        let remembered = session.last_route.is(epoch, vhost, content.address());
        if remembered && !has_headers {
            if let ([queue], []) = (&session.last_route.route.local[..], &session.last_route.route.remote[..])
            {
                let queue = *queue;
                let accepted = self.enqueue(queue, message);
                self.bury_dead();
                return Ok(if accepted { Published::Confirmed } else { Published::Rejected });
            }
            let route = std::mem::take(&mut session.last_route.route);
            let published = self.distribute(session_id, message, &route, mandatory, confirm);
            if let Some(session) = self.session_mut(session_id) {
                session.last_route.route = route;
            }
            return Ok(published);
        }
        match self.route_publish(session_id, vhost, message, epoch) {
            Ok((message, Routed::To(route))) => {
                Ok(self.distribute(session_id, message, &route, mandatory, confirm))
            }
            Ok((_, Routed::Held)) => Ok(Published::Confirmed),
            Err(refusal) => {
                self.store.release(message);
                Err(refusal)
            }
        }
    }

    /// Appends a message to a queue at home here. Takes the message over. `false`: the queue refuses it.
    pub(super) fn enqueue(&mut self, id: QueueId, message: MessageId) -> bool {
        let Some(queue) = self.queues.get_mut(id) else {
            // Deleted while the message was on its way.
            self.store.release(message);
            return true;
        };
        let content = self.store.get(message);
        let (body_bytes, priority, ttl_ms) = (content.body_bytes(), content.priority(), content.ttl_ms());
        if !queue.is_bounded() {
            queue.push(message, body_bytes, priority, ttl_ms, self.clock.monotonic_ns);
            self.after_push(id);
            return true;
        }
        if queue.refuses(body_bytes) {
            // What consumers can take at once does not count as waiting.
            self.dispatch(id.index, usize::MAX);
        }
        let Some(queue) = self.queues.get_mut(id) else { return true };
        if queue.refuses(body_bytes) {
            self.refuse(id, message);
            return false;
        }
        queue.push(message, body_bytes, priority, ttl_ms, self.clock.monotonic_ns);
        self.after_push(id);
        self.enforce_limits(id);
        true
    }

    /// Routes a message that no session publishes: a dead letter, or one that was held back. Takes it over.
    pub(super) fn publish_internally(&mut self, vhost: VhostId, message: MessageId) {
        let mut targets = std::mem::take(&mut self.targets);
        let outcome = self.route_by_topology(vhost, message, &mut targets);
        if outcome.is_ok() {
            self.distribute_internally(message, &targets);
        } else {
            self.store.release(message);
        }
        targets.clear();
        self.targets = targets;
    }

    /// Hands a message to queues, without anybody to confirm it to. Takes it over.
    pub(super) fn distribute_internally(&mut self, message: MessageId, targets: &[QueueId]) {
        let route = Route::of(targets, self.config.id);
        self.hand_to_all(message, &route, None);
    }

    /// Asks the topology, whatever is remembered. Appends each target once. Whether the answer may be remembered.
    pub(super) fn route_by_topology(
        &mut self,
        vhost: VhostId,
        message: MessageId,
        targets: &mut Vec<QueueId>,
    ) -> Result<bool, Refusal> {
        let random = self.random.next();
        let content = self.store.get(message);
        let view = content.view();
        let routable = Routable {
            key: view.routing_key,
            properties: view.properties,
            encoding: view.encoding,
            has_headers: content.has_headers(),
            random,
        };
        self.topology.route(vhost, view.exchange, &routable, targets)
    }

    /// The full way of routing: what is remembered by the shard, exchanges that hold messages back, further routing
    /// keys in headers. Returns the message, which is another one if a header had to go.
    fn route_publish(
        &mut self,
        session_id: SessionId,
        vhost: VhostId,
        message: MessageId,
        epoch: u64,
    ) -> Result<(MessageId, Routed), Refusal> {
        let content = self.store.get(message);
        let view = content.view();
        let selected = if content.has_headers() { Selected::of(&view) } else { Selected::default() };
        if let Some(targets) = self.routes.get(epoch, vhost, view.exchange, view.routing_key) {
            if selected.is_empty() {
                let route = Route::of(targets, self.config.id);
                self.remember(session_id, vhost, message, epoch, &route);
                return Ok((message, Routed::To(route)));
            }
        } else if let Some(options) = self.topology.exchange(vhost, view.exchange) {
            if options.internal {
                return Err(Refusal::Internal(Name::from(view.exchange)));
            }
            if options.kind.as_bytes() == DELAYED_KIND && content.has_headers() {
                let delay = view.encoding.header(view.properties, b"x-delay");
                if let Some(ms) = delay.and_then(|delay| delay.as_i64()).filter(|&ms| ms > 0) {
                    self.hold_back(vhost, message, ms as u64);
                    return Ok((message, Routed::Held));
                }
            }
        }
        let mut targets = std::mem::take(&mut self.targets);
        let cacheable = self.route_by_topology(vhost, message, &mut targets);
        let outcome = cacheable.and_then(|cacheable| {
            self.add_selected(vhost, message, &selected, &mut targets).map(|()| cacheable)
        });
        let route = Route::of(&targets, self.config.id);
        if outcome == Ok(true) && selected.is_empty() {
            let view = self.store.view(message);
            self.routes.insert(epoch, vhost, view.exchange, view.routing_key, &targets);
            self.remember(session_id, vhost, message, epoch, &route);
        }
        targets.clear();
        self.targets = targets;
        outcome?;
        let message = if selected.blind.is_empty() || route.is_empty() {
            message
        } else {
            self.without_blind_keys(message)
        };
        Ok((message, Routed::To(route)))
    }

    fn remember(&mut self, id: SessionId, vhost: VhostId, message: MessageId, epoch: u64, route: &Route) {
        let address = self.store.get(message).address();
        if let Some(session) = self.sessions.get_mut(id.index, id.generation) {
            session.last_route.remember(epoch, vhost, address, route.clone());
        }
    }

    /// Routes by the keys of the headers CC and BCC too.
    pub(super) fn add_selected(
        &mut self,
        vhost: VhostId,
        message: MessageId,
        selected: &Selected,
        targets: &mut Vec<QueueId>,
    ) -> Result<(), Refusal> {
        if selected.is_empty() {
            return Ok(());
        }
        let content = self.store.get(message);
        let view = content.view();
        for key in selected.copies.iter().chain(&selected.blind) {
            let routable = Routable {
                key: key.as_bytes(),
                properties: view.properties,
                encoding: view.encoding,
                has_headers: content.has_headers(),
                random: self.random.next(),
            };
            let mut more = Vec::new();
            self.topology.route(vhost, view.exchange, &routable, &mut more)?;
            targets.append(&mut more);
        }
        targets.sort_unstable();
        targets.dedup();
        Ok(())
    }

    fn without_blind_keys(&mut self, message: MessageId) -> MessageId {
        let content = self.store.get(message);
        let view = content.view();
        let edit = Edit { remove_headers: vec![Name::from("BCC")], ..Edit::default() };
        let properties = view.encoding.edit(view.properties, &edit);
        let (exchange, key) = (view.exchange.to_vec(), view.routing_key.to_vec());
        let ttl_ms = content.ttl_ms();
        let edited = self.store.derive(message, &exchange, &key, &properties, ttl_ms);
        self.store.release(message);
        edited
    }

    fn hold_back(&mut self, vhost: VhostId, message: MessageId, delay_ms: u64) {
        let slot = self.held_back.insert((vhost, message)) as u32;
        let deadline_ns = self.clock.monotonic_ns.saturating_add(delay_ms.saturating_mul(NS_PER_MS));
        self.timers.set(deadline_ns, super::Due::HeldBack(slot));
    }

    /// Hands a message to the queues of a route and says what is known of its fate. Takes it over.
    fn distribute(
        &mut self,
        session: SessionId,
        message: MessageId,
        route: &Route,
        mandatory: bool,
        confirm: Option<u64>,
    ) -> Published {
        if route.is_empty() {
            self.stats.unroutable += 1;
            if mandatory {
                return Published::Unroutable(message);
            }
            self.store.release(message);
            return Published::Confirmed;
        }
        let accepted = self.hand_to_all(message, route, confirm.map(|sequence| (session, sequence)));
        let missing = route.remote.len() as u32;
        if let (Some(sequence), 1..) = (confirm, missing) {
            if let Some(session) = self.session_mut(session) {
                debug_assert!(session.confirms.back().is_none_or(|last| last.sequence < sequence));
                session.confirms.push_back(OpenConfirm { sequence, missing, accepted });
            }
            return Published::Pending;
        }
        if accepted { Published::Confirmed } else { Published::Rejected }
    }

    /// Hands a message to all queues of a route. Takes it over. Whether those at home here accept it.
    fn hand_to_all(&mut self, message: MessageId, route: &Route, confirm: Option<(SessionId, u64)>) -> bool {
        for (shard, targets) in route.remote.iter().skip(usize::from(route.local.is_empty())) {
            let copy = self.store.copy(message);
            self.send_publish(*shard, targets, copy, confirm);
        }
        let Some((last, others)) = route.local.split_last() else {
            match route.remote.first() {
                Some((shard, targets)) => {
                    let whole = self.store.extract(message);
                    self.send_publish(*shard, targets, whole, confirm);
                }
                None => self.store.release(message),
            }
            return true;
        };
        let mut accepted = true;
        for &queue in others {
            self.store.retain(message);
            accepted &= self.enqueue(queue, message);
        }
        accepted &= self.enqueue(*last, message);
        self.bury_dead();
        accepted
    }

    fn send_publish(
        &mut self,
        shard: ShardId,
        targets: &Targets,
        message: crate::message::Message,
        confirm: Option<(SessionId, u64)>,
    ) {
        self.send(shard, Lane::Data, Letter::Publish { targets: targets.clone(), message, confirm });
    }
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
    fn of(view: &MessageView<'_>) -> Self {
        Selected { copies: keys(view, b"CC"), blind: keys(view, b"BCC") }
    }

    /// Keys that everybody may see.
    pub(super) fn visible(copies: Vec<Name>) -> Self {
        Selected { copies, blind: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.copies.is_empty() && self.blind.is_empty()
    }
}

/// The routing keys in an array under a header.
pub(super) fn keys(view: &MessageView<'_>, header: &[u8]) -> Vec<Name> {
    match view.encoding.header(view.properties, header) {
        Some(Value::Array(values)) => {
            values.iter().filter_map(|value| value.as_bytes().map(Name::from)).collect()
        }
        _ => Vec::new(),
    }
}
