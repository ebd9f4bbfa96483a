//! How clients reach the broker: over sockets of the simulated network, or over simulated RDMA.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use fulmar_rdma::Side;
use fulmar_rdma::sim::{SimDevice, SimFabric};
use fulmar_transport::sim::{Network, Random, SimClient, SimClientState};
use fulmar_transport::{Close, Config, ConnId, Event, RecvBuf};

use crate::talk::Line;

/// What a broker and its clients over RDMA agree on, in seconds. A peer that vanishes is noticed by nothing else.
pub const HEARTBEAT_S: u16 = 20;
/// How long a client over RDMA listens to silence.
const SILENCE_NS: u64 = HEARTBEAT_S as u64 * 2_500_000_000;
/// After how long without a word a client over RDMA says that it is there.
const PULSE_NS: u64 = HEARTBEAT_S as u64 * 500_000_000;
/// Bytes that wait for credit above which nothing more is written.
const MOST_PENDING_BYTES: usize = 64 * 1024;

/// The ways of a run.
pub struct Ways {
    pub network: Network,
    pub fabric: SimFabric,
    /// Clients use either, by chance; without, only sockets.
    pub has_rdma: bool,
    /// Connections over RDMA that were given up for silence.
    pub silences: Rc<Cell<u64>>,
    /// Times that the broker has ended; what is in its memory alone goes with it.
    pub ends: Rc<Cell<u64>>,
}

/// A connection with what was not sent and what was not understood yet.
pub struct Socket {
    client: Client,
    /// Whoever is silent for long is taken for gone.
    is_tuned: bool,
    pub input: Vec<u8>,
    pub output: Vec<u8>,
}

enum Client {
    Tcp(SimClient),
    Rdma(Box<RdmaClient>),
}

impl Socket {
    pub fn connect(ways: &Ways, address: SocketAddr, greeting: &[u8], random: &mut Random) -> Self {
        let client = if ways.has_rdma && random.chance(500_000) {
            Client::Rdma(Box::new(RdmaClient::connect(ways, address, random)))
        } else {
            Client::Tcp(ways.network.connect(address))
        };
        Socket { client, is_tuned: false, input: Vec::new(), output: greeting.to_vec() }
    }

    /// One over the network, whatever others use.
    pub fn over_tcp(network: &Network, address: SocketAddr, greeting: &[u8]) -> Self {
        let client = Client::Tcp(network.connect(address));
        Socket { client, is_tuned: false, input: Vec::new(), output: greeting.to_vec() }
    }

    /// Takes at most `most` bytes in.
    pub fn receive(&mut self, most: usize) {
        let arrived = match &mut self.client {
            Client::Tcp(client) => client.receive(most),
            Client::Rdma(client) => client.receive(most),
        };
        self.input.extend_from_slice(&arrived);
    }

    pub fn send(&mut self) {
        match &mut self.client {
            Client::Tcp(client) => {
                let sent = client.send(&self.output);
                self.output.drain(..sent);
            }
            Client::Rdma(client) => client.send(&mut self.output),
        }
    }

    /// Bytes that nobody has taken.
    pub fn unsent(&self) -> usize {
        match &self.client {
            Client::Tcp(_) => self.output.len(),
            Client::Rdma(client) => self.output.len() + client.side.pending_bytes(client.conn),
        }
    }

    pub fn line(&self) -> Line {
        let is_up = match &self.client {
            Client::Tcp(client) => {
                matches!(client.state(), SimClientState::Connecting | SimClientState::Open)
            }
            Client::Rdma(client) => client.is_up(),
        };
        if is_up { Line::Up } else { Line::Down }
    }

    /// The heartbeat to agree on, in seconds; 0 for none.
    pub fn tune(&mut self) -> u16 {
        self.is_tuned = true;
        if matches!(self.client, Client::Rdma(_)) { HEARTBEAT_S } else { 0 }
    }

    /// Whether it is time to say that one is there.
    pub fn is_quiet(&self) -> bool {
        matches!(&self.client, Client::Rdma(client) if self.is_tuned && client.is_quiet())
    }

    /// The largest frame that goes over it.
    pub fn largest_frame_bytes(&self) -> u32 {
        match &self.client {
            Client::Tcp(_) => u32::MAX,
            Client::Rdma(client) => client.side.largest_frame_bytes(client.conn).unwrap_or(u32::MAX),
        }
    }

    pub fn reset(self) {
        match self.client {
            Client::Tcp(client) => client.reset(),
            Client::Rdma(client) => client.end(),
        }
    }
}

/// How a client over RDMA ends when it has had enough.
#[derive(Clone, Copy)]
enum End {
    Disconnects,
    /// Its process ends; its host disconnects.
    Dies,
    /// Its host does.
    Vanishes,
}

struct RdmaClient {
    side: Side<SimDevice>,
    conn: ConnId,
    network: Network,
    fabric: SimFabric,
    /// Received, and how much of the first was taken.
    received: VecDeque<RecvBuf>,
    taken: usize,
    is_closed: bool,
    silences: Rc<Cell<u64>>,
    heard_ns: u64,
    said_ns: u64,
    end: End,
}

impl RdmaClient {
    fn connect(ways: &Ways, address: SocketAddr, random: &mut Random) -> Self {
        let config = Config { max_connections: 1, ..Config::default() };
        let mut side = Side::new(ways.fabric.device(), config);
        if random.chance(500_000) {
            side.offer_compatible(random.below(2) as u16);
        }
        if random.chance(500_000) {
            side.limit_credit(random.within(4..=16) as u16);
        }
        let now_ns = ways.network.now_ns();
        let conn = side.connect(address, now_ns).expect("there is room for one");
        let end = [End::Disconnects, End::Dies, End::Vanishes][random.below(3)];
        RdmaClient {
            side,
            conn,
            network: ways.network.clone(),
            fabric: ways.fabric.clone(),
            received: VecDeque::new(),
            taken: 0,
            is_closed: false,
            silences: ways.silences.clone(),
            heard_ns: now_ns,
            said_ns: now_ns,
            end,
        }
    }

    fn turn(&mut self) {
        let mut events = Vec::new();
        let now_ns = self.network.now_ns();
        self.side.begin(now_ns, &mut events);
        self.side.poll(&mut events);
        self.side.poll_events(&mut events);
        self.side.poll(&mut events);
        for event in events {
            match event {
                Event::Received { buf, .. } => {
                    self.heard_ns = now_ns;
                    self.received.push_back(buf);
                }
                Event::Closed { .. } => self.is_closed = true,
                _ => {}
            }
        }
        self.side.flush();
    }

    fn receive(&mut self, most: usize) -> Vec<u8> {
        self.turn();
        let mut bytes = Vec::new();
        while bytes.len() < most
            && let Some(buf) = self.received.pop_front()
        {
            let rest = &self.side.bytes(&buf)[self.taken..];
            let fits = rest.len().min(most - bytes.len());
            bytes.extend_from_slice(&rest[..fits]);
            if fits < rest.len() {
                self.taken += fits;
                self.received.push_front(buf);
            } else {
                self.taken = 0;
                self.side.recycle(buf);
            }
        }
        bytes
    }

    /// Takes all or nothing: what frames are cut into is the side's affair.
    fn send(&mut self, output: &mut Vec<u8>) {
        if !output.is_empty()
            && self.side.pending_bytes(self.conn) < MOST_PENDING_BYTES
            && let Some(out) = self.side.output(self.conn)
        {
            out.append(output);
            self.said_ns = self.network.now_ns();
        }
        self.side.flush();
    }

    fn is_up(&self) -> bool {
        let is_over = self.is_closed && self.received.is_empty();
        let is_silent = self.network.now_ns() - self.heard_ns >= SILENCE_NS;
        self.silences.set(self.silences.get() + u64::from(is_silent && !is_over));
        !is_over && !is_silent
    }

    fn is_quiet(&self) -> bool {
        self.network.now_ns() - self.said_ns >= PULSE_NS
    }

    fn end(mut self) {
        match self.end {
            End::Disconnects => self.side.close(self.conn, Close::Abort),
            End::Dies => {}
            End::Vanishes => {
                let fabric = self.fabric.clone();
                fabric.cut(self.side.device());
            }
        }
    }
}
