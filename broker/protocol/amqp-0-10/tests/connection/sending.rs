//! Transfers from clients, completion, acceptance.

use fulmar_amqp_0_10::codec::SequenceNo;
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::Transfer;

use super::bench::each;

#[test]
fn messages_arrive_in_order_and_whole() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        let long = "x".repeat(10_000);
        for body in ["one", "", &long, "four"] {
            world.publish(client, 1, "", "q", body);
        }
        world.sync(client, 1);
        assert_eq!(world.counts(client, 1, "q"), (4, 0));
        world.subscribe(client, 1, "q", "d");
        assert_eq!(world.bodies(client, 1), ["one", "", &long, "four"]);
    });
}

#[test]
fn what_comes_alike_comes_together() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        let first = world.publish(client, 1, "", "q", "000");
        for n in 1..200 {
            world.publish(client, 1, "", "q", &format!("{n:03}"));
        }
        world.sync(client, 1);
        assert!(world.book(client, 1).is_complete(first));
        assert_eq!(world.counts(client, 1, "q").0, 200);
        world.subscribe(client, 1, "q", "d");
        let expected: Vec<String> = (0..200).map(|n| format!("{n:03}")).collect();
        assert_eq!(world.bodies(client, 1), expected);
    });
}

#[test]
fn messages_bear_the_time_of_their_receipt_while_that_is_switched_on() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        world.advance_ms(1_700_000_000_000);
        let mut expected = Vec::new();
        for (is_on, seconds) in [(false, 0), (true, 1), (true, 1), (true, 3), (false, 4), (true, 5)] {
            world.config.timestamps.set(is_on);
            world.advance_ms(seconds * 1000);
            let now_s = world.now_ns / 1_000_000_000;
            // Enough that what is alike is remembered, and remembered anew.
            for _ in 0..30 {
                world.publish(client, 1, "", "q", "alike");
            }
            world.transfer(client, 1, &Transfer { body: b"to nobody", ..Default::default() });
            expected.extend(std::iter::repeat_n(is_on.then_some(now_s), 30));
        }
        world.sync(client, 1);
        world.subscribe(client, 1, "q", "d");
        let found: Vec<Option<u64>> =
            (0..expected.len()).map(|_| world.message(client, 1).delivery().timestamp).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn a_message_without_a_header_bears_the_time_of_its_receipt_too() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        world.send(
            client,
            1,
            ExchangeBind {
                exchange: Some(b"amq.fanout"),
                queue: Some(b"q"),
                binding_key: Some(b""),
                ..Default::default()
            },
        );
        world.config.timestamps.set(true);
        world.advance_ms(5_000);
        world.transfer(client, 1, &Transfer { destination: b"amq.fanout", body: b"x", ..Default::default() });
        world.transfer(client, 1, &Transfer { destination: b"amq.fanout", body: b"", ..Default::default() });
        world.subscribe(client, 1, "q", "d");
        for body in ["x", ""] {
            let message = world.message(client, 1);
            assert_eq!((message.text().as_str(), message.delivery().timestamp), (body, Some(5)));
        }
    });
}

#[test]
fn a_transfer_is_accepted_if_the_client_wants_it() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        let header = b"\0\0\0\x06\x04\x01\0\x02\x01q";
        let transfer = Transfer { header, body: b"x", sync: false, ..Default::default() };
        let first = world.transfer(client, 1, &transfer);
        let second = world.transfer(client, 1, &transfer);
        assert!(world.book(client, 1).accepted.is_empty(), "nobody asked yet");
        world.sync(client, 1);
        assert_eq!(world.book(client, 1).accepted, [(first, second)]);
        let third = world.transfer(client, 1, &Transfer { sync: true, ..transfer });
        assert_eq!(world.book(client, 1).accepted[1..], [(third, third)]);
        assert!(world.book(client, 1).is_complete(third));
    });
}

#[test]
fn an_unroutable_message_goes_back_if_the_client_says_that_it_accepts() {
    each(|world| {
        let client = world.client();
        let transfer = Transfer { destination: b"amq.direct", body: b"x", sync: true, ..Default::default() };
        let id = world.transfer(client, 1, &transfer);
        assert_eq!(world.book(client, 1).rejected, [(id, id)]);
        assert!(world.book(client, 1).accepted.is_empty());
        let id = world.transfer(client, 1, &Transfer { accept_mode: AcceptMode::None, ..transfer });
        assert!(world.book(client, 1).is_complete(id));
        let mut header = Vec::new();
        DeliveryProperties { discard_unroutable: true, ..Default::default() }.encode(&mut header);
        let id = world.transfer(client, 1, &Transfer { header: &header, ..transfer });
        assert_eq!(world.book(client, 1).rejected.len(), 1);
        assert_eq!(world.book(client, 1).accepted, [(id, id)]);
    });
}

#[test]
fn an_exchange_that_is_not_there_ends_the_session() {
    each(|world| {
        let client = world.client();
        let transfer = Transfer { destination: b"nowhere", body: b"x", ..Default::default() };
        let id = world.transfer(client, 1, &transfer);
        let (code, _, of) = world.book(client, 1).exception.take().expect("no exception");
        assert_eq!((code, of), (ErrorCode::NotFound, id));
        world.end_failed_session(client, 1);
        world.sync(client, 1);
    });
}

#[test]
fn a_user_id_is_the_users_own() {
    each(|world| {
        let client = world.client();
        let send = |world: &mut super::bench::World, user_id: &[u8]| {
            let message = MessageProperties { user_id: Some(user_id), ..Default::default() };
            world.publish_with(client, 1, "amq.direct", Default::default(), message, "x");
        };
        send(world, b"guest");
        send(world, b"guest@QPID");
        world.sync(client, 1);
        send(world, b"root");
        let exception = world.book(client, 1).exception.take();
        assert_eq!(exception.unwrap().0, ErrorCode::UnauthorizedAccess);
        world.end_failed_session(client, 1);
    });
}

#[test]
fn ids_go_on_over_the_wrap() {
    each(|world| {
        let client = world.client();
        let point = SequenceNo(u32::MAX - 5);
        let command_point = SessionCommandPoint { command_id: Some(point), command_offset: Some(0) };
        world.control(client, 1, command_point);
        world.book(client, 1).next = point;
        world.declare(client, 1, "q");
        for n in 0..10 {
            world.publish(client, 1, "", "q", &n.to_string());
        }
        world.sync(client, 1);
        assert_eq!(world.counts(client, 1, "q").0, 10);
    });
}
