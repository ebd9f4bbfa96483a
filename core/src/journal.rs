//! What a shard has to have written down so that it outlives the process, and what it asks to be read again.
//!
//! The core writes nothing itself: it hands [`Record`]s to a [`Journal`], which it is given, and is told when they are
//! stored ([`Shard::stored`](crate::Shard)). The journal keeps the records of one shard in the order in which they were
//! appended; a restart finds a prefix of them that holds at least everything that was said to be stored.
//!
//! 1. Nothing is confirmed to a client before the records that it depends on are stored.
//! 2. A record says what has happened, so that its fate does not depend on anything that was not recorded.
//! 3. Appending never waits. What a journal cannot take it refuses beforehand ([`Journal::admit`]).

mod recovered;
mod transaction;

use std::fmt;
use std::sync::Arc;

pub(crate) use recovered::{Fate, FoundBranch, FoundPart, FoundPublish};
pub use recovered::{FoundTransactions, RecoveredTransactions};
use serde::{Deserialize, Serialize};
pub use transaction::{Decision, PreparedBranch, PreparedPublish, PreparedSettlement, Step, TransactionKey};

use crate::message::Encoding;
use crate::topology::StoredChange;

/// A place in a shard's journal. Later records have larger ones; what else it says is the journal's business, but for
/// the mark of places in the page file, which are compared with no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub u64);

impl Position {
    /// Before every record: what nobody wrote down.
    pub const NONE: Position = Position(0);

    /// Marks a place in the page file: of [`Journal::page_out`].
    pub const PAGE: u64 = 1 << 63;

    /// Whether this is the place of a record.
    pub fn is_some(self) -> bool {
        self != Position::NONE
    }

    /// Whether this is a place in the page file, where a restart finds nothing.
    pub fn is_page(self) -> bool {
        self.0 & Position::PAGE != 0
    }
}

/// A durable queue, as journals name it. Given once by the control shard and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoreKey(pub u64);

/// A message's place in a durable queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// The queue.
    pub queue: StoreKey,
    /// The place in it, never used twice. Messages of a batch stand one after the other from here on.
    pub place: u64,
    /// When it expires there, in milliseconds since 1970; `u64::MAX`: never.
    pub expires_ms: u64,
    /// Its level.
    pub priority: u8,
    /// The bytes that it counts for in the queue; one of a batch.
    pub counted_bytes: u32,
    /// Has been delivered before.
    pub redelivered: bool,
}

/// A message that a restart has found in a durable queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPlace {
    /// Where it stands; this message alone, whatever its batch.
    pub place: QueuePlace,
    /// Which of its batch it is: how far its place is behind the first one that its record has for this queue.
    pub part: u16,
    /// Where its record is.
    pub at: Position,
    /// There may be others in that record that are restored: of its batch, or in other queues. Whoever does not know says
    /// yes, which takes some memory.
    pub is_shared: bool,
}

/// A message as it is written down, or read again. In a batch all but the bodies is the same.
#[derive(Clone, Copy)]
pub struct StoredMessage<'a> {
    /// Encoding of `properties`.
    pub encoding: &'static dyn Encoding,
    /// Exchange it was published to.
    pub exchange: &'a [u8],
    /// Routing key.
    pub routing_key: &'a [u8],
    /// Encoded properties.
    pub properties: &'a [u8],
    /// The bodies, one after the other.
    pub bodies: &'a [u8],
    /// How many there are.
    pub messages: u16,
    /// Time to live in milliseconds, as the publisher gave it.
    pub ttl_ms: Option<u64>,
    /// Priority, as the publisher gave it.
    pub priority: u8,
    /// Whether there are application headers.
    pub has_headers: bool,
    /// Whether the publisher asked for persistence.
    pub persistent: bool,
}

impl fmt::Debug for StoredMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredMessage")
            .field("encoding", &self.encoding.name())
            .field("exchange", &self.exchange.escape_ascii().to_string())
            .field("routing_key", &self.routing_key.escape_ascii().to_string())
            .field("properties", &self.properties.len())
            .field("bodies", &self.bodies.len())
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// A message, or a batch, has joined queues at home here.
    Enqueued {
        /// The message.
        message: StoredMessage<'a>,
        /// Where it stands; at least one.
        places: &'a [QueuePlace],
    },
    /// Messages have left a queue for good: `count` places from `first` on. Places where nothing stands do not matter.
    Dequeued {
        /// The queue.
        queue: StoreKey,
        /// The first place.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Messages below a place may have been in a client's hands: after a restart they come back marked redelivered. The
    /// last word on a queue counts.
    HandedOut {
        /// The queue.
        queue: StoreKey,
        /// The place.
        below: u64,
    },
    /// The topology has changed.
    Changed(&'a [StoredChange]),
    /// The changes that make the whole topology from nothing; those recorded before no longer matter.
    Topology(&'a [StoredChange]),
    /// A transaction has gone on.
    Transaction {
        /// Which one.
        transaction: TransactionKey,
        /// What has become of it.
        step: Step<'a>,
    },
}

/// How a record stands to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// A restart finds both or neither.
    ToNext,
    /// It is complete.
    No,
}

/// Why nothing can be written down at the moment, in words that name the thing and the way out.
pub type Reason = Arc<str>;

/// Where a shard writes things down. See the module's promises.
pub trait Journal {
    /// Whether a message of so many bytes may be enqueued. Records that make room are always taken.
    ///
    /// # Errors
    /// The disk is full or has failed, or the space that the journal may use is.
    fn admit(&self, bytes: usize) -> Result<(), Reason>;

    /// Appends a record and returns its place. After a failure nothing is written and nothing becomes stored.
    fn append(&mut self, record: &Record<'_>, joined: Joined) -> Position;

    /// The place behind everything appended so far: once that is stored all of it is.
    fn end(&self) -> Position;

    /// The same for somebody who waits for that: none of it is held back any longer to be stored with what comes.
    fn await_end(&mut self) -> Position {
        self.end()
    }

    /// Nobody needs a message any more whose record is there. Once for each place that was given for a message, which is
    /// what journals count by; the bytes of it, with all its batch, are an estimate where nobody has looked at it again.
    fn retire(&mut self, at: Position, bytes: usize);

    /// Whether the page file takes messages at the moment: it has not failed, has room, and keeps up with what it is given.
    fn can_page_out(&self) -> bool {
        false
    }

    /// Writes a message out of the way that need not outlive the process. It can be read again until it is retired. Only
    /// after [`Journal::can_page_out`] has said yes.
    fn page_out(&mut self, message: &StoredMessage<'_>) -> Position;

    /// Asks for messages to be read: [`Shard::read_back`](crate::Shard) brings them one by one in this order, whole
    /// batches as such, until [`Shard::read_failed`](crate::Shard) says that the rest cannot be. Places may be relocated
    /// or retired meanwhile; what was asked for comes nevertheless.
    fn read(&mut self, ticket: Ticket, positions: &[Position]);

    /// Which run of the broker this is; 1 is the first one with this data directory.
    fn run(&self) -> u32;
}

/// Tells which reading an answer belongs to; the asker's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);
