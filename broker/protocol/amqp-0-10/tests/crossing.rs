//! One shard, a client of AMQP 0-10 and one of 0-9-1: what one publishes, the other gets.

use std::sync::Arc;

use fulmar_amqp_0_9_1::codec::table::encode_table as encode_table_0_9_1;
use fulmar_amqp_0_9_1::codec::{self as of_0_9_1, FrameKind, Method, TableRef, fast};
use fulmar_amqp_0_9_1::connection::Connection as Connection091;
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{
    Command, ContentHeader, Control, MapRef, SequenceNo, Value, encode_table, frame, value,
};
use fulmar_amqp_0_10::connection::Connection as Connection010;
use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::{Clock, Limits, Name, Output, Shard, ShardConfig, ShardId, Table, Value as Core};
use fulmar_protocol::{Action, Config, Connection, Context, LoginAnswer};

const FRAME_MAX: u16 = 4096;
/// The clients, by the owner of their connection.
const NEW: usize = 0;
const OLD: usize = 1;

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

struct World {
    shard: Shard,
    connections: [Box<dyn Connection>; 2],
    out: [Vec<u8>; 2],
    now_ms: u64,
}

impl World {
    /// Both clients are connected; the new one has a session, the old one a channel, both of number 1.
    fn new() -> Self {
        let limits = Limits::default();
        let mesh = mesh_for(vec![Arc::new(Deaf) as Arc<dyn Wake>], &limits).pop().expect("one end");
        let vhosts = vec![Name::from("/")];
        let mut shard = Shard::new(ShardConfig { id: ShardId(0), shards: 1, limits, vhosts, seed: 1 }, mesh);
        let config = Arc::new(Config {
            product: String::new(),
            version: String::new(),
            cluster_name: String::new(),
            broker_id: String::new(),
            frame_max_bytes: FRAME_MAX.into(),
            channel_max: 9,
            heartbeat_s: 0,
            handshake_timeout_ms: 1000,
            mechanisms: vec!["ANONYMOUS".to_owned()],
            max_consumers_per_channel: 10,
            max_message_bytes: 1 << 20,
            timestamps: fulmar_protocol::Switch::default(),
            known_hosts: Vec::new(),
            whereabouts: Default::default(),
            can_move: true,
        });
        let mut out = [Vec::new(), Vec::new()];
        let [new, old] = &mut out;
        let mut cx = Context { shard: &mut shard, out: new, now_ns: 0 };
        let new = Connection010::new(Arc::clone(&config), &mut cx, NEW as u32, String::new());
        let mut cx = Context { shard: &mut shard, out: old, now_ns: 0 };
        let old = Connection091::new(config, &mut cx, OLD as u32, String::new());
        let mut world = World { shard, connections: [Box::new(new), Box::new(old)], out, now_ms: 1 };
        world.connect_new();
        world.connect_old();
        world.out.iter_mut().for_each(Vec::clear);
        world
    }

    fn connect_new(&mut self) {
        self.control(
            0,
            ConnectionStartOk {
                client_properties: None,
                mechanism: Some(b"ANONYMOUS"),
                response: None,
                locale: Some(b"en_US"),
            },
        );
        self.control(0, ConnectionTuneOk { max_frame_size: Some(FRAME_MAX), ..Default::default() });
        self.control(0, ConnectionOpen::default());
        self.control(1, SessionAttach { name: Some(b"session"), force: false });
        let point = SessionCommandPoint { command_id: Some(SequenceNo(0)), command_offset: Some(0) };
        self.control(1, point);
    }

    fn connect_old(&mut self) {
        self.method(
            0,
            Method::ConnectionStartOk {
                client_properties: TableRef::EMPTY,
                mechanism: b"ANONYMOUS",
                response: b"",
                locale: b"",
            },
        );
        let tune_ok = Method::ConnectionTuneOk { channel_max: 9, frame_max: FRAME_MAX.into(), heartbeat: 0 };
        self.method(0, tune_ok);
        self.method(0, Method::ConnectionOpen { virtual_host: b"/" });
        self.method(1, Method::ChannelOpen);
    }

    fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) {
        let mut bytes = Vec::new();
        control.into().encode_frames(channel, FRAME_MAX, &mut bytes);
        self.receive(NEW, &bytes);
    }

    fn command<'a>(&mut self, command: impl Into<Command<'a>>) {
        let mut bytes = Vec::new();
        command.into().encode_frames(SessionHeader { sync: true }, 1, FRAME_MAX, &mut bytes);
        self.receive(NEW, &bytes);
    }

    fn method(&mut self, channel: u16, method: Method<'_>) {
        let mut bytes = Vec::new();
        method.encode(channel, &mut bytes);
        self.receive(OLD, &bytes);
    }

    /// Declares a queue by 0-9-1.
    fn declare(&mut self, queue: &str, arguments: &[(&str, Core)]) {
        let mut table = Vec::new();
        encode_table_0_9_1(&table_of(arguments), &mut table);
        self.method(
            1,
            Method::QueueDeclare {
                queue: queue.as_bytes(),
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                no_wait: true,
                arguments: TableRef::new(&table),
            },
        );
    }

    fn publish_by_new(
        &mut self,
        delivery: DeliveryProperties<'_>,
        message: MessageProperties<'_>,
        body: &[u8],
    ) {
        let (mut header, mut bytes) = (Vec::new(), Vec::new());
        delivery.encode(&mut header);
        message.encode(&mut header);
        let transfer =
            Transfer { accept_mode: AcceptMode::None, header: &header, body, ..Default::default() };
        transfer::encode(&transfer, 1, FRAME_MAX, &mut bytes);
        self.receive(NEW, &bytes);
    }

    fn publish_by_old(&mut self, queue: &str, properties: of_0_9_1::Properties<'_>, body: &[u8]) {
        let (mut encoded, mut bytes) = (Vec::new(), Vec::new());
        properties.encode(&mut encoded);
        fast::publish(1, b"", queue.as_bytes(), false, false, &mut bytes);
        of_0_9_1::frame::encode_content(1, &encoded, body, FRAME_MAX.into(), &mut bytes);
        self.receive(OLD, &bytes);
    }

    fn consume_by_new(&mut self, queue: &str) {
        self.select_by_new(queue, &[]);
    }

    fn select_by_new(&mut self, queue: &str, arguments: &[(&str, Core)]) {
        let mut map = Vec::new();
        encode_table(&table_of(arguments), &mut map);
        let destination = Some(queue.as_bytes());
        self.command(MessageSubscribe {
            queue: destination,
            destination,
            accept_mode: Some(AcceptMode::None),
            acquire_mode: Some(AcquireMode::PreAcquired),
            arguments: Some(MapRef::new(&map)),
            ..Default::default()
        });
        for unit in [CreditUnit::Message, CreditUnit::Byte] {
            self.command(MessageFlow { destination, unit: Some(unit), value: Some(u32::MAX) });
        }
    }

    fn consume_by_old(&mut self, queue: &str) {
        self.select_by_old(queue, &[]);
    }

    fn select_by_old(&mut self, queue: &str, arguments: &[(&str, Core)]) {
        let mut table = Vec::new();
        encode_table_0_9_1(&table_of(arguments), &mut table);
        self.method(
            1,
            Method::BasicConsume {
                queue: queue.as_bytes(),
                consumer_tag: b"c",
                no_local: false,
                no_ack: true,
                exclusive: false,
                no_wait: true,
                arguments: TableRef::new(&table),
            },
        );
    }

    fn receive(&mut self, who: usize, bytes: &[u8]) {
        let mut input = bytes.to_vec();
        for _ in 0..100 {
            let mut cx = Context { shard: &mut self.shard, out: &mut self.out[who], now_ns: 0 };
            let taken = self.connections[who].receive(&mut cx, &input);
            input.drain(..taken);
            while let Some(action) = self.connections[who].next_action() {
                assert!(matches!(action, Action::Authenticate(_)), "{action:?}");
                let mut cx = Context { shard: &mut self.shard, out: &mut self.out[who], now_ns: 0 };
                self.connections[who].authenticated(&mut cx, LoginAnswer::accepted("guest"));
            }
            self.turn();
            if input.is_empty() && !self.connections[who].is_parked() {
                return;
            }
        }
        panic!("{} bytes are not taken", input.len());
    }

    /// What the shard's loop does, until nothing more happens.
    fn turn(&mut self) {
        for _ in 0..10 {
            self.shard.set_clock(Clock { monotonic_ns: self.now_ms * 1_000_000, wall_ms: self.now_ms });
            self.shard.turn();
            while let Some(output) = self.shard.next_output() {
                let who = match &output {
                    Output::Delivery(delivery) => delivery.owner,
                    Output::Reply { owner, .. } => *owner,
                    other => panic!("{other:?}"),
                } as usize;
                let mut cx = Context { shard: &mut self.shard, out: &mut self.out[who], now_ns: 0 };
                self.connections[who].output(&mut cx, output);
            }
            for (connection, out) in self.connections.iter_mut().zip(&mut self.out) {
                connection.end_of_turn(&mut Context { shard: &mut self.shard, out, now_ns: 0 });
            }
            self.shard.publish_lanes();
        }
    }

    /// Header and body of the only message that the new client has got.
    fn got_by_new(&mut self) -> (Vec<u8>, Vec<u8>) {
        let out = std::mem::take(&mut self.out[NEW]);
        let (mut rest, mut header, mut body) = (&out[..], None, Vec::new());
        while let Some((frame, taken)) = frame::parse(rest, FRAME_MAX).unwrap() {
            rest = &rest[taken..];
            match frame.kind {
                SegmentType::Header => {
                    assert_eq!(header.replace(frame.payload.to_vec()), None, "another message")
                }
                SegmentType::Body => body.extend_from_slice(frame.payload),
                _ => {}
            }
        }
        (header.expect("no message"), body)
    }

    /// Method, properties and body of the only message that the old client has got.
    fn got_by_old(&mut self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let out = std::mem::take(&mut self.out[OLD]);
        let (mut rest, mut header, mut method, mut body) = (&out[..], None, Vec::new(), Vec::new());
        while let Some((frame, taken)) = of_0_9_1::frame::parse(rest, FRAME_MAX.into()).unwrap() {
            rest = &rest[taken..];
            match frame.kind {
                FrameKind::Method if header.is_none() => method = frame.payload.to_vec(),
                FrameKind::Header => {
                    let properties =
                        of_0_9_1::ContentHeader::parse(frame.payload).unwrap().properties.to_vec();
                    assert_eq!(header.replace(properties), None, "another message");
                }
                FrameKind::Body => body.extend_from_slice(frame.payload),
                _ => {}
            }
        }
        (method, header.expect("no message"), body)
    }
}

fn table_of(entries: &[(&str, Core)]) -> Table {
    Table(entries.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect())
}

fn to(queue: &str) -> DeliveryProperties<'_> {
    DeliveryProperties { routing_key: Some(queue.as_bytes()), ..Default::default() }
}

#[test]
fn what_0_10_publishes_0_9_1_gets() {
    let mut headers = Vec::new();
    value::encode_map([(&b"n"[..], Value::Uint16(7))], &mut headers);
    let message = MessageProperties {
        reply_to: Some(ReplyTo { exchange: Some(b"amq.direct"), routing_key: Some(b"k") }),
        message_id: Some([0xAB; 16]),
        application_headers: Some(MapRef::new(&headers)),
        ..Default::default()
    };
    let check = |properties: &[u8]| {
        let properties = of_0_9_1::Properties::decode(properties).unwrap();
        assert_eq!(properties.reply_to, Some(&b"/exchanges/amq.direct/k"[..]));
        assert_eq!(properties.message_id, Some(&b"abababab-abab-abab-abab-abababababab"[..]));
        assert_eq!(properties.headers.unwrap().to_table(), Ok(table_of(&[("n", Core::U16(7))])));
    };
    let mut world = World::new();
    world.declare("q", &[]);
    world.publish_by_new(to("q"), message, b"fetched");
    world.method(1, Method::BasicGet { queue: b"q", no_ack: true });
    let (_, properties, body) = world.got_by_old();
    check(&properties);
    assert_eq!(body, b"fetched");

    world.consume_by_old("q");
    world.publish_by_new(to("q"), message, &[b'x'; 10_000]);
    let (method, properties, body) = world.got_by_old();
    let deliver = Method::decode(&method).unwrap();
    assert!(matches!(deliver, Method::BasicDeliver { exchange: b"", routing_key: b"q", .. }), "{deliver:?}");
    check(&properties);
    assert_eq!(body, [b'x'; 10_000]);
}

#[test]
fn what_0_9_1_publishes_0_10_gets() {
    let mut headers = Vec::new();
    encode_table_0_9_1(&table_of(&[("n", Core::U16(7))]), &mut headers);
    let properties = of_0_9_1::Properties {
        headers: Some(TableRef::new(&headers)),
        reply_to: Some(b"replies"),
        type_: Some(b"greeting"),
        expiration: Some(b"60000"),
        ..Default::default()
    };
    let mut world = World::new();
    world.declare("q", &[]);
    world.publish_by_old("q", properties, &[b'x'; 10_000]);
    world.now_ms += 20_000;
    world.consume_by_new("q");
    let (header, body) = world.got_by_new();
    let header = ContentHeader::parse(&header).unwrap();
    let delivery = header.delivery_properties().unwrap();
    assert_eq!((delivery.exchange, delivery.routing_key), (Some(&b""[..]), Some(&b"q"[..])));
    assert_eq!(delivery.ttl, Some(40_000), "what is left");
    let message = header.message_properties().unwrap();
    assert_eq!(message.reply_to, Some(ReplyTo { exchange: None, routing_key: Some(b"replies") }));
    let expected = [("n", Core::U16(7)), ("x-jms-type", Core::Text("greeting".into()))];
    assert_eq!(message.application_headers.unwrap().to_table(), Ok(table_of(&expected)));
    assert_eq!(body, [b'x'; 10_000]);
}

#[test]
fn a_dead_letter_tells_its_story_to_both() {
    let mut headers = Vec::new();
    encode_table(&table_of(&[("n", Core::U16(7))]), &mut headers);
    let message =
        MessageProperties { application_headers: Some(MapRef::new(&headers)), ..Default::default() };
    let mut world = World::new();
    world.declare("dead", &[]);
    world.declare(
        "q",
        &[
            ("x-dead-letter-exchange", Core::Text("".into())),
            ("x-dead-letter-routing-key", Core::Text("dead".into())),
        ],
    );
    for consume in [World::consume_by_old, World::consume_by_new] {
        let delivery = DeliveryProperties { ttl: Some(1), expiration: Some(9), ..to("q") };
        world.publish_by_new(delivery, message, b"b");
        world.now_ms += 10_000;
        world.turn();
        world.out.iter_mut().for_each(Vec::clear);
        consume(&mut world, "dead");
        if world.out[OLD].is_empty() {
            let (header, _) = world.got_by_new();
            let header = ContentHeader::parse(&header).unwrap();
            let delivery = header.delivery_properties().unwrap();
            assert_eq!((delivery.ttl, delivery.expiration), (None, None));
            assert_eq!(delivery.routing_key, Some(&b"dead"[..]));
            let headers = header.message_properties().unwrap().application_headers.unwrap();
            check_story(&headers.to_table().unwrap());
        } else {
            let (_, properties, _) = world.got_by_old();
            let properties = of_0_9_1::Properties::decode(&properties).unwrap();
            assert_eq!(properties.expiration, None);
            check_story(&properties.headers.unwrap().to_table().unwrap());
            world.method(1, Method::BasicCancel { consumer_tag: b"c", no_wait: true });
        }
    }
}

fn check_story(headers: &Table) {
    assert_eq!(headers.get(b"n"), Some(&Core::U16(7)));
    assert_eq!(headers.get(b"x-first-death-reason"), Some(&Core::Text("expired".into())));
    let Some(Core::Array(deaths)) = headers.get(b"x-death") else { panic!("{headers}") };
    let Core::Table(death) = &deaths[0] else { panic!("{headers}") };
    assert_eq!(death.get(b"queue"), Some(&Core::Text("q".into())));
    assert_eq!(death.get(b"original-expiration"), Some(&Core::Text("1".into())));
}

#[test]
fn further_routing_keys_are_those_of_0_9_1_alone() {
    let copies = table_of(&[("CC", Core::Array(vec![Core::Text("copy".into())]))]);
    let (mut map, mut table) = (Vec::new(), Vec::new());
    encode_table(&copies, &mut map);
    encode_table_0_9_1(&copies, &mut table);
    let mut world = World::new();
    world.declare("q", &[]);
    world.declare("copy", &[]);
    let message = MessageProperties { application_headers: Some(MapRef::new(&map)), ..Default::default() };
    world.publish_by_new(to("q"), message, b"of 0-10");
    let properties = of_0_9_1::Properties { headers: Some(TableRef::new(&table)), ..Default::default() };
    world.publish_by_old("q", properties, b"of 0-9-1");
    world.consume_by_new("copy");
    assert_eq!(world.got_by_new().1, b"of 0-9-1");
}

#[test]
fn subscriptions_select_what_either_protocol_publishes() {
    let selector = |text: &str| [("x-apache-selector", Core::Text(text.into()))];
    let mut headers = Vec::new();
    encode_table(&table_of(&[("n", Core::U16(7))]), &mut headers);
    let numbered =
        MessageProperties { application_headers: Some(MapRef::new(&headers)), ..Default::default() };
    let typed = of_0_9_1::Properties { type_: Some(b"greeting"), ..Default::default() };
    let mut world = World::new();
    world.declare("q", &[]);
    world.publish_by_old("q", typed, b"typed");
    world.publish_by_new(to("q"), MessageProperties::default(), b"neither");
    world.publish_by_new(to("q"), numbered, b"numbered");
    world.select_by_old("q", &selector("n > 6.5"));
    assert_eq!(world.got_by_old().2, b"numbered");
    world.select_by_new("q", &selector("JMSType LIKE 'greet%'"));
    assert_eq!(world.got_by_new().1, b"typed");
    world.publish_by_old("q", typed, b"typed, later");
    assert_eq!(world.got_by_new().1, b"typed, later");
    assert!(world.out.iter().all(Vec::is_empty), "{:?}", world.out);

    let mut world = World::new();
    world.declare("q", &[]);
    world.out.iter_mut().for_each(Vec::clear);
    world.select_by_old("q", &selector("n >"));
    let reply = of_0_9_1::frame::parse(&world.out[OLD], FRAME_MAX.into()).unwrap().unwrap().0;
    let Ok(Method::ChannelClose { reply_code: 406, reply_text, .. }) = Method::decode(reply.payload) else {
        panic!("{:?}", Method::decode(reply.payload));
    };
    let reply_text = String::from_utf8_lossy(reply_text);
    assert!(reply_text.contains("at character 4"), "{reply_text}");
}
