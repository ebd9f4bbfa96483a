//! Steady traffic allocates nothing: counted by the allocator itself, per thread.

mod relay;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use relay::Relay;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: forwards to the system's allocator; counting touches a plain thread-local cell only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `work` allocates.
fn counted(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

fn steady(shards: u8, no_ack: bool, confirm: bool) {
    let mut relay = Relay::new(shards);
    relay.consume("one", 1, no_ack);
    relay.consume("two", 2, no_ack);
    for keys in [&[&b"one"[..]][..], &[&b"one"[..], b"two"]] {
        let warming = counted(|| relay.relay(2_000, keys, !no_ack, confirm));
        assert!(warming > 0 || keys.len() > 1, "the counter counts");
        let allocations = counted(|| relay.relay(10_000, keys, !no_ack, confirm));
        assert_eq!(allocations, 0, "in 10,000 messages over {shards} shards");
    }
    relay.end();
}

#[test]
fn one_shard_publish_deliver_settle() {
    steady(1, false, false);
}

#[test]
fn one_shard_without_acknowledgement() {
    steady(1, true, true);
}

#[test]
fn two_shards_publish_deliver_settle() {
    steady(2, false, false);
}

#[test]
fn two_shards_with_confirms() {
    steady(2, true, true);
}

#[test]
fn batches() {
    for shards in [1, 2] {
        let mut relay = Relay::new(shards);
        relay.consume("one", 1, true);
        (0..3).for_each(|_| relay.relay_alike(2_000, b"one"));
        let allocations = counted(|| relay.relay_alike(10_000, b"one"));
        // The head that the publisher keeps is made for each run.
        assert!(allocations <= 1, "{allocations} in 10,000 messages over {shards} shards");
        relay.end();
    }
}
