//! The deliveries of a session that are not over: not settled by the peer, or counted in a window and not complete.

use std::collections::VecDeque;

use fulmar_core::{Credit, QueueId};

/// A delivery that the peer has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Its command, counted on over the wrap of ids.
    pub number: u64,
    /// The queue's handle for it.
    pub tag: u64,
    /// Where it came from.
    pub queue: QueueId,
    /// The subscription, by its key.
    pub subscription: u32,
    /// How often the subscription's credit had been cancelled when the delivery used some.
    pub epoch: u32,
    /// What comes back to the subscription when it is complete.
    pub credit: Credit,
    /// The message is the session's.
    pub acquired: bool,
    /// The peer has to accept it.
    pub accept_expected: bool,
    /// Its acceptance waits for a commit.
    pub waits_for_commit: bool,
    /// Nothing is left to be settled.
    pub settled: bool,
    /// Something follows when it is complete, and it is not.
    pub windowed: bool,
}

impl Record {
    /// Whether nothing more can follow.
    pub fn is_over(&self) -> bool {
        self.settled && !self.windowed
    }
}

/// Ordered by command. Those that are over stay as holes for a while; they never outnumber the others by more than a
/// constant.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    records: VecDeque<Record>,
    live: usize,
    /// Every record before this command is complete.
    complete_to: u64,
}

/// So few holes are not worth a pass.
const HOLES_KEPT: usize = 1024;
/// Room that is kept when nothing is unsettled.
const RECORDS_KEPT: usize = 64 * 1024;

impl Unsettled {
    /// Adds a delivery; numbers only grow.
    #[inline]
    pub fn push(&mut self, record: Record) {
        debug_assert!(!record.is_over());
        self.records.push_back(record);
        self.live += 1;
    }

    /// Shows the records of the commands from `first` to `last` to `change`, in order.
    pub fn change(&mut self, first: u64, last: u64, mut change: impl FnMut(&mut Record)) {
        let (from, to) = (self.place(first), self.place(last.saturating_add(1)));
        for record in self.records.range_mut(from..to).filter(|record| !record.is_over()) {
            change(record);
            self.live -= usize::from(record.is_over());
        }
        self.trim();
    }

    /// The same, the newest first.
    pub fn change_back(&mut self, first: u64, last: u64, mut change: impl FnMut(&mut Record)) {
        let (from, to) = (self.place(first), self.place(last.saturating_add(1)));
        for record in self.records.range_mut(from..to).rev().filter(|record| !record.is_over()) {
            change(record);
            self.live -= usize::from(record.is_over());
        }
        self.trim();
    }

    /// The same for the windowed ones among them, which are complete now.
    pub fn complete(&mut self, first: u64, last: u64, mut complete: impl FnMut(&Record)) {
        let from = first.max(self.complete_to);
        if from > last {
            return;
        }
        self.change(from, last, |record| {
            if std::mem::take(&mut record.windowed) {
                complete(record);
            }
        });
        // Peers tell the whole set again and again.
        if first <= self.complete_to {
            self.complete_to = last + 1;
        }
    }

    /// Takes everything out, the newest first.
    pub fn take_all(&mut self) -> impl Iterator<Item = Record> + use<> {
        self.live = 0;
        std::mem::take(&mut self.records).into_iter().rev().filter(|record| !record.is_over())
    }

    /// The records that are not over.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| !record.is_over())
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.live
    }

    /// Where the record of that command, or the first one after it, is.
    fn place(&self, number: u64) -> usize {
        let Some(front) = self.records.front() else { return 0 };
        let guess = number.saturating_sub(front.number) as usize;
        // Without gaps the place follows from the number.
        match self.records.get(guess) {
            Some(record) if record.number == number => guess,
            _ => self.records.partition_point(|record| record.number < number),
        }
    }

    fn trim(&mut self) {
        while self.records.front().is_some_and(Record::is_over) {
            self.records.pop_front();
        }
        if self.records.len() - self.live > self.live + HOLES_KEPT {
            self.records.retain(|record| !record.is_over());
        }
        if self.records.is_empty() && self.records.capacity() > RECORDS_KEPT {
            self.records.shrink_to(RECORDS_KEPT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulmar_core::ShardId;

    fn record(number: u64) -> Record {
        Record {
            number,
            tag: number + 1000,
            queue: QueueId { home: ShardId(0), index: 0, generation: 0 },
            subscription: 0,
            epoch: 0,
            credit: Credit { messages: 1, bytes: 10 },
            acquired: true,
            accept_expected: true,
            waits_for_commit: false,
            settled: false,
            windowed: true,
        }
    }

    fn filled(numbers: impl Iterator<Item = u64>) -> Unsettled {
        let mut unsettled = Unsettled::default();
        numbers.for_each(|number| unsettled.push(record(number)));
        unsettled
    }

    fn settle(unsettled: &mut Unsettled, first: u64, last: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        unsettled.change(first, last, |record| {
            record.settled = true;
            seen.push(record.number);
        });
        seen
    }

    #[test]
    fn a_record_ends_when_settled_and_complete() {
        let mut unsettled = filled((0..10).filter(|n| n % 3 != 0));
        assert_eq!(settle(&mut unsettled, 2, 5), [2, 4, 5]);
        assert_eq!(unsettled.len(), 6);
        let mut complete = Vec::new();
        unsettled.complete(0, 4, |record| complete.push(record.number));
        unsettled.complete(0, 7, |record| complete.push(record.number));
        assert_eq!(complete, [1, 2, 4, 5, 7]);
        assert_eq!(unsettled.iter().map(|record| record.number).collect::<Vec<_>>(), [1, 7, 8]);
        assert_eq!(settle(&mut unsettled, 0, 100), [1, 7, 8]);
        assert_eq!(unsettled.len(), 1);
        assert_eq!(unsettled.take_all().map(|record| record.number).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn a_set_told_again_costs_nothing_and_gaps_are_not_forgotten() {
        let mut unsettled = filled(0..10);
        let mut complete = 0;
        unsettled.complete(2, 4, |_| complete += 1);
        assert_eq!((complete, unsettled.complete_to), (3, 0));
        unsettled.complete(0, 5, |_| complete += 1);
        assert_eq!((complete, unsettled.complete_to), (6, 6));
        unsettled.complete(0, 5, |_| complete += 1);
        assert_eq!(complete, 6);
    }

    #[test]
    fn one_held_delivery_does_not_keep_the_settled_ones() {
        let mut unsettled = filled(0..2);
        for number in 2..100_000 {
            unsettled.push(record(number));
            unsettled.complete(number, number, |_| {});
            assert_eq!(settle(&mut unsettled, number, number), [number]);
        }
        assert_eq!(unsettled.len(), 2);
        assert!(unsettled.records.len() < 2 * HOLES_KEPT + 8);
    }
}
