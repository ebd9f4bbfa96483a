//! What the records of one log come to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fulmar_core::journal::{StoreKey, TransactionKey};

use super::files::{HeadlessFile, LogFiles, SegmentFile};
use super::read::{Wanted, read};
use super::scan::{Scan, Visitor};
use super::{Damage, Entry, Map, Places, Progress, RecoveryError, What};
use crate::disk::Disk;
use crate::encodings::Encodings;
use crate::header::{BLOCK_BYTES, InvalidHeader, StoreId};
use crate::position;
use crate::record::{Decoded, Framed, Invalid, Kind};
use crate::start::SegmentStart;
use crate::summary::SegmentSummary;
use crate::transaction::DecodedStep;
use crate::words::LastWords;

/// Everything that one log says.
#[derive(Debug, Default)]
pub struct LogContents {
    /// Its queues, in the order in which they were first spoken of.
    pub queues: Vec<QueueContents>,
    by_key: Map<StoreKey, usize>,
    /// Whole topology or changes, since the last whole one, as they lie in records.
    pub topology: Vec<Vec<u8>>,
    /// Steps that still matter.
    pub transactions: BTreeMap<TransactionKey, StoredSteps>,
    /// Where the last word on a subject is.
    pub words: LastWords,
    /// Its segments.
    pub segments: Vec<SegmentStart>,
    /// Files that hold nothing.
    pub unused: Vec<(PathBuf, u64)>,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Where a last batch was begun that is not whole.
    pub torn: Vec<Torn>,
    /// Number of the last batch, 0 if there is none.
    pub last_batch: u64,
    /// Where the last batch of the last segment begins; its header does if there is none.
    pub last_batch_at: u64,
    /// The highest run that a segment is of.
    pub last_run: u32,
    /// The highest number of a file, used or not.
    pub last_number: u64,
    /// Messages that were found, dequeued ones and copies included.
    pub messages: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// The end of a log that a stop of the machine, or of the broker, has left half written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The file.
    pub path: PathBuf,
    /// Where the log ends.
    pub from: u64,
    /// What follows.
    pub why: Invalid,
}

/// What a log says of one queue.
#[derive(Debug)]
pub struct QueueContents {
    /// The queue.
    pub key: StoreKey,
    /// What stands in it.
    pub places: Places,
    /// Below which place messages may have been in a client's hands.
    pub handed_out_below: u64,
}

/// What was written down of a transaction and still matters.
#[derive(Debug, Default)]
pub struct StoredSteps {
    /// Of the part that is carried out here.
    pub part: Vec<StoredStep>,
    /// Of what it is as a whole.
    pub whole: Vec<StoredStep>,
}

/// A step of a transaction, as it lies in a record.
#[derive(Debug)]
pub struct StoredStep {
    payload: Vec<u8>,
    encodings: Encodings,
}

impl StoredStep {
    /// What it says.
    pub fn decode(&self) -> (TransactionKey, DecodedStep<'_>) {
        crate::transaction::decode(&self.payload, &self.encodings).expect("it was read once before")
    }

    /// The bytes, and what the codes in them stand for.
    pub fn payload(&self) -> (&[u8], &Encodings) {
        (&self.payload, &self.encodings)
    }
}

/// Which log to read.
pub struct LogSource<'a> {
    /// Where its segments are.
    pub directory: &'a Path,
    /// The shard that it is of.
    pub shard: u16,
    /// Whose it has to be; `None`: anybody's.
    pub store: Option<StoreId>,
    /// What is known.
    pub encodings: &'a Encodings,
}

impl LogContents {
    /// Reads a log. What is damaged is noted and left out.
    ///
    /// # Errors
    /// A file cannot be read, or is not this log's.
    pub fn read(
        disk: &dyn Disk,
        source: &LogSource<'_>,
        files: &LogFiles,
        ahead: bool,
        progress: &Progress<'_>,
    ) -> Result<LogContents, RecoveryError> {
        let mut contents = LogContents { unused: files.unused.clone(), ..LogContents::default() };
        contents.look_at_headless(disk, files)?;
        let encodings = files
            .segments
            .iter()
            .map(|file| source.check(file))
            .collect::<Result<Vec<Encodings>, RecoveryError>>()?;
        let wanted: Vec<Wanted> = (0..files.segments.len()).map(|index| files.wanted(index)).collect();
        let mut current: Option<(usize, Scan, SegmentSummary)> = None;
        let result = read(disk, &wanted, ahead, |index, offset, bytes| {
            while current.as_ref().is_none_or(|(at, ..)| *at < index) {
                let next = current.as_ref().map_or(0, |(at, ..)| at + 1);
                contents.end_segment(files, &encodings, current.take());
                current = Some((next, files.scan(next), SegmentSummary::default()));
            }
            let Some((_, scan, summary)) = &mut current else { return };
            let before = contents.messages;
            let segment = files.segments[index].header.segment;
            let encodings = &encodings[index];
            let mut reader =
                SegmentReader { contents: &mut contents, segment, encodings, summary, last: None };
            scan.feed(offset, bytes, &mut reader);
            contents.bytes += bytes.len() as u64;
            progress.add(bytes.len() as u64, contents.messages - before);
        });
        result?;
        contents.end_segment(files, &encodings, current.take());
        for index in contents.segments.len()..files.segments.len() {
            // Those that have nothing behind their headers.
            contents.end_segment(
                files,
                &encodings,
                Some((index, files.scan(index), SegmentSummary::default())),
            );
        }
        contents.last_number = files.last_number();
        Ok(contents)
    }

    /// Files without a header that can be read: a write that was torn, unless something was written after it.
    fn look_at_headless(&mut self, disk: &dyn Disk, files: &LogFiles) -> Result<(), RecoveryError> {
        for (path, _) in files.unused.iter().filter(|(path, _)| files.is_followed(path)) {
            let what = What::Header(InvalidHeader::Missing);
            self.damage.push(Damage { path: path.clone(), what });
        }
        for file in &files.headless {
            let batches = count_batches(disk, file)?;
            let is_last = files.segments.last().is_none_or(|last| last.header.segment < file.segment);
            // The first batch is written with the header.
            if batches > 1 || (batches == 1 && !is_last) || files.is_followed(&file.path) {
                self.damage.push(Damage { path: file.path.clone(), what: What::Header(file.why) });
            } else {
                self.unused.push((file.path.clone(), file.bytes));
            }
        }
        Ok(())
    }

    fn end_segment(
        &mut self,
        files: &LogFiles,
        encodings: &[Encodings],
        ended: Option<(usize, Scan, SegmentSummary)>,
    ) {
        let Some((index, scan, summary)) = ended else { return };
        let file = &files.segments[index];
        let scanned = scan.finish();
        let path = &file.path;
        let gaps = scanned.gaps.into_iter();
        self.damage.extend(gaps.map(|gap| Damage { path: path.clone(), what: What::Records(gap) }));
        if let Some((from, why)) = scanned.torn {
            if files.may_be_torn(index) {
                self.torn.push(Torn { path: path.clone(), from, why });
            } else {
                let gap = super::scan::Gap { from, to: None, why };
                self.damage.push(Damage { path: path.clone(), what: What::Records(gap) });
            }
        }
        self.last_batch =
            self.last_batch.max(scanned.last_batch).max(file.header.first_batch.saturating_sub(1));
        // The first batch is written with the header.
        let is_first = scanned.last_batch_at <= BLOCK_BYTES as u64;
        self.last_batch_at = if is_first { 0 } else { scanned.last_batch_at };
        self.last_run = self.last_run.max(file.header.run);
        self.segments.push(SegmentStart {
            number: file.header.segment,
            end: scanned.end,
            file_bytes: file.bytes,
            encodings: encodings[index].clone(),
            summary,
        });
    }

    fn queue(&mut self, key: StoreKey) -> usize {
        *self.by_key.entry(key).or_insert_with(|| {
            self.queues.push(QueueContents { key, places: Places::default(), handed_out_below: 0 });
            self.queues.len() - 1
        })
    }

    /// What it says of a queue.
    pub fn queue_of(&self, key: StoreKey) -> Option<&QueueContents> {
        self.by_key.get(&key).map(|index| &self.queues[*index])
    }

    /// Queues stand elsewhere in the list now.
    pub(super) fn forget_indices(&mut self) {
        self.by_key = self.queues.iter().enumerate().map(|(index, queue)| (queue.key, index)).collect();
    }

    fn step(&mut self, transaction: TransactionKey, step: &DecodedStep<'_>, stored: StoredStep) {
        let steps = self.transactions.entry(transaction).or_default();
        let push = |steps: &mut Vec<StoredStep>| {
            // Cleaning may have written it again.
            if !steps.iter().any(|step| step.payload == stored.payload) {
                steps.push(stored);
            }
        };
        match step {
            DecodedStep::Prepared { .. } => push(&mut steps.part),
            DecodedStep::Branch { .. } | DecodedStep::Decided(_) => push(&mut steps.whole),
            DecodedStep::Ended => steps.part.clear(),
            DecodedStep::Forgotten => steps.whole.clear(),
            DecodedStep::Closed => {}
        }
        if steps.part.is_empty() && steps.whole.is_empty() {
            self.transactions.remove(&transaction);
        }
    }
}

impl LogSource<'_> {
    /// Whether a segment is this log's; the encodings that its codes stand for.
    fn check(&self, file: &SegmentFile) -> Result<Encodings, RecoveryError> {
        let path = || file.path.clone();
        if let Some(expected) = self.store.filter(|store| *store != file.header.store) {
            let (found, expected) = (file.header.store.to_string(), expected.to_string());
            let identity = super::identity::path(self.directory.parent().unwrap_or(self.directory));
            return Err(RecoveryError::Store { path: path(), found, expected, identity });
        }
        if file.header.shard != self.shard {
            return Err(RecoveryError::Shard {
                path: path(),
                found: file.header.shard,
                expected: self.shard,
            });
        }
        file.header.encodings(self.encodings).map_err(|name| RecoveryError::Encoding {
            path: path(),
            name: String::from_utf8_lossy(&name).into_owned(),
        })
    }
}

/// Takes in the records of one segment.
struct SegmentReader<'a> {
    contents: &'a mut LogContents,
    segment: u64,
    encodings: &'a Encodings,
    summary: &'a mut SegmentSummary,
    /// The queue of the record before.
    last: Option<(StoreKey, usize)>,
}

impl SegmentReader<'_> {
    fn queue(&mut self, key: StoreKey) -> &mut QueueContents {
        let index = match self.last {
            Some((last, index)) if last == key => index,
            _ => {
                let index = self.contents.queue(key);
                self.last = Some((key, index));
                index
            }
        };
        &mut self.contents.queues[index]
    }

    fn enqueued(&mut self, offset: u64, enqueued: &crate::message::Enqueued<'_>) {
        let position = position::in_segment(self.segment, offset);
        let messages = enqueued.message.messages;
        let places = enqueued.places.iter();
        let is_shared = messages > 1 || places.len() > 1;
        for place in places {
            self.contents.messages += u64::from(messages);
            self.queue(place.queue).places.enqueued(Entry {
                position,
                place: place.place,
                count: messages,
                expires_ms: place.expires_ms,
                priority: place.priority,
                counted_bytes: place.counted_bytes,
                redelivered: place.redelivered,
                part: 0,
                is_shared,
            });
        }
    }
}

impl Visitor for SegmentReader<'_> {
    fn record(&mut self, offset: u64, framed: &Framed<'_>) -> Result<(), Invalid> {
        let record = framed.record(self.encodings)?;
        match &record {
            Decoded::Enqueued(enqueued) => self.enqueued(offset, enqueued),
            Decoded::Dequeued { queue, first, count } => self.queue(*queue).places.dequeued(*first, *count),
            Decoded::HandedOut { queue, below } => self.queue(*queue).handed_out_below = *below,
            Decoded::Changed(changes) => self.contents.topology.push(changes.to_vec()),
            Decoded::Topology(changes) => self.contents.topology = vec![changes.to_vec()],
            Decoded::Transaction { transaction, step } => {
                let stored =
                    StoredStep { payload: framed.payload.to_vec(), encodings: self.encodings.clone() };
                self.contents.step(*transaction, step, stored);
            }
            Decoded::Batch(_) | Decoded::Paged(_) => return Err(Invalid::Contradiction),
        }
        self.summary.note(&record);
        self.contents.words.note(self.segment, &record);
        Ok(())
    }
}

/// How many batches of its segment a file has.
fn count_batches(disk: &dyn Disk, file: &HeadlessFile) -> Result<usize, RecoveryError> {
    let wanted = Wanted { path: file.path.clone(), from: BLOCK_BYTES as u64, to: file.bytes };
    let is_batch =
        |block: &&[u8]| Framed::decode(block, file.segment).is_ok_and(|framed| framed.kind == Kind::Batch);
    let mut batches = 0;
    read(disk, std::slice::from_ref(&wanted), false, |_, _, bytes| {
        batches += bytes.chunks(BLOCK_BYTES).filter(is_batch).count();
    })?;
    Ok(batches)
}
