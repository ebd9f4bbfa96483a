//! Pseudo-random numbers from a seed (SplitMix64), and the names made of them.

use crate::Name;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A generator. Fast and well spread; not for secrets.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A name for a queue that was declared without one: 128 bits in 22 characters.
    pub(super) fn queue_name(&mut self) -> Name {
        let mut bits = u128::from(self.next()) << 64 | u128::from(self.next());
        let mut name = *b"amq.gen-                      ";
        for place in &mut name[8..] {
            *place = ALPHABET[(bits & 63) as usize];
            bits >>= 6;
        }
        Name::from(&name[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_urls_and_differ() {
        let mut random = Random::new(7);
        let (one, two) = (random.queue_name(), random.queue_name());
        assert_ne!(one, two);
        assert_eq!(one.as_bytes().len(), 8 + 22);
        assert!(one.as_bytes().starts_with(b"amq.gen-"));
        assert!(one.as_bytes()[8..].iter().all(|byte| ALPHABET.contains(byte)));
        assert_eq!(Random::new(7).queue_name(), one);
    }
}
