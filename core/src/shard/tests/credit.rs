//! Consumers bounded by credit: exact to message and byte, stopping, flushing.

use super::*;
use crate::Credit;
use crate::test_support::properties;

const ALL: u32 = Credit::UNLIMITED;

/// A consumer that starts without any credit.
fn dry(no_ack: bool) -> ConsumerOptions {
    ConsumerOptions { no_ack, credit: Some(Credit::NONE), ..ConsumerOptions::default() }
}

fn grant(broker: &mut Broker, client: Client, consumer: u32, messages: u32, bytes: u32) {
    broker.shards[client.shard].grant_credit(client.session, consumer, Credit { messages, bytes });
}

fn publish_numbers(broker: &mut Broker, client: Client, queue: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        broker.publish(client, "", queue, &number.to_string());
    }
}

/// Ends everything, and whatever clients hold of the queue with it.
fn end_with_queue(mut broker: Broker, clients: &[Client]) {
    let (vhost, name) = (VHOST, Name::from("q"));
    let delete = Request::DeleteQueue { vhost, name, if_unused: false, if_empty: false };
    broker.ask(clients[0], delete).unwrap();
    broker.end(clients);
}

/// Where the queue is, and whether the consumer acknowledges: with sessions on shard 0.
const WAYS: [(u8, bool); 4] = [(0, false), (0, true), (1, false), (1, true)];

#[test]
fn credit_bounds_messages_exactly() {
    for (home, no_ack) in WAYS {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(no_ack));
        publish_numbers(&mut broker, client, "q", 0..10);
        assert!(broker.take(client).is_empty());
        grant(&mut broker, client, 1, 3, 0);
        assert!(broker.take(client).is_empty(), "bytes are needed too");
        grant(&mut broker, client, 1, 0, ALL);
        assert_eq!(broker.bodies(client), ["0", "1", "2"]);
        grant(&mut broker, client, 1, 1, 0);
        grant(&mut broker, client, 1, 1, 0);
        assert_eq!(broker.bodies(client), ["3", "4"]);
        grant(&mut broker, client, 1, ALL, 0);
        assert_eq!(broker.bodies(client), ["5", "6", "7", "8", "9"]);
        publish_numbers(&mut broker, client, "q", 10..12);
        assert_eq!(broker.bodies(client), ["10", "11"]);
        end_with_queue(broker, &[client]);
    }
}

#[test]
fn settling_gives_no_credit() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(false));
        publish_numbers(&mut broker, client, "q", 0..4);
        grant(&mut broker, client, 1, 2, ALL);
        let held = broker.take(client);
        broker.settle(client, &held[0], Settlement::Accept);
        broker.settle(client, &held[1], Settlement::Release);
        assert!(broker.take(client).is_empty());
        grant(&mut broker, client, 1, 2, ALL);
        let again = broker.take(client);
        assert_eq!((again[0].body.as_str(), again[0].redelivered), ("1", false), "released, not requeued");
        assert_eq!((again[1].body.as_str(), again[1].redelivered), ("2", false));
        broker.settle(client, &again[0], Settlement::Requeue);
        broker.settle(client, &again[1], Settlement::Accept);
        grant(&mut broker, client, 1, 1, 0);
        let last = broker.take(client);
        assert_eq!((last[0].body.as_str(), last[0].redelivered), ("1", true));
        broker.settle(client, &last[0], Settlement::Release);
        grant(&mut broker, client, 1, 1, 0);
        assert!(broker.take(client)[0].redelivered, "it stays what it was");
        end_with_queue(broker, &[client]);
    }
}

#[test]
fn credit_bounds_bytes_exactly() {
    let headers = properties(None, &[("a", crate::test_support::text("b"))]);
    for (home, no_ack) in WAYS {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(no_ack));
        for body in ["12345678", "12345678", "", "1"] {
            let id = broker.message_with(client, "", "q", body, &headers, |_| {});
            broker.send(client, id);
        }
        let size = headers.len() as u32 + 8;
        grant(&mut broker, client, 1, ALL, size - 1);
        assert!(broker.take(client).is_empty());
        grant(&mut broker, client, 1, 0, 1);
        assert_eq!(broker.take(client).len(), 1);
        grant(&mut broker, client, 1, 0, size + size - 8);
        assert_eq!(broker.take(client).len(), 2);
        grant(&mut broker, client, 1, 0, size - 8);
        assert!(broker.take(client).is_empty());
        grant(&mut broker, client, 1, 0, 1);
        assert_eq!(broker.take(client).len(), 1);
        end_with_queue(broker, &[client]);
    }
}

#[test]
fn what_is_too_large_for_one_goes_to_another_and_leaves_the_rest() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let (small, large) = (broker.client(0), broker.client(1));
        broker.declare(small, "q", at_home(home));
        broker.subscribe(small, "q", 1, dry(true));
        broker.subscribe(large, "q", 1, dry(true));
        for body in ["12345678", "1", "87654321", "2"] {
            broker.publish(small, "", "q", body);
        }
        grant(&mut broker, small, 1, ALL, 2);
        assert!(broker.take(small).is_empty());
        grant(&mut broker, large, 1, 1, ALL);
        assert_eq!(broker.bodies(large), ["12345678"]);
        assert_eq!(broker.bodies(small), ["1"]);
        // However the one in the way goes.
        assert_eq!(broker.get(large, "q", true).unwrap().0.body, "87654321");
        assert_eq!(broker.bodies(small), ["2"]);
        broker.publish(small, "", "q", "12345678");
        broker.run();
        broker.ask(large, Request::PurgeQueue { vhost: VHOST, name: Name::from("q") }).unwrap();
        grant(&mut broker, small, 1, 0, 3);
        broker.publish(small, "", "q", "3");
        assert_eq!(broker.bodies(small), ["3"]);
        let id = broker.message_with(small, "", "q", "12345678", &[], |header| header.ttl_ms = Some(10));
        broker.send(small, id);
        broker.publish(small, "", "q", "4");
        assert!(broker.take(small).is_empty());
        broker.pass(10);
        assert_eq!(broker.bodies(small), ["4"]);
        broker.publish(small, "", "q", "12345678");
        broker.publish(small, "", "q", "5");
        assert!(broker.take(small).is_empty());
        let (vhost, queue, to) = (VHOST, Name::from("q"), crate::request::MoveTo::Nowhere);
        broker.ask(large, Request::MoveMessages { vhost, queue, to, most: Some(1), filter: None }).unwrap();
        assert_eq!(broker.bodies(small), ["5"]);
        broker.end(&[small, large]);
    }
}

#[test]
fn consumers_without_credit_are_passed_over() {
    let mut broker = Broker::new(1);
    let (one, two) = (broker.client(0), broker.client(0));
    broker.declare(one, "q", QueueOptions::default());
    broker.subscribe(one, "q", 1, dry(true));
    broker.subscribe(two, "q", 1, dry(true));
    grant(&mut broker, one, 1, 2, ALL);
    grant(&mut broker, two, 1, 3, ALL);
    publish_numbers(&mut broker, one, "q", 0..6);
    assert_eq!(broker.bodies(one), ["0", "2"]);
    assert_eq!(broker.bodies(two), ["1", "3", "4"]);
    broker.end(&[one, two]);
}

#[test]
fn a_stop_is_answered_behind_the_last_delivery() {
    for (home, no_ack) in WAYS {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(no_ack));
        grant(&mut broker, client, 1, ALL, ALL);
        publish_numbers(&mut broker, client, "q", 0..5);
        broker.shards[0].turn();
        broker.shards[0].publish_lanes();
        broker.shards[1].turn();
        broker.shards[1].publish_lanes();
        let asked = broker.shards[0].request(client.session, Request::StopConsumer { consumer: 1 });
        assert!(asked.is_none(), "deliveries are under way");
        // What is granted now counts from the answer on.
        grant(&mut broker, client, 1, 1, ALL);
        publish_numbers(&mut broker, client, "q", 5..8);
        let seen = told_in_order(&mut broker, client);
        assert_eq!(seen, ["0", "1", "2", "3", "4", "reply", "5"], "home {home}");
        assert!(told_in_order(&mut broker, client).is_empty());
        end_with_queue(broker, &[client]);
    }
}

/// Bodies of deliveries and `reply`, in the order in which the client is told.
fn told_in_order(broker: &mut Broker, client: Client) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..20 {
        for (index, shard) in broker.shards.iter_mut().enumerate() {
            shard.turn();
            while let Some(output) = shard.next_output() {
                assert_eq!(index, client.shard);
                match output {
                    Output::Delivery(delivery) => {
                        seen.push(look(shard, &delivery).body);
                        let rest = shard.bodies_after(delivery.message, delivery.followers);
                        seen.extend(rest.map(|body| String::from_utf8_lossy(body).into_owned()));
                        shard.release_all(delivery.message, delivery.followers);
                    }
                    Output::Reply { .. } => seen.push("reply".to_owned()),
                    other => panic!("{other:?}"),
                }
            }
            shard.publish_lanes();
        }
    }
    seen
}

#[test]
fn a_flush_sends_what_was_published_before_and_nothing_after() {
    for (home, no_ack) in WAYS {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(no_ack));
        grant(&mut broker, client, 1, ALL, ALL);
        publish_numbers(&mut broker, client, "q", 0..300);
        assert!(broker.shards[0].request(client.session, Request::FlushConsumer { consumer: 1 }).is_none());
        let seen = told_in_order(&mut broker, client);
        assert_eq!((seen.len(), seen[300].as_str()), (301, "reply"), "home {home}");
        publish_numbers(&mut broker, client, "q", 300..302);
        assert!(told_in_order(&mut broker, client).is_empty());
        // Nothing is there for it, or not enough credit: that is an answer too.
        for (messages, bytes, expected) in [(0, 0, 0), (1, ALL, 1), (2, 2, 0)] {
            grant(&mut broker, client, 1, messages, bytes);
            assert!(
                broker.shards[0].request(client.session, Request::FlushConsumer { consumer: 1 }).is_none()
            );
            let seen = told_in_order(&mut broker, client);
            assert_eq!((seen.len(), seen[expected].as_str()), (expected + 1, "reply"), "home {home}");
        }
        end_with_queue(broker, &[client]);
    }
}

#[test]
fn a_flush_does_not_overtake_what_was_granted_before() {
    for home in [0, 1] {
        // With lanes so short that grants wait in a backlog.
        let mut broker = Broker::with_limits(2, Limits::tiny());
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(true));
        for _ in 0..25 {
            broker.publish(client, "", "q", "x");
        }
        broker.run();
        (0..20).for_each(|_| grant(&mut broker, client, 1, 1, 1));
        assert!(broker.shards[0].request(client.session, Request::FlushConsumer { consumer: 1 }).is_none());
        let seen = told_in_order(&mut broker, client);
        assert_eq!((seen.len(), seen[20].as_str()), (21, "reply"), "home {home}");
        broker.end(&[client]);
    }
}

#[test]
fn a_flush_waits_for_a_connection_that_does_not_read() {
    for home in [0, 1] {
        let limits = Limits { delivery_window_bytes: 100, ..Limits::default() };
        let mut broker = Broker::with_limits(2, limits);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(true));
        broker.shards[0].set_writable(client.connection, false);
        for _ in 0..10 {
            broker.publish(client, "", "q", &"x".repeat(49));
        }
        broker.run();
        grant(&mut broker, client, 1, ALL, ALL);
        assert!(broker.shards[0].request(client.session, Request::FlushConsumer { consumer: 1 }).is_none());
        assert_eq!(told_in_order(&mut broker, client).len(), 2);
        broker.shards[0].set_writable(client.connection, true);
        let seen = told_in_order(&mut broker, client);
        assert_eq!((seen.len(), seen[8].as_str()), (9, "reply"));
        broker.end(&[client]);
    }
}

#[test]
fn a_flush_ends_with_its_queue() {
    for home in [0, 1] {
        let limits = Limits { delivery_window_bytes: 10, ..Limits::default() };
        let mut broker = Broker::with_limits(2, limits);
        let (client, other) = (broker.client(0), broker.client(0));
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, dry(true));
        broker.shards[0].set_writable(client.connection, false);
        publish_numbers(&mut broker, client, "q", 0..100);
        grant(&mut broker, client, 1, ALL, ALL);
        assert!(broker.shards[0].request(client.session, Request::FlushConsumer { consumer: 1 }).is_none());
        broker.run();
        assert!(broker.told[client.owner as usize].is_empty());
        let (vhost, name) = (VHOST, Name::from("q"));
        broker.ask(other, Request::DeleteQueue { vhost, name, if_unused: false, if_empty: false }).unwrap();
        broker.run();
        let told: Vec<_> = broker.told[client.owner as usize].drain(..).collect();
        assert!(matches!(told[..], [Told::Reply(Ok(Reply::Done)), Told::Cancelled(1)]), "{told:?}");
        broker.end(&[client, other]);
    }
}

#[test]
fn credit_of_nobody_is_refused_or_ignored() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    for request in [Request::StopConsumer { consumer: 7 }, Request::FlushConsumer { consumer: 7 }] {
        assert!(matches!(broker.ask(client, request), Err(Refusal::Consumer(7))));
    }
    grant(&mut broker, client, 7, 1, 1);
    broker.end(&[client]);
}
