//! Field tables (§4.2.5.5). The type octets are those of RabbitMQ's errata, which every client follows; `U` and `L` of
//! the specification's text are understood, never written.

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
