//! What a queue is declared with.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{MessageView, Name, Table, Value};

/// Properties of a queue. Two declarations are the same if flags and arguments are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueOptions {
    /// Survives a restart.
    pub durable: bool,
    /// Belongs to the connection that declared it and goes with it.
    pub exclusive: bool,
    /// If it is exclusive: it stays when its connection goes, and is anybody's then. (Not in RabbitMQ.)
    pub outlives_owner: bool,
    /// Deleted when the last consumer goes (never before the first came); one that outlives its owner, when both are
    /// gone.
    pub auto_delete: bool,
    /// What else an auto-delete queue waits for.
    pub lifetime: Lifetime,
    /// How long an auto-delete queue stays when its time has come, in milliseconds.
    pub auto_delete_delay_ms: u64,
    /// How long a message may stay, in milliseconds.
    pub message_ttl_ms: Option<u64>,
    /// How long the queue may stay unused, in milliseconds.
    pub expires_ms: Option<u64>,
    /// Most messages; [`Overflow`] says which ones count.
    pub max_length: Option<u64>,
    /// Most bytes of those messages; [`Overflow`] says which bytes count.
    pub max_length_bytes: Option<u64>,
    /// What to do with one too many.
    pub overflow: Overflow,
    /// When to stop and to resume publishers.
    pub flow: FlowThresholds,
    /// When to raise an alert.
    pub alerts: AlertThresholds,
    /// Where expired, rejected and overflown messages go.
    pub dead_letter_exchange: Option<Name>,
    /// Routing key for them; otherwise their own.
    pub dead_letter_routing_key: Option<Name>,
    /// The alternate exchange: where rejected messages go, what a ring gives up, and what is left when the queue ends.
    /// They go as they are, with the keys that they came with.
    pub alternate: Option<Name>,
    /// Highest level of priority; `None` for a plain FIFO.
    pub max_priority: Option<u8>,
    /// Messages of this priority and of lower ones are of level 0, the next one is level 1, …
    pub lowest_priority: u8,
    /// Most messages in a row from each level of priority, lowest first, while others have some; 0 for no limit.
    /// `None`: higher ones always come first.
    pub fairshare: Option<Arc<[u32]>>,
    /// The header whose value is a key: only the last message of each key stays.
    pub last_value_key: Option<Name>,
    /// The header whose value names a message's group.
    pub group_key: Option<Name>,
    /// A group's messages go to one consumer at a time, any one.
    pub shared_groups: bool,
    /// Only one consumer at a time receives.
    pub single_active_consumer: bool,
    /// Consumers may look, not take.
    pub browse_only: bool,
    /// Drops what comes from the connection that the queue is exclusive to.
    pub no_local: bool,
    /// The header in which consumers are told a message's number in the queue.
    pub sequence_header: Option<Name>,
    /// A selector; what it does not select is dropped.
    pub filter: Option<Name>,
    /// Messages that do not fit in memory are kept elsewhere.
    pub paging: bool,
    /// What happens to messages is reported, for replication.
    pub events: QueueEvents,
    /// Its messages become persistent when only one node of a cluster is left.
    pub persist_last_node: bool,
    /// It is no queue that anybody can name: an exchange holds back in it what has to wait. The topology's own word.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub holds_back: bool,
    /// Home shard asked for (`x-fulmar-shard`); otherwise the broker chooses.
    pub home: Option<u8>,
    /// On whose account it is, and how many may be. Not recorded: what a run before has left counts for nobody.
    #[serde(skip)]
    pub account: Option<Account>,
    /// Arguments as declared.
    pub arguments: Table,
}

/// A user who may have so many queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Who it is.
    pub user: Name,
    /// How many; counted where queues are declared, for the whole broker.
    pub most: u32,
}

/// What a full queue does, and what makes it full.
///
/// The first three are RabbitMQ's: messages count while they wait, with the bytes of their bodies. The others are Qpid's:
/// messages count until they are settled, with the bytes of their properties and bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// Drop or dead-letter from the head.
    #[default]
    DropHead,
    /// Refuse the new message (a negative confirm).
    RejectPublish,
    /// Refuse the new message and dead-letter it.
    RejectPublishDeadLetter,
    /// Refuse the new message (in AMQP 0-10, `resource-limit-exceeded`).
    Reject,
    /// Give up the oldest message, be it in a client's hands.
    Ring,
    /// Give up the oldest message; refuse the new one if the oldest is in a client's hands.
    RingStrict,
    /// End the queue.
    SelfDestruct,
    /// Keep what is too much on disk. Without one, it is kept in memory.
    FlowToDisk,
}

impl Overflow {
    /// Whether limits are counted as Qpid does.
    pub fn counts_unsettled(self) -> bool {
        !matches!(self, Overflow::DropHead | Overflow::RejectPublish | Overflow::RejectPublishDeadLetter)
    }
}

/// Depths of a queue at which publishers' confirms are withheld, and are given again. `None`: in proportion to the
/// queue's limits, see [`Limits`](crate::Limits); 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowThresholds {
    /// Stop beyond so many messages.
    pub stop_messages: Option<u64>,
    /// Resume below so many messages.
    pub resume_messages: Option<u64>,
    /// Stop beyond so many bytes.
    pub stop_bytes: Option<u64>,
    /// Resume below so many bytes.
    pub resume_bytes: Option<u64>,
}

/// Depths of a queue that management is told of. `None`: in proportion to the queue's limits, see
/// [`Limits`](crate::Limits); 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlertThresholds {
    /// Tell when there are so many messages.
    pub messages_up: Option<u64>,
    /// Tell when there are so few messages again; half of the former if `None`.
    pub messages_down: Option<u64>,
    /// Tell when there are so many bytes.
    pub bytes_up: Option<u64>,
    /// Tell when there are so few bytes again; half of the former if `None`.
    pub bytes_down: Option<u64>,
    /// Time until a queue that stays beyond its threshold is told of again, in seconds; 60 if `None`.
    pub repeat_gap_s: Option<u64>,
}

/// When an auto-delete queue goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// When nobody uses it any more.
    #[default]
    Unused,
    /// When nobody uses it any more and nothing is in it.
    UnusedAndEmpty,
    /// When whoever made it is gone.
    Creator,
}

/// What is reported of a queue's messages, for replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueEvents {
    /// Nothing.
    #[default]
    None,
    /// That they came.
    Enqueue,
    /// That they came and that they went.
    EnqueueAndDequeue,
}

/// Where messages go that are taken out of a queue. They stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveTo {
    /// They are dropped.
    Nowhere,
    /// To another queue.
    Queue(Name),
    /// To the queues that an exchange has for their keys.
    Exchange(Name),
    /// The same with the queue's alternate exchange.
    Alternate,
}

/// Selects messages by a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderFilter {
    /// The header.
    pub header: Name,
    /// What it has to be, as text.
    pub value: Name,
}

impl HeaderFilter {
    /// Whether a message is selected.
    pub fn selects(&self, message: &MessageView<'_>) -> bool {
        match message.encoding.header(message.properties, self.header.as_bytes()) {
            Some(Value::Text(value) | Value::Bytes(value)) => value == self.value,
            Some(other) => other.to_string().as_bytes() == self.value.as_bytes(),
            None => false,
        }
    }
}
