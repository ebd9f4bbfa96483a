//! The worst latency of each slice of a run: what histograms hide, a stall at a known moment.

/// Length of a slice.
pub const SLICE_NS: u64 = 1_000_000;

/// Worst latencies by when the message should have left.
#[derive(Clone, Debug)]
pub struct Timeline {
    worst_ns: Vec<u64>,
}

impl Timeline {
    /// From 0 to `end_ns` on the run's clock; what is later counts to the last slice.
    pub fn new(end_ns: u64) -> Self {
        Timeline { worst_ns: vec![0; (end_ns / SLICE_NS) as usize + 1] }
    }

    /// Counts the latency of a message that was due at `due_ns`.
    pub fn record(&mut self, due_ns: u64, latency_ns: u64) {
        let slice = ((due_ns / SLICE_NS) as usize).min(self.worst_ns.len() - 1);
        self.worst_ns[slice] = self.worst_ns[slice].max(latency_ns);
    }

    /// The worst of messages due between two moments, the slices of both included.
    pub fn worst_ns(&self, from_ns: u64, to_ns: u64) -> u64 {
        let end = ((to_ns / SLICE_NS) as usize + 1).min(self.worst_ns.len());
        let start = ((from_ns / SLICE_NS) as usize).min(end);
        self.worst_ns[start..end].iter().copied().max().unwrap_or(0)
    }

    /// Adds what another consumer of the same run saw.
    pub fn merge(&mut self, other: &Timeline) {
        for (mine, theirs) in self.worst_ns.iter_mut().zip(&other.worst_ns) {
            *mine = (*mine).max(*theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_worst_where_it_was() {
        let mut timeline = Timeline::new(10 * SLICE_NS);
        timeline.record(3 * SLICE_NS, 7);
        timeline.record(3 * SLICE_NS + 1, 9);
        timeline.record(5 * SLICE_NS, 20);
        timeline.record(99 * SLICE_NS, 1);
        assert_eq!(timeline.worst_ns(0, 4 * SLICE_NS), 9);
        assert_eq!(timeline.worst_ns(4 * SLICE_NS, 6 * SLICE_NS), 20);
        assert_eq!(timeline.worst_ns(6 * SLICE_NS, 9 * SLICE_NS), 0);
        assert_eq!(timeline.worst_ns(10 * SLICE_NS, 200 * SLICE_NS), 1);
    }
}
