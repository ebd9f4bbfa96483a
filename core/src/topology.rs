//! What exists: virtual hosts, exchanges, queues and their homes, bindings.
//!
//! One writer: the control shard turns a request into an ordered list of changes ([`Topology::plan`]); every shard
//! applies the same changes in the same order to its replica ([`Topology::apply`]) and routes by it without
//! synchronisation.

use std::sync::Arc;

use crate::message::Encoding;
use crate::request::{ExchangeOptions, QueueOptions};
use crate::{ConnectionId, Name, QueueId, Refusal, Request, ShardId, VhostId};

/// One change to the topology. The ordered list of changes is what shards replicate, what will be stored and what
/// will be reported to management. Applying the same list gives the same replica.
#[derive(Clone, Debug)]
pub enum Change {
    /// A queue appears. Its home makes the queue itself.
    QueueDeclared(Arc<QueueEntry>),
    /// A queue and its bindings go.
    QueueDeleted(QueueId),
    /// More follow: exchanges declared and deleted, bindings made and dropped.
    Todo,
}

/// A queue as every shard knows it.
#[derive(Debug)]
pub struct QueueEntry {
    /// Its identifier; `id.home` is the only shard that changes it.
    pub id: QueueId,
    /// Virtual host.
    pub vhost: VhostId,
    /// Name.
    pub name: Name,
    /// The connection that it belongs to, if exclusive.
    pub owner: Option<ConnectionId>,
    /// Properties.
    pub options: QueueOptions,
}

/// What the control shard decided on a request: changes to apply everywhere, then the answer.
#[derive(Debug)]
pub struct Plan {
    /// To be applied in this order by every shard, this one included.
    pub changes: Vec<Change>,
    /// For `DeclareQueue`: the queue that is meant, new or existing. Its home completes the answer with counts.
    pub queue: Option<QueueId>,
}

/// What a message shows to the router.
#[derive(Clone, Copy)]
pub struct Routable<'a> {
    /// Routing key.
    pub key: &'a [u8],
    /// Encoded properties.
    pub properties: &'a [u8],
    /// Encoding of the properties.
    pub encoding: &'static dyn Encoding,
    /// Whether there are application headers.
    pub has_headers: bool,
    /// For the random exchange: the caller's randomness.
    pub random: u64,
}

/// One shard's replica.
pub struct Topology {
    _todo: (),
}

impl Topology {
    /// With the virtual hosts of the configuration, each with its pre-declared exchanges.
    pub fn new(_vhosts: &[Name], _shards: u8) -> Self {
        todo!()
    }

    /// Control shard only: decides on a topology request (declare, delete, bind, unbind) of `owner`, a connection on
    /// shard `from`. `generated` is the name for a queue declared without one. Allocates identifiers. Nothing is
    /// applied.
    ///
    /// Deleting a queue with `if_unused` or `if_empty` is the home's business: the engine asks it first.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub fn plan(
        &mut self,
        _request: &Request,
        _owner: Option<ConnectionId>,
        _from: ShardId,
        _generated: &Name,
    ) -> Result<Plan, Refusal> {
        todo!()
    }

    /// Control shard only: what follows from a queue's end (expired, auto-deleted, its connection gone): the queue,
    /// its bindings, auto-delete exchanges that it leaves without bindings. Empty if it is gone already.
    pub fn plan_queue_end(&mut self, _queue: QueueId) -> Plan {
        todo!()
    }

    /// Applies one change.
    pub fn apply(&mut self, _change: &Change) {
        todo!()
    }

    /// Counts the changes applied. Cached routes of another epoch are stale.
    pub fn epoch(&self) -> u64 {
        todo!()
    }

    /// The queue of that name.
    pub fn queue(&self, _vhost: VhostId, _name: &[u8]) -> Option<&Arc<QueueEntry>> {
        todo!()
    }

    /// The queue of that identifier.
    pub fn queue_by_id(&self, _id: QueueId) -> Option<&Arc<QueueEntry>> {
        todo!()
    }

    /// The properties of the exchange of that name.
    pub fn exchange(&self, _vhost: VhostId, _name: &[u8]) -> Option<&ExchangeOptions> {
        todo!()
    }

    /// Routes a message: appends to `targets` each queue once, whatever the ways to it; alternate exchanges are
    /// followed when an exchange has none. `true` if the answer depends only on exchange and routing key, so that it
    /// can be remembered until the epoch changes.
    ///
    /// # Errors
    /// [`Refusal::NoExchange`].
    pub fn route(
        &self,
        _vhost: VhostId,
        _exchange: &[u8],
        _message: &Routable<'_>,
        _targets: &mut Vec<QueueId>,
    ) -> Result<bool, Refusal> {
        todo!()
    }
}

/// Remembers routes by exchange and routing key. Bounded; an epoch invalidates.
pub struct RouteCache {
    _todo: (),
}

impl RouteCache {
    /// At most `entries` routes.
    pub fn new(_entries: usize) -> Self {
        todo!()
    }

    /// The route remembered at this epoch.
    pub fn get(&self, _epoch: u64, _vhost: VhostId, _exchange: &[u8], _key: &[u8]) -> Option<&[QueueId]> {
        todo!()
    }

    /// Remembers a route; may forget another.
    pub fn insert(
        &mut self,
        _epoch: u64,
        _vhost: VhostId,
        _exchange: &[u8],
        _key: &[u8],
        _targets: &[QueueId],
    ) {
        todo!()
    }
}
