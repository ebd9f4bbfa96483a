//! A home's part of a transaction.
//!
//! A prepared part keeps room in its queues and holds on to the messages that it is to settle: whatever comes later, it
//! can be carried out and it can be undone. This is what a journal has to have written before the home says so.

use super::super::envelope::{Letter, Targets};
use super::{Settling, TransactionId};
use crate::hash::Map;
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
    Prepare,
    /// No other home has one: do it, or else this.
    DoOr(Verdict),
    /// Settlements to be undone.
    Undo,
}

/// A part at its home.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) publishes: Vec<(Targets, MessageId)>,
    /// Messages to be held back for so many milliseconds before they are routed.
    pub(super) held_back: Vec<(VhostId, MessageId, u64)>,
    /// Messages for exchanges that keep something.
    pub(super) for_keepers: Vec<(VhostId, MessageId)>,
    pub(super) settlements: Vec<Settling>,
}

/// A part on its way.
pub(in crate::shard) struct RemotePart {
    pub(super) id: TransactionId,
    pub(super) order: Order,
    pub(super) publishes: Vec<(Targets, Message)>,
    pub(super) settlements: Vec<Settling>,
}

/// The parts that are prepared here, or were refused, until the verdict.
#[derive(Default)]
pub(in crate::shard) struct Parts {
    prepared: Map<TransactionId, Part>,
    /// The messages that they are to settle, and what somebody else wanted to become of one meanwhile.
    held: Map<(QueueId, u64), Option<Settlement>>,
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

    #[cfg(test)]
    pub(in crate::shard) fn is_empty(&self) -> bool {
        self.prepared.is_empty() && self.held.is_empty()
    }
}

impl Shard {
    /// A part from the shard that carries out its transaction.
    pub(in crate::shard) fn receive_part(&mut self, part: RemotePart) {
        let RemotePart { id, order, publishes, settlements } = part;
        let publishes =
            publishes.into_iter().map(|(targets, message)| (targets, self.store.insert(message))).collect();
        let part = Part { publishes, settlements, ..Part::default() };
        let refusal = match order {
            Order::Prepare => self.prepare_part(id, part).err(),
            Order::DoOr(otherwise) => self.do_part_or(id, part, otherwise).err(),
            Order::Undo => {
                self.undo_part(part, Verdict::Requeue);
                None
            }
        };
        let refusal = refusal.map(Box::new);
        self.send(id.shard, Lane::Reply, Letter::PartDone { transaction: id, refusal });
    }

    /// The verdict on a part, from the shard that carries out its transaction.
    pub(in crate::shard) fn receive_verdict(&mut self, id: TransactionId, verdict: Verdict) {
        self.judge_part(id, verdict);
        self.send(id.shard, Lane::Reply, Letter::PartDone { transaction: id, refusal: None });
    }

    /// Sees whether a part can be done, and keeps it until the verdict. If it cannot only its settlements are kept.
    pub(super) fn prepare_part(&mut self, id: TransactionId, mut part: Part) -> Result<(), Refusal> {
        let promised = self.promise_all(&part.publishes);
        if promised.is_err() {
            self.release_messages(&mut part);
        }
        for settling in &part.settlements {
            self.parts.held.insert((settling.queue, settling.tag), None);
        }
        self.parts.prepared.insert(id, part);
        promised
    }

    /// Carries out a part that no other home has to agree to.
    pub(super) fn do_part_or(
        &mut self,
        id: TransactionId,
        part: Part,
        otherwise: Verdict,
    ) -> Result<(), Refusal> {
        let prepared = self.prepare_part(id, part);
        self.judge_part(id, if prepared.is_ok() { Verdict::Commit } else { otherwise });
        prepared
    }

    /// Does with a part what was decided.
    pub(super) fn judge_part(&mut self, id: TransactionId, verdict: Verdict) {
        let Some(mut part) = self.parts.prepared.remove(&id) else { return };
        if verdict == Verdict::Commit {
            return self.commit_part(part);
        }
        for (targets, message) in &part.publishes {
            targets.as_slice().iter().for_each(|&queue| self.give_up_room(queue, *message));
        }
        self.release_messages(&mut part);
        self.undo_part(part, verdict);
    }

    fn commit_part(&mut self, part: Part) {
        for (targets, message) in part.publishes {
            let queues = targets.as_slice();
            queues.iter().for_each(|&queue| self.give_up_room(queue, message));
            for (place, &queue) in queues.iter().enumerate() {
                if place + 1 < queues.len() {
                    self.store.retain(message);
                }
                self.enqueue_promised(queue, message);
            }
        }
        for (vhost, message, delay_ms) in part.held_back {
            self.hold_back(vhost, message, delay_ms);
        }
        for (vhost, message) in part.for_keepers {
            self.publish_held_back(vhost, message);
        }
        for Settling { queue, tag, settlement } in part.settlements {
            self.parts.held.remove(&(queue, tag));
            self.settle_at_home(queue, tag, settlement);
        }
        self.bury_dead();
    }

    pub(super) fn undo_part(&mut self, part: Part, verdict: Verdict) {
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
        for (_, message, _) in part.held_back.drain(..) {
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
