//! Every control, command and struct comes back, from octets that are written here and not by the code under test.

use super::*;
use proptest::prelude::*;

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn up_to(&mut self, most: usize) -> usize {
        self.next() as usize % (most + 1)
    }
}

fn sized(width: u8, bytes: Vec<u8>) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[4 - usize::from(width)..], &bytes].concat()
}

/// The encoding of a field, with its size.
fn field(kind: &str, random: &mut Random) -> Vec<u8> {
    let random_bytes = |random: &mut Random| {
        let len = random.up_to(9);
        random.bytes(len)
    };
    match kind {
        "bit" => vec![],
        "uint8" => random.bytes(1),
        "uint16" => random.bytes(2),
        "uint32" | "sequence_no" => random.bytes(4),
        "uint64" | "datetime" => random.bytes(8),
        "uuid" => random.bytes(16),
        "str8" | "vbin8" => sized(1, random_bytes(random)),
        "str16" | "vbin16" => sized(2, random_bytes(random)),
        "vbin32" | "map" | "array" | "struct32" => sized(4, random_bytes(random)),
        "sequence_set" => {
            let range = |random: &mut Random| {
                let first = random.next() as u32;
                [first.to_be_bytes(), first.wrapping_add(random.next() as u32 >> 1).to_be_bytes()].concat()
            };
            sized(2, (0..random.up_to(3)).flat_map(|_| range(random)).collect())
        }
        "byte_ranges" => {
            let range = |random: &mut Random| {
                let first = random.next() >> 1;
                [first.to_be_bytes(), (first + (random.next() >> 1)).to_be_bytes()].concat()
            };
            sized(2, (0..random.up_to(3)).flat_map(|_| range(random)).collect())
        }
        named => {
            let name = &named[1..named.len() - 1];
            if named.starts_with('[') {
                let domain = DOMAINS.iter().find(|domain| domain.1 == name).unwrap();
                return field(domain.2, random);
            }
            structure(STRUCTS.iter().find(|row| row.variant == name).unwrap(), random).0
        }
    }
}

/// Packing flags and fields, some of them absent; and the flags.
fn fields(row: &Row, random: &mut Random) -> (Vec<u8>, u16) {
    let all = ((1u32 << row.fields.len()) - 1) as u16;
    let flags = if row.pack == 0 { all } else { random.next() as u16 & all };
    let mut out = flags.to_le_bytes()[..row.pack.into()].to_vec();
    for (n, &(_, kind, _)) in row.fields.iter().enumerate() {
        if flags & 1 << n != 0 {
            out.extend(field(kind, random));
        }
    }
    (out, flags)
}

/// A struct with its size and code; and the flags.
fn structure(row: &Row, random: &mut Random) -> (Vec<u8>, u16) {
    let (fields, flags) = fields(row, random);
    let code = row.code.to_be_bytes();
    let code = if row.code == 0 { &[][..] } else { &code[..] };
    (sized(row.size, [code, &fields].concat()), flags)
}

/// A control's or command's payload; and the flags.
fn operation(row: &Row, is_command: bool, random: &mut Random) -> (Vec<u8>, u16) {
    let (fields, flags) = fields(row, random);
    let header = if is_command { vec![1, random.next() as u8 & 1] } else { vec![] };
    ([&row.code.to_be_bytes()[..], &header, &fields].concat(), flags)
}

fn expected_missing(row: &Row, flags: u16) -> Option<(u8, &'static str)> {
    let missing = |&(n, &(_, _, required)): &(usize, &(&str, &str, bool))| required && flags & 1 << n == 0;
    row.fields.iter().enumerate().find(missing).map(|(n, &(name, ..))| (n as u8, name))
}

/// The payload of the only frame that `out` holds.
fn payload_of(out: &[u8], kind: SegmentType) -> &[u8] {
    let (frame, taken) = crate::codec::frame::parse(out, 0).unwrap().unwrap();
    assert_eq!((frame.kind, frame.channel, taken), (kind, 5, out.len()));
    assert_eq!(frame.flags, crate::codec::frame::Flags::WHOLE);
    frame.payload
}

#[test]
fn domain_values_are_as_listed() {
    domain_values_agree();
}

#[test]
fn operations_on_the_wire() {
    let mut out = Vec::new();
    let open = ConnectionOpen { virtual_host: Some(b"/"), insist: true, ..Default::default() };
    Control::from(open).encode(&mut out);
    assert_eq!(out, b"\x01\x07\x05\0\x01/");
    out.clear();
    let subscribe = MessageSubscribe {
        queue: Some(b"q"),
        destination: Some(b"d"),
        acquire_mode: Some(AcquireMode::NotAcquired),
        exclusive: true,
        resume_ttl: Some(1),
        ..Default::default()
    };
    Command::from(subscribe).encode(SessionHeader { sync: true }, &mut out);
    assert_eq!(out, b"\x04\x07\x01\x01\x5b\0\x01q\x01d\x01\0\0\0\0\0\0\0\x01");
    assert_eq!(Command::from(subscribe).name(), "message.subscribe");
    assert_eq!(subscribe.missing_required(), Some((2, "accept_mode")));
    out.clear();
    let xid = Xid { format: Some(1), global_id: Some(b"g"), branch_id: Some(b"") };
    Command::from(DtxStart { xid: Some(xid), join: true, resume: false })
        .encode(SessionHeader::default(), &mut out);
    assert_eq!(out, b"\x06\x02\x01\0\x03\0\0\0\0\x0b\x06\x04\x07\0\0\0\0\x01\x01g\0");
}

#[test]
fn results_are_told() {
    assert_eq!(Command::from(QueueQuery::default()).result_code(), Some(QueueQueryResult::CODE));
    assert_eq!(Command::from(QueuePurge::default()).result_code(), None);
    assert_eq!(Command::from(DtxEnd::default()).result_code(), Some(0x0601));
}

#[test]
fn wrong_codes_flags_and_lengths_are_told() {
    let command = |bytes| Command::decode(bytes).unwrap_err();
    assert_eq!(command(b"\x05\x09\x01\0\0\0"), CodecError::UnknownCommand { class: 5, code: 9 });
    assert_eq!(command(b"\x09\x01\x01\0\0\0"), CodecError::UnknownCommand { class: 9, code: 1 });
    assert_eq!(command(b"\x05\x01\x01\0\x01\0"), CodecError::UnknownFlags(1));
    assert_eq!(command(b"\x05\x01\x01\0\0\x80"), CodecError::UnknownFlags(0x8000));
    assert_eq!(command(b"\x05\x01\x01\0\0\0!"), CodecError::Trailing(1));
    assert_eq!(command(b"\x05\x01\x01\x02\0\0"), CodecError::UnknownFlags(2));
    assert_eq!(command(b"\x05\x01\x02\0!\0\0"), CodecError::Trailing(1));
    assert_eq!(Control::decode(b"\x03\x01\0\0"), Err(CodecError::UnknownControl { class: 3, code: 1 }));
    let value = |bytes| Struct::decode(StructRef::new(bytes)).unwrap_err();
    assert_eq!(value(b""), CodecError::Truncated);
    assert_eq!(value(b"\x01\x01\0\0"), CodecError::UnknownStruct(0x0101));
    let error = CodecError::UnexpectedStruct { code: 0x0601, expected: 0x0604 };
    assert_eq!(Xid::decode(StructRef::new(b"\x06\x01\0\0")), Err(error));
}

#[test]
fn structs_without_an_octet_have_no_fields() {
    assert_eq!(Xid::decode(StructRef::EMPTY), Ok(Xid::default()));
    assert_eq!(ReplyTo::decode(b"\0\0"), Ok(ReplyTo::default()));
    assert_eq!(Command::decode(b"\x05\x01\0\0\0"), Ok((TxSelect {}.into(), SessionHeader::default())));
    assert_eq!(CommandFragment::decode(b""), Err(CodecError::Truncated));
}

#[test]
fn what_outgrows_a_frame_is_split() {
    let mut map = Vec::new();
    let long = [b'x'; 9000];
    crate::codec::value::encode_map([(&b"k"[..], crate::codec::Value::Str16(&long))], &mut map);
    let declare = Command::from(QueueDeclare { arguments: Some(MapRef::new(&map)), ..Default::default() });
    let mut out = vec![0xAA];
    declare.encode_frames(SessionHeader { sync: true }, 5, 4096, &mut out);
    let (mut rest, mut joined, mut frames) = (&out[1..], Vec::new(), 0);
    while let Some((frame, taken)) = crate::codec::frame::parse(rest, 4096).unwrap() {
        joined.extend_from_slice(frame.payload);
        rest = &rest[taken..];
        frames += 1;
    }
    assert_eq!((frames, rest.len()), (3, 0));
    assert_eq!(Command::decode(&joined), Ok((declare, SessionHeader { sync: true })));
}

/// Checks one plain struct; the table names its type only as text.
fn plain_comes_back(row: &Row, bytes: &[u8]) -> Vec<u8> {
    let mut again = Vec::new();
    match row.variant {
        "SessionHeader" => SessionHeader::decode(bytes).unwrap().encode(&mut again),
        "CommandFragment" => CommandFragment::decode(bytes).unwrap().encode(&mut again),
        "ReplyTo" => ReplyTo::decode(bytes).unwrap().encode(&mut again),
        other => panic!("{other}"),
    }
    again
}

proptest! {
    #[test]
    fn every_control_comes_back(seed in any::<u64>()) {
        let mut random = Random(seed);
        for row in CONTROLS {
            let (bytes, flags) = operation(row, false, &mut random);
            let control = Control::decode(&bytes)?;
            prop_assert_eq!(u16::from_be_bytes([control.class_code(), control.code()]), row.code);
            prop_assert_eq!((control.name(), control.result_code()), (row.name, None));
            prop_assert_eq!(control.missing_required(), expected_missing(row, flags));
            let mut out = Vec::new();
            control.encode_frames(5, 0, &mut out);
            prop_assert_eq!(payload_of(&out, SegmentType::Control), &bytes[..]);
            for cut in 0..bytes.len() {
                prop_assert_eq!(Control::decode(&bytes[..cut]), Err(CodecError::Truncated));
            }
        }
    }

    #[test]
    fn every_command_comes_back(seed in any::<u64>()) {
        let mut random = Random(seed);
        for row in COMMANDS {
            let (bytes, flags) = operation(row, true, &mut random);
            let (command, header) = Command::decode(&bytes)?;
            prop_assert_eq!(u16::from_be_bytes([command.class_code(), command.code()]), row.code);
            prop_assert_eq!((command.name(), header.sync), (row.name, bytes[3] == 1));
            prop_assert_eq!(command.missing_required(), expected_missing(row, flags));
            let result = STRUCTS.iter().find(|found| found.variant == row.result).map(|found| found.code);
            prop_assert_eq!(command.result_code(), result);
            let mut out = Vec::new();
            command.encode_frames(header, 5, 0, &mut out);
            prop_assert_eq!(payload_of(&out, SegmentType::Command), &bytes[..]);
            for cut in 0..bytes.len() {
                prop_assert_eq!(Command::decode(&bytes[..cut]), Err(CodecError::Truncated));
            }
        }
    }

    #[test]
    fn every_struct_comes_back(seed in any::<u64>()) {
        let mut random = Random(seed);
        for row in STRUCTS {
            let (bytes, _) = structure(row, &mut random);
            if row.code == 0 {
                prop_assert_eq!(plain_comes_back(row, &bytes), &bytes[..]);
                continue;
            }
            let value = StructRef::new(&bytes[4..]);
            let decoded = Struct::decode(value)?;
            prop_assert_eq!((decoded.code(), decoded.name()), (row.code, row.name));
            let mut again = Vec::new();
            decoded.encode(&mut again);
            prop_assert_eq!(&again, &bytes);
            for cut in 4..bytes.len() {
                prop_assert_eq!(Struct::decode(StructRef::new(&bytes[4..cut])), Err(CodecError::Truncated));
            }
            let _ = format!("{value:?} {decoded:?}");
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(seed in any::<u64>(), changes in prop::collection::vec(any::<(u8, u8)>(), 1..4)) {
        let mut random = Random(seed);
        let changed = |mut bytes: Vec<u8>, from: usize| {
            for &(at, value) in &changes {
                let len = bytes.len();
                if len > from {
                    bytes[from + usize::from(at) % (len - from)] = value;
                }
            }
            bytes
        };
        for row in COMMANDS {
            let bytes = changed(operation(row, true, &mut random).0, 2);
            if let Ok((command, header)) = Command::decode(&bytes) {
                let mut again = Vec::new();
                command.encode(header, &mut again);
                // A struct without an octet may get some; the meaning may not differ.
                prop_assert_eq!(Command::decode(&again), Ok((command, header)));
                let _ = format!("{command:?}");
            }
        }
        for row in CONTROLS {
            let bytes = changed(operation(row, false, &mut random).0, 2);
            if let Ok(control) = Control::decode(&bytes) {
                let mut again = Vec::new();
                control.encode(&mut again);
                prop_assert_eq!(Control::decode(&again), Ok(control));
            }
        }
        for row in STRUCTS.iter().filter(|row| row.code != 0) {
            let bytes = changed(structure(row, &mut random).0, 6);
            let _ = Struct::decode(StructRef::new(&bytes[4..]));
        }
    }
}
