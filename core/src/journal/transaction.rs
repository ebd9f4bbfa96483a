//! What journals are told of transactions, and what a restart makes of it.
//!
//! 1. A home's part is written down before the home says that it can be done ([`Step::Prepared`]), what was decided
//!    before the first home is told ([`Step::Decided`]), what a home does of it before it says that it has.
//! 2. A part that was decided on nowhere is undone, unless it is of a branch that is written down ([`Step::Branch`]).
//! 3. Homes carry out a part in records joined to its [`Step::Ended`]: a restart finds the part or what became of it.

use super::{StoreKey, StoredMessage};
use crate::ShardId;
use crate::shard::Settlement;
use crate::transaction::Xid;

/// A transaction, as journals name it: unique over all runs of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionKey {
    /// The shard that carries it out.
    pub shard: ShardId,
    /// Which run of the broker began it: [`Journal::run`](super::Journal::run).
    pub run: u32,
    /// Which one of that shard's.
    pub number: u64,
}

/// What has become of a transaction.
///
/// A part that is prepared ends, and so does what is said of the transaction as a whole, each by itself. The record that
/// says so has to be there while the others in the same journal can be read.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Queues at home here can do their part, and can be spared it. Matters until it has ended here.
    Prepared {
        /// What joins queues.
        publishes: &'a [PreparedPublish<'a>],
        /// What leaves them.
        settlements: &'a [PreparedSettlement],
    },
    /// What was prepared here is done, or undone. What was done is in the records before, joined to this one.
    Ended,
    /// All homes have prepared a branch of a distributed transaction. Matters until it is forgotten.
    Branch(PreparedBranch<'a>),
    /// What becomes of the transaction. Matters until it is forgotten.
    Decided(Decision),
    /// Nobody asks any more what was decided.
    Forgotten,
    /// What was never prepared is done: the records before are joined to this one. It says nothing else.
    Closed,
}

/// What a transaction has for queues of one home.
#[derive(Clone, Copy, Debug)]
pub struct PreparedPublish<'a> {
    /// The message, alone.
    pub message: StoredMessage<'a>,
    /// The queues; at least one.
    pub queues: &'a [StoreKey],
}

/// A message that a transaction settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreparedSettlement {
    /// The queue.
    pub queue: StoreKey,
    /// The place in it.
    pub place: u64,
    /// How.
    pub settlement: Settlement,
}

/// A branch of a distributed transaction that is prepared.
#[derive(Clone, Copy, Debug)]
pub struct PreparedBranch<'a> {
    /// Name of the virtual host.
    pub vhost: &'a [u8],
    /// Identifier.
    pub xid: &'a Xid,
    /// The shards whose journals have a part of it.
    pub homes: &'a [ShardId],
    /// How long it was given to be prepared, in seconds.
    pub timeout_s: u32,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// It is carried out, or undone.
    pub commit: bool,
    /// An operator said so in place of its transaction manager, who has to be told.
    pub by_operator: bool,
}
