//! Consumers that want some messages and leave the others to others.

use super::*;
use crate::test_support::{properties, text};
use crate::{Credit, Selector};

fn selecting(selector: &str) -> ConsumerOptions {
    let selector = Selector::parse(selector).expect("it is a selector");
    ConsumerOptions { selector: Some(Arc::new(selector)), ..ConsumerOptions::default() }
}

/// Publishes messages of the colours that the letters stand for; each body is the letter and a number.
fn publish_colours(broker: &mut Broker, client: Client, colours: &str) {
    for (number, colour) in colours.chars().enumerate() {
        publish(broker, client, colour, &format!("{colour}{number}"), |_| {});
    }
    broker.run();
}

fn publish(
    broker: &mut Broker,
    client: Client,
    colour: char,
    body: &str,
    change: impl FnOnce(&mut MessageHeader<'_>),
) {
    let headers = properties(None, &[("colour", text(&colour.to_string())), ("group", text("g"))]);
    let id = broker.message_with(client, "", "q", body, &headers, change);
    broker.send(client, id);
}

fn settle_all(broker: &mut Broker, client: Client, received: &[Received], settlement: Settlement) {
    received.iter().for_each(|received| broker.settle(client, received, settlement));
    broker.run();
}

fn bodies(received: &[Received]) -> Vec<&str> {
    received.iter().map(|received| received.body.as_str()).collect()
}

#[test]
fn everybody_gets_what_he_selects_and_nobody_waits_for_another() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let (red, green) = (broker.client(0), broker.client(1));
        broker.declare(red, "q", at_home(home));
        publish_colours(&mut broker, red, "bgrbgr");
        broker.subscribe(red, "q", 1, selecting("colour = 'r'"));
        broker.subscribe(green, "q", 1, ConsumerOptions { no_ack: true, ..selecting("colour = 'g'") });
        let held = broker.take(red);
        assert_eq!((bodies(&held), broker.bodies(green)), (vec!["r2", "r5"], vec!["g1".into(), "g4".into()]));
        assert_eq!(broker.counts(red, "q").unwrap().0, 2);
        publish_colours(&mut broker, green, "rgb");
        let more = broker.take(red);
        assert_eq!((bodies(&more), broker.bodies(green)), (vec!["r0"], vec!["g1".into()]));
        // What comes back is found again, though it stands before what was looked at.
        settle_all(&mut broker, red, &held[1..], Settlement::Requeue);
        let again = broker.take(red);
        assert_eq!((bodies(&again), again[0].redelivered), (vec!["r5"], true));
        settle_all(&mut broker, red, &held[..1], Settlement::Accept);
        settle_all(&mut broker, red, &more, Settlement::Accept);
        settle_all(&mut broker, red, &again, Settlement::Accept);
        // The rest is for whoever wants it.
        let rest: Vec<_> =
            std::iter::from_fn(|| broker.get(red, "q", true)).map(|(got, _)| got.body).collect();
        assert_eq!(rest, ["b0", "b3", "b2"]);
        broker.end(&[red, green]);
    }
}

#[test]
fn who_selects_and_who_does_not_take_turns() {
    let mut broker = Broker::new(1);
    let (one, two) = (broker.client(0), broker.client(0));
    broker.declare(one, "q", QueueOptions::default());
    broker.subscribe(one, "q", 1, ConsumerOptions { no_ack: true, ..selecting("colour = 'r'") });
    broker.subscribe(two, "q", 1, ConsumerOptions { no_ack: true, ..Default::default() });
    publish_colours(&mut broker, one, "brrbbb");
    assert_eq!(broker.bodies(one), ["r1", "r2"]);
    assert_eq!(broker.bodies(two), ["b0", "b3", "b4", "b5"]);
    publish_colours(&mut broker, one, "rrrr");
    assert_eq!((broker.bodies(one).len(), broker.bodies(two).len()), (2, 2));
    broker.end(&[one, two]);
}

#[test]
fn a_long_way_to_the_next_one_is_gone_in_steps() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        publish_colours(&mut broker, client, &("b".repeat(1_000) + "rbr"));
        broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..selecting("colour = 'r'") });
        assert_eq!(broker.bodies(client), ["r1000", "r1002"]);
        assert!(broker.shards.iter().all(|shard| !shard.has_work()));
        publish_colours(&mut broker, client, "r");
        assert_eq!(broker.bodies(client), ["r0"]);
        broker.end(&[client]);
    }
}

#[test]
fn of_those_selected_the_highest_priority_comes_first() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions { max_priority: Some(9), ..QueueOptions::default() });
    for (colour, priority) in [('r', 1), ('b', 9), ('r', 5), ('r', 9), ('r', 1)] {
        publish(&mut broker, client, colour, &format!("{colour}{priority}"), |header| {
            header.priority = priority;
        });
    }
    let credit = Some(Credit { messages: 2, bytes: Credit::UNLIMITED });
    broker.subscribe(client, "q", 1, ConsumerOptions { credit, ..selecting("colour = 'r'") });
    let held = broker.take(client);
    assert_eq!(bodies(&held), ["r9", "r5"]);
    settle_all(&mut broker, client, &held[..1], Settlement::Release);
    broker.shards[0].grant_credit(client.session, 1, Credit { messages: 3, bytes: 0 });
    let rest = broker.take(client);
    assert_eq!(bodies(&rest), ["r9", "r1", "r1"]);
    settle_all(&mut broker, client, &held[1..], Settlement::Accept);
    settle_all(&mut broker, client, &rest, Settlement::Accept);
    assert!(matches!(broker.ask(client, Request::FlushConsumer { consumer: 1 }), Ok(Reply::Done)));
    assert_eq!(broker.counts(client, "q").unwrap().0, 1);
    broker.end(&[client]);
}

#[test]
fn selectors_choose_among_what_groups_allow() {
    let mut broker = Broker::new(1);
    let (one, two) = (broker.client(0), broker.client(0));
    let options =
        QueueOptions { group_key: Some("group".into()), shared_groups: true, ..QueueOptions::default() };
    broker.declare(one, "q", options);
    publish_colours(&mut broker, one, "brbr");
    broker.subscribe(one, "q", 1, ConsumerOptions { prefetch: 1, ..selecting("colour = 'r'") });
    let held = broker.take(one);
    broker.subscribe(two, "q", 1, selecting("colour = 'b'"));
    assert!(broker.take(two).is_empty(), "all are of one group");
    assert_eq!(bodies(&held), ["r1"]);
    broker.ask(one, Request::Cancel { consumer: 1 }).unwrap();
    settle_all(&mut broker, one, &held, Settlement::Accept);
    let received = broker.take(two);
    assert_eq!(bodies(&received), ["b0", "b2"]);
    settle_all(&mut broker, two, &received, Settlement::Accept);
    broker.end(&[one, two]);
}

#[test]
fn browsers_may_select() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(home));
        publish_colours(&mut broker, client, "rbr");
        broker.subscribe(client, "q", 1, ConsumerOptions { browse: true, ..selecting("colour = 'r'") });
        publish_colours(&mut broker, client, "br");
        assert_eq!(broker.bodies(client), ["r0", "r2", "r1"]);
        assert_eq!(broker.counts(client, "q").unwrap().0, 5);
        broker.end(&[client]);
    }
}

#[test]
fn what_the_queue_knows_can_be_selected_too() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", QueueOptions::default());
    publish_colours(&mut broker, client, "rr");
    let (got, _) = broker.get(client, "q", false).unwrap();
    settle_all(&mut broker, client, &[got], Settlement::Requeue);
    broker.subscribe(client, "q", 1, ConsumerOptions { no_ack: true, ..selecting("amqp.redelivered") });
    assert_eq!(broker.bodies(client), ["r0"]);
    broker.end(&[client]);
}
