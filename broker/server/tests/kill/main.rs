//! A broker's process that is killed at random moments, with durable queues under load over both protocols, and started
//! again on the same directory: nothing confirmed is missing, nothing settled comes back unmarked, transactions have
//! happened as a whole or not at all, prepared branches wait for their decision.
//!
//! `FULMAR_KILL_ROUNDS=N` (default 30, as far as they go in 40 seconds), `FULMAR_KILL_SEED=S` (default: any; it is
//! printed). What the clients do follows from the seed, how far they get by the time of the kill does not.

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod host;
mod ledger;
mod raw;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fulmar_client::{Connection, ExchangeOptions, Options, QueueOptions, Table, Value};
use fulmar_transport::sim::Random;

use clients::{Garden, Plant, World};
use common::PATIENCE;
use host::Host;
use ledger::Ledger;
use raw::{Fault, Raw};

const ROUNDS: u64 = 30;
/// Time for them, unless somebody asks for a number.
const LONGEST: Duration = Duration::from_secs(40);
/// The queues whose messages are counted.
const QUEUES: [&str; 4] = ["k0", "k1", "k2", "k3"];
/// Bound to the first `FANOUT` of them.
const EXCHANGE: &str = "kill.fan";
const FANOUT: usize = 3;
/// Holds messages back; each of the queues is bound to it by its name.
const LATER: &str = "kill.later";
/// What queues that come and go are bound to.
const GARDEN: &str = "kill.garden";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

#[test]
fn a_broker_that_is_killed_keeps_what_it_said() {
    let asked = number("FULMAR_KILL_ROUNDS");
    let rounds = asked.unwrap_or(ROUNDS);
    let seed = number("FULMAR_KILL_SEED").unwrap_or_else(any_seed);
    println!("{rounds} rounds, FULMAR_KILL_SEED={seed}");
    let mut house = House::new(seed);
    let mut done = 0;
    for round in 0..rounds {
        // On a machine that has much else to do.
        if asked.is_none() && house.started.elapsed() > LONGEST {
            println!("{done} rounds were enough for this machine");
            break;
        }
        house.round(round);
        done += 1;
        let faults = std::mem::take(&mut house.ledger.lock().unwrap().faults);
        assert!(faults.is_empty(), "FULMAR_KILL_SEED={seed}, round {round}:\n{}", faults.join("\n"));
    }
    house.drain();
    let ledger = house.ledger.lock().unwrap();
    assert!(ledger.faults.is_empty(), "FULMAR_KILL_SEED={seed}, at the end:\n{}", ledger.faults.join("\n"));
    let garden = house.garden.lock().unwrap();
    let took = house.started.elapsed().as_secs_f64();
    println!("{:?}; {} queues came and went; {took:.1} s", ledger.sums, garden.planted);
    let sums = &ledger.sums;
    let enough = done * 5;
    assert!(sums.confirmed > enough && sums.settled > enough, "hardly anything was done: {sums:?}");
    if done >= ROUNDS {
        assert!(
            sums.committed > 0 && sums.rolled_back > 0 && sums.recovered > 0,
            "no transactions: {sums:?}"
        );
    }
}

fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) >> 32
}

/// A directory, the brokers that have it one after the other, and what is known of it.
struct House {
    data: tempfile::TempDir,
    random: Random,
    ledger: Arc<Mutex<Ledger>>,
    garden: Arc<Mutex<Garden>>,
    shards: &'static str,
    started: Instant,
}

impl Drop for House {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.data.disable_cleanup(true);
            eprintln!("kept: {}", self.data.path().display());
        }
    }
}

impl House {
    fn new(seed: u64) -> Self {
        let house = House {
            data: tempfile::tempdir().unwrap(),
            random: Random::new(seed),
            ledger: Arc::default(),
            garden: Arc::default(),
            shards: "2",
            started: Instant::now(),
        };
        let host = house.start(&[]);
        runtime().block_on(declare(host.addr));
        host.kill();
        house
    }

    fn start(&self, options: &[&str]) -> Host {
        self.launch(options).ready()
    }

    fn launch(&self, options: &[&str]) -> Host {
        Host::start(self.data.path(), &[&["--shards", self.shards], options].concat())
    }

    /// Starts the broker, looks at what it has, lets clients work, kills it.
    fn round(&mut self, round: u64) {
        let random = &mut self.random;
        let mut options = vec!["--io", ["auto", "epoll"][random.below(2)]];
        options.extend(["--durability", ["flush", "flush", "os"][random.below(3)]]);
        if random.chance(300_000) {
            // Queues do not fit into memory.
            options.extend(["--memory-limit", "1M"]);
        }
        let interrupted = random.chance(200_000);
        let patience = Duration::from_millis(random.within(0..=40));
        let seed = random.next_u64();
        let work = Duration::from_millis(random.within(20..=400));
        let in_order = random.chance(150_000);
        if interrupted {
            // Killed while it finds out what it has.
            let host = self.launch(&options);
            std::thread::sleep(patience);
            host.kill();
        }
        let host = self.start(&options);
        self.inspect(host.addr);
        let world = self.world(host.addr);
        let clients = std::thread::spawn(move || work_on(&world, seed));
        std::thread::sleep(work);
        match in_order {
            true => {
                self.ledger.lock().unwrap().is_stopping = true;
                host.stop();
            }
            false => host.kill(),
        }
        if in_order && !self.ledger.lock().unwrap().may_have_prepared() {
            // Nothing is left that its shard would have to finish.
            self.shards = ["1", "2", "2", "3"][self.random.below(4)];
        }
        let ended = clients.join();
        assert!(ended.is_ok(), "round {round}: a client panicked");
    }

    fn world(&self, addr: SocketAddr) -> World {
        World { addr, ledger: self.ledger.clone(), garden: self.garden.clone() }
    }

    /// Holds what a broker has found against what is known.
    fn inspect(&mut self, addr: SocketAddr) {
        let world = self.world(addr);
        let mut inspect = || -> Result<(), Fault> {
            let mut raw = Raw::open(addr, "inspector")?;
            let in_doubt = raw.in_doubt()?;
            let queues: Result<Vec<_>, Fault> = QUEUES.iter().map(|queue| raw.browse(queue)).collect();
            self.ledger.lock().unwrap().restarted(&queues?, &in_doubt);
            self.inspect_garden(&mut raw)?;
            let prepared = self.ledger.lock().unwrap().prepared();
            for (transaction, branch) in prepared {
                if self.random.chance(600_000) {
                    let commit = self.random.chance(500_000);
                    clients::decide(&world, &mut raw, transaction, &branch, commit)?;
                }
            }
            Ok(())
        };
        if let Err(fault) = inspect() {
            let mut ledger = self.ledger.lock().unwrap();
            ledger.faults.push(format!("the broker cannot be looked at: {fault:?}"));
        }
    }

    fn inspect_garden(&self, raw: &mut Raw) -> Result<(), Fault> {
        let mut garden = self.garden.lock().unwrap();
        let mut faults = Vec::new();
        let mut known = Vec::new();
        for (name, plant) in std::mem::take(&mut garden.plants) {
            let is_there = raw.has_queue(&name)?;
            let is_bound = is_there && raw.has_binding(GARDEN, &name, &name)?;
            match plant {
                Plant::Declared if !is_bound => {
                    faults.push(format!("{name} was declared and bound: there {is_there}, bound {is_bound}"));
                }
                Plant::Deleting if is_there && !is_bound => {
                    faults.push(format!("{name} was to be deleted and has lost its binding only"));
                }
                _ => {}
            }
            if is_bound {
                known.push((name, Plant::Declared));
            } else if is_there {
                known.push((name, Plant::Declaring));
            }
        }
        garden.plants = known;
        for name in garden.gone.drain(..) {
            if raw.has_queue(&name)? {
                faults.push(format!("{name} was deleted, and is there again"));
            }
        }
        self.ledger.lock().unwrap().faults.extend(faults);
        Ok(())
    }

    /// Ends all branches, stops the broker in order, takes every message, and looks whether any is left.
    fn drain(&mut self) {
        let host = self.start(&[]);
        self.inspect(host.addr);
        let world = self.world(host.addr);
        let mut raw = Raw::open(host.addr, "drain").expect("the broker is there");
        let prepared = self.ledger.lock().unwrap().prepared();
        for (transaction, branch) in prepared {
            clients::decide(&world, &mut raw, transaction, &branch, true).expect("it can be committed");
        }
        drop(raw);
        let all_due = self.ledger.lock().unwrap().all_due();
        std::thread::sleep(all_due.saturating_duration_since(Instant::now()));
        host.stop();
        for _ in 0..2 {
            let host = self.start(&[]);
            self.inspect(host.addr);
            let mut raw = Raw::open(host.addr, "drain").expect("the broker is there");
            for (queue, name) in QUEUES.iter().enumerate() {
                let messages = raw.fetch(name, u32::MAX).expect("messages can be fetched");
                if messages.is_empty() {
                    continue;
                }
                let mut ledger = self.ledger.lock().unwrap();
                for message in &messages {
                    if let Some(place) = ledger.delivered(queue, &message.body, message.redelivered, "drain")
                    {
                        ledger.settles(place, None);
                    }
                }
                drop(ledger);
                raw.accept(&messages).expect("messages can be accepted");
            }
            drop(raw);
            host.stop();
        }
        let left = self.ledger.lock().unwrap().len();
        assert_eq!(left, 0, "messages that were taken came back after a stop in order");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What is there from the beginning.
async fn declare(addr: SocketAddr) {
    let url = format!("amqp://guest:guest@{addr}");
    let connection = Connection::open(Options::from_url(&url).unwrap()).await.unwrap();
    let channel = connection.channel().await.unwrap();
    channel.declare_exchange(EXCHANGE, ExchangeOptions::new("fanout").durable()).await.unwrap();
    channel.declare_exchange(GARDEN, ExchangeOptions::new("direct").durable()).await.unwrap();
    let mut later = ExchangeOptions::new("x-delayed-message").durable();
    later.arguments = Table(vec![("x-delayed-type".into(), Value::Text("direct".into()))]);
    channel.declare_exchange(LATER, later).await.unwrap();
    for (number, queue) in QUEUES.iter().enumerate() {
        channel.declare_queue(queue, QueueOptions::durable()).await.unwrap();
        channel.bind_queue(queue, LATER, queue, Table::default()).await.unwrap();
        if number < FANOUT {
            channel.bind_queue(queue, EXCHANGE, "", Table::default()).await.unwrap();
        }
    }
}

/// Lets clients work until the broker is gone.
fn work_on(world: &World, seed: u64) {
    let mut random = Random::new(seed);
    let mut any = || Random::new(random.next_u64());
    let managers: Vec<_> = (0..2)
        .map(|_| {
            let (world, random) = (world.clone(), any());
            std::thread::spawn(move || clients::manager(&world, random))
        })
        .collect();
    runtime().block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..3 {
            clients.spawn(clients::publisher(world.clone(), any()));
            clients.spawn(clients::consumer(world.clone(), any()));
        }
        for _ in 0..2 {
            clients.spawn(clients::dealer(world.clone(), any()));
        }
        clients.spawn(clients::delayer(world.clone(), any()));
        clients.spawn(clients::gardener(world.clone(), any()));
        let all = async { while clients.join_next().await.is_some_and(|ended| ended.is_ok()) {} };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            world.ledger.lock().unwrap().faults.push("clients did not notice that the broker is gone".into());
        }
    });
    managers.into_iter().for_each(|manager| manager.join().expect("no manager panics"));
}
