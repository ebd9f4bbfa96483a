//! Which messages came, which twice, which out of order.

/// What came from one queue, by publisher.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    /// A bit for each sequence number, by publisher.
    seen: Vec<Vec<u64>>,
    /// Messages in all.
    pub received: u64,
    /// Messages that had come before.
    pub duplicated: u64,
}

/// In which order messages came to one consumer.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// One past the highest sequence number, by publisher.
    next: Vec<u64>,
    /// Messages that came after a later one of the same publisher.
    pub out_of_order: u64,
}

impl Tracker {
    /// With room for `messages` of each of so many publishers, lest it grow while it is used.
    pub fn with_room(publishers: usize, messages: u64) -> Self {
        let words = (messages / 64 + 1) as usize;
        Tracker { seen: vec![vec![0; words]; publishers], ..Tracker::default() }
    }

    /// Counts a message; returns whether it had come before.
    #[inline]
    pub fn see(&mut self, publisher: u16, sequence: u64) -> bool {
        let publisher = usize::from(publisher);
        if publisher >= self.seen.len() {
            self.seen.resize_with(publisher + 1, Vec::new);
        }
        let words = &mut self.seen[publisher];
        let (word, bit) = ((sequence / 64) as usize, 1u64 << (sequence % 64));
        if word >= words.len() {
            words.resize((word + 1).next_power_of_two(), 0);
        }
        let again = words[word] & bit != 0;
        words[word] |= bit;
        self.received += 1;
        self.duplicated += u64::from(again);
        again
    }

    /// Adds what another one of the same queue has seen; what both have seen counts as duplicated.
    pub fn merge(&mut self, other: &Tracker) {
        if self.seen.len() < other.seen.len() {
            self.seen.resize_with(other.seen.len(), Vec::new);
        }
        for (mine, theirs) in self.seen.iter_mut().zip(&other.seen) {
            if mine.len() < theirs.len() {
                mine.resize(theirs.len(), 0);
            }
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                self.duplicated += u64::from((*mine & theirs).count_ones());
                *mine |= theirs;
            }
        }
        self.received += other.received;
        self.duplicated += other.duplicated;
    }

    /// How many different messages were seen.
    pub fn distinct(&self) -> u64 {
        self.seen.iter().flatten().map(|word| u64::from(word.count_ones())).sum()
    }
}

impl Order {
    /// Counts a message that had not come before.
    #[inline]
    pub fn see(&mut self, publisher: u16, sequence: u64) {
        let publisher = usize::from(publisher);
        if publisher >= self.next.len() {
            self.next.resize(publisher + 1, 0);
        }
        let next = &mut self.next[publisher];
        self.out_of_order += u64::from(sequence < *next);
        *next = (*next).max(sequence + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(messages: &[(u16, u64)]) -> (Tracker, Order) {
        let (mut tracker, mut order) = (Tracker::default(), Order::default());
        for (publisher, sequence) in messages {
            if !tracker.see(*publisher, *sequence) {
                order.see(*publisher, *sequence);
            }
        }
        (tracker, order)
    }

    #[test]
    fn tells_loss_duplication_and_disorder_apart() {
        let (tracker, order) = seen(&[(0, 0), (0, 1), (1, 0), (0, 200), (0, 2), (0, 1), (1, 1)]);
        assert_eq!((tracker.received, tracker.distinct()), (7, 6));
        assert_eq!((tracker.duplicated, order.out_of_order), (1, 1));
    }

    #[test]
    fn consumers_of_one_queue_complement_each_other() {
        let mut one = seen(&[(0, 0), (0, 2), (0, 4)]).0;
        one.merge(&seen(&[(0, 1), (0, 3), (0, 4), (3, 1000)]).0);
        assert_eq!((one.received, one.distinct(), one.duplicated), (7, 6, 1));
    }
}
