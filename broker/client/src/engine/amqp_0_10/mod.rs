//! The client's side of an AMQP 0-10 connection.
//!
//! 1. A channel of the library is a session, attached under a name of its own and never resumed: what a connection took
//!    with it is restored as with the other protocols.
//! 2. A publish is confirmed when its transfer is completed. Completions are asked for once for all that is sent
//!    together, and given, like accepts, once for all that was received or settled together.
//! 3. What a request needs is written at once, however many commands that are; the last one's completion answers it.

mod handshake;
mod output;
mod properties;
mod ranges;
mod requests;
mod results;
mod sending;
mod session;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use fulmar_amqp_0_10::codec::frame::{self, Frame, PROTOCOL_HEADER_BYTES};
use fulmar_amqp_0_10::codec::segment::{Assembler, Limits, Piece};
use fulmar_amqp_0_10::codec::table::{AcceptMode, CloseCode, ConnectionClose, ConnectionHeartbeat, Track};
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{CodecError, Control, FrameError, ProtocolHeader, SegmentError};

use self::output::Output;
use self::session::{End, Session};
use super::login::Login;
use super::{Event, Heart};
use crate::message::Publish;
use crate::request::{Request, Settle};
use crate::{Error, Options};

/// What is gathered at most of one control, command or header.
const LIMITS: Limits = Limits { segment_bytes: 16 << 20, body_bytes: u64::MAX };

/// The channel of the connection's own controls.
const CONNECTION: u16 = 0;

/// Bytes that accepts, completions and the request for such take, about.
const FLUSH_BYTES: usize = 64;

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitHeader,
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
    out: Output,
    channel_max: u16,
    heart: Heart,
    controls: Assembler,
    sessions: BTreeMap<u16, Session>,
    /// Sessions that have something to add to the output when it is taken.
    unflushed: Vec<u16>,
    /// What makes the names of this connection's sessions and queues its own.
    unique: String,
    sessions_opened: u64,
    /// A content header under construction, kept for its memory.
    scratch: Vec<u8>,
}

impl Engine {
    /// Begins with the protocol header in the output.
    pub(crate) fn new(options: Options, now: Instant) -> Self {
        // Two hashers' random keys are randomness enough for a name.
        let random = || RandomState::new().hash_one(0);
        Engine {
            options,
            login: None,
            phase: Phase::AwaitHeader,
            out: Output::new(),
            channel_max: 0,
            heart: Heart::new(now),
            controls: Assembler::new(Track::Control, LIMITS),
            sessions: BTreeMap::new(),
            unflushed: Vec::new(),
            unique: format!("{:016x}{:016x}", random(), random()),
            sessions_opened: 0,
            scratch: Vec::new(),
        }
    }

    fn frame(&mut self, frame: &Frame<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        if frame.channel == CONNECTION && frame.track == Track::Control {
            // Taken out and put back, since what it holds is looked at while the rest of this changes.
            let mut controls = std::mem::replace(&mut self.controls, Assembler::new(Track::Control, LIMITS));
            let done = match controls.push(frame).map_err(bad_segment)? {
                Some(Piece::Segment { payload, .. }) => {
                    let control = Control::decode(payload).map_err(bad_content)?;
                    self.connection_control(&control, events)
                }
                _ => Ok(()),
            };
            self.controls = controls;
            return done;
        }
        let Some(session) = self.sessions.get_mut(&frame.channel) else {
            return Err(unexpected("a frame of a session"));
        };
        match session.frame(frame, &mut self.out, events)? {
            None => {
                if session.has_to_flush() {
                    self.unflushed.push(frame.channel);
                }
            }
            Some(End { attach_again }) => {
                self.sessions.remove(&frame.channel);
                if attach_again {
                    self.attach(frame.channel);
                }
            }
        }
        Ok(())
    }

    fn attach(&mut self, channel: u16) {
        self.sessions_opened += 1;
        let name = format!("fulmar-client-{}-{}", self.unique, self.sessions_opened);
        self.sessions.insert(channel, Session::attach(channel, name, &mut self.out));
    }

    /// Writes what `work` writes for a session; nothing if it is not there any more.
    fn with_session<R>(
        &mut self,
        channel: u16,
        work: impl FnOnce(&mut Session, &mut Output) -> R,
    ) -> Option<R> {
        let session = self.sessions.get_mut(&channel)?;
        let result = work(session, &mut self.out);
        if session.has_to_flush() {
            self.unflushed.push(channel);
        }
        Some(result)
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
        &self.out.bytes
    }

    fn output_bytes(&self) -> usize {
        self.out.bytes.len() + self.unflushed.len() * FLUSH_BYTES
    }

    fn take_output(&mut self, spare: Vec<u8>, now: Instant) -> Vec<u8> {
        for channel in std::mem::take(&mut self.unflushed) {
            if let Some(session) = self.sessions.get_mut(&channel) {
                session.flush(&mut self.out);
            }
        }
        self.heart.last_sent = now;
        std::mem::replace(&mut self.out.bytes, spare)
    }

    fn receive(&mut self, input: &[u8], now: Instant, events: &mut Vec<Event>) -> Result<usize, Error> {
        if !input.is_empty() {
            self.heart.last_received = now;
        }
        let mut taken = 0;
        while self.phase != Phase::Closed {
            let rest = &input[taken..];
            if self.phase == Phase::AwaitHeader {
                let not_amqp = |_| Error::Protocol("it does not speak AMQP".into());
                let Some(header) = ProtocolHeader::parse(rest).map_err(not_amqp)? else { return Ok(taken) };
                if header != ProtocolHeader::AMQP_0_10 {
                    let ProtocolHeader { major, minor, .. } = header;
                    return Err(Error::Protocol(format!(
                        "it does not speak AMQP 0-10, but offers {major}-{minor}"
                    )));
                }
                taken += PROTOCOL_HEADER_BYTES;
                self.phase = Phase::AwaitStart;
                continue;
            }
            let Some((frame, len)) = frame::parse(rest, 0).map_err(bad_frame)? else { return Ok(taken) };
            taken += len;
            self.frame(&frame, events)?;
        }
        Ok(input.len())
    }

    fn next_tick(&self) -> Option<Instant> {
        self.heart.next_tick()
    }

    fn tick(&mut self, now: Instant, listening: bool) -> Result<(), Error> {
        if self.heart.tick(now, listening)? && self.out.bytes.is_empty() {
            self.out.control(CONNECTION, ConnectionHeartbeat {});
        }
        Ok(())
    }

    fn close(&mut self) {
        if self.phase == Phase::Open {
            for session in self.sessions.values_mut() {
                session.flush(&mut self.out);
            }
            let close = ConnectionClose { reply_code: Some(CloseCode::Normal), reply_text: Some(b"goodbye") };
            self.out.control(CONNECTION, close);
            self.phase = Phase::Closing;
        }
    }

    fn request(&mut self, channel: u16, request: &Request) -> Result<(), Error> {
        if *request == Request::OpenChannel {
            match self.sessions.get_mut(&channel) {
                Some(session) => session.attach_again(),
                None => self.attach(channel),
            }
            return Ok(());
        }
        let unique = std::mem::take(&mut self.unique);
        let written = self.with_session(channel, |session, out| session.request(request, &unique, out));
        self.unique = unique;
        written.unwrap_or(Ok(()))
    }

    fn check(&self, publish: &Publish<'_>) -> Result<(), Error> {
        publish.properties.map_or(Ok(()), properties::check)
    }

    fn publish(&mut self, channel: u16, publish: &Publish<'_>) {
        let mut header = std::mem::take(&mut self.scratch);
        header.clear();
        properties::encode(publish, &mut header);
        let transfer = Transfer {
            destination: publish.exchange.as_bytes(),
            // Only then does the broker tell what became of it.
            accept_mode: if publish.mandatory { AcceptMode::Explicit } else { AcceptMode::None },
            header: &header,
            body: publish.body,
            ..Transfer::default()
        };
        self.with_session(channel, |session, out| {
            let start = out.bytes.len();
            transfer::encode(&transfer, channel, out.frame_max, &mut out.bytes);
            session.published(&out.bytes[start..]);
        });
        self.scratch = header;
    }

    fn publish_again(&mut self, channel: u16, frames: &[u8]) {
        self.with_session(channel, |session, out| {
            out.bytes.extend_from_slice(frames);
            session.published(frames);
        });
    }

    fn unanswered(&self, channel: u16) -> usize {
        self.sessions.get(&channel).map_or(0, Session::unanswered)
    }

    fn settle(&mut self, channel: u16, delivery_tag: u64, settle: Settle) {
        self.with_session(channel, |session, out| session.settle(delivery_tag, settle, out));
    }
}

fn bad_frame(error: FrameError) -> Error {
    Error::Protocol(error.to_string())
}

fn bad_segment(error: SegmentError) -> Error {
    Error::Protocol(error.to_string())
}

fn bad_content(error: CodecError) -> Error {
    Error::Protocol(error.to_string())
}

fn unexpected(what: &str) -> Error {
    Error::Protocol(format!("{what} came where it is not allowed"))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
