//! Random use of a log with cleaning, crashes and restarts, beside a model: a restart finds what was stored, and nothing
//! that was not appended.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use fulmar_core::ShardId;
use fulmar_core::journal::{Step, TransactionKey};
use fulmar_core::topology::StoredChange;

use super::*;
use crate::cleaning::{Holder, clean};
use crate::start::{SegmentStart, segment_in_name};
use crate::summary::SegmentSummary;
use crate::testing::FoundSegment;

type Place = (u64, u64);

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = self.0 ^ (self.0 >> 33);
        mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 20
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What a restart would make of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    places: BTreeSet<Place>,
    handed_out: BTreeMap<u64, u64>,
    prepared: BTreeSet<u64>,
}

/// What was appended.
#[derive(Clone, Debug)]
enum Deed {
    Enqueued(Vec<Place>),
    Dequeued(u64, u64, u64),
    HandedOut(u64, u64),
    Prepared(u64),
    Ended(u64),
}

impl State {
    fn apply(&mut self, deed: &Deed) {
        match deed {
            Deed::Enqueued(places) => self.places.extend(places),
            Deed::Dequeued(queue, first, count) => {
                self.places.retain(|(each, place)| each != queue || !(*first..first + count).contains(place));
            }
            Deed::HandedOut(queue, below) => {
                self.handed_out.insert(*queue, *below);
            }
            Deed::Prepared(number) => {
                self.prepared.insert(*number);
            }
            Deed::Ended(number) => {
                self.prepared.remove(number);
            }
        }
    }
}

/// A message that somebody needs.
struct Held {
    position: Position,
    bytes: usize,
    bodies: Vec<u8>,
    places: BTreeSet<Place>,
}

/// The shard's side.
#[derive(Default)]
struct Model {
    messages: BTreeMap<u64, Held>,
    by_place: BTreeMap<Place, u64>,
    next_message: u64,
    next_place: [u64; 3],
    prepared: BTreeSet<u64>,
    next_transaction: u64,
    relocated: usize,
}

impl Holder for Model {
    fn holds(&mut self, queue: StoreKey, place: u64, at: Position) -> bool {
        let message = self.by_place.get(&(queue.0, place)).and_then(|number| self.messages.get(number));
        message.is_some_and(|message| message.position == at)
    }

    fn relocated(&mut self, queue: StoreKey, place: u64, old: Position, new: Position) {
        let message = self.messages.get_mut(&self.by_place[&(queue.0, place)]).expect("it is held");
        assert!(message.position == old || message.position == new, "it is where it was said to be");
        message.position = new;
        self.relocated += 1;
    }

    fn topology(&self) -> Vec<StoredChange> {
        Vec::new()
    }
}

struct World {
    random: Random,
    log: RefCell<Log>,
    files: FakeFiles,
    model: Model,
    /// What was appended since the last restart, in groups, with the place behind each.
    deeds: Vec<(Vec<Deed>, Position)>,
    /// What the last restart found.
    base: State,
    reads: BTreeMap<u64, Vec<Vec<u8>>>,
    next_ticket: u64,
    run: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let files = FakeFiles::default();
        World {
            random: Random(seed),
            log: RefCell::new(log(options())),
            files,
            model: Model::default(),
            deeds: Vec::new(),
            base: State::default(),
            reads: BTreeMap::new(),
            next_ticket: 0,
            run: 1,
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=4 => {
                let groups = if self.random.one_in(8) { 1 + self.random.below(4) } else { 1 };
                let mut deeds = Vec::new();
                for index in 0..groups {
                    deeds.push(self.enqueue(if index + 1 < groups { Joined::ToNext } else { Joined::No }));
                }
                self.did(deeds);
            }
            5..=9 => self.dequeue_some(),
            10 => {
                let (queue, below) = (self.random.below(3), self.random.next());
                let record = Record::HandedOut { queue: StoreKey(queue), below };
                self.log.borrow_mut().append(&record, Joined::No);
                self.did(vec![Deed::HandedOut(queue, below)]);
            }
            11 => self.go_on_with_transaction(),
            12 => self.read_some(),
            _ => {}
        }
        self.turn();
    }

    fn did(&mut self, deeds: Vec<Deed>) {
        let end = self.log.borrow().end();
        self.deeds.push((deeds, end));
    }

    fn enqueue(&mut self, joined: Joined) -> Deed {
        let messages = if self.random.one_in(4) { 1 + self.random.below(5) } else { 1 };
        let length = if self.random.one_in(20) { 20_000 } else { self.random.below(3000) };
        let number = self.model.next_message;
        self.model.next_message += 1;
        let mut bodies = vec![number as u8; (length * messages) as usize];
        bodies.iter_mut().step_by(7).enumerate().for_each(|(index, byte)| *byte = index as u8);
        let mut places = Vec::new();
        for queue in 0..3 {
            if queue == 0 || self.random.one_in(4) {
                let first = self.model.next_place[queue as usize];
                self.model.next_place[queue as usize] += messages;
                places.push(QueuePlace { queue: StoreKey(queue), ..place(first) });
            }
        }
        let message = StoredMessage { messages: messages as u16, ..message(&bodies) };
        let bytes = message_bytes(&message);
        let record = Record::Enqueued { message, places: &places };
        let position = self.log.borrow_mut().append(&record, joined);
        let all: BTreeSet<Place> = places
            .iter()
            .flat_map(|place| (place.place..place.place + messages).map(|each| (place.queue.0, each)))
            .collect();
        self.model.by_place.extend(all.iter().map(|place| (*place, number)));
        let deed = Deed::Enqueued(all.iter().copied().collect());
        self.model.messages.insert(number, Held { position, bytes, bodies, places: all });
        deed
    }

    fn dequeue_some(&mut self) {
        // Mostly the oldest, so that segments become empty.
        let skip = if self.random.one_in(5) { self.random.below(50) as usize } else { 0 };
        let Some((&(queue, first), _)) = self.model.by_place.iter().nth(skip) else { return };
        let count = 1 + self.random.below(6);
        self.log.borrow_mut().append(&Record::Dequeued { queue: StoreKey(queue), first, count }, Joined::No);
        for place in first..first + count {
            // The model forgets the places that nothing was ever put in, as a queue does.
            if let Some(number) = self.model.by_place.remove(&(queue, place)) {
                let held = self.model.messages.get_mut(&number).expect("it is held");
                held.places.remove(&(queue, place));
                if held.places.is_empty() {
                    let held = self.model.messages.remove(&number).expect("it is held");
                    self.log.borrow_mut().retire(held.position, held.bytes);
                }
            }
        }
        let next = &mut self.model.next_place[queue as usize];
        *next = (*next).max(first + count);
        self.did(vec![Deed::Dequeued(queue, first, count)]);
    }

    fn go_on_with_transaction(&mut self) {
        let key = |number| TransactionKey { shard: ShardId(0), run: 1, number };
        let (number, step, deed);
        if !self.model.prepared.is_empty() && self.random.one_in(2) {
            number = *self.model.prepared.first().expect("there is one");
            self.model.prepared.remove(&number);
            (step, deed) = (Step::Ended, Deed::Ended(number));
        } else {
            number = self.model.next_transaction;
            self.model.next_transaction += 1;
            self.model.prepared.insert(number);
            (step, deed) = (Step::Prepared { publishes: &[], settlements: &[] }, Deed::Prepared(number));
        }
        self.log.borrow_mut().append(&Record::Transaction { transaction: key(number), step }, Joined::No);
        self.did(vec![deed]);
    }

    fn read_some(&mut self) {
        let skip = self.random.below(20) as usize;
        let some = 1 + self.random.below(20) as usize;
        let messages = self.model.messages.values().skip(skip).take(some);
        let (positions, bodies): (Vec<_>, Vec<_>) =
            messages.map(|held| (held.position, held.bodies.clone())).unzip();
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.log.borrow_mut().read(Ticket(ticket), &positions);
        self.reads.insert(ticket, bodies);
    }

    /// A turn of the worker, with some of what waits done.
    fn turn(&mut self) {
        let now_ns = self.log.borrow().now_ns + 1_000_000;
        self.log.borrow_mut().submit(&mut self.files, now_ns);
        for _ in 0..self.random.below(4) {
            let waiting = self.files.waiting().len() as u64;
            if waiting > 0 {
                // Operations end in any order.
                let index = self.random.below(waiting) as usize;
                let done = self.files.finish(index);
                self.log.borrow_mut().completed(done, now_ns);
            }
        }
        clean(&self.log, &mut self.model);
        self.hear();
    }

    fn hear(&mut self) {
        loop {
            let told = self.log.borrow_mut().take_told();
            match told {
                None => break,
                Some(Told::Stored(_)) => {}
                Some(Told::Read(back)) => {
                    let bodies = self.reads.remove(&back.ticket.0).expect("it was asked for");
                    assert!(back.failed.is_none(), "{back:?}");
                    assert!(
                        back.messages().map(|message| message.bodies).eq(bodies.iter()),
                        "other messages"
                    );
                    self.log.borrow_mut().recycle(back);
                }
                Some(told) => panic!("{told:?}"),
            }
        }
    }

    /// Until nothing waits.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            self.turn();
            let is_idle = self.log.borrow().is_idle() && self.files.is_idle();
            if is_idle && self.log.borrow().cleaning.segment().is_none() {
                return;
            }
        }
        panic!("it does not end: {:?}", self.files.waiting());
    }

    /// Much leaves its queues, all that is done with files but for writes goes on.
    fn dequeue_while_writes_hang(&mut self) {
        for _ in 0..self.random.below(60) {
            self.dequeue_some();
        }
        for _ in 0..20 {
            let now_ns = self.log.borrow().now_ns + 1_000_000;
            self.log.borrow_mut().submit(&mut self.files, now_ns);
            let waiting = self.files.waiting();
            if let Some(index) = waiting.iter().position(|words| !words.starts_with("write")) {
                let done = self.files.finish(index);
                self.log.borrow_mut().completed(done, now_ns);
            }
        }
        self.hear();
    }

    /// The process or the machine goes, and starts again.
    fn crash(&mut self) {
        if self.random.one_in(2) {
            self.dequeue_while_writes_hang();
        }
        let stored = self.log.borrow().stored();
        let mut random = Random(self.random.next());
        self.files.tear_writes(|| random.one_in(2));
        if random.one_in(2) {
            self.files.cut_power(|| random.one_in(2));
        } else {
            self.files.cut_power(|| true);
        }
        let (state, start) = restart(&self.files, self.run + 1);
        self.run += 1;
        // What was found is what had been after some of the deeds, all of those among them that were stored.
        let mut expected = self.base.clone();
        let mut is_found = false;
        for (index, (deeds, end)) in self.deeds.iter().enumerate() {
            if *end > stored && expected == state {
                is_found = true;
                break;
            }
            assert!(index < self.deeds.len());
            deeds.iter().for_each(|deed| expected.apply(deed));
        }
        assert!(is_found || expected == state, "a restart finds something else");
        self.go_on_with(state, start);
    }

    fn go_on_with(&mut self, state: State, start: LogStart) {
        self.deeds.clear();
        self.reads.clear();
        let positions = positions(&self.files);
        self.model.messages.clear();
        self.model.by_place.clear();
        for (position, bodies, places) in positions {
            let places: BTreeSet<_> =
                places.into_iter().filter(|place| state.places.contains(place)).collect();
            // The last one counts of those that are there twice.
            let older: BTreeSet<u64> =
                places.iter().filter_map(|place| self.model.by_place.get(place)).copied().collect();
            older.iter().for_each(|number| drop(self.model.messages.remove(number)));
            if places.is_empty() {
                continue;
            }
            let number = self.model.next_message;
            self.model.next_message += 1;
            self.model.by_place.extend(places.iter().map(|place| (*place, number)));
            let bytes = b"queue".len() + bodies.len();
            self.model.messages.insert(number, Held { position, bytes, bodies, places });
        }
        assert_eq!(self.model.by_place.len(), state.places.len());
        self.model.prepared = state.prepared.clone();
        let mut start = start;
        for segment in &mut start.segments {
            let live: BTreeSet<Position> = self.model.messages.values().map(|held| held.position).collect();
            let gone = all_positions(&self.files, segment.number).into_iter().filter(|(position, _)| {
                position::offset_of(*position) < segment.end && !live.contains(position)
            });
            gone.for_each(|(_, bytes)| segment.summary.retire(bytes));
        }
        self.base = state;
        self.log = RefCell::new(Log::new(start, options(), encodings()));
    }
}

fn records_in<'a>(segments: &'a [FoundSegment<'a>]) -> Vec<(Position, crate::record::Framed<'a>)> {
    let records = segments.iter().flat_map(|segment| {
        let number = segment.header.segment;
        segment.records.iter().map(move |(offset, framed)| (in_segment(number, *offset), *framed))
    });
    records.collect()
}

/// What a restart makes of the files.
pub(super) fn restart(files: &FakeFiles, run: u32) -> (State, LogStart) {
    let segments = found(files);
    let (mut state, mut group, mut end) = (State::default(), Vec::new(), Position::NONE);
    let encodings = encodings();
    let records = records_in(&segments);
    for (position, framed) in &records {
        let record = framed.record(&encodings).expect("a record that makes sense");
        group.push(record);
        if framed.joined == Joined::No {
            group.drain(..).for_each(|record| apply(&mut state, &record));
            end = in_segment(
                position::segment_of(*position),
                position::offset_of(*position) + framed.total_bytes() as u64,
            );
        }
    }
    let mut start = LogStart::empty(DIRECTORY.into(), StoreId([1; 16]), 0, 1);
    start.run = run;
    let names =
        files.list().map(|(path, _)| segment_in_name(&path.file_name().unwrap().to_string_lossy()).unwrap());
    start.next_segment = names.max().unwrap_or(0) + 1;
    for segment in &segments {
        let mut summary = SegmentSummary::default();
        let number = segment.header.segment;
        let records = segment.records.iter().filter(|(offset, _)| in_segment(number, *offset) < end);
        for (_, framed) in records.clone() {
            let record = framed.record(&encodings).expect("a record that makes sense");
            summary.note(&record);
            start.words.note(number, &record);
        }
        let segment_end =
            records.clone().next_back().map_or(0, |(offset, framed)| offset + framed.total_bytes() as u64);
        start.previous = Some((number, segment_end));
        let (_, bytes) = files.list().find(|(path, _)| path.ends_with(file_name(number))).unwrap();
        start.segments.push(SegmentStart {
            number,
            end: segment_end,
            file_bytes: bytes.len() as u64,
            encodings: encodings.clone(),
            summary,
        });
    }
    let in_log: BTreeSet<u64> = segments.iter().map(|segment| segment.header.segment).collect();
    for (path, bytes) in files.list() {
        let number = segment_in_name(&path.file_name().unwrap().to_string_lossy()).unwrap();
        if !in_log.contains(&number) {
            start.unused.push((path.to_path_buf(), bytes.len() as u64));
        }
    }
    (state, start)
}

fn apply(state: &mut State, record: &Decoded<'_>) {
    state.apply(&match record {
        Decoded::Enqueued(enqueued) => {
            let messages = u64::from(enqueued.message.messages);
            let places = enqueued.places.iter();
            let all = places.flat_map(|place| {
                (place.place..place.place + messages).map(move |each| (place.queue.0, each))
            });
            Deed::Enqueued(all.collect())
        }
        Decoded::Dequeued { queue, first, count } => Deed::Dequeued(queue.0, *first, *count),
        Decoded::HandedOut { queue, below } => Deed::HandedOut(queue.0, *below),
        Decoded::Transaction { transaction, step: crate::transaction::DecodedStep::Ended } => {
            Deed::Ended(transaction.number)
        }
        Decoded::Transaction { transaction, .. } => Deed::Prepared(transaction.number),
        other => panic!("{other:?}"),
    });
}

/// Messages in order: where they are, their bodies, their places.
fn positions(files: &FakeFiles) -> Vec<(Position, Vec<u8>, Vec<Place>)> {
    let (segments, encodings) = (found(files), encodings());
    let mut messages = Vec::new();
    for (position, framed) in records_in(&segments) {
        if let Ok(Decoded::Enqueued(enqueued)) = framed.record(&encodings) {
            let count = u64::from(enqueued.message.messages);
            let places = enqueued.places.iter();
            let all = places
                .flat_map(|place| (place.place..place.place + count).map(move |each| (place.queue.0, each)));
            messages.push((position, enqueued.message.bodies.to_vec(), all.collect()));
        }
    }
    messages
}

fn all_positions(files: &FakeFiles, segment: u64) -> Vec<(Position, usize)> {
    let all =
        positions(files).into_iter().filter(|(position, ..)| position::segment_of(*position) == segment);
    all.map(|(position, bodies, _)| (position, b"queue".len() + bodies.len())).collect()
}

#[test]
fn a_restart_finds_what_was_stored() {
    let (mut relocated, mut recycled, mut cleaned) = (0, 0, 0);
    for seed in 0..10 {
        let mut world = World::new(seed);
        for life in 0..6 {
            println!("seed {seed}, life {life}");
            let steps = world.random.below(1000);
            for _ in 0..steps {
                world.step();
            }
            let log = world.log.borrow();
            recycled += log.metrics().segments_recycled;
            cleaned += log.metrics().segments_cleaned;
            drop(log);
            world.crash();
        }
        relocated += world.model.relocated;
    }
    assert!(
        relocated > 50 && recycled > 50 && cleaned > 5,
        "{relocated} {recycled} {cleaned}: it tests too little"
    );
}

#[test]
fn what_is_gone_takes_no_space_in_the_end() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        for _ in 0..3000 {
            world.step();
        }
        while !world.model.by_place.is_empty() {
            world.dequeue_some();
            world.turn();
        }
        world.settle();
        // What is appended moves on to other segments, so that those that are full may go.
        for number in 0..100 {
            let queue = StoreKey(number % 3);
            world.log.borrow_mut().append(&Record::HandedOut { queue, below: number }, Joined::No);
            world.settle();
        }
        let footprint = world.log.borrow().footprint();
        assert_eq!(footprint.live_bytes, 0);
        assert!(footprint.segments <= 6, "seed {seed}: {footprint:?}");
        assert!(footprint.segments + footprint.spare_files <= 10, "seed {seed}: {footprint:?}");
    }
}
