//! Input that no client should send.

use fulmar_amqp_0_9_1::codec::{ContentHeader, FrameKind, Method, Properties, TableRef, fast};
use fulmar_protocol::Connection as _;

use crate::bench::{World, each, publication, raw_frame};

/// Sends bytes on an open connection with channel 1, and expects the connection to be closed.
fn fatal(world: &mut World, bytes: &[u8], code: u16, text: &str) {
    let client = world.client();
    world.send_bytes(client, bytes);
    let received = world.receive(client);
    let Method::ConnectionClose { reply_code, reply_text, .. } = received.method() else {
        panic!("{received:?}")
    };
    assert_eq!((reply_code, &*String::from_utf8_lossy(reply_text)), (code, text), "{:?}", world.setup);
    assert_eq!(world.connection(client).counters().connection_faults, 1);
}

fn publish_method() -> Vec<u8> {
    let mut bytes = Vec::new();
    fast::publish(1, b"", b"q", false, false, &mut bytes);
    bytes
}

fn header(class_id: u16, body_size: u64, properties: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ContentHeader { class_id, body_size, properties }.encode(1, &mut bytes);
    bytes
}

#[test]
fn frames_that_are_none() {
    each(|world| {
        fatal(world, &[9, 0, 1, 0, 0, 0, 0, 0xCE], 501, "FRAME_ERROR - type 9: unknown_frame");
        fatal(
            world,
            &[1, 0, 1, 0, 0, 0, 4, 0, 20, 0, 10, 0],
            501,
            "FRAME_ERROR - type 1: {invalid_frame_end_marker,0}",
        );
        fatal(
            world,
            &[1, 0, 1, 0xFF, 0, 0, 0],
            501,
            "FRAME_ERROR - type 1: {frame_too_large,4278190080,131064}",
        );
    });
}

#[test]
fn a_bad_end_of_a_body_frame_is_found_when_the_body_is_streamed() {
    each(|world| {
        let mut bytes = publication(1, "", "q", false, Properties::default(), b"body");
        *bytes.last_mut().unwrap() = 0;
        fatal(world, &bytes, 501, "FRAME_ERROR - type 3: {invalid_frame_end_marker,0}");
    });
}

#[test]
fn frames_out_of_place() {
    each(|world| {
        let none = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
        fatal(world, &header(60, 1, &[0, 0]), 505, none);
        fatal(world, &raw_frame(FrameKind::Body, 1, b"x"), 505, none);

        let bytes = [publish_method(), publish_method()].concat();
        let text = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame \
                    (method) instead";
        fatal(world, &bytes, 505, text);

        let bytes = [publish_method(), header(10, 1, &[0, 0])].concat();
        let text = "UNEXPECTED_FRAME - expected content header for class 60, got one for class 10 instead";
        fatal(world, &bytes, 505, text);

        let bytes = [publish_method(), header(60, 9, &[0, 0]), publish_method()].concat();
        let text = "UNEXPECTED_FRAME - expected content body, got non content body frame (method) instead";
        fatal(world, &bytes, 505, text);

        let bytes = raw_frame(FrameKind::Heartbeat, 1, b"");
        let text = "UNEXPECTED_FRAME - type 8, channel 1: heartbeats belong on channel 0";
        fatal(world, &bytes, 505, text);

        fatal(world, &raw_frame(FrameKind::Body, 0, b"x"), 505, "UNEXPECTED_FRAME - type 3, channel 0");
    });
}

#[test]
fn a_body_longer_than_announced() {
    each(|world| {
        let body = raw_frame(FrameKind::Body, 1, b"four");
        let bytes = [publish_method(), header(60, 1, &[0, 0]), body].concat();
        let text = "FRAME_ERROR - content body is 3 bytes larger than its header says";
        fatal(world, &bytes, 501, text);
    });
}

#[test]
fn malformed_methods_and_properties() {
    each(|world| {
        let text = "SYNTAX_ERROR - the input ends inside a field";
        fatal(world, &raw_frame(FrameKind::Method, 1, &[0, 60, 0, 40, 0, 0, 200]), 502, text);
        fatal(world, &[publish_method(), header(60, 1, &[0x80, 0, 9])].concat(), 502, text);
        let text = "SYNTAX_ERROR - 1 bytes are left over after the last field";
        fatal(world, &raw_frame(FrameKind::Method, 1, &[0, 90, 0, 10, 0]), 502, text);
        let client = world.client();
        world.send(
            client,
            1,
            Method::QueueDeclare {
                queue: b"q",
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                no_wait: false,
                arguments: TableRef::new(b"\x01aZ"),
            },
        );
        let text = "SYNTAX_ERROR - unknown type octet 0x5a in a field table";
        world.expect_connection_error(client, 502, text);
    });
}

#[test]
fn what_an_aborted_connection_held_is_released() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        let bytes = publication(1, "", "q", false, Properties::default(), &[7; 100_000]);
        world.send_bytes(client, &bytes[..60_000]);
        let here = usize::from(world.setup.here);
        assert!(world.shards[here].memory_bytes() > 0);
        world.drop_client(client);
        let other = world.client();
        assert_eq!(world.counts(other, 1, "q"), (0, 0));
        assert_eq!(world.shards[here].memory_bytes(), 0);
    });
}
