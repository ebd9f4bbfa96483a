//! From the protocol header to `connection.open-ok`, heartbeats, and how connections end.

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, TableRef, frame};
use fulmar_core::Value;
use fulmar_protocol::{Connection as _, LoginAnswer};

use crate::bench::{Setup, World, each, encoded, raw_frame, table, text};

const ONE: Setup = Setup { shards: 1, here: 0, home: 0, shredded: false };

#[test]
fn a_client_is_told_what_the_broker_can_do() {
    each(|world| {
        let client = world.dial();
        let start = world.receive(client);
        let Method::ConnectionStart { version_major, version_minor, server_properties, mechanisms, locales } =
            start.method()
        else {
            panic!("{start:?}")
        };
        assert_eq!((version_major, version_minor), (0, 9));
        assert_eq!((mechanisms, locales), (&b"PLAIN AMQPLAIN"[..], &b"en_US"[..]));
        let properties = server_properties.to_table().unwrap();
        assert_eq!(properties.get(b"product"), Some(&text("Fulmar")));
        let Some(Value::Table(capabilities)) = properties.get(b"capabilities") else {
            panic!("{properties:?}")
        };
        for name in ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "direct_reply_to"] {
            assert_eq!(capabilities.get(name.as_bytes()), Some(&Value::Bool(true)), "{name}");
        }
    });
}

#[test]
fn both_mechanisms_log_in() {
    each(|world| {
        let client = world.connect();
        assert!(world.connection(client).is_open());
        assert_eq!(world.connection(client).user(), "guest");
        assert_eq!(world.connection(client).vhost(), "/");

        let client = world.dial();
        world.receive(client);
        let response = encoded(&table(&[("LOGIN", text("guest")), ("PASSWORD", text("guest"))]));
        world.start_ok(client, "AMQPLAIN", &response, &[]);
        assert!(matches!(world.receive(client).method(), Method::ConnectionTune { .. }));
    });
}

#[test]
fn a_refused_login_is_told_to_those_who_understand() {
    const TEXT: &str = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the \
                        broker logfile.";
    each(|world| {
        let client = world.dial();
        world.receive(client);
        world.start_ok(client, "PLAIN", b"\0guest\0wrong", &["authentication_failure_close"]);
        let close = world.receive(client);
        let Method::ConnectionClose { reply_code: 403, reply_text, .. } = close.method() else {
            panic!("{close:?}")
        };
        assert_eq!(String::from_utf8_lossy(reply_text), TEXT);
        world.send(client, 0, Method::ConnectionCloseOk);
        let (reason, error) = world.closed(client).unwrap();
        assert!(error && reason.contains("wrong password"), "{reason}");

        let client = world.dial();
        world.receive(client);
        world.start_ok(client, "PLAIN", b"\0guest\0wrong", &[]);
        world.expect_nothing(client);
        assert!(world.closed(client).is_some());
    });
}

#[test]
fn nothing_is_taken_while_a_login_is_checked() {
    let mut world = World::new(ONE);
    world.answer_logins = false;
    let client = world.dial();
    world.receive(client);
    world.start_ok(client, "PLAIN", b"\0guest\0guest", &[]);
    world.send(client, 0, Method::ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 0 });
    assert!(world.connection(client).is_parked());
    world.expect_nothing(client);
    world.with(client, |connection, cx| connection.authenticated(cx, LoginAnswer::accepted("guest")));
    assert!(matches!(world.receive(client).method(), Method::ConnectionTune { .. }));
    world.send(client, 0, Method::ConnectionOpen { virtual_host: b"/" });
    world.expect(client, 0, Method::ConnectionOpenOk);
}

#[test]
fn strange_logins_close_the_socket_silently() {
    each(|world| {
        for (mechanism, response) in
            [("EXTERNAL", &b""[..]), ("ANONYMOUS", b""), ("PLAIN", b"guest"), ("AMQPLAIN", b"\x05LOGIN")]
        {
            let client = world.dial();
            world.receive(client);
            world.start_ok(client, mechanism, response, &["authentication_failure_close"]);
            world.expect_nothing(client);
            assert!(world.closed(client).is_some_and(|(_, error)| error), "{mechanism}");
        }
    });
}

#[test]
fn anonymous_logs_in_where_it_is_offered() {
    let mut world = World::new(ONE);
    world.config.mechanisms.push("ANONYMOUS".to_owned());
    let client = world.dial();
    world.receive(client);
    world.start_ok(client, "ANONYMOUS", b"", &[]);
    assert_eq!(world.logins(client)[0].mechanism, "ANONYMOUS");
}

fn tuned(world: &mut World, channel_max: u16, frame_max: u32) -> crate::bench::Client {
    let client = world.dial();
    world.receive(client);
    world.start_ok(client, "PLAIN", b"\0guest\0guest", &["authentication_failure_close"]);
    world.receive(client);
    world.send(client, 0, Method::ConnectionTuneOk { channel_max, frame_max, heartbeat: 10 });
    client
}

#[test]
fn tuning_stays_within_what_was_offered() {
    each(|world| {
        for (channel_max, frame_max, text) in [
            (2047, 100, "negotiated frame_max = 100 is lower than the minimum allowed value (4096)"),
            (2047, 0, "negotiated frame_max = 0 is higher than the maximum allowed value (131072)"),
            (
                2047,
                200_000,
                "negotiated frame_max = 200000 is higher than the maximum allowed value (131072)",
            ),
            (4000, 4096, "negotiated channel_max = 4000 is higher than the maximum allowed value (2047)"),
            (
                0,
                4096,
                "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
            ),
        ] {
            let client = tuned(world, channel_max, frame_max);
            world.expect_connection_error(client, 530, &format!("NOT_ALLOWED - {text}"));
        }
    });
}

#[test]
fn an_unknown_virtual_host_is_named() {
    each(|world| {
        let client = tuned(world, 2047, 4096);
        world.send(client, 0, Method::ConnectionOpen { virtual_host: b"nowhere" });
        world.expect_connection_error(client, 530, "NOT_ALLOWED - vhost nowhere not found");
        let client = tuned(world, 2047, 4096);
        world.send(client, 0, Method::ConnectionOpen { virtual_host: b"other" });
        world.expect(client, 0, Method::ConnectionOpenOk);
    });
}

#[test]
fn methods_out_of_order_are_refused() {
    each(|world| {
        // Who has not logged in is told nothing.
        let client = world.dial();
        world.receive(client);
        world.send(client, 0, Method::ConnectionOpen { virtual_host: b"/" });
        world.expect_nothing(client);
        assert!(world.closed(client).is_some_and(|(reason, _)| reason.contains("connection state starting")));

        let client = tuned(world, 2047, 4096);
        world.send(client, 1, Method::ChannelOpen);
        world.expect_connection_error(client, 505, "UNEXPECTED_FRAME - type 1, channel 1");

        let client = world.connect();
        world.send(client, 0, Method::ConnectionOpen { virtual_host: b"/" });
        let text = "CHANNEL_ERROR - unexpected method in connection state running";
        world.expect_connection_error(client, 504, text);
    });
}

#[test]
fn the_handshake_has_its_time() {
    let mut world = World::new(ONE);
    let client = world.dial();
    world.advance_ms(9_999);
    assert_eq!(world.closed(client), None);
    world.advance_ms(1);
    assert_eq!(world.closed(client), Some(("handshake timed out in state starting".to_owned(), true)));
}

#[test]
fn heartbeats_go_out_and_silence_is_noticed() {
    let mut world = World::new(ONE);
    let client = world.connect();
    for _ in 0..8 {
        world.advance_ms(30_000);
        world.send_bytes(client, &frame::HEARTBEAT);
    }
    assert_eq!(world.heartbeats(client), 8);
    assert_eq!(world.closed(client), None);
    world.advance_ms(119_000);
    assert_eq!(world.closed(client), None);
    world.advance_ms(1_000);
    assert_eq!(world.closed(client), Some(("missed heartbeats from client, timeout: 60s".to_owned(), true)));
    assert_eq!(world.connection(client).counters().faults.timeout, 1);
}

#[test]
fn silence_of_a_peer_that_is_not_read_is_no_fault() {
    let mut world = World::new(ONE);
    let client = world.connect();
    let now_ns = world.now_ns;
    world.connection(client).set_reading(now_ns, false);
    (0..10).for_each(|_| world.advance_ms(60_000));
    assert_eq!(world.closed(client), None);
    let now_ns = world.now_ns;
    world.connection(client).set_reading(now_ns, true);
    (0..2).for_each(|_| world.advance_ms(60_000));
    assert!(world.closed(client).is_some());
}

#[test]
fn the_client_closes() {
    each(|world| {
        let client = world.client();
        world.send(
            client,
            0,
            Method::ConnectionClose { reply_code: 200, reply_text: b"bye", class_id: 0, method_id: 0 },
        );
        world.expect(client, 0, Method::ConnectionCloseOk);
        assert_eq!(world.closed(client), Some(("closed by the client: 200 bye".to_owned(), false)));
        // What comes after it is taken and ignored.
        world.send(client, 1, Method::ChannelOpen);
        world.expect_nothing(client);
    });
}

#[test]
fn the_broker_closes() {
    each(|world| {
        let client = world.client();
        world.with(client, |connection, cx| connection.shut_down(cx, 320, "broker is stopping"));
        let close = world.receive(client);
        assert!(matches!(close.method(), Method::ConnectionClose { reply_code: 320, reply_text, .. }
                if reply_text == b"CONNECTION_FORCED - broker is stopping"));
        // Both sides close at once; everything else is ignored.
        world.send(client, 1, Method::ConfirmSelect { no_wait: false });
        world.expect_nothing(client);
        let close = Method::ConnectionClose { reply_code: 200, reply_text: b"", class_id: 0, method_id: 0 };
        world.send(client, 0, close);
        world.expect(client, 0, Method::ConnectionCloseOk);
        assert!(world.closed(client).is_some_and(|(_, error)| !error));

        let client = world.client();
        world.with(client, |connection, cx| connection.shut_down(cx, 320, "broker is stopping"));
        world.advance_ms(10_000);
        assert!(world.closed(client).is_some());
    });
}

#[test]
fn a_new_secret_is_accepted() {
    each(|world| {
        let client = world.client();
        world.send(client, 0, Method::ConnectionUpdateSecret { new_secret: b"renewed", reason: b"renewal" });
        world.expect(client, 0, Method::ConnectionUpdateSecretOk);
    });
}

#[test]
fn publishers_are_told_that_they_are_blocked() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        assert!(!world.connection(client).is_publisher());
        world.publish(client, 1, "", "q", "m");
        assert!(world.connection(client).is_publisher());
        for _ in 0..2 {
            world.with(client, |connection, cx| connection.set_blocked(cx, Some("low on memory")));
        }
        world.expect(client, 0, Method::ConnectionBlocked { reason: b"low on memory" });
        for _ in 0..2 {
            world.with(client, |connection, cx| connection.set_blocked(cx, None));
        }
        world.expect(client, 0, Method::ConnectionUnblocked);
        world.expect_nothing(client);

        let deaf = world.connect_with(&[]);
        world.with(deaf, |connection, cx| connection.set_blocked(cx, Some("low on memory")));
        world.expect_nothing(deaf);
    });
}

#[test]
fn malformed_start_ok_closes_the_socket() {
    each(|world| {
        let client = world.dial();
        world.receive(client);
        let ok = Method::ConnectionStartOk {
            client_properties: TableRef::new(b"\x01aZ"),
            mechanism: b"PLAIN",
            response: b"\0guest\0guest",
            locale: b"en_US",
        };
        world.send(client, 0, ok);
        world.expect_nothing(client);
        assert!(world.closed(client).is_some());

        let client = world.dial();
        world.receive(client);
        world.send_bytes(client, &raw_frame(FrameKind::Method, 0, &[0, 10]));
        assert!(world.closed(client).is_some());
    });
}
