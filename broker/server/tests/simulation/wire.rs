//! A client's connection in AMQP 0-9-1: handshake, frames out and in, contents put together.

use std::net::SocketAddr;

use fulmar_amqp_0_9_1::codec::frame::{self, ContentHeader, FrameKind, encode_content};
use fulmar_amqp_0_9_1::codec::properties::Properties;
use fulmar_amqp_0_9_1::codec::table::{TableRef, encode_table};
use fulmar_amqp_0_9_1::codec::{Method, PROTOCOL_HEADER};
use fulmar_core::{Name, Table, Value};
use fulmar_transport::sim::Random;

use crate::queues::LABEL;
use crate::talk::{Heard, Line, Marks, Settling, Talk};
use crate::ways::{Socket, Ways};

/// The channel that every client uses.
pub const CHANNEL: u16 = 1;
const HEARTBEAT: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0xce];

pub struct Wire {
    socket: Socket,
    frame_max: u32,
    partial: Option<Partial>,
}

struct Partial {
    fetched: bool,
    tag: u64,
    redelivered: bool,
    body_bytes: usize,
    body: Vec<u8>,
    died_in: Option<String>,
}

impl Wire {
    pub fn connect(ways: &Ways, address: SocketAddr, random: &mut Random) -> Self {
        Wire {
            socket: Socket::connect(ways, address, &PROTOCOL_HEADER, random),
            frame_max: if random.chance(500_000) { 4096 } else { 131_072 },
            partial: None,
        }
    }

    pub fn write(&mut self, method: &Method<'_>) {
        method.encode(CHANNEL, &mut self.socket.output);
    }

    /// Takes every whole frame of the input.
    fn understand(&mut self, heard: &mut Vec<Heard>) {
        let input = std::mem::take(&mut self.socket.input);
        let mut rest = &input[..];
        while let Some((frame, taken)) =
            frame::parse(rest, self.frame_max).expect("the broker sends well-formed frames")
        {
            rest = &rest[taken..];
            match frame.kind {
                FrameKind::Method => {
                    self.method(Method::decode(frame.payload).expect("a well-formed method"), heard);
                }
                FrameKind::Header => self.header(frame.payload, heard),
                FrameKind::Body => {
                    let partial = self.partial.as_mut().expect("a body follows a header");
                    partial.body.extend_from_slice(frame.payload);
                    self.finish_message(heard);
                }
                FrameKind::Heartbeat => {}
            }
        }
        self.socket.input = rest.to_vec();
    }

    fn method(&mut self, method: Method<'_>, heard: &mut Vec<Heard>) {
        match method {
            Method::ConnectionStart { .. } => Method::ConnectionStartOk {
                client_properties: TableRef::EMPTY,
                mechanism: b"PLAIN",
                response: b"\0guest\0guest",
                locale: b"en_US",
            }
            .encode(0, &mut self.socket.output),
            Method::ConnectionTune { channel_max, frame_max, .. } => {
                self.frame_max = self.frame_max.min(frame_max);
                assert!(frame_max <= self.socket.largest_frame_bytes(), "frames of {frame_max} bytes");
                let heartbeat = self.socket.tune();
                Method::ConnectionTuneOk { channel_max, frame_max: self.frame_max, heartbeat }
                    .encode(0, &mut self.socket.output);
                Method::ConnectionOpen { virtual_host: b"/" }.encode(0, &mut self.socket.output);
            }
            Method::ConnectionOpenOk => self.write(&Method::ChannelOpen),
            Method::ChannelOpenOk => heard.push(Heard::Ready),
            Method::BasicAck { delivery_tag: tag, multiple } => heard.push(Heard::Ack { tag, multiple }),
            Method::BasicNack { delivery_tag: tag, multiple, .. } => {
                heard.push(Heard::Nack { tag, multiple })
            }
            Method::BasicDeliver { delivery_tag: tag, redelivered, .. }
            | Method::BasicGetOk { delivery_tag: tag, redelivered, .. } => {
                assert!(self.partial.is_none(), "a message within a message");
                let fetched = matches!(method, Method::BasicGetOk { .. });
                let body = Vec::new();
                self.partial =
                    Some(Partial { fetched, tag, redelivered, body_bytes: 0, body, died_in: None });
            }
            Method::BasicGetEmpty => heard.push(Heard::GetEmpty),
            Method::BasicCancelOk { .. } => heard.push(Heard::Cancelled),
            Method::ChannelCloseOk => heard.push(Heard::Closed),
            Method::TxCommitOk => heard.push(Heard::Committed),
            Method::TxRollbackOk => heard.push(Heard::RolledBack),
            Method::ConnectionClose { reply_code: 320, .. } => {
                Method::ConnectionCloseOk.encode(0, &mut self.socket.output);
                heard.push(Heard::Goodbye);
            }
            Method::ConnectionClose { reply_code, reply_text, .. } => {
                let text = String::from_utf8_lossy(reply_text).into_owned();
                heard.push(Heard::Expelled { code: reply_code, text });
            }
            Method::ChannelClose { reply_code: code, reply_text, .. } => {
                // What was begun on the channel is not finished.
                self.partial = None;
                let text = String::from_utf8_lossy(reply_text).into_owned();
                heard.push(Heard::Refused { code, text });
            }
            Method::ConnectionCloseOk => heard.push(Heard::Goodbye),
            Method::ConnectionBlocked { .. } | Method::ConnectionUnblocked => {}
            _ => heard.push(Heard::Done),
        }
    }

    fn header(&mut self, payload: &[u8], heard: &mut Vec<Heard>) {
        let header = ContentHeader::parse(payload).expect("a well-formed content header");
        let partial = self.partial.as_mut().expect("a header follows a method");
        partial.body_bytes = header.body_size as usize;
        let properties = Properties::decode(header.properties).expect("well-formed properties");
        partial.died_in = properties
            .headers
            .and_then(|headers| headers.get(b"x-first-death-queue").expect("a well-formed table"))
            .map(|queue| String::from_utf8(queue.as_bytes().expect("text").to_vec()).expect("UTF-8"));
        self.finish_message(heard);
    }

    fn finish_message(&mut self, heard: &mut Vec<Heard>) {
        if let Some(Partial { fetched, tag, redelivered, body, died_in, .. }) =
            self.partial.take_if(|partial| partial.body.len() == partial.body_bytes)
        {
            heard.push(Heard::Message { fetched, tag, redelivered, body, died_in });
        }
    }
}

impl Talk for Wire {
    fn pump(&mut self, most: usize, heard: &mut Vec<Heard>) -> Line {
        self.socket.receive(most);
        self.understand(heard);
        if self.socket.is_quiet() {
            self.socket.output.extend(HEARTBEAT);
        }
        self.socket.send();
        self.socket.line()
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
        match transactional {
            true => self.write(&Method::TxSelect),
            false => self.write(&Method::ConfirmSelect { no_wait: false }),
        }
    }

    fn publish(&mut self, exchange: &str, key: &str, marks: &Marks, body: &[u8]) {
        let (exchange, routing_key) = (exchange.as_bytes(), key.as_bytes());
        self.write(&Method::BasicPublish { exchange, routing_key, mandatory: false, immediate: false });
        let mut headers = Vec::new();
        let delivery_mode = marks.persistent.then_some(2);
        let mut properties = Properties { priority: marks.priority, delivery_mode, ..Properties::default() };
        if let Some(label) = &marks.label {
            let mut table = Table::default();
            table.set(LABEL.as_bytes(), Value::Text(Name::from(&label[..])));
            encode_table(&table, &mut headers);
            properties.headers = Some(TableRef::new(&headers));
        }
        let mut encoded = Vec::new();
        properties.encode(&mut encoded);
        encode_content(CHANNEL, &encoded, body, self.frame_max, &mut self.socket.output);
    }

    fn end_transaction(&mut self, commit: bool) {
        self.write(if commit { &Method::TxCommit } else { &Method::TxRollback });
    }

    fn begin_settling(&mut self) {
        self.write(&Method::TxSelect);
    }

    fn subscribe(&mut self, queue: &str, prefetch: u16) {
        self.write(&Method::BasicQos { prefetch_size: 0, prefetch_count: prefetch, global: false });
        self.write(&Method::BasicConsume {
            queue: queue.as_bytes(),
            consumer_tag: b"c",
            no_local: false,
            no_ack: false,
            exclusive: false,
            no_wait: false,
            arguments: TableRef::EMPTY,
        });
    }

    fn fetch(&mut self, queue: &str) {
        self.write(&Method::BasicGet { queue: queue.as_bytes(), no_ack: false });
    }

    fn cancel(&mut self) {
        self.write(&Method::BasicCancel { consumer_tag: b"c", no_wait: false });
    }

    fn settle(&mut self, tags: &[u64], multiple: bool, how: Settling) {
        let Some(&delivery_tag) = tags.last() else { return };
        match how {
            Settling::Accept => self.write(&Method::BasicAck { delivery_tag, multiple }),
            Settling::Requeue => self.write(&Method::BasicNack { delivery_tag, multiple, requeue: true }),
            Settling::Reject => self.write(&Method::BasicNack { delivery_tag, multiple, requeue: false }),
        }
    }

    fn dies_of_refusals(&self) -> bool {
        false
    }
}
