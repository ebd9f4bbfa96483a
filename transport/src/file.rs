//! Files by the same ring as sockets: operations are handed in with a token and end in an event.
//!
//! Operations on one file are not ordered among each other: whoever needs an order waits for the end of the one before.

use std::io;
use std::path::PathBuf;

use crate::AlignedBuf;

/// An open file of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// For writing too; made if it is not there, with access for its owner alone.
    pub write: bool,
    /// Past the page cache (`O_DIRECT`): offsets, lengths and memory are multiples of [`AlignedBuf::ALIGNMENT`]. Where
    /// the file system has no such thing, opening fails, and [`is_direct_refused`] says so of the error.
    pub direct: bool,
}

/// Something to be done with a file.
#[derive(Debug)]
pub enum FileOperation {
    /// Opens; ends in a [`FileId`], see [`FileDone::opened`].
    Open(PathBuf, OpenOptions),
    /// Writes the whole buffer; with `sync` it is on the disk at the end, and with it what is needed to find it again
    /// (`RWF_DSYNC`). Of what was written before without, that says nothing.
    Write {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: AlignedBuf,
        /// Whether it has to be on the disk.
        sync: bool,
    },
    /// Reads as much as the buffer's capacity, or to the end of the file.
    Read {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// Memory to read into.
        bytes: AlignedBuf,
    },
    /// What was written before this began is on the disk at the end (`fdatasync`). After one that failed nobody knows
    /// what is, and a later one that does not fail says nothing about it.
    Sync(FileId),
    /// Makes the file this long at least, with space on the disk for all of it; zeros where nothing was written.
    Allocate(FileId, u64),
    /// Closes. Operations under way end first.
    Close(FileId),
    /// Removes a name.
    Remove(PathBuf),
    /// Gives a file another name, in place of what has it.
    Rename(PathBuf, PathBuf),
    /// What was made, removed and renamed in a directory is so after a power cut too.
    SyncDirectory(PathBuf),
}

impl FileOperation {
    /// The buffer of a read or a write.
    pub(crate) fn into_bytes(self) -> Option<AlignedBuf> {
        match self {
            FileOperation::Write { bytes, .. } | FileOperation::Read { bytes, .. } => Some(bytes),
            _ => None,
        }
    }

    /// The file that must stay open meanwhile.
    pub(crate) fn file(&self) -> Option<FileId> {
        match self {
            FileOperation::Write { file, .. }
            | FileOperation::Read { file, .. }
            | FileOperation::Sync(file)
            | FileOperation::Allocate(file, _) => Some(*file),
            _ => None,
        }
    }
}

/// The end of an operation.
#[derive(Debug)]
pub struct FileDone {
    /// The caller's.
    pub token: u64,
    /// Bytes read or written; of [`FileOperation::Open`], the number of the [`FileId`]; otherwise 0.
    pub result: io::Result<usize>,
    /// The buffer of a read or a write; of a read, as long as what was read.
    pub bytes: Option<AlignedBuf>,
}

impl FileDone {
    /// What a [`FileOperation::Open`] has opened.
    ///
    /// # Errors
    /// Why it has not.
    pub fn opened(&self) -> Result<FileId, &io::Error> {
        self.result.as_ref().map(|number| FileId(*number as u32))
    }
}

/// Whether opening failed because the file system cannot go past the page cache; without that it may succeed.
pub fn is_direct_refused(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}
