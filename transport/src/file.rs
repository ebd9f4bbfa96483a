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
    /// Past the page cache (`O_DIRECT`): offsets, lengths and memory are multiples of [`AlignedBuf::ALIGNMENT`].
    pub direct: bool,
}

/// Something to be done with a file.
#[derive(Debug)]
pub enum FileOperation {
    /// Opens; ends in a [`FileId`].
    Open(PathBuf, OpenOptions),
    /// Writes the whole buffer; with `sync`, it and all before it are on the disk at the end (one operation where the
    /// kernel has that, `RWF_DSYNC`).
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
    /// What was written is on the disk at the end (`fdatasync`).
    Sync(FileId),
    /// Makes the file this long at least, with space on the disk for all of it.
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
