//! Why a restart does not go on.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::read::Unread;
use super::scan::Gap;
use crate::header::{InvalidHeader, VERSION};
use crate::record::Invalid;

/// Why what is on the disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file or a directory cannot be read.
    #[error("cannot read {path}{}: {error}", at(*offset))]
    Read {
        /// Which one.
        path: PathBuf,
        /// The piece of it that begins there, in bytes; 0: all.
        offset: u64,
        /// Why.
        error: io::Error,
    },
    /// A file or a directory cannot be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A format that this program does not know.
    #[error(
        "{path} is written in version {version} of the format, and this program knows version {VERSION}; \
         start the broker that wrote it, or name another directory with --data-dir"
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A file of another data directory.
    #[error(
        "{path} belongs to another data directory: its store is {found}, and {identity} says {expected}; \
         put each where it belongs"
    )]
    Store {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this directory is.
        expected: String,
        /// Which file says so.
        identity: PathBuf,
    },
    /// A file of another shard.
    #[error("{path} belongs to shard {found}, not to shard {expected}; move it back")]
    Shard {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: u16,
        /// Whose directory it is in.
        expected: u16,
    },
    /// Messages of a protocol that this program does not have.
    #[error("{path} has messages in the encoding {name:?}, which this program does not know")]
    Encoding {
        /// Which file.
        path: PathBuf,
        /// The encoding.
        name: String,
    },
    /// The file that says what the directory is.
    #[error("{path}, line {line}: {reason}")]
    Identity {
        /// Which file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Bytes that were stored and are not what they were.
    #[error(
        "{}the broker does not start, so that nothing is lost unnoticed. `fulmar store check` lists all that is damaged; \
         `fulmar store repair` leaves it out and keeps a copy of it",
        Listed(.0)
    )]
    Damaged(Vec<Damage>),
    /// What the control shard's log says of the topology.
    #[error("{path}: the topology cannot be read: {reason}")]
    Topology {
        /// The log.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something that cannot be brought to another number of shards.
    #[error("{reason}; start the broker with --shards {shards} until it has ended")]
    CannotMove {
        /// What.
        reason: String,
        /// How many shards there were.
        shards: u16,
    },
}

impl RecoveryError {
    pub(crate) fn reading(path: &Path, error: io::Error) -> Self {
        RecoveryError::Read { path: path.to_owned(), offset: 0, error }
    }

    pub(crate) fn writing(path: &Path, error: io::Error) -> Self {
        RecoveryError::Write { path: path.to_owned(), error }
    }
}

impl From<Unread> for RecoveryError {
    fn from(unread: Unread) -> Self {
        let Unread { path, offset, error } = unread;
        RecoveryError::Read { path, offset, error }
    }
}

fn at(offset: u64) -> String {
    if offset == 0 { String::new() } else { format!(" from byte {offset} on") }
}

/// Bytes of a segment that should be records and are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: What,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Its header; there are records behind it.
    Header(InvalidHeader),
    /// Some of its records.
    Records(Gap),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.what {
            What::Header(why) => write!(f, "{path}: {why}, and there are records behind it"),
            What::Records(Gap { from, to, why }) => {
                write!(f, "{path}: damaged at byte {from}: {}", reason(why))?;
                match to {
                    Some(to) => write!(f, "; records go on at byte {to}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What is wrong where a record is known to have been.
fn reason(why: &Invalid) -> String {
    match why {
        Invalid::Empty => "zeros where a record was written".to_string(),
        Invalid::Segment => "no record of this segment where one was written".to_string(),
        other => other.to_string(),
    }
}

/// Most kinds of damage that a message lists.
const MOST_LISTED: usize = 5;

struct Listed<'a>(&'a [Damage]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for damage in self.0.iter().take(MOST_LISTED) {
            write!(f, "{damage}. ")?;
        }
        match self.0.len().saturating_sub(MOST_LISTED) {
            0 => Ok(()),
            more => write!(f, "{more} more. "),
        }
    }
}
