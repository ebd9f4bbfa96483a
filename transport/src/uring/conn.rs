//! One connection of the io_uring transport.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::outbox::Outbox;
use crate::socket::RawAddr;
use crate::{CloseReason, RecvBuf};

/// Where a connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The connect is in flight.
    Connecting,
    /// Bytes flow.
    Open,
    /// Sending the rest, then waiting for the peer's end; nothing is handed out any more.
    Closing { reason: CloseReason, shut: bool },
    /// Given up; waiting for the operations in flight to end.
    Leaving,
    /// Waiting for the operations in flight to end.
    Dying { reason: CloseReason },
}

pub(super) struct Conn {
    pub(super) socket: OwnedFd,
    pub(super) state: State,
    pub(super) outbox: Outbox,
    /// Received and not handed out yet.
    pub(super) backlog: VecDeque<RecvBuf>,
    pub(super) backlog_bytes: usize,
    /// The receiving side has ended, for this reason; told once the backlog is handed out.
    pub(super) ended: Option<CloseReason>,
    /// The number of a send's error; the receiving side ends soon, what arrived before is handed out first.
    pub(super) send_error: i32,
    /// Thrown away since it is being closed.
    pub(super) discarded_bytes: u32,
    /// Operations that the kernel has.
    pub(super) in_flight: u32,
    pub(super) receiving: bool,
    pub(super) cancelling: bool,
    pub(super) sending: bool,
    pub(super) paused: bool,
    /// On the transport's list of connections with output.
    pub(super) dirty: bool,
    /// On the transport's list of connections with more to hand out.
    pub(super) carried: bool,
    /// Its receive found no buffer and waits for its turn to be armed again.
    pub(super) starved: bool,
    /// Bytes arrived since receiving was last armed.
    pub(super) progressed: bool,
    /// The turn in which `turn_bytes` were handed out.
    pub(super) turn: u32,
    pub(super) turn_bytes: u32,
    /// Where to connect to; read by the kernel when the operation is submitted.
    pub(super) target: Option<Box<RawAddr>>,
}

impl Conn {
    pub(super) fn new(socket: OwnedFd, state: State) -> Self {
        Conn {
            socket,
            state,
            outbox: Outbox::default(),
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            ended: None,
            send_error: 0,
            discarded_bytes: 0,
            in_flight: 0,
            receiving: false,
            cancelling: false,
            sending: false,
            paused: false,
            dirty: false,
            carried: false,
            starved: false,
            progressed: false,
            turn: 0,
            turn_bytes: 0,
            target: None,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    pub(super) fn is_dying(&self) -> bool {
        matches!(self.state, State::Dying { .. })
    }

    /// Whether nothing is left of it but operations in flight.
    pub(super) fn is_going(&self) -> bool {
        matches!(self.state, State::Dying { .. } | State::Leaving)
    }

    /// Whether a receive should be in flight.
    pub(super) fn wants_receive(&self, most_backlog: usize) -> bool {
        self.ended.is_none()
            && match self.state {
                State::Open => !self.paused && self.backlog_bytes <= most_backlog,
                State::Closing { .. } => true,
                State::Connecting | State::Leaving | State::Dying { .. } => false,
            }
    }

    /// Whether `len` more bytes may be handed out in this turn; notes them if so. A turn hands out at least one buffer.
    pub(super) fn within_budget(&mut self, turn: u32, len: u32, budget: u32) -> bool {
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
