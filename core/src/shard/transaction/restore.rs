//! Transactions after a restart: what was decided is carried out, what nobody decided is undone, branches that were
//! prepared are prepared again.
//!
//! 1. Before messages are restored: those that a transaction settles are set aside when they come, by their places.
//!    Nobody looks into them; they go, or return to their places.
//! 2. When all are there: parts are carried out by records that end them. What was decided is kept until a restart finds
//!    that every part has ended.
//! 3. A queue may have moved to another home since. Its new home writes its piece down; the old journal's counts no more.

use super::super::envelope::Targets;
use super::part::Part;
use super::round::{Goal, Round, Stage, Then};
use crate::journal::{
    Fate, FoundPart, FoundPublish, Joined, PreparedSettlement, QueuePlace, RecoveredTransactions, Step,
    StoreKey, StoredPlace, TransactionKey,
};
use crate::message::MessageHeader;
use crate::shard::Shard;
use crate::{QueueId, ShardId};

/// Parts between the two steps of restoring.
#[derive(Default)]
pub(super) struct Restoring {
    pieces: Vec<(TransactionKey, Piece)>,
    /// What is over everywhere and was decided in this shard's journal.
    over: Vec<TransactionKey>,
}

/// What a shard has of a transaction.
struct Piece {
    fate: Fate,
    part: Part,
    /// Its own journal has a part.
    is_recorded: bool,
    /// Another journal has some of what it does now.
    has_moved_here: bool,
    /// What its own journal has for queues that are at home elsewhere now.
    moved_away: FoundPart,
}

impl Shard {
    /// After a restart: the transactions that were found, the same on all shards. After the topology, before messages.
    pub fn restore_transactions(&mut self, found: &RecoveredTransactions) {
        let mut pieces: Vec<(TransactionKey, Piece)> = Vec::new();
        for (id, journal, part) in found.parts() {
            let is_recorded = journal == self.config.id;
            let own = self.piece_of(found, id, journal, part);
            if own.is_empty() && !is_recorded {
                continue;
            }
            if pieces.last().is_none_or(|(last, _)| *last != id) {
                pieces.push((id, Piece::new(found.fate(id))));
            }
            let Some((_, piece)) = pieces.last_mut() else { continue };
            piece.has_moved_here |= !is_recorded;
            piece.part.append(own);
            if is_recorded {
                piece.is_recorded = true;
                piece.moved_away = self.moved_away(found, id, part);
            }
        }
        for (_, piece) in &pieces {
            for settlement in &piece.part.settlements_aside {
                self.parts.aside.insert((settlement.queue, settlement.place), None);
            }
        }
        let is_outstanding = |id| found.parts().any(|(other, ..)| other == id);
        let is_over = |id| !is_outstanding(id) && !found.is_by_operator(id);
        let own = found.decisions().filter(|(_, journal)| *journal == self.config.id);
        let over = own.map(|(id, _)| id).filter(|id| is_over(*id)).collect();
        self.records.restoring = Restoring { pieces, over };
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
        let Restoring { pieces, over } = std::mem::take(&mut self.records.restoring);
        for (id, piece) in pieces {
            match piece.fate {
                Fate::Commit => self.commit_restored(id, piece),
                Fate::Undo => self.undo_restored(id, piece),
                Fate::InDoubt => self.keep_prepared(id, piece),
            }
        }
        for id in over {
            self.record_step(id, Step::Forgotten);
        }
    }

    fn commit_restored(&mut self, id: TransactionKey, piece: Piece) {
        self.record_departures();
        self.joined = Joined::ToNext;
        self.keep_rooms(&piece.part);
        self.commit_part(piece.part);
        self.record_departures();
        self.joined = Joined::No;
        if piece.moved_away.is_empty() {
            self.record_step(id, Step::Ended);
        } else {
            // Is over when their homes have carried it out, which the next restart sees.
            let FoundPart { settlements, .. } = &piece.moved_away;
            let publishes = piece.moved_away.to_store();
            self.record_step(id, Step::Prepared { publishes: &publishes, settlements });
        }
    }

    fn undo_restored(&mut self, id: TransactionKey, mut piece: Piece) {
        self.release_messages(&mut piece.part);
        self.put_back_aside(&piece.part.settlements_aside);
        if piece.is_recorded {
            self.record_step(id, Step::Ended);
        }
    }

    fn keep_prepared(&mut self, id: TransactionKey, piece: Piece) {
        let mut part = piece.part;
        self.keep_rooms(&part);
        if piece.has_moved_here {
            // All of it, in place of what its own journal has.
            self.record_part(id, &part);
        }
        part.is_recorded = true;
        self.parts.prepared.insert(id, part);
    }

    /// Settles messages that were set aside.
    pub(super) fn settle_aside(&mut self, settlements: &[PreparedSettlement]) {
        for PreparedSettlement { queue, place, .. } in settlements {
            let Some(Some(found)) = self.parts.aside.remove(&(*queue, *place)) else { continue };
            self.stats.settled += 1;
            self.departures.add(*queue, *place, 1);
            self.store.drop_holder(found.at, found.place.counted_bytes as usize);
        }
    }

    /// Puts messages that were set aside back to their places.
    pub(super) fn put_back_aside(&mut self, settlements: &[PreparedSettlement]) {
        for PreparedSettlement { queue, place, .. } in settlements {
            let Some(Some(found)) = self.parts.aside.remove(&(*queue, *place)) else { continue };
            let place = QueuePlace { redelivered: true, ..found.place };
            self.restore_place(&StoredPlace { place, ..found });
        }
    }

    /// What a shard has to do of a part that a journal has.
    fn piece_of(
        &mut self,
        found: &RecoveredTransactions,
        id: TransactionKey,
        journal: ShardId,
        part: &FoundPart,
    ) -> Part {
        let own = self.config.id;
        let mut piece = Part::default();
        for FoundPublish { message, queues } in &part.publishes {
            let is_own = |key: &StoreKey| {
                let queue = self.topology.queue_by_key(*key).filter(|queue| queue.home == own)?;
                found.is_for(id, journal, own, *key).then_some(queue)
            };
            let queues: Vec<QueueId> = queues.iter().filter_map(is_own).collect();
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
            piece.publishes.push((targets, self.store.begin_with(&header, message.bodies)));
        }
        for settlement in &part.settlements {
            let home = self.topology.queue_by_key(settlement.queue).map(|queue| queue.home);
            if home == Some(own) && found.is_for(id, journal, own, settlement.queue) {
                piece.settlements_aside.push(*settlement);
            }
        }
        piece
    }

    /// What this shard's journal has for queues that are at home elsewhere, and whose homes have not got it.
    fn moved_away(&self, found: &RecoveredTransactions, id: TransactionKey, part: &FoundPart) -> FoundPart {
        let own = self.config.id;
        let has_moved = |key: &StoreKey| {
            let home = self.topology.queue_by_key(*key).map(|queue| queue.home);
            home.is_some_and(|home| home != own && found.is_for(id, own, home, *key))
        };
        part.only(has_moved)
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
                round.homes = self.homes_of(found, id);
                self.rounds.insert(id, round);
            }
        }
    }

    /// The other shards that have a piece of a transaction, or a record of one.
    fn homes_of(&self, found: &RecoveredTransactions, id: TransactionKey) -> Vec<ShardId> {
        let mut homes = Vec::new();
        for (_, journal, part) in found.parts().filter(|(other, ..)| *other == id) {
            homes.push(journal);
            homes.extend(part.queues().filter_map(|key| Some(self.topology.queue_by_key(key)?.home)));
        }
        homes.sort_unstable();
        homes.dedup();
        homes.retain(|home| *home != self.config.id && home.0 < self.config.shards);
        homes
    }
}

impl Piece {
    fn new(fate: Fate) -> Self {
        Piece {
            fate,
            part: Part::default(),
            is_recorded: false,
            has_moved_here: false,
            moved_away: FoundPart::default(),
        }
    }
}
