//! What is written down of messages: that they have joined durable queues, and that they have left them.
//!
//! 1. A message that is to outlive the process is recorded when it joins durable queues at home here, once for all of
//!    them; a message in memory has at most one record.
//! 2. Places that messages leave are gathered over a turn and written at its end, behind everything recorded in it.
//! 3. A message that goes on to another queue leaves its place when the other one has it: see `handover`.

use super::Shard;
use crate::journal::{QueuePlace, Record, StoreKey};
use crate::queue::{Item, Queue};
use crate::topology::QueueEntry;
use crate::{MessageId, QueueId};

/// Places that messages have left in this turn.
#[derive(Default)]
pub(super) struct Departures {
    runs: Vec<Run>,
}

/// Places that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    queue: StoreKey,
    first: u64,
    count: u64,
}

/// A message that is joining several queues.
pub(super) struct Joining {
    message: MessageId,
    places: Vec<QueuePlace>,
}

impl Departures {
    /// A message has left its queue for good and goes nowhere else.
    #[inline]
    pub(super) fn note(&mut self, queue: &Queue, item: &Item) {
        if item.recorded {
            self.note_recorded(queue.entry(), *item);
        }
    }

    /// The same; whether there is a record of it is looked at here.
    #[inline(never)]
    pub(super) fn note_recorded(&mut self, queue: &QueueEntry, item: Item) {
        if let Some(key) = queue.store_key.filter(|_| item.recorded) {
            self.add(key, item.sequence, item.messages() as u64);
        }
    }

    /// The messages at so many places from `first` on have left a queue.
    #[inline(never)]
    pub(super) fn add(&mut self, queue: StoreKey, first: u64, count: u64) {
        match self.runs.last_mut() {
            Some(run) if run.queue == queue && run.first + run.count == first => run.count += count,
            _ => self.runs.push(Run { queue, first, count }),
        }
    }

    /// The fewest runs that say it.
    fn take_merged(&mut self) -> Vec<Run> {
        let mut runs = std::mem::take(&mut self.runs);
        runs.sort_unstable();
        runs.dedup_by(|next, run| {
            let follows = run.queue == next.queue && run.first + run.count == next.first;
            run.count += if follows { next.count } else { 0 };
            follows
        });
        runs
    }
}

impl Shard {
    /// A message that has just joined a durable queue here is written down, now or with the other queues that it joins.
    pub(super) fn record_place(&mut self, message: MessageId, place: QueuePlace) {
        match &mut self.joining {
            Some(joining) if joining.message == message => joining.places.push(place),
            _ => self.record_message(message, &[place]),
        }
    }

    /// The message that can be recorded in place of this one, which joins a durable queue. Takes it over.
    pub(super) fn recordable(&mut self, message: MessageId) -> MessageId {
        match &self.joining {
            Some(joining) if joining.message == message => message,
            _ => self.store.unrecorded(message),
        }
    }

    /// From now on what happens to a message is one record. Takes it over and gives the one that can be recorded; gives
    /// what [`Shard::end_joining`] wants.
    pub(super) fn begin_joining(&mut self, message: MessageId) -> (MessageId, Option<Joining>) {
        let message = self.store.unrecorded(message);
        self.store.retain(message);
        (message, self.joining.replace(Joining { message, places: Vec::new() }))
    }

    /// Writes down the queues that the message has joined. Whether there are any.
    pub(super) fn end_joining(&mut self, before: Option<Joining>) -> bool {
        let Some(Joining { message, places }) = std::mem::replace(&mut self.joining, before) else {
            return false;
        };
        if !places.is_empty() {
            self.record_message(message, &places);
        }
        self.store.release(message);
        !places.is_empty()
    }

    fn record_message(&mut self, message: MessageId, places: &[QueuePlace]) {
        let Some(journal) = &mut self.journal else { return };
        let record = Record::Enqueued { message: self.store.get(message).to_store(), places };
        let position = journal.append(&record, self.joined);
        self.store.set_position(message, position);
    }

    /// Writes down which places messages have left, and says which records nobody needs any more.
    #[inline]
    pub(super) fn record_departures(&mut self) {
        if self.journal.is_some() {
            self.record_all_departures();
        }
    }

    #[inline(never)]
    fn record_all_departures(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        if !self.departures.runs.is_empty() {
            for Run { queue, first, count } in self.departures.take_merged() {
                journal.append(&Record::Dequeued { queue, first, count }, self.joined);
            }
        }
        // Behind the records that take their place.
        while let Some((position, bytes)) = self.store.pop_retired() {
            journal.retire(position, bytes);
        }
    }

    /// What waits in a queue leaves it.
    pub(super) fn record_purge(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let Some(key) = queue.entry().store_key else { return };
        for (first, count) in queue.recorded_runs() {
            self.departures.add(key, first, count);
        }
    }

    /// Appends a record that no message depends on.
    pub(super) fn record(&mut self, record: &Record<'_>) {
        if let Some(journal) = &mut self.journal {
            journal.append(record, self.joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_follow_each_other_are_one_run() {
        let mut departures = Departures::default();
        let (a, b) = (StoreKey(1), StoreKey(2));
        for (queue, first, count) in
            [(a, 4, 1), (a, 5, 2), (b, 1, 1), (a, 2, 1), (b, 2, 1), (a, 3, 1), (a, 9, 1)]
        {
            departures.add(queue, first, count);
        }
        let runs: Vec<_> =
            departures.take_merged().iter().map(|run| (run.queue.0, run.first, run.count)).collect();
        assert_eq!(runs, [(1, 2, 5), (1, 9, 1), (2, 1, 2)]);
        assert!(departures.take_merged().is_empty());
    }
}
