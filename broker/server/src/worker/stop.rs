//! How a shard stops: it finishes what was accepted, tells its clients, waits for their answers, all within a limit.

use fulmar_protocol::CONNECTION_FORCED;
use fulmar_transport::{Close, Transport};

use super::slot::State;
use super::{MS, Progress, Worker};

/// Longest time spent on finishing what was accepted before the clients are told.
const DRAIN_NS: u64 = 200_000_000;

/// How far a stop has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// Peers are no longer read; what they sent before is being finished.
    Draining { until_ns: u64, deadline_ns: u64 },
    /// Clients have been told; waiting for their answers.
    Closing { deadline_ns: u64 },
    /// Sockets are going.
    Aborting,
}

impl Stop {
    /// When it goes on by itself.
    pub(super) fn next_deadline_ns(self) -> Option<u64> {
        match self {
            Stop::Draining { until_ns, .. } => Some(until_ns),
            Stop::Closing { deadline_ns } => Some(deadline_ns),
            Stop::Aborting => None,
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
                State::Detecting { .. } => self.end(index, Close::Abort),
                State::Free | State::Closing => {}
            }
        }
    }

    /// Takes a stop on to its next stage when its time has come.
    pub(super) fn advance_stop(&mut self) -> Progress {
        let Some(stop) = self.stop else { return Progress::Running };
        if self.open == 0 {
            return Progress::Stopped;
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
            Stop::Closing { .. } | Stop::Aborting => {}
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
