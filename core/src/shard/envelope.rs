//! What shards tell each other.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::durable::TopologyLost;
use super::keeping::Passage;
use super::moving::Taking;
use super::transaction::{BranchLetter, PartDone, RemotePart, Verdict};
use super::{Settlement, ShardConfig};
use crate::ids::ClientId;
use crate::journal::{StoreKey, TransactionKey};
use crate::mesh::{MeshEnd, Wake, mesh};
use crate::message::Message;
use crate::queue::Consumer;
use crate::request::{ConsumerOptions, Rules};
use crate::topology::Change;
use crate::{ConnectionId, Credit, Limits, Name, QueueId, Refusal, Reply, Request, SessionId};

/// Buffers that go home in one envelope.
pub(super) const BUFFER_BATCH: usize = 4;

/// What one shard tells another. Its content is the engine's business; the transport of it is the mesh's.
pub struct Envelope(pub(super) Letter);

/// Makes the lanes between `wakers.len()` shards.
pub fn mesh_for(wakers: Vec<Arc<dyn Wake>>, limits: &Limits) -> Vec<MeshEnd<Envelope>> {
    mesh(wakers, limits.lane_slots)
}

/// The queues of one shard that a message is for.
#[derive(Clone, Debug)]
pub(super) enum Targets {
    One(QueueId),
    Many(Arc<[QueueId]>),
}

impl Targets {
    /// `None` for no queue.
    pub(super) fn of(queues: &[QueueId]) -> Option<Self> {
        match queues {
            [] => None,
            [queue] => Some(Targets::One(*queue)),
            _ => Some(Targets::Many(Arc::from(queues))),
        }
    }

    pub(super) fn as_slice(&self) -> &[QueueId] {
        match self {
            Targets::One(queue) => std::slice::from_ref(queue),
            Targets::Many(queues) => queues,
        }
    }
}

/// A message on its way to a session; a batch, if none of it needs settlement.
pub(super) struct RemoteDelivery {
    pub(super) message: Message,
    /// 0 if it needs no settlement.
    pub(super) tag: u64,
    pub(super) session: SessionId,
    pub(super) connection: ConnectionId,
    pub(super) consumer: u32,
    pub(super) queue: QueueId,
    pub(super) redelivered: bool,
    pub(super) ttl_left_ms: Option<NonZeroU32>,
}

/// Something that a queue's home is asked by a session.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) session: SessionId,
    /// How many settlements and grants the session's shard had sent to this home before.
    pub(super) settles: u64,
    pub(super) ask: Ask,
}

#[derive(Debug)]
pub(super) enum Ask {
    /// The counts of a queue; `passive` insists that it is still there.
    Counts {
        queue: QueueId,
        name: Name,
        passive: bool,
    },
    Info {
        queue: QueueId,
    },
    Purge {
        queue: QueueId,
        name: Name,
    },
    Move {
        queue: QueueId,
        taking: Box<Taking>,
    },
    Get {
        queue: QueueId,
        name: Name,
        no_ack: bool,
    },
    Subscribe {
        queue: QueueId,
        name: Name,
        connection: ConnectionId,
        client: ClientId,
        consumer: u32,
        options: Box<ConsumerOptions>,
    },
    Cancel {
        queue: QueueId,
        consumer: u32,
    },
    /// End a consumer's credit, now or when it has got what is there.
    Stop {
        queue: QueueId,
        consumer: u32,
    },
    Flush {
        queue: QueueId,
        consumer: u32,
    },
    Acquire {
        queue: QueueId,
        tags: Vec<u64>,
        /// What came of the first ones, as long as others had to be read.
        acquired: Vec<Option<u64>>,
    },
    Delete {
        queue: QueueId,
        name: Name,
        if_unused: bool,
        if_empty: bool,
    },
    Barrier,
}

impl Ask {
    /// The queue that is asked for.
    pub(super) fn queue(&self) -> Option<QueueId> {
        match self {
            Ask::Counts { queue, .. }
            | Ask::Info { queue }
            | Ask::Purge { queue, .. }
            | Ask::Move { queue, .. }
            | Ask::Get { queue, .. }
            | Ask::Subscribe { queue, .. }
            | Ask::Cancel { queue, .. }
            | Ask::Stop { queue, .. }
            | Ask::Flush { queue, .. }
            | Ask::Acquire { queue, .. }
            | Ask::Delete { queue, .. } => Some(*queue),
            Ask::Barrier => None,
        }
    }
}

/// The answer to a [`Query`]. A message that was asked for travels beside the reply.
pub(super) struct Answer {
    pub(super) session: SessionId,
    pub(super) result: Result<Reply, Refusal>,
    pub(super) message: Option<Message>,
}

/// A consumer whose queue is gone.
pub(super) struct Bereft {
    pub(super) session: SessionId,
    pub(super) consumer: u32,
    /// It could have been sent something.
    pub(super) waited: bool,
}

impl Bereft {
    pub(super) fn of(consumer: &Consumer) -> Self {
        let waited = consumer.credit.is_none_or(|credit| credit.covers(1));
        Bereft { session: consumer.session, consumer: consumer.id, waited }
    }
}

// Two cache lines.
const _: () = assert!(size_of::<Letter>() <= 128);

pub(super) enum Letter {
    // Data lane: to a queue's home, in the order in which the session did it.
    /// A message or a batch; `confirm` is the first one's number.
    Publish {
        targets: Targets,
        message: Message,
        confirm: Option<(SessionId, u64)>,
    },
    Query(Box<Query>),
    /// A consumer's session has gone; no answer wanted.
    Unsubscribe {
        queue: QueueId,
        session: SessionId,
        consumer: u32,
    },
    SetPrefetch {
        queue: QueueId,
        session: SessionId,
        consumer: u32,
        prefetch: u32,
    },
    /// A message for an exchange at home there.
    PublishToKeeper {
        passage: Box<Passage>,
        message: Message,
    },
    /// The connection that owned the queue has gone.
    OwnerGone(QueueId),
    /// Who owns the queue now, which wants nothing from its owner.
    Owner {
        queue: QueueId,
        client: ClientId,
    },
    ConnectionClosed(ConnectionId),
    /// What the receiver has to do for a transaction.
    Part(Box<RemotePart>),
    /// What becomes of a part that it has prepared.
    Verdict {
        transaction: TransactionKey,
        verdict: Verdict,
    },

    // Data lane.
    /// The sender has applied changes to the topology up to this version; what follows relies on them.
    Version(u64),

    // Data lane: to the session's shard.
    Delivery(RemoteDelivery),
    Answer(Box<Answer>),
    ConsumerCancelled {
        bereft: Bereft,
        queue: QueueId,
    },

    // Reply lane. In the data lane, behind the part of a transaction that settles it too.
    Settle {
        queue: QueueId,
        tag: u64,
        settlement: Settlement,
    },
    Grant {
        queue: QueueId,
        session: SessionId,
        consumer: u32,
        credit: Credit,
    },
    /// Publishes `first` to `last` of a session have all been taken, or all been refused.
    Confirms {
        session: SessionId,
        first: u64,
        last: u64,
        accepted: bool,
    },
    /// A publish has been routed by its exchange's home; so many more answers will come.
    Routed {
        session: SessionId,
        sequence: u64,
        missing: u32,
        accepted: bool,
    },
    /// The connection has taken this many bytes of what came from the receiver.
    Credit {
        connection: ConnectionId,
        bytes: u64,
    },
    /// The sender has done what it had to do for a transaction of the receiver's, or says why it cannot.
    PartDone {
        transaction: TransactionKey,
        done: PartDone,
    },
    /// Emptied buffers of the receiver's pool.
    Buffers([Vec<u8>; BUFFER_BATCH]),

    // Control lane.
    Plan(Box<PlanRequest>),
    /// A queue has ended at its home (the sender).
    QueueEnded(QueueId),
    /// What a queue left that ended at the sender has arrived elsewhere.
    QueueLeft(StoreKey),
    /// A queue at home on the sender belongs to nobody any more.
    QueueReleased(QueueId),
    /// `is_recorded`: some of them are written down.
    Changes {
        version: u64,
        changes: Arc<[Change]>,
        is_recorded: bool,
    },
    /// All that is to be stored of the topology up to this version has been.
    TopologyStored(u64),
    /// The control shard's journal has failed.
    TopologyLost(Box<TopologyLost>),
    /// Everything up to this version has been applied by the sender.
    Applied(u64),
    Planned(Box<Planned>),
    /// Every shard has forgotten the queue that ended at the receiver; a restart does too, if that `is_stored`.
    Forgotten {
        queue: QueueId,
        is_stored: bool,
    },
    /// The sender holds as many messages as it may, or no longer does.
    Pressure(bool),
    /// Of a branch of a distributed transaction.
    Branch(Box<BranchLetter>),
}

/// A request that changes the topology, on its way to the control shard.
pub(super) struct PlanRequest {
    pub(super) session: SessionId,
    pub(super) connection: ConnectionId,
    pub(super) rules: Rules,
    pub(super) request: Request,
}

/// Its answer, once every shard knows.
pub(super) struct Planned {
    pub(super) session: SessionId,
    pub(super) result: Result<Option<QueueId>, Refusal>,
}

impl ShardConfig {
    /// Indexes of the other shards.
    pub(super) fn others(&self) -> impl Iterator<Item = crate::ShardId> + use<> {
        let own = self.id;
        (0..self.shards).map(crate::ShardId).filter(move |&shard| shard != own)
    }
}
