//! Random use of durable queues: journals store late, and the process ends at random moments with what is not stored,
//! more on one shard than on another. Nothing confirmed is missing afterwards, nothing that somebody had comes back
//! unmarked, what was not there does not appear, and the journals are told of every message that goes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::stored::durable;
use super::*;
use crate::journal::Position;
use crate::shard::random::Random;
use crate::test_support::journal::Written;

/// Queues by number: name, home (of so many shards), whether it is durable. What `first`, `full` and `away` give up goes to
/// `dead`.
const QUEUES: [&str; 6] = ["first", "full", "away", "dead", "plain", "transient"];
const FULL: usize = 1;
/// Purged now and then, which is not told message by message.
const PURGED: usize = 2;
const DEAD: usize = 3;
/// Where consumers settle nothing: what is on its way to one that has gone is lost.
const LOSSY: usize = 4;
/// The queues that the fan-out leads to.
const FAN_OUT: [usize; 3] = [0, 4, 5];

/// What a message is in a queue that it was published to.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    is_persistent: bool,
    confirmed: bool,
    /// A client has settled it, or the queue was purged of it.
    done: bool,
    /// It may be twice where one restart finds it, since it was on its way.
    was_given_up: bool,
}

struct Actor {
    client: Client,
    waiting: bool,
    held: Vec<Received>,
    consumers: Vec<u32>,
    next_consumer: u32,
    next_confirm: u64,
    open: BTreeMap<u64, Vec<Key>>,
}

/// The queue that a message was published to, and its text.
type Key = (usize, String);

struct Chaos {
    broker: Broker,
    random: Random,
    actors: Vec<Actor>,
    next_text: u32,
    fates: BTreeMap<Key, Fate>,
    /// What clients have seen, by queue that it was in.
    seen: HashSet<(usize, String, usize)>,
    /// Who published what.
    publishers: BTreeMap<String, Client>,
    ids: Vec<QueueId>,
}

fn limits() -> Limits {
    Limits { lane_slots: 4, delivery_window_bytes: 256, ..Limits::default() }
}

fn options(queue: usize, shards: usize) -> QueueOptions {
    let dead = |options: QueueOptions| QueueOptions {
        dead_letter_exchange: Some(Name::from("")),
        dead_letter_routing_key: Some(Name::from("dead")),
        ..options
    };
    let options = durable((queue % shards) as u8);
    match queue {
        0 => dead(options),
        1 => dead(QueueOptions { max_length: Some(5), max_priority: Some(2), ..options }),
        2 => dead(QueueOptions { home: Some((DEAD % shards + 1) as u8 % shards as u8), ..options }),
        5 => QueueOptions { durable: false, ..options },
        _ => options,
    }
}

impl Chaos {
    fn new(seed: u64, shards: u8) -> Self {
        let mut broker = Broker::durable_with(shards, limits());
        let client = broker.client(0);
        let fan_out = ExchangeOptions { kind: Name::from("fanout"), durable: true, ..Default::default() };
        let request = Request::DeclareExchange {
            vhost: VHOST,
            name: Name::from("fan"),
            passive: false,
            options: fan_out,
        };
        broker.ask(client, request).unwrap();
        let mut chaos = Chaos {
            broker,
            random: Random::new(seed),
            actors: Vec::new(),
            next_text: 0,
            fates: BTreeMap::new(),
            seen: HashSet::new(),
            publishers: BTreeMap::new(),
            ids: Vec::new(),
        };
        chaos.settle_in(client);
        chaos
    }

    /// What is not durable is declared, what is is there again.
    fn settle_in(&mut self, client: Client) {
        let shards = self.broker.shards.len();
        for (queue, name) in QUEUES.iter().enumerate() {
            self.broker.declare(client, name, options(queue, shards));
            if FAN_OUT.contains(&queue) {
                self.broker.bind(client, "fan", name, "");
            }
        }
        let id = |name: &&str| self.broker.shards[0].queue_entry(VHOST, name.as_bytes()).unwrap().id;
        self.ids = QUEUES.iter().map(id).collect();
        self.broker.shards[client.shard].close_connection(client.connection);
        self.broker.store_all();
        self.actors.clear();
        (0..4).for_each(|_| self.join());
    }

    fn below(&mut self, n: usize) -> usize {
        self.random.next() as usize % n
    }

    fn join(&mut self) {
        let shard = self.below(self.broker.shards.len());
        let client = self.broker.client(shard);
        self.actors.push(Actor {
            client,
            waiting: false,
            held: Vec::new(),
            consumers: Vec::new(),
            next_consumer: 1,
            next_confirm: 1,
            open: BTreeMap::new(),
        });
    }

    fn step(&mut self) {
        match self.below(10) {
            0..=3 => {
                let at = self.below(self.actors.len());
                if !self.actors[at].waiting {
                    self.act(at);
                }
            }
            4 => {
                let shard = self.below(self.broker.shards.len());
                let records = self.below(6);
                let journal = self.broker.journals[shard].clone();
                journal.store(&mut self.broker.shards[shard], records);
            }
            _ => {
                let shard = self.below(self.broker.shards.len());
                self.broker.turn(shard);
            }
        }
        self.look();
    }

    fn act(&mut self, at: usize) {
        let queue = self.below(QUEUES.len());
        match self.below(24) {
            0..=7 => self.publish(at, Some(queue)),
            8..=9 => self.publish(at, None),
            10..=14 => self.settle(at),
            15..=16 => {
                let queue = Name::from(QUEUES[queue]);
                self.ask(at, Request::Get { vhost: VHOST, queue, no_ack: false });
            }
            17..=18 if self.actors[at].consumers.len() < 2 => self.subscribe(at, queue),
            19..=21 if !self.actors[at].consumers.is_empty() => {
                let consumer = self.actors[at].consumers.remove(0);
                self.ask(at, Request::Cancel { consumer });
            }
            22 if self.below(4) == 0 => {
                self.ask(at, Request::PurgeQueue { vhost: VHOST, name: Name::from(QUEUES[PURGED]) });
            }
            23 if self.below(4) == 0 => {
                self.leave(at);
                self.join();
            }
            _ => {}
        }
    }

    fn subscribe(&mut self, at: usize, queue: usize) {
        let no_ack = queue == LOSSY && self.below(2) == 0;
        let prefetch = self.below(4) as u32;
        let consumer = self.actors[at].next_consumer;
        self.actors[at].next_consumer += 1;
        self.actors[at].consumers.push(consumer);
        let options = ConsumerOptions { no_ack, prefetch, ..ConsumerOptions::default() };
        let queue = Name::from(QUEUES[queue]);
        self.ask(at, Request::Subscribe { vhost: VHOST, queue, consumer, options });
    }

    /// To one queue, or by the fan-out; several alike at once, or one.
    fn publish(&mut self, at: usize, queue: Option<usize>) {
        let client = self.actors[at].client;
        let (exchange, key) = match queue {
            Some(queue) => ("", QUEUES[queue]),
            None => ("fan", ""),
        };
        let is_persistent = self.below(8) > 0;
        let messages = if self.below(3) == 0 { 1 + self.below(5) } else { 1 };
        let texts: Vec<String> =
            (0..messages).map(|n| format!("{:06}", self.next_text as usize + n)).collect();
        self.next_text += messages as u32;
        let targets = queue.map_or_else(|| FAN_OUT.to_vec(), |queue| vec![queue]);
        for text in &texts {
            self.publishers.insert(text.clone(), client);
            for &queue in &targets {
                let is_stored = is_persistent && queue != 5;
                let fate = Fate { is_persistent: is_stored, ..Fate::default() };
                self.fates.insert((queue, text.clone()), fate);
            }
        }
        let first = self.actors[at].next_confirm;
        self.actors[at].next_confirm += messages as u64;
        let header = MessageHeader {
            encoding: &Plain,
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            properties: &[],
            body_bytes: 6,
            priority: 0,
            ttl_ms: None,
            persistent: is_persistent,
            has_headers: false,
        };
        let shard = &mut self.broker.shards[client.shard];
        let bodies: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        let head = MessageHead::new(&header);
        let alike = shard.publish_alike(client.session, VHOST, &head, 6, bodies.iter().copied(), Some(first));
        for (n, text) in texts.iter().enumerate() {
            let published = match alike {
                Some(published) => published,
                None => {
                    let id = shard.whole_message(&head, text.as_bytes());
                    shard.publish(client.session, VHOST, id, false, Some(first + n as u64)).unwrap()
                }
            };
            let keys: Vec<Key> = targets.iter().map(|&queue| (queue, text.clone())).collect();
            match published {
                Published::Pending => drop(self.actors[at].open.insert(first + n as u64, keys)),
                Published::Confirmed => {
                    assert!(
                        keys.iter().all(|key| !self.fates[key].is_persistent),
                        "{text} is not stored yet"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn settle(&mut self, at: usize) {
        if self.actors[at].held.is_empty() {
            return;
        }
        let which = self.below(self.actors[at].held.len());
        let received = self.actors[at].held.swap_remove(which);
        let settlement = match self.below(6) {
            0 => Settlement::Requeue,
            1 => Settlement::Release,
            2 => Settlement::Reject,
            _ => Settlement::Accept,
        };
        let queue = self.queue_of(&received);
        let key = origin(&received, queue);
        let fate = self.fates.get_mut(&key).unwrap();
        match settlement {
            // Its client has not looked at it.
            Settlement::Release if !received.redelivered => drop(self.seen.remove(&(key.0, key.1, queue))),
            Settlement::Accept => fate.done = true,
            Settlement::Reject if queue <= 2 => fate.was_given_up = true,
            Settlement::Reject => fate.done = true,
            _ => {}
        }
        self.broker.settle(self.actors[at].client, &received, settlement);
    }

    fn queue_of(&self, received: &Received) -> usize {
        self.ids.iter().position(|id| *id == received.queue).unwrap()
    }

    fn ask(&mut self, at: usize, request: Request) {
        let client = self.actors[at].client;
        match self.broker.shards[client.shard].request(client.session, request) {
            Some(result) => self.answered(at, result),
            None => self.actors[at].waiting = true,
        }
    }

    fn answered(&mut self, at: usize, result: Result<Reply, Refusal>) {
        self.actors[at].waiting = false;
        let client = self.actors[at].client;
        if let Reply::Got(Some(Got { queue, tag, message, redelivered, .. })) = result.unwrap() {
            let delivery = Delivery {
                owner: client.owner,
                channel: 1,
                redelivered,
                ttl_left_ms: None,
                consumer: 0,
                queue,
                tag,
                message,
                followers: 0,
            };
            let shard = &mut self.broker.shards[client.shard];
            let received = super::look(shard, &delivery);
            shard.release(message);
            self.receive(at, received);
        }
    }

    fn receive(&mut self, at: usize, received: Received) {
        let queue = self.queue_of(&received);
        let key = origin(&received, queue);
        let name = (key.0, key.1.clone(), queue);
        let fate = self.fates.get_mut(&key).unwrap_or_else(|| panic!("{key:?} was not published"));
        let again = !self.seen.insert(name);
        // What a queue gives up may come to the next one twice, if the process ends in between.
        let is_given_up = queue == DEAD && key.0 != DEAD;
        assert!(
            !again || received.redelivered || is_given_up,
            "{key:?} came again to {queue} without a mark"
        );
        let may_be_twice = fate.was_given_up || key.0 == FULL;
        assert!(!fate.done || received.redelivered || may_be_twice, "{key:?} was done: {fate:?}");
        if received.tag == 0 {
            fate.done = true;
        } else {
            self.actors[at].held.push(received);
        }
    }

    fn look(&mut self) {
        for at in 0..self.actors.len() {
            let owner = self.actors[at].client.owner as usize;
            for received in std::mem::take(&mut self.broker.received[owner]) {
                self.receive(at, received);
            }
            for told in std::mem::take(&mut self.broker.told[owner]) {
                match told {
                    Told::Reply(result) => self.answered(at, result),
                    Told::Confirmed(sequence, accepted) => {
                        assert!(accepted);
                        let keys = self.actors[at].open.remove(&sequence).expect("confirmed once");
                        for key in keys {
                            self.fates.get_mut(&key).unwrap().confirmed = true;
                        }
                    }
                    Told::Cancelled(consumer) => panic!("consumer {consumer} was cancelled"),
                }
            }
        }
    }

    fn leave(&mut self, at: usize) {
        let actor = self.actors.swap_remove(at);
        for received in &actor.held {
            self.broker.settle(actor.client, received, Settlement::Requeue);
        }
        self.broker.shards[actor.client.shard].close_connection(actor.client.connection);
    }

    /// The process ends and another one begins, with what the journals have.
    fn crash(mut self) -> Self {
        self.look();
        let shards = self.broker.shards.len() as u8;
        let random = &mut self.random;
        let mut broker = self.broker.restarted_with(shards, limits(), |journal| {
            let file = journal.file();
            let unstored = file.records.len() - file.stored;
            random.next() as usize % (unstored + 1)
        });
        let client = broker.client(0);
        self = Chaos { broker, ..self };
        self.settle_in(client);
        self.compare();
        self
    }

    /// What is in the queues is what has to be, and may be.
    fn compare(&mut self) {
        let mut found: BTreeMap<Key, Vec<(usize, bool)>> = BTreeMap::new();
        for (queue, name) in QUEUES.iter().enumerate() {
            let client = self.broker.client(0);
            let browse = ConsumerOptions { browse: true, ..ConsumerOptions::default() };
            self.broker.subscribe(client, name, 1, browse);
            self.broker.store_all();
            let all = self.broker.take(client);
            self.broker.shards[0].close_connection(client.connection);
            let mut last: BTreeMap<u32, String> = BTreeMap::new();
            for received in all {
                let key = origin(&received, queue);
                let last = last.entry(self.publishers[&received.body].owner).or_default();
                assert!(queue == DEAD || received.body > *last, "{} after {last}", received.body);
                last.clone_from(&received.body);
                let is_given_up = queue == DEAD && key.0 != DEAD;
                if self.seen.contains(&(key.0, key.1.clone(), queue)) && !is_given_up {
                    assert!(received.redelivered, "{key:?} in {name} is not marked");
                }
                found.entry(key).or_default().push((queue, received.redelivered));
            }
        }
        let mut gone = Vec::new();
        for (key, fate) in &mut self.fates {
            match found.remove(key) {
                Some(places) => {
                    assert!(fate.is_persistent, "{key:?} should not have outlived the process");
                    // One that was given up may be where it was and where it went to, and be given up again.
                    let alive = places.iter().filter(|(queue, _)| *queue != DEAD || key.0 == DEAD).count();
                    assert!(alive <= 1, "{key:?} is twice in a queue: {places:?}");
                    assert!(places.len() == 1 || key.0 <= 2, "{key:?} is in {places:?}");
                    *fate = Fate { confirmed: true, done: false, ..*fate };
                }
                None => {
                    let is_safe = fate.is_persistent && fate.confirmed && key.0 != PURGED && key.0 != LOSSY;
                    assert!(!is_safe || fate.done, "{key:?} is missing: {fate:?}");
                    gone.push(key.clone());
                }
            }
        }
        assert!(found.is_empty(), "{found:?} were never published");
        for key in gone {
            self.fates.remove(&key);
        }
    }

    /// Everybody goes, everything is taken; then nothing is left anywhere.
    fn finish(mut self) {
        while !self.actors.is_empty() {
            self.leave(0);
        }
        self.broker.store_all();
        let client = self.broker.client(0);
        for name in QUEUES {
            while self.broker.get(client, name, true).is_some() {}
        }
        self.broker.store_all();
        for (shard, journal) in self.broker.shards.iter().zip(&self.broker.journals) {
            assert_eq!((shard.stats().messages, shard.stats().memory_bytes), (0, 0));
            assert!(journal.places().is_empty(), "what a restart would find");
            let file = journal.file();
            let retired: BTreeSet<Position> = file.retired.iter().map(|(at, _)| *at).collect();
            for (index, (record, _)) in file.records.iter().enumerate().skip(journal.first_of_run()) {
                let is_enqueued = matches!(record, Written::Enqueued { .. });
                assert_eq!(retired.contains(&Position(index as u64 + 1)), is_enqueued, "record {index}");
            }
        }
    }
}

/// Where a message was published to, or first gave up.
fn origin(received: &Received, queue: usize) -> Key {
    let first = received
        .headers
        .get(b"x-first-death-queue")
        .and_then(|name| QUEUES.iter().position(|queue| Some(queue.as_bytes()) == name.as_bytes()));
    (first.unwrap_or(queue), received.body.clone())
}

#[test]
fn nothing_confirmed_is_lost_wherever_the_process_ends() {
    let seeds = std::env::var("FULMAR_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60);
    let first = std::env::var("FULMAR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut chaos = Chaos::new(seed, 1 + (seed % 3) as u8);
            for _ in 0..4 {
                for _ in 0..600 {
                    chaos.step();
                }
                chaos = chaos.crash();
            }
            for _ in 0..600 {
                chaos.step();
            }
            chaos.finish();
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
