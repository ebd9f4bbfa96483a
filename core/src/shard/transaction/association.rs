//! A session's work for branches of distributed transactions, on the session's shard.
//!
//! The control shard knows which sessions work for a branch; the work itself stays here until the session ends its
//! part. Before it is handed over, what the session published otherwise has to have arrived everywhere, so that
//! nothing of the branch can overtake it.

use super::super::envelope::{Ask, Letter};
use super::branches::BranchLetter;
use super::{SessionWork, Work};
use crate::mesh::Lane;
use crate::queue::counts_as_held;
use crate::shard::Shard;
use crate::shard::sessions::Outstanding;
use crate::transaction::{DtxCommand, DtxEnd, DtxFault, DtxStart, DtxStatus, Xid};
use crate::{Refusal, Reply, SessionId, ShardId, VhostId};

/// A branch that a session works for.
#[derive(Clone, Debug)]
struct Association {
    vhost: VhostId,
    xid: Xid,
    /// The branch took too long: the work is undone.
    is_over: bool,
}

impl Association {
    fn is(&self, vhost: VhostId, xid: &Xid) -> bool {
        self.vhost == vhost && self.xid == *xid
    }
}

/// What a session does for branches.
#[derive(Debug, Default)]
pub(in crate::shard) struct Associations {
    current: Option<Association>,
    suspended: Vec<(Association, Work)>,
    /// The control shard has heard of this session.
    is_known: bool,
    /// What the control shard has been asked, and has not answered.
    asked: Option<(VhostId, Xid, DtxCommand)>,
}

impl Associations {
    /// Whether what the session does in transaction is a branch's.
    pub(super) fn is_working(&self) -> bool {
        self.current.is_some()
    }

    /// Whether what it does is for nothing, since the branch took too long.
    pub(super) fn is_over(&self) -> bool {
        self.current.as_ref().is_some_and(|association| association.is_over)
    }
}

impl Shard {
    /// [`Request::Dtx`](crate::Request::Dtx).
    pub(in crate::shard) fn command_branch(
        &mut self,
        id: SessionId,
        vhost: VhostId,
        xid: Xid,
        command: DtxCommand,
    ) -> Option<Result<Reply, Refusal>> {
        let associations = &mut self.session_work_or_new(id)?.associations;
        if let Err(fault) = check(associations, vhost, &xid, command) {
            return Some(Err(Refusal::Dtx { xid: Box::new(xid), fault }));
        }
        associations.asked = Some((vhost, xid, command));
        let others: Vec<ShardId> = self.config.others().collect();
        if command != DtxCommand::End(DtxEnd::Success) || others.is_empty() {
            return self.ask_control(id);
        }
        self.session_mut(id)?.outstanding = Outstanding::HandOver { missing: others.len() as u32 };
        for shard in others {
            self.send_query(shard, id, Ask::Barrier);
        }
        None
    }

    /// [`Request::RecoverDtx`](crate::Request::RecoverDtx).
    pub(in crate::shard) fn recover_branches(
        &mut self,
        session: SessionId,
        vhost: VhostId,
    ) -> Option<Result<Reply, Refusal>> {
        if self.config.id == ShardId::CONTROL {
            return Some(Ok(self.branches_in_doubt(vhost)));
        }
        self.send_to_control(BranchLetter::Recover { session, vhost });
        None
    }

    /// Asks what is to be asked, handing over the work if the session ends its part.
    pub(in crate::shard) fn ask_control(&mut self, id: SessionId) -> Option<Result<Reply, Refusal>> {
        let work = self.session_work(id)?;
        let (vhost, xid, command) = work.associations.asked.clone()?;
        work.associations.is_known = true;
        let handed_over = match command {
            DtxCommand::End(DtxEnd::Success | DtxEnd::Fail) => std::mem::take(&mut work.current),
            _ => Work::default(),
        };
        self.count_all_settled(id, &handed_over);
        if self.config.id == ShardId::CONTROL {
            let result = self.branch_command(id, vhost, xid, command, handed_over)?;
            self.note_branch_answer(id, &result);
            return Some(result);
        }
        let work = Box::new(self.export_work(handed_over));
        self.send_to_control(BranchLetter::Command { session: id, vhost, xid, command, work });
        None
    }

    /// The control shard has answered a session here.
    pub(in crate::shard) fn branch_answered(&mut self, id: SessionId, result: Result<Reply, Refusal>) {
        self.note_branch_answer(id, &result);
        self.tell_reply(id, result);
    }

    /// The control shard says that a branch took too long which a session here works for.
    pub(in crate::shard) fn branch_over(&mut self, id: SessionId, vhost: VhostId, xid: &Xid) {
        let Some(work) = self.session_work(id) else { return };
        let associations = &mut work.associations;
        let mut undone = Work::default();
        if let Some(current) = associations.current.as_mut().filter(|current| current.is(vhost, xid)) {
            current.is_over = true;
            undone.append(std::mem::take(&mut work.current));
        }
        for (association, suspended) in &mut associations.suspended {
            if association.is(vhost, xid) {
                association.is_over = true;
                undone.append(std::mem::take(suspended));
            }
        }
        self.undo_for(id, undone);
    }

    /// A session has gone: what it has not handed over is undone, and the branches can only be rolled back.
    pub(super) fn end_associations(&mut self, id: SessionId, associations: Associations) {
        for (_, work) in associations.suspended {
            self.undo(work);
        }
        if associations.is_known {
            if self.config.id == ShardId::CONTROL {
                self.leave_branches(id);
            } else {
                self.send_to_control(BranchLetter::Left(id));
            }
        }
    }

    /// What an answer of the control shard means for the session.
    fn note_branch_answer(&mut self, id: SessionId, result: &Result<Reply, Refusal>) {
        let Some(work) = self.session_work(id) else { return };
        let SessionWork { current, associations } = work;
        let Some((vhost, xid, command)) = associations.asked.take() else { return };
        let is_ok = matches!(result, Ok(Reply::Dtx(DtxStatus::Ok)));
        let mut undone = Work::default();
        match command {
            DtxCommand::Start(DtxStart::Resume) => {
                let suspended = &mut associations.suspended;
                let at = suspended.iter().position(|(association, _)| association.is(vhost, &xid));
                if let Some((association, work)) = at.map(|at| suspended.swap_remove(at)) {
                    if is_ok {
                        (*current, associations.current) = (work, Some(association));
                    } else {
                        undone = work;
                    }
                }
            }
            DtxCommand::Start(_) if is_ok => {
                associations.current = Some(Association { vhost, xid, is_over: false });
            }
            DtxCommand::End(DtxEnd::Suspend) => {
                let work = std::mem::take(current);
                match associations.current.take() {
                    Some(association) if is_ok => associations.suspended.push((association, work)),
                    _ => undone = work,
                }
            }
            DtxCommand::End(_) => associations.current = None,
            _ => {}
        }
        self.undo_for(id, undone);
    }

    /// Undoes work that the session has not handed over.
    fn undo_for(&mut self, id: SessionId, work: Work) {
        self.count_all_settled(id, &work);
        self.undo(work);
    }

    /// What a session settled for a branch is out of its hands.
    fn count_all_settled(&mut self, id: SessionId, work: &Work) {
        for settling in &work.settlements {
            if counts_as_held(settling.tag) {
                self.count_settled(id);
            }
        }
    }

    fn send_to_control(&mut self, letter: BranchLetter) {
        self.send(ShardId::CONTROL, Lane::Control, Letter::Branch(Box::new(letter)));
    }
}

/// Whether a session can ask that now, as far as the session's own shard knows.
fn check(
    associations: &Associations,
    vhost: VhostId,
    xid: &Xid,
    command: DtxCommand,
) -> Result<(), DtxFault> {
    let is_suspended = || associations.suspended.iter().any(|(association, _)| association.is(vhost, xid));
    match (command, &associations.current) {
        (DtxCommand::Start(_), Some(_)) => {
            Err(DtxFault::IllegalState("cannot be started: the session works for a branch"))
        }
        (DtxCommand::Start(DtxStart::Resume), None) if !is_suspended() => {
            Err(DtxFault::Invalid("is not suspended by this session"))
        }
        (DtxCommand::Start(DtxStart::Join), None) if is_suspended() => {
            Err(DtxFault::IllegalState("is suspended by this session, which can resume it"))
        }
        (DtxCommand::End(_), None) => {
            Err(DtxFault::IllegalState("cannot be ended: the session works for no branch"))
        }
        (DtxCommand::End(_), Some(current)) if !current.is(vhost, xid) => {
            Err(DtxFault::Invalid("is not the one that the session works for"))
        }
        _ => Ok(()),
    }
}
