//! What a connection has written and the kernel has not taken yet.
//!
//! Two buffers a connection: one is being filled while the other is being sent. Both come from a pool and go back to it
//! when they are empty, so that a quiet connection holds none.

/// Empty buffers kept for the next writer.
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
    largest: usize,
}

/// Buffers that a pool keeps at most.
const POOLED_BUFFERS: usize = 256;

impl Pool {
    /// A pool that does not keep buffers larger than `largest` bytes.
    pub(crate) fn new(largest: usize) -> Self {
        Pool { buffers: Vec::with_capacity(POOLED_BUFFERS), largest }
    }

    fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(4096))
    }

    /// Takes a buffer back.
    pub(crate) fn put(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && buffer.capacity() <= self.largest && self.buffers.len() < POOLED_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// The outgoing bytes of one connection.
#[derive(Default)]
pub(crate) struct Outbox {
    filling: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
    above_high: bool,
}

impl Outbox {
    /// Where to append.
    #[inline]
    pub(crate) fn filling(&mut self, pool: &mut Pool) -> &mut Vec<u8> {
        if self.filling.capacity() == 0 {
            self.filling = pool.take();
        }
        &mut self.filling
    }

    /// Bytes not yet taken by the kernel.
    #[inline]
    pub(crate) fn pending(&self) -> usize {
        self.filling.len() + self.sending.len() - self.sent
    }

    /// What to send next, in order. The bytes stay where they are until [`Outbox::sent`].
    #[inline]
    pub(crate) fn next(&mut self) -> &[u8] {
        if self.sending.is_empty() {
            std::mem::swap(&mut self.sending, &mut self.filling);
        }
        &self.sending[self.sent..]
    }

    /// The kernel took `count` bytes of what [`Outbox::next`] gave.
    #[inline]
    pub(crate) fn sent(&mut self, count: usize, pool: &mut Pool) {
        self.sent += count;
        assert!(self.sent <= self.sending.len(), "the kernel took more than it was given");
        if self.sent == self.sending.len() {
            self.sent = 0;
            pool.put(std::mem::take(&mut self.sending));
        }
    }

    /// Notes whether the connection counts as full now.
    #[inline]
    pub(crate) fn note_level(&mut self, high_water: usize) {
        self.above_high |= self.pending() > high_water;
    }

    /// Whether it has just drained after having been full.
    #[inline]
    pub(crate) fn drained(&mut self, low_water: usize) -> bool {
        let drained = self.above_high && self.pending() < low_water.max(1);
        self.above_high &= !drained;
        drained
    }

    /// Whether it has been full and has not drained since.
    #[inline]
    pub(crate) fn is_above_high(&self) -> bool {
        self.above_high
    }

    /// Takes everything that is pending out; nothing of it may be in flight.
    pub(crate) fn take_pending(&mut self, pool: &mut Pool) -> Vec<u8> {
        let mut pending = self.sending.split_off(self.sent);
        pending.append(&mut self.filling);
        self.discard(false, pool);
        pending
    }

    /// Gives back what is not in the kernel's hands.
    pub(crate) fn discard(&mut self, send_in_flight: bool, pool: &mut Pool) {
        pool.put(std::mem::take(&mut self.filling));
        if !send_in_flight {
            self.sent = 0;
            pool.put(std::mem::take(&mut self.sending));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_over_short_sends_and_nothing_is_held_when_empty() {
        let mut pool = Pool::new(1 << 20);
        let mut outbox = Outbox::default();
        outbox.filling(&mut pool).extend_from_slice(b"abcdef");
        assert_eq!(outbox.next(), b"abcdef");
        outbox.filling(&mut pool).extend_from_slice(b"ghi");
        outbox.sent(2, &mut pool);
        assert_eq!(outbox.pending(), 7);
        assert_eq!(outbox.next(), b"cdef");
        outbox.sent(4, &mut pool);
        assert_eq!(outbox.next(), b"ghi");
        outbox.sent(3, &mut pool);
        assert_eq!(outbox.next(), b"");
        assert_eq!((outbox.filling.capacity(), outbox.sending.capacity()), (0, 0));
        outbox.filling(&mut pool).extend_from_slice(b"jkl");
        outbox.next();
        outbox.sent(1, &mut pool);
        outbox.filling(&mut pool).extend_from_slice(b"mno");
        assert_eq!(outbox.take_pending(&mut pool), b"klmno");
        assert_eq!(outbox.pending(), 0);
        assert_eq!((outbox.filling.capacity(), outbox.sending.capacity()), (0, 0));
    }

    #[test]
    fn drained_is_told_once_and_only_after_full() {
        let mut pool = Pool::new(1 << 20);
        let mut outbox = Outbox::default();
        outbox.filling(&mut pool).resize(100, 0);
        outbox.note_level(100);
        outbox.next();
        outbox.sent(100, &mut pool);
        assert!(!outbox.drained(50));
        outbox.filling(&mut pool).resize(101, 0);
        outbox.note_level(100);
        outbox.next();
        outbox.sent(51, &mut pool);
        assert!(!outbox.drained(50));
        outbox.sent(1, &mut pool);
        assert!(outbox.drained(50));
        assert!(!outbox.drained(50));
    }

    #[test]
    fn large_buffers_are_not_pooled() {
        let mut pool = Pool::new(10_000);
        pool.put(Vec::with_capacity(10_001));
        assert_eq!(pool.buffers.len(), 0);
        pool.put(Vec::with_capacity(10_000));
        assert_eq!(pool.buffers.len(), 1);
    }
}
