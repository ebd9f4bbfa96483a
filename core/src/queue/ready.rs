//! The messages of a queue that wait to be delivered: an ordering by priority, then by arrival.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::MessageId;

/// "Never", as a moment.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// Room for this many messages is kept by an empty level; what a burst took beyond goes back.
const KEPT_SLOTS: usize = 64 * 1024;

/// A message in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Place in the queue; a message keeps it while it is there.
    pub sequence: u64,
    /// When it expires, or [`NEVER_NS`].
    pub expires_ns: u64,
    /// The message; the queue owns one reference.
    pub message: MessageId,
    /// Length of its body.
    pub body_bytes: u32,
    /// Its level.
    pub priority: u8,
    /// Has been delivered before.
    pub redelivered: bool,
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
            return self.fresh.pop_front();
        }
        let from_fresh = match (self.fresh.front(), self.returned.peek()) {
            (Some(fresh), Some(Reverse(returned))) => fresh < returned,
            _ => false,
        };
        if from_fresh { self.fresh.pop_front() } else { self.returned.pop().map(|Reverse(item)| item) }
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
        self.count_in(&item);
        self.levels[usize::from(item.priority)].returned.push(Reverse(item));
    }

    /// Takes the next message in order.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Item> {
        // Plain FIFOs, from which nothing has come back, are most of all.
        if let [level] = &mut self.levels[..]
            && level.returned.is_empty()
        {
            let item = level.fresh.pop_front()?;
            self.messages -= 1;
            self.body_bytes -= u64::from(item.body_bytes);
            self.expiring -= usize::from(item.expires_ns != NEVER_NS);
            if self.messages == 0 {
                level.shrink();
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

    #[inline]
    fn pop_from(&mut self, level: usize) -> Option<Item> {
        let item = self.levels[level].pop()?;
        self.messages -= 1;
        self.body_bytes -= u64::from(item.body_bytes);
        self.expiring -= usize::from(item.expires_ns != NEVER_NS);
        if self.levels[level].is_empty() {
            self.occupied[level / 64] &= !(1 << (level % 64));
            self.levels[level].shrink();
        }
        Some(item)
    }

    #[inline]
    fn count_in(&mut self, item: &Item) {
        let level = usize::from(item.priority);
        self.occupied[level / 64] |= 1 << (level % 64);
        self.messages += 1;
        self.body_bytes += u64::from(item.body_bytes);
        self.expiring += usize::from(item.expires_ns != NEVER_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(sequence: u64, priority: u8) -> Item {
        Item {
            sequence,
            expires_ns: NEVER_NS,
            message: MessageId(sequence as u32),
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
