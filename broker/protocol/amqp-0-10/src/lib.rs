//! AMQP 0-10 for Fulmar: codec. No I/O.
//!
//! * [`codec`]: frames, segments, controls, commands, structs and typed values. What a session and a client stand on.

pub mod codec;
