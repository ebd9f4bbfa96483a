//! Messages handed out and not settled: a slab whose tags never name a successor.

use super::ready::Item;

/// Set in the tag of a message that was fetched, not delivered to a consumer.
const FETCHED: u64 = 1 << 63;

/// Set in the tag of a message that was sent to be looked at; the rest is its place.
const BROWSED: u64 = 1 << 62;

/// Generations of slots are from 1 to this, so that they fit beside the marks.
const MAX_GENERATION: u32 = (1 << 30) - 1;

const NONE: u32 = u32::MAX;

/// A message in a client's hands.
#[derive(Clone, Copy, Debug)]
pub struct Unsettled {
    /// The message.
    pub item: Item,
    /// The consumer that it was delivered to; `None` if it was fetched.
    pub consumer: Option<ConsumerKey>,
}

/// A consumer's slot in its queue, with the generation of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerKey {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

struct Slot {
    held: Option<Unsettled>,
    generation: u32,
    next_free: u32,
}

/// The messages of one queue in clients' hands.
pub(crate) struct UnsettledTable {
    slots: Vec<Slot>,
    free: u32,
    len: usize,
    bytes: u64,
    /// How many have been inserted.
    inserted: u64,
    index: Index,
}

/// The slots of what is there, by place; made when somebody looks for places, and good until something is inserted.
#[derive(Default)]
struct Index {
    inserted: u64,
    slots: Vec<(u64, u32)>,
}

/// Whether a tag names a message that was delivered to a consumer and is to be settled: not one that was fetched, or
/// sent to be looked at.
#[inline]
pub(crate) fn counts_as_held(tag: u64) -> bool {
    (1..BROWSED).contains(&tag)
}

/// Whether a tag names a message that was sent to be looked at.
#[inline]
pub(crate) fn is_browsed(tag: u64) -> bool {
    (BROWSED..FETCHED).contains(&tag)
}

/// The tag of a message that is sent to be looked at.
pub(crate) fn tag_to_browse(place: u64) -> u64 {
    debug_assert!(place < BROWSED);
    place | BROWSED
}

/// The place of a message that was sent to be looked at.
pub(crate) fn browsed_place(tag: u64) -> Option<u64> {
    is_browsed(tag).then_some(tag & !BROWSED)
}

impl UnsettledTable {
    pub(crate) fn new() -> Self {
        UnsettledTable {
            slots: Vec::new(),
            free: NONE,
            len: 0,
            bytes: 0,
            inserted: 0,
            index: Index::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that its messages count for.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps a message until it is settled; returns its tag, which is never 0.
    #[inline]
    pub(crate) fn insert(&mut self, held: Unsettled) -> u64 {
        let mark = if held.consumer.is_none() { FETCHED } else { 0 };
        self.len += 1;
        self.inserted += 1;
        self.bytes += u64::from(held.item.body_bytes);
        if self.free == NONE {
            let index = self.slots.len() as u32;
            self.slots.push(Slot { held: Some(held), generation: 1, next_free: NONE });
            return 1 << 32 | u64::from(index) | mark;
        }
        let index = self.free;
        let slot = &mut self.slots[index as usize];
        self.free = slot.next_free;
        slot.held = Some(held);
        u64::from(slot.generation) << 32 | u64::from(index) | mark
    }

    /// The message that a tag names; `None` if it has been settled.
    pub(crate) fn get(&self, tag: u64) -> Option<&Item> {
        let (index, generation) = (tag as u32, ((tag & !FETCHED) >> 32) as u32);
        let slot = self.slots.get(index as usize).filter(|slot| slot.generation == generation)?;
        slot.held.as_ref().map(|held| &held.item)
    }

    /// Takes the message that a tag names; `None` if it has been settled.
    #[inline]
    pub(crate) fn remove(&mut self, tag: u64) -> Option<Unsettled> {
        // No generation is as high as in the tag of a message to look at.
        let (index, generation) = (tag as u32, ((tag & !FETCHED) >> 32) as u32);
        let slot = self.slots.get_mut(index as usize).filter(|slot| slot.generation == generation)?;
        let held = slot.held.take()?;
        slot.generation = slot.generation % MAX_GENERATION + 1;
        slot.next_free = self.free;
        self.free = index;
        self.len -= 1;
        self.bytes -= u64::from(held.item.body_bytes);
        Some(held)
    }

    /// The message at a place. Looking for many, without anything coming in between, costs little more than for one.
    pub(crate) fn at(&mut self, place: u64) -> Option<Item> {
        if self.index.inserted != self.inserted {
            let held = |(slot, index): (&Slot, u32)| Some((slot.held?.item.sequence, index));
            let mut slots: Vec<_> = self.slots.iter().zip(0..).filter_map(held).collect();
            slots.sort_unstable();
            self.index = Index { inserted: self.inserted, slots };
        }
        let at = self.index.slots.binary_search_by_key(&place, |&(place, _)| place).ok()?;
        let slot = &self.slots[self.index.slots[at].1 as usize];
        slot.held.map(|held| held.item).filter(|item| item.sequence == place)
    }

    /// The places of its messages, in no order.
    pub(crate) fn places(&self) -> impl Iterator<Item = u64> {
        self.items().map(|item| item.sequence)
    }

    /// The last of its messages' places.
    pub(crate) fn last_place(&self) -> Option<u64> {
        self.places().max()
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.slots.iter().filter_map(|slot| slot.held.as_ref().map(|held| &held.item))
    }

    /// Everything, in no order.
    pub(crate) fn into_items(self) -> impl Iterator<Item = Item> + Send {
        self.slots.into_iter().filter_map(|slot| slot.held.map(|held| held.item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MessageId;
    use crate::queue::ready::NEVER_NS;

    fn unsettled(fetched: bool) -> Unsettled {
        Unsettled {
            item: Item {
                sequence: 1,
                expires_ns: NEVER_NS,
                message: MessageId::alone(0),
                followers: 0,
                body_bytes: 0,
                priority: 0,
                redelivered: false,
                recorded: false,
            },
            consumer: (!fetched).then_some(ConsumerKey { slot: 0, generation: 0 }),
        }
    }

    #[test]
    fn a_tag_settles_once_and_never_its_successor() {
        let mut table = UnsettledTable::new();
        let tag = table.insert(unsettled(false));
        assert!(table.remove(tag).is_some());
        assert!(table.remove(tag).is_none());
        let next = table.insert(unsettled(true));
        assert_ne!(tag, next);
        assert!(table.remove(tag).is_none());
        assert!(counts_as_held(tag) && !counts_as_held(next) && !counts_as_held(0));
        assert!(table.remove(next).is_some());
        assert!(table.remove(u64::MAX).is_none());
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_was_sent_to_be_looked_at_is_no_tag_of_the_table() {
        let mut table = UnsettledTable::new();
        let tag = table.insert(unsettled(false));
        let browsed = tag_to_browse(tag);
        assert!(table.remove(browsed).is_none() && is_browsed(browsed) && !counts_as_held(browsed));
        assert_eq!((browsed_place(browsed), browsed_place(tag)), (Some(tag), None));
        assert_eq!(browsed_place(u64::MAX), None);
    }
}
