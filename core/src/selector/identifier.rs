//! What identifiers stand for.

use super::evaluate::Subject;
use super::value::{Text, Value};
use crate::message::properties::format_uuid;
use crate::message::{Id, Properties, ReplyTo, Scalar};

/// What an identifier is looked up as.
#[derive(Debug)]
pub(super) enum Identifier {
    /// An application's header.
    Header(Box<[u8]>),
    /// A property.
    Property(Property),
    /// Nothing that a message has.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Property {
    Durable,
    DeliveryMode,
    Priority,
    Redelivered,
    Subject,
    CorrelationId,
    To,
    ExpiresMs,
    MessageId,
    ReplyTo,
    TimestampMs,
    Type,
}

/// Names after `amqp.`.
const PROPERTIES: [(&[u8], Property); 12] = [
    (b"durable", Property::Durable),
    (b"delivery_mode", Property::DeliveryMode),
    (b"priority", Property::Priority),
    (b"redelivered", Property::Redelivered),
    (b"subject", Property::Subject),
    (b"correlation_id", Property::CorrelationId),
    (b"to", Property::To),
    (b"absolute_expiry_time", Property::ExpiresMs),
    (b"message_id", Property::MessageId),
    (b"reply_to", Property::ReplyTo),
    (b"creation_time", Property::TimestampMs),
    (b"jms_type", Property::Type),
];

/// Names after `JMS`; any other name that begins so is a header's.
const OF_JMS: [(&[u8], Property); 10] = [
    (b"Type", Property::Type),
    (b"CorrelationID", Property::CorrelationId),
    (b"MessageID", Property::MessageId),
    (b"DeliveryMode", Property::DeliveryMode),
    (b"Redelivered", Property::Redelivered),
    (b"Priority", Property::Priority),
    (b"Destination", Property::To),
    (b"ReplyTo", Property::ReplyTo),
    (b"Timestamp", Property::TimestampMs),
    (b"Expiration", Property::ExpiresMs),
];

/// The header in which clients of Apache Qpid's messaging API put a message's subject.
const SUBJECT: &[u8] = b"qpid.subject";

impl Identifier {
    pub fn new(name: &[u8]) -> Self {
        let find = |names: &[(&[u8], Property)], name: &[u8]| {
            names
                .iter()
                .find(|(known, _)| *known == name)
                .map(|&(_, property)| Identifier::Property(property))
        };
        if let Some(name) = name.strip_prefix(b"amqp.") {
            return find(&PROPERTIES, name).unwrap_or(Identifier::Nothing);
        }
        let of_jms = name.strip_prefix(b"JMS").and_then(|name| find(&OF_JMS, name));
        of_jms.unwrap_or_else(|| Identifier::Header(name.into()))
    }

    pub fn evaluate<'a>(&self, subject: &Subject<'a>) -> Value<'a> {
        match self {
            Identifier::Header(name) => header(subject, name),
            Identifier::Property(property) => property.evaluate(subject),
            Identifier::Nothing => Value::Unknown,
        }
    }
}

fn header<'a>(subject: &Subject<'a>, name: &[u8]) -> Value<'a> {
    let message = subject.message;
    message.encoding.scalar(message.properties, name).map_or(Value::Unknown, Value::from)
}

/// A text; unknown if there is none, or it is empty.
fn text(bytes: Option<&[u8]>) -> Value<'_> {
    match bytes {
        None | Some(b"") => Value::Unknown,
        Some(bytes) => Value::Text(Text::Whole(bytes)),
    }
}

impl Property {
    fn evaluate<'a>(self, subject: &Subject<'a>) -> Value<'a> {
        let message = subject.message;
        let properties = || message.encoding.properties(message.properties);
        let is_persistent = || properties().delivery_mode == Some(2);
        match self {
            Property::Durable => Value::Bool(is_persistent()),
            Property::DeliveryMode if is_persistent() => text(Some(b"PERSISTENT")),
            Property::DeliveryMode => text(Some(b"NON_PERSISTENT")),
            Property::Priority => Value::Exact(properties().priority.unwrap_or_default().into()),
            Property::Redelivered => Value::Bool(subject.standing.redelivered),
            Property::Subject => subject_of(subject),
            Property::CorrelationId => text(properties().correlation_id),
            Property::To if message.exchange.is_empty() => text(Some(message.routing_key)),
            Property::To => text(Some(message.exchange)),
            Property::ExpiresMs => Scalar::of_u64(subject.standing.expires_ms.unwrap_or_default()).into(),
            Property::MessageId => match properties().message_id {
                Some(Id::Uuid(uuid)) => Value::Text(Text::Uuid(format_uuid(uuid))),
                Some(Id::Text(id)) => text(Some(id)),
                None => Value::Unknown,
            },
            Property::ReplyTo => reply_to(&properties()),
            Property::TimestampMs => {
                Scalar::of_u64(properties().timestamp_s.unwrap_or_default().saturating_mul(1000)).into()
            }
            Property::Type => match text(properties().message_type) {
                Value::Unknown => subject_of(subject),
                found => found,
            },
        }
    }
}

/// The routing key; of a message to a queue by its name, what its publisher put into a header.
fn subject_of<'a>(subject: &Subject<'a>) -> Value<'a> {
    let message = subject.message;
    if !message.exchange.is_empty() {
        return text(Some(message.routing_key));
    }
    match message.encoding.scalar(message.properties, SUBJECT) {
        Some(Scalar::Text(found)) => text(Some(found)),
        _ => Value::Unknown,
    }
}

/// Exchange and routing key with a slash between them; one of them alone, or an address, as it is.
fn reply_to<'a>(properties: &Properties<'a>) -> Value<'a> {
    match properties.reply_to {
        Some(ReplyTo::Parts { exchange, routing_key: Some(key) })
            if !exchange.is_empty() && !key.is_empty() =>
        {
            Value::Text(Text::Joined(exchange, key))
        }
        Some(ReplyTo::Parts { exchange: b"", routing_key }) => text(routing_key),
        Some(ReplyTo::Parts { exchange, .. }) => text(Some(exchange)),
        Some(ReplyTo::Address(address)) => text(Some(address)),
        None => Value::Unknown,
    }
}
