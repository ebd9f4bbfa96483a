//! Segments: a control, a command, a content header or a body, each in one frame or several (specification,
//! "Segments", "Assemblies"). A control is one segment; a command is one, or is followed by a header, a body or both.

use super::frame::{Flags, Frame, HEAD_BYTES, MAX_FRAME_BYTES, head};
use super::table::{SegmentType, Track};

/// The track on which segments of this type travel.
#[inline(always)]
pub const fn track(kind: SegmentType) -> Track {
    match kind {
        SegmentType::Control => Track::Control,
        _ => Track::Command,
    }
}

/// Most payload of a frame of at most `frame_max` bytes (0: no bound).
#[inline(always)]
pub(super) fn room(frame_max: u16) -> usize {
    let frame_max = if frame_max == 0 { MAX_FRAME_BYTES } else { frame_max };
    usize::from(frame_max).saturating_sub(HEAD_BYTES).max(1)
}

/// Appends a segment in as many frames of at most `frame_max` bytes (0: no bound) as it needs; at least one. `place`:
/// whether it is the first of its control or command, and whether the last.
#[inline]
pub fn encode(
    kind: SegmentType,
    channel: u16,
    place: (bool, bool),
    payload: &[u8],
    frame_max: u16,
    out: &mut Vec<u8>,
) {
    let room = room(frame_max);
    let (first_segment, last_segment) = place;
    let track = track(kind);
    let frame = |first_frame, last_frame, payload| Frame {
        flags: Flags { first_segment, last_segment, first_frame, last_frame },
        kind,
        track,
        channel,
        payload,
    };
    if payload.len() <= room {
        return frame(true, true, payload).encode(out);
    }
    out.reserve(payload.len() + payload.len().div_ceil(room) * HEAD_BYTES);
    let mut rest = payload;
    while !rest.is_empty() {
        let (part, left) = rest.split_at(rest.len().min(room));
        frame(rest.len() == payload.len(), left.is_empty(), part).encode(out);
        rest = left;
    }
}

/// Appends a segment of what `payload` appends; see [`encode`].
#[inline(always)]
pub(super) fn with_segment(
    kind: SegmentType,
    channel: u16,
    place: (bool, bool),
    frame_max: u16,
    out: &mut Vec<u8>,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    payload(out);
    let payload_bytes = out.len() - start - HEAD_BYTES;
    if payload_bytes > room(frame_max) {
        return split(kind, channel, place, frame_max, out, start);
    }
    let flags = Flags { first_segment: place.0, last_segment: place.1, ..Flags::WHOLE };
    out[start..start + HEAD_BYTES].copy_from_slice(&head(flags, kind, track(kind), channel, payload_bytes));
}

#[cold]
fn split(
    kind: SegmentType,
    channel: u16,
    place: (bool, bool),
    frame_max: u16,
    out: &mut Vec<u8>,
    start: usize,
) {
    let payload = out.split_off(start + HEAD_BYTES);
    out.truncate(start);
    encode(kind, channel, place, &payload, frame_max, out);
}

/// What a frame completes, or adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A whole control, command or content header.
    Segment {
        /// Which of them.
        kind: SegmentType,
        /// All of its payload.
        payload: &'a [u8],
        /// Whether no segment follows: a control or command without content, or a header without a body.
        is_last: bool,
    },
    /// A part of a body, as long as the frame that brought it.
    Body {
        /// The octets.
        payload: &'a [u8],
        /// Whether the body, and with it the command, ends here.
        is_last: bool,
    },
}

/// Why a frame does not follow what came before it on its channel and track.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// A segment begins in the middle of another, or goes on that has not begun.
    #[error("frame flags that do not follow the frame before")]
    OutOfPlace,
    /// The segment cannot stand there: a body before its header, a control on the track of commands, …
    #[error("{} segment out of order", .0.name())]
    OutOfOrder(SegmentType),
    /// More than the assembler holds.
    #[error("{} segment of more than {limit} bytes", .kind.name())]
    TooLarge {
        /// What is too large.
        kind: SegmentType,
        /// The limit, in bytes.
        limit: u64,
    },
}

/// Puts segments of one channel and track together from frames. Segments of one frame are not copied; of the others
/// controls, commands and headers are gathered up to a limit. Bodies are counted up to a limit and handed on.
///
/// After an error the connection or session cannot go on.
#[derive(Debug)]
pub struct Assembler {
    track: Track,
    limits: Limits,
    /// The segment before the one that is expected, or the one that goes on; `None` between commands.
    current: Option<SegmentType>,
    /// Whether `current` goes on.
    is_torn: bool,
    /// Whether `current` is the last segment.
    is_last: bool,
    gathered: Vec<u8>,
    body_bytes: u64,
}

/// What an [`Assembler`] takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest control, command or content header, in bytes.
    pub segment_bytes: usize,
    /// Longest body, in bytes.
    pub body_bytes: u64,
}

/// Memory that an [`Assembler`] keeps between segments, in bytes.
const KEPT_BYTES: usize = 4096;

impl Assembler {
    /// For a track of a channel.
    pub const fn new(track: Track, limits: Limits) -> Self {
        Assembler {
            track,
            limits,
            current: None,
            is_torn: false,
            is_last: false,
            gathered: Vec::new(),
            body_bytes: 0,
        }
    }

    /// Whether nothing is expected to go on.
    pub const fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Takes the next frame of the track. `None` if its segment goes on and has to be gathered first.
    ///
    /// # Errors
    /// The frame cannot come here, or what it belongs to grows too large.
    #[inline]
    pub fn push<'a>(&'a mut self, frame: &Frame<'a>) -> Result<Option<Piece<'a>>, SegmentError> {
        let Frame { flags, kind, payload, .. } = *frame;
        if flags.first_frame {
            self.begin(frame)?;
        } else if !self.is_torn
            || self.current != Some(kind)
            || flags.last_segment != self.is_last
            || flags.first_segment != is_first(kind)
        {
            return Err(SegmentError::OutOfPlace);
        }
        self.is_torn = !flags.last_frame;
        if flags.last_frame && flags.last_segment {
            self.current = None;
        }
        if kind == SegmentType::Body {
            return self.body(frame).map(Some);
        }
        if flags.first_frame && flags.last_frame {
            self.check_length(kind, payload.len())?;
            return Ok(Some(Piece::Segment { kind, payload, is_last: flags.last_segment }));
        }
        self.gather(frame)
    }

    /// Checks that a segment may begin with this frame.
    #[inline(always)]
    fn begin(&mut self, frame: &Frame<'_>) -> Result<(), SegmentError> {
        use SegmentType::{Body, Command, Control, Header};
        let Frame { flags, kind, .. } = *frame;
        if self.is_torn || flags.first_segment != is_first(kind) {
            return Err(SegmentError::OutOfPlace);
        }
        match (self.track, self.current, kind) {
            (Track::Control, None, Control) if flags.last_segment => {}
            (Track::Command, None, Command) | (Track::Command, Some(Command), Header) => {}
            (Track::Command, Some(Command | Header), Body) if flags.last_segment => {}
            _ => return Err(SegmentError::OutOfOrder(kind)),
        }
        self.current = Some(kind);
        self.is_last = flags.last_segment;
        self.body_bytes = 0;
        Ok(())
    }

    #[inline(always)]
    fn body<'a>(&mut self, frame: &Frame<'a>) -> Result<Piece<'a>, SegmentError> {
        self.body_bytes += frame.payload.len() as u64;
        if self.body_bytes > self.limits.body_bytes {
            return Err(SegmentError::TooLarge { kind: frame.kind, limit: self.limits.body_bytes });
        }
        Ok(Piece::Body { payload: frame.payload, is_last: frame.flags.last_frame })
    }

    #[inline(always)]
    fn check_length(&self, kind: SegmentType, bytes: usize) -> Result<(), SegmentError> {
        let limit = self.limits.segment_bytes;
        if bytes <= limit { Ok(()) } else { Err(SegmentError::TooLarge { kind, limit: limit as u64 }) }
    }

    #[cold]
    fn gather(&mut self, frame: &Frame<'_>) -> Result<Option<Piece<'_>>, SegmentError> {
        let Frame { flags, kind, payload, .. } = *frame;
        if flags.first_frame {
            self.gathered.clear();
            self.gathered.shrink_to(KEPT_BYTES);
        }
        self.check_length(kind, self.gathered.len() + payload.len())?;
        self.gathered.extend_from_slice(payload);
        if !flags.last_frame {
            return Ok(None);
        }
        Ok(Some(Piece::Segment { kind, payload: &self.gathered, is_last: flags.last_segment }))
    }
}

/// Whether segments of this type come first.
#[inline(always)]
fn is_first(kind: SegmentType) -> bool {
    matches!(kind, SegmentType::Control | SegmentType::Command)
}

#[cfg(test)]
mod tests {
    use super::super::frame::parse;
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { segment_bytes: 100, body_bytes: 1000 };

    fn assembler(kind: SegmentType) -> Assembler {
        Assembler::new(track(kind), LIMITS)
    }

    fn frame(kind: SegmentType, letters: &str, payload: &'static [u8]) -> Frame<'static> {
        let has = |letter| letters.contains(letter);
        let flags = Flags {
            first_segment: has('B'),
            last_segment: has('E'),
            first_frame: has('b'),
            last_frame: has('e'),
        };
        Frame { flags, kind, track: track(kind), channel: 1, payload }
    }

    /// Letters, type and outcome of one frame after the other: `None` for one that is taken.
    fn check(steps: &[(&str, SegmentType, Option<SegmentError>)]) {
        let mut assembler = assembler(steps[0].1);
        for (n, &(letters, kind, ref error)) in steps.iter().enumerate() {
            let outcome = assembler.push(&frame(kind, letters, b"x")).err();
            assert_eq!(outcome, *error, "step {n}");
        }
    }

    #[test]
    fn segments_come_in_order() {
        use SegmentType::{Body, Command, Control, Header};
        let order = |kind| Some(SegmentError::OutOfOrder(kind));
        check(&[("BEbe", Control, None), ("BEbe", Control, None), ("BEbe", Command, order(Command))]);
        check(&[("BEbe", Command, None), ("BEbe", Control, order(Control))]);
        check(&[("Bbe", Command, None), ("be", Header, None), ("Ebe", Body, None), ("BEbe", Command, None)]);
        check(&[("Bbe", Command, None), ("Ebe", Body, None), ("Ebe", Body, order(Body))]);
        check(&[("Bbe", Command, None), ("Ebe", Header, None), ("Ebe", Body, order(Body))]);
        check(&[("Bbe", Command, None), ("be", Header, None), ("be", Header, order(Header))]);
        check(&[("Bbe", Command, None), ("BEbe", Command, order(Command))]);
        check(&[("Bbe", Command, None), ("be", Body, order(Body))]);
        check(&[("Ebe", Header, order(Header))]);
        check(&[("Bbe", Control, order(Control))]);
    }

    #[test]
    fn frames_come_in_order() {
        use SegmentType::{Body, Command, Header};
        let place = Some(SegmentError::OutOfPlace);
        check(&[("BEe", Command, place)]);
        check(&[("Ebe", Command, place)]);
        check(&[("BEb", Command, None), ("BEbe", Command, place)]);
        check(&[
            ("BEb", Command, None),
            ("BE", Command, None),
            ("BEe", Command, None),
            ("BEe", Command, place),
        ]);
        check(&[("Bb", Command, None), ("e", Header, place)]);
        check(&[("Bb", Command, None), ("BEe", Command, place)]);
        check(&[("BEb", Command, None), ("Ee", Command, place)]);
        check(&[("Bbe", Command, None), ("Bbe", Header, place)]);
        check(&[("Bbe", Command, None), ("Eb", Body, None), ("E", Body, None), ("Ee", Body, None)]);
    }

    #[test]
    fn segments_and_bodies_are_bounded() {
        let long = &[0; 60];
        let mut commands = assembler(SegmentType::Command);
        assert_eq!(commands.push(&frame(SegmentType::Command, "BEb", long)), Ok(None));
        let error = SegmentError::TooLarge { kind: SegmentType::Command, limit: 100 };
        assert_eq!(commands.push(&frame(SegmentType::Command, "BEe", long)), Err(error));
        let whole = &[0; 101];
        let mut commands = assembler(SegmentType::Command);
        assert_eq!(commands.push(&frame(SegmentType::Command, "BEbe", whole)), Err(error));

        let mut commands = assembler(SegmentType::Command);
        commands.push(&frame(SegmentType::Command, "Bbe", b"")).unwrap();
        commands.push(&frame(SegmentType::Body, "Eb", &[0; 1000])).unwrap();
        let error = SegmentError::TooLarge { kind: SegmentType::Body, limit: 1000 };
        assert_eq!(commands.push(&frame(SegmentType::Body, "Ee", b"x")), Err(error));
    }

    proptest! {
        #[test]
        fn what_is_split_comes_together(
            payload in prop::collection::vec(any::<u8>(), 0..100),
            body in prop::collection::vec(any::<u8>(), 0..1000),
            frame_max in prop_oneof![Just(0), 13..200u16],
            channel in any::<u16>(),
        ) {
            let mut out = Vec::new();
            encode(SegmentType::Command, channel, (true, false), &payload, frame_max, &mut out);
            with_segment(SegmentType::Header, channel, (false, false), frame_max, &mut out, |out| {
                out.extend_from_slice(&payload);
            });
            encode(SegmentType::Body, channel, (false, true), &body, frame_max, &mut out);

            let mut assembler = assembler(SegmentType::Command);
            let (mut rest, mut joined, mut segments, mut ended) = (&out[..], Vec::new(), Vec::new(), false);
            while let Some((frame, taken)) = parse(rest, frame_max)? {
                prop_assert_eq!((frame.channel, frame.track), (channel, Track::Command));
                rest = &rest[taken..];
                match assembler.push(&frame)? {
                    None => prop_assert!(!frame.flags.last_frame),
                    Some(Piece::Segment { kind, payload: whole, is_last }) => {
                        prop_assert_eq!((whole, is_last), (&payload[..], false));
                        segments.push(kind);
                    }
                    Some(Piece::Body { payload, is_last }) => {
                        joined.extend_from_slice(payload);
                        ended = is_last;
                    }
                }
            }
            prop_assert!(rest.is_empty() && ended && assembler.is_idle());
            prop_assert_eq!(segments, [SegmentType::Command, SegmentType::Header]);
            prop_assert_eq!(joined, body);
        }

        #[test]
        fn any_frames_are_taken_or_refused_and_never_held_beyond_the_limit(
            steps in prop::collection::vec((0..16u8, 0..4u8, 0..60usize), 0..40),
            is_control in any::<bool>(),
        ) {
            let track = if is_control { Track::Control } else { Track::Command };
            let mut assembler = Assembler::new(track, LIMITS);
            let payload = [7; 60];
            for (flags, kind, len) in steps {
                let mut bytes = Vec::new();
                let kind = SegmentType::from_code(kind);
                Frame { flags: Flags::WHOLE, kind, track, channel: 0, payload: &payload[..len] }.encode(&mut bytes);
                bytes[0] = flags;
                let (frame, _) = parse(&bytes, 0)?.unwrap();
                let refused = assembler.push(&frame).is_err();
                prop_assert!(assembler.gathered.len() <= LIMITS.segment_bytes);
                if refused {
                    break;
                }
            }
        }
    }
}
