//! Opens connections and declares things, one command at a time over a blocking connection. Traffic itself is the links',
//! which take over the stream.

use std::io::{Read, Write};

use fulmar_amqp_0_10::codec::frame::{self, PROTOCOL_HEADER_BYTES};
use fulmar_amqp_0_10::codec::table::{
    AcceptMode, ConnectionOpen, ConnectionStart, ConnectionStartOk, ConnectionTuneOk, CreditUnit,
    ExchangeBind, ExchangeDeclare, ExchangeDelete, FlowMode, MessageFlow, MessageSetFlowMode,
    MessageSubscribe, QueueDeclare, QueueDelete, QueueQuery, QueueQueryResult, SegmentType, SessionAttach,
    SessionCommandPoint, SessionHeader,
};
use fulmar_amqp_0_10::codec::{Command, Control, MapRef, ProtocolHeader, SequenceNo, StructRef};

use super::contents::header_map;
use super::{CHANNEL, DESTINATION};
use crate::driver::amqp::DriverError;
use crate::driver::amqp::session::{connect, server_name};
use crate::driver::stream::Stream;
use crate::url::Url;

/// Credit without end.
const UNLIMITED: u32 = u32::MAX;

/// A connection with one session, before traffic starts on it.
#[derive(Debug)]
pub struct Session {
    stream: Stream,
    name: String,
    input: Vec<u8>,
    output: Vec<u8>,
    frame_max: u16,
    /// Commands sent.
    sent: u32,
    received: Received,
    product: Option<String>,
    version: Option<String>,
}

/// The broker's commands so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Id of the first one.
    pub first: SequenceNo,
    /// How many there were.
    pub count: u32,
}

/// What the links take over.
#[derive(Debug)]
pub struct Traffic {
    /// Non-blocking.
    pub stream: Stream,
    /// What was received with the last answer.
    pub input: Vec<u8>,
    /// Commands sent so far; they count from 0.
    pub sent: u32,
    /// The broker's commands so far.
    pub received: Received,
    /// The agreed maximum frame size in bytes.
    pub frame_max: u16,
}

impl Traffic {
    /// On a connection that nobody has set up.
    pub fn bare(stream: Stream) -> Self {
        Traffic { stream, input: Vec::new(), sent: 0, received: Received::default(), frame_max: u16::MAX }
    }
}

/// Something that came from the broker.
enum Came<'a> {
    Control(Control<'a>),
    Command(Command<'a>),
}

impl Session {
    /// Connects, logs in, opens the virtual host and attaches a session.
    ///
    /// # Errors
    /// Any step failed.
    pub fn open(url: &Url) -> Result<Self, DriverError> {
        let mut session = Session {
            stream: connect(url)?,
            name: server_name(url),
            input: Vec::new(),
            output: Vec::new(),
            frame_max: u16::MAX,
            sent: 0,
            received: Received::default(),
            product: None,
            version: None,
        };
        session.handshake(url)?;
        session.attach()?;
        Ok(session)
    }

    fn handshake(&mut self, url: &Url) -> Result<(), DriverError> {
        self.output.extend_from_slice(&ProtocolHeader::AMQP_0_10.to_bytes());
        self.send()?;
        while self.input.len() < PROTOCOL_HEADER_BYTES {
            self.receive()?;
        }
        match ProtocolHeader::parse(&self.input) {
            Ok(Some(ProtocolHeader::AMQP_0_10)) => drop(self.input.drain(..PROTOCOL_HEADER_BYTES)),
            _ => return Err(DriverError::Answer("it does not speak AMQP 0-10".into())),
        }
        let (mechanism, product, version) = self.answer(|came| match came {
            Came::Control(Control::ConnectionStart(start)) => {
                Some((mechanism(start), text(start, "product"), text(start, "version")))
            }
            _ => None,
        })?;
        (self.product, self.version) = (product, version);
        let response = match mechanism {
            "PLAIN" => format!("\0{}\0{}", url.user, url.password),
            _ => String::new(),
        };
        self.control(
            0,
            ConnectionStartOk {
                client_properties: None,
                mechanism: Some(mechanism.as_bytes()),
                response: Some(response.as_bytes()),
                locale: Some(b"en_US"),
            },
        );
        self.send()?;
        let (channel_max, frame_max) = self.answer(|came| match came {
            Came::Control(Control::ConnectionTune(tune)) => Some((tune.channel_max, tune.max_frame_size)),
            _ => None,
        })?;
        let most =
            self.stream.largest_frame_bytes().map_or(u16::MAX, |bytes| bytes.min(u16::MAX.into()) as u16);
        self.frame_max = frame_max.filter(|&size| size > 0).unwrap_or(u16::MAX).min(most);
        let max_frame_size = Some(self.frame_max);
        self.control(0, ConnectionTuneOk { channel_max, max_frame_size, heartbeat: Some(0) });
        let virtual_host = Some(url.vhost.as_bytes());
        self.control(0, ConnectionOpen { virtual_host, capabilities: None, insist: true });
        self.send()?;
        self.answer(|came| matches!(came, Came::Control(Control::ConnectionOpenOk(_))).then_some(()))
    }

    fn attach(&mut self) -> Result<(), DriverError> {
        let name = crate::plan::unique_prefix();
        self.control(CHANNEL, SessionAttach { name: Some(name.as_bytes()), force: false });
        self.send()?;
        self.answer(|came| matches!(came, Came::Control(Control::SessionAttached(_))).then_some(()))?;
        let (command_id, command_offset) = (Some(SequenceNo(0)), Some(0));
        self.control(CHANNEL, SessionCommandPoint { command_id, command_offset });
        self.send()
    }

    /// What the broker calls itself, and which version of that it is.
    pub fn server(&self) -> (Option<&str>, Option<&str>) {
        (self.product.as_deref(), self.version.as_deref())
    }

    /// The agreed maximum frame size in bytes.
    pub fn frame_max(&self) -> u16 {
        self.frame_max
    }

    fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) {
        control.into().encode_frames(channel, self.frame_max, &mut self.output);
    }

    fn send(&mut self) -> Result<(), DriverError> {
        let sent = self.stream.write_all(&self.output).and_then(|()| self.stream.flush());
        self.output.clear();
        sent.map_err(|error| self.failed(error))
    }

    /// Writes a command; returns its id.
    fn command<'a>(&mut self, sync: bool, command: impl Into<Command<'a>>) -> SequenceNo {
        command.into().encode_frames(SessionHeader { sync }, CHANNEL, self.frame_max, &mut self.output);
        self.sent += 1;
        SequenceNo(self.sent - 1)
    }

    /// Sends a command and waits until it is carried out.
    fn run<'a>(&mut self, command: impl Into<Command<'a>>) -> Result<(), DriverError> {
        let id = self.command(true, command);
        self.send()?;
        self.answer(|came| match came {
            Came::Control(Control::SessionCompleted(completed)) => completed
                .commands
                .unwrap_or_default()
                .iter()
                .any(|(first, last)| !id.is_before(first) && !last.is_before(id))
                .then_some(()),
            _ => None,
        })
    }

    /// Waits for what `pick` takes; others pass by.
    fn answer<R>(&mut self, mut pick: impl FnMut(&Came<'_>) -> Option<R>) -> Result<R, DriverError> {
        loop {
            let mut at = 0;
            let wrong = |error: &dyn std::fmt::Display| DriverError::Answer(error.to_string());
            while let Some((frame, taken)) =
                frame::parse(&self.input[at..], 0).map_err(|error| wrong(&error))?
            {
                at += taken;
                let came = match frame.kind {
                    SegmentType::Control => {
                        Came::Control(Control::decode(frame.payload).map_err(|error| wrong(&error))?)
                    }
                    SegmentType::Command => {
                        self.received.count += 1;
                        Came::Command(Command::decode(frame.payload).map_err(|error| wrong(&error))?.0)
                    }
                    _ => continue,
                };
                if let Came::Control(Control::SessionCommandPoint(point)) = came {
                    self.received = Received { first: point.command_id.unwrap_or_default(), count: 0 };
                }
                if let Some(refusal) = refusal(&came) {
                    return Err(refusal);
                }
                if let Some(picked) = pick(&came) {
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
        self.run(ExchangeDeclare {
            exchange: Some(exchange.as_bytes()),
            type_: Some(kind.as_bytes()),
            ..ExchangeDeclare::default()
        })
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn delete_exchange(&mut self, exchange: &str) -> Result<(), DriverError> {
        self.run(ExchangeDelete { exchange: Some(exchange.as_bytes()), if_unused: false })
    }

    /// Declares a queue.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn declare_queue(&mut self, queue: &str, durable: bool) -> Result<(), DriverError> {
        self.run(QueueDeclare { queue: Some(queue.as_bytes()), durable, ..QueueDeclare::default() })
    }

    /// Binds a queue, `by_header` to what has the key as a header.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn bind_queue(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        by_header: bool,
    ) -> Result<(), DriverError> {
        let arguments = if by_header { header_map(key, true) } else { Vec::new() };
        self.run(ExchangeBind {
            queue: Some(queue.as_bytes()),
            exchange: Some(exchange.as_bytes()),
            binding_key: Some(key.as_bytes()),
            arguments: by_header.then_some(MapRef::new(&arguments)),
        })
    }

    /// Deletes a queue.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn delete_queue(&mut self, queue: &str) -> Result<(), DriverError> {
        self.run(QueueDelete { queue: Some(queue.as_bytes()), if_unused: false, if_empty: false })
    }

    /// How many messages are ready in a queue.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn message_count(&mut self, queue: &str) -> Result<u64, DriverError> {
        let id = self.command(true, QueueQuery { queue: Some(queue.as_bytes()) });
        self.send()?;
        self.answer(|came| match came {
            Came::Command(Command::ExecutionResult(result)) if result.command_id == Some(id) => {
                let value = result.value.unwrap_or(StructRef::EMPTY);
                let count = QueueQueryResult::decode(value).unwrap_or_default().message_count;
                Some(count.unwrap_or(0).into())
            }
            _ => None,
        })
    }

    /// Starts a consumer; `prefetch` 0 for no limit, which with `no_ack` there is not.
    ///
    /// # Errors
    /// The socket failed, or the broker refused.
    pub fn subscribe(&mut self, queue: &str, no_ack: bool, prefetch: u16) -> Result<(), DriverError> {
        let destination = Some(DESTINATION);
        self.command(
            false,
            MessageSubscribe {
                queue: Some(queue.as_bytes()),
                destination,
                accept_mode: Some(if no_ack { AcceptMode::None } else { AcceptMode::Explicit }),
                acquire_mode: Some(Default::default()),
                ..MessageSubscribe::default()
            },
        );
        let (mode, credit) = match prefetch {
            1.. if !no_ack => (FlowMode::Window, prefetch.into()),
            _ => (FlowMode::Credit, UNLIMITED),
        };
        self.run(MessageSetFlowMode { destination, flow_mode: Some(mode) })?;
        self.command(
            false,
            MessageFlow { destination, unit: Some(CreditUnit::Byte), value: Some(UNLIMITED) },
        );
        // Not waited for: what comes from now on is the links'.
        self.command(
            false,
            MessageFlow { destination, unit: Some(CreditUnit::Message), value: Some(credit) },
        );
        self.send()
    }

    /// Hands over the stream, non-blocking, and what has come.
    ///
    /// # Errors
    /// The socket failed.
    pub fn into_traffic(self) -> Result<Traffic, DriverError> {
        let Session { stream, name, input, sent, received, frame_max, .. } = self;
        stream.set_nonblocking().map_err(|error| DriverError::Socket(name, error))?;
        Ok(Traffic { stream, input, sent, received, frame_max })
    }
}

/// PLAIN if there is that; else nobody asks who this is.
fn mechanism(start: &ConnectionStart<'_>) -> &'static str {
    let offered = start.mechanisms.unwrap_or_default();
    let is_plain = |value: fulmar_core::Value| value.as_bytes().is_some_and(|name| name == b"PLAIN");
    if offered.iter().flatten().filter_map(|name| name.to_core().ok()).any(is_plain) {
        "PLAIN"
    } else {
        "ANONYMOUS"
    }
}

fn text(start: &ConnectionStart<'_>, name: &str) -> Option<String> {
    let value = start.server_properties?.get(name.as_bytes()).ok()??.to_core().ok()?;
    value.as_bytes().map(|text| String::from_utf8_lossy(text).into_owned())
}

/// Why there will be no answer.
fn refusal(came: &Came<'_>) -> Option<DriverError> {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    match came {
        Came::Control(Control::ConnectionClose(close)) => {
            Some(DriverError::Refused(close.reply_code.unwrap_or_default().code(), text(close.reply_text)))
        }
        Came::Control(Control::SessionDetached(detached)) => {
            let code = detached.code.unwrap_or_default();
            Some(DriverError::Refused(
                code.code().into(),
                format!("the session was detached ({})", code.name()),
            ))
        }
        Came::Command(Command::ExecutionException(exception)) => Some(DriverError::Refused(
            exception.error_code.unwrap_or_default().code(),
            text(exception.description),
        )),
        _ => None,
    }
}
