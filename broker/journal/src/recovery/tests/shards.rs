//! Other numbers of shards than before.

use std::collections::BTreeMap;
use std::path::Path;

use fulmar_core::ShardId;
use fulmar_core::journal::{
    Decision, Joined, PreparedBranch, QueuePlace, Record, Step, StoreKey, TransactionKey,
};
use fulmar_core::request::QueueOptions;
use fulmar_core::topology::StoredChange;
use fulmar_core::transaction::Xid;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::memory::MemoryDisk;
use super::model::{JOURNAL, Model, World, message, model_of, steps, try_recover};
use crate::recovery::identity::Identity;
use crate::recovery::{Recovered, log_directory};
use crate::transaction::DecodedStep;

/// Where queues are at home.
fn homes(recovered: &Recovered) -> BTreeMap<u64, u8> {
    let home = |change: &StoredChange| match change {
        StoredChange::QueueDeclared { key, home, .. } => Some((key.0, *home)),
        _ => None,
    };
    recovered.topology.iter().filter_map(home).collect()
}

fn check(disk: &MemoryDisk, shards: u16, expected: &Model) {
    let recovered = try_recover(disk, shards, 2).unwrap();
    assert_eq!(model_of(disk, &recovered), *expected);
    assert_eq!(recovered.logs.len(), usize::from(shards));
    assert!(homes(&recovered).values().all(|home| u16::from(*home) < shards));
    let logs = disk.files().into_keys().filter(|path| path.extension().is_some()).collect::<Vec<_>>();
    let is_of = |shard: u16| {
        move |path: &&std::path::PathBuf| path.starts_with(log_directory(Path::new(JOURNAL), shard))
    };
    let kept: usize = (0..shards).map(|shard| logs.iter().filter(is_of(shard)).count()).sum();
    assert_eq!(kept, logs.len(), "logs of shards that are gone are gone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_is_lost_or_doubled_by_another_number_of_shards(
        steps in steps(120),
        numbers in proptest::collection::vec(1u16..6, 1..5),
        shards in 1u16..5,
        segment_bytes in prop_oneof![Just(8192u64), Just(1 << 20)],
    ) {
        let disk = MemoryDisk::default();
        let mut world = World::new(&disk, shards, segment_bytes, 2000);
        world.run(&steps);
        let expected = world.finish();
        for shards in numbers {
            check(&disk, shards, &expected);
        }
    }

    #[test]
    fn it_may_stop_at_any_moment(
        steps in steps(60),
        (shards, fewer, then) in (2u16..5, 1u16..4, 1u16..5),
        stops in proptest::collection::vec(any::<u16>(), 1..4),
    ) {
        let disk = MemoryDisk::default();
        let mut world = World::new(&disk, shards, 8192, 2000);
        world.run(&steps);
        let expected = world.finish();
        for stop in stops {
            disk.stop_after(Some(u64::from(stop % 40)));
            let _ = try_recover(&disk, fewer, 1);
        }
        disk.stop_after(None);
        check(&disk, then, &expected);
    }
}

#[test]
fn every_stop_of_one_move_is_harmless() {
    let build = || {
        let disk = MemoryDisk::default();
        let mut world = World::new(&disk, 3, 8192, 2000);
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let steps = steps(150).new_tree(&mut runner).unwrap().current();
        world.run(&steps);
        (world.finish(), disk)
    };
    let (expected, whole) = build();
    let mut stops = 0;
    loop {
        let disk = whole.copy();
        disk.stop_after(Some(stops));
        let is_done = try_recover(&disk, 1, 1).is_ok();
        disk.stop_after(None);
        // The same again, or as it was before.
        check(&disk.copy(), 1, &expected);
        check(&disk, 3, &expected);
        if is_done {
            break;
        }
        stops += 1;
    }
    assert!(stops > 20, "{stops}");
}

#[test]
fn more_shards_leave_queues_where_they_are() {
    let disk = MemoryDisk::default();
    let world = World::new(&disk, 2, 8192, 2000);
    let expected = world.finish();
    let before = homes(&try_recover(&disk, 2, 1).unwrap());
    check(&disk, 4, &expected);
    assert_eq!(homes(&try_recover(&disk, 4, 1).unwrap()), before);
}

#[test]
fn transactions_move_with_their_shard() {
    let disk = MemoryDisk::default();
    let mut world = World::new(&disk, 3, 8192, 2000);
    let transaction = TransactionKey { shard: ShardId(2), run: 1, number: 9 };
    let xid = Xid { format: 1, global_id: "g".into(), branch_id: "b".into() };
    let homes = [ShardId(0), ShardId(2)];
    let branch = PreparedBranch { vhost: b"/", xid: &xid, homes: &homes, timeout_s: 5 };
    let decision = Decision { commit: true, by_operator: false };
    let prepared = Step::Prepared { publishes: &[], settlements: &[] };
    for step in [prepared, Step::Branch(branch), Step::Decided(decision)] {
        world.writers[2].append(&Record::Transaction { transaction, step }, Joined::No).unwrap();
    }
    world.finish();
    let recovered = try_recover(&disk, 2, 1).unwrap();
    let steps = &recovered.logs[0].transactions[&transaction];
    assert_eq!((steps.part.len(), steps.whole.len()), (1, 2));
    let (key, step) = steps.whole[0].decode();
    assert_eq!(key, transaction);
    let DecodedStep::Branch { homes, .. } = step else { panic!("{step:?}") };
    assert_eq!(homes, [ShardId(0)]);
}

#[test]
fn a_move_that_was_begun_is_ended_whatever_is_asked_for_next() {
    // Stopped a little later each time, until the move has begun.
    let stopped = (1..100).find_map(|changes| {
        let disk = MemoryDisk::default();
        let mut world = World::new(&disk, 4, 8192, 2000);
        world.run(&[super::model::Step::Enqueue {
            queues: vec![3],
            messages: 2,
            priority: 0,
            expires_ms: 9,
        }]);
        let expected = world.finish();
        disk.stop_after(Some(changes));
        try_recover(&disk, 2, 1).unwrap_err();
        disk.stop_after(None);
        let identity = Identity::read(&disk, Path::new(JOURNAL)).unwrap();
        let has_begun = identity.is_some_and(|identity| (identity.shards, identity.moving) == (2, Some(4)));
        has_begun.then_some((disk, expected))
    });
    let (disk, expected) = stopped.expect("it begins before it ends");
    let recovered = try_recover(&disk, 4, 1).unwrap();
    assert_eq!(model_of(&disk, &recovered), expected);
    assert_eq!(homes(&recovered)[&3], 1);
}

#[test]
fn what_a_deleted_queue_left_moves_with_its_shard_until_it_has_arrived() {
    for has_arrived in [false, true] {
        let disk = MemoryDisk::default();
        let mut world = World::new(&disk, 3, 8192, 2000);
        let (key, vhost, name) = (StoreKey(100), "/".into(), "left".into());
        let options = QueueOptions { durable: true, alternate: Some("a".into()), ..QueueOptions::default() };
        let options = Box::new(options);
        let declared = StoredChange::QueueDeclared { key, vhost, name, home: 2, options };
        let mut changes = vec![declared, StoredChange::QueueDeleted { key }];
        changes.extend(has_arrived.then_some(StoredChange::QueueLeft { key }));
        world.writers[0].append(&Record::Changed(&changes), Joined::No).unwrap();
        let place = QueuePlace {
            queue: key,
            place: 1,
            expires_ms: u64::MAX,
            priority: 0,
            counted_bytes: 1,
            redelivered: false,
        };
        let enqueued = Record::Enqueued { message: message(b"m", 1), places: &[place] };
        world.writers[2].append(&enqueued, Joined::No).unwrap();
        world.finish();
        let recovered = try_recover(&disk, 2, 1).unwrap();
        let is_there = |log: &crate::recovery::RecoveredLog| log.queues.iter().any(|queue| queue.key == key);
        let found: Vec<bool> = recovered.logs.iter().map(is_there).collect();
        assert_eq!(found, [!has_arrived, false]);
    }
}
