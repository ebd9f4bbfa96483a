//! What one thread of a run writes down. Everything is allocated, and touched, before the run begins.

use super::{Meter, Window};
use crate::histogram::Latencies;
use crate::timeline::Timeline;
use crate::tracker::Tracker;

/// How the window is cut into intervals of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Length of each.
    pub interval_ns: u64,
    /// How many.
    pub count: usize,
}

/// Most intervals of a run: each thread keeps two histograms for each.
const MOST_INTERVALS: u64 = 120;

impl Cut {
    /// Of a window: into tenths, or seconds, or what keeps within the most.
    pub fn of(window: Window) -> Self {
        let window_ns = window.to_ns - window.from_ns;
        let second_ns = 1_000_000_000;
        let interval_ns = match window_ns.div_ceil(second_ns) {
            0..=10 => window_ns.div_ceil(10),
            11..=MOST_INTERVALS => second_ns,
            seconds => seconds.div_ceil(MOST_INTERVALS) * second_ns,
        };
        Cut { interval_ns, count: window_ns.div_ceil(interval_ns) as usize }
    }
}

/// One interval, as one thread saw it.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Of the messages that were due in it, from due to received.
    pub latency: Latencies,
    /// The same messages, from sent to received.
    pub service_time: Latencies,
}

/// The records of a thread.
#[derive(Debug)]
pub struct Recorder {
    pub(super) window: Window,
    /// The load may end before the window does, with the last message.
    pub ends_early: bool,
    cut: Cut,
    /// By interval; empty without a schedule.
    pub pieces: Vec<Piece>,
    /// Messages written, by interval.
    pub published: Vec<u64>,
    /// Messages received, by interval.
    pub consumed: Vec<u64>,
    /// The same over the window.
    pub publish_meter: Meter,
    /// The same over the window.
    pub consume_meter: Meter,
    /// From due to confirmed; without a schedule a message is due when it is put.
    pub confirms: Latencies,
    /// What came, by queue.
    pub trackers: Vec<Tracker>,
    /// The worst latencies over time, where asked for.
    pub timeline: Option<Timeline>,
}

impl Recorder {
    /// For a run on so many queues. `timed`: latencies too.
    pub fn new(window: Window, timed: bool, trackers: Vec<Tracker>, timeline: Option<Timeline>) -> Self {
        let cut = Cut::of(window);
        let piece = |_| Piece { latency: Latencies::touched(), service_time: Latencies::touched() };
        Recorder {
            window,
            ends_early: false,
            cut,
            pieces: if timed { (0..cut.count).map(piece).collect() } else { Vec::new() },
            published: vec![0; cut.count],
            consumed: vec![0; cut.count],
            publish_meter: Meter::default(),
            consume_meter: Meter::default(),
            confirms: Latencies::touched(),
            trackers,
            timeline,
        }
    }

    /// The interval of a moment in the window.
    #[inline]
    fn interval(&self, at_ns: u64) -> Option<usize> {
        let since_ns = at_ns.checked_sub(self.window.from_ns)?;
        let interval = (since_ns / self.cut.interval_ns) as usize;
        (interval < self.cut.count).then_some(interval)
    }

    /// A message came.
    #[inline]
    pub fn received(&mut self, due_ns: u64, sent_ns: u64, now_ns: u64) {
        if self.pieces.is_empty() {
            return;
        }
        if let Some(interval) = self.interval(due_ns) {
            let latency_ns = now_ns.saturating_sub(due_ns);
            let piece = &mut self.pieces[interval];
            piece.latency.record(latency_ns);
            piece.service_time.record(now_ns.saturating_sub(sent_ns));
            if let Some(timeline) = &mut self.timeline {
                timeline.record(due_ns, latency_ns);
            }
        }
    }

    /// A message was confirmed.
    #[inline]
    pub fn confirmed(&mut self, due_ns: u64, now_ns: u64) {
        if self.interval(due_ns).is_some() {
            self.confirms.record(now_ns.saturating_sub(due_ns));
        }
    }

    /// So many messages were written.
    #[inline]
    pub fn count_published(&mut self, messages: u64, now_ns: u64) {
        self.publish_meter.add(self.window, now_ns, messages);
        if let Some(interval) = self.interval(now_ns) {
            self.published[interval] += messages;
        }
    }

    /// So many messages were received.
    #[inline]
    pub fn count_consumed(&mut self, messages: u64, now_ns: u64) {
        self.consume_meter.add(self.window, now_ns, messages);
        if let Some(interval) = self.interval(now_ns) {
            self.consumed[interval] += messages;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn runs_are_cut_into_equal_intervals_and_not_too_many() {
        for (seconds, interval_ns, count) in [
            (1, SECOND_NS / 10, 10),
            (10, SECOND_NS, 10),
            (60, SECOND_NS, 60),
            (121, 2 * SECOND_NS, 61),
            (3_600, 30 * SECOND_NS, 120),
        ] {
            let window = Window { from_ns: 5, to_ns: 5 + seconds * SECOND_NS };
            assert_eq!(Cut::of(window), Cut { interval_ns, count }, "{seconds} s");
        }
    }

    #[test]
    fn a_message_counts_to_the_interval_in_which_it_was_due() {
        let window = Window { from_ns: SECOND_NS, to_ns: 11 * SECOND_NS };
        let mut recorder = Recorder::new(window, true, Vec::new(), None);
        recorder.received(SECOND_NS - 1, 0, SECOND_NS);
        recorder.received(SECOND_NS, SECOND_NS + 4_000, SECOND_NS + 5_000);
        recorder.received(3 * SECOND_NS, 3 * SECOND_NS, 9 * SECOND_NS);
        recorder.received(11 * SECOND_NS, 0, 12 * SECOND_NS);
        let counts: Vec<u64> = recorder.pieces.iter().map(|piece| piece.latency.count()).collect();
        assert_eq!(counts, [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert!(recorder.pieces[0].latency.at_ns(100.0).abs_diff(5_000) < 10);
        assert!(recorder.pieces[0].service_time.at_ns(100.0).abs_diff(1_000) < 10);
    }
}
