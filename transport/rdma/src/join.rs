//! RDMA connections beside those of another transport, as one transport.
//!
//! 1. Connections of the other transport have even slots, those over RDMA odd ones: both stay dense.
//! 2. A turn polls the device first. Before it waits it arms the device and polls once more; what comes then ends the wait,
//!    by a descriptor that the other transport watches.
//! 3. The connection manager is asked only when that descriptor has become readable: asking costs a system call.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use fulmar_transport::{
    Close, ConnId, Detached, Event, FileOperation, ListenerId, RdmaCounts, RecvBuf, Transport, Wait, Waker,
};

use crate::{Device, Inbox, Side};

/// Set in the numbers of listeners and buffers of the RDMA side.
const MARK: u32 = 1 << 31;

/// See the module's promises.
pub struct Joined<T: Transport, D: Device> {
    // The watched descriptor outlives its watcher.
    inner: T,
    side: Side<D>,
    /// The connection manager may have something to tell.
    is_told: bool,
    /// Somebody may have been handed over.
    is_woken: bool,
    /// The side has a descriptor that tells; a simulated one is asked each time.
    has_descriptor: bool,
    /// Events of the side, on their way.
    events: Vec<Event>,
}

impl<T: Transport, D: Device> Joined<T, D> {
    /// Puts a side beside a transport.
    ///
    /// # Errors
    /// The transport's, when it cannot watch the side's descriptor.
    pub fn new(mut inner: T, side: Side<D>) -> io::Result<Self> {
        let descriptor = side.descriptor();
        descriptor.map(|fd| inner.watch(fd)).transpose()?;
        let has_descriptor = descriptor.is_some();
        Ok(Joined { inner, side, is_told: true, is_woken: true, has_descriptor, events: Vec::new() })
    }

    /// Takes its share of the connections that another thread listens for.
    pub fn open_inbox(&mut self, inbox: Inbox<D>) {
        self.side.open_inbox(inbox, self.inner.waker());
    }

    /// Takes connections over RDMA at an address; port 0 picks one.
    ///
    /// # Errors
    /// The device's.
    pub fn listen_rdma(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)> {
        let (listener, local) = self.side.listen(addr, backlog)?;
        Ok((Self::outer_listener(listener), local))
    }

    /// The name here of a listener that the side had before.
    pub fn outer_listener(listener: ListenerId) -> ListenerId {
        ListenerId(listener.0 | MARK)
    }

    /// Starts connecting over RDMA.
    ///
    /// # Errors
    /// The device's.
    pub fn connect_rdma(&mut self, addr: SocketAddr) -> io::Result<ConnId> {
        self.side.connect(addr, self.inner.now_ns()).map(outer)
    }

    /// The other transport.
    pub fn inner(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The RDMA connections.
    pub fn side(&mut self) -> &mut Side<D> {
        &mut self.side
    }

    /// Hands on what the side has told.
    fn hand_on(&mut self, events: &mut Vec<Event>) {
        events.extend(self.events.drain(..).map(|event| match event {
            Event::Accepted { listener, conn, peer, local } => {
                Event::Accepted { listener: ListenerId(listener.0 | MARK), conn: outer(conn), peer, local }
            }
            Event::Connected { conn } => Event::Connected { conn: outer(conn) },
            Event::Received { conn, buf } => {
                Event::Received { conn: outer(conn), buf: RecvBuf { id: buf.id | MARK, ..buf } }
            }
            Event::Drained { conn } => Event::Drained { conn: outer(conn) },
            Event::Closed { conn, reason } => Event::Closed { conn: outer(conn), reason },
            event => event,
        }));
    }

    fn poll(&mut self) {
        self.side.poll(&mut self.events);
        if mem::take(&mut self.is_woken) {
            self.side.take_handed();
        }
        if mem::take(&mut self.is_told) || !self.has_descriptor {
            self.side.poll_events(&mut self.events);
            // What a new connection has sent may have come just after it.
            self.side.poll(&mut self.events);
        }
    }

    /// How long the inner transport may wait.
    fn inner_wait(&mut self, wait: Wait) -> Wait {
        let Wait::Until(until) = wait else { return Wait::Poll };
        if self.has_news() {
            return Wait::Poll;
        }
        self.side.arm();
        self.poll();
        if self.has_news() {
            return Wait::Poll;
        }
        Wait::Until([until, self.side.next_deadline_ns()].into_iter().flatten().min())
    }

    fn has_news(&self) -> bool {
        !self.events.is_empty() || self.side.has_work()
    }
}

/// The id by which the caller knows a connection of the side.
fn outer(conn: ConnId) -> ConnId {
    ConnId { index: conn.index * 2 + 1, ..conn }
}

/// Whether a connection is of the side.
fn is_rdma(conn: ConnId) -> bool {
    conn.index & 1 == 1
}

/// The id by which either part knows its connection.
fn own(conn: ConnId) -> ConnId {
    ConnId { index: conn.index / 2, ..conn }
}

/// The event as the caller knows its connection; `None` if it is not the caller's.
fn translate(event: Event) -> Option<Event> {
    let even = |conn: ConnId| ConnId { index: conn.index * 2, ..conn };
    Some(match event {
        Event::Accepted { listener, conn, peer, local } => {
            Event::Accepted { listener, conn: even(conn), peer, local }
        }
        Event::Connected { conn } => Event::Connected { conn: even(conn) },
        Event::Received { conn, buf } => Event::Received { conn: even(conn), buf },
        Event::Drained { conn } => Event::Drained { conn: even(conn) },
        Event::Closed { conn, reason } => Event::Closed { conn: even(conn), reason },
        Event::Detached { conn, detached } => Event::Detached { conn: even(conn), detached },
        Event::Ready => return None,
        event @ (Event::File(_) | Event::Woken) => event,
    })
}

macro_rules! either {
    ($self:ident, $conn:ident, $part:ident => $call:expr) => {
        if is_rdma($conn) {
            let ($part, $conn) = (&mut $self.side, own($conn));
            $call
        } else {
            let ($part, $conn) = (&mut $self.inner, own($conn));
            $call
        }
    };
}

impl<T: Transport, D: Device> Transport for Joined<T, D> {
    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)> {
        self.inner.listen(addr, backlog)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if listener.0 & MARK == 0 {
            self.inner.unlisten(listener);
        } else {
            self.side.unlisten(ListenerId(listener.0 & !MARK));
        }
    }

    fn connect(&mut self, addr: SocketAddr) -> io::Result<ConnId> {
        self.inner.connect(addr).map(|conn| ConnId { index: conn.index * 2, ..conn })
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.side.begin(self.inner.now_ns(), &mut self.events);
        self.poll();
        let wait = self.inner_wait(wait);
        let before = events.len();
        let turned = self.inner.turn(wait, events);
        for at in (before..events.len()).rev() {
            self.is_woken |= matches!(events[at], Event::Woken);
            match translate(mem::replace(&mut events[at], Event::Ready)) {
                Some(event) => events[at] = event,
                None => {
                    events.remove(at);
                    self.is_told = true;
                }
            }
        }
        if self.is_told || self.is_woken {
            self.poll();
        }
        self.hand_on(events);
        turned
    }

    #[inline]
    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        if buf.id & MARK == 0 {
            return self.inner.bytes(buf);
        }
        self.side.bytes(&RecvBuf { id: buf.id & !MARK, offset: buf.offset, len: buf.len })
    }

    #[inline]
    fn recycle(&mut self, buf: RecvBuf) {
        if buf.id & MARK == 0 {
            self.inner.recycle(buf);
        } else {
            self.side.recycle(RecvBuf { id: buf.id & !MARK, ..buf });
        }
    }

    #[inline]
    fn output(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        either!(self, conn, part => part.output(conn))
    }

    #[inline]
    fn append(&mut self, conn: ConnId, bytes: &mut Vec<u8>) {
        if !is_rdma(conn) {
            return self.inner.append(own(conn), bytes);
        }
        // The side's buffers stay its own: they may be registered.
        if let Some(out) = self.side.output(own(conn)) {
            out.extend_from_slice(bytes);
        }
        bytes.clear();
    }

    fn largest_frame_bytes(&self, conn: ConnId) -> Option<u32> {
        if is_rdma(conn) { self.side.largest_frame_bytes(own(conn)) } else { None }
    }

    fn rdma_counts(&self) -> Option<RdmaCounts> {
        Some(self.side.counts())
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.inner.watch(fd)
    }

    fn pending_bytes(&self, conn: ConnId) -> usize {
        if is_rdma(conn) { self.side.pending_bytes(own(conn)) } else { self.inner.pending_bytes(own(conn)) }
    }

    #[inline]
    fn flush(&mut self) {
        self.side.flush();
        self.inner.flush();
    }

    fn pause(&mut self, conn: ConnId) {
        either!(self, conn, part => part.pause(conn));
    }

    fn resume(&mut self, conn: ConnId) {
        either!(self, conn, part => part.resume(conn));
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        either!(self, conn, part => part.close(conn, how));
    }

    /// What is registered with a device stays with it.
    fn detach(&mut self, conn: ConnId) {
        if !is_rdma(conn) {
            self.inner.detach(own(conn));
        }
    }

    fn adopt(&mut self, detached: Detached) -> io::Result<ConnId> {
        self.inner.adopt(detached).map(|conn| ConnId { index: conn.index * 2, ..conn })
    }

    fn file(&mut self, token: u64, operation: FileOperation) {
        self.inner.file(token, operation);
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }

    fn wall_ms(&self) -> u64 {
        self.inner.wall_ms()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        self.inner.waker()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }
}
