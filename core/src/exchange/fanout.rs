//! `fanout`: every binding matches.

use super::{Binding, Destination, Destinations, ExchangeType, Scratch};
use crate::Name;
use crate::topology::Routable;

/// All destinations.
#[derive(Default)]
pub(super) struct Fanout {
    destinations: Destinations,
}

impl ExchangeType for Fanout {
    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        self.destinations.insert(binding.destination);
        0
    }

    fn unbind(&mut self, binding: &Binding<'_>, _: u32) {
        self.destinations.remove(binding.destination);
    }

    fn route(&self, _: &[u8], _: &Routable<'_>, _: &mut Scratch, found: &mut Vec<Destination>) {
        found.extend_from_slice(self.destinations.as_slice());
    }

    /// Keys mean nothing here.
    fn normal_key(&self, _: &Name) -> Name {
        Name::default()
    }

    fn destinations(&self, _: &[u8]) -> Option<&[Destination]> {
        Some(self.destinations.as_slice())
    }
}
