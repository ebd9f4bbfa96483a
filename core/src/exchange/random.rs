//! `x-random`: each message goes to one binding, by chance.

use super::{Binding, Destination, ExchangeType, Listed, Scratch};
use crate::hash::pick;
use crate::topology::Routable;

/// All bindings.
#[derive(Default)]
pub(super) struct Random {
    bindings: Listed<Destination>,
}

impl ExchangeType for Random {
    fn bind(&mut self, binding: &Binding<'_>) -> u32 {
        self.bindings.insert(binding.id, binding.destination);
        0
    }

    fn unbind(&mut self, binding: &Binding<'_>, _: u32) {
        self.bindings.remove(binding.id);
    }

    fn route(&self, _: &[u8], message: &Routable<'_>, _: &mut Scratch, found: &mut Vec<Destination>) {
        let count = self.bindings.items().len();
        if count > 0 {
            found.extend(self.bindings.items().nth(pick(message.random, count)));
        }
    }

    fn is_by_key_alone(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::tests::{bound, entry, found_at_random};

    #[test]
    fn every_binding_gets_its_part() {
        let mut exchange = Random::default();
        assert!(found_at_random(&exchange, 1).is_empty());
        let entry = entry("key", &[]);
        for queue in 0..4 {
            exchange.bind(&bound(queue, queue, &entry));
        }
        exchange.unbind(&bound(1, 1, &entry), 0);
        let mut counts = [0; 4];
        for n in 0..300u64 {
            let found = found_at_random(&exchange, crate::hash::mix(n + 1));
            assert_eq!(found.len(), 1);
            counts[found[0] as usize] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!([0, 2, 3].iter().all(|&queue| counts[queue] > 60), "{counts:?}");
    }
}
