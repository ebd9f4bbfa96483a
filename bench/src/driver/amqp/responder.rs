//! Answers requests: each goes back to its `reply-to`, with its body and its correlation id.

use std::os::fd::{AsRawFd, RawFd};

use fulmar_amqp_0_9_1::codec::{ContentHeader, FrameKind, Method, Properties, fast, frame};

use super::socket::Socket;
use super::wire::{Walked, WireError};
use super::{CHANNEL, FRAME_MAX_BYTES};
use crate::driver::stream::Stream;
use crate::driver::{Link, RespondLink};
use crate::load::LoadError;

/// A connection that answers requests.
#[derive(Debug)]
pub struct Responder {
    socket: Socket,
    reader: Reader,
    output: Vec<u8>,
}

/// Takes requests apart and puts answers together.
#[derive(Debug)]
struct Reader {
    frame_max: u32,
    ack_every: Option<u64>,
    received: u64,
    acknowledged: u64,
    /// Of the request that is coming in.
    reply_to: Vec<u8>,
    properties: Vec<u8>,
    body: Vec<u8>,
    body_bytes: usize,
}

impl Responder {
    /// Goes on where the set-up of the connection ended; acknowledges so many requests at a time.
    pub fn new(stream: Stream, received: &[u8], frame_max: u32, ack_every: Option<u64>) -> Self {
        let reader = Reader {
            frame_max,
            ack_every,
            received: 0,
            acknowledged: 0,
            reply_to: Vec::with_capacity(256),
            properties: Vec::with_capacity(256),
            body: Vec::with_capacity(4096),
            body_bytes: 0,
        };
        Responder { socket: Socket::new(stream, received), reader, output: Vec::with_capacity(64 * 1024) }
    }
}

impl AsRawFd for Responder {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Link for Responder {
    fn stream(&self) -> &Stream {
        self.socket.stream()
    }

    fn unflushed(&self) -> bool {
        !self.output.is_empty() || self.socket.holds_output()
    }

    fn has_input(&self) -> bool {
        self.socket.has_input()
    }

    fn flush(&mut self) -> Result<bool, LoadError> {
        super::links::flush(&mut self.socket, &mut self.output)
    }
}

impl RespondLink for Responder {
    fn respond(&mut self) -> Result<bool, LoadError> {
        if self.unflushed() {
            return Ok(false);
        }
        let (reader, output) = (&mut self.reader, &mut self.output);
        self.socket.read_frames(|input| reader.take(input, output))
    }
}

impl Reader {
    fn take(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Walked, WireError> {
        let mut at = 0;
        while let Some((frame, taken)) =
            frame::parse(&input[at..], FRAME_MAX_BYTES).map_err(|_| WireError::Content)?
        {
            at += taken;
            match frame.kind {
                FrameKind::Method => self.method(frame.payload)?,
                FrameKind::Header => self.header(frame.payload)?,
                FrameKind::Body => {
                    self.body.extend_from_slice(frame.payload);
                    if self.body.len() == self.body_bytes {
                        self.answer(output);
                    }
                }
                FrameKind::Heartbeat => {}
            }
        }
        Ok(Walked { bytes: at, stopped: false })
    }

    fn method(&mut self, payload: &[u8]) -> Result<(), WireError> {
        match Method::decode(payload).map_err(|_| WireError::Content)? {
            Method::BasicDeliver { delivery_tag, .. } => self.received = delivery_tag,
            Method::ChannelClose { reply_code, reply_text, .. }
            | Method::ConnectionClose { reply_code, reply_text, .. } => {
                let text = String::from_utf8_lossy(reply_text);
                return Err(WireError::Closed(format!("{reply_code} {text}")));
            }
            _ => {}
        }
        Ok(())
    }

    fn header(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let header = ContentHeader::parse(payload).map_err(|_| WireError::Content)?;
        let properties = Properties::decode(header.properties).map_err(|_| WireError::Content)?;
        self.reply_to.clear();
        self.reply_to.extend_from_slice(properties.reply_to.ok_or(WireError::Content)?);
        self.properties.clear();
        Properties { reply_to: None, ..properties }.encode(&mut self.properties);
        self.body.clear();
        self.body_bytes = header.body_size as usize;
        Ok(())
    }

    fn answer(&mut self, output: &mut Vec<u8>) {
        fast::publish(CHANNEL, b"", &self.reply_to, false, false, output);
        frame::encode_content(CHANNEL, &self.properties, &self.body, self.frame_max, output);
        if self.ack_every.is_some_and(|every| self.received - self.acknowledged >= every) {
            fast::ack(CHANNEL, self.received, true, output);
            self.acknowledged = self.received;
        }
    }
}
