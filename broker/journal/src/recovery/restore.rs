//! Gives a shard what was recovered of it.

use fulmar_core::Shard;
use fulmar_core::journal::{QueuePlace, StoredPlace};

use super::RecoveredLog;
use super::log::QueueContents;

impl QueueContents {
    /// What stands in the queue, in the order of places.
    pub fn stored_places(&self) -> impl Iterator<Item = StoredPlace> {
        self.places.live().map(|entry| StoredPlace {
            place: QueuePlace {
                queue: self.key,
                place: entry.place,
                expires_ms: entry.expires_ms,
                priority: entry.priority,
                counted_bytes: entry.counted_bytes,
                redelivered: entry.redelivered || entry.place < self.handed_out_below,
            },
            part: entry.part,
            at: entry.position,
            is_shared: entry.is_shared,
        })
    }
}

impl RecoveredLog {
    /// Puts messages into the queues of their shard, which has the topology and its journal already; gives how many. What
    /// is given is forgotten here.
    pub fn restore_messages(&mut self, shard: &mut Shard) -> u64 {
        let mut restored = 0;
        for queue in self.queues.drain(..) {
            for found in queue.stored_places() {
                let is_home = shard.restore_place(&found);
                debug_assert!(is_home, "a queue is restored where it is at home");
                restored += u64::from(is_home);
            }
        }
        restored
    }
}
