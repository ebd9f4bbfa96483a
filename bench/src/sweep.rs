//! `fulmar bench sweep`: the highest rate of a workload that keeps p99 under a limit, by bisection.
//!
//! First the rate is doubled until a step fails, then the gap between the highest rate that passed and the lowest that
//! failed is halved until it is small. A step passes if it kept its schedule, lost nothing and stayed under the limit.
//! Latency near the knee is not the same twice: a step that fails is repeated once before it counts.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::BenchError;
use crate::broker::BrokerOptions;
use crate::overrides::Overrides;
use crate::report::{Report, grouped};
use crate::result::{ResultFile, RunResult, Sweep};
use crate::run::run_once;
use crate::workload::Workload;

/// Steps at most.
const MOST_STEPS: u32 = 64;

/// Options of `fulmar bench sweep`.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// A built-in workload with a rate, or a file with one.
    #[arg(default_value = "latency-1k")]
    workload: String,
    #[command(flatten)]
    broker: BrokerOptions,
    /// The limit: p99 of the latency stays at most this. A number with us, ms or s.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = time)]
    p99: Duration,
    /// Begin with this rate.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// Go no further than this rate.
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    to: u64,
    /// Stop when the rate is known to within so many percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    resolution: f64,
    /// Write the result to this file: every step, and the rate that was found.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

/// Searches, prints every step and what was found.
///
/// # Errors
/// A step could not be run.
pub fn run(args: &SweepArgs, json: bool) -> Result<ExitCode, BenchError> {
    if !(0.1..=100.0).contains(&args.resolution) {
        return Err(BenchError::Options("--resolution: between 0.1 and 100 percent".into()));
    }
    let mut workload = Workload { rate_hz: Some(args.from), ..args.overrides.workload(&args.workload)? };
    workload.check()?;
    let limit_ns = args.p99.as_nanos() as u64;
    let broker = args.broker.start(&[])?;
    let facts = broker.facts()?;
    let mut runs: Vec<RunResult> = Vec::new();
    let mut step = |rate_hz: u64| -> Result<bool, BenchError> {
        workload.rate_hz = Some(rate_hz);
        for _ in 0..2 {
            let run = run_once(&broker, &workload, true)?.result(facts.clone(), runs.len() as u32);
            let passed = passes(&run, limit_ns);
            if !json {
                println!("{}", line(&run, passed));
            }
            runs.push(run);
            if passed {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let highest_hz = search(args.from, args.to, args.resolution / 100.0, &mut step)?;
    let sweep = Sweep { limit_p99_ns: limit_ns, highest_hz };
    let report = found(&workload.name, &sweep, runs.len());
    report.print(json);
    if let Some(path) = &args.out {
        let mut file = ResultFile::new(runs);
        file.sweep = Some(sweep);
        file.write(path)?;
    }
    Ok(if highest_hz.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn found(workload: &str, sweep: &Sweep, steps: usize) -> Report {
    let mut report = Report::new(format!("highest rate of {workload}"));
    report.measure("p99 at most", sweep.limit_p99_ns as f64 / 1e3, "µs");
    match sweep.highest_hz {
        Some(rate_hz) => report.measure("rate", rate_hz as f64, "msg/s"),
        None => report.text("rate", "none: even the lowest one fails"),
    };
    report.count("steps", steps as u64);
    report
}

/// The highest rate that passes, between two; none if not even the lowest one does.
fn search<E>(
    from_hz: u64,
    to_hz: u64,
    resolution: f64,
    passes: &mut impl FnMut(u64) -> Result<bool, E>,
) -> Result<Option<u64>, E> {
    let (mut passed_hz, mut failed_hz) = (None, None);
    let mut rate_hz = from_hz.min(to_hz);
    for _ in 0..MOST_STEPS {
        if passes(rate_hz)? {
            passed_hz = Some(rate_hz);
        } else {
            failed_hz = Some(rate_hz);
        }
        rate_hz = match (passed_hz, failed_hz) {
            (None, _) => return Ok(None),
            (Some(low), None) if low >= to_hz => break,
            (Some(low), None) => low.saturating_mul(2).min(to_hz),
            (Some(low), Some(high)) if (high - low) as f64 <= resolution * low as f64 || high - low < 2 => {
                break;
            }
            (Some(low), Some(high)) => low + (high - low) / 2,
        };
    }
    Ok(passed_hz)
}

fn passes(run: &RunResult, limit_ns: u64) -> bool {
    let counts = run.counts;
    let sound = counts.lost + counts.duplicated + counts.out_of_order + counts.refused == 0;
    let quick = run.latency.as_ref().is_some_and(|latency| latency.p99_ns <= limit_ns);
    sound && run.kept_schedule && quick
}

fn line(run: &RunResult, passed: bool) -> String {
    let (p50_ns, p99_ns) = run.latency.as_ref().map_or((0, 0), |latency| (latency.p50_ns, latency.p99_ns));
    let micros = |ns: u64| grouped(ns as f64 / 1e3, 1);
    let why = match (passed, run.kept_schedule) {
        (true, _) => "holds",
        (false, false) => "too fast: the schedule was missed",
        (false, true) => "does not hold",
    };
    format!(
        "{:>12} msg/s   p50 {:>10} µs   p99 {:>10} µs   {why}",
        grouped(run.offered_hz.unwrap_or(0.0), 0),
        micros(p50_ns),
        micros(p99_ns)
    )
}

/// A time from the command line.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no number with us, ms or s");
    let split = text.find(|c: char| c.is_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let unit_s = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let possible = number > 0.0 && number * unit_s <= 3_600.0;
    if possible { Ok(Duration::from_secs_f64(number * unit_s)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn searched(from: u64, to: u64, knee: u64) -> (Option<u64>, Vec<u64>) {
        let mut steps = Vec::new();
        let mut step = |rate: u64| {
            steps.push(rate);
            Ok::<bool, ()>(rate <= knee)
        };
        let found = search(from, to, 0.05, &mut step).unwrap();
        (found, steps)
    }

    #[test]
    fn finds_the_knee_to_within_the_resolution() {
        for knee in [1_000, 1_001, 3_000, 77_777, 4_999_999] {
            let (found, steps) = searched(1_000, 10_000_000, knee);
            let found = found.unwrap();
            assert!(found <= knee && knee as f64 <= found as f64 * 1.05 + 1.0, "{found} for {knee}");
            assert!(steps.len() < 25, "{steps:?}");
        }
    }

    #[test]
    fn stops_at_both_ends() {
        assert_eq!(searched(1_000, 4_000, 1_000_000), (Some(4_000), vec![1_000, 2_000, 4_000]));
        assert_eq!(searched(1_000, 4_000, 10), (None, vec![1_000]));
        assert_eq!(searched(5_000, 4_000, 1_000_000), (Some(4_000), vec![4_000]));
        assert_eq!(searched(1, 2, 1), (Some(1), vec![1, 2]));
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("500us"), Ok(Duration::from_micros(500)));
        assert_eq!(time("1.5ms"), Ok(Duration::from_micros(1_500)));
        for wrong in ["5", "ms", "-1ms", "0s", "1h", "1e9s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
