//! The receive buffers that the kernel fills, and the ring by which it gets them.
//!
//! Only some of the free buffers are posted at a time, the most recently used first: as long as traffic fits into few
//! buffers, it stays in few cache lines, and a flood cannot make one turn arbitrarily long. When the kernel runs out of
//! buffers that it has hardly filled, because many connections talk at once, twice as many are posted.

use std::io;
use std::mem;
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
    /// Since buffers were last posted: how many were filled, with how many bytes, and whether those were all.
    filled: u32,
    filled_bytes: u64,
    ran_out: bool,
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
            filled: 0,
            filled_bytes: 0,
            ran_out: false,
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

    /// The kernel has filled a buffer with so many bytes.
    #[inline]
    pub(super) fn taken(&mut self, bytes: u32) {
        debug_assert!(self.posted > 0);
        self.posted -= 1;
        self.filled += 1;
        self.filled_bytes += u64::from(bytes);
    }

    /// A buffer is free again. The kernel gets it at the next [`Buffers::post`].
    #[inline]
    pub(super) fn recycle(&mut self, id: u32) {
        debug_assert!(self.owns(id) && !self.free.contains(&(id as u16)), "recycled twice");
        self.free.push(id as u16);
    }

    /// The kernel had none left for somebody.
    pub(super) fn ran_out(&mut self) {
        self.ran_out = true;
    }

    /// How many buffers the kernel has.
    pub(super) fn posted(&self) -> u16 {
        self.posted
    }

    /// Gives the kernel buffers up to the target.
    #[inline]
    pub(super) fn post(&mut self) {
        if mem::take(&mut self.ran_out) {
            let hardly_filled = self.filled_bytes < u64::from(self.filled) * u64::from(self.buffer_bytes) / 4;
            if hardly_filled {
                self.target = self.target.saturating_mul(2).min(self.count);
            }
        }
        (self.filled, self.filled_bytes) = (0, 0);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel fills all that it has with so many bytes and wants more; they are recycled at once.
    fn fill_all(buffers: &mut Buffers, bytes: u32) {
        buffers.post();
        let posted: Vec<u16> = (0..buffers.count).filter(|id| !buffers.free.contains(id)).collect();
        for id in posted {
            buffers.taken(bytes);
            buffers.recycle(u32::from(id));
        }
        buffers.ran_out();
    }

    #[test]
    #[cfg_attr(miri, ignore = "touches no more memory than the others and takes minutes there")]
    fn more_are_posted_for_many_small_receives_and_not_for_a_flood() {
        let mut buffers = Buffers::new(256, 4096).unwrap();
        fill_all(&mut buffers, 4096);
        buffers.post();
        assert_eq!(buffers.posted(), FIRST_POSTED);
        for _ in 0..5 {
            fill_all(&mut buffers, 64);
        }
        buffers.post();
        assert_eq!(buffers.posted(), 256);
    }

    /// What stands in the ring for the kernel: address and id of every entry before the tail.
    fn entries(buffers: &Buffers) -> Vec<(u64, u16)> {
        let base = buffers.ring.base().cast::<BufRingEntry>();
        let places = 0..usize::from(buffers.tail.min(buffers.count));
        // SAFETY: below `count`, so inside the mapping, which was zeroed at first.
        let read = |place: usize| unsafe { ((*base.add(place)).addr(), (*base.add(place)).bid()) };
        places.map(read).collect()
    }

    #[test]
    fn posted_entries_name_buffers_of_their_own_and_the_tail_tells_of_them() {
        let mut buffers = Buffers::new(8, 16).unwrap();
        buffers.post();
        let base = buffers.ring.base().cast::<BufRingEntry>();
        // SAFETY: the tail lies in the first entry.
        let told = unsafe { (*BufRingEntry::tail(base).cast::<AtomicU16>()).load(Ordering::Acquire) };
        assert_eq!(told, 8);
        let entries = entries(&buffers);
        for (n, &(address, id)) in entries.iter().enumerate() {
            assert_eq!(address, buffers.data.base() as u64 + u64::from(id) * 16);
            assert!(entries[..n].iter().all(|(_, other)| *other != id), "posted once");
        }
        // Around the ring: the first entry is written again, and the tail beside it stays.
        buffers.taken(16);
        buffers.recycle(u32::from(entries[3].1));
        buffers.post();
        // SAFETY: as above.
        let told = unsafe { (*BufRingEntry::tail(base).cast::<AtomicU16>()).load(Ordering::Acquire) };
        assert_eq!(told, 9);
        assert_eq!(self::entries(&buffers)[0].1, entries[3].1);
    }

    #[test]
    fn the_bytes_of_a_buffer_are_what_was_received_into_it() {
        let mut buffers = Buffers::new(4, 16).unwrap();
        buffers.post();
        for (_, id) in entries(&buffers) {
            // SAFETY: this is the kernel, and the buffer is posted.
            unsafe { buffers.data.base().add(usize::from(id) * 16).write_bytes(id as u8 + 1, 16) };
            buffers.taken(16);
        }
        for id in 0..4 {
            let (whole, end) = (RecvBuf { id, offset: 0, len: 16 }, RecvBuf { id, offset: 15, len: 1 });
            assert_eq!(buffers.bytes(&whole), [id as u8 + 1; 16]);
            assert_eq!(buffers.bytes(&end), [id as u8 + 1]);
        }
    }
}
