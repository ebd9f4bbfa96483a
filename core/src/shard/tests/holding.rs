//! Messages that a durable exchange holds back: what is written down of them, and what a restart makes of that.

use super::durable::declare_exchange;
use super::stored::durable;
use super::*;
use crate::test_support::journal::Written;
use crate::test_support::{properties, text};

/// How long messages are held back.
const DELAY_MS: u64 = 100;

/// An exchange `late` that leads to a durable queue `q` on the last shard.
fn broker(shards: u8, limits: Limits) -> (Broker, Client) {
    let mut broker = Broker::durable_with(shards, limits);
    let client = broker.client(0);
    declare(&mut broker, client, true);
    broker.declare(client, "q", durable(shards - 1));
    broker.bind(client, "late", "q", "");
    broker.store_all();
    (broker, client)
}

fn declare(broker: &mut Broker, client: Client, durable: bool) {
    let arguments = Table(vec![(Name::from("x-delayed-type"), text("fanout"))]);
    let kind = Name::from("x-delayed-message");
    let options = ExchangeOptions { kind, arguments, durable, ..ExchangeOptions::default() };
    broker.ask(client, declare_exchange("late", options)).unwrap();
}

impl Broker {
    fn delayed(&mut self, client: Client, body: &str, delay_ms: u64, persistent: bool) -> MessageId {
        let delay = i64::try_from(delay_ms).unwrap();
        let properties = properties(None, &[("x-delay", Value::I64(delay))]);
        self.message_with(client, "late", "", body, &properties, |header| header.persistent = persistent)
    }

    /// Publishes a persistent message that is to be held back.
    fn delay(
        &mut self,
        client: Client,
        body: &str,
        delay_ms: u64,
        confirm: u64,
    ) -> Result<Published, Refusal> {
        let id = self.delayed(client, body, delay_ms, true);
        self.shards[client.shard].publish(client.session, VHOST, id, false, Some(confirm))
    }

    fn bodies_in_q(&mut self, client: Client) -> Vec<String> {
        self.all(client, "q").into_iter().map(|(body, _)| body).collect()
    }

    /// Where the exchange holds messages back.
    fn hold(&self) -> QueueId {
        self.shards[0].topology.hold(VHOST, b"late").unwrap()
    }

    /// Messages joined queues, and messages left, on all shards.
    fn joined_and_left(&self) -> (usize, usize) {
        let written: Vec<_> = (0..self.shards.len()).map(|shard| self.written(shard)).collect();
        written
            .iter()
            .fold((0, 0), |(joined, left), (messages, _, runs)| (joined + messages, left + runs.len()))
    }
}

#[test]
fn it_is_confirmed_when_it_is_stored_that_it_is_held_back() {
    for shards in [1, 2, 3] {
        let (mut broker, client) = broker(shards, Limits::default());
        assert_eq!(broker.delay(client, "m", DELAY_MS, 1), Ok(Published::Pending));
        assert_eq!(broker.confirms(client), []);
        broker.store_all();
        assert_eq!(broker.confirms(client), [(1, true)]);
        assert_eq!(broker.joined_and_left(), (1, 0));
    }
}

#[test]
fn what_need_not_outlive_the_process_is_not_written_down() {
    for (is_durable, is_persistent) in [(true, false), (false, true)] {
        let mut broker = Broker::durable(1);
        let client = broker.client(0);
        declare(&mut broker, client, is_durable);
        broker.declare(client, "q", at_home(0));
        broker.bind(client, "late", "q", "");
        let id = broker.delayed(client, "m", DELAY_MS, is_persistent);
        let published = broker.shards[0].publish(client.session, VHOST, id, true, Some(1));
        assert_eq!(published, Ok(Published::Confirmed));
        broker.pass(DELAY_MS);
        assert_eq!(broker.joined_and_left(), (0, 0));
        assert_eq!(broker.bodies_in_q(client), ["m"]);
        broker.end(&[client]);
    }
}

type Step = Box<dyn Fn(&mut Broker)>;

/// What a message goes through that is held back, step by step: its publisher has its confirm after the first ones.
fn steps(shards: usize) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let store_each = move |steps: &mut Vec<Step>| {
        for _ in 0..2 {
            for shard in 0..shards {
                steps.push(Box::new(move |broker| broker.store(shard)));
            }
        }
    };
    store_each(&mut steps);
    steps.push(Box::new(|broker| broker.pass(DELAY_MS - 1)));
    steps.push(Box::new(|broker| broker.pass(1)));
    store_each(&mut steps);
    steps
}

#[test]
fn whenever_the_process_ends_it_is_held_back_or_in_its_queue() {
    for shards in [1, 2, 3] {
        let count = steps(shards).len();
        for (until, more) in (0..=count).flat_map(|until| (0..3).map(move |more| (until, more))) {
            let (mut broker, client) = broker(shards as u8, Limits::default());
            let began = broker.clock.wall_ms;
            assert_eq!(broker.delay(client, "m", DELAY_MS, 1), Ok(Published::Pending));
            broker.run();
            steps(shards).iter().take(until).for_each(|step| step(&mut broker));
            let is_confirmed = broker.confirms(client) == [(1, true)];
            assert!(is_confirmed || until < 2 * shards);
            let mut broker = broker.restarted(shards as u8, more);
            let client = broker.client(0);
            let case = format!("{shards} shards, after {until} steps, {more} more records");
            let mut found = broker.bodies_in_q(client);
            if broker.clock.wall_ms < began + DELAY_MS {
                assert!(found.is_empty(), "too early: {case}");
            }
            broker.pass(DELAY_MS);
            found.extend(broker.bodies_in_q(client));
            assert!(!is_confirmed || !found.is_empty(), "lost: {case}");
            // On one shard its places are changed together.
            assert!(found.len() <= shards.min(2), "{found:?}: {case}");
            broker.store_all();
            broker.run();
            assert!(broker.journals.iter().all(|journal| journal.places().is_empty()), "{case}");
            assert_eq!(broker.restarted(shards as u8, 0).shards[0].topology.exchanges(VHOST).count(), 8);
        }
    }
}

#[test]
fn time_that_has_passed_while_nobody_looked_counts() {
    let (mut broker, client) = broker(1, Limits::default());
    for (confirm, (body, delay_ms)) in [("late", 300), ("early", 200), ("first", 100)].into_iter().enumerate()
    {
        broker.delay(client, body, delay_ms, confirm as u64).unwrap();
    }
    broker.store_all();
    let mut journal = broker.restarted(1, 0);
    journal.clock.wall_ms += 250;
    let mut broker = journal.restarted(1, 0);
    let client = broker.client(0);
    broker.run();
    assert_eq!(broker.bodies_in_q(client), ["early", "first"]);
    broker.pass(49);
    assert!(broker.bodies_in_q(client).is_empty());
    broker.pass(1);
    assert_eq!(broker.bodies_in_q(client), ["late"]);
    broker.end(&[client]);
}

#[test]
fn a_journal_that_takes_nothing_refuses_it() {
    for shards in [1, 3] {
        let (mut broker, client) = broker(shards, Limits::default());
        let home = broker.hold().home.index();
        broker.journals[home].change(|file| file.full = Some(Arc::from("there is no room")));
        let published = broker.delay(client, "m", DELAY_MS, 1);
        match home == client.shard {
            true => assert!(matches!(published, Err(Refusal::NotStored(_))), "{published:?}"),
            false => {
                assert_eq!((published, broker.confirms(client)), (Ok(Published::Pending), vec![(1, false)]))
            }
        }
        let id = broker.delayed(client, "transient", DELAY_MS, false);
        broker.send(client, id);
        broker.run();
        broker.pass(DELAY_MS);
        assert_eq!(broker.bodies_in_q(client), ["transient"]);
    }
}

#[test]
fn when_the_journal_fails_what_waits_is_let_go_nevertheless() {
    let (mut broker, client) = broker(1, Limits::default());
    broker.delay(client, "before", DELAY_MS, 1).unwrap();
    broker.store_all();
    broker.delay(client, "then", DELAY_MS, 2).unwrap();
    broker.fail(0);
    assert_eq!(broker.confirms(client), [(1, true), (2, false)]);
    assert!(matches!(broker.delay(client, "after", DELAY_MS, 3), Err(Refusal::NotStored(_))));
    broker.pass(DELAY_MS);
    assert_eq!(broker.bodies_in_q(client), ["before", "then"]);
    let mut broker = broker.crash();
    let client = broker.client(0);
    broker.pass(DELAY_MS);
    assert_eq!(broker.bodies_in_q(client), ["before"], "a restart knows no better");
}

#[test]
fn the_journal_can_move_its_record() {
    let (mut broker, client) = broker(1, Limits::default());
    broker.delay(client, "m", DELAY_MS, 1).unwrap();
    broker.store_all();
    for _ in 0..2 {
        let found = broker.journals[0].places()[0];
        let (queue, place, old) = (found.place.queue, found.place.place, found.at);
        assert!(broker.shards[0].holds(queue, place, old));
        let (record, new) = {
            let file = broker.journals[0].file();
            let record = file.records[old.0 as usize - 1].0.clone();
            (record, crate::journal::Position(file.records.len() as u64 + 1))
        };
        assert!(matches!(record, Written::Enqueued { .. }));
        broker.journals[0].change(|file| file.records.push((record, crate::journal::Joined::No)));
        assert!(broker.shards[0].relocated(queue, place, old, new));
        assert!(!broker.shards[0].holds(queue, place, old) && broker.shards[0].holds(queue, place, new));
        broker.store_all();
        // The second time it is out of memory.
        broker = broker.crash();
    }
    let client = broker.client(0);
    broker.pass(DELAY_MS);
    assert_eq!(broker.bodies_in_q(client), ["m"]);
    broker.run();
    assert_eq!(broker.journals[0].file().retired.len(), 2, "in both places");
}

#[test]
fn what_is_held_back_leaves_memory_and_comes_in_time() {
    for shards in [1, 2] {
        let limits = Limits { paging_bytes: 1_000, ..Limits::default() };
        let (mut broker, client) = broker(shards, limits);
        let delays: Vec<u64> = (0..40).map(|number| 1 + number * 37 % 40).collect();
        for (confirm, delay_ms) in delays.iter().enumerate() {
            let body = format!("{delay_ms:0>50}");
            broker.delay(client, &body, *delay_ms, confirm as u64).unwrap();
        }
        let id = broker.delayed(client, "transient", 50, false);
        broker.send(client, id);
        broker.store_all();
        broker.pass(0);
        let hold = broker.hold();
        let held = broker.shards[hold.home.index()].stats();
        assert!(held.paged >= 30, "{held:?}");
        assert!(held.memory_bytes < 4_000 || shards > 1, "{held:?}");
        let mut found = Vec::new();
        for now in 1..=50 {
            broker.pass(1);
            broker.store_all();
            let bodies = broker.bodies_in_q(client);
            assert!(bodies.iter().all(|body| now == 50 || body.parse() == Ok(now)), "{now}: {bodies:?}");
            found.extend(bodies);
        }
        assert_eq!(found.len(), 41, "each once");
        assert!(broker.paged_messages().1 >= 30);
        broker.store_all();
        broker.end(&[client]);
    }
}

#[test]
fn what_a_transaction_publishes_is_held_back_with_its_commit() {
    for shards in [1, 2, 3] {
        let (mut broker, client) = broker(shards, Limits::default());
        broker.declare(client, "other", durable(0));
        broker.store_all();
        let id = broker.delayed(client, "m", DELAY_MS, true);
        let plain = broker.message_with(client, "", "other", "m", &[], |header| header.persistent = true);
        for message in [id, plain] {
            broker.shards[0].publish_in_transaction(client.session, VHOST, message, false).unwrap();
        }
        let answer = broker.shards[0].request(client.session, Request::Commit);
        assert!(answer.is_none(), "{answer:?}");
        for _ in 0..10 {
            broker.run();
            (0..usize::from(shards)).for_each(|shard| broker.store(shard));
        }
        assert!(matches!(broker.answer(client), Some(Ok(Reply::Committed { .. }))));
        let mut broker = broker.crash();
        let client = broker.client(0);
        assert_eq!(broker.all(client, "other").len(), 1);
        broker.pass(DELAY_MS - 1);
        assert!(broker.bodies_in_q(client).is_empty());
        broker.pass(1);
        assert_eq!(broker.bodies_in_q(client), ["m"]);
    }
}

#[test]
fn it_goes_with_its_exchange() {
    for shards in [1, 3] {
        let (mut broker, client) = broker(shards, Limits::default());
        broker.delay(client, "m", DELAY_MS, 1).unwrap();
        broker.store_all();
        broker.confirms(client);
        let name = Name::from("late");
        broker.ask(client, Request::DeleteExchange { vhost: VHOST, name, if_unused: false }).unwrap();
        broker.store_all();
        broker.pass(DELAY_MS);
        assert!(broker.bodies_in_q(client).is_empty());
        assert!(broker.shards.iter().all(|shard| shard.stats().messages == 0));
        let mut broker = broker.crash();
        let client = broker.client(0);
        declare(&mut broker, client, true);
        broker.bind(client, "late", "q", "");
        broker.pass(DELAY_MS);
        assert!(broker.bodies_in_q(client).is_empty());
        broker.delay(client, "new", DELAY_MS, 1).unwrap();
        broker.run();
        broker.pass(DELAY_MS);
        assert_eq!(broker.bodies_in_q(client), ["new"]);
    }
}
