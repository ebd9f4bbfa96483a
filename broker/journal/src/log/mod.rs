//! The log of one shard: records in the order in which they were appended, in segments. Owned by the shard's thread.
//!
//! 1. A state machine: what it wants of files it says in [`Log::submit`], how that ended it is told by
//!    [`Log::completed`]; what became of it is fetched by [`Log::take_told`].
//! 2. At most one write of records is under way. Its end says that they are stored, and starts the next one, which has
//!    all that was appended meanwhile.
//! 3. Blocks that were written are never written again. A segment in which a write failed is not written again.
//! 4. Nothing becomes stored after a failure.

mod batch;
mod flush;
mod prepare;
mod reading;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

use fulmar_core::journal::{Joined, Position, Reason, Record, StoredMessage};
use fulmar_transport::file::{FileDone, FileOperation};
use fulmar_transport::{AlignedBuf, Transport};

use crate::cleaning::Cleaning;
use crate::encodings::Encodings;
use crate::header::{SegmentHeader, StoreId};
use crate::metrics::{Footprint, Metrics};
use crate::options::LogOptions;
use crate::position::{self, in_segment};
use crate::record::Payload;
use crate::scratch::Scratch;
use crate::space::Space;
use crate::start::LogStart;
use crate::summary::message_bytes;
use crate::words::LastWords;

use batch::{Batch, Writing};
use prepare::Preparation;
pub use reading::ReadBack;
use reading::Reading;
pub(crate) use segment::Segment;
use segment::Segments;

/// Where operations on files are handed in. Their ends come to [`Log::completed`].
pub trait Files {
    /// Starts an operation.
    fn start(&mut self, token: u64, operation: FileOperation);
}

impl<T: Transport + ?Sized> Files for T {
    fn start(&mut self, token: u64, operation: FileOperation) {
        self.file(token, operation);
    }
}

/// What became of what was asked of a log.
#[derive(Debug)]
pub enum Told {
    /// Everything before a position is stored.
    Stored(Position),
    /// Nothing becomes stored any more. Once.
    Failed(Reason),
    /// What was asked for by [`Log::read`]. Give it back by [`Log::recycle`].
    Read(ReadBack),
    /// Something that an operator should know.
    Notice(String),
}

/// What an operation is for: tokens have it in their upper half, a number in their lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    Flush = 1,
    Prepare = 2,
    Open = 3,
    Read = 4,
    Clean = 5,
    Tidy = 6,
    Page = 7,
}

const PURPOSE_SHIFT: u32 = 40;

/// How long something may wait that no event tells of: bytes that cleaning has to save up, space, another attempt.
const PAUSE_NS: u64 = 50_000_000;

/// Tokens of a log are below.
pub const TOKENS: u64 = 1 << 48;

impl Purpose {
    pub(crate) fn token(self, number: u64) -> u64 {
        debug_assert!(number < 1 << PURPOSE_SHIFT);
        u64::from(self as u8) << PURPOSE_SHIFT | number
    }

    fn of(token: u64) -> (Option<Purpose>, u64) {
        use Purpose::*;
        let code = token >> PURPOSE_SHIFT;
        let purpose = [Flush, Prepare, Open, Read, Clean, Tidy, Page]
            .into_iter()
            .find(|purpose| *purpose as u64 == code);
        (purpose, token & ((1 << PURPOSE_SHIFT) - 1))
    }
}

/// What is appended after a failure stands here: never stored.
const NEVER: Position = Position(Position::PAGE - 1);

/// The log of one shard. See the module's promises.
pub struct Log {
    pub(crate) options: LogOptions,
    pub(crate) directory: PathBuf,
    store: StoreId,
    shard: u16,
    shards: u16,
    run: u32,
    pub(crate) encodings: Rc<Encodings>,
    pub(crate) segments: Segments,
    pub(crate) words: LastWords,
    /// What records are appended to.
    open: Option<Batch>,
    /// What is full and waits to be written, in order.
    full: VecDeque<Batch>,
    writing: Option<Writing>,
    /// Memory for batches.
    spare: Vec<AlignedBuf>,
    next_batch: u64,
    /// The last record is joined to the one that comes.
    in_group: bool,
    /// Behind the last record.
    pub(crate) end: Position,
    pub(crate) stored: Position,
    unstored_bytes: usize,
    pub(crate) failed: Option<Reason>,
    preparation: Preparation,
    reading: Reading,
    pub(crate) cleaning: Cleaning,
    scratch: Scratch,
    pub(crate) space: Space,
    pub(crate) metrics: Metrics,
    told: VecDeque<Told>,
    pub(crate) now_ns: u64,
}

impl Log {
    /// A log that goes on after what was found.
    pub fn new(start: LogStart, options: LogOptions, encodings: Encodings) -> Self {
        let options = options.fitted();
        let encodings = Rc::new(encodings);
        let mut unused = start.unused;
        unused.sort_by(|a, b| b.cmp(a));
        let first = start.next_segment;
        let segments = Segments::new(&start.directory, start.segments, first, start.previous, &encodings);
        let scratch = Scratch::new(&start.directory, options.segment_bytes, options.direct);
        let mut log = Log {
            scratch,
            end: start.previous.map_or(Position::NONE, |(segment, end)| in_segment(segment, end)),
            stored: Position::NONE,
            directory: start.directory,
            store: start.store,
            shard: start.shard,
            shards: start.shards,
            run: start.run,
            encodings,
            segments,
            words: start.words,
            open: None,
            full: VecDeque::new(),
            writing: None,
            spare: Vec::new(),
            next_batch: start.next_batch,
            in_group: false,
            unstored_bytes: 0,
            failed: None,
            preparation: Preparation::new(unused, first, options.direct),
            reading: Reading::default(),
            cleaning: Cleaning::default(),
            space: Space::default(),
            metrics: Metrics::default(),
            told: VecDeque::new(),
            now_ns: 0,
            options,
        };
        log.stored = log.end;
        log
    }

    /// Whether a message of so many bytes may be appended.
    ///
    /// # Errors
    /// The log has failed, or has no space.
    #[inline]
    pub fn admit(&self, _bytes: usize) -> Result<(), Reason> {
        match self.failed.as_ref().or(self.space.refusal()) {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    /// Appends a record and returns its place; it is stored once a larger position is. After a failure nothing is
    /// appended.
    #[inline]
    pub fn append(&mut self, record: &Record<'_>, joined: Joined) -> Position {
        if self.failed.is_some() {
            return NEVER;
        }
        let is_alone = joined == Joined::No && !self.in_group;
        let is_awaited = !(is_alone && matches!(record, Record::Dequeued { .. }));
        let at = self.append_payload(&Payload::of(record, &self.encodings), joined);
        if let Some(open) = &mut self.open {
            open.is_awaited |= is_awaited;
        }
        self.note(position::segment_of(at), record);
        at
    }

    #[inline]
    pub(crate) fn append_payload(&mut self, payload: &Payload<'_>, joined: Joined) -> Position {
        let bytes = payload.record_bytes();
        self.make_room(bytes);
        let batch = self.open.as_mut().expect("there is room");
        let segment = batch.segment;
        let offset = batch.end();
        payload.encode(batch.grow(bytes), joined, segment, &self.encodings);
        let end = batch.end();
        self.segments.active.end = end;
        self.end = in_segment(segment, end);
        self.in_group = joined == Joined::ToNext;
        self.unstored_bytes += bytes;
        self.metrics.records += 1;
        self.metrics.record_bytes += bytes as u64;
        in_segment(segment, offset)
    }

    /// Keeps what is known of the segment that a record was appended to.
    #[inline]
    fn note(&mut self, segment: u64, record: &Record<'_>) {
        let summary = &mut self.segments.active.summary;
        match record {
            Record::Enqueued { message, places } => {
                summary.enqueue(message_bytes(message), message.messages, places.iter().copied());
            }
            Record::Dequeued { queue, first, count } => summary.dequeue(*queue, *first, *count),
            Record::HandedOut { queue, below } => self.words.hand_out(segment, *queue, *below),
            Record::Changed(_) => {
                summary.set_topology();
                self.words.change_topology(segment);
            }
            Record::Topology(_) => {
                summary.set_topology();
                self.words.snapshot_topology(segment);
            }
            Record::Transaction { transaction, step } => self.words.step(segment, *transaction, step),
        }
    }

    /// The place behind everything appended so far.
    #[inline]
    pub fn end(&self) -> Position {
        self.end
    }

    /// The same for somebody who waits until that is stored: departures among it wait for no company.
    #[inline]
    pub fn await_end(&mut self) -> Position {
        if let Some(open) = &mut self.open {
            open.is_awaited = true;
        }
        self.end
    }

    /// Everything before is stored.
    pub fn stored(&self) -> Position {
        self.stored
    }

    /// Nobody needs a message any more, of so many bytes.
    pub fn retire(&mut self, at: Position, bytes: usize) {
        if at.is_page() {
            return self.scratch.retire(at);
        }
        let end = self.end;
        if let Some(segment) = self.segments.get_mut(position::segment_of(at)) {
            segment.summary.retire(bytes);
            if segment.summary.live_records() == 0 {
                // What took its place elsewhere may have been appended just before.
                segment.empty_since = Some(end);
                self.cleaning.look_again();
            }
        }
    }

    /// Whether the page file takes messages at the moment.
    pub fn can_page_out(&self) -> bool {
        self.scratch.has_room()
    }

    /// Writes a message to the page file, where it can be read until it is retired. A restart removes it.
    pub fn page_out(&mut self, message: &StoredMessage<'_>) -> Position {
        self.metrics.paged_out += u64::from(message.messages);
        self.scratch.add(message, &self.encodings)
    }

    /// Whether so much is appended and not yet stored that no more should come for now.
    pub fn is_congested(&self) -> bool {
        self.unstored_bytes >= self.options.buffer_bytes
    }

    /// Whether records are on their way to the disk.
    pub fn is_flushing(&self) -> bool {
        self.writing.is_some()
    }

    /// Whether nothing is under way and nothing waits to be stored.
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.full.is_empty() && self.writing.is_none() && self.reading.is_idle()
    }

    /// When it has something to hand in even if nothing happens, on the clock of [`Log::submit`].
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let waits = self.cleaning.segment().is_some()
            || self.space.refusal().is_some()
            || self.preparation.is_retrying(self.now_ns);
        let pause = waits.then(|| self.now_ns + PAUSE_NS);
        let departures = self.departures_due_ns().filter(|_| self.writing.is_none());
        pause.into_iter().chain(departures).min().filter(|_| self.failed.is_none())
    }

    /// Which run of the broker this is.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Why nothing becomes stored any more, if so.
    pub fn failure(&self) -> Option<&Reason> {
        self.failed.as_ref()
    }

    /// What it has done.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What its files are.
    pub fn footprint(&self) -> Footprint {
        let unused = self.preparation.unused_files();
        Footprint {
            segments: self.segments.in_log().count() as u64,
            spare_files: self.segments.upcoming.len() as u64 + unused.0,
            file_bytes: self.segments.all().map(|segment| segment.file_bytes.max(segment.end)).sum::<u64>()
                + unused.1
                + self.scratch.file_bytes(),
            live_bytes: self.segments.in_log().map(|segment| segment.summary.live_bytes()).sum(),
            unstored_bytes: self.unstored_bytes as u64,
        }
    }

    /// Hands in what is to be done with files. Once a turn, after everything that appends; `now_ns` is any clock that
    /// does not go back.
    pub fn submit(&mut self, files: &mut (impl Files + ?Sized), now_ns: u64) {
        self.now_ns = now_ns;
        self.submit_flush(files);
        self.submit_reads(files);
        self.submit_cleaning(files);
        self.submit_preparation(files);
        self.submit_pages(files);
    }

    fn submit_pages(&mut self, files: &mut (impl Files + ?Sized)) {
        let room_for = |pages, bytes| {
            let segments =
                self.segments.all().map(|segment| segment.file_bytes.max(segment.end)).sum::<u64>();
            let used = segments + self.preparation.unused_files().1 + pages;
            let room = self.space.room_for(&self.directory, used, bytes, self.options.max_bytes);
            room.map_err(|why| why.to_string())
        };
        self.scratch.submit(files, self.now_ns, room_for);
        if let Some(notice) = self.scratch.take_notice() {
            self.told.push_back(Told::Notice(notice));
        }
    }

    /// An operation has ended.
    pub fn completed(&mut self, done: FileDone, now_ns: u64) {
        self.now_ns = now_ns;
        match Purpose::of(done.token) {
            (Some(Purpose::Flush), _) => self.completed_flush(done),
            (Some(Purpose::Prepare), _) => self.completed_preparation(done),
            (Some(Purpose::Open), segment) => self.completed_open(segment, done),
            (Some(Purpose::Read), job) => self.completed_read(job, done),
            (Some(Purpose::Clean), _) => self.completed_cleaning(done),
            (Some(Purpose::Tidy), _) => self.completed_tidying(done),
            (Some(Purpose::Page), number) => self.scratch.completed(number, done, now_ns),
            (None, _) => debug_assert!(false, "no token of this log: {}", done.token),
        }
    }

    /// Whether [`Log::take_told`] has something to tell.
    pub fn has_told(&self) -> bool {
        !self.told.is_empty()
    }

    /// What became of what was asked; `None` if nothing more has.
    pub fn take_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Nothing becomes stored any more.
    fn fail(&mut self, reason: Reason) {
        if self.failed.is_none() {
            self.end = NEVER;
            self.failed = Some(reason.clone());
            self.unstored_bytes = 0;
            self.open = None;
            self.full.clear();
            self.told.push_back(Told::Failed(reason));
        }
    }

    /// The header of a segment.
    fn header(&self, segment: &Segment) -> SegmentHeader {
        let (previous, previous_end) = segment.previous.unwrap_or((0, 0));
        SegmentHeader {
            store: self.store,
            segment: segment.number,
            previous,
            previous_end,
            first_batch: segment.first_batch,
            run: self.run,
            shard: self.shard,
            shards: self.shards,
            encodings: self.encodings.names().map(|name| name.as_bytes().to_vec()).collect(),
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("shard", &self.shard).field("end", &self.end).finish_non_exhaustive()
    }
}
