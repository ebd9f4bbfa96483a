//! The messages of one shard: a slab of counted entries over a pool of buffers.

mod paged;

use super::pool::{BufferPool, suits};
use super::{Edit, Encoding, MessageHeader, MessageId, MessageView};
use crate::hash::Map;
use crate::ids::ClientId;
use crate::journal::{Position, StoredMessage};
use crate::topology::Routable;
use crate::{Limits, ShardId};

/// Most bytes taken for a body on its sender's word alone.
const PROMISED_BODY_BYTES: u64 = 64 * 1024;

/// Most messages in a batch, and most bytes of their bodies: one that stays long keeps the others' memory.
const BATCH_MESSAGES: usize = 32;
const BATCH_BYTES: usize = 4096;

/// No time to live.
const FOREVER_MS: u32 = u32::MAX;

// A message fills a cache line; what moves between shards is not much more.
const _: () = assert!(size_of::<Message>() == 64);

/// A message as a value: what moves between shards. Its buffer should end in a [`MessageStore`] again.
pub struct Message {
    encoding: &'static dyn Encoding,
    /// Exchange, routing key, properties, body; in a batch, the bodies one after the other.
    bytes: Vec<u8>,
    exchange_bytes: u8,
    /// The shard that its publisher is connected to.
    publisher_shard: ShardId,
    key_bytes: u16,
    /// Who that is: see [`ClientId`].
    publisher: u32,
    body_at: u32,
    /// Length of one body, as announced; less may have come of it.
    body_bytes: u32,
    /// Time to live, or [`FOREVER_MS`].
    ttl_ms: u32,
    /// The shard whose pool the buffer belongs to.
    origin: ShardId,
    priority: u8,
    has_headers: bool,
    persistent: bool,
}

impl Message {
    /// A look at the message; the first one of a batch.
    #[inline]
    pub fn view(&self) -> MessageView<'_> {
        self.view_of(0)
    }

    #[inline]
    fn view_of(&self, part: u16) -> MessageView<'_> {
        let (key, properties, body) = (self.key_at(), self.properties_at(), self.body_at as usize);
        MessageView {
            encoding: self.encoding,
            exchange: &self.bytes[..key],
            routing_key: &self.bytes[key..properties],
            properties: &self.bytes[properties..body],
            body: self.body(part),
        }
    }

    #[inline]
    fn body(&self, part: u16) -> &[u8] {
        let bodies = &self.bytes[self.body_at as usize..];
        let at = usize::from(part) * self.body_bytes as usize;
        &bodies[at..][..self.body_bytes()]
    }

    /// How many messages it is: more than one if it is a batch.
    #[inline]
    pub(crate) fn messages(&self) -> u16 {
        let (bodies, one) = (self.bytes.len() - self.body_at as usize, self.body_bytes as usize);
        if bodies <= one { 1 } else { (bodies / one) as u16 }
    }

    /// Exchange and routing key in one, and the length of the exchange's name: what a route depends on.
    #[inline]
    pub(crate) fn address(&self) -> (&[u8], usize) {
        (&self.bytes[..self.properties_at()], self.key_at())
    }

    #[inline]
    fn key_at(&self) -> usize {
        usize::from(self.exchange_bytes)
    }

    #[inline]
    fn properties_at(&self) -> usize {
        usize::from(self.exchange_bytes) + usize::from(self.key_bytes)
    }

    /// Who published it; [`ClientId::NOBODY`] if that was before the broker started.
    #[inline]
    pub(crate) fn publisher(&self) -> ClientId {
        ClientId { shard: self.publisher_shard, number: self.publisher }
    }

    /// Length of the body, as far as it has come.
    #[inline]
    pub(crate) fn body_bytes(&self) -> usize {
        (self.bytes.len() - self.body_at as usize).min(self.body_bytes as usize)
    }

    /// Length of everything but what others in its batch have for themselves, for accounts.
    #[inline]
    pub(crate) fn total_bytes(&self) -> usize {
        self.body_at as usize + self.body_bytes()
    }

    /// Bytes of credit that it takes: properties and body.
    #[inline]
    pub(crate) fn credit_bytes(&self) -> usize {
        self.body_at as usize - self.properties_at() + self.body_bytes()
    }

    #[inline]
    pub(crate) fn ttl_ms(&self) -> Option<u64> {
        (self.ttl_ms != FOREVER_MS).then_some(u64::from(self.ttl_ms))
    }

    #[inline]
    pub(crate) fn priority(&self) -> u8 {
        self.priority
    }

    #[inline]
    pub(crate) fn has_headers(&self) -> bool {
        self.has_headers
    }

    /// Whether its publisher asked for persistence.
    #[inline]
    pub(crate) fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Its bytes, with those of all its batch.
    pub(crate) fn all_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The message, or the whole batch, as it is written down.
    pub(crate) fn to_store(&self) -> StoredMessage<'_> {
        let MessageView { encoding, exchange, routing_key, properties, .. } = self.view();
        StoredMessage {
            encoding,
            exchange,
            routing_key,
            properties,
            bodies: &self.bytes[self.body_at as usize..],
            messages: self.messages(),
            ttl_ms: self.ttl_ms(),
            priority: self.priority,
            has_headers: self.has_headers,
            persistent: self.persistent,
        }
    }

    /// What it shows to the router; the first one of a batch.
    pub(crate) fn routable(&self, random: u64) -> Routable<'_> {
        let MessageView { encoding, routing_key, properties, body, .. } = self.view();
        Routable { key: routing_key, properties, encoding, has_headers: self.has_headers, body, random }
    }
}

/// All of a message but its body, to be put before many bodies.
pub struct MessageHead {
    encoding: &'static dyn Encoding,
    /// Exchange, routing key, properties.
    bytes: Vec<u8>,
    exchange_bytes: u8,
    key_bytes: u16,
    ttl_ms: u32,
    priority: u8,
    has_headers: bool,
    persistent: bool,
}

impl MessageHead {
    /// What `header` says, but for the length of the body.
    pub fn new(header: &MessageHeader<'_>) -> Self {
        MessageHead::in_memory(header, Vec::new())
    }

    /// Becomes what `header` says; its memory stays.
    pub fn set(&mut self, header: &MessageHeader<'_>) {
        *self = MessageHead::in_memory(header, std::mem::take(&mut self.bytes));
    }

    /// Exchange and routing key in one, and the length of the exchange's name.
    #[inline]
    pub(crate) fn address(&self) -> (&[u8], usize) {
        let key_at = usize::from(self.exchange_bytes);
        (&self.bytes[..key_at + usize::from(self.key_bytes)], key_at)
    }

    #[inline]
    pub(crate) fn has_headers(&self) -> bool {
        self.has_headers
    }

    /// The length of what comes before the bodies.
    pub(crate) fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether their publisher asked for persistence.
    #[inline]
    pub(crate) fn is_persistent(&self) -> bool {
        self.persistent
    }

    fn in_memory(header: &MessageHeader<'_>, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.reserve(header.exchange.len() + header.routing_key.len() + header.properties.len());
        header.append_head(&mut bytes);
        // The last offset is the largest: the others fit if it does.
        offset(bytes.len());
        MessageHead {
            encoding: header.encoding,
            bytes,
            exchange_bytes: exchange_bytes(header.exchange),
            key_bytes: key_bytes(header.routing_key),
            ttl_ms: stored_ttl(header.ttl_ms),
            priority: header.priority,
            has_headers: header.has_headers,
            persistent: header.persistent,
        }
    }
}

/// Most messages with bodies of so many bytes that one batch takes.
#[inline]
pub fn batch_limit(body_bytes: usize) -> usize {
    (BATCH_BYTES / body_bytes.max(1)).clamp(1, BATCH_MESSAGES)
}

struct Entry {
    message: Message,
    /// 0 while the slot is free; its message's buffer, if it has one, is then empty and kept for the next message.
    references: u32,
    next_free: u32,
    /// Where its record is, if somebody has written it down; [`Position::NONE`] while the slot is free.
    position: Position,
}

const NONE: u32 = u32::MAX;

/// The messages that a shard holds.
///
/// 1. A message lives while somebody counts on it: [`MessageStore::begin`] and one moved in from another shard give one
///    reference, [`MessageStore::retain`] more, [`MessageStore::release`] takes one.
/// 2. Memory is taken as bytes arrive, never on a sender's word beyond 64 KiB.
/// 3. Messages of a steady size cost no allocation.
pub struct MessageStore {
    entries: Vec<Entry>,
    free: u32,
    live: u32,
    held_bytes: u64,
    pool: BufferPool,
    shard: ShardId,
    /// Emptied buffers that belong to other shards' pools.
    foreign: Vec<(ShardId, Vec<u8>)>,
    /// Records that nobody needs any more, and the bytes of the messages in them.
    retired: Vec<(Position, usize)>,
    /// How many hold a record, where there was more than one.
    holders: Map<Position, u32>,
}

impl MessageStore {
    /// An empty store on `shard`.
    pub fn new(shard: ShardId, limits: &Limits) -> Self {
        MessageStore {
            entries: Vec::new(),
            free: NONE,
            live: 0,
            held_bytes: 0,
            pool: BufferPool::new(limits.pool_bytes),
            shard,
            foreign: Vec::new(),
            retired: Vec::new(),
            holders: Map::default(),
        }
    }

    /// Starts a message; its body follows by [`MessageStore::append`].
    pub fn begin(&mut self, header: &MessageHeader<'_>) -> MessageId {
        self.begin_with(header, &[])
    }

    /// Starts a message with what is there of its body; the rest follows by [`MessageStore::append`].
    pub fn begin_with(&mut self, header: &MessageHeader<'_>, body: &[u8]) -> MessageId {
        let body_at = header.exchange.len() + header.routing_key.len() + header.properties.len();
        let promised = header.body_bytes.min(PROMISED_BODY_BYTES) as usize;
        let mut bytes = self.buffer(body_at + promised.max(body.len()));
        header.append_head(&mut bytes);
        bytes.extend_from_slice(body);
        // The last offset is the largest: the others fit if it does.
        let body_at = offset(body_at);
        self.insert(Message {
            encoding: header.encoding,
            bytes,
            exchange_bytes: exchange_bytes(header.exchange),
            key_bytes: key_bytes(header.routing_key),
            publisher_shard: ClientId::NOBODY.shard,
            publisher: ClientId::NOBODY.number,
            body_at,
            body_bytes: u32::try_from(header.body_bytes).unwrap_or(u32::MAX),
            ttl_ms: stored_ttl(header.ttl_ms),
            origin: self.shard,
            priority: header.priority,
            has_headers: header.has_headers,
            persistent: header.persistent,
        })
    }

    /// A message with this head and all of its body.
    #[inline]
    pub fn whole(&mut self, head: &MessageHead, body: &[u8]) -> MessageId {
        self.batch(head, ClientId::NOBODY, body.len(), std::iter::once(body))
    }

    /// As many messages with this head as there are bodies, each of `body_bytes`. Gives the first one; the others
    /// follow by [`MessageId::after`], and each has a reference.
    #[inline]
    pub(crate) fn batch<'a>(
        &mut self,
        head: &MessageHead,
        publisher: ClientId,
        body_bytes: usize,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> MessageId {
        let message = self.compose(head, publisher, body_bytes, bodies);
        self.insert(message)
    }

    /// The same as a value.
    #[inline]
    pub(crate) fn compose<'a>(
        &mut self,
        head: &MessageHead,
        publisher: ClientId,
        body_bytes: usize,
        bodies: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Message {
        let messages = bodies.len();
        let mut bytes = self.buffer(head.bytes.len() + messages * body_bytes);
        bytes.extend_from_slice(&head.bytes);
        bodies.for_each(|body| bytes.extend_from_slice(body));
        assert!(
            bytes.len() == head.bytes.len() + messages * body_bytes,
            "the bodies of a batch are of one length"
        );
        Message {
            encoding: head.encoding,
            bytes,
            exchange_bytes: head.exchange_bytes,
            key_bytes: head.key_bytes,
            publisher_shard: publisher.shard,
            publisher: publisher.number,
            body_at: head.bytes.len() as u32,
            body_bytes: offset(body_bytes),
            ttl_ms: head.ttl_ms,
            origin: self.shard,
            priority: head.priority,
            has_headers: head.has_headers,
            persistent: head.persistent,
        }
    }

    /// Adds to the body of a message that nobody shares yet.
    pub fn append(&mut self, id: MessageId, body: &[u8]) {
        let entry = &mut self.entries[id.slot as usize];
        assert!(entry.references == 1, "a message grows only while nobody shares it");
        let bytes = &mut entry.message.bytes;
        if body.len() > bytes.capacity() - bytes.len() {
            self.grow(id, body.len());
        }
        self.entries[id.slot as usize].message.bytes.extend_from_slice(body);
    }

    /// Takes in a message made elsewhere, with one reference; a batch, with one for each message.
    #[inline]
    pub(crate) fn insert(&mut self, message: Message) -> MessageId {
        let references = message.messages().into();
        self.held_bytes += message.bytes.capacity() as u64;
        self.live += 1;
        let index = self.free;
        if let Some(slot) = self.entries.get_mut(index as usize) {
            self.free = slot.next_free;
            let kept = std::mem::replace(&mut slot.message, message).bytes;
            if kept.capacity() > 0 {
                self.pool.unkeep(kept.capacity());
                self.pool.put(kept);
            }
            slot.references = references;
            return MessageId::alone(index);
        }
        let index = offset(self.entries.len());
        self.entries.push(Entry { message, references, next_free: NONE, position: Position::NONE });
        MessageId::alone(index)
    }

    /// Notes who published a message.
    #[inline]
    pub(crate) fn set_publisher(&mut self, id: MessageId, publisher: ClientId) {
        let message = &mut self.entries[id.slot as usize].message;
        (message.publisher_shard, message.publisher) = (publisher.shard, publisher.number);
    }

    /// The message behind a handle: what all of its batch have in common.
    #[inline]
    pub(crate) fn get(&self, id: MessageId) -> &Message {
        let entry = &self.entries[id.slot as usize];
        assert!(entry.references > 0, "a message is looked at only while it is held");
        &entry.message
    }

    /// A look at a message.
    #[inline]
    pub fn view(&self, id: MessageId) -> MessageView<'_> {
        self.get(id).view_of(id.part)
    }

    /// The bodies of so many messages of a batch after this one.
    #[inline]
    pub(crate) fn bodies_after(&self, id: MessageId, messages: u16) -> impl Iterator<Item = &[u8]> {
        let message = self.get(id);
        (1..=messages).map(move |n| message.body(id.part + n))
    }

    /// One more reference.
    pub fn retain(&mut self, id: MessageId) {
        self.retain_many(id, 1);
    }

    /// So many references more: one for each of as many messages of a batch.
    pub(crate) fn retain_many(&mut self, id: MessageId, references: u32) {
        let entry = &mut self.entries[id.slot as usize];
        assert!(entry.references > 0, "a message is shared only while it is held");
        entry.references += references;
    }

    /// One reference less. After the last one the buffer stays in the slot, for the next message.
    #[inline]
    pub fn release(&mut self, id: MessageId) {
        self.release_many(id, 1);
    }

    /// So many references less: one for each of as many messages of a batch.
    #[inline]
    pub(crate) fn release_many(&mut self, id: MessageId, references: u32) {
        if self.drop_references(id, references) {
            let entry = &mut self.entries[id.slot as usize];
            let (message, is_recorded) = (&mut entry.message, entry.position.is_some());
            let capacity = message.bytes.capacity();
            self.held_bytes -= capacity as u64;
            if message.origin == self.shard && !is_recorded && self.pool.keep(capacity) {
                message.bytes.clear();
            } else {
                self.part_with_buffer(id);
            }
        }
    }

    /// The buffer of a free slot cannot stay there: it belongs to another shard's pool, or there are enough. Or else the
    /// message was written down.
    #[inline(never)]
    fn part_with_buffer(&mut self, id: MessageId) {
        self.retire(id);
        let message = &mut self.entries[id.slot as usize].message;
        if message.origin == self.shard && self.pool.keep(message.bytes.capacity()) {
            return message.bytes.clear();
        }
        let buffer = std::mem::take(&mut message.bytes);
        if message.origin != self.shard {
            self.foreign.push((message.origin, buffer));
        }
    }

    /// An empty buffer for so many bytes: the one in the next free slot, if it is of the right size.
    #[inline]
    fn buffer(&mut self, bytes: usize) -> Vec<u8> {
        if let Some(slot) = self.entries.get_mut(self.free as usize)
            && suits(slot.message.bytes.capacity(), bytes)
        {
            self.pool.unkeep(slot.message.bytes.capacity());
            return std::mem::take(&mut slot.message.bytes);
        }
        self.pool.take(bytes)
    }

    /// Gives up one reference and returns the message as a value: itself if that was the last reference, a copy
    /// otherwise, or if there were others in its batch.
    pub(crate) fn extract(&mut self, id: MessageId) -> Message {
        self.extract_batch(id, 1)
    }

    /// The same for as many messages of a batch.
    pub(crate) fn extract_batch(&mut self, id: MessageId, messages: u16) -> Message {
        let entry = &self.entries[id.slot as usize];
        if entry.references > messages.into() || entry.message.messages() > messages {
            let copy = self.copy_batch(id, messages);
            self.release_many(id, messages.into());
            return copy;
        }
        self.drop_references(id, messages.into());
        if self.entries[id.slot as usize].position.is_some() {
            self.retire(id);
        }
        let message = &mut self.entries[id.slot as usize].message;
        let bytes = std::mem::take(&mut message.bytes);
        self.held_bytes -= bytes.capacity() as u64;
        Message { bytes, ..*message }
    }

    /// A copy of a message as a value, in a buffer of this shard's pool.
    pub(crate) fn copy(&mut self, id: MessageId) -> Message {
        self.copy_batch(id, 1)
    }

    fn copy_batch(&mut self, id: MessageId, messages: u16) -> Message {
        let message = &self.entries[id.slot as usize].message;
        let (head_bytes, body_bytes) = (message.body_at as usize, message.body_bytes());
        let from = head_bytes + usize::from(id.part) * body_bytes;
        let bodies = &message.bytes[from..from + usize::from(messages) * body_bytes];
        let mut bytes = self.pool.take(head_bytes + bodies.len());
        bytes.extend_from_slice(&message.bytes[..head_bytes]);
        bytes.extend_from_slice(bodies);
        Message { bytes, origin: self.shard, ..*message }
    }

    /// A new message like `id`, published to another address with other properties. `id` keeps its references.
    pub(crate) fn derive(
        &mut self,
        id: MessageId,
        exchange: &[u8],
        routing_key: &[u8],
        properties: &[u8],
        ttl_ms: Option<u64>,
    ) -> MessageId {
        let message = &self.entries[id.slot as usize].message;
        let body = message.body(id.part);
        let mut bytes = self.pool.take(exchange.len() + routing_key.len() + properties.len() + body.len());
        bytes.extend_from_slice(exchange);
        bytes.extend_from_slice(routing_key);
        bytes.extend_from_slice(properties);
        let body_at = offset(bytes.len());
        bytes.extend_from_slice(body);
        let derived = Message {
            bytes,
            exchange_bytes: exchange_bytes(exchange),
            key_bytes: key_bytes(routing_key),
            body_at,
            ttl_ms: stored_ttl(ttl_ms),
            origin: self.shard,
            has_headers: true,
            ..*message
        };
        self.insert(derived)
    }

    /// A message as it is written down, of which there is no record: itself, or a copy in its place if there is one, or if
    /// it stands in a batch. Takes one reference over and gives one.
    pub(crate) fn unrecorded(&mut self, id: MessageId) -> MessageId {
        let entry = &self.entries[id.slot as usize];
        if entry.position == Position::NONE && entry.message.messages() == 1 {
            return id;
        }
        let copy = self.copy(id);
        self.release(id);
        self.insert(copy)
    }

    /// Where a message's record is; [`Position::NONE`] if it has none.
    pub(crate) fn position(&self, id: MessageId) -> Position {
        self.entries[id.slot as usize].position
    }

    /// A message was written down, or its record was moved. Told when the last reference goes ([`MessageStore::pop_retired`]).
    pub(crate) fn set_position(&mut self, id: MessageId, position: Position) {
        let entry = &mut self.entries[id.slot as usize];
        assert!(entry.references > 0, "what is written down is held");
        entry.position = position;
    }

    /// A record that nobody needs any more, and the bytes of the message in it.
    pub(crate) fn pop_retired(&mut self) -> Option<(Position, usize)> {
        self.retired.pop()
    }

    /// Takes a message over and gives one in its place whose properties are edited.
    pub(crate) fn edit(&mut self, id: MessageId, edit: &Edit) -> MessageId {
        let content = self.get(id);
        let (view, ttl_ms) = (content.view_of(id.part), content.ttl_ms());
        let properties = view.encoding.edit(view.properties, edit);
        let (exchange, key) = (view.exchange.to_vec(), view.routing_key.to_vec());
        let edited = self.derive(id, &exchange, &key, &properties, ttl_ms);
        self.release(id);
        edited
    }

    /// Takes back an emptied buffer of this shard's pool.
    pub(crate) fn take_back(&mut self, buffer: Vec<u8>) {
        self.pool.put(buffer);
    }

    /// An emptied buffer that belongs to another shard's pool.
    pub(crate) fn pop_foreign(&mut self) -> Option<(ShardId, Vec<u8>)> {
        self.foreign.pop()
    }

    /// Bytes of messages held, their buffers' capacity counted.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Messages held; a batch counts as one until the last of it is gone.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Bytes of free buffers kept for reuse.
    pub fn pooled_bytes(&self) -> usize {
        self.pool.free_bytes()
    }

    /// Whether these were the last ones; the slot is free then, and the caller takes the buffer.
    #[inline]
    fn drop_references(&mut self, id: MessageId, references: u32) -> bool {
        let entry = &mut self.entries[id.slot as usize];
        assert!(
            references > 0 && entry.references >= references,
            "a message is released only while it is held"
        );
        entry.references -= references;
        if entry.references > 0 {
            return false;
        }
        entry.next_free = self.free;
        self.free = id.slot;
        self.live -= 1;
        true
    }

    /// The last reference to a message has gone. If it was written down nobody needs the record.
    #[cold]
    fn retire(&mut self, id: MessageId) {
        let entry = &mut self.entries[id.slot as usize];
        if entry.position.is_some() {
            let position = std::mem::replace(&mut entry.position, Position::NONE);
            let bytes = entry.message.all_bytes();
            self.drop_holder(position, bytes);
        }
    }

    /// Moves a message to a larger buffer.
    #[cold]
    fn grow(&mut self, id: MessageId, more: usize) {
        let message = &mut self.entries[id.slot as usize].message;
        let needed = message.bytes.len() + more;
        let whole = message.body_bytes as usize + message.body_at as usize;
        let mut larger = self.pool.take(needed.max(whole.min(2 * message.bytes.capacity())));
        larger.extend_from_slice(&message.bytes);
        self.held_bytes += larger.capacity() as u64;
        self.held_bytes -= message.bytes.capacity() as u64;
        self.pool.put(std::mem::replace(&mut message.bytes, larger));
    }
}

/// A time to live as it is kept. One of more than 49 days is none.
fn stored_ttl(ttl_ms: Option<u64>) -> u32 {
    ttl_ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(FOREVER_MS)
}

#[inline]
fn exchange_bytes(exchange: &[u8]) -> u8 {
    u8::try_from(exchange.len()).expect("the name of an exchange has at most 255 octets")
}

#[inline]
fn key_bytes(key: &[u8]) -> u16 {
    u16::try_from(key.len()).expect("a routing key has at most 65,535 octets")
}

#[inline]
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("the head of a message and the slab stay below 4 GiB")
}

#[cfg(test)]
mod tests;
