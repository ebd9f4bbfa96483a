//! Connections and sessions of this shard, and the gate through which deliveries reach a session.

use std::collections::VecDeque;

use super::envelope::Letter;
use super::outputs::Handed;
use super::route::LastRoute;
use super::transaction::SessionWork;
use super::{Delivery, Output, Settlement, Shard};
use crate::hash::Map;
use crate::ids::ClientId;
use crate::mesh::Lane;
use crate::permission::Permission;
use crate::queue::{counts_as_held, is_browsed};
use crate::request::Rules;
use crate::{ConnectionId, Credit, MessageId, QueueId, SessionId, ShardId, VhostId};

/// A connection, as the engine knows it.
pub(super) struct Connection {
    pub(super) owner: u32,
    /// Whose it is, which several connections may be.
    pub(super) client: ClientId,
    pub(super) writable: bool,
    sessions: Vec<SessionId>,
    /// Exclusive queues that it declared.
    pub(super) exclusive: Vec<QueueId>,
    /// Bytes taken since credit was last given, by home shard.
    pub(super) taken_bytes: Vec<u64>,
    /// Noted among those that credit is owed for.
    pub(super) owes_credit: bool,
    /// What it may do; everything without one.
    pub(super) permission: Option<Box<dyn Permission>>,
}

/// A consumer of a session.
pub(super) struct Subscription {
    pub(super) consumer: u32,
    pub(super) queue: QueueId,
    prefetch: u32,
}

/// A confirm that other shards have to answer.
pub(super) struct OpenConfirm {
    pub(super) sequence: u64,
    /// Shards that have not answered.
    pub(super) missing: u32,
    pub(super) accepted: bool,
}

/// A session, as the engine knows it.
pub(super) struct Session {
    pub(super) connection: ConnectionId,
    pub(super) owner: u32,
    pub(super) client: ClientId,
    pub(super) channel: u16,
    pub(super) rules: Rules,
    prefetch: u32,
    /// Deliveries handed over and not settled; fetched messages do not count.
    unsettled: u32,
    flow: bool,
    /// Deliveries that wait for a settlement or for the flow.
    held: VecDeque<Handed>,
    subscriptions: Vec<Subscription>,
    pub(super) last_route: LastRoute,
    pub(super) confirms: VecDeque<OpenConfirm>,
    pub(super) outstanding: Outstanding,
    /// Credit granted while the answer about that consumer was outstanding.
    withheld: Vec<(u32, Credit)>,
    pub(super) work: Option<Box<SessionWork>>,
}

/// What a session waits for, where the answer concerns its own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outstanding {
    /// Nothing of that kind.
    Nothing,
    Subscribe {
        consumer: u32,
        queue: QueueId,
    },
    Cancel {
        consumer: u32,
    },
    /// Stop or flush of a consumer.
    EndCredit {
        consumer: u32,
    },
    /// A barrier that this many shards have not answered.
    Barrier {
        missing: u32,
    },
    /// A commit.
    Commit,
    /// A barrier before the session's work for a branch is handed over.
    HandOver {
        missing: u32,
    },
}

/// The clients of a shard, by their owners' handles.
#[derive(Default)]
pub(super) struct Clients {
    there: Map<u32, There>,
    last: u32,
}

struct There {
    client: ClientId,
    connections: u32,
}

impl Clients {
    /// An owner has one connection more.
    pub(super) fn enter(&mut self, owner: u32, shard: ShardId) -> ClientId {
        let there = self.there.entry(owner).or_insert_with(|| {
            self.last += 1;
            There { client: ClientId { shard, number: self.last }, connections: 0 }
        });
        there.connections += 1;
        there.client
    }

    /// An owner has one connection less.
    pub(super) fn leave(&mut self, owner: u32) {
        let Some(there) = self.there.get_mut(&owner) else { return };
        there.connections -= 1;
        if there.connections == 0 {
            self.there.remove(&owner);
        }
    }
}

impl Session {
    /// Lets a delivery pass now, or keeps it.
    #[inline]
    fn admit(&mut self, handed: Handed) -> Option<Handed> {
        if (self.prefetch != 0 || !self.flow) && self.must_wait(&handed) {
            self.held.push_back(handed);
            return None;
        }
        self.unsettled += u32::from(counts_as_held(handed.tag));
        Some(handed)
    }

    /// Whether the gate lets everything pass.
    #[inline]
    pub(super) fn is_ungated(&self) -> bool {
        self.prefetch == 0 && self.flow
    }

    /// So many deliveries that need settlement have passed.
    #[inline]
    pub(super) fn passed(&mut self, deliveries: u32) {
        self.unsettled += deliveries;
    }

    fn must_wait(&self, handed: &Handed) -> bool {
        let full = self.unsettled >= self.prefetch && self.prefetch != 0;
        !self.flow || (counts_as_held(handed.tag) && (full || !self.held.is_empty()))
    }

    /// The next kept delivery that may pass now.
    fn admit_held(&mut self) -> Option<Handed> {
        let full = self.prefetch != 0 && self.unsettled >= self.prefetch;
        if !self.flow || full {
            return None;
        }
        let handed = self.held.pop_front()?;
        self.unsettled += u32::from(counts_as_held(handed.tag));
        Some(handed)
    }

    /// The prefetch that a queue applies to one of the session's consumers: its own, or the session's if that is
    /// less. So a session whose limit is met does not take messages from other consumers.
    fn effective_prefetch(&self, own: u32) -> u32 {
        match (own, self.prefetch) {
            (0, limit) | (limit, 0) => limit,
            (own, limit) => own.min(limit),
        }
    }

    pub(super) fn subscribed(&mut self, consumer: u32, queue: QueueId, prefetch: u32) -> u32 {
        self.subscriptions.push(Subscription { consumer, queue, prefetch });
        self.effective_prefetch(prefetch)
    }

    pub(super) fn subscription(&self, consumer: u32) -> Option<QueueId> {
        self.subscriptions.iter().find(|s| s.consumer == consumer).map(|s| s.queue)
    }

    /// Forgets a consumer; `false` if it was not there, or of another queue.
    pub(super) fn unsubscribed(&mut self, consumer: u32, queue: QueueId) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|s| s.consumer != consumer || s.queue != queue);
        self.subscriptions.len() < before
    }
}

impl Shard {
    /// Registers a connection. `owner` is the caller's handle and comes back in outputs.
    pub fn open_connection(&mut self, owner: u32) -> ConnectionId {
        let shards = usize::from(self.config.shards);
        let client = self.clients.enter(owner, self.config.id);
        let (index, generation) = self.connections.insert(|_, _| Connection {
            owner,
            client,
            writable: true,
            sessions: Vec::new(),
            exclusive: Vec::new(),
            taken_bytes: vec![0; shards],
            owes_credit: false,
            permission: None,
        });
        ConnectionId { shard: self.config.id, index, generation }
    }

    /// Ends a connection: its sessions, and the exclusive queues that it declared.
    pub fn close_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.index, id.generation) else { return };
        for session in std::mem::take(&mut connection.sessions) {
            self.close_session(session);
        }
        let Some(connection) = self.connections.remove(id.index, id.generation) else { return };
        self.clients.leave(connection.owner);
        for queue in connection.exclusive {
            self.end_owned_queue(queue);
        }
        self.accounts.close(id);
        for shard in self.config.others() {
            self.send(shard, Lane::Data, Letter::ConnectionClosed(id));
        }
    }

    /// Whether the connection can take more output. While it cannot, what is on its way to it is bounded by
    /// `delivery_window_bytes` for each shard.
    pub fn set_writable(&mut self, id: ConnectionId, writable: bool) {
        let Some(connection) = self.connections.get_mut(id.index, id.generation) else { return };
        connection.writable = writable;
        if writable && !connection.owes_credit && connection.taken_bytes.iter().any(|&bytes| bytes > 0) {
            connection.owes_credit = true;
            self.creditors.push(id);
        }
    }

    /// Opens a session. `channel` comes back in outputs.
    pub fn open_session(&mut self, id: ConnectionId, channel: u16) -> SessionId {
        let connection = self
            .connections
            .get_mut(id.index, id.generation)
            .expect("a session is opened on a connection that is open");
        let (owner, client) = (connection.owner, connection.client);
        let (index, generation) = self.sessions.insert(|_, _| Session {
            connection: id,
            owner,
            client,
            channel,
            rules: Rules::default(),
            prefetch: 0,
            unsettled: 0,
            flow: true,
            held: VecDeque::new(),
            subscriptions: Vec::new(),
            last_route: LastRoute::default(),
            confirms: VecDeque::new(),
            outstanding: Outstanding::Nothing,
            withheld: Vec::new(),
            work: None,
        });
        let session = SessionId { shard: self.config.id, index, generation };
        connection.sessions.push(session);
        session
    }

    /// Says whose rules hold for the session's requests; AMQP 0-9-1's until then.
    pub fn set_rules(&mut self, id: SessionId, rules: Rules) {
        if let Some(session) = self.session_mut(id) {
            session.rules = rules;
        }
    }

    /// Ends a session and its consumers. The caller settles what it holds first; deliveries still on their way go
    /// back to their queues. No output for the session follows.
    pub fn close_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(id.index, id.generation) else { return };
        let connection = session.connection;
        if let Some(connection) = self.connections.get_mut(connection.index, connection.generation) {
            connection.sessions.retain(|&other| other != id);
        }
        for Subscription { consumer, queue, .. } in session.subscriptions {
            if queue.home == self.config.id {
                self.unsubscribe_at_home(queue, id, consumer);
            } else {
                self.send(queue.home, Lane::Data, Letter::Unsubscribe { queue, session: id, consumer });
            }
        }
        for handed in session.held {
            self.give_back(handed);
        }
        if let Some(work) = session.work {
            self.end_session_work(id, *work);
        }
        self.drop_outputs(id);
    }

    /// Most unsettled messages of the session in all; 0 for no limit. (`basic.qos` with `global`.)
    pub fn set_session_prefetch(&mut self, id: SessionId, prefetch: u32) {
        let Some(session) = self.session_mut(id) else { return };
        session.prefetch = prefetch;
        let changes: Vec<_> = session
            .subscriptions
            .iter()
            .map(|s| (s.queue, s.consumer, session.effective_prefetch(s.prefetch)))
            .collect();
        for (queue, consumer, prefetch) in changes {
            if queue.home == self.config.id {
                self.set_prefetch_at_home(queue, id, consumer, prefetch);
            } else {
                let letter = Letter::SetPrefetch { queue, session: id, consumer, prefetch };
                self.send(queue.home, Lane::Data, letter);
            }
        }
        self.pass_held(id);
    }

    /// Adds to what a consumer may be sent. What is granted while [`Request::Subscribe`](crate::Request::Subscribe),
    /// [`Request::StopConsumer`](crate::Request::StopConsumer) or
    /// [`Request::FlushConsumer`](crate::Request::FlushConsumer) is outstanding for it counts from the answer on.
    pub fn grant_credit(&mut self, id: SessionId, consumer: u32, credit: Credit) {
        let Some(session) = self.session_mut(id) else { return };
        match session.outstanding {
            Outstanding::Subscribe { consumer: other, .. } | Outstanding::EndCredit { consumer: other }
                if other == consumer =>
            {
                session.withheld.push((consumer, credit));
            }
            _ => {
                let Some(queue) = session.subscription(consumer) else { return };
                self.grant_anywhere(queue, id, consumer, credit);
            }
        }
    }

    /// Grants what was withheld while an answer was outstanding.
    pub(super) fn grant_withheld(&mut self, id: SessionId) {
        let Some(session) = self.session_mut(id) else { return };
        for (consumer, credit) in std::mem::take(&mut session.withheld) {
            self.grant_credit(id, consumer, credit);
        }
    }

    /// Stops or resumes deliveries to the session (`channel.flow`).
    pub fn set_session_flow(&mut self, id: SessionId, active: bool) {
        let Some(session) = self.session_mut(id) else { return };
        session.flow = active;
        // Offered anew, so that deliveries that need no settlement pass those that wait for one.
        for handed in std::mem::take(&mut session.held) {
            self.hand_over(handed);
        }
    }

    /// The virtual host of that name.
    pub fn vhost(&self, name: &[u8]) -> Option<VhostId> {
        let index = self.config.vhosts.iter().position(|vhost| vhost.as_bytes() == name)?;
        Some(VhostId(index as u16))
    }

    /// A delivery reaches its session's shard.
    #[inline]
    pub(super) fn hand_over(&mut self, handed: Handed) {
        let id = handed.session;
        let Some(session) = self.sessions.get_mut(id.index, id.generation) else {
            return self.give_back(handed);
        };
        let (owner, channel) = (session.owner, session.channel);
        if let Some(handed) = session.admit(handed) {
            self.tell_delivery(owner, channel, handed);
        }
    }

    /// A delivery of the session has been settled: others may pass.
    pub(super) fn count_settled(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id.index, id.generation) else { return };
        session.unsettled = session.unsettled.saturating_sub(1);
        if !session.held.is_empty() {
            self.pass_held(id);
        }
    }

    /// What a session's gate keeps for a consumer that is no longer there goes back.
    pub(super) fn give_back_held(&mut self, id: SessionId, consumer: u32) {
        let Some(session) = self.session_mut(id) else { return };
        let (back, keep) = session.held.drain(..).partition(|handed| handed.consumer == consumer);
        session.held = keep;
        let back: VecDeque<Handed> = back;
        for handed in back {
            self.give_back(handed);
        }
    }

    /// A delivery that its client will not see: its message returns to the queue.
    pub(super) fn give_back(&mut self, handed: Handed) {
        let Handed { connection, queue, tag, message, followers, .. } = handed;
        let bytes = self.store.get(message).total_bytes() * (usize::from(followers) + 1);
        self.note_taken(connection, queue.home, bytes);
        self.put_back(queue, tag, message, followers);
    }

    /// A message that its client will not see returns to its queue. Without a tag it is not the queue's any more, nor
    /// are those that follow it; one to look at has never left.
    pub(super) fn put_back(&mut self, queue: QueueId, tag: u64, message: MessageId, followers: u16) {
        let messages = u32::from(followers) + 1;
        self.store.release_many(message, messages);
        if tag == 0 {
            self.stats.undelivered += u64::from(messages);
        } else if !is_browsed(tag) {
            self.settle_anywhere(queue, tag, Settlement::Requeue);
        }
    }

    /// Has a delivery told, which counts as taken by its connection.
    #[inline]
    fn tell_delivery(&mut self, owner: u32, channel: u16, handed: Handed) {
        let Handed {
            session,
            connection,
            consumer,
            queue,
            tag,
            message,
            followers,
            redelivered,
            ttl_left_ms,
        } = handed;
        let messages = usize::from(followers) + 1;
        let bytes = self.store.get(message).total_bytes() * messages;
        self.note_taken(connection, queue.home, bytes);
        self.stats.delivered += messages as u64;
        let delivery =
            Delivery { owner, channel, redelivered, ttl_left_ms, consumer, queue, tag, message, followers };
        self.outputs.push_back((session, Output::Delivery(delivery)));
    }

    /// Counts bytes that left this shard towards a connection, or never will.
    #[inline]
    pub(super) fn note_taken(&mut self, id: ConnectionId, home: ShardId, bytes: usize) {
        let Some(connection) = self.connections.get_mut(id.index, id.generation) else { return };
        connection.taken_bytes[home.index()] += bytes as u64;
        if connection.writable && !connection.owes_credit {
            connection.owes_credit = true;
            self.creditors.push(id);
        }
    }

    pub(super) fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(id.index, id.generation)
    }

    fn pass_held(&mut self, id: SessionId) {
        while let Some(session) = self.session_mut(id) {
            let (owner, channel) = (session.owner, session.channel);
            let Some(handed) = session.admit_held() else { return };
            self.tell_delivery(owner, channel, handed);
        }
    }
}
