//! Fulmar's durable store: a journal for each shard, its files, and what a restart makes of them.
//!
//! * [`directory`]: the data directory and its lock.
//! * [`disk`]: files as recovery and the tools use them.

pub mod directory;
pub mod disk;

pub use directory::{DataDirectory, DirectoryError};
