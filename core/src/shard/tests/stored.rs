//! Messages of durable queues: what is written down of them, who waits for it, and what a restart finds.

use super::*;
use crate::journal::StoreKey;
use crate::test_support::journal::Written;

pub(super) fn durable(shard: u8) -> QueueOptions {
    QueueOptions { durable: true, ..at_home(shard) }
}

impl Broker {
    /// Publishes a persistent message with a confirm.
    pub(super) fn persist(
        &mut self,
        client: Client,
        exchange: &str,
        key: &str,
        body: &str,
        confirm: u64,
    ) -> Result<Published, Refusal> {
        let id = self.message_with(client, exchange, key, body, &[], |header| header.persistent = true);
        self.shards[client.shard].publish(client.session, VHOST, id, false, Some(confirm))
    }

    /// Everything is stored, until nothing more happens.
    pub(super) fn store_all(&mut self) {
        for _ in 0..10 {
            (0..self.shards.len()).for_each(|shard| self.store(shard));
        }
    }

    /// Numbers of confirms that a client was told, and whether its messages were taken.
    pub(super) fn confirms(&mut self, client: Client) -> Vec<(u64, bool)> {
        self.run();
        let told = std::mem::take(&mut self.told[client.owner as usize]);
        let confirm = |told| match told {
            Told::Confirmed(sequence, accepted) => (sequence, accepted),
            other => panic!("{other:?}"),
        };
        told.into_iter().map(confirm).collect()
    }

    /// The process ends, and with it what is not stored; another one begins.
    pub(super) fn crash(self) -> Self {
        let shards = self.shards.len() as u8;
        self.restarted(shards, 0)
    }

    pub(super) fn all(&mut self, client: Client, queue: &str) -> Vec<(String, bool)> {
        std::iter::from_fn(|| self.get(client, queue, true))
            .map(|(got, _)| (got.body, got.redelivered))
            .collect()
    }
}

fn is_enqueued(record: &Written) -> bool {
    matches!(record, Written::Enqueued { .. })
}

#[test]
fn a_confirm_comes_when_the_message_is_stored() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    broker.declare(client, "transient", at_home(0));
    broker.store_all();
    assert_eq!(broker.persist(client, "", "q", "a", 1), Ok(Published::Pending));
    assert_eq!(broker.persist(client, "", "q", "b", 2), Ok(Published::Pending));
    assert_eq!(broker.persist(client, "", "transient", "c", 3), Ok(Published::Confirmed));
    let id = broker.message(client, "", "q", "d");
    let published = broker.shards[0].publish(client.session, VHOST, id, false, Some(4));
    assert_eq!(published, Ok(Published::Confirmed), "it need not outlive the process");
    assert_eq!(broker.confirms(client), []);
    let journal = broker.journals[0].clone();
    assert_eq!(journal.file().records.iter().filter(|(record, _)| is_enqueued(record)).count(), 2);
    journal.store(&mut broker.shards[0], 1);
    // What is published in one turn is confirmed together.
    assert_eq!(broker.confirms(client), []);
    journal.store(&mut broker.shards[0], 1);
    assert_eq!(broker.confirms(client), [(1, true), (2, true)]);
    let mut broker = broker.crash();
    let client = broker.client(0);
    assert_eq!(broker.all(client, "q"), [("a".into(), false), ("b".into(), false)]);
}

impl Broker {
    pub(super) fn key(&self, queue: &str) -> StoreKey {
        self.shards[0].queue_entry(VHOST, queue.as_bytes()).unwrap().store_key.unwrap()
    }

    /// What was written down of messages on a shard: how many have joined queues and how many places that made, and the
    /// runs that left them.
    pub(super) fn written(&self, shard: usize) -> (usize, usize, Vec<u64>) {
        let file = self.journals[shard].file();
        let mut written = (0, 0, Vec::new());
        for (record, _) in &file.records {
            match record {
                Written::Enqueued { message, places } => {
                    written.0 += 1;
                    written.1 += places.len() * usize::from(message.message().messages);
                }
                Written::Dequeued { count, .. } => written.2.push(*count),
                _ => {}
            }
        }
        written
    }
}

#[test]
fn a_message_is_written_once_for_all_queues_and_leaves_them_in_runs() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    for (name, options) in [("a", durable(0)), ("b", durable(0)), ("c", at_home(0))] {
        broker.declare(client, name, options);
        broker.bind(client, "amq.fanout", name, "");
    }
    broker.store_all();
    for confirm in 1..=5 {
        assert_eq!(broker.persist(client, "amq.fanout", "", "m", confirm), Ok(Published::Pending));
    }
    assert_eq!(broker.written(0), (5, 10, vec![]));
    broker.store_all();
    assert_eq!(broker.confirms(client).len(), 5);
    broker.subscribe(client, "a", 1, ConsumerOptions::default());
    let received = broker.take(client);
    for at in [3, 1, 4, 0, 2] {
        broker.settle(client, &received[at], Settlement::Accept);
    }
    broker.run();
    assert_eq!(broker.written(0), (5, 10, vec![5]), "in one turn");
    assert_eq!(broker.journals[0].file().retired.len(), 0, "the other queue needs them");
    broker.all(client, "b");
    broker.all(client, "c");
    broker.run();
    assert_eq!(broker.journals[0].file().retired.len(), 5);
}

#[test]
fn a_batch_is_one_record_and_waits_as_one() {
    for home in [0, 1] {
        let mut broker = Broker::durable(2);
        let client = broker.client(0);
        broker.declare(client, "q", durable(home));
        broker.persist(client, "", "q", "first", 1).unwrap();
        let head = MessageHead::new(&MessageHeader {
            encoding: &Plain,
            exchange: b"",
            routing_key: b"q",
            properties: &[],
            body_bytes: 1,
            priority: 0,
            ttl_ms: None,
            persistent: true,
            has_headers: false,
        });
        let bodies: [&[u8]; 3] = [b"a", b"b", b"c"];
        let published =
            broker.shards[0].publish_alike(client.session, VHOST, &head, 1, bodies.iter().copied(), Some(2));
        assert_eq!(published, Some(Published::Pending));
        broker.run();
        assert_eq!(broker.written(usize::from(home)), (2, 4, vec![]));
        broker.store_all();
        assert_eq!(broker.confirms(client), [(1, true), (2, true), (3, true), (4, true)]);
        let mut broker = broker.crash();
        let client = broker.client(1);
        let bodies: Vec<String> = broker.all(client, "q").into_iter().map(|(body, _)| body).collect();
        assert_eq!(bodies, ["first", "a", "b", "c"]);
    }
}

#[test]
fn a_confirm_waits_for_every_shard_and_for_none_that_has_no_part() {
    let mut broker = Broker::durable(3);
    let client = broker.client(0);
    for shard in [1, 2] {
        let name = format!("q{shard}");
        broker.declare(client, &name, durable(shard));
        broker.bind(client, "amq.fanout", &name, "");
    }
    broker.store_all();
    assert_eq!(broker.persist(client, "amq.fanout", "", "m", 1), Ok(Published::Pending));
    broker.run();
    broker.store(0);
    broker.store(2);
    assert_eq!(broker.confirms(client), []);
    broker.store(1);
    assert_eq!(broker.confirms(client), [(1, true)]);
}

#[test]
fn a_confirm_waits_for_flow_control_and_for_the_journal() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    let flow = crate::request::FlowThresholds {
        stop_messages: Some(1),
        resume_messages: Some(1),
        ..Default::default()
    };
    broker.declare(client, "q", QueueOptions { flow, ..durable(0) });
    broker.store_all();
    broker.persist(client, "", "q", "a", 1).unwrap();
    assert_eq!(broker.persist(client, "", "q", "b", 2), Ok(Published::Pending));
    broker.store_all();
    assert_eq!(broker.confirms(client), [(1, true)], "the queue has stopped its publishers");
    assert_eq!(broker.all(client, "q").len(), 2);
    assert_eq!(broker.confirms(client), [(2, true)]);
    // The other way round: it has resumed, and nothing is stored.
    broker.persist(client, "", "q", "c", 3).unwrap();
    broker.persist(client, "", "q", "d", 4).unwrap();
    let queue = broker.shards[0].queue_entry(VHOST, b"q").unwrap().id;
    for _ in 0..2 {
        let Some(Ok(Reply::Got(Some(got)))) = broker.shards[0]
            .request(client.session, Request::Get { vhost: VHOST, queue: Name::from("q"), no_ack: true })
        else {
            panic!("fetching is stored for the next so many")
        };
        assert_eq!(got.queue, queue);
        broker.shards[0].release(got.message);
    }
    assert_eq!(broker.confirms(client), []);
    broker.store_all();
    assert_eq!(broker.confirms(client), [(3, true), (4, true)]);
}

#[test]
fn a_dead_letter_leaves_its_place_when_it_has_arrived() {
    for home in [0, 1] {
        let mut broker = Broker::durable(2);
        let client = broker.client(0);
        let options = QueueOptions {
            dead_letter_exchange: Some(Name::from("")),
            dead_letter_routing_key: Some(Name::from("dead")),
            ..durable(0)
        };
        broker.declare(client, "q", options);
        broker.declare(client, "dead", durable(home));
        broker.persist(client, "", "q", "m", 1).unwrap();
        broker.store_all();
        let (received, _) = broker.get(client, "q", false).unwrap();
        let (place, at) = (broker.journals[0].places()[0].place.place, broker.journals[0].places()[0].at);
        let key = broker.key("q");
        broker.settle(client, &received, Settlement::Reject);
        broker.run();
        assert_eq!(broker.written(0).2, [], "the dead letter is not stored");
        assert!(broker.shards[0].holds(key, place, at), "the old record is needed");
        broker.store(usize::from(home));
        assert_eq!(broker.written(0).2, [1]);
        assert!(!broker.shards[0].holds(key, place, at));
        broker.store_all();
        let mut broker = broker.crash();
        let client = broker.client(0);
        assert_eq!(broker.all(client, "q"), []);
        assert_eq!(broker.all(client, "dead"), [("m".into(), false)]);
    }
}

#[test]
fn a_dead_letter_on_its_way_is_where_it_was() {
    let mut broker = Broker::durable(2);
    let client = broker.client(0);
    let options = QueueOptions {
        dead_letter_exchange: Some(Name::from("")),
        dead_letter_routing_key: Some(Name::from("dead")),
        ..durable(0)
    };
    broker.declare(client, "q", options);
    broker.declare(client, "dead", durable(1));
    broker.persist(client, "", "q", "m", 1).unwrap();
    broker.store_all();
    let (received, _) = broker.get(client, "q", false).unwrap();
    broker.settle(client, &received, Settlement::Reject);
    broker.run();
    broker.store(0);
    let mut broker = broker.crash();
    let client = broker.client(0);
    assert_eq!(broker.all(client, "dead"), []);
    assert_eq!(broker.all(client, "q"), [("m".into(), true)]);
}

#[test]
fn messages_are_handed_out_when_a_restart_will_mark_them() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    for body in ["a", "b", "c"] {
        broker.persist(client, "", "q", body, 0).unwrap();
    }
    broker.store_all();
    broker.told[client.owner as usize].clear();
    let options = ConsumerOptions { prefetch: 1, ..ConsumerOptions::default() };
    let queue = Name::from("q");
    let request = Request::Subscribe { vhost: VHOST, queue, consumer: 1, options };
    assert!(broker.try_ask(client, request).is_none());
    assert!(broker.take(client).is_empty(), "a restart would not mark it");
    broker.store(0);
    let received = broker.take(client);
    assert_eq!(received.len(), 1);
    broker.told[client.owner as usize].clear();
    broker.ask(client, Request::Cancel { consumer: 1 }).unwrap();
    broker.settle(client, &received[0], Settlement::Requeue);
    broker.store_all();
    let mut broker = broker.crash();
    let client = broker.client(0);
    let all = broker.all(client, "q");
    assert_eq!(all, [("a".into(), true), ("b".into(), false), ("c".into(), false)]);
}

#[test]
fn a_mark_that_was_stored_for_somebody_who_has_left_serves_the_next() {
    let mut broker = Broker::durable(1);
    let (first, second) = (broker.client(0), broker.client(0));
    broker.declare(first, "q", durable(0));
    broker.persist(first, "", "q", "a", 0).unwrap();
    broker.store_all();
    broker.told[first.owner as usize].clear();
    let options = ConsumerOptions::default();
    let subscribe =
        || Request::Subscribe { vhost: VHOST, queue: "q".into(), consumer: 1, options: options.clone() };
    assert!(broker.try_ask(first, subscribe()).is_none());
    broker.shards[first.shard].close_connection(first.connection);
    broker.store_all();
    assert!(broker.try_ask(second, subscribe()).is_some_and(|answer| answer.is_ok()));
    assert_eq!(broker.take(second).len(), 1);
}

#[test]
fn time_to_live_goes_on_over_a_restart() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    for (body, ttl_ms) in [("short", 1_000), ("long", 2_000)] {
        let id = broker.message_with(client, "", "q", body, &[], |header| {
            (header.persistent, header.ttl_ms) = (true, Some(ttl_ms));
        });
        broker.send(client, id);
    }
    broker.pass(400);
    broker.store_all();
    let mut broker = broker.crash();
    let client = broker.client(0);
    broker.pass(500);
    assert_eq!(broker.counts(client, "q").unwrap().0, 2);
    broker.pass(200);
    assert_eq!(broker.counts(client, "q").unwrap().0, 1);
    broker.store_all();
    assert_eq!(broker.journals[0].places().len(), 1, "what has expired does not come back");
    broker.pass(1_000);
    assert_eq!(broker.counts(client, "q").unwrap().0, 0);
}

#[test]
fn a_journal_that_fails_refuses_and_loses_nothing_in_memory() {
    let mut broker = Broker::durable(2);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    broker.declare(client, "other", durable(1));
    broker.declare(client, "transient", at_home(0));
    broker.store_all();
    broker.persist(client, "", "q", "a", 1).unwrap();
    broker.fail(0);
    assert_eq!(broker.confirms(client), [(1, false)]);
    let refused = broker.persist(client, "", "q", "b", 2);
    assert_eq!(refused, Err(Refusal::NotStored("the disk is gone".into())));
    assert_eq!(broker.persist(client, "", "transient", "c", 3), Ok(Published::Confirmed));
    assert_eq!(broker.publish(client, "", "q", "d"), Published::Confirmed, "it need not be stored");
    assert_eq!(broker.persist(client, "", "other", "e", 4), Ok(Published::Pending));
    broker.run();
    broker.store(1);
    assert_eq!(broker.confirms(client), [(4, true)], "another disk");
    let remote = broker.client(1);
    assert_eq!(broker.persist(remote, "", "q", "f", 1), Ok(Published::Pending));
    assert_eq!(broker.confirms(remote), [(1, false)]);
    assert_eq!(broker.all(client, "q"), [("a".into(), false), ("d".into(), false)]);
    assert_eq!(broker.all(client, "transient").len(), 1);
}

#[test]
fn a_full_journal_refuses_what_is_to_be_stored_and_lets_messages_go() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    broker.persist(client, "", "q", "a", 1).unwrap();
    broker.store_all();
    broker.confirms(client);
    broker.journals[0].change(|file| file.full = Some("no room".into()));
    assert_eq!(broker.persist(client, "", "q", "b", 2), Err(Refusal::NotStored("no room".into())));
    assert_eq!(broker.publish(client, "", "q", "c"), Published::Confirmed);
    assert_eq!(broker.all(client, "q").len(), 2);
    broker.store_all();
    assert_eq!(broker.written(0), (1, 1, vec![1]));
    broker.journals[0].change(|file| file.full = None);
    assert_eq!(broker.persist(client, "", "q", "d", 3), Ok(Published::Pending));
}

#[test]
fn a_purge_is_answered_when_it_is_stored() {
    let mut broker = Broker::durable(1);
    let client = broker.client(0);
    broker.declare(client, "q", durable(0));
    for body in ["a", "b", "c"] {
        broker.persist(client, "", "q", body, 0).unwrap();
    }
    broker.store_all();
    let (held, _) = broker.get(client, "q", false).unwrap();
    broker.told[client.owner as usize].clear();
    let purge = Request::PurgeQueue { vhost: VHOST, name: Name::from("q") };
    assert!(broker.try_ask(client, purge).is_none());
    broker.store(0);
    assert!(matches!(
        broker.told[client.owner as usize].pop_front(),
        Some(Told::Reply(Ok(Reply::Messages(2))))
    ));
    assert_eq!(broker.written(0).2, [2]);
    let mut broker = broker.crash();
    let client = broker.client(0);
    assert_eq!(broker.all(client, "q"), [(held.body, true)]);
}
