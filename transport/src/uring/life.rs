//! What becomes of a connection: receiving, sending, pausing, ending.

use std::mem;

use io_uring::opcode;
use io_uring::types::{CancelBuilder, Fd};

use super::buffers::GROUP;
use super::conn::{Conn, State};
use super::{Op, UringTransport, user_data};
use crate::types::Socket;
use crate::{CloseReason, ConnId, Detached, Event, RecvBuf, clock, socket};

/// Bytes that one send carries at most.
const LARGEST_SEND: usize = 1 << 30;

impl UringTransport {
    /// Arms the receive if it should be and is not.
    pub(super) fn want_receive(&mut self, index: u32) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        if conn.receiving || conn.starved || !conn.wants_receive(self.config.turn_budget_bytes as usize) {
            return;
        }
        conn.receiving = true;
        conn.progressed = false;
        conn.in_flight += 1;
        let receive = opcode::RecvMulti::new(Fd(conn.fd()), GROUP).build();
        self.push(&receive.user_data(user_data(Op::Receive, id)));
    }

    pub(super) fn cancel_receive(&mut self, index: u32) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        if !conn.receiving || mem::replace(&mut conn.cancelling, true) {
            return;
        }
        conn.in_flight += 1;
        let cancel = opcode::AsyncCancel::new(user_data(Op::Receive, id)).build();
        self.push(&cancel.user_data(user_data(Op::Cancel, id)));
    }

    /// Starts a send if there is something to send and none in flight.
    #[inline]
    pub(super) fn send(&mut self, index: u32) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        if conn.sending || conn.send_error != 0 || !matches!(conn.state, State::Open | State::Closing { .. })
        {
            return;
        }
        let fd = Fd(conn.fd());
        let bytes = conn.outbox.next();
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len().min(LARGEST_SEND) as u32;
        let send = opcode::Send::new(fd, bytes.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
        conn.sending = true;
        conn.in_flight += 1;
        self.push(&send.user_data(user_data(Op::Send, id)));
    }

    /// Keeps bytes of a paused connection outside the receive buffers.
    pub(super) fn spill(&mut self, index: u32, buf: RecvBuf) {
        let chunk = self.buffers.bytes(&buf).to_vec();
        self.buffers.recycle(buf.id);
        let id = u32::from(self.config.recv_buffers) + self.spilled.insert(chunk) as u32;
        let conn = self.conns.at(index).expect("spilling for a connection that is gone");
        conn.backlog_bytes += buf.len as usize;
        conn.backlog.push_back(RecvBuf { id, offset: 0, len: buf.len });
    }

    pub(super) fn spill_backlog(&mut self, index: u32) {
        let conn = self.conns.at(index).expect("spilling for a connection that is gone");
        let backlog = mem::take(&mut conn.backlog);
        conn.backlog_bytes = 0;
        for buf in backlog {
            if self.buffers.owns(buf.id) {
                self.spill(index, buf);
            } else {
                let conn = self.conns.at(index).expect("spilling for a connection that is gone");
                conn.backlog_bytes += buf.len as usize;
                conn.backlog.push_back(buf);
            }
        }
    }

    /// Puts the connection on the list of those to look at in the next turn.
    pub(super) fn carry(&mut self, index: u32) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        if !mem::replace(&mut conn.carried, true) {
            self.carried.push_back(id);
        }
    }

    /// Hands out what earlier turns left, each connection up to its budget, and ends those that have no more.
    pub(super) fn hand_out_carried(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.carried.len() {
            let Some(id) = self.carried.pop_front() else { return };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.carried = false;
            if conn.state != State::Open {
                continue;
            }
            if conn.backlog.is_empty()
                && let Some(reason) = conn.ended.take()
            {
                self.end(id.index, reason);
                continue;
            }
            if conn.paused {
                continue;
            }
            while let Some(len) = conn.backlog.front().map(|buf| buf.len) {
                if !conn.within_budget(self.turn, len, self.config.turn_budget_bytes) {
                    break;
                }
                let buf = conn.backlog.pop_front().expect("it was there");
                conn.backlog_bytes -= len as usize;
                events.push(Event::Received { conn: id, buf });
            }
            if !conn.backlog.is_empty() || conn.ended.is_some() {
                self.carry(id.index);
            }
            self.want_receive(id.index);
        }
    }

    /// The peer has ended, or the network: what was written is still sent to a peer that only closed its side.
    pub(super) fn end(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.conns.at(index) else { return };
        if reason == CloseReason::Peer && conn.outbox.pending() > 0 {
            conn.ended = Some(CloseReason::Peer);
            self.close_in_order(index, reason);
        } else {
            self.kill(index, reason);
        }
    }

    pub(super) fn send_failed(&mut self, index: u32, error: i32) {
        let Some(conn) = self.conns.at(index) else { return };
        conn.send_error = error;
        conn.outbox.discard(false, &mut self.pool);
        if conn.state != State::Open || conn.paused || conn.ended.is_some() {
            self.kill(index, CloseReason::Error(error));
        }
    }

    /// Sends the rest, then says so to the peer and waits for its end.
    pub(super) fn close_in_order(&mut self, index: u32, reason: CloseReason) {
        let id = self.conns.id_at(index);
        self.drop_backlog(index);
        let Some(conn) = self.conns.at(index) else { return };
        conn.state = State::Closing { reason, shut: false };
        conn.paused = false;
        let deadline = clock::monotonic_ns() + self.config.close_timeout_ms * 1_000_000;
        self.closing.push_back((deadline, id));
        self.send(index);
        self.want_receive(index);
        self.progress_close(index);
    }

    pub(super) fn progress_close(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        let fd = conn.fd();
        let State::Closing { reason, shut } = &mut conn.state else { return };
        let failed = matches!(conn.ended, Some(CloseReason::Error(_))) || conn.send_error != 0;
        if conn.outbox.pending() > 0 && !failed {
            return;
        }
        if !mem::replace(shut, true) {
            socket::shutdown_write(fd);
        }
        if failed || conn.ended.is_some() {
            let reason = reason.clone();
            self.kill(index, reason);
        }
    }

    /// Ends the connection now and resets the peer.
    pub(super) fn abort(&mut self, index: u32, reason: CloseReason) {
        if let Some(conn) = self.conns.at(index) {
            socket::set_abortive(conn.fd());
            self.kill(index, reason);
        }
    }

    /// Lets go of everything but what the kernel still holds.
    pub(super) fn kill(&mut self, index: u32, reason: CloseReason) {
        self.drop_backlog(index);
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        if conn.is_dying() {
            return;
        }
        conn.state = State::Dying { reason };
        conn.outbox.discard(conn.sending, &mut self.pool);
        self.cancel_all(id);
    }

    fn drop_backlog(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        conn.backlog_bytes = 0;
        for buf in mem::take(&mut conn.backlog) {
            crate::Transport::recycle(self, buf);
        }
    }

    /// Tells the end of connections that the kernel holds no longer, and closes their sockets.
    pub(super) fn release_finished(&mut self, events: &mut Vec<Event>) {
        let mut finished = mem::take(&mut self.finished);
        for index in finished.drain(..) {
            let conn = ConnId { ..self.conns.id_at(index) };
            let Some(gone) = self.conns.remove(index) else { continue };
            events.push(match gone.state {
                State::Leaving => self.hand_over(conn, gone),
                _ => self.let_go(conn, gone),
            });
        }
        self.finished = finished;
    }

    fn let_go(&mut self, conn: ConnId, mut gone: Conn) -> Event {
        gone.outbox.discard(false, &mut self.pool);
        let State::Dying { reason } = gone.state else { panic!("a living connection was released") };
        Event::Closed { conn, reason }
    }

    fn hand_over(&mut self, conn: ConnId, mut gone: Conn) -> Event {
        let mut received = Vec::with_capacity(gone.backlog_bytes);
        for buf in gone.backlog {
            received.extend_from_slice(crate::Transport::bytes(self, &buf));
            crate::Transport::recycle(self, buf);
        }
        let unsent = gone.outbox.take_pending(&mut self.pool);
        // Who adopts it sees that a peer has closed its side; an error is told once.
        if let Some(reason @ CloseReason::Error(_)) = gone.ended {
            return Event::Closed { conn, reason };
        }
        let socket = Socket::Real(gone.socket);
        Event::Detached { conn, detached: Box::new(Detached { socket, unsent, received }) }
    }

    /// Lets go of the connection without an end, once the kernel has.
    pub(super) fn detach(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.state == State::Open) else { return };
        if conn.send_error != 0 {
            let error = conn.send_error;
            return self.kill(id.index, CloseReason::Error(error));
        }
        conn.state = State::Leaving;
        self.cancel_all(id);
    }

    /// Has the kernel let go of a connection that is going.
    fn cancel_all(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.in_flight == 0 {
            return self.finished.push(id.index);
        }
        conn.in_flight += 1;
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(conn.fd())).all()).build();
        self.push(&cancel.user_data(user_data(Op::Cancel, id)));
    }

    /// Ends what took too long, wakes listeners that have rested.
    pub(super) fn expire(&mut self, now_ns: u64) {
        while let Some(&(deadline, id)) = self.closing.front()
            && (deadline <= now_ns || self.conns.get(id).is_none())
        {
            self.closing.pop_front();
            if let Some(conn) = self.conns.get(id)
                && let State::Closing { reason, .. } = &conn.state
            {
                let reason = reason.clone();
                self.abort(id.index, reason);
            }
        }
        for index in 0..self.listeners.len() {
            if let Some(listener) = self.listeners[index].as_mut()
                && listener.rest_until_ns.is_some_and(|until| until <= now_ns)
            {
                listener.rest_until_ns = None;
                self.resting_listeners -= 1;
                self.accept(index as u32);
            }
        }
    }
}
