//! The neutral model of field tables: arguments of declarations, application headers. Protocols translate to and
//! from it; only slow paths (declarations, headers matching, dead-lettering) build one.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::mem::discriminant;

use serde::{Deserialize, Serialize};

use crate::Name;

/// A typed value. The variants are the union of what the AMQP protocols carry (AMQP 0-9-1 §4.2.5.5 with RabbitMQ's
/// errata for the type octets).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

    /// A floating point number of either precision.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Whether the values are the same to somebody who does not see how they are encoded: integers and floating point
    /// numbers of any width and text or octets by what they say, all else by type and content.
    pub fn is_equivalent(&self, other: &Value) -> bool {
        match (self.as_i64(), other.as_i64()) {
            (Some(left), Some(right)) => return left == right,
            (None, None) => {}
            _ => return false,
        }
        match (self.as_f64(), other.as_f64()) {
            (Some(left), Some(right)) => return left == right,
            (None, None) => {}
            _ => return false,
        }
        match (self.as_bytes(), other.as_bytes()) {
            (Some(left), Some(right)) => left == right,
            _ => self == other,
        }
    }

    /// Hashes what [`Value::is_equivalent`] compares.
    pub fn hash_equivalent<H: Hasher>(&self, state: &mut H) {
        if let Some(number) = self.as_i64() {
            (0u8, number).hash(state);
        } else if let Some(number) = self.as_f64() {
            // The two zeros are equal.
            (1u8, if number == 0.0 { 0 } else { number.to_bits() }).hash(state);
        } else if let Some(bytes) = self.as_bytes() {
            (2u8, bytes).hash(state);
        } else {
            (3u8, self).hash(state);
        }
    }
}

/// By type and content; floating point numbers by their bits.
impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        discriminant(self).hash(state);
        match self {
            Value::Void => {}
            Value::Bool(v) => v.hash(state),
            Value::I8(v) => v.hash(state),
            Value::U8(v) => v.hash(state),
            Value::I16(v) => v.hash(state),
            Value::U16(v) => v.hash(state),
            Value::I32(v) => v.hash(state),
            Value::U32(v) => v.hash(state),
            Value::I64(v) => v.hash(state),
            Value::U64(v) | Value::Timestamp(v) => v.hash(state),
            Value::F32(v) => v.to_bits().hash(state),
            Value::F64(v) => v.to_bits().hash(state),
            Value::Decimal(scale, v) => (scale, v).hash(state),
            Value::Text(v) | Value::Bytes(v) => v.hash(state),
            Value::Array(v) => v.hash(state),
            Value::Table(v) => v.hash(state),
        }
    }
}

/// For people: text as it is, containers in brackets.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Void => f.write_str("none"),
            Value::Bool(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U8(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::U64(v) | Value::Timestamp(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
            Value::Decimal(scale, v) => write!(f, "{v}e-{scale}"),
            Value::Text(v) | Value::Bytes(v) => v.fmt(f),
            Value::Array(values) => {
                f.write_str("[")?;
                for (n, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if n > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Table(table) => table.fmt(f),
        }
    }
}

/// A field table, in the order in which it was written. Names may repeat on the wire; the first one counts.
#[derive(Clone, Debug, Default, PartialEq, Hash, Serialize, Deserialize)]
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

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (n, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}: {value}", if n > 0 { ", " } else { "" })?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equivalence_hash(value: &Value) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        value.hash_equivalent(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn equivalence_sees_through_encodings_and_no_further() {
        let text = |text: &str| Value::Text(text.into());
        for (left, right) in [
            (Value::I8(-1), Value::I64(-1)),
            (Value::U64(7), Value::I32(7)),
            (Value::F32(0.5), Value::F64(0.5)),
            (Value::F64(0.0), Value::F32(-0.0)),
            (text("a"), Value::Bytes("a".into())),
            (Value::Void, Value::Void),
            (Value::Bool(true), Value::Bool(true)),
        ] {
            assert!(left.is_equivalent(&right) && right.is_equivalent(&left), "{left:?} {right:?}");
            assert_eq!(equivalence_hash(&left), equivalence_hash(&right), "{left:?} {right:?}");
        }
        for (left, right) in [
            (Value::I8(1), Value::I8(2)),
            (Value::I8(1), text("1")),
            (Value::I8(1), Value::Bool(true)),
            (Value::I8(1), Value::F64(1.0)),
            (Value::U64(u64::MAX), Value::I64(-1)),
            (Value::Void, text("")),
            (Value::Timestamp(1), Value::I64(1)),
        ] {
            assert!(!left.is_equivalent(&right) && !right.is_equivalent(&left), "{left:?} {right:?}");
        }
    }

    #[test]
    fn values_are_written_for_people() {
        let inner = Table(vec![("n".into(), Value::Decimal(2, 314)), ("none".into(), Value::Void)]);
        let array = Value::Array(vec![Value::I32(1), Value::Text("two".into()), Value::Table(inner)]);
        assert_eq!(array.to_string(), "[1, two, {n: 314e-2, none: none}]");
    }

    #[test]
    fn a_table_s_first_value_counts_and_is_replaced() {
        let mut table = Table(vec![("a".into(), Value::I8(1)), ("a".into(), Value::I8(2))]);
        assert_eq!(table.get(b"a"), Some(&Value::I8(1)));
        table.set(b"a", Value::I8(3));
        table.set(b"b", Value::Void);
        assert_eq!((table.get(b"a"), table.get(b"b")), (Some(&Value::I8(3)), Some(&Value::Void)));
        table.remove(b"a");
        assert_eq!(table, Table(vec![("b".into(), Value::Void)]));
    }
}
