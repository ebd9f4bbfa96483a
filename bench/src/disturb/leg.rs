//! One turn: the measured load, logins beside it, the broker's memory, and perhaps a nuisance.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{DisturbArgs, Nuisance, Tally, crowd, handshakes};
use crate::BenchError;
use crate::driver::amqp::Session;
use crate::histogram::Latencies;
use crate::machine::{processor_ns, resident_bytes};
use crate::measure::measure;
use crate::recipe::Running;
use crate::target::Target;
use crate::url::Url;
use crate::workload::Workload;

/// Between two logins.
const LOGIN_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a nuisance leaves behind has so long to go.
const SETTLE: Duration = Duration::from_millis(500);

/// Fulmar's threads that let people in; the rest of it are shards, which serve.
const DOORKEEPERS: [&str; 2] = ["fulmar-tls", "fulmar-login"];

/// What one turn found.
pub(super) struct Leg {
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    /// Messages lost, doubled, refused or reordered.
    pub faults: u64,
    pub kept_schedule: bool,
    pub logins: Logins,
    /// Most resident memory of the measured broker, in bytes.
    pub memory_bytes: u64,
    /// Processor time of the measured broker's threads, in hundredths of a core: those that let people in, and all others.
    pub cores: (f64, f64),
    pub nuisance: Option<Tally>,
}

/// Logins of somebody who may.
#[derive(Default)]
pub(super) struct Logins {
    pub took: Latencies,
    pub failed: u64,
}

/// Measures a broker while perhaps one, itself or another, is disturbed.
///
/// # Errors
/// The measured load failed, or the nuisance could not be made.
pub(super) fn take(
    broker: &Running,
    disturbed: Option<&Running>,
    args: &DisturbArgs,
    workload: &Workload,
) -> Result<Leg, BenchError> {
    let stop = AtomicBool::new(false);
    let url = Url { port: broker.plain_port, tls: None, ..broker.url.clone() };
    let (begun, before) = (Instant::now(), processor_ns(broker.pid(), &DOORKEEPERS));
    let leg = std::thread::scope(|scope| {
        let nuisance = disturbed.map(|disturbed| {
            scope.spawn(|| match args.nuisance {
                Nuisance::Handshakes => handshakes::run(args, disturbed, &stop),
                _ => crowd::run(args, disturbed, &stop),
            })
        });
        let logins = scope.spawn(|| log_in(&url, &stop));
        let memory = scope.spawn(|| most_memory(broker.pid(), &stop));
        let measured = measure(&Target::Broker(url.clone()), workload);
        stop.store(true, Ordering::Relaxed);
        let (seconds, after) = (begun.elapsed().as_secs_f64(), processor_ns(broker.pid(), &DOORKEEPERS));
        let cores = |before: u64, after: u64| after.saturating_sub(before) as f64 / 1e7 / seconds;
        let logins = logins.join().expect("a thread panicked");
        let memory_bytes = memory.join().expect("a thread panicked");
        let nuisance = nuisance.map(|thread| thread.join().expect("a thread panicked")).transpose()?;
        let measured = measured?;
        let outcome = &measured.outcome;
        let at_us = |percentile| outcome.latencies.at_ns(percentile) as f64 / 1e3;
        let lost = outcome.expected.saturating_sub(outcome.received + outcome.left);
        Ok::<_, BenchError>(Leg {
            p50_us: at_us(50.0),
            p99_us: at_us(99.0),
            p999_us: at_us(99.9),
            faults: lost + outcome.duplicated + outcome.out_of_order + outcome.refused,
            kept_schedule: measured.kept_schedule(),
            logins,
            memory_bytes,
            cores: (cores(before.0, after.0), cores(before.1, after.1)),
            nuisance,
        })
    });
    std::thread::sleep(SETTLE);
    leg
}

fn log_in(url: &Url, stop: &AtomicBool) -> Logins {
    let mut logins = Logins::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match Session::open(url) {
            Ok(_) => logins.took.record(begun.elapsed().as_nanos() as u64),
            Err(_) => logins.failed += 1,
        }
        std::thread::sleep(LOGIN_EVERY.saturating_sub(begun.elapsed()));
    }
    logins
}

fn most_memory(pid: u32, stop: &AtomicBool) -> u64 {
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        most = most.max(resident_bytes(pid).unwrap_or(0));
        std::thread::sleep(LOOK_EVERY);
    }
    most
}
