//! A shard's loop: joins a transport (bytes), the protocols' connections and a [`Shard`] (messages). Owned and stepped
//! by one thread, or by the simulation.
//!
//! 1. [`Worker::turn`] is the whole loop body. Nothing in it blocks but the transport's wait, and that only when
//!    nothing is left to do.
//! 2. Nothing is allocated, locked or logged per message.
//! 3. Input that a connection cannot take yet is kept, in order, within a bound: beyond it the peer is not read.
//! 4. A peer's fault ends that peer's connection, is counted, and is logged in one line, at a bounded rate.
//! 5. Every connection's resources are given back exactly once, whoever ended it.

mod carry;
mod counters;
mod faults;
mod slot;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use fulmar_amqp_0_9_1::connection::{Action, Config as AmqpConfig, Connection, Context, Login};
use fulmar_core::timers::Timers;
use fulmar_core::{Clock, Output, Shard};
use fulmar_transport::{
    Close, CloseReason, ConnId, Event, Idle, IdleStrategy, ListenerId, RecvBuf, Transport, Wait,
};

pub use counters::{Counter, Counters, Stats};

use crate::detect::{Protocol, Verdict, detect};
use carry::{Carry, CarryPool};
use faults::FaultLog;
use slot::{NEVER, Slot, State};

/// `CONNECTION_FORCED`: what a stopping broker tells its clients.
const CONNECTION_FORCED: u16 = 320;
/// How much of a received buffer is joined to a left-over beginning of a frame before the rest is taken in place.
const STITCH_BYTES: usize = 4096;
/// Input kept for a parked connection before its peer is no longer read.
const PARKED_INPUT_BYTES: usize = 64 * 1024;
/// Unsent output, in units of the high-water mark, at which a peer that writes but does not read is no longer read.
const UNREAD_OUTPUT_MARKS: usize = 16;
/// Longest time that a stopping shard spends on finishing what was accepted before it closes its connections.
const DRAIN_NS: u64 = 200_000_000;
const MS: u64 = 1_000_000;

/// What a worker is made with, besides its transport and its shard.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// For AMQP 0-9-1 connections.
    pub amqp: Arc<AmqpConfig>,
    /// Written but unsent bytes above which a connection gets no more deliveries; that of the transport.
    pub high_water_bytes: usize,
    /// Bytes of messages held above which publishers are told that memory is short.
    pub memory_bytes: u64,
    /// Most connections of this shard.
    pub max_connections: u64,
    /// What to do when there is nothing to do.
    pub idle: IdleStrategy,
}

/// Checks logins. Checking a password takes long on purpose, so it is done elsewhere; the answer comes as
/// [`Note::Login`].
pub trait Authenticator {
    /// Starts checking a login, or answers at once.
    fn check(&mut self, conn: ConnId, login: Box<Login>) -> Option<Result<String, String>>;
}

/// What other threads tell a worker. Whoever sends one then uses the transport's waker.
#[derive(Debug)]
pub enum Note {
    /// The answer to a login: the user's name, or why not.
    Login {
        /// The connection that logs in.
        conn: ConnId,
        /// The answer.
        result: Result<String, String>,
    },
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

#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Peers are no longer read; what they sent before is being finished.
    Draining { until_ns: u64, deadline_ns: u64 },
    /// Clients have been told; waiting for their answers.
    Closing { deadline_ns: u64 },
    /// Sockets are going.
    Aborting,
}

/// One shard's loop. See the module's promises.
pub struct Worker<T: Transport> {
    transport: T,
    shard: Shard,
    config: WorkerConfig,
    authenticator: Box<dyn Authenticator>,
    inbox: Receiver<Note>,
    counters: Arc<Counters>,
    listeners: Vec<ListenerId>,
    slots: Vec<Slot>,
    open: u64,
    dirty: Vec<u32>,
    held_publishers: Vec<u32>,
    events: Vec<Event>,
    scratch: Vec<u8>,
    /// In the place of an output that is taken out. Has capacity, lest the transport fetch another buffer for it.
    stand_in: Vec<u8>,
    pool: CarryPool,
    timers: Timers<(u32, u32)>,
    idle: Idle,
    faults: FaultLog,
    now_ns: u64,
    congested: bool,
    stop: Option<Stop>,
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
            inbox,
            counters,
            listeners: Vec::new(),
            slots: Vec::new(),
            open: 0,
            dirty: Vec::new(),
            held_publishers: Vec::new(),
            events: Vec::new(),
            scratch: Vec::new(),
            stand_in: Vec::with_capacity(64),
            pool: CarryPool::default(),
            timers: Timers::default(),
            faults: FaultLog::default(),
            now_ns,
            congested: false,
            stop: None,
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
        worked |= self.shard.turn();
        while let Some(output) = self.shard.next_output() {
            self.output(output);
        }
        self.finish_dirty();
        self.watch_congestion();
        self.shard.publish_lanes();
        self.transport.flush();
        if worked {
            self.idle.worked(self.now_ns);
        }
        Ok(self.advance_stop())
    }

    /// Whether the next turn may wait, and until when.
    fn wait(&mut self) -> Wait {
        if self.shard.has_work() || !self.dirty.is_empty() {
            return Wait::Poll;
        }
        if !self.idle.may_wait(self.transport.now_ns()) || !self.shard.prepare_sleep() {
            return Wait::Poll;
        }
        let stop = match self.stop {
            Some(Stop::Draining { until_ns, .. }) => Some(until_ns),
            Some(Stop::Closing { deadline_ns }) => Some(deadline_ns),
            Some(Stop::Aborting) | None => None,
        };
        let deadlines = [self.shard.next_deadline_ns(), self.timers.next_deadline_ns(), stop];
        Wait::Until(deadlines.into_iter().flatten().min())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Received { conn, buf } => self.received(conn, buf),
            Event::Drained { conn } => self.drained(conn),
            Event::Accepted { conn, peer, local, .. } => self.accepted(conn, peer, local),
            Event::Closed { conn, reason } => self.closed(conn, &reason),
            // Nothing here connects; a wake-up is seen by the caller.
            Event::Connected { .. } | Event::Woken => {}
        }
    }

    fn accepted(&mut self, conn: ConnId, peer: SocketAddr, local: SocketAddr) {
        let index = conn.index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::free);
        }
        let slot = &mut self.slots[index];
        assert!(matches!(slot.state, State::Free), "a socket's slot was used twice");
        *slot = Slot::accepted(conn, peer, local);
        self.open += 1;
        self.counters.accepted.add(1);
        self.counters.open.set(self.open);
        if self.stop.is_some() {
            self.slots[index].state = State::Closing;
            return self.transport.close(conn, Close::Abort);
        }
        if self.open > self.config.max_connections {
            self.counters.refused_full.add(1);
            let limit = self.config.max_connections;
            let text = format_args!("{peer}: refused, there are {limit} connections on this shard already");
            self.faults.warn(self.now_ns, text);
            self.slots[index].state = State::Closing;
            return self.transport.close(conn, Close::Abort);
        }
        self.arm(index, self.now_ns + self.config.amqp.handshake_timeout_ms * MS);
    }

    fn received(&mut self, conn: ConnId, buf: RecvBuf) {
        let index = conn.index as usize;
        self.counters.received_bytes.add(u64::from(buf.len));
        if self.slots.get(index).is_some_and(|slot| slot.conn == conn) {
            if matches!(self.slots[index].state, State::Detecting { .. }) {
                self.detect(index, &buf);
            } else {
                self.feed_received(index, &buf, 0);
            }
        }
        self.transport.recycle(buf);
    }

    /// Collects the first bytes of a connection until its protocol is known.
    fn detect(&mut self, index: usize, buf: &RecvBuf) {
        let Slot { conn, peer, local, ref mut state, .. } = self.slots[index];
        let State::Detecting { seen, len } = state else { return };
        let before = usize::from(*len);
        let bytes = self.transport.bytes(buf);
        let taken = bytes.len().min(seen.len() - before);
        seen[before..before + taken].copy_from_slice(&bytes[..taken]);
        *len += taken as u8;
        match detect(&seen[..before + taken]) {
            Verdict::More => {}
            Verdict::Speak { protocol: Protocol::Amqp091, header_bytes } => {
                let Some(out) = self.transport.output(conn) else { return };
                let name = format!("{peer} -> {local}");
                let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
                let loopback = peer.ip().to_canonical().is_loopback();
                let config = self.config.amqp.clone();
                let connection = Connection::new(config, &mut cx, conn.index, loopback, name);
                *state = State::Amqp091(Box::new(connection));
                self.touch(index);
                self.feed_received(index, buf, header_bytes - before);
            }
            Verdict::Refuse { what, answer } => {
                self.counters.refused_protocol.add(1);
                self.faults
                    .warn(self.now_ns, format_args!("{peer}: speaks {what}; this port speaks AMQP 0-9-1"));
                if let Some(out) = self.transport.output(conn) {
                    out.extend_from_slice(answer);
                }
                self.slots[index].state = State::Closing;
                self.transport.close(conn, Close::Flush);
            }
        }
    }

    /// Gives a connection the bytes of a received buffer after the first `skip`.
    fn feed_received(&mut self, index: usize, buf: &RecvBuf, skip: usize) {
        let slot = &mut self.slots[index];
        let State::Amqp091(connection) = &mut slot.state else { return };
        // The output is taken out of the transport while the transport lends the input.
        let Some(out) = self.transport.output(slot.conn) else { return };
        std::mem::swap(out, &mut self.stand_in);
        let mut cx = Context { shard: &mut self.shard, out: &mut self.stand_in, now_ns: self.now_ns };
        let input = &self.transport.bytes(buf)[skip..];
        feed(connection, &mut cx, &mut slot.carry, &mut self.pool, input);
        if let Some(place) = self.transport.output(slot.conn) {
            std::mem::swap(place, &mut self.stand_in);
        }
        self.touch(index);
    }

    fn drained(&mut self, conn: ConnId) {
        let Some(slot) = self.slots.get_mut(conn.index as usize).filter(|slot| slot.conn == conn) else {
            return;
        };
        if let State::Amqp091(connection) = &slot.state {
            if std::mem::take(&mut slot.unwritable) {
                self.shard.set_writable(connection.id(), true);
            }
            self.touch(conn.index as usize);
        }
    }

    /// The socket is gone.
    fn closed(&mut self, conn: ConnId, reason: &CloseReason) {
        let index = conn.index as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.conn == conn) else { return };
        slot.carry.clear(&mut self.pool);
        let Slot { state, peer, .. } = std::mem::replace(slot, Slot::free());
        self.open -= 1;
        self.counters.open.set(self.open);
        self.counters.closed.add(1);
        if let CloseReason::Error(_) = reason {
            self.counters.resets.add(1);
        }
        if let State::Amqp091(mut connection) = state {
            log::debug!("{peer}: connection lost without a close: {reason:?}");
            connection.closed(&mut self.shard);
        }
    }

    fn read_inbox(&mut self) {
        while let Ok(note) = self.inbox.try_recv() {
            match note {
                Note::Login { conn, result } => self.logged_in(conn, result),
                Note::Stop { within_ms } => self.start_stop(within_ms),
            }
        }
    }

    fn logged_in(&mut self, conn: ConnId, result: Result<String, String>) {
        let index = conn.index as usize;
        if self.slots.get(index).is_none_or(|slot| slot.conn != conn) {
            return;
        }
        if result.is_err() {
            self.counters.refused_logins.add(1);
        }
        self.with_amqp(index, |connection, cx| connection.authenticated(cx, result));
    }

    fn tick_due(&mut self) {
        while let Some((deadline_ns, (index, generation))) = self.timers.pop_due(self.now_ns) {
            let index = index as usize;
            let slot = &mut self.slots[index];
            if slot.conn.generation != generation || slot.armed_ns != deadline_ns {
                continue;
            }
            slot.armed_ns = NEVER;
            match slot.state {
                State::Amqp091(_) => self.tick(index),
                State::Detecting { .. } => {
                    self.counters.handshake_timeouts.add(1);
                    let peer = slot.peer;
                    slot.state = State::Closing;
                    self.transport.close(slot.conn, Close::Abort);
                    self.faults.warn(self.now_ns, format_args!("{peer}: sent no protocol header in time"));
                }
                State::Free | State::Closing => {}
            }
        }
    }

    /// Lets a connection see the time, and asks when to be called again.
    fn tick(&mut self, index: usize) {
        let next_ns = self.with_amqp(index, |connection, cx| connection.tick(cx)).flatten();
        if let Some(next_ns) = next_ns {
            self.arm(index, next_ns);
        }
    }

    /// Sees to it that the connection is ticked at `deadline_ns` or before.
    fn arm(&mut self, index: usize, deadline_ns: u64) {
        let slot = &mut self.slots[index];
        if deadline_ns < slot.armed_ns {
            slot.armed_ns = deadline_ns;
            self.timers.set(deadline_ns, (slot.conn.index, slot.conn.generation));
        }
    }

    /// Hands an output of the shard to its connection.
    fn output(&mut self, output: Output) {
        let owner = match &output {
            Output::Delivery(delivery) => {
                self.counters.deliveries.add(1);
                delivery.owner
            }
            Output::Reply { owner, .. }
            | Output::Confirmed { owner, .. }
            | Output::ConsumerCancelled { owner, .. } => *owner,
        };
        let told = self.with_amqp(owner as usize, |connection, cx| connection.output(cx, output));
        debug_assert!(told.is_some(), "the shard told something to a connection that is closed");
    }

    /// Calls the connection in a slot, if there is one, and marks it as touched.
    fn with_amqp<R>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut Connection, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let slot = self.slots.get_mut(index)?;
        let State::Amqp091(connection) = &mut slot.state else { return None };
        // What is written for a socket that is about to go is lost.
        self.scratch.clear();
        let out = match self.transport.output(slot.conn) {
            Some(out) => out,
            None => &mut self.scratch,
        };
        let result = call(connection, &mut Context { shard: &mut self.shard, out, now_ns: self.now_ns });
        self.touch(index);
        Some(result)
    }

    #[inline]
    fn touch(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(index as u32);
        }
    }

    /// Ends the turn for every connection that was called in it.
    fn finish_dirty(&mut self) {
        let mut next = 0;
        // Finishing one connection may touch another, which is then finished in this turn as well.
        while let Some(&index) = self.dirty.get(next) {
            next += 1;
            self.finish(index as usize);
            self.slots[index as usize].dirty = false;
        }
        self.dirty.clear();
    }

    fn finish(&mut self, index: usize) {
        self.feed_kept(index);
        self.with_amqp(index, |connection, cx| connection.end_of_turn(cx));
        while let Some(action) = self.with_amqp(index, |connection, _| connection.next_action()).flatten() {
            self.act(index, action);
        }
        let slot = &mut self.slots[index];
        let State::Amqp091(connection) = &slot.state else { return };
        let open = connection.is_open();
        if !open || !slot.was_open {
            // While it opens or closes, a connection's next deadline may come nearer with everything it receives.
            slot.was_open = open;
            self.tick(index);
        }
        self.regulate(index);
    }

    /// Gives a connection that is no longer parked the input that was kept for it.
    fn feed_kept(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let State::Amqp091(connection) = &mut slot.state else { return };
        if !std::mem::take(&mut slot.parked) || slot.carry.is_empty() {
            return;
        }
        if connection.is_parked() {
            return;
        }
        let Some(out) = self.transport.output(slot.conn) else { return };
        let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
        let taken = connection.receive(&mut cx, slot.carry.as_slice());
        slot.carry.consume(taken, &mut self.pool);
    }

    fn act(&mut self, index: usize, action: Action) {
        let Slot { conn, peer, .. } = self.slots[index];
        match action {
            Action::Authenticate(login) => {
                if let Some(result) = self.authenticator.check(conn, login) {
                    self.logged_in(conn, result);
                }
            }
            Action::Close { reason, error } => {
                if error {
                    self.counters.faults.add(1);
                    self.faults.warn(self.now_ns, format_args!("{peer}: closed: {reason}"));
                } else {
                    log::debug!("{peer}: closed: {reason}");
                }
                self.end(index, Close::Flush);
            }
        }
    }

    /// Gives back everything that a connection holds and closes its socket.
    fn end(&mut self, index: usize, how: Close) {
        let slot = &mut self.slots[index];
        if let State::Amqp091(mut connection) = std::mem::replace(&mut slot.state, State::Closing) {
            connection.closed(&mut self.shard);
        }
        slot.carry.clear(&mut self.pool);
        self.transport.close(slot.conn, how);
    }

    /// Decides whether the connection can take deliveries, and whether its peer is read.
    fn regulate(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let State::Amqp091(connection) = &mut slot.state else { return };
        slot.parked = connection.is_parked();
        let pending_bytes = self.transport.pending_bytes(slot.conn);
        if pending_bytes > self.config.high_water_bytes && !slot.unwritable {
            slot.unwritable = true;
            self.shard.set_writable(connection.id(), false);
        }
        let held = self.congested && self.stop.is_none() && connection.is_publisher();
        if held && !slot.held {
            slot.held = true;
            self.held_publishers.push(index as u32);
            if self.shard.memory_bytes() > self.config.memory_bytes {
                slot.blocked = true;
                if let Some(out) = self.transport.output(slot.conn) {
                    let mut cx = Context { shard: &mut self.shard, out, now_ns: self.now_ns };
                    connection.set_blocked(&mut cx, Some("low on memory"));
                }
            }
        }
        let paused = slot.held
            || (slot.parked && slot.carry.len() > PARKED_INPUT_BYTES)
            || pending_bytes > UNREAD_OUTPUT_MARKS * self.config.high_water_bytes
            || matches!(self.stop, Some(Stop::Draining { .. }));
        if paused != slot.paused {
            slot.paused = paused;
            connection.set_reading(self.now_ns, !paused);
            if paused {
                self.transport.pause(slot.conn);
            } else {
                self.transport.resume(slot.conn);
            }
        }
    }

    /// Stops publishers while the shard is congested. They are stopped one by one, as they are met; all go on when it
    /// is over.
    fn watch_congestion(&mut self) {
        let congested = self.shard.is_congested();
        if congested == self.congested {
            return;
        }
        self.congested = congested;
        self.counters.memory_bytes.set(self.shard.memory_bytes());
        if congested {
            self.counters.congestions.add(1);
            return;
        }
        for index in std::mem::take(&mut self.held_publishers) {
            let slot = &mut self.slots[index as usize];
            slot.held = false;
            if std::mem::take(&mut slot.blocked) {
                self.with_amqp(index as usize, |connection, cx| connection.set_blocked(cx, None));
            }
            self.touch(index as usize);
        }
    }

    fn start_stop(&mut self, within_ms: u64) {
        if self.stop.is_some() {
            return;
        }
        for listener in self.listeners.drain(..) {
            self.transport.unlisten(listener);
        }
        let deadline_ns = self.now_ns + within_ms * MS;
        let until_ns = (self.now_ns + DRAIN_NS).min(deadline_ns);
        self.stop = Some(Stop::Draining { until_ns, deadline_ns });
        for index in 0..self.slots.len() {
            match self.slots[index].state {
                State::Amqp091(_) => self.touch(index),
                State::Detecting { .. } => self.end(index, Close::Abort),
                State::Free | State::Closing => {}
            }
        }
    }

    /// Takes a stop on to its next stage when its time has come.
    fn advance_stop(&mut self) -> Progress {
        let Some(stop) = self.stop else { return Progress::Running };
        if self.open == 0 {
            return Progress::Stopped;
        }
        match stop {
            Stop::Draining { until_ns, deadline_ns } => {
                if self.now_ns >= until_ns || self.is_drained() {
                    self.stop = Some(Stop::Closing { deadline_ns });
                    self.tell_stop();
                }
            }
            Stop::Closing { deadline_ns } if self.now_ns >= deadline_ns => {
                self.stop = Some(Stop::Aborting);
                for index in 0..self.slots.len() {
                    if !matches!(self.slots[index].state, State::Free) {
                        self.end(index, Close::Abort);
                    }
                }
            }
            Stop::Closing { .. } | Stop::Aborting => {}
        }
        Progress::Running
    }

    fn is_drained(&self) -> bool {
        !self.shard.has_work()
            && self.dirty.is_empty()
            && self.slots.iter().all(|slot| match &slot.state {
                State::Amqp091(connection) => !connection.is_parked(),
                _ => true,
            })
    }

    fn tell_stop(&mut self) {
        for index in 0..self.slots.len() {
            self.with_amqp(index, |connection, cx| {
                connection.shut_down(cx, CONNECTION_FORCED, "broker shutting down");
            });
        }
    }
}

/// Gives a connection input, after what was left over before; keeps what it does not take.
fn feed(
    connection: &mut Connection,
    cx: &mut Context<'_>,
    carry: &mut Carry,
    pool: &mut CarryPool,
    mut input: &[u8],
) {
    while !carry.is_empty() && !input.is_empty() {
        if connection.is_parked() {
            return carry.push(input, pool);
        }
        let before = carry.len();
        let piece = &input[..input.len().min(STITCH_BYTES)];
        carry.push(piece, pool);
        let taken = connection.receive(cx, carry.as_slice());
        if taken >= before {
            // The left-over has been taken; what follows it is taken from where it lies.
            carry.clear(pool);
            input = &input[taken - before..];
        } else {
            carry.consume(taken, pool);
            input = &input[piece.len()..];
        }
    }
    if input.is_empty() {
        return;
    }
    let taken = if connection.is_parked() { 0 } else { connection.receive(cx, input) };
    carry.push(&input[taken..], pool);
}
