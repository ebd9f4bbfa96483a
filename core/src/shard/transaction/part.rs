//! A home's part of a transaction.
//!
//! A prepared part keeps room in its queues and holds on to the messages that it is to settle: whatever comes later, it
//! can be carried out and it can be undone. What a journal has to have stored before the home says so is `records`'
//! business.

use super::super::envelope::{Letter, Targets};
use super::Settling;
use super::records::Awaiting;
use crate::hash::Map;
use crate::journal::{PreparedSettlement, StoreKey, StoredPlace, TransactionKey};
use crate::mesh::Lane;
use crate::message::Message;
use crate::shard::{Settlement, Shard};
use crate::{MessageId, QueueId, Refusal, ShardId, VhostId};

/// What becomes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Verdict {
    /// It is carried out.
    Commit,
    /// It is not. What it was to settle stays with whoever holds it.
    Leave,
    /// It is not. What it was to settle goes back to its queues.
    Requeue,
}

/// What a home is to do with a part that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Order {
    /// See whether it can be done, and keep it so until the verdict.
    Prepare {
        /// Also over the end of the process, as far as that makes a difference.
        is_recorded: bool,
    },
    /// No other home has one: do it, or else this.
    DoOr(Verdict),
    /// Settlements to be undone.
    Undo,
}

/// What a home says to the shard that carries out the transaction.
#[derive(Debug)]
pub(in crate::shard) enum PartDone {
    /// It is as it was asked for.
    Done,
    /// It is prepared, and written down.
    Recorded,
    /// It cannot be.
    Refused(Box<Refusal>),
}

/// Whether a home is done with what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Now,
    /// The journal has to store it first; [`Shard::tell_part_done`] follows.
    Later,
}

/// A part at its home.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) publishes: Vec<(Targets, MessageId)>,
    /// Messages for exchanges that keep something.
    pub(super) for_keepers: Vec<(VhostId, MessageId)>,
    pub(super) settlements: Vec<Settling>,
    /// Settlements of messages that were set aside by a restart.
    pub(super) settlements_aside: Vec<PreparedSettlement>,
    /// It is written down that it is prepared.
    pub(super) is_recorded: bool,
}

/// A part on its way.
pub(in crate::shard) struct RemotePart {
    pub(super) id: TransactionKey,
    pub(super) order: Order,
    pub(super) publishes: Vec<(Targets, Message)>,
    pub(super) settlements: Vec<Settling>,
}

/// The parts that are prepared here, or were refused, until the verdict.
#[derive(Default)]
pub(in crate::shard) struct Parts {
    pub(super) prepared: Map<TransactionKey, Part>,
    /// The messages that they are to settle, and what somebody else wanted to become of one meanwhile.
    pub(super) held: Map<(QueueId, u64), Option<Settlement>>,
    /// Messages that they settle and that a restart has found, by their places. `None`: it has not yet, or nobody has.
    pub(super) aside: Map<(StoreKey, u64), Option<StoredPlace>>,
}

impl Part {
    /// Does what the other one does too.
    pub(super) fn append(&mut self, mut other: Part) {
        self.publishes.append(&mut other.publishes);
        self.settlements.append(&mut other.settlements);
        self.settlements_aside.append(&mut other.settlements_aside);
    }
}

impl Parts {
    /// Whether a message waits for a verdict, after which what is asked for now may be done.
    pub(in crate::shard) fn holds(&mut self, queue: QueueId, tag: u64, settlement: Settlement) -> bool {
        match self.held.get_mut(&(queue, tag)) {
            Some(asked) => {
                *asked = Some(settlement);
                true
            }
            None => false,
        }
    }

    /// The message at a place that a restart has set aside.
    pub(in crate::shard) fn aside_at(&mut self, queue: StoreKey, place: u64) -> Option<&mut StoredPlace> {
        self.aside.get_mut(&(queue, place))?.as_mut()
    }

    /// Whether a message of a queue is set aside.
    pub(in crate::shard) fn has_aside_of(&self, queue: StoreKey) -> bool {
        self.aside.keys().any(|(key, _)| *key == queue)
    }

    #[cfg(test)]
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.prepared.is_empty() && self.held.is_empty() && self.aside.is_empty()
    }
}

impl Shard {
    /// A part from the shard that carries out its transaction.
    pub(in crate::shard) fn receive_part(&mut self, part: RemotePart) {
        let RemotePart { id, order, publishes, settlements } = part;
        let publishes =
            publishes.into_iter().map(|(targets, message)| (targets, self.store.insert(message))).collect();
        let part = Part { publishes, settlements, ..Part::default() };
        let done = match order {
            Order::Prepare { is_recorded } => self.prepare_part(id, part, is_recorded),
            Order::DoOr(otherwise) => self.do_part_or(id, part, otherwise),
            Order::Undo => {
                self.undo_part(part, Verdict::Requeue);
                Ok(Done::Now)
            }
        };
        match done {
            Ok(Done::Now) => self.tell_part_done(id, PartDone::Done),
            Ok(Done::Later) => {}
            Err(refusal) => self.tell_part_done(id, PartDone::Refused(Box::new(refusal))),
        }
    }

    /// The verdict on a part, from the shard that carries out its transaction.
    pub(in crate::shard) fn receive_verdict(&mut self, id: TransactionKey, verdict: Verdict) {
        if self.judge_part(id, verdict) == Done::Now {
            self.tell_part_done(id, PartDone::Done);
        }
    }

    /// Says what became of a part here to the shard that carries out the transaction.
    pub(super) fn tell_part_done(&mut self, id: TransactionKey, done: PartDone) {
        if id.shard == self.config.id {
            return self.part_done(self.config.id, id, done);
        }
        self.send(id.shard, Lane::Reply, Letter::PartDone { transaction: id, done });
    }

    /// Sees whether a part can be done, and keeps it until the verdict. If it cannot only its settlements are kept.
    pub(super) fn prepare_part(
        &mut self,
        id: TransactionKey,
        mut part: Part,
        is_recorded: bool,
    ) -> Result<Done, Refusal> {
        let promised = self.admit_part(&part, is_recorded).and_then(|()| self.promise_all(&part.publishes));
        for settling in &part.settlements {
            self.parts.held.insert((settling.queue, settling.tag), None);
        }
        match promised {
            Ok(()) => part.is_recorded = is_recorded && self.record_part(id, &part),
            Err(_) => self.release_messages(&mut part),
        }
        let is_recorded = part.is_recorded;
        self.parts.prepared.insert(id, part);
        if is_recorded {
            self.wait_until_stored(Awaiting::Prepared(id));
        }
        promised.map(|()| if is_recorded { Done::Later } else { Done::Now })
    }

    /// Carries out a part that no other home has to agree to.
    fn do_part_or(&mut self, id: TransactionKey, part: Part, otherwise: Verdict) -> Result<Done, Refusal> {
        match self.prepare_part(id, part, false) {
            Ok(_) => Ok(self.judge_part(id, Verdict::Commit)),
            Err(refusal) => {
                self.judge_part(id, otherwise);
                Err(refusal)
            }
        }
    }

    /// It could not be written down that a part is prepared.
    pub(super) fn unprepare_part(&mut self, id: TransactionKey) {
        let Some(mut part) = self.parts.prepared.remove(&id) else { return };
        self.give_up_rooms(&part);
        self.release_messages(&mut part);
        part.is_recorded = false;
        self.parts.prepared.insert(id, part);
    }

    /// Does with a part what was decided.
    pub(super) fn judge_part(&mut self, id: TransactionKey, verdict: Verdict) -> Done {
        let Some(part) = self.parts.prepared.remove(&id) else { return Done::Now };
        if verdict != Verdict::Commit {
            self.undo_in_records(id, part, verdict);
        } else if self.commit_in_records(id, part) {
            self.wait_until_stored(Awaiting::CarriedOut(id));
            return Done::Later;
        }
        Done::Now
    }

    /// Keeps room in every queue, whatever they have.
    pub(super) fn keep_rooms(&mut self, part: &Part) {
        for (targets, message) in &part.publishes {
            targets.as_slice().iter().for_each(|&queue| self.keep_room(queue, *message));
        }
    }

    pub(super) fn give_up_rooms(&mut self, part: &Part) {
        for (targets, message) in &part.publishes {
            targets.as_slice().iter().for_each(|&queue| self.give_up_room(queue, *message));
        }
    }

    pub(super) fn commit_part(&mut self, part: Part) {
        for (targets, message) in part.publishes {
            let queues = targets.as_slice();
            queues.iter().for_each(|&queue| self.give_up_room(queue, message));
            self.enqueue_all_promised(queues, message);
        }
        for (vhost, message) in part.for_keepers {
            self.publish_later(vhost, message, None);
        }
        for Settling { queue, tag, settlement } in part.settlements {
            self.parts.held.remove(&(queue, tag));
            self.settle_at_home(queue, tag, settlement);
        }
        self.settle_aside(&part.settlements_aside);
        self.bury_dead();
    }

    pub(super) fn undo_part(&mut self, part: Part, verdict: Verdict) {
        self.put_back_aside(&part.settlements_aside);
        for Settling { queue, tag, .. } in part.settlements {
            let asked = self.parts.held.remove(&(queue, tag)).flatten();
            let settlement = if verdict == Verdict::Requeue { Some(Settlement::Requeue) } else { asked };
            if let Some(settlement) = settlement {
                self.settle_at_home(queue, tag, settlement);
            }
        }
        self.bury_dead();
    }

    /// Keeps room in every queue, or in none.
    fn promise_all(&mut self, publishes: &[(Targets, MessageId)]) -> Result<(), Refusal> {
        let mut promised = Vec::new();
        for (targets, message) in publishes {
            for &queue in targets.as_slice() {
                if let Err(refusal) = self.promise_room(queue, *message) {
                    for (queue, message) in promised {
                        self.give_up_room(queue, message);
                    }
                    return Err(refusal);
                }
                promised.push((queue, *message));
            }
        }
        Ok(())
    }

    pub(super) fn release_messages(&mut self, part: &mut Part) {
        for (_, message) in part.publishes.drain(..) {
            self.store.release(message);
        }
        for (_, message) in part.for_keepers.drain(..) {
            self.store.release(message);
        }
    }
}

/// The part of a home among those made so far; an empty one if it had none.
pub(super) fn part_of(parts: &mut Vec<(ShardId, Part)>, home: ShardId) -> &mut Part {
    let at = parts.iter().position(|(shard, _)| *shard == home).unwrap_or_else(|| {
        parts.push((home, Part::default()));
        parts.len() - 1
    });
    &mut parts[at].1
}
