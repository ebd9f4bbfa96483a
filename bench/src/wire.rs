//! The least that a load generator has to understand of AMQP 0-9-1: where a message ends and what its stamp says.
//!
//! Walks frames by their sizes and looks only at what it counts. Deliveries and publishes read the same, so that a
//! relay may send a publisher's bytes to a consumer untouched.

/// Bytes of a body that a [`Stamp`] takes; the least body size.
pub const STAMP_BYTES: usize = 16;

const FRAME_HEAD_BYTES: usize = 7;
const FRAME_END: u8 = 0xCE;

/// What a publisher writes at the start of every body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which publisher.
    pub publisher: u16,
    /// Count of this publisher's messages, from 0; 48 bits.
    pub sequence: u64,
    /// When the message was sent, or should have been.
    pub time_ns: u64,
}

impl Stamp {
    /// As it stands in a body.
    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&(u64::from(self.publisher) << 48 | self.sequence).to_le_bytes());
        bytes[8..].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; STAMP_BYTES]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Stamp { publisher: (word(0) >> 48) as u16, sequence: word(0) & ((1 << 48) - 1), time_ns: word(8) }
    }
}

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
}

/// Walks the frames of one direction of one connection.
#[derive(Debug)]
pub struct Walker {
    frame_max: usize,
    delivery_tag: u64,
    body_left: u64,
    stamp: Option<Stamp>,
}

impl Walker {
    /// For frames of at most `frame_max` bytes.
    pub fn new(frame_max: usize) -> Self {
        Walker { frame_max, delivery_tag: 0, body_left: 0, stamp: None }
    }

    /// Takes all complete frames of `input`; returns how many bytes they were.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn walk(&mut self, input: &[u8], mut each: impl FnMut(Item)) -> Result<usize, WireError> {
        let mut at = 0;
        while let Some((head, _)) = input[at..].split_first_chunk::<FRAME_HEAD_BYTES>() {
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
                3 => self.body(payload, &mut each)?,
                8 => {}
                other => return Err(WireError::Framing(other)),
            }
            at += frame_bytes;
        }
        Ok(at)
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
        if self.body_left < STAMP_BYTES as u64 { Err(WireError::Content) } else { Ok(()) }
    }

    fn body(&mut self, payload: &[u8], each: &mut impl FnMut(Item)) -> Result<(), WireError> {
        let stamp = match self.stamp {
            Some(stamp) => stamp,
            None => Stamp::from_bytes(*payload.first_chunk().ok_or(WireError::Content)?),
        };
        self.body_left = self.body_left.checked_sub(payload.len() as u64).ok_or(WireError::Content)?;
        if self.body_left == 0 {
            self.stamp = None;
            each(Item::Message { stamp, delivery_tag: self.delivery_tag });
        } else {
            self.stamp = Some(stamp);
        }
        Ok(())
    }
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
    use crate::driver::{CHANNEL, FRAME_MAX_BYTES};

    const FRAME_MAX: usize = FRAME_MAX_BYTES as usize;

    fn stamp(sequence: u64) -> Stamp {
        Stamp { publisher: 7, sequence, time_ns: sequence * 1_000 }
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
        assert_eq!(Walker::new(FRAME_MAX).walk(input, |item| items.push(item)), Ok(input.len()));
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
                start += walker.walk(&input[start..end], |item| seen.push(item)).unwrap();
            }
            assert_eq!((start, &seen), (input.len(), &expected), "in steps of {step}");
        }
    }

    #[test]
    fn publishes_read_like_deliveries() {
        let options = crate::options::tests::options(["--size", "100"]);
        let template = crate::driver::publish_template("queue", &options, FRAME_MAX_BYTES);
        let mut batch = crate::batch::Batch::new(&template);
        assert!(batch.capacity() > 2);
        batch.stamp(0, stamp(1));
        batch.stamp(1, stamp(2));
        let expected = [1, 2].map(|n| Item::Message { stamp: stamp(n), delivery_tag: 0 });
        assert_eq!(items(batch.bytes(2)), expected);
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
        let walk = |input: &[u8]| Walker::new(FRAME_MAX).walk(input, |_| {});
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
