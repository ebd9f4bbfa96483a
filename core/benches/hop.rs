//! What it costs to hand something to another thread through the lanes between shards, both ends looking all the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fulmar_core::ShardId;
use fulmar_core::mesh::{Lane, MeshEnd, Wake, mesh};

/// As large as what shards hand each other.
type Item = [u64; 16];

/// Places in a lane.
const SLOTS: usize = 1_024;

/// Looks without finding anything after which a thread lets others run: a machine may have one core only.
const LOOKS: u32 = 10_000;

/// Time after which a hop is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody sleeps here.
struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

fn ends() -> (MeshEnd<Item>, MeshEnd<Item>) {
    let mut ends = mesh(vec![Arc::new(NoWaker) as Arc<dyn Wake>, Arc::new(NoWaker)], SLOTS);
    let there = ends.pop().expect("there are two ends");
    (ends.pop().expect("there are two ends"), there)
}

/// The next item, looked for without sleep.
fn receive(end: &mut MeshEnd<Item>) -> Item {
    let began = Instant::now();
    let mut looks = 0;
    loop {
        if let Some((_, item)) = end.receive(Lane::Data) {
            return item;
        }
        looks += 1;
        if looks % LOOKS == 0 {
            assert!(began.elapsed() < PATIENCE, "the other end is gone");
            std::thread::yield_now();
        }
        std::hint::spin_loop();
    }
}

fn send(end: &mut MeshEnd<Item>, to: u8, number: u64) {
    end.send(ShardId(to), Lane::Data, [number; 16]);
}

/// There and back again, so many times; a round trip is two hops.
fn round_trips(count: u64) -> Duration {
    let (mut here, mut there) = ends();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..count {
                let [number, ..] = receive(&mut there);
                send(&mut there, 0, number);
                there.publish();
            }
        });
        let start = Instant::now();
        for number in 0..count {
            send(&mut here, 1, number);
            here.publish();
            assert_eq!(receive(&mut here)[0], number);
        }
        start.elapsed()
    })
}

/// So many items in one direction, made visible a batch at a time; the first one says when the other end is there, the
/// last one comes back.
fn stream(count: u64, batch: u64) -> Duration {
    let (mut here, mut there) = ends();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            send(&mut there, 0, 0);
            there.publish();
            for number in 0..count {
                assert_eq!(receive(&mut there)[0], number);
                if number % batch == batch - 1 {
                    // Tells that there is room again.
                    there.publish();
                }
            }
            send(&mut there, 0, count);
            there.publish();
        });
        receive(&mut here);
        let start = Instant::now();
        for number in 0..count {
            send(&mut here, 1, number);
            if number % batch == batch - 1 {
                here.publish();
            }
        }
        while here.has_backlog() {
            assert!(start.elapsed() < PATIENCE, "the other end is gone");
            here.publish();
            std::thread::yield_now();
        }
        here.publish();
        assert_eq!(receive(&mut here)[0], count);
        start.elapsed()
    })
}

fn hop(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hop");
    group.throughput(Throughput::Elements(1));
    group.bench_function("round trip", |bencher| bencher.iter_custom(round_trips));
    for batch in [1, 32] {
        group.bench_function(format!("one way, {batch} at a time"), |bencher| {
            bencher.iter_custom(|count| stream(count, batch));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = hop
}
criterion_main!(benches);
