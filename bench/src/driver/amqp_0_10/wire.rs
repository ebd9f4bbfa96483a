//! The least that a load generator has to understand of AMQP 0-10: where a message ends, what its stamp says, which
//! commands are complete. Walks frames by their sizes and looks only at what it counts.

use fulmar_amqp_0_10::codec::frame::{self, Frame, HEAD_BYTES};
use fulmar_amqp_0_10::codec::table::SegmentType;
use fulmar_amqp_0_10::codec::{Command, ContentHeader, Control, SequenceNo};

use crate::driver::amqp::batch::{CORRELATION_ID_BYTES, correlation_id};
use crate::driver::amqp::wire::{Walked, WireError};
use crate::stamp::{STAMP_BYTES, Stamp};

/// What a walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message is complete.
    Message {
        /// Its stamp.
        stamp: Stamp,
        /// Which of the broker's commands it is, from 1.
        number: u64,
    },
    /// Commands of this side are complete.
    Completed {
        /// The first.
        first: SequenceNo,
        /// The last.
        last: SequenceNo,
    },
    /// The broker wants to hear that it was told of completions.
    KnownCompleted,
    /// The broker wants to hear what is complete.
    Flush,
    /// A command that is none of these; its number.
    Other(u64),
}

/// Walks the frames of one direction of one connection.
#[derive(Debug)]
pub struct Walker {
    /// Commands so far.
    count: u64,
    /// The body of a message is coming in; its stamp, once that is there.
    in_body: bool,
    stamp: Option<Stamp>,
    /// The correlation id that the message has, where it is to be checked.
    correlation: Option<[u8; CORRELATION_ID_BYTES]>,
    correlated: bool,
}

/// Octets of flags of frames that are a whole segment: of a command that has content, of its header, of its body.
const WHOLE_COMMAND: u8 = 0x0B;
const WHOLE_HEADER: u8 = 0x03;
const WHOLE_BODY: u8 = 0x07;

/// Class and code of `message.transfer`.
const TRANSFER: [u8; 2] = [4, 1];

impl Walker {
    /// After so many of the broker's commands.
    pub fn new(count: u32) -> Self {
        Walker { count: count.into(), in_body: false, stamp: None, correlation: None, correlated: false }
    }

    /// Checks also that every message has the correlation id of its stamp.
    pub fn checking_correlation(mut self) -> Self {
        self.correlated = true;
        self
    }

    /// Takes the complete frames of `input`, of at most `limit` messages.
    ///
    /// # Errors
    /// The connection is of no more use.
    #[inline]
    pub fn walk(
        &mut self,
        input: &[u8],
        limit: u64,
        mut each: impl FnMut(Item),
    ) -> Result<Walked, WireError> {
        let (mut at, mut messages) = (0, 0);
        loop {
            // What nearly all input is made of, without the detours that the rest may take.
            while let Some((bytes, stamp)) = self.whole_delivery(&input[at..]) {
                self.count += 1;
                each(Item::Message { stamp, number: self.count });
                at += bytes;
                messages += 1;
                if messages == limit {
                    return Ok(Walked { bytes: at, stopped: true });
                }
            }
            let parsed = frame::parse(&input[at..], 0).map_err(|_| WireError::Framing(input[at]))?;
            let Some((frame, taken)) = parsed else { break };
            at += taken;
            messages += u64::from(self.frame(&frame, &mut each)?);
            if messages == limit {
                return Ok(Walked { bytes: at, stopped: true });
            }
        }
        Ok(Walked { bytes: at, stopped: false })
    }

    /// The transfer at the start of `input`, if all of it is there and each segment is a single frame.
    #[inline]
    fn whole_delivery(&self, input: &[u8]) -> Option<(usize, Stamp)> {
        if self.correlated || self.in_body || input.get(HEAD_BYTES..HEAD_BYTES + 2)? != TRANSFER {
            return None;
        }
        let command_bytes = frame_bytes(input, WHOLE_COMMAND, 1)?;
        let rest = input.get(command_bytes..)?;
        let header_bytes = frame_bytes(rest, WHOLE_HEADER, 2)?;
        let rest = rest.get(header_bytes..)?;
        let body_bytes = frame_bytes(rest, WHOLE_BODY, 3)?;
        if body_bytes < HEAD_BYTES + STAMP_BYTES || rest.len() < body_bytes {
            return None;
        }
        let stamp = Stamp::from_bytes(rest[HEAD_BYTES..].first_chunk()?);
        Some((command_bytes + header_bytes + body_bytes, stamp))
    }

    /// Returns whether a message is complete.
    #[cold]
    fn frame(&mut self, frame: &Frame<'_>, each: &mut impl FnMut(Item)) -> Result<bool, WireError> {
        match frame.kind {
            SegmentType::Control => self.control(frame, each).map(|()| false),
            SegmentType::Command => self.command(frame, each).map(|()| false),
            SegmentType::Header => self.header(frame).map(|()| false),
            _ => self.body(frame, each),
        }
    }

    fn control(&self, frame: &Frame<'_>, each: &mut impl FnMut(Item)) -> Result<(), WireError> {
        match Control::decode(frame.payload).map_err(|_| WireError::Content)? {
            Control::SessionCompleted(completed) => {
                for (first, last) in completed.commands.unwrap_or_default().iter() {
                    each(Item::Completed { first, last });
                }
                if completed.timely_reply {
                    each(Item::KnownCompleted);
                }
            }
            Control::SessionFlush(_) => each(Item::Flush),
            Control::ConnectionClose(close) => {
                let code = close.reply_code.unwrap_or_default().code();
                return Err(closed(code, close.reply_text.unwrap_or_default()));
            }
            Control::SessionDetached(detached) => {
                let code = detached.code.unwrap_or_default();
                return Err(closed(code.code().into(), code.name().as_bytes()));
            }
            Control::SessionDetach(_) => return Err(closed(0, b"the session was detached")),
            _ => {}
        }
        Ok(())
    }

    fn command(&mut self, frame: &Frame<'_>, each: &mut impl FnMut(Item)) -> Result<(), WireError> {
        if !(frame.flags.first_frame && frame.flags.last_frame) {
            return Err(WireError::Content);
        }
        self.count += 1;
        match Command::decode(frame.payload).map_err(|_| WireError::Content)?.0 {
            Command::MessageTransfer(_) if frame.flags.last_segment => return Err(WireError::Content),
            Command::MessageTransfer(_) => (self.in_body, self.stamp) = (true, None),
            Command::ExecutionException(exception) => {
                let code = exception.error_code.unwrap_or_default().code();
                return Err(closed(code, exception.description.unwrap_or_default()));
            }
            _ => each(Item::Other(self.count)),
        }
        Ok(())
    }

    fn header(&mut self, frame: &Frame<'_>) -> Result<(), WireError> {
        if self.correlated {
            let header = ContentHeader::parse(frame.payload).map_err(|_| WireError::Content)?;
            let properties = header.message_properties().map_err(|_| WireError::Content)?;
            self.correlation = properties.correlation_id.and_then(|id| id.try_into().ok());
        }
        if frame.flags.last_segment { Err(WireError::Content) } else { Ok(()) }
    }

    fn body(&mut self, frame: &Frame<'_>, each: &mut impl FnMut(Item)) -> Result<bool, WireError> {
        if !self.in_body {
            return Err(WireError::Content);
        }
        let stamp = match self.stamp {
            Some(stamp) => stamp,
            None => {
                let stamp = Stamp::from_bytes(frame.payload.first_chunk().ok_or(WireError::Content)?);
                if self.correlated && self.correlation != Some(correlation_id(stamp)) {
                    return Err(WireError::Correlation);
                }
                stamp
            }
        };
        self.stamp = Some(stamp);
        if frame.flags.last_frame {
            self.in_body = false;
            each(Item::Message { stamp, number: self.count });
        }
        Ok(frame.flags.last_frame)
    }
}

/// Bytes of the frame at the start of `input`, if it has these flags and is of this kind. It may not be whole.
#[inline]
fn frame_bytes(input: &[u8], flags: u8, kind: u8) -> Option<usize> {
    let head = input.first_chunk::<HEAD_BYTES>()?;
    let bytes = usize::from(u16::from_be_bytes([head[2], head[3]]));
    // The command's track, and nothing in the bits that have no meaning.
    (head[..2] == [flags, kind] && head[4..6] == [0, 1] && bytes >= HEAD_BYTES).then_some(bytes)
}

fn closed(code: u16, text: &[u8]) -> WireError {
    WireError::Closed(format!("{code} {}", String::from_utf8_lossy(text)))
}

#[cfg(test)]
mod tests {
    use fulmar_amqp_0_10::codec::sequence::{SequenceSet, encode_sequence_set};
    use fulmar_amqp_0_10::codec::table::{
        ConnectionHeartbeat, DeliveryProperties, ErrorCode, ExecutionException, ExecutionSync,
        MessageProperties, SessionCompleted, SessionFlush, SessionHeader,
    };
    use fulmar_amqp_0_10::codec::transfer::{self, Transfer};

    use super::*;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { publisher: 7, sequence, due_ns: sequence * 1_000, sent_ns: sequence * 1_001 }
    }

    /// A delivery with a body of `body_bytes`, cut into frames of at most `frame_max`.
    fn delivery(number: u64, body_bytes: usize, frame_max: u16, out: &mut Vec<u8>) {
        let mut body = vec![b'x'; body_bytes];
        body[..STAMP_BYTES].copy_from_slice(&stamp(number).to_bytes());
        let mut header = Vec::new();
        DeliveryProperties { routing_key: Some(b"key"), ..Default::default() }.encode(&mut header);
        let transfer = Transfer { destination: b"c", header: &header, body: &body, ..Transfer::default() };
        transfer::encode(&transfer, 1, frame_max, out);
    }

    fn control<'a>(control: impl Into<Control<'a>>, out: &mut Vec<u8>) {
        control.into().encode_frames(1, 0, out);
    }

    fn command<'a>(command: impl Into<Command<'a>>, out: &mut Vec<u8>) {
        command.into().encode_frames(SessionHeader { sync: false }, 1, 0, out);
    }

    fn message(number: u64) -> Item {
        Item::Message { stamp: stamp(number), number }
    }

    #[test]
    fn deliveries_cut_anywhere_are_counted_once() {
        let mut input = Vec::new();
        for number in 1..=5 {
            delivery(number, 64 * number as usize, 128, &mut input);
            control(ConnectionHeartbeat {}, &mut input);
        }
        let expected: Vec<Item> = (1..=5).map(message).collect();
        for step in [1, 2, 7, 11, 100, 10_000] {
            let (mut walker, mut seen, mut start) = (Walker::new(0), Vec::new(), 0);
            for end in (0..input.len()).step_by(step).chain([input.len()]) {
                start += walker.walk(&input[start..end], u64::MAX, |item| seen.push(item)).unwrap().bytes;
            }
            assert_eq!((start, &seen), (input.len(), &expected), "in steps of {step}");
        }
    }

    #[test]
    fn a_limit_stops_between_messages_and_nothing_is_lost() {
        for frame_max in [128, 0] {
            let mut input = Vec::new();
            (1..=5).for_each(|number| delivery(number, 300, frame_max, &mut input));
            let (mut walker, mut seen, mut start) = (Walker::new(0), Vec::new(), 0);
            for (limit, stopped) in [(2, true), (1, true), (5, false), (5, false)] {
                let walked = walker.walk(&input[start..], limit, |item| seen.push(item)).unwrap();
                assert_eq!(walked.stopped, stopped, "{seen:?}");
                start += walked.bytes;
            }
            assert_eq!((start, seen), (input.len(), (1..=5).map(message).collect()));
        }
    }

    #[test]
    fn what_only_looks_like_a_delivery_does_no_harm() {
        let mut input = Vec::new();
        delivery(1, 64, 0, &mut input);
        for cut in 0..input.len() {
            assert!(Walker::new(0).walk(&input[..cut], u64::MAX, |_| {}).unwrap().bytes < input.len());
        }
        for place in 0..input.len() {
            for value in [0, 1, 3, 7, 0x0B, 0xFF] {
                let mut broken = input.clone();
                broken[place] = value;
                // Anything but a panic.
                drop(Walker::new(0).walk(&broken, u64::MAX, |_| {}));
            }
        }
    }

    #[test]
    fn other_commands_count_and_completions_are_told() {
        let mut input = Vec::new();
        command(ExecutionSync {}, &mut input);
        delivery(11, 64, 0, &mut input);
        let mut set = Vec::new();
        encode_sequence_set([(SequenceNo(1), SequenceNo(2)), (SequenceNo(5), SequenceNo(5))], &mut set);
        let commands = Some(SequenceSet::new(&set).unwrap());
        control(SessionCompleted { commands, timely_reply: true }, &mut input);
        control(SessionFlush { completed: true, ..Default::default() }, &mut input);
        let mut items = Vec::new();
        Walker::new(9).walk(&input, u64::MAX, |item| items.push(item)).unwrap();
        let completed = |first, last| Item::Completed { first: SequenceNo(first), last: SequenceNo(last) };
        let expected = [
            Item::Other(10),
            message(11),
            completed(1, 2),
            completed(5, 5),
            Item::KnownCompleted,
            Item::Flush,
        ];
        assert_eq!(items, expected);
    }

    #[test]
    fn an_answer_to_another_request_is_told() {
        for (id, sequence, fits) in [(5, 5, true), (6, 5, false)] {
            let id = correlation_id(stamp(id));
            let mut header = Vec::new();
            MessageProperties { correlation_id: Some(&id), ..Default::default() }.encode(&mut header);
            let body = stamp(sequence).to_bytes();
            let mut input = Vec::new();
            let transfer = Transfer { header: &header, body: &body, ..Transfer::default() };
            transfer::encode(&transfer, 1, 0, &mut input);
            let walked = Walker::new(0).checking_correlation().walk(&input, 9, |_| {});
            assert_eq!(walked.is_ok(), fits);
        }
        let mut input = Vec::new();
        delivery(1, 64, 0, &mut input);
        let walked = Walker::new(0).checking_correlation().walk(&input, 9, |_| {});
        assert_eq!(walked, Err(WireError::Correlation));
    }

    #[test]
    fn what_cannot_be_gone_on_with_is_an_error() {
        let walk = |input: &[u8]| Walker::new(0).walk(input, u64::MAX, |_| {});
        assert_eq!(walk(b"AMQP\x01\x01\x00\x0a"), Err(WireError::Framing(b'A')));
        let mut input = Vec::new();
        let (error_code, description) = (Some(ErrorCode::ResourceLimitExceeded), Some(&b"full"[..]));
        command(ExecutionException { error_code, description, ..Default::default() }, &mut input);
        assert_eq!(walk(&input), Err(WireError::Closed("506 full".into())));
        input.clear();
        transfer::encode(&Transfer { body: b"short", ..Transfer::default() }, 1, 0, &mut input);
        assert_eq!(walk(&input), Err(WireError::Content));
    }
}
