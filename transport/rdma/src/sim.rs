//! A simulated device: endpoints joined by a fabric in this process, whose delays come from a seed.
//!
//! 1. It is stricter than hardware: memory that is not registered, a queue that is overrun, a send that changes while it is
//!    under way end the test.
//! 2. What is under way when an endpoint is disconnected is flushed, in order, as hardware does it.
//! 3. It counts what costs: posts, sends that tell their end, completions.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fulmar_transport::sim::Random;
use slab::Slab;

use crate::device::{
    Completed, Completion, Depth, Device, DeviceEvent, FLUSHED, Piece, Private, ReceiveRequest, Registration,
    SendRequest,
};

/// Bytes that a simulated endpoint sends inline.
const INLINE_BYTES: u32 = 128;
/// The status of a send that the other side never answered.
const UNANSWERED: u32 = 12;
/// Completions taken a poll.
const TAKEN_AT_ONCE: usize = 64;

/// What a device has been asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Rings of the doorbell for sends.
    pub send_posts: u64,
    /// Messages sent.
    pub sends: u64,
    /// Those of them that tell their end.
    pub signaled: u64,
    /// Rings of the doorbell for receives.
    pub receive_posts: u64,
    /// Completions handed out.
    pub completions: u64,
    /// Messages that found no receive posted, and were tried again.
    pub not_ready: u64,
    /// Times that memory was registered.
    pub registrations: u64,
    /// Bytes of messages sent.
    pub bytes: u64,
}

/// What joins devices.
#[derive(Clone)]
pub struct SimFabric(Arc<Mutex<Fabric>>);

struct Fabric {
    nodes: Vec<Node>,
    random: Random,
    /// In a thousand: how likely a message stays under way when it could arrive.
    hold: usize,
}

#[derive(Default)]
struct Node {
    listeners: Slab<SocketAddr>,
    endpoints: Slab<Endpoint>,
    completions: VecDeque<(Completion, Option<(usize, u64)>)>,
    events: VecDeque<DeviceEvent>,
    memory: Slab<(usize, usize)>,
    counts: SimCounts,
    /// Nothing reaches it, and nobody is told.
    is_cut: bool,
}

#[derive(Default)]
struct Endpoint {
    /// Node and number of the other end.
    peer: Option<(usize, usize)>,
    /// Where it wants to connect to.
    target: Option<SocketAddr>,
    depth: Option<Depth>,
    is_up: bool,
    is_broken: bool,
    receives: VecDeque<ReceiveRequest>,
    outgoing: VecDeque<(u64, SendRequest, Option<Vec<u8>>)>,
    posted: u64,
    ended: u64,
}

// SAFETY: the pointers in requests lie in memory that is registered, and whoever registered it keeps it.
unsafe impl Send for Fabric {}

/// A device on a [`SimFabric`].
pub struct SimDevice {
    fabric: SimFabric,
    node: usize,
}

impl SimFabric {
    /// A fabric on which, in a thousand times that a message could arrive, `hold` times it does not yet.
    pub fn new(seed: u64, hold: usize) -> Self {
        SimFabric(Arc::new(Mutex::new(Fabric { nodes: Vec::new(), random: Random::new(seed), hold })))
    }

    /// Another device on it.
    pub fn device(&self) -> SimDevice {
        let mut fabric = self.lock();
        fabric.nodes.push(Node::default());
        SimDevice { node: fabric.nodes.len() - 1, fabric: self.clone() }
    }

    /// From now on nothing reaches a device or comes from it, and nobody is told.
    pub fn cut(&self, device: &SimDevice) {
        self.lock().nodes[device.node].is_cut = true;
    }

    fn lock(&self) -> MutexGuard<'_, Fabric> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimDevice {
    /// What it was asked to do so far.
    pub fn counts(&self) -> SimCounts {
        self.fabric.lock().nodes[self.node].counts
    }

    /// Endpoints that exist.
    pub fn endpoints(&self) -> usize {
        self.fabric.lock().nodes[self.node].endpoints.len()
    }
}

impl Fabric {
    /// Moves what may arrive.
    fn progress(&mut self) {
        for node in 0..self.nodes.len() {
            let endpoints: Vec<usize> = self.nodes[node].endpoints.iter().map(|(at, _)| at).collect();
            for endpoint in endpoints {
                while self.random.below(1000) >= self.hold && self.deliver(node, endpoint) {}
            }
        }
    }

    /// Takes the next message of an endpoint to its peer. Whether it got there.
    fn deliver(&mut self, node: usize, endpoint: usize) -> bool {
        let Some(own) = self.nodes[node].endpoints.get(endpoint) else { return false };
        let Some(&(sequence, send, ref inline)) = own.outgoing.front() else { return false };
        let message = inline.clone().unwrap_or_else(|| self.nodes[node].gather(&send));
        let Some(target) = own.peer.filter(|(to, _)| !self.nodes[node].is_cut && !self.nodes[*to].is_cut)
        else {
            self.break_down(node, endpoint, UNANSWERED);
            return false;
        };
        let Some(other) = self.nodes[target.0].endpoints.get_mut(target.1).filter(|other| other.is_up) else {
            self.break_down(node, endpoint, UNANSWERED);
            return false;
        };
        let Some(receive) = other.receives.pop_front() else {
            self.nodes[node].counts.not_ready += 1;
            return false;
        };
        assert!(message.len() <= receive.piece.bytes as usize, "a message longer than its receive");
        let receiver = &mut self.nodes[target.0];
        receiver.check(&receive.piece);
        // SAFETY: registered memory, whose owner looks at it only after the completion.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), receive.piece.address, message.len()) };
        let completed = Completed::Received { bytes: message.len() as u32, immediate: send.immediate };
        receiver.completions.push_back((Completion { token: receive.token, result: Ok(completed) }, None));
        let sender = &mut self.nodes[node];
        sender.endpoints[endpoint].outgoing.pop_front();
        if send.signaled {
            let completion = Completion { token: send.token, result: Ok(Completed::Sent) };
            sender.completions.push_back((completion, Some((endpoint, sequence + 1))));
        }
        true
    }

    /// The first request under way fails, all others are flushed.
    fn break_down(&mut self, node: usize, endpoint: usize, status: u32) {
        let Some(own) = self.nodes[node].endpoints.get_mut(endpoint) else { return };
        own.is_broken = true;
        own.is_up = false;
        let mut status = status;
        let mut failed = Vec::new();
        for (sequence, send, _) in own.outgoing.drain(..) {
            failed.push((
                Completion { token: send.token, result: Err(status) },
                Some((endpoint, sequence + 1)),
            ));
            status = FLUSHED;
        }
        for receive in own.receives.drain(..) {
            failed.push((Completion { token: receive.token, result: Err(FLUSHED) }, None));
        }
        self.nodes[node].completions.extend(failed);
    }

    fn find(&self, addr: SocketAddr) -> Option<(usize, u32)> {
        self.nodes.iter().enumerate().find_map(|(at, node)| {
            let listener = node.listeners.iter().find(|(_, listening)| **listening == addr)?.0;
            (!node.is_cut).then_some((at, listener as u32))
        })
    }
}

impl Node {
    fn gather(&self, send: &SendRequest) -> Vec<u8> {
        let mut message = Vec::new();
        for piece in &send.pieces[..usize::from(send.piece_count)] {
            if !send.inline {
                self.check(piece);
            }
            // SAFETY: registered memory, or inline and looked at while it is posted.
            message.extend(unsafe { std::slice::from_raw_parts(piece.address, piece.bytes as usize) });
        }
        message
    }

    /// The piece lies in memory registered under its key.
    fn check(&self, piece: &Piece) {
        let (start, bytes) = self.memory[piece.key as usize];
        let address = piece.address.addr();
        assert!(
            address >= start && address + piece.bytes as usize <= start + bytes,
            "memory that is not registered"
        );
    }
}

/// Private data as it arrives: padded with zeros.
fn padded(private: &[u8]) -> Private {
    let mut bytes = private.to_vec();
    bytes.resize(crate::device::PRIVATE_BYTES, 0);
    Private::new(&bytes)
}

impl Device for SimDevice {
    fn listen(&mut self, addr: SocketAddr, _backlog: u32) -> io::Result<(u32, SocketAddr)> {
        let mut fabric = self.fabric.lock();
        let mut addr = addr;
        while addr.port() == 0 || (fabric.find(addr).is_some() && addr.port() < 100) {
            addr.set_port(addr.port() + 1);
        }
        if fabric.find(addr).is_some() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok((fabric.nodes[self.node].listeners.insert(addr) as u32, addr))
    }

    fn unlisten(&mut self, listener: u32) {
        self.fabric.lock().nodes[self.node].listeners.try_remove(listener as usize);
    }

    fn resolve(&mut self, addr: SocketAddr) -> io::Result<u32> {
        let node = &mut self.fabric.lock().nodes[self.node];
        let endpoint = node.endpoints.insert(Endpoint { target: Some(addr), ..Endpoint::default() }) as u32;
        node.events.push_back(DeviceEvent::Resolved { endpoint, port: 0 });
        Ok(endpoint)
    }

    fn open(&mut self, endpoint: u32, depth: Depth) -> io::Result<u32> {
        self.fabric.lock().nodes[self.node].endpoints[endpoint as usize].depth = Some(depth);
        Ok(INLINE_BYTES)
    }

    fn connect(&mut self, endpoint: u32, private: &[u8]) -> io::Result<()> {
        let mut fabric = self.fabric.lock();
        let own = (self.node, endpoint as usize);
        let target = fabric.nodes[own.0].endpoints[own.1].target.expect("resolved before");
        let Some((node, listener)) = fabric.find(target) else {
            let event = DeviceEvent::Rejected { endpoint, private: padded(&[]) };
            fabric.nodes[own.0].events.push_back(event);
            return Ok(());
        };
        let other = fabric.nodes[node].endpoints.insert(Endpoint { peer: Some(own), ..Endpoint::default() });
        fabric.nodes[own.0].endpoints[own.1].peer = Some((node, other));
        let peer = SocketAddr::new(target.ip(), 40_000);
        fabric.nodes[node].events.push_back(DeviceEvent::Request {
            listener,
            endpoint: other as u32,
            port: 0,
            peer,
            local: target,
            private: padded(private),
        });
        Ok(())
    }

    fn accept(&mut self, endpoint: u32, private: &[u8]) -> io::Result<()> {
        let mut fabric = self.fabric.lock();
        let own = &mut fabric.nodes[self.node].endpoints[endpoint as usize];
        assert!(own.depth.is_some(), "accepted before it is opened");
        let Some(peer) = own.peer else { return Err(io::ErrorKind::NotConnected.into()) };
        own.is_up = true;
        let established = DeviceEvent::Established { endpoint, private: Private::new(&[]) };
        fabric.nodes[self.node].events.push_back(established);
        let Some(other) = fabric.nodes[peer.0].endpoints.get_mut(peer.1) else { return Ok(()) };
        other.is_up = true;
        let established = DeviceEvent::Established { endpoint: peer.1 as u32, private: padded(private) };
        fabric.nodes[peer.0].events.push_back(established);
        Ok(())
    }

    fn reject(&mut self, endpoint: u32, private: &[u8]) {
        let mut fabric = self.fabric.lock();
        let peer = fabric.nodes[self.node].endpoints.remove(endpoint as usize).peer;
        if let Some((node, other)) = peer {
            let event = DeviceEvent::Rejected { endpoint: other as u32, private: padded(private) };
            fabric.nodes[node].events.push_back(event);
        }
    }

    fn disconnect(&mut self, endpoint: u32) {
        let mut fabric = self.fabric.lock();
        let peer = fabric.nodes[self.node].endpoints[endpoint as usize].peer;
        let was_up = fabric.nodes[self.node].endpoints[endpoint as usize].is_up;
        fabric.break_down(self.node, endpoint as usize, FLUSHED);
        let is_cut = fabric.nodes[self.node].is_cut;
        if let Some((node, other)) = peer
            && was_up
            && !is_cut
            && !fabric.nodes[node].is_cut
        {
            fabric.nodes[node].events.push_back(DeviceEvent::Disconnected { endpoint: other as u32 });
        }
    }

    fn release(&mut self, endpoint: u32) {
        let mut fabric = self.fabric.lock();
        let Some(gone) = fabric.nodes[self.node].endpoints.try_remove(endpoint as usize) else { return };
        let node = &mut fabric.nodes[self.node];
        // What it has not been told any more is nobody's.
        node.events.retain(|event| !concerns(event, endpoint));
        node.completions.retain(|(_, sent)| sent.is_none_or(|(of, _)| of != endpoint as usize));
        if let Some((node, other)) = gone.peer
            && let Some(other) = fabric.nodes[node].endpoints.get_mut(other)
        {
            other.peer = None;
        }
    }

    unsafe fn register(&mut self, _port: u8, start: *mut u8, bytes: usize) -> io::Result<Registration> {
        let node = &mut self.fabric.lock().nodes[self.node];
        node.counts.registrations += 1;
        let id = node.memory.insert((start.addr(), bytes)) as u32;
        Ok(Registration { id, key: id })
    }

    fn deregister(&mut self, _port: u8, registration: Registration) {
        self.fabric.lock().nodes[self.node].memory.remove(registration.id as usize);
    }

    unsafe fn post_sends(&mut self, endpoint: u32, sends: &[SendRequest]) -> io::Result<()> {
        let node = &mut self.fabric.lock().nodes[self.node];
        node.counts.send_posts += 1;
        for send in sends {
            let message = node.gather(send);
            assert!(!send.inline || message.len() <= INLINE_BYTES as usize, "too much to go inline");
            assert!(!message.is_empty(), "a message of no bytes");
            node.counts.sends += 1;
            node.counts.signaled += u64::from(send.signaled);
            node.counts.bytes += message.len() as u64;
            let own = &mut node.endpoints[endpoint as usize];
            let sequence = own.posted;
            own.posted += 1;
            let depth = own.depth.expect("opened before");
            assert!(own.posted - own.ended <= u64::from(depth.sends), "more sends than the queue is deep");
            if own.is_broken {
                let completion = Completion { token: send.token, result: Err(FLUSHED) };
                node.completions.push_back((completion, Some((endpoint as usize, sequence + 1))));
                continue;
            }
            own.outgoing.push_back((sequence, *send, send.inline.then_some(message)));
        }
        Ok(())
    }

    unsafe fn post_receives(&mut self, endpoint: u32, receives: &[ReceiveRequest]) -> io::Result<()> {
        let node = &mut self.fabric.lock().nodes[self.node];
        node.counts.receive_posts += 1;
        for receive in receives {
            node.check(&receive.piece);
            let own = &mut node.endpoints[endpoint as usize];
            if own.is_broken {
                let completion = Completion { token: receive.token, result: Err(FLUSHED) };
                node.completions.push_back((completion, None));
                continue;
            }
            own.receives.push_back(*receive);
            let depth = own.depth.expect("opened before");
            assert!(own.receives.len() <= depth.receives as usize, "more receives than the queue is deep");
        }
        Ok(())
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        let mut fabric = self.fabric.lock();
        fabric.progress();
        let node = &mut fabric.nodes[self.node];
        for _ in 0..TAKEN_AT_ONCE {
            let Some((completion, sent)) = node.completions.pop_front() else { return };
            node.counts.completions += 1;
            if let Some((endpoint, ended)) = sent
                && let Some(endpoint) = node.endpoints.get_mut(endpoint)
            {
                endpoint.ended = ended.max(endpoint.ended);
            }
            completions.push(completion);
        }
    }

    fn arm(&mut self) {}

    fn events(&mut self, events: &mut Vec<DeviceEvent>) {
        events.extend(self.fabric.lock().nodes[self.node].events.drain(..));
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}

fn concerns(event: &DeviceEvent, number: u32) -> bool {
    match event {
        DeviceEvent::Request { endpoint, .. }
        | DeviceEvent::Resolved { endpoint, .. }
        | DeviceEvent::Established { endpoint, .. }
        | DeviceEvent::Rejected { endpoint, .. }
        | DeviceEvent::Failed { endpoint, .. }
        | DeviceEvent::Disconnected { endpoint } => *endpoint == number,
    }
}
