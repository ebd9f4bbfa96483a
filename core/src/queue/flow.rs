//! Producer flow control: the confirms of what comes to a queue that is too deep wait until it is less deep.
//!
//! Depth alone decides. A message whose confirm waits is in its queue like any other; its confirm comes when the queue
//! resumes, or when the message leaves it, whichever is first.

use std::collections::VecDeque;

use super::limit::Depth;
use crate::Limits;
use crate::request::{FlowThresholds, Overflow, QueueOptions};

/// The flow control of one queue.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Beyond either, publishers are stopped; 0 for no limit.
    stop: Depth,
    /// Below both, they are resumed; 0 for no limit.
    resume: Depth,
    stopped: bool,
    stopped_count: u64,
    /// Places of messages and their confirms, in order; `None` when the message is gone.
    withheld: VecDeque<(u64, Option<u32>)>,
    /// Confirms that wait no longer.
    released: Vec<u32>,
}

impl Flow {
    /// The flow control of a queue that is declared like this, if any.
    pub(crate) fn new(options: &QueueOptions, limits: &Limits) -> Option<Self> {
        let FlowThresholds { stop_messages, resume_messages, stop_bytes, resume_bytes } = options.flow;
        if matches!(options.overflow, Overflow::Ring | Overflow::RingStrict) {
            // They make room themselves.
            return None;
        }
        let is_limited = options.overflow.counts_unsettled() && options.overflow != Overflow::FlowToDisk;
        let (most_messages, most_bytes) = match is_limited {
            true => {
                let default_bytes = limits.default_queue_bytes;
                (options.max_length.unwrap_or(0), options.max_length_bytes.unwrap_or(default_bytes))
            }
            false => (0, 0),
        };
        let stop_percent = u64::from(limits.flow_stop_percent);
        let resume_percent = u64::from(limits.flow_resume_percent);
        let stop_part = |most: u64| most.saturating_mul(stop_percent).saturating_add(50) / 100;
        let resume_part = |most: u64| most.saturating_mul(resume_percent) / 100;
        let stop = Depth {
            messages: stop_messages.unwrap_or_else(|| stop_part(most_messages)),
            bytes: stop_bytes.unwrap_or_else(|| stop_part(most_bytes)),
        };
        let resume = Depth {
            messages: resume_at(resume_messages, resume_part(most_messages), stop.messages),
            bytes: resume_at(resume_bytes, resume_part(most_bytes), stop.bytes),
        };
        (stop != Depth::default()).then(|| Flow {
            stop,
            resume,
            stopped: false,
            stopped_count: 0,
            withheld: VecDeque::new(),
            released: Vec::new(),
        })
    }

    /// The bytes below which publishers are never stopped, if bytes alone stop them.
    pub(crate) fn stops_by_bytes_alone(&self) -> Option<u64> {
        (self.stop.messages == 0).then_some(self.stop.bytes)
    }

    /// Whether publishers are stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// How often they were.
    pub(crate) fn stopped_count(&self) -> u64 {
        self.stopped_count
    }

    /// A message came and made the queue so deep. Whether its confirm has to wait.
    pub(crate) fn enqueued(&mut self, depth: Depth) -> bool {
        let beyond = |depth: u64, stop: u64| stop > 0 && depth > stop;
        let deep = beyond(depth.messages, self.stop.messages) || beyond(depth.bytes, self.stop.bytes);
        if deep && !self.stopped {
            self.stopped = true;
            self.stopped_count += 1;
        }
        self.stopped
    }

    /// Keeps the confirm of the message at a place, which is behind all before.
    pub(crate) fn withhold(&mut self, sequence: u64, confirm: u32) {
        debug_assert!(self.withheld.back().is_none_or(|&(last, _)| last < sequence));
        self.withheld.push_back((sequence, Some(confirm)));
    }

    /// The message at a place has left the queue.
    pub(crate) fn gone(&mut self, sequence: u64) {
        let at = self.withheld.partition_point(|&(place, _)| place < sequence);
        match self.withheld.get_mut(at) {
            Some((place, confirm)) if *place == sequence => self.released.extend(confirm.take()),
            _ => return,
        }
        while self.withheld.front().is_some_and(|(_, confirm)| confirm.is_none()) {
            self.withheld.pop_front();
        }
    }

    /// The queue is so deep now, and not deeper than before.
    pub(crate) fn observe(&mut self, depth: Depth) {
        let below = |depth: u64, resume: u64| resume == 0 || depth < resume;
        if self.stopped
            && below(depth.messages, self.resume.messages)
            && below(depth.bytes, self.resume.bytes)
        {
            self.resume();
        }
    }

    /// Publishers go on, whatever the depth.
    pub(crate) fn resume(&mut self) {
        self.stopped = false;
        self.released.extend(self.withheld.drain(..).filter_map(|(_, confirm)| confirm));
    }

    /// The confirms that wait no longer.
    pub(crate) fn take_released(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.released)
    }
}

/// Where publishers go on: what was asked for, or a part of the limit; where they were stopped, if that is nothing.
fn resume_at(asked: Option<u64>, part: u64, stop: u64) -> u64 {
    match asked.unwrap_or(part).min(stop) {
        0 => stop,
        resume => resume,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(options: QueueOptions) -> Option<Flow> {
        Flow::new(&options, &Limits::default())
    }

    fn of_kind(overflow: Overflow) -> QueueOptions {
        QueueOptions { overflow, ..QueueOptions::default() }
    }

    fn messages(messages: u64) -> Depth {
        Depth { messages, bytes: 0 }
    }

    #[test]
    fn thresholds_follow_the_limits() {
        let thresholds = |options| flow(options).map(|flow| (flow.stop, flow.resume));
        let depth = |messages, bytes| Depth { messages, bytes };
        let limited =
            QueueOptions { max_length: Some(3), max_length_bytes: Some(1000), ..of_kind(Overflow::Reject) };
        assert_eq!(thresholds(limited.clone()), Some((depth(2, 800), depth(2, 700))));
        let default = 100 << 20;
        let (stop, resume) = (depth(0, default * 8 / 10), depth(0, default * 7 / 10));
        assert_eq!(thresholds(of_kind(Overflow::Reject)), Some((stop, resume)));
        for kind in [Overflow::Ring, Overflow::RingStrict, Overflow::FlowToDisk, Overflow::DropHead] {
            assert_eq!(thresholds(QueueOptions { overflow: kind, ..limited.clone() }), None, "{kind:?}");
        }
        let mut asked = limited;
        asked.flow =
            FlowThresholds { stop_messages: Some(0), stop_bytes: Some(500), ..FlowThresholds::default() };
        assert_eq!(thresholds(asked.clone()), Some((depth(0, 500), depth(0, 500))));
        asked.flow.resume_bytes = Some(400);
        assert_eq!(thresholds(asked.clone()), Some((depth(0, 500), depth(0, 400))));
        asked.flow.stop_bytes = Some(0);
        assert_eq!(thresholds(asked), None);
    }

    #[test]
    fn a_confirm_waits_for_the_queue_or_for_its_message() {
        let thresholds =
            FlowThresholds { stop_messages: Some(4), resume_messages: Some(3), ..FlowThresholds::default() };
        let mut flow = flow(QueueOptions { flow: thresholds, ..QueueOptions::default() }).unwrap();
        assert!(!flow.enqueued(messages(4)));
        assert!(flow.enqueued(messages(5)));
        flow.withhold(4, 40);
        assert!(flow.enqueued(messages(6)));
        flow.withhold(5, 50);
        assert_eq!((flow.is_stopped(), flow.stopped_count()), (true, 1));
        flow.gone(0);
        flow.gone(5);
        assert_eq!(flow.take_released(), [50]);
        flow.observe(messages(3));
        assert!(flow.enqueued(messages(4)), "stopped until it has resumed");
        flow.withhold(6, 60);
        assert_eq!(flow.take_released(), []);
        flow.observe(messages(2));
        assert_eq!((flow.is_stopped(), flow.take_released()), (false, vec![40, 60]));
        assert!(flow.enqueued(messages(5)));
        assert_eq!(flow.stopped_count(), 2);
    }
}
