//! Who may do what is decided elsewhere; here is where it is asked. A connection without a [`Permission`] may do
//! everything.
//!
//! 1. Requests are asked for before they are carried out, by the shard of the session.
//! 2. Messages are asked for when their address is not the one that the session published to last: whoever repeats
//!    himself pays nothing. [`Shard::forget_permissions`](crate::Shard::forget_permissions) has all asked for again.

use std::sync::Arc;

use crate::request::Account;
use crate::topology::{ExchangeEntry, QueueEntry};
use crate::{Refusal, Request};

/// Decides what a connection may do. It is the connection's own, and is asked on its shard: it may remember, must not
/// wait.
pub trait Permission: Send {
    /// Whether the connection may use a virtual host. Asked once, before anything else.
    ///
    /// # Errors
    /// [`Refusal::Denied`]: not.
    fn open(&mut self, vhost: &str) -> Result<(), Refusal>;

    /// Whether a request may be carried out.
    ///
    /// # Errors
    /// [`Refusal::Denied`]: not.
    fn request(&mut self, request: &Request, known: &Known) -> Result<(), Refusal>;

    /// On whose account queues are that the connection declares, and how many that user may have. `None`: they are not
    /// counted.
    fn account(&mut self) -> Option<Account> {
        None
    }

    /// Whether a message may be published to an exchange with a routing key.
    ///
    /// # Errors
    /// [`Refusal::Denied`]: not.
    fn publish(&mut self, exchange: &[u8], routing_key: &[u8]) -> Result<(), Refusal>;

    /// The same for another connection of the client.
    fn another(&self) -> Box<dyn Permission>;
}

/// What there is of what a request is about.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The queue, of requests that are about one.
    pub queue: Option<Arc<QueueEntry>>,
    /// The exchange, of requests that are about one.
    pub exchange: Option<Arc<ExchangeEntry>>,
}
