//! A security layer of SASL between a socket and its connection.
//!
//! 1. It begins after the connection was opened: what was written before is sent as it is, what the peer sends after is taken
//!    out of the layer first.
//! 2. What a connection writes is collected and wrapped at the end of the turn.
//! 3. Whatever fails ends the connection: nothing is sent or taken without the layer any more.

use fulmar_gssapi::{Failure, Layer};
use fulmar_protocol::Layer as AnyLayer;
use fulmar_transport::{Close, RecvBuf, Transport};

use super::Worker;
use super::slot::State;

/// Buffers larger than this are not kept from turn to turn.
const KEEP_PLAIN_BYTES: usize = 64 * 1024;

/// The layer of one socket.
pub struct Layered {
    /// `None` while it is being used.
    layer: Option<Box<Layer>>,
    /// What is to be wrapped at the end of the turn.
    plain: Vec<u8>,
}

impl Layered {
    /// Where to write what is to be wrapped.
    pub(super) fn plain(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }

    /// Bytes written and not wrapped yet.
    pub(super) fn unwrapped_bytes(&self) -> usize {
        self.plain.len()
    }
}

impl<T: Transport> Worker<T> {
    /// From now on a layer lies between a connection and its socket.
    pub(super) fn protect(&mut self, index: usize, layer: AnyLayer) {
        let layer = layer.downcast().expect("a layer comes back as it was given");
        let slot = &mut self.slots[index];
        slot.layer = Some(Box::new(Layered { layer: Some(layer), plain: Vec::new() }));
        let begun = slot.carry.as_slice().to_vec();
        slot.carry.clear(&mut self.pool);
        slot.waiting = false;
        self.unwrap(index, |layer, take| layer.unwrap(&begun, take));
    }

    /// Bytes in a layer arrived.
    pub(super) fn received_layered(&mut self, index: usize, buf: &RecvBuf) {
        // Copied, as what is in it is handed on while the transport is written to.
        let input = self.transport.bytes(buf).to_vec();
        self.unwrap(index, |layer, take| layer.unwrap(&input, take));
    }

    /// Bytes in a layer that arrived while their connection was between shards.
    pub(super) fn layered_on_the_way(&mut self, index: usize, bytes: &[u8]) {
        self.unwrap(index, |layer, take| layer.unwrap(bytes, take));
    }

    fn unwrap(
        &mut self,
        index: usize,
        unwrap: impl FnOnce(&mut Layer, &mut dyn FnMut(&[u8])) -> Result<(), Failure>,
    ) {
        let Some(layered) = &mut self.slots[index].layer else { return };
        let Some(mut layer) = layered.layer.take() else { return };
        let result = unwrap(&mut layer, &mut |plain| self.feed_bytes(index, plain));
        if let Some(layered) = &mut self.slots[index].layer {
            layered.layer = Some(layer);
        }
        if let Err(failure) = result {
            self.layer_failed(index, &failure);
        }
    }

    /// Wraps what was written in this turn.
    pub(super) fn wrap(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(layered) = &mut slot.layer else { return };
        if layered.plain.is_empty() {
            return;
        }
        let wrapped = match (&mut layered.layer, self.transport.output(slot.conn)) {
            (Some(layer), Some(out)) => layer.wrap(&layered.plain, out),
            // What is written for a socket that is about to go is lost.
            _ => Ok(()),
        };
        layered.plain.clear();
        layered.plain.shrink_to(KEEP_PLAIN_BYTES);
        if let Err(failure) = wrapped
            && !matches!(slot.state, State::Closing)
        {
            self.layer_failed(index, &failure);
        }
    }

    fn layer_failed(&mut self, index: usize, failure: &Failure) {
        let slot = &mut self.slots[index];
        if let Some(layered) = &mut slot.layer {
            layered.plain.clear();
        }
        let peer = slot.peer;
        self.counters.faults.add(1);
        self.faults.warn(self.now_ns, format_args!("{peer}: closed: security layer: {failure}"));
        self.end(index, Close::Flush);
    }
}
