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
    /// Where transactions are spoken of: of their parts here, and of what they are as a whole.
    transactions: Map<(TransactionKey, Subject), Steps>,
    /// The segment of the last whole topology, or of the first change if there is none.
    topology_since: Option<u64>,
}

/// Where a transaction is spoken of.
#[derive(Clone, Debug)]
struct Steps {
    /// The segments, in order, each once; the last word is in the last one.
    segments: Vec<u64>,
    /// The last step only says that the others no longer matter. Until it has been said all of them do.
    is_over: bool,
}

impl Steps {
    /// Whether one that a segment has is needed.
    fn are_needed_of(&self, segment: u64) -> bool {
        if self.is_over { self.segments.last() == Some(&segment) } else { self.segments.contains(&segment) }
    }
}

/// What a step is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Part,
    Whole,
}

/// What a step is about, and whether it says that the others no longer matter. `None`: nobody asks for it later.
fn meaning(step: &Step<'_>) -> Option<(Subject, bool)> {
    match step {
        Step::Prepared { .. } => Some((Subject::Part, false)),
        Step::Ended => Some((Subject::Part, true)),
        Step::Branch(_) | Step::Decided(_) => Some((Subject::Whole, false)),
        Step::Forgotten => Some((Subject::Whole, true)),
        Step::Closed => None,
    }
}

/// The same of a step that was read.
fn meaning_read(step: &DecodedStep<'_>) -> Option<(Subject, bool)> {
    match step {
        DecodedStep::Prepared { .. } => Some((Subject::Part, false)),
        DecodedStep::Ended => Some((Subject::Part, true)),
        DecodedStep::Branch { .. } | DecodedStep::Decided(_) => Some((Subject::Whole, false)),
        DecodedStep::Forgotten => Some((Subject::Whole, true)),
        DecodedStep::Closed => None,
    }
}

impl LastWords {
    /// A record of a segment.
    pub fn note(&mut self, segment: u64, record: &Decoded<'_>) {
        match record {
            Decoded::HandedOut { queue, below } => self.hand_out(segment, *queue, *below),
            Decoded::Changed(_) => self.change_topology(segment),
            Decoded::Topology(_) => self.snapshot_topology(segment),
            Decoded::Transaction { transaction, step } => {
                self.go_on(segment, *transaction, meaning_read(step));
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
        self.go_on(segment, transaction, meaning(step));
    }

    fn go_on(&mut self, segment: u64, transaction: TransactionKey, meaning: Option<(Subject, bool)>) {
        let Some((subject, is_over)) = meaning else { return };
        let about = (transaction, subject);
        let steps = self.transactions.entry(about).or_insert(Steps { segments: Vec::new(), is_over });
        if steps.segments.last() != Some(&segment) {
            steps.segments.push(segment);
        }
        steps.is_over = is_over;
        if is_over && steps.segments.len() == 1 {
            self.transactions.remove(&about);
        }
    }

    /// A segment is gone.
    pub fn forget_segment(&mut self, segment: u64) {
        self.transactions.retain(|_, steps| {
            steps.segments.retain(|each| *each != segment);
            !(steps.segments.is_empty() || steps.is_over && steps.segments.len() == 1)
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

    /// Whether a step that stands in a segment is needed: nothing says that it no longer matters, or it says so itself of
    /// what can still be read.
    pub fn needs_step(&self, segment: u64, transaction: TransactionKey, step: &DecodedStep<'_>) -> bool {
        let Some((subject, ends)) = meaning_read(step) else { return false };
        self.transactions
            .get(&(transaction, subject))
            .is_some_and(|steps| steps.is_over == ends && steps.are_needed_of(segment))
    }

    /// Whether a segment has a step of any transaction that is needed.
    pub fn needs_steps_of(&self, segment: u64) -> bool {
        self.transactions.values().any(|steps| steps.are_needed_of(segment))
    }

    /// The first segment that the topology has to be read from.
    pub fn topology_since(&self) -> Option<u64> {
        self.topology_since
    }
}

#[cfg(test)]
mod tests {
    use fulmar_core::ShardId;
    use fulmar_core::journal::Decision;
    use fulmar_core::transaction::Xid;

    use super::*;

    const TRANSACTION: TransactionKey = TransactionKey { shard: ShardId(0), run: 1, number: 1 };

    const PREPARED: Step<'static> = Step::Prepared { publishes: &[], settlements: &[] };
    const DECISION: Decision = Decision { commit: true, by_operator: false };

    #[test]
    fn the_end_of_a_transaction_is_needed_while_its_beginning_can_be_read() {
        let prepared = DecodedStep::Prepared { publishes: Vec::new(), settlements: Vec::new() };
        let mut words = LastWords::default();
        words.step(1, TRANSACTION, &PREPARED);
        assert!(words.needs_step(1, TRANSACTION, &prepared));
        words.step(3, TRANSACTION, &Step::Ended);
        assert!(!words.needs_step(1, TRANSACTION, &prepared));
        assert!(words.needs_step(3, TRANSACTION, &DecodedStep::Ended));
        words.forget_segment(1);
        assert!(!words.needs_steps_of(3));
    }

    #[test]
    fn a_part_here_and_the_whole_end_by_themselves() {
        let decided = DecodedStep::Decided(DECISION);
        let branch =
            DecodedStep::Branch { vhost: b"/", xid: Xid::default(), homes: Vec::new(), timeout_s: 0 };
        let mut words = LastWords::default();
        words.step(1, TRANSACTION, &PREPARED);
        words.note(1, &Decoded::Transaction { transaction: TRANSACTION, step: branch.clone() });
        words.step(2, TRANSACTION, &Step::Decided(DECISION));
        words.step(3, TRANSACTION, &Step::Ended);
        assert!(words.needs_step(1, TRANSACTION, &branch) && words.needs_step(2, TRANSACTION, &decided));
        words.step(3, TRANSACTION, &Step::Forgotten);
        assert!(!words.needs_steps_of(1) && !words.needs_steps_of(2));
        assert!(words.needs_step(3, TRANSACTION, &DecodedStep::Forgotten));
        words.forget_segment(1);
        assert!(words.needs_step(3, TRANSACTION, &DecodedStep::Forgotten), "the decision can be read");
        words.forget_segment(2);
        assert!(!words.needs_steps_of(3));
    }

    #[test]
    fn a_transaction_within_a_segment_leaves_nothing() {
        let mut words = LastWords::default();
        words.step(1, TRANSACTION, &PREPARED);
        words.step(1, TRANSACTION, &Step::Ended);
        words.step(1, TRANSACTION, &Step::Closed);
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
