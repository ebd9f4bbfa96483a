//! Deadlines: a heap of keys by time, with cheap cancelling. Pure; the caller tells the time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Keys to be handed back when their time comes. A key may be set again; what it was set to before still comes back,
/// and the caller, who knows the deadline that counts, ignores it.
#[derive(Debug)]
pub struct Timers<K: Ord> {
    heap: BinaryHeap<Reverse<(u64, K)>>,
}

impl<K: Ord> Default for Timers<K> {
    fn default() -> Self {
        Timers { heap: BinaryHeap::new() }
    }
}

impl<K: Ord> Timers<K> {
    /// Hands `key` back at `deadline_ns`.
    pub fn set(&mut self, deadline_ns: u64, key: K) {
        self.heap.push(Reverse((deadline_ns, key)));
    }

    /// Forgets what `keep` does not want, given deadline and key. Costs a look at every one.
    pub fn retain(&mut self, mut keep: impl FnMut(u64, &K) -> bool) {
        self.heap.retain(|Reverse((deadline_ns, key))| keep(*deadline_ns, key));
    }

    /// Deadlines set, those included that no longer count.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// The earliest deadline.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// A key whose time has come, earliest first, and the deadline that it had been set to.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<(u64, K)> {
        if self.next_deadline_ns()? > now_ns {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_keys_come_in_order_and_not_early() {
        let mut timers = Timers::default();
        timers.set(30, 'c');
        timers.set(10, 'a');
        timers.set(20, 'b');
        assert_eq!(timers.next_deadline_ns(), Some(10));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(20), Some((10, 'a')));
        assert_eq!(timers.pop_due(20), Some((20, 'b')));
        assert_eq!(timers.pop_due(20), None);
        assert_eq!(timers.next_deadline_ns(), Some(30));
    }

    #[test]
    fn what_no_longer_counts_can_be_forgotten() {
        let mut timers = Timers::default();
        (0..10).for_each(|key| timers.set(100 - key, key));
        timers.retain(|deadline_ns, key| deadline_ns == 100 - key && key % 3 == 0);
        assert_eq!(timers.len(), 4);
        let order: Vec<_> = std::iter::from_fn(|| timers.pop_due(100)).map(|(_, key)| key).collect();
        assert_eq!(order, [9, 6, 3, 0]);
        assert!(timers.is_empty());
    }
}
