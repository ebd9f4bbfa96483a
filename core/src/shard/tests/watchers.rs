//! Those who watch queues: producer flow control, alerts, what is counted for replication.

use super::policies::{confirm, confirmed, contents, counters, full, home, told};
use super::*;
use crate::queue::Alert;
use crate::request::{AlertThresholds, FlowThresholds, Overflow, QueueEvents};
use crate::shard::Event;

#[test]
fn confirms_wait_while_a_queue_is_too_deep() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let flow =
            FlowThresholds { stop_messages: Some(3), resume_messages: Some(2), ..FlowThresholds::default() };
        broker.declare(client, "q", QueueOptions { flow, ..at_home(shards - 1) });
        for n in 1..=3 {
            assert_eq!(confirmed(&mut broker, client, "q", "x", n), Some(true));
        }
        for n in 4..=6 {
            assert_eq!(confirmed(&mut broker, client, "q", "x", n), None);
        }
        assert!(counters(&mut broker, shards, "q").flow_stopped);
        assert_eq!(broker.counts(client, "q").unwrap().0, 6, "they are in the queue");
        let held: Vec<_> = (0..4).map(|_| broker.get(client, "q", false).unwrap().0).collect();
        broker.run();
        assert_eq!(told(&mut broker, client, 4), None);
        // The fourth is gone, and the queue still too deep.
        broker.settle(client, &held[3], Settlement::Accept);
        broker.run();
        assert_eq!((told(&mut broker, client, 4), told(&mut broker, client, 5)), (Some(true), None));
        held[..3].iter().for_each(|got| broker.settle(client, got, Settlement::Accept));
        broker.run();
        assert_eq!((told(&mut broker, client, 5), told(&mut broker, client, 6)), (None, None));
        broker.get(client, "q", true).unwrap();
        broker.run();
        assert_eq!((told(&mut broker, client, 5), told(&mut broker, client, 6)), (Some(true), Some(true)));
        assert_eq!(confirmed(&mut broker, client, "q", "x", 7), Some(true));
        let counters = counters(&mut broker, shards, "q");
        assert_eq!((counters.flow_stopped, counters.flow_stopped_count), (false, 1));
        broker.end(&[client]);
    }
}

#[test]
fn a_confirm_waits_for_every_queue_and_for_none_that_is_gone() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let flow = FlowThresholds { stop_messages: Some(1), ..FlowThresholds::default() };
        for (name, home) in [("p", 0), ("q", shards - 1), ("r", shards - 1)] {
            broker.declare(client, name, QueueOptions { flow, ..at_home(home) });
            broker.bind(client, "amq.fanout", name, "");
            broker.publish(client, "", name, "first");
        }
        let full = QueueOptions { max_length: Some(0), ..full(Overflow::RejectPublish, 0, 1) };
        let id = broker.message(client, "amq.fanout", "", "second");
        assert_eq!(confirm(&mut broker, client, id, 1), None);
        for name in ["p", "q"] {
            broker.ask(client, Request::PurgeQueue { vhost: VHOST, name: Name::from(name) }).unwrap();
            broker.run();
            assert_eq!(told(&mut broker, client, 1), None);
        }
        let delete =
            Request::DeleteQueue { vhost: VHOST, name: Name::from("r"), if_unused: false, if_empty: false };
        broker.ask(client, delete).unwrap();
        broker.run();
        assert_eq!(told(&mut broker, client, 1), Some(true));
        // One that refuses makes it a refusal, which waits all the same.
        broker.declare(client, "full", full);
        broker.bind(client, "amq.fanout", "full", "");
        broker.publish(client, "", "p", "first");
        let id = broker.message(client, "amq.fanout", "", "third");
        assert_eq!(confirm(&mut broker, client, id, 2), None);
        broker.ask(client, Request::PurgeQueue { vhost: VHOST, name: Name::from("p") }).unwrap();
        broker.run();
        assert_eq!(told(&mut broker, client, 2), Some(false));
        assert!(broker.shards.iter().all(|shard| shard.withheld.is_empty()));
        broker.end(&[client]);
    }
}

#[test]
fn a_queue_without_limits_stops_at_the_broker_s() {
    for shards in [1, 2] {
        let limits = Limits { default_queue_bytes: 1000, ..Limits::default() };
        let mut broker = Broker::with_limits(shards, limits);
        let client = broker.client(0);
        let body = "x".repeat(100);
        for (queue, overflow, stops) in [("q", Overflow::Reject, true), ("r", Overflow::DropHead, false)] {
            broker.declare(client, queue, QueueOptions { overflow, ..at_home(shards - 1) });
            for n in 1..=8 {
                assert_eq!(confirmed(&mut broker, client, queue, &body, n), Some(true), "{n}");
            }
            let expected = if stops { None } else { Some(true) };
            assert_eq!(confirmed(&mut broker, client, queue, &body, 9), expected);
            for _ in 0..2 {
                broker.get(client, queue, true).unwrap();
            }
            broker.run();
            assert_eq!(told(&mut broker, client, 9), None);
            // Below where it stopped, and not yet below where it resumes.
            assert_eq!(confirmed(&mut broker, client, queue, &body, 10), expected);
            for _ in 0..2 {
                broker.get(client, queue, true).unwrap();
            }
            broker.run();
            for n in [9, 10] {
                assert_eq!(told(&mut broker, client, n), Some(true).filter(|_| stops));
            }
            assert_eq!(confirmed(&mut broker, client, queue, &body, 11), Some(true));
        }
        broker.end(&[client]);
    }
}

#[test]
fn management_is_told_of_thresholds() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let alerts =
            AlertThresholds { messages_up: Some(3), messages_down: Some(1), ..AlertThresholds::default() };
        broker.declare(client, "q", QueueOptions { alerts, ..at_home(shards - 1) });
        for body in ["ab", "cd", "ef", "gh"] {
            broker.publish(client, "", "q", body);
        }
        broker.run();
        let alert = |alert, messages, bytes| {
            let depth = crate::queue::Depth { messages, bytes };
            Some(Event::Alert { vhost: VHOST, queue: Name::from("q"), alert, depth })
        };
        assert_eq!(home(&mut broker, shards).next_event(), alert(Alert::Raised, 3, 6));
        assert_eq!(home(&mut broker, shards).next_event(), None);
        broker.pass(60_000);
        broker.publish(client, "", "q", "ij");
        broker.run();
        assert_eq!(home(&mut broker, shards).next_event(), alert(Alert::Repeated, 5, 10));
        contents(&mut broker, client, "q");
        broker.run();
        let cleared = home(&mut broker, shards).next_event();
        assert!(matches!(cleared, Some(Event::Alert { alert: Alert::Cleared, .. })), "{cleared:?}");
        assert_eq!(home(&mut broker, shards).next_event(), None);
        broker.end(&[client]);
    }
}

#[test]
fn events_that_nobody_takes_are_forgotten() {
    let mut broker = Broker::with_limits(1, Limits { events: 2, ..Limits::default() });
    let client = broker.client(0);
    let alerts = AlertThresholds { messages_up: Some(1), ..AlertThresholds::default() };
    broker.declare(client, "q", QueueOptions { alerts, ..QueueOptions::default() });
    for _ in 0..3 {
        broker.publish(client, "", "q", "x");
        contents(&mut broker, client, "q");
        broker.run();
    }
    let shard = home(&mut broker, 1);
    assert_eq!(std::iter::from_fn(|| shard.next_event()).count(), 2);
    assert_eq!(shard.stats().events_lost, 4);
    broker.end(&[client]);
}

#[test]
fn what_comes_and_goes_is_counted_for_replication() {
    let mut broker = Broker::new(1);
    let client = broker.client(0);
    for (queue, events, counted) in [
        ("none", QueueEvents::None, (0, 0)),
        ("in", QueueEvents::Enqueue, (3, 0)),
        ("both", QueueEvents::EnqueueAndDequeue, (3, 3)),
    ] {
        broker.declare(client, queue, QueueOptions { events, ..QueueOptions::default() });
        for body in ["a", "b", "c"] {
            broker.publish(client, "", queue, body);
        }
        let (got, _) = broker.get(client, queue, false).unwrap();
        broker.settle(client, &got, Settlement::Requeue);
        contents(&mut broker, client, queue);
        let counters = counters(&mut broker, 1, queue);
        assert_eq!((counters.enqueue_events, counters.dequeue_events), counted);
    }
    broker.end(&[client]);
}
