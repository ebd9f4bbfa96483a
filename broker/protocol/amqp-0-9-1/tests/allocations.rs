//! What runs per message allocates nothing: publish, confirm, deliver and acknowledge, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use fulmar_amqp_0_9_1::codec::properties::ENCODING;
use fulmar_amqp_0_9_1::codec::table::encode_table;
use fulmar_amqp_0_9_1::codec::{Method, Properties, TableRef, fast, frame};
use fulmar_amqp_0_9_1::connection::Connection;
use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::{Clock, Limits, MessageView, Name, Selector, Shard, ShardConfig, ShardId, Table, Value};
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

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

/// One shard, a publisher and a consumer.
struct Relay {
    shard: Shard,
    connections: [Connection; 2],
    out: Vec<u8>,
    now_ns: u64,
}

const PUBLISHER: usize = 0;
const CONSUMER: usize = 1;

impl Relay {
    fn new() -> Self {
        let limits = Limits::default();
        let mesh = mesh_for(vec![Arc::new(Deaf) as Arc<dyn Wake>], &limits).pop().expect("one end");
        let config =
            ShardConfig { id: ShardId(0), shards: 1, limits, vhosts: vec![Name::from("/")], seed: 1 };
        let mut shard = Shard::new(config, mesh);
        let config = Arc::new(Config {
            product: String::new(),
            version: String::new(),
            cluster_name: String::new(),
            broker_id: String::new(),
            frame_max_bytes: 131_072,
            channel_max: 2047,
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
        let mut out = Vec::new();
        let connections = [0, 1].map(|owner| {
            let mut cx = Context { shard: &mut shard, out: &mut out, now_ns: 0 };
            Connection::new(Arc::clone(&config), &mut cx, owner, String::new())
        });
        let mut relay = Relay { shard, connections, out, now_ns: 0 };
        for who in [PUBLISHER, CONSUMER] {
            let empty = TableRef::EMPTY;
            relay.send(
                who,
                0,
                Method::ConnectionStartOk {
                    client_properties: empty,
                    mechanism: b"ANONYMOUS",
                    response: b"",
                    locale: b"",
                },
            );
            while let Some(action) = relay.connections[who].next_action() {
                assert!(matches!(action, Action::Authenticate(_)), "{action:?}");
                let mut cx = Context { shard: &mut relay.shard, out: &mut relay.out, now_ns: 0 };
                relay.connections[who].authenticated(&mut cx, LoginAnswer::accepted("guest"));
            }
            relay.send(who, 0, Method::ConnectionTuneOk { channel_max: 9, frame_max: 4096, heartbeat: 0 });
            relay.send(who, 0, Method::ConnectionOpen { virtual_host: b"/" });
            relay.send(who, 1, Method::ChannelOpen);
            let declare = Method::QueueDeclare {
                queue: b"q",
                passive: false,
                durable: false,
                exclusive: false,
                auto_delete: false,
                no_wait: true,
                arguments: empty,
            };
            relay.send(who, 1, declare);
        }
        relay
    }

    fn send(&mut self, who: usize, channel: u16, method: Method<'_>) {
        let mut bytes = Vec::new();
        method.encode(channel, &mut bytes);
        self.receive(who, &bytes);
        self.turn();
        self.out.clear();
    }

    fn receive(&mut self, who: usize, bytes: &[u8]) {
        let mut cx = Context { shard: &mut self.shard, out: &mut self.out, now_ns: self.now_ns };
        assert_eq!(self.connections[who].receive(&mut cx, bytes), bytes.len());
    }

    /// What the shard's loop does.
    fn turn(&mut self) {
        self.now_ns += 1000;
        self.shard.set_clock(Clock { monotonic_ns: self.now_ns, wall_ms: self.now_ns / 1_000_000 });
        self.shard.turn();
        while let Some(output) = self.shard.next_output() {
            let owner = match &output {
                fulmar_core::Output::Delivery(delivery) => delivery.owner,
                _ => PUBLISHER as u32,
            };
            let mut cx = Context { shard: &mut self.shard, out: &mut self.out, now_ns: self.now_ns };
            self.connections[owner as usize].output(&mut cx, output);
        }
        for connection in &mut self.connections {
            let mut cx = Context { shard: &mut self.shard, out: &mut self.out, now_ns: self.now_ns };
            connection.end_of_turn(&mut cx);
        }
        self.shard.publish_lanes();
    }

    fn consume(&mut self, no_ack: bool) {
        let consume = Method::BasicConsume {
            queue: b"q",
            consumer_tag: b"c",
            no_local: false,
            no_ack,
            exclusive: false,
            no_wait: true,
            arguments: TableRef::EMPTY,
        };
        self.send(CONSUMER, 1, consume);
    }

    /// Passes `count` messages in batches, as one receive each.
    fn pass(&mut self, count: u64, batch: u64, body: &[u8], acknowledge: bool) {
        let mut publish = Vec::new();
        let mut ack = Vec::new();
        let mut properties = Vec::new();
        Properties { delivery_mode: Some(1), message_id: Some(b"id"), ..Properties::default() }
            .encode(&mut properties);
        for _ in 0..batch {
            fast::publish(1, b"", b"q", false, false, &mut publish);
            frame::encode_content(1, &properties, body, 4096, &mut publish);
        }
        let before = self.connections[CONSUMER].counters().delivered;
        for round in 0..count / batch {
            self.receive(PUBLISHER, &publish);
            self.turn();
            if acknowledge {
                ack.clear();
                for number in 0..batch {
                    fast::ack(1, before + round * batch + number + 1, false, &mut ack);
                }
                self.receive(CONSUMER, &ack);
            }
            self.out.clear();
        }
        assert_eq!(self.connections[CONSUMER].counters().delivered, before + count);
    }
}

/// Allocations while `count` messages pass, once everything has the size that it needs.
fn allocations(relay: &mut Relay, batch: u64, body: &[u8], acknowledge: bool) -> usize {
    relay.pass(10_000, batch, body, acknowledge);
    let before = ALLOCATIONS.with(Cell::get);
    relay.pass(10_000, batch, body, acknowledge);
    // Those that the test itself makes, before the first message.
    ALLOCATIONS.with(Cell::get) - before
}

/// Growth of the buffers in which the test prepares its input.
const OWN: usize = 64;

#[test]
fn automatic_acknowledgement() {
    let mut relay = Relay::new();
    relay.consume(true);
    for (batch, bytes) in [(1, 64), (100, 64), (50, 1024), (1, 10_000)] {
        let count = allocations(&mut relay, batch, &vec![7; bytes], false);
        assert!(count < OWN, "{count} allocations for 10,000 messages of {bytes} bytes");
    }
}

#[test]
fn confirms_and_acknowledgements() {
    let mut relay = Relay::new();
    relay.consume(false);
    relay.send(PUBLISHER, 1, Method::ConfirmSelect { no_wait: true });
    for (batch, bytes) in [(1, 64), (100, 64), (50, 1024)] {
        let count = allocations(&mut relay, batch, &vec![7; bytes], true);
        assert!(count < OWN, "{count} allocations for 10,000 messages of {bytes} bytes");
    }
}

#[test]
fn selectors_look_into_properties() {
    let mut headers = Vec::new();
    let table = [("colour", Value::Text("red".into())), ("n", Value::I32(1))];
    let table = Table(table.map(|(name, value)| (Name::from(name), value)).into());
    encode_table(&table, &mut headers);
    let mut properties = Vec::new();
    Properties {
        headers: Some(TableRef::new(&headers)),
        message_id: Some(b"id"),
        reply_to: Some(b"replies"),
        ..Properties::default()
    }
    .encode(&mut properties);
    let selector = Selector::parse(
        "colour LIKE 'r%' AND n BETWEEN 1 AND 2 AND JMSReplyTo IN ('other', 'replies') AND JMSMessageID = 'id'",
    )
    .expect("a selector");
    let message = MessageView {
        encoding: &ENCODING,
        exchange: b"",
        routing_key: b"q",
        properties: &properties,
        body: b"",
    };
    let before = ALLOCATIONS.with(Cell::get);
    let selected = (0..100).filter(|_| selector.matches(&message)).count();
    assert_eq!((selected, ALLOCATIONS.with(Cell::get) - before), (100, 0), "selected, allocations");
}
