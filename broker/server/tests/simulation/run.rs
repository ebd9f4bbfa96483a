//! One run: a broker, its queues, clients and faults, all from a seed.

use std::net::SocketAddr;
use std::rc::Rc;

use fulmar_rdma::sim::{SimFabric, SimFaults};
use fulmar_transport::sim::{Faults, Network, Random};

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::gardener::Gardener;
use crate::ledger::Ledger;
use crate::manager::Manager;
use crate::publisher::Publisher;
use crate::queues::some_queues;
use crate::report::Report;
use crate::store::Store;
use crate::ways::Ways;

/// A run that has not ended by then hangs.
const MOST_STEPS: u32 = 400_000;
/// Steps after which nothing goes wrong any more.
const MOST_CHAOS_STEPS: u32 = 60_000;
/// Steps in which nothing was on its way before a run counts as stuck.
const MOST_IDLE_STEPS: u32 = 2_000;
/// Steps that clients do nothing for, at most.
const MOST_REST_STEPS: u32 = 120;
/// So far the clock goes only when nothing else happens.
const LONG_NS: u64 = 500_000_000;
/// Steps in which nothing stands in a queue before everything counts as consumed.
pub const QUIET_STEPS: u32 = 50;

/// What a client's step sees.
pub struct Env<'a> {
    pub ways: &'a Ways,
    pub address: SocketAddr,
    pub random: &'a mut Random,
    pub ledger: &'a mut Ledger,
    /// The run's queues, that of the dead last.
    pub queues: &'a [usize],
    /// Clients misbehave.
    pub chaos: bool,
    /// The broker keeps what is durable.
    pub durable: bool,
    pub trace: bool,
}

/// Runs a seed; panics when a promise is broken.
pub fn run(seed: u64, trace: bool) -> Report {
    let mut random = Random::new(seed);
    let network = Network::new(random.next_u64(), Faults::none());
    let fabric = SimFabric::new(random.next_u64(), random.below(600));
    // With and without durable data.
    let has_rdma = seed / 2 % 2 == 1;
    let ways =
        Ways { network: network.clone(), fabric, has_rdma, silences: Rc::default(), ends: Rc::default() };
    let shards = 1 + random.below(3) as u8;
    let tiny = random.chance(500_000);
    let broker_seed = random.next_u64();
    let store = (seed % 2 == 1).then(|| Store::new(&network, &mut random));
    let mut world = World {
        broker: Broker::start(&ways, shards, tiny, broker_seed, store.as_ref()).expect("an empty disk"),
        ledger: Ledger::new(has_rdma),
        queues: some_queues(&mut random),
        steps: 0,
        idle_steps: 0,
        shards,
        tiny,
        store,
        ways,
        network,
        calm_steps: 0,
        random,
        trace,
    };
    world.declare();
    let mut clients = world.clients();
    world.play(&mut clients);
    world.check_what_is_left();
    world.broker.check_sockets();
    world.ledger.check_kept();
    world.ledger.check_fates();
    let faults = world.ways.fabric.fault_counts();
    assert_eq!(faults.without_room, 0, "somebody sent without credit");
    let silences = world.ways.silences.get();
    assert!(faults.lost_grants > 0 || silences == 0, "{silences} connections have come to a stop");
    Report {
        steps: u64::from(world.steps),
        moved: world.broker.moved(),
        over_rdma: u64::from(has_rdma),
        vanished: faults.vanished,
        flushed: faults.flushed,
        not_ready: faults.not_ready,
        unanswered: faults.unanswered,
        overruns: faults.overrun,
        lost_grants: faults.lost_grants,
        credit_stalls: world.ledger.report.credit_stalls + world.broker.credit_stalls(),
        ..world.ledger.report
    }
}

/// What goes wrong with a run's RDMA devices: some of everything, or nothing.
fn rdma_faults(random: &mut Random) -> SimFaults {
    let mut any = |most: usize| if random.chance(500_000) { random.below(most) as u32 } else { 0 };
    SimFaults {
        not_ready: any(1_000),
        unanswered: any(1_000),
        flushed: any(1_000),
        overrun: any(500),
        lost_grant: any(300_000),
    }
}

pub struct World {
    pub broker: Broker,
    pub ways: Ways,
    pub network: Network,
    /// Steps since the clock has last gone far.
    calm_steps: u32,
    pub random: Random,
    pub ledger: Ledger,
    queues: Vec<usize>,
    steps: u32,
    idle_steps: u32,
    pub shards: u8,
    pub tiny: bool,
    /// Where durable things are, if this run has any.
    pub store: Option<Store>,
    pub trace: bool,
}

/// Everybody who wants something of the broker.
pub struct Clients {
    pub publishers: Vec<Publisher>,
    pub consumers: Vec<Consumer>,
    pub gardeners: Vec<Gardener>,
}

impl Clients {
    pub fn step(&mut self, env: &mut Env<'_>) {
        self.publishers.iter_mut().for_each(|publisher| publisher.step(env));
        self.consumers.iter_mut().for_each(|consumer| consumer.step(env));
        self.gardeners.iter_mut().for_each(|gardener| gardener.step(env));
    }

    fn have_published(&self) -> bool {
        self.publishers.iter().all(Publisher::is_done)
    }

    fn who_is_busy(&self) -> String {
        let publishers = self.publishers.iter().filter(|publisher| !publisher.is_done()).count();
        let gardeners = self.gardeners.iter().filter(|gardener| !gardener.is_done()).count();
        let consumers: Vec<_> =
            self.consumers.iter().filter(|consumer| !consumer.is_idle()).map(Consumer::describe).collect();
        format!("{publishers} publishers, {gardeners} gardeners, {consumers:?}")
    }

    fn are_idle(&self) -> bool {
        self.have_published()
            && self.gardeners.iter().all(Gardener::is_done)
            && self.consumers.iter().all(Consumer::is_idle)
    }
}

impl World {
    pub fn step(&mut self) {
        // The clock stands still for a shard that waits to be scheduled.
        let moved = !self.broker.step(&mut self.random) || self.advance();
        self.idle_steps = if moved { 0 } else { self.idle_steps + 1 };
        self.steps += 1;
        assert!(self.steps < 2 * MOST_STEPS, "the run does not end");
        assert!(self.idle_steps < MOST_IDLE_STEPS, "nothing is on its way, and the run has not ended");
    }

    /// Moves the clock to whatever comes next. Over RDMA what is under way is not on the clock, and clients answer heartbeats,
    /// so it goes far only once everybody has had a turn.
    fn advance(&mut self) -> bool {
        if !self.ways.has_rdma {
            return self.network.advance().is_some();
        }
        let now_ns = self.network.now_ns();
        let next_ns = self.network.next_event_ns().unwrap_or(now_ns + LONG_NS);
        if next_ns < now_ns + LONG_NS {
            return self.network.advance().is_some();
        }
        self.calm_steps += 1;
        if self.calm_steps > MOST_REST_STEPS {
            self.calm_steps = 0;
            self.network.advance_to(next_ns);
        }
        true
    }

    pub fn env(&mut self, chaos: bool) -> Env<'_> {
        Env {
            ways: &self.ways,
            address: self.broker.address,
            random: &mut self.random,
            ledger: &mut self.ledger,
            queues: &self.queues,
            chaos,
            durable: self.store.is_some(),
            trace: self.trace,
        }
    }

    fn clients(&mut self) -> Clients {
        let random = &mut self.random;
        let durable = self.store.is_some();
        let publishers = (0..1 + random.below(3))
            .map(|_| {
                let (transactional, messages) = (random.chance(300_000), 20 + random.below(120) as u32);
                Publisher::new(transactional, durable && random.chance(850_000), messages)
            })
            .collect();
        let mut consumers = Vec::new();
        for &queue in &self.queues {
            for _ in 0..1 + random.below(2) {
                let prefetch = if random.chance(300_000) { 0 } else { 1 + random.below(10) as u16 };
                let (gets, transactional) = (random.chance(150_000), durable && random.chance(200_000));
                consumers.push(Consumer::new(queue, gets, prefetch, transactional));
            }
        }
        let gardeners =
            (0..random.below(4)).map(|_| Gardener::new(self.shards, random.below(200) as u32)).collect();
        Clients { publishers, consumers, gardeners }
    }

    /// Publishes and consumes under faults; then, without, until every queue is empty; then stops the broker.
    fn play(&mut self, clients: &mut Clients) {
        let resets = if self.random.chance(700_000) { self.random.below(1_000) as u32 } else { 0 };
        self.network.set_faults(Faults { reset_chance: resets, ..Faults::default() });
        self.ways.fabric.set_faults(rdma_faults(&mut self.random));
        let mut chaos = true;
        let mut quiet_steps = 0;
        let mut manager = Manager::default();
        while quiet_steps < QUIET_STEPS {
            clients.step(&mut self.env(chaos));
            self.step();
            let published = clients.have_published();
            if chaos {
                self.go_wrong(clients);
            }
            // Connections may be reset so often that hardly anything gets done.
            if chaos && (published || self.steps > MOST_CHAOS_STEPS) {
                self.go_right(clients);
                chaos = false;
                self.network.set_faults(Faults::none());
                self.ways.fabric.set_faults(SimFaults::default());
            }
            if published && !chaos {
                manager.step(&mut self.env(chaos));
            }
            // What is on its way between shards stands in no queue for a moment.
            let idle = manager.is_done() && clients.are_idle();
            let quiet = idle && self.broker.queued() == 0;
            if self.steps > MOST_STEPS {
                let who = clients.who_is_busy();
                panic!(
                    "the run does not end: {who}; manager {}; left {:?}",
                    manager.is_done(),
                    self.broker.left()
                );
            }
            quiet_steps = if quiet { quiet_steps + 1 } else { 0 };
            // What a gardener sent before it vanished may have come after the others had cleared up.
            if idle && !quiet && self.random.chance(10_000) {
                clients.gardeners.iter_mut().take(1).for_each(Gardener::clear_again);
            }
        }
        if self.random.chance(700_000) {
            clients.publishers.iter_mut().for_each(Publisher::leave);
            clients.consumers.iter_mut().for_each(Consumer::leave);
            while !self.broker.is_clean() {
                // What a client sent before it was lost may have been prepared after the manager had looked.
                if manager.is_done() && self.steps.is_multiple_of(1_000) {
                    manager.look_again();
                }
                manager.step(&mut self.env(chaos));
                self.step();
            }
        }
        self.ledger.report.recovered = manager.settled;
        self.stop();
    }

    /// Stops the broker in order.
    pub fn stop(&mut self) {
        self.broker.stop();
        while !self.broker.has_stopped() {
            self.step();
        }
    }
}
