//! Files in memory for tests, with faults; and what a restart would find in them, read as simply as can be.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::{Encoding, Table, Value};
use fulmar_transport::AlignedBuf;
use fulmar_transport::file::{FileDone, FileId, FileOperation};

use crate::encodings::Encodings;
use crate::header::{BLOCK_BYTES, SegmentHeader};
use crate::log::Files;
use crate::record::{Decoded, Framed};
use crate::start::segment_in_name;

/// An encoding without meaning.
pub struct Plain;

impl Encoding for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }
    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }
    fn headers(&self, _: &[u8]) -> Table {
        Table::default()
    }
    fn scalar<'a>(&self, _: &'a [u8], _: &[u8]) -> Option<Scalar<'a>> {
        None
    }
    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }
    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

pub static PLAIN: Plain = Plain;

pub fn encodings() -> Encodings {
    Encodings::new(&[&PLAIN])
}

/// A file: what was written, and what of it is on the disk.
#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Written and not flushed: where, and what was there before.
    unflushed: Vec<(usize, Vec<u8>)>,
}

/// Decides on failure.
type Fault = Box<dyn FnMut(&FileOperation) -> Option<io::Error>>;

/// Files in memory.
#[derive(Default)]
pub struct FakeFiles {
    contents: Vec<Content>,
    /// Names, and names as they are on the disk.
    names: BTreeMap<PathBuf, usize>,
    names_on_disk: BTreeMap<PathBuf, usize>,
    open: HashMap<u32, usize>,
    next_file: u32,
    queue: VecDeque<(u64, FileOperation)>,
    /// What was done, in words.
    pub done: Vec<String>,
    /// Decides on failure.
    pub fault: Option<Fault>,
    /// Most bytes that a write writes.
    pub most_written: Option<usize>,
    pub refuses_direct: bool,
}

impl Files for FakeFiles {
    fn start(&mut self, token: u64, operation: FileOperation) {
        self.queue.push_back((token, operation));
    }
}

impl FakeFiles {
    /// What waits to be done, in words.
    pub fn waiting(&self) -> Vec<String> {
        self.queue.iter().map(|(_, operation)| words(operation)).collect()
    }

    /// Whether nothing waits.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Does what waits at an index.
    pub fn finish(&mut self, index: usize) -> FileDone {
        let (token, operation) = self.queue.remove(index).expect("something waits there");
        self.done.push(words(&operation));
        if let Some(error) = self.fault.as_mut().and_then(|fault| fault(&operation)) {
            let bytes = match operation {
                FileOperation::Write { bytes, .. } | FileOperation::Read { bytes, .. } => Some(bytes),
                _ => None,
            };
            return FileDone { token, result: Err(error), bytes };
        }
        let (result, bytes) = self.perform(operation);
        FileDone { token, result, bytes }
    }

    fn perform(&mut self, operation: FileOperation) -> (io::Result<usize>, Option<AlignedBuf>) {
        match operation {
            FileOperation::Open(path, options) => {
                if options.direct && self.refuses_direct {
                    return (Err(io::Error::from_raw_os_error(libc::EINVAL)), None);
                }
                let content = match self.names.get(&path) {
                    Some(content) => *content,
                    None => {
                        assert!(options.write, "{} is not there", path.display());
                        self.contents.push(Content::default());
                        self.names.insert(path, self.contents.len() - 1);
                        self.contents.len() - 1
                    }
                };
                self.next_file += 1;
                self.open.insert(self.next_file, content);
                (Ok(self.next_file as usize), None)
            }
            FileOperation::Write { file, offset, bytes, sync } => {
                assert_eq!((bytes.len() % BLOCK_BYTES, offset % BLOCK_BYTES as u64), (0, 0), "whole blocks");
                let written = bytes.len().min(self.most_written.unwrap_or(usize::MAX));
                let content = self.content(file);
                let (from, to) = (offset as usize, offset as usize + written);
                if content.bytes.len() < to {
                    content.bytes.resize(to, 0);
                }
                content.unflushed.push((from, content.bytes[from..to].to_vec()));
                content.bytes[from..to].copy_from_slice(&bytes[..written]);
                if sync {
                    content.unflushed.pop();
                }
                (Ok(written), Some(bytes))
            }
            FileOperation::Read { file, offset, mut bytes } => {
                assert_eq!(offset % BLOCK_BYTES as u64, 0, "whole blocks");
                bytes.resize(bytes.capacity());
                let content = &self.content(file).bytes;
                let here = content.get(offset as usize..).unwrap_or_default();
                let length = here.len().min(bytes.len());
                bytes[..length].copy_from_slice(&here[..length]);
                bytes.resize(length);
                (Ok(length), Some(bytes))
            }
            FileOperation::Sync(file) => {
                self.content(file).unflushed.clear();
                (Ok(0), None)
            }
            FileOperation::Allocate(file, length) => {
                let content = self.content(file);
                let length = content.bytes.len().max(length as usize);
                content.bytes.resize(length, 0);
                (Ok(0), None)
            }
            FileOperation::Close(file) => {
                self.open.remove(&file.0).expect("what is closed is open");
                (Ok(0), None)
            }
            FileOperation::Remove(path) => {
                self.names.remove(&path).expect("what is removed is there");
                (Ok(0), None)
            }
            FileOperation::Rename(from, to) => {
                let content = self.names.remove(&from).expect("what is renamed is there");
                self.names.insert(to, content);
                (Ok(0), None)
            }
            FileOperation::SyncDirectory(_) => {
                self.names_on_disk = self.names.clone();
                (Ok(0), None)
            }
        }
    }

    fn content(&mut self, file: FileId) -> &mut Content {
        &mut self.contents[self.open[&file.0]]
    }

    /// The power goes: of what was not flushed only what `keeps` says remains, of each block of 512 bytes.
    pub fn cut_power(&mut self, mut keeps: impl FnMut() -> bool) {
        self.queue.clear();
        self.open.clear();
        for content in &mut self.contents {
            for (at, before) in content.unflushed.drain(..).rev() {
                for (index, sector) in before.chunks(512).enumerate() {
                    if !keeps() {
                        content.bytes[at + 512 * index..][..sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
        if !keeps() {
            self.names = self.names_on_disk.clone();
        }
        self.names_on_disk = self.names.clone();
    }

    /// Does a part of each write that waits, as a process does that is killed.
    pub fn tear_writes(&mut self, mut keeps: impl FnMut() -> bool) {
        for (_, operation) in std::mem::take(&mut self.queue) {
            if let FileOperation::Write { file, offset, bytes, .. } = operation {
                let content = self.content(file);
                for (index, sector) in bytes.chunks(512).enumerate() {
                    if keeps() {
                        let at = offset as usize + 512 * index;
                        content.bytes.resize(content.bytes.len().max(at + sector.len()), 0);
                        content.bytes[at..][..sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }

    /// Names of files and their contents.
    pub fn list(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.names.iter().map(|(path, content)| (path.as_path(), &self.contents[*content].bytes[..]))
    }

    /// Changes a file behind everybody's back.
    pub fn change(&mut self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let content = self.names[path];
        change(&mut self.contents[content].bytes);
    }

    /// How many are open.
    pub fn open_files(&self) -> usize {
        self.open.len()
    }
}

fn words(operation: &FileOperation) -> String {
    let name = |path: &Path| {
        path.file_name().unwrap_or_default().to_string_lossy().trim_start_matches('0').to_string()
    };
    match operation {
        FileOperation::Open(path, _) => format!("open {}", name(path)),
        FileOperation::Write { offset, bytes, sync, .. } => {
            format!("write {}+{}{}", offset, bytes.len(), if *sync { " sync" } else { "" })
        }
        FileOperation::Read { offset, bytes, .. } => format!("read {offset}+{}", bytes.capacity()),
        FileOperation::Sync(_) => "sync".into(),
        FileOperation::Allocate(_, bytes) => format!("allocate {bytes}"),
        FileOperation::Close(_) => "close".into(),
        FileOperation::Remove(path) => format!("remove {}", name(path)),
        FileOperation::Rename(from, to) => format!("rename {} {}", name(from), name(to)),
        FileOperation::SyncDirectory(_) => "sync directory".into(),
    }
}

/// A segment as a restart finds it.
pub struct FoundSegment<'a> {
    pub header: SegmentHeader,
    pub records: Vec<(u64, Framed<'a>)>,
    /// Behind the last record.
    pub end: u64,
}

/// Segments in order, each as far as it is valid and the next one says that it goes.
pub fn found(files: &FakeFiles) -> Vec<FoundSegment<'_>> {
    let mut segments: Vec<FoundSegment<'_>> = Vec::new();
    for (path, bytes) in files.list() {
        let number = segment_in_name(&path.file_name().unwrap_or_default().to_string_lossy());
        let number = number.expect("the name of a segment");
        let Ok(header) = SegmentHeader::decode(bytes) else { continue };
        if header.segment != number {
            continue;
        }
        if let Some(before) = segments.last_mut().filter(|before| before.header.segment == header.previous) {
            assert!(before.end >= header.previous_end, "segment {} lacks records", header.previous);
            before.end = header.previous_end;
            before.records.retain(|(offset, _)| *offset < header.previous_end);
        }
        let (records, end) = records(bytes, number);
        segments.push(FoundSegment { header, records, end });
    }
    segments
}

fn records(bytes: &[u8], segment: u64) -> (Vec<(u64, Framed<'_>)>, u64) {
    let (mut records, mut offset, mut end) = (Vec::new(), BLOCK_BYTES, BLOCK_BYTES);
    while let Ok(batch) = Framed::decode(bytes.get(offset..).unwrap_or_default(), segment) {
        let Ok(Decoded::Batch(read)) = batch.record(&encodings()) else { break };
        let batch_end = offset + read.bytes as usize;
        offset += batch.total_bytes();
        while offset < batch_end {
            let Ok(framed) = Framed::decode(bytes.get(offset..).unwrap_or_default(), segment) else {
                return (records, end as u64);
            };
            records.push((offset as u64, framed));
            offset += framed.total_bytes();
            end = offset;
        }
        offset = offset.next_multiple_of(BLOCK_BYTES);
    }
    (records, end as u64)
}
