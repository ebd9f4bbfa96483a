//! When queues go: with their owner, with their last user, or later.

use super::*;
use crate::request::{Lifetime, Rules};

/// A client by AMQP 0-10's rules.
fn client_010(broker: &mut Broker, shard: usize) -> Client {
    let client = broker.client(shard);
    broker.shards[shard].set_rules(client.session, Rules::Amqp010);
    client
}

fn close(broker: &mut Broker, client: Client) {
    broker.shards[client.shard].close_connection(client.connection);
    broker.run();
}

fn is_there(broker: &mut Broker, client: Client, queue: &str) -> bool {
    let request = Request::QueryQueue { vhost: VHOST, name: Name::from(queue) };
    matches!(broker.ask(client, request), Ok(Reply::Queue(Some(_))))
}

fn auto_delete(delay_ms: u64, shards: u8) -> QueueOptions {
    QueueOptions { auto_delete: true, auto_delete_delay_ms: delay_ms, ..at_home(shards - 1) }
}

#[test]
fn an_auto_delete_queue_outlives_its_last_user_by_its_delay() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        broker.declare(client, "q", auto_delete(100, shards));
        broker.pass(1_000);
        assert!(is_there(&mut broker, client, "q"), "nobody has used it yet");
        let subscribe = |broker: &mut Broker| broker.subscribe(client, "q", 1, ConsumerOptions::default());
        let cancel =
            |broker: &mut Broker| broker.ask(client, Request::Cancel { consumer: 1 }).map(drop).unwrap();
        subscribe(&mut broker);
        cancel(&mut broker);
        broker.pass(60);
        // Used meanwhile, and declared: each time the delay begins anew.
        subscribe(&mut broker);
        broker.pass(60);
        cancel(&mut broker);
        broker.pass(60);
        broker.declare(client, "q", auto_delete(100, shards));
        broker.pass(99);
        assert!(is_there(&mut broker, client, "q"));
        broker.pass(1);
        assert!(!is_there(&mut broker, client, "q"));
        broker.end(&[client]);
    }
}

#[test]
fn an_auto_delete_queue_may_wait_until_it_is_empty() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let client = broker.client(0);
        let options = QueueOptions { lifetime: Lifetime::UnusedAndEmpty, ..auto_delete(0, shards) };
        broker.declare(client, "q", options);
        broker.subscribe(client, "q", 1, ConsumerOptions { prefetch: 1, ..ConsumerOptions::default() });
        for body in ["a", "b"] {
            broker.publish(client, "", "q", body);
        }
        let received = broker.take(client);
        broker.ask(client, Request::Cancel { consumer: 1 }).unwrap();
        broker.get(client, "q", true).unwrap();
        broker.run();
        assert!(is_there(&mut broker, client, "q"), "one is in a client's hands");
        broker.settle(client, &received[0], Settlement::Accept);
        broker.run();
        assert!(!is_there(&mut broker, client, "q"));
        broker.end(&[client]);
    }
}

#[test]
fn an_exclusive_queue_goes_with_its_owner_or_becomes_anybody_s() {
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let last = usize::from(shards) - 1;
        let (other, other_010) = (broker.client(last), client_010(&mut broker, last));
        let exclusive = QueueOptions { exclusive: true, ..at_home(shards - 1) };

        let owner = broker.client(0);
        broker.declare(owner, "rabbit", exclusive.clone());
        close(&mut broker, owner);
        assert!(!is_there(&mut broker, other, "rabbit"));

        let owner = client_010(&mut broker, 0);
        broker.declare(owner, "kept", exclusive.clone());
        broker.declare(owner, "gone", QueueOptions { auto_delete: true, ..exclusive.clone() });
        let delayed = QueueOptions { auto_delete: true, auto_delete_delay_ms: 100, ..exclusive.clone() };
        broker.declare(owner, "delayed", delayed);
        // Not while its owner is there, whoever stops consuming.
        broker.subscribe(owner, "gone", 1, ConsumerOptions::default());
        broker.ask(owner, Request::Cancel { consumer: 1 }).unwrap();
        assert!(is_there(&mut broker, other, "gone"));
        assert!(matches!(broker.counts(other, "kept"), Err(Refusal::ExclusiveToOther(_))));
        close(&mut broker, owner);
        assert!(!is_there(&mut broker, other, "gone"));
        assert_eq!(broker.counts(other, "kept"), Ok((0, 0)));
        assert!(is_there(&mut broker, other, "delayed"));

        // It can be had again, unless somebody consumes from it.
        assert_eq!(broker.try_declare(other_010, "kept", exclusive.clone()), Ok((0, 0)));
        assert!(matches!(broker.counts(other, "kept"), Err(Refusal::ExclusiveToOther(_))));
        close(&mut broker, other_010);
        broker.subscribe(other, "kept", 1, ConsumerOptions::default());
        let late = client_010(&mut broker, 0);
        assert_eq!(
            broker.try_declare(late, "kept", exclusive.clone()),
            Err(Refusal::ExclusiveUse("kept".into()))
        );
        broker.run();
        assert_eq!(broker.counts(other, "kept"), Ok((0, 1)), "it was not given away");

        broker.pass(100);
        assert!(!is_there(&mut broker, other, "delayed"));
        broker.end(&[other, late]);
    }
}
