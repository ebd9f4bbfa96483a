//! Deciding on requests: every rule for what may be declared, deleted, bound and unbound.

use std::sync::Arc;

use super::{Asker, BindingEntry, Change, Exchange, ExchangeEntry, Plan, QueueEntry, Topology};
use crate::exchange::{Destination, Types};
use crate::hash::Map;
use crate::journal::StoreKey;
use crate::request::{DestinationKind, ExchangeOptions, Overflow, QueueOptions, Rules};
use crate::{Name, QueueId, Refusal, Request, ShardId, Table, Value, VhostId};

/// Names that only the broker gives.
const RESERVED: &[u8] = b"amq.";
/// Further ones, of exchanges, by AMQP 0-10's rules.
const RESERVED_QPID: &[u8] = b"qpid.";

impl Topology {
    /// Control shard only: decides on a topology request (declare, delete, bind, unbind). `generated` is the name for a
    /// queue declared without one. Chooses identifiers, which count on the plan being applied before the next one is
    /// made. Nothing is applied.
    ///
    /// Deleting a queue with `if_unused` or `if_empty` is the home's business: the engine asks it first.
    ///
    /// # Errors
    /// The reason of the refusal.
    ///
    /// # Panics
    /// If the request is not about the topology.
    pub fn plan(&mut self, request: &Request, asker: &Asker, generated: &Name) -> Result<Plan, Refusal> {
        let rules = asker.rules;
        match request {
            Request::DeclareExchange { vhost, name, passive, options } => {
                self.plan_exchange(*vhost, name, *passive, options, rules)
            }
            Request::DeleteExchange { vhost, name, if_unused } => {
                self.plan_exchange_end(*vhost, name, *if_unused, rules)
            }
            Request::DeclareQueue { vhost, name, passive: true, .. } => {
                let queue = self.check_access(*vhost, name, asker.connection)?.id;
                Ok(Plan { changes: Vec::new(), queue: Some(queue) })
            }
            Request::DeclareQueue { vhost, name, passive: false, options } => {
                let (name, is_generated) = if name.is_empty() { (generated, true) } else { (name, false) };
                self.plan_queue(*vhost, name, is_generated, options, asker)
            }
            Request::DeleteQueue { vhost, name, .. } => {
                match self.check_access(*vhost, name, asker.connection) {
                    Ok(entry) => Ok(self.plan_queue_end(entry.id)),
                    Err(Refusal::NoQueue(_)) if rules == Rules::Amqp091 => Ok(Plan::default()),
                    Err(refusal) => Err(refusal),
                }
            }
            Request::Bind { vhost, source, destination, kind, key, arguments } => {
                let binding = binding_entry(*vhost, source, destination, *kind, key, arguments, rules);
                self.plan_binding(binding, asker)
            }
            Request::Unbind { vhost, source, destination, kind, key, arguments } => {
                let binding = binding_entry(*vhost, source, destination, *kind, key, arguments, rules);
                self.plan_binding_end(&binding, asker)
            }
            Request::RedirectQueue { vhost, source, target } => {
                self.plan_redirection(*vhost, source, target.as_ref(), asker)
            }
            Request::PurgeQueue { .. }
            | Request::MoveMessages { .. }
            | Request::Subscribe { .. }
            | Request::Cancel { .. }
            | Request::Get { .. }
            | Request::StopConsumer { .. }
            | Request::FlushConsumer { .. }
            | Request::Acquire { .. }
            | Request::Barrier
            | Request::Commit
            | Request::Dtx { .. }
            | Request::RecoverDtx { .. }
            | Request::QueryExchange { .. }
            | Request::QueryQueue { .. }
            | Request::QueryBinding { .. } => panic!("not a request about the topology: {request:?}"),
        }
    }

    /// A passive declaration of an exchange, which every shard can answer.
    ///
    /// # Errors
    /// It is not there, or is another one, as far as AMQP 0-10's rules look.
    pub fn check_exchange(
        &self,
        vhost: VhostId,
        name: &Name,
        asked: &ExchangeOptions,
        rules: Rules,
    ) -> Result<(), Refusal> {
        let current =
            self.exchange(vhost, name.as_bytes()).ok_or_else(|| Refusal::NoExchange(name.clone()))?;
        match rules {
            Rules::Amqp091 => Ok(()),
            Rules::Amqp010 => {
                self.check_alternate(vhost, asked.alternate.as_ref())?;
                agreeing_exchange(name, current, asked)
            }
        }
    }

    /// Control shard only: what follows from a queue's end (expired, auto-deleted, its connection gone): the queue,
    /// its bindings, auto-delete exchanges that it leaves without bindings. Empty if it is gone already.
    pub fn plan_queue_end(&mut self, queue: QueueId) -> Plan {
        let Some(slot) = self.slot_of(queue) else { return Plan::default() };
        let mut changes = vec![Change::QueueDeleted(queue)];
        self.cascade(None, self.bindings.to(Destination::Queue(slot)), &mut changes);
        Plan { changes, queue: Some(queue) }
    }

    fn plan_exchange(
        &self,
        vhost: VhostId,
        name: &Name,
        passive: bool,
        options: &ExchangeOptions,
        rules: Rules,
    ) -> Result<Plan, Refusal> {
        refuse_default(name)?;
        if passive {
            return self.check_exchange(vhost, name, options, rules).map(|()| Plan::default());
        }
        if rules == Rules::Amqp010 {
            self.check_alternate(vhost, options.alternate.as_ref())?;
            refuse_reserved("exchange", name, rules)?;
        }
        if let Some(current) = self.exchange(vhost, name.as_bytes()) {
            match rules {
                Rules::Amqp091 => same_exchange(name, current, options, &self.types)?,
                Rules::Amqp010 => agreeing_exchange(name, current, options)?,
            }
            return Ok(Plan::default());
        }
        self.types.find(&options.kind)?;
        refuse_reserved("exchange", name, rules)?;
        let is_delaying = self.types.make(options)?.is_delaying();
        let entry = ExchangeEntry { vhost, name: name.clone(), options: options.clone() };
        let hold = is_delaying.then(|| Change::QueueDeclared(Arc::new(self.new_hold(&entry))));
        let exchange = Change::ExchangeDeclared(Arc::new(entry));
        Ok(Plan { changes: [exchange].into_iter().chain(hold).collect(), queue: None })
    }

    /// Where an exchange that is about to come holds messages back.
    fn new_hold(&self, exchange: &ExchangeEntry) -> QueueEntry {
        let ExchangeEntry { vhost, ref name, ref options } = *exchange;
        let options = QueueOptions { durable: options.durable, holds_back: true, ..QueueOptions::default() };
        let home = self.home_of(vhost, name);
        let (index, generation) = self.homes[home.index()].next();
        let id = QueueId { home, index, generation };
        let store_key = QueueEntry::is_stored(&options).then_some(StoreKey(self.stored.next));
        QueueEntry { id, vhost, name: name.clone(), owner: None, store_key, options }
    }

    /// What goes when an exchange does, but for bindings.
    fn end_exchange(&self, slot: u32, changes: &mut Vec<Change>) {
        let Exchange { entry, hold, .. } = &self.exchanges[slot as usize];
        changes.extend(hold.map(Change::QueueDeleted));
        changes.push(Change::ExchangeDeleted(entry.clone()));
    }

    fn plan_exchange_end(
        &self,
        vhost: VhostId,
        name: &Name,
        if_unused: bool,
        rules: Rules,
    ) -> Result<Plan, Refusal> {
        refuse_default(name)?;
        if name.as_bytes().starts_with(RESERVED) {
            let vhost = self.vhost_name(vhost);
            let text = format!("deletion of system exchange '{name}' in vhost '{vhost}' not permitted");
            return Err(Refusal::Forbidden(text));
        }
        let Some(slot) = self.exchange_slot(vhost, name.as_bytes()) else {
            return match rules {
                Rules::Amqp091 => Ok(Plan::default()),
                Rules::Amqp010 => Err(Refusal::NoExchange(name.clone())),
            };
        };
        if rules == Rules::Amqp010 && self.alternates.contains(vhost, name) {
            return Err(Refusal::InUseAsAlternate(name.clone()));
        }
        if if_unused && self.bindings.count_from(slot) > 0 {
            return Err(Refusal::Busy { object: "exchange", name: name.clone(), state: "in use" });
        }
        let mut changes = Vec::new();
        self.end_exchange(slot, &mut changes);
        self.cascade(Some(slot), self.bindings.to(Destination::Exchange(slot)), &mut changes);
        Ok(Plan { changes, queue: None })
    }

    fn plan_queue(
        &self,
        vhost: VhostId,
        name: &Name,
        is_generated: bool,
        options: &QueueOptions,
        asker: &Asker,
    ) -> Result<Plan, Refusal> {
        if asker.rules == Rules::Amqp010 {
            self.check_alternate(vhost, options.alternate.as_ref())?;
            if let Some(current) = self.queue(vhost, name.as_bytes()) {
                return plan_claim(current, options.exclusive, asker);
            }
        }
        match self.check_access(vhost, name, asker.connection) {
            Ok(current) => {
                same_queue(name, &current.options, options)?;
                return Ok(Plan { changes: Vec::new(), queue: Some(current.id) });
            }
            Err(Refusal::NoQueue(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        if !is_generated {
            refuse_reserved("queue", name, asker.rules)?;
        }
        self.accounts.check(options)?;
        let home = match options.home {
            Some(home) if home >= self.shards => {
                return Err(Refusal::InvalidArgument {
                    argument: "x-fulmar-shard".into(),
                    reason: format!("shard {home} of {}", self.shards),
                });
            }
            Some(home) => ShardId(home),
            None if options.exclusive => asker.shard,
            None => self.home_of(vhost, name),
        };
        let (index, generation) = self.homes[home.index()].next();
        let id = QueueId { home, index, generation };
        let owner = asker.connection.filter(|_| options.exclusive);
        let mut options = options.clone();
        if asker.rules == Rules::Amqp010 {
            options.outlives_owner = true;
            if !options.overflow.counts_unsettled() {
                options.overflow = Overflow::Reject;
            }
        }
        let store_key = QueueEntry::is_stored(&options).then_some(StoreKey(self.stored.next));
        let entry = QueueEntry { id, vhost, name: name.clone(), owner, store_key, options };
        Ok(Plan { changes: vec![Change::QueueDeclared(Arc::new(entry))], queue: Some(id) })
    }

    fn plan_redirection(
        &self,
        vhost: VhostId,
        source: &Name,
        target: Option<&Name>,
        asker: &Asker,
    ) -> Result<Plan, Refusal> {
        let refuse = |name: &Name, reason: &str| Err(Refusal::Forbidden(format!("queue '{name}' {reason}")));
        let is_redirected = |entry: &QueueEntry| self.receiver(entry.id) != entry.id;
        let from = self.check_access(vhost, source, asker.connection)?;
        let Some(target) = target else {
            if !self.slot_of(from.id).is_some_and(|slot| self.queues[slot as usize].is_source) {
                return refuse(source, "is not redirected");
            }
            return Ok(Plan { changes: vec![Change::QueueRedirected(from.id, None)], queue: None });
        };
        let to = self.check_access(vhost, target, asker.connection)?;
        if from.id == to.id {
            return refuse(source, "cannot be redirected to itself");
        }
        for entry in [from, to] {
            if entry.options.auto_delete {
                return refuse(&entry.name, "is auto-delete and cannot be redirected");
            }
            if is_redirected(entry) {
                return refuse(&entry.name, "is redirected already");
            }
        }
        Ok(Plan { changes: vec![Change::QueueRedirected(from.id, Some(to.id))], queue: None })
    }

    fn plan_binding(&self, mut binding: BindingEntry, asker: &Asker) -> Result<Plan, Refusal> {
        let source = self.complete_binding(&mut binding, asker)?;
        let routes = &*self.exchanges[source as usize].routes;
        routes.check(&binding)?;
        let destination = self
            .destination(binding.vhost, binding.kind, binding.destination.as_bytes())
            .expect("the destination was found just now");
        let same = self.bindings.find(source, destination, &binding.key, &binding.arguments);
        let ended: Vec<u32> = match routes.is_exclusive(&binding) {
            true => {
                self.rivals(source, &binding.key).into_iter().filter(|&rival| Some(rival) != same).collect()
            }
            false => Vec::new(),
        };
        let mut changes: Vec<Change> =
            ended.iter().map(|&rival| Change::Unbound(self.bindings.entry(rival).clone())).collect();
        if same.is_some() {
            return Ok(Plan { changes, queue: None });
        }
        let mut alike = self.bindings.with_key(source, destination, &binding.key);
        if asker.rules == Rules::Amqp010 && alike.any(|id| !ended.contains(&id)) {
            return match routes.is_matching_arguments() {
                true => Err(Refusal::InvalidBinding {
                    exchange: binding.source,
                    reason: format!("the key '{}' has other arguments already", binding.key),
                }),
                false => Ok(Plan::default()),
            };
        }
        changes.push(Change::Bound(Arc::new(binding)));
        Ok(Plan { changes, queue: None })
    }

    /// Finds both ends of a binding that is to be made. A million bindings share the names of what they bind.
    fn complete_binding(&self, binding: &mut BindingEntry, asker: &Asker) -> Result<u32, Refusal> {
        let vhost = binding.vhost;
        refuse_default(&binding.source)?;
        let source = self.source(vhost, &binding.source)?;
        match binding.kind {
            DestinationKind::Queue => {
                let queue = self.check_access(vhost, &binding.destination, asker.connection)?;
                binding.destination = queue.name.clone();
            }
            DestinationKind::Exchange => {
                refuse_default(&binding.destination)?;
                let slot = self.source(vhost, &binding.destination)?;
                binding.destination = self.exchanges[slot as usize].entry.name.clone();
            }
        }
        let exchange = &self.exchanges[source as usize];
        binding.source = exchange.entry.name.clone();
        if binding.rules == Rules::Amqp010 {
            binding.key = exchange.routes.normal_key(&binding.key);
        }
        Ok(source)
    }

    /// The slot of an exchange that has to be there.
    fn source(&self, vhost: VhostId, name: &Name) -> Result<u32, Refusal> {
        self.exchange_slot(vhost, name.as_bytes()).ok_or_else(|| Refusal::NoExchange(name.clone()))
    }

    /// All bindings from an exchange with that key.
    fn rivals(&self, source: u32, key: &Name) -> Vec<u32> {
        let destinations = self.exchanges[source as usize].routes.destinations(key.as_bytes());
        let mut destinations = destinations.unwrap_or_default().to_vec();
        destinations.dedup();
        let of = |destination| self.bindings.with_key(source, destination, key);
        destinations.into_iter().flat_map(of).collect()
    }

    fn plan_binding_end(&self, binding: &BindingEntry, asker: &Asker) -> Result<Plan, Refusal> {
        refuse_default(&binding.source)?;
        match binding.kind {
            DestinationKind::Queue => {
                match self.check_access(binding.vhost, &binding.destination, asker.connection) {
                    Err(Refusal::NoQueue(_)) if asker.rules == Rules::Amqp091 => {}
                    Err(refusal) => return Err(refusal),
                    Ok(_) => {}
                }
            }
            DestinationKind::Exchange => refuse_default(&binding.destination)?,
        }
        let ended = match asker.rules {
            Rules::Amqp091 => self.find_binding(binding).into_iter().collect(),
            Rules::Amqp010 => self.find_by_key(binding)?,
        };
        let entries = ended.iter().map(|&id| Change::Unbound(self.bindings.entry(id).clone()));
        let mut changes: Vec<Change> = entries.collect();
        self.cascade(None, ended, &mut changes);
        Ok(Plan { changes, queue: None })
    }

    /// The bindings that AMQP 0-10 means by a key.
    fn find_by_key(&self, binding: &BindingEntry) -> Result<Vec<u32>, Refusal> {
        let source = self.source(binding.vhost, &binding.source)?;
        let key = self.exchanges[source as usize].routes.normal_key(&binding.key);
        let to = self.destination(binding.vhost, binding.kind, binding.destination.as_bytes());
        Ok(to.map_or_else(Vec::new, |to| self.bindings.with_key(source, to, &key).collect()))
    }

    /// By AMQP 0-10's rules an alternate exchange has to be there.
    fn check_alternate(&self, vhost: VhostId, alternate: Option<&Name>) -> Result<(), Refusal> {
        alternate.map_or(Ok(()), |name| self.source(vhost, name).map(drop))
    }

    /// Appends what follows when `bindings` go: the end of each auto-delete exchange that loses its last binding, and
    /// of those that this leaves without one in turn. Not of `deleted`, whose end is planned already: it may be bound to
    /// itself, or in a circle.
    fn cascade(
        &self,
        deleted: Option<u32>,
        bindings: impl IntoIterator<Item = u32>,
        changes: &mut Vec<Change>,
    ) {
        let mut lost: Map<u32, u32> = Map::default();
        if let Some(exchange) = deleted {
            // More than it can lose.
            lost.insert(exchange, self.bindings.count_from(exchange));
        }
        let mut going = Vec::new();
        for binding in bindings {
            self.lose(binding, &mut lost, &mut going);
        }
        while let Some(exchange) = going.pop() {
            self.end_exchange(exchange, changes);
            for binding in self.bindings.to(Destination::Exchange(exchange)) {
                self.lose(binding, &mut lost, &mut going);
            }
        }
    }

    fn lose(&self, binding: u32, lost: &mut Map<u32, u32>, going: &mut Vec<u32>) {
        let source = self.bindings.source(binding);
        if !self.exchanges[source as usize].entry.options.auto_delete {
            return;
        }
        let lost = lost.entry(source).or_default();
        *lost += 1;
        if *lost == self.bindings.count_from(source) {
            going.push(source);
        }
    }
}

fn binding_entry(
    vhost: VhostId,
    source: &Name,
    destination: &Name,
    kind: DestinationKind,
    key: &Name,
    arguments: &Table,
    rules: Rules,
) -> BindingEntry {
    let mut arguments = arguments.clone();
    arguments.0.sort_by(|(left, _), (right, _)| left.cmp(right));
    let (source, destination, key) = (source.clone(), destination.clone(), key.clone());
    BindingEntry { vhost, source, destination, kind, key, arguments, rules }
}

fn refuse_default(exchange: &Name) -> Result<(), Refusal> {
    match exchange.is_empty() {
        true => Err(Refusal::DefaultExchange),
        false => Ok(()),
    }
}

fn refuse_reserved(object: &str, name: &Name, rules: Rules) -> Result<(), Refusal> {
    let prefix = match rules {
        // Clients of Qpid's messaging API name the queue of a subscription after its exchange.
        Rules::Amqp010 if object == "queue" => return Ok(()),
        _ if name.as_bytes().starts_with(RESERVED) => "amq.",
        Rules::Amqp010 if name.as_bytes().starts_with(RESERVED_QPID) => "qpid.",
        _ => return Ok(()),
    };
    Err(Refusal::Forbidden(format!("{object} name '{name}' contains reserved prefix '{prefix}*'")))
}

fn same_exchange(
    name: &Name,
    current: &ExchangeOptions,
    asked: &ExchangeOptions,
    types: &Types,
) -> Result<(), Refusal> {
    let known = types.find(&asked.kind)?;
    let same = Sameness { object: "exchange", name };
    same.value("type", kind(asked), kind(current))?;
    same.flag("durable", asked.durable, current.durable)?;
    same.flag("auto_delete", asked.auto_delete, current.auto_delete)?;
    same.flag("internal", asked.internal, current.internal)?;
    same.value("alternate-exchange", alternate(asked), alternate(current))?;
    for &argument in known.arguments {
        let of = |options: &ExchangeOptions| options.arguments.get(argument.as_bytes()).cloned();
        same.value(argument, of(asked), of(current))?;
    }
    Ok(())
}

/// By AMQP 0-10's rules only what is said counts, and of that only type and alternate exchange.
fn agreeing_exchange(name: &Name, current: &ExchangeOptions, asked: &ExchangeOptions) -> Result<(), Refusal> {
    let same = Sameness { object: "exchange", name };
    if !asked.kind.is_empty() {
        same.value("type", kind(asked), kind(current))?;
    }
    if asked.alternate.is_some() {
        same.value("alternate-exchange", alternate(asked), alternate(current))?;
    }
    Ok(())
}

fn kind(options: &ExchangeOptions) -> Option<Value> {
    Some(Value::Text(options.kind.clone()))
}

fn alternate(options: &ExchangeOptions) -> Option<Value> {
    options.alternate.clone().map(Value::Text)
}

/// Whether an exclusive queue is declared as one has been seen to already; a mismatch counts as somebody else's queue.
fn same_queue(name: &Name, current: &QueueOptions, asked: &QueueOptions) -> Result<(), Refusal> {
    let same = Sameness { object: "queue", name };
    if asked.exclusive != current.exclusive {
        return Err(Refusal::ExclusiveToOther(name.clone()));
    }
    same.flag("durable", asked.durable, current.durable)?;
    same.flag("auto_delete", asked.auto_delete, current.auto_delete)?;
    let (asked, current) = (&asked.arguments, &current.arguments);
    for (argument, _) in current.0.iter().chain(&asked.0) {
        if argument.as_bytes().starts_with(b"x-") {
            let key = argument.as_bytes();
            same.value(argument.clone(), asked.get(key).cloned(), current.get(key).cloned())?;
        }
    }
    Ok(())
}

/// By AMQP 0-10's rules naming somebody else's queue is not refused, using it may be; and a queue that nobody owns can be
/// had. Its home sees to it that nobody else consumes from it.
fn plan_claim(current: &QueueEntry, exclusive: bool, asker: &Asker) -> Result<Plan, Refusal> {
    let (id, owner) = (current.id, current.owner);
    let changes = match exclusive {
        true if owner.is_none() => vec![Change::QueueOwned(id, asker.connection)],
        true if owner != asker.connection => return Err(Refusal::ExclusiveToOther(current.name.clone())),
        _ => Vec::new(),
    };
    Ok(Plan { changes, queue: Some(id) })
}

/// Compares what is asked for with what is there, property by property.
struct Sameness<'a> {
    object: &'static str,
    name: &'a Name,
}

impl Sameness<'_> {
    fn flag(&self, argument: &str, asked: bool, current: bool) -> Result<(), Refusal> {
        self.value(argument, Some(Value::Bool(asked)), Some(Value::Bool(current)))
    }

    fn value(
        &self,
        argument: impl Into<Name>,
        received: Option<Value>,
        current: Option<Value>,
    ) -> Result<(), Refusal> {
        let same = match (&received, &current) {
            (Some(received), Some(current)) => received.is_equivalent(current),
            (None, None) => true,
            _ => false,
        };
        if same {
            return Ok(());
        }
        let (object, name, argument) = (self.object, self.name.clone(), argument.into());
        Err(Refusal::Inequivalent { object, name, argument, received, current })
    }
}
