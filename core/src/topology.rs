//! What exists: virtual hosts, exchanges, queues and their homes, bindings.
//!
//! One writer: the control shard turns a request into an ordered list of changes ([`Topology::plan`]); every shard
//! applies the same changes in the same order to its replica ([`Topology::apply`]) and routes by it without
//! synchronisation.
//!
//! 1. Replicas that applied the same list are the same: same identifiers, same routes.
//! 2. A plan is applied by the control shard before it plans again.
//! 3. Removing something costs what hangs on it, whatever else exists.

mod accounts;
mod bindings;
mod cache;
mod plan;
mod query;
mod route;
mod stored;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::hash::Hasher;
use std::sync::Arc;

use slab::Slab;

use crate::exchange::{self, Destination, ExchangeType, is_set};
use crate::hash::{Map, StableHasher, pick};
use crate::journal::StoreKey;
use crate::message::Encoding;
use crate::request::{DestinationKind, ExchangeOptions, QueueOptions, Rules};
use crate::{ConnectionId, Limits, Name, QueueId, Refusal, ShardId, Table, VhostId};

use accounts::Accounts;
use bindings::{Bindings, Bound};
pub use cache::RouteCache;
pub(crate) use route::Marks;
pub use stored::{RestoreError, StoredBinding, StoredChange};

/// One change to the topology. The ordered list of changes is what shards replicate and what will be reported to management;
/// a [`StoredChange`] is what is stored of it. Applying the same list gives the same replica.
#[derive(Clone, Debug)]
pub enum Change {
    /// An exchange appears.
    ExchangeDeclared(Arc<ExchangeEntry>),
    /// An exchange goes, and the bindings from it and to it.
    ExchangeDeleted(Arc<ExchangeEntry>),
    /// A queue appears, or what an exchange holds back messages in. Its home makes the queue itself.
    QueueDeclared(Arc<QueueEntry>),
    /// A queue that outlives its owner belongs to another connection, or to nobody.
    QueueOwned(QueueId, Option<ConnectionId>),
    /// What comes to the first queue goes to the other one, and the other way round; or no more.
    QueueRedirected(QueueId, Option<QueueId>),
    /// A queue and its bindings go.
    QueueDeleted(QueueId),
    /// What a queue left that was deleted has arrived where its alternate exchange leads.
    QueueLeft(StoreKey),
    /// A binding is made.
    Bound(Arc<BindingEntry>),
    /// A binding goes.
    Unbound(Arc<BindingEntry>),
}

/// A queue as every shard knows it.
#[derive(Debug, PartialEq)]
pub struct QueueEntry {
    /// Its identifier; `id.home` is the only shard that changes it.
    pub id: QueueId,
    /// Virtual host.
    pub vhost: VhostId,
    /// Name; if it holds messages back, that of its exchange.
    pub name: Name,
    /// The connection that it belongs to, if exclusive.
    pub owner: Option<ConnectionId>,
    /// What journals call it, if it outlives the process.
    pub store_key: Option<StoreKey>,
    /// Properties.
    pub options: QueueOptions,
}

impl QueueEntry {
    /// Whether a queue with these properties outlives the process. One that goes with its connection does not.
    pub fn is_stored(options: &QueueOptions) -> bool {
        options.durable && (!options.exclusive || options.outlives_owner)
    }
}

/// An exchange as every shard knows it.
#[derive(Debug, PartialEq)]
pub struct ExchangeEntry {
    /// Virtual host.
    pub vhost: VhostId,
    /// Name.
    pub name: Name,
    /// Properties.
    pub options: ExchangeOptions,
}

/// A binding as every shard knows it. All its fields but `rules` together are its identity.
#[derive(Debug, PartialEq)]
pub struct BindingEntry {
    /// Virtual host.
    pub vhost: VhostId,
    /// The exchange that routes.
    pub source: Name,
    /// What receives.
    pub destination: Name,
    /// Whether the destination is a queue or an exchange.
    pub kind: DestinationKind,
    /// Binding key.
    pub key: Name,
    /// Arguments, sorted by name: their order does not count.
    pub arguments: Table,
    /// By whose rules it was made: some exchange types understand arguments by them.
    pub rules: Rules,
}

/// Who asks for a change.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Its connection, which exclusive queues belong to.
    pub connection: Option<ConnectionId>,
    /// Where the connection lives.
    pub shard: ShardId,
    /// Whose rules hold.
    pub rules: Rules,
}

/// What the control shard decided on a request: changes to apply everywhere, then the answer.
#[derive(Debug, Default)]
pub struct Plan {
    /// To be applied in this order by every shard, this one included.
    pub changes: Vec<Change>,
    /// For `DeclareQueue`: the queue that is meant, new or existing. Its home completes the answer with counts. For
    /// `DeleteQueue`: the queue that goes, if there is one.
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
    /// Body.
    pub body: &'a [u8],
    /// For the random exchange: the caller's randomness.
    pub random: u64,
}

/// One shard's replica.
pub struct Topology {
    types: exchange::Types,
    shards: u8,
    max_route_hops: usize,
    epoch: u64,
    vhosts: Vec<Vhost>,
    exchanges: Slab<Exchange>,
    queues: Slab<Queue>,
    stored: StoredQueues,
    homes: Vec<Home>,
    bindings: Bindings,
    alternates: Alternates,
    accounts: Accounts,
    scratch: RefCell<route::Scratch>,
}

/// The names of a virtual host, and where in the slabs what they name lies.
struct Vhost {
    name: Name,
    exchanges: Map<Name, u32>,
    queues: Map<Name, u32>,
}

struct Exchange {
    entry: Arc<ExchangeEntry>,
    routes: Box<dyn ExchangeType>,
    keeping: Option<Keeping>,
    /// Where messages wait that it holds back.
    hold: Option<QueueId>,
}

/// What an exchange keeps from message to message, and on which shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    /// Its slot; the same on every replica.
    pub(crate) slot: u32,
    pub(crate) home: ShardId,
    /// It numbers messages.
    pub(crate) sequence: bool,
    /// It keeps the last message for new bindings.
    pub(crate) initial_value: bool,
}

struct Queue {
    /// Where messages for it go: it itself, or the queue that it is redirected to.
    receiver: QueueId,
    entry: Arc<QueueEntry>,
    /// It was redirected, and is not the other one.
    is_source: bool,
}

/// The identifiers of the queues at home on one shard.
#[derive(Default)]
struct Home {
    slots: Vec<HomeSlot>,
    free: Vec<u32>,
}

#[derive(Default)]
struct HomeSlot {
    generation: u32,
    queue: Option<u32>,
}

impl Home {
    /// The identifier that the next queue gets; the same on every replica.
    fn next(&self) -> (u32, u32) {
        match self.free.last() {
            Some(&index) => (index, self.slots[index as usize].generation),
            None => (self.slots.len() as u32, 0),
        }
    }

    fn take(&mut self, id: QueueId, queue: u32) {
        assert_eq!(
            self.next(),
            (id.index, id.generation),
            "queue identifiers are taken in the order planned"
        );
        if self.free.pop().is_none() {
            self.slots.push(HomeSlot::default());
        }
        self.slots[id.index as usize].queue = Some(queue);
    }

    fn get(&self, id: QueueId) -> Option<u32> {
        self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?.queue
    }

    fn give_back(&mut self, id: QueueId) {
        let slot = &mut self.slots[id.index as usize];
        slot.queue = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
    }
}

/// The queues that outlive the process, by what journals call them.
struct StoredQueues {
    by_key: Map<StoreKey, QueueId>,
    /// Those that are deleted, and whose messages are on their way to an alternate exchange.
    leaving: Map<StoreKey, Arc<QueueEntry>>,
    /// No key from here on has been given.
    next: u64,
}

impl Default for StoredQueues {
    fn default() -> Self {
        StoredQueues { by_key: Map::default(), leaving: Map::default(), next: 1 }
    }
}

/// How many exchanges and queues name an exchange as their alternate; of the names, not of what they name.
#[derive(Default)]
struct Alternates(Map<(VhostId, Name), u32>);

impl Alternates {
    fn insert(&mut self, vhost: VhostId, alternate: Option<&Name>) {
        if let Some(name) = alternate {
            *self.0.entry((vhost, name.clone())).or_default() += 1;
        }
    }

    fn remove(&mut self, vhost: VhostId, alternate: Option<&Name>) {
        let Some(name) = alternate else { return };
        let users =
            self.0.get_mut(&(vhost, name.clone())).expect("an alternate exchange that goes was noted");
        *users -= 1;
        if *users == 0 {
            self.0.remove(&(vhost, name.clone()));
        }
    }

    fn contains(&self, vhost: VhostId, name: &Name) -> bool {
        self.0.contains_key(&(vhost, name.clone()))
    }
}

/// The exchanges that every virtual host has from the start: name, type, internal.
const PREDECLARED: [(&str, &str, bool); 7] = [
    ("", "direct", false),
    ("amq.direct", "direct", false),
    ("amq.fanout", "fanout", false),
    ("amq.topic", "topic", false),
    ("amq.headers", "headers", false),
    ("amq.match", "headers", false),
    ("amq.rabbitmq.trace", "topic", true),
];

impl Topology {
    /// With the virtual hosts of the configuration, each with its pre-declared exchanges.
    pub fn new(vhosts: &[Name], shards: u8) -> Self {
        assert!(shards > 0, "a broker has at least one shard");
        assert!(vhosts.len() <= usize::from(u16::MAX), "more virtual hosts than identifiers");
        let mut topology = Topology {
            types: exchange::Types::default(),
            shards,
            max_route_hops: Limits::default().max_route_hops,
            epoch: 0,
            vhosts: Vec::new(),
            exchanges: Slab::new(),
            queues: Slab::new(),
            stored: StoredQueues::default(),
            homes: (0..shards).map(|_| Home::default()).collect(),
            bindings: Bindings::default(),
            alternates: Alternates::default(),
            accounts: Accounts::default(),
            scratch: RefCell::default(),
        };
        for (index, name) in vhosts.iter().enumerate() {
            topology.vhosts.push(Vhost {
                name: name.clone(),
                exchanges: Map::default(),
                queues: Map::default(),
            });
            for (name, kind, internal) in PREDECLARED {
                topology.add_exchange(&Arc::new(ExchangeEntry {
                    vhost: VhostId(index as u16),
                    name: name.into(),
                    options: ExchangeOptions {
                        kind: kind.into(),
                        durable: true,
                        internal,
                        ..ExchangeOptions::default()
                    },
                }));
            }
        }
        topology
    }

    /// Bounds the exchanges that one message may pass ([`Limits::max_route_hops`]).
    pub fn set_max_route_hops(&mut self, hops: usize) {
        self.max_route_hops = hops;
    }

    /// Adds exchange types. Before anything is declared, and to all replicas the same.
    pub fn add_exchange_types(&mut self, types: &[&'static exchange::Registration]) {
        self.types.add(types);
    }

    /// Applies one change.
    pub fn apply(&mut self, change: &Change) {
        self.epoch += 1;
        match change {
            Change::ExchangeDeclared(entry) => self.add_exchange(entry),
            Change::ExchangeDeleted(entry) => self.remove_exchange(entry),
            Change::QueueDeclared(entry) => self.add_queue(entry),
            Change::QueueOwned(id, owner) => self.set_owner(*id, *owner),
            Change::QueueRedirected(source, target) => self.redirect(*source, *target),
            Change::QueueDeleted(id) => self.remove_queue(*id),
            Change::QueueLeft(key) => drop(self.stored.leaving.remove(key)),
            Change::Bound(entry) => self.add_binding(entry),
            Change::Unbound(entry) => {
                let binding = self.find_binding(entry).expect("an unbound binding exists");
                self.remove_binding(binding);
            }
        }
    }

    /// Counts the changes applied. Cached routes of another epoch are stale.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The virtual host of that name.
    pub fn vhost(&self, name: &[u8]) -> Option<VhostId> {
        self.vhosts.iter().position(|vhost| vhost.name.as_bytes() == name).map(|index| VhostId(index as u16))
    }

    /// The name of a virtual host.
    pub fn vhost_name(&self, vhost: VhostId) -> &Name {
        &self.vhosts[usize::from(vhost.0)].name
    }

    /// The queue of that name.
    pub fn queue(&self, vhost: VhostId, name: &[u8]) -> Option<&Arc<QueueEntry>> {
        self.queue_slot(vhost, name).map(|slot| &self.queues[slot as usize].entry)
    }

    /// The queue of that identifier.
    pub fn queue_by_id(&self, id: QueueId) -> Option<&Arc<QueueEntry>> {
        self.slot_of(id).map(|slot| &self.queues[slot as usize].entry)
    }

    /// The queue that journals call by that key, if it is still there.
    pub fn queue_by_key(&self, key: StoreKey) -> Option<QueueId> {
        self.stored.by_key.get(&key).copied()
    }

    /// The queue of that key that is deleted, and whose messages are on their way to its alternate exchange.
    pub(crate) fn leaving(&self, key: StoreKey) -> Option<&Arc<QueueEntry>> {
        self.stored.leaving.get(&key)
    }

    /// All of those, in no particular order.
    pub(crate) fn all_leaving(&self) -> impl Iterator<Item = &Arc<QueueEntry>> {
        self.stored.leaving.values()
    }

    /// Keys below this one have been given, as far as anybody knows: by runs before, to queues that nobody remembers.
    pub(crate) fn skip_store_keys(&mut self, below: StoreKey) {
        self.stored.next = self.stored.next.max(below.0);
    }

    /// The properties of the exchange of that name.
    pub fn exchange(&self, vhost: VhostId, name: &[u8]) -> Option<&ExchangeOptions> {
        self.exchange_entry(vhost, name).map(|entry| &entry.options)
    }

    /// The exchange of that name.
    pub fn exchange_entry(&self, vhost: VhostId, name: &[u8]) -> Option<&Arc<ExchangeEntry>> {
        self.exchange_slot(vhost, name).map(|slot| &self.exchanges[slot as usize].entry)
    }

    /// The queue of that name, if `owner` may use it: an exclusive queue is its owner's alone.
    ///
    /// # Errors
    /// [`Refusal::NoQueue`], [`Refusal::ExclusiveToOther`].
    pub fn check_access(
        &self,
        vhost: VhostId,
        name: &Name,
        owner: Option<ConnectionId>,
    ) -> Result<&Arc<QueueEntry>, Refusal> {
        let entry = self.queue(vhost, name.as_bytes()).ok_or_else(|| Refusal::NoQueue(name.clone()))?;
        if entry.owner.is_some() && entry.owner != owner {
            return Err(Refusal::ExclusiveToOther(name.clone()));
        }
        Ok(entry)
    }

    /// All exchanges of a virtual host, in no particular order.
    pub fn exchanges(&self, vhost: VhostId) -> impl Iterator<Item = &Arc<ExchangeEntry>> {
        self.vhosts[usize::from(vhost.0)].exchanges.values().map(|&slot| &self.exchanges[slot as usize].entry)
    }

    /// All queues of a virtual host, in no particular order.
    pub fn queues(&self, vhost: VhostId) -> impl Iterator<Item = &Arc<QueueEntry>> {
        self.vhosts[usize::from(vhost.0)].queues.values().map(|&slot| &self.queues[slot as usize].entry)
    }

    /// All bindings of a virtual host, those of the default exchange left out, in no particular order.
    pub fn bindings(&self, vhost: VhostId) -> impl Iterator<Item = &Arc<BindingEntry>> {
        self.bindings.all().filter(move |entry| entry.vhost == vhost)
    }

    /// The bindings from an exchange, latest first; none if there is no such exchange.
    pub fn bindings_from(&self, vhost: VhostId, exchange: &[u8]) -> impl Iterator<Item = &Arc<BindingEntry>> {
        let slot = self.exchange_slot(vhost, exchange);
        slot.into_iter().flat_map(|slot| self.bindings.from(slot)).map(|id| self.bindings.entry(id))
    }

    /// The bindings to a queue or an exchange, latest first; none if there is no such thing.
    pub fn bindings_to(
        &self,
        vhost: VhostId,
        kind: DestinationKind,
        name: &[u8],
    ) -> impl Iterator<Item = &Arc<BindingEntry>> {
        let destination = self.destination(vhost, kind, name);
        destination.into_iter().flat_map(|to| self.bindings.to(to)).map(|id| self.bindings.entry(id))
    }

    fn exchange_slot(&self, vhost: VhostId, name: &[u8]) -> Option<u32> {
        self.vhosts[usize::from(vhost.0)].exchanges.get(name).copied()
    }

    fn queue_slot(&self, vhost: VhostId, name: &[u8]) -> Option<u32> {
        self.vhosts[usize::from(vhost.0)].queues.get(name).copied()
    }

    fn slot_of(&self, id: QueueId) -> Option<u32> {
        self.homes.get(id.home.index())?.get(id)
    }

    fn destination(&self, vhost: VhostId, kind: DestinationKind, name: &[u8]) -> Option<Destination> {
        match kind {
            DestinationKind::Queue => self.queue_slot(vhost, name).map(Destination::Queue),
            DestinationKind::Exchange => self.exchange_slot(vhost, name).map(Destination::Exchange),
        }
    }

    /// What the exchange of that name keeps, if anything.
    pub(crate) fn keeping(&self, vhost: VhostId, name: &[u8]) -> Option<Keeping> {
        self.exchange_slot(vhost, name).and_then(|slot| self.exchanges[slot as usize].keeping)
    }

    /// Where something goes that neither asks for a shard nor belongs to a connection.
    fn home_of(&self, vhost: VhostId, name: &Name) -> ShardId {
        let mut hasher = StableHasher::default();
        hasher.write(self.vhost_name(vhost).as_bytes());
        hasher.write_u8(0);
        hasher.write(name.as_bytes());
        ShardId(pick(hasher.finish(), usize::from(self.shards)) as u8)
    }

    fn add_exchange(&mut self, entry: &Arc<ExchangeEntry>) {
        let routes = self.types.make(&entry.options).expect("exchange options were checked when planned");
        let slot = self.exchanges.vacant_key() as u32;
        let arguments = &entry.options.arguments;
        let (sequence, initial_value) =
            (is_set(arguments, "qpid.msg_sequence"), is_set(arguments, "qpid.ive"));
        let keeping = (sequence || initial_value).then(|| {
            let home = self.home_of(entry.vhost, &entry.name);
            Keeping { slot, home, sequence, initial_value }
        });
        self.exchanges.insert(Exchange { entry: entry.clone(), routes, keeping, hold: None });
        self.alternates.insert(entry.vhost, entry.options.alternate.as_ref());
        let names = &mut self.vhosts[usize::from(entry.vhost.0)].exchanges;
        let old = names.insert(entry.name.clone(), slot);
        assert!(old.is_none(), "exchange declared twice");
    }

    fn remove_exchange(&mut self, entry: &ExchangeEntry) {
        let names = &mut self.vhosts[usize::from(entry.vhost.0)].exchanges;
        let slot = names.remove(entry.name.as_bytes()).expect("a deleted exchange exists");
        let bindings: Vec<u32> = self.bindings.from(slot).collect();
        bindings.into_iter().for_each(|binding| self.remove_binding(binding));
        self.remove_bindings_to(Destination::Exchange(slot));
        self.exchanges.remove(slot as usize);
        self.alternates.remove(entry.vhost, entry.options.alternate.as_ref());
    }

    fn add_queue(&mut self, entry: &Arc<QueueEntry>) {
        let slot =
            self.queues.insert(Queue { receiver: entry.id, entry: entry.clone(), is_source: false }) as u32;
        self.alternates.insert(entry.vhost, entry.options.alternate.as_ref());
        self.accounts.add(&entry.options);
        self.homes[entry.id.home.index()].take(entry.id, slot);
        if let Some(key) = entry.store_key {
            self.stored.next = self.stored.next.max(key.0 + 1);
            self.stored.by_key.insert(key, entry.id);
        }
        if entry.options.holds_back {
            let exchange = self.exchange_slot(entry.vhost, entry.name.as_bytes());
            let exchange = exchange.expect("a queue that holds back is its exchange's");
            self.exchanges[exchange as usize].hold = Some(entry.id);
            return;
        }
        let names = &mut self.vhosts[usize::from(entry.vhost.0)].queues;
        let old = names.insert(entry.name.clone(), slot);
        assert!(old.is_none(), "queue declared twice");
    }

    /// Where messages for a queue go.
    pub(crate) fn receiver(&self, queue: QueueId) -> QueueId {
        self.slot_of(queue).map_or(queue, |slot| self.queues[slot as usize].receiver)
    }

    fn redirect(&mut self, source: QueueId, target: Option<QueueId>) {
        let Some(slot) = self.slot_of(source).map(|slot| slot as usize) else { return };
        let former = std::mem::replace(&mut self.queues[slot].receiver, target.unwrap_or(source));
        self.queues[slot].is_source = target.is_some();
        let other = target.unwrap_or(former);
        if let Some(slot) = self.slot_of(other).filter(|_| other != source) {
            self.queues[slot as usize].receiver = if target.is_some() { source } else { other };
            self.queues[slot as usize].is_source = false;
        }
    }

    fn set_owner(&mut self, id: QueueId, owner: Option<ConnectionId>) {
        let Some(slot) = self.slot_of(id) else { return };
        let queue = &mut self.queues[slot as usize];
        let QueueEntry { id, vhost, name, store_key, options, .. } = &*queue.entry;
        let (name, options) = (name.clone(), QueueOptions { outlives_owner: true, ..options.clone() });
        let (id, vhost, store_key) = (*id, *vhost, *store_key);
        queue.entry = Arc::new(QueueEntry { id, vhost, name, owner, store_key, options });
    }

    fn remove_queue(&mut self, id: QueueId) {
        self.redirect(id, None);
        let slot = self.slot_of(id).expect("a deleted queue exists");
        self.remove_bindings_to(Destination::Queue(slot));
        self.homes[id.home.index()].give_back(id);
        let Queue { entry, .. } = self.queues.remove(slot as usize);
        self.accounts.remove(&entry.options);
        if let Some(key) = entry.store_key {
            self.stored.by_key.remove(&key);
            if entry.options.alternate.is_some() {
                self.stored.leaving.insert(key, entry.clone());
            }
        }
        if entry.options.holds_back {
            if let Some(exchange) = self.exchange_slot(entry.vhost, entry.name.as_bytes()) {
                self.exchanges[exchange as usize].hold = None;
            }
            return;
        }
        self.alternates.remove(entry.vhost, entry.options.alternate.as_ref());
        self.vhosts[usize::from(entry.vhost.0)].queues.remove(entry.name.as_bytes());
    }

    fn add_binding(&mut self, entry: &Arc<BindingEntry>) {
        let source =
            self.exchange_slot(entry.vhost, entry.source.as_bytes()).expect("a bound exchange exists");
        let destination = self
            .destination(entry.vhost, entry.kind, entry.destination.as_bytes())
            .expect("a bound destination exists");
        let id = self.bindings.insert(entry, source, destination);
        let place =
            self.exchanges[source as usize].routes.bind(&exchange::Binding { id, destination, entry });
        self.bindings.set_place(id, place);
    }

    fn find_binding(&self, entry: &BindingEntry) -> Option<u32> {
        let source = self.exchange_slot(entry.vhost, entry.source.as_bytes())?;
        let destination = self.destination(entry.vhost, entry.kind, entry.destination.as_bytes())?;
        self.bindings.find(source, destination, &entry.key, &entry.arguments)
    }

    fn remove_bindings_to(&mut self, destination: Destination) {
        let bindings: Vec<u32> = self.bindings.to(destination).collect();
        bindings.into_iter().for_each(|binding| self.remove_binding(binding));
    }

    fn remove_binding(&mut self, id: u32) {
        let Bound { entry, source, destination, place } = self.bindings.remove(id);
        let binding = exchange::Binding { id, destination, entry: &entry };
        self.exchanges[source as usize].routes.unbind(&binding, place);
    }
}
