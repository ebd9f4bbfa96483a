//! Every item. Adding one is an entry in the table of its group.

pub mod idle;
pub mod interrupts;
pub mod isolation;
pub mod kernel;
pub mod limits;
pub mod memory;
pub mod nic;
pub mod power;
pub mod rdma;
pub mod settings;
pub mod topology;

use crate::item::{Computed, Item};

const COMPUTED: &[&[Computed]] = &[
    isolation::ITEMS,
    power::ITEMS,
    topology::ITEMS,
    interrupts::ITEMS,
    nic::ITEMS,
    memory::ITEMS,
    limits::ITEMS,
    kernel::ITEMS,
    rdma::ITEMS,
];

/// Every item, in the order of reports.
pub fn all() -> Vec<&'static dyn Item> {
    let computed = COMPUTED.iter().flat_map(|items| items.iter()).map(|item| item as &dyn Item);
    let mut items: Vec<&dyn Item> =
        computed.chain(settings::SETTINGS.iter().map(|item| item as &dyn Item)).collect();
    items.sort_by_key(|item| item.group());
    items
}

/// The item of this name.
pub fn named(name: &str) -> Option<&'static dyn Item> {
    all().into_iter().find(|item| item.name() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_told_in_a_line() {
        let mut seen = HashSet::new();
        for item in all() {
            assert!(seen.insert(item.name()), "{} twice", item.name());
            assert!(item.about().len() <= 76, "{}: {}", item.name(), item.about().len());
            assert!(!item.about().ends_with('.'), "{}", item.name());
        }
    }
}
