//! The transactions that a restart finds in the journals of all shards: what is not over.
//!
//! Each journal's steps are noted in their order; journals may be read side by side and merged. Shards that start take
//! from it what concerns queues at home there: `Shard::restore_transactions`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Decision, PreparedBranch, PreparedPublish, PreparedSettlement, Step, StoreKey, StoredMessage,
    TransactionKey,
};
use crate::message::Encoding;
use crate::transaction::Xid;
use crate::{Name, ShardId};

/// See the module.
#[derive(Debug, Default)]
pub struct RecoveredTransactions {
    /// Parts that have not ended, by transaction and journal.
    parts: BTreeMap<(TransactionKey, ShardId), FoundPart>,
    /// Parts that have ended in another journal than the one that they were prepared in: their queues had moved.
    ended: BTreeSet<(TransactionKey, ShardId)>,
    branches: BTreeMap<TransactionKey, FoundBranch>,
    decisions: BTreeMap<TransactionKey, (Decision, ShardId)>,
}

/// A part that was prepared and has not ended.
#[derive(Debug, Default)]
pub(crate) struct FoundPart {
    pub(crate) publishes: Vec<FoundPublish>,
    pub(crate) settlements: Vec<PreparedSettlement>,
}

/// A message of such a part, and the queues that it is for.
#[derive(Clone, Debug)]
pub(crate) struct FoundPublish {
    pub(crate) message: FoundMessage,
    pub(crate) queues: Vec<StoreKey>,
}

/// A message of such a part.
#[derive(Clone)]
pub(crate) struct FoundMessage {
    encoding: &'static dyn Encoding,
    bytes: [Vec<u8>; 4],
    messages: u16,
    ttl_ms: Option<u64>,
    priority: u8,
    has_headers: bool,
    persistent: bool,
}

/// A branch that was prepared and is not forgotten.
#[derive(Debug)]
pub(crate) struct FoundBranch {
    pub(crate) vhost: Name,
    pub(crate) xid: Xid,
    pub(crate) timeout_s: u32,
}

/// What becomes of a transaction that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Commit,
    Undo,
    /// It is a branch that is prepared: its transaction manager knows.
    InDoubt,
}

/// How many transactions were found that are not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FoundTransactions {
    /// To be carried out.
    pub committed: usize,
    /// To be undone.
    pub undone: usize,
    /// Branches that are prepared, or that an operator has completed.
    pub in_doubt: usize,
}

impl RecoveredTransactions {
    /// A step that stands in the journal of a shard.
    pub fn note(&mut self, journal: ShardId, transaction: TransactionKey, step: &Step<'_>) {
        match step {
            Step::Prepared { publishes, settlements } => {
                let own = |publish: &PreparedPublish<'_>| FoundPublish {
                    message: FoundMessage::of(&publish.message),
                    queues: publish.queues.to_vec(),
                };
                let publishes = publishes.iter().map(own).collect();
                let part = FoundPart { publishes, settlements: settlements.to_vec() };
                self.parts.insert((transaction, journal), part);
            }
            Step::Ended => {
                if self.parts.remove(&(transaction, journal)).is_none() {
                    self.ended.insert((transaction, journal));
                }
            }
            Step::Branch(PreparedBranch { vhost, xid, timeout_s, .. }) => {
                let (vhost, xid) = (Name::from(*vhost), (*xid).clone());
                self.branches.insert(transaction, FoundBranch { vhost, xid, timeout_s: *timeout_s });
            }
            Step::Decided(decision) => {
                self.decisions.insert(transaction, (*decision, journal));
            }
            Step::Forgotten => {
                self.branches.remove(&transaction);
                self.decisions.remove(&transaction);
            }
            Step::Closed => {}
        }
    }

    /// Takes in what was found in other journals.
    pub fn merge(&mut self, mut other: RecoveredTransactions) {
        self.parts.append(&mut other.parts);
        self.ended.append(&mut other.ended);
        self.branches.append(&mut other.branches);
        self.decisions.append(&mut other.decisions);
    }

    /// How many there are.
    pub fn found(&self) -> FoundTransactions {
        let mut keys: Vec<TransactionKey> = self.parts.keys().map(|(key, _)| *key).collect();
        keys.dedup();
        let count = |fate| keys.iter().filter(|key| self.fate(**key) == fate).count();
        let is_in_doubt = |key: &&TransactionKey| match self.decisions.get(key) {
            Some((decision, _)) => decision.by_operator,
            None => true,
        };
        FoundTransactions {
            committed: count(Fate::Commit),
            undone: count(Fate::Undo),
            in_doubt: self.branches.keys().filter(is_in_doubt).count(),
        }
    }

    /// What becomes of a transaction.
    pub(crate) fn fate(&self, transaction: TransactionKey) -> Fate {
        match self.decisions.get(&transaction) {
            Some((decision, _)) if decision.commit => Fate::Commit,
            None if self.branches.contains_key(&transaction) => Fate::InDoubt,
            _ => Fate::Undo,
        }
    }

    /// Parts that have not ended, with the journals that they stand in.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (TransactionKey, ShardId, &FoundPart)> {
        self.parts.iter().map(|((transaction, journal), part)| (*transaction, *journal, part))
    }

    /// Branches, with what was decided.
    pub(crate) fn branches(&self) -> impl Iterator<Item = (TransactionKey, &FoundBranch, Option<Decision>)> {
        let decision = |key| self.decisions.get(key).map(|(decision, _)| *decision);
        self.branches.iter().map(move |(key, branch)| (*key, branch, decision(key)))
    }

    /// What is decided, with the journals that say so.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = (TransactionKey, ShardId)> {
        self.decisions.iter().map(|(key, (_, journal))| (*key, *journal))
    }

    /// Whether an operator has completed a branch, which has not been forgotten.
    pub(crate) fn is_by_operator(&self, transaction: TransactionKey) -> bool {
        self.decisions.get(&transaction).is_some_and(|(decision, _)| decision.by_operator)
    }

    /// Whether a shard where a queue is at home takes what a journal has for that queue: nothing tells that it has taken it
    /// already.
    pub(crate) fn is_for(
        &self,
        transaction: TransactionKey,
        journal: ShardId,
        home: ShardId,
        queue: StoreKey,
    ) -> bool {
        if journal == home {
            return true;
        }
        let mut others = self.parts.range((transaction, ShardId(0))..=(transaction, ShardId(u8::MAX)));
        !self.ended.contains(&(transaction, home))
            // The home's own journal counts, or else the first one.
            && !others.any(|((_, other), part)| {
                (*other == home || *other < journal) && part.queues().any(|other| other == queue)
            })
    }
}

impl FoundPart {
    pub(crate) fn is_empty(&self) -> bool {
        self.publishes.is_empty() && self.settlements.is_empty()
    }

    /// What it has for queues.
    pub(crate) fn to_store(&self) -> Vec<PreparedPublish<'_>> {
        let publishes = self.publishes.iter();
        publishes
            .map(|FoundPublish { message, queues }| PreparedPublish { message: message.to_store(), queues })
            .collect()
    }

    /// The queues that it is about; some may come more than once.
    pub(crate) fn queues(&self) -> impl Iterator<Item = StoreKey> {
        let publishes = self.publishes.iter().flat_map(|publish| publish.queues.iter().copied());
        publishes.chain(self.settlements.iter().map(|settlement| settlement.queue))
    }

    /// What it has for some queues.
    pub(crate) fn only(&self, is_wanted: impl Fn(&StoreKey) -> bool) -> FoundPart {
        let wanted = |publish: &FoundPublish| {
            let queues: Vec<StoreKey> = publish.queues.iter().copied().filter(&is_wanted).collect();
            (!queues.is_empty()).then(|| FoundPublish { message: publish.message.clone(), queues })
        };
        let is_settled = |settlement: &&PreparedSettlement| is_wanted(&settlement.queue);
        FoundPart {
            publishes: self.publishes.iter().filter_map(wanted).collect(),
            settlements: self.settlements.iter().filter(is_settled).copied().collect(),
        }
    }
}

impl FoundMessage {
    fn of(message: &StoredMessage<'_>) -> Self {
        let StoredMessage { encoding, messages, ttl_ms, priority, has_headers, persistent, .. } = *message;
        let StoredMessage { exchange, routing_key, properties, bodies, .. } = *message;
        let bytes = [exchange, routing_key, properties, bodies].map(<[u8]>::to_vec);
        FoundMessage { encoding, bytes, messages, ttl_ms, priority, has_headers, persistent }
    }

    pub(crate) fn to_store(&self) -> StoredMessage<'_> {
        let FoundMessage { encoding, messages, ttl_ms, priority, has_headers, persistent, .. } = *self;
        let [exchange, routing_key, properties, bodies] = self.bytes.each_ref().map(Vec::as_slice);
        StoredMessage {
            encoding,
            exchange,
            routing_key,
            properties,
            bodies,
            messages,
            ttl_ms,
            priority,
            has_headers,
            persistent,
        }
    }
}

impl std::fmt::Debug for FoundMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_store().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Settlement;
    use crate::test_support::Plain;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);
    const C: ShardId = ShardId(2);
    const QUEUE: StoreKey = StoreKey(7);
    const ONE: TransactionKey = TransactionKey { shard: A, run: 1, number: 1 };

    fn prepared(recovered: &mut RecoveredTransactions, journal: ShardId, transaction: TransactionKey) {
        let settlement = PreparedSettlement { queue: QUEUE, place: 3, settlement: Settlement::Accept };
        let step = Step::Prepared { publishes: &[], settlements: &[settlement] };
        recovered.note(journal, transaction, &step);
    }

    fn decided(commit: bool) -> Step<'static> {
        Step::Decided(Decision { commit, by_operator: false })
    }

    #[test]
    fn what_nobody_decided_is_undone_unless_it_is_a_branch() {
        let mut recovered = RecoveredTransactions::default();
        prepared(&mut recovered, B, ONE);
        assert_eq!(recovered.fate(ONE), Fate::Undo);
        let branch = PreparedBranch { vhost: b"/", xid: &Xid::default(), homes: &[B], timeout_s: 1 };
        recovered.note(A, ONE, &Step::Branch(branch));
        assert_eq!(recovered.fate(ONE), Fate::InDoubt);
        assert_eq!(recovered.found(), FoundTransactions { in_doubt: 1, ..FoundTransactions::default() });
        recovered.note(A, ONE, &decided(false));
        assert_eq!(recovered.fate(ONE), Fate::Undo);
        recovered.note(A, ONE, &decided(true));
        assert_eq!(recovered.fate(ONE), Fate::Commit);
        assert_eq!(recovered.found(), FoundTransactions { committed: 1, ..FoundTransactions::default() });
        recovered.note(B, ONE, &Step::Ended);
        recovered.note(A, ONE, &Step::Forgotten);
        assert_eq!(recovered.found(), FoundTransactions::default());
        assert_eq!(recovered.branches().count() + recovered.decisions().count(), 0);
    }

    #[test]
    fn journals_are_read_in_any_order() {
        let mut recovered = RecoveredTransactions::default();
        recovered.note(A, ONE, &decided(true));
        let mut other = RecoveredTransactions::default();
        prepared(&mut other, B, ONE);
        prepared(&mut other, C, ONE);
        other.note(C, ONE, &Step::Ended);
        recovered.merge(other);
        assert_eq!(recovered.parts().map(|(_, journal, _)| journal).collect::<Vec<_>>(), [B]);
        assert_eq!(recovered.fate(ONE), Fate::Commit);
    }

    #[test]
    fn a_queue_that_has_moved_gets_its_piece_once() {
        let mut recovered = RecoveredTransactions::default();
        prepared(&mut recovered, B, ONE);
        assert!(recovered.is_for(ONE, B, B, QUEUE) && recovered.is_for(ONE, B, A, QUEUE));
        // The new home wrote it down again, and the old journal is still there.
        prepared(&mut recovered, C, ONE);
        assert!(recovered.is_for(ONE, C, C, QUEUE) && !recovered.is_for(ONE, B, C, QUEUE));
        // Moved once more.
        assert!(recovered.is_for(ONE, B, A, QUEUE) && !recovered.is_for(ONE, C, A, QUEUE));
        // The new home carried it out.
        let mut recovered = RecoveredTransactions::default();
        prepared(&mut recovered, B, ONE);
        recovered.note(A, ONE, &Step::Ended);
        assert!(!recovered.is_for(ONE, B, A, QUEUE));
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let message = StoredMessage {
            encoding: &Plain,
            exchange: b"x",
            routing_key: b"k",
            properties: b"p",
            bodies: b"body",
            messages: 1,
            ttl_ms: Some(5),
            priority: 3,
            has_headers: true,
            persistent: true,
        };
        assert_eq!(format!("{:?}", FoundMessage::of(&message).to_store()), format!("{message:?}"));
        assert_eq!(FoundMessage::of(&message).to_store().bodies, b"body");
    }
}
