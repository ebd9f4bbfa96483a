//! A connection over RDMA, read and written like a socket: blocking while it is set up, non-blocking under load.
//!
//! Each has a device of its own, as each socket has a descriptor of its own. A call takes what has completed and posts what
//! was written; the connection manager is asked after a wait, and now and then by one that never waits.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fulmar_rdma::{Side, VerbsDevice};
use fulmar_transport::{Close, CloseReason, Config, ConnId, Event, RecvBuf};

use crate::poll::PollSet;

/// Bytes written and not posted from which on no more are taken.
const MOST_PENDING_BYTES: usize = 128 * 1024;

/// Reads in vain after which the connection manager is asked whether the peer is still there.
const ASKED_EVERY: u32 = 1 << 14;

/// How long one wait lasts at most while the connection is set up.
const LOOK: Duration = Duration::from_millis(100);

/// How long a blocking read waits.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a connection that is dropped waits until what was written has arrived.
const PARTING: Duration = Duration::from_secs(2);

/// A connection; clones are the same one.
#[derive(Clone)]
pub struct RdmaStream {
    shared: Arc<Mutex<Connection>>,
    descriptor: RawFd,
    largest_frame_bytes: Option<u32>,
}

struct Connection {
    side: Side<VerbsDevice>,
    conn: ConnId,
    started: Instant,
    is_blocking: bool,
    is_connected: bool,
    closed: Option<CloseReason>,
    /// Received, and how much of the first has been read.
    received: VecDeque<RecvBuf>,
    read: usize,
    events: Vec<Event>,
    reads_in_vain: u32,
}

impl RdmaStream {
    /// Connects, and waits until that is done.
    ///
    /// # Errors
    /// What RDMA lacks here, or why the other side cannot be reached.
    pub fn connect(address: SocketAddr) -> io::Result<RdmaStream> {
        let device = VerbsDevice::new().map_err(|missing| io::Error::new(ErrorKind::Unsupported, missing))?;
        let mut side = Side::new(device, Config { max_connections: 1, ..Config::default() });
        let conn = side.connect(address, 0)?;
        let descriptor = side.descriptor().ok_or(ErrorKind::Unsupported)?;
        let mut connection = Connection {
            side,
            conn,
            started: Instant::now(),
            is_blocking: true,
            is_connected: false,
            closed: None,
            received: VecDeque::new(),
            read: 0,
            events: Vec::new(),
            reads_in_vain: 0,
        };
        connection.wait_until(descriptor, PATIENCE, |connection| connection.is_connected)?;
        let largest_frame_bytes = connection.side.largest_frame_bytes(conn);
        Ok(RdmaStream { shared: Arc::new(Mutex::new(connection)), descriptor, largest_frame_bytes })
    }

    /// The longest frame that the other side can take; `None` where any can.
    pub fn largest_frame_bytes(&self) -> Option<u32> {
        self.largest_frame_bytes
    }

    /// From now on reads and writes return at once.
    pub fn set_nonblocking(&self) {
        self.lock().is_blocking = false;
    }

    /// Bytes were taken that have not been posted.
    pub fn holds_output(&self) -> bool {
        let connection = self.lock();
        connection.side.pending_bytes(connection.conn) > 0
    }

    /// There are received bytes that nobody has read.
    pub fn holds_input(&self) -> bool {
        !self.lock().received.is_empty()
    }

    /// Posts what can go; returns whether anything did.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn push(&self) -> io::Result<bool> {
        let mut connection = self.lock();
        let before = connection.side.pending_bytes(connection.conn);
        connection.turn(false);
        connection.check()?;
        Ok(connection.side.pending_bytes(connection.conn) < before)
    }

    /// Waits for whatever happens next; returns whether something has already, or can be read if that is asked for.
    pub fn watch(&self, set: &mut PollSet, readable: bool) -> bool {
        set.add(self, true, false);
        let mut connection = self.lock();
        connection.side.arm();
        connection.turn(true) || (readable && !connection.received.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Takes what has happened, and posts what can go. Whether anything had. `asks`: the connection manager too.
    fn turn(&mut self, asks: bool) -> bool {
        let before = self.side.counts();
        self.side.begin(self.started.elapsed().as_nanos() as u64, &mut self.events);
        self.side.poll(&mut self.events);
        if asks {
            self.side.poll_events(&mut self.events);
            self.side.poll(&mut self.events);
        }
        let happened = !self.events.is_empty();
        for event in self.events.drain(..) {
            match event {
                Event::Connected { .. } => self.is_connected = true,
                Event::Received { buf, .. } => self.received.push_back(buf),
                Event::Closed { reason, .. } => self.closed = Some(reason),
                _ => {}
            }
        }
        self.side.flush();
        happened || self.side.counts() != before
    }

    /// An error if the connection has failed.
    fn check(&self) -> io::Result<()> {
        match self.closed {
            Some(CloseReason::Error(error)) => Err(io::Error::from_raw_os_error(error)),
            Some(CloseReason::Peer | CloseReason::Local) => Err(ErrorKind::BrokenPipe.into()),
            None => Ok(()),
        }
    }

    /// Waits until this holds or the connection has ended.
    fn wait_until(
        &mut self,
        descriptor: RawFd,
        patience: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> io::Result<()> {
        let (mut set, from) = (PollSet::default(), Instant::now());
        while !holds(self) && self.closed.is_none() {
            if from.elapsed() > patience {
                return Err(ErrorKind::TimedOut.into());
            }
            self.side.arm();
            if !self.turn(true) {
                set.clear();
                set.add(&descriptor, true, false);
                set.wait(LOOK)?;
            }
        }
        if holds(self) { Ok(()) } else { self.check() }
    }
}

impl Read for RdmaStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.lock();
        let connection = &mut *connection;
        if connection.is_blocking {
            connection.wait_until(self.descriptor, PATIENCE, |connection| !connection.received.is_empty())?;
        } else if connection.received.is_empty() {
            connection.reads_in_vain = connection.reads_in_vain.wrapping_add(1);
            connection.turn(connection.reads_in_vain.is_multiple_of(ASKED_EVERY));
        }
        let mut taken = 0;
        while taken < into.len()
            && let Some(buf) = connection.received.pop_front()
        {
            let rest = &connection.side.bytes(&buf)[connection.read..];
            let count = rest.len().min(into.len() - taken);
            into[taken..taken + count].copy_from_slice(&rest[..count]);
            taken += count;
            if count < rest.len() {
                connection.read += count;
                connection.received.push_front(buf);
            } else {
                connection.read = 0;
                connection.side.recycle(buf);
            }
        }
        if taken > 0 {
            // The peer may send again.
            connection.side.flush();
            return Ok(taken);
        }
        match connection.closed {
            None => Err(ErrorKind::WouldBlock.into()),
            Some(CloseReason::Error(error)) => Err(io::Error::from_raw_os_error(error)),
            Some(CloseReason::Peer | CloseReason::Local) => Ok(0),
        }
    }
}

impl Write for RdmaStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut connection = self.lock();
        let connection = &mut *connection;
        let has_room =
            |connection: &Connection| connection.side.pending_bytes(connection.conn) < MOST_PENDING_BYTES;
        if connection.is_blocking {
            connection.wait_until(self.descriptor, PATIENCE, has_room)?;
        } else if !has_room(connection) {
            connection.turn(false);
        }
        connection.check()?;
        if !has_room(connection) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = bytes.len().min(MOST_PENDING_BYTES);
        let output = connection.side.output(connection.conn).ok_or(ErrorKind::BrokenPipe)?;
        output.extend_from_slice(&bytes[..taken]);
        connection.side.flush();
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut connection = self.lock();
        let descriptor = self.descriptor;
        connection.wait_until(descriptor, PATIENCE, |connection| {
            connection.side.pending_bytes(connection.conn) == 0
        })
    }
}

impl AsRawFd for RdmaStream {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor
    }
}

impl fmt::Debug for RdmaStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RdmaStream").finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What was written last is to arrive, as with a socket.
        let how = if self.is_connected { Close::Flush } else { Close::Abort };
        self.side.close(self.conn, how);
        if let Some(descriptor) = self.side.descriptor() {
            // Nobody is there to be told of a failure.
            drop(self.wait_until(descriptor, PARTING, |_| false));
        }
    }
}
