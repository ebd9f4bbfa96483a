//! Buffers for reuse, by power-of-two size classes.

/// Smallest class, as a power of two: 64 bytes.
const SMALLEST: u32 = 6;
/// Largest class, as a power of two: 1 MiB. Larger buffers go back to the allocator.
const LARGEST: u32 = 20;
const CLASSES: usize = (LARGEST - SMALLEST + 1) as usize;

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
        let Some(class) = class_of_request(bytes) else { return Vec::with_capacity(bytes) };
        match self.classes[class].pop() {
            Some(buffer) => {
                self.free_bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(1 << (class as u32 + SMALLEST)),
        }
    }

    /// Keeps a buffer for reuse, or drops it if the pool is full.
    #[inline]
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        let capacity = buffer.capacity();
        let Some(class) = class_of_capacity(capacity) else { return };
        if self.free_bytes + capacity > self.limit_bytes {
            return;
        }
        buffer.clear();
        self.free_bytes += capacity;
        self.classes[class].push(buffer);
    }

    /// Bytes kept for reuse.
    pub(super) fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

/// The class whose buffers hold `bytes`.
fn class_of_request(bytes: usize) -> Option<usize> {
    let power = bytes.max(1 << SMALLEST).next_power_of_two().trailing_zeros();
    (power <= LARGEST).then(|| (power - SMALLEST) as usize)
}

/// The class that a buffer of this capacity can serve: the largest that it covers.
fn class_of_capacity(capacity: usize) -> Option<usize> {
    let power = capacity.checked_ilog2()?;
    // A buffer between two classes of the top would waste up to half of itself; beyond the largest, all of it.
    (SMALLEST..=LARGEST).contains(&power).then(|| (power - SMALLEST) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_for_the_same_class() {
        let mut pool = BufferPool::new(1 << 20);
        let buffer = pool.take(100);
        assert_eq!(buffer.capacity(), 128);
        let address = buffer.as_ptr();
        pool.put(buffer);
        assert_eq!(pool.free_bytes(), 128);
        let again = pool.take(65);
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
        for bytes in [0, 1, 64, 65, 128, 129, 1 << 20] {
            let class = class_of_request(bytes).unwrap();
            assert!(1usize << (class as u32 + SMALLEST) >= bytes);
        }
        assert_eq!(class_of_request((1 << 20) + 1), None);
        assert_eq!(class_of_capacity(63), None);
        assert_eq!(class_of_capacity(127), Some(0));
        assert_eq!(class_of_capacity(1 << 20), Some(CLASSES - 1));
    }
}
