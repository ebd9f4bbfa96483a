//! The least that a load generator has to understand of AMQP 0-9-1: where a message ends and what its stamp says.
//!
//! Walks frames by their sizes and looks only at what it counts. Deliveries and publishes read the same, so that a
//! relay may send a publisher's bytes to a consumer untouched.

use fulmar_amqp_0_9_1::codec::{ContentHeader, Properties};

use super::batch::{CORRELATION_ID_BYTES, correlation_id};
use crate::stamp::{STAMP_BYTES, Stamp};

const FRAME_HEAD_BYTES: usize = 7;
const FRAME_END: u8 = 0xCE;

/// What a walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A message is complete.
    Message {
        /// Its stamp.
        stamp: Stamp,
        /// Its delivery tag; 0 if it is the publisher's own frame.
        delivery_tag: u64,
    },
    /// `basic.ack` for a publisher: everything up to the tag, or the tag alone.
    Confirmed {
        /// The tag.
        tag: u64,
        /// Everything up to it.
        multiple: bool,
        /// It was a `basic.nack`.
        refused: bool,
    },
    /// `basic.return`; a [`Item::Message`] follows.
    Returned,
}

/// What the broker sent and the load generator cannot go on with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No frame, or none of AMQP 0-9-1.
    #[error("byte {0:#x} where a frame should begin or end")]
    Framing(u8),
    /// A frame that the buffer will never hold.
    #[error("a frame of {0} bytes")]
    FrameSize(usize),
    /// The broker closed the channel or the connection.
    #[error("the broker closed the channel or connection: {0}")]
    Closed(String),
    /// A body shorter than a stamp, or content without a method.
    #[error("content that this program did not send")]
    Content,
    /// An answer to another request than the one whose body it brings back.
    #[error("an answer with the correlation id of another request")]
    Correlation,
}

/// Walks the frames of one direction of one connection.
#[derive(Debug)]
pub struct Walker {
    frame_max: usize,
    delivery_tag: u64,
    body_left: u64,
    stamp: Option<Stamp>,
    /// The correlation id that the message has, where it is to be checked.
    correlation: Option<[u8; CORRELATION_ID_BYTES]>,
    correlated: bool,
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Bytes of complete frames that were taken.
    pub bytes: usize,
    /// The limit stopped it, and there may be more complete frames.
    pub stopped: bool,
}

impl Walker {
    /// For frames of at most `frame_max` bytes.
    pub fn new(frame_max: usize) -> Self {
        Walker { frame_max, delivery_tag: 0, body_left: 0, stamp: None, correlation: None, correlated: false }
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
            while let Some(whole) = self.whole_delivery(&input[at..]) {
                self.delivery_tag = whole.delivery_tag;
                each(Item::Message { stamp: whole.stamp, delivery_tag: whole.delivery_tag });
                at += whole.bytes;
                messages += 1;
                if messages == limit {
                    return Ok(Walked { bytes: at, stopped: true });
                }
            }
            let Some((head, _)) = input[at..].split_first_chunk::<FRAME_HEAD_BYTES>() else { break };
            let payload_bytes = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let frame_bytes = FRAME_HEAD_BYTES + payload_bytes + 1;
            if frame_bytes > self.frame_max {
                return Err(WireError::FrameSize(frame_bytes));
            }
            let Some(frame) = input.get(at..at + frame_bytes) else { break };
            let (payload, end) = frame[FRAME_HEAD_BYTES..].split_at(payload_bytes);
            if end[0] != FRAME_END {
                return Err(WireError::Framing(end[0]));
            }
            match head[0] {
                1 => self.method(payload, &mut each)?,
                2 => self.header(payload)?,
                3 => messages += u64::from(self.body(payload, &mut each)?),
                8 => {}
                other => return Err(WireError::Framing(other)),
            }
            at += frame_bytes;
            if messages == limit {
                return Ok(Walked { bytes: at, stopped: true });
            }
        }
        Ok(Walked { bytes: at, stopped: false })
    }

    /// The delivery at the start of `input`, if all of it is there and its body is in a single frame.
    #[inline]
    fn whole_delivery(&self, input: &[u8]) -> Option<Whole> {
        if self.correlated || self.stamp.is_some() || input.get(7..11)? != DELIVER.to_be_bytes() {
            return None;
        }
        let method_bytes = frame_bytes(input, 1)?;
        let tag_at = 12 + usize::from(*input.get(11)?);
        let delivery_tag = u64::from_be_bytes(*input.get(tag_at..)?.first_chunk()?);
        let rest = input.get(method_bytes..)?;
        let header_bytes = frame_bytes(rest, 2)?;
        let body_size = u64::from_be_bytes(*rest.get(11..)?.first_chunk()?);
        let rest = rest.get(header_bytes..)?;
        let body_bytes = frame_bytes(rest, 3)?;
        let stamp = Stamp::from_bytes(rest.get(FRAME_HEAD_BYTES..)?.first_chunk()?);
        let bytes = method_bytes + header_bytes + body_bytes;
        let single = body_size == (body_bytes - FRAME_HEAD_BYTES - 1) as u64;
        (single && body_size >= STAMP_BYTES as u64).then_some(Whole { bytes, delivery_tag, stamp })
    }

    fn method(&mut self, payload: &[u8], each: &mut impl FnMut(Item)) -> Result<(), WireError> {
        let (id, arguments) = payload.split_first_chunk::<4>().ok_or(WireError::Content)?;
        match u32::from_be_bytes(*id) {
            DELIVER => {
                // consumer-tag (short string), delivery-tag, ...
                let tag_at = 1 + usize::from(*arguments.first().ok_or(WireError::Content)?);
                self.delivery_tag = be_u64(arguments, tag_at)?;
            }
            PUBLISH => self.delivery_tag = 0,
            ACK | NACK => each(Item::Confirmed {
                tag: be_u64(arguments, 0)?,
                multiple: arguments.get(8).is_some_and(|bits| bits & 1 == 1),
                refused: u32::from_be_bytes(*id) == NACK,
            }),
            RETURN => {
                self.delivery_tag = 0;
                each(Item::Returned);
            }
            CHANNEL_CLOSE | CONNECTION_CLOSE => return Err(WireError::Closed(close_text(arguments))),
            _ => {}
        }
        Ok(())
    }

    fn header(&mut self, payload: &[u8]) -> Result<(), WireError> {
        self.body_left = be_u64(payload, 4)?;
        self.stamp = None;
        if self.correlated {
            let header = ContentHeader::parse(payload).map_err(|_| WireError::Content)?;
            let properties = Properties::decode(header.properties).map_err(|_| WireError::Content)?;
            self.correlation = properties.correlation_id.and_then(|id| id.try_into().ok());
        }
        if self.body_left < STAMP_BYTES as u64 { Err(WireError::Content) } else { Ok(()) }
    }

    /// Returns whether the message is complete.
    #[inline]
    fn body(&mut self, payload: &[u8], each: &mut impl FnMut(Item)) -> Result<bool, WireError> {
        let stamp = match self.stamp {
            Some(stamp) => stamp,
            None => {
                let stamp = Stamp::from_bytes(payload.first_chunk().ok_or(WireError::Content)?);
                if self.correlated && self.correlation != Some(correlation_id(stamp)) {
                    return Err(WireError::Correlation);
                }
                stamp
            }
        };
        self.body_left = self.body_left.checked_sub(payload.len() as u64).ok_or(WireError::Content)?;
        if self.body_left == 0 {
            self.stamp = None;
            each(Item::Message { stamp, delivery_tag: self.delivery_tag });
        } else {
            self.stamp = Some(stamp);
        }
        Ok(self.body_left == 0)
    }
}

/// A delivery in three frames.
struct Whole {
    bytes: usize,
    delivery_tag: u64,
    stamp: Stamp,
}

/// Bytes of the frame at the start of `input`, if it is whole and of this kind.
#[inline]
fn frame_bytes(input: &[u8], kind: u8) -> Option<usize> {
    let head = input.first_chunk::<FRAME_HEAD_BYTES>()?;
    let bytes = FRAME_HEAD_BYTES + u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1;
    (head[0] == kind && input.get(bytes - 1) == Some(&FRAME_END)).then_some(bytes)
}

const DELIVER: u32 = 60 << 16 | 60;
const PUBLISH: u32 = 60 << 16 | 40;
const RETURN: u32 = 60 << 16 | 50;
const ACK: u32 = 60 << 16 | 80;
const NACK: u32 = 60 << 16 | 120;
const CHANNEL_CLOSE: u32 = 20 << 16 | 40;
const CONNECTION_CLOSE: u32 = 10 << 16 | 50;

fn be_u64(bytes: &[u8], at: usize) -> Result<u64, WireError> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(WireError::Content)?;
    Ok(u64::from_be_bytes(*bytes))
}

/// Reply code and text of a close.
fn close_text(arguments: &[u8]) -> String {
    match arguments {
        [high, low, length, text @ ..] => {
            let text = &text[..text.len().min(usize::from(*length))];
            format!("{} {}", u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(text))
        }
        _ => "no reason given".into(),
    }
}

#[cfg(test)]
mod tests {
    use fulmar_amqp_0_9_1::codec::{Method, fast, frame};

    use super::*;
    use crate::driver::amqp::batch::{Batch, Contents};
    use crate::driver::amqp::{CHANNEL, FRAME_MAX_BYTES};
    use crate::workload::Workload;

    const FRAME_MAX: usize = FRAME_MAX_BYTES as usize;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { publisher: 7, sequence, due_ns: sequence * 1_000, sent_ns: sequence * 1_001 }
    }

    /// A delivery with a body of `body_bytes`, cut into frames of at most `frame_max`.
    fn delivery(tag: u64, body_bytes: usize, frame_max: u32, out: &mut Vec<u8>) {
        let mut body = vec![b'x'; body_bytes];
        body[..STAMP_BYTES].copy_from_slice(&stamp(tag).to_bytes());
        fast::deliver(CHANNEL, b"tag", tag, false, b"exchange", b"key", out);
        frame::encode_content(CHANNEL, &[0, 0], &body, frame_max, out);
    }

    fn message(tag: u64) -> Item {
        Item::Message { stamp: stamp(tag), delivery_tag: tag }
    }

    fn items(input: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        let walked = Walker::new(FRAME_MAX).walk(input, u64::MAX, |item| items.push(item));
        assert_eq!(walked, Ok(Walked { bytes: input.len(), stopped: false }));
        items
    }

    #[test]
    fn deliveries_cut_anywhere_are_counted_once() {
        let mut input = Vec::new();
        for tag in 1..=5 {
            delivery(tag, 64 * tag as usize, 128, &mut input);
            input.extend_from_slice(&frame::HEARTBEAT);
        }
        let expected: Vec<Item> = (1..=5).map(message).collect();
        assert_eq!(items(&input), expected);
        for step in [1, 2, 7, 11, 100] {
            let (mut walker, mut seen, mut start) = (Walker::new(FRAME_MAX), Vec::new(), 0);
            for end in (0..input.len()).step_by(step).chain([input.len()]) {
                start += walker.walk(&input[start..end], u64::MAX, |item| seen.push(item)).unwrap().bytes;
            }
            assert_eq!((start, &seen), (input.len(), &expected), "in steps of {step}");
        }
    }

    #[test]
    fn a_limit_stops_between_messages_and_nothing_is_lost() {
        let mut input = Vec::new();
        (1..=5).for_each(|tag| delivery(tag, 300, 128, &mut input));
        let (mut walker, mut seen, mut start) = (Walker::new(FRAME_MAX), Vec::new(), 0);
        for (limit, stopped) in [(2, true), (1, true), (5, false), (5, false)] {
            let walked = walker.walk(&input[start..], limit, |item| seen.push(item)).unwrap();
            assert_eq!(walked.stopped, stopped, "{seen:?}");
            start += walked.bytes;
        }
        assert_eq!((start, seen), (input.len(), (1..=5).map(message).collect()));
    }

    #[test]
    fn what_only_looks_like_a_delivery_does_no_harm() {
        let mut input = Vec::new();
        delivery(1, 64, 4096, &mut input);
        for cut in 0..input.len() {
            assert!(
                Walker::new(FRAME_MAX).walk(&input[..cut], u64::MAX, |_| {}).unwrap().bytes < input.len()
            );
        }
        for place in 0..input.len() {
            for value in [0, 1, 3, 0x3c, 0xce, 0xff] {
                let mut broken = input.clone();
                broken[place] = value;
                // Anything but a panic.
                drop(Walker::new(FRAME_MAX).walk(&broken, u64::MAX, |_| {}));
            }
        }
    }

    #[test]
    fn an_answer_to_another_request_is_told() {
        let mut input = Vec::new();
        let walk = |input: &[u8]| Walker::new(FRAME_MAX).checking_correlation().walk(input, 9, |_| {});
        for (id, sequence, fits) in [(5, 5, true), (6, 5, false)] {
            input.clear();
            let id = correlation_id(stamp(id));
            let mut properties = Vec::new();
            Properties { correlation_id: Some(&id), ..Properties::default() }.encode(&mut properties);
            fast::deliver(CHANNEL, b"c", 1, false, b"", b"q", &mut input);
            frame::encode_content(
                CHANNEL,
                &properties,
                &stamp(sequence).to_bytes(),
                FRAME_MAX_BYTES,
                &mut input,
            );
            assert_eq!(walk(&input).is_ok(), fits);
        }
        input.clear();
        delivery(1, 64, FRAME_MAX_BYTES, &mut input);
        assert_eq!(walk(&input), Err(WireError::Correlation));
    }

    #[test]
    fn publishes_read_like_deliveries() {
        let contents = Contents::new(&Workload::default(), "queue", FRAME_MAX_BYTES);
        let mut batch = Batch::new(contents);
        assert!(batch.capacity() > 2);
        batch.put(stamp(1));
        batch.put(stamp(2));
        let expected = [1, 2].map(|n| Item::Message { stamp: stamp(n), delivery_tag: 0 });
        assert_eq!(items(batch.bytes()), expected);
    }

    #[test]
    fn confirms_and_returns_are_told() {
        let mut input = Vec::new();
        fast::ack(CHANNEL, 9, true, &mut input);
        fast::nack(CHANNEL, 10, false, false, &mut input);
        fast::return_(CHANNEL, 312, b"NO_ROUTE", b"", b"key", &mut input);
        frame::encode_content(CHANNEL, &[0, 0], &stamp(3).to_bytes(), FRAME_MAX_BYTES, &mut input);
        let expected = [
            Item::Confirmed { tag: 9, multiple: true, refused: false },
            Item::Confirmed { tag: 10, multiple: false, refused: true },
            Item::Returned,
            Item::Message { stamp: stamp(3), delivery_tag: 0 },
        ];
        assert_eq!(items(&input), expected);
    }

    #[test]
    fn what_cannot_be_gone_on_with_is_an_error() {
        let walk = |input: &[u8]| Walker::new(FRAME_MAX).walk(input, u64::MAX, |_| {});
        assert!(matches!(walk(b"AMQP\x00\x00\x09\x01"), Err(WireError::FrameSize(_))));
        let mut input = Vec::new();
        Method::ChannelClose { reply_code: 404, reply_text: b"NOT_FOUND - x", class_id: 60, method_id: 40 }
            .encode(CHANNEL, &mut input);
        assert_eq!(walk(&input), Err(WireError::Closed("404 NOT_FOUND - x".into())));
        *input.last_mut().unwrap() = 0;
        assert_eq!(walk(&input), Err(WireError::Framing(0)));
        let mut input = Vec::new();
        fast::deliver(CHANNEL, b"", 1, false, b"", b"", &mut input);
        frame::encode_content(CHANNEL, &[0, 0], b"short", FRAME_MAX_BYTES, &mut input);
        assert_eq!(walk(&input), Err(WireError::Content));
    }
}
