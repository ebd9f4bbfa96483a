//! The engine of one shard.
//!
//! Everything here runs on the shard's own thread. What concerns one subject sits in one file:
//! `sessions` (connections, sessions, the gate before them), `publish` and `route` (from a session to queues),
//! `deliver` and `accounts` (from queues to sessions and back), `home` (what a queue's home does for sessions
//! anywhere), `lifetime` (when queues go), `policy` (queues that do not take whatever comes), `moving` (messages taken out
//! of queues), `paging` and `reading` (queues longer than memory), `keeping` (exchanges that keep something), `deadletter`,
//! `requests` (what sessions ask), `control` (changes to the topology), `durable` (what is written down of them),
//! `transaction`,
//! `recording` (what is written down of messages), `handover` (messages that go from queue to queue), `stored` (what
//! waits for the journal), `remote` and `envelope` (the lanes to other shards), `outputs` (what waits to be told
//! to connections).

mod accounts;
mod attic;
mod control;
mod deadletter;
mod deliver;
mod durable;
mod ending;
mod envelope;
mod handover;
mod holding;
mod home;
mod keeping;
mod lifetime;
mod moving;
mod outputs;
mod paging;
mod permissions;
mod policy;
mod publish;
mod random;
mod reading;
mod recording;
mod remote;
mod requests;
mod route;
mod seek;
mod sessions;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::VecDeque;
use std::num::NonZeroU32;

use slab::Slab;

use accounts::Accounts;
use attic::Attic;
pub use attic::Resumable;
use control::Control;
use deadletter::Dead;
use durable::TopologyLost;
use ending::Left;
use envelope::{Bereft, Letter, Query};
pub use envelope::{Envelope, mesh_for};
use handover::Handovers;
use home::{Queues, Trash};
use keeping::Kept;
use moving::Moving;
use outputs::Outputs;
use paging::Paging;
pub use policy::Event;
use policy::Withheld;
use random::Random;
use reading::Reads;
use recording::{Departures, Joining};
use remote::ConfirmRun;
use sessions::{Clients, Connection, Session};
use stored::Line;
use table::Table;
use transaction::{Branches, Parts, Records, Round};

use crate::hash::Map;
use crate::journal::{Joined, Journal, Position, Reason, TransactionKey};
use crate::mesh::{Lane, MeshEnd};
use crate::message::MessageStore;
use crate::queue::ConsumerKey;
use crate::timers::Timers;
use crate::topology::{RouteCache, Topology};
use crate::{ConnectionId, Limits, MessageId, Name, QueueId, Refusal, Reply, SessionId, ShardId};

/// The time, as the caller tells it. The core has no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds since some fixed moment; never goes back.
    pub monotonic_ns: u64,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// What a shard is made with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub id: ShardId,
    /// How many there are.
    pub shards: u8,
    /// Bounds.
    pub limits: Limits,
    /// Virtual hosts that exist from the start, the default one (`/`) first. [`VhostId`] is the index.
    pub vhosts: Vec<Name>,
    /// Seed of generated names and of the random exchange. Shards of one broker get different ones.
    pub seed: u64,
}

/// A session's end of an unsettled or settled message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done with it.
    Accept,
    /// Put back to its place in the queue, marked redelivered.
    Requeue,
    /// Put back to its place in the queue, marked as it was when it was delivered: its client has not looked at it.
    Release,
    /// Dead-letter or drop.
    Reject,
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// Every queue that should has it, or the exchange had no queue for it and it was not mandatory.
    Confirmed,
    /// A queue refused it (overflow `reject-publish`).
    Rejected,
    /// [`Output::Confirmed`] will tell. Only if a confirm was asked for.
    Pending,
    /// Mandatory and no queue takes it. The message is the caller's again: return it to the client, then release it.
    Unroutable(MessageId),
}

/// A message on its way to a client.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// `owner` of the connection, as given to [`Shard::open_connection`].
    pub owner: u32,
    /// `channel` of the session, as given to [`Shard::open_session`].
    pub channel: u16,
    /// May have been delivered before.
    pub redelivered: bool,
    /// How long it has left in its queue, in milliseconds, if it expires there.
    pub ttl_left_ms: Option<NonZeroU32>,
    /// Consumer, as chosen at subscription.
    pub consumer: u32,
    /// Where it came from, for settling.
    pub queue: QueueId,
    /// Its handle there, for settling; meaningless for consumers without acknowledgement.
    pub tag: u64,
    /// The message. The receiver releases it once encoded.
    pub message: MessageId,
    /// How many of its batch follow it, for the same consumer, to be released with it. None of them needs settlement.
    pub followers: u16,
}

/// What a shard has to tell the connections that live on it.
#[derive(Debug)]
pub enum Output {
    /// A message for a consumer.
    Delivery(Delivery),
    /// The answer to the session's outstanding request.
    Reply {
        /// Owner of the connection.
        owner: u32,
        /// Channel of the session.
        channel: u16,
        /// The answer.
        result: Box<Result<Reply, Refusal>>,
    },
    /// The end of a publish that was [`Published::Pending`].
    Confirmed {
        /// Owner of the connection.
        owner: u32,
        /// Channel of the session.
        channel: u16,
        /// The number given at publishing.
        sequence: u64,
        /// Whether every queue took it.
        accepted: bool,
    },
    /// The broker ended a consumer (its queue is gone).
    ConsumerCancelled {
        /// Owner of the connection.
        owner: u32,
        /// Channel of the session.
        channel: u16,
        /// Consumer, as chosen at subscription.
        consumer: u32,
        /// Whether it could have been sent something: it had credit, or needs none.
        waited: bool,
    },
}
/// What a shard has counted since it started, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages published by sessions here.
    pub published: u64,
    /// Messages that no queue was bound for.
    pub unroutable: u64,
    /// Deliveries handed to connections here.
    pub delivered: u64,
    /// Messages fetched from queues at home here.
    pub fetched: u64,
    /// Messages settled by clients, at home here.
    pub settled: u64,
    /// Messages put back by clients, at home here.
    pub requeued: u64,
    /// Messages that clients rejected.
    pub rejected: u64,
    /// Messages that expired.
    pub expired: u64,
    /// Messages dropped from the head of a full queue, or refused and dead-lettered.
    pub overflown: u64,
    /// Messages that a full queue refused.
    pub refused: u64,
    /// Messages that a ring gave up for newer ones, or did not take.
    pub overwritten: u64,
    /// Messages of last-value queues that newer ones took the place of.
    pub replaced: u64,
    /// Messages published again to a dead-letter exchange, or routed by an alternate exchange.
    pub dead_lettered: u64,
    /// Deliveries that needed no settlement and whose session was gone when they came.
    pub undelivered: u64,
    /// Queues that ended because nobody used them.
    pub queues_expired: u64,
    /// Events that management did not take in time.
    pub events_lost: u64,
    /// Queues at home here.
    pub queues: u64,
    /// Consumers of those queues.
    pub consumers: u64,
    /// Messages ready in those queues.
    pub ready: u64,
    /// Messages of those queues in clients' hands.
    pub unsettled: u64,
    /// Sessions.
    pub sessions: u64,
    /// Connections.
    pub connections: u64,
    /// Messages held, in queues or on their way.
    pub messages: u64,
    /// Bytes of those messages' buffers.
    pub memory_bytes: u64,
    /// Of those ready, messages that are out of memory.
    pub paged: u64,
    /// Messages that were put out of memory.
    pub paged_out: u64,
    /// Messages that were read again.
    pub read_back: u64,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The head of a queue expires, or a message that is held back in it is due.
    Expiry(QueueId),
    /// A queue has been unused for long.
    Unused(QueueId),
    /// An auto-delete queue has outlived its last user for long enough.
    AutoDelete(QueueId),
    /// A branch of a distributed transaction has had its time.
    Branch(u32),
    /// Nobody has come back for a session.
    Resumption(SessionId),
    /// What could not be read is tried again.
    ReadAgain,
    /// Messages may leave memory that could not before.
    PageOut,
}

/// One shard: the queues at home here, the sessions of the connections that live here, a replica of the topology.
///
/// A turn of its thread: [`Shard::set_clock`], calls for what arrived, [`Shard::turn`], take every
/// [`Shard::next_output`], [`Shard::publish_lanes`].
pub struct Shard {
    config: ShardConfig,
    clock: Clock,
    store: MessageStore,
    topology: Topology,
    routes: RouteCache,
    connections: Table<Connection>,
    clients: Clients,
    sessions: Table<Session>,
    queues: Queues,
    accounts: Accounts,
    /// Queues with something to do, in line.
    ready: VecDeque<u32>,
    /// Messages that came to queues here since the line was served.
    enqueued: usize,
    outputs: Outputs,
    /// Connections that have taken bytes since credit was last given.
    creditors: Vec<ConnectionId>,
    dead: VecDeque<Dead>,
    /// Queues with a policy that messages have left in this turn.
    thinned: Vec<QueueId>,
    /// The group of messages that name none.
    default_group: Name,
    /// Confirms that wait for queues here.
    withheld: Slab<Withheld>,
    events: VecDeque<Event>,
    /// Messages being taken out of queues here.
    moving: Vec<Moving>,
    timers: Timers<Due>,
    /// What exchanges at home here keep, by their slots in the topology.
    kept: Map<u32, Kept>,
    trash: Vec<Trash>,
    attic: Attic,
    /// Transactions that this shard carries out.
    rounds: Map<TransactionKey, Round>,
    /// What of them is written down.
    records: Records,
    /// What it has to do for transactions.
    parts: Parts,
    /// Used on the control shard alone.
    branches: Branches,
    /// Bytes of messages that wait for commits.
    waiting_bytes: u64,
    random: Random,
    stats: Stats,
    journal: Option<Box<dyn Journal>>,
    /// What the journal has on its disk.
    stored: Position,
    /// The version of the topology that is on the control shard's.
    stored_version: u64,
    /// The last version that some of is written down there: what is written down here now depends on it.
    recorded_version: u64,
    /// What the control shard's journal did not store when it failed.
    lost: Option<Box<TopologyLost>>,
    /// Why nothing is stored any more.
    failure: Option<Reason>,
    /// Whether what is written down now is complete by itself.
    joined: Joined,
    joining: Option<Joining>,
    departures: Departures,
    handovers: Handovers,
    /// Queues that have ended here and left messages on their way.
    left: Vec<Left>,
    /// Those who wait for the journal.
    line: Line,
    paging: Paging,
    reads: Reads,

    mesh: MeshEnd<Envelope>,
    /// Used on the control shard alone.
    control: Control,
    applied_version: u64,
    /// The version that each shard was last told in the data lane.
    told_version: Vec<u64>,
    /// What came from shards that know more of the topology than this one yet, in order.
    held: Vec<VecDeque<Letter>>,
    acknowledged_version: u64,
    /// Answers that wait until a queue that ended here is forgotten everywhere.
    ending: Vec<(QueueId, SessionId, Reply)>,
    /// Consumers that are told when the queue that ended here is forgotten everywhere.
    cancelled: Vec<(QueueId, Vec<Bereft>)>,
    /// Exclusive queues whose connection was gone when they came to be.
    orphans: Vec<QueueId>,
    settles_sent: Vec<u64>,
    settles_received: Vec<u64>,
    early_queries: Vec<(ShardId, Box<Query>)>,
    confirm_runs: Vec<Option<ConfirmRun>>,
    buffers_home: Vec<Vec<Vec<u8>>>,
    /// Shards that hold as many messages as they may, this one included.
    pressed: Vec<bool>,
    more_data: bool,

    // Kept for their memory.
    targets: Vec<QueueId>,
    opened: Vec<(QueueId, ConsumerKey)>,
}

impl Shard {
    /// A shard with its end of the lanes, which [`mesh_for`] makes.
    pub fn new(config: ShardConfig, mesh: MeshEnd<Envelope>) -> Self {
        assert!(config.id.0 < config.shards, "a shard is one of the shards");
        let shards = usize::from(config.shards);
        let limits = &config.limits;
        Shard {
            clock: Clock::default(),
            store: MessageStore::new(config.id, limits),
            topology: Topology::new(&config.vhosts, config.shards),
            routes: RouteCache::new(limits.route_cache_entries),
            connections: Table::new(),
            clients: Clients::default(),
            sessions: Table::new(),
            queues: Queues::default(),
            accounts: Accounts::new(limits.delivery_window_bytes),
            ready: VecDeque::new(),
            enqueued: 0,
            outputs: VecDeque::new(),
            creditors: Vec::new(),
            dead: VecDeque::new(),
            thinned: Vec::new(),
            default_group: Name::from("qpid.no-group"),
            withheld: Slab::new(),
            events: VecDeque::new(),
            moving: Vec::new(),
            timers: Timers::default(),
            kept: Map::default(),
            trash: Vec::new(),
            attic: Attic::default(),
            rounds: Map::default(),
            records: Records::default(),
            parts: Parts::default(),
            branches: Branches::default(),
            waiting_bytes: 0,
            random: Random::new(config.seed),
            stats: Stats::default(),
            journal: None,
            stored: Position::NONE,
            stored_version: 0,
            recorded_version: 0,
            lost: None,
            failure: None,
            joined: Joined::No,
            joining: None,
            departures: Departures::default(),
            handovers: Handovers::default(),
            left: Vec::new(),
            line: Line::default(),
            paging: Paging::new(limits.paging_bytes),
            reads: Reads::new(paging::read_bytes(limits.paging_bytes, 1)),
            mesh,
            control: Control::new(config.shards),
            applied_version: 0,
            told_version: vec![0; shards],
            held: (0..shards).map(|_| VecDeque::new()).collect(),
            acknowledged_version: 0,
            ending: Vec::new(),
            cancelled: Vec::new(),
            orphans: Vec::new(),
            settles_sent: vec![0; shards],
            settles_received: vec![0; shards],
            early_queries: Vec::new(),
            confirm_runs: vec![None; shards],
            buffers_home: vec![Vec::new(); shards],
            pressed: vec![false; shards],
            more_data: false,
            targets: Vec::new(),
            opened: Vec::new(),
            config,
        }
    }

    /// Adds exchange types that are not the core's own. Before anything is declared, and to all shards the same.
    pub fn add_exchange_types(&mut self, types: &[&'static crate::exchange::Registration]) {
        self.topology.add_exchange_types(types);
    }

    /// Its number.
    pub fn id(&self) -> ShardId {
        self.config.id
    }

    /// Tells the time. Once a turn, before anything else.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Seconds since 1970, as it was told.
    pub fn wall_s(&self) -> u64 {
        self.clock.wall_ms / 1000
    }

    /// Takes in what other shards sent, serves queues that became ready, does what is due. Returns whether there was
    /// anything to do, which the caller's idle strategy wants to know.
    pub fn turn(&mut self) -> bool {
        self.more_data = false;
        let mut worked = self.receive();
        for queue in std::mem::take(&mut self.orphans) {
            self.end_owned_queue(queue);
        }
        worked |= self.dispatch_ready();
        // After dispatching, so that a message without time to live has had its chance.
        worked |= self.do_what_is_due();
        worked |= self.move_on();
        worked |= self.bury_dead();
        worked |= self.observe_thinned();
        worked |= self.empty_trash();
        worked |= self.tell_late();
        worked |= self.go_on_burying();
        worked |= self.tell_left();
        worked |= self.page_out();
        self.tell_pressure();
        worked
    }

    /// Makes what this turn sent visible to the other shards and wakes those asleep. Last call of a turn.
    pub fn publish_lanes(&mut self) {
        self.give_credit();
        self.record_departures();
        self.end_turn_of_line();
        if self.config.shards > 1 {
            self.send_collected();
            self.mesh.publish();
        }
    }

    /// Announces that the thread wants to sleep. `false`: something has arrived meanwhile, take another turn.
    /// After `true`, call [`Shard::awake`] when back.
    pub fn prepare_sleep(&mut self) -> bool {
        !self.has_work() && self.mesh.prepare_sleep()
    }

    /// The thread is back from sleep.
    pub fn awake(&mut self) {
        self.mesh.awake();
    }

    /// When [`Shard::turn`] has something to do even if nothing arrives, on the monotonic clock in nanoseconds.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.timers.next_deadline_ns()
    }

    /// Whether sources should stop being read: messages held have met the limit, or a lane has a backlog.
    pub fn is_congested(&self) -> bool {
        self.pressed.contains(&true) || self.mesh.has_backlog()
    }

    /// Bytes of messages held, their buffers' capacity counted.
    pub fn memory_bytes(&self) -> u64 {
        self.store.held_bytes()
    }

    /// Whether this turn left work for another turn that must not wait.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.outputs.is_empty()
            || !self.dead.is_empty()
            || !self.thinned.is_empty()
            || self.moving.iter().any(|moving| !moving.waits)
            || !self.trash.is_empty()
            || !self.orphans.is_empty()
            || self.waits_in_vain()
            || self.more_data
            || self.paging.has_more
            || self.reads.has_work()
    }

    /// Counters, and what the shard holds now. Costs a look at every queue.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            queues: self.queues.iter().filter(|queue| !queue.holds_back()).count() as u64,
            sessions: self.sessions.len() as u64,
            connections: self.connections.len() as u64,
            messages: u64::from(self.store.live()),
            memory_bytes: self.store.held_bytes(),
            ..self.stats
        };
        for queue in self.queues.iter() {
            stats.consumers += queue.consumers.len() as u64;
            stats.ready += queue.ready_messages() as u64;
            stats.paged += queue.ready().messages_away() as u64;
            stats.unsettled += queue.unsettled_messages() as u64;
        }
        stats
    }

    fn do_what_is_due(&mut self) -> bool {
        let mut worked = false;
        while let Some((deadline_ns, due)) = self.timers.pop_due(self.clock.monotonic_ns) {
            worked = true;
            match due {
                Due::Expiry(queue) => self.expire_at(queue, deadline_ns),
                Due::Unused(queue) => self.expire_unused(queue),
                Due::AutoDelete(queue) => self.auto_delete_at(queue, deadline_ns),
                Due::Branch(slot) => self.time_branch_out(slot, deadline_ns),
                Due::Resumption(session) => self.expire_kept(session, deadline_ns),
                Due::ReadAgain => self.read_again(),
                // At the end of the turn.
                Due::PageOut => {}
            }
        }
        worked
    }

    /// Tells the other shards when this one's memory fills up, and when it has emptied by a tenth again.
    fn tell_pressure(&mut self) {
        let own = self.config.id.index();
        let (held, limit) = (self.store.held_bytes(), self.config.limits.memory_bytes);
        let high = if self.pressed[own] { held > limit - limit / 10 } else { held >= limit };
        if high == self.pressed[own] {
            return;
        }
        self.pressed[own] = high;
        for shard in self.config.others() {
            self.send(shard, Lane::Control, Letter::Pressure(high));
        }
    }
}
