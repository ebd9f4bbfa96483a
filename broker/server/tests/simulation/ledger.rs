//! What clients sent, were promised and were given; the checkers.
//!
//! 1. What was confirmed or committed is settled by a consumer in the end: nothing acknowledged is lost.
//! 2. Only what was sent arrives, unchanged; what was rolled back or refused does not.
//! 3. A second delivery of a message from one queue is marked redelivered, and none comes once a settlement of it was
//!    seen by the broker.
//! 4. Of a transaction whose commit was not answered, all arrives or nothing.
//! 5. First deliveries to a consumer keep the order of each publisher, and of each priority where there are some.
//! 6. Messages of one group are with one consumer at a time.
//!
//! Over a restart all of this holds for persistent messages, whether the broker was killed or its disk lost what was not
//! flushed; what was settled without an answer may come back, marked redelivered; what was settled in a transaction
//! whose commit was answered may not. What came back comes in its order, and branches that were prepared are prepared.

use std::collections::{HashMap, HashSet};

use crate::queues::QUEUES;
use crate::report::Report;

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
    /// Refused by a broker whose disk fails: may arrive after a restart.
    Doubtful,
}

#[derive(Debug)]
struct Entry {
    promise: Promise,
    accepted: bool,
    /// In which run of the broker it was settled last.
    accepted_in: u32,
    /// Deliveries seen in its own queue, and in the queue of the dead.
    seen: [u32; 2],
    /// The consumer's life whose settlement holds as long as it lives.
    settled_by: [Option<u32>; 2],
    /// A settlement of it was committed, and the commit answered.
    is_gone: [bool; 2],
    persistent: bool,
    /// The run of the broker that it was sent to.
    sent_in: u32,
    /// The run that delivered it last.
    seen_in: [u32; 2],
}

/// The book of one run.
#[derive(Default)]
pub struct Ledger {
    entries: HashMap<Key, Entry>,
    /// Lives of consumers that ended otherwise than in order: their last settlements may not have arrived.
    lost_lives: HashSet<u32>,
    /// Hosts may vanish, and the broker hears nothing of one, or gives one up: either notices before the other.
    hosts_vanish: bool,
    next_life: u32,
    /// Which life holds how many messages of a group.
    groups: HashMap<String, (u32, u32)>,
    pub report: Report,
    /// What belongs to transactions whose commits were not answered.
    fates: Vec<Vec<Key>>,
    /// Branches that are prepared and that nobody has asked to be ended.
    prepared: HashMap<String, Vec<Key>>,
    /// How often the broker has started again.
    run: u32,
    /// Queues from which messages went back since then: their order no longer tells anything.
    disturbed: HashSet<usize>,
    /// No settlement was lost with the broker's last run.
    nothing_returns: bool,
    /// A disk fails, or is full: what is refused may have been written all the same.
    pub disk_fails: bool,
}

impl Ledger {
    /// `hosts_vanish`: clients' hosts may, and the broker may give clients up.
    pub fn new(hosts_vanish: bool) -> Self {
        Ledger { hosts_vanish, ..Ledger::default() }
    }

    /// A number for a new life of a client.
    pub fn life(&mut self) -> u32 {
        self.next_life += 1;
        self.next_life
    }

    /// The broker has ended without a word, and everybody's connection with it.
    pub fn restarted(&mut self) {
        self.run += 1;
        self.lost_lives.extend(0..=self.next_life);
        self.groups.clear();
        self.disturbed.clear();
    }

    /// The broker was stopped in order, and has started again: it knows of every settlement.
    pub fn stopped_in_order(&mut self) {
        self.restarted();
        self.nothing_returns = !self.disk_fails;
    }

    /// Messages of a queue went back to it from a consumer's life.
    pub fn disturbed(&mut self, queue: usize, life: u32) {
        if !self.lost_lives.contains(&life) {
            self.disturbed.insert(queue);
        }
    }

    /// A client's connection broke, or was cut.
    pub fn lost(&mut self, life: u32) {
        self.lost_lives.insert(life);
        self.groups.retain(|_, (holder, _)| *holder != life);
        self.report.resets += 1;
    }

    /// A message is about to be sent.
    pub fn sent(&mut self, key: Key, persistent: bool) {
        self.report.published += 1;
        let entry = Entry {
            promise: Promise::None,
            accepted: false,
            accepted_in: 0,
            seen: [0; 2],
            settled_by: [None; 2],
            is_gone: [false; 2],
            persistent,
            sent_in: self.run,
            seen_in: [0; 2],
        };
        assert!(self.entries.insert(key, entry).is_none(), "{key:?} was sent twice");
    }

    /// The broker answered.
    pub fn promise(&mut self, key: Key, promise: Promise) {
        let fails = self.disk_fails;
        let entry = self.entries.get_mut(&key).expect("only what was sent is answered");
        assert_eq!(entry.promise, Promise::None, "{key:?} was answered twice");
        entry.promise = if fails && promise == Promise::Void { Promise::Doubtful } else { promise };
        self.report.doubtful += u64::from(entry.promise == Promise::Doubtful);
        let refused = entry.promise == Promise::Void;
        assert!(!refused || entry.seen == [0; 2], "{key:?} was delivered, then refused");
    }

    /// Messages that arrive all or not at all.
    pub fn one_fate(&mut self, keys: Vec<Key>) {
        self.fates.push(keys);
    }

    /// A branch was prepared, and its client leaves it alone.
    pub fn left_prepared(&mut self, branch: String, keys: Vec<Key>) {
        assert!(self.prepared.insert(branch, keys).is_none(), "a branch was prepared twice");
    }

    /// The broker lists what is prepared.
    pub fn in_doubt(&mut self, branches: &[String]) {
        for (branch, keys) in &self.prepared {
            let transient = keys.iter().any(|key| self.is_lost(key));
            assert!(
                transient || branches.contains(branch),
                "the prepared branch {branch} is not there any more"
            );
            self.report.kept_branches +=
                u64::from(keys.iter().any(|key| self.entries[key].sent_in < self.run));
        }
    }

    /// A branch was committed by whoever found it, or rolled back.
    pub fn ended_branch(&mut self, branch: &str, commit: bool) {
        let promise = if commit { Promise::Owed } else { Promise::Void };
        for key in self.prepared.remove(branch).unwrap_or_default() {
            self.promise(key, promise);
        }
    }

    /// Whether a restart has taken a message with it that nobody wanted to be kept.
    fn is_lost(&self, key: &Key) -> bool {
        let entry = &self.entries[key];
        !entry.persistent && entry.sent_in < self.run
    }

    /// A consumer was given a message. `dead`: from the queue of the dead. Whether it is the first delivery in this run
    /// of the broker from a queue where nothing went back.
    pub fn delivered(&mut self, key: Key, dead: bool, redelivered: bool) -> bool {
        let (run, is_lost) = (self.run, self.is_lost(&key));
        let entry = self.entries.get_mut(&key).unwrap_or_else(|| panic!("{key:?} was never sent"));
        assert_ne!(entry.promise, Promise::Void, "{key:?} was refused or rolled back, and arrived");
        assert!(!is_lost, "{key:?} is transient, and is there after a restart");
        let place = usize::from(dead);
        let first = entry.seen[place] == 0 || entry.seen_in[place] < run;
        // A dead message may be written down where it goes before it is where it was: a restart has both.
        let twice = dead && entry.sent_in < run;
        // What is handed out when nothing can be written down any more is not said to have been.
        let untold = self.disk_fails && entry.seen_in[place] < run;
        let is_marked = redelivered || entry.seen[place] == 0 || twice || untold;
        if !is_marked && self.hosts_vanish {
            // On its way when the broker gave the client up, and read by that only now, when others have had the message.
            return false;
        }
        assert!(is_marked, "{key:?} came a second time (dead: {dead}), not marked as redelivered");
        assert!(!entry.is_gone[place] || twice, "{key:?} came back after its settlement was committed");
        if let Some(settler) = entry.settled_by[place] {
            let may_be_lost = self.hosts_vanish || self.lost_lives.contains(&settler);
            let lost = may_be_lost && !self.nothing_returns;
            assert!(lost || twice, "{key:?} came back after it was settled (dead: {dead})");
            self.report.returned += u64::from(entry.seen_in[place] < run);
        }
        entry.seen[place] += 1;
        entry.seen_in[place] = run;
        entry.settled_by[place] = None;
        self.report.redelivered += u64::from(redelivered);
        self.report.dead += u64::from(dead);
        !dead && first && run > 0 && !self.hosts_vanish && !self.disturbed.contains(&key.queue)
    }

    /// What is known of a message, for a trace.
    pub fn describe(&self, key: Key) -> String {
        format!("{:?}", self.entries[&key])
    }

    /// The commit of a settlement was answered.
    pub fn settlement_committed(&mut self, key: Key, dead: bool) {
        let entry = self.entries.get_mut(&key).expect("only what was delivered is settled");
        entry.is_gone[usize::from(dead)] = true;
        self.report.committed += 1;
    }

    /// A consumer was given a message of a group.
    pub fn group_held(&mut self, group: String, life: u32) {
        let (holder, held) = self.groups.entry(group.clone()).or_insert((life, 0));
        if *holder != life && self.hosts_vanish {
            (*holder, *held) = (life, 0);
        }
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
        entry.accepted_in = self.run;
        self.report.consumed += u64::from(accepted);
    }

    /// At the end: every promise was kept.
    pub fn check_kept(&self) {
        let mut broken: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, entry)| {
                let is_owed = entry.promise == Promise::Owed && !self.is_lost(key);
                is_owed && !entry.accepted && !QUEUES[key.queue].may_vanish
            })
            .map(|(key, _)| *key)
            .collect();
        broken.sort();
        assert!(broken.is_empty(), "{} confirmed messages were lost: {broken:?}", broken.len());
    }

    /// At the end: no transaction was carried out in part.
    pub fn check_fates(&mut self) {
        for keys in &self.fates {
            if keys.iter().any(|key| self.is_lost(key)) {
                continue;
            }
            let staying = keys.iter().filter(|key| !QUEUES[key.queue].may_vanish);
            let arrived: Vec<_> = staying.map(|key| (key, self.entries[key].accepted)).collect();
            let Some(&(_, all)) = arrived.first() else { continue };
            let is_whole = arrived.iter().all(|&(_, one)| one == all);
            // Over RDMA nothing takes time here, so that a message may be settled before the disk has its transaction, which
            // the end of the broker then undoes.
            let was_early = |key: &Key| {
                let entry = &self.entries[key];
                entry.accepted && entry.accepted_in == entry.sent_in && entry.sent_in < self.run
            };
            if !is_whole && self.hosts_vanish && arrived.iter().any(|(key, _)| was_early(key)) {
                self.report.undone += 1;
                continue;
            }
            assert!(is_whole, "a transaction arrived in part: {arrived:?}");
            self.report.unheard_done += u64::from(all);
            self.report.unheard_undone += u64::from(!all);
        }
    }
}
