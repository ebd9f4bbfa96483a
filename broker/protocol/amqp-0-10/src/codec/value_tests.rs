//! Every type comes back; hostile containers cost nothing.

use super::super::table::TYPES;
use super::*;
use proptest::prelude::*;

/// A value that owns its bytes.
#[derive(Clone, Debug)]
pub enum Owned {
    /// Code of its type, and its octets without any size.
    Leaf(u8, Vec<u8>),
    Map(Vec<(Vec<u8>, Owned)>),
    List(Vec<Owned>),
    /// Of lists.
    Array(Vec<Vec<Owned>>),
}

/// The codes of all types that hold no others.
fn leaf_codes() -> Vec<(u8, &'static str, usize)> {
    let containers = [code::MAP, code::LIST, code::ARRAY, code::STRUCT32];
    let coded = TYPES.iter().filter_map(|&(_, code, kind, width)| Some((code?, kind, width)));
    coded.filter(|(code, ..)| !containers.contains(code)).collect()
}

fn leaf() -> impl Strategy<Value = Owned> {
    let bytes = prop::collection::vec(any::<u8>(), 128);
    (prop::sample::select(leaf_codes()), bytes, 0..20usize).prop_map(
        |((code, kind, width), mut bytes, len)| {
            bytes.truncate(if kind == "fixed" { width } else { len });
            match code {
                code::BOOLEAN => bytes[0] &= 1,
                code::STR8_UTF16 | code::STR16_UTF16 => bytes.truncate(len & !1),
                _ => {}
            }
            Owned::Leaf(code, bytes)
        },
    )
}

pub fn any_value() -> impl Strategy<Value = Owned> {
    let name = || prop::collection::vec(any::<u8>(), 0..12);
    leaf().prop_recursive(4, 32, 4, move |inner| {
        let list = || prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec((name(), inner.clone()), 0..4).prop_map(Owned::Map),
            list().prop_map(Owned::List),
            prop::collection::vec(list(), 0..3).prop_map(Owned::Array),
        ]
    })
}

/// Entries of a map, encoded as [`MapRef::new`] takes them.
pub fn any_map() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::collection::vec(any::<u8>(), 0..12);
    prop::collection::vec((name, any_value()), 0..6).prop_map(|entries| {
        let mut out = Vec::new();
        write_map(&entries, &mut out);
        out
    })
}

fn write_map(entries: &[(Vec<u8>, Owned)], out: &mut Vec<u8>) {
    let mut values = Vec::new();
    for (name, value) in entries {
        values.push((name, encoded(value)));
    }
    encode_map(values.iter().map(|(name, value)| (name.as_slice(), decoded(value))), out);
}

fn write_list(elements: &[Owned], out: &mut Vec<u8>) {
    let values: Vec<_> = elements.iter().map(encoded).collect();
    encode_list(values.iter().map(|value| decoded(value)), out);
}

/// Code and value, written independently of [`Value`] for leaves.
pub fn encoded(value: &Owned) -> Vec<u8> {
    let mut inner = Vec::new();
    let value = match value {
        Owned::Leaf(code, bytes) => {
            let mut out = vec![*code];
            match code >> 4 {
                8 => out.push(bytes.len() as u8),
                9 => out.extend((bytes.len() as u16).to_be_bytes()),
                0xA => out.extend((bytes.len() as u32).to_be_bytes()),
                _ => {}
            }
            out.extend_from_slice(bytes);
            return out;
        }
        Owned::Map(entries) => {
            write_map(entries, &mut inner);
            Value::Map(MapRef::new(&inner))
        }
        Owned::List(elements) => {
            write_list(elements, &mut inner);
            Value::List(ListRef::new(&inner))
        }
        Owned::Array(lists) => {
            let mut encoded_lists = Vec::new();
            for list in lists {
                let mut out = Vec::new();
                write_list(list, &mut out);
                encoded_lists.push(out);
            }
            let lists = encoded_lists.iter().map(|list| Value::List(ListRef::new(list)));
            encode_array(code::LIST, lists, &mut inner);
            Value::Array(ArrayRef::new(&inner))
        }
    };
    let mut out = Vec::new();
    value.encode(&mut out);
    out
}

/// The value in `bytes`, which hold its code and itself alone.
fn decoded(bytes: &[u8]) -> Value<'_> {
    let mut reader = Reader::new(bytes);
    let value = reader.uint8().and_then(|code| Value::read(code, &mut reader)).unwrap();
    reader.finish().unwrap();
    value
}

fn list_of(values: &[Value<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_list(values.iter().copied(), &mut out);
    out
}

#[test]
fn every_coded_type_is_a_variant_of_its_own() {
    for &(name, code, kind, width) in TYPES {
        let Some(code) = code else { continue };
        let len = if kind == "fixed" { width } else { 6 };
        let value = decoded_or_empty(code, len);
        assert!(!matches!(value, Value::Other { .. }), "{name}");
        assert_eq!(value.code(), code, "{name}");
        // The rule by which unknown types are skipped holds for all known ones.
        let sized =
            [&(len as u32).to_be_bytes()[4 - if kind == "fixed" { 0 } else { width }..], &[0; 128]].concat();
        assert_eq!(skip(code, &mut Reader::new(&sized)).unwrap().len(), len, "{name}");
    }
}

fn decoded_or_empty(code: u8, len: usize) -> Value<'static> {
    static ZEROS: [u8; 128] = [0; 128];
    let mut reader = Reader::new(&ZEROS);
    match code >> 4 {
        8..=0xA => Value::of_bytes(code, &ZEROS[..len]),
        _ => Value::read(code, &mut reader).unwrap(),
    }
}

#[test]
fn values_on_the_wire() {
    let inner = list_of(&[Value::Void]);
    let values = [
        (Value::Void, &b"\xf0"[..]),
        (Value::Bit, b"\xf1"),
        (Value::Bin(b"ab"), b"\x10ab"),
        (Value::Bin(b"abcde"), b"\xc0abcde"),
        (Value::Bin(b"abc"), b"\xa0\0\0\0\x03abc"),
        (Value::Int8(-1), b"\x01\xff"),
        (Value::Char(b'x'), b"\x04x"),
        (Value::Boolean(true), b"\x08\x01"),
        (Value::Int16(-2), b"\x11\xff\xfe"),
        (Value::Uint16(2), b"\x12\0\x02"),
        (Value::Int32(-2), b"\x21\xff\xff\xff\xfe"),
        (Value::Float(1.0), b"\x23\x3f\x80\0\0"),
        (Value::CharUtf32(0x20AC), b"\x27\0\0\x20\xac"),
        (Value::Int64(-2), b"\x31\xff\xff\xff\xff\xff\xff\xff\xfe"),
        (Value::Double(1.0), b"\x33\x3f\xf0\0\0\0\0\0\0"),
        (Value::Datetime(1), b"\x38\0\0\0\0\0\0\0\x01"),
        (Value::Str8(b"a"), b"\x85\x01a"),
        (Value::Str16(b"a"), b"\x95\0\x01a"),
        (Value::Vbin32(b"a"), b"\xa0\0\0\0\x01a"),
        (Value::Dec32(2, 314), b"\xc8\x02\0\0\x01\x3a"),
        (Value::Dec64(2, -1), b"\xd8\x02\xff\xff\xff\xff\xff\xff\xff\xff"),
        (Value::List(ListRef::new(&inner)), b"\xa9\0\0\0\x05\0\0\0\x01\xf0"),
        (Value::Other { code: 0x97, bytes: b"ab" }, b"\x97\0\x02ab"),
        (Value::Other { code: 0x15, bytes: b"ab" }, b"\x15ab"),
    ];
    for (value, bytes) in values {
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(out, bytes, "{value:?}");
        if bytes != b"\xa0\0\0\0\x03abc" {
            assert_eq!(decoded(bytes), value);
        }
    }
    let mut map = Vec::new();
    encode_map([(&b"k"[..], Value::Uint8(7))], &mut map);
    assert_eq!(map, b"\0\0\0\x01\x01k\x02\x07");
    let mut array = Vec::new();
    encode_array(code::STR16, [Value::Str16(b"PLAIN"), Value::Str16(b"")], &mut array);
    assert_eq!(array, b"\x95\0\0\0\x02\0\x05PLAIN\0\0");
}

#[test]
fn what_is_too_long_for_its_type_is_cut() {
    let long = [b'x'; 70_000];
    for (value, len) in [
        (Value::Str8(&long), 257),
        (Value::Str8Latin(&long), 257),
        (Value::Str8Utf16(&long), 256),
        (Value::Str16(&long), 65_538),
        (Value::Str16Utf16(&long), 65_537),
        (Value::Vbin16(&long), 65_538),
    ] {
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(out.len(), len);
        decoded(&out);
    }
}

#[test]
fn containers_without_an_octet_are_empty() {
    assert_eq!(MapRef::EMPTY.validate(), Ok(()));
    assert!(MapRef::EMPTY.is_empty() && MapRef::new(&[0; 4]).is_empty());
    assert_eq!(ListRef::EMPTY.iter().count() + ArrayRef::EMPTY.iter().count(), 0);
    assert_eq!(ArrayRef::EMPTY.element_code(), None);
    assert_eq!(ArrayRef::new(b"\xf0\0\0\0\0").validate(), Ok(()));
}

#[test]
fn counts_and_lengths_must_agree() {
    for (map, error) in [
        (&b"\0\0\0"[..], CodecError::Truncated),
        (b"\0\0\0\x01", CodecError::Truncated),
        (b"\xff\xff\xff\xff\x01k\xf0", CodecError::Truncated),
        (b"\0\0\0\x01\x01k\xf0!", CodecError::Trailing(1)),
        (b"\0\0\0\x01\x01k\xb0", CodecError::UnknownType(0xB0)),
        (b"\0\0\0\x01\x01k\xe5", CodecError::UnknownType(0xE5)),
    ] {
        assert_eq!(MapRef::new(map).validate(), Err(error), "{map:?}");
        assert_eq!(MapRef::new(map).iter().filter(Result::is_err).count(), 1);
    }
    assert_eq!(ArrayRef::new(b"\xf0").validate(), Err(CodecError::Truncated));
}

#[test]
fn a_count_of_elements_without_octets_is_not_believed() {
    let array = |count: u32| [&[code::VOID][..], &count.to_be_bytes()].concat();
    assert_eq!(ArrayRef::new(&array(MAX_EMPTY_ELEMENTS)).iter().flatten().count(), 8);
    let many = array(u32::MAX);
    assert_eq!(ArrayRef::new(&many).validate(), Err(CodecError::TooManyEmptyElements(u32::MAX)));
    assert_eq!(ArrayRef::new(&many).iter().count(), 1);
}

#[test]
fn nesting_ends_at_the_limit() {
    let nested = |depth: usize| {
        let mut bytes = list_of(&[]);
        for _ in 1..depth {
            bytes = list_of(&[Value::List(ListRef::new(&bytes))]);
        }
        bytes
    };
    assert_eq!(ListRef::new(&nested(MAX_DEPTH)).validate(), Ok(()));
    assert_eq!(ListRef::new(&nested(MAX_DEPTH + 1)).validate(), Err(CodecError::TooDeep));
    assert_eq!(ListRef::new(&nested(3000)).validate(), Err(CodecError::TooDeep));
}

#[test]
fn a_value_is_found_without_reading_what_follows() {
    let map = MapRef::new(b"\0\0\0\x03\x01a\xf0\x01b\x02\x09\x01c\xe0");
    assert_eq!(map.get(b"b"), Ok(Some(Value::Uint8(9))));
    assert_eq!(map.get(b"c"), Err(CodecError::UnknownType(0xE0)));
    assert_eq!(MapRef::EMPTY.get(b"b"), Ok(None));
}

proptest! {
    #[test]
    fn values_come_back(value in any_value()) {
        let bytes = encoded(&value);
        let read = decoded(&bytes);
        prop_assert_eq!(read.validate_at(0), Ok(()));
        let mut again = Vec::new();
        read.encode(&mut again);
        prop_assert_eq!(again, &bytes[..]);
        for cut in 1..bytes.len() {
            prop_assert_eq!(Value::read(bytes[0], &mut Reader::new(&bytes[1..cut])), Err(CodecError::Truncated));
        }
        let _ = format!("{read:?}");
    }

    #[test]
    fn arbitrary_changes_never_panic(
        mut map in any_map(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        flips.iter().for_each(|(at, value)| *at.get_mut(&mut map) = *value);
        let map = MapRef::new(&map);
        if map.validate().is_ok() {
            let mut again = Vec::new();
            encode_map(map.iter().map(Result::unwrap), &mut again);
            prop_assert_eq!(MapRef::new(&again).validate(), Ok(()));
        }
        let _ = format!("{map:?} {:?}", map.get(b"k"));
    }
}

pub const VBIN32: u8 = code::VBIN32;
