//! How much a queue of Qpid's kinds may hold, and what it does about more.

use crate::request::{Overflow, QueueOptions};

/// How much is in a queue: what waits and what is in clients' hands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Most messages and bytes of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    most: Depth,
    pub(crate) overflow: Overflow,
}

impl Limit {
    /// The limit that a queue is declared with, if it has one and keeps to it: what is beyond leaves memory in a queue that
    /// flows to disk.
    pub(crate) fn new(options: &QueueOptions) -> Option<Self> {
        let overflow = options.overflow;
        let limited = options.max_length.is_some() || options.max_length_bytes.is_some();
        let kept = overflow.counts_unsettled() && overflow != Overflow::FlowToDisk;
        let most = Depth {
            messages: options.max_length.unwrap_or(u64::MAX),
            bytes: options.max_length_bytes.unwrap_or(u64::MAX),
        };
        (limited && kept).then_some(Limit { most, overflow })
    }

    /// Whether there is room for one more message of so many bytes.
    pub(crate) fn has_room(&self, depth: Depth, bytes: u64) -> bool {
        depth.messages < self.most.messages && depth.bytes.saturating_add(bytes) <= self.most.bytes
    }

    /// Whether an empty queue has room for so many bytes.
    pub(crate) fn can_hold(&self, bytes: u64) -> bool {
        bytes <= self.most.bytes
    }
}

/// What becomes of a message that comes to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is taken.
    Take,
    /// It is taken when the oldest message has gone.
    Displace,
    /// It is dropped: all that is there comes before it.
    Drop,
    /// Its publisher is told that there is no room.
    Refuse,
    /// It ends the queue.
    Destroy,
}
