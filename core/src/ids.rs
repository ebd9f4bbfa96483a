//! Identifiers. All are plain copies except [`Name`]; an index is paired with a generation wherever it can be reused,
//! so that a stale identifier never reaches the thing that took its place.

use std::fmt;
use std::sync::Arc;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A shard: one pinned thread. Shard 0 is the control shard, the only writer of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ShardId(pub u8);

impl ShardId {
    /// The shard that orders changes to the topology.
    pub const CONTROL: ShardId = ShardId(0);

    /// The shard as an index into per-shard tables.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A client connection, named by the shard that accepted it. Owns exclusive queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Where the connection lives.
    pub shard: ShardId,
    /// Slot in that shard's table of connections.
    pub index: u32,
    /// Distinguishes successive users of the slot.
    pub generation: u32,
}

/// A client, as long as one of its connections is there: all that one caller has opened on a shard. The numbers are not
/// given again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientId {
    pub(crate) shard: ShardId,
    /// 0 is nobody.
    pub(crate) number: u32,
}

impl ClientId {
    pub(crate) const NOBODY: ClientId = ClientId { shard: ShardId(0), number: 0 };
}

/// A session: an AMQP 0-9-1 channel, an AMQP 0-10 session, a STOMP connection. Orders what is sent through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// Where the session's connection lives.
    pub shard: ShardId,
    /// Slot in that shard's table of sessions.
    pub index: u32,
    /// Distinguishes successive users of the slot.
    pub generation: u32,
}

/// A queue, named by its home shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// The only shard that changes the queue.
    pub home: ShardId,
    /// Slot in the home shard's table of queues.
    pub index: u32,
    /// Distinguishes successive users of the slot.
    pub generation: u32,
}

/// A virtual host: the index of its name in the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VhostId(pub u16);

/// The name of an exchange, a queue, a virtual host, or a binding key: bytes as the client sent them, shared.
///
/// AMQP calls them UTF-8, clients do not always comply, and the broker never needs to know.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the empty name (the default exchange, a queue that the server names).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Name {
    fn default() -> Self {
        Name(Arc::from(&b""[..]))
    }
}

impl From<&[u8]> for Name {
    fn from(bytes: &[u8]) -> Self {
        Name(Arc::from(bytes))
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Name(Arc::from(text.as_bytes()))
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Name(Arc::from(text.into_bytes()))
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// As octets, whatever they are.
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // What people read is text.
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("octets")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Name, E> {
        Ok(Name::from(bytes))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Name, E> {
        Ok(Name::from(text))
    }

    /// Formats without octets have a list of numbers.
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Name, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(Name::from(&bytes[..]))
    }
}
