//! Writes a delivery: `basic.deliver`, header and body in one go, since this runs per message.

use std::mem::MaybeUninit;

use fulmar_core::MessageView;

use crate::codec::frame::{END, Frame, OVERHEAD_BYTES};
use crate::codec::{FrameKind, SHORT_STRING_MAX_BYTES};

/// Class and method, as their last octets.
const BASIC: u8 = 60;
const DELIVER: u8 = 60;

/// Which delivery it is.
pub(super) struct Label<'a> {
    pub channel: u16,
    /// A short string with its length.
    pub consumer_tag: &'a [u8],
    pub delivery_tag: u64,
    pub redelivered: bool,
}

/// Octets of the method's frame besides its strings, and of the header's frame besides the properties.
const FIXED_BYTES: usize = 11 + 9 + 1 + 1 + 1 + 19 + 1;

/// Appends the frames.
#[inline]
pub(super) fn encode(label: &Label<'_>, message: &MessageView<'_>, frame_max: u32, out: &mut Vec<u8>) {
    let &MessageView { properties, body, .. } = message;
    let (exchange, routing_key) = (short(message.exchange), short(message.routing_key));
    let strings_bytes = label.consumer_tag.len() + exchange.len() + routing_key.len();
    // Too long for one frame, or for none.
    let in_one_frame = body.len().wrapping_sub(1) < (frame_max as usize).wrapping_sub(OVERHEAD_BYTES);
    out.reserve(FIXED_BYTES + strings_bytes + properties.len() + body.len() + OVERHEAD_BYTES);
    let room = out.spare_capacity_mut();
    let room_bytes = room.len();

    let [c1, c0] = label.channel.to_be_bytes();
    let [_, _, s1, s0] = (4 + 9 + 2 + strings_bytes as u32).to_be_bytes();
    let room = put(room, &[FrameKind::Method as u8, c1, c0, 0, 0, s1, s0, 0, BASIC, 0, DELIVER]);
    let room = put(room, label.consumer_tag);
    let [t7, t6, t5, t4, t3, t2, t1, t0] = label.delivery_tag.to_be_bytes();
    let redelivered = label.redelivered.into();
    let room = put(room, &[t7, t6, t5, t4, t3, t2, t1, t0, redelivered, exchange.len() as u8]);
    let room = put(room, exchange);
    let room = put(room, &[routing_key.len() as u8]);
    let room = put(room, routing_key);
    let [s3, s2, s1, s0] = (12 + properties.len() as u32).to_be_bytes();
    let [b7, b6, b5, b4, b3, b2, b1, b0] = (body.len() as u64).to_be_bytes();
    let header = FrameKind::Header as u8;
    let room =
        put(room, &[END, header, c1, c0, s3, s2, s1, s0, 0, BASIC, 0, 0, b7, b6, b5, b4, b3, b2, b1, b0]);
    let mut room = put(room, properties);
    if in_one_frame {
        room = put(room, &[END, FrameKind::Body as u8, c1, c0, b3, b2, b1, b0]);
        room = put(room, body);
    }
    room = put(room, &[END]);
    let written = room_bytes - room.len();
    // SAFETY: `room` began at the end of `out`, and so many bytes of it have been written, one after the other.
    unsafe { out.set_len(out.len() + written) };
    if !in_one_frame && !body.is_empty() {
        let chunk_bytes = match frame_max as usize {
            0 => body.len(),
            frame_max => frame_max - OVERHEAD_BYTES,
        };
        for payload in body.chunks(chunk_bytes) {
            Frame { kind: FrameKind::Body, channel: label.channel, payload }.encode(out);
        }
    }
}

/// As much as a short string can carry. Longer ones do not come by this protocol.
#[inline(always)]
fn short(text: &[u8]) -> &[u8] {
    &text[..text.len().min(SHORT_STRING_MAX_BYTES)]
}

/// Copies to the beginning of `room`; returns the rest of it.
#[inline(always)]
fn put<'a>(room: &'a mut [MaybeUninit<u8>], bytes: &[u8]) -> &'a mut [MaybeUninit<u8>] {
    let (to, rest) = room.split_at_mut(bytes.len());
    // SAFETY: `to` is as long as `bytes` and nobody else's.
    unsafe { to.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    rest
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
            (b"exchange", &[b'k'; 300], &[0x10, 0, 1], 10_000, 4096),
            (b"exchange", b"a.b.c", &[0x10, 0, 1], 10_000, 0),
        ] {
            let body = &body[..body_bytes];
            let message = MessageView { encoding: &ENCODING, exchange, routing_key: key, properties, body };
            let label =
                Label { channel: 2047, consumer_tag: b"\x04ctag", delivery_tag: 1 << 40, redelivered: true };
            let mut written = b"before".to_vec();
            encode(&label, &message, frame_max, &mut written);
            let mut expected = b"before".to_vec();
            fast::deliver(2047, b"ctag", 1 << 40, true, exchange, key, &mut expected);
            frame::encode_content(2047, properties, body, frame_max, &mut expected);
            assert_eq!(written, expected);
        }
    }
}
