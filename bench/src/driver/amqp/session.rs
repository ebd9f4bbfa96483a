//! AMQP 0-9-1 as a load generator needs it: opens connections and declares things, one request at a time over a
//! blocking connection. Traffic itself is the links', which take over the stream.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::{CodecError, FrameError, FrameKind, Method, PROTOCOL_HEADER, TableRef, frame};

use super::{CHANNEL, FRAME_MAX_BYTES};
use crate::driver::rdma::RdmaStream;
use crate::driver::stream::Stream;
use crate::driver::tls::{self, TlsError};
use crate::url::Url;

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
    /// The broker sent something else than its protocol has there.
    #[error("the broker's answer: {0}")]
    Answer(String),
    /// No TLS.
    #[error("{0}: {1}")]
    Tls(String, TlsError),
    /// The broker refused.
    #[error("the broker refused: {0} {1}")]
    Refused(u16, String),
}

/// A connection with one open channel, before traffic starts on it.
#[derive(Debug)]
pub struct Session {
    stream: Stream,
    name: String,
    input: Vec<u8>,
    output: Vec<u8>,
    frame_max: u32,
    product: Option<String>,
    version: Option<String>,
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
        Ok(Session {
            stream: connect(url)?,
            name: server_name(url),
            input: Vec::new(),
            output: Vec::new(),
            frame_max: FRAME_MAX_BYTES,
            product: None,
            version: None,
        })
    }

    fn handshake(&mut self, url: &Url) -> Result<(), DriverError> {
        self.send(&PROTOCOL_HEADER)?;
        let named = self.answer(|answer| match answer {
            Method::ConnectionStart { server_properties, .. } => {
                let text = |name: &[u8]| {
                    let value = server_properties.get(name).ok()??;
                    Some(String::from_utf8_lossy(value.as_bytes()?).into_owned())
                };
                Some((text(b"product"), text(b"version")))
            }
            _ => None,
        })?;
        (self.product, self.version) = named;
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
        let most = self.stream.largest_frame_bytes().unwrap_or(FRAME_MAX_BYTES).min(FRAME_MAX_BYTES);
        self.frame_max = if frame_max == 0 { most } else { frame_max.min(most) };
        Method::ConnectionTuneOk { channel_max, frame_max: self.frame_max, heartbeat: 0 }
            .encode(0, &mut self.output);
        self.request_on(0, &Method::ConnectionOpen { virtual_host: url.vhost.as_bytes() }, |answer| {
            matches!(answer, Method::ConnectionOpenOk).then_some(())
        })
    }

    /// What the broker calls itself, and which version of that it is.
    pub fn server(&self) -> (Option<&str>, Option<&str>) {
        (self.product.as_deref(), self.version.as_deref())
    }

    /// The agreed maximum frame size in bytes.
    pub fn frame_max(&self) -> u32 {
        self.frame_max
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), DriverError> {
        self.output.extend_from_slice(bytes);
        let sent = self.stream.write_all(&self.output).and_then(|()| self.stream.flush());
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
        let received = self.stream.read(&mut self.input[start..]);
        self.input.truncate(start + *received.as_ref().unwrap_or(&0));
        match received {
            // A process that was stopped and goes on finds its reads interrupted where they have a time limit.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Ok(0) => Err(self.failed(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: std::io::Error) -> DriverError {
        DriverError::Socket(self.name.clone(), error)
    }

    /// Declares an exchange, which does not survive the broker.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn declare_exchange(&mut self, exchange: &str, kind: &str) -> Result<(), DriverError> {
        let declare = Method::ExchangeDeclare {
            exchange: exchange.as_bytes(),
            type_: kind.as_bytes(),
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            no_wait: false,
            arguments: TableRef::EMPTY,
        };
        self.request(&declare, |answer| matches!(answer, Method::ExchangeDeclareOk).then_some(()))
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn delete_exchange(&mut self, exchange: &str) -> Result<(), DriverError> {
        let delete =
            Method::ExchangeDelete { exchange: exchange.as_bytes(), if_unused: false, no_wait: false };
        self.request(&delete, |answer| matches!(answer, Method::ExchangeDeleteOk).then_some(()))
    }

    /// How many messages are ready in a queue.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn message_count(&mut self, queue: &str) -> Result<u64, DriverError> {
        let mut declare = queue_declare(queue, false);
        if let Method::QueueDeclare { passive, .. } = &mut declare {
            *passive = true;
        }
        self.request(&declare, |answer| match answer {
            Method::QueueDeclareOk { message_count, .. } => Some(u64::from(*message_count)),
            _ => None,
        })
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

    /// Binds a queue; `arguments` as an encoded table.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn bind_queue(
        &mut self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: &[u8],
    ) -> Result<(), DriverError> {
        let bind = Method::QueueBind {
            queue: queue.as_bytes(),
            exchange: exchange.as_bytes(),
            routing_key: routing_key.as_bytes(),
            no_wait: false,
            arguments: TableRef::new(arguments),
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
        let socket = match &self.stream {
            Stream::Tcp(socket) => socket.try_clone().and_then(|twin| Ok((twin, socket.try_clone()?))),
            Stream::Tls(_) | Stream::Rdma(_) => {
                Err(std::io::Error::other("pipelines go over plain TCP only"))
            }
        };
        let (mut writing, ending) = socket.map_err(|error| self.failed(error))?;
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
                drop(ending.shutdown(std::net::Shutdown::Both));
            }
            let written = written.join().expect("the writing thread panicked");
            answered.and_then(|()| written.map_err(|error| self.failed(error)))
        })?;
        Ok(started.elapsed())
    }

    /// Hands over the stream, non-blocking, and what was received with the last answer.
    ///
    /// # Errors
    /// The socket failed.
    pub fn into_stream(self) -> Result<(Stream, Vec<u8>), DriverError> {
        let Session { stream, name, input, .. } = self;
        stream.set_nonblocking().map_err(|error| DriverError::Socket(name, error))?;
        Ok((stream, input))
    }
}

/// How messages name the server.
pub(in crate::driver) fn server_name(url: &Url) -> String {
    format!("{}:{}", url.host, url.port)
}

/// A blocking connection, over TLS or RDMA if the URL says so.
///
/// # Errors
/// Nobody answers, or the handshake of TLS failed.
pub(in crate::driver) fn connect(url: &Url) -> Result<Stream, DriverError> {
    let failed = |error| DriverError::Socket(server_name(url), error);
    if url.is_rdma {
        let connected = url.address().and_then(RdmaStream::connect);
        return connected.map(Stream::Rdma).map_err(failed);
    }
    let socket = url.address().and_then(TcpStream::connect).map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
    match &url.tls {
        None => Ok(Stream::Tcp(socket)),
        Some(options) => tls::connect(socket, &url.host, options)
            .map_err(|error| DriverError::Tls(server_name(url), error)),
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
