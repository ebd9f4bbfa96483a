//! Shards stepped in one thread, and clients that speak in controls and commands.

mod client;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use fulmar_amqp_0_10::codec::frame::{self, ProtocolHeader};
use fulmar_amqp_0_10::codec::segment::{Assembler, Limits as Most, Piece};
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::value::encode_map;
use fulmar_amqp_0_10::codec::{
    Command, ContentHeader, Control, Frame, MapRef, SequenceNo, SequenceSet, Struct, StructRef, Value,
};
use fulmar_core::mesh::Wake;
use fulmar_core::shard::mesh_for;
use fulmar_core::{Clock, Limits, Name, Output, Shard, ShardConfig, ShardId};
use fulmar_protocol::testing::answer_to;
use fulmar_protocol::{Action, Config, Connection, Context, Login};

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
pub struct Client(pub usize);

/// A message that a client received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub id: SequenceNo,
    pub destination: String,
    pub explicit: bool,
    pub header: Vec<u8>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn delivery(&self) -> DeliveryProperties<'_> {
        ContentHeader::parse(&self.header).unwrap().delivery_properties().unwrap()
    }
}

/// What a client knows of a session.
#[derive(Default)]
pub struct Book {
    /// Its next command.
    pub next: SequenceNo,
    /// The broker's next command.
    pub expected: SequenceNo,
    pub completed: Vec<(SequenceNo, SequenceNo)>,
    /// How often it was told.
    pub told: usize,
    pub asked_for_known: bool,
    pub results: HashMap<u32, Vec<u8>>,
    pub exception: Option<(ErrorCode, String, SequenceNo)>,
    pub messages: VecDeque<Message>,
    pub accepted: Vec<(SequenceNo, SequenceNo)>,
    pub rejected: Vec<(SequenceNo, SequenceNo)>,
    pub detached: Option<DetachCode>,
    assembler: Option<Assembler>,
    arriving: Option<Message>,
}

struct Slot {
    shard: usize,
    connection: Option<Box<dyn Connection>>,
    /// Sent by the client, not taken yet.
    input: VecDeque<u8>,
    /// Bytes that the connection has been given and has not taken.
    carry: Vec<u8>,
    output: Vec<u8>,
    greeted: bool,
    /// Controls that the books do not take note of.
    controls: VecDeque<(u16, Vec<u8>)>,
    books: HashMap<u16, Book>,
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
        let limits = Limits::default();
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
            mechanisms: vec!["PLAIN".to_owned(), "AMQPLAIN".to_owned(), "ANONYMOUS".to_owned()],
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
        let config = Arc::new(self.config.clone());
        let connection = fulmar_amqp_0_10::connection::Connection::new(config, &mut cx, owner, name);
        self.slots.push(Slot {
            shard,
            connection: Some(Box::new(connection)),
            input: VecDeque::new(),
            carry: Vec::new(),
            output,
            greeted: false,
            controls: VecDeque::new(),
            books: HashMap::new(),
            heartbeats: 0,
            logins: Vec::new(),
            closed: None,
        });
        self.run();
        Client(owner as usize)
    }

    /// A connection that is open.
    pub fn connect(&mut self) -> Client {
        self.connect_with(ConnectionTuneOk::default())
    }

    pub fn connect_with(&mut self, tune_ok: ConnectionTuneOk) -> Client {
        let client = self.dial();
        self.expect_control(client, "connection.start");
        self.start_ok(client, b"PLAIN", Some(b"\0guest\0guest"));
        self.expect_control(client, "connection.tune");
        self.control(client, 0, tune_ok);
        self.control(client, 0, ConnectionOpen::default());
        self.expect_control(client, "connection.open-ok");
        client
    }

    pub fn start_ok(&mut self, client: Client, mechanism: &[u8], response: Option<&[u8]>) {
        let mut map = Vec::new();
        encode_map([(&b"qpid.client_process"[..], Value::Str16(b"test"))], &mut map);
        let start_ok = ConnectionStartOk {
            client_properties: Some(MapRef::new(&map)),
            mechanism: Some(mechanism),
            response,
            locale: Some(b"en_US"),
        };
        self.control(client, 0, start_ok);
    }

    /// A connection with a session on channel 1.
    pub fn client(&mut self) -> Client {
        let client = self.connect();
        let name = format!("session-{}", client.0);
        self.attach(client, 1, &name);
        client
    }

    /// Attaches a new session.
    pub fn attach(&mut self, client: Client, channel: u16, name: &str) {
        self.control(client, channel, SessionAttach { name: Some(name.as_bytes()), force: false });
        self.expect_control(client, "session.attached");
        self.expect_control(client, "session.command-point");
        self.slots[client.0].books.insert(channel, Book::default());
        let point = SessionCommandPoint { command_id: Some(SequenceNo(0)), command_offset: Some(0) };
        self.control(client, channel, point);
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

    pub fn connection(&mut self, client: Client) -> &mut dyn Connection {
        self.slots[client.0].connection.as_deref_mut().expect("the socket is gone")
    }

    /// Calls the connection as its caller does.
    pub fn with<R>(
        &mut self,
        client: Client,
        call: impl FnOnce(&mut dyn Connection, &mut Context<'_>) -> R,
    ) -> R {
        let slot = &mut self.slots[client.0];
        let mut cx =
            Context { shard: &mut self.shards[slot.shard], out: &mut slot.output, now_ns: self.now_ns };
        let result = call(slot.connection.as_deref_mut().expect("the socket is gone"), &mut cx);
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

    /// The client sends something, and its socket breaks before any shard has taken a turn.
    pub fn vanish_after(&mut self, client: Client, bytes: &[u8]) {
        let slot = &mut self.slots[client.0];
        let shard = &mut self.shards[slot.shard];
        let mut connection = slot.connection.take().expect("the socket is gone already");
        let mut cx = Context { shard, out: &mut slot.output, now_ns: self.now_ns };
        connection.receive(&mut cx, bytes);
        connection.closed(&mut self.shards[slot.shard]);
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
            quiet = if self.turn() { 0 } else { quiet + 1 };
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
        let (mut busy, mut goes) = (false, None);
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
                Action::Move { shard } => goes = Some(usize::from(shard.0)),
            }
        }
        if let Some(there) = goes {
            self.take_along(index, there);
        }
        busy | self.slots[index].parse()
    }

    /// A connection goes to another shard.
    fn take_along(&mut self, index: usize, there: usize) {
        let slot = &mut self.slots[index];
        let connection = slot.connection.take().expect("it has just asked for it");
        let traveller = connection.leave(&mut self.shards[slot.shard]).expect("it has asked for it");
        assert_ne!(there, slot.shard, "it goes where it was");
        slot.shard = there;
        let mut cx = Context { shard: &mut self.shards[there], out: &mut slot.output, now_ns: self.now_ns };
        slot.connection = Some(traveller.arrive(&mut cx, index as u32));
    }

    /// Where a client's connection is.
    pub fn shard_of(&self, client: Client) -> usize {
        self.slots[client.0].shard
    }

    /// Everybody leaves; the broker goes on.
    fn end(mut self) {
        for index in 0..self.slots.len() {
            self.drop_client(Client(index));
        }
        // So long no session is kept.
        self.advance_ms(4_000_000);
        for shard in &self.shards {
            let stats = shard.stats();
            assert_eq!((stats.connections, stats.sessions, stats.unsettled), (0, 0, 0), "{:?}", self.setup);
        }
        assert!(self.config.whereabouts.is_empty(), "{:?}: {:?}", self.setup, self.config.whereabouts);
        let cleaner = self.client();
        assert!(self.slots[cleaner.0].closed.is_none());
    }
}

impl Slot {
    /// Takes what the broker wrote apart.
    fn parse(&mut self) -> bool {
        let mut taken = 0;
        if !self.greeted {
            let header = ProtocolHeader::parse(&self.output).unwrap();
            assert_eq!(header, Some(ProtocolHeader::AMQP_0_10));
            (self.greeted, taken) = (true, 8);
        }
        let output = std::mem::take(&mut self.output);
        while let Some((frame, bytes)) = frame::parse(&output[taken..], 0).expect("the broker wrote no frame")
        {
            taken += bytes;
            match frame.track {
                Track::Control => self.control(&frame),
                _ => self.books.entry(frame.channel).or_default().frame(&frame),
            }
        }
        self.output = output[taken..].to_vec();
        taken > 0
    }

    fn control(&mut self, frame: &Frame<'_>) {
        let flags = frame.flags;
        assert!(flags.first_frame && flags.last_frame, "controls of the broker are short here");
        let book = self.books.entry(frame.channel).or_default();
        match Control::decode(frame.payload).expect("a control that cannot be decoded") {
            Control::ConnectionHeartbeat(_) => self.heartbeats += 1,
            Control::SessionCompleted(completed) => {
                book.completed = completed.commands.unwrap().iter().collect();
                book.told += 1;
                book.asked_for_known |= completed.timely_reply;
            }
            Control::SessionDetached(detached) => book.detached = detached.code,
            _ => self.controls.push_back((frame.channel, frame.payload.to_vec())),
        }
    }
}

impl Book {
    /// One that goes on with these commands.
    pub fn at(next: SequenceNo, expected: SequenceNo) -> Self {
        Book { next, expected, ..Book::default() }
    }

    pub fn is_complete(&self, id: SequenceNo) -> bool {
        self.completed.iter().any(|&(first, last)| !id.is_before(first) && !last.is_before(id))
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        let most = Most { segment_bytes: 1 << 20, body_bytes: 1 << 30 };
        let mut assembler = self.assembler.take().unwrap_or_else(|| Assembler::new(Track::Command, most));
        match assembler.push(frame).expect("the broker wrote frames out of order") {
            Some(Piece::Segment { kind: SegmentType::Command, payload, is_last }) => {
                let id = self.expected;
                self.expected = id.next();
                let (command, _) = Command::decode(payload).expect("a command that cannot be decoded");
                self.command(id, command, is_last);
            }
            Some(Piece::Segment { payload, is_last, .. }) => {
                self.arriving.as_mut().unwrap().header = payload.to_vec();
                self.arrived(is_last);
            }
            Some(Piece::Body { payload, is_last }) => {
                self.arriving.as_mut().unwrap().body.extend_from_slice(payload);
                self.arrived(is_last);
            }
            None => {}
        }
        self.assembler = Some(assembler);
    }

    fn arrived(&mut self, is_last: bool) {
        if is_last {
            self.messages.extend(self.arriving.take());
        }
    }

    fn command(&mut self, id: SequenceNo, command: Command<'_>, is_last: bool) {
        match command {
            Command::MessageTransfer(transfer) => {
                self.arriving = Some(Message {
                    id,
                    destination: String::from_utf8_lossy(transfer.destination.unwrap()).into_owned(),
                    explicit: transfer.accept_mode == Some(AcceptMode::Explicit),
                    header: Vec::new(),
                    body: Vec::new(),
                });
                self.arrived(is_last);
            }
            Command::ExecutionResult(result) => {
                let id = result.command_id.unwrap();
                self.results.insert(id.0, result.value.unwrap().as_bytes().to_vec());
            }
            Command::ExecutionException(exception) => {
                let text = String::from_utf8_lossy(exception.description.unwrap()).into_owned();
                let of = exception.command_id.unwrap();
                self.exception = Some((exception.error_code.unwrap(), text, of));
            }
            Command::MessageAccept(accept) => self.accepted.extend(accept.transfers.unwrap().iter()),
            Command::MessageReject(reject) => self.rejected.extend(reject.transfers.unwrap().iter()),
            other => panic!("a broker does not send {other:?}"),
        }
    }
}

/// The struct of a result.
pub fn decode(result: &[u8]) -> Struct<'_> {
    Struct::decode(StructRef::new(result)).expect("a struct that cannot be decoded")
}

/// Ranges as they are encoded.
pub fn set(ranges: &[(SequenceNo, SequenceNo)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    fulmar_amqp_0_10::codec::sequence::encode_sequence_set(ranges.iter().copied(), &mut bytes);
    bytes
}
