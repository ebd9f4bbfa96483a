//! The receive buffers that the kernel fills, and the ring by which it gets them.
//!
//! Only some of the free buffers are posted at a time, the most recently used first: as long as traffic fits into few
//! buffers, it stays in few cache lines. Each time that the kernel runs out, twice as many are posted.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, cqueue, squeue};

use crate::RecvBuf;
use crate::memory::Pages;

/// Buffers posted at first.
const FIRST_POSTED: u16 = 64;

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;

pub(super) struct Buffers {
    data: Pages,
    ring: Pages,
    buffer_bytes: u32,
    count: u16,
    /// Free and not posted, the most recently used last.
    free: Vec<u16>,
    posted: u16,
    target: u16,
    tail: u16,
}

impl Buffers {
    /// `count` must be a power of two.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "recv_buffers must be a power of two");
        assert!(buffer_bytes > 0, "recv_buffer_bytes must not be 0");
        Ok(Buffers {
            data: Pages::new(usize::from(count) * buffer_bytes as usize)?,
            ring: Pages::new(usize::from(count) * size_of::<BufRingEntry>())?,
            buffer_bytes,
            count,
            free: (0..count).rev().collect(),
            posted: 0,
            target: FIRST_POSTED.min(count),
            tail: 0,
        })
    }

    /// Tells the kernel about the ring.
    pub(super) fn register<S, C>(&mut self, ring: &IoUring<S, C>) -> io::Result<()>
    where
        S: squeue::EntryMarker,
        C: cqueue::EntryMarker,
    {
        // SAFETY: the memory holds `count` entries and outlives the ring (see the order of fields in the transport).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(self.ring.base() as u64, self.count, GROUP, 0)
        }
    }

    /// Whether the id is that of a buffer here.
    #[inline]
    pub(super) fn owns(&self, id: u32) -> bool {
        id < u32::from(self.count)
    }

    /// The bytes of a buffer that the kernel has filled and that has not been recycled.
    #[inline]
    pub(super) fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        let start = buf.id as usize * self.buffer_bytes as usize + buf.offset as usize;
        let len = buf.len as usize;
        assert!(
            self.owns(buf.id) && buf.offset + buf.len <= self.buffer_bytes,
            "not a buffer of this transport"
        );
        debug_assert!(start + len <= self.data.len());
        // SAFETY: inside the mapping, which was zeroed at first; a buffer that is lent is not posted, so the kernel
        // does not write to it.
        unsafe { std::slice::from_raw_parts(self.data.base().add(start), len) }
    }

    /// The kernel has filled a buffer.
    #[inline]
    pub(super) fn taken(&mut self) {
        debug_assert!(self.posted > 0);
        self.posted -= 1;
    }

    /// A buffer is free again. The kernel gets it at the next [`Buffers::post`].
    #[inline]
    pub(super) fn recycle(&mut self, id: u32) {
        debug_assert!(self.owns(id) && !self.free.contains(&(id as u16)), "recycled twice");
        self.free.push(id as u16);
    }

    /// The kernel ran out: post more from now on.
    pub(super) fn exhausted(&mut self) {
        self.target = self.target.saturating_mul(2).min(self.count);
    }

    /// How many buffers the kernel has.
    pub(super) fn posted(&self) -> u16 {
        self.posted
    }

    /// Gives the kernel buffers up to the target.
    #[inline]
    pub(super) fn post(&mut self) {
        if self.posted >= self.target || self.free.is_empty() {
            return;
        }
        let base = self.ring.base().cast::<BufRingEntry>();
        while self.posted < self.target
            && let Some(id) = self.free.pop()
        {
            let place = usize::from(self.tail & (self.count - 1));
            // SAFETY: `place` is below `count`; the kernel does not read entries behind the tail, and at most `count`
            // are before it since no buffer is posted twice. The tail shares the first entry's last field, which the
            // setters do not touch.
            unsafe {
                let entry = &mut *base.add(place);
                entry.set_addr(self.data.base().add(usize::from(id) * self.buffer_bytes as usize) as u64);
                entry.set_len(self.buffer_bytes);
                entry.set_bid(id);
            }
            self.tail = self.tail.wrapping_add(1);
            self.posted += 1;
        }
        // SAFETY: the tail lies in the first entry, is aligned, and is only accessed atomically from here on. Release,
        // paired with the kernel's acquire: it sees the entries before the tail.
        unsafe { (*BufRingEntry::tail(base).cast::<AtomicU16>()).store(self.tail, Ordering::Release) };
    }
}
