//! A simulated disk: what a process sees, and what a power cut leaves of it.
//!
//! 1. What was written and not synced is there for everybody who reads, and whole after the end of a process. After
//!    [`Disk::power_cut`] each block is as it was synced last, or as any write since has made it, or torn between
//!    those, sector by sector, whatever happens to other blocks.
//! 2. A file that was made, removed or renamed is so for good after its directory was synced, not before; of what was
//!    not, a power cut leaves a beginning, directory by directory. Directories themselves are made for good.
//! 3. A sync covers the writes that had ended when it began. One that fails covers nothing, and what it should have
//!    covered no later one does either, unless it is written again.
//! 4. What goes wrong is decided by the seed ([`DiskFaults`]), on the side of transports alone; the side that blocks,
//!    for whoever looks before the transports are there or after they are gone, fails only when it was told to.

mod blocks;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use blocks::Blocks;
pub use blocks::{BLOCK_BYTES, SECTOR_BYTES};
use names::Names;

/// What goes wrong with a disk, and how often. Chances are per million.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    /// How long anything takes.
    pub latency_ns: RangeInclusive<u64>,
    /// That something takes longer.
    pub stall_chance: u32,
    /// How much longer that takes.
    pub stall_ns: RangeInclusive<u64>,
    /// That a read fails (`EIO`).
    pub read_error_chance: u32,
    /// That a write fails (`EIO`), having written nothing, all, or a part.
    pub write_error_chance: u32,
    /// That a sync, or the sync of a write, fails (`EIO`).
    pub sync_error_chance: u32,
    /// Bytes that all files have room in (`ENOSPC`).
    pub capacity_bytes: u64,
    /// Whether files can be opened past the page cache.
    pub has_direct: bool,
}

impl DiskFaults {
    /// Nothing goes wrong; everything takes 100 µs.
    pub fn none() -> Self {
        DiskFaults {
            latency_ns: 100_000..=100_000,
            stall_chance: 0,
            stall_ns: 0..=0,
            read_error_chance: 0,
            write_error_chance: 0,
            sync_error_chance: 0,
            capacity_bytes: u64::MAX,
            has_direct: true,
        }
    }
}

impl Default for DiskFaults {
    /// A disk that is slow now and then, and does not fail.
    fn default() -> Self {
        DiskFaults {
            latency_ns: 10_000..=500_000,
            stall_chance: 5_000,
            stall_ns: 1_000_000..=50_000_000,
            ..DiskFaults::none()
        }
    }
}

/// A disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

/// A file, whatever it is called.
pub(super) type Inode = u64;

pub(super) struct State {
    random: Random,
    pub(super) faults: DiskFaults,
    files: BTreeMap<Inode, Blocks>,
    names: Names,
    next_inode: Inode,
    /// How many writes have ended.
    writes: u64,
    /// Operations of the side that blocks until it fails.
    fuse: Option<u64>,
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// The side that blocks.
impl Disk {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            faults: DiskFaults::none(),
            files: BTreeMap::new(),
            names: Names::default(),
            next_inode: 1,
            writes: 0,
            fuse: None,
        };
        Disk { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock().faults = faults;
    }

    /// The power goes and comes back. No transport may have files open; see the module's promises for what is left.
    ///
    /// # Panics
    /// If a file is open.
    pub fn power_cut(&self) {
        let state = &mut *self.lock();
        assert!(state.files.values().all(|file| file.opened == 0), "a file is open");
        state.names.power_cut(&mut state.random);
        state.sweep();
        for file in state.files.values_mut() {
            file.power_cut(&mut state.random);
        }
    }

    /// All files as they are now, to come back to.
    pub fn image(&self) -> DiskImage {
        let state = self.lock();
        DiskImage { files: state.files.clone(), names: state.names.clone() }
    }

    /// All files are as they were.
    ///
    /// # Panics
    /// If a file is or was open.
    pub fn restore(&self, image: DiskImage) {
        let state = &mut *self.lock();
        let opened = |files: &BTreeMap<Inode, Blocks>| files.values().any(|file| file.opened > 0);
        assert!(!opened(&state.files) && !opened(&image.files), "a file is open");
        (state.files, state.names) = (image.files, image.names);
    }

    /// What stands in a directory, with its path: files, and directories that were made or that something stands in.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        self.lock().names.list(directory).ok_or_else(|| error(libc::ENOENT))
    }

    /// Makes a directory and those that it stands in.
    pub fn make_directory(&self, path: &Path) {
        self.lock().names.make_directory(path);
    }

    /// Removes a directory.
    ///
    /// # Errors
    /// There is no such directory, or something stands in it.
    pub fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        if !self.list(path)?.is_empty() {
            return Err(error(libc::ENOTEMPTY));
        }
        self.lock().names.remove_directory(path);
        Ok(())
    }

    /// Opens a file that is there.
    ///
    /// # Errors
    /// There is no such file.
    pub fn open(&self, path: &Path) -> io::Result<SimFile> {
        self.step()?;
        let mut state = self.lock();
        let inode = state.inode(path)?;
        Ok(self.opened(&mut state, inode))
    }

    /// Opens a file, making it if it is not there.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn open_or_make(&self, path: &Path) -> io::Result<SimFile> {
        self.step()?;
        let mut state = self.lock();
        state.check_directory(path)?;
        let inode = state.inode_or_new(path);
        Ok(self.opened(&mut state, inode))
    }

    fn opened(&self, state: &mut State, inode: Inode) -> SimFile {
        state.file(inode).opened += 1;
        SimFile { disk: self.clone(), inode }
    }

    /// The side that blocks fails (`EIO`) after so many operations more, and goes on failing: whoever uses it is
    /// interrupted at any moment.
    pub fn fail_after(&self, operations: Option<u64>) {
        self.lock().fuse = operations;
    }

    fn step(&self) -> io::Result<()> {
        match &mut self.lock().fuse {
            Some(0) => Err(error(libc::EIO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Syncs what is called how in a directory.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.step()?;
        self.list(directory)?;
        self.lock().names.sync(directory);
        Ok(())
    }

    /// Removes a name.
    ///
    /// # Errors
    /// There is no such file.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.lock().remove(path)
    }

    /// Gives a file another name, in place of what has it.
    ///
    /// # Errors
    /// There is no such file.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        self.lock().rename(from, to)
    }

    /// Changes bits of a byte, for good, as a disk does that nobody can trust.
    ///
    /// # Errors
    /// There is no such file, or it is not so long.
    pub fn flip(&self, path: &Path, offset: u64, bits: u8) -> io::Result<()> {
        let mut state = self.lock();
        let inode = state.inode(path)?;
        let file = state.files.get_mut(&inode).expect("a name of a file");
        if offset >= file.len() {
            return Err(error(libc::EINVAL));
        }
        file.flip(offset, bits);
        Ok(())
    }

    /// Bytes that files take.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    /// Bytes that there is room for.
    pub fn free_bytes(&self) -> u64 {
        let state = self.lock();
        state.faults.capacity_bytes.saturating_sub(state.used_bytes())
    }

    /// Blocks that a power cut may change.
    pub fn unsynced_blocks(&self) -> usize {
        self.lock().files.values().map(Blocks::unsynced).sum()
    }
}

/// What all files were at some moment.
#[derive(Clone)]
pub struct DiskImage {
    files: BTreeMap<Inode, Blocks>,
    names: Names,
}

/// An open file, for whoever blocks.
pub struct SimFile {
    disk: Disk,
    inode: Inode,
}

impl SimFile {
    /// How long it is, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.disk.lock().file(self.inode).len()
    }

    /// Reads as much as there is room for, or to its end; gives how many bytes.
    ///
    /// # Errors
    /// The side that blocks was made to fail.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.step()?;
        Ok(self.disk.lock().file(self.inode).read(offset, into))
    }

    /// Writes. Nothing is synced.
    ///
    /// # Errors
    /// The disk is full.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.step()?;
        let mut state = self.disk.lock();
        state.room_for(self.inode, offset + bytes.len() as u64)?;
        state.write_blocks(self.inode, offset, bytes);
        Ok(())
    }

    /// Makes it so long.
    ///
    /// # Errors
    /// The disk is full.
    pub fn set_file_bytes(&self, bytes: u64) -> io::Result<()> {
        self.disk.step()?;
        let mut state = self.disk.lock();
        state.room_for(self.inode, bytes)?;
        state.file(self.inode).set_len(bytes);
        Ok(())
    }

    /// What was written is on the disk at the end.
    ///
    /// # Errors
    /// The side that blocks was made to fail.
    pub fn sync(&self) -> io::Result<()> {
        self.disk.step()?;
        let mut state = self.disk.lock();
        let writes = state.writes;
        state.file(self.inode).sync(writes);
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.lock().close(self.inode);
    }
}

/// What transports do.
impl State {
    /// How long the next operation takes.
    pub(super) fn latency_ns(&mut self) -> u64 {
        let (usual, stalled) = (self.faults.latency_ns.clone(), self.faults.stall_ns.clone());
        let extra =
            if self.random.chance(self.faults.stall_chance) { self.random.within(stalled) } else { 0 };
        self.random.within(usual) + extra
    }

    /// What a sync that begins now covers.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    pub(super) fn open(&mut self, path: &Path, write: bool, direct: bool) -> io::Result<Inode> {
        if direct && !self.faults.has_direct {
            return Err(error(libc::EINVAL));
        }
        self.check_directory(path)?;
        let inode = if write { self.inode_or_new(path) } else { self.inode(path)? };
        self.file(inode).opened += 1;
        Ok(inode)
    }

    pub(super) fn close(&mut self, inode: Inode) {
        self.file(inode).opened -= 1;
        self.sweep();
    }

    pub(super) fn write(&mut self, inode: Inode, offset: u64, bytes: &[u8], sync: bool) -> io::Result<usize> {
        if self.random.chance(self.faults.write_error_chance) {
            self.write_some(inode, offset, bytes);
            return Err(error(libc::EIO));
        }
        if let Err(full) = self.room_for(inode, offset + bytes.len() as u64) {
            let room = self.file(inode).len().saturating_sub(offset).min(bytes.len() as u64);
            self.write_blocks(inode, offset, &bytes[..room as usize]);
            return Err(full);
        }
        if sync && self.random.chance(self.faults.sync_error_chance) {
            self.write_some(inode, offset, bytes);
            self.file(inode).give_up(offset, bytes.len() as u64);
            return Err(error(libc::EIO));
        }
        self.write_blocks(inode, offset, bytes);
        if sync {
            self.file(inode).sync_range(offset, bytes.len() as u64);
        }
        Ok(bytes.len())
    }

    /// What is left of a write whose writer is gone.
    pub(super) fn abandon_write(&mut self, inode: Inode, offset: u64, bytes: &[u8], sync: bool) {
        if self.room_for(inode, offset + bytes.len() as u64).is_err() {
            return;
        }
        if self.write_some(inode, offset, bytes) && sync && self.random.chance(500_000) {
            self.file(inode).sync_range(offset, bytes.len() as u64);
        }
    }

    pub(super) fn read(&mut self, inode: Inode, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.random.chance(self.faults.read_error_chance) {
            return Err(error(libc::EIO));
        }
        Ok(self.file(inode).read(offset, into))
    }

    /// Syncs what had been written when `writes` had ended.
    pub(super) fn sync(&mut self, inode: Inode, writes: u64) -> io::Result<()> {
        if self.random.chance(self.faults.sync_error_chance) {
            let len = self.file(inode).len();
            self.file(inode).give_up(0, len);
            return Err(error(libc::EIO));
        }
        self.file(inode).sync(writes);
        Ok(())
    }

    pub(super) fn allocate(&mut self, inode: Inode, bytes: u64) -> io::Result<()> {
        self.room_for(inode, bytes)?;
        let file = self.file(inode);
        if file.len() < bytes {
            file.set_len(bytes);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.inode(path)?;
        self.names.remove(path);
        self.sweep();
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.inode(from)?;
        self.names.rename(from, to);
        self.sweep();
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, directory: &Path) -> io::Result<()> {
        if self.random.chance(self.faults.sync_error_chance) {
            return Err(error(libc::EIO));
        }
        if self.names.list(directory).is_none() {
            return Err(error(libc::ENOENT));
        }
        self.names.sync(directory);
        Ok(())
    }

    pub(super) fn chance(&mut self, per_million: u32) -> bool {
        self.random.chance(per_million)
    }

    fn file(&mut self, inode: Inode) -> &mut Blocks {
        self.files.get_mut(&inode).expect("a file that is open or has a name")
    }

    /// Whether there is a directory that such a file could stand in.
    fn check_directory(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        self.names.list(parent).map(drop).ok_or_else(|| error(libc::ENOENT))
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        self.names.get(path).ok_or_else(|| error(libc::ENOENT))
    }

    fn inode_or_new(&mut self, path: &Path) -> Inode {
        if let Ok(inode) = self.inode(path) {
            return inode;
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.files.insert(inode, Blocks::default());
        self.names.link(path, inode);
        inode
    }

    fn room_for(&self, inode: Inode, bytes: u64) -> io::Result<()> {
        let (now, wanted) = (self.files[&inode].taken_bytes(), bytes.next_multiple_of(BLOCK_BYTES as u64));
        if wanted > now && self.used_bytes() + (wanted - now) > self.faults.capacity_bytes {
            return Err(error(libc::ENOSPC));
        }
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        let in_use = |(inode, file): &(&Inode, &Blocks)| file.opened > 0 || self.names.is_named(**inode);
        self.files.iter().filter(in_use).map(|(_, file)| file.taken_bytes()).sum()
    }

    fn write_blocks(&mut self, inode: Inode, offset: u64, bytes: &[u8]) {
        self.writes += 1;
        let serial = self.writes;
        self.file(inode).write(offset, bytes, serial);
    }

    /// Writes nothing, all, or a beginning; whether it was all.
    fn write_some(&mut self, inode: Inode, offset: u64, bytes: &[u8]) -> bool {
        let len = match self.random.below(3) {
            0 => return false,
            1 => bytes.len(),
            _ => self.random.below(bytes.len() + 1) / BLOCK_BYTES * BLOCK_BYTES,
        };
        self.write_blocks(inode, offset, &bytes[..len]);
        len == bytes.len()
    }

    /// Forgets files that nobody can come by any more.
    fn sweep(&mut self) {
        let names = &self.names;
        self.files.retain(|inode, file| file.opened > 0 || names.may_be_named(*inode));
    }
}
