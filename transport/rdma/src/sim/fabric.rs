//! What lies between simulated devices: what is under way, and how it arrives or fails.

use std::collections::VecDeque;
use std::net::SocketAddr;

use fulmar_transport::sim::Random;
use slab::Slab;

use super::{SimCounts, SimFaultCounts, SimFaults};
use crate::device::{
    Completed, Completion, Depth, DeviceEvent, FLUSHED, PRIVATE_BYTES, Piece, Private, ReceiveRequest,
    SendRequest,
};
use crate::wire;

/// The status of a send that the other side never answered.
const UNANSWERED: u32 = 12;
/// The status of a send that the other side never had room for.
const NOT_READY: u32 = 13;

pub(super) struct Fabric {
    pub(super) nodes: Vec<Node>,
    random: Random,
    /// In a thousand: how likely a message stays under way when it could arrive.
    hold: usize,
    pub(super) faults: SimFaults,
    pub(super) fault_counts: SimFaultCounts,
}

/// What the fabric knows of a device.
#[derive(Default)]
pub(super) struct Node {
    pub(super) listeners: Slab<SocketAddr>,
    pub(super) endpoints: Slab<Endpoint>,
    pub(super) completions: VecDeque<Ended>,
    pub(super) events: VecDeque<DeviceEvent>,
    /// Start, length and port of what is registered.
    pub(super) memory: Slab<(usize, usize, u8)>,
    pub(super) counts: SimCounts,
    /// Of new connections.
    pub(super) port: u8,
    /// Ports that have failed and were not told of.
    pub(super) failed_ports: VecDeque<u8>,
    /// Sends under way.
    pub(super) under_way: usize,
    /// Nothing reaches it, and nobody is told.
    pub(super) is_cut: bool,
}

/// A completion: of this endpoint, and if it is a send's, how many sends have ended.
pub(super) struct Ended {
    pub(super) completion: Completion,
    pub(super) endpoint: usize,
    pub(super) sent: Option<u64>,
}

#[derive(Default)]
pub(super) struct Endpoint {
    pub(super) port: u8,
    /// Node and number of the other end.
    pub(super) peer: Option<(usize, usize)>,
    /// Where it wants to connect to.
    pub(super) target: Option<SocketAddr>,
    pub(super) depth: Option<Depth>,
    /// Of the contract that both ends have agreed on.
    pub(super) version: u16,
    /// The connection manager holds it for connected.
    pub(super) is_joined: bool,
    /// Its queues take and give messages.
    pub(super) is_up: bool,
    pub(super) is_broken: bool,
    pub(super) receives: VecDeque<ReceiveRequest>,
    pub(super) outgoing: VecDeque<Outgoing>,
    pub(super) posted: u64,
    pub(super) ended: u64,
    /// Receives posted so far, and messages that the other end was told it may send: never more than those.
    pub(super) receives_posted: u64,
    pub(super) granted: u64,
    /// Messages that this end was told it may send.
    pub(super) allowed: u64,
}

/// A send under way.
pub(super) struct Outgoing {
    pub(super) sequence: u64,
    pub(super) send: SendRequest,
    /// Its bytes, if they were taken when it was posted.
    pub(super) inline: Option<Vec<u8>>,
}

// SAFETY: the pointers in requests lie in memory that is registered, and whoever registered it keeps it as long as its
// device, which takes them along.
unsafe impl Send for Fabric {}

impl Fabric {
    pub(super) fn new(random: Random, hold: usize) -> Self {
        let (faults, fault_counts) = (SimFaults::default(), SimFaultCounts::default());
        Fabric { nodes: Vec::new(), random, hold, faults, fault_counts }
    }

    /// Moves what may arrive.
    pub(super) fn progress(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].under_way == 0 {
                continue;
            }
            let endpoints: Vec<usize> = self.nodes[node].endpoints.iter().map(|(at, _)| at).collect();
            for endpoint in endpoints {
                while self.random.below(1000) >= self.hold && self.deliver(node, endpoint) {}
            }
        }
    }

    /// Takes the next message of an endpoint to its peer. Whether it got there.
    fn deliver(&mut self, node: usize, endpoint: usize) -> bool {
        let Some(own) = self.nodes[node].endpoints.get(endpoint) else { return false };
        if own.outgoing.is_empty() {
            return false;
        }
        let target = own.peer.filter(|(to, _)| !self.nodes[node].is_cut && !self.nodes[*to].is_cut);
        let is_there = |(to, other): &(usize, usize)| {
            self.nodes[*to].endpoints.get(*other).is_some_and(|other| other.is_up && !other.is_broken)
        };
        let is_joined = own.is_joined;
        let Some(target) = target.filter(is_there) else {
            // The end of the connection is told long before somebody gives up waiting for an answer.
            if !is_joined {
                return false;
            }
            self.fault_counts.unanswered += 1;
            self.break_down(node, endpoint, UNANSWERED);
            return false;
        };
        if self.goes_wrong((node, endpoint), target) {
            return false;
        }
        let Some(receive) = self.nodes[target.0].endpoints[target.1].receives.pop_front() else {
            self.nodes[node].counts.not_ready += 1;
            self.fault_counts.without_room += 1;
            return false;
        };
        let sender = &mut self.nodes[node];
        let own = &mut sender.endpoints[endpoint];
        let (version, taken) = (own.version, own.outgoing.pop_front().expect("looked at above"));
        sender.under_way -= 1;
        let Outgoing { sequence, send, inline } = taken;
        let mut message = inline.unwrap_or_else(|| sender.gather(&send));
        let mut immediate = send.immediate;
        if self.random.chance(self.faults.lost_grant) {
            self.fault_counts.lost_grants += 1;
            wire::forget_credit(version, &mut message, &mut immediate);
        }
        assert!(message.len() <= receive.piece.bytes as usize, "a message longer than its receive");
        let credit = wire::credit_of(version, &message, immediate);
        self.nodes[target.0].endpoints[target.1].allowed += u64::from(credit);
        let receiver = &mut self.nodes[target.0];
        receiver.check(&receive.piece);
        // SAFETY: registered memory, whose owner looks at it only after the completion.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), receive.piece.address, message.len()) };
        let completed = Completed::Received { bytes: message.len() as u32, immediate };
        receiver.complete(target.1, receive.token, Ok(completed), None);
        if send.signaled {
            self.nodes[node].complete(endpoint, send.token, Ok(Completed::Sent), Some(sequence + 1));
        }
        true
    }

    /// Lets something go wrong with the next message, by chance. Whether it has.
    fn goes_wrong(&mut self, from: (usize, usize), to: (usize, usize)) -> bool {
        let faults = self.faults;
        if faults == SimFaults::default() {
            return false;
        }
        let either = if self.random.chance(500_000) { from } else { to };
        if self.random.chance(faults.not_ready) {
            self.fault_counts.not_ready += 1;
            self.break_down(from.0, from.1, NOT_READY);
        } else if self.random.chance(faults.unanswered) {
            self.fault_counts.unanswered += 1;
            self.break_down(from.0, from.1, UNANSWERED);
        } else if self.random.chance(faults.flushed) {
            self.fault_counts.flushed += 1;
            self.break_down(either.0, either.1, FLUSHED);
        } else if self.random.chance(faults.overrun) {
            self.fault_counts.overrun += 1;
            self.overrun(either.0);
        } else {
            return false;
        }
        true
    }

    /// The first request under way fails, all others are flushed.
    pub(super) fn break_down(&mut self, node: usize, endpoint: usize, status: u32) {
        let node = &mut self.nodes[node];
        let Some(own) = node.endpoints.get_mut(endpoint) else { return };
        own.is_broken = true;
        let (outgoing, receives) = (std::mem::take(&mut own.outgoing), std::mem::take(&mut own.receives));
        node.under_way -= outgoing.len();
        let mut status = status;
        for Outgoing { sequence, send, .. } in outgoing {
            node.complete(endpoint, send.token, Err(status), Some(sequence + 1));
            status = FLUSHED;
        }
        for receive in receives {
            node.complete(endpoint, receive.token, Err(FLUSHED), None);
        }
    }

    /// The completion queue of a node fails: nothing is told of what is under way there.
    fn overrun(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.completions.clear();
        let port = node.port;
        node.failed_ports.push_back(port);
        node.port += 1;
        for (_, endpoint) in &mut node.endpoints {
            if endpoint.port == port {
                node.under_way -= endpoint.outgoing.len();
                endpoint.abandon();
            }
        }
    }

    pub(super) fn cut(&mut self, node: usize) {
        self.fault_counts.vanished += u64::from(!self.nodes[node].is_cut);
        self.nodes[node].is_cut = true;
    }

    /// Every connection of a node is lost, with its listeners if the device itself is.
    pub(super) fn lose_all(&mut self, node: usize, error: i32, is_removed: bool) {
        let endpoints: Vec<usize> = self.nodes[node].endpoints.iter().map(|(at, _)| at).collect();
        for endpoint in endpoints {
            if is_removed {
                self.break_down(node, endpoint, FLUSHED);
                self.nodes[node].endpoints[endpoint].is_joined = false;
            }
            self.nodes[node].events.push_back(DeviceEvent::Lost { endpoint: endpoint as u32, error });
        }
        if is_removed {
            let node = &mut self.nodes[node];
            let listeners: Vec<usize> = node.listeners.iter().map(|(at, _)| at).collect();
            for listener in listeners {
                node.listeners.remove(listener);
                node.events.push_back(DeviceEvent::ListenerLost { listener: listener as u32 });
            }
        }
    }

    /// The process of a node ends.
    pub(super) fn end(&mut self, node: usize) {
        let is_cut = self.nodes[node].is_cut;
        let gone = std::mem::take(&mut self.nodes[node]);
        self.nodes[node].is_cut = true;
        for (_, endpoint) in gone.endpoints {
            let Some((peer, other)) = endpoint.peer.filter(|(peer, _)| !is_cut && !self.nodes[*peer].is_cut)
            else {
                continue;
            };
            let endpoint_there = other as u32;
            let Some(other) = self.nodes[peer].endpoints.get_mut(other) else { continue };
            let was_joined = std::mem::replace(&mut other.is_joined, false);
            let event = if was_joined {
                DeviceEvent::Disconnected { endpoint: endpoint_there }
            } else {
                DeviceEvent::Failed { endpoint: endpoint_there, error: libc::ECONNREFUSED }
            };
            self.nodes[peer].events.push_back(event);
        }
    }

    /// Moves an endpoint that was not answered from one node to another.
    pub(super) fn carry(&mut self, from: (usize, usize), to: usize) -> Option<usize> {
        let mut endpoint = self.nodes[from.0].endpoints.try_remove(from.1)?;
        self.nodes[from.0].forget(from.1);
        endpoint.port = self.nodes[to].port;
        let peer = endpoint.peer;
        let number = self.nodes[to].endpoints.insert(endpoint);
        if let Some((node, other)) = peer
            && let Some(other) = self.nodes[node].endpoints.get_mut(other)
        {
            other.peer = Some((to, number));
        }
        Some(number)
    }

    pub(super) fn refuse(&mut self, node: usize, endpoint: usize, private: &[u8]) {
        let Some(gone) = self.nodes[node].endpoints.try_remove(endpoint) else { return };
        self.nodes[node].forget(endpoint);
        if let Some((node, other)) = gone.peer
            && self.nodes[node].endpoints.contains(other)
        {
            let event = DeviceEvent::Rejected { endpoint: other as u32, private: padded(private) };
            self.nodes[node].events.push_back(event);
        }
    }

    pub(super) fn find(&self, addr: SocketAddr) -> Option<(usize, u32)> {
        self.nodes.iter().enumerate().find_map(|(at, node)| {
            let listener = node.listeners.iter().find(|(_, listening)| **listening == addr)?.0;
            (!node.is_cut).then_some((at, listener as u32))
        })
    }
}

impl Endpoint {
    /// Takes nothing any more, and tells nothing.
    fn abandon(&mut self) {
        self.is_broken = true;
        self.outgoing.clear();
        self.receives.clear();
    }
}

impl Node {
    /// Appends a completion, for which there has to be room.
    pub(super) fn complete(
        &mut self,
        endpoint: usize,
        token: u64,
        result: Result<Completed, u32>,
        sent: Option<u64>,
    ) {
        if self.endpoints.get(endpoint).is_none_or(|own| own.port != self.port) {
            // Of a queue that has failed.
            return;
        }
        let depths = self.endpoints.iter().filter_map(|(_, endpoint)| endpoint.depth);
        let room: u32 = depths.map(|depth| depth.sends + depth.receives).sum();
        assert!(self.completions.len() < room as usize, "the completion queue overruns");
        self.completions.push_back(Ended { completion: Completion { token, result }, endpoint, sent });
    }

    pub(super) fn gather(&self, send: &SendRequest) -> Vec<u8> {
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
    pub(super) fn check(&self, piece: &Piece) {
        let (start, bytes, _) = self.memory[piece.key as usize];
        let address = piece.address.addr();
        assert!(
            address >= start && address + piece.bytes as usize <= start + bytes,
            "memory that is not registered"
        );
    }

    /// What an endpoint that is released has not been told any more is nobody's.
    pub(super) fn forget(&mut self, endpoint: usize) {
        self.events.retain(|event| !concerns(event, endpoint as u32));
        self.completions.retain(|ended| ended.endpoint != endpoint);
    }
}

/// Private data as it arrives: padded with zeros.
pub(super) fn padded(private: &[u8]) -> Private {
    let mut bytes = private.to_vec();
    bytes.resize(PRIVATE_BYTES, 0);
    Private::new(&bytes)
}

fn concerns(event: &DeviceEvent, number: u32) -> bool {
    match event {
        DeviceEvent::Request { endpoint, .. }
        | DeviceEvent::Resolved { endpoint, .. }
        | DeviceEvent::Established { endpoint, .. }
        | DeviceEvent::Rejected { endpoint, .. }
        | DeviceEvent::Failed { endpoint, .. }
        | DeviceEvent::Disconnected { endpoint }
        | DeviceEvent::Lost { endpoint, .. } => *endpoint == number,
        DeviceEvent::ListenerLost { .. } => false,
    }
}
