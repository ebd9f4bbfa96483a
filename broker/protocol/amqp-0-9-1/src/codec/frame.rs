//! Frames, and the content that some methods carry: a header frame and body frames.

use super::CodecError;
use super::wire::Reader;

/// Octets of a frame around its payload: type, channel, size before it, the end octet after.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + 1;

/// Octets before the payload.
pub const HEAD_BYTES: usize = 7;

/// The octet that ends every frame.
pub const END: u8 = 0xCE;

/// Smallest maximum frame size that a peer may ask for.
pub const MIN_FRAME_MAX_BYTES: u32 = 4096;

/// A whole heartbeat frame.
pub const HEARTBEAT: [u8; 8] = [FrameKind::Heartbeat as u8, 0, 0, 0, 0, 0, 0, END];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A method and its arguments.
    Method = 1,
    /// Size and properties of content.
    Header = 2,
    /// A part of content.
    Body = 3,
    /// A sign of life.
    Heartbeat = 8,
}

/// A frame, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// Its channel; 0 is the connection itself.
    pub channel: u16,
    /// What lies between the head and the end octet.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.payload.len() + OVERHEAD_BYTES);
        out.extend_from_slice(&head(self.kind, self.channel, self.payload.len()));
        out.extend_from_slice(self.payload);
        out.push(END);
    }
}

/// Why the input is not a frame. The connection cannot go on: the limits of the following frames are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No frame has this type.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// The frame is larger than was agreed.
    #[error("frame of {size} bytes, the maximum is {frame_max}")]
    TooLarge {
        /// Size of the whole frame, in bytes.
        size: u64,
        /// Agreed maximum, in bytes.
        frame_max: u32,
    },
    /// The frame does not end where it says.
    #[error("frame ends with {0:#04x} instead of 0xce")]
    BadEnd(u8),
}

/// Takes the frame at the beginning of `input`: the frame, and how many bytes it took. `None` if it is not complete.
/// `frame_max` bounds the whole frame in bytes; 0 means no bound.
///
/// # Errors
/// As soon as the bytes that are there show that no valid frame can follow.
#[inline]
pub fn parse(input: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((&[kind_octet, c1, c0, s3, s2, s1, s0], after_head)) = input.split_first_chunk::<HEAD_BYTES>()
    else {
        return match input.first() {
            Some(&octet) => kind(octet).map(|_| None),
            None => Ok(None),
        };
    };
    let kind = kind(kind_octet)?;
    let size = u32::from_be_bytes([s3, s2, s1, s0]);
    let whole = u64::from(size) + OVERHEAD_BYTES as u64;
    if frame_max != 0 && whole > u64::from(frame_max) {
        return Err(FrameError::TooLarge { size: whole, frame_max });
    }
    let Some((payload, after)) =
        usize::try_from(size).ok().and_then(|size| after_head.split_at_checked(size))
    else {
        return Ok(None);
    };
    match after.first() {
        None => Ok(None),
        Some(&END) => {
            let channel = u16::from_be_bytes([c1, c0]);
            Ok(Some((Frame { kind, channel, payload }, payload.len() + OVERHEAD_BYTES)))
        }
        Some(&other) => Err(FrameError::BadEnd(other)),
    }
}

#[inline(always)]
fn kind(octet: u8) -> Result<FrameKind, FrameError> {
    Ok(match octet {
        1 => FrameKind::Method,
        2 => FrameKind::Header,
        3 => FrameKind::Body,
        8 => FrameKind::Heartbeat,
        other => return Err(FrameError::UnknownType(other)),
    })
}

/// The head of a frame with a payload of `payload_bytes`.
#[inline(always)]
pub(super) fn head(kind: FrameKind, channel: u16, payload_bytes: usize) -> [u8; HEAD_BYTES] {
    let [c1, c0] = channel.to_be_bytes();
    // The callers' payloads are bounded by the frame size that was agreed, 32 bits wide.
    let [s3, s2, s1, s0] = (payload_bytes as u32).to_be_bytes();
    [kind as u8, c1, c0, s3, s2, s1, s0]
}

/// What a content header frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// Class of the method that carries the content.
    pub class_id: u16,
    /// Length of the body, in bytes.
    pub body_size: u64,
    /// Property flags and values, not looked at; see [`super::properties`].
    pub properties: &'a [u8],
}

/// Octets of a content header before the properties.
pub const CONTENT_HEADER_BYTES: usize = 12;

impl<'a> ContentHeader<'a> {
    /// From the payload of a header frame.
    ///
    /// # Errors
    /// The payload is shorter than its fixed part with the property flags.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(payload);
        let class_id = reader.short()?;
        let _weight = reader.short()?;
        let body_size = reader.longlong()?;
        let properties = reader.rest();
        if properties.len() < 2 {
            return Err(CodecError::Truncated);
        }
        Ok(ContentHeader { class_id, body_size, properties })
    }

    /// Appends a whole header frame.
    #[inline]
    pub fn encode(&self, channel: u16, out: &mut Vec<u8>) {
        out.reserve(CONTENT_HEADER_BYTES + self.properties.len() + OVERHEAD_BYTES);
        out.extend_from_slice(&self.head(channel));
        out.extend_from_slice(self.properties);
        out.push(END);
    }

    /// Head of the frame and the fixed part of its payload.
    #[inline(always)]
    fn head(&self, channel: u16) -> [u8; HEAD_BYTES + CONTENT_HEADER_BYTES] {
        let mut bytes = [0; HEAD_BYTES + CONTENT_HEADER_BYTES];
        let payload_bytes = CONTENT_HEADER_BYTES + self.properties.len();
        bytes[..7].copy_from_slice(&head(FrameKind::Header, channel, payload_bytes));
        bytes[7..9].copy_from_slice(&self.class_id.to_be_bytes());
        bytes[11..19].copy_from_slice(&self.body_size.to_be_bytes());
        bytes
    }
}

/// Appends the content of a basic method: a header frame with `properties` (flags and values), then as many body
/// frames of at most `frame_max` bytes (0: no bound) as `body` needs.
#[inline]
pub fn encode_content(channel: u16, properties: &[u8], body: &[u8], frame_max: u32, out: &mut Vec<u8>) {
    let chunk_bytes = match frame_max as usize {
        0 => u32::MAX as usize - OVERHEAD_BYTES,
        frame_max => frame_max.saturating_sub(OVERHEAD_BYTES).max(1),
    };
    let body_frames = if body.len() <= chunk_bytes { 1 } else { body.len().div_ceil(chunk_bytes) };
    out.reserve(
        CONTENT_HEADER_BYTES + properties.len() + OVERHEAD_BYTES + body.len() + body_frames * OVERHEAD_BYTES,
    );
    let header =
        ContentHeader { class_id: super::method::class::BASIC, body_size: body.len() as u64, properties };
    header.encode(channel, out);
    if body_frames == 1 && !body.is_empty() {
        Frame { kind: FrameKind::Body, channel, payload: body }.encode(out);
    } else {
        for payload in body.chunks(chunk_bytes) {
            Frame { kind: FrameKind::Body, channel, payload }.encode(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Frame { kind, channel: 0x0102, payload }.encode(&mut out);
        out
    }

    #[test]
    fn a_cut_frame_is_incomplete_at_every_place() {
        let bytes = frame(FrameKind::Body, b"hello");
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut], 0), Ok(None), "{cut} bytes");
        }
        let expected = Frame { kind: FrameKind::Body, channel: 0x0102, payload: b"hello" };
        assert_eq!(parse(&bytes, 0), Ok(Some((expected, bytes.len()))));
        assert_eq!(parse(&[&bytes[..], b"\x01"].concat(), 0), Ok(Some((expected, bytes.len()))));
    }

    #[test]
    fn errors_come_as_early_as_they_can_be_known() {
        assert_eq!(parse(b"P", 0), Err(FrameError::UnknownType(b'P')));
        let head = [1, 0, 0, 0, 0, 0x10, 0];
        assert_eq!(parse(&head, 4096), Err(FrameError::TooLarge { size: 4104, frame_max: 4096 }));
        assert_eq!(parse(&head, 4104), Ok(None));
        assert_eq!(parse(&[3, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF], 0), Ok(None));
        assert_eq!(parse(&[8, 0, 0, 0, 0, 0, 0, 0xCD], 0), Err(FrameError::BadEnd(0xCD)));
    }

    #[test]
    fn the_heartbeat_is_a_frame() {
        let expected = Frame { kind: FrameKind::Heartbeat, channel: 0, payload: &[] };
        assert_eq!(parse(&HEARTBEAT, 4096), Ok(Some((expected, 8))));
    }

    #[test]
    fn a_header_without_flags_is_malformed() {
        let mut bytes = Vec::new();
        ContentHeader { class_id: 60, body_size: 9, properties: &[0, 0] }.encode(3, &mut bytes);
        let payload = &bytes[HEAD_BYTES..bytes.len() - 1];
        let expected = ContentHeader { class_id: 60, body_size: 9, properties: &[0, 0] };
        assert_eq!(ContentHeader::parse(payload), Ok(expected));
        for cut in 0..payload.len() {
            assert_eq!(ContentHeader::parse(&payload[..cut]), Err(CodecError::Truncated));
        }
    }

    proptest! {
        #[test]
        fn content_is_split_into_full_frames(
            body in prop::collection::vec(any::<u8>(), 0..2000),
            frame_max in prop_oneof![Just(0u32), 9..600u32],
        ) {
            let mut out = vec![0xAA];
            encode_content(7, &[0, 0], &body, frame_max, &mut out);
            prop_assert_eq!(out[0], 0xAA);

            let (frame, len) = parse(&out[1..], 0)?.unwrap();
            let header = ContentHeader::parse(frame.payload)?;
            prop_assert_eq!((frame.kind, header.class_id), (FrameKind::Header, 60));
            prop_assert_eq!(header.body_size, body.len() as u64);

            let (mut rest, mut joined, mut frames) = (&out[1 + len..], Vec::new(), 0);
            while !rest.is_empty() {
                let (frame, len) = parse(rest, frame_max)?.unwrap();
                prop_assert_eq!((frame.kind, frame.channel), (FrameKind::Body, 7));
                joined.extend_from_slice(frame.payload);
                rest = &rest[len..];
                frames += 1;
            }
            prop_assert_eq!(&joined, &body);
            let room = if frame_max == 0 { usize::MAX } else { frame_max as usize - OVERHEAD_BYTES };
            prop_assert_eq!(frames, body.len().div_ceil(room));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), frame_max in any::<u32>()) {
            if let Ok(Some((frame, len))) = parse(&bytes, frame_max) {
                prop_assert_eq!(len, frame.payload.len() + OVERHEAD_BYTES);
                prop_assert!(len <= bytes.len());
            }
            let _ = ContentHeader::parse(&bytes);
        }
    }
}
