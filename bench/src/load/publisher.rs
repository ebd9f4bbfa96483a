//! One publisher: writes stamped copies of one message, as fast as it may or on a schedule.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;

use super::{LoadError, Meter, Shared};
use crate::batch::{Batch, Template};
use crate::histogram::Latencies;
use crate::poll::PollSet;
use crate::schedule::Schedule;
use crate::socket::Socket;
use crate::wire::{Item, Stamp, Walker};

/// When a publisher publishes.
#[derive(Debug)]
pub enum Pace {
    /// Whenever the socket takes it.
    Flood,
    /// When it is due.
    Scheduled(Schedule),
}

/// A publisher under load.
#[derive(Debug)]
pub struct Publisher {
    id: u16,
    socket: Socket,
    batch: Batch,
    pace: Pace,
    /// Messages to publish in all.
    limit: u64,
    /// Messages stamped into the batch that is being written.
    in_batch: usize,
    /// Bytes of it that the kernel took.
    written_bytes: usize,
    published: u64,
    meter: Meter,
    confirms: Option<Confirms>,
    returned: u64,
    done: bool,
}

impl Publisher {
    /// Publishes copies of `template`. `confirm_window`: most unconfirmed messages, where confirms are on.
    pub fn new(
        id: u16,
        socket: Socket,
        template: &Template,
        pace: Pace,
        confirm_window: Option<u64>,
    ) -> Self {
        Publisher {
            id,
            socket,
            batch: Batch::new(template),
            pace,
            limit: u64::MAX,
            in_batch: 0,
            written_bytes: 0,
            published: 0,
            meter: Meter::default(),
            confirms: confirm_window.map(Confirms::new),
            returned: 0,
            done: false,
        }
    }

    /// Ends after so many messages.
    pub fn with_limit(mut self, messages: u64) -> Self {
        self.limit = messages;
        self
    }

    /// Messages written so far.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Messages confirmed so far.
    pub fn confirmed(&self) -> u64 {
        self.confirms.as_ref().map_or(0, |confirms| confirms.settled)
    }

    /// Messages refused or returned.
    pub fn refused(&self) -> u64 {
        self.returned + self.confirms.as_ref().map_or(0, |confirms| confirms.refused)
    }

    /// From due to confirmed.
    pub fn confirm_latencies(&self) -> &Latencies {
        static NONE: std::sync::LazyLock<Latencies> = std::sync::LazyLock::new(Latencies::default);
        self.confirms.as_ref().map_or(&NONE, |confirms| &confirms.latencies)
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Publishes what may be published now. Returns whether anything moved.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<bool, LoadError> {
        let mut moved = self.read_confirms(shared)?;
        if self.done {
            return Ok(moved);
        }
        if self.written_bytes == 0 && self.in_batch == 0 {
            self.fill(shared);
        }
        let bytes = &self.batch.bytes(self.in_batch)[self.written_bytes..];
        if !bytes.is_empty() {
            let written = self.socket.write(bytes)?;
            self.written_bytes += written;
            moved |= written > 0;
            if written == bytes.len() {
                self.published += self.in_batch as u64;
                shared.published.fetch_add(self.in_batch as u64, Ordering::Relaxed);
                self.meter.note(shared.window, shared.clock.now_ns(), self.published);
                (self.in_batch, self.written_bytes) = (0, 0);
            }
        } else if self.ended(shared) {
            self.done = true;
            // Release pairs with the acquire in `Shared::drained`.
            shared.publishers_left.fetch_sub(1, Ordering::Release);
        }
        Ok(moved)
    }

    /// Stamps as many messages as may leave now.
    fn fill(&mut self, shared: &Shared) {
        let now_ns = shared.clock.now_ns();
        let room = match (&self.confirms, &self.pace) {
            (Some(confirms), _) => confirms.room(self.published),
            (None, Pace::Flood) => shared.room(),
            (None, Pace::Scheduled(_)) => u64::MAX,
        };
        let room = room.min(self.batch.capacity() as u64).min(self.limit - self.published);
        let count = match &self.pace {
            Pace::Flood if now_ns < shared.window.to_ns => room,
            Pace::Flood => 0,
            Pace::Scheduled(schedule) => room.min(schedule.due(now_ns)),
        };
        for index in 0..count as usize {
            let time_ns = match &mut self.pace {
                Pace::Flood => now_ns,
                Pace::Scheduled(schedule) if schedule.next_due_ns() < shared.window.to_ns => schedule.take(),
                Pace::Scheduled(_) => break,
            };
            let sequence = self.published + index as u64;
            self.batch.stamp(index, Stamp { publisher: self.id, sequence, time_ns });
            if let Some(confirms) = &mut self.confirms {
                confirms.sent(time_ns);
            }
            self.in_batch = index + 1;
        }
    }

    fn ended(&self, shared: &Shared) -> bool {
        let published_all = match &self.pace {
            Pace::Flood => shared.clock.now_ns() >= shared.window.to_ns,
            Pace::Scheduled(schedule) => schedule.next_due_ns() >= shared.window.to_ns,
        };
        (published_all || self.published == self.limit)
            && self.confirms.as_ref().is_none_or(|confirms| confirms.settled >= self.published)
    }

    fn read_confirms(&mut self, shared: &Shared) -> Result<bool, LoadError> {
        let Some(confirms) = &mut self.confirms else { return Ok(false) };
        if confirms.settled == self.published + self.in_batch as u64 {
            return Ok(false);
        }
        let (walker, returned) = (&mut confirms.walker, &mut self.returned);
        let (now, settling) = (shared.clock, &mut confirms.settling);
        settling.clear();
        let moved = self.socket.read_frames(|input| {
            walker.walk(input, |item| match item {
                Item::Confirmed { tag, multiple, refused } => settling.push((tag, multiple, refused)),
                Item::Returned => *returned += 1,
                Item::Message { .. } => {}
            })
        })?;
        if moved {
            let now_ns = now.now_ns();
            for (tag, multiple, refused) in std::mem::take(&mut confirms.settling) {
                confirms.settle(tag, multiple, refused, now_ns);
            }
        }
        Ok(moved)
    }

    /// Adds what this publisher waits for.
    pub(super) fn interests(&self, set: &mut PollSet) {
        let unwritten = self.in_batch > 0;
        let unconfirmed = self.confirms.as_ref().is_some_and(|confirms| confirms.settled < self.published);
        if unwritten || unconfirmed {
            set.add(&self.socket, unconfirmed, unwritten);
        }
    }

    /// When this publisher has something to do even if no socket is ready.
    pub(super) fn next_due_ns(&self, shared: &Shared) -> Option<u64> {
        match &self.pace {
            _ if self.done || self.in_batch > 0 || self.published == self.limit => None,
            Pace::Scheduled(schedule) => Some(schedule.next_due_ns().min(shared.window.to_ns)),
            Pace::Flood if self.confirms.is_some() => Some(shared.window.to_ns),
            // Waits for consumers on another thread, who do not tell.
            Pace::Flood => Some(shared.clock.now_ns() + 50_000),
        }
    }
}

/// What a publisher knows of its confirms.
#[derive(Debug)]
struct Confirms {
    walker: Walker,
    window: u64,
    /// Everything up to this tag is settled.
    low: u64,
    /// Settled tags above.
    above: BTreeSet<u64>,
    settled: u64,
    refused: u64,
    /// When each unsettled message was due, from tag `low + 1` on.
    due_ns: VecDeque<u64>,
    latencies: Latencies,
    settling: Vec<(u64, bool, bool)>,
}

impl Confirms {
    fn new(window: u64) -> Self {
        Confirms {
            walker: Walker::new(crate::driver::FRAME_MAX_BYTES as usize),
            window,
            low: 0,
            above: BTreeSet::new(),
            settled: 0,
            refused: 0,
            due_ns: VecDeque::new(),
            latencies: Latencies::default(),
            settling: Vec::new(),
        }
    }

    fn room(&self, published: u64) -> u64 {
        self.window.saturating_sub(published - self.settled)
    }

    fn sent(&mut self, due_ns: u64) {
        self.due_ns.push_back(due_ns);
    }

    fn settle(&mut self, tag: u64, multiple: bool, refused: bool, now_ns: u64) {
        let before = self.settled;
        if !multiple && tag > self.low && self.above.insert(tag) {
            self.record(tag, now_ns);
        }
        let reaches = if multiple { tag } else { self.low };
        while self.low < reaches || self.above.first() == Some(&(self.low + 1)) {
            let next = self.low + 1;
            if !self.above.remove(&next) {
                self.record(next, now_ns);
            }
            self.low = next;
            self.due_ns.pop_front();
        }
        if refused {
            self.refused += self.settled - before;
        }
    }

    fn record(&mut self, tag: u64, now_ns: u64) {
        if let Some(due_ns) = self.due_ns.get((tag - self.low - 1) as usize) {
            self.latencies.record(now_ns.saturating_sub(*due_ns));
            self.settled += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_settle_once_in_whatever_order_they_come() {
        let mut confirms = Confirms::new(10);
        for tag in 1..=6 {
            confirms.sent(tag);
        }
        assert_eq!(confirms.room(6), 4);
        confirms.settle(2, false, false, 100);
        confirms.settle(2, false, false, 100);
        assert_eq!((confirms.settled, confirms.low), (1, 0));
        confirms.settle(3, true, false, 100);
        assert_eq!((confirms.settled, confirms.low), (3, 3));
        confirms.settle(5, false, true, 100);
        confirms.settle(4, false, false, 100);
        assert_eq!((confirms.settled, confirms.low, confirms.refused), (5, 5, 1));
        confirms.settle(99, true, false, 100);
        assert_eq!((confirms.settled, confirms.room(6)), (6, 10));
        assert_eq!(confirms.latencies.percentiles().max_ns, 99);
    }
}
