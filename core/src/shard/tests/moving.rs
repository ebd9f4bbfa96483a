//! Messages taken out of queues: dropped, moved, routed again; queues that stand in for each other.

use super::*;
use crate::request::{HeaderFilter, MoveTo};
use crate::test_support::{properties, text};

fn move_to(to: MoveTo) -> Request {
    Request::MoveMessages { vhost: VHOST, queue: Name::from("q"), to, most: None, filter: None }
}

fn moved(broker: &mut Broker, client: Client, request: Request) -> u32 {
    let reply = broker.ask(client, request);
    broker.run();
    match reply {
        Ok(Reply::Messages(messages)) => messages,
        other => panic!("a move was answered with {other:?}"),
    }
}

fn contents(broker: &mut Broker, client: Client, queue: &str) -> Vec<String> {
    std::iter::from_fn(|| broker.get(client, queue, true).map(|(got, _)| got.body)).collect()
}

fn publish_all(broker: &mut Broker, client: Client, queue: &str, bodies: &[&str]) {
    for body in bodies {
        let properties = properties(None, &[("first", text(&body[..1]))]);
        let id = broker.message_with(client, "", queue, body, &properties, |_| {});
        broker.send(client, id);
    }
    broker.run();
}

#[test]
fn messages_are_purged_by_number_and_by_header() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(shards - 1));
        publish_all(&mut broker, client, "q", &["a1", "b1", "a2", "a3", "b2", "a4"]);
        let (held, _) = broker.get(client, "q", false).unwrap();
        let some = |most, first: &str| Request::MoveMessages {
            vhost: VHOST,
            queue: Name::from("q"),
            to: MoveTo::Nowhere,
            most,
            filter: Some(HeaderFilter { header: "first".into(), value: first.into() }),
        };
        assert_eq!(moved(&mut broker, client, some(Some(2), "a")), 2);
        assert_eq!(moved(&mut broker, client, some(None, "c")), 0);
        assert_eq!(broker.counts(client, "q").unwrap().0, 3);
        broker.settle(client, &held, Settlement::Requeue);
        broker.run();
        assert_eq!(contents(&mut broker, client, "q"), ["a1", "b1", "b2", "a4"]);
        publish_all(&mut broker, client, "q", &["a", "b"]);
        assert_eq!(moved(&mut broker, client, move_to(MoveTo::Nowhere)), 2);
        assert_eq!(broker.shards.iter().map(|shard| shard.stats().messages).sum::<u64>(), 0);
        broker.end(&[client]);
    }
}

#[test]
fn messages_move_to_another_queue_in_order_and_with_what_is_left_of_their_time() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(shards - 1));
        broker.declare(client, "other", at_home(0));
        publish_all(&mut broker, client, "q", &["a", "b"]);
        let id = broker.message_with(client, "", "q", "mortal", &[], |header| header.ttl_ms = Some(100));
        broker.send(client, id);
        broker.run();
        let (a, _) = broker.get(client, "q", false).unwrap();
        broker.settle(client, &a, Settlement::Requeue);
        broker.pass(60);
        assert_eq!(moved(&mut broker, client, move_to(MoveTo::Queue("other".into()))), 3);
        assert_eq!(broker.counts(client, "q").unwrap().0, 0);
        broker.pass(39);
        assert_eq!(broker.counts(client, "other").unwrap().0, 3);
        let (a, _) = broker.get(client, "other", true).unwrap();
        assert_eq!((a.body.as_str(), a.redelivered), ("a", false));
        broker.pass(1);
        assert_eq!(contents(&mut broker, client, "other"), ["b"]);
        let missing = broker.ask(client, move_to(MoveTo::Queue("none".into())));
        assert!(matches!(missing, Err(Refusal::NoQueue(_))));
        broker.end(&[client]);
    }
}

#[test]
fn messages_are_routed_again_even_to_where_they_are() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let options = QueueOptions { alternate: Some("amq.fanout".into()), ..at_home(shards - 1) };
        broker.declare(client, "q", options);
        broker.declare(client, "other", at_home(0));
        broker.bind(client, "amq.fanout", "other", "");
        broker.bind(client, "amq.direct", "q", "q");
        publish_all(&mut broker, client, "q", &["a", "b", "c"]);
        assert_eq!(moved(&mut broker, client, move_to(MoveTo::Exchange("amq.direct".into()))), 3);
        assert_eq!(broker.counts(client, "q").unwrap().0, 3);
        assert_eq!(moved(&mut broker, client, move_to(MoveTo::Alternate)), 3);
        assert_eq!(contents(&mut broker, client, "other"), ["a", "b", "c"]);
        let missing = broker.ask(client, move_to(MoveTo::Exchange("none".into())));
        assert!(matches!(missing, Err(Refusal::NoExchange(_))));
        let mut request = move_to(MoveTo::Alternate);
        if let Request::MoveMessages { queue, .. } = &mut request {
            *queue = "other".into();
        }
        assert!(matches!(broker.ask(client, request), Err(Refusal::Forbidden(_))));
        broker.end(&[client]);
    }
}

#[test]
fn a_long_queue_takes_several_turns() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", at_home(shards - 1));
        for _ in 0..3_000 {
            broker.publish(client, "", "q", "x");
        }
        broker.run();
        let shard = &mut broker.shards[usize::from(shards) - 1];
        let queue = shard.topology.queue(VHOST, b"q").unwrap().id;
        assert_eq!(moved(&mut broker, client, move_to(MoveTo::Queue("q".into()))), 3_000);
        let shard = &mut broker.shards[usize::from(shards) - 1];
        assert_eq!(shard.queues.get_mut(queue).unwrap().ready_messages(), 3_000, "each once");
        broker.end(&[client]);
    }
}

#[test]
fn redirected_queues_stand_in_for_each_other() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "a", at_home(0));
        broker.declare(client, "b", at_home(shards - 1));
        broker.declare(client, "c", at_home(0));
        broker.declare(client, "auto", QueueOptions { auto_delete: true, ..QueueOptions::default() });
        let redirect = |source: &str, target: &str| Request::RedirectQueue {
            vhost: VHOST,
            source: Name::from(source),
            target: Some(target).filter(|name| !name.is_empty()).map(Name::from),
        };
        publish_all(&mut broker, client, "a", &["a1"]);
        broker.ask(client, redirect("a", "b")).unwrap();
        publish_all(&mut broker, client, "a", &["a2", "a3"]);
        publish_all(&mut broker, client, "b", &["b1"]);
        assert_eq!(broker.counts(client, "a").unwrap().0, 2);
        assert_eq!(broker.counts(client, "b").unwrap().0, 2);
        for (source, target) in
            [("a", "c"), ("c", "b"), ("c", "c"), ("c", "auto"), ("auto", "c"), ("c", ""), ("b", "")]
        {
            let refused = broker.ask(client, redirect(source, target));
            assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{source} to {target}: {refused:?}");
        }
        assert!(matches!(broker.ask(client, redirect("a", "none")), Err(Refusal::NoQueue(_))));
        broker.ask(client, redirect("a", "")).unwrap();
        broker.run();
        assert_eq!(contents(&mut broker, client, "a"), ["a1", "b1", "a2", "a3"]);
        publish_all(&mut broker, client, "b", &["b2"]);
        assert_eq!(contents(&mut broker, client, "b"), ["b2"]);
        // The end of either ends it.
        broker.ask(client, redirect("a", "b")).unwrap();
        let delete =
            Request::DeleteQueue { vhost: VHOST, name: Name::from("b"), if_unused: false, if_empty: false };
        broker.ask(client, delete).unwrap();
        publish_all(&mut broker, client, "a", &["a4"]);
        assert_eq!(contents(&mut broker, client, "a"), ["a4"]);
        broker.ask(client, redirect("a", "c")).unwrap();
        broker.end(&[client]);
    }
}
