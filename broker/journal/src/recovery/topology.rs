//! The recorded topology, and where its queues are at home.

use std::collections::HashSet;
use std::path::Path;

use fulmar_core::ShardId;
use fulmar_core::journal::StoreKey;
use fulmar_core::topology::StoredChange;

use super::{Found, Map, RecoveryError, log_directory};

/// The topology and its queues' homes.
pub(crate) struct Homes {
    /// The changes that make it.
    pub changes: Vec<StoredChange>,
    homes: Map<StoreKey, u16>,
    /// A queue is not where the changes say.
    is_elsewhere: bool,
}

impl Homes {
    /// What the control shard's log says.
    pub fn read(journal: &Path, shards: u16, found: &Found) -> Result<Homes, RecoveryError> {
        let control = u16::from(ShardId::CONTROL.0);
        let mut changes = Vec::new();
        for payload in found.logs.get(&control).into_iter().flat_map(|log| &log.topology) {
            let decoded = crate::topology::decode(payload).map_err(|error| RecoveryError::Topology {
                path: log_directory(journal, control),
                reason: error.to_string(),
            });
            changes.append(&mut decoded?);
        }
        let mut homes = Map::default();
        let mut with_alternate = HashSet::new();
        for change in &changes {
            match change {
                StoredChange::QueueDeclared { key, home, options, .. } => {
                    homes.insert(*key, u16::from(*home));
                    with_alternate.extend(options.alternate.as_ref().map(|_| *key));
                }
                // What it left is on its way.
                StoredChange::QueueDeleted { key } if with_alternate.contains(key) => {}
                StoredChange::QueueDeleted { key } | StoredChange::QueueLeft { key } => {
                    homes.remove(key);
                }
                _ => {}
            }
        }
        let mut homes = Homes { changes, homes, is_elsewhere: false };
        homes.follow_messages(journal, shards, found)?;
        Ok(homes)
    }

    /// A queue is at home where its messages are, unless that shard is gone.
    fn follow_messages(&mut self, journal: &Path, shards: u16, found: &Found) -> Result<(), RecoveryError> {
        let shards = shards.min(found.identity.shards);
        let is_live = |shard: u16, key: StoreKey| {
            let queue = found.logs.get(&shard).and_then(|log| log.queue_of(key));
            queue.is_some_and(|queue| queue.places.live().next().is_some())
        };
        for (&shard, log) in found.logs.iter().filter(|(shard, _)| **shard < shards) {
            for queue in &log.queues {
                let Some(home) = self.home(queue.key).filter(|home| *home != shard) else { continue };
                if !is_live(shard, queue.key) {
                    continue;
                }
                if is_live(home, queue.key) {
                    return Err(RecoveryError::Topology {
                        path: log_directory(journal, shard),
                        reason: format!(
                            "the queue of key {} has messages in the logs of shards {home} and {shard}",
                            queue.key.0
                        ),
                    });
                }
                self.homes.insert(queue.key, shard);
                self.is_elsewhere = true;
            }
        }
        Ok(())
    }

    /// The shard that a queue is at home on; `None` if there is no such queue.
    pub fn home(&self, key: StoreKey) -> Option<u16> {
        self.homes.get(&key).copied()
    }

    /// Whether all queues are at home on one of so many shards, and where the changes say.
    pub fn fit(&self, shards: u16) -> bool {
        !self.is_elsewhere && self.homes.values().all(|home| *home < shards)
    }

    /// The changes that make the same with all queues at home on one of so many shards.
    pub fn brought_to(&self, shards: u16) -> Vec<StoredChange> {
        let mut changes = self.changes.clone();
        for change in &mut changes {
            if let StoredChange::QueueDeclared { key, home, .. } = change {
                *home = new_home(self.home(*key).unwrap_or(0), shards) as u8;
            }
        }
        changes
    }
}

/// The shard that takes over what a shard had, if there are only so many: itself if it is still there.
pub(crate) fn new_home(home: u16, shards: u16) -> u16 {
    home % shards
}
