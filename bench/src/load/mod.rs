//! The load generator: publishers, consumers and responders on one thread or several.
//!
//! 1. The same code drives every target, whatever the protocol, so that their figures compare.
//! 2. Per message a publisher puts a stamp and a consumer reads one; everything else is per read or write.
//! 3. With a schedule the load is an open loop: a message's latency counts from when it should have left, so that a
//!    stall of the broker or of this program shows in the messages that it held up.
//! 4. Every wait is bounded; a run ends at the latest when nothing has moved for [`DRAIN_NS`] after the last publish.

mod consumer;
mod publisher;
mod recorder;
mod worker;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::driver::amqp::wire::WireError;
use crate::histogram::Latencies;
use crate::timeline::Timeline;
use crate::tracker::Tracker;

pub use consumer::{Consumer, Pacing};
pub use publisher::{Confirms, Pace, Publisher};
pub use recorder::{Cut, Piece, Recorder};
pub use worker::{Crew, run};

/// How long consumers wait for messages that are still under way when publishing has ended.
pub const DRAIN_NS: u64 = 5_000_000_000;

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A socket failed.
    #[error("a connection under load: {0}")]
    Socket(#[from] io::Error),
    /// The broker closed the connection without a word.
    #[error("the broker ended a connection under load")]
    Ended,
    /// The broker sent something unexpected.
    #[error("under load: {0}")]
    Wire(#[from] WireError),
}

/// What the load generator does while it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClientWait {
    /// Looks again at once; takes the core.
    Spin,
    /// Sleeps until a socket is ready or a message is due.
    Block,
}

/// When what is measured begins and ends, on the run's clock.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Messages before this warm up.
    pub from_ns: u64,
    /// Publishing ends.
    pub to_ns: u64,
}

/// What the threads of a run share.
#[derive(Debug)]
pub struct Shared {
    /// The run's clock.
    pub clock: Clock,
    /// What is measured.
    pub window: Window,
    /// What a thread does when idle.
    pub wait: ClientWait,
    /// Most copies sent and not yet received.
    pub in_flight: u64,
    /// Ends with the window, whatever is still under way.
    pub cut_off: bool,
    /// The run is given up when nothing has moved for [`DRAIN_NS`] after this.
    pub patient_until_ns: u64,
    published: AtomicU64,
    expected: AtomicU64,
    consumed: AtomicU64,
    publishers_left: AtomicUsize,
    failed: AtomicBool,
}

impl Shared {
    /// For a run with so many publishers, without a limit in flight.
    pub fn new(clock: Clock, window: Window, wait: ClientWait, publishers: usize) -> Self {
        Shared {
            clock,
            window,
            wait,
            in_flight: u64::MAX,
            cut_off: false,
            patient_until_ns: window.to_ns,
            published: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            publishers_left: AtomicUsize::new(publishers),
            failed: AtomicBool::new(false),
        }
    }

    /// So many copies are in the queues already.
    pub fn with_backlog(self, copies: u64) -> Self {
        self.expected.store(copies, Ordering::Relaxed);
        self
    }

    /// Messages published so far.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Messages received so far.
    pub fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// Whether another thread ended early.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn count_published(&self, messages: u64, copies: u64) {
        self.published.fetch_add(messages, Ordering::Relaxed);
        self.expected.fetch_add(copies, Ordering::Relaxed);
    }

    /// Copies that may still be sent.
    fn room(&self) -> u64 {
        if self.in_flight == u64::MAX {
            return u64::MAX;
        }
        let in_flight = self.expected.load(Ordering::Relaxed).saturating_sub(self.consumed());
        self.in_flight.saturating_sub(in_flight)
    }

    /// Nothing more will come: all that was published has been consumed.
    fn drained(&self) -> bool {
        self.all_published() && self.consumed() >= self.expected.load(Ordering::Relaxed)
    }

    fn all_published(&self) -> bool {
        // Acquire pairs with the release of a publisher that ends: its last count is then seen.
        self.publishers_left.load(Ordering::Acquire) == 0
    }

    fn is_over(&self, now_ns: u64, moved_ns: u64) -> bool {
        self.has_failed()
            || (self.cut_off && now_ns >= self.window.to_ns && self.all_published())
            || now_ns > moved_ns.max(self.patient_until_ns) + DRAIN_NS
    }
}

/// How many messages moved in the window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    within: u64,
    /// When the last of them did.
    last_ns: u64,
}

impl Meter {
    /// So many more.
    #[inline]
    fn add(&mut self, window: Window, now_ns: u64, count: u64) {
        if (window.from_ns..window.to_ns).contains(&now_ns) {
            self.within += count;
            self.last_ns = now_ns;
        }
    }

    /// Messages a second over the window; until the last of them, if the load may have ended early.
    pub fn rate_hz(&self, window: Window, ends_early: bool) -> f64 {
        let to_ns = if ends_early { self.last_ns } else { window.to_ns };
        match to_ns.saturating_sub(window.from_ns) {
            0 => 0.0,
            elapsed_ns => self.within as f64 * 1e9 / elapsed_ns as f64,
        }
    }
}

/// What a run showed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Messages that all publishers wrote.
    pub published: u64,
    /// Rate of publishing in the window.
    pub published_hz: f64,
    /// Rate of consuming in the window.
    pub consumed_hz: f64,
    /// Messages that a broker confirmed.
    pub confirmed: u64,
    /// Messages that a broker refused or returned.
    pub refused: u64,
    /// Copies that should have been received.
    pub expected: u64,
    /// Copies that were still in the queues when a run that was cut off ended.
    pub left: u64,
    /// Messages that were received, doubles included.
    pub received: u64,
    /// Different ones.
    pub distinct: u64,
    /// Messages that came again.
    pub duplicated: u64,
    /// Messages that came after a later one of the same publisher.
    pub out_of_order: u64,
    /// Messages due in the window, and those of them that had not left when it ended. Nothing without a schedule.
    pub due: u64,
    /// See `due`.
    pub late: u64,
    /// From due to received, of messages due in the window. Empty without a schedule.
    pub latencies: Latencies,
    /// The same messages, from sent to received.
    pub service_times: Latencies,
    /// From due to confirmed; without a schedule a message is due when it is put. Empty without confirms.
    pub confirm_latencies: Latencies,
    /// By interval; empty without a schedule.
    pub pieces: Vec<Piece>,
    /// Messages written, by interval.
    pub published_in: Vec<u64>,
    /// Messages received, by interval.
    pub consumed_in: Vec<u64>,
    /// How long the load generator was kept from running by others on the machine; the longer of its threads.
    pub core_wait_ns: u64,
    /// Processor time of its threads together.
    pub cpu_ns: u64,
    /// The worst latencies over time, where asked for.
    pub timeline: Option<Timeline>,
    trackers: Vec<Tracker>,
}

impl Outcome {
    /// Copies that should have come, and neither came nor were left.
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.distinct).saturating_sub(self.left)
    }

    fn add_recorder(&mut self, recorder: Recorder) {
        let (window, ends_early) = (recorder.window, recorder.ends_early);
        self.published_hz += recorder.publish_meter.rate_hz(window, ends_early);
        self.consumed_hz += recorder.consume_meter.rate_hz(window, ends_early);
        self.confirm_latencies.merge(&recorder.confirms);
        add_counts(&mut self.published_in, &recorder.published);
        add_counts(&mut self.consumed_in, &recorder.consumed);
        for piece in &recorder.pieces {
            self.latencies.merge(&piece.latency);
            self.service_times.merge(&piece.service_time);
        }
        if self.pieces.is_empty() {
            self.pieces = recorder.pieces;
        } else {
            for (mine, theirs) in self.pieces.iter_mut().zip(&recorder.pieces) {
                mine.latency.merge(&theirs.latency);
                mine.service_time.merge(&theirs.service_time);
            }
        }
        if self.trackers.is_empty() {
            self.trackers = recorder.trackers;
        } else {
            self.trackers.iter_mut().zip(&recorder.trackers).for_each(|(mine, theirs)| mine.merge(theirs));
        }
        match (&mut self.timeline, recorder.timeline) {
            (Some(whole), Some(timeline)) => whole.merge(&timeline),
            (whole, timeline) => *whole = whole.take().or(timeline),
        }
    }

    fn sum_up(&mut self) {
        let trackers = std::mem::take(&mut self.trackers);
        self.received = trackers.iter().map(|tracker| tracker.received).sum();
        self.duplicated = trackers.iter().map(|tracker| tracker.duplicated).sum();
        self.distinct = trackers.iter().map(Tracker::distinct).sum();
    }
}

/// Adds counts place by place.
fn add_counts(sum: &mut Vec<u64>, more: &[u64]) {
    sum.resize(sum.len().max(more.len()), 0);
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_window() {
        let window = Window { from_ns: 1_000_000_000, to_ns: 3_000_000_000 };
        let mut meter = Meter::default();
        for (now_ns, count) in
            [(999_999_999, 100), (1_000_000_000, 1), (2_000_000_000, 5), (3_000_000_000, 100)]
        {
            meter.add(window, now_ns, count);
        }
        assert_eq!(meter.rate_hz(window, false), 3.0);
        assert_eq!(meter.rate_hz(window, true), 6.0);
        assert_eq!(Meter::default().rate_hz(window, true), 0.0);
    }
}
