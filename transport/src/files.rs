//! What the transports share about files: which are open, and the arithmetic of operations that end early.

use std::io;

use crate::file::FileId;
use crate::slots::Slots;
use crate::{AlignedBuf, ConnId};

/// Most files open at once.
const MOST_FILES: u32 = 1 << 16;

/// Open files by slot and generation, so that a closed one's number finds nothing.
pub(crate) struct FileTable<T> {
    slots: Slots<T>,
}

impl<T> FileTable<T> {
    pub(crate) fn new() -> Self {
        FileTable { slots: Slots::new(MOST_FILES) }
    }

    /// Puts a file in.
    pub(crate) fn insert(&mut self, file: T) -> io::Result<FileId> {
        let id = self.slots.insert(file).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
        Ok(FileId(id.generation << 16 | id.index))
    }

    /// The file, unless it is closed.
    pub(crate) fn get_mut(&mut self, file: FileId) -> Option<&mut T> {
        let id = self.find(file)?;
        self.slots.get_mut(id)
    }

    /// Takes the file out; its number finds nothing from now on.
    pub(crate) fn remove(&mut self, file: FileId) -> Option<T> {
        let id = self.find(file)?;
        self.slots.remove(id.index)
    }

    fn find(&mut self, file: FileId) -> Option<ConnId> {
        let index = file.0 & (MOST_FILES - 1);
        self.slots.at(index)?;
        Some(self.slots.id_at(index)).filter(|id| id.generation << 16 == file.0 & !(MOST_FILES - 1))
    }
}

/// What a file is not that is not open.
pub(crate) fn not_open() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// How a write of `done` bytes more stands.
pub(crate) enum Progress {
    /// There is more to do from this byte of the buffer on.
    From(usize),
    Complete,
    /// Nothing was done, which would be so again.
    Stuck,
}

/// A write of `len` bytes of which `before` were written has written `more`. Past the page cache it goes on at the
/// beginning of a block only.
pub(crate) fn written(before: usize, more: usize, len: usize, direct: bool) -> Progress {
    let done = before + more;
    if done >= len {
        return Progress::Complete;
    }
    let from = if direct { done - done % AlignedBuf::ALIGNMENT } else { done };
    if from > before { Progress::From(from) } else { Progress::Stuck }
}

/// The same of a read, which ends where the file does.
pub(crate) fn read(before: usize, more: usize, len: usize, direct: bool) -> Progress {
    let done = before + more;
    if more == 0 || done >= len || (direct && !done.is_multiple_of(AlignedBuf::ALIGNMENT)) {
        return Progress::Complete;
    }
    Progress::From(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_closed_file_finds_nothing() {
        let mut files = FileTable::new();
        let (first, second) = (files.insert('a').unwrap(), files.insert('b').unwrap());
        assert_eq!(files.remove(first), Some('a'));
        assert_eq!(files.remove(first), None);
        let third = files.insert('c').unwrap();
        assert_eq!(third.0 & 0xffff, first.0 & 0xffff, "the slot is used again");
        assert_eq!(files.get_mut(first), None);
        assert_eq!(files.get_mut(third), Some(&mut 'c'));
        assert_eq!(files.get_mut(second), Some(&mut 'b'));
        assert_eq!(files.get_mut(FileId(7)), None);
    }

    #[test]
    fn a_short_write_goes_on_at_a_block() {
        assert!(matches!(written(0, 8192, 8192, true), Progress::Complete));
        assert!(matches!(written(0, 5000, 8192, true), Progress::From(4096)));
        assert!(matches!(written(0, 5000, 8192, false), Progress::From(5000)));
        assert!(matches!(written(4096, 512, 8192, true), Progress::Stuck));
        assert!(matches!(written(100, 0, 200, false), Progress::Stuck));
    }

    #[test]
    fn a_short_read_goes_on_unless_it_met_the_end() {
        assert!(matches!(read(0, 4096, 8192, true), Progress::From(4096)));
        assert!(matches!(read(0, 5000, 8192, true), Progress::Complete));
        assert!(matches!(read(0, 5000, 8192, false), Progress::From(5000)));
        assert!(matches!(read(5000, 0, 8192, false), Progress::Complete));
    }
}
