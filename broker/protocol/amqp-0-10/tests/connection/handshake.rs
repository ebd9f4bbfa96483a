//! Class `connection`.

use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::{Control, Value};

use super::bench::each;

#[test]
fn a_connection_opens_and_closes() {
    each(|world| {
        world.config.known_hosts = vec!["amqp:tcp:b.example:5672".into()];
        let client = world.dial();
        let start = world.expect_control(client, "connection.start");
        let Control::ConnectionStart(start) = Control::decode(&start).unwrap() else { unreachable!() };
        let mechanisms: Vec<_> = start.mechanisms.unwrap().iter().map(Result::unwrap).collect();
        assert_eq!(mechanisms, [Value::Str16(b"PLAIN"), Value::Str16(b"ANONYMOUS")]);
        let properties = start.server_properties.unwrap();
        for name in ["product", "version", "qpid.federation_tag"] {
            assert!(matches!(properties.get(name.as_bytes()), Ok(Some(Value::Str16(_)))), "{name}");
        }
        world.start_ok(client, b"PLAIN", Some(b"\0guest\0guest"));
        world.expect_control(client, "connection.tune");
        world.control(client, 0, ConnectionTuneOk::default());
        world.control(client, 0, ConnectionOpen::default());
        let open_ok = world.expect_control(client, "connection.open-ok");
        let Control::ConnectionOpenOk(open_ok) = Control::decode(&open_ok).unwrap() else { unreachable!() };
        let known: Vec<_> = open_ok.known_hosts.unwrap().iter().map(Result::unwrap).collect();
        assert_eq!(known, [Value::Str16(b"amqp:tcp:b.example:5672")]);
        assert!(world.connection(client).is_open());
        world.control(client, 0, ConnectionClose { reply_code: Some(CloseCode::Normal), reply_text: None });
        world.expect_control(client, "connection.close-ok");
        assert!(!world.closed(client).unwrap().1);
    });
}

#[test]
fn a_mechanism_without_a_response_is_asked_for_it() {
    each(|world| {
        let client = world.dial();
        world.expect_control(client, "connection.start");
        world.start_ok(client, b"PLAIN", None);
        world.expect_control(client, "connection.secure");
        world.control(client, 0, ConnectionSecureOk { response: Some(b"\0guest\0guest") });
        world.expect_control(client, "connection.tune");
        assert_eq!(world.logins(client).len(), 2);

        let client = world.dial();
        world.expect_control(client, "connection.start");
        world.start_ok(client, b"ANONYMOUS", None);
        world.expect_control(client, "connection.tune");
    });
}

#[test]
fn a_wrong_password_ends_the_connection() {
    each(|world| {
        let client = world.dial();
        world.expect_control(client, "connection.start");
        world.start_ok(client, b"PLAIN", Some(b"\0guest\0wrong"));
        assert_eq!(world.expect_close(client).0, CloseCode::ConnectionForced);
    });
}

#[test]
fn what_was_not_offered_cannot_be_chosen() {
    for tune_ok in [
        ConnectionTuneOk { channel_max: Some(2048), ..Default::default() },
        ConnectionTuneOk { max_frame_size: Some(4095), ..Default::default() },
    ] {
        each(|world| {
            let client = world.dial();
            world.expect_control(client, "connection.start");
            world.start_ok(client, b"PLAIN", Some(b"\0guest\0guest"));
            world.expect_control(client, "connection.tune");
            world.control(client, 0, tune_ok);
            world.expect_nothing(client);
            assert!(world.closed(client).unwrap().1);
        });
    }
}

#[test]
fn a_silent_peer_is_given_up_and_a_live_one_hears_heartbeats() {
    each(|world| {
        let client = world.connect_with(ConnectionTuneOk { heartbeat: Some(1), ..Default::default() });
        world.advance_ms(600);
        assert_eq!(world.heartbeats(client), 1);
        world.control(client, 0, ConnectionHeartbeat {});
        world.advance_ms(1500);
        assert_eq!(world.closed(client), None);
        world.advance_ms(600);
        assert!(world.closed(client).unwrap().0.contains("missed heartbeats"));
    });
}

#[test]
fn an_unknown_virtual_host_is_an_invalid_path() {
    each(|world| {
        let client = world.dial();
        world.expect_control(client, "connection.start");
        world.start_ok(client, b"PLAIN", Some(b"\0guest\0guest"));
        world.expect_control(client, "connection.tune");
        world.control(client, 0, ConnectionTuneOk::default());
        world.control(client, 0, ConnectionOpen { virtual_host: Some(b"nowhere"), ..Default::default() });
        assert_eq!(world.expect_close(client).0, CloseCode::InvalidPath);
    });
}

#[test]
fn a_frame_larger_than_agreed_ends_the_connection() {
    each(|world| {
        let tune_ok = ConnectionTuneOk { max_frame_size: Some(4096), ..Default::default() };
        let client = world.connect_with(tune_ok);
        let mut bytes = vec![0x0F, 0, 0x10, 0x01, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.resize(4097, 0);
        world.send_bytes(client, &bytes);
        world.expect_control(client, "connection.close");
        assert!(world.closed(client).unwrap().1);
    });
}

/// A frame of a control, with zeroes in it.
fn frame(channel: u8, is_first: bool, payload_bytes: u16) -> Vec<u8> {
    let flags = if is_first { 0x0e } else { 0x0c };
    let [high, low] = (12 + payload_bytes).to_be_bytes();
    let mut bytes = vec![flags, 0, high, low, 0, 0, 0, channel, 0, 0, 0, 0];
    bytes.resize(12 + usize::from(payload_bytes), 0);
    bytes
}

#[test]
fn who_has_not_logged_in_is_kept_short() {
    each(|world| {
        let client = world.dial();
        world.expect_control(client, "connection.start");
        world.send_bytes(client, &frame(1, true, 10));
        assert_eq!(world.expect_close(client).0, CloseCode::FramingError, "another channel");

        let client = world.dial();
        world.expect_control(client, "connection.start");
        for number in 0..2 {
            world.send_bytes(client, &frame(0, number == 0, 40_000));
        }
        assert_eq!(world.expect_close(client).0, CloseCode::FramingError, "a long segment");

        let client = world.connect();
        for number in 0..3 {
            world.send_bytes(client, &frame(0, number == 0, 40_000));
        }
        assert!(world.connection(client).is_open(), "later it may be longer");
    });
}
