//! Taking messages out of a queue, all or some: to drop them, or to give them to another queue or to an exchange.
//!
//! What comes while this goes on is not touched: a queue may get its own messages back. A long queue takes several
//! turns.

use super::Shard;
use super::deliver::note_gone;
use crate::queue::{Item, Look};
use crate::request::{HeaderFilter, MoveTo};
use crate::topology::QueueEntry;
use crate::{ConnectionId, MessageId, Name, QueueId, Refusal, Reply, SessionId, VhostId};

/// Messages looked at before the shard turns to something else.
const BUDGET: usize = 1024;

/// Where messages go, with names resolved.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    Nowhere,
    Queue(QueueId),
    Exchange(VhostId, Name),
}

/// Which messages to take, and where to.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    pub(super) goal: Goal,
    /// No more than this.
    pub(super) most: Option<u32>,
    /// Only those.
    pub(super) filter: Option<HeaderFilter>,
}

/// Messages of a queue at home here being taken out.
pub(super) struct Moving {
    queue: QueueId,
    taking: Taking,
    /// Who wants to know how many they were.
    asker: Option<SessionId>,
    /// The next place to look at, and the first one that is not.
    place: u64,
    end: u64,
    taken: u32,
    /// What comes next is being read.
    pub(super) waits: bool,
}

impl Moving {
    /// Whether the messages are taken out of this queue.
    pub(super) fn is_of(&self, queue: QueueId) -> bool {
        self.queue == queue
    }
}

impl Shard {
    /// What a request to move messages means: the queue that they are in, and where they go.
    pub(super) fn resolve_move(
        &self,
        connection: ConnectionId,
        vhost: VhostId,
        queue: &Name,
        to: MoveTo,
    ) -> Result<(QueueId, Goal), Refusal> {
        let source = self.resolve(connection, vhost, queue)?;
        let exchange = |name: Name| match self.topology.exchange(vhost, name.as_bytes()) {
            Some(_) => Ok(Goal::Exchange(vhost, name)),
            None => Err(Refusal::NoExchange(name)),
        };
        let goal = match to {
            MoveTo::Nowhere => Goal::Nowhere,
            MoveTo::Queue(name) => Goal::Queue(self.resolve(connection, vhost, &name)?),
            MoveTo::Exchange(name) => exchange(name)?,
            MoveTo::Alternate => {
                let entry = self.topology.queue_by_id(source);
                match entry.and_then(|entry| entry.options.alternate.clone()) {
                    Some(name) => exchange(name)?,
                    None => {
                        return Err(Refusal::Forbidden(format!("queue '{queue}' has no alternate exchange")));
                    }
                }
            }
        };
        Ok((source, goal))
    }

    /// Begins to take messages out of a queue at home here. `None`: the answer comes by [`Shard::answer`].
    pub(super) fn take_out(
        &mut self,
        asker: Option<SessionId>,
        queue: QueueId,
        taking: Taking,
    ) -> Option<Result<Reply, Refusal>> {
        let end = self.queues.get_mut(queue).map_or(0, |queue| queue.next_place());
        let mut moving = Moving { queue, taking, asker, place: 0, end, taken: 0, waits: false };
        if self.move_some(&mut moving) {
            return Some(Ok(Reply::Messages(moving.taken)));
        }
        self.moving.push(moving);
        None
    }

    /// A queue is about to be redirected no more: what it was redirected to gives it what it has, if that is at home here.
    pub(super) fn give_back_redirected(&mut self, source: QueueId) {
        let target = self.topology.receiver(source);
        if let Some(queue) = self.queues.get_mut(target).filter(|_| target.home == self.config.id) {
            let taking = Taking { goal: Goal::Queue(source), most: None, filter: None };
            let end = queue.next_place();
            self.moving.push(Moving {
                queue: target,
                taking,
                asker: None,
                place: 0,
                end,
                taken: 0,
                waits: false,
            });
        }
    }

    /// Goes on with what is being taken out.
    pub(super) fn move_on(&mut self) -> bool {
        let movings = std::mem::take(&mut self.moving);
        let mut worked = false;
        for mut moving in movings {
            worked |= !moving.waits;
            if moving.waits || !self.move_some(&mut moving) {
                self.moving.push(moving);
            } else if let Some(session) = moving.asker {
                self.answer(session, Ok(Reply::Messages(moving.taken)));
            }
        }
        worked
    }

    /// Whether that was all.
    fn move_some(&mut self, moving: &mut Moving) -> bool {
        for _ in 0..BUDGET {
            if moving.taking.most.is_some_and(|most| moving.taken >= most) {
                return true;
            }
            let Some(queue) = self.queues.get_mut(moving.queue) else { return true };
            let item = match queue.look(moving.place).filter(|look| look.place() < moving.end) {
                Some(Look::Here(item)) => item,
                Some(Look::Away { level, place }) => {
                    moving.waits = true;
                    self.want_of(moving.queue, level, Some(place));
                    return false;
                }
                None => return true,
            };
            moving.place = item.sequence + 1;
            let filter = moving.taking.filter.as_ref();
            if filter.is_some_and(|filter| !filter.selects(&self.store.view(item.message))) {
                continue;
            }
            let Some(item) = queue.take(&item, None) else { continue };
            note_gone(queue, &item, &mut self.thinned);
            let entry = queue.entry().clone();
            moving.taken += 1;
            self.send_on(&entry, item, &moving.taking.goal);
            self.schedule(moving.queue);
        }
        false
    }

    fn send_on(&mut self, queue: &QueueEntry, item: Item, goal: &Goal) {
        if let Goal::Nowhere = goal {
            self.departures.note_recorded(queue, item);
            return self.store.release(item.message);
        }
        let origin = self.origin_of(queue, &item);
        let handover = self.begin_handover(origin);
        let message = self.with_time_left(queue, &item);
        let missing = match goal {
            Goal::Nowhere => 0,
            Goal::Queue(id) => {
                let target = self.topology.receiver(*id);
                self.distribute_internally(message, &[target], handover)
            }
            Goal::Exchange(vhost, name) => self.reroute(*vhost, name, message, handover),
        };
        self.end_handover(handover, missing);
    }

    /// A message that a queue gives to another one, with what is left of its time to live.
    pub(super) fn with_time_left(&mut self, queue: &QueueEntry, item: &Item) -> MessageId {
        let message = item.message;
        let content = self.store.get(message);
        let Some(ttl_ms) = content.ttl_ms() else { return message };
        if queue.options.message_ttl_ms.is_some_and(|most| most < ttl_ms) {
            // When it would have expired by itself is not known any more.
            return message;
        }
        const NS_PER_MS: u64 = 1_000_000;
        let left_ms = item.expires_ns.saturating_sub(self.clock.monotonic_ns) / NS_PER_MS;
        let view = self.store.view(message);
        let (exchange, key) = (view.exchange.to_vec(), view.routing_key.to_vec());
        let properties = view.properties.to_vec();
        let younger = self.store.derive(message, &exchange, &key, &properties, Some(left_ms));
        self.store.release(message);
        younger
    }
}
