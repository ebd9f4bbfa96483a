//! How connections begin and end.

use std::net::SocketAddr;

use fulmar_transport::{CloseReason, ConnId, Event, ListenerId};

use crate::conn::{Conn, Held, State};
use crate::credit::Credit;
use crate::device::{Device, DeviceEvent, Private};
use crate::side::{FLUSH_NS, HANDSHAKE_NS, MESSAGE_BYTES, NO_SLOT, Owner, Side};
use crate::wire::{self, Cutter, Terms};

impl<D: Device> Side<D> {
    pub(crate) fn tell(&mut self, event: DeviceEvent, events: &mut Vec<Event>) {
        match event {
            DeviceEvent::Request { .. } => self.asked(event),
            DeviceEvent::Resolved { endpoint, port } => self.resolved(endpoint, port),
            DeviceEvent::Established { endpoint, private } => self.established(endpoint, &private, events),
            DeviceEvent::Rejected { endpoint, private } => {
                self.refusal = wire::reason(&private);
                self.broken(endpoint, CloseReason::Error(libc::ECONNREFUSED));
            }
            DeviceEvent::Failed { endpoint, error } => self.broken(endpoint, CloseReason::Error(error)),
            DeviceEvent::Disconnected { endpoint } => self.broken(endpoint, CloseReason::Peer),
            DeviceEvent::Lost { endpoint, error } => self.broken(endpoint, CloseReason::Error(error)),
            DeviceEvent::ListenerLost { listener } => self.listener_lost(listener),
        }
    }

    fn conn_of(&self, endpoint: u32) -> Option<ConnId> {
        let slot = *self.by_endpoint.get(endpoint as usize)?;
        (slot != NO_SLOT).then(|| self.conns.id_at(slot))
    }

    /// Agrees with somebody who wants to connect, or refuses.
    pub(crate) fn answer(&mut self, mut conn: Conn, private: &Private) {
        let (endpoint, peer) = (conn.endpoint, conn.peer);
        let terms = match Terms::decode(private) {
            Ok(terms) => terms,
            Err(what) => return self.refuse(endpoint, peer, &what),
        };
        let reply = Terms {
            message_bytes: terms.message_bytes.min(MESSAGE_BYTES),
            credit: self.accept_credit,
            version: terms.version,
            native: terms.native,
        };
        conn.message_bytes = reply.message_bytes;
        conn.version = terms.version;
        conn.native = terms.native;
        conn.credit = Credit::new(terms.credit, reply.credit);
        let Ok(id) = self.conns.insert(conn) else {
            return self.refuse(endpoint, peer, "there are too many connections");
        };
        self.bind(endpoint, id.index);
        let opened = self.open(id, reply.credit).and_then(|()| self.device.accept(endpoint, &reply.encode()));
        match opened {
            Ok(()) => self.set_deadline(id, HANDSHAKE_NS),
            Err(error) => {
                self.give_back(id);
                self.refuse(endpoint, peer, &format!("an RDMA connection cannot be set up: {error}"));
            }
        }
    }

    /// Says no, and why, to the log at a bounded rate.
    fn refuse(&mut self, endpoint: u32, peer: SocketAddr, why: &str) {
        self.counts.refused += 1;
        if self.counts.refused.is_power_of_two() {
            log::warn!("{peer}: refused: {why} ({} so far)", self.counts.refused);
        }
        let ours =
            Terms { message_bytes: MESSAGE_BYTES, credit: self.accept_credit, version: 1, native: true };
        self.device.reject(endpoint, &wire::refusal(&ours, why));
    }

    /// Makes the queues, and posts room for as many messages as the peer will have credit for.
    fn open(&mut self, id: ConnId, receives: u16) -> std::io::Result<()> {
        let conn = self.conns.get_mut(id).expect("it is being made");
        let (endpoint, port) = (conn.endpoint, conn.port);
        conn.cutter = if conn.native { Cutter::Stream } else { Cutter::Unknown };
        self.memory_of(port);
        let inline_bytes = self.device.open(endpoint, Self::depth(receives))?;
        let memory = &mut self.memory[usize::from(port)];
        let conn = self.conns.get_mut(id).expect("it is being made");
        conn.inline_bytes = inline_bytes;
        conn.is_opened = true;
        for _ in 0..receives {
            let unit = memory.receives.take(&mut self.device, port)?;
            memory.set_owner(unit, Owner::Conn(id));
            conn.units.push(unit);
            conn.fresh.push(unit);
        }
        let credit = conn.credit;
        self.post_fresh(id.index);
        let conn = self.conns.get_mut(id).expect("it is being made");
        // The peer knows of these from the terms.
        conn.credit = credit;
        if conn.receives_posted == 0 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// The way to the peer is known.
    fn resolved(&mut self, endpoint: u32, port: u8) {
        let Some(id) = self.conn_of(endpoint) else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.state != State::Resolving {
            return;
        }
        conn.port = port;
        conn.state = State::Connecting;
        let offer = self.offer;
        conn.version = offer.version;
        let opened =
            self.open(id, offer.credit).and_then(|()| self.device.connect(endpoint, &offer.encode()));
        if let Err(error) = opened {
            log::warn!("an RDMA connection cannot be set up: {error}");
            self.broken(endpoint, CloseReason::Error(error.raw_os_error().unwrap_or(libc::EIO)));
        }
    }

    fn established(&mut self, endpoint: u32, private: &Private, events: &mut Vec<Event>) {
        let Some(id) = self.conn_of(endpoint) else { return };
        let offer = self.offer;
        let Some(conn) = self.conns.get_mut(id) else { return };
        match conn.state {
            State::Accepting => {
                conn.is_known = true;
                self.counts.accepted += 1;
                let listener = ListenerId(conn.listener.unwrap_or_default());
                events.push(Event::Accepted { listener, conn: id, peer: conn.peer, local: conn.local });
            }
            State::Connecting => match Terms::decode(private) {
                Ok(terms) if terms.version == conn.version && terms.message_bytes <= offer.message_bytes => {
                    conn.message_bytes = terms.message_bytes;
                    conn.native = terms.native;
                    conn.cutter = if terms.native { Cutter::Stream } else { Cutter::Unknown };
                    conn.credit = Credit::new(terms.credit, offer.credit);
                    events.push(Event::Connected { conn: id });
                }
                bad => {
                    log::warn!("{}: answered with terms that were not offered: {bad:?}", conn.peer);
                    return self.broken(endpoint, CloseReason::Error(libc::EPROTO));
                }
            },
            _ => return,
        }
        conn.state = State::Open;
        conn.deadline_ns = None;
        if !conn.backlog.is_empty() {
            self.carry(id.index);
        }
        self.mark(id.index);
    }

    /// The other side, or the device, has ended it.
    fn broken(&mut self, endpoint: u32, reason: CloseReason) {
        let Some(id) = self.conn_of(endpoint) else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.reason.is_none() {
            conn.reason = Some(reason);
        }
        let hands_out = conn.is_known && conn.hands_out();
        self.disconnect(id.index, hands_out);
    }

    /// Nothing more is told of what is under way on a port.
    pub(crate) fn port_failed(&mut self, port: u8) {
        log::warn!("rdma: a completion queue has failed, with all connections that it is for");
        for index in self.conns.indices() {
            let Some(conn) = self.conns.at(index).filter(|conn| conn.is_opened && conn.port == port) else {
                continue;
            };
            conn.receives_posted = 0;
            self.fail(index, libc::EIO);
        }
    }

    /// Sends the rest, then disconnects.
    pub(crate) fn close_in_order(&mut self, index: u32) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        conn.state = State::Closing;
        conn.reason = Some(CloseReason::Local);
        conn.paused = false;
        while let Some(buf) = conn.backlog.pop_front() {
            conn.fresh.push(buf.id & 0x00ff_ffff);
        }
        self.set_deadline(id, self.config.close_timeout_ms * 1_000_000);
        self.mark(index);
    }

    /// Disconnects what closes in order once everything has arrived.
    pub(crate) fn progress_close(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        let is_done = conn.outbox.pending() == 0 && conn.sends.ended == conn.sends.posted;
        if conn.state == State::Closing && is_done {
            self.disconnect(index, false);
        }
    }

    /// Ends the connection; whatever is under way gets flushed.
    pub(crate) fn disconnect(&mut self, index: u32, hands_out: bool) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        if let State::Draining { hands_out: before } = conn.state {
            conn.state = State::Draining { hands_out: before && hands_out };
        } else {
            conn.state = State::Draining { hands_out };
        }
        if !std::mem::replace(&mut conn.is_disconnected, true) {
            let (endpoint, opened) = (conn.endpoint, conn.is_opened);
            if opened {
                self.device.disconnect(endpoint);
            }
            self.set_deadline(id, FLUSH_NS);
        }
        self.finish_if_drained(index);
    }

    /// Has a connection that was flushed be told as closed in the next turn.
    pub(crate) fn finish_if_drained(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        if let State::Draining { hands_out } = conn.state
            && conn.is_drained()
            && (conn.backlog.is_empty() || !hands_out || !conn.paused)
        {
            self.carry(index);
        }
    }

    /// Tells the end of a connection, and gives its slot away.
    pub(crate) fn finish(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let reason = conn.reason.clone().unwrap_or(CloseReason::Local);
        let (endpoint, is_known) = (conn.endpoint, conn.is_known);
        self.device.release(endpoint);
        self.give_back(id);
        if is_known {
            events.push(Event::Closed { conn: id, reason });
        }
    }

    /// Takes a connection out, with all that it has. The device no longer uses any of it.
    fn give_back(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(id.index) else { return };
        self.by_endpoint[conn.endpoint as usize] = NO_SLOT;
        self.timed.retain(|timed| *timed != id);
        let port = conn.port;
        let Some(memory) = self.memory.get_mut(usize::from(port)) else { return };
        for unit in conn.units {
            if memory.owners[unit as usize] == Owner::Conn(id) {
                memory.set_owner(unit, Owner::Nobody);
                memory.receives.give(unit);
            }
        }
        for (_, held) in conn.sends.held {
            match held {
                Held::Chunk(unit) => memory.chunks.give(unit),
                Held::Large(unit) => memory.receives.give(unit),
                Held::Block(block) => memory.blocks.put(block, &mut self.device, port),
            }
        }
        if let Some(unit) = conn.trailers {
            memory.trailers.give(unit);
        }
        for block in conn.outbox.into_blocks() {
            memory.blocks.put(block, &mut self.device, port);
        }
    }

    /// Ends what took too long.
    pub(crate) fn expire(&mut self) {
        let now_ns = self.now_ns;
        let mut late = Vec::new();
        self.timed.retain(|id| {
            let Some(deadline) = self.conns.get(*id).and_then(|conn| conn.deadline_ns) else { return false };
            if deadline > now_ns {
                return true;
            }
            late.push(*id);
            false
        });
        for id in late {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            if conn.deadline_ns.is_none_or(|deadline| deadline > now_ns) {
                continue;
            }
            conn.deadline_ns = None;
            if matches!(conn.state, State::Draining { .. }) {
                // The device has not flushed it: it goes with its queues.
                conn.receives_posted = 0;
                self.finish_if_drained(id.index);
                continue;
            }
            if conn.reason.is_none() {
                conn.reason = Some(CloseReason::Error(libc::ETIMEDOUT));
            }
            self.disconnect(id.index, false);
        }
    }
}
