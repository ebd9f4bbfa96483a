//! One queue: ordering, limits, consumers.
//!
//! Owned by the queue's home shard. A queue is a composition: `ready` orders what waits, `consumers` says whose
//! turn it is, `unsettled` keeps what clients hold; this file joins them with the limits. It holds handles of
//! messages and leaves their counting, delivering and dead-lettering to the shard.

mod consumers;
#[cfg(test)]
mod model_tests;
mod ready;
mod unsettled;

use std::sync::Arc;

pub(crate) use consumers::{Consumer, Consumers};
pub(crate) use ready::{Item, NEVER_NS, Ready};
pub(crate) use unsettled::{ConsumerKey, Unsettled, UnsettledTable, is_fetched};

use crate::request::{Overflow, QueueOptions};
use crate::topology::QueueEntry;
use crate::{MessageId, QueueId};

const NS_PER_MS: u64 = 1_000_000;

/// One queue at its home.
pub(crate) struct Queue {
    id: QueueId,
    entry: Arc<QueueEntry>,
    ready: Ready,
    unsettled: UnsettledTable,
    pub(crate) consumers: Consumers,
    next_sequence: u64,
    max_length: usize,
    max_length_bytes: u64,
    message_ttl_ms: Option<u64>,
    /// Standing in the shard's line of queues with something to do.
    pub(crate) scheduled: bool,
    /// The earliest deadline set for messages that expire, or [`NEVER_NS`].
    pub(crate) expiry_timer_ns: u64,
    /// Since when nobody has used it; what counts for `x-expires`.
    pub(crate) unused_since_ns: u64,
    /// A timer for that is set.
    pub(crate) unused_timer: bool,
    had_consumers: bool,
}

impl Queue {
    pub(crate) fn new(entry: Arc<QueueEntry>, now_ns: u64) -> Self {
        let options = &entry.options;
        Queue {
            id: entry.id,
            ready: Ready::new(options.max_priority.unwrap_or(0)),
            unsettled: UnsettledTable::new(),
            consumers: Consumers::new(options.single_active_consumer),
            next_sequence: 0,
            max_length: options.max_length.map_or(usize::MAX, |most| most.try_into().unwrap_or(usize::MAX)),
            max_length_bytes: options.max_length_bytes.unwrap_or(u64::MAX),
            message_ttl_ms: options.message_ttl_ms,
            scheduled: false,
            expiry_timer_ns: NEVER_NS,
            unused_since_ns: now_ns,
            unused_timer: false,
            had_consumers: false,
            entry,
        }
    }

    pub(crate) fn id(&self) -> QueueId {
        self.id
    }

    pub(crate) fn entry(&self) -> &Arc<QueueEntry> {
        &self.entry
    }

    pub(crate) fn options(&self) -> &QueueOptions {
        &self.entry.options
    }

    /// Messages that wait.
    pub(crate) fn ready_messages(&self) -> usize {
        self.ready.len()
    }

    /// Messages in clients' hands.
    pub(crate) fn unsettled_messages(&self) -> usize {
        self.unsettled.len()
    }

    /// Appends a message, with so many of its batch that follow it.
    #[inline]
    pub(crate) fn push(
        &mut self,
        message: MessageId,
        followers: u16,
        body_bytes: usize,
        priority: u8,
        ttl_ms: Option<u64>,
        now_ns: u64,
    ) {
        let item = Item {
            sequence: self.next_sequence,
            expires_ns: self.expires_ns(ttl_ms, now_ns),
            message,
            followers,
            body_bytes: u32::try_from(body_bytes).unwrap_or(u32::MAX),
            priority: priority.min(self.ready.max_priority()),
            redelivered: false,
        };
        self.next_sequence += item.messages() as u64;
        self.ready.push(item);
    }

    /// Whether there is a limit to what it holds.
    pub(crate) fn is_bounded(&self) -> bool {
        self.max_length != usize::MAX || self.max_length_bytes != u64::MAX
    }

    /// Whether anything in it expires at some time.
    pub(crate) fn may_expire(&self) -> bool {
        self.ready.may_expire()
    }

    /// When it ends if nobody uses it until then; `None` while it is used or may stay.
    pub(crate) fn unused_deadline_ns(&self) -> Option<u64> {
        if !self.consumers.is_empty() {
            return None;
        }
        let expires_ns = self.options().expires_ms?.saturating_mul(NS_PER_MS);
        Some(self.unused_since_ns.saturating_add(expires_ns))
    }

    /// Whether it holds more than it may.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.ready.len() > self.max_length || self.ready.body_bytes() > self.max_length_bytes
    }

    /// Whether it refuses a message of this size.
    pub(crate) fn refuses(&self, body_bytes: usize) -> bool {
        self.options().overflow != Overflow::DropHead
            && (self.ready.len() >= self.max_length
                || self.ready.body_bytes() + body_bytes as u64 > self.max_length_bytes)
    }

    /// Takes the head.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Item> {
        self.ready.pop()
    }

    /// Takes the head, with others of its batch where that is as good, at most `most` in all.
    #[inline]
    pub(crate) fn pop_batch(&mut self, most: u16) -> Option<Item> {
        self.ready.pop_batch(most)
    }

    /// The head.
    pub(crate) fn peek(&self) -> Option<&Item> {
        self.ready.peek()
    }

    /// Takes a head that has expired.
    pub(crate) fn pop_expired(&mut self, now_ns: u64) -> Option<Item> {
        self.ready.pop_expired(now_ns)
    }

    /// When the next head expires.
    pub(crate) fn next_expiry_ns(&self) -> Option<u64> {
        self.ready.next_expiry_ns()
    }

    /// Notes that a message is in a client's hands; returns its tag.
    pub(crate) fn hand_out(&mut self, item: Item, consumer: Option<ConsumerKey>) -> u64 {
        self.unsettled.insert(Unsettled { item, consumer })
    }

    /// Takes a message out of a client's hands. The flag: a consumer can take messages again.
    pub(crate) fn take_back(&mut self, tag: u64) -> Option<(Item, bool)> {
        let held = self.unsettled.remove(tag)?;
        let able = held.consumer.is_some_and(|key| self.consumers.settled(key));
        Some((held.item, able))
    }

    /// Puts a message back to its place.
    pub(crate) fn requeue(&mut self, item: Item) {
        self.ready.put_back(item);
    }

    /// Takes everything that waits.
    pub(crate) fn take_ready(&mut self) -> Ready {
        let empty = Ready::new(self.ready.max_priority());
        std::mem::replace(&mut self.ready, empty)
    }

    /// Takes everything that clients hold.
    pub(crate) fn take_unsettled(&mut self) -> UnsettledTable {
        std::mem::replace(&mut self.unsettled, UnsettledTable::new())
    }

    pub(crate) fn subscribe(&mut self, consumer: Consumer) {
        self.had_consumers = true;
        self.consumers.add(consumer);
    }

    /// Whether it has lost its last consumer and should go with it.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.options().auto_delete && self.had_consumers && self.consumers.is_empty()
    }

    /// Whether somebody is there and something to give.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty() && self.consumers.next().is_some()
    }

    #[inline]
    fn expires_ns(&self, ttl_ms: Option<u64>, now_ns: u64) -> u64 {
        match (ttl_ms, self.message_ttl_ms) {
            (None, None) => NEVER_NS,
            (a, b) => {
                let ms = a.unwrap_or(u64::MAX).min(b.unwrap_or(u64::MAX));
                now_ns.saturating_add(ms.saturating_mul(NS_PER_MS))
            }
        }
    }
}
