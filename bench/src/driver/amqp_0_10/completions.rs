//! Which of a publisher's messages are confirmed, from the command ids that the broker completes.

use std::collections::{BTreeMap, VecDeque};

use fulmar_amqp_0_10::codec::SequenceNo;

use crate::driver::Answer;

/// Messages and the syncs between them.
#[derive(Debug)]
pub struct Completions {
    /// Number of the next command; the lower half is its id.
    next: u64,
    /// All commands before this number are complete.
    complete: u64,
    /// First and last of others that are.
    islands: BTreeMap<u64, u64>,
    /// Writes that are not complete.
    writes: VecDeque<Write>,
    /// Messages written.
    messages: u64,
}

/// What was written at once: messages, then a sync.
#[derive(Clone, Copy, Debug)]
struct Write {
    first: u64,
    /// Tag of the first message.
    first_tag: u64,
    count: u64,
}

impl Completions {
    /// After so many commands of the set-up, which are complete or nobody asks for.
    pub fn new(sent: u32) -> Self {
        let (next, writes) = (sent.into(), VecDeque::with_capacity(1024));
        Completions { next, complete: next, islands: BTreeMap::new(), writes, messages: 0 }
    }

    /// Messages are written, and behind them a sync.
    pub fn wrote(&mut self, count: u64) {
        self.writes.push_back(Write { first: self.next, first_tag: self.messages + 1, count });
        self.messages += count;
        self.next += count + 1;
    }

    /// The broker has completed commands, perhaps not for the first time.
    pub fn completed(&mut self, first: SequenceNo, last: SequenceNo, each: &mut impl FnMut(Answer)) {
        let number = |id: SequenceNo| {
            let since = SequenceNo(self.next as u32).since(id);
            self.next.checked_add_signed(-i64::from(since)).unwrap_or(0)
        };
        let (first, last) = (number(first), number(last).min(self.next.saturating_sub(1)));
        if first > last || last < self.complete {
            return;
        }
        if first > self.complete {
            self.islands.insert(first, last);
            return self.confirm_island(first, last, each);
        }
        self.complete = last + 1;
        while let Some(island) = self.islands.first_entry().filter(|island| *island.key() <= self.complete) {
            self.complete = self.complete.max(island.remove() + 1);
        }
        self.confirm_prefix(each);
    }

    /// Confirms everything up to where all is complete.
    fn confirm_prefix(&mut self, each: &mut impl FnMut(Answer)) {
        let mut highest = None;
        while let Some(write) = self.writes.front().filter(|write| write.first < self.complete) {
            let done = (self.complete - write.first).min(write.count);
            highest = Some(write.first_tag + done - 1);
            if self.complete - write.first <= write.count {
                break;
            }
            self.writes.pop_front();
        }
        if let Some(tag) = highest {
            each(Answer::Confirmed { tag, multiple: true, refused: false });
        }
    }

    /// Confirms what is complete though something before it is not.
    fn confirm_island(&self, first: u64, last: u64, each: &mut impl FnMut(Answer)) {
        for write in &self.writes {
            let from = first.max(write.first);
            let to = last.min(write.first + write.count - 1);
            for number in from..=to {
                let tag = write.first_tag + (number - write.first);
                each(Answer::Confirmed { tag, multiple: false, refused: false });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(completions: &mut Completions, first: u32, last: u32) -> Vec<(u64, bool)> {
        let mut told = Vec::new();
        completions.completed(SequenceNo(first), SequenceNo(last), &mut |answer| match answer {
            Answer::Confirmed { tag, multiple, refused: false } => told.push((tag, multiple)),
            other => panic!("{other:?}"),
        });
        told
    }

    #[test]
    fn syncs_between_messages_are_left_out() {
        let mut completions = Completions::new(5);
        completions.wrote(3);
        completions.wrote(1);
        completions.wrote(2);
        // 5, 6, 7, sync 8; 9, sync 10; 11, 12, sync 13.
        assert_eq!(completed(&mut completions, 0, 5), [(1, true)]);
        assert_eq!(completed(&mut completions, 9, 11), [(4, false), (5, false)]);
        assert_eq!(completed(&mut completions, 0, 6), [(2, true)]);
        assert_eq!(completed(&mut completions, 0, 6), []);
        assert_eq!(completed(&mut completions, 7, 8), [(5, true)]);
        assert_eq!(completed(&mut completions, 0, 12), [(6, true)]);
        assert_eq!(completed(&mut completions, 0, 13), [(6, true)]);
        assert!(completions.writes.is_empty() && completions.islands.is_empty());
    }

    #[test]
    fn ids_go_on_over_the_end() {
        let mut completions = Completions::new(u32::MAX - 1);
        completions.wrote(4);
        assert_eq!(completed(&mut completions, u32::MAX - 1, u32::MAX), [(2, true)]);
        assert_eq!(completed(&mut completions, 1, 1), [(4, false)]);
        assert_eq!(completed(&mut completions, u32::MAX - 1, 2), [(4, true)]);
        assert!(completions.writes.is_empty());
    }

    #[test]
    fn what_was_not_sent_is_not_confirmed() {
        let mut completions = Completions::new(0);
        completions.wrote(2);
        assert_eq!(completed(&mut completions, 0, 50), [(2, true)]);
        assert_eq!(completed(&mut completions, 100, 50), []);
    }
}
