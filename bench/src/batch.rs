//! What a publisher writes: copies of one encoded message, of which only the stamp in the body changes.

use crate::wire::{STAMP_BYTES, Stamp};

/// Bytes that one write carries at most, unless a single message is larger.
const BATCH_BYTES: usize = 64 * 1024;

/// One encoded message: method, header and body frames.
#[derive(Clone, Debug)]
pub struct Template {
    /// The frames.
    pub frames: Vec<u8>,
    /// Where the first byte of the body lies in them.
    pub body_offset: usize,
}

/// A buffer full of copies of a template.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    message_bytes: usize,
    body_offset: usize,
}

impl Batch {
    /// As many copies as fit one write.
    pub fn new(template: &Template) -> Self {
        let message_bytes = template.frames.len();
        assert!(template.body_offset + STAMP_BYTES < message_bytes, "the body has no room for a stamp");
        let copies = (BATCH_BYTES / message_bytes).max(1);
        Batch { bytes: template.frames.repeat(copies), message_bytes, body_offset: template.body_offset }
    }

    /// Most messages that one write carries.
    pub fn capacity(&self) -> usize {
        self.bytes.len() / self.message_bytes
    }

    /// Stamps the message at `index`.
    pub fn stamp(&mut self, index: usize, stamp: Stamp) {
        let at = index * self.message_bytes + self.body_offset;
        self.bytes[at..at + STAMP_BYTES].copy_from_slice(&stamp.to_bytes());
    }

    /// The bytes of the first `count` messages.
    pub fn bytes(&self, count: usize) -> &[u8] {
        &self.bytes[..count * self.message_bytes]
    }
}
