//! A queue in which an exchange holds messages back: each waits until its time has come, whatever its place.
//!
//! When a message is due stands where other queues have when it expires. That is all that leaves such a queue.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Item, Look, Queue};
use crate::request::QueueOptions;

/// When messages are due and at which places they wait, the first one on top.
#[derive(Default)]
pub(super) struct Held(BinaryHeap<Reverse<(u64, u64)>>);

impl Held {
    /// Of a queue with these properties, if messages are held back in it.
    pub(super) fn new(options: &QueueOptions) -> Option<Box<Held>> {
        options.holds_back.then(Box::default)
    }

    /// When the first one is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((due_ns, _))| *due_ns)
    }
}

impl Queue {
    /// Whether messages are held back in it.
    #[inline]
    pub(crate) fn holds_back(&self) -> bool {
        self.held.is_some()
    }

    /// The next message that comes is held back for so long.
    pub(crate) fn hold_next(&mut self, delay_ms: u64, now_ns: u64) {
        self.note_held(self.expires_ns(Some(delay_ms), now_ns), self.next_sequence);
    }

    /// If messages are held back in it: one that waits at a place is due at some time.
    pub(crate) fn note_held(&mut self, due_ns: u64, place: u64) {
        if let Some(held) = &mut self.held {
            held.0.push(Reverse((due_ns, place)));
        }
    }

    /// Takes the next message that is due. One that is out of memory stays, and has to be read first.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<Result<Item, Look>> {
        loop {
            let held = self.held.as_mut()?;
            let Reverse((_, place)) = *held.0.peek().filter(|Reverse((due_ns, _))| *due_ns <= now_ns)?;
            match self.ready.at(place) {
                Some(away @ Look::Away { .. }) => return Some(Err(away)),
                Some(Look::Here(item)) => {
                    held.0.pop();
                    if let Some(item) = self.take(&item, None) {
                        return Some(Ok(item));
                    }
                }
                None => drop(held.0.pop()),
            }
        }
    }
}
