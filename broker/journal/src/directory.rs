//! The data directory: where a broker keeps what outlives it, and the lock that keeps two brokers out of one directory.
//!
//! ```text
//! lock                      held by the broker that runs; says its process id, nothing after a stop in order
//! users                     users and the hashes of their passwords
//! journal/SHARD/NUMBER.log  segments of the journal
//! ```
//!
//! The lock ends with the process, however that ends. Nothing in the directory is for others to read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Access for the owner alone.
const PRIVATE_DIRECTORY: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made, or not be written to.
    #[error("cannot use the data directory {path}: {error}; --data-dir names another one")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error("the data directory {path} is in use by process {holder}; --data-dir names another one")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "{pid}"),
            None => f.write_str("(unknown)"),
        }
    }
}

/// A data directory that nobody else has. Dropping it lets go of it.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    lock: File,
    was_left_in_order: bool,
}

impl DataDirectory {
    /// Makes the directory if it is not there, and takes its lock.
    ///
    /// # Errors
    /// It cannot be made or written to, or another process has it.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let unusable = |error| DirectoryError::Unusable { path: path.to_owned(), error };
        make(path).map_err(unusable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(path.join("lock"))
            .map_err(unusable)?;
        if !try_lock(&lock).map_err(unusable)? {
            return Err(DirectoryError::InUse { path: path.to_owned(), holder: holder(&mut lock) });
        }
        let was_left_in_order = holder(&mut lock).0.is_none();
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(unusable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unusable)?;
        make(&path.join("journal")).map_err(unusable)?;
        Ok(DataDirectory { path: path.to_owned(), lock, was_left_in_order })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the journals of the shards are.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Whether who had it before said that everything is stored.
    pub fn was_left_in_order(&self) -> bool {
        self.was_left_in_order
    }

    /// Says that everything is stored and nothing more will be.
    pub fn leave_in_order(self) {
        // Where that fails the next one is told that something may be half written, and looks as it always does.
        let _ = self.lock.set_len(0);
    }

    /// Whether nobody but its owner may look into it.
    pub fn is_private(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| meta.permissions().mode() & 0o077 == 0)
    }
}

/// The process that has a data directory; `None`: none, or there is no such directory.
pub fn holder_of(path: &Path) -> Option<u32> {
    let mut lock = File::open(path.join("lock")).ok()?;
    // Whoever could lock it would find that nobody has it.
    if try_lock(&lock).ok()? { None } else { holder(&mut lock).0 }
}

/// Makes a directory; its name outlives a power cut.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).create(parent)?;
    match DirBuilder::new().mode(PRIVATE_DIRECTORY).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result.and_then(|()| File::open(parent)?.sync_all()),
    }
}

/// Whether the lock could be had. It goes with the last descriptor of this opening of the file.
fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

fn holder(lock: &mut File) -> Holder {
    let mut text = String::new();
    let read = lock.read_to_string(&mut text);
    Holder(read.ok().and_then(|_| text.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(&parent.path().join("a/b")).unwrap();
        assert!(directory.is_private());
        let modes = ["", "lock", "journal"].map(|name| {
            let meta = fs::metadata(directory.path().join(name)).unwrap();
            meta.permissions().mode() & 0o777
        });
        assert_eq!(modes, [0o700, 0o600, 0o700]);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(!directory.is_private());
    }

    #[test]
    fn one_has_it_at_a_time_and_the_other_is_told_who() {
        let parent = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(parent.path()).unwrap();
        let refused = DataDirectory::open(parent.path()).unwrap_err();
        let id = std::process::id();
        assert!(
            matches!(refused, DirectoryError::InUse { holder: Holder(Some(holder)), .. } if holder == id)
        );
        let text = refused.to_string();
        assert!(text.contains(&format!("{} is in use by process {id}", parent.path().display())), "{text}");
        drop(first);
        let second = DataDirectory::open(parent.path()).unwrap();
        assert!(!second.was_left_in_order());
        second.leave_in_order();
        assert!(DataDirectory::open(parent.path()).unwrap().was_left_in_order());
    }

    #[test]
    fn what_is_no_directory_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = DataDirectory::open(file.path()).unwrap_err().to_string();
        assert!(
            text.starts_with(&format!("cannot use the data directory {}:", file.path().display())),
            "{text}"
        );
    }
}
