//! Classes `queue` and `exchange`.

use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::{MapRef, Struct, Value, value::encode_map};

use super::bench::{decode, each};

#[test]
fn a_queue_is_what_it_was_declared_as() {
    each(|world| {
        let client = world.client();
        let declare = QueueDeclare {
            queue: Some(b"q"),
            alternate_exchange: Some(b"amq.fanout"),
            durable: true,
            exclusive: true,
            auto_delete: true,
            ..Default::default()
        };
        world.declare_with(client, 1, declare, &[("qpid.max_count", Value::Int32(10))]);
        let result = world.query(client, 1, QueueQuery { queue: Some(b"q") });
        let Struct::QueueQueryResult(found) = decode(&result) else { panic!("another result") };
        assert_eq!((found.queue, found.alternate_exchange), (Some(&b"q"[..]), Some(&b"amq.fanout"[..])));
        assert!(found.durable && found.exclusive && found.auto_delete);
        assert_eq!(found.arguments.unwrap().get(b"qpid.max_count"), Ok(Some(Value::Int32(10))));
        let result = world.query(client, 1, QueueQuery { queue: Some(b"nowhere") });
        let Struct::QueueQueryResult(found) = decode(&result) else { panic!("another result") };
        assert_eq!(found.queue, None);
        // Declared again it is what it was.
        world.call(client, 1, QueueDeclare { queue: Some(b"q"), ..Default::default() });
    });
}

#[test]
fn an_exclusive_queue_is_its_sessions_own() {
    each(|world| {
        let client = world.client();
        world.attach(client, 2, "other");
        let exclusive = QueueDeclare { queue: Some(b"q"), exclusive: true, ..Default::default() };
        world.declare_with(client, 1, exclusive, &[]);
        world.publish(client, 2, "", "q", "from another session");
        world.sync(client, 2);
        let passive = QueueDeclare { queue: Some(b"q"), passive: true, ..Default::default() };
        world.call(client, 2, passive);
        for command in [
            exclusive.into(),
            QueueDeclare { exclusive: true, ..passive }.into(),
            QueueDelete { queue: Some(b"q"), ..Default::default() }.into(),
            MessageSubscribe { queue: Some(b"q"), ..Default::default() }.into(),
            ExchangeBind { queue: Some(b"q"), exchange: Some(b"amq.fanout"), ..Default::default() }.into(),
        ] {
            let command: fulmar_amqp_0_10::codec::Command<'_> = command;
            assert_eq!(world.refused(client, 2, command).0, ErrorCode::ResourceLocked, "{command:?}");
        }
        // Looking takes nothing away.
        let acquire_mode = Some(AcquireMode::NotAcquired);
        world.subscribe_with(client, 2, "q", "d", MessageSubscribe { acquire_mode, ..Default::default() });
        world.credit(client, 2, "d", 1, u32::MAX);
        assert_eq!(world.bodies(client, 2), ["from another session"]);
        // It stays when its session goes, and is anybody's then.
        let name = format!("session-{}", client.0);
        world.control(client, 1, SessionDetach { name: Some(name.as_bytes()) });
        assert_eq!(world.book(client, 1).detached, Some(DetachCode::Normal));
        assert_eq!(world.counts(client, 2, "q").0, 1);
        world.call(client, 2, exclusive);
    });
}

#[test]
fn an_exclusive_queue_that_is_auto_delete_goes_with_its_session() {
    each(|world| {
        let client = world.client();
        let watcher = world.client();
        let declare =
            QueueDeclare { queue: Some(b"q"), exclusive: true, auto_delete: true, ..Default::default() };
        world.declare_with(client, 1, declare, &[]);
        world.subscribe(client, 1, "q", "d");
        world.call(client, 1, MessageCancel { destination: Some(b"d") });
        assert_eq!(world.counts(watcher, 1, "q"), (0, 0));
        world.drop_client(client);
        let passive = QueueDeclare { queue: Some(b"q"), passive: true, ..Default::default() };
        assert_eq!(world.refused(watcher, 1, passive).0, ErrorCode::NotFound);
    });
}

#[test]
fn what_is_not_there_is_not_found() {
    each(|world| {
        let client = world.client();
        let (queue, exchange) = (Some(&b"nowhere"[..]), Some(&b"nowhere"[..]));
        world.declare(client, 1, "q");
        let bind = ExchangeBind { queue: Some(b"q"), exchange: Some(b"amq.direct"), ..Default::default() };
        for command in [
            QueueDelete { queue, ..Default::default() }.into(),
            QueuePurge { queue }.into(),
            QueueDeclare { queue, passive: true, ..Default::default() }.into(),
            QueueDeclare { queue, alternate_exchange: exchange, ..Default::default() }.into(),
            ExchangeDeclare { exchange, passive: true, ..Default::default() }.into(),
            ExchangeDeclare { exchange, type_: Some(b"nonsense"), ..Default::default() }.into(),
            ExchangeDelete { exchange, ..Default::default() }.into(),
            ExchangeBind { exchange, ..bind }.into(),
            ExchangeBind { queue, ..bind }.into(),
            ExchangeUnbind { queue: Some(b"q"), exchange, ..Default::default() }.into(),
        ] {
            let command: fulmar_amqp_0_10::codec::Command<'_> = command;
            assert_eq!(world.refused(client, 1, command).0, ErrorCode::NotFound, "{command:?}");
        }
        for name in [&b"amq.mine"[..], b"qpid.mine"] {
            let declare =
                ExchangeDeclare { exchange: Some(name), type_: Some(b"direct"), ..Default::default() };
            assert_eq!(world.refused(client, 1, declare).0, ErrorCode::NotAllowed);
        }
        let other = ExchangeDeclare {
            exchange: Some(b"amq.direct"),
            type_: Some(b"topic"),
            passive: true,
            ..Default::default()
        };
        assert_eq!(world.refused(client, 1, other).0, ErrorCode::NotAllowed);
    });
}

#[test]
fn a_queue_is_deleted_only_if_unused_and_empty_when_asked() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        world.publish(client, 1, "", "q", "x");
        world.sync(client, 1);
        let delete = QueueDelete { queue: Some(b"q"), ..Default::default() };
        let if_empty = QueueDelete { if_empty: true, ..delete };
        assert_eq!(world.refused(client, 1, if_empty).0, ErrorCode::PreconditionFailed);
        world.call(client, 1, QueuePurge { queue: Some(b"q") });
        assert_eq!(world.counts(client, 1, "q").0, 0);
        let other = world.client();
        world.subscribe(other, 1, "q", "d");
        let if_unused = QueueDelete { if_unused: true, ..delete };
        assert_eq!(world.refused(client, 1, if_unused).0, ErrorCode::PreconditionFailed);
        world.call(client, 1, delete);
        // Who was subscribed is told.
        let exception = world.book(other, 1).exception.take();
        assert_eq!(exception.unwrap().0, ErrorCode::ResourceDeleted);
        world.end_failed_session(other, 1);
    });
}

#[test]
fn exchanges_and_bindings_can_be_asked_for() {
    each(|world| {
        let client = world.client();
        let declare = ExchangeDeclare {
            exchange: Some(b"x"),
            type_: Some(b"topic"),
            durable: true,
            ..Default::default()
        };
        world.call(client, 1, declare);
        let result = world.query(client, 1, ExchangeQuery { name: Some(b"x") });
        let Struct::ExchangeQueryResult(found) = decode(&result) else { panic!("another result") };
        assert_eq!((found.type_, found.durable, found.not_found), (Some(&b"topic"[..]), true, false));
        let result = world.query(client, 1, ExchangeQuery { name: Some(b"y") });
        let Struct::ExchangeQueryResult(found) = decode(&result) else { panic!("another result") };
        assert!(found.not_found);

        world.declare(client, 1, "q");
        let (exchange, queue) = (Some(&b"x"[..]), Some(&b"q"[..]));
        let bind = ExchangeBind { queue, exchange, binding_key: Some(b"a.#"), ..Default::default() };
        world.call(client, 1, bind);
        let bound = ExchangeBound { exchange, queue, binding_key: Some(b"a.#"), ..Default::default() };
        let mut ask = |bound: ExchangeBound<'_>| {
            let result = world.query(client, 1, bound);
            let Struct::ExchangeBoundResult(found) = decode(&result) else { panic!("another result") };
            found
        };
        assert_eq!(ask(bound), ExchangeBoundResult::default());
        let found = ask(ExchangeBound { binding_key: Some(b"b"), ..bound });
        assert_eq!(found, ExchangeBoundResult { key_not_matched: true, ..Default::default() });
        let found = ask(ExchangeBound { exchange: Some(b"y"), queue: Some(b"z"), ..bound });
        assert!(found.exchange_not_found && found.queue_not_found);
        world.call(client, 1, ExchangeUnbind { exchange, queue, binding_key: Some(b"a.#") });
        world.publish(client, 1, "x", "a.b", "unbound");
        world.sync(client, 1);
        assert_eq!(world.counts(client, 1, "q").0, 0);
    });
}

#[test]
fn a_binding_in_the_scope_of_a_session_goes_with_it() {
    each(|world| {
        let client = world.client();
        let publisher = world.client();
        world.declare(publisher, 1, "q");
        let mut map = Vec::new();
        encode_map([(&b"x-scope"[..], Value::Str16(b"session"))], &mut map);
        let bind = ExchangeBind {
            queue: Some(b"q"),
            exchange: Some(b"amq.fanout"),
            binding_key: Some(b"k"),
            arguments: Some(MapRef::new(&map)),
        };
        world.call(client, 1, bind);
        world.publish(publisher, 1, "amq.fanout", "", "bound");
        world.sync(publisher, 1);
        world.drop_client(client);
        world.publish(publisher, 1, "amq.fanout", "", "unbound");
        world.sync(publisher, 1);
        assert_eq!(world.counts(publisher, 1, "q").0, 1);
    });
}

#[test]
fn a_subscription_takes_what_it_selects() {
    each(|world| {
        let client = world.client();
        world.declare(client, 1, "q");
        for colour in ["red", "blue", "red"] {
            let mut map = Vec::new();
            encode_map([(&b"colour"[..], Value::Str16(colour.as_bytes()))], &mut map);
            let delivery = DeliveryProperties { routing_key: Some(b"q"), ..Default::default() };
            let message =
                MessageProperties { application_headers: Some(MapRef::new(&map)), ..Default::default() };
            world.publish_with(client, 1, "", delivery, message, colour);
        }
        world.sync(client, 1);
        let selecting = |text: &[u8]| {
            let mut map = Vec::new();
            encode_map([(&b"x-apache-selector"[..], Value::Str16(text))], &mut map);
            map
        };
        let map = selecting(b"colour = 'red'");
        let arguments = Some(MapRef::new(&map));
        world.subscribe_with(client, 1, "q", "d", MessageSubscribe { arguments, ..Default::default() });
        world.credit(client, 1, "d", u32::MAX, u32::MAX);
        assert_eq!(world.bodies(client, 1), ["red", "red"]);
        let map = selecting(b"colour = ");
        let arguments = Some(MapRef::new(&map));
        let wrong = MessageSubscribe { queue: Some(b"q"), arguments, ..Default::default() };
        assert_eq!(world.refused(client, 1, wrong).0, ErrorCode::InvalidArgument);
    });
}
