//! Fulmar's reactor: bytes in, bytes out, time. One [`Transport`] per shard, used by that shard's thread alone.
//!
//! Three implementations behave the same: `uring` (multishot accept and receive, a provided buffer ring, one send in
//! flight a socket), `epoll` (where io_uring is refused), `sim` (a network, a clock and faults from a seed). Nothing
//! here knows what a message is.
//!
//! 1. A turn hands out what happened; the caller reacts; [`Transport::flush`] sends what was written. Nothing is called
//!    back, so handlers cannot re-enter the loop.
//! 2. Every accepted or connected socket ends with exactly one [`Event::Closed`], whoever closed it.
//! 3. At most one send is in flight a socket; it carries everything written since the last one.
//! 4. A connection hands out at most its budget a turn; the rest keeps its order and comes in later turns.
//! 5. After [`Transport::pause`], received bytes stay within a bound, in the kernel or here, until
//!    [`Transport::resume`].

pub mod idle;

pub use idle::{Idle, IdleStrategy};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

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

/// Received bytes, lent until [`Transport::recycle`].
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
    /// Somebody used the [`Waker`].
    Woken,
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
    /// Send what was written, shut down, and give the peer a moment to read it.
    Flush,
    /// At once.
    Abort,
}

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

/// Makes the transport's thread leave its wait. Cheap to clone, usable from any thread.
pub trait Waker: Send + Sync {
    /// The thread leaves its wait, now or before its next one; [`Event::Woken`] follows.
    fn wake(&self);
}

/// A reactor. See the crate's promises.
pub trait Transport {
    /// Listens on `addr`; port 0 picks one. Several shards may listen on one address: the kernel spreads connections
    /// (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// The system's, with the address in the text.
    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)>;

    /// Stops accepting.
    fn unlisten(&mut self, listener: ListenerId);

    /// Starts connecting; [`Event::Connected`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// No socket could be made.
    fn connect(&mut self, addr: SocketAddr) -> io::Result<ConnId>;

    /// One turn: submits what is pending, waits as allowed, appends what happened to `events`.
    ///
    /// # Errors
    /// The reactor itself failed; the shard cannot go on.
    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()>;

    /// The bytes of a received buffer.
    fn bytes(&self, buf: &RecvBuf) -> &[u8];

    /// Gives a received buffer back.
    fn recycle(&mut self, buf: RecvBuf);

    /// Where to append what the connection shall send; goes out at the next [`Transport::flush`]. `None` for a
    /// connection that is gone or closing.
    fn output(&mut self, conn: ConnId) -> Option<&mut Vec<u8>>;

    /// Bytes written and not yet taken by the kernel, in flight included.
    fn pending_bytes(&self, conn: ConnId) -> usize;

    /// Starts a send on every connection that has output and none in flight.
    fn flush(&mut self);

    /// Stops handing out received bytes.
    fn pause(&mut self, conn: ConnId);

    /// Goes on after [`Transport::pause`].
    fn resume(&mut self, conn: ConnId);

    /// Closes the connection. [`Event::Closed`] follows in a later turn; no [`Event::Received`] does.
    fn close(&mut self, conn: ConnId, how: Close);

    /// Nanoseconds on the monotonic clock of this transport (simulated: of the simulation).
    fn now_ns(&self) -> u64;

    /// Milliseconds since 1970.
    fn wall_ms(&self) -> u64;

    /// A waker for this transport.
    fn waker(&self) -> Arc<dyn Waker>;

    /// `io_uring`, `epoll` or `sim`.
    fn name(&self) -> &'static str;
}
