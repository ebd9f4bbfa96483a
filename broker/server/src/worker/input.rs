//! The way of received bytes to their connection.

use fulmar_protocol::{Connection, Context};
use fulmar_transport::{ConnId, RecvBuf, Transport};

use super::Worker;
use super::carry::{Carry, CarryPool};
use super::slot::State;

/// How much of a received buffer is joined to a left-over beginning of a frame before the rest is taken in place.
const STITCH_BYTES: usize = 4096;

impl<T: Transport> Worker<T> {
    /// Bytes arrived.
    pub(super) fn received(&mut self, conn: ConnId, buf: RecvBuf) {
        let index = conn.index as usize;
        self.counters.received_bytes.add(u64::from(buf.len));
        if let Some(slot) = self.slots.get(index).filter(|slot| slot.conn == conn) {
            if slot.secure.is_some() {
                self.received_secure(index, &buf);
            } else if slot.layer.is_some() {
                self.received_layered(index, &buf);
            } else if matches!(slot.state, State::Detecting { .. }) {
                self.detect(index, &buf);
            } else {
                self.feed_received(index, &buf, 0);
            }
        }
        self.transport.recycle(buf);
    }

    /// Gives a connection the bytes of a received buffer after the first `skip`.
    pub(super) fn feed_received(&mut self, index: usize, buf: &RecvBuf, skip: usize) {
        let slot = &mut self.slots[index];
        let State::Speaking(connection) = &mut slot.state else { return };
        let out = &mut self.scratch;
        let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
        let input = &self.transport.bytes(buf)[skip..];
        feed(connection.as_mut(), &mut cx, &mut slot.carry, &mut self.pool, input);
        self.fed(index);
    }

    /// Gives a connection input that is in no buffer of the transport's.
    pub(super) fn feed_bytes(&mut self, index: usize, input: &[u8]) {
        let slot = &mut self.slots[index];
        let State::Speaking(connection) = &mut slot.state else { return };
        let out = &mut self.scratch;
        let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
        feed(connection.as_mut(), &mut cx, &mut slot.carry, &mut self.pool, input);
        self.fed(index);
    }

    #[inline]
    fn fed(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let State::Speaking(connection) = &slot.state else { return };
        slot.waiting = connection.is_parked() && !slot.carry.is_empty();
        let conn = slot.conn;
        self.send_scratch(conn);
        self.touch(index);
    }

    /// Gives a connection that is no longer parked the input that was kept for it meanwhile.
    pub(super) fn feed_kept(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let State::Speaking(connection) = &mut slot.state else { return };
        if !slot.waiting || connection.is_parked() {
            return;
        }
        let out = &mut self.scratch;
        let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
        let taken = connection.receive(&mut cx, slot.carry.as_slice());
        slot.carry.consume(taken, &mut self.pool);
        slot.waiting = connection.is_parked() && !slot.carry.is_empty();
        let conn = slot.conn;
        self.send_scratch(conn);
    }
}

/// Gives a connection input, after what was left over before; keeps what it does not take.
fn feed(
    connection: &mut dyn Connection,
    cx: &mut Context<'_>,
    carry: &mut Carry,
    pool: &mut CarryPool,
    mut input: &[u8],
) {
    while !carry.is_empty() && !input.is_empty() {
        if connection.is_parked() {
            return carry.push(input, pool);
        }
        let before = carry.len();
        let piece = &input[..input.len().min(STITCH_BYTES)];
        carry.push(piece, pool);
        let taken = connection.receive(cx, carry.as_slice());
        if taken >= before {
            // The left-over has been taken; what follows it is taken from where it lies.
            carry.clear(pool);
            input = &input[taken - before..];
        } else {
            carry.consume(taken, pool);
            input = &input[piece.len()..];
        }
    }
    if input.is_empty() {
        return;
    }
    let taken = if connection.is_parked() { 0 } else { connection.receive(cx, input) };
    carry.push(&input[taken..], pool);
}
