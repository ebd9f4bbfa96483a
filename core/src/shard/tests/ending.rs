//! The end of queues that outlive the process: a restart finds a queue with what is in it, or neither; and what goes by
//! an alternate exchange is lost at no moment.

use super::durable::{bind_to, declare_exchange, delete, fanout};
use super::stored::durable;
use super::*;
use crate::topology::StoredChange;

const MESSAGES: usize = 3;

/// Messages that somebody has in hand, and others, in a queue `q` on a shard, and an exchange `alternate` that leads to a
/// queue `heir` on another one if there is one.
fn broker(shards: u8, home: u8, has_alternate: bool, limits: Limits) -> (Broker, Client) {
    let mut broker = Broker::durable_with(shards, limits);
    let client = broker.client(0);
    broker.ask(client, declare_exchange("alternate", fanout(true))).unwrap();
    broker.declare(client, "heir", durable((home + 1) % shards));
    broker.ask(client, bind_to("alternate", "heir", DestinationKind::Queue, "")).unwrap();
    let alternate = has_alternate.then(|| Name::from("alternate"));
    broker.declare(client, "q", QueueOptions { alternate, ..durable(home) });
    broker.store_all();
    for number in 0..MESSAGES {
        broker.persist(client, "", "q", &number.to_string(), number as u64).unwrap();
    }
    broker.store_all();
    broker.get(client, "q", false).unwrap();
    broker.store_all();
    broker.told[client.owner as usize].clear();
    (broker, client)
}

impl Broker {
    fn sorted(&mut self, client: Client, queue: &str) -> Vec<String> {
        if !self.has_queue(queue) {
            return Vec::new();
        }
        let mut bodies: Vec<String> = self.all(client, queue).into_iter().map(|(body, _)| body).collect();
        bodies.sort();
        bodies
    }

    fn retired(&self) -> usize {
        self.journals.iter().map(|journal| journal.file().retired.len()).sum()
    }
}

#[test]
fn messages_stay_until_it_is_stored_that_their_queue_has_ended() {
    for (shards, home) in [(1, 0), (2, 0), (2, 1), (3, 2)] {
        for stored in [false, true] {
            let (mut broker, client) = broker(shards, home, false, Limits::default());
            let found: Vec<_> =
                broker.journals.iter().flat_map(TestJournal::places).map(|place| place.place).collect();
            let found = found.into_iter().filter(|place| place.queue == broker.key("q"));
            let found: Vec<_> = found.collect();
            assert_eq!(found.len(), MESSAGES);
            assert!(broker.try_ask(client, delete("q")).is_none());
            broker.run();
            assert_eq!(broker.retired(), 0, "a restart would find the queue without them");
            let shard = &mut broker.shards[usize::from(home)];
            for place in &found {
                let at = broker.journals[usize::from(home)].places();
                let at = at.iter().find(|other| other.place.place == place.place).unwrap().at;
                assert!(shard.holds(place.queue, place.place, at), "the journal may not give it up");
            }
            if stored {
                broker.store_all();
                assert!(matches!(broker.answer(client), Some(Ok(Reply::Messages(2)))));
                assert_eq!(broker.retired(), MESSAGES);
                assert!(broker.shards.iter().all(|shard| shard.stats().messages == 0));
            }
            let mut broker = broker.crash();
            let client = broker.client(0);
            assert_eq!(broker.has_queue("q"), !stored);
            assert_eq!(broker.sorted(client, "q").len(), if stored { 0 } else { MESSAGES });
        }
    }
}

#[test]
fn the_journal_can_move_what_is_left_of_a_queue() {
    let (mut broker, client) = broker(1, 0, false, Limits::default());
    let found = broker.journals[0].places();
    assert!(broker.try_ask(client, delete("q")).is_none());
    let mut all = Vec::new();
    for (number, found) in found.into_iter().enumerate() {
        let new = crate::journal::Position(1_000 + number as u64);
        all.push(new);
        assert!(broker.shards[0].relocated(found.place.queue, found.place.place, found.at, new));
        assert!(broker.shards[0].holds(found.place.queue, found.place.place, new));
    }
    broker.store_all();
    broker.run();
    let mut retired: Vec<_> = broker.journals[0].file().retired.iter().map(|(at, _)| *at).collect();
    retired.sort_unstable();
    assert_eq!(retired, all);
}

#[test]
fn a_deletion_that_is_not_stored_takes_nothing() {
    for home in [0, 1] {
        let (mut broker, client) = broker(2, home, false, Limits::default());
        assert!(broker.try_ask(client, delete("q")).is_none());
        broker.fail(0);
        assert!(matches!(broker.answer(client), Some(Err(Refusal::NotStored(_)))));
        broker.store(1);
        assert!(broker.journals[1].file().retired.is_empty());
        let mut broker = broker.crash();
        let client = broker.client(0);
        assert_eq!(broker.sorted(client, "q").len(), MESSAGES);
    }
}

#[test]
fn whenever_the_process_ends_messages_are_in_the_queue_or_its_heir() {
    let (mut back, mut moved) = (0, 0);
    for (shards, home) in [(1, 0), (2, 0), (2, 1), (3, 1)] {
        for paging_bytes in [Limits::default().paging_bytes, 0] {
            let limits = Limits { paging_bytes, ..Limits::default() };
            // Shard by shard their journals store, in every order, and a record more here or there.
            for case in 0..81 * 3 {
                let (mut broker, client) = broker(shards, home, true, limits.clone());
                assert!(broker.try_ask(client, delete("q")).is_none());
                let mut steps = case / 3;
                for _ in 0..4 {
                    if steps % 3 > 0 {
                        broker.store((steps % 3 - 1) % usize::from(shards));
                    }
                    steps /= 3;
                }
                let is_answered = broker.answer(client).is_some();
                let more = case % 3;
                let mut broker = broker.restarted_with(shards, limits.clone(), |_| more);
                let client = broker.client(0);
                let case = format!("{shards} shards, home {home}, case {case}, {paging_bytes} bytes");
                assert!(!is_answered || !broker.has_queue("q"), "it is back: {case}");
                broker.run();
                broker.store_all();
                let (in_q, in_heir) = (broker.sorted(client, "q"), broker.sorted(client, "heir"));
                (back, moved) = (back + in_q.len(), moved + in_heir.len());
                for number in 0..MESSAGES {
                    let body = number.to_string();
                    assert!(in_q.contains(&body) || in_heir.contains(&body), "{number} is lost: {case}");
                }
                if in_q.is_empty() {
                    // Nothing is left to be done.
                    broker.store_all();
                    let changes = broker.stored_topology();
                    let ended = |change: &StoredChange| matches!(change, StoredChange::QueueDeleted { .. });
                    assert!(!changes.iter().any(ended), "{changes:?}: {case}");
                    assert!(broker.shards.iter().all(|shard| shard.left.is_empty()), "{case}");
                    // Whose queue nobody knows is nobody's.
                    let places: Vec<_> = broker.journals.iter().flat_map(TestJournal::places).collect();
                    let known = |place: &crate::journal::StoredPlace| {
                        broker.shards[0].queue_of(place.place.queue).is_some()
                    };
                    assert!(!places.iter().any(known), "{places:?}: {case}");
                    let mut broker = broker.restarted(shards, 0);
                    let client = broker.client(0);
                    assert_eq!((broker.sorted(client, "heir").len(), broker.has_queue("q")), (0, false));
                }
            }
        }
    }
    assert!(back > 0 && moved > 0, "{back} came back, {moved} moved");
}

#[test]
fn what_is_on_its_way_is_part_of_the_whole_topology() {
    let (mut broker, client) = broker(2, 1, true, Limits::default());
    assert!(broker.try_ask(client, delete("q")).is_none());
    broker.store(0);
    let changes = broker.stored_topology();
    let ended = |change: &StoredChange| matches!(change, StoredChange::QueueDeleted { .. });
    assert!(changes.iter().any(ended), "{changes:?}");
    // Another queue of that name is another one.
    broker.told[client.owner as usize].clear();
    assert!(broker.try_ask(client, super::durable::declare("q", durable(0))).is_none());
    let journal = broker.journals[0].clone();
    let changes = broker.stored_topology();
    journal.change(|file| {
        file.records
            .push((crate::test_support::journal::Written::Topology(changes), crate::journal::Joined::No));
    });
    broker.store(0);
    let mut broker = broker.restarted(2, 0);
    let client = broker.client(0);
    broker.run();
    broker.store_all();
    assert!(broker.sorted(client, "q").is_empty());
    let mut in_heir = broker.sorted(client, "heir");
    in_heir.dedup();
    assert_eq!(in_heir, ["0", "1", "2"]);
}

#[test]
fn without_a_journal_messages_go_at_once() {
    let mut broker = Broker::new(2);
    let client = broker.client(0);
    broker.exchange(client, "alternate", "fanout", Table::default());
    broker.declare(client, "heir", durable(0));
    broker.bind(client, "alternate", "heir", "");
    broker.declare(client, "q", QueueOptions { alternate: Some("alternate".into()), ..durable(1) });
    broker.publish(client, "", "q", "m");
    broker.run();
    broker.ask(client, delete("q")).unwrap();
    broker.run();
    assert_eq!(broker.sorted(client, "heir"), ["m"]);
    assert!(broker.shards.iter().all(|shard| shard.left.is_empty()));
    assert_eq!(broker.shards[0].topology.all_leaving().count(), 0);
    broker.end(&[client]);
}
