//! The neutral model of field tables: arguments of declarations, application headers. Protocols translate to and
//! from it; only slow paths (declarations, headers matching, dead-lettering) build one.

use crate::Name;

/// A typed value. The variants are the union of what the AMQP protocols carry (AMQP 0-9-1 §4.2.5.5 with RabbitMQ's
/// errata for the type octets).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value (`V`).
    Void,
    /// Boolean (`t`).
    Bool(bool),
    /// Signed 8 bits (`b`).
    I8(i8),
    /// Unsigned 8 bits (`B`).
    U8(u8),
    /// Signed 16 bits (`s`).
    I16(i16),
    /// Unsigned 16 bits (`u`).
    U16(u16),
    /// Signed 32 bits (`I`).
    I32(i32),
    /// Unsigned 32 bits (`i`).
    U32(u32),
    /// Signed 64 bits (`l`).
    I64(i64),
    /// Unsigned 64 bits; AMQP 0-9-1 has no octet for it, AMQP 0-10 does.
    U64(u64),
    /// Single precision (`f`).
    F32(f32),
    /// Double precision (`d`).
    F64(f64),
    /// Decimal: digits after the point, and the scaled integer (`D`).
    Decimal(u8, i32),
    /// Text (`S`); bytes as the client sent them.
    Text(Name),
    /// Octets (`x`).
    Bytes(Name),
    /// Seconds since 1970 (`T`).
    Timestamp(u64),
    /// Array (`A`).
    Array(Vec<Value>),
    /// Nested table (`F`).
    Table(Table),
}

impl Value {
    /// The value as a signed integer, whatever its width; `None` for other types and for what does not fit.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Value::I8(v) => v.into(),
            Value::U8(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I64(v) => v,
            Value::U64(v) => i64::try_from(v).ok()?,
            _ => return None,
        })
    }

    /// The bytes of a text or octets value.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Text(name) | Value::Bytes(name) => Some(name.as_bytes()),
            _ => None,
        }
    }
}

/// A field table, in the order in which it was written. Names may repeat on the wire; the first one counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(pub Vec<(Name, Value)>);

impl Table {
    /// The first value under `name`.
    pub fn get(&self, name: &[u8]) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key.as_bytes() == name).map(|(_, value)| value)
    }

    /// Replaces the value under `name`, or appends it.
    pub fn set(&mut self, name: &[u8], value: Value) {
        match self.0.iter_mut().find(|(key, _)| key.as_bytes() == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((Name::from(name), value)),
        }
    }

    /// Removes every value under `name`.
    pub fn remove(&mut self, name: &[u8]) {
        self.0.retain(|(key, _)| key.as_bytes() != name);
    }

    /// Whether the table has no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
