//! What is kept so that changes can be taken back, and taking them back.
//!
//! 1. An entry is on disk, flushed, before the file that it is about is written.
//! 2. An entry keeps the value from before the first change, however often the file is written again.
//! 3. An undo file is replaced as a whole, so it is the old one or the new one after a crash.
//! 4. What somebody else changed since is left alone unless forced; entries stay until their value is back.
//! 5. Only files beneath `/proc` and `/sys` are ever written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::root::Root;
use crate::value::Form;

/// Version of the form.
pub const SCHEMA: u32 = 1;

/// Largest undo file that is read; a change of every idle state of a thousand CPUs fits.
const MAX_BYTES: u64 = 16 << 20;

/// Changes that can be taken back, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    schema: u32,
    /// Where the host's files lie.
    root: PathBuf,
    /// Which boot the changes were made in; none of them outlives it.
    boot: Option<String>,
    /// The changes.
    pub entries: Vec<Entry>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// For which item.
    pub item: String,
    /// The file, as on the host.
    pub path: String,
    /// How it writes its value.
    pub form: Form,
    /// What it held before the first change.
    pub before: String,
    /// What it held after the last.
    pub after: String,
}

/// Why an undo file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// It is not there.
    #[error("no undo file {}: nothing was applied, or all of it was taken back", .0.display())]
    Missing(PathBuf),
    /// It cannot be read or written.
    #[error("undo file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is something else, and is left alone.
    #[error("{} is not an undo file of this version: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Undo {
    /// Nothing yet.
    pub fn new(root: &Root) -> Undo {
        Undo { schema: SCHEMA, root: root.path("/"), boot: boot(root), entries: Vec::new() }
    }

    /// Reads an undo file that is about the host beneath `root`.
    ///
    /// # Errors
    /// It is missing, unreadable, or something else.
    pub fn load(path: &Path, root: &Root) -> Result<Undo, UndoError> {
        let failed = |source| UndoError::Io { path: path.to_owned(), source };
        let foreign = |reason: String| UndoError::Foreign { path: path.to_owned(), reason };
        let length = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(UndoError::Missing(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        };
        if length > MAX_BYTES {
            return Err(foreign(format!("{length} bytes are too many")));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let undo: Undo = serde_json::from_str(&text).map_err(|error| foreign(error.to_string()))?;
        if undo.schema != SCHEMA {
            return Err(foreign(format!("its version is {}", undo.schema)));
        }
        if undo.root != root.path("/") {
            return Err(foreign(format!("it is about the host beneath {}", undo.root.display())));
        }
        if let Some(entry) = undo.entries.iter().find(|entry| !is_kernel_file(&entry.path)) {
            return Err(foreign(format!("it names {}", entry.path)));
        }
        Ok(undo)
    }

    /// Reads what an earlier run left, to be added to; new where there is none. What a boot before this one changed
    /// is gone with it and is dropped; the second value is how many entries that were.
    ///
    /// # Errors
    /// See [`Undo::load`].
    pub fn load_or_new(path: &Path, root: &Root) -> Result<(Undo, usize), UndoError> {
        match Undo::load(path, root) {
            Ok(undo) if undo.is_of_this_boot(root) => Ok((undo, 0)),
            Ok(undo) => Ok((Undo::new(root), undo.entries.len())),
            Err(UndoError::Missing(_)) => Ok((Undo::new(root), 0)),
            Err(error) => Err(error),
        }
    }

    /// Whether no boot lies between, as far as is known.
    pub fn is_of_this_boot(&self, root: &Root) -> bool {
        self.boot == boot(root)
    }

    /// Notes that `path` will go from `found` to `wanted`. An entry that is there keeps what was before it.
    pub fn note(&mut self, item: &str, path: &str, form: Form, found: &str, wanted: &str) {
        match self.entries.iter_mut().find(|entry| entry.path == path) {
            Some(entry) => entry.after = wanted.to_owned(),
            None => self.entries.push(Entry {
                item: item.to_owned(),
                path: path.to_owned(),
                form,
                before: found.to_owned(),
                after: wanted.to_owned(),
            }),
        }
    }

    /// Writes it in place of what is at `path`, flushed to disk. Without entries the file is removed.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, path: &Path) -> Result<(), UndoError> {
        self.try_save(path).map_err(|source| UndoError::Io { path: path.to_owned(), source })
    }

    fn try_save(&self, path: &Path) -> io::Result<()> {
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if self.entries.is_empty() {
            return match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(directory)?.sync_all()
    }
}

/// Whether a path from a file may be written at all.
fn is_kernel_file(path: &str) -> bool {
    (path.starts_with("/proc/") || path.starts_with("/sys/")) && !path.split('/').any(|part| part == "..")
}

fn boot(root: &Root) -> Option<String> {
    root.read("/proc/sys/kernel/random/boot_id")
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// The value is back in place of this one.
    Restored(String),
    /// It was back already.
    AlreadyBack,
    /// Somebody else wrote this value since.
    ChangedSince(String),
    /// The file cannot be read.
    Unreadable,
    /// The file could not be written, or did not take the value.
    Failed(String),
}

impl Undone {
    /// Whether the value from before is there now.
    pub fn is_back(&self) -> bool {
        matches!(self, Undone::Restored(_) | Undone::AlreadyBack)
    }
}

/// Puts values back, the newest change first; what somebody else changed since only with `force`. Then the undo file at
/// `path` keeps what is not back.
///
/// # Errors
/// The undo file could not be written. It still has all entries; those that are back are passed over next time.
pub fn undo(
    root: &Root,
    undo: &mut Undo,
    path: &Path,
    force: bool,
) -> Result<Vec<(Entry, Undone)>, UndoError> {
    let mut results = Vec::new();
    for position in (0..undo.entries.len()).rev() {
        let entry = undo.entries[position].clone();
        let result = put_back(root, &entry, force);
        if result.is_back() {
            undo.entries.remove(position);
        }
        results.push((entry, result));
    }
    undo.save(path)?;
    Ok(results)
}

fn put_back(root: &Root, entry: &Entry, force: bool) -> Undone {
    let Some(current) = entry.form.read(root, &entry.path) else {
        return Undone::Unreadable;
    };
    if current == entry.before {
        return Undone::AlreadyBack;
    }
    if current != entry.after && !force {
        return Undone::ChangedSince(current);
    }
    if let Err(error) = root.write(&entry.path, &entry.before) {
        return Undone::Failed(error.to_string());
    }
    match entry.form.read(root, &entry.path) {
        Some(now) if now == entry.before => Undone::Restored(current),
        now => {
            Undone::Failed(format!("it took {} instead", now.unwrap_or_else(|| "something else".to_owned())))
        }
    }
}
