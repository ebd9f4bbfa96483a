//! With what a shard's log begins: what a restart found, or nothing.

use std::path::PathBuf;

use crate::encodings::Encodings;
use crate::header::StoreId;
use crate::summary::SegmentSummary;
use crate::words::LastWords;

/// With what a log begins. Everything it says to be there is on the disk: what a restart found valid in the last segment
/// it flushed, since a segment that follows tells where that one ended.
#[derive(Clone, Debug)]
pub struct LogStart {
    /// Where the shard's segments are.
    pub directory: PathBuf,
    /// Identity of the data directory.
    pub store: StoreId,
    /// The shard.
    pub shard: u16,
    /// How many there are.
    pub shards: u16,
    /// Which run of the broker this is; 1 is the first.
    pub run: u32,
    /// Number of the first segment that is written: larger than that of every file that was found, in use or not.
    /// Segments that were found are never written again.
    pub next_segment: u64,
    /// The last segment of what was found and where the log ended in it, in bytes: behind the last record that counts.
    pub previous: Option<(u64, u64)>,
    /// Number of the first batch that is written: 1, or one more than the last one that was found.
    pub next_batch: u64,
    /// Segments that were found, in order.
    pub segments: Vec<SegmentStart>,
    /// Files of segments in which nothing is needed, with their lengths: they may be written again.
    pub unused: Vec<(PathBuf, u64)>,
    /// Where the last word on queues, transactions and the topology is.
    pub words: LastWords,
}

impl LogStart {
    /// Nothing was there.
    pub fn empty(directory: PathBuf, store: StoreId, shard: u16, shards: u16) -> Self {
        LogStart {
            directory,
            store,
            shard,
            shards,
            run: 1,
            next_segment: 1,
            previous: None,
            next_batch: 1,
            segments: Vec::new(),
            unused: Vec::new(),
            words: LastWords::default(),
        }
    }
}

/// A segment that was found.
#[derive(Clone, Debug)]
pub struct SegmentStart {
    /// Its number.
    pub number: u64,
    /// Behind its last record, in bytes.
    pub end: u64,
    /// Length of its file, in bytes.
    pub file_bytes: u64,
    /// What its codes stand for.
    pub encodings: Encodings,
    /// What is known of it.
    pub summary: SegmentSummary,
}

/// The name of a segment's file.
pub fn file_name(segment: u64) -> String {
    format!("{segment:016x}.log")
}

/// The number in the name of a segment's file; `None` for what is none.
pub fn segment_in_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_found_by_its_name() {
        assert_eq!(file_name(0x1f), "000000000000001f.log");
        assert_eq!(segment_in_name(&file_name(0x1f)), Some(0x1f));
        for name in ["000000000000001f", "1f.log", "000000000000001F.log", "00000000000000+1.log", ""] {
            assert_eq!(segment_in_name(name), None, "{name}");
        }
    }
}
