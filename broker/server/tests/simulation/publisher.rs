//! A client that publishes, with confirms or in transactions.

use std::collections::VecDeque;

use fulmar_transport::sim::Random;

use crate::ledger::{Key, Promise};
use crate::queues::{QUEUES, Route};
use crate::run::Env;
use crate::talk::{Heard, Line, Marks, Talk, connect};

/// Publishes under way at most.
const WINDOW: usize = 64;
/// What AMQP 0-10 answers to a publish that a full queue refuses.
const RESOURCE_LIMIT_EXCEEDED: u16 = 506;
/// The same in AMQP 0-9-1.
const PRECONDITION_FAILED: u16 = 406;

pub struct Publisher {
    transactional: bool,
    /// What it sends outlives the broker.
    persistent: bool,
    wire: Option<Box<dyn Talk>>,
    life: u32,
    ready: bool,
    /// Number of the next message of this life; the publish's confirm tag, too.
    next: u32,
    /// Not answered yet: tag and keys.
    open: VecDeque<(u64, Vec<Key>)>,
    committing: Option<bool>,
    /// The broker has ended the session.
    refused: bool,
    left: u32,
    rest_steps: u32,
    /// Where the next messages go, their length, and how many: some publishers repeat themselves.
    habit: (Route, usize, u32),
}

impl Publisher {
    pub fn new(transactional: bool, persistent: bool, messages: u32) -> Self {
        Publisher {
            transactional,
            persistent,
            wire: None,
            life: 0,
            ready: false,
            next: 0,
            open: VecDeque::new(),
            committing: None,
            refused: false,
            left: messages,
            rest_steps: 0,
            habit: (Route::Queue(0), 0, 0),
        }
    }

    /// Everything published and answered.
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.open.is_empty() && self.committing.is_none()
    }

    pub fn step(&mut self, env: &mut Env<'_>) {
        if self.rest_steps > 0 {
            self.rest_steps -= 1;
            return;
        }
        let Some(wire) = &mut self.wire else {
            if !self.is_done() {
                self.wire = Some(connect(env.ways, env.address, env.random));
                self.life = env.ledger.life();
                self.next = 0;
            }
            return;
        };
        let mut heard = Vec::new();
        let line = wire.pump(1 << 16, &mut heard);
        for heard in heard {
            self.hear(heard, env);
        }
        if line == Line::Down || self.refused || (env.chaos && env.random.chance(2_000)) {
            return self.lose(env);
        }
        if self.ready {
            self.publish(env);
        }
        self.wire.as_mut().unwrap().send();
        if env.random.chance(20_000) {
            self.rest_steps = env.random.below(50) as u32;
        }
    }

    /// The end of the run: leaves without a word.
    pub fn leave(&mut self) {
        self.wire = None;
    }

    fn hear(&mut self, heard: Heard, env: &mut Env<'_>) {
        let wire = self.wire.as_mut().expect("somebody was heard");
        match heard {
            Heard::Ready => wire.begin_publishing(self.transactional),
            // A queue is too full for a transaction, or the transaction is too large: nothing of it may arrive.
            Heard::Refused { code: PRECONDITION_FAILED | RESOURCE_LIMIT_EXCEEDED, text }
                if self.transactional =>
            {
                let committing = self.committing.take() == Some(true);
                env.ledger.report.refused += u64::from(committing && text.ends_with("is full"));
                if committing && env.ledger.disk_fails {
                    env.ledger.one_fate(self.open.drain(..).flat_map(|(_, keys)| keys).collect());
                }
                self.refused = true;
            }
            // A full queue, in a protocol that tells no more than that.
            Heard::Refused { code: RESOURCE_LIMIT_EXCEEDED, .. } if wire.dies_of_refusals() => {
                self.refused = true;
            }
            Heard::Done => self.ready = true,
            // Somebody else will have to decide.
            Heard::Prepared(branch) if env.chaos && env.random.chance(200_000) => {
                let keys = self.open.drain(..).flat_map(|(_, keys)| keys).collect();
                env.ledger.left_prepared(branch, keys);
                self.refused = true;
            }
            Heard::Prepared(_) => wire.commit_prepared(),
            Heard::Ack { tag, multiple } => self.answered(tag, multiple, Promise::Owed, env),
            Heard::Nack { tag, multiple } => self.answered(tag, multiple, Promise::Void, env),
            Heard::Committed | Heard::RolledBack => {
                let commit = matches!(heard, Heard::Committed);
                assert_eq!(self.committing.take(), Some(commit), "an answer that nobody asked for");
                let promise = if commit { Promise::Owed } else { Promise::Void };
                for (_, keys) in self.open.drain(..) {
                    keys.into_iter().for_each(|key| env.ledger.promise(key, promise));
                }
            }
            heard => panic!("a publisher heard {heard:?}"),
        }
    }

    fn answered(&mut self, tag: u64, multiple: bool, promise: Promise, env: &mut Env<'_>) {
        let before = self.open.len();
        self.open.retain(|(open, keys)| {
            let hit = *open == tag || (multiple && *open < tag);
            if hit {
                keys.iter().for_each(|key| env.ledger.promise(*key, promise));
            }
            !hit
        });
        assert!(self.open.len() < before, "a confirm of {tag}, which was not open");
    }

    fn publish(&mut self, env: &mut Env<'_>) {
        if self.committing.is_some() {
            return;
        }
        for _ in 0..env.random.below(8) {
            if self.left == 0 || self.open.len() >= WINDOW || self.wire.as_ref().unwrap().unsent() > 1 << 16 {
                break;
            }
            self.publish_one(env);
        }
        if self.transactional && !self.open.is_empty() && (self.left == 0 || env.random.chance(200_000)) {
            let commit = env.random.chance(700_000);
            self.committing = Some(commit);
            self.wire.as_mut().unwrap().end_transaction(commit);
        }
    }

    fn publish_one(&mut self, env: &mut Env<'_>) {
        let (route, bytes) = self.next_like(env.queues, env.random);
        let number = self.next;
        self.next += 1;
        self.left -= 1;
        let keys: Vec<_> = (0..QUEUES.len())
            .filter(|queue| route.reaches(*queue))
            .map(|queue| Key { queue, publisher: self.life, number })
            .collect();
        keys.iter().for_each(|key| env.ledger.sent(*key, self.persistent));
        let (exchange, key) = route.address();
        let marks = Marks {
            label: route.is_labelled().then(|| label(self.life)),
            priority: route.has_priorities().then(|| priority(number)),
            persistent: self.persistent,
        };
        self.wire.as_mut().unwrap().publish(exchange, key, &marks, &body(self.life, number, bytes));
        self.open.push_back((u64::from(number) + 1, keys));
    }

    /// Where the next message goes, and its length.
    fn next_like(&mut self, queues: &[usize], random: &mut Random) -> (Route, usize) {
        let (route, bytes, left) = self.habit;
        if left > 0 {
            self.habit.2 -= 1;
            return (route, bytes);
        }
        let route = Route::any(queues, random);
        let bytes = match random.below(20) {
            0 => random.below(12_000),
            1..5 => random.below(1000),
            _ => random.below(80),
        };
        if random.chance(100_000) {
            self.habit = (route, bytes, random.below(60) as u32);
        }
        (route, bytes)
    }

    fn lose(&mut self, env: &mut Env<'_>) {
        if env.trace {
            let (life, open, committing) = (self.life, self.open.len(), self.committing);
            println!(
                "publisher {life} is lost, {open} open, transactional {}, {committing:?}",
                self.transactional
            );
        }
        env.ledger.lost(self.life);
        if let Some(wire) = self.wire.take() {
            wire.reset();
        }
        // What was not answered may arrive or not, of a transaction all or nothing; what belongs to one whose commit was
        // not asked for, was refused, or that was to be rolled back, must not.
        let open = self.open.drain(..);
        if self.transactional && self.committing == Some(true) {
            env.ledger.one_fate(open.flat_map(|(_, keys)| keys).collect());
        } else if self.transactional {
            open.flat_map(|(_, keys)| keys).for_each(|key| env.ledger.promise(key, Promise::Void));
        } else {
            drop(open);
        }
        self.refused = false;
        self.committing = None;
        self.ready = false;
        self.rest_steps = env.random.below(20) as u32;
    }
}

/// What a publisher calls its messages.
pub fn label(publisher: u32) -> String {
    format!("p{}", publisher % 3)
}

/// The priority of a publisher's message.
pub fn priority(number: u32) -> u8 {
    (number % 4) as u8
}

/// A body that tells who sent it, and whether it is whole.
pub fn body(publisher: u32, number: u32, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(12 + bytes);
    body.extend_from_slice(&publisher.to_be_bytes());
    body.extend_from_slice(&number.to_be_bytes());
    body.extend_from_slice(&(bytes as u32).to_be_bytes());
    body.extend((0..bytes).map(|i| (i as u32 ^ number ^ publisher) as u8));
    body
}

/// Who sent it; panics unless it is exactly what was sent.
pub fn sender(received: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(received[at..at + 4].try_into().expect("four bytes"));
    let (publisher, number, bytes) = (word(0), word(4), word(8));
    assert!(
        received == body(publisher, number, bytes as usize),
        "the body of {publisher}/{number} is damaged"
    );
    (publisher, number)
}
