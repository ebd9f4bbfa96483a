//! The words of distributed transactions: branches by their identifiers, what a session asks of one, how it stands.
//!
//! A branch is known to the whole broker, in one virtual host. Sessions on any shard take part in it one after the
//! other or together; what they publish and settle meanwhile waits, and is carried out as one. The rules are those of
//! X/Open XA as AMQP 0-10 words them; which error code a fault gets is the protocol's business.

use std::fmt;

use crate::Name;

/// The identifier of a branch. Its parts are bytes whose meaning is the transaction manager's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xid {
    /// The format of the other two.
    pub format: u32,
    /// The transaction.
    pub global_id: Name,
    /// The branch of it.
    pub branch_id: Name,
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Xid { format, global_id, branch_id } = self;
        write!(f, "{format}:{}:{}", global_id.as_bytes().escape_ascii(), branch_id.as_bytes().escape_ascii())
    }
}

/// What a session asks of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtxCommand {
    /// From now on the session works for the branch.
    Start(DtxStart),
    /// From now on it does not.
    End(DtxEnd),
    /// Make sure that the branch can be committed, whatever comes, and can still be rolled back.
    Prepare,
    /// Carry out its work.
    Commit {
        /// Without having prepared it.
        one_phase: bool,
    },
    /// Undo its work: publishes are dropped, settled messages go back to their queues.
    Rollback,
    /// Forget a branch that was completed without its transaction manager.
    Forget,
    /// How long it may take.
    Timeout,
    /// Gives it this long from now on, in seconds; 0 for what is usual.
    SetTimeout(u32),
    /// An operator completes a prepared branch in place of its transaction manager, who is told when it comes.
    Resolve {
        /// Carry out its work, or undo it.
        commit: bool,
    },
}

/// How a session comes to work for a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtxStart {
    /// As the first one; the branch must not be known.
    New,
    /// Beside others, or after them.
    Join,
    /// Again, after this session has suspended its work.
    Resume,
}

/// How a session ceases to work for a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtxEnd {
    /// It has done its part.
    Success,
    /// Its part has failed: the branch can only be rolled back.
    Fail,
    /// For the time being.
    Suspend,
}

/// How a command on a branch ended. The numbers are those of AMQP 0-10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum DtxStatus {
    /// Done.
    Ok = 0,
    /// The work of the branch was undone, or will be: something failed.
    RolledBack = 1,
    /// The work of the branch was undone: it took too long.
    TimedOut = 2,
    /// The branch was completed without its transaction manager, nobody knows how. (Never said by this broker.)
    HeuristicHazard = 3,
    /// An operator has committed the branch.
    HeuristicCommit = 4,
    /// An operator has rolled the branch back.
    HeuristicRollback = 5,
    /// An operator has committed some of it. (Never said by this broker.)
    HeuristicMixed = 6,
    /// The branch had no work and is forgotten. (Never said by this broker: an empty branch is prepared as any other.)
    ReadOnly = 7,
}

/// Why a command on a branch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DtxFault {
    /// No such branch.
    #[error("is not known")]
    Unknown,
    /// [`DtxStart::New`] for a branch that is there.
    #[error("is already known")]
    AlreadyKnown,
    /// Not at this time: the branch or the session is not in the right state.
    #[error("{0}")]
    IllegalState(&'static str),
    /// Makes no sense: it names another branch than the one that the session works for.
    #[error("{0}")]
    Invalid(&'static str),
    /// More than the broker allows.
    #[error("may not take longer than {most_s} seconds")]
    TimeoutTooLong {
        /// The most, in seconds.
        most_s: u32,
    },
}
