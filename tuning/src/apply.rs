//! Changing what can be changed back.
//!
//! 1. Only files whose value differs from what the profile wants are written, and only those of items with
//!    [`Remedy::Apply`].
//! 2. The undo file has each on disk before it is written; where it cannot be kept, nothing more is written.
//! 3. A file that refuses is reported and the rest goes on.

use std::io;
use std::path::Path;

use crate::facts;
use crate::host::Host;
use crate::item::{Change, Finding, Item, Remedy, Status};
use crate::root::Root;
use crate::undo::{Undo, UndoError};

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The file holds what is wanted.
    Written,
    /// It would be written.
    WouldBeWritten,
    /// It took another value.
    Took(String),
    /// It was written and cannot be read back.
    Unverified,
    /// Root could write it.
    NeedsRoot,
    /// It cannot be written, for this reason.
    Refused(String),
}

impl Applied {
    /// Whether nothing went wrong.
    pub fn is_fine(&self) -> bool {
        matches!(self, Applied::Written | Applied::WouldBeWritten)
    }
}

/// An item that differs, with what became of its changes.
#[derive(Debug)]
pub struct ItemApplied {
    /// Its name.
    pub item: &'static str,
    /// What was found before.
    pub finding: Finding,
    /// Its changes; none where it is not for `apply` to change.
    pub changes: Vec<(Change, Applied)>,
}

/// Changes what differs. Without `undo`, says only what would be changed. The second value is an error where the undo
/// file could not be kept, which ends it; what was written before that is in the undo file.
pub fn apply(
    host: &Host,
    items: &[&dyn Item],
    mut undo: Option<(&mut Undo, &Path)>,
) -> (Vec<ItemApplied>, Result<(), UndoError>) {
    let mut all = Vec::new();
    for item in items {
        let finding = item.check(host);
        if finding.status != Status::Differs {
            continue;
        }
        let mut changes = Vec::new();
        let result = match (&mut undo, finding.remedy) {
            (_, Remedy::None | Remedy::ByHand | Remedy::Reboot) => Ok(()),
            (None, Remedy::Apply) => {
                changes.extend(finding.changes.iter().map(|change| (change.clone(), tried(host, change))));
                Ok(())
            }
            (Some((undo, path)), Remedy::Apply) => {
                write_item(host, item.name(), &finding.changes, undo, path, &mut changes)
            }
        };
        all.push(ItemApplied { item: item.name(), finding, changes });
        if result.is_err() {
            return (all, result);
        }
    }
    (all, Ok(()))
}

/// Whether a change could be made.
fn tried(host: &Host, change: &Change) -> Applied {
    match host.root.writable(&change.path) {
        Ok(()) => Applied::WouldBeWritten,
        Err(error) => refused(change, &error),
    }
}

fn refused(change: &Change, error: &io::Error) -> Applied {
    match error.kind() {
        io::ErrorKind::PermissionDenied if is_root() => {
            Applied::Refused("even to root: a container or a security policy".to_owned())
        }
        io::ErrorKind::PermissionDenied => Applied::NeedsRoot,
        io::ErrorKind::ReadOnlyFilesystem => {
            Applied::Refused("mounted read-only, as in a container".to_owned())
        }
        _ if change.path.starts_with("/proc/irq/") => {
            Applied::Refused(format!("{error}; the kernel places some interrupts itself"))
        }
        _ => Applied::Refused(error.to_string()),
    }
}

/// Whether this process is root's, wherever the host's files lie.
fn is_root() -> bool {
    facts::effective_user(&Root::default()) == Some(0)
}

/// Writes the files of one item: noted and flushed, written, read back.
fn write_item(
    host: &Host,
    item: &str,
    changes: &[Change],
    undo: &mut Undo,
    path: &Path,
    results: &mut Vec<(Change, Applied)>,
) -> Result<(), UndoError> {
    let (writable, unwritable): (Vec<_>, Vec<_>) = changes
        .iter()
        .map(|change| (change.clone(), tried(host, change)))
        .partition(|(_, tried)| tried.is_fine());
    let earlier = undo.clone();
    for (change, _) in &writable {
        undo.note(item, &change.path, change.form, &change.found, &change.wanted);
    }
    results.extend(unwritable);
    if !writable.is_empty() {
        undo.save(path)?;
    }
    let mut as_noted = true;
    for (change, _) in writable {
        let result = write(host, &change);
        as_noted &= result.is_fine();
        correct(undo, &earlier, &change, &result);
        results.push((change, result));
    }
    if as_noted { Ok(()) } else { undo.save(path) }
}

fn write(host: &Host, change: &Change) -> Applied {
    if let Err(error) = host.root.write(&change.path, &change.wanted) {
        return refused(change, &error);
    }
    let wanted = change.form.normal(&change.wanted);
    match change.form.read(&host.root, &change.path) {
        now if now == wanted => Applied::Written,
        Some(now) => Applied::Took(now),
        None => Applied::Unverified,
    }
}

/// Makes the entry of a change that did not go as noted say what happened.
fn correct(undo: &mut Undo, earlier: &Undo, change: &Change, result: &Applied) {
    match result {
        Applied::Took(now) => undo.note("", &change.path, change.form, &change.found, now),
        Applied::NeedsRoot | Applied::Refused(_) => {
            let before = earlier.entries.iter().find(|entry| entry.path == change.path);
            match before {
                Some(entry) => undo.note("", &change.path, change.form, &change.found, &entry.after),
                None => undo.entries.retain(|entry| entry.path != change.path),
            }
        }
        Applied::Written | Applied::WouldBeWritten | Applied::Unverified => {}
    }
}
