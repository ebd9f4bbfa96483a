//! `fulmar bench run`: a workload against a broker, as a table, as a result and as a log of histograms.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::BenchError;
use crate::broker::{Broker, BrokerOptions};
use crate::measure::{Extras, Measured, measure_with};
use crate::overrides::Overrides;
use crate::result::{Counts, Distribution, ResultFile, RunResult, TargetFacts};
use crate::target::Target;
use crate::workload::Workload;
use crate::{builtin, ceiling, hlog, processes, table};

/// Exit status when a schedule could not be kept.
pub const SCHEDULE_MISSED: u8 = 3;

/// Options of `fulmar bench run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// A built-in workload (`fulmar bench list`), or a file with one, TOML or JSON.
    pub workload: String,
    #[command(flatten)]
    broker: BrokerOptions,
    /// Write the result to this file, for reports and comparisons.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Write the histogram of every interval to this file, in HdrHistogram's log format.
    #[arg(long, value_name = "FILE.hlog")]
    hlog: Option<PathBuf>,
    /// How many times.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds to measure the load generator's own limit for, before a flood; 0 for not at all.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    ceiling: f64,
    /// One of several processes: keep the histograms of intervals in the result, for adding up, and show nothing.
    #[arg(long, hide = true)]
    part: bool,
    #[command(flatten)]
    overrides: Overrides,
}

/// Runs a workload as often as asked for, and prints and writes what came of it.
///
/// # Errors
/// It could not be run, or a file not be written.
pub fn run(args: &RunArgs, json: bool) -> Result<ExitCode, BenchError> {
    let workload = args.overrides.workload(&args.workload)?;
    if workload.client.processes > 1 && args.hlog.is_some() {
        return Err(BenchError::Options("--hlog goes with a single process of the load generator".into()));
    }
    let ceiling_hz = args.ceiling_hz(&workload)?;
    let broker = args.broker.start(&[])?;
    let facts = broker.facts()?;
    let (mut runs, mut logged) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        let mut result = if workload.client.processes > 1 {
            let mut result = processes::run(&workload, &args.broker, &broker)?;
            (result.target, result.round) = (facts.clone(), round);
            result
        } else {
            let measured = run_once(&broker, &workload, !args.part)?;
            let result = measured.result(facts.clone(), round);
            logged.push(measured);
            result
        };
        if args.part {
            whole_intervals(&mut result, logged.last());
        }
        result.ceiling_hz = ceiling_hz;
        if !args.part {
            print(&result, json);
        }
        runs.push(result);
    }
    if let Some(path) = &args.hlog {
        hlog::write_file(path, &logged.iter().collect::<Vec<_>>())?;
    }
    // Messages that were lost matter more than a schedule that was missed.
    let codes = || runs.iter().map(verdict);
    let code = codes().find(|code| *code == 1).or(codes().max()).unwrap_or(0);
    if !args.part {
        tell(code);
    }
    if let Some(path) = &args.out {
        ResultFile::new(runs).write(path)?;
    }
    Ok(ExitCode::from(code))
}

impl RunArgs {
    fn ceiling_hz(&self, workload: &Workload) -> Result<Option<f64>, BenchError> {
        if workload.rate_hz.is_some() || self.ceiling <= 0.0 || self.broker.uses_tls() {
            return Ok(None);
        }
        Ok(Some(ceiling::of_processes(self.broker.url.protocol, workload, self.ceiling)?.both_hz))
    }
}

/// Runs a workload once. `progress`: on the terminal, if there is one.
///
/// # Errors
/// It could not be run.
pub fn run_once(broker: &Broker, workload: &Workload, progress: bool) -> Result<Measured, BenchError> {
    let extras = Extras { pid: broker.pid(), progress, ..Extras::default() };
    measure_with(&broker.target(), workload, &extras)
}

/// Runs a workload once against a target that is there already. `pid`: its process, to read its memory from.
///
/// # Errors
/// It could not be run.
pub fn run_against(
    target: &Target,
    facts: TargetFacts,
    workload: &Workload,
    pid: Option<u32>,
    round: u32,
) -> Result<RunResult, BenchError> {
    let extras = Extras { pid, progress: true, ..Extras::default() };
    Ok(measure_with(target, workload, &extras)?.result(facts, round))
}

/// Prints a run: a table, or one JSON object on a line.
pub fn print(run: &RunResult, json: bool) {
    if json {
        println!("{}", serde_json::to_string(run).expect("it has no keys but text"));
    } else {
        print!("{}", table::of_run(run));
    }
}

/// Exit status of a run: 0, or 1 if messages did not come as they should, or 3 if the schedule was missed.
pub fn verdict(run: &RunResult) -> u8 {
    let Counts { lost, duplicated, out_of_order, refused, .. } = run.counts;
    match lost + duplicated + out_of_order + refused {
        0 if run.kept_schedule => 0,
        0 => SCHEDULE_MISSED,
        _ => 1,
    }
}

/// Says what an exit status means.
fn tell(code: u8) {
    match code {
        0 => {}
        SCHEDULE_MISSED => eprintln!("fulmar bench: the schedule could not be kept"),
        _ => eprintln!("fulmar bench: messages were lost, duplicated, reordered or refused"),
    }
}

fn whole_intervals(result: &mut RunResult, measured: Option<&Measured>) {
    let pieces = measured.map_or(&[][..], |measured| &measured.outcome.pieces);
    for (interval, piece) in result.intervals.iter_mut().zip(pieces) {
        interval.latency =
            (piece.latency.count() > 0).then(|| Distribution::whole(piece.latency.histogram()));
    }
}

/// Prints what the built-in workloads are.
pub fn list(json: bool) {
    for workload in builtin::all() {
        if json {
            println!("{}", serde_json::to_string(&workload).expect("it has no keys but text"));
        } else {
            println!("{}", explained(&workload));
        }
    }
}

/// A workload's name, numbers and question.
fn explained(workload: &Workload) -> String {
    let rate = workload
        .rate_hz
        .map_or("flood".into(), |rate| format!("{}/s", crate::report::grouped(rate as f64, 0)));
    let numbers = format!(
        "{} to {} through {}, {}, {rate}",
        workload.publishers, workload.consumers, workload.queues, workload.size
    );
    let mut text = format!("{:<18}{numbers}\n", workload.name);
    let mut line = String::from("   ");
    for word in workload.description.split_whitespace() {
        if line.len() + word.len() > 100 {
            text += &format!("{line}\n");
            line = String::from("   ");
        }
        line = line + " " + word;
    }
    text + &line
}
