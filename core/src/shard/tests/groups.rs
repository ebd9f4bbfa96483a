//! Message groups: one consumer at a time, in order.

use super::*;
use crate::Credit;
use crate::shard::random::Random;
use crate::test_support::{properties, text};

fn grouped(home: u8) -> QueueOptions {
    QueueOptions { group_key: Some("group".into()), shared_groups: true, ..at_home(home) }
}

/// Publishes messages of the groups that the letters name; each body is the letter and a number.
fn publish_groups(broker: &mut Broker, client: Client, groups: &str) {
    for (number, group) in groups.chars().enumerate() {
        let group = group.to_string();
        let headers = properties(None, &[("group", text(&group))]);
        let mark = |header: &mut MessageHeader<'_>| header.has_headers = true;
        let id = broker.message_with(client, "", "q", &format!("{group}{number}"), &headers, mark);
        broker.send(client, id);
    }
    broker.run();
}

/// A consumer that gets what it asks for by [`fetch`].
fn asking() -> ConsumerOptions {
    ConsumerOptions { credit: Some(Credit::NONE), ..ConsumerOptions::default() }
}

fn fetch(broker: &mut Broker, client: Client) -> Option<Received> {
    let credit = Credit { messages: 1, bytes: Credit::UNLIMITED };
    broker.shards[client.shard].grant_credit(client.session, 1, credit);
    broker.ask(client, Request::FlushConsumer { consumer: 1 }).unwrap();
    let mut received = broker.take(client);
    assert!(received.len() < 2);
    received.pop()
}

fn body(received: &Option<Received>) -> &str {
    received.as_ref().map_or("nothing", |received| &received.body)
}

fn accept(broker: &mut Broker, client: Client, received: &Option<Received>) {
    let received = received.as_ref().expect("something was received");
    broker.settle(client, received, Settlement::Accept);
    broker.run();
}

/// Two clients that ask, on different shards, and messages of some groups.
fn two_consumers(home: u8, groups: &str) -> (Broker, Client, Client) {
    let mut broker = Broker::new(2);
    let (one, two) = (broker.client(0), broker.client(1));
    broker.declare(one, "q", grouped(home));
    publish_groups(&mut broker, one, groups);
    broker.subscribe(one, "q", 1, asking());
    broker.subscribe(two, "q", 1, asking());
    (broker, one, two)
}

#[test]
fn a_group_is_its_holders_until_all_of_it_is_settled() {
    for home in [0, 1] {
        let (mut broker, one, two) = two_consumers(home, "AAABBBCCC");
        let a0 = fetch(&mut broker, one);
        let b3 = fetch(&mut broker, two);
        assert_eq!((body(&a0), body(&b3)), ("A0", "B3"));
        accept(&mut broker, one, &a0);
        let a1 = fetch(&mut broker, two);
        let c6 = fetch(&mut broker, one);
        assert_eq!((body(&a1), body(&c6)), ("A1", "C6"));
        accept(&mut broker, two, &b3);
        let b4 = fetch(&mut broker, one);
        accept(&mut broker, one, &c6);
        let a2 = fetch(&mut broker, two);
        let c7 = fetch(&mut broker, two);
        assert_eq!((body(&b4), body(&a2), body(&c7)), ("B4", "A2", "C7"));
        for received in [&a1, &a2, &c7] {
            accept(&mut broker, two, received);
        }
        let c8 = fetch(&mut broker, two);
        accept(&mut broker, one, &b4);
        let b5 = fetch(&mut broker, two);
        assert_eq!((body(&c8), body(&b5), body(&fetch(&mut broker, one))), ("C8", "B5", "nothing"));
        for received in [&c8, &b5] {
            accept(&mut broker, two, received);
        }
        broker.end(&[one, two]);
    }
}

#[test]
fn who_waits_gets_a_group_as_soon_as_it_is_free() {
    for home in [0, 1] {
        let mut broker = Broker::new(2);
        let (one, two) = (broker.client(0), broker.client(1));
        broker.declare(one, "q", grouped(home));
        broker.subscribe(one, "q", 1, ConsumerOptions { prefetch: 1, ..ConsumerOptions::default() });
        broker.run();
        publish_groups(&mut broker, one, "AAA");
        broker.subscribe(two, "q", 1, ConsumerOptions::default());
        let held = broker.take(one);
        assert!(broker.take(two).is_empty());
        broker.ask(one, Request::Cancel { consumer: 1 }).unwrap();
        assert!(broker.take(two).is_empty(), "its session still holds one");
        broker.settle(one, &held[0], Settlement::Accept);
        let rest = broker.take(two);
        assert_eq!(rest.iter().map(|r| r.body.as_str()).collect::<Vec<_>>(), ["A1", "A2"]);
        publish_groups(&mut broker, one, "AB");
        assert_eq!(broker.bodies(two).len(), 2, "what comes later too");
        broker
            .ask(
                one,
                Request::DeleteQueue {
                    vhost: VHOST,
                    name: Name::from("q"),
                    if_unused: false,
                    if_empty: false,
                },
            )
            .unwrap();
        broker.end(&[one, two]);
    }
}

#[test]
fn what_is_given_back_or_rejected_frees_its_group() {
    for (settlement, next) in [
        (Settlement::Release, "A0"),
        (Settlement::Requeue, "A0"),
        (Settlement::Reject, "A1"),
        (Settlement::Accept, "A1"),
    ] {
        let (mut broker, one, two) = two_consumers(1, "AABB");
        let a0 = fetch(&mut broker, one).unwrap();
        let b2 = fetch(&mut broker, two);
        assert_eq!(body(&b2), "B2");
        broker.settle(one, &a0, settlement);
        broker.run();
        let next_of_two = fetch(&mut broker, two);
        assert_eq!(body(&next_of_two), next);
        for received in [&b2, &next_of_two] {
            accept(&mut broker, two, received);
        }
        broker.end(&[one, two]);
    }
}

#[test]
fn a_session_that_ends_frees_its_groups() {
    let (mut broker, one, two) = two_consumers(0, "AABB");
    let a0 = fetch(&mut broker, one).unwrap();
    let b2 = fetch(&mut broker, two);
    broker.ask(one, Request::Cancel { consumer: 1 }).unwrap();
    let b3 = fetch(&mut broker, two);
    assert_eq!((body(&b2), body(&b3), body(&fetch(&mut broker, two))), ("B2", "B3", "nothing"));
    broker.settle(one, &a0, Settlement::Requeue);
    broker.shards[0].close_session(one.session);
    broker.run();
    let a0 = fetch(&mut broker, two);
    let a1 = fetch(&mut broker, two);
    assert_eq!((body(&a0), body(&a1)), ("A0", "A1"));
    for received in [&b2, &b3, &a0, &a1] {
        accept(&mut broker, two, received);
    }
    broker.end(&[one, two]);
}

#[test]
fn browsers_do_not_mind_groups_but_acquiring_does() {
    let (mut broker, one, two) = two_consumers(0, "ABA");
    let a0 = fetch(&mut broker, one);
    broker.subscribe(two, "q", 2, ConsumerOptions { browse: true, ..ConsumerOptions::default() });
    let seen = broker.take(two);
    assert_eq!(seen.iter().map(|r| r.body.as_str()).collect::<Vec<_>>(), ["B1", "A2"]);
    let tags = seen.iter().map(|received| received.tag).collect();
    let acquired = broker.ask(two, Request::Acquire { queue: seen[0].queue, tags });
    let Ok(Reply::Acquired { tags, .. }) = acquired else { panic!("{acquired:?}") };
    assert!(matches!(tags[..], [Some(_), None]), "{tags:?}");
    broker.settle(two, &Received { tag: tags[0].unwrap(), ..seen[0].clone() }, Settlement::Accept);
    accept(&mut broker, one, &a0);
    // A session that fetches holds a group too.
    let (got, _) = broker.get(two, "q", false).unwrap();
    assert_eq!((got.body.as_str(), body(&fetch(&mut broker, one))), ("A2", "nothing"));
    publish_groups(&mut broker, one, "A");
    let (more, _) = broker.get(two, "q", false).unwrap();
    assert!(broker.get(one, "q", false).is_none());
    for received in [got, more] {
        broker.settle(two, &received, Settlement::Accept);
    }
    broker.end(&[one, two]);
}

#[test]
fn messages_that_name_no_group_are_of_one() {
    let (mut broker, one, two) = two_consumers(0, "");
    broker.publish(one, "", "q", "x");
    broker.publish(one, "", "q", "y");
    let headers = properties(None, &[("group", Value::I64(7))]);
    let id = broker.message_with(one, "", "q", "seven", &headers, |_| {});
    broker.send(one, id);
    let headers = properties(None, &[("group", text("qpid.no-group"))]);
    let id = broker.message_with(one, "", "q", "z", &headers, |_| {});
    broker.send(one, id);
    let x = fetch(&mut broker, one);
    let seven = fetch(&mut broker, two);
    assert_eq!((body(&x), body(&seven), body(&fetch(&mut broker, two))), ("x", "seven", "nothing"));
    let y = fetch(&mut broker, one);
    let z = fetch(&mut broker, one);
    assert_eq!((body(&y), body(&z)), ("y", "z"));
    for received in [&x, &y, &z] {
        accept(&mut broker, one, received);
    }
    accept(&mut broker, two, &seven);
    broker.end(&[one, two]);
}

#[test]
fn expired_messages_of_groups_are_passed_over() {
    let (mut broker, one, two) = two_consumers(0, "");
    for (number, group) in "ABCABC".chars().enumerate() {
        let headers = properties(None, &[("group", text(&group.to_string()))]);
        let ttl_ms = (group == 'B').then_some(1);
        let id = broker.message_with(one, "", "q", &format!("{group}{number}"), &headers, |header| {
            header.ttl_ms = ttl_ms;
        });
        broker.send(one, id);
    }
    broker.pass(20);
    let all = [
        fetch(&mut broker, one),
        fetch(&mut broker, two),
        fetch(&mut broker, one),
        fetch(&mut broker, two),
        fetch(&mut broker, one),
        fetch(&mut broker, two),
    ];
    assert_eq!(all.each_ref().map(body), ["A0", "C2", "A3", "C5", "nothing", "nothing"]);
    for (at, received) in all[..4].iter().enumerate() {
        accept(&mut broker, [one, two][at % 2], received);
    }
    assert_eq!(broker.counts(one, "q").unwrap().0, 0);
    broker.end(&[one, two]);
}

#[test]
fn purging_and_rings_keep_groups_right() {
    let (mut broker, one, two) = two_consumers(0, "ABABA");
    let a0 = fetch(&mut broker, one);
    broker.ask(one, Request::PurgeQueue { vhost: VHOST, name: Name::from("q") }).unwrap();
    publish_groups(&mut broker, one, "AB");
    let b1 = fetch(&mut broker, two);
    assert_eq!((body(&a0), body(&b1), body(&fetch(&mut broker, two))), ("A0", "B1", "nothing"));
    accept(&mut broker, one, &a0);
    let a0 = fetch(&mut broker, two);
    assert_eq!(body(&a0), "A0");
    for received in [&a0, &b1] {
        accept(&mut broker, two, received);
    }
    let options =
        QueueOptions { max_length: Some(2), overflow: crate::request::Overflow::Ring, ..grouped(0) };
    broker.ask(one, Request::Cancel { consumer: 1 }).unwrap();
    broker.ask(two, Request::Cancel { consumer: 1 }).unwrap();
    let (vhost, name) = (VHOST, Name::from("q"));
    broker.ask(one, Request::DeleteQueue { vhost, name, if_unused: false, if_empty: false }).unwrap();
    broker.declare(one, "q", options);
    publish_groups(&mut broker, one, "AB");
    for client in [one, two] {
        broker.subscribe(client, "q", 1, asking());
    }
    let a0 = fetch(&mut broker, one);
    // The one that is held makes room: nobody holds the group any more.
    publish_groups(&mut broker, one, "A");
    let b1 = fetch(&mut broker, two);
    let a = fetch(&mut broker, two);
    assert_eq!((body(&a0), body(&b1), body(&a)), ("A0", "B1", "A0"));
    accept(&mut broker, one, &a0);
    for received in [&a, &b1] {
        accept(&mut broker, two, received);
    }
    broker.end(&[one, two]);
}

/// Whatever happens, what is accepted of a group is accepted in order, and no two clients hold messages of one group.
#[test]
fn groups_stay_in_order_under_random_use() {
    for seed in 0..40 {
        let shards = 1 + (seed % 3) as u8;
        let mut random = Random::new(seed);
        let mut below = move |bound: usize| (random.next() % bound as u64) as usize;
        let mut broker = Broker::with_limits(shards, Limits { lane_slots: 64, ..Limits::tiny() });
        let mut clients: Vec<_> = (0..4).map(|n| broker.client(n % usize::from(shards))).collect();
        broker.declare(clients[0], "q", grouped(shards - 1));
        for &client in &clients {
            let prefetch = below(3) as u32;
            broker.subscribe(client, "q", 1, ConsumerOptions { prefetch, ..ConsumerOptions::default() });
        }
        let mut held: Vec<Vec<Received>> = vec![Vec::new(); clients.len()];
        let mut published = 0;
        let mut last_accepted = [None; 3];
        for _ in 0..600 {
            let at = below(clients.len());
            match below(10) {
                0..=2 => {
                    let group = below(3);
                    let headers = properties(None, &[("group", Value::I64(group as i64))]);
                    let id = broker.message_with(
                        clients[at],
                        "",
                        "q",
                        &format!("{group}:{published}"),
                        &headers,
                        |_| {},
                    );
                    published += 1;
                    broker.send(clients[at], id);
                    // So that numbers are in the order of arrival.
                    broker.run();
                }
                3..=6 => broker.run(),
                7 | 8 if !held[at].is_empty() => {
                    // In order, as one works through a group.
                    let received = held[at].remove(0);
                    let settlement = [Settlement::Accept, Settlement::Accept, Settlement::Release][below(3)];
                    if settlement == Settlement::Accept {
                        let (group, number) = parse(&received.body);
                        assert!(last_accepted[group] < Some(number), "seed {seed}: {}", received.body);
                        last_accepted[group] = Some(number);
                        broker.settle(clients[at], &received, settlement);
                    } else {
                        // With all behind it: who gives one back gives the rest back too, before he gets more.
                        broker.run();
                        held[at].extend(broker.received[clients[at].owner as usize].drain(..));
                        broker.settle(clients[at], &received, settlement);
                        for received in std::mem::take(&mut held[at]) {
                            broker.settle(clients[at], &received, settlement);
                        }
                    }
                }
                9 if below(5) == 0 => {
                    for received in std::mem::take(&mut held[at]) {
                        broker.settle(clients[at], &received, Settlement::Requeue);
                    }
                    broker.shards[clients[at].shard].close_connection(clients[at].connection);
                    clients[at] = broker.client(clients[at].shard);
                    broker.subscribe(clients[at], "q", 1, ConsumerOptions::default());
                }
                _ => {}
            }
            for (client, held) in clients.iter().zip(&mut held) {
                held.extend(broker.received[client.owner as usize].drain(..));
            }
            for group in 0..3 {
                let holders = held.iter().filter(|held| held.iter().any(|r| parse(&r.body).0 == group));
                assert!(holders.count() < 2, "seed {seed}: two hold of group {group}");
            }
        }
        // Everybody settles what it has; everything comes to an end.
        for _ in 0..1_000 {
            broker.run();
            for (&client, held) in clients.iter().zip(&mut held) {
                held.extend(broker.received[client.owner as usize].drain(..));
                for received in held.drain(..) {
                    broker.settle(client, &received, Settlement::Accept);
                }
            }
        }
        broker.run();
        assert_eq!(broker.counts(clients[0], "q").unwrap().0, 0, "seed {seed}");
        broker.end(&clients);
    }
}

fn parse(body: &str) -> (usize, u32) {
    let (group, number) = body.split_once(':').unwrap();
    (group.parse().unwrap(), number.parse().unwrap())
}
