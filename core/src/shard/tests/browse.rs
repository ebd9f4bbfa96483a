//! Consumers that look at messages and leave them where they are.

use super::*;
use crate::Credit;

fn browser() -> ConsumerOptions {
    ConsumerOptions { browse: true, ..ConsumerOptions::default() }
}

fn publish_all(broker: &mut Broker, client: Client, bodies: &[&str]) {
    for body in bodies {
        broker.publish(client, "", "q", body);
    }
    broker.run();
}

fn acquire(broker: &mut Broker, client: Client, browsed: &[Received]) -> Vec<Option<u64>> {
    let queue = browsed[0].queue;
    let tags = browsed.iter().map(|received| received.tag).collect();
    match broker.ask(client, Request::Acquire { queue, tags }) {
        Ok(Reply::Acquired { tags, .. }) => tags,
        other => panic!("acquire was answered with {other:?}"),
    }
}

/// The same delivery under the tag by which it was acquired.
fn owned(received: &Received, tag: Option<u64>) -> Received {
    Received { tag: tag.expect("it is there"), ..received.clone() }
}

fn everywhere(test: impl Fn(Broker, u8)) {
    for home in [0, 1] {
        test(Broker::new(2), home);
    }
}

#[test]
fn browsers_see_each_message_once_in_order_and_take_none() {
    everywhere(|mut broker, home| {
        let (one, two) = (broker.client(0), broker.client(1));
        broker.declare(one, "q", at_home(home));
        publish_all(&mut broker, one, &["a", "b", "c"]);
        broker.subscribe(one, "q", 1, browser());
        broker.subscribe(two, "q", 1, ConsumerOptions { no_ack: true, ..browser() });
        publish_all(&mut broker, one, &["d", "e"]);
        assert_eq!(broker.bodies(one), ["a", "b", "c", "d", "e"]);
        assert_eq!(broker.bodies(two), ["a", "b", "c", "d", "e"]);
        assert_eq!(broker.counts(one, "q").unwrap(), (5, 2));
        // They do not keep consumers from the messages, nor take them from later browsers.
        broker.subscribe(one, "q", 2, browser());
        broker.subscribe(two, "q", 3, ConsumerOptions { no_ack: true, ..ConsumerOptions::default() });
        let seen = broker.bodies(two);
        assert_eq!(seen, ["a", "b", "c", "d", "e"]);
        let browsed = broker.bodies(one);
        assert!(browsed.len() <= 5 && seen.ends_with(&browsed), "{browsed:?}");
        broker.end(&[one, two]);
    });
}

#[test]
fn browsers_need_credit_too() {
    everywhere(|mut broker, home| {
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        let credit = Some(Credit { messages: 2, bytes: 3 });
        broker.subscribe(client, "q", 1, ConsumerOptions { credit, ..browser() });
        publish_all(&mut broker, client, &["a", "bcd", "e"]);
        assert_eq!(broker.bodies(client), ["a"]);
        broker.shards[0].grant_credit(client.session, 1, Credit { messages: 0, bytes: 1 });
        assert_eq!(broker.bodies(client), ["bcd"]);
        broker.shards[0].grant_credit(client.session, 1, Credit { messages: 1, bytes: 9 });
        assert_eq!(broker.bodies(client), ["e"]);
        broker.shards[0].grant_credit(client.session, 1, Credit { messages: 9, bytes: 9 });
        assert!(matches!(broker.ask(client, Request::FlushConsumer { consumer: 1 }), Ok(Reply::Done)));
        publish_all(&mut broker, client, &["f"]);
        assert!(broker.bodies(client).is_empty());
        broker.end(&[client]);
    });
}

#[test]
fn what_is_settled_without_being_acquired_stays() {
    everywhere(|mut broker, home| {
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, browser());
        publish_all(&mut broker, client, &["a", "b", "c", "d"]);
        let seen = broker.take(client);
        let settlements = [Settlement::Accept, Settlement::Release, Settlement::Reject, Settlement::Requeue];
        for (received, settlement) in seen.iter().zip(settlements) {
            broker.settle(client, received, settlement);
        }
        assert!(broker.take(client).is_empty());
        broker.ask(client, Request::Cancel { consumer: 1 }).unwrap();
        broker.subscribe(client, "q", 2, ConsumerOptions::default());
        let received = broker.take(client);
        let all: Vec<_> = received.iter().map(|r| (r.body.as_str(), r.redelivered)).collect();
        assert_eq!(all, [("a", false), ("b", false), ("c", false), ("d", false)]);
        received.iter().for_each(|r| broker.settle(client, r, Settlement::Accept));
        broker.end(&[client]);
    });
}

#[test]
fn what_is_acquired_is_the_sessions() {
    everywhere(|mut broker, home| {
        let (one, two) = (broker.client(0), broker.client(1));
        broker.declare(one, "q", at_home(home));
        broker.subscribe(one, "q", 1, browser());
        broker.subscribe(two, "q", 1, browser());
        publish_all(&mut broker, one, &["a", "b", "c"]);
        let (of_one, of_two) = (broker.take(one), broker.take(two));
        let tags = acquire(&mut broker, one, &[of_one[0].clone(), of_one[2].clone()]);
        assert_eq!(broker.counts(one, "q").unwrap().0, 1);
        // Nobody else can, and what others do with what they have seen does not matter.
        assert_eq!(acquire(&mut broker, two, &of_two[..1]), [None]);
        assert_eq!(acquire(&mut broker, one, &of_one[..1]), [None]);
        broker.settle(two, &of_two[0], Settlement::Release);
        broker.settle(one, &of_one[0], Settlement::Release);
        assert_eq!(broker.counts(one, "q").unwrap().0, 1);
        let (a, c) = (owned(&of_one[0], tags[0]), owned(&of_one[2], tags[1]));
        broker.settle(one, &a, Settlement::Accept);
        broker.settle(one, &c, Settlement::Requeue);
        broker.run();
        assert_eq!(broker.counts(one, "q").unwrap().0, 2);
        assert!(broker.take(one).is_empty(), "each is seen once");
        let got = [broker.get(two, "q", true).unwrap().0, broker.get(two, "q", true).unwrap().0];
        assert_eq!(got.map(|got| (got.body, got.redelivered)), [("b".into(), false), ("c".into(), true)]);
        assert_eq!(acquire(&mut broker, two, &of_two), [None, None, None]);
        broker.end(&[one, two]);
    });
}

#[test]
fn what_a_session_wanted_when_it_ended_goes_back() {
    let mut broker = Broker::new(2);
    let (one, two) = (broker.client(0), broker.client(0));
    broker.declare(one, "q", at_home(1));
    broker.subscribe(one, "q", 1, browser());
    publish_all(&mut broker, one, &["a"]);
    let seen = broker.take(one);
    let acquire = Request::Acquire { queue: seen[0].queue, tags: vec![seen[0].tag] };
    assert!(broker.shards[0].request(one.session, acquire).is_none());
    broker.shards[0].close_session(one.session);
    broker.run();
    let (got, _) = broker.get(two, "q", true).unwrap();
    assert_eq!((got.body.as_str(), got.redelivered), ("a", false));
    broker.end(&[one, two]);
}

#[test]
fn a_tag_of_the_common_kind_acquires_nothing() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions::default());
    broker.subscribe(client, "q", 1, ConsumerOptions { prefetch: 1, ..ConsumerOptions::default() });
    publish_all(&mut broker, client, &["a", "b"]);
    let held = broker.take(client);
    assert_eq!(acquire(&mut broker, client, &held), [None]);
    broker.settle(client, &held[0], Settlement::Accept);
    let rest = broker.take(client);
    broker.settle(client, &rest[0], Settlement::Accept);
    broker.end(&[client]);
}

#[test]
fn messages_of_any_priority_are_browsed_as_they_came() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { max_priority: Some(5), ..QueueOptions::default() });
    for (body, priority) in [("low", 0), ("high", 5), ("mid", 3)] {
        let id = broker.message_with(client, "", "q", body, &[], |header| header.priority = priority);
        broker.send(client, id);
    }
    broker.subscribe(client, "q", 1, browser());
    let seen = broker.take(client);
    assert_eq!(seen.iter().map(|r| r.body.as_str()).collect::<Vec<_>>(), ["low", "high", "mid"]);
    let tags = acquire(&mut broker, client, &seen[2..]);
    broker.settle(client, &owned(&seen[2], tags[0]), Settlement::Accept);
    let rest: Vec<_> = (0..2).map(|_| broker.get(client, "q", true).unwrap().0.body).collect();
    assert_eq!(rest, ["high", "low"]);
    broker.end(&[client]);
}

#[test]
fn what_has_expired_is_not_browsed_nor_acquired() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions::default());
    broker.publish(client, "", "q", "stays");
    for body in ["a", "b"] {
        let id = broker.message_with(client, "", "q", body, &[], |header| header.ttl_ms = Some(10));
        broker.send(client, id);
    }
    let credit = Some(Credit { messages: 2, bytes: Credit::UNLIMITED });
    broker.subscribe(client, "q", 1, ConsumerOptions { credit, ..browser() });
    let seen = broker.take(client);
    assert_eq!(seen.len(), 2);
    broker.pass(11);
    assert_eq!(acquire(&mut broker, client, &seen[1..]), [None]);
    broker.shards[0].grant_credit(client.session, 1, Credit { messages: 2, bytes: 0 });
    broker.publish(client, "", "q", "c");
    assert_eq!(broker.bodies(client), ["c"]);
    assert_eq!(broker.shards[0].stats().expired, 1, "the one behind the head that a browser met");
    broker.end(&[client]);
}

#[test]
fn a_browser_is_no_exclusive_consumer_s_business_nor_the_active_one() {
    let mut broker = Broker::new(1);
    let (one, two) = (broker.client(0), broker.client(0));
    broker.declare(one, "q", QueueOptions { single_active_consumer: true, ..QueueOptions::default() });
    broker.subscribe(one, "q", 1, ConsumerOptions { exclusive: true, ..browser() });
    let exclusive = || ConsumerOptions { exclusive: true, no_ack: true, ..ConsumerOptions::default() };
    broker.subscribe(two, "q", 1, exclusive());
    assert!(matches!(broker.try_subscribe(one, "q", 2, exclusive()), Err(Refusal::ExclusiveUse(_))));
    broker.subscribe(one, "q", 2, browser());
    publish_all(&mut broker, one, &["a"]);
    let (seen, taken) = (broker.bodies(one), broker.bodies(two));
    assert!(seen.iter().all(|body| body == "a") && taken == ["a"]);
    broker.ask(one, Request::Cancel { consumer: 1 }).unwrap();
    publish_all(&mut broker, one, &["b"]);
    assert_eq!(broker.bodies(two), ["b"]);
    broker.end(&[one, two]);
}

#[test]
fn a_browser_that_does_not_read_goes_on_where_it_was() {
    everywhere(|_, home| {
        let limits = Limits { delivery_window_bytes: 100, ..Limits::default() };
        let mut broker = Broker::with_limits(2, limits);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        broker.subscribe(client, "q", 1, browser());
        broker.shards[0].set_writable(client.connection, false);
        for _ in 0..7 {
            broker.publish(client, "", "q", &"x".repeat(49));
        }
        assert_eq!(broker.take(client).len(), 2);
        broker.shards[0].set_writable(client.connection, true);
        assert_eq!(broker.take(client).len(), 5);
        broker.end(&[client]);
    });
}

#[test]
fn messages_that_came_as_a_batch_are_browsed_one_by_one() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions::default());
    broker.publish(client, "", "q", "x");
    let header = MessageHeader {
        encoding: &Plain,
        exchange: b"",
        routing_key: b"q",
        properties: b"",
        body_bytes: 0,
        priority: 0,
        ttl_ms: None,
        persistent: false,
        has_headers: false,
    };
    let bodies = [b"a", b"b", b"c"].iter().map(|body| &body[..]);
    let head = MessageHead::new(&header);
    broker.shards[0].publish_alike(client.session, VHOST, &head, 1, bodies, None).unwrap();
    broker.subscribe(client, "q", 1, browser());
    let seen = broker.take(client);
    assert_eq!(seen.iter().map(|r| r.body.as_str()).collect::<Vec<_>>(), ["x", "a", "b", "c"]);
    let tags = acquire(&mut broker, client, &seen[2..3]);
    broker.settle(client, &owned(&seen[2], tags[0]), Settlement::Accept);
    let rest: Vec<_> = (0..3).map(|_| broker.get(client, "q", true).unwrap().0.body).collect();
    assert_eq!(rest, ["x", "a", "c"]);
    broker.end(&[client]);
}
