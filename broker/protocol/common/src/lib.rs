//! What Fulmar's protocols have in common: how the server side of a connection is driven, what it asks of its caller,
//! and what it counts. Each protocol is a crate with an implementation of [`Connection`]; none of them performs I/O.

mod counters;
mod login;
mod switch;
pub mod testing;
mod whereabouts;

use std::fmt;

use fulmar_core::shard::Delivery;
use fulmar_core::{ConnectionId, Output, Shard, ShardId};

pub use counters::{Counters, Faults};
pub use login::{Accepted, Exchange, Layer, Login, LoginAnswer, MAX_LOGIN_ROUNDS, Seat};
pub use switch::Switch;
pub use whereabouts::{Entry, Whereabouts};

/// `connection-forced`: what a broker that stops tells the clients of every version of AMQP before 1.0.
pub const CONNECTION_FORCED: u16 = 320;

/// What a connection needs for one call.
pub struct Context<'a> {
    /// The shard on which the connection lives.
    pub shard: &'a mut Shard,
    /// Where to append what the peer shall be sent.
    pub out: &'a mut Vec<u8>,
    /// The monotonic clock, in nanoseconds.
    pub now_ns: u64,
}

/// What the broker offers and requires; the same for every connection of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// Product name and version, told in the server properties.
    pub product: String,
    /// Version, told in the server properties.
    pub version: String,
    /// Cluster name, told in the server properties.
    pub cluster_name: String,
    /// Which broker this is, among all: a UUID, told to peers that are brokers themselves.
    pub broker_id: String,
    /// Offered maximum frame size in bytes, frame header and end octet included.
    pub frame_max_bytes: u32,
    /// Offered maximum channel number.
    pub channel_max: u16,
    /// Offered heartbeat in seconds; 0 for none.
    pub heartbeat_s: u16,
    /// How long a peer may take from connecting to the end of the handshake, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// SASL mechanisms offered, in order of preference.
    pub mechanisms: Vec<String>,
    /// Most consumers that a channel or session may have.
    pub max_consumers_per_channel: u32,
    /// Largest message body, in bytes.
    pub max_message_bytes: u64,
    /// Whether messages that come by AMQP 0-10 are given the time of their receipt (delivery-properties, `timestamp`).
    pub timestamps: Switch,
    /// Where else clients of AMQP 0-10 find this broker or another of its kind, as URLs (`amqp:tcp:host:port`).
    pub known_hosts: Vec<String>,
    /// Where the sessions of AMQP 0-10 live that outlive their connections; one for all shards of a broker.
    pub whereabouts: Whereabouts,
    /// Whether connections can go on on another shard.
    pub can_move: bool,
}

/// What a connection wants its caller to do.
pub enum Action {
    /// Check a round of a login.
    Authenticate(Box<Login>),
    /// Put a layer between the connection and its socket. It is for what is written from now on, and for all input that the
    /// connection has not taken; it takes none before it is asked for what comes next.
    Protect(Layer),
    /// Close the socket once the output is sent. The reason is for the log; `error` says whether it is a fault.
    Close {
        /// One line.
        reason: String,
        /// A fault of the peer, rather than an orderly end.
        error: bool,
    },
    /// Go on on another shard: let the connection leave with [`Connection::leave`], take it there with the socket, what
    /// was not sent and the input that was not taken, and let it arrive with [`Traveller::arrive`].
    Move {
        /// Where to.
        shard: ShardId,
    },
}

impl fmt::Debug for Action {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Authenticate(login) => write!(f, "Authenticate({login:?})"),
            Action::Protect(_) => f.write_str("Protect"),
            Action::Close { reason, error } => write!(f, "Close {{ reason: {reason:?}, error: {error} }}"),
            Action::Move { shard } => write!(f, "Move {{ shard: {shard:?} }}"),
        }
    }
}

/// A connection on its way to another shard.
pub trait Traveller: Send {
    /// Goes on on the shard of the context, with `owner` in its outputs. It may have something to send.
    fn arrive(self: Box<Self>, cx: &mut Context<'_>, owner: u32) -> Box<dyn Connection>;
}

/// The server side of one connection, after its protocol was recognised.
///
/// 1. Every call takes as much input as it is given and returns; one connection never blocks another.
/// 2. While the answer to a request is outstanding the connection is *parked*: it takes no more input, so that order
///    within a session holds with queues on any shard.
/// 3. A peer's fault ends a session or the connection as the protocol specifies, never the process.
pub trait Connection {
    /// The connection as its shard knows it.
    fn id(&self) -> ConnectionId;

    /// `peer -> local`, as given.
    fn name(&self) -> &str;

    /// Who has logged in; empty before.
    fn user(&self) -> &str;

    /// The virtual host; empty before it is chosen.
    fn vhost(&self) -> &str;

    /// What happened so far.
    fn counters(&self) -> &Counters;

    /// Whether the handshake is over and no close has begun.
    fn is_open(&self) -> bool;

    /// Whether input has to wait for an output of the shard or for a login.
    fn is_parked(&self) -> bool;

    /// Whether the peer has published anything.
    fn is_publisher(&self) -> bool {
        self.counters().published > 0
    }

    /// Takes frames from `input` and returns how many bytes it took. Fewer than given: the rest is an incomplete
    /// frame, or the connection is parked, waiting for a login or closing; the caller keeps it and gives it again with
    /// what follows. After [`Action::Close`] all input is taken and ignored.
    fn receive(&mut self, cx: &mut Context<'_>, input: &[u8]) -> usize;

    /// An output of the shard for this connection. Takes over the message in it.
    fn output(&mut self, cx: &mut Context<'_>, output: Output);

    /// A delivery of the shard, and those to the same channel that follow it in the shard's line. Takes over the
    /// messages in them. Returns how many.
    fn deliver(&mut self, cx: &mut Context<'_>, first: Delivery) -> u64;

    /// The answer to [`Action::Authenticate`].
    fn authenticated(&mut self, cx: &mut Context<'_>, answer: LoginAnswer);

    /// End of a turn in which this connection was called: writes what was collected.
    fn end_of_turn(&mut self, cx: &mut Context<'_>);

    /// Time passes: heartbeats out, silence of the peer noticed, handshake time-out. Returns when to be called next, on
    /// the monotonic clock.
    fn tick(&mut self, cx: &mut Context<'_>) -> Option<u64>;

    /// Whether the peer takes what it is sent: while it does not, the connection gets no more than it has room for.
    fn set_writable(&mut self, shard: &mut Shard, writable: bool) {
        shard.set_writable(self.id(), writable);
    }

    /// The caller has stopped reading the peer, or goes on: silence of a peer that is not read is no fault of it.
    fn set_reading(&mut self, now_ns: u64, reading: bool);

    /// Tells a publishing peer that the broker is short of `reason`, or `None` that it no longer is, if the peer can be
    /// told.
    fn set_blocked(&mut self, cx: &mut Context<'_>, reason: Option<&str>);

    /// Starts an orderly close by the broker with this code and text. [`Action::Close`] follows with the peer's answer or
    /// its time-out.
    fn shut_down(&mut self, cx: &mut Context<'_>, code: u16, text: &str);

    /// What the caller has to do next, if anything. To be asked after every call.
    fn next_action(&mut self) -> Option<Action>;

    /// Leaves its shard, having asked for [`Action::Move`]: gives back everything there. `None`: it has not asked.
    fn leave(self: Box<Self>, _shard: &mut Shard) -> Option<Box<dyn Traveller>> {
        None
    }

    /// The socket is gone: gives back everything (unsettled messages to their queues, sessions, exclusive queues). Returns
    /// the fault for which the peer had been told to go, if it went without an answer.
    fn closed(&mut self, shard: &mut Shard) -> Option<String>;
}
