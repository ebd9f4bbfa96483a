//! What completions do.

use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::conn::{Conn, State};
use super::{ACCEPT_REST_NS, Op, UringTransport, split_user_data};
use crate::types::MAX_DISCARDED_BYTES;
use crate::{CloseReason, ConnId, Event, ListenerId, RecvBuf, clock, socket};

impl UringTransport {
    pub(super) fn complete(&mut self, data: u64, result: i32, flags: u32, events: &mut Vec<Event>) {
        let (op, id) = split_user_data(data);
        match op {
            Op::Receive => self.received(id, result, flags, events),
            Op::Send => self.sent(id, result, events),
            Op::Connect => self.connected(id, result, events),
            Op::Cancel => {
                self.ended(id);
            }
            Op::Accept => self.accepted(id.index, result, flags, events),
            Op::CancelAccept => {}
            Op::File => self.file_ended(id.index, result),
            Op::Watch => {
                events.push(Event::Ready);
                if !cqueue::more(flags) && result >= 0 {
                    self.watch_again(id.index);
                }
            }
            Op::Wake => {
                if !cqueue::more(flags) {
                    self.watch_waker();
                }
            }
        }
    }

    /// An operation of the connection has ended. Gives the connection, unless only its operations kept it.
    #[inline]
    fn ended(&mut self, id: ConnId) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(id).expect("an operation outlived its connection");
        conn.in_flight -= 1;
        if conn.is_going() {
            if conn.in_flight == 0 {
                self.finished.push(id.index);
            }
            return None;
        }
        Some(conn)
    }

    fn received(&mut self, id: ConnId, result: i32, flags: u32, events: &mut Vec<Event>) {
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() {
            self.buffers.taken(result.max(0) as u32);
        }
        let more = cqueue::more(flags);
        let conn = self.conns.get_mut(id).expect("a receive outlived its connection");
        if !more {
            conn.receiving = false;
            conn.cancelling = false;
        }
        match (buffer, result) {
            (Some(buffer), 1..) => {
                let buf = RecvBuf { id: u32::from(buffer), offset: 0, len: result as u32 };
                self.deliver(id, buf, events);
            }
            (Some(buffer), _) => self.buffers.recycle(u32::from(buffer)),
            (None, _) => {}
        }
        if !more {
            self.receive_ended(id, result);
        }
    }

    /// Hands bytes out, or keeps them for later.
    #[inline]
    fn deliver(&mut self, id: ConnId, buf: RecvBuf, events: &mut Vec<Event>) {
        let conn = self.conns.get_mut(id).expect("a receive outlived its connection");
        conn.progressed = true;
        if conn.state == State::Leaving {
            return self.spill(id.index, buf);
        }
        if conn.state != State::Open {
            self.buffers.recycle(buf.id);
            conn.discarded_bytes = conn.discarded_bytes.saturating_add(buf.len);
            if conn.discarded_bytes > MAX_DISCARDED_BYTES
                && let State::Closing { reason, .. } = &conn.state
            {
                let reason = reason.clone();
                self.abort(id.index, reason);
            }
            return;
        }
        if conn.paused {
            self.spill(id.index, buf);
            return self.cancel_receive(id.index);
        }
        if conn.backlog.is_empty() && conn.within_budget(self.turn, buf.len, self.config.turn_budget_bytes) {
            return events.push(Event::Received { conn: id, buf });
        }
        conn.backlog_bytes += buf.len as usize;
        conn.backlog.push_back(buf);
        let flooding = conn.backlog_bytes > self.config.turn_budget_bytes as usize;
        self.carry(id.index);
        if flooding {
            self.cancel_receive(id.index);
        }
    }

    fn receive_ended(&mut self, id: ConnId, result: i32) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.state == State::Leaving
            && !matches!(-result, libc::ENOBUFS | libc::ECANCELED | libc::EAGAIN | libc::EINTR | ..=0)
        {
            conn.ended = Some(CloseReason::Error(-result));
        }
        let Some(conn) = self.ended(id) else { return };
        match -result {
            0 => conn.ended = Some(CloseReason::Peer),
            libc::ENOBUFS => {
                let progressed = mem::take(&mut conn.progressed);
                conn.starved = true;
                self.buffers.ran_out();
                return if progressed {
                    self.starved_after_some.push_back(id);
                } else {
                    self.starved.push_back(id);
                };
            }
            libc::ECANCELED | libc::EAGAIN | libc::EINTR | ..0 => return self.want_receive(id.index),
            error => conn.ended = Some(CloseReason::Error(error)),
        }
        if conn.send_error != 0 {
            conn.ended = Some(CloseReason::Error(conn.send_error));
        }
        // What the caller got in this turn may still be answered: the end is told in the next one.
        self.carry(id.index);
        self.progress_close(id.index);
    }

    fn sent(&mut self, id: ConnId, result: i32, events: &mut Vec<Event>) {
        let conn = self.conns.get_mut(id).expect("a send outlived its connection");
        conn.sending = false;
        if conn.state == State::Leaving {
            match result {
                0.. => conn.outbox.sent(result as usize, &mut self.pool),
                _ if matches!(-result, libc::ECANCELED | libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => {}
                error => conn.ended = Some(CloseReason::Error(-error)),
            }
        }
        let Some(conn) = self.conns.get_mut(id).filter(|conn| !conn.is_going()) else {
            self.ended(id);
            return;
        };
        conn.in_flight -= 1;
        match result {
            0.. => conn.outbox.sent(result as usize, &mut self.pool),
            _ if matches!(-result, libc::EAGAIN | libc::EINTR | libc::ENOBUFS) => {}
            error => return self.send_failed(id.index, -error),
        }
        if conn.outbox.drained(self.config.low_water_bytes) && conn.state == State::Open {
            events.push(Event::Drained { conn: id });
        }
        self.send(id.index);
        self.progress_close(id.index);
    }

    fn connected(&mut self, id: ConnId, result: i32, events: &mut Vec<Event>) {
        let Some(conn) = self.ended(id) else { return };
        conn.target = None;
        if result < 0 {
            return self.end(id.index, CloseReason::Error(-result));
        }
        conn.state = State::Open;
        events.push(Event::Connected { conn: id });
        self.want_receive(id.index);
        self.send(id.index);
    }

    fn accepted(&mut self, index: u32, result: i32, flags: u32, events: &mut Vec<Event>) {
        // SAFETY: the kernel has just made this descriptor for us.
        let socket = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let listener = self.listeners[index as usize].as_mut().expect("an accept outlived its listener");
        if listener.stopped {
            if !cqueue::more(flags) {
                self.listeners[index as usize] = None;
            }
            return;
        }
        if !cqueue::more(flags) {
            listener.accepting = false;
            if matches!(-result, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) {
                log::warn!(
                    "cannot accept on {}: {}",
                    listener.local,
                    std::io::Error::from_raw_os_error(-result)
                );
                listener.rest_until_ns = Some(clock::monotonic_ns() + ACCEPT_REST_NS);
                self.resting_listeners += 1;
            } else {
                self.accept(index);
            }
        }
        let Some(socket) = socket else { return };
        // A socket that its peer has already reset has no addresses any more.
        let (Ok(peer), Ok(local)) =
            (socket::peer_addr(socket.as_raw_fd()), socket::local_addr(socket.as_raw_fd()))
        else {
            return;
        };
        socket::accepted(socket.as_raw_fd(), peer, local);
        match self.conns.insert(Conn::new(socket, State::Open)) {
            Ok(conn) => {
                events.push(Event::Accepted { listener: ListenerId(index), conn, peer, local });
                self.want_receive(conn.index);
            }
            Err(_) => self.refuse(index),
        }
    }

    fn refuse(&mut self, index: u32) {
        let Some(listener) = self.listeners[index as usize].as_mut() else { return };
        listener.refused += 1;
        if listener.refused.is_power_of_two() {
            let (refused, local, limit) = (listener.refused, listener.local, self.config.max_connections);
            log::warn!("refused {refused} connections on {local} so far: the limit is {limit}");
        }
    }
}
