//! The words of the [`Transport`](crate::Transport) trait.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::FileDone;

#[cfg(doc)]
use crate::{Transport, Waker};

/// A socket of this transport: slot and generation. Stale ones are ignored by every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Slot; small and dense, so that the caller can index a table by it.
    pub index: u32,
    /// Distinguishes successive users of the slot.
    pub generation: u32,
}

/// A listening socket of this transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// Received bytes, lent until [`Transport::recycle`]. There are few buffers for all connections: copy out what has to
/// wait for long.
#[derive(Debug, PartialEq, Eq)]
pub struct RecvBuf {
    /// Which buffer; the implementation's business.
    pub id: u32,
    /// Offset of the first byte.
    pub offset: u32,
    /// How many bytes.
    pub len: u32,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer closed its side in order.
    Peer,
    /// The peer reset it, or the network failed; the error's number.
    Error(i32),
    /// This side closed it.
    Local,
}

/// A connection between two transports of one kind. Dropping it closes a socket of the kernel.
#[derive(Debug)]
pub struct Detached {
    pub(crate) socket: Socket,
    /// What was written and not sent.
    pub(crate) unsent: Vec<u8>,
    /// What arrived and was not handed out, in order; whoever adopts the connection takes it before anything else of it.
    pub received: Vec<u8>,
}

/// What a connection is to its kind of transport.
#[derive(Debug)]
pub(crate) enum Socket {
    Real(OwnedFd),
    /// The number of an end in the simulated network.
    Simulated(usize),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted. Receiving has started.
    Accepted {
        /// By this listener.
        listener: ListenerId,
        /// The connection.
        conn: ConnId,
        /// The other end.
        peer: SocketAddr,
        /// This end.
        local: SocketAddr,
    },
    /// A connection asked for by [`Transport::connect`] stands. Receiving has started.
    Connected {
        /// The connection.
        conn: ConnId,
    },
    /// Bytes arrived. Look with [`Transport::bytes`], then [`Transport::recycle`].
    Received {
        /// On this connection.
        conn: ConnId,
        /// The bytes.
        buf: RecvBuf,
    },
    /// What was written has drained below the low-water mark, after having stood above the high one.
    Drained {
        /// On this connection.
        conn: ConnId,
    },
    /// The connection is over; the slot will be used again.
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// The connection is this transport's no longer, as [`Transport::detach`] asked; the slot will be used again.
    Detached {
        /// The connection.
        conn: ConnId,
        /// What there is to adopt.
        detached: Box<Detached>,
    },
    /// An operation on a file has ended.
    File(FileDone),
    /// A descriptor that is watched has become readable.
    Ready,
    /// Somebody used the [`Waker`].
    Woken,
}

/// What connections over RDMA have done so far, and what they hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaCounts {
    /// Connections that exist, those that are being made or flushed included.
    pub connections: u64,
    /// Bytes of memory that are locked for them.
    pub locked_bytes: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Messages sent, those that only grant credit included.
    pub sends: u64,
    /// Those of them that tell their end.
    pub signaled: u64,
    /// Those that went inline.
    pub inline: u64,
    /// Those that only grant credit.
    pub grants: u64,
    /// Times that sends were posted.
    pub send_posts: u64,
    /// Messages received.
    pub receives: u64,
    /// Times that receives were posted.
    pub receive_posts: u64,
    /// Bytes of data sent, without what goes with each message.
    pub sent_bytes: u64,
    /// Bytes of data received, likewise.
    pub received_bytes: u64,
    /// Times that output had to wait for the peer's credit.
    pub credit_stalls: u64,
    /// Completions taken.
    pub completions: u64,
    /// Bytes of output that were copied before they were sent.
    pub copied_bytes: u64,
    /// Bytes of output that were sent from where they were written.
    pub direct_bytes: u64,
    /// Connections refused: by what they asked for, or because there were too many.
    pub refused: u64,
    /// Those who asked to connect here and were handed over to other threads.
    pub handed_over: u64,
}

/// How long a turn may wait if nothing has happened yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Poll,
    /// Until something happens, or the monotonic clock shows this many nanoseconds.
    Until(Option<u64>),
}

/// How to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Send what was written, shut down, and give the peer a moment to read it, unless it sends on and on.
    Flush,
    /// At once.
    Abort,
}

/// Bytes of a peer that are thrown away while its connection is closed in order; whoever sends more does not listen, and is
/// reset.
pub(crate) const MAX_DISCARDED_BYTES: u32 = 1 << 20;

/// Bounds and sizes of one transport.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of a receive buffer, in bytes.
    pub recv_buffer_bytes: u32,
    /// Receive buffers; a power of two.
    pub recv_buffers: u16,
    /// Bytes that a connection hands out a turn before others get theirs.
    pub turn_budget_bytes: u32,
    /// Written but unsent bytes above which a connection counts as full.
    pub high_water_bytes: usize,
    /// Bytes below which [`Event::Drained`] is told.
    pub low_water_bytes: usize,
    /// Entries of the submission queue.
    pub ring_entries: u32,
    /// Most connections.
    pub max_connections: u32,
    /// Longest time that a closing connection may take to flush, in milliseconds.
    pub close_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            recv_buffer_bytes: 16 * 1024,
            recv_buffers: 1024,
            turn_budget_bytes: 128 * 1024,
            high_water_bytes: 256 * 1024,
            low_water_bytes: 64 * 1024,
            ring_entries: 1024,
            max_connections: 65_536,
            close_timeout_ms: 5_000,
        }
    }
}
