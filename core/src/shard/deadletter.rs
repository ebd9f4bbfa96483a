//! What becomes of messages that a queue gives up: dropped, published again to its dead-letter exchange with the story
//! of their deaths in the headers (the words are RabbitMQ's), or routed as they are by its alternate exchange.

use std::sync::Arc;

use super::Shard;
use super::handover::Origin;
use super::publish::{Selected, keys};
use crate::message::{Edit, MessageView};
use crate::queue::Item;
use crate::request::QueueOptions;
use crate::topology::QueueEntry;
use crate::{MessageId, Name, QueueId, SessionId, Table, Value, VhostId};

/// Dead letters handled before the shard turns to something else.
const BUDGET: usize = 1024;

/// Why a queue gave a message up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    /// A ring gave it up.
    Overwritten,
    /// Its queue ended.
    QueueEnded,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength | Reason::Overwritten => "maxlen",
            Reason::QueueEnded => "deleted",
        }
    }
}

/// A message given up that has somewhere to go.
pub(super) struct Dead {
    queue: Arc<QueueEntry>,
    message: MessageId,
    reason: Reason,
    /// What it leaves when it has arrived elsewhere.
    pub(super) origin: Option<Origin>,
}

impl Shard {
    /// A queue gives a message up. Dead letters wait for [`Shard::bury_dead`].
    pub(super) fn discard(&mut self, queue: &Arc<QueueEntry>, item: Item, reason: Reason) {
        let origin = if has_somewhere_to_go(&queue.options, reason) {
            self.origin_of(queue, &item)
        } else {
            self.departures.note_recorded(queue, item);
            None
        };
        let message = match goes_by_alternate(&queue.options, reason) {
            true => self.with_time_left(queue, &item),
            false => item.message,
        };
        self.discard_message(queue, message, reason, origin);
    }

    pub(super) fn discard_message(
        &mut self,
        queue: &Arc<QueueEntry>,
        message: MessageId,
        reason: Reason,
        origin: Option<Origin>,
    ) {
        self.note_discarded(reason, 1);
        if has_somewhere_to_go(&queue.options, reason) {
            self.dead.push_back(Dead { queue: queue.clone(), message, reason, origin });
        } else {
            self.store.release(message);
        }
    }

    /// A queue gives messages up.
    pub(super) fn note_discarded(&mut self, reason: Reason, messages: usize) {
        let messages = messages as u64;
        match reason {
            Reason::Rejected => self.stats.rejected += messages,
            Reason::Expired => self.stats.expired += messages,
            Reason::MaxLength => self.stats.overflown += messages,
            Reason::Overwritten => self.stats.overwritten += messages,
            Reason::QueueEnded => {}
        }
    }

    /// Publishes waiting dead letters, a bounded number. They may kill others on their way.
    #[inline]
    pub(super) fn bury_dead(&mut self) -> bool {
        !self.dead.is_empty() && self.bury_some()
    }

    #[cold]
    fn bury_some(&mut self) -> bool {
        for _ in 0..BUDGET {
            let Some(dead) = self.dead.pop_front() else { break };
            self.bury(dead);
        }
        true
    }

    fn bury(&mut self, dead: Dead) {
        let Dead { queue, message, reason, origin } = dead;
        let handover = self.begin_handover(origin);
        let exchange = queue.options.dead_letter_exchange.as_ref();
        let missing = match exchange.filter(|_| reason != Reason::QueueEnded) {
            Some(exchange) => self.publish_dead(&queue, exchange, message, reason, handover),
            None => self.route_by_alternate(&queue, message, handover),
        };
        self.end_handover(handover, missing);
    }

    /// Publishes a message to a dead-letter exchange. How many will say that it has arrived.
    fn publish_dead(
        &mut self,
        queue: &QueueEntry,
        exchange: &Name,
        message: MessageId,
        reason: Reason,
        handover: Option<(SessionId, u64)>,
    ) -> u32 {
        let view = self.store.view(message);
        let new_key = queue.options.dead_letter_routing_key.as_ref();
        let copies = keys(&view, b"CC");
        let edit = obituary(&view, queue, reason, self.clock.wall_ms / 1000, &copies);
        let properties = view.encoding.edit(view.properties, &edit);
        let key = new_key.map_or_else(|| view.routing_key.to_vec(), |key| key.as_bytes().to_vec());
        let letter = self.store.derive(message, exchange.as_bytes(), &key, &properties, None);
        self.store.release(message);
        self.stats.dead_lettered += 1;
        if let Some(missing) = self.pass_to_keeper(queue.vhost, exchange.as_bytes(), letter, true, handover) {
            return missing;
        }
        let further_keys = if new_key.is_some() { Vec::new() } else { copies };
        let mut targets = self.dead_letter_targets(queue, letter, Selected::visible(further_keys));
        if reason != Reason::Rejected {
            self.remove_cycles(letter, &mut targets);
        }
        self.distribute_internally(letter, &targets, handover)
    }

    /// Hands a message to the alternate exchange of the queue that gave it up. It stays as it is, and goes by its own
    /// key.
    fn route_by_alternate(
        &mut self,
        queue: &QueueEntry,
        message: MessageId,
        handover: Option<(SessionId, u64)>,
    ) -> u32 {
        let Some(exchange) = &queue.options.alternate else {
            self.store.release(message);
            return 0;
        };
        self.stats.dead_lettered += 1;
        self.reroute(queue.vhost, exchange, message, handover)
    }

    /// Hands a message to the queues that an exchange has for its key. Takes it over. How many will say to whom it was
    /// handed over that it has arrived.
    pub(super) fn reroute(
        &mut self,
        vhost: VhostId,
        exchange: &Name,
        message: MessageId,
        handover: Option<(SessionId, u64)>,
    ) -> u32 {
        if let Some(missing) = self.pass_to_keeper(vhost, exchange.as_bytes(), message, false, handover) {
            return missing;
        }
        let mut targets = Vec::new();
        // An exchange that is not there takes nothing.
        let _ = self.route_by_exchange(
            vhost,
            Some(exchange.as_bytes()),
            message,
            &Selected::default(),
            &mut targets,
        );
        self.distribute_internally(message, &targets, handover)
    }

    fn dead_letter_targets(
        &mut self,
        queue: &QueueEntry,
        letter: MessageId,
        further: Selected,
    ) -> Vec<QueueId> {
        let mut targets = Vec::new();
        // A dead-letter exchange that is not there takes nothing.
        let _ = self.route_by_topology(queue.vhost, letter, &further, &mut targets);
        targets
    }

    /// Removes queues that the message has died in before, if it comes back without anybody having rejected it on the
    /// way: it would go round for ever.
    pub(super) fn remove_cycles(&self, letter: MessageId, targets: &mut Vec<QueueId>) {
        let view = self.store.view(letter);
        let Some(Value::Array(deaths)) = view.encoding.header(view.properties, b"x-death") else { return };
        targets.retain(|&target| {
            let Some(entry) = self.topology.queue_by_id(target) else { return false };
            !is_cycle(entry.name.as_bytes(), &deaths)
        });
    }
}

/// Whether somebody wants what a queue gives up for a reason.
pub(super) fn has_somewhere_to_go(options: &QueueOptions, reason: Reason) -> bool {
    options.dead_letter_exchange.is_some() && reason != Reason::QueueEnded
        || goes_by_alternate(options, reason)
}

/// Whether what a queue gives up for a reason goes by its alternate exchange. What expires does not.
fn goes_by_alternate(options: &QueueOptions, reason: Reason) -> bool {
    options.alternate.is_some()
        && match reason {
            Reason::QueueEnded => true,
            Reason::Rejected | Reason::Overwritten => options.dead_letter_exchange.is_none(),
            Reason::Expired | Reason::MaxLength => false,
        }
}

/// Whether the deaths since the last one in `queue`, that one included, were all without a rejection.
fn is_cycle(queue: &[u8], deaths: &[Value]) -> bool {
    let died_here = |death: &Value| field(death, b"queue") == Some(queue);
    let Some(last) = deaths.iter().position(died_here) else { return false };
    deaths[..=last].iter().all(|death| field(death, b"reason") != Some(b"rejected"))
}

fn field<'a>(death: &'a Value, name: &[u8]) -> Option<&'a [u8]> {
    match death {
        Value::Table(table) => table.get(name)?.as_bytes(),
        _ => None,
    }
}

/// The change to a message's properties that tells of its death.
fn obituary(
    view: &MessageView<'_>,
    queue: &QueueEntry,
    reason: Reason,
    time_s: u64,
    copies: &[Name],
) -> Edit {
    let mut edit = Edit { clear_expiration: true, ..Edit::default() };
    let mut deaths = match view.encoding.header(view.properties, b"x-death") {
        Some(Value::Array(deaths)) => deaths,
        _ => Vec::new(),
    };
    let last = [
        ("exchange", Value::Text(Name::from(view.exchange))),
        ("queue", Value::Text(queue.name.clone())),
        ("reason", Value::Text(Name::from(reason.name()))),
    ];
    for (name, value) in &last {
        if deaths.is_empty() {
            edit.set_headers.push((Name::from(format!("x-first-death-{name}")), value.clone()));
        }
        edit.set_headers.push((Name::from(format!("x-last-death-{name}")), value.clone()));
    }
    let same = deaths.iter().position(|death| {
        field(death, b"queue") == Some(queue.name.as_bytes())
            && field(death, b"reason") == Some(reason.name().as_bytes())
    });
    let death = match same.map(|at| deaths.remove(at)) {
        Some(Value::Table(mut death)) => {
            let count = death.get(b"count").and_then(Value::as_i64).unwrap_or(0);
            death.set(b"count", Value::I64(count.saturating_add(1)));
            death
        }
        _ => first_death(view, queue, reason, time_s, copies),
    };
    deaths.insert(0, Value::Table(death));
    edit.set_headers.push((Name::from("x-death"), Value::Array(deaths)));
    if queue.options.dead_letter_routing_key.is_some() {
        edit.remove_headers.push(Name::from("CC"));
    }
    edit
}

/// The entry for the first death of this kind in this queue.
fn first_death(
    view: &MessageView<'_>,
    queue: &QueueEntry,
    reason: Reason,
    time_s: u64,
    copies: &[Name],
) -> Table {
    let keys = std::iter::once(Name::from(view.routing_key)).chain(copies.iter().cloned());
    let mut death = Table(vec![
        (Name::from("count"), Value::I64(1)),
        (Name::from("reason"), Value::Text(Name::from(reason.name()))),
        (Name::from("queue"), Value::Text(queue.name.clone())),
        (Name::from("time"), Value::Timestamp(time_s)),
        (Name::from("exchange"), Value::Text(Name::from(view.exchange))),
        (Name::from("routing-keys"), Value::Array(keys.map(Value::Text).collect())),
    ]);
    if let Some(expiration) = view.encoding.property(view.properties, b"expiration") {
        death.set(b"original-expiration", expiration);
    }
    death
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deaths(of: &[(&str, &str)]) -> Vec<Value> {
        let death = |&(queue, reason): &(&str, &str)| {
            Value::Table(Table(vec![
                (Name::from("queue"), Value::Text(Name::from(queue))),
                (Name::from("reason"), Value::Text(Name::from(reason))),
            ]))
        };
        of.iter().map(death).collect()
    }

    #[test]
    fn a_cycle_is_one_only_without_rejection() {
        assert!(!is_cycle(b"a", &deaths(&[("b", "expired")])));
        assert!(is_cycle(b"a", &deaths(&[("b", "expired"), ("a", "expired")])));
        assert!(!is_cycle(b"a", &deaths(&[("b", "rejected"), ("a", "expired")])));
        assert!(!is_cycle(b"a", &deaths(&[("b", "expired"), ("a", "rejected")])));
        assert!(is_cycle(b"a", &deaths(&[("a", "maxlen"), ("b", "rejected")])));
    }
}
