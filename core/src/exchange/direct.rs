//! `direct`: the routing key equals the binding key.

use super::{Binding, Destination, Destinations, ExchangeType, Scratch};
use crate::Name;
use crate::hash::Map;
use crate::topology::Routable;

/// Destinations by binding key.
#[derive(Default)]
pub(super) struct Direct {
    by_key: Map<Name, Destinations>,
}

impl ExchangeType for Direct {
    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        self.by_key.entry(binding.entry.key.clone()).or_default().insert(binding.destination);
        0
    }

    fn unbind(&mut self, binding: &Binding<'_>, _: u32) {
        let key = binding.entry.key.as_bytes();
        let destinations = self.by_key.get_mut(key).expect("an unbound key was bound");
        destinations.remove(binding.destination);
        if destinations.is_empty() {
            self.by_key.remove(key);
        }
    }

    fn route(&self, key: &[u8], _: &Routable<'_>, _: &mut Scratch, found: &mut Vec<Destination>) {
        if let Some(destinations) = self.by_key.get(key) {
            found.extend_from_slice(destinations.as_slice());
        }
    }

    fn matches_keys(&self) -> bool {
        true
    }
}
