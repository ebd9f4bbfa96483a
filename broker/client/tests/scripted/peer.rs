//! A broker that does what a test tells it, at the other end of a pipe in memory.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use fulmar_amqp_0_9_1::codec::frame::{self, FrameKind, encode_content};
use fulmar_amqp_0_9_1::codec::{ContentHeader, Method, PROTOCOL_HEADER, TableRef};
use fulmar_client::{Connection, Error, Options};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

/// Bytes that the pipe holds in each direction.
const PIPE_BYTES: usize = 8 * 1024;

/// Where a client under test connects to: takes as many connections as were prepared, and refuses all others.
#[derive(Clone, Default)]
pub struct Network {
    streams: Arc<Mutex<VecDeque<DuplexStream>>>,
}

impl Network {
    /// Lets one more connection through, to this peer.
    pub fn peer(&self) -> Peer {
        let (ours, theirs) = duplex(PIPE_BYTES);
        self.streams.lock().unwrap().push_back(theirs);
        Peer { stream: ours, input: Vec::new() }
    }

    pub async fn open(&self, options: Options) -> Result<Connection, Error> {
        let streams = self.streams.clone();
        let connect = move || {
            let stream = streams.lock().unwrap().pop_front();
            std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused)))
        };
        Connection::open_over(options, connect).await
    }
}

/// Opens a connection that a peer greets as it should be.
pub async fn connected(options: Options) -> (Network, Connection, Peer) {
    let network = Network::default();
    let mut peer = network.peer();
    let (connection, ()) = tokio::join!(network.open(options), peer.greet());
    (network, connection.unwrap(), peer)
}

pub struct Peer {
    pub stream: DuplexStream,
    input: Vec<u8>,
}

/// A frame that came from the client.
pub struct Frame {
    pub kind: FrameKind,
    pub channel: u16,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn method(&self) -> Method<'_> {
        assert_eq!(self.kind, FrameKind::Method, "a method is expected");
        Method::decode(&self.payload).unwrap()
    }
}

/// A publish that came from the client.
#[derive(Debug, PartialEq)]
pub struct Published {
    pub channel: u16,
    pub exchange: String,
    pub routing_key: String,
    pub mandatory: bool,
    pub body: Vec<u8>,
}

impl Peer {
    /// The next frame, heartbeats left out; `None` when the client has hung up.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, len)) = frame::parse(&self.input, 0).unwrap() {
                let owned =
                    Frame { kind: frame.kind, channel: frame.channel, payload: frame.payload.to_vec() };
                self.input.drain(..len);
                if owned.kind != FrameKind::Heartbeat {
                    return Some(owned);
                }
            } else if self.stream.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next frame, which has to be this method.
    pub async fn expect(&mut self, name: &str) -> Frame {
        let frame =
            self.frame().await.unwrap_or_else(|| panic!("{name} is expected, the client has hung up"));
        assert_eq!(frame.method().name(), name, "{:?}", frame.method());
        frame
    }

    /// The client says nothing more, and hangs up.
    pub async fn expect_end(&mut self) {
        if let Some(frame) = self.frame().await {
            panic!("the end is expected, not {:?}", frame.method());
        }
    }

    /// A method, then the answer to it.
    pub async fn answer(&mut self, name: &str, answer: Method<'_>) -> Frame {
        let frame = self.expect(name).await;
        self.send(frame.channel, answer).await;
        frame
    }

    pub async fn expect_publish(&mut self) -> Published {
        let frame = self.expect("basic.publish").await;
        let Method::BasicPublish { exchange, routing_key, mandatory, .. } = frame.method() else {
            unreachable!()
        };
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (exchange, routing_key) = (text(exchange), text(routing_key));
        let header = self.frame().await.unwrap();
        assert_eq!((header.kind, header.channel), (FrameKind::Header, frame.channel));
        let body_bytes = ContentHeader::parse(&header.payload).unwrap().body_size as usize;
        let mut body = Vec::new();
        while body.len() < body_bytes {
            let part = self.frame().await.unwrap();
            assert_eq!((part.kind, part.channel), (FrameKind::Body, frame.channel));
            body.extend(part.payload);
        }
        Published { channel: frame.channel, exchange, routing_key, mandatory, body }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn send(&mut self, channel: u16, method: Method<'_>) {
        let mut out = Vec::new();
        method.encode(channel, &mut out);
        self.write(&out).await;
    }

    pub async fn send_content(&mut self, channel: u16, method: Method<'_>, body: &[u8], frame_max: u32) {
        let mut out = Vec::new();
        method.encode(channel, &mut out);
        encode_content(channel, &[0, 0], body, frame_max, &mut out);
        self.write(&out).await;
    }

    pub async fn deliver(&mut self, channel: u16, consumer_tag: &str, delivery_tag: u64, body: &[u8]) {
        let method = Method::BasicDeliver {
            consumer_tag: consumer_tag.as_bytes(),
            delivery_tag,
            redelivered: false,
            exchange: b"x",
            routing_key: b"k",
        };
        self.send_content(channel, method, body, 0).await;
    }

    /// The protocol header, and the offer.
    pub async fn start(&mut self, mechanisms: &[u8]) {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).await.unwrap();
        assert_eq!(header, PROTOCOL_HEADER);
        let start = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: TableRef::EMPTY,
            mechanisms,
            locales: b"en_US",
        };
        self.send(0, start).await;
    }

    /// A whole handshake with usual limits.
    pub async fn greet(&mut self) {
        self.greet_with(Method::ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 })
            .await;
    }

    pub async fn greet_with(&mut self, tune: Method<'_>) {
        self.start(b"AMQPLAIN PLAIN").await;
        self.answer("connection.start-ok", tune).await;
        self.expect("connection.tune-ok").await;
        self.answer("connection.open", Method::ConnectionOpenOk).await;
    }

    pub async fn open_channel(&mut self) -> u16 {
        self.answer("channel.open", Method::ChannelOpenOk).await.channel
    }

    /// The orderly end.
    pub async fn expect_close(&mut self) {
        self.answer("connection.close", Method::ConnectionCloseOk).await;
    }

    /// Takes the client's close and never answers it.
    pub async fn expect_end_after_close(&mut self) {
        self.expect("connection.close").await;
        self.expect_end().await;
    }

    /// How many heartbeats lie there.
    pub async fn take_heartbeats(&mut self) -> usize {
        let mut bytes = vec![0; PIPE_BYTES];
        let len = self.stream.read(&mut bytes).await.unwrap();
        assert_eq!(bytes[..len].chunks(8).find(|frame| *frame != frame::HEARTBEAT), None);
        len / 8
    }
}
