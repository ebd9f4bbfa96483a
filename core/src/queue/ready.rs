//! The messages of a queue that wait to be delivered: an ordering by priority, then by arrival.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::MessageId;

/// "Never", as a moment.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// Room for this many messages is kept by an empty level; what a burst took beyond goes back.
const KEPT_SLOTS: usize = 64 * 1024;

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
    pub followers: u16,
    /// The bytes that it counts for: of its body; in a queue that counts as Qpid does, of its properties too.
    pub body_bytes: u32,
    /// Its level.
    pub priority: u8,
    /// Has been delivered before.
    pub redelivered: bool,
}

// Half a cache line.
const _: () = assert!(size_of::<Item>() == 32);

impl Item {
    /// How many messages it stands for.
    #[inline]
    pub(crate) fn messages(&self) -> usize {
        usize::from(self.followers) + 1
    }

    /// Takes the first `messages` off, which are fewer than there are.
    #[inline]
    fn split_off_first(&mut self, messages: u16) -> Item {
        let first = Item { followers: messages - 1, ..*self };
        self.sequence += u64::from(messages);
        self.message = self.message.after(messages);
        self.followers -= messages;
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

/// One priority: new messages in order of arrival, and those that came back, which are older than all new ones taken
/// since.
#[derive(Default)]
struct Level {
    fresh: VecDeque<Item>,
    returned: BinaryHeap<Reverse<Item>>,
}

impl Level {
    #[inline]
    fn head(&self) -> Option<&Item> {
        if self.returned.is_empty() {
            return self.fresh.front();
        }
        match (self.fresh.front(), self.returned.peek()) {
            (Some(fresh), Some(Reverse(returned))) => Some(fresh.min(returned)),
            (fresh, returned) => fresh.or(returned.map(|Reverse(item)| item)),
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Item> {
        if self.returned.is_empty() {
            return self.pop_fresh(1);
        }
        let from_fresh = match (self.fresh.front(), self.returned.peek()) {
            (Some(fresh), Some(Reverse(returned))) => fresh < returned,
            _ => false,
        };
        if from_fresh { self.pop_fresh(1) } else { self.returned.pop().map(|Reverse(item)| item) }
    }

    /// Takes the next new message, with those of its batch that follow, at most `most` in all.
    #[inline]
    fn pop_fresh(&mut self, most: u16) -> Option<Item> {
        let front = self.fresh.front_mut()?;
        if front.followers >= most { Some(front.split_off_first(most)) } else { self.fresh.pop_front() }
    }

    /// Takes the message at a place, which is not part of a batch.
    fn remove(&mut self, sequence: u64) -> Option<Item> {
        if let Ok(at) = self.fresh.binary_search_by_key(&sequence, |item| item.sequence) {
            return self.fresh.remove(at);
        }
        let found = self.returned.iter().find(|Reverse(item)| item.sequence == sequence)?.0;
        self.returned.retain(|Reverse(item)| item.sequence != sequence);
        Some(found)
    }

    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    #[inline]
    fn shrink(&mut self) {
        if self.fresh.capacity() > KEPT_SLOTS {
            self.fresh.shrink_to(KEPT_SLOTS / 2);
        }
        if self.returned.capacity() > KEPT_SLOTS {
            self.returned.shrink_to(KEPT_SLOTS / 2);
        }
    }
}

/// All ready messages of a queue. A plain FIFO has one level.
pub(crate) struct Ready {
    levels: Vec<Level>,
    /// A bit for each level that is not empty; says nothing if there is only one.
    occupied: [u64; 4],
    messages: usize,
    body_bytes: u64,
    /// Messages that expire at some time.
    expiring: usize,
}

impl Ready {
    /// Levels 0 to `max_priority`.
    pub(crate) fn new(max_priority: u8) -> Self {
        Ready {
            levels: (0..=max_priority).map(|_| Level::default()).collect(),
            occupied: [0; 4],
            messages: 0,
            body_bytes: 0,
            expiring: 0,
        }
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
        self.levels[usize::from(item.priority)].fresh.push_back(item);
    }

    /// Puts a message back to its place.
    pub(crate) fn put_back(&mut self, item: Item) {
        assert!(item.followers == 0, "messages come back one by one");
        self.count_in(&item);
        self.levels[usize::from(item.priority)].returned.push(Reverse(item));
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
            && level.returned.is_empty()
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
        let level = self.highest()?;
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
        self.levels[self.highest()?].head()
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

    /// When the first of the levels' heads expires.
    pub(crate) fn next_expiry_ns(&self) -> Option<u64> {
        if self.expiring == 0 {
            return None;
        }
        let heads = self.levels.iter().filter_map(Level::head);
        heads.map(|item| item.expires_ns).min().filter(|&ns| ns != NEVER_NS)
    }

    /// Whether anything expires at some time.
    pub(crate) fn may_expire(&self) -> bool {
        self.expiring > 0
    }

    /// Everything, in order.
    pub(crate) fn into_items(mut self) -> impl Iterator<Item = Item> + Send {
        std::iter::from_fn(move || self.pop())
    }

    #[inline]
    fn highest(&self) -> Option<usize> {
        if self.messages == 0 {
            return None;
        }
        if self.levels.len() == 1 {
            return Some(0);
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
        self.body_bytes += u64::from(item.body_bytes) * item.messages() as u64;
        self.expiring += if item.expires_ns == NEVER_NS { 0 } else { item.messages() };
    }

    #[inline]
    fn count_out(&mut self, item: &Item) {
        self.messages -= item.messages();
        self.body_bytes -= u64::from(item.body_bytes) * item.messages() as u64;
        self.expiring -= if item.expires_ns == NEVER_NS { 0 } else { item.messages() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sequence: u64, priority: u8) -> Item {
        Item {
            sequence,
            expires_ns: NEVER_NS,
            message: MessageId::alone(sequence as u32),
            followers: 0,
            body_bytes: 10,
            priority,
            redelivered: false,
        }
    }

    fn drain(ready: &mut Ready) -> Vec<u64> {
        std::iter::from_fn(|| ready.pop()).map(|item| item.sequence).collect()
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
    fn an_emptied_burst_gives_its_room_back() {
        let mut ready = Ready::new(0);
        (0..4 * KEPT_SLOTS as u64).for_each(|sequence| ready.push(item(sequence, 0)));
        drain(&mut ready);
        assert!(ready.levels[0].fresh.capacity() <= KEPT_SLOTS);
    }
}
