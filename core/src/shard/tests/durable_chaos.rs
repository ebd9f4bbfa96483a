//! Clients on several shards declare, bind and delete, the control shard's journal stores late, and the process ends at some
//! record. What was answered is there afterwards, what was answered as deleted is not, and what was under way is done or
//! not done.

use std::collections::{BTreeMap, BTreeSet};

use super::durable::{bind_to, declare, declare_exchange, delete, fanout, unbind_of};
use super::*;
use crate::shard::random::Random;

const RUNS: usize = 4;
const STEPS: usize = 120;
const NAMES: u64 = 3;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Bound {
    source: String,
    destination: String,
    kind: DestinationKind,
    key: String,
}

/// What a client has made; nobody else touches it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Made {
    /// With whether they are durable.
    queues: BTreeMap<String, bool>,
    exchanges: BTreeMap<String, bool>,
    bindings: BTreeSet<Bound>,
}

#[derive(Clone, Debug)]
enum Step {
    Queue(String, bool),
    NoQueue(String),
    Exchange(String, bool),
    NoExchange(String),
    Bind(Bound),
    Unbind(Bound),
}

impl Made {
    fn after(&self, step: &Step) -> Made {
        let mut made = self.clone();
        match step {
            Step::Queue(name, durable) => drop(made.queues.insert(name.clone(), *durable)),
            Step::Exchange(name, durable) => drop(made.exchanges.insert(name.clone(), *durable)),
            Step::NoQueue(name) => {
                made.queues.remove(name);
                made.bindings.retain(|b| b.kind == DestinationKind::Exchange || b.destination != *name);
            }
            Step::NoExchange(name) => {
                made.exchanges.remove(name);
                made.bindings.retain(|b| {
                    b.source != *name && (b.kind == DestinationKind::Queue || b.destination != *name)
                });
            }
            Step::Bind(bound) => drop(made.bindings.insert(bound.clone())),
            Step::Unbind(bound) => drop(made.bindings.remove(bound)),
        }
        made
    }

    /// What of it a restart has to find.
    fn durable(&self) -> Made {
        let is_durable = |exchange: &str| self.exchanges.get(exchange) != Some(&false);
        let mut made = self.clone();
        made.queues.retain(|_, durable| *durable);
        made.exchanges.retain(|_, durable| *durable);
        made.bindings.retain(|b| {
            is_durable(&b.source)
                && match b.kind {
                    DestinationKind::Queue => self.queues[&b.destination],
                    DestinationKind::Exchange => is_durable(&b.destination),
                }
        });
        made
    }

    /// Something that can be done.
    fn random_step(&self, prefix: &str, random: &mut Random) -> Step {
        let name = |kind: &str, random: &mut Random| format!("{prefix}{kind}{}", random.next() % NAMES);
        let (queue, exchange) = (name("q", random), name("e", random));
        let durable = !random.next().is_multiple_of(3);
        match random.next() % 10 {
            0 | 1 => Step::Queue(queue.clone(), *self.queues.get(&queue).unwrap_or(&durable)),
            2 | 3 => Step::Exchange(exchange.clone(), *self.exchanges.get(&exchange).unwrap_or(&durable)),
            4 => Step::NoQueue(queue),
            5 => Step::NoExchange(exchange),
            6 if !self.bindings.is_empty() => {
                let at = random.next() as usize % self.bindings.len();
                Step::Unbind(self.bindings.iter().nth(at).expect("it is one of them").clone())
            }
            _ => {
                let other = name("e", random);
                let is_queue = random.next().is_multiple_of(2);
                let is_there = match is_queue {
                    true => self.queues.contains_key(&queue),
                    false => self.exchanges.contains_key(&other),
                };
                let source = match self.exchanges.contains_key(&exchange) {
                    true => exchange,
                    false => "amq.topic".to_string(),
                };
                if !is_there {
                    return Step::Queue(queue.clone(), *self.queues.get(&queue).unwrap_or(&durable));
                }
                let kind = if is_queue { DestinationKind::Queue } else { DestinationKind::Exchange };
                let destination = if is_queue { queue } else { other };
                Step::Bind(Bound { source, destination, kind, key: (random.next() % 3).to_string() })
            }
        }
    }
}

impl Step {
    fn request(&self) -> Request {
        match self {
            Step::Queue(name, durable) => {
                declare(name, QueueOptions { durable: *durable, ..QueueOptions::default() })
            }
            Step::NoQueue(name) => delete(name),
            Step::Exchange(name, durable) => declare_exchange(name, fanout(*durable)),
            Step::NoExchange(name) => {
                Request::DeleteExchange { vhost: VHOST, name: name.as_str().into(), if_unused: false }
            }
            Step::Bind(b) => bind_to(&b.source, &b.destination, b.kind, &b.key),
            Step::Unbind(b) => unbind_of(bind_to(&b.source, &b.destination, b.kind, &b.key)),
        }
    }
}

/// What is there of what a client has made.
fn found(topology: &Topology, prefix: &str) -> Made {
    let is_its = |name: &Name| name.as_bytes().starts_with(prefix.as_bytes());
    let text = |name: &Name| name.to_string();
    let exchanges = topology.exchanges(VHOST).filter(|e| is_its(&e.name));
    let bindings = topology.bindings(VHOST).filter(|b| is_its(&b.destination));
    Made {
        queues: topology
            .queues(VHOST)
            .filter(|q| is_its(&q.name))
            .map(|q| (text(&q.name), q.options.durable))
            .collect(),
        exchanges: exchanges.map(|e| (text(&e.name), e.options.durable)).collect(),
        bindings: bindings
            .map(|b| Bound {
                source: text(&b.source),
                destination: text(&b.destination),
                kind: b.kind,
                key: text(&b.key),
            })
            .collect(),
    }
}

struct Maker {
    client: Client,
    prefix: String,
    made: Made,
    under_way: Option<Step>,
    /// The journal failed on it: what is there now is not what a restart finds.
    is_unsure: bool,
}

impl Maker {
    fn answered(&mut self, result: Result<Reply, Refusal>) {
        let step = self.under_way.take().expect("there was a request");
        match result {
            Ok(_) => self.made = self.made.after(&step),
            Err(Refusal::NotStored(reason)) if reason.contains("full") => {}
            Err(Refusal::NotStored(_)) => {
                self.is_unsure = true;
                self.under_way = Some(step);
            }
            Err(refusal) => panic!("{step:?}: {refusal}"),
        }
    }
}

fn chaos(seed: u64) {
    let mut random = Random::new(seed);
    let mut broker = Broker::durable(1 + (random.next() % 3) as u8);
    let mut made = vec![Made::default(); 4];
    for _ in 0..RUNS {
        let mut makers: Vec<Maker> = made
            .drain(..)
            .enumerate()
            .map(|(n, made)| {
                let client = broker.client(random.next() as usize % broker.shards.len());
                Maker { client, prefix: format!("{n}-"), made, under_way: None, is_unsure: false }
            })
            .collect();
        for _ in 0..STEPS {
            step(&mut broker, &mut makers, &mut random);
        }
        if random.next().is_multiple_of(4) {
            broker.journals[0].clone().fail(&mut broker.shards[0], "the disk is gone");
            broker.run();
            makers.iter_mut().for_each(|maker| take_answer(&mut broker, maker));
        }
        let shards = 1 + (random.next() % 3) as u8;
        broker = broker.restarted(shards, (random.next() % 4) as usize);
        broker.stored_topology();
        for maker in &makers {
            let there = found(&broker.shards[usize::from(shards) - 1].topology, &maker.prefix);
            let before = maker.made.durable();
            let after = maker.under_way.as_ref().map(|step| maker.made.after(step).durable());
            assert!(
                there == before || Some(&there) == after.as_ref(),
                "seed {seed}, {:?}: found {there:?}, expected {before:?} or {after:?}",
                maker.under_way
            );
            made.push(there);
        }
    }
}

fn take_answer(broker: &mut Broker, maker: &mut Maker) {
    match broker.told[maker.client.owner as usize].pop_front() {
        Some(Told::Reply(result)) => maker.answered(result),
        None => {}
        other => panic!("nobody wanted {other:?}"),
    }
}

fn step(broker: &mut Broker, makers: &mut [Maker], random: &mut Random) {
    let at = random.next() as usize % makers.len();
    let maker = &mut makers[at];
    take_answer(broker, maker);
    if maker.under_way.is_none() && !maker.is_unsure {
        let step = maker.made.random_step(&maker.prefix, random);
        let request = step.request();
        maker.under_way = Some(step);
        if let Some(result) = broker.shards[maker.client.shard].request(maker.client.session, request) {
            maker.answered(result);
        }
    }
    for _ in 0..random.next() % 4 {
        broker.turn(random.next() as usize % broker.shards.len());
    }
    match random.next() % 8 {
        0..3 => {
            let records = (random.next() % 4) as usize;
            broker.journals[0].clone().store(&mut broker.shards[0], records);
        }
        3 => {
            let is_full = random.next().is_multiple_of(4);
            broker.journals[0].change(|file| file.full = is_full.then(|| "it is full".into()));
        }
        _ => {}
    }
}

#[test]
fn what_was_answered_is_what_a_restart_finds() {
    for seed in 0..if cfg!(miri) { 2 } else { 100 } {
        chaos(seed);
    }
}
