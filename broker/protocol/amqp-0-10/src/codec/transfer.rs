//! `message.transfer` and its content: what runs per message. The content header is a row of structs that are looked
//! into one by one; a transfer is written in one pass.

use super::CodecError;
use super::frame::{Flags, HEAD_BYTES, head};
use super::segment::{self, room, track};
use super::table::{
    AcceptMode, AcquireMode, DeliveryProperties, FragmentProperties, MessageProperties, MessageTransfer,
    SegmentType,
};
use super::value::StructRef;
use super::wire::{Reader, cut};

/// A content header: which structs it has, each not decoded before it is asked for. Structs with other codes than those
/// of a transfer are passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// `message.delivery-properties`
    pub delivery: Option<StructRef<'a>>,
    /// `message.fragment-properties`
    pub fragment: Option<StructRef<'a>>,
    /// `message.message-properties`
    pub message: Option<StructRef<'a>>,
}

impl<'a> ContentHeader<'a> {
    /// From the payload of a header segment.
    ///
    /// # Errors
    /// Anything but whole structs, or a struct of a transfer that comes twice. The structs are not looked into.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(payload);
        let mut header = ContentHeader::default();
        while !reader.rest().is_empty() {
            let found = reader.struct32()?;
            let code = found.code()?;
            let place = match code {
                DeliveryProperties::CODE => &mut header.delivery,
                FragmentProperties::CODE => &mut header.fragment,
                MessageProperties::CODE => &mut header.message,
                _ => continue,
            };
            if place.replace(found).is_some() {
                return Err(CodecError::RepeatedStruct(code));
            }
        }
        Ok(header)
    }

    /// How the message is to be delivered; without any property if there is no such struct.
    ///
    /// # Errors
    /// Not exactly the fields of the struct.
    #[inline]
    pub fn delivery_properties(&self) -> Result<DeliveryProperties<'a>, CodecError> {
        self.delivery.map_or(Ok(DeliveryProperties::default()), DeliveryProperties::decode)
    }

    /// The fragment that the body is; `None` if it is the whole message.
    ///
    /// # Errors
    /// Not exactly the fields of the struct.
    pub fn fragment_properties(&self) -> Result<Option<FragmentProperties>, CodecError> {
        self.fragment.map(FragmentProperties::decode).transpose()
    }

    /// What the application says of the message; without any property if there is no such struct. The application's
    /// headers are not looked into.
    ///
    /// # Errors
    /// Not exactly the fields of the struct.
    #[inline]
    pub fn message_properties(&self) -> Result<MessageProperties<'a>, CodecError> {
        self.message.map_or(Ok(MessageProperties::default()), MessageProperties::decode)
    }
}

/// The first struct of a content header, and what follows it; `None` at the end, or if it is not whole.
#[inline]
pub fn next_struct(payload: &[u8]) -> Option<(StructRef<'_>, &[u8])> {
    let mut reader = Reader::new(payload);
    let found = reader.struct32().ok()?;
    Some((found, reader.rest()))
}

/// Appends a struct of a content header as it came.
#[inline]
pub fn encode_struct(value: StructRef<'_>, out: &mut Vec<u8>) {
    let bytes = value.as_bytes();
    out.reserve(4 + bytes.len());
    out.extend_from_slice(&u32::try_from(bytes.len()).expect("a struct of 4 GiB").to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A transfer to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Exchange or subscription; none if empty.
    pub destination: &'a [u8],
    /// Whether the receiver has to accept the message.
    pub accept_mode: AcceptMode,
    /// Whether the receiver has the message before it asks for it.
    pub acquire_mode: AcquireMode,
    /// Whether the receiver is to tell at once when the command is complete.
    pub sync: bool,
    /// The content header's structs, encoded. Without any there is no header segment.
    pub header: &'a [u8],
    /// Without any octet there is no body segment.
    pub body: &'a [u8],
}

impl<'a> From<&Transfer<'a>> for MessageTransfer<'a> {
    fn from(transfer: &Transfer<'a>) -> Self {
        MessageTransfer {
            destination: (!transfer.destination.is_empty()).then_some(transfer.destination),
            accept_mode: Some(transfer.accept_mode),
            acquire_mode: Some(transfer.acquire_mode),
        }
    }
}

/// Octets of the command segment around the destination: head of the frame, class and command, session header, packing
/// flags, length of the destination, modes.
const COMMAND_BYTES: usize = HEAD_BYTES + 2 + 2 + 2 + 1 + 2;

/// Appends command, header and body segments, in frames of at most `frame_max` bytes (0: no bound).
#[inline]
pub fn encode(transfer: &Transfer<'_>, channel: u16, frame_max: u16, out: &mut Vec<u8>) {
    let Transfer { header, body, .. } = *transfer;
    let room = room(frame_max);
    out.reserve(
        COMMAND_BYTES
            + transfer.destination.len()
            + (header.len() + body.len())
            + (header.len().div_ceil(room) + body.len().div_ceil(room)) * HEAD_BYTES,
    );
    encode_command(transfer, channel, out);
    if !header.is_empty() {
        segment::encode(SegmentType::Header, channel, (false, body.is_empty()), header, frame_max, out);
    }
    if !body.is_empty() {
        segment::encode(SegmentType::Body, channel, (false, true), body, frame_max, out);
    }
}

/// The command segment: one frame, as a destination of 255 bytes always fits the smallest frame that may be agreed on.
#[inline(always)]
fn encode_command(transfer: &Transfer<'_>, channel: u16, out: &mut Vec<u8>) {
    let destination = cut(transfer.destination, u8::MAX.into());
    let has_destination = usize::from(!destination.is_empty());
    let last_segment = transfer.header.is_empty() && transfer.body.is_empty();
    let flags = Flags { last_segment, ..Flags::WHOLE };
    let payload_bytes = COMMAND_BYTES - HEAD_BYTES - 1 + has_destination + destination.len();
    let mut fixed = [0; HEAD_BYTES + 7];
    let kind = SegmentType::Command;
    fixed[..HEAD_BYTES].copy_from_slice(&head(flags, kind, track(kind), channel, payload_bytes));
    let packing = 0b110 | has_destination as u8;
    fixed[HEAD_BYTES..].copy_from_slice(&[
        4,
        1,
        1,
        transfer.sync.into(),
        packing,
        0,
        destination.len() as u8,
    ]);
    out.extend_from_slice(&fixed[..HEAD_BYTES + 6 + has_destination]);
    out.extend_from_slice(destination);
    out.extend_from_slice(&[transfer.accept_mode.code(), transfer.acquire_mode.code()]);
}

#[cfg(test)]
mod tests {
    use super::super::frame::parse;
    use super::super::segment::{Assembler, Limits, Piece};
    use super::super::table::{Command, DeliveryMode, ReplyTo, SessionHeader, Track};
    use super::super::value::{MapRef, tests::any_map};
    use super::*;
    use proptest::prelude::*;

    /// A header with everything in it.
    fn header(map: &[u8], text: &[u8], number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let delivery = DeliveryProperties {
            redelivered: true,
            delivery_mode: Some(DeliveryMode::Persistent),
            ttl: Some(number),
            exchange: Some(text),
            routing_key: Some(text),
            ..Default::default()
        };
        delivery.encode(&mut out);
        FragmentProperties { first: true, last: false, fragment_size: Some(number) }.encode(&mut out);
        let message = MessageProperties {
            content_length: Some(number),
            message_id: Some([3; 16]),
            reply_to: Some(ReplyTo { exchange: None, routing_key: Some(text) }),
            user_id: Some(text),
            application_headers: Some(MapRef::new(map)),
            ..Default::default()
        };
        message.encode(&mut out);
        out
    }

    #[test]
    fn a_transfer_on_the_wire() {
        let delivery = DeliveryProperties { routing_key: Some(b"k"), ..Default::default() };
        let mut header = Vec::new();
        delivery.encode(&mut header);
        assert_eq!(header, b"\0\0\0\x06\x04\x01\0\x02\x01k");
        let transfer = Transfer {
            destination: b"q",
            accept_mode: AcceptMode::None,
            sync: true,
            header: &header,
            body: b"hi",
            ..Default::default()
        };
        let mut out = Vec::new();
        encode(&transfer, 7, 4096, &mut out);
        let expected = [
            &b"\x0b\x01\0\x16\0\x01\0\x07\0\0\0\0\x04\x01\x01\x01\x07\0\x01q\x01\0"[..],
            b"\x03\x02\0\x16\0\x01\0\x07\0\0\0\0\0\0\0\x06\x04\x01\0\x02\x01k",
            b"\x07\x03\0\x0e\0\x01\0\x07\0\0\0\0hi",
        ];
        assert_eq!(out, expected.concat());
    }

    #[test]
    fn segments_without_content_are_left_out() {
        let segments = |transfer: Transfer<'_>| {
            let mut out = Vec::new();
            encode(&transfer, 1, 0, &mut out);
            let (mut rest, mut found) = (&out[..], Vec::new());
            while let Some((frame, taken)) = parse(rest, 0).unwrap() {
                found.push((frame.kind, frame.flags.last_segment));
                rest = &rest[taken..];
            }
            found
        };
        use SegmentType::{Body, Command, Header};
        let none = Transfer::default();
        assert_eq!(segments(none), [(Command, true)]);
        assert_eq!(segments(Transfer { header: b"h", ..none }), [(Command, false), (Header, true)]);
        assert_eq!(segments(Transfer { body: b"b", ..none }), [(Command, false), (Body, true)]);
    }

    #[test]
    fn a_header_is_a_row_of_structs() {
        assert_eq!(ContentHeader::parse(b""), Ok(ContentHeader::default()));
        assert_eq!(ContentHeader::parse(b"\0\0\0\x01\x04"), Err(CodecError::Truncated));
        assert_eq!(ContentHeader::parse(b"\0\0\0\0"), Err(CodecError::Truncated));
        let other = b"\0\0\0\x03\x09\x01!";
        assert_eq!(ContentHeader::parse(other), Ok(ContentHeader::default()));
        let twice = b"\0\0\0\x04\x04\x01\0\0".repeat(2);
        assert_eq!(ContentHeader::parse(&twice), Err(CodecError::RepeatedStruct(0x0401)));
        let header = ContentHeader::parse(&twice[..8]).unwrap();
        assert_eq!(header.delivery_properties(), Ok(DeliveryProperties::default()));
        assert_eq!(header.message_properties(), Ok(MessageProperties::default()));
        assert_eq!(header.fragment_properties(), Ok(None));
        let mut again = Vec::new();
        encode_struct(header.delivery.unwrap(), &mut again);
        assert_eq!(again, twice[..8]);
    }

    proptest! {
        #[test]
        fn transfers_come_back(
            map in any_map(),
            destination in prop::collection::vec(any::<u8>(), 0..300),
            text in prop::collection::vec(any::<u8>(), 0..20),
            body in prop::collection::vec(any::<u8>(), 0..3000),
            frame_max in prop_oneof![Just(0), 300..1000u16],
            modes in any::<(u8, u8)>(),
            (channel, number, sync, has_header) in any::<(u16, u64, bool, bool)>(),
        ) {
            let header = if has_header { header(&map, &text, number) } else { Vec::new() };
            let transfer = Transfer {
                destination: &destination,
                accept_mode: AcceptMode::from_code(modes.0),
                acquire_mode: AcquireMode::from_code(modes.1),
                sync,
                header: &header,
                body: &body,
            };
            let mut out = Vec::new();
            encode(&transfer, channel, frame_max, &mut out);

            let command = MessageTransfer::from(&transfer);
            let mut slow = Vec::new();
            Command::from(command).encode(SessionHeader { sync }, &mut slow);
            let mut joined = Vec::new();
            let mut assembler = Assembler::new(Track::Command, Limits { segment_bytes: 1 << 20, body_bytes: 1 << 20 });
            let mut rest = &out[..];
            while let Some((frame, taken)) = parse(rest, frame_max)? {
                rest = &rest[taken..];
                match assembler.push(&frame)? {
                    Some(Piece::Segment { kind: SegmentType::Command, payload, is_last }) => {
                        prop_assert_eq!(payload, &slow);
                        prop_assert_eq!(is_last, body.is_empty() && !has_header);
                    }
                    Some(Piece::Segment { payload, .. }) => {
                        prop_assert_eq!(payload, &header);
                        let parsed = ContentHeader::parse(payload)?;
                        let delivery = parsed.delivery_properties()?;
                        prop_assert_eq!((delivery.ttl, delivery.routing_key), (Some(number), Some(&text[..])));
                        let fragment = parsed.fragment_properties()?.unwrap();
                        prop_assert_eq!((fragment.first, fragment.last), (true, false));
                        let message = parsed.message_properties()?;
                        prop_assert_eq!(message.application_headers, Some(MapRef::new(&map)));
                        prop_assert_eq!(message.reply_to.unwrap().routing_key, Some(&text[..]));
                        for cut in 0..payload.len() {
                            let Ok(parsed) = ContentHeader::parse(&payload[..cut]) else { continue };
                            prop_assert!(parsed.message.is_none());
                        }
                    }
                    Some(Piece::Body { payload, .. }) => joined.extend_from_slice(payload),
                    None => {}
                }
            }
            prop_assert!(rest.is_empty() && assembler.is_idle());
            prop_assert_eq!(joined, body);
        }
    }
}
