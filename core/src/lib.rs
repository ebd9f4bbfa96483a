//! Fulmar's message model: queues, exchanges, routing, sessions and the shards that hold them.
//!
//! This crate performs no I/O and owns no clock and no source of randomness: every input is a call on a [`Shard`],
//! every output a value taken from it. Given the same calls it does the same thing, which is what lets the whole
//! broker run under deterministic simulation.
//!
//! * [`shard`]: the engine of one thread; sessions, queues at home there, publishing, settling, outputs.
//! * [`topology`]: what exists (virtual hosts, exchanges, queues' homes, bindings); one writer, a replica per shard.
//! * [`exchange`]: the exchange types and the registry that names them.
//! * [`queue`]: one queue; ordering, limits, consumers and their [`Credit`].
//! * [`message`]: the messages that a shard holds, and how an encoding lets the broker look into one.
//! * [`journal`]: what has to outlive the process.
//! * [`transaction`]: the words of distributed transactions.
//! * [`selector`]: what a subscription wants of a queue.
//! * [`mesh`]: the lock-free lanes between shards and the protocol by which an idle shard sleeps.
//! * [`value`]: the neutral model of field tables.

mod credit;
pub mod exchange;
mod hash;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod mesh;
pub mod message;
pub mod permission;
pub mod queue;
pub mod request;
pub mod selector;
pub mod shard;
#[cfg(test)]
mod test_support;
pub mod timers;
pub mod topology;
pub mod transaction;
pub mod value;

pub use credit::Credit;
pub use hash::seed_tables;
pub use ids::{ConnectionId, Name, QueueId, SessionId, ShardId, VhostId};
pub use journal::{Journal, Position, StoreKey};
pub use limits::Limits;
pub use message::{Encoding, MessageId, MessageView};
pub use request::{Refusal, Reply, Request};
pub use selector::Selector;
pub use shard::{Clock, Output, Shard, ShardConfig, mesh_for};
pub use value::{Table, Value};
