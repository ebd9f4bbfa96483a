//! The load generator: publishers and consumers over non-blocking sockets, on one or two threads.
//!
//! 1. The same code and the same bytes drive a broker and the floor, so that their figures compare.
//! 2. Per message a publisher patches a stamp and a consumer walks three frames; everything else is per read or write.
//! 3. With a schedule the load is an open loop: a message's latency counts from when it should have left, so that a
//!    stall of the broker or of this program shows in the messages that it held up.
//! 4. Every wait is bounded; a run ends at the latest [`DRAIN_NS`] after the last publish.

mod consumer;
mod publisher;
mod worker;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::histogram::Latencies;
use crate::timeline::Timeline;
use crate::tracker::Tracker;
use crate::wire::WireError;

pub use consumer::Consumer;
pub use publisher::{Pace, Publisher};
pub use worker::run;

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
    /// Most messages published and not yet consumed.
    pub max_in_flight: u64,
    published: AtomicU64,
    consumed: AtomicU64,
    publishers_left: AtomicUsize,
    failed: AtomicBool,
}

impl Shared {
    /// For a run with so many publishers.
    pub fn new(
        clock: Clock,
        window: Window,
        wait: ClientWait,
        max_in_flight: u64,
        publishers: usize,
    ) -> Self {
        Shared {
            clock,
            window,
            wait,
            max_in_flight,
            published: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            publishers_left: AtomicUsize::new(publishers),
            failed: AtomicBool::new(false),
        }
    }

    fn room(&self) -> u64 {
        let in_flight =
            self.published.load(Ordering::Relaxed).saturating_sub(self.consumed.load(Ordering::Relaxed));
        self.max_in_flight.saturating_sub(in_flight)
    }

    /// Nothing more will come: all that was published has been consumed.
    fn drained(&self) -> bool {
        // Acquire pairs with the release of a publisher that ends: its last count is then seen.
        self.publishers_left.load(Ordering::Acquire) == 0
            && self.consumed.load(Ordering::Relaxed) >= self.published.load(Ordering::Relaxed)
    }

    fn given_up(&self, now_ns: u64) -> bool {
        self.failed.load(Ordering::Relaxed) || now_ns > self.window.to_ns + DRAIN_NS
    }
}

/// A count at the two ends of the window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    first: Option<(u64, u64)>,
    last: (u64, u64),
}

impl Meter {
    /// The count stands at `count` now.
    fn note(&mut self, window: Window, now_ns: u64, count: u64) {
        if now_ns < window.from_ns || (now_ns > window.to_ns && self.last.0 >= window.to_ns) {
            return;
        }
        self.first.get_or_insert((now_ns, count));
        self.last = (now_ns, count);
    }

    /// Messages a second over the window.
    pub fn rate_hz(&self) -> f64 {
        match self.first {
            Some((from_ns, from)) if self.last.0 > from_ns => {
                (self.last.1 - from) as f64 * 1e9 / (self.last.0 - from_ns) as f64
            }
            _ => 0.0,
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
    /// What the consumers saw.
    pub tracker: Tracker,
    /// From due to received, of messages due in the window. Empty without a schedule.
    pub latencies: Latencies,
    /// From published to confirmed. Empty without confirms and a schedule.
    pub confirm_latencies: Latencies,
    /// How long the load generator was kept from running by others on the machine; the longer of its threads.
    pub core_wait_ns: u64,
    /// The worst latencies over time, where asked for.
    pub timeline: Option<Timeline>,
}

impl Outcome {
    /// Messages that were published and never came.
    pub fn lost(&self) -> u64 {
        self.published.saturating_sub(self.tracker.distinct())
    }

    fn add_publisher(&mut self, publisher: &Publisher) {
        self.published += publisher.published();
        self.published_hz += publisher.meter().rate_hz();
        self.confirmed += publisher.confirmed();
        self.refused += publisher.refused();
        self.confirm_latencies.merge(publisher.confirm_latencies());
    }

    fn add_consumer(&mut self, consumer: Consumer) {
        self.consumed_hz += consumer.meter().rate_hz();
        self.tracker.merge(consumer.tracker());
        self.latencies.merge(consumer.latencies());
        if let Some(timeline) = consumer.into_timeline() {
            match &mut self.timeline {
                Some(whole) => whole.merge(&timeline),
                None => self.timeline = Some(timeline),
            }
        }
    }
}
