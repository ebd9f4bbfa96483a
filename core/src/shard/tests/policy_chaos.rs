//! Queues with policies under random use by several clients, shards stepped in random order: no limit is passed, what a
//! ring gives up is found, the last value of a key is the last one, every confirm comes and says what happened.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::request::{FlowThresholds, Overflow};
use crate::shard::random::Random;
use crate::test_support::{properties, text};

const REJECTING: &str = "rejecting";
const RING: &str = "ring";
const LAST_VALUE: &str = "last-value";
const STOPPING: &str = "stopping";
const QUEUES: [&str; 4] = [REJECTING, RING, LAST_VALUE, STOPPING];
const MOST: u64 = 5;

/// A message: its queue, who published it, its number there.
type Body = (String, u32, u32);

fn body(text: &str) -> Body {
    let mut parts = text.split(' ');
    let mut next = || parts.next().expect("a queue, an owner and a number");
    (next().to_owned(), next().parse().unwrap(), next().parse().unwrap())
}

struct Actor {
    client: Client,
    waiting: bool,
    held: Vec<Received>,
    consumers: Vec<u32>,
    next: u32,
    /// By their numbers.
    unconfirmed: BTreeMap<u64, Body>,
}

struct Chaos {
    broker: Broker,
    random: Random,
    actors: Vec<Actor>,
    /// What was confirmed, and what nobody waits for any more; the last number by queue and publisher.
    published: BTreeSet<Body>,
    refused: BTreeSet<Body>,
    last: BTreeMap<(String, u32), u32>,
    accepted: BTreeSet<Body>,
}

impl Chaos {
    fn new(mut broker: Broker, seed: u64) -> Self {
        let shards = broker.shards.len() as u8;
        let client = broker.client(0);
        let durable = broker.is_persistent;
        let at = |n: u8| QueueOptions { durable, ..at_home(n % shards) };
        let never = FlowThresholds { stop_messages: Some(0), stop_bytes: Some(0), ..Default::default() };
        let limited = |overflow, n| QueueOptions { overflow, max_length: Some(MOST), flow: never, ..at(n) };
        broker.declare(client, "lost", at(0));
        broker.bind(client, "amq.fanout", "lost", "");
        broker.declare(client, REJECTING, limited(Overflow::Reject, 1));
        let alternate = Some("amq.fanout".into());
        broker.declare(client, RING, QueueOptions { alternate, ..limited(Overflow::Ring, 2) });
        broker.declare(client, LAST_VALUE, QueueOptions { last_value_key: Some("key".into()), ..at(3) });
        let flow = FlowThresholds { stop_messages: Some(MOST), resume_messages: Some(2), ..never };
        broker.declare(client, STOPPING, QueueOptions { flow, ..at(4) });
        let mut chaos = Chaos {
            broker,
            random: Random::new(seed),
            actors: Vec::new(),
            published: BTreeSet::new(),
            refused: BTreeSet::new(),
            last: BTreeMap::new(),
            accepted: BTreeSet::new(),
        };
        (0..4).for_each(|_| chaos.join());
        chaos
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random.next() % bound as u64) as usize
    }

    fn join(&mut self) {
        let shard = self.below(self.broker.shards.len());
        let client = self.broker.client(shard);
        let (held, consumers, unconfirmed) = (Vec::new(), Vec::new(), BTreeMap::new());
        self.actors.push(Actor { client, waiting: false, held, consumers, next: 0, unconfirmed });
    }

    fn step(&mut self) {
        if self.below(2) == 0 {
            let shard = self.below(self.broker.shards.len());
            self.broker.clock.monotonic_ns += 1_000;
            self.broker.tell_time();
            self.broker.turn(shard);
            self.look();
            self.check_limits();
            return;
        }
        let at = self.below(self.actors.len());
        if !self.actors[at].waiting {
            self.act(at);
        }
    }

    fn act(&mut self, at: usize) {
        let queue = QUEUES[self.below(QUEUES.len())];
        let name = Name::from(queue);
        match self.below(24) {
            0..=11 => self.publish(at, queue),
            12..=16 => self.settle(at),
            17 => self.ask(at, Request::Get { vhost: VHOST, queue: name, no_ack: false }),
            18..=20 => {
                let actor = &mut self.actors[at];
                let consumer = actor.next;
                actor.next += 1;
                actor.consumers.push(consumer);
                let options = ConsumerOptions { prefetch: 2, ..ConsumerOptions::default() };
                self.ask(at, Request::Subscribe { vhost: VHOST, queue: name, consumer, options });
            }
            21 | 22 => {
                if let Some(consumer) = self.actors[at].consumers.pop() {
                    self.ask(at, Request::Cancel { consumer });
                }
            }
            _ => {
                self.leave(at);
                self.join();
            }
        }
    }

    fn publish(&mut self, at: usize, queue: &str) {
        let actor = &mut self.actors[at];
        let (client, number) = (actor.client, actor.next);
        actor.next += 1;
        let message = (queue.to_owned(), client.owner, number);
        self.last.insert((queue.to_owned(), client.owner), number);
        let properties = properties(None, &[("key", text(&client.owner.to_string()))]);
        let content = format!("{queue} {} {number}", client.owner);
        let id = self.broker.message_with(client, "", queue, &content, &properties, |_| {});
        let shard = &mut self.broker.shards[client.shard];
        match shard.publish(client.session, VHOST, id, true, Some(number.into())).unwrap() {
            Published::Confirmed => self.confirmed(message, true),
            Published::Rejected => self.confirmed(message, false),
            Published::Pending => drop(self.actors[at].unconfirmed.insert(number.into(), message)),
            Published::Unroutable(_) => panic!("the queue is there"),
        }
    }

    fn confirmed(&mut self, message: Body, accepted: bool) {
        assert!(accepted || message.0 == REJECTING, "{message:?} was refused");
        let new = if accepted { self.published.insert(message) } else { self.refused.insert(message) };
        assert!(new, "confirmed once");
    }

    fn settle(&mut self, at: usize) {
        if self.actors[at].held.is_empty() {
            return;
        }
        let which = self.below(self.actors[at].held.len());
        let received = self.actors[at].held.swap_remove(which);
        let settlement = if self.below(3) == 0 { Settlement::Requeue } else { Settlement::Accept };
        if settlement == Settlement::Accept {
            self.accepted.insert(body(&received.body));
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
        if let Reply::Got(Some(got)) = result.expect("every request is good") {
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
        let message = body(&received.body);
        assert!(!self.refused.contains(&message), "{message:?} was refused");
        assert!(!self.accepted.contains(&message), "{message:?} came again after it was accepted");
        self.actors[at].held.push(received);
    }

    fn look(&mut self) {
        for at in 0..self.actors.len() {
            let owner = self.actors[at].client.owner as usize;
            for received in std::mem::take(&mut self.broker.received[owner]) {
                self.hold(at, received);
            }
            for told in std::mem::take(&mut self.broker.told[owner]) {
                match told {
                    Told::Reply(result) => self.answered(at, result),
                    Told::Confirmed(sequence, accepted) => {
                        let message = self.actors[at].unconfirmed.remove(&sequence);
                        self.confirmed(message.expect("confirmed once"), accepted);
                    }
                    Told::Cancelled(consumer) => panic!("consumer {consumer} was cancelled"),
                }
            }
        }
    }

    fn check_limits(&self) {
        for queue in self.broker.shards.iter().flat_map(|shard| shard.queues.iter()) {
            let messages = queue.depth().messages;
            if queue.options().max_length.is_some() {
                assert!(messages <= MOST, "{} holds {messages}", queue.entry().name);
            }
        }
    }

    /// A client goes. What it has no confirm of may have been taken or not.
    fn leave(&mut self, at: usize) {
        let actor = self.actors.swap_remove(at);
        for received in &actor.held {
            self.broker.settle(actor.client, received, Settlement::Requeue);
        }
        self.broker.shards[actor.client.shard].close_connection(actor.client.connection);
    }

    /// What is in a queue, taken out.
    fn drain(&mut self, client: Client, queue: &str) -> Vec<Body> {
        std::iter::from_fn(|| self.broker.get(client, queue, true).map(|(got, _)| body(&got.body))).collect()
    }

    fn finish(mut self) {
        self.broker.run();
        self.look();
        let client = self.broker.client(0);
        // Whoever waits for the queue that stops is told when it empties.
        for at in 0..self.actors.len() {
            let client = self.actors[at].client;
            for received in std::mem::take(&mut self.actors[at].held) {
                self.broker.settle(client, &received, Settlement::Requeue);
            }
            for consumer in std::mem::take(&mut self.actors[at].consumers) {
                self.ask(at, Request::Cancel { consumer });
                self.broker.run();
                self.look();
            }
            for received in std::mem::take(&mut self.actors[at].held) {
                self.broker.settle(client, &received, Settlement::Requeue);
            }
        }
        self.broker.run();
        let left: Vec<Body> = QUEUES.iter().flat_map(|queue| self.drain(client, queue)).collect();
        let lost = self.drain(client, "lost");
        self.broker.run();
        self.look();
        assert!(self.actors.iter().all(|actor| actor.unconfirmed.is_empty() && !actor.waiting));
        for message in &left {
            assert!(!self.accepted.contains(message), "{message:?} is left though accepted");
            assert!(!self.refused.contains(message), "{message:?} is left though refused");
        }
        let found = |message: &Body| self.accepted.contains(message) || left.contains(message);
        for message in &self.published {
            let is_found = match message.0.as_str() {
                LAST_VALUE => continue,
                RING => found(message) || lost.contains(message),
                _ => found(message),
            };
            assert!(is_found, "{message:?} was confirmed and is nowhere");
        }
        for ((queue, owner), &number) in self.last.iter().filter(|((queue, _), _)| queue == LAST_VALUE) {
            let mut of_key = left.iter().filter(|message| &message.0 == queue && message.1 == *owner);
            let stays = of_key.next().map(|message| message.2);
            assert!(of_key.next().is_none(), "the key {owner} has one value");
            let last = (queue.clone(), *owner, number);
            assert!(stays == Some(number) || self.accepted.contains(&last), "{last:?} is not the last value");
        }
        while !self.actors.is_empty() {
            self.leave(0);
        }
        self.broker.run();
        for shard in &self.broker.shards {
            assert!(shard.withheld.is_empty());
            assert_eq!((shard.stats().messages, shard.stats().memory_bytes), (0, 0));
        }
    }
}

#[test]
fn random_use_of_policies_keeps_their_promises() {
    use_at_random(60, |_, shards| Broker::with_limits(shards, Limits::tiny()));
}

#[test]
fn policies_keep_their_promises_out_of_memory() {
    let (out, back) = use_at_random(40, |seed, shards| Broker::paged(shards, Limits::tiny(), seed));
    assert!(out > 5_000 && back > 1_000, "{out} left memory, {back} came back");
}

/// How many messages have left memory, and how many have been read again.
fn use_at_random(seeds: u64, broker: impl Fn(u64, u8) -> Broker) -> (u64, u64) {
    let (mut out, mut back) = (0, 0);
    for seed in 0..seeds {
        let mut chaos = Chaos::new(broker(seed, 1 + (seed % 3) as u8), seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..1_500 {
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
