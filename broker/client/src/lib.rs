//! Asynchronous client library for Fulmar and other AMQP brokers.
//!
//! ```no_run
//! use fulmar_client::{Connection, Options, Publish, QueueOptions};
//!
//! # async fn example() -> Result<(), fulmar_client::Error> {
//! let connection = Connection::open(Options::from_url("amqp://guest:guest@localhost/")?).await?;
//! let channel = connection.channel().await?;
//! channel.declare_queue("work", QueueOptions::durable()).await?;
//!
//! channel.enable_confirms().await?;
//! channel.publish_confirmed(&Publish::to_queue("work", b"a task")).await?.await?;
//!
//! let mut consumer = channel.consume("work", Default::default()).await?;
//! if let Some(delivery) = consumer.next().await {
//!     delivery?.ack()?;
//! }
//! connection.close().await
//! # }
//! ```
//!
//! * Everything is pipelined: publishing and settling never wait for the broker; calls may overlap.
//! * Back-pressure works both ways: publishing waits while too much is unsent, unconfirmed, or the broker asks for it;
//!   nothing more is received while the application does not take what has come.
//! * A connection that breaks is made again, with its channels, declarations and consumers; see [`Reconnect`].
//! * The URL's scheme picks the protocol and what carries it: `amqp` is AMQP 0-9-1 over TCP, `amqp0-10` AMQP 0-10 over
//!   TCP, `amqps` and `amqps0-10` are the same over TLS.
//!
//! Inside, an engine turns bytes into events and requests into bytes, without I/O; a session keeps who waits for
//! what; a driver task moves the bytes.

mod address;
mod branch;
mod carrier;
mod channel;
mod confirms;
mod connection;
mod consumer;
mod driver;
mod engine;
mod error;
mod message;
mod options;
mod rdma;
mod request;
mod session;
mod tls;
mod topology;

pub use address::{
    Address, AddressBinding, Declare, LinkOptions, NodeKind, NodeOptions, Policy, Receiver, Reliability,
    Sender, Subscribe,
};
pub use branch::{BranchEnd, BranchStart, BranchStatus, Phases, Prepared, Xid};
pub use channel::{Channel, Confirmation, Got};
pub use connection::{Connection, ConnectionEvent, ConnectionEvents};
pub use consumer::{Consumer, Delivery, Returns};
pub use error::Error;
pub use fulmar_core::{Name, Table, Value};
pub use fulmar_tls::{ClientOptions as TlsOptions, Failure as TlsFailure, MinVersion, Trust};
pub use message::{Message, MessageProperties, Publish, Returned};
pub use options::{Carrier, Mechanism, Options, Protocol, Reconnect, Secret, Unconfirmed};
pub use request::{
    BindingState, ConsumeOptions, ExchangeOptions, ExchangeState, QueueInfo, QueueOptions, QueueState,
};
