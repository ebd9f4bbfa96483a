//! What somebody asks of the topology without changing it.

use super::{BindingEntry, Topology};
use crate::exchange::{Destination, ExchangeType};
use crate::request::BindingInfo;
use crate::{Name, Table, VhostId};

/// What a binding is looked for by.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    key: Option<&'a Name>,
    arguments: Option<&'a Table>,
}

/// What has been found among the bindings looked at.
#[derive(Default)]
struct Seen {
    any: bool,
    key: bool,
    arguments: bool,
    both: bool,
}

impl Topology {
    /// Whether there are bindings from an exchange: to a queue, with a key, with arguments, as far as each is given. What
    /// is not found to the queue named counts as not found, unless nothing is bound to that queue: then what leads
    /// elsewhere counts too.
    pub fn binding_info(
        &self,
        vhost: VhostId,
        exchange: &Name,
        queue: Option<&Name>,
        key: Option<&Name>,
        arguments: Option<&Table>,
    ) -> BindingInfo {
        let source = self.exchange_slot(vhost, exchange.as_bytes());
        let to = queue.map(|queue| self.queue_slot(vhost, queue.as_bytes()));
        let mut info = BindingInfo {
            exchange_not_found: source.is_none(),
            queue_not_found: to == Some(None),
            ..BindingInfo::default()
        };
        let (Some(source), false) = (source, info.queue_not_found) else { return info };
        if exchange.is_empty() {
            return self.default_binding_info(vhost, queue, key);
        }
        let arguments = arguments.filter(|arguments| !arguments.is_empty());
        let wanted = Wanted { key, arguments };
        let mut seen = Seen::default();
        if let Some(to) = to.flatten() {
            let bindings = self.bindings.to(Destination::Queue(to));
            seen = self.look(source, bindings.filter(|&id| self.bindings.source(id) == source), wanted);
            info.queue_not_matched = !seen.any;
        }
        if !seen.any {
            seen = self.look_everywhere(source, wanted);
        }
        // Each found, but not in one: the key is what a binding is known by.
        info.key_not_matched = key.is_some() && (!seen.key || seen.arguments && !seen.both);
        info.arguments_not_matched = arguments.is_some() && !seen.arguments;
        info
    }

    /// Every queue is bound to the default exchange by its name, and nothing else is.
    fn default_binding_info(&self, vhost: VhostId, queue: Option<&Name>, key: Option<&Name>) -> BindingInfo {
        let key_not_matched = match (queue, key) {
            (Some(queue), Some(key)) => queue != key,
            (None, Some(key)) => self.queue_slot(vhost, key.as_bytes()).is_none(),
            (_, None) => false,
        };
        BindingInfo { key_not_matched, ..BindingInfo::default() }
    }

    fn look_everywhere(&self, source: u32, wanted: Wanted<'_>) -> Seen {
        if let Wanted { key: Some(key), arguments: None } = wanted
            && let routes = &*self.exchanges[source as usize].routes
            && let Some(destinations) = routes.destinations(routes.normal_key(key).as_bytes())
        {
            let found = !destinations.is_empty();
            return Seen { any: found, key: found, arguments: found, both: found };
        }
        self.look(source, self.bindings.from(source), wanted)
    }

    fn look(&self, source: u32, bindings: impl Iterator<Item = u32>, wanted: Wanted<'_>) -> Seen {
        let routes = &*self.exchanges[source as usize].routes;
        let mut seen = Seen::default();
        for id in bindings {
            let entry = self.bindings.entry(id);
            let key = wanted.key.is_none_or(|key| has_key(routes, entry, key));
            let arguments = wanted.arguments.is_none_or(|arguments| routes.is_described(entry, arguments));
            seen.any = true;
            seen.key |= key;
            seen.arguments |= arguments;
            seen.both |= key && arguments;
            if seen.both {
                break;
            }
        }
        seen
    }
}

fn has_key(routes: &dyn ExchangeType, entry: &BindingEntry, key: &Name) -> bool {
    entry.key == *key || routes.normal_key(&entry.key) == routes.normal_key(key)
}
