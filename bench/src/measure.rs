//! One run of the load generator against one target.

use crate::BenchError;
use crate::clock::Clock;
use crate::histogram::Percentiles;
use crate::load::{self, ClientWait, Consumer, Outcome, Pace, Publisher, Shared, Window};
use crate::options::LoadOptions;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::socket::Socket;
use crate::target::{Opened, Target};
use crate::timeline::Timeline;

/// Part of the rate asked for that counts as having kept the schedule.
const KEPT: f64 = 0.99;

/// Time between the end of the set-up and the first message.
const LEAD_NS: u64 = 20_000_000;

/// How many messages a second, from all publishers together; `None`: as many as go.
pub type Rate = Option<u64>;

/// One run.
#[derive(Debug)]
pub struct Measured {
    options: LoadOptions,
    rate: Rate,
    /// What the load generator saw.
    pub outcome: Outcome,
}

/// Parts of a run that only some commands use.
#[derive(Default)]
pub struct Extras<'a> {
    /// Record the worst latencies over time.
    pub timeline: bool,
    /// Called beside the load, on a thread of its own, with the run's clock and window.
    pub beside: Option<&'a (dyn Fn(Clock, Window) + Sync)>,
}

/// Runs a load.
///
/// # Errors
/// Anything that went wrong.
pub fn measure(target: &Target, options: &LoadOptions, rate: Rate) -> Result<Measured, BenchError> {
    measure_with(target, options, rate, &Extras::default())
}

/// Runs a load with extras.
///
/// # Errors
/// Anything that went wrong.
pub fn measure_with(
    target: &Target,
    options: &LoadOptions,
    rate: Rate,
    extras: &Extras<'_>,
) -> Result<Measured, BenchError> {
    options.check()?;
    let mut opened = target.open(options)?;
    let control = opened.take_control();
    let clock = Clock::start();
    let from_ns = LEAD_NS + (options.warmup * 1e9) as u64;
    let window = Window { from_ns, to_ns: from_ns + (options.seconds * 1e9) as u64 };
    let (threads, wait) = match rate {
        None => (2, ClientWait::Block),
        Some(_) => (1, ClientWait::Spin),
    };
    let wait = options.client.unwrap_or(wait);
    let threads = options.threads.map_or(threads, usize::from);
    let shared = Shared::new(clock, window, wait, options.max_in_flight, options.publishers);
    let consumers = opened.consumers.into_iter().map(|link| {
        let consumer = Consumer::new(Socket::new(link), rate.is_some(), options.ack.batch());
        if extras.timeline { consumer.with_timeline(Timeline::new(window.to_ns)) } else { consumer }
    });
    let consumers = consumers.collect();
    let publishers = opened.publishers.into_iter().enumerate().map(|(n, (link, template))| {
        let pace = rate.map_or(Pace::Flood, |rate| Pace::Scheduled(share(rate, n, options.publishers)));
        let publisher = Publisher::new(n as u16, Socket::new(link), &template, pace, options.confirm);
        publisher.with_limit(options.messages.unwrap_or(u64::MAX))
    });
    let publishers = publishers.collect();
    let outcome = std::thread::scope(|scope| {
        if let Some(beside) = extras.beside {
            scope.spawn(move || beside(clock, window));
        }
        load::run(&shared, publishers, consumers, threads)
    })?;
    Opened::close(control)?;
    Ok(Measured { options: options.clone(), rate, outcome })
}

/// The schedule of the `n`th publisher of `publishers`: their messages alternate.
fn share(rate: u64, n: usize, publishers: usize) -> Schedule {
    let own = (rate / publishers as u64).max(1);
    Schedule::new(LEAD_NS + n as u64 * 1_000_000_000 / rate, own)
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

    /// From due to received.
    pub fn latencies(&self) -> Percentiles {
        self.outcome.latencies.percentiles()
    }

    /// Whether the messages left at the rate asked for.
    pub fn kept_schedule(&self) -> bool {
        self.rate.is_none_or(|rate| self.outcome.published_hz >= KEPT * rate as f64)
    }

    /// Whether every message came, once and in order.
    pub fn is_sound(&self) -> bool {
        let tracker = &self.outcome.tracker;
        self.outcome.lost() + tracker.duplicated + tracker.out_of_order + self.outcome.refused == 0
    }

    /// The figures.
    pub fn report(&self, title: &str) -> Report {
        let mut report = Report::new(format!("{title}, {} B", self.options.size));
        match self.rate {
            None => self.report_throughput(&mut report),
            Some(rate) => self.report_latency(&mut report, rate),
        }
        let (outcome, tracker) = (&self.outcome, &self.outcome.tracker);
        report.measure("client without a core", outcome.core_wait_ns as f64 / 1e6, "ms");
        report.count("messages", outcome.published);
        report.count("lost", outcome.lost());
        report.count("duplicated", tracker.duplicated);
        report.count("out of order", tracker.out_of_order);
        if self.options.confirm.is_some() {
            report.count("confirmed", outcome.confirmed);
        }
        if outcome.refused > 0 {
            report.count("refused", outcome.refused);
        }
        report
    }

    fn report_throughput(&self, report: &mut Report) {
        let megabytes = self.consumed_hz() * self.options.size as f64 / 1e6;
        report.measure("published", self.published_hz(), "msg/s");
        report.measure("consumed", self.consumed_hz(), "msg/s");
        report.measure("consumed bodies", megabytes, "MB/s");
    }

    fn report_latency(&self, report: &mut Report, rate: u64) {
        report.measure("asked", rate as f64, "msg/s");
        report.measure("reached", self.published_hz(), "msg/s");
        report.percentiles(self.latencies());
        if self.options.confirm.is_some() {
            let confirms = self.outcome.confirm_latencies.percentiles();
            report.measure("confirm p50", confirms.p50_ns as f64 / 1e3, "µs");
            report.measure("confirm p99", confirms.p99_ns as f64 / 1e3, "µs");
            report.measure("confirm max", confirms.max_ns as f64 / 1e3, "µs");
        }
        if !self.kept_schedule() {
            report.text("schedule", "not kept");
        }
    }
}
