//! Field tables (§4.2.5.5). The type octets are those of RabbitMQ's errata, which every client follows; `U` and `L` of
//! the specification's text are understood, never written.

use fulmar_core::message::Scalar;
use fulmar_core::{Name, Table, Value};

use super::CodecError;
use super::wire::{Reader, Writer};

/// How deeply tables and arrays may lie in each other; the outermost counts.
pub const MAX_DEPTH: usize = 64;

/// An encoded field table, borrowed: its entries, without the length that precedes them on the wire. Not looked at
/// until asked.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct TableRef<'a>(&'a [u8]);

impl<'a> TableRef<'a> {
    /// The table without entries.
    pub const EMPTY: TableRef<'static> = TableRef(&[]);

    /// A table of these encoded entries, as [`encode_table`] appends them.
    pub const fn new(entries: &'a [u8]) -> Self {
        TableRef(entries)
    }

    /// The encoded entries.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether there are no entries.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Decodes everything.
    ///
    /// # Errors
    /// A malformed table, or one nested more than [`MAX_DEPTH`] deep.
    pub fn to_table(self) -> Result<Table, CodecError> {
        table(self.0, 1)
    }

    /// Checks everything that [`TableRef::to_table`] would, and builds nothing.
    ///
    /// # Errors
    /// As [`TableRef::to_table`].
    pub fn validate(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { skip_table(self.0, 1) }
    }

    /// The first value under `name`, decoded alone.
    ///
    /// # Errors
    /// The table is malformed up to the end of that value.
    pub fn get(self, name: &[u8]) -> Result<Option<Value>, CodecError> {
        let mut reader = Reader::new(self.0);
        while !reader.rest().is_empty() {
            if reader.shortstr()? == name {
                return value(&mut reader, 1).map(Some);
            }
            skip_value(&mut reader, 1)?;
        }
        Ok(None)
    }

    /// The entries as a comparison sees them, up to the first that is malformed.
    pub fn scalars(self) -> impl Iterator<Item = (&'a [u8], Scalar<'a>)> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let entry = reader.shortstr().and_then(|name| Ok((name, scalar(&mut reader)?)));
            if entry.is_err() {
                reader = Reader::new(&[]);
            }
            entry.ok()
        })
    }
}

impl std::fmt::Debug for TableRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to_table() {
            Ok(table) => f.debug_map().entries(table.0.iter().map(|(name, value)| (name, value))).finish(),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

fn table(entries: &[u8], depth: usize) -> Result<Table, CodecError> {
    let mut reader = Reader::new(entries);
    let mut table = Table::default();
    while !reader.rest().is_empty() {
        let name = Name::from(reader.shortstr()?);
        table.0.push((name, value(&mut reader, depth)?));
    }
    Ok(table)
}

fn array(values: &[u8], depth: usize) -> Result<Vec<Value>, CodecError> {
    let mut reader = Reader::new(values);
    let mut array = Vec::new();
    while !reader.rest().is_empty() {
        array.push(value(&mut reader, depth)?);
    }
    Ok(array)
}

/// A value with its type octet; `depth` is that of the table or array around it.
fn value(reader: &mut Reader<'_>, depth: usize) -> Result<Value, CodecError> {
    Ok(match reader.octet()? {
        b'V' => Value::Void,
        b't' => Value::Bool(reader.octet()? != 0),
        b'b' => Value::I8(reader.octet()?.cast_signed()),
        b'B' => Value::U8(reader.octet()?),
        b's' | b'U' => Value::I16(reader.short()?.cast_signed()),
        b'u' => Value::U16(reader.short()?),
        b'I' => Value::I32(reader.long()?.cast_signed()),
        b'i' => Value::U32(reader.long()?),
        b'l' | b'L' => Value::I64(reader.longlong()?.cast_signed()),
        b'f' => Value::F32(f32::from_bits(reader.long()?)),
        b'd' => Value::F64(f64::from_bits(reader.longlong()?)),
        b'D' => Value::Decimal(reader.octet()?, reader.long()?.cast_signed()),
        b'S' => Value::Text(Name::from(reader.longstr()?)),
        b'x' => Value::Bytes(Name::from(reader.longstr()?)),
        b'T' => Value::Timestamp(reader.longlong()?),
        b'A' => Value::Array(array(reader.longstr()?, deeper(depth)?)?),
        b'F' => Value::Table(table(reader.longstr()?, deeper(depth)?)?),
        other => return Err(CodecError::UnknownValueType(other)),
    })
}

fn scalar<'a>(reader: &mut Reader<'a>) -> Result<Scalar<'a>, CodecError> {
    Ok(match reader.octet()? {
        b'V' => Scalar::Void,
        b't' => Scalar::Bool(reader.octet()? != 0),
        b'b' => Scalar::Int(reader.octet()?.cast_signed().into()),
        b'B' => Scalar::Int(reader.octet()?.into()),
        b's' | b'U' => Scalar::Int(reader.short()?.cast_signed().into()),
        b'u' => Scalar::Int(reader.short()?.into()),
        b'I' => Scalar::Int(reader.long()?.cast_signed().into()),
        b'i' => Scalar::Int(reader.long()?.into()),
        b'l' | b'L' => Scalar::Int(reader.longlong()?.cast_signed()),
        b'f' => Scalar::Float(f32::from_bits(reader.long()?).into()),
        b'd' => Scalar::Float(f64::from_bits(reader.longlong()?)),
        b'D' => {
            let scale = reader.octet()?;
            Scalar::of_decimal(scale, reader.long()?.cast_signed().into())
        }
        b'S' | b'x' => Scalar::Text(reader.longstr()?),
        b'T' => Scalar::Timestamp(reader.longlong()?),
        b'A' | b'F' => {
            reader.longstr()?;
            Scalar::Other
        }
        other => return Err(CodecError::UnknownValueType(other)),
    })
}

fn skip_table(entries: &[u8], depth: usize) -> Result<(), CodecError> {
    let mut reader = Reader::new(entries);
    while !reader.rest().is_empty() {
        reader.shortstr()?;
        skip_value(&mut reader, depth)?;
    }
    Ok(())
}

fn skip_array(values: &[u8], depth: usize) -> Result<(), CodecError> {
    let mut reader = Reader::new(values);
    while !reader.rest().is_empty() {
        skip_value(&mut reader, depth)?;
    }
    Ok(())
}

fn skip_value(reader: &mut Reader<'_>, depth: usize) -> Result<(), CodecError> {
    let bytes = match reader.octet()? {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'S' | b'x' => return reader.longstr().map(drop),
        b'A' => return skip_array(reader.longstr()?, deeper(depth)?),
        b'F' => return skip_table(reader.longstr()?, deeper(depth)?),
        other => return Err(CodecError::UnknownValueType(other)),
    };
    reader.take(bytes).map(drop)
}

fn deeper(depth: usize) -> Result<usize, CodecError> {
    if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(CodecError::TooDeep) }
}

/// Appends the entries of `table`, without a length: what [`TableRef::new`] takes.
///
/// What the protocol cannot express is written as what comes nearest: an unsigned 64-bit number as a signed one, or as
/// a double where it does not fit.
pub fn encode_table(table: &Table, out: &mut Vec<u8>) {
    let mut writer = Writer::new(out);
    for (name, value) in &table.0 {
        writer.shortstr(name.as_bytes());
        encode_value(value, &mut writer);
    }
}

fn encode_value(value: &Value, writer: &mut Writer<'_>) {
    match *value {
        Value::Void => writer.octet(b'V'),
        Value::Bool(v) => writer.bytes(&[b't', v.into()]),
        Value::I8(v) => writer.bytes(&[b'b', v.cast_unsigned()]),
        Value::U8(v) => writer.bytes(&[b'B', v]),
        Value::I16(v) => {
            writer.octet(b's');
            writer.short(v.cast_unsigned());
        }
        Value::U16(v) => {
            writer.octet(b'u');
            writer.short(v);
        }
        Value::I32(v) => {
            writer.octet(b'I');
            writer.long(v.cast_unsigned());
        }
        Value::U32(v) => {
            writer.octet(b'i');
            writer.long(v);
        }
        Value::I64(v) => {
            writer.octet(b'l');
            writer.longlong(v.cast_unsigned());
        }
        Value::U64(v) => match i64::try_from(v) {
            Ok(v) => encode_value(&Value::I64(v), writer),
            Err(_) => encode_value(&Value::F64(v as f64), writer),
        },
        Value::F32(v) => {
            writer.octet(b'f');
            writer.long(v.to_bits());
        }
        Value::F64(v) => {
            writer.octet(b'd');
            writer.longlong(v.to_bits());
        }
        Value::Decimal(scale, v) => {
            writer.bytes(&[b'D', scale]);
            writer.long(v.cast_unsigned());
        }
        Value::Text(ref text) => {
            writer.octet(b'S');
            writer.longstr(text.as_bytes());
        }
        Value::Bytes(ref bytes) => {
            writer.octet(b'x');
            writer.longstr(bytes.as_bytes());
        }
        Value::Timestamp(v) => {
            writer.octet(b'T');
            writer.longlong(v);
        }
        Value::Array(ref values) => {
            writer.octet(b'A');
            with_length(writer, |writer| values.iter().for_each(|value| encode_value(value, writer)));
        }
        Value::Table(ref table) => {
            writer.octet(b'F');
            with_length(writer, |writer| encode_table(table, writer.out));
        }
    }
}

/// Writes what `body` writes, preceded by its length.
fn with_length(writer: &mut Writer<'_>, body: impl FnOnce(&mut Writer<'_>)) {
    let start = writer.out.len();
    writer.long(0);
    body(writer);
    let length =
        u32::try_from(writer.out.len() - start - 4).expect("a table of 4 GiB was given to the encoder");
    writer.out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Name> {
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| Name::from(&bytes[..]))
    }

    /// Values that the protocol can express.
    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Void),
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::I8),
            any::<u8>().prop_map(Value::U8),
            any::<i16>().prop_map(Value::I16),
            any::<u16>().prop_map(Value::U16),
            any::<i32>().prop_map(Value::I32),
            any::<u32>().prop_map(Value::U32),
            any::<i64>().prop_map(Value::I64),
            (-1e9..1e9f32).prop_map(Value::F32),
            (-1e9..1e9f64).prop_map(Value::F64),
            any::<(u8, i32)>().prop_map(|(scale, value)| Value::Decimal(scale, value)),
            any::<u64>().prop_map(Value::Timestamp),
            name().prop_map(Value::Text),
            name().prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((name(), inner), 0..4).prop_map(|entries| Value::Table(Table(entries))),
            ]
        })
    }

    pub fn any_table() -> impl Strategy<Value = Table> {
        prop::collection::vec((name(), any_value()), 0..6).prop_map(Table)
    }

    fn encoded(table: &Table) -> Vec<u8> {
        let mut out = Vec::new();
        encode_table(table, &mut out);
        out
    }

    fn single(value: Value) -> Table {
        Table(vec![(Name::from("k"), value)])
    }

    #[test]
    fn type_octets_are_those_of_the_errata() {
        let values = [
            (Value::Bool(true), &b"t\x01"[..]),
            (Value::I8(-1), b"b\xff"),
            (Value::U8(255), b"B\xff"),
            (Value::I16(-2), b"s\xff\xfe"),
            (Value::U16(2), b"u\0\x02"),
            (Value::I32(-2), b"I\xff\xff\xff\xfe"),
            (Value::U32(2), b"i\0\0\0\x02"),
            (Value::I64(-2), b"l\xff\xff\xff\xff\xff\xff\xff\xfe"),
            (Value::F32(1.0), b"f\x3f\x80\0\0"),
            (Value::F64(1.0), b"d\x3f\xf0\0\0\0\0\0\0"),
            (Value::Decimal(2, 314), b"D\x02\0\0\x01\x3a"),
            (Value::Text("a".into()), b"S\0\0\0\x01a"),
            (Value::Bytes("a".into()), b"x\0\0\0\x01a"),
            (Value::Timestamp(1), b"T\0\0\0\0\0\0\0\x01"),
            (Value::Void, b"V"),
            (Value::Array(vec![Value::Bool(false)]), b"A\0\0\0\x02t\0"),
            (Value::Table(single(Value::Void)), b"F\0\0\0\x03\x01kV"),
        ];
        for (value, bytes) in values {
            assert_eq!(encoded(&single(value)), [b"\x01k", bytes].concat());
        }
    }

    #[test]
    fn the_specifications_own_octets_are_understood() {
        let table =
            TableRef::new(b"\x01aU\xff\xff\x01bL\xff\xff\xff\xff\xff\xff\xff\xff").to_table().unwrap();
        assert_eq!(table.get(b"a"), Some(&Value::I16(-1)));
        assert_eq!(table.get(b"b"), Some(&Value::I64(-1)));
    }

    #[test]
    fn unsigned_64_bits_become_what_comes_nearest() {
        let back = |v| TableRef::new(&encoded(&single(Value::U64(v)))).get(b"k").unwrap().unwrap();
        assert_eq!(back(7), Value::I64(7));
        assert_eq!(back(u64::MAX), Value::F64(u64::MAX as f64));
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| {
            let mut value = Value::Table(Table::default());
            for _ in 2..depth {
                value = Value::Array(vec![value]);
            }
            encoded(&single(value))
        };
        let deepest = nested(MAX_DEPTH);
        assert!(TableRef::new(&deepest).to_table().is_ok());
        assert_eq!(TableRef::new(&deepest).validate(), Ok(()));
        let too_deep = nested(MAX_DEPTH + 1);
        assert_eq!(TableRef::new(&too_deep).to_table(), Err(CodecError::TooDeep));
        assert_eq!(TableRef::new(&too_deep).validate(), Err(CodecError::TooDeep));
        assert_eq!(TableRef::new(&too_deep).get(b"k"), Err(CodecError::TooDeep));
    }

    #[test]
    fn a_value_is_found_without_decoding_what_follows() {
        let table = TableRef::new(b"\x01at\x01\x01bB\x09\x01c?");
        assert_eq!(table.get(b"b"), Ok(Some(Value::U8(9))));
        assert_eq!(table.get(b"c"), Err(CodecError::UnknownValueType(b'?')));
        assert_eq!(TableRef::EMPTY.get(b"b"), Ok(None));
    }

    proptest! {
        #[test]
        fn tables_come_back(table in any_table()) {
            let bytes = encoded(&table);
            prop_assert_eq!(TableRef::new(&bytes).to_table()?, table.clone());
            prop_assert_eq!(TableRef::new(&bytes).validate(), Ok(()));
            for (name, _) in &table.0 {
                let found = TableRef::new(&bytes).get(name.as_bytes())?;
                prop_assert_eq!(found.as_ref(), table.get(name.as_bytes()));
            }
        }

        #[test]
        fn validation_and_decoding_agree_on_any_bytes(
            table in any_table(),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut bytes = encoded(&table);
            if !bytes.is_empty() {
                flips.iter().for_each(|(at, value)| *at.get_mut(&mut bytes) = *value);
            }
            let decoded = TableRef::new(&bytes).to_table();
            prop_assert_eq!(TableRef::new(&bytes).validate(), decoded.map(drop));
            let _ = format!("{:?} {:?}", TableRef::new(&bytes), TableRef::new(&bytes).get(b"k"));
        }
    }
}
