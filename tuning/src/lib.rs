//! What a host is, and how it is set up for low latency.
//!
//! All reading of `/proc` and `/sys` for that goes through [`Root`], so that a host can be faked with a directory. A
//! missing or odd file makes a value unknown, never an error.
//!
//! * [`root`]: the file system beneath a root; [`cpus`]: lists and masks of CPUs as the kernel writes them; [`value`]: how
//!   files spell values.
//! * [`facts`]: what a measurement records of the host that it ran on.
//! * [`host`], [`profile`]: what is looked at, and what for; [`item`], [`items`]: what is wanted of it and why.
//! * [`report`] tells it, [`apply`] changes it, [`undo`] takes that back, [`files`] makes it last; [`command`] is
//!   `fulmar tune`.

pub mod apply;
pub mod command;
pub mod cpus;
pub mod facts;
pub mod files;
pub mod host;
pub mod item;
pub mod items;
pub mod profile;
pub mod report;
pub mod root;
pub mod undo;
pub mod value;

pub use command::{TuneArgs, run};
pub use cpus::CpuSet;
pub use facts::HostFacts;
pub use root::Root;
