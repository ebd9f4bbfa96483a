//! Latencies in nanoseconds, in bounded memory.

use std::fmt;

use hdrhistogram::Histogram;

use crate::result::Distribution;

/// Longest latency told apart; longer ones count as this.
const HIGHEST_NS: u64 = 100_000_000_000;

/// Latencies of one thread or of a whole run, three digits exact.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.percentiles())
    }
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, HIGHEST_NS, 3).expect("the bounds are constant and valid");
        Latencies(histogram)
    }
}

impl Latencies {
    /// Empty, with its memory touched, lest the first values wait for it.
    pub fn touched() -> Self {
        let mut latencies = Latencies::default();
        // Resetting writes all counts.
        latencies.0.reset();
        latencies
    }

    /// Counts one.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Most of `percentile` percent of them.
    pub fn at_ns(&self, percentile: f64) -> u64 {
        self.0.value_at_percentile(percentile)
    }

    /// The histogram.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// The usual percentiles; nothing if nothing was counted.
    pub fn percentiles(&self) -> Option<Distribution> {
        (self.count() > 0).then(|| Distribution::plain(&self.0))
    }

    /// The usual percentiles with the histogram; nothing if nothing was counted.
    pub fn distribution(&self) -> Option<Distribution> {
        (self.count() > 0).then(|| Distribution::whole(&self.0))
    }
}

impl From<Histogram<u64>> for Latencies {
    /// Of one that has the bounds of all.
    fn from(histogram: Histogram<u64>) -> Self {
        let mut latencies = Latencies::default();
        latencies.0.add(&histogram).expect("it has the same bounds");
        latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value_ns: u64, expected_ns: u64) {
        assert!(value_ns.abs_diff(expected_ns) <= expected_ns / 500, "{value_ns} is not about {expected_ns}");
    }

    #[test]
    fn merged_halves_report_like_the_whole() {
        let (mut odd, mut even, mut whole) =
            (Latencies::touched(), Latencies::default(), Latencies::default());
        for i in 1..=10_000u64 {
            let half = if i % 2 == 0 { &mut even } else { &mut odd };
            half.record(i * 1_000);
            whole.record(i * 1_000);
        }
        odd.merge(&even);
        assert_eq!(odd.percentiles(), whole.percentiles());
        let figures = odd.percentiles().unwrap();
        assert_eq!(figures.count, 10_000);
        near(figures.p50_ns, 5_000_000);
        near(figures.p99_ns, 9_900_000);
        near(figures.p9999_ns, 9_999_000);
        near(figures.max_ns, 10_000_000);
    }

    #[test]
    fn what_is_too_long_to_tell_apart_still_counts() {
        let mut latencies = Latencies::default();
        assert!(latencies.percentiles().is_none());
        latencies.record(u64::MAX);
        assert_eq!(latencies.count(), 1);
        assert!(latencies.at_ns(100.0) >= HIGHEST_NS);
    }
}
