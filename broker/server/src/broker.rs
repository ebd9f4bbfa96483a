//! Starts and stops a broker in this process: what it left on the disk, shard threads, their sockets, the lanes between
//! them, the login thread. Shard threads themselves are in `thread`.

mod configuring;
mod rdma;
mod recovering;
mod space;
mod thread;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::topology::RestoreError;
use fulmar_journal::recovery::RecoveryError;
use fulmar_journal::{DataDirectory, DirectoryError, Durability};
use fulmar_policy::census::Census;
use fulmar_policy::rules::{PermitFile, Rules, RulesError, Sources};
use fulmar_policy::{Authority, Mechanism, UsersError};
use fulmar_protocol::Switch;
use fulmar_tls::{Acceptor, ClientCertificates, FileError};
use fulmar_transport::Waker;

use crate::affinity::{self, Affinity};
use crate::handshake;
use crate::login::{self, Checks, Mailbox, Offers};
use crate::settings::Settings;
use crate::worker::{Note, Shown, Stats};

use configuring::{limits, protocol_config, random_seed, worker_config};
use recovering::recover_directory;
use space::Watch;
use thread::{Port, RunningShard, Starting, ToShard, listen};

/// How long the kernel may take to let go of the address of a broker that was killed.
const RELEASE_PATIENCE: Duration = Duration::from_millis(500);
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
    /// The access control list, or the file of permissions.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// Kerberos.
    #[error("GSSAPI: {0}; it is asked for by --sasl-mechanisms")]
    Gssapi(fulmar_gssapi::Failure),
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
    rules: Arc<Rules>,
    /// Kept from others for as long as a shard may write to it.
    directory: Option<DataDirectory>,
    /// Looks at the space that the file system has.
    _space: Option<Watch>,
}

impl Broker {
    /// Starts a broker with these options; it takes connections when this returns.
    ///
    /// # Errors
    /// Why it did not start; nothing is left running.
    pub fn start(settings: &Settings) -> Result<Running, StartError> {
        // A second broker in one process hashes as the first one does.
        let _ = fulmar_core::seed_tables(random_seed());
        let authority = login::authority(settings)?;
        let rules = Arc::new(Rules::new(rule_sources(settings))?);
        let census = Arc::new(Census::default());
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
        let protocol = Arc::new(protocol_config(settings));
        let worker = worker_config(settings, &protocol, &census, tls.clone());
        let (tell_ended, ended) = channel();
        let mut starting = Vec::new();
        let mut io = settings.io;
        for (index, (&cpu, rdma)) in cpus.iter().zip(rdma::shares(settings)).enumerate() {
            let shard = Starting::spawn(settings, index, cpu, io, rdma, worker.clone(), tell_ended.clone())?;
            // The others take what the first one found to work, so that a refusal is logged once.
            io = shard.io;
            starting.push(shard);
        }
        log_start(settings, &authority, &starting, &cpus);
        log_rules(&rules);
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
        let offers = Offers::new(&authority, &protocol);
        let patience = Duration::from_millis(settings.handshake_timeout_ms);
        let checks = Checks {
            authority,
            rules: rules.clone(),
            census,
            connections_per_user: settings.connections_per_user,
            patience,
        };
        let (askers, login) = login::spawn(checks, offers, mailboxes()).map_err(StartError::Thread)?;
        let mut helpers = vec![login];
        let mut desks = Vec::new();
        if tls.is_some() {
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
                neighbours: mailboxes(),
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
            rules,
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

    /// Reads the access control list and the permissions again; those who are connected are held to them at once. If
    /// something is wrong, everything stays as it was.
    ///
    /// # Errors
    /// What is wrong.
    pub fn reload_rules(&self) -> Result<(), RulesError> {
        self.rules.reload()?;
        for shard in &self.shards {
            if shard.notes.send(Note::Rules).is_ok() {
                shard.waker.wake();
            }
        }
        log_rules(&self.rules);
        Ok(())
    }

    /// How often somebody was denied something.
    pub fn denied(&self) -> u64 {
        self.rules.denied()
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
        rdma::log_end(&self.stats());
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
    if settings.anonymous {
        log::warn!("anyone may log in without a name (--anonymous)");
    }
    let weak = |mechanism: &&Mechanism| matches!(mechanism, Mechanism::Cram(_) | Mechanism::DigestMd5);
    for mechanism in settings.sasl_mechanisms.iter().filter(weak) {
        log::warn!(
            "{mechanism} is weak, and takes keys as good as passwords, which `fulmar user passwd --md5` keeps"
        );
    }
    if settings.plain_without_tls {
        log::warn!("clients elsewhere may send passwords without TLS (--plain-without-tls)");
    }
}

fn rule_sources(settings: &Settings) -> Sources {
    Sources {
        acl_file: settings.acl_file.clone(),
        permit_file: PermitFile::beside(&settings.users_path()),
        queues_per_user: settings.queues_per_user,
    }
}

fn log_rules(rules: &Rules) {
    let (current, path) = (rules.current(), rules.sources().acl_file.as_ref());
    if let (Some(acl), Some(path)) = (&current.acl, path) {
        log::info!("acl: in force as in {}", path.display());
        for note in acl.warnings() {
            log::warn!("acl: {}:{note}", path.display());
        }
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
