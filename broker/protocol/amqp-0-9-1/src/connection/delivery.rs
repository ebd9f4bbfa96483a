//! Writes a delivery: `basic.deliver`, header and body in one go, since this runs per message.

use fulmar_core::MessageView;

use crate::codec::frame::{CONTENT_HEADER_BYTES, END, Frame, OVERHEAD_BYTES};
use crate::codec::properties::ENCODING;
use crate::codec::{FrameKind, SHORT_STRING_MAX_BYTES, translate as codec};

/// Class and method, as their last octets.
const BASIC: u8 = 60;
const DELIVER: u8 = 60;

/// Octets of the method's frame before the consumer tag.
const LABEL_BYTES: usize = 11;
/// Delivery tag and redelivered.
const NUMBERS_BYTES: usize = 9;

/// What the deliveries of a consumer begin with: `basic.deliver`, and the content header's frame up to the properties.
/// Consecutive messages mostly have the same address, and only numbers change from one to the next.
#[derive(Debug)]
pub(super) struct Head {
    channel: u16,
    /// Where the delivery tag is.
    numbers_at: usize,
    /// Length of the exchange's name, and of the routing key.
    address: (usize, usize),
    bytes: Vec<u8>,
}

impl Head {
    /// For a consumer of that tag, which is a short string, on a channel.
    pub fn new(channel: u16, consumer_tag: &[u8]) -> Self {
        let [c1, c0] = channel.to_be_bytes();
        let consumer_tag = short(consumer_tag);
        let mut bytes = vec![FrameKind::Method as u8, c1, c0, 0, 0, 0, 0, 0, BASIC, 0, DELIVER];
        bytes.push(consumer_tag.len() as u8);
        bytes.extend_from_slice(consumer_tag);
        let mut head = Head { channel, numbers_at: bytes.len(), address: (0, 0), bytes };
        head.readdress(b"", b"");
        head
    }

    /// Makes it fit a message's exchange and routing key.
    #[inline]
    pub fn address_to(&mut self, message: &MessageView<'_>) {
        let (exchange, routing_key) = (short(message.exchange), short(message.routing_key));
        let exchange_at = self.numbers_at + NUMBERS_BYTES + 1;
        let key_at = exchange_at + self.address.0 + 1;
        let same = self.address == (exchange.len(), routing_key.len())
            && self.bytes[key_at..][..routing_key.len()] == *routing_key
            && (exchange.is_empty() || self.bytes[exchange_at..][..exchange.len()] == *exchange);
        if !same {
            self.readdress(exchange, routing_key);
        }
    }

    fn readdress(&mut self, exchange: &[u8], routing_key: &[u8]) {
        let [c1, c0] = self.channel.to_be_bytes();
        self.address = (exchange.len(), routing_key.len());
        self.bytes.truncate(self.numbers_at);
        self.bytes.extend_from_slice(&[0; NUMBERS_BYTES]);
        self.bytes.push(exchange.len() as u8);
        self.bytes.extend_from_slice(exchange);
        self.bytes.push(routing_key.len() as u8);
        self.bytes.extend_from_slice(routing_key);
        let payload_bytes = (self.bytes.len() + 4 - LABEL_BYTES) as u32;
        self.bytes[3..7].copy_from_slice(&payload_bytes.to_be_bytes());
        self.bytes.extend_from_slice(&[END, FrameKind::Header as u8, c1, c0]);
        self.bytes.extend_from_slice(&content(0, 0));
    }

    /// Appends the frames of a delivery of a message to which the head is addressed.
    #[inline]
    pub fn write(
        &self,
        delivery_tag: u64,
        redelivered: bool,
        message: &MessageView<'_>,
        frame_max: u32,
        out: &mut Vec<u8>,
    ) {
        let &MessageView { properties, body, .. } = message;
        out.reserve(self.bytes.len() + properties.len() + body.len() + 1 + OVERHEAD_BYTES);
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let head = &mut out[start..];
        if let Some(end) = head.last_chunk_mut() {
            *end = content(properties.len() as u32, body.len() as u64);
        }
        if let Some((tag, [mark, ..])) = head[self.numbers_at..].split_first_chunk_mut() {
            *tag = delivery_tag.to_be_bytes();
            *mark = redelivered.into();
        }
        out.extend_from_slice(properties);
        if !fits_one_frame(body.len(), frame_max) {
            out.push(END);
            return self.write_body(body, frame_max, out);
        }
        let [c1, c0] = self.channel.to_be_bytes();
        let mut between = [END, FrameKind::Body as u8, c1, c0, 0, 0, 0, 0];
        between[4..].copy_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&between);
        out.extend_from_slice(body);
        out.push(END);
    }

    /// Appends the frames of deliveries that follow the one of `message`, which was just written, and differ in tag and
    /// body alone.
    pub fn write_followers<'a>(
        &self,
        mut delivery_tag: u64,
        redelivered: bool,
        message: &MessageView<'_>,
        bodies: impl Iterator<Item = &'a [u8]>,
        frame_max: u32,
        out: &mut Vec<u8>,
    ) {
        let body_bytes = message.body.len();
        if !fits_one_frame(body_bytes, frame_max) {
            for body in bodies {
                delivery_tag += 1;
                self.write(delivery_tag, redelivered, &MessageView { body, ..*message }, frame_max, out);
            }
            return;
        }
        let before_body_bytes = self.bytes.len() + message.properties.len() + OVERHEAD_BYTES;
        let first = out.len() - before_body_bytes - body_bytes - 1;
        for body in bodies {
            delivery_tag += 1;
            let start = out.len();
            out.extend_from_within(first..first + before_body_bytes);
            if let Some(tag) = out[start + self.numbers_at..].first_chunk_mut() {
                *tag = delivery_tag.to_be_bytes();
            }
            out.extend_from_slice(body);
            out.push(END);
        }
    }

    /// Appends a body in as many frames as it needs.
    fn write_body(&self, body: &[u8], frame_max: u32, out: &mut Vec<u8>) {
        if body.is_empty() {
            return;
        }
        let chunk_bytes = match frame_max as usize {
            0 => body.len(),
            frame_max => frame_max - OVERHEAD_BYTES,
        };
        for payload in body.chunks(chunk_bytes) {
            Frame { kind: FrameKind::Body, channel: self.channel, payload }.encode(out);
        }
    }
}

/// Has the properties of a message that came by another protocol in this protocol's encoding, in `buffer`.
#[inline]
pub(super) fn translate<'a>(message: &mut MessageView<'a>, frame_max: u32, buffer: &'a mut Vec<u8>) {
    if !message.is_encoded_by(&ENCODING) {
        let limit_bytes = (frame_max as usize).saturating_sub(OVERHEAD_BYTES + CONTENT_HEADER_BYTES);
        message.properties = codec::translate(message, limit_bytes, buffer);
    }
}

/// Whether a body is neither too long for one frame nor too short for any.
#[inline(always)]
fn fits_one_frame(body_bytes: usize, frame_max: u32) -> bool {
    body_bytes.wrapping_sub(1) < (frame_max as usize).wrapping_sub(OVERHEAD_BYTES)
}

/// The content header's frame from its size to the properties.
#[inline(always)]
fn content(properties_bytes: u32, body_bytes: u64) -> [u8; 16] {
    let mut content = [0; 16];
    content[..4].copy_from_slice(&(12 + properties_bytes).to_be_bytes());
    content[5] = BASIC;
    content[8..].copy_from_slice(&body_bytes.to_be_bytes());
    content
}

/// As much as a short string can carry. Longer ones do not come by this protocol.
#[inline(always)]
fn short(text: &[u8]) -> &[u8] {
    &text[..text.len().min(SHORT_STRING_MAX_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{fast, frame};

    #[test]
    fn the_short_way_writes_what_the_codec_writes() {
        let body = vec![7; 10_000];
        let mut head = Head::new(2047, b"ctag");
        for (exchange, key, properties, body_bytes, frame_max) in [
            (&b""[..], &b"q"[..], &[0, 0][..], 0, 4096),
            (b"x", b"", &[0x10, 0, 2], 1, 4096),
            (b"y", b"", &[0x10, 0, 2], 1, 4096),
            (b"y", b"a", &[0x10, 0, 2], 1, 4096),
            (b"y", b"b", &[0x10, 0, 2], 1, 4096),
            (b"", b"yb", &[0x10, 0, 2], 1, 4096),
            (b"exchange", b"a.b.c", &[0x10, 0, 1], 4088, 4096),
            (b"exchange", b"a.b.c", &[0x10, 0, 1], 4089, 4096),
            (b"exchange", &[b'k'; 300], &[0x10, 0, 1], 10_000, 4096),
            (b"exchange", b"a.b.c", &[0x10, 0, 1], 10_000, 0),
        ] {
            let body = &body[..body_bytes];
            let message = MessageView { encoding: &ENCODING, exchange, routing_key: key, properties, body };
            let mut written = b"before".to_vec();
            head.address_to(&message);
            head.write(1 << 40, true, &message, frame_max, &mut written);
            let mut expected = b"before".to_vec();
            fast::deliver(2047, b"ctag", 1 << 40, true, exchange, key, &mut expected);
            frame::encode_content(2047, properties, body, frame_max, &mut expected);
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn followers_are_written_like_the_first() {
        for (body_bytes, frame_max) in
            [(1, 4096), (64, 4096), (4088, 4096), (4089, 4096), (9_000, 0), (0, 4096)]
        {
            let bodies: Vec<Vec<u8>> = (0..4).map(|n| vec![n; body_bytes]).collect();
            let message = |body| MessageView {
                encoding: &ENCODING,
                exchange: b"x",
                routing_key: b"key",
                properties: &[0x10, 0, 2],
                body,
            };
            let mut head = Head::new(7, b"ctag");
            head.address_to(&message(&bodies[0]));
            let (mut written, mut expected) = (b"before".to_vec(), b"before".to_vec());
            for (tag, body) in (9..).zip(&bodies) {
                head.write(tag, true, &message(body), frame_max, &mut expected);
            }
            head.write(9, true, &message(&bodies[0]), frame_max, &mut written);
            let others = bodies[1..].iter().map(Vec::as_slice);
            head.write_followers(9, true, &message(&bodies[0]), others, frame_max, &mut written);
            assert_eq!(written, expected);
        }
    }
}
