//! The transport over io_uring. Runs on the thread that takes its first turn.
//!
//! 1. One `io_uring_enter` a turn, and none in a polling turn that has nothing to submit and nothing to run.
//! 2. A slot is given away again only after the kernel has ended every operation on it, so that a completion always
//!    finds the connection that it belongs to.
//! 3. A paused connection holds no receive buffer: what still arrives is copied out and the receive is cancelled.
//! 4. A connection that sends more than its budget stops being received from until that is handed out.
//! 5. A receive that ended is armed again, after an exhausted buffer ring as soon as buffers are posted.

mod buffers;
mod completion;
mod conn;
mod file;
mod life;
mod setup;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use slab::Slab;

use crate::outbox::Pool;
use crate::slots::Slots;
use crate::socket::{self, RawAddr};
use crate::types::Socket;
use crate::waker::EventWaker;
use crate::{
    Close, CloseReason, Config, ConnId, Detached, Event, FileOperation, ListenerId, RecvBuf, Transport, Wait,
    Waker, clock,
};

use buffers::Buffers;
use conn::{Conn, State};
use file::Files;
pub use setup::UringRefused;

/// Completions handled a turn at most.
const COMPLETIONS_PER_TURN: usize = 512;
/// How long a listener rests after the system had no descriptor left.
const ACCEPT_REST_NS: u64 = 50_000_000;
/// `IORING_ENTER_GETEVENTS`: run what was deferred, even when nothing is waited for.
const ENTER_GETEVENTS: u32 = 1;

/// What a completion belongs to; the top byte of its user data, before the slot (24 bits) and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Op {
    Receive = 1,
    Send,
    Connect,
    Cancel,
    Accept,
    CancelAccept,
    Wake,
    File,
    Watch,
}

fn user_data(op: Op, id: ConnId) -> u64 {
    u64::from(op as u8) << 56 | u64::from(id.index) << 32 | u64::from(id.generation)
}

fn split_user_data(data: u64) -> (Op, ConnId) {
    let op = match (data >> 56) as u8 {
        1 => Op::Receive,
        2 => Op::Send,
        3 => Op::Connect,
        4 => Op::Cancel,
        5 => Op::Accept,
        6 => Op::CancelAccept,
        7 => Op::Wake,
        8 => Op::File,
        9 => Op::Watch,
        op => panic!("a completion of unknown kind {op}"),
    };
    (op, ConnId { index: (data >> 32) as u32 & 0x00ff_ffff, generation: data as u32 })
}

struct Listener {
    socket: OwnedFd,
    local: SocketAddr,
    accepting: bool,
    /// Given up; kept while the kernel has the accept.
    stopped: bool,
    /// Accept again at this time.
    rest_until_ns: Option<u64>,
    refused: u64,
}

/// [`Transport`] over io_uring.
pub struct UringTransport {
    // The ring goes before the memory that it points to.
    ring: IoUring,
    buffers: Buffers,
    config: Config,
    enabled: bool,
    turn: u32,
    conns: Slots<Conn>,
    listeners: Vec<Option<Listener>>,
    /// Bytes copied out of receive buffers; their ids follow those of the buffers.
    spilled: Slab<Vec<u8>>,
    pool: Pool,
    reaped: Vec<(u64, i32, u32)>,
    /// Connections with output since the last flush.
    dirty: Vec<u32>,
    /// Connections with more to hand out.
    carried: VecDeque<ConnId>,
    /// Connections whose receive found no buffer; those that got nothing since they were armed come first.
    starved: VecDeque<ConnId>,
    starved_after_some: VecDeque<ConnId>,
    /// Connections with no operation in flight that are to be told as closed.
    finished: Vec<u32>,
    /// Connections that close in order, and when that has to end.
    closing: VecDeque<(u64, ConnId)>,
    resting_listeners: u32,
    files: Files,
    /// Descriptors that the caller wants to hear of.
    watched: Vec<RawFd>,
    waker: Arc<EventWaker>,
}

impl UringTransport {
    /// Sets a ring up. The transport may move to another thread until its first turn.
    ///
    /// # Errors
    /// What refuses io_uring here.
    pub fn new(config: Config) -> Result<Self, UringRefused> {
        assert!(config.max_connections <= 1 << 24, "at most 2^24 connections");
        let ring = setup::build(&config)?;
        let mut buffers = Buffers::new(config.recv_buffers, config.recv_buffer_bytes)
            .map_err(UringRefused::from_buffers)?;
        buffers.register(&ring).map_err(UringRefused::from_buffers)?;
        let waker = Arc::new(EventWaker::new().map_err(UringRefused::from_setup)?);
        let mut transport = UringTransport {
            ring,
            buffers,
            enabled: false,
            turn: 0,
            conns: Slots::new(config.max_connections),
            listeners: Vec::new(),
            spilled: Slab::new(),
            pool: Pool::new(config.high_water_bytes.saturating_mul(2)),
            reaped: Vec::with_capacity(COMPLETIONS_PER_TURN),
            dirty: Vec::new(),
            carried: VecDeque::new(),
            starved: VecDeque::new(),
            starved_after_some: VecDeque::new(),
            finished: Vec::new(),
            closing: VecDeque::new(),
            resting_listeners: 0,
            files: Files::new(),
            watched: Vec::new(),
            waker,
            config,
        };
        transport.watch_waker();
        Ok(transport)
    }

    fn watch_waker(&mut self) {
        let poll = opcode::PollAdd::new(Fd(self.waker.fd()), libc::POLLIN as u32).multi(true).build();
        self.push(&poll.user_data(user_data(Op::Wake, ConnId { index: 0, generation: 0 })));
    }

    fn watch_again(&mut self, index: u32) {
        let fd = Fd(self.watched[index as usize]);
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        self.push(&poll.user_data(user_data(Op::Watch, ConnId { index, generation: 0 })));
    }

    /// Queues an operation; it reaches the kernel in the next turn, or now if the queue is full.
    #[inline]
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what an entry points to (an outbox's sending buffer, a boxed address, a file's buffer or path)
        // stays in place until the completion, which the connection's slot or the operation's outlives.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            let made_room = self.enable().and_then(|()| self.ring.submit());
            if let Err(error) = made_room {
                let fine = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY));
                assert!(fine, "the ring takes no submissions: {error}");
            }
        }
    }

    /// Makes the calling thread the ring's only issuer, once.
    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Enters the kernel once, if there is reason to.
    fn enter(&mut self, wait: Wait, idle: bool) -> io::Result<()> {
        let submission = self.ring.submission();
        let (pending, deferred) = (submission.len() as u32, submission.taskrun() || submission.cq_overflow());
        drop(submission);
        let until = match wait {
            Wait::Until(until) if idle && self.ring.completion().is_empty() => until,
            _ => {
                if pending == 0 && !deferred {
                    return Ok(());
                }
                // SAFETY: no argument is passed.
                let entered = unsafe {
                    self.ring.submitter().enter::<libc::sigset_t>(pending, 0, ENTER_GETEVENTS, None)
                };
                return tolerate(entered);
            }
        };
        let until = [until, self.next_deadline_ns()].into_iter().flatten().min();
        let entered = match until {
            None => self.ring.submitter().submit_and_wait(1),
            Some(until) => {
                let timeout =
                    Timespec::from(Duration::from_nanos(until.saturating_sub(clock::monotonic_ns())));
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        tolerate(entered)
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let closing = self.closing.front().map(|(deadline, _)| *deadline);
        if self.resting_listeners == 0 {
            return closing;
        }
        let resting = self.listeners.iter().flatten().filter_map(|listener| listener.rest_until_ns).min();
        closing.into_iter().chain(resting).min()
    }

    /// One pass of enter and reap.
    fn pass(&mut self, wait: Wait, idle: bool, events: &mut Vec<Event>) -> io::Result<()> {
        self.buffers.post();
        self.feed_starved();
        self.enter(wait, idle)?;
        let mut reaped = mem::take(&mut self.reaped);
        reaped.extend(
            self.ring
                .completion()
                .take(COMPLETIONS_PER_TURN)
                .map(|entry| (entry.user_data(), entry.result(), entry.flags())),
        );
        for (data, result, flags) in reaped.drain(..) {
            self.complete(data, result, flags, events);
        }
        self.reaped = reaped;
        if !self.closing.is_empty() || self.resting_listeners > 0 {
            self.expire(clock::monotonic_ns());
        }
        self.tell_files(events);
        self.release_finished(events);
        if self.waker.take() {
            events.push(Event::Woken);
        }
        Ok(())
    }

    /// Arms the receives that found no buffer, when there are some now.
    fn feed_starved(&mut self) {
        if self.buffers.posted() == 0 || (self.starved.is_empty() && self.starved_after_some.is_empty()) {
            return;
        }
        let mut hungry = mem::take(&mut self.starved);
        hungry.append(&mut self.starved_after_some);
        for id in hungry.drain(..) {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.starved = false;
                self.want_receive(id.index);
            }
        }
        self.starved = hungry;
    }
}

/// Nothing was lost by these; the next turn goes on.
fn tolerate(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

impl Drop for UringTransport {
    fn drop(&mut self) {
        self.part_with_files();
        // The kernel must let go of the buffers before they are freed. A ring that is dropped by another thread than
        // its issuer refuses this; closing it cancels everything too, a moment later.
        if self.enabled {
            let second = Timespec::from(Duration::from_secs(1));
            let _ = self.ring.submitter().register_sync_cancel(Some(second), CancelBuilder::any());
        }
    }
}

impl Transport for UringTransport {
    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)> {
        let (socket, local) = socket::listen(addr, backlog)?;
        let index = self.listeners.len() as u32;
        self.listeners.push(Some(Listener {
            socket,
            local,
            accepting: false,
            stopped: false,
            rest_until_ns: None,
            refused: 0,
        }));
        self.accept(index);
        Ok((ListenerId(index), local))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let Some(Some(stopped)) = self.listeners.get_mut(listener.0 as usize) else { return };
        if mem::replace(&mut stopped.stopped, true) {
            return;
        }
        if stopped.rest_until_ns.take().is_some() {
            self.resting_listeners -= 1;
        }
        if !stopped.accepting {
            self.listeners[listener.0 as usize] = None;
            return;
        }
        // The port is free from now on, however long the kernel takes to let go of the accept and of the ring.
        socket::shutdown_listener(stopped.socket.as_raw_fd());
        let id = ConnId { index: listener.0, generation: 0 };
        let cancel = opcode::AsyncCancel::new(user_data(Op::Accept, id)).build();
        self.push(&cancel.user_data(user_data(Op::CancelAccept, id)));
    }

    fn connect(&mut self, addr: SocketAddr) -> io::Result<ConnId> {
        let mut conn = Conn::new(socket::unconnected(addr)?, State::Connecting);
        let target = Box::new(RawAddr::from(addr));
        let connect = opcode::Connect::new(Fd(conn.fd()), target.as_ptr(), target.len()).build();
        conn.target = Some(target);
        conn.in_flight = 1;
        let id = self
            .conns
            .insert(conn)
            .map_err(|_| io::Error::other("the limit of connections has been reached"))?;
        self.push(&connect.user_data(user_data(Op::Connect, id)));
        Ok(id)
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        self.enable()?;
        self.turn = self.turn.wrapping_add(1);
        let before = events.len();
        if self.waker.take() {
            events.push(Event::Woken);
        }
        self.hand_out_carried(events);
        self.tell_files(events);
        self.release_finished(events);
        loop {
            let idle = events.len() == before && self.carried.is_empty();
            self.pass(wait, idle, events)?;
            let Wait::Until(until) = wait else { return Ok(()) };
            // Completions that tell the caller nothing (a send's) do not end the wait.
            let tell = events.len() > before || !self.carried.is_empty();
            if tell || until.is_some_and(|until| clock::monotonic_ns() >= until) {
                return Ok(());
            }
        }
    }

    #[inline]
    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        if self.buffers.owns(buf.id) {
            return self.buffers.bytes(buf);
        }
        let chunk = &self.spilled[(buf.id - u32::from(self.config.recv_buffers)) as usize];
        &chunk[buf.offset as usize..][..buf.len as usize]
    }

    #[inline]
    fn recycle(&mut self, buf: RecvBuf) {
        if self.buffers.owns(buf.id) {
            self.buffers.recycle(buf.id);
        } else {
            self.spilled.remove((buf.id - u32::from(self.config.recv_buffers)) as usize);
        }
    }

    #[inline]
    fn output(&mut self, id: ConnId) -> Option<&mut Vec<u8>> {
        let conn = self.conns.get_mut(id)?;
        match conn.state {
            State::Open | State::Connecting => {
                if !conn.dirty {
                    conn.dirty = true;
                    self.dirty.push(id.index);
                }
                Some(conn.outbox.filling(&mut self.pool))
            }
            State::Closing { .. } | State::Leaving | State::Dying { .. } => None,
        }
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.watched.push(fd);
        self.watch_again(self.watched.len() as u32 - 1);
        Ok(())
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
            }
        }
        self.dirty = dirty;
    }

    fn pause(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.paused || !matches!(conn.state, State::Open | State::Connecting) {
            return;
        }
        conn.paused = true;
        // A quiet connection keeps its receive armed: pausing and resuming it costs nothing.
        if !conn.backlog.is_empty() {
            self.spill_backlog(id.index);
            self.cancel_receive(id.index);
        }
    }

    fn resume(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !mem::take(&mut conn.paused) {
            return;
        }
        if conn.backlog.is_empty() && conn.ended.is_none() {
            self.want_receive(id.index);
        } else {
            self.carry(id.index);
        }
    }

    fn close(&mut self, id: ConnId, how: Close) {
        let Some(conn) = self.conns.get(id) else { return };
        match (how, &conn.state) {
            (_, State::Dying { .. }) | (Close::Flush, State::Closing { .. }) => {}
            (Close::Flush, State::Open) => self.close_in_order(id.index, CloseReason::Local),
            _ => self.abort(id.index, CloseReason::Local),
        }
    }

    fn detach(&mut self, id: ConnId) {
        UringTransport::detach(self, id);
    }

    fn adopt(&mut self, detached: Detached) -> io::Result<ConnId> {
        let Detached { socket: Socket::Real(socket), mut unsent, .. } = detached else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let id = self
            .conns
            .insert(Conn::new(socket, State::Open))
            .map_err(|_| io::Error::other("the limit of connections has been reached"))?;
        self.append(id, &mut unsent);
        self.want_receive(id.index);
        Ok(id)
    }

    fn file(&mut self, token: u64, operation: FileOperation) {
        self.start_file(token, operation);
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
        "io_uring"
    }
}

impl UringTransport {
    /// Has the listener accept, if it does not yet.
    fn accept(&mut self, index: u32) {
        let Some(listener) = self.listeners[index as usize].as_mut() else { return };
        if mem::replace(&mut listener.accepting, true) {
            return;
        }
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let accept = opcode::AcceptMulti::new(Fd(listener.socket.as_raw_fd())).flags(flags).build();
        self.push(&accept.user_data(user_data(Op::Accept, ConnId { index, generation: 0 })));
    }
}
