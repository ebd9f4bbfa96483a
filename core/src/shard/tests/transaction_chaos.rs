//! Random transactions and branches by several clients that come and go, shards stepped in random order, limits tiny,
//! time that jumps: whatever happened to a transaction, everything of it was done or nothing.
//!
//! Every message has a name of its own. A publish was done if its message was seen by anybody or is left at the end; a
//! settlement was done if its message never came back. `crashes` has the process end now and then.

mod crashes;

use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::request::Overflow;
use crate::shard::random::Random;
use crate::transaction::{DtxCommand, DtxEnd, DtxStart, DtxStatus, Xid};

const QUEUES: usize = 4;
/// The last queue takes so many messages.
const SMALL: u64 = 3;

/// A message in a queue.
type Instance = (usize, String);

/// What is known of a transaction.
#[derive(Default)]
struct Transaction {
    published: Vec<Instance>,
    /// With the number of times that each had been delivered by then.
    accepted: Vec<(Instance, u32)>,
    outcome: Option<bool>,
    /// It is a branch that is prepared, as a client was told, and nobody has asked for its end.
    is_prepared: bool,
    /// The process ended before its own end was told, and nobody can know how that was.
    is_lost: bool,
}

/// What a client's transactional work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Own(usize),
    Branch(usize),
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Message(usize),
    Commit(usize),
    Branch(usize, DtxCommand),
}

struct Actor {
    client: Client,
    waiting: Option<Waiting>,
    held: Vec<(Instance, Received)>,
    /// Held, and accepted in the client's own transaction.
    accepted: Vec<(Instance, Received)>,
    current: For,
    suspended: Vec<usize>,
}

/// How often what became of a transaction.
#[derive(Debug, Default)]
struct Tally {
    committed: u32,
    undone: u32,
    committed_unheard: u32,
    undone_unheard: u32,
}

struct Chaos {
    broker: Broker,
    random: Random,
    actors: Vec<Actor>,
    transactions: Vec<Transaction>,
    delivered: HashMap<Instance, u32>,
    accepted_plainly: Vec<(Instance, u32)>,
    published_plainly: Vec<Instance>,
    names: u32,
}

fn limits() -> Limits {
    Limits { dtx_default_timeout_s: 3, ..Limits::tiny() }
}

impl Chaos {
    fn new(seed: u64, shards: u8) -> Self {
        Chaos::with(seed, Broker::with_limits(shards, limits()))
    }

    /// With the queues, which are durable if there are journals.
    fn with(seed: u64, mut broker: Broker) -> Self {
        let shards = broker.shards.len() as u8;
        let client = broker.client(0);
        for queue in 0..QUEUES {
            let is_small = queue + 1 == QUEUES;
            let options = QueueOptions {
                max_length: is_small.then_some(SMALL),
                overflow: if seed.is_multiple_of(2) { Overflow::RejectPublish } else { Overflow::Reject },
                durable: !broker.journals.is_empty(),
                ..at_home(queue as u8 % shards)
            };
            broker.declare(client, &format!("q{queue}"), options);
        }
        let mut chaos = Chaos {
            broker,
            random: Random::new(seed),
            actors: Vec::new(),
            transactions: Vec::new(),
            delivered: HashMap::new(),
            accepted_plainly: Vec::new(),
            published_plainly: Vec::new(),
            names: 0,
        };
        (0..4).for_each(|_| chaos.join());
        chaos
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random.next() % bound as u64) as usize
    }

    fn begin(&mut self) -> usize {
        self.transactions.push(Transaction::default());
        self.transactions.len() - 1
    }

    fn join(&mut self) {
        let shard = self.below(self.broker.shards.len());
        let current = For::Own(self.begin());
        let client = self.broker.client(shard);
        let (held, accepted, suspended) = (Vec::new(), Vec::new(), Vec::new());
        self.actors.push(Actor { client, waiting: None, held, accepted, current, suspended });
    }

    fn step(&mut self) {
        let shard = self.below(self.broker.shards.len());
        match self.below(600) {
            0..=250 => {
                self.broker.clock.monotonic_ns += 1_000;
                self.broker.tell_time();
                self.broker.turn(shard);
                self.look();
            }
            251 => {
                self.broker.clock.monotonic_ns += 1_000 * MS;
                self.broker.tell_time();
            }
            252..=256 => {
                let at = self.below(self.actors.len());
                self.leave(at);
                self.join();
            }
            _ => {
                let at = self.below(self.actors.len());
                if self.actors[at].waiting.is_none() {
                    self.act(at);
                }
            }
        }
    }

    fn act(&mut self, at: usize) {
        let queue = self.below(QUEUES);
        match self.below(20) {
            0..=1 => self.publish_plainly(at, queue % (QUEUES - 1)),
            2 => self.settle_plainly(at),
            3..=6 => {
                let name = Name::from(format!("q{queue}"));
                let request = Request::Get { vhost: VHOST, queue: name, no_ack: false };
                self.ask(at, Waiting::Message(queue), request);
            }
            7..=11 => self.publish(at, queue),
            12..=14 => self.accept(at),
            15..=16 => self.end_own_work(at),
            _ => self.use_branch(at),
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("m{}", self.names)
    }

    fn message(&mut self, client: Client, queue: usize, body: &str) -> MessageId {
        let persistent = !self.broker.journals.is_empty();
        let key = format!("q{queue}");
        self.broker.message_with(client, "", &key, body, &[], |header| header.persistent = persistent)
    }

    fn publish_plainly(&mut self, at: usize, queue: usize) {
        let (client, body) = (self.actors[at].client, self.name());
        let message = self.message(client, queue, &body);
        self.broker.send(client, message);
        self.published_plainly.push((queue, body));
    }

    fn settle_plainly(&mut self, at: usize) {
        let Some((instance, received)) = self.take_held(at) else { return };
        let settlement = if self.below(2) == 0 { Settlement::Requeue } else { Settlement::Accept };
        if settlement == Settlement::Accept {
            self.accepted_plainly.push((instance.clone(), self.delivered[&instance]));
        }
        self.broker.settle(self.actors[at].client, &received, settlement);
    }

    fn publish(&mut self, at: usize, queue: usize) {
        let (client, body) = (self.actors[at].client, self.name());
        let message = self.message(client, queue, &body);
        let shard = &mut self.broker.shards[client.shard];
        if shard.publish_in_transaction(client.session, VHOST, message, false).is_ok() {
            let transaction = self.transaction_of(at);
            transaction.published.push((queue, body));
        }
    }

    fn accept(&mut self, at: usize) {
        let Some((instance, received)) = self.take_held(at) else { return };
        let client = self.actors[at].client;
        let shard = &mut self.broker.shards[client.shard];
        shard.settle_in_transaction(client.session, received.queue, received.tag, Settlement::Accept);
        let times = self.delivered[&instance];
        self.transaction_of(at).accepted.push((instance.clone(), times));
        if matches!(self.actors[at].current, For::Own(_)) {
            self.actors[at].accepted.push((instance, received));
        }
    }

    fn transaction_of(&mut self, at: usize) -> &mut Transaction {
        match self.actors[at].current {
            For::Own(transaction) | For::Branch(transaction) => &mut self.transactions[transaction],
        }
    }

    fn take_held(&mut self, at: usize) -> Option<(Instance, Received)> {
        let held = self.actors[at].held.len();
        if held == 0 {
            return None;
        }
        let which = self.below(held);
        Some(self.actors[at].held.swap_remove(which))
    }

    /// Commits or rolls back what the client does for itself.
    fn end_own_work(&mut self, at: usize) {
        let For::Own(transaction) = self.actors[at].current else { return };
        if self.below(4) > 0 {
            return self.ask(at, Waiting::Commit(transaction), Request::Commit);
        }
        let client = self.actors[at].client;
        self.broker.shards[client.shard].rollback(client.session);
        self.own_work_ended(at, transaction, false);
    }

    fn own_work_ended(&mut self, at: usize, transaction: usize, committed: bool) {
        self.transactions[transaction].outcome = Some(committed);
        let next = self.begin();
        let actor = &mut self.actors[at];
        let accepted = std::mem::take(&mut actor.accepted);
        actor.current = For::Own(next);
        if !committed {
            // As good as delivered again.
            for (instance, _) in &accepted {
                *self.delivered.entry(instance.clone()).or_default() += 1;
            }
            actor.held.extend(accepted);
        }
    }

    /// Asks something of a branch, mostly of one that there is. It may make no sense.
    fn use_branch(&mut self, at: usize) {
        let some = self.below(self.transactions.len());
        let command = match (self.actors[at].current, self.below(8)) {
            (For::Branch(branch), 0..=3) => {
                let end = match self.below(8) {
                    0 => DtxEnd::Fail,
                    1..=2 => DtxEnd::Suspend,
                    _ => DtxEnd::Success,
                };
                return self.command(at, branch, DtxCommand::End(end));
            }
            (For::Own(own), 0..=2) if self.actors[at].accepted.is_empty() => {
                // Nothing of its own must be open.
                if self.transactions[own].published.is_empty() {
                    let branch = self.begin();
                    return self.command(at, branch, DtxCommand::Start(DtxStart::New));
                }
                return;
            }
            (For::Own(own), 3) if self.transactions[own].published.is_empty() => {
                if !self.actors[at].accepted.is_empty() {
                    return;
                }
                if let Some(&branch) = self.actors[at].suspended.first() {
                    return self.command(at, branch, DtxCommand::Start(DtxStart::Resume));
                }
                DtxCommand::Start(DtxStart::Join)
            }
            (_, 4..=5) => DtxCommand::Prepare,
            (_, 6) => DtxCommand::Commit { one_phase: self.below(2) == 0 },
            (_, 7) => DtxCommand::Rollback,
            _ => return,
        };
        // The younger ones are alive.
        let oldest = self.transactions.len().saturating_sub(12);
        self.command(at, oldest.max(some), command);
    }

    fn command(&mut self, at: usize, branch: usize, command: DtxCommand) {
        let request = Request::Dtx { vhost: VHOST, xid: xid(branch), command };
        if matches!(command, DtxCommand::Commit { .. } | DtxCommand::Rollback) {
            self.transactions[branch].is_prepared = false;
        }
        self.ask(at, Waiting::Branch(branch, command), request);
    }

    fn ask(&mut self, at: usize, waiting: Waiting, request: Request) {
        let client = self.actors[at].client;
        self.actors[at].waiting = Some(waiting);
        if let Some(result) = self.broker.shards[client.shard].request(client.session, request) {
            self.answered(at, result);
        }
    }

    fn answered(&mut self, at: usize, result: Result<Reply, Refusal>) {
        match (self.actors[at].waiting.take().expect("something was asked"), result) {
            (Waiting::Message(queue), Ok(Reply::Got(got))) => {
                if let Some(got) = got {
                    self.hold(at, queue, got);
                }
            }
            (Waiting::Commit(transaction), result) => {
                let committed = match result {
                    Ok(Reply::Committed { .. }) => true,
                    Err(Refusal::QueueFull(_)) => false,
                    other => panic!("{other:?}"),
                };
                self.own_work_ended(at, transaction, committed);
            }
            (Waiting::Branch(branch, command), Ok(Reply::Dtx(status))) => {
                self.branch_answered(at, branch, command, status);
            }
            (Waiting::Branch(_, command), Err(Refusal::Dtx { .. } | Refusal::LimitExceeded(_))) => {
                assert!(!matches!(command, DtxCommand::End(_)), "an end that makes sense is never refused");
            }
            (waiting, other) => panic!("{waiting:?}: {other:?}"),
        }
    }

    fn branch_answered(&mut self, at: usize, branch: usize, command: DtxCommand, status: DtxStatus) {
        let is_ok = status == DtxStatus::Ok;
        let own = match command {
            DtxCommand::End(_) => Some(self.begin()),
            _ => None,
        };
        let actor = &mut self.actors[at];
        match command {
            DtxCommand::Start(start) => {
                if start == DtxStart::Resume {
                    actor.suspended.retain(|&other| other != branch);
                }
                if is_ok {
                    actor.current = For::Branch(branch);
                }
            }
            DtxCommand::End(end) => {
                actor.current = own.map(For::Own).expect("begun above");
                if end == DtxEnd::Suspend && is_ok {
                    actor.suspended.push(branch);
                }
            }
            DtxCommand::Commit { .. } => self.note(branch, is_ok),
            DtxCommand::Rollback => self.note(branch, false),
            DtxCommand::Prepare => {
                self.transactions[branch].is_prepared = is_ok && !self.is_being_ended(branch)
            }
            _ => {}
        }
    }

    fn is_being_ended(&self, branch: usize) -> bool {
        let ends = |command| matches!(command, DtxCommand::Commit { .. } | DtxCommand::Rollback);
        let is_ending = |waiting| matches!(waiting, Some(Waiting::Branch(other, command)) if other == branch && ends(command));
        self.transactions[branch].outcome.is_some()
            || self.actors.iter().any(|actor| is_ending(actor.waiting))
    }

    fn note(&mut self, branch: usize, committed: bool) {
        self.transactions[branch].is_prepared = false;
        let known = self.transactions[branch].outcome.replace(committed);
        assert!(known.is_none_or(|known| known == committed), "{branch} ended twice, differently");
    }

    fn hold(&mut self, at: usize, queue_number: usize, got: Got) {
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
        let instance = (queue_number, received.body.clone());
        let times = self.delivered.entry(instance.clone()).or_default();
        assert!(*times == 0 || received.redelivered, "{instance:?} comes again, and nothing says so");
        *times += 1;
        self.actors[at].held.push((instance, received));
    }

    /// Notes what the clients have been told.
    fn look(&mut self) {
        for at in 0..self.actors.len() {
            let owner = self.actors[at].client.owner as usize;
            for told in std::mem::take(&mut self.broker.told[owner]) {
                match told {
                    Told::Reply(result) => self.answered(at, result),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// A client goes, giving back what it holds, whatever is outstanding.
    fn leave(&mut self, at: usize) {
        let actor = self.actors.swap_remove(at);
        for (_, received) in actor.held.iter().chain(&actor.accepted) {
            self.broker.settle(actor.client, received, Settlement::Requeue);
        }
        self.broker.shards[actor.client.shard].close_connection(actor.client.connection);
    }

    /// Everybody goes, and somebody ends the branches that are left.
    fn finish(&mut self, tally: &mut Tally) {
        while !self.actors.is_empty() {
            self.leave(0);
            let shard = self.below(self.broker.shards.len());
            self.broker.turn(shard);
            self.look();
        }
        self.broker.run();
        // What is under way comes to its end.
        for _ in 0..5 {
            (0..self.broker.journals.len()).for_each(|shard| self.broker.store(shard));
        }
        self.end_branches();
        let left = self.drain();
        self.check(&left, tally);
        self.broker.run();
        super::transactions::assert_nothing_is_left(&self.broker);
        assert_eq!(self.broker.shards[0].branches.len(), 0);
    }

    fn end_branches(&mut self) {
        let client = self.broker.client(0);
        for branch in 0..self.transactions.len() {
            let commands = match self.below(2) {
                0 => &[DtxCommand::Rollback][..],
                _ => &[DtxCommand::Commit { one_phase: true }, DtxCommand::Commit { one_phase: false }],
            };
            for &command in commands {
                let request = Request::Dtx { vhost: VHOST, xid: xid(branch), command };
                if let Ok(Reply::Dtx(status)) = self.broker.ask(client, request) {
                    self.note(branch, status == DtxStatus::Ok && command != DtxCommand::Rollback);
                }
            }
        }
    }

    /// Takes everything that is left.
    fn drain(&mut self) -> BTreeSet<Instance> {
        let client = self.broker.client(0);
        let mut left = BTreeSet::new();
        for queue in 0..QUEUES {
            while let Some((got, _)) = self.broker.get(client, &format!("q{queue}"), true) {
                let is_new = left.insert((queue, got.body.clone()));
                assert!(is_new, "{} is there twice", got.body);
            }
        }
        left
    }

    fn check(&self, left: &BTreeSet<Instance>, tally: &mut Tally) {
        let times = |instance: &Instance| self.delivered.get(instance).copied().unwrap_or(0);
        let came = |instance: &Instance| left.contains(instance) || times(instance) > 0;
        let stayed_away =
            |(instance, then): &(Instance, u32)| !left.contains(instance) && times(instance) == *then;
        assert!(self.published_plainly.iter().all(came));
        assert!(self.accepted_plainly.iter().all(stayed_away));
        for (number, transaction) in self.transactions.iter().enumerate().filter(|(_, known)| !known.is_lost)
        {
            let published = transaction.published.iter().map(|instance| (instance, came(instance)));
            let accepted = transaction.accepted.iter().map(|entry| (&entry.0, stayed_away(entry)));
            let deeds: Vec<_> = published.chain(accepted).collect();
            let Some(&(_, is_done)) = deeds.first() else { continue };
            let expected = transaction.outcome.unwrap_or(is_done);
            assert!(
                deeds.iter().all(|&(_, is_done)| is_done == expected),
                "transaction {number}, known to be committed: {:?}; what was done of it: {deeds:?}",
                transaction.outcome
            );
            if deeds.len() > 1 {
                *match (transaction.outcome, expected) {
                    (Some(_), true) => &mut tally.committed,
                    (Some(_), false) => &mut tally.undone,
                    (None, true) => &mut tally.committed_unheard,
                    (None, false) => &mut tally.undone_unheard,
                } += 1;
            }
        }
    }
}

fn xid(branch: usize) -> Xid {
    Xid { format: 0, global_id: Name::from(branch.to_string()), branch_id: Name::default() }
}

#[test]
fn random_transactions_are_all_or_nothing() {
    let mut tally = Tally::default();
    for seed in 0..90 {
        let mut chaos = Chaos::new(seed, 1 + (seed % 3) as u8);
        let tally = std::panic::AssertUnwindSafe(&mut tally);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..3_000 {
                chaos.step();
            }
            let std::panic::AssertUnwindSafe(tally) = tally;
            chaos.finish(tally);
        }));
        assert!(outcome.is_ok(), "seed {seed}");
    }
    let Tally { committed, undone, committed_unheard, undone_unheard } = tally;
    assert!(committed > 1000 && undone > 1000, "{tally:?}");
    assert!(committed_unheard > 10 && undone_unheard > 10, "{tally:?}");
}
