//! Messages that differ in their bodies alone and come together: whatever is done at once for all of them, each is a
//! message of its own.

use fulmar_amqp_0_9_1::codec::{Method, Properties};
use fulmar_core::Value;

use crate::bench::{Client, World, each, publication, text};

/// More than one batch.
const MESSAGES: u64 = 70;

fn body(number: u64) -> String {
    format!("{number:03}")
}

/// Publishes messages `from` to `to` in one go.
fn publish(world: &mut World, client: Client, key: &str, from: u64, to: u64) {
    let message = |number| publication(1, "", key, false, Properties::default(), body(number).as_bytes());
    let bytes: Vec<u8> = (from..to).flat_map(message).collect();
    world.send_bytes(client, &bytes);
}

/// The numbers of the messages that have come, whether each is marked, and their tags.
fn deliveries(world: &mut World, client: Client) -> Vec<(u64, bool, u64)> {
    let mut all = Vec::new();
    while let Some(received) = world.next(client) {
        let Method::BasicDeliver { delivery_tag, redelivered, routing_key, .. } = received.method() else {
            panic!("{received:?}");
        };
        assert_eq!(received.properties(), Properties::default());
        assert!(!routing_key.is_empty());
        all.push((received.text().parse().unwrap(), redelivered, delivery_tag));
    }
    all
}

fn fresh(numbers: std::ops::Range<u64>, first_tag: u64) -> Vec<(u64, bool, u64)> {
    numbers.zip(first_tag..).map(|(number, tag)| (number, false, tag)).collect()
}

#[test]
fn they_are_delivered_one_by_one() {
    each(|world| {
        let (publisher, consumer) = (world.client(), world.client());
        world.declare(publisher, 1, "q", &[]);
        world.consume(consumer, 1, "q", "c", true);
        publish(world, publisher, "q", 0, MESSAGES);
        assert_eq!(deliveries(world, consumer), fresh(0..MESSAGES, 1));
        // Those that waited for a consumer, too.
        world.send(consumer, 1, Method::BasicCancel { consumer_tag: b"c", no_wait: true });
        publish(world, publisher, "q", 0, MESSAGES);
        assert_eq!(world.counts(publisher, 1, "q"), (MESSAGES as u32, 0));
        world.consume(consumer, 1, "q", "c", true);
        assert_eq!(deliveries(world, consumer), fresh(0..MESSAGES, MESSAGES + 1));
    });
}

#[test]
fn they_are_settled_one_by_one() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        publish(world, client, "q", 0, MESSAGES);
        world.consume(client, 1, "q", "c", false);
        assert_eq!(deliveries(world, client), fresh(0..MESSAGES, 1));
        world.ack(client, 1, 5, true);
        world.send(client, 1, Method::BasicReject { delivery_tag: 8, requeue: false });
        world.send(client, 1, Method::BasicReject { delivery_tag: 40, requeue: true });
        assert_eq!(deliveries(world, client), [(39, true, MESSAGES + 1)]);
        world.send(client, 1, Method::BasicRecover { requeue: true });
        world.expect(client, 1, Method::BasicRecoverOk);
        let again: Vec<_> = (5..MESSAGES).filter(|&number| number != 7).collect();
        let received = deliveries(world, client);
        assert_eq!(received.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), again);
        assert!(received.iter().all(|(_, redelivered, _)| *redelivered));
        world.ack(client, 1, 0, true);
        assert_eq!(world.counts(client, 1, "q"), (0, 1));
    });
}

#[test]
fn they_are_fetched_counted_and_shared_out_one_by_one() {
    each(|world| {
        let (client, one, other) = (world.client(), world.client(), world.client());
        world.declare(client, 1, "q", &[]);
        publish(world, client, "q", 0, 10);
        for number in 0..3 {
            let got = world.get(client, 1, "q", number == 1);
            let Method::BasicGetOk { message_count, .. } = got.method() else { panic!("{got:?}") };
            assert_eq!((got.text(), u64::from(message_count)), (body(number), 9 - number));
        }
        for consumer in [one, other] {
            world.send(consumer, 1, Method::BasicQos { prefetch_size: 0, prefetch_count: 2, global: false });
            world.expect(consumer, 1, Method::BasicQosOk);
            world.consume(consumer, 1, "q", "c", false);
        }
        assert_eq!(deliveries(world, one), [(3, false, 1), (4, false, 2)]);
        assert_eq!(deliveries(world, other), [(5, false, 1), (6, false, 2)]);
        assert_eq!(world.counts(client, 1, "q"), (3, 2));
        // What the client fetched comes back before the rest.
        world.drop_client(client);
        world.ack(other, 1, 2, true);
        assert_eq!(deliveries(world, other), [(0, true, 3), (2, true, 4)]);
    });
}

#[test]
fn they_are_confirmed_one_by_one() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        world.send(client, 1, Method::ConfirmSelect { no_wait: false });
        world.expect(client, 1, Method::ConfirmSelectOk);
        publish(world, client, "q", 0, MESSAGES);
        let mut confirmed = 0;
        while let Some(received) = world.next(client) {
            let Method::BasicAck { delivery_tag, multiple } = received.method() else {
                panic!("{received:?}")
            };
            assert!(delivery_tag == confirmed + 1 || (multiple && delivery_tag > confirmed));
            confirmed = delivery_tag;
        }
        assert_eq!(confirmed, MESSAGES);
    });
}

#[test]
fn they_overflow_expire_and_die_one_by_one() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "dead", &[]);
        let to_dead = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("dead"))];
        let with = |name: &'static str, value| [to_dead[0].clone(), to_dead[1].clone(), (name, value)];
        world.declare(client, 1, "short", &with("x-max-length", Value::I32(4)));
        world.declare(client, 1, "brief", &with("x-message-ttl", Value::I32(10)));
        publish(world, client, "short", 0, 10);
        assert_eq!(world.counts(client, 1, "short"), (4, 0));
        assert_eq!(world.counts(client, 1, "dead"), (6, 0));
        publish(world, client, "brief", 10, 20);
        assert_eq!(world.counts(client, 1, "brief"), (10, 0));
        world.advance_ms(11);
        assert_eq!(world.counts(client, 1, "dead"), (16, 0));
        for number in (0..6).chain(10..20) {
            assert_eq!(world.get(client, 1, "dead", true).text(), body(number));
        }
    });
}
