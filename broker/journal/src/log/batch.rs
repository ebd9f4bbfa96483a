//! What one write carries.

use fulmar_core::journal::Position;
use fulmar_transport::AlignedBuf;

use crate::encodings::Encodings;
use crate::header::{self, BLOCK_BYTES, SegmentHeader};
use crate::position::in_segment;

/// What one write carries: the header of the segment if it is the first, the batch's record, records.
pub(super) struct Batch {
    pub segment: u64,
    /// Where in the segment it goes.
    pub offset: u64,
    pub number: u64,
    pub records: u64,
    /// When it was begun.
    pub begun_ns: u64,
    /// Somebody may wait until it is stored.
    pub is_awaited: bool,
    buffer: AlignedBuf,
}

impl Batch {
    /// One without records. `buffer` has room for [`Batch::overhead`] at least.
    pub fn new(segment: u64, offset: u64, number: u64, now_ns: u64, mut buffer: AlignedBuf) -> Self {
        buffer.clear();
        buffer.resize(Batch::overhead(offset));
        Batch { segment, offset, number, records: 0, begun_ns: now_ns, is_awaited: false, buffer }
    }

    /// Bytes before the first record.
    pub fn overhead(offset: u64) -> usize {
        header::Batch::RECORD_BYTES + if offset == 0 { BLOCK_BYTES } else { 0 }
    }

    /// Where in the segment it ends.
    #[inline]
    pub fn end(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Whether there is room for so many bytes more.
    #[inline]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.buffer.len() + bytes <= self.buffer.capacity()
    }

    /// Room for a record of so many bytes.
    #[inline]
    pub fn grow(&mut self, bytes: usize) -> &mut [u8] {
        let at = self.buffer.len();
        self.buffer.resize(at + bytes);
        self.records += 1;
        &mut self.buffer[at..]
    }

    /// Ready to be written: whole blocks, and what it is once they are.
    pub fn finish(mut self, header: Option<&SegmentHeader>, encodings: &Encodings) -> (AlignedBuf, Writing) {
        let used = self.buffer.len();
        let padded = used.next_multiple_of(BLOCK_BYTES);
        self.buffer.resize(padded);
        self.buffer[used..].fill(0);
        let mut start = 0;
        if let Some(header) = header {
            start = BLOCK_BYTES;
            header.encode(&mut self.buffer[..BLOCK_BYTES]);
        }
        let batch =
            header::Batch { number: self.number, bytes: (used - start) as u64, records: self.records };
        batch.encode(&mut self.buffer[start..][..header::Batch::RECORD_BYTES], self.segment, encodings);
        let writing = Writing {
            segment: self.segment,
            stored: in_segment(self.segment, self.offset + used as u64),
            record_bytes: used - start - header::Batch::RECORD_BYTES,
            records: self.records,
            bytes: padded,
            began_ns: 0,
            wants_sync: false,
            syncs: false,
        };
        (self.buffer, writing)
    }
}

/// What is being written.
pub(super) struct Writing {
    pub segment: u64,
    /// What is stored in the end.
    pub stored: Position,
    /// Bytes of its records.
    pub record_bytes: usize,
    pub records: u64,
    /// Bytes that are written.
    pub bytes: usize,
    pub began_ns: u64,
    /// Is written and has to be flushed.
    pub wants_sync: bool,
    /// Is being flushed.
    pub syncs: bool,
}
