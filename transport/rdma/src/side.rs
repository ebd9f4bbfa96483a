//! The RDMA connections of one thread, over any [`Device`]: what a reactor does for sockets, without waiting.
//!
//! 1. What happened comes as the same events as from a [`Transport`](fulmar_transport::Transport), with the same promises.
//! 2. [`Side::flush`] posts: one post of sends and one of receives a connection, whatever was written since the last.
//! 3. Under load one send in 32 tells its end. Small messages go inline, middling ones are copied, from 4 KiB on they are
//!    sent from where they were written.
//! 4. Memory is locked for what connections need, and stays for the next ones: 264 KiB of receive buffers for an accepted
//!    connection, twice that for one made from here, and the output that the peer's credit lets be under way.
//! 5. A slot is given away again only when nothing can come for it any more.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use fulmar_transport::{Close, CloseReason, Config, ConnId, Event, RdmaCounts, RecvBuf};
use slab::Slab;

use crate::conn::{Conn, State};
use crate::device::{Completion, Depth, Device, DeviceEvent, ReceiveRequest, SendRequest};
use crate::listening::Listener;
use crate::memory::{Block, Blocks, Pool};
use crate::slots::Slots;
use crate::spread::{Inbox, Spread};
use crate::wire::{LEAST_CREDIT, TRAILER_BYTES, Terms};

/// Most bytes of data in a message, either way. A receive buffer has room for one and its trailer.
pub const MESSAGE_BYTES: u32 = 8192;
/// Messages that whoever connects here may send at first.
pub const ACCEPT_CREDIT: u16 = 32;
/// Messages that whoever is connected to may send at first. A Qpid broker grants again only after 33.
pub const CONNECT_CREDIT: u16 = 64;
/// Sends of a connection that have not ended, at most.
pub const SEND_DEPTH: u32 = 64;
/// One send in so many tells its end.
pub const SIGNAL_EVERY: u32 = 32;
/// Messages with at least so many bytes of data are not copied.
pub const DIRECT_BYTES: usize = 4096;
/// Output that may be locked at a time for being sent from where it was written; beyond it is copied.
pub const MOST_LOCKED_OUTPUT_BYTES: usize = 64 << 20;

/// What is announced when connecting, unless [`Side::offer_compatible`] says otherwise.
const OFFER: Terms = Terms { message_bytes: MESSAGE_BYTES, credit: CONNECT_CREDIT, version: 1, native: true };

/// How long a peer may take to answer while connecting.
pub(crate) const HANDSHAKE_NS: u64 = 10_000_000_000;
/// How long the device may take to flush what was under way.
pub(crate) const FLUSH_NS: u64 = 2_000_000_000;

/// What a port's connections use.
pub(crate) struct Memory {
    pub(crate) receives: Pool,
    pub(crate) chunks: Pool,
    pub(crate) trailers: Pool,
    pub(crate) blocks: Blocks,
    /// Who has a receive buffer, by its number.
    pub(crate) owners: Vec<Owner>,
}

/// Whose a receive buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    /// Of a connection, which has it posted, in its backlog, or about to be posted.
    Conn(ConnId),
    /// Handed out to the caller.
    Lent(ConnId),
}

impl Memory {
    fn new() -> Self {
        Memory {
            receives: Pool::new(MESSAGE_BYTES as usize + TRAILER_BYTES),
            chunks: Pool::new(DIRECT_BYTES + TRAILER_BYTES),
            trailers: Pool::new(SEND_DEPTH as usize * TRAILER_BYTES),
            blocks: Blocks::new(MOST_LOCKED_OUTPUT_BYTES),
            owners: Vec::new(),
        }
    }

    pub(crate) fn set_owner(&mut self, unit: u32, owner: Owner) {
        let at = unit as usize;
        if self.owners.len() <= at {
            self.owners.resize(at + 1, Owner::Nobody);
        }
        self.owners[at] = owner;
    }
}

/// See the module's promises.
pub struct Side<D: Device> {
    // The device goes before the memory that it was given.
    pub(crate) device: D,
    pub(crate) memory: Vec<Memory>,
    pub(crate) config: Config,
    /// What is announced when connecting.
    pub(crate) offer: Terms,
    /// Messages that whoever connects here may send at first.
    pub(crate) accept_credit: u16,
    pub(crate) conns: Slots<Conn>,
    pub(crate) listeners: Slab<Listener>,
    /// Those who share in what is asked for here.
    pub(crate) spread: Option<Spread<D>>,
    pub(crate) inbox: Option<Inbox<D>>,
    /// The slot of each endpoint of the device.
    pub(crate) by_endpoint: Vec<u32>,
    pub(crate) turn: u32,
    pub(crate) now_ns: u64,
    pub(crate) dirty: Vec<u32>,
    pub(crate) carried: VecDeque<ConnId>,
    /// Connections whose output has drained.
    pub(crate) drained: Vec<ConnId>,
    /// Connections with a deadline.
    pub(crate) timed: Vec<ConnId>,
    pub(crate) completions: Vec<Completion>,
    pub(crate) device_events: Vec<DeviceEvent>,
    pub(crate) sends: Vec<SendRequest>,
    /// Output that is in those, or copied, and can be used again once they are posted.
    pub(crate) spent: Vec<(u8, Block)>,
    pub(crate) receives: Vec<ReceiveRequest>,
    pub(crate) trailers: Box<[[u8; TRAILER_BYTES]; SEND_DEPTH as usize]>,
    pub(crate) counts: RdmaCounts,
    /// Why the last that was asked for was refused.
    pub(crate) refusal: Option<String>,
}

/// No slot has this number.
pub(crate) const NO_SLOT: u32 = u32::MAX;

impl<D: Device> Side<D> {
    /// Over a device, within these bounds.
    pub fn new(device: D, config: Config) -> Self {
        assert!(config.max_connections <= 1 << 24, "at most 2^24 connections");
        Side {
            device,
            memory: Vec::new(),
            conns: Slots::new(config.max_connections),
            listeners: Slab::new(),
            spread: None,
            inbox: None,
            config,
            offer: OFFER,
            accept_credit: ACCEPT_CREDIT,
            by_endpoint: Vec::new(),
            turn: 0,
            now_ns: 0,
            dirty: Vec::new(),
            carried: VecDeque::new(),
            drained: Vec::new(),
            timed: Vec::new(),
            completions: Vec::new(),
            device_events: Vec::new(),
            sends: Vec::new(),
            spent: Vec::new(),
            receives: Vec::new(),
            trailers: Box::new([[0; TRAILER_BYTES]; SEND_DEPTH as usize]),
            counts: RdmaCounts::default(),
            refusal: None,
        }
    }

    /// Connects from now on as a peer that knows the compatible contract alone, of version 0 or 1.
    ///
    /// # Panics
    /// There is no other version.
    pub fn offer_compatible(&mut self, version: u16) {
        assert!(version <= 1, "there are versions 0 and 1");
        self.offer = Terms { version, native: false, ..self.offer };
    }

    /// Lets peers of connections from now on send no more messages at first than this, for less memory.
    ///
    /// # Panics
    /// With so few, connections would come to a stop.
    pub fn limit_credit(&mut self, most: u16) {
        assert!(most >= LEAST_CREDIT, "at least {LEAST_CREDIT}");
        self.offer.credit = self.offer.credit.min(most);
        self.accept_credit = self.accept_credit.min(most);
    }

    /// Starts connecting; [`Event::Connected`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// The device's, or the limit of connections.
    pub fn connect(&mut self, addr: SocketAddr, now_ns: u64) -> io::Result<ConnId> {
        self.now_ns = now_ns;
        let endpoint = self.device.resolve(addr)?;
        let conn = Conn::new(endpoint, State::Resolving, addr, addr);
        let Ok(id) = self.conns.insert(conn) else {
            self.device.release(endpoint);
            return Err(io::Error::other("the limit of connections has been reached"));
        };
        self.bind(endpoint, id.index);
        self.set_deadline(id, HANDSHAKE_NS);
        Ok(id)
    }

    /// Begins a turn: budgets begin again, and what earlier turns left is handed out.
    pub fn begin(&mut self, now_ns: u64, events: &mut Vec<Event>) {
        self.now_ns = now_ns;
        self.turn = self.turn.wrapping_add(1);
        events.extend(self.drained.drain(..).map(|conn| Event::Drained { conn }));
        self.hand_out_carried(events);
        if !self.timed.is_empty() {
            self.expire();
        }
        self.listen_again();
    }

    /// Takes what has completed. Costs no system call.
    pub fn poll(&mut self, events: &mut Vec<Event>) {
        let mut completions = mem::take(&mut self.completions);
        let failed = self.device.poll(&mut completions);
        self.counts.completions += completions.len() as u64;
        for completion in completions.drain(..) {
            self.complete(completion, events);
        }
        self.completions = completions;
        if let Some(port) = failed {
            self.port_failed(port);
        }
    }

    /// Takes what the connection manager has to tell. Costs a system call; after the descriptor was readable.
    pub fn poll_events(&mut self, events: &mut Vec<Event>) {
        let mut told = mem::take(&mut self.device_events);
        self.device.events(&mut told);
        for event in told.drain(..) {
            self.tell(event, events);
        }
        self.device_events = told;
    }

    /// Has the next completion make the descriptor readable. Poll once more before waiting.
    pub fn arm(&mut self) {
        self.device.arm();
    }

    /// Becomes readable with each event of the connection manager, and after [`Side::arm`] with a completion.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.device.descriptor()
    }

    /// Whether the next turn has something to do already.
    pub fn has_work(&self) -> bool {
        !self.carried.is_empty() || !self.dirty.is_empty() || !self.drained.is_empty()
    }

    /// When something has taken too long.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let deadline = |id: &ConnId| self.conns.get(*id)?.deadline_ns;
        self.timed.iter().filter_map(deadline).chain(self.next_retry_ns()).min()
    }

    /// The bytes of a received buffer.
    pub fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        let (port, unit) = split_unit(buf.id);
        let piece = self.memory[port].receives.piece(unit, buf.offset as usize, buf.len as usize);
        // SAFETY: inside a receive buffer, which was zeroed at first; one that is lent is not posted, so the device does
        // not write to it.
        unsafe { std::slice::from_raw_parts(piece.address, buf.len as usize) }
    }

    /// Gives a received buffer back.
    pub fn recycle(&mut self, buf: RecvBuf) {
        let (port, unit) = split_unit(buf.id);
        let memory = &mut self.memory[port];
        let Owner::Lent(id) = memory.owners[unit as usize] else { panic!("a buffer that was not lent") };
        match self.conns.get_mut(id) {
            Some(conn) if conn.state == State::Open => {
                memory.set_owner(unit, Owner::Conn(id));
                conn.fresh.push(unit);
                if conn.credit.should_tell(conn.fresh.len() as u32) {
                    self.mark(id.index);
                }
            }
            Some(_) => memory.set_owner(unit, Owner::Conn(id)),
            None => {
                memory.set_owner(unit, Owner::Nobody);
                memory.receives.give(unit);
            }
        }
    }

    /// Where to append what the connection shall send. Only append: large output is sent from where it lies. `None` for
    /// a connection that is gone or closing.
    pub fn output(&mut self, id: ConnId) -> Option<&mut Vec<u8>> {
        let conn = self.conns.get_mut(id)?;
        match conn.state {
            State::Closing | State::Draining { .. } => return None,
            State::Open | State::Accepting | State::Connecting | State::Resolving => {}
        }
        if !mem::replace(&mut conn.dirty, true) {
            self.dirty.push(id.index);
        }
        let blocks =
            if conn.is_opened { Some(&mut self.memory[usize::from(conn.port)].blocks) } else { None };
        Some(conn.outbox.filling(blocks))
    }

    /// Bytes written and not yet posted.
    pub fn pending_bytes(&self, id: ConnId) -> usize {
        self.conns.get(id).map_or(0, |conn| conn.outbox.pending())
    }

    /// Posts what was written, as far as the peers have room.
    pub fn flush(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(conn) = self.conns.at(index) else { continue };
            if mem::take(&mut conn.dirty) {
                conn.outbox.note_level(self.config.high_water_bytes);
                self.pump(index);
            }
        }
        debug_assert!(self.dirty.is_empty(), "posting makes nothing dirty");
        self.dirty = dirty;
    }

    /// Stops handing out received bytes. The peer's credit bounds what still comes.
    pub fn pause(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.paused = true;
        }
    }

    /// Goes on after [`Side::pause`].
    pub fn resume(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && mem::take(&mut conn.paused)
        {
            self.carry(id.index);
        }
    }

    /// Closes the connection. [`Event::Closed`] follows in a later turn; no [`Event::Received`] does.
    pub fn close(&mut self, id: ConnId, how: Close) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        match (how, &conn.state) {
            (Close::Flush, State::Closing) | (_, State::Draining { hands_out: false }) => {}
            (Close::Flush, State::Open) => self.close_in_order(id.index),
            _ => {
                conn.reason = Some(CloseReason::Local);
                self.disconnect(id.index, false);
            }
        }
    }

    /// Most bytes of an AMQP frame that this connection can carry; `None` where it carries a stream.
    pub fn largest_frame_bytes(&self, id: ConnId) -> Option<u32> {
        self.conns.get(id).filter(|conn| !conn.native).map(|conn| conn.message_bytes)
    }

    /// The address of the other end.
    pub fn peer_addr(&self, id: ConnId) -> Option<SocketAddr> {
        self.conns.get(id).map(|conn| conn.peer)
    }

    /// Why the last connection that was refused was, if the other side has said so.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// What was done so far, and what there is.
    pub fn counts(&self) -> RdmaCounts {
        let (connections, locked_bytes) = (self.conns.len() as u64, self.locked_bytes() as u64);
        RdmaCounts { connections, locked_bytes, ..self.counts }
    }

    /// Memory that is locked, in bytes.
    pub fn locked_bytes(&self) -> usize {
        let of = |memory: &Memory| {
            let pools = [&memory.receives, &memory.chunks, &memory.trailers];
            pools.iter().map(|pool| pool.usage().1).sum::<usize>() + memory.blocks.locked_bytes()
        };
        self.memory.iter().map(of).sum()
    }

    /// Connections that exist, those that are being made or flushed included.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Units of memory that connections have.
    pub fn units_in_use(&self) -> usize {
        let of = |memory: &Memory| {
            let pools = [&memory.receives, &memory.chunks, &memory.trailers];
            pools.iter().map(|pool| pool.usage().0).sum::<usize>()
        };
        self.memory.iter().map(of).sum()
    }

    /// The device; for tests.
    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }

    pub(crate) fn bind(&mut self, endpoint: u32, slot: u32) {
        let at = endpoint as usize;
        if self.by_endpoint.len() <= at {
            self.by_endpoint.resize(at + 1, NO_SLOT);
        }
        self.by_endpoint[at] = slot;
    }

    pub(crate) fn mark(&mut self, index: u32) {
        let Some(conn) = self.conns.at(index) else { return };
        if !mem::replace(&mut conn.dirty, true) {
            self.dirty.push(index);
        }
    }

    pub(crate) fn carry(&mut self, index: u32) {
        let id = self.conns.id_at(index);
        let Some(conn) = self.conns.at(index) else { return };
        if !mem::replace(&mut conn.carried, true) {
            self.carried.push_back(id);
        }
    }

    pub(crate) fn set_deadline(&mut self, id: ConnId, after_ns: u64) {
        let deadline = self.now_ns + after_ns;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.deadline_ns.replace(deadline).is_none() {
            self.timed.push(id);
        }
    }

    pub(crate) fn memory_of(&mut self, port: u8) -> &mut Memory {
        let at = usize::from(port);
        while self.memory.len() <= at {
            self.memory.push(Memory::new());
        }
        &mut self.memory[at]
    }

    pub(crate) fn depth(receives: u16) -> Depth {
        Depth { sends: SEND_DEPTH, receives: receives.into() }
    }
}

/// The number by which a receive buffer is handed out.
pub(crate) fn joined_unit(port: u8, unit: u32) -> u32 {
    debug_assert!(port < 128 && unit < 1 << 24);
    u32::from(port) << 24 | unit
}

fn split_unit(id: u32) -> (usize, u32) {
    ((id >> 24) as usize, id & 0x00ff_ffff)
}
