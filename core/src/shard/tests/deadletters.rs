//! Dead-lettering, further routing keys in headers, exchanges that hold messages back.

use super::*;
use crate::request::Overflow;
use crate::test_support::{properties, text, texts};

fn dying(to: &str) -> QueueOptions {
    QueueOptions { dead_letter_exchange: Some(Name::from(to)), ..QueueOptions::default() }
}

fn deaths(received: &Received) -> Vec<Table> {
    let Some(Value::Array(deaths)) = received.headers.get(b"x-death") else { return Vec::new() };
    deaths
        .iter()
        .map(|death| if let Value::Table(table) = death { table.clone() } else { panic!() })
        .collect()
}

fn header(received: &Received, name: &str) -> Option<String> {
    let value = received.headers.get(name.as_bytes())?;
    Some(String::from_utf8_lossy(value.as_bytes()?).into_owned())
}

#[test]
fn a_rejected_message_tells_its_story() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.exchange(client, "dlx", "direct", Table::default());
        let options = QueueOptions {
            dead_letter_routing_key: Some(Name::from("dead")),
            ..QueueOptions { home: Some(shards - 1), ..dying("dlx") }
        };
        broker.declare(client, "q", options);
        broker.declare(client, "d", at_home(0));
        broker.bind(client, "dlx", "d", "dead");
        let properties = properties(Some("60000"), &[("CC", texts(&["other"])), ("mine", text("yes"))]);
        let id =
            broker.message_with(client, "", "q", "a", &properties, |header| header.ttl_ms = Some(60_000));
        broker.send(client, id);
        let (got, _) = broker.get(client, "q", false).unwrap();
        broker.settle(client, &got, Settlement::Reject);
        broker.run();
        let (dead, _) = broker.get(client, "d", true).unwrap();
        assert_eq!((dead.body.as_str(), dead.exchange.as_str(), dead.key.as_str()), ("a", "dlx", "dead"));
        assert!(!dead.redelivered);
        assert_eq!(dead.expiration, None);
        assert_eq!(header(&dead, "mine").as_deref(), Some("yes"));
        assert_eq!(dead.headers.get(b"CC"), None);
        for (name, value) in [("exchange", ""), ("queue", "q"), ("reason", "rejected")] {
            assert_eq!(header(&dead, &format!("x-first-death-{name}")).as_deref(), Some(value));
            assert_eq!(header(&dead, &format!("x-last-death-{name}")).as_deref(), Some(value));
        }
        let expected = Table(vec![
            (Name::from("count"), Value::I64(1)),
            (Name::from("reason"), text("rejected")),
            (Name::from("queue"), text("q")),
            (Name::from("time"), Value::Timestamp(1_700_000_000)),
            (Name::from("exchange"), text("")),
            (Name::from("routing-keys"), texts(&["q", "other"])),
            (Name::from("original-expiration"), text("60000")),
        ]);
        assert_eq!(deaths(&dead), [expected]);
        broker.end(&[client]);
    }
}

#[test]
fn every_kind_of_death_counts_by_itself() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(
        client,
        "retry",
        QueueOptions {
            message_ttl_ms: Some(10),
            dead_letter_routing_key: Some(Name::from("work")),
            ..dying("")
        },
    );
    broker.declare(
        client,
        "work",
        QueueOptions { dead_letter_routing_key: Some(Name::from("retry")), ..dying("") },
    );
    broker.publish(client, "", "work", "a");
    for round in 1..=3 {
        let (got, _) = broker.get(client, "work", false).unwrap();
        let counts: Vec<_> = deaths(&got).iter().map(|d| d.get(b"count").cloned()).collect();
        let expected = if round == 1 { vec![] } else { vec![Some(Value::I64(round - 1)); 2] };
        assert_eq!(counts, expected);
        broker.settle(client, &got, Settlement::Reject);
        broker.pass(10);
    }
    let (got, _) = broker.get(client, "work", true).unwrap();
    let reasons: Vec<_> = deaths(&got).iter().map(|d| d.get(b"reason").cloned().unwrap()).collect();
    assert_eq!(reasons, [text("expired"), text("rejected")], "the latest comes first");
    assert_eq!(header(&got, "x-first-death-reason").as_deref(), Some("rejected"));
    assert_eq!(header(&got, "x-last-death-queue").as_deref(), Some("retry"));
    broker.end(&[client]);
}

#[test]
fn a_message_that_nobody_rejects_does_not_go_round() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    for (name, next) in [("a", "b"), ("b", "a")] {
        broker.declare(
            client,
            name,
            QueueOptions {
                message_ttl_ms: Some(10),
                dead_letter_routing_key: Some(Name::from(next)),
                ..dying("")
            },
        );
    }
    broker.publish(client, "", "a", "x");
    broker.pass(10);
    assert_eq!(broker.counts(client, "b").unwrap().0, 1);
    broker.pass(10);
    broker.pass(10);
    assert_eq!(broker.shards[0].stats().ready, 0);
    assert_eq!(broker.shards[0].stats().messages, 0);
    broker.end(&[client]);
}

#[test]
fn overflow_is_dead_lettered_from_either_end() {
    for (overflow, dead_body, published) in [
        (Overflow::DropHead, "a", Published::Confirmed),
        (Overflow::RejectPublishDeadLetter, "b", Published::Rejected),
    ] {
        let mut broker = Broker::new(1);
        let client = broker.client(0);
        broker.declare(
            client,
            "q",
            QueueOptions {
                max_length: Some(1),
                overflow,
                dead_letter_routing_key: Some(Name::from("d")),
                ..dying("")
            },
        );
        broker.declare(client, "d", QueueOptions::default());
        broker.publish(client, "", "q", "a");
        assert_eq!(broker.publish(client, "", "q", "b"), published);
        let (dead, _) = broker.get(client, "d", true).unwrap();
        assert_eq!(dead.body, dead_body);
        assert_eq!(deaths(&dead)[0].get(b"reason"), Some(&text("maxlen")));
        broker.end(&[client]);
    }
}

#[test]
fn a_dead_letter_without_an_exchange_is_dropped() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    broker.declare(client, "q", dying("nowhere"));
    broker.publish(client, "", "q", "a");
    let (got, _) = broker.get(client, "q", false).unwrap();
    broker.settle(client, &got, Settlement::Reject);
    assert_eq!(broker.shards[0].stats().messages, 0);
    broker.end(&[client]);
}

#[test]
fn senders_select_further_keys() {
    for shards in [1, 3] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        for (name, home) in [("a", 0), ("b", 1), ("c", 2)] {
            broker.declare(client, name, at_home(home % shards));
        }
        let properties = properties(None, &[("CC", texts(&["b", "a"])), ("BCC", texts(&["c"]))]);
        for _ in 0..2 {
            let id = broker.message_with(client, "", "a", "x", &properties, |_| {});
            assert_eq!(broker.send(client, id), Published::Confirmed);
        }
        for name in ["a", "b", "c"] {
            let (got, remaining) = broker.get(client, name, true).unwrap();
            assert_eq!(remaining, 1, "each queue has each message once");
            assert_eq!(got.key, "a");
            assert_eq!(got.headers.get(b"CC"), Some(&texts(&["b", "a"])));
            assert_eq!(got.headers.get(b"BCC"), None);
        }
        // An exchange that one of the keys leads on from needs no alternate.
        broker.exchange(client, "lost", "fanout", Table::default());
        broker.bind(client, "lost", "c", "");
        let options = ExchangeOptions {
            kind: Name::from("direct"),
            alternate: Some(Name::from("lost")),
            ..Default::default()
        };
        let name = Name::from("by-key");
        let request = Request::DeclareExchange { vhost: VHOST, name, passive: false, options };
        broker.ask(client, request).unwrap();
        broker.bind(client, "by-key", "b", "b");
        let id = broker.message_with(client, "by-key", "nowhere", "z", &properties, |_| {});
        assert_eq!(broker.send(client, id), Published::Confirmed);
        assert_eq!(broker.counts(client, "c").unwrap().0, 1);
        assert_eq!(broker.get(client, "b", true).map(|(got, _)| got.body).as_deref(), Some("x"));
        assert_eq!(broker.get(client, "b", true).map(|(got, _)| got.body).as_deref(), Some("z"));
        // The same address without the headers leads to its own queue alone.
        broker.publish(client, "", "a", "y");
        assert_eq!(broker.counts(client, "b").unwrap().0, 0);
        assert_eq!(broker.counts(client, "a").unwrap().0, 2);
        broker.end(&[client]);
    }
}

#[test]
fn a_delayed_message_waits_for_its_time() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    let mut arguments = Table::default();
    arguments.set(b"x-delayed-type", text("direct"));
    broker.exchange(client, "later", "x-delayed-message", arguments);
    broker.declare(client, "q", QueueOptions::default());
    broker.bind(client, "later", "q", "k");
    broker.declare(client, "copy", QueueOptions::default());
    broker.bind(client, "later", "copy", "other");
    let delayed = properties(None, &[("x-delay", Value::I64(50)), ("BCC", texts(&["other"]))]);
    let id = broker.message_with(client, "later", "k", "slow", &delayed, |_| {});
    assert_eq!(broker.send(client, id), Published::Confirmed);
    broker.publish(client, "later", "k", "fast");
    broker.pass(49);
    assert_eq!(broker.get(client, "q", true).unwrap().0.body, "fast");
    assert!(broker.get(client, "q", true).is_none());
    broker.pass(1);
    assert_eq!(broker.get(client, "q", true).unwrap().0.body, "slow");
    let copy = broker.get(client, "copy", true).unwrap().0;
    assert_eq!((copy.body.as_str(), copy.headers.get(b"BCC")), ("slow", None));
    broker.end(&[client]);
}
