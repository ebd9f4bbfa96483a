//! `exchange.*` and `queue.*`: what they do, and the texts of refusals that clients match on.

use fulmar_amqp_0_9_1::codec::{Method, TableRef};
use fulmar_core::Value;

use crate::bench::{Client, Flags, World, each, encoded, table, text};

/// Declares a queue that has to be refused with a failed precondition.
fn refused(world: &mut World, client: Client, queue: &str, arguments: &[(&str, Value)], reason: &str) {
    world.send_declare(client, 1, queue, Flags::default(), arguments);
    world.expect_refusal(client, 406, &format!("PRECONDITION_FAILED - {reason}"));
}

#[test]
fn queues_are_declared_and_found() {
    each(|world| {
        let client = world.client();
        world.send_declare(client, 1, "q", Flags::default(), &[]);
        let ok = Method::QueueDeclareOk { queue: b"q", message_count: 0, consumer_count: 0 };
        world.expect(client, 1, ok);
        world.declare(client, 1, "q", &[]);
        world.publish(client, 1, "", "q", "m");
        assert_eq!(world.counts(client, 1, "q"), (1, 0));
        world.send_declare(client, 1, "q", Flags { no_wait: true, ..Flags::default() }, &[]);
        world.expect_nothing(client);
        world.send_declare(client, 1, "none", Flags { passive: true, ..Flags::default() }, &[]);
        world.expect_refusal(client, 404, "NOT_FOUND - no queue 'none' in vhost '/'");
        world.send_declare(client, 1, "", Flags { passive: true, ..Flags::default() }, &[]);
        world.expect_refusal(client, 404, "NOT_FOUND - no queue '' in vhost '/'");
    });
}

#[test]
fn the_server_names_queues_and_remembers_the_last() {
    each(|world| {
        let client = world.client();
        world.send(client, 1, Method::BasicGet { queue: b"", no_ack: true });
        world.expect_refusal(client, 404, "NOT_FOUND - no previously declared queue");
        world.send_declare(client, 1, "", Flags { exclusive: true, ..Flags::default() }, &[]);
        let declared = world.receive(client);
        let Method::QueueDeclareOk { queue, .. } = declared.method() else { panic!("{declared:?}") };
        let queue = String::from_utf8(queue.to_vec()).unwrap();
        assert!(queue.starts_with("amq.gen-") && queue.len() > 20, "{queue}");
        // Queue and key both empty: the queue's name is the key.
        world.bind(client, "", "amq.direct", "");
        world.publish(client, 1, "amq.direct", &queue, "one");
        assert_eq!(world.get(client, 1, "", true).text(), "one");
        world.consume(client, 1, "", "c", true);
        world.publish(client, 1, "", &queue, "two");
        assert_eq!(world.delivery(client).2, "two");
        world.send(client, 1, Method::QueuePurge { queue: b"", no_wait: false });
        world.expect(client, 1, Method::QueuePurgeOk { message_count: 0 });
    });
}

#[test]
fn queues_are_redeclared_only_as_they_are() {
    each(|world| {
        let client = world.client();
        let arguments = [("x-message-ttl", Value::I32(1000)), ("x-overflow", text("drop-head"))];
        world.declare(client, 1, "q", &arguments);
        world.declare(client, 1, "q", &arguments);
        let of = "for queue 'q' in vhost '/'";
        world.send_declare(client, 1, "q", Flags { durable: true, ..Flags::default() }, &arguments);
        let text_ = format!(
            "PRECONDITION_FAILED - inequivalent arg 'durable' {of}: received 'true' but current is 'false'"
        );
        world.expect_refusal(client, 406, &text_);
        world.send_declare(client, 1, "q", Flags { auto_delete: true, ..Flags::default() }, &arguments);
        let text_ = format!(
            "PRECONDITION_FAILED - inequivalent arg 'auto_delete' {of}: received 'true' but current is 'false'"
        );
        world.expect_refusal(client, 406, &text_);
        let reason = format!(
            "inequivalent arg 'x-message-ttl' {of}: received none but current is the value '1000' of type \
             'signedint'"
        );
        refused(world, client, "q", &arguments[1..], &reason);
        let reason = format!("inequivalent arg 'x-message-ttl' {of}: received '5' but current is '1000'");
        refused(world, client, "q", &[("x-message-ttl", Value::I32(5)), arguments[1].clone()], &reason);
        let reason = format!(
            "inequivalent arg 'x-expires' {of}: received the value '9000' of type 'long' but current is none"
        );
        let more = [arguments[0].clone(), arguments[1].clone(), ("x-expires", Value::I64(9000))];
        refused(world, client, "q", &more, &reason);
        // The width of a number does not matter.
        world.declare(client, 1, "q", &[("x-message-ttl", Value::I64(1000)), arguments[1].clone()]);
    });
}

#[test]
fn invalid_arguments_are_refused() {
    each(|world| {
        let client = world.client();
        let cases = [
            ("x-message-ttl", Value::I32(-1), "{value_negative,-1}"),
            ("x-expires", Value::I32(0), "{value_zero,0}"),
            ("x-max-length", text("many"), "{unacceptable_type,longstr}"),
            ("x-max-priority", Value::I32(300), "{max_value_exceeded,300}"),
            ("x-queue-type", text("stream"), "\"unsupported queue type 'stream'\""),
        ];
        for (argument, value, reason) in cases {
            let reason = format!("invalid arg '{argument}' for queue 'q' in vhost '/': {reason}");
            refused(world, client, "q", &[(argument, value)], &reason);
        }
        world.send_declare(client, 1, "q", Flags { passive: true, ..Flags::default() }, &[]);
        world.expect_refusal(client, 404, "NOT_FOUND - no queue 'q' in vhost '/'");
    });
}

#[test]
fn arguments_without_meaning_here_are_accepted() {
    each(|world| {
        let client = world.client();
        let arguments = [
            ("x-queue-mode", text("lazy")),
            ("x-queue-version", Value::I32(2)),
            ("x-max-in-memory-length", Value::I32(5)),
            ("x-queue-type", text("classic")),
            ("x-something-else", Value::Bool(true)),
        ];
        world.declare(client, 1, "q", &arguments);
        world.send_declare(
            client,
            1,
            "quorum",
            Flags { durable: true, ..Flags::default() },
            &[("x-queue-type", text("quorum"))],
        );
        assert!(matches!(world.receive(client).method(), Method::QueueDeclareOk { .. }));
    });
}

#[test]
fn reserved_names_are_refused() {
    each(|world| {
        let client = world.client();
        world.send_declare(client, 1, "amq.x", Flags::default(), &[]);
        let text = "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'";
        world.expect_refusal(client, 403, text);
        world.declare_exchange(client, "amq.x", "direct", &[]);
        let text = "ACCESS_REFUSED - exchange name 'amq.x' contains reserved prefix 'amq.*'";
        world.expect_refusal(client, 403, text);
    });
}

#[test]
fn the_default_exchange_is_left_alone() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        let text = "ACCESS_REFUSED - operation not permitted on the default exchange";
        world.declare_exchange(client, "", "direct", &[]);
        world.expect_refusal(client, 403, text);
        world.send(client, 1, Method::ExchangeDelete { exchange: b"", if_unused: false, no_wait: false });
        world.expect_refusal(client, 403, text);
        let arguments = TableRef::EMPTY;
        let bind =
            Method::QueueBind { queue: b"q", exchange: b"", routing_key: b"k", no_wait: false, arguments };
        world.send(client, 1, bind);
        world.expect_refusal(client, 403, text);
        let unbind = Method::QueueUnbind { queue: b"q", exchange: b"", routing_key: b"q", arguments };
        world.send(client, 1, unbind);
        world.expect_refusal(client, 403, text);
    });
}

#[test]
fn exclusive_queues_belong_to_their_connection() {
    const TEXT: &str = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine' in vhost '/'. It \
                        could be originally declared on another connection or the exclusive property value does not \
                        match that of the original declaration.";
    each(|world| {
        let owner = world.client();
        let other = world.client();
        let exclusive = Flags { exclusive: true, ..Flags::default() };
        world.send_declare(owner, 1, "mine", exclusive, &[]);
        world.receive(owner);
        world.open(owner, 2);
        assert_eq!(world.counts(owner, 2, "mine"), (0, 0));
        world.send_declare(other, 1, "mine", exclusive, &[]);
        world.expect_refusal(other, 405, TEXT);
        world.send_declare(other, 1, "mine", Flags { passive: true, ..Flags::default() }, &[]);
        world.expect_refusal(other, 405, TEXT);
        world.send(other, 1, Method::BasicGet { queue: b"mine", no_ack: true });
        world.expect_refusal(other, 405, TEXT);
        world.send_consume(other, 1, "mine", "c", true, false, &[]);
        world.expect_refusal(other, 405, TEXT);
        world.send(other, 1, Method::QueuePurge { queue: b"mine", no_wait: false });
        world.expect_refusal(other, 405, TEXT);
        let delete =
            Method::QueueDelete { queue: b"mine", if_unused: false, if_empty: false, no_wait: false };
        world.send(other, 1, delete);
        world.expect_refusal(other, 405, TEXT);
        world.drop_client(owner);
        world.send_declare(other, 1, "mine", Flags { passive: true, ..Flags::default() }, &[]);
        world.expect_refusal(other, 404, "NOT_FOUND - no queue 'mine' in vhost '/'");
    });
}

#[test]
fn queues_are_deleted_and_purged() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        world.publish(client, 1, "", "q", "m");
        world.publish(client, 1, "", "q", "m");
        world.send(client, 1, Method::QueuePurge { queue: b"q", no_wait: false });
        world.expect(client, 1, Method::QueuePurgeOk { message_count: 2 });
        world.publish(client, 1, "", "q", "m");
        let delete =
            |if_unused, if_empty| Method::QueueDelete { queue: b"q", if_unused, if_empty, no_wait: false };
        world.send(client, 1, delete(false, true));
        world.expect_refusal(client, 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty");
        world.open(client, 2);
        world.consume(client, 2, "q", "c", true);
        assert_eq!(world.delivery(client).2, "m");
        world.send(client, 1, delete(true, false));
        world.expect_refusal(client, 406, "PRECONDITION_FAILED - queue 'q' in vhost '/' in use");
        world.send(client, 1, delete(false, false));
        let mut answers = [world.receive(client), world.receive(client)];
        answers.sort_by_key(|received| received.channel);
        assert_eq!(answers[0].method(), Method::QueueDeleteOk { message_count: 0 });
        assert_eq!(answers[1].method(), Method::BasicCancel { consumer_tag: b"c", no_wait: true });
        // Deleting what is not there succeeds.
        world.send(client, 1, delete(false, false));
        world.expect(client, 1, Method::QueueDeleteOk { message_count: 0 });
        world.send(client, 1, Method::QueuePurge { queue: b"q", no_wait: false });
        world.expect_refusal(client, 404, "NOT_FOUND - no queue 'q' in vhost '/'");
    });
}

#[test]
fn exchanges_are_declared_and_deleted() {
    each(|world| {
        let client = world.client();
        world.declare_exchange(client, "x", "topic", &[]);
        world.expect(client, 1, Method::ExchangeDeclareOk);
        world.declare_exchange(client, "x", "direct", &[]);
        let text_ = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'direct' \
                    but current is 'topic'";
        world.expect_refusal(client, 406, text_);
        world.declare_exchange(client, "x", "topic", &[("alternate-exchange", Value::I32(1))]);
        let text_ = "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in \
                    vhost '/'";
        world.expect_refusal(client, 406, text_);
        let passive = |exchange| Method::ExchangeDeclare {
            exchange,
            type_: b"",
            passive: true,
            durable: false,
            auto_delete: false,
            internal: false,
            no_wait: false,
            arguments: TableRef::EMPTY,
        };
        world.send(client, 1, passive(b"x"));
        world.expect(client, 1, Method::ExchangeDeclareOk);
        world.send(client, 1, passive(b"y"));
        world.expect_refusal(client, 404, "NOT_FOUND - no exchange 'y' in vhost '/'");
        world.declare(client, 1, "q", &[]);
        world.bind(client, "q", "x", "a.*");
        let delete = |if_unused| Method::ExchangeDelete { exchange: b"x", if_unused, no_wait: false };
        world.send(client, 1, delete(true));
        world.expect_refusal(client, 406, "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use");
        world.send(client, 1, delete(false));
        world.expect(client, 1, Method::ExchangeDeleteOk);
        world.send(client, 1, delete(false));
        world.expect(client, 1, Method::ExchangeDeleteOk);
        world.declare_exchange(client, "x", "no-such-type", &[]);
        world.expect_channel_error(
            client,
            1,
            406,
            "PRECONDITION_FAILED - unknown exchange type 'no-such-type'",
        );
    });
}

#[test]
fn bindings_route_until_they_go() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        world.declare_exchange(client, "outer", "fanout", &[]);
        world.expect(client, 1, Method::ExchangeDeclareOk);
        world.declare_exchange(client, "inner", "topic", &[]);
        world.expect(client, 1, Method::ExchangeDeclareOk);
        let arguments = TableRef::EMPTY;
        let (destination, source, routing_key, no_wait) = (b"inner", b"outer", b"", false);
        world.send(client, 1, Method::ExchangeBind { destination, source, routing_key, no_wait, arguments });
        world.expect(client, 1, Method::ExchangeBindOk);
        world.bind(client, "q", "inner", "a.#");
        world.publish(client, 1, "outer", "a.b", "both");
        world.publish(client, 1, "outer", "b.b", "neither");
        assert_eq!(world.get(client, 1, "q", true).text(), "both");
        assert_eq!(world.counts(client, 1, "q"), (0, 0));
        world.send(
            client,
            1,
            Method::ExchangeUnbind { destination, source, routing_key, no_wait, arguments },
        );
        world.expect(client, 1, Method::ExchangeUnbindOk);
        world.publish(client, 1, "outer", "a.b", "lost");
        world.publish(client, 1, "inner", "a", "direct");
        assert_eq!(world.get(client, 1, "q", true).text(), "direct");
        let unbind = Method::QueueUnbind { queue: b"q", exchange: b"inner", routing_key: b"a.#", arguments };
        world.send(client, 1, unbind);
        world.expect(client, 1, Method::QueueUnbindOk);
        world.publish(client, 1, "inner", "a", "lost");
        assert_eq!(world.counts(client, 1, "q"), (0, 0));
        let bind = Method::QueueBind { queue: b"q", exchange: b"none", routing_key: b"", no_wait, arguments };
        world.send(client, 1, bind);
        world.expect_refusal(client, 404, "NOT_FOUND - no exchange 'none' in vhost '/'");
        let bind =
            Method::QueueBind { queue: b"none", exchange: b"inner", routing_key: b"", no_wait, arguments };
        world.send(client, 1, bind);
        world.expect_refusal(client, 404, "NOT_FOUND - no queue 'none' in vhost '/'");
    });
}

#[test]
fn dead_letters_and_alternates_arrive() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "dead", &[]);
        let arguments = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("dead"))];
        world.declare(client, 1, "q", &arguments);
        world.publish(client, 1, "", "q", "m");
        world.get(client, 1, "q", false);
        world.send(client, 1, Method::BasicReject { delivery_tag: 1, requeue: false });
        let dead = world.get(client, 1, "dead", true);
        assert_eq!(dead.text(), "m");
        let headers = dead.properties().headers.unwrap().to_table().unwrap();
        assert!(headers.get(b"x-death").is_some());

        world.declare_exchange(client, "x", "direct", &[("alternate-exchange", text("amq.fanout"))]);
        world.expect(client, 1, Method::ExchangeDeclareOk);
        world.bind(client, "dead", "amq.fanout", "");
        world.publish(client, 1, "x", "nowhere", "caught");
        assert_eq!(world.get(client, 1, "dead", true).text(), "caught");
    });
}

#[test]
fn headers_exchanges_check_their_bindings() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q", &[]);
        let arguments = encoded(&table(&[("x-match", text("sometimes"))]));
        world.send(
            client,
            1,
            Method::QueueBind {
                queue: b"q",
                exchange: b"amq.headers",
                routing_key: b"",
                no_wait: false,
                arguments: TableRef::new(&arguments),
            },
        );
        let received = world.receive(client);
        assert!(matches!(received.method(), Method::ChannelClose { reply_code: 406, .. }), "{received:?}");
    });
}
