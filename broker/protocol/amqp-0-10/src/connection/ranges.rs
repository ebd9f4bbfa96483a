//! A set of command ids as ranges: what is complete, what is to be accepted. Mostly one range that grows at its end.

use crate::codec::SequenceNo;
use crate::codec::SequenceSet;
use crate::codec::sequence::encode_sequence_set;

/// Ranges in order, apart from each other. All members lie within one half of the circle of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(SequenceNo, SequenceNo)>);

impl Ranges {
    /// Adds one id.
    #[inline]
    pub fn add(&mut self, id: SequenceNo) {
        match self.0.last_mut() {
            Some((_, last)) if last.next() == id => *last = id,
            _ => self.add_range(id, id),
        }
    }

    /// Adds the ids from `first` to `last`.
    pub fn add_range(&mut self, first: SequenceNo, last: SequenceNo) {
        match self.0.last_mut() {
            None => return self.0.push((first, last)),
            Some((_, end)) if end.next() == first => return *end = last,
            Some((_, end)) if end.next().is_before(first) => return self.0.push((first, last)),
            _ => {}
        }
        // Those that touch the new one become one with it.
        let from = self.0.partition_point(|&(_, end)| end.next().is_before(first));
        let to = self.0.partition_point(|&(start, _)| !last.next().is_before(start));
        let (mut first, mut last) = (first, last);
        if from < to {
            if self.0[from].0.is_before(first) {
                first = self.0[from].0;
            }
            if last.is_before(self.0[to - 1].1) {
                last = self.0[to - 1].1;
            }
        }
        self.0.splice(from..to, [(first, last)]);
    }

    /// Takes out the ids from `first` to `last`.
    pub fn remove_range(&mut self, first: SequenceNo, last: SequenceNo) {
        let from = self.0.partition_point(|&(_, end)| end.is_before(first));
        let to = self.0.partition_point(|&(start, _)| !last.is_before(start));
        if from >= to {
            return;
        }
        let before = (self.0[from].0, first.plus(u32::MAX));
        let after = (last.next(), self.0[to - 1].1);
        let rest = [before, after].into_iter().filter(|(start, end)| !end.is_before(*start));
        self.0.splice(from..to, rest);
    }

    /// Whether the id is in it.
    pub fn contains(&self, id: SequenceNo) -> bool {
        let at = self.0.partition_point(|&(_, end)| end.is_before(id));
        self.0.get(at).is_some_and(|&(start, _)| !id.is_before(start))
    }

    /// The first range.
    pub fn first(&self) -> Option<(SequenceNo, SequenceNo)> {
        self.0.first().copied()
    }

    /// Takes the first range out.
    pub fn pop_first(&mut self) -> Option<(SequenceNo, SequenceNo)> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }

    /// Whether nothing is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ids are in it.
    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&(first, last)| 1 + u64::from(last.since(first).unsigned_abs())).sum()
    }

    /// Takes out what [`Ranges::encoded`] has handed out.
    pub fn drop_encoded(&mut self) {
        self.0.drain(..self.0.len().min(SequenceSet::MAX_RANGES));
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Leaves out the oldest, so that no more than `most` ids lie between the first and the last.
    pub fn limit_span(&mut self, most: u32) {
        let Some(&(_, last)) = self.0.last() else { return };
        let Some(&(first, _)) = self.0.first() else { return };
        if last.since(first).unsigned_abs() > most {
            self.remove_range(first, last.plus(most.wrapping_neg()));
        }
    }

    /// Hands out as much as one field holds, encoded in `buffer`.
    pub fn encoded<R>(&self, buffer: &mut Vec<u8>, use_it: impl FnOnce(SequenceSet<'_>) -> R) -> R {
        buffer.clear();
        encode_sequence_set(self.0.iter().take(SequenceSet::MAX_RANGES).copied(), buffer);
        use_it(SequenceSet::new(buffer).expect("ranges in order are a sequence set"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn id(n: u32, base: u32) -> SequenceNo {
        SequenceNo(base.wrapping_add(n))
    }

    #[test]
    fn ids_in_a_row_are_one_range() {
        let mut ranges = Ranges::default();
        for n in 0..10 {
            ranges.add(id(n, u32::MAX - 4));
        }
        assert_eq!(ranges.0, [(SequenceNo(u32::MAX - 4), SequenceNo(4))]);
        assert_eq!(ranges.count(), 10);
    }

    #[test]
    fn a_span_is_limited_from_its_beginning() {
        let mut ranges = Ranges::default();
        ranges.add_range(SequenceNo(0), SequenceNo(100));
        ranges.limit_span(10);
        assert_eq!(ranges.0, [(SequenceNo(91), SequenceNo(100))]);
    }

    proptest! {
        #[test]
        fn it_is_a_set(
            steps in prop::collection::vec((any::<bool>(), 0..60u32, 0..12u32), 0..40),
            base in prop_oneof![Just(0), Just(u32::MAX - 30), any::<u32>()],
        ) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (add, first, more) in steps {
                let last = first + more;
                if add && more == 0 {
                    ranges.add(id(first, base));
                } else if add {
                    ranges.add_range(id(first, base), id(last, base));
                } else {
                    ranges.remove_range(id(first, base), id(last, base));
                }
                (first..=last).for_each(|n| { if add { model.insert(n); } else { model.remove(&n); } });
                for n in 0..80 {
                    prop_assert_eq!(ranges.contains(id(n, base)), model.contains(&n), "{:?} {}", ranges, n);
                }
                prop_assert_eq!(ranges.count(), model.len() as u64);
                for pair in ranges.0.windows(2) {
                    prop_assert!(pair[0].1.next().is_before(pair[1].0));
                }
            }
        }
    }
}
