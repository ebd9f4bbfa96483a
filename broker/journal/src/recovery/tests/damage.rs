//! Logs that are cut off, changed or mixed up.

use std::path::{Path, PathBuf};

use fulmar_core::journal::{Joined, Record, StoreKey};

use super::memory::MemoryDisk;
use super::model::{JOURNAL, Model, Step, World, model_of, options, try_recover};
use crate::header::{BLOCK_BYTES, SegmentHeader, StoreId};
use crate::recovery::files::LogFiles;
use crate::recovery::write::LogWriter;
use crate::recovery::{RecoveryError, What, log_directory};
use crate::start::file_name;

const LARGE: u64 = 1 << 20;

fn directory() -> PathBuf {
    log_directory(Path::new(JOURNAL), 0)
}

fn segment(number: u64) -> PathBuf {
    directory().join(file_name(number))
}

fn enqueue(queue: u64, messages: u16) -> Step {
    Step::Enqueue { queues: vec![queue], messages, priority: 4, expires_ms: u64::MAX }
}

/// Steps that end in a batch of several kinds of records.
fn steps() -> (Vec<Step>, Vec<Step>) {
    let first = vec![enqueue(0, 1), enqueue(1, 3), Step::Dequeue { queue: 1, at: 1, count: 1 }, Step::Flush];
    let last = vec![
        enqueue(0, 2),
        Step::HandOut { queue: 0, at: 2 },
        Step::Dequeue { queue: 0, at: 0, count: 1 },
        enqueue(2, 1),
        Step::Copy { queue: 1, at: 2 },
        Step::Dequeue { queue: 0, at: 2, count: 1 },
    ];
    (first, last)
}

/// A log with those steps, a group of two records behind them.
fn write(disk: &MemoryDisk, first: &[Step], last: &[Step], with_group: bool) -> Model {
    let mut world = World::new(disk, 1, LARGE, 1 << 16);
    world.run(first);
    world.run(last);
    if with_group {
        world.run(&[Step::Group(2), enqueue(3, 1), enqueue(4, 1)]);
    }
    world.finish()
}

/// What a log may come to whose last batch is not whole.
fn prefixes() -> Vec<Model> {
    let (first, last) = steps();
    let some = (0..=last.len()).map(|count| write(&MemoryDisk::default(), &first, &last[..count], false));
    some.chain([write(&MemoryDisk::default(), &first, &last, true)]).collect()
}

fn written() -> (MemoryDisk, Vec<u8>) {
    let (disk, (first, last)) = (MemoryDisk::default(), steps());
    write(&disk, &first, &last, true);
    let bytes = disk.files()[&segment(1)].clone();
    (disk, bytes)
}

/// Where the last batch begins: the second one, behind one of two blocks.
const LAST_BATCH: usize = 3 * BLOCK_BYTES;

#[test]
fn what_was_written_last_is_written_again() {
    let (disk, bytes) = written();
    disk.take_writes();
    try_recover(&disk, 1, 1).unwrap();
    let writes = disk.take_writes();
    let again = writes.iter().find(|write| write.0 == LAST_BATCH as u64).expect("its flush may have failed");
    assert!((LAST_BATCH + again.1).next_multiple_of(BLOCK_BYTES) == bytes.len(), "{writes:?}");

    let (disk, (first, _)) = (MemoryDisk::default(), steps());
    write(&disk, &first, &[], false);
    let bytes = disk.files()[&segment(1)].len();
    disk.take_writes();
    try_recover(&disk, 1, 1).unwrap();
    let writes = disk.take_writes();
    let again = writes.iter().find(|write| write.0 == 0).expect("the first batch goes with the header");
    assert!(again.1 > BLOCK_BYTES && again.1 <= bytes, "{writes:?}");
}

#[test]
fn a_log_cut_off_in_its_last_batch_keeps_what_came_before() {
    let (disk, bytes) = written();
    let prefixes = prefixes();
    let mut seen = 0;
    for cut in LAST_BATCH..bytes.len() {
        for zeros in [false, true] {
            disk.edit(&segment(1), |file| {
                file.clone_from(&bytes);
                file.truncate(cut);
                if zeros {
                    file.resize(bytes.len() + BLOCK_BYTES, 0);
                }
            });
            let recovered = try_recover(&disk.copy(), 1, 1).unwrap_or_else(|error| panic!("{cut}: {error}"));
            let model = model_of(&disk, &recovered);
            let found = prefixes.iter().position(|prefix| *prefix == model);
            let found = found.unwrap_or_else(|| panic!("cut at {cut}: {model:?}"));
            if zeros {
                assert!(found >= seen, "cut at {cut}");
                seen = found;
            }
            let end = recovered.logs[0].start.previous.unwrap().1;
            assert!(zeros || end <= cut as u64);
        }
    }
    assert_eq!(seen, prefixes.len() - 1);
}

#[test]
fn a_changed_bit_is_torn_or_named_or_means_nothing() {
    let (disk, bytes) = written();
    let prefixes = prefixes();
    let whole = prefixes.last().unwrap();
    let (mut named, mut torn) = (0, 0);
    // Of the large record of the topology some bits do.
    let is_chosen = |bit: usize| !(4200..8000).contains(&(bit / 8)) || bit.is_multiple_of(41);
    let used = |at: usize| at.is_multiple_of(97) || bytes[at..].iter().take(24).any(|byte| *byte != 0);
    for bit in (0..bytes.len() * 8).filter(|bit| used(bit / 8) && is_chosen(*bit)) {
        disk.edit(&segment(1), |file| file[bit / 8] ^= 1 << (bit % 8));
        let result = try_recover(&disk.copy(), 1, 1);
        let is_last = bit / 8 >= LAST_BATCH;
        match result {
            Err(error) => {
                assert!(error.to_string().contains(&file_name(1)), "bit {bit}: {error}");
                assert!(!is_last, "bit {bit}: {error}");
                named += 1;
            }
            Ok(recovered) => {
                let model = model_of(&disk, &recovered);
                if model != *whole {
                    assert!(is_last && prefixes.contains(&model), "bit {bit}: {model:?}");
                    torn += 1;
                }
            }
        }
        disk.edit(&segment(1), |file| file[bit / 8] ^= 1 << (bit % 8));
    }
    assert!(named > 1000 && torn > 3000, "{named} {torn}");
}

#[test]
fn damage_is_named_by_file_and_offset_and_says_where_records_go_on() {
    let (disk, _) = written();
    disk.edit(&segment(1), |file| file[BLOCK_BYTES + 100] ^= 1);
    let error = try_recover(&disk, 1, 1).unwrap_err();
    let RecoveryError::Damaged(damage) = &error else { panic!("{error}") };
    let [damage] = &damage[..] else { panic!("{error}") };
    assert_eq!(damage.path, segment(1));
    let What::Records(gap) = damage.what else { panic!("{error}") };
    assert_eq!((gap.from, gap.to), (BLOCK_BYTES as u64 + 48, Some(LAST_BATCH as u64)));
    let text = error.to_string();
    for words in
        ["0000000000000001.log: damaged at byte 4144: the CRC-32C", "at byte 12288", "fulmar store repair"]
    {
        assert!(text.contains(words), "{text}");
    }
}

/// Two runs: the first was cut off in its second batch, the second one went on with another segment.
fn two_runs(second_run: u32) -> MemoryDisk {
    let (disk, _) = written();
    let bytes = disk.files()[&segment(1)].len();
    disk.edit(&segment(1), |file| file[LAST_BATCH + 200..].fill(0xee));
    let recovered = try_recover(&disk.copy(), 1, 1).unwrap();
    let start = &recovered.logs[0].start;
    assert!(recovered.torn.len() == 1 && bytes > LAST_BATCH);
    let mut options = options(directory(), 0, 1, LARGE, 1 << 16);
    options.run = second_run;
    options.segment = start.next_segment;
    options.previous = start.previous;
    options.batch = start.next_batch;
    let mut writer = LogWriter::new(&disk, options).unwrap();
    let record = Record::Dequeued { queue: StoreKey(1), first: 0, count: 1 };
    writer.append(&record, Joined::No).unwrap();
    writer.finish().unwrap();
    disk
}

#[test]
fn what_a_run_found_torn_stays_out_of_the_log() {
    let disk = two_runs(2);
    let recovered = try_recover(&disk, 1, 1).unwrap();
    assert!(recovered.torn.is_empty());
    let mut expected = prefixes()[1].clone();
    expected.get_mut(&1).unwrap().remove(&0);
    assert_eq!(model_of(&disk, &recovered), expected);
    assert_eq!(recovered.run, 3);
    // What was stored before must be there all the same.
    disk.edit(&segment(1), |file| file[LAST_BATCH + 60] ^= 1);
    let error = try_recover(&disk, 1, 1).unwrap_err();
    assert!(error.to_string().contains("byte 12336"), "{error}");
}

#[test]
fn a_batch_that_is_not_whole_before_others_of_its_run_is_damage() {
    // The segment between is gone.
    for (run, is_damage) in [(1, true), (2, false)] {
        let disk = two_runs(run);
        disk.edit(&segment(2), |file| {
            let mut header = SegmentHeader::decode(file).unwrap();
            header.previous = 7;
            header.encode(&mut file[..BLOCK_BYTES]);
        });
        let result = try_recover(&disk, 1, 1);
        assert_eq!(result.is_err(), is_damage, "{result:?}");
    }
}

#[test]
fn a_file_without_a_header_is_damage_only_if_it_has_records() {
    let (disk, bytes) = written();
    disk.edit(&segment(1), |file| file[..BLOCK_BYTES].fill(0));
    let text = try_recover(&disk, 1, 1).unwrap_err().to_string();
    assert!(text.contains("there are records behind"), "{text}");
    // The first batch comes with the header, in one write that may be torn.
    disk.edit(&segment(1), |file| file[LAST_BATCH..].fill(0));
    let recovered = try_recover(&disk, 1, 1).unwrap();
    assert_eq!(recovered.logs[0].start.unused, [(segment(1), bytes.len() as u64)]);
    assert_eq!(recovered.logs[0].start.next_segment, 2);
}

#[test]
fn a_segment_that_others_follow_was_there() {
    let disk = two_runs(2);
    disk.edit(&segment(1), |file| file.fill(0));
    let text = try_recover(&disk, 1, 1).unwrap_err().to_string();
    assert!(text.contains("0000000000000001.log: it does not begin with a segment's header"), "{text}");
    let mut header = SegmentHeader::decode(&disk.files()[&segment(2)]).unwrap();
    header.segment = 77;
    disk.edit(&segment(1), |file| {
        header.encode(&mut file[..BLOCK_BYTES]);
    });
    assert!(try_recover(&disk, 1, 1).is_err());
}

#[test]
fn what_a_file_held_before_does_not_count() {
    let (disk, bytes) = written();
    let other = segment(5);
    crate::disk::Disk::open_writable(&disk, &other).unwrap();
    disk.edit(&other, |file| *file = bytes.clone());
    let recovered = try_recover(&disk, 1, 1).unwrap();
    let start = &recovered.logs[0].start;
    assert_eq!(start.unused, [(other, bytes.len() as u64)]);
    assert_eq!((start.next_segment, start.segments.len()), (6, 1));
    assert_eq!(model_of(&disk, &recovered), *prefixes().last().unwrap());
}

#[test]
fn files_of_others_are_refused() {
    let change = |edit: &dyn Fn(&mut SegmentHeader)| {
        let (disk, _) = written();
        try_recover(&disk, 1, 1).unwrap();
        disk.edit(&segment(1), |file| {
            let mut header = SegmentHeader::decode(file).unwrap();
            edit(&mut header);
            header.encode(&mut file[..BLOCK_BYTES]);
        });
        try_recover(&disk, 1, 1).unwrap_err().to_string()
    };
    let text = change(&|header| header.store = StoreId([9; 16]));
    assert!(text.contains("belongs to another data directory: its store is 0909"), "{text}");
    assert!(text.contains("journal/store says 0707"), "{text}");
    let text = change(&|header| header.shard = 3);
    assert!(text.contains("belongs to shard 3, not to shard 0"), "{text}");
    let text = change(&|header| header.encodings = vec![b"klingon".to_vec()]);
    assert!(text.contains("the encoding \"klingon\""), "{text}");

    let (disk, _) = written();
    disk.edit(&segment(1), |file| file[8] = 2);
    let text = try_recover(&disk, 1, 1).unwrap_err().to_string();
    assert!(
        text.contains("is written in version 2 of the format, and this program knows version 1"),
        "{text}"
    );
}

#[test]
fn a_length_that_was_changed_does_not_make_a_log_longer() {
    let (disk, bytes) = written();
    disk.edit(&segment(1), |file| file[LAST_BATCH + 4..LAST_BATCH + 8].fill(0xff));
    let recovered = try_recover(&disk, 1, 1).unwrap();
    assert_eq!(model_of(&disk, &recovered), prefixes()[0]);
    let files = LogFiles::find(&disk, &directory()).unwrap();
    assert_eq!(files.wanted_bytes(), (bytes.len() - BLOCK_BYTES) as u64);
}
