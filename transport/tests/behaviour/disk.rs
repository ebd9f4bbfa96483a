//! What the simulated disk forgets, and what only it can show.

use std::collections::BTreeSet;
use std::path::Path;

use fulmar_transport::file::{FileDone, FileId, FileOperation, OpenOptions};
use fulmar_transport::sim::{BLOCK_BYTES, Disk, DiskFaults, Faults, Network, SECTOR_BYTES, SimTransport};
use fulmar_transport::{AlignedBuf, Config, Event, Transport, Wait};

use crate::files::buffer;

const SEEDS: u64 = 200;
const FILE: &str = "/data/file";

/// A process with one file.
struct Process {
    network: Network,
    transport: SimTransport,
    file: FileId,
}

impl Process {
    fn start(network: &Network) -> Self {
        network.disk().make_directory(Path::new("/data"));
        let mut process = Process {
            network: network.clone(),
            transport: network.transport(Config::default()),
            file: FileId(0),
        };
        let options = OpenOptions { write: true, direct: false };
        let done = process.perform(FileOperation::Open(FILE.into(), options));
        process.file = done.opened().expect("made");
        process
    }

    fn end_of(&mut self, token: u64) -> FileDone {
        let mut events = Vec::new();
        loop {
            self.transport.turn(Wait::Until(None), &mut events).expect("a turn");
            for event in events.drain(..) {
                if let Event::File(done) = event
                    && done.token == token
                {
                    return done;
                }
            }
            self.network.advance().expect("it ends");
        }
    }

    fn perform(&mut self, operation: FileOperation) -> FileDone {
        self.transport.file(1, operation);
        self.end_of(1)
    }

    fn write_operation(&self, block: u64, byte: u8, sync: bool) -> FileOperation {
        let offset = block * BLOCK_BYTES as u64;
        FileOperation::Write { file: self.file, offset, bytes: buffer(&[byte; BLOCK_BYTES]), sync }
    }

    fn write(&mut self, block: u64, byte: u8, sync: bool) -> FileDone {
        let operation = self.write_operation(block, byte, sync);
        self.perform(operation)
    }

    fn sync(&mut self) -> FileDone {
        self.perform(FileOperation::Sync(self.file))
    }

    fn sync_name(&mut self) {
        self.perform(FileOperation::SyncDirectory("/data".into())).result.expect("synced");
    }

    fn kill(self) -> Disk {
        self.network.disk()
    }

    fn power_cut(self) -> Disk {
        let disk = self.network.disk();
        drop(self);
        disk.power_cut();
        disk
    }
}

/// What is in a block of the file, sector by sector.
fn sectors(disk: &Disk, block: u64) -> Vec<u8> {
    let mut bytes = [255; BLOCK_BYTES];
    let file = disk.open(Path::new(FILE)).expect("there");
    let read = file.read_at(block * BLOCK_BYTES as u64, &mut bytes).expect("read");
    assert!(read == BLOCK_BYTES || read == 0);
    if read == 0 {
        return vec![255];
    }
    let same = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
    assert!(bytes.chunks(SECTOR_BYTES).all(same), "a sector is torn");
    bytes.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect()
}

fn all(byte: u8) -> Vec<u8> {
    vec![byte; BLOCK_BYTES / SECTOR_BYTES]
}

#[test]
fn a_process_that_ends_leaves_all_that_it_has_written() {
    for seed in 0..SEEDS {
        let mut process = Process::start(&Network::new(seed, Faults::none()));
        for block in 0..3 {
            process.write(block, 7, false).result.expect("written");
        }
        let disk = process.kill();
        assert!((0..3).all(|block| sectors(&disk, block) == all(7)));
    }
}

#[test]
fn what_is_under_way_when_a_process_ends_is_done_or_not() {
    let outcomes: BTreeSet<Vec<u8>> = (0..SEEDS)
        .map(|seed| {
            let mut process = Process::start(&Network::new(seed, Faults::none()));
            process.write(1, 1, false).result.expect("written");
            let bytes = buffer(&[7; 2 * BLOCK_BYTES]);
            process
                .transport
                .file(9, FileOperation::Write { file: process.file, offset: 0, bytes, sync: false });
            let disk = process.kill();
            vec![sectors(&disk, 0)[0], sectors(&disk, 1)[0]]
        })
        .collect();
    assert_eq!(outcomes, BTreeSet::from([vec![0, 1], vec![7, 1], vec![7, 7]]));
}

#[test]
fn a_power_cut_leaves_what_was_synced_and_any_of_the_rest() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut process = Process::start(&Network::new(seed, Faults::none()));
        process.sync_name();
        process.write(0, 1, false).result.expect("written");
        process.write(1, 1, false).result.expect("written");
        process.write(2, 1, true).result.expect("written and synced");
        process.sync().result.expect("synced");
        process.write(0, 2, false).result.expect("written");
        process.write(0, 3, false).result.expect("written");
        process.write(3, 9, false).result.expect("written");
        let disk = process.power_cut();
        assert_eq!([sectors(&disk, 1), sectors(&disk, 2)], [all(1), all(1)]);
        let left = sectors(&disk, 0);
        assert!(left.iter().all(|byte| [1, 2, 3].contains(byte)), "{left:?}");
        let is_whole = left.iter().all(|byte| *byte == left[0]);
        seen.insert((if is_whole { left[0] } else { 0 }, sectors(&disk, 3)[0]));
        assert_eq!(disk.unsynced_blocks(), 0);
        let before = sectors(&disk, 0);
        disk.power_cut();
        assert_eq!(sectors(&disk, 0), before, "what a power cut has left stays");
    }
    for version in [0, 1, 2, 3] {
        for grown in [0, 9, 255] {
            assert!(seen.contains(&(version, grown)), "never seen: {version}, {grown}: {seen:?}");
        }
    }
}

#[test]
fn a_synced_write_says_nothing_of_others() {
    let lost = (0..SEEDS).filter(|seed| {
        let mut process = Process::start(&Network::new(*seed, Faults::none()));
        process.sync_name();
        process.write(0, 1, false).result.expect("written");
        process.write(1, 1, true).result.expect("written and synced");
        let disk = process.power_cut();
        assert_eq!(sectors(&disk, 1), all(1));
        sectors(&disk, 0) != all(1)
    });
    assert!(lost.count() > 20);
}

#[test]
fn a_sync_covers_what_had_ended_when_it_began() {
    let lost = (0..SEEDS).filter(|seed| {
        let network = Network::new(*seed, Faults::none());
        let mut process = Process::start(&network);
        process.sync_name();
        process.write(0, 1, false).result.expect("written");
        process.write(1, 1, false).result.expect("written");
        network.disk().set_faults(DiskFaults { latency_ns: 1..=1_000, ..DiskFaults::none() });
        let late = process.write_operation(0, 2, false);
        process.transport.file(8, late);
        process.transport.file(9, FileOperation::Sync(process.file));
        process.end_of(9).result.expect("synced");
        while process.network.advance().is_some() {}
        let disk = process.power_cut();
        assert_eq!(sectors(&disk, 1), all(1));
        assert_ne!(sectors(&disk, 0), all(0));
        sectors(&disk, 0) != all(2)
    });
    assert!(lost.count() > 20);
}

#[test]
fn names_last_when_their_directory_was_synced() {
    let (mut made, mut renamed) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..SEEDS {
        let network = Network::new(seed, Faults::none());
        let mut process = Process::start(&network);
        process.write(0, 1, true).result.expect("written and synced");
        if seed % 2 == 0 {
            made.insert(process.power_cut().open(Path::new(FILE)).is_ok());
            continue;
        }
        process.sync_name();
        process.perform(FileOperation::Rename(FILE.into(), "/data/other".into())).result.expect("renamed");
        let disk = process.power_cut();
        let names = disk.list(Path::new("/data")).expect("the directory");
        assert_eq!(names.len(), 1, "renaming is done as a whole");
        renamed.insert(names[0].ends_with("other"));
        assert_eq!(disk.open(&names[0]).expect("it").file_bytes(), BLOCK_BYTES as u64);
    }
    assert_eq!((made.len(), renamed.len()), (2, 2), "kept and lost, old and new");
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_a_later_one() {
    let lost = (0..SEEDS).filter(|seed| {
        let network = Network::new(*seed, Faults::none());
        let mut process = Process::start(&network);
        process.sync_name();
        process.write(0, 1, false).result.expect("written");
        network.disk().set_faults(DiskFaults { sync_error_chance: 1_000_000, ..DiskFaults::none() });
        assert_eq!(process.sync().result.expect_err("it fails").raw_os_error(), Some(libc::EIO));
        assert_eq!(process.write(2, 1, true).result.expect_err("so").raw_os_error(), Some(libc::EIO));
        network.disk().set_faults(DiskFaults::none());
        process.write(1, 1, false).result.expect("written");
        process.sync().result.expect("synced");
        assert_eq!(sectors(&network.disk(), 0), all(1), "the process sees it");
        let disk = process.power_cut();
        assert_eq!(sectors(&disk, 1), all(1));
        sectors(&disk, 0) != all(1)
    });
    assert!(lost.count() > 20);
}

#[test]
fn a_full_disk_and_a_broken_one_say_so() {
    let network = Network::new(1, Faults::none());
    let mut process = Process::start(&network);
    let room = 3 * BLOCK_BYTES as u64;
    network.disk().set_faults(DiskFaults { capacity_bytes: room, ..DiskFaults::none() });
    process.write(0, 1, false).result.expect("written");
    let full = process.perform(FileOperation::Allocate(process.file, room + 1));
    assert_eq!(full.result.expect_err("no room").raw_os_error(), Some(libc::ENOSPC));
    process.perform(FileOperation::Allocate(process.file, room)).result.expect("room");
    assert_eq!((network.disk().used_bytes(), network.disk().free_bytes()), (room, 0));
    assert_eq!(process.write(3, 1, false).result.expect_err("no room").raw_os_error(), Some(libc::ENOSPC));
    process.write(2, 1, true).result.expect("in what is allocated");
    process.perform(FileOperation::Remove(FILE.into())).result.expect("removed");
    assert_eq!(network.disk().used_bytes(), room, "it is still open");
    process.perform(FileOperation::Close(process.file)).result.expect("closed");
    assert_eq!(network.disk().used_bytes(), 0);
    let faults =
        DiskFaults { write_error_chance: 1_000_000, read_error_chance: 1_000_000, ..DiskFaults::none() };
    let mut process = Process::start(&network);
    network.disk().set_faults(faults);
    assert_eq!(process.write(0, 1, false).result.expect_err("it fails").raw_os_error(), Some(libc::EIO));
    let (file, bytes) = (process.file, AlignedBuf::with_capacity(1));
    let read = process.perform(FileOperation::Read { file, offset: 0, bytes });
    assert_eq!(read.result.expect_err("it fails").raw_os_error(), Some(libc::EIO));
    network.disk().set_faults(DiskFaults { has_direct: false, ..DiskFaults::none() });
    let direct = OpenOptions { write: true, direct: true };
    let refused = process.perform(FileOperation::Open(FILE.into(), direct));
    assert!(fulmar_transport::file::is_direct_refused(refused.opened().expect_err("refused")));
}

#[test]
fn the_side_that_blocks_sees_the_same_files() {
    let disk = Network::new(3, Faults::none()).disk();
    let (old, new) = (Path::new("/data/a/old"), Path::new("/data/a/new"));
    assert!(disk.list(Path::new("/data")).is_err());
    disk.make_directory(Path::new("/data/a"));
    let file = disk.open_or_make(old).expect("made");
    file.write_at(10, b"some text").expect("room");
    file.sync().expect("synced");
    disk.rename(old, new).expect("there");
    disk.sync_directory(Path::new("/data/a")).expect("there");
    file.set_file_bytes(14).expect("room");
    file.sync().expect("synced");
    drop(file);
    let image = disk.image();
    disk.rename(new, old).expect("there");
    disk.flip(old, 10, 255).expect("there");
    disk.restore(image);
    disk.power_cut();
    assert_eq!(disk.list(Path::new("/data")).expect("there"), [Path::new("/data/a")]);
    assert_eq!(disk.list(Path::new("/data/a")).expect("there"), [new]);
    let file = disk.open(new).expect("there");
    assert_eq!(file.file_bytes(), 14);
    let mut text = [1; 20];
    assert_eq!(file.read_at(8, &mut text).expect("read"), 6);
    assert_eq!(&text[..6], b"\0\0some");
    file.set_file_bytes(100).expect("room");
    assert_eq!(file.read_at(10, &mut text).expect("read"), 20);
    assert_eq!(&text, b"some\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "what was cut off does not come back");
    disk.flip(new, 10, 1).expect("there");
    assert_eq!(file.read_at(10, &mut text[..1]).expect("read"), 1);
    assert_eq!(text[0], b's' ^ 1);
    disk.fail_after(Some(1));
    assert!(file.sync().is_ok());
    assert_eq!(file.write_at(0, b"x").expect_err("it fails").raw_os_error(), Some(libc::EIO));
    assert_eq!(disk.remove(new).expect_err("it fails").raw_os_error(), Some(libc::EIO));
    disk.fail_after(None);
    disk.remove(new).expect("there");
    assert!(disk.remove(new).is_err() && disk.open(new).is_err());
    drop(file);
    assert_eq!(disk.used_bytes(), 0);
    disk.remove_directory(Path::new("/data/a")).expect("empty");
    assert!(disk.list(Path::new("/data/a")).is_err());
}
