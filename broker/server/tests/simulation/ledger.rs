//! What clients sent, were promised and were given; the checkers.
//!
//! 1. What was confirmed or committed is settled by a consumer in the end: nothing acknowledged is lost.
//! 2. Only what was sent arrives, unchanged; what was rolled back or refused does not.
//! 3. A second delivery of a message from one queue is marked redelivered, and none comes once a settlement of it was
//!    seen by the broker.
//! 4. Of a transaction whose commit was not answered, all arrives or nothing.
//! 5. First deliveries to a consumer keep the order of each publisher, and of each priority where there are some.
//! 6. Messages of one group are with one consumer at a time.

use std::collections::HashMap;

use crate::run::QUEUES;

/// A message in a queue: one for each queue that a publish went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Index of the queue that it was routed to first.
    pub queue: usize,
    /// Which life of which publisher.
    pub publisher: u32,
    /// Its number there.
    pub number: u32,
}

/// What the broker owes for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Sent, nothing heard: may arrive.
    None,
    /// Confirmed or committed: must arrive.
    Owed,
    /// Refused or rolled back: must not arrive.
    Void,
}

#[derive(Debug)]
struct Entry {
    promise: Promise,
    accepted: bool,
    /// Deliveries seen in its own queue, and in the queue of the dead.
    seen: [u32; 2],
    /// The consumer's life whose settlement holds as long as it lives.
    settled_by: [Option<u32>; 2],
}

/// The book of one run.
#[derive(Default)]
pub struct Ledger {
    entries: HashMap<Key, Entry>,
    /// Lives of consumers that ended otherwise than in order: their last settlements may not have arrived.
    lost_lives: std::collections::HashSet<u32>,
    next_life: u32,
    /// Which life holds how many messages of a group.
    groups: HashMap<String, (u32, u32)>,
    pub published: u64,
    pub consumed: u64,
    pub redelivered: u64,
    pub dead: u64,
    pub resets: u64,
    /// Requests of gardeners that were answered or refused.
    pub tended: u64,
    /// Commits that were refused.
    pub refused: u64,
    /// Branches of distributed transactions that were prepared, left alone and rolled back.
    pub recovered: u64,
    /// What belongs to transactions whose commits were not answered.
    fates: Vec<Vec<Key>>,
}

impl Ledger {
    /// A number for a new life of a client.
    pub fn life(&mut self) -> u32 {
        self.next_life += 1;
        self.next_life
    }

    /// A client's connection broke, or was cut.
    pub fn lost(&mut self, life: u32) {
        self.lost_lives.insert(life);
        self.groups.retain(|_, (holder, _)| *holder != life);
        self.resets += 1;
    }

    /// A message is about to be sent.
    pub fn sent(&mut self, key: Key) {
        self.published += 1;
        let entry = Entry { promise: Promise::None, accepted: false, seen: [0; 2], settled_by: [None; 2] };
        assert!(self.entries.insert(key, entry).is_none(), "{key:?} was sent twice");
    }

    /// The broker answered.
    pub fn promise(&mut self, key: Key, promise: Promise) {
        let entry = self.entries.get_mut(&key).expect("only what was sent is answered");
        assert_eq!(entry.promise, Promise::None, "{key:?} was answered twice");
        entry.promise = promise;
        assert!(promise != Promise::Void || entry.seen == [0; 2], "{key:?} was delivered, then refused");
    }

    /// Messages that arrive all or not at all.
    pub fn one_fate(&mut self, keys: Vec<Key>) {
        self.fates.push(keys);
    }

    /// A consumer was given a message. `dead`: from the queue of the dead.
    pub fn delivered(&mut self, key: Key, dead: bool, redelivered: bool) {
        let entry = self.entries.get_mut(&key).unwrap_or_else(|| panic!("{key:?} was never sent"));
        assert_ne!(entry.promise, Promise::Void, "{key:?} was refused or rolled back, and arrived");
        let place = usize::from(dead);
        assert!(
            redelivered || entry.seen[place] == 0,
            "{key:?} came a second time (dead: {dead}), not marked as redelivered"
        );
        if let Some(life) = entry.settled_by[place] {
            assert!(self.lost_lives.contains(&life), "{key:?} came back after it was settled (dead: {dead})");
        }
        entry.seen[place] += 1;
        entry.settled_by[place] = None;
        self.redelivered += u64::from(redelivered);
        self.dead += u64::from(dead);
    }

    /// A consumer was given a message of a group.
    pub fn group_held(&mut self, group: String, life: u32) {
        let (holder, held) = self.groups.entry(group.clone()).or_insert((life, 0));
        assert_eq!(*holder, life, "group {group} is with two consumers");
        *held += 1;
    }

    /// A consumer is done with a message of a group, in whatever way.
    pub fn group_settled(&mut self, group: &str, life: u32) {
        if let Some((_, held)) = self.groups.get_mut(group).filter(|(holder, _)| *holder == life) {
            *held -= 1;
            if *held == 0 {
                self.groups.remove(group);
            }
        }
    }

    /// A consumer's life settles a message for good.
    pub fn settled(&mut self, key: Key, dead: bool, accepted: bool, life: u32) {
        let entry = self.entries.get_mut(&key).expect("only what was delivered is settled");
        entry.settled_by[usize::from(dead)] = Some(life);
        entry.accepted |= accepted;
        self.consumed += u64::from(accepted);
    }

    /// At the end: every promise was kept.
    pub fn check_kept(&self) {
        let mut broken: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, entry)| {
                entry.promise == Promise::Owed && !entry.accepted && !QUEUES[key.queue].may_vanish
            })
            .map(|(key, _)| *key)
            .collect();
        broken.sort();
        assert!(broken.is_empty(), "{} confirmed messages were lost: {broken:?}", broken.len());
    }

    /// At the end: no transaction was carried out in part. How many whose commits were not answered were done, and not.
    pub fn check_fates(&self) -> [u64; 2] {
        let mut fates = [0; 2];
        for keys in &self.fates {
            let staying = keys.iter().filter(|key| !QUEUES[key.queue].may_vanish);
            let arrived: Vec<_> = staying.map(|key| (key, self.entries[key].accepted)).collect();
            let Some(&(_, all)) = arrived.first() else { continue };
            assert!(arrived.iter().all(|&(_, one)| one == all), "a transaction arrived in part: {arrived:?}");
            fates[usize::from(!all)] += 1;
        }
        fates
    }
}
