//! One run of the load generator against one target.

use std::time::{Duration, SystemTime};

use crate::BenchError;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::driver::amqp::Amqp;
use crate::driver::amqp_0_10::Amqp010;
use crate::driver::pairs::{Pairing, Pairs};
use crate::load::{
    self, Confirms, Consumer, Crew, Cut, Outcome, Pace, Pacing, Publisher, Recorder, Shared, Window,
};
use crate::machine::{self, resident_bytes};
use crate::plan::{Plan, unique_prefix};
use crate::progress::Progress;
use crate::report::Report;
use crate::result::{Counts, Distribution, Disturbance, Interval, RunResult, TargetFacts};
use crate::schedule::Schedule;
use crate::target::Target;
use crate::timeline::Timeline;
use crate::tracker::Tracker;
use crate::url::Protocol;
use crate::workload::{Arrival, Pattern, Workload};

/// Part of the messages of a schedule that may be late at its end.
const LATE: f64 = 0.01;

/// Time between the end of the set-up and the first message.
const LEAD_NS: u64 = 20_000_000;

/// Limit in flight of a flood without confirms, if the workload has none.
const FLOOD_IN_FLIGHT: u64 = 50_000;

/// Memory that trackers take in advance at most.
const TRACKER_BYTES: u64 = 64 * 1024 * 1024;

/// How long a broker may take to put back what was not acknowledged.
const PUT_BACK: Duration = Duration::from_secs(2);

/// Longest time between two looks at the progress.
const LOOK: Duration = Duration::from_millis(500);

/// One run.
#[derive(Debug)]
pub struct Measured {
    /// What was asked for.
    pub workload: Workload,
    /// What the load generator saw.
    pub outcome: Outcome,
    /// When measuring began.
    pub started: SystemTime,
    /// Length of the measured part.
    pub seconds: f64,
    /// Length of an interval.
    pub interval_s: f64,
    /// Memory of the broker at the end of each interval, where its process is known.
    pub rss_bytes: Vec<Option<u64>>,
    /// How much others disturbed the load generator.
    pub disturbance: Disturbance,
}

/// Parts of a run that only some commands use.
#[derive(Default)]
pub struct Extras<'a> {
    /// Record the worst latencies over time.
    pub timeline: bool,
    /// Called beside the load, on a thread of its own, with the run's clock and window.
    pub beside: Option<&'a (dyn Fn(Clock, Window) + Sync)>,
    /// The broker's process.
    pub pid: Option<u32>,
    /// Shows how far the run is, on a terminal.
    pub progress: bool,
}

/// Runs a workload.
///
/// # Errors
/// Anything that went wrong.
pub fn measure(target: &Target, workload: &Workload) -> Result<Measured, BenchError> {
    measure_with(target, workload, &Extras::default())
}

/// Runs a workload with extras.
///
/// # Errors
/// Anything that went wrong.
pub fn measure_with(
    target: &Target,
    workload: &Workload,
    extras: &Extras<'_>,
) -> Result<Measured, BenchError> {
    workload.check()?;
    match target {
        Target::Broker(url) => match url.protocol {
            Protocol::Amqp091 => drive(Amqp::new(url.clone()), workload, extras),
            Protocol::Amqp010 => drive(Amqp010::new(url.clone()), workload, extras),
        },
        Target::Relay(server) => drive(Pairs::new(*server, Pairing::Relay), workload, extras),
        Target::Echo(server) => drive(Pairs::new(*server, Pairing::Echo), workload, extras),
    }
}

fn drive<D: Driver>(mut driver: D, workload: &Workload, extras: &Extras<'_>) -> Result<Measured, BenchError> {
    let connections = workload.publishers + 2 * workload.consumers + workload.idle_connections;
    machine::raise_descriptor_limit_for(u64::from(connections) + 100)?;
    let plan = Plan::new(workload.clone(), unique_prefix());
    let measured = driver.declare(&plan).and_then(|()| match workload.pattern {
        Pattern::Stream | Pattern::RequestReply => stream(&mut driver, &plan, extras),
        Pattern::BacklogDrain => backlog(&mut driver, &plan, extras),
    });
    // Also after an error, of which then the first counts.
    let removed = driver.remove();
    let measured = measured?;
    removed?;
    Ok(measured)
}

/// Publishes and consumes at the same time.
fn stream<D: Driver>(driver: &mut D, plan: &Plan, extras: &Extras<'_>) -> Result<Measured, BenchError> {
    let workload = &plan.workload;
    let consumers = driver.consumers(plan)?;
    let responders = driver.responders(plan)?;
    let publishers = driver.publishers(plan)?;
    let clock = Clock::start();
    let from_ns = LEAD_NS + (workload.warmup_s * 1e9) as u64;
    let window = Window { from_ns, to_ns: from_ns + (workload.seconds * 1e9) as u64 };
    let mut shared = Shared::new(clock, window, workload.wait(), publishers.len());
    let flood = workload.rate_hz.is_none() && workload.confirm_window.is_none();
    shared.in_flight = workload.in_flight.unwrap_or(if flood { FLOOD_IN_FLIGHT } else { u64::MAX });
    shared.cut_off = workload.slow.is_some();
    let crews = Crew::<D>::deal(
        dress_publishers(plan, publishers),
        dress_consumers(plan, consumers),
        responders,
        workload.threads(),
        |receives| recorder(plan, window, receives, extras.timeline),
    );
    let mut watch = Watch::new(workload, window, extras);
    let mut outcome = std::thread::scope(|scope| {
        if let Some(beside) = extras.beside {
            scope.spawn(move || beside(clock, window));
        }
        load::run(&shared, crews, |wait| watch.run(&shared, wait))
    })?;
    if shared.cut_off {
        outcome.left = left(driver, plan, outcome.expected.saturating_sub(outcome.distinct))?;
    }
    Ok(watch.measured(outcome))
}

/// Publishes everything, then consumes everything.
fn backlog<D: Driver>(driver: &mut D, plan: &Plan, extras: &Extras<'_>) -> Result<Measured, BenchError> {
    let workload = &plan.workload;
    let clock = Clock::start();
    // Each phase ends when it is through; a day is no limit.
    let window_from = |from_ns| Window { from_ns, to_ns: from_ns + 86_400_000_000_000 };
    let phase = |window, publishers| {
        let mut shared = Shared::new(clock, window, workload.wait(), publishers);
        shared.patient_until_ns = 0;
        shared
    };
    let publishers = dress_publishers(plan, driver.publishers(plan)?);
    let window = window_from(clock.now_ns());
    let shared = phase(window, publishers.len());
    let record = |window| move |receives| recorder(plan, window, receives, false);
    let crews = Crew::<D>::deal(publishers, Vec::new(), Vec::new(), workload.threads(), record(window));
    let mut watch = Watch::new(workload, window, extras);
    let filled = load::run(&shared, crews, |wait| watch.run(&shared, wait))?;

    let consumers = dress_consumers(plan, driver.consumers(plan)?);
    let drain = window_from(clock.now_ns());
    let shared = phase(drain, 0).with_backlog(filled.expected);
    let crews = Crew::<D>::deal(Vec::new(), consumers, Vec::new(), workload.threads(), record(drain));
    let mut drained = load::run(&shared, crews, |wait| watch.run(&shared, wait))?;

    drained.published_hz = filled.published_hz;
    (drained.published, drained.expected) = (filled.published, filled.expected);
    (drained.confirmed, drained.refused) = (filled.confirmed, filled.refused);
    drained.core_wait_ns = drained.core_wait_ns.max(filled.core_wait_ns);
    (drained.published_in, drained.consumed_in) = (Vec::new(), Vec::new());
    let mut measured = watch.measured(drained);
    measured.seconds = (clock.now_ns() - window.from_ns) as f64 / 1e9;
    Ok(measured)
}

/// How many messages are in the queues, when what was not acknowledged is back.
fn left<D: Driver>(driver: &mut D, plan: &Plan, wanted: u64) -> Result<u64, BenchError> {
    let step = Duration::from_millis(50);
    for _ in 0..PUT_BACK.as_millis() / step.as_millis() {
        if driver.left(plan)? >= wanted {
            break;
        }
        std::thread::sleep(step);
    }
    driver.left(plan)
}

/// Publishers of a plan on its links.
pub fn dress_publishers<L: crate::driver::PublishLink>(plan: &Plan, links: Vec<L>) -> Vec<Publisher<L>> {
    let workload = &plan.workload;
    let count = links.len() as u64;
    let dress = |(n, link)| {
        let pace = workload
            .rate_hz
            .map_or(Pace::Flood, |rate| Pace::Scheduled(share(workload, rate, n as u64, count)));
        let confirms = workload.confirm_window.map(Confirms::new);
        let limit = workload.messages.unwrap_or(u64::MAX);
        Publisher::new(n as u16, link, pace, plan.routes.copies(n).clone(), limit, confirms)
    };
    links.into_iter().enumerate().map(dress).collect()
}

/// Consumers of a plan on its links.
pub fn dress_consumers<L: crate::driver::ConsumeLink>(plan: &Plan, links: Vec<L>) -> Vec<Consumer<L>> {
    let slow = plan.workload.slow;
    let dress = |(n, link)| {
        let pacing = slow.filter(|slow| n < slow.consumers as usize).map(|slow| Pacing::new(slow.rate_hz));
        let mut consumer = Consumer::new(link, plan.queue_of_consumer(n), plan.workload.ack.batch(), pacing);
        if pacing.is_some() && slow.is_some_and(|slow| slow.consumers < plan.workload.consumers) {
            consumer = consumer.untimed();
        }
        if plan.keeps_order() { consumer } else { consumer.in_any_order() }
    };
    links.into_iter().enumerate().map(dress).collect()
}

/// The schedule of the `n`th publisher of `count`: at a constant rate their messages alternate.
fn share(workload: &Workload, rate_hz: u64, n: u64, count: u64) -> Schedule {
    let own_hz = rate_hz / count + u64::from(n < rate_hz % count);
    match workload.arrival {
        Arrival::Constant => Schedule::even(LEAD_NS + n * 1_000_000_000 / rate_hz, own_hz),
        Arrival::Poisson => Schedule::poisson(LEAD_NS, own_hz, workload.seed.wrapping_add(n)),
    }
}

fn recorder(plan: &Plan, window: Window, receives: bool, timeline: bool) -> Recorder {
    let workload = &plan.workload;
    let queues = if receives { plan.measured_queues().len() } else { 0 };
    let publishers = u64::from(workload.publishers);
    let of_each = workload.rate_hz.map_or(0, |rate| rate * window.to_ns.div_ceil(1_000_000_000) / publishers);
    let enough = queues as u64 * publishers * of_each / 8 <= TRACKER_BYTES;
    let tracker = |_| match enough && of_each > 0 {
        true => Tracker::with_room(publishers as usize, of_each),
        false => Tracker::default(),
    };
    let trackers = (0..queues).map(tracker).collect();
    let timed = workload.rate_hz.is_some() && workload.pattern != Pattern::BacklogDrain;
    let timeline = timeline.then(|| Timeline::new(window.to_ns));
    let mut recorder = Recorder::new(window, timed, trackers, timeline);
    recorder.ends_early = workload.messages.is_some();
    recorder
}

/// What the thread that started a run does meanwhile.
struct Watch<'a> {
    workload: &'a Workload,
    window: Window,
    cut: Cut,
    pid: Option<u32>,
    progress: Progress,
    started: SystemTime,
    rss_bytes: Vec<Option<u64>>,
    steal_ns: u64,
    load_average: f64,
}

impl<'a> Watch<'a> {
    fn new(workload: &'a Workload, window: Window, extras: &Extras<'_>) -> Self {
        Watch {
            workload,
            window,
            cut: Cut::of(window),
            pid: extras.pid,
            progress: Progress::new(workload, extras.progress),
            started: SystemTime::now() + Duration::from_nanos(window.from_ns),
            rss_bytes: Vec::new(),
            steal_ns: machine::steal_ns(),
            load_average: machine::load_average(),
        }
    }

    fn run(&mut self, shared: &Shared, wait: &dyn Fn(Duration) -> bool) {
        loop {
            let now_ns = shared.clock.now_ns();
            let ends_ns =
                |interval: usize| self.window.from_ns + (interval as u64 + 1) * self.cut.interval_ns;
            while self.rss_bytes.len() < self.cut.count && now_ns >= ends_ns(self.rss_bytes.len()) {
                self.rss_bytes.push(self.pid.and_then(|pid| resident_bytes(pid).ok()));
            }
            self.progress.show(shared);
            let mut timeout = LOOK;
            if self.pid.is_some() && self.rss_bytes.len() < self.cut.count {
                timeout = timeout.min(Duration::from_nanos(ends_ns(self.rss_bytes.len()) - now_ns));
            }
            if wait(timeout) {
                return;
            }
        }
    }

    fn measured(self, outcome: Outcome) -> Measured {
        self.progress.end();
        Measured {
            workload: self.workload.clone(),
            started: self.started,
            seconds: (self.window.to_ns - self.window.from_ns) as f64 / 1e9,
            interval_s: self.cut.interval_ns as f64 / 1e9,
            rss_bytes: self.rss_bytes,
            disturbance: Disturbance {
                core_wait_ns: outcome.core_wait_ns,
                load_average: self.load_average,
                steal_ns: machine::steal_ns().saturating_sub(self.steal_ns),
            },
            outcome,
        }
    }
}

impl Measured {
    /// Messages a second that publishers wrote.
    pub fn published_hz(&self) -> f64 {
        self.outcome.published_hz
    }

    /// Messages a second that consumers got.
    pub fn consumed_hz(&self) -> f64 {
        self.outcome.consumed_hz
    }

    /// From due to received; zeros if nothing was.
    pub fn latencies(&self) -> Distribution {
        Distribution::plain(self.outcome.latencies.histogram())
    }

    /// Whether the messages left when they should have.
    pub fn kept_schedule(&self) -> bool {
        self.outcome.late as f64 <= (LATE * self.outcome.due as f64).max(1.0)
    }

    /// Whether every message came, once and in order.
    pub fn is_sound(&self) -> bool {
        let outcome = &self.outcome;
        outcome.lost() + outcome.duplicated + outcome.out_of_order + outcome.refused == 0
    }

    /// The figures.
    pub fn report(&self, title: &str) -> Report {
        let mut report = Report::new(format!("{title}, {}", self.workload.size));
        match self.workload.rate_hz {
            None => self.report_throughput(&mut report),
            Some(rate) => self.report_latency(&mut report, rate),
        }
        let outcome = &self.outcome;
        report.measure("client without a core", outcome.core_wait_ns as f64 / 1e6, "ms");
        report.count("messages", outcome.published);
        report.count("lost", outcome.lost());
        report.count("duplicated", outcome.duplicated);
        report.count("out of order", outcome.out_of_order);
        if self.workload.confirm_window.is_some() {
            report.count("confirmed", outcome.confirmed);
        }
        if outcome.refused > 0 {
            report.count("refused", outcome.refused);
        }
        report
    }

    fn report_throughput(&self, report: &mut Report) {
        let megabytes = self.consumed_hz() * self.workload.size.mean() / 1e6;
        report.measure("published", self.published_hz(), "msg/s");
        report.measure("consumed", self.consumed_hz(), "msg/s");
        report.measure("consumed bodies", megabytes, "MB/s");
    }

    fn report_latency(&self, report: &mut Report, rate: u64) {
        report.measure("asked", rate as f64, "msg/s");
        report.measure("reached", self.published_hz(), "msg/s");
        report.percentiles(&self.latencies());
        if let Some(confirms) = self.outcome.confirm_latencies.percentiles() {
            report.measure("confirm p50", confirms.p50_ns as f64 / 1e3, "µs");
            report.measure("confirm p99", confirms.p99_ns as f64 / 1e3, "µs");
            report.measure("confirm max", confirms.max_ns as f64 / 1e3, "µs");
        }
        if !self.kept_schedule() {
            report.text("schedule", "not kept");
        }
    }

    /// As it goes into a result.
    pub fn result(&self, target: TargetFacts, round: u32) -> RunResult {
        let outcome = &self.outcome;
        RunResult {
            workload: self.workload.clone(),
            target,
            started_at: humantime::format_rfc3339_millis(self.started).to_string(),
            round,
            seconds: self.seconds,
            offered_hz: self.workload.rate_hz.map(|rate| rate as f64),
            published_hz: outcome.published_hz,
            consumed_hz: outcome.consumed_hz,
            kept_schedule: self.kept_schedule(),
            counts: Counts {
                published: outcome.published,
                consumed: outcome.received,
                confirmed: outcome.confirmed,
                refused: outcome.refused,
                lost: outcome.lost(),
                left: outcome.left,
                duplicated: outcome.duplicated,
                out_of_order: outcome.out_of_order,
            },
            latency: outcome.latencies.distribution(),
            service_time: outcome.service_times.distribution(),
            confirm_latency: outcome.confirm_latencies.distribution(),
            intervals: self.intervals(),
            ceiling_hz: None,
            disturbance: self.disturbance,
        }
    }

    fn intervals(&self) -> Vec<Interval> {
        let outcome = &self.outcome;
        let interval = |(n, (published, consumed)): (usize, (&u64, &u64))| {
            let from_s = n as f64 * self.interval_s;
            let seconds = self.interval_s.min(self.seconds - from_s);
            Interval {
                from_s,
                seconds,
                published_hz: *published as f64 / seconds,
                consumed_hz: *consumed as f64 / seconds,
                latency: outcome.pieces.get(n).and_then(|piece| piece.latency.percentiles()),
                broker_rss_bytes: self.rss_bytes.get(n).copied().flatten(),
            }
        };
        outcome.published_in.iter().zip(&outcome.consumed_in).enumerate().map(interval).collect()
    }
}
