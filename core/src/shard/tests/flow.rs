//! What bounds and orders traffic: prefetch, windows, flow, confirms, barriers, pressure, buffers going home.

use super::*;
use crate::request::Overflow;

fn with_confirm(broker: &mut Broker, client: Client, key: &str, sequence: u64) -> Published {
    let id = broker.message(client, "", key, "x");
    let shard = &mut broker.shards[client.shard];
    shard.publish(client.session, VHOST, id, true, Some(sequence)).unwrap()
}

fn confirms(broker: &mut Broker, client: Client) -> Vec<(u64, bool)> {
    broker.run();
    let told = broker.told[client.owner as usize].drain(..);
    told.map(|told| if let Told::Confirmed(n, ok) = told { (n, ok) } else { panic!("{told:?}") }).collect()
}

#[test]
fn prefetch_bounds_each_consumer() {
    for (at, home) in [(0, 0), (0, 1)] {
        let mut broker = Broker::new(2);
        let client = broker.client(at);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, ConsumerOptions { prefetch: 2, ..Default::default() });
        for body in ["a", "b", "c", "d"] {
            broker.publish(client, "", "q", body);
        }
        let held = broker.take(client);
        assert_eq!(held.len(), 2);
        broker.settle(client, &held[0], Settlement::Accept);
        let next = broker.take(client);
        assert_eq!(next[0].body, "c");
        broker.settle(client, &held[1], Settlement::Requeue);
        let again = broker.take(client);
        assert_eq!(again[0].body, "b");
        for message in next.iter().chain(&again) {
            broker.settle(client, message, Settlement::Accept);
        }
        assert_eq!(broker.bodies(client), ["d"]);
        broker.shards[usize::from(home)].end_queue(again[0].queue);
        broker.end(&[client]);
    }
}

#[test]
fn a_session_limit_holds_over_all_its_consumers() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let (client, other) = (broker.client(0), broker.client(0));
        for queue in ["q", "r"] {
            broker.declare(client, queue, at_home(home));
        }
        broker.shards[0].set_session_prefetch(client.session, 2);
        broker.subscribe(client, "q", 1, ConsumerOptions::default());
        broker.subscribe(client, "r", 2, ConsumerOptions::default());
        for n in 0..3 {
            broker.publish(client, "", "q", &format!("q{n}"));
            broker.publish(client, "", "r", &format!("r{n}"));
        }
        let held = broker.take(client);
        assert_eq!(held.len(), 2);
        broker.settle(client, &held[0], Settlement::Accept);
        assert_eq!(broker.take(client).len(), 1);
        broker.shards[0].set_session_prefetch(client.session, 0);
        assert_eq!(broker.take(client).len(), 3);
        // What the session's gate kept goes to others as if it had never left.
        broker.shards[0].set_session_prefetch(client.session, 1);
        broker.publish(client, "", "q", "last");
        assert!(broker.take(client).is_empty());
        broker.ask(client, Request::Cancel { consumer: 1 }).unwrap();
        broker.subscribe(other, "q", 1, ConsumerOptions::default());
        let received = broker.take(other);
        assert_eq!((received[0].body.as_str(), received[0].redelivered), ("last", false));
        for client in [client, other] {
            broker.shards[0].close_connection(client.connection);
        }
        broker.run();
    }
}

#[test]
fn a_limited_session_does_not_hoard() {
    let mut broker = Broker::new(2);
    let (slow, other) = (broker.client(0), broker.client(1));
    broker.declare(slow, "q", at_home(0));
    broker.shards[0].set_session_prefetch(slow.session, 1);
    broker.subscribe(slow, "q", 1, ConsumerOptions::default());
    broker.subscribe(other, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
    for n in 0..10 {
        broker.publish(slow, "", "q", &n.to_string());
    }
    assert_eq!(broker.take(slow).len(), 1);
    assert_eq!(broker.take(other).len(), 9);
}

#[test]
fn flow_stops_and_resumes_in_order() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
        broker.shards[0].set_session_flow(client.session, false);
        for body in ["a", "b", "c"] {
            broker.publish(client, "", "q", body);
        }
        assert!(broker.take(client).is_empty());
        broker.shards[0].set_session_flow(client.session, true);
        assert_eq!(broker.bodies(client), ["a", "b", "c"]);
        broker.end(&[client]);
    }
}

#[test]
fn a_connection_that_does_not_read_gets_a_window_and_no_more() {
    for home in [0, 1] {
        let limits = Limits { delivery_window_bytes: 1_000, ..Limits::default() };
        let mut broker = Broker::with_limits(2, limits);
        let (client, other) = (broker.client(0), broker.client(0));
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
        broker.shards[0].set_writable(client.connection, false);
        for _ in 0..100 {
            broker.publish(client, "", "q", &"x".repeat(99));
        }
        assert_eq!(broker.take(client).len(), 10, "100 bytes each");
        // Others are not held up.
        broker.subscribe(other, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
        for n in 0..5 {
            broker.publish(other, "", "q", &n.to_string());
        }
        assert_eq!(broker.take(other).len(), 95);
        for _ in 0..20 {
            broker.publish(client, "", "q", "y");
        }
        broker.shards[0].close_session(other.session);
        broker.shards[0].set_writable(client.connection, true);
        let all = broker.take(client).len() + broker.take(other).len();
        assert!(all <= 20);
        broker.publish(client, "", "q", "z");
        assert_eq!(broker.bodies(client), ["z"], "the window has opened again");
        broker.end(&[client, other]);
    }
}

#[test]
fn a_busy_queue_does_not_starve_another() {
    let limits = Limits { delivery_window_bytes: 1 << 30, ..Limits::default() };
    let mut broker = Broker::with_limits(1, limits);
    let client = broker.client(0);
    for queue in ["busy", "quiet"] {
        broker.declare(client, queue, QueueOptions::default());
    }
    for _ in 0..5_000 {
        broker.publish(client, "", "busy", "x");
    }
    broker.publish(client, "", "quiet", "y");
    broker.run();
    for (queue, consumer) in [("busy", 1), ("quiet", 2)] {
        broker.subscribe(client, queue, consumer, ConsumerOptions { no_ack: true, ..Default::default() });
    }
    broker.turn(0);
    assert!(broker.shards[0].has_work());
    let received = &broker.received[client.owner as usize];
    assert!(received.len() < 2_000, "a turn is bounded");
    assert!(received.iter().any(|r| r.body == "y"));
    broker.run();
    broker.end(&[client]);
}

#[test]
fn a_flood_does_not_starve_consumers() {
    let limits = Limits { delivery_window_bytes: 1 << 30, ..Limits::default() };
    let mut broker = Broker::with_limits(1, limits);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions::default());
    broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
    for _ in 0..10 {
        for _ in 0..3_000 {
            broker.publish(client, "", "q", "x");
        }
        broker.turn(0);
    }
    assert_eq!(broker.shards[0].stats().ready, 0);
    broker.end(&[client]);
}

#[test]
fn confirms_wait_for_every_home() {
    let mut broker = Broker::new(3);
    let client = broker.client(1);
    broker.declare(client, "here", at_home(1));
    broker.declare(client, "there", at_home(0));
    broker.declare(
        client,
        "full",
        QueueOptions { max_length: Some(0), overflow: Overflow::RejectPublish, ..at_home(2) },
    );
    for queue in ["here", "there", "full"] {
        broker.bind(client, "amq.fanout", queue, "");
    }
    broker.run();
    assert_eq!(with_confirm(&mut broker, client, "here", 1), Published::Confirmed);
    for sequence in [2, 3, 5] {
        assert_eq!(with_confirm(&mut broker, client, "there", sequence), Published::Pending);
    }
    assert_eq!(with_confirm(&mut broker, client, "full", 6), Published::Pending);
    let id = broker.message(client, "amq.fanout", "", "x");
    let all = broker.shards[1].publish(client.session, VHOST, id, false, Some(7));
    assert_eq!(all, Ok(Published::Pending));
    let mut told = confirms(&mut broker, client);
    told.sort_unstable();
    assert_eq!(told, [(2, true), (3, true), (5, true), (6, false), (7, false)]);
    assert!(matches!(with_confirm(&mut broker, client, "nowhere", 8), Published::Unroutable(_)));
}

#[test]
fn an_unroutable_mandatory_message_comes_back_and_others_vanish() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    let id = broker.message(client, "", "nowhere", "x");
    let shard = &mut broker.shards[0];
    let published = shard.publish(client.session, VHOST, id, true, None);
    assert_eq!(published, Ok(Published::Unroutable(id)));
    assert_eq!(shard.message(id).body, b"x");
    shard.release(id);
    assert_eq!(broker.publish(client, "", "nowhere", "x"), Published::Confirmed);
    let id = broker.message(client, "missing", "k", "x");
    let refused = broker.shards[0].publish(client.session, VHOST, id, true, None);
    assert!(matches!(refused, Err(Refusal::NoExchange(_))));
    assert_eq!(broker.shards[0].stats().messages, 0);
    broker.end(&[client]);
}

#[test]
fn a_route_that_changes_is_noticed() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions::default());
    broker.bind(client, "amq.direct", "q", "k");
    broker.publish(client, "amq.direct", "k", "a");
    broker.declare(client, "r", QueueOptions::default());
    broker.bind(client, "amq.direct", "r", "k");
    broker.publish(client, "amq.direct", "k", "b");
    assert_eq!(broker.counts(client, "q").unwrap().0, 2);
    assert_eq!(broker.counts(client, "r").unwrap().0, 1);
    broker.end(&[client]);
}

#[test]
fn a_get_sees_what_the_session_settled_before() {
    // With lanes so short that settlements wait in a backlog.
    let mut broker = Broker::with_limits(2, Limits::tiny());
    let client = broker.client(1);
    broker.declare(client, "q", at_home(0));
    for n in 0..20 {
        broker.publish(client, "", "q", &n.to_string());
    }
    let held: Vec<_> = (0..20).map(|_| broker.get(client, "q", false).unwrap().0).collect();
    for message in held.iter().rev() {
        broker.settle(client, message, Settlement::Requeue);
    }
    assert_eq!(broker.counts(client, "q").unwrap().0, 20);
    assert_eq!(broker.get(client, "q", true).unwrap().0.body, "0");
    broker.end(&[client]);
}

#[test]
fn a_barrier_is_answered_behind_everything() {
    let mut broker = Broker::new(3);
    let (client, watcher) = (broker.client(1), broker.client(2));
    broker.declare(client, "q", at_home(2));
    broker.publish(client, "", "q", "a");
    assert!(matches!(broker.ask(client, Request::Barrier), Ok(Reply::Done)));
    assert_eq!(broker.shards[2].stats().ready, 1);
    broker.end(&[client, watcher]);
}

#[test]
fn the_reply_to_a_cancel_follows_the_last_delivery() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
        for _ in 0..10 {
            broker.publish(client, "", "q", "x");
        }
        for shard in &mut broker.shards {
            shard.turn();
        }
        let answer = broker.shards[0].request(client.session, Request::Cancel { consumer: 1 });
        assert!(answer.is_none());
        let mut deliveries = 0;
        for _ in 0..10 {
            for shard in &mut broker.shards {
                shard.turn();
                while let Some(output) = shard.next_output() {
                    match output {
                        Output::Delivery(delivery) => {
                            shard.release(delivery.message);
                            deliveries += 1;
                        }
                        Output::Reply { .. } => deliveries += 100,
                        other => panic!("{other:?}"),
                    }
                }
                shard.publish_lanes();
            }
        }
        assert_eq!(deliveries % 100 + broker.counts(client, "q").unwrap().0, 10);
        assert!(deliveries >= 100);
        broker.end(&[client]);
    }
}

#[test]
fn a_run_of_deliveries_ends_with_its_channel() {
    let mut broker = Broker::new(1);
    let (a, b) = (broker.client(0), broker.client(0));
    for (client, queue) in [(a, "a"), (b, "b")] {
        broker.declare(client, queue, QueueOptions::default());
        broker.subscribe(client, queue, 1, ConsumerOptions { no_ack: true, ..Default::default() });
    }
    for queue in ["a", "a", "b", "b", "b"] {
        broker.publish(a, "", queue, "x");
    }
    let shard = &mut broker.shards[0];
    shard.turn();
    assert!(shard.next_delivery(b.owner, 1).is_none());
    for (client, deliveries) in [(a, 2), (b, 3)] {
        assert!(shard.next_delivery(client.owner, 2).is_none());
        for _ in 0..deliveries {
            let delivery = shard.next_delivery(client.owner, 1).unwrap();
            shard.release(delivery.message);
        }
        assert!(shard.next_delivery(client.owner, 1).is_none());
    }
    assert!(shard.next_output().is_none());
    broker.end(&[a, b]);
}

#[test]
fn a_batch_goes_only_where_its_like_went() {
    let mut broker = Broker::new(2);
    let client = broker.client(0);
    broker.declare(client, "here", QueueOptions { home: Some(0), ..Default::default() });
    broker.declare(client, "there", QueueOptions { home: Some(1), ..Default::default() });
    broker.declare(
        client,
        "short",
        QueueOptions { home: Some(0), max_length: Some(2), ..Default::default() },
    );
    broker.subscribe(client, "here", 1, ConsumerOptions { no_ack: true, ..Default::default() });
    for (queue, expected) in
        [("here", Some(Published::Confirmed)), ("there", Some(Published::Confirmed)), ("short", None)]
    {
        let header = MessageHeader {
            encoding: &Plain,
            exchange: b"",
            routing_key: queue.as_bytes(),
            properties: b"",
            body_bytes: 0,
            priority: 0,
            ttl_ms: None,
            persistent: false,
            has_headers: false,
        };
        let head = MessageHead::new(&header);
        let alike = |broker: &mut Broker, head: &MessageHead| {
            let bodies = [b"a", b"b", b"c"].iter().map(|body| &body[..]);
            broker.shards[0].publish_alike(client.session, VHOST, head, 1, bodies, None)
        };
        assert!(alike(&mut broker, &head).is_none(), "nothing like it went anywhere yet");
        broker.publish(client, "", queue, "x");
        assert_eq!(alike(&mut broker, &head), expected, "{queue}");
        let marked = MessageHead::new(&MessageHeader { has_headers: true, ..header });
        assert!(alike(&mut broker, &marked).is_none(), "headers may say where to");
    }
    assert_eq!(broker.shards[0].stats().published, 3 + 2 * 3);
    // A delivery of several that is not taken goes back as a whole.
    broker.shards[0].turn();
    broker.shards[0].close_session(client.session);
    assert_eq!(broker.shards[0].stats().undelivered, 4);
    broker.end(&[client]);
}

#[test]
fn pressure_is_told_to_everybody_and_taken_back() {
    let mut broker = Broker::with_limits(2, Limits::tiny());
    let client = broker.client(0);
    broker.declare(client, "q", at_home(1));
    for _ in 0..20 {
        broker.publish(client, "", "q", &"x".repeat(60_000));
    }
    broker.run();
    assert!(broker.shards.iter().all(Shard::is_congested));
    broker.ask(client, Request::PurgeQueue { vhost: VHOST, name: Name::from("q") }).unwrap();
    broker.run();
    assert!(!broker.shards.iter().any(Shard::is_congested));
    broker.end(&[client]);
}

#[test]
fn buffers_go_back_to_where_they_came_from() {
    let mut broker = Broker::new(2);
    let client = broker.client(0);
    broker.declare(client, "q", at_home(1));
    for _ in 0..64 {
        broker.publish(client, "", "q", "x");
    }
    while broker.get(client, "q", true).is_some() {}
    for _ in 0..64 {
        broker.publish(client, "", "q", "x");
    }
    broker.ask(client, Request::PurgeQueue { vhost: VHOST, name: Name::from("q") }).unwrap();
    broker.run();
    let home: usize = broker.shards.iter().map(|shard| shard.store.pooled_bytes()).sum();
    assert!(broker.shards[0].store.pooled_bytes() > home * 9 / 10);
    broker.end(&[client]);
}

#[test]
fn a_queue_with_many_bindings_goes_in_one_step() {
    let mut broker = Broker::new(2);
    let client = broker.client(1);
    broker.declare(client, "q", at_home(0));
    for n in 0..3_000 {
        broker.bind(client, "amq.topic", "q", &format!("a.{n}.#"));
    }
    let delete =
        Request::DeleteQueue { vhost: VHOST, name: Name::from("q"), if_unused: false, if_empty: false };
    assert!(matches!(broker.ask(client, delete), Ok(Reply::Messages(0))));
    let id = broker.message(client, "amq.topic", "a.5.x", "x");
    let published = broker.shards[1].publish(client.session, VHOST, id, true, None);
    assert_eq!(published, Ok(Published::Unroutable(id)));
}
