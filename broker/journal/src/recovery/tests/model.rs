//! Random logs, and what they should come to.

use std::collections::BTreeMap;
use std::path::Path;

use fulmar_core::journal::{Joined, QueuePlace, Record, StoreKey, StoredMessage};
use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::request::QueueOptions;
use fulmar_core::topology::StoredChange;
use fulmar_core::{Encoding, Table, Value};
use proptest::prelude::*;

use super::memory::MemoryDisk;
use crate::encodings::Encodings;
use crate::header::StoreId;
use crate::position;
use crate::record::{Decoded, Framed};
use crate::recovery::write::{LogWriter, WriteOptions};
use crate::recovery::{Options, Recovered, RecoveryError, log_directory, recover};
use crate::start::file_name;

pub struct Plain;

impl Encoding for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }
    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }
    fn headers(&self, _: &[u8]) -> Table {
        Table::default()
    }
    fn scalar<'a>(&self, _: &'a [u8], _: &[u8]) -> Option<Scalar<'a>> {
        None
    }
    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }
    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

pub static PLAIN: Plain = Plain;

pub const STORE: StoreId = StoreId([7; 16]);
pub const JOURNAL: &str = "journal";

pub fn encodings() -> Encodings {
    Encodings::new(&[&PLAIN])
}

/// Bytes of one body.
const BODY_BYTES: usize = 20;

/// What stands at a place of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub body: [u8; BODY_BYTES],
    pub expires_ms: u64,
    pub priority: u8,
    pub counted_bytes: u32,
    pub redelivered: bool,
}

/// Queues by key, what stands in them by place.
pub type Model = BTreeMap<u64, BTreeMap<u64, Standing>>;

#[derive(Clone, Debug)]
pub enum Step {
    /// So many messages join queues.
    Enqueue {
        queues: Vec<u64>,
        messages: u16,
        priority: u8,
        expires_ms: u64,
    },
    /// Messages leave: where in the queue, how many.
    Dequeue {
        queue: u64,
        at: u64,
        count: u64,
    },
    HandOut {
        queue: u64,
        at: u64,
    },
    /// Cleaning writes a message again.
    Copy {
        queue: u64,
        at: u64,
    },
    /// What follows is joined, so many records.
    Group(u8),
    Flush,
}

pub fn step(queues: u64) -> impl Strategy<Value = Step> {
    let expiry = prop_oneof![4 => Just(u64::MAX), 1 => any::<u64>()];
    let some = proptest::collection::btree_set(0..queues, 1..3);
    prop_oneof![
        8 => (some, prop_oneof![3 => Just(1u16), 1 => 1u16..9], 0u8..10, expiry).prop_map(
            |(queues, messages, priority, expires_ms)| Step::Enqueue {
                queues: queues.into_iter().collect(), messages, priority, expires_ms
            }
        ),
        4 => (0..queues, any::<u64>(), 1u64..9)
            .prop_map(|(queue, at, count)| Step::Dequeue { queue, at, count }),
        1 => (0..queues, any::<u64>()).prop_map(|(queue, at)| Step::HandOut { queue, at }),
        2 => (0..queues, any::<u64>()).prop_map(|(queue, at)| Step::Copy { queue, at }),
        1 => (1u8..5).prop_map(Step::Group),
        1 => Just(Step::Flush),
    ]
}

pub fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(6), 1..most)
}

/// Writes logs of some shards and knows what they should come to.
pub struct World<'d> {
    pub writers: Vec<LogWriter<'d>>,
    pub model: Model,
    next_place: BTreeMap<u64, u64>,
    handed_out: BTreeMap<u64, u64>,
    homes: BTreeMap<u64, u16>,
    serial: u64,
}

impl<'d> World<'d> {
    /// Declares queues 0 to 5, each at home on a shard of those.
    pub fn new(disk: &'d MemoryDisk, shards: u16, segment_bytes: u64, batch_bytes: usize) -> Self {
        let mut writers: Vec<LogWriter<'d>> = (0..shards)
            .map(|shard| {
                let directory = log_directory(Path::new(JOURNAL), shard);
                LogWriter::new(disk, options(directory, shard, shards, segment_bytes, batch_bytes)).unwrap()
            })
            .collect();
        let homes: BTreeMap<u64, u16> =
            (0..6).map(|queue| (queue, (queue % u64::from(shards)) as u16)).collect();
        let changes: Vec<StoredChange> = homes
            .iter()
            .map(|(queue, home)| StoredChange::QueueDeclared {
                key: StoreKey(*queue),
                vhost: "/".into(),
                name: format!("q{queue}").into(),
                home: *home as u8,
                options: Box::new(QueueOptions { durable: true, ..QueueOptions::default() }),
            })
            .collect();
        writers[0].append(&Record::Changed(&changes), Joined::No).unwrap();
        let model = homes.keys().map(|queue| (*queue, BTreeMap::new())).collect();
        let (next_place, handed_out) = (BTreeMap::new(), BTreeMap::new());
        World { writers, model, next_place, handed_out, homes, serial: 0 }
    }

    /// Carries out steps; groups are complete at the end.
    pub fn run(&mut self, steps: &[Step]) {
        let mut steps = steps.iter();
        while let Some(step) = steps.next() {
            match step {
                Step::Group(records) => {
                    let joined: Vec<&Step> = steps
                        .by_ref()
                        .filter(|step| !matches!(step, Step::Group(_) | Step::Flush | Step::Copy { .. }))
                        .take(usize::from(*records))
                        .collect();
                    // A group is in one log.
                    let Some(home) = joined.iter().find_map(|step| self.home(step)) else { continue };
                    let joined: Vec<&&Step> =
                        joined.iter().filter(|step| self.home(step) == Some(home)).collect();
                    for (index, step) in joined.iter().enumerate() {
                        let is_last = index + 1 == joined.len();
                        self.step(step, if is_last { Joined::No } else { Joined::ToNext });
                    }
                }
                Step::Flush => self.writers.iter_mut().for_each(|writer| writer.flush().unwrap()),
                step => self.step(step, Joined::No),
            }
        }
    }

    /// Everything is on the disk; what is expected.
    pub fn finish(self) -> Model {
        for writer in self.writers {
            writer.finish().unwrap();
        }
        let mut model = self.model;
        for (queue, below) in self.handed_out {
            let standing = model.get_mut(&queue).unwrap();
            standing.range_mut(..below).for_each(|(_, standing)| standing.redelivered = true);
        }
        model
    }

    fn home(&self, step: &Step) -> Option<u16> {
        match step {
            Step::Enqueue { queues, .. } => Some(self.homes[&queues[0]]),
            Step::Dequeue { queue, .. } | Step::HandOut { queue, .. } | Step::Copy { queue, .. } => {
                Some(self.homes[queue])
            }
            Step::Group(_) | Step::Flush => None,
        }
    }

    fn place(&self, queue: u64, at: u64) -> u64 {
        at % (self.next_place.get(&queue).copied().unwrap_or(0) + 1)
    }

    fn step(&mut self, step: &Step, joined: Joined) {
        let home = self.home(step).expect("a step with a queue");
        let writer = &mut self.writers[usize::from(home)];
        match step {
            Step::Enqueue { queues, messages, priority, expires_ms } => {
                let bodies: Vec<u8> = (0..u64::from(*messages)).flat_map(|i| body(self.serial + i)).collect();
                let mut places = Vec::new();
                for queue in queues.iter().filter(|queue| self.homes[queue] == home) {
                    let next = self.next_place.entry(*queue).or_default();
                    let (place, counted_bytes) = (*next, 100 + *queue as u32);
                    *next += u64::from(*messages);
                    let (redelivered, expires_ms) = (self.serial.is_multiple_of(7), *expires_ms);
                    places.push(QueuePlace {
                        queue: StoreKey(*queue),
                        place,
                        expires_ms,
                        priority: *priority,
                        counted_bytes,
                        redelivered,
                    });
                    for i in 0..u64::from(*messages) {
                        let standing = Standing {
                            body: body(self.serial + i),
                            expires_ms,
                            priority: *priority,
                            counted_bytes,
                            redelivered,
                        };
                        self.model.get_mut(queue).unwrap().insert(place + i, standing);
                    }
                }
                self.serial += u64::from(*messages);
                let message = message(&bodies, *messages);
                writer.append(&Record::Enqueued { message, places: &places }, joined).unwrap();
            }
            Step::Dequeue { queue, at, count } => {
                let first = self.place(*queue, *at);
                let writer = &mut self.writers[usize::from(home)];
                let record = Record::Dequeued { queue: StoreKey(*queue), first, count: *count };
                writer.append(&record, joined).unwrap();
                let standing = self.model.get_mut(queue).unwrap();
                standing.retain(|place, _| !(first..first + count).contains(place));
                // No place is given twice.
                let next = self.next_place.entry(*queue).or_default();
                *next = (*next).max(first + count);
            }
            Step::HandOut { queue, at } => {
                let below = self.place(*queue, *at);
                let writer = &mut self.writers[usize::from(home)];
                writer.append(&Record::HandedOut { queue: StoreKey(*queue), below }, joined).unwrap();
                self.handed_out.insert(*queue, below);
            }
            Step::Copy { queue, at } => {
                let from = self.place(*queue, *at);
                let Some((place, standing)) = self.model[queue].range(from..).next() else { return };
                let places = [QueuePlace {
                    queue: StoreKey(*queue),
                    place: *place,
                    expires_ms: standing.expires_ms,
                    priority: standing.priority,
                    counted_bytes: standing.counted_bytes,
                    redelivered: standing.redelivered,
                }];
                let message = message(&standing.body, 1);
                let writer = &mut self.writers[usize::from(home)];
                writer.append(&Record::Enqueued { message, places: &places }, joined).unwrap();
            }
            Step::Group(_) | Step::Flush => {}
        }
    }
}

fn body(serial: u64) -> [u8; BODY_BYTES] {
    std::array::from_fn(|index| {
        serial.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[index % 8] ^ index as u8
    })
}

pub fn message(bodies: &[u8], messages: u16) -> StoredMessage<'_> {
    StoredMessage {
        encoding: &PLAIN,
        exchange: b"amq.direct",
        routing_key: b"key",
        properties: b"properties",
        bodies,
        messages,
        ttl_ms: None,
        priority: 0,
        has_headers: false,
        persistent: true,
    }
}

pub fn options(
    directory: std::path::PathBuf,
    shard: u16,
    shards: u16,
    segment_bytes: u64,
    batch_bytes: usize,
) -> WriteOptions {
    WriteOptions {
        directory,
        store: STORE,
        shard,
        shards,
        run: 1,
        segment: 1,
        previous: None,
        batch: 1,
        segment_bytes,
        batch_bytes,
        encodings: encodings(),
    }
}

pub fn try_recover(disk: &MemoryDisk, shards: u16, threads: usize) -> Result<Recovered, RecoveryError> {
    let encodings = encodings();
    let options = Options {
        journal: Path::new(JOURNAL),
        shards,
        encodings: &encodings,
        new_store: STORE,
        threads,
        segment_bytes: 1 << 20,
        progress: &|_| {},
    };
    recover(disk, &options)
}

/// What was recovered, with each body read from where its record is said to be.
pub fn model_of(disk: &MemoryDisk, recovered: &Recovered) -> Model {
    let mut model: Model = (0..6).map(|queue| (queue, BTreeMap::new())).collect();
    let files = disk.files();
    for (shard, log) in recovered.logs.iter().enumerate() {
        let directory = log_directory(Path::new(JOURNAL), shard as u16);
        for found in log.queues.iter().flat_map(|queue| queue.stored_places()) {
            let segment = position::segment_of(found.at);
            let bytes = &files[&directory.join(file_name(segment))];
            let framed = Framed::decode(&bytes[position::offset_of(found.at) as usize..], segment).unwrap();
            let Decoded::Enqueued(enqueued) = framed.record(&encodings()).unwrap() else {
                panic!("no message where one was found")
            };
            let place = found.place;
            let first = enqueued.places.iter().find(|each| each.queue == place.queue).unwrap();
            assert_eq!(first.place + u64::from(found.part), place.place);
            let bodies = enqueued.message.bodies;
            let body = bodies[usize::from(found.part) * BODY_BYTES..][..BODY_BYTES].try_into().unwrap();
            let standing = Standing {
                body,
                expires_ms: place.expires_ms,
                priority: place.priority,
                counted_bytes: place.counted_bytes,
                redelivered: place.redelivered,
            };
            assert!(model.get_mut(&place.queue.0).unwrap().insert(place.place, standing).is_none());
        }
    }
    model
}

proptest! {
    #[test]
    fn a_log_comes_to_what_was_written(
        steps in steps(200),
        shards in 1u16..4,
        segment_bytes in prop_oneof![Just(8192u64), Just(20_000), Just(1 << 20)],
        batch_bytes in prop_oneof![Just(200usize), Just(3000), Just(50_000)],
        threads in 1usize..4,
    ) {
        let disk = MemoryDisk::default();
        let mut world = World::new(&disk, shards, segment_bytes, batch_bytes);
        world.run(&steps);
        let expected = world.finish();
        let recovered = try_recover(&disk, shards, threads).unwrap();
        prop_assert_eq!(model_of(&disk, &recovered), expected.clone());
        let messages: usize = expected.values().map(BTreeMap::len).sum();
        prop_assert_eq!(recovered.totals.messages, messages as u64);
        prop_assert!(recovered.torn.is_empty());
        prop_assert_eq!(recovered.run, 2);
        check_live(&disk, &recovered);
    }
}

/// Segments know how many of their records are live.
fn check_live(disk: &MemoryDisk, recovered: &Recovered) {
    for log in &recovered.logs {
        let mut live: BTreeMap<u64, std::collections::BTreeSet<u64>> = BTreeMap::new();
        for found in log.queues.iter().flat_map(|queue| queue.stored_places()) {
            live.entry(position::segment_of(found.at)).or_default().insert(found.at.0);
        }
        for segment in &log.start.segments {
            let expected = live.get(&segment.number).map_or(0, |records| records.len() as u64);
            assert_eq!(segment.summary.live_records(), expected);
            let path = log.start.directory.join(file_name(segment.number));
            assert_eq!(segment.file_bytes, disk.files()[&path].len() as u64);
        }
    }
}

#[test]
fn a_directory_with_nothing_is_readied() {
    let disk = MemoryDisk::default();
    let recovered = try_recover(&disk, 2, 1).unwrap();
    assert_eq!((recovered.run, recovered.store, recovered.logs.len()), (1, STORE, 2));
    let again = try_recover(&disk, 2, 1).unwrap();
    assert_eq!((again.run, again.store), (2, STORE));
    assert_eq!(again.logs[1].start.next_segment, 1);
    assert_eq!(again.logs[1].start.previous, None);
}
