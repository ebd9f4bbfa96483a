//! The commands that the broker sends in a session: their ids.

use crate::codec::SequenceNo;

/// Counts commands over the wrap of ids; the low half of a number is the id.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    next: u64,
}

impl Outgoing {
    /// The number of a new command.
    #[inline]
    pub fn begin(&mut self) -> u64 {
        self.begin_many(1)
    }

    /// The number of the first of so many new commands.
    #[inline]
    pub fn begin_many(&mut self, count: u64) -> u64 {
        self.next += count;
        self.next - count
    }

    /// The number of the next command.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// The id of the next command.
    pub fn next_id(&self) -> SequenceNo {
        SequenceNo(self.next as u32)
    }

    /// The numbers of the commands from `first` to `last`, as far as they have been sent.
    #[inline]
    pub fn numbers(&self, first: SequenceNo, last: SequenceNo) -> Option<(u64, u64)> {
        let behind = |id: SequenceNo| u64::from((self.next as u32).wrapping_sub(id.0));
        // An id that comes after the next one looks like one of long ago.
        let number = |id| self.next.checked_sub(behind(id)).filter(|_| behind(id) <= 1 << 31);
        let last_sent = self.next.checked_sub(1)?;
        let first = match number(first) {
            Some(number) => number,
            // Before the first one, or long ago.
            None if first.is_before(self.next_id()) => self.next.saturating_sub(1 << 31),
            None => return None,
        };
        let last = number(last).unwrap_or(last_sent).min(last_sent);
        (first <= last).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_numbers_over_the_wrap() {
        let outgoing = Outgoing { next: (1 << 32) + 3 };
        let numbers = |first, last| outgoing.numbers(SequenceNo(first), SequenceNo(last));
        assert_eq!(numbers(u32::MAX, 1), Some(((1 << 32) - 1, (1 << 32) + 1)));
        assert_eq!(numbers(0, 2), Some((1 << 32, (1 << 32) + 2)));
        assert_eq!(numbers(1, 9), Some(((1 << 32) + 1, (1 << 32) + 2)), "as far as sent");
        assert_eq!(numbers(3, 9), None);
        let young = Outgoing { next: 2 };
        assert_eq!(young.numbers(SequenceNo(0), SequenceNo(1)), Some((0, 1)));
        assert_eq!(young.numbers(SequenceNo(u32::MAX), SequenceNo(0)), Some((0, 0)));
        assert_eq!(Outgoing::default().numbers(SequenceNo(0), SequenceNo(0)), None);
    }
}
