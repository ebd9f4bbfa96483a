//! Sockets come, say what they speak, and go.

use std::net::SocketAddr;
use std::sync::Arc;

use fulmar_policy::Peer;
use fulmar_policy::census::Party;
use fulmar_protocol::{Config as ProtocolConfig, Context};
use fulmar_transport::{Close, CloseReason, ConnId, ListenerId, RecvBuf, Transport};

use super::slot::{Slot, State};
use super::{MS, Worker};
use crate::detect::{MAX_HEADER_BYTES, Protocol, Verdict, detect};

impl<T: Transport> Worker<T> {
    /// A socket was accepted: it has the handshake's time to say what it speaks.
    pub(super) fn accepted(
        &mut self,
        listener: ListenerId,
        conn: ConnId,
        peer: SocketAddr,
        local: SocketAddr,
    ) {
        let needs_tls = self.config.require_encryption || self.secure_listeners.contains(&listener);
        self.counters.accepted.add(1);
        let Some(index) = self.take_in(Slot::accepted(conn, peer, local, needs_tls)) else { return };
        if self.count_address(index) {
            self.arm(index, self.now_ns + self.config.protocol.handshake_timeout_ms * MS);
        }
    }

    /// Counts a new connection among those from its address; `false`: there are too many, and it is closed.
    fn count_address(&mut self, index: usize) -> bool {
        let Slot { conn, peer, .. } = self.slots[index];
        let Some((census, most)) = &self.config.addresses else { return true };
        let address = peer.ip().to_canonical();
        let place = census.enter(Party::Address(address), *most);
        let is_let_in = place.is_some();
        self.slots[index].place = place;
        if !is_let_in {
            self.counters.refused_full.add(1);
            let text =
                format_args!("{peer}: refused, there are {most} connections from that address already");
            self.faults.warn(self.now_ns, text);
            self.slots[index].state = State::Closing;
            self.transport.close(conn, Close::Abort);
        }
        is_let_in
    }

    /// Gives a socket its place, unless there is none: it is closed then.
    pub(super) fn take_in(&mut self, newcomer: Slot) -> Option<usize> {
        let Slot { conn, peer, .. } = newcomer;
        let index = conn.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::free);
        }
        let slot = &mut self.slots[index];
        assert!(matches!(slot.state, State::Free), "a socket's slot was used twice");
        *slot = newcomer;
        self.open += 1;
        self.counters.open.set(self.open);
        let is_full = self.open > self.config.max_connections;
        if is_full && self.stop.is_none() {
            self.counters.refused_full.add(1);
            let limit = self.config.max_connections;
            let text = format_args!("{peer}: refused, there are {limit} connections on this shard already");
            self.faults.warn(self.now_ns, text);
        }
        if is_full || self.stop.is_some() {
            self.slots[index].state = State::Closing;
            self.transport.close(conn, Close::Abort);
            return None;
        }
        Some(index)
    }

    /// Looks at the first bytes of a connection.
    pub(super) fn detect(&mut self, index: usize, buf: &RecvBuf) {
        let head = Head::of(self.transport.bytes(buf));
        match self.recognise(index, head) {
            Recognised::Speaks { skip } => self.feed_received(index, buf, skip),
            Recognised::Secure { before } => self.start_secure(index, before, buf),
            Recognised::Nothing => {}
        }
    }

    /// Collects the first bytes of a connection until its protocol is known.
    pub(super) fn recognise(&mut self, index: usize, head: Head) -> Recognised {
        let config = self.config_for(index);
        let Slot { conn, peer, local, ref secure, needs_tls, ref mut state, .. } = self.slots[index];
        let State::Detecting { seen, len } = state else { return Recognised::Nothing };
        let before = usize::from(*len);
        let taken = head.len.min(seen.len() - before);
        seen[before..before + taken].copy_from_slice(&head.bytes[..taken]);
        *len += taken as u8;
        let is_secure = secure.is_some();
        match detect(&seen[..before + taken]) {
            Verdict::More => Recognised::Nothing,
            Verdict::Secure if !is_secure && self.config.tls.is_some() => {
                let seen = *seen;
                Recognised::Secure { before: Head { bytes: seen, len: before } }
            }
            Verdict::Secure => self.refuse(index, "TLS", b""),
            Verdict::Speak { .. } if needs_tls && !is_secure => {
                self.refuse(index, "without encryption, which is required here", b"")
            }
            Verdict::Speak { protocol, header_bytes } => {
                let name = format!("{peer} -> {local}");
                let out = &mut self.scratch;
                let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
                let config = protocol_config(&config, self.transport.largest_frame_bytes(conn));
                *state = State::Speaking(match protocol {
                    Protocol::Amqp091 => Box::new(fulmar_amqp_0_9_1::connection::Connection::new(
                        config, &mut cx, conn.index, name,
                    )),
                    Protocol::Amqp010 => Box::new(fulmar_amqp_0_10::connection::Connection::new(
                        config, &mut cx, conn.index, name,
                    )),
                });
                Recognised::Speaks { skip: header_bytes - before }
            }
            Verdict::Refuse { what, answer } => self.refuse(index, what, answer),
        }
    }

    /// Turns a peer away that speaks something else.
    fn refuse(&mut self, index: usize, what: &str, answer: &[u8]) -> Recognised {
        self.counters.refused_protocol.add(1);
        let Slot { conn, peer, .. } = self.slots[index];
        let text = format_args!("{peer}: speaks {what}; this port speaks {}", self.spoken(index));
        self.faults.warn(self.now_ns, text);
        self.scratch.extend_from_slice(answer);
        self.send_scratch(conn);
        self.end_secure(index);
        Recognised::Nothing
    }

    fn spoken(&self, index: usize) -> &'static str {
        match (&self.config.tls, self.slots[index].needs_tls) {
            (Some(_), true) => "AMQP 0-9-1 and 0-10 within TLS",
            (Some(_), false) => "AMQP 0-9-1 and 0-10, within TLS or without",
            (None, _) => "AMQP 0-9-1 and 0-10",
        }
    }

    /// What the peer in a slot is offered.
    fn config_for(&self, index: usize) -> Arc<ProtocolConfig> {
        let Slot { peer, identity, .. } = &self.slots[index];
        let peer = Peer::new(peer.ip(), identity.clone());
        self.authenticator.config_for(&peer).unwrap_or_else(|| self.config.protocol.clone())
    }

    /// The socket is gone.
    pub(super) fn closed(&mut self, conn: ConnId, reason: &CloseReason) {
        let index = conn.index as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.conn == conn) else { return };
        slot.carry.clear(&mut self.pool);
        let Slot { state, peer, secure, .. } = std::mem::replace(slot, Slot::free());
        self.open -= 1;
        self.counters.open.set(self.open);
        self.counters.closed.add(1);
        if let CloseReason::Error(_) = reason {
            self.counters.resets.add(1);
        }
        if matches!(state, State::Detecting { .. }) && secure.is_some_and(|secure| !secure.is_established()) {
            // Often it has said why, and what was on its way went with the connection.
            self.counters.tls_failures.add(1);
            self.faults
                .warn(self.now_ns, format_args!("{peer}: TLS failed: it hung up during the handshake"));
        }
        if let State::Speaking(mut connection) = state {
            self.counters.add_connection(connection.counters());
            match connection.closed(&mut self.shard) {
                Some(fault) => {
                    self.counters.faults.add(1);
                    self.faults.warn(self.now_ns, format_args!("{peer}: closed: {fault}"));
                }
                None => log::debug!("{peer}: connection lost without a close: {reason:?}"),
            }
        }
    }
}

/// What a connection is offered on which no frame may be longer than this.
fn protocol_config(config: &Arc<ProtocolConfig>, largest_frame_bytes: Option<u32>) -> Arc<ProtocolConfig> {
    let Some(bytes) = largest_frame_bytes else { return config.clone() };
    let frame_max_bytes = bytes.min(config.frame_max_bytes);
    // What carries no stream belongs to a device, and that to this shard.
    Arc::new(ProtocolConfig { frame_max_bytes, can_move: false, ..ProtocolConfig::clone(config) })
}

/// The beginning of some bytes.
pub(super) struct Head {
    bytes: [u8; MAX_HEADER_BYTES],
    len: usize,
}

impl Head {
    pub(super) fn of(input: &[u8]) -> Self {
        let (mut bytes, len) = ([0; MAX_HEADER_BYTES], input.len().min(MAX_HEADER_BYTES));
        bytes[..len].copy_from_slice(&input[..len]);
        Head { bytes, len }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What the first bytes of a connection were found to be.
pub(super) enum Recognised {
    /// Nothing yet, or nothing that is taken.
    Nothing,
    /// A protocol; of what came last, so many bytes are its header.
    Speaks { skip: usize },
    /// TLS; these bytes came before what came last.
    Secure { before: Head },
}
