//! The broker: a worker for each shard, stepped by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::{Clock, Limits, Name, Shard, ShardConfig, ShardId};
use fulmar_journal::LogOptions;
use fulmar_journal::header::StoreId;
use fulmar_journal::recovery::log::Torn;
use fulmar_policy::Peer;
use fulmar_protocol::{Config as ProtocolConfig, Login, LoginAnswer};
use fulmar_rdma::sim::SimDevice;
use fulmar_rdma::{Joined, Side, door};
use fulmar_server::login::Mailbox;
use fulmar_server::store::{Options, ShardStore, recover};
use fulmar_server::worker::{Authenticator, Counters, Note, Progress, StopGate, Worker, WorkerConfig};
use fulmar_transport::sim::{Random, SimTransport};
use fulmar_transport::{Config, ConnId, IdleStrategy, Transport, Waker};

use crate::store::{JOURNAL, SimDisk, Store};
use crate::ways::{HEARTBEAT_S, Ways};

struct ShardWake(Arc<dyn Waker>);

impl Wake for ShardWake {
    fn wake(&self) {
        self.0.wake();
    }
}

struct Everybody;

impl Authenticator for Everybody {
    fn check(&mut self, _: ConnId, _: &Peer, _: Box<Login>) -> Option<LoginAnswer> {
        Some(LoginAnswer::accepted("guest"))
    }
}

/// A broker of some shards, all listening on one address.
pub struct Broker {
    pub address: SocketAddr,
    workers: Vec<Worker<Joined<SimTransport, SimDevice>>>,
    notes: Vec<(Sender<Note>, Arc<dyn Waker>)>,
    counters: Vec<Arc<Counters>>,
    stopped: Vec<bool>,
    order: Vec<usize>,
    limits: Limits,
    /// Ends of files that its start has left out.
    torn: Vec<Torn>,
}

impl Broker {
    /// Starts one, on the disk if there is one.
    pub fn start(
        ways: &Ways,
        shards: u8,
        tiny: bool,
        seed: u64,
        store: Option<&Store>,
    ) -> Result<Self, String> {
        // Branches of distributed transactions that their clients have ended and left alone end soon.
        let limits = if tiny { Limits::tiny() } else { Limits::default() };
        let limits = Limits { dtx_default_timeout_s: 1, ..limits };
        let config = if tiny {
            Config {
                recv_buffer_bytes: 512,
                recv_buffers: 16,
                turn_budget_bytes: 1024,
                high_water_bytes: 2048,
                low_water_bytes: 512,
                ..Config::default()
            }
        } else {
            Config::default()
        };
        let mut address = "127.0.0.1:5672".parse().unwrap();
        let (doors, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| door()).unzip();
        let mut doors = Some(doors);
        let join = |inbox| {
            let mut side = Side::new(ways.fabric.device(), config.clone());
            if tiny {
                side.limit_credit(4);
            }
            if let Some(doors) = doors.take() {
                side.listen(address, 64).expect("the address is free");
                side.spread_over(0, doors);
            }
            let transport = ways.network.transport(config.clone());
            let mut joined = Joined::new(transport, side).expect("nothing to watch");
            joined.open_inbox(inbox);
            joined
        };
        let transports: Vec<_> = inboxes.into_iter().map(join).collect();
        let (mut stores, torn) = match store {
            Some(store) => recovered(store, shards, &mut Random::new(seed))?,
            None => (Vec::new(), Vec::new()),
        };
        stores.reverse();
        let wakers = transports.iter().map(|t| Arc::new(ShardWake(t.waker())) as Arc<dyn Wake>).collect();
        let mut notes = Vec::new();
        let gate = Arc::new(StopGate::new(shards.into()));
        let (mut workers, mut all_counters) = (Vec::new(), Vec::new());
        let protocol = Arc::new(amqp(limits.max_message_bytes, ways.has_rdma));
        for (index, (mesh, transport)) in mesh_for(wakers, &limits).into_iter().zip(transports).enumerate() {
            let shard = ShardConfig {
                id: ShardId(index as u8),
                shards,
                limits: limits.clone(),
                vhosts: vec![Name::from("/")],
                seed: seed ^ index as u64,
            };
            let worker = WorkerConfig {
                protocol: protocol.clone(),
                high_water_bytes: config.high_water_bytes,
                memory_bytes: limits.memory_bytes,
                max_connections: 1000,
                addresses: None,
                idle: IdleStrategy::Block,
                gate: gate.clone(),
                tls: None,
                require_encryption: false,
            };
            let (sender, inbox) = channel();
            notes.push((sender, transport.waker()));
            let mut shard = Shard::new(shard, mesh);
            shard.set_clock(Clock { monotonic_ns: transport.now_ns(), wall_ms: transport.wall_ms() });
            let log = stores.pop().map(|store| store.restore(&mut shard)).transpose();
            let log = log.map_err(|error| error.to_string())?;
            let counters = Arc::new(Counters::default());
            all_counters.push(counters.clone());
            let mut worker = Worker::new(transport, shard, worker, Box::new(Everybody), inbox, counters);
            if let Some(log) = log {
                worker.set_log(log, Arc::default());
            }
            workers.push(worker);
        }
        let mailbox =
            |(notes, waker): &(Sender<Note>, _)| Mailbox { notes: notes.clone(), waker: Arc::clone(waker) };
        for worker in &mut workers {
            worker.set_neighbours(notes.iter().map(mailbox).collect());
            address = worker.listen(address, 64).expect("the address is free");
        }
        let shards = usize::from(shards);
        let (stopped, order) = (vec![false; shards], (0..shards).collect());
        Ok(Broker { address, workers, notes, counters: all_counters, stopped, order, limits, torn })
    }

    /// Connections that went from one shard to another.
    pub fn moved(&self) -> u64 {
        self.counters.iter().map(|counters| counters.moved.get()).sum()
    }

    /// The process ends, as when it is killed.
    pub fn end(&mut self) {
        self.workers.clear();
        self.notes.clear();
        self.order.clear();
        self.stopped.clear();
    }

    /// Whether a journal takes nothing more until the broker is started again.
    pub fn has_failed(&self) -> bool {
        self.counters.iter().any(|counters| counters.journal_failures.get() > 0)
    }

    /// Whether its start has left out the end of a file that had this place in it.
    pub fn left_out(&self, file: &Path, offset: u64) -> bool {
        self.torn.iter().any(|torn| torn.path == file && torn.from <= offset)
    }

    /// Lets the shards take turns, in any order; now and then one is not scheduled. Whether all were.
    pub fn step(&mut self, random: &mut Random) -> bool {
        random.shuffle(&mut self.order);
        let mut all = true;
        for &index in &self.order {
            if self.stopped[index] {
                continue;
            }
            if random.chance(50_000) {
                all = false;
                continue;
            }
            let worker = &mut self.workers[index];
            let progress = worker.turn().expect("the simulated transport does not fail");
            self.stopped[index] = progress == Progress::Stopped;
            let held = worker.shard().memory_bytes();
            let bound = 2 * self.limits.memory_bytes + (32 << 20);
            assert!(held <= bound, "shard {index} holds {held} bytes of messages");
        }
        all
    }

    /// Messages that queues hold, in clients' hands or not.
    pub fn queued(&mut self) -> u64 {
        self.workers.iter_mut().map(|worker| worker.shard().stats()).map(|s| s.ready + s.unsettled).sum()
    }

    /// Shards with messages, and how many wait there and are in clients' hands.
    pub fn left(&mut self) -> Vec<(usize, u64, u64)> {
        let counts = self.workers.iter_mut().map(|worker| worker.shard().stats()).enumerate();
        counts.map(|(shard, s)| (shard, s.ready, s.unsettled)).filter(|s| s.1 + s.2 > 0).collect()
    }

    /// Starts an orderly stop.
    pub fn stop(&mut self) {
        for (notes, waker) in &self.notes {
            notes.send(Note::Stop { within_ms: 10_000 }).expect("the shard is there");
            waker.wake();
        }
    }

    pub fn has_stopped(&self) -> bool {
        self.stopped.iter().all(|stopped| *stopped)
    }

    /// Nothing of clients is left, nor of messages but those that stand in a queue: what a client sent before it
    /// vanished may have come late.
    pub fn is_clean(&mut self) -> bool {
        self.workers.iter_mut().all(|worker| {
            let stats = worker.shard().stats();
            let clients = stats.connections + stats.sessions + stats.consumers + stats.unsettled;
            clients == 0 && stats.messages <= stats.ready
        })
    }

    /// Times that output of the shards had to wait for credit of a client over RDMA.
    pub fn credit_stalls(&mut self) -> u64 {
        self.workers.iter_mut().map(|worker| worker.transport().side().counts().credit_stalls).sum()
    }

    /// A shard that has stopped lets go of every socket and buffer.
    pub fn check_sockets(&mut self) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let sockets = worker.transport().inner();
            assert_eq!(sockets.lent_buffers(), 0, "shard {index} kept receive buffers");
            assert_eq!(sockets.connections(), 0, "shard {index} kept sockets");
            let side = worker.transport().side();
            assert_eq!(side.connections(), 0, "shard {index} kept RDMA connections");
            assert_eq!(side.units_in_use(), 0, "shard {index} kept registered memory");
        }
    }
}

/// What is on the disk: for each shard its own, and what was left out of it.
fn recovered(store: &Store, shards: u8, random: &mut Random) -> Result<(Vec<ShardStore>, Vec<Torn>), String> {
    let log = LogOptions {
        segment_bytes: store.segment_bytes,
        direct: true,
        flush_method: store.flush_method,
        ..LogOptions::default()
    };
    let identity = u128::from(random.next_u64()) << 64 | u128::from(random.next_u64());
    let options = Options {
        journal: Path::new(JOURNAL),
        shards: shards.into(),
        threads: 1,
        new_store: StoreId(identity.to_be_bytes()),
        log,
        progress: &|_| {},
    };
    let recovered = recover(&SimDisk(store.disk.clone()), &options).map_err(|error| error.to_string())?;
    Ok((recovered.shards, recovered.summary.torn))
}

fn amqp(max_message_bytes: u64, has_rdma: bool) -> ProtocolConfig {
    ProtocolConfig {
        product: "Fulmar".into(),
        version: "0".into(),
        cluster_name: "simulation".into(),
        broker_id: String::new(),
        frame_max_bytes: 131_072,
        channel_max: 2047,
        heartbeat_s: if has_rdma { HEARTBEAT_S } else { 0 },
        handshake_timeout_ms: 60_000,
        mechanisms: vec!["PLAIN".into()],
        max_consumers_per_channel: 1000,
        max_message_bytes,
        timestamps: Default::default(),
        known_hosts: Vec::new(),
        whereabouts: Default::default(),
        can_move: true,
    }
}
