//! Many connections, many declarations, a large deletion beside traffic.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use fulmar_amqp_0_9_1::codec::{Method, TableRef};

use crate::BenchError;
use crate::broker::BrokerOptions;
use crate::clock::Clock;
use crate::driver::amqp::session::queue_declare;
use crate::driver::amqp::{CHANNEL, Session};
use crate::load::Window;
use crate::machine::{raise_descriptor_limit_for, resident_bytes};
use crate::measure::{Extras, Measured, measure_with};
use crate::options::LoadOptions;
use crate::plan::unique_prefix;
use crate::report::Report;

/// Latencies count to a deletion until so long after its answer.
const AFTERMATH_NS: u64 = 50_000_000;

/// Options of `fulmar bench connections`.
#[derive(Debug, Args)]
pub struct ConnectionsArgs {
    #[command(flatten)]
    broker: BrokerOptions,
    /// How many, each with one open channel.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    count: usize,
    /// The broker's process, to read its memory from; known with --serve.
    #[arg(long)]
    pid: Option<u32>,
}

/// Opens idle connections and reads the broker's memory before and after.
///
/// # Errors
/// A connection was refused, or the process cannot be read.
pub fn connections(args: &ConnectionsArgs) -> Result<Report, BenchError> {
    raise_descriptor_limit_for(args.count as u64 + 100)?;
    args.broker.require_amqp_0_9_1()?;
    let broker = args.broker.start(&[])?;
    let pid = args.pid.or(broker.pid());
    // What the first connection brings about once is not a connection's cost.
    drop(Session::open(&broker.url)?);
    let before = pid.map(resident_bytes).transpose()?;
    let started = Instant::now();
    let mut sessions = Vec::with_capacity(args.count);
    for _ in 0..args.count {
        sessions.push(Session::open(&broker.url)?);
    }
    let opened = started.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    let after = pid.map(resident_bytes).transpose()?;
    let mut report = Report::new("idle connections");
    report.count("connections", args.count as u64);
    report.measure("opened in", opened.as_secs_f64(), "s");
    if let (Some(before), Some(after)) = (before, after) {
        report.count("memory before (B)", before);
        report.count("memory with all (B)", after);
        report.count("memory per connection (B)", after.saturating_sub(before) / args.count.max(1) as u64);
    }
    Ok(report)
}

/// Options of `fulmar bench declare`.
#[derive(Debug, Args)]
pub struct DeclareArgs {
    #[command(flatten)]
    broker: BrokerOptions,
    /// How many queues.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    queues: usize,
    /// Bindings of each queue.
    #[arg(long, value_name = "N", default_value_t = 3)]
    bindings: usize,
    /// Exchange that they are bound to.
    #[arg(long, default_value = "amq.topic")]
    exchange: String,
}

/// Declares queues and bindings in one pipeline, each answered, and deletes them likewise.
///
/// # Errors
/// The broker refused.
pub fn declare(args: &DeclareArgs) -> Result<Report, BenchError> {
    args.broker.require_amqp_0_9_1()?;
    let broker = args.broker.start(&[])?;
    let mut session = Session::open(&broker.url)?;
    let prefix = unique_prefix();
    let (mut declarations, mut deletions) = (Vec::new(), Vec::new());
    for n in 0..args.queues {
        let queue = format!("{prefix}.{n}");
        queue_declare(&queue, false).encode(CHANNEL, &mut declarations);
        push_bindings(&queue, &args.exchange, args.bindings, &mut declarations);
        queue_delete(&queue).encode(CHANNEL, &mut deletions);
    }
    let is_answer = |answer: &Method<'_>| {
        matches!(answer, Method::QueueDeclareOk { .. } | Method::QueueBindOk | Method::QueueDeleteOk { .. })
    };
    let declared = session.pipeline(&declarations, args.queues * (1 + args.bindings), is_answer)?;
    let deleted = session.pipeline(&deletions, args.queues, is_answer)?;
    let mut report = Report::new("declarations in a pipeline");
    report.count("queues", args.queues as u64);
    report.count("bindings", (args.queues * args.bindings) as u64);
    report.measure("declared in", declared.as_secs_f64(), "s");
    report.measure("deleted in", deleted.as_secs_f64(), "s");
    Ok(report)
}

fn push_bindings(queue: &str, exchange: &str, bindings: usize, output: &mut Vec<u8>) {
    for n in 0..bindings {
        Method::QueueBind {
            queue: queue.as_bytes(),
            exchange: exchange.as_bytes(),
            routing_key: format!("{queue}.key.{n}").as_bytes(),
            no_wait: false,
            arguments: TableRef::EMPTY,
        }
        .encode(CHANNEL, output);
    }
}

fn queue_delete(queue: &str) -> Method<'_> {
    Method::QueueDelete { queue: queue.as_bytes(), if_unused: false, if_empty: false, no_wait: false }
}

/// Options of `fulmar bench delete-stall`.
#[derive(Debug, Args)]
pub struct DeleteStallArgs {
    #[command(flatten)]
    broker: BrokerOptions,
    /// Bindings of each queue that is deleted.
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    bindings: usize,
    /// Queues that are deleted, evenly over the time.
    #[arg(long, value_name = "N", default_value_t = 5)]
    victims: usize,
    /// Messages a second beside it.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    #[command(flatten)]
    load: LoadOptions,
}

/// Deletes queues with many bindings beside a steady publisher.
///
/// # Errors
/// The broker refused, or the load failed.
pub fn delete_stall(args: &DeleteStallArgs) -> Result<Report, BenchError> {
    args.broker.require_amqp_0_9_1()?;
    let broker = args.broker.start(&[])?;
    let mut load = args.load.clone();
    if load.exchange.is_empty() {
        load.exchange = "amq.topic".into();
    }
    let prefix = unique_prefix();
    let victims: Vec<String> = (0..args.victims).map(|n| format!("{prefix}.victim.{n}")).collect();
    let mut session = Session::open(&broker.url)?;
    for victim in &victims {
        let mut declarations = Vec::new();
        queue_declare(victim, false).encode(CHANNEL, &mut declarations);
        push_bindings(victim, &load.exchange, args.bindings, &mut declarations);
        let is_answer =
            |answer: &Method<'_>| matches!(answer, Method::QueueDeclareOk { .. } | Method::QueueBindOk);
        session.pipeline(&declarations, 1 + args.bindings, is_answer)?;
    }
    let session = Mutex::new(session);
    let deletions = Mutex::new(Ok(Vec::new()));
    let beside = |clock: Clock, window: Window| {
        let mut session = session.lock().expect("only this thread uses it");
        *deletions.lock().expect("only this thread uses it") = delete(&mut session, &victims, clock, window);
    };
    let extras = Extras { timeline: true, beside: Some(&beside), ..Extras::default() };
    let measured = measure_with(&broker.target(), &load.workload("delete-stall", Some(args.rate))?, &extras)?;
    let deletions = deletions.into_inner().expect("no thread panicked")?;
    Ok(stall_report(args, &measured, &deletions))
}

/// Deletes the victims; returns when each deletion was asked for and answered.
fn delete(
    session: &mut Session,
    victims: &[String],
    clock: Clock,
    window: Window,
) -> Result<Vec<(u64, u64)>, BenchError> {
    let step_ns = (window.to_ns - window.from_ns) / (victims.len() as u64 + 1);
    let mut deletions = Vec::new();
    for (n, victim) in victims.iter().enumerate() {
        let due_ns = window.from_ns + (n as u64 + 1) * step_ns;
        std::thread::sleep(Duration::from_nanos(due_ns.saturating_sub(clock.now_ns())));
        let asked_ns = clock.now_ns();
        session.delete_queue(victim)?;
        deletions.push((asked_ns, clock.now_ns()));
    }
    Ok(deletions)
}

fn stall_report(args: &DeleteStallArgs, measured: &Measured, deletions: &[(u64, u64)]) -> Report {
    let timeline = measured.outcome.timeline.as_ref().expect("it was asked for");
    // A message that left just before may be held up too.
    let worst = deletions.iter().map(|(from, to)| {
        let before_ns = 1_000_000;
        timeline.worst_ns(from.saturating_sub(before_ns), to + AFTERMATH_NS)
    });
    let quiet =
        deletions.windows(2).map(|pair| timeline.worst_ns(pair[0].1 + AFTERMATH_NS, pair[1].0 - 2_000_000));
    let longest_ns = deletions.iter().map(|(from, to)| to - from).max().unwrap_or(0);
    let mut report = Report::new("deleting a queue beside a publisher");
    report.count("bindings", args.bindings as u64);
    report.count("deletions", deletions.len() as u64);
    report.measure("longest deletion", longest_ns as f64 / 1e6, "ms");
    report.measure("worst latency at a deletion", worst.max().unwrap_or(0) as f64 / 1e6, "ms");
    report.measure("worst latency between deletions", quiet.max().unwrap_or(0) as f64 / 1e6, "ms");
    report.measure("p50", measured.latencies().p50_ns as f64 / 1e6, "ms");
    report.count("lost", measured.outcome.lost());
    report
}
