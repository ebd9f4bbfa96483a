//! Exchanges that number messages or keep the last one.

use super::*;
use crate::test_support;

/// Exchange names whose homes differ among two shards.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn with(option: &str) -> Table {
    Table(vec![(Name::from(option), Value::I64(1))])
}

fn numbers(received: &[Received]) -> Vec<i64> {
    let number = |one: &Received| one.headers.get(b"qpid.msg_sequence").and_then(Value::as_i64);
    received.iter().map(|one| number(one).expect("it is numbered")).collect()
}

/// Runs a test for exchanges of all homes: on one shard and on two.
fn everywhere(test: impl Fn(Broker, &str)) {
    for shards in [1, 2] {
        NAMES.iter().for_each(|name| test(Broker::new(shards), name));
    }
    NAMES.iter().for_each(|name| test(Broker::with_limits(3, Limits::tiny()), name));
}

impl Broker {
    fn last_shard(&self) -> usize {
        self.shards.len() - 1
    }

    fn confirmed(&mut self, client: Client) -> Vec<(u64, bool)> {
        self.run();
        let told = self.told[client.owner as usize].drain(..);
        let confirms = told.map(|told| match told {
            Told::Confirmed(sequence, accepted) => (sequence, accepted),
            other => panic!("nothing else was to be told: {other:?}"),
        });
        let mut confirms: Vec<_> = confirms.collect();
        confirms.sort();
        confirms
    }
}

#[test]
fn the_homes_of_the_names_differ() {
    let broker = Broker::new(2);
    let mut broker = broker;
    let client = broker.client(0);
    let mut homes = NAMES.map(|name| {
        broker.exchange(client, name, "fanout", with("qpid.ive"));
        broker.shards[1].topology.keeping(VHOST, name.as_bytes()).unwrap().home
    });
    homes.sort();
    assert_eq!((homes[0], homes[5]), (ShardId(0), ShardId(1)));
}

#[test]
fn every_queue_gets_the_numbers_in_order() {
    everywhere(|mut broker, name| {
        let last = broker.last_shard();
        let (near, far) = (broker.client(0), broker.client(last));
        broker.exchange(near, name, "topic", with("qpid.msg_sequence"));
        broker.exchange(near, "plain", "fanout", Table::default());
        for (queue, home, consumer) in [("p", 0, 1), ("q", last as u8, 2)] {
            broker.declare(near, queue, at_home(home));
            broker.subscribe(near, queue, consumer, ConsumerOptions::default());
            broker.bind(near, name, queue, "k.#");
            broker.bind(near, "plain", queue, "");
        }
        for n in 0..20 {
            let client = if n % 3 == 0 { near } else { far };
            broker.publish(client, name, "k", &n.to_string());
            if n % 5 == 0 {
                broker.turn(n % (last + 1));
            }
        }
        broker.run();
        broker.publish(far, name, "unroutable", "lost, and counted");
        broker.run();
        broker.publish(far, name, "k", "last");
        let received = broker.take(near);
        for consumer in [1, 2] {
            let own: Vec<_> = received.iter().filter(|one| one.consumer == consumer).cloned().collect();
            assert_eq!(numbers(&own), (1..=20).chain([22]).collect::<Vec<_>>(), "{name}");
            assert_eq!(own.last().unwrap().body, "last");
        }
        broker.publish(far, "plain", "k", "plain");
        assert!(broker.take(near).iter().all(|one| one.headers.is_empty()));
    });
}

#[test]
fn headers_time_to_live_and_priority_stay() {
    let mut broker = Broker::new(2);
    let client = broker.client(1);
    for name in NAMES {
        broker.exchange(client, name, "fanout", with("qpid.msg_sequence"));
        broker.declare(client, name, QueueOptions { max_priority: Some(5), ..at_home(0) });
        broker.bind(client, name, name, "");
        let properties = test_support::properties(None, &[("own", test_support::text("kept"))]);
        for (body, priority) in [("low", 1), ("high", 3)] {
            let id = broker.message_with(client, name, "k", body, &properties, |header| {
                (header.priority, header.ttl_ms) = (priority, Some(50));
            });
            broker.send(client, id);
        }
        broker.run();
        let (received, _) = broker.get(client, name, true).unwrap();
        assert_eq!(
            (received.body.as_str(), received.key.as_str(), received.exchange.as_str()),
            ("high", "k", name)
        );
        assert_eq!(received.headers.get(b"own"), Some(&test_support::text("kept")));
        assert_eq!(numbers(&[received]), [2]);
        broker.pass(60);
        assert_eq!(broker.counts(client, name).unwrap().0, 0, "the other one expired");
    }
}

#[test]
fn a_confirm_comes_when_every_queue_has_answered() {
    everywhere(|mut broker, name| {
        let last = broker.last_shard();
        let (near, far) = (broker.client(0), broker.client(last));
        broker.exchange(near, name, "direct", with("qpid.msg_sequence"));
        let full = crate::request::Overflow::RejectPublish;
        for home in 0..=last {
            let queue = format!("q{home}");
            broker.declare(near, &queue, at_home(home as u8));
            broker.bind(near, name, &queue, "all");
        }
        broker.declare(
            near,
            "full",
            QueueOptions { max_length: Some(1), overflow: full, ..at_home(last as u8) },
        );
        broker.bind(near, name, "full", "some");
        broker.bind(near, name, "q0", "some");
        for client in [near, far] {
            let mut expected = Vec::new();
            let mut told = Vec::new();
            for (sequence, key, accepted) in [
                (1, "all", true),
                (2, "none", true),
                (3, "some", client == near),
                (4, "some", false),
                (5, "all", true),
            ] {
                let id = broker.message(client, name, key, "");
                let published =
                    broker.shards[client.shard].publish(client.session, VHOST, id, false, Some(sequence));
                match published.unwrap() {
                    Published::Confirmed => told.push((sequence, true)),
                    Published::Rejected => told.push((sequence, false)),
                    Published::Pending => {}
                    other => panic!("{other:?}"),
                }
                expected.push((sequence, accepted));
            }
            told.extend(broker.confirmed(client));
            told.sort();
            assert_eq!(told, expected, "{name}");
        }
        assert_eq!(broker.counts(near, "q0").unwrap().0, 8);
        assert_eq!(broker.counts(near, "full").unwrap().0, 1);
    });
}

#[test]
fn a_mandatory_message_without_a_queue_comes_back_and_counts() {
    everywhere(|mut broker, name| {
        let last = broker.last_shard();
        let client = broker.client(last);
        broker.exchange(client, name, "direct", with("qpid.msg_sequence"));
        broker.declare(client, "q", at_home(0));
        broker.bind(client, name, "q", "k");
        let id = broker.message(client, name, "none", "body");
        let published = broker.shards[last].publish(client.session, VHOST, id, true, Some(1)).unwrap();
        assert_eq!(published, Published::Unroutable(id));
        assert_eq!(broker.shards[last].message(id).body, b"body");
        broker.shards[last].release(id);
        broker.run();
        broker.publish(client, name, "k", "");
        broker.run();
        let (received, _) = broker.get(client, "q", true).unwrap();
        assert_eq!(numbers(&[received]), [2]);
        broker.end(&[client]);
    });
}

#[test]
fn a_new_binding_gets_the_last_message_and_no_other_does() {
    everywhere(|mut broker, name| {
        let last = broker.last_shard() as u8;
        let client = broker.client(usize::from(last));
        let other = broker.client(0);
        broker.exchange(client, name, "topic", with("qpid.ive"));
        for queue in ["early", "late", "elsewhere"] {
            broker.declare(other, queue, at_home(if queue == "early" { 0 } else { last }));
        }
        broker.bind(client, name, "early", "k.#");
        assert_eq!(broker.counts(other, "early").unwrap().0, 0, "there is none yet");
        for body in ["1", "2"] {
            broker.publish(client, name, "k.x", body);
        }
        broker.run();
        broker.bind(other, name, "late", "#.x");
        broker.bind(other, name, "elsewhere", "y");
        broker.run();
        let depth = |broker: &mut Broker, queue: &str| broker.counts(other, queue).unwrap().0;
        assert_eq!(
            ["early", "late", "elsewhere"].map(|queue| depth(&mut broker, queue)),
            [2, 1, 0],
            "{name}"
        );
        assert_eq!(broker.get(other, "late", true).unwrap().0.body, "2");
        broker.bind(other, name, "late", "#.x");
        broker.run();
        assert_eq!(depth(&mut broker, "late"), 0, "it is bound already");
        broker.publish(client, name, "nowhere", "3");
        broker.run();
        broker.bind(client, name, "late", "nowhere");
        broker.run();
        assert_eq!(
            broker.get(other, "late", true).unwrap().0.body,
            "3",
            "it was kept although nobody got it"
        );
        let delete = Request::DeleteExchange { vhost: VHOST, name: Name::from(name), if_unused: false };
        broker.ask(client, delete).unwrap();
        broker.run();
        broker.exchange(client, name, "topic", with("qpid.ive"));
        broker.bind(client, name, "late", "#");
        broker.run();
        assert_eq!(depth(&mut broker, "late"), 0, "another exchange keeps nothing of it");
        broker.end(&[client, other]);
    });
}

#[test]
fn an_initial_value_is_as_it_was() {
    let mut broker = Broker::new(2);
    let client = broker.client(0);
    for name in NAMES {
        let arguments = Table([with("qpid.ive").0, with("qpid.msg_sequence").0].concat());
        broker.exchange(client, name, "fanout", arguments);
        broker.exchange(client, &format!("{name}{name}"), "fanout", Table::default());
        broker.declare(client, name, at_home(1));
        broker.bind(client, &format!("{name}{name}"), name, "");
        for (body, ttl_ms) in [("1", None), ("2", Some(50))] {
            let id = broker.message_with(client, name, "k", body, &[], |header| header.ttl_ms = ttl_ms);
            broker.send(client, id);
        }
        broker.run();
        let bind = Request::Bind {
            vhost: VHOST,
            source: Name::from(name),
            destination: Name::from(format!("{name}{name}")),
            kind: DestinationKind::Exchange,
            key: Name::default(),
            arguments: Table::default(),
        };
        broker.ask(client, bind).unwrap();
        broker.run();
        let (received, _) = broker.get(client, name, true).unwrap();
        assert_eq!(received.body, "2", "an exchange leads on");
        assert_eq!(numbers(&[received]), [2], "it is not counted again");
        broker.pass(60);
        broker.bind(client, name, name, "");
        broker.run();
        assert_eq!(broker.counts(client, name).unwrap().0, 0, "it has expired");
    }
}

#[test]
fn dead_letters_are_numbered_and_do_not_go_round() {
    everywhere(|mut broker, name| {
        let client = broker.client(0);
        let last = broker.last_shard() as u8;
        broker.exchange(client, name, "fanout", with("qpid.msg_sequence"));
        let dying = QueueOptions {
            message_ttl_ms: Some(10),
            dead_letter_exchange: Some(Name::from(name)),
            ..at_home(last)
        };
        broker.declare(client, "dying", dying);
        broker.declare(client, "graves", at_home(0));
        broker.bind(client, name, "dying", "");
        broker.bind(client, name, "graves", "");
        broker.publish(client, "", "dying", "");
        for _ in 0..3 {
            broker.pass(20);
        }
        let (received, left) = broker.get(client, "graves", true).unwrap();
        assert_eq!((numbers(&[received]), left), (vec![1], 0));
        broker.end(&[client]);
    });
}

#[test]
fn what_a_queue_gives_up_by_its_alternate_exchange_is_numbered() {
    everywhere(|mut broker, name| {
        let client = broker.client(0);
        let last = broker.last_shard() as u8;
        broker.exchange(client, name, "fanout", with("qpid.msg_sequence"));
        broker.declare(client, "q", QueueOptions { alternate: Some(Name::from(name)), ..at_home(last) });
        broker.declare(client, "spare", at_home(0));
        broker.bind(client, name, "spare", "");
        broker.publish(client, "", "q", "rejected");
        broker.run();
        let (received, _) = broker.get(client, "q", false).unwrap();
        broker.settle(client, &received, Settlement::Reject);
        broker.run();
        let (received, _) = broker.get(client, "spare", true).unwrap();
        assert_eq!((received.body.as_str(), numbers(std::slice::from_ref(&received))), ("rejected", vec![1]));
        broker.end(&[client]);
    });
}

#[test]
fn a_transaction_is_numbered_when_it_is_committed() {
    everywhere(|mut broker, name| {
        let last = broker.last_shard();
        let client = broker.client(last);
        broker.exchange(client, name, "fanout", with("qpid.msg_sequence"));
        broker.declare(client, "q", at_home(0));
        broker.bind(client, name, "q", "");
        for (body, commits) in [("undone", false), ("done", true)] {
            let message = broker.message(client, name, "", body);
            let shard = &mut broker.shards[last];
            shard.publish_in_transaction(client.session, VHOST, message, false).unwrap();
            if commits {
                broker.ask(client, Request::Commit).unwrap();
            } else {
                shard.rollback(client.session);
            }
            broker.run();
        }
        let (received, left) = broker.get(client, "q", true).unwrap();
        assert_eq!((received.body.as_str(), left), ("done", 0));
        assert_eq!(numbers(&[received]), [1]);
        broker.end(&[client]);
    });
}
