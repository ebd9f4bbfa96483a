//! Sessions of AMQP 0-10 that outlive their connections, in a broker with several shards: a client that is cut off again
//! and again goes on with its session wherever its connections land, and nothing is lost, doubled or out of order.

mod common;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::certificates::Office;
use common::{PATIENCE, eventually, kinds, start};
use fulmar_amqp_0_10::codec::frame::{self, Frame};
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{Command, Control, SequenceNo, SequenceSet};
use fulmar_server::broker::Running;
use fulmar_tls::client_config;
use fulmar_tls::rustls::pki_types::ServerName;
use fulmar_tls::rustls::{ClientConfig, ClientConnection, StreamOwned};
use fulmar_transport::sim::Random;

const HEADER: &[u8] = b"AMQP\x01\x01\x00\x0a";
const CHANNEL: u16 = 1;
const FRAME_MAX: u16 = 4096;
const QUEUE: &[u8] = b"own";
const DESTINATION: Option<&[u8]> = Some(b"d");
/// Messages that the broker may send beyond those that were told to be complete.
const WINDOW: u32 = 30;
const MESSAGES: u32 = 600;
/// Lives of a client at least, and at most: with this many, some begin on another shard than the session's.
const LIVES: usize = 25;
const MOST_LIVES: usize = 300;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// One connection of a client.
struct Line {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    input: Vec<u8>,
    greeted: bool,
}

/// What the attach of a session came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Asked,
    Busy,
    New,
    Resumed,
    /// Both sides know where the other goes on.
    Ready,
}

struct Client {
    addr: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    line: Option<Line>,
    standing: Standing,
    next: SequenceNo,
    /// Commands of which the broker has not said that it has them.
    sent: VecDeque<(SequenceNo, Vec<u8>)>,
    /// The broker's next command, and where its commands are that it is about to send.
    expected: SequenceNo,
    accepted: SequenceNo,
    arrived: Vec<u32>,
    has_timeout: bool,
}

impl Line {
    fn connect(addr: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Line> {
        let socket = TcpStream::connect(addr)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let plain = socket.try_clone()?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(plain),
            Some(config) => {
                let name = ServerName::try_from("localhost").unwrap();
                Box::new(StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), plain))
            }
        };
        Ok(Line { stream, socket, input: Vec::new(), greeted: false })
    }
}

impl Client {
    fn new(addr: SocketAddr, tls: Option<Arc<ClientConfig>>) -> Self {
        Client {
            addr,
            tls,
            line: None,
            standing: Standing::Asked,
            next: SequenceNo(0),
            sent: VecDeque::new(),
            expected: SequenceNo(0),
            accepted: SequenceNo(0),
            arrived: Vec::new(),
            has_timeout: false,
        }
    }

    /// Connects and attaches the session; what a resumed one needs goes with the attach, without waiting for anything.
    fn come(&mut self, is_new: bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut line = Line::connect(self.addr, self.tls.as_ref()).expect("the broker listens");
            line.stream.write_all(HEADER).expect("the broker reads");
            self.line = Some(line);
            self.standing = Standing::Asked;
            while self.standing == Standing::Asked {
                self.read();
            }
            if self.standing != Standing::Busy {
                break;
            }
            // The broker has not noticed yet that the last connection is gone.
            assert!(Instant::now() < deadline, "the session stays busy");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(self.standing == Standing::New, is_new, "{:?}", self.standing);
        if is_new {
            self.set_up();
        }
        while self.standing != Standing::Ready {
            self.read();
        }
    }

    fn set_up(&mut self) {
        self.standing = Standing::Ready;
        let point = SessionCommandPoint { command_id: Some(SequenceNo(0)), command_offset: Some(0) };
        self.control(CHANNEL, point);
        self.control(CHANNEL, SessionRequestTimeout { timeout: Some(60) });
        self.command(QueueDeclare { queue: Some(QUEUE), exclusive: true, ..Default::default() });
        self.command(MessageSubscribe {
            queue: Some(QUEUE),
            destination: DESTINATION,
            accept_mode: Some(AcceptMode::Explicit),
            acquire_mode: Some(AcquireMode::PreAcquired),
            ..Default::default()
        });
        let flow_mode = Some(FlowMode::Window);
        self.command(MessageSetFlowMode { destination: DESTINATION, flow_mode });
        for (unit, value) in [(CreditUnit::Message, WINDOW), (CreditUnit::Byte, u32::MAX)] {
            self.command(MessageFlow { destination: DESTINATION, unit: Some(unit), value: Some(value) });
        }
        // Where there is no timeout yet, nothing stays.
        while !self.has_timeout {
            self.read();
        }
    }

    /// Breaks the connection, after this much of some more output.
    fn vanish(&mut self, half_sent: &[u8]) {
        if let Some(mut line) = self.line.take() {
            let _ = line.stream.write_all(half_sent);
            let _ = line.socket.shutdown(std::net::Shutdown::Both);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.line.as_mut().expect("connected").stream.write_all(bytes).expect("the broker reads");
    }

    fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) {
        let mut out = Vec::new();
        control.into().encode_frames(channel, FRAME_MAX, &mut out);
        self.write(&out);
    }

    fn command<'a>(&mut self, command: impl Into<Command<'a>>) {
        let mut out = Vec::new();
        command.into().encode_frames(SessionHeader { sync: false }, CHANNEL, FRAME_MAX, &mut out);
        self.sent(out.clone());
        self.write(&out);
    }

    fn sent(&mut self, frames: Vec<u8>) {
        self.sent.push_back((self.next, frames));
        self.next = self.next.next();
    }

    /// The frames of a message with this number.
    fn message(&mut self, number: u32) -> Vec<u8> {
        let mut header = Vec::new();
        DeliveryProperties { routing_key: Some(QUEUE), ..Default::default() }.encode(&mut header);
        let body = number.to_be_bytes();
        let transfer =
            Transfer { accept_mode: AcceptMode::None, header: &header, body: &body, ..Default::default() };
        let mut out = Vec::new();
        transfer::encode(&transfer, CHANNEL, FRAME_MAX, &mut out);
        self.sent(out.clone());
        out
    }

    /// Settles what has arrived and makes room for more.
    fn accept(&mut self) {
        if self.accepted == self.expected {
            return;
        }
        let last = SequenceNo(self.expected.0 - 1);
        let ranges = range(self.accepted, last);
        let transfers = Some(SequenceSet::new(&ranges).unwrap());
        self.accepted = self.expected;
        self.command(MessageAccept { transfers });
        self.tell_completed();
    }

    fn tell_completed(&mut self) {
        if self.expected == SequenceNo(0) {
            return;
        }
        let ranges = range(SequenceNo(0), SequenceNo(self.expected.0 - 1));
        let commands = Some(SequenceSet::new(&ranges).unwrap());
        self.control(CHANNEL, SessionCompleted { commands, timely_reply: false });
    }

    fn read(&mut self) {
        let line = self.line.as_mut().expect("connected");
        let mut bytes = [0; 16_384];
        match line.stream.read(&mut bytes) {
            Ok(0) => panic!("the broker has hung up"),
            Ok(count) => line.input.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                panic!("nothing comes: {error}; {:?}, {} arrived", self.standing, self.arrived.len())
            }
        }
        let mut input = std::mem::take(&mut line.input);
        let mut rest = &input[..];
        if !line.greeted && rest.len() >= HEADER.len() {
            line.greeted = true;
            rest = &rest[HEADER.len()..];
        }
        let greeted = line.greeted;
        while greeted
            && let Some((frame, taken)) = frame::parse(rest, FRAME_MAX).expect("a well-formed frame")
        {
            rest = &rest[taken..];
            self.frame(&frame);
        }
        let taken = input.len() - rest.len();
        input.drain(..taken);
        if let Some(line) = &mut self.line {
            line.input = input;
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        // Whatever the broker says here fits into a frame for each segment.
        match frame.kind {
            SegmentType::Control => self.hear(Control::decode(frame.payload).expect("a control")),
            SegmentType::Command => {
                let (command, _) = Command::decode(frame.payload).expect("a command");
                assert!(matches!(command, Command::MessageTransfer(_)), "{command:?}");
                self.expected = self.expected.next();
            }
            SegmentType::Header | SegmentType::Other(_) => {}
            SegmentType::Body => {
                self.arrived.push(u32::from_be_bytes(frame.payload.try_into().expect("a number")));
            }
        }
    }

    fn hear(&mut self, control: Control<'_>) {
        match control {
            Control::ConnectionStart(_) => self.control(
                0,
                ConnectionStartOk {
                    client_properties: None,
                    mechanism: Some(b"PLAIN"),
                    response: Some(b"\0guest\0guest"),
                    locale: Some(b"en_US"),
                },
            ),
            Control::ConnectionTune(_) => {
                let tune_ok = ConnectionTuneOk { max_frame_size: Some(FRAME_MAX), ..Default::default() };
                self.control(0, tune_ok);
                self.control(0, ConnectionOpen { virtual_host: Some(b"/"), ..Default::default() });
            }
            Control::ConnectionOpenOk(_) => self.attach(),
            // So is what was sent with the attach.
            Control::SessionDetached(_) if self.standing == Standing::Busy => {}
            Control::SessionDetached(detached) => {
                assert_eq!(detached.code, Some(DetachCode::SessionBusy));
                self.standing = Standing::Busy;
            }
            Control::SessionCommandPoint(point) => match self.standing {
                Standing::Asked => self.standing = Standing::New,
                _ => assert_eq!(point.command_id, Some(self.expected)),
            },
            Control::SessionFlush(_) if self.standing == Standing::Asked => {
                self.standing = Standing::Resumed;
            }
            Control::SessionExpected(expected) if self.standing == Standing::Resumed => {
                let first = expected.commands.unwrap_or_default().iter().next();
                self.go_on(first.map_or(SequenceNo(0), |(first, _)| first));
            }
            Control::SessionTimeout(_) => self.has_timeout = true,
            _ => {}
        }
    }

    fn attach(&mut self) {
        let mut out = Vec::new();
        let ranges = range(self.expected, self.expected);
        let commands = Some(SequenceSet::new(&ranges).unwrap());
        let attach = SessionAttach { name: Some(b"ann"), force: false };
        let mut controls = vec![Control::from(attach)];
        if self.next != SequenceNo(0) {
            controls.push(SessionExpected { commands, fragments: None }.into());
            controls.push(SessionFlush { expected: true, confirmed: false, completed: false }.into());
        }
        controls.iter().for_each(|control| control.encode_frames(CHANNEL, FRAME_MAX, &mut out));
        self.write(&out);
    }

    /// The broker has everything before this command.
    fn go_on(&mut self, from: SequenceNo) {
        while self.sent.front().is_some_and(|(id, _)| id.is_before(from)) {
            self.sent.pop_front();
        }
        self.standing = Standing::Ready;
        self.control(CHANNEL, SessionCommandPoint { command_id: Some(from), command_offset: Some(0) });
        let again: Vec<u8> = self.sent.iter().flat_map(|(_, frames)| frames.clone()).collect();
        self.write(&again);
        self.tell_completed();
    }
}

fn range(first: SequenceNo, last: SequenceNo) -> Vec<u8> {
    [first.0.to_be_bytes(), last.0.to_be_bytes()].concat()
}

/// Publishes to its own queue and consumes from it, over many connections.
fn live_many_lives(broker: &Running, addr: SocketAddr, tls: Option<Arc<ClientConfig>>) {
    let mut random = Random::new(11);
    let mut client = Client::new(addr, tls);
    let (mut number, mut lives) = (0, 0);
    while number < MESSAGES || lives < LIVES || broker.stats().moved == 0 {
        client.come(lives == 0);
        lives += 1;
        assert!(lives < MOST_LIVES, "no connection has moved");
        for _ in 0..random.below(4) {
            let count = random.below(12) as u32;
            let bytes: Vec<u8> = (0..count).flat_map(|_| client.message(number_of(&mut number))).collect();
            client.write(&bytes);
            if (client.arrived.len() as u32) < number {
                client.read();
            }
            client.accept();
        }
        let half = client.message(number_of(&mut number));
        client.vanish(&half[..random.below(half.len() + 1)]);
    }
    client.come(false);
    while (client.arrived.len() as u32) < number {
        client.read();
        client.accept();
    }
    let all: Vec<u32> = (0..number).collect();
    assert!(client.arrived == all, "{:?}", client.arrived);
    // In order: nothing is kept of it.
    client.control(CHANNEL, SessionRequestTimeout { timeout: Some(0) });
    client.control(0, ConnectionClose { reply_code: Some(CloseCode::Normal), reply_text: None });
    client.read();
    client.line = None;
    eventually("all are closed", || broker.stats().open == 0);
    let stats = broker.stats();
    assert_eq!(stats.accepted, stats.closed, "every connection is counted once");
    assert!(stats.moved > 0, "{stats:?}");
}

/// The next number.
fn number_of(number: &mut u32) -> u32 {
    *number += 1;
    *number - 1
}

#[test]
fn a_session_goes_on_whichever_shard_its_client_comes_back_to() {
    for (io, shards) in kinds().into_iter().filter(|(_, shards)| *shards > 1) {
        eprintln!("{io:?}");
        let broker = start(io, shards, |_| {});
        live_many_lives(&broker, broker.addr(), None);
        broker.stop(PATIENCE).expect("the broker stops");
    }
}

#[test]
fn it_does_so_within_tls() {
    let office = Office::new("issuer");
    let config = client_config(&office.client()).unwrap();
    for (io, shards) in kinds().into_iter().filter(|(_, shards)| *shards > 1) {
        eprintln!("{io:?}");
        let broker = start(io, shards, |settings| settings.tls = office.broker());
        live_many_lives(&broker, broker.addr(), Some(config.clone()));
        assert!(broker.stats().tls_handshakes >= LIVES as u64);
        broker.stop(PATIENCE).expect("the broker stops");
    }
}
