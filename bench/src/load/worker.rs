//! The threads of a run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{ClientWait, Consumer, LoadError, Outcome, Publisher, Shared};
use crate::poll::{PollSet, core_wait_ns, wake_on_time};

/// Longest wait for a socket, so that the end of a run is noticed.
const MAX_WAIT_NS: u64 = 10_000_000;

/// Runs the load to its end: everything on this thread, or with `threads` 2 the consumers on a second one.
///
/// # Errors
/// The first error of any connection; the others are then given up.
pub fn run(
    shared: &Shared,
    publishers: Vec<Publisher>,
    consumers: Vec<Consumer>,
    threads: usize,
) -> Result<Outcome, LoadError> {
    let mut here = Worker { publishers, consumers, ..Worker::default() };
    let mut there = Worker::default();
    if threads > 1 {
        there.consumers = std::mem::take(&mut here.consumers);
    }
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        let other = (threads > 1).then(|| scope.spawn(|| there.run(shared)));
        let mine = here.run(shared);
        let others = other.map_or(Ok(()), |thread| thread.join().expect("a load thread panicked"));
        mine.and(others)
    })?;
    for worker in [here, there] {
        outcome.core_wait_ns = outcome.core_wait_ns.max(worker.core_wait_ns);
        worker.publishers.iter().for_each(|publisher| outcome.add_publisher(publisher));
        worker.consumers.into_iter().for_each(|consumer| outcome.add_consumer(consumer));
    }
    Ok(outcome)
}

#[derive(Default)]
struct Worker {
    publishers: Vec<Publisher>,
    consumers: Vec<Consumer>,
    set: PollSet,
    core_wait_ns: u64,
}

impl Worker {
    fn run(&mut self, shared: &Shared) -> Result<(), LoadError> {
        let before_ns = core_wait_ns();
        let result = self.run_until_done(shared);
        self.core_wait_ns = core_wait_ns().saturating_sub(before_ns);
        if result.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn run_until_done(&mut self, shared: &Shared) -> Result<(), LoadError> {
        if shared.wait == ClientWait::Block {
            wake_on_time();
        }
        loop {
            let mut moved = false;
            for publisher in &mut self.publishers {
                moved |= publisher.step(shared)?;
            }
            for consumer in &mut self.consumers {
                moved |= consumer.step(shared)?;
            }
            if !moved {
                if self.is_done(shared) {
                    return Ok(());
                }
                self.wait(shared)?;
            }
        }
    }

    fn is_done(&self, shared: &Shared) -> bool {
        let done =
            self.publishers.iter().all(Publisher::is_done) && (self.consumers.is_empty() || shared.drained());
        done || shared.given_up(shared.clock.now_ns())
    }

    fn wait(&mut self, shared: &Shared) -> Result<(), LoadError> {
        if shared.wait == ClientWait::Spin {
            std::hint::spin_loop();
            return Ok(());
        }
        self.set.clear();
        let now_ns = shared.clock.now_ns();
        let mut until_ns = now_ns + MAX_WAIT_NS;
        for publisher in &self.publishers {
            publisher.interests(&mut self.set);
            until_ns = publisher.next_due_ns(shared).map_or(until_ns, |due_ns| until_ns.min(due_ns));
        }
        self.consumers.iter().for_each(|consumer| consumer.interests(&mut self.set));
        Ok(self.set.wait(Duration::from_nanos(until_ns.saturating_sub(now_ns)))?)
    }
}
