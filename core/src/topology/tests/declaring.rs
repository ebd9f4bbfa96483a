//! What may be declared, deleted, bound and unbound.

use super::*;

fn forbidden(result: Result<usize, Refusal>) -> String {
    match result {
        Err(Refusal::Forbidden(text)) => text,
        other => panic!("expected it to be forbidden: {other:?}"),
    }
}

/// The argument that differs, what was asked for and what is there.
fn inequivalent(result: Result<usize, Refusal>) -> (String, Option<Value>, Option<Value>) {
    match result {
        Err(Refusal::Inequivalent { argument, received, current, .. }) => {
            (argument.to_string(), received, current)
        }
        other => panic!("expected it to be inequivalent: {other:?}"),
    }
}

#[test]
fn every_virtual_host_starts_with_its_exchanges() {
    let world = World::new();
    for vhost in [V, world.topology.vhost(b"other").unwrap()] {
        assert_eq!(world.topology.exchanges(vhost).count(), 7);
        for (name, kind, internal) in PREDECLARED {
            let options = world.topology.exchange(vhost, name.as_bytes()).unwrap();
            assert_eq!(
                (options.kind.as_bytes(), options.durable, options.internal),
                (kind.as_bytes(), true, internal)
            );
        }
    }
    assert_eq!(world.topology.vhost(b"none"), None);
    assert_eq!(world.topology.vhost_name(VhostId(1)), &Name::from("other"));
}

#[test]
fn a_queue_is_declared_once() {
    let mut world = World::new();
    let id = world.queue("q");
    let epoch = world.topology.epoch();
    assert_eq!(world.queue("q"), id);
    assert_eq!(world.topology.epoch(), epoch, "nothing has changed");
    assert_eq!(world.ask_as(2, &passive(queue("q"))).unwrap().queue, Some(id));
    assert_eq!(world.ask(&passive(queue("r"))), Err(Refusal::NoQueue("r".into())));
    assert_eq!(world.topology.queue_by_id(id).unwrap().name, "q".into());
}

#[test]
fn a_virtual_host_does_not_see_another_s_queues() {
    let mut world = World::new();
    world.queue("q");
    assert!(world.topology.queue(VhostId(1), b"q").is_none());
    assert_eq!(world.topology.queues(VhostId(1)).count(), 0);
}

#[test]
fn a_queue_without_a_name_gets_the_generated_one() {
    let mut world = World::new();
    let id = world.queue("");
    assert_eq!(world.topology.queue(V, b"amq.gen-1").unwrap().id, id);
}

#[test]
fn queues_have_to_be_declared_the_same() {
    let mut world = World::new();
    let ttl = |ms: Value| {
        queue_with("q", |options| options.arguments = table(&[("x-message-ttl", ms), ("note", text("a"))]))
    };
    world.ask(&ttl(Value::I32(5))).unwrap();
    assert_eq!(world.ask(&ttl(Value::I64(5))), Ok(0), "integers of any width are the same");
    assert_eq!(
        inequivalent(world.ask(&ttl(Value::I32(6)))),
        ("x-message-ttl".into(), Some(Value::I32(6)), Some(Value::I32(5)))
    );
    assert_eq!(inequivalent(world.ask(&queue("q"))), ("x-message-ttl".into(), None, Some(Value::I32(5))));
    let durable = queue_with("q", |options| options.durable = true);
    assert_eq!(
        inequivalent(world.ask(&durable)),
        ("durable".into(), Some(Value::Bool(true)), Some(Value::Bool(false)))
    );
    assert_eq!(
        inequivalent(world.ask(&queue_with("q", |options| options.auto_delete = true))).0,
        "auto_delete"
    );
    let more = table(&[("x-message-ttl", Value::I32(5)), ("x-expires", Value::I32(1))]);
    assert_eq!(inequivalent(world.ask(&queue_with("q", |options| options.arguments = more))).0, "x-expires");
    assert_eq!(world.ask(&passive(durable)), Ok(0), "a passive declaration only looks");
}

#[test]
fn an_exclusive_queue_is_its_owner_s() {
    let mut world = World::new();
    let exclusive = queue_with("q", |options| options.exclusive = true);
    let id = world.ask_as(1, &exclusive).unwrap().queue.unwrap();
    assert_eq!(id.home, ShardId(3), "it lives where its connection does");
    assert_eq!(world.ask_as(1, &exclusive).unwrap().queue, Some(id));
    let bound = bind("amq.fanout", "q", "");
    world.ask_as(1, &bound).unwrap();
    let refused = Refusal::ExclusiveToOther("q".into());
    for request in [
        exclusive.clone(),
        passive(exclusive),
        queue("q"),
        bind("amq.direct", "q", ""),
        un(bound.clone()),
        delete_queue("q"),
    ] {
        assert_eq!(world.ask_as(2, &request).unwrap_err(), refused, "{request:?}");
    }
    assert_eq!(world.topology.check_access(V, &"q".into(), None).unwrap_err(), refused);
    assert!(world.topology.check_access(V, &"q".into(), Some(connection(1))).is_ok());
    assert_eq!(world.ask_as(1, &queue("q")).unwrap_err(), refused, "exclusive or not has to be the same");
    world.ask_as(1, &un(bound)).unwrap();
    world.ask_as(1, &delete_queue("q")).unwrap();
    world.ask_as(1, &queue("q")).unwrap();
    assert_eq!(world.ask_as(1, &queue_with("q", |options| options.exclusive = true)).unwrap_err(), refused);
}

#[test]
fn homes_are_asked_for_or_spread() {
    let mut world = World::new();
    let id = world.ask_as(1, &queue_with("asked", |options| options.home = Some(2))).unwrap().queue.unwrap();
    assert_eq!(id.home, ShardId(2));
    let beyond = world.ask(&queue_with("beyond", |options| options.home = Some(4)));
    assert!(
        matches!(beyond, Err(Refusal::InvalidArgument { argument, .. }) if argument == "x-fulmar-shard".into())
    );
    let mut counts = [0; 4];
    (0..400).for_each(|n| counts[world.queue(&format!("q{n}")).home.index()] += 1);
    assert!(counts.iter().all(|&count| count > 60), "{counts:?}");
}

#[test]
fn an_identifier_is_used_again_with_another_generation() {
    let mut world = World::new();
    let on_one = |name: &str| queue_with(name, |options| options.home = Some(1));
    let first = world.ask_as(1, &on_one("a")).unwrap().queue.unwrap();
    let second = world.ask_as(1, &on_one("b")).unwrap().queue.unwrap();
    assert_ne!(first.index, second.index);
    world.ask(&delete_queue("a")).unwrap();
    assert!(world.topology.queue_by_id(first).is_none());
    let third = world.ask_as(1, &on_one("c")).unwrap().queue.unwrap();
    assert_eq!((third.index, third.generation), (first.index, first.generation + 1));
    assert!(world.topology.queue_by_id(first).is_none());
    assert_eq!(world.topology.queue_by_id(third).unwrap().name, "c".into());
}

#[test]
fn deleting_what_is_not_there_succeeds() {
    let mut world = World::new();
    assert_eq!(world.ask(&delete_queue("q")), Ok(0));
    assert_eq!(world.ask(&delete_exchange("x")), Ok(0));
    let id = world.queue("q");
    assert_eq!(world.ask_as(1, &delete_queue("q")).unwrap().queue, Some(id));
    assert!(world.topology.plan_queue_end(id).changes.is_empty());
}

#[test]
fn reserved_names_are_the_broker_s() {
    let mut world = World::new();
    assert_eq!(
        forbidden(world.ask(&queue("amq.mine"))),
        "queue name 'amq.mine' contains reserved prefix 'amq.*'"
    );
    assert_eq!(
        forbidden(world.ask(&exchange("amq.mine", "direct"))),
        "exchange name 'amq.mine' contains reserved prefix 'amq.*'"
    );
    let existing = exchange_with("amq.direct", "direct", |options| options.durable = true);
    assert_eq!(world.ask(&existing), Ok(0));
    assert_eq!(world.ask(&passive(queue("amq.mine"))), Err(Refusal::NoQueue("amq.mine".into())));
    assert_eq!(
        forbidden(world.ask(&delete_exchange("amq.direct"))),
        "deletion of system exchange 'amq.direct' in vhost '/' not permitted"
    );
}

#[test]
fn the_default_exchange_is_not_to_be_touched() {
    let mut world = World::new();
    world.queue("q");
    for request in [
        exchange("", "direct"),
        passive(exchange("", "direct")),
        delete_exchange(""),
        bind("", "q", "key"),
        un(bind("", "q", "key")),
        bind_exchange("amq.direct", "", "key"),
        un(bind_exchange("amq.direct", "", "key")),
    ] {
        assert_eq!(world.ask(&request), Err(Refusal::DefaultExchange), "{request:?}");
    }
}

#[test]
fn exchanges_have_to_be_declared_the_same() {
    let mut world = World::new();
    world.exchange("x", "topic");
    assert_eq!(world.ask(&exchange("x", "topic")), Ok(0));
    assert_eq!(
        inequivalent(world.ask(&exchange("x", "direct"))),
        ("type".into(), Some(text("direct")), Some(text("topic")))
    );
    type Change = fn(&mut ExchangeOptions);
    let differing: [(&str, Change); 4] = [
        ("durable", |options| options.durable = true),
        ("auto_delete", |options| options.auto_delete = true),
        ("internal", |options| options.internal = true),
        ("alternate-exchange", |options| options.alternate = Some("other".into())),
    ];
    for (argument, change) in differing {
        assert_eq!(inequivalent(world.ask(&exchange_with("x", "topic", change))).0, argument);
    }
    let hashed = |header: &str| {
        let arguments = table(&[("hash-header", text(header))]);
        exchange_with("h", "x-consistent-hash", |options| options.arguments = arguments)
    };
    assert_eq!(world.ask(&hashed("a")), Ok(1));
    assert_eq!(world.ask(&hashed("a")), Ok(0));
    assert_eq!(inequivalent(world.ask(&hashed("b"))).0, "hash-header");
    assert_eq!(world.ask(&passive(exchange("x", "whatever"))), Ok(0));
    assert_eq!(world.ask(&passive(exchange("y", "topic"))), Err(Refusal::NoExchange("y".into())));
}

#[test]
fn an_exchange_type_has_to_be_known() {
    let mut world = World::new();
    for name in ["x", "amq.direct"] {
        let refused = world.ask(&exchange(name, "colourful"));
        assert_eq!(refused, Err(Refusal::UnknownExchangeType("colourful".into())));
    }
    assert!(matches!(world.ask(&exchange("x", "x-delayed-message")), Err(Refusal::InvalidArgument { .. })));
    assert!(!world.has_exchange("x"));
}

#[test]
fn an_exchange_in_use_may_be_spared() {
    let mut world = World::new();
    world.exchange("x", "fanout");
    world.queue("q");
    world.bind("x", "q", "");
    let spare = Request::DeleteExchange { vhost: V, name: "x".into(), if_unused: true };
    let busy = Refusal::Busy { object: "exchange", name: "x".into(), state: "in use" };
    assert_eq!(world.ask(&spare), Err(busy));
    assert_eq!(world.ask(&un(bind("x", "q", ""))), Ok(1));
    assert_eq!(world.ask(&spare), Ok(1));
    assert!(!world.has_exchange("x"));
}

#[test]
fn bindings_need_both_ends() {
    let mut world = World::new();
    world.queue("q");
    world.exchange("x", "fanout");
    assert_eq!(world.ask(&bind("none", "missing", "")), Err(Refusal::NoExchange("none".into())));
    assert_eq!(world.ask(&bind("x", "missing", "")), Err(Refusal::NoQueue("missing".into())));
    assert_eq!(world.ask(&bind_exchange("x", "missing", "")), Err(Refusal::NoExchange("missing".into())));
    for absent in [bind("none", "q", ""), bind("x", "missing", ""), bind("x", "q", "never")] {
        assert_eq!(world.ask(&un(absent)), Ok(0), "unbinding what is not there succeeds");
    }
}

#[test]
fn a_binding_is_known_by_all_its_parts() {
    let mut world = World::new();
    let id = world.queue("q");
    let with =
        |arguments: &[(&str, Value)]| bind_with("amq.direct", "q", DestinationKind::Queue, "k", arguments);
    assert_eq!(world.ask(&with(&[])), Ok(1));
    assert_eq!(world.ask(&with(&[])), Ok(0), "once is enough");
    assert_eq!(world.ask(&with(&[("a", Value::I32(1)), ("b", Value::F64(0.5))])), Ok(1));
    assert_eq!(
        world.ask(&with(&[("b", Value::F64(0.5)), ("a", Value::I32(1))])),
        Ok(0),
        "order does not count"
    );
    assert_eq!(world.topology.bindings(V).count(), 2);
    assert_eq!(world.route("amq.direct", "k"), [id]);
    assert_eq!(world.ask(&un(with(&[]))), Ok(1));
    assert_eq!(world.route("amq.direct", "k"), [id], "the other one is still there");
    assert_eq!(world.ask(&un(with(&[("a", Value::I32(1))]))), Ok(0));
    assert_eq!(world.ask(&un(with(&[("a", Value::I32(1)), ("b", Value::F64(0.5))]))), Ok(1));
    assert_eq!(world.route("amq.direct", "k"), []);
}

#[test]
fn bad_binding_arguments_are_refused() {
    let mut world = World::new();
    world.queue("q");
    world.exchange("h", "x-consistent-hash");
    assert!(matches!(world.ask(&bind("h", "q", "heavy")), Err(Refusal::InvalidArgument { .. })));
    let x_match = [("x-match", text("perhaps"))];
    let bad = bind_with("amq.headers", "q", DestinationKind::Queue, "", &x_match);
    assert!(matches!(world.ask(&bad), Err(Refusal::InvalidArgument { .. })));
    assert_eq!(world.topology.bindings(V).count(), 0);
}

#[test]
fn deleting_either_end_takes_its_bindings() {
    let mut world = World::new();
    world.exchange("x", "direct");
    world.exchange("y", "direct");
    for name in ["q", "r"] {
        world.queue(name);
        world.bind("x", name, "1");
        world.bind("x", name, "2");
        world.bind("y", name, "1");
    }
    world.ask(&bind_exchange("x", "y", "1")).unwrap();
    world.ask(&bind_exchange("x", "x", "1")).unwrap();
    let to = |world: &World, name: &str| {
        world.topology.bindings_to(V, DestinationKind::Queue, name.as_bytes()).count()
    };
    assert_eq!((to(&world, "q"), to(&world, "r")), (3, 3));
    assert_eq!(world.topology.bindings_from(V, b"x").count(), 6);
    world.ask(&delete_queue("q")).unwrap();
    assert_eq!(world.topology.bindings_from(V, b"x").count(), 4);
    assert_eq!(world.topology.bindings_from(V, b"y").count(), 1);
    world.ask(&delete_exchange("x")).unwrap();
    assert_eq!((to(&world, "r"), world.topology.bindings(V).count()), (1, 1));
    assert_eq!(world.topology.bindings_from(V, b"x").count(), 0);
    let id = world.queue("q");
    assert_eq!(world.route("y", "1").len(), 1);
    assert!(!world.route("y", "1").contains(&id), "a new queue inherits nothing");
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding() {
    let mut world = World::new();
    world.ask(&auto_delete("x")).unwrap();
    world.queue("q");
    world.queue("r");
    assert_eq!(world.ask(&un(bind("x", "q", ""))), Ok(0));
    assert!(world.has_exchange("x"), "it never had one");
    world.bind("x", "q", "");
    world.bind("x", "r", "");
    world.ask(&un(bind("x", "q", ""))).unwrap();
    assert!(world.has_exchange("x"));
    assert_eq!(world.ask(&delete_queue("r")), Ok(2));
    assert!(!world.has_exchange("x"));
}

#[test]
fn the_end_of_auto_delete_exchanges_cascades() {
    let mut world = World::new();
    for name in ["a", "b", "c", "kept"] {
        world.ask(&auto_delete(name)).unwrap();
    }
    world.queue("q");
    world.queue("r");
    // a → b → c → q, each also twice over; kept → c and → r.
    for key in ["1", "2"] {
        world.ask(&bind_exchange("a", "b", key)).unwrap();
        world.ask(&bind_exchange("b", "c", key)).unwrap();
        world.bind("c", "q", key);
    }
    world.ask(&bind_exchange("kept", "c", "")).unwrap();
    world.bind("kept", "r", "");
    assert_eq!(world.ask(&delete_queue("q")), Ok(4));
    assert_eq!(["a", "b", "c", "kept"].map(|name| world.has_exchange(name)), [false, false, false, true]);
    assert_eq!(world.topology.bindings(V).count(), 1);
}

#[test]
fn a_circle_of_auto_delete_exchanges_ends() {
    for bound_to_itself in [false, true] {
        let mut world = World::new();
        for name in ["a", "b"] {
            world.ask(&auto_delete(name)).unwrap();
        }
        world.ask(&bind_exchange("a", "b", "")).unwrap();
        world.ask(&bind_exchange("b", "a", "")).unwrap();
        if bound_to_itself {
            world.ask(&bind_exchange("a", "a", "")).unwrap();
        }
        assert_eq!(world.ask(&delete_exchange("a")), Ok(2));
        assert!(!world.has_exchange("a") && !world.has_exchange("b"));
    }
}
