//! What is switched on and off while the broker runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Something that is on or off for the whole broker; clones are the same switch. A change reaches other threads soon
/// after, not at once.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// One that is on or off.
    pub fn new(is_on: bool) -> Self {
        Switch(Arc::new(AtomicBool::new(is_on)))
    }

    /// Whether it is on.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Switches it.
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Ordering::Relaxed);
    }
}
