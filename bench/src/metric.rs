//! The figures of a run that tables show and comparisons judge.

use crate::plot::scale::Quantity;
use crate::result::{Distribution, RunResult};
use crate::workload::Workload;

/// A figure of a run.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// What to call it; its unit comes with the value.
    pub name: &'static str,
    /// How it is written.
    pub quantity: Quantity,
    /// Which way is better, for those that are judged.
    pub better: Better,
    /// Reads it, where the run has it.
    pub of: fn(&RunResult) -> Option<f64>,
}

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is.
    Higher,
    /// Less is.
    Lower,
    /// Not to be said, or too unstable to say: shown, not judged.
    Neither,
}

const FLOOD: &[Metric] = &[
    metric("published", Quantity::Rate, Better::Higher, |run| Some(run.published_hz)),
    metric("consumed", Quantity::Rate, Better::Higher, |run| Some(run.consumed_hz)),
];

const SCHEDULED: &[Metric] =
    &[metric("rate reached", Quantity::Rate, Better::Higher, |run| Some(run.published_hz))];

const EITHER: &[Metric] = &[
    metric("p50", Quantity::LatencyNs, Better::Lower, |run| latency(run, |found| found.p50_ns)),
    metric("p90", Quantity::LatencyNs, Better::Lower, |run| latency(run, |found| found.p90_ns)),
    metric("p99", Quantity::LatencyNs, Better::Lower, |run| latency(run, |found| found.p99_ns)),
    metric("p99.9", Quantity::LatencyNs, Better::Lower, |run| latency(run, |found| found.p999_ns)),
    metric("p99.99", Quantity::LatencyNs, Better::Neither, |run| latency(run, |found| found.p9999_ns)),
    metric("max", Quantity::LatencyNs, Better::Neither, |run| latency(run, |found| found.max_ns)),
    metric("p99 from sending", Quantity::LatencyNs, Better::Neither, |run| {
        run.service_time.as_ref().map(|found| found.p99_ns as f64)
    }),
    metric("confirm p50", Quantity::LatencyNs, Better::Lower, |run| confirm(run, |found| found.p50_ns)),
    metric("confirm p99", Quantity::LatencyNs, Better::Lower, |run| confirm(run, |found| found.p99_ns)),
    metric("memory, most", Quantity::Memory, Better::Lower, most_memory),
];

impl Metric {
    /// Of its plain value.
    pub fn unit(&self) -> &'static str {
        match self.quantity {
            Quantity::LatencyNs => "ns",
            Quantity::Rate | Quantity::RateLog => "messages/s",
            Quantity::Memory | Quantity::SizeLog => "bytes",
            Quantity::Seconds => "s",
            Quantity::Percentile => "",
        }
    }
}

const fn metric(
    name: &'static str,
    quantity: Quantity,
    better: Better,
    of: fn(&RunResult) -> Option<f64>,
) -> Metric {
    Metric { name, quantity, better, of }
}

/// The figures of such a workload's runs, in the order of a table.
pub fn metrics(workload: &Workload) -> impl Iterator<Item = &'static Metric> {
    let rates = if workload.rate_hz.is_some() { SCHEDULED } else { FLOOD };
    rates.iter().chain(EITHER)
}

/// Messages that were lost, refused, doubled or out of order.
pub fn faults(run: &RunResult) -> u64 {
    let counts = &run.counts;
    counts.lost + counts.refused + counts.duplicated + counts.out_of_order
}

/// The most memory that the broker's process had.
pub fn most_memory(run: &RunResult) -> Option<f64> {
    run.intervals.iter().filter_map(|interval| interval.broker_rss_bytes).max().map(|bytes| bytes as f64)
}

fn latency(run: &RunResult, read: fn(&Distribution) -> u64) -> Option<f64> {
    run.latency.as_ref().filter(|found| found.count > 0).map(|found| read(found) as f64)
}

fn confirm(run: &RunResult, read: fn(&Distribution) -> u64) -> Option<f64> {
    run.confirm_latency.as_ref().filter(|found| found.count > 0).map(|found| read(found) as f64)
}
