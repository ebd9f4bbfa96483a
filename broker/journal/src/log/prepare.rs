//! Segments made ready ahead of their use, in the background, and segments that go.
//!
//! 1. Nothing is made before something is appended: brokers without durable messages take no space.
//! 2. New files get their space and are filled with zeros, so that a flush finds blocks that were written before; where
//!    there is no time for that they are written as they are.
//! 3. Segments in which nothing is needed become new ones by another name. What goes counts as part of the log until the
//!    directory is on the disk: only then may records go that say of its messages that they are gone.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use fulmar_transport::AlignedBuf;
use fulmar_transport::file::{FileDone, FileId, FileOperation, OpenOptions, is_direct_refused};

use super::flush::failure;
use super::{Files, Log, Purpose, Segment, Told};

/// Bytes of zeros in one write.
const ZEROS: usize = 256 << 10;

/// Segments that are kept ready beyond what was asked for, before files are removed.
const MORE_READY: usize = 2;

/// Time until something is tried again.
const RETRY_NS: u64 = 1_000_000_000;

/// How often it is tried to make a segment that records wait for.
const ATTEMPTS: u32 = 10;

/// Where the file of a segment comes from.
#[derive(Clone, Debug)]
enum Source {
    New,
    Unused(PathBuf),
    Recycled(u64),
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The file gets its name; the directory is on the disk.
    Rename,
    SyncRename,
    /// The file is there and has its space.
    Open,
    Allocate,
    Zeros(u64),
    SyncFile,
    /// The new name is on the disk.
    SyncDirectory,
    /// The file goes.
    Remove,
    SyncRemoval,
}

/// What is being done, one operation after the other.
struct Work {
    number: u64,
    source: Source,
    step: Step,
    /// How its file is opened, or was.
    opening: OpenOptions,
    is_under_way: bool,
}

/// What is being prepared.
pub(super) struct Preparation {
    /// Something was appended, or will be.
    is_wanted: bool,
    /// Files that nobody needs, with their lengths.
    unused: Vec<(PathBuf, u64)>,
    next_number: u64,
    direct: bool,
    /// Where files come from, by the number of the segment that they will be; all others are new.
    sources: VecDeque<(u64, Source)>,
    /// Segments that may go.
    leaving: VecDeque<u64>,
    work: Option<Work>,
    /// Files to be closed.
    closing: Vec<FileId>,
    /// Records wait for segments up to this one.
    hurry: u64,
    failures: u32,
    retry_at_ns: u64,
    zeros: Option<AlignedBuf>,
    /// Bytes of zeros that may be written beside records.
    zeros_earned: u64,
}

impl Preparation {
    pub fn new(unused: Vec<(PathBuf, u64)>, first: u64, direct: bool) -> Self {
        Preparation {
            is_wanted: false,
            unused,
            next_number: first + 1,
            direct,
            sources: VecDeque::new(),
            leaving: VecDeque::new(),
            work: None,
            closing: Vec::new(),
            hurry: 0,
            failures: 0,
            retry_at_ns: 0,
            zeros: None,
            zeros_earned: 0,
        }
    }

    /// Something is appended, or will be.
    pub fn want(&mut self) {
        self.is_wanted = true;
    }

    /// Records wait for a segment.
    pub fn hurry(&mut self, number: u64) {
        self.hurry = self.hurry.max(number);
    }

    /// So many bytes of records were written: twice as many zeros may be.
    pub fn earn(&mut self, bytes: u64) {
        self.zeros_earned = (self.zeros_earned + 2 * bytes).min(4 * ZEROS as u64);
    }

    /// Whether something is tried again later.
    pub fn is_retrying(&self, now_ns: u64) -> bool {
        now_ns < self.retry_at_ns
    }

    /// A file is no longer needed.
    pub fn close(&mut self, file: FileId) {
        self.closing.push(file);
    }

    /// Number and bytes of files that nobody needs.
    pub fn unused_files(&self) -> (u64, u64) {
        (self.unused.len() as u64, self.unused.iter().map(|(_, bytes)| bytes).sum())
    }

    fn take_source(&mut self, number: u64) -> Source {
        let index = self.sources.iter().position(|(each, _)| *each == number);
        index.and_then(|index| self.sources.remove(index)).map_or(Source::New, |(_, source)| source)
    }
}

impl Log {
    /// Makes the first segments ready before anything is appended, so that the first records find them.
    pub fn get_ready(&mut self) {
        self.preparation.want();
    }

    /// A segment that is not there yet.
    pub(super) fn new_segment(&mut self) -> Segment {
        let number = self.preparation.next_number;
        self.preparation.next_number += 1;
        Segment::new(&self.directory, number, &self.encodings)
    }

    /// Nothing in a segment is needed, and nobody reads it.
    pub(crate) fn release(&mut self, number: u64) {
        let segment = self.segments.full.get_mut(&number).expect("what goes is full");
        debug_assert!(!segment.is_leaving && segment.readers == 0);
        segment.is_leaving = true;
        self.preparation.leaving.push_back(number);
    }

    pub(super) fn submit_preparation(&mut self, files: &mut (impl Files + ?Sized)) {
        for file in self.preparation.closing.drain(..) {
            files.start(Purpose::Tidy.token(0), FileOperation::Close(file));
        }
        if self.failed.is_some() || !self.preparation.is_wanted || self.now_ns < self.preparation.retry_at_ns
        {
            return;
        }
        self.plan();
        if self.preparation.work.is_none() {
            self.preparation.work = self.next_work();
        }
        self.submit_work(files);
    }

    pub(super) fn completed_tidying(&mut self, done: FileDone) {
        if let Err(error) = done.result {
            self.notice(format!("a file of the journal could not be closed: {error}"));
        }
    }

    /// Decides where the files of segments to come are from.
    fn plan(&mut self) {
        let active = &self.segments.active;
        // Those after the next one can wait until that is nearer.
        let is_young = active.end > 0 && active.end < self.options.segment_bytes / 4;
        let wanted = if is_young { 1 } else { self.options.ready_segments };
        while self.segments.upcoming.len() < wanted + MORE_READY
            && let Some(number) = self.preparation.leaving.pop_front()
        {
            self.plan_segment(Source::Recycled(number), 0);
        }
        while self.segments.upcoming.len() < wanted
            && let Some((path, bytes)) = self.preparation.unused.pop()
        {
            self.plan_segment(Source::Unused(path), bytes);
        }
        if self.segments.upcoming.len() < wanted {
            match self.room_for_segment() {
                Ok(()) => self.plan_segment(Source::New, 0),
                // The last one that is ready is for what makes room.
                Err(reason) if self.segments.upcoming.len() <= 1 => self.space.refuse(reason),
                Err(_) => {}
            }
        } else if self.preparation.failures == 0 {
            self.space.admit();
        }
    }

    fn plan_segment(&mut self, source: Source, file_bytes: u64) {
        let mut segment = self.new_segment();
        segment.file_bytes = file_bytes;
        self.preparation.sources.push_back((segment.number, source));
        self.segments.upcoming.push_back(segment);
    }

    fn next_work(&mut self) -> Option<Work> {
        if let Some(number) = self.segments.first_unready() {
            let source = self.preparation.take_source(number);
            let step = if matches!(source, Source::New) { Step::Open } else { Step::Rename };
            return Some(Work { number, source, step, opening: OpenOptions::default(), is_under_way: false });
        }
        let number = self.preparation.leaving.pop_front()?;
        let (source, opening) = (Source::New, OpenOptions::default());
        Some(Work { number, source, step: Step::Remove, opening, is_under_way: false })
    }

    /// Starts the next operation, unless one is under way.
    fn submit_work(&mut self, files: &mut (impl Files + ?Sized)) {
        let Some(work) = self.preparation.work.as_ref().filter(|work| !work.is_under_way) else {
            return;
        };
        let number = work.number;
        if let Step::Zeros(_) = work.step
            && self.writing.is_some()
            && self.preparation.hurry < number
            && self.preparation.zeros_earned < ZEROS as u64
        {
            return;
        }
        let Some(operation) = self.operation() else { return };
        let opening = self.open_options();
        let work = self.preparation.work.as_mut().expect("as above");
        (work.is_under_way, work.opening) = (true, opening);
        files.start(Purpose::Prepare.token(number), operation);
    }

    /// The operation of the step that is due.
    fn operation(&mut self) -> Option<FileOperation> {
        let work = self.preparation.work.as_ref()?;
        let from = match &work.source {
            Source::New => None,
            Source::Unused(path) => Some(path.clone()),
            Source::Recycled(number) => self.segments.get(*number).map(|segment| segment.path.clone()),
        };
        let segment = self.segments.any_mut(work.number).expect("what is prepared is there");
        let file = || segment.file.expect("the file is open");
        Some(match work.step {
            Step::Rename => FileOperation::Rename(from.expect("a file to be renamed"), segment.path.clone()),
            Step::SyncRename | Step::SyncDirectory | Step::SyncRemoval => {
                FileOperation::SyncDirectory(self.directory.clone())
            }
            Step::Open => {
                let path = segment.path.clone();
                FileOperation::Open(path, self.open_options())
            }
            Step::Allocate => FileOperation::Allocate(file(), self.options.segment_bytes),
            Step::Zeros(offset) => {
                let file = file();
                let zeros = self.preparation.zeros.take();
                let mut bytes = zeros.unwrap_or_else(|| AlignedBuf::with_capacity(ZEROS));
                bytes.resize((self.options.segment_bytes - offset).min(ZEROS as u64) as usize);
                self.preparation.zeros_earned =
                    self.preparation.zeros_earned.saturating_sub(bytes.len() as u64);
                FileOperation::Write { file, offset, bytes, sync: false }
            }
            Step::SyncFile => FileOperation::Sync(file()),
            Step::Remove => FileOperation::Remove(segment.path.clone()),
        })
    }

    /// How segments are opened: past the page cache, as long as nobody has refused that.
    pub(super) fn open_options(&self) -> OpenOptions {
        OpenOptions { write: true, direct: self.preparation.direct }
    }

    /// Whether a file could not be opened only because that was to be past the page cache, which is not tried again.
    pub(super) fn must_not_be_direct(&mut self, options: OpenOptions, error: &io::Error) -> bool {
        let is_refused = options.direct && is_direct_refused(error);
        if is_refused && std::mem::take(&mut self.preparation.direct) {
            self.notice(format!(
                "the file system of {} does not let files be written past the page cache: the journal goes \
                 through it, which costs some speed",
                self.directory.display()
            ));
        }
        is_refused
    }

    pub(super) fn completed_preparation(&mut self, done: FileDone) {
        let mut work = self.preparation.work.take().expect("something is being prepared");
        work.is_under_way = false;
        let next;
        match done.result {
            Ok(result) => {
                self.preparation.failures = 0;
                next = self.advance(&work, result);
            }
            Err(error) if work.step == Step::Open && self.must_not_be_direct(work.opening, &error) => {
                next = Some(work.step);
            }
            Err(error) => {
                self.preparation_failed(&work, &error);
                next = Some(work.step);
            }
        }
        if let Some(bytes) = done.bytes {
            self.preparation.zeros = Some(bytes);
        }
        if let Some(step) = next {
            work.step = step;
            self.preparation.work = Some(work);
        }
    }

    /// The step after one that has ended well; `None` if that was the last one.
    fn advance(&mut self, work: &Work, result: usize) -> Option<Step> {
        let hurries = work.number <= self.preparation.hurry;
        let segment_bytes = self.options.segment_bytes;
        match work.step {
            Step::Rename => return Some(Step::SyncRename),
            Step::SyncRename => {
                if let Source::Recycled(number) = work.source {
                    self.take_over(number, work.number);
                }
                let segment = self.segments.any_mut(work.number).expect("what is prepared is there");
                if segment.file.is_none() {
                    return Some(Step::Open);
                }
                if !segment.is_filled && !hurries {
                    return Some(Step::Zeros(0));
                }
                segment.is_ready = true;
            }
            Step::Open => {
                let segment = self.segments.any_mut(work.number).expect("what is prepared is there");
                segment.file = Some(FileId(result as u32));
                if segment.file_bytes < segment_bytes {
                    return Some(Step::Allocate);
                }
                if !segment.is_filled && !hurries {
                    return Some(Step::Zeros(0));
                }
                segment.is_ready = true;
            }
            Step::Allocate => {
                let segment = self.segments.any_mut(work.number).expect("what is prepared is there");
                segment.file_bytes = segment_bytes;
                return Some(if hurries { Step::SyncDirectory } else { Step::Zeros(0) });
            }
            Step::Zeros(offset) => {
                let offset = offset + ZEROS as u64;
                let segment = self.segments.any_mut(work.number).expect("what is prepared is there");
                segment.is_filled = offset >= segment_bytes;
                return Some(if hurries || segment.is_filled { Step::SyncFile } else { Step::Zeros(offset) });
            }
            Step::SyncFile => return Some(Step::SyncDirectory),
            Step::SyncDirectory => {
                let segment = self.segments.any_mut(work.number).expect("what is prepared is there");
                segment.is_ready = true;
            }
            Step::Remove => return Some(Step::SyncRemoval),
            Step::SyncRemoval => {
                let gone = self.forget(work.number);
                self.preparation.closing.extend(gone.file);
            }
        }
        None
    }

    /// The file of a segment has become that of another one.
    fn take_over(&mut self, from: u64, to: u64) {
        let gone = self.forget(from);
        self.metrics.segments_recycled += 1;
        let segment = self.segments.any_mut(to).expect("what is prepared is there");
        segment.file_bytes = gone.file_bytes;
        segment.is_filled = gone.is_filled;
        segment.file = gone.file;
    }

    /// A segment is no longer part of the log.
    fn forget(&mut self, number: u64) -> Segment {
        self.words.forget_segment(number);
        self.cleaning.look_again();
        self.segments.full.remove(&number).expect("what goes is full")
    }

    fn preparation_failed(&mut self, work: &Work, error: &io::Error) {
        self.preparation.retry_at_ns = self.now_ns + RETRY_NS;
        self.preparation.failures += 1;
        let segment = self.segments.any_mut(work.number).expect("what is prepared is there");
        let reason = failure(segment, "made ready", error);
        if self.preparation.failures == 1 {
            self.notice(reason.to_string());
        }
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let waits = work.number <= self.preparation.hurry;
        if waits && (!is_full || self.preparation.failures >= ATTEMPTS) {
            self.fail(reason);
        } else if matches!(work.step, Step::Open | Step::Allocate | Step::Zeros(_) | Step::SyncFile) {
            self.space.refuse(reason);
        }
    }

    /// Tells an operator.
    pub(crate) fn notice(&mut self, text: String) {
        self.told.push_back(Told::Notice(text));
    }
}
