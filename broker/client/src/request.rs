//! What a client asks of a broker, whatever the protocol.

use fulmar_core::Table;

use crate::branch::{BranchEnd, BranchStart, BranchStatus, Phases, Xid};
use crate::message::Message;

/// How to declare an exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeOptions {
    /// `direct`, `fanout`, `topic`, `headers`, or a type of the broker's own.
    pub kind: String,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Goes when its last binding does.
    pub auto_delete: bool,
    /// Takes messages from other exchanges alone.
    pub internal: bool,
    /// Further arguments, `alternate-exchange` for one.
    pub arguments: Table,
}

impl ExchangeOptions {
    /// Of a type, neither durable nor anything else.
    pub fn new(kind: &str) -> Self {
        ExchangeOptions {
            kind: kind.to_owned(),
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: Table::default(),
        }
    }

    /// Durable.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durable = true;
        self
    }
}

/// How to declare a queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueOptions {
    /// Survives a restart of the broker.
    pub durable: bool,
    /// For this connection alone, and gone with it.
    pub exclusive: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// Further arguments: `x-message-ttl`, `x-max-length`, ….
    pub arguments: Table,
}

impl QueueOptions {
    /// Durable.
    pub fn durable() -> Self {
        QueueOptions { durable: true, ..Default::default() }
    }

    /// Exclusive.
    pub fn exclusive() -> Self {
        QueueOptions { exclusive: true, ..Default::default() }
    }
}

/// How to consume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsumeOptions {
    /// Name of the consumer on its channel; empty for one that is made up.
    pub consumer_tag: String,
    /// Deliveries count as settled when they are sent.
    pub no_ack: bool,
    /// No other consumer may use the queue.
    pub exclusive: bool,
    /// Looks at the messages and leaves them in the queue. AMQP 0-10 alone.
    pub browse: bool,
    /// Further arguments: `x-priority`, ….
    pub arguments: Table,
}

impl ConsumeOptions {
    /// Without acknowledgements.
    pub fn no_ack() -> Self {
        ConsumeOptions { no_ack: true, ..Default::default() }
    }
}

/// A queue, as its declaration told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its name; the broker's choice where none was given.
    pub name: String,
    /// Messages that are ready.
    pub message_count: u32,
    /// Consumers.
    pub consumer_count: u32,
}

/// A queue, as a query told. AMQP 0-10 alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueState {
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Belongs to one session.
    pub exclusive: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// Where its messages go that it does not keep; empty for nowhere.
    pub alternate_exchange: String,
    /// Further arguments of its declaration.
    pub arguments: Table,
    /// Messages that are ready.
    pub message_count: u32,
    /// Consumers.
    pub consumer_count: u32,
}

/// An exchange, as a query told. AMQP 0-10 alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExchangeState {
    /// Its type.
    pub kind: String,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Further arguments of its declaration.
    pub arguments: Table,
}

/// What of a binding there is, as a query told. AMQP 0-10 alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BindingState {
    /// There is such an exchange.
    pub exchange_found: bool,
    /// There is such a queue, if the query named one.
    pub queue_found: bool,
    /// The queue is bound to the exchange, if the query named one.
    pub queue_matched: bool,
    /// Something is bound with that key, if the query named one.
    pub key_matched: bool,
    /// Something is bound with those arguments, if the query had any.
    pub arguments_matched: bool,
}

/// Exchange or queue, as the destination of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Exchange,
    Queue,
}

/// A binding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Binding {
    pub kind: Destination,
    pub destination: String,
    pub source: String,
    pub routing_key: String,
    pub arguments: Table,
}

/// A question about bindings; what it does not name may be anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BindingQuery {
    pub exchange: String,
    pub queue: Option<String>,
    pub routing_key: Option<String>,
    pub arguments: Option<Table>,
}

/// A request on a channel, answered by one [`Reply`] in the order of the requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    OpenChannel,
    CloseChannel,
    DeclareExchange { exchange: String, options: ExchangeOptions, passive: bool },
    DeleteExchange { exchange: String, if_unused: bool },
    DeclareQueue { queue: String, options: QueueOptions, passive: bool },
    DeleteQueue { queue: String, if_unused: bool, if_empty: bool },
    PurgeQueue { queue: String },
    QueryExchange { exchange: String },
    QueryQueue { queue: String },
    QueryBinding(BindingQuery),
    Bind(Binding),
    Unbind(Binding),
    Qos { prefetch_count: u16, global: bool },
    Consume { queue: String, options: ConsumeOptions },
    Cancel { consumer_tag: String },
    Get { queue: String, no_ack: bool },
    Recover,
    SelectConfirms,
    SelectTx,
    CommitTx,
    RollbackTx,
    Branch(BranchRequest),
}

/// A request about branches of distributed transactions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum BranchRequest {
    Select,
    Start(Xid, BranchStart),
    End(Xid, BranchEnd),
    Prepare(Xid),
    Commit(Xid, Phases),
    Rollback(Xid),
    Forget(Xid),
    Recover,
    Timeout(Xid),
    SetTimeout(Xid, u32),
}

/// The answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Done,
    Queue(QueueInfo),
    Count(u32),
    Got { delivery_tag: u64, redelivered: bool, message: Message, message_count: u32 },
    Empty,
    QueueState(Option<Box<QueueState>>),
    ExchangeState(Option<Box<ExchangeState>>),
    BindingState(BindingState),
    Branch(BranchStatus),
    Branches(Vec<Xid>),
}

/// How a delivery is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settle {
    Ack {
        multiple: bool,
    },
    Nack {
        multiple: bool,
        requeue: bool,
    },
    Reject {
        requeue: bool,
    },
    /// Back to the queue as if it had never been delivered, where the protocol has that.
    Release,
}
