//! The Fulmar message broker: configuration, wiring, the `fulmar` program.
//!
//! * [`broker`]: starts and stops a broker in this process.
//! * [`worker`]: the loop of one shard, which the simulation steps.
//! * [`store`]: what outlives the broker, when it starts.
//! * [`settings`]: every option, once, and where its value came from.
//! * [`detect`]: which protocol a connection speaks.
//! * [`login`]: the thread that checks passwords; [`handshake`]: those that compute TLS handshakes.
//! * [`serve`], [`user`], [`tools`]: the subcommands.

pub mod acl;
pub mod affinity;
pub mod broker;
pub mod detect;
pub mod handshake;
pub mod logging;
pub mod login;
pub mod serve;
pub mod settings;
pub mod store;
pub mod tools;
pub mod user;
pub mod worker;
