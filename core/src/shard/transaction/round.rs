//! Carrying out a transaction: one shard asks the homes of all queues concerned, and decides for all.
//!
//! First every home prepares its part, in the data lane, so behind what the session published before. If all can they
//! are told to commit, otherwise to undo; the round is over when all have said that they have. Whoever has a verdict
//! can rely on it: a prepared part cannot fail. If only one home has a part it decides by itself. What has to be written
//! down on the way, and when, is `records`' business.
//!
//! Messages for exchanges that number or keep what passes (`qpid.msg_sequence`, `qpid.ive`) go to the exchange's home
//! with the commit and on from there: no room is kept for them, and nobody waits for their arrival.

use super::super::envelope::{Letter, Targets};
use super::branches::Ending;
use super::part::{Done, Part, PartDone, part_of};
use super::{Order, Publish, RemotePart, Settling, Verdict, Work};
use crate::journal::TransactionKey;
use crate::mesh::Lane;
use crate::shard::Shard;
use crate::shard::publish::Routed;
use crate::shard::route::{LastRoute, Route};
use crate::{MessageId, Refusal, SessionId, ShardId, VhostId};

/// How far a round is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Commit,
    /// Until every home has agreed; [`Shard::decide`] goes on.
    Prepare,
    /// Settled messages go back to their queues.
    Undo,
}

/// Who is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// A session that commits; so many deliveries that it was handed are settled with it.
    Commit { session: SessionId, settled: u32 },
    /// A branch, and the session that asked for this.
    Branch { slot: usize, session: SessionId, ending: Ending },
}

impl Then {
    /// What becomes of settlements that are not carried out.
    fn otherwise(self) -> Verdict {
        match self {
            Then::Commit { .. } => Verdict::Leave,
            Then::Branch { .. } => Verdict::Requeue,
        }
    }

    /// Of a branch that was prepared before a restart: nobody waits for that.
    pub(super) fn restored(slot: usize) -> Self {
        let session = SessionId { shard: ShardId::CONTROL, index: u32::MAX, generation: 0 };
        Then::Branch { slot, session, ending: Ending::Prepare }
    }
}

/// How a round ended: with the mandatory messages that no queue takes, or without having done anything.
pub(super) type Ended = Result<Vec<MessageId>, Refusal>;

/// How far it got at once.
pub(super) enum Progress {
    /// To its end; if that was [`Goal::Prepare`] it can be decided on now.
    Ended(Ended),
    /// Other shards have to answer. Whoever is to be told is told.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The homes see whether they can.
    Asked,
    /// All can; that it is a branch's is being written down.
    Noting,
    /// All can.
    Prepared,
    /// What becomes of it is being written down.
    Deciding(Verdict),
    /// The homes do what was decided.
    Decided,
    /// Nobody knows whether the decision was written down: that shows at the next start. Homes keep what they have.
    InDoubt,
}

/// The carrying out of one transaction.
pub(in crate::shard) struct Round {
    pub(super) stage: Stage,
    pub(super) goal: Goal,
    /// Other shards that have a part.
    pub(super) homes: Vec<ShardId>,
    /// Homes that have not answered, this one included; or the journal here.
    pub(super) missing: usize,
    pub(super) refusal: Option<Refusal>,
    unroutable: Vec<MessageId>,
    pub(super) then: Then,
    /// Homes that have written down their parts.
    pub(super) recorded: Vec<ShardId>,
    /// Something has been written down here that has to stay until it is over.
    pub(super) is_noted: bool,
    /// And stays, since a home could not write down that it is.
    pub(super) unstored: Option<Box<Refusal>>,
}

impl Round {
    pub(super) fn new(goal: Goal, then: Then) -> Self {
        Round {
            stage: Stage::Asked,
            goal,
            homes: Vec::new(),
            missing: 0,
            refusal: None,
            unroutable: Vec::new(),
            then,
            recorded: Vec::new(),
            is_noted: false,
            unstored: None,
        }
    }
}

/// Where a message goes.
enum Destination {
    Queues(Route),
    /// To the home of an exchange, when it is certain to go; there it is numbered and goes its way.
    Keeper(VhostId),
}

impl Shard {
    /// Carries out a session's or a branch's work.
    pub(super) fn carry_out(&mut self, work: Work, goal: Goal, then: Then) -> (TransactionKey, Progress) {
        self.waiting_bytes -= work.bytes;
        let id = self.begin_round(goal, then);
        let routed = match goal {
            Goal::Undo => {
                work.publishes.iter().for_each(|publish| self.store.release(publish.message));
                Ok(Vec::new())
            }
            Goal::Commit | Goal::Prepare => self.destinations(id, work.publishes),
        };
        let is_undone = goal == Goal::Undo || routed.is_err();
        let (destinations, mut refusal) = match routed {
            Ok(destinations) => (destinations, None),
            Err(refusal) => (Vec::new(), Some(refusal)),
        };
        let mut parts = self.split(destinations, work.settlements);
        let is_recorded = self.wants_records(goal, &parts);
        let own = parts.iter().position(|(shard, _)| *shard == self.config.id);
        let own = own.map(|at| parts.swap_remove(at).1);
        if is_undone {
            self.undo_part(own.unwrap_or_default(), then.otherwise());
        } else if own.is_none() && parts.len() == 1 && goal == Goal::Commit {
            self.send_parts(id, Stage::Decided, Order::DoOr(then.otherwise()), parts);
            return (id, Progress::Waiting);
        } else {
            match self.prepare_part(id, own.unwrap_or_default(), is_recorded) {
                Ok(done) => {
                    self.send_parts(id, Stage::Asked, Order::Prepare { is_recorded }, parts);
                    self.expect_own(id, done);
                    return (id, self.go_on(id));
                }
                Err(refused) => {
                    self.judge_part(id, then.otherwise());
                    refusal = Some(refused);
                }
            }
        }
        self.undo_elsewhere(id, parts, refusal);
        (id, self.go_on(id))
    }

    /// Carries out or undoes a transaction that is prepared.
    pub(super) fn decide(&mut self, id: TransactionKey, verdict: Verdict, then: Then) -> Progress {
        if let Some(round) = self.round_mut(id) {
            assert!(round.stage == Stage::Prepared, "what is decided on is prepared");
            round.then = then;
            if round.is_noted {
                self.write_decision(id, verdict);
            } else {
                self.tell_verdict(id, verdict);
            }
        }
        self.go_on(id)
    }

    /// A home has done what it was told, or says why it cannot.
    pub(in crate::shard) fn part_done(&mut self, home: ShardId, id: TransactionKey, done: PartDone) {
        let Some(round) = self.round_mut(id) else { return };
        match done {
            PartDone::Done => {}
            PartDone::Recorded => round.recorded.push(home),
            // What was decided is certain; that it is done has to be found out again by a restart.
            PartDone::Refused(refusal) if round.stage == Stage::Decided && round.is_noted => {
                round.unstored = Some(refusal);
            }
            PartDone::Refused(refusal) => {
                round.refusal.get_or_insert(*refusal);
            }
        }
        self.one_less(id);
    }

    /// One less to wait for.
    pub(super) fn one_less(&mut self, id: TransactionKey) {
        let Some(round) = self.round_mut(id) else { return };
        round.missing -= 1;
        let then = round.then;
        if let Progress::Ended(ended) = self.go_on(id) {
            match then {
                Then::Commit { session, settled } => self.tell_committed(session, settled, ended),
                Then::Branch { slot, session, ending } => {
                    self.tell_branch_ended(slot, session, ending, id, ended);
                }
            }
        }
    }

    /// Takes the steps that need no other shard's answer.
    fn go_on(&mut self, id: TransactionKey) -> Progress {
        loop {
            let Some(round) = self.round_mut(id) else { return Progress::Ended(Ok(Vec::new())) };
            if round.missing > 0 {
                return Progress::Waiting;
            }
            match round.stage {
                Stage::Asked | Stage::Noting if round.refusal.is_some() => {
                    let verdict = round.then.otherwise();
                    self.tell_verdict(id, verdict);
                }
                Stage::Asked if round.goal == Goal::Commit => match round.recorded.len() {
                    // One home's records say all.
                    0 | 1 => self.tell_verdict(id, Verdict::Commit),
                    _ => self.write_decision(id, Verdict::Commit),
                },
                Stage::Asked if !round.recorded.is_empty() => self.note_branch(id),
                Stage::Asked | Stage::Noting | Stage::Prepared => {
                    round.stage = Stage::Prepared;
                    return Progress::Ended(Ok(std::mem::take(&mut round.unroutable)));
                }
                Stage::Deciding(_) if round.refusal.is_some() => {
                    return Progress::Ended(Err(self.leave_in_doubt(id)));
                }
                Stage::Deciding(verdict) => self.tell_verdict(id, verdict),
                Stage::Decided => return Progress::Ended(self.end_round(id)),
                Stage::InDoubt => return Progress::Waiting,
            }
        }
    }

    fn begin_round(&mut self, goal: Goal, then: Then) -> TransactionKey {
        let id = self.next_transaction();
        self.rounds.insert(id, Round::new(goal, then));
        id
    }

    /// What becomes of it could not be written down, or was and nobody knows. A branch can be decided on again.
    fn leave_in_doubt(&mut self, id: TransactionKey) -> Refusal {
        let round = self.rounds.get_mut(&id).expect("it is being decided on");
        let unroutable = std::mem::take(&mut round.unroutable);
        round.stage = if round.goal == Goal::Prepare { Stage::Prepared } else { Stage::InDoubt };
        let refusal = round.refusal.take().expect("it was refused");
        unroutable.into_iter().for_each(|message| self.store.release(message));
        refusal
    }

    fn end_round(&mut self, id: TransactionKey) -> Ended {
        let Some(round) = self.rounds.remove(&id) else { return Ok(Vec::new()) };
        self.note_over(id, &round);
        match round.refusal {
            None => Ok(round.unroutable),
            Some(refusal) => {
                round.unroutable.into_iter().for_each(|message| self.store.release(message));
                Err(refusal)
            }
        }
    }

    pub(super) fn round_mut(&mut self, id: TransactionKey) -> Option<&mut Round> {
        self.rounds.get_mut(&id)
    }

    /// Waits for this shard's own part too, if that takes time.
    fn expect_own(&mut self, id: TransactionKey, done: Done) {
        if let (Done::Later, Some(round)) = (done, self.round_mut(id)) {
            round.missing += 1;
        }
    }

    /// Where every message goes. Keeps those that come back. If one cannot be routed all are released.
    fn destinations(
        &mut self,
        id: TransactionKey,
        publishes: Vec<Publish>,
    ) -> Result<Vec<(MessageId, Destination)>, Refusal> {
        let mut last = LastRoute::default();
        let mut destinations = Vec::with_capacity(publishes.len());
        let mut waiting = publishes.into_iter();
        self.stats.published += waiting.len() as u64;
        while let Some(Publish { vhost, message, mandatory }) = waiting.next() {
            match self.route_anew(vhost, message, &mut last) {
                Ok(Routed::Onward(message)) if last.route.is_empty() => {
                    self.stats.unroutable += 1;
                    match self.round_mut(id) {
                        Some(round) if mandatory => round.unroutable.push(message),
                        _ => self.store.release(message),
                    }
                }
                Ok(Routed::Onward(message)) => {
                    destinations.push((message, Destination::Queues(last.route.clone())));
                }
                Ok(Routed::Kept(message, _)) => destinations.push((message, Destination::Keeper(vhost))),
                Err(refusal) => {
                    self.store.release(message);
                    waiting.for_each(|publish| self.store.release(publish.message));
                    destinations.into_iter().for_each(|(message, _)| self.store.release(message));
                    return Err(refusal);
                }
            }
        }
        Ok(destinations)
    }

    /// What each home has to do.
    fn split(
        &mut self,
        destinations: Vec<(MessageId, Destination)>,
        settlements: Vec<Settling>,
    ) -> Vec<(ShardId, Part)> {
        let own = self.config.id;
        let mut parts = Vec::new();
        for (message, destination) in destinations {
            let route = match destination {
                Destination::Queues(route) => route,
                Destination::Keeper(vhost) => {
                    part_of(&mut parts, own).for_keepers.push((vhost, message));
                    continue;
                }
            };
            let here = Targets::of(&route.local).map(|targets| (own, targets));
            for (place, (home, targets)) in here.into_iter().chain(route.remote).enumerate() {
                if place > 0 {
                    self.store.retain(message);
                }
                part_of(&mut parts, home).publishes.push((targets, message));
            }
        }
        for settling in settlements {
            part_of(&mut parts, settling.queue.home).settlements.push(settling);
        }
        parts
    }

    fn send_parts(&mut self, id: TransactionKey, stage: Stage, order: Order, parts: Vec<(ShardId, Part)>) {
        if let Some(round) = self.round_mut(id) {
            round.stage = stage;
            round.missing = parts.len();
            round.homes = parts.iter().map(|(home, _)| *home).collect();
        }
        for (home, part) in parts {
            let Part { publishes, settlements, .. } = part;
            let publishes = publishes
                .into_iter()
                .map(|(targets, message)| (targets, self.store.extract(message)))
                .collect();
            let part = Box::new(RemotePart { id, order, publishes, settlements });
            self.send(home, Lane::Data, Letter::Part(part));
        }
    }

    pub(super) fn tell_verdict(&mut self, id: TransactionKey, verdict: Verdict) {
        let Some(round) = self.round_mut(id) else { return };
        round.stage = Stage::Decided;
        round.missing = round.homes.len();
        for home in round.homes.clone() {
            self.send(home, Lane::Data, Letter::Verdict { transaction: id, verdict });
        }
        let done = self.judge_part(id, verdict);
        self.expect_own(id, done);
    }

    /// The other homes have not been asked, and need not be: settlements that have to go back do so.
    fn undo_elsewhere(
        &mut self,
        id: TransactionKey,
        mut parts: Vec<(ShardId, Part)>,
        refusal: Option<Refusal>,
    ) {
        let Some(round) = self.round_mut(id) else { return };
        round.refusal = refusal;
        let otherwise = round.then.otherwise();
        for (_, part) in &mut parts {
            self.release_messages(part);
        }
        parts.retain(|(_, part)| otherwise == Verdict::Requeue && !part.settlements.is_empty());
        self.send_parts(id, Stage::Decided, Order::Undo, parts);
    }
}
