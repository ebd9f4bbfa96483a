//! A stream of bytes over RDMA, for the driver: a device of its own, waited for as sockets are.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use fulmar_rdma::{Side, VerbsDevice};
use fulmar_transport::{Close, CloseReason, Config, ConnId, Event, RecvBuf};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Bytes written and not posted above which writing waits.
const MOST_PENDING_BYTES: usize = 1 << 20;

/// A connection over RDMA.
pub(crate) struct RdmaStream {
    // The watcher goes before what it watches.
    descriptor: AsyncFd<Descriptor>,
    side: Side<VerbsDevice>,
    conn: ConnId,
    started: Instant,
    /// The connection manager may have something to tell.
    is_told: bool,
    is_connected: bool,
    /// Received, and how much of the first has been read.
    received: VecDeque<RecvBuf>,
    read: usize,
    closed: Option<CloseReason>,
}

struct Descriptor(RawFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl RdmaStream {
    /// Connects to the first of a host's addresses that an RDMA device leads to.
    ///
    /// # Errors
    /// What is missing here, or the last address's failure.
    pub(crate) async fn connect(host: &str, port: u16) -> io::Result<RdmaStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for addr in tokio::net::lookup_host((host, port)).await? {
            match RdmaStream::connect_to(addr).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The longest frame that the other side can take; `None` where any can.
    pub(crate) fn largest_frame_bytes(&self) -> Option<u32> {
        self.side.largest_frame_bytes(self.conn)
    }

    async fn connect_to(addr: SocketAddr) -> io::Result<RdmaStream> {
        let device =
            VerbsDevice::new().map_err(|missing| io::Error::new(io::ErrorKind::Unsupported, missing))?;
        let mut side = Side::new(device, Config { max_connections: 1, ..Config::default() });
        let started = Instant::now();
        let conn = side.connect(addr, 0).map_err(|error| explain(addr, &error))?;
        let fd = side.descriptor().ok_or(io::ErrorKind::Unsupported)?;
        // SAFETY: the descriptor is the side's and stays open until it goes, which is after its watcher.
        let descriptor = unsafe { AsyncFd::register_with_interest(Descriptor(fd), Interest::READABLE) }?;
        let mut stream = RdmaStream {
            descriptor,
            side,
            conn,
            started,
            is_told: true,
            is_connected: false,
            received: VecDeque::new(),
            read: 0,
            closed: None,
        };
        match std::future::poll_fn(|cx| stream.poll_until(cx, |stream| stream.is_connected)).await {
            Ok(()) => Ok(stream),
            Err(error) => Err(match stream.side.refusal() {
                Some(why) => io::Error::new(error.kind(), format!("{addr} refuses: {why}")),
                None => explain(addr, &error),
            }),
        }
    }

    /// Moves everything on until this holds or the connection ends.
    fn poll_until(&mut self, cx: &mut Context<'_>, done: impl Fn(&Self) -> bool) -> Poll<io::Result<()>> {
        loop {
            self.turn();
            if done(self) {
                return Poll::Ready(Ok(()));
            }
            if let Some(reason) = &self.closed {
                return Poll::Ready(match reason {
                    CloseReason::Error(error) => Err(io::Error::from_raw_os_error(*error)),
                    CloseReason::Peer | CloseReason::Local => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            // What completes from here on is told by the descriptor.
            self.side.arm();
            if self.turn() {
                continue;
            }
            match self.descriptor.poll_read_ready(cx)? {
                Poll::Ready(mut guard) => guard.clear_ready(),
                Poll::Pending => return Poll::Pending,
            }
            self.is_told = true;
        }
    }

    /// Takes what has happened, and posts what can go. Whether anything had.
    fn turn(&mut self) -> bool {
        let mut events = Vec::new();
        let before = self.side.counts();
        self.side.begin(self.started.elapsed().as_nanos() as u64, &mut events);
        self.side.poll(&mut events);
        if std::mem::take(&mut self.is_told) {
            self.side.poll_events(&mut events);
            self.side.poll(&mut events);
        }
        let happened = !events.is_empty();
        for event in events {
            match event {
                Event::Connected { .. } => self.is_connected = true,
                Event::Received { buf, .. } => self.received.push_back(buf),
                Event::Closed { reason, .. } => self.closed = Some(reason),
                _ => {}
            }
        }
        self.side.flush();
        happened || self.side.has_work() || self.side.counts() != before
    }
}

impl AsyncRead for RdmaStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        match stream.poll_until(cx, |stream| !stream.received.is_empty()) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(result) => result?,
        }
        while into.remaining() > 0
            && let Some(buf) = stream.received.pop_front()
        {
            let rest = &stream.side.bytes(&buf)[stream.read..];
            let taken = rest.len().min(into.remaining());
            into.put_slice(&rest[..taken]);
            if taken < rest.len() {
                stream.read += taken;
                stream.received.push_front(buf);
            } else {
                stream.read = 0;
                stream.side.recycle(buf);
            }
        }
        // The peer may send again.
        stream.side.flush();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RdmaStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        let conn = stream.conn;
        match stream.poll_until(cx, |stream| stream.side.pending_bytes(conn) < MOST_PENDING_BYTES) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(result) => result?,
        }
        let Some(output) = stream.side.output(conn) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let taken = bytes.len().min(MOST_PENDING_BYTES);
        output.extend_from_slice(&bytes[..taken]);
        stream.side.flush();
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let conn = stream.conn;
        stream.poll_until(cx, |stream| stream.side.pending_bytes(conn) == 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.side.close(stream.conn, Close::Flush);
        stream.side.flush();
        stream.poll_until(cx, |stream| stream.closed.is_some())
    }
}

/// Says what an error means here.
fn explain(addr: SocketAddr, error: &io::Error) -> io::Error {
    let text = match error.raw_os_error() {
        Some(libc::ENODEV) => format!("no RDMA device leads to {}", addr.ip()),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => format!("no RDMA device reaches {}", addr.ip()),
        Some(libc::ENOMEM) => "the limit of locked memory is too low; raise `ulimit -l`".into(),
        Some(libc::ECONNREFUSED) => format!("{addr} takes no connections over RDMA"),
        _ => format!("{addr}: {error}"),
    };
    io::Error::new(error.kind(), text)
}
