//! A client's connection: handshake, frames out and in, contents put together.

use std::net::SocketAddr;

use fulmar_amqp_0_9_1::codec::frame::{self, ContentHeader, FrameKind, encode_content};
use fulmar_amqp_0_9_1::codec::properties::{EMPTY, Properties};
use fulmar_amqp_0_9_1::codec::table::TableRef;
use fulmar_amqp_0_9_1::codec::{Method, PROTOCOL_HEADER};
use fulmar_transport::sim::{Network, Random, SimClient, SimClientState};

/// The channel that every client uses.
pub const CHANNEL: u16 = 1;

/// What a client hears.
#[derive(Debug)]
pub enum Heard {
    /// The channel is open.
    Ready,
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
    },
    /// A delivery, or the answer to a `get`. `died_in`: the first queue that it was dead-lettered from.
    Message {
        fetched: bool,
        tag: u64,
        redelivered: bool,
        body: Vec<u8>,
        died_in: Option<String>,
    },
    GetEmpty,
    Cancelled,
    /// The channel is closed, as was asked.
    Closed,
    /// The broker closes the channel.
    Refused {
        code: u16,
        text: String,
    },
    /// The broker closes the connection.
    Expelled {
        code: u16,
        text: String,
    },
    Committed,
    RolledBack,
    /// A declaration or subscription was answered.
    Done,
    /// The broker says goodbye in order.
    Goodbye,
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Up,
    /// Nothing more will come.
    Down,
}

pub struct Wire {
    client: SimClient,
    input: Vec<u8>,
    output: Vec<u8>,
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
    pub fn connect(network: &Network, address: SocketAddr, random: &mut Random) -> Self {
        Wire {
            client: network.connect(address),
            input: Vec::new(),
            output: PROTOCOL_HEADER.to_vec(),
            frame_max: if random.chance(500_000) { 4096 } else { 131_072 },
            partial: None,
        }
    }

    pub fn write(&mut self, method: &Method<'_>) {
        method.encode(CHANNEL, &mut self.output);
    }

    pub fn publish(&mut self, exchange: &str, key: &str, body: &[u8]) {
        let (exchange, routing_key) = (exchange.as_bytes(), key.as_bytes());
        self.write(&Method::BasicPublish { exchange, routing_key, mandatory: false, immediate: false });
        encode_content(CHANNEL, &EMPTY, body, self.frame_max, &mut self.output);
    }

    /// Bytes that the network has not taken.
    pub fn unsent(&self) -> usize {
        self.output.len()
    }

    /// Moves bytes; takes at most `most` in. Everything heard is appended.
    pub fn pump(&mut self, most: usize, heard: &mut Vec<Heard>) -> Line {
        let arrived = self.client.receive(most);
        self.input.extend_from_slice(&arrived);
        let input = std::mem::take(&mut self.input);
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
        self.input = rest.to_vec();
        self.send();
        match self.client.state() {
            SimClientState::Connecting | SimClientState::Open => Line::Up,
            SimClientState::Ended | SimClientState::Broken(_) => Line::Down,
        }
    }

    /// Sends what the network takes. What stays behind is noticed by nobody but this client.
    pub fn send(&mut self) {
        let sent = self.client.send(&self.output);
        self.output.drain(..sent);
    }

    pub fn reset(self) {
        self.client.reset();
    }

    fn method(&mut self, method: Method<'_>, heard: &mut Vec<Heard>) {
        match method {
            Method::ConnectionStart { .. } => Method::ConnectionStartOk {
                client_properties: TableRef::EMPTY,
                mechanism: b"PLAIN",
                response: b"\0guest\0guest",
                locale: b"en_US",
            }
            .encode(0, &mut self.output),
            Method::ConnectionTune { channel_max, heartbeat, .. } => {
                Method::ConnectionTuneOk { channel_max, frame_max: self.frame_max, heartbeat }
                    .encode(0, &mut self.output);
                Method::ConnectionOpen { virtual_host: b"/" }.encode(0, &mut self.output);
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
                Method::ConnectionCloseOk.encode(0, &mut self.output);
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
