//! A client's connection in AMQP 0-10: handshake, session, commands out and in, messages put together.

mod returning;

use std::collections::VecDeque;
use std::net::SocketAddr;

use fulmar_amqp_0_10::codec::frame;
use fulmar_amqp_0_10::codec::segment::{Assembler, Limits, Piece};
use fulmar_amqp_0_10::codec::table::*;
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::value::encode_map;
use fulmar_amqp_0_10::codec::{
    Command, ContentHeader, Control, MapRef, SequenceNo, SequenceSet, Struct, Value,
};
use fulmar_transport::sim::Random;

use crate::queues::LABEL;
use crate::talk::{Heard, Line, Marks, Settling, Talk};
use crate::ways::{Socket, Ways};

use returning::Returning;

const HEADER: &[u8] = b"AMQP\x01\x01\x00\x0a";
const CHANNEL: u16 = 1;
/// Destination of the only subscription.
const DESTINATION: Option<&[u8]> = Some(b"c");
const LIMITS: Limits = Limits { segment_bytes: 1 << 20, body_bytes: 1 << 30 };

/// What the completion of a command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Nothing,
    Done,
    /// Of the publish with this tag.
    Confirm(u64),
    Committed,
    RolledBack,
    Flushed,
    Cancelled,
    /// A step with a branch of a distributed transaction; what counts is its result.
    Branch(Step),
}

/// Where a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Preparing,
    Committing,
    RollingBack,
    Recovering,
}

pub struct Wire010 {
    socket: Socket,
    greeted: bool,
    frame_max: u16,
    session: String,
    controls: [Assembler; 2],
    commands: Assembler,
    /// The next command.
    next: SequenceNo,
    /// Not completed yet.
    open: VecDeque<(SequenceNo, Meaning)>,
    transactional: bool,
    /// Transactions are branches of distributed ones.
    distributed: bool,
    /// Branches begun, and whether one is open.
    branches: u32,
    has_branch: bool,
    published: u64,
    /// The broker's next command.
    expected: SequenceNo,
    /// Ids of all deliveries; the tag is the place, from 1.
    deliveries: Vec<SequenceNo>,
    arriving: Option<Arriving>,
    fetches: bool,
    /// What it takes to come back when the connection is lost.
    returning: Option<Returning>,
}

struct Arriving {
    redelivered: bool,
    died_in: Option<String>,
    body: Vec<u8>,
}

impl Wire010 {
    pub fn connect(ways: &Ways, address: SocketAddr, random: &mut Random) -> Self {
        Wire010::over(Socket::connect(ways, address, HEADER, random), random)
    }

    fn over(socket: Socket, random: &mut Random) -> Self {
        Wire010 {
            socket,
            greeted: false,
            frame_max: if random.chance(500_000) { 4096 } else { 65_535 },
            session: format!("s{}", random.next_u64()),
            controls: [Track::Control, Track::Control].map(|track| Assembler::new(track, LIMITS)),
            commands: Assembler::new(Track::Command, LIMITS),
            // Some sessions see their ids start anew.
            next: SequenceNo(if random.chance(500_000) { 0 } else { u32::MAX - 20 }),
            open: VecDeque::new(),
            transactional: false,
            distributed: random.chance(500_000),
            branches: 0,
            has_branch: false,
            published: 0,
            expected: SequenceNo(0),
            deliveries: Vec::new(),
            arriving: None,
            fetches: false,
            returning: None,
        }
    }

    /// One that comes back, now and then.
    pub fn connect_often(ways: &Ways, address: SocketAddr, random: &mut Random) -> Self {
        if random.chance(400_000) {
            return Wire010::connect(ways, address, random);
        }
        // Connections over RDMA stay where they are.
        let mut wire = Wire010::over(Socket::over_tcp(&ways.network, address, HEADER), random);
        wire.returning = Some(Returning::new(ways, address, random));
        wire
    }

    fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) {
        control.into().encode_frames(channel, self.frame_max, &mut self.socket.output);
    }

    fn command<'a>(&mut self, command: impl Into<Command<'a>>, meaning: Meaning) {
        let header = SessionHeader { sync: meaning != Meaning::Nothing };
        let mut frames = Vec::new();
        command.into().encode_frames(header, CHANNEL, self.frame_max, &mut frames);
        self.say(&frames, meaning);
    }

    /// Sends a command.
    fn say(&mut self, frames: &[u8], meaning: Meaning) {
        self.remember(frames);
        if self.is_in_touch() {
            self.socket.output.extend_from_slice(frames);
        }
        self.open.push_back((self.next, meaning));
        self.next = self.next.next();
    }

    fn credit(&mut self, messages: u32) {
        for (unit, value) in [(CreditUnit::Message, messages), (CreditUnit::Byte, u32::MAX)] {
            let flow = MessageFlow { destination: DESTINATION, unit: Some(unit), value: Some(value) };
            self.command(flow, Meaning::Nothing);
        }
    }

    /// Takes every whole frame of the input.
    fn understand(&mut self, heard: &mut Vec<Heard>) {
        let input = std::mem::take(&mut self.socket.input);
        let mut rest = &input[..];
        if !self.greeted && rest.len() >= HEADER.len() {
            assert!(rest.starts_with(HEADER), "the broker greets in its protocol");
            self.greeted = true;
            rest = &rest[HEADER.len()..];
        }
        while self.greeted
            && let Some((frame, taken)) = frame::parse(rest, self.frame_max).expect("a well-formed frame")
        {
            rest = &rest[taken..];
            if frame.track == Track::Control {
                let assembler = &mut self.controls[usize::from(frame.channel)];
                let piece = assembler.push(&frame).expect("frames in their places");
                if let Some(Piece::Segment { payload, .. }) = piece {
                    let payload = payload.to_vec();
                    self.hear_control(Control::decode(&payload).expect("a well-formed control"), heard);
                }
                continue;
            }
            match self.commands.push(&frame).expect("frames in their places") {
                None => {}
                Some(Piece::Segment { kind: SegmentType::Command, payload, .. }) => {
                    let payload = payload.to_vec();
                    let (command, _) = Command::decode(&payload).expect("a well-formed command");
                    self.hear_command(command, heard);
                }
                Some(Piece::Segment { payload, is_last, .. }) => {
                    let payload = payload.to_vec();
                    self.hear_header(&payload);
                    self.finish_message(is_last, heard);
                }
                Some(Piece::Body { payload, is_last }) => {
                    let arriving = self.arriving.as_mut().expect("a body follows a transfer");
                    arriving.body.extend_from_slice(payload);
                    self.finish_message(is_last, heard);
                }
            }
        }
        self.socket.input = rest.to_vec();
    }

    fn hear_control(&mut self, control: Control<'_>, heard: &mut Vec<Heard>) {
        if self.hear_returning(&control) {
            return;
        }
        let name = self.session.clone();
        let name = Some(name.as_bytes());
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
                let most = tune.max_frame_size.unwrap_or(u16::MAX);
                assert!(u32::from(most) <= self.socket.largest_frame_bytes(), "frames of {most} bytes");
                self.frame_max = self.frame_max.min(most);
                let max_frame_size = Some(self.frame_max);
                let (channel_max, heartbeat) = (tune.channel_max, Some(self.socket.tune()));
                self.control(0, ConnectionTuneOk { channel_max, max_frame_size, heartbeat });
                let open = ConnectionOpen { virtual_host: Some(b"/"), ..ConnectionOpen::default() };
                self.control(0, open);
            }
            Control::ConnectionOpenOk(_) => self.control(CHANNEL, SessionAttach { name, force: false }),
            Control::SessionAttached(attached) => {
                assert_eq!(attached.name, name);
                let command_id = Some(self.next);
                self.control(CHANNEL, SessionCommandPoint { command_id, command_offset: Some(0) });
                self.ask_to_stay();
                heard.push(Heard::Ready);
            }
            Control::SessionCommandPoint(point) => {
                self.expected = point.command_id.expect("a command id");
            }
            Control::SessionCompleted(completed) => {
                if completed.timely_reply {
                    self.control(CHANNEL, SessionKnownCompleted { commands: completed.commands });
                }
                self.completed(completed.commands.unwrap_or_default(), heard);
            }
            Control::SessionDetach(_) => {
                self.control(CHANNEL, SessionDetached { name, code: Some(DetachCode::Normal) });
            }
            Control::ConnectionClose(close) => {
                self.control(0, ConnectionCloseOk {});
                match close.reply_code {
                    Some(CloseCode::ConnectionForced) => heard.push(Heard::Goodbye),
                    code => heard.push(Heard::Expelled {
                        code: code.map_or(0, CloseCode::code),
                        text: String::from_utf8_lossy(close.reply_text.unwrap_or_default()).into_owned(),
                    }),
                }
            }
            Control::ConnectionHeartbeat(_)
            | Control::SessionKnownCompleted(_)
            | Control::SessionConfirmed(_)
            | Control::SessionExpected(_)
            | Control::SessionTimeout(_)
            | Control::SessionFlush(_) => {}
            control => panic!("a client heard {control:?}"),
        }
    }

    fn completed(&mut self, commands: SequenceSet<'_>, heard: &mut Vec<Heard>) {
        let is_complete =
            |id: SequenceNo| commands.iter().any(|(first, last)| !id.is_before(first) && !last.is_before(id));
        self.forget(is_complete);
        for (id, meaning) in std::mem::take(&mut self.open) {
            if !is_complete(id) {
                self.open.push_back((id, meaning));
                continue;
            }
            match meaning {
                Meaning::Confirm(_) if self.transactional => {}
                Meaning::Confirm(tag) => heard.push(Heard::Ack { tag, multiple: false }),
                Meaning::Committed => heard.push(Heard::Committed),
                Meaning::RolledBack => heard.push(Heard::RolledBack),
                Meaning::Flushed => heard.push(Heard::GetEmpty),
                Meaning::Cancelled => heard.push(Heard::Cancelled),
                Meaning::Done => heard.push(Heard::Done),
                // The result came before.
                Meaning::Branch(_) => {}
                Meaning::Nothing => {}
            }
        }
    }

    fn hear_command(&mut self, command: Command<'_>, heard: &mut Vec<Heard>) {
        let id = self.expected;
        self.expected = id.next();
        match command {
            Command::MessageTransfer(_) => {
                self.deliveries.push(id);
                self.arriving = Some(Arriving { redelivered: false, died_in: None, body: Vec::new() });
            }
            Command::ExecutionException(exception) => heard.push(Heard::Refused {
                code: exception.error_code.map_or(0, ErrorCode::code),
                text: String::from_utf8_lossy(exception.description.unwrap_or_default()).into_owned(),
            }),
            Command::ExecutionResult(result) => {
                let of = result.command_id.expect("the id of a command");
                let step = self.open.iter().find_map(|(id, meaning)| match meaning {
                    Meaning::Branch(step) if *id == of => Some(*step),
                    _ => None,
                });
                if let Some(step) = step {
                    let value = result.value.expect("a value");
                    self.branch_moved(step, Struct::decode(value).expect("a well-formed result"), heard);
                }
            }
            command => panic!("a client heard {command:?}"),
        }
    }

    fn branch_moved(&mut self, step: Step, result: Struct<'_>, heard: &mut Vec<Heard>) {
        if let Struct::RecoverResult(result) = result {
            let in_doubt: Vec<String> = result
                .in_doubt
                .expect("a list")
                .iter()
                .map(|xid| match xid.expect("a well-formed list") {
                    Value::Struct32(xid) => match Struct::decode(xid).expect("a well-formed name") {
                        Struct::Xid(xid) => {
                            String::from_utf8(xid.global_id.expect("a name").to_vec()).expect("UTF-8")
                        }
                        other => panic!("a branch named {other:?}"),
                    },
                    other => panic!("a branch named {other:?}"),
                })
                .collect();
            return heard.push(Heard::InDoubt(in_doubt));
        }
        let Struct::XaResult(XaResult { status }) = result else { panic!("{step:?}: {result:?}") };
        if status != Some(XaStatus::Ok) {
            let text = match status {
                Some(XaStatus::RollbackOnly) => "a queue is full".to_string(),
                status => format!("{status:?}"),
            };
            return heard.push(Heard::Refused { code: ErrorCode::ResourceLimitExceeded.code(), text });
        }
        match step {
            Step::Preparing => heard.push(Heard::Prepared(self.global_id())),
            Step::Committing => heard.push(Heard::Committed),
            Step::RollingBack => heard.push(Heard::RolledBack),
            Step::Recovering => panic!("a status in place of branches"),
        }
    }

    /// The name of the branch that was begun last.
    fn global_id(&self) -> String {
        format!("{}-{}", self.session, self.branches)
    }

    fn end_branch(&mut self, commit: bool) {
        self.has_branch = false;
        let global_id = self.global_id();
        let xid = Some(xid(&global_id));
        self.command(DtxEnd { xid, fail: false, suspend: false }, Meaning::Nothing);
        match commit {
            true if self.branches.is_multiple_of(2) => {
                self.command(DtxCommit { xid, one_phase: true }, Meaning::Branch(Step::Committing));
            }
            true => self.command(DtxPrepare { xid }, Meaning::Branch(Step::Preparing)),
            false => self.command(DtxRollback { xid }, Meaning::Branch(Step::RollingBack)),
        }
    }

    /// Asks for the branches that are prepared and neither committed nor rolled back.
    pub fn recover(&mut self) {
        self.command(DtxRecover {}, Meaning::Branch(Step::Recovering));
    }

    /// Ends a branch, by the name that [`Heard::InDoubt`] told.
    pub fn settle_branch(&mut self, branch: &str, commit: bool) {
        let xid = Some(xid(branch));
        match commit {
            true => {
                self.command(DtxCommit { xid, one_phase: false }, Meaning::Branch(Step::Committing));
            }
            false => self.command(DtxRollback { xid }, Meaning::Branch(Step::RollingBack)),
        }
    }

    fn hear_header(&mut self, payload: &[u8]) {
        let header = ContentHeader::parse(payload).expect("a well-formed header");
        let arriving = self.arriving.as_mut().expect("a header follows a transfer");
        arriving.redelivered = header.delivery_properties().expect("delivery properties").redelivered;
        let headers = header.message_properties().expect("message properties").application_headers;
        let died_in = headers.and_then(|map| map.get(b"x-first-death-queue").expect("a well-formed map"));
        arriving.died_in = died_in.map(|value| match value {
            Value::Str8(text) | Value::Str16(text) => String::from_utf8(text.to_vec()).expect("UTF-8"),
            value => panic!("a queue named {value:?}"),
        });
    }

    fn finish_message(&mut self, is_last: bool, heard: &mut Vec<Heard>) {
        if !is_last {
            return;
        }
        let Some(Arriving { redelivered, died_in, body }) = self.arriving.take() else { return };
        let tag = self.deliveries.len() as u64;
        heard.push(Heard::Message { fetched: self.fetches, tag, redelivered, body, died_in });
    }
}

impl Talk for Wire010 {
    fn pump(&mut self, most: usize, heard: &mut Vec<Heard>) -> Line {
        self.have_a_whim();
        self.socket.receive(most);
        self.understand(heard);
        if self.socket.is_quiet() {
            self.control(0, ConnectionHeartbeat {});
        }
        self.socket.send();
        match self.socket.line() {
            _ if self.is_lost() => Line::Down,
            Line::Down if self.come_back() => Line::Up,
            line => line,
        }
    }

    fn send(&mut self) {
        self.socket.send();
    }

    fn unsent(&self) -> usize {
        self.socket.unsent()
    }

    fn reset(self: Box<Self>) {
        self.socket.reset();
    }

    fn begin_publishing(&mut self, transactional: bool) {
        self.transactional = transactional;
        if transactional && self.distributed {
            self.command(DtxSelect {}, Meaning::Done);
        } else if transactional {
            self.command(TxSelect {}, Meaning::Done);
        } else {
            self.command(ExecutionSync {}, Meaning::Done);
        }
    }

    fn publish(&mut self, exchange: &str, key: &str, marks: &Marks, body: &[u8]) {
        if self.transactional && self.distributed && !self.has_branch {
            self.has_branch = true;
            self.branches += 1;
            let global_id = self.global_id();
            self.command(
                DtxStart { xid: Some(xid(&global_id)), join: false, resume: false },
                Meaning::Nothing,
            );
        }
        let mut header = Vec::new();
        DeliveryProperties {
            routing_key: Some(key.as_bytes()),
            priority: marks.priority.map(DeliveryPriority::from_code),
            delivery_mode: marks.persistent.then_some(DeliveryMode::Persistent),
            ..Default::default()
        }
        .encode(&mut header);
        if let Some(label) = &marks.label {
            let mut map = Vec::new();
            encode_map([(LABEL.as_bytes(), Value::Str16(label.as_bytes()))], &mut map);
            let application_headers = Some(MapRef::new(&map));
            MessageProperties { application_headers, ..Default::default() }.encode(&mut header);
        }
        let transfer = Transfer {
            destination: exchange.as_bytes(),
            accept_mode: AcceptMode::None,
            sync: true,
            header: &header,
            body,
            ..Default::default()
        };
        let mut frames = Vec::new();
        transfer::encode(&transfer, CHANNEL, self.frame_max, &mut frames);
        self.published += 1;
        self.say(&frames, Meaning::Confirm(self.published));
    }

    fn end_transaction(&mut self, commit: bool) {
        if self.distributed {
            self.end_branch(commit);
        } else if commit {
            self.command(TxCommit {}, Meaning::Committed);
        } else {
            self.command(TxRollback {}, Meaning::RolledBack);
        }
    }

    fn commit_prepared(&mut self) {
        let global_id = self.global_id();
        let commit = DtxCommit { xid: Some(xid(&global_id)), one_phase: false };
        self.command(commit, Meaning::Branch(Step::Committing));
    }

    fn begin_settling(&mut self) {
        self.distributed = false;
        self.command(TxSelect {}, Meaning::Done);
    }

    fn subscribe(&mut self, queue: &str, prefetch: u16) {
        let subscribe = MessageSubscribe {
            queue: Some(queue.as_bytes()),
            destination: DESTINATION,
            accept_mode: Some(AcceptMode::Explicit),
            acquire_mode: Some(AcquireMode::PreAcquired),
            ..Default::default()
        };
        self.command(subscribe, Meaning::Done);
        let flow_mode = Some(FlowMode::Window);
        self.command(MessageSetFlowMode { destination: DESTINATION, flow_mode }, Meaning::Nothing);
        self.credit(if prefetch == 0 { u32::MAX } else { prefetch.into() });
    }

    fn fetch(&mut self, queue: &str) {
        if !self.fetches {
            self.fetches = true;
            let subscribe = MessageSubscribe {
                queue: Some(queue.as_bytes()),
                destination: DESTINATION,
                accept_mode: Some(AcceptMode::Explicit),
                acquire_mode: Some(AcquireMode::PreAcquired),
                ..Default::default()
            };
            self.command(subscribe, Meaning::Nothing);
            let flow_mode = Some(FlowMode::Credit);
            self.command(MessageSetFlowMode { destination: DESTINATION, flow_mode }, Meaning::Nothing);
        }
        self.credit(1);
        self.command(MessageFlush { destination: DESTINATION }, Meaning::Flushed);
    }

    fn cancel(&mut self) {
        self.command(MessageCancel { destination: DESTINATION }, Meaning::Cancelled);
    }

    fn settle(&mut self, tags: &[u64], _multiple: bool, how: Settling) {
        let mut ranges = Vec::new();
        for tag in tags {
            let id = self.deliveries[*tag as usize - 1].0;
            ranges.extend_from_slice(&id.to_be_bytes());
            ranges.extend_from_slice(&id.to_be_bytes());
        }
        let transfers = Some(SequenceSet::new(&ranges).expect("whole ranges"));
        match how {
            Settling::Accept => self.command(MessageAccept { transfers }, Meaning::Nothing),
            Settling::Requeue => {
                self.command(MessageRelease { transfers, set_redelivered: true }, Meaning::Nothing);
            }
            Settling::Reject => {
                let code = Some(RejectCode::Unspecified);
                self.command(MessageReject { transfers, code, text: None }, Meaning::Nothing);
            }
        }
        self.tell_settled(&ranges);
    }

    fn dies_of_refusals(&self) -> bool {
        true
    }
}

fn xid(global_id: &str) -> Xid<'_> {
    Xid { format: Some(1), global_id: Some(global_id.as_bytes()), branch_id: Some(b"b") }
}
