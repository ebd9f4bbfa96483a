//! What a queue does besides keeping messages in order: limits, last values, and who watches it.
//!
//! A plain queue has none of this, and knows it without looking: its `unwatched_bytes` are never reached. Every part
//! stands for itself; here they are told what happens in the queue.

use std::collections::BTreeMap;

use super::alerts::{Alert, Alerts};
use super::flow::Flow;
use super::groups::Groups;
use super::last_value::{LastValue, Position};
use super::limit::{Depth, Limit};
use super::ready::Item;
use crate::request::{Lifetime, Overflow, QueueEvents, QueueOptions};
use crate::selector::Selector;
use crate::{Limits, MessageView, Name};

/// What a queue has done by its policy, for management.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Messages that it refused since it was full.
    pub refused: u64,
    /// Messages that a ring gave up for newer ones, or did not take for those that come before.
    pub overwritten: u64,
    /// Messages that newer ones of the same key took the place of.
    pub replaced: u64,
    /// Publishers are stopped.
    pub flow_stopped: bool,
    /// How often publishers were stopped.
    pub flow_stopped_count: u64,
    /// Messages whose coming was reported for replication.
    pub enqueue_events: u64,
    /// Messages whose going was reported for replication.
    pub dequeue_events: u64,
}

/// The policy of one queue.
pub(crate) struct Policy {
    pub(crate) limit: Option<Limit>,
    pub(crate) last_value: Option<LastValue>,
    pub(crate) flow: Option<Flow>,
    pub(crate) groups: Option<Groups>,
    /// What it does not select is dropped.
    filter: Option<Selector>,
    alerts: Option<Alerts>,
    events: QueueEvents,
    /// The queue ends when it is empty and nobody uses it.
    ends_empty: bool,
    /// Messages have their numbers in a header.
    is_numbering: bool,
    /// Tags of messages in clients' hands, the lowest and oldest first; kept if somebody asks for them.
    held: Option<BTreeMap<Position, u64>>,
    counters: QueueCounters,
    /// Noted among those that something has left.
    pub(crate) noted: bool,
}

impl Policy {
    /// The policy of a queue that is declared like this; `None` for a plain one.
    pub(crate) fn new(options: &QueueOptions, limits: &Limits) -> Option<Self> {
        let limit = Limit::new(options);
        let last_value = options.last_value_key.clone().map(LastValue::new);
        let is_ring =
            limit.as_ref().is_some_and(|l| matches!(l.overflow, Overflow::Ring | Overflow::RingStrict));
        let needs_held = is_ring || last_value.is_some();
        let policy = Policy {
            flow: Flow::new(options, limits),
            groups: options.group_key.clone().map(Groups::new),
            filter: options.filter.as_ref().and_then(compiled),
            alerts: Alerts::new(options, limits),
            events: options.events,
            ends_empty: options.auto_delete && options.lifetime == Lifetime::UnusedAndEmpty,
            is_numbering: options.sequence_header.is_some(),
            held: needs_held.then(BTreeMap::new),
            counters: QueueCounters::default(),
            noted: false,
            limit,
            last_value,
        };
        (policy.flow.is_some() || !policy.is_for_depth_alone()).then_some(policy)
    }

    /// The bytes below which nobody has to be told of what comes: none while publishers are stopped. If there are none,
    /// what leaves has to be noted too.
    pub(crate) fn unwatched_bytes(&self) -> u64 {
        let alone = self.flow.as_ref().filter(|flow| !flow.is_stopped() && self.is_for_depth_alone());
        alone.and_then(Flow::stops_by_bytes_alone).unwrap_or(0)
    }

    /// Whether flow control is all that there may be.
    fn is_for_depth_alone(&self) -> bool {
        self.limit.is_none()
            && self.last_value.is_none()
            && self.groups.is_none()
            && self.filter.is_none()
            && self.alerts.is_none()
            && self.events == QueueEvents::None
            && !self.ends_empty
            && !self.is_numbering
    }

    pub(crate) fn counters(&self) -> QueueCounters {
        let (flow_stopped, flow_stopped_count) =
            self.flow.as_ref().map_or((false, 0), |flow| (flow.is_stopped(), flow.stopped_count()));
        QueueCounters { flow_stopped, flow_stopped_count, ..self.counters }
    }

    /// Whether the queue wants a message.
    pub(crate) fn wants(&self, message: &MessageView<'_>) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(message))
    }

    pub(crate) fn count_refused(&mut self) {
        self.counters.refused += 1;
    }

    pub(crate) fn count_overwritten(&mut self) {
        self.counters.overwritten += 1;
    }

    pub(crate) fn count_replaced(&mut self) {
        self.counters.replaced += 1;
    }

    /// A message has come. Whether its confirm has to wait, and what is to tell.
    pub(crate) fn enqueued(&mut self, depth: Depth, now_ns: u64) -> (bool, [Option<Alert>; 2]) {
        if self.events != QueueEvents::None {
            self.counters.enqueue_events += 1;
        }
        let stopped = self.flow.as_mut().is_some_and(|flow| flow.enqueued(depth));
        let alerts = self.alerts.as_mut().map_or([None; 2], |alerts| alerts.enqueued(depth, now_ns));
        (stopped, alerts)
    }

    /// After a restart the queue is so deep.
    pub(crate) fn restored(&mut self, depth: Depth) {
        if let Some(flow) = &mut self.flow {
            flow.enqueued(depth);
        }
    }

    /// A message is in a client's hands.
    pub(crate) fn handed_out(&mut self, item: &Item, tag: u64) {
        if let Some(held) = &mut self.held {
            held.insert(position(item), tag);
        }
    }

    /// A message has left a client's hands.
    pub(crate) fn taken_back(&mut self, item: &Item) {
        if let Some(held) = &mut self.held {
            held.remove(&position(item));
        }
    }

    /// The lowest and oldest message in a client's hands.
    pub(crate) fn oldest_held(&self) -> Option<(Position, u64)> {
        let (&position, &tag) = self.held.as_ref()?.first_key_value()?;
        Some((position, tag))
    }

    /// The tag of a message in a client's hands.
    pub(crate) fn held_at(&self, position: Position) -> Option<u64> {
        self.held.as_ref()?.get(&position).copied()
    }

    /// A message has left the queue for good.
    pub(crate) fn gone(&mut self, item: &Item) {
        if self.events == QueueEvents::EnqueueAndDequeue {
            self.counters.dequeue_events += item.messages() as u64;
        }
        if let Some(flow) = &mut self.flow {
            flow.gone(item.sequence);
        }
        if let Some(last_value) = &mut self.last_value {
            last_value.gone(item.sequence);
        }
        if let Some(groups) = &mut self.groups {
            groups.gone(item.sequence);
        }
    }

    /// The queue is so deep now, after messages have gone. What is to tell.
    pub(crate) fn observe(&mut self, depth: Depth) -> [Option<Alert>; 2] {
        if let Some(flow) = &mut self.flow {
            flow.observe(depth);
        }
        self.alerts.as_mut().map_or([None; 2], |alerts| alerts.observe(depth))
    }
}

/// Where in its queue a message is.
pub(crate) fn position(item: &Item) -> Position {
    (item.priority, item.sequence)
}

/// A selector that could be compiled when the queue was declared.
fn compiled(text: &Name) -> Option<Selector> {
    Selector::parse(std::str::from_utf8(text.as_bytes()).ok()?).ok()
}
