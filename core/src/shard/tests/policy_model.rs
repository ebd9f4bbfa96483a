//! Queues with policies against a simple model of them, under random use.

use proptest::prelude::*;

use super::*;
use crate::request::{FlowThresholds, Overflow};
use crate::test_support::{properties, text};

#[derive(Clone, Debug)]
enum Step {
    Publish { key: u8, priority: u8, bytes: usize },
    Get,
    Settle { which: usize, settlement: Settlement },
    Purge,
}

fn step() -> impl Strategy<Value = Step> {
    let settlement = prop_oneof![
        3 => Just(Settlement::Accept),
        2 => Just(Settlement::Requeue),
        1 => Just(Settlement::Reject),
    ];
    prop_oneof![
        8 => (0..4u8, 0..4u8, 1..6usize)
            .prop_map(|(key, priority, bytes)| Step::Publish { key, priority, bytes }),
        4 => Just(Step::Get),
        3 => (any::<usize>(), settlement)
            .prop_map(|(which, settlement)| Step::Settle { which, settlement }),
        1 => Just(Step::Purge),
    ]
}

fn kind() -> impl Strategy<Value = Overflow> {
    prop_oneof![
        Just(Overflow::Reject),
        Just(Overflow::Ring),
        Just(Overflow::RingStrict),
        Just(Overflow::FlowToDisk),
    ]
}

fn options() -> impl Strategy<Value = QueueOptions> {
    let of_limits = (kind(), proptest::option::of(1..6u64), proptest::option::of(4..20u64));
    let of_order = (any::<bool>(), proptest::option::of(1..3u8), 0..2u8);
    let of_flow = (0..5u64, 0..4u64);
    (of_limits, of_order, of_flow).prop_map(|(limits, order, (stop, resume))| {
        let (overflow, max_length, max_length_bytes) = limits;
        let (is_last_value, max_priority, lowest_priority) = order;
        QueueOptions {
            overflow,
            max_length,
            // Properties count too.
            max_length_bytes: max_length_bytes.map(|most| most + 3 * head_bytes() as u64),
            last_value_key: is_last_value.then(|| Name::from("key")),
            max_priority,
            lowest_priority,
            flow: FlowThresholds {
                stop_messages: Some(stop),
                resume_messages: Some(resume.min(stop)),
                stop_bytes: Some(0),
                resume_bytes: None,
            },
            ..QueueOptions::default()
        }
    })
}

fn head(key: u8) -> Vec<u8> {
    properties(None, &[("key", text(&key.to_string()))])
}

fn head_bytes() -> usize {
    head(0).len()
}

#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    key: u8,
    level: u8,
    bytes: u64,
    held: bool,
}

/// The queue by the simplest means: a list, searched whole.
struct Model {
    options: QueueOptions,
    entries: Vec<Entry>,
    next: u64,
    stopped: bool,
    /// Messages whose confirm waits.
    waiting: Vec<u64>,
    /// What publishers have been told.
    told: Vec<(u64, bool)>,
}

impl Model {
    fn is_ring(&self) -> bool {
        matches!(self.options.overflow, Overflow::Ring | Overflow::RingStrict)
    }

    fn has_room(&self, bytes: u64) -> bool {
        let held: u64 = self.entries.iter().map(|entry| entry.bytes).sum();
        self.options.overflow == Overflow::FlowToDisk
            || self.options.max_length.is_none_or(|most| (self.entries.len() as u64) < most)
                && self.options.max_length_bytes.is_none_or(|most| held + bytes <= most)
    }

    fn publish(&mut self, number: u64, key: u8, priority: u8, bytes: u64) {
        let highest = self.options.max_priority.unwrap_or(0);
        let level = priority.saturating_sub(self.options.lowest_priority).min(highest);
        while !self.has_room(bytes) {
            let too_large = self.options.max_length_bytes.is_some_and(|most| bytes > most);
            let oldest = self.entries.iter().min_by_key(|entry| (entry.level, entry.number)).cloned();
            let strict = self.options.overflow == Overflow::RingStrict;
            match oldest {
                Some(oldest) if self.is_ring() && !too_large && !(strict && oldest.held) => {
                    if oldest.level > level {
                        return self.told.push((number, true));
                    }
                    self.gone(oldest.number);
                }
                _ => return self.told.push((number, false)),
            }
        }
        if self.options.last_value_key.is_some()
            && let Some(last) = self.entries.iter().find(|entry| entry.key == key)
        {
            let last = last.number;
            self.gone(last);
        }
        self.entries.push(Entry { number, key, level, bytes, held: false });
        let stop = self.options.flow.stop_messages.unwrap_or(0);
        if !self.is_ring() && stop > 0 {
            self.stopped |= self.entries.len() as u64 > stop;
        }
        if self.stopped { self.waiting.push(number) } else { self.told.push((number, true)) }
    }

    fn gone(&mut self, number: u64) {
        self.entries.retain(|entry| entry.number != number);
        if let Some(at) = self.waiting.iter().position(|&waiting| waiting == number) {
            self.waiting.remove(at);
            self.told.push((number, true));
        }
    }

    /// At the end of every step.
    fn observe(&mut self) {
        let stop = self.options.flow.stop_messages.unwrap_or(0);
        let resume = match self.options.flow.resume_messages.unwrap_or(0) {
            0 => stop,
            resume => resume,
        };
        if self.stopped && (self.entries.len() as u64) < resume {
            self.stopped = false;
            self.told.extend(self.waiting.drain(..).map(|number| (number, true)));
        }
    }

    fn get(&mut self) -> Option<u64> {
        let ready = self.entries.iter_mut().filter(|entry| !entry.held);
        let head = ready.min_by_key(|entry| (u8::MAX - entry.level, entry.number))?;
        head.held = true;
        Some(head.number)
    }
}

fn check(shards: u8, options: QueueOptions, steps: Vec<Step>) {
    let mut broker = Broker::new(shards);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { home: Some(shards - 1), ..options.clone() });
    let mut model = Model {
        options,
        entries: Vec::new(),
        next: 1,
        stopped: false,
        waiting: Vec::new(),
        told: Vec::new(),
    };
    let mut told = Vec::new();
    let mut held: Vec<(u64, Received)> = Vec::new();
    for step in steps {
        match step {
            Step::Publish { key, priority, bytes } => {
                let number = model.next;
                model.next += 1;
                let body = format!("{number:0>bytes$}");
                let id = broker
                    .message_with(client, "", "q", &body, &head(key), |header| header.priority = priority);
                let shard = &mut broker.shards[client.shard];
                match shard.publish(client.session, VHOST, id, false, Some(number)).unwrap() {
                    Published::Confirmed => told.push((number, true)),
                    Published::Rejected => told.push((number, false)),
                    Published::Pending => {}
                    Published::Unroutable(_) => panic!("the queue is there"),
                }
                model.publish(number, key, priority, (head_bytes() + body.len()) as u64);
            }
            Step::Get => {
                let got = broker.get(client, "q", false).map(|(got, _)| got);
                let number = got.as_ref().map(|got| got.body.parse::<u64>().unwrap());
                assert_eq!(number, model.get());
                held.extend(number.zip(got));
            }
            Step::Settle { which, settlement } if !held.is_empty() => {
                let (number, received) = held.swap_remove(which % held.len());
                broker.settle(client, &received, settlement);
                match settlement {
                    Settlement::Requeue | Settlement::Release => {
                        if let Some(entry) = model.entries.iter_mut().find(|entry| entry.number == number) {
                            entry.held = false;
                        }
                    }
                    Settlement::Accept | Settlement::Reject => model.gone(number),
                }
            }
            Step::Settle { .. } => {}
            Step::Purge => {
                broker.ask(client, Request::PurgeQueue { vhost: VHOST, name: Name::from("q") }).unwrap();
                let ready: Vec<u64> =
                    model.entries.iter().filter(|entry| !entry.held).map(|entry| entry.number).collect();
                ready.into_iter().for_each(|number| model.gone(number));
            }
        }
        broker.run();
        model.observe();
        let outputs = broker.told[client.owner as usize].drain(..);
        told.extend(outputs.map(|told| match told {
            Told::Confirmed(number, accepted) => (number, accepted),
            other => panic!("told {other:?}"),
        }));
        told.sort_unstable();
        model.told.sort_unstable();
        assert_eq!(told, model.told);
        let stats = broker.shards[usize::from(shards) - 1].stats();
        let held_there = model.entries.iter().filter(|entry| entry.held).count() as u64;
        assert_eq!((stats.ready, stats.unsettled), (model.entries.len() as u64 - held_there, held_there));
    }
    held.iter().for_each(|(_, received)| broker.settle(client, received, Settlement::Requeue));
    broker.end(&[client]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_with_a_policy_does_what_its_model_does(
        options in options(),
        steps in proptest::collection::vec(step(), 1..60),
        shards in 1..3u8,
    ) {
        check(shards, options, steps);
    }
}
