//! The connection's state machine with a shard behind it: whatever a peer sends, however it is cut, nothing panics,
//! the memory held stays bounded, and the broker ends up empty when the peer is gone.

use std::sync::Arc;

use fulmar_amqp_0_10::codec::frame::{self, Flags, PROTOCOL_HEADER_BYTES};
use fulmar_amqp_0_10::codec::sequence::encode_sequence_set;
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::value::encode_map;
use fulmar_amqp_0_10::codec::{Command, Control, Frame, MapRef, SequenceNo, SequenceSet, Value};
use fulmar_amqp_0_10::connection::Connection;
use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::{Clock, Limits, Name, Shard, ShardConfig, ShardId};
use fulmar_protocol::testing::answer_to;
use fulmar_protocol::{Action, Config, Connection as _, Context};

const FRAME_MAX_BYTES: u16 = 4096;
const MAX_BODY_BYTES: u64 = 8192;
/// Most that the broker may write to a peer.
const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Most turns that a broker takes to come to rest.
const MAX_TURNS: usize = 10_000;

/// Bits of an input's first octet.
const SKIP_HANDSHAKE: u8 = 1;
const WHOLE_FRAMES: u8 = 2;
const TWO_AT_ONCE: u8 = 4;

/// First octet: how the rest is to be understood. Second: how it is cut into pieces. The rest: bytes as they come, or
/// records of flags, channel and length with the frames' payload.
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

/// Everything that a client sends until its connection is open, with one session.
fn handshake(out: &mut Vec<u8>) {
    let start_ok = ConnectionStartOk {
        mechanism: Some(b"PLAIN"),
        response: Some(b"\0guest\0guest"),
        ..ConnectionStartOk::default()
    };
    let tune_ok = ConnectionTuneOk {
        channel_max: Some(16),
        max_frame_size: Some(FRAME_MAX_BYTES),
        heartbeat: Some(10),
    };
    for control in [Control::from(start_ok), tune_ok.into(), ConnectionOpen::default().into()] {
        control.encode_frames(0, FRAME_MAX_BYTES, out);
    }
    let point = SessionCommandPoint { command_id: Some(SequenceNo(u32::MAX - 2)), command_offset: Some(0) };
    for control in [Control::from(SessionAttach { name: Some(b"s"), force: false }), point.into()] {
        control.encode_frames(1, FRAME_MAX_BYTES, out);
    }
}

/// Records as frames: an octet with the segment's type, the frame's flags and whether the payload is longer by 1024;
/// channel; length; payload.
fn frames(mut records: &[u8], out: &mut Vec<u8>) {
    while let [what, channel, length, rest @ ..] = records {
        let wanted = usize::from(*length) + if what & 0x80 != 0 { 1024 } else { 0 };
        let (payload, rest) = rest.split_at(wanted.min(rest.len()));
        let kind = SegmentType::from_code(what & 3);
        let track = if kind == SegmentType::Control { Track::Control } else { Track::Command };
        let flags = Flags {
            first_segment: what & 0x20 != 0,
            last_segment: what & 0x10 != 0,
            first_frame: what & 8 != 0,
            last_frame: what & 4 != 0,
        };
        Frame { flags, kind, track, channel: u16::from(channel % 8), payload }.encode(out);
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
            frame_max_bytes: FRAME_MAX_BYTES.into(),
            channel_max: 16,
            heartbeat_s: 10,
            handshake_timeout_ms: 10_000,
            mechanisms: vec!["PLAIN".to_owned(), "ANONYMOUS".to_owned()],
            max_consumers_per_channel: 8,
            max_message_bytes: MAX_BODY_BYTES,
            timestamps: fulmar_protocol::Switch::default(),
            known_hosts: Vec::new(),
            whereabouts: Default::default(),
            can_move: true,
        });
        let mut cx = Context { shard: &mut self.shard, out: &mut out, now_ns: self.clock.monotonic_ns };
        let connection = Connection::new(config, &mut cx, owner, format!("peer {owner}"));
        out.drain(..PROTOCOL_HEADER_BYTES);
        let mut peer = Peer { connection, unread: Vec::new(), written: 0, closed: false };
        check_output(&mut peer, &mut out);
        peer
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
                check_output(peer, &mut out);
            }
            worked |= self.shard.turn();
            while let Some(output) = self.shard.next_output() {
                let owner = owner(&output);
                let peer = &mut peers[owner as usize];
                let mut cx = Context { shard: &mut self.shard, out: &mut out, now_ns };
                peer.connection.output(&mut cx, output);
                check_output(peer, &mut out);
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
        // A body whose length is not told takes room for the longest that is taken on a promise.
        let bound = bound + peers.len() as u64 * 17 * 64 * 1024;
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
        let whole = frame.flags.first_frame && frame.flags.last_frame;
        let good = match frame.kind {
            SegmentType::Control if whole => Control::decode(frame.payload).is_ok(),
            SegmentType::Command if whole => Command::decode(frame.payload).is_ok(),
            _ => true,
        };
        assert!(good, "neither control nor command: {:02x?}", frame.payload);
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

/// A whole conversation, once as bytes and once as records; the handshake alone; each control and command by itself.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut map = Vec::new();
    encode_map([(&b"qpid.max_count"[..], Value::Int32(5)), (b"x-match", Value::Str16(b"all"))], &mut map);
    let mut ids = Vec::new();
    encode_sequence_set([(SequenceNo(0), SequenceNo(3))], &mut ids);
    let (map, ids) = (MapRef::new(&map), SequenceSet::new(&ids).unwrap_or_default());
    let (mut bytes, mut records, mut seeds) = (Vec::new(), Vec::new(), Vec::new());
    for (name, encoded) in client_operations(map, ids) {
        let as_records = records_of(&encoded);
        let alone = [&[SKIP_HANDSHAKE | WHOLE_FRAMES, 0], as_records.as_slice()].concat();
        seeds.push((name, alone));
        bytes.extend_from_slice(&encoded);
        records.extend_from_slice(&as_records);
    }
    let mut opening = vec![0, 7];
    handshake(&mut opening);
    seeds.extend([
        ("handshake".to_owned(), opening),
        ("bytes".to_owned(), [&[SKIP_HANDSHAKE, 5], bytes.as_slice()].concat()),
        ("records".to_owned(), [&[SKIP_HANDSHAKE | WHOLE_FRAMES, 0], records.as_slice()].concat()),
        ("two".to_owned(), [&[SKIP_HANDSHAKE | WHOLE_FRAMES | TWO_AT_ONCE, 0], records.as_slice()].concat()),
    ]);
    seeds
}

/// What a client sends in a session, in an order that makes sense, on a queue `q` and an exchange `x`.
fn client_operations(map: MapRef<'_>, ids: SequenceSet<'_>) -> Vec<(String, Vec<u8>)> {
    let (queue, exchange, destination) = (Some(&b"q"[..]), Some(&b"x"[..]), Some(&b"d"[..]));
    let (arguments, commands, transfers) = (Some(map), Some(ids), Some(ids));
    let xid = Some(Xid { format: Some(1), global_id: Some(b"g"), branch_id: Some(b"b") });
    let declare = QueueDeclare { queue, arguments, exclusive: true, ..QueueDeclare::default() };
    let flow = |unit, value| MessageFlow { destination, unit: Some(unit), value: Some(value) };
    let first: Vec<Command<'_>> = vec![
        ExchangeDeclare { exchange, type_: Some(b"headers"), arguments, ..Default::default() }.into(),
        declare.into(),
        ExchangeBind { queue, exchange, binding_key: Some(b"k"), arguments }.into(),
        ExchangeBound { queue, exchange, binding_key: Some(b"k"), arguments }.into(),
        MessageSubscribe { queue, destination, ..Default::default() }.into(),
        MessageSetFlowMode { destination, flow_mode: Some(FlowMode::Window) }.into(),
        flow(CreditUnit::Byte, 1000).into(),
        flow(CreditUnit::Message, 3).into(),
    ];
    let last: Vec<Command<'_>> = vec![
        ExecutionSync {}.into(),
        MessageAcquire { transfers }.into(),
        MessageRelease { transfers, set_redelivered: true }.into(),
        MessageReject { transfers, code: Some(RejectCode::Unspecified), text: None }.into(),
        MessageAccept { transfers }.into(),
        MessageFlush { destination }.into(),
        MessageStop { destination }.into(),
        MessageCancel { destination }.into(),
        QueueQuery { queue }.into(),
        ExchangeQuery { name: exchange }.into(),
        QueuePurge { queue }.into(),
        ExchangeUnbind { queue, exchange, binding_key: Some(b"k") }.into(),
        DtxSelect {}.into(),
        DtxStart { xid, ..Default::default() }.into(),
        DtxEnd { xid, ..Default::default() }.into(),
        DtxSetTimeout { xid, timeout: Some(5) }.into(),
        DtxPrepare { xid }.into(),
        DtxRecover {}.into(),
        DtxCommit { xid, one_phase: false }.into(),
        QueueDelete { queue, ..Default::default() }.into(),
        ExchangeDelete { exchange, ..Default::default() }.into(),
        TxSelect {}.into(),
        TxRollback {}.into(),
        TxCommit {}.into(),
    ];
    let point = SessionCommandPoint { command_id: Some(SequenceNo(7)), command_offset: Some(0) };
    let controls: Vec<Control<'_>> = vec![
        SessionRequestTimeout { timeout: Some(10) }.into(),
        point.into(),
        SessionExpected { commands, fragments: None }.into(),
        SessionConfirmed { commands, fragments: None }.into(),
        SessionCompleted { commands, timely_reply: true }.into(),
        SessionKnownCompleted { commands }.into(),
        SessionFlush { expected: true, confirmed: true, completed: true }.into(),
        SessionGap { commands }.into(),
        SessionDetach { name: Some(b"s") }.into(),
        SessionAttach { name: Some(b"s"), force: true }.into(),
    ];
    let command = |command: &Command<'_>| {
        let mut encoded = Vec::new();
        command.encode_frames(SessionHeader { sync: true }, 1, FRAME_MAX_BYTES, &mut encoded);
        (command.name().to_owned(), encoded)
    };
    let control = |control: &Control<'_>| {
        let mut encoded = Vec::new();
        control.encode_frames(1, FRAME_MAX_BYTES, &mut encoded);
        (control.name().to_owned(), encoded)
    };
    let mut operations: Vec<_> = first.iter().map(command).collect();
    operations.extend([("transfer", 6), ("transfers", 6), ("long-transfer", 6000)].map(transfer_of));
    operations.extend(last.iter().map(command));
    operations.extend(controls.iter().map(control));
    operations
}

fn transfer_of((name, body_bytes): (&str, usize)) -> (String, Vec<u8>) {
    let mut header = Vec::new();
    let delivery = DeliveryProperties { routing_key: Some(b"q"), ttl: Some(1000), ..Default::default() };
    delivery.encode(&mut header);
    MessageProperties { user_id: Some(b"guest"), ..Default::default() }.encode(&mut header);
    let (body, mut encoded) = (vec![b'x'; body_bytes], Vec::new());
    let transfer = Transfer { header: &header, body: &body, ..Default::default() };
    for _ in 0..if name == "transfers" { 5 } else { 1 } {
        transfer::encode(&transfer, 1, FRAME_MAX_BYTES, &mut encoded);
    }
    (name.to_owned(), encoded)
}

/// Frames as records; longer ones lose their end.
fn records_of(mut encoded: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    while let Ok(Some((frame, taken))) = frame::parse(encoded, 0) {
        let Flags { first_segment, last_segment, first_frame, last_frame } = frame.flags;
        let flags = u8::from(first_segment) << 5
            | u8::from(last_segment) << 4
            | u8::from(first_frame) << 3
            | u8::from(last_frame) << 2;
        let payload = &frame.payload[..frame.payload.len().min(255)];
        records.extend_from_slice(&[frame.kind.code() | flags, frame.channel as u8, payload.len() as u8]);
        records.extend_from_slice(payload);
        encoded = &encoded[taken..];
    }
    records
}
