//! Memory that devices use: units of one size out of arenas, and output buffers registered as they are met.
//!
//! Registering costs system calls and locks pages, so nothing is registered for one message: arenas stay, and an output
//! buffer keeps its registration as long as its memory stays what it was.

use std::io;

use fulmar_transport::AlignedBuf;

use crate::device::{Device, Piece, Registration};

/// Units in an arena.
const ARENA_UNITS: u32 = 64;

struct Arena {
    /// Keeps the memory; used only by way of `base`.
    _memory: AlignedBuf,
    base: *mut u8,
    registration: Registration,
}

// SAFETY: the pointer is into the memory beside it, which nothing ties to a thread.
unsafe impl Send for Arena {}

/// Units of registered memory, of one port.
pub(crate) struct Pool {
    unit_bytes: usize,
    arenas: Vec<Arena>,
    free: Vec<u32>,
}

impl Pool {
    pub(crate) fn new(unit_bytes: usize) -> Self {
        Pool { unit_bytes: unit_bytes.next_multiple_of(64), arenas: Vec::new(), free: Vec::new() }
    }

    /// A unit that nobody uses; registers an arena when there is none.
    pub(crate) fn take<D: Device>(&mut self, device: &mut D, port: u8) -> io::Result<u32> {
        if let Some(unit) = self.free.pop() {
            return Ok(unit);
        }
        let bytes = self.unit_bytes * ARENA_UNITS as usize;
        let mut memory = AlignedBuf::with_capacity(bytes);
        memory.resize(bytes);
        let base = memory.as_mut_ptr();
        // SAFETY: an arena lives as long as its pool, which goes after the device (see the order of fields in `Side`).
        let registration = unsafe { device.register(port, base, bytes) }?;
        let first = self.arenas.len() as u32 * ARENA_UNITS;
        self.arenas.push(Arena { _memory: memory, base, registration });
        self.free.extend((first + 1..first + ARENA_UNITS).rev());
        Ok(first)
    }

    /// The unit is free again.
    pub(crate) fn give(&mut self, unit: u32) {
        debug_assert!(!self.free.contains(&unit), "given twice");
        self.free.push(unit);
    }

    /// Some bytes of a unit.
    pub(crate) fn piece(&self, unit: u32, offset: usize, bytes: usize) -> Piece {
        assert!(offset + bytes <= self.unit_bytes, "past the end of a unit");
        let arena = &self.arenas[(unit / ARENA_UNITS) as usize];
        let start = (unit % ARENA_UNITS) as usize * self.unit_bytes + offset;
        // SAFETY: inside the arena, which has `ARENA_UNITS` units.
        let address = unsafe { arena.base.add(start) };
        Piece { address, bytes: bytes as u32, key: arena.registration.key }
    }

    /// Units in use, and bytes locked.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let units = self.arenas.len() * ARENA_UNITS as usize;
        (units - self.free.len(), units * self.unit_bytes)
    }
}

/// Output of a connection: bytes, and the registration that their memory may have.
#[derive(Default)]
pub(crate) struct Block {
    pub(crate) bytes: Vec<u8>,
    registered: Option<(usize, usize, Registration)>,
}

impl Block {
    fn place(&self) -> (usize, usize) {
        (self.bytes.as_ptr().addr(), self.bytes.capacity())
    }
}

/// Blocks that are empty, of one port, and what is locked for all of its blocks.
pub(crate) struct Blocks {
    free: Vec<Block>,
    locked_bytes: usize,
    most_locked_bytes: usize,
}

/// Blocks kept for the next writer.
const KEPT_BLOCKS: usize = 64;
/// The largest that is kept.
const KEPT_BYTES: usize = 1 << 20;
/// The smallest that is made.
const FIRST_BYTES: usize = 4096;

impl Blocks {
    pub(crate) fn new(most_locked_bytes: usize) -> Self {
        Blocks { free: Vec::new(), locked_bytes: 0, most_locked_bytes }
    }

    pub(crate) fn take(&mut self) -> Block {
        self.free.pop().unwrap_or_else(|| Block { bytes: Vec::with_capacity(FIRST_BYTES), registered: None })
    }

    /// Takes a block back that no send refers to.
    pub(crate) fn put<D: Device>(&mut self, mut block: Block, device: &mut D, port: u8) {
        self.forget_stale(&mut block, device, port);
        let capacity = block.bytes.capacity();
        if capacity == 0 {
            return;
        }
        if capacity > KEPT_BYTES || self.free.len() >= KEPT_BLOCKS {
            return self.forget(&mut block, device, port);
        }
        block.bytes.clear();
        self.free.push(block);
    }

    /// The key of a block's memory, registered now if it is not; `None` if no more may be locked.
    pub(crate) fn key<D: Device>(&mut self, block: &mut Block, device: &mut D, port: u8) -> Option<u32> {
        self.forget_stale(block, device, port);
        if let Some((_, _, registration)) = block.registered {
            return Some(registration.key);
        }
        let (start, capacity) = block.place();
        if self.locked_bytes + capacity > self.most_locked_bytes {
            return None;
        }
        // SAFETY: whoever has the block appends to it at most, so its memory changes only together with its address or
        // its capacity: `forget_stale` sees that before it is used again.
        let registration = unsafe { device.register(port, block.bytes.as_mut_ptr(), capacity) }.ok()?;
        block.registered = Some((start, capacity, registration));
        self.locked_bytes += capacity;
        Some(registration.key)
    }

    /// Lets go of a registration whose memory is gone, because the block has grown.
    fn forget_stale<D: Device>(&mut self, block: &mut Block, device: &mut D, port: u8) {
        if block.registered.is_some_and(|(start, capacity, _)| (start, capacity) != block.place()) {
            self.forget(block, device, port);
        }
    }

    fn forget<D: Device>(&mut self, block: &mut Block, device: &mut D, port: u8) {
        if let Some((_, capacity, registration)) = block.registered.take() {
            device.deregister(port, registration);
            self.locked_bytes -= capacity;
        }
    }

    pub(crate) fn locked_bytes(&self) -> usize {
        self.locked_bytes
    }
}

/// The outgoing bytes of one connection: one block that is being filled, one that is being sent.
#[derive(Default)]
pub(crate) struct Outbox {
    filling: Block,
    sending: Block,
    sent: usize,
    /// Something of the block that is being sent goes from where it lies.
    is_direct: bool,
    above_high: bool,
}

impl Outbox {
    /// Where to append.
    pub(crate) fn filling(&mut self, blocks: Option<&mut Blocks>) -> &mut Vec<u8> {
        if self.filling.bytes.capacity() == 0
            && let Some(blocks) = blocks
        {
            self.filling = blocks.take();
        }
        &mut self.filling.bytes
    }

    /// Bytes not posted yet.
    pub(crate) fn pending(&self) -> usize {
        self.filling.bytes.len() + self.sending.bytes.len() - self.sent
    }

    /// What to send next.
    pub(crate) fn next(&mut self) -> &[u8] {
        if self.sending.bytes.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.filling);
        }
        &self.sending.bytes[self.sent..]
    }

    /// The block in which [`Outbox::next`] lies.
    pub(crate) fn block(&mut self) -> &mut Block {
        &mut self.sending
    }

    /// A message of [`Outbox::next`] goes from where it lies.
    pub(crate) fn goes_directly(&mut self) {
        self.is_direct = true;
    }

    /// Whether some of the block does so that [`Outbox::next`] lies in.
    pub(crate) fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// So many bytes of [`Outbox::next`] are in messages. Gives the block when that was all of it, and whether one of
    /// them goes from where it lies.
    pub(crate) fn posted(&mut self, count: usize) -> Option<(Block, bool)> {
        self.sent += count;
        if self.sent < self.sending.bytes.len() {
            return None;
        }
        self.sent = 0;
        Some((std::mem::take(&mut self.sending), std::mem::take(&mut self.is_direct)))
    }

    /// A frame that lies partly in either block gets into one.
    pub(crate) fn join(&mut self) -> bool {
        if self.filling.bytes.is_empty() || self.sending.bytes.is_empty() {
            return false;
        }
        let rest = self.sending.bytes.split_off(self.sent);
        self.filling.bytes.splice(..0, rest);
        true
    }

    pub(crate) fn note_level(&mut self, high_water: usize) {
        self.above_high |= self.pending() > high_water;
    }

    /// Whether it has just drained after having been full.
    pub(crate) fn drained(&mut self, low_water: usize) -> bool {
        let drained = self.above_high && self.pending() < low_water.max(1);
        self.above_high &= !drained;
        drained
    }

    /// Both blocks, when the connection ends.
    pub(crate) fn into_blocks(self) -> [Block; 2] {
        [self.filling, self.sending]
    }
}
