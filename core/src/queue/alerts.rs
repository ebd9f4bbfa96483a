//! Depths of a queue that management is told of.

use super::limit::Depth;
use crate::Limits;
use crate::request::QueueOptions;

const NS_PER_S: u64 = 1_000_000_000;
const DEFAULT_REPEAT_GAP_S: u64 = 60;

/// What a queue has to tell of its depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// It has become as deep as a threshold.
    Raised,
    /// It has stayed that deep for long, and more has come.
    Repeated,
    /// It is no deeper than the lower threshold again.
    Cleared,
}

/// A pair of thresholds for messages or for bytes. A queue that passed the upper one has to get below the lower one
/// before it can pass the upper one again.
#[derive(Debug)]
struct Threshold {
    /// 0: never.
    up: u64,
    down: u64,
    raised: bool,
    last_told_ns: u64,
}

impl Threshold {
    fn new(asked: (Option<u64>, Option<u64>), most: u64, limits: &Limits) -> Self {
        let part = most.saturating_mul(u64::from(limits.alert_percent)) / 100;
        let up = asked.0.unwrap_or(part);
        let down = asked.1.filter(|&down| down > 0 && down < up).unwrap_or(up / 2);
        Threshold { up, down, raised: false, last_told_ns: 0 }
    }

    fn enqueued(&mut self, depth: u64, now_ns: u64, gap_ns: u64) -> Option<Alert> {
        if self.up == 0 || depth < self.up {
            return None;
        }
        if self.raised && (gap_ns == 0 || now_ns < self.last_told_ns.saturating_add(gap_ns)) {
            return None;
        }
        self.last_told_ns = now_ns;
        match std::mem::replace(&mut self.raised, true) {
            true => Some(Alert::Repeated),
            false => Some(Alert::Raised),
        }
    }

    fn observe(&mut self, depth: u64) -> Option<Alert> {
        (self.raised && depth <= self.down).then(|| {
            self.raised = false;
            Alert::Cleared
        })
    }
}

/// The thresholds of one queue.
#[derive(Debug)]
pub(crate) struct Alerts {
    messages: Threshold,
    bytes: Threshold,
    gap_ns: u64,
}

impl Alerts {
    /// The thresholds of a queue that is declared like this, if any.
    pub(crate) fn new(options: &QueueOptions, limits: &Limits) -> Option<Self> {
        let asked = &options.alerts;
        let (most_messages, most_bytes) = match options.overflow.counts_unsettled() {
            true => (options.max_length.unwrap_or(0), options.max_length_bytes.unwrap_or(0)),
            false => (0, 0),
        };
        let messages = Threshold::new((asked.messages_up, asked.messages_down), most_messages, limits);
        let bytes = Threshold::new((asked.bytes_up, asked.bytes_down), most_bytes, limits);
        let gap_ns = asked.repeat_gap_s.unwrap_or(DEFAULT_REPEAT_GAP_S).saturating_mul(NS_PER_S);
        (messages.up > 0 || bytes.up > 0).then_some(Alerts { messages, bytes, gap_ns })
    }

    /// A message came and made the queue so deep.
    pub(crate) fn enqueued(&mut self, depth: Depth, now_ns: u64) -> [Option<Alert>; 2] {
        [
            self.bytes.enqueued(depth.bytes, now_ns, self.gap_ns),
            self.messages.enqueued(depth.messages, now_ns, self.gap_ns),
        ]
    }

    /// Messages went, and the queue is so deep now.
    pub(crate) fn observe(&mut self, depth: Depth) -> [Option<Alert>; 2] {
        [self.bytes.observe(depth.bytes), self.messages.observe(depth.messages)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{AlertThresholds, Overflow};

    const S: u64 = NS_PER_S;

    fn of_messages(options: QueueOptions) -> Option<(u64, u64)> {
        let alerts = Alerts::new(&options, &Limits::default())?;
        Some((alerts.messages.up, alerts.messages.down))
    }

    fn asked(messages_up: u64, messages_down: Option<u64>) -> QueueOptions {
        let alerts =
            AlertThresholds { messages_up: Some(messages_up), messages_down, ..AlertThresholds::default() };
        QueueOptions { alerts, ..QueueOptions::default() }
    }

    #[test]
    fn thresholds_are_asked_for_or_follow_the_limits() {
        assert_eq!(of_messages(asked(10, Some(3))), Some((10, 3)));
        assert_eq!(of_messages(asked(10, None)), Some((10, 5)));
        assert_eq!(of_messages(asked(10, Some(10))), Some((10, 5)), "lower is lower");
        let limited = QueueOptions { max_length: Some(10), ..QueueOptions::default() };
        assert_eq!(of_messages(limited.clone()), None);
        let limited = QueueOptions { overflow: Overflow::Reject, ..limited };
        assert_eq!(of_messages(limited.clone()), Some((8, 4)));
        assert_eq!(of_messages(QueueOptions { alerts: asked(0, None).alerts, ..limited }), None);
    }

    #[test]
    fn a_queue_is_told_of_once_on_each_way_and_again_when_it_stays() {
        let mut alerts = Alerts::new(&asked(3, Some(1)), &Limits::default()).unwrap();
        let mut enqueued =
            |messages, now_ns| alerts.enqueued(Depth { messages, bytes: 1_000_000 }, now_ns)[1];
        assert_eq!(enqueued(2, 0), None);
        assert_eq!(enqueued(3, S), Some(Alert::Raised));
        assert_eq!(enqueued(4, 60 * S), None);
        assert_eq!(enqueued(5, 61 * S), Some(Alert::Repeated));
        assert_eq!(enqueued(6, 62 * S), None);
        let mut observe = |messages| alerts.observe(Depth { messages, bytes: 0 });
        assert_eq!((observe(2), observe(1)), ([None, None], [None, Some(Alert::Cleared)]));
        assert_eq!(observe(0), [None, None]);
        assert_eq!(alerts.enqueued(Depth { messages: 3, bytes: 0 }, 63 * S)[1], Some(Alert::Raised));
    }
}
