//! Commands: which one leads to what, and what follows from the shard's answers.

use fulmar_core::transaction::DtxCommand;
use fulmar_core::{Name, Refusal, Reply, Request, Table};

use super::Env;
use super::dtx::Change;
use super::errors::Fault;
use super::incoming::CommandId;
use super::session::{Flow, Session};
use super::settle::Acquiring;
use crate::codec::table::{AcceptMode, ErrorCode};
use crate::codec::{CodecError, Command, MapRef};

/// The session header of a command whose completion the peer waits for.
const SYNC: &[u8] = &[1, 1];

/// The command that came last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Current {
    /// `None` before the first one.
    pub command: Option<CommandId>,
    /// Class and command.
    pub codes: (u8, u8),
    /// The peer wants to hear at once when it is complete.
    pub sync: bool,
}

/// What a reply of the shard is waited for.
#[derive(Debug)]
pub(super) enum Step {
    /// The command is complete with it.
    Done,
    /// `queue.declare`: other properties than those that are there do not matter.
    QueueDeclared,
    /// `queue.declare` with `passive`: the queue is there.
    QueueFound { name: Name, exclusive: bool },
    /// `queue.query`
    QueueQueried,
    /// `exchange.query`
    ExchangeQueried,
    /// `exchange.bound`
    Bound,
    /// `message.subscribe`
    Subscribed { subscription: u32 },
    /// `message.cancel`
    Cancelled { subscription: u32 },
    /// `message.stop`, `message.flush`
    Stopped { subscription: u32 },
    /// `message.acquire`
    Acquired(Box<Acquiring>),
    /// `tx.commit`
    Committed,
    /// `dtx.*`
    BranchChanged { change: Change, has_result: bool },
    /// `dtx.recover`
    BranchesRecovered,
}

impl Session {
    /// The segment of a command. Content follows it if it is not the last.
    pub fn command(&mut self, env: &mut Env<'_>, payload: &[u8], is_last: bool) -> Result<Flow, Fault> {
        let Some(command) = self.incoming.begin() else {
            // Repeated, and known already; that the peer was told may have been lost.
            self.arriving.skip(!is_last);
            if payload.get(2..4) == Some(SYNC) {
                self.tell_completion(env);
            }
            return Ok(Flow::Done);
        };
        self.arriving.skip(false);
        let codes = payload.first_chunk::<2>().map_or((0, 0), |&[class, code]| (class, code));
        self.current = Current { command: Some(command), codes, sync: false };
        let (decoded, header) = Command::decode(payload).map_err(malformed)?;
        self.current.sync = header.sync;
        if let Command::MessageTransfer(transfer) = decoded {
            return self.transfer(env, &transfer, is_last);
        }
        if !is_last {
            return Err(Fault::new(ErrorCode::CommandInvalid, format!("{} with content", decoded.name())));
        }
        if let Command::ExecutionSync(_) = decoded {
            self.incoming.await_completion(command);
            self.incoming.complete_in_turn(command);
            self.after_completion(env);
            return Ok(Flow::Done);
        }
        match self.carry_out(env, decoded)? {
            Flow::Done => self.complete_current(env),
            Flow::Parked => return Ok(Flow::Parked),
        }
        Ok(Flow::Done)
    }

    fn carry_out(&mut self, env: &mut Env<'_>, command: Command<'_>) -> Result<Flow, Fault> {
        match command {
            // Nothing that the broker sends has a result.
            Command::ExecutionResult(_) => Ok(Flow::Done),
            Command::ExecutionException(exception) => {
                let text = String::from_utf8_lossy(exception.description.unwrap_or_default()).into_owned();
                Err(Fault::new(exception.error_code.unwrap_or(ErrorCode::InternalError), text))
            }
            Command::MessageAccept(accept) => self.accept(env, accept.transfers.unwrap_or_default()),
            Command::MessageReject(reject) => self.reject(env, reject.transfers.unwrap_or_default()),
            Command::MessageRelease(release) => {
                self.release_transfers(env, release.transfers.unwrap_or_default(), release.set_redelivered)
            }
            Command::MessageAcquire(acquire) => self.acquire(env, acquire.transfers.unwrap_or_default()),
            Command::MessageResume(_) => {
                Err(Fault::new(ErrorCode::NotImplemented, "transfers in parts cannot be resumed"))
            }
            Command::MessageSubscribe(subscribe) => self.subscribe(env, &subscribe),
            Command::MessageCancel(cancel) => self.cancel(env, cancel.destination.unwrap_or_default()),
            Command::MessageSetFlowMode(mode) => self.set_flow_mode(&mode),
            Command::MessageFlow(flow) => self.flow(env, &flow),
            Command::MessageFlush(flush) => self.flush(env, flush.destination.unwrap_or_default()),
            Command::MessageStop(stop) => self.stop(env, stop.destination.unwrap_or_default()),
            Command::QueueDeclare(declare) => self.declare_queue(env, &declare),
            Command::QueueDelete(delete) => self.delete_queue(env, &delete),
            Command::QueuePurge(purge) => self.purge_queue(env, purge.queue.unwrap_or_default()),
            Command::QueueQuery(query) => self.query_queue(env, query.queue.unwrap_or_default()),
            Command::ExchangeDeclare(declare) => self.declare_exchange(env, &declare),
            Command::ExchangeDelete(delete) => self.delete_exchange(env, &delete),
            Command::ExchangeQuery(query) => self.query_exchange(env, query.name.unwrap_or_default()),
            Command::ExchangeBind(bind) => self.bind(env, &bind),
            Command::ExchangeUnbind(unbind) => self.unbind(env, &unbind),
            Command::ExchangeBound(bound) => self.query_binding(env, &bound),
            Command::TxSelect(_) => self.select_tx(),
            Command::TxCommit(_) => self.commit(env),
            Command::TxRollback(_) => self.rollback(env),
            Command::DtxSelect(_) => self.select_dtx(),
            Command::DtxStart(start) => self.start_branch(env, &start),
            Command::DtxEnd(end) => self.end_branch(env, &end),
            Command::DtxPrepare(prepare) => self.branch_command(env, prepare.xid, DtxCommand::Prepare),
            Command::DtxCommit(commit) => {
                let one_phase = commit.one_phase;
                self.branch_command(env, commit.xid, DtxCommand::Commit { one_phase })
            }
            Command::DtxRollback(rollback) => self.branch_command(env, rollback.xid, DtxCommand::Rollback),
            Command::DtxForget(forget) => self.branch_command(env, forget.xid, DtxCommand::Forget),
            Command::DtxGetTimeout(get) => self.branch_command(env, get.xid, DtxCommand::Timeout),
            Command::DtxSetTimeout(set) => {
                let timeout_s = set.timeout.unwrap_or(0);
                self.branch_command(env, set.xid, DtxCommand::SetTimeout(timeout_s))
            }
            Command::DtxRecover(_) => self.recover_branches(env),
            // Looked at before.
            Command::ExecutionSync(_) | Command::MessageTransfer(_) => Ok(Flow::Done),
        }
    }

    /// Makes a request of the shard; what follows from its answer is `step`.
    pub fn request(&mut self, env: &mut Env<'_>, request: Request, step: Step) -> Result<Flow, Fault> {
        match env.shard.request(self.session, request) {
            Some(result) => self.step(env, step, result),
            None => {
                self.pending = Some(step);
                Ok(Flow::Parked)
            }
        }
    }

    /// The shard has answered the outstanding request; a peer that has just come back is told in its turn.
    pub fn hear(&mut self, env: &mut Env<'_>, result: Box<Result<Reply, Refusal>>) -> Result<Flow, Fault> {
        if self.send_ready {
            return self.answered(env, *result);
        }
        self.late = Some(result);
        Ok(Flow::Done)
    }

    fn answered(&mut self, env: &mut Env<'_>, result: Result<Reply, Refusal>) -> Result<Flow, Fault> {
        let Some(step) = self.pending.take() else { return Ok(Flow::Done) };
        match self.step(env, step, result)? {
            Flow::Done => self.complete_current(env),
            Flow::Parked => return Ok(Flow::Parked),
        }
        Ok(Flow::Done)
    }

    fn step(&mut self, env: &mut Env<'_>, step: Step, result: Result<Reply, Refusal>) -> Result<Flow, Fault> {
        match (step, result) {
            (Step::QueueDeclared, Ok(_) | Err(Refusal::Inequivalent { .. })) => Ok(Flow::Done),
            (Step::QueueFound { name, exclusive }, result) => self.queue_found(name, exclusive, result),
            (Step::QueueQueried, Ok(reply)) => self.queue_queried(env, reply),
            (Step::ExchangeQueried, Ok(reply)) => self.exchange_queried(env, reply),
            (Step::Bound, Ok(reply)) => self.bound(env, reply),
            (Step::Subscribed { subscription }, result) => self.subscribed(subscription, result),
            (Step::Cancelled { subscription }, Ok(_) | Err(Refusal::Consumer(_))) => {
                self.cancelled(subscription);
                Ok(Flow::Done)
            }
            (Step::Stopped { subscription }, Ok(_) | Err(Refusal::Consumer(_))) => {
                self.stopped(subscription);
                Ok(Flow::Done)
            }
            (Step::Acquired(acquiring), Ok(reply)) => self.acquired(env, acquiring, reply),
            (Step::Committed, Ok(reply)) => self.committed(env.shard, reply),
            (Step::BranchChanged { change, has_result }, Ok(reply)) => {
                self.branch_changed(env, change, has_result, reply)
            }
            (Step::BranchesRecovered, Ok(reply)) => self.branches_recovered(env, reply),
            (Step::Done, Ok(_)) => Ok(Flow::Done),
            (_, Err(refusal)) => Err(refusal.into()),
        }
    }
}

/// A command that cannot be decoded.
pub(super) fn malformed(error: CodecError) -> Fault {
    match error {
        CodecError::UnknownCommand { .. } => Fault::from(error),
        _ => Fault::framing(error.to_string()),
    }
}

/// Decodes arguments.
pub(super) fn decoded(arguments: Option<MapRef<'_>>) -> Result<Table, Fault> {
    arguments.unwrap_or_default().to_table().map_err(malformed)
}

/// Whether the peer has to accept what it is sent.
pub(super) fn is_explicit(mode: Option<AcceptMode>) -> Result<bool, Fault> {
    match mode.unwrap_or_default() {
        AcceptMode::Explicit => Ok(true),
        AcceptMode::None => Ok(false),
        AcceptMode::Other(mode) => {
            Err(Fault::new(ErrorCode::InvalidArgument, format!("unknown accept mode {mode}")))
        }
    }
}
