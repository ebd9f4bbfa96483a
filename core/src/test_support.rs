//! A journal for tests, and an encoding: an optional expiration and a table of headers, written plainly.

pub mod journal;

use crate::message::{Edit, Encoding, Properties, Scalar};
use crate::{Name, Table, Value};

/// The encoding. Properties are made with [`properties`].
pub struct Plain;

/// Encodes an expiration and headers.
pub fn properties(expiration: Option<&str>, headers: &[(&str, Value)]) -> Vec<u8> {
    let headers = headers.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect();
    encode(expiration.map(str::as_bytes), &Table(headers))
}

/// A text value.
pub fn text(text: &str) -> Value {
    Value::Text(Name::from(text))
}

/// An array of texts.
pub fn texts(texts: &[&str]) -> Value {
    Value::Array(texts.iter().map(|t| text(t)).collect())
}

impl Encoding for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn header(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        self.headers(properties).get(name).cloned()
    }

    fn headers(&self, properties: &[u8]) -> Table {
        if properties.is_empty() { Table::default() } else { decode(properties).1 }
    }

    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>> {
        let mut input = properties;
        if input.is_empty() {
            return None;
        }
        read_bytes(&mut input);
        let count = read_u64(&mut input, 4);
        for _ in 0..count {
            let found = read_bytes(&mut input);
            let mut value = input;
            read_value(&mut input);
            if found == name {
                return Some(match read_u64(&mut value, 1) as u8 {
                    b'S' => Scalar::Text(read_bytes(&mut value)),
                    b'T' => Scalar::Timestamp(read_u64(&mut value, 8)),
                    b'l' => Scalar::Int(read_u64(&mut value, 8) as i64),
                    _ => Scalar::Other,
                });
            }
        }
        None
    }

    fn properties<'a>(&self, properties: &'a [u8]) -> Properties<'a> {
        let expiration = self.property(properties, b"expiration");
        let ttl_ms = expiration.and_then(|text| std::str::from_utf8(text.as_bytes()?).ok()?.parse().ok());
        Properties { ttl_ms, ..Properties::default() }
    }

    fn property(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        if name != b"expiration" || properties.is_empty() {
            return None;
        }
        decode(properties).0.map(|text| Value::Text(Name::from(text.as_slice())))
    }

    fn has_further_keys(&self) -> bool {
        true
    }

    fn edit(&self, properties: &[u8], edit: &Edit) -> Vec<u8> {
        let (mut expiration, mut table) =
            if properties.is_empty() { (None, Table::default()) } else { decode(properties) };
        if edit.clear_expiration {
            expiration = None;
        }
        for name in &edit.remove_headers {
            table.remove(name.as_bytes());
        }
        for (name, value) in &edit.set_headers {
            table.set(name.as_bytes(), value.clone());
        }
        encode(expiration.as_deref(), &table)
    }
}

fn encode(expiration: Option<&[u8]>, table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    write_bytes(&mut out, expiration.unwrap_or(b"-"));
    write_table(&mut out, table);
    out
}

fn decode(mut input: &[u8]) -> (Option<Vec<u8>>, Table) {
    let expiration = read_bytes(&mut input);
    ((expiration != b"-").then(|| expiration.to_vec()), read_table(&mut input))
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn read_bytes<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    let length = read_u64(input, 4) as usize;
    let (bytes, rest) = input.split_at(length);
    *input = rest;
    bytes
}

fn read_u64(input: &mut &[u8], width: usize) -> u64 {
    let (bytes, rest) = input.split_at(width);
    *input = rest;
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn write_table(out: &mut Vec<u8>, table: &Table) {
    out.extend_from_slice(&(table.0.len() as u32).to_be_bytes());
    for (name, value) in &table.0 {
        write_bytes(out, name.as_bytes());
        write_value(out, value);
    }
}

fn read_table(input: &mut &[u8]) -> Table {
    let count = read_u64(input, 4);
    Table((0..count).map(|_| (Name::from(read_bytes(input)), read_value(input))).collect())
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(name) => {
            out.push(b'S');
            write_bytes(out, name.as_bytes());
        }
        Value::Timestamp(seconds) => {
            out.push(b'T');
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        Value::Array(values) => {
            out.push(b'A');
            out.extend_from_slice(&(values.len() as u32).to_be_bytes());
            values.iter().for_each(|value| write_value(out, value));
        }
        Value::Table(table) => {
            out.push(b'F');
            write_table(out, table);
        }
        other => {
            out.push(b'l');
            out.extend_from_slice(&other.as_i64().expect("a type that tests use").to_be_bytes());
        }
    }
}

fn read_value(input: &mut &[u8]) -> Value {
    match read_u64(input, 1) as u8 {
        b'S' => Value::Text(Name::from(read_bytes(input))),
        b'T' => Value::Timestamp(read_u64(input, 8)),
        b'A' => {
            let count = read_u64(input, 4);
            Value::Array((0..count).map(|_| read_value(input)).collect())
        }
        b'F' => Value::Table(read_table(input)),
        _ => Value::I64(read_u64(input, 8) as i64),
    }
}
