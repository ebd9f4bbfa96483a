//! Leaves out of journals what is damaged, so that a broker starts again.
//!
//! 1. Before a file is changed or removed all of it is copied to a directory `repaired-NUMBER` beside the logs, and is on
//!    the disk there.
//! 2. A repair that was stopped leaves what another one can go on with.
//! 3. Records that are joined stay together: those of a group that is not whole are left out.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::encodings::Encodings;
use crate::header::{BLOCK_BYTES, Batch, SegmentHeader};
use crate::record::{Framed, Invalid, Kind, Payload};
use crate::recovery::files::{LogFiles, number_in};
use crate::recovery::identity::Identity;
use crate::recovery::log::LogContents;
use crate::recovery::read::{Wanted, read};
use crate::recovery::scan::Visitor;
use crate::recovery::write::{LogWriter, WriteOptions};
use crate::recovery::{Damage, Found, Options, RecoveryError, What, log_directory};
use crate::start::file_name;

/// What becomes of records behind damaged ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// They stay; only what is damaged is left out.
    Skip,
    /// They go: each log ends where it is damaged first.
    CutOff,
}

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was damaged.
    pub damage: Vec<Damage>,
    /// Where the files are as they were before; `None` if nothing was changed.
    pub kept: Option<PathBuf>,
    /// Segments behind damaged ones that went too.
    pub segments_cut: u64,
    /// Records that were behind damaged ones, in the same segment, and went too.
    pub records_cut: u64,
}

/// How often it is looked for damage: where a header was missing the records behind it are seen in a second round.
const MOST_ROUNDS: u32 = 4;

/// Repairs all journals of a directory.
///
/// # Errors
/// A file cannot be read or written, or there is damage that cannot be left out.
pub fn repair(disk: &dyn Disk, options: &Options<'_>, how: How) -> Result<Repaired, RecoveryError> {
    let mut repaired = Repaired::default();
    let mut kept = BTreeSet::new();
    for _ in 0..MOST_ROUNDS {
        let found = Found::read(disk, options)?;
        if found.logs.values().all(|log| log.damage.is_empty()) {
            return Ok(repaired);
        }
        let copies = match &repaired.kept {
            Some(directory) => directory.clone(),
            None => free_directory(disk, options.journal)?,
        };
        repaired.kept = Some(copies.clone());
        for (shard, log) in found.logs.iter().filter(|(_, log)| !log.damage.is_empty()) {
            let mut repair = LogRepair::new(disk, options, &found, *shard, &copies, &mut kept);
            match how {
                How::Skip => repair.skip(log)?,
                How::CutOff => repair.cut_off(log, &mut repaired)?,
            }
            repaired.damage.extend(log.damage.iter().cloned());
        }
    }
    Err(RecoveryError::Damaged(repaired.damage))
}

/// A directory for copies that is not there yet.
fn free_directory(disk: &dyn Disk, journal: &Path) -> Result<PathBuf, RecoveryError> {
    let names = disk.list(journal).map_err(|error| RecoveryError::reading(journal, error))?;
    let is_free = |name: &String| !names.iter().any(|there| there.to_str() == Some(name));
    let name = (1u32..).map(|number| format!("repaired-{number}")).find(is_free);
    Ok(journal.join(name.expect("there are more numbers than names")))
}

struct LogRepair<'a> {
    disk: &'a dyn Disk,
    options: &'a Options<'a>,
    identity: Identity,
    shard: u16,
    directory: PathBuf,
    /// Where copies go.
    copies: PathBuf,
    /// Files that have been copied there.
    kept: &'a mut BTreeSet<PathBuf>,
    files: &'a LogFiles,
    /// Headers as they are to be.
    headers: Vec<SegmentHeader>,
}

impl<'a> LogRepair<'a> {
    fn new(
        disk: &'a dyn Disk,
        options: &'a Options<'a>,
        found: &'a Found,
        shard: u16,
        copies: &Path,
        kept: &'a mut BTreeSet<PathBuf>,
    ) -> Self {
        let files = &found.files[&shard];
        LogRepair {
            disk,
            options,
            identity: found.identity,
            shard,
            directory: log_directory(options.journal, shard),
            copies: copies.join(shard.to_string()),
            kept,
            files,
            headers: files.segments.iter().map(|file| file.header.clone()).collect(),
        }
    }

    /// Leaves out what is damaged alone.
    fn skip(&mut self, log: &LogContents) -> Result<(), RecoveryError> {
        for damage in log.damage.iter().filter(|damage| matches!(damage.what, What::Header(_))) {
            self.make_header(log, &damage.path)?;
        }
        for index in 0..self.files.segments.len() {
            if log.damage.iter().any(|damage| damage.path == self.files.segments[index].path) {
                let (end, _) = self.rewrite(log, index, u64::MAX)?;
                self.end_before(index + 1, self.headers[index].segment, end)?;
            }
        }
        Ok(())
    }

    /// Ends the log where it is damaged first.
    fn cut_off(&mut self, log: &LogContents, repaired: &mut Repaired) -> Result<(), RecoveryError> {
        let first = log.damage.iter().filter_map(|damage| number_in(&damage.path)).min();
        let Some(first) = first else { return Ok(()) };
        let names = self.files.segments.iter().map(|file| &file.path);
        let mut later: Vec<&PathBuf> = names
            .chain(self.files.headless.iter().map(|file| &file.path))
            .filter(|path| number_in(path).is_some_and(|number| number > first))
            .collect();
        later.sort_unstable();
        // The last one first: what is left is damaged where it was until all are gone.
        for path in later.into_iter().rev() {
            self.remove(path)?;
            repaired.segments_cut += 1;
        }
        match self.files.segments.iter().position(|file| file.header.segment == first) {
            Some(index) => {
                let stops = log.damage.iter().filter(|damage| damage.path == self.files.segments[index].path);
                let stop = stops.filter_map(|damage| match damage.what {
                    What::Records(gap) => Some(gap.from),
                    What::Header(_) => None,
                });
                let (_, cut) = self.rewrite(log, index, stop.min().unwrap_or(0))?;
                repaired.records_cut += cut;
            }
            None => self.remove(&self.directory.join(file_name(first)))?,
        }
        Ok(())
    }

    /// Writes a segment anew with those of its records that can be read and stand before `stop`; gives where it ends, and
    /// how many records stood behind.
    fn rewrite(&mut self, log: &LogContents, index: usize, stop: u64) -> Result<(u64, u64), RecoveryError> {
        let file = &self.files.segments[index];
        self.keep(&file.path)?;
        let header = self.headers[index].clone();
        let encodings = &log.segments[index].encodings;
        let directory = self.directory.join("repair");
        let failed = |error| RecoveryError::writing(&directory, error);
        let options = self.write_options(&directory, &header, encodings);
        let writer = LogWriter::new(self.disk, options).map_err(failed)?;
        let mut rewriter = Rewriter { writer, encodings, stop, cut: 0, failed: None };
        let mut scan = self.files.scan(index);
        read(self.disk, &[self.files.wanted(index)], true, |_, offset, bytes| {
            scan.feed(offset, bytes, &mut rewriter);
        })?;
        let Rewriter { writer, cut, failed: error, .. } = rewriter;
        if let Some(error) = error {
            return Err(failed(error));
        }
        let end = writer.finish().map_err(failed)?.map_or(BLOCK_BYTES as u64, |(_, end)| end);
        let new = directory.join(file_name(header.segment));
        self.write_header(&new, &header)?;
        let put = self.disk.rename(&new, &file.path).and_then(|()| self.disk.sync_directory(&self.directory));
        put.map_err(failed)?;
        // A directory that stays does not matter.
        let _ = self.disk.remove_directory(&directory);
        Ok((end, cut))
    }

    fn write_options(&self, directory: &Path, header: &SegmentHeader, encodings: &Encodings) -> WriteOptions {
        WriteOptions {
            directory: directory.to_owned(),
            store: header.store,
            shard: header.shard,
            shards: header.shards,
            run: header.run,
            segment: header.segment,
            previous: None,
            batch: header.first_batch,
            segment_bytes: u64::MAX,
            batch_bytes: BATCH_BYTES,
            encodings: encodings.clone(),
        }
    }

    /// Tells the segment of that index where the log ended in the one before, if it says so of that one.
    fn end_before(&mut self, index: usize, previous: u64, end: u64) -> Result<(), RecoveryError> {
        let Some(header) = self.headers.get_mut(index).filter(|header| header.previous == previous) else {
            return Ok(());
        };
        header.previous_end = end;
        let (header, path) = (header.clone(), self.files.segments[index].path.clone());
        self.keep(&path)?;
        self.write_header(&path, &header)
    }

    /// A segment whose header cannot be read gets one that fits, if it has records; otherwise it is as if it had never been.
    fn make_header(&mut self, log: &LogContents, path: &Path) -> Result<(), RecoveryError> {
        let number = number_in(path).expect("a segment's file has its number");
        let next = self.headers.iter().position(|header| header.segment > number);
        let before = next.unwrap_or(self.headers.len()).checked_sub(1);
        let (previous, previous_end) =
            before.map_or((0, 0), |before| (log.segments[before].number, log.segments[before].end));
        self.keep(path)?;
        let Some(first_batch) = self.first_batch(path, number)? else {
            if let Some(next) = next {
                let header = &mut self.headers[next];
                (header.previous, header.previous_end) = (previous, previous_end);
                let (header, path) = (header.clone(), self.files.segments[next].path.clone());
                self.keep(&path)?;
                self.write_header(&path, &header)?;
            }
            return Ok(());
        };
        let like = before.or(next).map(|index| &self.headers[index]);
        let names = || self.options.encodings.names().map(|name| name.as_bytes().to_vec()).collect();
        let header = SegmentHeader {
            store: self.identity.store,
            segment: number,
            previous,
            previous_end,
            first_batch,
            run: like.map_or(self.identity.run, |like| like.run),
            shard: self.shard,
            shards: like.map_or(self.identity.shards, |like| like.shards),
            encodings: like.map_or_else(names, |like| like.encodings.clone()),
        };
        self.write_header(path, &header)
    }

    /// Number of the first batch that a file has of a segment.
    fn first_batch(&self, path: &Path, segment: u64) -> Result<Option<u64>, RecoveryError> {
        let mut first = None;
        let length = self.disk.open(path).and_then(|file| file.length());
        let to = length.map_err(|error| RecoveryError::reading(path, error))?;
        let wanted = Wanted { path: path.to_owned(), from: BLOCK_BYTES as u64, to };
        read(self.disk, &[wanted], true, |_, _, bytes| {
            let mut batches = bytes.chunks(BLOCK_BYTES).filter_map(|block| {
                let framed =
                    Framed::decode(block, segment).ok().filter(|framed| framed.kind == Kind::Batch)?;
                Some(Batch::decode(framed.payload)?.number)
            });
            first = first.or_else(|| batches.next());
        })?;
        Ok(first)
    }

    fn write_header(&self, path: &Path, header: &SegmentHeader) -> Result<(), RecoveryError> {
        let mut block = vec![0; BLOCK_BYTES];
        header.encode(&mut block);
        let written = self.disk.open_writable(path).and_then(|file| {
            file.write_at(0, &block)?;
            file.sync()
        });
        written.map_err(|error| RecoveryError::writing(path, error))
    }

    fn remove(&mut self, path: &Path) -> Result<(), RecoveryError> {
        self.keep(path)?;
        let removed = self.disk.remove(path).and_then(|()| self.disk.sync_directory(&self.directory));
        removed.map_err(|error| RecoveryError::writing(path, error))
    }

    /// Copies a file to where copies go, unless it is there.
    fn keep(&mut self, path: &Path) -> Result<(), RecoveryError> {
        if !self.kept.insert(path.to_owned()) {
            return Ok(());
        }
        let copy = self.copies.join(path.file_name().expect("a file has a name"));
        let failed = |error| RecoveryError::writing(&copy, error);
        self.disk.create_directory(&self.copies).map_err(failed)?;
        let file = self.disk.open_writable(&copy).map_err(failed)?;
        let length = self.disk.open(path).and_then(|file| file.length());
        let to = length.map_err(|error| RecoveryError::reading(path, error))?;
        let mut written = Ok(());
        read(self.disk, &[Wanted { path: path.to_owned(), from: 0, to }], true, |_, offset, bytes| {
            if written.is_ok() {
                written = file.write_at(offset, bytes);
            }
        })?;
        written
            .and_then(|()| file.sync())
            .and_then(|()| self.disk.sync_directory(&self.copies))
            .and_then(|()| self.disk.sync_directory(self.copies.parent().unwrap_or(&self.copies)))
            .and_then(|()| self.disk.sync_directory(self.options.journal))
            .map_err(failed)
    }
}

/// What a batch grows up to that is written, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Writes records as they were.
struct Rewriter<'a> {
    writer: LogWriter<'a>,
    encodings: &'a Encodings,
    stop: u64,
    cut: u64,
    failed: Option<io::Error>,
}

impl Visitor for Rewriter<'_> {
    fn record(&mut self, offset: u64, framed: &Framed<'_>) -> Result<(), Invalid> {
        framed.record(self.encodings)?;
        if offset >= self.stop {
            self.cut += 1;
        } else if self.failed.is_none() {
            let payload = Payload::Bytes(framed.kind, Cow::Borrowed(framed.payload));
            self.failed = self.writer.append_payload(&payload, framed.joined).err();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
