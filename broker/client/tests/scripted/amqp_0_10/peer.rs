//! A broker of AMQP 0-10 that does what a test tells it.

use std::collections::HashMap;

use fulmar_amqp_0_10::codec::sequence::encode_sequence_set;
use fulmar_amqp_0_10::codec::table::{
    AcceptMode, ConnectionOpenOk, ConnectionStart, ConnectionTune, DeliveryProperties, ErrorCode,
    ExecutionException, ExecutionResult, MessageTransfer, SegmentType, SessionAttached, SessionCommandPoint,
    SessionCompleted, SessionHeader, code,
};
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::value::encode_array;
use fulmar_amqp_0_10::codec::{
    ArrayRef, Command, Control, ProtocolHeader, SequenceNo, SequenceSet, Struct, StructRef, Value, frame,
};
use fulmar_client::{Connection, Error, Options, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::peer::{Network, Peer as Bytes};

/// Both sides' frames stay below this many bytes.
pub const FRAME_MAX: u16 = 4096;

pub struct Peer {
    stream: tokio::io::DuplexStream,
    input: Vec<u8>,
    /// Commands taken, by channel.
    taken: HashMap<u16, u32>,
}

/// A control, or a command with its content, that came from the client.
#[derive(Debug)]
pub struct Operation {
    pub channel: u16,
    /// Of a command.
    pub id: u32,
    is_command: bool,
    payload: Vec<u8>,
    pub header: Vec<u8>,
    pub body: Vec<u8>,
}

impl Operation {
    pub fn control(&self) -> Control<'_> {
        assert!(!self.is_command, "a control is expected, not {:?}", self.command());
        Control::decode(&self.payload).unwrap()
    }

    pub fn command(&self) -> Command<'_> {
        Command::decode(&self.payload).unwrap().0
    }

    pub fn wants_sync(&self) -> bool {
        Command::decode(&self.payload).unwrap().1.sync
    }

    fn name(&self) -> &'static str {
        if self.is_command { self.command().name() } else { self.control().name() }
    }
}

pub fn options() -> Options {
    Options { protocol: Protocol::Amqp010, ..Options::default() }.without_reconnect()
}

/// Opens a connection that a peer greets as it should be.
pub async fn connected(options: Options) -> (Network, Connection, Peer) {
    let network = Network::default();
    let mut peer = Peer::of(network.peer());
    let (connection, ()) = tokio::join!(network.open(options), peer.greet());
    (network, connection.unwrap(), peer)
}

/// What a client makes of a peer that does not greet it as it should.
pub async fn refused(options: Options, script: impl AsyncFnOnce(&mut Peer)) -> Error {
    let network = Network::default();
    let mut peer = Peer::of(network.peer());
    let (result, ()) = tokio::join!(network.open(options), script(&mut peer));
    result.unwrap_err()
}

impl Peer {
    pub fn of(peer: Bytes) -> Self {
        Peer { stream: peer.stream, input: Vec::new(), taken: HashMap::new() }
    }

    /// The next control or command, heartbeats left out; `None` when the client has hung up.
    pub async fn next(&mut self) -> Option<Operation> {
        let mut current: Option<Operation> = None;
        loop {
            let Some((frame, len)) = frame::parse(&self.input, FRAME_MAX).unwrap() else {
                if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                    return None;
                }
                continue;
            };
            let payload = frame.payload.to_vec();
            let is_command = frame.kind != SegmentType::Control;
            let operation = current.get_or_insert_with(|| Operation {
                channel: frame.channel,
                id: 0,
                is_command,
                payload: Vec::new(),
                header: Vec::new(),
                body: Vec::new(),
            });
            match frame.kind {
                SegmentType::Header => operation.header.extend(payload),
                SegmentType::Body => operation.body.extend(payload),
                _ => operation.payload.extend(payload),
            }
            let is_whole = frame.flags.last_frame && frame.flags.last_segment;
            self.input.drain(..len);
            if !is_whole {
                continue;
            }
            let mut operation = current.take()?;
            if operation.is_command {
                let taken = self.taken.entry(operation.channel).or_default();
                operation.id = *taken;
                *taken += 1;
            } else if operation.name() == "connection.heartbeat" {
                continue;
            }
            return Some(operation);
        }
    }

    /// The next control or command, which has to be this one.
    pub async fn expect(&mut self, name: &str) -> Operation {
        let operation =
            self.next().await.unwrap_or_else(|| panic!("{name} is expected, the client has hung up"));
        assert_eq!(operation.name(), name, "{operation:?}");
        operation
    }

    /// The next command, which has to be this one; controls pass by.
    pub async fn expect_command(&mut self, name: &str) -> Operation {
        loop {
            let operation = self.next().await.expect("the client has hung up");
            if operation.is_command {
                assert_eq!(operation.name(), name, "{operation:?}");
                return operation;
            }
        }
    }

    /// The next command of this name; other commands and controls pass by.
    pub async fn skip_to_command(&mut self, name: &str) -> Operation {
        loop {
            let operation = self.next().await.expect("the client has hung up");
            if operation.is_command && operation.name() == name {
                return operation;
            }
        }
    }

    /// The next control of this name; others pass by.
    pub async fn expect_control(&mut self, name: &str) -> Operation {
        loop {
            let operation = self.next().await.expect("the client has hung up");
            assert!(!operation.is_command, "{name} is expected, not {:?}", operation.command());
            if operation.name() == name {
                return operation;
            }
        }
    }

    /// Commands of these names, of which the last is completed at once.
    pub async fn carry_out(&mut self, names: &[&str]) -> Vec<Operation> {
        let mut operations = Vec::new();
        for name in names {
            operations.push(self.expect_command(name).await);
        }
        let last = operations.last().unwrap();
        assert!(last.wants_sync(), "{last:?}");
        let (channel, first) = (last.channel, operations[0].id);
        self.complete(channel, first, last.id).await;
        operations
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) {
        let mut out = Vec::new();
        control.into().encode_frames(channel, FRAME_MAX, &mut out);
        self.write(&out).await;
    }

    pub async fn command<'a>(&mut self, channel: u16, command: impl Into<Command<'a>>) {
        let mut out = Vec::new();
        command.into().encode_frames(SessionHeader { sync: false }, channel, FRAME_MAX, &mut out);
        self.write(&out).await;
    }

    /// The client's commands from `first` to `last` are complete.
    pub async fn complete(&mut self, channel: u16, first: u32, last: u32) {
        let mut set = Vec::new();
        encode_sequence_set([(SequenceNo(first), SequenceNo(last))], &mut set);
        let commands = Some(SequenceSet::new(&set).unwrap());
        self.control(channel, SessionCompleted { commands, timely_reply: false }).await;
    }

    pub async fn result(&mut self, channel: u16, id: u32, value: Struct<'_>) {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        let value = Some(StructRef::new(&encoded[4..]));
        self.command(channel, ExecutionResult { command_id: Some(SequenceNo(id)), value }).await;
    }

    /// Refuses a command, which ends the session.
    pub async fn fail(&mut self, channel: u16, code: ErrorCode, text: &str) {
        let exception = ExecutionException {
            error_code: Some(code),
            description: Some(text.as_bytes()),
            ..ExecutionException::default()
        };
        self.command(channel, exception).await;
    }

    pub async fn deliver(&mut self, channel: u16, destination: &str, accept_mode: AcceptMode, body: &[u8]) {
        let mut header = Vec::new();
        let delivery = DeliveryProperties {
            exchange: Some(b"x"),
            routing_key: Some(b"k"),
            redelivered: body == b"again",
            ..DeliveryProperties::default()
        };
        delivery.encode(&mut header);
        let destination = destination.as_bytes();
        let transfer = Transfer { destination, accept_mode, header: &header, body, ..Transfer::default() };
        let mut out = Vec::new();
        transfer::encode(&transfer, channel, 200, &mut out);
        self.write(&out).await;
    }

    /// A transfer with neither header nor body.
    pub async fn deliver_nothing(&mut self, channel: u16, destination: &str) {
        let transfer =
            MessageTransfer { destination: Some(destination.as_bytes()), ..MessageTransfer::default() };
        self.command(channel, transfer).await;
    }

    /// The client's header, and the offer of `mechanisms`.
    pub async fn start(&mut self, mechanisms: &[&str]) {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).await.unwrap();
        assert_eq!(header, ProtocolHeader::AMQP_0_10.to_bytes());
        self.write(&header).await;
        let mut encoded = Vec::new();
        encode_array(code::STR16, mechanisms.iter().map(|name| Value::Str16(name.as_bytes())), &mut encoded);
        let mechanisms = Some(ArrayRef::new(&encoded));
        self.control(0, ConnectionStart { mechanisms, ..ConnectionStart::default() }).await;
    }

    /// A whole handshake.
    pub async fn greet(&mut self) {
        self.start(&["ANONYMOUS", "PLAIN"]).await;
        self.expect("connection.start-ok").await;
        let tune = ConnectionTune {
            channel_max: Some(9),
            max_frame_size: Some(FRAME_MAX),
            heartbeat_min: Some(0),
            heartbeat_max: Some(120),
        };
        self.control(0, tune).await;
        self.expect("connection.tune-ok").await;
        self.expect("connection.open").await;
        self.control(0, ConnectionOpenOk::default()).await;
    }

    /// Grants a session; returns its channel.
    pub async fn attach(&mut self) -> u16 {
        let attach = self.expect("session.attach").await;
        let Control::SessionAttach(asked) = attach.control() else { unreachable!() };
        let channel = attach.channel;
        self.taken.insert(channel, 0);
        self.control(channel, SessionAttached { name: asked.name }).await;
        let point = SessionCommandPoint { command_id: Some(SequenceNo(u32::MAX)), command_offset: Some(0) };
        self.control(channel, point).await;
        self.expect("session.request-timeout").await;
        self.expect("session.command-point").await;
        channel
    }
}
