//! A client of AMQP 0-10 that does one thing at a time: browsing, and branches of distributed transactions.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use fulmar_amqp_0_10::codec::frame;
use fulmar_amqp_0_10::codec::segment::{Assembler, Limits, Piece};
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{Command, ContentHeader, Control, SequenceNo, SequenceSet, Struct, Value};

use crate::common::PATIENCE;

const HEADER: &[u8] = b"AMQP\x01\x01\x00\x0a";
const CHANNEL: u16 = 1;
const FRAME_MAX: u16 = 65_535;
const LIMITS: Limits = Limits { segment_bytes: 1 << 20, body_bytes: 1 << 30 };

/// Why something was not done.
#[derive(Debug)]
pub enum Fault {
    /// The broker is gone.
    Lost,
    /// It says no.
    Refused(String),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Fault::Lost
    }
}

/// A message that came.
pub struct Arrived {
    pub id: SequenceNo,
    pub redelivered: bool,
    pub body: Vec<u8>,
}

/// A session on a connection of its own.
pub struct Raw {
    stream: TcpStream,
    input: Vec<u8>,
    name: Vec<u8>,
    greeted: bool,
    attached: bool,
    controls: [Assembler; 2],
    commands: Assembler,
    next: SequenceNo,
    /// Everything before is complete.
    completed: SequenceNo,
    results: HashMap<u32, Vec<u8>>,
    expected: SequenceNo,
    arrived: Vec<Arrived>,
    subscriptions: u32,
}

impl Raw {
    pub fn open(addr: SocketAddr, name: &str) -> Result<Self, Fault> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut raw = Raw {
            stream,
            input: Vec::new(),
            name: name.as_bytes().to_vec(),
            greeted: false,
            attached: false,
            controls: [Track::Control, Track::Control].map(|track| Assembler::new(track, LIMITS)),
            commands: Assembler::new(Track::Command, LIMITS),
            next: SequenceNo(0),
            completed: SequenceNo(0),
            results: HashMap::new(),
            expected: SequenceNo(0),
            arrived: Vec::new(),
            subscriptions: 0,
        };
        raw.stream.write_all(HEADER)?;
        while !raw.attached {
            raw.read()?;
        }
        Ok(raw)
    }

    /// The messages of a queue, which stay there.
    pub fn browse(&mut self, queue: &str) -> Result<Vec<Arrived>, Fault> {
        self.take(queue, AcquireMode::NotAcquired, AcceptMode::None, u32::MAX)
    }

    /// At most so many messages, to be accepted.
    pub fn fetch(&mut self, queue: &str, most: u32) -> Result<Vec<Arrived>, Fault> {
        self.take(queue, AcquireMode::PreAcquired, AcceptMode::Explicit, most)
    }

    fn take(
        &mut self,
        queue: &str,
        acquire: AcquireMode,
        accept: AcceptMode,
        most: u32,
    ) -> Result<Vec<Arrived>, Fault> {
        self.subscriptions += 1;
        let name = format!("s{}", self.subscriptions);
        let destination = Some(name.as_bytes());
        self.command(MessageSubscribe {
            queue: Some(queue.as_bytes()),
            destination,
            accept_mode: Some(accept),
            acquire_mode: Some(acquire),
            ..Default::default()
        })?;
        let flow_mode = Some(FlowMode::Credit);
        self.command(MessageSetFlowMode { destination, flow_mode })?;
        for (unit, value) in [(CreditUnit::Message, most), (CreditUnit::Byte, u32::MAX)] {
            self.command(MessageFlow { destination, unit: Some(unit), value: Some(value) })?;
        }
        let flushed = self.command(MessageFlush { destination })?;
        self.wait(flushed)?;
        let cancelled = self.command(MessageCancel { destination })?;
        self.wait(cancelled)?;
        Ok(std::mem::take(&mut self.arrived))
    }

    pub fn accept(&mut self, messages: &[Arrived]) -> Result<(), Fault> {
        let mut ranges = Vec::new();
        for message in messages {
            ranges.extend_from_slice(&message.id.0.to_be_bytes());
            ranges.extend_from_slice(&message.id.0.to_be_bytes());
        }
        let transfers = Some(SequenceSet::new(&ranges).expect("whole ranges"));
        let accepted = self.command(MessageAccept { transfers })?;
        self.wait(accepted)
    }

    /// Publishes a persistent message.
    pub fn publish(&mut self, exchange: &str, key: &str, body: &[u8]) -> Result<(), Fault> {
        let mut header = Vec::new();
        DeliveryProperties {
            routing_key: Some(key.as_bytes()),
            delivery_mode: Some(DeliveryMode::Persistent),
            ..Default::default()
        }
        .encode(&mut header);
        let transfer = Transfer {
            destination: exchange.as_bytes(),
            accept_mode: AcceptMode::None,
            sync: false,
            header: &header,
            body,
            ..Default::default()
        };
        let mut out = Vec::new();
        transfer::encode(&transfer, CHANNEL, FRAME_MAX, &mut out);
        self.next = self.next.next();
        Ok(self.stream.write_all(&out)?)
    }

    pub fn select_branches(&mut self) -> Result<(), Fault> {
        let id = self.command(DtxSelect {})?;
        self.wait(id)
    }

    pub fn start_branch(&mut self, name: &str) -> Result<(), Fault> {
        let id = self.command(DtxStart { xid: Some(xid(name)), join: false, resume: false })?;
        self.branch_moved(id)
    }

    pub fn end_branch(&mut self, name: &str) -> Result<(), Fault> {
        let id = self.command(DtxEnd { xid: Some(xid(name)), fail: false, suspend: false })?;
        self.branch_moved(id)
    }

    pub fn prepare(&mut self, name: &str) -> Result<(), Fault> {
        let id = self.command(DtxPrepare { xid: Some(xid(name)) })?;
        self.branch_moved(id)
    }

    pub fn commit(&mut self, name: &str, one_phase: bool) -> Result<(), Fault> {
        let id = self.command(DtxCommit { xid: Some(xid(name)), one_phase })?;
        self.branch_moved(id)
    }

    pub fn roll_back(&mut self, name: &str) -> Result<(), Fault> {
        let id = self.command(DtxRollback { xid: Some(xid(name)) })?;
        self.branch_moved(id)
    }

    /// The names of the branches that are prepared and wait for a decision.
    pub fn in_doubt(&mut self) -> Result<Vec<String>, Fault> {
        let id = self.command(DtxRecover {})?;
        let result = self.result(id)?;
        let Struct::RecoverResult(result) = Struct::decode_bytes(&result) else { panic!("no list") };
        let name = |value: Value<'_>| {
            let Value::Struct32(xid) = value else { panic!("a branch named {value:?}") };
            let Ok(Struct::Xid(xid)) = Struct::decode(xid) else { panic!("no branch") };
            String::from_utf8(xid.global_id.unwrap_or_default().to_vec()).expect("a name of ours")
        };
        Ok(result.in_doubt.expect("a list").iter().map(|value| name(value.expect("well-formed"))).collect())
    }

    /// Whether a durable queue is there.
    pub fn has_queue(&mut self, queue: &str) -> Result<bool, Fault> {
        let id = self.command(QueueQuery { queue: Some(queue.as_bytes()) })?;
        let result = self.result(id)?;
        let Struct::QueueQueryResult(found) = Struct::decode_bytes(&result) else { panic!("no queue") };
        Ok(found.queue.is_some_and(|name| name == queue.as_bytes()) && found.durable)
    }

    /// Whether a queue is bound to an exchange with a key.
    pub fn has_binding(&mut self, exchange: &str, queue: &str, key: &str) -> Result<bool, Fault> {
        let id = self.command(ExchangeBound {
            exchange: Some(exchange.as_bytes()),
            queue: Some(queue.as_bytes()),
            binding_key: Some(key.as_bytes()),
            arguments: None,
        })?;
        let result = self.result(id)?;
        let Struct::ExchangeBoundResult(not) = Struct::decode_bytes(&result) else { panic!("no binding") };
        Ok(!(not.exchange_not_found || not.queue_not_found || not.queue_not_matched || not.key_not_matched))
    }

    fn branch_moved(&mut self, id: SequenceNo) -> Result<(), Fault> {
        let result = self.result(id)?;
        let Struct::XaResult(XaResult { status }) = Struct::decode_bytes(&result) else {
            panic!("no status")
        };
        match status {
            Some(XaStatus::Ok) => Ok(()),
            status => Err(Fault::Refused(format!("{status:?}"))),
        }
    }

    fn command<'a>(&mut self, command: impl Into<Command<'a>>) -> Result<SequenceNo, Fault> {
        let mut out = Vec::new();
        command.into().encode_frames(SessionHeader { sync: true }, CHANNEL, FRAME_MAX, &mut out);
        let id = self.next;
        self.next = id.next();
        self.stream.write_all(&out)?;
        Ok(id)
    }

    fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) -> Result<(), Fault> {
        let mut out = Vec::new();
        control.into().encode_frames(channel, FRAME_MAX, &mut out);
        Ok(self.stream.write_all(&out)?)
    }

    fn wait(&mut self, id: SequenceNo) -> Result<(), Fault> {
        while !id.is_before(self.completed) {
            self.read()?;
        }
        Ok(())
    }

    fn result(&mut self, id: SequenceNo) -> Result<Vec<u8>, Fault> {
        loop {
            if let Some(result) = self.results.remove(&id.0) {
                return Ok(result);
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> Result<(), Fault> {
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(Fault::Lost),
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(Fault::Refused(format!("no answer within {PATIENCE:?}")));
            }
            Err(_) => return Err(Fault::Lost),
        }
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        if !self.greeted && rest.len() >= HEADER.len() {
            assert!(rest.starts_with(HEADER), "the broker greets in its protocol");
            self.greeted = true;
            rest = &rest[HEADER.len()..];
        }
        while self.greeted
            && let Some((frame, taken)) = frame::parse(rest, FRAME_MAX).expect("a well-formed frame")
        {
            rest = &rest[taken..];
            self.frame(&frame)?;
        }
        self.input = rest.to_vec();
        Ok(())
    }

    fn frame(&mut self, frame: &frame::Frame<'_>) -> Result<(), Fault> {
        if frame.track == Track::Control {
            let assembler = &mut self.controls[usize::from(frame.channel)];
            if let Some(Piece::Segment { payload, .. }) =
                assembler.push(frame).expect("frames in their places")
            {
                let payload = payload.to_vec();
                return self.hear_control(Control::decode(&payload).expect("a well-formed control"));
            }
            return Ok(());
        }
        match self.commands.push(frame).expect("frames in their places") {
            None => {}
            Some(Piece::Segment { kind: SegmentType::Command, payload, .. }) => {
                let payload = payload.to_vec();
                let (command, _) = Command::decode(&payload).expect("a well-formed command");
                return self.hear_command(command);
            }
            Some(Piece::Segment { payload, .. }) => {
                let header = ContentHeader::parse(payload).expect("a well-formed header");
                let properties = header.delivery_properties().expect("delivery properties");
                let message = self.arrived.last_mut().expect("a header follows a transfer");
                message.redelivered = properties.redelivered;
            }
            Some(Piece::Body { payload, .. }) => {
                let message = self.arrived.last_mut().expect("a body follows a transfer");
                message.body.extend_from_slice(payload);
            }
        }
        Ok(())
    }

    fn hear_control(&mut self, control: Control<'_>) -> Result<(), Fault> {
        let name = self.name.clone();
        let name = Some(&name[..]);
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
            Control::ConnectionTune(tune) => {
                let max_frame_size = Some(FRAME_MAX);
                let channel_max = tune.channel_max;
                self.control(0, ConnectionTuneOk { channel_max, max_frame_size, heartbeat: None })?;
                self.control(0, ConnectionOpen { virtual_host: Some(b"/"), ..ConnectionOpen::default() })
            }
            Control::ConnectionOpenOk(_) => self.control(CHANNEL, SessionAttach { name, force: false }),
            Control::SessionAttached(_) => {
                self.attached = true;
                let (command_id, command_offset) = (Some(self.next), Some(0));
                self.control(CHANNEL, SessionCommandPoint { command_id, command_offset })
            }
            Control::SessionCommandPoint(point) => {
                self.expected = point.command_id.expect("a command id");
                Ok(())
            }
            Control::SessionCompleted(completed) => {
                let set = completed.commands;
                for (first, last) in set.unwrap_or_default().iter() {
                    // A gap does not occur: one thing at a time.
                    if !self.completed.is_before(first) {
                        self.completed = last.next();
                    }
                }
                match completed.timely_reply {
                    true => self.control(CHANNEL, SessionKnownCompleted { commands: set }),
                    false => Ok(()),
                }
            }
            Control::ConnectionClose(_) | Control::SessionDetach(_) => Err(Fault::Lost),
            _ => Ok(()),
        }
    }

    fn hear_command(&mut self, command: Command<'_>) -> Result<(), Fault> {
        let id = self.expected;
        self.expected = id.next();
        match command {
            Command::MessageTransfer(_) => {
                self.arrived.push(Arrived { id, redelivered: false, body: Vec::new() });
                Ok(())
            }
            Command::ExecutionException(exception) => {
                let text = String::from_utf8_lossy(exception.description.unwrap_or_default()).into_owned();
                Err(Fault::Refused(text))
            }
            Command::ExecutionResult(result) => {
                let of = result.command_id.expect("the id of a command");
                self.results.insert(of.0, result.value.expect("a value").as_bytes().to_vec());
                Ok(())
            }
            command => panic!("a client heard {command:?}"),
        }
    }
}

fn xid(name: &str) -> Xid<'_> {
    Xid { format: Some(1), global_id: Some(name.as_bytes()), branch_id: Some(b"b") }
}

trait DecodeBytes<'a> {
    fn decode_bytes(bytes: &'a [u8]) -> Struct<'a>;
}

impl<'a> DecodeBytes<'a> for Struct<'a> {
    fn decode_bytes(bytes: &'a [u8]) -> Struct<'a> {
        Struct::decode(fulmar_amqp_0_10::codec::StructRef::new(bytes)).expect("a well-formed result")
    }
}
