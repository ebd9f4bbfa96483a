//! The messages that a channel was handed and has not settled, by delivery tag.

use std::collections::VecDeque;

use fulmar_core::QueueId;

/// A message that the client has not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The client's name for it.
    pub delivery_tag: u64,
    /// The queue's handle for it.
    pub tag: u64,
    /// Where it came from.
    pub queue: QueueId,
    /// Still unsettled; entries settled in the middle stay as holes for a while.
    live: bool,
}

/// Ordered by delivery tag. Without holes and tags of settled deliveries between, an entry's place follows from its
/// tag; otherwise it is searched for. Holes never outnumber the living by more than a constant.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    entries: VecDeque<Entry>,
    live: usize,
}

/// So few holes are not worth a pass.
const HOLES_KEPT: usize = 1024;
/// Room that is kept when nothing is unsettled.
const ENTRIES_KEPT: usize = 64 * 1024;

impl Unacked {
    /// Adds a message; delivery tags only grow.
    pub fn push(&mut self, delivery_tag: u64, queue: QueueId, tag: u64) {
        self.entries.push_back(Entry { delivery_tag, tag, queue, live: true });
        self.live += 1;
    }

    /// How many are unsettled.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Takes the message of that tag.
    pub fn take(&mut self, delivery_tag: u64) -> Option<Entry> {
        let at = self.find(delivery_tag)?;
        let entry = self.entries[at];
        self.entries[at].live = false;
        self.live -= 1;
        if at == 0 {
            self.trim();
        } else if self.entries.len() - self.live > self.live + HOLES_KEPT {
            self.entries.retain(|entry| entry.live);
        }
        Some(entry)
    }

    /// Takes the oldest message, if its tag is at most `up_to`.
    pub fn take_first(&mut self, up_to: u64) -> Option<Entry> {
        let entry = *self.entries.front()?;
        debug_assert!(entry.live);
        if entry.delivery_tag > up_to {
            return None;
        }
        self.entries.pop_front();
        self.live -= 1;
        self.trim();
        Some(entry)
    }

    /// Takes the newest message.
    pub fn take_last(&mut self) -> Option<Entry> {
        while let Some(entry) = self.entries.pop_back() {
            if entry.live {
                self.live -= 1;
                return Some(entry);
            }
        }
        None
    }

    /// Whether the message of that tag is unsettled.
    pub fn contains(&self, delivery_tag: u64) -> bool {
        self.find(delivery_tag).is_some()
    }

    /// Puts messages back that were taken.
    pub fn restore(&mut self, taken: impl Iterator<Item = Entry>) {
        self.entries.retain(|entry| entry.live);
        self.entries.extend(taken);
        self.entries.make_contiguous().sort_unstable_by_key(|entry| entry.delivery_tag);
        self.entries.iter_mut().for_each(|entry| entry.live = true);
        self.live = self.entries.len();
    }

    /// Holes at the front go, so that the front is alive.
    fn trim(&mut self) {
        while self.entries.front().is_some_and(|entry| !entry.live) {
            self.entries.pop_front();
        }
        if self.entries.is_empty() && self.entries.capacity() > ENTRIES_KEPT {
            self.entries.shrink_to(ENTRIES_KEPT);
        }
    }

    fn find(&self, delivery_tag: u64) -> Option<usize> {
        let first = self.entries.front()?.delivery_tag;
        let guess = usize::try_from(delivery_tag.checked_sub(first)?).ok()?;
        let at = match self.entries.get(guess) {
            Some(entry) if entry.delivery_tag == delivery_tag => guess,
            _ => self.entries.binary_search_by_key(&delivery_tag, |entry| entry.delivery_tag).ok()?,
        };
        self.entries[at].live.then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulmar_core::ShardId;

    fn queue() -> QueueId {
        QueueId { home: ShardId(0), index: 0, generation: 0 }
    }

    fn filled(tags: impl Iterator<Item = u64>) -> Unacked {
        let mut unacked = Unacked::default();
        tags.for_each(|tag| unacked.push(tag, queue(), tag + 1000));
        unacked
    }

    #[test]
    fn every_tag_is_found_once() {
        let mut unacked = filled((1..=9).filter(|tag| tag % 3 != 0));
        assert_eq!(unacked.take(3), None);
        assert_eq!(unacked.take(5).map(|entry| entry.tag), Some(1005));
        assert_eq!(unacked.take(5), None);
        assert_eq!(unacked.take_first(8).map(|entry| entry.delivery_tag), Some(1));
        assert_eq!(unacked.take(2).map(|entry| entry.tag), Some(1002));
        assert_eq!(unacked.take_first(3), None);
        assert_eq!(unacked.take_last().map(|entry| entry.delivery_tag), Some(8));
        assert_eq!(unacked.len(), 2);
    }

    #[test]
    fn one_held_message_does_not_keep_the_settled_ones() {
        let mut unacked = filled(1..=2);
        for tag in 3..100_000 {
            unacked.push(tag, queue(), tag);
            assert!(unacked.take(tag).is_some());
        }
        assert_eq!(unacked.len(), 2);
        assert!(unacked.entries.len() < 2 * HOLES_KEPT + 8);
        assert!(unacked.contains(2));
    }

    #[test]
    fn restored_messages_are_in_order() {
        let mut unacked = filled(1..=6);
        let taken = [unacked.take(4).unwrap(), unacked.take(2).unwrap()];
        unacked.restore(taken.into_iter());
        let order: Vec<_> =
            std::iter::from_fn(|| unacked.take_first(u64::MAX)).map(|e| e.delivery_tag).collect();
        assert_eq!(order, [1, 2, 3, 4, 5, 6]);
    }
}
