//! What queues do by their options: limits, time to live, priorities, expiry, exclusive and single consumers.

use super::*;
use crate::request::Overflow;
use crate::test_support::properties;

fn bounded(max_length: u64, overflow: Overflow) -> QueueOptions {
    QueueOptions { max_length: Some(max_length), overflow, ..QueueOptions::default() }
}

fn ready(broker: &mut Broker, client: Client, queue: &str) -> Vec<String> {
    std::iter::from_fn(|| broker.get(client, queue, true)).map(|(got, _)| got.body).collect()
}

#[test]
fn a_full_queue_drops_its_head() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", bounded(2, Overflow::DropHead));
    for body in ["a", "b", "c"] {
        assert_eq!(broker.publish(client, "", "q", body), Published::Confirmed);
    }
    assert_eq!(ready(&mut broker, client, "q"), ["b", "c"]);
    assert_eq!(broker.shards[0].stats().overflown, 1);
    broker.end(&[client]);
}

#[test]
fn bytes_are_limited_too() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { max_length_bytes: Some(10), ..QueueOptions::default() });
    for body in ["12345", "67890", "x"] {
        broker.publish(client, "", "q", body);
    }
    assert_eq!(ready(&mut broker, client, "q"), ["67890", "x"]);
    broker.end(&[client]);
}

#[test]
fn a_full_queue_can_refuse() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", bounded(1, Overflow::RejectPublish));
    assert_eq!(broker.publish(client, "", "q", "a"), Published::Confirmed);
    assert_eq!(broker.publish(client, "", "q", "b"), Published::Rejected);
    assert_eq!(ready(&mut broker, client, "q"), ["a"]);
    broker.end(&[client]);
}

#[test]
fn what_a_consumer_takes_at_once_does_not_fill_the_queue() {
    for overflow in [Overflow::DropHead, Overflow::RejectPublish] {
        let mut broker = Broker::new(1);
        let client = broker.client(0);
        broker.declare(client, "q", bounded(1, overflow));
        broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
        for body in ["a", "b", "c"] {
            assert_eq!(broker.publish(client, "", "q", body), Published::Confirmed);
        }
        assert_eq!(broker.bodies(client), ["a", "b", "c"]);
        broker.end(&[client]);
    }
}

#[test]
fn messages_expire_at_the_head() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { message_ttl_ms: Some(100), ..QueueOptions::default() });
    broker.publish(client, "", "q", "a");
    broker.pass(60);
    broker.publish(client, "", "q", "b");
    let short = broker.message_with(client, "", "q", "c", &[], |header| header.ttl_ms = Some(10));
    broker.send(client, short);
    assert_eq!(broker.shards[0].next_deadline_ns(), Some((1_000 + 100) * MS));
    broker.pass(39);
    assert_eq!(broker.counts(client, "q").unwrap().0, 3);
    broker.pass(1);
    assert_eq!(broker.counts(client, "q").unwrap().0, 2, "the short-lived one waits behind the head");
    broker.pass(60);
    assert_eq!(broker.counts(client, "q").unwrap().0, 0);
    assert_eq!(broker.shards[0].stats().expired, 3);
    broker.end(&[client]);
}

#[test]
fn a_delivery_tells_how_long_it_has_left() {
    for (shards, home) in [(1, 0), (2, 1)] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        for ttl_ms in [None, Some(100), Some(u64::MAX - 1)] {
            let message = broker.message_with(client, "", "q", "a", &[], |header| header.ttl_ms = ttl_ms);
            broker.send(client, message);
        }
        broker.run();
        broker.pass(60);
        broker.subscribe(client, "q", 1, ConsumerOptions { browse: true, ..ConsumerOptions::default() });
        let left = |received: Vec<Received>| -> Vec<_> {
            received.iter().map(|received| received.ttl_left_ms).collect()
        };
        let seen = left(broker.take(client));
        assert_eq!(seen[..2], [None, Some(40)]);
        broker.pass(30);
        broker.subscribe(client, "q", 2, ConsumerOptions { no_ack: true, ..ConsumerOptions::default() });
        assert_eq!(left(broker.take(client))[..2], [None, Some(10)]);
        broker.end(&[client]);
    }
}

#[test]
fn no_time_to_live_means_now_or_never() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { message_ttl_ms: Some(0), ..QueueOptions::default() });
    broker.publish(client, "", "q", "a");
    assert!(broker.get(client, "q", true).is_none());
    broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
    broker.publish(client, "", "q", "b");
    assert_eq!(broker.bodies(client), ["b"]);
    broker.end(&[client]);
}

#[test]
fn many_expire_over_several_turns() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { message_ttl_ms: Some(5), ..QueueOptions::default() });
    for _ in 0..3_000 {
        broker.publish(client, "", "q", "x");
    }
    broker.clock.monotonic_ns += 5 * MS;
    broker.tell_time();
    broker.turn(0);
    let left = broker.shards[0].stats().ready;
    assert!((1..3_000).contains(&left), "{left} are left after one turn");
    broker.pass(1);
    broker.pass(1);
    assert_eq!(broker.shards[0].stats().ready, 0);
    assert_eq!(broker.shards[0].next_deadline_ns(), None);
    broker.end(&[client]);
}

#[test]
fn priorities_overtake() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { max_priority: Some(5), ..QueueOptions::default() });
    for (body, priority) in [("low", 0), ("high", 5), ("mid", 3), ("above", 9)] {
        let id = broker.message_with(client, "", "q", body, &[], |header| header.priority = priority);
        broker.send(client, id);
    }
    assert_eq!(ready(&mut broker, client, "q"), ["high", "above", "mid", "low"]);
    broker.end(&[client]);
}

#[test]
fn an_unused_queue_ends() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let home = shards - 1;
        broker.declare(client, "q", QueueOptions { expires_ms: Some(100), ..at_home(home) });
        broker.pass(60);
        assert!(broker.get(client, "q", true).is_none());
        broker.pass(60);
        broker.subscribe(client, "q", 1, ConsumerOptions::default());
        broker.pass(500);
        assert!(broker.counts(client, "q").is_ok());
        broker.ask(client, Request::Cancel { consumer: 1 }).unwrap();
        broker.pass(99);
        broker.pass(1);
        assert!(matches!(broker.counts(client, "q"), Err(Refusal::NoQueue(_))));
        assert_eq!(broker.shards[usize::from(home)].stats().queues_expired, 1);
        broker.end(&[client]);
    }
}

#[test]
fn deadlines_of_queues_that_are_gone_do_not_pile_up() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    for n in 0..5_000 {
        let name = format!("q{n}");
        let options = QueueOptions { expires_ms: Some(1 << 40), ..QueueOptions::default() };
        broker.declare(client, &name, options);
        let delete =
            Request::DeleteQueue { vhost: VHOST, name: Name::from(name), if_unused: false, if_empty: false };
        broker.ask(client, delete).unwrap();
    }
    assert!(broker.shards[0].timers.len() < 2_000);
    broker.end(&[client]);
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    for shards in [1, 3] {
        let mut broker = Broker::new(shards);
        let (one, two) = (broker.client(0), broker.client(usize::from(shards - 1)));
        let options = || QueueOptions { auto_delete: true, ..at_home(shards / 2) };
        broker.declare(one, "q", options());
        broker.run();
        broker.subscribe(one, "q", 1, ConsumerOptions::default());
        broker.subscribe(two, "q", 1, ConsumerOptions::default());
        broker.ask(one, Request::Cancel { consumer: 1 }).unwrap();
        assert!(broker.counts(one, "q").is_ok());
        broker.ask(two, Request::Cancel { consumer: 1 }).unwrap();
        assert!(matches!(broker.counts(one, "q"), Err(Refusal::NoQueue(_))));
        assert_eq!(broker.declare(one, "q", options()), (0, 0), "the name is free at once");
        broker.end(&[one, two]);
    }
}

#[test]
fn an_exclusive_queue_belongs_to_its_connection() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let (one, two) = (broker.client(0), broker.client(usize::from(shards - 1)));
        broker.declare(one, "q", QueueOptions { exclusive: true, ..QueueOptions::default() });
        let refused = broker.try_subscribe(two, "q", 1, ConsumerOptions::default());
        assert!(matches!(refused, Err(Refusal::ExclusiveToOther(_))));
        broker.subscribe(one, "q", 1, ConsumerOptions::default());
        broker.publish(two, "", "q", "a");
        assert_eq!(broker.bodies(one), ["a"]);
        broker.shards[one.shard].close_connection(one.connection);
        broker.run();
        assert!(matches!(broker.counts(two, "q"), Err(Refusal::NoQueue(_))));
        broker.end(&[one, two]);
    }
}

#[test]
fn an_exclusive_consumer_is_alone() {
    let mut broker = Broker::new(1);
    let (one, two) = (broker.client(0), broker.client(0));
    broker.declare(one, "q", QueueOptions::default());
    let exclusive = || ConsumerOptions { exclusive: true, ..Default::default() };
    broker.subscribe(one, "q", 1, ConsumerOptions::default());
    assert!(matches!(broker.try_subscribe(two, "q", 1, exclusive()), Err(Refusal::ExclusiveUse(_))));
    broker.ask(one, Request::Cancel { consumer: 1 }).unwrap();
    broker.subscribe(two, "q", 1, exclusive());
    let refused = broker.try_subscribe(one, "q", 2, ConsumerOptions::default());
    assert!(matches!(refused, Err(Refusal::ExclusiveUse(_))));
    // A refused consumer's number is free.
    broker.ask(two, Request::Cancel { consumer: 1 }).unwrap();
    broker.subscribe(one, "q", 2, ConsumerOptions::default());
    let refused = broker.try_subscribe(one, "q", 2, ConsumerOptions::default());
    assert!(matches!(refused, Err(Refusal::Consumer(2))));
    broker.end(&[one, two]);
}

#[test]
fn the_single_active_consumer_fails_over() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let (one, two) = (broker.client(0), broker.client(usize::from(shards - 1)));
        broker.declare(one, "q", QueueOptions { single_active_consumer: true, ..at_home(0) });
        broker.subscribe(one, "q", 1, ConsumerOptions::default());
        broker.subscribe(two, "q", 1, ConsumerOptions::default());
        broker.publish(one, "", "q", "a");
        let held = broker.take(one);
        assert_eq!(held.len(), 1);
        broker.settle(one, &held[0], Settlement::Requeue);
        broker.shards[one.shard].close_session(one.session);
        let received = broker.take(two);
        assert_eq!((received.len(), received[0].redelivered), (1, true));
        broker.settle(two, &received[0], Settlement::Accept);
        broker.end(&[one, two]);
    }
}

#[test]
fn deleting_a_queue_cancels_its_consumers_and_drops_its_messages() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let (one, two) = (broker.client(0), broker.client(usize::from(shards - 1)));
        broker.declare(one, "q", at_home(0));
        broker.subscribe(two, "q", 9, ConsumerOptions { prefetch: 1, ..Default::default() });
        for body in ["a", "b", "c"] {
            broker.publish(one, "", "q", body);
        }
        let held = broker.take(two);
        let delete = |if_unused, if_empty| Request::DeleteQueue {
            vhost: VHOST,
            name: Name::from("q"),
            if_unused,
            if_empty,
        };
        assert!(matches!(broker.ask(one, delete(true, false)), Err(Refusal::Busy { state: "in use", .. })));
        assert!(matches!(
            broker.ask(one, delete(false, true)),
            Err(Refusal::Busy { state: "not empty", .. })
        ));
        assert!(matches!(broker.ask(one, delete(false, false)), Ok(Reply::Messages(2))));
        assert!(matches!(broker.ask(one, delete(false, false)), Ok(Reply::Messages(0))));
        broker.run();
        let told = broker.told[two.owner as usize].pop_front();
        assert!(matches!(told, Some(Told::Cancelled(9))), "{told:?}");
        broker.settle(two, &held[0], Settlement::Requeue);
        assert!(matches!(broker.counts(one, "q"), Err(Refusal::NoQueue(_))));
        broker.run();
        assert_eq!(broker.shards[0].stats().messages, 0);
        broker.end(&[one, two]);
    }
}

#[test]
fn who_deletes_the_queue_it_consumes_is_answered_before_it_is_cancelled() {
    for (home, shard) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut broker = Broker::new(2);
        let client = broker.client(shard);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 9, ConsumerOptions::default());
        let (vhost, name) = (VHOST, Name::from("q"));
        let delete = Request::DeleteQueue { vhost, name, if_unused: false, if_empty: false };
        assert!(broker.shards[shard].request(client.session, delete).is_none());
        broker.run();
        let told: Vec<_> = broker.told[client.owner as usize].drain(..).collect();
        assert!(
            matches!(told[..], [Told::Reply(Ok(Reply::Messages(0))), Told::Cancelled(9)]),
            "home {home}, client on {shard}: {told:?}"
        );
        broker.end(&[client]);
    }
}

#[test]
fn purging_leaves_what_clients_hold() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions::default());
    for n in 0..10_000 {
        broker.publish(client, "", "q", &n.to_string());
    }
    let (held, _) = broker.get(client, "q", false).unwrap();
    let purged = broker.ask(client, Request::PurgeQueue { vhost: VHOST, name: Name::from("q") });
    assert!(matches!(purged, Ok(Reply::Messages(9_999))));
    assert!(broker.shards[0].has_work(), "ten thousand are not released at once");
    broker.run();
    assert_eq!(broker.shards[0].stats().messages, 1);
    broker.settle(client, &held, Settlement::Requeue);
    assert_eq!(ready(&mut broker, client, "q"), ["0"]);
    broker.end(&[client]);
}

#[test]
fn a_generated_name_is_told() {
    for at in [0, 1] {
        let mut broker = Broker::new(2);
        let client = broker.client(at);
        let request = Request::DeclareQueue {
            vhost: VHOST,
            name: Name::default(),
            passive: false,
            options: Box::default(),
        };
        let Ok(Reply::QueueDeclared { name, .. }) = broker.ask(client, request) else { panic!() };
        assert!(name.as_bytes().starts_with(b"amq.gen-"));
        broker.publish(client, "", &name.to_string(), "a");
        assert_eq!(broker.counts(client, &name.to_string()).unwrap().0, 1);
        broker.end(&[client]);
    }
}

#[test]
fn an_expiration_property_is_not_the_ttl_of_another() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { message_ttl_ms: Some(20), ..QueueOptions::default() });
    let properties = properties(Some("50"), &[]);
    let id = broker.message_with(client, "", "q", "a", &properties, |header| header.ttl_ms = Some(50));
    broker.send(client, id);
    broker.pass(20);
    assert_eq!(broker.counts(client, "q").unwrap().0, 0, "the shorter of the two counts");
    broker.end(&[client]);
}

#[test]
fn a_publish_does_not_overtake_the_declaration_on_another_shard() {
    // Lanes so short that changes reach one shard long before another.
    let mut broker = Broker::with_limits(3, Limits::tiny());
    for number in 0..10 {
        let client = broker.client(0);
        let request = Request::DeclareQueue {
            vhost: VHOST,
            name: Name::from(format!("q{number}")),
            passive: false,
            options: Box::new(at_home(2)),
        };
        assert!(broker.shards[0].request(client.session, request).is_none());
    }
    for _ in 0..10 {
        broker.turn(0);
        broker.turn(1);
    }
    let publisher = broker.client(1);
    let message = broker.message(publisher, "", "q9", "a");
    let published = broker.shards[1].publish(publisher.session, VHOST, message, true, Some(1)).unwrap();
    assert_eq!(published, Published::Pending, "the publisher's shard knows the queue");
    broker.run();
    assert_eq!(broker.counts(publisher, "q9"), Ok((1, 0)));
}
