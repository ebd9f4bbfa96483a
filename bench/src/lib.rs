//! Fulmar's load and latency harness: `fulmar bench`.
//!
//! * [`workload`], [`result`]: what is asked and what is left behind, as data. [`plan`] gives the names.
//! * [`schedule`], [`stamp`], [`histogram`], [`tracker`], [`timeline`]: when messages are due, and what became of them.
//! * [`driver`]: protocols that can be measured. [`load`]: publishers and consumers on threads, the same for each.
//! * [`target`], [`broker`], [`floor`]: what is put under load; the floor is a server that only moves bytes, on the broker's own
//!   reactor, so that what a broker's logic costs can be told from what the kernel costs.
//! * [`measure`], [`report`]: one run and its figures; [`ratio`] interleaves runs against several targets.
//! * [`group`], [`metric`], [`statistics`]: results sorted for looking at, their figures, what can be said of a few rounds.
//! * [`page`], [`plot`]: results as a page and as plots. [`regress`]: two results against each other.
//! * [`compare`], [`recipe`]: several brokers in turn, and how each is started. [`columns`]: tables on the terminal.
//! * [`run`], [`builtin`], [`overrides`]: the workloads by name and their changes; [`table`], [`hlog`]: what is printed and
//!   logged. [`sweep`]: the highest rate under a limit. [`ceiling`], [`processes`]: what the load generator itself can do, and more of it.
//! * [`disk`]: what a disk takes and how long it makes one wait, without a broker.
//! * [`disturb`]: what handshakes, slow clients and floods of logins cost others.
//! * [`scale`]: many connections, many declarations, a large deletion beside traffic.

pub mod broker;
pub mod builtin;
pub mod ceiling;
pub mod clock;
pub mod columns;
pub mod compare;
pub mod disk;
pub mod disturb;
pub mod draw;
pub mod driver;
pub mod floor;
pub mod group;
pub mod histogram;
pub mod hlog;
pub mod load;
pub mod machine;
pub mod measure;
pub mod metric;
pub mod options;
pub mod overrides;
pub mod page;
pub mod plan;
pub mod plot;
pub mod poll;
pub mod processes;
pub mod progress;
pub mod ratio;
pub mod recipe;
pub mod regress;
pub mod report;
pub mod result;
pub mod run;
pub mod scale;
pub mod schedule;
pub mod stamp;
pub mod statistics;
pub mod sweep;
pub mod table;
pub mod target;
#[cfg(test)]
mod test_results;
pub mod timeline;
pub mod tracker;
pub mod url;
pub mod workload;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::broker::BrokerOptions;
use crate::driver::amqp::DriverError;
use crate::floor::Floor;
use crate::load::LoadError;
use crate::measure::{Measured, measure};
use crate::options::{FloorOptions, LoadOptions};
use crate::run::SCHEDULE_MISSED;
use crate::workload::WorkloadError;

/// Measures a broker, and the floor beneath it.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print one JSON object a line instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a workload: latency in full at a rate, or throughput in a flood. Exits with 1 if messages were lost, doubled,
    /// reordered or refused, with 3 if the rate could not be kept.
    Run(Box<run::RunArgs>),
    /// Explains the built-in workloads.
    List,
    /// The highest rate that keeps p99 under a limit, by bisection. Exits with 1 if even the lowest rate fails.
    Sweep(Box<sweep::SweepArgs>),
    /// What the load generator itself can do, against servers that do nothing.
    Ceiling(Box<ceiling::CeilingArgs>),
    /// How many messages a second go through a broker.
    Throughput {
        #[command(flatten)]
        broker: BrokerOptions,
        #[command(flatten)]
        load: LoadOptions,
    },
    /// How long messages take through a broker at a constant rate, counted from when each should have left. Exits
    /// with 3 if the rate could not be kept.
    Latency {
        #[command(flatten)]
        broker: BrokerOptions,
        /// Messages a second, from all publishers together.
        #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        rate: u64,
        #[command(flatten)]
        load: LoadOptions,
    },
    /// The same load against a server without broker logic, on the broker's own reactor: throughput, then latency.
    Floor {
        #[command(flatten)]
        floor: FloorOptions,
        /// Every --io with every --idle that it has, echo and relay, as one table.
        #[arg(long)]
        all: bool,
        /// Messages a second for the latency.
        #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        rate: u64,
        #[command(flatten)]
        load: LoadOptions,
    },
    /// What a disk can do without a broker: one flushed write at a time, and a stream of them.
    Disk(disk::DiskArgs),
    /// Floor, broker and peer in turns, with medians and ratios.
    Ratio(Box<ratio::RatioArgs>),
    /// Opens idle connections and tells what each costs the broker in memory.
    Connections(scale::ConnectionsArgs),
    /// Declares many queues with bindings in one pipeline and tells how long that takes.
    Declare(scale::DeclareArgs),
    /// Deletes a queue with many bindings beside a publisher and tells how long that holds up its messages.
    DeleteStall(scale::DeleteStallArgs),
    /// Runs workloads against several brokers in turn, interleaved: medians, spread and ratios. Exits with 1 if messages
    /// were lost, refused, doubled or reordered.
    Compare(compare::CompareArgs),
    /// What a nuisance costs others: TLS handshakes, clients that say little or too much, wrong passwords.
    Disturb(Box<disturb::DisturbArgs>),
    /// Makes a page with tables and plots of results.
    Report(page::ReportArgs),
    /// Compares two results and says what changed beyond the noise. Exits with 0 if nothing is worse, with 1 if
    /// something is, with 2 if they cannot be compared.
    Regress(regress::RegressArgs),
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The options do not go together.
    #[error("{0}")]
    Options(String),
    /// The workload cannot be run.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The broker could not be set up for the load.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The load ended early.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A broker cannot be started.
    #[error(transparent)]
    Start(#[from] recipe::StartError),
    /// A result cannot be used.
    #[error(transparent)]
    Result(#[from] result::ResultError),
    /// The system refused something.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

/// Runs `fulmar bench`.
pub fn run(args: BenchArgs) -> ExitCode {
    match dispatch(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fulmar bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: BenchArgs) -> Result<ExitCode, BenchError> {
    let json = args.json;
    match args.command {
        Command::Run(args) => run::run(&args, json),
        Command::List => {
            run::list(json);
            Ok(ExitCode::SUCCESS)
        }
        Command::Sweep(args) => sweep::run(&args, json),
        Command::Ceiling(args) => ceiling::run(&args, json),
        Command::Throughput { broker, load } => {
            let broker = broker.start(&[])?;
            let measured = measure(&broker.target(), &load.workload("throughput", None)?)?;
            measured.report("throughput").print(json);
            Ok(verdict(&measured))
        }
        Command::Latency { broker, rate, load } => {
            let broker = broker.start(&[])?;
            let measured = measure(&broker.target(), &load.workload("latency", Some(rate))?)?;
            measured.report("latency").print(json);
            Ok(verdict(&measured))
        }
        Command::Floor { all: true, rate, load, .. } => floor::table::run(rate, &load, json),
        Command::Floor { floor, rate, load, .. } => run_floor(floor, rate, &load, json),
        Command::Disk(args) => disk::run(&args, json),
        Command::Ratio(args) => ratio::run(&args, json),
        Command::Connections(args) => scale::connections(&args).map(|report| done(&report, json)),
        Command::Declare(args) => scale::declare(&args).map(|report| done(&report, json)),
        Command::DeleteStall(args) => scale::delete_stall(&args).map(|report| done(&report, json)),
        Command::Compare(args) => compare::run(&args, json),
        Command::Disturb(args) => disturb::run(&args, json),
        Command::Report(args) => page::run(&args),
        Command::Regress(args) => Ok(regress::run(&args, json)),
    }
}

fn run_floor(
    options: FloorOptions,
    rate: u64,
    load: &LoadOptions,
    json: bool,
) -> Result<ExitCode, BenchError> {
    let mut code = ExitCode::SUCCESS;
    for rate in [None, Some(rate)] {
        let what = if rate.is_some() { "latency" } else { "throughput" };
        let workload = load.workload(what, rate)?;
        let floor = Floor::start(options, load.publishers as usize)?;
        let measured = measure(&floor.target(), &workload)?;
        measured
            .report(&format!(
                "floor, {} on {}, {}, {what}",
                options.mode.name(),
                floor.io_name(),
                options.idle
            ))
            .print(json);
        if !measured.kept_schedule() || !measured.is_sound() {
            code = verdict(&measured);
        }
    }
    Ok(code)
}

fn verdict(measured: &Measured) -> ExitCode {
    if !measured.is_sound() {
        eprintln!("fulmar bench: messages were lost, duplicated, reordered or refused");
        ExitCode::FAILURE
    } else if !measured.kept_schedule() {
        eprintln!("fulmar bench: the schedule could not be kept");
        ExitCode::from(SCHEDULE_MISSED)
    } else {
        ExitCode::SUCCESS
    }
}

fn done(report: &report::Report, json: bool) -> ExitCode {
    report.print(json);
    ExitCode::SUCCESS
}
