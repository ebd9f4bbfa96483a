//! Replicas that apply the same changes are the same, whatever was asked for; and what they hold fits together.

use proptest::prelude::*;

use super::*;

const EXCHANGES: [&str; 7] = ["a", "b", "c", "d", "amq.topic", "amq.fanout", ""];
const QUEUES: [&str; 6] = ["p", "q", "r", "s", "t", ""];
const KEYS: [&str; 6] = ["a", "a.b", "#", "*.b", "1", ""];
const KINDS: [&str; 6] = ["direct", "fanout", "topic", "headers", "x-consistent-hash", "x-random"];

fn pick<T: Clone + std::fmt::Debug + 'static, const N: usize>(from: [T; N]) -> impl Strategy<Value = T> {
    prop::sample::select(from.to_vec())
}

fn request() -> impl Strategy<Value = Request> {
    let declare_exchange = (pick(EXCHANGES), pick(KINDS), any::<bool>(), prop::option::of(pick(EXCHANGES)));
    let binding = || (pick(EXCHANGES), any::<bool>(), 0..QUEUES.len(), pick(KEYS), any::<bool>());
    let made = |(source, to_queue, to, key, with): (&str, bool, usize, &str, bool)| {
        let arguments = [("x-match", text("any")), ("h", Value::I32(1))];
        let arguments = if with { &arguments[..] } else { &[] };
        match to_queue {
            true => bind_with(source, QUEUES[to], DestinationKind::Queue, key, arguments),
            false => bind_with(source, EXCHANGES[to], DestinationKind::Exchange, key, arguments),
        }
    };
    prop_oneof![
        3 => declare_exchange.prop_map(|(name, kind, auto_delete, alternate)| {
            exchange_with(name, kind, |options| {
                options.auto_delete = auto_delete;
                options.alternate = alternate.map(Name::from);
            })
        }),
        1 => (pick(EXCHANGES), any::<bool>()).prop_map(|(name, if_unused)| {
            Request::DeleteExchange { vhost: V, name: name.into(), if_unused }
        }),
        3 => (pick(QUEUES), any::<bool>(), prop::option::of(0..5u8)).prop_map(|(name, exclusive, home)| {
            queue_with(name, |options| (options.exclusive, options.home) = (exclusive, home))
        }),
        2 => pick(QUEUES).prop_map(delete_queue),
        6 => binding().prop_map(made),
        2 => binding().prop_map(move |parts| un(made(parts))),
    ]
}

/// What does not fit together, if anything.
fn check(topology: &Topology) {
    let bindings: Vec<_> = topology.bindings(V).cloned().collect();
    let from: usize =
        topology.exchanges(V).map(|entry| topology.bindings_from(V, entry.name.as_bytes()).count()).sum();
    let to = |kind, name: &Name| topology.bindings_to(V, kind, name.as_bytes()).count();
    let to_exchanges: usize =
        topology.exchanges(V).map(|entry| to(DestinationKind::Exchange, &entry.name)).sum();
    let to_queues: usize = topology.queues(V).map(|entry| to(DestinationKind::Queue, &entry.name)).sum();
    assert_eq!((from, to_exchanges + to_queues), (bindings.len(), bindings.len()));
    for (n, binding) in bindings.iter().enumerate() {
        assert!(bindings[..n].iter().all(|other| other != binding), "twice: {binding:?}");
    }
    for queue in topology.queues(V) {
        assert_eq!(topology.queue_by_id(queue.id).unwrap().name, queue.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 128 }, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn they_stay_the_same(requests in prop::collection::vec((0..3u32, any::<bool>(), request()), 1..80)) {
        let mut world = World::new();
        let mut replica = World::new();
        for (owner, amqp_0_10, request) in &requests {
            world.rules = if *amqp_0_10 { Rules::Amqp010 } else { Rules::Amqp091 };
            let before = world.topology.epoch();
            match world.ask_as(*owner, request) {
                Ok(plan) => plan.changes.iter().for_each(|change| replica.topology.apply(change)),
                Err(_) => prop_assert_eq!(world.topology.epoch(), before),
            }
            check(&world.topology);
            // Asked once more, what was granted changes nothing; deleting and unbinding succeed again.
            if let Ok(plan) = replica.topology.plan(request, &asker(*owner, world.rules), &"amq.gen-1".into())
            {
                prop_assert!(plan.changes.is_empty(), "{:?}", request);
            }
        }
        prop_assert_eq!(world.topology.epoch(), replica.topology.epoch());
        for exchange in world.topology.exchanges(V) {
            for key in KEYS.iter().chain(&QUEUES) {
                let name = String::from_utf8(exchange.name.as_bytes().to_vec()).unwrap();
                for headers in [&[][..], &[("h", Value::I32(1))][..]] {
                    let (here, there) = (world.route_with(&name, key, headers), replica.route_with(&name, key, headers));
                    prop_assert_eq!(&here, &there);
                    let mut once = here.0.clone();
                    once.dedup();
                    prop_assert_eq!(here.0, once);
                }
            }
        }
    }
}
