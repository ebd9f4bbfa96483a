//! A ring from one thread to one other.
//!
//! 1. Items come out in the order in which they went in, each once; those left when both ends are gone are dropped.
//! 2. What is pushed is seen after [`Producer::publish`], many items by one store.
//! 3. Each end writes one cache line that the other reads, and reads the other's only when its own knowledge of it is
//!    used up.
//!
//! Positions count up and wrap at the end of `usize`; a position's slot is its low bits.

use std::mem::MaybeUninit;

use super::atomic::{Arc, AtomicUsize, Ordering, Padded, UnsafeCell};

struct Ring<T> {
    /// Position up to which the consumer has taken.
    head: Padded<AtomicUsize>,
    /// Position up to which the producer has published.
    tail: Padded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by the producer alone or by the consumer alone at any time, handed over through `head` and
// `tail`; so items only move between threads, for which `T: Send` suffices.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: the ring owns its items; sending it sends them.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // Both ends are gone, and the reference counts ordered what they did before this.
        let tail = self.tail.0.load(Ordering::Relaxed);
        let mut head = self.head.0.load(Ordering::Relaxed);
        while head != tail {
            // SAFETY: positions from head to tail hold items that nobody has taken, and nobody else is left.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// The end that writes.
pub(super) struct Producer<T> {
    ring: Arc<Ring<T>>,
    /// Next position to write.
    tail: usize,
    /// Position up to which the consumer may read.
    published: usize,
    /// The consumer's head as last seen; never ahead of it.
    head_seen: usize,
}

/// The end that reads.
pub(super) struct Consumer<T> {
    ring: Arc<Ring<T>>,
    /// Next position to read.
    head: usize,
    /// The producer's tail as last seen; never ahead of it.
    tail_seen: usize,
}

/// A ring of `slots`, a power of two.
pub(super) fn ring<T>(slots: usize) -> (Producer<T>, Consumer<T>) {
    ring_at(slots, 0)
}

/// A ring whose positions start at `start`.
fn ring_at<T>(slots: usize, start: usize) -> (Producer<T>, Consumer<T>) {
    assert!(slots.is_power_of_two(), "a ring has a power of two of slots, not {slots}");
    let ring = Arc::new(Ring {
        head: Padded(AtomicUsize::new(start)),
        tail: Padded(AtomicUsize::new(start)),
        slots: (0..slots).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    let producer = Producer { ring: ring.clone(), tail: start, published: start, head_seen: start };
    (producer, Consumer { ring, head: start, tail_seen: start })
}

impl<T> Producer<T> {
    /// Appends an item, or hands it back when the ring is full.
    #[inline]
    pub(super) fn push(&mut self, item: T) -> Result<(), T> {
        if !self.has_room() {
            return Err(item);
        }
        // SAFETY: the consumer has taken what was in this slot (`has_room`, whose load acquires the store that says so)
        // and does not look at it before `tail` passes it.
        self.ring.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(item) });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Whether a push would succeed.
    #[inline]
    pub(super) fn has_room(&mut self) -> bool {
        let slots = self.ring.slots.len();
        if self.tail.wrapping_sub(self.head_seen) < slots {
            return true;
        }
        // Acquire pairs with the release in `Consumer::pop`: the consumer is done with the slots it gave back.
        self.head_seen = self.ring.head.0.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head_seen) < slots
    }

    /// Lets the consumer see what was pushed; `false` if that is nothing new.
    #[inline]
    pub(super) fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        // Release pairs with the acquire in `Consumer::is_empty`: the items are there before the tail says so.
        self.ring.tail.0.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // What is not published yet belongs to the ring all the same, which drops it in the end.
        self.publish();
    }
}

impl<T> Consumer<T> {
    /// Takes the next item.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: head is before tail, so the producer has written this slot (`is_empty`, whose load acquires the store
        // that says so) and does not write it again before `head` passes it. It is read once, as `head` moves on.
        let item = self.ring.slot(self.head).with(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        // Release pairs with the acquire in `Producer::has_room`: the slot has been read before it is given back.
        self.ring.head.0.store(self.head, Ordering::Release);
        Some(item)
    }

    /// Whether nothing published is left.
    #[inline]
    pub(super) fn is_empty(&mut self) -> bool {
        if self.head != self.tail_seen {
            return false;
        }
        // Acquire pairs with the release in `Producer::publish`.
        self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
        self.head == self.tail_seen
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn nothing_is_seen_before_it_is_published() {
        let (mut producer, mut consumer) = ring(4);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
        assert!(consumer.is_empty());
        assert!(producer.publish());
        assert!(!producer.publish());
        assert_eq!([consumer.pop(), consumer.pop(), consumer.pop()], [Some(1), Some(2), None]);
    }

    #[test]
    fn a_full_ring_hands_the_item_back() {
        let (mut producer, mut consumer) = ring(2);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
        assert_eq!(producer.push(3), Err(3));
        producer.publish();
        assert_eq!(consumer.pop(), Some(1));
        producer.push(3).unwrap();
        assert_eq!(producer.push(4), Err(4));
    }

    #[test]
    fn positions_wrap() {
        let (mut producer, mut consumer) = ring_at(4, usize::MAX - 1);
        for n in 0..20 {
            for item in 0..4 {
                producer.push(n * 4 + item).unwrap();
            }
            assert_eq!(producer.push(0), Err(0));
            producer.publish();
            for item in 0..4 {
                assert_eq!(consumer.pop(), Some(n * 4 + item));
            }
            assert_eq!(consumer.pop(), None);
        }
    }

    #[test]
    fn what_is_left_is_dropped_published_or_not() {
        let item = Rc::new(());
        let (mut producer, mut consumer) = ring(4);
        for _ in 0..3 {
            producer.push(item.clone()).unwrap();
        }
        producer.publish();
        producer.push(item.clone()).unwrap();
        drop(consumer.pop());
        assert_eq!(Rc::strong_count(&item), 4);
        drop(producer);
        drop(consumer);
        assert_eq!(Rc::strong_count(&item), 1);
    }

    #[test]
    fn two_threads_agree_on_every_item() {
        let count: u64 = if cfg!(miri) { 200 } else { 300_000 };
        let (mut producer, mut consumer) = ring(8);
        let sender = std::thread::spawn(move || {
            for n in 0..count {
                let mut item = Box::new(n);
                while let Err(back) = producer.push(item) {
                    item = back;
                    producer.publish();
                    std::thread::yield_now();
                }
                if n % 3 == 0 {
                    producer.publish();
                }
            }
        });
        let mut expected = 0;
        while expected < count {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(*item, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        sender.join().unwrap();
        assert!(consumer.pop().is_none());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use loom::sync::Arc as Counted;

    /// No loss, no duplicate, order, wrap-around of slots and of positions; loom also reports any access to a slot
    /// that the other side may be touching.
    #[test]
    fn loom_ring_hands_over_every_item_once_in_order() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring_at(2, usize::MAX);
            let sender = loom::thread::spawn(move || {
                for n in 0..4 {
                    while producer.push(n).is_err() {
                        producer.publish();
                        loom::thread::yield_now();
                    }
                    if n % 2 == 1 {
                        producer.publish();
                    }
                }
            });
            let mut expected = 0;
            while expected < 4 {
                match consumer.pop() {
                    Some(n) => {
                        assert_eq!(n, expected);
                        expected += 1;
                    }
                    None => loom::thread::yield_now(),
                }
            }
            assert_eq!(consumer.pop(), None);
            sender.join().unwrap();
        });
    }

    /// Whichever end goes last, what was not taken is dropped once.
    #[test]
    fn loom_ring_drops_what_is_left() {
        loom::model(|| {
            let item = Counted::new(());
            let (mut producer, mut consumer) = ring(2);
            let sent = item.clone();
            let sender = loom::thread::spawn(move || {
                producer.push(sent.clone()).ok().unwrap();
                producer.publish();
                producer.push(sent).ok().unwrap();
            });
            drop(consumer.pop());
            drop(consumer);
            sender.join().unwrap();
            assert_eq!(Counted::strong_count(&item), 1);
        });
    }
}
