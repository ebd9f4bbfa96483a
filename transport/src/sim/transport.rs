//! The transport of a simulated network.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use slab::Slab;

use super::Network;
use super::file::Files;
use super::network::{Member, SimWaker, Stand};
use crate::outbox::{Outbox, Pool};
use crate::slots::Slots;
use crate::types::{MAX_DISCARDED_BYTES, Socket};
use crate::{
    Close, CloseReason, Config, ConnId, Detached, Event, FileOperation, ListenerId, RecvBuf, Transport, Wait,
    Waker,
};

/// When the simulated clock shows 0, in milliseconds since 1970.
const WALL_START_MS: u64 = 1_700_000_000_000;
/// How much later a late report comes.
const LATE_NS: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Open,
    Closing { deadline_ns: u64 },
    Leaving,
    Dead,
}

struct Conn {
    end: usize,
    state: State,
    outbox: Outbox,
    reason: CloseReason,
    paused: bool,
    dirty: bool,
    /// The end of the stream was seen; it is told in the next turn, so that what came before can be answered.
    at_end: bool,
    send_error: i32,
    /// Thrown away since it is being closed.
    discarded_bytes: u32,
}

/// [`Transport`] on a [`Network`]. Its turns never block.
pub struct SimTransport {
    network: Network,
    /// Its number in the network.
    member: usize,
    config: Config,
    conns: Slots<Conn>,
    /// Slots in use, in no order that matters.
    used: Vec<u32>,
    listeners: Vec<usize>,
    lent: Slab<Vec<u8>>,
    pool: Pool,
    dirty: Vec<u32>,
    dead: VecDeque<u32>,
    files: Files,
    waker: Arc<SimWaker>,
}

impl SimTransport {
    pub(super) fn new(network: Network, config: Config) -> Self {
        let waker = Arc::new(SimWaker::default());
        let member = {
            let mut net = network.net.borrow_mut();
            net.transports.push(Member::new(waker.clone()));
            net.transports.len() - 1
        };
        SimTransport {
            files: Files::new(network.disk()),
            network,
            member,
            conns: Slots::new(config.max_connections),
            used: Vec::new(),
            listeners: Vec::new(),
            lent: Slab::new(),
            pool: Pool::new(config.high_water_bytes.saturating_mul(2)),
            dirty: Vec::new(),
            dead: VecDeque::new(),
            waker,
            config,
        }
    }

    /// Receive buffers that were handed out and not recycled.
    pub fn lent_buffers(&self) -> usize {
        self.lent.len()
    }

    /// Connections that have not been told as closed.
    pub fn connections(&self) -> usize {
        self.used.len()
    }

    /// Operations on files that have not ended.
    pub fn files_in_flight(&self) -> usize {
        self.files.in_flight()
    }

    fn schedule_file(&mut self, started: Option<(usize, u64)>) {
        if let Some((key, latency_ns)) = started {
            self.network.net.borrow_mut().dispatch_file(self.member, key, latency_ns);
        }
    }

    fn end_files(&mut self, events: &mut Vec<Event>) {
        let ended = mem::take(&mut self.network.net.borrow_mut().transports[self.member].files);
        for key in ended {
            let next = self.files.end(key, events);
            self.schedule_file(next);
        }
    }

    fn add(&mut self, end: usize, state: State) -> Option<ConnId> {
        let conn = Conn {
            end,
            state,
            outbox: Outbox::default(),
            reason: CloseReason::Local,
            paused: false,
            dirty: false,
            at_end: false,
            send_error: 0,
            discarded_bytes: 0,
        };
        let id = self.conns.insert(conn).ok()?;
        self.used.push(id.index);
        Some(id)
    }

    fn accept(&mut self, events: &mut Vec<Event>) {
        for at in 0..self.listeners.len() {
            loop {
                let mut net = self.network.net.borrow_mut();
                let Some(listener) = &mut net.listeners[self.listeners[at]] else { break };
                let Some(end) = listener.arrived.pop_front() else { break };
                let (peer, local) = (net.ends[end].remote, net.ends[end].local);
                drop(net);
                match self.add(end, State::Open) {
                    Some(conn) => {
                        events.push(Event::Accepted { listener: ListenerId(at as u32), conn, peer, local })
                    }
                    None => self.network.net.borrow_mut().reset(end),
                }
            }
        }
    }

    /// Serves a connection. True if it has more to do that nothing on its way will tell of.
    fn serve(&mut self, index: u32, events: &mut Vec<Event>) -> bool {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return false };
        let stand = self.network.net.borrow().ends[conn.end].stand;
        match (conn.state, stand) {
            (State::Dead | State::Leaving, _) | (State::Connecting, Stand::Connecting) => return false,
            (State::Connecting, Stand::Broken(error)) => {
                self.kill(index, CloseReason::Error(error));
                return false;
            }
            (State::Connecting, Stand::Open) => {
                conn.state = State::Open;
                events.push(Event::Connected { conn: id });
            }
            _ => {}
        }
        let can_send_more = self.send(index);
        let Some(conn) = self.conns.at(index) else { return false };
        if conn.outbox.drained(self.config.low_water_bytes) && conn.state == State::Open {
            events.push(Event::Drained { conn: id });
        }
        let can_receive_more = match conn.state {
            State::Open => self.receive(id, events),
            State::Closing { deadline_ns } => {
                self.progress_close(index, deadline_ns);
                false
            }
            State::Connecting | State::Leaving | State::Dead => false,
        };
        can_send_more || can_receive_more
    }

    fn receive(&mut self, id: ConnId, events: &mut Vec<Event>) -> bool {
        let mut budget = self.config.turn_budget_bytes as usize;
        let Some(conn) = self.conns.get_mut(id) else { return false };
        let mut handed_out = false;
        let mut net = self.network.net.borrow_mut();
        while !conn.paused && !net.ends[conn.end].inbox.is_empty() {
            if self.lent.len() >= usize::from(self.config.recv_buffers) {
                return false;
            }
            let room = self.config.recv_buffer_bytes as usize;
            if handed_out && budget < room {
                return true;
            }
            let bytes = net.receive(conn.end, room);
            budget = budget.saturating_sub(bytes.len());
            handed_out = true;
            let len = bytes.len() as u32;
            let buf = RecvBuf { id: self.lent.insert(bytes) as u32, offset: 0, len };
            events.push(Event::Received { conn: id, buf });
        }
        let end = &net.ends[conn.end];
        let over = end.finished || matches!(end.stand, Stand::Broken(_));
        if !over || !end.inbox.is_empty() {
            return false;
        }
        if !mem::replace(&mut conn.at_end, true) {
            return true;
        }
        let reason = match end.stand {
            _ if conn.send_error != 0 => CloseReason::Error(conn.send_error),
            Stand::Broken(error) => CloseReason::Error(error),
            _ => CloseReason::Peer,
        };
        let flush = reason == CloseReason::Peer && conn.outbox.pending() > 0;
        drop(net);
        if flush {
            self.close_in_order(id.index, reason);
            return true;
        }
        self.kill(id.index, reason);
        false
    }

    /// Sends as much as the network takes in one go. True if it would take more.
    fn send(&mut self, index: u32) -> bool {
        let Some(conn) = self.conns.at(index) else { return false };
        if conn.send_error != 0 || !matches!(conn.state, State::Open | State::Closing { .. }) {
            return false;
        }
        let mut net = self.network.net.borrow_mut();
        if conn.outbox.pending() == 0 || !net.can_send(conn.end) {
            return false;
        }
        match net.send(conn.end, conn.outbox.next()) {
            Ok(sent) => {
                conn.outbox.sent(sent, &mut self.pool);
                conn.outbox.pending() > 0 && net.can_send(conn.end)
            }
            Err(error) => {
                conn.send_error = error.raw_os_error().unwrap_or(libc::EIO);
                conn.outbox.discard(false, &mut self.pool);
                // Otherwise what arrived before comes first.
                if conn.paused && conn.state == State::Open {
                    let reason = CloseReason::Error(conn.send_error);
                    drop(net);
                    self.kill(index, reason);
                }
                false
            }
        }
    }

    fn close_in_order(&mut self, index: u32, reason: CloseReason) {
        let deadline_ns = self.network.now_ns() + self.config.close_timeout_ms * 1_000_000;
        if let Some(conn) = self.conns.at(index) {
            conn.state = State::Closing { deadline_ns };
            conn.reason = reason;
            self.take_turn_soon();
        }
    }

    fn progress_close(&mut self, index: u32, deadline_ns: u64) {
        let Some(conn) = self.conns.at(index) else { return };
        let mut net = self.network.net.borrow_mut();
        let discarded = net.receive(conn.end, usize::MAX).len() as u32;
        conn.discarded_bytes = conn.discarded_bytes.saturating_add(discarded);
        let sent = conn.outbox.pending() == 0;
        if sent {
            net.finish(conn.end);
        }
        let end = &net.ends[conn.end];
        let over = matches!(end.stand, Stand::Broken(_)) || (sent && end.finished);
        let late = net.now_ns >= deadline_ns || conn.discarded_bytes > MAX_DISCARDED_BYTES;
        if over || late {
            if late {
                net.reset(conn.end);
            }
            let reason = conn.reason.clone();
            drop(net);
            self.kill(index, reason);
        }
    }

    fn kill(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.conns.at(index) else { return };
        if conn.state == State::Dead {
            return;
        }
        conn.state = State::Dead;
        conn.reason = reason;
        conn.outbox.discard(false, &mut self.pool);
        self.dead.push_back(index);
    }

    fn release_dead(&mut self, events: &mut Vec<Event>) {
        while let Some(index) = self.dead.pop_front() {
            let conn = self.conns.id_at(index);
            let Some(mut gone) = self.conns.remove(index) else { continue };
            self.used.retain(|used| *used != index);
            let mut net = self.network.net.borrow_mut();
            if gone.state == State::Leaving {
                // Some of what has arrived may have been taken out of the kernel already.
                let arrived = net.ends[gone.end].inbox.len();
                let most = net.random.below(arrived + 1);
                let received = net.receive(gone.end, most);
                let unsent = gone.outbox.take_pending(&mut self.pool);
                let socket = Socket::Simulated(gone.end);
                events.push(Event::Detached {
                    conn,
                    detached: Box::new(Detached { socket, unsent, received }),
                });
            } else {
                net.close(gone.end);
                events.push(Event::Closed { conn, reason: gone.reason });
            }
        }
    }

    fn next_deadline_ns(&mut self) -> Option<u64> {
        let deadline = |state| match state {
            State::Closing { deadline_ns } => Some(deadline_ns),
            _ => None,
        };
        self.used.iter().filter_map(|index| self.conns.at(*index).and_then(|conn| deadline(conn.state))).min()
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        let mut net = self.network.net.borrow_mut();
        for listener in &self.listeners {
            net.unlisten(*listener);
        }
        for index in &self.used {
            if let Some(conn) = self.conns.at(*index) {
                net.reset(conn.end);
            }
        }
        net.transports[self.member].wake_ns = None;
        net.transports[self.member].is_gone = true;
        self.waker.take();
    }
}

impl Transport for SimTransport {
    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)> {
        let (listener, addr) = self.network.net.borrow_mut().listen(addr, backlog);
        self.listeners.push(listener);
        Ok((ListenerId(self.listeners.len() as u32 - 1), addr))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        if let Some(listener) = self.listeners.get(listener.0 as usize) {
            self.network.net.borrow_mut().unlisten(*listener);
        }
    }

    fn connect(&mut self, addr: SocketAddr) -> io::Result<ConnId> {
        let end = self.network.net.borrow_mut().connect(IpAddr::V4(Ipv4Addr::LOCALHOST), addr);
        match self.add(end, State::Connecting) {
            Some(id) => Ok(id),
            None => {
                self.network.net.borrow_mut().reset(end);
                Err(io::Error::other("the limit of connections has been reached"))
            }
        }
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        if self.waker.take() {
            events.push(Event::Woken);
        }
        self.end_files(events);
        self.release_dead(events);
        self.accept(events);
        let mut order = self.used.clone();
        order.sort_unstable();
        self.network.net.borrow_mut().random.shuffle(&mut order);
        let (mut more, mut late) = (false, false);
        for index in order {
            let mut net = self.network.net.borrow_mut();
            let chance = net.faults.late_report_chance;
            if net.random.chance(chance) {
                late = true;
                continue;
            }
            drop(net);
            more |= self.serve(index, events);
        }
        self.release_dead(events);
        let deadline_ns = self.next_deadline_ns();
        let mut net = self.network.net.borrow_mut();
        let now_ns = net.now_ns;
        let wanted = match wait {
            Wait::Until(until) if events.len() == before => until,
            _ => None,
        };
        let late_ns = late.then_some(now_ns + LATE_NS);
        let again = (more || events.len() > before).then_some(now_ns);
        net.transports[self.member].wake_ns =
            [wanted, deadline_ns, late_ns, again].into_iter().flatten().min();
        Ok(())
    }

    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        &self.lent[buf.id as usize][buf.offset as usize..][..buf.len as usize]
    }

    fn recycle(&mut self, buf: RecvBuf) {
        self.lent.remove(buf.id as usize);
    }

    fn output(&mut self, id: ConnId) -> Option<&mut Vec<u8>> {
        let conn = self.conns.get_mut(id)?;
        match conn.state {
            State::Open | State::Connecting => {
                if !mem::replace(&mut conn.dirty, true) {
                    self.dirty.push(id.index);
                }
                Some(conn.outbox.filling(&mut self.pool))
            }
            State::Closing { .. } | State::Leaving | State::Dead => None,
        }
    }

    fn pending_bytes(&self, id: ConnId) -> usize {
        self.conns.get(id).map_or(0, |conn| conn.outbox.pending())
    }

    fn flush(&mut self) {
        for index in mem::take(&mut self.dirty) {
            let Some(conn) = self.conns.at(index) else { continue };
            if mem::take(&mut conn.dirty) {
                conn.outbox.note_level(self.config.high_water_bytes);
                if self.send(index) {
                    self.take_turn_soon();
                }
            }
        }
    }

    fn pause(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.paused = true;
        }
    }

    fn resume(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.paused = false;
        }
        self.take_turn_soon();
    }

    fn close(&mut self, id: ConnId, how: Close) {
        let Some(conn) = self.conns.get(id) else { return };
        match (how, conn.state) {
            (_, State::Dead) | (Close::Flush, State::Closing { .. }) => {}
            (Close::Flush, State::Open) => self.close_in_order(id.index, CloseReason::Local),
            _ => {
                self.network.net.borrow_mut().reset(conn.end);
                self.kill(id.index, CloseReason::Local);
            }
        }
        self.take_turn_soon();
    }

    fn detach(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.state == State::Open
        {
            conn.state = State::Leaving;
            self.dead.push_back(id.index);
            self.take_turn_soon();
        }
    }

    fn adopt(&mut self, detached: Detached) -> io::Result<ConnId> {
        let Detached { socket: Socket::Simulated(end), mut unsent, .. } = detached else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let Some(id) = self.add(end, State::Open) else {
            self.network.net.borrow_mut().reset(end);
            return Err(io::Error::other("the limit of connections has been reached"));
        };
        self.append(id, &mut unsent);
        self.take_turn_soon();
        Ok(id)
    }

    fn file(&mut self, token: u64, operation: FileOperation) {
        let started = self.files.start(token, operation);
        self.schedule_file(started);
    }

    fn now_ns(&self) -> u64 {
        self.network.now_ns()
    }

    fn wall_ms(&self) -> u64 {
        WALL_START_MS + self.network.now_ns() / 1_000_000
    }

    fn waker(&self) -> Arc<dyn Waker> {
        self.waker.clone()
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}

impl SimTransport {
    /// The next turn has something to do at once.
    fn take_turn_soon(&mut self) {
        let mut net = self.network.net.borrow_mut();
        let now_ns = net.now_ns;
        net.transports[self.member].wake_ns = Some(now_ns);
    }
}
