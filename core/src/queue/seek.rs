//! Consumers that do not take the head of their queue: those that browse, those that select, those of queues with groups.
//!
//! Each keeps for itself how far it has looked, so that none waits for another. One that finds nothing more leaves its
//! ring until something comes, comes back, or loses its owner.

use super::level::Look;
use super::ready::{Item, Ready};
use super::{Consumer, ConsumerKey, Owner, Queue};
use crate::{Selector, SessionId};

/// Messages that one consumer looks at before another one gets its turn.
const LOOKS: usize = 64;

/// Where a consumer looks for its next message, if not at the head.
#[derive(Clone, Debug)]
pub(crate) enum Seek {
    /// At every message once, from this place on; it leaves them where they are.
    Browse(u64),
    /// From these places of the levels on; before them nothing is for it.
    Select(Box<[u64]>),
    /// Where the groups say.
    Groups,
}

/// What a consumer has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its next message, which is still in its place.
    Message(Item),
    /// Nothing among those that it has looked at, and there are more.
    NothingYet,
    /// What comes next is out of memory: the messages of a level from a place on, or its first ones.
    Away {
        /// Its level.
        level: u8,
        /// Its place, if it is not the first one that is out of memory.
        place: Option<u64>,
    },
    /// Nothing, until something comes.
    Nothing,
}

/// What came of taking a message that was browsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acquired {
    /// Its tag.
    Yes(u64),
    /// It is gone, or not for that session.
    No,
    /// It has to be read first: the messages of a level from a place on.
    Away {
        /// Its level.
        level: u8,
        /// Its place.
        place: u64,
    },
}

impl Seek {
    /// Something for somebody is at a place of a level, be it before what was looked at.
    pub(super) fn look_back(&mut self, level: u8, place: u64) {
        if let Seek::Select(from) = self {
            let from = &mut from[usize::from(level)];
            *from = place.min(*from);
        }
    }
}

impl Consumer {
    /// As whom it holds messages of groups.
    pub(crate) fn owner(&self) -> Owner {
        (self.session, Some(self.id))
    }
}

impl Queue {
    /// Whether there are consumers that do not take the head.
    #[inline]
    pub(crate) fn is_sought(&self) -> bool {
        self.consumers.seekers() > 0
    }

    /// Where a consumer of this queue will look.
    pub(super) fn seek_for(&self, consumer: &Consumer) -> Option<Seek> {
        if consumer.browse {
            Some(Seek::Browse(0))
        } else if consumer.selector.is_some() {
            let levels = usize::from(self.ready.max_priority()) + 1;
            Some(Seek::Select(vec![0; levels].into()))
        } else {
            self.groups().map(|_| Seek::Groups)
        }
    }

    /// Looks for the next message of the consumer whose turn it is. `selects` says what its selector selects.
    pub(crate) fn seek(
        &mut self,
        key: ConsumerKey,
        mut selects: impl FnMut(&Selector, &Item) -> bool,
    ) -> Found {
        let Queue { ready, consumers, policy, .. } = self;
        let groups = policy.as_ref().and_then(|policy| policy.groups.as_ref());
        let Some((consumer, seek)) = consumers.seek_of(key) else { return Found::Nothing };
        let mut is_selected =
            |item: &Item| consumer.selector.as_ref().is_none_or(|selector| selects(selector, item));
        match seek {
            None => match ready.peek() {
                Some(head) => Found::Message(head.alone_at(head.sequence)),
                None => head_away(ready),
            },
            Some(Seek::Browse(from)) => {
                let mut looks = LOOKS;
                search(from, &mut looks, |place| ready.next_at(place), is_selected)
            }
            Some(Seek::Select(from)) => {
                let owner = consumer.owner();
                search_levels(ready, from, |item| {
                    groups.is_none_or(|groups| groups.is_for(item.sequence, owner)) && is_selected(item)
                })
            }
            Some(Seek::Groups) => {
                let first = groups.and_then(|groups| groups.first_for(consumer.owner()));
                match first.and_then(|place| ready.at(place)).and_then(Look::here) {
                    Some(item) => Found::Message(item),
                    // What has not been read since a restart is of no group yet.
                    None => head_away(ready),
                }
            }
        }
    }

    /// The consumer that browses has been sent a message.
    pub(crate) fn browsed(&mut self, key: ConsumerKey, item: &Item) {
        if let Some((_, Some(Seek::Browse(from)))) = self.consumers.seek_of(key) {
            *from = item.sequence + 1;
        }
    }

    /// Takes a message that was found out of its place, for somebody who holds it until it is settled, or does not.
    pub(crate) fn take(&mut self, found: &Item, holder: Option<Owner>) -> Option<Item> {
        let is_head = self.ready.peek().is_some_and(|head| head.sequence == found.sequence);
        let item =
            if is_head { self.ready.pop() } else { self.ready.remove(found.priority, found.sequence) }?;
        if let (Some(owner), Some(groups)) = (holder, self.groups_mut()) {
            groups.taken(item.sequence, owner);
        }
        self.consumers.next_is_another();
        Some(item)
    }

    /// Takes a message for a session that fetches one, and settles it later or not at all.
    pub(crate) fn fetch(&mut self, session: SessionId, settles: bool) -> Option<Item> {
        let owner = (session, None);
        let Some(groups) = self.groups() else { return self.pop() };
        let found = groups.first_for(owner).and_then(|place| self.ready.at(place)?.here())?;
        self.take(&found, settles.then_some(owner))
    }

    /// The place of the message that a session would fetch.
    pub(crate) fn place_to_fetch(&self, session: SessionId) -> Option<u64> {
        match self.groups() {
            Some(groups) => groups.first_for((session, None)),
            None => self.ready.peek().map(|item| item.sequence),
        }
    }

    /// Hands a message that a session has browsed over to it.
    pub(crate) fn acquire(&mut self, place: u64, session: SessionId, now_ns: u64) -> Acquired {
        let owner = (session, None);
        if !self.may_hand_out(place) {
            return Acquired::No;
        }
        let found = match self.ready.at(place) {
            Some(Look::Here(item)) => item,
            Some(Look::Away { level, place }) => return Acquired::Away { level, place },
            None => return Acquired::No,
        };
        let is_for = self.groups().is_none_or(|groups| groups.is_for(place, owner));
        if found.expires_ns < now_ns || !is_for {
            return Acquired::No;
        }
        match self.take(&found, Some(owner)) {
            Some(item) => Acquired::Yes(self.hand_out(item, None)),
            None => Acquired::No,
        }
    }

    /// Something came, came back or went: those that found nothing, or not enough credit, look again.
    pub(crate) fn look_again(&mut self) {
        self.consumers.next_is_another();
        self.consumers.wake_idle();
    }
}

/// What there is if the next message is not in memory.
fn head_away(ready: &Ready) -> Found {
    match ready.next_level().filter(|_| ready.is_paged()) {
        Some(level) => Found::Away { level: level as u8, place: None },
        None => Found::Nothing,
    }
}

/// Looks for a message that suits in all levels, the highest first.
fn search_levels(ready: &Ready, from: &mut [u64], mut suits: impl FnMut(&Item) -> bool) -> Found {
    let mut looks = LOOKS;
    for (level, from) in from.iter_mut().enumerate().rev() {
        match search(from, &mut looks, |place| ready.next_of(level as u8, place), &mut suits) {
            Found::Nothing => {}
            found => return found,
        }
    }
    Found::Nothing
}

/// Looks for a message that suits from a place on, which moves to where it is.
fn search(
    from: &mut u64,
    looks: &mut usize,
    next: impl Fn(u64) -> Option<Look>,
    mut suits: impl FnMut(&Item) -> bool,
) -> Found {
    while let Some(look) = next(*from) {
        if *looks == 0 {
            return Found::NothingYet;
        }
        let item = match look {
            Look::Here(item) => item,
            Look::Away { level, place } => return Found::Away { level, place: Some(place) },
        };
        *looks -= 1;
        if suits(&item) {
            *from = item.sequence;
            return Found::Message(item);
        }
        *from = item.sequence + 1;
    }
    Found::Nothing
}
