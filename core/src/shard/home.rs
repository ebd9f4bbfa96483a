//! What a queue's home does for sessions anywhere: consumers, fetching, purging, counts, and the queue's end.

use std::sync::Arc;

use super::deadletter::Reason;
use super::deliver::note_gone;
use super::envelope::{Answer, Ask, Bereft, Letter, Query};
use super::stored::Waiter;
use super::{Due, Output, Shard};
use crate::mesh::Lane;

use crate::ids::ClientId;
use crate::queue::{Consumer, Item, Leaving, PagedItem, Queue};
use crate::request::{ConsumerOptions, Got, QueueInfo};
use crate::topology::QueueEntry;
use crate::{ConnectionId, Credit, Name, QueueId, Refusal, Reply, SessionId};

/// Messages released at once; more wait for later turns.
const RELEASE_BUDGET: usize = 4096;

/// Messages of a queue that is gone or purged, released little by little.
pub(super) struct Trash {
    items: Box<dyn Iterator<Item = Leaving> + Send>,
    /// The queue that has ended, if its alternate exchange gets them.
    by: Option<Arc<QueueEntry>>,
}

impl Trash {
    pub(super) fn new(items: impl Iterator<Item = Leaving> + Send + 'static) -> Self {
        Trash { items: Box::new(items), by: None }
    }

    /// The alternate exchange of a queue that has ended gets them.
    pub(super) fn of_ended(items: Vec<Item>, queue: Arc<QueueEntry>) -> Self {
        Trash { items: Box::new(items.into_iter().map(Leaving::Here)), by: Some(queue) }
    }
}

/// Who wants to consume.
struct Whose {
    session: SessionId,
    client: ClientId,
    connection: ConnectionId,
}

/// The queues at home on this shard, by the index in their identifiers.
#[derive(Default)]
pub(super) struct Queues {
    slots: Vec<Option<Box<Queue>>>,
    len: usize,
}

impl Queues {
    pub(super) fn get_mut(&mut self, id: QueueId) -> Option<&mut Queue> {
        let queue = self.slots.get_mut(id.index as usize)?.as_deref_mut()?;
        if queue.id().generation == id.generation { Some(queue) } else { None }
    }

    pub(super) fn insert(&mut self, queue: Queue) {
        let index = queue.id().index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        assert!(self.slots[index].is_none(), "a queue's slot is free when the queue is declared");
        self.slots[index] = Some(Box::new(queue));
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: QueueId) -> Option<Box<Queue>> {
        self.get_mut(id)?;
        self.len -= 1;
        self.slots[id.index as usize].take()
    }

    /// Takes a queue out for a moment; [`Queues::put`] has to follow.
    pub(super) fn take(&mut self, index: u32) -> Option<Box<Queue>> {
        self.slots.get_mut(index as usize)?.take()
    }

    pub(super) fn put(&mut self, index: u32, queue: Box<Queue>) {
        self.slots[index as usize] = Some(queue);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Queue> {
        self.slots.iter_mut().flatten().map(|queue| &mut **queue)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Queue> {
        self.slots.iter().flatten().map(|queue| &**queue)
    }
}

impl Shard {
    /// A query from a session of another shard.
    pub(super) fn answer_query(&mut self, query: Query) {
        if let Some(result) = self.ask_home(query.session, query.ask) {
            self.answer(query.session, result);
        }
    }

    /// Carries out what a session asks of a queue at home here. `None`: the answer comes by [`Shard::answer`].
    pub(super) fn ask_home(&mut self, session: SessionId, ask: Ask) -> Option<Result<Reply, Refusal>> {
        match ask {
            Ask::Counts { queue, name, passive } => Some(self.counts(queue, name, passive)),
            Ask::Info { queue } => Some(Ok(Reply::Queue(self.queue_info(queue)))),
            Ask::Purge { queue, name } => self.purge(session, queue, name),
            Ask::Move { queue, taking } => self.take_out(Some(session), queue, *taking),
            Ask::Get { queue, name, no_ack } => self.fetch(session, queue, name, no_ack),
            Ask::Subscribe { queue, .. } => {
                let ask = self.open_for(session, queue, ask)?;
                let Ask::Subscribe { queue, name, connection, client, consumer, options } = ask else {
                    return None;
                };
                let whose = Whose { session, client, connection };
                Some(self.subscribe_at_home(whose, queue, name, consumer, &options))
            }
            Ask::Cancel { queue, consumer } => {
                let ended = self.unsubscribe_at_home(queue, session, consumer);
                self.reply_when_ended(session, queue, ended, Reply::Done)
            }
            Ask::Stop { queue, consumer } => {
                self.end_credit_at_home(queue, session, consumer);
                Some(Ok(Reply::Done))
            }
            Ask::Flush { queue, consumer } => self.flush_at_home(queue, session, consumer),
            Ask::Acquire { queue, tags, acquired } => {
                let tags = self.acquire_at_home(session, queue, tags, acquired)?;
                Some(Ok(Reply::Acquired { queue, tags }))
            }
            Ask::Delete { queue, name, if_unused, if_empty } => {
                let checked = self.check_deletable(queue, name, if_unused, if_empty);
                let stored = self.check_deletion_stored(queue);
                match checked.and_then(|messages| stored.map(|()| messages)) {
                    Ok(messages) => {
                        let ended = self.end_queue(queue);
                        self.reply_when_ended(session, queue, ended, Reply::Messages(messages))
                    }
                    Err(refusal) => Some(Err(refusal)),
                }
            }
            Ask::Barrier => Some(Ok(Reply::Done)),
        }
    }

    /// Sends an answer to a session, wherever it is.
    pub(super) fn answer(&mut self, session: SessionId, result: Result<Reply, Refusal>) {
        if session.shard == self.config.id {
            return self.tell_reply(session, result);
        }
        let message = match &result {
            Ok(Reply::Got(Some(got))) => Some(self.store.extract(got.message)),
            _ => None,
        };
        let answer = Box::new(Answer { session, result, message });
        self.send(session.shard, Lane::Data, Letter::Answer(answer));
    }

    /// The answer to a session that has gone: the messages in it go back.
    pub fn give_back_reply(&mut self, result: Result<Reply, Refusal>) {
        match result {
            Ok(Reply::Got(Some(got))) => {
                self.store.release(got.message);
                if got.tag != 0 {
                    self.settle_anywhere(got.queue, got.tag, super::Settlement::Requeue);
                }
            }
            Ok(Reply::Committed { unroutable }) => {
                unroutable.into_iter().for_each(|message| self.store.release(message));
            }
            Ok(Reply::Acquired { queue, tags }) => {
                for tag in tags.into_iter().flatten() {
                    self.settle_anywhere(queue, tag, super::Settlement::Release);
                }
            }
            _ => {}
        }
    }

    /// A queue at home here was declared.
    pub(super) fn make_queue(&mut self, entry: &Arc<QueueEntry>) {
        let queue = Queue::new(entry.clone(), self.clock.monotonic_ns);
        let queue = queue.with_policy(&self.config.limits);
        let journal = self.journal.as_ref().filter(|_| self.failure.is_none());
        self.queues.insert(match journal {
            Some(journal) => queue.with_records(journal.run()),
            None => queue,
        });
        self.watch_unused(entry.id);
        self.prune_timers();
    }

    /// Forgets deadlines that no longer count, once they are the greater part.
    pub(super) fn prune_timers(&mut self) {
        const SPARED: usize = 1024;
        let most_in_use = 2 * (self.queues.len() + self.branches.len());
        if self.timers.len() < SPARED + 2 * most_in_use {
            return;
        }
        let (queues, branches, attic) = (&mut self.queues, &self.branches, &self.attic);
        self.timers.retain(|deadline_ns, due| match due {
            Due::Expiry(id) => queues.get_mut(*id).is_some_and(|queue| queue.expiry_timer_ns == deadline_ns),
            Due::AutoDelete(id) => {
                queues.get_mut(*id).is_some_and(|queue| queue.auto_delete_ns == Some(deadline_ns))
            }
            Due::Unused(id) => queues.get_mut(*id).is_some_and(|queue| queue.unused_timer),
            Due::Branch(slot) => branches.awaits(*slot, deadline_ns),
            Due::Resumption(session) => attic.awaits(*session, deadline_ns),
            Due::ReadAgain | Due::PageOut => true,
        });
    }

    /// Tells the consumers of a queue that is gone.
    pub(super) fn tell_cancelled(&mut self, queue: QueueId, consumers: Vec<Bereft>) {
        for bereft in consumers {
            let home = bereft.session.shard;
            if home == self.config.id {
                self.consumer_cancelled(bereft, queue);
            } else {
                self.send(home, Lane::Data, Letter::ConsumerCancelled { bereft, queue });
            }
        }
    }

    /// Tells a session that its consumer is over.
    pub(super) fn consumer_cancelled(&mut self, bereft: Bereft, queue: QueueId) {
        let Bereft { session: id, consumer, waited } = bereft;
        let Some(session) = self.session_mut(id) else { return };
        if session.unsubscribed(consumer, queue) {
            let (owner, channel) = (session.owner, session.channel);
            self.outputs.push_back((id, Output::ConsumerCancelled { owner, channel, consumer, waited }));
        }
    }

    /// Removes a consumer. Whether its queue, if it ended with it, is gone everywhere.
    pub(super) fn unsubscribe_at_home(&mut self, id: QueueId, session: SessionId, consumer: u32) -> bool {
        self.forget_asks(session);
        let Some(queue) = self.queues.get_mut(id) else { return true };
        let Some(key) = queue.consumers.find(session, consumer) else { return true };
        if let Some(consumer) = queue.unsubscribe(key) {
            self.accounts.leave(consumer.account);
        }
        self.shut_if_unused(id);
        let ended = self.end_if_abandoned(id);
        self.touch(id);
        self.schedule(id);
        ended
    }

    pub(super) fn set_prefetch_at_home(&mut self, id: QueueId, session: SessionId, consumer: u32, most: u32) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let Some(key) = queue.consumers.find(session, consumer) else { return };
        if queue.consumers.set_prefetch(key, most) {
            self.schedule(id);
        }
    }

    /// Grants credit to a consumer here or sends the grant home.
    pub(super) fn grant_anywhere(
        &mut self,
        queue: QueueId,
        session: SessionId,
        consumer: u32,
        credit: Credit,
    ) {
        if queue.home == self.config.id {
            self.grant_at_home(queue, session, consumer, credit);
        } else {
            self.settles_sent[queue.home.index()] += 1;
            self.send(queue.home, Lane::Reply, Letter::Grant { queue, session, consumer, credit });
        }
    }

    pub(super) fn grant_at_home(&mut self, id: QueueId, session: SessionId, consumer: u32, credit: Credit) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let Some(key) = queue.consumers.find(session, consumer) else { return };
        if queue.consumers.grant(key, credit) {
            self.schedule(id);
        }
    }

    fn end_credit_at_home(&mut self, id: QueueId, session: SessionId, consumer: u32) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        if let Some(key) = queue.consumers.find(session, consumer) {
            queue.consumers.drain(key);
        }
    }

    /// Sends a consumer what is there and its credit allows. The answer comes by [`Shard::end_flushes`], at once or when
    /// its connection has taken all that.
    fn flush_at_home(
        &mut self,
        id: QueueId,
        session: SessionId,
        consumer: u32,
    ) -> Option<Result<Reply, Refusal>> {
        let done = Some(Ok(Reply::Done));
        let Some(queue) = self.queues.get_mut(id) else { return done };
        let Some(key) = queue.consumers.find(session, consumer) else { return done };
        queue.consumers.flush(key, queue.ready_messages());
        self.schedule(id);
        self.end_flushes(id);
        None
    }

    /// Ends the credit of those that have been sent what was there, and answers.
    pub(super) fn end_flushes(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id).filter(|queue| queue.consumers.is_flushing()) else {
            return;
        };
        let is_empty = queue.ready_messages() == 0;
        let flushed = queue.consumers.take_flushed(is_empty);
        self.answer_flushed(flushed);
    }

    pub(super) fn answer_flushed(&mut self, flushed: Vec<SessionId>) {
        for session in flushed {
            if session.shard == self.config.id {
                self.answered(session, Ok(Reply::Done));
            } else {
                self.answer(session, Ok(Reply::Done));
            }
        }
    }

    /// The time of a queue's expiry has come, or seems to have.
    pub(super) fn expire_unused(&mut self, id: QueueId) {
        let now_ns = self.clock.monotonic_ns;
        let Some(queue) = self.queues.get_mut(id) else { return };
        queue.unused_timer = false;
        if queue.unused_deadline_ns().is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            self.stats.queues_expired += 1;
            self.end_queue(id);
        } else {
            // Used meanwhile. If it is in use now, its last consumer sets the timer again.
            self.watch_unused(id);
        }
    }

    /// Releases some of what waits to be released.
    pub(super) fn empty_trash(&mut self) -> bool {
        let Some(mut trash) = self.trash.pop() else { return false };
        for _ in 0..RELEASE_BUDGET {
            match (trash.items.next(), &trash.by) {
                (Some(Leaving::Here(item)), None) => self.store.release(item.message),
                (Some(Leaving::Here(item)), Some(queue)) => self.discard(queue, item, Reason::QueueEnded),
                (Some(Leaving::Away(PagedItem { item, at })), _) => {
                    self.store.drop_holder(at, item.all_body_bytes() as usize);
                }
                (None, _) => return true,
            }
        }
        self.trash.push(trash);
        true
    }

    pub(super) fn throw_away(&mut self, trash: Trash) {
        self.trash.push(trash);
        self.empty_trash();
    }

    fn counts(&mut self, id: QueueId, name: Name, passive: bool) -> Result<Reply, Refusal> {
        self.touch(id);
        if !passive {
            self.postpone_auto_delete(id);
            if self.is_used_by_others(id) {
                self.owner_gone(id);
                return Err(Refusal::ExclusiveUse(name));
            }
        }
        match self.queues.get_mut(id) {
            Some(queue) => Ok(Reply::QueueDeclared {
                name,
                messages: count(queue.ready_messages()),
                consumers: count(queue.consumers.len()),
            }),
            // Declared, and gone before anybody could look.
            None if !passive => Ok(Reply::QueueDeclared { name, messages: 0, consumers: 0 }),
            None => Err(Refusal::NoQueue(name)),
        }
    }

    fn queue_info(&mut self, id: QueueId) -> Option<Box<QueueInfo>> {
        let queue = self.queues.get_mut(id)?;
        let (messages, consumers) = (count(queue.ready_messages()), count(queue.consumers.len()));
        Some(Box::new(QueueInfo { entry: queue.entry().clone(), messages, consumers }))
    }

    /// `None`: the answer comes when it is stored that the messages have gone.
    fn purge(&mut self, session: SessionId, id: QueueId, name: Name) -> Option<Result<Reply, Refusal>> {
        let Some(queue) = self.queues.get_mut(id) else { return Some(Err(Refusal::NoQueue(name))) };
        let reply = Reply::Messages(count(queue.ready_messages()));
        let is_recorded = queue.is_recorded() && queue.ready_messages() > 0;
        if is_recorded {
            self.record_purge(id);
        }
        let Some(queue) = self.queues.get_mut(id) else { return Some(Ok(reply)) };
        let ready = queue.take_ready();
        if queue.watches_leaving() {
            let items: Vec<Leaving> = ready.into_leaving().collect();
            items.iter().for_each(|leaving| note_gone(queue, leaving.item(), &mut self.thinned));
            self.throw_away(Trash::new(items.into_iter()));
        } else {
            self.throw_away(Trash::new(ready.into_leaving()));
        }
        if !is_recorded {
            return Some(Ok(reply));
        }
        self.record_departures();
        self.await_stored(Waiter::Answer { session, reply });
        None
    }

    /// `None`: the answer comes when it is stored that the message may be in a client's hands.
    fn fetch(
        &mut self,
        session: SessionId,
        id: QueueId,
        name: Name,
        no_ack: bool,
    ) -> Option<Result<Reply, Refusal>> {
        self.touch(id);
        self.drop_expired(id, usize::MAX);
        self.bury_dead();
        let Some(queue) = self.queues.get_mut(id) else { return Some(Err(Refusal::NoQueue(name))) };
        if queue.options().browse_only {
            return Some(Err(browse_only(&name)));
        }
        let place = queue.place_to_fetch(session);
        if place.is_none() && queue.is_paged() {
            self.await_head(session, id, Ask::Get { queue: id, name, no_ack });
            return None;
        }
        if let Some(place) = place.filter(|&place| !queue.may_hand_out(place)) {
            let ask = Ask::Get { queue: id, name, no_ack };
            self.await_place(session, id, ask, place);
            return None;
        }
        let Some(item) = queue.fetch(session, !no_ack) else { return Some(Ok(Reply::Got(None))) };
        let tag = if no_ack { 0 } else { queue.hand_out(item, None) };
        if no_ack {
            note_gone(queue, &item, &mut self.thinned);
            self.departures.note(queue, &item);
        }
        let remaining = count(queue.ready_messages());
        // The next one may suit somebody whom this one did not.
        self.schedule(id);
        if !no_ack {
            self.store.retain(item.message);
        }
        self.stats.fetched += 1;
        let (message, redelivered) = (item.message, item.redelivered);
        Some(Ok(Reply::Got(Some(Got { queue: id, tag, message, redelivered, remaining }))))
    }

    fn subscribe_at_home(
        &mut self,
        Whose { session, client, connection }: Whose,
        id: QueueId,
        name: Name,
        consumer: u32,
        options: &ConsumerOptions,
    ) -> Result<Reply, Refusal> {
        let Some(queue) = self.queues.get_mut(id) else { return Err(Refusal::NoQueue(name)) };
        if queue.options().browse_only && !options.browse {
            return Err(browse_only(&name));
        }
        let in_use = queue.consumers.has_exclusive() || options.exclusive && queue.consumers.has_takers();
        if in_use && !options.browse {
            return Err(Refusal::ExclusiveUse(name));
        }
        queue.subscribe(Consumer {
            session,
            client,
            id: consumer,
            no_ack: options.no_ack,
            exclusive: options.exclusive,
            priority: options.priority,
            prefetch: options.prefetch,
            credit: options.credit,
            browse: options.browse,
            selector: options.selector.clone(),
            account: self.accounts.join(connection),
        });
        self.schedule(id);
        Ok(Reply::Done)
    }

    fn check_deletable(
        &mut self,
        id: QueueId,
        name: Name,
        if_unused: bool,
        if_empty: bool,
    ) -> Result<u32, Refusal> {
        // A queue that somebody else has just ended counts as deleted.
        let Some(queue) = self.queues.get_mut(id) else { return Ok(0) };
        if if_unused && !queue.consumers.is_empty() {
            return Err(Refusal::Busy { object: "queue", name, state: "in use" });
        }
        if if_empty && queue.ready_messages() > 0 {
            return Err(Refusal::Busy { object: "queue", name, state: "not empty" });
        }
        Ok(count(queue.ready_messages()))
    }

    fn reply_when_ended(
        &mut self,
        session: SessionId,
        queue: QueueId,
        ended: bool,
        reply: Reply,
    ) -> Option<Result<Reply, Refusal>> {
        if ended {
            return Some(Ok(reply));
        }
        self.ending.push((queue, session, reply));
        None
    }

    /// Somebody uses a queue: the time after which it expires starts anew.
    fn touch(&mut self, id: QueueId) {
        let now_ns = self.clock.monotonic_ns;
        let Some(queue) = self.queues.get_mut(id) else { return };
        queue.unused_since_ns = now_ns;
        self.watch_unused(id);
    }

    /// Sets the timer of a queue that expires when unused; one that is set already will look again.
    fn watch_unused(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id).filter(|queue| !queue.unused_timer) else { return };
        if let Some(deadline_ns) = queue.unused_deadline_ns() {
            queue.unused_timer = true;
            self.timers.set(deadline_ns, Due::Unused(id));
        }
    }

    /// Takes in a message that came with an answer.
    pub(super) fn take_in_answer(&mut self, answer: Answer) -> Result<Reply, Refusal> {
        let Answer { mut result, message, .. } = answer;
        if let (Ok(Reply::Got(Some(got))), Some(message)) = (&mut result, message) {
            got.message = self.store.insert(message);
        }
        result
    }
}

fn count(messages: usize) -> u32 {
    u32::try_from(messages).unwrap_or(u32::MAX)
}

/// Who wants to take messages from a queue that is for looking is refused.
fn browse_only(queue: &Name) -> Refusal {
    Refusal::Forbidden(format!("queue '{queue}' is browse only"))
}
