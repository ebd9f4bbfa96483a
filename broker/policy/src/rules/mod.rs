//! The rules in force: an access control list, permissions by virtual host. Shared by all shards; each connection asks
//! through a [`Guard`] of its own.
//!
//! 1. Rules are replaced as a whole, while connections are there: each hears of it by a number that it compares.
//! 2. A guard waits for nobody but whoever replaces rules, and only when they have been replaced.
//! 3. Addresses that may be published to are remembered, a bounded number of them.

mod guard;
pub mod permits;
mod questions;
#[cfg(test)]
mod tests;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::UsersError;
use crate::acl::{Acl, Verdict};
use crate::replace::{Stamp, stamp};

pub use guard::Guard;
pub use permits::{Access, Permit, PermitFile};

/// Lines about what was asked that the log takes in a second; others are counted.
const LINES_A_SECOND: u32 = 200;

/// Why rules were not taken.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The access control list cannot be read.
    #[error("access control list {0}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    /// Lines of it are wrong.
    #[error("{0}")]
    BadLines(String),
    /// The file of permissions.
    #[error(transparent)]
    Permits(#[from] UsersError),
}

/// Where rules come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The access control list, if there is one.
    pub acl_file: Option<PathBuf>,
    /// The file of permissions.
    pub permit_file: PathBuf,
    /// Most queues of a user for whom the list has no quota; 0: any number.
    pub queues_per_user: u32,
}

/// What holds until it is replaced.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// `None`: everything is allowed.
    pub acl: Option<Arc<Acl>>,
    /// What users may do in virtual hosts.
    pub permits: PermitFile,
}

/// The rules in force.
#[derive(Debug)]
pub struct Rules {
    sources: Sources,
    current: Mutex<Arc<RuleSet>>,
    /// Of the file of permissions, when it was read.
    permit_stamp: Mutex<Stamp>,
    /// Grows when `current` is replaced.
    epoch: AtomicU64,
    denied: AtomicU64,
    log: LogBudget,
}

impl Rules {
    /// Reads them.
    ///
    /// # Errors
    /// Something cannot be read, or is wrong.
    pub fn new(sources: Sources) -> Result<Self, RulesError> {
        let permit_stamp = Mutex::new(stamp(&sources.permit_file));
        let current = Mutex::new(Arc::new(read(&sources)?));
        let (epoch, denied) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Rules { sources, current, permit_stamp, epoch, denied, log: LogBudget::new() })
    }

    /// Reads them again. What was there stays in force if something is wrong.
    ///
    /// # Errors
    /// Something cannot be read, or is wrong.
    pub fn reload(&self) -> Result<(), RulesError> {
        self.replace(read(&self.sources)?);
        Ok(())
    }

    /// Reads the file of permissions again if it has changed. Returns whether it had.
    ///
    /// # Errors
    /// The file is wrong; the permissions stay what they were.
    pub fn refresh_permits(&self) -> Result<bool, UsersError> {
        let now = stamp(&self.sources.permit_file);
        // Also when it is wrong: once is enough to say so.
        let before =
            std::mem::replace(&mut *self.permit_stamp.lock().unwrap_or_else(PoisonError::into_inner), now);
        if before == now {
            return Ok(false);
        }
        let permits = PermitFile::load(&self.sources.permit_file)?;
        let acl = self.current().acl.clone();
        self.replace(RuleSet { acl, permits });
        Ok(true)
    }

    fn replace(&self, new: RuleSet) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        // Pairs with the load in `epoch`: who sees the number sees the rules.
        self.epoch.fetch_add(1, Ordering::Release);
    }

    /// Whether a user may connect from an address, by the access control list.
    pub fn may_connect(&self, identity: &str, from: IpAddr) -> bool {
        let current = self.current();
        let Some(acl) = &current.acl else { return true };
        let Verdict { outcome, line } = acl.may_connect(identity, from);
        if outcome.is_logged() && self.log.take().is_some() {
            let line = line.map_or("no rule".to_owned(), |line| format!("line {line}"));
            log::info!("acl: {outcome} {identity} create connection from {from} ({line})");
        }
        if !outcome.allows() {
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        outcome.allows()
    }

    /// Those in force now.
    pub fn current(&self) -> Arc<RuleSet> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where they come from.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// How often something was denied.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    fn epoch(&self) -> u64 {
        // Pairs with `reload`.
        self.epoch.load(Ordering::Acquire)
    }
}

fn read(sources: &Sources) -> Result<RuleSet, RulesError> {
    let acl = sources.acl_file.as_ref().map(|path| {
        let text = fs::read_to_string(path).map_err(|error| RulesError::Unreadable(path.clone(), error))?;
        Acl::parse(&text).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(|note| format!("{}:{note}", path.display())).collect();
            RulesError::BadLines(lines.join("; "))
        })
    });
    Ok(RuleSet { acl: acl.transpose()?.map(Arc::new), permits: PermitFile::load(&sources.permit_file)? })
}

/// Keeps the log from being flooded by whoever asks again and again.
#[derive(Debug)]
struct LogBudget {
    start: Instant,
    second: AtomicU64,
    lines: AtomicU32,
    left_out: AtomicU64,
}

impl LogBudget {
    fn new() -> Self {
        let (second, left_out) = (AtomicU64::new(0), AtomicU64::new(0));
        LogBudget { start: Instant::now(), second, lines: AtomicU32::new(0), left_out }
    }

    /// Whether one more line may be written; how many were not before it. Approximate when shards ask at once.
    fn take(&self) -> Option<u64> {
        let second = self.start.elapsed().as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.fetch_add(1, Ordering::Relaxed) >= LINES_A_SECOND {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}
