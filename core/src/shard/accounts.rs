//! What is under way from this shard to each connection, in bytes, and who waits for room.

use slab::Slab;

use crate::hash::Map;
use crate::queue::ConsumerKey;
use crate::{ConnectionId, QueueId};

struct Account {
    connection: ConnectionId,
    under_way_bytes: u64,
    consumers: u32,
    /// Consumers that left their queue's ring when the account was full.
    parked: Vec<(QueueId, ConsumerKey)>,
}

/// The accounts of the connections that consume from queues at home here.
pub(super) struct Accounts {
    accounts: Slab<Account>,
    by_connection: Map<ConnectionId, u32>,
    window_bytes: u64,
}

impl Accounts {
    pub(super) fn new(window_bytes: u32) -> Self {
        Accounts {
            accounts: Slab::new(),
            by_connection: Map::default(),
            window_bytes: u64::from(window_bytes.max(1)),
        }
    }

    /// The account of a connection that starts one more consumer.
    pub(super) fn join(&mut self, connection: ConnectionId) -> u32 {
        let accounts = &mut self.accounts;
        let index = *self.by_connection.entry(connection).or_insert_with(|| {
            let account = Account { connection, under_way_bytes: 0, consumers: 0, parked: Vec::new() };
            accounts.insert(account) as u32
        });
        self.accounts[index as usize].consumers += 1;
        index
    }

    /// One consumer less.
    pub(super) fn leave(&mut self, index: u32) {
        self.accounts[index as usize].consumers -= 1;
        self.drop_if_unused(index);
    }

    /// Notes that this many bytes are sent, and says to whom; `None` if no more may be sent now.
    #[inline]
    pub(super) fn charge(&mut self, index: u32, bytes: usize) -> Option<ConnectionId> {
        let account = &mut self.accounts[index as usize];
        if account.under_way_bytes >= self.window_bytes {
            return None;
        }
        account.under_way_bytes += bytes as u64;
        Some(account.connection)
    }

    /// Whose account it is.
    pub(super) fn connection(&self, index: u32) -> ConnectionId {
        self.accounts[index as usize].connection
    }

    /// How many bytes may be begun now: one message may go beyond.
    #[inline]
    pub(super) fn room_bytes(&self, index: u32) -> u64 {
        self.window_bytes.saturating_sub(self.accounts[index as usize].under_way_bytes)
    }

    /// Notes that this many bytes are sent.
    #[inline]
    pub(super) fn add(&mut self, index: u32, bytes: u64) {
        self.accounts[index as usize].under_way_bytes += bytes;
    }

    /// Notes a consumer to be told when the account opens.
    pub(super) fn park(&mut self, index: u32, queue: QueueId, key: ConsumerKey) {
        self.accounts[index as usize].parked.push((queue, key));
    }

    /// Notes that the connection has taken this many bytes. Moves those who wait for that to `opened`.
    pub(super) fn credit(
        &mut self,
        connection: ConnectionId,
        bytes: u64,
        opened: &mut Vec<(QueueId, ConsumerKey)>,
    ) {
        let Some(&index) = self.by_connection.get(&connection) else { return };
        let account = &mut self.accounts[index as usize];
        account.under_way_bytes = account.under_way_bytes.saturating_sub(bytes);
        // Half a window of room, so that a full connection is not woken for each message.
        if account.under_way_bytes <= self.window_bytes / 2 {
            opened.append(&mut account.parked);
        }
        self.drop_if_unused(index);
    }

    /// The connection is gone; nothing under way will be accounted for.
    pub(super) fn close(&mut self, connection: ConnectionId) {
        if let Some(&index) = self.by_connection.get(&connection) {
            self.accounts[index as usize].under_way_bytes = 0;
            self.drop_if_unused(index);
        }
    }

    fn drop_if_unused(&mut self, index: u32) {
        let account = &self.accounts[index as usize];
        if account.consumers == 0 && account.under_way_bytes == 0 {
            self.by_connection.remove(&account.connection);
            self.accounts.remove(index as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShardId;

    #[test]
    fn an_account_lives_while_consumers_or_bytes_are_left() {
        let mut accounts = Accounts::new(100);
        let connection = ConnectionId { shard: ShardId(0), index: 0, generation: 0 };
        let index = accounts.join(connection);
        assert_eq!(accounts.charge(index, 120), Some(connection));
        assert_eq!(accounts.charge(index, 1), None);
        accounts.leave(index);
        assert_eq!(accounts.accounts.len(), 1);
        accounts.credit(connection, 120, &mut Vec::new());
        assert_eq!(accounts.accounts.len(), 0);
    }
}
