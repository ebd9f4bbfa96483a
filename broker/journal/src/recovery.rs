//! What a restart makes of the journals' files: before shards run, by blocking calls, all logs at once.
//!
//! 1. All records are read in order and their CRC-32C checked. What a stop has left half written at the end of a log does
//!    not count; what is damaged elsewhere is named, and nothing is recovered.
//! 2. What comes out holds a few bytes for each message that stands in a queue; no message itself.
//! 3. Nothing is written but the number of the run, unless there are fewer shards than before: see [`moving`]. What was
//!    read at the end of a log is flushed, since what follows builds on it.
//! 4. Stopped at any moment and begun again it comes to the same.

mod error;
pub mod files;
pub mod identity;
pub mod log;
mod moving;
mod places;
mod progress;
pub mod read;
mod restore;
pub mod scan;
mod set;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod topology;
pub mod write;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fulmar_core::journal::{StoreKey, TransactionKey};
use fulmar_core::topology::StoredChange;
use fulmar_transport::AlignedBuf;
use hashbrown::HashMap;

pub use error::{Damage, RecoveryError, What};
use files::LogFiles;
use identity::Identity;
use log::{LogContents, LogSource, QueueContents, StoredSteps, Torn};
pub use places::{Entry, Live, Places};
pub use progress::{Progress, Shown};
use read::PIECE_BYTES;
pub use set::PlaceSet;

use crate::disk::Disk;
use crate::encodings::Encodings;
use crate::header::StoreId;
use crate::position;
use crate::start::LogStart;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// How to recover.
pub struct Options<'a> {
    /// The directory of the journals.
    pub journal: &'a Path,
    /// Shards of this run.
    pub shards: u16,
    /// What is known.
    pub encodings: &'a Encodings,
    /// Identity of the store if there is none yet: random.
    pub new_store: StoreId,
    /// Logs that are read at once; 1: no thread is started.
    pub threads: usize,
    /// What segments grow up to, in bytes, if messages move to another log.
    pub segment_bytes: u64,
    /// Shown how far it has come, now and then, by any thread.
    pub progress: &'a (dyn Fn(&Shown) + Sync),
}

/// What was recovered.
#[derive(Debug)]
pub struct Recovered {
    /// Identity of the store.
    pub store: StoreId,
    /// Which run this is; 1 is the first.
    pub run: u32,
    /// The changes that make the topology, for all shards.
    pub topology: Vec<StoredChange>,
    /// For each shard of this run what is its own.
    pub logs: Vec<RecoveredLog>,
    /// Where half-written batches were left out.
    pub torn: Vec<Torn>,
    /// What it came to.
    pub totals: Totals,
}

/// What was recovered of one shard.
#[derive(Debug)]
pub struct RecoveredLog {
    /// With what its log begins.
    pub start: LogStart,
    /// Queues at home there.
    pub queues: Vec<QueueContents>,
    /// Transactions that have not ended.
    pub transactions: BTreeMap<TransactionKey, StoredSteps>,
}

/// What a recovery came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that stand in queues; one in several queues counts in each.
    pub messages: u64,
    /// Bytes that they count for.
    pub message_bytes: u64,
    /// Queues that have any.
    pub queues: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Reads everything and readies the directory for a run.
///
/// # Errors
/// Something is damaged, of another store, or cannot be read; nothing has been changed then.
pub fn recover(disk: &dyn Disk, options: &Options<'_>) -> Result<Recovered, RecoveryError> {
    disk.create_directory(options.journal).map_err(|error| RecoveryError::writing(options.journal, error))?;
    loop {
        let found = Found::read(disk, options)?;
        let damage: Vec<Damage> = found.logs.values().flat_map(|log| log.damage.clone()).collect();
        if !damage.is_empty() {
            return Err(RecoveryError::Damaged(damage));
        }
        found.write_ends_again(disk)?;
        let topology = found.homes(options)?;
        if !moving::move_logs(disk, options, &found, &topology)? {
            return found.finish(disk, options, topology);
        }
    }
}

/// What all logs say.
pub(crate) struct Found {
    /// What the directory says that it is.
    pub identity: Identity,
    /// The files of each log, by its shard.
    pub files: BTreeMap<u16, LogFiles>,
    /// What they say.
    pub logs: BTreeMap<u16, LogContents>,
}

impl Found {
    /// Reads all logs; what is damaged is noted.
    pub fn read(disk: &dyn Disk, options: &Options<'_>) -> Result<Found, RecoveryError> {
        let files = find_logs(disk, options.journal)?;
        let identity = match Identity::read(disk, options.journal)? {
            Some(identity) => identity,
            None => derive_identity(options, &files),
        };
        let bytes = files.values().map(LogFiles::wanted_bytes).sum();
        let progress = Progress::new(bytes, options.progress);
        let logs = read_logs(disk, options, identity.store, &files, &progress)?;
        Ok(Found { identity, files, logs })
    }

    /// What a broker has written last may not be on the disk yet; what comes next builds on it, and says in new segments
    /// that it is there. All but the last write was flushed before.
    fn write_ends_again(&self, disk: &dyn Disk) -> Result<(), RecoveryError> {
        for (shard, files) in &self.files {
            let (Some(last), Some(log)) = (files.segments.last(), self.logs.get(shard)) else { continue };
            let end = log.segments.last().map_or(0, |segment| segment.end);
            write_again(disk, &last.path, log.last_batch_at, end)
                .map_err(|error| RecoveryError::writing(&last.path, error))?;
        }
        Ok(())
    }

    /// The topology, and where queues are at home.
    pub fn homes(&self, options: &Options<'_>) -> Result<topology::Homes, RecoveryError> {
        topology::Homes::read(options.journal, options.shards, self)
    }

    /// What is left to do when every queue is where it belongs.
    fn finish(
        mut self,
        disk: &dyn Disk,
        options: &Options<'_>,
        topology: topology::Homes,
    ) -> Result<Recovered, RecoveryError> {
        let last_run = self.logs.values().map(|log| log.last_run).max().unwrap_or(0);
        let run = self.identity.run.max(last_run) + 1;
        let store = self.identity.store;
        let mut totals = Totals::default();
        let mut torn = Vec::new();
        let mut logs = Vec::new();
        for shard in 0..options.shards {
            let mut contents = self.logs.remove(&shard).unwrap_or_default();
            torn.append(&mut contents.torn);
            contents.keep_queues(|key| topology.home(key) == Some(shard));
            totals.bytes += contents.bytes;
            totals.segments += contents.segments.len() as u64;
            contents.count_live(&mut totals);
            let directory = log_directory(options.journal, shard);
            let made = disk.create_directory(&directory);
            made.map_err(|error| RecoveryError::writing(&directory, error))?;
            let start = LogStart {
                run,
                next_segment: contents.last_number + 1,
                previous: contents.segments.last().map(|segment| (segment.number, segment.end)),
                next_batch: contents.last_batch + 1,
                segments: contents.segments,
                unused: contents.unused,
                words: contents.words,
                ..LogStart::empty(directory, store, shard, options.shards)
            };
            logs.push(RecoveredLog { start, queues: contents.queues, transactions: contents.transactions });
        }
        for page in self.files.values().flat_map(|files| &files.pages) {
            disk.remove(page).map_err(|error| RecoveryError::writing(page, error))?;
        }
        Identity { store, run, shards: options.shards, moving: None }.write(disk, options.journal)?;
        Ok(Recovered { store, run, topology: topology.changes, logs, torn, totals })
    }
}

/// Writes what a file holds once more, from the beginning of a block on, and flushes it. A flush alone would not do: where
/// one has failed, the system takes what it could not write for written, and the next one for done.
fn write_again(disk: &dyn Disk, path: &Path, from: u64, end: u64) -> io::Result<()> {
    let file = disk.open_writable(path)?;
    let mut piece = AlignedBuf::with_capacity(PIECE_BYTES);
    for at in (from..end).step_by(PIECE_BYTES) {
        file.read_at(at, &mut piece)?;
        let bytes = piece.len().min((end - at) as usize);
        file.write_at(at, &piece[..bytes])?;
    }
    file.sync()
}

/// Where a shard's log is.
pub fn log_directory(journal: &Path, shard: u16) -> PathBuf {
    journal.join(shard.to_string())
}

/// The logs that there are.
///
/// # Errors
/// A file cannot be read, or is of a version that is not known.
pub fn find_logs(disk: &dyn Disk, journal: &Path) -> Result<BTreeMap<u16, LogFiles>, RecoveryError> {
    let names = disk.list(journal).map_err(|error| RecoveryError::reading(journal, error))?;
    let number = |text: &str| text.parse::<u16>().ok().filter(|shard| shard.to_string() == text);
    let shards = names.iter().filter_map(|name| number(name.to_str()?));
    shards.map(|shard| Ok((shard, LogFiles::find(disk, &log_directory(journal, shard))?))).collect()
}

/// What a directory is that does not say so: what its segments say, or a new one.
fn derive_identity(options: &Options<'_>, files: &BTreeMap<u16, LogFiles>) -> Identity {
    let header = files.values().flat_map(|log| &log.segments).map(|file| &file.header).next();
    Identity {
        store: header.map_or(options.new_store, |header| header.store),
        run: 0,
        shards: header.map_or(options.shards, |header| header.shards),
        moving: None,
    }
}

/// Reads logs, several at once.
fn read_logs(
    disk: &dyn Disk,
    options: &Options<'_>,
    store: StoreId,
    files: &BTreeMap<u16, LogFiles>,
    progress: &Progress<'_>,
) -> Result<BTreeMap<u16, LogContents>, RecoveryError> {
    let work: Vec<(u16, &LogFiles)> = files.iter().map(|(shard, files)| (*shard, files)).collect();
    let ahead = options.threads > 1;
    let read = |(shard, files): (u16, &LogFiles)| {
        let directory = log_directory(options.journal, shard);
        let (store, encodings) = (Some(store), options.encodings);
        let source = LogSource { directory: &directory, shard, store, encodings };
        Ok((shard, LogContents::read(disk, &source, files, ahead, progress)?))
    };
    if !ahead {
        return work.into_iter().map(read).collect();
    }
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..options.threads.min(work.len()) {
            scope.spawn(|| {
                while let Some(log) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = read(*log);
                    results.lock().expect("nobody panics with it").push(result);
                }
            });
        }
    });
    results.into_inner().expect("nobody panics with it").into_iter().collect()
}

impl LogContents {
    /// Forgets queues that are not to be kept.
    fn keep_queues(&mut self, is_kept: impl Fn(StoreKey) -> bool) {
        for queue in &self.queues {
            if !is_kept(queue.key) {
                self.words.forget_queue(queue.key);
            }
        }
        self.queues.retain(|queue| is_kept(queue.key));
        self.forget_indices();
    }

    /// Tells the segments what is live in them.
    fn count_live(&mut self, totals: &mut Totals) {
        let mut live: Map<u64, (u64, u64)> = Map::default();
        // Records that several queues have are counted once.
        let mut seen = PlaceSet::default();
        for queue in &self.queues {
            let mut last = None;
            let before = totals.messages;
            for entry in queue.places.live() {
                totals.messages += 1;
                totals.message_bytes += u64::from(entry.counted_bytes);
                let is_first =
                    last != Some(entry.position) && (!entry.is_shared || seen.insert_one(entry.position.0));
                last = Some(entry.position);
                let (records, bytes) = live.entry(position::segment_of(entry.position)).or_default();
                *records += u64::from(is_first);
                *bytes += u64::from(entry.counted_bytes);
            }
            totals.queues += u64::from(totals.messages > before);
        }
        for segment in &mut self.segments {
            let (records, bytes) = live.get(&segment.number).copied().unwrap_or_default();
            segment.summary.set_live(records, bytes);
        }
    }
}
