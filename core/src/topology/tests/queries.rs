//! Whether something is bound, and what is not found.

use super::*;
use crate::request::BindingInfo;

impl World {
    fn look(
        &self,
        exchange: &str,
        queue: Option<&str>,
        key: Option<&str>,
        arguments: &[(&str, Value)],
    ) -> BindingInfo {
        let (queue, key) = (queue.map(Name::from), key.map(Name::from));
        let arguments = Some(table(arguments));
        self.topology.binding_info(V, &exchange.into(), queue.as_ref(), key.as_ref(), arguments.as_ref())
    }

    /// What is not matched: queue, key, arguments.
    fn missed(
        &self,
        exchange: &str,
        queue: Option<&str>,
        key: Option<&str>,
        arguments: &[(&str, Value)],
    ) -> [bool; 3] {
        let info = self.look(exchange, queue, key, arguments);
        assert!(!info.exchange_not_found && !info.queue_not_found);
        [info.queue_not_matched, info.key_not_matched, info.arguments_not_matched]
    }
}

#[test]
fn what_is_not_there_is_told_first() {
    let mut world = World::new();
    world.queue("q");
    let not_found = |exchange_not_found, queue_not_found| BindingInfo {
        exchange_not_found,
        queue_not_found,
        ..BindingInfo::default()
    };
    assert_eq!(world.look("x", None, Some("k"), &[]), not_found(true, false));
    assert_eq!(world.look("x", Some("q"), None, &[]), not_found(true, false));
    assert_eq!(world.look("x", Some("r"), None, &[]), not_found(true, true));
    assert_eq!(world.look("amq.topic", Some("r"), Some("k"), &[]), not_found(false, true));
}

#[test]
fn queues_and_keys_are_looked_for_apart() {
    for exchange in ["amq.direct", "amq.topic"] {
        let mut world = World::new();
        for queue in ["used", "other", "unused"] {
            world.queue(queue);
        }
        world.bind(exchange, "used", "k");
        world.bind(exchange, "other", "l");
        for (queue, key, missed) in [
            (None, None, [false, false, false]),
            (Some("used"), None, [false, false, false]),
            (None, Some("k"), [false, false, false]),
            (Some("used"), Some("k"), [false, false, false]),
            (Some("unused"), None, [true, false, false]),
            (None, Some("m"), [false, true, false]),
            (Some("used"), Some("m"), [false, true, false]),
            (Some("unused"), Some("k"), [true, false, false]),
            (Some("unused"), Some("m"), [true, true, false]),
            (Some("used"), Some("l"), [false, true, false]),
        ] {
            assert_eq!(world.missed(exchange, queue, key, &[]), missed, "{exchange} {queue:?} {key:?}");
        }
        world.ask(&un(bind(exchange, "used", "k"))).unwrap();
        assert_eq!(world.missed(exchange, Some("used"), Some("k"), &[]), [true, true, false]);
    }
}

#[test]
fn a_topic_is_looked_for_by_what_it_matches() {
    let mut world = World::new();
    world.queue("q");
    world.bind("amq.topic", "q", "a.*.#");
    assert_eq!(world.missed("amq.topic", Some("q"), Some("a.#.*"), &[]), [false; 3]);
    assert_eq!(world.missed("amq.topic", None, Some("a.#.*"), &[]), [false; 3]);
    assert_eq!(world.missed("amq.topic", None, Some("a.b"), &[]), [false, true, false]);
}

#[test]
fn a_fanout_does_not_know_keys() {
    let mut world = World::new();
    world.queue("used");
    world.queue("unused");
    assert_eq!(world.missed("amq.fanout", None, Some("any"), &[]), [false, true, false]);
    world.bind("amq.fanout", "used", "k");
    assert_eq!(world.missed("amq.fanout", None, Some("any"), &[]), [false; 3]);
    assert_eq!(world.missed("amq.fanout", Some("used"), Some("any"), &[]), [false; 3]);
    assert_eq!(world.missed("amq.fanout", Some("unused"), None, &[]), [true, false, false]);
}

#[test]
fn headers_are_looked_for_by_arguments() {
    let mut world = World::new();
    world.queue("used");
    world.queue("unused");
    let own = [("x-match", text("all")), ("a", Value::I32(1)), ("qpid.fed.origin", text("there"))];
    world.ask(&bind_with("amq.match", "used", DestinationKind::Queue, "k", &own)).unwrap();
    let same = [("a", Value::U8(1)), ("x-match", text("all"))];
    let more = [("a", Value::U8(1)), ("x-match", text("all")), ("b", Value::Void)];
    let less = [("x-match", text("all"))];
    let other = [("x-match", text("all")), ("a", Value::I32(2))];
    for (queue, arguments, missed) in [
        (Some("used"), &[][..], [false, false, false]),
        (None, &same[..], [false, false, false]),
        (Some("used"), &same[..], [false, false, false]),
        (Some("used"), &more[..], [false, false, false]),
        (Some("used"), &less[..], [false, false, true]),
        (Some("used"), &other[..], [false, false, true]),
        (None, &other[..], [false, false, true]),
        (Some("unused"), &same[..], [true, false, false]),
        (Some("unused"), &other[..], [true, false, true]),
    ] {
        assert_eq!(world.missed("amq.match", queue, None, arguments), missed, "{queue:?} {arguments:?}");
    }
    assert_eq!(world.missed("amq.match", Some("used"), Some("l"), &same), [false, true, false]);
    let direct = bind_with("amq.direct", "used", DestinationKind::Queue, "k", &own);
    world.ask(&direct).unwrap();
    assert_eq!(
        world.missed("amq.direct", Some("used"), Some("k"), &other),
        [false; 3],
        "nothing matches by them"
    );
}

#[test]
fn the_default_exchange_has_every_queue_by_its_name() {
    let mut world = World::new();
    world.queue("q");
    world.queue("r");
    assert_eq!(world.missed("", Some("q"), None, &[]), [false; 3]);
    assert_eq!(world.missed("", Some("q"), Some("q"), &[]), [false; 3]);
    assert_eq!(world.missed("", Some("q"), Some("r"), &[]), [false, true, false]);
    assert_eq!(world.missed("", None, Some("r"), &[]), [false; 3]);
    assert_eq!(world.missed("", None, Some("s"), &[]), [false, true, false]);
}
