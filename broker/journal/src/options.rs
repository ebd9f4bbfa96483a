//! What can be chosen of a log.

use std::fmt;
use std::str::FromStr;

/// When something counts as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it.
    #[default]
    Flush,
    /// When the operating system has it.
    Os,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Flush => "flush",
            Durability::Os => "os",
        })
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "flush" => Ok(Durability::Flush),
            "os" => Ok(Durability::Os),
            other => Err(format!("'{other}' is neither flush nor os")),
        }
    }
}

/// How it is made sure that the disk has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMethod {
    /// One operation: a write that ends when the disk has it (`RWF_DSYNC`).
    #[default]
    SyncedWrite,
    /// Two: a write, then `fdatasync`.
    WriteThenSync,
}

/// What can be chosen of a log.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Length of a segment, in bytes; one that begins with a larger record is longer.
    pub segment_bytes: u64,
    /// Bytes from which on a write takes no more records.
    pub batch_bytes: usize,
    /// Bytes appended and not yet stored from which on the log is congested.
    pub buffer_bytes: usize,
    /// Most bytes that all files together may take.
    pub max_bytes: Option<u64>,
    /// When something counts as stored.
    pub durability: Durability,
    /// How that is made sure of.
    pub flush_method: FlushMethod,
    /// Whether to go past the page cache where the file system lets one.
    pub direct: bool,
    /// Segments that are kept ready to be written.
    pub ready_segments: usize,
    /// The share of what is written that cleaning may write, in percent.
    pub cleaning_percent: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 64 << 20,
            batch_bytes: 1 << 20,
            buffer_bytes: 16 << 20,
            max_bytes: None,
            durability: Durability::Flush,
            flush_method: FlushMethod::default(),
            direct: true,
            ready_segments: 2,
            cleaning_percent: 20,
        }
    }
}

/// Shortest and longest segments, in bytes.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=1 << 30;

/// Segments that the space which a log may use has room for at least.
const LEAST_SEGMENTS: u64 = 8;

impl LogOptions {
    /// The same with segments that fit the space, of whole blocks.
    pub(crate) fn fitted(mut self) -> Self {
        let most = self.max_bytes.map_or(u64::MAX, |bytes| bytes / LEAST_SEGMENTS);
        let bytes = self.segment_bytes.min(most).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        self.segment_bytes = bytes.next_multiple_of(crate::header::BLOCK_BYTES as u64);
        self.batch_bytes = self.batch_bytes.clamp(2 * crate::header::BLOCK_BYTES, 1 << 26);
        self.ready_segments = self.ready_segments.max(1);
        self.cleaning_percent = self.cleaning_percent.clamp(1, 80);
        self
    }
}
