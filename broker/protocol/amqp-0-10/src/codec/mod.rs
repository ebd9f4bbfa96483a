//! Frames, segments, controls, commands, structs and values of AMQP 0-10, as Apache Qpid speaks it.
//!
//! Pure functions between bytes and borrowed values.
//!
//! 1. Decoding borrows from its input and allocates nothing, except where a [`fulmar_core::Table`] is asked for.
//! 2. No input makes a decoder panic, overrun, or use more memory or stack than its length accounts for.
//! 3. Encoding appends to the caller's buffer and cannot fail: what is longer than its width allows is cut (text
//!    between characters); callers that take strings from users check them first.

#[macro_use]
mod macros;

mod convert;
pub mod frame;
mod operation;
pub mod segment;
pub mod sequence;
pub mod table;
pub mod transfer;
pub mod value;
mod wire;

#[cfg(test)]
mod spec_tests;

pub use convert::encode_table;
pub use frame::{Frame, FrameError, ProtocolHeader};
pub use segment::{Assembler, Piece, SegmentError};
pub use sequence::{ByteRanges, SequenceNo, SequenceSet};
pub use table::{Command, Control, Struct};
pub use transfer::ContentHeader;
pub use value::{ArrayRef, ListRef, MapRef, StructRef, Value};

/// Why bytes are not what they should be. All are the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ends inside a field.
    #[error("the input ends inside a field")]
    Truncated,
    /// Bytes are left over after the last field.
    #[error("{0} bytes are left over after the last field")]
    Trailing(usize),
    /// No control has these codes.
    #[error("there is no control {code:#04x} in class {class:#04x}")]
    UnknownControl {
        /// Code of the class.
        class: u8,
        /// Code of the control.
        code: u8,
    },
    /// No command has these codes.
    #[error("there is no command {code:#04x} in class {class:#04x}")]
    UnknownCommand {
        /// Code of the class.
        class: u8,
        /// Code of the command.
        code: u8,
    },
    /// No struct has this code.
    #[error("there is no struct with the code {0:#06x}")]
    UnknownStruct(u16),
    /// Another struct than the one that belongs here.
    #[error("a struct with the code {code:#06x} instead of {expected:#06x}")]
    UnexpectedStruct {
        /// Code found.
        code: u16,
        /// Code that belongs here.
        expected: u16,
    },
    /// Packing flags of fields that the specification does not define.
    #[error("undefined fields in the packing flags {0:#06x}")]
    UnknownFlags(u16),
    /// A value of a type that the specification does not define, and whose width it does not tell either.
    #[error("unknown type code {0:#04x}")]
    UnknownType(u8),
    /// Maps, lists and arrays lie in each other more deeply than [`value::MAX_DEPTH`].
    #[error("maps, lists and arrays are nested more than {} deep", value::MAX_DEPTH)]
    TooDeep,
    /// An array of more than [`value::MAX_EMPTY_ELEMENTS`] elements that take no room.
    #[error("an array of {0} elements without any octet")]
    TooManyEmptyElements(u32),
    /// Not a whole number of ranges.
    #[error("a sequence set of {0} bytes is not a whole number of ranges")]
    BadSequenceSet(usize),
    /// Not a whole number of ranges.
    #[error("byte ranges of {0} bytes are not a whole number of ranges")]
    BadByteRanges(usize),
    /// The first member of a range comes after the last.
    #[error("a range whose first member comes after its last")]
    ReversedRange,
    /// The same struct comes twice in a content header.
    #[error("the struct {0:#06x} comes twice in a content header")]
    RepeatedStruct(u16),
}
