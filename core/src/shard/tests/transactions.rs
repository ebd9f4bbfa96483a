//! Transactions of one session: all or nothing, on one shard and over several.

use super::*;
use crate::request::Overflow;

/// Runs a test on one shard and on three.
fn each(test: impl Fn(&mut Broker, u8)) {
    for shards in [1, 3] {
        test(&mut Broker::new(shards), shards);
    }
}

/// A queue that refuses what is more than `max_length`.
fn small(home: u8, max_length: u64) -> QueueOptions {
    QueueOptions {
        max_length: Some(max_length),
        overflow: Overflow::RejectPublish,
        home: Some(home),
        ..QueueOptions::default()
    }
}

/// Three queues, each on a shard of its own if there are so many.
fn three_queues(broker: &mut Broker, client: Client, shards: u8) {
    for queue in 0..3 {
        broker.declare(client, &format!("q{queue}"), at_home(queue % shards));
        broker.bind(client, "amq.fanout", &format!("q{queue}"), "");
    }
}

fn publish(broker: &mut Broker, client: Client, exchange: &str, key: &str, body: &str) {
    let message = broker.message(client, exchange, key, body);
    let shard = &mut broker.shards[client.shard];
    shard.publish_in_transaction(client.session, VHOST, message, false).expect("there is room");
}

fn settle(broker: &mut Broker, client: Client, received: &Received, settlement: Settlement) {
    let shard = &mut broker.shards[client.shard];
    shard.settle_in_transaction(client.session, received.queue, received.tag, settlement);
}

/// How many mandatory messages came back.
fn commit(broker: &mut Broker, client: Client) -> Result<usize, Refusal> {
    match broker.ask(client, Request::Commit)? {
        Reply::Committed { unroutable } => {
            let count = unroutable.len();
            unroutable.into_iter().for_each(|message| broker.shards[client.shard].release(message));
            Ok(count)
        }
        other => panic!("a commit was answered with {other:?}"),
    }
}

fn ready(broker: &mut Broker, client: Client) -> [u32; 3] {
    [0, 1, 2].map(|queue| broker.counts(client, &format!("q{queue}")).expect("the queue is there").0)
}

#[test]
fn a_commit_does_it_all_and_nothing_is_done_before() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        broker.publish(client, "", "q1", "old");
        let (old, _) = broker.get(client, "q1", false).expect("a message");
        publish(broker, client, "", "q0", "a");
        publish(broker, client, "amq.fanout", "", "b");
        publish(broker, client, "", "q2", "c");
        settle(broker, client, &old, Settlement::Accept);
        assert_eq!(ready(broker, client), [0, 0, 0]);
        assert_eq!(commit(broker, client), Ok(0));
        // Answered when every shard has done its part: nobody has to look twice.
        assert_eq!(ready(broker, client), [2, 1, 2]);
        let bodies = |broker: &mut Broker, queue: &str| {
            std::iter::from_fn(|| broker.get(client, queue, true))
                .map(|(got, _)| got.body)
                .collect::<Vec<_>>()
        };
        assert_eq!(bodies(broker, "q0"), ["a", "b"]);
        assert_eq!(bodies(broker, "q1"), ["b"]);
        assert_eq!(bodies(broker, "q2"), ["b", "c"]);
        assert_eq!(broker.shards.iter().map(|shard| shard.stats().unsettled).sum::<u64>(), 0);
        // The next one is empty.
        assert_eq!(commit(broker, client), Ok(0));
        assert_eq!(ready(broker, client), [0, 0, 0]);
        assert_nothing_is_left(broker);
    });
}

#[test]
fn the_answer_comes_when_it_is_done_everywhere() {
    let mut broker = Broker::new(3);
    let client = broker.client(0);
    three_queues(&mut broker, client, 3);
    publish(&mut broker, client, "amq.fanout", "", "m");
    assert!(broker.shards[0].request(client.session, Request::Commit).is_none());
    let mut turns = 0;
    while broker.told[client.owner as usize].is_empty() {
        broker.turn(turns % 3);
        turns += 1;
        assert!(turns < 100);
    }
    assert_eq!(broker.shards.iter().map(|shard| shard.stats().ready).collect::<Vec<_>>(), [1, 1, 1]);
}

#[test]
fn what_is_published_before_stays_before() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        broker.publish(client, "", "q2", "first");
        publish(broker, client, "", "q2", "second");
        publish(broker, client, "", "q1", "other");
        commit(broker, client).unwrap();
        broker.publish(client, "", "q2", "third");
        let bodies: Vec<_> =
            std::iter::from_fn(|| broker.get(client, "q2", true)).map(|(got, _)| got.body).collect();
        assert_eq!(bodies, ["first", "second", "third"]);
    });
}

#[test]
fn a_rollback_drops_publishes_and_leaves_messages_with_the_session() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        broker.publish(client, "", "q1", "kept");
        let (kept, _) = broker.get(client, "q1", false).expect("a message");
        publish(broker, client, "amq.fanout", "", "never");
        settle(broker, client, &kept, Settlement::Accept);
        broker.shards[0].rollback(client.session);
        commit(broker, client).unwrap();
        assert_eq!(ready(broker, client), [0, 0, 0]);
        broker.settle(client, &kept, Settlement::Requeue);
        assert_eq!(broker.get(client, "q1", true).expect("it is back").0.body, "kept");
        assert_nothing_is_left(broker);
    });
}

#[test]
fn one_full_queue_refuses_it_all() {
    each(|broker, shards| {
        // The full queue here, alone elsewhere, and elsewhere beside others.
        for full in 0..3 {
            let client = broker.client(0);
            three_queues(broker, client, shards);
            let name = format!("small{full}");
            broker.declare(client, &name, small(full % shards, 2));
            broker.publish(client, "", "q1", "held");
            let (held, _) = broker.get(client, "q1", false).expect("a message");
            broker.publish(client, "", &name, "there");
            publish(broker, client, "amq.fanout", "", "never");
            publish(broker, client, "", &name, "fits");
            publish(broker, client, "", &name, "does not");
            publish(broker, client, "amq.fanout", "", "never");
            settle(broker, client, &held, Settlement::Accept);
            assert_eq!(commit(broker, client), Err(Refusal::QueueFull(Name::from(name.as_str()))));
            assert_eq!(ready(broker, client), [0, 0, 0]);
            assert_eq!(broker.counts(client, &name), Ok((1, 0)));
            // No room is kept for what did not come, and the message is still the session's.
            publish(broker, client, "", &name, "fits");
            assert_eq!(commit(broker, client), Ok(0));
            assert_eq!(broker.counts(client, &name), Ok((2, 0)));
            broker.settle(client, &held, Settlement::Requeue);
            assert_eq!(broker.get(client, "q1", true).expect("it is back").0.body, "held");
            while broker.get(client, &name, true).is_some() {}
            assert_nothing_is_left(broker);
        }
    });
}

#[test]
fn an_exchange_that_is_not_there_refuses_it_all() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        broker.publish(client, "", "q1", "held");
        let (held, _) = broker.get(client, "q1", false).expect("a message");
        publish(broker, client, "amq.fanout", "", "never");
        publish(broker, client, "nowhere", "", "never");
        publish(broker, client, "amq.fanout", "", "never");
        settle(broker, client, &held, Settlement::Accept);
        assert_eq!(commit(broker, client), Err(Refusal::NoExchange(Name::from("nowhere"))));
        assert_eq!(ready(broker, client), [0, 0, 0]);
        broker.settle(client, &held, Settlement::Requeue);
        assert_eq!(broker.get(client, "q1", true).expect("it is back").0.body, "held");
        assert_nothing_is_left(broker);
    });
}

#[test]
fn a_queue_that_has_gone_takes_its_part_along() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        broker.publish(client, "", "q1", "held");
        let (held, _) = broker.get(client, "q1", false).expect("a message");
        publish(broker, client, "amq.fanout", "", "m");
        settle(broker, client, &held, Settlement::Accept);
        // After the session has asked for the commit, before the homes hear of it.
        assert!(broker.shards[0].request(client.session, Request::Commit).is_none() || shards == 1);
        let other = broker.client(usize::from(shards) - 1);
        let name = Name::from("q1");
        let delete = Request::DeleteQueue { vhost: VHOST, name, if_unused: false, if_empty: false };
        broker.ask(other, delete).unwrap();
        broker.run();
        if shards > 1 {
            let told = broker.told[client.owner as usize].pop_front();
            assert!(matches!(told, Some(Told::Reply(Ok(Reply::Committed { .. })))), "{told:?}");
        }
        for queue in ["q0", "q2"] {
            assert_eq!(broker.get(other, queue, true).expect("a message").0.body, "m");
        }
        assert_nothing_is_left(broker);
    });
}

#[test]
fn mandatory_messages_that_nobody_takes_come_back() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        for mandatory in [true, false] {
            let message = broker.message(client, "", "nobody", "m");
            broker.shards[0].publish_in_transaction(client.session, VHOST, message, mandatory).unwrap();
        }
        publish(broker, client, "", "q1", "m");
        assert_eq!(commit(broker, client), Ok(1));
        assert_eq!(ready(broker, client), [0, 1, 0]);
        broker.get(client, "q1", true);
        assert_nothing_is_left(broker);
    });
}

#[test]
fn a_delayed_message_waits_from_the_commit_on() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        let arguments = Table(vec![(Name::from("x-delayed-type"), crate::test_support::text("fanout"))]);
        broker.exchange(client, "late", "x-delayed-message", arguments);
        broker.bind(client, "late", "q1", "");
        let properties = crate::test_support::properties(None, &[("x-delay", Value::I64(100))]);
        for commits in [false, true] {
            let message = broker.message_with(client, "late", "", "m", &properties, |_| {});
            broker.shards[0].publish_in_transaction(client.session, VHOST, message, false).unwrap();
            broker.pass(200);
            if commits {
                commit(broker, client).unwrap();
                broker.pass(99);
                assert_eq!(ready(broker, client), [0, 0, 0]);
            } else {
                broker.shards[0].rollback(client.session);
            }
            broker.pass(1);
            assert_eq!(ready(broker, client), [0, u32::from(commits), 0]);
        }
    });
}

#[test]
fn exchanges_number_what_is_committed() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        let arguments = Table(vec![(Name::from("qpid.msg_sequence"), Value::I64(1))]);
        broker.exchange(client, "numbering", "fanout", arguments);
        broker.bind(client, "numbering", "q1", "");
        for commits in [true, false, true] {
            publish(broker, client, "numbering", "", "m");
            assert_eq!(broker.get(client, "q1", true).map(|(got, _)| got.body), None);
            if commits {
                commit(broker, client).unwrap();
                broker.run();
            } else {
                broker.shards[0].rollback(client.session);
            }
            let number = broker
                .get(client, "q1", true)
                .map(|(got, _)| got.headers.get(b"qpid.msg_sequence").and_then(Value::as_i64));
            assert_eq!(number.is_some(), commits);
        }
        publish(broker, client, "numbering", "", "m");
        commit(broker, client).unwrap();
        broker.run();
        let (third, _) = broker.get(client, "q1", true).expect("a message");
        assert_eq!(third.headers.get(b"qpid.msg_sequence").and_then(Value::as_i64), Some(3));
        assert_nothing_is_left(broker);
    });
}

#[test]
fn a_queue_without_local_messages_gets_none_by_a_commit() {
    each(|broker, shards| {
        let [client, other] = [broker.client(0), broker.client(0)];
        let options = QueueOptions { no_local: true, exclusive: true, ..at_home(shards - 1) };
        broker.declare(client, "own", options);
        for publisher in [client, other] {
            let message = broker.message(publisher, "", "own", "m");
            broker.shards[0].publish_in_transaction(publisher.session, VHOST, message, true).unwrap();
            assert_eq!(commit(broker, publisher), Ok(0));
            assert_eq!(broker.get(client, "own", true).is_some(), publisher == other);
        }
        assert_nothing_is_left(broker);
    });
}

#[test]
fn a_session_that_goes_leaves_nothing_half_done() {
    // With one shard a commit is done when it is asked for.
    for turns in 0..12 {
        let mut broker = Broker::new(3);
        let [client, other] = [0, 2].map(|shard| broker.client(shard));
        three_queues(&mut broker, client, 3);
        broker.publish(client, "", "q1", "swapped");
        let (held, _) = broker.get(client, "q1", false).expect("a message");
        publish(&mut broker, client, "", "q0", "swapped");
        publish(&mut broker, client, "", "q2", "swapped");
        settle(&mut broker, client, &held, Settlement::Accept);
        assert!(broker.shards[0].request(client.session, Request::Commit).is_none());
        for turn in 0..turns {
            broker.turn(turn % 3);
        }
        // The client gives back what it holds, as far as it knows.
        broker.settle(client, &held, Settlement::Requeue);
        broker.shards[0].close_connection(client.connection);
        broker.run();
        let left = ready(&mut broker, other);
        assert!(left == [1, 0, 1] || left == [0, 1, 0], "{left:?} after {turns} turns");
        for queue in ["q0", "q1", "q2"] {
            while broker.get(other, queue, true).is_some() {}
        }
        assert_nothing_is_left(&broker);
    }
}

#[test]
fn a_session_that_goes_before_the_commit_has_done_nothing() {
    each(|broker, shards| {
        let [client, other] = [broker.client(0), broker.client(0)];
        three_queues(broker, client, shards);
        broker.publish(client, "", "q1", "held");
        let (held, _) = broker.get(client, "q1", false).expect("a message");
        publish(broker, client, "amq.fanout", "", "never");
        settle(broker, client, &held, Settlement::Accept);
        broker.settle(client, &held, Settlement::Requeue);
        broker.shards[0].close_connection(client.connection);
        broker.run();
        assert_eq!(ready(broker, other), [0, 1, 0]);
        broker.get(other, "q1", true);
        assert_nothing_is_left(broker);
    });
}

#[test]
fn room_that_is_promised_is_nobody_else_s() {
    let mut broker = Broker::new(3);
    let [client, other] = [0, 2].map(|shard| broker.client(shard));
    for home in [1, 2] {
        broker.declare(client, &format!("small{home}"), small(home, 1));
        publish(&mut broker, client, "", &format!("small{home}"), "first");
    }
    assert!(broker.shards[0].request(client.session, Request::Commit).is_none());
    broker.shards[0].publish_lanes();
    // The homes have agreed, and have not been told to go on.
    broker.turn(1);
    broker.turn(2);
    assert_eq!(broker.publish(other, "", "small2", "too late"), Published::Rejected);
    broker.run();
    assert!(matches!(
        broker.told[client.owner as usize].pop_front(),
        Some(Told::Reply(Ok(Reply::Committed { .. })))
    ));
    for home in [1, 2] {
        assert_eq!(broker.get(other, &format!("small{home}"), true).expect("it came").0.body, "first");
    }
}

#[test]
fn prefetch_counts_what_is_not_committed() {
    each(|broker, shards| {
        let client = broker.client(0);
        three_queues(broker, client, shards);
        broker.shards[0].set_session_prefetch(client.session, 1);
        broker.subscribe(client, "q1", 1, ConsumerOptions::default());
        for body in ["a", "b"] {
            broker.publish(client, "", "q1", body);
        }
        let first = broker.take(client);
        assert_eq!(first.len(), 1);
        settle(broker, client, &first[0], Settlement::Accept);
        assert_eq!(broker.take(client).len(), 0);
        commit(broker, client).unwrap();
        assert_eq!(broker.bodies(client), ["b"]);
    });
}

#[test]
fn what_waits_for_commits_is_bounded() {
    let mut broker = Broker::with_limits(1, Limits { transaction_bytes: 200, ..Limits::default() });
    let client = broker.client(0);
    let body = "x".repeat(60);
    for _ in 0..2 {
        publish(&mut broker, client, "", "q", &body);
        let message = broker.message(client, "", "q", &body);
        let refused = broker.shards[0].publish_in_transaction(client.session, VHOST, message, false);
        assert!(matches!(refused, Err(Refusal::LimitExceeded(_))));
        broker.shards[0].rollback(client.session);
    }
    publish(&mut broker, client, "", "q", &body);
    commit(&mut broker, client).unwrap();
    publish(&mut broker, client, "", "q", &body);
    broker.shards[0].close_connection(client.connection);
    let other = broker.client(0);
    publish(&mut broker, other, "", "q", &body);
}

/// No shard keeps anything of a transaction that has ended, nor a message.
pub(super) fn assert_nothing_is_left(broker: &Broker) {
    for shard in &broker.shards {
        assert!(shard.parts.is_empty() && shard.rounds.is_empty() && shard.waiting_bytes == 0);
        assert_eq!(shard.stats().messages, 0);
    }
}
