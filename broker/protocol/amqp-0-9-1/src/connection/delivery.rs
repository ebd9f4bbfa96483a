//! Writes a delivery: `basic.deliver`, header and body in one go, since this runs per message.

use fulmar_core::MessageView;

use crate::codec::FrameKind;
use crate::codec::frame::{END, Frame, HEAD_BYTES, OVERHEAD_BYTES};

/// Class and method of `basic.deliver`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
/// Class and weight of a content header.
const BASIC_CONTENT: [u8; 4] = [0, 60, 0, 0];

/// Which delivery it is.
pub(super) struct Label<'a> {
    pub channel: u16,
    pub consumer_tag: &'a [u8],
    pub delivery_tag: u64,
    pub redelivered: bool,
}

/// Appends the frames. The strings are no longer than short strings can be: they came as such.
#[inline]
pub(super) fn encode(label: &Label<'_>, message: &MessageView<'_>, frame_max: u32, out: &mut Vec<u8>) {
    let &MessageView { exchange, routing_key, properties, body, .. } = message;
    let arguments_bytes = 12 + label.consumer_tag.len() + exchange.len() + routing_key.len();
    let header_bytes = 12 + properties.len();
    let chunk_bytes = match frame_max as usize {
        0 => usize::MAX,
        frame_max => frame_max - OVERHEAD_BYTES,
    };
    let whole = !body.is_empty() && body.len() <= chunk_bytes;
    let body_head_bytes = if whole { HEAD_BYTES } else { 0 };
    let heads_bytes = 4 + arguments_bytes + header_bytes + 2 * OVERHEAD_BYTES + body_head_bytes;
    let start = out.len();
    out.reserve(heads_bytes + body.len() + 1);
    out.resize(start + heads_bytes, 0);

    let room = &mut out[start..];
    let room = put(room, &head(FrameKind::Method, label.channel, 4 + arguments_bytes));
    let room = put(room, &DELIVER);
    let room = put_short(room, label.consumer_tag);
    let room = put(room, &label.delivery_tag.to_be_bytes());
    let room = put(room, &[label.redelivered.into()]);
    let room = put_short(room, exchange);
    let room = put_short(room, routing_key);
    let room = put(room, &[END]);
    let room = put(room, &head(FrameKind::Header, label.channel, header_bytes));
    let room = put(room, &BASIC_CONTENT);
    let room = put(room, &(body.len() as u64).to_be_bytes());
    let room = put(room, properties);
    let room = put(room, &[END]);
    if whole {
        put(room, &head(FrameKind::Body, label.channel, body.len()));
        out.extend_from_slice(body);
        out.push(END);
    } else {
        for payload in body.chunks(chunk_bytes) {
            Frame { kind: FrameKind::Body, channel: label.channel, payload }.encode(out);
        }
    }
}

/// Copies to the beginning of `room`; returns the rest of it.
#[inline(always)]
fn put<'a>(room: &'a mut [u8], bytes: &[u8]) -> &'a mut [u8] {
    let (to, rest) = room.split_at_mut(bytes.len());
    to.copy_from_slice(bytes);
    rest
}

#[inline(always)]
fn put_short<'a>(room: &'a mut [u8], text: &[u8]) -> &'a mut [u8] {
    put(put(room, &[text.len() as u8]), text)
}

#[inline(always)]
fn head(kind: FrameKind, channel: u16, payload_bytes: usize) -> [u8; HEAD_BYTES] {
    let [c1, c0] = channel.to_be_bytes();
    let [s3, s2, s1, s0] = (payload_bytes as u32).to_be_bytes();
    [kind as u8, c1, c0, s3, s2, s1, s0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::properties::ENCODING;
    use crate::codec::{fast, frame};

    #[test]
    fn the_short_way_writes_what_the_codec_writes() {
        let body = vec![7; 10_000];
        for (exchange, key, properties, body_bytes, frame_max) in [
            (&b""[..], &b"q"[..], &[0, 0][..], 0, 4096),
            (b"x", b"", &[0x10, 0, 2], 1, 4096),
            (b"exchange", b"a.b.c", &[0x10, 0, 1], 4088, 4096),
            (b"exchange", b"a.b.c", &[0x10, 0, 1], 4089, 4096),
            (b"exchange", &[b'k'; 255], &[0x10, 0, 1], 10_000, 4096),
            (b"exchange", b"a.b.c", &[0x10, 0, 1], 10_000, 0),
        ] {
            let body = &body[..body_bytes];
            let message = MessageView { encoding: &ENCODING, exchange, routing_key: key, properties, body };
            let label =
                Label { channel: 2047, consumer_tag: b"ctag", delivery_tag: 1 << 40, redelivered: true };
            let mut written = b"before".to_vec();
            encode(&label, &message, frame_max, &mut written);
            let mut expected = b"before".to_vec();
            fast::deliver(2047, b"ctag", 1 << 40, true, exchange, key, &mut expected);
            frame::encode_content(2047, properties, body, frame_max, &mut expected);
            assert_eq!(written, expected);
        }
    }
}
