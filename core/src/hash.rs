//! Hashing: the maps of this crate, and a hash that is the same on every shard, in every process, for ever.

use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use foldhash::fast::{FixedState, FoldHasher};

/// A map that hashes fast.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, Hashing>;

static SEED: OnceLock<u64> = OnceLock::new();

/// Sets what the tables of this process hash with, so that nobody can choose names that fall together. To be called
/// before the first shard is made; without it the seed is 0, the same in every process. Returns whether it came in
/// time.
pub fn seed_tables(seed: u64) -> bool {
    SEED.set(seed).is_ok()
}

/// How tables hash: alike throughout the process.
#[derive(Clone, Debug)]
pub(crate) struct Hashing(FixedState);

impl Default for Hashing {
    #[inline]
    fn default() -> Self {
        Hashing(FixedState::with_seed(*SEED.get_or_init(|| 0)))
    }
}

impl BuildHasher for Hashing {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}

/// FNV-1a with a final mix: for decisions that must come out the same wherever and whenever they are taken (the home
/// of a queue, consistent hashing). Not for tables.
pub(crate) struct StableHasher(u64);

impl Default for StableHasher {
    fn default() -> Self {
        StableHasher(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

/// Spreads every bit of `x` over the whole word (the finaliser of splitmix64).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A uniform choice among `0..n` from 64 random or hashed bits. `n` is not 0.
pub(crate) fn pick(bits: u64, n: usize) -> usize {
    ((u128::from(bits) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_hash_does_not_change() {
        let mut hasher = StableHasher::default();
        hasher.write(b"queue");
        assert_eq!(hasher.finish(), 0x2512_1153_0f76_facb, "homes and consistent hashing would move");
    }

    #[test]
    fn a_pick_covers_the_range() {
        assert_eq!((pick(0, 3), pick(u64::MAX / 2, 3), pick(u64::MAX, 3)), (0, 1, 2));
    }
}
