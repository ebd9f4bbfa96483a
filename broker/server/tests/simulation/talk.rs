//! What clients do, in any protocol.

use std::net::SocketAddr;

use fulmar_transport::sim::Random;

use crate::ways::Ways;
use crate::wire::Wire;
use crate::wire_0_10::Wire010;

/// What a client hears.
#[derive(Debug)]
pub enum Heard {
    /// The channel or session is open.
    Ready,
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
    },
    /// A delivery, or the answer to a `get`. `died_in`: the first queue that it was dead-lettered from.
    Message {
        fetched: bool,
        tag: u64,
        redelivered: bool,
        body: Vec<u8>,
        died_in: Option<String>,
    },
    GetEmpty,
    Cancelled,
    /// The channel is closed, as was asked.
    Closed,
    /// The broker closes the channel or session.
    Refused {
        code: u16,
        text: String,
    },
    /// The broker closes the connection.
    Expelled {
        code: u16,
        text: String,
    },
    Committed,
    RolledBack,
    /// The branch of this name is prepared; it is to be ended.
    Prepared(String),
    /// Branches of distributed transactions that wait for somebody to decide.
    InDoubt(Vec<String>),
    /// A declaration or subscription was answered.
    Done,
    /// The broker says goodbye in order.
    Goodbye,
}

/// How a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Up,
    /// Nothing more will come.
    Down,
}

/// How a client settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    Accept,
    Requeue,
    Reject,
}

/// What a message carries besides its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub label: Option<String>,
    pub priority: Option<u8>,
    pub persistent: bool,
}

/// What publishers and consumers say.
pub trait Talk {
    /// Moves bytes; takes at most `most` in. Everything heard is appended.
    fn pump(&mut self, most: usize, heard: &mut Vec<Heard>) -> Line;
    /// Sends what the network takes. What stays behind is noticed by nobody but this client.
    fn send(&mut self);
    /// Bytes that the network has not taken.
    fn unsent(&self) -> usize;
    fn reset(self: Box<Self>);
    /// Wants confirms, or transactions; answered by [`Heard::Done`].
    fn begin_publishing(&mut self, transactional: bool);
    fn publish(&mut self, exchange: &str, key: &str, marks: &Marks, body: &[u8]);
    fn end_transaction(&mut self, commit: bool);
    /// Commits the branch that is prepared.
    fn commit_prepared(&mut self) {}
    /// Wants to settle in transactions; answered by [`Heard::Done`].
    fn begin_settling(&mut self);
    /// Most unsettled messages at a time; 0 for any number.
    fn subscribe(&mut self, queue: &str, prefetch: u16);
    fn fetch(&mut self, queue: &str);
    fn cancel(&mut self);
    /// Settles these deliveries; `multiple`: they are all that are not settled up to the last of them.
    fn settle(&mut self, tags: &[u64], multiple: bool, how: Settling);
    /// Whether a full queue's refusal ends the session.
    fn dies_of_refusals(&self) -> bool;
}

/// A connection in some protocol.
pub fn connect(ways: &Ways, address: SocketAddr, random: &mut Random) -> Box<dyn Talk> {
    match random.below(2) {
        0 => Box::new(Wire::connect(ways, address, random)),
        _ => Box::new(Wire010::connect_often(ways, address, random)),
    }
}
