//! Controls and commands as the payload of their segment: class, code, for commands the session header, packing flags,
//! fields (specification, "Controls and commands"). And whole segments of them.

use super::CodecError;
use super::segment::with_segment;
use super::table::{Command, Control, SegmentType, SessionHeader};
use super::wire::{Reader, Writer};

impl<'a> Control<'a> {
    /// From the payload of a control segment.
    ///
    /// # Errors
    /// An unknown control, or not exactly its fields.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(payload);
        let (class, code) = (reader.uint8()?, reader.uint8()?);
        Control::read(class, code, &mut reader)
    }

    /// Appends the payload of its segment.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.class_code(), self.code()]);
        self.write(&mut Writer::new(out));
    }

    /// Appends its segment: one frame, or as many of at most `frame_max` bytes as it needs.
    pub fn encode_frames(&self, channel: u16, frame_max: u16, out: &mut Vec<u8>) {
        with_segment(SegmentType::Control, channel, (true, true), frame_max, out, |out| self.encode(out));
    }
}

impl<'a> Command<'a> {
    /// From the payload of a command segment; with it, whether the peer wants to hear at once when it is complete.
    ///
    /// # Errors
    /// An unknown command, or not exactly its fields.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<(Self, SessionHeader), CodecError> {
        let mut reader = Reader::new(payload);
        let (class, code) = (reader.uint8()?, reader.uint8()?);
        let header = SessionHeader::read_sized(&mut reader)?;
        Ok((Command::read(class, code, &mut reader)?, header))
    }

    /// Appends the payload of its segment.
    pub fn encode(&self, header: SessionHeader, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.class_code(), self.code()]);
        let mut writer = Writer::new(out);
        header.write_sized(&mut writer);
        self.write(&mut writer);
    }

    /// Appends its segment, the first and last of the command: one frame, or as many of at most `frame_max` bytes as it
    /// needs. For `message.transfer` with content see [`super::transfer::encode`].
    pub fn encode_frames(&self, header: SessionHeader, channel: u16, frame_max: u16, out: &mut Vec<u8>) {
        with_segment(SegmentType::Command, channel, (true, true), frame_max, out, |out| {
            self.encode(header, out)
        });
    }
}
