//! Transactions after a restart: what was decided is carried out, what nobody decided is undone, branches that were
//! prepared are prepared again.
//!
//! 1. Before messages are restored: those that a transaction settles are set aside when they come, by their places.
//!    Nobody looks into them; they go, or return to their places.
//! 2. When all are there: parts are carried out by records that end them. What was decided is kept until a restart finds
//!    that every part has ended.

use super::super::envelope::Targets;
use super::Verdict;
use super::part::Part;
use super::round::{Goal, Round, Stage, Then};
use crate::journal::{
    Fate, FoundPart, FoundPublish, PreparedSettlement, QueuePlace, RecoveredTransactions, Step, StoredPlace,
    TransactionKey,
};
use crate::message::MessageHeader;
use crate::queue::{PagedItem, Ready};
use crate::shard::deadletter::{Reason, has_somewhere_to_go};
use crate::shard::{Settlement, Shard};
use crate::{QueueId, ShardId};

/// Parts between the two steps of restoring.
#[derive(Default)]
pub(super) struct Restoring {
    parts: Vec<(TransactionKey, Fate, Part)>,
    /// What is over everywhere and was decided in this shard's journal.
    over: Vec<TransactionKey>,
}

impl Shard {
    /// After a restart: the transactions that were found, the same on all shards. After the topology, before messages.
    pub fn restore_transactions(&mut self, found: &RecoveredTransactions) {
        let mut parts: Vec<(TransactionKey, Fate, Part)> = Vec::new();
        let own = self.config.id;
        for (id, _, part) in found.parts().filter(|(_, journal, _)| *journal == own) {
            let part = self.take_in(part);
            match parts.last_mut() {
                Some((last, _, known)) if *last == id => known.append(part),
                _ => parts.push((id, found.fate(id), part)),
            }
        }
        let settling = parts.iter().filter(|(_, fate, _)| *fate != Fate::Undo);
        for settlement in settling.flat_map(|(.., part)| &part.settlements_aside) {
            self.parts.aside.insert((settlement.queue, settlement.place), None);
        }
        let is_outstanding = |id| found.parts().any(|(other, ..)| other == id);
        let is_over = |id| !is_outstanding(id) && !found.is_by_operator(id);
        let decided = found.decisions().filter(|(_, journal)| *journal == own);
        let over = decided.map(|(id, _)| id).filter(|id| is_over(*id)).collect();
        self.records.restoring = Restoring { parts, over };
        if self.config.id == ShardId::CONTROL {
            self.restore_branches(found);
        }
    }

    /// Sets a message aside that has been restored, if a transaction settles it. Whether it does.
    pub(in crate::shard) fn set_aside(&mut self, found: &StoredPlace) -> bool {
        if self.parts.aside.is_empty() {
            return false;
        }
        let Some(aside) = self.parts.aside.get_mut(&(found.place.queue, found.place.place)) else {
            return false;
        };
        *aside = Some(*found);
        true
    }

    /// All messages have been restored: transactions end, or go on as they were.
    pub(in crate::shard) fn end_restore_of_transactions(&mut self) {
        let Restoring { parts, over } = std::mem::take(&mut self.records.restoring);
        for (id, fate, mut part) in parts {
            part.is_recorded = true;
            self.keep_rooms(&part);
            match fate {
                Fate::Commit => self.commit_again(id, part),
                Fate::Undo => self.undo_in_records(id, part, Verdict::Requeue),
                // Its transaction manager will say.
                Fate::InDoubt => {
                    self.parts.prepared.insert(id, part);
                }
            }
        }
        for id in over {
            self.record_step(id, Step::Forgotten);
        }
    }

    /// Carries a part out that was decided on before the restart. It may have been carried out then, for clients to see,
    /// without a record of it.
    fn commit_again(&mut self, id: TransactionKey, part: Part) {
        let queues: Vec<QueueId> =
            part.publishes.iter().flat_map(|(targets, _)| targets.as_slice()).copied().collect();
        self.set_repeating(&queues, true);
        self.commit_in_records(id, part);
        self.set_repeating(&queues, false);
    }

    fn set_repeating(&mut self, queues: &[QueueId], repeats: bool) {
        for id in queues {
            if let Some(queue) = self.queues.get_mut(*id) {
                queue.set_repeating(repeats);
            }
        }
    }

    /// Settles messages that were set aside.
    pub(super) fn settle_aside(&mut self, settlements: &[PreparedSettlement]) {
        for PreparedSettlement { queue, place, settlement } in settlements {
            let Some(Some(found)) = self.parts.aside.remove(&(*queue, *place)) else { continue };
            self.stats.settled += 1;
            if *settlement == Settlement::Reject {
                self.reject_aside(&found);
            } else {
                self.drop_aside(&found);
            }
        }
    }

    /// Puts messages that were set aside back to their places.
    pub(super) fn put_back_aside(&mut self, settlements: &[PreparedSettlement]) {
        for PreparedSettlement { queue, place, .. } in settlements {
            let Some(Some(found)) = self.parts.aside.remove(&(*queue, *place)) else { continue };
            let place = QueuePlace { redelivered: true, ..found.place };
            if !self.restore_place(&StoredPlace { place, ..found }) {
                self.drop_aside(&found);
            }
        }
    }

    /// A message that was set aside leaves its queue for good.
    fn drop_aside(&mut self, found: &StoredPlace) {
        self.departures.add(found.place.queue, found.place.place, 1);
        self.store.drop_holder(found.at, found.place.counted_bytes as usize);
    }

    /// A message that was set aside is rejected: it has to be read if somebody wants it.
    fn reject_aside(&mut self, found: &StoredPlace) {
        let id = self.topology.queue_by_key(found.place.queue);
        let Some(queue) = id.and_then(|id| self.queues.get_mut(id)) else { return self.drop_aside(found) };
        if !has_somewhere_to_go(queue.options(), Reason::Rejected) {
            self.note_discarded(Reason::Rejected, 1);
            return self.drop_aside(found);
        }
        let item = queue.restored(&found.place, found.part, self.clock);
        let mut ready = Ready::new(item.priority);
        ready.put_away(PagedItem::new(item, found.at));
        let entry = queue.entry().clone();
        self.bury_paged(entry, ready, Reason::Rejected);
    }

    /// A part as it was prepared. Queues that have gone are left out.
    fn take_in(&mut self, found: &FoundPart) -> Part {
        let own = self.config.id;
        let mut part = Part::default();
        for FoundPublish { message, queues } in &found.publishes {
            let queues = queues.iter().filter_map(|key| self.topology.queue_by_key(*key));
            let queues: Vec<QueueId> = queues.filter(|queue| queue.home == own).collect();
            let Some(targets) = Targets::of(&queues) else { continue };
            let message = message.to_store();
            let header = MessageHeader {
                encoding: message.encoding,
                exchange: message.exchange,
                routing_key: message.routing_key,
                properties: message.properties,
                body_bytes: message.bodies.len() as u64,
                priority: message.priority,
                ttl_ms: message.ttl_ms,
                persistent: message.persistent,
                has_headers: message.has_headers,
            };
            part.publishes.push((targets, self.store.begin_with(&header, message.bodies)));
        }
        let is_there = |settlement: &&PreparedSettlement| {
            self.topology.queue_by_key(settlement.queue).is_some_and(|queue| queue.home == own)
        };
        part.settlements_aside = found.settlements.iter().filter(is_there).copied().collect();
        part
    }

    /// Control shard: branches that are prepared, and those that an operator has completed.
    fn restore_branches(&mut self, found: &RecoveredTransactions) {
        for (id, branch, decision) in found.branches() {
            let Some(vhost) = self.vhost(branch.vhost.as_bytes()) else { continue };
            let completed = decision.filter(|decision| decision.by_operator);
            if decision.is_some() && completed.is_none() {
                continue;
            }
            let committed = completed.map(|decision| decision.commit);
            let slot = self.branches.restore(vhost, branch, id, committed);
            if committed.is_none() {
                let mut round = Round::new(Goal::Prepare, Then::restored(slot));
                (round.stage, round.is_noted) = (Stage::Prepared, true);
                round.homes = found.homes(id).filter(|home| *home != self.config.id).collect();
                self.rounds.insert(id, round);
            }
        }
    }
}
