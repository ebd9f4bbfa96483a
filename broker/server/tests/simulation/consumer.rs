//! A client that consumes from one queue: by subscription or by `get`, settling in every way.

use std::collections::HashMap;

use crate::ledger::Key;
use crate::publisher::{label, priority, sender};
use crate::queues::{DEAD, QUEUES};
use crate::run::Env;
use crate::talk::{Heard, Line, Settling, Talk, connect};

pub struct Consumer {
    queue: usize,
    /// Asks for messages one by one.
    gets: bool,
    prefetch: u16,
    /// Settles in transactions.
    transactional: bool,
    wire: Option<Box<dyn Talk>>,
    life: u32,
    ready: bool,
    asked: bool,
    cancelling: bool,
    /// Waits for its transactions to begin.
    selecting: bool,
    /// Settled in a transaction whose commit was not answered.
    committing: Vec<Key>,
    /// Delivered and not settled: tag and message, in order.
    held: Vec<(u64, Key)>,
    /// The last tag delivered before the present subscription.
    before: u64,
    /// Last first delivery of each publisher, and of each priority.
    last: HashMap<(u32, u8), u32>,
    /// The broker has ended the session.
    refused: bool,
    rest_steps: u32,
}

impl Consumer {
    pub fn new(queue: usize, gets: bool, prefetch: u16, transactional: bool) -> Self {
        Consumer {
            queue,
            gets,
            prefetch,
            transactional,
            wire: None,
            life: 0,
            ready: false,
            asked: false,
            cancelling: false,
            selecting: false,
            committing: Vec::new(),
            held: Vec::new(),
            before: 0,
            last: HashMap::new(),
            refused: false,
            rest_steps: 0,
        }
    }

    pub fn step(&mut self, env: &mut Env<'_>) {
        if self.rest_steps > 0 {
            self.rest_steps -= 1;
            return;
        }
        let Some(wire) = &mut self.wire else {
            self.wire = Some(connect(env.ways, env.address, env.random));
            self.life = env.ledger.life();
            return;
        };
        let mut heard = Vec::new();
        let most = if env.random.chance(100_000) { 0 } else { 1 + env.random.below(4096) };
        let line = wire.pump(most, &mut heard);
        for heard in heard {
            self.hear(heard, env);
        }
        if line == Line::Down || self.refused || (env.chaos && env.random.chance(3_000)) {
            return self.lose(env);
        }
        self.settle(env);
        self.ask(env);
        self.wire.as_mut().unwrap().send();
        if env.random.chance(20_000) {
            self.rest_steps = env.random.below(100) as u32;
        }
    }

    /// The end of the run: leaves without a word. What it still holds goes back.
    pub fn leave(&mut self) {
        self.wire = None;
    }

    /// The broker is gone, and what it said last was not heard.
    pub fn cut(&mut self, env: &mut Env<'_>) {
        if self.wire.is_some() {
            self.lose(env);
        }
    }

    /// What it is waiting for.
    pub fn describe(&self) -> String {
        let (queue, held, committing) = (QUEUES[self.queue].name, self.held.len(), self.committing.len());
        format!("{queue}: {held} held, {committing} being committed, transactional: {}", self.transactional)
    }

    /// Holds nothing.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.committing.is_empty()
    }

    fn hear(&mut self, heard: Heard, env: &mut Env<'_>) {
        match heard {
            Heard::Ready if self.transactional && !self.selecting => {
                self.selecting = true;
                self.wire.as_mut().expect("somebody was heard").begin_settling();
            }
            Heard::Ready => self.begin(),
            Heard::Done if self.selecting && !self.ready => self.begin(),
            Heard::Done => {}
            Heard::Committed => {
                let dead = self.queue == DEAD;
                self.committing.drain(..).for_each(|key| env.ledger.settlement_committed(key, dead));
            }
            // What cannot be written down cannot be done.
            Heard::Refused { .. } if env.ledger.disk_fails => self.refused = true,
            Heard::GetEmpty => self.asked = false,
            Heard::Cancelled => {
                assert!(self.cancelling, "cancelled without being asked to");
                self.cancelling = false;
                self.before = self.held.last().map_or(self.before, |(tag, _)| *tag);
                self.last.clear();
                self.subscribe();
            }
            Heard::Message { tag, redelivered, body, died_in, .. } => {
                self.asked = false;
                self.message(tag, redelivered, &body, died_in, env);
            }
            heard => panic!("a consumer heard {heard:?}"),
        }
    }

    fn message(
        &mut self,
        tag: u64,
        redelivered: bool,
        body: &[u8],
        died_in: Option<String>,
        env: &mut Env<'_>,
    ) {
        let (publisher, number) = sender(body);
        let dead = self.queue == DEAD;
        assert_eq!(died_in.is_some(), dead, "only the dead have died");
        let queue = died_in.map_or(self.queue, |name| {
            QUEUES.iter().position(|queue| queue.name == name).expect("a queue of this run")
        });
        let key = Key { queue, publisher, number };
        if env.trace {
            let known = env.ledger.describe(key);
            println!("life {} got {key:?} tag {tag} redelivered {redelivered}; {known}", self.life);
        }
        let comes_in_order = env.ledger.delivered(key, dead, redelivered);
        if QUEUES[self.queue].is_grouped {
            env.ledger.group_held(label(publisher), self.life);
        }
        if (!redelivered && !dead) || comes_in_order {
            let level = if QUEUES[queue].has_priorities { priority(number) } else { 0 };
            let last = self.last.insert((publisher, level), number);
            assert!(last.is_none_or(|last| last < number), "{key:?} came after {last:?}");
        }
        assert!(self.held.last().is_none_or(|(last, _)| *last < tag), "delivery tags grow");
        self.held.push((tag, key));
        let most = usize::from(self.prefetch);
        let held = self.held.iter().filter(|(tag, _)| *tag > self.before).count();
        // What gives way in a client's hands leaves room for another.
        let exact = !self.gets && most > 0 && !QUEUES[self.queue].may_vanish;
        assert!(!exact || held <= most, "{held} delivered with a prefetch of {most}");
    }

    fn settle(&mut self, env: &mut Env<'_>) {
        if self.held.is_empty() || !self.committing.is_empty() || env.random.chance(400_000) {
            return;
        }
        let wire = self.wire.as_mut().unwrap();
        let at = env.random.below(self.held.len());
        let multiple = env.random.chance(300_000);
        let taken: Vec<_> =
            if multiple { self.held.drain(..=at).collect() } else { vec![self.held.remove(at)] };
        let tags: Vec<u64> = taken.iter().map(|(tag, _)| *tag).collect();
        if QUEUES[self.queue].is_grouped {
            taken.iter().for_each(|(_, key)| env.ledger.group_settled(&label(key.publisher), self.life));
        }
        let dead = self.queue == DEAD;
        let choice = if env.chaos && !self.transactional { env.random.below(10) } else { 9 };
        if env.trace {
            println!("life {} settles {tags:?}, multiple {multiple}, choice {choice}", self.life);
        }
        match choice {
            0 | 1 => {
                wire.settle(&tags, multiple, Settling::Requeue);
                env.ledger.disturbed(self.queue, self.life);
            }
            2 if QUEUES[self.queue].dead_letters => {
                wire.settle(&tags, multiple, Settling::Reject);
                taken.iter().for_each(|(_, key)| env.ledger.settled(*key, dead, false, self.life));
            }
            _ => {
                wire.settle(&tags, multiple, Settling::Accept);
                taken.iter().for_each(|(_, key)| env.ledger.settled(*key, dead, true, self.life));
                if self.transactional {
                    wire.end_transaction(true);
                    self.committing = taken.into_iter().map(|(_, key)| key).collect();
                }
            }
        }
    }

    fn ask(&mut self, env: &mut Env<'_>) {
        if !self.ready {
            return;
        }
        let wire = self.wire.as_mut().unwrap();
        if self.gets {
            if !self.asked {
                self.asked = true;
                wire.fetch(QUEUES[self.queue].name);
            }
        } else if env.chaos && !self.cancelling && env.random.chance(3_000) {
            self.cancelling = true;
            wire.cancel();
        }
    }

    fn begin(&mut self) {
        self.ready = true;
        if !self.gets {
            self.subscribe();
        }
    }

    fn subscribe(&mut self) {
        self.wire.as_mut().unwrap().subscribe(QUEUES[self.queue].name, self.prefetch);
    }

    fn lose(&mut self, env: &mut Env<'_>) {
        if env.trace {
            println!("life {} is lost, refused: {}", self.life, self.refused);
        }
        env.ledger.disturbed(self.queue, self.life);
        env.ledger.lost(self.life);
        if let Some(wire) = self.wire.take() {
            wire.reset();
        }
        self.held.clear();
        self.committing.clear();
        (self.selecting, self.refused) = (false, false);
        self.before = 0;
        self.last.clear();
        (self.ready, self.asked, self.cancelling) = (false, false, false);
        self.rest_steps = env.random.below(20) as u32;
    }
}
