//! What a connection remembers of a message, for others like it. Most publishers repeat themselves: channel, address,
//! properties and length are the same again, and only the body differs. Such a message costs one comparison of bytes
//! instead of being read, and those that come together become a batch.

use fulmar_core::message::{MessageHead, MessageHeader, batch_limit};

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

    /// How many messages like this one `input` begins with, as far as one batch goes.
    #[inline]
    pub fn others_in(&self, input: &[u8]) -> usize {
        let messages = input.chunks_exact(self.message_bytes()).take(batch_limit(self.body_bytes));
        messages
            .take_while(|message| message.last() == Some(&END) && message.starts_with(&self.frames))
            .count()
    }

    /// The bodies of the messages like this one that `input` consists of.
    #[inline]
    pub fn bodies<'a>(&self, input: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let body_at = self.frames.len();
        input.chunks_exact(self.message_bytes()).map(move |message| &message[body_at..message.len() - 1])
    }

    /// Length of the frames of a message like this one.
    #[inline]
    pub fn message_bytes(&self) -> usize {
        self.frames.len() + self.body_bytes + 1
    }

    /// Length of the body of a message like this one.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }
}
