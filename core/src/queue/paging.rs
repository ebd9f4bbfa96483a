//! What a queue's shard has to know to move messages out of memory and back.

use super::level::Look;
use super::ready::{Item, Ready};
use super::{Depth, Queue};
use crate::request::{Overflow, QueueOptions};

impl Queue {
    /// What waits, for reading and paging out.
    #[inline]
    pub(crate) fn ready_mut(&mut self) -> &mut Ready {
        &mut self.ready
    }

    /// What waits.
    #[inline]
    pub(crate) fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Whether something is out of memory.
    #[inline]
    pub(crate) fn is_paged(&self) -> bool {
        self.ready.is_paged()
    }

    /// Whether all its messages stay in memory, and are read at once after a restart: it has to know of each its key or
    /// its group, or gives the oldest up for a new one whatever that says.
    pub(crate) fn is_resident(&self) -> bool {
        self.is_resident
    }

    /// Most of it that should be in memory, whatever room there is.
    pub(crate) fn share(&self) -> Depth {
        self.share
    }

    /// Whether more of it is in memory than should be.
    pub(crate) fn is_beyond_share(&self) -> bool {
        self.ready.messages_here() as u64 > self.share.messages || self.ready.bytes_here() > self.share.bytes
    }

    /// Whether there are messages that have not been put out of memory yet and could be.
    pub(crate) fn may_page_out(&self) -> bool {
        !self.is_resident && self.ready.may_page_out()
    }

    /// The first message that waits at a place or behind it, be it out of memory.
    pub(crate) fn look(&self, place: u64) -> Option<Look> {
        self.ready.next_at(place)
    }

    /// After a restart, a message of a queue that has to know all of them is in memory. The one whose place a newer one has
    /// taken, be it this one.
    pub(crate) fn note_restored(&mut self, item: &Item, text: crate::Name) -> Option<Item> {
        if let Some(groups) = self.groups_mut() {
            groups.enqueued(text, item.sequence);
            return None;
        }
        let policy = self.policy.as_deref_mut()?;
        let (level, place) = policy.last_value.as_mut()?.restored(text, (item.priority, item.sequence))?;
        match policy.held_at((level, place)) {
            Some(tag) => self.take_back(tag).map(|(item, _)| item),
            None => self.ready.remove(level, place),
        }
    }

    /// After a restart: everything is there, or can be read.
    pub(crate) fn end_restore(&mut self) {
        let depth = self.depth();
        if let Some(policy) = self.policy.as_deref_mut() {
            policy.restored(depth);
        }
        self.note_watchers();
    }
}

/// Whether all messages of a queue with these properties stay in memory.
pub(super) fn is_resident(options: &QueueOptions) -> bool {
    options.last_value_key.is_some()
        || options.group_key.is_some()
        || matches!(options.overflow, Overflow::Ring | Overflow::RingStrict)
}

/// What a queue with these properties may have in memory.
pub(super) fn share(options: &QueueOptions) -> Depth {
    let most = |limit: Option<u64>| limit.filter(|_| options.overflow == Overflow::FlowToDisk);
    Depth {
        messages: most(options.max_length).unwrap_or(u64::MAX),
        bytes: most(options.max_length_bytes).unwrap_or(u64::MAX),
    }
}
