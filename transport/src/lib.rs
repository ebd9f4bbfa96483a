//! Fulmar's reactor: bytes in, bytes out, files, time. One [`Transport`] per shard, used by that shard's thread alone.
//!
//! Three implementations behave the same: `uring` (multishot accept and receive, a provided buffer ring, one send in
//! flight a socket), `epoll` (where io_uring is refused), `sim` (a network, a clock and faults from a seed). Nothing
//! here knows what a message is.
//!
//! 1. A turn hands out what happened; the caller reacts; [`Transport::flush`] sends what was written. Nothing is called
//!    back, so handlers cannot re-enter the loop.
//! 2. Every accepted, connected or adopted socket ends with exactly one [`Event::Closed`], whoever closed it, or leaves
//!    with exactly one [`Event::Detached`], with nothing lost on either way.
//! 3. At most one send is in flight a socket; it carries everything written since the last one.
//! 4. A connection hands out at most its budget a turn; the rest keeps its order and comes in later turns.
//! 5. After [`Transport::pause`], received bytes stay within a bound, in the kernel or here, until
//!    [`Transport::resume`].
//! 6. Every operation on a file ends with exactly one [`Event::File`], in a later turn than the call.

pub mod file;
pub mod idle;
pub mod sim;

mod clock;
mod epoll;
mod files;
mod memory;
mod open;
mod outbox;
mod slots;
mod socket;
mod types;
mod uring;
mod waker;

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

pub use epoll::EpollTransport;
pub use file::{FileDone, FileId, FileOperation};
pub use idle::{Idle, IdleStrategy};
pub use memory::AlignedBuf;
pub use open::{AnyTransport, IoChoice, open};
pub use types::{Close, CloseReason, Config, ConnId, Detached, Event, ListenerId, RdmaCounts, RecvBuf, Wait};
pub use uring::{UringRefused, UringTransport};

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

    /// Moves bytes to a connection's output; they are lost for one that is gone or closing. May exchange the two buffers.
    #[inline]
    fn append(&mut self, conn: ConnId, bytes: &mut Vec<u8>) {
        match self.output(conn) {
            Some(out) if out.is_empty() => std::mem::swap(out, bytes),
            Some(out) => out.extend_from_slice(bytes),
            None => {}
        }
        bytes.clear();
    }

    /// The longest AMQP frame that a connection can carry, in bytes; `None` where it carries a stream.
    fn largest_frame_bytes(&self, _conn: ConnId) -> Option<u32> {
        None
    }

    /// What connections over RDMA have done; `None` where there can be none.
    fn rdma_counts(&self) -> Option<RdmaCounts> {
        None
    }

    /// Has turns end their wait when this descriptor becomes readable, with [`Event::Ready`], from now on. It is told of
    /// when it becomes readable, not as long as it is, and stays open as long as the transport.
    ///
    /// # Errors
    /// The system's, or this transport has no descriptors.
    fn watch(&mut self, _fd: RawFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

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

    /// Gives an open connection up, so that another transport of the kind can adopt it: nothing of it is handed out from
    /// now on, and [`Event::Detached`] follows in a later turn, without waiting for the peer. [`Event::Closed`] follows
    /// instead when the connection fails before. Ignored by connections that cannot leave: those over RDMA, and those that
    /// are not open.
    fn detach(&mut self, _conn: ConnId) {}

    /// Takes a connection over. Receiving starts, and what was not sent is sent at the next [`Transport::flush`].
    ///
    /// # Errors
    /// There is no room for it, or it is of another kind; it is closed.
    fn adopt(&mut self, _detached: Detached) -> io::Result<ConnId> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Starts an operation on a file; [`Event::File`] with this token follows, failed or not. It reaches the kernel in
    /// the next turn. Operations that have not ended when the transport goes may have happened, in part or not at all.
    fn file(&mut self, token: u64, operation: FileOperation);

    /// Nanoseconds on the monotonic clock of this transport (simulated: of the simulation).
    fn now_ns(&self) -> u64;

    /// Milliseconds since 1970.
    fn wall_ms(&self) -> u64;

    /// A waker for this transport.
    fn waker(&self) -> Arc<dyn Waker>;

    /// `io_uring`, `epoll` or `sim`.
    fn name(&self) -> &'static str;
}
