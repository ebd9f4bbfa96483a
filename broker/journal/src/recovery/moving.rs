//! Fewer shards than before: what the logs of those that are gone hold is written anew into others' logs.
//!
//! Which shard takes over is told by [`new_home`] alone. The directory says that it is moving before anything is written
//! and until nothing is left to move, and whoever finds it so begins again: what a log has got already is not written to
//! it a second time. The files of a log go from its first on, so that a message never outlives the word that it is gone.
//! More shards than before need nothing: queues stay where they are.

use std::collections::BTreeMap;
use std::io;

use fulmar_core::ShardId;
use fulmar_core::journal::{
    Joined, PreparedBranch, PreparedPublish, QueuePlace, Record, Step, StoreKey, StoredMessage,
};

use super::files::LogFiles;
use super::identity::Identity;
use super::log::LogContents;
use super::read::{Wanted, read};
use super::scan::Visitor;
use super::topology::{Homes, new_home};
use super::write::{LogWriter, WriteOptions};
use super::{Found, Map, Options, PlaceSet, RecoveryError, log_directory};
use crate::disk::Disk;
use crate::encodings::Encodings;
use crate::message::Enqueued;
use crate::record::{Decoded, Framed, Invalid};
use crate::transaction::DecodedStep;

/// What a batch grows up to that is written, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Brings everything into the logs of the shards that there are; whether there was anything to do.
///
/// # Errors
/// A file cannot be read or written.
pub(super) fn move_logs(
    disk: &dyn Disk,
    options: &Options<'_>,
    found: &Found,
    topology: &Homes,
) -> Result<bool, RecoveryError> {
    let identity = found.identity;
    let (before, shards) = match identity.moving {
        Some(before) => (before, identity.shards),
        None => (identity.shards, options.shards),
    };
    let is_gone = |shard: u16, files: &LogFiles| shard >= shards && files.last_number() > 0;
    let sources: Vec<u16> = found
        .files
        .iter()
        .filter(|(shard, files)| is_gone(**shard, files))
        .map(|(shard, _)| *shard)
        .collect();
    if sources.is_empty() && topology.fit(shards) && identity.moving.is_none() {
        return Ok(false);
    }
    let moving = Identity { shards, moving: Some(before), ..identity };
    moving.write(disk, options.journal)?;
    let mut writers = Writers { disk, options, found, shards, writers: BTreeMap::new() };
    if !topology.fit(shards) {
        let changes = topology.brought_to(shards);
        writers.append(u16::from(ShardId::CONTROL.0), &Record::Topology(&changes), Joined::No)?;
    }
    for source in &sources {
        Mover::new(found, topology, *source, &mut writers).run(disk)?;
    }
    writers.finish()?;
    for source in sources {
        remove_log(disk, options, source, &found.files[&source])?;
    }
    Identity { moving: None, ..moving }.write(disk, options.journal)?;
    Ok(true)
}

/// Removes the files of a log, the oldest first.
fn remove_log(
    disk: &dyn Disk,
    options: &Options<'_>,
    shard: u16,
    files: &LogFiles,
) -> Result<(), RecoveryError> {
    let directory = log_directory(options.journal, shard);
    let failed = |error| RecoveryError::writing(&directory, error);
    for file in &files.segments {
        disk.remove(&file.path).map_err(failed)?;
        disk.sync_directory(&directory).map_err(failed)?;
    }
    let others =
        files.unused.iter().map(|(path, _)| path).chain(files.headless.iter().map(|file| &file.path));
    let others = others.chain(&files.pages);
    for path in others {
        disk.remove(path).map_err(failed)?;
    }
    disk.sync_directory(&directory).map_err(failed)?;
    // It may hold what somebody else has put there.
    let _ = disk.remove_directory(&directory);
    Ok(())
}

/// The logs that something is written to.
struct Writers<'a> {
    disk: &'a dyn Disk,
    options: &'a Options<'a>,
    found: &'a Found,
    shards: u16,
    writers: BTreeMap<u16, LogWriter<'a>>,
}

impl<'a> Writers<'a> {
    fn append(&mut self, shard: u16, record: &Record<'_>, joined: Joined) -> Result<(), RecoveryError> {
        let written = self.writer(shard).and_then(|writer| writer.append(record, joined));
        written
            .map(drop)
            .map_err(|error| RecoveryError::writing(&log_directory(self.options.journal, shard), error))
    }

    fn writer(&mut self, shard: u16) -> io::Result<&mut LogWriter<'a>> {
        if !self.writers.contains_key(&shard) {
            let writer = LogWriter::new(self.disk, self.write_options(shard))?;
            self.writers.insert(shard, writer);
        }
        Ok(self.writers.get_mut(&shard).expect("it was just made sure of"))
    }

    /// A log goes on where it ended.
    fn write_options(&self, shard: u16) -> WriteOptions {
        let log = self.found.logs.get(&shard);
        let last = log.and_then(|log| log.segments.last());
        let last_run = self.found.logs.values().map(|log| log.last_run).max().unwrap_or(0);
        WriteOptions {
            directory: log_directory(self.options.journal, shard),
            store: self.found.identity.store,
            shard,
            shards: self.shards,
            run: self.found.identity.run.max(last_run) + 1,
            segment: log.map_or(0, |log| log.last_number) + 1,
            previous: last.map(|segment| (segment.number, segment.end)),
            batch: log.map_or(0, |log| log.last_batch) + 1,
            segment_bytes: self.options.segment_bytes,
            batch_bytes: BATCH_BYTES,
            encodings: self.options.encodings.clone(),
        }
    }

    fn finish(self) -> Result<(), RecoveryError> {
        for (shard, writer) in self.writers {
            let directory = log_directory(self.options.journal, shard);
            writer.finish().map_err(|error| RecoveryError::writing(&directory, error))?;
        }
        Ok(())
    }
}

/// Moves what one log holds.
struct Mover<'m, 'w> {
    found: &'m Found,
    topology: &'m Homes,
    files: &'m LogFiles,
    source: &'m LogContents,
    shard: u16,
    writers: &'m mut Writers<'w>,
    /// Places that the log that a queue moves to has, or had.
    known: Map<StoreKey, PlaceSet>,
    /// What the codes of the segment that is read stand for.
    encodings: Encodings,
    failed: Option<RecoveryError>,
}

impl<'m, 'w> Mover<'m, 'w> {
    fn new(found: &'m Found, topology: &'m Homes, shard: u16, writers: &'m mut Writers<'w>) -> Self {
        let (files, source) = (&found.files[&shard], &found.logs[&shard]);
        let (known, encodings) = (Map::default(), writers.options.encodings.clone());
        Mover { found, topology, files, source, shard, writers, known, encodings, failed: None }
    }

    /// Reads the log again and writes what still counts.
    fn run(mut self, disk: &dyn Disk) -> Result<(), RecoveryError> {
        for (index, segment) in self.source.segments.iter().enumerate() {
            let wanted: Wanted = self.files.wanted(index);
            let mut scan = self.files.scan(index);
            self.encodings = segment.encodings.clone();
            read(disk, std::slice::from_ref(&wanted), true, |_, offset, bytes| {
                if self.failed.is_none() {
                    scan.feed(offset, bytes, &mut self);
                }
            })?;
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
        self.move_transactions()
    }

    fn move_message(&mut self, enqueued: &Enqueued<'_>) -> Result<(), RecoveryError> {
        let messages = enqueued.message.messages;
        // Places that all of a batch is live in, by the log that they go to.
        let mut whole: BTreeMap<u16, Vec<QueuePlace>> = BTreeMap::new();
        for place in enqueued.places.iter() {
            let Some(home) = self.topology.home(place.queue) else { continue };
            let target = new_home(home, self.writers.shards);
            let parts: Vec<u16> = (0..messages).filter(|part| self.take(&place, *part, target)).collect();
            let (first, last) = (self.marked(&place, 0), self.marked(&place, messages - 1));
            if parts.len() == usize::from(messages) && first.redelivered == last.redelivered {
                whole.entry(target).or_default().push(first);
                continue;
            }
            for part in parts {
                let message = part_of(&enqueued.message, part);
                let places = [self.marked(&place, part)];
                self.writers.append(target, &Record::Enqueued { message, places: &places }, Joined::No)?;
            }
        }
        for (target, places) in whole {
            let record = Record::Enqueued { message: enqueued.message, places: &places };
            self.writers.append(target, &record, Joined::No)?;
        }
        Ok(())
    }

    /// Whether a message of a batch has to be written; it counts as written then.
    fn take(&mut self, place: &QueuePlace, part: u16, target: u16) -> bool {
        let at = place.place + u64::from(part);
        let is_gone =
            |log: &LogContents| log.queue_of(place.queue).is_some_and(|queue| queue.places.is_dequeued(at));
        let other = self.found.logs.get(&target);
        if is_gone(self.source) || other.is_some_and(is_gone) {
            return false;
        }
        let known = self.known.entry(place.queue).or_insert_with(|| {
            let queue = other.and_then(|log| log.queue_of(place.queue));
            queue.map(|queue| queue.places.enqueued_places()).unwrap_or_default()
        });
        known.insert_one(at)
    }

    /// The place of one of a batch, as it is after a restart.
    fn marked(&self, first: &QueuePlace, part: u16) -> QueuePlace {
        let below = self.source.queue_of(first.queue).map_or(0, |queue| queue.handed_out_below);
        let place = first.place + u64::from(part);
        QueuePlace { place, redelivered: first.redelivered || place < below, ..*first }
    }

    fn move_transactions(&mut self) -> Result<(), RecoveryError> {
        let shards = self.writers.shards;
        let target = new_home(self.shard, shards);
        for steps in self.source.transactions.values() {
            for stored in steps.part.iter().chain(&steps.whole) {
                let (transaction, step) = stored.decode();
                let write = |step: Step<'_>| {
                    self.writers.append(target, &Record::Transaction { transaction, step }, Joined::No)
                };
                with_step(&step, shards, write)?;
            }
        }
        Ok(())
    }
}

impl Visitor for Mover<'_, '_> {
    fn record(&mut self, _: u64, framed: &Framed<'_>) -> Result<(), Invalid> {
        if self.failed.is_some() {
            return Ok(());
        }
        if let Decoded::Enqueued(enqueued) = framed.record(&self.encodings)? {
            self.failed = self.move_message(&enqueued).err();
        }
        Ok(())
    }
}

/// One message of a batch.
fn part_of<'a>(message: &StoredMessage<'a>, part: u16) -> StoredMessage<'a> {
    let bytes = message.bodies.len() / usize::from(message.messages);
    let bodies = &message.bodies[usize::from(part) * bytes..][..bytes];
    StoredMessage { bodies, messages: 1, ..*message }
}

/// Gives a step as it is recorded, with homes that there are.
fn with_step<R>(step: &DecodedStep<'_>, shards: u16, write: impl FnOnce(Step<'_>) -> R) -> R {
    match step {
        DecodedStep::Prepared { publishes, settlements } => {
            let publishes: Vec<PreparedPublish<'_>> = publishes
                .iter()
                .map(|(message, queues)| PreparedPublish { message: *message, queues })
                .collect();
            write(Step::Prepared { publishes: &publishes, settlements })
        }
        DecodedStep::Branch { vhost, xid, homes, timeout_s } => {
            let mut homes: Vec<ShardId> =
                homes.iter().map(|home| ShardId(new_home(u16::from(home.0), shards) as u8)).collect();
            homes.sort_unstable();
            homes.dedup();
            write(Step::Branch(PreparedBranch { vhost, xid, homes: &homes, timeout_s: *timeout_s }))
        }
        DecodedStep::Decided(decision) => write(Step::Decided(*decision)),
        DecodedStep::Ended => write(Step::Ended),
        DecodedStep::Forgotten => write(Step::Forgotten),
        DecodedStep::Closed => write(Step::Closed),
    }
}
