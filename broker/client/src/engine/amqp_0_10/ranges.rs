//! Numbers that wait to be told to the peer, as ranges.

use fulmar_amqp_0_10::codec::sequence::encode_sequence_set;
use fulmar_amqp_0_10::codec::{SequenceNo, SequenceSet};

/// A set of numbers to which mostly the next one is added.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// First and last of each, in the order in which they came.
    ranges: Vec<(u64, u64)>,
}

impl Ranges {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn add(&mut self, number: u64) {
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => self.ranges.push((number, number)),
        }
    }

    /// Empties the set: hands it on in order, as encoded sets of as many ranges as a field holds. `id` is the command
    /// id of a number.
    pub(super) fn take(&mut self, id: impl Fn(u64) -> SequenceNo, mut each: impl FnMut(SequenceSet<'_>)) {
        self.ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (first, last) in self.ranges.drain(..) {
            match joined.last_mut() {
                Some((_, end)) if *end + 1 >= first => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        let mut encoded = Vec::new();
        for part in joined.chunks(SequenceSet::MAX_RANGES) {
            encoded.clear();
            encode_sequence_set(part.iter().map(|&(first, last)| (id(first), id(last))), &mut encoded);
            each(SequenceSet::new(&encoded).expect("ranges that were joined are in order"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ranges: &mut Ranges, offset: u32) -> Vec<String> {
        let mut sets = Vec::new();
        ranges.take(
            |number| SequenceNo(offset.wrapping_add(number as u32)),
            |set| sets.push(format!("{set:?}")),
        );
        sets
    }

    #[test]
    fn numbers_become_ranges_in_whatever_order_they_come() {
        let mut ranges = Ranges::default();
        for number in [1, 2, 3, 9, 5, 4, 7] {
            ranges.add(number);
        }
        assert_eq!(taken(&mut ranges, 0), ["[1..=5, 7..=7, 9..=9]"]);
        assert!(ranges.is_empty() && taken(&mut ranges, 0).is_empty());
    }

    #[test]
    fn ids_go_on_over_the_end() {
        let mut ranges = Ranges::default();
        (1..=3).for_each(|number| ranges.add(number));
        assert_eq!(taken(&mut ranges, u32::MAX - 1), ["[4294967295..=1]"]);
    }

    #[test]
    fn no_set_is_longer_than_a_field() {
        let mut ranges = Ranges::default();
        (0..SequenceSet::MAX_RANGES as u64 + 1).for_each(|number| ranges.add(2 * number));
        assert_eq!(taken(&mut ranges, 0).len(), 2);
    }
}
