//! Subscriptions, credit, settling.

use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::{SequenceSet, Struct};

use super::bench::{Client, World, decode, each, set};

fn fill(world: &mut World, client: Client, queue: &str, count: usize) {
    world.declare(client, 1, queue);
    for n in 1..=count {
        world.publish(client, 1, "", queue, &format!("m{n}"));
    }
    world.sync(client, 1);
}

fn names(range: std::ops::RangeInclusive<usize>) -> Vec<String> {
    range.map(|n| format!("m{n}")).collect()
}

#[test]
fn credit_in_messages_is_exact() {
    each(|world| {
        let client = world.client();
        fill(world, client, "q", 10);
        world.subscribe_with(client, 1, "q", "d", Default::default());
        world.flow_mode(client, 1, "d", FlowMode::Credit);
        world.credit(client, 1, "d", 0, u32::MAX);
        assert!(world.bodies(client, 1).is_empty());
        world.credit(client, 1, "d", 5, 0);
        assert_eq!(world.bodies(client, 1), names(1..=5));
        world.credit(client, 1, "d", 1, 0);
        assert_eq!(world.bodies(client, 1), names(6..=6));
    });
}

#[test]
fn credit_in_bytes_is_exact() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        for _ in 0..5 {
            world.publish(client, 1, "", "q", "abcdefgh");
        }
        world.sync(client, 1);
        // Header and body, as they are sent.
        let bytes = 19 + 8;
        world.subscribe_with(client, 1, "q", "d", Default::default());
        world.flow_mode(client, 1, "d", FlowMode::Credit);
        world.credit(client, 1, "d", u32::MAX, bytes - 1);
        assert!(world.bodies(client, 1).is_empty());
        world.credit(client, 1, "d", 0, 1);
        let message = world.message(client, 1);
        assert_eq!((message.header.len() + message.body.len()) as u32, bytes);
        world.credit(client, 1, "d", 0, 2 * bytes + 1);
        assert_eq!(world.bodies(client, 1).len(), 2);
        world.credit(client, 1, "d", 0, bytes - 1);
        assert_eq!(world.bodies(client, 1).len(), 1);
    });
}

#[test]
fn a_window_moves_with_completion() {
    each(|world| {
        let client = world.client();
        fill(world, client, "q", 10);
        world.subscribe_with(client, 1, "q", "d", Default::default());
        world.credit(client, 1, "d", 3, u32::MAX);
        let first = world.message(client, 1);
        assert_eq!(first.text(), "m1");
        assert_eq!(world.bodies(client, 1), names(2..=3));
        world.complete(client, 1, first.id, first.id.plus(1));
        assert_eq!(world.bodies(client, 1), names(4..=5));
        // What was complete before is so still.
        world.complete(client, 1, first.id, first.id.plus(1));
        assert!(world.bodies(client, 1).is_empty());
        world.complete(client, 1, first.id, first.id.plus(4));
        assert_eq!(world.bodies(client, 1), names(6..=8));
    });
}

#[test]
fn a_window_that_was_stopped_gets_no_credit_back() {
    each(|world| {
        let client = world.client();
        fill(world, client, "q", 11);
        world.subscribe_with(client, 1, "q", "d", Default::default());
        world.credit(client, 1, "d", 5, u32::MAX);
        let first = world.message(client, 1);
        assert_eq!(world.bodies(client, 1), names(2..=5));
        world.call(client, 1, MessageStop { destination: Some(b"d") });
        world.complete(client, 1, first.id, first.id.plus(1));
        assert!(world.bodies(client, 1).is_empty());
        world.credit(client, 1, "d", 5, u32::MAX);
        assert_eq!(world.bodies(client, 1), names(6..=10));
        world.complete(client, 1, first.id, first.id.plus(4));
        assert!(world.bodies(client, 1).is_empty());
    });
}

#[test]
fn a_flush_gives_what_is_there_and_takes_the_credit() {
    each(|world| {
        let client = world.client();
        fill(world, client, "q", 2);
        world.subscribe_with(client, 1, "q", "d", Default::default());
        world.credit(client, 1, "d", 5, u32::MAX);
        world.call(client, 1, MessageFlush { destination: Some(b"d") });
        assert_eq!(world.bodies(client, 1), names(1..=2));
        world.publish(client, 1, "", "q", "m3");
        world.sync(client, 1);
        assert!(world.bodies(client, 1).is_empty());
        world.credit(client, 1, "d", 1, u32::MAX);
        assert_eq!(world.bodies(client, 1), names(3..=3));
    });
}

#[test]
fn accepted_messages_are_gone_and_others_come_back() {
    each(|world| {
        let client = world.client();
        fill(world, client, "q", 10);
        let keeper = world.client();
        world.subscribe(client, 1, "q", "d");
        let first = world.message(client, 1).id;
        assert_eq!(world.bodies(client, 1), names(2..=10));
        world.accept(client, 1, first, first.plus(2));
        world.accept(client, 1, first.plus(4), first.plus(9));
        assert_eq!(world.counts(keeper, 1, "q").0, 0);
        world.drop_client(client);
        world.subscribe(keeper, 1, "q", "d");
        let message = world.message(keeper, 1);
        assert_eq!((message.text().as_str(), message.delivery().redelivered), ("m4", true));
        assert!(world.bodies(keeper, 1).is_empty());
    });
}

#[test]
fn released_messages_keep_their_order() {
    for set_redelivered in [false, true] {
        each(|world| {
            let client = world.client();
            fill(world, client, "q", 5);
            world.subscribe_with(client, 1, "q", "d", Default::default());
            world.credit(client, 1, "d", 5, u32::MAX);
            let first = world.message(client, 1).id;
            assert_eq!(world.bodies(client, 1), names(2..=5));
            let ranges = set(&[(first, first.plus(9))]);
            let transfers = Some(SequenceSet::new(&ranges).unwrap());
            world.call(client, 1, MessageRelease { transfers, set_redelivered });
            assert_eq!(world.counts(client, 1, "q").0, 5);
            world.complete(client, 1, first, first.plus(20));
            let again: Vec<_> = world.book(client, 1).messages.drain(..).collect();
            let bodies: Vec<_> = again.iter().map(|message| message.text()).collect();
            assert_eq!(bodies, names(1..=5));
            assert!(again.iter().all(|message| message.delivery().redelivered == set_redelivered));
        });
    }
}

#[test]
fn a_cancelled_subscription_gets_nothing_more() {
    each(|world| {
        let client = world.client();
        fill(world, client, "q", 1);
        world.subscribe(client, 1, "q", "d");
        world.call(client, 1, MessageCancel { destination: Some(b"d") });
        world.publish(client, 1, "", "q", "m2");
        world.sync(client, 1);
        assert_eq!(world.bodies(client, 1), ["m1"]);
        let (code, _) = world.refused(client, 1, MessageCancel { destination: Some(b"d") });
        assert_eq!(code, ErrorCode::NotFound);
    });
}

#[test]
fn subscriptions_are_refused_with_the_specified_codes() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        let subscribe = MessageSubscribe { queue: Some(b"q"), destination: Some(b"d"), ..Default::default() };
        let none = MessageSubscribe { queue: None, ..subscribe };
        assert_eq!(world.refused(client, 1, none).0, ErrorCode::IllegalArgument);
        let unknown = MessageSubscribe { queue: Some(b"nowhere"), ..subscribe };
        assert_eq!(world.refused(client, 1, unknown).0, ErrorCode::NotFound);
        world.call(client, 1, subscribe);
        assert_eq!(world.refused(client, 1, subscribe).0, ErrorCode::NotAllowed);
        let other = world.client();
        world.call(client, 1, subscribe);
        let exclusive = MessageSubscribe { exclusive: true, ..subscribe };
        assert_eq!(world.refused(other, 1, exclusive).0, ErrorCode::ResourceLocked);
    });
}
#[test]
fn browsed_messages_can_be_acquired() {
    each(|world| {
        let client = world.client();
        fill(world, client, "q", 4);
        let acquire_mode = Some(AcquireMode::NotAcquired);
        for accept_mode in [AcceptMode::Explicit, AcceptMode::None] {
            let destination = accept_mode.name();
            let subscribe =
                MessageSubscribe { acquire_mode, accept_mode: Some(accept_mode), ..Default::default() };
            world.subscribe_with(client, 1, "q", destination, subscribe);
            world.credit(client, 1, destination, u32::MAX, u32::MAX);
            let ready = world.counts(client, 1, "q").0;
            let first = world.message(client, 1);
            world.book(client, 1).messages.clear();
            let ranges = set(&[(first.id, first.id.next())]);
            let transfers = Some(SequenceSet::new(&ranges).unwrap());
            let result = world.query(client, 1, MessageAcquire { transfers });
            let Struct::Acquired(acquired) = decode(&result) else { panic!("another result") };
            assert_eq!(acquired.transfers, transfers, "{:?}", world.setup);
            assert_eq!(world.counts(client, 1, "q").0, ready - 2);
            // Once only.
            let result = world.query(client, 1, MessageAcquire { transfers });
            let Struct::Acquired(acquired) = decode(&result) else { panic!("another result") };
            assert!(acquired.transfers.unwrap().is_empty());
            world.call(client, 1, MessageCancel { destination: Some(destination.as_bytes()) });
            world.accept(client, 1, first.id, first.id.next());
        }
        assert_eq!(world.counts(client, 1, "q").0, 0);
    });
}
