//! What of the topology outlives the process, in words that mean the same in another one: names, and keys that are given
//! once; no identifiers, which each run gives anew.
//!
//! 1. Durable exchanges but the pre-declared ones, queues with a [`StoreKey`], bindings and redirections between such.
//! 2. What goes with something that is deleted is not listed with it.
//! 3. The same list restored makes the same replica, whatever else the shards do.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{BindingEntry, Change, ExchangeEntry, PREDECLARED, QueueEntry, Topology};
use crate::journal::StoreKey;
use crate::request::{DestinationKind, ExchangeOptions, QueueOptions, Rules};
use crate::{Name, QueueId, Refusal, Request, ShardId, Table, VhostId};

/// A [`Change`] as it is recorded. A field that a record does not have is as in [`Default`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredChange {
    /// Keys below this one have been given, also to queues that are forgotten.
    KeysGiven {
        /// The first one that has not.
        below: StoreKey,
    },
    /// An exchange appears.
    ExchangeDeclared {
        /// Its virtual host.
        vhost: Name,
        /// Its name.
        name: Name,
        /// Its properties.
        options: ExchangeOptions,
    },
    /// An exchange goes, and the bindings from it and to it.
    ExchangeDeleted {
        /// Its virtual host.
        vhost: Name,
        /// Its name.
        name: Name,
    },
    /// A queue appears.
    QueueDeclared {
        /// What records call it.
        key: StoreKey,
        /// Its virtual host.
        vhost: Name,
        /// Its name.
        name: Name,
        /// The shard that it is at home on, if there are as many.
        home: u8,
        /// Its properties.
        options: Box<QueueOptions>,
    },
    /// A queue and its bindings go. If it has an alternate exchange, what is in it goes there.
    QueueDeleted {
        /// Which one.
        key: StoreKey,
    },
    /// All that a queue left that was deleted has arrived where its alternate exchange leads.
    QueueLeft {
        /// Which one.
        key: StoreKey,
    },
    /// What comes to the first queue goes to the other one, and the other way round; or no more.
    QueueRedirected {
        /// The first one.
        source: StoreKey,
        /// The other one.
        target: Option<StoreKey>,
    },
    /// A binding is made.
    Bound(StoredBinding),
    /// A binding goes.
    Unbound(StoredBinding),
}

impl StoredChange {
    /// Whether there is more after it than before.
    pub(crate) fn takes_room(&self) -> bool {
        use StoredChange::{Bound, ExchangeDeclared, QueueDeclared, QueueRedirected};
        matches!(self, Bound(_) | ExchangeDeclared { .. } | QueueDeclared { .. } | QueueRedirected { .. })
    }

    fn holds_back(&self) -> bool {
        matches!(self, Self::QueueDeclared { options, .. } if options.holds_back)
    }

    /// Whether a request asks for this change.
    pub(crate) fn is_asked_by(&self, request: &Request, topology: &Topology) -> bool {
        let is_at = |id: &VhostId, vhost: &Name| topology.vhost_name(*id) == vhost;
        match (self, request) {
            (
                Self::ExchangeDeclared { vhost, name, .. },
                Request::DeclareExchange { vhost: at, name: asked, .. },
            )
            | (
                Self::ExchangeDeleted { vhost, name },
                Request::DeleteExchange { vhost: at, name: asked, .. },
            )
            | (
                Self::QueueDeclared { vhost, name, .. },
                Request::DeclareQueue { vhost: at, name: asked, .. },
            ) => is_at(at, vhost) && name == asked && !self.holds_back(),
            (Self::Bound(binding), Request::Bind { vhost, source, destination, kind, key, .. })
            | (Self::Unbound(binding), Request::Unbind { vhost, source, destination, kind, key, .. }) => {
                is_at(vhost, &binding.vhost)
                    && (source, destination, kind) == (&binding.source, &binding.destination, &binding.kind)
                    && (*key == binding.key || binding.rules == Rules::Amqp010)
            }
            _ => false,
        }
    }
}

/// A [`BindingEntry`] as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredBinding {
    /// Virtual host.
    pub vhost: Name,
    /// The exchange that routes.
    pub source: Name,
    /// What receives.
    pub destination: Name,
    /// Whether that is a queue or an exchange.
    pub kind: DestinationKind,
    /// Binding key.
    #[serde(default)]
    pub key: Name,
    /// Arguments, sorted by name.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub arguments: Table,
    /// By whose rules it was made.
    #[serde(default)]
    pub rules: Rules,
}

/// Why a recorded topology cannot be made again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RestoreError {
    /// The configuration lacks a virtual host.
    #[error("virtual host '{0}' holds what is durable, but is not configured")]
    UnknownVhost(Name),
    /// An exchange's type does not take it.
    #[error("durable exchange '{name}' cannot be made again: {reason}")]
    Exchange {
        /// The exchange.
        name: Name,
        /// What its type says.
        reason: Box<Refusal>,
    },
    /// An exchange's type does not take a binding.
    #[error(
        "the durable binding of '{destination}' to exchange '{source_name}' cannot be made again: {reason}"
    )]
    Binding {
        /// The exchange.
        source_name: Name,
        /// What is bound to it.
        destination: Name,
        /// What its type says.
        reason: Box<Refusal>,
    },
    /// A record speaks of what is not there, or makes what is there.
    #[error("the records of the topology contradict each other: {0}")]
    Contradiction(String),
}

impl Topology {
    /// A change as it is recorded; `None` for one that concerns nothing durable. Before it is applied.
    pub(crate) fn stored_change(&self, change: &Change) -> Option<StoredChange> {
        Some(match change {
            Change::ExchangeDeclared(entry) => self.stored_exchange(entry)?,
            Change::ExchangeDeleted(entry) => {
                let (vhost, name) = (self.vhost_name(entry.vhost).clone(), entry.name.clone());
                self.stored_exchange(entry).map(|_| StoredChange::ExchangeDeleted { vhost, name })?
            }
            Change::QueueDeclared(entry) => self.stored_queue(entry)?,
            Change::QueueOwned(..) => return None,
            Change::QueueRedirected(source, target) => {
                let source = self.store_key(*source)?;
                let target = match target {
                    Some(target) => Some(self.store_key(*target)?),
                    None => None,
                };
                StoredChange::QueueRedirected { source, target }
            }
            Change::QueueDeleted(id) => StoredChange::QueueDeleted { key: self.store_key(*id)? },
            Change::QueueLeft(key) => StoredChange::QueueLeft { key: *key },
            Change::Bound(entry) => StoredChange::Bound(self.stored_binding(entry)?),
            Change::Unbound(entry) => StoredChange::Unbound(self.stored_binding(entry)?),
        })
    }

    /// The list that makes all that outlives the process from nothing, in an order that can be applied.
    pub fn stored_changes(&self) -> Vec<StoredChange> {
        let mut changes = vec![StoredChange::KeysGiven { below: StoreKey(self.stored.next) }];
        changes
            .extend(self.exchanges.iter().filter_map(|(_, exchange)| self.stored_exchange(&exchange.entry)));
        let mut leaving: Vec<_> = self.stored.leaving.iter().collect();
        leaving.sort_unstable_by_key(|(key, _)| **key);
        for (key, entry) in leaving {
            changes.extend(self.stored_queue(entry));
            changes.push(StoredChange::QueueDeleted { key: *key });
        }
        let mut queues: Vec<_> = self.stored.by_key.iter().map(|(&key, &id)| (key, id)).collect();
        queues.sort_unstable_by_key(|&(key, _)| key);
        let slots = queues.iter().filter_map(|&(_, id)| self.slot_of(id));
        let slots: Vec<u32> = slots.collect();
        for &slot in &slots {
            changes.extend(self.stored_queue(&self.queues[slot as usize].entry));
        }
        for &slot in &slots {
            let queue = &self.queues[slot as usize];
            let target = self.store_key(queue.receiver).filter(|_| queue.is_source);
            if let (Some(source), Some(_)) = (queue.entry.store_key, target) {
                changes.push(StoredChange::QueueRedirected { source, target });
            }
        }
        for (slot, _) in &self.exchanges {
            let latest_first: Vec<u32> = self.bindings.from(slot as u32).collect();
            let entries = latest_first.iter().rev().map(|&id| self.bindings.entry(id));
            changes.extend(entries.filter_map(|entry| self.stored_binding(entry)).map(StoredChange::Bound));
        }
        changes
    }

    /// What a recorded change means to this replica. It has to be applied before the next one is asked for. `None`: nothing is
    /// to be applied.
    ///
    /// # Errors
    /// It cannot be applied.
    pub(crate) fn restored_change(&mut self, stored: &StoredChange) -> Result<Option<Change>, RestoreError> {
        Ok(Some(match stored {
            StoredChange::KeysGiven { below } => {
                self.skip_store_keys(*below);
                return Ok(None);
            }
            StoredChange::ExchangeDeclared { vhost, name, options } => {
                let vhost = self.known_vhost(vhost)?;
                let entry = ExchangeEntry { vhost, name: name.clone(), options: options.clone() };
                self.check_restored_exchange(&entry)?;
                Change::ExchangeDeclared(Arc::new(entry))
            }
            StoredChange::ExchangeDeleted { vhost, name } => {
                let vhost = self.known_vhost(vhost)?;
                let entry = self.exchange_entry(vhost, name.as_bytes());
                Change::ExchangeDeleted(entry.cloned().ok_or_else(|| missing("exchange", name))?)
            }
            StoredChange::QueueDeclared { key, vhost, name, home, options } => {
                let vhost = self.known_vhost(vhost)?;
                let is_there = match options.holds_back {
                    true => {
                        let exchange = self.exchange_slot(vhost, name.as_bytes());
                        let exchange = exchange.ok_or_else(|| missing("exchange", name))?;
                        self.exchanges[exchange as usize].hold.is_some()
                    }
                    false => self.queue(vhost, name.as_bytes()).is_some(),
                };
                if is_there || self.stored.by_key.contains_key(key) {
                    return Err(contradiction(&format!("queue '{name}' (key {}) is made twice", key.0)));
                }
                let home = match *home < self.shards {
                    true => ShardId(*home),
                    false => self.home_of(vhost, name),
                };
                let (index, generation) = self.homes[home.index()].next();
                let id = QueueId { home, index, generation };
                let (name, options) = (name.clone(), (**options).clone());
                let entry = QueueEntry { id, vhost, name, owner: None, store_key: Some(*key), options };
                Change::QueueDeclared(Arc::new(entry))
            }
            StoredChange::QueueDeleted { key } => Change::QueueDeleted(self.restored_queue(*key)?),
            StoredChange::QueueLeft { key } => match self.leaving(*key) {
                Some(_) => Change::QueueLeft(*key),
                None => return Err(contradiction(&format!("no queue of key {} was deleted", key.0))),
            },
            StoredChange::QueueRedirected { source, target } => {
                let target = target.map(|target| self.restored_queue(target)).transpose()?;
                Change::QueueRedirected(self.restored_queue(*source)?, target)
            }
            StoredChange::Bound(binding) => {
                let entry = self.restored_binding(binding)?;
                self.check_restored_binding(&entry)?;
                Change::Bound(Arc::new(entry))
            }
            StoredChange::Unbound(binding) => {
                let entry = self.restored_binding(binding)?;
                if self.find_binding(&entry).is_none() {
                    let (source, destination) = (&binding.source, &binding.destination);
                    return Err(contradiction(&format!("'{destination}' is not bound to '{source}'")));
                }
                Change::Unbound(Arc::new(entry))
            }
        }))
    }

    fn stored_exchange(&self, entry: &ExchangeEntry) -> Option<StoredChange> {
        if !entry.options.durable || is_predeclared(&entry.name) {
            return None;
        }
        let (vhost, name) = (self.vhost_name(entry.vhost).clone(), entry.name.clone());
        Some(StoredChange::ExchangeDeclared { vhost, name, options: entry.options.clone() })
    }

    fn stored_queue(&self, entry: &QueueEntry) -> Option<StoredChange> {
        Some(StoredChange::QueueDeclared {
            key: entry.store_key?,
            vhost: self.vhost_name(entry.vhost).clone(),
            name: entry.name.clone(),
            home: entry.id.home.0,
            options: Box::new(entry.options.clone()),
        })
    }

    fn stored_binding(&self, entry: &BindingEntry) -> Option<StoredBinding> {
        let is_durable = |name: &Name| self.exchange(entry.vhost, name.as_bytes()).is_some_and(|o| o.durable);
        let is_stored = match entry.kind {
            DestinationKind::Exchange => is_durable(&entry.destination),
            DestinationKind::Queue => {
                let queue = self.queue(entry.vhost, entry.destination.as_bytes());
                queue.is_some_and(|queue| queue.store_key.is_some())
            }
        };
        if !is_stored || !is_durable(&entry.source) {
            return None;
        }
        Some(StoredBinding {
            vhost: self.vhost_name(entry.vhost).clone(),
            source: entry.source.clone(),
            destination: entry.destination.clone(),
            kind: entry.kind,
            key: entry.key.clone(),
            arguments: entry.arguments.clone(),
            rules: entry.rules,
        })
    }

    fn store_key(&self, id: QueueId) -> Option<StoreKey> {
        self.queue_by_id(id)?.store_key
    }

    fn known_vhost(&self, name: &Name) -> Result<VhostId, RestoreError> {
        self.vhost(name.as_bytes()).ok_or_else(|| RestoreError::UnknownVhost(name.clone()))
    }

    fn restored_queue(&self, key: StoreKey) -> Result<QueueId, RestoreError> {
        self.queue_by_key(key).ok_or_else(|| contradiction(&format!("there is no queue of key {}", key.0)))
    }

    fn check_restored_exchange(&self, entry: &ExchangeEntry) -> Result<(), RestoreError> {
        if self.exchange_slot(entry.vhost, entry.name.as_bytes()).is_some() {
            return Err(contradiction(&format!("exchange '{}' is made twice", entry.name)));
        }
        let made = self.types.make(&entry.options);
        made.map(drop)
            .map_err(|reason| RestoreError::Exchange { name: entry.name.clone(), reason: Box::new(reason) })
    }

    /// The binding with the names that its ends have, which a million of them share.
    fn restored_binding(&self, binding: &StoredBinding) -> Result<BindingEntry, RestoreError> {
        let vhost = self.known_vhost(&binding.vhost)?;
        let exchange = |name: &Name| {
            let entry = self.exchange_entry(vhost, name.as_bytes());
            entry.map(|entry| entry.name.clone()).ok_or_else(|| missing("exchange", name))
        };
        let destination = match binding.kind {
            DestinationKind::Exchange => exchange(&binding.destination)?,
            DestinationKind::Queue => {
                let queue = self.queue(vhost, binding.destination.as_bytes());
                queue.ok_or_else(|| missing("queue", &binding.destination))?.name.clone()
            }
        };
        Ok(BindingEntry {
            vhost,
            source: exchange(&binding.source)?,
            destination,
            kind: binding.kind,
            key: binding.key.clone(),
            arguments: binding.arguments.clone(),
            rules: binding.rules,
        })
    }

    fn check_restored_binding(&self, entry: &BindingEntry) -> Result<(), RestoreError> {
        let (source, destination) = (&entry.source, &entry.destination);
        if self.find_binding(entry).is_some() {
            return Err(contradiction(&format!("'{destination}' is bound to '{source}' twice")));
        }
        let slot =
            self.exchange_slot(entry.vhost, source.as_bytes()).ok_or_else(|| missing("exchange", source))?;
        self.exchanges[slot as usize].routes.check(entry).map_err(|reason| RestoreError::Binding {
            source_name: source.clone(),
            destination: destination.clone(),
            reason: Box::new(reason),
        })
    }
}

fn is_predeclared(name: &Name) -> bool {
    PREDECLARED.iter().any(|(predeclared, ..)| predeclared.as_bytes() == name.as_bytes())
}

fn missing(object: &str, name: &Name) -> RestoreError {
    contradiction(&format!("there is no {object} '{name}'"))
}

fn contradiction(text: &str) -> RestoreError {
    RestoreError::Contradiction(text.to_string())
}
