//! The server side of a connection: from the protocol header to the close, channels and their consumers, confirms
//! and transactions. Turns bytes into calls on a [`Shard`] and its outputs into bytes.
//!
//! 1. One connection never blocks another: every call takes as much input as it is given and returns.
//! 2. While the answer to a request is outstanding the connection is *parked*: it takes no more input, so that order
//!    within a channel holds with queues on any shard.
//! 3. A peer's fault ends the channel or the connection with the specified reply code, never the process.

use std::sync::Arc;

use fulmar_core::{ConnectionId, Output, Shard};

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
    /// Offered maximum frame size in bytes, frame header and end octet included.
    pub frame_max_bytes: u32,
    /// Offered maximum channel number.
    pub channel_max: u16,
    /// Offered heartbeat in seconds; 0 for none.
    pub heartbeat_s: u16,
    /// How long a peer may take from connecting to `connection.open`, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// SASL mechanisms offered, in order of preference.
    pub mechanisms: Vec<String>,
    /// Most consumers a channel may have.
    pub max_consumers_per_channel: u32,
    /// Largest message body, in bytes.
    pub max_message_bytes: u64,
}

/// A login to be checked by the caller, who answers with [`Connection::authenticated`]; checking may take long, so it
/// is not done here.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `PLAIN`, `AMQPLAIN`, `ANONYMOUS`, …
    pub mechanism: String,
    /// User name; empty for mechanisms without one.
    pub user: String,
    /// Password; empty for mechanisms without one.
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login {{ mechanism: {:?}, user: {:?}, .. }}", self.mechanism, self.user)
    }
}

/// What the connection wants its caller to do.
#[derive(Debug)]
pub enum Action {
    /// Check a login.
    Authenticate(Box<Login>),
    /// Close the socket once the output is sent. The reason is for the log; `error` says whether it is a fault.
    Close {
        /// One line.
        reason: String,
        /// A fault of the peer, rather than an orderly end.
        error: bool,
    },
}

/// One connection.
pub struct Connection {
    _todo: (),
}

impl Connection {
    /// After the protocol header `AMQP 0 0 9 1` has been received (it is not part of what [`Connection::receive`] gets).
    /// Writes `connection.start`. `owner` comes back in the shard's outputs; `loopback` tells whether the peer is on
    /// this host; `name` is `peer -> local`, for listings and logs.
    pub fn new(
        _config: Arc<Config>,
        _cx: &mut Context<'_>,
        _owner: u32,
        _loopback: bool,
        _name: String,
    ) -> Self {
        todo!()
    }

    /// The connection as its shard knows it.
    pub fn id(&self) -> ConnectionId {
        todo!()
    }

    /// Whether the handshake is over: `connection.open-ok` was written.
    pub fn is_open(&self) -> bool {
        todo!()
    }

    /// The caller has stopped reading the peer, or goes on: silence of a peer that is not read is no fault of it.
    pub fn set_reading(&mut self, _now_ns: u64, _reading: bool) {
        todo!()
    }

    /// Takes frames from `input` and returns how many bytes it took. Fewer than given: the rest is an incomplete
    /// frame, or the connection is parked, waiting for a login or closing; the caller keeps it and gives it again with
    /// what follows. After [`Action::Close`] all input is taken and ignored.
    pub fn receive(&mut self, _cx: &mut Context<'_>, _input: &[u8]) -> usize {
        todo!()
    }

    /// Whether input has to wait for an output of the shard or for a login.
    pub fn is_parked(&self) -> bool {
        todo!()
    }

    /// An output of the shard for this connection. Takes over the message in it.
    pub fn output(&mut self, _cx: &mut Context<'_>, _output: Output) {
        todo!()
    }

    /// The answer to [`Action::Authenticate`]: the user's name, or why not (for the log; the peer learns only that it
    /// was refused).
    pub fn authenticated(&mut self, _cx: &mut Context<'_>, _result: Result<String, String>) {
        todo!()
    }

    /// End of a turn in which this connection was called: writes what was collected (confirms).
    pub fn end_of_turn(&mut self, _cx: &mut Context<'_>) {
        todo!()
    }

    /// Time passes: heartbeats out, silence of the peer noticed, handshake time-out. Returns when to be called next.
    pub fn tick(&mut self, _cx: &mut Context<'_>) -> Option<u64> {
        todo!()
    }

    /// Tells a publishing peer that the broker is short of `reason` (`connection.blocked`), or `None` that it no
    /// longer is, if the peer can be told.
    pub fn set_blocked(&mut self, _cx: &mut Context<'_>, _reason: Option<&str>) {
        todo!()
    }

    /// Whether the peer has published anything.
    pub fn is_publisher(&self) -> bool {
        todo!()
    }

    /// Starts an orderly close by the broker: `connection.close` with this code and text. [`Action::Close`] follows
    /// with the peer's answer or its time-out.
    pub fn shut_down(&mut self, _cx: &mut Context<'_>, _code: u16, _text: &str) {
        todo!()
    }

    /// What the caller has to do next, if anything. To be asked after every call.
    pub fn next_action(&mut self) -> Option<Action> {
        todo!()
    }

    /// The socket is gone: gives back everything (unsettled messages to their queues, sessions, exclusive queues).
    pub fn closed(&mut self, _shard: &mut Shard) {
        todo!()
    }
}
