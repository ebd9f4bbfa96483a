//! Records of which the last one on a subject counts, and where that is: what was handed out of a queue, steps of a
//! transaction, the topology.
//!
//! Appending keeps it; a restart makes it anew by [`LastWords::note`] for each record in order. A segment that has the
//! last word on something goes only when that has been said again.

use fulmar_core::journal::{Step, StoreKey, TransactionKey};
use hashbrown::HashMap;

use crate::record::Decoded;
use crate::transaction::DecodedStep;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The last words of a log.
#[derive(Clone, Debug, Default)]
pub struct LastWords {
    /// What was handed out of a queue, and the segment that says so.
    handed_out: Map<StoreKey, (u64, u64)>,
    /// Where transactions are spoken of.
    transactions: Map<TransactionKey, Steps>,
    /// The segment of the last whole topology, or of the first change if there is none.
    topology_since: Option<u64>,
}

/// Where a transaction is spoken of.
#[derive(Clone, Debug)]
struct Steps {
    /// The segments, in order, each once; the last word is in the last one.
    segments: Vec<u64>,
    /// The last step only says that the others no longer matter.
    is_over: bool,
}

impl LastWords {
    /// A record of a segment.
    pub fn note(&mut self, segment: u64, record: &Decoded<'_>) {
        match record {
            Decoded::HandedOut { queue, below } => self.hand_out(segment, *queue, *below),
            Decoded::Changed(_) => self.change_topology(segment),
            Decoded::Topology(_) => self.snapshot_topology(segment),
            Decoded::Transaction { transaction, step } => {
                let is_over = matches!(step, DecodedStep::Ended | DecodedStep::Forgotten);
                self.go_on(segment, *transaction, is_over);
            }
            Decoded::Batch(_) | Decoded::Enqueued(_) | Decoded::Dequeued { .. } | Decoded::Paged(_) => {}
        }
    }

    /// A segment has a word on what was handed out.
    pub fn hand_out(&mut self, segment: u64, queue: StoreKey, below: u64) {
        self.handed_out.insert(queue, (below, segment));
    }

    /// A queue is gone: nobody asks what was handed out of it.
    pub fn forget_queue(&mut self, queue: StoreKey) {
        self.handed_out.remove(&queue);
    }

    /// A segment has a change of the topology.
    pub fn change_topology(&mut self, segment: u64) {
        self.topology_since.get_or_insert(segment);
    }

    /// A segment has the whole topology.
    pub fn snapshot_topology(&mut self, segment: u64) {
        self.topology_since = Some(segment);
    }

    /// A segment has a step of a transaction.
    pub fn step(&mut self, segment: u64, transaction: TransactionKey, step: &Step<'_>) {
        self.go_on(segment, transaction, matches!(step, Step::Ended | Step::Forgotten));
    }

    fn go_on(&mut self, segment: u64, transaction: TransactionKey, is_over: bool) {
        let steps = self.transactions.entry(transaction).or_insert(Steps { segments: Vec::new(), is_over });
        if steps.segments.last() != Some(&segment) {
            steps.segments.push(segment);
        }
        steps.is_over = is_over;
        if is_over && steps.segments.len() == 1 {
            self.transactions.remove(&transaction);
        }
    }

    /// A segment is gone.
    pub fn forget_segment(&mut self, segment: u64) {
        self.transactions.retain(|_, steps| {
            steps.segments.retain(|each| *each != segment);
            !steps.segments.is_empty() && !(steps.is_over && steps.segments.len() == 1)
        });
        self.handed_out.retain(|_, (_, each)| *each != segment);
    }

    /// Queues on which a segment has the last word, and that word.
    pub fn handed_out_in(&self, segment: u64) -> impl Iterator<Item = (StoreKey, u64)> {
        let here = move |(queue, (below, each)): (&StoreKey, &(u64, u64))| {
            (*each == segment).then_some((*queue, *below))
        };
        self.handed_out.iter().filter_map(here)
    }

    /// Whether a segment has the last word on a transaction, and that is still needed.
    pub fn needs_step(&self, segment: u64, transaction: TransactionKey) -> bool {
        self.transactions.get(&transaction).is_some_and(|steps| steps.segments.last() == Some(&segment))
    }

    /// Whether a segment has the last word on any transaction.
    pub fn needs_steps_of(&self, segment: u64) -> bool {
        self.transactions.values().any(|steps| steps.segments.last() == Some(&segment))
    }

    /// The first segment that the topology has to be read from.
    pub fn topology_since(&self) -> Option<u64> {
        self.topology_since
    }
}

#[cfg(test)]
mod tests {
    use fulmar_core::ShardId;

    use super::*;

    const TRANSACTION: TransactionKey = TransactionKey { shard: ShardId(0), run: 1, number: 1 };

    #[test]
    fn the_end_of_a_transaction_is_needed_while_its_beginning_can_be_read() {
        let mut words = LastWords::default();
        words.step(1, TRANSACTION, &Step::Prepared { publishes: &[], settlements: &[] });
        assert!(words.needs_step(1, TRANSACTION));
        words.step(3, TRANSACTION, &Step::Ended);
        assert!(!words.needs_step(1, TRANSACTION) && words.needs_step(3, TRANSACTION));
        words.forget_segment(1);
        assert!(!words.needs_steps_of(3));
    }

    #[test]
    fn a_transaction_within_a_segment_leaves_nothing() {
        let mut words = LastWords::default();
        words.step(1, TRANSACTION, &Step::Prepared { publishes: &[], settlements: &[] });
        words.step(1, TRANSACTION, &Step::Ended);
        assert!(!words.needs_steps_of(1));
    }

    #[test]
    fn the_last_word_on_a_queue_counts() {
        let mut words = LastWords::default();
        words.hand_out(1, StoreKey(7), u64::MAX);
        words.hand_out(2, StoreKey(7), 5);
        assert_eq!(words.handed_out_in(1).count(), 0);
        assert_eq!(words.handed_out_in(2).collect::<Vec<_>>(), [(StoreKey(7), 5)]);
    }
}
