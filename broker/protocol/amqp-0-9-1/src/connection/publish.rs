//! Publishing: a method, a header and bodies become a message of the core.

use fulmar_core::message::MessageHeader;
use fulmar_core::shard::Published;
use fulmar_core::{Encoding, MessageId, Refusal, Shard, Value};

use super::Env;
use super::channel::{Channel, Flow, Mode};
use super::consume::REPLY_QUEUE;
use super::errors::{Exception, type_name};
use super::handshake::malformed;
use super::last::LastPublish;
use crate::codec::method::class::BASIC;
use crate::codec::properties::{ENCODING, Properties, scan};
use crate::codec::{ContentHeader, Scan, fast, frame, reply_code as code};

/// Longest time to live, in milliseconds, as in RabbitMQ.
pub(super) const MAX_EXPIRY_MS: u64 = u32::MAX as u64;

/// What a channel expects next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expect {
    #[default]
    Method,
    Header,
    Body,
}

/// Content on its way in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    expect: Expect,
    /// Exchange and routing key, one after the other; kept for its memory.
    target: Vec<u8>,
    exchange_bytes: usize,
    mandatory: bool,
    message: Option<MessageId>,
    /// Bytes of body to come.
    remaining: u64,
}

impl Incoming {
    /// `basic.publish` has come.
    pub fn begin(&mut self, exchange: &[u8], routing_key: &[u8], mandatory: bool) {
        self.expect = Expect::Header;
        self.target.clear();
        self.target.extend_from_slice(exchange);
        self.target.extend_from_slice(routing_key);
        self.exchange_bytes = exchange.len();
        self.mandatory = mandatory;
    }

    /// The exchange of the message that came last.
    pub fn exchange(&self) -> &[u8] {
        &self.target[..self.exchange_bytes]
    }

    /// A method may come.
    #[inline]
    pub fn expects_method(&self) -> bool {
        self.expect == Expect::Method
    }

    /// A method may come; otherwise, what is wrong with it.
    pub fn check_method_expected(&self) -> Result<(), Exception> {
        if self.expects_method() { Ok(()) } else { Err(self.unexpected("method")) }
    }

    /// The message begun goes back.
    pub fn release(&mut self, shard: &mut Shard) {
        if let Some(message) = self.message.take() {
            shard.release(message);
        }
        self.expect = Expect::Method;
    }

    /// A frame of this kind does not belong here.
    fn unexpected(&self, kind: &str) -> Exception {
        let text = match self.expect {
            Expect::Method => "expected method frame, got non method frame instead".to_owned(),
            Expect::Header => {
                format!(
                    "expected content header for class {BASIC}, got non content header frame ({kind}) instead"
                )
            }
            Expect::Body => format!("expected content body, got non content body frame ({kind}) instead"),
        };
        Exception::new(code::UNEXPECTED_FRAME, text)
    }
}

impl Channel {
    /// A content header.
    pub fn content_header(&mut self, env: &mut Env<'_>, payload: &[u8]) -> Result<Flow, Exception> {
        if self.incoming.expect != Expect::Header {
            return Err(self.incoming.unexpected("content header"));
        }
        let header = ContentHeader::parse(payload).map_err(malformed)?;
        if header.class_id != BASIC {
            let text = format!(
                "expected content header for class {BASIC}, got one for class {} instead",
                header.class_id
            );
            return Err(Exception::new(code::UNEXPECTED_FRAME, text));
        }
        let scan = scan(header.properties).map_err(malformed)?;
        let limit = env.link.config.max_message_bytes;
        if header.body_size > limit {
            return Err(Exception::precondition(format!(
                "message size {} is larger than configured max size {limit}",
                header.body_size
            )));
        }
        let ttl_ms = check_properties(&scan, header.properties, &env.link.user)?;
        let message = match scan.reply_to {
            Some(REPLY_QUEUE) => {
                let properties = self.with_reply_queue(header.properties)?;
                self.begin_message(env.shard, &header, &properties, &scan, ttl_ms)
            }
            _ => self.begin_message(env.shard, &header, header.properties, &scan, ttl_ms),
        };
        self.incoming.message = Some(message);
        self.incoming.remaining = header.body_size;
        self.incoming.expect = Expect::Body;
        self.body_ended(env)
    }

    fn begin_message(
        &self,
        shard: &mut Shard,
        header: &ContentHeader<'_>,
        properties: &[u8],
        scan: &Scan<'_>,
        ttl_ms: Option<u64>,
    ) -> MessageId {
        let (exchange, routing_key) = self.incoming.target.split_at(self.incoming.exchange_bytes);
        shard.begin_message(&MessageHeader {
            encoding: &ENCODING,
            exchange,
            routing_key,
            properties,
            body_bytes: header.body_size,
            priority: scan.priority.unwrap_or_default(),
            ttl_ms,
            persistent: scan.is_persistent(),
            has_headers: scan.has_headers,
        })
    }

    /// The properties with the queue behind the reply pseudo-queue as `reply-to`.
    fn with_reply_queue(&self, properties: &[u8]) -> Result<Vec<u8>, Exception> {
        let Some((_, queue)) = &self.reply_consumer else {
            return Err(Exception::precondition("fast reply consumer does not exist"));
        };
        let decoded = Properties::decode(properties).map_err(malformed)?;
        let mut encoded = Vec::with_capacity(properties.len() + queue.as_bytes().len());
        Properties { reply_to: Some(queue.as_bytes()), ..decoded }.encode(&mut encoded);
        Ok(encoded)
    }

    /// A whole body frame.
    pub fn content_body(&mut self, env: &mut Env<'_>, payload: &[u8]) -> Result<Flow, Exception> {
        if self.incoming.expect != Expect::Body {
            return Err(self.incoming.unexpected("content body"));
        }
        if payload.len() as u64 > self.incoming.remaining {
            let text = format!(
                "content body is {} bytes larger than its header says",
                payload.len() as u64 - self.incoming.remaining
            );
            return Err(Exception::new(code::FRAME_ERROR, text));
        }
        self.append_body(env.shard, payload);
        self.body_ended(env)
    }

    /// Whether a body frame of that size can be taken in part by part.
    pub fn takes_body(&self, bytes: usize) -> bool {
        self.incoming.expect == Expect::Body && bytes as u64 <= self.incoming.remaining
    }

    /// Takes in a part of a body frame.
    pub fn append_body(&mut self, shard: &mut Shard, bytes: &[u8]) {
        if let Some(message) = self.incoming.message
            && !bytes.is_empty()
        {
            shard.append_body(message, bytes);
            self.incoming.remaining -= bytes.len() as u64;
        }
    }

    /// The end of a frame of content; the message may be complete.
    pub fn body_ended(&mut self, env: &mut Env<'_>) -> Result<Flow, Exception> {
        if self.incoming.remaining > 0 {
            return Ok(Flow::Done);
        }
        let Some(message) = self.incoming.message.take() else { return Ok(Flow::Done) };
        self.incoming.expect = Expect::Method;
        self.publish(env, message, self.incoming.mandatory)
    }

    /// Publishes a message that is complete, or keeps it for the commit.
    #[inline]
    pub fn publish(
        &mut self,
        env: &mut Env<'_>,
        message: MessageId,
        mandatory: bool,
    ) -> Result<Flow, Exception> {
        env.link.counters.published += 1;
        let sequence = match &mut self.mode {
            Mode::Plain => None,
            Mode::Confirm(confirms) => Some(confirms.begin()),
            Mode::Tx(_) => return self.publish_in_tx(env, message, mandatory),
        };
        let vhost = env.link.vhost;
        let published = match env.shard.publish(self.session, vhost, message, mandatory, sequence) {
            // Who asked for confirms learns it that way.
            Err(Refusal::NotStored(_)) if sequence.is_some() => Published::Rejected,
            published => {
                published.map_err(|refusal| Exception::refused(&refusal, &env.link.vhost_name, None))?
            }
        };
        let accepted = match published {
            Published::Confirmed => true,
            Published::Rejected => false,
            Published::Pending => return Ok(Flow::Done),
            Published::Unroutable(message) => {
                self.return_message(env, message);
                true
            }
        };
        if let (Mode::Confirm(confirms), Some(sequence)) = (&mut self.mode, sequence)
            && confirms.resolve(sequence, accepted)
        {
            env.link.confirming.push(self.number);
        }
        Ok(Flow::Done)
    }

    /// Publishes the messages like `last` that `input` consists of, if the shard takes them together. `false`: nothing
    /// was done.
    #[inline]
    pub fn publish_alike(&mut self, env: &mut Env<'_>, last: &LastPublish, input: &[u8]) -> bool {
        let (vhost, bodies) = (env.link.vhost, last.bodies(input));
        let messages = bodies.len();
        let first = match &self.mode {
            Mode::Confirm(confirms) => Some(confirms.next()),
            _ => None,
        };
        let body_bytes = last.body_bytes();
        let published = env.shard.publish_alike(self.session, vhost, &last.head, body_bytes, bodies, first);
        let Some(published) = published else { return false };
        env.link.counters.published += messages as u64;
        if let Mode::Confirm(confirms) = &mut self.mode {
            for _ in 0..messages {
                let sequence = confirms.begin();
                if published == Published::Confirmed && confirms.resolve(sequence, true) {
                    env.link.confirming.push(self.number);
                }
            }
        }
        true
    }

    /// Sends a mandatory message back that no queue takes.
    pub fn return_message(&self, env: &mut Env<'_>, message: MessageId) {
        let view = env.shard.message(message);
        fast::return_(self.number, code::NO_ROUTE, b"NO_ROUTE", view.exchange, view.routing_key, env.out);
        frame::encode_content(self.number, view.properties, view.body, env.link.frame_max, env.out);
        env.shard.release(message);
        env.link.counters.returned += 1;
    }
}

/// Checks what the broker is asked to check. Returns the time to live.
pub(super) fn check_properties(
    scan: &Scan<'_>,
    properties: &[u8],
    user: &str,
) -> Result<Option<u64>, Exception> {
    if let Some(claimed) = scan.user_id
        && claimed != user.as_bytes()
    {
        let claimed = String::from_utf8_lossy(claimed);
        return Err(Exception::precondition(format!(
            "user_id property set to '{claimed}' but authenticated user was '{user}'"
        )));
    }
    if scan.has_headers {
        check_extra_keys(properties)?;
    }
    match scan.ttl_ms() {
        Ok(ttl_ms) if ttl_ms.is_none_or(|ttl_ms| ttl_ms <= MAX_EXPIRY_MS) => Ok(ttl_ms),
        _ => Err(invalid_expiration(scan.expiration.unwrap_or_default())),
    }
}

/// `CC` and `BCC` are arrays of routing keys.
fn check_extra_keys(properties: &[u8]) -> Result<(), Exception> {
    for name in ["CC", "BCC"] {
        let kind = match ENCODING.header(properties, name.as_bytes()) {
            None => continue,
            Some(Value::Array(keys)) => match keys.iter().find(|key| !matches!(key, Value::Text(_))) {
                None => continue,
                Some(other) => type_name(other),
            },
            Some(other) => type_name(&other),
        };
        return Err(Exception::precondition(format!(
            "invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
        )));
    }
    Ok(())
}

/// Says what is wrong with an expiration, as RabbitMQ does.
fn invalid_expiration(expiration: &[u8]) -> Exception {
    let text = String::from_utf8_lossy(expiration);
    let digits_from = usize::from(text.starts_with(['-', '+']));
    let digits = text[digits_from..].bytes().take_while(u8::is_ascii_digit).count();
    let (number, leftover) = text.split_at(digits_from + digits);
    let reason = if digits == 0 {
        "no_integer".to_owned()
    } else if !leftover.is_empty() {
        format!("{{leftover_string,\"{leftover}\"}}")
    } else if number.starts_with('-') {
        format!("{{value_negative,{number}}}")
    } else {
        format!("{{value_too_big,{number}}}")
    };
    Exception::precondition(format!("invalid expiration '{text}': {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_expirations_are_explained() {
        let text = |expiration: &str| invalid_expiration(expiration.as_bytes()).text;
        assert_eq!(text("soon"), "invalid expiration 'soon': no_integer");
        assert_eq!(text(""), "invalid expiration '': no_integer");
        assert_eq!(text("10ms"), "invalid expiration '10ms': {leftover_string,\"ms\"}");
        assert_eq!(text("-1"), "invalid expiration '-1': {value_negative,-1}");
        assert_eq!(text("99999999999"), "invalid expiration '99999999999': {value_too_big,99999999999}");
    }
}
