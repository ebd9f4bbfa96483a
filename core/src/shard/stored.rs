//! What waits until the journal has stored what it depends on.

use super::Shard;
use crate::QueueId;
use crate::journal::{Journal, Position, StoreKey};

/// How many bits of a key count the queues of one run. Above them is the run.
const KEY_BITS: u32 = 40;

impl Shard {
    /// Gives the shard a journal. Before anything else is asked of it.
    pub fn set_journal(&mut self, journal: Box<dyn Journal>) {
        // Keys of this run are larger than all of the runs before, also of queues whose declaration was not stored.
        self.topology.skip_store_keys(StoreKey(u64::from(journal.run()) << KEY_BITS));
        self.journal = Some(journal);
    }

    /// The durable queue of that key, if it is still there.
    pub fn queue_of(&self, key: StoreKey) -> Option<QueueId> {
        self.topology.queue_by_key(key)
    }

    /// The journal has stored everything before a position.
    pub fn stored(&mut self, position: Position) {
        debug_assert!(position >= self.stored, "what is stored stays stored");
        self.stored = position;
    }
}
