//! The durable part of the topology: what is recorded of its changes, and what a restart makes of that.
//!
//! 1. The control shard's journal has the changes, in the order of their versions. They are recorded before they are
//!    applied, and answered when they are stored.
//! 2. Every shard is told which version is stored: what it confirms may depend on that.
//! 3. What cannot be recorded is refused and not applied. When the journal fails, who asked for what was applied and is not
//!    stored gets an error that says so, and messages for queues that a restart will not find are refused like those for
//!    a queue whose own journal has failed.

use std::collections::VecDeque;
use std::sync::Arc;

use super::envelope::Letter;
use super::keeping::Kept;
use super::lifetime::NS_PER_MS;
use super::{Due, Shard};
use crate::journal::{Joined, Position, Reason, Record};
use crate::mesh::Lane;
use crate::topology::{Asker, Change, Plan, RestoreError, StoredChange, Topology};
use crate::{Name, QueueId, Refusal, Request, ShardId, VhostId};

/// What a change takes in the journal, roughly and at most as far as what is in it is not long itself.
const CHANGE_BYTES: usize = 2048;

/// The control shard's changes that are written down and not stored.
#[derive(Default)]
pub(super) struct Unstored {
    waiting: VecDeque<Recorded>,
    /// What was when the journal failed, and stays so.
    lost: Vec<StoredChange>,
}

struct Recorded {
    version: u64,
    /// Behind the record.
    end: Position,
    changes: Vec<StoredChange>,
}

/// What the control shard's journal did not store when it failed.
#[derive(Clone, Debug)]
pub(super) struct TopologyLost {
    pub(super) reason: Reason,
    /// The first version of which something is lost, and the last one that was made.
    first: u64,
    last: u64,
    /// Queues that a restart will not find.
    queues: Arc<[QueueId]>,
}

impl Unstored {
    /// Whether nothing of a version is still to be stored.
    pub(super) fn is_stored(&self, version: u64) -> bool {
        self.waiting.front().is_none_or(|recorded| recorded.version > version)
    }

    /// Whether a request asks for something that is there already, and not stored.
    pub(super) fn is_asked_by(&self, request: &Request, topology: &Topology) -> bool {
        let mut changes = self.waiting.iter().flat_map(|recorded| &recorded.changes).chain(&self.lost);
        changes.any(|change| change.is_asked_by(request, topology))
    }
}

impl Shard {
    /// The list that makes the durable topology from nothing, in an order that can be restored.
    pub fn topology_changes(&self) -> Vec<StoredChange> {
        self.topology.stored_changes()
    }

    /// Makes again what the journal has of the topology: the last whole list and the changes after it. Asked of every shard
    /// with the same list, when it has its journal and its exchange types, has been told the time, and nothing else has
    /// happened.
    ///
    /// # Errors
    /// Something cannot be made as it was. The shard is of no use then.
    pub fn restore_topology(&mut self, changes: &[StoredChange]) -> Result<(), RestoreError> {
        for stored in changes {
            let Some(change) = self.topology.restored_change(stored)? else { continue };
            self.apply(std::slice::from_ref(&change));
            match &change {
                Change::QueueDeclared(entry) if entry.id.home == self.config.id => self.renew_delay(entry.id),
                Change::ExchangeDeclared(entry) => self.number_anew(entry.vhost, &entry.name),
                _ => {}
            }
        }
        Ok(())
    }

    /// An auto-delete queue that waits with its end comes back as if its last user had gone just now. Any other one waits
    /// for a user.
    fn renew_delay(&mut self, id: QueueId) {
        let now_ns = self.clock.monotonic_ns;
        let Some(queue) = self.queues.get_mut(id) else { return };
        let delay_ms = queue.options().auto_delete_delay_ms;
        if queue.options().auto_delete && delay_ms > 0 {
            queue.disown();
            let deadline_ns = now_ns.saturating_add(delay_ms.saturating_mul(NS_PER_MS));
            queue.auto_delete_ns = Some(deadline_ns);
            self.timers.set(deadline_ns, Due::AutoDelete(id));
        }
    }

    /// An exchange that numbers messages goes on with numbers that no run before has used.
    fn number_anew(&mut self, vhost: VhostId, name: &Name) {
        let run = self.journal.as_ref().map_or(0, |journal| journal.run());
        let keeping = self.topology.keeping(vhost, name.as_bytes());
        if let Some(keeping) = keeping.filter(|keeping| keeping.home == self.config.id && keeping.sequence) {
            self.kept.insert(keeping.slot, Kept::of_later_run(run));
        }
    }

    /// Control shard: decides on a request, unless what comes of it has to be stored and cannot be.
    pub(super) fn plan_storable(
        &mut self,
        request: &Request,
        asker: &Asker,
        generated: &Name,
    ) -> Result<Plan, Refusal> {
        let plan = self.topology.plan(request, asker, generated)?;
        let Some(journal) = &self.journal else { return Ok(plan) };
        if plan.changes.is_empty() {
            let unstored = &self.control.unstored;
            return match &self.failure {
                Some(_) if unstored.is_asked_by(request, &self.topology) => {
                    Err(self.not_stored("a restart will not know of it"))
                }
                _ => Ok(plan),
            };
        }
        let stored: Vec<StoredChange> = self.stored_changes(&plan.changes);
        if stored.is_empty() {
            return Ok(plan);
        }
        if let Some(reason) = &self.failure {
            return Err(Refusal::NotStored(reason.clone()));
        }
        if stored.iter().any(StoredChange::takes_room) {
            journal.admit(stored.len() * CHANGE_BYTES).map_err(Refusal::NotStored)?;
        }
        Ok(plan)
    }

    /// Control shard: has written down what is durable of changes that are about to be applied. Whether that was anything.
    pub(super) fn record_changes(&mut self, version: u64, changes: &[Change]) -> bool {
        if self.journal.is_none() || self.failure.is_some() {
            return false;
        }
        let changes = self.stored_changes(changes);
        let Some(journal) = self.journal.as_mut().filter(|_| !changes.is_empty()) else { return false };
        journal.append(&Record::Changed(&changes), Joined::No);
        let end = journal.await_end();
        self.control.unstored.waiting.push_back(Recorded { version, end, changes });
        self.recorded_version = version;
        true
    }

    /// Control shard: the journal has stored more. Tells everybody which version that makes.
    pub(super) fn note_stored_changes(&mut self) {
        let waiting = &mut self.control.unstored.waiting;
        let count = waiting.partition_point(|recorded| recorded.end <= self.stored);
        let Some(version) = waiting.drain(..count).next_back().map(|recorded| recorded.version) else {
            return;
        };
        self.stored_version = version;
        for shard in self.config.others() {
            self.send(shard, Lane::Control, Letter::TopologyStored(version));
        }
        // Before it is answered, as far as that may be seen.
        self.tell_stored();
        self.answer_done();
    }

    /// The control shard's journal has stored a version.
    pub(super) fn topology_stored(&mut self, version: u64) {
        self.stored_version = version;
        self.tell_stored();
    }

    /// The journal has failed: the control shard's will not store what it has not.
    pub(super) fn lose_changes(&mut self, reason: &Reason) {
        if self.config.id != ShardId::CONTROL {
            return;
        }
        let unstored = self.control.unstored.waiting.front();
        let first = unstored.map_or(self.applied_version + 1, |recorded| recorded.version);
        let refusal = Refusal::NotStored(Arc::from(format!("a restart will not know of it: {reason}")));
        self.refuse_unstored(&refusal);
        let waiting = std::mem::take(&mut self.control.unstored.waiting);
        let changes: Vec<StoredChange> = waiting.into_iter().flat_map(|recorded| recorded.changes).collect();
        let key = |change: &StoredChange| match change {
            StoredChange::QueueDeclared { key, .. } => Some(*key),
            _ => None,
        };
        let queues =
            changes.iter().filter_map(key).filter_map(|key| self.topology.queue_by_key(key)).collect();
        self.control.unstored.lost = changes;
        let lost = TopologyLost { reason: reason.clone(), first, last: self.applied_version, queues };
        for shard in self.config.others() {
            self.send(shard, Lane::Control, Letter::TopologyLost(Box::new(lost.clone())));
        }
        self.topology_lost(&lost);
        self.answer_done();
    }

    /// What the control shard's journal did not store is lost with the process.
    pub(super) fn topology_lost(&mut self, lost: &TopologyLost) {
        for &queue in &*lost.queues {
            if let Some(queue) = self.queues.get_mut(queue) {
                queue.stop_recording();
            }
        }
        self.lost = Some(Box::new(lost.clone()));
        self.refuse_needing(lost.first);
        // What does not need any of that goes on.
        self.stored_version = lost.last;
        self.tell_stored();
    }

    /// Refuses what is to outlive the process in queues that will not.
    pub(super) fn check_not_lost(&self, queues: &[QueueId]) -> Result<(), Refusal> {
        match &self.lost {
            Some(lost) if queues.iter().any(|queue| lost.queues.contains(queue)) => {
                Err(Refusal::NotStored(lost.reason.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Why a durable queue cannot be deleted: a restart would bring it back.
    pub(super) fn check_deletion_stored(&self, id: QueueId) -> Result<(), Refusal> {
        let entry = self.topology.queue_by_id(id);
        match &self.lost {
            Some(lost) if entry.is_some_and(|entry| entry.store_key.is_some()) => {
                Err(Refusal::NotStored(lost.reason.clone()))
            }
            _ => Ok(()),
        }
    }

    /// That something has been done and is not stored.
    pub(super) fn not_stored(&self, what: &str) -> Refusal {
        let reason = self.lost.as_ref().map(|lost| &lost.reason).or(self.failure.as_ref());
        let reason = reason.map_or("the journal has failed", |reason| reason);
        Refusal::NotStored(Arc::from(format!("{what}: {reason}")))
    }

    fn stored_changes(&self, changes: &[Change]) -> Vec<StoredChange> {
        changes.iter().filter_map(|change| self.topology.stored_change(change)).collect()
    }
}
