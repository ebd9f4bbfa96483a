use proptest::prelude::*;

use super::*;
use crate::check::check;
use crate::recovery::tests::memory::MemoryDisk;
use crate::recovery::tests::model::{JOURNAL, Model, STORE, World, encodings, model_of, steps, try_recover};

fn options(encodings: &Encodings) -> Options<'_> {
    Options {
        journal: Path::new(JOURNAL),
        shards: 2,
        encodings,
        new_store: STORE,
        threads: 1,
        segment_bytes: 1 << 20,
        progress: &|_| {},
    }
}

/// Everything that stands there was written.
fn is_part_of(model: &Model, whole: &Model) -> bool {
    model.iter().all(|(queue, places)| {
        places.iter().all(|(place, found)| {
            whole[queue].get(place).is_none_or(|written| {
                written.body == found.body && written.counted_bytes == found.counted_bytes
            })
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_repaired_directory_is_sound_and_copies_are_kept(
        steps in steps(150),
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 1usize..3000), 1..4),
        segment_bytes in prop_oneof![Just(8192u64), Just(1 << 20)],
        how in prop_oneof![Just(How::Skip), Just(How::CutOff)],
        stops in proptest::collection::vec(0u64..60, 0..3),
    ) {
        let disk = MemoryDisk::default();
        let mut world = World::new(&disk, 2, segment_bytes, 1000);
        world.run(&steps);
        let whole = world.finish();
        let before = disk.files();
        let paths: Vec<&PathBuf> = before.keys().collect();
        for (file, at, length) in hits {
            disk.edit(paths[file.index(paths.len())], |bytes| {
                let from = at as usize % bytes.len();
                let to = (from + length).min(bytes.len());
                bytes[from..to].fill(0x5a);
            });
        }
        let hit = disk.files();
        let encodings = encodings();
        let options = options(&encodings);
        for stop in stops {
            disk.stop_after(Some(stop));
            let _ = repair(&disk, &options, how);
        }
        disk.stop_after(None);
        let was_version = matches!(check(&disk, &options), Err(RecoveryError::Version { .. }));
        prop_assume!(!was_version);
        let damage = check(&disk, &options).unwrap().logs.iter().map(|log| log.damage.len()).sum::<usize>();
        let repaired = repair(&disk, &options, how).unwrap();
        prop_assert_eq!(damage > 0, repaired.kept.is_some());
        prop_assert!(repaired.damage.len() >= damage);
        let report = check(&disk, &options).unwrap();
        prop_assert!(report.logs.iter().all(|log| log.damage.is_empty()), "{report:?}");
        // The topology may be lost with its record.
        if report.is_sound() {
            let recovered = try_recover(&disk, 2, 1).unwrap();
            prop_assert!(is_part_of(&model_of(&disk, &recovered), &whole));
        }
        // Each file that was changed is there as it was.
        let after = disk.files();
        for (path, bytes) in &hit {
            let is_kept = |(copy, kept): (&PathBuf, &Vec<u8>)| {
                copy.starts_with(JOURNAL) && copy.file_name() == path.file_name() && kept == bytes
            };
            prop_assert!(after.iter().any(is_kept), "{}", path.display());
        }
        prop_assert_eq!(repair(&disk, &options, how).unwrap(), Repaired::default());
    }
}

/// Two segments in one log; a record in the middle of the first one is damaged.
fn damaged() -> (MemoryDisk, Model) {
    use crate::recovery::tests::model::Step;
    let disk = MemoryDisk::default();
    let mut world = World::new(&disk, 1, 20_000, 1000);
    let enqueue = Step::Enqueue { queues: vec![0], messages: 1, priority: 0, expires_ms: 1 };
    world.run(&vec![enqueue; 60]);
    let model = world.finish();
    let first = Path::new(JOURNAL).join("0/0000000000000001.log");
    disk.edit(&first, |bytes| bytes[12_288 + 100] ^= 1);
    (disk, model)
}

#[test]
fn skipping_loses_the_damaged_batch_alone_and_cutting_off_all_behind_it() {
    let encodings = encodings();
    let options = Options { shards: 1, ..options(&encodings) };
    let places = |how| {
        let (disk, model) = damaged();
        let repaired = repair(&disk, &options, how).unwrap();
        let recovered = try_recover(&disk, 1, 1).unwrap();
        let found = model_of(&disk, &recovered);
        assert!(is_part_of(&found, &model));
        (found[&0].keys().copied().collect::<Vec<u64>>(), repaired)
    };
    let (skipped, repaired) = places(How::Skip);
    assert_eq!((repaired.segments_cut, repaired.records_cut, repaired.damage.len()), (0, 0, 1));
    let lost: Vec<u64> = (0..60).filter(|place| !skipped.contains(place)).collect();
    assert!((1..8).contains(&lost.len()) && lost.windows(2).all(|two| two[0] + 1 == two[1]), "{lost:?}");
    let (cut, repaired) = places(How::CutOff);
    assert_eq!(cut, (0..lost[0]).collect::<Vec<u64>>());
    assert!(repaired.segments_cut > 0 && repaired.records_cut > 0, "{repaired:?}");
    assert_eq!(repaired.kept, Some(Path::new(JOURNAL).join("repaired-1")));
}
