//! What the tests of all exchange types share.

use super::*;
use crate::message::{Edit, Encoding, Properties, Scalar};
use crate::request::{DestinationKind, Rules};
use crate::{Value, VhostId};

/// Properties that are numbers and texts by name, each also a header: `name=5;other=text;`.
pub(crate) struct Plain;

impl Encoding for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn header(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        self.headers(properties).get(name).cloned()
    }

    fn headers(&self, properties: &[u8]) -> Table {
        let text = std::str::from_utf8(properties).unwrap();
        let fields = text.split_terminator(';').map(|field| field.split_once('=').unwrap());
        Table(fields.map(|(name, value)| (name.into(), decode(value))).collect())
    }

    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>> {
        let fields = properties.split(|&byte| byte == b';');
        let value = fields.filter_map(|field| field.strip_prefix(name)?.strip_prefix(b"=")).next()?;
        Some(match decode(std::str::from_utf8(value).unwrap()) {
            Value::Void => Scalar::Void,
            Value::Text(_) => Scalar::Text(value),
            number => Scalar::Int(number.as_i64().unwrap()),
        })
    }

    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }

    fn property(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        self.header(properties, name)
    }

    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

fn decode(value: &str) -> Value {
    match (value, value.split_once(':')) {
        ("none", _) => Value::Void,
        (_, Some(("u8", number))) => Value::U8(number.parse().unwrap()),
        (_, Some(("i32", number))) => Value::I32(number.parse().unwrap()),
        _ => Value::Text(value.into()),
    }
}

pub(crate) fn encode(headers: &[(&str, Value)]) -> Vec<u8> {
    let mut properties = String::new();
    for (name, value) in headers {
        let kind = match value {
            Value::U8(_) => "u8:",
            Value::I32(_) => "i32:",
            Value::Void | Value::Text(_) => "",
            other => panic!("{other} is not in this encoding"),
        };
        properties.push_str(&format!("{name}={kind}{value};"));
    }
    properties.into_bytes()
}

pub(crate) fn entry(key: &str, arguments: &[(&str, Value)]) -> BindingEntry {
    let arguments = arguments.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect();
    BindingEntry { arguments: Table(arguments), ..entry_to("queue", key) }
}

pub(crate) fn entry_to(queue: &str, key: &str) -> BindingEntry {
    BindingEntry {
        vhost: VhostId(0),
        source: "exchange".into(),
        destination: queue.into(),
        kind: DestinationKind::Queue,
        key: key.into(),
        arguments: Table::default(),
        rules: Rules::Amqp091,
    }
}

pub(crate) fn bound(id: u32, queue: u32, entry: &BindingEntry) -> Binding<'_> {
    Binding { id, destination: Destination::Queue(queue), entry }
}

pub(crate) fn found_by(exchange: &dyn ExchangeType, key: &str) -> Vec<u32> {
    found(exchange, key, &[], 0)
}

pub(crate) fn found_with(exchange: &dyn ExchangeType, key: &str, headers: &[(&str, Value)]) -> Vec<u32> {
    found(exchange, key, headers, 0)
}

pub(crate) fn found_at_random(exchange: &dyn ExchangeType, random: u64) -> Vec<u32> {
    found(exchange, "key", &[], random)
}

/// The queues found, in order, each once.
fn found(exchange: &dyn ExchangeType, key: &str, headers: &[(&str, Value)], random: u64) -> Vec<u32> {
    let properties = encode(headers);
    let message = Routable {
        key: key.as_bytes(),
        properties: &properties,
        encoding: &Plain,
        has_headers: !headers.is_empty(),
        body: &[],
        random,
    };
    let mut found = Vec::new();
    exchange.route(key.as_bytes(), &message, &mut Scratch::default(), &mut found);
    let mut queues: Vec<u32> = found
        .into_iter()
        .map(|destination| match destination {
            Destination::Queue(queue) => queue,
            Destination::Exchange(_) => panic!("nothing else was bound"),
        })
        .collect();
    queues.sort();
    queues.dedup();
    queues
}

#[test]
fn destinations_are_kept_as_often_as_they_were_put_in() {
    let mut destinations = Destinations::default();
    for slot in [3, 1, 2, 1] {
        destinations.insert(Destination::Queue(slot));
    }
    destinations.remove(Destination::Queue(1));
    assert_eq!(destinations.as_slice(), [1, 2, 3].map(Destination::Queue));
}

#[test]
fn direct_and_fanout() {
    let entries = [entry("a", &[]), entry("b", &[]), entry("a", &[("x", Value::Void)])];
    let mut direct = direct::Direct::default();
    let mut fanout = fanout::Fanout::default();
    for (n, entry) in entries.iter().enumerate() {
        direct.bind(&bound(n as u32, n as u32, entry));
        fanout.bind(&bound(n as u32, n as u32, entry));
    }
    assert_eq!(found_by(&direct, "a"), [0, 2]);
    assert_eq!(found_by(&direct, "c"), []);
    assert_eq!(found_by(&fanout, "c"), [0, 1, 2]);
    direct.unbind(&bound(0, 0, &entries[0]), 0);
    fanout.unbind(&bound(0, 0, &entries[0]), 0);
    assert_eq!(found_by(&direct, "a"), [2]);
    assert_eq!(found_by(&fanout, "a"), [1, 2]);
}

#[test]
fn every_type_is_found_by_its_name_and_no_other_is() {
    let types = Types::default();
    for known in TYPES {
        assert_eq!(types.find(&known.name.into()).unwrap().name, known.name);
    }
    assert!(matches!(types.find(&"colourful".into()), Err(Refusal::UnknownExchangeType(_))));
}
