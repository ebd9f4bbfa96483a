//! Shards stepped in one thread, and clients that speak in frames.

use std::collections::VecDeque;
use std::sync::Arc;

use fulmar_amqp_0_9_1::codec::table::encode_table;
use fulmar_amqp_0_9_1::codec::{
    ContentHeader, FrameKind, Method, Properties, TableRef, fast, frame, frame::Frame,
};
use fulmar_amqp_0_9_1::connection::Connection;
use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::{Clock, Limits, Name, Output, Shard, ShardConfig, ShardId, Table, Value};
use fulmar_protocol::testing::answer_to;
use fulmar_protocol::{Action, Config, Connection as _, Context, Login};

/// Where things live, and how input arrives.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub shards: u8,
    /// Shard of the connections.
    pub here: u8,
    /// Shard of the queues.
    pub home: u8,
    /// Input comes byte by byte.
    pub shredded: bool,
}

/// Runs a scenario in every setup.
pub fn each(scenario: impl Fn(&mut World)) {
    for (shards, here, home) in [(1, 0, 0), (2, 0, 1), (2, 1, 0)] {
        for shredded in [false, true] {
            let mut world = World::new(Setup { shards, here, home, shredded });
            scenario(&mut world);
            world.end();
        }
    }
}

/// A client, by its place in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client(usize);

/// A method that a client received, with its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    pub channel: u16,
    payload: Vec<u8>,
    properties: Vec<u8>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn method(&self) -> Method<'_> {
        Method::decode(&self.payload).expect("the broker wrote a method that cannot be decoded")
    }

    pub fn properties(&self) -> Properties<'_> {
        Properties::decode(&self.properties).expect("the broker wrote properties that cannot be decoded")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {:?} {:?}", self.channel, self.method(), self.text())
    }
}

struct Slot {
    shard: usize,
    connection: Option<Connection>,
    /// Sent by the client, not taken yet.
    input: VecDeque<u8>,
    /// Bytes that the connection has been given and has not taken.
    carry: Vec<u8>,
    output: Vec<u8>,
    /// Methods parsed from the output; content still missing for the last one.
    received: VecDeque<Received>,
    missing: Option<(bool, usize)>,
    heartbeats: usize,
    logins: Vec<Login>,
    closed: Option<(String, bool)>,
}

struct Deaf;

impl Wake for Deaf {
    fn wake(&self) {}
}

pub struct World {
    pub setup: Setup,
    pub config: Config,
    pub shards: Vec<Shard>,
    pub now_ns: u64,
    slots: Vec<Slot>,
    /// Whether logins are answered by the world.
    pub answer_logins: bool,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        Self::with_limits(setup, Limits::default())
    }

    pub fn with_limits(setup: Setup, limits: Limits) -> Self {
        let wakers = (0..setup.shards).map(|_| Arc::new(Deaf) as Arc<dyn Wake>).collect();
        let shards = mesh_for(wakers, &limits)
            .into_iter()
            .enumerate()
            .map(|(index, mesh)| {
                let config = ShardConfig {
                    id: ShardId(index as u8),
                    shards: setup.shards,
                    limits: limits.clone(),
                    vhosts: vec![Name::from("/"), Name::from("other")],
                    seed: 7 + index as u64,
                };
                Shard::new(config, mesh)
            })
            .collect();
        let config = Config {
            product: "Fulmar".to_owned(),
            version: "0.1.0".to_owned(),
            cluster_name: "test".to_owned(),
            broker_id: String::new(),
            frame_max_bytes: 131_072,
            channel_max: 2047,
            heartbeat_s: 60,
            handshake_timeout_ms: 10_000,
            mechanisms: vec!["PLAIN".to_owned(), "AMQPLAIN".to_owned()],
            max_consumers_per_channel: 100,
            max_message_bytes: 1 << 20,
            timestamps: fulmar_protocol::Switch::default(),
            known_hosts: Vec::new(),
            whereabouts: Default::default(),
            can_move: true,
        };
        World { setup, config, shards, now_ns: 1, slots: Vec::new(), answer_logins: true }
    }

    /// A socket and the protocol header; `connection.start` is received.
    pub fn dial(&mut self) -> Client {
        let owner = self.slots.len() as u32;
        let shard = usize::from(self.setup.here);
        let mut output = Vec::new();
        let mut cx = Context { shard: &mut self.shards[shard], out: &mut output, now_ns: self.now_ns };
        let name = "127.0.0.1:1 -> 127.0.0.1:5672".to_owned();
        let connection = Connection::new(Arc::new(self.config.clone()), &mut cx, owner, name);
        self.slots.push(Slot {
            shard,
            connection: Some(connection),
            input: VecDeque::new(),
            carry: Vec::new(),
            output,
            received: VecDeque::new(),
            missing: None,
            heartbeats: 0,
            logins: Vec::new(),
            closed: None,
        });
        self.run();
        Client(owner as usize)
    }

    /// A connection that is open, of a client with all capabilities.
    pub fn connect(&mut self) -> Client {
        self.connect_with(&["authentication_failure_close", "consumer_cancel_notify", "connection.blocked"])
    }

    pub fn connect_with(&mut self, capabilities: &[&str]) -> Client {
        let client = self.dial();
        assert!(matches!(self.receive(client).method(), Method::ConnectionStart { .. }));
        self.start_ok(client, "PLAIN", b"\0guest\0guest", capabilities);
        let tune = self.receive(client);
        let Method::ConnectionTune { channel_max, frame_max, heartbeat } = tune.method() else {
            panic!("no tune but {tune:?}")
        };
        self.send(client, 0, Method::ConnectionTuneOk { channel_max, frame_max, heartbeat });
        self.send(client, 0, Method::ConnectionOpen { virtual_host: b"/" });
        self.expect(client, 0, Method::ConnectionOpenOk);
        client
    }

    pub fn start_ok(&mut self, client: Client, mechanism: &str, response: &[u8], capabilities: &[&str]) {
        let capabilities =
            Table(capabilities.iter().map(|name| (Name::from(*name), Value::Bool(true))).collect());
        let properties = encoded(&Table(vec![(Name::from("capabilities"), Value::Table(capabilities))]));
        self.send(
            client,
            0,
            Method::ConnectionStartOk {
                client_properties: TableRef::new(&properties),
                mechanism: mechanism.as_bytes(),
                response,
                locale: b"en_US",
            },
        );
    }

    /// A connection with channel 1 open.
    pub fn client(&mut self) -> Client {
        let client = self.connect();
        self.open(client, 1);
        client
    }

    pub fn open(&mut self, client: Client, channel: u16) {
        self.send(client, channel, Method::ChannelOpen);
        self.expect(client, channel, Method::ChannelOpenOk);
    }

    /// Sends a method and lets the world run.
    pub fn send(&mut self, client: Client, channel: u16, method: Method<'_>) {
        let mut bytes = Vec::new();
        method.encode(channel, &mut bytes);
        self.send_bytes(client, &bytes);
    }

    pub fn send_bytes(&mut self, client: Client, bytes: &[u8]) {
        self.slots[client.0].input.extend(bytes);
        self.run();
    }

    pub fn publish(&mut self, client: Client, channel: u16, exchange: &str, key: &str, body: &str) {
        self.publish_with(client, channel, exchange, key, Properties::default(), body);
    }

    pub fn publish_with(
        &mut self,
        client: Client,
        channel: u16,
        exchange: &str,
        key: &str,
        properties: Properties<'_>,
        body: &str,
    ) {
        let bytes = publication(channel, exchange, key, false, properties, body.as_bytes());
        self.send_bytes(client, &bytes);
    }

    pub fn publish_mandatory(&mut self, client: Client, channel: u16, exchange: &str, key: &str, body: &str) {
        let bytes = publication(channel, exchange, key, true, Properties::default(), body.as_bytes());
        self.send_bytes(client, &bytes);
    }

    /// Declares a queue on the setup's home.
    pub fn declare(&mut self, client: Client, channel: u16, queue: &str, arguments: &[(&str, Value)]) {
        self.send_declare(client, channel, queue, Flags::default(), arguments);
        let answer = self.receive(client);
        assert!(matches!(answer.method(), Method::QueueDeclareOk { .. }), "{answer:?}");
    }

    pub fn send_declare(
        &mut self,
        client: Client,
        channel: u16,
        queue: &str,
        flags: Flags,
        arguments: &[(&str, Value)],
    ) {
        let mut table = table(arguments);
        table.set(b"x-fulmar-shard", Value::I32(self.setup.home.into()));
        let arguments = encoded(&table);
        self.send(
            client,
            channel,
            Method::QueueDeclare {
                queue: queue.as_bytes(),
                passive: flags.passive,
                durable: flags.durable,
                exclusive: flags.exclusive,
                auto_delete: flags.auto_delete,
                no_wait: flags.no_wait,
                arguments: TableRef::new(&arguments),
            },
        );
    }

    /// Messages ready and consumers, asked for passively.
    pub fn counts(&mut self, client: Client, channel: u16, queue: &str) -> (u32, u32) {
        self.send_declare(client, channel, queue, Flags { passive: true, ..Flags::default() }, &[]);
        let answer = self.receive(client);
        match answer.method() {
            Method::QueueDeclareOk { message_count, consumer_count, .. } => (message_count, consumer_count),
            _ => panic!("no counts but {answer:?}"),
        }
    }

    pub fn declare_exchange(
        &mut self,
        client: Client,
        exchange: &str,
        kind: &str,
        arguments: &[(&str, Value)],
    ) {
        let arguments = encoded(&table(arguments));
        self.send(
            client,
            1,
            Method::ExchangeDeclare {
                exchange: exchange.as_bytes(),
                type_: kind.as_bytes(),
                passive: false,
                durable: false,
                auto_delete: false,
                internal: false,
                no_wait: false,
                arguments: TableRef::new(&arguments),
            },
        );
    }

    pub fn bind(&mut self, client: Client, queue: &str, exchange: &str, key: &str) {
        self.send(
            client,
            1,
            Method::QueueBind {
                queue: queue.as_bytes(),
                exchange: exchange.as_bytes(),
                routing_key: key.as_bytes(),
                no_wait: false,
                arguments: TableRef::EMPTY,
            },
        );
        self.expect(client, 1, Method::QueueBindOk);
    }

    pub fn consume(&mut self, client: Client, channel: u16, queue: &str, tag: &str, no_ack: bool) {
        self.send_consume(client, channel, queue, tag, no_ack, false, &[]);
        self.expect(client, channel, Method::BasicConsumeOk { consumer_tag: tag.as_bytes() });
    }

    #[allow(clippy::too_many_arguments)]
    pub fn send_consume(
        &mut self,
        client: Client,
        channel: u16,
        queue: &str,
        tag: &str,
        no_ack: bool,
        exclusive: bool,
        arguments: &[(&str, Value)],
    ) {
        let arguments = encoded(&table(arguments));
        self.send(
            client,
            channel,
            Method::BasicConsume {
                queue: queue.as_bytes(),
                consumer_tag: tag.as_bytes(),
                no_local: false,
                no_ack,
                exclusive,
                no_wait: false,
                arguments: TableRef::new(&arguments),
            },
        );
    }

    pub fn get(&mut self, client: Client, channel: u16, queue: &str, no_ack: bool) -> Received {
        self.send(client, channel, Method::BasicGet { queue: queue.as_bytes(), no_ack });
        self.receive(client)
    }

    pub fn ack(&mut self, client: Client, channel: u16, delivery_tag: u64, multiple: bool) {
        self.send(client, channel, Method::BasicAck { delivery_tag, multiple });
    }

    /// The next method that the client was sent.
    pub fn receive(&mut self, client: Client) -> Received {
        match self.slots[client.0].received.pop_front() {
            Some(received) => received,
            None => panic!("{:?}: nothing received; closed: {:?}", self.setup, self.slots[client.0].closed),
        }
    }

    /// The next method that the client was sent, if there is one.
    pub fn next(&mut self, client: Client) -> Option<Received> {
        self.slots[client.0].received.pop_front()
    }

    /// Whether the client's socket stands.
    pub fn is_there(&self, client: Client) -> bool {
        self.slots[client.0].connection.is_some()
    }

    /// The next method has to be this one.
    pub fn expect(&mut self, client: Client, channel: u16, method: Method<'_>) {
        let received = self.receive(client);
        assert_eq!((received.channel, received.method()), (channel, method), "{:?}", self.setup);
    }

    /// The next method is a delivery; its delivery tag, redelivered, body.
    pub fn delivery(&mut self, client: Client) -> (u64, bool, String) {
        let received = self.receive(client);
        match received.method() {
            Method::BasicDeliver { delivery_tag, redelivered, .. } => {
                (delivery_tag, redelivered, received.text())
            }
            _ => panic!("{:?}: no delivery but {received:?}", self.setup),
        }
    }

    /// Nothing was sent to the client.
    pub fn expect_nothing(&mut self, client: Client) {
        let received = &self.slots[client.0].received;
        assert!(received.is_empty(), "{:?}: {received:?}", self.setup);
    }

    /// The channel is closed by the broker with this code and text; the client answers.
    pub fn expect_channel_error(&mut self, client: Client, channel: u16, code: u16, text: &str) {
        let received = self.receive(client);
        let Method::ChannelClose { reply_code, reply_text, .. } = received.method() else {
            panic!("{:?}: no channel.close but {received:?}", self.setup)
        };
        let reply_text = String::from_utf8_lossy(reply_text);
        assert_eq!((received.channel, reply_code, &*reply_text), (channel, code, text), "{:?}", self.setup);
        self.send(client, channel, Method::ChannelCloseOk);
    }

    /// As [`World::expect_channel_error`], and the channel is opened again.
    pub fn expect_refusal(&mut self, client: Client, code: u16, text: &str) {
        self.expect_channel_error(client, 1, code, text);
        self.open(client, 1);
    }

    /// The connection is closed by the broker with this code and text; the client answers.
    pub fn expect_connection_error(&mut self, client: Client, code: u16, text: &str) {
        let received = self.receive(client);
        let Method::ConnectionClose { reply_code, reply_text, .. } = received.method() else {
            panic!("{:?}: no connection.close but {received:?}", self.setup)
        };
        let reply_text = String::from_utf8_lossy(reply_text);
        assert_eq!((received.channel, reply_code, &*reply_text), (0, code, text), "{:?}", self.setup);
        self.send(client, 0, Method::ConnectionCloseOk);
        let (reason, error) = self.closed(client).expect("the socket is not closed");
        assert!(error, "{reason}");
        assert!(reason.contains(text), "{reason}");
    }

    /// Why the broker closed the socket.
    pub fn closed(&self, client: Client) -> Option<(String, bool)> {
        self.slots[client.0].closed.clone()
    }

    pub fn heartbeats(&self, client: Client) -> usize {
        self.slots[client.0].heartbeats
    }

    pub fn logins(&self, client: Client) -> &[Login] {
        &self.slots[client.0].logins
    }

    pub fn connection(&mut self, client: Client) -> &mut Connection {
        self.slots[client.0].connection.as_mut().expect("the socket is gone")
    }

    /// Calls the connection as its caller does.
    pub fn with<R>(
        &mut self,
        client: Client,
        call: impl FnOnce(&mut Connection, &mut Context<'_>) -> R,
    ) -> R {
        let slot = &mut self.slots[client.0];
        let mut cx =
            Context { shard: &mut self.shards[slot.shard], out: &mut slot.output, now_ns: self.now_ns };
        let result = call(slot.connection.as_mut().expect("the socket is gone"), &mut cx);
        self.run();
        result
    }

    /// The client's socket breaks.
    pub fn drop_client(&mut self, client: Client) {
        let slot = &mut self.slots[client.0];
        if let Some(mut connection) = slot.connection.take() {
            connection.closed(&mut self.shards[slot.shard]);
        }
        self.run();
    }

    /// Time passes.
    pub fn advance_ms(&mut self, ms: u64) {
        self.now_ns += ms * 1_000_000;
        for index in 0..self.slots.len() {
            if self.slots[index].connection.is_some() {
                self.with(Client(index), |connection, cx| connection.tick(cx));
            }
        }
        self.run();
    }

    /// Turns of all shards until nothing happens any more.
    pub fn run(&mut self) {
        let mut quiet = 0;
        for _ in 0..100_000 {
            if !self.turn() {
                quiet += 1;
            } else {
                quiet = 0;
            }
            if quiet > 2 * self.shards.len() {
                return;
            }
        }
        panic!("{:?}: the world does not come to rest", self.setup);
    }

    fn turn(&mut self) -> bool {
        let mut busy = false;
        for shard in 0..self.shards.len() {
            let clock = Clock { monotonic_ns: self.now_ns, wall_ms: self.now_ns / 1_000_000 };
            self.shards[shard].set_clock(clock);
            for index in 0..self.slots.len() {
                if self.slots[index].shard == shard {
                    busy |= self.feed(index);
                }
            }
            busy |= self.shards[shard].turn();
            while let Some(output) = self.shards[shard].next_output() {
                busy = true;
                self.hand_out(shard, output);
            }
            for index in 0..self.slots.len() {
                if self.slots[index].shard == shard {
                    busy |= self.finish(index);
                }
            }
            self.shards[shard].publish_lanes();
        }
        busy
    }

    fn feed(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        let Some(connection) = &mut slot.connection else { return false };
        let mut busy = false;
        let mut cx =
            Context { shard: &mut self.shards[slot.shard], out: &mut slot.output, now_ns: self.now_ns };
        while !slot.input.is_empty() && !connection.is_parked() {
            busy = true;
            let bytes = if self.setup.shredded { 1 } else { slot.input.len() };
            slot.carry.extend(slot.input.drain(..bytes));
            let taken = connection.receive(&mut cx, &slot.carry);
            slot.carry.drain(..taken);
        }
        if !slot.carry.is_empty() && !connection.is_parked() {
            let taken = connection.receive(&mut cx, &slot.carry);
            slot.carry.drain(..taken);
            busy |= taken > 0;
        }
        busy
    }

    fn hand_out(&mut self, shard: usize, output: Output) {
        let owner = match &output {
            Output::Delivery(delivery) => delivery.owner,
            Output::Reply { owner, .. }
            | Output::Confirmed { owner, .. }
            | Output::ConsumerCancelled { owner, .. } => *owner,
        };
        let slot = &mut self.slots[owner as usize];
        let connection = slot.connection.as_mut().expect("an output for a connection that is gone");
        let mut cx = Context { shard: &mut self.shards[shard], out: &mut slot.output, now_ns: self.now_ns };
        connection.output(&mut cx, output);
    }

    fn finish(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        let Some(connection) = &mut slot.connection else { return false };
        let mut cx =
            Context { shard: &mut self.shards[slot.shard], out: &mut slot.output, now_ns: self.now_ns };
        connection.end_of_turn(&mut cx);
        let mut busy = false;
        while let Some(action) = connection.next_action() {
            busy = true;
            match action {
                Action::Authenticate(login) => {
                    let answer = answer_to(&login);
                    slot.logins.push(*login);
                    if self.answer_logins {
                        connection.authenticated(&mut cx, answer);
                    }
                }
                Action::Protect(_) => unreachable!("no login brings a layer"),
                Action::Close { reason, error } => {
                    assert!(slot.closed.is_none(), "closed twice");
                    slot.closed = Some((reason, error));
                }
                Action::Move { .. } => panic!("it has no sessions elsewhere"),
            }
        }
        busy | slot.parse()
    }

    /// Everybody leaves; what the shards still hold must be in queues.
    fn end(mut self) {
        for index in 0..self.slots.len() {
            self.drop_client(Client(index));
        }
        let cleaner = self.client();
        assert!(self.slots[cleaner.0].closed.is_none());
    }
}

impl Slot {
    /// Takes what the broker wrote apart.
    fn parse(&mut self) -> bool {
        let mut taken = 0;
        while let Some((frame, bytes)) =
            frame::parse(&self.output[taken..], 0).expect("the broker wrote no frame")
        {
            taken += bytes;
            match frame.kind {
                FrameKind::Heartbeat => self.heartbeats += 1,
                FrameKind::Method => {
                    assert_eq!(self.missing, None, "a method amid content");
                    let received = Received {
                        channel: frame.channel,
                        payload: frame.payload.to_vec(),
                        properties: Vec::new(),
                        body: Vec::new(),
                    };
                    self.missing = received.method().has_content().then_some((true, 0));
                    self.received.push_back(received);
                }
                FrameKind::Header => {
                    let header = ContentHeader::parse(frame.payload).unwrap();
                    assert!(matches!(self.missing, Some((true, _))), "a header out of place");
                    let last = self.received.back_mut().unwrap();
                    assert_eq!(last.channel, frame.channel);
                    last.properties = header.properties.to_vec();
                    let size = header.body_size as usize;
                    self.missing = (size > 0).then_some((false, size));
                }
                FrameKind::Body => {
                    let Some((false, left)) = self.missing else { panic!("a body out of place") };
                    let last = self.received.back_mut().unwrap();
                    last.body.extend_from_slice(frame.payload);
                    let left = left - frame.payload.len();
                    self.missing = (left > 0).then_some((false, left));
                }
            }
        }
        self.output.drain(..taken);
        taken > 0
    }
}

/// Flags of `queue.declare`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    pub passive: bool,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub no_wait: bool,
}

pub fn table(entries: &[(&str, Value)]) -> Table {
    Table(entries.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect())
}

pub fn encoded(table: &Table) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_table(table, &mut bytes);
    bytes
}

pub fn text(text: &str) -> Value {
    Value::Text(Name::from(text))
}

/// The frames of a publish.
pub fn publication(
    channel: u16,
    exchange: &str,
    key: &str,
    mandatory: bool,
    properties: Properties<'_>,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    fast::publish(channel, exchange.as_bytes(), key.as_bytes(), mandatory, false, &mut bytes);
    let mut raw = Vec::new();
    properties.encode(&mut raw);
    frame::encode_content(channel, &raw, body, 131_072, &mut bytes);
    bytes
}

/// A frame as it is on the wire.
pub fn raw_frame(kind: FrameKind, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame { kind, channel, payload }.encode(&mut bytes);
    bytes
}
