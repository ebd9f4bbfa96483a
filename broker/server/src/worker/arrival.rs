//! Sockets come, say what they speak, and go.

use std::net::SocketAddr;
use std::sync::Arc;

use fulmar_protocol::{Config as ProtocolConfig, Context};
use fulmar_transport::{Close, CloseReason, ConnId, RecvBuf, Transport};

use super::slot::{Slot, State};
use super::{MS, Worker};
use crate::detect::{Protocol, Verdict, detect};

impl<T: Transport> Worker<T> {
    /// A socket was accepted: it has the handshake's time to say what it speaks.
    pub(super) fn accepted(&mut self, conn: ConnId, peer: SocketAddr, local: SocketAddr) {
        let index = conn.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::free);
        }
        let slot = &mut self.slots[index];
        assert!(matches!(slot.state, State::Free), "a socket's slot was used twice");
        *slot = Slot::accepted(conn, peer, local);
        self.open += 1;
        self.counters.accepted.add(1);
        self.counters.open.set(self.open);
        if self.stop.is_some() {
            self.slots[index].state = State::Closing;
            return self.transport.close(conn, Close::Abort);
        }
        if self.open > self.config.max_connections {
            self.counters.refused_full.add(1);
            let limit = self.config.max_connections;
            let text = format_args!("{peer}: refused, there are {limit} connections on this shard already");
            self.faults.warn(self.now_ns, text);
            self.slots[index].state = State::Closing;
            return self.transport.close(conn, Close::Abort);
        }
        self.arm(index, self.now_ns + self.config.protocol.handshake_timeout_ms * MS);
    }

    /// Collects the first bytes of a connection until its protocol is known.
    pub(super) fn detect(&mut self, index: usize, buf: &RecvBuf) {
        let Slot { conn, peer, local, ref mut state, .. } = self.slots[index];
        let State::Detecting { seen, len } = state else { return };
        let before = usize::from(*len);
        let bytes = self.transport.bytes(buf);
        let taken = bytes.len().min(seen.len() - before);
        seen[before..before + taken].copy_from_slice(&bytes[..taken]);
        *len += taken as u8;
        match detect(&seen[..before + taken]) {
            Verdict::More => {}
            Verdict::Speak { protocol, header_bytes } => {
                let name = format!("{peer} -> {local}");
                let out = &mut self.scratch;
                let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
                let config = protocol_config(&self.config.protocol, self.transport.largest_frame_bytes(conn));
                *state = State::Speaking(match protocol {
                    Protocol::Amqp091 => Box::new(fulmar_amqp_0_9_1::connection::Connection::new(
                        config, &mut cx, conn.index, name,
                    )),
                    Protocol::Amqp010 => Box::new(fulmar_amqp_0_10::connection::Connection::new(
                        config, &mut cx, conn.index, name,
                    )),
                });
                self.feed_received(index, buf, header_bytes - before);
            }
            Verdict::Refuse { what, answer } => {
                self.counters.refused_protocol.add(1);
                self.faults.warn(
                    self.now_ns,
                    format_args!("{peer}: speaks {what}; this port speaks AMQP 0-9-1 and 0-10"),
                );
                if let Some(out) = self.transport.output(conn) {
                    out.extend_from_slice(answer);
                }
                self.slots[index].state = State::Closing;
                self.transport.close(conn, Close::Flush);
            }
        }
    }

    /// The socket is gone.
    pub(super) fn closed(&mut self, conn: ConnId, reason: &CloseReason) {
        let index = conn.index as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.conn == conn) else { return };
        slot.carry.clear(&mut self.pool);
        let Slot { state, peer, .. } = std::mem::replace(slot, Slot::free());
        self.open -= 1;
        self.counters.open.set(self.open);
        self.counters.closed.add(1);
        if let CloseReason::Error(_) = reason {
            self.counters.resets.add(1);
        }
        if let State::Speaking(mut connection) = state {
            log::debug!("{peer}: connection lost without a close: {reason:?}");
            self.counters.add_connection(connection.counters());
            connection.closed(&mut self.shard);
        }
    }
}

/// What a connection is offered on which no frame may be longer than this.
fn protocol_config(config: &Arc<ProtocolConfig>, largest_frame_bytes: Option<u32>) -> Arc<ProtocolConfig> {
    match largest_frame_bytes {
        Some(bytes) if bytes < config.frame_max_bytes => {
            Arc::new(ProtocolConfig { frame_max_bytes: bytes, ..ProtocolConfig::clone(config) })
        }
        _ => config.clone(),
    }
}
