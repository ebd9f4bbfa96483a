//! What the journals have to have stored before a transaction goes on.
//!
//! 1. If several homes have something that outlives the process, each writes its part down before it says that it can
//!    do it. The shard that carries the transaction out writes down that all are to commit before it tells the first.
//!    What was decided on nowhere is undone by a restart.
//! 2. A home commits by records that a restart finds all or none of, and says so when they are stored. If it is the only
//!    one that keeps anything nothing else is written. When all have said so the decision no longer matters.
//! 3. That a branch is prepared is written down before that is answered; then every decision on it is, rollbacks too.
//! 4. Work that leaves nothing behind is not written down.
//!
//! When the journal fails, what waits for it is refused. What may have been decided stays as it is until a restart.

use super::branches::Ending;
use super::part::{Part, PartDone};
use super::restore::Restoring;
use super::round::{Goal, Round, Stage, Then};
use super::{Settling, Verdict};
use crate::journal::{
    Decision, Joined, PreparedBranch, PreparedPublish, PreparedSettlement, Record, Step, StoreKey,
    TransactionKey,
};
use crate::shard::envelope::Targets;
use crate::shard::stored::Waiter;
use crate::shard::{Settlement, Shard};
use crate::{MessageId, QueueId, Refusal, SessionId, ShardId};

/// What waits until something is stored.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) enum Awaiting {
    /// A part here, prepared.
    Prepared(TransactionKey),
    /// A part here, carried out.
    CarriedOut(TransactionKey),
    /// The next step of a transaction that is carried out from here.
    Round(TransactionKey),
    /// That a branch is forgotten, at the control shard.
    Forgotten { slot: usize, session: SessionId },
}

impl Awaiting {
    /// Whether it is about what a transaction does to queues here.
    pub(in crate::shard) fn is_of_part(&self) -> bool {
        matches!(self, Awaiting::Prepared(_) | Awaiting::CarriedOut(_))
    }
}

/// What a shard knows of its records of transactions.
#[derive(Default)]
pub(in crate::shard) struct Records {
    last_number: u64,
    pub(super) restoring: Restoring,
}

/// What a record takes besides its message, about.
const RECORD_BYTES: usize = 128;

impl Shard {
    /// The name of a transaction that begins.
    pub(super) fn next_transaction(&mut self) -> TransactionKey {
        self.records.last_number += 1;
        let run = self.journal.as_ref().map_or(0, |journal| journal.run());
        TransactionKey { shard: self.config.id, run, number: self.records.last_number }
    }

    /// Whether homes have to write down what they prepare: several keep something, or it is to stay prepared.
    pub(super) fn wants_records(&self, goal: Goal, parts: &[(ShardId, Part)]) -> bool {
        let least = match goal {
            Goal::Prepare => 1,
            Goal::Commit => 2,
            Goal::Undo => return false,
        };
        self.journal.is_some()
            && parts.iter().filter(|(_, part)| self.may_leave_something(part)).take(least).count() == least
    }

    /// Whether a part is of messages that outlive the process, as far as can be told away from its home.
    fn may_leave_something(&self, part: &Part) -> bool {
        let is_stored = |queue: &QueueId| self.store_key_of(*queue).is_some();
        let is_kept = |(targets, message): &(Targets, MessageId)| {
            self.store.get(*message).is_persistent() && targets.as_slice().iter().any(is_stored)
        };
        let is_taken = |settling: &Settling| takes(settling.settlement) && is_stored(&settling.queue);
        part.publishes.iter().any(is_kept) || part.settlements.iter().any(is_taken)
    }

    fn store_key_of(&self, queue: QueueId) -> Option<StoreKey> {
        self.topology.queue_by_id(queue)?.store_key
    }

    /// Whether the journal takes what a part will write.
    pub(super) fn admit_part(&self, part: &Part, is_recorded: bool) -> Result<(), Refusal> {
        let Some(journal) = &self.journal else { return Ok(()) };
        if !self.may_leave_something(part) {
            return Ok(());
        }
        part.publishes.iter().try_for_each(|(targets, _)| self.check_not_lost(targets.as_slice()))?;
        let kept = part.publishes.iter().map(|(_, message)| self.store.get(*message));
        let kept = kept.filter(|message| message.is_persistent());
        let once: usize = kept.map(|message| message.total_bytes() + RECORD_BYTES).sum();
        // What is prepared is written again when it joins its queues.
        let bytes = if is_recorded { 2 * once } else { once };
        match &self.failure {
            Some(reason) => Err(Refusal::NotStored(reason.clone())),
            // What only makes room is always taken.
            None if bytes == 0 => Ok(()),
            None => journal.admit(bytes).map_err(Refusal::NotStored),
        }
    }

    /// Writes down that a part is prepared, if it keeps anything. Whether it does.
    pub(super) fn record_part(&mut self, id: TransactionKey, part: &Part) -> bool {
        let mut queues = Vec::new();
        let mut kept = Vec::new();
        for (targets, message) in &part.publishes {
            let first = queues.len();
            if self.store.get(*message).is_persistent() {
                queues.extend(targets.as_slice().iter().filter_map(|queue| self.store_key_of(*queue)));
            }
            if queues.len() > first {
                kept.push((*message, first..queues.len()));
            }
        }
        let settlements: Vec<PreparedSettlement> =
            part.settlements.iter().filter_map(|settling| self.prepared_settlement(settling)).collect();
        if kept.is_empty() && settlements.is_empty() {
            return false;
        }
        let publishes: Vec<PreparedPublish<'_>> = kept
            .iter()
            .map(|(message, range)| PreparedPublish {
                message: self.store.get(*message).to_store(),
                queues: &queues[range.clone()],
            })
            .collect();
        let step = Step::Prepared { publishes: &publishes, settlements: &settlements };
        let Some(journal) = &mut self.journal else { return false };
        journal.append(&Record::Transaction { transaction: id, step }, Joined::No);
        true
    }

    /// What is written down of a settlement. What stays in its queue needs nothing.
    fn prepared_settlement(&mut self, settling: &Settling) -> Option<PreparedSettlement> {
        let Settling { queue: id, tag, settlement } = *settling;
        let queue = self.queues.get_mut(id).filter(|_| takes(settlement))?;
        let key = queue.entry().store_key?;
        let item = queue.handed_out(tag).filter(|item| item.recorded)?;
        Some(PreparedSettlement { queue: key, place: item.sequence, settlement })
    }

    /// Carries out a part by records of which a restart finds all or none. Whether there are any.
    pub(super) fn commit_in_records(&mut self, id: TransactionKey, part: Part) -> bool {
        let was_prepared = part.is_recorded;
        self.record_departures();
        let before = self.journal.as_ref().map(|journal| journal.end());
        self.joined = Joined::ToNext;
        self.commit_part(part);
        self.record_departures();
        self.joined = Joined::No;
        if !was_prepared && self.journal.as_ref().map(|journal| journal.end()) == before {
            return false;
        }
        self.record_step(id, if was_prepared { Step::Ended } else { Step::Closed });
        true
    }

    /// Undoes a part that is prepared, and says so if that was written down.
    pub(super) fn undo_in_records(&mut self, id: TransactionKey, mut part: Part, verdict: Verdict) {
        self.give_up_rooms(&part);
        self.release_messages(&mut part);
        if part.is_recorded {
            self.record_step(id, Step::Ended);
        }
        self.undo_part(part, verdict);
    }

    /// Writes down that a branch is prepared.
    pub(super) fn note_branch(&mut self, id: TransactionKey) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        (round.stage, round.missing, round.is_noted) = (Stage::Noting, 1, true);
        let Then::Branch { slot, .. } = round.then else { unreachable!("only branches stay prepared") };
        let (vhost, xid, timeout_s) = self.branches.about(slot);
        let (vhost, homes) = (self.config.vhosts[vhost.0 as usize].clone(), round.recorded.clone());
        let branch = PreparedBranch { vhost: vhost.as_bytes(), xid: &xid, homes: &homes, timeout_s };
        self.record_step(id, Step::Branch(branch));
        self.wait_until_stored(Awaiting::Round(id));
    }

    /// Writes down what becomes of a transaction.
    pub(super) fn write_decision(&mut self, id: TransactionKey, verdict: Verdict) {
        let Some(round) = self.rounds.get_mut(&id) else { return };
        (round.stage, round.missing, round.is_noted) = (Stage::Deciding(verdict), 1, true);
        let decision =
            Decision { commit: verdict == Verdict::Commit, by_operator: is_by_operator(round.then) };
        self.record_step(id, Step::Decided(decision));
        self.wait_until_stored(Awaiting::Round(id));
    }

    /// All homes have done what was decided.
    pub(super) fn note_over(&mut self, id: TransactionKey, round: &Round) {
        match (&round.unstored, round.then) {
            (Some(refusal), Then::Branch { slot, .. }) => self.branches.keep(slot, (**refusal).clone()),
            (Some(_), _) => {}
            (None, then) if round.is_noted && !is_by_operator(then) => self.record_step(id, Step::Forgotten),
            (None, _) => {}
        }
    }

    /// Writes down that a branch which an operator has completed is forgotten.
    pub(super) fn write_forgotten(&mut self, id: TransactionKey, slot: usize, session: SessionId) {
        self.record_step(id, Step::Forgotten);
        self.wait_until_stored(Awaiting::Forgotten { slot, session });
    }

    pub(super) fn record_step(&mut self, transaction: TransactionKey, step: Step<'_>) {
        self.record(&Record::Transaction { transaction, step });
    }

    pub(super) fn wait_until_stored(&mut self, awaiting: Awaiting) {
        self.await_stored(Waiter::Transaction(awaiting));
    }

    /// What a transaction has waited for is stored, or never will be.
    pub(in crate::shard) fn go_on_with_transaction(&mut self, awaiting: Awaiting, refusal: Option<Refusal>) {
        match (awaiting, refusal) {
            (Awaiting::Prepared(id), None) => self.tell_part_done(id, PartDone::Recorded),
            (Awaiting::Prepared(id), Some(refusal)) => {
                self.unprepare_part(id);
                self.tell_part_done(id, PartDone::Refused(Box::new(refusal)));
            }
            (Awaiting::CarriedOut(id), None) => self.tell_part_done(id, PartDone::Done),
            (Awaiting::CarriedOut(id), Some(refusal)) => {
                self.tell_part_done(id, PartDone::Refused(Box::new(refusal)));
            }
            (Awaiting::Round(id), refusal) => {
                if let Some(round) = self.round_mut(id) {
                    round.refusal = round.refusal.take().or(refusal);
                }
                self.one_less(id);
            }
            (Awaiting::Forgotten { slot, session }, refusal) => self.branch_forgotten(slot, session, refusal),
        }
    }
}

/// Whether a message leaves its queue by this.
fn takes(settlement: Settlement) -> bool {
    matches!(settlement, Settlement::Accept | Settlement::Reject)
}

fn is_by_operator(then: Then) -> bool {
    matches!(then, Then::Branch { ending: Ending::Resolve { .. }, .. })
}
