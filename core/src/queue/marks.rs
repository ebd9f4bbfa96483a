//! How far messages of a durable queue may have been in clients' hands, as a restart will find it.
//!
//! Before a message is handed out it has to be written down that messages up to it may be, so that it comes back
//! marked. While there are consumers that is all of them; one who fetches is good for the next so many.

use super::{Item, NEVER_NS, NS_PER_MS, Queue};
use crate::journal::QueuePlace;
use crate::{Clock, MessageId};

/// Places beyond the one that is fetched of which it is written down that they may be handed out.
const FETCHED_AHEAD: u64 = 1024;

/// How many bits of a place count the messages of one run. Above them is the run.
const PLACE_BITS: u32 = 40;

/// See the module. Places below `stored` may be handed out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    /// What is written down and stored, or does not have to be.
    stored: u64,
    /// What was written down last.
    recorded: u64,
    /// Messages below have been handed out, whatever else may be.
    handed_out: u64,
    /// How often less was written down than before: what was to be stored before that says nothing.
    shut: u32,
}

/// What was written down of a queue at some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    below: u64,
    shut: u32,
}

impl Marks {
    /// Of a queue that no restart brings back.
    pub(crate) const OPEN: Marks = Marks { stored: u64::MAX, recorded: u64::MAX, handed_out: 0, shut: 0 };
    /// Of a durable queue whose messages nobody has had.
    pub(crate) const SHUT: Marks = Marks { stored: 0, recorded: 0, handed_out: 0, shut: 0 };
}

impl Queue {
    /// If the queue is one that a restart brings back: what comes to it is written down, and so is who may have had it.
    /// Places are not used again by later runs.
    pub(crate) fn with_records(mut self, run: u32) -> Self {
        if self.entry.store_key.is_some() {
            self.is_recorded = true;
            self.marks = Marks::SHUT;
            self.next_sequence = u64::from(run) << PLACE_BITS;
        }
        self
    }

    /// Whether what is to outlive the process is written down when it comes.
    #[inline]
    pub(crate) fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// Nothing can be written down any more.
    pub(crate) fn stop_recording(&mut self) {
        self.is_recorded = false;
        self.marks = Marks::OPEN;
    }

    /// Whether all that comes may be handed out.
    pub(crate) fn is_open(&self) -> bool {
        self.marks.stored == u64::MAX
    }

    /// Whether the message at a place may be handed out.
    pub(crate) fn may_hand_out(&self, place: u64) -> bool {
        place < self.marks.stored
    }

    /// Below which place it has to be written down that messages may be handed out, so that the one at a place may be
    /// fetched; `None`: it is.
    pub(crate) fn mark_fetched(&mut self, place: u64) -> Option<u64> {
        if place < self.marks.recorded { None } else { self.mark(place.saturating_add(FETCHED_AHEAD)) }
    }

    /// The same so that messages below a place may be handed out.
    pub(crate) fn mark(&mut self, below: u64) -> Option<u64> {
        if self.marks.recorded >= below {
            return None;
        }
        self.marks.recorded = below;
        Some(below)
    }

    /// What is written down now, for [`Queue::mark_stored`].
    pub(crate) fn mark_recorded(&self) -> Mark {
        Mark { below: self.marks.recorded, shut: self.marks.shut }
    }

    /// What was written down of it is stored.
    pub(crate) fn mark_stored(&mut self, mark: Mark) {
        if mark.shut == self.marks.shut {
            self.marks.stored = self.marks.stored.max(mark.below);
        }
    }

    /// Nobody takes messages any more: below which place this is to be written down. `None`: it is. `others` is behind
    /// messages that have left it for a client and are not gone.
    pub(crate) fn mark_shut(&mut self, others: u64) -> Option<u64> {
        if !self.is_recorded {
            return None;
        }
        let held = self.unsettled.last_place().map_or(0, |place| place + 1);
        let below = self.marks.handed_out.max(held).max(others);
        self.marks.handed_out = below;
        if self.marks.recorded == below {
            return None;
        }
        (self.marks.recorded, self.marks.stored) = (below, below);
        self.marks.shut = self.marks.shut.wrapping_add(1);
        Some(below)
    }

    /// The message at a place has been handed out.
    pub(crate) fn note_mark(&mut self, place: u64) {
        self.marks.handed_out = self.marks.handed_out.max(place + 1);
    }

    /// After a restart, before its messages are there: those below a place may have been handed out.
    pub(crate) fn restore_marks(&mut self, below: u64) {
        // Those of this run have not been there yet.
        let handed_out = self.marks.handed_out.max(below.min(self.next_sequence));
        self.marks = Marks { stored: below, recorded: below, handed_out, shut: 0 };
    }

    /// What comes until this is called again is carried out a second time, since a restart did not find the first: whether
    /// clients may have had it meanwhile.
    pub(crate) fn set_repeating(&mut self, repeats: bool) {
        // Which places it had is not known: whoever was let have any may have had it.
        self.is_repeating = repeats && self.marks.recorded > 0;
    }

    /// A message that was written down, as the queue knows it after a restart; which of its batch it is.
    pub(crate) fn restored(&self, place: &QueuePlace, part: u16, clock: Clock) -> Item {
        assert!(place.place < self.next_sequence, "a place of a run before");
        let item = Item::restored(place, part, self.ready.max_priority(), clock);
        Item { redelivered: item.redelivered || place.place < self.marks.handed_out, ..item }
    }

    /// Appends a message that is written down; returns what is to be.
    pub(crate) fn push_recorded(
        &mut self,
        message: MessageId,
        followers: u8,
        counted_bytes: usize,
        priority: u8,
        ttl_ms: Option<u64>,
        clock: Clock,
    ) -> QueuePlace {
        let item = self.item(message, followers, counted_bytes, priority, ttl_ms, clock.monotonic_ns);
        self.append(Item { recorded: true, ..item });
        QueuePlace {
            queue: self.entry.store_key.unwrap_or_default(),
            place: item.sequence,
            expires_ms: wall_ms(item.expires_ns, clock),
            priority: item.priority,
            counted_bytes: item.body_bytes,
            redelivered: item.redelivered,
        }
    }
}

impl Item {
    /// A message that was written down, as a queue with so many levels of priority above 0 knows it after a restart.
    pub(crate) fn restored(place: &QueuePlace, part: u16, highest: u8, clock: Clock) -> Item {
        Item {
            sequence: place.place,
            expires_ns: monotonic_ns(place.expires_ms, clock),
            message: MessageId { slot: 0, part },
            followers: 0,
            body_bytes: place.counted_bytes,
            priority: place.priority.min(highest),
            redelivered: place.redelivered,
            recorded: true,
        }
    }
}

/// A moment of the monotonic clock in milliseconds since 1970.
fn wall_ms(moment_ns: u64, clock: Clock) -> u64 {
    if moment_ns == NEVER_NS {
        return u64::MAX;
    }
    clock.wall_ms.saturating_add(moment_ns.saturating_sub(clock.monotonic_ns) / NS_PER_MS)
}

/// The other way round; what is past is now.
pub(crate) fn monotonic_ns(moment_ms: u64, clock: Clock) -> u64 {
    if moment_ms == u64::MAX {
        return NEVER_NS;
    }
    let left_ms = moment_ms.saturating_sub(clock.wall_ms);
    clock.monotonic_ns.saturating_add(left_ms.saturating_mul(NS_PER_MS))
}
