//! Changes of the topology as they lie in a record.

use fulmar_core::topology::Change;

/// The bytes of changes.
pub fn encode(_changes: &[Change]) -> Vec<u8> {
    Vec::new()
}
