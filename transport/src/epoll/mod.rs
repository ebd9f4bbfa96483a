//! The transport over epoll, for machines that refuse io_uring.
//!
//! 1. Every socket is registered once, edge-triggered; what is readable or writable is remembered here, so pausing,
//!    budgets and carry-over cost no system call.
//! 2. Received bytes that were not asked for yet stay in the kernel.
//! 3. [`Transport::flush`] sends at once, one `send` a connection; what does not fit waits for the socket to drain.
//! 4. Files are the business of a thread, made with the first operation on one.

mod accept;
mod file;
mod life;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::memory::Pages;
use crate::outbox::Pool;
use crate::slots::Slots;
use crate::socket::{self, RawAddr};
use crate::types::Socket;
use crate::waker::EventWaker;
use crate::{
    Close, CloseReason, Config, ConnId, Detached, Event, FileOperation, ListenerId, RecvBuf, Transport, Wait,
    Waker, clock,
};

use accept::Listener;
use file::Files;
use life::{Conn, State};

/// Readiness reports taken a turn at most.
const REPORTS_PER_TURN: usize = 256;
/// Slot numbers of reports that do not belong to a connection: listeners from here on, the waker, and files.
const LISTENERS_FROM: u32 = 1 << 31;
const WAKER: u32 = u32::MAX;
const FILES: u32 = u32::MAX - 1;
const WATCHED: u32 = u32::MAX - 2;

/// [`Transport`] over epoll.
pub struct EpollTransport {
    epoll: OwnedFd,
    config: Config,
    conns: Slots<Conn>,
    listeners: Vec<Option<Listener>>,
    data: Pages,
    free: Vec<u32>,
    pool: Pool,
    reports: Vec<libc::epoll_event>,
    dirty: Vec<u32>,
    ready: VecDeque<ConnId>,
    dead: Vec<u32>,
    closing: VecDeque<(u64, ConnId)>,
    files: Files,
    /// A descriptor that the caller wants to hear of has become readable.
    watched_ready: bool,
    waker: Arc<EventWaker>,
}

impl EpollTransport {
    /// Sets one up.
    ///
    /// # Errors
    /// The system's.
    pub fn new(config: Config) -> io::Result<Self> {
        assert!(config.max_connections < LISTENERS_FROM, "at most 2^31 connections");
        // SAFETY: no pointers; the result is checked.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let waker = Arc::new(EventWaker::new()?);
        watch(&epoll, waker.fd(), libc::EPOLLIN, ConnId { index: WAKER, generation: 0 })?;
        let buffers = u32::from(config.recv_buffers);
        Ok(EpollTransport {
            epoll,
            conns: Slots::new(config.max_connections),
            listeners: Vec::new(),
            data: Pages::new(buffers as usize * config.recv_buffer_bytes as usize)?,
            free: (0..buffers).rev().collect(),
            pool: Pool::new(config.high_water_bytes.saturating_mul(2)),
            reports: Vec::with_capacity(REPORTS_PER_TURN),
            dirty: Vec::new(),
            ready: VecDeque::new(),
            dead: Vec::new(),
            closing: VecDeque::new(),
            files: Files::default(),
            watched_ready: false,
            waker,
            config,
        })
    }

    fn wait(&mut self, timeout_ns: Option<u64>) -> io::Result<()> {
        self.reports.clear();
        if cfg!(miri) {
            // Which knows no `epoll_pwait2`.
            return self.wait_in_ms(timeout_ns);
        }
        let timeout = timeout_ns.map(|ns| libc::timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        // SAFETY: room for as many reports as said; the timeout, if any, lives through the call.
        let count = unsafe {
            libc::epoll_pwait2(
                self.epoll.as_raw_fd(),
                self.reports.as_mut_ptr(),
                REPORTS_PER_TURN as i32,
                timeout.as_ref().map_or(std::ptr::null(), |timeout| &raw const *timeout),
                std::ptr::null(),
            )
        };
        let count = match count {
            0.. => count as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error if error.raw_os_error() == Some(libc::ENOSYS) => return self.wait_in_ms(timeout_ns),
                error => return Err(error),
            },
        };
        // SAFETY: the kernel has filled so many.
        unsafe { self.reports.set_len(count) };
        Ok(())
    }

    /// For kernels before 5.11.
    fn wait_in_ms(&mut self, timeout_ns: Option<u64>) -> io::Result<()> {
        let timeout_ms = timeout_ns.map_or(-1, |ns| ns.div_ceil(1_000_000).min(i32::MAX as u64) as i32);
        // SAFETY: room for as many reports as said.
        let count = unsafe {
            let reports = self.reports.as_mut_ptr();
            libc::epoll_wait(self.epoll.as_raw_fd(), reports, REPORTS_PER_TURN as i32, timeout_ms)
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        // SAFETY: the kernel has filled so many.
        unsafe { self.reports.set_len(count as usize) };
        Ok(())
    }

    fn take_reports(&mut self) {
        for at in 0..self.reports.len() {
            let report = self.reports[at];
            let (index, generation) = ((report.u64 >> 32) as u32, report.u64 as u32);
            self.watched_ready |= index == WATCHED;
            if index >= WATCHED {
                continue;
            }
            if index >= LISTENERS_FROM {
                if let Some(listener) = self.listeners[(index - LISTENERS_FROM) as usize].as_mut() {
                    listener.ready = true;
                }
                continue;
            }
            let id = ConnId { index, generation };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let failed = report.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0;
            conn.ending |= failed || report.events & libc::EPOLLRDHUP as u32 != 0;
            conn.readable |= conn.ending || report.events & libc::EPOLLIN as u32 != 0;
            conn.writable |= failed || report.events & libc::EPOLLOUT as u32 != 0;
            self.look_at(id);
        }
    }

    fn add(&mut self, socket: OwnedFd, state: State) -> io::Result<ConnId> {
        let fd = socket.as_raw_fd();
        let conn = Conn::new(socket, state);
        let full = || io::Error::other("the limit of connections has been reached");
        let id = self.conns.insert(conn).map_err(|_| full())?;
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        if let Err(error) = watch(&self.epoll, fd, interest, id) {
            self.conns.remove(id.index);
            return Err(error);
        }
        Ok(id)
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let closing = self.closing.front().map(|(deadline, _)| *deadline);
        let resting = self.listeners.iter().flatten().filter_map(|listener| listener.rest_until_ns);
        resting.chain(closing).min()
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some(&(deadline, id)) = self.closing.front()
            && (deadline <= now_ns || self.conns.get(id).is_none())
        {
            self.closing.pop_front();
            if let Some(conn) = self.conns.get(id)
                && conn.state != State::Dead
            {
                let reason = conn.reason.clone();
                self.abort(id.index, reason);
            }
        }
        for listener in self.listeners.iter_mut().flatten() {
            if listener.rest_until_ns.is_some_and(|until| until <= now_ns) {
                listener.rest_until_ns = None;
                listener.ready = true;
            }
        }
    }

    /// Whether there is something to do that no report will tell of.
    fn has_work(&self) -> bool {
        !self.dead.is_empty()
            || self.files.has_ended()
            || (!self.ready.is_empty() && !self.free.is_empty())
            || self.listeners.iter().flatten().any(|listener| listener.ready)
    }
}

fn watch(epoll: &OwnedFd, fd: RawFd, interest: i32, id: ConnId) -> io::Result<()> {
    let data = u64::from(id.index) << 32 | u64::from(id.generation);
    let mut event = libc::epoll_event { events: interest as u32 | libc::EPOLLET as u32, u64: data };
    // SAFETY: `event` is valid through the call.
    match unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn unwatch(epoll: &OwnedFd, fd: RawFd) {
    // SAFETY: no event is read for a removal.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
}

impl Transport for EpollTransport {
    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)> {
        let (socket, local) = socket::listen(addr, backlog)?;
        let index = self.listeners.len() as u32;
        let id = ConnId { index: LISTENERS_FROM + index, generation: 0 };
        watch(&self.epoll, socket.as_raw_fd(), libc::EPOLLIN, id)?;
        self.listeners.push(Some(Listener { socket, local, ready: false, rest_until_ns: None, refused: 0 }));
        Ok((ListenerId(index), local))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(slot) = self.listeners.get_mut(listener.0 as usize) {
            *slot = None;
        }
    }

    fn connect(&mut self, addr: SocketAddr) -> io::Result<ConnId> {
        let socket = socket::unconnected(addr)?;
        let fd = socket.as_raw_fd();
        let raw = RawAddr::from(addr);
        // SAFETY: a live address of the length given.
        let error = match unsafe { libc::connect(fd, raw.as_ptr(), raw.len()) } {
            0 => None,
            _ => io::Error::last_os_error().raw_os_error().filter(|error| *error != libc::EINPROGRESS),
        };
        let id = self.add(socket, State::Connecting)?;
        if let Some(error) = error {
            self.kill(id.index, CloseReason::Error(error));
        }
        Ok(id)
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        if self.waker.take() {
            events.push(Event::Woken);
        }
        self.files.tell(events);
        self.release_dead(events);
        let may_wait = events.len() == before && !self.has_work();
        let timeout_ns = match wait {
            Wait::Until(until) if may_wait => [until, self.next_deadline_ns()]
                .into_iter()
                .flatten()
                .min()
                .map(|until| until.saturating_sub(clock::monotonic_ns())),
            _ => Some(0),
        };
        self.wait(timeout_ns)?;
        self.take_reports();
        self.accept_ready(events);
        self.serve_ready(events);
        if self.next_deadline_ns().is_some() {
            self.expire(clock::monotonic_ns());
        }
        self.release_dead(events);
        self.files.tell(events);
        if mem::take(&mut self.watched_ready) {
            events.push(Event::Ready);
        }
        if self.waker.take() {
            events.push(Event::Woken);
        }
        Ok(())
    }

    #[inline]
    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        let room = self.config.recv_buffer_bytes;
        assert!(
            buf.id < u32::from(self.config.recv_buffers) && buf.offset + buf.len <= room,
            "not a buffer of this"
        );
        let start = buf.id as usize * room as usize + buf.offset as usize;
        // SAFETY: inside the mapping, which was zeroed at first; a lent buffer is not received into.
        unsafe { std::slice::from_raw_parts(self.data.base().add(start), buf.len as usize) }
    }

    #[inline]
    fn recycle(&mut self, buf: RecvBuf) {
        debug_assert!(!self.free.contains(&buf.id), "recycled twice");
        self.free.push(buf.id);
    }

    #[inline]
    fn output(&mut self, id: ConnId) -> Option<&mut Vec<u8>> {
        let conn = self.conns.get_mut(id)?;
        match conn.state {
            State::Open | State::Connecting => {
                if !mem::replace(&mut conn.dirty, true) {
                    self.dirty.push(id.index);
                }
                Some(conn.outbox.filling(&mut self.pool))
            }
            State::Closing { .. } | State::Leaving | State::Dead => None,
        }
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        watch(&self.epoll, fd, libc::EPOLLIN, ConnId { index: WATCHED, generation: 0 })
    }

    fn pending_bytes(&self, id: ConnId) -> usize {
        self.conns.get(id).map_or(0, |conn| conn.outbox.pending())
    }

    fn flush(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(conn) = self.conns.at(index) else { continue };
            if mem::take(&mut conn.dirty) {
                conn.outbox.note_level(self.config.high_water_bytes);
                self.send(index);
                // A level that was passed and left within this very call is told in the next turn.
                let id = self.conns.id_at(index);
                if self.conns.get(id).is_some_and(|conn| conn.outbox.is_above_high()) {
                    self.look_at(id);
                }
            }
        }
        self.dirty = dirty;
    }

    fn pause(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.paused = true;
        }
    }

    fn resume(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && mem::take(&mut conn.paused)
            && (conn.readable || conn.at_end)
        {
            self.look_at(id);
        }
    }

    fn close(&mut self, id: ConnId, how: Close) {
        let Some(conn) = self.conns.get(id) else { return };
        match (how, conn.state) {
            (_, State::Dead) | (Close::Flush, State::Closing { .. }) => {}
            (Close::Flush, State::Open) => self.close_in_order(id.index, CloseReason::Local),
            _ => self.abort(id.index, CloseReason::Local),
        }
    }

    fn detach(&mut self, id: ConnId) {
        EpollTransport::detach(self, id);
    }

    fn adopt(&mut self, detached: Detached) -> io::Result<ConnId> {
        let Detached { socket: Socket::Real(socket), mut unsent, .. } = detached else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let id = self.add(socket, State::Open)?;
        self.append(id, &mut unsent);
        Ok(id)
    }

    fn file(&mut self, token: u64, operation: FileOperation) {
        let watch = |fd| watch(&self.epoll, fd, libc::EPOLLIN, ConnId { index: FILES, generation: 0 });
        self.files.start(token, operation, watch);
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        clock::monotonic_ns()
    }

    fn wall_ms(&self) -> u64 {
        clock::wall_ms()
    }

    fn waker(&self) -> Arc<dyn Waker> {
        self.waker.clone()
    }

    fn name(&self) -> &'static str {
        "epoll"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_from_another_thread_ends_a_wait_without_end() {
        let config = Config { recv_buffers: 2, recv_buffer_bytes: 64, ..Config::default() };
        let mut transport = EpollTransport::new(config).unwrap();
        let mut events = Vec::new();
        for _ in 0..3 {
            let waker = transport.waker();
            let thread = std::thread::spawn(move || waker.wake());
            while events.is_empty() {
                transport.turn(Wait::Until(None), &mut events).unwrap();
            }
            thread.join().unwrap();
            assert!(matches!(events[..], [Event::Woken]));
            events.clear();
        }
    }

    #[test]
    fn a_wait_ends_at_its_time() {
        let mut transport = EpollTransport::new(Config { recv_buffers: 2, ..Config::default() }).unwrap();
        let (until, mut events) = (transport.now_ns() + 2_000_000, Vec::new());
        transport.turn(Wait::Until(Some(until)), &mut events).unwrap();
        assert!(transport.now_ns() >= until);
        assert!(events.is_empty());
    }

    #[test]
    fn the_bytes_of_a_buffer_are_its_own() {
        let config = Config { recv_buffers: 4, recv_buffer_bytes: 16, ..Config::default() };
        let mut transport = EpollTransport::new(config).unwrap();
        for id in 0..4 {
            // SAFETY: inside the mapping, and not lent.
            unsafe { transport.data.base().add(id as usize * 16).write_bytes(id as u8 + 1, 16) };
        }
        let id = transport.free.pop().unwrap();
        let (whole, end) = (RecvBuf { id, offset: 0, len: 16 }, RecvBuf { id, offset: 15, len: 1 });
        assert_eq!(transport.bytes(&whole), [id as u8 + 1; 16]);
        assert_eq!(transport.bytes(&end), [id as u8 + 1]);
        transport.recycle(whole);
    }
}
