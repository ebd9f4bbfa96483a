//! What waits until the journal has stored what it depends on.

use super::Shard;
use crate::journal::{Journal, Position};

impl Shard {
    /// Gives the shard a journal. Before anything else is asked of it.
    pub fn set_journal(&mut self, journal: Box<dyn Journal>) {
        self.journal = Some(journal);
    }

    /// The journal has stored everything before a position.
    pub fn stored(&mut self, position: Position) {
        debug_assert!(position >= self.stored, "what is stored stays stored");
        self.stored = position;
    }
}
