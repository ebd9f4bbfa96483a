//! Where a message goes, shard by shard, and how a session remembers the last answer.

use super::envelope::Targets;
use crate::{QueueId, ShardId, VhostId};

/// The queues that a message is for, those at home here apart from the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    pub(super) local: Vec<QueueId>,
    pub(super) remote: Vec<(ShardId, Targets)>,
}

impl Route {
    /// Makes this the route to `targets`. Allocates only for several queues of one other shard.
    pub(super) fn set(&mut self, targets: &[QueueId], here: ShardId) {
        self.local.clear();
        self.remote.clear();
        for (place, &queue) in targets.iter().enumerate() {
            if queue.home == here {
                self.local.push(queue);
            } else if self.remote.iter().all(|(shard, _)| *shard != queue.home) {
                let at_same_home = |other: &&QueueId| other.home == queue.home;
                let queues = if targets[place + 1..].iter().any(|other| at_same_home(&other)) {
                    Targets::Many(targets.iter().filter(at_same_home).copied().collect())
                } else {
                    Targets::One(queue)
                };
                self.remote.push((queue.home, queues));
            }
        }
    }

    /// The queue that the route leads to, if it is one and at home here.
    #[inline]
    pub(super) fn only_local(&self) -> Option<QueueId> {
        match (&self.local[..], &self.remote[..]) {
            ([queue], []) => Some(*queue),
            _ => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.remote.is_empty()
    }
}

/// The last address that a session published to, and where that led. A publisher that repeats itself pays for one
/// comparison of bytes.
#[derive(Default)]
pub(super) struct LastRoute {
    valid: bool,
    epoch: u64,
    vhost: VhostId,
    exchange_bytes: usize,
    /// Exchange and routing key, one after the other.
    address: Vec<u8>,
    pub(super) route: Route,
}

impl LastRoute {
    #[inline]
    pub(super) fn is(&self, epoch: u64, vhost: VhostId, address: (&[u8], usize)) -> bool {
        self.valid
            && self.epoch == epoch
            && self.vhost == vhost
            && self.exchange_bytes == address.1
            && self.address == address.0
    }

    /// What the route holds now is the answer for this address.
    pub(super) fn remember(&mut self, epoch: u64, vhost: VhostId, address: (&[u8], usize)) {
        self.valid = true;
        self.epoch = epoch;
        self.vhost = vhost;
        self.exchange_bytes = address.1;
        self.address.clear();
        self.address.extend_from_slice(address.0);
    }

    /// The route is about to change.
    pub(super) fn forget(&mut self) {
        self.valid = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(home: u8, index: u32) -> QueueId {
        QueueId { home: ShardId(home), index, generation: 0 }
    }

    #[test]
    fn targets_are_grouped_by_home() {
        let mut route = Route::default();
        route.set(&[queue(1, 0), queue(0, 1), queue(2, 0), queue(1, 2)], ShardId(0));
        assert_eq!(route.local, [queue(0, 1)]);
        let groups: Vec<_> = route.remote.iter().map(|(s, t)| (s.0, t.as_slice().to_vec())).collect();
        assert_eq!(groups, [(1, vec![queue(1, 0), queue(1, 2)]), (2, vec![queue(2, 0)])]);
    }

    #[test]
    fn exchange_and_key_are_told_apart() {
        let mut last = LastRoute::default();
        last.remember(1, VhostId(0), (b"ab", 1));
        assert!(last.is(1, VhostId(0), (b"ab", 1)));
        assert!(!last.is(1, VhostId(0), (b"ab", 2)));
        assert!(!last.is(2, VhostId(0), (b"ab", 1)));
        assert!(!last.is(1, VhostId(1), (b"ab", 1)));
    }
}
