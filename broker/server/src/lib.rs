//! The Fulmar message broker: configuration, wiring, the `fulmar` program.
//!
//! * [`settings`]: every option, once, and where its value came from.
//! * [`worker`]: the loop of one shard.
//! * [`detect`]: which protocol a connection speaks.

pub mod affinity;
pub mod detect;
pub mod logging;
pub mod login;
pub mod settings;
pub mod tools;
pub mod worker;
