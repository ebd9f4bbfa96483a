//! What it costs to find the queues of a message, by exchange type and number of bindings.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::request::{DestinationKind, Rules};
use fulmar_core::topology::{Asker, Routable, Topology};
use fulmar_core::{Encoding, Name, Request, ShardId, Table, Value, VhostId};

const V: VhostId = VhostId(0);
const ASKER: Asker = Asker { connection: None, shard: ShardId(0), rules: Rules::Amqp091 };

/// Most bindings of exchanges that look a key up; fewer where the build is slow.
const MOST: usize = if cfg!(debug_assertions) { 10_000 } else { 1_000_000 };

/// Most bindings of exchanges that look at each binding or send to each queue.
const MOST_EACH: usize = if cfg!(debug_assertions) { 1_000 } else { 10_000 };

/// Different messages, so that not one way alone is in the caches.
const MESSAGES: usize = 1_024;

/// Properties are one header, `n`, and nothing else.
struct OneHeader;

impl Encoding for OneHeader {
    fn name(&self) -> &'static str {
        "one header"
    }

    fn header(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        (name == b"n").then(|| Value::Text(Name::from(properties)))
    }

    fn headers(&self, properties: &[u8]) -> Table {
        Table(vec![("n".into(), Value::Text(Name::from(properties)))])
    }

    fn scalar<'a>(&self, _: &'a [u8], _: &[u8]) -> Option<Scalar<'a>> {
        None
    }

    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }

    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

fn ask(topology: &mut Topology, request: &Request) {
    let plan = topology.plan(request, &ASKER, &Name::default()).expect("the request is good");
    plan.changes.iter().for_each(|change| topology.apply(change));
}

/// So many bindings of an exchange, each to a queue of its own up to 1,000 or `queues`.
fn bound(exchange: &str, bindings: usize, queues: usize, key: fn(usize) -> String) -> Topology {
    let mut topology = Topology::new(&["/".into()], 2);
    let queues = queues.min(bindings);
    for n in 0..queues {
        let name = format!("q{n}").as_str().into();
        let options = Box::default();
        ask(&mut topology, &Request::DeclareQueue { vhost: V, name, passive: false, options });
    }
    for n in 0..bindings {
        let header = Table(vec![
            ("x-match".into(), Value::Text("all".into())),
            ("n".into(), Value::Text(n.to_string().as_str().into())),
        ]);
        let bind = Request::Bind {
            vhost: V,
            source: exchange.into(),
            destination: format!("q{}", n % queues).as_str().into(),
            kind: DestinationKind::Queue,
            key: key(n).as_str().into(),
            arguments: if exchange == "amq.headers" { header } else { Table::default() },
        };
        ask(&mut topology, &bind);
    }
    topology
}

/// Times the ways of messages that each match one of the bindings, or all of them.
fn routes(
    criterion: &mut Criterion,
    exchange: &str,
    sizes: &[usize],
    queues: usize,
    binding: fn(usize) -> String,
    message: fn(usize) -> String,
) {
    let mut group = criterion.benchmark_group(format!("route by {}", &exchange["amq.".len()..]));
    group.throughput(Throughput::Elements(1));
    for &bindings in sizes {
        let topology = bound(exchange, bindings, queues, binding);
        let step = (bindings / MESSAGES).max(1);
        // The last of four, which topics match without wildcards.
        let number = |n: usize| if bindings < 4 { 0 } else { n * step % bindings / 4 * 4 + 3 };
        let messages: Vec<(String, String)> =
            (0..MESSAGES).map(number).map(|n| (message(n), n.to_string())).collect();
        let mut targets = Vec::with_capacity(bindings);
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(bindings), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % MESSAGES;
                let (key, header) = &messages[next];
                let message = Routable {
                    key: key.as_bytes(),
                    properties: header.as_bytes(),
                    encoding: &OneHeader,
                    has_headers: exchange == "amq.headers",
                    body: &[],
                    random: 7,
                };
                targets.clear();
                topology
                    .route(V, exchange.as_bytes(), black_box(&message), &mut targets)
                    .expect("it is there");
                assert!(!targets.is_empty(), "{key} leads nowhere");
            });
        });
    }
    group.finish();
}

fn router(criterion: &mut Criterion) {
    let by_key = [1, 1_000, MOST];
    let by_each = [1, 100, MOST_EACH];
    let plain = |n: usize| format!("key.{n}");
    routes(criterion, "amq.direct", &by_key, 1_000, plain, plain);
    let exact = |n: usize| format!("{}.{}.{n}", n % 100, n / 100);
    let pattern = |n: usize| match n % 4 {
        0 if n > 0 => format!("{}.{}.*.{n}", n % 100, n / 100 % 100),
        1 => format!("{}.*.{n}.#", n % 100),
        2 => format!("#.{}.{n}", n % 100),
        _ => format!("{}.{}.{n}", n % 100, n / 100),
    };
    routes(criterion, "amq.topic", &by_key, 1_000, pattern, exact);
    routes(criterion, "amq.headers", &by_each, 1_000, plain, plain);
    routes(criterion, "amq.fanout", &by_each, usize::MAX, plain, plain);
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = router
}
criterion_main!(benches);
