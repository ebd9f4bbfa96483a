//! Results for tests, made up without any load.

use hdrhistogram::Histogram;

use crate::result::{
    Counts, Distribution, Disturbance, Interval, ResultFile, RunResult, SCHEMA, TargetFacts,
};
use crate::workload::Workload;
use fulmar_tuning::HostFacts;

/// A workload of ten thousand messages a second.
pub fn workload(name: &str) -> Workload {
    Workload { name: name.into(), rate_hz: Some(10_000), seconds: 5.0, ..Workload::default() }
}

/// A flood of messages of a size.
pub fn flood(name: &str, size: usize) -> Workload {
    Workload { name: name.into(), size: crate::workload::Size::Fixed(size), ..Workload::default() }
}

/// A file of some runs.
pub fn file(runs: Vec<RunResult>) -> ResultFile {
    ResultFile { schema: SCHEMA, host: HostFacts::default(), runs, sweep: None }
}

/// Numbers that look random and are the same every time, from 0 to 1.
pub fn noise(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    })
}

/// A run whose latencies are about `factor` times 40 µs, and fewer messages come through the greater it is.
pub fn scaled_run(workload: Workload, name: &str, round: u32, factor: f64) -> RunResult {
    let mut histogram = Histogram::new_with_bounds(1, 100_000_000_000, 3).unwrap();
    for draw in noise(u64::from(round) * 1_000 + name.len() as u64).take(20_000) {
        let latency_ns = factor * 30_000.0 * (1.0 + 0.3 / (1.001 - draw).sqrt());
        histogram.saturating_record(latency_ns as u64);
    }
    let latency = workload.rate_hz.map(|_| Distribution::whole(&histogram));
    let rate_hz = workload.rate_hz.map_or(1e6 / factor, |rate_hz| rate_hz as f64);
    let interval = |n: u32| Interval {
        from_s: f64::from(n) * 0.5,
        seconds: 0.5,
        published_hz: rate_hz,
        consumed_hz: rate_hz * (0.9 + 0.02 * f64::from(n)),
        latency: latency.as_ref().map(|whole| Distribution { histogram: String::new(), ..whole.clone() }),
        broker_rss_bytes: Some(40_000_000 + u64::from(n) * 1_000_000),
    };
    RunResult {
        target: TargetFacts {
            name: name.into(),
            version: Some("1.2.3".into()),
            protocol: "amqp-0-9-1".into(),
            transport: "tcp".into(),
            options: "amqp://127.0.0.1:5672/".into(),
            idle: None,
        },
        started_at: "2026-01-02T03:04:05Z".into(),
        round,
        seconds: workload.seconds,
        offered_hz: workload.rate_hz.map(|rate_hz| rate_hz as f64),
        published_hz: rate_hz,
        consumed_hz: rate_hz,
        kept_schedule: true,
        counts: Counts { published: 20_000, consumed: 20_000, ..Counts::default() },
        service_time: latency.clone(),
        confirm_latency: None,
        intervals: (0..10).map(interval).collect(),
        ceiling_hz: None,
        disturbance: Disturbance { load_average: 0.5, ..Disturbance::default() },
        latency,
        workload,
    }
}

/// A run like any other.
pub fn run(workload: Workload, name: &str, round: u32) -> RunResult {
    scaled_run(workload, name, round, 1.0)
}
