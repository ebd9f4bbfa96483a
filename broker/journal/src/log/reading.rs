//! Messages read again by their places, from the log and from the page file: neighbours with one operation.

use std::collections::VecDeque;
use std::rc::Rc;

use fulmar_core::journal::{Position, Reason, StoredMessage, Ticket};
use fulmar_transport::AlignedBuf;
use fulmar_transport::file::{FileDone, FileId, FileOperation};
use slab::Slab;

use super::flush::failure;
use super::{Files, Log, Purpose, Told};
use crate::encodings::Encodings;
use crate::header::BLOCK_BYTES;
use crate::position::{self, is_same_file, offset_of, segment_of};
use crate::record::{Decoded, Framed, Invalid};
use crate::scratch::Whereabouts;

/// Most bytes read at once, unless one record is longer.
const MOST_BYTES: u64 = 1 << 20;

/// Least bytes read at once.
const LEAST_BYTES: u64 = 16 << 10;

/// Bytes that nobody asked for which are read rather than left out.
const GAP_BYTES: u64 = 32 << 10;

/// Jobs that are under way at a time.
const JOBS: usize = 4;

/// Buffers kept to be read into again.
const SPARE_BUFFERS: usize = 8;

/// Files of full segments kept open.
const OPEN_FILES: usize = 64;

/// Messages that were read.
#[derive(Debug)]
pub struct ReadBack {
    /// Who asked.
    pub ticket: Ticket,
    /// Why the rest could not be read, if so.
    pub failed: Option<Reason>,
    chunks: Vec<(AlignedBuf, Rc<Encodings>)>,
    /// In which chunk and where in it each message's record begins.
    records: Vec<(u32, u32)>,
}

impl ReadBack {
    /// The messages, in the order in which they were asked for.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = StoredMessage<'_>> {
        self.records.iter().map(|(chunk, at)| {
            let (bytes, encodings) = &self.chunks[*chunk as usize];
            match Framed::trusted(&bytes[*at as usize..]).record(encodings) {
                Ok(Decoded::Enqueued(enqueued) | Decoded::Paged(enqueued)) => enqueued.message,
                _ => unreachable!("it was looked at before"),
            }
        })
    }
}

/// Something that was asked for.
struct Job {
    back: ReadBack,
    positions: Vec<Position>,
    /// How many of them are done.
    done: usize,
    /// Segments that must not go before the end.
    pins: Vec<u64>,
    /// Those of the page file.
    pages: Vec<Position>,
    /// Bytes that the next record needs, if known.
    needs: u64,
    /// Where what is being read begins, in bytes, and up to which place it has what was asked for.
    reads: Option<(u64, usize)>,
}

/// What is being read.
#[derive(Default)]
pub(super) struct Reading {
    jobs: Slab<Job>,
    /// Those that wait for their turn.
    waiting: VecDeque<usize>,
    /// Those whose turn it is.
    current: Vec<usize>,
    spare: Vec<AlignedBuf>,
}

impl Reading {
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    fn buffer(&mut self, bytes: u64) -> AlignedBuf {
        let capacity = bytes.next_power_of_two().max(LEAST_BYTES) as usize;
        let index = self.spare.iter().position(|buffer| buffer.capacity() == capacity);
        index.map_or_else(|| AlignedBuf::with_capacity(capacity), |index| self.spare.swap_remove(index))
    }

    fn keep(&mut self, buffer: AlignedBuf) {
        if self.spare.len() < SPARE_BUFFERS && buffer.capacity() as u64 <= 2 * MOST_BYTES {
            self.spare.push(buffer);
        }
    }
}

impl Log {
    /// Asks for messages; [`Told::Read`] follows once they are stored and read.
    pub fn read(&mut self, ticket: Ticket, positions: &[Position]) {
        let (pages, log) = positions.iter().partition::<Vec<Position>, _>(|position| position.is_page());
        pages.iter().for_each(|page| self.scratch.hold(*page));
        let mut pins: Vec<u64> = log.iter().map(|position| segment_of(*position)).collect();
        pins.sort_unstable();
        pins.dedup();
        pins.retain(|number| {
            let segment = self.segments.get_mut(*number).filter(|segment| !segment.is_leaving);
            segment.map(|segment| segment.readers += 1).is_some()
        });
        let back = ReadBack {
            ticket,
            failed: None,
            chunks: Vec::new(),
            records: Vec::with_capacity(positions.len()),
        };
        let positions = positions.to_vec();
        let job = Job { back, positions, done: 0, pins, pages, needs: 0, reads: None };
        let job = self.reading.jobs.insert(job);
        self.reading.waiting.push_back(job);
    }

    /// Takes memory back.
    pub fn recycle(&mut self, back: ReadBack) {
        for (buffer, _) in back.chunks {
            self.reading.keep(buffer);
        }
    }

    pub(super) fn submit_reads(&mut self, files: &mut (impl Files + ?Sized)) {
        while self.reading.current.len() < JOBS
            && let Some(job) = self.reading.waiting.pop_front()
        {
            self.reading.current.push(job);
        }
        for index in (0..self.reading.current.len()).rev() {
            let number = self.reading.current[index];
            if self.submit_read(number, files) {
                self.reading.current.swap_remove(index);
                self.finish_read(number);
            }
        }
    }

    /// Starts what comes next of a job; whether nothing does.
    fn submit_read(&mut self, number: usize, files: &mut (impl Files + ?Sized)) -> bool {
        let job = &mut self.reading.jobs[number];
        if job.reads.is_some() {
            return false;
        }
        let Some(&position) = job.positions.get(job.done).filter(|_| job.back.failed.is_none()) else {
            return true;
        };
        if position.is_page() {
            return self.submit_page_read(number, position, files);
        }
        if position >= self.stored {
            job.back.failed = self.failed.clone();
            return job.back.failed.is_some();
        }
        let segment = segment_of(position);
        let pinned = job.pins.binary_search(&segment).is_ok();
        let Some(segment) = self.segments.get_mut(segment).filter(|_| pinned) else {
            job.back.failed = Some(format!("the journal's segment {segment} is no longer there").into());
            return true;
        };
        let Some(file) = segment.file else {
            let number = segment.number;
            self.open_to_read(number, files);
            return false;
        };
        // What is not stored yet may not be there.
        let stored = job.positions[job.done..].iter().take_while(|position| **position < self.stored).count();
        let to = job.done + stored;
        let (offset, end) = extent(&job.positions[job.done..to], job.needs, segment.end);
        job.reads = Some((offset, to));
        let bytes = self.reading.buffer(end - offset);
        files.start(Purpose::Read.token(number as u64), FileOperation::Read { file, offset, bytes });
        false
    }

    /// Starts to read what comes next of a job, which is in the page file, or takes it from memory; whether nothing comes.
    fn submit_page_read(
        &mut self,
        number: usize,
        position: Position,
        files: &mut (impl Files + ?Sized),
    ) -> bool {
        let job = &mut self.reading.jobs[number];
        let rest = &job.positions[job.done..];
        match self.scratch.find(position) {
            Whereabouts::UnderWay => return false,
            Whereabouts::Gone => {
                job.back.failed = Some("what was written to the page file is no longer there".into());
                return true;
            }
            Whereabouts::File(file, file_end) => {
                let is_there =
                    |next: &&Position| is_same_file(**next, position) && offset_of(**next) < file_end;
                let to = job.done + rest.iter().take_while(is_there).count();
                let (offset, end) = extent(&job.positions[job.done..to], job.needs, file_end);
                job.reads = Some((offset, to));
                let bytes = self.reading.buffer(end - offset);
                let read = FileOperation::Read { file, offset, bytes };
                files.start(Purpose::Read.token(number as u64), read);
                return false;
            }
            Whereabouts::Memory(page) => {
                let mut bytes = AlignedBuf::with_capacity(page.len());
                bytes.extend_from_slice(page);
                let (from, to) = (offset_of(position), job.positions.len());
                let page_end = from + page.len() as u64;
                if let Err((_, invalid)) = job.take(&bytes, from, to, &self.encodings, page_end) {
                    job.back.failed = Some(format!("a page in memory cannot be read: {invalid}").into());
                }
                job.back.chunks.push((bytes, Rc::clone(&self.encodings)));
            }
        }
        self.submit_read(number, files)
    }

    pub(super) fn completed_read(&mut self, number: u64, done: FileDone) {
        let job = &mut self.reading.jobs[number as usize];
        let (from, to) = job.reads.take().expect("something is read");
        let position = job.positions[job.done];
        let (path, encodings, end) = if position.is_page() {
            (self.scratch.path_of(position), &self.encodings, u64::MAX)
        } else {
            let segment = self.segments.get(segment_of(position)).expect("what is read stays");
            (segment.path.display().to_string(), &segment.encodings, segment.end)
        };
        let bytes = done.bytes.expect("a read ends with its buffer");
        if let Err(error) = done.result {
            job.back.failed = Some(format!("the journal's file {path} cannot be read: {error}").into());
            self.reading.keep(bytes);
            return;
        }
        self.metrics.read_bytes += bytes.len() as u64;
        let before = job.done;
        let needed = job.needs;
        if let Err((offset, invalid)) = job.take(&bytes, from, to, encodings, end) {
            let text = format!("the record at {offset} in {path} cannot be read: {invalid}");
            job.back.failed = Some(text.into());
        } else if job.done == before && job.needs <= needed {
            job.back.failed = Some(format!("the file {path} is shorter than it was").into());
        }
        if job.done > before {
            job.back.chunks.push((bytes, Rc::clone(encodings)));
        } else {
            self.reading.keep(bytes);
        }
    }

    fn finish_read(&mut self, number: usize) {
        let job = self.reading.jobs.remove(number);
        job.pages.iter().for_each(|page| self.scratch.let_go(*page));
        for segment in job.pins {
            let segment = self.segments.get_mut(segment).expect("what is read stays");
            segment.readers -= 1;
        }
        self.cleaning.look_again();
        self.told.push_back(Told::Read(job.back));
    }

    /// Opens the file of a segment, unless that is under way.
    pub(crate) fn open_to_read(&mut self, number: u64, files: &mut (impl Files + ?Sized)) {
        let options = self.open_options();
        let segment = self.segments.get_mut(number).expect("what is read stays");
        if segment.opening.is_none() {
            segment.opening = Some(options);
            files.start(Purpose::Open.token(number), FileOperation::Open(segment.path.clone(), options));
        }
    }

    /// A file was opened to be read.
    pub(super) fn completed_open(&mut self, number: u64, done: FileDone) {
        let Some(segment) = self.segments.get_mut(number) else {
            // It has gone meanwhile, and nobody waits for it.
            if let Ok(file) = done.result {
                self.preparation.close(FileId(file as u32));
            }
            return;
        };
        let options = segment.opening.take().expect("it was being opened");
        match done.result {
            Ok(file) => segment.file = Some(FileId(file as u32)),
            // Whoever wants it opens it again.
            Err(error) if self.must_not_be_direct(options, &error) => {}
            Err(error) => {
                let segment = self.segments.get(number).expect("it was there");
                let reason = failure(segment, "opened", &error);
                self.opening_failed(number, &reason);
            }
        }
        self.close_some();
    }

    fn opening_failed(&mut self, number: u64, reason: &Reason) {
        for job in &self.reading.current {
            let job = &mut self.reading.jobs[*job];
            if job.reads.is_none()
                && job.positions.get(job.done).is_some_and(|position| segment_of(*position) == number)
            {
                job.back.failed = Some(reason.clone());
            }
        }
        self.cleaning_failed(number, reason);
    }

    /// Closes a file that nobody reads, if there are many.
    fn close_some(&mut self) {
        let cleaned = self.cleaning.segment();
        let open = self.segments.full.values().filter(|segment| segment.file.is_some()).count();
        if open > OPEN_FILES {
            let idle = self.segments.full.values_mut().find(|segment| {
                segment.file.is_some()
                    && segment.readers == 0
                    && !segment.is_leaving
                    && Some(segment.number) != cleaned
                    && segment.end > 0
                    && position::in_segment(segment.number, segment.end) <= self.stored
            });
            if let Some(file) = idle.and_then(|segment| segment.file.take()) {
                self.preparation.close(file);
            }
        }
    }
}

/// What to read for the first of some places and those behind it that are near: from and to, in bytes.
fn extent(positions: &[Position], needs: u64, segment_end: u64) -> (u64, u64) {
    let block = BLOCK_BYTES as u64;
    let first = offset_of(positions[0]);
    let from = first / block * block;
    let mut end = first + needs.max(block);
    let mut last = first;
    for position in &positions[1..] {
        let offset = offset_of(*position);
        if !is_same_file(*position, positions[0])
            || offset <= last
            || offset > end + GAP_BYTES
            || offset + block - from > MOST_BYTES
        {
            break;
        }
        // It may be as long as the one before.
        end = end.max(offset + (offset - last).clamp(block, MOST_BYTES));
        last = offset;
    }
    let end = if needs > MOST_BYTES { end } else { end.min(from + MOST_BYTES) };
    (from, end.min(segment_end).next_multiple_of(block).max(from + block))
}

impl Job {
    /// Takes what bytes of a segment have of what was asked for; on failure says where.
    fn take(
        &mut self,
        bytes: &[u8],
        from: u64,
        to: usize,
        encodings: &Encodings,
        segment_end: u64,
    ) -> Result<(), (u64, Invalid)> {
        self.needs = 0;
        let first = self.positions[self.done];
        let segment = segment_of(first);
        while let Some(&position) = self.positions[..to].get(self.done) {
            let offset = offset_of(position);
            if !is_same_file(position, first) || offset < from {
                break;
            }
            let Some(rest) = bytes.get((offset - from) as usize..).filter(|rest| !rest.is_empty()) else {
                break;
            };
            match Framed::decode(rest, segment).and_then(|framed| framed.record(encodings)) {
                Ok(Decoded::Enqueued(_) | Decoded::Paged(_)) => {}
                Ok(_) => return Err((offset, Invalid::Contradiction)),
                Err(Invalid::Short) => {
                    let needs = Framed::announced_bytes(rest).unwrap_or(BLOCK_BYTES) as u64;
                    // What was read ends before the record does; so may the segment.
                    if offset + needs > segment_end || needs <= rest.len() as u64 {
                        return Err((offset, Invalid::Short));
                    }
                    self.needs = needs;
                    break;
                }
                Err(invalid) => return Err((offset, invalid)),
            }
            self.back.records.push((self.back.chunks.len() as u32, (offset - from) as u32));
            self.done += 1;
        }
        Ok(())
    }
}
