//! Files of a simulated transport: operations on the network's disk that take their time.

use std::io;

use slab::Slab;

use super::disk::{BLOCK_BYTES, Disk, Inode};
use crate::file::{FileDone, FileId, FileOperation};
use crate::files::{FileTable, not_open};
use crate::{AlignedBuf, Event};

struct OpenFile {
    inode: Inode,
    write: bool,
    direct: bool,
    in_flight: u32,
    /// To be closed, for this token, when nothing is in flight.
    closing: Option<u64>,
}

struct Running {
    token: u64,
    operation: FileOperation,
    /// Writes that had ended when it began.
    writes: u64,
    /// Its file was not open when it began.
    not_open: bool,
}

/// What a transport has open and under way.
pub(super) struct Files {
    disk: Disk,
    open: FileTable<OpenFile>,
    /// In no order that matters; needed when the transport goes.
    opened: Vec<FileId>,
    running: Slab<Running>,
}

/// What cannot go past the page cache.
fn check_aligned(file: &OpenFile, offset: u64, bytes: usize) -> io::Result<()> {
    let is_aligned = offset.is_multiple_of(BLOCK_BYTES as u64) && bytes.is_multiple_of(BLOCK_BYTES);
    if file.direct && !is_aligned {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

fn find(open: &mut FileTable<OpenFile>, file: FileId) -> io::Result<&OpenFile> {
    open.get_mut(file).map(|file| &*file).ok_or_else(not_open)
}

impl Files {
    pub(super) fn new(disk: Disk) -> Self {
        Files { disk, open: FileTable::new(), opened: Vec::new(), running: Slab::new() }
    }

    /// Starts an operation: its number here and how long it takes, unless it waits for others.
    pub(super) fn start(&mut self, token: u64, operation: FileOperation) -> Option<(usize, u64)> {
        let closes = if let FileOperation::Close(file) = operation { Some(file) } else { None };
        let Some(file) = operation.file().or(closes) else {
            return Some(self.run(token, operation, false));
        };
        let Some(open) = self.open.get_mut(file).filter(|open| open.closing.is_none()) else {
            return Some(self.run(token, operation, true));
        };
        if closes.is_none() {
            open.in_flight += 1;
        } else {
            open.closing = Some(token);
            if open.in_flight > 0 {
                return None;
            }
        }
        Some(self.run(token, operation, false))
    }

    fn run(&mut self, token: u64, operation: FileOperation, not_open: bool) -> (usize, u64) {
        let mut disk = self.disk.lock();
        let (writes, latency_ns) = (disk.writes(), disk.latency_ns());
        (self.running.insert(Running { token, operation, writes, not_open }), latency_ns)
    }

    /// The time of an operation is over: it happens, and is told. Gives an operation that waited for it.
    pub(super) fn end(&mut self, key: usize, events: &mut Vec<Event>) -> Option<(usize, u64)> {
        let Running { token, operation, writes, not_open: refused } = self.running.remove(key);
        let file = operation.file();
        let (result, bytes) =
            if refused { (Err(not_open()), operation.into_bytes()) } else { self.perform(operation, writes) };
        events.push(Event::File(FileDone { token, result, bytes }));
        let file = file.filter(|_| !refused)?;
        let open = self.open.get_mut(file)?;
        open.in_flight -= 1;
        let token = open.closing.filter(|_| open.in_flight == 0)?;
        Some(self.run(token, FileOperation::Close(file), false))
    }

    fn perform(&mut self, operation: FileOperation, writes: u64) -> (io::Result<usize>, Option<AlignedBuf>) {
        let mut disk = self.disk.lock();
        let open = &mut self.open;
        let result = match operation {
            FileOperation::Write { file, offset, bytes, sync } => {
                let result = find(open, file).and_then(|file| {
                    if !file.write {
                        return Err(not_open());
                    }
                    check_aligned(file, offset, bytes.len())?;
                    disk.write(file.inode, offset, &bytes, sync)
                });
                return (result, Some(bytes));
            }
            FileOperation::Read { file, offset, mut bytes } => {
                bytes.resize(bytes.capacity());
                let result = find(open, file).and_then(|file| {
                    check_aligned(file, offset, bytes.len())?;
                    disk.read(file.inode, offset, &mut bytes)
                });
                bytes.resize(*result.as_ref().unwrap_or(&0));
                return (result, Some(bytes));
            }
            FileOperation::Sync(file) => find(open, file).and_then(|file| disk.sync(file.inode, writes)),
            FileOperation::Allocate(file, bytes) => {
                find(open, file).and_then(|file| disk.allocate(file.inode, bytes))
            }
            FileOperation::Open(path, options) => {
                let file = disk.open(&path, options.write, options.direct).and_then(|inode| {
                    let (write, direct) = (options.write, options.direct);
                    open.insert(OpenFile { inode, write, direct, in_flight: 0, closing: None })
                });
                self.opened.extend(file.as_ref().ok());
                return (file.map(|file| file.0 as usize), None);
            }
            FileOperation::Close(file) => {
                self.opened.retain(|opened| *opened != file);
                open.remove(file).map(|file| disk.close(file.inode)).ok_or_else(not_open)
            }
            FileOperation::Remove(path) => disk.remove(&path),
            FileOperation::Rename(from, to) => disk.rename(&from, &to),
            FileOperation::SyncDirectory(path) => disk.sync_directory(&path),
        };
        (result.map(|()| 0), None)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.running.len()
    }
}

impl Drop for Files {
    /// The kernel closes what a process had open, and does what was under way, or not, or a part of it.
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        for running in self.running.drain().filter(|running| !running.not_open) {
            match running.operation {
                FileOperation::Write { file, offset, bytes, sync } => {
                    if let Some(file) = self.open.get_mut(file) {
                        disk.abandon_write(file.inode, offset, &bytes, sync);
                    }
                }
                operation if disk.chance(500_000) => {
                    // Whether it succeeds is nobody's business any more.
                    let _ = match operation {
                        FileOperation::Sync(file) => match self.open.get_mut(file) {
                            Some(file) => disk.sync(file.inode, running.writes),
                            None => Ok(()),
                        },
                        FileOperation::Remove(path) => disk.remove(&path),
                        FileOperation::Rename(from, to) => disk.rename(&from, &to),
                        FileOperation::SyncDirectory(path) => disk.sync_directory(&path),
                        _ => Ok(()),
                    };
                }
                _ => {}
            }
        }
        for file in self.opened.drain(..) {
            if let Some(file) = self.open.remove(file) {
                disk.close(file.inode);
            }
        }
    }
}
