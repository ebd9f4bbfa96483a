//! The lanes: what is sent to other shards and what they send.

use super::envelope::{BUFFER_BATCH, Envelope, Letter, Query, Targets};
use super::handover::is_handover;
use super::outputs::Handed;
use super::publish::Outcome;
use super::stored::Waiter;
use super::{Output, Shard, ShardId};
use crate::mesh::Lane;
use crate::{MessageId, SessionId};

/// Items of the data lanes that a shard takes in before it turns to something else.
const DATA_BUDGET: usize = 4096;

/// Confirms of one session to be told in one go.
#[derive(Clone, Copy)]
pub(super) struct ConfirmRun {
    session: SessionId,
    first: u64,
    last: u64,
    accepted: bool,
}

impl Shard {
    /// Sends to another shard.
    pub(super) fn send(&mut self, to: ShardId, lane: Lane, letter: Letter) {
        if lane == Lane::Data && self.told_version[to.index()] != self.applied_version {
            self.told_version[to.index()] = self.applied_version;
            self.mesh.send(to, lane, Envelope(Letter::Version(self.applied_version)));
        }
        self.mesh.send(to, lane, Envelope(letter));
    }

    /// Takes in what other shards sent. Whether there was anything.
    pub(super) fn receive(&mut self) -> bool {
        let mut worked = false;
        while let Some((from, Envelope(letter))) = self.mesh.receive(Lane::Control) {
            worked = true;
            self.receive_control(from, letter);
        }
        self.acknowledge_changes();
        worked |= self.receive_replies();
        self.retry_queries();
        self.receive_held();
        for _ in 0..DATA_BUDGET {
            let Some((from, Envelope(letter))) = self.mesh.receive(Lane::Data) else { return worked };
            worked = true;
            if self.held[from.index()].is_empty() && !self.is_ahead(&letter) {
                self.receive_data(from, letter);
            } else {
                self.held[from.index()].push_back(letter);
            }
        }
        self.more_data = true;
        worked
    }

    /// Whether the sender knew changes to the topology that have not come here yet. What it sends from then on may
    /// speak of queues that this shard does not know, and waits.
    fn is_ahead(&self, letter: &Letter) -> bool {
        matches!(letter, Letter::Version(version) if *version > self.applied_version)
    }

    /// Takes in what came from shards that were ahead and are not any more.
    fn receive_held(&mut self) {
        for from in 0..self.held.len() {
            while let Some(letter) = self.held[from].pop_front() {
                if self.is_ahead(&letter) {
                    self.held[from].push_front(letter);
                    break;
                }
                self.receive_data(ShardId(from as u8), letter);
            }
        }
    }

    /// Sends what was collected in this turn: confirms, and buffers that belong elsewhere.
    pub(super) fn send_collected(&mut self) {
        for index in 0..self.confirm_runs.len() {
            if let Some(run) = self.confirm_runs[index].take() {
                self.send_confirms(ShardId(index as u8), run);
            }
        }
        while let Some((owner, buffer)) = self.store.pop_foreign() {
            let batch = &mut self.buffers_home[owner.index()];
            batch.push(buffer);
            if batch.len() >= BUFFER_BATCH {
                let mut full: [Vec<u8>; BUFFER_BATCH] = std::array::from_fn(|_| Vec::new());
                for (place, buffer) in full.iter_mut().zip(batch.drain(..)) {
                    *place = buffer;
                }
                self.send(owner, Lane::Reply, Letter::Buffers(full));
            }
        }
    }

    fn receive_control(&mut self, from: ShardId, letter: Letter) {
        match letter {
            Letter::Plan(asked) => self.plan_remote(&asked),
            Letter::QueueEnded(queue) => {
                if self.forget_queue(queue) {
                    self.tell_forgotten(queue, true);
                }
            }
            Letter::QueueLeft(key) => self.plan_left(key),
            Letter::QueueReleased(queue) => self.plan_release(queue),
            Letter::Changes { version, changes, is_recorded } => {
                if is_recorded {
                    self.recorded_version = version;
                }
                self.apply(&changes);
                self.applied_version = version;
            }
            Letter::TopologyStored(version) => self.topology_stored(version),
            Letter::TopologyLost(lost) => self.topology_lost(&lost),
            Letter::Applied(version) => self.applied_by(from, version),
            Letter::Planned(planned) => self.planned(planned.session, planned.result),
            Letter::Forgotten { queue, is_stored } => self.forgotten(queue, is_stored),
            Letter::Pressure(high) => self.pressed[from.index()] = high,
            Letter::Branch(letter) => self.receive_branch_letter(*letter),
            _ => unreachable!("this does not travel in the control lane"),
        }
    }

    fn acknowledge_changes(&mut self) {
        if self.applied_version > self.acknowledged_version {
            self.acknowledged_version = self.applied_version;
            self.send(ShardId::CONTROL, Lane::Control, Letter::Applied(self.applied_version));
        }
    }

    fn receive_replies(&mut self) -> bool {
        let mut worked = false;
        while let Some((from, Envelope(letter))) = self.mesh.receive(Lane::Reply) {
            worked = true;
            match letter {
                Letter::Settle { queue, tag, settlement } => {
                    self.settles_received[from.index()] += 1;
                    self.settle_at_home(queue, tag, settlement);
                }
                Letter::Grant { queue, session, consumer, credit } => {
                    self.settles_received[from.index()] += 1;
                    self.grant_at_home(queue, session, consumer, credit);
                }
                Letter::Confirms { session, first, last, accepted } => {
                    self.confirmed(session, first, last, accepted);
                }
                Letter::Routed { session, sequence, missing, accepted } => {
                    self.routed_by_keeper(session, sequence, missing, accepted);
                }
                Letter::Credit { connection, bytes } => self.credit_account(connection, bytes),
                Letter::PartDone { transaction, done } => self.part_done(from, transaction, done),
                Letter::Buffers(buffers) => {
                    buffers.into_iter().for_each(|buffer| self.store.take_back(buffer));
                }
                _ => unreachable!("this does not travel in the reply lane"),
            }
        }
        self.bury_dead();
        worked
    }

    fn receive_data(&mut self, from: ShardId, letter: Letter) {
        match letter {
            Letter::Publish { targets, message, confirm } => {
                let (messages, is_persistent) = (message.messages(), message.is_persistent());
                let first = self.store.insert(message);
                if is_persistent {
                    return self.receive_persistent(&targets, first, messages, confirm);
                }
                let whole = match targets {
                    Targets::One(queue) if messages > 1 => self.enqueue_batch(queue, first).is_some(),
                    _ => false,
                };
                for place in 0..messages {
                    let confirm = confirm.map(|(session, first)| (session, first + u64::from(place)));
                    let outcome = match whole {
                        true => Outcome { accepted: true, withheld: false },
                        false => self.enqueue_all(targets.as_slice(), first.after(place), confirm),
                    };
                    if let (Some((session, sequence)), false) = (confirm, outcome.withheld) {
                        self.confirm_anywhere(session, sequence, outcome.accepted);
                    }
                }
            }
            Letter::PublishToKeeper { passage, message } => self.receive_for_keeper(&passage, message),
            Letter::Query(query) => self.receive_query(from, query),
            Letter::Unsubscribe { queue, session, consumer } => {
                self.early_queries.retain(|(_, query)| query.session != session);
                self.unsubscribe_at_home(queue, session, consumer);
            }
            Letter::SetPrefetch { queue, session, consumer, prefetch } => {
                self.set_prefetch_at_home(queue, session, consumer, prefetch);
            }
            Letter::OwnerGone(queue) => self.owner_gone(queue),
            Letter::Owner { queue, client } => self.note_owner(queue, client),
            Letter::ConnectionClosed(connection) => self.accounts.close(connection),
            Letter::Part(part) => self.receive_part(*part),
            Letter::Verdict { transaction, verdict } => self.receive_verdict(transaction, verdict),
            Letter::Settle { queue, tag, settlement } => self.settle_at_home(queue, tag, settlement),
            Letter::Delivery(delivery) => {
                let followers = delivery.message.messages() - 1;
                let message = self.store.insert(delivery.message);
                self.hand_over(Handed {
                    session: delivery.session,
                    connection: delivery.connection,
                    consumer: delivery.consumer,
                    queue: delivery.queue,
                    tag: delivery.tag,
                    message,
                    followers,
                    redelivered: delivery.redelivered,
                    ttl_left_ms: delivery.ttl_left_ms,
                });
            }
            Letter::Answer(answer) => {
                let session = answer.session;
                let result = self.take_in_answer(*answer);
                self.answered(session, result);
            }
            Letter::ConsumerCancelled { bereft, queue } => self.consumer_cancelled(bereft, queue),
            // Only says how far the sender was.
            Letter::Version(_) => {}
            _ => unreachable!("this does not travel in the data lane"),
        }
    }

    /// A message or a batch for queues at home here, from a session or a shard that hands it over.
    #[inline(never)]
    fn receive_persistent(
        &mut self,
        targets: &Targets,
        first: MessageId,
        messages: u16,
        confirm: Option<(SessionId, u64)>,
    ) {
        let is_handed_over = confirm.is_some_and(|(session, _)| is_handover(session));
        let confirm = match self.admit(targets.as_slice(), self.store.get(first)) {
            Ok(()) => confirm,
            // Space or not, it is there already. But if it cannot be stored here it stays where it is.
            Err(_) if is_handed_over => confirm.filter(|_| self.failure.is_none()),
            Err(_) => {
                self.stats.refused += u64::from(messages);
                self.store.release_many(first, messages.into());
                if let Some((session, first)) = confirm {
                    self.confirm_all_anywhere(session, first, first + u64::from(messages) - 1, false);
                }
                return;
            }
        };
        let whole = match targets {
            Targets::One(queue) if messages > 1 => self.enqueue_batch(*queue, first),
            _ => None,
        };
        match (whole, confirm) {
            (Some(_), None) => {}
            (Some(is_recorded), Some((session, first))) => {
                let last = first + u64::from(messages) - 1;
                if is_recorded {
                    self.await_stored(Waiter::Confirms { session, first, last, accepted: true });
                } else {
                    self.confirm_all_anywhere(session, first, last, true);
                }
            }
            (None, _) => {
                for place in 0..messages {
                    let confirm = confirm.map(|(session, first)| (session, first + u64::from(place)));
                    let outcome = self.enqueue_all(targets.as_slice(), first.after(place), confirm);
                    if let (Some((session, sequence)), false) = (confirm, outcome.withheld) {
                        self.confirm_all_anywhere(session, sequence, sequence, outcome.accepted);
                    }
                }
            }
        }
    }

    /// A query waits until the settlements and grants that its session made before are in. The session waits for the answer, so
    /// nothing can overtake it from behind.
    fn receive_query(&mut self, from: ShardId, query: Box<Query>) {
        if self.settles_received[from.index()] < query.settles {
            self.receive_replies();
        }
        if self.settles_received[from.index()] < query.settles {
            self.early_queries.push((from, query));
        } else {
            self.answer_query(*query);
        }
    }

    fn retry_queries(&mut self) {
        for (from, query) in std::mem::take(&mut self.early_queries) {
            if self.settles_received[from.index()] < query.settles {
                self.early_queries.push((from, query));
            } else {
                self.answer_query(*query);
            }
        }
    }

    /// This shard's answer to a publish of a session anywhere.
    pub(super) fn confirm_anywhere(&mut self, session: SessionId, sequence: u64, accepted: bool) {
        self.confirm_all_anywhere(session, sequence, sequence, accepted);
    }

    /// This shard's answer to publishes `first` to `last` of a session anywhere.
    pub(super) fn confirm_all_anywhere(&mut self, session: SessionId, first: u64, last: u64, accepted: bool) {
        if session.shard == self.config.id {
            self.confirmed(session, first, last, accepted);
        } else {
            self.collect_confirms(ConfirmRun { session, first, last, accepted });
        }
    }

    fn collect_confirms(&mut self, next: ConfirmRun) {
        let home = next.session.shard;
        let slot = &mut self.confirm_runs[home.index()];
        match slot {
            Some(run)
                if run.session == next.session
                    && run.accepted == next.accepted
                    && run.last + 1 == next.first =>
            {
                run.last = next.last;
            }
            _ => {
                if let Some(finished) = slot.replace(next) {
                    self.send_confirms(home, finished);
                }
            }
        }
    }

    fn send_confirms(&mut self, to: ShardId, run: ConfirmRun) {
        let ConfirmRun { session, first, last, accepted } = run;
        self.send(to, Lane::Reply, Letter::Confirms { session, first, last, accepted });
    }

    /// One home has answered for a run of publishes.
    pub(super) fn confirmed(&mut self, id: SessionId, first: u64, last: u64, accepted: bool) {
        let Some(session) = self.sessions.get_mut(id.index, id.generation) else {
            if is_handover(id) {
                self.handed_over(first, last);
            }
            return;
        };
        let (owner, channel) = (session.owner, session.channel);
        let from = session.confirms.partition_point(|open| open.sequence < first);
        for open in session.confirms.range_mut(from..).take_while(|open| open.sequence <= last) {
            open.missing -= 1;
            open.accepted &= accepted;
            if open.missing == 0 {
                let (sequence, accepted) = (open.sequence, open.accepted);
                self.outputs.push_back((id, Output::Confirmed { owner, channel, sequence, accepted }));
            }
        }
        while session.confirms.front().is_some_and(|open| open.missing == 0) {
            session.confirms.pop_front();
        }
    }
}
