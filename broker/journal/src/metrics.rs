//! What a log counts about itself.

use hdrhistogram::Histogram;

/// Longest flush that is told from longer ones, in microseconds.
const LONGEST_FLUSH_US: u64 = 60_000_000;

/// Most records in a flush that are told from more.
const MOST_RECORDS: u64 = 1 << 24;

/// What a log has done since it began. Only grows.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Records appended, those of batches not counted.
    pub records: u64,
    /// Bytes of these records.
    pub record_bytes: u64,
    /// Writes that were stored.
    pub flushes: u64,
    /// Bytes that they wrote: records, headers, and what fills blocks.
    pub written_bytes: u64,
    /// From the start of a write to its being stored, in microseconds.
    pub flush_us: Histogram<u64>,
    /// Records in a write.
    pub batch_records: Histogram<u64>,
    /// Bytes read for those who asked.
    pub read_bytes: u64,
    /// Messages written to the page file.
    pub paged_out: u64,
    /// Segments begun.
    pub segments_begun: u64,
    /// Those of them whose files had been another segment's.
    pub segments_recycled: u64,
    /// Segments cleaned: what was needed of them was written again.
    pub segments_cleaned: u64,
    /// Bytes read for that.
    pub cleaned_bytes: u64,
    /// Bytes written again for that.
    pub rewritten_bytes: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = |high| Histogram::new_with_max(high, 2).expect("valid bounds");
        Metrics {
            records: 0,
            record_bytes: 0,
            flushes: 0,
            written_bytes: 0,
            flush_us: histogram(LONGEST_FLUSH_US),
            batch_records: histogram(MOST_RECORDS),
            read_bytes: 0,
            paged_out: 0,
            segments_begun: 0,
            segments_recycled: 0,
            segments_cleaned: 0,
            cleaned_bytes: 0,
            rewritten_bytes: 0,
        }
    }
}

impl Metrics {
    /// A write of so many records and bytes is stored.
    pub(crate) fn flushed(&mut self, records: u64, bytes: u64, duration_ns: u64) {
        self.flushes += 1;
        self.written_bytes += bytes;
        self.flush_us.saturating_record(duration_ns / 1000);
        self.batch_records.saturating_record(records);
    }
}

/// What a log's files are, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Segments that are part of the log.
    pub segments: u64,
    /// Files that are ready to become segments.
    pub spare_files: u64,
    /// Bytes of all these files.
    pub file_bytes: u64,
    /// Bytes of messages that somebody needs.
    pub live_bytes: u64,
    /// Bytes of records appended and not yet stored.
    pub unstored_bytes: u64,
}

impl Footprint {
    /// The share of the segments that is needed, 0 to 1.
    pub fn live_ratio(&self) -> f64 {
        if self.file_bytes == 0 { 0.0 } else { self.live_bytes as f64 / self.file_bytes as f64 }
    }
}
