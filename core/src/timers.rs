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
}
