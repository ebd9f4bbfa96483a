//! What a protocol has to offer to be measured.
//!
//! 1. A [`Driver`] sets up what a run needs, hands out its connections, and removes everything afterwards. That part
//!    may be slow.
//! 2. The links are what runs per message: they gather writes, take reads apart and allocate nothing. All are
//!    non-blocking, and each belongs to one thread.
//! 3. Nothing outside a driver knows of frames, channels or sockets.

pub mod amqp;
pub mod amqp_0_10;
pub mod pairs;
pub mod rdma;
pub mod stream;
pub mod tls;

use std::os::fd::AsRawFd;

use amqp::batch::Contents;
use stream::Stream;

use crate::BenchError;
use crate::load::LoadError;
use crate::plan::Plan;
use crate::stamp::Stamp;

/// A protocol on a transport, against one server.
pub trait Driver {
    /// Its connections that publish.
    type Publisher: PublishLink;
    /// Its connections that consume.
    type Consumer: ConsumeLink;
    /// Its connections that answer requests.
    type Responder: RespondLink;

    /// Makes what the run needs: queues, exchanges, bindings, idle connections.
    ///
    /// # Errors
    /// The server refused or failed.
    fn declare(&mut self, plan: &Plan) -> Result<(), BenchError>;

    /// Opens the consumers of a plan, in its order; with request and reply those of the replies.
    ///
    /// # Errors
    /// The server refused or failed.
    fn consumers(&mut self, plan: &Plan) -> Result<Vec<Self::Consumer>, BenchError>;

    /// Opens the responders of a plan.
    ///
    /// # Errors
    /// The server refused or failed.
    fn responders(&mut self, plan: &Plan) -> Result<Vec<Self::Responder>, BenchError>;

    /// Opens the publishers of a plan, in its order.
    ///
    /// # Errors
    /// The server refused or failed.
    fn publishers(&mut self, plan: &Plan) -> Result<Vec<Self::Publisher>, BenchError>;

    /// How many messages are in the queues.
    ///
    /// # Errors
    /// The server refused or failed.
    fn left(&mut self, plan: &Plan) -> Result<u64, BenchError>;

    /// Removes what was made, whether or not the run went well.
    ///
    /// # Errors
    /// The server refused or failed.
    fn remove(&mut self) -> Result<(), BenchError>;
}

/// A protocol whose links do without a broker: those of [`crate::ceiling`], against servers that do nothing.
pub trait Bare: Driver {
    /// The messages of the `publisher`th publisher of a plan.
    fn contents(plan: &Plan, publisher: usize) -> Contents;

    /// The same messages as a broker sends them.
    fn deliveries(plan: &Plan, publisher: usize) -> Contents;

    /// A publisher on a connection that nobody has set up.
    fn publisher(stream: Stream, contents: Contents) -> Self::Publisher;

    /// A consumer on such a connection.
    fn consumer(stream: Stream) -> Self::Consumer;
}

/// What every link can be asked.
pub trait Link: AsRawFd + Send {
    /// What carries it.
    fn stream(&self) -> &Stream;

    /// There is output that the kernel has not taken.
    fn unflushed(&self) -> bool;

    /// There may be input that no socket will announce, since it has been read already.
    fn has_input(&self) -> bool;

    /// Writes what the kernel takes now; returns whether that was anything.
    ///
    /// # Errors
    /// The connection is of no more use.
    fn flush(&mut self) -> Result<bool, LoadError>;
}

/// A connection that publishes.
pub trait PublishLink: Link {
    /// Most messages that may be put between two flushes.
    fn capacity(&self) -> usize;

    /// Puts the next message into the output. Only when nothing is unflushed but what was put since.
    fn put(&mut self, stamp: Stamp);

    /// Takes what the broker answered; returns whether anything came.
    ///
    /// # Errors
    /// The connection is of no more use.
    fn receive(&mut self, each: impl FnMut(Answer)) -> Result<bool, LoadError>;
}

/// A connection that consumes.
pub trait ConsumeLink: Link {
    /// Takes at most `limit` messages; returns whether anything came.
    ///
    /// # Errors
    /// The connection is of no more use.
    fn receive(&mut self, limit: u64, each: impl FnMut(Received)) -> Result<bool, LoadError>;

    /// Acknowledges everything up to a tag, with the next flush.
    fn acknowledge(&mut self, tag: u64);
}

/// A connection that answers each request with its own body.
pub trait RespondLink: Link {
    /// Answers what has come; returns whether anything came. The answers leave with the next flush.
    ///
    /// # Errors
    /// The connection is of no more use.
    fn respond(&mut self) -> Result<bool, LoadError>;
}

/// What a publisher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The broker is done with messages, counted from 1 on each connection.
    Confirmed {
        /// Which.
        tag: u64,
        /// And all before it.
        multiple: bool,
        /// It does not take them.
        refused: bool,
    },
    /// No queue wanted a message.
    Returned,
}

/// A message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What its publisher wrote.
    pub stamp: Stamp,
    /// To acknowledge it by.
    pub tag: u64,
}
