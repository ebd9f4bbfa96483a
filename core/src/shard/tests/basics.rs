//! Publishing, consuming, settling, fetching; on one shard and across two.

use super::*;

/// Runs a test with the queue at home with its client, and elsewhere; the control shard being either.
fn everywhere(test: impl Fn(Broker, usize, u8)) {
    test(Broker::new(1), 0, 0);
    test(Broker::new(2), 0, 0);
    test(Broker::new(2), 0, 1);
    test(Broker::new(2), 1, 0);
    test(Broker::new(3), 1, 2);
    test(Broker::with_limits(2, Limits::tiny()), 1, 0);
    test(Broker::with_limits(3, Limits::tiny()), 2, 1);
}

#[test]
fn published_messages_are_delivered_in_order_and_settled() {
    everywhere(|mut broker, at, home| {
        let client = broker.client(at);
        assert_eq!(broker.declare(client, "q", at_home(home)), (0, 0));
        for n in 0..10 {
            broker.publish(client, "", "q", &n.to_string());
        }
        assert_eq!(broker.counts(client, "q").unwrap(), (10, 0));
        broker.subscribe(client, "q", 7, ConsumerOptions::default());
        let received = broker.take(client);
        let bodies: Vec<_> = received.iter().map(|r| r.body.parse::<u32>().unwrap()).collect();
        assert_eq!(bodies, (0..10).collect::<Vec<_>>());
        assert!(received.iter().all(|r| r.consumer == 7 && !r.redelivered && r.key == "q"));
        for message in &received {
            broker.settle(client, message, Settlement::Accept);
        }
        assert_eq!(broker.counts(client, "q").unwrap(), (0, 1));
        broker.run();
        assert_eq!(broker.shards[usize::from(home)].stats().unsettled, 0);
        broker.end(&[client]);
    });
}

#[test]
fn a_requeued_message_comes_back_to_its_place() {
    everywhere(|mut broker, at, home| {
        let client = broker.client(at);
        broker.declare(client, "q", at_home(home));
        for body in ["a", "b", "c"] {
            broker.publish(client, "", "q", body);
        }
        let (a, remaining) = broker.get(client, "q", false).unwrap();
        assert_eq!((a.body.as_str(), a.redelivered, remaining), ("a", false, 2));
        let (b, _) = broker.get(client, "q", false).unwrap();
        broker.settle(client, &b, Settlement::Requeue);
        broker.settle(client, &a, Settlement::Requeue);
        for (body, redelivered) in [("a", true), ("b", true), ("c", false)] {
            let (got, _) = broker.get(client, "q", true).unwrap();
            assert_eq!((got.body.as_str(), got.redelivered), (body, redelivered));
        }
        assert!(broker.get(client, "q", true).is_none());
        broker.end(&[client]);
    });
}

#[test]
fn what_a_closed_session_did_not_see_is_delivered_to_others_marked() {
    everywhere(|mut broker, at, home| {
        let (one, two) = (broker.client(at), broker.client(0));
        broker.declare(one, "q", at_home(home));
        broker.subscribe(one, "q", 1, ConsumerOptions::default());
        broker.publish(one, "", "q", "a");
        for shard in &mut broker.shards {
            shard.turn();
            shard.publish_lanes();
        }
        broker.shards[one.shard].close_session(one.session);
        broker.subscribe(two, "q", 1, ConsumerOptions::default());
        let received = broker.take(two);
        assert_eq!(received.len(), 1);
        assert!(received[0].redelivered);
        broker.settle(two, &received[0], Settlement::Accept);
        broker.end(&[one, two]);
    });
}
