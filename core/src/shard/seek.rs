//! Dispatching from queues where not everybody takes the head.

use super::deadletter::Reason;
use super::deliver::note_gone;
use super::envelope::Ask;
use super::outputs::Handed;
use super::reading::{Reader, Want};
use super::{Clock, Shard};
use crate::QueueId;
use crate::SessionId;
use crate::queue::{Acquired, Found, Item, NEVER_NS, Queue, browsed_place, tag_to_browse};
use crate::selector::{Selector, Standing};

impl Shard {
    /// One message for the consumer whose turn it is, or one step towards it. `false`: nothing is there, or nobody looks
    /// for anything.
    pub(super) fn dispatch_sought(&mut self, queue: &mut Queue) -> bool {
        if queue.ready_messages() == 0 {
            return false;
        }
        let Some((key, consumer)) = queue.consumers.next() else { return false };
        let (session, number, account) = (consumer.session, consumer.id, consumer.account);
        let (browses, holds, credit) = (consumer.browse, consumer.holds(), consumer.credit);
        let owner = consumer.owner();
        let (store, clock) = (&self.store, self.clock);
        let selects = |selector: &Selector, item: &Item| {
            selector.matches_with(&store.view(item.message), &standing(item, clock))
        };
        let found = match queue.seek(key, selects) {
            Found::Message(found) => found,
            Found::NothingYet => {
                queue.consumers.pass(key);
                return true;
            }
            Found::Away { level, place } => {
                queue.consumers.await_read(key);
                let reader = Reader::Queue(queue.id());
                self.read(queue.ready_mut(), Want { reader, level, place });
                return true;
            }
            Found::Nothing => {
                queue.consumers.rest(key);
                return true;
            }
        };
        if found.expires_ns < self.clock.monotonic_ns {
            let Some(item) = queue.take(&found, None) else { return false };
            note_gone(queue, &item, &mut self.thinned);
            let entry = queue.entry().clone();
            self.discard(&entry, item, Reason::Expired);
            return true;
        }
        let message = self.store.get(found.message);
        let (bytes, credit_bytes) = (message.total_bytes(), message.credit_bytes());
        if credit.is_some_and(|credit| !credit.covers(credit_bytes)) {
            queue.consumers.fall_short(key);
            return true;
        }
        let Some(connection) = self.accounts.charge(account, bytes) else {
            self.accounts.park(account, queue.id(), key);
            queue.consumers.park(key);
            return true;
        };
        let tag = if browses {
            queue.browsed(key, &found);
            queue.consumers.served(key, credit_bytes);
            tag_to_browse(found.sequence)
        } else {
            let Some(item) = queue.take(&found, holds.then_some(owner)) else { return false };
            queue.consumers.served(key, credit_bytes);
            if holds {
                queue.hand_out(item, Some(key))
            } else {
                note_gone(queue, &item, &mut self.thinned);
                self.departures.note(queue, &item);
                0
            }
        };
        self.deliver(Handed {
            session,
            connection,
            consumer: number,
            queue: queue.id(),
            tag,
            message: found.message,
            followers: 0,
            redelivered: found.redelivered,
            ttl_left_ms: found.ttl_left_ms(self.clock.monotonic_ns),
        });
        true
    }

    /// Makes messages that a session has browsed its own; of some that may have happened. `None`: the answer comes when
    /// others have been read, or it is stored that they may be in a client's hands.
    pub(super) fn acquire_at_home(
        &mut self,
        session: SessionId,
        id: QueueId,
        tags: Vec<u64>,
        mut acquired: Vec<Option<u64>>,
    ) -> Option<Vec<Option<u64>>> {
        let now_ns = self.clock.monotonic_ns;
        for &tag in &tags[acquired.len()..] {
            let place = browsed_place(tag).zip(self.queues.get_mut(id));
            if let Some((place, queue)) = &place
                && !queue.may_hand_out(*place)
            {
                let (place, ask) = (*place, Ask::Acquire { queue: id, tags, acquired });
                self.await_place(session, id, ask, place);
                return None;
            }
            match place.map(|(place, queue)| queue.acquire(place, session, now_ns)) {
                Some(Acquired::Yes(tag)) => acquired.push(Some(tag)),
                Some(Acquired::No) | None => acquired.push(None),
                Some(Acquired::Away { level, place }) => {
                    let ask = Ask::Acquire { queue: id, tags, acquired };
                    self.await_place_of(session, id, ask, level, Some(place));
                    return None;
                }
            }
        }
        self.schedule(id);
        Some(acquired)
    }
}

/// What the queue knows of a message that selectors may ask for.
fn standing(item: &Item, clock: Clock) -> Standing {
    const NS_PER_MS: u64 = 1_000_000;
    let left_ms = |expires_ns: u64| expires_ns.saturating_sub(clock.monotonic_ns) / NS_PER_MS;
    let expires_ns = Some(item.expires_ns).filter(|&ns| ns != NEVER_NS);
    let expires_ms = expires_ns.map(|ns| clock.wall_ms.saturating_add(left_ms(ns)));
    Standing { redelivered: item.redelivered, expires_ms }
}
