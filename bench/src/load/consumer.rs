//! One consumer: takes messages, counts them, and acknowledges if it must.

use std::sync::atomic::Ordering;

use super::{LoadError, Recorder, Shared};
use crate::driver::ConsumeLink;
use crate::poll::PollSet;
use crate::tracker::Order;

/// A consumer under load.
#[derive(Debug)]
pub struct Consumer<L> {
    link: L,
    /// Number of its queue.
    queue: usize,
    order: Option<Order>,
    received: u64,
    pacing: Option<Pacing>,
    acks: Option<Acks>,
    /// Latencies of what it receives count.
    timed: bool,
}

/// Lets a consumer take so many messages a second.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    rate_hz: u64,
}

#[derive(Debug)]
struct Acks {
    every: u64,
    /// Highest tag received, and acknowledged.
    received: u64,
    acknowledged: u64,
}

impl Pacing {
    /// So many messages a second.
    pub fn new(rate_hz: u64) -> Self {
        Pacing { rate_hz }
    }

    /// How many may be taken now, if so many have been.
    fn room(&self, taken: u64, now_ns: u64) -> u64 {
        let allowed = u128::from(now_ns) * u128::from(self.rate_hz) / 1_000_000_000;
        (allowed as u64).saturating_sub(taken)
    }

    fn next_ns(&self, taken: u64) -> u64 {
        ((u128::from(taken) + 1) * 1_000_000_000).div_ceil(u128::from(self.rate_hz)) as u64
    }
}

impl<L: ConsumeLink> Consumer<L> {
    /// Of the `queue`th queue. `ack_every`: acknowledges so many at a time.
    pub fn new(link: L, queue: usize, ack_every: Option<u64>, pacing: Option<Pacing>) -> Self {
        Consumer {
            link,
            queue,
            order: Some(Order::default()),
            received: 0,
            pacing,
            acks: ack_every.map(|every| Acks { every, received: 0, acknowledged: 0 }),
            timed: true,
        }
    }

    /// Messages that came after a later one of the same publisher.
    pub fn out_of_order(&self) -> u64 {
        self.order.as_ref().map_or(0, |order| order.out_of_order)
    }

    /// Does not count what comes out of order.
    pub fn in_any_order(mut self) -> Self {
        self.order = None;
        self
    }

    /// Does not count latencies: this one is slow on purpose, and the others' are asked for.
    pub fn untimed(mut self) -> Self {
        self.timed = false;
        self
    }

    /// Consumes what has come. Returns whether anything has.
    pub(super) fn step(&mut self, shared: &Shared, recorder: &mut Recorder) -> Result<bool, LoadError> {
        let limit = self.pacing.map_or(u64::MAX, |pacing| pacing.room(self.received, shared.clock.now_ns()));
        if limit == 0 {
            return Ok(false);
        }
        let Consumer { link, queue, order, acks, timed, .. } = self;
        let (mut now_ns, mut count, mut last_tag) = (0, 0, 0);
        let moved = link.receive(limit, |message| {
            if now_ns == 0 {
                now_ns = shared.clock.now_ns();
            }
            let stamp = message.stamp;
            let again = recorder.trackers[*queue].see(stamp.publisher, stamp.sequence);
            if let (Some(order), false) = (&mut *order, again) {
                order.see(stamp.publisher, stamp.sequence);
            }
            if *timed {
                recorder.received(stamp.due_ns, stamp.sent_ns, now_ns);
            }
            count += 1;
            last_tag = message.tag;
        })?;
        if count > 0 {
            self.received += count;
            recorder.count_consumed(count, now_ns);
            shared.consumed.fetch_add(count, Ordering::Relaxed);
            if let Some(acks) = acks {
                acks.received = last_tag;
            }
        }
        self.acknowledge(false)?;
        Ok(moved)
    }

    /// Acknowledges the rest, so that nothing which was received counts as left in a queue.
    pub(super) fn finish(&mut self) -> Result<(), LoadError> {
        self.acknowledge(true)
    }

    fn acknowledge(&mut self, all: bool) -> Result<(), LoadError> {
        let Some(acks) = &mut self.acks else { return Ok(()) };
        let unacknowledged = acks.received - acks.acknowledged;
        if unacknowledged >= acks.every || (all && unacknowledged > 0) {
            self.link.acknowledge(acks.received);
            acks.acknowledged = acks.received;
        }
        if self.link.unflushed() {
            self.link.flush()?;
        }
        Ok(())
    }

    /// Its connection.
    pub(super) fn link(&self) -> &L {
        &self.link
    }

    /// It takes only so many messages a second.
    pub(super) fn is_paced(&self) -> bool {
        self.pacing.is_some()
    }

    /// It has something to do that its socket will not tell of.
    pub(super) fn is_busy(&self) -> bool {
        self.link.has_input() || self.link.unflushed()
    }

    /// Adds what this consumer waits for; returns whether it needs not wait.
    pub(super) fn interests(&self, set: &mut PollSet, now_ns: u64) -> bool {
        let may_read = self.pacing.is_none_or(|pacing| pacing.room(self.received, now_ns) > 0);
        let unflushed = self.link.unflushed();
        let is_ready = (may_read || unflushed) && self.link.stream().watch(set, may_read, unflushed);
        is_ready || (may_read && self.link.has_input())
    }

    /// When this consumer has something to do even if no socket is ready.
    pub(super) fn next_due_ns(&self) -> Option<u64> {
        self.pacing.map(|pacing| pacing.next_ns(self.received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_consumer_takes_its_rate() {
        let pacing = Pacing::new(1_000);
        assert_eq!([0, 999_999, 1_000_000, 5_500_000].map(|now_ns| pacing.room(0, now_ns)), [0, 0, 1, 5]);
        assert_eq!((pacing.room(5, 5_500_000), pacing.next_ns(5)), (0, 6_000_000));
        assert_eq!(pacing.room(5, pacing.next_ns(5)), 1);
    }
}
