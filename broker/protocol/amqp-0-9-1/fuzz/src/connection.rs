//! The connection's state machine with a shard behind it: whatever a peer sends, however it is cut, nothing panics,
//! the memory held stays bounded, and the broker ends up empty when the peer is gone.

use std::sync::Arc;

use fulmar_amqp_0_9_1::codec::method::class;
use fulmar_amqp_0_9_1::codec::{ContentHeader, Frame, FrameKind, Method, Properties, TableRef, frame};
use fulmar_amqp_0_9_1::connection::Connection;
use fulmar_core::mesh::Wake;
use fulmar_core::{Clock, Limits, Name, Shard, ShardConfig, ShardId, mesh_for};
use fulmar_protocol::testing::answer_to;
use fulmar_protocol::{Action, Config, Connection as _, Context};

const FRAME_MAX_BYTES: u32 = 4096;
const MAX_BODY_BYTES: u64 = 8192;
/// Most that the broker may write to a peer for each byte of an input, and at all: declarations are answered, messages
/// are delivered again and again.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Most turns that a broker takes to come to rest.
const MAX_TURNS: usize = 10_000;

/// Bits of an input's first octet.
const SKIP_HANDSHAKE: u8 = 1;
const WHOLE_FRAMES: u8 = 2;
const TWO_AT_ONCE: u8 = 4;

/// First octet: how the rest is to be understood. Second: how it is cut into pieces. The rest: bytes as they come, or
/// records of kind, channel and length with the frames' payload.
pub fn run(input: &[u8]) {
    let [flags, cuts, rest @ ..] = input else { return };
    let mut stream = Vec::new();
    if flags & SKIP_HANDSHAKE != 0 {
        handshake(&mut stream);
    }
    if flags & WHOLE_FRAMES != 0 {
        frames(rest, &mut stream)
    } else {
        stream.extend_from_slice(rest)
    }
    let mut broker = Broker::new();
    let peers = if flags & TWO_AT_ONCE != 0 { 2 } else { 1 };
    let mut peers: Vec<Peer> = (0..peers).map(|owner| broker.accept(owner)).collect();
    for piece in pieces(&stream, *cuts) {
        for peer in 0..peers.len() {
            peers[peer].unread.extend_from_slice(piece);
            broker.run(&mut peers);
        }
    }
    // Time passes: what is due falls due, silent peers are dropped.
    for _ in 0..3 {
        broker.clock.monotonic_ns += 60_000_000_000;
        broker.clock.wall_ms += 60_000;
        broker.run(&mut peers);
    }
    for peer in &mut peers {
        peer.connection.closed(&mut broker.shard);
    }
    broker.run(&mut []);
}

/// Everything that a client sends until its connection is open, with one channel.
fn handshake(out: &mut Vec<u8>) {
    let start = Method::ConnectionStartOk {
        client_properties: TableRef::EMPTY,
        mechanism: b"PLAIN",
        response: b"\0guest\0guest",
        locale: b"en_US",
    };
    start.encode(0, out);
    Method::ConnectionTuneOk { channel_max: 16, frame_max: FRAME_MAX_BYTES, heartbeat: 10 }.encode(0, out);
    Method::ConnectionOpen { virtual_host: b"/" }.encode(0, out);
    Method::ChannelOpen.encode(1, out);
}

/// Records of kind, channel, length (256 and more by the high bit of the kind) and payload, as frames.
fn frames(mut records: &[u8], out: &mut Vec<u8>) {
    while let [kind, channel, length, rest @ ..] = records {
        let wanted = usize::from(*length) + if kind & 0x80 != 0 { 1024 } else { 0 };
        let (payload, rest) = rest.split_at(wanted.min(rest.len()));
        let kind = [FrameKind::Method, FrameKind::Header, FrameKind::Body, FrameKind::Heartbeat]
            [usize::from(kind % 4)];
        Frame { kind, channel: u16::from(channel % 8), payload }.encode(out);
        records = rest;
    }
}

/// The pieces in which the bytes arrive; `cuts` tells how long they are, 0 for all at once.
fn pieces(stream: &[u8], cuts: u8) -> impl Iterator<Item = &[u8]> {
    let bytes = match cuts {
        0 => stream.len(),
        // Not so many that an input takes long.
        cuts => usize::from(cuts).max(stream.len() / 64),
    };
    stream.chunks(bytes.max(1))
}

struct Peer {
    connection: Connection,
    unread: Vec<u8>,
    written: usize,
    closed: bool,
}

struct Broker {
    shard: Shard,
    clock: Clock,
    limits: Limits,
}

impl Broker {
    fn new() -> Self {
        let limits = Limits::tiny();
        let end = mesh_for(vec![Arc::new(Nobody) as Arc<dyn Wake>], &limits).remove(0);
        let config = ShardConfig {
            id: ShardId(0),
            shards: 1,
            limits: limits.clone(),
            vhosts: vec![Name::from("/")],
            seed: 1,
        };
        let clock = Clock { monotonic_ns: 1, wall_ms: 1_700_000_000_000 };
        let mut shard = Shard::new(config, end);
        shard.set_clock(clock);
        Broker { shard, clock, limits }
    }

    fn accept(&mut self, owner: u32) -> Peer {
        let mut out = Vec::new();
        let config = Arc::new(Config {
            product: "Fulmar".to_owned(),
            version: "0".to_owned(),
            cluster_name: "fuzz".to_owned(),
            broker_id: String::new(),
            frame_max_bytes: FRAME_MAX_BYTES,
            channel_max: 16,
            heartbeat_s: 10,
            handshake_timeout_ms: 10_000,
            mechanisms: vec!["PLAIN".to_owned(), "AMQPLAIN".to_owned(), "ANONYMOUS".to_owned()],
            max_consumers_per_channel: 8,
            max_message_bytes: MAX_BODY_BYTES,
            timestamps: fulmar_protocol::Switch::default(),
            known_hosts: Vec::new(),
            whereabouts: Default::default(),
            can_move: true,
        });
        let mut cx = Context { shard: &mut self.shard, out: &mut out, now_ns: self.clock.monotonic_ns };
        let connection = Connection::new(config, &mut cx, owner, format!("peer {owner}"));
        Peer { connection, unread: Vec::new(), written: out.len(), closed: false }
    }

    /// Takes turns until nobody has anything left to do.
    fn run(&mut self, peers: &mut [Peer]) {
        let mut out = Vec::new();
        let now_ns = self.clock.monotonic_ns;
        self.shard.set_clock(self.clock);
        for _ in 0..MAX_TURNS {
            let mut worked = false;
            for peer in peers.iter_mut() {
                let mut cx = Context { shard: &mut self.shard, out: &mut out, now_ns };
                let taken = peer.connection.receive(&mut cx, &peer.unread);
                peer.connection.tick(&mut cx);
                assert!(taken <= peer.unread.len());
                peer.unread.drain(..taken);
                worked |= taken > 0;
            }
            worked |= self.shard.turn();
            while let Some(output) = self.shard.next_output() {
                let owner = owner(&output);
                let peer = &mut peers[owner as usize];
                let mut cx = Context { shard: &mut self.shard, out: &mut out, now_ns };
                peer.connection.output(&mut cx, output);
                worked = true;
            }
            for peer in peers.iter_mut() {
                let mut cx = Context { shard: &mut self.shard, out: &mut out, now_ns };
                peer.connection.end_of_turn(&mut cx);
                worked |= peer.act(&mut cx);
                check_output(peer, &mut out);
            }
            self.shard.publish_lanes();
            self.check_memory(peers);
            if !worked && !self.shard.has_work() {
                return;
            }
        }
        panic!("the broker does not come to rest");
    }

    /// Nobody stops reading here, so one body of each channel and what was taken in a turn comes on top of the limit.
    fn check_memory(&self, peers: &[Peer]) {
        let bound = self.limits.memory_bytes + (1 + peers.len() as u64) * 17 * 2 * MAX_BODY_BYTES;
        assert!(self.shard.memory_bytes() <= bound, "{} bytes of messages", self.shard.memory_bytes());
    }
}

impl Peer {
    /// Does what the connection asks for.
    fn act(&mut self, cx: &mut Context<'_>) -> bool {
        let mut acted = false;
        while let Some(action) = self.connection.next_action() {
            assert!(!self.closed, "an action after the end");
            acted = true;
            match action {
                Action::Authenticate(login) => {
                    self.connection.authenticated(cx, answer_to(&login));
                }
                Action::Protect(_) => unreachable!("no login brings a layer"),
                Action::Close { .. } => self.closed = true,
                Action::Move { .. } => unreachable!("no session lives elsewhere"),
            }
        }
        acted
    }
}

/// What is written is whole frames, each within the agreed size, and not without end.
fn check_output(peer: &mut Peer, out: &mut Vec<u8>) {
    peer.written += out.len();
    assert!(peer.written < MAX_OUTPUT_BYTES, "answers without end");
    let mut rest = out.as_slice();
    while !rest.is_empty() {
        let Ok(Some((frame, taken))) = frame::parse(rest, FRAME_MAX_BYTES) else {
            panic!("not a frame: {rest:02x?}")
        };
        if frame.kind == FrameKind::Method {
            assert!(Method::decode(frame.payload).is_ok(), "not a method: {:02x?}", frame.payload);
        }
        rest = &rest[taken..];
    }
    out.clear();
}

fn owner(output: &fulmar_core::Output) -> u32 {
    use fulmar_core::Output::*;
    match output {
        Delivery(delivery) => delivery.owner,
        Reply { owner, .. } | Confirmed { owner, .. } | ConsumerCancelled { owner, .. } => *owner,
    }
}

/// One shard in one thread has nobody to wake.
struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

/// A whole conversation, once as bytes and once as records; the handshake alone; each method by itself.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    let mut alone = Vec::new();
    for method in crate::client_methods(TableRef::EMPTY) {
        let channel = if method.class_id() == class::CONNECTION { 0 } else { 1 };
        let mut encoded = Vec::new();
        method.encode(channel, &mut encoded);
        if method.has_content() {
            let mut properties = Vec::new();
            let some = Properties { expiration: Some(b"1000"), reply_to: Some(b"q"), ..Default::default() };
            some.encode(&mut properties);
            frame::encode_content(channel, &properties, b"a body", FRAME_MAX_BYTES, &mut encoded);
        }
        let as_records = records_of(&encoded);
        alone.push((
            method.name().to_owned(),
            [&[SKIP_HANDSHAKE | WHOLE_FRAMES, 0], as_records.as_slice()].concat(),
        ));
        // The last ones close what the others need.
        if !matches!(method, Method::ChannelOpen | Method::TxSelect) {
            bytes.extend_from_slice(&encoded);
            records.extend_from_slice(&as_records);
        }
    }
    let mut opening = vec![0, 7];
    handshake(&mut opening);
    let mut seeds = vec![
        ("handshake".to_owned(), opening),
        ("bytes".to_owned(), [&[SKIP_HANDSHAKE, 5], bytes.as_slice()].concat()),
        ("records".to_owned(), [&[SKIP_HANDSHAKE | WHOLE_FRAMES, 0], records.as_slice()].concat()),
        ("two".to_owned(), [&[SKIP_HANDSHAKE | WHOLE_FRAMES | TWO_AT_ONCE, 0], records.as_slice()].concat()),
        ("large-body".to_owned(), large_body()),
    ];
    seeds.append(&mut alone);
    seeds
}

/// A publish whose body needs several frames.
fn large_body() -> Vec<u8> {
    let mut encoded = Vec::new();
    Method::BasicPublish { exchange: b"", routing_key: b"q", mandatory: false, immediate: false }
        .encode(1, &mut encoded);
    ContentHeader { class_id: class::BASIC, body_size: 3000, properties: &[0, 0] }.encode(1, &mut encoded);
    for _ in 0..3 {
        Frame { kind: FrameKind::Body, channel: 1, payload: &[b'x'; 1000] }.encode(&mut encoded);
    }
    [&[SKIP_HANDSHAKE, 100], encoded.as_slice()].concat()
}

/// Frames of up to 255 bytes of payload as records.
fn records_of(mut encoded: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    while let Ok(Some((frame, taken))) = frame::parse(encoded, 0) {
        let kind = match frame.kind {
            FrameKind::Method => 0,
            FrameKind::Header => 1,
            FrameKind::Body => 2,
            FrameKind::Heartbeat => 3,
        };
        records.extend_from_slice(&[kind, frame.channel as u8, frame.payload.len() as u8]);
        records.extend_from_slice(frame.payload);
        encoded = &encoded[taken..];
    }
    records
}
