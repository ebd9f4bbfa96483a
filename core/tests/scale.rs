//! The topology at size: what it costs to declare, route and delete does not grow with what else exists, and routing
//! allocates nothing. Figures with `cargo test -p fulmar-core --release --test scale -- --nocapture --test-threads 1`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::request::{DestinationKind, ExchangeOptions, Rules};
use fulmar_core::topology::{Asker, Plan, Routable, RouteCache, Topology};
use fulmar_core::{Encoding, Name, Request, ShardId, Table, Value, VhostId};

const V: VhostId = VhostId(0);
const ASKER: Asker = Asker { connection: None, shard: ShardId(0), rules: Rules::Amqp091 };

/// Smaller where the build is slow.
const BINDINGS: usize = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// No properties at all.
struct Bare;

impl Encoding for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }

    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }

    fn headers(&self, _: &[u8]) -> Table {
        Table::default()
    }

    fn scalar<'a>(&self, _: &'a [u8], _: &[u8]) -> Option<Scalar<'a>> {
        None
    }

    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }

    fn edit(&self, _: &[u8], _: &Edit) -> Vec<u8> {
        Vec::new()
    }
}

fn message(key: &[u8]) -> Routable<'_> {
    Routable { key, properties: b"", encoding: &Bare, has_headers: false, body: b"", random: 7 }
}

fn topology() -> Topology {
    Topology::new(&["/".into()], 2)
}

fn ask(topology: &mut Topology, request: &Request) -> Plan {
    let plan = topology.plan(request, &ASKER, &Name::default()).unwrap();
    plan.changes.iter().for_each(|change| topology.apply(change));
    plan
}

fn declare(topology: &mut Topology, name: &str) {
    let options = Box::default();
    ask(topology, &Request::DeclareQueue { vhost: V, name: name.into(), passive: false, options });
}

fn delete(topology: &mut Topology, name: &str) -> Plan {
    ask(topology, &Request::DeleteQueue { vhost: V, name: name.into(), if_unused: false, if_empty: false })
}

fn bind(topology: &mut Topology, source: &str, queue: &str, key: &str) {
    let (source, destination, key) = (source.into(), queue.into(), key.into());
    let (kind, arguments) = (DestinationKind::Queue, Table::default());
    ask(topology, &Request::Bind { vhost: V, source, destination, kind, key, arguments });
}

/// Per route, over `rounds` of all keys; asserts that nothing was allocated.
fn time_routes(topology: &Topology, exchange: &str, keys: &[String], rounds: usize) -> Duration {
    let mut targets = Vec::with_capacity(1024);
    let mut route = || {
        for key in keys {
            targets.clear();
            topology.route(V, exchange.as_bytes(), &message(key.as_bytes()), &mut targets).unwrap();
            assert!(!targets.is_empty(), "{key} leads nowhere");
        }
    };
    route();
    let allocations = ALLOCATIONS.with(Cell::get);
    let start = Instant::now();
    (0..rounds).for_each(|_| route());
    let elapsed = start.elapsed();
    assert_eq!(ALLOCATIONS.with(Cell::get), allocations, "routing by {exchange} allocates");
    elapsed / (rounds * keys.len()) as u32
}

#[test]
fn a_million_topic_bindings() {
    let mut topology = topology();
    let queues = 1_000;
    (0..queues).for_each(|n| declare(&mut topology, &format!("q{n}")));
    let start = Instant::now();
    for n in 0..BINDINGS {
        let key = match n % 4 {
            0 => format!("{}.{}.*.{}", n % 100, n / 100 % 100, n),
            1 => format!("{}.*.{}.#", n % 100, n),
            2 => format!("#.{}.{n}", n % 100),
            _ => format!("{}.{}.{n}", n % 100, n / 100),
        };
        bind(&mut topology, "amq.topic", &format!("q{}", n % queues), &key);
    }
    let inserted = start.elapsed();
    let keys: Vec<String> = (0..1_000)
        .map(|n| n * (BINDINGS / 4_000) * 4 + 3)
        .map(|n| format!("{}.{}.{n}", n % 100, n / 100))
        .collect();
    let routed = time_routes(&topology, "amq.topic", &keys, 20);
    println!("{BINDINGS} topic bindings: {inserted:?} to make, {routed:?} a match");
    assert!(routed < Duration::from_millis(1), "{routed:?} a match");

    // The best of a few: the machine may have other things to do.
    let deleted = (0..5).map(|_| {
        declare(&mut topology, "many");
        (0..3_000).for_each(|n| bind(&mut topology, "amq.topic", "many", &format!("many.{n}.*.#")));
        let start = Instant::now();
        let plan = delete(&mut topology, "many");
        let deleted = start.elapsed();
        assert_eq!(plan.changes.len(), 1);
        deleted
    });
    let deleted = deleted.min().expect("five were made");
    println!("deleting a queue with 3000 of them: {deleted:?}");
    assert!(deleted < Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 20 }), "{deleted:?}");
}

#[test]
fn ten_thousand_queues() {
    let mut topology = topology();
    let start = Instant::now();
    for n in 0..10_000 {
        let name = format!("q{n}");
        declare(&mut topology, &name);
        bind(&mut topology, "amq.direct", &name, &name);
        bind(&mut topology, "amq.topic", &name, &format!("queue.{n}.#"));
        bind(&mut topology, "amq.fanout", &name, "");
    }
    println!("10000 queues with 3 bindings each: {:?}", start.elapsed());
    let keys: Vec<String> = (0..1_000).map(|n| format!("q{}", n * 7)).collect();
    println!("routing by name: {:?}", time_routes(&topology, "", &keys, 100));
    println!("routing by direct: {:?}", time_routes(&topology, "amq.direct", &keys, 100));
    let topics: Vec<String> = (0..1_000).map(|n| format!("queue.{}.x", n * 7)).collect();
    println!("routing by topic: {:?}", time_routes(&topology, "amq.topic", &topics, 100));
    let start = Instant::now();
    for n in 0..10_000 {
        delete(&mut topology, &format!("q{n}"));
    }
    let deleted = start.elapsed();
    println!("deleting them: {deleted:?}");
    assert!(deleted < Duration::from_secs(5));
    assert_eq!(topology.bindings(V).count(), 0);
}

#[test]
fn small_routes_allocate_nothing() {
    let mut topology = topology();
    declare(&mut topology, "q");
    for kind in ["direct", "fanout", "topic", "x-consistent-hash", "x-random"] {
        let options = ExchangeOptions { kind: kind.into(), ..ExchangeOptions::default() };
        ask(
            &mut topology,
            &Request::DeclareExchange { vhost: V, name: kind.into(), passive: false, options },
        );
        bind(&mut topology, kind, "q", "1");
        println!("routing by {kind}: {:?}", time_routes(&topology, kind, &["1".into()], 100_000));
    }
}

#[test]
fn a_remembered_route_costs_no_allocation() {
    let mut topology = topology();
    let names: Vec<String> = (0..512).map(|n| format!("queue-{n}")).collect();
    names.iter().for_each(|name| declare(&mut topology, name));
    let mut cache = RouteCache::new(4096);
    for name in &names {
        let targets = [topology.queue(V, name.as_bytes()).unwrap().id];
        cache.insert(topology.epoch(), V, b"", name.as_bytes(), &targets);
    }
    let allocations = ALLOCATIONS.with(Cell::get);
    let start = Instant::now();
    let mut hits = 0;
    for _ in 0..200 {
        hits += names
            .iter()
            .filter(|name| cache.get(topology.epoch(), V, b"", name.as_bytes()).is_some())
            .count();
    }
    assert_eq!(ALLOCATIONS.with(Cell::get), allocations);
    println!("a remembered route: {:?}, {hits} hits", start.elapsed() / 102_400);
    assert!(hits > 90_000);
}
