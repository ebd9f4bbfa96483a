//! Changes to the topology: decided on the control shard, applied by all, answered when all have.
//!
//! 1. The control shard numbers each list of changes; every shard applies the lists in that order and reports the last
//!    number it has applied.
//! 2. An answer leaves the control shard when every shard has applied all that was decided before it, also by others:
//!    whoever sees the answer can rely on it anywhere. What is durable is stored then (`durable`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::durable::Unstored;
use super::envelope::{Letter, PlanRequest, Planned};
use crate::mesh::Lane;
use crate::topology::{Asker, Change, Plan};
use crate::{ConnectionId, Name, QueueId, Refusal, Reply, Request, SessionId, ShardId};

/// The control shard's bookkeeping.
pub(super) struct Control {
    /// The last list of changes.
    version: u64,
    /// The last one that each shard has applied.
    applied: Vec<u64>,
    /// Answers, in order.
    waiting: VecDeque<Waiting>,
    /// What is not stored yet.
    pub(super) unstored: Unstored,
}

/// An answer, and what it waits for.
struct Waiting {
    version: u64,
    /// It is no good if that is not stored.
    is_durable: bool,
    answer: Answer,
}

enum Answer {
    Planned(SessionId, Result<Option<QueueId>, Refusal>),
    Forgotten { queue: QueueId, is_stored: bool },
}

/// What became of a request to change the topology.
pub(super) enum Planning {
    Done(Result<Option<QueueId>, Refusal>),
    /// Other shards have to be told first.
    Waiting,
}

impl Control {
    pub(super) fn new(shards: u8) -> Self {
        Control {
            version: 0,
            applied: vec![0; usize::from(shards)],
            waiting: VecDeque::new(),
            unstored: Unstored::default(),
        }
    }

    /// Whether every shard has applied a version, and what is durable of it is stored or will not be.
    fn is_done(&self, version: u64) -> bool {
        self.unstored.is_stored(version) && self.applied.iter().all(|&applied| applied >= version)
    }

    fn is_all_done(&self) -> bool {
        self.is_done(self.version)
    }

    fn wait(&mut self, is_durable: bool, answer: Answer) {
        self.waiting.push_back(Waiting { version: self.version, is_durable, answer });
    }
}

impl Shard {
    /// Control shard: decides on a request of a session.
    pub(super) fn plan(&mut self, asked: &PlanRequest) -> Planning {
        let PlanRequest { session, connection, rules, ref request } = *asked;
        let asker = Asker { connection: Some(connection), shard: session.shard, rules };
        let generated = match request {
            Request::DeclareQueue { name, .. } if name.is_empty() => self.random.queue_name(),
            _ => Name::default(),
        };
        let (result, is_durable) = match self.plan_storable(request, &asker, &generated) {
            Ok(Plan { changes, queue }) => {
                let is_pending =
                    changes.is_empty() && self.control.unstored.is_asked_by(request, &self.topology);
                (Ok(queue), self.commit(changes) || is_pending)
            }
            Err(refusal) => (Err(refusal), false),
        };
        if self.control.is_all_done() {
            return Planning::Done(result);
        }
        self.control.wait(is_durable, Answer::Planned(session, result));
        Planning::Waiting
    }

    /// Control shard: a request from another shard.
    pub(super) fn plan_remote(&mut self, asked: &PlanRequest) {
        if let Planning::Done(result) = self.plan(asked) {
            self.send_planned(asked.session, result);
        }
    }

    /// A queue at home here has ended; the name goes everywhere. Whether that is done already.
    pub(super) fn queue_ended(&mut self, queue: QueueId) -> bool {
        if self.config.id != ShardId::CONTROL {
            self.send(ShardId::CONTROL, Lane::Control, Letter::QueueEnded(queue));
            return false;
        }
        self.forget_queue(queue)
    }

    /// Control shard: takes the name of an ended queue away. Whether that is done everywhere already; otherwise its
    /// home will be told.
    pub(super) fn forget_queue(&mut self, queue: QueueId) -> bool {
        let plan = self.topology.plan_queue_end(queue);
        let is_durable = self.commit(plan.changes);
        if self.control.is_all_done() {
            return true;
        }
        self.control.wait(is_durable, Answer::Forgotten { queue, is_stored: true });
        false
    }

    /// Control shard: another shard has applied everything up to a version.
    pub(super) fn applied_by(&mut self, shard: ShardId, version: u64) {
        self.control.applied[shard.index()] = version;
        self.answer_done();
    }

    /// Control shard: gives the answers whose time has come.
    pub(super) fn answer_done(&mut self) {
        while let Some(waiting) = self.control.waiting.front() {
            if !self.control.is_done(waiting.version) {
                break;
            }
            let Some(Waiting { answer, .. }) = self.control.waiting.pop_front() else { break };
            match answer {
                Answer::Planned(session, result) => self.send_planned(session, result),
                Answer::Forgotten { queue, is_stored } => self.tell_forgotten(queue, is_stored),
            }
        }
    }

    /// Control shard: what is durable of the changes that answers wait for will not be stored.
    pub(super) fn refuse_unstored(&mut self, refusal: &Refusal) {
        let unstored = &self.control.unstored;
        for waiting in &mut self.control.waiting {
            if !waiting.is_durable || unstored.is_stored(waiting.version) {
                continue;
            }
            match &mut waiting.answer {
                Answer::Planned(_, result) => *result = Err(refusal.clone()),
                Answer::Forgotten { is_stored, .. } => *is_stored = false,
            }
        }
    }

    /// Applies changes to this shard's replica and to what it has of the things changed.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::QueueDeclared(entry) => {
                    if entry.id.home == self.config.id {
                        self.make_queue(entry);
                    }
                    if let Some(owner) = entry.owner {
                        self.note_owned(owner, entry.id);
                    }
                }
                Change::QueueDeleted(id) => {
                    if id.home == self.config.id {
                        if let Some(consumers) = self.bury_queue(*id) {
                            self.tell_cancelled(*id, consumers);
                        }
                        self.end_when_stored(*id);
                    }
                    self.forget_owned(*id);
                }
                Change::QueueRedirected(source, None) => self.give_back_redirected(*source),
                Change::QueueOwned(id, owner) => {
                    self.forget_owned(*id);
                    if let Some(owner) = owner {
                        self.note_owned(*owner, *id);
                    }
                }
                Change::ExchangeDeleted(entry) => self.forget_kept(entry),
                _ => {}
            }
            self.topology.apply(change);
            match change {
                Change::QueueDeclared(entry) => self.tell_owner_of(entry.id),
                Change::QueueOwned(id, _) => {
                    self.take_entry(*id);
                    self.tell_owner_of(*id);
                }
                Change::Bound(binding) => self.send_initial_value(binding),
                _ => {}
            }
        }
    }

    /// If the owner of a queue is here, its home may have to know who that is.
    fn tell_owner_of(&mut self, queue: QueueId) {
        let owner = self.topology.queue_by_id(queue).and_then(|entry| entry.owner);
        let Some(owner) = owner.filter(|owner| owner.shard == self.config.id) else { return };
        if let Some(connection) = self.connections.get(owner.index, owner.generation) {
            self.tell_owner(queue, connection.client);
        }
    }

    /// A queue has another owner: its home takes what every shard knows of it.
    fn take_entry(&mut self, id: QueueId) {
        let entry = self.topology.queue_by_id(id);
        if let (Some(entry), Some(queue)) =
            (entry, self.queues.get_mut(id).filter(|_| id.home == self.config.id))
        {
            queue.set_entry(entry.clone());
        }
    }

    /// Every shard has forgotten a queue that ended here: whoever asked for its end is answered, then its consumers are
    /// told. A client that is both would otherwise take the cancellation for the end and close its channel.
    pub(super) fn forgotten(&mut self, queue: QueueId, is_stored: bool) {
        let (done, left) = std::mem::take(&mut self.ending).into_iter().partition(|(id, ..)| *id == queue);
        self.ending = left;
        let done: Vec<_> = done;
        for (_, session, reply) in done {
            let result = match reply {
                Reply::Messages(_) if !is_stored => Err(self.not_stored("a restart brings the queue back")),
                reply => Ok(reply),
            };
            self.answer(session, result);
        }
        let (done, left) = std::mem::take(&mut self.cancelled).into_iter().partition(|(id, _)| *id == queue);
        self.cancelled = left;
        let done: Vec<_> = done;
        for (_, consumers) in done {
            self.tell_cancelled(queue, consumers);
        }
    }

    pub(super) fn tell_forgotten(&mut self, queue: QueueId, is_stored: bool) {
        if queue.home == self.config.id {
            self.forgotten(queue, is_stored);
        } else {
            self.send(queue.home, Lane::Control, Letter::Forgotten { queue, is_stored });
        }
    }

    /// Has every shard apply changes. Whether some of them are written down, and not stored yet.
    pub(super) fn commit(&mut self, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return false;
        }
        self.control.version += 1;
        let version = self.control.version;
        (self.applied_version, self.acknowledged_version) = (version, version);
        let is_recorded = self.record_changes(version, &changes);
        self.apply(&changes);
        self.control.applied[ShardId::CONTROL.index()] = version;
        let changes: Arc<[Change]> = Arc::from(changes);
        for shard in self.config.others() {
            let changes = changes.clone();
            self.send(shard, Lane::Control, Letter::Changes { version, changes, is_recorded });
        }
        is_recorded
    }

    fn send_planned(&mut self, session: SessionId, result: Result<Option<QueueId>, Refusal>) {
        if session.shard == self.config.id {
            self.planned(session, result);
        } else {
            let planned = Box::new(Planned { session, result });
            self.send(session.shard, Lane::Control, Letter::Planned(planned));
        }
    }

    /// Remembers an exclusive queue with its connection, which may have gone meanwhile.
    fn note_owned(&mut self, owner: ConnectionId, queue: QueueId) {
        if owner.shard != self.config.id {
            return;
        }
        match self.connections.get_mut(owner.index, owner.generation) {
            Some(connection) => connection.exclusive.push(queue),
            None => self.orphans.push(queue),
        }
    }

    fn forget_owned(&mut self, queue: QueueId) {
        let Some(owner) = self.topology.queue_by_id(queue).and_then(|entry| entry.owner) else { return };
        if owner.shard != self.config.id {
            return;
        }
        if let Some(connection) = self.connections.get_mut(owner.index, owner.generation) {
            connection.exclusive.retain(|&other| other != queue);
        }
    }
}
