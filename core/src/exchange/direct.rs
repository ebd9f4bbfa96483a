//! `direct`: the routing key equals the binding key.
//!
//! A binding with the argument `qpid.exclusive-binding` ends all others with its key.

use super::{Binding, Destination, Destinations, ExchangeType, Scratch, is_set};
use crate::Name;
use crate::hash::Map;
use crate::topology::{BindingEntry, Routable};

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

    fn is_exclusive(&self, binding: &BindingEntry) -> bool {
        is_set(&binding.arguments, "qpid.exclusive-binding")
    }

    fn destinations(&self, key: &[u8]) -> Option<&[Destination]> {
        Some(self.by_key.get(key).map_or(&[], Destinations::as_slice))
    }
}
