//! What can go wrong, as one type.

use std::io;
use std::sync::Arc;

use crate::branch::{BranchStatus, Xid};

/// Why an operation failed. Cheap to clone: the end of a connection reaches everybody who waits on it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL cannot be used.
    #[error("{url:?}: {reason}")]
    Url {
        /// As it was given, without the password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address of messages cannot be used.
    #[error("{address:?}: at character {at}: {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// Character at which the mistake was found, counted from 1.
        at: usize,
        /// What is wrong there.
        reason: String,
    },
    /// What an address of messages names is not there, or not as the address says.
    #[error("the address {name:?}: {reason}")]
    Unresolved {
        /// Queue or exchange.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No connection to the broker could be made.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The two sides do not agree on TLS, or one does not believe the other.
    #[error("TLS with {address} failed: {failure}")]
    Tls {
        /// Host and port.
        address: String,
        /// Why; "it" is the broker.
        failure: fulmar_tls::Failure,
    },
    /// The broker did not let the user in.
    #[error("{address} refused the login of user {user:?}: {text}")]
    Login {
        /// Host and port.
        address: String,
        /// User name.
        user: String,
        /// The broker's text, or what can be inferred.
        text: String,
    },
    /// The broker closed the connection.
    #[error("the broker closed the connection: {code} {text}")]
    ConnectionClosed {
        /// AMQP reply code.
        code: u16,
        /// The broker's text.
        text: String,
    },
    /// The broker closed the channel.
    #[error("the broker closed the channel: {code} {text}")]
    ChannelClosed {
        /// AMQP reply code.
        code: u16,
        /// The broker's text.
        text: String,
    },
    /// The connection broke, or the broker fell silent.
    #[error("the connection to the broker was lost: {0}")]
    ConnectionLost(String),
    /// The peer does not keep to the protocol.
    #[error("the peer does not keep to the protocol: {0}")]
    Protocol(String),
    /// The broker refused a published message.
    #[error("the broker refused the message")]
    Nacked,
    /// A branch of a distributed transaction has not come to what was asked for.
    #[error("branch {xid}: {status}")]
    Branch {
        /// The branch.
        xid: Xid,
        /// What it has come to.
        status: BranchStatus,
    },
    /// The broker ended the consumer, as it does when the queue is deleted.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// The delivery came over an earlier connection; the broker will deliver the message again.
    #[error("the delivery belongs to a connection that is gone")]
    StaleDelivery,
    /// An argument that the protocol cannot carry.
    #[error("{0}")]
    Argument(String),
    /// The connection's protocol has nothing like it.
    #[error("{0}")]
    Unsupported(&'static str),
    /// All channels that the broker allows are in use.
    #[error("all {0} channels of the connection are in use")]
    NoChannelLeft(u16),
    /// The channel is not in the mode that the call needs.
    #[error("{0}")]
    WrongMode(&'static str),
    /// It took too long.
    #[error("timed out after {0:?} waiting for {1}")]
    Timeout(std::time::Duration, &'static str),
    /// This side closed the connection or channel.
    #[error("closed")]
    Closed,
}

impl Error {
    /// The broker's AMQP reply code, where there is one.
    pub fn reply_code(&self) -> Option<u16> {
        match self {
            Error::ConnectionClosed { code, .. } | Error::ChannelClosed { code, .. } => Some(*code),
            Error::Login { .. } => Some(403),
            _ => None,
        }
    }

    /// Whether another attempt over a new connection may succeed.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::ConnectionLost(_) | Error::Timeout(..) => true,
            // connection-forced: the broker restarts; internal-error: it failed.
            Error::ConnectionClosed { code, .. } => matches!(code, 320 | 541),
            _ => false,
        }
    }
}
