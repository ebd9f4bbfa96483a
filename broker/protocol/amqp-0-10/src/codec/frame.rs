//! Frames and the protocol header (specification, "Transport": "Version negotiation", "Framing").

use super::table::{MIN_MAX_FRAME_SIZE, SegmentType, Track};

/// Octets of a frame before its payload.
pub const HEAD_BYTES: usize = 12;

/// Largest frame that the size in its head can tell, in bytes.
pub const MAX_FRAME_BYTES: u16 = u16::MAX;

/// Smallest maximum frame size that may be agreed on, in bytes.
pub const MIN_FRAME_MAX_BYTES: u16 = MIN_MAX_FRAME_SIZE;

/// Where a frame stands in its segment, and that in its control or command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Of the first segment (`B`).
    pub first_segment: bool,
    /// Of the last segment (`E`).
    pub last_segment: bool,
    /// The first frame of its segment (`b`).
    pub first_frame: bool,
    /// The last frame of its segment (`e`).
    pub last_frame: bool,
}

impl Flags {
    /// The only frame of the only segment.
    pub const WHOLE: Flags =
        Flags { first_segment: true, last_segment: true, first_frame: true, last_frame: true };

    #[inline(always)]
    const fn octet(self) -> u8 {
        (self.first_segment as u8) << 3
            | (self.last_segment as u8) << 2
            | (self.first_frame as u8) << 1
            | self.last_frame as u8
    }

    #[inline(always)]
    const fn from_octet(octet: u8) -> Self {
        Flags {
            first_segment: octet & 8 != 0,
            last_segment: octet & 4 != 0,
            first_frame: octet & 2 != 0,
            last_frame: octet & 1 != 0,
        }
    }
}

/// A frame, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its place.
    pub flags: Flags,
    /// What its segment carries; never [`SegmentType::Other`] where it was parsed.
    pub kind: SegmentType,
    /// Its track; never [`Track::Other`] where it was parsed.
    pub track: Track,
    /// Its channel.
    pub channel: u16,
    /// What follows the head.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Appends the frame.
    ///
    /// # Panics
    /// With a payload that a frame cannot hold.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(HEAD_BYTES + self.payload.len());
        out.extend_from_slice(&head(self.flags, self.kind, self.track, self.channel, self.payload.len()));
        out.extend_from_slice(self.payload);
    }
}

/// Why the input is not a frame. The connection cannot go on: the limits of the following frames are unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the frame format of this version; a protocol header in the middle of the stream is seen as this.
    #[error("unknown frame format in {0:#04x}")]
    UnknownFormat(u8),
    /// Bits that are reserved are set.
    #[error("reserved bits are not zero in {0:#04x}")]
    ReservedBits(u8),
    /// No segment has this type.
    #[error("unknown segment type {0}")]
    UnknownType(u8),
    /// There is no such track.
    #[error("unknown track {0}")]
    UnknownTrack(u8),
    /// The size is less than that of the head.
    #[error("frame of {0} bytes, the head alone has {HEAD_BYTES}")]
    TooSmall(u16),
    /// The frame is larger than was agreed.
    #[error("frame of {size} bytes, the maximum is {frame_max}")]
    TooLarge {
        /// Size of the whole frame, in bytes.
        size: u16,
        /// Agreed maximum, in bytes.
        frame_max: u16,
    },
}

/// Takes the frame at the beginning of `input`: the frame, and how many bytes it took. `None` if it is not complete.
/// `frame_max` bounds the whole frame in bytes; 0 means no bound. The last four octets of the head are not looked at.
///
/// # Errors
/// As soon as the bytes that are there show that no valid frame can follow.
#[inline]
pub fn parse(input: &[u8], frame_max: u16) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((&[flags, kind, s1, s0, reserved, track, c1, c0, ..], after_head)) =
        input.split_first_chunk::<HEAD_BYTES>()
    else {
        return parse_torn(input, frame_max).map(|()| None);
    };
    check_format(flags)?;
    let kind = segment_type(kind)?;
    let size = u16::from_be_bytes([s1, s0]);
    check_size(size, frame_max)?;
    check_reserved(reserved)?;
    let track = check_track(track)?;
    let Some(payload) = after_head.get(..usize::from(size) - HEAD_BYTES) else { return Ok(None) };
    let channel = u16::from_be_bytes([c1, c0]);
    Ok(Some((Frame { flags: Flags::from_octet(flags), kind, track, channel, payload }, size.into())))
}

/// Checks what is there of a head.
#[cold]
fn parse_torn(input: &[u8], frame_max: u16) -> Result<(), FrameError> {
    if let Some(&flags) = input.first() {
        check_format(flags)?;
    }
    if let Some(&kind) = input.get(1) {
        segment_type(kind)?;
    }
    if let Some(&[s1, s0]) = input.get(2..4) {
        check_size(u16::from_be_bytes([s1, s0]), frame_max)?;
    }
    if let Some(&reserved) = input.get(4) {
        check_reserved(reserved)?;
    }
    if let Some(&track) = input.get(5) {
        check_track(track)?;
    }
    Ok(())
}

#[inline(always)]
fn check_format(flags: u8) -> Result<(), FrameError> {
    match flags & 0xF0 {
        0 => Ok(()),
        reserved if reserved & 0xC0 == 0 => Err(FrameError::ReservedBits(flags)),
        _ => Err(FrameError::UnknownFormat(flags)),
    }
}

#[inline(always)]
fn check_reserved(octet: u8) -> Result<(), FrameError> {
    if octet == 0 { Ok(()) } else { Err(FrameError::ReservedBits(octet)) }
}

#[inline(always)]
fn segment_type(octet: u8) -> Result<SegmentType, FrameError> {
    match SegmentType::from_code(octet) {
        SegmentType::Other(other) => Err(FrameError::UnknownType(other)),
        kind => Ok(kind),
    }
}

#[inline(always)]
fn check_track(octet: u8) -> Result<Track, FrameError> {
    match Track::from_code(octet) {
        Track::Other(other) if other > 0x0F => Err(FrameError::ReservedBits(octet)),
        Track::Other(other) => Err(FrameError::UnknownTrack(other)),
        track => Ok(track),
    }
}

#[inline(always)]
fn check_size(size: u16, frame_max: u16) -> Result<(), FrameError> {
    if usize::from(size) < HEAD_BYTES {
        return Err(FrameError::TooSmall(size));
    }
    if frame_max != 0 && size > frame_max {
        return Err(FrameError::TooLarge { size, frame_max });
    }
    Ok(())
}

/// The head of a frame with a payload of `payload_bytes`.
#[inline(always)]
pub(super) fn head(
    flags: Flags,
    kind: SegmentType,
    track: Track,
    channel: u16,
    payload_bytes: usize,
) -> [u8; HEAD_BYTES] {
    let size = u16::try_from(HEAD_BYTES + payload_bytes).expect("a payload larger than a frame");
    let ([s1, s0], [c1, c0]) = (size.to_be_bytes(), channel.to_be_bytes());
    [flags.octet(), kind.code(), s1, s0, 0, track.code() & 0x0F, c1, c0, 0, 0, 0, 0]
}

/// Octets of a protocol header.
pub const PROTOCOL_HEADER_BYTES: usize = 8;

/// What either side sends first: which protocol it speaks, and which version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolHeader {
    /// 1 is AMQP itself; AMQP over a secure layer has others.
    pub class: u8,
    /// The transport: 1 is TCP.
    pub instance: u8,
    /// Major version.
    pub major: u8,
    /// Minor version.
    pub minor: u8,
}

impl ProtocolHeader {
    /// AMQP 0-10 over TCP.
    pub const AMQP_0_10: ProtocolHeader = ProtocolHeader { class: 1, instance: 1, major: 0, minor: 10 };

    /// Its octets.
    pub const fn to_bytes(self) -> [u8; PROTOCOL_HEADER_BYTES] {
        [b'A', b'M', b'Q', b'P', self.class, self.instance, self.major, self.minor]
    }

    /// The header at the beginning of `input`; `None` if it is not complete.
    ///
    /// # Errors
    /// As soon as the bytes that are there cannot be a protocol header.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, NotAmqp> {
        let name = &input[..input.len().min(4)];
        if !b"AMQP".starts_with(name) {
            return Err(NotAmqp);
        }
        let Some(&[_, _, _, _, class, instance, major, minor]) = input.first_chunk() else { return Ok(None) };
        Ok(Some(ProtocolHeader { class, instance, major, minor }))
    }
}

/// The peer does not begin with the name of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with an AMQP protocol header")]
pub struct NotAmqp;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: &[u8]) -> Frame<'_> {
        let flags = Flags { first_segment: true, last_frame: true, ..Flags::default() };
        Frame { flags, kind: SegmentType::Body, track: Track::Command, channel: 0x0102, payload }
    }

    fn encoded(frame: &Frame<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    }

    #[test]
    fn a_frame_on_the_wire() {
        assert_eq!(encoded(&frame(b"hi")), b"\x09\x03\0\x0e\0\x01\x01\x02\0\0\0\0hi");
        let octets = |flags: Flags| encoded(&Frame { flags, ..frame(b"") })[0];
        assert_eq!(octets(Flags::WHOLE), 0x0F);
        assert_eq!(octets(Flags { last_segment: true, ..Flags::default() }), 4);
        assert_eq!(octets(Flags { first_frame: true, ..Flags::default() }), 2);
    }

    #[test]
    fn a_cut_frame_is_incomplete_at_every_place() {
        let bytes = encoded(&frame(b"hello"));
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut], 4096), Ok(None), "{cut} bytes");
        }
        let expected = Ok(Some((frame(b"hello"), bytes.len())));
        assert_eq!(parse(&bytes, 0), expected);
        assert_eq!(parse(&[&bytes[..], b"\x01"].concat(), bytes.len() as u16), expected);
    }

    #[test]
    fn errors_come_as_early_as_they_can_be_known() {
        for (bytes, error) in [
            (&b"\x4f\0\0\x0c\0\0\0\0\0\0\0\0"[..], FrameError::UnknownFormat(0x4F)),
            (b"\x0f\x04\0\x0c\0\0\0\0\0\0\0\0", FrameError::UnknownType(4)),
            (b"\x0f\0\0\x0b\0\0\0\0\0\0\0\0", FrameError::TooSmall(11)),
            (b"\x0f\0\x10\x01\0\0\0\0\0\0\0\0", FrameError::TooLarge { size: 4097, frame_max: 4096 }),
            (b"\x0f\0\0\x0c\0\x02\0\0\0\0\0\0", FrameError::UnknownTrack(2)),
            (b"\x1f\0\0\x0c\0\0\0\0\0\0\0\0", FrameError::ReservedBits(0x1F)),
            (b"\x0f\0\0\x0c\x01\0\0\0\0\0\0\0", FrameError::ReservedBits(1)),
            (b"\x0f\0\0\x0c\0\x10\0\0\0\0\0\0", FrameError::ReservedBits(0x10)),
            (b"AMQP\x01\x01\0\x0a", FrameError::UnknownFormat(b'A')),
        ] {
            let first = (0..=bytes.len()).find(|&cut| parse(&bytes[..cut], 4096).is_err()).unwrap();
            for cut in first..=bytes.len() {
                assert_eq!(parse(&bytes[..cut], 4096), Err(error), "{cut} bytes");
            }
            let known_after = match error {
                FrameError::UnknownFormat(_) | FrameError::ReservedBits(0x1F) => 1,
                FrameError::ReservedBits(1) => 5,
                FrameError::ReservedBits(_) => 6,
                FrameError::UnknownType(_) => 2,
                FrameError::UnknownTrack(_) => 6,
                _ => 4,
            };
            assert_eq!(first, known_after, "{error}");
        }
    }

    #[test]
    fn the_end_of_the_head_is_not_looked_at() {
        let mut bytes = encoded(&frame(b"x"));
        bytes[8..12].fill(0xFF);
        assert_eq!(parse(&bytes, 0), Ok(Some((frame(b"x"), bytes.len()))));
    }

    #[test]
    fn the_protocol_header() {
        let bytes = *b"AMQP\x01\x01\0\x0a";
        assert_eq!(ProtocolHeader::AMQP_0_10.to_bytes(), bytes);
        for cut in 0..bytes.len() {
            assert_eq!(ProtocolHeader::parse(&bytes[..cut]), Ok(None));
        }
        assert_eq!(ProtocolHeader::parse(&bytes), Ok(Some(ProtocolHeader::AMQP_0_10)));
        let old = ProtocolHeader { class: 0, instance: 0, major: 9, minor: 1 };
        assert_eq!(ProtocolHeader::parse(b"AMQP\0\0\x09\x01more"), Ok(Some(old)));
        assert_eq!(ProtocolHeader::parse(b"G"), Err(NotAmqp));
        assert_eq!(ProtocolHeader::parse(b"AMQx"), Err(NotAmqp));
    }

    proptest! {
        #[test]
        fn frames_come_back(
            flags in 0..16u8, kind in 0..4u8, track in 0..2u8, channel in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let (flags, kind, track) = (Flags::from_octet(flags), SegmentType::from_code(kind), Track::from_code(track));
            let frame = Frame { flags, kind, track, channel, payload: &payload };
            let bytes = encoded(&frame);
            prop_assert_eq!(parse(&bytes, 0), Ok(Some((frame, bytes.len()))));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(0..16u8, 0..40), frame_max in any::<u16>()) {
            if let Ok(Some((frame, taken))) = parse(&bytes, frame_max) {
                prop_assert_eq!(taken, frame.payload.len() + HEAD_BYTES);
                prop_assert!(taken <= bytes.len());
                prop_assert_eq!(parse(&bytes[..taken - 1], frame_max), Ok(None));
            }
            let _ = ProtocolHeader::parse(&bytes);
        }
    }
}
