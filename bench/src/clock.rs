//! The clock that schedules and latencies are counted on.

use std::time::Instant;

/// Nanoseconds since the start of a run; threads of one run share a copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that shows 0 now.
    pub fn start() -> Self {
        Clock(Instant::now())
    }

    /// What it shows now.
    pub fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}
