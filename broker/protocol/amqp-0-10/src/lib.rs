//! AMQP 0-10 for Fulmar: codec, and the properties of messages. No I/O.
//!
//! * [`codec`]: frames, segments, controls, commands, structs and typed values. What a session and a client stand on.
//! * [`properties`]: a transfer's header as the properties of a message of the core, and the header of a delivery of a
//!   message of any protocol.

pub mod codec;
pub mod properties;
