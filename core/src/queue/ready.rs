//! The messages of a queue that wait to be delivered: an ordering by priority, then by arrival.
//!
//! They leave at the head, which costs no more than a queue of handles does, or from anywhere by their place, which
//! costs a search. Whoever looks at them one after the other keeps his own place.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::NS_PER_MS;
use super::fairshare::{Fairshare, Occupied};
use crate::MessageId;

/// "Never", as a moment.
pub(crate) const NEVER_NS: u64 = u64::MAX;

/// Room for this many messages is kept by an empty level; what a burst took beyond goes back.
const KEPT_SLOTS: usize = 64 * 1024;

/// So many gaps in a level may stay, however few messages there are.
const SPARED_GAPS: usize = 32;

/// In place of a message that was taken out of the middle.
const GAP: MessageId = MessageId { slot: u32::MAX, part: u16::MAX };

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

    /// The place of the last message that it stands for.
    #[inline]
    fn last_sequence(&self) -> u64 {
        self.sequence + u64::from(self.followers)
    }

    #[inline]
    fn is_gap(&self) -> bool {
        self.message == GAP
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
    fn split_off_first(&mut self, messages: u16) -> Item {
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

/// One priority: new messages in order of arrival, and those that came back, which are older than all new ones taken
/// since.
///
/// Where one was taken out of the middle of the new ones, a gap stays, to be passed over. The first place is no gap.
#[derive(Default)]
struct Level {
    fresh: VecDeque<Item>,
    returned: BTreeMap<u64, Item>,
    gaps: usize,
    /// As many as have come back and gaps there are; 0: the new ones are all there is.
    irregular: usize,
}

impl Level {
    #[inline]
    fn head(&self) -> Option<&Item> {
        if self.irregular == 0 {
            return self.fresh.front();
        }
        match (self.fresh.front(), self.returned.values().next()) {
            (Some(fresh), Some(returned)) => Some(fresh.min(returned)),
            (fresh, returned) => fresh.or(returned),
        }
    }

    #[inline]
    fn pop(&mut self) -> Option<Item> {
        if self.irregular == 0 { self.pop_fresh(1) } else { self.pop_irregular() }
    }

    /// Takes the next new message, with those of its batch that follow, at most `most` in all. Gaps behind it stay.
    #[inline]
    fn pop_fresh(&mut self, most: u16) -> Option<Item> {
        let front = self.fresh.front_mut()?;
        if u16::from(front.followers) >= most {
            Some(front.split_off_first(most))
        } else {
            self.fresh.pop_front()
        }
    }

    fn pop_irregular(&mut self) -> Option<Item> {
        let returned = self.returned.first_entry();
        if let Some(returned) = returned
            && self.fresh.front().is_none_or(|fresh| returned.key() < &fresh.sequence)
        {
            self.irregular -= 1;
            return Some(returned.remove());
        }
        let item = self.pop_fresh(1);
        self.drop_first_gaps();
        item
    }

    fn put_back(&mut self, item: Item) {
        self.returned.insert(item.sequence, item);
        self.irregular += 1;
    }

    /// The first message that is not before a place.
    fn next_at(&self, place: u64) -> Option<Item> {
        let returned = self.returned.range(place..).next().map(|(_, item)| *item);
        let from = self.fresh.partition_point(|item| item.last_sequence() < place);
        let fresh = self.fresh.range(from..).find(|item| !item.is_gap()).map(|item| item.alone_at(place));
        match (fresh, returned) {
            (Some(fresh), Some(returned)) => Some(fresh.min(returned)),
            (fresh, returned) => fresh.or(returned),
        }
    }

    /// Takes the message at a place.
    fn remove(&mut self, place: u64) -> Option<Item> {
        if let Some(item) = self.returned.remove(&place) {
            self.irregular -= 1;
            return Some(item);
        }
        let at = self.fresh.partition_point(|item| item.last_sequence() < place);
        let found = self.fresh.get_mut(at).filter(|item| item.sequence <= place && !item.is_gap())?;
        // Those of its batch that stand before it are as if they had come back.
        while found.sequence < place {
            let before = found.split_off_first(1);
            self.returned.insert(before.sequence, before);
            self.irregular += 1;
        }
        if found.followers > 0 {
            return Some(found.split_off_first(1));
        }
        let item = *found;
        found.message = GAP;
        self.gaps += 1;
        self.irregular += 1;
        self.drop_first_gaps();
        self.close_gaps();
        Some(item)
    }

    fn drop_first_gaps(&mut self) {
        while self.fresh.front().is_some_and(Item::is_gap) {
            self.fresh.pop_front();
            self.gaps -= 1;
            self.irregular -= 1;
        }
    }

    /// Closes the gaps once they are the greater part.
    fn close_gaps(&mut self) {
        if self.gaps >= SPARED_GAPS && 2 * self.gaps > self.fresh.len() {
            self.fresh.retain(|item| !item.is_gap());
            self.irregular -= self.gaps;
            self.gaps = 0;
        }
    }

    fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.returned.is_empty()
    }

    #[inline]
    fn shrink(&mut self) {
        if self.fresh.capacity() > KEPT_SLOTS {
            self.fresh.shrink_to(KEPT_SLOTS / 2);
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
        self.levels[usize::from(item.priority)].fresh.push_back(item);
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

    /// The first message in order of arrival, whatever its priority, that is not before a place; as one alone.
    pub(crate) fn next_at(&self, place: u64) -> Option<Item> {
        self.levels.iter().filter_map(|level| level.next_at(place)).min()
    }

    /// The same among those of one level.
    pub(crate) fn next_of(&self, level: u8, place: u64) -> Option<Item> {
        self.levels[usize::from(level)].next_at(place)
    }

    /// The message at a place.
    pub(crate) fn at(&self, place: u64) -> Option<Item> {
        self.next_at(place).filter(|item| item.sequence == place)
    }

    /// Everything, in order.
    pub(crate) fn into_items(mut self) -> impl Iterator<Item = Item> + Send {
        std::iter::from_fn(move || self.pop())
    }

    /// The level of the next message.
    #[inline]
    fn next_level(&self) -> Option<usize> {
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
        assert_eq!(ready.at(2).unwrap(), item(2, 0));
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
            while let Some(item) = ready.next_at(place) {
                assert_eq!(item.followers, 0);
                seen.push(item.sequence);
                place = item.sequence + 1;
            }
            seen
        };
        assert_eq!(look(&ready), [0, 1, 3, 4, 6]);
        ready.put_back(five);
        assert_eq!(look(&ready), [0, 1, 3, 4, 5, 6]);
        assert_eq!((ready.next_of(1, 2).unwrap().sequence, ready.next_of(1, 4)), (3, None));
        assert_eq!(ready.next_at(5).unwrap().message, MessageId::alone(4).after(1));
    }

    #[test]
    fn gaps_do_not_pile_up() {
        let mut ready = Ready::new(0);
        (0..10_000).for_each(|sequence| ready.push(item(sequence, 0)));
        for sequence in 1..9_999 {
            assert_eq!(ready.remove(0, sequence).unwrap().sequence, sequence);
            let level = &ready.levels[0];
            assert!(level.gaps <= SPARED_GAPS.max(level.fresh.len() / 2 + 1));
        }
        assert!(ready.levels[0].fresh.len() < 100);
        assert_eq!(drain(&mut ready), [0, 9_999]);
        assert_eq!(ready.levels[0].irregular, 0);
    }

    #[test]
    fn an_emptied_burst_gives_its_room_back() {
        let mut ready = Ready::new(0);
        (0..4 * KEPT_SLOTS as u64).for_each(|sequence| ready.push(item(sequence, 0)));
        drain(&mut ready);
        assert!(ready.levels[0].fresh.capacity() <= KEPT_SLOTS);
    }
}
