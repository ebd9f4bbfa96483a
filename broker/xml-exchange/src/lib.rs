//! The exchange type `xml`: a binding has a key and an XQuery, and matches messages with that routing key for which the
//! query is true.
//!
//! The query stands in the binding's argument `xquery`; without one, or with an empty one, the key alone counts. `.` is
//! the body, parsed as XML if the query looks at it; external variables are the message's headers and, where there is no
//! such header, its properties by their AMQP names.
//!
//! 1. A message is parsed at most once, and the same query is worked out once, however many bindings have it.
//! 2. What one message may cost is bounded: a query that needs more steps does not match, and neither do those that come
//!    after the message's steps have been used up.
//! 3. What is not XML, or would cost too much to parse, is no body; queries that look at none still match.

mod body;
pub mod query;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use fulmar_core::exchange::{Binding, Destination, ExchangeType, Made, Registration, Scratch, Types};
use fulmar_core::message::Scalar;
use fulmar_core::topology::{BindingEntry, Routable};
use fulmar_core::{Name, Refusal, Table, Value};

use query::{Atomic, Query};

/// The type, for [`fulmar_core::Shard::add_exchange_types`].
pub static XML: Registration = Registration { name: "xml", arguments: &[], make };

/// Steps that one query may take.
pub const QUERY_STEPS: u32 = 50_000;
/// Steps that all queries of one message may take.
pub const MESSAGE_STEPS: u32 = 200_000;

fn make(_: &Table, _: &Types) -> Made {
    Ok(Box::<Xml>::default())
}

/// The bindings by key, and by query.
#[derive(Default)]
struct Xml {
    by_key: HashMap<Name, Vec<Group>>,
}

/// The bindings of a key with the same query.
struct Group {
    text: Name,
    query: Arc<Query>,
    /// As often as there are bindings.
    destinations: Vec<Destination>,
}

impl ExchangeType for Xml {
    fn check(&self, binding: &BindingEntry) -> Result<(), Refusal> {
        compile(binding).map(drop)
    }

    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        let groups = self.by_key.entry(binding.entry.key.clone()).or_default();
        let text = text(binding.entry).unwrap_or_default();
        let at = groups.iter().position(|group| group.text == text).unwrap_or_else(|| {
            let query = Arc::new(compile(binding.entry).expect("queries were compiled when planned"));
            groups.push(Group { text, query, destinations: Vec::new() });
            groups.len() - 1
        });
        groups[at].destinations.push(binding.destination);
        0
    }

    fn unbind(&mut self, binding: &Binding<'_>, _: u32) {
        let key = &binding.entry.key;
        let text = text(binding.entry).unwrap_or_default();
        let groups = self.by_key.get_mut(key).expect("an unbound key was bound");
        let at = groups.iter().position(|group| group.text == text).expect("an unbound query was bound");
        let group = &mut groups[at];
        let place = group.destinations.iter().position(|&other| other == binding.destination);
        group.destinations.swap_remove(place.expect("a removed destination was put in"));
        if group.destinations.is_empty() {
            groups.swap_remove(at);
        }
        if groups.is_empty() {
            self.by_key.remove(key);
        }
    }

    fn route(&self, key: &[u8], message: &Routable<'_>, _: &mut Scratch, found: &mut Vec<Destination>) {
        let Some(groups) = self.by_key.get(key) else { return };
        let body = match groups.iter().any(|group| group.query.uses_body()) {
            true => body::parse(message.body),
            false => None,
        };
        let externals = |name: &str| external(message, name.as_bytes());
        let mut left = MESSAGE_STEPS;
        for group in groups {
            let given = left.min(QUERY_STEPS);
            let mut steps = given;
            // One that has no answer for this message does not match it.
            if group.query.matches(body.as_ref(), &externals, &mut steps) == Ok(true) {
                found.extend_from_slice(&group.destinations);
            }
            left -= given - steps;
        }
    }

    fn is_by_key_alone(&self) -> bool {
        false
    }
}

/// The query's text. `None`: the argument is not text.
fn text(binding: &BindingEntry) -> Option<Name> {
    match binding.arguments.get(b"xquery") {
        None | Some(Value::Void) => Some(Name::default()),
        Some(Value::Text(text) | Value::Bytes(text)) => Some(text.clone()),
        Some(_) => None,
    }
}

fn compile(binding: &BindingEntry) -> Result<Query, Refusal> {
    let refused = |reason: String| Refusal::InvalidBinding { exchange: binding.source.clone(), reason };
    let text = text(binding).ok_or_else(|| refused("the argument 'xquery' is not text".into()))?;
    let text =
        std::str::from_utf8(text.as_bytes()).map_err(|_| refused("the query is not valid UTF-8".into()))?;
    Query::compile(text).map_err(|error| refused(format!("the query does not parse: {error}")))
}

/// A header, or else a property, as a query sees it.
fn external(message: &Routable<'_>, name: &[u8]) -> Option<Atomic> {
    let (encoding, properties) = (message.encoding, message.properties);
    let header = if message.has_headers { encoding.scalar(properties, name) } else { None };
    match header {
        Some(Scalar::Bool(value)) => Some(Atomic::Boolean(value)),
        Some(Scalar::Int(value)) => Some(Atomic::Integer(value)),
        Some(Scalar::Float(value)) => Some(Atomic::Double(value)),
        Some(Scalar::Timestamp(seconds)) => i64::try_from(seconds).ok().map(Atomic::Integer),
        Some(Scalar::Text(text)) => std::str::from_utf8(text).ok().map(Atomic::text),
        // There, and nothing that a query could use.
        Some(Scalar::Void | Scalar::Other) => None,
        None => property(&encoding.property(properties, name)?),
    }
}

fn property(value: &Value) -> Option<Atomic> {
    match (value.as_bytes(), value) {
        (Some(text), _) => std::str::from_utf8(text).ok().map(Atomic::text),
        (None, Value::Timestamp(seconds)) => i64::try_from(*seconds).ok().map(Atomic::Integer),
        (None, other) => other.as_i64().map(Atomic::Integer),
    }
}
