//! What completions do.

use fulmar_transport::{CloseReason, ConnId, Event, RecvBuf};

use crate::conn::{Held, State};
use crate::device::{Completed, Completion, Device, FLUSHED};
use crate::side::{Owner, Side, joined_unit};
use crate::token::{self, Kind};
use crate::wire;

impl<D: Device> Side<D> {
    pub(crate) fn complete(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let (index, generation, kind, which) = token::split(completion.token);
        if self.conns.at(index).is_none() || self.conns.id_at(index).generation as u16 != generation {
            // Of a queue that was given up before it was flushed.
            return;
        }
        match kind {
            Kind::Send => self.sent(index, which),
            Kind::Receive => self.received(index, which, completion.result, events),
        }
        if let Err(status) = completion.result {
            self.failed(index, status);
        }
        self.progress_close(index);
        self.finish_if_drained(index);
    }

    /// This send and all before it have ended.
    fn sent(&mut self, index: u32, which: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        let ended = conn.sends.ended;
        let next = which.wrapping_sub(ended as u32) & token::WHICH_MASK;
        if u64::from(next) >= conn.sends.posted - ended {
            return;
        }
        conn.sends.ended = ended + u64::from(next) + 1;
        let port = conn.port;
        let memory = &mut self.memory[usize::from(port)];
        while conn.sends.held.front().is_some_and(|(until, _)| *until <= conn.sends.ended) {
            match conn.sends.held.pop_front() {
                Some((_, Held::Chunk(unit))) => memory.chunks.give(unit),
                Some((_, Held::Large(unit))) => memory.receives.give(unit),
                Some((_, Held::Block(block))) => memory.blocks.put(block, &mut self.device, port),
                None => {}
            }
        }
        self.mark_if_pending(index);
    }

    fn received(&mut self, index: u32, unit: u32, result: Result<Completed, u32>, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.at(index) else { return };
        // One that was given up may yet be flushed.
        conn.receives_posted = conn.receives_posted.saturating_sub(1);
        let Ok(Completed::Received { bytes, immediate }) = result else { return };
        let port = conn.port;
        self.counts.receives += 1;
        let memory = &self.memory[usize::from(port)];
        let piece = memory.receives.piece(unit, 0, bytes as usize);
        // SAFETY: the device is done with this buffer, and nobody else has it.
        let message = unsafe { std::slice::from_raw_parts(piece.address, bytes as usize) };
        let opened = wire::open_message(conn.version, message, immediate)
            .and_then(|(data, credit)| conn.credit.granted(credit).map(|()| data));
        let data = match opened {
            Ok(data) => data,
            Err(what) => {
                log::warn!("{}: broke the rules of its RDMA connection: {what}", conn.peer);
                conn.fresh.push(unit);
                return self.fail(index, libc::EPROTO);
            }
        };
        self.counts.received_bytes += u64::from(data);
        if data == 0 {
            conn.fresh.push(unit);
        } else {
            conn.cutter.see(&message[..data as usize]);
            self.deliver(index, RecvBuf { id: joined_unit(port, unit), offset: 0, len: data }, events);
        }
        // Its credit lets something go, or this one's is to be told.
        self.mark_if_pending(index);
    }

    fn mark_if_pending(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        let pending = conn.outbox.pending() > 0 || conn.credit.should_tell(conn.fresh.len() as u32);
        if pending || conn.state == State::Closing {
            self.mark(index);
        }
    }

    /// Hands bytes out, or keeps them for later.
    fn deliver(&mut self, index: u32, buf: RecvBuf, events: &mut Vec<Event>) {
        let id = self.conns.id_at(index);
        let (turn, budget) = (self.turn, self.config.turn_budget_bytes);
        let Some(conn) = self.conns.at(index) else { return };
        if !conn.hands_out() {
            let unit = buf.id & 0x00ff_ffff;
            return conn.fresh.push(unit);
        }
        let at_once = conn.state != State::Accepting && !conn.paused && conn.backlog.is_empty();
        if at_once && conn.within_budget(turn, buf.len, budget) {
            return self.hand_out(id, buf, events);
        }
        conn.backlog.push_back(buf);
        self.carry(index);
    }

    fn hand_out(&mut self, id: ConnId, buf: RecvBuf, events: &mut Vec<Event>) {
        let (port, unit) = ((buf.id >> 24) as usize, buf.id & 0x00ff_ffff);
        self.memory[port].set_owner(unit, Owner::Lent(id));
        events.push(Event::Received { conn: id, buf });
    }

    /// Hands out what earlier turns left, each connection up to its budget, and ends those that have no more.
    pub(crate) fn hand_out_carried(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.carried.len() {
            let Some(id) = self.carried.pop_front() else { return };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.carried = false;
            if let State::Draining { hands_out } = conn.state
                && conn.is_drained()
                && (conn.backlog.is_empty() || !hands_out)
            {
                self.finish(id, events);
                continue;
            }
            if conn.paused || !conn.hands_out() || conn.state == State::Accepting {
                continue;
            }
            while let Some(conn) = self.conns.get_mut(id)
                && let Some(len) = conn.backlog.front().map(|buf| buf.len)
                && conn.within_budget(self.turn, len, self.config.turn_budget_bytes)
                && let Some(buf) = conn.backlog.pop_front()
            {
                self.hand_out(id, buf, events);
            }
            let Some(conn) = self.conns.get_mut(id) else { continue };
            if !conn.backlog.is_empty() {
                self.carry(id.index);
            } else {
                self.finish_if_drained(id.index);
            }
        }
    }

    /// A request did not end well.
    fn failed(&mut self, index: u32, status: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        if matches!(conn.state, State::Draining { .. }) {
            return;
        }
        // Flushed before anybody disconnected: the queue has failed by another request, or the peer is gone.
        let error = if status == FLUSHED { libc::ECONNRESET } else { error_of(status) };
        if conn.reason.is_none() {
            conn.reason = Some(CloseReason::Error(error));
        }
        let hands_out = conn.is_known && conn.hands_out();
        self.disconnect(index, hands_out);
    }
}

/// The system's error that comes nearest to a verbs' status.
fn error_of(status: u32) -> i32 {
    match status {
        1 => libc::EMSGSIZE,
        // Neither an answer nor room, however often it was tried.
        12 | 13 => libc::ETIMEDOUT,
        _ => libc::EIO,
    }
}
