//! AMQP 0-9-1 for Fulmar, with RabbitMQ's extensions: codec and connection state machine. No I/O.
//!
//! * [`codec`]: frames, methods, field tables, content properties. Also what the client library and the load harness
//!   speak with.
//! * [`connection`]: the server side of a connection.

pub mod codec;
pub mod connection;
