//! Starts and stops a broker in this process: what it left on the disk, shard threads, their sockets, the lanes between
//! them, the login thread.

mod rdma;
mod recovering;
mod space;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fulmar_core::mesh::{MeshEnd, Wake};
use fulmar_core::shard::{Envelope, mesh_for};
use fulmar_core::topology::RestoreError;
use fulmar_core::{Clock, Limits, Name, Shard, ShardConfig, ShardId};
use fulmar_journal::recovery::RecoveryError;
use fulmar_journal::{DataDirectory, DirectoryError, Durability};
use fulmar_policy::{Authority, UsersError};
use fulmar_protocol::{Config as ProtocolConfig, Switch};
use fulmar_tls::{Acceptor, ClientCertificates, FileError};
use fulmar_transport::{
    AnyTransport, Config as TransportConfig, IoChoice, ListenerId, Transport, Waker, open,
};

use crate::affinity::{self, Affinity};
use crate::handshake::{self, Desk};
use crate::login::{self, Asker, Mailbox};
use crate::settings::Settings;
use crate::store::ShardStore;
use crate::worker::{Counters, Note, Outlook, Shown, Stats, StopGate, Worker, WorkerConfig};

use recovering::recover_directory;
use space::Watch;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;
/// How long the kernel may take to let go of the address of a broker that was killed.
const RELEASE_PATIENCE: Duration = Duration::from_millis(500);
/// Connections above the limit that may exist for as long as it takes to refuse them.
const REFUSAL_PLACES: u32 = 64;
/// How much longer than its limit a stop is waited for.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file of users.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// A file that TLS needs.
    #[error("TLS: {0}")]
    Tls(#[from] FileError),
    /// Encryption is required and there is none.
    #[error("require-encryption: there is no certificate (--tls-cert), so that nobody could come in")]
    NoTls,
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// What is in the data directory.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// What was recovered cannot be made again.
    #[error("cannot restore shard {0}: {1}")]
    Restore(usize, RestoreError),
    /// The CPUs that were asked for.
    #[error("cpu-affinity: {0}")]
    Affinity(String),
    /// A reactor could not be made.
    #[error("cannot start the reactor of shard {0}: {1}")]
    Reactor(usize, io::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A broker.
pub struct Broker;

/// A broker that runs. Stops when dropped, at once.
pub struct Running {
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    tls: Option<Arc<Acceptor>>,
    shards: Vec<RunningShard>,
    ended: Receiver<usize>,
    /// The threads that check logins and shake hands.
    helpers: Vec<JoinHandle<()>>,
    timestamps: Switch,
    /// Kept from others for as long as a shard may write to it.
    directory: Option<DataDirectory>,
    /// Looks at the space that the file system has.
    _space: Option<Watch>,
}

struct RunningShard {
    notes: Sender<Note>,
    waker: Arc<dyn Waker>,
    counters: Arc<Counters>,
    outlook: Arc<Outlook>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What a starting thread is told, in this order.
enum ToShard {
    Start {
        mesh: MeshEnd<Envelope>,
        asker: Asker,
        desk: Option<Desk>,
        store: Option<Box<ShardStore>>,
        outlook: Arc<Outlook>,
    },
    Listen(SocketAddr, Port),
    Run,
}

/// What a port is for.
#[derive(Clone, Copy)]
enum Port {
    /// Everything that is spoken.
    Shared,
    /// TLS alone.
    Secure,
}

/// What it answers.
enum FromShard {
    Opened { waker: Arc<dyn Waker>, io: IoChoice, name: &'static str },
    Restored,
    NotRestored(RestoreError),
    Listening(SocketAddr),
    Failed(io::Error),
}

impl Broker {
    /// Starts a broker with these options; it takes connections when this returns.
    ///
    /// # Errors
    /// Why it did not start; nothing is left running.
    pub fn start(settings: &Settings) -> Result<Running, StartError> {
        // A second broker in one process hashes as the first one does.
        let _ = fulmar_core::seed_tables(random_seed());
        let authority = Authority::new(settings.users_path(), settings.anonymous)?;
        let tls = acceptor(settings)?;
        let count = settings.shard_count();
        let cpus = affinity::assign(&settings.cpu_affinity, count).map_err(StartError::Affinity)?;
        let mut addresses = settings.addresses();
        if addresses.len() > 1 {
            addresses.retain(|&addr| is_of_this_host(addr));
        }
        let mut tls_addresses = settings.tls_addresses();
        tls_addresses.retain(|addr| addresses.iter().any(|other| other.ip() == addr.ip()));
        addresses.iter().chain(&tls_addresses).try_for_each(|&addr| check_free(addr))?;
        let directory = settings.data_path().map(|path| DataDirectory::open(&path)).transpose()?;

        log::info!("fulmar {}", env!("CARGO_PKG_VERSION"));
        let store = directory.as_ref().map(|directory| recover_directory(directory, settings)).transpose()?;

        // One for all shards: they are one broker to its peers.
        let protocol = Arc::new(protocol_config(settings, &authority));
        let worker = worker_config(settings, &protocol, tls.clone());
        let (tell_ended, ended) = channel();
        let mut starting = Vec::new();
        let mut io = settings.io;
        for (index, &cpu) in cpus.iter().enumerate() {
            let shard = Starting::spawn(settings, index, cpu, io, worker.clone(), tell_ended.clone())?;
            // The others take what the first one found to work, so that a refusal is logged once.
            io = shard.io;
            starting.push(shard);
        }
        log_start(settings, &authority, &starting, &cpus);
        log_directory(settings, directory.as_ref());
        log_tls(settings);
        let outlooks: Vec<_> = starting.iter().map(|shard| shard.outlook.clone()).collect();
        let space = directory.as_ref().map(|directory| Watch::start(directory.path(), outlooks));
        let space = space.transpose().map_err(StartError::Thread)?;

        let wakers = starting.iter().map(|shard| Arc::new(ShardWake(shard.waker.clone())) as Arc<dyn Wake>);
        let ends = mesh_for(wakers.collect(), &limits(settings, count));
        let mailboxes = || {
            let mailbox =
                |shard: &Starting| Mailbox { notes: shard.notes.clone(), waker: shard.waker.clone() };
            starting.iter().map(mailbox).collect()
        };
        let (askers, login) = login::spawn(authority, mailboxes()).map_err(StartError::Thread)?;
        let mut helpers = vec![login];
        let mut desks = Vec::new();
        if tls.is_some() {
            let patience = Duration::from_millis(settings.handshake_timeout_ms);
            let (made, threads) = handshake::spawn(mailboxes(), patience).map_err(StartError::Thread)?;
            desks = made;
            helpers.extend(threads);
        }
        let mut desks = desks.into_iter();
        let mut stores = store.map(|store| store.shards).unwrap_or_default().into_iter();
        for ((shard, mesh), asker) in starting.iter().zip(ends).zip(askers) {
            shard.tell(ToShard::Start {
                mesh,
                asker,
                desk: desks.next(),
                store: stores.next().map(Box::new),
                outlook: shard.outlook.clone(),
            });
        }
        starting.iter().try_for_each(Starting::restored)?;
        let addresses = listen(&starting, addresses, Port::Shared)?;
        let tls_addresses = listen(&starting, tls_addresses, Port::Secure)?;
        let shards = starting.into_iter().map(Starting::run).collect();
        let timestamps = protocol.timestamps.clone();
        Ok(Running {
            addresses,
            tls_addresses,
            tls,
            shards,
            ended,
            helpers,
            timestamps,
            directory,
            _space: space,
        })
    }
}

impl Running {
    /// The first address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All addresses that it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses that it listens on for TLS alone.
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Reads the certificates, keys and revocation lists of TLS again, for connections from now on. Whether there are
    /// any.
    ///
    /// # Errors
    /// A file that cannot be used; everything stays as it was.
    pub fn reload_tls(&self) -> Result<bool, FileError> {
        self.tls.as_ref().map_or(Ok(false), |tls| tls.reload().map(|()| true))
    }

    /// What all shards have counted together.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.shards.iter().for_each(|shard| stats.add(&shard.counters));
        stats
    }

    /// Whether messages that come by AMQP 0-10 are given the time of their receipt.
    pub fn timestamps(&self) -> &Switch {
        &self.timestamps
    }

    /// The journals of the shards, as they were not long ago; none where everything is kept in memory.
    pub fn journals(&self) -> Vec<Shown> {
        self.shards.iter().filter_map(|shard| shard.outlook.shown()).collect()
    }

    /// Waits until a shard ends by itself, which it does only when its reactor fails, or until the time is over.
    /// Whether one has ended.
    pub fn wait_failed(&self, timeout: Duration) -> bool {
        !matches!(self.ended.recv_timeout(timeout), Err(RecvTimeoutError::Timeout))
    }

    /// Stops: no new connections, what was accepted is finished, clients are told, all within the limit.
    ///
    /// # Errors
    /// A shard failed, or did not end in time and was left behind.
    pub fn stop(mut self, within: Duration) -> io::Result<()> {
        self.stop_by(within)
    }

    fn stop_by(&mut self, within: Duration) -> io::Result<()> {
        for shard in &self.shards {
            let within_ms = within.as_millis() as u64;
            if shard.notes.send(Note::Stop { within_ms }).is_ok() {
                shard.waker.wake();
            }
        }
        let deadline = Instant::now() + within + STOP_GRACE;
        let mut result = Ok(());
        for shard in &mut self.shards {
            let Some(thread) = shard.thread.take() else { continue };
            while !thread.is_finished() && Instant::now() < deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                let _ = self.ended.recv_timeout(left.min(Duration::from_millis(20)));
            }
            if !thread.is_finished() {
                // It may write yet, so nobody else gets the directory while this process lives.
                std::mem::forget(self.directory.take());
                result = Err(io::Error::new(io::ErrorKind::TimedOut, "a shard did not stop in time"));
                continue;
            }
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => result = Err(error),
                Err(_) => result = Err(io::Error::other("a shard's thread panicked")),
            }
        }
        self.log_journals();
        if let Some(directory) = self.directory.take()
            && result.is_ok()
            && self.stats().journal_unstored == 0
        {
            directory.leave_in_order();
        }
        if result.is_ok() {
            self.helpers.drain(..).for_each(|thread| drop(thread.join()));
        }
        result
    }
}

impl Running {
    /// What the journals have done, in one line for all shards.
    fn log_journals(&self) {
        let journals = self.journals();
        let Some(first) = journals.first() else { return };
        let mut flush_us = first.metrics.flush_us.clone();
        let mut batch_records = first.metrics.batch_records.clone();
        for journal in &journals[1..] {
            // Of the same bounds, so that nothing is left out.
            let _ = flush_us.add(&journal.metrics.flush_us);
            let _ = batch_records.add(&journal.metrics.batch_records);
        }
        let sum = |of: fn(&Shown) -> u64| journals.iter().map(of).sum::<u64>();
        let files = sum(|journal| journal.footprint.file_bytes);
        let live = sum(|journal| journal.footprint.live_bytes);
        log::info!(
            "journal: {} records in {} flushes of {} bytes; a flush had {} records and took {} µs (p50), {} µs (p99); \
             {} segments, {} recycled, {} cleaned, {} of {} MiB needed",
            sum(|journal| journal.metrics.records),
            sum(|journal| journal.metrics.flushes),
            sum(|journal| journal.metrics.written_bytes),
            batch_records.value_at_quantile(0.5),
            flush_us.value_at_quantile(0.5),
            flush_us.value_at_quantile(0.99),
            sum(|journal| journal.footprint.segments),
            sum(|journal| journal.metrics.segments_recycled),
            sum(|journal| journal.metrics.segments_cleaned),
            live >> 20,
            files >> 20,
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shards.iter().any(|shard| shard.thread.is_some()) {
            let _ = self.stop_by(Duration::ZERO);
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("addresses", &self.addresses)
            .field("shards", &self.shards.len())
            .finish_non_exhaustive()
    }
}

struct ShardWake(Arc<dyn Waker>);

impl Wake for ShardWake {
    fn wake(&self) {
        self.0.wake();
    }
}

/// A shard whose thread has its reactor and waits to be told more.
struct Starting {
    index: usize,
    to: Sender<ToShard>,
    from: Receiver<FromShard>,
    notes: Sender<Note>,
    counters: Arc<Counters>,
    outlook: Arc<Outlook>,
    waker: Arc<dyn Waker>,
    io: IoChoice,
    io_name: &'static str,
    thread: JoinHandle<io::Result<()>>,
}

impl Starting {
    fn spawn(
        settings: &Settings,
        index: usize,
        cpu: Option<usize>,
        io: IoChoice,
        worker: WorkerConfig,
        ended: Sender<usize>,
    ) -> Result<Self, StartError> {
        let (to, inbox) = channel();
        let (outbox, from) = channel();
        let (notes, worker_inbox) = channel();
        let counters = Arc::new(Counters::default());
        let seat = Seat {
            index,
            cpu,
            io,
            // One shard takes them: an RDMA port has one listener.
            rdma: if index == 0 { rdma::wanted(settings) } else { None },
            transport: transport_config(settings),
            shard: shard_config(settings, index),
            default_group: Name::from(&settings.default_message_group[..]),
            worker,
            notes: worker_inbox,
            counters: counters.clone(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("fulmar-shard-{index}"))
            .spawn(move || {
                let _end = TellEnd { index, ended };
                let result = seat.run(&inbox, &outbox);
                if let Err(error) = &result {
                    log::error!("shard {index} failed: {error}");
                }
                result
            })
            .map_err(StartError::Thread)?;
        match from.recv() {
            Ok(FromShard::Opened { waker, io, name }) => {
                let outlook = Arc::default();
                Ok(Starting { index, to, from, notes, counters, outlook, waker, io, io_name: name, thread })
            }
            Ok(FromShard::Failed(error)) => Err(StartError::Reactor(index, error)),
            Ok(_) | Err(_) => Err(panicked(index)),
        }
    }

    /// Waits until the shard has what was recovered.
    fn restored(&self) -> Result<(), StartError> {
        match self.from.recv() {
            Ok(FromShard::Restored) => Ok(()),
            Ok(FromShard::NotRestored(error)) => Err(StartError::Restore(self.index, error)),
            Ok(_) | Err(_) => Err(panicked(self.index)),
        }
    }

    fn tell(&self, what: ToShard) {
        // A thread that is gone is noticed by its silence.
        let _ = self.to.send(what);
    }

    fn listen(&self, addr: SocketAddr, port: Port) -> Result<SocketAddr, StartError> {
        self.tell(ToShard::Listen(addr, port));
        match self.from.recv() {
            Ok(FromShard::Listening(addr)) => Ok(addr),
            Ok(FromShard::Failed(error)) => Err(StartError::Listen(addr, error)),
            Ok(_) | Err(_) => Err(panicked(self.index)),
        }
    }

    fn run(self) -> RunningShard {
        self.tell(ToShard::Run);
        RunningShard {
            notes: self.notes,
            waker: self.waker,
            counters: self.counters,
            outlook: self.outlook,
            thread: Some(self.thread),
        }
    }
}

fn panicked(index: usize) -> StartError {
    StartError::Reactor(index, io::Error::other("the shard's thread panicked"))
}

/// Tells that a shard's thread has ended, by a panic too.
struct TellEnd {
    index: usize,
    ended: Sender<usize>,
}

impl Drop for TellEnd {
    fn drop(&mut self) {
        let _ = self.ended.send(self.index);
    }
}

/// What a shard's thread begins with.
struct Seat {
    index: usize,
    cpu: Option<usize>,
    io: IoChoice,
    rdma: Option<rdma::Wanted>,
    transport: TransportConfig,
    shard: ShardConfig,
    default_group: Name,
    worker: WorkerConfig,
    notes: Receiver<Note>,
    counters: Arc<Counters>,
}

impl Seat {
    /// The shard's thread. Returns early when the starter has given up.
    fn run(self, inbox: &Receiver<ToShard>, outbox: &Sender<FromShard>) -> io::Result<()> {
        if let Some(cpu) = self.cpu
            && let Err(error) = affinity::pin(cpu)
        {
            log::warn!("shard {} cannot be pinned to CPU {cpu}: {error}", self.index);
        }
        let rdma = self.rdma.as_ref().and_then(|wanted| wanted.listen(&self.transport));
        let opened = open(self.transport.clone(), self.io);
        let opened = match (opened, rdma) {
            (Ok(transport), Some(rdma)) => {
                let io = match &transport {
                    AnyTransport::Uring(_) => IoChoice::Uring,
                    AnyTransport::Epoll(_) => IoChoice::Epoll,
                };
                match rdma.join(transport) {
                    Ok((transport, listeners)) => return self.serve(transport, io, listeners, inbox, outbox),
                    Err(error) => Err(error),
                }
            }
            (opened, _) => opened,
        };
        match opened {
            Ok(AnyTransport::Uring(inner)) => self.serve(*inner, IoChoice::Uring, vec![], inbox, outbox),
            Ok(AnyTransport::Epoll(inner)) => self.serve(*inner, IoChoice::Epoll, vec![], inbox, outbox),
            Err(error) => {
                let _ = outbox.send(FromShard::Failed(error));
                Ok(())
            }
        }
    }

    fn serve<T: Transport>(
        self,
        transport: T,
        io: IoChoice,
        listeners: Vec<ListenerId>,
        inbox: &Receiver<ToShard>,
        outbox: &Sender<FromShard>,
    ) -> io::Result<()> {
        let _ = outbox.send(FromShard::Opened { waker: transport.waker(), io, name: transport.name() });
        let Ok(ToShard::Start { mesh, asker, desk, store, outlook }) = inbox.recv() else { return Ok(()) };
        let mut shard = Shard::new(self.shard, mesh);
        shard.add_exchange_types(&[&fulmar_xml_exchange::XML]);
        shard.set_default_group(self.default_group);
        let clock = Clock { monotonic_ns: transport.now_ns(), wall_ms: transport.wall_ms() };
        shard.set_clock(clock);
        let log = match store.map(|store| store.restore(&mut shard)).transpose() {
            Ok(log) => log,
            Err(error) => {
                let _ = outbox.send(FromShard::NotRestored(error));
                return Ok(());
            }
        };
        let mut worker =
            Worker::new(transport, shard, self.worker, Box::new(asker), self.notes, self.counters);
        listeners.into_iter().for_each(|listener| worker.add_listener(listener));
        if let Some(log) = log {
            worker.set_log(log, outlook);
        }
        if let Some(desk) = desk {
            worker.set_handshaker(Box::new(desk));
        }
        let _ = outbox.send(FromShard::Restored);
        loop {
            match inbox.recv() {
                Ok(ToShard::Listen(addr, port)) => {
                    let listening = match port {
                        Port::Shared => worker.listen(addr, BACKLOG),
                        Port::Secure => worker.listen_secure(addr, BACKLOG),
                    };
                    let answer = match listening {
                        Ok(addr) => FromShard::Listening(addr),
                        Err(error) => FromShard::Failed(error),
                    };
                    let _ = outbox.send(answer);
                }
                Ok(ToShard::Run) => return worker.run(),
                Ok(ToShard::Start { .. }) | Err(_) => return Ok(()),
            }
        }
    }
}

/// Has every shard listen on the addresses, which it returns with their ports.
fn listen(
    shards: &[Starting],
    addresses: Vec<SocketAddr>,
    port: Port,
) -> Result<Vec<SocketAddr>, StartError> {
    let mut bound = Vec::new();
    for mut addr in addresses {
        for shard in shards {
            // The first shard picks the port where none was given.
            addr = shard.listen(addr, port)?;
        }
        bound.push(addr);
    }
    Ok(bound)
}

fn acceptor(settings: &Settings) -> Result<Option<Arc<Acceptor>>, StartError> {
    if !settings.tls.is_on() {
        return if settings.require_encryption { Err(StartError::NoTls) } else { Ok(None) };
    }
    Ok(Some(Arc::new(Acceptor::new(settings.tls.clone())?)))
}

/// Whether the loopback of an IP version is there, which a host may have switched off; of other addresses nothing is
/// said.
fn is_of_this_host(addr: SocketAddr) -> bool {
    if !addr.ip().is_loopback() {
        return true;
    }
    match TcpListener::bind(SocketAddr::new(addr.ip(), 0)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)) => {
            log::info!("not listening on {addr}, which this host does not have");
            false
        }
        _ => true,
    }
}

/// Shards share a port among themselves, which the kernel would let a second broker do as well: that is refused here.
fn check_free(addr: SocketAddr) -> Result<(), StartError> {
    if addr.port() == 0 {
        return Ok(());
    }
    let patience = Instant::now() + RELEASE_PATIENCE;
    loop {
        match TcpListener::bind(addr) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(StartError::Listen(addr, error)),
        }
    }
}

fn limits(settings: &Settings, shards: usize) -> Limits {
    Limits {
        delivery_window_bytes: settings.delivery_window_bytes,
        max_message_bytes: settings.max_message_bytes,
        memory_bytes: settings.memory_limit_bytes / shards as u64,
        paging_bytes: settings.memory_limit_bytes / shards as u64 / 4,
        default_queue_bytes: settings.default_queue_bytes,
        flow_stop_percent: settings.flow_stop_percent,
        flow_resume_percent: settings.flow_resume_percent,
        alert_percent: settings.alert_percent,
        dtx_default_timeout_s: settings.dtx_default_timeout_s,
        dtx_max_timeout_s: settings.dtx_max_timeout_s,
        ..Limits::default()
    }
}

fn shard_config(settings: &Settings, index: usize) -> ShardConfig {
    let shards = settings.shard_count();
    let names =
        std::iter::once("/").chain(settings.vhosts.iter().map(String::as_str).filter(|&name| name != "/"));
    ShardConfig {
        id: ShardId(index as u8),
        shards: shards as u8,
        limits: limits(settings, shards),
        vhosts: names.map(Name::from).collect(),
        seed: random_seed(),
    }
}

/// A UUID of version 4.
fn random_uuid() -> String {
    let bits = u128::from(random_seed()) << 64 | u128::from(random_seed());
    let bits = bits & !(0xF << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A seed that differs from process to process and from call to call.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}

fn transport_config(settings: &Settings) -> TransportConfig {
    // The worker refuses what is too much, and says so; it needs a few places for that.
    let max_connections = connections_per_shard(settings) + REFUSAL_PLACES;
    TransportConfig { max_connections, ..TransportConfig::default() }
}

fn connections_per_shard(settings: &Settings) -> u32 {
    settings.max_connections.div_ceil(settings.shard_count() as u32)
}

fn protocol_config(settings: &Settings, authority: &Authority) -> ProtocolConfig {
    let mechanisms = authority.mechanisms().into_iter().map(|mechanism| mechanism.name().to_string());
    ProtocolConfig {
        product: "Fulmar".to_string(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        cluster_name: "fulmar".to_string(),
        broker_id: random_uuid(),
        frame_max_bytes: settings.frame_max_bytes,
        channel_max: settings.channel_max,
        heartbeat_s: settings.heartbeat_s,
        handshake_timeout_ms: settings.handshake_timeout_ms,
        mechanisms: mechanisms.collect(),
        max_consumers_per_channel: u32::MAX,
        max_message_bytes: settings.max_message_bytes,
        timestamps: Switch::new(settings.enable_timestamp),
        known_hosts: settings.known_hosts_url.clone(),
    }
}

fn worker_config(
    settings: &Settings,
    protocol: &Arc<ProtocolConfig>,
    tls: Option<Arc<Acceptor>>,
) -> WorkerConfig {
    let shards = settings.shard_count();
    WorkerConfig {
        protocol: protocol.clone(),
        high_water_bytes: TransportConfig::default().high_water_bytes,
        memory_bytes: settings.memory_limit_bytes / shards as u64,
        max_connections: u64::from(connections_per_shard(settings)),
        idle: settings.idle,
        gate: Arc::new(StopGate::new(shards)),
        tls,
        require_encryption: settings.require_encryption,
    }
}

fn log_start(settings: &Settings, authority: &Authority, shards: &[Starting], cpus: &[Option<usize>]) {
    log::info!("io: {}", shards[0].io_name);
    let count = shards.len();
    match &settings.cpu_affinity {
        _ if cpus.iter().all(Option::is_some) => {
            let cpus: Vec<_> = cpus.iter().flatten().map(ToString::to_string).collect();
            log::info!("shards: {count}, on CPUs {}", cpus.join(", "));
        }
        Affinity::Auto => log::info!("shards: {count}, not pinned: there are no CPUs to spare"),
        Affinity::None | Affinity::Cpus(_) => log::info!("shards: {count}, not pinned"),
    }
    log::info!("idle: {}", settings.idle);
    let users = authority.users();
    log::info!("users: {} in {}, and guest on this host", users.names().count(), users.path().display());
    if !users.is_private() {
        log::warn!("users file {} can be read by others; chmod 600 it", users.path().display());
    }
    if settings.anonymous {
        log::warn!("anyone may log in without a name (--anonymous)");
    }
}

fn log_directory(settings: &Settings, directory: Option<&DataDirectory>) {
    let Some(directory) = directory else {
        log::info!("data: in memory only (--no-data-dir): a restart loses messages, queues and exchanges");
        return;
    };
    let path = directory.path().display();
    match settings.durability {
        Durability::Flush => log::info!("data: in {path}, stored when it is on the disk"),
        Durability::Os => log::warn!(
            "data: in {path}, stored when the system has it (--durability os): a power cut may lose what was confirmed"
        ),
    }
    if !directory.is_private() {
        log::warn!("data directory {path} can be read by others; chmod 700 it");
    }
}

fn log_tls(settings: &Settings) {
    let tls = &settings.tls;
    if !tls.is_on() {
        return;
    }
    let clients = match tls.client_certificates {
        ClientCertificates::Ignore => "not asked for",
        ClientCertificates::Want => "wanted",
        ClientCertificates::Require => "required",
    };
    let plain = if settings.require_encryption { "refused" } else { "let in" };
    log::info!(
        "tls: {} certificates, certificates of clients {clients}, clients without encryption {plain}",
        tls.certificates.len()
    );
}
