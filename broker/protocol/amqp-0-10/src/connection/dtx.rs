//! Class `dtx`: branches of distributed transactions. The core knows the branches and their rules; here are the words of
//! the protocol.

use fulmar_core::transaction::{DtxCommand, DtxEnd, DtxFault, DtxStart, DtxStatus, Xid};
use fulmar_core::{Name, Reply, Request};

use super::Env;
use super::command::Step;
use super::errors::Fault;
use super::session::{Flow, Session};
use super::tx::Mode;
use crate::codec::table::{
    DtxEnd as EndCommand, DtxStart as StartCommand, ErrorCode, GetTimeoutResult, RecoverResult, XaResult,
    XaStatus, Xid as WireXid, code,
};
use crate::codec::value::encode_array;
use crate::codec::{ArrayRef, Struct, StructRef, Value};

/// What a command on a branch means for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    Nothing,
    /// It works for the branch, if the command succeeds.
    Starts,
    /// It does not any more.
    Ends,
    /// The same, and the command was wrong all the same.
    EndsWrongly,
}

impl Session {
    /// `dtx.select`
    pub fn select_dtx(&mut self) -> Result<Flow, Fault> {
        match self.mode {
            Mode::Plain => self.mode = Mode::Dtx { working: false },
            Mode::Dtx { .. } => {}
            Mode::Tx(_) => return Err(Fault::illegal_state("the session was selected for transactions")),
        }
        Ok(Flow::Done)
    }

    /// `dtx.start`
    pub fn start_branch(&mut self, env: &mut Env<'_>, start: &StartCommand<'_>) -> Result<Flow, Fault> {
        let how = match (start.join, start.resume) {
            (true, true) => return Err(invalid("join and resume exclude each other")),
            (true, false) => DtxStart::Join,
            (false, true) => DtxStart::Resume,
            (false, false) => DtxStart::New,
        };
        let Mode::Dtx { .. } = self.mode else {
            return Err(invalid("the session was not selected for distributed transactions"));
        };
        self.on_branch(env, start.xid, DtxCommand::Start(how), Change::Starts)
    }

    /// `dtx.end`
    pub fn end_branch(&mut self, env: &mut Env<'_>, end: &EndCommand<'_>) -> Result<Flow, Fault> {
        let (how, change) = match (end.fail, end.suspend) {
            (true, true) => (DtxEnd::Fail, Change::EndsWrongly),
            (true, false) => (DtxEnd::Fail, Change::Ends),
            (false, true) => (DtxEnd::Suspend, Change::Ends),
            (false, false) => (DtxEnd::Success, Change::Ends),
        };
        self.on_branch(env, end.xid, DtxCommand::End(how), change)
    }

    /// Any other command on a branch.
    pub fn branch_command(
        &mut self,
        env: &mut Env<'_>,
        xid: Option<WireXid<'_>>,
        command: DtxCommand,
    ) -> Result<Flow, Fault> {
        self.on_branch(env, xid, command, Change::Nothing)
    }

    fn on_branch(
        &mut self,
        env: &mut Env<'_>,
        xid: Option<WireXid<'_>>,
        command: DtxCommand,
        change: Change,
    ) -> Result<Flow, Fault> {
        let xid = xid.unwrap_or_default();
        let xid = Xid {
            format: xid.format.unwrap_or(0),
            global_id: Name::from(xid.global_id.unwrap_or_default()),
            branch_id: Name::from(xid.branch_id.unwrap_or_default()),
        };
        let has_result = !matches!(command, DtxCommand::Forget | DtxCommand::SetTimeout(_));
        let request = Request::Dtx { vhost: env.link.vhost, xid, command };
        self.request(env, request, Step::BranchChanged { change, has_result })
    }

    /// The core has carried a command on a branch out.
    pub fn branch_changed(
        &mut self,
        env: &mut Env<'_>,
        change: Change,
        has_result: bool,
        reply: Reply,
    ) -> Result<Flow, Fault> {
        if let (Reply::Dtx(status), Mode::Dtx { working }) = (&reply, &mut self.mode) {
            match change {
                Change::Nothing => {}
                Change::Starts => *working = *status == DtxStatus::Ok,
                Change::Ends | Change::EndsWrongly => *working = false,
            }
        }
        if change == Change::EndsWrongly {
            return Err(invalid("fail and suspend exclude each other"));
        }
        match reply {
            Reply::Dtx(status) if has_result => {
                let status = Some(XaStatus::from_code(status as u16));
                self.result(env, &Struct::XaResult(XaResult { status }));
            }
            Reply::DtxTimeout(seconds) => {
                let timeout = Some(seconds);
                self.result(env, &Struct::GetTimeoutResult(GetTimeoutResult { timeout }));
            }
            _ => {}
        }
        Ok(Flow::Done)
    }

    /// `dtx.recover`
    pub fn recover_branches(&mut self, env: &mut Env<'_>) -> Result<Flow, Fault> {
        let request = Request::RecoverDtx { vhost: env.link.vhost };
        self.request(env, request, Step::BranchesRecovered)
    }

    /// The branches in doubt.
    pub fn branches_recovered(&mut self, env: &mut Env<'_>, reply: Reply) -> Result<Flow, Fault> {
        let Reply::DtxInDoubt(xids) = reply else { return Ok(Flow::Done) };
        let encoded: Vec<Vec<u8>> = xids.iter().map(encode_xid).collect();
        let values = encoded.iter().map(|xid| Value::Struct32(StructRef::new(xid)));
        let mut array = Vec::new();
        encode_array(code::STRUCT32, values, &mut array);
        let in_doubt = Some(ArrayRef::new(&array));
        self.result(env, &Struct::RecoverResult(RecoverResult { in_doubt }));
        Ok(Flow::Done)
    }
}

/// A branch's identifier as a struct without its size.
fn encode_xid(xid: &Xid) -> Vec<u8> {
    let mut bytes = Vec::new();
    WireXid {
        format: Some(xid.format),
        global_id: Some(xid.global_id.as_bytes()),
        branch_id: Some(xid.branch_id.as_bytes()),
    }
    .encode(&mut bytes);
    bytes.split_off(4)
}

fn invalid(text: &str) -> Fault {
    Fault::new(ErrorCode::CommandInvalid, text)
}

/// The code with which a fault is told.
pub(super) fn fault_code(fault: DtxFault) -> ErrorCode {
    match fault {
        DtxFault::Unknown => ErrorCode::NotFound,
        DtxFault::AlreadyKnown => ErrorCode::NotAllowed,
        DtxFault::IllegalState(_) => ErrorCode::IllegalState,
        DtxFault::Invalid(_) => ErrorCode::CommandInvalid,
        DtxFault::TimeoutTooLong { .. } => ErrorCode::InvalidArgument,
    }
}
