//! What a connection remembers of a message, for others like it. Most publishers repeat themselves: channel, address,
//! properties and length are the same again, and only the body differs. Such a message costs one comparison of bytes
//! instead of being read.

use fulmar_core::message::{MessageHead, MessageHeader};

use crate::codec::frame::END;

/// How many messages unlike the one remembered are read before another is remembered.
const PATIENCE: u8 = 8;
/// Frames that are longer are not worth remembering.
pub(super) const MOST_BYTES: usize = 1024;

/// A message that was published in one piece. It was found in order, so one with the same frames is.
pub(super) struct LastPublish {
    /// From the method's frame to the head of the body's.
    frames: Vec<u8>,
    body_bytes: usize,
    pub channel: u16,
    pub mandatory: bool,
    pub head: MessageHead,
    patience: u8,
}

impl LastPublish {
    /// Remembers a message that is in order. `frames` is all of it up to its body, which is in one frame.
    pub fn new(frames: &[u8], channel: u16, mandatory: bool, header: &MessageHeader<'_>) -> Self {
        LastPublish {
            frames: frames.to_vec(),
            body_bytes: header.body_bytes as usize,
            channel,
            mandatory,
            head: MessageHead::new(header),
            patience: PATIENCE,
        }
    }

    /// A message came that is unlike the one remembered. Allocates only until the memory suffices.
    pub fn note(&mut self, frames: &[u8], channel: u16, mandatory: bool, header: &MessageHeader<'_>) {
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        self.patience = PATIENCE;
        self.frames.clear();
        self.frames.extend_from_slice(frames);
        self.body_bytes = header.body_bytes as usize;
        self.channel = channel;
        self.mandatory = mandatory;
        self.head.set(header);
    }

    /// If `input` begins with a message like this one: its body, and the length of its frames.
    #[inline]
    pub fn body_of_another<'a>(&self, input: &'a [u8]) -> Option<(&'a [u8], usize)> {
        let (frames, rest) = input.split_at_checked(self.frames.len())?;
        let (body, rest) = rest.split_at_checked(self.body_bytes)?;
        let same = rest.first() == Some(&END) && frames == self.frames;
        same.then_some((body, frames.len() + body.len() + 1))
    }
}
