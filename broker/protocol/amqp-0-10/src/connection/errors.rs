//! What a peer is told when something is wrong, and the counters of it.

use fulmar_core::Refusal;
use fulmar_protocol::Counters;

use super::dtx;

use crate::codec::CodecError;
use crate::codec::frame::FrameError;
use crate::codec::segment::SegmentError;
use crate::codec::table::{CloseCode, DetachCode, ErrorCode};

/// A fault of the peer. What it ends follows from its kind.
#[derive(Debug)]
pub(super) enum Fault {
    /// Of a command: `execution.exception`, then the session ends.
    Command(ErrorCode, String),
    /// Of an attachment: `session.detached`.
    Detach(DetachCode),
    /// Of the connection: `connection.close`.
    Connection(CloseCode, String),
}

impl Fault {
    /// Of a command.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Fault::Command(code, text.into())
    }

    /// Frames or segments that break the rules of their format.
    pub fn framing(text: impl Into<String>) -> Self {
        Fault::Connection(CloseCode::FramingError, text.into())
    }

    /// Something that only another order of controls allows.
    pub fn illegal_state(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::IllegalState, text)
    }

    /// Not-found.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, text)
    }

    /// Counts it.
    pub fn count(&self, counters: &mut Counters) {
        match self {
            Fault::Connection(..) => counters.connection_faults += 1,
            _ => counters.channel_faults += 1,
        }
        // A session that cannot be attached counts as a channel that cannot be used.
        let code = match self {
            Fault::Connection(code, _) => code.code(),
            Fault::Detach(_) => 504,
            Fault::Command(code, _) => code.code(),
        };
        counters.faults.count(code);
    }
}

impl From<SegmentError> for Fault {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::TooLarge { .. } => Fault::new(ErrorCode::ResourceLimitExceeded, error.to_string()),
            _ => Fault::framing(error.to_string()),
        }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        Fault::framing(error.to_string())
    }
}

/// A control or command that cannot be decoded.
impl From<CodecError> for Fault {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::UnknownCommand { .. } => Fault::new(ErrorCode::NotImplemented, error.to_string()),
            _ => Fault::framing(error.to_string()),
        }
    }
}

/// The core's refusal of a request or of a message.
impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        let code = match refusal {
            Refusal::NoExchange(_) | Refusal::NoQueue(_) | Refusal::UnknownExchangeType(_) => {
                ErrorCode::NotFound
            }
            Refusal::Denied(_) => ErrorCode::UnauthorizedAccess,
            Refusal::ExclusiveToOther(_) | Refusal::ExclusiveUse(_) => ErrorCode::ResourceLocked,
            Refusal::Busy { .. } => ErrorCode::PreconditionFailed,
            Refusal::Inequivalent { .. }
            | Refusal::Forbidden(_)
            | Refusal::Internal(_)
            | Refusal::InUseAsAlternate(_) => ErrorCode::NotAllowed,
            Refusal::InvalidArgument { .. } | Refusal::DefaultExchange => ErrorCode::InvalidArgument,
            // As the peer says it.
            Refusal::InvalidBinding { .. } => ErrorCode::InternalError,
            Refusal::LimitExceeded(_) | Refusal::QueueFull(_) | Refusal::NotStored(_) => {
                ErrorCode::ResourceLimitExceeded
            }
            Refusal::Dtx { fault, .. } => dtx::fault_code(fault),
            _ => ErrorCode::InternalError,
        };
        Fault::new(code, text)
    }
}

/// As much of a text as a `str8` holds.
pub(super) fn short(text: &str) -> &[u8] {
    let end = (0..=text.len().min(255)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text.as_bytes()[..end]
}
