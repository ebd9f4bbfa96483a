//! From an address to declarations, bindings and a subscription, as the libraries of Apache Qpid do it.
//!
//! 1. What a name stands for the address says, or the broker is asked; what neither knows is a queue.
//! 2. A queue or exchange that is not there is made if the address says so, and is an error otherwise. Neither case
//!    costs the channel where the protocol has queries.
//! 3. What a sender or receiver made for itself alone goes when it is closed; dropped, it is left to the broker.

use std::hash::{BuildHasher, RandomState};

use fulmar_core::{Table, Value};

use super::{Address, AddressBinding, Declare, NodeKind, Policy, Reliability};
use crate::request::{BindingQuery, BindingState};
use crate::{
    Channel, ConsumeOptions, Consumer, Error, ExchangeOptions, MessageProperties, Publish, QueueOptions,
};

/// Header that carries a message's subject.
const SUBJECT: &str = "qpid.subject";

/// How long the queue of a durable receiver is kept without it, unless it asks for reliability, in seconds.
const DURABLE_TIMEOUT_S: u32 = 120;

/// Where the messages of an address are sent to; see [`Channel::sender`].
#[derive(Debug)]
pub struct Sender {
    channel: Channel,
    address: Address,
    kind: NodeKind,
}

/// A consumer of what an address names; see [`Channel::receiver`].
#[derive(Debug)]
pub struct Receiver {
    channel: Channel,
    address: Address,
    kind: NodeKind,
    /// The queue that was made for this receiver alone, and is deleted with it.
    own_queue: Option<String>,
    /// The queue that it consumes from.
    queue: String,
    consumer: Consumer,
}

impl Channel {
    /// Resolves an address to send to, making what it asks for.
    ///
    /// ```no_run
    /// # async fn example(channel: fulmar_client::Channel) -> Result<(), fulmar_client::Error> {
    /// let sender = channel.sender(&"work; {create: always}".parse()?).await?;
    /// channel.publish(&sender.publish(b"a task")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unresolved`], or the broker's refusal.
    pub async fn sender(&self, address: &Address) -> Result<Sender, Error> {
        let (address, kind) = prepare(self, address, Policy::Sender).await?;
        bind(self, &address.link.bindings, kind, &address.name, None).await?;
        Ok(Sender { channel: self.clone(), address, kind })
    }

    /// Resolves an address to receive from, making what it asks for, and consumes. [`Channel::set_prefetch`] bounds the
    /// unsettled deliveries.
    ///
    /// ```no_run
    /// # async fn example(channel: fulmar_client::Channel) -> Result<(), fulmar_client::Error> {
    /// let mut receiver = channel.receiver(&"amq.topic/news.#".parse()?).await?;
    /// while let Some(delivery) = receiver.consumer().next().await {
    ///     println!("{}", String::from_utf8_lossy(delivery?.body()));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unresolved`], or the broker's refusal.
    pub async fn receiver(&self, address: &Address) -> Result<Receiver, Error> {
        let (address, kind) = prepare(self, address, Policy::Receiver).await?;
        match kind {
            NodeKind::Queue => from_queue(self, address).await,
            NodeKind::Topic => from_exchange(self, address).await,
        }
    }
}

impl Sender {
    /// A message to this address, to be given to [`Channel::publish`].
    pub fn publish<'a>(&'a self, body: &'a [u8]) -> Publish<'a> {
        match self.kind {
            NodeKind::Queue => Publish::to_queue(&self.address.name, body),
            NodeKind::Topic => {
                Publish::new(&self.address.name, self.address.subject.as_deref().unwrap_or_default(), body)
            }
        }
    }

    /// `properties`, with the address's subject where it has one.
    #[must_use]
    pub fn properties(&self, properties: MessageProperties) -> MessageProperties {
        match &self.address.subject {
            Some(subject) => properties.header(SUBJECT, text(subject)),
            None => properties,
        }
    }

    /// Whether the broker's word is wanted for each message.
    pub fn is_reliable(&self) -> bool {
        !self.address.link.reliability.is_some_and(Reliability::is_at_most_once)
    }

    /// Removes what was made for this sender, and the queue or exchange if the address says so.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn close(self) -> Result<(), Error> {
        let Sender { channel, address, kind } = self;
        unbind(&channel, &address.link.bindings, kind, &address.name, None).await?;
        delete(&channel, &address, kind, Policy::Sender).await
    }
}

impl Receiver {
    /// Its consumer.
    pub fn consumer(&mut self) -> &mut Consumer {
        &mut self.consumer
    }

    /// The queue that it consumes from.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Cancels the consumer and removes what was made for this receiver, and the queue or exchange if the address says
    /// so. Deliveries that were not settled go back.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn close(self) -> Result<(), Error> {
        let Receiver { channel, address, kind, own_queue, queue, mut consumer } = self;
        unbind(&channel, &address.link.bindings, kind, &address.name, Some(&queue)).await?;
        consumer.cancel().await?;
        while let Some(Ok(delivery)) = consumer.try_next() {
            delivery.release()?;
        }
        if let Some(queue) = own_queue {
            channel.delete_queue(&queue, false, false).await?;
        }
        delete(&channel, &address, kind, Policy::Receiver).await
    }
}

/// What the broker has under a name.
struct Found {
    kind: NodeKind,
    exists: bool,
}

/// Finds out what an address names, makes it or checks that it is there, all as the address says.
async fn prepare(channel: &Channel, address: &Address, side: Policy) -> Result<(Address, NodeKind), Error> {
    let mut address = address.clone();
    if address.name.starts_with('#') {
        address.name = format!("{}{}", unique(), address.name);
        if address.create == Policy::Never {
            address.create = Policy::Always;
            address.node.declare.auto_delete.get_or_insert(true);
            if address.node.kind != Some(NodeKind::Topic) {
                address.node.declare.exclusive.get_or_insert(true);
            }
        }
    }
    let found = find(channel, &address).await?;
    let kind = found.kind;
    if address.create.includes(side) {
        if !found.exists {
            create(channel, &address, kind).await?;
        }
        bind(channel, &address.node.bindings, kind, &address.name, None).await?;
    } else if !found.exists {
        return Err(unresolved(&address, &format!("there is no such {}", kind.noun())));
    }
    if address.assert.includes(side) {
        check(channel, &address, kind).await?;
    }
    Ok((address, kind))
}

async fn find(channel: &Channel, address: &Address) -> Result<Found, Error> {
    let name = &address.name;
    let found = match address.node.kind {
        None => find_any(channel, address).await,
        Some(kind @ NodeKind::Queue) => {
            channel.query_queue(name).await.map(|state| Found { kind, exists: state.is_some() })
        }
        Some(kind @ NodeKind::Topic) => {
            channel.query_exchange(name).await.map(|state| Found { kind, exists: state.is_some() })
        }
    };
    match found {
        Err(Error::Unsupported(_)) => {
            let kind = address.node.kind.unwrap_or(NodeKind::Queue);
            let exists = address.create == Policy::Never;
            // Declaring what is there changes nothing; what has to be there is looked for at the cost of the channel.
            match kind {
                NodeKind::Queue if exists => drop(channel.check_queue(name).await?),
                NodeKind::Topic if exists => channel.check_exchange(name).await?,
                _ => {}
            }
            Ok(Found { kind, exists })
        }
        found => found,
    }
}

async fn find_any(channel: &Channel, address: &Address) -> Result<Found, Error> {
    let query = BindingQuery {
        exchange: address.name.clone(),
        queue: Some(address.name.clone()),
        ..BindingQuery::default()
    };
    let BindingState { exchange_found, queue_found, .. } = channel.query_bindings(query).await?;
    match (queue_found, exchange_found) {
        (true, true) => {
            let reason = "there are a queue and an exchange of that name; node: {type: queue} or {type: topic} tells \
                          which";
            Err(unresolved(address, reason))
        }
        (false, true) => Ok(Found { kind: NodeKind::Topic, exists: true }),
        (exists, false) => Ok(Found { kind: NodeKind::Queue, exists }),
    }
}

async fn create(channel: &Channel, address: &Address, kind: NodeKind) -> Result<(), Error> {
    let Declare { kind: exchange_kind, durable, exclusive, auto_delete, .. } = &address.node.declare;
    let arguments = declared_arguments(&address.node.declare);
    let durable = durable.unwrap_or(address.node.durable);
    let auto_delete = auto_delete.unwrap_or(false);
    match kind {
        NodeKind::Queue => {
            let exclusive = exclusive.unwrap_or(false);
            let options = QueueOptions { durable, exclusive, auto_delete, arguments };
            channel.declare_queue(&address.name, options).await.map(drop)
        }
        NodeKind::Topic => {
            let kind = exchange_kind.as_deref().unwrap_or("topic");
            let options = ExchangeOptions { durable, auto_delete, arguments, ..ExchangeOptions::new(kind) };
            channel.declare_exchange(&address.name, options).await
        }
    }
}

fn declared_arguments(declare: &Declare) -> Table {
    let mut arguments = declare.arguments.clone();
    if let Some(alternate) = &declare.alternate_exchange {
        arguments.set(b"alternate-exchange", text(alternate));
    }
    arguments
}

/// Holds what is there against the address.
async fn check(channel: &Channel, address: &Address, kind: NodeKind) -> Result<(), Error> {
    let wanted = &address.node.declare;
    let durable = wanted.durable.unwrap_or(address.node.durable);
    let missing = || unresolved(address, &format!("there is no such {}", kind.noun()));
    let (is_durable, arguments) = match kind {
        NodeKind::Queue => {
            let found = channel.query_queue(&address.name).await?.ok_or_else(missing)?;
            let differs = |what: &str| unresolved(address, &format!("the queue is not {what}"));
            if wanted.auto_delete == Some(true) && !found.auto_delete {
                return Err(differs("deleted with its last consumer"));
            }
            if wanted.exclusive == Some(true) && !found.exclusive {
                return Err(differs("exclusive"));
            }
            if let Some(alternate) = &wanted.alternate_exchange
                && *alternate != found.alternate_exchange
            {
                let reason = format!("its alternate exchange is {:?}", found.alternate_exchange);
                return Err(unresolved(address, &reason));
            }
            (found.durable, found.arguments)
        }
        NodeKind::Topic => {
            let found = channel.query_exchange(&address.name).await?.ok_or_else(missing)?;
            if let Some(kind) = wanted.kind.as_ref().filter(|kind| **kind != found.kind) {
                let reason = format!("the exchange is of type {}, not {kind}", found.kind);
                return Err(unresolved(address, &reason));
            }
            (found.durable, found.arguments)
        }
    };
    if durable && !is_durable {
        return Err(unresolved(address, &format!("the {} is not durable", kind.noun())));
    }
    for (name, value) in &wanted.arguments.0 {
        if !arguments.get(name.as_bytes()).is_some_and(|found| found.is_equivalent(value)) {
            let found = arguments.get(name.as_bytes()).map_or_else(|| "not set".into(), Value::to_string);
            return Err(unresolved(address, &format!("its argument {name} is {found}, not {value}")));
        }
    }
    check_bindings(channel, address, kind).await
}

async fn check_bindings(channel: &Channel, address: &Address, kind: NodeKind) -> Result<(), Error> {
    for binding in &address.node.bindings {
        let (exchange, queue, key) = ends(binding, kind, &address.name, None);
        let query = BindingQuery {
            exchange: exchange.to_owned(),
            queue: Some(queue.to_owned()),
            routing_key: Some(key.to_owned()),
            arguments: None,
        };
        let state = channel.query_bindings(query).await?;
        if !state.queue_matched || !state.key_matched {
            let reason = format!("the queue {queue:?} is not bound to {exchange:?} with {key:?}");
            return Err(unresolved(address, &reason));
        }
    }
    Ok(())
}

async fn from_queue(channel: &Channel, address: Address) -> Result<Receiver, Error> {
    let link = &address.link;
    bind(channel, &link.bindings, NodeKind::Queue, &address.name, None).await?;
    let mut arguments = link.subscribe.arguments.clone();
    if let Some(selector) = &link.selector {
        arguments.set(b"x-apache-selector", text(selector));
    }
    let options = ConsumeOptions {
        // What is only looked at needs no settling.
        no_ack: address.browse || link.reliability.is_some_and(Reliability::is_at_most_once),
        exclusive: link.subscribe.exclusive.unwrap_or(false),
        browse: address.browse,
        arguments,
        ..ConsumeOptions::default()
    };
    let consumer = channel.consume(&address.name, options).await?;
    let queue = address.name.clone();
    Ok(Receiver {
        channel: channel.clone(),
        address,
        kind: NodeKind::Queue,
        own_queue: None,
        queue,
        consumer,
    })
}

/// Through a queue of the receiver's own.
async fn from_exchange(channel: &Channel, address: Address) -> Result<Receiver, Error> {
    let link = &address.link;
    let queue = link.name.clone().unwrap_or_else(|| format!("{}_{}", address.name, unique()));
    let is_reliable = match link.reliability {
        Some(reliability) => !reliability.is_at_most_once(),
        None => link.durable,
    };
    let is_exclusive = link.declare.exclusive.unwrap_or(true);
    let options = QueueOptions {
        durable: link.declare.durable.unwrap_or(link.durable),
        exclusive: is_exclusive,
        auto_delete: link.declare.auto_delete.unwrap_or(!(link.durable || is_reliable)),
        arguments: own_queue_arguments(&address),
    };
    channel.declare_queue(&queue, options).await?;
    for (key, arguments) in default_bindings(channel, &address, &queue).await? {
        channel.bind_queue(&queue, &address.name, &key, arguments).await?;
    }
    bind(channel, &link.bindings, NodeKind::Topic, &address.name, Some(&queue)).await?;
    let options = ConsumeOptions {
        no_ack: !is_reliable,
        exclusive: link.subscribe.exclusive.unwrap_or(is_exclusive),
        arguments: link.subscribe.arguments.clone(),
        ..ConsumeOptions::default()
    };
    let consumer = channel.consume(&queue, options).await?;
    let own_queue = is_exclusive.then(|| queue.clone());
    Ok(Receiver { channel: channel.clone(), address, kind: NodeKind::Topic, own_queue, queue, consumer })
}

fn own_queue_arguments(address: &Address) -> Table {
    let link = &address.link;
    let mut arguments = Table::default();
    let is_reliable = link.reliability.is_some_and(|reliability| !reliability.is_at_most_once());
    let timeout_s = match link.timeout_s {
        Some(timeout_s) => timeout_s,
        None if link.durable && !is_reliable && link.declare.auto_delete.is_none() => DURABLE_TIMEOUT_S,
        None => 0,
    };
    if timeout_s > 0 {
        arguments.set(b"qpid.auto_delete_timeout", Value::I64(timeout_s.into()));
    }
    for (name, value) in declared_arguments(&link.declare).0 {
        arguments.set(name.as_bytes(), value);
    }
    if let Some(selector) = &link.selector {
        arguments.set(b"qpid.filter", text(selector));
    }
    arguments
}

/// Keys and arguments by which the subject, or everything if there is none, comes to a queue of the receiver's own.
async fn default_bindings(
    channel: &Channel,
    address: &Address,
    queue: &str,
) -> Result<Vec<(String, Table)>, Error> {
    if address.subject.is_none() && !address.link.bindings.is_empty() {
        return Ok(Vec::new());
    }
    let kind = match channel.query_exchange(&address.name).await {
        Ok(state) => state.map(|state| state.kind),
        Err(Error::Unsupported(_)) => address.node.declare.kind.clone(),
        Err(error) => return Err(error),
    };
    let with = |entries: &[(&str, &str)]| {
        Table(entries.iter().map(|(name, value)| ((*name).into(), text(value))).collect())
    };
    let plain = |key: &str| (key.to_owned(), Table::default());
    let binding = match (kind.as_deref().unwrap_or("topic"), address.subject.as_deref()) {
        ("headers", Some(subject)) => (subject.to_owned(), with(&[(SUBJECT, subject), ("x-match", "all")])),
        ("headers", None) => ("match-all".to_owned(), with(&[("x-match", "all")])),
        ("xml", Some(subject)) => {
            let quoted = subject.replace('\'', "''");
            let query = format!("declare variable ${SUBJECT} external; ${SUBJECT} = '{quoted}'");
            (subject.to_owned(), with(&[("xquery", &query)]))
        }
        ("xml", None) => (String::new(), with(&[("xquery", "true()")])),
        (_, Some(subject)) => plain(subject),
        ("topic", None) => plain("#"),
        ("fanout", None) => plain(queue),
        (_, None) => plain(""),
    };
    Ok(vec![binding])
}

async fn bind(
    channel: &Channel,
    bindings: &[AddressBinding],
    kind: NodeKind,
    name: &str,
    own_queue: Option<&str>,
) -> Result<(), Error> {
    for binding in bindings {
        let (exchange, queue, key) = ends(binding, kind, name, own_queue);
        channel.bind_queue(queue, exchange, key, binding.arguments.clone()).await?;
    }
    Ok(())
}

async fn unbind(
    channel: &Channel,
    bindings: &[AddressBinding],
    kind: NodeKind,
    name: &str,
    own_queue: Option<&str>,
) -> Result<(), Error> {
    for binding in bindings {
        let (exchange, queue, key) = ends(binding, kind, name, own_queue);
        channel.unbind_queue(queue, exchange, key, binding.arguments.clone()).await?;
    }
    Ok(())
}

/// Exchange, queue and key of a binding; what it does not name is what the address names, or the receiver's own queue.
fn ends<'a>(
    binding: &'a AddressBinding,
    kind: NodeKind,
    name: &'a str,
    own_queue: Option<&'a str>,
) -> (&'a str, &'a str, &'a str) {
    let (usual_exchange, usual_queue) = match kind {
        NodeKind::Queue => ("", name),
        NodeKind::Topic => (name, own_queue.unwrap_or_default()),
    };
    (
        binding.exchange.as_deref().unwrap_or(usual_exchange),
        binding.queue.as_deref().unwrap_or(usual_queue),
        binding.key.as_deref().unwrap_or_default(),
    )
}

/// Deletes the queue or exchange if the address says so and somebody else has not done it.
async fn delete(channel: &Channel, address: &Address, kind: NodeKind, side: Policy) -> Result<(), Error> {
    if !address.delete.includes(side) {
        return Ok(());
    }
    let mut known = Address::new(&address.name);
    known.node.kind = Some(kind);
    match (find(channel, &known).await?.exists, kind) {
        (false, _) => Ok(()),
        (true, NodeKind::Queue) => channel.delete_queue(&address.name, false, false).await.map(drop),
        (true, NodeKind::Topic) => channel.delete_exchange(&address.name, false).await,
    }
}

impl Policy {
    fn includes(self, side: Policy) -> bool {
        self == Policy::Always || self == side
    }
}

impl NodeKind {
    fn noun(self) -> &'static str {
        match self {
            NodeKind::Queue => "queue",
            NodeKind::Topic => "exchange",
        }
    }
}

fn unresolved(address: &Address, reason: &str) -> Error {
    Error::Unresolved { name: address.name.clone(), reason: reason.to_owned() }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// A name that nobody else has.
fn unique() -> String {
    // Two hashers' random keys are randomness enough for a name.
    let random = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", random(), random())
}
