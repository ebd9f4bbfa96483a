//! Addresses of messages as the messaging API of Apache Qpid has them: `name/subject; {options}`.
//!
//! [`parser`] takes the text apart, [`options`] gives the options their meaning, [`resolve`] turns an address into
//! declarations, bindings and a subscription over a channel.

mod options;
mod parser;
mod resolve;

use std::str::FromStr;

use fulmar_core::Table;

use crate::Error;
use parser::Mistake;
pub use resolve::{Receiver, Sender};

/// Where messages go to, or come from.
///
/// ```
/// use fulmar_client::{Address, NodeKind, Policy};
///
/// let address: Address = "work/urgent; {create: always, node: {type: queue, durable: True}}".parse()?;
/// assert_eq!((address.name.as_str(), address.subject.as_deref()), ("work", Some("urgent")));
/// assert_eq!((address.create, address.node.kind), (Policy::Always, Some(NodeKind::Queue)));
/// # Ok::<(), fulmar_client::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Address {
    /// Queue or exchange. A `#` at its beginning asks for a name of its own in front of it.
    pub name: String,
    /// Routing key for an exchange, and subject of the messages.
    pub subject: Option<String>,
    /// Who makes what is not there.
    pub create: Policy,
    /// Who checks that it is as the address says.
    pub assert: Policy,
    /// Who deletes it when they are done.
    pub delete: Policy,
    /// `mode: browse`: looks at the messages and leaves them in the queue.
    pub browse: bool,
    /// The queue or exchange.
    pub node: NodeOptions,
    /// This sender's or receiver's connection with it.
    pub link: LinkOptions,
}

/// Who does something: `always`, `sender`, `receiver` or `never`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody.
    #[default]
    Never,
    /// Senders.
    Sender,
    /// Receivers.
    Receiver,
    /// Both.
    Always,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A queue.
    Queue,
    /// An exchange.
    Topic,
}

/// `node: {…}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeOptions {
    /// `type`; without one the broker is asked.
    pub kind: Option<NodeKind>,
    /// `durable`.
    pub durable: bool,
    /// `x-declare`.
    pub declare: Declare,
    /// `x-bindings`, made by who creates.
    pub bindings: Vec<AddressBinding>,
}

/// `link: {…}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkOptions {
    /// `name`: of the queue that a receiver from an exchange has for itself.
    pub name: Option<String>,
    /// `durable`: so is that queue.
    pub durable: bool,
    /// `reliability`.
    pub reliability: Option<Reliability>,
    /// `timeout`: seconds that this queue is kept without its receiver.
    pub timeout_s: Option<u32>,
    /// `x-declare`, for that queue.
    pub declare: Declare,
    /// `x-bindings`, made by each sender or receiver, and removed by it.
    pub bindings: Vec<AddressBinding>,
    /// `x-subscribe`.
    pub subscribe: Subscribe,
    /// `selector`: which messages to receive.
    pub selector: Option<String>,
}

/// What is done against loss and repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reliability {
    /// `unreliable`: nothing.
    Unreliable,
    /// `at-most-once`.
    AtMostOnce,
    /// `at-least-once`.
    AtLeastOnce,
    /// `exactly-once`; not more is done than for at-least-once.
    ExactlyOnce,
}

/// `x-declare: {…}`: how to declare a queue or exchange.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declare {
    /// `type`: of an exchange.
    pub kind: Option<String>,
    /// `durable`.
    pub durable: Option<bool>,
    /// `exclusive`.
    pub exclusive: Option<bool>,
    /// `auto-delete`.
    pub auto_delete: Option<bool>,
    /// `alternate-exchange`.
    pub alternate_exchange: Option<String>,
    /// `arguments`.
    pub arguments: Table,
}

/// `x-subscribe: {…}`: how to subscribe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscribe {
    /// `exclusive`.
    pub exclusive: Option<bool>,
    /// `arguments`.
    pub arguments: Table,
}

/// One of `x-bindings: […]`. What it does not name is what the address is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddressBinding {
    /// `exchange`.
    pub exchange: Option<String>,
    /// `queue`.
    pub queue: Option<String>,
    /// `key`.
    pub key: Option<String>,
    /// `arguments`.
    pub arguments: Table,
}

impl FromStr for Address {
    type Err = Error;

    /// # Errors
    /// [`Error::Address`] with the place of the mistake.
    fn from_str(text: &str) -> Result<Self, Error> {
        parser::parse(text).and_then(options::address).map_err(|Mistake { at, reason }| Error::Address {
            address: text.to_owned(),
            at,
            reason,
        })
    }
}

impl Address {
    /// The queue or exchange of that name as it is.
    pub fn new(name: &str) -> Self {
        Address { name: name.to_owned(), ..Address::default() }
    }
}

impl Reliability {
    fn is_at_most_once(self) -> bool {
        matches!(self, Reliability::Unreliable | Reliability::AtMostOnce)
    }
}
