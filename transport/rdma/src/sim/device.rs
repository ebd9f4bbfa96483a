//! A simulated device, as its host sees it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use super::fabric::{Endpoint, Node, Outgoing, padded};
use super::{INLINE_BYTES, SimCounts, SimFabric, TAKEN_AT_ONCE};
use crate::device::{
    Completion, Depth, Device, DeviceEvent, FLUSHED, Private, ReceiveRequest, Registration, SendRequest,
};
use crate::wire::{self, Terms};

/// A device on a [`SimFabric`].
pub struct SimDevice {
    fabric: SimFabric,
    node: usize,
}

/// A request on its way between devices of one fabric.
pub struct SimParcel {
    fabric: SimFabric,
    /// Node and number that it has until somebody takes it.
    place: Option<(usize, usize)>,
}

impl SimDevice {
    pub(super) fn new(fabric: SimFabric) -> Self {
        let mut nodes = fabric.lock();
        nodes.nodes.push(Node::default());
        let node = nodes.nodes.len() - 1;
        drop(nodes);
        SimDevice { fabric, node }
    }

    pub(super) fn node(&self) -> usize {
        self.node
    }

    /// What it was asked to do so far.
    pub fn counts(&self) -> SimCounts {
        self.fabric.lock().nodes[self.node].counts
    }

    /// Endpoints that exist.
    pub fn endpoints(&self) -> usize {
        self.fabric.lock().nodes[self.node].endpoints.len()
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        self.fabric.lock().end(self.node);
    }
}

impl Drop for SimParcel {
    fn drop(&mut self) {
        if let Some((node, endpoint)) = self.place.take() {
            self.fabric.lock().refuse(node, endpoint, &[]);
        }
    }
}

impl Device for SimDevice {
    type Parcel = SimParcel;

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
        let port = node.port;
        let endpoint = Endpoint { port, target: Some(addr), ..Endpoint::default() };
        let endpoint = node.endpoints.insert(endpoint) as u32;
        node.events.push_back(DeviceEvent::Resolved { endpoint, port });
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
        let port = fabric.nodes[node].port;
        let other = Endpoint { port, peer: Some(own), ..Endpoint::default() };
        let other = fabric.nodes[node].endpoints.insert(other);
        let asking = &mut fabric.nodes[own.0].endpoints[own.1];
        asking.peer = Some((node, other));
        asking.granted = Terms::decode(&padded(private)).map_or(0, |terms| terms.credit.into());
        let peer = SocketAddr::new(target.ip(), 40_000);
        fabric.nodes[node].events.push_back(DeviceEvent::Request {
            listener,
            endpoint: other as u32,
            port,
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
        let private = padded(private);
        let (version, credit) = Terms::decode(&private).map_or((0, 0), |terms| (terms.version, terms.credit));
        (own.is_up, own.is_joined, own.version, own.granted) = (true, true, version, credit.into());
        let established = DeviceEvent::Established { endpoint, private: Private::new(&[]) };
        fabric.nodes[self.node].events.push_back(established);
        let Some(other) = fabric.nodes[peer.0].endpoints.get_mut(peer.1) else { return Ok(()) };
        (other.is_up, other.is_joined, other.version) = (true, true, version);
        other.allowed = credit.into();
        let granted = other.granted;
        let established = DeviceEvent::Established { endpoint: peer.1 as u32, private };
        fabric.nodes[peer.0].events.push_back(established);
        fabric.nodes[self.node].endpoints[endpoint as usize].allowed = granted;
        Ok(())
    }

    fn reject(&mut self, endpoint: u32, private: &[u8]) {
        self.fabric.lock().refuse(self.node, endpoint as usize, private);
    }

    fn hand_over(&mut self, endpoint: u32) -> SimParcel {
        SimParcel { fabric: self.fabric.clone(), place: Some((self.node, endpoint as usize)) }
    }

    fn take_over(&mut self, mut parcel: SimParcel) -> io::Result<(u32, u8)> {
        let mut fabric = self.fabric.lock();
        let place = parcel.place.take().ok_or(io::ErrorKind::NotFound)?;
        let endpoint = fabric.carry(place, self.node).ok_or(io::ErrorKind::NotConnected)?;
        Ok((endpoint as u32, fabric.nodes[self.node].port))
    }

    fn disconnect(&mut self, endpoint: u32) {
        let mut fabric = self.fabric.lock();
        let own = &mut fabric.nodes[self.node].endpoints[endpoint as usize];
        let (peer, was_joined) = (own.peer, std::mem::replace(&mut own.is_joined, false));
        fabric.break_down(self.node, endpoint as usize, FLUSHED);
        let is_cut = fabric.nodes[self.node].is_cut;
        if let Some((node, other)) = peer
            && was_joined
            && !is_cut
            && !fabric.nodes[node].is_cut
        {
            if let Some(other) = fabric.nodes[node].endpoints.get_mut(other) {
                other.is_joined = false;
            }
            fabric.nodes[node].events.push_back(DeviceEvent::Disconnected { endpoint: other as u32 });
            // Answered, so that both are told.
            fabric.nodes[self.node].events.push_back(DeviceEvent::Disconnected { endpoint });
        }
    }

    fn release(&mut self, endpoint: u32) {
        let mut fabric = self.fabric.lock();
        let node = &mut fabric.nodes[self.node];
        let Some(gone) = node.endpoints.try_remove(endpoint as usize) else { return };
        node.under_way -= gone.outgoing.len();
        node.forget(endpoint as usize);
        if let Some((node, other)) = gone.peer
            && let Some(other) = fabric.nodes[node].endpoints.get_mut(other)
        {
            other.peer = None;
        }
    }

    unsafe fn register(&mut self, port: u8, start: *mut u8, bytes: usize) -> io::Result<Registration> {
        let node = &mut self.fabric.lock().nodes[self.node];
        node.counts.registrations += 1;
        let id = node.memory.insert((start.addr(), bytes, port)) as u32;
        Ok(Registration { id, key: id })
    }

    fn deregister(&mut self, port: u8, registration: Registration) {
        let (_, _, own) = self.fabric.lock().nodes[self.node].memory.remove(registration.id as usize);
        assert_eq!(own, port, "memory of another port");
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
            own.granted += u64::from(wire::credit_of(own.version, &message, send.immediate));
            assert!(own.granted <= own.receives_posted, "credit for receives that are not posted");
            assert!(own.posted <= own.allowed, "a message without credit");
            let depth = own.depth.expect("opened before");
            assert!(own.posted - own.ended <= u64::from(depth.sends), "more sends than the queue is deep");
            if own.is_broken {
                node.complete(endpoint as usize, send.token, Err(FLUSHED), Some(sequence + 1));
                continue;
            }
            let inline = send.inline.then_some(message);
            own.outgoing.push_back(Outgoing { sequence, send: *send, inline });
            node.under_way += 1;
        }
        Ok(())
    }

    unsafe fn post_receives(&mut self, endpoint: u32, receives: &[ReceiveRequest]) -> io::Result<()> {
        let node = &mut self.fabric.lock().nodes[self.node];
        node.counts.receive_posts += 1;
        for receive in receives {
            node.check(&receive.piece);
            let own = &mut node.endpoints[endpoint as usize];
            own.receives_posted += 1;
            if own.is_broken {
                node.complete(endpoint as usize, receive.token, Err(FLUSHED), None);
                continue;
            }
            own.receives.push_back(*receive);
            let depth = own.depth.expect("opened before");
            assert!(own.receives.len() <= depth.receives as usize, "more receives than the queue is deep");
        }
        Ok(())
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> Option<u8> {
        let mut fabric = self.fabric.lock();
        fabric.progress();
        let node = &mut fabric.nodes[self.node];
        for _ in 0..TAKEN_AT_ONCE {
            let Some(ended) = node.completions.pop_front() else { break };
            node.counts.completions += 1;
            if let (Some(sent), Some(endpoint)) = (ended.sent, node.endpoints.get_mut(ended.endpoint)) {
                endpoint.ended = sent.max(endpoint.ended);
            }
            completions.push(ended.completion);
        }
        node.failed_ports.pop_front()
    }

    fn arm(&mut self) {}

    fn events(&mut self, events: &mut Vec<DeviceEvent>) {
        events.extend(self.fabric.lock().nodes[self.node].events.drain(..));
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }
}
