//! What a host is, and how it is set up for low latency.
//!
//! All reading of `/proc` and `/sys` for that goes through [`Root`], so that a host can be faked with a directory. A
//! missing or odd file makes a value unknown, never an error.
//!
//! * [`root`]: the file system beneath a root; [`cpus`]: lists and masks of CPUs as the kernel writes them.
//! * [`facts`]: what a measurement records of the host that it ran on.

pub mod cpus;
pub mod facts;
pub mod root;

pub use cpus::CpuSet;
pub use facts::HostFacts;
pub use root::Root;
