//! Who consumes from a queue, and whose turn it is.
//!
//! Consumers that can take a message stand in a ring for their priority. One that cannot — its prefetch or its credit is
//! used up, its connection's window is closed, another one is the single active consumer — leaves the ring and comes
//! back at its end, both without looking at the others.

use std::collections::VecDeque;
use std::sync::Arc;

use super::seek::Seek;
use super::unsettled::ConsumerKey;
use crate::ids::ClientId;
use crate::{Credit, Selector, SessionId};

/// A consumer, as its queue knows it.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Whose it is.
    pub session: SessionId,
    /// Whose session that is.
    pub client: ClientId,
    /// The session's number for it.
    pub id: u32,
    /// Messages count as settled when handed over.
    pub no_ack: bool,
    /// Nobody else may consume.
    pub exclusive: bool,
    /// Higher ones come first.
    pub priority: i32,
    /// Most unsettled messages; 0 for no limit.
    pub prefetch: u32,
    /// What it may still be sent; `None` if credit does not bound it.
    pub credit: Option<Credit>,
    /// Looks at messages and leaves them in the queue.
    pub browse: bool,
    /// What it wants; `None`: everything.
    pub selector: Option<Arc<Selector>>,
    /// The shard's account of what is under way to its connection.
    pub account: u32,
}

/// Whether a consumer takes messages, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In its ring.
    Able,
    /// Prefetch used up.
    Full,
    /// No credit for a message, whatever its size.
    Dry,
    /// Not enough credit for the message that comes next.
    Short,
    /// Nothing is there for it.
    Idle,
    /// What comes next for it is being read.
    Reading,
    /// Its connection has enough under way.
    Parked,
    /// Another one is the single active consumer.
    Standby,
}

struct Entry {
    consumer: Consumer,
    unsettled: u32,
    state: State,
    /// Where it looks for messages, if not at the head.
    seek: Option<Seek>,
    /// Has to be told of messages that come.
    is_watching: bool,
    /// Whether what it may be sent depends on nothing but how many messages that is.
    takes_runs: bool,
    /// Its credit ends when it has got so many more, or nothing more is there for it; somebody waits for that.
    flush_left: Option<usize>,
}

impl Entry {
    /// Whether its prefetch is used up.
    #[inline]
    fn is_full(&self) -> bool {
        self.consumer.prefetch != 0 && self.unsettled >= self.consumer.prefetch
    }

    /// Counts messages handed to it.
    #[inline]
    fn count_served(&mut self, messages: u32, bytes: usize) {
        if self.consumer.holds() {
            self.unsettled += messages;
        }
        if let Some(credit) = &mut self.consumer.credit {
            credit.spend(messages, bytes);
        }
        if let Some(left) = &mut self.flush_left {
            *left = left.saturating_sub(messages as usize);
        }
    }

    /// The state that it has if only its own limits count.
    #[inline]
    fn own_state(&self) -> State {
        if self.is_full() {
            State::Full
        } else if self.consumer.credit.is_some_and(|credit| credit.messages == 0) {
            State::Dry
        } else {
            State::Able
        }
    }

    fn note_credit(&mut self) {
        self.takes_runs =
            self.seek.is_none() && self.consumer.credit.is_none_or(|credit| credit.counts_messages_only());
    }
}

impl Consumer {
    /// Whether messages stay in its hands until it settles them.
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        !self.no_ack && !self.browse
    }
}

struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

struct Ring {
    priority: i32,
    slots: VecDeque<u32>,
}

/// The consumers of one queue.
pub(crate) struct Consumers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Highest priority first.
    rings: Vec<Ring>,
    /// In order of subscription; the first one is the active one where only one may be.
    order: VecDeque<u32>,
    single_active: bool,
    /// Consumers in [`State::Short`].
    short: usize,
    /// Consumers that do not take the head.
    seekers: usize,
    /// Consumers that have to be told of messages that come.
    watchers: usize,
    /// Consumers whose credit ends when they have got what is there.
    flushing: usize,
}

impl Consumers {
    pub(crate) fn new(single_active: bool) -> Self {
        Consumers {
            slots: Vec::new(),
            free: Vec::new(),
            rings: Vec::new(),
            order: VecDeque::new(),
            single_active,
            short: 0,
            seekers: 0,
            watchers: 0,
            flushing: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether one of them wants the queue for itself.
    pub(crate) fn has_exclusive(&self) -> bool {
        self.iter().any(|consumer| consumer.exclusive && !consumer.browse)
    }

    /// Whether one of them takes messages.
    pub(crate) fn has_takers(&self) -> bool {
        self.iter().any(|consumer| !consumer.browse)
    }

    /// How many do not take the head.
    #[inline]
    pub(crate) fn seekers(&self) -> usize {
        self.seekers
    }

    /// How many have to be told of messages that come.
    pub(crate) fn watchers(&self) -> usize {
        self.watchers
    }

    /// All, in order of subscription.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.order.iter().filter_map(|&slot| Some(&self.slots[slot as usize].entry.as_ref()?.consumer))
    }

    /// The consumer of that session and number.
    pub(crate) fn find(&self, session: SessionId, id: u32) -> Option<ConsumerKey> {
        let slot = *self.order.iter().find(|&&slot| {
            let entry = self.slots[slot as usize].entry.as_ref();
            entry.is_some_and(|entry| entry.consumer.session == session && entry.consumer.id == id)
        })?;
        Some(ConsumerKey { slot, generation: self.slots[slot as usize].generation })
    }

    /// Adds a consumer that looks for messages elsewhere than at the head, and has to be told of those that come, or not.
    pub(crate) fn add(&mut self, consumer: Consumer, seek: Option<Seek>, is_watching: bool) {
        self.seekers += usize::from(seek.is_some());
        self.watchers += usize::from(is_watching);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            (self.slots.len() - 1) as u32
        });
        self.order.push_back(slot);
        let browses = consumer.browse;
        let mut entry = Entry {
            consumer,
            unsettled: 0,
            state: State::Standby,
            seek,
            is_watching,
            takes_runs: false,
            flush_left: None,
        };
        entry.note_credit();
        self.slots[slot as usize].entry = Some(entry);
        if !self.single_active || browses || self.first_taker() == Some(slot) {
            self.enter(slot);
        }
    }

    pub(crate) fn remove(&mut self, key: ConsumerKey) -> Option<Consumer> {
        let entry = self.entry(key)?;
        let (is_flushing, seeks, watches) =
            (entry.flush_left.is_some(), entry.seek.is_some(), entry.is_watching);
        self.set_state(key.slot, State::Standby);
        self.flushing -= usize::from(is_flushing);
        self.seekers -= usize::from(seeks);
        self.watchers -= usize::from(watches);
        self.rings.retain(|ring| !ring.slots.is_empty());
        let was_first = self.first_taker() == Some(key.slot);
        self.order.retain(|&slot| slot != key.slot);
        let slot = &mut self.slots[key.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let entry = slot.entry.take();
        self.free.push(key.slot);
        if let (true, Some(next)) = (self.single_active && was_first, self.first_taker()) {
            self.enter(next);
        }
        entry.map(|entry| entry.consumer)
    }

    /// The one that has been there longest of those that take messages.
    fn first_taker(&self) -> Option<u32> {
        let takes = |slot: &&u32| {
            let entry = self.slots[**slot as usize].entry.as_ref();
            entry.is_some_and(|entry| !entry.consumer.browse)
        };
        self.order.iter().find(takes).copied()
    }

    /// A consumer, and where it looks for messages if not at the head.
    pub(super) fn seek_of(&mut self, key: ConsumerKey) -> Option<(&Consumer, Option<&mut Seek>)> {
        let entry = self.entry(key)?;
        Some((&entry.consumer, entry.seek.as_mut()))
    }

    /// The consumer whose turn it is has found nothing: it waits for [`Consumers::wake_idle`].
    pub(crate) fn rest(&mut self, key: ConsumerKey) {
        self.set_state(key.slot, State::Idle);
    }

    /// What comes next for the consumer whose turn it is has to be read: it waits for [`Consumers::wake_idle`].
    pub(crate) fn await_read(&mut self, key: ConsumerKey) {
        self.set_state(key.slot, State::Reading);
    }

    /// The consumer whose turn it is has found nothing so far: the turn passes on.
    pub(crate) fn pass(&mut self, key: ConsumerKey) {
        let Some(entry) = self.entry(key) else { return };
        let priority = entry.consumer.priority;
        self.pass_turn(key, priority, true);
    }

    /// Something may be for somebody at a place of a level, even if it was looked at: those that found nothing look
    /// again.
    pub(crate) fn look_back(&mut self, level: u8, place: u64) {
        if self.seekers == 0 {
            return;
        }
        for entry in self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut()) {
            if let Some(seek) = &mut entry.seek {
                seek.look_back(level, place);
            }
        }
        self.wake_idle();
    }

    /// Those that found nothing look again.
    pub(crate) fn wake_idle(&mut self) {
        if self.seekers == 0 {
            return;
        }
        for place in 0..self.order.len() {
            let slot = self.order[place];
            if matches!(self.state(slot), Some(State::Idle | State::Reading)) {
                self.enter(slot);
            }
        }
    }

    /// The consumer whose turn it is: the next one in the ring of the highest priority that has any.
    #[inline]
    pub(crate) fn next(&self) -> Option<(ConsumerKey, &Consumer)> {
        let ring = self.rings.iter().find(|ring| !ring.slots.is_empty())?;
        let slot = *ring.slots.front()?;
        let held = &self.slots[slot as usize];
        Some((ConsumerKey { slot, generation: held.generation }, &held.entry.as_ref()?.consumer))
    }

    /// The consumer whose turn it was has been given a message of so many bytes of credit; the turn passes on.
    #[inline]
    pub(crate) fn served(&mut self, key: ConsumerKey, bytes: usize) {
        let Some(entry) = self.slots[key.slot as usize].entry.as_mut() else { return };
        entry.count_served(1, bytes);
        entry.state = entry.own_state();
        let (priority, stays) = (entry.consumer.priority, entry.state == State::Able);
        if stays && self.order.len() == 1 {
            // Alone: the turn passes on to itself.
            return;
        }
        self.pass_turn(key, priority, stays);
    }

    /// The consumer, if there is only one and it takes messages whatever they are.
    #[inline]
    pub(crate) fn sole(&self) -> Option<(ConsumerKey, &Consumer)> {
        let &slot = self.order.front().filter(|_| self.order.len() == 1)?;
        let held = &self.slots[slot as usize];
        let entry = held.entry.as_ref().filter(|entry| entry.state == State::Able && entry.takes_runs)?;
        Some((ConsumerKey { slot, generation: held.generation }, &entry.consumer))
    }

    /// Most messages that a consumer takes now.
    #[inline]
    pub(crate) fn allowance(&self, key: ConsumerKey) -> usize {
        let Some(Entry { consumer, unsettled, .. }) = &self.slots[key.slot as usize].entry else { return 0 };
        let by_credit = consumer.credit.map_or(usize::MAX, |credit| credit.most_messages());
        if consumer.no_ack || consumer.prefetch == 0 {
            return by_credit;
        }
        by_credit.min(consumer.prefetch.saturating_sub(*unsettled) as usize)
    }

    /// The only consumer has been given messages, at most its allowance.
    pub(crate) fn served_run(&mut self, key: ConsumerKey, messages: u32) {
        let Some(entry) = self.entry(key) else { return };
        entry.count_served(messages, 0);
        entry.state = entry.own_state();
        if entry.state != State::Able {
            let priority = entry.consumer.priority;
            self.pass_turn(key, priority, false);
        }
    }

    fn pass_turn(&mut self, key: ConsumerKey, priority: i32, stays: bool) {
        let ring = self.ring(priority);
        let front = ring.slots.pop_front();
        assert_eq!(front, Some(key.slot), "whoever is served had the turn");
        if stays {
            ring.slots.push_back(key.slot);
        }
    }

    /// The consumer whose turn it is cannot take more until [`Consumers::unpark`].
    pub(crate) fn park(&mut self, key: ConsumerKey) {
        self.set_state(key.slot, State::Parked);
    }

    /// The consumer whose turn it is has not enough credit for the message that comes next.
    pub(crate) fn fall_short(&mut self, key: ConsumerKey) {
        self.set_state(key.slot, State::Short);
    }

    /// Another message comes next: it may suit those that had not enough credit for the last one.
    #[inline]
    pub(crate) fn next_is_another(&mut self) {
        if self.short > 0 {
            self.retry_short();
        }
    }

    #[cold]
    fn retry_short(&mut self) {
        for place in 0..self.order.len() {
            let slot = self.order[place];
            if self.state(slot) == Some(State::Short) {
                self.enter(slot);
            }
        }
    }

    /// Adds to a consumer's credit. Whether that makes it able to take messages.
    pub(crate) fn grant(&mut self, key: ConsumerKey, more: Credit) -> bool {
        let Some(entry) = self.entry(key) else { return false };
        let Some(credit) = &mut entry.consumer.credit else { return false };
        credit.grant(more);
        entry.note_credit();
        matches!(entry.state, State::Dry | State::Short) && self.enter(key.slot)
    }

    /// Takes a consumer's credit away.
    pub(crate) fn drain(&mut self, key: ConsumerKey) {
        let Some(entry) = self.entry(key) else { return };
        let Some(credit) = &mut entry.consumer.credit else { return };
        *credit = Credit::NONE;
        entry.note_credit();
        if matches!(entry.state, State::Able | State::Short) {
            self.set_state(key.slot, State::Dry);
        }
    }

    /// Has a consumer's credit end once it has got `ready` messages more, or nothing more is there for it;
    /// [`Consumers::take_flushed`] tells.
    pub(crate) fn flush(&mut self, key: ConsumerKey, ready: usize) {
        let Some(entry) = self.entry(key) else { return };
        if entry.flush_left.replace(ready).is_none() {
            self.flushing += 1;
        }
    }

    /// Whether a consumer's credit is to end.
    #[inline]
    pub(crate) fn is_flushing(&self) -> bool {
        self.flushing > 0
    }

    /// Ends the credit of those that have got what was there; `is_empty`: nothing is left for anybody.
    pub(crate) fn take_flushed(&mut self, is_empty: bool) -> Vec<SessionId> {
        let mut flushed = Vec::new();
        for place in 0..self.order.len() {
            let slot = self.order[place];
            let key = ConsumerKey { slot, generation: self.slots[slot as usize].generation };
            let Some(entry) = self.entry(key) else { continue };
            let Some(left) = entry.flush_left else { continue };
            if is_empty || left == 0 || !matches!(entry.state, State::Able | State::Parked | State::Reading) {
                entry.flush_left = None;
                flushed.push(entry.consumer.session);
                self.flushing -= 1;
                self.drain(key);
            }
        }
        flushed
    }

    /// The connection of a parked consumer takes messages again. Whether that makes it able to.
    pub(crate) fn unpark(&mut self, key: ConsumerKey) -> bool {
        match self.entry(key) {
            Some(entry) if entry.state == State::Parked => self.enter(key.slot),
            _ => false,
        }
    }

    /// A message of this consumer was settled. Whether that makes it able to take more.
    pub(crate) fn settled(&mut self, key: ConsumerKey) -> bool {
        let Some(entry) = self.entry(key) else { return false };
        entry.unsettled -= 1;
        entry.state == State::Full && self.enter(key.slot)
    }

    /// Changes a consumer's prefetch. Whether that makes it able to take more.
    pub(crate) fn set_prefetch(&mut self, key: ConsumerKey, prefetch: u32) -> bool {
        let Some(entry) = self.entry(key) else { return false };
        entry.consumer.prefetch = prefetch;
        match (entry.state, entry.own_state()) {
            (State::Full, _) => self.enter(key.slot),
            (State::Able, State::Full) => {
                self.set_state(key.slot, State::Full);
                false
            }
            _ => false,
        }
    }

    /// Puts a consumer at the end of its ring, unless its own limits forbid it.
    fn enter(&mut self, slot: u32) -> bool {
        let Some(entry) = self.slots[slot as usize].entry.as_ref() else { return false };
        let state = entry.own_state();
        self.set_state(slot, state);
        state == State::Able
    }

    fn state(&self, slot: u32) -> Option<State> {
        Some(self.slots[slot as usize].entry.as_ref()?.state)
    }

    /// Moves a consumer into a ring or out of it.
    fn set_state(&mut self, slot: u32, state: State) {
        let Some(entry) = self.slots[slot as usize].entry.as_mut() else { return };
        let before = std::mem::replace(&mut entry.state, state);
        let priority = entry.consumer.priority;
        self.short -= usize::from(before == State::Short);
        self.short += usize::from(state == State::Short);
        match (before, state) {
            (State::Able, State::Able) => {}
            // Mostly the one that has the turn.
            (State::Able, _) => {
                let slots = &mut self.ring(priority).slots;
                if let Some(at) = slots.iter().position(|&other| other == slot) {
                    slots.remove(at);
                }
            }
            (_, State::Able) => self.ring(priority).slots.push_back(slot),
            _ => {}
        }
    }

    fn entry(&mut self, key: ConsumerKey) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        if slot.generation == key.generation { slot.entry.as_mut() } else { None }
    }

    fn ring(&mut self, priority: i32) -> &mut Ring {
        let at = match self.rings.iter().position(|ring| ring.priority <= priority) {
            Some(at) if self.rings[at].priority == priority => at,
            at => {
                let at = at.unwrap_or(self.rings.len());
                self.rings.insert(at, Ring { priority, slots: VecDeque::new() });
                at
            }
        };
        &mut self.rings[at]
    }
}

#[cfg(test)]
mod tests;
