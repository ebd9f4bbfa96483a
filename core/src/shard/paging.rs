//! Queues longer than memory: which of them page out, and reading ahead.

use super::Shard;
use crate::journal::{StoredMessage, StoredPlace, Ticket};

impl Shard {
    /// The next message of those that were to be read ([`Journal::read`](crate::journal::Journal::read)).
    pub fn read_back(&mut self, _ticket: Ticket, _message: &StoredMessage<'_>) {}

    /// What is missing of those that were to be read cannot be; they are asked for again later.
    pub fn read_failed(&mut self, _ticket: Ticket) {}

    /// After a restart: a message stands in a durable queue at home here. After the topology; fastest in order of place,
    /// queue by queue. `false`: no such queue is at home here.
    pub fn restore_place(&mut self, found: &StoredPlace) -> bool {
        self.set_aside(found)
    }

    /// After a restart: everything is restored. Before anybody is served.
    pub fn end_restore(&mut self) {
        self.end_restore_of_transactions();
    }
}
