//! Input that could not be taken yet: the beginning of a frame, or what arrived while its connection was parked.
//!
//! A connection that has nothing left over holds no buffer; buffers come from the shard's pool.

/// Buffers larger than this are not kept for reuse.
const KEEP_BYTES: usize = 256 * 1024;
/// Most buffers kept for reuse.
const KEEP_BUFFERS: usize = 64;

/// Left-over input of one connection.
#[derive(Debug, Default)]
pub struct Carry {
    bytes: Vec<u8>,
    start: usize,
}

/// The buffers of one shard that no connection needs at the moment.
#[derive(Debug, Default)]
pub struct CarryPool {
    free: Vec<Vec<u8>>,
}

impl Carry {
    /// What is left over.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// How much is left over.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends input.
    pub fn push(&mut self, input: &[u8], pool: &mut CarryPool) {
        if input.is_empty() {
            return;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = pool.take();
        }
        if self.start > 0 && self.bytes.len() + input.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(input);
    }

    /// Drops the first `count` bytes; gives the buffer back when nothing is left.
    pub fn consume(&mut self, count: usize, pool: &mut CarryPool) {
        assert!(count <= self.len(), "consumed more than there was");
        self.start += count;
        if self.is_empty() {
            self.clear(pool);
        }
    }

    /// Drops everything and gives the buffer back.
    pub fn clear(&mut self, pool: &mut CarryPool) {
        pool.give(std::mem::take(&mut self.bytes));
        self.start = 0;
    }
}

impl CarryPool {
    fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_default()
    }

    fn give(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 && buffer.capacity() <= KEEP_BYTES && self.free.len() < KEEP_BUFFERS {
            buffer.clear();
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_in_order_and_the_buffer_is_reused() {
        let mut pool = CarryPool::default();
        let mut carry = Carry::default();
        carry.push(b"abc", &mut pool);
        carry.consume(1, &mut pool);
        carry.push(&[b'd'; 100], &mut pool);
        assert_eq!(&carry.as_slice()[..3], b"bcd");
        assert_eq!(carry.len(), 102);
        carry.consume(102, &mut pool);
        assert!(carry.is_empty());
        assert_eq!(carry.bytes.capacity(), 0, "an idle connection holds no buffer");
        assert_eq!(pool.free.len(), 1);
        Carry::default().push(b"x", &mut pool);
        assert!(pool.free.is_empty());
    }

    #[test]
    fn large_buffers_are_not_kept() {
        let mut pool = CarryPool::default();
        let mut carry = Carry::default();
        carry.push(&vec![0; KEEP_BYTES + 1], &mut pool);
        carry.clear(&mut pool);
        assert!(pool.free.is_empty());
    }
}
