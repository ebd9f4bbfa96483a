//! What clients know: what they sent and were told, and so what a queue must hold after a restart, may hold, and must
//! not.
//!
//! 1. What was confirmed is there until somebody settles it.
//! 2. What was settled may come back only if the broker had not said that it is settled, and then marked redelivered.
//! 3. What was once absent after a restart never comes back.
//! 4. Of a transaction everything has happened or nothing; a prepared one waits.
//! 5. A message that is held back comes when it is due: not before, and whatever happened meanwhile. If its queue is on
//!    another shard, a kill at that moment may make two of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::raw::Arrived;

/// How long after it is due, or after the start, a message may still be held back, on a machine that has much else to do.
const LATE: Duration = Duration::from_secs(3);
/// The broker goes by the wall clock, which may be set while it runs.
const EARLY: Duration = Duration::from_millis(20);

/// A queue's number and a message's.
pub type Place = (usize, u64);

/// How sure it is that a copy has left its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    No,
    /// It was settled, and nobody said that this is stored.
    Maybe,
}

/// A message in a queue.
#[derive(Clone, Debug)]
struct Copy {
    /// Whose messages it keeps its order with.
    publisher: u64,
    /// Stored for certain.
    confirmed: bool,
    left: Left,
    /// A client had it in its hands; which one.
    delivered: Option<&'static str>,
    /// Comes with this transaction.
    enters: Option<u64>,
    /// Goes with this one.
    leaves: Option<u64>,
    /// Held back until then, unless it was seen.
    due: Option<Instant>,
    /// It was held back over a restart.
    held_over: bool,
}

impl Copy {
    /// It is in its queue. Whether that is too early, and whether it was held back over a restart.
    fn comes(&mut self) -> (bool, bool) {
        let is_early = self.due.take().is_some_and(|due| Instant::now() + EARLY < due);
        (is_early, std::mem::take(&mut self.held_over))
    }
}

/// How far a transaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nobody asked for anything, or for its end.
    Open,
    /// To be committed, not answered.
    Committing,
    /// To be prepared, not answered.
    Preparing,
    /// Answered.
    Prepared,
    /// Prepared, and to be committed; not answered.
    PreparedCommitting,
    /// Prepared, and to be rolled back; not answered.
    PreparedRollingBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed,
    RolledBack,
    Prepared,
    /// Nothing tells.
    Unknown,
}

#[derive(Clone, Debug)]
struct Transaction {
    stage: Stage,
    /// The branch's name.
    branch: Option<String>,
    /// Restarts that it has been prepared over.
    restarts: u32,
}

/// Sums, for the end.
#[derive(Debug, Default)]
pub struct Sums {
    pub sent: u64,
    pub confirmed: u64,
    pub delivered: u64,
    pub settled: u64,
    pub committed: u64,
    pub rolled_back: u64,
    pub prepared: u64,
    /// After a restart: unanswered publishes that were there, and that were not.
    pub unheard: [u64; 2],
    /// Settled messages that came back.
    pub returned: u64,
    /// Transactions whose commit was not answered: carried out, and not.
    pub cut: [u64; 2],
    /// Prepared branches that were there after a restart.
    pub recovered: u64,
    /// Messages that were held back over a restart and came.
    pub held: u64,
    /// Messages that were held back and of which there were two.
    pub doubled: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    last: u64,
    copies: BTreeMap<Place, Copy>,
    gone: HashSet<Place>,
    /// Messages that are held back at first.
    delayed: HashSet<u64>,
    /// Those that are held back have had their time.
    all_came: bool,
    /// The broker was asked to stop: what clients settle may not be heard, and is given to others, even before who had it
    /// first has looked at it.
    pub is_stopping: bool,
    transactions: HashMap<u64, Transaction>,
    pub sums: Sums,
    pub faults: Vec<String>,
}

/// The body of a message: its number, and bytes that follow from it.
pub fn body(id: u64) -> Vec<u8> {
    let most = match id % 32 {
        0 => 70_000,
        1..8 => 5_000,
        _ => 300,
    };
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut body = id.to_be_bytes().to_vec();
    body.resize(8 + (mixed >> 40) as usize % most, (mixed >> 16) as u8);
    body
}

/// The number of a message, if its body is whole.
pub fn number(bytes: &[u8]) -> Option<u64> {
    let id = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    (body(id) == bytes).then_some(id)
}

impl Ledger {
    fn fault(&mut self, text: String) {
        if self.faults.len() < 20 {
            self.faults.push(text);
        }
    }

    /// A number that nothing else has.
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Messages that are in queues, or may be.
    pub fn len(&self) -> usize {
        self.copies.len()
    }

    /// A message is about to be sent to some queues.
    pub fn sends(&mut self, publisher: u64, queues: &[usize], transaction: Option<u64>) -> u64 {
        self.records(publisher, queues, transaction, None)
    }

    /// A message is about to be sent that is held back for some time, and keeps no order with others.
    pub fn sends_delayed(&mut self, queues: &[usize], delay: Duration) -> u64 {
        let publisher = self.number();
        let id = self.records(publisher, queues, None, Some(Instant::now() + delay));
        self.delayed.insert(id);
        id
    }

    /// When all that is held back must have come; whatever is missing after that has been lost.
    pub fn all_due(&mut self) -> Instant {
        self.all_came = true;
        let last = self.copies.values().filter_map(|copy| copy.due).max();
        last.unwrap_or_else(Instant::now).max(Instant::now()) + LATE
    }

    fn records(
        &mut self,
        publisher: u64,
        queues: &[usize],
        transaction: Option<u64>,
        due: Option<Instant>,
    ) -> u64 {
        let id = self.number();
        self.sums.sent += 1;
        for &queue in queues {
            let copy = Copy {
                publisher,
                confirmed: false,
                left: Left::No,
                delivered: None,
                enters: transaction,
                leaves: None,
                due,
                held_over: false,
            };
            self.copies.insert((queue, id), copy);
        }
        id
    }

    /// The broker has confirmed it.
    pub fn confirmed(&mut self, queues: &[usize], id: u64) {
        self.sums.confirmed += 1;
        for &queue in queues {
            // Somebody may have taken it since.
            if let Some(copy) = self.copies.get_mut(&(queue, id)) {
                copy.confirmed = true;
            }
        }
    }

    /// A client has it in its hands.
    pub fn delivered(
        &mut self,
        queue: usize,
        bytes: &[u8],
        redelivered: bool,
        to: &'static str,
    ) -> Option<Place> {
        self.sums.delivered += 1;
        let Some(id) = number(bytes) else {
            self.fault(format!("a message in queue {queue} is not as it was sent"));
            return None;
        };
        let place = (queue, id);
        let is_delayed = self.delayed.contains(&id);
        let Some(copy) = self.copies.get_mut(&place) else {
            if is_delayed && self.gone.contains(&place) {
                self.sums.doubled += 1;
                return Some(place);
            }
            let what = if self.gone.contains(&place) { "had gone" } else { "was never sent" };
            self.fault(format!("{place:?} was delivered, and {what}"));
            return None;
        };
        let before = copy.clone();
        copy.delivered = Some(to);
        let (is_early, held_over) = copy.comes();
        self.sums.held += u64::from(held_over);
        if is_early {
            self.fault(format!("{place:?} was delivered before it was due: {before:?}"));
        }
        if is_delayed && before.delivered.is_some() {
            return Some(place);
        }
        if before.left == Left::Maybe && !self.is_stopping {
            self.fault(format!("{place:?} was delivered again after it was settled: {before:?}"));
        }
        if before.delivered.is_some() && !redelivered && !self.is_stopping {
            self.fault(format!("{place:?} was delivered again, to {to}, and not marked so: {before:?}"));
        }
        Some(place)
    }

    /// It is about to be settled.
    pub fn settles(&mut self, place: Place, transaction: Option<u64>) {
        self.sums.settled += 1;
        if let Some(copy) = self.copies.get_mut(&place) {
            match transaction {
                None => copy.left = Left::Maybe,
                Some(_) => copy.leaves = transaction,
            }
        }
    }

    /// Begins a transaction.
    pub fn begins(&mut self, branch: Option<String>) -> u64 {
        let id = self.number();
        self.transactions.insert(id, Transaction { stage: Stage::Open, branch, restarts: 0 });
        id
    }

    /// What is about to be asked, or was answered.
    pub fn moves(&mut self, transaction: u64, stage: Stage) {
        self.sums.prepared += u64::from(stage == Stage::Prepared);
        self.transactions.get_mut(&transaction).expect("it has begun").stage = stage;
    }

    /// The broker says that it is over.
    pub fn ends(&mut self, transaction: u64, commit: bool) {
        if commit {
            self.sums.committed += 1;
        } else {
            self.sums.rolled_back += 1;
        }
        let fate = if commit { Fate::Committed } else { Fate::RolledBack };
        self.apply(transaction, fate);
    }

    /// The branches that were prepared, with what is known of them.
    pub fn prepared(&self) -> Vec<(u64, String)> {
        let prepared = self.transactions.iter().filter(|(_, t)| t.stage == Stage::Prepared);
        prepared.filter_map(|(&id, t)| Some((id, t.branch.clone()?))).collect()
    }

    /// Whether a branch may be prepared.
    pub fn may_have_prepared(&self) -> bool {
        self.transactions.values().any(|t| !matches!(t.stage, Stage::Open | Stage::Committing))
    }

    fn apply(&mut self, transaction: u64, fate: Fate) {
        let mut gone = Vec::new();
        for (&place, copy) in &mut self.copies {
            if copy.enters == Some(transaction) {
                copy.enters = None;
                match fate {
                    Fate::Committed => copy.confirmed = true,
                    Fate::RolledBack => gone.push(place),
                    Fate::Unknown | Fate::Prepared => {}
                }
            }
            if copy.leaves == Some(transaction) {
                copy.leaves = None;
                match fate {
                    Fate::Committed => gone.push(place),
                    Fate::Unknown => copy.left = Left::Maybe,
                    Fate::RolledBack | Fate::Prepared => {}
                }
            }
        }
        for place in gone {
            self.goes(place);
        }
        self.transactions.remove(&transaction);
    }

    fn goes(&mut self, place: Place) {
        self.copies.remove(&place);
        self.gone.insert(place);
    }

    /// The broker was killed and is back, with these messages in its queues and these branches prepared.
    pub fn restarted(&mut self, queues: &[Vec<Arrived>], in_doubt: &[String]) {
        self.is_stopping = false;
        let mut present = HashMap::new();
        for (queue, messages) in queues.iter().enumerate() {
            self.look_at(queue, messages, &mut present);
        }
        let known: HashSet<_> = self.transactions.values().filter_map(|t| t.branch.clone()).collect();
        for branch in in_doubt.iter().filter(|branch| !known.contains(*branch)) {
            self.fault(format!("branch {branch} is prepared, and was over or never begun"));
        }
        let transactions: Vec<_> = self.transactions.keys().copied().collect();
        for transaction in transactions {
            let fate = self.fate(transaction, &present, in_doubt);
            if fate == Fate::Prepared {
                self.sums.recovered += 1;
                self.moves(transaction, Stage::Prepared);
                self.transactions.get_mut(&transaction).expect("it has begun").restarts += 1;
            } else {
                self.apply(transaction, fate);
            }
        }
        let places: Vec<_> = self.copies.keys().copied().collect();
        for place in places {
            self.compare(place, present.get(&place).copied());
        }
        for place in present.keys() {
            let is_second = self.delayed.contains(&place.1) && self.gone.contains(place);
            if !self.copies.contains_key(place) && !is_second {
                let what = if self.gone.contains(place) { "had gone" } else { "was never sent" };
                self.fault(format!("{place:?} is there after the restart, and {what}"));
            }
        }
    }

    fn look_at(&mut self, queue: usize, messages: &[Arrived], present: &mut HashMap<Place, bool>) {
        let mut last = HashMap::new();
        for message in messages {
            let Some(id) = number(&message.body) else {
                self.fault(format!("a message in queue {queue} is not as it was sent"));
                continue;
            };
            let is_first = present.insert((queue, id), message.redelivered).is_none();
            if !is_first && self.delayed.contains(&id) {
                self.sums.doubled += 1;
            } else if !is_first {
                self.fault(format!("({queue}, {id}) is there twice after the restart"));
            }
            if let Some(copy) = self.copies.get(&(queue, id))
                && let Some(before) = last.insert(copy.publisher, id)
                && before > id
            {
                self.fault(format!("({queue}, {id}) stands behind {before} of the same publisher"));
            }
        }
    }

    fn fate(&mut self, id: u64, present: &HashMap<Place, bool>, in_doubt: &[String]) -> Fate {
        let Transaction { stage, branch, restarts } = self.transactions[&id].clone();
        let is_in_doubt = branch.as_ref().is_some_and(|branch| in_doubt.contains(branch));
        let fate = match (stage, is_in_doubt) {
            (Stage::Preparing | Stage::Prepared, true) => Fate::Prepared,
            (Stage::PreparedCommitting | Stage::PreparedRollingBack, true) => Fate::Prepared,
            (Stage::PreparedCommitting, false) => Fate::Committed,
            (Stage::Open | Stage::Preparing | Stage::PreparedRollingBack, false) => Fate::RolledBack,
            (Stage::Committing, false) => self.evidence(id, present),
            (Stage::Prepared, false) => {
                let of = |place: &(&Place, &Copy)| place.1.enters == Some(id) || place.1.leaves == Some(id);
                let work: Vec<_> = self.copies.iter().filter(of).map(|(place, _)| *place).collect();
                // One that does nothing is as good as forgotten.
                if !work.is_empty() {
                    self.fault(format!(
                        "branch {branch:?} was prepared over {restarts} restarts, and is not now: {work:?}"
                    ));
                }
                Fate::Unknown
            }
            (Stage::Open | Stage::Committing, true) => {
                self.fault(format!("branch {branch:?} is prepared, and nobody asked for that"));
                Fate::Unknown
            }
        };
        if stage == Stage::Committing {
            self.sums.cut[0] += u64::from(fate == Fate::Committed);
            self.sums.cut[1] += u64::from(fate == Fate::RolledBack);
        }
        fate
    }

    /// What the queues say of a transaction whose commit was not answered.
    fn evidence(&mut self, id: u64, present: &HashMap<Place, bool>) -> Fate {
        let (mut committed, mut rolled_back) = (Vec::new(), Vec::new());
        // Of what was held back there may be a second one.
        let is_single = |(place, _): &(&Place, &Copy)| !self.delayed.contains(&place.1);
        for (&place, copy) in self.copies.iter().filter(is_single) {
            let is_there = present.contains_key(&place);
            if copy.enters == Some(id) {
                // Somebody may have taken it since.
                let may_have_left = copy.left != Left::No || copy.leaves.is_some();
                match (is_there, may_have_left) {
                    (true, _) => committed.push(place),
                    (false, false) => rolled_back.push(place),
                    (false, true) => {}
                }
            } else if copy.leaves == Some(id) {
                match (is_there, copy.confirmed) {
                    (true, _) => rolled_back.push(place),
                    (false, true) => committed.push(place),
                    (false, false) => {}
                }
            }
        }
        match (committed.is_empty(), rolled_back.is_empty()) {
            (false, true) => Fate::Committed,
            (true, false) => Fate::RolledBack,
            (true, true) => Fate::Unknown,
            (false, false) => {
                self.fault(format!(
                    "a transaction was carried out in part: {committed:?} say so, {rolled_back:?} deny it"
                ));
                Fate::Unknown
            }
        }
    }

    /// Holds what a queue has against what it must have.
    fn compare(&mut self, place: Place, found: Option<bool>) {
        let is_delayed = self.delayed.contains(&place.1);
        let copy = self.copies.get_mut(&place).expect("it was there a moment ago");
        let before = copy.clone();
        if before.enters.is_some() {
            if found.is_some() {
                self.fault(format!("{place:?} is there before its transaction is committed"));
            }
            return;
        }
        if before.leaves.is_some() {
            // In the hands of a prepared transaction.
            return;
        }
        let Some(redelivered) = found else {
            if is_delayed && before.left == Left::No && !self.all_came {
                // Held back, again too if it was on its way at the end, or never heard of: the last restart tells.
                copy.held_over = true;
                return;
            }
            if before.confirmed && before.left == Left::No {
                self.fault(format!("{place:?} is missing: {before:?}"));
            }
            self.sums.unheard[1] += u64::from(!before.confirmed);
            return self.goes(place);
        };
        copy.confirmed = true;
        copy.left = Left::No;
        let (is_early, held_over) = copy.comes();
        self.sums.held += u64::from(held_over);
        if is_early {
            self.fault(format!("{place:?} is there before it is due: {before:?}"));
        }
        self.sums.unheard[0] += u64::from(!before.confirmed);
        self.sums.returned += u64::from(before.left == Left::Maybe);
        if before.delivered.is_some() && !redelivered && !is_delayed {
            self.fault(format!("{place:?} was delivered before, and is not marked so: {before:?}"));
        }
    }
}
