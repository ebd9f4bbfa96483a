//! The engine of one shard.

use crate::message::{MessageHeader, MessageView};
use crate::{
    ConnectionId, Limits, MessageId, Name, QueueId, Refusal, Reply, Request, SessionId, ShardId, VhostId,
};

/// The time, as the caller tells it. The core has no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds since some fixed moment; never goes back.
    pub monotonic_ns: u64,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub id: ShardId,
    /// How many there are.
    pub shards: u8,
    /// Bounds.
    pub limits: Limits,
    /// Virtual hosts that exist from the start, the default one (`/`) first. [`VhostId`] is the index.
    pub vhosts: Vec<Name>,
    /// Seed of generated names and of the random exchange. Shards of one broker get different ones.
    pub seed: u64,
}

/// A session's end of an unsettled or settled message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done with it.
    Accept,
    /// Put back to its place in the queue, marked redelivered.
    Requeue,
    /// Dead-letter or drop.
    Reject,
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Every queue that should has it, or the exchange had no queue for it and it was not mandatory.
    Confirmed,
    /// A queue refused it (overflow `reject-publish`).
    Rejected,
    /// [`Output::Confirmed`] will tell. Only if a confirm was asked for.
    Pending,
    /// Mandatory and no queue takes it. The message is the caller's again: return it to the client, then release it.
    Unroutable(MessageId),
}

/// A message on its way to a client.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// `owner` of the connection, as given to [`Shard::open_connection`].
    pub owner: u32,
    /// `channel` of the session, as given to [`Shard::open_session`].
    pub channel: u16,
    /// May have been delivered before.
    pub redelivered: bool,
    /// Consumer, as chosen at subscription.
    pub consumer: u32,
    /// Where it came from, for settling.
    pub queue: QueueId,
    /// Its handle there, for settling; meaningless for consumers without acknowledgement.
    pub tag: u64,
    /// The message. The receiver releases it once encoded.
    pub message: MessageId,
}

/// What a shard has to tell the connections that live on it.
#[derive(Debug)]
pub enum Output {
    /// A message for a consumer.
    Delivery(Delivery),
    /// The answer to the session's outstanding request.
    Reply {
        /// Owner of the connection.
        owner: u32,
        /// Channel of the session.
        channel: u16,
        /// The answer.
        result: Box<Result<Reply, Refusal>>,
    },
    /// The end of a publish that was [`Published::Pending`].
    Confirmed {
        /// Owner of the connection.
        owner: u32,
        /// Channel of the session.
        channel: u16,
        /// The number given at publishing.
        sequence: u64,
        /// Whether every queue took it.
        accepted: bool,
    },
    /// The broker ended a consumer (its queue is gone).
    ConsumerCancelled {
        /// Owner of the connection.
        owner: u32,
        /// Channel of the session.
        channel: u16,
        /// Consumer, as chosen at subscription.
        consumer: u32,
    },
}

/// One shard: the queues at home here, the sessions of the connections that live here, a replica of the topology.
///
/// A turn of its thread: [`Shard::set_clock`], calls for what arrived, [`Shard::turn`], take every
/// [`Shard::next_output`], [`Shard::publish_lanes`].
pub struct Shard {
    _todo: (),
}

impl Shard {
    /// Tells the time. Once a turn, before anything else.
    pub fn set_clock(&mut self, _clock: Clock) {
        todo!()
    }

    /// Registers a connection. `owner` is the caller's handle and comes back in outputs.
    pub fn open_connection(&mut self, _owner: u32) -> ConnectionId {
        todo!()
    }

    /// Ends a connection: its sessions, and the exclusive queues that it declared.
    pub fn close_connection(&mut self, _connection: ConnectionId) {
        todo!()
    }

    /// Whether the connection can take more output. While it cannot, what is on its way to it is bounded by
    /// `delivery_window_bytes` for each shard.
    pub fn set_writable(&mut self, _connection: ConnectionId, _writable: bool) {
        todo!()
    }

    /// Opens a session. `channel` comes back in outputs.
    pub fn open_session(&mut self, _connection: ConnectionId, _channel: u16) -> SessionId {
        todo!()
    }

    /// Ends a session and its consumers. The caller settles what it holds first; deliveries still on their way go
    /// back to their queues. No output for the session follows.
    pub fn close_session(&mut self, _session: SessionId) {
        todo!()
    }

    /// Most unsettled messages of the session in all; 0 for no limit. (`basic.qos` with `global`.)
    pub fn set_session_prefetch(&mut self, _session: SessionId, _prefetch: u32) {
        todo!()
    }

    /// Stops or resumes deliveries to the session (`channel.flow`).
    pub fn set_session_flow(&mut self, _session: SessionId, _active: bool) {
        todo!()
    }

    /// The virtual host of that name.
    pub fn vhost(&self, _name: &[u8]) -> Option<VhostId> {
        todo!()
    }

    /// Carries out a request. `None`: the answer comes as [`Output::Reply`], and the session waits until then.
    pub fn request(&mut self, _session: SessionId, _request: Request) -> Option<Result<Reply, Refusal>> {
        todo!()
    }

    /// Starts a message. Its body follows by [`Shard::append_body`]. The caller owns the message until it publishes or
    /// releases it.
    pub fn begin_message(&mut self, _header: &MessageHeader<'_>) -> MessageId {
        todo!()
    }

    /// Adds to the body of a message that is not complete. Memory is taken as the bytes arrive.
    pub fn append_body(&mut self, _message: MessageId, _bytes: &[u8]) {
        todo!()
    }

    /// Routes a complete message and hands it to its queues. Takes the message over, except as
    /// [`Published::Unroutable`] says. `confirm`: a number that comes back in [`Output::Confirmed`] if the answer is
    /// [`Published::Pending`].
    ///
    /// # Errors
    /// [`Refusal::NoExchange`] and [`Refusal::Internal`]; the message is released.
    pub fn publish(
        &mut self,
        _session: SessionId,
        _vhost: VhostId,
        _message: MessageId,
        _mandatory: bool,
        _confirm: Option<u64>,
    ) -> Result<Published, Refusal> {
        todo!()
    }

    /// Settles a message that was delivered to the session. A queue that has gone meanwhile is no error.
    pub fn settle(&mut self, _session: SessionId, _queue: QueueId, _tag: u64, _settlement: Settlement) {
        todo!()
    }

    /// A look at a message that the caller holds.
    pub fn message(&self, _message: MessageId) -> MessageView<'_> {
        todo!()
    }

    /// Gives a message back.
    pub fn release(&mut self, _message: MessageId) {
        todo!()
    }

    /// Takes in what other shards sent, serves queues that became ready, does what is due. Returns whether there was
    /// anything to do, which the caller's idle strategy wants to know.
    pub fn turn(&mut self) -> bool {
        todo!()
    }

    /// The next thing to tell a connection.
    pub fn next_output(&mut self) -> Option<Output> {
        todo!()
    }

    /// Makes what this turn sent visible to the other shards and wakes those asleep. Last call of a turn.
    pub fn publish_lanes(&mut self) {
        todo!()
    }

    /// Announces that the thread wants to sleep. `false`: something has arrived meanwhile, take another turn.
    /// After `true`, call [`Shard::awake`] when back.
    pub fn prepare_sleep(&mut self) -> bool {
        todo!()
    }

    /// The thread is back from sleep.
    pub fn awake(&mut self) {
        todo!()
    }

    /// When [`Shard::turn`] has something to do even if nothing arrives, on the monotonic clock in nanoseconds.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        todo!()
    }

    /// Whether sources should stop being read: messages held have met the limit, or a lane has a backlog.
    pub fn is_congested(&self) -> bool {
        todo!()
    }

    /// Bytes of messages held, their buffers' capacity counted.
    pub fn memory_bytes(&self) -> u64 {
        todo!()
    }

    /// Whether this turn left work for another turn that must not wait.
    pub fn has_work(&self) -> bool {
        todo!()
    }
}
