//! Fulmar's durable store: a journal for each shard, its files, and what a restart makes of them.
//!
//! * [`directory`]: the data directory and its lock.
//! * [`disk`]: files as recovery and the tools use them.
//! * [`header`], [`record`], [`message`], [`transaction`], [`topology`]: the format.
//! * [`position`]: what places of records say; [`encodings`]: what encodings of properties are named by.
//! * [`recovery`]: what a restart makes of the files.
//! * [`start`], [`summary`], [`words`]: what a log begins with.

pub mod directory;
pub mod disk;
pub mod encodings;
pub mod header;
pub mod message;
pub mod position;
pub mod record;
pub mod recovery;
pub mod start;
pub mod summary;
pub mod topology;
pub mod transaction;
pub mod words;

pub use directory::{DataDirectory, DirectoryError};
