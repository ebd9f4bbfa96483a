//! What stands in one queue, in the few bytes a message that let millions be recovered at once.
//!
//! Enqueued messages come mostly in the order of their places; copies that cleaning wrote come in that order too, between
//! them. So a list keeps a few rising runs, each encoded as differences from the entry before: one to four bytes for a
//! message among many alike. What was dequeued is a [`PlaceSet`] beside it, which counts whatever was recorded first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use fulmar_core::Position;

use super::set::PlaceSet;

/// A message, or a batch, that was recorded as standing in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where its record is.
    pub position: Position,
    /// Its first place.
    pub place: u64,
    /// How many follow one another from there on.
    pub count: u16,
    /// When it expires, in milliseconds since 1970; `u64::MAX`: never.
    pub expires_ms: u64,
    /// Its level.
    pub priority: u8,
    /// The bytes that each counts for in the queue.
    pub counted_bytes: u32,
    /// Has been delivered before.
    pub redelivered: bool,
    /// Which of its batch the first one is.
    pub part: u16,
    /// The record has other messages, or other queues' places.
    pub is_shared: bool,
}

/// The messages of one queue.
#[derive(Debug, Default)]
pub struct Places {
    runs: Vec<Run>,
    /// The run of the last entry, and the place behind it.
    current: (u64, usize),
    /// The others by the place behind their last entry.
    ends: BTreeMap<u64, usize>,
    dequeued: PlaceSet,
    /// Entries since dead ones were last dropped, and places dequeued since then.
    entries: u64,
    dropped: u64,
}

/// Below this many entries dropping dead ones is not worth the work.
const COMPACT_ENTRIES: u64 = 1 << 16;

impl Places {
    /// A message was recorded.
    pub fn enqueued(&mut self, entry: Entry) {
        self.entries += 1;
        if self.runs.is_empty() || entry.place != self.current.0 {
            self.change_run(entry.place);
        }
        self.current.0 = entry.place.saturating_add(u64::from(entry.count));
        self.runs[self.current.1].push(entry);
    }

    /// Goes to the run that a place continues: the one that ends the least before it, or a new one.
    fn change_run(&mut self, place: u64) {
        if !self.runs.is_empty() {
            // Where two end at the same place the other is not continued any more.
            self.ends.insert(self.current.0, self.current.1);
        }
        self.current = match self.ends.range(..=place).next_back() {
            Some((&end, &run)) => {
                self.ends.remove(&end);
                (end, run)
            }
            None => {
                self.runs.push(Run::default());
                (place, self.runs.len() - 1)
            }
        };
    }

    /// Places have become free: `count` from `first` on.
    pub fn dequeued(&mut self, first: u64, count: u64) {
        self.dequeued.insert(first, count);
        self.dropped = self.dropped.saturating_add(count.min(self.entries));
        if self.dropped > COMPACT_ENTRIES && self.dropped > self.entries / 2 {
            self.compact();
        }
    }

    /// Whether a place was dequeued.
    pub fn is_dequeued(&self, place: u64) -> bool {
        self.dequeued.contains(place)
    }

    /// What stands there, in the order of places, each place once, with the last record of it.
    pub fn live(&self) -> Live<'_> {
        let mut live = Live { places: self, heads: BinaryHeap::new(), last: None };
        for run in &self.runs {
            live.advance(run.entries());
        }
        live
    }

    /// All places that were recorded, whatever became of them.
    pub fn enqueued_places(&self) -> PlaceSet {
        let mut places = PlaceSet::default();
        for entry in self.runs.iter().flat_map(Run::entries) {
            places.insert(entry.place, u64::from(entry.count));
        }
        places
    }

    /// Bytes of memory that the entries take.
    pub fn memory_bytes(&self) -> usize {
        self.runs.iter().map(|run| run.chunks.iter().map(Vec::capacity).sum::<usize>()).sum()
    }

    /// Drops what was dequeued and what has a later record.
    fn compact(&mut self) {
        let mut run = Run::default();
        let mut pending: Option<Entry> = None;
        let mut entries = 0;
        for entry in self.live() {
            match &mut pending {
                Some(last) if last.is_continued_by(&entry) => last.count += 1,
                _ => {
                    entries += 1;
                    if let Some(last) = pending.replace(entry) {
                        run.push(last);
                    }
                }
            }
        }
        self.ends.clear();
        self.runs.clear();
        if let Some(last) = pending {
            run.push(last);
            self.current = (last.place.saturating_add(u64::from(last.count)), 0);
            self.runs.push(run);
        }
        (self.entries, self.dropped) = (entries, 0);
    }
}

impl Entry {
    /// What is mostly the same for all messages of a queue.
    fn kind(&self) -> (u8, bool, u32) {
        (self.priority, self.is_shared, self.counted_bytes)
    }

    /// Whether the other is the next message of the same batch.
    fn is_continued_by(&self, other: &Entry) -> bool {
        let next = self.place.wrapping_add(u64::from(self.count));
        let part = self.part.wrapping_add(self.count);
        *other == Entry { place: next, part, count: 1, ..*self } && self.count < u16::MAX
    }
}

/// The messages that stand in a queue, one after the other: entries with a count of 1.
#[derive(Debug)]
pub struct Live<'a> {
    places: &'a Places,
    /// The next entry of each run, the lowest place first, among those the latest record.
    heads: BinaryHeap<Reverse<Head<'a>>>,
    last: Option<u64>,
}

impl<'a> Live<'a> {
    fn advance(&mut self, mut rest: Entries<'a>) {
        if let Some(entry) = rest.next() {
            self.heads.push(Reverse(Head { entry, rest }));
        }
    }
}

impl Iterator for Live<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let mut head = self.heads.peek_mut()?;
            let Head { entry, rest } = &mut head.0;
            let found = Entry { count: 1, ..*entry };
            if entry.count > 1 {
                entry.count -= 1;
                entry.place += 1;
                entry.part += 1;
            } else if let Some(next) = rest.next() {
                *entry = next;
            } else {
                std::collections::binary_heap::PeekMut::pop(head);
            }
            if self.last != Some(found.place) {
                self.last = Some(found.place);
                if !self.places.is_dequeued(found.place) {
                    return Some(found);
                }
            }
        }
    }
}

/// Orders by place, and for one place the later record first.
#[derive(Debug)]
struct Head<'a> {
    entry: Entry,
    rest: Entries<'a>,
}

impl Head<'_> {
    fn key(&self) -> (u64, Reverse<Position>) {
        (self.entry.place, Reverse(self.entry.position))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// Entries whose places rise, as differences.
#[derive(Debug, Default)]
struct Run {
    chunks: Vec<Vec<u8>>,
    last: State,
}

/// A chunk grows up to about so many bytes.
const CHUNK_BYTES: usize = 32 * 1024;
/// The most that one entry takes.
const LONGEST_ENTRY: usize = 48;

/// What the next entry is told from.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    entry: Entry,
    /// How far the last position was from the one before.
    stride: u64,
}

// What the first byte of an entry says is as in the entry before, or follows from it.
const NEXT_PLACE: u8 = 1;
const SAME_COUNT: u8 = 2;
const SAME_POSITION: u8 = 4;
const SAME_STRIDE: u8 = 8;
const SAME_EXPIRY: u8 = 16;
const SAME_KIND: u8 = 32;
// What it says of the entry itself.
const REDELIVERED: u8 = 64;
const LATER_PART: u8 = 128;

impl Run {
    fn push(&mut self, entry: Entry) {
        if self.chunks.last().is_none_or(|chunk| chunk.len() + LONGEST_ENTRY > CHUNK_BYTES) {
            // One that has few entries stays small.
            if let Some(full) = self.chunks.last_mut() {
                full.shrink_to_fit();
            }
            self.chunks.push(Vec::new());
        }
        let chunk = self.chunks.last_mut().expect("one was just made sure of");
        self.last.encode(&entry, chunk);
    }

    fn entries(&self) -> Entries<'_> {
        Entries { chunks: self.chunks.iter(), chunk: &[], last: State::default() }
    }
}

impl State {
    fn encode(&mut self, entry: &Entry, out: &mut Vec<u8>) {
        let State { entry: last, stride } = *self;
        let gap = entry.place.wrapping_sub(last.place.wrapping_add(u64::from(last.count)));
        let step = entry.position.0.wrapping_sub(last.position.0);
        let same_kind = entry.kind() == last.kind();
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        out.push(
            flag(gap == 0, NEXT_PLACE)
                | flag(entry.count == last.count, SAME_COUNT)
                | flag(step == 0, SAME_POSITION)
                | flag(step == stride, SAME_STRIDE)
                | flag(entry.expires_ms == last.expires_ms, SAME_EXPIRY)
                | flag(same_kind, SAME_KIND)
                | flag(entry.redelivered, REDELIVERED)
                | flag(entry.part != 0, LATER_PART),
        );
        if gap != 0 {
            put(out, gap);
        }
        if entry.count != last.count {
            put(out, u64::from(entry.count));
        }
        if step != 0 && step != stride {
            put_signed(out, step.wrapping_sub(stride));
        }
        if entry.expires_ms != last.expires_ms {
            put_signed(out, entry.expires_ms.wrapping_sub(last.expires_ms));
        }
        if !same_kind {
            out.extend([entry.priority, u8::from(entry.is_shared)]);
            put(out, u64::from(entry.counted_bytes));
        }
        if entry.part != 0 {
            put(out, u64::from(entry.part));
        }
        self.follow(*entry);
    }

    fn decode(&mut self, bytes: &mut &[u8]) -> Entry {
        let State { entry: last, stride } = *self;
        let said = byte(bytes);
        let is = |flag: u8| said & flag != 0;
        let mut entry = last;
        entry.place = last.place.wrapping_add(u64::from(last.count));
        if !is(NEXT_PLACE) {
            entry.place = entry.place.wrapping_add(get(bytes));
        }
        if !is(SAME_COUNT) {
            entry.count = get(bytes) as u16;
        }
        if !is(SAME_POSITION) {
            let step = if is(SAME_STRIDE) { stride } else { stride.wrapping_add(get_signed(bytes)) };
            entry.position = Position(last.position.0.wrapping_add(step));
        }
        if !is(SAME_EXPIRY) {
            entry.expires_ms = last.expires_ms.wrapping_add(get_signed(bytes));
        }
        if !is(SAME_KIND) {
            entry.priority = byte(bytes);
            entry.is_shared = byte(bytes) != 0;
            entry.counted_bytes = get(bytes) as u32;
        }
        entry.part = if is(LATER_PART) { get(bytes) as u16 } else { 0 };
        entry.redelivered = is(REDELIVERED);
        self.follow(entry);
        entry
    }

    fn follow(&mut self, entry: Entry) {
        let step = entry.position.0.wrapping_sub(self.entry.position.0);
        if step != 0 {
            self.stride = step;
        }
        self.entry = entry;
    }
}

#[derive(Debug)]
struct Entries<'a> {
    chunks: std::slice::Iter<'a, Vec<u8>>,
    chunk: &'a [u8],
    last: State,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.chunk.is_empty() {
            self.chunk = self.chunks.next()?;
        }
        Some(self.last.decode(&mut self.chunk))
    }
}

/// Seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: u64) {
    let value = value as i64;
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn byte(bytes: &mut &[u8]) -> u8 {
    let (&first, rest) = bytes.split_first().expect("entries are whole");
    *bytes = rest;
    first
}

fn get(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let next = byte(bytes);
        value |= u64::from(next & 0x7f) << shift;
        if next < 0x80 {
            break;
        }
    }
    value
}

fn get_signed(bytes: &mut &[u8]) -> u64 {
    let value = get(bytes);
    (value >> 1) ^ (value & 1).wrapping_neg()
}

#[cfg(test)]
mod tests;
