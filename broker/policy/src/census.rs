//! How many connections there are, by address and by user, so that nobody takes them all. Counted when connections come
//! and go; a place is given back when it is dropped.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// Connections from an address.
    Address(IpAddr),
    /// Connections of a user.
    User(String),
}

/// Counts connections.
#[derive(Debug, Default)]
pub struct Census {
    counts: Mutex<HashMap<Party, u32>>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    census: Arc<Census>,
    party: Party,
}

impl Census {
    /// One more, if there are fewer than `most`. 0: any number.
    pub fn enter(self: &Arc<Self>, party: Party, most: u32) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(party.clone()).or_insert(0);
        if most != 0 && *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { census: self.clone(), party })
    }

    /// How many there are.
    pub fn count(&self, party: &Party) -> u32 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(party).copied().unwrap_or(0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.census.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = counts.entry(self.party.clone()) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let census = Arc::new(Census::default());
        let ann = || Party::User("ann".into());
        let (first, second) = (census.enter(ann(), 2).unwrap(), census.enter(ann(), 2).unwrap());
        assert!(census.enter(ann(), 2).is_none());
        assert!(census.enter(Party::User("bob".into()), 2).is_some(), "others are counted apart");
        drop(first);
        assert!(census.enter(ann(), 2).is_some());
        drop(second);
        assert_eq!(census.count(&ann()), 0);
        assert!(census.counts.lock().unwrap().is_empty(), "nothing is left of who is gone");
        let many: Vec<_> = (0..100).map(|_| census.enter(ann(), 0).unwrap()).collect();
        assert_eq!(census.count(&ann()), many.len() as u32);
    }
}
