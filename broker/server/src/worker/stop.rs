//! How a shard stops: it finishes what was accepted, tells its clients, waits for their answers, all within a limit. Then
//! it stays until the other shards have nothing more for it and its journal has stored everything.

use std::sync::atomic::{AtomicUsize, Ordering};

use fulmar_protocol::CONNECTION_FORCED;
use fulmar_transport::{Close, Transport};

use super::slot::State;
use super::{MS, Progress, Worker};

/// Longest time spent on finishing what was accepted before the clients are told.
const DRAIN_NS: u64 = 200_000_000;

/// How long nothing has to happen, after all shards have lost their clients, before a shard counts as done: what one does
/// for another takes less.
const QUIET_NS: u64 = 10_000_000;
/// How often it is looked whether the other shards have lost theirs.
const LOOK_NS: u64 = 2_000_000;
/// Least time to store what is left.
const STORE_NS: u64 = 1_000_000_000;

/// The shards of a broker that have clients yet, while it stops.
#[derive(Debug)]
pub struct StopGate {
    shards: usize,
    busy: AtomicUsize,
}

impl StopGate {
    /// For so many shards.
    pub fn new(shards: usize) -> Self {
        StopGate { shards, busy: AtomicUsize::new(shards) }
    }

    fn leave(&self) {
        // What it left in the lanes of others is ordered by those.
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_deserted(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }
}

/// How far a stop has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// Peers are no longer read; what they sent before is being finished.
    Draining { until_ns: u64, deadline_ns: u64 },
    /// Clients have been told; waiting for their answers.
    Closing { deadline_ns: u64 },
    /// Sockets are going.
    Aborting,
    /// They have gone. What the shard does for others, and the journal for it, comes to an end.
    Lingering { quiet_ns: u64, look_ns: u64, deadline_ns: u64, is_shut: bool },
}

impl Stop {
    /// When it goes on by itself.
    pub(super) fn next_deadline_ns(self) -> Option<u64> {
        match self {
            Stop::Draining { until_ns, .. } => Some(until_ns),
            Stop::Closing { deadline_ns } => Some(deadline_ns),
            Stop::Aborting => None,
            Stop::Lingering { look_ns, .. } => Some(look_ns),
        }
    }
}

impl<T: Transport> Worker<T> {
    /// Stops listening and reading; what was read is finished first.
    pub(super) fn start_stop(&mut self, within_ms: u64) {
        if self.stop.is_some() {
            return;
        }
        for listener in self.listeners.drain(..) {
            self.transport.unlisten(listener);
        }
        let deadline_ns = self.now_ns + within_ms * MS;
        let until_ns = (self.now_ns + DRAIN_NS).min(deadline_ns);
        self.stop = Some(Stop::Draining { until_ns, deadline_ns });
        self.held_publishers.clear();
        for index in 0..self.slots.len() {
            self.slots[index].held = false;
            match self.slots[index].state {
                State::Speaking(_) => self.touch(index),
                State::Detecting { .. } | State::Leaving { .. } => self.end(index, Close::Abort),
                State::Free | State::Closing => {}
            }
        }
    }

    /// Takes a stop on to its next stage when its time has come.
    pub(super) fn advance_stop(&mut self, worked: bool) -> Progress {
        let Some(stop) = self.stop else { return Progress::Running };
        if self.open == 0 {
            return self.linger(stop, worked);
        }
        match stop {
            Stop::Draining { until_ns, deadline_ns } => {
                if self.now_ns >= until_ns || self.is_drained() {
                    self.stop = Some(Stop::Closing { deadline_ns });
                    self.tell_stop();
                }
            }
            Stop::Closing { deadline_ns } if self.now_ns >= deadline_ns => {
                self.stop = Some(Stop::Aborting);
                for index in 0..self.slots.len() {
                    if !matches!(self.slots[index].state, State::Free) {
                        self.end(index, Close::Abort);
                    }
                }
            }
            Stop::Closing { .. } | Stop::Aborting | Stop::Lingering { .. } => {}
        }
        Progress::Running
    }

    /// No client is left. Whether there is nothing to wait for.
    fn linger(&mut self, stop: Stop, worked: bool) -> Progress {
        let now_ns = self.now_ns;
        let alone = self.config.gate.shards == 1;
        let (quiet_ns, deadline_ns, was_shut) = match stop {
            Stop::Lingering { quiet_ns, deadline_ns, is_shut, .. } => (quiet_ns, deadline_ns, is_shut),
            Stop::Draining { deadline_ns, .. } | Stop::Closing { deadline_ns } => {
                self.config.gate.leave();
                (now_ns, deadline_ns.max(now_ns + STORE_NS), false)
            }
            Stop::Aborting => {
                self.config.gate.leave();
                (now_ns, now_ns + STORE_NS, false)
            }
        };
        let is_settled = self.store.as_ref().is_none_or(super::Store::settle);
        let is_busy = !self.config.gate.is_deserted() || self.shard.has_work() || !is_settled;
        let quiet_ns = if is_busy || (worked && !alone) { now_ns + QUIET_NS } else { quiet_ns };
        let is_quiet = !is_busy && (alone || now_ns >= quiet_ns);
        if is_quiet && !was_shut && self.store.is_some() {
            // What that appends is stored by the turns that follow.
            self.shard.shut_queues();
            self.drive_log();
        }
        let is_shut = was_shut || is_quiet;
        self.stop = Some(Stop::Lingering { quiet_ns, look_ns: now_ns + LOOK_NS, deadline_ns, is_shut });
        if is_quiet && (was_shut || self.store.is_none()) {
            return Progress::Stopped;
        }
        if now_ns >= deadline_ns {
            if !is_settled {
                self.counters.journal_unstored.add(1);
                log::error!("stopped before everything was stored; what was not is not confirmed either");
            }
            return Progress::Stopped;
        }
        Progress::Running
    }

    fn is_drained(&self) -> bool {
        !self.shard.has_work()
            && self.dirty.is_empty()
            && self.slots.iter().all(|slot| match &slot.state {
                State::Speaking(connection) => !connection.is_parked(),
                _ => true,
            })
    }

    fn tell_stop(&mut self) {
        for index in 0..self.slots.len() {
            self.with_connection(index, |connection, cx| {
                connection.shut_down(cx, CONNECTION_FORCED, "broker shutting down");
            });
        }
    }
}
