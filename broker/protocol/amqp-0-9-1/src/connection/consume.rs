//! Consuming: consumers, deliveries, `basic.get`, prefetch, and the reply pseudo-queue.

use fulmar_core::request::{ConsumerOptions, Got, QueueOptions};
use fulmar_core::shard::{Delivery, Settlement};
use fulmar_core::{Name, Request, Selector};

use super::Env;
use super::arguments;
use super::channel::{Channel, Flow, Step, decoded};
use super::delivery::{Head, translate};
use super::errors::{Exception, Subject};
use crate::codec::{Method, fast, frame, reply_code as code};

/// The pseudo-queue that stands for "replies to me".
pub(super) const REPLY_QUEUE: &[u8] = b"amq.rabbitmq.reply-to";

/// A consumer of a channel.
#[derive(Debug)]
pub(super) struct Consumer {
    /// The client's name for it.
    tag: Name,
    /// What its deliveries begin with.
    head: Head,
    no_ack: bool,
}

impl Channel {
    /// `basic.consume`.
    pub fn consume(&mut self, env: &mut Env<'_>, method: Method<'_>) -> Result<Flow, Exception> {
        let Method::BasicConsume { queue, consumer_tag, no_ack, exclusive, no_wait, arguments, .. } = method
        else {
            unreachable!("{} is not basic.consume", method.name());
        };
        if self.consumers_by_tag.contains_key(consumer_tag) {
            let tag = String::from_utf8_lossy(consumer_tag);
            return Err(Exception::new(code::NOT_ALLOWED, format!("attempt to reuse consumer tag '{tag}'")));
        }
        let limit = env.link.config.max_consumers_per_channel;
        if self.consumers.len() as u64 >= u64::from(limit) {
            let text = format!("reached maximum ({limit}) of consumers per channel");
            return Err(Exception::new(code::NOT_ALLOWED, text));
        }
        if queue == REPLY_QUEUE {
            return self.declare_reply_queue(env, consumer_tag, no_ack, no_wait);
        }
        let queue = self.queue_name(queue)?;
        let arguments = decoded(arguments)?;
        let subject = Subject::queue(&queue);
        let priority = arguments::consumer_priority(&arguments, &subject.in_vhost(&env.link.vhost_name))?;
        let selector = Selector::of_arguments(&arguments)
            .map_err(|refusal| Exception::refused(&refusal, &env.link.vhost_name, Some(&subject)))?;
        let tag = env.consumer_tag(consumer_tag);
        let consumer = self.add_consumer(tag.clone(), no_ack);
        let request = Request::Subscribe {
            vhost: env.link.vhost,
            queue,
            consumer,
            options: ConsumerOptions {
                tag,
                no_ack,
                exclusive,
                priority,
                prefetch: self.prefetch,
                selector,
                arguments,
                ..ConsumerOptions::default()
            },
        };
        self.request(env, request, Some(subject), Step::Subscribed { consumer, no_wait })
    }

    /// Consuming replies: a queue of a name that nobody guesses stands behind the pseudo-queue. It is not exclusive,
    /// so that those who reply can look whether it is still there; nobody else can consume from it.
    fn declare_reply_queue(
        &mut self,
        env: &mut Env<'_>,
        consumer_tag: &[u8],
        no_ack: bool,
        no_wait: bool,
    ) -> Result<Flow, Exception> {
        if !no_ack {
            return Err(Exception::precondition("reply consumer cannot acknowledge"));
        }
        if self.reply_consumer.is_some() {
            return Err(Exception::precondition("reply consumer already set"));
        }
        let tag = env.consumer_tag(consumer_tag);
        let consumer = self.add_consumer(tag, true);
        let home = Some(self.session.shard.0);
        let request = Request::DeclareQueue {
            vhost: env.link.vhost,
            name: Name::default(),
            passive: false,
            options: Box::new(QueueOptions { auto_delete: true, home, ..QueueOptions::default() }),
        };
        self.request_unasked(env, request, None, Step::ReplyQueueDeclared { consumer, no_wait })
    }

    /// The queue behind the pseudo-queue stands.
    pub fn consume_replies(
        &mut self,
        env: &mut Env<'_>,
        consumer: u32,
        no_wait: bool,
        queue: Name,
    ) -> Result<Flow, Exception> {
        let Some(Consumer { tag, .. }) = self.consumers.get(consumer as usize) else { return Ok(Flow::Done) };
        let tag = tag.clone();
        self.reply_consumer = Some((consumer, queue.clone()));
        let options = ConsumerOptions { tag, no_ack: true, exclusive: true, ..ConsumerOptions::default() };
        let subject = Subject::queue(&queue);
        let request = Request::Subscribe { vhost: env.link.vhost, queue, consumer, options };
        self.request_unasked(env, request, Some(subject), Step::Subscribed { consumer, no_wait })
    }

    /// The shard has taken the consumer on.
    pub fn subscribed(&mut self, env: &mut Env<'_>, consumer: u32, no_wait: bool) -> Result<Flow, Exception> {
        match self.consumers.get(consumer as usize) {
            Some(Consumer { tag, .. }) => {
                self.reply_unless(no_wait, env, Method::BasicConsumeOk { consumer_tag: tag.as_bytes() })
            }
            None => Ok(Flow::Done),
        }
    }

    /// `basic.cancel`.
    pub fn cancel(
        &mut self,
        env: &mut Env<'_>,
        consumer_tag: &[u8],
        no_wait: bool,
    ) -> Result<Flow, Exception> {
        match self.consumers_by_tag.get(consumer_tag) {
            Some(&consumer) => {
                self.request(env, Request::Cancel { consumer }, None, Step::Cancelled { consumer, no_wait })
            }
            None => self.reply_unless(no_wait, env, Method::BasicCancelOk { consumer_tag }),
        }
    }

    /// The consumer has had its last delivery.
    pub fn cancelled(&mut self, env: &mut Env<'_>, consumer: u32, no_wait: bool) -> Result<Flow, Exception> {
        match self.forget_consumer(consumer) {
            Some(Consumer { tag, .. }) => {
                self.reply_unless(no_wait, env, Method::BasicCancelOk { consumer_tag: tag.as_bytes() })
            }
            None => Ok(Flow::Done),
        }
    }

    /// The broker has ended a consumer, because its queue is gone.
    pub fn consumer_cancelled(&mut self, env: &mut Env<'_>, consumer: u32) {
        // A client that is just cancelling it gets its answer first.
        if matches!(&self.pending, Some(pending) if matches!(pending.step, Step::Cancelled { consumer: c, .. } if c == consumer))
        {
            return;
        }
        let Some(Consumer { tag, .. }) = self.forget_consumer(consumer) else { return };
        if env.link.capabilities.consumer_cancel_notify {
            Method::BasicCancel { consumer_tag: tag.as_bytes(), no_wait: true }.encode(self.number, env.out);
        }
    }

    /// `basic.qos`.
    pub fn qos(
        &mut self,
        env: &mut Env<'_>,
        prefetch_size: u32,
        prefetch_count: u16,
        global: bool,
    ) -> Result<Flow, Exception> {
        if prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({prefetch_size})");
            return Err(Exception::new(code::NOT_IMPLEMENTED, text));
        }
        if global {
            env.shard.set_session_prefetch(self.session, prefetch_count.into());
        } else {
            self.prefetch = prefetch_count.into();
        }
        self.reply(env, Method::BasicQosOk)
    }

    /// A message for a consumer, and those of its batch that follow.
    pub fn deliver(&mut self, env: &mut Env<'_>, delivered: &Delivery) {
        let Some(consumer) = self.consumers.get_mut(delivered.consumer as usize) else {
            env.shard.settle(self.session, delivered.queue, delivered.tag, Settlement::Requeue);
            return env.shard.release_all(delivered.message, delivered.followers);
        };
        self.last_delivery_tag += 1;
        if !consumer.no_ack {
            self.unacked.push(self.last_delivery_tag, delivered.queue, delivered.tag);
        }
        let first_tag = self.last_delivery_tag;
        self.last_delivery_tag += u64::from(delivered.followers);
        let frame_max = env.link.frame_max;
        let mut message = env.shard.message(delivered.message);
        translate(&mut message, frame_max, &mut env.link.translated);
        consumer.head.address_to(&message);
        let redelivered = delivered.redelivered;
        consumer.head.write(first_tag, redelivered, &message, frame_max, env.out);
        if delivered.followers > 0 {
            let bodies = env.shard.bodies_after(delivered.message, delivered.followers);
            consumer.head.write_followers(first_tag, redelivered, &message, bodies, frame_max, env.out);
        }
        env.shard.release_all(delivered.message, delivered.followers);
        env.link.counters.delivered += u64::from(delivered.followers) + 1;
    }

    /// `basic.get`.
    pub fn get(&mut self, env: &mut Env<'_>, queue: &[u8], no_ack: bool) -> Result<Flow, Exception> {
        let queue = self.queue_name(queue)?;
        let subject = Subject::queue(&queue);
        let request = Request::Get { vhost: env.link.vhost, queue, no_ack };
        self.request(env, request, Some(subject), Step::Got { no_ack })
    }

    /// What `basic.get` has found.
    pub fn got(&mut self, env: &mut Env<'_>, no_ack: bool, got: Option<Got>) -> Result<Flow, Exception> {
        let Some(got) = got else { return self.reply(env, Method::BasicGetEmpty) };
        self.last_delivery_tag += 1;
        if !no_ack {
            self.unacked.push(self.last_delivery_tag, got.queue, got.tag);
        }
        let mut message = env.shard.message(got.message);
        translate(&mut message, env.link.frame_max, &mut env.link.translated);
        fast::get_ok(
            self.number,
            self.last_delivery_tag,
            got.redelivered,
            message.exchange,
            message.routing_key,
            got.remaining,
            env.out,
        );
        frame::encode_content(self.number, message.properties, message.body, env.link.frame_max, env.out);
        env.shard.release(got.message);
        env.link.counters.delivered += 1;
        Ok(Flow::Done)
    }

    fn add_consumer(&mut self, tag: Name, no_ack: bool) -> u32 {
        let head = Head::new(self.number, tag.as_bytes());
        let consumer = self.consumers.insert(Consumer { tag: tag.clone(), head, no_ack }) as u32;
        self.consumers_by_tag.insert(tag, consumer);
        consumer
    }

    /// The consumer is no more.
    pub fn forget_consumer(&mut self, consumer: u32) -> Option<Consumer> {
        let forgotten = self.consumers.try_remove(consumer as usize)?;
        self.consumers_by_tag.remove(&forgotten.tag);
        if self.reply_consumer.as_ref().is_some_and(|(reply, _)| *reply == consumer) {
            self.reply_consumer = None;
        }
        Some(forgotten)
    }
}

impl Env<'_> {
    /// The client's consumer tag, or a generated one.
    fn consumer_tag(&mut self, chosen: &[u8]) -> Name {
        if !chosen.is_empty() {
            return Name::from(chosen);
        }
        self.link.consumer_tags += 1;
        let id = self.link.id;
        Name::from(format!(
            "amq.ctag-{:x}.{:x}.{:x}.{:x}",
            id.shard.0, id.index, id.generation, self.link.consumer_tags
        ))
    }
}

/// Whether a queue name is the reply pseudo-queue's, for those who look whether it is there.
pub(super) fn is_reply_queue(name: &[u8]) -> bool {
    name == REPLY_QUEUE
}
