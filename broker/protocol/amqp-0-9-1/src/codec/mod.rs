//! Frames, methods, field tables and content properties of AMQP 0-9-1 (§4.2, with RabbitMQ's errata).
//!
//! Pure functions between bytes and borrowed values; used by the broker's state machine, the client and the load
//! harness.
//!
//! 1. Decoding borrows from its input and allocates nothing, except where a [`fulmar_core::Table`] is asked for.
//! 2. No input makes a decoder panic, overrun, or use more memory or stack than its length accounts for.
//! 3. Encoding appends whole frames to the caller's buffer and cannot fail: a short string of more than 255 bytes is
//!    cut (between characters); callers that take strings from users check them first.

pub mod fast;
pub mod frame;
pub mod method;
pub mod properties;
pub mod reply_code;
pub mod table;
pub mod translate;
mod wire;

#[cfg(test)]
mod spec_tests;

pub use frame::{ContentHeader, Frame, FrameError, FrameKind};
pub use method::Method;
pub use properties::{Properties, Scan};
pub use table::TableRef;

/// What a client sends first: the name of the protocol and its version.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

/// Longest short string, in bytes.
pub const SHORT_STRING_MAX_BYTES: usize = 255;

/// Why bytes are not what they should be. All are the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ends inside a field.
    #[error("the input ends inside a field")]
    Truncated,
    /// Bytes are left over after the last field.
    #[error("{0} bytes are left over after the last field")]
    Trailing(usize),
    /// No method has these numbers.
    #[error("there is no method {method} in class {class}")]
    UnknownMethod {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
    },
    /// A field table holds a value of unknown type.
    #[error("unknown type octet {0:#04x} in a field table")]
    UnknownValueType(u8),
    /// Tables and arrays lie in each other more deeply than [`table::MAX_DEPTH`].
    #[error("tables and arrays are nested more than {} deep", table::MAX_DEPTH)]
    TooDeep,
    /// Property flags that the specification does not define.
    #[error("undefined property flags in {0:#06x}")]
    UnknownPropertyFlags(u16),
}
