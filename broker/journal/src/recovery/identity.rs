//! The file that says what a data directory's journals are: `journal/store`.
//!
//! ```text
//! fulmar store 1
//! uuid 0f1e2d3c4b5a69788796a5b4c3d2e1f0
//! run 12
//! shards 4
//! ```
//!
//! A line `moving 4` says that what logs of so many shards hold is being brought to `shards` of them; whoever finds it
//! ends that first. The file is replaced as a whole and is on the disk before a run begins.

use std::io;
use std::path::{Path, PathBuf};

use fulmar_transport::AlignedBuf;

use super::RecoveryError;
use crate::disk::Disk;
use crate::header::{StoreId, VERSION};

/// Longest file that is looked at, in bytes.
const MOST_BYTES: usize = 4096;

const HEAD: &str = "fulmar store ";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store.
    pub store: StoreId,
    /// The last run; 0: none yet.
    pub run: u32,
    /// How many shards that had.
    pub shards: u16,
    /// How many there were before, as long as not all of their logs are empty.
    pub moving: Option<u16>,
}

impl Identity {
    /// Reads it; `None` if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, or understood.
    pub fn read(disk: &dyn Disk, journal: &Path) -> Result<Option<Identity>, RecoveryError> {
        let path = path(journal);
        let mut bytes = AlignedBuf::with_capacity(MOST_BYTES);
        match disk.open(&path).and_then(|file| file.read_at(0, &mut bytes)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| RecoveryError::reading(&path, error))?,
        }
        Identity::parse(&String::from_utf8_lossy(&bytes), &path).map(Some)
    }

    /// Replaces the file. It is on the disk afterwards.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, disk: &dyn Disk, journal: &Path) -> Result<(), RecoveryError> {
        let (path, new) = (path(journal), journal.join("store.new"));
        let text = self.text();
        let written = disk.open_writable(&new).and_then(|file| {
            file.set_length(0)?;
            file.write_at(0, text.as_bytes())?;
            file.sync()?;
            disk.rename(&new, &path)?;
            disk.sync_directory(journal)
        });
        written.map_err(|error| RecoveryError::writing(&path, error))
    }

    fn text(&self) -> String {
        let Identity { store, run, shards, moving } = self;
        let moving = moving.map(|shards| format!("moving {shards}\n")).unwrap_or_default();
        format!("{HEAD}{VERSION}\nuuid {store}\nrun {run}\nshards {shards}\n{moving}")
    }

    fn parse(text: &str, path: &Path) -> Result<Identity, RecoveryError> {
        let wrong = |line: usize, reason: &str| RecoveryError::Identity {
            path: path.to_owned(),
            line,
            reason: reason.to_string(),
        };
        let head = text.lines().next().and_then(|line| line.strip_prefix(HEAD));
        let version = head.ok_or_else(|| wrong(1, "not the beginning of a store's file"))?;
        match version.parse() {
            Ok(VERSION) => {}
            Ok(version) => return Err(RecoveryError::Version { path: path.to_owned(), version }),
            Err(_) => return Err(wrong(1, "the version of the format is no number")),
        }
        let (mut store, mut run, mut shards, mut moving) = (None, None, None, None);
        for (index, line) in text.lines().enumerate().skip(1) {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            let number = || value.parse::<u32>().map_err(|_| wrong(index + 1, "not a number"));
            let few = || value.parse::<u16>().map_err(|_| wrong(index + 1, "not a number of shards"));
            match name {
                "uuid" => {
                    store = Some(StoreId::parse(value).ok_or_else(|| wrong(index + 1, "not a UUID"))?);
                }
                "run" => run = Some(number()?),
                "shards" => shards = Some(few()?),
                "moving" => moving = Some(few()?),
                _ => return Err(wrong(index + 1, "not understood")),
            }
        }
        let lines = text.lines().count();
        let lacks = |name: &str| wrong(lines, &format!("there is no line '{name}'"));
        Ok(Identity {
            store: store.ok_or_else(|| lacks("uuid"))?,
            run: run.ok_or_else(|| lacks("run"))?,
            shards: shards.ok_or_else(|| lacks("shards"))?,
            moving,
        })
    }
}

/// Where the file is.
pub fn path(journal: &Path) -> PathBuf {
    journal.join("store")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SystemDisk;

    #[test]
    fn it_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(&SystemDisk, directory.path()).unwrap(), None);
        let store = StoreId(std::array::from_fn(|index| index as u8 * 17));
        for moving in [None, Some(4)] {
            let identity = Identity { store, run: 7, shards: 2, moving };
            identity.write(&SystemDisk, directory.path()).unwrap();
            assert_eq!(Identity::read(&SystemDisk, directory.path()).unwrap(), Some(identity));
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("store");
        let good = "fulmar store 1\nuuid 000102030405060708090a0b0c0d0e0f\nrun 1\nshards 2\n";
        for (from, to, expected) in [
            ("fulmar", "falcon", ", line 1: not the beginning of a store's file"),
            ("0f", "0x", ", line 2: not a UUID"),
            ("run 1", "run one", ", line 3: not a number"),
            ("run 1\n", "", ", line 3: there is no line 'run'"),
            ("shards 2", "shards 70000", ", line 4: not a number of shards"),
            ("shards 2\n", "shards 2\ncolour 3\n", ", line 5: not understood"),
            (
                "store 1",
                "store 2",
                " is written in version 2 of the format, and this program knows version 1",
            ),
        ] {
            let disk_file = SystemDisk.open_writable(&file).unwrap();
            let text = good.replace(from, to);
            disk_file.set_length(0).unwrap();
            disk_file.write_at(0, text.as_bytes()).unwrap();
            let error = Identity::read(&SystemDisk, directory.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}{error}");
        }
    }
}
