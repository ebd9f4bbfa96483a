//! The properties of a message as every protocol understands them, and the headers that stand for those that a protocol
//! has no field for.
//!
//! 1. What the message's own protocol has decoded is borrowed; looking at it allocates nothing.
//! 2. A property that a protocol has no field for, or whose field it does not fit, travels as a header of a *reserved
//!    name* and is a property again where there is a field. A header of a reserved name whose property is set is no
//!    header: [`Properties::remove_reserved`].
//! 3. A message that goes to another protocol and back is the same to whoever looks at properties and headers.

use std::borrow::Cow;

use super::MessageView;
use crate::{Name, Table, Value};

/// Names of headers that stand for properties.
pub mod reserved {
    /// [`super::Properties::message_type`], where AMQP 0-10 has no field; the name that Apache Qpid's JMS clients use.
    pub const MESSAGE_TYPE: &[u8] = b"x-jms-type";
    /// [`super::Properties::message_id`], where it is no UUID and the field takes nothing else.
    pub const MESSAGE_ID: &[u8] = b"x-amqp-0-9-1.message-id";
    /// [`super::Properties::cluster_id`], where AMQP 0-10 has no field.
    pub const CLUSTER_ID: &[u8] = b"x-amqp-0-9-1.cluster-id";
    /// [`super::Properties::correlation_id`], where it is too long for the field.
    pub const CORRELATION_ID: &[u8] = b"x-amqp-0-10.correlation-id";
    /// [`super::Properties::app_id`], where it is too long for the field; clients of Apache Qpid's messaging API set the
    /// property by this name.
    pub const APP_ID: &[u8] = b"x-amqp-0-10.app-id";
    /// [`super::Properties::reply_to`] as an address, where that is too long for the field.
    pub const REPLY_TO: &[u8] = b"x-amqp-0-10.reply-to";
    /// [`super::Properties::expires_s`], where AMQP 0-9-1 has no field.
    pub const EXPIRATION: &[u8] = b"x-amqp-0-10.expiration";
}

/// What a message says of itself, but for the application's headers. Strings are bytes as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    /// MIME type of the body.
    pub content_type: Option<&'a [u8]>,
    /// MIME encoding of the body.
    pub content_encoding: Option<&'a [u8]>,
    /// 1: transient, 2: persistent.
    pub delivery_mode: Option<u8>,
    /// Priority.
    pub priority: Option<u8>,
    /// Time to live when it was published, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// When the publisher says that it expires, in seconds since 1970; only AMQP 0-10 has a field for it, and no broker
    /// acts on it.
    pub expires_s: Option<u64>,
    /// When it was made or received, in seconds since 1970.
    pub timestamp_s: Option<u64>,
    /// The application's identifier.
    pub message_id: Option<Id<'a>>,
    /// What a reply refers to.
    pub correlation_id: Option<&'a [u8]>,
    /// Where a reply goes to.
    pub reply_to: Option<ReplyTo<'a>>,
    /// User who publishes.
    pub user_id: Option<&'a [u8]>,
    /// Application that publishes.
    pub app_id: Option<&'a [u8]>,
    /// The application's type of message.
    pub message_type: Option<&'a [u8]>,
    /// Reserved by AMQP 0-9-1; carried for old clients.
    pub cluster_id: Option<&'a [u8]>,
}

/// The identifier of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Id<'a> {
    /// Any text; never one that [`parse_uuid`] understands.
    Text(&'a [u8]),
    /// A UUID.
    Uuid([u8; 16]),
}

impl<'a> Id<'a> {
    /// What a field of text says.
    pub fn of_text(text: &'a [u8]) -> Self {
        parse_uuid(text).map_or(Id::Text(text), Id::Uuid)
    }

    /// As a field of text says it.
    pub fn to_text(&self) -> Cow<'a, [u8]> {
        match *self {
            Id::Text(text) => Cow::Borrowed(text),
            Id::Uuid(uuid) => Cow::Owned(format_uuid(uuid).to_vec()),
        }
    }
}

/// Length of a UUID as text.
pub const UUID_TEXT_BYTES: usize = 36;

/// Where the hyphens are in the text of a UUID.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// A UUID as text: lower case, with hyphens.
pub fn format_uuid(uuid: [u8; 16]) -> [u8; UUID_TEXT_BYTES] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; UUID_TEXT_BYTES];
    let mut at = 0;
    for byte in uuid {
        if HYPHENS.contains(&at) {
            at += 1;
        }
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 0xF)];
        at += 2;
    }
    text
}

/// The UUID that is written so, and not otherwise: [`format_uuid`] gives the same text again.
pub fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; UUID_TEXT_BYTES] = text.try_into().ok()?;
    let (mut uuid, mut digits) = ([0; 16], 0);
    for (at, &byte) in text.iter().enumerate() {
        let digit = match byte {
            b'-' if HYPHENS.contains(&at) => continue,
            b'0'..=b'9' if !HYPHENS.contains(&at) => byte - b'0',
            b'a'..=b'f' if !HYPHENS.contains(&at) => byte - b'a' + 10,
            _ => return None,
        };
        uuid[digits / 2] |= digit << (4 * (1 - digits % 2));
        digits += 1;
    }
    Some(uuid)
}

/// Where a reply goes to, as the message's protocol has it; either form becomes the other.
///
/// An address names a queue, by its name alone. `/exchanges/E/K` is an exchange and a routing key, `/exchanges/E` an
/// exchange without one, `/queues/Q` a queue whose name would be read as one of these; octets that a URI's segment may
/// not have are percent-encoded. A text that is not exactly what would be written for what it says is a queue's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyTo<'a> {
    /// An address.
    Address(&'a [u8]),
    /// An exchange, the default one if empty, and a routing key.
    Parts {
        /// Name of the exchange.
        exchange: &'a [u8],
        /// Routing key.
        routing_key: Option<&'a [u8]>,
    },
}

const EXCHANGES: &[u8] = b"/exchanges/";
const QUEUES: &[u8] = b"/queues/";

impl<'a> ReplyTo<'a> {
    /// Exchange and routing key.
    pub fn to_parts(&self) -> (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>) {
        match *self {
            ReplyTo::Parts { exchange, routing_key } => {
                (Cow::Borrowed(exchange), routing_key.map(Cow::Borrowed))
            }
            ReplyTo::Address(address) => parse_address(address).map_or_else(
                || (Cow::Borrowed(&b""[..]), Some(Cow::Borrowed(address))),
                |(exchange, key)| (Cow::Owned(exchange), key.map(Cow::Owned)),
            ),
        }
    }

    /// The address; `None` where there is neither an exchange nor a routing key.
    pub fn to_address(&self) -> Option<Cow<'a, [u8]>> {
        match *self {
            ReplyTo::Address(address) => Some(Cow::Borrowed(address)),
            ReplyTo::Parts { exchange: b"", routing_key: None } => None,
            ReplyTo::Parts { exchange: b"", routing_key: Some(key) } if parse_address(key).is_none() => {
                Some(Cow::Borrowed(key))
            }
            ReplyTo::Parts { exchange, routing_key } => {
                Some(Cow::Owned(format_address(exchange, routing_key)))
            }
        }
    }
}

/// Exchange and routing key of an address that is no plain queue's name.
fn parse_address(address: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (exchange, key) = if let Some(queue) = address.strip_prefix(QUEUES) {
        (Vec::new(), Some(percent_decoded(queue)?))
    } else {
        let rest = address.strip_prefix(EXCHANGES)?;
        let (exchange, key) = match rest.iter().position(|&byte| byte == b'/') {
            Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
            None => (rest, None),
        };
        let key = match key {
            Some(key) => Some(percent_decoded(key)?),
            None => None,
        };
        (percent_decoded(exchange)?, key)
    };
    let is_needed = !exchange.is_empty() || key.as_ref().is_some_and(|key| parse_address(key).is_some());
    (is_needed && format_address(&exchange, key.as_deref()) == address).then_some((exchange, key))
}

fn format_address(exchange: &[u8], routing_key: Option<&[u8]>) -> Vec<u8> {
    let mut address = Vec::new();
    if exchange.is_empty() {
        address.extend_from_slice(QUEUES);
        percent_encode(routing_key.unwrap_or_default(), &mut address);
        return address;
    }
    address.extend_from_slice(EXCHANGES);
    percent_encode(exchange, &mut address);
    if let Some(key) = routing_key {
        address.push(b'/');
        percent_encode(key, &mut address);
    }
    address
}

/// Octets that stand for themselves: the unreserved ones of URIs.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn percent_encode(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if is_plain(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xF)]]);
        }
    }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (&[high, low], after) = rest.split_first_chunk()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        decoded.push((digit(high)? << 4 | digit(low)?) as u8);
        rest = after;
    }
    Some(decoded)
}

impl<'a> Properties<'a> {
    /// The property of this AMQP name as AMQP 0-9-1 has it (`expiration` is the time to live); `None` if it is not set,
    /// or there is none of that name.
    pub fn get(&self, name: &[u8]) -> Option<Value> {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| Value::Text(Name::from(bytes)));
        match name {
            b"content-type" => text(self.content_type),
            b"content-encoding" => text(self.content_encoding),
            b"delivery-mode" => self.delivery_mode.map(Value::U8),
            b"priority" => self.priority.map(Value::U8),
            b"correlation-id" => text(self.correlation_id),
            b"reply-to" => text(self.reply_to?.to_address().as_deref()),
            b"expiration" => self.ttl_ms.map(|ttl_ms| Value::Text(Name::from(ttl_ms.to_string()))),
            b"message-id" => text(self.message_id.map(|id| id.to_text()).as_deref()),
            b"timestamp" => self.timestamp_s.map(Value::Timestamp),
            b"type" => text(self.message_type),
            b"user-id" => text(self.user_id),
            b"app-id" => text(self.app_id),
            b"cluster-id" => text(self.cluster_id),
            _ => None,
        }
    }

    /// Takes from a header of a reserved name what the message's protocol has no field for. A property that is set
    /// stays as it is.
    pub fn take_reserved(&mut self, name: &[u8], value: Scalar<'a>) {
        let set = |field: &mut Option<&'a [u8]>| {
            if let Scalar::Text(text) = value {
                field.get_or_insert(text);
            }
        };
        match (name, value) {
            (reserved::MESSAGE_TYPE, _) => set(&mut self.message_type),
            (reserved::CLUSTER_ID, _) => set(&mut self.cluster_id),
            (reserved::CORRELATION_ID, _) => set(&mut self.correlation_id),
            (reserved::APP_ID, _) => set(&mut self.app_id),
            (reserved::MESSAGE_ID, Scalar::Text(text)) => {
                self.message_id.get_or_insert(Id::of_text(text));
            }
            (reserved::REPLY_TO, Scalar::Text(text)) => {
                self.reply_to.get_or_insert(ReplyTo::Address(text));
            }
            (reserved::EXPIRATION, Scalar::Timestamp(seconds)) => {
                self.expires_s.get_or_insert(seconds);
            }
            _ => {}
        }
    }

    /// Whether a header of this name stands for a property that is set.
    pub fn is_reserved(&self, name: &[u8]) -> bool {
        match name {
            reserved::MESSAGE_TYPE => self.message_type.is_some(),
            reserved::MESSAGE_ID => self.message_id.is_some(),
            reserved::CLUSTER_ID => self.cluster_id.is_some(),
            reserved::CORRELATION_ID => self.correlation_id.is_some(),
            reserved::APP_ID => self.app_id.is_some(),
            reserved::REPLY_TO => self.reply_to.is_some(),
            reserved::EXPIRATION => self.expires_s.is_some(),
            _ => false,
        }
    }

    /// Removes the headers that stand for properties which are set.
    pub fn remove_reserved(&self, headers: &mut Table) {
        headers.0.retain(|(name, _)| !self.is_reserved(name.as_bytes()));
    }
}

/// A message's properties and headers, as a protocol takes them that has to write what came by another.
pub struct Neutral<'a> {
    /// Its properties.
    pub properties: Properties<'a>,
    /// Its headers, without those that stand for properties.
    pub headers: Table,
}

impl<'a> From<&MessageView<'a>> for Neutral<'a> {
    fn from(message: &MessageView<'a>) -> Self {
        let properties = message.encoding.properties(message.properties);
        let mut headers = message.encoding.headers(message.properties);
        properties.remove_reserved(&mut headers);
        Neutral { properties, headers }
    }
}

/// The value of a header to somebody who compares it: borrowed, and whatever its width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// No value.
    Void,
    /// Boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Floating point; an unsigned integer that a signed one does not hold; a decimal.
    Float(f64),
    /// Seconds since 1970.
    Timestamp(u64),
    /// Text or octets, as they came.
    Text(&'a [u8]),
    /// A table, an array, or what else has no order.
    Other,
}

impl Scalar<'_> {
    /// An unsigned integer.
    pub fn of_u64(value: u64) -> Self {
        i64::try_from(value).map_or(Scalar::Float(value as f64), Scalar::Int)
    }

    /// A scaled integer, so many digits after the point.
    pub fn of_decimal(scale: u8, value: i64) -> Self {
        Scalar::Float(value as f64 / 10f64.powi(scale.into()))
    }
}
