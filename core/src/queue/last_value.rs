//! Last-value queues: of the messages with one key, the last one stays.
//!
//! A key is the value of a header; messages without the header have one key in common. Here is known which message has
//! which key, from its coming until it is gone for good, be it waiting or in a client's hands meanwhile.

use crate::Name;
use crate::hash::Map;

/// Where in its queue a message is: level of priority, place.
pub(crate) type Position = (u8, u64);

/// The keys of one queue.
pub(crate) struct LastValue {
    header: Name,
    by_key: Map<Name, Position>,
    /// The keys by the messages' places.
    keys: Map<u64, Name>,
}

impl LastValue {
    /// Keys are in this header.
    pub(crate) fn new(header: Name) -> Self {
        LastValue { header, by_key: Map::default(), keys: Map::default() }
    }

    /// The header.
    pub(crate) fn header(&self) -> &Name {
        &self.header
    }

    /// A message of that key came. Gives the position of the one that it takes the place of.
    pub(crate) fn enqueued(&mut self, key: Name, position: Position) -> Option<Position> {
        self.keys.insert(position.1, key.clone());
        self.by_key.insert(key, position)
    }

    /// A message of that key is there again after a restart, in no order. Gives the position of the one that is not the
    /// last of its key.
    pub(crate) fn restored(&mut self, key: Name, position: Position) -> Option<Position> {
        let newer = self.by_key.get(key.as_bytes()).copied().filter(|newer| newer.1 > position.1);
        if newer.is_some() {
            self.keys.insert(position.1, key);
            return Some(position);
        }
        self.enqueued(key, position)
    }

    /// The message at a place is gone.
    pub(crate) fn gone(&mut self, sequence: u64) {
        let Some(key) = self.keys.remove(&sequence) else { return };
        if self.by_key.get(key.as_bytes()).is_some_and(|&(_, last)| last == sequence) {
            self.by_key.remove(key.as_bytes());
        }
    }

    /// How many keys there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_until_its_last_message_is_gone() {
        let mut keys = LastValue::new("key".into());
        assert_eq!(keys.enqueued("a".into(), (0, 1)), None);
        assert_eq!(keys.enqueued("b".into(), (0, 2)), None);
        assert_eq!(keys.enqueued("a".into(), (0, 3)), Some((0, 1)));
        keys.gone(1);
        assert_eq!(keys.enqueued("a".into(), (0, 4)), Some((0, 3)));
        keys.gone(3);
        keys.gone(4);
        keys.gone(4);
        assert_eq!(keys.enqueued("a".into(), (0, 5)), None);
        keys.gone(5);
        keys.gone(2);
        assert_eq!((keys.len(), keys.keys.len()), (0, 0));
    }
}
