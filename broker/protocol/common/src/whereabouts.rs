//! On which shard the sessions live that outlive their connections: a client that comes back finds its session wherever
//! the network has put it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fulmar_core::{Name, ShardId};

/// Most sessions of a user in the book: each may hold messages that it would have to send again.
const MOST_OF_A_USER: u32 = 1000;

/// A book that all shards of a broker share; clones are the same one. It is opened when a session is attached, and when
/// one is to outlive its connection or no longer is; never for a message.
#[derive(Clone, Default)]
pub struct Whereabouts(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    /// Where each lives, and the number of its entry.
    entries: HashMap<Name, (ShardId, u64)>,
    /// How many are of each user.
    counts: HashMap<String, u32>,
    next: u64,
}

/// A session's place in the book, which it gives up when it is dropped.
pub struct Entry {
    book: Whereabouts,
    user: String,
    name: Name,
    number: u64,
}

impl Whereabouts {
    /// Where the session of that name lives, if it is here.
    pub fn shard_of(&self, name: &Name) -> Option<ShardId> {
        self.open().entries.get(name).map(|&(shard, _)| shard)
    }

    /// Enters a user's session that lives on a shard. It takes the place of another of that name on that shard, which has
    /// lost it. `None`: there is one of that name on another shard, or there are too many of that user.
    pub fn enter(&self, user: &str, name: &Name, shard: ShardId) -> Option<Entry> {
        let mut book = self.open();
        match book.entries.get(name) {
            Some(&(other, _)) if other != shard => return None,
            Some(_) => {}
            None => {
                let count = book.counts.entry(user.to_owned()).or_insert(0);
                if *count >= MOST_OF_A_USER {
                    return None;
                }
                *count += 1;
            }
        }
        book.next += 1;
        let number = book.next;
        book.entries.insert(name.clone(), (shard, number));
        Some(Entry { book: self.clone(), user: user.to_owned(), name: name.clone(), number })
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
            if let Some(count) = book.counts.get_mut(&self.user) {
                *count -= 1;
                if *count == 0 {
                    book.counts.remove(&self.user);
                }
            }
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
        let entry = book.enter("ann", &name, THERE).unwrap();
        assert!(book.clone().enter("ann", &name, HERE).is_none());
        assert_eq!(book.shard_of(&name), Some(THERE));
        assert_eq!(book.shard_of(&Name::from("bob")), None);
        drop(entry);
        assert!(book.is_empty());
        let _entry = book.enter("ann", &name, HERE).unwrap();
        assert_eq!(book.shard_of(&name), Some(HERE));
    }

    #[test]
    fn who_has_lost_the_name_does_not_take_the_entry_with_it() {
        let book = Whereabouts::default();
        let name = Name::from("ann");
        let lost = book.enter("ann", &name, HERE).unwrap();
        let taken = book.enter("ann", &name, HERE).unwrap();
        drop(lost);
        assert_eq!(book.shard_of(&name), Some(HERE));
        drop(taken);
        assert_eq!(book.shard_of(&name), None);
    }

    #[test]
    fn a_user_has_so_many_and_others_have_theirs() {
        let book = Whereabouts::default();
        let name = |number: u32| Name::from(format!("session {number}").as_str());
        let mut entries: Vec<Entry> =
            (0..MOST_OF_A_USER).map(|number| book.enter("ann", &name(number), HERE).unwrap()).collect();
        assert!(book.enter("ann", &name(MOST_OF_A_USER), HERE).is_none());
        let again = book.enter("ann", &name(7), HERE);
        assert!(again.is_some(), "one that is there already");
        assert!(book.enter("bob", &Name::from("other"), HERE).is_some());
        entries.truncate(3);
        drop(again);
        assert_eq!((book.len(), book.open().counts.get("ann").copied()), (3, Some(3)));
        drop(entries);
        assert!(book.is_empty() && book.open().counts.is_empty());
    }
}
