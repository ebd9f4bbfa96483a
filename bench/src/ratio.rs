//! Floor, broker and peer in turns, so that what else the machine does meets them alike: medians and ratios.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::Args;
use fulmar_transport::IdleStrategy;

use crate::BenchError;
use crate::broker::BrokerOptions;
use crate::floor::Floor;
use crate::measure::{Measured, measure};
use crate::options::{FloorIo, FloorMode, FloorOptions, LoadOptions};
use crate::poll::process_core_wait_ns;
use crate::report::{Report, grouped};
use crate::target::Target;
use crate::url::Url;

/// Options of `fulmar bench ratio`.
#[derive(Debug, Args)]
pub struct RatioArgs {
    #[command(flatten)]
    broker: BrokerOptions,
    /// Another broker to compare with.
    #[arg(long, value_name = "URL")]
    peer_url: Option<Url>,
    /// Body sizes for the throughput, in bytes.
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "64,1024")]
    sizes: Vec<usize>,
    /// Rates for the latency, in messages a second; its body size is --size.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1000,10000")]
    rates: Vec<u64>,
    /// Idle strategies of the floor for the latency, and of the broker where --serve starts it.
    #[arg(long, value_delimiter = ',', default_value = "spin,adaptive")]
    idle: Vec<IdleStrategy>,
    /// Idle strategy for the throughput.
    #[arg(long, value_name = "IDLE", default_value_t = IdleStrategy::Adaptive)]
    throughput_idle: IdleStrategy,
    /// What the floor does.
    #[arg(long, value_enum, default_value = "relay")]
    floor_mode: FloorMode,
    /// What moves the floor's bytes.
    #[arg(long, value_enum, default_value = "uring")]
    io: FloorIo,
    /// The floor over RDMA, at this address of an RDMA device, or at the first there is.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "0.0.0.0")]
    rdma: Option<IpAddr>,
    /// Runs of each.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    interleave: u32,
    /// Repeat a latency run in which others on the machine kept the client or the server from running for more than
    /// 1 % of the time, at most so many times, and take the least disturbed one.
    #[arg(long, value_name = "N", default_value_t = 0)]
    patience: u32,
    #[command(flatten)]
    load: LoadOptions,
}

/// Part of a run that client or server may wait for a core before it counts as disturbed.
const DISTURBED: f64 = 0.01;

/// One kind of run.
struct Case {
    name: String,
    idle: IdleStrategy,
    load: LoadOptions,
    rate: Option<u64>,
}

/// A figure of a run, and what its ratios should be.
struct Metric {
    name: &'static str,
    unit: &'static str,
    of: fn(&Measured) -> f64,
    to_floor: Bound,
    to_peer: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    None,
}

const THROUGHPUT: &[Metric] = &[Metric {
    name: "consumed",
    unit: "msg/s",
    of: Measured::consumed_hz,
    to_floor: Bound::AtLeast(0.5),
    to_peer: Bound::AtLeast(10.0),
}];

const LATENCY: &[Metric] = &[
    Metric {
        name: "p50",
        unit: "µs",
        of: |run| run.latencies().p50_ns as f64 / 1e3,
        to_floor: Bound::AtMost(1.3),
        to_peer: Bound::None,
    },
    Metric {
        name: "p90",
        unit: "µs",
        of: |run| run.latencies().p90_ns as f64 / 1e3,
        to_floor: Bound::AtMost(1.3),
        to_peer: Bound::None,
    },
    Metric {
        name: "p99",
        unit: "µs",
        of: |run| run.latencies().p99_ns as f64 / 1e3,
        to_floor: Bound::AtMost(2.0),
        to_peer: Bound::AtMost(0.2),
    },
];

/// Runs all cases and prints a line for each figure.
///
/// # Errors
/// A run failed.
pub fn run(args: &RatioArgs, json: bool) -> Result<ExitCode, BenchError> {
    if !json {
        println!(
            "{:<46}{:>13}{:>13}{:>7}{:>9}{:>13}{:>8}{:>8}",
            "", "floor", "broker", "ratio", "wanted", "peer", "ratio", "wanted"
        );
    }
    let mut sound = true;
    for case in args.cases() {
        let runs = args.interleaved(&case)?;
        let metrics = if case.rate.is_some() { LATENCY } else { THROUGHPUT };
        for metric in metrics {
            print_metric(&case, metric, &runs, json);
        }
        for (name, run) in runs.named() {
            sound &= run.is_sound();
            if !run.is_sound() || !run.kept_schedule() {
                eprintln!("{}", run.report(&format!("doubtful run of {name}, {}", case.name)).to_text());
            }
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Default)]
struct Runs {
    floor: Vec<Measured>,
    broker: Vec<Measured>,
    peer: Vec<Measured>,
}

impl Runs {
    fn named(&self) -> impl Iterator<Item = (&'static str, &Measured)> {
        let name = |name| move |run| (name, run);
        let floor = self.floor.iter().map(name("the floor"));
        floor.chain(self.broker.iter().map(name("the broker"))).chain(self.peer.iter().map(name("the peer")))
    }
}

impl RatioArgs {
    fn cases(&self) -> Vec<Case> {
        let throughput = self.sizes.iter().map(|&size| Case {
            name: format!("throughput {size} B, {}", self.throughput_idle),
            idle: self.throughput_idle,
            load: LoadOptions { size, ..self.load.clone() },
            rate: None,
        });
        let latency = self.idle.iter().flat_map(|&idle| {
            self.rates.iter().map(move |&rate| Case {
                name: format!("latency {rate}/s, {idle}"),
                idle,
                load: self.load.clone(),
                rate: Some(rate),
            })
        });
        throughput.chain(latency).collect()
    }

    fn interleaved(&self, case: &Case) -> Result<Runs, BenchError> {
        let mut runs = Runs::default();
        let options = FloorOptions { mode: self.floor_mode, io: self.io, idle: case.idle, rdma: self.rdma };
        for _ in 0..self.interleave {
            let floor = Floor::start(options, case.load.publishers as usize)?;
            runs.floor.push(self.undisturbed(case, &floor.target(), Some(std::process::id()))?);
            drop(floor);
            // Not before: a broker that spins would take a core from the floor.
            let broker = self.broker.start(&["--idle", case.idle.name()])?;
            runs.broker.push(self.undisturbed(case, &broker.target(), broker.pid())?);
            drop(broker);
            if let Some(url) = &self.peer_url {
                runs.peer.push(self.undisturbed(case, &Target::Broker(url.clone()), None)?);
            }
        }
        Ok(runs)
    }
}

impl RatioArgs {
    /// Measures, again if others disturbed it. `server`: its process, where known.
    fn undisturbed(&self, case: &Case, target: &Target, server: Option<u32>) -> Result<Measured, BenchError> {
        let mut best: Option<(u64, Measured)> = None;
        let limit_ns = DISTURBED * 1e9 * (case.load.seconds + case.load.warmup);
        for _ in 0..=self.patience {
            let before_ns = server.map_or(0, process_core_wait_ns);
            let run = measure(target, &case.load.workload(&case.name, case.rate)?)?;
            let server_wait_ns = server.map_or(0, process_core_wait_ns).saturating_sub(before_ns);
            let wait_ns = run.outcome.core_wait_ns.max(server_wait_ns);
            if best.as_ref().is_none_or(|(least_ns, _)| wait_ns < *least_ns) {
                best = Some((wait_ns, run));
            }
            // With more threads than cores, throughput waits for cores in any case.
            if case.rate.is_none() || (wait_ns as f64) < limit_ns {
                break;
            }
        }
        Ok(best.expect("there is at least one run").1)
    }
}

fn print_metric(case: &Case, metric: &Metric, runs: &Runs, json: bool) {
    let [floor, broker, peer] = [&runs.floor, &runs.broker, &runs.peer].map(|runs| median(runs, metric.of));
    if json {
        let mut report = Report::new(format!("{}, {}", case.name, metric.name));
        report.text("unit", metric.unit);
        for (name, value) in [
            ("floor", floor),
            ("broker", broker),
            ("peer", peer),
            ("broker to floor", broker / floor),
            ("broker to peer", broker / peer),
        ] {
            report.measure(name, value, "");
        }
        report.print(true);
        return;
    }
    let decimals = if metric.unit == "µs" { 1 } else { 0 };
    let name = format!("{}, {} ({})", case.name, metric.name, metric.unit);
    print!(
        "{name:<46}{:>13}{:>13}{:>7.2}{:>9}",
        grouped(floor, decimals),
        grouped(broker, decimals),
        broker / floor,
        metric.to_floor.verdict(broker / floor)
    );
    if peer.is_finite() {
        let ratio = broker / peer;
        print!("{:>13}{ratio:>8.2}{:>8}", grouped(peer, decimals), metric.to_peer.verdict(ratio));
    }
    println!();
}

impl Bound {
    /// The bound, marked where `ratio` breaks it.
    fn verdict(self, ratio: f64) -> String {
        let (text, holds) = match self {
            Bound::AtLeast(bound) => (format!("≥{bound}"), ratio >= bound),
            Bound::AtMost(bound) => (format!("≤{bound}"), ratio <= bound),
            Bound::None => return String::new(),
        };
        if holds { text } else { format!("{text} !") }
    }
}

/// The middle one; not a number if there is none.
fn median(runs: &[Measured], of: fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}
