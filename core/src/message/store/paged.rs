//! Messages that leave memory and come back: who holds their records meanwhile.
//!
//! A record is held by the message in memory that has it, and by each part of a queue that is out of memory and has it.
//! It is given up when the last of them goes. Most records have one holder all the time, of which nothing is noted.

use super::{Message, MessageStore};
use crate::MessageId;
use crate::ids::ClientId;
use crate::journal::{Position, StoredMessage};

/// What a message takes besides its buffer, about, in bytes: its entry, its place in a queue, the allocator's share.
const OVERHEAD_BYTES: u64 = 128;

impl MessageStore {
    /// The memory that messages take, about, in bytes.
    #[inline]
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.held_bytes + u64::from(self.live) * OVERHEAD_BYTES
    }

    /// Messages of a batch, or one alone, that can be read at their record leave memory: as many references less, and one
    /// more holder of the record.
    pub(crate) fn page_out(&mut self, id: MessageId, messages: u32) {
        let entry = &mut self.entries[id.slot as usize];
        let position = entry.position;
        debug_assert!(position.is_some(), "what leaves memory is written down");
        if entry.references == messages {
            // The record stays with who holds it now.
            entry.position = Position::NONE;
        } else {
            *self.holders.entry(position).or_insert(1) += 1;
        }
        self.release_many(id, messages);
    }

    /// Messages of a batch, or one alone, that were read again, with their record, and a reference for each. `None`: they
    /// are not in what was read.
    pub(crate) fn read_back(
        &mut self,
        read: &StoredMessage<'_>,
        first: u16,
        messages: u16,
        position: Position,
    ) -> Option<MessageId> {
        let body_bytes = read.bodies.len() / usize::from(read.messages.max(1));
        let from = usize::from(first) * body_bytes;
        let bodies = read.bodies.get(from..from + usize::from(messages) * body_bytes)?;
        if first + messages > read.messages {
            return None;
        }
        let body_at = read.exchange.len() + read.routing_key.len() + read.properties.len();
        let mut bytes = self.buffer(body_at + bodies.len());
        bytes.extend_from_slice(read.exchange);
        bytes.extend_from_slice(read.routing_key);
        bytes.extend_from_slice(read.properties);
        bytes.extend_from_slice(bodies);
        let message = Message {
            encoding: read.encoding,
            bytes,
            exchange_bytes: super::exchange_bytes(read.exchange),
            key_bytes: super::key_bytes(read.routing_key),
            // Nobody writes down who published it.
            publisher_shard: ClientId::NOBODY.shard,
            publisher: ClientId::NOBODY.number,
            body_at: super::offset(body_at),
            body_bytes: super::offset(body_bytes),
            ttl_ms: super::stored_ttl(read.ttl_ms),
            origin: self.shard,
            priority: read.priority,
            has_headers: read.has_headers,
            persistent: read.persistent,
        };
        let id = self.insert(message);
        self.entries[id.slot as usize].position = position;
        Some(id)
    }

    /// A restart has found one more holder of a record that may have several.
    pub(crate) fn add_holder(&mut self, position: Position) {
        *self.holders.entry(position).or_insert(0) += 1;
    }

    /// One holder of a record is gone, which has about so many bytes.
    #[inline]
    pub(crate) fn drop_holder(&mut self, position: Position, bytes: usize) {
        if self.holders.is_empty() || self.is_last_holder(position) {
            self.retired.push((position, bytes));
        }
    }

    /// One holder of a record has it elsewhere now.
    pub(crate) fn move_holder(&mut self, old: Position, new: Position) {
        if self.holders.contains_key(&old) {
            self.is_last_holder(old);
            *self.holders.entry(new).or_insert(0) += 1;
        }
    }

    /// Counts a holder out. Whether there is none left.
    fn is_last_holder(&mut self, position: Position) -> bool {
        let Some(holders) = self.holders.get_mut(&position) else { return true };
        *holders -= 1;
        if *holders > 0 {
            return false;
        }
        self.holders.remove(&position);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageHeader;
    use crate::test_support::Plain;
    use crate::{Limits, ShardId};

    const AT: Position = Position(7);

    fn store() -> MessageStore {
        MessageStore::new(ShardId(0), &Limits::default())
    }

    fn message(store: &mut MessageStore) -> MessageId {
        let header = MessageHeader {
            encoding: &Plain,
            exchange: b"x",
            routing_key: b"key",
            properties: b"",
            body_bytes: 4,
            priority: 3,
            ttl_ms: Some(5),
            persistent: true,
            has_headers: false,
        };
        store.begin_with(&header, b"body")
    }

    #[test]
    fn a_message_comes_back_as_it_was_and_gives_its_record_up_at_its_end() {
        let mut store = store();
        let id = message(&mut store);
        store.set_position(id, AT);
        let copy = store.copy(id);
        store.page_out(id, 1);
        assert_eq!((store.live(), store.pop_retired()), (0, None));
        let back = store.read_back(&copy.to_store(), 0, 1, AT).unwrap();
        let content = store.get(back);
        assert_eq!((content.ttl_ms(), content.priority(), content.is_persistent()), (Some(5), 3, true));
        assert_eq!((content.view().exchange, content.view().body), (&b"x"[..], &b"body"[..]));
        assert!(store.read_back(&copy.to_store(), 0, 2, AT).is_none());
        store.release(back);
        assert_eq!(store.pop_retired(), Some((AT, 8)));
    }

    #[test]
    fn a_record_is_given_up_by_the_last_of_its_holders_wherever_it_is() {
        let mut store = store();
        let id = message(&mut store);
        store.retain_many(id, 2);
        store.set_position(id, AT);
        // Out of memory in two queues, and in memory in a third one.
        store.page_out(id, 1);
        store.page_out(id, 1);
        store.drop_holder(AT, 8);
        assert_eq!(store.pop_retired(), None);
        let new = Position(9);
        store.move_holder(AT, new);
        store.set_position(id, new);
        store.move_holder(AT, new);
        store.release(id);
        assert_eq!(store.pop_retired(), None);
        store.drop_holder(new, 8);
        assert_eq!((store.pop_retired(), store.pop_retired()), (Some((new, 8)), None));
        assert!(store.holders.is_empty());
        store.add_holder(AT);
        store.add_holder(AT);
        store.drop_holder(AT, 1);
        assert_eq!(store.pop_retired(), None);
        store.drop_holder(AT, 1);
        assert_eq!(store.pop_retired(), Some((AT, 1)));
    }
}
