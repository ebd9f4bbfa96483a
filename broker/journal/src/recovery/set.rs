//! A set of places of one queue: long runs by their ends, what is scattered by one bit a place.
//!
//! What was dequeued comes in runs as long as consumers settle in order, and one by one where priorities, selectors or
//! groups decide. Its memory is bounded by what the records that it came from take on the disk.

use std::collections::BTreeMap;

/// Places in a block.
const BLOCK: u64 = 512;
const WORDS: usize = BLOCK as usize / 64;

/// Places.
#[derive(Clone, Debug, Default)]
pub struct PlaceSet {
    /// Blocks all of whose places are in it: first block of a run to the one behind its last. Runs do not touch.
    full: BTreeMap<u64, u64>,
    /// The others that have any.
    part: BTreeMap<u64, [u64; WORDS]>,
}

impl PlaceSet {
    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.part.is_empty()
    }

    /// Whether a place is in it.
    pub fn contains(&self, place: u64) -> bool {
        let block = place / BLOCK;
        let bit = (place % BLOCK) as usize;
        self.is_full(block)
            || self.part.get(&block).is_some_and(|words| words[bit / 64] & (1 << (bit % 64)) != 0)
    }

    /// Adds `count` places from `first` on; those past the last one that there can be are left out.
    pub fn insert(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count);
        let (head, tail) = (first.div_ceil(BLOCK), end / BLOCK);
        if head > tail {
            self.insert_in(first / BLOCK, first % BLOCK, end % BLOCK);
            return;
        }
        if !first.is_multiple_of(BLOCK) {
            self.insert_in(first / BLOCK, first % BLOCK, BLOCK);
        }
        self.fill(head, tail);
        if !end.is_multiple_of(BLOCK) {
            self.insert_in(tail, 0, end % BLOCK);
        }
    }

    /// Adds a place; whether it was not in it.
    pub fn insert_one(&mut self, place: u64) -> bool {
        let is_new = !self.contains(place);
        if is_new {
            self.insert(place, 1);
        }
        is_new
    }

    fn is_full(&self, block: u64) -> bool {
        self.full.range(..=block).next_back().is_some_and(|(_, end)| block < *end)
    }

    /// Adds places `from..to` of one block.
    fn insert_in(&mut self, block: u64, from: u64, to: u64) {
        if from == to || self.is_full(block) {
            return;
        }
        let words = self.part.entry(block).or_default();
        for (index, word) in words.iter_mut().enumerate() {
            let base = index as u64 * 64;
            let (low, high) = (from.clamp(base, base + 64) - base, to.clamp(base, base + 64) - base);
            if low < high {
                *word |= (u64::MAX >> (64 - (high - low))) << low;
            }
        }
        if words.iter().all(|word| *word == u64::MAX) {
            self.fill(block, block + 1);
        }
    }

    /// Adds all of the blocks `from..to`.
    fn fill(&mut self, from: u64, to: u64) {
        if from == to {
            return;
        }
        let (mut from, mut to) = (from, to);
        while let Some((&block, _)) = self.part.range(from..to).next() {
            self.part.remove(&block);
        }
        while let Some((&start, &end)) = self.full.range(..=to).next_back().filter(|(_, end)| **end >= from) {
            self.full.remove(&start);
            (from, to) = (from.min(start), to.max(end));
        }
        self.full.insert(from, to);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(inserts in proptest::collection::vec((0u64..4000, 0u64..1500), 1..30)) {
            let (mut set, mut model) = (PlaceSet::default(), BTreeSet::new());
            for (first, count) in inserts {
                set.insert(first, count);
                model.extend(first..first + count);
                prop_assert_eq!(set.is_empty(), model.is_empty());
                prop_assert!((0..6000).step_by(7).all(|place| set.contains(place) == model.contains(&place)));
            }
            let touch = |((_, end), (start, _)): (_, (&u64, _))| end == start;
            prop_assert!(!set.full.iter().zip(set.full.iter().skip(1)).any(touch));
            prop_assert!(!set.part.keys().any(|block| set.is_full(*block)));
        }
    }

    #[test]
    fn what_is_dequeued_in_order_takes_no_memory() {
        let mut set = PlaceSet::default();
        (0..1_000_000u64).for_each(|place| set.insert(place, 1));
        assert_eq!((set.full.len(), set.part.len()), (1, 1));
    }

    #[test]
    fn a_run_may_end_where_places_end() {
        let mut set = PlaceSet::default();
        set.insert(700, u64::MAX);
        assert!(!set.contains(699) && set.contains(700) && set.contains(u64::MAX - 1));
        assert!(set.part.len() < 3);
    }
}
