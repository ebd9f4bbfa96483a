//! Latencies in nanoseconds, in bounded memory.

use hdrhistogram::Histogram;

/// Longest latency told apart; longer ones count as this.
const HIGHEST_NS: u64 = 100_000_000_000;

/// Latencies of one consumer or of a whole run, three digits exact.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// What is reported of [`Latencies`], in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many.
    pub count: u64,
    /// Half were at most this.
    pub p50_ns: u64,
    /// 90 % were at most this.
    pub p90_ns: u64,
    /// 99 % were at most this.
    pub p99_ns: u64,
    /// 99.9 % were at most this.
    pub p999_ns: u64,
    /// 99.99 % were at most this.
    pub p9999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, HIGHEST_NS, 3).expect("the bounds are constant and valid");
        Latencies(histogram)
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&mut self, latency_ns: u64) {
        self.0.saturating_record(latency_ns);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// The figures to report.
    pub fn percentiles(&self) -> Percentiles {
        let at = |percentile| self.0.value_at_percentile(percentile);
        Percentiles {
            count: self.0.len(),
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            p999_ns: at(99.9),
            p9999_ns: at(99.99),
            max_ns: self.0.max(),
        }
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
            (Latencies::default(), Latencies::default(), Latencies::default());
        for i in 1..=10_000u64 {
            let half = if i % 2 == 0 { &mut even } else { &mut odd };
            half.record(i * 1_000);
            whole.record(i * 1_000);
        }
        odd.merge(&even);
        assert_eq!(odd.percentiles(), whole.percentiles());
        let figures = odd.percentiles();
        assert_eq!(figures.count, 10_000);
        near(figures.p50_ns, 5_000_000);
        near(figures.p99_ns, 9_900_000);
        near(figures.p9999_ns, 9_999_000);
        near(figures.max_ns, 10_000_000);
    }

    #[test]
    fn what_is_too_long_to_tell_apart_still_counts() {
        let mut latencies = Latencies::default();
        latencies.record(u64::MAX);
        assert_eq!(latencies.percentiles().count, 1);
        assert!(latencies.percentiles().max_ns >= HIGHEST_NS);
    }
}
