//! Group commit: what was appended while a write was under way goes with the next one.

use std::io;

use fulmar_core::journal::Reason;
use fulmar_transport::AlignedBuf;
use fulmar_transport::file::{FileDone, FileOperation};

use super::{Batch, Files, Log, Purpose, Segment, Told, Writing};
use crate::header::BLOCK_BYTES;
use crate::options::{Durability, FlushMethod};

/// How long departures wait for something else to be written with them.
const DEPARTURES_NS: u64 = 1_000_000;

/// How many times as long as usual batches become when they come faster than they are written.
const LONGER: usize = 8;

/// Most buffers that are kept for batches to come.
const SPARE_BUFFERS: usize = 4;

impl Log {
    /// Makes sure that the open batch has room for a record, which may be the first of a segment.
    #[inline]
    pub(super) fn make_room(&mut self, bytes: usize) {
        if let Some(open) = &self.open
            && open.has_room(bytes)
            && (self.in_group || open.end() + bytes as u64 <= self.options.segment_bytes)
        {
            return;
        }
        self.begin_batch(bytes);
    }

    #[cold]
    fn begin_batch(&mut self, bytes: usize) {
        self.close_batch();
        self.preparation.want();
        let mut offset = self.next_offset();
        let end = offset + (Batch::overhead(offset) + bytes) as u64;
        let is_full = end > self.options.segment_bytes;
        if offset > 0 && !self.in_group && (is_full || self.next_is_better()) {
            // Whatever it began with, it has been written now.
            self.segments.active.is_filled |= is_full;
            self.begin_segment();
            offset = 0;
        }
        // Where others wait to be written it fills faster than they are: fewer and larger ones do more.
        let usual = if self.full.is_empty() { self.options.batch_bytes } else { self.longest_batch() };
        let capacity = usual.max(Batch::overhead(offset) + bytes);
        let spare = self.spare.iter().position(|buffer| buffer.capacity() >= capacity);
        let buffer = spare.map(|index| self.spare.swap_remove(index));
        let buffer = buffer.unwrap_or_else(|| AlignedBuf::with_capacity(capacity));
        if offset == 0 {
            self.segments.active.first_batch = self.next_batch;
        }
        let number = self.segments.active.number;
        self.open = Some(Batch::new(number, offset, self.next_batch, self.now_ns, buffer));
        self.next_batch += 1;
    }

    /// Most bytes of a batch of several records. All spare buffers together are no more than what may wait to be written.
    fn longest_batch(&self) -> usize {
        let usual = self.options.batch_bytes;
        (LONGER * usual).min(self.options.buffer_bytes / SPARE_BUFFERS).max(usual)
    }

    fn close_batch(&mut self) {
        self.full.extend(self.open.take());
    }

    /// Where in the active segment the next batch goes.
    fn next_offset(&self) -> u64 {
        self.segments.active.end.next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Whether flushes of the next segment cost less, which finds blocks that were written before, and little of this one is
    /// used: what a log begins with was made in a hurry.
    fn next_is_better(&self) -> bool {
        let active = &self.segments.active;
        !active.is_filled
            && active.end < self.options.segment_bytes / 8
            && self.segments.upcoming.front().is_some_and(|next| next.is_ready && next.is_filled)
    }

    fn begin_segment(&mut self) {
        let mut next = match self.segments.upcoming.pop_front() {
            Some(next) => next,
            None => self.new_segment(),
        };
        next.previous = Some((self.segments.active.number, self.segments.active.end));
        let full = std::mem::replace(&mut self.segments.active, next);
        self.segments.full.insert(full.number, full);
        self.metrics.segments_begun += 1;
        self.cleaning.look_again();
    }

    /// Starts a write if there is something to write and none is under way.
    pub(super) fn submit_flush(&mut self, files: &mut (impl Files + ?Sized)) {
        if let Some(writing) = &mut self.writing {
            if writing.wants_sync {
                let file = self.segments.get(writing.segment).and_then(|segment| segment.file);
                let file = file.expect("a file that is written stays open");
                (writing.wants_sync, writing.syncs) = (false, true);
                files.start(Purpose::Flush.token(0), FileOperation::Sync(file));
            }
            return;
        }
        if self.departures_wait() {
            return;
        }
        let Some(number) = self.full.front().or(self.open.as_ref()).map(|batch| batch.segment) else {
            return;
        };
        let segment = self.segments.get(number).expect("what is not stored keeps its segment");
        let Some(file) = segment.file.filter(|_| segment.is_ready) else {
            self.preparation.hurry(number);
            return;
        };
        let batch = self.full.pop_front().or_else(|| self.open.take()).expect("there is one");
        let header = (batch.offset == 0).then(|| self.header(segment));
        let offset = batch.offset;
        let (bytes, mut writing) = batch.finish(header.as_ref(), &self.encodings);
        writing.began_ns = self.now_ns;
        let flush = self.options.durability == Durability::Flush;
        let sync = flush && self.options.flush_method == FlushMethod::SyncedWrite;
        self.writing = Some(writing);
        files.start(Purpose::Flush.token(0), FileOperation::Write { file, offset, bytes, sync });
    }

    /// Whether all that is to be written are departures, which nobody waits for, and something else may come yet to be
    /// written with them: a settlement does not hold up the next publish then.
    fn departures_wait(&self) -> bool {
        self.departures_due_ns().is_some_and(|due_ns| self.now_ns < due_ns)
    }

    /// When departures are written even if nothing else has come.
    pub(super) fn departures_due_ns(&self) -> Option<u64> {
        let open = self.open.as_ref().filter(|open| !open.is_awaited && self.full.is_empty())?;
        Some(open.begun_ns + DEPARTURES_NS)
    }

    pub(super) fn completed_flush(&mut self, done: FileDone) {
        let mut writing = self.writing.take().expect("a write is under way");
        if let Some(buffer) = done.bytes
            && self.spare.len() < SPARE_BUFFERS
            && buffer.capacity() <= self.longest_batch()
        {
            self.spare.push(buffer);
        }
        match done.result {
            Err(error) => self.flush_failed(&writing, &error),
            Ok(bytes) if !writing.syncs && bytes != writing.bytes => {
                let error = io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("{bytes} of {} bytes written", writing.bytes),
                );
                self.flush_failed(&writing, &error);
            }
            Ok(_) if !writing.syncs && self.needs_sync() => {
                writing.wants_sync = true;
                self.writing = Some(writing);
            }
            Ok(_) => self.flushed(&writing),
        }
    }

    fn needs_sync(&self) -> bool {
        self.options.durability == Durability::Flush
            && self.options.flush_method == FlushMethod::WriteThenSync
    }

    fn flushed(&mut self, writing: &Writing) {
        // A failure elsewhere may have come first; what was told then stays true.
        if self.failed.is_some() {
            return;
        }
        self.unstored_bytes -= writing.record_bytes;
        self.stored = writing.stored;
        let duration_ns = self.now_ns.saturating_sub(writing.began_ns);
        self.metrics.flushed(writing.records, writing.bytes as u64, duration_ns);
        self.preparation.earn(writing.bytes as u64);
        self.cleaning.note_stored();
        if self.space.refusal().is_some() {
            self.cleaning.look_again();
        }
        self.cleaning.earn(writing.bytes as u64, self.options.cleaning_percent);
        self.told.push_back(Told::Stored(self.stored));
    }

    fn flush_failed(&mut self, writing: &Writing, error: &io::Error) {
        let segment = self.segments.get(writing.segment).expect("what is not stored keeps its segment");
        let doing = if writing.syncs { "flushed" } else { "written" };
        self.fail(failure(segment, doing, error));
    }
}

/// What a person is told when a file can no longer be used.
pub(super) fn failure(segment: &Segment, doing: &str, error: &io::Error) -> Reason {
    format!("the journal's file {} cannot be {doing}: {error}", segment.path.display()).into()
}
