//! All bindings, to be found by identity, by source and by destination; each is added and removed in constant time.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use super::BindingEntry;
use crate::exchange::Destination;
use crate::{Name, Table};

/// The bindings, each on the list of its source, on that of its destination, and on that of those that differ from it in
/// their arguments alone.
#[derive(Default)]
pub(super) struct Bindings {
    nodes: Slab<Node>,
    by_identity: HashTable<u32>,
    /// Heads of the lists of bindings with the same source, destination and key.
    by_key: HashTable<u32>,
    /// Heads of the lists of bindings from each exchange slot.
    from: Vec<List>,
    /// Heads of the lists of bindings to each exchange slot.
    to_exchange: Vec<List>,
    /// Heads of the lists of bindings to each queue slot.
    to_queue: Vec<List>,
}

/// A binding and where its ends lie.
pub(super) struct Bound {
    pub(super) entry: Arc<BindingEntry>,
    pub(super) source: u32,
    pub(super) destination: Destination,
    /// Where the source's routes have it.
    pub(super) place: u32,
}

struct Node {
    bound: Bound,
    hash: u64,
    key_hash: u64,
    /// Neighbours on the list of each [`Side`].
    links: [Link; 3],
}

#[derive(Clone, Copy, Default)]
struct Link {
    previous: Option<u32>,
    next: Option<u32>,
}

#[derive(Clone, Copy, Default)]
struct List {
    first: Option<u32>,
    len: u32,
}

#[derive(Clone, Copy)]
enum Side {
    Source = 0,
    Destination = 1,
    Key = 2,
}

impl Bindings {
    /// Adds a binding that is not there yet.
    pub(super) fn insert(&mut self, entry: &Arc<BindingEntry>, source: u32, destination: Destination) -> u32 {
        let hash = identity_hash(source, destination, &entry.key, Some(&entry.arguments));
        let key_hash = identity_hash(source, destination, &entry.key, None);
        let bound = Bound { entry: entry.clone(), source, destination, place: 0 };
        let id = self.nodes.insert(Node { bound, hash, key_hash, links: [Link::default(); 3] }) as u32;
        self.by_identity.insert_unique(hash, id, |&other| self.nodes[other as usize].hash);
        self.attach(id, Side::Source);
        self.attach(id, Side::Destination);
        self.attach_by_key(id);
        id
    }

    /// The binding of that identity. `arguments` are sorted.
    pub(super) fn find(
        &self,
        source: u32,
        destination: Destination,
        key: &Name,
        arguments: &Table,
    ) -> Option<u32> {
        let hash = identity_hash(source, destination, key, Some(arguments));
        let same = |&id: &u32| {
            let bound = &self.nodes[id as usize].bound;
            bound.has_key(source, destination, key) && bound.entry.arguments == *arguments
        };
        self.by_identity.find(hash, same).copied()
    }

    /// The bindings of that source, destination and key, whatever their arguments; latest first.
    pub(super) fn with_key<'a>(
        &'a self,
        source: u32,
        destination: Destination,
        key: &Name,
    ) -> impl Iterator<Item = u32> + use<'a> {
        let hash = identity_hash(source, destination, key, None);
        let first =
            self.by_key.find(hash, |&id| self.nodes[id as usize].bound.has_key(source, destination, key));
        std::iter::successors(first.copied(), |&id| self.nodes[id as usize].links[Side::Key as usize].next)
    }

    /// Removes a binding that is there.
    pub(super) fn remove(&mut self, id: u32) -> Bound {
        self.detach(id, Side::Source);
        self.detach(id, Side::Destination);
        self.detach_by_key(id);
        let node = self.nodes.remove(id as usize);
        match self.by_identity.find_entry(node.hash, |&other| other == id) {
            Ok(found) => drop(found.remove()),
            Err(_) => unreachable!("every binding is in the table"),
        }
        node.bound
    }

    /// Notes where the source's routes have a binding.
    pub(super) fn set_place(&mut self, id: u32, place: u32) {
        self.nodes[id as usize].bound.place = place;
    }

    pub(super) fn entry(&self, id: u32) -> &Arc<BindingEntry> {
        &self.nodes[id as usize].bound.entry
    }

    /// The exchange slot that a binding comes from.
    pub(super) fn source(&self, id: u32) -> u32 {
        self.nodes[id as usize].bound.source
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<BindingEntry>> {
        self.nodes.iter().map(|(_, node)| &node.bound.entry)
    }

    /// The bindings from an exchange, latest first.
    pub(super) fn from(&self, source: u32) -> impl Iterator<Item = u32> {
        self.walk(self.from.get(source as usize), Side::Source)
    }

    /// How many bindings come from an exchange.
    pub(super) fn count_from(&self, source: u32) -> u32 {
        self.from.get(source as usize).map_or(0, |list| list.len)
    }

    /// The bindings to a queue or an exchange, latest first.
    pub(super) fn to(&self, destination: Destination) -> impl Iterator<Item = u32> {
        let list = match destination {
            Destination::Queue(slot) => self.to_queue.get(slot as usize),
            Destination::Exchange(slot) => self.to_exchange.get(slot as usize),
        };
        self.walk(list, Side::Destination)
    }

    fn walk(&self, list: Option<&List>, side: Side) -> impl Iterator<Item = u32> {
        let first = list.and_then(|list| list.first);
        std::iter::successors(first, move |&id| self.nodes[id as usize].links[side as usize].next)
    }

    fn attach(&mut self, id: u32, side: Side) {
        let list = self.list(id, side);
        let next = list.first.replace(id);
        list.len += 1;
        self.nodes[id as usize].links[side as usize] = Link { previous: None, next };
        if let Some(next) = next {
            self.nodes[next as usize].links[side as usize].previous = Some(id);
        }
    }

    fn detach(&mut self, id: u32, side: Side) {
        let Link { previous, next } = self.unlink(id, side);
        let list = self.list(id, side);
        list.len -= 1;
        if previous.is_none() {
            list.first = next;
        }
    }

    /// Joins the neighbours of a binding on one of its lists, and returns them.
    fn unlink(&mut self, id: u32, side: Side) -> Link {
        let Link { previous, next } = self.nodes[id as usize].links[side as usize];
        if let Some(previous) = previous {
            self.nodes[previous as usize].links[side as usize].next = next;
        }
        if let Some(next) = next {
            self.nodes[next as usize].links[side as usize].previous = previous;
        }
        Link { previous, next }
    }

    fn attach_by_key(&mut self, id: u32) {
        let node = &self.nodes[id as usize];
        let (hash, nodes) = (node.key_hash, &self.nodes);
        let found = self.by_key.find_mut(hash, |&other| nodes[other as usize].bound.is_alike(&node.bound));
        let next = match found {
            Some(head) => Some(std::mem::replace(head, id)),
            None => {
                self.by_key.insert_unique(hash, id, |&other| nodes[other as usize].key_hash);
                None
            }
        };
        self.nodes[id as usize].links[Side::Key as usize].next = next;
        if let Some(next) = next {
            self.nodes[next as usize].links[Side::Key as usize].previous = Some(id);
        }
    }

    fn detach_by_key(&mut self, id: u32) {
        let Link { previous, next } = self.unlink(id, Side::Key);
        if previous.is_some() {
            return;
        }
        match self.by_key.find_entry(self.nodes[id as usize].key_hash, |&head| head == id) {
            Ok(mut head) => match next {
                Some(next) => *head.get_mut() = next,
                None => drop(head.remove()),
            },
            Err(_) => unreachable!("the first of a list is its head"),
        }
    }

    fn list(&mut self, id: u32, side: Side) -> &mut List {
        let bound = &self.nodes[id as usize].bound;
        let (lists, slot) = match (side, bound.destination) {
            (Side::Source, _) => (&mut self.from, bound.source),
            (Side::Destination, Destination::Queue(slot)) => (&mut self.to_queue, slot),
            (Side::Destination, Destination::Exchange(slot)) => (&mut self.to_exchange, slot),
            (Side::Key, _) => unreachable!("lists by key have their heads in a table"),
        };
        let slot = slot as usize;
        if lists.len() <= slot {
            lists.resize(slot + 1, List::default());
        }
        &mut lists[slot]
    }
}

impl Bound {
    fn has_key(&self, source: u32, destination: Destination, key: &Name) -> bool {
        self.source == source && self.destination == destination && self.entry.key == *key
    }

    /// Whether all but the arguments are the same.
    fn is_alike(&self, other: &Bound) -> bool {
        self.has_key(other.source, other.destination, &other.entry.key)
    }
}

fn identity_hash(source: u32, destination: Destination, key: &Name, arguments: Option<&Table>) -> u64 {
    let mut hasher = crate::hash::Hashing::default().build_hasher();
    source.hash(&mut hasher);
    destination.hash(&mut hasher);
    key.hash(&mut hasher);
    arguments.hash(&mut hasher);
    hasher.finish()
}
