//! What is to be sent.

use fulmar_amqp_0_10::codec::table::SessionHeader;
use fulmar_amqp_0_10::codec::{Command, Control, ProtocolHeader};

/// Frames to send, and how large they may be.
pub(super) struct Output {
    pub bytes: Vec<u8>,
    /// In bytes, head and all.
    pub frame_max: u16,
}

impl Output {
    /// With the protocol header.
    pub(super) fn new() -> Self {
        Output { bytes: ProtocolHeader::AMQP_0_10.to_bytes().to_vec(), frame_max: u16::MAX }
    }

    pub(super) fn control<'a>(&mut self, channel: u16, control: impl Into<Control<'a>>) {
        control.into().encode_frames(channel, self.frame_max, &mut self.bytes);
    }

    pub(super) fn command<'a>(&mut self, channel: u16, sync: bool, command: impl Into<Command<'a>>) {
        command.into().encode_frames(SessionHeader { sync }, channel, self.frame_max, &mut self.bytes);
    }
}
