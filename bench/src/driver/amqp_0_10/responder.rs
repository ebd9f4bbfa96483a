//! Answers requests: each goes back to its `reply-to`, with its body and its correlation id.

use std::os::fd::{AsRawFd, RawFd};

use fulmar_amqp_0_10::codec::frame;
use fulmar_amqp_0_10::codec::table::{AcceptMode, DeliveryProperties, MessageProperties, SegmentType};
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{Command, ContentHeader, Control};

use super::CHANNEL;
use super::links::Settler;
use super::session::Traffic;
use crate::driver::amqp::socket::Socket;
use crate::driver::amqp::wire::{Walked, WireError};
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
    frame_max: u16,
    ack_every: Option<u64>,
    settler: Settler,
    /// The content header of the answer to the request that is coming in.
    header: Vec<u8>,
    body: Vec<u8>,
}

impl Responder {
    /// Goes on where the set-up of the connection ended; accepts so many requests at a time.
    pub fn new(traffic: Traffic, ack_every: Option<u64>) -> Self {
        let reader = Reader {
            frame_max: traffic.frame_max,
            ack_every,
            settler: Settler::new(traffic.received),
            header: Vec::with_capacity(256),
            body: Vec::with_capacity(4096),
        };
        let socket = Socket::new(traffic.stream, &traffic.input);
        Responder { socket, reader, output: Vec::with_capacity(64 * 1024) }
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
        crate::driver::amqp::flush(&mut self.socket, &mut self.output)
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
        while let Some((frame, taken)) = frame::parse(&input[at..], 0).map_err(|_| WireError::Content)? {
            at += taken;
            match frame.kind {
                SegmentType::Control => control(frame.payload)?,
                SegmentType::Command => self.command(frame.payload)?,
                SegmentType::Header => self.header(frame.payload)?,
                _ => {
                    self.body.extend_from_slice(frame.payload);
                    if frame.flags.last_frame {
                        self.answer(output);
                    }
                }
            }
        }
        Ok(Walked { bytes: at, stopped: false })
    }

    fn command(&mut self, payload: &[u8]) -> Result<(), WireError> {
        self.settler.received += 1;
        self.body.clear();
        match Command::decode(payload).map_err(|_| WireError::Content)?.0 {
            Command::ExecutionException(exception) => {
                Err(closed(exception.error_code.unwrap_or_default().code(), exception.description))
            }
            _ => Ok(()),
        }
    }

    fn header(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let header = ContentHeader::parse(payload).map_err(|_| WireError::Content)?;
        let properties = header.message_properties().map_err(|_| WireError::Content)?;
        let reply_to = properties.reply_to.ok_or(WireError::Content)?;
        self.header.clear();
        let delivery =
            DeliveryProperties { routing_key: reply_to.routing_key, ..DeliveryProperties::default() };
        delivery.encode(&mut self.header);
        MessageProperties { reply_to: None, ..properties }.encode(&mut self.header);
        Ok(())
    }

    fn answer(&mut self, output: &mut Vec<u8>) {
        let transfer = Transfer {
            accept_mode: AcceptMode::None,
            header: &self.header,
            body: &self.body,
            ..Transfer::default()
        };
        transfer::encode(&transfer, CHANNEL, self.frame_max, output);
        match self.ack_every {
            Some(every) if self.settler.received - self.settler.settled >= every => {
                self.settler.accept(self.settler.received, output);
            }
            Some(_) => {}
            None => self.settler.complete(true, output),
        }
    }
}

fn control(payload: &[u8]) -> Result<(), WireError> {
    match Control::decode(payload).map_err(|_| WireError::Content)? {
        Control::ConnectionClose(close) => {
            Err(closed(close.reply_code.unwrap_or_default().code(), close.reply_text))
        }
        Control::SessionDetached(_) | Control::SessionDetach(_) => {
            Err(closed(0, Some(b"the session was detached")))
        }
        _ => Ok(()),
    }
}

fn closed(code: u16, text: Option<&[u8]>) -> WireError {
    WireError::Closed(format!("{code} {}", String::from_utf8_lossy(text.unwrap_or_default())))
}
