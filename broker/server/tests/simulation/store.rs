//! The disk of a run with durable data, as recovery sees it, and what is going to happen to it.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use fulmar_journal::FlushMethod;
use fulmar_journal::disk::{Disk, DiskFile};
use fulmar_transport::AlignedBuf;
use fulmar_transport::sim::{self, DiskFaults, Network, Random};

/// Where the broker's files are.
pub const JOURNAL: &str = "/data/journal";

/// How the disk fails, from some moment of a run on until the broker is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Flushes fail.
    Flushes,
    /// Writes fail.
    Writes,
    /// It is full; later it is not.
    Full,
}

/// A run's disk.
pub struct Store {
    pub disk: sim::Disk,
    /// Times that the broker still ends without a word.
    pub ends_left: u32,
    /// That it does, at each step, per million.
    pub end_chance: u32,
    /// What goes wrong with the disk, if anything.
    pub trouble: Option<Trouble>,
    /// It is going wrong now.
    pub is_troubled: bool,
    /// That is, it is full.
    pub is_full: bool,
    /// A bit in some file changes while the broker is down.
    pub flips: bool,
    pub direct: bool,
    pub segment_bytes: u64,
    pub flush_method: FlushMethod,
}

/// A disk with which nothing is wrong; fast enough that something is answered before connections break.
fn usual(has_direct: bool) -> DiskFaults {
    DiskFaults {
        has_direct,
        latency_ns: 5_000..=100_000,
        stall_chance: 1_000,
        stall_ns: 500_000..=5_000_000,
        ..DiskFaults::none()
    }
}

impl Store {
    pub fn new(network: &Network, random: &mut Random) -> Self {
        let disk = network.disk();
        disk.make_directory(Path::new(JOURNAL));
        let direct = random.chance(700_000);
        disk.set_faults(usual(direct));
        let trouble = match random.below(8) {
            0 => Some(Trouble::Flushes),
            1 => Some(Trouble::Writes),
            2 => Some(Trouble::Full),
            _ => None,
        };
        Store {
            disk,
            ends_left: random.below(4) as u32,
            end_chance: 100 + random.below(1_000) as u32,
            trouble,
            is_troubled: false,
            is_full: false,
            flips: random.chance(200_000),
            direct,
            segment_bytes: [64, 96, 256][random.below(3)] * 1024,
            flush_method: match random.below(2) {
                0 => FlushMethod::SyncedWrite,
                _ => FlushMethod::WriteThenSync,
            },
        }
    }

    /// The disk as it is when nothing is wrong with it.
    pub fn heal(&mut self) {
        (self.is_troubled, self.is_full) = (false, false);
        self.disk.set_faults(usual(self.direct));
    }

    pub fn fail(&mut self, trouble: Trouble) {
        let faults = usual(self.direct);
        self.disk.set_faults(match trouble {
            Trouble::Flushes => DiskFaults { sync_error_chance: 1_000_000, ..faults },
            Trouble::Writes => DiskFaults { write_error_chance: 1_000_000, ..faults },
            Trouble::Full => DiskFaults { capacity_bytes: self.disk.used_bytes(), ..faults },
        });
        (self.is_troubled, self.is_full) = (true, trouble == Trouble::Full);
    }

    /// All files, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![PathBuf::from(JOURNAL)];
        while let Some(directory) = directories.pop() {
            for path in self.disk.list(&directory).expect("a directory") {
                match self.disk.list(&path) {
                    Ok(_) => directories.push(path),
                    Err(_) => found.push(path),
                }
            }
        }
        found.sort();
        found
    }
}

/// [`Disk`] on a simulated one.
#[derive(Clone)]
pub struct SimDisk(pub sim::Disk);

impl Disk for SimDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        let paths = self.0.list(directory)?;
        Ok(paths.into_iter().filter_map(|path| path.file_name().map(OsString::from)).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SimDiskFile(self.0.open(path)?)))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SimDiskFile(self.0.open_or_make(path)?)))
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.make_directory(path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.0.remove_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.sync_directory(path)
    }
}

struct SimDiskFile(sim::SimFile);

impl DiskFile for SimDiskFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.file_bytes())
    }

    fn read_at(&self, offset: u64, into: &mut AlignedBuf) -> io::Result<()> {
        into.resize(into.capacity());
        let read = self.0.read_at(offset, into);
        into.resize(*read.as_ref().unwrap_or(&0));
        read.map(drop)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.0.set_file_bytes(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
