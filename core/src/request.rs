//! What a session asks of the broker besides publishing and settling, and what it is told.

mod arguments;
mod queue;

pub use queue::{
    Account, AlertThresholds, FlowThresholds, HeaderFilter, Lifetime, MoveTo, Overflow, QueueEvents,
    QueueOptions,
};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::journal::Reason;
use crate::topology::{ExchangeEntry, QueueEntry};
use crate::transaction::{DtxCommand, DtxFault, DtxStatus, Xid};
use crate::{Credit, Name, QueueId, Selector, Table, Value, VhostId, message::MessageId};

/// A request by a session. Names of exchanges and queues are resolved in `vhost`.
///
/// A session has at most one request outstanding; what it sends meanwhile has to wait.
#[derive(Clone, Debug)]
pub enum Request {
    /// Create an exchange, or check that it is there and the same.
    DeclareExchange {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the exchange.
        name: Name,
        /// Only check that it exists.
        passive: bool,
        /// What to create.
        options: ExchangeOptions,
    },
    /// Delete an exchange and its bindings.
    DeleteExchange {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the exchange.
        name: Name,
        /// Refuse if something is bound to it.
        if_unused: bool,
    },
    /// Create a queue, or check that it is there and the same. An empty name asks for a generated one
    /// (`amq.gen-…`). Passive declares are answered with the counts as seen after everything that the session
    /// published before.
    DeclareQueue {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        name: Name,
        /// Only check that it exists.
        passive: bool,
        /// What to create.
        options: Box<QueueOptions>,
    },
    /// Delete a queue with its messages and bindings.
    DeleteQueue {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        name: Name,
        /// Refuse if it has consumers.
        if_unused: bool,
        /// Refuse if it has messages.
        if_empty: bool,
    },
    /// Drop the messages of a queue that nobody has been handed.
    PurgeQueue {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        name: Name,
    },
    /// Take messages that nobody has been handed out of a queue, the oldest first. What a full queue then refuses is lost.
    /// Answered with [`Reply::Messages`].
    MoveMessages {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        queue: Name,
        /// Where they go.
        to: MoveTo,
        /// No more than this.
        most: Option<u32>,
        /// Only those that it selects.
        filter: Option<HeaderFilter>,
    },
    /// Have what comes to a queue go to another one, and the other way round. Without a target: no more, and what the
    /// target has goes to the queue.
    RedirectQueue {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        source: Name,
        /// Name of the other one.
        target: Option<Name>,
    },
    /// Bind a queue or an exchange to an exchange.
    Bind {
        /// Virtual host.
        vhost: VhostId,
        /// The exchange that routes.
        source: Name,
        /// What receives.
        destination: Name,
        /// Whether the destination is a queue or an exchange.
        kind: DestinationKind,
        /// Binding key.
        key: Name,
        /// Arguments; their meaning is the exchange type's.
        arguments: Table,
    },
    /// Remove a binding. Removing one that is not there succeeds, if exchange and destination exist or not.
    Unbind {
        /// Virtual host.
        vhost: VhostId,
        /// The exchange that routes.
        source: Name,
        /// What receives.
        destination: Name,
        /// Whether the destination is a queue or an exchange.
        kind: DestinationKind,
        /// Binding key.
        key: Name,
        /// Arguments; part of the binding's identity.
        arguments: Table,
    },
    /// Start a consumer on a queue.
    Subscribe {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        queue: Name,
        /// Chosen by the session, unique in it; deliveries carry it.
        consumer: u32,
        /// How to consume.
        options: ConsumerOptions,
    },
    /// Stop a consumer of this session. What it was handed and has not settled stays with the session. The reply
    /// comes after the last delivery.
    Cancel {
        /// The consumer, as chosen at [`Request::Subscribe`].
        consumer: u32,
    },
    /// Take a consumer's credit away. The reply comes after the last delivery.
    StopConsumer {
        /// The consumer, as chosen at [`Request::Subscribe`].
        consumer: u32,
    },
    /// Send a consumer what is there and its credit allows, then take the credit away. The reply comes after the last
    /// delivery.
    FlushConsumer {
        /// The consumer, as chosen at [`Request::Subscribe`].
        consumer: u32,
    },
    /// Make messages that the session has browsed its own, as if it had fetched them.
    Acquire {
        /// The queue.
        queue: QueueId,
        /// Their tags, as delivered.
        tags: Vec<u64>,
    },
    /// Take one message.
    Get {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        queue: Name,
        /// The message counts as settled when handed over.
        no_ack: bool,
    },
    /// Answered when everything that this session sent before has been carried out on every shard.
    Barrier,
    /// Carry out what the session did by [`publish_in_transaction`](crate::Shard::publish_in_transaction) and
    /// [`settle_in_transaction`](crate::Shard::settle_in_transaction), as one. Answered when every shard has done its
    /// part. If anything of it is refused nothing is done: the publishes are dropped, and the session still holds what
    /// it wanted to settle. A session that closes before the answer gives back what it holds as ever; what the commit
    /// has settled by then stays settled.
    Commit,
    /// A command on a branch of a distributed transaction. Between [`DtxCommand::Start`] and [`DtxCommand::End`] what
    /// the session does in transaction is the branch's. What it settles so is not the session's any more: it goes back
    /// to its queue if the branch is rolled back.
    Dtx {
        /// Virtual host.
        vhost: VhostId,
        /// The branch.
        xid: Xid,
        /// What to do.
        command: DtxCommand,
    },
    /// The branches that are prepared, or that an operator has completed.
    RecoverDtx {
        /// Virtual host.
        vhost: VhostId,
    },
    /// What an exchange is. Answered at once, with [`Reply::Exchange`].
    QueryExchange {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the exchange.
        name: Name,
    },
    /// What a queue is, and its counts as seen after everything that the session published before. Everybody may ask,
    /// of an exclusive queue too. Answered with [`Reply::Queue`].
    QueryQueue {
        /// Virtual host.
        vhost: VhostId,
        /// Name of the queue.
        name: Name,
    },
    /// Whether there are bindings from an exchange: to a queue, with a key, with arguments, as far as each is given.
    /// Answered at once, with [`Reply::Binding`].
    QueryBinding {
        /// Virtual host.
        vhost: VhostId,
        /// The exchange that routes.
        exchange: Name,
        /// What receives.
        queue: Option<Name>,
        /// Binding key.
        key: Option<Name>,
        /// Arguments; looked at where the exchange type matches by them.
        arguments: Option<Table>,
    },
}

/// Which protocol's rules hold for a session's requests, where protocols disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// AMQP 0-9-1 with RabbitMQ's errata. What is declared again has to be the same in everything; deleting and
    /// unbinding what is not there succeeds; arguments are part of a binding's identity.
    #[default]
    #[serde(rename = "amqp-0-9-1")]
    Amqp091,
    /// AMQP 0-10 as Qpid C++ understands it. What is declared again has to be the same in type and alternate exchange,
    /// as far as they are given; what is deleted or unbound has to be there, and an alternate exchange too; a binding is
    /// known by its key, and unbinding looks at nothing else; a headers exchange wants `x-match`.
    #[serde(rename = "amqp-0-10")]
    Amqp010,
}

/// What a destination of a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DestinationKind {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

/// Properties of an exchange. Two declarations are the same if type, flags and arguments are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExchangeOptions {
    /// Name of the exchange type, as registered in [`crate::exchange`].
    pub kind: Name,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted when the last binding from it goes.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// Receives what this exchange cannot route.
    pub alternate: Option<Name>,
    /// Arguments as declared.
    pub arguments: Table,
}

/// Properties of a consumer.
#[derive(Clone, Debug, Default)]
pub struct ConsumerOptions {
    /// The client's name for it, for listings.
    pub tag: Name,
    /// Messages count as settled when handed over.
    pub no_ack: bool,
    /// Nobody else may consume.
    pub exclusive: bool,
    /// Higher ones are served first while they can take messages.
    pub priority: i32,
    /// Most unsettled messages; 0 for no limit.
    pub prefetch: u32,
    /// What it may be sent until [`Shard::grant_credit`](crate::Shard::grant_credit) adds to it. `None`: credit does
    /// not bound it. Not for sessions that limit or stop their deliveries as a whole: what was sent and waits at their
    /// gate is not held back by the end of credit.
    pub credit: Option<Credit>,
    /// Looks at messages and leaves them in the queue: each once, in order of arrival. A delivery's tag is for
    /// [`Request::Acquire`]; settling it does nothing.
    pub browse: bool,
    /// Which messages it wants; the others are for others. `None`: all.
    pub selector: Option<Arc<Selector>>,
    /// Arguments as given.
    pub arguments: Table,
}

/// A successful answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// To requests that have nothing to tell.
    Done,
    /// To [`Request::DeclareQueue`].
    QueueDeclared {
        /// Its name, generated or not.
        name: Name,
        /// Messages ready to be delivered.
        messages: u32,
        /// Consumers.
        consumers: u32,
    },
    /// To [`Request::DeleteQueue`], [`Request::PurgeQueue`] and [`Request::MoveMessages`].
    Messages(u32),
    /// To [`Request::Get`].
    Got(Option<Got>),
    /// To [`Request::Acquire`].
    Acquired {
        /// Where the messages are.
        queue: QueueId,
        /// For each tag asked for another one, by which the message is now to be settled. `None`: it is gone, or somebody
        /// else has it.
        tags: Vec<Option<u64>>,
    },
    /// To [`Request::Commit`].
    Committed {
        /// Mandatory messages that no queue takes. They are the caller's again: return them to the client, then release
        /// them.
        unroutable: Vec<MessageId>,
    },
    /// To [`Request::Dtx`].
    Dtx(DtxStatus),
    /// To [`DtxCommand::Timeout`]: in seconds.
    DtxTimeout(u32),
    /// To [`Request::RecoverDtx`].
    DtxInDoubt(Vec<Xid>),
    /// To [`Request::QueryExchange`]: the exchange, if there is one.
    Exchange(Option<Arc<ExchangeEntry>>),
    /// To [`Request::QueryQueue`]: the queue, if there is one.
    Queue(Option<Box<QueueInfo>>),
    /// To [`Request::QueryBinding`].
    Binding(BindingInfo),
}

/// A queue, as a [`Request::QueryQueue`] found it.
#[derive(Clone, Debug)]
pub struct QueueInfo {
    /// Name, owner, properties.
    pub entry: Arc<QueueEntry>,
    /// Messages ready to be delivered.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// What a [`Request::QueryBinding`] did not find. If no flag is set, there is a binding as described.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindingInfo {
    /// There is no such exchange.
    pub exchange_not_found: bool,
    /// A queue was named, and there is no such queue.
    pub queue_not_found: bool,
    /// The queue named is not bound to the exchange.
    pub queue_not_matched: bool,
    /// The key given is not bound, to the queue named or at all.
    pub key_not_matched: bool,
    /// No binding has the arguments given, to the queue named or at all.
    pub arguments_not_matched: bool,
}

/// The message that a [`Request::Get`] found.
#[derive(Clone, Debug)]
pub struct Got {
    /// Where it came from, for settling.
    pub queue: QueueId,
    /// Its handle there, for settling.
    pub tag: u64,
    /// The message; the receiver releases it.
    pub message: MessageId,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// How many are left.
    pub remaining: u32,
}

/// Why a request was refused. The protocol turns it into its own error.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No such exchange.
    #[error("no exchange '{0}'")]
    NoExchange(Name),
    /// No such queue.
    #[error("no queue '{0}'")]
    NoQueue(Name),
    /// The exchange or queue exists with other properties.
    #[error("inequivalent arg '{argument}' for {object} '{name}'")]
    Inequivalent {
        /// `exchange` or `queue`.
        object: &'static str,
        /// Its name.
        name: Name,
        /// The property that differs: `durable`, `type`, `x-message-ttl`, …
        argument: Name,
        /// What was asked for.
        received: Option<Value>,
        /// What is there.
        current: Option<Value>,
    },
    /// The queue belongs to another connection.
    #[error("queue '{0}' is exclusive to another connection")]
    ExclusiveToOther(Name),
    /// A consumer of the queue is exclusive, or exclusive use was asked for while there are others.
    #[error("queue '{0}' in exclusive use")]
    ExclusiveUse(Name),
    /// Deleting was asked for only if unused or empty, and it is not.
    #[error("{object} '{name}' {state}")]
    Busy {
        /// `exchange` or `queue`.
        object: &'static str,
        /// Its name.
        name: Name,
        /// `in use` or `not empty`.
        state: &'static str,
    },
    /// The name is reserved, or the object is one that clients may not change.
    #[error("{0}")]
    Forbidden(String),
    /// The client may not do this; what the rules say of it.
    #[error("{0}")]
    Denied(String),
    /// The default exchange cannot be declared, deleted, bound or unbound.
    #[error("operation not permitted on the default exchange")]
    DefaultExchange,
    /// The exchange is the alternate exchange of another one or of a queue, and cannot be deleted.
    #[error("exchange '{0}' in use as alternate exchange")]
    InUseAsAlternate(Name),
    /// The exchange does not take a binding with this key and these arguments.
    #[error("exchange '{exchange}' does not take the binding: {reason}")]
    InvalidBinding {
        /// The exchange.
        exchange: Name,
        /// Why; for a query, with the place of the fault.
        reason: String,
    },
    /// The exchange is internal.
    #[error("exchange '{0}' is internal")]
    Internal(Name),
    /// No exchange type of that name.
    #[error("unknown exchange type '{0}'")]
    UnknownExchangeType(Name),
    /// An argument has a value that is not acceptable.
    #[error("invalid arg '{argument}': {reason}")]
    InvalidArgument {
        /// The argument.
        argument: Name,
        /// Why.
        reason: String,
    },
    /// The consumer's identifier is taken, or there is none of that identifier.
    #[error("no or duplicate consumer {0}")]
    Consumer(u32),
    /// A limit of the broker was met.
    #[error("{0}")]
    LimitExceeded(String),
    /// A queue does not take what a transaction has for it.
    #[error("queue '{0}' is full")]
    QueueFull(Name),
    /// What has to outlive the process cannot be written down.
    #[error("not stored: {0}")]
    NotStored(Reason),
    /// A command on a branch of a distributed transaction cannot be carried out.
    #[error("branch {xid} {fault}")]
    Dtx {
        /// The branch.
        xid: Box<Xid>,
        /// Why.
        fault: DtxFault,
    },
}
