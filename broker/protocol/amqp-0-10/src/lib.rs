//! AMQP 0-10 for Fulmar: codec, properties of messages, and connection state machine. No I/O.
//!
//! * [`codec`]: frames, segments, controls, commands, structs and typed values. What a session and a client stand on.
//! * [`properties`]: a transfer's header as the properties of a message of the core, and the header of a delivery of a
//!   message of any protocol.
//! * [`connection`]: the server side of a connection.

pub mod codec;
pub mod connection;
pub mod properties;
