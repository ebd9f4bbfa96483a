//! What waits until the journal has stored what it depends on, and what becomes of it when the journal fails.
//!
//! 1. Who waits stands in a line, in the order of what was written down; from its front they are told.
//! 2. A confirm also waits until the topology is stored that the shard had when the message was written down.
//! 3. When the journal fails all of them are refused, and later what would have to wait. The rest goes on.

use std::collections::VecDeque;

use super::envelope::Ask;
use super::handover::is_handover;
use super::sessions::OpenConfirm;
use super::transaction::Awaiting;
use super::{Published, Shard};
use crate::journal::{Journal, Position, Reason, Record, StoreKey};
use crate::message::Message;
use crate::queue::Mark;
use crate::{MessageId, QueueId, Refusal, Reply, SessionId};

/// How many bits of a key count the queues of one run. Above them is the run.
const KEY_BITS: u32 = 40;

/// Somebody who waits until what was written down is stored.
pub(super) enum Waiter {
    /// Publishes `first` to `last` of a session anywhere.
    Confirms { session: SessionId, first: u64, last: u64, accepted: bool },
    /// A confirm that waits for queues too.
    Withheld(u32),
    /// A session anywhere that wants messages of a queue here, when it is written down that those below a place may be in
    /// clients' hands.
    Ask { session: SessionId, ask: Box<Ask>, mark: Mark },
    /// A session anywhere whose request is carried out.
    Answer { session: SessionId, reply: Reply },
    /// The next step of a transaction.
    Transaction(Awaiting),
    /// What is left of a queue that has ended here.
    Ending(QueueId),
}

struct Waiting {
    /// Behind what was written down.
    end: Position,
    /// The version of the topology that it depends on.
    version: u64,
    waiter: Waiter,
}

impl Waiting {
    fn is_ready(&self, stored: Position, version: u64) -> bool {
        self.end <= stored && self.version <= version
    }
}

/// Those who wait.
#[derive(Default)]
pub(super) struct Line {
    waiting: VecDeque<Waiting>,
    /// The last one joined in this turn: what follows directly may join it.
    is_last_of_turn: bool,
    /// How many of them want messages.
    asks: usize,
}

impl Line {
    fn push(&mut self, end: Position, version: u64, waiter: Waiter) {
        if let (Some(last), true) = (self.waiting.back_mut(), self.is_last_of_turn)
            && last.version == version
            && last.waiter.grows_by(&waiter)
        {
            last.end = end;
            return;
        }
        self.asks += usize::from(matches!(waiter, Waiter::Ask { .. }));
        self.waiting.push_back(Waiting { end, version, waiter });
        self.is_last_of_turn = true;
    }

    fn pop(&mut self, is_ready: impl FnOnce(&Waiting) -> bool) -> Option<Waiter> {
        if !is_ready(self.waiting.front()?) {
            return None;
        }
        let Waiting { waiter, .. } = self.waiting.pop_front()?;
        self.asks -= usize::from(matches!(waiter, Waiter::Ask { .. }));
        Some(waiter)
    }
}

impl Waiter {
    /// Whether what it waits for is worth nothing without the queues that were there. What was decided on has to be carried
    /// out in any case.
    fn needs_topology(&self) -> bool {
        match self {
            Waiter::Confirms { .. } | Waiter::Withheld(_) | Waiter::Ending(_) => true,
            Waiter::Ask { .. } | Waiter::Answer { .. } => false,
            Waiter::Transaction(awaiting) => awaiting.is_of_part(),
        }
    }

    /// Whether another one's publishes follow this one's, and joined it.
    fn grows_by(&mut self, other: &Waiter) -> bool {
        match (self, other) {
            (
                Waiter::Confirms { session, last, accepted, .. },
                Waiter::Confirms { session: next, first, last: new_last, accepted: next_accepted },
            ) if session == next && accepted == next_accepted && *last + 1 == *first => {
                *last = *new_last;
                true
            }
            _ => false,
        }
    }
}

impl Shard {
    /// Gives the shard a journal. Before anything else is asked of it.
    pub fn set_journal(&mut self, journal: Box<dyn Journal>) {
        // Keys of this run are larger than all of the runs before, also of queues whose declaration was not stored.
        self.topology.skip_store_keys(StoreKey(u64::from(journal.run()) << KEY_BITS));
        self.journal = Some(journal);
    }

    /// The durable queue of that key, if it is still there.
    pub fn queue_of(&self, key: StoreKey) -> Option<QueueId> {
        self.topology.queue_by_key(key)
    }

    /// The journal has stored everything before a position.
    pub fn stored(&mut self, position: Position) {
        debug_assert!(position >= self.stored, "what is stored stays stored");
        self.stored = position;
        self.note_stored_changes();
        self.tell_stored();
    }

    /// The journal stores nothing any more. Once.
    pub fn journal_failed(&mut self, reason: Reason) {
        self.lose_changes(&reason);
        self.failure = Some(reason);
        self.queues.iter_mut().for_each(|queue| queue.stop_recording());
        self.refuse_waiting();
    }

    /// Why nothing is stored any more, if the journal has failed.
    pub fn journal_failure(&self) -> Option<&Reason> {
        self.failure.as_ref()
    }

    /// Whether a restart has to find the message at a place of a durable queue, and the record of it is the one at `at`:
    /// an older one may still be there.
    pub fn holds(&mut self, queue: StoreKey, place: u64, at: Position) -> bool {
        if let Some(position) = self.position_paged(queue, place) {
            return position == at;
        }
        self.stored_message(queue, place).is_some_and(|message| self.store.position(message) == at)
    }

    /// The record of the message at a place of a durable queue, which was at `old`, is also at `new`, where it stays.
    /// Whether anybody needs it; if not it is nobody's.
    pub fn relocated(&mut self, queue: StoreKey, place: u64, old: Position, new: Position) -> bool {
        if self.relocate_paged(queue, place, old, new) {
            return true;
        }
        let Some(message) = self.stored_message(queue, place) else { return false };
        if self.store.position(message) == old {
            self.store.set_position(message, new);
            self.store.move_holder(old, new);
        }
        true
    }

    /// The message whose record says that it is at a place of a queue, and which has not left it, or has not arrived where
    /// it goes.
    fn stored_message(&mut self, queue: StoreKey, place: u64) -> Option<MessageId> {
        if let Some(message) = self.leaving_message(queue, place) {
            return Some(message);
        }
        let id = self.topology.queue_by_key(queue);
        let item = match id.and_then(|id| self.queues.get_mut(id)?.item_at(place)) {
            Some(item) => item,
            None => self.buried(self.burial_of(queue, place)?)?.at(place)?.here()?,
        };
        item.recorded.then_some(item.message)
    }

    /// After a restart, before its messages are there: those of a queue below a place may have been in clients' hands. Does
    /// nothing if the queue is not at home here.
    pub fn restore_handed_out(&mut self, queue: StoreKey, below: u64) {
        if let Some(queue) = self.topology.queue_by_key(queue).and_then(|id| self.queues.get_mut(id)) {
            queue.restore_marks(below);
        }
    }

    /// Tells those whose time has come.
    pub(super) fn tell_stored(&mut self) {
        let (stored, version) = (self.stored, self.stored_version);
        while let Some(waiter) = self.line.pop(|waiting| waiting.is_ready(stored, version)) {
            match waiter {
                Waiter::Confirms { session, first, last, accepted } => {
                    self.confirm_all_anywhere(session, first, last, accepted);
                }
                Waiter::Withheld(slot) => self.confirm_withheld(vec![slot]),
                Waiter::Ask { session, ask, mark } => {
                    if let Some(queue) = ask.queue().and_then(|id| self.queues.get_mut(id)) {
                        queue.mark_stored(mark);
                    }
                    self.ask_again(session, *ask);
                }
                Waiter::Answer { session, reply } => self.answer_anywhere(session, Ok(reply)),
                Waiter::Transaction(awaiting) => self.go_on_with_transaction(awaiting, None),
                Waiter::Ending(queue) => self.begin_ending(queue),
            }
        }
    }

    /// Tells those who wait that what they wait for will not be.
    pub(super) fn refuse_waiting(&mut self) {
        for Waiting { waiter, .. } in std::mem::take(&mut self.line).waiting {
            self.disappoint(waiter);
        }
    }

    /// The same for those who were to be told of something that needs a version of the topology, or a later one.
    pub(super) fn refuse_needing(&mut self, version: u64) {
        let needs = |waiting: &Waiting| waiting.version >= version && waiting.waiter.needs_topology();
        let waiting = std::mem::take(&mut self.line.waiting);
        let (refused, kept): (VecDeque<_>, VecDeque<_>) = waiting.into_iter().partition(needs);
        self.line.waiting = kept;
        for Waiting { waiter, .. } in refused {
            self.disappoint(waiter);
        }
    }

    fn disappoint(&mut self, waiter: Waiter) {
        match waiter {
            // What goes on to other queues has not arrived, and a restart will find it where it was.
            Waiter::Confirms { session, .. } if is_handover(session) => {}
            Waiter::Confirms { session, first, last, .. } => {
                self.confirm_all_anywhere(session, first, last, false);
            }
            Waiter::Withheld(slot) => {
                self.withheld[slot as usize].accepted = false;
                self.confirm_withheld(vec![slot]);
            }
            Waiter::Ask { session, ask, .. } => self.ask_again(session, *ask),
            Waiter::Answer { session, .. } => {
                let refusal = self.not_stored("a restart brings back what was there");
                self.answer_anywhere(session, Err(refusal));
            }
            // A restart that brings the queue back finds its messages; unless nothing of this journal can go.
            Waiter::Ending(queue) if self.failure.is_some() => self.begin_ending(queue),
            Waiter::Ending(_) => {}
            Waiter::Transaction(awaiting) => {
                let lost = self.lost.as_ref().map(|lost| &lost.reason);
                let reason = self.failure.as_ref().or(lost).expect("something has failed");
                let refusal = Refusal::NotStored(reason.clone());
                self.go_on_with_transaction(awaiting, Some(refusal));
            }
        }
    }

    /// Whether somebody began to wait for what comes by itself no more: after all was stored, or after the journal failed,
    /// when what was agreed on before has to be carried out.
    pub(super) fn waits_in_vain(&self) -> bool {
        let Some(first) = self.line.waiting.front() else { return false };
        self.failure.is_some() || first.is_ready(self.stored, self.stored_version)
    }

    /// Tells those. Whether there were any.
    pub(super) fn tell_late(&mut self) -> bool {
        if !self.waits_in_vain() {
            return false;
        }
        match self.failure {
            Some(_) => self.refuse_waiting(),
            None => self.tell_stored(),
        }
        true
    }

    /// Has somebody wait until everything is stored that has been written down.
    pub(super) fn await_stored(&mut self, waiter: Waiter) {
        let end = self.journal.as_mut().map_or(Position::NONE, |journal| journal.await_end());
        self.line.push(end, self.recorded_version, waiter);
    }

    /// The confirms of so many publishes of a session here, which were written down just now, wait until that is stored.
    #[inline(never)]
    pub(super) fn expect_stored(&mut self, id: SessionId, first: Option<u64>, messages: u64) -> Published {
        let (Some(first), Some(session)) = (first, self.session_mut(id)) else { return Published::Confirmed };
        let open = |sequence| OpenConfirm { sequence, missing: 1, accepted: true };
        session.confirms.extend((first..first + messages).map(open));
        let last = first + messages - 1;
        self.await_stored(Waiter::Confirms { session: id, first, last, accepted: true });
        Published::Pending
    }

    /// The turn is over: who waits from now on waits for another flush.
    pub(super) fn end_turn_of_line(&mut self) {
        self.line.is_last_of_turn = false;
    }

    /// Whether a message may join queues here that are written down.
    ///
    /// # Errors
    /// [`Refusal::NotStored`].
    pub(super) fn admit(&self, queues: &[QueueId], message: &Message) -> Result<(), Refusal> {
        if !message.is_persistent() {
            return Ok(());
        }
        self.admit_bytes(queues, message.all_bytes())
    }

    /// The same for a message that is released if it may not.
    #[inline(never)]
    pub(super) fn admit_or_release(&mut self, queues: &[QueueId], message: MessageId) -> Result<(), Refusal> {
        let admitted = self.admit(queues, self.store.get(message));
        if admitted.is_err() {
            self.store.release(message);
        }
        admitted
    }

    /// The same for a message of so many bytes that is to outlive the process.
    #[inline(never)]
    pub(super) fn admit_bytes(&self, queues: &[QueueId], bytes: usize) -> Result<(), Refusal> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let is_stored = |id: &QueueId| {
            let entry = self.topology.queue_by_id(*id);
            id.home == self.config.id && entry.is_some_and(|entry| entry.store_key.is_some())
        };
        if !queues.iter().any(is_stored) {
            return Ok(());
        }
        self.check_not_lost(queues)?;
        match &self.failure {
            Some(reason) => Err(Refusal::NotStored(reason.clone())),
            None => journal.admit(bytes).map_err(Refusal::NotStored),
        }
    }

    /// Sees to it that all messages of a queue may be handed out to who asks. The ask again, if that can be carried out now;
    /// otherwise it is when it is stored that they may be in clients' hands.
    pub(super) fn open_for(&mut self, session: SessionId, id: QueueId, ask: Ask) -> Option<Ask> {
        let Some(queue) = self.queues.get_mut(id).filter(|queue| !queue.is_open()) else { return Some(ask) };
        let recorded = queue.mark(u64::MAX);
        self.await_mark(session, id, ask, recorded);
        None
    }

    /// Has somebody who fetches wait until it is stored that the message at a place may be in clients' hands.
    pub(super) fn await_place(&mut self, session: SessionId, id: QueueId, ask: Ask, place: u64) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let recorded = queue.mark_fetched(place);
        self.await_mark(session, id, ask, recorded);
    }

    fn await_mark(&mut self, session: SessionId, id: QueueId, ask: Ask, recorded: Option<u64>) {
        if let Some(below) = recorded {
            self.record_mark(id, below);
        }
        let Some(queue) = self.queues.get_mut(id) else { return };
        let mark = queue.mark_recorded();
        self.await_stored(Waiter::Ask { session, ask: Box::new(ask), mark });
    }

    /// Nobody takes messages from a queue any more: what comes to it from now on has not been handed out.
    pub(super) fn shut_if_unused(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if !queue.consumers.is_empty() || !queue.is_recorded() {
            return;
        }
        let Some(key) = queue.entry().store_key else { return };
        let others = self.behind_leaving(key);
        let shut = self.queues.get_mut(id).and_then(|queue| queue.mark_shut(others));
        if let Some(below) = shut {
            // What was settled is not among those that come back.
            self.record_departures();
            self.record_mark(id, below);
        }
    }

    /// A session has gone which may have asked for messages.
    pub(super) fn forget_asks(&mut self, session: SessionId) {
        self.reads.forget_asks(session);
        if self.line.asks == 0 {
            return;
        }
        let is_kept = |waiting: &Waiting| match &waiting.waiter {
            Waiter::Ask { session: asker, .. } => *asker != session,
            _ => true,
        };
        let before = self.line.waiting.len();
        self.line.waiting.retain(is_kept);
        self.line.asks -= before - self.line.waiting.len();
    }

    /// The broker stops in order and nobody is left: what has not been handed out is not said to have been.
    pub fn shut_queues(&mut self) {
        let queues: Vec<QueueId> = self.queues.iter_mut().map(|queue| queue.entry().id).collect();
        queues.into_iter().for_each(|id| self.shut_if_unused(id));
    }

    fn record_mark(&mut self, id: QueueId, below: u64) {
        let key = self.topology.queue_by_id(id).and_then(|entry| entry.store_key);
        if let Some(queue) = key {
            self.record(&Record::HandedOut { queue, below });
        }
    }

    /// Carries out what a session anywhere asked for some time ago.
    pub(super) fn ask_again(&mut self, session: SessionId, ask: Ask) {
        if let Some(result) = self.ask_home(session, ask) {
            self.answer_anywhere(session, result);
        }
    }

    /// The answer to a session that has waited for it.
    fn answer_anywhere(&mut self, session: SessionId, result: Result<Reply, Refusal>) {
        if session.shard == self.config.id {
            self.answered(session, result);
        } else {
            self.answer(session, result);
        }
    }
}
