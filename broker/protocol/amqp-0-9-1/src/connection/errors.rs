//! What a peer is told when something is wrong: exceptions, their wording after RabbitMQ's (clients match on it), and
//! the counters of them.

use std::fmt::Write as _;

use fulmar_core::{Name, Refusal, Value};

use crate::codec::reply_code as code;

/// A fault that ends a channel or the connection. Which of both follows from the code (AMQP 0-9-1 §1.2).
#[derive(Debug)]
pub(super) struct Exception {
    /// Reply code.
    pub code: u16,
    /// What is wrong, without the code's name.
    pub text: String,
}

impl Exception {
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Exception { code, text: text.into() }
    }

    pub fn precondition(text: impl Into<String>) -> Self {
        Self::new(code::PRECONDITION_FAILED, text)
    }

    /// Whether it ends the connection rather than the channel.
    pub fn is_hard(&self) -> bool {
        code::is_hard(self.code)
    }

    /// `NAME - text`, as long as a short string allows.
    pub fn reply_text(&self) -> String {
        let mut text = format!("{} - {}", code::name(self.code), self.text);
        if text.len() > 255 {
            let end = (0..=255).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
        }
        text
    }

    /// The core's refusal of a request or publish in virtual host `vhost`. `about` is what the request was about.
    pub fn refused(refusal: &Refusal, vhost: &str, about: Option<&Subject>) -> Self {
        let queue = |name: &Name| format!("queue '{name}' in vhost '{vhost}'");
        let exchange = |name: &Name| format!("exchange '{name}' in vhost '{vhost}'");
        match refusal {
            Refusal::NoExchange(name) => Self::new(code::NOT_FOUND, format!("no {}", exchange(name))),
            Refusal::NoQueue(name) => Self::new(code::NOT_FOUND, format!("no {}", queue(name))),
            Refusal::Inequivalent { object, name, argument, received, current } => {
                Self::precondition(format!(
                    "inequivalent arg '{argument}' for {object} '{name}' in vhost '{vhost}': received {} but \
                     current is {}",
                    compared(received.as_ref(), current.as_ref()),
                    compared(current.as_ref(), received.as_ref()),
                ))
            }
            Refusal::ExclusiveToOther(name) => Self::new(
                code::RESOURCE_LOCKED,
                format!(
                    "cannot obtain exclusive access to locked {}. It could be originally declared on another \
                     connection or the exclusive property value does not match that of the original declaration.",
                    queue(name)
                ),
            ),
            Refusal::ExclusiveUse(name) => {
                Self::new(code::ACCESS_REFUSED, format!("{} in exclusive use", queue(name)))
            }
            Refusal::Busy { object, name, state } => {
                Self::precondition(format!("{object} '{name}' in vhost '{vhost}' {state}"))
            }
            Refusal::Forbidden(text) | Refusal::Denied(text) => Self::new(code::ACCESS_REFUSED, text.clone()),
            Refusal::DefaultExchange => Self::new(code::ACCESS_REFUSED, refusal.to_string()),
            Refusal::InUseAsAlternate(_) | Refusal::InvalidBinding { .. } => {
                Self::precondition(refusal.to_string())
            }
            Refusal::Internal(name) => {
                Self::new(code::ACCESS_REFUSED, format!("cannot publish to internal {}", exchange(name)))
            }
            Refusal::UnknownExchangeType(kind) => {
                Self::precondition(format!("unknown exchange type '{kind}'"))
            }
            Refusal::InvalidArgument { argument, reason } => match about {
                Some(subject) => invalid_argument(&argument.to_string(), &subject.in_vhost(vhost), reason),
                None => Self::precondition(format!("invalid arg '{argument}': {reason}")),
            },
            Refusal::Consumer(consumer) => {
                Self::new(code::INTERNAL_ERROR, format!("no or duplicate consumer {consumer}"))
            }
            Refusal::LimitExceeded(text) => Self::precondition(text.clone()),
            Refusal::QueueFull(name) => Self::precondition(format!("{} is full", queue(name))),
            Refusal::NotStored(_) | Refusal::Dtx { .. } => Self::precondition(refusal.to_string()),
        }
    }
}

/// The queue or exchange that a request is about, for error texts.
#[derive(Debug)]
pub(super) struct Subject {
    /// `queue` or `exchange`.
    pub kind: &'static str,
    /// Its name.
    pub name: Name,
}

impl Subject {
    pub fn queue(name: &Name) -> Self {
        Subject { kind: "queue", name: name.clone() }
    }

    pub fn exchange(name: &Name) -> Self {
        Subject { kind: "exchange", name: name.clone() }
    }

    /// `queue 'q' in vhost '/'`.
    pub fn in_vhost(&self, vhost: &str) -> String {
        format!("{} '{}' in vhost '{vhost}'", self.kind, self.name)
    }
}

/// `invalid arg 'x-…' for queue 'q' in vhost '/': reason`.
pub(super) fn invalid_argument(argument: &str, subject: &str, reason: &str) -> Exception {
    Exception::precondition(format!("invalid arg '{argument}' for {subject}: {reason}"))
}

/// One side of a comparison of arguments: with its type if the other side has none, as RabbitMQ words it.
fn compared(value: Option<&Value>, other: Option<&Value>) -> String {
    match (value, other) {
        (None, _) => "none".to_owned(),
        (Some(value), None) => format!("the value '{}' of type '{}'", value_text(value), type_name(value)),
        (Some(value), Some(_)) => format!("'{}'", value_text(value)),
    }
}

/// A value as RabbitMQ prints it.
pub(super) fn value_text(value: &Value) -> String {
    match value {
        Value::Void => "undefined".to_owned(),
        Value::Bool(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Decimal(places, v) => format!("{{{places},{v}}}"),
        Value::Timestamp(v) => v.to_string(),
        Value::Text(v) | Value::Bytes(v) => v.to_string(),
        Value::Array(values) => {
            list(values.iter().map(|v| format!("{{{},{}}}", type_name(v), value_text(v))))
        }
        Value::Table(table) => list(
            table.0.iter().map(|(key, v)| format!("{{<<\"{key}\">>,{},{}}}", type_name(v), value_text(v))),
        ),
        integer => integer.as_i64().map_or_else(|| "18446744073709551615".to_owned(), |v| v.to_string()),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let mut text = String::from("[");
    for (index, item) in items.enumerate() {
        let _ = write!(text, "{}{item}", if index == 0 { "" } else { "," });
    }
    text.push(']');
    text
}

/// A value's type by RabbitMQ's name for it.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Void => "void",
        Value::Bool(_) => "bool",
        Value::I8(_) => "byte",
        Value::U8(_) => "unsignedbyte",
        Value::I16(_) => "short",
        Value::U16(_) => "unsignedshort",
        Value::I32(_) => "signedint",
        Value::U32(_) => "unsignedint",
        Value::I64(_) => "long",
        Value::U64(_) => "unsignedlong",
        Value::F32(_) => "float",
        Value::F64(_) => "double",
        Value::Decimal(..) => "decimal",
        Value::Text(_) => "longstr",
        Value::Bytes(_) => "binary",
        Value::Timestamp(_) => "timestamp",
        Value::Array(_) => "array",
        Value::Table(_) => "table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inequivalent_arguments_are_worded_like_rabbitmq() {
        let text = |received, current| {
            let refusal = Refusal::Inequivalent {
                object: "queue",
                name: Name::from("q"),
                argument: Name::from("x-message-ttl"),
                received,
                current,
            };
            Exception::refused(&refusal, "/", None).reply_text()
        };
        assert_eq!(
            text(None, Some(Value::I32(1000))),
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none but \
             current is the value '1000' of type 'signedint'"
        );
        assert_eq!(
            text(Some(Value::I32(5)), Some(Value::I64(1000))),
            "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received '5' but \
             current is '1000'"
        );
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let exception = Exception::precondition("ä".repeat(200));
        let text = exception.reply_text();
        assert!(text.len() <= 255 && text.len() > 250);
        assert!(text.ends_with('ä'));
    }
}
