//! The messages of a queue that wait to be delivered: an ordering by priority, then by arrival.
//!
//! They leave at the head, which costs no more than a queue of handles does, or from anywhere by their place, which
//! costs a search. Whoever looks at them one after the other keeps his own place.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::NS_PER_MS;
use super::fairshare::{Fairshare, Occupied};
use super::level::{Level, Look};
use super::paged::{PagedItem, SMALLEST_BYTES};
use crate::MessageId;
use crate::journal::{Position, Ticket};

/// "Never", as a moment.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// A message in a queue, or several of a batch that stand one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Place in the queue; a message keeps it while it is there.
    pub sequence: u64,
    /// When it expires, or [`NEVER_NS`].
    pub expires_ns: u64,
    /// The message; the queue owns one reference for it, and one for each that follows.
    pub message: MessageId,
    /// How many of its batch follow it, at the next places; whatever leaves the queue by itself has none.
    pub followers: u8,
    /// The bytes that it counts for: of its body; in a queue that counts as Qpid does, of its properties too.
    pub body_bytes: u32,
    /// Its level.
    pub priority: u8,
    /// Has been delivered before.
    pub redelivered: bool,
    /// A journal has a record of its being here.
    pub recorded: bool,
}

// Half a cache line.
const _: () = assert!(size_of::<Item>() == 32);

impl Item {
    /// How long it has left, in milliseconds, if it expires; one that is about to, one.
    #[inline]
    pub(crate) fn ttl_left_ms(&self, now_ns: u64) -> Option<NonZeroU32> {
        if self.expires_ns == NEVER_NS {
            return None;
        }
        let left_ms = self.expires_ns.saturating_sub(now_ns) / NS_PER_MS;
        NonZeroU32::new(u32::try_from(left_ms).unwrap_or(u32::MAX).max(1))
    }

    /// How many messages it stands for.
    #[inline]
    pub(crate) fn messages(&self) -> usize {
        usize::from(self.followers) + 1
    }

    /// The bytes that all of them count for.
    #[inline]
    pub(crate) fn all_body_bytes(&self) -> u64 {
        u64::from(self.body_bytes) * self.messages() as u64
    }

    /// The place of the last message that it stands for.
    #[inline]
    pub(super) fn last_sequence(&self) -> u64 {
        self.sequence + u64::from(self.followers)
    }

    /// The first message of it that is not before a place, alone.
    pub(super) fn alone_at(&self, place: u64) -> Item {
        let before = place.saturating_sub(self.sequence) as u16;
        Item {
            sequence: self.sequence + u64::from(before),
            message: self.message.after(before),
            followers: 0,
            ..*self
        }
    }

    /// Takes the first `messages` off, which are fewer than there are.
    #[inline]
    pub(super) fn split_off_first(&mut self, messages: u16) -> Item {
        let first = Item { followers: messages as u8 - 1, ..*self };
        self.sequence += u64::from(messages);
        self.message = self.message.after(messages);
        self.followers -= messages as u8;
        first
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.sequence.cmp(&other.sequence)
    }
}

/// What of a queue should be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Messages of each level.
    pub(crate) messages: u64,
    /// Their bytes, about, with what they take besides their bodies.
    pub(crate) bytes: u64,
}

/// A message that leaves a queue unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It is in memory, and held.
    Here(Item),
    /// It has a record alone.
    Away(PagedItem),
}

impl Leaving {
    /// What the queue knows of it.
    pub(crate) fn item(&self) -> &Item {
        match self {
            Leaving::Here(item) => item,
            Leaving::Away(paged) => &paged.item,
        }
    }

    /// The message, if it is in memory.
    pub(crate) fn here(self) -> Option<Item> {
        match self {
            Leaving::Here(item) => Some(item),
            Leaving::Away(_) => None,
        }
    }
}

/// All ready messages of a queue. A plain FIFO has one level.
pub(crate) struct Ready {
    levels: Vec<Level>,
    /// A bit for each level that is not empty; says nothing if there is only one.
    occupied: Occupied,
    /// Whose turn it is, if not always the highest level's.
    fairshare: Option<Box<Fairshare>>,
    messages: usize,
    body_bytes: u64,
    /// Messages that expire at some time.
    expiring: usize,
    /// Levels with messages that are out of memory.
    tails: usize,
    /// Those messages, and the bytes that they count for; what is being read is not in memory yet.
    away_messages: usize,
    away_bytes: u64,
}

impl Ready {
    /// Levels 0 to `max_priority`.
    pub(crate) fn new(max_priority: u8) -> Self {
        Ready {
            levels: (0..=max_priority).map(|_| Level::default()).collect(),
            occupied: [0; 4],
            fairshare: None,
            messages: 0,
            body_bytes: 0,
            expiring: 0,
            tails: 0,
            away_messages: 0,
            away_bytes: 0,
        }
    }

    /// The same with most messages in a row for each level; 0 for no limit.
    pub(crate) fn with_shares(mut self, shares: Option<Arc<[u32]>>) -> Self {
        self.fairshare = shares.map(|shares| Box::new(Fairshare::new(shares)));
        self
    }

    /// Takes everything out.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Ready { fairshare: self.fairshare.clone(), ..Ready::new(self.max_priority()) };
        std::mem::replace(self, empty)
    }

    /// Highest priority; higher ones count as this one.
    pub(crate) fn max_priority(&self) -> u8 {
        (self.levels.len() - 1) as u8
    }

    pub(crate) fn len(&self) -> usize {
        self.messages
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// Appends a new message; its sequence is higher than all before.
    pub(crate) fn push(&mut self, item: Item) {
        self.count_in(&item);
        self.levels[usize::from(item.priority)].push(item);
    }

    /// Puts a message back to its place.
    pub(crate) fn put_back(&mut self, item: Item) {
        assert!(item.followers == 0, "messages come back one by one");
        self.count_in(&item);
        self.levels[usize::from(item.priority)].put_back(item);
    }

    /// Takes the next message in order.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Item> {
        self.pop_batch(1)
    }

    /// Takes the next message in order; where that is as good, with those of its batch that follow, at most `most` in
    /// all.
    #[inline]
    pub(crate) fn pop_batch(&mut self, most: u16) -> Option<Item> {
        // Plain FIFOs, from which nothing has come back, are most of all.
        if let [level] = &mut self.levels[..]
            && level.irregular == 0
        {
            let item = level.pop_fresh(most)?;
            self.count_out(&item);
            if self.messages == 0 {
                self.levels[0].shrink();
            }
            return Some(item);
        }
        self.pop_highest()
    }

    fn pop_highest(&mut self) -> Option<Item> {
        let level = self.next_level()?;
        self.levels[level].head()?;
        if let Some(fairshare) = &mut self.fairshare {
            fairshare.taken(level);
        }
        self.pop_from(level)
    }

    /// Takes the head of a level if it has expired before `now_ns`.
    pub(crate) fn pop_expired(&mut self, now_ns: u64) -> Option<Item> {
        if self.expiring == 0 {
            return None;
        }
        let level = (0..self.levels.len())
            .find(|&level| self.levels[level].head().is_some_and(|item| item.expires_ns <= now_ns))?;
        self.pop_from(level)
    }

    /// The next message in order.
    #[inline]
    pub(crate) fn peek(&self) -> Option<&Item> {
        self.levels[self.next_level()?].head()
    }

    /// The oldest message of the lowest priority.
    pub(crate) fn peek_lowest(&self) -> Option<&Item> {
        self.levels[self.lowest()?].head()
    }

    /// Takes the oldest message of the lowest priority.
    pub(crate) fn pop_lowest(&mut self) -> Option<Item> {
        self.pop_from(self.lowest()?)
    }

    /// Takes the message at a place of a level.
    pub(crate) fn remove(&mut self, level: u8, sequence: u64) -> Option<Item> {
        let index = usize::from(level);
        let item = self.levels[index].remove(sequence)?;
        self.count_out(&item);
        self.note_taken(index);
        Some(item)
    }

    /// When the first of the levels' heads expires, of those that nobody reads yet.
    pub(crate) fn next_expiry_ns(&self) -> Option<u64> {
        if self.expiring == 0 {
            return None;
        }
        let heads = self.levels.iter().filter_map(|level| match level.head() {
            Some(head) => Some(head.expires_ns),
            None => level.head_away().map(|away| away.item.expires_ns),
        });
        heads.min().filter(|&ns| ns != NEVER_NS)
    }

    /// Whether anything expires at some time.
    pub(crate) fn may_expire(&self) -> bool {
        self.expiring > 0
    }

    /// The first message in order of arrival, whatever its priority, that is not before a place.
    pub(crate) fn next_at(&self, place: u64) -> Option<Look> {
        self.levels.iter().filter_map(|level| level.next_at(place)).min_by_key(Look::place)
    }

    /// The same among those of one level.
    pub(crate) fn next_of(&self, level: u8, place: u64) -> Option<Look> {
        self.levels[usize::from(level)].next_at(place)
    }

    /// The message at a place.
    pub(crate) fn at(&self, place: u64) -> Option<Look> {
        self.next_at(place).filter(|look| look.place() == place)
    }

    /// Places of everything that was written down, level by level: first ones, and how many follow each other.
    pub(crate) fn recorded_runs(&self) -> impl Iterator<Item = (u64, u64)> {
        let items = self.levels.iter().flat_map(Level::recorded);
        items.map(|item| (item.sequence, item.messages() as u64))
    }

    /// Everything, in order; what is out of memory comes last.
    pub(crate) fn into_leaving(mut self) -> impl Iterator<Item = Leaving> + Send {
        std::iter::from_fn(move || {
            let here = self.pop().map(Leaving::Here);
            here.or_else(|| self.pop_away().map(Leaving::Away))
        })
    }

    /// The level of the next message.
    #[inline]
    pub(super) fn next_level(&self) -> Option<usize> {
        if self.messages == 0 {
            return None;
        }
        if self.levels.len() == 1 {
            return Some(0);
        }
        if let Some(fairshare) = &self.fairshare {
            return fairshare.next(&self.occupied);
        }
        let word = (0..4).rev().find(|&word| self.occupied[word] != 0)?;
        Some(word * 64 + self.occupied[word].ilog2() as usize)
    }

    fn lowest(&self) -> Option<usize> {
        if self.messages == 0 {
            return None;
        }
        if self.levels.len() == 1 {
            return Some(0);
        }
        let word = (0..4).find(|&word| self.occupied[word] != 0)?;
        Some(word * 64 + self.occupied[word].trailing_zeros() as usize)
    }

    #[inline]
    fn pop_from(&mut self, level: usize) -> Option<Item> {
        let item = self.levels[level].pop()?;
        self.count_out(&item);
        self.note_taken(level);
        Some(item)
    }

    /// Something was taken from a level.
    #[inline]
    fn note_taken(&mut self, level: usize) {
        if self.levels[level].is_empty() {
            self.occupied[level / 64] &= !(1 << (level % 64));
            self.levels[level].shrink();
        }
    }

    #[inline]
    fn count_in(&mut self, item: &Item) {
        let level = usize::from(item.priority);
        self.occupied[level / 64] |= 1 << (level % 64);
        self.messages += item.messages();
        self.body_bytes += item.all_body_bytes();
        self.expiring += if item.expires_ns == NEVER_NS { 0 } else { item.messages() };
    }

    #[inline]
    fn count_out(&mut self, item: &Item) {
        self.messages -= item.messages();
        self.body_bytes -= item.all_body_bytes();
        self.expiring -= if item.expires_ns == NEVER_NS { 0 } else { item.messages() };
    }
}

/// What is out of memory.
impl Ready {
    /// Whether something is.
    #[inline]
    pub(crate) fn is_paged(&self) -> bool {
        self.tails > 0
    }

    /// Whether the next message is in memory.
    #[inline]
    pub(crate) fn has_head(&self) -> bool {
        self.messages > 0 && (self.tails == 0 || self.peek().is_some())
    }

    /// How many messages are in memory.
    pub(crate) fn messages_here(&self) -> usize {
        self.messages - self.away_messages
    }

    /// The memory that they take, about, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.bytes_here() + self.messages_here() as u64 * SMALLEST_BYTES
    }

    /// Whether there are messages that have not been put out of memory yet.
    pub(crate) fn may_page_out(&self) -> bool {
        self.levels.iter().any(Level::may_page_out)
    }

    /// How many are out of memory.
    pub(crate) fn messages_away(&self) -> usize {
        self.away_messages
    }

    /// The level of the next message, or of another one that has messages out of memory.
    pub(crate) fn level_of_next(&self) -> u8 {
        let next = self.next_level().filter(|&level| self.levels[level].has_tail());
        next.or_else(|| self.levels.iter().rposition(Level::has_tail)).unwrap_or(0) as u8
    }

    /// Whether something of a level can be read that nobody reads yet.
    pub(crate) fn can_read(&self, level: u8) -> bool {
        let level = &self.levels[usize::from(level)];
        level.has_tail() && !level.is_reading()
    }

    /// The bytes that they count for.
    pub(crate) fn bytes_here(&self) -> u64 {
        self.body_bytes - self.away_bytes
    }

    /// Puts a message in that has a record alone.
    pub(crate) fn put_away(&mut self, paged: PagedItem) {
        self.count_in(&paged.item);
        self.away_messages += paged.item.messages();
        self.away_bytes += paged.item.all_body_bytes();
        self.levels[usize::from(paged.item.priority)].put_away(paged);
        self.count_tails();
    }

    /// Puts messages out of memory, those that would be taken last before others, beyond the first ones of each level.
    /// `page` gives the place of a message's record, or says that it has to stay, or that there were enough. How
    /// many it were.
    pub(crate) fn page_out(&mut self, kept: Kept, mut page: impl FnMut(&Item) -> Option<Position>) -> usize {
        let mut all = 0;
        for (number, level) in self.levels.iter_mut().enumerate() {
            let (messages, bytes) = level.page_out(number as u8, kept, &mut page);
            self.away_messages += messages;
            self.away_bytes += bytes;
            all += messages;
        }
        self.count_tails();
        all
    }

    /// A level that should be read from before its messages are wanted: fewer than so many bytes are in memory before what
    /// is out of it.
    pub(crate) fn level_to_read(&self, least_bytes: u64) -> Option<u8> {
        let wants =
            |level: &Level| level.has_tail() && !level.is_reading() && level.bytes_ahead() < least_bytes;
        let number = self.levels.iter().rposition(wants)?;
        Some(number as u8)
    }

    /// Notes that messages of a level are being read: the first ones that are out of memory, or those from a place on,
    /// about so many bytes. `false`: none are, or others are being read.
    pub(crate) fn begin_read(
        &mut self,
        ticket: Ticket,
        level: u8,
        place: Option<u64>,
        most_bytes: u64,
    ) -> bool {
        self.levels[usize::from(level)].begin_read(ticket, place, most_bytes)
    }

    /// The messages of a level that are being read, of which the first one comes next.
    #[inline]
    pub(crate) fn arriving(&self, ticket: Ticket, level: u8) -> Option<&VecDeque<PagedItem>> {
        self.levels[usize::from(level)].arriving(ticket)
    }

    /// What comes next of a level is here. Whether that was the last one of those being read.
    pub(crate) fn arrive(&mut self, level: u8, message: MessageId) -> bool {
        let Some((item, is_last)) = self.levels[usize::from(level)].arrive(message) else { return true };
        self.away_messages -= item.messages();
        self.away_bytes -= item.all_body_bytes();
        if is_last {
            self.count_tails();
        }
        is_last
    }

    /// What is missing of those being read stays out of memory.
    pub(crate) fn give_up_read(&mut self, ticket: Ticket, level: u8) {
        self.levels[usize::from(level)].give_up_read(ticket);
    }

    /// A level whose first message is out of memory, is not being read, and has expired before `now_ns`.
    pub(crate) fn expired_away(&self, now_ns: u64) -> Option<u8> {
        if self.expiring == 0 || self.tails == 0 {
            return None;
        }
        let has_expired =
            |level: &Level| level.head_away().is_some_and(|away| away.item.expires_ns <= now_ns);
        self.levels.iter().position(has_expired).map(|level| level as u8)
    }

    /// The first message of a level, if it is out of memory and nobody reads it yet.
    pub(crate) fn head_away(&self, level: u8) -> Option<PagedItem> {
        self.levels[usize::from(level)].head_away()
    }

    /// Takes the first message of a level that is out of memory.
    pub(crate) fn pop_away_of(&mut self, level: u8) -> Option<PagedItem> {
        let index = usize::from(level);
        let paged = self.levels[index].pop_away()?;
        self.count_out(&paged.item);
        self.away_messages -= paged.item.messages();
        self.away_bytes -= paged.item.all_body_bytes();
        self.note_taken(index);
        self.count_tails();
        Some(paged)
    }

    fn pop_away(&mut self) -> Option<PagedItem> {
        let level = self.levels.iter().rposition(Level::has_tail)?;
        self.pop_away_of(level as u8)
    }

    /// Where the record is of the message at a place that is out of memory.
    pub(crate) fn away_at(&mut self, place: u64) -> Option<Position> {
        self.levels.iter_mut().find_map(|level| level.away_at(place))
    }

    /// The record of a message that is out of memory is elsewhere now; whether it was at `old` until now. `None`: no such
    /// message is.
    pub(crate) fn relocate(&mut self, place: u64, old: Position, new: Position) -> Option<bool> {
        self.levels.iter_mut().find_map(|level| level.relocate(place, old, new))
    }

    fn count_tails(&mut self) {
        self.tails = self.levels.iter().filter(|level| level.has_tail()).count();
    }
}

#[cfg(test)]
mod tests {
    use super::super::level::{KEPT_SLOTS, SPARED_GAPS};
    use super::*;

    fn here(look: Option<Look>) -> Option<Item> {
        look.and_then(Look::here)
    }

    fn item(sequence: u64, priority: u8) -> Item {
        Item {
            sequence,
            expires_ns: NEVER_NS,
            message: MessageId::alone(sequence as u32),
            followers: 0,
            body_bytes: 10,
            priority,
            redelivered: false,
            recorded: false,
        }
    }

    fn drain(ready: &mut Ready) -> Vec<u64> {
        std::iter::from_fn(|| ready.pop()).map(|item| item.sequence).collect()
    }

    #[test]
    fn what_is_about_to_expire_has_some_time_left() {
        let left_ms = |expires_ns, now_ns| {
            let item = Item { expires_ns, ..item(0, 0) };
            item.ttl_left_ms(now_ns).map(NonZeroU32::get)
        };
        assert_eq!(left_ms(NEVER_NS, 0), None);
        assert_eq!(left_ms(7 * NS_PER_MS, 5 * NS_PER_MS), Some(2));
        assert_eq!((left_ms(7, 5), left_ms(7, 7), left_ms(7, 9)), (Some(1), Some(1), Some(1)));
        assert_eq!(left_ms(u64::MAX - 1, 0), Some(u32::MAX));
    }

    #[test]
    fn arrival_orders_and_what_comes_back_finds_its_place() {
        let mut ready = Ready::new(0);
        (0..4).for_each(|sequence| ready.push(item(sequence, 0)));
        let (a, b) = (ready.pop().unwrap(), ready.pop().unwrap());
        ready.put_back(b);
        ready.put_back(a);
        assert_eq!((ready.len(), ready.body_bytes()), (4, 40));
        assert_eq!(drain(&mut ready), [0, 1, 2, 3]);
        assert_eq!((ready.len(), ready.body_bytes()), (0, 0));
    }

    #[test]
    fn a_batch_comes_apart_where_it_must() {
        let mut ready = Ready::new(0);
        let batch = Item { followers: 9, expires_ns: 50, ..item(0, 0) };
        ready.push(batch);
        ready.push(item(10, 0));
        assert_eq!((ready.len(), ready.body_bytes(), ready.next_expiry_ns()), (11, 110, Some(50)));
        let first = ready.pop().unwrap();
        assert_eq!((first.sequence, first.message, first.followers), (0, batch.message, 0));
        let some = ready.pop_batch(3).unwrap();
        assert_eq!((some.sequence, some.message, some.followers), (1, batch.message.after(1), 2));
        assert_eq!((ready.len(), ready.body_bytes()), (7, 70));
        // What came back stands before the rest of its batch, and while it is there all leave one by one.
        ready.put_back(first);
        assert_eq!(ready.pop_batch(100).unwrap().sequence, 0);
        assert_eq!(ready.pop_expired(50).unwrap().message, batch.message.after(4));
        let rest = ready.pop_batch(100).unwrap();
        assert_eq!((rest.sequence, rest.message, rest.followers), (5, batch.message.after(5), 4));
        assert_eq!((ready.len(), ready.may_expire()), (1, false));
        assert_eq!(drain(&mut ready), [10]);
    }

    #[test]
    fn higher_priorities_come_first() {
        let mut ready = Ready::new(255);
        for (sequence, priority) in [(0, 0), (1, 255), (2, 64), (3, 255), (4, 63)] {
            ready.push(item(sequence, priority));
        }
        assert_eq!(drain(&mut ready), [1, 3, 2, 4, 0]);
    }

    #[test]
    fn only_heads_expire() {
        let mut ready = Ready::new(1);
        ready.push(Item { expires_ns: 50, ..item(0, 0) });
        ready.push(Item { expires_ns: 10, ..item(1, 0) });
        ready.push(Item { expires_ns: 20, ..item(2, 1) });
        assert_eq!(ready.next_expiry_ns(), Some(20));
        assert_eq!(ready.pop_expired(19), None);
        assert_eq!(ready.pop_expired(20).unwrap().sequence, 2);
        assert_eq!(ready.pop_expired(49), None);
        assert_eq!(ready.pop_expired(50).unwrap().sequence, 0);
        assert_eq!(ready.pop_expired(50).unwrap().sequence, 1);
        assert_eq!(ready.next_expiry_ns(), None);
    }

    #[test]
    fn messages_leave_from_anywhere_and_the_rest_keeps_its_order() {
        let mut ready = Ready::new(1);
        (0..6).for_each(|sequence| ready.push(item(sequence, (sequence % 2) as u8)));
        ready.push(Item { followers: 4, ..item(6, 0) });
        assert_eq!(here(ready.at(2)).unwrap(), item(2, 0));
        assert_eq!(ready.remove(0, 2).unwrap().sequence, 2);
        assert!(ready.remove(0, 2).is_none() && ready.remove(1, 4).is_none() && ready.at(2).is_none());
        // Out of the middle, the beginning and the end of a batch.
        let (middle, first, last) =
            (ready.remove(0, 8).unwrap(), ready.remove(0, 6).unwrap(), ready.remove(0, 10).unwrap());
        assert_eq!(
            [middle, first, last].map(|item| (item.sequence, item.followers)),
            [(8, 0), (6, 0), (10, 0)]
        );
        assert_eq!(middle.message, MessageId::alone(6).after(2));
        assert_eq!((ready.len(), ready.body_bytes()), (7, 70));
        ready.put_back(middle);
        assert_eq!(drain(&mut ready), [1, 3, 5, 0, 4, 7, 8, 9]);
        assert!(ready.remove(0, 7).is_none() && ready.is_empty());
        assert_eq!(ready.occupied, [0; 4]);
    }

    #[test]
    fn a_look_goes_from_place_to_place() {
        let mut ready = Ready::new(1);
        (0..4).for_each(|sequence| ready.push(item(sequence, (sequence % 2) as u8)));
        ready.push(Item { followers: 2, ..item(4, 0) });
        ready.remove(0, 2);
        let five = ready.remove(0, 5).unwrap();
        let look = |ready: &Ready| {
            let mut place = 0;
            let mut seen = Vec::new();
            while let Some(item) = here(ready.next_at(place)) {
                assert_eq!(item.followers, 0);
                seen.push(item.sequence);
                place = item.sequence + 1;
            }
            seen
        };
        assert_eq!(look(&ready), [0, 1, 3, 4, 6]);
        ready.put_back(five);
        assert_eq!(look(&ready), [0, 1, 3, 4, 5, 6]);
        assert_eq!((here(ready.next_of(1, 2)).unwrap().sequence, ready.next_of(1, 4)), (3, None));
        assert_eq!(here(ready.next_at(5)).unwrap().message, MessageId::alone(4).after(1));
    }

    #[test]
    fn gaps_do_not_pile_up() {
        let mut ready = Ready::new(0);
        (0..10_000).for_each(|sequence| ready.push(item(sequence, 0)));
        for sequence in 1..9_999 {
            assert_eq!(ready.remove(0, sequence).unwrap().sequence, sequence);
            let level = &ready.levels[0];
            assert!(level.fresh.gaps <= SPARED_GAPS.max(level.fresh.items.len() / 2 + 1));
        }
        assert!(ready.levels[0].fresh.items.len() < 100);
        assert_eq!(drain(&mut ready), [0, 9_999]);
        assert_eq!(ready.levels[0].irregular, 0);
    }

    #[test]
    fn an_emptied_burst_gives_its_room_back() {
        let mut ready = Ready::new(0);
        (0..4 * KEPT_SLOTS as u64).for_each(|sequence| ready.push(item(sequence, 0)));
        drain(&mut ready);
        assert!(ready.levels[0].fresh.items.capacity() <= KEPT_SLOTS);
    }
}
