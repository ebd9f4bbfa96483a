//! Buffers for reuse, by size classes: four for each doubling, so that at most a fifth of a buffer is left over.

/// Smallest class, as a power of two: 64 bytes.
const SMALLEST: u32 = 6;
/// Largest class, as a power of two: 1 MiB. Larger buffers go back to the allocator.
const LARGEST: u32 = 20;
/// Classes for each doubling, as a power of two.
const STEPS: u32 = 2;
const CLASSES: usize = (((LARGEST - SMALLEST) << STEPS) + 1) as usize;

/// A bounded store of empty buffers.
pub(super) struct BufferPool {
    classes: [Vec<Vec<u8>>; CLASSES],
    free_bytes: usize,
    limit_bytes: usize,
}

impl BufferPool {
    pub(super) fn new(limit_bytes: usize) -> Self {
        BufferPool { classes: std::array::from_fn(|_| Vec::new()), free_bytes: 0, limit_bytes }
    }

    /// An empty buffer that holds at least `bytes` without growing.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize) -> Vec<u8> {
        let (class, capacity) = class_for(bytes);
        match self.classes.get_mut(class).and_then(Vec::pop) {
            Some(buffer) => {
                self.free_bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(capacity),
        }
    }

    /// Keeps a buffer for reuse, or drops it if the pool is full.
    #[inline]
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let Some(class) = class_of(capacity).and_then(|class| self.classes.get_mut(class)) else { return };
        if self.free_bytes + capacity > self.limit_bytes {
            return;
        }
        buffer.clear();
        self.free_bytes += capacity;
        class.push(buffer);
    }

    /// Counts a buffer in that is kept for reuse elsewhere; `false`: it should not be kept.
    #[inline]
    pub(super) fn keep(&mut self, capacity: usize) -> bool {
        let kept = capacity <= 1 << LARGEST && self.free_bytes + capacity <= self.limit_bytes;
        self.free_bytes += if kept { capacity } else { 0 };
        kept
    }

    /// A buffer that was kept elsewhere is kept no longer.
    #[inline]
    pub(super) fn unkeep(&mut self, capacity: usize) {
        self.free_bytes -= capacity;
    }

    /// Bytes kept for reuse, here or elsewhere.
    pub(super) fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

/// The class whose buffers hold `bytes`, and their capacity. Beyond the largest class, out of bounds and `bytes`.
#[inline]
fn class_for(bytes: usize) -> (usize, usize) {
    if bytes > 1 << LARGEST {
        return (CLASSES, bytes);
    }
    let last = bytes.max(1 << SMALLEST) - 1;
    let power = last.ilog2();
    let shift = power - STEPS;
    // From one more than a doubling's steps to twice them, which is the first of the next doubling.
    let steps = (last >> shift) + 1;
    let below = ((power + 1 - SMALLEST) << STEPS) as usize;
    (below + steps - (2 << STEPS), steps << shift)
}

/// Whether a buffer of this capacity is right for `bytes`.
#[inline]
pub(super) fn suits(capacity: usize, bytes: usize) -> bool {
    bytes <= capacity && capacity - bytes <= (capacity / 4).max(1 << SMALLEST)
}

/// The class that a buffer of this capacity can serve: the largest that it covers. Out of bounds beyond the largest:
/// such a buffer would waste most of itself.
#[inline]
fn class_of(capacity: usize) -> Option<usize> {
    let power = capacity.checked_ilog2()?;
    let above = power.checked_sub(SMALLEST)?;
    let step = (capacity >> (power - STEPS)) & ((1 << STEPS) - 1);
    Some((above << STEPS) as usize + step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_for_the_same_class() {
        let mut pool = BufferPool::new(1 << 20);
        let buffer = pool.take(100);
        assert_eq!(buffer.capacity(), 112);
        let address = buffer.as_ptr();
        pool.put(buffer);
        assert_eq!(pool.free_bytes(), 112);
        let again = pool.take(97);
        assert_eq!(again.as_ptr(), address);
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn what_exceeds_the_limit_is_not_kept() {
        let mut pool = BufferPool::new(200);
        let (one, two) = (pool.take(128), pool.take(128));
        pool.put(one);
        pool.put(two);
        assert_eq!(pool.free_bytes(), 128);
    }

    #[test]
    fn classes_cover_their_requests() {
        for bytes in (0..5000).chain([1 << 19, (1 << 20) - 1, 1 << 20]) {
            let (class, capacity) = class_for(bytes);
            assert!(capacity >= bytes.max(64));
            assert!(bytes < 64 || (capacity - bytes) * 5 <= capacity, "{bytes} in {capacity}");
            assert!(class < CLASSES);
            assert_eq!(class_of(capacity), Some(class));
            // A byte less, and the buffer serves a lower class only.
            assert_eq!(class_of(capacity - 1), class.checked_sub(1));
        }
        assert_eq!(class_for((1 << 20) + 1), (CLASSES, (1 << 20) + 1));
        assert_eq!(class_of(63), None);
        assert_eq!(class_of(127), Some(3));
        assert_eq!(class_of(1 << 20), Some(CLASSES - 1));
        assert!(class_of((1 << 20) + (1 << 18)).unwrap() >= CLASSES);
    }
}
