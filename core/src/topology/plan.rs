//! Deciding on requests: every rule for what may be declared, deleted, bound and unbound.

use std::sync::Arc;

use super::{BindingEntry, Change, ExchangeEntry, Plan, QueueEntry, Topology};
use crate::exchange::{self, Destination};
use crate::hash::Map;
use crate::request::{DestinationKind, ExchangeOptions, QueueOptions};
use crate::{ConnectionId, Name, QueueId, Refusal, Request, ShardId, Table, Value, VhostId};

/// Names that only the broker gives.
const RESERVED: &[u8] = b"amq.";

impl Topology {
    /// Control shard only: decides on a topology request (declare, delete, bind, unbind) of `owner`, a connection on
    /// shard `from`. `generated` is the name for a queue declared without one. Chooses identifiers, which count on the
    /// plan being applied before the next one is made. Nothing is applied.
    ///
    /// Deleting a queue with `if_unused` or `if_empty` is the home's business: the engine asks it first.
    ///
    /// # Errors
    /// The reason of the refusal.
    ///
    /// # Panics
    /// If the request is not about the topology.
    pub fn plan(
        &mut self,
        request: &Request,
        owner: Option<ConnectionId>,
        from: ShardId,
        generated: &Name,
    ) -> Result<Plan, Refusal> {
        match request {
            Request::DeclareExchange { vhost, name, passive, options } => {
                self.plan_exchange(*vhost, name, *passive, options)
            }
            Request::DeleteExchange { vhost, name, if_unused } => {
                self.plan_exchange_end(*vhost, name, *if_unused)
            }
            Request::DeclareQueue { vhost, name, passive: true, .. } => {
                let queue = self.check_access(*vhost, name, owner)?.id;
                Ok(Plan { changes: Vec::new(), queue: Some(queue) })
            }
            Request::DeclareQueue { vhost, name, passive: false, options } => {
                let (name, is_generated) = if name.is_empty() { (generated, true) } else { (name, false) };
                self.plan_queue(*vhost, name, is_generated, options, owner, from)
            }
            Request::DeleteQueue { vhost, name, .. } => match self.check_access(*vhost, name, owner) {
                Ok(entry) => Ok(self.plan_queue_end(entry.id)),
                Err(Refusal::NoQueue(_)) => Ok(Plan::default()),
                Err(refusal) => Err(refusal),
            },
            Request::Bind { vhost, source, destination, kind, key, arguments } => {
                let binding = binding_entry(*vhost, source, destination, *kind, key, arguments);
                self.plan_binding(binding, owner)
            }
            Request::Unbind { vhost, source, destination, kind, key, arguments } => {
                let binding = binding_entry(*vhost, source, destination, *kind, key, arguments);
                self.plan_binding_end(binding, owner)
            }
            Request::PurgeQueue { .. }
            | Request::Subscribe { .. }
            | Request::Cancel { .. }
            | Request::Get { .. }
            | Request::Barrier => panic!("not a request about the topology: {request:?}"),
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
    ) -> Result<Plan, Refusal> {
        refuse_default(name)?;
        let current = self.exchange(vhost, name.as_bytes());
        match current {
            None if passive => return Err(Refusal::NoExchange(name.clone())),
            Some(_) if passive => return Ok(Plan::default()),
            _ => {}
        }
        let known = exchange::find(&options.kind)?;
        if let Some(current) = current {
            same_exchange(name, current, options, known.arguments)?;
            return Ok(Plan::default());
        }
        refuse_reserved("exchange", name)?;
        exchange::make(options)?;
        let entry = ExchangeEntry { vhost, name: name.clone(), options: options.clone() };
        Ok(Plan { changes: vec![Change::ExchangeDeclared(Arc::new(entry))], queue: None })
    }

    fn plan_exchange_end(&self, vhost: VhostId, name: &Name, if_unused: bool) -> Result<Plan, Refusal> {
        refuse_default(name)?;
        if name.as_bytes().starts_with(RESERVED) {
            let vhost = self.vhost_name(vhost);
            let text = format!("deletion of system exchange '{name}' in vhost '{vhost}' not permitted");
            return Err(Refusal::Forbidden(text));
        }
        let Some(slot) = self.exchange_slot(vhost, name.as_bytes()) else { return Ok(Plan::default()) };
        if if_unused && self.bindings.count_from(slot) > 0 {
            return Err(Refusal::Busy { object: "exchange", name: name.clone(), state: "in use" });
        }
        let mut changes = vec![Change::ExchangeDeleted(self.exchanges[slot as usize].entry.clone())];
        self.cascade(Some(slot), self.bindings.to(Destination::Exchange(slot)), &mut changes);
        Ok(Plan { changes, queue: None })
    }

    fn plan_queue(
        &self,
        vhost: VhostId,
        name: &Name,
        is_generated: bool,
        options: &QueueOptions,
        owner: Option<ConnectionId>,
        from: ShardId,
    ) -> Result<Plan, Refusal> {
        match self.check_access(vhost, name, owner) {
            Ok(current) => {
                same_queue(name, &current.options, options)?;
                return Ok(Plan { changes: Vec::new(), queue: Some(current.id) });
            }
            Err(Refusal::NoQueue(_)) => {}
            Err(refusal) => return Err(refusal),
        }
        if !is_generated {
            refuse_reserved("queue", name)?;
        }
        let home = match options.home {
            Some(home) if home >= self.shards => {
                return Err(Refusal::InvalidArgument {
                    argument: "x-fulmar-shard".into(),
                    reason: format!("shard {home} of {}", self.shards),
                });
            }
            Some(home) => ShardId(home),
            None if options.exclusive => from,
            None => self.home_of(vhost, name),
        };
        let (index, generation) = self.homes[home.index()].next();
        let id = QueueId { home, index, generation };
        let owner = owner.filter(|_| options.exclusive);
        let entry = QueueEntry { id, vhost, name: name.clone(), owner, options: options.clone() };
        Ok(Plan { changes: vec![Change::QueueDeclared(Arc::new(entry))], queue: Some(id) })
    }

    fn plan_binding(&self, mut binding: BindingEntry, owner: Option<ConnectionId>) -> Result<Plan, Refusal> {
        let vhost = binding.vhost;
        refuse_default(&binding.source)?;
        let source = self
            .exchange_slot(vhost, binding.source.as_bytes())
            .ok_or_else(|| Refusal::NoExchange(binding.source.clone()))?;
        match binding.kind {
            DestinationKind::Queue => {
                binding.destination = self.check_access(vhost, &binding.destination, owner)?.name.clone();
            }
            DestinationKind::Exchange => {
                refuse_default(&binding.destination)?;
                let slot = self
                    .exchange_slot(vhost, binding.destination.as_bytes())
                    .ok_or_else(|| Refusal::NoExchange(binding.destination.clone()))?;
                binding.destination = self.exchanges[slot as usize].entry.name.clone();
            }
        }
        // A million bindings share the names of what they bind.
        binding.source = self.exchanges[source as usize].entry.name.clone();
        self.exchanges[source as usize].routes.check(&binding)?;
        match self.find_binding(&binding) {
            Some(_) => Ok(Plan::default()),
            None => Ok(Plan { changes: vec![Change::Bound(Arc::new(binding))], queue: None }),
        }
    }

    fn plan_binding_end(&self, binding: BindingEntry, owner: Option<ConnectionId>) -> Result<Plan, Refusal> {
        refuse_default(&binding.source)?;
        match binding.kind {
            DestinationKind::Queue => match self.check_access(binding.vhost, &binding.destination, owner) {
                Ok(_) | Err(Refusal::NoQueue(_)) => {}
                Err(refusal) => return Err(refusal),
            },
            DestinationKind::Exchange => refuse_default(&binding.destination)?,
        }
        let Some(id) = self.find_binding(&binding) else { return Ok(Plan::default()) };
        let mut changes = vec![Change::Unbound(self.bindings.entry(id).clone())];
        self.cascade(None, [id], &mut changes);
        Ok(Plan { changes, queue: None })
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
            changes.push(Change::ExchangeDeleted(self.exchanges[exchange as usize].entry.clone()));
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
) -> BindingEntry {
    let mut arguments = arguments.clone();
    arguments.0.sort_by(|(left, _), (right, _)| left.cmp(right));
    let (source, destination, key) = (source.clone(), destination.clone(), key.clone());
    BindingEntry { vhost, source, destination, kind, key, arguments }
}

fn refuse_default(exchange: &Name) -> Result<(), Refusal> {
    match exchange.is_empty() {
        true => Err(Refusal::Forbidden("operation not permitted on the default exchange".into())),
        false => Ok(()),
    }
}

fn refuse_reserved(object: &str, name: &Name) -> Result<(), Refusal> {
    match name.as_bytes().starts_with(RESERVED) {
        true => Err(Refusal::Forbidden(format!("{object} name '{name}' contains reserved prefix 'amq.*'"))),
        false => Ok(()),
    }
}

fn same_exchange(
    name: &Name,
    current: &ExchangeOptions,
    asked: &ExchangeOptions,
    arguments: &[&str],
) -> Result<(), Refusal> {
    let same = Sameness { object: "exchange", name };
    let kind = |options: &ExchangeOptions| Some(Value::Text(options.kind.clone()));
    same.value("type", kind(asked), kind(current))?;
    same.flag("durable", asked.durable, current.durable)?;
    same.flag("auto_delete", asked.auto_delete, current.auto_delete)?;
    same.flag("internal", asked.internal, current.internal)?;
    let alternate = |options: &ExchangeOptions| options.alternate.clone().map(Value::Text);
    same.value("alternate-exchange", alternate(asked), alternate(current))?;
    for &argument in arguments {
        let of = |options: &ExchangeOptions| options.arguments.get(argument.as_bytes()).cloned();
        same.value(argument, of(asked), of(current))?;
    }
    Ok(())
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
