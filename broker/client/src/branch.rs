//! Branches of distributed transactions (class `dtx`): what several resources do together or not at all, decided by a
//! coordinator of the application's. AMQP 0-10 alone.

use std::fmt;

use crate::Error;
use crate::channel::{Channel, mismatch};
use crate::request::{BranchRequest, Reply, Request};

/// Bytes that either part of an identifier may have.
const MOST_ID_BYTES: usize = 64;

/// Names a branch, as the X/Open model has it: the transaction, and the part of it that one resource does.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xid {
    format: u32,
    global_id: Vec<u8>,
    branch_id: Vec<u8>,
}

impl Xid {
    /// `format` says how the coordinator makes the identifiers, which have at most 64 bytes each.
    ///
    /// # Errors
    /// [`Error::Argument`]: one of them is longer.
    pub fn new(
        format: u32,
        global_id: impl Into<Vec<u8>>,
        branch_id: impl Into<Vec<u8>>,
    ) -> Result<Self, Error> {
        let (global_id, branch_id) = (global_id.into(), branch_id.into());
        for (what, id) in [("global", &global_id), ("branch", &branch_id)] {
            if id.len() > MOST_ID_BYTES {
                let text =
                    format!("the {what} identifier has {} bytes, {MOST_ID_BYTES} are allowed", id.len());
                return Err(Error::Argument(text));
            }
        }
        Ok(Xid { format, global_id, branch_id })
    }

    /// As a broker has told it.
    pub(crate) fn told(format: u32, global_id: &[u8], branch_id: &[u8]) -> Self {
        Xid { format, global_id: global_id.to_vec(), branch_id: branch_id.to_vec() }
    }

    /// How the identifiers are made.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// The transaction.
    pub fn global_id(&self) -> &[u8] {
        &self.global_id
    }

    /// The part of it.
    pub fn branch_id(&self) -> &[u8] {
        &self.branch_id
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.format, self.global_id.escape_ascii(), self.branch_id.escape_ascii())
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xid({self})")
    }
}

/// How a channel begins to work for a branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BranchStart {
    /// The branch is new.
    #[default]
    New,
    /// Others work for it, or have.
    Join,
    /// It was suspended.
    Resume,
}

/// How a channel ceases to work for a branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BranchEnd {
    /// What it had to do is done.
    #[default]
    Success,
    /// It could not be done: the branch can only be rolled back.
    Fail,
    /// It goes on later.
    Suspend,
}

/// How a branch is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phases {
    /// It was not prepared; the broker is the only resource of the transaction.
    One,
    /// It is prepared.
    Two,
}

/// What a prepared branch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// To be committed or rolled back.
    Ready,
    /// Nothing: it has changed nothing, and is over.
    ReadOnly,
}

/// What came of a branch; see [`Error::Branch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchStatus {
    /// What was asked for is done.
    Ok,
    /// It can only be rolled back, or has been: a session failed, or a queue refused.
    RollbackOnly,
    /// It took longer than its timeout, and can only be rolled back.
    TimedOut,
    /// It may have been ended by somebody's own decision.
    HeuristicHazard,
    /// It was committed by somebody's own decision.
    HeuristicCommit,
    /// It was rolled back by somebody's own decision.
    HeuristicRollback,
    /// Of either kind, in parts.
    HeuristicMix,
    /// It has changed nothing.
    ReadOnly,
    /// Something that the specification does not know.
    Other(u16),
}

impl fmt::Display for BranchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BranchStatus::Ok => "it is done",
            BranchStatus::RollbackOnly => "it can only be rolled back",
            BranchStatus::TimedOut => "it timed out and can only be rolled back",
            BranchStatus::HeuristicHazard => "it may have been ended by somebody's own decision",
            BranchStatus::HeuristicCommit => "it was committed by somebody's own decision",
            BranchStatus::HeuristicRollback => "it was rolled back by somebody's own decision",
            BranchStatus::HeuristicMix => "parts of it were ended by somebody's own decision",
            BranchStatus::ReadOnly => "it has changed nothing",
            BranchStatus::Other(status) => return write!(f, "its status is {status}, which is unknown"),
        })
    }
}

/// Distributed transactions. A channel works for one branch at a time: what it publishes and acknowledges between
/// [`Channel::start_branch`] and [`Channel::end_branch`] belongs to the branch. Branches are the virtual host's, not the
/// channel's: any channel with branches enabled may prepare one that has ended, commit it or roll it back, also after the
/// connection that did the work, or the broker, has gone.
///
/// ```no_run
/// use fulmar_client::{BranchEnd, BranchStart, Channel, Error, Phases, Publish, Xid};
///
/// async fn transfer(channel: &Channel, database: impl AsyncFnOnce(bool) -> bool) -> Result<(), Error> {
///     channel.enable_branches().await?;
///     let xid = Xid::new(1, "order-4711", "broker")?;
///     channel.start_branch(&xid, BranchStart::New).await?;
///     channel.publish(&Publish::to_queue("orders", b"4711")).await?;
///     channel.end_branch(&xid, BranchEnd::Success).await?;
///     // Once it is prepared the broker keeps its word, whatever happens.
///     channel.prepare_branch(&xid).await?;
///     match database(true).await {
///         true => channel.commit_branch(&xid, Phases::Two).await,
///         false => channel.rollback_branch(&xid).await,
///     }
/// }
///
/// /// After a crash of the coordinator: what was prepared and not decided is asked for.
/// async fn recover(channel: &Channel, was_decided: impl Fn(&Xid) -> bool) -> Result<(), Error> {
///     channel.enable_branches().await?;
///     for xid in channel.recover_branches().await? {
///         match was_decided(&xid) {
///             true => channel.commit_branch(&xid, Phases::Two).await?,
///             false => channel.rollback_branch(&xid).await?,
///         }
///     }
///     Ok(())
/// }
/// ```
///
/// A channel with branches enabled is not made again when its connection breaks: what it would go on to publish could miss
/// its branch. Faults against the rules (a branch that is not known, or not in a state for what is asked) close the channel
/// with the broker's code, as others do.
impl Channel {
    /// Lets the channel work for branches, from now on and until it is closed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] over other protocols than AMQP 0-10, or the broker's refusal: the channel is transactional.
    pub async fn enable_branches(&self) -> Result<(), Error> {
        self.call(Request::Branch(BranchRequest::Select)).await.map(drop)
    }

    /// Begins to work for a branch.
    ///
    /// # Errors
    /// [`Error::Branch`], or the broker's refusal: there is such a branch already, or there is none to join or resume.
    pub async fn start_branch(&self, xid: &Xid, start: BranchStart) -> Result<(), Error> {
        self.settled(xid, BranchRequest::Start(xid.clone(), start), &[]).await.map(drop)
    }

    /// Ceases to work for a branch.
    ///
    /// # Errors
    /// [`Error::Branch`], or the broker's refusal: the channel does not work for it.
    pub async fn end_branch(&self, xid: &Xid, end: BranchEnd) -> Result<(), Error> {
        // That it can only be rolled back is what a failure asks for.
        let fine: &[_] = if end == BranchEnd::Fail { &[BranchStatus::RollbackOnly] } else { &[] };
        self.settled(xid, BranchRequest::End(xid.clone(), end), fine).await.map(drop)
    }

    /// Has the broker promise that the branch can be committed. It keeps the promise over restarts, for what is durable.
    ///
    /// # Errors
    /// [`Error::Branch`]: it can only be rolled back.
    pub async fn prepare_branch(&self, xid: &Xid) -> Result<Prepared, Error> {
        let fine = [BranchStatus::ReadOnly];
        let status = self.settled(xid, BranchRequest::Prepare(xid.clone()), &fine).await?;
        Ok(if status == BranchStatus::ReadOnly { Prepared::ReadOnly } else { Prepared::Ready })
    }

    /// Commits a branch.
    ///
    /// # Errors
    /// [`Error::Branch`]: it was not committed, or not by this; or the connection broke, and the outcome is unknown.
    pub async fn commit_branch(&self, xid: &Xid, phases: Phases) -> Result<(), Error> {
        self.settled(xid, BranchRequest::Commit(xid.clone(), phases), &[]).await.map(drop)
    }

    /// Undoes a branch, prepared or not.
    ///
    /// # Errors
    /// [`Error::Branch`]: somebody has decided otherwise.
    pub async fn rollback_branch(&self, xid: &Xid) -> Result<(), Error> {
        let fine = [BranchStatus::RollbackOnly, BranchStatus::TimedOut];
        self.settled(xid, BranchRequest::Rollback(xid.clone()), &fine).await.map(drop)
    }

    /// Has the broker forget a branch that somebody has ended by his own decision.
    ///
    /// # Errors
    /// The broker's refusal: nobody has.
    pub async fn forget_branch(&self, xid: &Xid) -> Result<(), Error> {
        self.call(Request::Branch(BranchRequest::Forget(xid.clone()))).await.map(drop)
    }

    /// The branches of the virtual host that are prepared, or ended by somebody's own decision, and wait for their
    /// coordinator.
    ///
    /// # Errors
    /// The end of the channel or connection.
    pub async fn recover_branches(&self) -> Result<Vec<Xid>, Error> {
        match self.call(Request::Branch(BranchRequest::Recover)).await? {
            Reply::Branches(xids) => Ok(xids),
            other => Err(mismatch(&other)),
        }
    }

    /// How long a branch may take before it can only be rolled back, in seconds; 0 for ever.
    ///
    /// # Errors
    /// The broker's refusal: there is no such branch.
    pub async fn branch_timeout_s(&self, xid: &Xid) -> Result<u32, Error> {
        match self.call(Request::Branch(BranchRequest::Timeout(xid.clone()))).await? {
            Reply::Count(seconds) => Ok(seconds),
            other => Err(mismatch(&other)),
        }
    }

    /// Changes how long a branch may take from now on, in seconds; 0 for ever.
    ///
    /// # Errors
    /// The broker's refusal: there is no such branch, or the time is too long.
    pub async fn set_branch_timeout_s(&self, xid: &Xid, seconds: u32) -> Result<(), Error> {
        self.call(Request::Branch(BranchRequest::SetTimeout(xid.clone(), seconds))).await.map(drop)
    }

    /// Makes a request that is answered with a status, which has to be `Ok` or one of those that are fine too.
    async fn settled(
        &self,
        xid: &Xid,
        request: BranchRequest,
        fine: &[BranchStatus],
    ) -> Result<BranchStatus, Error> {
        match self.call(Request::Branch(request)).await? {
            Reply::Branch(status) if status == BranchStatus::Ok || fine.contains(&status) => Ok(status),
            Reply::Branch(status) => Err(Error::Branch { xid: xid.clone(), status }),
            other => Err(mismatch(&other)),
        }
    }
}
