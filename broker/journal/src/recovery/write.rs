//! Writes records to new segments while no shard runs: for messages that move to another log, and for tests.

use std::io;
use std::path::PathBuf;

use fulmar_core::Position;
use fulmar_core::journal::{Joined, Record};

use crate::disk::{Disk, DiskFile};
use crate::encodings::Encodings;
use crate::header::{BLOCK_BYTES, Batch, SegmentHeader, StoreId};
use crate::position;
use crate::record::Payload;
use crate::start::file_name;

/// What segments are written like.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Where the shard's segments are.
    pub directory: PathBuf,
    /// Identity of the data directory.
    pub store: StoreId,
    /// The shard.
    pub shard: u16,
    /// How many there are.
    pub shards: u16,
    /// Which run of the broker this is.
    pub run: u32,
    /// Number of the first segment.
    pub segment: u64,
    /// The segment before it and where the log ended in that.
    pub previous: Option<(u64, u64)>,
    /// Number of the first batch.
    pub batch: u64,
    /// What a segment grows up to, in bytes.
    pub segment_bytes: u64,
    /// What a batch grows up to, in bytes.
    pub batch_bytes: usize,
    /// What is known.
    pub encodings: Encodings,
}

/// Writes a log from where it ends. What was appended is on the disk after [`LogWriter::finish`].
pub struct LogWriter<'d> {
    disk: &'d dyn Disk,
    options: WriteOptions,
    segment: Option<OpenSegment>,
    /// The records of the next batch, behind room for its own.
    batch: Vec<u8>,
    records: u64,
    is_in_group: bool,
}

struct OpenSegment {
    file: Box<dyn DiskFile>,
    /// Where the next batch begins.
    at: u64,
    /// Behind the last record that was written.
    end: u64,
}

impl<'d> LogWriter<'d> {
    /// Begins; makes the directory if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(disk: &'d dyn Disk, options: WriteOptions) -> io::Result<Self> {
        disk.create_directory(&options.directory)?;
        Ok(LogWriter { disk, options, segment: None, batch: Vec::new(), records: 0, is_in_group: false })
    }

    /// Appends a record; gives its place.
    ///
    /// # Errors
    /// The disk is full, or failed.
    pub fn append(&mut self, record: &Record<'_>, joined: Joined) -> io::Result<Position> {
        let encodings = self.options.encodings.clone();
        self.append_payload(&Payload::of(record, &encodings), joined)
    }

    /// Appends a record that is encoded already.
    ///
    /// # Errors
    /// The disk is full, or failed.
    pub fn append_payload(&mut self, payload: &Payload<'_>, joined: Joined) -> io::Result<Position> {
        let bytes = payload.record_bytes();
        if !self.is_in_group {
            if self.batch.len() + bytes > self.options.batch_bytes {
                self.flush()?;
            }
            let end = |open: &OpenSegment| open.at + (self.batch.len() + Batch::RECORD_BYTES + bytes) as u64;
            let is_begun = |open: &OpenSegment| open.at > BLOCK_BYTES as u64 || !self.batch.is_empty();
            let open = self.segment.as_ref();
            if open.is_some_and(|open| is_begun(open) && end(open) > self.options.segment_bytes) {
                self.end_segment()?;
            }
        }
        let open = match &self.segment {
            Some(open) => open,
            None => self.begin_segment()?,
        };
        let offset = open.at;
        if self.batch.is_empty() {
            self.batch.resize(Batch::RECORD_BYTES, 0);
        }
        let at = self.batch.len();
        self.batch.resize(at + bytes, 0);
        payload.encode(&mut self.batch[at..], joined, self.options.segment, &self.options.encodings);
        self.records += 1;
        self.is_in_group = joined == Joined::ToNext;
        Ok(position::in_segment(self.options.segment, offset + at as u64))
    }

    /// Ends the batch.
    ///
    /// # Errors
    /// The disk is full, or failed.
    ///
    /// # Panics
    /// If a record is joined to one that is not there yet.
    pub fn flush(&mut self) -> io::Result<()> {
        assert!(!self.is_in_group, "a group is not complete");
        let Some(open) = self.segment.as_mut().filter(|_| !self.batch.is_empty()) else { return Ok(()) };
        let bytes = self.batch.len() as u64;
        let batch = Batch { number: self.options.batch, bytes, records: self.records };
        let (head, _) = self.batch.split_at_mut(Batch::RECORD_BYTES);
        batch.encode(head, self.options.segment, &self.options.encodings);
        self.batch.resize(self.batch.len().next_multiple_of(BLOCK_BYTES), 0);
        open.file.write_at(open.at, &self.batch)?;
        open.end = open.at + bytes;
        open.at += self.batch.len() as u64;
        self.batch.clear();
        self.records = 0;
        self.options.batch += 1;
        Ok(())
    }

    /// Everything is on the disk. Where the log ends now: the last segment and the offset behind its last record, if
    /// anything was written.
    ///
    /// # Errors
    /// The disk is full, or failed.
    pub fn finish(mut self) -> io::Result<Option<(u64, u64)>> {
        self.end_segment()?;
        self.disk.sync_directory(&self.options.directory)?;
        Ok(self.options.previous)
    }

    fn begin_segment(&mut self) -> io::Result<&OpenSegment> {
        let file = self.disk.open_writable(&self.options.directory.join(file_name(self.options.segment)))?;
        // What was written here before a failure is no part of it.
        file.set_length(0)?;
        let (previous, previous_end) = self.options.previous.unwrap_or_default();
        let header = SegmentHeader {
            store: self.options.store,
            segment: self.options.segment,
            previous,
            previous_end,
            first_batch: self.options.batch,
            run: self.options.run,
            shard: self.options.shard,
            shards: self.options.shards,
            encodings: self.options.encodings.names().map(|name| name.as_bytes().to_vec()).collect(),
        };
        let mut block = vec![0; BLOCK_BYTES];
        header.encode(&mut block);
        file.write_at(0, &block)?;
        let start = BLOCK_BYTES as u64;
        Ok(self.segment.insert(OpenSegment { file, at: start, end: start }))
    }

    fn end_segment(&mut self) -> io::Result<()> {
        self.flush()?;
        if let Some(open) = self.segment.take() {
            open.file.sync()?;
            self.options.previous = Some((self.options.segment, open.end));
            self.options.segment += 1;
        }
        Ok(())
    }
}
