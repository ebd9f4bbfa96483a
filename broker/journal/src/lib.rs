//! Fulmar's durable store: a journal for each shard, its files, and what a restart makes of them.
//!
//! * [`directory`]: the data directory and its lock.

pub mod directory;

pub use directory::{DataDirectory, DirectoryError};
