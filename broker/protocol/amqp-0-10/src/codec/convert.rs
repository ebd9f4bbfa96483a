//! Values of this protocol as the core's, which all protocols share, and back.
//!
//! From the core nothing is lost but what no type can hold (see [`encode_table`]). To the core the widths of strings and
//! binaries go, and arrays and lists become the same; what it has no variant for becomes what comes nearest.

use fulmar_core::{Name, Table, Value as Core};

use super::CodecError;
use super::value::{ListRef, MAX_DEPTH, MapRef, Value, counted};
use super::wire::Writer;

impl MapRef<'_> {
    /// Decodes everything into a table of the core.
    ///
    /// # Errors
    /// As [`MapRef::validate`].
    pub fn to_table(self) -> Result<Table, CodecError> {
        table(self, 1)
    }
}

impl Value<'_> {
    /// Decodes everything into a value of the core: text of any encoding as UTF-8, a `char` likewise; a `uuid`, a struct
    /// and other binaries as octets; a `dec64` that a decimal of the core does not hold as a double.
    ///
    /// # Errors
    /// As [`MapRef::validate`].
    pub fn to_core(&self) -> Result<Core, CodecError> {
        core(self, 0)
    }
}

fn table(map: MapRef<'_>, depth: usize) -> Result<Table, CodecError> {
    let entry = |entry: Result<(&[u8], Value<'_>), CodecError>| {
        let (name, value) = entry?;
        Ok((Name::from(name), core(&value, depth)?))
    };
    map.iter().map(entry).collect::<Result<_, _>>().map(Table)
}

/// `depth` is that of the container around the value.
fn core(value: &Value<'_>, depth: usize) -> Result<Core, CodecError> {
    let within = || if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(CodecError::TooDeep) };
    let bytes = |bytes: &[u8]| Core::Bytes(Name::from(bytes));
    let text = |text: &[u8]| Core::Text(Name::from(text));
    Ok(match *value {
        Value::Void => Core::Void,
        Value::Bit => Core::Bool(true),
        Value::Boolean(v) => Core::Bool(v),
        Value::Int8(v) => Core::I8(v),
        Value::Uint8(v) => Core::U8(v),
        Value::Int16(v) => Core::I16(v),
        Value::Uint16(v) => Core::U16(v),
        Value::Int32(v) => Core::I32(v),
        Value::Uint32(v) => Core::U32(v),
        Value::Int64(v) => Core::I64(v),
        Value::Uint64(v) => Core::U64(v),
        Value::Float(v) => Core::F32(v),
        Value::Double(v) => Core::F64(v),
        Value::Datetime(v) => Core::Timestamp(v),
        Value::Dec32(scale, v) => Core::Decimal(scale, v),
        Value::Dec64(scale, v) => match i32::try_from(v) {
            Ok(v) => Core::Decimal(scale, v),
            Err(_) => Core::F64(v as f64 / 10f64.powi(scale.into())),
        },
        Value::Char(v) => text(latin(&[v]).as_bytes()),
        Value::CharUtf32(v) => {
            text(char::from_u32(v).unwrap_or(char::REPLACEMENT_CHARACTER).to_string().as_bytes())
        }
        Value::Str8(v) | Value::Str16(v) => text(v),
        Value::Str8Latin(v) | Value::Str16Latin(v) => text(latin(v).as_bytes()),
        Value::Str8Utf16(v) | Value::Str16Utf16(v) => text(utf16(v).as_bytes()),
        Value::Bin(v) | Value::Vbin8(v) | Value::Vbin16(v) | Value::Vbin32(v) => bytes(v),
        Value::Other { bytes: v, .. } => bytes(v),
        Value::Uuid(v) => bytes(&v),
        Value::Struct32(v) => bytes(v.as_bytes()),
        Value::Map(map) => Core::Table(table(map, within()?)?),
        Value::List(list) => Core::Array(array(list.iter(), within()?)?),
        Value::Array(values) => Core::Array(array(values.iter(), within()?)?),
    })
}

fn array<'a>(
    values: impl Iterator<Item = Result<Value<'a>, CodecError>>,
    depth: usize,
) -> Result<Vec<Core>, CodecError> {
    values.map(|value| core(&value?, depth)).collect()
}

/// ISO 8859-15: that of Latin 1 with eight characters exchanged.
fn latin(bytes: &[u8]) -> String {
    let character = |&byte: &u8| match byte {
        0xA4 => '€',
        0xA6 => 'Š',
        0xA8 => 'š',
        0xB4 => 'Ž',
        0xB8 => 'ž',
        0xBC => 'Œ',
        0xBD => 'œ',
        0xBE => 'Ÿ',
        other => char::from(other),
    };
    bytes.iter().map(character).collect()
}

fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// Appends `table` as [`MapRef::new`] takes it: text as `str16`, octets as `vbin16`, or `vbin32` if they are longer, as
/// text then is too; text that is no UTF-8 as octets, since receivers rely on it; arrays as lists.
pub fn encode_table(table: &Table, out: &mut Vec<u8>) {
    counted(&table.0, out, |(name, value), writer| {
        writer.str8(name.as_bytes());
        encode_core(value, writer);
    });
}

fn encode_core(value: &Core, writer: &mut Writer<'_>) {
    let short = |bytes: &[u8]| bytes.len() <= usize::from(u16::MAX);
    let mut inner = Vec::new();
    let value = match value {
        Core::Void => Value::Void,
        Core::Bool(v) => Value::Boolean(*v),
        Core::I8(v) => Value::Int8(*v),
        Core::U8(v) => Value::Uint8(*v),
        Core::I16(v) => Value::Int16(*v),
        Core::U16(v) => Value::Uint16(*v),
        Core::I32(v) => Value::Int32(*v),
        Core::U32(v) => Value::Uint32(*v),
        Core::I64(v) => Value::Int64(*v),
        Core::U64(v) => Value::Uint64(*v),
        Core::F32(v) => Value::Float(*v),
        Core::F64(v) => Value::Double(*v),
        Core::Decimal(scale, v) => Value::Dec32(*scale, *v),
        Core::Timestamp(v) => Value::Datetime(*v),
        Core::Text(v) if short(v.as_bytes()) && str::from_utf8(v.as_bytes()).is_ok() => {
            Value::Str16(v.as_bytes())
        }
        Core::Text(v) | Core::Bytes(v) if short(v.as_bytes()) => Value::Vbin16(v.as_bytes()),
        Core::Text(v) | Core::Bytes(v) => Value::Vbin32(v.as_bytes()),
        Core::Array(values) => {
            counted(values, &mut inner, encode_core);
            Value::List(ListRef::new(&inner))
        }
        Core::Table(table) => {
            encode_table(table, &mut inner);
            Value::Map(MapRef::new(&inner))
        }
    };
    value.encode(writer.out);
}

#[cfg(test)]
mod tests {
    use super::super::value::{self, ArrayRef, StructRef, encode_list};
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Name> {
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| Name::from(&bytes[..]))
    }

    fn text() -> impl Strategy<Value = Name> {
        "\\PC{0,12}".prop_map(Name::from)
    }

    fn any_core() -> impl Strategy<Value = Core> {
        let leaf = prop_oneof![
            Just(Core::Void),
            any::<bool>().prop_map(Core::Bool),
            any::<i8>().prop_map(Core::I8),
            any::<u8>().prop_map(Core::U8),
            any::<i16>().prop_map(Core::I16),
            any::<u16>().prop_map(Core::U16),
            any::<i32>().prop_map(Core::I32),
            any::<u32>().prop_map(Core::U32),
            any::<i64>().prop_map(Core::I64),
            any::<u64>().prop_map(Core::U64),
            (-1e9..1e9f32).prop_map(Core::F32),
            (-1e9..1e9f64).prop_map(Core::F64),
            any::<(u8, i32)>().prop_map(|(scale, value)| Core::Decimal(scale, value)),
            any::<u64>().prop_map(Core::Timestamp),
            text().prop_map(Core::Text),
            name().prop_map(Core::Bytes),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Core::Array),
                prop::collection::vec((name(), inner), 0..4).prop_map(|entries| Core::Table(Table(entries))),
            ]
        })
    }

    #[test]
    fn what_the_core_has_no_variant_for_becomes_what_comes_nearest() {
        let text = |text: &str| Core::Text(text.into());
        let bytes = |bytes: &[u8]| Core::Bytes(Name::from(bytes));
        for (value, expected) in [
            (Value::Bit, Core::Bool(true)),
            (Value::Char(0xA4), text("€")),
            (Value::CharUtf32(0x20AC), text("€")),
            (Value::CharUtf32(0xD800), text("\u{FFFD}")),
            (Value::Str8Latin(b"\xe9\xa4"), text("é€")),
            (Value::Str16Utf16(b"\x20\xac\0x"), text("€x")),
            (Value::Str8Utf16(b"\xd8\0"), text("\u{FFFD}")),
            (Value::Uuid([7; 16]), bytes(&[7; 16])),
            (Value::Bin(b"ab"), bytes(b"ab")),
            (Value::Struct32(StructRef::new(b"\x06\x04")), bytes(b"\x06\x04")),
            (Value::Other { code: 0x97, bytes: b"x" }, bytes(b"x")),
            (Value::Dec64(1, 5), Core::Decimal(1, 5)),
            (Value::Dec64(1, 50_000_000_000), Core::F64(5e9)),
            (Value::Array(ArrayRef::new(b"\x02\0\0\0\x01\x05")), Core::Array(vec![Core::U8(5)])),
        ] {
            assert_eq!(value.to_core(), Ok(expected), "{value:?}");
        }
    }

    #[test]
    fn long_text_and_octets_take_the_wide_binary() {
        let long = Name::from(&[b'x'; 65_536][..]);
        for value in [Core::Text(long.clone()), Core::Bytes(long.clone())] {
            let mut out = Vec::new();
            encode_core(&value, &mut Writer::new(&mut out));
            assert_eq!((out[0], out.len()), (value::tests::VBIN32, 65_541));
        }
    }

    #[test]
    fn text_that_is_no_utf_8_is_octets() {
        let mut out = Vec::new();
        encode_table(&Table(vec![("k".into(), Core::Text(Name::from(&b"\xff"[..])))]), &mut out);
        assert_eq!(MapRef::new(&out).get(b"k"), Ok(Some(Value::Vbin16(b"\xff"))));
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let mut bytes = vec![0; 4];
        for _ in 1..MAX_DEPTH + 1 {
            let mut out = Vec::new();
            encode_list([Value::List(ListRef::new(&bytes))], &mut out);
            let value = Value::List(ListRef::new(&bytes));
            assert!(value.to_core().is_ok());
            bytes = out;
        }
        assert_eq!(Value::List(ListRef::new(&bytes)).to_core(), Err(CodecError::TooDeep));
    }

    proptest! {
        #[test]
        fn tables_come_back(entries in prop::collection::vec((name(), any_core()), 0..6)) {
            let table = Table(entries);
            let mut out = Vec::new();
            encode_table(&table, &mut out);
            prop_assert_eq!(MapRef::new(&out).validate(), Ok(()));
            prop_assert_eq!(MapRef::new(&out).to_table()?, table);
        }

        #[test]
        fn validation_and_decoding_agree_on_any_bytes(
            mut map in value::tests::any_map(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            flips.iter().for_each(|(at, value)| *at.get_mut(&mut map) = *value);
            prop_assert_eq!(MapRef::new(&map).validate(), MapRef::new(&map).to_table().map(drop));
        }
    }
}
