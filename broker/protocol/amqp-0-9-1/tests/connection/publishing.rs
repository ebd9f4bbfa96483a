//! Publishing, returns, confirms, and what is checked of a message.

use fulmar_amqp_0_9_1::codec::{Method, Properties, TableRef};
use fulmar_core::Value;
use fulmar_protocol::Connection as _;

use crate::bench::{Flags, World, each, encoded, publication, table, text};

#[test]
fn a_message_comes_out_as_it_went_in() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        let headers = encoded(&table(&[("n", Value::I32(7))]));
        let properties = Properties {
            content_type: Some(b"text/plain"),
            headers: Some(TableRef::new(&headers)),
            delivery_mode: Some(2),
            priority: Some(3),
            correlation_id: Some(b"c"),
            reply_to: Some(b"r"),
            message_id: Some(b"m"),
            timestamp: Some(1_234),
            user_id: Some(b"guest"),
            ..Properties::default()
        };
        world.publish_with(client, 1, "", "q", properties, "hello");
        let got = world.get(client, 1, "q", false);
        assert_eq!(
            got.method(),
            Method::BasicGetOk {
                delivery_tag: 1,
                redelivered: false,
                exchange: b"",
                routing_key: b"q",
                message_count: 0
            }
        );
        assert_eq!(got.text(), "hello");
        assert_eq!(got.properties(), properties);
    });
}

#[test]
fn bodies_of_any_size_pass() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        let sizes = if world.setup.shredded {
            vec![0, 1, 300, 5_000]
        } else {
            vec![0, 1, 300, 131_064, 131_065, 500_000]
        };
        for size in sizes {
            let body: Vec<u8> = (0..size).map(|at: u32| at as u8).collect();
            let bytes = publication(1, "", "q", false, Properties::default(), &body);
            world.send_bytes(client, &bytes);
            assert!(world.get(client, 1, "q", true).body == body, "{size}");
        }
    });
}

#[test]
fn a_message_that_is_too_large_is_refused() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        let limit = world.config.max_message_bytes as usize;
        let bytes = publication(1, "", "q", false, Properties::default(), &vec![0; limit + 1]);
        // Shredding all of it takes long and shows nothing more.
        let bytes = if world.setup.shredded { &bytes[..2000] } else { &bytes };
        world.send_bytes(client, bytes);
        let text = "PRECONDITION_FAILED - message size 1048577 is larger than configured max size 1048576";
        world.expect_channel_error(client, 1, 406, text);
    });
}

#[test]
fn mandatory_messages_come_back_before_their_confirm() {
    each(|world| {
        let client = world.client();
        world.publish(client, 1, "", "nowhere", "lost");
        world.expect_nothing(client);
        world.send(client, 1, Method::ConfirmSelect { no_wait: false });
        world.expect(client, 1, Method::ConfirmSelectOk);
        world.publish_mandatory(client, 1, "", "nowhere", "back");
        let back = world.receive(client);
        let expected = Method::BasicReturn {
            reply_code: 312,
            reply_text: b"NO_ROUTE",
            exchange: b"",
            routing_key: b"nowhere",
        };
        assert_eq!((back.method(), back.text().as_str()), (expected, "back"));
        world.expect(client, 1, Method::BasicAck { delivery_tag: 1, multiple: false });
        assert_eq!(world.connection(client).counters().returned, 1);
    });
}

#[test]
fn immediate_is_not_implemented() {
    each(|world| {
        let client = world.client();
        let publish =
            Method::BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: true };
        world.send(client, 1, publish);
        world.expect_connection_error(client, 540, "NOT_IMPLEMENTED - immediate=true");
    });
}

#[test]
fn what_cannot_be_published_is_refused() {
    each(|world| {
        let client = world.client();
        world.publish(client, 1, "nowhere", "k", "m");
        world.expect_refusal(client, 404, "NOT_FOUND - no exchange 'nowhere' in vhost '/'");

        let properties = Properties { user_id: Some(b"mallory"), ..Properties::default() };
        world.publish_with(client, 1, "", "q", properties, "m");
        let text =
            "PRECONDITION_FAILED - user_id property set to 'mallory' but authenticated user was 'guest'";
        world.expect_refusal(client, 406, text);

        let properties = Properties { expiration: Some(b"soon"), ..Properties::default() };
        world.publish_with(client, 1, "", "q", properties, "m");
        let text = "PRECONDITION_FAILED - invalid expiration 'soon': no_integer";
        world.expect_refusal(client, 406, text);

        let headers = encoded(&table(&[("CC", text_value())]));
        let properties = Properties { headers: Some(TableRef::new(&headers)), ..Properties::default() };
        world.publish_with(client, 1, "", "q", properties, "m");
        let text = "PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",longstr}";
        world.expect_refusal(client, 406, text);

        world.send(
            client,
            1,
            Method::ExchangeDeclare {
                exchange: b"inner",
                type_: b"fanout",
                passive: false,
                durable: false,
                auto_delete: false,
                internal: true,
                no_wait: false,
                arguments: TableRef::EMPTY,
            },
        );
        world.expect(client, 1, Method::ExchangeDeclareOk);
        world.publish(client, 1, "inner", "k", "m");
        let text = "ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '/'";
        world.expect_refusal(client, 403, text);
    });
}

#[test]
fn messages_are_told_from_the_one_before() {
    each(|world| {
        let client = world.client();
        world.open(client, 2);
        for queue in ["a", "b"] {
            world.declare(client, 1, queue, &[]);
        }
        let (plain, kind) =
            (Properties::default(), Properties { type_: Some(b"k"), ..Properties::default() });
        let one = |key, properties, body: &str| publication(1, "", key, false, properties, body.as_bytes());
        let mut bytes = Vec::new();
        for round in 0..20 {
            for body in ["one", "two", "other"] {
                bytes.extend(one("a", plain, &format!("{body}{round:02}")));
            }
            bytes.extend(one("b", plain, &format!("one{round:02}")));
            bytes.extend(one("b", kind, &format!("two{round:02}")));
        }
        world.send_bytes(client, &bytes);
        for round in 0..20 {
            for (queue, body, properties) in [
                ("a", "one", plain),
                ("a", "two", plain),
                ("a", "other", plain),
                ("b", "one", plain),
                ("b", "two", kind),
            ] {
                let got = world.get(client, 1, queue, true);
                assert_eq!((got.text(), got.properties()), (format!("{body}{round:02}"), properties));
            }
        }

        // The same frames mean something else once their channel is in transaction mode or closed.
        world.send_bytes(client, &publication(2, "", "a", false, plain, b"m").repeat(20));
        assert_eq!(world.counts(client, 1, "a"), (20, 0));
        world.send(client, 2, Method::TxSelect);
        world.expect(client, 2, Method::TxSelectOk);
        world.send_bytes(client, &publication(2, "", "a", false, plain, b"m"));
        assert_eq!(world.counts(client, 1, "a"), (20, 0));
        world.send(
            client,
            2,
            Method::ChannelClose { reply_code: 200, reply_text: b"", class_id: 0, method_id: 0 },
        );
        world.expect(client, 2, Method::ChannelCloseOk);
        world.send_bytes(client, &publication(2, "", "a", false, plain, b"m"));
        let text = "CHANNEL_ERROR - expected 'channel.open'";
        world.expect_connection_error(client, 504, text);
    });
}

fn text_value() -> Value {
    text("not an array")
}

#[test]
fn copies_go_where_headers_say() {
    each(|world| {
        let client = world.client();
        for queue in ["a", "b", "c"] {
            world.declare(client, 1, queue, &[]);
        }
        let keys = |key| Value::Array(vec![text(key)]);
        let headers = encoded(&table(&[("CC", keys("b")), ("BCC", keys("c"))]));
        let properties = Properties { headers: Some(TableRef::new(&headers)), ..Properties::default() };
        world.publish_with(client, 1, "", "a", properties, "m");
        for queue in ["a", "b", "c"] {
            let got = world.get(client, 1, queue, true);
            assert_eq!(got.text(), "m");
            let headers = got.properties().headers.unwrap().to_table().unwrap();
            assert!(headers.get(b"CC").is_some() && headers.get(b"BCC").is_none());
        }
    });
}

fn confirming(world: &mut World) -> crate::bench::Client {
    let client = world.client();
    world.declare(client, 1, "q", &[]);
    world.send(client, 1, Method::ConfirmSelect { no_wait: true });
    world.expect_nothing(client);
    client
}

/// Delivery tags confirmed, and whether accepted, in order.
fn confirms(world: &mut World, client: crate::bench::Client, upto: u64) -> Vec<(u64, bool)> {
    let mut told = Vec::new();
    let mut next = 1;
    while told.len() < upto as usize {
        let received = world.receive(client);
        let (tag, multiple, accepted) = match received.method() {
            Method::BasicAck { delivery_tag, multiple } => (delivery_tag, multiple, true),
            Method::BasicNack { delivery_tag, multiple, .. } => (delivery_tag, multiple, false),
            _ => panic!("no confirm but {received:?}"),
        };
        let from = if multiple { next } else { tag };
        told.extend((from..=tag).map(|tag| (tag, accepted)));
        next = tag + 1;
    }
    told
}

#[test]
fn publishes_of_a_turn_are_confirmed_together() {
    each(|world| {
        let client = confirming(world);
        let one = publication(1, "", "q", false, Properties::default(), b"m");
        world.send_bytes(client, &one.repeat(10));
        let told = confirms(world, client, 10);
        assert_eq!(told, (1..=10).map(|tag| (tag, true)).collect::<Vec<_>>());
        world.expect_nothing(client);
        assert_eq!(world.counts(client, 1, "q"), (10, 0));
    });
}

#[test]
fn a_refused_publish_is_not_confirmed() {
    each(|world| {
        let client = confirming(world);
        world.declare(
            client,
            1,
            "small",
            &[("x-max-length", Value::I32(1)), ("x-overflow", text("reject-publish"))],
        );
        let one = publication(1, "", "small", false, Properties::default(), b"m");
        world.send_bytes(client, &one.repeat(2));
        assert_eq!(confirms(world, client, 2), [(1, true), (2, false)]);
    });
}

#[test]
fn confirms_are_written_before_the_channel_closes() {
    let mut world = World::new(crate::bench::Setup { shards: 1, here: 0, home: 0, shredded: false });
    let client = confirming(&mut world);
    let mut bytes = publication(1, "", "q", false, Properties::default(), b"m");
    Method::ChannelClose { reply_code: 200, reply_text: b"", class_id: 0, method_id: 0 }
        .encode(1, &mut bytes);
    world.send_bytes(client, &bytes);
    world.expect(client, 1, Method::BasicAck { delivery_tag: 1, multiple: false });
    world.expect(client, 1, Method::ChannelCloseOk);
}

#[test]
fn requests_wait_for_what_was_published_before() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        let mut bytes = publication(1, "", "q", false, Properties::default(), b"m").repeat(5);
        Method::QueueDeclare {
            queue: b"q",
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: TableRef::EMPTY,
        }
        .encode(1, &mut bytes);
        world.send_bytes(client, &bytes);
        world.expect(client, 1, Method::QueueDeclareOk { queue: b"q", message_count: 5, consumer_count: 0 });
    });
}

#[test]
fn a_pipeline_is_answered_in_order() {
    each(|world| {
        let client = world.client();
        let mut bytes = Vec::new();
        for number in 0..50 {
            let queue = format!("q{number}");
            Method::QueueDeclare {
                queue: queue.as_bytes(),
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                no_wait: number % 5 == 4,
                arguments: TableRef::EMPTY,
            }
            .encode(1, &mut bytes);
            bytes.extend(publication(1, "", &queue, false, Properties::default(), b"m"));
        }
        world.send_bytes(client, &bytes);
        for number in (0..50).filter(|number| number % 5 != 4) {
            let queue = format!("q{number}");
            let ok = Method::QueueDeclareOk { queue: queue.as_bytes(), message_count: 0, consumer_count: 0 };
            world.expect(client, 1, ok);
        }
        for number in 0..50 {
            let queue = format!("q{number}");
            let passive = Flags { passive: true, ..Flags::default() };
            world.send_declare(client, 1, &queue, passive, &[]);
            let ok = Method::QueueDeclareOk { queue: queue.as_bytes(), message_count: 1, consumer_count: 0 };
            world.expect(client, 1, ok);
        }
    });
}
