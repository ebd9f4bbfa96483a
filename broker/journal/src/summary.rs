//! What is known of a segment without reading it: what in it is still needed, and what its records are about.

use fulmar_core::journal::{QueuePlace, StoreKey, StoredMessage};
use hashbrown::HashMap;

use crate::record::Decoded;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Places of a queue, first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The lowest.
    pub first: u64,
    /// The highest.
    pub last: u64,
}

impl Span {
    fn include(&mut self, first: u64, last: u64) {
        self.first = self.first.min(first);
        self.last = self.last.max(last);
    }

    /// Whether both have a place, as far as their ends tell.
    pub fn meets(&self, other: &Span) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What is known of a segment. Appending keeps it; a restart makes it anew by [`SegmentSummary::note`] for each record of
/// the segment, then [`SegmentSummary::retire`] for each message that turned out to be gone.
#[derive(Clone, Debug, Default)]
pub struct SegmentSummary {
    /// Records of messages that somebody needs.
    live_records: u64,
    /// Bytes of those messages, as [`message_bytes`] counts.
    live_bytes: u64,
    /// Which messages were ever enqueued here.
    enqueued: Map<StoreKey, Span>,
    /// Which messages it says to be gone.
    dequeued: Map<StoreKey, Span>,
    /// Whether it says something of the topology.
    has_topology: bool,
}

impl SegmentSummary {
    /// A record that is in the segment.
    pub fn note(&mut self, record: &Decoded<'_>) {
        match record {
            Decoded::Enqueued(enqueued) => {
                self.enqueue(
                    message_bytes(&enqueued.message),
                    enqueued.message.messages,
                    enqueued.places.iter(),
                );
            }
            Decoded::Dequeued { queue, first, count } => self.dequeue(*queue, *first, *count),
            Decoded::Changed(_) | Decoded::Topology(_) => self.has_topology = true,
            Decoded::Batch(_)
            | Decoded::HandedOut { .. }
            | Decoded::Transaction { .. }
            | Decoded::Paged(_) => {}
        }
    }

    /// Somebody needs a message that was appended here.
    #[inline]
    pub fn enqueue(&mut self, bytes: usize, messages: u16, places: impl Iterator<Item = QueuePlace>) {
        self.live_records += 1;
        self.live_bytes += bytes as u64;
        for place in places {
            let last = place.place + u64::from(messages.saturating_sub(1));
            let span = Span { first: place.place, last };
            self.enqueued.entry(place.queue).or_insert(span).include(span.first, span.last);
        }
    }

    /// Places of a queue are said to be empty here.
    #[inline]
    pub fn dequeue(&mut self, queue: StoreKey, first: u64, count: u64) {
        if count > 0 {
            let span = Span { first, last: first.saturating_add(count - 1) };
            self.dequeued.entry(queue).or_insert(span).include(span.first, span.last);
        }
    }

    /// The topology is spoken of here.
    pub fn set_topology(&mut self) {
        self.has_topology = true;
    }

    /// Nobody needs a message any more that is here, of so many bytes.
    pub fn retire(&mut self, bytes: usize) {
        self.live_records = self.live_records.saturating_sub(1);
        self.live_bytes =
            if self.live_records == 0 { 0 } else { self.live_bytes.saturating_sub(bytes as u64) };
    }

    /// So many records of messages are needed, as a restart has counted.
    pub fn set_live(&mut self, records: u64, bytes: u64) {
        (self.live_records, self.live_bytes) = (records, bytes);
    }

    /// Records of messages that somebody needs.
    pub fn live_records(&self) -> u64 {
        self.live_records
    }

    /// Bytes of those messages.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Whether it says something of the topology.
    pub fn has_topology(&self) -> bool {
        self.has_topology
    }

    /// Queues and places that it says to be empty.
    pub fn dequeued(&self) -> impl Iterator<Item = (StoreKey, Span)> {
        self.dequeued.iter().map(|(queue, span)| (*queue, *span))
    }

    /// Whether messages may have been enqueued here that stood in one of these places.
    pub fn may_hold(&self, queue: StoreKey, span: &Span) -> bool {
        self.enqueued.get(&queue).is_some_and(|enqueued| enqueued.meets(span))
    }
}

/// What a message counts for.
#[inline]
pub fn message_bytes(message: &StoredMessage<'_>) -> usize {
    message.exchange.len() + message.routing_key.len() + message.properties.len() + message.bodies.len()
}
