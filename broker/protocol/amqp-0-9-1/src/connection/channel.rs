//! One channel: its state, and what each method leads to.

use std::collections::HashMap;

use fulmar_core::shard::Settlement;
use fulmar_core::{Name, Refusal, Reply, Request, SessionId, Shard, Table};
use slab::Slab;

use super::Env;
use super::confirm::{Confirms, Notice};
use super::consume::Consumer;
use super::errors::{Exception, Subject};
use super::handshake::malformed;
use super::publish::Incoming;
use super::tx::Tx;
use super::unacked::Unacked;
use crate::codec::{CodecError, Frame, FrameKind, Method, TableRef, fast, reply_code as code};

/// How a step of a channel ended, if it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Nothing more to do.
    Done,
    /// The channel waits for the shard.
    Parked,
    /// The client has closed the channel.
    Closed,
}

/// What a reply of the shard is waited for.
#[derive(Debug)]
pub(super) struct Pending {
    /// What the request is about, for error texts.
    pub about: Option<Subject>,
    /// What to do with the reply.
    pub step: Step,
}

/// What to do with a reply of the shard.
#[derive(Debug)]
pub(super) enum Step {
    /// Tell the client, unless it does not want to be told.
    Ok(Option<Method<'static>>),
    /// `queue.declare`.
    QueueDeclared { no_wait: bool },
    /// `queue.delete`: tell how many messages went.
    Deleted { no_wait: bool },
    /// `queue.purge`: tell how many messages went.
    Purged { no_wait: bool },
    /// `basic.consume`.
    Subscribed { consumer: u32, no_wait: bool },
    /// `basic.consume` on the reply pseudo-queue: the queue behind it.
    ReplyQueueDeclared { consumer: u32, no_wait: bool },
    /// `basic.cancel`.
    Cancelled { consumer: u32, no_wait: bool },
    /// `basic.get`.
    Got { no_ack: bool },
    /// `tx.commit`
    Committed,
}

/// What publishes and settlements of a channel lead to.
#[derive(Debug, Default)]
pub(super) enum Mode {
    /// Nothing.
    #[default]
    Plain,
    /// Confirms.
    Confirm(Confirms),
    /// They wait for the commit.
    Tx(Box<Tx>),
}

/// A channel that is open, or that the broker is closing.
pub(super) struct Channel {
    pub number: u16,
    pub session: SessionId,
    /// `channel.close` was sent, and all but the answer is ignored.
    pub closing: bool,
    /// Class and method that the client sent last.
    pub current: (u16, u16),
    /// What it waits for.
    pub pending: Option<Pending>,
    pub incoming: Incoming,
    pub mode: Mode,
    /// The queue that an empty name means.
    pub last_queue: Name,
    /// Prefetch of consumers to come.
    pub prefetch: u32,
    pub consumers: Slab<Consumer>,
    pub consumers_by_tag: HashMap<Name, u32>,
    /// The consumer of the reply pseudo-queue, and the name of the queue behind it.
    pub reply_consumer: Option<(u32, Name)>,
    pub unacked: Unacked,
    pub last_delivery_tag: u64,
}

impl Channel {
    pub fn new(number: u16, session: SessionId) -> Self {
        Channel {
            number,
            session,
            closing: false,
            current: (0, 0),
            pending: None,
            incoming: Incoming::default(),
            mode: Mode::Plain,
            last_queue: Name::default(),
            prefetch: 0,
            consumers: Slab::new(),
            consumers_by_tag: HashMap::new(),
            reply_consumer: None,
            unacked: Unacked::default(),
            last_delivery_tag: 0,
        }
    }

    /// Whether a method can come next and is listened to.
    #[inline]
    pub fn expects_method(&self) -> bool {
        !self.closing && self.incoming.expects_method()
    }

    /// Whether a reply of the shard is outstanding.
    pub fn awaits_reply(&self) -> bool {
        self.pending.is_some()
    }

    /// Gives everything back to the shard.
    pub fn release(&mut self, shard: &mut Shard) {
        self.pending = None;
        self.incoming.release(shard);
        if let Mode::Tx(tx) = &mut self.mode {
            tx.rollback(shard, self.session, &mut self.unacked);
        }
        // Newest first: each goes back to its place at the head of its queue without a search.
        while let Some(entry) = self.unacked.take_last() {
            shard.settle(self.session, entry.queue, entry.tag, Settlement::Requeue);
        }
        shard.close_session(self.session);
        self.consumers.clear();
        self.consumers_by_tag.clear();
        self.reply_consumer = None;
    }

    pub fn frame(&mut self, env: &mut Env<'_>, frame: Frame<'_>) -> Result<Flow, Exception> {
        match frame.kind {
            FrameKind::Method => {
                self.incoming.check_method_expected()?;
                let method = Method::decode(frame.payload).map_err(|error| self.malformed(error))?;
                self.current = (method.class_id(), method.method_id());
                self.method(env, method)
            }
            FrameKind::Header => self.content_header(env, frame.payload),
            FrameKind::Body => self.content_body(env, frame.payload),
            FrameKind::Heartbeat => {
                let text = format!("type 8, channel {}: heartbeats belong on channel 0", self.number);
                Err(Exception::new(code::UNEXPECTED_FRAME, text))
            }
        }
    }

    fn malformed(&mut self, error: CodecError) -> Exception {
        self.current = match error {
            CodecError::UnknownMethod { class, method } => (class, method),
            _ => (0, 0),
        };
        malformed(error)
    }

    fn method(&mut self, env: &mut Env<'_>, method: Method<'_>) -> Result<Flow, Exception> {
        match method {
            Method::BasicPublish { exchange, routing_key, mandatory, immediate } => {
                if immediate {
                    return Err(Exception::new(code::NOT_IMPLEMENTED, "immediate=true"));
                }
                self.incoming.begin(exchange, routing_key, mandatory);
                Ok(Flow::Done)
            }
            Method::BasicAck { delivery_tag, multiple } => {
                self.settle(env, delivery_tag, multiple, Settlement::Accept)
            }
            Method::BasicNack { delivery_tag, multiple, requeue } => {
                self.settle(env, delivery_tag, multiple, rejected(requeue))
            }
            Method::BasicReject { delivery_tag, requeue } => {
                self.settle(env, delivery_tag, false, rejected(requeue))
            }
            Method::BasicRecover { requeue } => {
                self.recover(env, requeue)?;
                self.reply(env, Method::BasicRecoverOk)
            }
            Method::BasicRecoverAsync { requeue } => self.recover(env, requeue),
            Method::BasicGet { queue, no_ack } => self.get(env, queue, no_ack),
            Method::BasicConsume { .. } => self.consume(env, method),
            Method::BasicCancel { consumer_tag, no_wait } => self.cancel(env, consumer_tag, no_wait),
            Method::BasicQos { prefetch_size, prefetch_count, global } => {
                self.qos(env, prefetch_size, prefetch_count, global)
            }
            Method::ExchangeDeclare { .. }
            | Method::ExchangeDelete { .. }
            | Method::ExchangeBind { .. }
            | Method::ExchangeUnbind { .. } => self.exchange_method(env, method),
            Method::QueueDeclare { .. }
            | Method::QueueDelete { .. }
            | Method::QueuePurge { .. }
            | Method::QueueBind { .. }
            | Method::QueueUnbind { .. } => self.queue_method(env, method),
            Method::ConfirmSelect { no_wait } => {
                match self.mode {
                    Mode::Tx(_) => {
                        return Err(Exception::precondition("cannot switch from tx to confirm mode"));
                    }
                    Mode::Plain => self.mode = Mode::Confirm(Confirms::default()),
                    Mode::Confirm(_) => {}
                }
                self.reply_unless(no_wait, env, Method::ConfirmSelectOk)
            }
            Method::TxSelect | Method::TxCommit | Method::TxRollback => self.tx_method(env, method),
            Method::ChannelFlow { active } => {
                env.shard.set_session_flow(self.session, active);
                self.reply(env, Method::ChannelFlowOk { active })
            }
            Method::ChannelFlowOk { .. } => Ok(Flow::Done),
            Method::ChannelClose { .. } => {
                self.flush_confirms(env.out);
                self.release(env.shard);
                self.reply(env, Method::ChannelCloseOk)?;
                Ok(Flow::Closed)
            }
            // The answer to a close that crossed the client's own.
            Method::ChannelCloseOk => Ok(Flow::Done),
            Method::AccessRequest { .. } => self.reply(env, Method::AccessRequestOk { ticket: 1 }),
            Method::ChannelOpen => Err(Exception::new(code::CHANNEL_ERROR, "second 'channel.open' seen")),
            _ => Err(Exception::new(code::COMMAND_INVALID, "unimplemented method")),
        }
    }

    /// Writes a method.
    pub fn reply(&self, env: &mut Env<'_>, method: Method<'_>) -> Result<Flow, Exception> {
        method.encode(self.number, env.out);
        Ok(Flow::Done)
    }

    /// Writes a method unless the client does not wait for it.
    pub fn reply_unless(
        &self,
        no_wait: bool,
        env: &mut Env<'_>,
        method: Method<'_>,
    ) -> Result<Flow, Exception> {
        if no_wait { Ok(Flow::Done) } else { self.reply(env, method) }
    }

    /// Makes a request of the shard; what follows from its answer is `step`.
    pub fn request(
        &mut self,
        env: &mut Env<'_>,
        request: Request,
        about: Option<Subject>,
        step: Step,
    ) -> Result<Flow, Exception> {
        let result = env.shard.request(self.session, request);
        self.requested(env, Pending { about, step }, result)
    }

    /// The same for what the broker does of its own, which nobody has to be allowed.
    pub fn request_unasked(
        &mut self,
        env: &mut Env<'_>,
        request: Request,
        about: Option<Subject>,
        step: Step,
    ) -> Result<Flow, Exception> {
        let result = env.shard.request_unasked(self.session, request);
        self.requested(env, Pending { about, step }, result)
    }

    fn requested(
        &mut self,
        env: &mut Env<'_>,
        pending: Pending,
        result: Option<Result<Reply, Refusal>>,
    ) -> Result<Flow, Exception> {
        match result {
            Some(result) => self.complete(env, pending, result),
            None => {
                self.pending = Some(pending);
                Ok(Flow::Parked)
            }
        }
    }

    /// The shard has answered the outstanding request.
    pub fn replied(&mut self, env: &mut Env<'_>, result: Result<Reply, Refusal>) -> Result<Flow, Exception> {
        match self.pending.take() {
            Some(pending) => self.complete(env, pending, result),
            None => Ok(Flow::Done),
        }
    }

    fn complete(
        &mut self,
        env: &mut Env<'_>,
        pending: Pending,
        result: Result<Reply, Refusal>,
    ) -> Result<Flow, Exception> {
        let refused = |env: &Env<'_>, refusal| {
            Exception::refused(&refusal, &env.link.vhost_name, pending.about.as_ref())
        };
        match (pending.step, result) {
            (Step::Subscribed { consumer, .. } | Step::ReplyQueueDeclared { consumer, .. }, Err(refusal)) => {
                self.forget_consumer(consumer);
                Err(refused(env, refusal))
            }
            // The consumer went by itself meanwhile.
            (Step::Cancelled { consumer, no_wait }, Ok(_) | Err(Refusal::Consumer(_))) => {
                self.cancelled(env, consumer, no_wait)
            }
            (_, Err(refusal)) => Err(refused(env, refusal)),
            (Step::Ok(method), Ok(_)) => match method {
                Some(method) => self.reply(env, method),
                None => Ok(Flow::Done),
            },
            (Step::QueueDeclared { no_wait }, Ok(Reply::QueueDeclared { name, messages, consumers })) => {
                self.last_queue = name.clone();
                let method = Method::QueueDeclareOk {
                    queue: name.as_bytes(),
                    message_count: messages,
                    consumer_count: consumers,
                };
                self.reply_unless(no_wait, env, method)
            }
            (Step::Deleted { no_wait }, Ok(Reply::Messages(message_count))) => {
                self.reply_unless(no_wait, env, Method::QueueDeleteOk { message_count })
            }
            (Step::Purged { no_wait }, Ok(Reply::Messages(message_count))) => {
                self.reply_unless(no_wait, env, Method::QueuePurgeOk { message_count })
            }
            (Step::Subscribed { consumer, no_wait }, Ok(_)) => self.subscribed(env, consumer, no_wait),
            (Step::ReplyQueueDeclared { consumer, no_wait }, Ok(Reply::QueueDeclared { name, .. })) => {
                self.consume_replies(env, consumer, no_wait, name)
            }
            (Step::Got { no_ack }, Ok(Reply::Got(got))) => self.got(env, no_ack, got),
            (Step::Committed, Ok(Reply::Committed { unroutable })) => self.committed(env, unroutable),
            (step, Ok(reply)) => unreachable!("the shard answered {step:?} with {reply:?}"),
        }
    }

    /// The end of a publish whose queues live on other shards.
    pub fn confirmed(&mut self, env: &mut Env<'_>, sequence: u64, accepted: bool) -> Result<Flow, Exception> {
        match &mut self.mode {
            Mode::Plain | Mode::Tx(_) => Ok(Flow::Done),
            Mode::Confirm(confirms) => {
                if confirms.resolve(sequence, accepted) {
                    env.link.confirming.push(self.number);
                }
                Ok(Flow::Done)
            }
        }
    }

    /// Writes the confirms collected.
    pub fn flush_confirms(&mut self, out: &mut Vec<u8>) {
        let number = self.number;
        if let Mode::Confirm(confirms) = &mut self.mode {
            confirms.flush(|Notice { accepted, tag, multiple }| {
                if accepted {
                    fast::ack(number, tag, multiple, out);
                } else {
                    fast::nack(number, tag, multiple, false, out);
                }
            });
        }
    }

    /// The queue that `name` means: the last declared one if it is empty.
    pub fn queue_name(&self, name: &[u8]) -> Result<Name, Exception> {
        if !name.is_empty() {
            Ok(Name::from(name))
        } else if !self.last_queue.is_empty() {
            Ok(self.last_queue.clone())
        } else {
            Err(Exception::new(code::NOT_FOUND, "no previously declared queue"))
        }
    }
}

/// Decodes arguments.
pub(super) fn decoded(arguments: TableRef<'_>) -> Result<Table, Exception> {
    arguments.to_table().map_err(malformed)
}

fn rejected(requeue: bool) -> Settlement {
    if requeue { Settlement::Requeue } else { Settlement::Reject }
}
