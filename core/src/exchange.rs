//! Exchange types and the registry that names them.
//!
//! A type is one implementation of [`ExchangeType`] in a file of its own and one line in [`TYPES`]; others may come from
//! outside. An instance holds the bindings of one exchange, arranged for routing; all else (names, identity, who may do
//! what) is the topology's.

mod consistent_hash;
mod delayed;
mod direct;
mod fanout;
mod headers;
mod random;
#[cfg(test)]
pub(crate) mod tests;
mod topic;

use crate::hash::Map;
use crate::request::ExchangeOptions;
use crate::topology::{BindingEntry, Routable};
use crate::{Name, Refusal, Table, Value};

/// The routes of a new exchange, or why it cannot be.
pub type Made = Result<Box<dyn ExchangeType>, Refusal>;

/// What a registered exchange type is.
pub struct Registration {
    /// Its name, as clients declare it.
    pub name: &'static str,
    /// Arguments of the exchange that make it another exchange if they differ.
    pub arguments: &'static [&'static str],
    /// Makes the routes of a new exchange from its arguments, or refuses them.
    pub make: fn(&Table, &Types) -> Made,
}

/// The exchange types that are always there.
pub const TYPES: &[Registration] = &[
    Registration { name: "direct", arguments: &[], make: |_, _| Ok(Box::<direct::Direct>::default()) },
    Registration { name: "fanout", arguments: &[], make: |_, _| Ok(Box::<fanout::Fanout>::default()) },
    Registration { name: "topic", arguments: &[], make: |_, _| Ok(Box::<topic::Topic>::default()) },
    Registration { name: "headers", arguments: &[], make: |_, _| Ok(Box::<headers::Headers>::default()) },
    Registration {
        name: "x-consistent-hash",
        arguments: consistent_hash::ARGUMENTS,
        make: |arguments, _| consistent_hash::make(arguments),
    },
    Registration { name: "x-random", arguments: &[], make: |_, _| Ok(Box::<random::Random>::default()) },
    Registration { name: "x-delayed-message", arguments: delayed::ARGUMENTS, make: delayed::make },
];

/// The exchange types that a broker has: [`TYPES`] and further ones.
#[derive(Default)]
pub struct Types {
    further: Vec<&'static Registration>,
}

impl Types {
    /// Adds types from elsewhere. All shards of a broker get the same.
    pub fn add(&mut self, types: &[&'static Registration]) {
        self.further.extend_from_slice(types);
    }

    /// The type of that name.
    ///
    /// # Errors
    /// [`Refusal::UnknownExchangeType`].
    pub fn find(&self, kind: &Name) -> Result<&'static Registration, Refusal> {
        TYPES
            .iter()
            .chain(self.further.iter().copied())
            .find(|known| known.name.as_bytes() == kind.as_bytes())
            .ok_or_else(|| Refusal::UnknownExchangeType(kind.clone()))
    }

    /// The routes of a new exchange.
    ///
    /// # Errors
    /// The type is not known, or does not take the arguments.
    pub fn make(&self, options: &ExchangeOptions) -> Made {
        (self.find(&options.kind)?.make)(&options.arguments, self)
    }
}

/// Where a binding leads: a slot of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A queue.
    Queue(u32),
    /// An exchange.
    Exchange(u32),
}

/// A binding as an exchange type sees it.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// Its number, unique while it exists.
    pub id: u32,
    /// Where it leads.
    pub destination: Destination,
    /// Key, arguments, names.
    pub entry: &'a BindingEntry,
}

/// The bindings of one exchange and how messages match them.
pub trait ExchangeType: Send {
    /// Checks a binding before it is made.
    ///
    /// # Errors
    /// The key or the arguments are not acceptable.
    fn check(&self, _binding: &BindingEntry) -> Result<(), Refusal> {
        Ok(())
    }

    /// Takes in a binding and returns the place where it lies, if that means anything here. Different bindings may have
    /// the same key and destination.
    fn bind(&mut self, binding: &Binding<'_>) -> u32;

    /// Lets go of a binding that was taken in, at the place that [`ExchangeType::bind`] returned.
    fn unbind(&mut self, binding: &Binding<'_>, place: u32);

    /// Appends the destinations of a message with routing key `key`; any may come more than once.
    fn route(&self, key: &[u8], message: &Routable<'_>, scratch: &mut Scratch, found: &mut Vec<Destination>);

    /// Whether messages of the same routing key always go the same way.
    fn is_by_key_alone(&self) -> bool {
        true
    }

    /// Whether bindings match on the routing key, so that each of several keys counts.
    fn matches_keys(&self) -> bool {
        false
    }

    /// Whether a message may have to be held back before it is routed.
    fn is_delaying(&self) -> bool {
        false
    }

    /// The key as AMQP 0-10 knows a binding by it: the same for all keys that mean the same here.
    fn normal_key(&self, key: &Name) -> Name {
        key.clone()
    }

    /// Whether a key names a binding and the arguments say what it matches, so that a key says it once for a queue.
    fn is_matching_arguments(&self) -> bool {
        false
    }

    /// Whether somebody who looks for a binding with `arguments` means this one.
    fn is_described(&self, _binding: &BindingEntry, _arguments: &Table) -> bool {
        true
    }

    /// Whether a binding ends all others with its key.
    fn is_exclusive(&self, _binding: &BindingEntry) -> bool {
        false
    }

    /// Where the bindings with exactly this key lead, if that is at hand.
    fn destinations(&self, _key: &[u8]) -> Option<&[Destination]> {
        None
    }
}

/// Whether an option is there and is not said to be off.
pub(crate) fn is_set(arguments: &Table, option: &str) -> bool {
    arguments
        .get(option.as_bytes())
        .is_some_and(|value| *value != Value::Bool(false) && value.as_i64() != Some(0))
}

/// Kept between messages so that routing allocates nothing.
#[derive(Default)]
pub struct Scratch {
    topic: topic::TopicScratch,
}

/// Destinations in order, each as often as it was put in. One alone, by far the most frequent, takes no memory of its
/// own.
#[derive(Default)]
enum Destinations {
    #[default]
    None,
    One(Destination),
    Many(Vec<Destination>),
}

impl Destinations {
    fn as_slice(&self) -> &[Destination] {
        match self {
            Destinations::None => &[],
            Destinations::One(destination) => std::slice::from_ref(destination),
            Destinations::Many(destinations) => destinations,
        }
    }

    fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    fn insert(&mut self, destination: Destination) {
        match self {
            Destinations::None => *self = Destinations::One(destination),
            Destinations::One(other) => {
                let (first, second) = (destination.min(*other), destination.max(*other));
                *self = Destinations::Many(vec![first, second]);
            }
            Destinations::Many(destinations) => {
                let place = destinations.partition_point(|other| *other < destination);
                destinations.insert(place, destination);
            }
        }
    }

    fn remove(&mut self, destination: Destination) {
        let place = self.as_slice().binary_search(&destination).expect("a removed destination was put in");
        match self {
            Destinations::Many(destinations) if destinations.len() > 1 => drop(destinations.remove(place)),
            _ => *self = Destinations::None,
        }
    }
}

/// Items by the number of their binding, side by side; an order that depends only on what was done before.
struct Listed<T> {
    items: Vec<(u32, T)>,
    places: Map<u32, u32>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed { items: Vec::new(), places: Map::default() }
    }
}

impl<T> Listed<T> {
    fn insert(&mut self, binding: u32, item: T) {
        self.places.insert(binding, self.items.len() as u32);
        self.items.push((binding, item));
    }

    fn remove(&mut self, binding: u32) {
        let place = self.places.remove(&binding).expect("a removed binding was put in");
        self.items.swap_remove(place as usize);
        if let Some((moved, _)) = self.items.get(place as usize) {
            self.places.insert(*moved, place);
        }
    }

    fn items(&self) -> impl ExactSizeIterator<Item = &T> {
        self.items.iter().map(|(_, item)| item)
    }
}
