//! One consumer: walks deliveries, counts them, and acknowledges if it must.

use std::sync::atomic::Ordering;

use fulmar_amqp_0_9_1::codec::fast;

use super::{LoadError, Meter, Shared};
use crate::driver::CHANNEL;
use crate::histogram::Latencies;
use crate::poll::PollSet;
use crate::socket::Socket;
use crate::timeline::Timeline;
use crate::tracker::Tracker;
use crate::wire::{Item, Walker};

/// A consumer under load.
#[derive(Debug)]
pub struct Consumer {
    socket: Socket,
    walker: Walker,
    tracker: Tracker,
    meter: Meter,
    timed: bool,
    latencies: Latencies,
    timeline: Option<Timeline>,
    acks: Option<Acks>,
}

#[derive(Debug)]
struct Acks {
    every: u64,
    /// Highest tag received, and acknowledged.
    received: u64,
    acknowledged: u64,
    output: Vec<u8>,
}

impl Consumer {
    /// Counts what `socket` brings. `timed`: also latencies. `ack_every`: acknowledges so many at a time.
    pub fn new(socket: Socket, timed: bool, ack_every: Option<u64>) -> Self {
        Consumer {
            socket,
            walker: Walker::new(crate::driver::FRAME_MAX_BYTES as usize),
            tracker: Tracker::default(),
            meter: Meter::default(),
            timed,
            latencies: Latencies::default(),
            timeline: None,
            acks: ack_every.map(|every| Acks { every, received: 0, acknowledged: 0, output: Vec::new() }),
        }
    }

    /// Records also when the worst latencies were.
    pub fn with_timeline(mut self, timeline: Timeline) -> Self {
        self.timeline = Some(timeline);
        self
    }

    pub(super) fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) fn into_timeline(self) -> Option<Timeline> {
        self.timeline
    }

    /// Consumes what has come. Returns whether anything has.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<bool, LoadError> {
        let before = self.tracker.received;
        let Consumer { walker, tracker, timed, latencies, timeline, acks, .. } = self;
        let mut now_ns = 0;
        let moved = self.socket.read_frames(|input| {
            now_ns = shared.clock.now_ns();
            walker.walk(input, |item| {
                let Item::Message { stamp, delivery_tag } = item else { return };
                tracker.see(stamp.publisher, stamp.sequence);
                if *timed && stamp.time_ns >= shared.window.from_ns {
                    let latency_ns = now_ns.saturating_sub(stamp.time_ns);
                    latencies.record(latency_ns);
                    if let Some(timeline) = timeline {
                        timeline.record(stamp.time_ns, latency_ns);
                    }
                }
                if let Some(acks) = acks {
                    acks.received = delivery_tag;
                }
            })
        })?;
        if moved {
            self.meter.note(shared.window, now_ns, self.tracker.received);
            shared.consumed.fetch_add(self.tracker.received - before, Ordering::Relaxed);
        }
        self.acknowledge()?;
        Ok(moved)
    }

    fn acknowledge(&mut self) -> Result<(), LoadError> {
        let Some(acks) = &mut self.acks else { return Ok(()) };
        if acks.received - acks.acknowledged >= acks.every {
            fast::ack(CHANNEL, acks.received, true, &mut acks.output);
            acks.acknowledged = acks.received;
        }
        if !acks.output.is_empty() {
            let written = self.socket.write(&acks.output)?;
            acks.output.drain(..written);
        }
        Ok(())
    }

    /// Adds what this consumer waits for.
    pub(super) fn interests(&self, set: &mut PollSet) {
        let unwritten = self.acks.as_ref().is_some_and(|acks| !acks.output.is_empty());
        set.add(&self.socket, true, unwritten);
    }
}
