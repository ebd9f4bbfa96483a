//! What a queue does with a message, through the shard that it is at home on: taken in, handed out, settled, put back;
//! with priorities and without.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fulmar_core::mesh::Wake;
use fulmar_core::message::{Edit, MessageHeader, Properties, Scalar};
use fulmar_core::request::{ConsumerOptions, QueueOptions};
use fulmar_core::shard::{Delivery, Settlement};
use fulmar_core::{
    Clock, Encoding, Limits, Name, Output, Request, SessionId, Shard, ShardConfig, ShardId, Table, Value,
    VhostId, mesh_for,
};

const V: VhostId = VhostId(0);
const BODY: &[u8] = &[b'x'; 64];

/// Messages between two turns of the shard.
const BATCH: u64 = 16;

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

struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

/// A shard with one queue and a client.
struct Bench {
    shard: Shard,
    session: SessionId,
    now_ns: u64,
}

impl Bench {
    fn new(max_priority: Option<u8>) -> Bench {
        let limits = Limits::default();
        let end = mesh_for(vec![std::sync::Arc::new(NoWaker)], &limits).pop().expect("one end for one shard");
        let config =
            ShardConfig { id: ShardId(0), shards: 1, limits, vhosts: vec![Name::from("/")], seed: 1 };
        let mut shard = Shard::new(config, end);
        let connection = shard.open_connection(0);
        let session = shard.open_session(connection, 1);
        let mut bench = Bench { shard, session, now_ns: 0 };
        let options = Box::new(QueueOptions { max_priority, ..QueueOptions::default() });
        bench.ask(Request::DeclareQueue { vhost: V, name: "q".into(), passive: false, options });
        bench
    }

    fn ask(&mut self, request: Request) {
        match self.shard.request(self.session, request) {
            Some(result) => drop(result.expect("the request is good")),
            None => (0..10).for_each(|_| {
                self.turn(None);
            }),
        }
    }

    fn consume(&mut self, no_ack: bool) {
        let options = ConsumerOptions { no_ack, ..ConsumerOptions::default() };
        self.ask(Request::Subscribe { vhost: V, queue: "q".into(), consumer: 1, options });
    }

    fn publish(&mut self, priority: u8) {
        let header = MessageHeader {
            encoding: &Bare,
            exchange: b"",
            routing_key: b"q",
            properties: b"",
            body_bytes: BODY.len() as u64,
            priority,
            ttl_ms: None,
            persistent: false,
            has_headers: false,
        };
        let message = self.shard.begin_message_with(&header, BODY);
        self.shard.publish(self.session, V, message, false, None).expect("the session may publish");
    }

    /// A turn of the shard: how many messages were handed out, each settled.
    fn turn(&mut self, settlement: Option<Settlement>) -> u64 {
        self.now_ns += 1_000;
        self.shard.set_clock(Clock { monotonic_ns: self.now_ns, wall_ms: 0 });
        self.shard.turn();
        let mut delivered = 0;
        while let Some(output) = self.shard.next_output() {
            if let Output::Delivery(Delivery { queue, tag, message, followers, .. }) = output {
                delivered += u64::from(followers) + 1;
                self.shard.release_all(message, followers);
                if let Some(settlement) = settlement {
                    self.shard.settle(self.session, queue, tag, settlement);
                }
            }
        }
        self.shard.publish_lanes();
        delivered
    }

    /// Publishes so many, in batches, all of which come back.
    fn pass(&mut self, messages: u64, priorities: u8, settlement: Option<Settlement>) {
        let (mut sent, mut received) = (0, 0);
        for _ in 0..10 * messages {
            for _ in 0..BATCH.min(messages - sent) {
                self.publish((sent % u64::from(priorities)) as u8);
                sent += 1;
            }
            received += self.turn(settlement);
            if received == messages {
                return;
            }
        }
        panic!("{received} of {messages} messages came back");
    }
}

/// Times `work` on so many messages, after what it takes for it was made without being timed.
fn timed(
    bench: &mut Bench,
    messages: u64,
    prepare: fn(&mut Bench, u64),
    work: fn(&mut Bench, u64),
) -> Duration {
    let mut left = messages;
    let mut elapsed = Duration::ZERO;
    // In pieces, so that what is prepared does not grow without bound.
    while left > 0 {
        let piece = left.min(10_000);
        prepare(bench, piece);
        let start = Instant::now();
        work(bench, piece);
        elapsed += start.elapsed();
        left -= piece;
    }
    elapsed
}

fn enqueue(bench: &mut Bench, messages: u64) {
    for n in 0..messages {
        bench.publish((n % 10) as u8);
    }
}

fn purge(bench: &mut Bench, _: u64) {
    bench.ask(Request::PurgeQueue { vhost: V, name: "q".into() });
}

fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(1));
    for (kind, priorities) in [("fifo", None), ("10 priorities", Some(9))] {
        let mut bench = Bench::new(priorities);
        group.bench_function(format!("enqueue, {kind}"), |bencher| {
            bencher.iter_custom(|messages| timed(&mut bench, messages, purge, enqueue));
        });
        for (what, settlement) in [("taken as settled", None), ("accepted", Some(Settlement::Accept))] {
            let mut bench = Bench::new(priorities);
            bench.consume(settlement.is_none());
            let levels = priorities.map_or(1, |highest| highest + 1);
            group.bench_function(format!("enqueue, dequeue, {what}, {kind}"), |bencher| {
                bencher.iter_custom(|messages| {
                    let start = Instant::now();
                    bench.pass(messages, levels, settlement);
                    start.elapsed()
                });
            });
        }
    }
    // One message that is refused again and again before 1,000 that nobody takes in between.
    let mut bench = Bench::new(None);
    (0..1_000).for_each(|_| bench.publish(0));
    bench.consume(false);
    group.bench_function("put back and handed out again, fifo of 1000", |bencher| {
        bencher.iter_custom(|messages| {
            let start = Instant::now();
            let mut delivered = 0;
            for _ in 0..10 * messages + 10 {
                delivered += bench.turn(Some(Settlement::Requeue));
                if delivered >= messages {
                    break;
                }
            }
            assert!(delivered >= messages, "{delivered} of {messages} came back");
            start.elapsed().mul_f64(messages as f64 / delivered as f64)
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = queue
}
criterion_main!(benches);
