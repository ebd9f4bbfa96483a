//! Per message the load generator allocates nothing: counted by the allocator, over all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fulmar_bench::driver::Bare;
use fulmar_bench::driver::amqp::batch::Batch;
use fulmar_bench::driver::amqp_0_10::Amqp010;
use fulmar_bench::driver::amqp_0_10::wire::Walker;
use fulmar_bench::floor::Floor;
use fulmar_bench::measure::measure;
use fulmar_bench::options::{FloorIo, FloorMode, FloorOptions};
use fulmar_bench::plan::Plan;
use fulmar_bench::stamp::Stamp;
use fulmar_bench::workload::Workload;
use fulmar_transport::IdleStrategy;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// One test at a time, since all are counted together.
static ALONE: Mutex<()> = Mutex::new(());

struct Counting;

// SAFETY: forwards to the system's allocator; counting touches an atomic number only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of a whole run with so many messages, set-up included.
fn allocations(workload: &str, messages: u64) -> u64 {
    let options =
        FloorOptions { mode: FloorMode::Echo, io: FloorIo::Blocking, idle: IdleStrategy::Block, rdma: None };
    let floor = Floor::start(options, 1).unwrap();
    let text =
        format!("messages = {messages}\nseconds = 60\nwarmup_s = 0\n{workload}\n[client]\nwait = 'block'");
    let workload = Workload::from_toml(&text).unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let run = measure(&floor.target(), &workload).unwrap();
    let after = ALLOCATIONS.load(Ordering::Relaxed);
    assert!(run.is_sound() && run.outcome.published == messages, "{:?}", run.outcome);
    after - before
}

/// Ten times as many messages must not cost more than the few steps in which the record of what came doubles.
fn allocates_nothing_per_message(workload: &str, messages: u64) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let few = allocations(workload, messages);
    let many = allocations(workload, 10 * messages);
    assert!(
        many < few + 50,
        "{workload}: {few} allocations for {messages} messages, {many} for ten times as many"
    );
}

#[test]
fn a_flood() {
    allocates_nothing_per_message("", 5_000);
}

#[test]
fn a_flood_of_mixed_sizes() {
    allocates_nothing_per_message("size = { min = 24, max = 2000 }", 5_000);
}

#[test]
fn a_schedule() {
    allocates_nothing_per_message("rate_hz = 20000\narrival = 'poisson'", 500);
}

/// What a publisher of AMQP 0-10 writes and a consumer reads, which no floor speaks.
#[test]
fn transfers_of_amqp_0_10() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for text in ["", "size = { min = 24, max = 2000 }"] {
        let plan = Plan::new(Workload::from_toml(text).unwrap(), "run".into());
        let mut batch = Batch::new(Amqp010::contents(&plan, 0));
        let mut walker = Walker::new(0);
        let (mut seen, mut sequence) = (0, 0);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..100 {
            for _ in 0..batch.capacity().min(100) {
                batch.put(Stamp { publisher: 0, sequence, due_ns: 0, sent_ns: 0 });
                sequence += 1;
            }
            walker.walk(batch.bytes(), u64::MAX, |_| seen += 1).unwrap();
            batch.clear();
        }
        let after = ALLOCATIONS.load(Ordering::Relaxed);
        assert_eq!(seen, sequence, "{text}");
        // Whoever runs the tests makes a few.
        assert!(after - before < 50, "{text}: {} allocations for {seen} messages", after - before);
    }
}
