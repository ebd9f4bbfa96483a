//! Messages that durable queues give to other queues: dead letters, what is moved, what a queue leaves that ends.
//!
//! Such a message leaves its old place in what a restart finds when it has arrived: when each of its new queues, on any
//! shard, has it in its journal if it is to be there. Until then the old record is kept. If the process ends in between
//! the message is in both places or the old one, never in none. A queue that refuses it answers too.

use std::collections::VecDeque;

use super::Shard;
use crate::journal::StoreKey;
use crate::queue::Item;
use crate::topology::QueueEntry;
use crate::{MessageId, SessionId, ShardId};

/// The index of the session that is not one: answers to it are for the shard.
const NO_SESSION: u32 = u32::MAX;

/// The place that a message leaves, and the message with the record that says so, which one reference keeps.
#[derive(Debug)]
pub(super) struct Origin {
    queue: StoreKey,
    place: u64,
    message: MessageId,
}

struct Handover {
    origin: Origin,
    /// Answers that are still to come; more than there are while the message is on its way, fewer if some came before
    /// their number was known.
    missing: i64,
}

/// Messages on their way.
#[derive(Default)]
pub(super) struct Handovers {
    /// The number of the first one.
    first: u64,
    /// `None`: it has arrived.
    waiting: VecDeque<Option<Handover>>,
}

impl Handovers {
    fn get_mut(&mut self, number: u64) -> Option<&mut Option<Handover>> {
        self.waiting.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    /// Whether all before a number have arrived.
    pub(super) fn have_arrived(&self, before: u64) -> bool {
        self.first >= before
    }

    /// Forgets what has arrived.
    fn trim(&mut self) {
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
    }
}

/// Whether this stands for a shard that hands something over.
pub(super) fn is_handover(session: SessionId) -> bool {
    session.index == NO_SESSION
}

fn session_of(shard: ShardId) -> SessionId {
    SessionId { shard, index: NO_SESSION, generation: 0 }
}

impl Shard {
    /// The place that a message leaves to go on, if that is written down.
    pub(super) fn origin_of(&mut self, queue: &QueueEntry, item: &Item) -> Option<Origin> {
        let key = queue.store_key.filter(|_| item.recorded)?;
        self.store.retain(item.message);
        Some(Origin { queue: key, place: item.sequence, message: item.message })
    }

    /// A message that has left a place goes on: what is to be answered when it has arrived.
    pub(super) fn begin_handover(&mut self, origin: Option<Origin>) -> Option<(SessionId, u64)> {
        let number = self.handovers.next();
        self.handovers.waiting.push_back(Some(Handover { origin: origin?, missing: 1 }));
        Some((session_of(self.config.id), number))
    }

    /// It is on its way, and so many will answer.
    pub(super) fn end_handover(&mut self, handover: Option<(SessionId, u64)>, missing: u32) {
        let Some((_, number)) = handover else { return };
        self.expect_of_handover(number, i64::from(missing));
        self.handed_over(number, number);
    }

    /// So many more will answer.
    pub(super) fn expect_of_handover(&mut self, number: u64, more: i64) {
        if let Some(Some(handover)) = self.handovers.get_mut(number) {
            handover.missing += more;
        }
    }

    /// Somebody has what was handed over by these numbers, or does not want it.
    pub(super) fn handed_over(&mut self, first: u64, last: u64) {
        for number in first..=last {
            let Some(slot) = self.handovers.get_mut(number) else { continue };
            let Some(handover) = slot else { continue };
            handover.missing -= 1;
            if handover.missing > 0 {
                continue;
            }
            if let Some(Handover { origin, .. }) = slot.take() {
                self.departures.add(origin.queue, origin.place, 1);
                self.store.release(origin.message);
            }
        }
        self.handovers.trim();
    }

    /// The message that is on its way from a place.
    pub(super) fn leaving_message(&self, queue: StoreKey, place: u64) -> Option<MessageId> {
        self.origins()
            .find(|origin| origin.queue == queue && origin.place == place)
            .map(|origin| origin.message)
    }

    /// Behind the last message that is on its way from a queue.
    pub(super) fn behind_leaving(&self, queue: StoreKey) -> u64 {
        self.leaving_places(queue).map(|place| place + 1).max().unwrap_or(0)
    }

    /// The places that messages on their way have in a queue.
    pub(super) fn leaving_places(&self, queue: StoreKey) -> impl Iterator<Item = u64> {
        self.origins().filter(move |origin| origin.queue == queue).map(|origin| origin.place)
    }

    fn origins(&self) -> impl Iterator<Item = &Origin> {
        let on_their_way = self.handovers.waiting.iter().flatten().map(|handover| &handover.origin);
        on_their_way.chain(self.dead.iter().filter_map(|dead| dead.origin.as_ref()))
    }
}
