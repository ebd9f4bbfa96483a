//! On which shard the sessions live that outlive their connections: a client that comes back finds its session wherever
//! the network has put it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fulmar_core::{Name, ShardId};

/// A book that all shards of a broker share; clones are the same one. It is opened when a session is attached, and when
/// one is to outlive its connection or no longer is; never for a message.
#[derive(Clone, Default)]
pub struct Whereabouts(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    /// Where each lives, and the number of its entry.
    entries: HashMap<Name, (ShardId, u64)>,
    next: u64,
}

/// A session's place in the book, which it gives up when it is dropped.
pub struct Entry {
    book: Whereabouts,
    name: Name,
    number: u64,
}

impl Whereabouts {
    /// Where the session of that name lives, if it is here.
    pub fn shard_of(&self, name: &Name) -> Option<ShardId> {
        self.open().entries.get(name).map(|&(shard, _)| shard)
    }

    /// Enters a session that lives on a shard. It takes the place of another of that name on that shard, which has lost
    /// it. `None`: there is one of that name on another shard.
    pub fn enter(&self, name: &Name, shard: ShardId) -> Option<Entry> {
        let mut book = self.open();
        if book.entries.get(name).is_some_and(|&(other, _)| other != shard) {
            return None;
        }
        book.next += 1;
        let number = book.next;
        book.entries.insert(name.clone(), (shard, number));
        Some(Entry { book: self.clone(), name: name.clone(), number })
    }

    /// How many sessions are in it.
    pub fn len(&self) -> usize {
        self.open().entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn open(&self) -> MutexGuard<'_, Book> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut book = self.book.open();
        if book.entries.get(&self.name).is_some_and(|&(_, number)| number == self.number) {
            book.entries.remove(&self.name);
        }
    }
}

impl fmt::Debug for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Whereabouts").field("sessions", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ShardId = ShardId(0);
    const THERE: ShardId = ShardId(1);

    #[test]
    fn a_name_is_in_the_book_once_and_for_as_long_as_its_session() {
        let book = Whereabouts::default();
        let name = Name::from("ann");
        let entry = book.enter(&name, THERE).unwrap();
        assert!(book.clone().enter(&name, HERE).is_none());
        assert_eq!(book.shard_of(&name), Some(THERE));
        assert_eq!(book.shard_of(&Name::from("bob")), None);
        drop(entry);
        assert!(book.is_empty());
        let _entry = book.enter(&name, HERE).unwrap();
        assert_eq!(book.shard_of(&name), Some(HERE));
    }

    #[test]
    fn who_has_lost_the_name_does_not_take_the_entry_with_it() {
        let book = Whereabouts::default();
        let name = Name::from("ann");
        let lost = book.enter(&name, HERE).unwrap();
        let taken = book.enter(&name, HERE).unwrap();
        drop(lost);
        assert_eq!(book.shard_of(&name), Some(HERE));
        drop(taken);
        assert_eq!(book.shard_of(&name), None);
    }
}
