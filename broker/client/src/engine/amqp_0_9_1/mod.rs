//! The client's side of an AMQP 0-9-1 connection.

pub(crate) mod properties;
mod requests;

use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::frame::{
    self, ContentHeader, Frame, FrameError, FrameKind, HEARTBEAT, MIN_FRAME_MAX_BYTES, OVERHEAD_BYTES,
};
use fulmar_amqp_0_9_1::codec::method::class;
use fulmar_amqp_0_9_1::codec::table::encode_table;
use fulmar_amqp_0_9_1::codec::{CodecError, Method, PROTOCOL_HEADER, TableRef, fast, reply_code};
use fulmar_core::{Table, Value};

use self::requests::method_of;
use super::login::{self, Login};
use super::{Event, Heart};
use crate::message::{Message, Publish};
use crate::request::{QueueInfo, Reply, Request, Settle};
use crate::{Error, Options};

/// Room taken for a body before any of it has come.
const BODY_RESERVE_BYTES: u64 = 1 << 20;

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitStart,
    AwaitTune,
    AwaitOpenOk,
    Open,
    Closing,
    Closed,
}

/// One connection, from the protocol header to the close.
pub(crate) struct Engine {
    options: Options,
    phase: Phase,
    /// While it is going on.
    login: Option<Login>,
    /// What to send.
    out: Vec<u8>,
    frame_max: u32,
    channel_max: u16,
    heart: Heart,
    /// Content that is on its way, by channel.
    contents: Vec<Option<Content>>,
    /// Properties under construction, kept for their memory.
    scratch: Vec<u8>,
}

/// A method that carries content, with as much of it as has come.
struct Content {
    carrier: Carrier,
    message: Message,
    /// Bytes of the body that are missing; `None` before the header.
    missing: Option<u64>,
}

enum Carrier {
    Deliver { delivery_tag: u64, redelivered: bool },
    Return { code: u16, text: String },
    GetOk { delivery_tag: u64, redelivered: bool, message_count: u32 },
}

impl Engine {
    /// Begins with the protocol header in the output.
    pub(crate) fn new(options: Options, now: Instant) -> Self {
        Engine {
            frame_max: options.frame_max_bytes.max(MIN_FRAME_MAX_BYTES),
            options,
            phase: Phase::AwaitStart,
            login: None,
            out: PROTOCOL_HEADER.to_vec(),
            channel_max: 0,
            heart: Heart::new(now),
            contents: Vec::new(),
            scratch: Vec::new(),
        }
    }
}

impl super::Engine for Engine {
    fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    fn is_logging_in(&self) -> bool {
        self.phase == Phase::AwaitTune
    }

    fn channel_max(&self) -> u16 {
        self.channel_max
    }

    fn output(&self) -> &[u8] {
        &self.out
    }

    fn take_output(&mut self, spare: Vec<u8>, now: Instant) -> Vec<u8> {
        self.heart.last_sent = now;
        std::mem::replace(&mut self.out, spare)
    }

    fn receive(&mut self, input: &[u8], now: Instant, events: &mut Vec<Event>) -> Result<usize, Error> {
        if !input.is_empty() {
            self.heart.last_received = now;
        }
        let mut taken = 0;
        while self.phase != Phase::Closed {
            let rest = &input[taken..];
            if self.phase == Phase::AwaitStart && rest.first() == Some(&PROTOCOL_HEADER[0]) {
                return Err(Error::Protocol("it does not speak AMQP 0-9-1".into()));
            }
            let Some((frame, len)) = frame::parse(rest, self.frame_max).map_err(bad_frame)? else {
                return Ok(taken);
            };
            taken += len;
            self.frame(frame, events)?;
        }
        Ok(input.len())
    }

    fn next_tick(&self) -> Option<Instant> {
        self.heart.next_tick()
    }

    fn tick(&mut self, now: Instant, listening: bool) -> Result<(), Error> {
        if self.heart.tick(now, listening)? && self.out.is_empty() {
            self.out.extend_from_slice(&HEARTBEAT);
        }
        Ok(())
    }

    fn close(&mut self) {
        if self.phase == Phase::Open {
            let close = Method::ConnectionClose {
                reply_code: reply_code::REPLY_SUCCESS,
                reply_text: b"goodbye",
                class_id: 0,
                method_id: 0,
            };
            close.encode(0, &mut self.out);
            self.phase = Phase::Closing;
        }
    }

    fn request(&mut self, channel: u16, request: &Request) -> Result<(), Error> {
        let mut arguments = Vec::new();
        let method = method_of(request, &mut arguments)?;
        method.encode(channel, &mut self.out);
        if matches!(request, Request::OpenChannel) {
            let index = usize::from(channel);
            if self.contents.len() <= index {
                self.contents.resize_with(index + 1, || None);
            }
            self.contents[index] = None;
        }
        Ok(())
    }

    fn check(&self, publish: &Publish<'_>) -> Result<(), Error> {
        // Most messages have no headers; only those can be too large for a frame.
        if let Some(properties) = publish.properties.filter(|properties| !properties.headers.is_empty()) {
            let mut encoded = Vec::new();
            properties::encode(properties, &mut encoded);
            let max = self.frame_max as usize - OVERHEAD_BYTES - 12;
            if encoded.len() > max {
                let text = format!("the properties have {} bytes, a frame has room for {max}", encoded.len());
                return Err(Error::Argument(text));
            }
        }
        Ok(())
    }

    fn publish(&mut self, channel: u16, publish: &Publish<'_>) {
        self.scratch.clear();
        match publish.properties {
            Some(properties) => properties::encode(properties, &mut self.scratch),
            None => self.scratch.extend_from_slice(&properties::EMPTY),
        }
        let (exchange, routing_key) = (publish.exchange.as_bytes(), publish.routing_key.as_bytes());
        fast::publish(channel, exchange, routing_key, publish.mandatory, false, &mut self.out);
        frame::encode_content(channel, &self.scratch, publish.body, self.frame_max, &mut self.out);
    }

    fn publish_again(&mut self, _: u16, frames: &[u8]) {
        self.out.extend_from_slice(frames);
    }

    fn unanswered(&self, _: u16) -> usize {
        0
    }

    fn settle(&mut self, channel: u16, delivery_tag: u64, settle: Settle) {
        match settle {
            Settle::Ack { multiple } => fast::ack(channel, delivery_tag, multiple, &mut self.out),
            Settle::Nack { multiple, requeue } => {
                fast::nack(channel, delivery_tag, multiple, requeue, &mut self.out);
            }
            Settle::Reject { requeue } => {
                Method::BasicReject { delivery_tag, requeue }.encode(channel, &mut self.out);
            }
            Settle::Release => {
                Method::BasicReject { delivery_tag, requeue: true }.encode(channel, &mut self.out);
            }
        }
    }
}

impl Engine {
    fn frame(&mut self, frame: Frame<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        match frame.kind {
            FrameKind::Heartbeat => Ok(()),
            FrameKind::Method => {
                let method = Method::decode(frame.payload).map_err(bad_content)?;
                if frame.channel == 0 {
                    self.connection_method(method, events)
                } else {
                    self.channel_method(frame.channel, method, events)
                }
            }
            FrameKind::Header => self.content_header(frame.channel, frame.payload, events),
            FrameKind::Body => self.content_body(frame.channel, frame.payload, events),
        }
    }

    fn connection_method(&mut self, method: Method<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        match (self.phase, method) {
            (Phase::AwaitStart, Method::ConnectionStart { mechanisms, .. }) => {
                let offered: Vec<&[u8]> = mechanisms.split(|&byte| byte == b' ').collect();
                let login = Login::new(&self.options, &offered)?;
                self.start_ok(&login);
                self.login = Some(login);
                self.phase = Phase::AwaitTune;
            }
            (Phase::AwaitTune, Method::ConnectionSecure { challenge }) => {
                let login = self.login.as_mut().ok_or_else(|| unexpected("connection.secure"))?;
                let response = login.answer(&self.options, challenge)?;
                Method::ConnectionSecureOk { response: &response }.encode(0, &mut self.out);
            }
            (Phase::AwaitTune, Method::ConnectionTune { channel_max, frame_max, heartbeat }) => {
                self.login = None;
                self.tune(channel_max, frame_max, heartbeat);
                self.phase = Phase::AwaitOpenOk;
            }
            (Phase::AwaitOpenOk, Method::ConnectionOpenOk) => {
                self.phase = Phase::Open;
                events.push(Event::Connected);
            }
            (phase, Method::ConnectionClose { reply_code, reply_text, .. }) => {
                Method::ConnectionCloseOk.encode(0, &mut self.out);
                self.phase = Phase::Closed;
                let text = String::from_utf8_lossy(reply_text).into_owned();
                let refused = reply_code == reply_code::ACCESS_REFUSED && phase != Phase::Open;
                events.push(Event::Closed(match phase {
                    // Both sides closed at once.
                    Phase::Closing => Ok(()),
                    _ if refused => Err(login::refused(&self.options, &text)),
                    _ => Err(Error::ConnectionClosed { code: reply_code, text }),
                }));
            }
            (Phase::Closing, Method::ConnectionCloseOk) => {
                self.phase = Phase::Closed;
                events.push(Event::Closed(Ok(())));
            }
            (Phase::Open | Phase::Closing, Method::ConnectionBlocked { reason }) => {
                events.push(Event::Blocked(Some(String::from_utf8_lossy(reason).into_owned())));
            }
            (Phase::Open | Phase::Closing, Method::ConnectionUnblocked) => events.push(Event::Blocked(None)),
            (_, method) => return Err(unexpected(method.name())),
        }
        Ok(())
    }

    fn start_ok(&mut self, login: &Login) {
        let mut capabilities = Table::default();
        for name in [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "authentication_failure_close",
        ] {
            capabilities.set(name.as_bytes(), Value::Bool(true));
        }
        let mut properties = Table::default();
        let mut set = |name: &str, text: &str| properties.set(name.as_bytes(), Value::Text(text.into()));
        set("product", "fulmar-client");
        set("version", env!("CARGO_PKG_VERSION"));
        set("platform", "Rust");
        if let Some(name) = &self.options.connection_name {
            set("connection_name", name);
        }
        properties.set(b"capabilities", Value::Table(capabilities));
        let mut encoded = Vec::new();
        encode_table(&properties, &mut encoded);
        let response = login.first(&self.options);
        let start_ok = Method::ConnectionStartOk {
            client_properties: TableRef::new(&encoded),
            mechanism: login.mechanism().as_bytes(),
            response: &response,
            locale: b"en_US",
        };
        start_ok.encode(0, &mut self.out);
    }

    /// Agrees on the smaller of both sides' limits, where 0 stands for none.
    fn tune(&mut self, channel_max: u16, frame_max: u32, heartbeat_s: u16) {
        fn smaller<T: Ord + Default>(a: T, b: T) -> T {
            let none = T::default();
            if a == none {
                b
            } else if b == none {
                a
            } else {
                a.min(b)
            }
        }
        self.channel_max = smaller(channel_max, u16::MAX);
        self.frame_max = smaller(frame_max, self.frame_max).max(MIN_FRAME_MAX_BYTES);
        let heartbeat_s = smaller(heartbeat_s, self.options.heartbeat_s);
        self.heart.beat = (heartbeat_s > 0).then(|| Duration::from_secs(heartbeat_s.into()));
        let tune_ok = Method::ConnectionTuneOk {
            channel_max: self.channel_max,
            frame_max: self.frame_max,
            heartbeat: heartbeat_s,
        };
        tune_ok.encode(0, &mut self.out);
        let open = Method::ConnectionOpen { virtual_host: self.options.virtual_host.as_bytes() };
        open.encode(0, &mut self.out);
    }

    fn channel_method(
        &mut self,
        channel: u16,
        method: Method<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        if !matches!(self.phase, Phase::Open | Phase::Closing) || usize::from(channel) >= self.contents.len()
        {
            return Err(unexpected(method.name()));
        }
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if self.contents[usize::from(channel)].is_some() && !matches!(method, Method::ChannelClose { .. }) {
            return Err(unexpected(method.name()));
        }
        let reply = match method {
            Method::BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } => {
                let carrier = Carrier::Deliver { delivery_tag, redelivered };
                self.begin_content(
                    channel,
                    carrier,
                    Message::begin(&properties::ENCODING, consumer_tag, exchange, routing_key),
                );
                return Ok(());
            }
            Method::BasicGetOk { delivery_tag, redelivered, exchange, routing_key, message_count } => {
                let carrier = Carrier::GetOk { delivery_tag, redelivered, message_count };
                self.begin_content(
                    channel,
                    carrier,
                    Message::begin(&properties::ENCODING, b"", exchange, routing_key),
                );
                return Ok(());
            }
            Method::BasicReturn { reply_code, reply_text, exchange, routing_key } => {
                let carrier = Carrier::Return { code: reply_code, text: lossy(reply_text) };
                self.begin_content(
                    channel,
                    carrier,
                    Message::begin(&properties::ENCODING, b"", exchange, routing_key),
                );
                return Ok(());
            }
            Method::BasicAck { delivery_tag, multiple } => {
                events.push(Event::Confirmed { channel, sequence: delivery_tag, multiple, acked: true });
                return Ok(());
            }
            Method::BasicNack { delivery_tag, multiple, .. } => {
                events.push(Event::Confirmed { channel, sequence: delivery_tag, multiple, acked: false });
                return Ok(());
            }
            Method::BasicCancel { consumer_tag, no_wait } => {
                if !no_wait {
                    Method::BasicCancelOk { consumer_tag }.encode(channel, &mut self.out);
                }
                events.push(Event::ConsumerCancelled { channel, consumer_tag: lossy(consumer_tag) });
                return Ok(());
            }
            Method::ChannelFlow { active } => {
                Method::ChannelFlowOk { active }.encode(channel, &mut self.out);
                events.push(Event::Flow { channel, active });
                return Ok(());
            }
            Method::ChannelClose { reply_code, reply_text, .. } => {
                Method::ChannelCloseOk.encode(channel, &mut self.out);
                self.contents[usize::from(channel)] = None;
                let error = Error::ChannelClosed { code: reply_code, text: lossy(reply_text) };
                events.push(Event::ChannelClosed { channel, error });
                return Ok(());
            }
            Method::QueueDeclareOk { queue, message_count, consumer_count } => {
                Reply::Queue(QueueInfo { name: lossy(queue), message_count, consumer_count })
            }
            Method::QueuePurgeOk { message_count } | Method::QueueDeleteOk { message_count } => {
                Reply::Count(message_count)
            }
            Method::BasicGetEmpty => Reply::Empty,
            Method::ChannelOpenOk
            | Method::ChannelCloseOk
            | Method::ExchangeDeclareOk
            | Method::ExchangeDeleteOk
            | Method::ExchangeBindOk
            | Method::ExchangeUnbindOk
            | Method::QueueBindOk
            | Method::QueueUnbindOk
            | Method::BasicQosOk
            | Method::BasicConsumeOk { .. }
            | Method::BasicCancelOk { .. }
            | Method::BasicRecoverOk
            | Method::ConfirmSelectOk
            | Method::TxSelectOk
            | Method::TxCommitOk
            | Method::TxRollbackOk => Reply::Done,
            other => return Err(unexpected(other.name())),
        };
        events.push(Event::Reply { channel, reply });
        Ok(())
    }

    fn begin_content(&mut self, channel: u16, carrier: Carrier, message: Message) {
        self.contents[usize::from(channel)] = Some(Content { carrier, message, missing: None });
    }

    fn content_header(&mut self, channel: u16, payload: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        let header = ContentHeader::parse(payload).map_err(bad_content)?;
        let slot = self.contents.get_mut(usize::from(channel)).and_then(Option::as_mut);
        let Some(content) =
            slot.filter(|content| content.missing.is_none() && header.class_id == class::BASIC)
        else {
            return Err(unexpected("a content header"));
        };
        let reserve = header.body_size.min(BODY_RESERVE_BYTES) as usize;
        content.message.push_properties(header.properties, reserve);
        content.missing = Some(header.body_size);
        if header.body_size == 0 {
            self.finish_content(channel, events);
        }
        Ok(())
    }

    fn content_body(&mut self, channel: u16, payload: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        let slot = self.contents.get_mut(usize::from(channel)).and_then(Option::as_mut);
        let Some(Content { message, missing: Some(missing), .. }) = slot else {
            return Err(unexpected("a content body"));
        };
        *missing = missing
            .checked_sub(payload.len() as u64)
            .ok_or_else(|| Error::Protocol("a body is longer than its header said".into()))?;
        message.push_body(payload);
        if *missing == 0 {
            self.finish_content(channel, events);
        }
        Ok(())
    }

    fn finish_content(&mut self, channel: u16, events: &mut Vec<Event>) {
        let Some(Content { carrier, message, .. }) = self.contents[usize::from(channel)].take() else {
            return;
        };
        events.push(match carrier {
            Carrier::Deliver { delivery_tag, redelivered } => {
                Event::Delivered { channel, delivery_tag, redelivered, message }
            }
            Carrier::Return { code, text } => Event::Returned { channel, code, text, message },
            Carrier::GetOk { delivery_tag, redelivered, message_count } => {
                let reply = Reply::Got { delivery_tag, redelivered, message, message_count };
                Event::Reply { channel, reply }
            }
        });
    }
}

fn bad_frame(error: FrameError) -> Error {
    Error::Protocol(error.to_string())
}

fn bad_content(error: CodecError) -> Error {
    Error::Protocol(error.to_string())
}

fn unexpected(what: &str) -> Error {
    Error::Protocol(format!("{what} came where it is not allowed"))
}
