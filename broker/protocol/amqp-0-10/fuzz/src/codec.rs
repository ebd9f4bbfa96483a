//! The codec: whatever can be read can be written again and reads the same, and no bytes do harm.

use fulmar_amqp_0_10::codec::segment::{self, Limits};
use fulmar_amqp_0_10::codec::table::{
    self, DeliveryProperties, FragmentProperties, MessageProperties, SegmentType, SessionHeader, Track, code,
};
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::value::{MAX_DEPTH, MAX_EMPTY_ELEMENTS, encode_array, encode_list, encode_map};
use fulmar_amqp_0_10::codec::{
    ArrayRef, Assembler, ByteRanges, CodecError, Command, ContentHeader, Control, ListRef, MapRef, Piece,
    ProtocolHeader, SequenceSet, Struct, StructRef, Value, encode_table, frame,
};

const LIMITS: Limits = Limits { segment_bytes: 2048, body_bytes: 4096 };

/// Reads `input` as frames, and as everything that a frame can carry.
pub fn run(input: &[u8]) {
    let _ = ProtocolHeader::parse(input);
    frames(input);
    control(input);
    command(input);
    content_header(input);
    structure(StructRef::new(input));
    map(MapRef::new(input));
    list(ListRef::new(input));
    array(ArrayRef::new(input));
    if let Ok(set) = SequenceSet::new(input) {
        assert!(set.iter().all(|(first, last)| !last.is_before(first)));
    }
    if let Ok(ranges) = ByteRanges::new(input) {
        assert!(ranges.iter().all(|(first, last)| first <= last));
    }
}

fn frames(input: &[u8]) {
    let Some((&bound, mut rest)) = input.split_first() else { return };
    let frame_max = u16::from(bound) * 64;
    let mut tracks = [Track::Control, Track::Command].map(|track| Assembler::new(track, LIMITS));
    while let Ok(Some((frame, taken))) = frame::parse(rest, frame_max) {
        assert!(taken <= rest.len() && (frame_max == 0 || taken <= usize::from(frame_max)));
        // A shorter input is never another frame and never an error.
        let cut = usize::from(bound) % taken;
        assert_eq!(frame::parse(&rest[..cut], frame_max), Ok(None));
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(frame::parse(&again, frame_max), Ok(Some((frame, taken))));
        match tracks[usize::from(frame.track.code())].push(&frame) {
            Ok(Some(Piece::Segment { kind: SegmentType::Control, payload, .. })) => control(payload),
            Ok(Some(Piece::Segment { kind: SegmentType::Command, payload, .. })) => command(payload),
            Ok(Some(Piece::Segment { payload, .. })) => {
                assert!(payload.len() <= LIMITS.segment_bytes);
                content_header(payload);
            }
            Ok(Some(Piece::Body { .. }) | None) => {}
            Err(_) => return,
        }
        rest = &rest[taken..];
    }
}

fn control(payload: &[u8]) {
    let Ok(control) = Control::decode(payload) else { return };
    let mut again = Vec::new();
    control.encode(&mut again);
    assert_eq!(Control::decode(&again), Ok(control));
    let _ = (control.name(), control.missing_required());
    match control {
        Control::ConnectionStart(start) => {
            map(start.server_properties.unwrap_or_default());
            array(start.mechanisms.unwrap_or_default());
        }
        Control::ConnectionStartOk(start) => map(start.client_properties.unwrap_or_default()),
        Control::SessionExpected(expected) => array(expected.fragments.unwrap_or_default()),
        _ => {}
    }
    // In small frames it says the same.
    let mut frames = Vec::new();
    control.encode_frames(7, 40, &mut frames);
    assert_eq!(gathered(&frames, Track::Control), again);
}

fn command(payload: &[u8]) {
    let Ok((command, header)) = Command::decode(payload) else { return };
    let mut again = Vec::new();
    command.encode(header, &mut again);
    assert_eq!(Command::decode(&again), Ok((command, header)));
    let _ = (command.name(), command.missing_required(), command.result_code());
    match command {
        Command::QueueDeclare(declare) => map(declare.arguments.unwrap_or_default()),
        Command::ExecutionResult(result) => structure(result.value.unwrap_or_default()),
        Command::MessageAccept(accept) => {
            let set = accept.transfers.unwrap_or_default();
            assert_eq!(set.iter().len(), set.len());
        }
        Command::MessageTransfer(transfer) => transferred(transfer, header),
        _ => {}
    }
    let mut frames = Vec::new();
    command.encode_frames(header, 7, 40, &mut frames);
    assert_eq!(gathered(&frames, Track::Command), again);
}

/// The only segment in `frames`.
fn gathered(mut frames: &[u8], track: Track) -> Vec<u8> {
    let limits = Limits { segment_bytes: usize::MAX, body_bytes: 0 };
    let mut assembler = Assembler::new(track, limits);
    while let Ok(Some((frame, taken))) = frame::parse(frames, 40) {
        frames = &frames[taken..];
        if let Ok(Some(Piece::Segment { payload, is_last, .. })) = assembler.push(&frame) {
            assert!(is_last && frames.is_empty());
            return payload.to_vec();
        }
    }
    panic!("a segment is not written as frames that end it")
}

/// The short way of writing a transfer is as good as the long one.
fn transferred(command: table::MessageTransfer<'_>, header: SessionHeader) {
    let (Some(accept_mode), Some(acquire_mode)) = (command.accept_mode, command.acquire_mode) else { return };
    let Some(destination) = command.destination.filter(|name| !name.is_empty()) else { return };
    let (mut short, mut long) = (Vec::new(), Vec::new());
    let transfer =
        Transfer { destination, accept_mode, acquire_mode, sync: header.sync, ..Transfer::default() };
    transfer::encode(&transfer, 3, 0, &mut short);
    Command::from(command).encode_frames(header, 3, 0, &mut long);
    assert_eq!(short, long);
}

fn content_header(payload: &[u8]) {
    let Ok(header) = ContentHeader::parse(payload) else { return };
    let mut again = Vec::new();
    for found in [header.delivery, header.fragment, header.message].into_iter().flatten() {
        transfer::encode_struct(found, &mut again);
        structure(found);
    }
    assert_eq!(ContentHeader::parse(&again), Ok(header));
    let _ = (header.delivery_properties(), header.fragment_properties());
    if let Ok(message) = header.message_properties() {
        map(message.application_headers.unwrap_or_default());
    }
}

fn structure(value: StructRef<'_>) {
    let Ok(decoded) = Struct::decode(value) else { return };
    let mut again = Vec::new();
    decoded.encode(&mut again);
    assert_eq!(Struct::decode(StructRef::new(&again[4..])), Ok(decoded));
    assert_eq!(value.code(), Ok(decoded.code()));
}

fn map(map: MapRef<'_>) {
    let table = map.to_table();
    assert_eq!(map.validate().err(), table.as_ref().err().copied(), "validate differs from to_table");
    let Ok(table) = table else { return };
    let mut once = Vec::new();
    encode_map(map.iter().flatten(), &mut once);
    // Only booleans have several encodings.
    assert!(map.as_bytes().is_empty() || once.len() == map.as_bytes().len());
    for (name, _) in table.0.iter().take(4) {
        let Ok(Some(found)) = map.get(name.as_bytes()) else { panic!("{name} is not found") };
        value(&found);
    }
    // Not-a-number differs from itself, its bytes do not.
    let (mut core, mut twice) = (Vec::new(), Vec::new());
    encode_table(&table, &mut core);
    let Ok(back) = MapRef::new(&core).to_table() else { panic!("{table:?} is not written as a map") };
    encode_table(&back, &mut twice);
    assert_eq!(core, twice);
}

fn list(list: ListRef<'_>) {
    let whole: Result<Vec<Value<'_>>, CodecError> = list.iter().collect();
    if list.validate().is_ok() {
        let Ok(values) = whole else { panic!("a valid list cannot be read") };
        let mut again = Vec::new();
        encode_list(values.iter().copied(), &mut again);
        assert_eq!(ListRef::new(&again).validate(), Ok(()));
        values.iter().take(4).for_each(value);
    }
}

fn array(array: ArrayRef<'_>) {
    if array.validate().is_err() {
        return;
    }
    let Some(element_code) = array.element_code() else { return };
    let mut again = Vec::new();
    encode_array(element_code, array.iter().flatten(), &mut again);
    assert_eq!(again.len(), array.as_bytes().len());
    assert!(element_code < 0xF0 || array.iter().count() <= MAX_EMPTY_ELEMENTS as usize);
}

fn value(value: &Value<'_>) {
    let mut once = Vec::new();
    value.encode(&mut once);
    assert_eq!(once[0], value.code());
    let _ = (value.to_core(), format!("{value:?}"));
}

/// Each control, command and struct with all its fields and with none, a map with every type, frames of a transfer.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for class in 1..=8 {
        for code in 1..=13 {
            for (prefix, kind) in [(vec![class, code], "control"), (vec![class, code, 1, 1], "command")] {
                let is_read = |payload: &[u8]| match kind {
                    "control" => Control::decode(payload).is_ok(),
                    _ => Command::decode(payload).is_ok(),
                };
                for (which, payload) in all_and_none(&prefix, is_read) {
                    seeds.push((format!("{kind}-{class}-{code}-{which}"), payload));
                }
            }
            let is_read = |payload: &[u8]| Struct::decode(StructRef::new(payload)).is_ok();
            for (which, payload) in all_and_none(&[class, code], is_read) {
                seeds.push((format!("struct-{class}-{code}-{which}"), payload));
            }
        }
    }
    let everything = every_type();
    seeds.push(("content".to_owned(), content(&everything)));
    seeds.push(("nested".to_owned(), nested()));
    seeds.push(("map".to_owned(), everything));
    seeds.push(("protocol".to_owned(), ProtocolHeader::AMQP_0_10.to_bytes().to_vec()));
    seeds
}

/// `prefix` with the most packing flags that are understood and as many zeros as these fields need, and with none.
fn all_and_none(prefix: &[u8], is_read: impl Fn(&[u8]) -> bool) -> Vec<(&'static str, Vec<u8>)> {
    let payload = |flags: u16, zeros: usize| [prefix, &flags.to_le_bytes(), &[0; 64][..zeros]].concat();
    let mut found = Vec::new();
    if is_read(&payload(0, 0)) {
        found.push(("none", payload(0, 0)));
        let all = (0..16).rev().map(|fields| (1u16 << fields) - 1).filter(|&flags| flags > 0);
        let tries = all.flat_map(|flags| (0..64).map(move |zeros| (flags, zeros)));
        let most = tries.map(|(flags, zeros)| payload(flags, zeros)).find(|payload| is_read(payload));
        found.extend(most.map(|payload| ("all", payload)));
    }
    found
}

fn every_type() -> Vec<u8> {
    let mut array = Vec::new();
    encode_array(code::STR16, [Value::Str16(b"PLAIN"), Value::Str16(b"")], &mut array);
    let mut list = Vec::new();
    encode_list([Value::Void, Value::Array(ArrayRef::new(&array)), Value::Uuid([9; 16])], &mut list);
    let mut inner = Vec::new();
    encode_map([(&b"deep"[..], Value::List(ListRef::new(&list)))], &mut inner);
    let values = [
        Value::Bit,
        Value::Bin(b"\x01"),
        Value::Bin(b"12345"),
        Value::Bin(&[7; 128]),
        Value::Int8(-1),
        Value::Char(b'\xa4'),
        Value::Boolean(true),
        Value::Uint16(2),
        Value::Int32(-3),
        Value::Float(0.5),
        Value::CharUtf32(0x20AC),
        Value::Uint64(u64::MAX),
        Value::Double(f64::NAN),
        Value::Datetime(1_700_000_000),
        Value::Vbin8(b"\0"),
        Value::Str8Latin(b"\xe9"),
        Value::Str8(b"x-match"),
        Value::Str16Utf16(b"\x20\xac"),
        Value::Vbin32(b"long"),
        Value::Map(MapRef::new(&inner)),
        Value::Struct32(StructRef::new(b"\x06\x01\x01\0\0\0")),
        Value::Dec32(2, 314),
        Value::Dec64(2, i64::MAX),
        Value::Other { code: 0x97, bytes: b"?" },
    ];
    let mut out = Vec::new();
    encode_map(values.into_iter().map(|value| (&b"k"[..], value)), &mut out);
    out
}

/// Lists as deep as they may lie in each other, in a map.
fn nested() -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for _ in 2..MAX_DEPTH {
        let mut out = Vec::new();
        encode_list([Value::List(ListRef::new(&bytes))], &mut out);
        bytes = out;
    }
    let mut out = Vec::new();
    encode_map([(&b"k"[..], Value::List(ListRef::new(&bytes)))], &mut out);
    out
}

/// A transfer in frames of 64 octets, and a control before it.
fn content(headers: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    DeliveryProperties { routing_key: Some(b"key"), ..Default::default() }.encode(&mut header);
    FragmentProperties { first: true, last: true, fragment_size: None }.encode(&mut header);
    let message = MessageProperties {
        content_length: Some(70),
        reply_to: Some(table::ReplyTo { exchange: Some(b"x"), routing_key: Some(b"r") }),
        application_headers: Some(MapRef::new(headers)),
        ..Default::default()
    };
    message.encode(&mut header);
    let mut out = vec![1];
    Control::from(table::SessionAttach { name: Some(b"s"), force: false }).encode_frames(1, 64, &mut out);
    let transfer = Transfer { destination: b"q", header: &header, body: &[b'b'; 70], ..Transfer::default() };
    transfer::encode(&transfer, 1, 64, &mut out);
    segment::encode(SegmentType::Command, 1, (true, true), b"\x03\x01\x01\x01\0\0", 64, &mut out);
    out
}
