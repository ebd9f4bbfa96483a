//! The page file of a shard: messages that are out of memory and need not outlive the process.
//!
//! 1. Written a page at a time, without flushes; nothing of it is looked at by a restart, which removes it. Checksums
//!    tell a wrong read.
//! 2. In files of the length of a segment, which are used again or go when nobody needs a message in them any more.
//! 3. What is not written yet is in memory and is read there. If it cannot be written it stays there, and no more is
//!    taken until it can.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use fulmar_core::journal::{Joined, Position, StoredMessage};
use fulmar_transport::AlignedBuf;
use fulmar_transport::file::{FileDone, FileId, FileOperation, OpenOptions};

use crate::encodings::Encodings;
use crate::header::BLOCK_BYTES;
use crate::log::{Files, Purpose};
use crate::position::{in_page_file, offset_of, segment_of};
use crate::record::{Kind, Payload};

/// Most bytes of a page, unless a message is longer.
const PAGE_BYTES: u64 = 1 << 20;

/// Bytes in pages that are not written yet from which on no more is taken.
const MOST_UNWRITTEN_BYTES: usize = 16 << 20;

/// Buffers kept for pages to come.
const SPARE_BUFFERS: usize = 4;

/// Files that hold nothing and are kept.
const SPARE_FILES: usize = 2;

/// Time until something is tried again.
const RETRY_NS: u64 = 1_000_000_000;

/// How the names of its files end.
const SUFFIX: &str = ".page";

/// A part of the page file, with a file of its own.
struct Part {
    file: Option<PageFile>,
    step: Step,
    /// Behind the last message, in bytes, and behind what is in the file.
    end: u64,
    written: u64,
    /// Messages that somebody needs.
    live: u64,
    /// Those who read it.
    readers: u32,
}

#[derive(Clone, Debug)]
struct PageFile {
    id: FileId,
    path: PathBuf,
    bytes: u64,
}

/// What has become of a part's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Opening,
    Opened,
    Allocating,
    Ready,
}

/// Messages on their way to a file.
struct Page {
    part: u64,
    offset: u64,
    bytes: AlignedBuf,
}

impl Page {
    fn has(&self, part: u64, offset: u64) -> bool {
        self.part == part && (self.offset..self.offset + self.bytes.len() as u64).contains(&offset)
    }
}

/// Where a message of the page file is.
pub(crate) enum Whereabouts<'a> {
    /// In memory: from the message on.
    Memory(&'a [u8]),
    /// On its way; wait.
    UnderWay,
    /// In a file that has so many bytes.
    File(FileId, u64),
    /// Nowhere.
    Gone,
}

/// What an operation does; tokens have it in their lowest bits, the part's number above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Action {
    Open,
    Allocate,
    Write,
    Tidy,
}

const ACTION_BITS: u32 = 2;

fn token(part: u64, action: Action) -> u64 {
    Purpose::Page.token(part << ACTION_BITS | action as u64)
}

/// The page file of one shard. See the module's promises.
pub(crate) struct Scratch {
    directory: PathBuf,
    part_bytes: u64,
    page_bytes: usize,
    parts: BTreeMap<u64, Part>,
    /// The part that pages are added to.
    active: u64,
    open: Option<Page>,
    full: VecDeque<Page>,
    /// What is being written: the part, from where on, how many bytes.
    writing: Option<(u64, u64, usize)>,
    unwritten_bytes: usize,
    spare_files: Vec<PageFile>,
    spare_buffers: Vec<AlignedBuf>,
    /// Files that go.
    going: Vec<PageFile>,
    files_made: u64,
    direct: bool,
    /// What failed is not tried before then.
    retry_at_ns: Option<u64>,
    notice: Option<String>,
}

impl Scratch {
    pub fn new(directory: &Path, part_bytes: u64, direct: bool) -> Self {
        Scratch {
            directory: directory.to_path_buf(),
            part_bytes,
            page_bytes: (part_bytes / 8).min(PAGE_BYTES) as usize,
            parts: BTreeMap::new(),
            active: 0,
            open: None,
            full: VecDeque::new(),
            writing: None,
            unwritten_bytes: 0,
            spare_files: Vec::new(),
            spare_buffers: Vec::new(),
            going: Vec::new(),
            files_made: 0,
            direct,
            retry_at_ns: None,
            notice: None,
        }
    }

    /// Whether a message may be added.
    pub fn has_room(&self) -> bool {
        self.retry_at_ns.is_none() && self.unwritten_bytes < MOST_UNWRITTEN_BYTES
    }

    /// Adds a message.
    pub fn add(&mut self, message: &StoredMessage<'_>, encodings: &Encodings) -> Position {
        let payload = Payload::Message(Kind::Paged, message, &[]);
        let bytes = payload.record_bytes();
        if self.open.as_ref().is_none_or(|page| page.bytes.len() + bytes > page.bytes.capacity()) {
            self.begin_page(bytes);
        }
        let page = self.open.as_mut().expect("one was begun");
        let from = page.bytes.len();
        page.bytes.resize(from + bytes);
        payload.encode(&mut page.bytes[from..], Joined::No, page.part, encodings);
        self.unwritten_bytes += bytes;
        let offset = page.offset + from as u64;
        let part = self.parts.get_mut(&page.part).expect("a page has its part");
        part.end = offset + bytes as u64;
        part.live += 1;
        in_page_file(page.part, offset)
    }

    /// Nobody needs a message any more.
    pub fn retire(&mut self, at: Position) {
        let number = segment_of(at);
        let Some(part) = self.parts.get_mut(&number) else {
            return debug_assert!(false, "{at:?} was retired before");
        };
        part.live -= 1;
        if part.live == 0 {
            self.free(number);
        }
    }

    /// Where a message is.
    pub fn find(&self, at: Position) -> Whereabouts<'_> {
        let (number, offset) = (segment_of(at), offset_of(at));
        let Some(part) = self.parts.get(&number) else { return Whereabouts::Gone };
        if let Some(page) = self.open.iter().chain(&self.full).find(|page| page.has(number, offset)) {
            return Whereabouts::Memory(&page.bytes[(offset - page.offset) as usize..]);
        }
        let is_written = |(part, from, bytes): &(u64, u64, usize)| {
            *part == number && (*from..*from + *bytes as u64).contains(&offset)
        };
        if self.writing.as_ref().is_some_and(is_written) {
            return Whereabouts::UnderWay;
        }
        match &part.file {
            Some(file) if offset < part.written => Whereabouts::File(file.id, part.written),
            _ => Whereabouts::Gone,
        }
    }

    /// Somebody reads the part that a message is in: it stays.
    pub fn hold(&mut self, at: Position) {
        if let Some(part) = self.parts.get_mut(&segment_of(at)) {
            part.readers += 1;
        }
    }

    /// Somebody has read.
    pub fn let_go(&mut self, at: Position) {
        let number = segment_of(at);
        if let Some(part) = self.parts.get_mut(&number) {
            part.readers -= 1;
            self.free(number);
        }
    }

    /// The name of the file that a message is in.
    pub fn path_of(&self, at: Position) -> String {
        let file = self.parts.get(&segment_of(at)).and_then(|part| part.file.as_ref());
        file.map_or_else(|| "the page file".to_owned(), |file| file.path.display().to_string())
    }

    /// Bytes that its files take.
    pub fn file_bytes(&self) -> u64 {
        let used = self.parts.values().filter_map(|part| part.file.as_ref());
        used.chain(&self.spare_files).map(|file| file.bytes).sum()
    }

    /// Something that an operator should know.
    pub fn take_notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// Hands in what is to be done with files. `room_for` says whether, beside so many bytes, a file of so many more may be
    /// made.
    pub fn submit(
        &mut self,
        files: &mut (impl Files + ?Sized),
        now_ns: u64,
        room_for: impl FnOnce(u64, u64) -> Result<(), String>,
    ) {
        for file in std::mem::take(&mut self.going) {
            files.start(token(0, Action::Tidy), FileOperation::Close(file.id));
            files.start(token(0, Action::Tidy), FileOperation::Remove(file.path));
        }
        if self.retry_at_ns.is_some_and(|retry_at_ns| now_ns < retry_at_ns) || self.writing.is_some() {
            return;
        }
        let Some(page) = self.full.front() else {
            self.retry_at_ns = None;
            return;
        };
        let number = page.part;
        let file_bytes = self.file_bytes();
        let length = self.part_bytes.max((page.offset + page.bytes.len() as u64).next_multiple_of(BLOCK));
        let part = self.parts.get_mut(&number).expect("a page has its part");
        match (part.step, &part.file) {
            (Step::Ready, Some(file)) => {
                let file = file.id;
                self.retry_at_ns = None;
                self.write_first(file, files);
            }
            (Step::Nothing, None) => {
                if let Some(file) = self.spare_files.pop_if(|file| file.bytes >= length) {
                    part.file = Some(file);
                    part.step = Step::Ready;
                    return self.submit(files, now_ns, room_for);
                }
                if let Err(why) = room_for(file_bytes, length) {
                    return self.fail(now_ns, why);
                }
                part.step = Step::Opening;
                self.files_made += 1;
                let path = self.directory.join(format!("{:016x}{SUFFIX}", self.files_made));
                part.file = Some(PageFile { id: FileId(0), path: path.clone(), bytes: length });
                let options = OpenOptions { write: true, direct: self.direct };
                files.start(token(number, Action::Open), FileOperation::Open(path, options));
            }
            (Step::Opened, Some(file)) => {
                part.step = Step::Allocating;
                files.start(token(number, Action::Allocate), FileOperation::Allocate(file.id, file.bytes));
            }
            _ => {}
        }
    }

    /// An operation has ended.
    pub fn completed(&mut self, number: u64, done: FileDone, now_ns: u64) {
        let (number, action) = (number >> ACTION_BITS, number & ((1 << ACTION_BITS) - 1));
        match action {
            0 => self.opened(number, done, now_ns),
            1 => self.allocated(number, done, now_ns),
            2 => self.written(done, now_ns),
            // It holds nothing.
            _ => {}
        }
    }

    fn begin_page(&mut self, bytes: usize) {
        self.full.extend(self.open.take());
        let capacity = bytes.next_multiple_of(BLOCK_BYTES).max(self.page_bytes);
        let offset = self.parts.get(&self.active).map_or(0, |part| part.end.next_multiple_of(BLOCK));
        let offset = if offset > 0 && offset + capacity as u64 <= self.part_bytes {
            offset
        } else {
            let before = self.active;
            self.active += 1;
            let part = Part { file: None, step: Step::Nothing, end: 0, written: 0, live: 0, readers: 0 };
            self.parts.insert(self.active, part);
            self.free(before);
            0
        };
        let spare = self.spare_buffers.pop_if(|buffer| buffer.capacity() >= capacity);
        let mut bytes = spare.unwrap_or_else(|| AlignedBuf::with_capacity(capacity));
        bytes.clear();
        self.open = Some(Page { part: self.active, offset, bytes });
    }

    fn write_first(&mut self, file: FileId, files: &mut (impl Files + ?Sized)) {
        let Some(Page { part, offset, mut bytes }) = self.full.pop_front() else { return };
        let length = bytes.len();
        let whole = length.next_multiple_of(BLOCK_BYTES);
        bytes.resize(whole);
        bytes[length..].fill(0);
        self.writing = Some((part, offset, length));
        let operation = FileOperation::Write { file, offset, bytes, sync: false };
        files.start(token(part, Action::Write), operation);
    }

    fn written(&mut self, done: FileDone, now_ns: u64) {
        let Some((number, offset, length)) = self.writing.take() else { return };
        let mut bytes = done.bytes.expect("a write ends with its buffer");
        let result = match done.result {
            Ok(written) if written < bytes.len() => Err(io::ErrorKind::WriteZero.into()),
            result => result,
        };
        match result {
            Ok(_) => {
                self.unwritten_bytes -= length;
                if let Some(part) = self.parts.get_mut(&number) {
                    part.written = offset + length as u64;
                }
                if self.spare_buffers.len() < SPARE_BUFFERS {
                    bytes.clear();
                    self.spare_buffers.push(bytes);
                }
            }
            Err(error) => {
                bytes.resize(length);
                self.full.push_front(Page { part: number, offset, bytes });
                let path = self.path_of(in_page_file(number, offset));
                self.fail(now_ns, format!("{path} cannot be written: {error}"));
            }
        }
        self.free(number);
    }

    fn opened(&mut self, number: u64, done: FileDone, now_ns: u64) {
        let Some(part) = self.parts.get_mut(&number) else { return };
        match (done.result, &mut part.file) {
            (Ok(id), Some(file)) => {
                file.id = FileId(id as u32);
                part.step = Step::Opened;
            }
            (Err(error), file) => {
                part.step = Step::Nothing;
                let path = file.take().map(|file| file.path).unwrap_or_default();
                if self.direct && error.kind() == io::ErrorKind::InvalidInput {
                    self.direct = false;
                } else {
                    self.fail(now_ns, format!("{} cannot be made: {error}", path.display()));
                }
            }
            (Ok(_), None) => {}
        }
        self.free(number);
    }

    fn allocated(&mut self, number: u64, done: FileDone, now_ns: u64) {
        let Some(part) = self.parts.get_mut(&number) else { return };
        match done.result {
            Ok(_) => part.step = Step::Ready,
            Err(error) => {
                part.step = Step::Nothing;
                let Some(file) = part.file.take() else { return };
                let text = format!("there is no space for {}: {error}", file.path.display());
                self.going.push(file);
                self.fail(now_ns, text);
            }
        }
        self.free(number);
    }

    /// Something did not work.
    fn fail(&mut self, now_ns: u64, why: String) {
        self.retry_at_ns = Some(now_ns.saturating_add(RETRY_NS));
        self.notice = Some(format!("{why}; messages of long queues stay in memory"));
    }

    /// Gives the file of a part back in which nobody needs anything, unless something is still done with it.
    fn free(&mut self, number: u64) {
        let is_written = self.writing.is_some_and(|(part, ..)| part == number);
        let is_free = |part: &Part| {
            part.live == 0
                && part.readers == 0
                && number != self.active
                && !is_written
                && !matches!(part.step, Step::Opening | Step::Allocating)
        };
        if !self.parts.get(&number).is_some_and(is_free) {
            return;
        }
        let part = self.parts.remove(&number).expect("it is there");
        let unwritten = &mut self.unwritten_bytes;
        self.full.retain(|page| {
            let stays = page.part != number;
            *unwritten -= if stays { 0 } else { page.bytes.len() };
            stays
        });
        if let Some(file) = part.file {
            if self.spare_files.len() < SPARE_FILES && file.bytes == self.part_bytes {
                self.spare_files.push(file);
            } else {
                self.going.push(file);
            }
        }
    }
}

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Whether this is the name of one of its files.
pub(crate) fn is_page_file(name: &str) -> bool {
    name.ends_with(SUFFIX)
}
