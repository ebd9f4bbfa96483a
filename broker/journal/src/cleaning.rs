//! Segments in which little is needed: what is needed is appended again, and they go.
//!
//! A segment goes when nobody needs a message of it, no earlier segment holds what it says to be gone, and it has the last
//! word on nothing. Sparse ones are read a piece at a time; the shard is asked of each message whether it is still there.
//! All this within a share of what is written, so that nobody feels it.

use std::cell::RefCell;
use std::rc::Rc;

use fulmar_core::journal::{Joined, Position, QueuePlace, Reason, Record, StoreKey, StoredMessage};
use fulmar_core::topology::StoredChange;
use fulmar_transport::AlignedBuf;
use fulmar_transport::file::{FileDone, FileId, FileOperation};

use crate::encodings::Encodings;
use crate::header::BLOCK_BYTES;
use crate::log::{Files, Log, Purpose, Segment};
use crate::message::Enqueued;
use crate::position::{in_segment, segment_of};
use crate::record::{Decoded, Framed, Invalid, Payload};
use crate::summary::{Span, message_bytes};

/// Bytes read at once, unless a record is longer.
const PIECE_BYTES: u64 = 256 << 10;

/// Most bytes that may be saved up.
const MOST_CREDIT: u64 = 8 << 20;

/// Bytes a second that are always granted.
const LEAST_BYTES_A_SECOND: u64 = 4 << 20;

/// Wasted segments that nobody minds.
const WASTE_SEGMENTS: u64 = 4;

/// What a shard has to say when a segment is cleaned.
pub trait Holder {
    /// Whether a message is still in its place in a queue, or in a client's hands from there, and its record is the one at
    /// `at`.
    fn holds(&mut self, queue: StoreKey, place: u64, at: Position) -> bool;

    /// A message that it holds is written down elsewhere now.
    fn relocated(&mut self, queue: StoreKey, place: u64, old: Position, new: Position);

    /// The changes that make the whole topology.
    fn topology(&self) -> Vec<StoredChange>;
}

/// A segment that is being cleaned.
struct Victim {
    number: u64,
    /// Where the next record is.
    offset: u64,
    /// Where its batch ends.
    batch_end: u64,
    /// Bytes that the next record needs, if known.
    needs: u64,
    phase: Phase,
}

enum Phase {
    /// The next piece has to be read.
    Wants,
    Reads,
    /// A piece is there.
    Has(AlignedBuf, u64),
    /// A piece is being looked at.
    Looks,
    /// It may go when this is stored.
    Ends(Position),
}

/// What is being cleaned.
#[derive(Default)]
pub(crate) struct Cleaning {
    /// Something may have become free.
    looks: bool,
    /// Something becomes free once more is stored.
    waits: bool,
    credit: u64,
    last_ns: u64,
    victim: Option<Victim>,
    spare: Option<AlignedBuf>,
}

impl Cleaning {
    /// Something may have become free.
    pub fn look_again(&mut self) {
        self.looks = true;
    }

    /// More is stored.
    pub fn note_stored(&mut self) {
        self.looks |= std::mem::take(&mut self.waits);
    }

    /// So many bytes were written.
    pub fn earn(&mut self, bytes: u64, percent: u64) {
        self.credit = (self.credit + bytes * percent / (100 - percent)).min(MOST_CREDIT);
    }

    /// The segment that is being cleaned.
    pub fn segment(&self) -> Option<u64> {
        self.victim.as_ref().map(|victim| victim.number)
    }
}

/// A part of a segment to be cleaned.
struct Piece {
    segment: u64,
    bytes: AlignedBuf,
    /// Where in the segment it begins.
    from: u64,
    /// Where in the segment the records end.
    end: u64,
    encodings: Rc<Encodings>,
    offset: u64,
    batch_end: u64,
    /// Bytes that the next record needs which does not end in here.
    needs: u64,
}

impl Piece {
    /// The next record and where it begins; `None` if it does not end in here, or there is none.
    fn next(&mut self) -> Result<Option<(u64, Framed<'_>)>, Invalid> {
        let block = BLOCK_BYTES as u64;
        if self.offset >= self.batch_end {
            // The next batch begins with the next block.
            self.offset = self.offset.next_multiple_of(block).max(block);
        }
        let offset = self.offset;
        if offset >= self.end {
            return Ok(None);
        }
        let Some(rest) = self.bytes.get((offset - self.from) as usize..).filter(|rest| !rest.is_empty())
        else {
            return Ok(None);
        };
        let framed = match Framed::decode(rest, self.segment) {
            Err(Invalid::Short) => {
                let needs = Framed::announced_bytes(rest).unwrap_or(BLOCK_BYTES) as u64;
                if needs <= self.needs || offset + needs > self.end {
                    return Err(Invalid::Short);
                }
                self.needs = needs;
                return Ok(None);
            }
            framed => framed?,
        };
        self.needs = 0;
        self.offset += framed.total_bytes() as u64;
        if let Decoded::Batch(batch) = framed.record(&self.encodings)? {
            self.batch_end = offset + batch.bytes;
        }
        Ok(Some((offset, framed)))
    }
}

/// Goes on cleaning: once a turn, while nobody has borrowed the log. The log is not borrowed while the shard is called.
pub fn clean(log: &RefCell<Log>, holder: &mut impl Holder) {
    let Some(mut piece) = log.borrow_mut().take_piece() else { return };
    let (number, encodings) = (piece.segment, Rc::clone(&piece.encodings));
    let mut survivors = Survivors::default();
    let failed = loop {
        let (offset, framed) = match piece.next() {
            Ok(Some(found)) => found,
            Ok(None) => break None,
            Err(invalid) => break Some(invalid),
        };
        match framed.record(&encodings) {
            Ok(Decoded::Enqueued(enqueued)) => {
                let old = in_segment(number, offset);
                if survivors.ask(old, &enqueued, holder) {
                    let new = log.borrow_mut().move_message(old, &enqueued.message, &survivors);
                    survivors.tell(old, new, holder);
                }
            }
            Ok(Decoded::Dequeued { queue, first, count }) => {
                log.borrow_mut().move_dequeued(number, queue, first, count);
            }
            Ok(step @ Decoded::Transaction { .. }) => log.borrow_mut().move_step(number, &step, &framed),
            Ok(
                Decoded::Batch(_)
                | Decoded::HandedOut { .. }
                | Decoded::Changed(_)
                | Decoded::Topology(_)
                | Decoded::Paged(_),
            ) => {}
            Err(invalid) => break Some(invalid),
        }
    };
    let wants_topology = log.borrow_mut().end_piece(piece, failed);
    if wants_topology {
        let changes = holder.topology();
        log.borrow_mut().move_topology(&changes);
    }
}

/// What of a message is still needed.
#[derive(Default)]
struct Survivors {
    /// Where it, or one of its batch, still stands.
    places: Vec<QueuePlace>,
    messages: u64,
    /// Those that stand: queue and place.
    held: Vec<(StoreKey, u64)>,
    /// Those of its batch that do not, though others do.
    gone: Vec<(StoreKey, u64)>,
}

impl Survivors {
    /// Whether anything is needed.
    fn ask(&mut self, at: Position, enqueued: &Enqueued<'_>, holder: &mut impl Holder) -> bool {
        self.places.clear();
        self.held.clear();
        self.gone.clear();
        self.messages = u64::from(enqueued.message.messages);
        for place in enqueued.places.iter() {
            let (held, gone) = (self.held.len(), self.gone.len());
            for each in place.place..place.place + self.messages {
                let list = if holder.holds(place.queue, each, at) { &mut self.held } else { &mut self.gone };
                list.push((place.queue, each));
            }
            if self.held.len() == held {
                self.gone.truncate(gone);
            } else {
                self.places.push(place);
            }
        }
        !self.held.is_empty()
    }

    fn tell(&self, old: Position, new: Position, holder: &mut impl Holder) {
        for (queue, place) in &self.held {
            holder.relocated(*queue, *place, old, new);
        }
    }
}

impl Log {
    /// The file system has so many bytes free. Now and then, so that publishers are refused before it is full.
    pub fn set_disk_free_bytes(&mut self, bytes: u64) {
        self.space.set_disk_free_bytes(bytes);
    }

    pub(crate) fn room_for_segment(&self) -> Result<(), Reason> {
        let used_bytes = self.footprint().file_bytes;
        let (segment_bytes, max_bytes) = (self.options.segment_bytes, self.options.max_bytes);
        self.space.room_for(&self.directory, used_bytes, segment_bytes, max_bytes)
    }

    pub(crate) fn submit_cleaning(&mut self, files: &mut (impl Files + ?Sized)) {
        if self.failed.is_some() {
            return;
        }
        let elapsed_ns = self.now_ns.saturating_sub(self.cleaning.last_ns).min(1_000_000_000);
        self.cleaning.last_ns = self.now_ns;
        let granted = LEAST_BYTES_A_SECOND as u128 * u128::from(elapsed_ns) / 1_000_000_000;
        self.cleaning.credit = (self.cleaning.credit + granted as u64).min(MOST_CREDIT);
        if std::mem::take(&mut self.cleaning.looks) {
            self.release_empty();
            self.choose_victim();
        }
        self.submit_piece(files);
    }

    /// Lets segments go in which nothing is needed.
    fn release_empty(&mut self) {
        let stored = self.stored;
        let mut empty = Vec::new();
        for segment in self.segments.full.values() {
            if segment.summary.live_records() > 0 || segment.is_leaving {
                continue;
            }
            if segment.empty_since.is_none_or(|since| since <= stored) && is_still(segment, stored) {
                empty.push(segment.number);
            } else {
                self.cleaning.waits = true;
            }
        }
        for number in empty {
            if self.cleaning.segment() == Some(number) {
                continue;
            }
            let end = self.end;
            let is_needed = self.is_needed(number);
            let says_again = !is_needed && self.say_again(number);
            let segment = self.segments.full.get_mut(&number).expect("it was just there");
            if is_needed {
                segment.unneeded_since = None;
                continue;
            }
            if says_again {
                segment.unneeded_since = None;
                segment.empty_since = Some(self.end);
            }
            // It goes once that is stored, and whatever else made it needless.
            if !says_again && *segment.unneeded_since.get_or_insert(end) <= stored {
                self.release(number);
            } else {
                self.cleaning.waits = true;
            }
        }
    }

    /// Whether a segment says something, of other things than what was handed out, that is not said elsewhere.
    fn is_needed(&self, number: u64) -> bool {
        let segment = &self.segments.full[&number];
        self.speaks_of_topology(segment)
            || self.words.needs_steps_of(number)
            || segment.summary.dequeued().any(|(queue, span)| self.may_be_read(number, queue, &span))
    }

    fn speaks_of_topology(&self, segment: &Segment) -> bool {
        let since = self.words.topology_since();
        segment.summary.has_topology() && since.is_some_and(|since| segment.number >= since)
    }

    /// Whether a restart would find messages in places that a segment says to be empty.
    fn may_be_read(&self, number: u64, queue: StoreKey, span: &Span) -> bool {
        self.segments.full.range(..number).any(|(_, segment)| segment.summary.may_hold(queue, span))
    }

    /// Appends again what a segment says of what was handed out; whether there was something.
    fn say_again(&mut self, number: u64) -> bool {
        let words: Vec<_> = self.words.handed_out_in(number).collect();
        for (queue, below) in &words {
            self.append(&Record::HandedOut { queue: *queue, below: *below }, Joined::No);
        }
        !words.is_empty()
    }

    fn choose_victim(&mut self) {
        if self.cleaning.victim.is_some() {
            return;
        }
        let stored = self.stored;
        let sizes = self.segments.full.values().map(|segment| (segment.end, segment.summary.live_bytes()));
        let (bytes, live_bytes) = sizes.fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
        let is_tight = self.space.refusal().is_some() || self.room_for_segment().is_err();
        let minded = if is_tight { 0 } else { live_bytes + WASTE_SEGMENTS * self.options.segment_bytes };
        if bytes.saturating_sub(live_bytes) <= minded {
            return;
        }
        let most = if is_tight { 0.9 } else { 0.75 };
        let candidates = self.segments.full.values().filter(|segment| {
            is_still(segment, stored)
                && !segment.is_damaged
                && segment.empty_since.is_none_or(|since| since <= stored)
        });
        let best = candidates.map(|segment| (share(segment), segment.number));
        let best = best.filter(|(share, _)| *share < most).min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, number)) = best {
            let offset = BLOCK_BYTES as u64;
            self.cleaning.victim =
                Some(Victim { number, offset, batch_end: 0, needs: 0, phase: Phase::Wants });
        }
    }

    /// Reads what comes next of the segment that is cleaned, or lets it go.
    fn submit_piece(&mut self, files: &mut (impl Files + ?Sized)) {
        let Some(victim) = &mut self.cleaning.victim else { return };
        let segment = self.segments.full.get_mut(&victim.number).expect("what is cleaned stays");
        match victim.phase {
            Phase::Wants => {}
            Phase::Ends(position) => {
                if position <= self.stored && segment.readers == 0 {
                    let number = victim.number;
                    self.cleaning.victim = None;
                    self.metrics.segments_cleaned += 1;
                    self.release(number);
                    self.cleaning.looks = true;
                }
                return;
            }
            Phase::Reads | Phase::Has(..) | Phase::Looks => return,
        }
        let block = BLOCK_BYTES as u64;
        let from = victim.offset / block * block;
        let end = victim.offset + victim.needs.max(PIECE_BYTES);
        let end = end.min(segment.end).next_multiple_of(block).max(from + block);
        if self.cleaning.credit < end - from && self.space.refusal().is_none() {
            return;
        }
        let Some(file) = segment.file else {
            let number = victim.number;
            self.open_to_read(number, files);
            return;
        };
        self.cleaning.credit = self.cleaning.credit.saturating_sub(end - from);
        victim.phase = Phase::Reads;
        self.start_piece(file, from, (end - from) as usize, files);
    }

    fn start_piece(&mut self, file: FileId, from: u64, bytes: usize, files: &mut (impl Files + ?Sized)) {
        let spare = self.cleaning.spare.take().filter(|buffer| buffer.capacity() == bytes);
        let buffer = spare.unwrap_or_else(|| AlignedBuf::with_capacity(bytes));
        let operation = FileOperation::Read { file, offset: from, bytes: buffer };
        files.start(Purpose::Clean.token(0), operation);
    }

    pub(crate) fn completed_cleaning(&mut self, done: FileDone) {
        let victim = self.cleaning.victim.as_mut().expect("something is cleaned");
        let bytes = done.bytes.expect("a read ends with its buffer");
        match done.result {
            Ok(_) => {
                self.metrics.cleaned_bytes += bytes.len() as u64;
                let from = victim.offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
                victim.phase = Phase::Has(bytes, from);
            }
            Err(error) => {
                let number = victim.number;
                let path = self.segments.full[&number].path.display().to_string();
                self.cleaning_failed(
                    number,
                    &format!("the journal's file {path} cannot be read: {error}").into(),
                );
            }
        }
    }

    /// A segment cannot be cleaned: it stays.
    pub(crate) fn cleaning_failed(&mut self, number: u64, reason: &Reason) {
        if self.cleaning.segment() == Some(number) {
            self.cleaning.victim = None;
            self.cleaning.looks = true;
            self.segments.full.get_mut(&number).expect("what is cleaned stays").is_damaged = true;
            self.notice(format!("{reason}; it is not cleaned, and its space stays taken"));
        }
    }

    /// What was read, to be looked at.
    fn take_piece(&mut self) -> Option<Piece> {
        if self.failed.is_some() {
            return None;
        }
        let victim = self.cleaning.victim.as_mut().filter(|victim| matches!(victim.phase, Phase::Has(..)))?;
        let Phase::Has(bytes, from) = std::mem::replace(&mut victim.phase, Phase::Looks) else { return None };
        let segment = &self.segments.full[&victim.number];
        Some(Piece {
            segment: victim.number,
            bytes,
            from,
            end: segment.end,
            encodings: Rc::clone(&segment.encodings),
            offset: victim.offset,
            batch_end: victim.batch_end,
            needs: victim.needs,
        })
    }

    /// A piece was looked at; whether the topology has to be appended.
    fn end_piece(&mut self, piece: Piece, failed: Option<Invalid>) -> bool {
        let segment = &self.segments.full[&piece.segment];
        let is_through = piece.offset >= segment.end;
        if let Some(invalid) = failed.or((!is_through && piece.is_stuck()).then_some(Invalid::Short)) {
            let (path, offset) = (segment.path.display(), piece.offset);
            let reason = format!("the record at {offset} in {path} cannot be read: {invalid}");
            self.cleaning_failed(piece.segment, &reason.into());
            return false;
        }
        let wants_topology = is_through && self.speaks_of_topology(segment);
        if is_through {
            self.say_again(piece.segment);
        }
        let victim = self.cleaning.victim.as_mut().expect("something is cleaned");
        (victim.offset, victim.batch_end, victim.needs) = (piece.offset, piece.batch_end, piece.needs);
        victim.phase = if is_through { Phase::Ends(self.end) } else { Phase::Wants };
        self.cleaning.spare = Some(piece.bytes);
        wants_topology
    }

    /// Appends a message again of which something is needed.
    fn move_message(
        &mut self,
        old: Position,
        message: &StoredMessage<'_>,
        survivors: &Survivors,
    ) -> Position {
        let before = self.metrics.record_bytes;
        let gone = &survivors.gone;
        let joined = if gone.is_empty() { Joined::No } else { Joined::ToNext };
        let new = self.append(&Record::Enqueued { message: *message, places: &survivors.places }, joined);
        for (index, (queue, place)) in gone.iter().enumerate() {
            let joined = if index + 1 == gone.len() { Joined::No } else { Joined::ToNext };
            self.append(&Record::Dequeued { queue: *queue, first: *place, count: 1 }, joined);
        }
        self.rewritten(before);
        self.retire(old, message_bytes(message));
        new
    }

    /// Appends again that messages are gone, if a restart would find them.
    fn move_dequeued(&mut self, number: u64, queue: StoreKey, first: u64, count: u64) {
        let span = Span { first, last: first.saturating_add(count.saturating_sub(1)) };
        if count > 0 && self.may_be_read(number, queue, &span) {
            let before = self.metrics.record_bytes;
            self.append(&Record::Dequeued { queue, first, count }, Joined::No);
            self.rewritten(before);
        }
    }

    /// Appends a step of a transaction again, if it is needed.
    fn move_step(&mut self, number: u64, record: &Decoded<'_>, framed: &Framed<'_>) {
        let Decoded::Transaction { transaction, step } = record else { return };
        if self.words.needs_step(number, *transaction, step) {
            let before = self.metrics.record_bytes;
            let payload = Payload::Bytes(framed.kind, framed.payload.into());
            let at = self.append_payload(&payload, Joined::No);
            self.words.note(segment_of(at), record);
            self.rewritten(before);
        }
    }

    /// Appends the topology as it is now.
    fn move_topology(&mut self, changes: &[StoredChange]) {
        let before = self.metrics.record_bytes;
        self.append(&Record::Topology(changes), Joined::No);
        self.rewritten(before);
        let end = self.end;
        if let Some(Victim { phase: Phase::Ends(position), .. }) = &mut self.cleaning.victim {
            *position = end;
        }
    }

    fn rewritten(&mut self, before: u64) {
        let bytes = self.metrics.record_bytes - before;
        self.metrics.rewritten_bytes += bytes;
        self.cleaning.credit = self.cleaning.credit.saturating_sub(bytes);
    }
}

impl Piece {
    /// Whether nothing was found in it, and more of it would not help.
    fn is_stuck(&self) -> bool {
        self.needs == 0
            && self.offset / BLOCK_BYTES as u64 * BLOCK_BYTES as u64 == self.from
            && self.bytes.is_empty()
    }
}

/// Whether nothing is written to a segment any more, and nobody reads it.
fn is_still(segment: &Segment, stored: Position) -> bool {
    segment.is_ready
        && segment.readers == 0
        && !segment.is_leaving
        && (segment.end == 0 || in_segment(segment.number, segment.end) <= stored)
}

/// How much of a segment is needed. Empty ones that stay are needed for what they say of others, which goes with those.
fn share(segment: &Segment) -> f64 {
    match segment.summary.live_bytes() {
        0 => 0.5,
        bytes => bytes as f64 / segment.end.max(1) as f64,
    }
}
