//! Transactions: what a session does waits, and is carried out as one.
//!
//! 1. `mod`: the work of a session, on the session's shard, until it commits or rolls back.
//! 2. `round`: the shard that carries out a transaction asks every queue's home to prepare its part, and when all can,
//!    tells all to commit. Nothing is locked and nobody waits: a home keeps room for what it has agreed to take.
//! 3. `part`: what a home does of it.
//! 4. `association`: a session's work for branches of distributed transactions, on the session's shard.
//! 5. `branches`: the branches, on the control shard, which carries them out.
//! 6. `records`: what the journals have to have stored before a transaction goes on.
//! 7. `restore`: what a restart makes of that.
//!
//! A transaction is all or nothing for whoever looks after its end. While it ends, one queue may show it a turn before
//! another does. A queue that goes takes its part along, as it takes what was delivered to it.

mod association;
mod branches;
mod part;
mod records;
mod restore;
mod round;

pub(super) use association::Associations;
pub(super) use branches::{BranchLetter, Branches};
pub(super) use part::{Order, PartDone, Parts, RemotePart, Verdict};
pub(super) use records::{Awaiting, Records};
pub(super) use round::Round;

use round::{Ended, Goal, Progress, Then};

use super::sessions::Outstanding;
use super::{Settlement, Shard};
use crate::message::Message;
use crate::queue::{counts_as_held, is_browsed};
use crate::{MessageId, QueueId, Refusal, Reply, SessionId, VhostId};

/// A publish that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Publish {
    vhost: VhostId,
    message: MessageId,
    mandatory: bool,
}

/// A settlement that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling {
    queue: QueueId,
    tag: u64,
    settlement: Settlement,
}

/// What waits, in order.
#[derive(Debug, Default)]
pub(super) struct Work {
    publishes: Vec<Publish>,
    settlements: Vec<Settling>,
    /// Of the messages.
    bytes: u64,
}

impl Work {
    fn append(&mut self, mut later: Work) {
        self.publishes.append(&mut later.publishes);
        self.settlements.append(&mut later.settlements);
        self.bytes += later.bytes;
    }
}

/// What a message that waits counts for the limit: itself, and what it takes to keep it.
fn waiting_bytes(message: &Message) -> u64 {
    const KEEPING_BYTES: u64 = 64;
    message.total_bytes() as u64 + KEEPING_BYTES
}

/// A session's transactions. Most sessions have none.
#[derive(Debug, Default)]
pub(super) struct SessionWork {
    /// What was done since the last commit, or for the branch that the session works for.
    current: Work,
    associations: Associations,
}

impl Shard {
    /// Publishes a complete message when the session's transaction is committed; routed then. Takes the message over.
    ///
    /// # Errors
    /// [`Refusal::LimitExceeded`]: too much waits for commits; [`Refusal::Denied`]. The message is released.
    pub fn publish_in_transaction(
        &mut self,
        id: SessionId,
        vhost: VhostId,
        message: MessageId,
        mandatory: bool,
    ) -> Result<(), Refusal> {
        if let Err(refusal) = self.may_publish(id, message) {
            self.store.release(message);
            return Err(refusal);
        }
        let bytes = waiting_bytes(self.store.get(message));
        let limits = &self.config.limits;
        let most = limits.transaction_bytes.min(limits.memory_bytes / 2);
        if self.waiting_bytes + bytes > most {
            self.store.release(message);
            let text = format!("more than {most} bytes of messages wait for commits");
            return Err(Refusal::LimitExceeded(text));
        }
        self.note_publisher(id, message);
        match self.work_mut(id) {
            Some(work) => {
                work.publishes.push(Publish { vhost, message, mandatory });
                work.bytes += bytes;
                self.waiting_bytes += bytes;
            }
            None => self.store.release(message),
        }
        Ok(())
    }

    /// Settles a message that was delivered to the session when its transaction is committed. Until then the session
    /// goes on holding it, unless it works for a branch of a distributed transaction.
    pub fn settle_in_transaction(&mut self, id: SessionId, queue: QueueId, tag: u64, settlement: Settlement) {
        if is_browsed(tag) {
            return;
        }
        match self.work_mut(id) {
            Some(work) => work.settlements.push(Settling { queue, tag, settlement }),
            None => self.settle(id, queue, tag, Settlement::Requeue),
        }
    }

    /// Takes back what [`Shard::settle_in_transaction`] noted of a message: the session holds it as before.
    pub fn unsettle_in_transaction(&mut self, id: SessionId, queue: QueueId, tag: u64) {
        if let Some(work) = self.work_mut(id)
            && let Some(at) = work.settlements.iter().rposition(|one| (one.queue, one.tag) == (queue, tag))
        {
            work.settlements.remove(at);
        }
    }

    /// Forgets what the session did in transaction since the last commit. What it settled it still holds.
    pub fn rollback(&mut self, id: SessionId) {
        let Some(work) = self.session_work(id) else { return };
        if !work.associations.is_working() {
            let work = std::mem::take(&mut work.current);
            self.drop_publishes(&work);
        }
    }

    /// [`Request::Commit`](crate::Request::Commit).
    pub(super) fn commit_transaction(&mut self, id: SessionId) -> Option<Result<Reply, Refusal>> {
        let work = match self.session_work(id) {
            Some(work) if !work.associations.is_working() => std::mem::take(&mut work.current),
            _ => Work::default(),
        };
        let settled = work.settlements.iter().filter(|settling| counts_as_held(settling.tag)).count() as u32;
        let (_, progress) = self.carry_out(work, Goal::Commit, Then::Commit { session: id, settled });
        match progress {
            Progress::Ended(ended) => Some(self.committed(id, settled, ended)),
            Progress::Waiting => {
                if let Some(session) = self.session_mut(id) {
                    session.outstanding = Outstanding::Commit;
                }
                None
            }
        }
    }

    /// Whether a session waits for a commit.
    pub(super) fn is_committing(&self, id: SessionId) -> bool {
        let session = self.sessions.get(id.index, id.generation);
        session.is_some_and(|session| session.outstanding == Outstanding::Commit)
    }

    /// What the end of a commit means for the session.
    fn committed(&mut self, id: SessionId, settled: u32, ended: Ended) -> Result<Reply, Refusal> {
        let unroutable = ended?;
        (0..settled).for_each(|_| self.count_settled(id));
        Ok(Reply::Committed { unroutable })
    }

    /// Every shard has done its part of a session's commit.
    fn tell_committed(&mut self, id: SessionId, settled: u32, ended: Ended) {
        let result = self.committed(id, settled, ended);
        if let Some(session) = self.session_mut(id) {
            session.outstanding = Outstanding::Nothing;
        }
        self.tell_reply(id, result);
    }

    /// A session has gone. What it wanted to settle has been given back already, but for what it did for branches.
    pub(super) fn end_session_work(&mut self, id: SessionId, work: SessionWork) {
        let SessionWork { current, associations } = work;
        if associations.is_working() {
            self.undo(current);
        } else {
            self.drop_publishes(&current);
        }
        self.end_associations(id, associations);
    }

    /// Forgets publishes; settlements are somebody else's business.
    fn drop_publishes(&mut self, work: &Work) {
        self.waiting_bytes -= work.bytes;
        for publish in &work.publishes {
            self.store.release(publish.message);
        }
    }

    /// Forgets publishes; what was settled goes back to its queues.
    fn undo(&mut self, work: Work) {
        self.drop_publishes(&work);
        for Settling { queue, tag, .. } in work.settlements {
            self.settle_anywhere(queue, tag, Settlement::Requeue);
        }
        self.bury_dead();
    }

    fn session_work(&mut self, id: SessionId) -> Option<&mut SessionWork> {
        self.session_mut(id)?.work.as_deref_mut()
    }

    fn session_work_or_new(&mut self, id: SessionId) -> Option<&mut SessionWork> {
        Some(self.session_mut(id)?.work.get_or_insert_default())
    }

    /// Where to note what the session does. `None`: it is for nothing.
    fn work_mut(&mut self, id: SessionId) -> Option<&mut Work> {
        let work = self.session_work_or_new(id)?;
        if work.associations.is_over() { None } else { Some(&mut work.current) }
    }
}
