//! What it costs to write a message down: encoded into the buffer of a write, with its checksum. The disk is left out:
//! writes end at once, and their memory is used again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../examples/support/mod.rs"]
mod support;

use support::{Appender, EndsAtOnce};

/// Records between two turns.
const TURN: u64 = 64;

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal");
    for (bytes, messages) in [(64, 1), (1024, 1), (64, 32), (65_536, 1)] {
        group.throughput(Throughput::Bytes(bytes * u64::from(messages)));
        let name = match messages {
            1 => format!("append {bytes} B"),
            _ => format!("append {messages} times {bytes} B"),
        };
        group.bench_function(name, |bencher| {
            let mut appender = Appender::new(bytes as usize, messages);
            let mut files = EndsAtOnce(VecDeque::new());
            bencher.iter_custom(|count| {
                let start = Instant::now();
                appender.append(count, TURN, &mut files);
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = append
}
criterion_main!(benches);
