//! Files as recovery and the tools use them: blocking calls on the threads of their callers, while no shard runs.
//!
//! [`SystemDisk`] is the operating system's; a simulated disk has the same trait. Nothing here knows what is in a file.
//!
//! 1. What was written is on the disk once [`DiskFile::sync`] has ended; names are once [`Disk::sync_directory`] has.
//! 2. Reading takes large pieces in order, past the page cache where the file system can.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use fulmar_transport::{AlignedBuf, sim};

/// A file system. Errors are the system's.
pub trait Disk: Send + Sync {
    /// The names in a directory, in no order.
    ///
    /// # Errors
    /// The directory is not there, or cannot be read.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;

    /// Opens a file that is there for reading.
    ///
    /// # Errors
    /// It is not there, or may not be read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing; makes it, for its owner alone, if it is not there.
    ///
    /// # Errors
    /// It may not be written.
    fn open_writable(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Makes a directory, for its owner alone, and those that it is in; one that is there is fine.
    ///
    /// # Errors
    /// It cannot be made.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Gives a file another name, in place of what has it.
    ///
    /// # Errors
    /// The file is not there, or the directory cannot be written.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// It is not there, or the directory cannot be written.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory that is empty.
    ///
    /// # Errors
    /// It is not there, or not empty.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// What was made, renamed and removed in a directory outlives a power cut.
    ///
    /// # Errors
    /// The disk failed.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// An open file; dropping it closes it.
pub trait DiskFile: Send {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;

    /// Reads from `offset`, a multiple of [`AlignedBuf::ALIGNMENT`], as much as the buffer has room for, or to the end of
    /// the file. What the buffer held is gone.
    ///
    /// # Errors
    /// The disk failed.
    fn read_at(&self, offset: u64, into: &mut AlignedBuf) -> io::Result<()>;

    /// Writes all the bytes.
    ///
    /// # Errors
    /// The disk is full, or failed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file off there, or makes it so long with zeros.
    ///
    /// # Errors
    /// The disk is full, or failed.
    fn set_length(&self, bytes: u64) -> io::Result<()>;

    /// What was written is on the disk at the end.
    ///
    /// # Errors
    /// The disk failed.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        Ok(match direct {
            // What file systems say that have no such thing.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Box::new(File::open(path)?),
            opened => Box::new(opened?),
        })
    }

    fn open_writable(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        Ok(Box::new(options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut AlignedBuf) -> io::Result<()> {
        into.resize(into.capacity());
        let mut length = 0;
        while length < into.len() {
            match FileExt::read_at(self, &mut into[length..], offset + length as u64) {
                Ok(read) => {
                    length += read;
                    // Past the page cache only whole blocks can follow: a part of one is the end of the file.
                    if read == 0 || !length.is_multiple_of(AlignedBuf::ALIGNMENT) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    into.clear();
                    return Err(error);
                }
            }
        }
        into.resize(length);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Disk for sim::Disk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let paths = sim::Disk::list(self, directory)?;
        Ok(paths.iter().filter_map(|path| path.file_name().map(OsString::from)).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(sim::Disk::open(self, path)?))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.open_or_make(path)?))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.make_directory(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        sim::Disk::rename(self, from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        sim::Disk::remove(self, path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        sim::Disk::remove_directory(self, path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        sim::Disk::sync_directory(self, path)
    }
}

impl DiskFile for sim::SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file_bytes())
    }

    fn read_at(&self, offset: u64, into: &mut AlignedBuf) -> io::Result<()> {
        into.resize(into.capacity());
        let read = sim::SimFile::read_at(self, offset, into);
        into.resize(read.as_ref().copied().unwrap_or(0));
        read.map(drop)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        sim::SimFile::write_at(self, offset, bytes)
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.set_file_bytes(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        sim::SimFile::sync(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_to_the_end_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, path) = (SystemDisk, directory.path().join("a"));
        let file = disk.open_writable(&path).unwrap();
        let bytes: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        file.write_at(0, &bytes).unwrap();
        file.sync().unwrap();

        let file = disk.open(&path).unwrap();
        assert_eq!(file.length().unwrap(), 10_000);
        let mut buffer = AlignedBuf::with_capacity(8192);
        file.read_at(0, &mut buffer).unwrap();
        assert_eq!(buffer[..], bytes[..8192]);
        file.read_at(8192, &mut buffer).unwrap();
        assert_eq!(buffer[..], bytes[8192..]);
        file.read_at(12288, &mut buffer).unwrap();
        assert!(buffer.is_empty());
    }

    #[test]
    fn names_are_made_renamed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, inner) = (SystemDisk, directory.path().join("a/b"));
        disk.create_directory(&inner).unwrap();
        disk.create_directory(&inner).unwrap();
        disk.open_writable(&inner.join("one")).unwrap().set_length(1).unwrap();
        disk.rename(&inner.join("one"), &inner.join("two")).unwrap();
        disk.sync_directory(&inner).unwrap();
        assert_eq!(disk.list(&inner).unwrap(), ["two"]);
        assert!(disk.remove_directory(&inner).is_err());
        disk.remove(&inner.join("two")).unwrap();
        disk.remove_directory(&inner).unwrap();
        assert_eq!(disk.list(&inner).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
