use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn entry(place: u64, position: u64) -> Entry {
    Entry {
        position: Position(position),
        place,
        count: 1,
        expires_ms: u64::MAX,
        counted_bytes: 256,
        ..Entry::default()
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A message or a batch joins, so many places behind the last one.
    Enqueue {
        gap: u64,
        count: u16,
        expires_ms: u64,
        priority: u8,
        counted_bytes: u32,
        redelivered: bool,
        is_shared: bool,
    },
    /// The record of what stands at an earlier place is written again.
    Rewrite {
        place: u64,
    },
    Dequeue {
        first: u64,
        count: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let expiry = prop_oneof![4 => Just(u64::MAX), 1 => any::<u64>()];
    let bytes = prop_oneof![4 => Just(256u32), 1 => any::<u32>()];
    let gap = prop_oneof![8 => Just(0u64), 1 => 0u64..5, 1 => 0u64..(1 << 50)];
    let count = prop_oneof![3 => Just(1u16), 1 => 1u16..40];
    prop_oneof![
        6 => (gap, count, expiry, 0u8..10, bytes, any::<bool>(), any::<bool>()).prop_map(
            |(gap, count, expires_ms, priority, counted_bytes, redelivered, is_shared)| Step::Enqueue {
                gap, count, expires_ms, priority, counted_bytes, redelivered, is_shared
            }
        ),
        2 => any::<u64>().prop_map(|place| Step::Rewrite { place }),
        2 => (0u64..300, 0u64..40).prop_map(|(first, count)| Step::Dequeue { first, count }),
        1 => (any::<u64>(), 0u64..40).prop_map(|(first, count)| Step::Dequeue { first, count }),
    ]
}

proptest! {
    #[test]
    fn what_stands_is_what_was_enqueued_and_not_dequeued(
        steps in proptest::collection::vec(step(), 1..150),
        compact_at in 0usize..150,
    ) {
        let mut places = Places::default();
        let mut model: BTreeMap<u64, Entry> = BTreeMap::new();
        let mut dequeued = BTreeSet::new();
        let (mut next, mut position) = (0u64, 0u64);
        for (index, step) in steps.into_iter().enumerate() {
            position += 16 * (1 + (index as u64 * 7919) % 50);
            match step {
                Step::Enqueue { gap, count, expires_ms, priority, counted_bytes, redelivered, is_shared } => {
                    let place = next + gap;
                    next = place + u64::from(count);
                    let entry = Entry {
                        position: Position(position), place, count, expires_ms, priority, counted_bytes, redelivered, is_shared, part: 0
                    };
                    places.enqueued(entry);
                    model.extend((0..u64::from(count)).map(|i| (place + i, Entry { place: place + i, part: i as u16, count: 1, ..entry })));
                }
                Step::Rewrite { place } => {
                    let known = model.range(place % (next + 1)..).next().map(|(_, entry)| *entry);
                    if let Some(known) = known {
                        let entry = Entry { position: Position(position), ..known };
                        places.enqueued(entry);
                        model.insert(entry.place, entry);
                    }
                }
                Step::Dequeue { first, count } => {
                    let first = if first > 300 { first % (next + 1) } else { first };
                    places.dequeued(first, count);
                    dequeued.extend(first..first + count);
                }
            }
            if index == compact_at {
                places.compact();
            }
        }
        model.retain(|place, _| !dequeued.contains(place));
        prop_assert_eq!(places.live().collect::<Vec<_>>(), model.into_values().collect::<Vec<_>>());
    }
}

#[test]
fn a_dequeue_counts_whenever_it_was_recorded() {
    let mut places = Places::default();
    places.dequeued(5, 1);
    places.enqueued(entry(4, 100));
    places.enqueued(entry(5, 200));
    assert_eq!(places.live().collect::<Vec<_>>(), [entry(4, 100)]);
}

#[test]
fn messages_alike_take_few_bytes_each() {
    let mut places = Places::default();
    (0..100_000).for_each(|place| places.enqueued(entry(place, 4096 + 352 * place)));
    assert!(places.memory_bytes() < 200_000, "{}", places.memory_bytes());
    // Batches begin at other distances; sizes differ.
    let mut places = Places::default();
    for place in 0..100_000 {
        let size = 200 + (place * 7919 % 100) as u32;
        places.enqueued(Entry { counted_bytes: size, ..entry(place, 4096 + 500 * place + place % 16 * 16) });
    }
    assert!(places.memory_bytes() < 700_000, "{}", places.memory_bytes());
}

#[test]
fn copies_between_new_messages_make_few_runs() {
    let mut places = Places::default();
    (0..1000).for_each(|place| places.enqueued(entry(place, 16 * place)));
    for place in 0..1000 {
        places.enqueued(entry(place, (1 << 20) + 32 * place));
        places.enqueued(entry(1000 + place, (1 << 20) + 32 * place + 16));
    }
    assert_eq!(places.runs.len(), 2);
    assert_eq!(places.live().count(), 2000);
    assert_eq!(places.live().next(), Some(entry(0, 1 << 20)));
}

#[test]
fn a_long_queue_that_is_consumed_keeps_little() {
    let mut places = Places::default();
    for place in 0..1_000_000 {
        places.enqueued(entry(place, 352 * place + place % 7));
        if place >= 1000 {
            places.dequeued(place - 1000, 1);
        }
    }
    assert!(places.memory_bytes() < 1_000_000, "{}", places.memory_bytes());
    assert_eq!(places.live().count(), 1000);
}
