//! The same with durable queues and journals that store a little now and then, and with a process that ends at any moment:
//! each journal keeps what it had stored and a little more. What was answered is as it was answered; of everything else
//! all was done or nothing.

use std::collections::HashSet;

use super::*;
use crate::journal::StoredPlace;

/// What had become of transactions when the process ended.
#[derive(Debug, Default)]
struct Found {
    done: u32,
    undone: u32,
    in_doubt: u32,
    answered: u32,
}

struct Crashing {
    chaos: Chaos,
    /// Messages that a restart has found.
    known: HashSet<Instance>,
    found: Found,
}

impl Crashing {
    fn new(seed: u64, shards: u8) -> Self {
        let mut broker = Broker::with_limits(shards, limits());
        broker.journals = (0..shards).map(|_| TestJournal::default()).collect();
        broker.give_journals();
        let chaos = Chaos::with(seed, broker);
        Crashing { chaos, known: HashSet::new(), found: Found::default() }
    }

    fn step(&mut self) {
        let chaos = &mut self.chaos;
        match chaos.below(1_000) {
            0 => {
                self.restart();
                self.judge();
                (0..4).for_each(|_| self.chaos.join());
            }
            1..=250 => {
                let (shard, records) = (chaos.below(chaos.broker.shards.len()), chaos.below(6));
                let journal = chaos.broker.journals[shard].clone();
                journal.store(&mut chaos.broker.shards[shard], records);
                chaos.look();
            }
            _ => chaos.step(),
        }
    }

    /// The process ends, and another one finds what it left.
    fn restart(&mut self) {
        let chaos = &mut self.chaos;
        let shards = chaos.broker.shards.len() as u8;
        let journals = std::mem::take(&mut chaos.broker.journals);
        for journal in &journals {
            journal.crash(chaos.below(6));
        }
        chaos.broker = Broker::with_limits(shards, limits()).started_with(journals);
        chaos.actors.clear();
        // Who was not told so knows nothing.
        chaos.accepted_plainly.clear();
        chaos.published_plainly.clear();
    }

    /// Looks at what a restart has found.
    fn judge(&mut self) {
        let (present, in_doubt) = (self.present(), self.in_doubt());
        let Crashing { chaos, known, found } = self;
        known.extend(present.iter().cloned());
        for (number, transaction) in chaos.transactions.iter_mut().enumerate() {
            if in_doubt.contains(&number) {
                assert_eq!(transaction.outcome, None, "{number} has been ended, as somebody was told");
                found.in_doubt += 1;
                continue;
            }
            let has_work = !transaction.published.is_empty() || !transaction.accepted.is_empty();
            let is_missing = transaction.is_prepared && has_work;
            assert!(!is_missing, "{number} is prepared, as somebody was told, and is not there");
            transaction.is_prepared = false;
            let evidence = evidence(transaction, &present, known, &chaos.delivered);
            if transaction.is_lost {
                continue;
            }
            let is_done = match (transaction.outcome, evidence.first()) {
                (Some(committed), _) => committed,
                (None, Some((_, is_done))) => *is_done,
                (None, None) => {
                    transaction.is_lost = true;
                    continue;
                }
            };
            assert!(
                evidence.iter().all(|(_, each)| *each == is_done),
                "transaction {number}, known to be committed: {:?}; what was done of it: {evidence:?}",
                transaction.outcome
            );
            *match (transaction.outcome, is_done) {
                (Some(_), _) => &mut found.answered,
                (None, true) => &mut found.done,
                (None, false) => &mut found.undone,
            } += 1;
            transaction.outcome = Some(is_done);
            forget_what_was_lost(transaction, &present, &chaos.delivered);
        }
    }

    /// What is in queues, as the journals say.
    fn present(&self) -> HashSet<Instance> {
        let broker = &self.chaos.broker;
        let name = |place: StoredPlace, journal: &TestJournal, shard: &Shard| {
            let queue = shard.queue_of(place.place.queue).expect("the queues stay");
            let name = shard.topology.queue_by_id(queue).expect("it is known").name.to_string();
            let body = String::from_utf8(journal.message_at(place.at).message().bodies.to_vec());
            (name[1..].parse().expect("a number"), body.expect("a text"))
        };
        let all = broker.shards.iter().zip(&broker.journals);
        all.flat_map(|(shard, journal)| {
            journal.places().into_iter().map(move |place| name(place, journal, shard))
        })
        .collect()
    }

    /// Branches that are prepared.
    fn in_doubt(&mut self) -> HashSet<usize> {
        let broker = &mut self.chaos.broker;
        let client = broker.client(0);
        let reply = broker.shards[0].request(client.session, Request::RecoverDtx { vhost: VHOST });
        let Some(Ok(Reply::DtxInDoubt(xids))) = reply else { panic!("{reply:?}") };
        let number = |xid: &Xid| xid.global_id.to_string().parse().expect("a number");
        xids.iter().map(number).collect()
    }
}

/// What can be seen of a transaction: each thing that was to be done, and whether it was.
fn evidence(
    transaction: &Transaction,
    present: &HashSet<Instance>,
    known: &HashSet<Instance>,
    delivered: &HashMap<Instance, u32>,
) -> Vec<(Instance, bool)> {
    let times = |instance: &Instance| delivered.get(instance).copied().unwrap_or(0);
    let mut evidence = Vec::new();
    for instance in &transaction.published {
        // Somebody may have taken what was not stored yet.
        if present.contains(instance) || times(instance) == 0 {
            evidence.push((instance.clone(), present.contains(instance)));
        }
    }
    for (instance, then) in &transaction.accepted {
        if present.contains(instance) || times(instance) > *then {
            evidence.push((instance.clone(), false));
        } else if known.contains(instance) {
            evidence.push((instance.clone(), true));
        }
    }
    evidence
}

/// Leaves out what was seen before the process ended and will not be seen again.
fn forget_what_was_lost(
    transaction: &mut Transaction,
    present: &HashSet<Instance>,
    delivered: &HashMap<Instance, u32>,
) {
    if transaction.outcome == Some(true) {
        return;
    }
    let times = |instance: &Instance| delivered.get(instance).copied().unwrap_or(0);
    transaction.published.retain(|instance| times(instance) == 0);
    transaction.accepted.retain(|(instance, then)| present.contains(instance) || times(instance) > *then);
}

#[test]
fn transactions_are_all_or_nothing_over_crashes() {
    let (mut tally, mut found) = (Tally::default(), Found::default());
    for seed in 0..60 {
        let mut crashing = Crashing::new(seed, 1 + (seed % 4) as u8);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..4_000 {
                crashing.step();
            }
            let mut tally = Tally::default();
            crashing.chaos.finish(&mut tally);
            (0..crashing.chaos.broker.shards.len()).for_each(|shard| crashing.chaos.broker.store(shard));
            crashing.restart();
            assert!(crashing.present().is_empty(), "what was taken comes back");
            (tally, crashing.found)
        }));
        let Ok((one, other)) = outcome else { panic!("seed {seed}") };
        tally.committed += one.committed;
        tally.undone += one.undone;
        found.done += other.done;
        found.undone += other.undone;
        found.in_doubt += other.in_doubt;
        found.answered += other.answered;
    }
    let Found { done, undone, in_doubt, answered } = found;
    assert!(tally.committed > 500 && tally.undone > 500, "{tally:?}");
    assert!(done > 20 && undone > 100 && in_doubt > 20 && answered > 1000, "{found:?}");
}
