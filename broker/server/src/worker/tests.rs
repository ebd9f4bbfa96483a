//! A worker on a simulated network, without threads and real time.

use std::sync::mpsc::{Sender, channel};

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, PROTOCOL_HEADER, Properties, TableRef, frame};
use fulmar_core::shard::mesh_for;
use fulmar_core::{Limits, Name, ShardConfig, ShardId};
use fulmar_transport::Config as TransportConfig;
use fulmar_transport::sim::{Faults, Network, SimClient, SimClientState, SimTransport};

use super::*;
use crate::settings::Settings;

const SECOND_NS: u64 = 1_000_000_000;

/// Lets everybody in, at once.
struct Open;

impl Authenticator for Open {
    fn check(
        &mut self,
        _conn: ConnId,
        _peer: &fulmar_policy::Peer,
        _login: Box<Login>,
    ) -> Option<LoginAnswer> {
        Some(LoginAnswer::accepted("guest"))
    }
}

struct NoWake;

impl fulmar_core::mesh::Wake for NoWake {
    fn wake(&self) {}
}

pub(super) struct House {
    pub(super) network: Network,
    pub(super) worker: Worker<SimTransport>,
    pub(super) addr: SocketAddr,
    pub(super) notes: Sender<Note>,
    pub(super) counters: Arc<Counters>,
}

impl House {
    pub(super) fn new(memory_bytes: u64) -> Self {
        let network = Network::new(7, Faults::none());
        let limits = Limits { memory_bytes, ..Limits::default() };
        let mesh = mesh_for(vec![Arc::new(NoWake)], &limits).pop().unwrap();
        let shard_config =
            ShardConfig { id: ShardId(0), shards: 1, limits, vhosts: vec![Name::from("/")], seed: 7 };
        let settings = Settings::in_process();
        let config = WorkerConfig {
            protocol: Arc::new(ProtocolConfig {
                product: "Fulmar".into(),
                version: "0".into(),
                cluster_name: "fulmar".into(),
                broker_id: String::new(),
                frame_max_bytes: settings.frame_max_bytes,
                channel_max: settings.channel_max,
                heartbeat_s: settings.heartbeat_s,
                handshake_timeout_ms: settings.handshake_timeout_ms,
                mechanisms: vec!["PLAIN".into()],
                max_consumers_per_channel: 100,
                max_message_bytes: settings.max_message_bytes,
                timestamps: fulmar_protocol::Switch::default(),
                known_hosts: Vec::new(),
                whereabouts: Default::default(),
                can_move: true,
            }),
            high_water_bytes: TransportConfig::default().high_water_bytes,
            memory_bytes,
            max_connections: 100,
            addresses: None,
            idle: IdleStrategy::Block,
            gate: Arc::new(StopGate::new(1)),
            tls: None,
            require_encryption: false,
        };
        let (notes, inbox) = channel();
        let counters = Arc::new(Counters::default());
        let transport = network.transport(TransportConfig::default());
        let shard = Shard::new(shard_config, mesh);
        let mut worker = Worker::new(transport, shard, config, Box::new(Open), inbox, counters.clone());
        let addr = worker.listen("127.0.0.1:5672".parse().unwrap(), 128).unwrap();
        House { network, worker, addr, notes, counters }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, ns: u64) {
        let until_ns = self.network.now_ns() + ns;
        loop {
            self.worker.turn().unwrap();
            match self.network.next_event_ns() {
                Some(at_ns) if at_ns <= until_ns => drop(self.network.advance()),
                _ => break,
            }
        }
        self.network.advance_to(until_ns);
        self.worker.turn().unwrap();
    }

    fn connect(&mut self) -> Peer {
        let peer = Peer { socket: self.network.connect(self.addr), input: Vec::new() };
        self.pass(SECOND_NS / 100);
        peer
    }

    /// A client that has sent its whole handshake and a channel's opening in one go, with this heartbeat.
    fn open(&mut self, heartbeat: u16) -> Peer {
        let peer = self.connect();
        let mut out = PROTOCOL_HEADER.to_vec();
        let properties = b"\x0ccapabilitiesF\0\0\0\x15\x12connection.blockedt\x01";
        let start_ok = Method::ConnectionStartOk {
            client_properties: TableRef::new(properties),
            mechanism: b"PLAIN",
            response: b"\0ann\0x",
            locale: b"en_US",
        };
        start_ok.encode(0, &mut out);
        Method::ConnectionTuneOk { channel_max: 10, frame_max: 131_072, heartbeat }.encode(0, &mut out);
        Method::ConnectionOpen { virtual_host: b"/" }.encode(0, &mut out);
        Method::ChannelOpen.encode(1, &mut out);
        peer.send(&out);
        self.pass(SECOND_NS / 10);
        peer
    }
}

struct Peer {
    socket: SimClient,
    input: Vec<u8>,
}

impl Peer {
    fn send(&self, bytes: &[u8]) {
        assert_eq!(self.socket.send(bytes), bytes.len());
    }

    /// The names of the methods that came, with heartbeats among them.
    fn names(&mut self) -> Vec<&'static str> {
        self.input.extend(self.socket.receive(usize::MAX));
        let mut names = Vec::new();
        while let Some((frame, length)) = frame::parse(&self.input, 0).unwrap() {
            names.push(match frame.kind {
                FrameKind::Method => Method::decode(frame.payload).unwrap().name(),
                FrameKind::Heartbeat => "heartbeat",
                FrameKind::Header | FrameKind::Body => "content",
            });
            self.input.drain(..length);
        }
        names
    }
}

fn publish(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let method =
        Method::BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: false };
    method.encode(1, &mut out);
    let mut properties = Vec::new();
    Properties::default().encode(&mut properties);
    frame::encode_content(1, &properties, body, 131_072, &mut out);
    out
}

fn declare() -> Vec<u8> {
    let mut out = Vec::new();
    let method = Method::QueueDeclare {
        queue: b"q",
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: TableRef::default(),
    };
    method.encode(1, &mut out);
    out
}

const HANDSHAKE: [&str; 4] = ["connection.start", "connection.tune", "connection.open-ok", "channel.open-ok"];

#[test]
fn a_whole_handshake_in_one_packet_is_answered() {
    let mut house = House::new(1 << 20);
    assert_eq!(house.open(0).names(), HANDSHAKE);
}

#[test]
fn heartbeats_agreed_in_the_handshake_come_in_time() {
    let mut house = House::new(1 << 20);
    let mut peer = house.open(2);
    peer.names();
    house.pass(SECOND_NS * 3 / 2);
    assert_eq!(
        peer.names(),
        ["heartbeat"],
        "after half of the heartbeat at the latest, not after the handshake's time"
    );
    peer.send(&frame::HEARTBEAT);
    house.pass(3 * SECOND_NS);
    assert_eq!(house.counters.open.get(), 1);
    house.pass(3 * SECOND_NS);
    assert_eq!(house.counters.faults_timeout.get(), 1, "a peer that falls silent is given up");
}

#[test]
fn a_silent_peer_has_the_handshakes_time() {
    let mut house = House::new(1 << 20);
    let peer = house.connect();
    house.pass(9 * SECOND_NS);
    assert_eq!(peer.socket.state(), SimClientState::Open);
    house.pass(2 * SECOND_NS);
    assert_ne!(peer.socket.state(), SimClientState::Open);
    assert_eq!(house.counters.handshake_timeouts.get(), 1);
}

#[test]
fn a_publisher_is_told_that_memory_is_short_and_is_not_given_up_meanwhile() {
    let mut house = House::new(1 << 20);
    let mut publisher = house.open(2);
    publisher.send(&declare());
    house.pass(SECOND_NS / 10);
    publisher.names();
    let mut names = Vec::new();
    for _ in 0..100 {
        if names.is_empty() {
            publisher.send(&publish(&[0; 20_000]));
            house.pass(SECOND_NS / 100);
            names = publisher.names();
        }
    }
    assert_eq!(names, ["connection.blocked"]);
    for _ in 0..10 {
        house.pass(SECOND_NS);
    }
    assert_eq!(house.counters.open.get(), 1, "it cannot be heard while it is not read");
    assert!(publisher.names().iter().all(|name| *name == "heartbeat"));
    let mut other = house.open(0);
    let mut purge = Vec::new();
    Method::QueuePurge { queue: b"q", no_wait: false }.encode(1, &mut purge);
    other.send(&purge);
    house.pass(SECOND_NS / 10);
    assert_eq!(other.names().last(), Some(&"queue.purge-ok"));
    assert_eq!(publisher.names(), ["connection.unblocked"]);
    assert_eq!(house.counters.congestions.get(), 1);
}

#[test]
fn a_stop_tells_the_clients_and_waits_for_their_answers_only_so_long() {
    let mut house = House::new(1 << 20);
    let mut polite = house.open(0);
    let mut rude = house.open(0);
    let silent = house.connect();
    house.notes.send(Note::Stop { within_ms: 1000 }).unwrap();
    house.worker.transport().waker().wake();
    house.pass(SECOND_NS / 2);
    assert_ne!(silent.socket.state(), SimClientState::Open);
    assert_eq!(polite.names().last(), Some(&"connection.close"));
    assert_eq!(rude.names().last(), Some(&"connection.close"));
    let mut close_ok = Vec::new();
    Method::ConnectionCloseOk.encode(0, &mut close_ok);
    polite.send(&close_ok);
    polite.socket.finish();
    house.pass(SECOND_NS / 4);
    assert_eq!(house.counters.open.get(), 1);
    assert_eq!(house.worker.turn().unwrap(), Progress::Running);
    house.pass(SECOND_NS);
    assert_eq!(house.worker.turn().unwrap(), Progress::Stopped);
}

#[test]
fn refused_protocols_are_counted_and_told_what_is_spoken() {
    let mut house = House::new(1 << 20);
    let peer = house.connect();
    peer.send(b"AMQP\x01\x01\x00\x09");
    house.pass(SECOND_NS / 10);
    assert_eq!(peer.socket.receive(100), PROTOCOL_HEADER);
    drop(peer);
    house.pass(10 * SECOND_NS);
    assert_eq!((house.counters.refused_protocol.get(), house.counters.open.get()), (1, 0));
}

#[test]
fn amqp_0_10_is_spoken_on_the_same_port() {
    let mut house = House::new(1 << 20);
    let peer = house.connect();
    peer.send(b"AMQP\x01\x01\x00\x0a");
    house.pass(SECOND_NS / 10);
    assert!(peer.socket.receive(1000).starts_with(b"AMQP\x01\x01\x00\x0a"));
    drop(peer);
    house.pass(10 * SECOND_NS);
    assert_eq!((house.counters.refused_protocol.get(), house.counters.open.get()), (0, 0));
}
