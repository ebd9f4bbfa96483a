//! One queue: ordering, limits, consumers.
//!
//! Owned by the queue's home shard. A queue is a composition: `ready` orders what waits, `consumers` says whose
//! turn it is, `unsettled` keeps what clients hold; this file joins them with the limits. It holds handles of
//! messages and leaves their counting, delivering and dead-lettering to the shard.

mod admission;
mod alerts;
mod consumers;
mod fairshare;
mod flow;
mod groups;
mod holding;
mod last_value;
mod level;
mod limit;
mod marks;
#[cfg(test)]
mod model_tests;
mod paged;
mod paging;
mod policy;
mod ready;
mod seek;
#[cfg(test)]
mod seek_tests;
mod unsettled;

use std::sync::Arc;

pub use alerts::Alert;
pub(crate) use consumers::{Consumer, Consumers};
use groups::{Groups, Owner};
use holding::Held;
pub(crate) use level::Look;
pub(crate) use limit::Admission;
pub use limit::Depth;
pub(crate) use marks::Mark;
use marks::Marks;
pub(crate) use paged::PagedItem;
use policy::Policy;
pub use policy::QueueCounters;
pub(crate) use ready::{Item, Kept, Leaving, NEVER_NS, Ready};
pub(crate) use seek::{Acquired, Found};
pub(crate) use unsettled::{
    ConsumerKey, Unsettled, UnsettledTable, browsed_place, counts_as_held, is_browsed, tag_to_browse,
};

use crate::ids::ClientId;
use crate::request::{Lifetime, Overflow, QueueOptions};
use crate::topology::QueueEntry;
use crate::{Limits, MessageId, QueueId};

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
    /// Messages of this priority are of the lowest level.
    lowest_priority: u8,
    /// While it holds fewer bytes, it takes whatever comes and nobody has to be told: always if it is plain.
    unwatched_bytes: u64,
    /// It looks at each message since it has limits of RabbitMQ's kinds.
    is_bounded: bool,
    policy: Option<Box<Policy>>,
    held: Option<Box<Held>>,
    /// The policy is told of each message that is handed out, comes back, or goes.
    is_watched: bool,
    /// What is to outlive the process is written down when it comes.
    is_recorded: bool,
    marks: Marks,
    /// What comes just now may have been in clients' hands before.
    is_repeating: bool,
    is_resident: bool,
    /// Most of it that should be in memory.
    share: Depth,
    /// Standing in the shard's line of queues with something to do.
    pub(crate) scheduled: bool,
    /// The earliest deadline set for messages that expire, or [`NEVER_NS`].
    pub(crate) expiry_timer_ns: u64,
    /// Since when nobody has used it; what counts for `x-expires`.
    pub(crate) unused_since_ns: u64,
    /// A timer for that is set.
    pub(crate) unused_timer: bool,
    /// When it ends if nobody uses it until then, of an auto-delete queue.
    pub(crate) auto_delete_ns: Option<u64>,
    /// It belongs to a connection that it outlives.
    is_owned: bool,
    /// Whose it is, if it wants nothing from its owner.
    owner: ClientId,
    /// It has had a consumer, or an owner that it outlives.
    was_used: bool,
    /// What it has agreed to take of transactions.
    promised: Depth,
}

impl Queue {
    pub(crate) fn new(entry: Arc<QueueEntry>, now_ns: u64) -> Self {
        let options = &entry.options;
        let counts_itself = !options.overflow.counts_unsettled();
        let is_bounded =
            counts_itself && (options.max_length.is_some() || options.max_length_bytes.is_some());
        Queue {
            id: entry.id,
            ready: Ready::new(options.max_priority.unwrap_or(0)).with_shares(options.fairshare.clone()),
            unsettled: UnsettledTable::new(),
            consumers: Consumers::new(options.single_active_consumer),
            next_sequence: 0,
            max_length: match options.max_length.filter(|_| counts_itself) {
                Some(most) => most.try_into().unwrap_or(usize::MAX),
                None => usize::MAX,
            },
            max_length_bytes: options.max_length_bytes.filter(|_| counts_itself).unwrap_or(u64::MAX),
            message_ttl_ms: options.message_ttl_ms,
            lowest_priority: options.lowest_priority,
            unwatched_bytes: if is_bounded || options.no_local || options.holds_back { 0 } else { u64::MAX },
            is_bounded,
            policy: None,
            held: Held::new(options),
            is_watched: false,
            is_recorded: false,
            is_repeating: false,
            marks: Marks::OPEN,
            is_resident: paging::is_resident(options),
            share: paging::share(options),
            scheduled: false,
            expiry_timer_ns: NEVER_NS,
            unused_since_ns: now_ns,
            unused_timer: false,
            auto_delete_ns: None,
            is_owned: options.outlives_owner && entry.owner.is_some(),
            owner: ClientId::NOBODY,
            was_used: false,
            promised: Depth::default(),
            entry,
        }
    }

    /// Gives a queue that is empty the policy that it is declared with.
    pub(crate) fn with_policy(mut self, limits: &Limits) -> Self {
        if let Some(policy) = Policy::new(self.options(), limits) {
            self.policy = Some(Box::new(policy));
        }
        self.note_watchers();
        self
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
        followers: u8,
        body_bytes: usize,
        priority: u8,
        ttl_ms: Option<u64>,
        now_ns: u64,
    ) {
        let item = self.item(message, followers, body_bytes, priority, ttl_ms, now_ns);
        self.append(item);
    }

    /// A message as it joins the queue.
    #[inline]
    fn item(
        &self,
        message: MessageId,
        followers: u8,
        body_bytes: usize,
        priority: u8,
        ttl_ms: Option<u64>,
        now_ns: u64,
    ) -> Item {
        Item {
            sequence: self.next_sequence,
            expires_ns: self.expires_ns(ttl_ms, now_ns),
            message,
            followers,
            body_bytes: u32::try_from(body_bytes).unwrap_or(u32::MAX),
            priority: self.level(priority),
            redelivered: self.is_repeating,
            recorded: false,
        }
    }

    #[inline]
    fn append(&mut self, item: Item) {
        self.next_sequence += item.messages() as u64;
        self.ready.push(item);
    }

    /// Whether it takes whatever comes, and nobody has to be told.
    #[inline]
    pub(crate) fn takes_all(&self) -> bool {
        self.ready.body_bytes() + self.unsettled.bytes() < self.unwatched_bytes
    }

    /// Whether somebody has to be told of each message that leaves it for good.
    #[inline]
    pub(crate) fn watches_leaving(&self) -> bool {
        self.is_watched
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
        let Depth { messages, bytes } = self.promised;
        matches!(self.options().overflow, Overflow::RejectPublish | Overflow::RejectPublishDeadLetter)
            && (self.ready.len() + messages as usize >= self.max_length
                || self.ready.body_bytes() + bytes + body_bytes as u64 > self.max_length_bytes)
    }

    /// Takes the head.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Item> {
        self.consumers.next_is_another();
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
        self.consumers.next_is_another();
        self.ready.pop_expired(now_ns)
    }

    /// When the next head expires, or the next message is due that is held back.
    pub(crate) fn next_expiry_ns(&self) -> Option<u64> {
        match &self.held {
            Some(held) => held.next_ns(),
            None => self.ready.next_expiry_ns(),
        }
    }

    /// Notes that a message is in a client's hands; returns its tag.
    #[inline]
    pub(crate) fn hand_out(&mut self, item: Item, consumer: Option<ConsumerKey>) -> u64 {
        let tag = self.unsettled.insert(Unsettled { item, consumer });
        if self.is_watched {
            self.note_handed_out(item, tag);
        }
        tag
    }

    /// A message in a client's hands.
    pub(crate) fn handed_out(&self, tag: u64) -> Option<&Item> {
        self.unsettled.get(tag)
    }

    /// Takes a message out of a client's hands. The flag: a consumer can take messages again.
    #[inline]
    pub(crate) fn take_back(&mut self, tag: u64) -> Option<(Item, bool)> {
        let held = self.unsettled.remove(tag)?;
        if self.is_watched {
            self.note_taken_back(held.item);
        }
        let able = held.consumer.is_some_and(|key| self.consumers.settled(key));
        Some((held.item, able))
    }

    /// Puts a message back to its place.
    pub(crate) fn requeue(&mut self, item: Item) {
        self.note_mark(item.sequence);
        self.consumers.look_back(item.priority, item.sequence);
        if let Some(groups) = self.groups_mut() {
            groups.requeued(item.sequence);
            self.look_at_freed();
        }
        self.consumers.next_is_another();
        self.ready.put_back(item);
    }

    /// Places where messages wait that were written down: first ones, and how many follow each other.
    pub(crate) fn recorded_runs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ready.recorded_runs()
    }

    /// The message at a place, be it in a client's hands; alone.
    pub(crate) fn item_at(&mut self, place: u64) -> Option<Item> {
        self.ready.at(place).and_then(Look::here).or_else(|| self.unsettled.at(place))
    }

    /// The place of the next message that comes.
    pub(crate) fn next_place(&self) -> u64 {
        self.next_sequence
    }

    /// Takes everything that waits.
    pub(crate) fn take_ready(&mut self) -> Ready {
        self.consumers.next_is_another();
        self.ready.take()
    }

    /// Takes everything that clients hold.
    pub(crate) fn take_unsettled(&mut self) -> UnsettledTable {
        std::mem::replace(&mut self.unsettled, UnsettledTable::new())
    }

    pub(crate) fn subscribe(&mut self, consumer: Consumer) {
        self.was_used = true;
        let seek = self.seek_for(&consumer);
        // A message of a higher priority is what comes next for one that has not enough credit for another.
        let is_watching = seek.is_some() || consumer.credit.is_some() && self.ready.max_priority() > 0;
        self.consumers.add(consumer, seek, is_watching);
        self.note_watchers();
    }

    pub(crate) fn unsubscribe(&mut self, key: ConsumerKey) -> Option<Consumer> {
        let consumer = self.consumers.remove(key);
        self.note_watchers();
        consumer
    }

    /// Somebody has to be told of what comes, or no longer.
    fn note_watchers(&mut self) {
        let by_policy = self.policy.as_ref().map_or(u64::MAX, |policy| policy.unwatched_bytes());
        self.is_watched = by_policy == 0;
        let looks_at_all =
            self.is_bounded || self.options().no_local || self.consumers.watchers() > 0 || self.holds_back();
        let by_share = if self.share.messages < u64::MAX { 0 } else { self.share.bytes };
        self.unwatched_bytes = if looks_at_all { 0 } else { by_policy.min(by_share) };
    }

    #[cold]
    fn note_handed_out(&mut self, item: Item, tag: u64) {
        if let Some(policy) = &mut self.policy {
            policy.handed_out(&item, tag);
        }
    }

    #[cold]
    fn note_taken_back(&mut self, item: Item) {
        if let Some(policy) = &mut self.policy {
            policy.taken_back(&item);
        }
    }

    /// Those who wait for groups learn which have lost their owner.
    fn look_at_freed(&mut self) {
        if let Some(place) = self.groups_mut().and_then(Groups::take_freed) {
            self.consumers.look_back(0, place);
        }
    }

    fn groups(&self) -> Option<&Groups> {
        self.policy.as_ref()?.groups.as_ref()
    }

    fn groups_mut(&mut self) -> Option<&mut Groups> {
        self.policy.as_mut()?.groups.as_mut()
    }

    /// Another one owns it, or nobody.
    pub(crate) fn set_entry(&mut self, entry: Arc<QueueEntry>) {
        self.is_owned = entry.options.outlives_owner && entry.owner.is_some();
        self.was_used |= self.is_owned;
        self.entry = entry;
        self.owner = ClientId::NOBODY;
    }

    /// Who owns it, for one that wants nothing from its owner.
    pub(crate) fn set_owner(&mut self, owner: ClientId) {
        self.owner = owner;
    }

    /// Whether a client has it for itself, as its owner or as a consumer.
    pub(crate) fn is_of(&self, client: ClientId) -> bool {
        client != ClientId::NOBODY
            && (self.owner == client || self.consumers.iter().any(|c| c.exclusive && c.client == client))
    }

    /// Its owner has gone.
    pub(crate) fn disown(&mut self) {
        self.is_owned = false;
        self.was_used = true;
    }

    /// Whether it has lost its last user and should go with it.
    pub(crate) fn is_abandoned(&self) -> bool {
        let options = self.options();
        options.auto_delete
            && self.was_used
            && !self.is_owned
            && self.consumers.is_empty()
            && (options.lifetime != Lifetime::UnusedAndEmpty || self.depth().messages == 0)
    }

    /// Whether somebody is there and something to give.
    pub(crate) fn has_work(&self) -> bool {
        (self.ready.has_head() || self.is_sought() && !self.ready.is_empty())
            && self.consumers.next().is_some()
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
