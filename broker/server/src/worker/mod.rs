//! A shard's loop: joins a transport (bytes), the protocols' connections and a [`Shard`] (messages). Owned and stepped
//! by one thread, or by the simulation.
//!
//! 1. [`Worker::turn`] is the whole loop body. Nothing in it blocks but the transport's wait, and that only when
//!    nothing is left to do.
//! 2. Nothing is allocated, locked or logged per message.
//! 3. Input that a connection cannot take yet is kept, in order, within a bound: beyond it the peer is not read.
//! 4. A peer's fault ends that peer's connection, is counted, and is logged in one line, at a bounded rate.
//! 5. Every connection's resources are given back exactly once, whoever ended it.

mod arrival;
mod carry;
mod counters;
mod faults;
mod finish;
mod input;
mod journal;
mod layer;
mod moving;
mod secure;
mod slot;
mod stop;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use fulmar_core::shard::Delivery;
use fulmar_core::timers::Timers;
use fulmar_core::{Clock, Output, Shard};
use fulmar_policy::Peer;
use fulmar_policy::census::Census;
use fulmar_protocol::{Config as ProtocolConfig, Connection, Context, Login, LoginAnswer};
use fulmar_tls::Acceptor;
use fulmar_transport::{ConnId, Event, Idle, IdleStrategy, ListenerId, Transport, Wait};

pub use counters::{Counter, Counters, Stats};
pub use journal::{Outlook, Shown};
pub use moving::Newcomer;
pub use secure::Handshake;
pub use stop::StopGate;

use crate::login::Mailbox;
use carry::CarryPool;
use faults::FaultLog;
use journal::Store;
use slot::{Slot, State};
use stop::Stop;

/// Answers larger than this are not kept room for.
const KEEP_SCRATCH_BYTES: usize = 1 << 20;
const MS: u64 = 1_000_000;
/// Turns without a wait after which is shown what RDMA connections have done.
const TURNS_PER_SHOW: u64 = 64;

/// What a worker is made with, besides its transport and its shard.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// What connections are offered.
    pub protocol: Arc<ProtocolConfig>,
    /// Written but unsent bytes above which a connection gets no more deliveries; that of the transport.
    pub high_water_bytes: usize,
    /// Bytes of messages held above which publishers are told that memory is short.
    pub memory_bytes: u64,
    /// Most connections of this shard.
    pub max_connections: u64,
    /// Counts connections by address, for all shards, and how many there may be from one; without one they are not counted.
    pub addresses: Option<(Arc<Census>, u32)>,
    /// What to do when there is nothing to do.
    pub idle: IdleStrategy,
    /// One for all shards of a broker.
    pub gate: Arc<StopGate>,
    /// What TLS begins with, if it is spoken.
    pub tls: Option<Arc<Acceptor>>,
    /// Whether nobody is let in without TLS, on whatever port.
    pub require_encryption: bool,
}

/// Checks logins. Checking a password takes long on purpose, so it is done elsewhere; the answer comes as
/// [`Note::Login`].
pub trait Authenticator {
    /// What a peer is offered, if not what everybody is.
    fn config_for(&self, _peer: &Peer) -> Option<Arc<ProtocolConfig>> {
        None
    }

    /// Starts looking at a round of a peer's login, or answers at once.
    fn check(&mut self, conn: ConnId, peer: &Peer, login: Box<Login>) -> Option<LoginAnswer>;
}

/// Takes TLS handshakes further. That takes a while of computing, so it may be done elsewhere; the answer comes as
/// [`Note::Handshake`].
pub trait Handshaker {
    /// Starts it, or does it at once.
    fn advance(&mut self, handshake: Handshake) -> Option<Handshake>;
}

/// Shakes hands where it is asked to.
struct AtOnce;

impl Handshaker for AtOnce {
    fn advance(&mut self, mut handshake: Handshake) -> Option<Handshake> {
        handshake.advance();
        Some(handshake)
    }
}

/// What other threads tell a worker. Whoever sends one then uses the transport's waker.
#[derive(Debug)]
pub enum Note {
    /// The answer to a round of a login.
    Login {
        /// The connection that logs in.
        conn: ConnId,
        /// The answer.
        answer: LoginAnswer,
    },
    /// A handshake that went as far as it could.
    Handshake(Handshake),
    /// The rules of who may do what have changed.
    Rules,
    /// A connection that goes on here.
    Arrived(Box<Newcomer>),
    /// Stop: no new connections, what was accepted is finished, clients are told, all within the limit.
    Stop {
        /// The limit, in milliseconds.
        within_ms: u64,
    },
}

/// Whether a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It does.
    Running,
    /// It was told to stop, and has.
    Stopped,
}

/// One shard's loop. See the module's promises.
pub struct Worker<T: Transport> {
    transport: T,
    shard: Shard,
    config: WorkerConfig,
    authenticator: Box<dyn Authenticator>,
    handshaker: Box<dyn Handshaker>,
    neighbours: Vec<Mailbox>,
    inbox: Receiver<Note>,
    counters: Arc<Counters>,
    listeners: Vec<ListenerId>,
    /// Those among them on which nothing but TLS is spoken.
    secure_listeners: Vec<ListenerId>,
    slots: Vec<Slot>,
    open: u64,
    dirty: Vec<u32>,
    held_publishers: Vec<u32>,
    events: Vec<Event>,
    /// What a connection writes in answer to input, before it goes to the transport: only a connection that writes
    /// something then takes a buffer of the transport's.
    scratch: Vec<u8>,
    pool: CarryPool,
    /// What TLS sessions that keep no input have in common.
    spare: Vec<u8>,
    timers: Timers<(u32, u32)>,
    idle: Idle,
    faults: FaultLog,
    now_ns: u64,
    congested: bool,
    stop: Option<Stop>,
    store: Option<Store>,
}

impl<T: Transport> Worker<T> {
    /// Joins a transport and a shard.
    pub fn new(
        transport: T,
        shard: Shard,
        config: WorkerConfig,
        authenticator: Box<dyn Authenticator>,
        inbox: Receiver<Note>,
        counters: Arc<Counters>,
    ) -> Self {
        let now_ns = transport.now_ns();
        Worker {
            idle: Idle::new(config.idle),
            transport,
            shard,
            config,
            authenticator,
            handshaker: Box::new(AtOnce),
            neighbours: Vec::new(),
            inbox,
            counters,
            listeners: Vec::new(),
            secure_listeners: Vec::new(),
            slots: Vec::new(),
            open: 0,
            dirty: Vec::new(),
            held_publishers: Vec::new(),
            events: Vec::new(),
            scratch: Vec::new(),
            pool: CarryPool::default(),
            spare: Vec::new(),
            timers: Timers::default(),
            faults: FaultLog::default(),
            now_ns,
            congested: false,
            stop: None,
            store: None,
        }
    }

    /// Listens; connections are accepted from the next turn on. Port 0 picks one.
    ///
    /// # Errors
    /// The transport's.
    pub fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<SocketAddr> {
        let (listener, addr) = self.transport.listen(addr, backlog)?;
        self.listeners.push(listener);
        Ok(addr)
    }

    /// Takes a listener over that was made before, so that it ends with the others.
    pub fn add_listener(&mut self, listener: ListenerId) {
        self.listeners.push(listener);
    }

    /// Listens for TLS and nothing else.
    ///
    /// # Errors
    /// The transport's.
    pub fn listen_secure(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<SocketAddr> {
        let (listener, addr) = self.transport.listen(addr, backlog)?;
        self.listeners.push(listener);
        self.secure_listeners.push(listener);
        Ok(addr)
    }

    /// Has somebody else shake hands.
    pub fn set_handshaker(&mut self, handshaker: Box<dyn Handshaker>) {
        self.handshaker = handshaker;
    }

    /// The transport; for the simulation.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The shard; for the simulation and for tests.
    pub fn shard(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// Turns until told to stop.
    ///
    /// # Errors
    /// The transport failed.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? == Progress::Running {}
        Ok(())
    }

    /// One turn: takes what happened, lets connections and queues react, sends what they wrote. Waits only if there is
    /// nothing to do.
    ///
    /// # Errors
    /// The transport failed; the shard cannot go on.
    pub fn turn(&mut self) -> io::Result<Progress> {
        let wait = self.wait();
        let mut events = std::mem::take(&mut self.events);
        let result = self.transport.turn(wait, &mut events);
        if wait != Wait::Poll {
            self.shard.awake();
            self.counters.sleeps.add(1);
        }
        result?;
        self.counters.turns.add(1);
        if wait != Wait::Poll || self.counters.turns.get().is_multiple_of(TURNS_PER_SHOW) {
            self.show_rdma();
        }
        self.now_ns = self.transport.now_ns();
        self.shard.set_clock(Clock { monotonic_ns: self.now_ns, wall_ms: self.transport.wall_ms() });

        let mut worked = !events.is_empty();
        let mut woken = false;
        for event in events.drain(..) {
            woken |= matches!(event, Event::Woken);
            self.event(event);
        }
        self.events = events;
        if woken {
            self.read_inbox();
        }
        self.tick_due();
        worked |= self.hear_log();
        worked |= self.shard.turn();
        while let Some(output) = self.shard.next_output() {
            self.output(output);
        }
        self.finish_dirty();
        self.watch_congestion();
        self.drive_log();
        self.shard.publish_lanes();
        self.transport.flush();
        if worked {
            self.idle.worked(self.now_ns);
        }
        let progress = self.advance_stop(worked);
        if progress == Progress::Stopped {
            self.show_rdma();
        }
        if progress == Progress::Stopped
            && let Some(store) = &mut self.store
        {
            store.show(self.now_ns);
        }
        Ok(progress)
    }

    /// Whether the next turn may wait, and until when.
    fn wait(&mut self) -> Wait {
        let has_told = self.store.as_ref().is_some_and(Store::has_told);
        if self.shard.has_work() || !self.dirty.is_empty() || has_told {
            return Wait::Poll;
        }
        let is_flushing = self.store.as_ref().is_some_and(Store::is_flushing);
        let may_wait = self.idle.may_wait(self.now_ns) || is_flushing && self.idle.may_wait_for_disk();
        if !may_wait || !self.shard.prepare_sleep() {
            return Wait::Poll;
        }
        self.counters.memory_bytes.set(self.shard.memory_bytes());
        let stop_ns = self.stop.and_then(Stop::next_deadline_ns);
        let log_ns = self.store.as_ref().and_then(Store::next_deadline_ns);
        let deadlines = [self.shard.next_deadline_ns(), self.timers.next_deadline_ns(), stop_ns, log_ns];
        Wait::Until(deadlines.into_iter().flatten().min())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Received { conn, buf } => self.received(conn, buf),
            Event::Drained { conn } => self.drained(conn),
            Event::Accepted { listener, conn, peer, local } => self.accepted(listener, conn, peer, local),
            Event::Closed { conn, reason } => self.closed(conn, &reason),
            Event::File(done) => self.file_done(done),
            // Nothing here connects; a wake-up is seen by the caller.
            Event::Detached { conn, detached } => self.detached(conn, *detached),
            // Nothing here connects; a wake-up is seen by the caller.
            Event::Connected { .. } | Event::Woken | Event::Ready => {}
        }
    }

    fn show_rdma(&self) {
        if let Some(counts) = self.transport.rdma_counts() {
            self.counters.set_rdma(&counts);
        }
    }

    fn read_inbox(&mut self) {
        while let Ok(note) = self.inbox.try_recv() {
            match note {
                Note::Login { conn, answer } => self.logged_in(conn, answer),
                Note::Handshake(handshake) => self.shook_hands(handshake),
                Note::Rules => self.shard.forget_permissions(),
                Note::Arrived(newcomer) => self.arrived(*newcomer),
                Note::Stop { within_ms } => self.start_stop(within_ms),
            }
        }
    }

    fn logged_in(&mut self, conn: ConnId, answer: LoginAnswer) {
        let index = conn.index as usize;
        if self.slots.get(index).is_none_or(|slot| slot.conn != conn) {
            return;
        }
        if matches!(answer, LoginAnswer::Refused(_) | LoginAnswer::Malformed(_)) {
            self.counters.refused_logins.add(1);
        }
        self.with_connection(index, |connection, cx| connection.authenticated(cx, answer));
    }

    /// Hands an output of the shard to its connection; with a delivery, those that follow it to the same channel.
    fn output(&mut self, output: Output) {
        let owner = match &output {
            Output::Delivery(Delivery { owner, .. })
            | Output::Reply { owner, .. }
            | Output::Confirmed { owner, .. }
            | Output::ConsumerCancelled { owner, .. } => *owner,
        };
        let index = owner as usize;
        let Some(Slot { conn, secure, layer, state: State::Speaking(connection), .. }) =
            self.slots.get_mut(index)
        else {
            debug_assert!(false, "the shard told something to a connection that is closed");
            return;
        };
        let out = match (secure, layer) {
            // What is written for a socket that is about to go is lost.
            (None, None) => self.transport.output(*conn).unwrap_or(&mut self.scratch),
            (Some(secure), _) => secure.plain(),
            (None, Some(layered)) => layered.plain(),
        };
        let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
        match output {
            Output::Delivery(first) => self.counters.deliveries.add(connection.deliver(&mut cx, first)),
            output => connection.output(&mut cx, output),
        }
        self.scratch.clear();
        self.touch(index);
    }

    /// Calls the connection in a slot, if there is one, sends what it writes, and marks it as touched.
    fn with_connection<R>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut dyn Connection, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let slot = self.slots.get_mut(index)?;
        let State::Speaking(connection) = &mut slot.state else { return None };
        let out = &mut self.scratch;
        let result =
            call(connection.as_mut(), &mut Context { shard: &mut self.shard, out, now_ns: self.now_ns });
        let conn = slot.conn;
        self.send_scratch(conn);
        self.touch(index);
        Some(result)
    }

    /// Hands what a connection wrote to the transport. For a socket that is about to go it is lost.
    #[inline]
    fn send_scratch(&mut self, conn: ConnId) {
        if self.scratch.is_empty() {
            return;
        }
        if let Some(plain) = self.slots.get_mut(conn.index as usize).and_then(Slot::plain) {
            plain.extend_from_slice(&self.scratch);
            self.scratch.clear();
            return;
        }
        self.transport.append(conn, &mut self.scratch);
        self.scratch.shrink_to(KEEP_SCRATCH_BYTES);
    }

    #[inline]
    fn touch(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(index as u32);
        }
    }
}
