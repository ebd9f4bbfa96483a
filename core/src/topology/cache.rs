//! Routes remembered by exchange and routing key.

use std::hash::{BuildHasher, Hasher};

use crate::{QueueId, VhostId};

/// Entries looked at for one key.
const WAYS: usize = 4;
/// Routes to more queues are not remembered: copying to them dwarfs finding them, and memory stays bounded.
const MAX_TARGETS: usize = 64;
/// Exchange and routing key together; two short strings always fit.
const MAX_KEY_BYTES: usize = 512;

/// Remembers routes by exchange and routing key. Bounded; an epoch invalidates.
///
/// A table of fixed size in which each key has a few places. An entry that makes room for another leaves it its
/// buffers, so that a cache that has seen traffic for a while allocates no more.
pub struct RouteCache {
    entries: Vec<Entry>,
    /// Selects the set of places from a hash.
    mask: usize,
    /// Which of a set's places goes next.
    victim: usize,
}

#[derive(Default)]
struct Entry {
    /// The epoch at which this was the route, plus one; 0 for none.
    valid_at: u64,
    hash: u64,
    vhost: VhostId,
    exchange_len: usize,
    /// Exchange, then routing key.
    name: Vec<u8>,
    targets: Vec<QueueId>,
}

impl RouteCache {
    /// At most `entries` routes, rounded up to a power of two.
    pub fn new(entries: usize) -> Self {
        let entries = entries.next_power_of_two().max(WAYS);
        RouteCache {
            entries: std::iter::repeat_with(Entry::default).take(entries).collect(),
            mask: entries / WAYS - 1,
            victim: 0,
        }
    }

    /// The route remembered at this epoch.
    pub fn get(&self, epoch: u64, vhost: VhostId, exchange: &[u8], key: &[u8]) -> Option<&[QueueId]> {
        let hash = hash(vhost, exchange, key);
        let first = self.first_place(hash);
        let found = self.entries[first..first + WAYS].iter().find(|entry| {
            entry.hash == hash && entry.valid_at == epoch + 1 && entry.is(vhost, exchange, key)
        });
        found.map(|entry| entry.targets.as_slice())
    }

    /// Remembers a route; may forget another.
    pub fn insert(&mut self, epoch: u64, vhost: VhostId, exchange: &[u8], key: &[u8], targets: &[QueueId]) {
        if targets.len() > MAX_TARGETS || exchange.len() + key.len() > MAX_KEY_BYTES {
            return;
        }
        let hash = hash(vhost, exchange, key);
        let first = self.first_place(hash);
        let ways = &mut self.entries[first..first + WAYS];
        let place = ways
            .iter()
            .position(|entry| entry.hash == hash && entry.is(vhost, exchange, key))
            .or_else(|| ways.iter().position(|entry| entry.valid_at != epoch + 1))
            .unwrap_or_else(|| {
                self.victim = (self.victim + 1) % WAYS;
                self.victim
            });
        let entry = &mut ways[place];
        entry.valid_at = epoch + 1;
        entry.hash = hash;
        entry.vhost = vhost;
        entry.exchange_len = exchange.len();
        entry.name.clear();
        entry.name.extend_from_slice(exchange);
        entry.name.extend_from_slice(key);
        entry.targets.clear();
        entry.targets.extend_from_slice(targets);
    }

    fn first_place(&self, hash: u64) -> usize {
        (hash as usize & self.mask) * WAYS
    }
}

impl Entry {
    fn is(&self, vhost: VhostId, exchange: &[u8], key: &[u8]) -> bool {
        self.vhost == vhost
            && self.exchange_len == exchange.len()
            && self.name.len() == exchange.len() + key.len()
            && self.name[..self.exchange_len] == *exchange
            && self.name[self.exchange_len..] == *key
    }
}

fn hash(vhost: VhostId, exchange: &[u8], key: &[u8]) -> u64 {
    let mut hasher = crate::hash::Hashing::default().build_hasher();
    hasher.write_u64(u64::from(vhost.0) << 32 | exchange.len() as u64);
    hasher.write(exchange);
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardId;

    const V: VhostId = VhostId(0);

    fn queue(index: u32) -> QueueId {
        QueueId { home: ShardId(0), index, generation: 0 }
    }

    #[test]
    fn a_route_is_remembered_until_the_epoch_changes() {
        let mut cache = RouteCache::new(16);
        cache.insert(0, V, b"x", b"key", &[queue(1)]);
        assert_eq!(cache.get(0, V, b"x", b"key"), Some(&[queue(1)][..]));
        assert_eq!(cache.get(1, V, b"x", b"key"), None);
        cache.insert(1, V, b"x", b"key", &[]);
        assert_eq!(cache.get(1, V, b"x", b"key"), Some(&[][..]));
        assert_eq!(cache.get(0, V, b"x", b"key"), None);
    }

    #[test]
    fn exchange_and_key_are_told_apart() {
        let mut cache = RouteCache::new(16);
        cache.insert(0, V, b"ab", b"c", &[queue(1)]);
        assert_eq!(cache.get(0, V, b"a", b"bc"), None);
        assert_eq!(cache.get(0, VhostId(1), b"ab", b"c"), None);
        assert_eq!(cache.get(0, V, b"", b""), None, "an empty entry is no route");
    }

    #[test]
    fn it_stays_within_its_bound_and_never_lies() {
        let mut cache = RouteCache::new(8);
        for round in 0..100u32 {
            let key = round.to_be_bytes();
            cache.insert(0, V, b"x", &key, &[queue(round)]);
            assert_eq!(cache.get(0, V, b"x", &key), Some(&[queue(round)][..]));
        }
        let kept: Vec<u32> =
            (0..100).filter(|n: &u32| cache.get(0, V, b"x", &n.to_be_bytes()).is_some()).collect();
        assert!(kept.len() <= 8 && !kept.is_empty());
        for n in kept {
            assert_eq!(cache.get(0, V, b"x", &n.to_be_bytes()), Some(&[queue(n)][..]));
        }
    }

    #[test]
    fn what_is_too_large_is_not_remembered() {
        let mut cache = RouteCache::new(8);
        let many = vec![queue(0); MAX_TARGETS + 1];
        cache.insert(0, V, b"x", b"k", &many);
        assert_eq!(cache.get(0, V, b"x", b"k"), None);
        cache.insert(0, V, b"x", &[b'k'; MAX_KEY_BYTES], &many[..1]);
        assert_eq!(cache.get(0, V, b"x", &[b'k'; MAX_KEY_BYTES]), None);
    }
}
