//! Queues that do not take whatever comes: limits, last values, priorities with fair shares; what they give up.

use super::*;
use crate::request::{FlowThresholds, Overflow};
use crate::test_support::{properties, text};

/// Options of a queue at home on the last of so many shards.
pub(super) fn full(overflow: Overflow, most: u64, shards: u8) -> QueueOptions {
    // Flow control is tested by itself.
    let flow = FlowThresholds { stop_messages: Some(0), stop_bytes: Some(0), ..FlowThresholds::default() };
    QueueOptions { overflow, max_length: Some(most), flow, ..at_home(shards - 1) }
}

/// Publishes with a confirm and tells whether the message was accepted; `None` if that is not known yet.
pub(super) fn confirmed(
    broker: &mut Broker,
    client: Client,
    key: &str,
    body: &str,
    sequence: u64,
) -> Option<bool> {
    let id = broker.message(client, "", key, body);
    confirm(broker, client, id, sequence)
}

pub(super) fn confirm(broker: &mut Broker, client: Client, id: MessageId, sequence: u64) -> Option<bool> {
    let published =
        broker.shards[client.shard].publish(client.session, VHOST, id, false, Some(sequence)).unwrap();
    broker.run();
    match published {
        Published::Confirmed => Some(true),
        Published::Rejected => Some(false),
        Published::Pending => told(broker, client, sequence),
        Published::Unroutable(_) => panic!("the queue is there"),
    }
}

/// What the client was told of a publish, if anything.
pub(super) fn told(broker: &mut Broker, client: Client, sequence: u64) -> Option<bool> {
    let told = &mut broker.told[client.owner as usize];
    let at =
        told.iter().position(|told| matches!(told, Told::Confirmed(number, _) if *number == sequence))?;
    match told.remove(at) {
        Some(Told::Confirmed(_, accepted)) => Some(accepted),
        _ => None,
    }
}

fn with_key(broker: &mut Broker, client: Client, key: &str, body: &str) -> MessageId {
    let properties = properties(None, &[("key", text(key))]);
    broker.message_with(client, "", "q", body, &properties, |_| {})
}

/// Everything in a queue, fetched and settled.
pub(super) fn contents(broker: &mut Broker, client: Client, queue: &str) -> Vec<String> {
    std::iter::from_fn(|| broker.get(client, queue, true).map(|(got, _)| got.body)).collect()
}

pub(super) fn home(broker: &mut Broker, shards: u8) -> &mut Shard {
    &mut broker.shards[usize::from(shards) - 1]
}

pub(super) fn counters(broker: &mut Broker, shards: u8, name: &str) -> crate::queue::QueueCounters {
    let shard = home(broker, shards);
    let id = shard.topology.queue(VHOST, name.as_bytes()).unwrap().id;
    shard.queue_counters(id).unwrap()
}

#[test]
fn a_full_queue_refuses_until_messages_are_settled() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", full(Overflow::Reject, 2, shards));
        assert_eq!(confirmed(&mut broker, client, "q", "a", 1), Some(true));
        assert_eq!(confirmed(&mut broker, client, "q", "b", 2), Some(true));
        let (got, _) = broker.get(client, "q", false).unwrap();
        assert_eq!(confirmed(&mut broker, client, "q", "c", 3), Some(false), "what is not settled counts");
        broker.settle(client, &got, Settlement::Accept);
        broker.run();
        assert_eq!(confirmed(&mut broker, client, "q", "d", 4), Some(true));
        assert_eq!(
            (counters(&mut broker, shards, "q").refused, home(&mut broker, shards).stats().refused),
            (1, 1)
        );
        assert_eq!(contents(&mut broker, client, "q"), ["b", "d"]);
        broker.end(&[client]);
    }
}

#[test]
fn bytes_of_properties_and_bodies_are_limited() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    let headers = properties(None, &[("key", text("some"))]);
    let most = 2 * (headers.len() as u64 + 10);
    let options =
        QueueOptions { max_length: None, max_length_bytes: Some(most), ..full(Overflow::Reject, 0, 1) };
    broker.declare(client, "q", options);
    for (sequence, (body, accepted)) in
        [("0123456789", true), ("0123456789+", false), ("0123456789", true), ("", false)].iter().enumerate()
    {
        let id = broker.message_with(client, "", "q", body, &headers, |_| {});
        assert_eq!(confirm(&mut broker, client, id, sequence as u64 + 1), Some(*accepted), "{sequence}");
    }
    broker.end(&[client]);
}

#[test]
fn what_should_be_on_disk_is_kept() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", full(Overflow::FlowToDisk, 2, 1));
    for n in 1..=5 {
        assert_eq!(confirmed(&mut broker, client, "q", "x", n), Some(true));
    }
    assert_eq!(broker.counts(client, "q").unwrap().0, 5);
    broker.end(&[client]);
}

#[test]
fn a_ring_gives_up_the_oldest_be_it_in_a_client_s_hands() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "lost", at_home(0));
        broker.bind(client, "amq.fanout", "lost", "");
        let options =
            QueueOptions { alternate: Some("amq.fanout".into()), ..full(Overflow::Ring, 3, shards) };
        broker.declare(client, "q", options);
        for body in ["a", "b", "c"] {
            broker.publish(client, "", "q", body);
        }
        broker.run();
        let (a, _) = broker.get(client, "q", false).unwrap();
        let (b, _) = broker.get(client, "q", false).unwrap();
        assert_eq!(confirmed(&mut broker, client, "q", "d", 1), Some(true));
        assert_eq!(
            broker.shards[0].stats().unsettled + broker.shards[usize::from(shards) - 1].stats().unsettled,
            if shards == 1 { 2 } else { 1 },
            "a is the queue's no more"
        );
        // Whoever held it may still say so, to no effect.
        broker.settle(client, &a, Settlement::Requeue);
        broker.settle(client, &b, Settlement::Requeue);
        broker.run();
        broker.publish(client, "", "q", "e");
        broker.run();
        assert_eq!(contents(&mut broker, client, "q"), ["c", "d", "e"]);
        assert_eq!(contents(&mut broker, client, "lost"), ["a", "b"]);
        assert_eq!(counters(&mut broker, shards, "q").overwritten, 2);
        broker.end(&[client]);
    }
}

#[test]
fn a_strict_ring_spares_what_is_in_a_client_s_hands() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", full(Overflow::RingStrict, 2, shards));
        for (n, body) in [(1, "a"), (2, "b"), (3, "c")] {
            assert_eq!(confirmed(&mut broker, client, "q", body, n), Some(true));
        }
        let (b, _) = broker.get(client, "q", false).unwrap();
        assert_eq!(confirmed(&mut broker, client, "q", "d", 4), Some(false));
        broker.settle(client, &b, Settlement::Accept);
        broker.run();
        assert_eq!(confirmed(&mut broker, client, "q", "e", 5), Some(true));
        assert_eq!(
            (b.body.as_str(), contents(&mut broker, client, "q")),
            ("b", vec!["c".into(), "e".into()])
        );
        broker.end(&[client]);
    }
}

#[test]
fn a_ring_takes_no_message_larger_than_itself_and_gives_up_as_many_as_it_must() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    let options = QueueOptions { max_length: None, max_length_bytes: Some(5), ..full(Overflow::Ring, 0, 1) };
    broker.declare(client, "q", options);
    for (n, body) in [(1, "ab"), (2, "cd"), (3, "e")] {
        assert_eq!(confirmed(&mut broker, client, "q", body, n), Some(true));
    }
    assert_eq!(confirmed(&mut broker, client, "q", "ghijkl", 4), Some(false));
    assert_eq!(confirmed(&mut broker, client, "q", "fgh", 5), Some(true));
    assert_eq!(contents(&mut broker, client, "q"), ["e", "fgh"]);
    broker.end(&[client]);
}

#[test]
fn a_ring_with_priorities_keeps_what_comes_first() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    let options = QueueOptions { max_priority: Some(9), ..full(Overflow::Ring, 3, 1) };
    broker.declare(client, "q", options);
    for (body, priority) in [("a5", 5), ("b2", 2), ("c5", 5), ("d1", 1), ("e5", 5), ("f5", 5), ("g6", 6)] {
        let id = broker.message_with(client, "", "q", body, &[], |header| header.priority = priority);
        broker.send(client, id);
    }
    assert_eq!(contents(&mut broker, client, "q"), ["g6", "e5", "f5"]);
    assert_eq!(counters(&mut broker, 1, "q").overwritten, 4);
    for (body, priority) in [("h5", 5), ("i2", 2), ("j5", 5), ("k1", 1), ("l2", 2)] {
        let id = broker.message_with(client, "", "q", body, &[], |header| header.priority = priority);
        assert_eq!(broker.send(client, id), Published::Confirmed);
    }
    assert_eq!(contents(&mut broker, client, "q"), ["h5", "j5", "l2"], "k1 comes after all that was there");
    broker.end(&[client]);
}

#[test]
fn priorities_of_qpid_s_levels_have_their_fair_share() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let mut options = at_home(shards - 1);
        let arguments = [("qpid.priorities", 4), ("qpid.fairshare", 1), ("qpid.fairshare-3", 2)];
        let arguments = arguments.iter().map(|&(key, n)| (Name::from(key), Value::I32(n)));
        options.take_arguments(&Table(arguments.collect())).unwrap();
        broker.declare(client, "q", options);
        for (body, priority) in
            [("a0", 0), ("b3", 3), ("c4", 4), ("d5", 5), ("e6", 6), ("f7", 7), ("g9", 9), ("h3", 3)]
        {
            let id = broker.message_with(client, "", "q", body, &[], |header| header.priority = priority);
            broker.send(client, id);
        }
        broker.run();
        // Levels: up to 3; 4; 5; from 6 on.
        assert_eq!(contents(&mut broker, client, "q"), ["e6", "f7", "d5", "c4", "a0", "g9", "b3", "h3"]);
        broker.end(&[client]);
    }
}

#[test]
fn a_queue_may_end_itself() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", full(Overflow::SelfDestruct, 2, shards));
        for (n, body) in [(1, "a"), (2, "b"), (3, "c")] {
            assert_eq!(confirmed(&mut broker, client, "q", body, n), Some(true));
        }
        broker.run();
        assert!(matches!(broker.counts(client, "q"), Err(Refusal::NoQueue(_))));
        assert_eq!(broker.shards.iter().map(|shard| shard.stats().messages).sum::<u64>(), 0);
        broker.end(&[client]);
    }
}

#[test]
fn the_last_value_of_a_key_takes_the_place_of_the_one_before() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let options = QueueOptions { last_value_key: Some("key".into()), ..at_home(shards - 1) };
        broker.declare(client, "q", options);
        for (key, body) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("a", "a3"), ("c", "c1"), ("c", "c2")] {
            let id = with_key(&mut broker, client, key, body);
            broker.send(client, id);
        }
        broker.publish(client, "", "q", "none1");
        broker.publish(client, "", "q", "none2");
        broker.run();
        assert_eq!(broker.counts(client, "q").unwrap().0, 4);
        // One that a client holds is replaced too, and does not come back.
        let (b1, _) = broker.get(client, "q", false).unwrap();
        let id = with_key(&mut broker, client, "b", "b2");
        broker.send(client, id);
        broker.run();
        broker.settle(client, &b1, Settlement::Requeue);
        broker.run();
        assert_eq!(b1.body, "b1");
        assert_eq!(contents(&mut broker, client, "q"), ["a3", "c2", "none2", "b2"]);
        assert_eq!(counters(&mut broker, shards, "q").replaced, 5);
        // What has been consumed is forgotten: nothing is there to be replaced.
        let id = with_key(&mut broker, client, "a", "a4");
        broker.send(client, id);
        assert_eq!(contents(&mut broker, client, "q"), ["a4"]);
        assert_eq!(counters(&mut broker, shards, "q").replaced, 5);
        assert_eq!(broker.shards.iter().map(|shard| shard.stats().messages).sum::<u64>(), 0);
        broker.end(&[client]);
    }
}

#[test]
fn a_last_value_that_comes_back_is_replaced_where_it_stands() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    let options = QueueOptions { last_value_key: Some("key".into()), ..full(Overflow::Ring, 3, 1) };
    broker.declare(client, "q", options);
    for key in ["a", "b", "c"] {
        let id = with_key(&mut broker, client, key, key);
        broker.send(client, id);
    }
    let (a, _) = broker.get(client, "q", false).unwrap();
    broker.settle(client, &a, Settlement::Requeue);
    // The ring makes room first, then the key is looked at.
    for (key, body) in [("c", "c2"), ("b", "b2"), ("d", "d")] {
        let id = with_key(&mut broker, client, key, body);
        broker.send(client, id);
    }
    assert_eq!(contents(&mut broker, client, "q"), ["c2", "b2", "d"]);
    broker.end(&[client]);
}

#[test]
fn what_a_queue_gives_up_goes_by_its_alternate_exchange_as_it_is() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "lost", at_home(0));
        broker.bind(client, "amq.direct", "lost", "q");
        let alternate = Some("amq.direct".into());
        let options = QueueOptions { alternate, message_ttl_ms: Some(10), ..at_home(shards - 1) };
        broker.declare(client, "q", options);
        broker.publish(client, "", "q", "late");
        broker.run();
        broker.pass(10);
        for body in ["a", "b", "c", "d"] {
            broker.publish(client, "", "q", body);
        }
        broker.run();
        let (a, _) = broker.get(client, "q", false).unwrap();
        let (b, _) = broker.get(client, "q", false).unwrap();
        assert_eq!((a.body.as_str(), b.body.as_str()), ("a", "b"));
        broker.settle(client, &b, Settlement::Reject);
        broker.run();
        let (lost, left) = broker.get(client, "lost", true).unwrap();
        assert_eq!((lost.body.as_str(), lost.exchange.as_str(), lost.key.as_str(), left), ("b", "", "q", 0));
        assert_eq!((lost.headers, lost.redelivered), (Table::default(), false));
        let delete =
            Request::DeleteQueue { vhost: VHOST, name: Name::from("q"), if_unused: false, if_empty: false };
        broker.ask(client, delete).unwrap();
        broker.settle(client, &a, Settlement::Requeue);
        broker.run();
        assert_eq!(contents(&mut broker, client, "lost"), ["a", "c", "d"], "held or not, in order");
        broker.end(&[client]);
    }
}

#[test]
fn a_queue_may_want_nothing_from_the_connection_that_has_it() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let last = usize::from(shards) - 1;
        let (mine, other) = (broker.client(0), broker.client(last));
        // Another session of the same connection, as AMQP 0-10 has them.
        let sibling_connection = broker.shards[0].open_connection(mine.owner);
        let session = broker.shards[0].open_session(sibling_connection, 2);
        let sibling = Client { connection: sibling_connection, session, ..mine };
        let no_local = |exclusive| QueueOptions { no_local: true, exclusive, ..at_home(shards - 1) };
        broker.declare(mine, "owned", no_local(true));
        broker.declare(mine, "shared", no_local(false));
        let publish = |broker: &mut Broker, client: Client, queue: &str, body: &str| {
            // Twice, for the second time goes a shorter way.
            for _ in 0..2 {
                let id = broker.message(client, "", queue, body);
                let shard = &mut broker.shards[client.shard];
                let published = shard.publish(client.session, VHOST, id, true, None).unwrap();
                assert!(!matches!(published, Published::Unroutable(_)));
            }
            broker.run();
        };
        for client in [mine, sibling] {
            publish(&mut broker, client, "owned", "mine");
            publish(&mut broker, client, "shared", "shared");
        }
        publish(&mut broker, other, "owned", "other");
        assert_eq!(contents(&mut broker, mine, "owned"), ["other", "other"]);
        assert_eq!(contents(&mut broker, mine, "shared"), ["shared"; 4]);
        let exclusive = ConsumerOptions { exclusive: true, no_ack: true, ..ConsumerOptions::default() };
        broker.subscribe(mine, "shared", 1, exclusive);
        for client in [mine, sibling] {
            publish(&mut broker, client, "shared", "mine");
        }
        publish(&mut broker, other, "shared", "other");
        assert_eq!(broker.bodies(mine), ["other", "other"]);
        broker.ask(mine, Request::Cancel { consumer: 1 }).unwrap();
        publish(&mut broker, mine, "shared", "again");
        assert_eq!(contents(&mut broker, mine, "shared"), ["again", "again"]);
        broker.bind(mine, "amq.fanout", "owned", "");
        broker.bind(mine, "amq.fanout", "shared", "");
        broker.publish(mine, "amq.fanout", "", "all");
        broker.run();
        assert_eq!(contents(&mut broker, mine, "owned"), [""; 0]);
        assert_eq!(contents(&mut broker, mine, "shared"), ["all"]);
        broker.shards[0].close_connection(sibling_connection);
        broker.end(&[mine, other]);
    }
}

#[test]
fn a_message_remembers_its_publisher_when_it_takes_the_alternate_exchange() {
    for (shards, holder, owned) in [(1, 0, 0), (2, 0, 1), (2, 1, 0), (3, 1, 2)] {
        let mut broker = Broker::new(shards);
        let (mine, gone) = (broker.client(0), broker.client(usize::from(shards) - 1));
        let options = QueueOptions { alternate: Some("amq.fanout".into()), ..at_home(holder) };
        broker.declare(mine, "holding", options);
        // What is published in a transaction, too.
        let message = broker.message(gone, "", "holding", "a");
        broker.shards[gone.shard].publish_in_transaction(gone.session, VHOST, message, false).unwrap();
        broker.ask(gone, Request::Commit).unwrap();
        broker.publish(mine, "", "holding", "b");
        broker.publish(gone, "", "holding", "c");
        let message = broker.message(mine, "", "holding", "d");
        broker.shards[0].publish_in_transaction(mine.session, VHOST, message, false).unwrap();
        broker.ask(mine, Request::Commit).unwrap();
        broker.run();
        let alike = MessageHead::new(&MessageHeader {
            encoding: &Plain,
            exchange: b"",
            routing_key: b"holding",
            properties: b"",
            body_bytes: 1,
            priority: 0,
            ttl_ms: None,
            persistent: false,
            has_headers: false,
        });
        let bodies = [&b"e"[..], b"f"];
        broker.publish(mine, "", "holding", "g");
        let session = mine.session;
        broker.shards[0].publish_alike(session, VHOST, &alike, 1, bodies.into_iter(), None).unwrap();
        let no_local = QueueOptions { no_local: true, exclusive: true, ..at_home(owned) };
        broker.declare(mine, "owned", no_local);
        broker.bind(mine, "amq.fanout", "owned", "");
        broker.shards[gone.shard].close_connection(gone.connection);
        // Whoever comes next under the same handle is somebody else.
        let later = broker.shards[gone.shard].open_connection(gone.owner);
        let delete =
            Request::DeleteQueue { vhost: VHOST, name: "holding".into(), if_unused: false, if_empty: false };
        broker.ask(mine, delete).unwrap();
        broker.run();
        assert_eq!(contents(&mut broker, mine, "owned"), ["a", "c"], "{shards} shards");
        broker.shards[gone.shard].close_connection(later);
        broker.end(&[mine]);
    }
}

#[test]
fn messages_may_have_their_numbers_in_the_queue() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let options = QueueOptions { sequence_header: Some("n".into()), ..full(Overflow::Ring, 2, shards) };
        broker.declare(client, "q", options);
        broker.declare(client, "other", at_home(shards - 1));
        for queue in ["q", "other"] {
            broker.bind(client, "amq.fanout", queue, "");
        }
        for body in ["a", "b", "c"] {
            broker.publish(client, "amq.fanout", "", body);
        }
        broker.run();
        let numbers: Vec<_> = (0..2).map(|_| broker.get(client, "q", true).unwrap().0).collect();
        let numbers: Vec<_> =
            numbers.iter().map(|got| got.headers.get(b"n").and_then(Value::as_i64)).collect();
        assert_eq!(numbers, [Some(2), Some(3)]);
        assert_eq!(broker.get(client, "other", true).unwrap().0.headers, Table::default());
        broker.end(&[client]);
    }
}

#[test]
fn a_queue_may_be_for_looking() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { browse_only: true, ..QueueOptions::default() });
    broker.publish(client, "", "q", "x");
    let refused = broker.try_subscribe(client, "q", 1, ConsumerOptions::default());
    assert!(matches!(refused, Err(Refusal::Forbidden(_))));
    let get = Request::Get { vhost: VHOST, queue: Name::from("q"), no_ack: true };
    assert!(matches!(broker.ask(client, get), Err(Refusal::Forbidden(_))));
    let look = ConsumerOptions { browse: true, ..ConsumerOptions::default() };
    broker.subscribe(client, "q", 1, look);
    assert_eq!(broker.counts(client, "q"), Ok((1, 1)));
    broker.end(&[client]);
}

#[test]
fn a_queue_may_drop_what_it_does_not_select() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let filter = Some("key = 'a' OR key IS NULL".into());
        broker.declare(client, "q", QueueOptions { filter, ..at_home(shards - 1) });
        for (n, key) in [(1, "a"), (2, "b"), (3, "a")] {
            let id = with_key(&mut broker, client, key, key);
            assert_eq!(confirm(&mut broker, client, id, n), Some(true));
        }
        broker.publish(client, "", "q", "none");
        broker.run();
        assert_eq!(contents(&mut broker, client, "q"), ["a", "a", "none"]);
        broker.end(&[client]);
    }
}
