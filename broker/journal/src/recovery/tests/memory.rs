//! A disk in memory that may stop at any write.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fulmar_transport::AlignedBuf;

use crate::disk::{Disk, DiskFile};

type Bytes = Arc<Mutex<Vec<u8>>>;

#[derive(Default)]
struct State {
    files: BTreeMap<PathBuf, Bytes>,
    /// Changes that are still made before it stops.
    left: Option<u64>,
    /// Where something was written, and how much.
    writes: Vec<(u64, usize)>,
}

/// The disk. Clones are handles to the same one.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

struct MemoryFile {
    disk: MemoryDisk,
    bytes: Bytes,
}

fn missing() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl MemoryDisk {
    /// Another disk with the same files.
    pub fn copy(&self) -> MemoryDisk {
        let files = self.files();
        let disk = MemoryDisk::default();
        for (path, bytes) in files {
            disk.0.lock().unwrap().files.insert(path, Arc::new(Mutex::new(bytes)));
        }
        disk
    }

    /// All files.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.0.lock().unwrap();
        state.files.iter().map(|(path, bytes)| (path.clone(), bytes.lock().unwrap().clone())).collect()
    }

    /// Stops after so many changes; `None`: does not.
    pub fn stop_after(&self, changes: Option<u64>) {
        self.0.lock().unwrap().left = changes;
    }

    /// Where something was written since this was last asked, and how many bytes.
    pub fn take_writes(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.0.lock().unwrap().writes)
    }

    /// Changes the bytes of a file.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let bytes = self.0.lock().unwrap().files[path].clone();
        edit(&mut bytes.lock().unwrap());
    }

    fn change(&self) -> io::Result<()> {
        match &mut self.0.lock().unwrap().left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("stopped")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn file(&self, bytes: Bytes) -> Box<dyn DiskFile> {
        Box::new(MemoryFile { disk: self.clone(), bytes })
    }
}

impl Disk for MemoryDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let state = self.0.lock().unwrap();
        let below = |path: &PathBuf| {
            let rest = path.strip_prefix(directory).ok()?;
            Some(rest.components().next()?.as_os_str().to_owned())
        };
        let names: BTreeSet<OsString> = state.files.keys().filter_map(below).collect();
        Ok(names.into_iter().collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let bytes = self.0.lock().unwrap().files.get(path).cloned();
        Ok(self.file(bytes.ok_or_else(missing)?))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.change()?;
        let bytes = self.0.lock().unwrap().files.entry(path.to_owned()).or_default().clone();
        Ok(self.file(bytes))
    }

    fn create_directory(&self, _: &Path) -> io::Result<()> {
        self.change()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        let mut state = self.0.lock().unwrap();
        let bytes = state.files.remove(from).ok_or_else(missing)?;
        state.files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.0.lock().unwrap().files.remove(path).map(drop).ok_or_else(missing)
    }

    fn remove_directory(&self, _: &Path) -> io::Result<()> {
        self.change()
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.change()
    }
}

impl DiskFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut AlignedBuf) -> io::Result<()> {
        let bytes = self.bytes.lock().unwrap();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        into.clear();
        into.extend_from_slice(&rest[..rest.len().min(into.capacity())]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let stopped = self.disk.change();
        self.disk.0.lock().unwrap().writes.push((offset, bytes.len()));
        // A write that is stopped leaves a part.
        let bytes = if stopped.is_err() { &bytes[..bytes.len() / 3] } else { bytes };
        let mut file = self.bytes.lock().unwrap();
        let end = offset as usize + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[offset as usize..end].copy_from_slice(bytes);
        stopped
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.disk.change()?;
        self.bytes.lock().unwrap().resize(bytes as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change()
    }
}
