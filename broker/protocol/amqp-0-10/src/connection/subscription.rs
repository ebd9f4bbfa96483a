//! Subscriptions: subscribe, cancel, credit, and what a session is sent.

use fulmar_core::request::ConsumerOptions;
use fulmar_core::shard::{Delivery, Settlement};
use fulmar_core::{Credit, Name, Refusal, Reply, Request, Selector};

use super::Env;
use super::command::{Step, decoded, is_explicit};
use super::delivery::Head;
use super::errors::Fault;
use super::session::{Flow, Session};
use super::unsettled::Record;
use crate::codec::SequenceSet;
use crate::codec::table::{
    AcquireMode, CreditUnit, ErrorCode, FlowMode, MessageFlow, MessageSetFlowMode, MessageSubscribe,
};
use crate::properties::Delivery as Manner;

/// Stands in records for a subscription that is no more.
const NONE: u32 = u32::MAX;

/// A subscription of a session.
#[derive(Debug)]
pub(super) struct Subscription {
    /// The client's name for it.
    destination: Name,
    /// What its deliveries begin with.
    head: Head,
    /// Whether the client has to accept what it is sent.
    explicit: bool,
    /// Whether it is sent messages that are not its own.
    browses: bool,
    /// Completion gives credit back.
    windowed: bool,
    /// Units of credit without bound.
    unlimited_messages: bool,
    unlimited_bytes: bool,
    /// How often its credit was cancelled: what was sent before gives none back.
    epoch: u32,
    /// Its queue is gone.
    bereft: bool,
}

impl Subscription {
    /// The session goes on on another channel.
    pub fn set_channel(&mut self, channel: u16) {
        self.head.set_channel(channel);
    }

    /// Whether it is a matter of course that a message is settled and its credit is gone for good.
    #[inline]
    fn forgets(&self) -> bool {
        !self.explicit && !self.browses && !self.returns_credit()
    }

    fn queue_deleted(&self) -> Fault {
        let text = format!("the queue of subscription '{}' was deleted", self.destination);
        Fault::new(ErrorCode::ResourceDeleted, text)
    }

    fn returns_credit(&self) -> bool {
        self.windowed && !(self.unlimited_messages && self.unlimited_bytes)
    }

    /// What comes back when a message of so many bytes is complete.
    fn credit_of(&self, bytes: usize) -> Credit {
        let bytes = u32::try_from(bytes).unwrap_or(Credit::UNLIMITED).min(Credit::UNLIMITED - 1);
        Credit {
            messages: u32::from(self.windowed && !self.unlimited_messages),
            bytes: if self.windowed && !self.unlimited_bytes { bytes } else { 0 },
        }
    }
}

impl Session {
    /// `message.subscribe`
    pub fn subscribe(&mut self, env: &mut Env<'_>, subscribe: &MessageSubscribe<'_>) -> Result<Flow, Fault> {
        let queue = named_queue(subscribe.queue)?;
        let destination = Name::from(subscribe.destination.unwrap_or_default());
        if self.by_destination.contains_key(&destination) {
            let text = format!("there is a subscription '{destination}' already");
            return Err(Fault::new(ErrorCode::NotAllowed, text));
        }
        let limit = env.link.config.max_consumers_per_channel;
        if self.subscriptions.len() as u64 >= u64::from(limit) {
            let text = format!("a session has at most {limit} subscriptions");
            return Err(Fault::new(ErrorCode::ResourceLimitExceeded, text));
        }
        let explicit = is_explicit(subscribe.accept_mode)?;
        let browses = match subscribe.acquire_mode.unwrap_or_default() {
            AcquireMode::PreAcquired => false,
            AcquireMode::NotAcquired => true,
            AcquireMode::Other(mode) => {
                return Err(Fault::new(ErrorCode::InvalidArgument, format!("unknown acquire mode {mode}")));
            }
        };
        let vhost = env.link.vhost;
        // From a queue that is only for looking, nobody takes, whatever they ask for.
        let browses = browses
            || env.shard.queue_entry(vhost, queue.as_bytes()).is_some_and(|entry| entry.options.browse_only);
        let arguments = decoded(subscribe.arguments)?;
        let selector = Selector::of_arguments(&arguments)?;
        let subscription = self.subscriptions.insert(Subscription {
            head: Head::new(self.number, destination.as_bytes(), explicit, browses),
            destination: destination.clone(),
            explicit,
            browses,
            windowed: true,
            unlimited_messages: false,
            unlimited_bytes: false,
            epoch: 0,
            bereft: false,
        }) as u32;
        self.by_destination.insert(destination.clone(), subscription);
        let request = Request::Subscribe {
            vhost,
            queue,
            consumer: subscription,
            options: ConsumerOptions {
                tag: destination,
                no_ack: !explicit,
                exclusive: subscribe.exclusive,
                credit: Some(Credit::NONE),
                browse: browses,
                selector,
                arguments,
                ..ConsumerOptions::default()
            },
        };
        self.request(env, request, Step::Subscribed { subscription })
    }

    /// The shard has taken the subscription on, or has not.
    pub fn subscribed(&mut self, subscription: u32, result: Result<Reply, Refusal>) -> Result<Flow, Fault> {
        if result.is_err() {
            self.forget(subscription);
        }
        result?;
        Ok(Flow::Done)
    }

    /// `message.cancel`
    pub fn cancel(&mut self, env: &mut Env<'_>, destination: &[u8]) -> Result<Flow, Fault> {
        let subscription = self.find(destination)?;
        if self.subscriptions[subscription as usize].bereft {
            self.forget(subscription);
            return Ok(Flow::Done);
        }
        let request = Request::Cancel { consumer: subscription };
        self.request(env, request, Step::Cancelled { subscription })
    }

    /// The subscription has had its last delivery.
    pub fn cancelled(&mut self, subscription: u32) {
        self.forget(subscription);
    }

    /// The broker has ended a subscription, because its queue is gone. A peer that does not wait for its messages is told
    /// when it wants some.
    pub fn consumer_cancelled(&mut self, subscription: u32, waited: bool) -> Result<Flow, Fault> {
        // A client that is just cancelling it gets its answer first.
        let pending = matches!(self.pending, Some(Step::Cancelled { subscription: pending }) if pending == subscription);
        match self.subscriptions.get_mut(subscription as usize) {
            Some(subscription) if waited && !pending => Err(subscription.queue_deleted()),
            Some(subscription) => {
                subscription.bereft = true;
                Ok(Flow::Done)
            }
            None => Ok(Flow::Done),
        }
    }

    pub fn forget(&mut self, subscription: u32) {
        let Some(forgotten) = self.subscriptions.try_remove(subscription as usize) else { return };
        self.by_destination.remove(&forgotten.destination);
        // Nobody is left to get credit back; and its key may be another's soon.
        self.unsettled.change(0, u64::MAX, |record| {
            if record.subscription == subscription {
                record.subscription = NONE;
                record.windowed = false;
            }
        });
    }

    /// `message.set-flow-mode`
    pub fn set_flow_mode(&mut self, mode: &MessageSetFlowMode<'_>) -> Result<Flow, Fault> {
        let windowed = match mode.flow_mode.unwrap_or_default() {
            FlowMode::Credit => false,
            FlowMode::Window => true,
            FlowMode::Other(mode) => {
                return Err(Fault::new(ErrorCode::InvalidArgument, format!("unknown flow mode {mode}")));
            }
        };
        let subscription = self.find(mode.destination.unwrap_or_default())?;
        self.subscriptions[subscription as usize].windowed = windowed;
        Ok(Flow::Done)
    }

    /// `message.flow`
    pub fn flow(&mut self, env: &mut Env<'_>, flow: &MessageFlow<'_>) -> Result<Flow, Fault> {
        let consumer = self.find(flow.destination.unwrap_or_default())?;
        let subscription = &mut self.subscriptions[consumer as usize];
        if subscription.bereft {
            return Err(subscription.queue_deleted());
        }
        let value = flow.value.unwrap_or(0);
        let unlimited = value == Credit::UNLIMITED;
        let credit = match flow.unit.unwrap_or_default() {
            CreditUnit::Message => {
                subscription.unlimited_messages |= unlimited;
                Credit { messages: value, bytes: 0 }
            }
            CreditUnit::Byte => {
                subscription.unlimited_bytes |= unlimited;
                Credit { messages: 0, bytes: value }
            }
            CreditUnit::Other(unit) => {
                return Err(Fault::new(ErrorCode::InvalidArgument, format!("unknown credit unit {unit}")));
            }
        };
        env.shard.grant_credit(self.session, consumer, credit);
        Ok(Flow::Done)
    }

    /// `message.flush`
    pub fn flush(&mut self, env: &mut Env<'_>, destination: &[u8]) -> Result<Flow, Fault> {
        let consumer = self.find(destination)?;
        if self.subscriptions[consumer as usize].bereft {
            return Ok(Flow::Done);
        }
        self.request(env, Request::FlushConsumer { consumer }, Step::Stopped { subscription: consumer })
    }

    /// `message.stop`
    pub fn stop(&mut self, env: &mut Env<'_>, destination: &[u8]) -> Result<Flow, Fault> {
        let consumer = self.find(destination)?;
        if self.subscriptions[consumer as usize].bereft {
            return Ok(Flow::Done);
        }
        self.request(env, Request::StopConsumer { consumer }, Step::Stopped { subscription: consumer })
    }

    /// The subscription has no credit, and what it has been sent gives none back.
    pub fn stopped(&mut self, subscription: u32) {
        let Some(subscription) = self.subscriptions.get_mut(subscription as usize) else { return };
        subscription.unlimited_messages = false;
        subscription.unlimited_bytes = false;
        subscription.epoch = subscription.epoch.wrapping_add(1);
    }

    /// `session.completed`: the peer is done with commands; windows move.
    pub fn peer_completed(&mut self, env: &mut Env<'_>, commands: SequenceSet<'_>) -> Result<(), Fault> {
        self.peer_received(commands);
        let Session { subscriptions, unsettled, outgoing, session, .. } = self;
        // Credit of neighbours goes back together.
        let mut due: (u32, Credit) = (NONE, Credit::NONE);
        let give = |shard: &mut fulmar_core::Shard, (consumer, credit): (u32, Credit)| {
            if consumer != NONE {
                shard.grant_credit(*session, consumer, credit);
            }
        };
        for (first, last) in commands.iter() {
            let Some((first, last)) = outgoing.numbers(first, last) else { continue };
            unsettled.complete(first, last, |record| {
                let subscription = subscriptions.get(record.subscription as usize);
                if subscription.is_none_or(|subscription| subscription.epoch != record.epoch) {
                    return;
                }
                if due.0 != record.subscription {
                    give(env.shard, std::mem::replace(&mut due, (record.subscription, Credit::NONE)));
                }
                due.1.grant(record.credit);
            });
        }
        give(env.shard, due);
        Ok(())
    }

    /// A message for a subscription, and those of its batch that follow.
    #[inline]
    pub fn deliver(&mut self, env: &mut Env<'_>, delivered: &Delivery) {
        let Some(subscription) = self.subscriptions.get_mut(delivered.consumer as usize) else {
            if delivered.tag != 0 {
                env.shard.settle(self.session, delivered.queue, delivered.tag, Settlement::Requeue);
            }
            return env.shard.release_all(delivered.message, delivered.followers);
        };
        let view = env.shard.message(delivered.message);
        let delivery = Manner {
            redelivered: delivered.redelivered,
            ttl_left_ms: delivered.ttl_left_ms.map(|left_ms| left_ms.get().into()),
        };
        let frame_max = env.link.frame_max;
        let messages = u64::from(delivered.followers) + 1;
        let first = self.outgoing.begin_many(messages);
        let start = env.out.len();
        subscription.head.fit(&view, delivery, frame_max);
        subscription.head.write(view.body, frame_max, env.out);
        if delivered.followers > 0 {
            let bodies = env.shard.bodies_after(delivered.message, delivered.followers);
            subscription.head.write_followers(view.body.len(), bodies, frame_max, env.out);
        }
        if !subscription.forgets() {
            let returns_credit = subscription.returns_credit();
            let credit = subscription.credit_of(view.properties.len() + view.body.len());
            for number in first..first + messages {
                self.unsettled.push(Record {
                    number,
                    tag: delivered.tag,
                    queue: delivered.queue,
                    subscription: delivered.consumer,
                    epoch: subscription.epoch,
                    credit,
                    acquired: !subscription.browses,
                    accept_expected: subscription.explicit,
                    waits_for_commit: false,
                    settled: !subscription.explicit,
                    // What is browsed without acceptance is remembered until it is complete: it may be acquired.
                    windowed: returns_credit || subscription.browses && !subscription.explicit,
                });
            }
        }
        env.shard.release_all(delivered.message, delivered.followers);
        env.link.counters.delivered += messages;
        if self.replay.is_some() {
            self.record(env, start);
        }
    }

    /// The subscription of that name.
    fn find(&self, destination: &[u8]) -> Result<u32, Fault> {
        self.by_destination.get(destination).copied().ok_or_else(|| {
            let text = format!("no subscription '{}'", String::from_utf8_lossy(destination));
            Fault::not_found(text)
        })
    }
}

/// A queue's name, which has to be there.
pub(super) fn named_queue(name: Option<&[u8]>) -> Result<Name, Fault> {
    match name.unwrap_or_default() {
        [] => Err(Fault::new(ErrorCode::IllegalArgument, "no queue name specified")),
        name => Ok(Name::from(name)),
    }
}
