//! `message.transfer` from the peer: a command, a header and bodies become a message of the core.

use fulmar_core::message::MessageHeader;
use fulmar_core::shard::Published;
use fulmar_core::{MessageId, Refusal, Shard};

use super::Env;
use super::command::{Current, is_explicit};
use super::errors::Fault;
use super::incoming::CommandId;
use super::session::{Flow, Session};
use crate::codec::SequenceSet;
use crate::codec::table::{ErrorCode, MessageReject, MessageTransfer, RejectCode};
use crate::properties::{self, ENCODING, ENCODING_WITHOUT_BODY};

/// Class and command.
const TRANSFER: (u8, u8) = (4, 1);

/// How a transfer is to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Manner {
    /// The peer wants it accepted.
    pub explicit: bool,
    /// A message that nobody takes is dropped, whatever else.
    pub discard_unroutable: bool,
    /// The peer wants to hear at once when it is complete.
    pub sync: bool,
}

impl Manner {
    /// Whether the core has to say that no queue takes the message.
    pub fn is_mandatory(self) -> bool {
        self.explicit && !self.discard_unroutable
    }
}

/// A transfer on its way in.
#[derive(Debug, Default)]
pub(super) struct Arriving {
    command: Option<CommandId>,
    /// Repeated, and to be passed over.
    skipped: bool,
    manner: Manner,
    /// Exchange and routing key, one after the other; kept for its memory, as is the next.
    address: Vec<u8>,
    exchange_bytes: usize,
    /// When it came, in seconds since 1970, if messages are to say so.
    timestamp_s: Option<u64>,
    /// The content header as it will be stored.
    properties: Vec<u8>,
    facts: Facts,
    /// A body segment came, or is to come.
    has_body: bool,
    /// The message, while its body arrives in parts.
    message: Option<MessageId>,
}

impl Arriving {
    /// The message begun goes back.
    pub fn release(&mut self, shard: &mut Shard) {
        if let Some(message) = self.message.take() {
            shard.release(message);
        }
        self.command = None;
    }

    /// What has begun comes to no end; the command, if one had.
    pub fn abandon(&mut self, shard: &mut Shard) -> Option<CommandId> {
        let command = self.command;
        self.release(shard);
        command
    }

    /// Whether the content that follows is passed over.
    pub fn skip(&mut self, skipped: bool) {
        self.skipped = skipped;
    }

    /// The message without its body.
    fn header(&self, body_bytes: u64) -> MessageHeader<'_> {
        let (exchange, routing_key) = self.address.split_at(self.exchange_bytes);
        let Facts { priority, ttl_ms, persistent, has_headers } = self.facts;
        MessageHeader {
            encoding: if self.has_body { &ENCODING } else { &ENCODING_WITHOUT_BODY },
            exchange,
            routing_key,
            properties: &self.properties,
            body_bytes,
            priority,
            ttl_ms,
            persistent,
            has_headers,
        }
    }

    /// Takes in a content header; an empty one is none.
    fn read(&mut self, payload: &[u8], user: &str) -> Result<(), Fault> {
        let scan = properties::scan(payload)?;
        if let Some(claimed) = scan.message.user_id {
            check_user(claimed, user)?;
        }
        let exchange = &self.address[..self.exchange_bytes];
        self.properties.clear();
        properties::store(payload, &scan, exchange, self.timestamp_s, &mut self.properties);
        let header = scan.message_header(exchange, &[], 0);
        self.facts = Facts {
            priority: header.priority,
            ttl_ms: header.ttl_ms,
            persistent: header.persistent,
            has_headers: header.has_headers,
        };
        self.address.truncate(self.exchange_bytes);
        self.address.extend_from_slice(scan.routing_key());
        self.manner.discard_unroutable = scan.delivery.discard_unroutable;
        Ok(())
    }
}

/// What the core wants to know of a message.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    priority: u8,
    ttl_ms: Option<u64>,
    persistent: bool,
    has_headers: bool,
}

/// The user that a message names is the one who sends it, with or without a realm.
fn check_user(claimed: &[u8], user: &str) -> Result<(), Fault> {
    let name = claimed.split(|&byte| byte == b'@').next().unwrap_or_default();
    if claimed.is_empty() || claimed == user.as_bytes() || name == user.as_bytes() {
        return Ok(());
    }
    let claimed = String::from_utf8_lossy(claimed);
    let text = format!("authorised user id : {user} but user id in message declared as {claimed}");
    Err(Fault::new(ErrorCode::UnauthorizedAccess, text))
}

impl Session {
    /// The command; its content follows, if it has any.
    pub fn transfer(
        &mut self,
        env: &mut Env<'_>,
        transfer: &MessageTransfer<'_>,
        is_last: bool,
    ) -> Result<Flow, Fault> {
        // Clients that say nothing do not understand to be told.
        let explicit = transfer.accept_mode.is_some() && is_explicit(transfer.accept_mode)?;
        let arriving = &mut self.arriving;
        arriving.command = self.current.command;
        arriving.manner = Manner { explicit, discard_unroutable: false, sync: self.current.sync };
        let exchange = transfer.destination.unwrap_or_default();
        arriving.address.clear();
        arriving.address.extend_from_slice(exchange);
        arriving.exchange_bytes = exchange.len();
        arriving.timestamp_s = env.timestamp_s();
        // For a message without a header.
        arriving.properties.clear();
        arriving.facts = Facts::default();
        if arriving.timestamp_s.is_some() {
            arriving.read(b"", "")?;
        }
        arriving.has_body = !is_last;
        if is_last { self.whole_body(env, b"") } else { Ok(Flow::Done) }
    }

    /// The content header.
    pub fn content_header(
        &mut self,
        env: &mut Env<'_>,
        payload: &[u8],
        is_last: bool,
    ) -> Result<Flow, Fault> {
        let arriving = &mut self.arriving;
        if arriving.skipped {
            return Ok(Flow::Done);
        }
        arriving.read(payload, &env.link.user)?;
        arriving.has_body = !is_last;
        if is_last { self.whole_body(env, b"") } else { Ok(Flow::Done) }
    }

    /// A part of the body.
    #[inline]
    pub fn content_body(&mut self, env: &mut Env<'_>, payload: &[u8], is_last: bool) -> Result<Flow, Fault> {
        let arriving = &mut self.arriving;
        if arriving.skipped {
            return Ok(Flow::Done);
        }
        let Some(message) = arriving.message else {
            if is_last {
                return self.whole_body(env, payload);
            }
            // How long it will be is not told.
            let header = arriving.header(u64::MAX);
            arriving.message = Some(env.shard.begin_message_with(&header, payload));
            return Ok(Flow::Done);
        };
        env.shard.append_body(message, payload);
        if !is_last {
            return Ok(Flow::Done);
        }
        arriving.message = None;
        self.arrived(env, message)
    }

    fn whole_body(&mut self, env: &mut Env<'_>, body: &[u8]) -> Result<Flow, Fault> {
        let message = env.shard.begin_message_with(&self.arriving.header(body.len() as u64), body);
        self.arrived(env, message)
    }

    /// A message is complete.
    fn arrived(&mut self, env: &mut Env<'_>, message: MessageId) -> Result<Flow, Fault> {
        let manner = self.arriving.manner;
        match self.arriving.command.take() {
            Some(command) => self.publish(env, command, manner, message),
            None => {
                env.shard.release(message);
                Ok(Flow::Done)
            }
        }
    }

    /// The transfer that came last, as it was published, and the time that it bears.
    pub fn last_arrived(&self, body_bytes: u64) -> (Manner, MessageHeader<'_>, Option<u64>) {
        (self.arriving.manner, self.arriving.header(body_bytes), self.arriving.timestamp_s)
    }

    /// A command begins that needs no reading.
    #[inline]
    pub fn begin_quickly(&mut self) -> Option<CommandId> {
        let command = self.incoming.begin()?;
        self.note_command(command);
        Some(command)
    }

    /// The transfers that came last began with this one, for the case that one of them fails.
    #[inline]
    pub fn note_command(&mut self, command: CommandId) {
        self.current = Current { command: Some(command), codes: TRANSFER, sync: false };
    }

    /// Publishes a message, or keeps it for the commit.
    pub fn publish(
        &mut self,
        env: &mut Env<'_>,
        command: CommandId,
        manner: Manner,
        message: MessageId,
    ) -> Result<Flow, Fault> {
        env.link.counters.published += 1;
        if !self.mode.is_immediate() {
            return self.publish_in_tx(env, command, manner, message);
        }
        let vhost = env.link.vhost;
        let mandatory = manner.is_mandatory();
        let published = env.shard.publish(self.session, vhost, message, mandatory, Some(command.number))?;
        if manner.sync {
            self.incoming.await_completion(command);
        }
        match published {
            Published::Confirmed => self.transferred(env, command, manner.explicit),
            Published::Rejected => return Err(over_limit()),
            Published::Unroutable(message) => {
                env.shard.release(message);
                env.link.counters.returned += 1;
                self.reject_unroutable(env, command);
            }
            Published::Pending => {
                if manner.explicit {
                    self.unaccepted.push_back(command.number);
                }
            }
        }
        Ok(Flow::Done)
    }

    /// The end of a publish whose queues live on other shards, or that had to be stored.
    pub fn confirmed(&mut self, env: &mut Env<'_>, sequence: u64, accepted: bool) -> Result<Flow, Fault> {
        if !accepted {
            let failure = env.shard.journal_failure().cloned();
            return Err(failure.map_or_else(over_limit, |reason| Refusal::NotStored(reason).into()));
        }
        let explicit = match self.unaccepted.front() {
            Some(&first) if first == sequence => self.unaccepted.pop_front().is_some(),
            None => false,
            Some(_) => match self.unaccepted.binary_search(&sequence) {
                Ok(at) => self.unaccepted.remove(at).is_some(),
                Err(_) => false,
            },
        };
        self.transferred(env, CommandId { number: sequence }, explicit);
        Ok(Flow::Done)
    }

    /// Every queue has the message.
    #[inline]
    pub fn transferred(&mut self, env: &mut Env<'_>, command: CommandId, explicit: bool) {
        if explicit {
            self.accepts.add(command.id());
        }
        self.incoming.complete(command);
        self.after_completion(env);
    }

    /// No queue takes the message, and the publisher wants to know.
    pub fn reject_unroutable(&mut self, env: &mut Env<'_>, command: CommandId) {
        let id = command.id();
        let mut buffer = Vec::new();
        crate::codec::sequence::encode_sequence_set([(id, id)], &mut buffer);
        let transfers = SequenceSet::new(&buffer).unwrap_or_default();
        let reject = MessageReject {
            transfers: Some(transfers),
            code: Some(RejectCode::Unroutable),
            text: Some(b"no queue is bound for it"),
        };
        self.send(env, reject, false);
        self.incoming.complete(command);
        self.after_completion(env);
    }
}

/// A queue refuses a message because it is full.
pub(super) fn over_limit() -> Fault {
    Fault::new(ErrorCode::ResourceLimitExceeded, "a queue that the message is for is full")
}
