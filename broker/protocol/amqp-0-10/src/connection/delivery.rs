//! Writes a delivery: command, header and body in one go, since this runs per message.

use fulmar_core::MessageView;

use crate::codec::Command;
use crate::codec::frame::HEAD_BYTES;
use crate::codec::segment;
use crate::codec::table::{AcceptMode, AcquireMode, MessageTransfer, SegmentType, SessionHeader};
use crate::properties::{self, Delivery};

/// Flags of the only frame of the last segment of a command, and its type.
const BODY: [u8; 2] = [0b0111, 3];
/// Octet of a frame's head with the flags, and the one for the last segment among them.
const LAST_SEGMENT: u8 = 0b0100;
/// The track of commands.
const COMMAND_TRACK: u8 = 1;

/// All of a subscription's deliveries up to the body. Consecutive messages mostly have the same header, and then nothing
/// in it changes from one to the next.
#[derive(Debug)]
pub(super) struct Head {
    channel: u16,
    /// Length of the command's frame.
    command_bytes: usize,
    /// What the frames are made of, if they are made.
    shape: Option<Shape>,
    /// Exchange, routing key and properties of the message that they are made of.
    source: Vec<u8>,
    /// Whether the message has a body segment, be it empty.
    has_body: bool,
    /// The frames of command and header, and room for the head of the body's.
    bytes: Vec<u8>,
    /// The header of the message; kept for its memory.
    header: Vec<u8>,
}

/// What else the frames are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    exchange_bytes: usize,
    routing_key_bytes: usize,
    delivery: Delivery,
    /// Where the encoding is, which tells one from another.
    encoding: usize,
}

impl Head {
    /// For a subscription of that name.
    pub fn new(channel: u16, destination: &[u8], explicit: bool, browses: bool) -> Self {
        let transfer = MessageTransfer {
            destination: Some(destination),
            accept_mode: Some(if explicit { AcceptMode::Explicit } else { AcceptMode::None }),
            acquire_mode: Some(if browses { AcquireMode::NotAcquired } else { AcquireMode::PreAcquired }),
        };
        let mut bytes = Vec::new();
        // A name of 255 bytes fits the smallest frame.
        Command::from(transfer).encode_frames(SessionHeader { sync: false }, channel, 0, &mut bytes);
        bytes[0] &= !LAST_SEGMENT;
        Head {
            channel,
            command_bytes: bytes.len(),
            shape: None,
            source: Vec::new(),
            has_body: true,
            bytes,
            header: Vec::new(),
        }
    }

    /// Makes it one for another channel.
    pub fn set_channel(&mut self, channel: u16) {
        self.channel = channel;
        self.bytes[6..8].copy_from_slice(&channel.to_be_bytes());
        self.shape = None;
    }

    /// Makes it fit a message.
    #[inline]
    pub fn fit(&mut self, message: &MessageView<'_>, delivery: Delivery, frame_max: u16) {
        let &MessageView { encoding, exchange, routing_key, properties, .. } = message;
        let shape = Shape {
            exchange_bytes: exchange.len(),
            routing_key_bytes: routing_key.len(),
            delivery,
            encoding: std::ptr::from_ref(encoding).cast::<()>().addr(),
        };
        let key_at = exchange.len();
        let properties_at = key_at + routing_key.len();
        let same = self.shape == Some(shape)
            && self.source.len() == properties_at + properties.len()
            && self.source[properties_at..] == *properties
            && self.source[key_at..properties_at] == *routing_key
            && self.source[..key_at] == *exchange;
        if !same {
            self.make(message, shape, frame_max);
        }
    }

    fn make(&mut self, message: &MessageView<'_>, shape: Shape, frame_max: u16) {
        self.shape = Some(shape);
        self.source.clear();
        self.source.extend_from_slice(message.exchange);
        self.source.extend_from_slice(message.routing_key);
        self.source.extend_from_slice(message.properties);
        self.bytes.truncate(self.command_bytes);
        self.header.clear();
        properties::write_header(message, &shape.delivery, &mut self.header);
        self.has_body = !properties::is_without_body(message);
        let (kind, place) = (SegmentType::Header, (false, !self.has_body));
        segment::encode(kind, self.channel, place, &self.header, frame_max, &mut self.bytes);
        if !self.has_body {
            return;
        }
        let ([flags, kind], [c1, c0]) = (BODY, self.channel.to_be_bytes());
        self.bytes.extend_from_slice(&[flags, kind, 0, 0, 0, COMMAND_TRACK, c1, c0, 0, 0, 0, 0]);
    }

    /// Appends the frames of a delivery of a message which the head fits.
    #[inline]
    pub fn write(&self, body: &[u8], frame_max: u16, out: &mut Vec<u8>) {
        if !self.has_body {
            return out.extend_from_slice(&self.bytes);
        }
        out.reserve(self.bytes.len() + body.len());
        let frame_bytes = HEAD_BYTES + body.len();
        if frame_bytes > usize::from(frame_max) {
            out.extend_from_slice(&self.bytes[..self.bytes.len() - HEAD_BYTES]);
            return segment::encode(SegmentType::Body, self.channel, (false, true), body, frame_max, out);
        }
        out.extend_from_slice(&self.bytes);
        let size_at = out.len() - HEAD_BYTES + 2;
        out[size_at..size_at + 2].copy_from_slice(&(frame_bytes as u16).to_be_bytes());
        out.extend_from_slice(body);
    }

    /// Appends the frames of deliveries that follow one that was just written, and differ in the body alone.
    #[inline]
    pub fn write_followers<'a>(
        &self,
        body_bytes: usize,
        bodies: impl Iterator<Item = &'a [u8]>,
        frame_max: u16,
        out: &mut Vec<u8>,
    ) {
        if HEAD_BYTES + body_bytes > usize::from(frame_max) {
            bodies.for_each(|body| self.write(body, frame_max, out));
            return;
        }
        let first = out.len() - body_bytes - self.bytes.len();
        for body in bodies {
            out.extend_from_within(first..first + self.bytes.len());
            out.extend_from_slice(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::table::DeliveryProperties;
    use crate::codec::transfer::{self, Transfer};

    fn view<'a>(exchange: &'a [u8], properties: &'a [u8], body: &'a [u8]) -> MessageView<'a> {
        MessageView { encoding: &properties::ENCODING, exchange, routing_key: b"k", properties, body }
    }

    fn stored(exchange: &[u8]) -> Vec<u8> {
        let (mut header, mut out) = (Vec::new(), Vec::new());
        DeliveryProperties { ttl: Some(10), routing_key: Some(b"k"), ..Default::default() }
            .encode(&mut header);
        properties::store(&header, &properties::scan(&header).unwrap(), exchange, None, &mut out);
        out
    }

    #[test]
    fn the_short_way_writes_what_the_codec_writes() {
        let body = vec![7; 10_000];
        let mut head = Head::new(2047, b"destination", true, false);
        for (exchange, body_bytes, redelivered, ttl_left_ms) in [
            (&b""[..], 1, false, None),
            (b"x", 2, false, None),
            (b"x", 1, false, None),
            (b"x", 1, false, Some(9)),
            (b"x", 1, false, Some(8)),
            (b"y", 1, true, None),
            (b"y", 4084, true, None),
            (b"y", 4085, true, None),
            (b"y", 10_000, false, None),
        ] {
            let properties = stored(exchange);
            let view = view(exchange, &properties, &body[..body_bytes]);
            let mut header = Vec::new();
            let delivery = Delivery { redelivered, ttl_left_ms };
            properties::write_header(&view, &delivery, &mut header);
            assert_eq!(header == properties, !redelivered && ttl_left_ms.is_none());
            let (mut written, mut expected) = (b"before".to_vec(), b"before".to_vec());
            head.fit(&view, delivery, 4096);
            head.write(view.body, 4096, &mut written);
            let transfer = Transfer {
                destination: b"destination",
                accept_mode: AcceptMode::Explicit,
                acquire_mode: AcquireMode::PreAcquired,
                sync: false,
                header: &header,
                body: view.body,
            };
            transfer::encode(&transfer, 2047, 4096, &mut expected);
            assert_eq!(written, expected, "{exchange:?} {body_bytes}");
        }
    }

    #[test]
    fn a_message_without_a_body_segment_is_delivered_without_one() {
        let properties = stored(b"x");
        let with = view(b"x", &properties, b"");
        let without = MessageView { encoding: &properties::ENCODING_WITHOUT_BODY, ..with };
        let mut head = Head::new(1, b"d", true, false);
        let segments = |head: &mut Head, view: &MessageView<'_>| {
            let mut written = Vec::new();
            head.fit(view, Delivery::default(), 4096);
            head.write(view.body, 4096, &mut written);
            let mut last = Vec::new();
            while !written.is_empty() {
                last.push((written[1], written[0] & LAST_SEGMENT != 0));
                let bytes = usize::from(u16::from_be_bytes([written[2], written[3]]));
                written.drain(..bytes);
            }
            last
        };
        let [command, header, body] = [1, 2, 3];
        assert_eq!(segments(&mut head, &with), [(command, false), (header, false), (body, true)]);
        assert_eq!(segments(&mut head, &without), [(command, false), (header, true)]);
        assert_eq!(segments(&mut head, &with), [(command, false), (header, false), (body, true)]);
    }

    #[test]
    fn followers_are_written_like_the_first() {
        for body_bytes in [0, 1, 64, 4084, 4085] {
            let bodies: Vec<Vec<u8>> = (0..4).map(|n| vec![n; body_bytes]).collect();
            let properties = stored(b"x");
            let mut head = Head::new(7, b"d", false, false);
            let (mut written, mut expected) = (b"before".to_vec(), b"before".to_vec());
            head.fit(&view(b"x", &properties, &bodies[0]), Delivery::default(), 4096);
            bodies.iter().for_each(|body| head.write(body, 4096, &mut expected));
            head.write(&bodies[0], 4096, &mut written);
            head.write_followers(body_bytes, bodies[1..].iter().map(Vec::as_slice), 4096, &mut written);
            assert_eq!(written, expected);
        }
    }
}
