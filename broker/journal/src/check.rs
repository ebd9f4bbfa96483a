//! Reads all journals of a directory as a restart would, and says what is wrong instead of refusing.

use crate::disk::Disk;
use crate::recovery::identity::Identity;
use crate::recovery::log::{LogContents, Torn};
use crate::recovery::{Damage, Found, Options, RecoveryError};

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// What the directory is.
    pub identity: Identity,
    /// Each log.
    pub logs: Vec<LogReport>,
    /// Why the topology cannot be made, if it cannot.
    pub topology: Option<String>,
}

/// What was found of one log.
#[derive(Debug)]
pub struct LogReport {
    /// Its shard.
    pub shard: u16,
    /// Segments in use.
    pub segments: u64,
    /// Files that hold nothing.
    pub unused: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Messages that stand in queues.
    pub messages: u64,
    /// Transactions that have not ended.
    pub transactions: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// What was not written to its end, as stops of the machine leave it.
    pub torn: Vec<Torn>,
}

impl Report {
    /// Whether a broker would start.
    pub fn is_sound(&self) -> bool {
        self.topology.is_none() && self.logs.iter().all(|log| log.damage.is_empty())
    }
}

/// Reads everything; changes nothing.
///
/// # Errors
/// A file cannot be read, is not this directory's, or is of a version that is not known.
pub fn check(disk: &dyn Disk, options: &Options<'_>) -> Result<Report, RecoveryError> {
    let found = Found::read(disk, options)?;
    let topology = found.homes(options);
    let log = |(shard, contents): (&u16, &LogContents)| LogReport {
        shard: *shard,
        segments: contents.segments.len() as u64,
        unused: contents.unused.len() as u64,
        bytes: contents.bytes,
        messages: match &topology {
            Ok(homes) => {
                let there = contents.queues.iter().filter(|queue| homes.home(queue.key).is_some());
                there.map(|queue| queue.places.live().count() as u64).sum()
            }
            Err(_) => 0,
        },
        transactions: contents.transactions.len() as u64,
        damage: contents.damage.clone(),
        torn: contents.torn.clone(),
    };
    let logs = found.logs.iter().map(log).collect();
    Ok(Report { identity: found.identity, logs, topology: topology.err().map(|error| error.to_string()) })
}
