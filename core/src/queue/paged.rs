//! The part of a queue that is out of memory: where each of its messages stands in the queue and where its record is.
//!
//! 1. In order of place. At either end a message costs little; elsewhere it costs a look through one chunk, which stays
//!    unpacked for the next one.
//! 2. A message is coded after the one before it: two or three bytes where messages are of like sizes and do not expire.
//! 3. Memory is taken chunk by chunk; nothing is copied as the queue grows.

use std::collections::VecDeque;

use super::ready::{Item, NEVER_NS};
use crate::MessageId;
use crate::journal::Position;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 4096;

/// Most bytes that one message takes: marks, and numbers of 64, 64, 32, 64, 8 and 16 bits.
const LONGEST: usize = 1 + 10 + 10 + 5 + 10 + 2 + 3;

/// What a message takes in memory besides its body, in bytes: at least this.
pub(super) const SMALLEST_BYTES: u64 = 128;

/// Its place is not the next one.
const PLACE: u8 = 1;
/// Its record is not as far behind the one before as that one behind its own.
const STEP: u8 = 1 << 1;
/// It is of another size than the one before.
const BYTES: u8 = 1 << 2;
/// It expires.
const EXPIRES: u8 = 1 << 3;
/// As many of its batch follow as the number says; otherwise as many as before.
const FOLLOWERS: u8 = 1 << 4;
/// It is not the first of its batch.
const PART: u8 = 1 << 5;
const REDELIVERED: u8 = 1 << 6;
/// It is in the page file.
const PAGE: u8 = 1 << 7;

/// The slot of messages that are not in memory.
const AWAY: u32 = u32::MAX - 1;

/// A message that is out of memory, or several of a batch that stand one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PagedItem {
    /// What the queue knows of it. Of the message's handle only which of its batch it is says something.
    pub(crate) item: Item,
    /// Where it can be read.
    pub(crate) at: Position,
}

impl PagedItem {
    /// A message that leaves memory.
    pub(crate) fn new(item: Item, at: Position) -> Self {
        PagedItem { item: Item { message: MessageId { slot: AWAY, part: item.message.part }, ..item }, at }
    }

    /// Takes the next message of its batch in, if the other one is that and stands at the next place.
    pub(crate) fn grows_by(&mut self, other: &PagedItem) -> bool {
        let messages = self.item.messages() as u16;
        let next = Item {
            sequence: self.item.last_sequence() + 1,
            message: self.item.message.after(messages),
            followers: 0,
            ..self.item
        };
        let grows = self.item.followers < u8::MAX && *other == (PagedItem { item: next, at: self.at });
        self.item.followers += u8::from(grows);
        grows
    }
}

/// What a message is coded after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Before {
    /// The place behind it.
    end: u64,
    /// The last record, and how far it was behind the one before: in the journal, in the page file.
    at: [u64; 2],
    step: [u64; 2],
    /// When the last one that expires does.
    expires_ns: u64,
    body_bytes: u32,
    followers: u8,
}

impl Before {
    /// Codes a message.
    fn pack(&mut self, bytes: &mut Vec<u8>, PagedItem { item, at }: &PagedItem) {
        let marks_at = bytes.len();
        let mut marks = 0;
        bytes.push(0);
        if item.sequence != self.end {
            marks |= PLACE;
            put(bytes, item.sequence - self.end);
        }
        let file = usize::from(at.is_page());
        let step = at.0.wrapping_sub(self.at[file]);
        if step != self.step[file] {
            marks |= STEP;
            put(bytes, signed(step));
        }
        if item.body_bytes != self.body_bytes {
            marks |= BYTES;
            put(bytes, item.body_bytes.into());
        }
        if item.expires_ns != NEVER_NS {
            marks |= EXPIRES;
            put(bytes, signed(item.expires_ns.wrapping_sub(self.expires_ns)));
            self.expires_ns = item.expires_ns;
        }
        if item.followers != self.followers {
            marks |= FOLLOWERS;
            put(bytes, item.followers.into());
        }
        if item.message.part != 0 {
            marks |= PART;
            put(bytes, item.message.part.into());
        }
        marks |= if item.redelivered { REDELIVERED } else { 0 };
        marks |= if at.is_page() { PAGE } else { 0 };
        bytes[marks_at] = marks;
        self.end = item.sequence + item.messages() as u64;
        (self.at[file], self.step[file]) = (at.0, step);
        (self.body_bytes, self.followers) = (item.body_bytes, item.followers);
    }

    /// Decodes a message of a level, and takes it off the bytes.
    #[inline]
    fn unpack(&mut self, bytes: &mut &[u8], level: u8) -> PagedItem {
        let marks = take_byte(bytes);
        let sequence = self.end + if marks & PLACE != 0 { take(bytes) } else { 0 };
        let file = usize::from(marks & PAGE != 0);
        if marks & STEP != 0 {
            self.step[file] = unsigned(take(bytes));
        }
        self.at[file] = self.at[file].wrapping_add(self.step[file]);
        if marks & BYTES != 0 {
            self.body_bytes = take(bytes) as u32;
        }
        let mut expires_ns = NEVER_NS;
        if marks & EXPIRES != 0 {
            self.expires_ns = self.expires_ns.wrapping_add(unsigned(take(bytes)));
            expires_ns = self.expires_ns;
        }
        if marks & FOLLOWERS != 0 {
            self.followers = take(bytes) as u8;
        }
        let part = if marks & PART != 0 { take(bytes) as u16 } else { 0 };
        let item = Item {
            sequence,
            expires_ns,
            message: MessageId { slot: AWAY, part },
            followers: self.followers,
            body_bytes: self.body_bytes,
            priority: level,
            redelivered: marks & REDELIVERED != 0,
            recorded: marks & PAGE == 0,
        };
        self.end = sequence + item.messages() as u64;
        PagedItem { item, at: Position(self.at[file]) }
    }
}

/// Some hundreds of messages or more, coded. Never empty.
struct Chunk {
    bytes: Vec<u8>,
    /// What lies before here has gone.
    from: usize,
    /// Before the first one.
    before: Before,
    /// Before one that is appended.
    last: Before,
}

impl Chunk {
    fn new(first: &PagedItem, capacity: usize) -> Self {
        let before = Before {
            end: first.item.sequence,
            at: [first.at.0; 2],
            expires_ns: if first.item.expires_ns == NEVER_NS { 0 } else { first.item.expires_ns },
            ..Before::default()
        };
        let mut chunk = Chunk { bytes: Vec::with_capacity(capacity), from: 0, before, last: before };
        chunk.append(first);
        chunk
    }

    fn is_full(&self) -> bool {
        self.bytes.len() + LONGEST > CHUNK_BYTES
    }

    fn append(&mut self, paged: &PagedItem) {
        self.last.pack(&mut self.bytes, paged);
    }

    fn first(&self, level: u8) -> PagedItem {
        let mut before = self.before;
        before.unpack(&mut &self.bytes[self.from..], level)
    }

    /// Takes the first one. Whether it was the last one too.
    #[inline]
    fn pop(&mut self, level: u8) -> (PagedItem, bool) {
        let mut bytes = &self.bytes[self.from..];
        let first = self.before.unpack(&mut bytes, level);
        let is_last = bytes.is_empty();
        self.from = self.bytes.len() - bytes.len();
        (first, is_last)
    }

    /// The place behind the last one.
    fn end(&self) -> u64 {
        self.last.end
    }

    fn iter(&self, level: u8) -> impl Iterator<Item = PagedItem> {
        let (mut before, mut bytes) = (self.before, &self.bytes[self.from..]);
        std::iter::from_fn(move || (!bytes.is_empty()).then(|| before.unpack(&mut bytes, level)))
    }
}

/// A chunk that is being changed, or was looked through.
struct Unpacked {
    index: usize,
    items: Vec<PagedItem>,
    is_changed: bool,
}

/// The messages of one level of a queue that are out of memory.
pub(crate) struct Paged {
    level: u8,
    chunks: VecDeque<Chunk>,
    unpacked: Option<Unpacked>,
    messages: usize,
    body_bytes: u64,
}

impl Paged {
    pub(crate) fn new(level: u8) -> Self {
        Paged { level, chunks: VecDeque::new(), unpacked: None, messages: 0, body_bytes: 0 }
    }

    /// The level.
    pub(crate) fn level(&self) -> u8 {
        self.level
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// The bytes that they count for.
    #[cfg(test)]
    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// The first one.
    pub(crate) fn first(&self) -> Option<PagedItem> {
        match self.unpacked.as_ref().filter(|unpacked| unpacked.index == 0) {
            Some(unpacked) => unpacked.items.first().copied(),
            None => Some(self.chunks.front()?.first(self.level)),
        }
    }

    /// Puts one in at its place.
    pub(crate) fn insert(&mut self, paged: PagedItem) {
        self.count_in(&paged.item);
        if self.end().is_none_or(|end| paged.item.sequence >= end) {
            return self.append(&paged);
        }
        let unpacked = self.unpack(paged.item.sequence);
        let items = &mut unpacked.items;
        let at = items.partition_point(|other| other.item.sequence < paged.item.sequence);
        items.insert(at, paged);
        unpacked.is_changed = true;
    }

    /// Puts several in at their places, which ascend.
    pub(crate) fn insert_sorted(&mut self, mut paged: &[PagedItem]) {
        while let Some((first, rest)) = paged.split_first() {
            if self.end().is_none_or(|end| first.item.sequence >= end) {
                self.insert(*first);
                paged = rest;
                continue;
            }
            let unpacked = self.unpack(first.item.sequence);
            let index = unpacked.index;
            let end = self.chunks[index].end();
            let (here, rest) = paged.split_at(paged.partition_point(|other| other.item.sequence < end));
            here.iter().for_each(|paged| self.count_in(&paged.item));
            let Some(unpacked) = &mut self.unpacked else { return };
            unpacked.items.extend_from_slice(here);
            unpacked.items.sort_by_key(|paged| paged.item.sequence);
            unpacked.is_changed = true;
            paged = rest;
        }
    }

    /// Takes the first one.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<PagedItem> {
        if self.unpacked.is_some() {
            self.pack_again();
        }
        let (first, is_last) = self.chunks.front_mut()?.pop(self.level);
        if is_last {
            self.chunks.pop_front();
            if self.chunks.is_empty() {
                self.chunks = VecDeque::new();
            }
        }
        self.count_out(&first.item);
        Some(first)
    }

    /// Takes messages from the beginning on, until they count for so many bytes.
    pub(crate) fn take_first(&mut self, most_bytes: u64, taken: &mut VecDeque<PagedItem>) {
        let mut bytes = 0;
        while bytes < most_bytes
            && let Some(first) = self.pop()
        {
            bytes += first.item.all_body_bytes() + SMALLEST_BYTES;
            taken.push_back(first);
        }
    }

    /// The place of the first message that is not before a place.
    pub(crate) fn next_at(&self, place: u64) -> Option<u64> {
        self.iter_from(place).next().map(|paged| paged.item.sequence.max(place))
    }

    /// Takes messages from a place on, until they count for so many bytes or their chunk ends; the first one may be of a
    /// batch that begins before.
    pub(crate) fn take_from(&mut self, place: u64, most_bytes: u64, taken: &mut VecDeque<PagedItem>) {
        if self.end().is_none_or(|end| place >= end) {
            return;
        }
        let mut bytes = 0;
        let items = &mut self.unpack(place).items;
        let from = items.partition_point(|paged| paged.item.last_sequence() < place);
        let suits = |paged: &&PagedItem| {
            let suits = bytes < most_bytes;
            bytes += paged.item.all_body_bytes() + SMALLEST_BYTES;
            suits
        };
        let some = items[from..].iter().take_while(suits).count();
        let before = taken.len();
        taken.extend(items.drain(from..from + some));
        let is_empty = items.is_empty();
        taken.range(before..).for_each(|paged| self.count_out(&paged.item));
        if let Some(unpacked) = self.unpacked.as_mut().filter(|_| some > 0) {
            unpacked.is_changed = true;
        }
        if is_empty {
            self.pack_again();
        }
    }

    /// Where the record of the message at a place is.
    pub(crate) fn position_at(&mut self, place: u64) -> Option<Position> {
        self.find(place).map(|found| found.at)
    }

    /// The record of the message at a place is elsewhere now; whether it was at `old` until now. `None`: the message is
    /// not here.
    pub(crate) fn relocate(&mut self, place: u64, old: Position, new: Position) -> Option<bool> {
        let found = self.find(place)?;
        if found.at != old {
            return Some(false);
        }
        found.at = new;
        if let Some(unpacked) = &mut self.unpacked {
            unpacked.is_changed = true;
        }
        Some(true)
    }

    /// The memory that it takes, in bytes.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        let coded: usize = self.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum();
        coded + self.chunks.capacity() * size_of::<Chunk>()
    }

    fn append(&mut self, paged: &PagedItem) {
        if self.unpacked.as_ref().is_some_and(|unpacked| unpacked.index + 1 == self.chunks.len()) {
            self.pack_again();
        }
        match self.chunks.back_mut() {
            Some(chunk) if !chunk.is_full() => chunk.append(paged),
            last => {
                // One short queue among many takes little; a long one is filled without copying.
                let capacity = if last.is_some() { CHUNK_BYTES } else { 64 };
                self.chunks.push_back(Chunk::new(paged, capacity));
            }
        }
    }

    /// The place behind the last one.
    fn end(&self) -> Option<u64> {
        if let Some(unpacked) = self.unpacked.as_ref().filter(|open| open.index + 1 == self.chunks.len())
            && let Some(last) = unpacked.items.last()
        {
            return Some(last.item.last_sequence() + 1);
        }
        self.chunks.back().map(Chunk::end)
    }

    /// What has its last message at a place or behind it.
    pub(super) fn iter_from(&self, place: u64) -> impl Iterator<Item = PagedItem> {
        let from = self.chunks.partition_point(|chunk| chunk.end() <= place);
        let chunks = self.chunks.iter().enumerate().skip(from);
        let items = chunks.flat_map(|(index, chunk)| {
            let unpacked = self.unpacked.as_ref().filter(|unpacked| unpacked.index == index);
            let packed = unpacked.is_none().then(|| chunk.iter(self.level));
            packed
                .into_iter()
                .flatten()
                .chain(unpacked.into_iter().flat_map(|open| open.items.iter().copied()))
        });
        items.skip_while(move |paged| paged.item.last_sequence() < place)
    }

    fn find(&mut self, place: u64) -> Option<&mut PagedItem> {
        self.end().filter(|&end| place < end)?;
        let items = &mut self.unpack(place).items;
        let at = items.partition_point(|paged| paged.item.last_sequence() < place);
        items.get_mut(at).filter(|paged| paged.item.sequence <= place)
    }

    /// Unpacks the chunk for a place that is before the end.
    fn unpack(&mut self, place: u64) -> &mut Unpacked {
        let index = self.chunks.partition_point(|chunk| chunk.end() <= place);
        if self.unpacked.as_ref().is_none_or(|unpacked| unpacked.index != index) {
            self.pack_again();
            // That may have changed how many there are.
            let index = self.chunks.partition_point(|chunk| chunk.end() <= place);
            let items = self.chunks[index].iter(self.level).collect();
            self.unpacked = Some(Unpacked { index, items, is_changed: false });
        }
        self.unpacked.as_mut().expect("it has just been unpacked")
    }

    fn pack_again(&mut self) {
        let Some(Unpacked { index, items, is_changed: true }) = self.unpacked.take() else { return };
        let mut rest = items.iter();
        let Some(first) = rest.next() else {
            self.chunks.remove(index);
            return;
        };
        let mut chunk = Chunk::new(first, CHUNK_BYTES);
        let mut at = index;
        for paged in rest {
            if chunk.is_full() {
                let full = std::mem::replace(&mut chunk, Chunk::new(paged, CHUNK_BYTES));
                self.chunks.insert(at, full);
                at += 1;
            } else {
                chunk.append(paged);
            }
        }
        chunk.bytes.shrink_to_fit();
        self.chunks[at] = chunk;
    }

    #[inline]
    fn count_in(&mut self, item: &Item) {
        self.messages += item.messages();
        self.body_bytes += item.all_body_bytes();
    }

    #[inline]
    fn count_out(&mut self, item: &Item) {
        self.messages -= item.messages();
        self.body_bytes -= item.all_body_bytes();
    }
}

/// A difference, the smaller the nearer to nothing it is.
fn signed(difference: u64) -> u64 {
    (difference << 1) ^ ((difference as i64) >> 63) as u64
}

fn unsigned(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[inline]
fn take_byte(bytes: &mut &[u8]) -> u8 {
    let (&byte, rest) = bytes.split_first().expect("a chunk ends behind a whole message");
    *bytes = rest;
    byte
}

#[inline]
fn take(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    let mut shift = 0;
    loop {
        let byte = take_byte(bytes);
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests;
