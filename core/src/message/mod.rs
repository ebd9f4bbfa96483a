//! The messages that a shard holds.
//!
//! Owned by the shard's thread. A message is immutable once complete; queues and deliveries share it by counting.
//! Its bytes lie in one buffer: exchange, routing key, encoded properties, body. Messages that came together and differ
//! in their bodies alone may share a buffer, a *batch*: one head, then the bodies, all of one length. Buffers come from
//! a pool, so that steady traffic allocates nothing. Between shards the buffer moves, one copy for each further shard.

mod pool;
pub mod properties;
mod store;

use std::ptr;

pub use properties::{Id, Neutral, Properties, ReplyTo, Scalar};
pub use store::{Message, MessageHead, MessageStore, batch_limit};

use crate::{Name, Table, Value};

/// A message held by this shard. A plain handle: whoever holds one owes a [`crate::Shard::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// Where the store keeps it.
    pub(crate) slot: u32,
    /// Which message of its batch it is; 0 for one that came alone.
    pub(crate) part: u16,
}

impl MessageId {
    /// The message in a slot of its own.
    #[inline]
    pub(crate) fn alone(slot: u32) -> Self {
        MessageId { slot, part: 0 }
    }

    /// The message so many places later in the same batch.
    #[inline]
    pub(crate) fn after(self, messages: u16) -> Self {
        MessageId { part: self.part + messages, ..self }
    }
}

/// How the properties of a message are encoded, and what the broker may ask of them. One static implementation per
/// protocol, which takes room in memory: its address tells it from the others. Translation between protocols happens on
/// delivery, by the protocol that delivers: see [`Neutral`].
pub trait Encoding: Sync {
    /// Name of the encoding, for diagnostics.
    fn name(&self) -> &'static str;

    /// The application header `name`, without building the whole table. `None` if there is none.
    fn header(&self, properties: &[u8], name: &[u8]) -> Option<Value>;

    /// All application headers.
    fn headers(&self, properties: &[u8]) -> Table;

    /// The application header `name` as a comparison sees it; allocates nothing. `None` if there is none.
    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>>;

    /// What all protocols understand of it; allocates nothing.
    fn properties<'a>(&self, properties: &'a [u8]) -> Properties<'a>;

    /// A property by its AMQP name (`message-id`, `correlation-id`, `timestamp`, …), for consistent hashing by
    /// property.
    fn property(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        self.properties(properties).get(name)
    }

    /// Whether the headers `CC` and `BCC` are further routing keys: RabbitMQ's sender-selected distribution, which those
    /// who publish by another protocol do not ask for.
    fn has_further_keys(&self) -> bool {
        false
    }

    /// The properties with the edit applied, encoded anew.
    fn edit(&self, properties: &[u8], edit: &Edit) -> Vec<u8>;
}

/// A change to the properties of a message, as dead-lettering and sender-selected distribution need it.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// Headers to set.
    pub set_headers: Vec<(Name, Value)>,
    /// Headers to remove.
    pub remove_headers: Vec<Name>,
    /// Remove the expiration.
    pub clear_expiration: bool,
}

/// What the protocol knows of a message when its header has arrived.
pub struct MessageHeader<'a> {
    /// Encoding of `properties`.
    pub encoding: &'static dyn Encoding,
    /// Exchange it is published to.
    pub exchange: &'a [u8],
    /// Routing key.
    pub routing_key: &'a [u8],
    /// Properties as they came.
    pub properties: &'a [u8],
    /// Length of the body that will follow, in bytes.
    pub body_bytes: u64,
    /// Priority; 0 if none was given.
    pub priority: u8,
    /// Time to live in milliseconds, if the publisher gave one.
    pub ttl_ms: Option<u64>,
    /// Whether the publisher asked for persistence.
    pub persistent: bool,
    /// Whether there are application headers (saves looking).
    pub has_headers: bool,
}

impl MessageHeader<'_> {
    /// What comes before the body.
    #[inline(always)]
    fn append_head(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.exchange);
        bytes.extend_from_slice(self.routing_key);
        bytes.extend_from_slice(self.properties);
    }
}

/// A look at a message.
#[derive(Clone, Copy)]
pub struct MessageView<'a> {
    /// Encoding of `properties`.
    pub encoding: &'static dyn Encoding,
    /// Exchange it was published to.
    pub exchange: &'a [u8],
    /// Routing key.
    pub routing_key: &'a [u8],
    /// Encoded properties.
    pub properties: &'a [u8],
    /// Body.
    pub body: &'a [u8],
}

impl MessageView<'_> {
    /// Whether the properties are encoded so.
    #[inline]
    pub fn is_encoded_by(&self, encoding: &'static dyn Encoding) -> bool {
        ptr::addr_eq(self.encoding, encoding)
    }
}
