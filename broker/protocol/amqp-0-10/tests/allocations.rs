//! What runs per message allocates nothing: a transfer is parsed, looked into and written, and the commands that go
//! with it; a connection takes one in, a shard hands it on, another one writes it. Counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use fulmar_amqp_0_10::codec::segment::Limits;
use fulmar_amqp_0_10::codec::table::{
    AcceptMode, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, CreditUnit, DeliveryMode,
    DeliveryProperties, ExecutionSync, MessageAccept, MessageFlow, MessageProperties, MessageSubscribe,
    QueueDeclare, ReplyTo, SessionAttach, SessionCommandPoint, SessionCompleted, SessionHeader, Track,
};
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{
    Assembler, Command, ContentHeader, Control, MapRef, Piece, SequenceNo, SequenceSet, Value, frame,
    sequence, value,
};
use fulmar_amqp_0_10::properties::{self, Delivery, ENCODING};

use fulmar_amqp_0_10::connection::Connection;
use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::{Clock, Encoding, MessageView, Name, Selector, Shard, ShardConfig, ShardId};
use fulmar_protocol::{Action, Config, Connection as _, Context, LoginAnswer};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const FRAME_MAX: u16 = 4096;
const MESSAGES: usize = 100;

/// What a receiver does with the frames of a transfer: everything that a broker needs to know of it.
fn receive(assembler: &mut Assembler, mut input: &[u8]) -> usize {
    let mut seen = 0;
    while let Some((frame, taken)) = frame::parse(input, FRAME_MAX).unwrap() {
        input = &input[taken..];
        match assembler.push(&frame).unwrap() {
            Some(Piece::Segment { payload, kind, .. }) if kind.code() == 1 => {
                let (command, header) = Command::decode(payload).unwrap();
                assert!(matches!(command, Command::MessageTransfer(_)) && header.sync);
            }
            Some(Piece::Segment { payload, .. }) => {
                let header = ContentHeader::parse(payload).unwrap();
                assert_eq!(header.delivery_properties().unwrap().ttl, Some(7));
                let message = header.message_properties().unwrap();
                let headers = message.application_headers.unwrap();
                headers.validate().unwrap();
                assert_eq!(headers.get(b"colour"), Ok(Some(Value::Str16(b"red"))));
            }
            Some(Piece::Body { payload, .. }) => seen += payload.len(),
            None => {}
        }
    }
    assert!(input.is_empty() && assembler.is_idle());
    seen
}

fn content_header() -> Vec<u8> {
    let mut headers = Vec::new();
    value::encode_map([(&b"n"[..], Value::Int64(1)), (b"colour", Value::Str16(b"red"))], &mut headers);
    let mut out = Vec::new();
    let delivery = DeliveryProperties {
        delivery_mode: Some(DeliveryMode::Persistent),
        ttl: Some(7),
        routing_key: Some(b"key"),
        ..Default::default()
    };
    delivery.encode(&mut out);
    let message = MessageProperties {
        content_length: Some(10_000),
        reply_to: Some(ReplyTo { exchange: None, routing_key: Some(b"replies") }),
        application_headers: Some(MapRef::new(&headers)),
        ..Default::default()
    };
    message.encode(&mut out);
    out
}

#[test]
fn a_transfer_is_read_and_written_without_allocating() {
    let (header, body) = (content_header(), [b'x'; 10_000]);
    let transfer = Transfer {
        destination: b"amq.topic",
        sync: true,
        header: &header,
        body: &body,
        ..Default::default()
    };
    let mut out = Vec::with_capacity(64 << 10);
    let written = allocations(|| {
        for _ in 0..MESSAGES {
            out.clear();
            transfer::encode(&transfer, 1, FRAME_MAX, &mut out);
        }
    });
    assert_eq!(written, 0, "allocations in {MESSAGES} transfers written");

    let mut assembler = Assembler::new(Track::Command, Limits { segment_bytes: 4096, body_bytes: 1 << 20 });
    let read = allocations(|| {
        for _ in 0..MESSAGES {
            assert_eq!(receive(&mut assembler, &out), body.len());
        }
    });
    assert_eq!(read, 0, "allocations in {MESSAGES} transfers read");
}

#[test]
fn properties_and_what_settles_messages_are_written_without_allocating() {
    let mut ranges = Vec::new();
    sequence::encode_sequence_set([(SequenceNo(1), SequenceNo(9))], &mut ranges);
    let set = SequenceSet::new(&ranges).unwrap();
    let mut out = Vec::with_capacity(64 << 10);
    let counted = allocations(|| {
        for _ in 0..MESSAGES {
            out.clear();
            let delivery =
                DeliveryProperties { redelivered: true, exchange: Some(b"x"), ..Default::default() };
            delivery.encode(&mut out);
            out.clear();
            let header = SessionHeader::default();
            Command::from(MessageAccept { transfers: Some(set) })
                .encode_frames(header, 1, FRAME_MAX, &mut out);
            let flow = MessageFlow { destination: Some(b"d"), value: Some(10), ..Default::default() };
            Command::from(flow).encode_frames(header, 1, FRAME_MAX, &mut out);
            let completed = SessionCompleted { commands: Some(set), timely_reply: false };
            Control::from(completed).encode_frames(1, FRAME_MAX, &mut out);
            let mut input = &out[..];
            while let Some((frame, taken)) = frame::parse(input, FRAME_MAX).unwrap() {
                input = &input[taken..];
                match frame.track {
                    Track::Control => drop(Control::decode(frame.payload).unwrap()),
                    _ => drop(Command::decode(frame.payload).unwrap()),
                }
            }
        }
    });
    assert_eq!(counted, 0, "allocations in {MESSAGES} rounds");
}

#[test]
fn a_message_of_this_protocol_is_stored_looked_into_and_delivered_without_allocating() {
    let header = content_header();
    let (mut stored, mut out) = (Vec::with_capacity(4096), Vec::with_capacity(4096));
    let selector = Selector::parse(
        "colour LIKE 'r%' AND n BETWEEN 1 AND 2 AND JMSReplyTo IN ('other', 'replies') AND NOT amqp.redelivered",
    )
    .unwrap();
    let counted = allocations(|| {
        for n in 0..MESSAGES as u64 {
            let scan = properties::scan(&header).unwrap();
            stored.clear();
            properties::store(&header, &scan, b"amq.topic", Some(n), &mut stored);
            let told = scan.message_header(b"amq.topic", &stored, 0);
            assert!(told.persistent && told.has_headers);
            let message = MessageView {
                encoding: &ENCODING,
                exchange: b"amq.topic",
                routing_key: scan.routing_key(),
                properties: &stored,
                body: b"",
            };
            assert!(selector.matches(&message));
            assert_eq!(ENCODING.properties(&stored).timestamp_s, Some(n));
            out.clear();
            properties::write_header(&message, &Delivery::default(), &mut out);
            assert_eq!(out, stored);
            out.clear();
            properties::write_header(
                &message,
                &Delivery { redelivered: true, ttl_left_ms: Some(1) },
                &mut out,
            );
            assert_eq!(out.len(), stored.len());
        }
    });
    assert_eq!(counted, 0, "allocations in {MESSAGES} messages");
}

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

/// One shard, and a client that publishes and receives in one session.
struct Relay {
    shard: Shard,
    connection: Connection,
    out: Vec<u8>,
    delivered: usize,
}

impl Relay {
    fn new() -> Self {
        let limits = fulmar_core::Limits::default();
        let mesh = mesh_for(vec![Arc::new(Deaf) as Arc<dyn Wake>], &limits).remove(0);
        let vhosts = vec![Name::from("/")];
        let mut shard = Shard::new(ShardConfig { id: ShardId(0), shards: 1, limits, vhosts, seed: 1 }, mesh);
        shard.set_clock(Clock { monotonic_ns: 1, wall_ms: 1 });
        let config = Arc::new(Config {
            product: String::new(),
            version: String::new(),
            cluster_name: String::new(),
            broker_id: String::new(),
            frame_max_bytes: FRAME_MAX.into(),
            channel_max: 1,
            heartbeat_s: 0,
            handshake_timeout_ms: 10_000,
            mechanisms: vec!["ANONYMOUS".to_owned()],
            max_consumers_per_channel: 10,
            max_message_bytes: 1 << 20,
            timestamps: fulmar_protocol::Switch::default(),
            known_hosts: Vec::new(),
            whereabouts: Default::default(),
            can_move: true,
        });
        let mut out = Vec::with_capacity(1 << 20);
        let mut cx = Context { shard: &mut shard, out: &mut out, now_ns: 1 };
        let connection = Connection::new(config, &mut cx, 0, String::new());
        let mut relay = Relay { shard, connection, out, delivered: 0 };
        relay.control(0, ConnectionStartOk { mechanism: Some(b"ANONYMOUS"), ..Default::default() });
        relay.control(0, ConnectionTuneOk::default());
        relay.control(0, ConnectionOpen::default());
        relay.control(1, SessionAttach { name: Some(b"s"), force: false });
        let point = SessionCommandPoint { command_id: Some(SequenceNo(0)), command_offset: Some(0) };
        relay.control(1, point);
        relay
    }

    fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) {
        let mut bytes = Vec::new();
        control.into().encode_frames(channel, FRAME_MAX, &mut bytes);
        self.send(&bytes);
    }

    fn command<'a>(&mut self, command: impl Into<Command<'a>>) {
        let mut bytes = Vec::new();
        command.into().encode_frames(SessionHeader { sync: false }, 1, FRAME_MAX, &mut bytes);
        self.send(&bytes);
    }

    /// Input arrives; the world turns until nothing happens any more.
    fn send(&mut self, input: &[u8]) {
        let Relay { shard, connection, out, delivered } = self;
        out.clear();
        let mut cx = Context { shard, out, now_ns: 1 };
        assert_eq!(connection.receive(&mut cx, input), input.len());
        while let Some(action) = connection.next_action() {
            match action {
                Action::Authenticate(_) => connection.authenticated(&mut cx, LoginAnswer::accepted("guest")),
                other => panic!("{other:?}"),
            }
        }
        while cx.shard.turn() || cx.shard.has_work() {
            while let Some(output) = cx.shard.next_output() {
                match output {
                    fulmar_core::Output::Delivery(delivery) => {
                        *delivered += connection.deliver(&mut cx, delivery) as usize;
                    }
                    output => connection.output(&mut cx, output),
                }
            }
            cx.shard.publish_lanes();
        }
        connection.end_of_turn(&mut cx);
    }
}

#[test]
fn a_message_is_relayed_without_allocating() {
    for accept_mode in [AcceptMode::None, AcceptMode::Explicit] {
        let mut relay = Relay::new();
        let (queue, destination) = (Some(&b"q"[..]), Some(&b"d"[..]));
        relay.command(QueueDeclare { queue, ..Default::default() });
        let accept_mode = Some(accept_mode);
        relay.command(MessageSubscribe { queue, destination, accept_mode, ..Default::default() });
        for unit in [CreditUnit::Message, CreditUnit::Byte] {
            let value = Some(1_000_000);
            relay.command(MessageFlow { destination, unit: Some(unit), value });
        }
        // Many alike, and some that differ from the one before in their headers.
        let mut input = Vec::new();
        for n in 0..64u64 {
            let mut header = Vec::new();
            let ttl = (n % 8 == 7).then_some(100_000 + n);
            DeliveryProperties { routing_key: Some(b"q"), ttl, ..Default::default() }.encode(&mut header);
            let accept_mode = AcceptMode::None;
            let transfer = Transfer { accept_mode, header: &header, body: b"a body", ..Default::default() };
            transfer::encode(&transfer, 1, FRAME_MAX, &mut input);
        }
        Command::from(ExecutionSync {}).encode_frames(SessionHeader { sync: true }, 1, FRAME_MAX, &mut input);
        let round = |relay: &mut Relay, number: u32, answer: &mut Vec<u8>, ranges: &mut Vec<u8>| {
            relay.send(&input);
            let first = SequenceNo(number * 64);
            ranges.clear();
            sequence::encode_sequence_set([(first, first.plus(63))], ranges);
            let commands = Some(SequenceSet::new(ranges).unwrap());
            answer.clear();
            let accept = Command::from(MessageAccept { transfers: commands });
            accept.encode_frames(SessionHeader { sync: false }, 1, FRAME_MAX, answer);
            let completed = Control::from(SessionCompleted { commands, timely_reply: false });
            completed.encode_frames(1, FRAME_MAX, answer);
            relay.send(answer);
        };
        let (mut answer, mut ranges) = (Vec::with_capacity(4096), Vec::with_capacity(64));
        for number in 0..50 {
            round(&mut relay, number, &mut answer, &mut ranges);
        }
        let counted = allocations(|| {
            for number in 50..100 {
                round(&mut relay, number, &mut answer, &mut ranges);
            }
        });
        assert_eq!(relay.delivered, 6400);
        assert_eq!(counted, 0, "allocations in 3200 messages, {accept_mode:?}");
    }
}
