//! `x-consistent-hash`: each message goes to one destination, chosen by a hash, in proportion to weights.
//!
//! The binding key is the weight. What is hashed is the routing key, or with the exchange's argument `hash-header` or
//! `hash-property` that header or property. Weighted rendezvous hashing: every binding draws a number from its name and
//! the hash, the best one has the message. So a binding that comes takes only what it will hold, from all others alike,
//! and one that goes leaves the rest where it was. The price is a draw for each binding.

use std::hash::{Hash, Hasher};

use super::{Binding, Destination, ExchangeType, Listed, Scratch};
use crate::hash::{StableHasher, mix};
use crate::request::DestinationKind;
use crate::topology::{BindingEntry, Routable};
use crate::{Name, Refusal, Table, Value};

/// Arguments that say what is hashed.
pub(super) const ARGUMENTS: &[&str] = &["hash-header", "hash-property"];

/// The properties that can be hashed, as clients name them.
const PROPERTIES: [&[u8]; 3] = [b"correlation_id", b"message_id", b"timestamp"];

/// Bindings and their weights.
pub(super) struct ConsistentHash {
    hashed: Hashed,
    bindings: Listed<Share>,
}

/// What is hashed.
enum Hashed {
    Key,
    Header(Name),
    /// By its AMQP name.
    Property(Vec<u8>),
}

struct Share {
    destination: Destination,
    weight: f64,
    /// From the names, not from slots: the same on every shard and after every restart.
    seed: u64,
}

/// # Errors
/// The arguments contradict each other, or name what cannot be hashed.
pub(super) fn make(arguments: &Table) -> Result<Box<dyn ExchangeType>, Refusal> {
    let name = |argument: &str| match arguments.get(argument.as_bytes()) {
        None => Ok(None),
        Some(Value::Text(name)) => Ok(Some(name.clone())),
        Some(other) => Err(invalid(argument, format!("{other} is not text"))),
    };
    let hashed = match (name("hash-header")?, name("hash-property")?) {
        (None, None) => Hashed::Key,
        (Some(header), None) => Hashed::Header(header),
        (None, Some(property)) if PROPERTIES.contains(&property.as_bytes()) => {
            let name = property.as_bytes().iter().map(|&byte| if byte == b'_' { b'-' } else { byte });
            Hashed::Property(name.collect())
        }
        (None, Some(property)) => {
            let reason = format!("'{property}' is not one of correlation_id, message_id, timestamp");
            return Err(invalid("hash-property", reason));
        }
        (Some(_), Some(_)) => {
            return Err(invalid("hash-header", "hash-header and hash-property exclude each other".into()));
        }
    };
    Ok(Box::new(ConsistentHash { hashed, bindings: Listed::default() }))
}

fn invalid(argument: &str, reason: String) -> Refusal {
    Refusal::InvalidArgument { argument: argument.into(), reason }
}

fn weight(binding: &BindingEntry) -> Result<u32, Refusal> {
    let weight = std::str::from_utf8(binding.key.as_bytes()).ok().and_then(|key| key.parse().ok());
    weight.ok_or_else(|| {
        let reason =
            format!("the binding key of a consistent hash is its weight, an integer, not '{}'", binding.key);
        invalid("routing-key", reason)
    })
}

impl ExchangeType for ConsistentHash {
    fn check(&self, binding: &BindingEntry) -> Result<(), Refusal> {
        weight(binding).map(drop)
    }

    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        let weight = f64::from(weight(binding.entry).expect("the weight was checked when planned"));
        let mut seed = StableHasher::default();
        seed.write_u8((binding.entry.kind == DestinationKind::Queue).into());
        seed.write(binding.entry.destination.as_bytes());
        seed.write_u8(0);
        seed.write(binding.entry.key.as_bytes());
        let share = Share { destination: binding.destination, weight, seed: seed.finish() };
        self.bindings.insert(binding.id, share);
        0
    }

    fn unbind(&mut self, binding: &Binding<'_>, _: u32) {
        self.bindings.remove(binding.id);
    }

    fn route(&self, key: &[u8], message: &Routable<'_>, _: &mut Scratch, found: &mut Vec<Destination>) {
        let mut hasher = StableHasher::default();
        match &self.hashed {
            Hashed::Key => hasher.write(key),
            Hashed::Header(name) if message.has_headers => {
                hash_value(message.encoding.header(message.properties, name.as_bytes()), &mut hasher);
            }
            Hashed::Header(_) => {}
            Hashed::Property(name) => {
                hash_value(message.encoding.property(message.properties, name), &mut hasher);
            }
        }
        let hash = hasher.finish();
        let heavy = self.bindings.items().filter(|share| share.weight > 0.0);
        let best = heavy.max_by(|left, right| {
            left.draw(hash).total_cmp(&right.draw(hash)).then(left.seed.cmp(&right.seed))
        });
        found.extend(best.map(|share| share.destination));
    }

    fn is_by_key_alone(&self) -> bool {
        matches!(self.hashed, Hashed::Key)
    }
}

impl Share {
    /// The logarithm of a uniform number's weighted root: the best of several is this one in proportion to its weight.
    fn draw(&self, hash: u64) -> f64 {
        // 53 bits, moved off both ends of the interval.
        let uniform = ((mix(hash ^ self.seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        uniform.ln() / self.weight
    }
}

/// Hashes what a value says; none like an empty one.
fn hash_value(value: Option<Value>, hasher: &mut StableHasher) {
    let Some(value) = value else { return };
    match (value.as_bytes(), value.as_i64()) {
        (Some(bytes), _) => hasher.write(bytes),
        (None, Some(number)) => hasher.write_i64(number),
        (None, None) => value.hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::tests::{bound, entry_to, found_by, found_with};

    const MESSAGES: u32 = if cfg!(miri) { 100 } else { 20_000 };

    fn bind(exchange: &mut dyn ExchangeType, queue: u32, weight: &str) {
        exchange.bind(&bound(queue, queue, &entry_to(&format!("q{queue}"), weight)));
    }

    fn unbind(exchange: &mut dyn ExchangeType, queue: u32, weight: &str) {
        exchange.unbind(&bound(queue, queue, &entry_to(&format!("q{queue}"), weight)), 0);
    }

    fn plain() -> Box<dyn ExchangeType> {
        make(&Table::default()).unwrap()
    }

    fn by(argument: &str, name: &str) -> Result<Box<dyn ExchangeType>, Refusal> {
        make(&Table(vec![(argument.into(), Value::Text(name.into()))]))
    }

    fn placement(exchange: &dyn ExchangeType) -> Vec<u32> {
        (0..MESSAGES)
            .map(|n| {
                let found = found_by(exchange, &format!("key-{n}"));
                assert_eq!(found.len(), 1, "each message goes to one destination");
                found[0]
            })
            .collect()
    }

    fn share(placement: &[u32], queue: u32) -> f64 {
        placement.iter().filter(|&&other| other == queue).count() as f64 / placement.len() as f64
    }

    #[test]
    #[cfg_attr(miri, ignore)]
    fn messages_are_spread_by_weight() {
        let mut exchange = plain();
        for (queue, weight) in [(0, "1"), (1, "2"), (2, "1"), (3, "0")] {
            bind(&mut *exchange, queue, weight);
        }
        let placement = placement(&*exchange);
        for (queue, expected) in [(0, 0.25), (1, 0.5), (2, 0.25), (3, 0.0)] {
            let share = share(&placement, queue);
            assert!((share - expected).abs() < 0.02, "queue {queue} has {share}, not {expected}");
        }
    }

    #[test]
    fn a_change_moves_only_what_it_must() {
        let mut exchange = plain();
        (0..4).for_each(|queue| bind(&mut *exchange, queue, "10"));
        let before = placement(&*exchange);
        bind(&mut *exchange, 4, "10");
        let after = placement(&*exchange);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *after == 4, "a message moved between old destinations");
        }
        unbind(&mut *exchange, 4, "10");
        assert_eq!(placement(&*exchange), before);
        unbind(&mut *exchange, 2, "10");
        for (before, after) in before.iter().zip(placement(&*exchange)) {
            assert!(*before == after || *before == 2);
        }
    }

    #[test]
    fn nothing_bound_routes_nowhere() {
        assert!(found_by(&*plain(), "key").is_empty());
    }

    #[test]
    fn a_header_or_a_property_may_be_hashed() {
        for mut exchange in [by("hash-header", "h").unwrap(), by("hash-property", "message_id").unwrap()] {
            assert!(!exchange.is_by_key_alone());
            (0..16).for_each(|queue| bind(&mut *exchange, queue, "1"));
            let with = |key: &str, value: u32| {
                let value = Value::Text(value.to_string().as_str().into());
                found_with(&*exchange, key, &[("h", value.clone()), ("message-id", value)])
            };
            assert_eq!(with("one", 1), with("another", 1));
            let places: std::collections::BTreeSet<_> = (0..50).map(|n| with("key", n)).collect();
            assert!(places.len() > 5);
            assert_eq!(
                found_by(&*exchange, "one"),
                found_by(&*exchange, "another"),
                "without it, all go one way"
            );
        }
    }

    #[test]
    fn bad_arguments_and_weights_are_refused() {
        assert!(by("hash-property", "colour").is_err());
        let both = ["hash-header", "hash-property"];
        let both = both.map(|name| (Name::from(name), Value::Text("message_id".into())));
        assert!(make(&Table(both.into())).is_err());
        assert!(make(&Table(vec![("hash-header".into(), Value::I32(1))])).is_err());
        for weight in ["", "heavy", "-1", "1.5"] {
            assert!(plain().check(&entry_to("q", weight)).is_err(), "{weight}");
        }
        assert!(plain().check(&entry_to("q", "17")).is_ok());
    }
}
