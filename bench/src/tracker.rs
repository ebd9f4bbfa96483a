//! Which messages came, which twice, which out of order.

/// What one consumer has seen, by publisher.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    publishers: Vec<Seen>,
    /// Messages in all.
    pub received: u64,
    /// Messages that this consumer had seen before.
    pub duplicated: u64,
    /// Messages that came after a later one of the same publisher.
    pub out_of_order: u64,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    /// A bit for each sequence number.
    words: Vec<u64>,
    /// One past the highest sequence number.
    next: u64,
}

impl Tracker {
    /// Counts a message.
    pub fn see(&mut self, publisher: u16, sequence: u64) {
        let publisher = usize::from(publisher);
        if publisher >= self.publishers.len() {
            self.publishers.resize_with(publisher + 1, Seen::default);
        }
        let seen = &mut self.publishers[publisher];
        let (word, bit) = ((sequence / 64) as usize, 1u64 << (sequence % 64));
        if word >= seen.words.len() {
            seen.words.resize((word + 1).next_power_of_two(), 0);
        }
        self.received += 1;
        if seen.words[word] & bit != 0 {
            self.duplicated += 1;
        } else if sequence < seen.next {
            self.out_of_order += 1;
        }
        seen.words[word] |= bit;
        seen.next = seen.next.max(sequence + 1);
    }

    /// Adds what another consumer has seen; what both have seen counts as duplicated.
    pub fn merge(&mut self, other: &Tracker) {
        if self.publishers.len() < other.publishers.len() {
            self.publishers.resize_with(other.publishers.len(), Seen::default);
        }
        for (mine, theirs) in self.publishers.iter_mut().zip(&other.publishers) {
            if mine.words.len() < theirs.words.len() {
                mine.words.resize(theirs.words.len(), 0);
            }
            for (mine, theirs) in mine.words.iter_mut().zip(&theirs.words) {
                self.duplicated += u64::from((*mine & theirs).count_ones());
                *mine |= theirs;
            }
            mine.next = mine.next.max(theirs.next);
        }
        self.received += other.received;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
    }

    /// How many different messages were seen.
    pub fn distinct(&self) -> u64 {
        self.publishers.iter().flat_map(|seen| &seen.words).map(|word| u64::from(word.count_ones())).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(messages: &[(u16, u64)]) -> Tracker {
        let mut tracker = Tracker::default();
        for (publisher, sequence) in messages {
            tracker.see(*publisher, *sequence);
        }
        tracker
    }

    #[test]
    fn tells_loss_duplication_and_disorder_apart() {
        let tracker = seen(&[(0, 0), (0, 1), (1, 0), (0, 200), (0, 2), (0, 1), (1, 1)]);
        assert_eq!((tracker.received, tracker.distinct()), (7, 6));
        assert_eq!((tracker.duplicated, tracker.out_of_order), (1, 1));
    }

    #[test]
    fn consumers_of_one_queue_complement_each_other() {
        let mut one = seen(&[(0, 0), (0, 2), (0, 4)]);
        one.merge(&seen(&[(0, 1), (0, 3), (0, 4), (3, 1000)]));
        assert_eq!((one.received, one.distinct()), (7, 6));
        assert_eq!((one.duplicated, one.out_of_order), (1, 0));
    }
}
