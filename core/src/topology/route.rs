//! The way of a message from an exchange to its queues. Runs per message: no allocation in steady state.

use super::{BindingEntry, Routable, Topology};
use crate::exchange::{self, Destination};
use crate::{Name, QueueId, Refusal, VhostId};

/// Kept between messages so that routing allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    exchange: exchange::Scratch,
    /// What the exchange at hand found.
    found: Vec<Destination>,
    /// Exchanges still to be asked.
    ahead: Vec<u32>,
    queues_seen: Marks,
    exchanges_seen: Marks,
}

/// A set of slots that empties in no time.
#[derive(Default)]
pub(crate) struct Marks {
    marks: Vec<u64>,
    round: u64,
}

impl Marks {
    /// Empties the set.
    pub(crate) fn clear(&mut self) {
        self.round += 1;
    }

    /// Puts a slot in; `false` if it was there.
    pub(crate) fn insert(&mut self, slot: u32) -> bool {
        let slot = slot as usize;
        if self.marks.len() <= slot {
            self.marks.resize((slot + 1).next_power_of_two(), 0);
        }
        std::mem::replace(&mut self.marks[slot], self.round) != self.round
    }
}

impl Topology {
    /// Routes a message: appends to `targets` each queue once, whatever the ways to it; alternate exchanges are
    /// followed when an exchange has none. `true` if the answer depends only on exchange and routing key, so that it
    /// can be remembered until the epoch changes.
    ///
    /// # Errors
    /// [`Refusal::NoExchange`].
    pub fn route(
        &self,
        vhost: VhostId,
        exchange: &[u8],
        message: &Routable<'_>,
        targets: &mut Vec<QueueId>,
    ) -> Result<bool, Refusal> {
        self.route_keys(vhost, exchange, message, &[], targets)
    }

    /// Like [`Topology::route`], for a message with further routing keys (sender-selected distribution). They count
    /// where the exchange type matches keys with bindings; the answer does not depend on the first key alone then.
    ///
    /// # Errors
    /// [`Refusal::NoExchange`].
    pub fn route_keys(
        &self,
        vhost: VhostId,
        exchange: &[u8],
        message: &Routable<'_>,
        further_keys: &[&[u8]],
        targets: &mut Vec<QueueId>,
    ) -> Result<bool, Refusal> {
        let Some(first) = self.exchange_slot(vhost, exchange) else {
            return Err(Refusal::NoExchange(Name::from(exchange)));
        };
        let mut by_key_alone = further_keys.is_empty();
        let scratch = &mut *self.scratch.borrow_mut();
        scratch.queues_seen.clear();
        scratch.exchanges_seen.clear();
        scratch.ahead.clear();
        for &target in targets.iter() {
            if let Some(slot) = self.slot_of(target) {
                scratch.queues_seen.insert(slot);
            }
        }
        scratch.exchanges_seen.insert(first);
        scratch.ahead.push(first);
        let mut hops = 0;
        while let Some(slot) = scratch.ahead.pop() {
            if hops == self.max_route_hops {
                break;
            }
            hops += 1;
            let exchange = &self.exchanges[slot as usize];
            scratch.found.clear();
            if exchange.entry.name.is_empty() {
                self.route_by_default(vhost, message.key, further_keys, &mut scratch.found);
            } else {
                by_key_alone &= exchange.routes.is_by_key_alone();
                exchange.routes.route(message.key, message, &mut scratch.exchange, &mut scratch.found);
                if exchange.routes.matches_keys() {
                    for key in further_keys {
                        exchange.routes.route(key, message, &mut scratch.exchange, &mut scratch.found);
                    }
                }
            }
            if scratch.found.is_empty() {
                let alternate = exchange.entry.options.alternate.as_ref();
                let alternate = alternate.and_then(|name| self.exchange_slot(vhost, name.as_bytes()));
                scratch.found.extend(alternate.map(Destination::Exchange));
            }
            for &destination in &scratch.found {
                match destination {
                    Destination::Queue(slot) if scratch.queues_seen.insert(slot) => {
                        targets.push(self.queues[slot as usize].receiver);
                    }
                    Destination::Exchange(slot) if scratch.exchanges_seen.insert(slot) => {
                        scratch.ahead.push(slot);
                    }
                    Destination::Queue(_) | Destination::Exchange(_) => {}
                }
            }
        }
        Ok(by_key_alone)
    }

    /// Routes a message as far as one binding takes it.
    pub(crate) fn route_by_binding(
        &self,
        binding: &BindingEntry,
        message: &Routable<'_>,
        targets: &mut Vec<QueueId>,
    ) {
        let (vhost, to) = (binding.vhost, binding.destination.as_bytes());
        let Some(exchange) = self.exchange(vhost, binding.source.as_bytes()) else { return };
        let Some(destination) = self.destination(vhost, binding.kind, to) else { return };
        let mut alone = self.types.make(exchange).expect("exchange options were checked when planned");
        alone.bind(&exchange::Binding { id: 0, destination, entry: binding });
        let mut found = Vec::new();
        alone.route(message.key, message, &mut exchange::Scratch::default(), &mut found);
        match found.first() {
            Some(&Destination::Queue(slot)) => targets.push(self.queues[slot as usize].receiver),
            // It is there, and leads on.
            Some(Destination::Exchange(_)) => drop(self.route(vhost, to, message, targets)),
            None => {}
        }
    }

    /// Where messages published to the exchange wait if they have to be held back before they are routed
    /// (`x-delayed-message`).
    pub fn hold(&self, vhost: VhostId, exchange: &[u8]) -> Option<QueueId> {
        self.exchange_slot(vhost, exchange).and_then(|slot| self.exchanges[slot as usize].hold)
    }

    fn route_by_default(
        &self,
        vhost: VhostId,
        key: &[u8],
        further_keys: &[&[u8]],
        found: &mut Vec<Destination>,
    ) {
        for key in std::iter::once(&key).chain(further_keys) {
            found.extend(self.queue_slot(vhost, key).map(Destination::Queue));
        }
    }
}
