//! One run: a broker, its queues, clients and faults, all from a seed.

use std::net::SocketAddr;

use fulmar_amqp_0_9_1::codec::Method;
use fulmar_amqp_0_9_1::codec::table::{TableRef, encode_table};
use fulmar_core::{Name, Table, Value};
use fulmar_transport::sim::{Faults, Network, Random};

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::gardener::Gardener;
use crate::ledger::Ledger;
use crate::manager::Manager;
use crate::publisher::Publisher;
use crate::talk::{Heard, Line, Talk as _};
use crate::wire::Wire;

/// A run that has not ended by then hangs.
const MOST_STEPS: u32 = 400_000;
/// Steps after which nothing goes wrong any more.
const MOST_CHAOS_STEPS: u32 = 60_000;
/// Steps in which nothing was on its way before a run counts as stuck.
const MOST_IDLE_STEPS: u32 = 2_000;
/// Steps in which nothing stands in a queue before everything counts as consumed.
const QUIET_STEPS: u32 = 50;

/// A queue of every run.
pub struct QueueSpec {
    pub name: &'static str,
    /// What is rejected, expired or too much goes to the queue of the dead.
    pub dead_letters: bool,
    arguments: &'static [(&'static str, Argument)],
    /// Messages may give way to others.
    pub may_vanish: bool,
    /// Messages carry the label of their publisher.
    pub is_labelled: bool,
    /// One label's messages are with one consumer at a time.
    pub is_grouped: bool,
    /// Higher priorities overtake.
    pub has_priorities: bool,
}

/// A declaration's argument.
#[derive(Clone, Copy)]
enum Argument {
    Number(i32),
    Text(&'static str),
}

/// A header that tells the label.
pub const LABEL: &str = "label";

const PLAIN: QueueSpec = QueueSpec {
    name: "plain",
    dead_letters: false,
    arguments: &[],
    may_vanish: false,
    is_labelled: false,
    is_grouped: false,
    has_priorities: false,
};

/// The queues; the last is that of the dead.
pub const QUEUES: [QueueSpec; 11] = [
    PLAIN,
    QueueSpec { name: "mortal", dead_letters: true, ..PLAIN },
    QueueSpec {
        name: "short",
        dead_letters: true,
        arguments: &[("x-max-length", Argument::Number(5))],
        ..PLAIN
    },
    QueueSpec {
        name: "brief",
        dead_letters: true,
        arguments: &[("x-message-ttl", Argument::Number(3))],
        ..PLAIN
    },
    QueueSpec {
        name: "strict",

        arguments: &[("x-max-length", Argument::Number(4)), ("x-overflow", Argument::Text("reject-publish"))],
        ..PLAIN
    },
    QueueSpec {
        name: "ring",
        may_vanish: true,
        arguments: &[("qpid.policy_type", Argument::Text("ring")), ("qpid.max_count", Argument::Number(5))],
        ..PLAIN
    },
    QueueSpec {
        name: "last",
        may_vanish: true,
        is_labelled: true,
        arguments: &[("qpid.last_value_queue_key", Argument::Text(LABEL))],
        ..PLAIN
    },
    QueueSpec {
        name: "grouped",
        is_labelled: true,
        is_grouped: true,
        arguments: &[
            ("qpid.group_header_key", Argument::Text(LABEL)),
            ("qpid.shared_msg_group", Argument::Number(1)),
        ],
        ..PLAIN
    },
    QueueSpec {
        name: "flowing",
        arguments: &[
            ("qpid.flow_stop_count", Argument::Number(6)),
            ("qpid.flow_resume_count", Argument::Number(3)),
        ],
        ..PLAIN
    },
    QueueSpec {
        name: "pressing",
        has_priorities: true,
        arguments: &[("x-max-priority", Argument::Number(3))],
        ..PLAIN
    },
    QueueSpec { name: "dead", ..PLAIN },
];
/// So many of them, from the first on, and that of the dead are in every run.
const USUAL: usize = 5;
/// So many of the others are in each run.
const UNUSUAL: usize = 2;
/// Index of the queue of the dead.
pub const DEAD: usize = QUEUES.len() - 1;

/// Where a publish goes.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// To one queue, by the default exchange.
    Queue(usize),
    /// To `plain`, `mortal` and `short`, by a fanout exchange.
    Fanout,
    /// The same, by a topic exchange bound to it, and `brief` besides.
    Topic,
}

impl Route {
    /// To some of the run's queues.
    pub fn any(queues: &[usize], random: &mut Random) -> Self {
        match random.below(8) {
            0 => Route::Fanout,
            1 => Route::Topic,
            _ => Route::Queue(queues[random.below(queues.len() - 1)]),
        }
    }

    pub fn reaches(self, queue: usize) -> bool {
        match self {
            Route::Queue(only) => queue == only,
            Route::Fanout => queue < 3,
            Route::Topic => queue < 4,
        }
    }

    pub fn is_labelled(self) -> bool {
        (0..DEAD).any(|queue| self.reaches(queue) && QUEUES[queue].is_labelled)
    }

    pub fn has_priorities(self) -> bool {
        (0..DEAD).any(|queue| self.reaches(queue) && QUEUES[queue].has_priorities)
    }

    pub fn address(self) -> (&'static str, &'static str) {
        match self {
            Route::Queue(queue) => ("", QUEUES[queue].name),
            Route::Fanout => ("fan", "whatever"),
            Route::Topic => ("top", "a.b.c"),
        }
    }
}

/// What a client's step sees.
pub struct Env<'a> {
    pub network: &'a Network,
    pub address: SocketAddr,
    pub random: &'a mut Random,
    pub ledger: &'a mut Ledger,
    /// The run's queues, that of the dead last.
    pub queues: &'a [usize],
    /// Clients misbehave.
    pub chaos: bool,
    pub trace: bool,
}

/// What happened in a run, or in several.
#[derive(Debug, Default)]
pub struct Report {
    pub published: u64,
    pub consumed: u64,
    pub redelivered: u64,
    pub dead: u64,
    pub resets: u64,
    /// Requests of gardeners that were answered or refused.
    pub tended: u64,
    /// Commits that were refused.
    pub refused: u64,
    /// Branches of distributed transactions that were prepared, left alone and rolled back.
    pub recovered: u64,
    /// Transactions whose commits were not answered: done, and not done.
    pub unheard: [u64; 2],
    pub steps: u64,
}

impl Report {
    pub fn add(&mut self, other: &Report) {
        self.published += other.published;
        self.consumed += other.consumed;
        self.redelivered += other.redelivered;
        self.dead += other.dead;
        self.resets += other.resets;
        self.tended += other.tended;
        self.refused += other.refused;
        self.recovered += other.recovered;
        self.unheard = [0, 1].map(|which| self.unheard[which] + other.unheard[which]);
        self.steps += other.steps;
    }
}

/// Runs a seed; panics when a promise is broken.
pub fn run(seed: u64, trace: bool) -> Report {
    let mut random = Random::new(seed);
    let network = Network::new(random.next_u64(), Faults::none());
    let shards = 1 + random.below(3) as u8;
    let tiny = random.chance(500_000);
    let mut world = World {
        broker: Broker::start(&network, shards, tiny, random.next_u64()),
        ledger: Ledger::default(),
        queues: some_queues(&mut random),
        steps: 0,
        idle_steps: 0,
        network,
        random,
        trace,
    };
    world.declare(shards);
    let (publishers, consumers) = world.clients();
    let gardeners =
        (0..world.random.below(4)).map(|_| Gardener::new(shards, world.random.below(200) as u32)).collect();
    world.play(publishers, consumers, gardeners);
    world.broker.check_sockets();
    world.ledger.check_kept();
    let unheard = world.ledger.check_fates();
    let Ledger { published, consumed, redelivered, dead, resets, tended, refused, recovered, .. } =
        world.ledger;
    let steps = u64::from(world.steps);
    Report { published, consumed, redelivered, dead, resets, tended, refused, recovered, unheard, steps }
}

/// The queues of a run.
fn some_queues(random: &mut Random) -> Vec<usize> {
    let mut unusual: Vec<usize> = (USUAL..DEAD).collect();
    random.shuffle(&mut unusual);
    (0..USUAL).chain(unusual.into_iter().take(UNUSUAL)).chain([DEAD]).collect()
}

struct World {
    broker: Broker,
    network: Network,
    random: Random,
    ledger: Ledger,
    queues: Vec<usize>,
    steps: u32,
    idle_steps: u32,
    trace: bool,
}

impl World {
    fn step(&mut self) {
        // The clock stands still for a shard that waits to be scheduled.
        let moved = !self.broker.step(&mut self.random) || self.network.advance().is_some();
        self.idle_steps = if moved { 0 } else { self.idle_steps + 1 };
        self.steps += 1;
        assert!(self.steps < MOST_STEPS, "the run does not end");
        assert!(self.idle_steps < MOST_IDLE_STEPS, "nothing is on its way, and the run has not ended");
    }

    fn env(&mut self, chaos: bool) -> Env<'_> {
        Env {
            network: &self.network,
            address: self.broker.address,
            random: &mut self.random,
            ledger: &mut self.ledger,
            queues: &self.queues,
            chaos,
            trace: self.trace,
        }
    }

    /// Makes exchanges, queues and bindings, before anything goes wrong.
    fn declare(&mut self, shards: u8) {
        let mut wire = Wire::connect(&self.network, self.broker.address, &mut self.random);
        let mut waiting = u32::MAX;
        while waiting > 0 {
            let mut heard = Vec::new();
            assert_eq!(wire.pump(usize::MAX >> 1, &mut heard), Line::Up);
            for heard in heard {
                match heard {
                    Heard::Ready => waiting = self.declarations(shards, &mut wire),
                    Heard::Done => waiting -= 1,
                    heard => panic!("a declaration was answered by {heard:?}"),
                }
            }
            self.step();
        }
    }

    fn declarations(&mut self, shards: u8, wire: &mut Wire) -> u32 {
        let mut count = 0;
        let mut write = |method: &Method<'_>| {
            wire.write(method);
            count += 1;
        };
        for (exchange, kind) in [(&b"fan"[..], &b"fanout"[..]), (b"top", b"topic")] {
            write(&Method::ExchangeDeclare {
                exchange,
                type_: kind,
                passive: false,
                durable: false,
                auto_delete: false,
                internal: false,
                no_wait: false,
                arguments: TableRef::EMPTY,
            });
        }
        for queue in &QUEUES {
            let mut arguments = Table::default();
            if self.random.chance(500_000) {
                let home = self.random.below(usize::from(shards)) as i32;
                arguments.set(b"x-fulmar-shard", Value::I32(home));
            }
            for (name, value) in queue.arguments {
                let value = match value {
                    Argument::Number(number) => Value::I32(*number),
                    Argument::Text(text) => Value::Text(Name::from(*text)),
                };
                arguments.set(name.as_bytes(), value);
            }
            if queue.dead_letters {
                arguments.set(b"x-dead-letter-exchange", Value::Text(Name::default()));
                arguments.set(b"x-dead-letter-routing-key", Value::Text(Name::from(QUEUES[DEAD].name)));
            }
            let mut encoded = Vec::new();
            encode_table(&arguments, &mut encoded);
            write(&Method::QueueDeclare {
                queue: queue.name.as_bytes(),
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                no_wait: false,
                arguments: TableRef::new(&encoded),
            });
        }
        let no_wait = false;
        let arguments = TableRef::EMPTY;
        for queue in &QUEUES[..3] {
            let queue = queue.name.as_bytes();
            write(&Method::QueueBind { queue, exchange: b"fan", routing_key: b"", no_wait, arguments });
        }
        let (destination, source) = (b"fan", b"top");
        write(&Method::ExchangeBind { destination, source, routing_key: b"a.#", no_wait, arguments });
        write(&Method::QueueBind {
            queue: b"brief",
            exchange: b"top",
            routing_key: b"*.b.*",
            no_wait,
            arguments,
        });
        write(&Method::QueueBind {
            queue: b"plain",
            exchange: b"top",
            routing_key: b"#.c",
            no_wait,
            arguments,
        });
        count
    }

    fn clients(&mut self) -> (Vec<Publisher>, Vec<Consumer>) {
        let random = &mut self.random;
        let publishers = (0..1 + random.below(3))
            .map(|_| Publisher::new(random.chance(300_000), 20 + random.below(120) as u32))
            .collect();
        let mut consumers = Vec::new();
        for &queue in &self.queues {
            for _ in 0..1 + random.below(2) {
                let prefetch = if random.chance(300_000) { 0 } else { 1 + random.below(10) as u16 };
                consumers.push(Consumer::new(queue, random.chance(150_000), prefetch));
            }
        }
        (publishers, consumers)
    }

    /// Publishes and consumes under faults; then, without, until every queue is empty; then stops the broker.
    fn play(
        &mut self,
        mut publishers: Vec<Publisher>,
        mut consumers: Vec<Consumer>,
        mut gardeners: Vec<Gardener>,
    ) {
        let resets = if self.random.chance(700_000) { self.random.below(1_000) as u32 } else { 0 };
        self.network.set_faults(Faults { reset_chance: resets, ..Faults::default() });
        let mut chaos = true;
        let mut quiet_steps = 0;
        let mut manager = Manager::default();
        while quiet_steps < QUIET_STEPS {
            for publisher in &mut publishers {
                publisher.step(&mut self.env(chaos));
            }
            for consumer in &mut consumers {
                consumer.step(&mut self.env(chaos));
            }
            for gardener in &mut gardeners {
                gardener.step(&mut self.env(chaos));
            }
            self.step();
            let published = publishers.iter().all(Publisher::is_done);
            // Connections may be reset so often that hardly anything gets done.
            if chaos && (published || self.steps > MOST_CHAOS_STEPS) {
                chaos = false;
                self.network.set_faults(Faults::none());
            }
            if published && !chaos {
                manager.step(&mut self.env(chaos));
            }
            // What is on its way between shards stands in no queue for a moment.
            let idle = published
                && manager.is_done()
                && gardeners.iter().all(Gardener::is_done)
                && consumers.iter().all(Consumer::is_idle);
            let quiet = idle && self.broker.queued() == 0;
            quiet_steps = if quiet { quiet_steps + 1 } else { 0 };
            // What a gardener sent before it vanished may have come after the others had cleared up.
            if idle && !quiet && self.random.chance(10_000) {
                gardeners.iter_mut().take(1).for_each(Gardener::clear_again);
            }
        }
        if self.random.chance(700_000) {
            publishers.iter_mut().for_each(Publisher::leave);
            consumers.iter_mut().for_each(Consumer::leave);
            while !self.broker.is_clean() {
                // What a client sent before it was lost may have been prepared after the manager had looked.
                if manager.is_done() && self.steps.is_multiple_of(1_000) {
                    manager.look_again();
                }
                manager.step(&mut self.env(chaos));
                self.step();
            }
        }
        self.ledger.recovered = manager.settled;
        self.broker.stop();
        while !self.broker.has_stopped() {
            self.step();
        }
    }
}
