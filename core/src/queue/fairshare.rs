//! Fair shares: from each level of priority so many messages in a row, while other levels have some.
//!
//! The turn stays with a level until its share is used up or it has nothing left, then goes to the next lower one that
//! has something, and from the lowest one back to the highest.

use std::sync::Arc;

/// A bit for each level that has messages.
pub(super) type Occupied = [u64; 4];

/// Whose turn it is.
#[derive(Clone, Debug)]
pub(super) struct Fairshare {
    /// Most messages in a row by level; 0 for no limit.
    shares: Arc<[u32]>,
    level: usize,
    taken: u32,
}

impl Fairshare {
    /// One share for each level, the lowest first. The highest begins.
    pub(super) fn new(shares: Arc<[u32]>) -> Self {
        assert!(!shares.is_empty(), "there is one level at least");
        Fairshare { level: shares.len() - 1, shares, taken: 0 }
    }

    /// The level of the next message.
    pub(super) fn next(&self, occupied: &Occupied) -> Option<usize> {
        let is_occupied = occupied[self.level / 64] >> (self.level % 64) & 1 == 1;
        if is_occupied && !self.is_used_up() {
            return Some(self.level);
        }
        highest_below(self.level, occupied).or_else(|| highest_below(self.shares.len(), occupied))
    }

    /// A message was taken from the level that was next.
    pub(super) fn taken(&mut self, level: usize) {
        if level == self.level && !self.is_used_up() {
            self.taken = self.taken.saturating_add(1);
        } else {
            (self.level, self.taken) = (level, 1);
        }
    }

    fn is_used_up(&self) -> bool {
        let share = self.shares[self.level];
        share != 0 && self.taken >= share
    }
}

/// The highest level with messages below another one.
fn highest_below(level: usize, occupied: &Occupied) -> Option<usize> {
    let (word, bit) = (level / 64, level % 64);
    let part = occupied.get(word).map_or(0, |&bits| bits & ((1 << bit) - 1));
    let words = occupied[..word.min(4)].iter().enumerate().rev().map(|(at, &bits)| (at, bits));
    let (at, bits) = std::iter::once((word, part)).chain(words).find(|&(_, bits)| bits != 0)?;
    Some(at * 64 + bits.ilog2() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The levels of messages as they are taken, of so many in each level, the lowest first.
    fn taken(shares: &[u32], mut messages: Vec<u32>) -> Vec<usize> {
        let mut fairshare = Fairshare::new(shares.into());
        let mut order = Vec::new();
        loop {
            let mut occupied = [0; 4];
            for level in (0..messages.len()).filter(|&level| messages[level] > 0) {
                occupied[level / 64] |= 1 << (level % 64);
            }
            let Some(level) = fairshare.next(&occupied) else { return order };
            fairshare.taken(level);
            messages[level] -= 1;
            order.push(level);
        }
    }

    #[test]
    fn each_level_has_its_share() {
        assert_eq!(taken(&[2, 2, 2], vec![3, 0, 5]), [2, 2, 0, 0, 2, 2, 0, 2]);
        assert_eq!(taken(&[1, 3, 0], vec![2, 4, 2]), [2, 2, 1, 1, 1, 0, 1, 0]);
        assert_eq!(taken(&[5], vec![12]), [0; 12]);
    }

    #[test]
    fn all_levels_are_found() {
        let mut messages = vec![0; 256];
        [255, 200, 128, 127, 64, 63, 0].iter().for_each(|&level| messages[level] = 1);
        assert_eq!(taken(&[1; 256], messages), [255, 200, 128, 127, 64, 63, 0]);
    }
}
