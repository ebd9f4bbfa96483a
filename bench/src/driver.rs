//! AMQP 0-9-1 as a load generator needs it: opens connections and declares things, one request at a time over a
//! blocking socket. Traffic itself is [`crate::load`]'s, which takes over the socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::{
    CodecError, FrameError, FrameKind, Method, PROTOCOL_HEADER, Properties, TableRef, frame, properties,
};

use crate::batch::Template;
use crate::options::LoadOptions;
use crate::url::Url;
use crate::wire::STAMP_BYTES;

/// The channel that everything runs on.
pub const CHANNEL: u16 = 1;

/// Largest frame that this program agrees to, in bytes.
pub const FRAME_MAX_BYTES: u32 = 128 * 1024;

/// How long a broker may take to answer one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Why a broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The socket failed.
    #[error("{0}: {1}")]
    Socket(String, std::io::Error),
    /// The broker sent no AMQP frame.
    #[error("the broker's answer: {0}")]
    Frame(#[from] FrameError),
    /// The broker sent no valid method.
    #[error("the broker's answer: {0}")]
    Codec(#[from] CodecError),
    /// The broker refused.
    #[error("the broker refused: {0} {1}")]
    Refused(u16, String),
}

/// A connection with one open channel, before traffic starts on it.
#[derive(Debug)]
pub struct Session {
    socket: TcpStream,
    name: String,
    input: Vec<u8>,
    output: Vec<u8>,
    frame_max: u32,
}

/// What remains of a session for traffic.
#[derive(Debug)]
pub struct Link {
    /// The socket, non-blocking.
    pub socket: TcpStream,
    /// What was received with the last answer.
    pub received: Vec<u8>,
}

impl Session {
    /// Connects, logs in, opens the virtual host and a channel.
    ///
    /// # Errors
    /// Any step failed.
    pub fn open(url: &Url) -> Result<Self, DriverError> {
        let mut session = Session::connect(url)?;
        session.handshake(url)?;
        session
            .request(&Method::ChannelOpen, |answer| matches!(answer, Method::ChannelOpenOk).then_some(()))?;
        Ok(session)
    }

    fn connect(url: &Url) -> Result<Self, DriverError> {
        let name = format!("{}:{}", url.host, url.port);
        let failed = |error| DriverError::Socket(name.clone(), error);
        let socket = url.address().and_then(TcpStream::connect).map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        Ok(Session { socket, name, input: Vec::new(), output: Vec::new(), frame_max: FRAME_MAX_BYTES })
    }

    fn handshake(&mut self, url: &Url) -> Result<(), DriverError> {
        self.send(&PROTOCOL_HEADER)?;
        self.answer(|answer| matches!(answer, Method::ConnectionStart { .. }).then_some(()))?;
        let response = format!("\0{}\0{}", url.user, url.password);
        let tune = self.request_on(
            0,
            &Method::ConnectionStartOk {
                client_properties: TableRef::EMPTY,
                mechanism: b"PLAIN",
                response: response.as_bytes(),
                locale: b"en_US",
            },
            |answer| match *answer {
                Method::ConnectionTune { channel_max, frame_max, .. } => Some((channel_max, frame_max)),
                _ => None,
            },
        )?;
        let (channel_max, frame_max) = tune;
        self.frame_max = if frame_max == 0 { FRAME_MAX_BYTES } else { frame_max.min(FRAME_MAX_BYTES) };
        Method::ConnectionTuneOk { channel_max, frame_max: self.frame_max, heartbeat: 0 }
            .encode(0, &mut self.output);
        self.request_on(0, &Method::ConnectionOpen { virtual_host: url.vhost.as_bytes() }, |answer| {
            matches!(answer, Method::ConnectionOpenOk).then_some(())
        })
    }

    /// The agreed maximum frame size in bytes.
    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), DriverError> {
        self.output.extend_from_slice(bytes);
        let sent = self.socket.write_all(&self.output);
        self.output.clear();
        sent.map_err(|error| self.failed(error))
    }

    /// Sends a method on the channel and waits for its answer.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn request<R>(
        &mut self,
        method: &Method<'_>,
        pick: impl FnMut(&Method<'_>) -> Option<R>,
    ) -> Result<R, DriverError> {
        self.request_on(CHANNEL, method, pick)
    }

    fn request_on<R>(
        &mut self,
        channel: u16,
        method: &Method<'_>,
        pick: impl FnMut(&Method<'_>) -> Option<R>,
    ) -> Result<R, DriverError> {
        method.encode(channel, &mut self.output);
        self.send(&[])?;
        self.answer(pick)
    }

    /// Waits for the method that `pick` takes; others pass by.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn answer<R>(&mut self, mut pick: impl FnMut(&Method<'_>) -> Option<R>) -> Result<R, DriverError> {
        loop {
            let mut at = 0;
            while let Some((frame, taken)) = frame::parse(&self.input[at..], self.frame_max)? {
                at += taken;
                if frame.kind != FrameKind::Method {
                    continue;
                }
                let method = Method::decode(frame.payload)?;
                if let Method::ConnectionClose { reply_code, reply_text, .. }
                | Method::ChannelClose { reply_code, reply_text, .. } = method
                {
                    return Err(DriverError::Refused(reply_code, String::from_utf8_lossy(reply_text).into()));
                }
                if let Some(picked) = pick(&method) {
                    self.input.drain(..at);
                    return Ok(picked);
                }
            }
            self.input.drain(..at);
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<(), DriverError> {
        let start = self.input.len();
        self.input.resize(start + 64 * 1024, 0);
        let received = self.socket.read(&mut self.input[start..]);
        self.input.truncate(start + *received.as_ref().unwrap_or(&0));
        match received {
            Ok(0) => Err(self.failed(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: std::io::Error) -> DriverError {
        DriverError::Socket(self.name.clone(), error)
    }

    /// Declares a queue.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn declare_queue(&mut self, queue: &str, durable: bool) -> Result<(), DriverError> {
        self.request(&queue_declare(queue, durable), |answer| {
            matches!(answer, Method::QueueDeclareOk { .. }).then_some(())
        })
    }

    /// Binds a queue.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn bind_queue(&mut self, queue: &str, exchange: &str, routing_key: &str) -> Result<(), DriverError> {
        let bind = Method::QueueBind {
            queue: queue.as_bytes(),
            exchange: exchange.as_bytes(),
            routing_key: routing_key.as_bytes(),
            no_wait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(&bind, |answer| matches!(answer, Method::QueueBindOk).then_some(()))
    }

    /// Deletes a queue.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn delete_queue(&mut self, queue: &str) -> Result<(), DriverError> {
        let queue = queue.as_bytes();
        self.request(
            &Method::QueueDelete { queue, if_unused: false, if_empty: false, no_wait: false },
            |answer| matches!(answer, Method::QueueDeleteOk { .. }).then_some(()),
        )
    }

    /// Starts a consumer; `prefetch` 0 for no limit.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn consume(&mut self, queue: &str, no_ack: bool, prefetch: u16) -> Result<(), DriverError> {
        if prefetch > 0 {
            let qos = Method::BasicQos { prefetch_size: 0, prefetch_count: prefetch, global: false };
            self.request(&qos, |answer| matches!(answer, Method::BasicQosOk).then_some(()))?;
        }
        let consume = Method::BasicConsume {
            queue: queue.as_bytes(),
            consumer_tag: b"c",
            no_local: false,
            no_ack,
            exclusive: false,
            no_wait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(&consume, |answer| matches!(answer, Method::BasicConsumeOk { .. }).then_some(()))
    }

    /// Turns confirms on.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn select_confirms(&mut self) -> Result<(), DriverError> {
        self.request(&Method::ConfirmSelect { no_wait: false }, |answer| {
            matches!(answer, Method::ConfirmSelectOk).then_some(())
        })
    }

    /// Sends `requests` while it takes `answers` methods that `is_answer`; returns how long that took.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn pipeline(
        &mut self,
        requests: &[u8],
        answers: usize,
        is_answer: impl Fn(&Method<'_>) -> bool,
    ) -> Result<Duration, DriverError> {
        let mut writing = self.socket.try_clone().map_err(|error| self.failed(error))?;
        let started = Instant::now();
        std::thread::scope(|scope| {
            let written = scope.spawn(move || writing.write_all(requests));
            let mut left = answers;
            let answered = self.answer(|answer| {
                left -= usize::from(is_answer(answer));
                (left == 0).then_some(())
            });
            if answered.is_err() {
                // Ends the writer, whom nobody reads any more.
                drop(self.socket.shutdown(std::net::Shutdown::Both));
            }
            let written = written.join().expect("the writing thread panicked");
            answered.and_then(|()| written.map_err(|error| self.failed(error)))
        })?;
        Ok(started.elapsed())
    }

    /// Hands the socket over to traffic.
    ///
    /// # Errors
    /// The socket failed.
    pub fn into_link(self) -> Result<Link, DriverError> {
        let Session { socket, name, input, .. } = self;
        socket.set_nonblocking(true).map_err(|error| DriverError::Socket(name, error))?;
        Ok(Link { socket, received: input })
    }
}

/// `queue.declare` with the usual properties of these tools' queues.
pub fn queue_declare(queue: &str, durable: bool) -> Method<'_> {
    Method::QueueDeclare {
        queue: queue.as_bytes(),
        passive: false,
        durable,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: TableRef::EMPTY,
    }
}

/// One message with a body of `options.size` bytes.
pub fn publish_template(routing_key: &str, options: &LoadOptions, frame_max: u32) -> Template {
    assert!(options.size >= STAMP_BYTES, "a body without room for a stamp");
    let mut frames = Vec::new();
    Method::BasicPublish {
        exchange: options.exchange.as_bytes(),
        routing_key: routing_key.as_bytes(),
        mandatory: false,
        immediate: false,
    }
    .encode(CHANNEL, &mut frames);
    let mut encoded = Vec::new();
    let delivery_mode = options.persistent.then_some(properties::PERSISTENT);
    Properties { delivery_mode, ..Properties::default() }.encode(&mut encoded);
    let method_bytes = frames.len();
    frame::encode_content(CHANNEL, &encoded, &vec![b'x'; options.size], frame_max, &mut frames);
    // The header frame: head, class, weight, size, properties, end; then the head of the first body frame.
    let body_offset = method_bytes + frame::OVERHEAD_BYTES + 12 + encoded.len() + frame::HEAD_BYTES;
    Template { frames, body_offset }
}
