//! Random use by several clients, shards stepped in random order, limits tiny: nothing is lost, nothing comes twice
//! unmarked, the order of what is left is the order of publishing, nothing stays behind.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::*;
use crate::Credit;
use crate::shard::random::Random;

const QUEUES: usize = 4;

/// A client and what it knows.
struct Actor {
    client: Client,
    waiting: bool,
    held: Vec<Received>,
    consumers: Vec<u32>,
    /// What consumers that need credit may still be sent.
    credit: BTreeMap<u32, Credit>,
    /// Its session stops and limits deliveries, instead of consumers' credit doing so.
    is_gated: bool,
    /// The consumer whose credit is to end.
    ending: Option<u32>,
    /// Consumers that browse, and the numbers that they saw last of each publisher.
    browsers: BTreeMap<u32, BTreeMap<String, u32>>,
    /// What was browsed and may be acquired.
    browsed: Vec<Received>,
    /// What is being acquired.
    acquiring: Option<Received>,
    next_consumer: u32,
    next_confirm: u64,
    open_confirms: BTreeSet<u64>,
}

struct Chaos {
    broker: Broker,
    random: Random,
    actors: Vec<Actor>,
    /// The exchange that leads to all queues; of some seeds one that numbers messages at its home.
    to_all: String,
    published: Vec<u32>,
    seen: HashSet<String>,
    accepted: HashSet<String>,
}

impl Chaos {
    fn new(mut broker: Broker, seed: u64) -> Self {
        let shards = broker.shards.len() as u8;
        let client = broker.client(0);
        let to_all = if seed.is_multiple_of(2) { "amq.fanout".to_owned() } else { format!("numbered{seed}") };
        if !seed.is_multiple_of(2) {
            let arguments = Table(vec![(Name::from("qpid.msg_sequence"), Value::Bool(true))]);
            broker.exchange(client, &to_all, "fanout", arguments);
        }
        for queue in 0..QUEUES {
            let options = QueueOptions { durable: broker.is_persistent, ..at_home(queue as u8 % shards) };
            broker.declare(client, &format!("q{queue}"), options);
            broker.bind(client, &to_all, &format!("q{queue}"), "");
        }
        let mut chaos = Chaos {
            broker,
            random: Random::new(seed),
            actors: Vec::new(),
            to_all,
            published: vec![0; QUEUES + 1],
            seen: HashSet::new(),
            accepted: HashSet::new(),
        };
        for _ in 0..5 {
            chaos.join();
        }
        chaos
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random.next() % bound as u64) as usize
    }

    fn join(&mut self) {
        let shard = self.below(self.broker.shards.len());
        let is_gated = self.below(2) == 0;
        self.actors.push(Actor {
            is_gated,
            client: self.broker.client(shard),
            waiting: false,
            held: Vec::new(),
            consumers: Vec::new(),
            credit: BTreeMap::new(),
            ending: None,
            browsers: BTreeMap::new(),
            browsed: Vec::new(),
            acquiring: None,
            next_consumer: 0,
            next_confirm: 0,
            open_confirms: BTreeSet::new(),
        });
    }

    fn step(&mut self) {
        let shard = self.below(self.broker.shards.len());
        match self.below(16) {
            0..=7 => {
                self.broker.clock.monotonic_ns += 1_000;
                self.broker.tell_time();
                self.broker.turn(shard);
                self.look();
            }
            _ => {
                let at = self.below(self.actors.len());
                if !self.actors[at].waiting {
                    self.act(at);
                }
            }
        }
    }

    fn act(&mut self, at: usize) {
        let client = self.actors[at].client;
        let queue = self.below(QUEUES);
        let name = Name::from(format!("q{queue}"));
        match self.below(23) {
            0..=7 => self.publish(at, queue),
            8 => self.publish(at, QUEUES),
            9..=12 => self.settle(at),
            13 => {
                let actor = &mut self.actors[at];
                let consumer = actor.next_consumer;
                actor.next_consumer += 1;
                actor.consumers.push(consumer);
                let prefetch = self.below(3) as u32;
                let credit = (!self.actors[at].is_gated && self.below(2) == 0).then(|| self.credit());
                if let Some(credit) = credit {
                    self.actors[at].credit.insert(consumer, credit);
                }
                let browse = self.below(3) == 0;
                if browse {
                    self.actors[at].browsers.insert(consumer, BTreeMap::new());
                }
                let options = ConsumerOptions { prefetch, credit, browse, ..ConsumerOptions::default() };
                self.ask(at, Request::Subscribe { vhost: VHOST, queue: name, consumer, options });
            }
            14 => {
                if let Some(consumer) = self.actors[at].consumers.pop() {
                    self.ask(at, Request::Cancel { consumer });
                }
            }
            15 => self.ask(at, Request::Get { vhost: VHOST, queue: name, no_ack: false }),
            16 => {
                let writable = self.below(3) > 0;
                self.broker.shards[client.shard].set_writable(client.connection, writable);
            }
            17 if self.actors[at].is_gated => {
                let active = self.below(3) > 0;
                self.broker.shards[client.shard].set_session_flow(client.session, active);
            }
            18 if self.actors[at].is_gated => {
                let prefetch = self.below(4) as u32;
                self.broker.shards[client.shard].set_session_prefetch(client.session, prefetch);
            }
            17..=19 => self.grant(at),
            20 => {
                let Some(consumer) = self.some_with_credit(at) else { return };
                self.actors[at].ending = Some(consumer);
                let flush = self.below(2) == 0;
                self.ask(
                    at,
                    if flush {
                        Request::FlushConsumer { consumer }
                    } else {
                        Request::StopConsumer { consumer }
                    },
                );
            }
            21 => {
                let Some(browsed) = self.actors[at].browsed.pop() else { return };
                let (queue, tags) = (browsed.queue, vec![browsed.tag]);
                self.actors[at].acquiring = Some(browsed);
                self.ask(at, Request::Acquire { queue, tags });
            }
            _ => {
                self.leave(at);
                self.join();
            }
        }
    }

    fn credit(&mut self) -> Credit {
        let bytes = if self.below(3) == 0 { Credit::UNLIMITED } else { self.below(30) as u32 };
        Credit { messages: self.below(4) as u32, bytes }
    }

    fn some_with_credit(&mut self, at: usize) -> Option<u32> {
        let which = self.below(4);
        let actor = &self.actors[at];
        actor.credit.keys().filter(|consumer| actor.consumers.contains(consumer)).nth(which).copied()
    }

    fn grant(&mut self, at: usize) {
        let Some(consumer) = self.some_with_credit(at) else { return };
        let more = self.credit();
        self.actors[at].credit.get_mut(&consumer).unwrap().grant(more);
        let client = self.actors[at].client;
        self.broker.shards[client.shard].grant_credit(client.session, consumer, more);
    }

    /// Publishes to one queue, or to all.
    fn publish(&mut self, at: usize, queue: usize) {
        let number = self.published[queue];
        self.published[queue] += 1;
        let client = self.actors[at].client;
        let body = format!("{queue}:{}:{number}", client.owner);
        let (exchange, key) = match queue {
            QUEUES => (self.to_all.as_str(), String::new()),
            _ => ("", format!("q{queue}")),
        };
        let id = self.broker.message(client, exchange, &key, &body);
        let sequence = self.actors[at].next_confirm;
        self.actors[at].next_confirm += 1;
        let shard = &mut self.broker.shards[client.shard];
        match shard.publish(client.session, VHOST, id, true, Some(sequence)).unwrap() {
            Published::Confirmed => {}
            Published::Pending => drop(self.actors[at].open_confirms.insert(sequence)),
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, at: usize) {
        if self.actors[at].held.is_empty() {
            return;
        }
        let which = self.below(self.actors[at].held.len());
        let received = self.actors[at].held.swap_remove(which);
        let settlement = if self.below(3) == 0 { Settlement::Requeue } else { Settlement::Accept };
        if settlement == Settlement::Accept {
            let new = self.accepted.insert(format!("{:?} {}", received.queue, received.body));
            assert!(new, "{} was accepted twice", received.body);
        }
        self.broker.settle(self.actors[at].client, &received, settlement);
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
        if let Some(consumer) = self.actors[at].ending.take() {
            self.actors[at].credit.insert(consumer, Credit::NONE);
        }
        let acquired = self.actors[at].acquiring.take();
        let reply = result.expect("every request is good");
        if let (Reply::Acquired { tags, .. }, Some(browsed)) = (&reply, acquired)
            && let Some(tag) = tags[0]
        {
            // It may have been marked since it was browsed.
            self.hold(at, Received { tag, redelivered: true, ..browsed });
        }
        if let Reply::Got(Some(got)) = reply {
            let client = self.actors[at].client;
            let Got { queue, tag, message, redelivered, .. } = got;
            let owner = client.owner;
            let delivery = Delivery {
                owner,
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
            let received = look(shard, &delivery);
            shard.release(message);
            self.hold(at, received);
        }
    }

    fn hold(&mut self, at: usize, received: Received) {
        let name = format!("{:?} {}", received.queue, received.body);
        assert!(!self.accepted.contains(&name), "{} came again after it was accepted", received.body);
        let again = !self.seen.insert(name);
        assert!(!again || received.redelivered, "{} came again without a mark", received.body);
        self.actors[at].held.push(received);
    }

    /// What is browsed is seen once and in order, and is not accepted yet unless that happened meanwhile.
    fn browse(&mut self, at: usize, received: Received) {
        let (from, number) = received.body.rsplit_once(':').unwrap();
        let (from, number) = (format!("{:?} {from}", received.queue), number.parse().unwrap());
        let actor = &mut self.actors[at];
        let seen = actor.browsers.get_mut(&received.consumer).unwrap().insert(from, number);
        assert!(seen.is_none_or(|seen| seen < number), "{} after {seen:?}", received.body);
        actor.browsed.push(received);
    }

    /// Notes what the clients have been told.
    fn look(&mut self) {
        for at in 0..self.actors.len() {
            let owner = self.actors[at].client.owner as usize;
            for received in std::mem::take(&mut self.broker.received[owner]) {
                if let Some(credit) = self.actors[at].credit.get_mut(&received.consumer) {
                    // Panics if there is none.
                    credit.spend(1, received.body.len());
                }
                if self.actors[at].browsers.contains_key(&received.consumer) {
                    self.browse(at, received);
                } else {
                    self.hold(at, received);
                }
            }
            for told in std::mem::take(&mut self.broker.told[owner]) {
                match told {
                    Told::Reply(result) => {
                        // A fetched message is still the reply's.
                        self.answered(at, result);
                    }
                    Told::Confirmed(sequence, accepted) => {
                        assert!(accepted);
                        assert!(self.actors[at].open_confirms.remove(&sequence), "confirmed once");
                    }
                    Told::Cancelled(consumer) => panic!("consumer {consumer} was cancelled"),
                }
            }
        }
    }

    /// A client goes, giving back what it holds, with a request outstanding or not.
    fn leave(&mut self, at: usize) {
        let actor = self.actors.swap_remove(at);
        for received in &actor.held {
            self.broker.settle(actor.client, received, Settlement::Requeue);
        }
        self.broker.shards[actor.client.shard].close_connection(actor.client.connection);
    }

    /// Everybody goes; what is left has to be what was published and not accepted, in order.
    fn finish(mut self) {
        for Actor { client, .. } in &self.actors {
            let shard = &mut self.broker.shards[client.shard];
            shard.set_writable(client.connection, true);
            shard.set_session_flow(client.session, true);
            shard.set_session_prefetch(client.session, 0);
        }
        for _ in 0..200 {
            for shard in 0..self.broker.shards.len() {
                self.broker.turn(shard);
            }
            self.look();
        }
        assert!(self.actors.iter().all(|actor| actor.open_confirms.is_empty() && !actor.waiting));
        while !self.actors.is_empty() {
            self.leave(0);
        }
        self.broker.run();
        let client = self.broker.client(0);
        for queue in 0..QUEUES {
            let mut next = BTreeMap::new();
            let mut last_number = 0;
            while let Some((got, _)) = self.broker.get(client, &format!("q{queue}"), true) {
                let (from, number) = got.body.rsplit_once(':').unwrap();
                let number: u32 = number.parse().unwrap();
                let name = format!("{:?} {}", got.queue, got.body);
                assert!(!self.accepted.contains(&name), "{} is left though accepted", got.body);
                assert!(got.redelivered || !self.seen.contains(&name), "{}", got.body);
                self.accepted.insert(name);
                let least = next.insert(from.to_owned(), number + 1).unwrap_or(0);
                assert!(number >= least, "{} is out of order", got.body);
                if let Some(number) = got.headers.get(b"qpid.msg_sequence").and_then(Value::as_i64) {
                    assert!(number > last_number, "{} is not in the order of its number", got.body);
                    last_number = number;
                }
            }
        }
        let all = self.published.iter().take(QUEUES).sum::<u32>() + self.published[QUEUES] * QUEUES as u32;
        assert_eq!(self.accepted.len(), all as usize, "everything was accepted or left");
        self.broker.run();
        for shard in &self.broker.shards {
            assert_eq!((shard.stats().messages, shard.stats().memory_bytes), (0, 0));
        }
    }
}

#[test]
fn random_use_loses_nothing() {
    use_at_random(90, |_, shards| Broker::with_limits(shards, Limits::tiny()));
}

#[test]
fn random_use_loses_nothing_that_is_out_of_memory() {
    let (out, back) = use_at_random(60, |seed, shards| Broker::paged(shards, Limits::tiny(), seed));
    assert!(out > 10_000 && back > 10_000, "{out} left memory, {back} came back");
}

/// How many messages have left memory, and how many have been read again.
fn use_at_random(seeds: u64, broker: impl Fn(u64, u8) -> Broker) -> (u64, u64) {
    let (mut out, mut back) = (0, 0);
    for seed in 0..seeds {
        let mut chaos = Chaos::new(broker(seed, 1 + (seed % 3) as u8), seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..2_000 {
                chaos.step();
            }
            let paged = chaos.broker.paged_messages();
            chaos.finish();
            paged
        }));
        let Ok(paged) = outcome else { panic!("seed {seed}") };
        (out, back) = (out + paged.0, back + paged.1);
    }
    (out, back)
}
