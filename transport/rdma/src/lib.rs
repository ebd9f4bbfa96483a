//! Fulmar over RDMA: reliable connections by verbs and the connection manager, as bytes in and bytes out.
//!
//! [`Side`] is the connections of one thread, [`Joined`] puts it beside another transport so that a shard sees one, and
//! [`Device`] is the hardware below: [`VerbsDevice`] is the real one, in [`sim`] is a simulated one.
//!
//! 1. The libraries are loaded when the first [`VerbsDevice`] is made; without them, that says what is missing.
//! 2. Peers of the Qpid project are spoken to by their contract; two Fulmars agree on carrying a stream.
//! 3. Whatever arrives is backed by a buffer that was posted before the peer had credit for it.

pub mod device;
pub mod sim;

mod conn;
mod credit;
mod join;
mod life;
mod listening;
mod memory;
mod receiving;
mod sending;
mod side;
mod slots;
mod spread;
mod sys;
mod token;
mod verbs;
mod wire;

pub use device::Device;
pub use join::Joined;
pub use side::{
    ACCEPT_CREDIT, CONNECT_CREDIT, DIRECT_BYTES, MESSAGE_BYTES, MOST_LOCKED_OUTPUT_BYTES, SEND_DEPTH,
    SIGNAL_EVERY, Side,
};
pub use spread::{Door, Inbox, door};
pub use sys::Unavailable;
pub use verbs::VerbsDevice;
