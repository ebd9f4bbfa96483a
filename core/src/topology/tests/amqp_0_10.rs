//! Where AMQP 0-10's rules are not AMQP 0-9-1's.

use super::*;

impl World {
    fn amqp_0_10() -> Self {
        World { rules: Rules::Amqp010, ..World::new() }
    }
}

fn is_forbidden(result: &Result<usize, Refusal>) -> bool {
    matches!(result, Err(Refusal::Forbidden(_)))
}

#[test]
fn what_is_deleted_or_unbound_has_to_be_there() {
    let mut world = World::amqp_0_10();
    world.queue("q");
    assert_eq!(world.ask(&delete_exchange("x")), Err(Refusal::NoExchange("x".into())));
    assert_eq!(world.ask(&delete_queue("r")), Err(Refusal::NoQueue("r".into())));
    assert_eq!(world.ask(&un(bind("x", "q", ""))), Err(Refusal::NoExchange("x".into())));
    assert_eq!(world.ask(&un(bind("amq.fanout", "r", ""))), Err(Refusal::NoQueue("r".into())));
    assert_eq!(world.ask(&un(bind("amq.fanout", "q", ""))), Ok(0));
}

#[test]
fn reserved_names_are_not_declared_again_either() {
    let mut world = World::amqp_0_10();
    for name in ["amq.direct", "amq.", "amq.mine", "qpid.", "qpid.mine"] {
        assert!(is_forbidden(&world.ask(&exchange(name, "direct"))), "{name}");
    }
    for name in ["amq", "qpid", "mq.", "abc.amq.", ".qpid."] {
        assert_eq!(world.ask(&exchange(name, "direct")), Ok(1));
        assert_eq!(world.ask(&delete_exchange(name)), Ok(1));
    }
    assert_eq!(world.ask(&passive(exchange("amq.direct", "direct"))), Ok(0));
    assert!(is_forbidden(&world.ask(&delete_exchange("amq.direct"))));
    for name in ["qpid.mine", "amq.topic_1"] {
        assert_eq!(world.ask(&queue(name)).map(|_| ()), Ok(()), "queues are not exchanges");
    }
    assert_eq!(world.ask(&delete_exchange("")), Err(Refusal::DefaultExchange));
    world.queue("q");
    assert_eq!(world.ask(&bind("", "q", "k")), Err(Refusal::DefaultExchange));
    assert_eq!(world.ask(&un(bind("", "q", "q"))), Err(Refusal::DefaultExchange));
}

#[test]
fn an_exchange_has_to_agree_with_what_is_said_of_it() {
    let mut world = World::amqp_0_10();
    for name in ["one", "two"] {
        world.exchange(name, "fanout");
    }
    let with = |kind: &str, alternate: Option<&str>| {
        exchange_with("x", kind, |options| options.alternate = alternate.map(Name::from))
    };
    assert_eq!(world.ask(&with("direct", Some("none"))), Err(Refusal::NoExchange("none".into())));
    assert_eq!(world.ask(&with("direct", Some("one"))), Ok(1));
    for agreeing in [with("direct", Some("one")), with("", None), with("direct", None)] {
        assert_eq!(world.ask(&agreeing), Ok(0));
        assert_eq!(world.ask(&passive(agreeing)), Ok(0));
    }
    let sticky =
        exchange_with("x", "direct", |options| (options.durable, options.auto_delete) = (true, true));
    assert_eq!(world.ask(&sticky), Ok(0), "these are not looked at again");
    for other in [with("topic", None), with("colourful", None), with("direct", Some("two"))] {
        assert!(matches!(world.ask(&other), Err(Refusal::Inequivalent { .. })), "{other:?}");
        assert!(matches!(world.ask(&passive(other)), Err(Refusal::Inequivalent { .. })));
    }
    let plain = exchange_with("one", "fanout", |options| options.alternate = Some("two".into()));
    assert!(matches!(world.ask(&plain), Err(Refusal::Inequivalent { .. })));
    let unknown = world.ask(&exchange("y", "colourful"));
    assert_eq!(unknown, Err(Refusal::UnknownExchangeType("colourful".into())));
}

#[test]
fn an_alternate_exchange_stays_while_somebody_names_it() {
    let mut world = World::amqp_0_10();
    world.exchange("spare", "fanout");
    let refused = Err(Refusal::InUseAsAlternate("spare".into()));
    world.ask(&exchange_with("x", "direct", |options| options.alternate = Some("spare".into()))).unwrap();
    world.ask(&queue_with("q", |options| options.alternate = Some("spare".into()))).unwrap();
    assert_eq!(world.ask(&delete_exchange("spare")), refused);
    assert_eq!(world.ask(&delete_exchange("x")), Ok(1));
    assert_eq!(world.ask(&delete_exchange("spare")), refused);
    assert_eq!(world.ask(&delete_queue("q")), Ok(1));
    assert_eq!(world.ask(&delete_exchange("spare")), Ok(1));
    let none = queue_with("r", |options| options.alternate = Some("spare".into()));
    assert_eq!(world.ask(&none), Err(Refusal::NoExchange("spare".into())));
}

#[test]
fn a_queue_may_be_named_by_anybody_and_not_be_had_exclusively() {
    let mut world = World::amqp_0_10();
    let exclusive = queue_with("q", |options| options.exclusive = true);
    let id = world.ask_as(1, &exclusive).unwrap().queue;
    assert_eq!(world.ask_as(2, &queue("q")).unwrap().queue, id);
    let other = queue_with("q", |options| options.arguments = table(&[("x-message-ttl", Value::I32(1))]));
    assert_eq!(world.ask_as(1, &other).unwrap().queue, id, "arguments are not looked at again");
    assert_eq!(world.ask_as(1, &exclusive).unwrap().queue, id);
    let refused = Refusal::ExclusiveToOther("q".into());
    assert_eq!(world.ask_as(2, &exclusive).unwrap_err(), refused);
    assert_eq!(world.ask_as(2, &bind("amq.fanout", "q", "")).unwrap_err(), refused);
}

#[test]
fn a_binding_is_known_by_its_key() {
    let mut world = World::amqp_0_10();
    let id = world.queue("q");
    world.queue("r");
    let with = |exchange: &str, queue: &str, key: &str, arguments: &[(&str, Value)]| {
        bind_with(exchange, queue, DestinationKind::Queue, key, arguments)
    };
    for exchange in ["amq.direct", "amq.topic"] {
        assert_eq!(world.ask(&with(exchange, "q", "k", &[("a", Value::I32(1))])), Ok(1));
        assert_eq!(world.ask(&with(exchange, "q", "k", &[("a", Value::I32(2))])), Ok(0));
        assert_eq!(world.ask(&with(exchange, "q", "l", &[])), Ok(1));
        assert_eq!(world.ask(&with(exchange, "r", "k", &[])), Ok(1));
        assert_eq!(world.ask(&un(bind(exchange, "q", "k"))), Ok(1));
        assert_eq!(world.route(exchange, "l"), [id]);
        assert_eq!(world.topology.bindings_from(V, exchange.as_bytes()).count(), 2);
    }
    assert_eq!(world.ask(&bind("amq.topic", "q", "a.#.*.#.b.#.#")), Ok(1));
    assert_eq!(world.ask(&bind("amq.topic", "q", "a.*.#.b.#")), Ok(0), "it matches the same");
    assert_eq!(world.ask(&un(bind("amq.topic", "q", "a.#.*.b.#"))), Ok(1));
    assert_eq!(world.ask(&bind("amq.fanout", "q", "k")), Ok(1));
    assert_eq!(world.ask(&bind("amq.fanout", "q", "l")), Ok(0), "keys mean nothing");
    assert_eq!(world.ask(&un(bind("amq.fanout", "q", "m"))), Ok(1));
}

#[test]
fn unbinding_by_key_takes_what_amqp_0_9_1_told_apart() {
    let mut world = World::new();
    world.ask(&exchange_with("x", "direct", |options| options.auto_delete = true)).unwrap();
    world.queue("q");
    for n in 0..3 {
        let arguments = [("n", Value::I32(n))];
        world.ask(&bind_with("x", "q", DestinationKind::Queue, "k", &arguments)).unwrap();
    }
    world.rules = Rules::Amqp010;
    assert_eq!(world.ask(&un(bind("x", "q", "k"))), Ok(4), "the exchange goes too");
    assert!(!world.has_exchange("x"));
}

#[test]
fn a_headers_binding_says_how_it_matches_and_once_by_key() {
    let mut world = World::amqp_0_10();
    let id = world.queue("q");
    let with = |key: &str, arguments: &[(&str, Value)]| {
        bind_with("amq.match", "q", DestinationKind::Queue, key, arguments)
    };
    for bad in
        [&[("a", Value::I32(1))][..], &[("x-match", text("all-with-x"))], &[("x-match", Value::I32(1))]]
    {
        assert!(matches!(world.ask(&with("k", bad)), Err(Refusal::InvalidBinding { .. })), "{bad:?}");
    }
    let own =
        [("x-match", text("all")), ("a", Value::I32(1)), ("x-b", text("b")), ("qpid.fed.op", text("B"))];
    assert_eq!(world.ask(&with("k", &own)), Ok(1));
    assert_eq!(world.ask(&with("k", &own)), Ok(0));
    assert!(matches!(world.ask(&with("k", &own[..2])), Err(Refusal::InvalidBinding { .. })));
    assert_eq!(world.ask(&with("l", &own[..2])), Ok(1));
    assert_eq!(world.ask(&un(bind("amq.match", "q", "l"))), Ok(1));
    let routed = |headers: &[(&str, Value)]| world.route_with("amq.match", "", headers).0;
    assert_eq!(routed(&[("a", Value::I32(1)), ("x-b", text("b"))]), [id]);
    assert_eq!(routed(&[("a", Value::I32(1))]), [], "an argument that begins with 'x-' counts");
}

#[test]
fn an_exclusive_binding_ends_the_others_with_its_key() {
    for rules in [Rules::Amqp091, Rules::Amqp010] {
        let mut world = World { rules, ..World::new() };
        let [p, q, r] = ["p", "q", "r"].map(|name| world.queue(name));
        let exclusive = [("qpid.exclusive-binding", Value::Bool(true))];
        let alone = |queue: &str| bind_with("x", queue, DestinationKind::Queue, "k", &exclusive);
        world.ask(&exchange_with("x", "direct", |options| options.auto_delete = true)).unwrap();
        world.bind("x", "p", "k");
        world.bind("x", "q", "k");
        world.bind("x", "q", "l");
        assert_eq!(world.ask(&alone("r")), Ok(3));
        assert_eq!((world.route("x", "k"), world.route("x", "l")), (vec![r], vec![q]));
        assert_eq!(world.ask(&alone("r")), Ok(0));
        assert_eq!(world.ask(&alone("p")), Ok(2));
        assert_eq!(world.route("x", "k"), [p]);
        world.ask(&bind("x", "q", "k")).unwrap();
        assert_eq!(world.route("x", "k").len(), 2, "a plain binding ends nothing");
        assert_eq!(world.ask(&alone("p")), Ok(1));
        let off = [("qpid.exclusive-binding", Value::Bool(false))];
        assert_eq!(world.ask(&bind_with("x", "r", DestinationKind::Queue, "k", &off)), Ok(1));
        assert_eq!(world.route("x", "k").len(), 2);
        world.ask(&un(bind("x", "q", "l"))).unwrap();
        assert_eq!(world.ask(&alone("q")), Ok(3));
        assert!(world.has_exchange("x"), "it was never without a binding");
        let topic = bind_with("amq.topic", "p", DestinationKind::Queue, "k", &exclusive);
        world.bind("amq.topic", "q", "k");
        assert_eq!(world.ask(&topic), Ok(1), "only a direct exchange takes it");
    }
}
