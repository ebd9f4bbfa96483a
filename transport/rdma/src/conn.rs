//! One connection of a [`Side`](crate::Side).

use std::collections::VecDeque;
use std::net::SocketAddr;

use fulmar_transport::{CloseReason, RecvBuf};

use crate::credit::Credit;
use crate::memory::{Block, Outbox};
use crate::wire::Cutter;

/// Where a connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The way to the peer is looked for.
    Resolving,
    /// The peer was asked.
    Connecting,
    /// The peer was answered.
    Accepting,
    /// Bytes flow.
    Open,
    /// Sending the rest; nothing is handed out any more.
    Closing,
    /// Disconnected; waiting for what was under way to be flushed.
    Draining {
        /// Whether what still came is handed out.
        hands_out: bool,
    },
}

/// What a send needs until it has ended.
pub(crate) enum Held {
    /// A unit of the chunks.
    Chunk(u32),
    /// A unit of the receive buffers.
    Large(u32),
    /// Output that was sent from where it was written.
    Block(Block),
}

/// The sends of a connection that have not ended, as far as is known.
#[derive(Default)]
pub(crate) struct SendQueue {
    /// How many were posted, and how many of them have ended.
    pub(crate) posted: u64,
    pub(crate) ended: u64,
    /// Posted since the last one that tells its end.
    pub(crate) untold: u32,
    /// In the order of the sends that need them: up to this count.
    pub(crate) held: VecDeque<(u64, Held)>,
}

pub(crate) struct Conn {
    pub(crate) endpoint: u32,
    pub(crate) port: u8,
    pub(crate) state: State,
    /// Has queues, so that it may have to be disconnected and drained.
    pub(crate) is_opened: bool,
    pub(crate) is_disconnected: bool,
    /// The caller knows of it.
    pub(crate) is_known: bool,
    /// By this listener of the device.
    pub(crate) listener: Option<u32>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) version: u16,
    pub(crate) native: bool,
    /// Most bytes of data in a message to the peer.
    pub(crate) message_bytes: u32,
    pub(crate) inline_bytes: u32,
    pub(crate) credit: Credit,
    pub(crate) cutter: Cutter,
    /// All receive buffers of this connection.
    pub(crate) units: Vec<u32>,
    /// Those that are to be posted again.
    pub(crate) fresh: Vec<u32>,
    pub(crate) receives_posted: u32,
    pub(crate) sends: SendQueue,
    /// Where the trailers of messages lie that are sent from where they were written.
    pub(crate) trailers: Option<u32>,
    pub(crate) outbox: Outbox,
    /// Received and not handed out yet.
    pub(crate) backlog: VecDeque<RecvBuf>,
    /// Why it ends; told once the backlog is handed out.
    pub(crate) reason: Option<CloseReason>,
    /// When whatever it waits for takes too long, in nanoseconds.
    pub(crate) deadline_ns: Option<u64>,
    pub(crate) paused: bool,
    /// Output waits for credit.
    pub(crate) is_stalled: bool,
    /// On the list of connections with something to post.
    pub(crate) dirty: bool,
    /// On the list of connections with more to hand out, or to be told as closed.
    pub(crate) carried: bool,
    /// The turn in which `turn_bytes` were handed out.
    pub(crate) turn: u32,
    pub(crate) turn_bytes: u32,
}

impl Conn {
    pub(crate) fn new(endpoint: u32, state: State, peer: SocketAddr, local: SocketAddr) -> Self {
        Conn {
            endpoint,
            port: 0,
            is_opened: false,
            is_disconnected: false,
            is_known: state != State::Accepting,
            listener: None,
            peer,
            local,
            version: 1,
            native: false,
            message_bytes: 0,
            inline_bytes: 0,
            credit: Credit::new(0, 0),
            cutter: Cutter::Unknown,
            units: Vec::new(),
            fresh: Vec::new(),
            receives_posted: 0,
            sends: SendQueue::default(),
            trailers: None,
            outbox: Outbox::default(),
            backlog: VecDeque::new(),
            reason: None,
            deadline_ns: None,
            paused: false,
            is_stalled: false,
            state,
            dirty: false,
            carried: false,
            turn: 0,
            turn_bytes: 0,
        }
    }

    /// Whether received bytes are still wanted.
    pub(crate) fn hands_out(&self) -> bool {
        matches!(self.state, State::Accepting | State::Open | State::Draining { hands_out: true })
    }

    /// Whether nothing can come any more. What was sent is no matter: a send that does not tell its end never will, and its
    /// memory is free once the queues are gone.
    pub(crate) fn is_drained(&self) -> bool {
        self.receives_posted == 0
    }

    /// Whether `len` more bytes may be handed out in this turn; notes them if so. A turn hands out at least one buffer.
    pub(crate) fn within_budget(&mut self, turn: u32, len: u32, budget: u32) -> bool {
        if self.turn != turn {
            self.turn = turn;
            self.turn_bytes = 0;
        }
        let within = self.turn_bytes == 0 || self.turn_bytes.saturating_add(len) <= budget;
        if within {
            self.turn_bytes = self.turn_bytes.saturating_add(len);
        }
        within
    }
}
