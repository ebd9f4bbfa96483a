//! The ways of messages across exchanges.

use super::*;

#[test]
fn the_default_exchange_leads_to_every_queue_by_its_name() {
    let mut world = World::new();
    let id = world.queue("q");
    assert_eq!(world.route_with("", "q", &[]), (vec![id], true));
    assert_eq!(world.route("", "other"), []);
    world.ask(&delete_queue("q")).unwrap();
    assert_eq!(world.route("", "q"), []);
}

#[test]
fn an_unknown_exchange_is_refused() {
    let world = World::new();
    let message =
        Routable { key: b"", properties: b"", encoding: &Plain, has_headers: false, body: b"", random: 0 };
    let refused = world.topology.route(V, b"none", &message, &mut Vec::new());
    assert_eq!(refused, Err(Refusal::NoExchange("none".into())));
}

#[test]
fn each_queue_has_a_message_once() {
    let mut world = World::new();
    let id = world.queue("q");
    for key in ["a.*", "a.b", "#"] {
        world.bind("amq.topic", "q", key);
    }
    world.exchange("x", "fanout");
    world.bind("x", "q", "");
    world.ask(&bind_exchange("amq.topic", "x", "a.#")).unwrap();
    assert_eq!(world.route("amq.topic", "a.b"), [id]);
}

#[test]
fn queues_that_are_targets_already_are_not_added() {
    let mut world = World::new();
    let id = world.queue("q");
    let message =
        Routable { key: b"q", properties: b"", encoding: &Plain, has_headers: false, body: b"", random: 0 };
    let mut targets = vec![id];
    world.topology.route(V, b"", &message, &mut targets).unwrap();
    assert_eq!(targets, [id]);
}

#[test]
fn exchanges_route_through_exchanges_even_in_circles() {
    let mut world = World::new();
    let ids = ["p", "q", "r"].map(|name| world.queue(name));
    for (from, to, queue) in [("a", "b", "p"), ("b", "c", "q"), ("c", "a", "r")] {
        for name in [from, to] {
            world.ask(&exchange(name, "fanout")).unwrap();
        }
        world.ask(&bind_exchange(from, to, "")).unwrap();
        world.bind(from, queue, "");
    }
    let mut expected = ids.to_vec();
    expected.sort();
    for start in ["a", "b", "c"] {
        assert_eq!(world.route(start, ""), expected);
    }
}

#[test]
fn the_alternate_exchange_has_what_nothing_else_matches() {
    let mut world = World::new();
    let with_alternate = exchange_with("x", "direct", |options| options.alternate = Some("lost".into()));
    world.ask(&with_alternate).unwrap();
    assert_eq!(world.route("x", "k"), [], "it need not exist");
    world.exchange("lost", "fanout");
    let (q, l) = (world.queue("q"), world.queue("l"));
    world.bind("x", "q", "k");
    world.bind("lost", "l", "");
    assert_eq!(world.route("x", "k"), [q]);
    assert_eq!(world.route("x", "other"), [l]);
    // An exchange that matched counts as a match, whatever becomes of the message there.
    world.exchange("empty", "fanout");
    world.ask(&bind_exchange("x", "empty", "void")).unwrap();
    assert_eq!(world.route("x", "void"), []);
}

#[test]
fn alternate_exchanges_in_a_circle_end() {
    let mut world = World::new();
    for (name, alternate) in [("a", "b"), ("b", "a")] {
        world
            .ask(&exchange_with(name, "direct", |options| options.alternate = Some(alternate.into())))
            .unwrap();
    }
    assert_eq!(world.route("a", "k"), []);
    let id = world.queue("q");
    world.bind("b", "q", "k");
    assert_eq!(world.route("a", "k"), [id]);
}

#[test]
fn a_message_passes_only_so_many_exchanges() {
    let mut world = World::new();
    for n in 0..10 {
        world.exchange(&format!("x{n}"), "fanout");
    }
    for n in 0..9 {
        world.ask(&bind_exchange(&format!("x{n}"), &format!("x{}", n + 1), "")).unwrap();
    }
    let id = world.queue("q");
    world.bind("x9", "q", "");
    assert_eq!(world.route("x0", ""), [id]);
    world.topology.set_max_route_hops(9);
    assert_eq!(world.route("x0", ""), []);
    assert_eq!(world.route("x1", ""), [id]);
}

#[test]
fn only_routes_by_key_alone_may_be_remembered() {
    let mut world = World::new();
    world.exchange("random", "x-random");
    world.exchange("hash", "x-consistent-hash");
    for (exchange, by_key_alone) in
        [("", true), ("amq.direct", true), ("amq.fanout", true), ("amq.topic", true), ("hash", true)]
            .into_iter()
            .chain([("amq.headers", false), ("amq.match", false), ("random", false)])
    {
        assert_eq!(world.route_with(exchange, "k", &[]).1, by_key_alone, "{exchange}");
    }
    world.ask(&bind_exchange("amq.direct", "amq.headers", "k")).unwrap();
    assert!(!world.route_with("amq.direct", "k", &[]).1, "whatever is on the way counts");
    assert!(world.route_with("amq.direct", "other", &[]).1);
}

#[test]
fn headers_are_looked_at() {
    let mut world = World::new();
    let id = world.queue("q");
    let bound = bind_with("amq.headers", "q", DestinationKind::Queue, "", &[("a", Value::I32(1))]);
    world.ask(&bound).unwrap();
    assert_eq!(world.route_with("amq.headers", "", &[("a", Value::I32(1))]).0, [id]);
    assert_eq!(world.route_with("amq.headers", "", &[]).0, []);
}

#[test]
fn a_delayed_exchange_has_a_place_to_hold_messages_back() {
    let mut world = World::new();
    let arguments = table(&[("x-delayed-type", text("direct"))]);
    world.ask(&exchange_with("d", "x-delayed-message", |options| options.arguments = arguments)).unwrap();
    let id = world.queue("q");
    world.bind("d", "q", "k");
    let hold = world.topology.hold(V, b"d").unwrap();
    assert_eq!((world.topology.hold(V, b"amq.direct"), world.topology.hold(V, b"none")), (None, None));
    assert_eq!(world.route("d", "k"), [id]);
    let names: Vec<_> = world.topology.queues(V).map(|entry| entry.name.clone()).collect();
    assert_eq!(names, [Name::from("q")], "nobody can name what it holds back in");
    assert!(world.topology.queue_by_id(hold).unwrap().options.holds_back);
    world.ask(&delete_exchange("d")).unwrap();
    assert_eq!(world.topology.queue_by_id(hold), None);
}

#[test]
fn further_keys_count_where_keys_are_matched() {
    let mut world = World::new();
    let (q, r) = (world.queue("q"), world.queue("r"));
    world.exchange("random", "x-random");
    for name in ["q", "r"] {
        world.bind("amq.direct", name, name);
        world.bind("random", name, "");
    }
    let message =
        Routable { key: b"q", properties: b"", encoding: &Plain, has_headers: false, body: b"", random: 0 };
    let route = |exchange: &[u8]| {
        let mut targets = Vec::new();
        let further: [&[u8]; 3] = [b"r", b"none", b"r"];
        let by_key = world.topology.route_keys(V, exchange, &message, &further, &mut targets).unwrap();
        assert!(!by_key);
        targets
    };
    assert_eq!(route(b""), [q, r]);
    assert_eq!(route(b"amq.direct"), [q, r]);
    assert_eq!(route(b"random").len(), 1);
}
