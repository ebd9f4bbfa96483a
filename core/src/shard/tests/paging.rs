//! Queues that are longer than memory: whatever is out of it, clients see the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::stored::durable;
use super::*;
use crate::Selector;
use crate::journal::{Joined, Position};
use crate::request::{HeaderFilter, MoveTo, Overflow};
use crate::shard::random::Random;
use crate::test_support::journal::Written;
use crate::test_support::properties;

impl Broker {
    /// With journals that answer late and in any order, and so little memory that nearly everything leaves it.
    pub(super) fn paged(shards: u8, limits: Limits, seed: u64) -> Self {
        let paging_bytes = [0, 0, 1_000, 4_000][seed as usize % 4];
        let mut broker = Broker::with_limits(shards, Limits { paging_bytes, ..limits });
        broker.journals = (0..shards).map(|_| TestJournal::default()).collect();
        for (shard, journal) in broker.shards.iter_mut().zip(&broker.journals) {
            journal.give_to(shard);
        }
        broker.lateness = Some(Random::new(seed));
        broker.is_persistent = (seed / 4).is_multiple_of(2);
        broker
    }

    /// How many messages have left memory, and how many have been read again.
    pub(super) fn paged_messages(&self) -> (u64, u64) {
        let stats = self.shards.iter().map(Shard::stats);
        stats.fold((0, 0), |(out, back), stats| (out + stats.paged_out, back + stats.read_back))
    }

    /// The journal stores what was appended and brings what was to be read. Whether something of that is to come.
    pub(super) fn serve_journal(&mut self, index: usize) -> bool {
        let (Some(journal), shard) = (self.journals.get(index).cloned(), &mut self.shards[index]) else {
            return false;
        };
        let Some(random) = &mut self.lateness else {
            journal.read_all(shard);
            return false;
        };
        if random.next().is_multiple_of(2) {
            journal.store_all(shard);
        }
        let (mut reads, mut has_failed) = (Vec::new(), false);
        journal.change(|file| std::mem::swap(&mut file.reads, &mut reads));
        while !reads.is_empty() {
            let (ticket, positions) = reads.swap_remove((random.next() % reads.len() as u64) as usize);
            if random.next().is_multiple_of(3) {
                journal.change(|file| file.reads.push((ticket, positions)));
                continue;
            }
            let fails = std::mem::take(&mut self.is_failing);
            let come = if fails { random.next() as usize % positions.len() } else { positions.len() };
            for position in &positions[..come] {
                let message = journal.message_at(*position);
                shard.read_back(ticket, &message.message());
            }
            if fails {
                shard.read_failed(ticket);
                has_failed = true;
            }
        }
        let file = journal.file();
        let is_awaited = !file.reads.is_empty() || file.stored < file.records.len();
        drop(file);
        if has_failed {
            // Until it is tried again.
            self.clock.monotonic_ns += 1_000 * MS;
            self.tell_time();
        }
        is_awaited || has_failed
    }

    /// A record is moved, as cleaning does it; what was asked for comes nevertheless, later nobody finds it where it was.
    fn relocate(&mut self, which: usize) {
        let journal = self.journals[0].clone();
        let stored = journal.file().stored;
        let Some(index) = which.checked_rem(stored) else { return };
        let (old, new) = (Position(index as u64 + 1), Position(journal.file().records.len() as u64 + 1));
        let written = journal.file().records[index].0.clone();
        let Written::Enqueued { message, places } = &written else { return };
        let mut held = Vec::new();
        for first in places {
            for part in 0..u64::from(message.message().messages) {
                let place = first.place + part;
                if self.shards[0].holds(first.queue, place, old) {
                    held.push((first.queue, place));
                }
            }
        }
        if held.is_empty() {
            return;
        }
        journal.change(|file| {
            file.records.push((written.clone(), Joined::No));
            file.records[index].0 = Written::Topology(Vec::new());
            let positions = file.reads.iter_mut().flat_map(|(_, positions)| positions);
            positions.filter(|at| **at == old).for_each(|at| *at = new);
        });
        for (queue, place) in held {
            assert!(self.shards[0].relocated(queue, place, old, new));
            assert!(!self.shards[0].holds(queue, place, old) && self.shards[0].holds(queue, place, new));
        }
        self.run();
    }

    /// What a restart would find is what is there, and its records have not been given up.
    fn check_records(&mut self) {
        let journal = self.journals[0].clone();
        let given_up: BTreeSet<Position> = journal.file().retired.iter().map(|(at, _)| *at).collect();
        for found in journal.places() {
            let (queue, place) = (found.place.queue, found.place.place);
            if self.shards[0].queue_of(queue).is_some() {
                assert!(self.shards[0].holds(queue, place, found.at), "{place} of {queue:?} is not held");
                assert!(!given_up.contains(&found.at), "{place} of {queue:?} is given up");
            }
        }
    }

    fn stats(&self) -> Stats {
        self.shards[0].stats()
    }
}

fn paged() -> Broker {
    let mut broker = Broker::paged(1, Limits::default(), 0);
    broker.is_persistent = false;
    broker
}

/// Numbers of messages as bodies.
fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn publish(broker: &mut Broker, client: Client, queue: &str, range: std::ops::Range<u32>) {
    for number in range {
        let persistent = number % 3 == 0;
        let id = broker.message_with(client, "", queue, &number.to_string(), &[], |header| {
            header.persistent = persistent
        });
        broker.send(client, id);
    }
    broker.run();
}

#[test]
fn what_is_out_of_memory_is_delivered_in_order_and_its_record_given_up() {
    for options in [at_home(0), QueueOptions { durable: true, ..at_home(0) }] {
        let mut broker = paged();
        let client = broker.client(0);
        broker.declare(client, "q", options);
        publish(&mut broker, client, "q", 0..500);
        let stats = broker.stats();
        assert_eq!((stats.ready, stats.paged, stats.messages), (500, 500, 0));
        assert_eq!(broker.counts(client, "q").unwrap(), (500, 0));
        broker.subscribe(client, "q", 1, ConsumerOptions::default());
        let received = broker.take(client);
        assert_eq!(received.iter().map(|one| one.body.clone()).collect::<Vec<_>>(), numbers(0..500));
        assert!(received.iter().all(|one| !one.redelivered));
        received.iter().for_each(|one| broker.settle(client, one, Settlement::Accept));
        broker.run();
        assert_eq!((broker.stats().messages, broker.stats().paged), (0, 0));
        let retired = broker.journals[0].file().retired.len();
        assert_eq!(retired, 500, "each has one record, on a page or in the log");
    }
}

#[test]
fn what_one_turn_cannot_put_out_of_memory_leaves_in_the_next_ones_and_then_the_shard_rests() {
    let limits = Limits { paging_bytes: 3_300_000, ..Limits::default() };
    let most_bytes = limits.paging_bytes;
    let mut broker = Broker::durable_with(1, limits);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    let body = "b".repeat(1500);
    for _ in 0..3000 {
        broker.persist(client, "", "q", &body, 0).unwrap();
    }
    broker.run();
    assert_eq!(broker.paged_messages().0, 0, "nothing is stored yet");
    assert!(broker.shards[0].memory_bytes() > most_bytes);
    broker.pass(1_000);
    broker.store_all();
    let left = broker.shards[0].memory_bytes();
    assert!(left <= most_bytes - most_bytes / 8, "{left}");
}

#[test]
fn a_restart_finds_long_queues_out_of_memory_and_serves_them_in_order() {
    let mut broker = Broker::durable(1);
    broker.is_persistent = true;
    let client = broker.client(0);
    let durable = QueueOptions { durable: true, ..at_home(0) };
    let last = QueueOptions { last_value_key: Some("key".into()), ..durable.clone() };
    let grouped = QueueOptions { group_key: Some("key".into()), ..durable.clone() };
    let leveled = QueueOptions { max_priority: Some(3), ..durable.clone() };
    for (name, options) in
        [("a", durable.clone()), ("b", durable), ("last", last), ("g", grouped), ("p", leveled)]
    {
        broker.declare(client, name, options);
        broker.bind(client, "amq.fanout", name, "");
    }
    for number in 0..200u32 {
        let properties = properties(None, &[("key", Value::Text((number % 5).to_string().as_str().into()))]);
        let body = number.to_string();
        let priority = |header: &mut MessageHeader<'_>| header.priority = (number % 4) as u8;
        let id = broker.message_with(client, "amq.fanout", "", &body, &properties, priority);
        broker.send(client, id);
    }
    broker.store(0);
    for _ in 0..10 {
        broker.get(client, "a", true).unwrap();
    }
    broker.run();
    broker.store(0);
    let mut broker = broker.restarted(1, 0);
    let stats = broker.stats();
    // The queues that have to know all their messages are being read.
    assert_eq!((stats.ready, stats.paged), (190 + 200 + 5 + 200 + 200, stats.ready));
    let client = broker.client(0);
    broker.run();
    assert_eq!(broker.stats().messages, 5 + 200);
    let mut drain = |queue: &str| {
        std::iter::from_fn(|| Some(broker.get(client, queue, true)?.0.body)).collect::<Vec<_>>()
    };
    assert_eq!(drain("a"), numbers(10..200));
    assert_eq!(drain("b"), numbers(0..200));
    assert_eq!(drain("last"), numbers(195..200));
    assert_eq!(drain("g"), numbers(0..200));
    let by_level = |level: u32| (0..200).filter(move |number| number % 4 == level);
    let leveled: Vec<_> = (0..4).rev().flat_map(by_level).map(|number| number.to_string()).collect();
    assert_eq!(drain("p"), leveled);
    broker.run();
    assert_eq!((broker.stats().messages, broker.stats().ready), (0, 0));
    assert_eq!(broker.journals[0].file().retired.len(), 200, "a record of five queues is given up once");
}

/// The kinds of queues that are used at random, by name.
fn kinds() -> Vec<(&'static str, QueueOptions)> {
    let dead = Some(Name::from("amq.fanout"));
    let plain = at_home(0);
    let durable = QueueOptions { durable: true, ..at_home(0) };
    vec![
        ("plain", plain.clone()),
        ("durable", durable.clone()),
        ("priority", QueueOptions { max_priority: Some(3), ..durable.clone() }),
        ("dying", QueueOptions { dead_letter_exchange: dead.clone(), ..durable.clone() }),
        ("short", QueueOptions { max_length: Some(12), ..plain.clone() }),
        (
            "shorter",
            QueueOptions { max_length: Some(7), dead_letter_exchange: dead.clone(), ..durable.clone() },
        ),
        ("flowing", QueueOptions { max_length: Some(4), overflow: Overflow::FlowToDisk, ..durable.clone() }),
        ("last", QueueOptions { last_value_key: Some("key".into()), ..durable.clone() }),
        ("grouped", QueueOptions { group_key: Some("key".into()), ..durable.clone() }),
        ("ring", QueueOptions { max_length: Some(9), overflow: Overflow::Ring, ..durable }),
        ("left", QueueOptions { alternate: dead, ..plain }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Publish { queue: usize, count: u32, persistent: bool, priority: u8, key: u8, ttl_ms: Option<u64> },
    Subscribe { queue: usize, no_ack: bool, prefetch: u32, browse: bool, key: Option<u8> },
    Cancel { which: usize },
    Settle { which: usize, how: u8 },
    Acquire { which: usize },
    Get { queue: usize, no_ack: bool },
    Purge { queue: usize },
    Delete { queue: usize },
    Move { from: usize, to: usize, most: Option<u32>, key: Option<u8> },
    Pass { ms: u64 },
    Fail,
    Relocate { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let queue = || 0..kinds().len();
    let publish =
        (queue(), 1..8u32, any::<bool>(), 0..4u8, 0..3u8, proptest::option::weighted(0.2, 1..50u64));
    prop_oneof![
        12 => publish.prop_map(|(queue, count, persistent, priority, key, ttl_ms)| Step::Publish {
            queue, count, persistent, priority, key, ttl_ms
        }),
        4 => (queue(), any::<bool>(), 0..4u32, proptest::bool::weighted(0.3), proptest::option::weighted(0.3, 0..3u8))
            .prop_map(|(queue, no_ack, prefetch, browse, key)| Step::Subscribe {
                queue, no_ack, prefetch, browse, key
            }),
        3 => any::<usize>().prop_map(|which| Step::Cancel { which }),
        8 => (any::<usize>(), 0..4u8).prop_map(|(which, how)| Step::Settle { which, how }),
        2 => any::<usize>().prop_map(|which| Step::Acquire { which }),
        4 => (queue(), any::<bool>()).prop_map(|(queue, no_ack)| Step::Get { queue, no_ack }),
        1 => queue().prop_map(|queue| Step::Purge { queue }),
        1 => queue().prop_map(|queue| Step::Delete { queue }),
        // Where it does not matter whether they come all at once.
        1 => (queue(), 0..4usize, proptest::option::of(0..9u32), proptest::option::of(0..3u8))
            .prop_map(|(from, to, most, key)| Step::Move { from, to, most, key }),
        2 => (0..30u64).prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Fail),
        3 => any::<usize>().prop_map(|which| Step::Relocate { which }),
    ]
}

/// A broker in whose memory everything stays, and one from whose memory everything goes.
struct Twins {
    brokers: [Broker; 2],
    clients: [Client; 2],
    /// Consumers and their queues; at most one of a queue takes messages.
    consumers: Vec<(u32, usize, bool)>,
    next_consumer: u32,
    published: u32,
    /// What was delivered and can be settled, and what was browsed.
    held: Vec<[Received; 2]>,
    browsed: Vec<[Received; 2]>,
    /// What the dead-letter queue got, in no order.
    dead: [Vec<String>; 2],
    /// Messages expire; otherwise readings fail, after which time passes.
    expires: bool,
}

impl Twins {
    fn new(seed: u64) -> Self {
        let mut brokers = [Broker::new(1), Broker::paged(1, Limits::default(), seed)];
        let clients = brokers.each_mut().map(|broker| broker.client(0));
        let mut twins = Twins {
            brokers,
            clients,
            consumers: Vec::new(),
            next_consumer: 0,
            published: 0,
            held: Vec::new(),
            browsed: Vec::new(),
            dead: Default::default(),
            expires: seed < 2,
        };
        for at in 0..2 {
            let (broker, client) = twins.at(at);
            broker.declare(client, "dead", at_home(0));
            broker.bind(client, "amq.fanout", "dead", "");
            kinds().into_iter().for_each(|(name, options)| {
                broker.declare(client, name, options);
            });
        }
        twins
    }

    fn at(&mut self, index: usize) -> (&mut Broker, Client) {
        (&mut self.brokers[index], self.clients[index])
    }

    fn both<T>(&mut self, mut use_one: impl FnMut(&mut Broker, Client, usize) -> T) -> [T; 2] {
        [0, 1].map(|index| use_one(&mut self.brokers[index], self.clients[index], index))
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish { queue, count, persistent, priority, key, ttl_ms } => {
                let first = self.published;
                self.published += count;
                let ttl_ms = ttl_ms.filter(|_| self.expires);
                let properties = properties(None, &[("key", Value::Text(key.to_string().as_str().into()))]);
                self.both(|broker, client, _| {
                    for number in first..first + count {
                        let body = number.to_string();
                        let id =
                            broker.message_with(client, "", kinds()[queue].0, &body, &properties, |header| {
                                header.persistent = persistent;
                                header.priority = priority;
                                header.ttl_ms = ttl_ms;
                            });
                        let _ = broker.send(client, id);
                    }
                });
            }
            Step::Subscribe { queue, no_ack, prefetch, browse, key } => {
                if !browse && self.consumers.iter().any(|(_, of, takes)| *of == queue && *takes) {
                    return;
                }
                self.next_consumer += 1;
                let number = self.next_consumer;
                self.consumers.push((number, queue, !browse));
                self.both(|broker, client, _| {
                    let selector =
                        key.map(|key| Arc::new(Selector::parse(&format!("key = '{key}'")).unwrap()));
                    let options =
                        ConsumerOptions { no_ack, prefetch, browse, selector, ..ConsumerOptions::default() };
                    broker.subscribe(client, kinds()[queue].0, number, options);
                });
            }
            Step::Cancel { which } => {
                if let Some(at) = which.checked_rem(self.consumers.len()) {
                    let (consumer, ..) = self.consumers.swap_remove(at);
                    self.both(|broker, client, _| broker.ask(client, Request::Cancel { consumer }).is_ok());
                }
            }
            Step::Settle { which, how } => {
                if let Some(at) = which.checked_rem(self.held.len()) {
                    let received = self.held.swap_remove(at);
                    let how =
                        [Settlement::Accept, Settlement::Requeue, Settlement::Release, Settlement::Reject]
                            [usize::from(how)];
                    self.both(|broker, client, index| broker.settle(client, &received[index], how));
                }
            }
            Step::Acquire { which } => {
                if let Some(at) = which.checked_rem(self.browsed.len()) {
                    let browsed = self.browsed.swap_remove(at);
                    let acquired = self.both(|broker, client, index| {
                        let Received { queue, tag, .. } = browsed[index];
                        match broker.ask(client, Request::Acquire { queue, tags: vec![tag] }) {
                            Ok(Reply::Acquired { tags, .. }) => tags[0],
                            other => panic!("acquiring was answered with {other:?}"),
                        }
                    });
                    assert_eq!(acquired[0].is_some(), acquired[1].is_some());
                    if let [Some(one), Some(other)] = acquired {
                        let [mut first, mut second] = browsed;
                        (first.tag, second.tag) = (one, other);
                        self.held.push([first, second]);
                    }
                }
            }
            Step::Get { queue, no_ack } => {
                let got = self.both(|broker, client, _| broker.get(client, kinds()[queue].0, no_ack));
                match got {
                    [Some((one, left)), Some((other, other_left))] => {
                        assert_eq!((seen(&one), left), (seen(&other), other_left));
                        if !no_ack {
                            self.held.push([one, other]);
                        }
                    }
                    got => assert_eq!(got[0].is_some(), got[1].is_some()),
                }
            }
            Step::Purge { queue } => {
                let request = || Request::PurgeQueue { vhost: VHOST, name: kinds()[queue].0.into() };
                self.same_answer(request);
            }
            Step::Delete { queue } => {
                let (name, options) = kinds().swap_remove(queue);
                let request = || Request::DeleteQueue {
                    vhost: VHOST,
                    name: name.into(),
                    if_unused: false,
                    if_empty: false,
                };
                self.same_answer(request);
                self.consumers.retain(|(_, of, _)| *of != queue);
                self.both(|broker, client, _| broker.declare(client, name, options.clone()));
            }
            // What has expired may go before it is moved.
            Step::Move { .. } if self.expires => {}
            Step::Move { from, to, most, key } => {
                let filter = || {
                    key.map(|key| HeaderFilter {
                        header: "key".into(),
                        value: key.to_string().as_str().into(),
                    })
                };
                let request = || Request::MoveMessages {
                    vhost: VHOST,
                    queue: kinds()[from].0.into(),
                    to: MoveTo::Queue(kinds()[to].0.into()),
                    most,
                    filter: filter(),
                };
                self.same_answer(request);
            }
            Step::Pass { ms } => {
                self.both(|broker, _, _| broker.pass(ms));
            }
            Step::Fail if !self.expires => self.brokers[1].is_failing = true,
            Step::Fail => {}
            Step::Relocate { which } => self.brokers[1].relocate(which),
        }
        self.look();
    }

    fn same_answer(&mut self, request: impl Fn() -> Request) {
        let [one, other] = self.both(|broker, client, _| format!("{:?}", broker.ask(client, request())));
        assert_eq!(one, other);
    }

    /// Both have come to rest: their clients have seen the same.
    fn look(&mut self) {
        let [ours, theirs] = self.both(|broker, client, _| broker.take(client));
        let all = |received: &[Received]| {
            let mut all: BTreeMap<u32, Vec<_>> = BTreeMap::new();
            received.iter().for_each(|one| all.entry(one.consumer).or_default().push(seen(one)));
            all
        };
        assert_eq!(all(&ours), all(&theirs));
        for one in ours {
            let at = |other: &Received| (other.consumer, &other.body) == (one.consumer, &one.body);
            let other = theirs.iter().find(|other| at(other)).unwrap().clone();
            let browses = crate::queue::is_browsed(one.tag);
            match one.tag {
                0 => {}
                _ if browses => self.browsed.push([one, other]),
                _ => self.held.push([one, other]),
            }
        }
        let dead = self.both(|broker, client, _| {
            std::iter::from_fn(|| Some(broker.get(client, "dead", true)?.0.body)).collect::<Vec<_>>()
        });
        for (all, more) in self.dead.iter_mut().zip(dead) {
            all.extend(more);
            all.sort();
        }
        assert_eq!(self.dead[0], self.dead[1]);
        let counts = self.both(|broker, client, _| {
            kinds().iter().map(|(name, _)| broker.counts(client, name).unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(counts[0], counts[1]);
        self.brokers[1].check_records();
    }

    fn finish(mut self) {
        for (consumer, ..) in std::mem::take(&mut self.consumers) {
            self.both(|broker, client, _| broker.ask(client, Request::Cancel { consumer }).is_ok());
        }
        for held in std::mem::take(&mut self.held) {
            self.both(|broker, client, index| broker.settle(client, &held[index], Settlement::Requeue));
        }
        self.look();
        for queue in 0..kinds().len() {
            while self.brokers[0].counts(self.clients[0], kinds()[queue].0).unwrap().0 > 0 {
                self.step(Step::Get { queue, no_ack: true });
            }
        }
        let broker = &mut self.brokers[1];
        broker.run();
        let stats = broker.stats();
        assert_eq!((stats.messages, stats.ready, stats.paged), (0, 0, 0));
        let file = broker.journals[0].file();
        let unneeded: BTreeSet<Position> = file.retired.iter().map(|(at, _)| *at).collect();
        let mut all: BTreeSet<Position> = file.pages();
        let records = file.records.iter().enumerate();
        all.extend(
            records
                .filter(|(_, (written, _))| matches!(written, Written::Enqueued { .. }))
                .map(|(index, _)| Position(index as u64 + 1)),
        );
        assert_eq!(unneeded, all, "every record is given up in the end, and once");
    }
}

/// What a client sees of a message.
fn seen(received: &Received) -> (String, bool, Option<u32>) {
    (received.body.clone(), received.redelivered, received.ttl_left_ms)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn clients_see_the_same_whether_messages_stay_in_memory_or_not(
        seed in 0..4u64,
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut twins = Twins::new(seed);
        steps.into_iter().for_each(|step| twins.step(step));
        twins.finish();
    }
}
