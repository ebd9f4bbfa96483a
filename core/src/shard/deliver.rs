//! From queues to sessions, and back: dispatching, settling, limits, expiry. All at the queue's home.

use std::collections::VecDeque;

use super::deadletter::Reason;
use super::envelope::{Letter, RemoteDelivery};
use super::outputs::Handed;
use super::{Delivery, Due, Output, Settlement, Shard};
use crate::mesh::Lane;
use crate::queue::{ConsumerKey, Item, NEVER_NS, Queue, counts_as_held, is_browsed};
use crate::request::Overflow;
use crate::timers::Timers;
use crate::{ConnectionId, MessageId, QueueId, SessionId};

/// Deliveries of one queue before others get their turn.
const QUEUE_BUDGET: usize = 64;
/// Deliveries of a shard in one turn, besides two for each message that came in since the last one: whatever floods
/// in, more goes out.
const TURN_BUDGET: usize = 1024;
/// Messages of one queue that expire in one turn.
const EXPIRY_BUDGET: usize = 1024;
/// Until something that has expired is looked at again, which has to be read before it goes elsewhere.
const EXPIRY_READ_NS: u64 = 1_000_000;

impl Shard {
    /// Settles a message that was delivered to the session. A queue that has gone meanwhile is no error.
    pub fn settle(&mut self, session: SessionId, queue: QueueId, tag: u64, settlement: Settlement) {
        if counts_as_held(tag) {
            self.count_settled(session);
        } else if is_browsed(tag) {
            return;
        }
        if queue.home != self.config.id && self.is_committing(session) {
            // Behind the part of the commit, which may settle it.
            self.send(queue.home, Lane::Data, Letter::Settle { queue, tag, settlement });
            return;
        }
        self.settle_anywhere(queue, tag, settlement);
        self.bury_dead();
    }

    /// Settles here or sends the settlement home.
    pub(super) fn settle_anywhere(&mut self, queue: QueueId, tag: u64, settlement: Settlement) {
        if queue.home == self.config.id {
            self.settle_at_home(queue, tag, settlement);
        } else {
            self.settles_sent[queue.home.index()] += 1;
            self.send(queue.home, Lane::Reply, Letter::Settle { queue, tag, settlement });
        }
    }

    pub(super) fn settle_at_home(&mut self, id: QueueId, tag: u64, settlement: Settlement) {
        if self.parts.holds(id, tag, settlement) {
            return;
        }
        let Some(queue) = self.queues.get_mut(id) else { return };
        let Some((mut item, able)) = queue.take_back(tag) else { return };
        match settlement {
            Settlement::Accept => {
                self.stats.settled += 1;
                note_gone(queue, &item, &mut self.thinned);
                self.departures.note(queue, &item);
                self.store.release(item.message);
                if able {
                    self.schedule(id);
                }
                return;
            }
            Settlement::Reject => {
                self.stats.settled += 1;
                note_gone(queue, &item, &mut self.thinned);
                let entry = queue.entry().clone();
                self.discard(&entry, item, Reason::Rejected);
            }
            // Marked even if it never reached its client: younger ones may have been delivered meanwhile, and an old one
            // after them, unmarked, would look as if it had been sent late.
            Settlement::Requeue | Settlement::Release => {
                self.stats.requeued += 1;
                item.redelivered |= settlement == Settlement::Requeue;
                queue.requeue(item);
            }
        }
        self.after_push(id);
        self.enforce_limits(id);
    }

    /// A queue has got a message: somebody may want it, and it may expire.
    pub(super) fn after_push(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        queue.look_again();
        note_push(queue, &mut self.ready, &mut self.timers);
        if queue.is_paged() {
            // Whoever is able now may want what is out of memory.
            self.schedule(id);
        }
    }

    /// Puts a queue into the line of those with something to do, if it has.
    pub(super) fn schedule(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if !queue.scheduled && queue.has_work() {
            queue.scheduled = true;
            self.ready.push_back(id.index);
        } else if queue.is_paged() && !queue.scheduled {
            self.read_ahead_of(id);
        }
    }

    /// Gives every queue in the line its turn, round after round, until nothing is left or the turn is used up.
    pub(super) fn dispatch_ready(&mut self) -> bool {
        self.paging.came = std::mem::take(&mut self.enqueued);
        let budget = TURN_BUDGET + 2 * self.paging.came;
        let mut served = 0;
        while served < budget {
            let Some(index) = self.ready.pop_front() else { break };
            served += self.dispatch(index, QUEUE_BUDGET).max(1);
        }
        served > 0
    }

    /// Hands out messages of a queue while consumers take them, at most `budget`. Returns how many left it.
    pub(super) fn dispatch(&mut self, index: u32, budget: usize) -> usize {
        let Some(mut queue) = self.queues.take(index) else { return 0 };
        queue.scheduled = false;
        let mut served = 0;
        while served < budget {
            match self.dispatch_run(&mut queue, budget - served) {
                0 if self.dispatch_one(&mut queue) => served += 1,
                0 => break,
                run => served += run,
            }
        }
        if queue.has_work() {
            queue.scheduled = true;
            self.ready.push_back(index);
        }
        if queue.may_expire() {
            set_expiry_timer(&mut queue, &mut self.timers);
        }
        if queue.is_paged() {
            self.read_ahead(&mut queue);
        }
        let is_flushing = queue.consumers.is_flushing();
        let id = queue.id();
        self.queues.put(index, queue);
        if is_flushing {
            self.end_flushes(id);
        }
        served
    }

    /// Drops the head until a queue keeps to its limits.
    pub(super) fn enforce_limits(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if !queue.is_over_limit() || queue.options().overflow != Overflow::DropHead {
            return;
        }
        // What consumers can take at once does not count as waiting.
        self.dispatch(id.index, usize::MAX);
        while let Some(queue) = self.queues.get_mut(id).filter(|queue| queue.is_over_limit()) {
            let entry = queue.entry().clone();
            let Some(item) = queue.pop() else {
                let level = queue.ready().level_of_next();
                if self.drop_away(id, level, Reason::MaxLength) {
                    continue;
                }
                break;
            };
            note_gone(queue, &item, &mut self.thinned);
            self.discard(&entry, item, Reason::MaxLength);
        }
        // What comes next now may suit somebody whom the last one did not.
        self.schedule(id);
    }

    /// A queue refuses a message.
    pub(super) fn refuse(&mut self, id: QueueId, message: MessageId) {
        self.stats.refused += 1;
        let Some(queue) = self.queues.get_mut(id) else { return self.store.release(message) };
        if queue.options().overflow == Overflow::RejectPublishDeadLetter {
            let entry = queue.entry().clone();
            self.discard_message(&entry, message, Reason::MaxLength, None);
        } else {
            self.store.release(message);
        }
    }

    /// A timer for expiring messages has run out. An older one than the queue counts on says nothing.
    pub(super) fn expire_at(&mut self, id: QueueId, deadline_ns: u64) {
        if self.queues.get_mut(id).is_none_or(|queue| queue.expiry_timer_ns != deadline_ns) {
            return;
        }
        if let Some(queue) = self.queues.get_mut(id).filter(|queue| queue.holds_back()) {
            queue.expiry_timer_ns = NEVER_NS;
            return self.release_held(id);
        }
        let finished = self.drop_expired(id, EXPIRY_BUDGET);
        self.schedule(id);
        let now_ns = self.clock.monotonic_ns;
        let Some(queue) = self.queues.get_mut(id) else { return };
        queue.expiry_timer_ns = NEVER_NS;
        let is_read_first = finished && queue.next_expiry_ns().is_some_and(|ns| ns <= now_ns);
        if finished && !is_read_first {
            set_expiry_timer(queue, &mut self.timers);
            return;
        }
        let deadline_ns = now_ns + if is_read_first { EXPIRY_READ_NS } else { 1 };
        queue.expiry_timer_ns = deadline_ns;
        self.timers.set(deadline_ns, Due::Expiry(id));
    }

    /// Removes what has expired from a queue, at most `budget`. Whether that was all.
    pub(super) fn drop_expired(&mut self, id: QueueId, budget: usize) -> bool {
        let now_ns = self.clock.monotonic_ns;
        for _ in 0..budget {
            let Some(queue) = self.queues.get_mut(id) else { return true };
            let Some(item) = queue.pop_expired(now_ns) else {
                match queue.ready().expired_away(now_ns) {
                    Some(level) if self.drop_away(id, level, Reason::Expired) => continue,
                    _ => return true,
                }
            };
            note_gone(queue, &item, &mut self.thinned);
            let entry = queue.entry().clone();
            self.discard(&entry, item, Reason::Expired);
        }
        false
    }

    /// A connection has taken bytes: consumers that waited for room may go on.
    pub(super) fn credit_account(&mut self, connection: ConnectionId, bytes: u64) {
        let mut opened = std::mem::take(&mut self.opened);
        self.accounts.credit(connection, bytes, &mut opened);
        for (id, key) in opened.drain(..) {
            self.unpark(id, key);
        }
        self.opened = opened;
    }

    fn unpark(&mut self, id: QueueId, key: ConsumerKey) {
        if self.queues.get_mut(id).is_some_and(|queue| queue.consumers.unpark(key)) {
            self.schedule(id);
            self.end_flushes(id);
        }
    }

    /// Hands messages that do not expire to the only consumer, if its session is here and lets everything pass, or is
    /// elsewhere and settles nothing: what holds for the first message holds for all, and is looked at once. Returns
    /// how many; 0 says nothing.
    fn dispatch_run(&mut self, queue: &mut Queue, budget: usize) -> usize {
        if queue.may_expire() || queue.watches_leaving() {
            return 0;
        }
        let Some((key, consumer)) = queue.consumers.sole() else { return 0 };
        let (id, number, no_ack, account) =
            (consumer.session, consumer.id, consumer.no_ack, consumer.account);
        if id.shard != self.config.id {
            return if no_ack { self.dispatch_run_elsewhere(queue, budget) } else { 0 };
        }
        let has_credit = consumer.credit.is_some();
        let Some(session) = self.sessions.get_mut(id.index, id.generation) else { return 0 };
        if !session.is_ungated() {
            return 0;
        }
        let (connection, owner, channel) = (session.connection, session.owner, session.channel);
        let budget = budget.min(queue.consumers.allowance(key));
        let room_bytes = self.accounts.room_bytes(account);
        let (from, mut count, mut bytes) = (queue.id(), 0, 0);
        // What has to be settled is handed out one by one.
        let most_at_once = if no_ack { u16::MAX } else { 1 };
        while count < budget && bytes < room_bytes {
            let most = u16::try_from(budget - count).unwrap_or(u16::MAX).min(most_at_once);
            let Some(item) = queue.pop_batch(most) else { break };
            let Item { message, followers, redelivered, .. } = item;
            bytes += (item.messages() * self.store.get(message).total_bytes()) as u64;
            let mut tag = 0;
            if no_ack {
                self.departures.note(queue, &item);
            } else {
                self.store.retain(message);
                tag = queue.hand_out(item, Some(key));
            }
            let delivery = Delivery {
                owner,
                channel,
                redelivered,
                ttl_left_ms: None,
                consumer: number,
                queue: from,
                tag,
                message,
                followers: followers.into(),
            };
            self.outputs.push_back((id, Output::Delivery(delivery)));
            count += item.messages();
        }
        if !no_ack {
            session.passed(count as u32);
        }
        if !no_ack || has_credit {
            queue.consumers.served_run(key, count as u32);
        }
        self.stats.delivered += count as u64;
        self.accounts.add(account, bytes);
        self.note_taken(connection, from.home, bytes as usize);
        count
    }

    /// [`Shard::dispatch_run`] for a consumer whose session is on another shard.
    fn dispatch_run_elsewhere(&mut self, queue: &mut Queue, budget: usize) -> usize {
        let Some((key, consumer)) = queue.consumers.sole() else { return 0 };
        let has_credit = consumer.credit.is_some();
        let (session, consumer, account) = (consumer.session, consumer.id, consumer.account);
        let budget = budget.min(queue.consumers.allowance(key));
        let connection = self.accounts.connection(account);
        let room_bytes = self.accounts.room_bytes(account);
        let (from, mut count, mut bytes) = (queue.id(), 0, 0);
        while count < budget && bytes < room_bytes {
            let most = u16::try_from(budget - count).unwrap_or(u16::MAX);
            let Some(item) = queue.pop_batch(most) else { break };
            let messages = u16::from(item.followers) + 1;
            self.departures.note(queue, &item);
            bytes += (item.messages() * self.store.get(item.message).total_bytes()) as u64;
            let message = self.store.extract_batch(item.message, messages);
            let redelivered = item.redelivered;
            let delivery = RemoteDelivery {
                session,
                connection,
                consumer,
                queue: from,
                tag: 0,
                redelivered,
                ttl_left_ms: None,
                message,
            };
            self.send(session.shard, Lane::Data, Letter::Delivery(delivery));
            count += usize::from(messages);
        }
        if has_credit {
            queue.consumers.served_run(key, count as u32);
        }
        self.accounts.add(account, bytes);
        count
    }

    /// One message, or one step towards it. `false`: nothing to hand out, or nobody to take it.
    #[inline]
    fn dispatch_one(&mut self, queue: &mut Queue) -> bool {
        if queue.is_sought() {
            return self.dispatch_sought(queue);
        }
        let Some(head) = queue.peek() else { return false };
        if head.expires_ns < self.clock.monotonic_ns {
            let Some(item) = queue.pop() else { return false };
            note_gone(queue, &item, &mut self.thinned);
            let entry = queue.entry().clone();
            self.discard(&entry, item, Reason::Expired);
            return true;
        }
        let message = self.store.get(head.message);
        let (bytes, credit_bytes) = (message.total_bytes(), message.credit_bytes());
        let (key, consumer, connection) = loop {
            let Some((key, consumer)) = queue.consumers.next() else { return false };
            if consumer.credit.is_some_and(|credit| !credit.covers(credit_bytes)) {
                queue.consumers.fall_short(key);
                continue;
            }
            if let Some(connection) = self.accounts.charge(consumer.account, bytes) {
                break (key, consumer, connection);
            }
            self.accounts.park(consumer.account, queue.id(), key);
            queue.consumers.park(key);
        };
        let (session, consumer, no_ack) = (consumer.session, consumer.id, consumer.no_ack);
        let Some(item) = queue.pop() else { return false };
        queue.consumers.served(key, credit_bytes);
        let tag = if no_ack { 0 } else { queue.hand_out(item, Some(key)) };
        if no_ack {
            note_gone(queue, &item, &mut self.thinned);
            self.departures.note(queue, &item);
        }
        let (queue, message, redelivered) = (queue.id(), item.message, item.redelivered);
        let ttl_left_ms = item.ttl_left_ms(self.clock.monotonic_ns);
        self.deliver(Handed {
            session,
            connection,
            consumer,
            queue,
            tag,
            message,
            followers: 0,
            redelivered,
            ttl_left_ms,
        });
        true
    }

    /// Sends a message on its way to its session. The delivery's reference is the only one if it has no tag.
    #[inline]
    pub(super) fn deliver(&mut self, handed: Handed) {
        let stays = handed.tag != 0;
        if handed.session.shard == self.config.id {
            if stays {
                self.store.retain(handed.message);
            }
            return self.hand_over(handed);
        }
        let Handed { session, connection, consumer, queue, tag, message, redelivered, ttl_left_ms, .. } =
            handed;
        let message = if stays { self.store.copy(message) } else { self.store.extract(message) };
        let delivery =
            RemoteDelivery { session, connection, consumer, queue, tag, redelivered, ttl_left_ms, message };
        self.send(session.shard, Lane::Data, Letter::Delivery(delivery));
    }
}

/// A queue has got a message: it joins the line if somebody wants it, and its expiry is watched.
#[inline]
pub(super) fn note_push(queue: &mut Queue, line: &mut VecDeque<u32>, timers: &mut Timers<Due>) {
    if queue.may_expire() {
        set_expiry_timer(queue, timers);
    }
    if !queue.scheduled && queue.has_work() {
        queue.scheduled = true;
        line.push_back(queue.id().index);
    }
}

/// A message has left a queue for good: whoever watches the queue is told, and the queue is looked at before the turn
/// ends.
#[inline]
pub(super) fn note_gone(queue: &mut Queue, item: &Item, thinned: &mut Vec<QueueId>) {
    if queue.watches_leaving() {
        note_gone_from_watched(queue, *item, thinned);
    }
}

#[cold]
fn note_gone_from_watched(queue: &mut Queue, item: Item, thinned: &mut Vec<QueueId>) {
    if queue.gone(&item) {
        thinned.push(queue.id());
    }
}

/// Makes sure that a queue is looked at when its next head expires.
pub(super) fn set_expiry_timer(queue: &mut Queue, timers: &mut Timers<Due>) {
    if let Some(deadline_ns) = queue.next_expiry_ns().filter(|&ns| ns < queue.expiry_timer_ns) {
        queue.expiry_timer_ns = deadline_ns;
        timers.set(deadline_ns, Due::Expiry(queue.id()));
    }
}
