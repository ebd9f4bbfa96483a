//! The transactions that a restart finds in the journals of all shards: what is not over.
//!
//! Each journal's steps are noted in their order; journals may be read side by side and merged. Each shard that starts
//! takes from it what its own journal says: [`Shard::restore_transactions`](crate::Shard::restore_transactions). Where
//! queues are at home is settled by then, and what is known of them stands in their homes' journals.

use std::collections::BTreeMap;

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
    /// Parts that have not ended, by transaction and journal; several where journals became one.
    parts: BTreeMap<(TransactionKey, ShardId), Vec<FoundPart>>,
    branches: BTreeMap<TransactionKey, FoundBranch>,
    decisions: BTreeMap<TransactionKey, (Decision, ShardId)>,
}

/// A part that was prepared and has not ended.
#[derive(Debug, PartialEq)]
pub(crate) struct FoundPart {
    pub(crate) publishes: Vec<FoundPublish>,
    pub(crate) settlements: Vec<PreparedSettlement>,
}

/// A message of such a part, and the queues that it is for.
#[derive(Debug, PartialEq)]
pub(crate) struct FoundPublish {
    pub(crate) message: FoundMessage,
    pub(crate) queues: Vec<StoreKey>,
}

/// A message, as it was read.
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
                let part = FoundPart {
                    publishes: publishes.iter().map(FoundPublish::of).collect(),
                    settlements: settlements.to_vec(),
                };
                let parts = self.parts.entry((transaction, journal)).or_default();
                // Cleaning writes it again.
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
            Step::Ended => {
                self.parts.remove(&(transaction, journal));
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
        let parts = self.parts.iter();
        parts.flat_map(|((key, journal), parts)| parts.iter().map(|part| (*key, *journal, part)))
    }

    /// The shards whose journals have a part of a transaction.
    pub(crate) fn homes(&self, transaction: TransactionKey) -> impl Iterator<Item = ShardId> {
        let range = (transaction, ShardId(0))..=(transaction, ShardId(u8::MAX));
        self.parts.range(range).map(|((_, journal), _)| *journal)
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
}

impl FoundPublish {
    fn of(publish: &PreparedPublish<'_>) -> Self {
        FoundPublish { message: FoundMessage::of(&publish.message), queues: publish.queues.to_vec() }
    }
}

impl PartialEq for FoundMessage {
    fn eq(&self, other: &Self) -> bool {
        let others = |message: &FoundMessage| {
            let FoundMessage { messages, ttl_ms, priority, has_headers, persistent, .. } = *message;
            (message.encoding.name(), messages, ttl_ms, priority, has_headers, persistent)
        };
        self.bytes == other.bytes && others(self) == others(other)
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
    const OTHER: StoreKey = StoreKey(8);
    const ONE: TransactionKey = TransactionKey { shard: A, run: 1, number: 1 };

    fn prepared(recovered: &mut RecoveredTransactions, journal: ShardId, transaction: TransactionKey) {
        let settlement = PreparedSettlement { queue: QUEUE, place: 3, settlement: Settlement::Accept };
        let step = Step::Prepared { publishes: &[], settlements: &[settlement] };
        recovered.note(journal, transaction, &step);
    }

    fn message(bodies: &[u8]) -> StoredMessage<'_> {
        StoredMessage {
            encoding: &Plain,
            exchange: b"x",
            routing_key: b"k",
            properties: b"p",
            bodies,
            messages: 1,
            ttl_ms: Some(5),
            priority: 3,
            has_headers: true,
            persistent: true,
        }
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
    fn journals_may_become_one() {
        let publish = |body: &'static [u8], queues| PreparedPublish { message: message(body), queues };
        let (here, there) = ([publish(b"a", &[QUEUE]), publish(b"a", &[QUEUE])], [publish(b"a", &[OTHER])]);
        let mut recovered = RecoveredTransactions::default();
        // Written again by cleaning, then together with what another shard had.
        for publishes in [&here[..], &here, &there, &there] {
            recovered.note(A, ONE, &Step::Prepared { publishes, settlements: &[] });
        }
        let queues: Vec<_> =
            recovered.parts().flat_map(|(.., part)| part.publishes.iter().map(|one| one.queues[0])).collect();
        assert_eq!(queues, [QUEUE, QUEUE, OTHER]);
        recovered.note(A, ONE, &Step::Ended);
        assert_eq!(recovered.parts().count(), 0);
    }

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let message = message(b"body");
        assert_eq!(format!("{:?}", FoundMessage::of(&message).to_store()), format!("{message:?}"));
        assert_eq!(FoundMessage::of(&message).to_store().bodies, b"body");
    }
}
