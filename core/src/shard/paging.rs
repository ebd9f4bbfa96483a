//! Queues longer than memory: which of them page out, and reading ahead.

use super::Shard;
use crate::journal::{Position, QueuePlace, StoredMessage, Ticket};

impl Shard {
    /// The next message of those that were to be read ([`Journal::read`](crate::journal::Journal::read)).
    pub fn read_back(&mut self, _ticket: Ticket, _message: &StoredMessage<'_>) {}

    /// What is missing of those that were to be read cannot be; they are asked for again later.
    pub fn read_failed(&mut self, _ticket: Ticket) {}

    /// After a restart: a message stands at a place of a durable queue, and its record is there. In order of place, after
    /// the topology. `false`: no such queue is at home here.
    pub fn restore_place(&mut self, _place: &QueuePlace, _at: Position) -> bool {
        false
    }
}
