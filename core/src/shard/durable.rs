//! The durable part of the topology: what is recorded of its changes, and what a restart makes of that.

use super::Shard;
use crate::journal::{Joined, Record};
use crate::topology::{Change, RestoreError, StoredChange};

impl Shard {
    /// The list that makes the durable topology from nothing, in an order that can be restored.
    pub fn topology_changes(&self) -> Vec<StoredChange> {
        self.topology.stored_changes()
    }

    /// Makes again what the journal has of the topology: the last whole list and the changes after it. Asked of every shard
    /// with the same list, when the time is told, exchange types are added and nothing else has happened.
    ///
    /// # Errors
    /// Something cannot be made as it was. The shard is of no use then.
    pub fn restore_topology(&mut self, changes: &[StoredChange]) -> Result<(), RestoreError> {
        for stored in changes {
            if let Some(change) = self.topology.restored_change(stored)? {
                self.apply(std::slice::from_ref(&change));
            }
        }
        Ok(())
    }

    /// Control shard: has written down what is durable of changes that are about to be applied.
    pub(super) fn record_changes(&mut self, changes: &[Change]) {
        let Some(journal) = &mut self.journal else { return };
        let stored = changes.iter().filter_map(|change| self.topology.stored_change(change));
        let stored: Vec<StoredChange> = stored.collect();
        if !stored.is_empty() {
            journal.append(&Record::Changed(&stored), Joined::No);
        }
    }
}
