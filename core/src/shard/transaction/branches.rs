//! The branches of distributed transactions, on the control shard.
//!
//! 1. A branch is active while sessions work for it, one after the other or together. It can be prepared, committed or
//!    rolled back when none does; their work lies here by then.
//! 2. It fails if a session says so, or goes, or if a queue refuses its part. It is over if it is not prepared in time.
//!    In both cases its work is undone at once, and it stays known until somebody asks for its end.
//! 3. A prepared branch stays until it is committed or rolled back, whoever comes and goes. So does one that an operator
//!    has completed, until it is forgotten. A restart brings both back here.

use slab::Slab;

use super::super::envelope::Letter;
use super::round::Stage;
use super::{Ended, Goal, Progress, Publish, Settling, Then, Verdict, Work, waiting_bytes};
use crate::hash::Map;
use crate::journal::{FoundBranch, TransactionKey};
use crate::mesh::Lane;
use crate::message::Message;
use crate::queue::NEVER_NS;
use crate::shard::{Due, Shard};
use crate::transaction::{DtxCommand, DtxEnd, DtxFault, DtxStart, DtxStatus, Xid};
use crate::{Refusal, Reply, SessionId, VhostId};

const NS_PER_S: u64 = 1_000_000_000;

const IN_USE: DtxFault = DtxFault::IllegalState("has not been ended by every session");
const NOT_PREPARED: DtxFault = DtxFault::IllegalState("has not been prepared: one phase has to be asked for");
const IS_PREPARED: DtxFault = DtxFault::IllegalState("has been prepared");
const IS_ENDING: DtxFault = DtxFault::IllegalState("is being completed");
const NOT_HEURISTIC: DtxFault = DtxFault::IllegalState("has not been completed heuristically");

/// How a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It takes work.
    Active,
    /// It can only be rolled back.
    Failed,
    /// It took too long.
    Over,
    /// Shards are at work on its end.
    Ending,
    /// It can be committed, whatever comes.
    Prepared(TransactionKey),
    /// An operator has completed it; its transaction manager has to be told.
    Resolved { committed: bool },
    /// The same, and it is being written down that it is forgotten.
    Forgetting { committed: bool },
}

/// What is being done to a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Prepare,
    Commit,
    Rollback,
    Resolve { commit: bool },
}

struct Branch {
    vhost: VhostId,
    xid: Xid,
    state: State,
    /// Sessions that work for it, those included that have suspended that.
    sessions: Vec<SessionId>,
    /// What sessions have handed over.
    work: Work,
    timeout_s: u32,
    deadline_ns: u64,
    /// As what it is written down.
    record: Option<TransactionKey>,
    /// Why a restart has to find that.
    unstored: Option<Refusal>,
}

/// All branches.
#[derive(Default)]
pub(in crate::shard) struct Branches {
    branches: Slab<Branch>,
    by_xid: Map<(VhostId, Xid), usize>,
}

impl Branches {
    fn find(&mut self, vhost: VhostId, xid: &Xid) -> Option<(usize, &mut Branch)> {
        let slot = *self.by_xid.get(&(vhost, xid.clone()))?;
        Some((slot, self.branches.get_mut(slot)?))
    }

    fn remove(&mut self, slot: usize) -> Option<Branch> {
        let branch = self.branches.try_remove(slot)?;
        self.by_xid.remove(&(branch.vhost, branch.xid.clone()));
        Some(branch)
    }

    /// Forgets the first branch that nobody can do anything with but ask for its end. Whether there was one.
    fn forget_one_lost(&mut self) -> bool {
        let is_lost = |branch: &Branch| {
            matches!(branch.state, State::Failed | State::Over) && branch.sessions.is_empty()
        };
        let lost = self.branches.iter().find(|(_, branch)| is_lost(branch)).map(|(slot, _)| slot);
        lost.is_some_and(|slot| self.remove(slot).is_some())
    }

    /// Whether a timer for a branch still counts.
    pub(in crate::shard) fn awaits(&self, slot: u32, deadline_ns: u64) -> bool {
        self.branches.get(slot as usize).is_some_and(|branch| branch.deadline_ns == deadline_ns)
    }

    /// A branch that a restart has found: prepared, or completed by an operator. Where it is.
    pub(super) fn restore(
        &mut self,
        vhost: VhostId,
        found: &FoundBranch,
        record: TransactionKey,
        completed: Option<bool>,
    ) -> usize {
        let state = match completed {
            Some(committed) => State::Resolved { committed },
            None => State::Prepared(record),
        };
        let slot = self.branches.insert(Branch {
            vhost,
            xid: found.xid.clone(),
            state,
            sessions: Vec::new(),
            work: Work::default(),
            timeout_s: found.timeout_s,
            deadline_ns: NEVER_NS,
            record: Some(record),
            unstored: None,
        });
        self.by_xid.insert((vhost, found.xid.clone()), slot);
        slot
    }

    /// A home could not store that it has done what was decided on a branch.
    pub(super) fn keep(&mut self, slot: usize, refusal: Refusal) {
        if let Some(branch) = self.branches.get_mut(slot) {
            branch.unstored = Some(refusal);
        }
    }

    /// What is written down of a branch.
    pub(super) fn about(&self, slot: usize) -> (VhostId, Xid, u32) {
        let Branch { vhost, ref xid, timeout_s, .. } = self.branches[slot];
        (vhost, xid.clone(), timeout_s)
    }

    pub(in crate::shard) fn len(&self) -> usize {
        self.branches.len()
    }
}

/// Work on its way to the control shard.
pub(in crate::shard) struct RemoteWork {
    publishes: Vec<(VhostId, Message)>,
    settlements: Vec<Settling>,
}

/// What the control shard and others tell each other of branches.
pub(in crate::shard) enum BranchLetter {
    // To the control shard.
    Command {
        session: SessionId,
        vhost: VhostId,
        xid: Xid,
        command: DtxCommand,
        work: Box<RemoteWork>,
    },
    Recover {
        session: SessionId,
        vhost: VhostId,
    },
    /// A session has gone.
    Left(SessionId),

    // From it.
    Answer {
        session: SessionId,
        result: Result<Reply, Refusal>,
    },
    /// The branch took too long.
    Over {
        session: SessionId,
        vhost: VhostId,
        xid: Xid,
    },
}

impl Shard {
    pub(in crate::shard) fn receive_branch_letter(&mut self, letter: BranchLetter) {
        match letter {
            BranchLetter::Command { session, vhost, xid, command, work } => {
                let work = self.import_work(*work);
                if let Some(result) = self.branch_command(session, vhost, xid, command, work) {
                    self.answer_for_branch(session, result);
                }
            }
            BranchLetter::Recover { session, vhost } => {
                let reply = self.branches_in_doubt(vhost);
                self.answer_for_branch(session, Ok(reply));
            }
            BranchLetter::Left(session) => self.leave_branches(session),
            BranchLetter::Answer { session, result } => self.branch_answered(session, result),
            BranchLetter::Over { session, vhost, xid } => self.branch_over(session, vhost, &xid),
        }
    }

    /// Control shard: a command of a session. `None`: the answer comes by [`Shard::branch_answered`].
    pub(super) fn branch_command(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: Xid,
        command: DtxCommand,
        work: Work,
    ) -> Option<Result<Reply, Refusal>> {
        let result = match command {
            DtxCommand::Start(start) => self.start_branch(session, vhost, &xid, start).map(Some),
            DtxCommand::End(end) => self.end_part(session, vhost, &xid, end, work).map(Some),
            DtxCommand::Prepare => self.prepare_branch(session, vhost, &xid),
            DtxCommand::Commit { one_phase } => self.commit_branch(session, vhost, &xid, one_phase),
            DtxCommand::Rollback => self.rollback_branch(session, vhost, &xid),
            DtxCommand::Resolve { commit } => self.resolve_branch(session, vhost, &xid, commit),
            DtxCommand::Forget => self.forget_branch(session, vhost, &xid),
            DtxCommand::Timeout => self.branch_timeout(vhost, &xid).map(Some),
            DtxCommand::SetTimeout(seconds) => self.set_branch_timeout(vhost, &xid, seconds).map(Some),
        };
        match result {
            Ok(reply) => reply.map(Ok),
            Err(Fault::Dtx(fault)) => Some(Err(Refusal::Dtx { xid: Box::new(xid), fault })),
            Err(Fault::Other(refusal)) => Some(Err(refusal)),
        }
    }

    /// Control shard: branches that are prepared, or that an operator has completed.
    pub(super) fn branches_in_doubt(&self, vhost: VhostId) -> Reply {
        let is_in_doubt = |branch: &&Branch| {
            branch.vhost == vhost && matches!(branch.state, State::Prepared(_) | State::Resolved { .. })
        };
        let branches = self.branches.branches.iter().map(|(_, branch)| branch).filter(is_in_doubt);
        Reply::DtxInDoubt(branches.map(|branch| branch.xid.clone()).collect())
    }

    /// Control shard: a session that works for branches has gone.
    pub(super) fn leave_branches(&mut self, session: SessionId) {
        let takes_part = |(_, branch): &(usize, &Branch)| branch.sessions.contains(&session);
        let left: Vec<usize> =
            self.branches.branches.iter().filter(takes_part).map(|(slot, _)| slot).collect();
        for slot in left {
            self.branches.branches[slot].sessions.retain(|&other| other != session);
            self.fail_branch(slot);
        }
    }

    /// Control shard: a branch's time is up, unless that no longer counts.
    pub(in crate::shard) fn time_branch_out(&mut self, slot: u32, deadline_ns: u64) {
        let Some(branch) = self.branches.branches.get_mut(slot as usize) else { return };
        if branch.deadline_ns != deadline_ns {
            return;
        }
        branch.state = State::Over;
        branch.deadline_ns = NEVER_NS;
        let work = std::mem::take(&mut branch.work);
        let (vhost, xid, sessions) = (branch.vhost, branch.xid.clone(), branch.sessions.clone());
        self.undo(work);
        for session in sessions {
            if session.shard == self.config.id {
                self.branch_over(session, vhost, &xid);
            } else {
                let letter = BranchLetter::Over { session, vhost, xid: xid.clone() };
                self.send(session.shard, Lane::Control, Letter::Branch(Box::new(letter)));
            }
        }
    }

    /// Control shard: what was asked of a branch is done everywhere.
    pub(super) fn tell_branch_ended(
        &mut self,
        slot: usize,
        session: SessionId,
        ending: Ending,
        transaction: TransactionKey,
        ended: Ended,
    ) {
        let result = self.branch_ended(slot, ending, transaction, ended);
        self.answer_for_branch(session, result.map(Reply::Dtx));
    }

    fn start_branch(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: &Xid,
        start: DtxStart,
    ) -> Result<Reply, Fault> {
        match (start, self.branches.find(vhost, xid)) {
            (DtxStart::New, None) => {
                self.make_branch(session, vhost, xid)?;
                Ok(Reply::Dtx(DtxStatus::Ok))
            }
            (DtxStart::New, Some(_)) => Err(DtxFault::AlreadyKnown.into()),
            (_, None) => Err(DtxFault::Unknown.into()),
            (_, Some((slot, branch))) => match branch.state {
                State::Active => {
                    if start == DtxStart::Join {
                        branch.sessions.push(session);
                    }
                    Ok(Reply::Dtx(DtxStatus::Ok))
                }
                State::Failed | State::Over => {
                    branch.sessions.retain(|&other| other != session);
                    Ok(Reply::Dtx(self.status_of_lost(slot)))
                }
                _ => Err(DtxFault::Invalid("has been completed").into()),
            },
        }
    }

    fn make_branch(&mut self, session: SessionId, vhost: VhostId, xid: &Xid) -> Result<(), Fault> {
        let most = self.config.limits.dtx_branches;
        if self.branches.len() >= most && !self.branches.forget_one_lost() {
            return Err(Fault::Other(Refusal::LimitExceeded(format!(
                "more than {most} transaction branches"
            ))));
        }
        let slot = self.branches.branches.insert(Branch {
            vhost,
            xid: xid.clone(),
            state: State::Active,
            sessions: vec![session],
            work: Work::default(),
            timeout_s: 0,
            deadline_ns: NEVER_NS,
            record: None,
            unstored: None,
        });
        self.branches.by_xid.insert((vhost, xid.clone()), slot);
        self.set_branch_timer(slot, 0);
        Ok(())
    }

    /// A session ends its part of a branch, or suspends it.
    fn end_part(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: &Xid,
        end: DtxEnd,
        work: Work,
    ) -> Result<Reply, Fault> {
        let Some((slot, branch)) = self.branches.find(vhost, xid) else {
            self.undo(work);
            return Err(DtxFault::Unknown.into());
        };
        if end != DtxEnd::Suspend || branch.state != State::Active {
            branch.sessions.retain(|&other| other != session);
        }
        match (branch.state, end) {
            (State::Active, DtxEnd::Suspend | DtxEnd::Success) => {
                branch.work.append(work);
                return Ok(Reply::Dtx(DtxStatus::Ok));
            }
            (State::Active, DtxEnd::Fail) => self.fail_branch(slot),
            _ => {}
        }
        self.undo(work);
        Ok(Reply::Dtx(self.status_of_lost(slot)))
    }

    fn prepare_branch(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: &Xid,
    ) -> Result<Option<Reply>, Fault> {
        let (slot, branch) = self.branches.find(vhost, xid).ok_or(DtxFault::Unknown)?;
        match branch.state {
            State::Over => Ok(Some(Reply::Dtx(self.end_lost(slot)))),
            _ if !branch.sessions.is_empty() => Err(IN_USE.into()),
            // Stays until it is rolled back.
            State::Failed => Ok(Some(Reply::Dtx(DtxStatus::RolledBack))),
            State::Active => self.finish_branch(slot, session, Ending::Prepare),
            State::Prepared(_) => Err(IS_PREPARED.into()),
            State::Ending => Err(IS_ENDING.into()),
            State::Resolved { committed } | State::Forgetting { committed } => Ok(Some(heuristic(committed))),
        }
    }

    fn commit_branch(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: &Xid,
        one_phase: bool,
    ) -> Result<Option<Reply>, Fault> {
        let (slot, branch) = self.branches.find(vhost, xid).ok_or(DtxFault::Unknown)?;
        match branch.state {
            State::Over => Ok(Some(Reply::Dtx(self.end_lost(slot)))),
            _ if !branch.sessions.is_empty() => Err(IN_USE.into()),
            State::Failed => Ok(Some(Reply::Dtx(self.end_lost(slot)))),
            State::Active if !one_phase => Err(NOT_PREPARED.into()),
            State::Prepared(_) if one_phase => Err(IS_PREPARED.into()),
            State::Active | State::Prepared(_) => self.finish_branch(slot, session, Ending::Commit),
            State::Ending => Err(IS_ENDING.into()),
            State::Resolved { committed } | State::Forgetting { committed } => Ok(Some(heuristic(committed))),
        }
    }

    fn rollback_branch(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: &Xid,
    ) -> Result<Option<Reply>, Fault> {
        let (slot, branch) = self.branches.find(vhost, xid).ok_or(DtxFault::Unknown)?;
        match branch.state {
            State::Over => Ok(Some(Reply::Dtx(self.end_lost(slot)))),
            _ if !branch.sessions.is_empty() => Err(IN_USE.into()),
            State::Failed => {
                self.end_lost(slot);
                Ok(Some(Reply::Dtx(DtxStatus::Ok)))
            }
            State::Active | State::Prepared(_) => self.finish_branch(slot, session, Ending::Rollback),
            State::Ending => Err(IS_ENDING.into()),
            State::Resolved { committed } | State::Forgetting { committed } => Ok(Some(heuristic(committed))),
        }
    }

    fn resolve_branch(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: &Xid,
        commit: bool,
    ) -> Result<Option<Reply>, Fault> {
        let (slot, branch) = self.branches.find(vhost, xid).ok_or(DtxFault::Unknown)?;
        match branch.state {
            State::Prepared(_) => self.finish_branch(slot, session, Ending::Resolve { commit }),
            _ => Err(DtxFault::IllegalState("is not prepared").into()),
        }
    }

    fn forget_branch(
        &mut self,
        session: SessionId,
        vhost: VhostId,
        xid: &Xid,
    ) -> Result<Option<Reply>, Fault> {
        let (slot, branch) = self.branches.find(vhost, xid).ok_or(DtxFault::Unknown)?;
        match (branch.state, branch.record) {
            (State::Resolved { .. }, _) if branch.unstored.is_some() => {
                branch.unstored.clone().map_or(Ok(None), |refusal| Err(Fault::Other(refusal)))
            }
            (State::Resolved { committed }, Some(record)) => {
                branch.state = State::Forgetting { committed };
                self.write_forgotten(record, slot, session);
                Ok(None)
            }
            (State::Resolved { .. }, None) => {
                self.branches.remove(slot);
                Ok(Some(Reply::Done))
            }
            _ if !branch.sessions.is_empty() => Err(IN_USE.into()),
            _ => Err(NOT_HEURISTIC.into()),
        }
    }

    /// It is written down that a branch is forgotten, or cannot be.
    pub(super) fn branch_forgotten(&mut self, slot: usize, session: SessionId, refusal: Option<Refusal>) {
        let Some(refusal) = refusal else {
            self.branches.remove(slot);
            return self.answer_for_branch(session, Ok(Reply::Done));
        };
        if let Some(branch) = self.branches.branches.get_mut(slot)
            && let State::Forgetting { committed } = branch.state
        {
            branch.state = State::Resolved { committed };
        }
        self.answer_for_branch(session, Err(refusal));
    }

    fn branch_timeout(&mut self, vhost: VhostId, xid: &Xid) -> Result<Reply, Fault> {
        let (_, branch) = self.branches.find(vhost, xid).ok_or(DtxFault::Unknown)?;
        Ok(Reply::DtxTimeout(branch.timeout_s))
    }

    fn set_branch_timeout(&mut self, vhost: VhostId, xid: &Xid, seconds: u32) -> Result<Reply, Fault> {
        let (slot, _) = self.branches.find(vhost, xid).ok_or(DtxFault::Unknown)?;
        let most_s = self.config.limits.dtx_max_timeout_s;
        if seconds > most_s && most_s > 0 {
            return Err(DtxFault::TimeoutTooLong { most_s }.into());
        }
        self.set_branch_timer(slot, seconds);
        Ok(Reply::Done)
    }

    /// Notes how long a branch may take from now on, and sees to it unless that no longer matters.
    fn set_branch_timer(&mut self, slot: usize, seconds: u32) {
        let timeout_s = if seconds == 0 { self.config.limits.dtx_default_timeout_s } else { seconds };
        let Some(branch) = self.branches.branches.get_mut(slot) else { return };
        branch.timeout_s = timeout_s;
        branch.deadline_ns = NEVER_NS;
        if timeout_s > 0 && matches!(branch.state, State::Active | State::Failed) {
            let deadline_ns = self.clock.monotonic_ns.saturating_add(u64::from(timeout_s) * NS_PER_S);
            branch.deadline_ns = deadline_ns;
            self.timers.set(deadline_ns, Due::Branch(slot as u32));
            self.prune_timers();
        }
    }

    /// Has every shard do its part of a branch's end.
    fn finish_branch(
        &mut self,
        slot: usize,
        session: SessionId,
        ending: Ending,
    ) -> Result<Option<Reply>, Fault> {
        let Some(branch) = self.branches.branches.get_mut(slot) else { return Ok(None) };
        let before = std::mem::replace(&mut branch.state, State::Ending);
        branch.deadline_ns = NEVER_NS;
        let work = std::mem::take(&mut branch.work);
        let then = Then::Branch { slot, session, ending };
        let (transaction, progress) = match (before, ending) {
            (State::Prepared(id), Ending::Commit | Ending::Resolve { commit: true }) => {
                (id, self.decide(id, Verdict::Commit, then))
            }
            (State::Prepared(id), _) => (id, self.decide(id, Verdict::Requeue, then)),
            (_, Ending::Prepare) => self.carry_out(work, Goal::Prepare, then),
            (_, Ending::Commit) => self.carry_out(work, Goal::Commit, then),
            _ => self.carry_out(work, Goal::Undo, then),
        };
        match progress {
            Progress::Ended(ended) => match self.branch_ended(slot, ending, transaction, ended) {
                Ok(status) => Ok(Some(Reply::Dtx(status))),
                Err(refusal) => Err(Fault::Other(refusal)),
            },
            Progress::Waiting => Ok(None),
        }
    }

    /// What the end of a round means for its branch.
    fn branch_ended(
        &mut self,
        slot: usize,
        ending: Ending,
        transaction: TransactionKey,
        ended: Ended,
    ) -> Result<DtxStatus, Refusal> {
        // Whoever published them may have gone.
        let ended = ended.map(|unroutable| unroutable.into_iter().for_each(|id| self.store.release(id)));
        let prepared = self.rounds.get(&transaction).filter(|round| round.stage == Stage::Prepared);
        let record = prepared.is_some_and(|round| round.is_noted).then_some(transaction);
        let is_prepared = prepared.is_some();
        let Some(branch) = self.branches.branches.get_mut(slot) else { return Ok(DtxStatus::Ok) };
        match ending {
            // It is now, or could not be ended.
            _ if is_prepared => (branch.state, branch.record) = (State::Prepared(transaction), record),
            Ending::Prepare => branch.state = State::Failed,
            Ending::Resolve { commit } => branch.state = State::Resolved { committed: commit },
            Ending::Commit | Ending::Rollback => drop(self.branches.remove(slot)),
        }
        match ended {
            Ok(()) => Ok(DtxStatus::Ok),
            Err(refusal @ Refusal::NotStored(_)) => Err(refusal),
            Err(_) => Ok(DtxStatus::RolledBack),
        }
    }

    /// Undoes what a branch has so far; from now on it can only be rolled back.
    fn fail_branch(&mut self, slot: usize) {
        let Some(branch) = self.branches.branches.get_mut(slot) else { return };
        if branch.state == State::Active {
            branch.state = State::Failed;
            let work = std::mem::take(&mut branch.work);
            self.undo(work);
        }
    }

    /// Forgets a branch that has failed or is over, unless somebody still works for it. Which of both it was.
    fn end_lost(&mut self, slot: usize) -> DtxStatus {
        let status = self.status_of_lost(slot);
        if self.branches.branches.get(slot).is_some_and(|branch| branch.sessions.is_empty()) {
            self.branches.remove(slot);
        }
        status
    }

    fn status_of_lost(&self, slot: usize) -> DtxStatus {
        match self.branches.branches.get(slot) {
            Some(branch) if branch.state == State::Over => DtxStatus::TimedOut,
            _ => DtxStatus::RolledBack,
        }
    }

    fn answer_for_branch(&mut self, session: SessionId, result: Result<Reply, Refusal>) {
        if session.shard == self.config.id {
            return self.branch_answered(session, result);
        }
        let letter = BranchLetter::Answer { session, result };
        self.send(session.shard, Lane::Control, Letter::Branch(Box::new(letter)));
    }

    /// Makes work fit to travel.
    pub(super) fn export_work(&mut self, work: Work) -> RemoteWork {
        self.waiting_bytes -= work.bytes;
        let publishes = work.publishes.into_iter();
        let publishes =
            publishes.map(|publish| (publish.vhost, self.store.extract(publish.message))).collect();
        RemoteWork { publishes, settlements: work.settlements }
    }

    fn import_work(&mut self, work: RemoteWork) -> Work {
        let mut bytes = 0;
        let publishes = work.publishes.into_iter().map(|(vhost, message)| {
            bytes += waiting_bytes(&message);
            Publish { vhost, message: self.store.insert(message), mandatory: false }
        });
        let publishes = publishes.collect();
        self.waiting_bytes += bytes;
        Work { publishes, settlements: work.settlements, bytes }
    }
}

/// Why a command could not be carried out.
enum Fault {
    Dtx(DtxFault),
    Other(Refusal),
}

impl From<DtxFault> for Fault {
    fn from(fault: DtxFault) -> Self {
        Fault::Dtx(fault)
    }
}

fn heuristic(committed: bool) -> Reply {
    Reply::Dtx(if committed { DtxStatus::HeuristicCommit } else { DtxStatus::HeuristicRollback })
}
