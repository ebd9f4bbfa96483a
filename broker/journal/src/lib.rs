//! Fulmar's durable store: a journal for each shard, its files, and what a restart makes of them.
//!
//! * [`directory`]: the data directory and its lock.
//! * [`disk`]: files as recovery and the tools use them.
//! * [`header`], [`record`], [`message`], [`transaction`], [`topology`]: the format.
//! * [`position`]: what places of records say; [`encodings`]: what encodings of properties are named by.
//! * [`log`]: group commit, segments, reading; cleaning and space.
//! * [`recovery`]: what a restart makes of the files; [`check`], [`dump`], [`repair`]: what people do with them.
//! * [`start`], [`summary`], [`words`]: what a log begins with.

pub mod check;
mod cleaning;
pub mod directory;
pub mod disk;
pub mod dump;
pub mod encodings;
mod handle;
pub mod header;
pub mod log;
pub mod message;
mod metrics;
mod options;
pub mod position;
pub mod record;
pub mod recovery;
pub mod repair;
mod scratch;
mod space;
pub mod start;
pub mod summary;
#[cfg(test)]
mod testing;
pub mod topology;
pub mod transaction;
pub mod words;

pub use cleaning::{Holder, clean};
pub use directory::{DataDirectory, DirectoryError, holder_of};
pub use handle::Handle;
pub use log::{Files, Log, ReadBack, TOKENS, Told};
pub use metrics::{Footprint, Metrics};
pub use options::{Durability, FlushMethod, LogOptions};
