//! The threads of a run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{ClientWait, Consumer, LoadError, Outcome, Publisher, Recorder, Shared};
use crate::driver::{Driver, Link, RespondLink};
use crate::poll::{PollSet, Readiness, core_wait_ns, thread_cpu_ns, wake_on_time};

/// Longest wait for a socket, so that the end of a run is noticed.
const MAX_WAIT_NS: u64 = 10_000_000;

/// With more consumers on a thread, the system is asked which of them have something to read.
const MANY: usize = 16;

/// What runs on one thread.
pub struct Crew<D: Driver> {
    publishers: Vec<Publisher<D::Publisher>>,
    consumers: Vec<Consumer<D::Consumer>>,
    responders: Vec<D::Responder>,
    recorder: Recorder,
    set: PollSet,
    /// Of many consumers.
    readiness: Option<Readiness>,
    /// Places of consumers that are to be looked at whatever the system says.
    busy: Vec<usize>,
    /// By place: whether it is among the busy ones.
    listed: Vec<bool>,
    core_wait_ns: u64,
    cpu_ns: u64,
}

/// Runs the load to its end, each crew on a thread of its own. Beside it `watch` runs on this one; it is given a wait for
/// at most a time that tells whether the end has come.
///
/// # Errors
/// The first error of any connection; the others are then given up.
pub fn run<D: Driver>(
    shared: &Shared,
    mut crews: Vec<Crew<D>>,
    watch: impl FnOnce(&dyn Fn(Duration) -> bool),
) -> Result<Outcome, LoadError> {
    let (left, watcher) = (AtomicUsize::new(crews.len()), std::thread::current());
    std::thread::scope(|scope| {
        let (left, watcher) = (&left, &watcher);
        let start = move |crew: &'_ mut Crew<D>| {
            let result = crew.run(shared);
            left.fetch_sub(1, Ordering::Relaxed);
            watcher.unpark();
            result
        };
        let threads: Vec<_> = crews.iter_mut().map(|crew| scope.spawn(move || start(crew))).collect();
        watch(&|timeout| {
            if left.load(Ordering::Relaxed) > 0 {
                std::thread::park_timeout(timeout);
            }
            left.load(Ordering::Relaxed) == 0
        });
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a load thread panicked"))
            .fold(Ok(()), Result::and)
    })?;
    let mut outcome = Outcome::default();
    for crew in crews {
        outcome.core_wait_ns = outcome.core_wait_ns.max(crew.core_wait_ns);
        outcome.cpu_ns += crew.cpu_ns;
        for publisher in &crew.publishers {
            outcome.published += publisher.published();
            outcome.expected += publisher.expected();
            outcome.confirmed += publisher.confirmed();
            outcome.refused += publisher.refused();
            outcome.due += publisher.due();
            outcome.late += publisher.late();
        }
        outcome.out_of_order += crew.consumers.iter().map(Consumer::out_of_order).sum::<u64>();
        outcome.add_recorder(crew.recorder);
    }
    outcome.sum_up();
    Ok(outcome)
}

impl<D: Driver> Crew<D> {
    /// Deals connections out to so many threads: with more than one, no thread has both publishers and consumers.
    /// `recorder` is told whether its thread receives.
    pub fn deal(
        publishers: Vec<Publisher<D::Publisher>>,
        consumers: Vec<Consumer<D::Consumer>>,
        responders: Vec<D::Responder>,
        threads: usize,
        recorder: impl Fn(bool) -> Recorder,
    ) -> Vec<Self> {
        // The first threads publish, the others consume; a single one does both.
        let publishing = threads.div_ceil(2).min(publishers.len().max(1));
        let consuming_from = if threads == 1 { 0 } else { publishing };
        let consuming = threads - consuming_from;
        let empty = |n| Crew {
            publishers: Vec::new(),
            consumers: Vec::new(),
            responders: Vec::new(),
            recorder: recorder(n >= consuming_from),
            set: PollSet::default(),
            readiness: None,
            busy: Vec::new(),
            listed: Vec::new(),
            core_wait_ns: 0,
            cpu_ns: 0,
        };
        let mut crews: Vec<Self> = (0..threads).map(empty).collect();
        for (n, publisher) in publishers.into_iter().enumerate() {
            crews[n % publishing].publishers.push(publisher);
        }
        for (n, consumer) in consumers.into_iter().enumerate() {
            crews[consuming_from + n % consuming].consumers.push(consumer);
        }
        for (n, responder) in responders.into_iter().enumerate() {
            crews[consuming_from + n % consuming].responders.push(responder);
        }
        crews
    }

    fn run(&mut self, shared: &Shared) -> Result<(), LoadError> {
        let (before_ns, cpu_before_ns) = (core_wait_ns(), thread_cpu_ns());
        let result = self
            .run_until_done(shared)
            .and_then(|()| self.consumers.iter_mut().try_for_each(Consumer::finish));
        self.core_wait_ns = core_wait_ns().saturating_sub(before_ns);
        self.cpu_ns = thread_cpu_ns() - cpu_before_ns;
        if result.is_err() {
            shared.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn run_until_done(&mut self, shared: &Shared) -> Result<(), LoadError> {
        if shared.wait == ClientWait::Block {
            wake_on_time();
        }
        let tells = |consumer: &Consumer<D::Consumer>| {
            !consumer.is_paced() && consumer.link().stream().tells_of_input()
        };
        if self.consumers.len() > MANY && self.consumers.iter().all(tells) {
            self.readiness = Some(Readiness::new(self.consumers.iter().map(Consumer::link))?);
            // What came while they were set up is told by nobody.
            self.busy = (0..self.consumers.len()).collect();
            self.listed = vec![true; self.consumers.len()];
        }
        let mut moved_ns = shared.clock.now_ns();
        let mut moved_since = false;
        loop {
            let moved = self.step(shared)?;
            moved_since |= moved;
            if moved && !shared.cut_off {
                continue;
            }
            let now_ns = shared.clock.now_ns();
            if std::mem::take(&mut moved_since) {
                moved_ns = now_ns;
            }
            if self.is_done(shared) || shared.is_over(now_ns, moved_ns) {
                return Ok(());
            }
            if !moved {
                self.wait(shared)?;
            }
        }
    }

    /// Every connection once; returns whether anything moved.
    fn step(&mut self, shared: &Shared) -> Result<bool, LoadError> {
        let mut moved = false;
        for publisher in &mut self.publishers {
            moved |= publisher.step(shared, &mut self.recorder)?;
        }
        for responder in &mut self.responders {
            moved |= responder.respond()?;
            if responder.unflushed() {
                moved |= responder.flush()?;
            }
        }
        Ok(moved | self.consume(shared)?)
    }

    fn consume(&mut self, shared: &Shared) -> Result<bool, LoadError> {
        let mut moved = false;
        let Some(readiness) = &mut self.readiness else {
            for consumer in &mut self.consumers {
                moved |= consumer.step(shared, &mut self.recorder)?;
            }
            return Ok(moved);
        };
        for number in readiness.now()? {
            if !std::mem::replace(&mut self.listed[number], true) {
                self.busy.push(number);
            }
        }
        let mut place = 0;
        while let Some(&number) = self.busy.get(place) {
            let consumer = &mut self.consumers[number];
            moved |= consumer.step(shared, &mut self.recorder)?;
            if consumer.is_busy() {
                place += 1;
            } else {
                self.listed[number] = false;
                self.busy.swap_remove(place);
            }
        }
        Ok(moved)
    }

    fn is_done(&self, shared: &Shared) -> bool {
        let receives = !self.consumers.is_empty() || !self.responders.is_empty();
        self.publishers.iter().all(Publisher::is_done) && (!receives || shared.drained())
    }

    fn wait(&mut self, shared: &Shared) -> Result<(), LoadError> {
        if shared.wait == ClientWait::Spin {
            std::hint::spin_loop();
            return Ok(());
        }
        self.set.clear();
        let now_ns = shared.clock.now_ns();
        let mut until_ns = now_ns + MAX_WAIT_NS;
        let mut ready = false;
        for publisher in &self.publishers {
            ready |= publisher.interests(&mut self.set);
            until_ns = publisher.next_due_ns(shared).map_or(until_ns, |due_ns| until_ns.min(due_ns));
        }
        for responder in &self.responders {
            ready |= responder.stream().watch(&mut self.set, !responder.unflushed(), responder.unflushed());
            ready |= responder.has_input() && !responder.unflushed();
        }
        if let Some(readiness) = &self.readiness {
            self.set.add(readiness, true, false);
            ready |= !self.busy.is_empty();
        }
        let asked = if self.readiness.is_some() { &[][..] } else { &self.consumers };
        for consumer in asked {
            ready |= consumer.interests(&mut self.set, now_ns);
            until_ns = consumer.next_due_ns().map_or(until_ns, |due_ns| until_ns.min(due_ns));
        }
        if ready {
            return Ok(());
        }
        Ok(self.set.wait(Duration::from_nanos(until_ns.saturating_sub(now_ns)))?)
    }
}
