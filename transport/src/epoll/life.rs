//! What becomes of a connection: readiness, receiving, sending, ending.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{EpollTransport, unwatch};
use crate::outbox::Outbox;
use crate::types::{MAX_DISCARDED_BYTES, Socket};
use crate::{CloseReason, ConnId, Detached, Event, RecvBuf, clock, socket};

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The connect is under way.
    Connecting,
    /// Bytes flow.
    Open,
    /// Sending the rest, then waiting for the peer's end.
    Closing { shut: bool },
    /// Given up; told at the end of the turn.
    Leaving,
    /// Over; told at the end of the turn.
    Dead,
}

pub(super) struct Conn {
    pub(super) socket: OwnedFd,
    pub(super) state: State,
    pub(super) outbox: Outbox,
    /// Why it ended, or will have ended once it has closed in order.
    pub(super) reason: CloseReason,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The last report told of the stream's end or an error; it will not be told again.
    pub(super) ending: bool,
    /// The peer has closed its side, and everything was read.
    pub(super) at_end: bool,
    pub(super) paused: bool,
    pub(super) dirty: bool,
    /// On the list of connections to look at.
    pub(super) ready: bool,
    pub(super) send_error: i32,
    /// Thrown away since it is being closed.
    pub(super) discarded_bytes: u32,
}

impl Conn {
    pub(super) fn new(socket: OwnedFd, state: State) -> Self {
        Conn {
            socket,
            state,
            outbox: Outbox::default(),
            reason: CloseReason::Local,
            readable: false,
            writable: state == State::Open,
            ending: false,
            at_end: false,
            paused: false,
            dirty: false,
            ready: false,
            send_error: 0,
            discarded_bytes: 0,
        }
    }
}

impl EpollTransport {
    /// Puts the connection on the list of those to look at.
    pub(super) fn look_at(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && !mem::replace(&mut conn.ready, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Goes once through the connections that have something to do.
    pub(super) fn serve_ready(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { return };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.ready = false;
            if conn.state == State::Connecting && conn.writable {
                match socket::take_error(conn.socket.as_raw_fd()) {
                    0 => {
                        conn.state = State::Open;
                        events.push(Event::Connected { conn: id });
                    }
                    error => {
                        self.kill(id.index, CloseReason::Error(error));
                        continue;
                    }
                }
            }
            let Some(conn) = self.conns.get_mut(id) else { continue };
            if conn.writable && conn.outbox.pending() > 0 {
                self.send(id.index);
            }
            self.tell_drained(id, events);
            self.receive(id, events);
        }
    }

    pub(super) fn tell_drained(&mut self, id: ConnId, events: &mut Vec<Event>) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.state == State::Open
            && conn.outbox.drained(self.config.low_water_bytes)
        {
            events.push(Event::Drained { conn: id });
        }
    }

    /// Reads what the budget allows.
    pub(super) fn receive(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let mut budget = self.config.turn_budget_bytes;
        loop {
            let Some(conn) = self.conns.get_mut(id) else { return };
            let closing = matches!(conn.state, State::Closing { .. });
            if !(closing || conn.state == State::Open && !conn.paused) {
                return;
            }
            if conn.at_end {
                // What the caller got in the turn before was answered by now.
                return if closing { self.progress_close(id.index) } else { self.end(id.index) };
            }
            if !conn.readable {
                return;
            }
            let Some(buffer) = self.free.pop() else { return self.look_at(id) };
            let room = self.config.recv_buffer_bytes as usize;
            // SAFETY: the buffer is not lent, and lies inside the mapping.
            let received = unsafe {
                let place = self.data.base().add(buffer as usize * room);
                libc::recv(conn.socket.as_raw_fd(), place.cast(), room, 0)
            };
            if received > 0 {
                let len = received as u32;
                // Less than asked for means that the socket is empty; the next bytes are an edge of their own. The
                // end of the stream may have been told with these.
                conn.readable = received as usize == room || conn.ending;
                if closing {
                    self.free.push(buffer);
                    conn.discarded_bytes = conn.discarded_bytes.saturating_add(len);
                    if conn.discarded_bytes > MAX_DISCARDED_BYTES {
                        let reason = conn.reason.clone();
                        return self.abort(id.index, reason);
                    }
                } else {
                    events.push(Event::Received { conn: id, buf: RecvBuf { id: buffer, offset: 0, len } });
                }
                budget = budget.saturating_sub(len);
                if budget < room as u32 && conn.readable {
                    return self.look_at(id);
                }
                continue;
            }
            self.free.push(buffer);
            if received == 0 {
                conn.at_end = true;
                if closing {
                    continue;
                }
                return self.look_at(id);
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN) => conn.readable = false,
                Some(libc::EINTR) => {}
                error => {
                    let error =
                        if conn.send_error != 0 { conn.send_error } else { error.unwrap_or(libc::EIO) };
                    return self.fail(id.index, error);
                }
            }
        }
    }

    /// Sends what there is, as far as the socket takes it.
    pub(super) fn send(&mut self, index: u32) {
        loop {
            let Some(conn) = self.conns.at(index) else { return };
            if conn.send_error != 0
                || !conn.writable
                || !matches!(conn.state, State::Open | State::Closing { .. })
            {
                return;
            }
            let fd = conn.socket.as_raw_fd();
            let bytes = conn.outbox.next();
            if bytes.is_empty() {
                return self.progress_close(index);
            }
            let asked = bytes.len();
            // SAFETY: live bytes of the length given.
            let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), asked, libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                conn.writable = sent as usize == asked;
                conn.outbox.sent(sent as usize, &mut self.pool);
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN) => conn.writable = false,
                Some(libc::EINTR) => {}
                error => return self.send_failed(index, error.unwrap_or(libc::EIO)),
            }
        }
    }

    pub(super) fn send_failed(&mut self, index: u32, error: i32) {
        let Some(conn) = self.conns.at(index) else { return };
        conn.send_error = error;
        conn.outbox.discard(false, &mut self.pool);
        if conn.state != State::Open || conn.paused {
            self.fail(index, error);
        } else {
            // What arrived before the failure is handed out first.
            conn.readable = true;
            let id = self.conns.id_at(index);
            self.look_at(id);
        }
    }

    /// The peer has closed its side: what was written is still sent.
    pub(super) fn end(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        if conn.send_error != 0 {
            let error = conn.send_error;
            self.fail(index, error);
        } else if conn.outbox.pending() > 0 {
            self.close_in_order(index, CloseReason::Peer);
        } else {
            self.kill(index, CloseReason::Peer);
        }
    }

    pub(super) fn fail(&mut self, index: u32, error: i32) {
        let Some(conn) = self.conns.at(index) else { return };
        let reason = match conn.state {
            State::Closing { .. } => conn.reason.clone(),
            _ => CloseReason::Error(error),
        };
        self.kill(index, reason);
    }

    pub(super) fn close_in_order(&mut self, index: u32, reason: CloseReason) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        conn.state = State::Closing { shut: false };
        conn.reason = reason;
        self.closing.push_back((clock::monotonic_ns() + self.config.close_timeout_ms * 1_000_000, id));
        self.send(index);
        self.progress_close(index);
        self.look_at(id);
    }

    pub(super) fn progress_close(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        let State::Closing { shut } = &mut conn.state else { return };
        if conn.outbox.pending() > 0 {
            return;
        }
        if !mem::replace(shut, true) {
            socket::shutdown_write(conn.socket.as_raw_fd());
        }
        if conn.at_end {
            let reason = conn.reason.clone();
            self.kill(index, reason);
        }
    }

    pub(super) fn abort(&mut self, index: u32, reason: CloseReason) {
        if let Some(conn) = self.conns.at(index) {
            socket::set_abortive(conn.socket.as_raw_fd());
            self.kill(index, reason);
        }
    }

    pub(super) fn kill(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.conns.at(index) else { return };
        if conn.state == State::Dead {
            return;
        }
        conn.state = State::Dead;
        conn.reason = reason;
        conn.outbox.discard(false, &mut self.pool);
        self.dead.push(index);
    }

    /// Lets go of the connection without an end.
    pub(super) fn detach(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.state == State::Open) else { return };
        if conn.send_error != 0 {
            let error = conn.send_error;
            return self.fail(id.index, error);
        }
        conn.state = State::Leaving;
        unwatch(&self.epoll, conn.socket.as_raw_fd());
        self.dead.push(id.index);
    }

    /// Tells the end of connections and closes their sockets.
    pub(super) fn release_dead(&mut self, events: &mut Vec<Event>) {
        let mut dead = mem::take(&mut self.dead);
        for index in dead.drain(..) {
            let conn = self.conns.id_at(index);
            let Some(mut gone) = self.conns.remove(index) else { continue };
            if gone.state == State::Leaving {
                let unsent = gone.outbox.take_pending(&mut self.pool);
                let socket = Socket::Real(gone.socket);
                // What was not asked for is in the kernel yet.
                let detached = Box::new(Detached { socket, unsent, received: Vec::new() });
                events.push(Event::Detached { conn, detached });
            } else {
                events.push(Event::Closed { conn, reason: gone.reason });
            }
        }
        self.dead = dead;
    }
}
