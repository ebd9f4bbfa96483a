//! The network: ends of connections, what is on its way between them, and the clock.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::disk::Disk;
use super::random::Random;
use super::{SimClient, SimTransport};
use crate::{Config, Waker};

/// Pieces that a write is cut into at most.
const MOST_PIECES: u32 = 16;
/// Longest time between two pieces of a write.
const LONGEST_GAP_NS: u64 = 2_000;

/// What goes wrong, and how often. Chances are per million.
#[derive(Clone, Debug)]
pub struct Faults {
    /// How long anything takes to the other end.
    pub latency_ns: RangeInclusive<u64>,
    /// That a write takes longer.
    pub stall_chance: u32,
    /// How much longer a stalled write takes.
    pub stall_ns: RangeInclusive<u64>,
    /// That a write is cut into pieces that arrive one by one.
    pub cut_chance: u32,
    /// That such a piece is one byte.
    pub one_byte_chance: u32,
    /// That the sender's socket takes only a part of what it could.
    pub partial_send_chance: u32,
    /// That a transport is told of a connection's readiness a turn or more later than of others'.
    pub late_report_chance: u32,
    /// That a connection is reset when a piece arrives.
    pub reset_chance: u32,
    /// That a reset takes with it what had arrived and was not read.
    pub reset_loses_chance: u32,
    /// Bytes under way in a direction and unread at its end, at most.
    pub window_bytes: usize,
}

impl Faults {
    /// Nothing goes wrong; everything takes 10 µs.
    pub fn none() -> Self {
        Faults {
            latency_ns: 10_000..=10_000,
            stall_chance: 0,
            stall_ns: 0..=0,
            cut_chance: 0,
            one_byte_chance: 0,
            partial_send_chance: 0,
            late_report_chance: 0,
            reset_chance: 0,
            reset_loses_chance: 0,
            window_bytes: 256 * 1024,
        }
    }
}

impl Default for Faults {
    /// Everything that a connection must stand without harm, and no resets.
    fn default() -> Self {
        Faults {
            latency_ns: 5_000..=200_000,
            stall_chance: 5_000,
            stall_ns: 1_000_000..=50_000_000,
            cut_chance: 300_000,
            one_byte_chance: 200_000,
            partial_send_chance: 200_000,
            late_report_chance: 100_000,
            reset_chance: 0,
            reset_loses_chance: 500_000,
            window_bytes: 64 * 1024,
        }
    }
}

/// What the disk's seed differs by from the network's, so that neither's faults decide about the other's.
const DISK_SEED: u64 = 0x6469_736b;

/// A virtual network with its clock and a disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct Network {
    pub(super) net: Rc<RefCell<Net>>,
    disk: Disk,
}

impl Network {
    /// An empty network at second 1 of its clock.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let net = Net {
            now_ns: 1_000_000_000,
            random: Random::new(seed),
            faults,
            ends: Vec::new(),
            listeners: Vec::new(),
            transports: Vec::new(),
            on_its_way: BTreeMap::new(),
            times: BinaryHeap::new(),
            next_serial: 0,
            next_port: 32_768,
        };
        Network { net: Rc::new(RefCell::new(net)), disk: Disk::new(seed ^ DISK_SEED) }
    }

    /// A transport on this network.
    pub fn transport(&self, config: Config) -> SimTransport {
        SimTransport::new(self.clone(), config)
    }

    /// The disk that all transports of this network have their files on.
    pub fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// A client's connection from 127.0.0.1, on its way.
    pub fn connect(&self, addr: SocketAddr) -> SimClient {
        self.connect_from(IpAddr::V4(Ipv4Addr::LOCALHOST), addr)
    }

    /// A client's connection from an address.
    pub fn connect_from(&self, from: IpAddr, addr: SocketAddr) -> SimClient {
        let end = self.net.borrow_mut().connect(from, addr);
        SimClient::new(self.clone(), end)
    }

    /// Moves the clock to whatever comes next and lets it happen. Gives the time, or `None` if nothing will.
    pub fn advance(&self) -> Option<u64> {
        let next = self.next_event_ns()?;
        self.advance_to(next);
        Some(next)
    }

    /// When something happens next: now, if a transport was woken or has left work for its next turn.
    pub fn next_event_ns(&self) -> Option<u64> {
        let net = self.net.borrow();
        let arrival = net.times.peek().map(|Reverse((time, _))| *time);
        let waits = net.transports.iter().filter_map(|transport| {
            if transport.waker.told.load(Ordering::Acquire) { Some(net.now_ns) } else { transport.wake_ns }
        });
        waits.chain(arrival).min().map(|next| next.max(net.now_ns))
    }

    /// Moves the clock to a time, not backwards, and lets everything happen until then. Transports take no turns
    /// meanwhile.
    pub fn advance_to(&self, time_ns: u64) {
        let mut net = self.net.borrow_mut();
        while let Some(&Reverse((time, serial))) = net.times.peek()
            && time <= time_ns
        {
            net.times.pop();
            net.now_ns = net.now_ns.max(time);
            let arrival = net.on_its_way.remove(&serial).expect("every time has an arrival");
            net.arrive(arrival);
        }
        net.now_ns = net.now_ns.max(time_ns);
        let now_ns = net.now_ns;
        for transport in &mut net.transports {
            transport.wake_ns = transport.wake_ns.filter(|wake| *wake > now_ns);
        }
    }

    /// The time on the network's clock.
    pub fn now_ns(&self) -> u64 {
        self.net.borrow().now_ns
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.net.borrow_mut().faults = faults;
    }

    /// Ends of connections that their owners have not let go of.
    pub fn live_ends(&self) -> usize {
        self.net.borrow().ends.iter().filter(|end| !end.released).count()
    }
}

/// Where a connection's end stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    Connecting,
    Open,
    /// Failed with this error.
    Broken(i32),
}

/// One end of a connection. Ends are numbered and never used again.
pub(super) struct End {
    peer: Option<usize>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) stand: Stand,
    /// Its owner has let go of it.
    pub(super) released: bool,
    /// Arrived and not read.
    pub(super) inbox: VecDeque<u8>,
    /// The other end will send no more.
    pub(super) finished: bool,
    /// This end will send no more.
    shut: bool,
    /// Bytes that it may send before the other end has read some.
    credit: usize,
    /// When the latest thing that it sent arrives; the next comes later.
    last_arrival_ns: u64,
}

pub(super) struct SimListener {
    pub(super) addr: SocketAddr,
    pub(super) arrived: VecDeque<usize>,
    pub(super) backlog: usize,
}

/// What the network knows of a transport.
pub(super) struct Member {
    pub(super) waker: Arc<SimWaker>,
    /// When it wants its next turn.
    pub(super) wake_ns: Option<u64>,
    /// Operations on files whose time is over.
    pub(super) files: VecDeque<usize>,
    /// The transport is dropped.
    pub(super) is_gone: bool,
}

impl Member {
    pub(super) fn new(waker: Arc<SimWaker>) -> Self {
        Member { waker, wake_ns: None, files: VecDeque::new(), is_gone: false }
    }
}

#[derive(Default)]
pub(super) struct SimWaker {
    told: AtomicBool,
}

impl SimWaker {
    pub(super) fn take(&self) -> bool {
        self.told.swap(false, Ordering::AcqRel)
    }
}

impl Waker for SimWaker {
    fn wake(&self) {
        self.told.store(true, Ordering::Release);
    }
}

/// What arrives, and at which end.
enum Arrival {
    Call { end: usize },
    Answer { end: usize },
    Bytes { end: usize, bytes: Vec<u8> },
    Credit { end: usize, bytes: usize },
    Finish { end: usize },
    Reset { end: usize, error: i32 },
    File { member: usize, key: usize },
}

pub(super) struct Net {
    pub(super) now_ns: u64,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) ends: Vec<End>,
    pub(super) listeners: Vec<Option<SimListener>>,
    pub(super) transports: Vec<Member>,
    on_its_way: BTreeMap<u64, Arrival>,
    times: BinaryHeap<Reverse<(u64, u64)>>,
    next_serial: u64,
    next_port: u16,
}

impl Net {
    pub(super) fn listen(&mut self, addr: SocketAddr, backlog: u32) -> (usize, SocketAddr) {
        let mut addr = addr;
        if addr.port() == 0 {
            addr.set_port(self.port());
        }
        let backlog = backlog.max(1) as usize;
        self.listeners.push(Some(SimListener { addr, arrived: VecDeque::new(), backlog }));
        (self.listeners.len() - 1, addr)
    }

    pub(super) fn unlisten(&mut self, listener: usize) {
        if let Some(gone) = self.listeners[listener].take() {
            for end in gone.arrived {
                self.reset(end);
            }
        }
    }

    fn port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(32_768);
        self.next_port
    }

    pub(super) fn connect(&mut self, from: IpAddr, addr: SocketAddr) -> usize {
        let local = SocketAddr::new(from, self.port());
        let end = self.new_end(None, local, addr, Stand::Connecting);
        self.dispatch(end, Arrival::Call { end });
        end
    }

    fn new_end(&mut self, peer: Option<usize>, local: SocketAddr, remote: SocketAddr, stand: Stand) -> usize {
        self.ends.push(End {
            peer,
            local,
            remote,
            stand,
            released: false,
            inbox: VecDeque::new(),
            finished: false,
            shut: false,
            credit: self.faults.window_bytes,
            last_arrival_ns: 0,
        });
        self.ends.len() - 1
    }

    /// Puts something sent by `from` on its way. It arrives after everything that `from` sent before.
    fn dispatch(&mut self, from: usize, arrival: Arrival) {
        let latency_ns = self.random.within(self.faults.latency_ns.clone());
        let end = &mut self.ends[from];
        end.last_arrival_ns = end.last_arrival_ns.max(self.now_ns + latency_ns);
        self.dispatch_behind(from, 0, arrival);
    }

    /// Puts something on its way that arrives so much later than what `from` sent before.
    fn dispatch_behind(&mut self, from: usize, gap_ns: u64, arrival: Arrival) {
        let end = &mut self.ends[from];
        end.last_arrival_ns += gap_ns;
        let time_ns = end.last_arrival_ns;
        self.schedule(time_ns, arrival);
    }

    /// The disk needs so long for an operation of a transport.
    pub(super) fn dispatch_file(&mut self, member: usize, key: usize, latency_ns: u64) {
        self.schedule(self.now_ns + latency_ns, Arrival::File { member, key });
    }

    fn schedule(&mut self, time_ns: u64, arrival: Arrival) {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.times.push(Reverse((time_ns, serial)));
        self.on_its_way.insert(serial, arrival);
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Call { end } => self.call(end),
            Arrival::Answer { end } => {
                if self.ends[end].stand == Stand::Connecting {
                    self.ends[end].stand = Stand::Open;
                }
            }
            Arrival::Bytes { end, bytes } => {
                if self.ends[end].released {
                    // Nobody is there to read it; the sender learns.
                    self.dispatch_reset(end);
                } else if self.random.chance(self.faults.reset_chance) {
                    self.dispatch_reset(end);
                    self.break_end(end, libc::ECONNRESET);
                } else if self.ends[end].stand == Stand::Open {
                    self.ends[end].inbox.extend(bytes);
                }
            }
            Arrival::Credit { end, bytes } => self.ends[end].credit += bytes,
            Arrival::Finish { end } => self.ends[end].finished = true,
            Arrival::Reset { end, error } => self.break_end(end, error),
            Arrival::File { member, key } => {
                let transport = &mut self.transports[member];
                if !transport.is_gone {
                    transport.files.push_back(key);
                }
            }
        }
    }

    /// A call arrives where somebody may listen; of several listeners on the address, any gets it.
    fn call(&mut self, caller: usize) {
        if self.ends[caller].released {
            return;
        }
        let (local, remote) = (self.ends[caller].remote, self.ends[caller].local);
        let willing: Vec<usize> = (0..self.listeners.len())
            .filter(|at| {
                self.listeners[*at].as_ref().is_some_and(|listener| {
                    let any = listener.addr.ip().is_unspecified() && listener.addr.port() == local.port();
                    (any || listener.addr == local) && listener.arrived.len() < listener.backlog
                })
            })
            .collect();
        if willing.is_empty() {
            return self.dispatch(caller, Arrival::Reset { end: caller, error: libc::ECONNREFUSED });
        }
        let chosen = willing[self.random.below(willing.len())];
        let end = self.new_end(Some(caller), local, remote, Stand::Open);
        self.ends[caller].peer = Some(end);
        if let Some(listener) = &mut self.listeners[chosen] {
            listener.arrived.push_back(end);
        }
        self.dispatch(end, Arrival::Answer { end: caller });
    }

    fn break_end(&mut self, end: usize, error: i32) {
        let loses = self.random.chance(self.faults.reset_loses_chance);
        let end = &mut self.ends[end];
        if matches!(end.stand, Stand::Broken(_)) || end.released {
            return;
        }
        end.stand = Stand::Broken(error);
        if loses {
            end.inbox.clear();
        }
    }

    fn dispatch_reset(&mut self, from: usize) {
        if let Some(peer) = self.ends[from].peer {
            self.dispatch(from, Arrival::Reset { end: peer, error: libc::ECONNRESET });
        }
    }

    /// Takes bytes to send; says how many.
    pub(super) fn send(&mut self, from: usize, bytes: &[u8]) -> io::Result<usize> {
        let end = &self.ends[from];
        match end.stand {
            Stand::Connecting => return Ok(0),
            Stand::Broken(error) => return Err(io::Error::from_raw_os_error(error)),
            Stand::Open if end.shut || end.released => return Err(io::Error::from_raw_os_error(libc::EPIPE)),
            Stand::Open => {}
        }
        let peer = end.peer.expect("an open end has a peer");
        let mut taken = bytes.len().min(end.credit);
        if taken > 1 && self.random.chance(self.faults.partial_send_chance) {
            taken = self.random.within(1..=taken as u64) as usize;
        }
        self.ends[from].credit -= taken;
        let mut rest = &bytes[..taken];
        let cut = self.random.chance(self.faults.cut_chance);
        let mut latency_ns = self.random.within(self.faults.latency_ns.clone());
        if self.random.chance(self.faults.stall_chance) {
            latency_ns += self.random.within(self.faults.stall_ns.clone());
        }
        self.ends[from].last_arrival_ns = self.ends[from].last_arrival_ns.max(self.now_ns + latency_ns);
        let mut pieces = 0;
        while !rest.is_empty() {
            let len = match rest.len() {
                // So many pieces cut it enough.
                len if !cut || pieces == MOST_PIECES => len,
                _ if self.random.chance(self.faults.one_byte_chance) => 1,
                len => self.random.within(1..=len as u64) as usize,
            };
            let (piece, after) = rest.split_at(len);
            let gap_ns = self.random.within(1..=LONGEST_GAP_NS);
            self.dispatch_behind(from, gap_ns, Arrival::Bytes { end: peer, bytes: piece.to_vec() });
            rest = after;
            pieces += 1;
        }
        Ok(taken)
    }

    /// Whether the socket would take bytes.
    pub(super) fn can_send(&self, end: usize) -> bool {
        match self.ends[end].stand {
            Stand::Connecting => false,
            Stand::Open => self.ends[end].credit > 0,
            Stand::Broken(_) => true,
        }
    }

    /// Takes up to `most` bytes that have arrived.
    pub(super) fn receive(&mut self, end: usize, most: usize) -> Vec<u8> {
        let inbox = &mut self.ends[end].inbox;
        let bytes: Vec<u8> = inbox.drain(..most.min(inbox.len())).collect();
        if let Some(peer) = self.ends[end].peer
            && !bytes.is_empty()
        {
            self.dispatch(end, Arrival::Credit { end: peer, bytes: bytes.len() });
        }
        bytes
    }

    /// Says that this end will send no more.
    pub(super) fn finish(&mut self, from: usize) {
        if std::mem::replace(&mut self.ends[from].shut, true) || self.ends[from].stand != Stand::Open {
            return;
        }
        if let Some(peer) = self.ends[from].peer {
            self.dispatch(from, Arrival::Finish { end: peer });
        }
    }

    /// Lets go of an end, as `close` does: in order, unless something unread is lost by it.
    pub(super) fn close(&mut self, end: usize) {
        if self.ends[end].inbox.is_empty() && self.ends[end].stand != Stand::Connecting {
            self.finish(end);
            self.ends[end].released = true;
        } else {
            self.reset(end);
        }
    }

    /// Lets go of an end and breaks the other.
    pub(super) fn reset(&mut self, end: usize) {
        if std::mem::replace(&mut self.ends[end].released, true) {
            return;
        }
        self.ends[end].inbox = VecDeque::new();
        if !matches!(self.ends[end].stand, Stand::Broken(_)) {
            self.dispatch_reset(end);
        }
    }
}
