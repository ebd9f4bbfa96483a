//! `fulmar bench floor --all`: what this host can do, by every way to move bytes.

use std::process::ExitCode;

use fulmar_transport::IdleStrategy;

use super::Floor;
use crate::BenchError;
use crate::measure::{Measured, measure};
use crate::options::{FloorIo, FloorMode, FloorOptions, LoadOptions};
use crate::report::grouped;
use crate::run::print;

/// Every way, with the idle strategies that make a difference to it.
const WAYS: &[(FloorIo, &[IdleStrategy])] = &[
    (FloorIo::RawUring, &[IdleStrategy::Spin, IdleStrategy::Block]),
    (FloorIo::Uring, &[IdleStrategy::Spin, IdleStrategy::Adaptive, IdleStrategy::Block]),
    (FloorIo::Epoll, &[IdleStrategy::Spin, IdleStrategy::Adaptive, IdleStrategy::Block]),
    (FloorIo::Blocking, &[IdleStrategy::Block]),
    (FloorIo::Tokio, &[IdleStrategy::Block]),
];

/// Measures all, and prints a line for each as it is done.
///
/// # Errors
/// A run failed. A way that the system refuses is told and left out.
pub fn run(rate_hz: u64, load: &LoadOptions, json: bool) -> Result<ExitCode, BenchError> {
    if !json {
        println!(
            "{} B, latency at {} msg/s, one way; an echo counts there and back",
            load.size,
            grouped(rate_hz as f64, 0)
        );
        println!(
            "{:<16}{:<10}{:<7}{:>16}{:>10}{:>10}{:>10}{:>10}",
            "I/O", "idle", "mode", "flood, msg/s", "p50 µs", "p90 µs", "p99 µs", "max µs"
        );
    }
    let mut sound = true;
    for &(io, strategies) in WAYS {
        for &idle in strategies {
            for mode in [FloorMode::Echo, FloorMode::Relay] {
                let options = FloorOptions { mode, io, idle, rdma: None };
                sound &= way(options, rate_hz, load, json)?;
            }
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures one; returns whether every message came.
fn way(options: FloorOptions, rate_hz: u64, load: &LoadOptions, json: bool) -> Result<bool, BenchError> {
    let (name, mut runs) = (options.mode.name(), Vec::new());
    let mut io_name = "";
    for rate_hz in [None, Some(rate_hz)] {
        let floor = match Floor::start(options, load.publishers as usize) {
            Ok(floor) => floor,
            Err(refused) if matches!(options.io, FloorIo::Uring | FloorIo::RawUring) => {
                eprintln!("fulmar bench: {:?} is left out: {refused}", options.io);
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        io_name = floor.io_name();
        let run = measure(&floor.target(), &load.workload(&format!("floor {name}"), rate_hz)?)?;
        if json {
            let mut facts = floor.target().facts();
            facts.name = format!("floor {name}, {io_name}");
            facts.idle = Some(options.idle.name().into());
            print(&run.result(facts, 0), true);
        }
        runs.push(run);
    }
    if !json {
        println!("{}", line(io_name, options, &runs));
    }
    Ok(runs.iter().all(Measured::is_sound))
}

fn line(io_name: &str, options: FloorOptions, runs: &[Measured]) -> String {
    let latency = runs[1].latencies();
    let micros = |ns: u64| grouped(ns as f64 / 1e3, 1);
    let missed = if runs[1].kept_schedule() { "" } else { "  schedule missed" };
    format!(
        "{io_name:<16}{:<10}{:<7}{:>16}{:>10}{:>10}{:>10}{:>10}{missed}",
        options.idle.name(),
        options.mode.name(),
        grouped(runs[0].consumed_hz(), 0),
        micros(latency.p50_ns),
        micros(latency.p90_ns),
        micros(latency.p99_ns),
        micros(latency.max_ns)
    )
}
