//! One segment's records, from its bytes as they come, and what is wrong with them.
//!
//! 1. A record is shown only when its CRC-32C matches, and when all that it is joined to is there.
//! 2. Where no record stands and a later batch of the segment does, that is damage: it is named, and showing goes on with
//!    that batch. Where none does the log ends, torn or not.
//! 3. Nothing is read twice, and no more than a record is kept in memory besides the group that is open.

use fulmar_core::journal::Joined;

use crate::header::{BLOCK_BYTES, Batch};
use crate::record::{Framed, HEADER_BYTES, Invalid, Kind, record_bytes, u32_at};

/// Who is shown the records of a segment.
pub trait Visitor {
    /// A batch begins at an offset.
    fn batch(&mut self, _offset: u64, _batch: &Batch) {}

    /// A record stands at an offset; never a batch.
    ///
    /// # Errors
    /// It says what cannot be.
    fn record(&mut self, offset: u64, record: &Framed<'_>) -> Result<(), Invalid>;
}

/// Where records should stand and do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The first byte that is part of no record.
    pub from: u64,
    /// Where records begin again, or the segment's known end; `None` if they do not.
    pub to: Option<u64>,
    /// Why the bytes at `from` are no record.
    pub why: Invalid,
}

/// What a segment's records came to.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Behind the last record that counts.
    pub end: u64,
    /// Number of the last batch; 0 if there is none.
    pub last_batch: u64,
    /// Where it begins.
    pub last_batch_at: u64,
    /// What is damaged, in order.
    pub gaps: Vec<Gap>,
    /// A batch was begun at the end and is not whole: from where on, and why.
    pub torn: Option<(u64, Invalid)>,
}

/// Reads one segment.
pub struct Scan {
    segment: u64,
    /// Where the segment was said to end by the one that follows.
    known_end: Option<u64>,
    /// Where its file ends.
    file_end: u64,
    /// Up to where there can be records: the first of both.
    limit: u64,
    first_batch: u64,
    /// The next record, or where one is looked for.
    at: u64,
    /// End of the batch that is being read; 0 before the first.
    batch_end: u64,
    /// The beginning of a record whose end has not come yet.
    carry: Vec<u8>,
    /// Records of a group that is not complete.
    group: Vec<(u64, Kind, Vec<u8>)>,
    /// Where there was no record; a later batch is looked for.
    missing: Option<(u64, Invalid)>,
    result: Scanned,
}

impl Scan {
    /// Begins behind the header. `known_end` is what the following segment says; what lies behind it does not count.
    pub fn new(segment: u64, first_batch: u64, known_end: Option<u64>, file_end: u64) -> Scan {
        let start = BLOCK_BYTES as u64;
        Scan {
            segment,
            known_end,
            file_end,
            limit: known_end.map_or(file_end, |end| end.min(file_end)),
            first_batch,
            at: start,
            batch_end: 0,
            carry: Vec::new(),
            group: Vec::new(),
            missing: None,
            result: Scanned { end: start, ..Scanned::default() },
        }
    }

    /// Bytes that lie at `offset`: where those before ended, in whole blocks but for the last ones.
    pub fn feed(&mut self, offset: u64, bytes: &[u8], visitor: &mut dyn Visitor) {
        let bytes = &bytes[..bytes.len().min(self.limit.saturating_sub(offset) as usize)];
        let end = offset + bytes.len() as u64;
        let mut carry = std::mem::take(&mut self.carry);
        if !carry.is_empty() {
            let begun = self.at + carry.len() as u64;
            self.complete(&mut carry, &bytes[(begun - offset) as usize..], visitor);
        }
        while self.carry.is_empty() && self.at < end {
            let rest = &bytes[(self.at.max(offset) - offset) as usize..];
            debug_assert!(self.at >= offset);
            if self.missing.is_some() {
                self.look(rest);
            } else {
                self.step(rest, visitor);
            }
        }
        if self.carry.is_empty() {
            carry.clear();
            self.carry = carry;
        }
    }

    /// All bytes were there.
    pub fn finish(mut self) -> Scanned {
        if !self.carry.is_empty() {
            self.miss(self.at, Invalid::Short);
        }
        let known = self.known_end;
        let opened = self.group.first().map(|(offset, ..)| *offset);
        if let Some((from, why)) = self.missing {
            // Valid bytes that say what is not known were not torn.
            let was_written = matches!(why, Invalid::Kind(_) | Invalid::Contradiction);
            let is_cut = known.is_some_and(|end| from < end);
            if was_written || is_cut {
                self.result.gaps.push(Gap { from, to: known, why });
            } else if !(why == Invalid::Empty || why == Invalid::Segment) || from < self.batch_end {
                self.result.torn = Some((opened.unwrap_or(from), why));
            }
        } else if let Some(from) = opened {
            self.result.torn = Some((from, Invalid::Empty));
        }
        if let Some(end) = known.filter(|end| *end > self.file_end.max(BLOCK_BYTES as u64)) {
            self.result.gaps.push(Gap { from: self.file_end, to: Some(end), why: Invalid::Short });
        }
        self.result
    }

    /// The rest of a record whose beginning came before.
    fn complete(&mut self, carry: &mut Vec<u8>, rest: &[u8], visitor: &mut dyn Visitor) {
        let mut rest = rest;
        while let Some(wanted) = self.wanted(carry).ok().filter(|wanted| *wanted > carry.len()) {
            let (taken, behind) = rest.split_at(rest.len().min(wanted - carry.len()));
            carry.extend_from_slice(taken);
            rest = behind;
            if carry.len() < wanted {
                self.carry = std::mem::take(carry);
                return;
            }
        }
        self.step(carry, visitor);
    }

    /// How many bytes the record takes that `bytes` begin; at least as many have to be there to tell.
    fn wanted(&self, bytes: &[u8]) -> Result<usize, Invalid> {
        let end = if self.is_between() { self.limit } else { self.batch_end.min(self.limit) };
        let fits = |bytes: usize| (self.at + bytes as u64 <= end).then_some(bytes).ok_or(Invalid::Short);
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return fits(HEADER_BYTES) };
        if *header == [0; HEADER_BYTES] {
            return Err(Invalid::Empty);
        }
        // What was there before this segment says nothing of how long a record is.
        if u32_at(header, 12) != self.segment as u32 {
            return Err(Invalid::Segment);
        }
        let total = record_bytes(u32_at(header, 4) as usize);
        if self.is_between() && total != Batch::RECORD_BYTES {
            // Whatever it was: its length is not what was written.
            return Err(Invalid::Checksum);
        }
        fits(total)
    }

    /// No batch is being read.
    fn is_between(&self) -> bool {
        self.at >= self.batch_end
    }

    /// Takes the record that `bytes` begin with, or notes that there is none.
    fn step(&mut self, bytes: &[u8], visitor: &mut dyn Visitor) {
        match self.wanted(bytes) {
            Ok(wanted) if wanted > bytes.len() => {
                self.carry.extend_from_slice(bytes);
                return;
            }
            Ok(_) => {}
            Err(why) => return self.miss(self.at, why),
        }
        let framed = match Framed::decode(bytes, self.segment) {
            Ok(framed) => framed,
            Err(why) => return self.miss(self.at, why),
        };
        let taken =
            if self.is_between() { self.begin_batch(&framed, visitor) } else { self.take(&framed, visitor) };
        match taken {
            Err(why) => self.miss(self.at, why),
            Ok(()) => {
                self.at += framed.total_bytes() as u64;
                if self.group.is_empty() {
                    self.result.end = self.at;
                }
                if self.at == self.batch_end {
                    self.at = self.at.next_multiple_of(BLOCK_BYTES as u64);
                }
            }
        }
    }

    fn begin_batch(&mut self, framed: &Framed<'_>, visitor: &mut dyn Visitor) -> Result<(), Invalid> {
        let batch = batch_of(framed).ok_or(Invalid::Contradiction)?;
        let expected = match self.result.last_batch {
            0 => self.first_batch,
            last => last + 1,
        };
        if batch.number != expected {
            return Err(Invalid::Contradiction);
        }
        let end = self.at.checked_add(batch.bytes).ok_or(Invalid::Contradiction)?;
        if end > self.file_end {
            return Err(Invalid::Short);
        }
        self.batch_end = end;
        (self.result.last_batch, self.result.last_batch_at) = (batch.number, self.at);
        visitor.batch(self.at, &batch);
        Ok(())
    }

    fn take(&mut self, framed: &Framed<'_>, visitor: &mut dyn Visitor) -> Result<(), Invalid> {
        if framed.kind == Kind::Batch {
            return Err(Invalid::Contradiction);
        }
        if framed.joined == Joined::ToNext {
            self.group.push((self.at, framed.kind, framed.payload.to_vec()));
            return Ok(());
        }
        for (offset, kind, payload) in std::mem::take(&mut self.group) {
            visitor.record(offset, &Framed { kind, joined: Joined::ToNext, payload: &payload })?;
        }
        visitor.record(self.at, framed)
    }

    /// There is no record at an offset.
    fn miss(&mut self, at: u64, why: Invalid) {
        self.carry.clear();
        self.missing = Some((at, why));
        self.at = (at + 1).next_multiple_of(BLOCK_BYTES as u64);
    }

    /// Looks for a later batch in the blocks that `bytes` begin with.
    fn look(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(BLOCK_BYTES) {
            let batch = Framed::decode(block, self.segment).ok().and_then(|framed| batch_of(&framed));
            if let Some(batch) = batch.filter(|batch| batch.number > self.result.last_batch) {
                let (from, why) = self.missing.take().expect("something is missing");
                self.result.gaps.push(Gap { from, to: Some(self.at), why });
                self.group.clear();
                // Whatever is missing: this is the one that follows now.
                self.result.last_batch = batch.number - 1;
                self.first_batch = batch.number;
                self.batch_end = 0;
                return;
            }
            self.at += BLOCK_BYTES as u64;
        }
    }
}

/// The batch that a record begins.
fn batch_of(framed: &Framed<'_>) -> Option<Batch> {
    Batch::decode(framed.payload).filter(|_| framed.kind == Kind::Batch)
}
