//! The `x-` arguments of declarations and consumers, checked and worded as RabbitMQ does. What Qpid's clients send is the
//! core's business.

use fulmar_core::request::{Overflow, QueueOptions};
use fulmar_core::{Name, Refusal, Table, Value};

use super::errors::{Exception, invalid_argument, type_name};
use super::publish::MAX_EXPIRY_MS;

/// Reads the arguments of `queue.declare`. `flags` has everything else; `about` is the queue in error texts.
pub(super) fn queue_options(
    arguments: Table,
    flags: QueueOptions,
    about: &str,
) -> Result<QueueOptions, Exception> {
    let reader = Reader { arguments: &arguments, about };
    let dead_letter_exchange = exchange_name(&arguments, "x-dead-letter-exchange", about)?;
    let expires_ms = reader.expiry("x-expires")?;
    if expires_ms == Some(0) {
        return Err(reader.invalid("x-expires", "{value_zero,0}"));
    }
    let message_ttl_ms = reader.expiry("x-message-ttl")?;
    let dead_letter_routing_key = reader.text("x-dead-letter-routing-key")?.map(Name::from);
    if dead_letter_routing_key.is_some() && dead_letter_exchange.is_none() {
        return Err(reader.invalid("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"));
    }
    if let Some(key) = dead_letter_routing_key.as_ref().filter(|key| key.as_bytes().len() > 255) {
        let reason = format!("{{too_long,{}}}", key.as_bytes().len());
        return Err(reader.invalid("x-dead-letter-routing-key", &reason));
    }
    let max_length = reader.number("x-max-length")?;
    let max_length_bytes = reader.number("x-max-length-bytes")?;
    reader.number("x-max-in-memory-length")?;
    reader.number("x-max-in-memory-bytes")?;
    let max_priority = reader.octet("x-max-priority")?.filter(|&priority| priority > 0);
    let overflow = match reader.text("x-overflow")? {
        None | Some(b"drop-head") => Overflow::DropHead,
        Some(b"reject-publish") => Overflow::RejectPublish,
        Some(b"reject-publish-dlx") => Overflow::RejectPublishDeadLetter,
        Some(_) => return Err(reader.invalid("x-overflow", "invalid_overflow")),
    };
    match reader.text("x-queue-mode")? {
        None | Some(b"default" | b"lazy") => {}
        Some(_) => return Err(reader.invalid("x-queue-mode", "invalid_queue_mode")),
    }
    match reader.number("x-queue-version")? {
        None | Some(1 | 2) => {}
        Some(version) => {
            let reason = format!("\"unsupported queue version '{version}'\"");
            return Err(reader.invalid("x-queue-version", &reason));
        }
    }
    let single_active_consumer = reader.bool("x-single-active-consumer")?;
    match reader.text("x-queue-type")? {
        None | Some(b"classic") => {}
        Some(b"quorum") => check_quorum(&flags, about)?,
        Some(other) => {
            let reason = format!("\"unsupported queue type '{}'\"", String::from_utf8_lossy(other));
            return Err(reader.invalid("x-queue-type", &reason));
        }
    }
    let home = reader.octet("x-fulmar-shard")?;
    let mut options = QueueOptions {
        message_ttl_ms,
        expires_ms,
        max_length,
        max_length_bytes,
        overflow,
        dead_letter_exchange,
        dead_letter_routing_key,
        max_priority,
        single_active_consumer,
        home,
        ..flags
    };
    options.take_arguments(&arguments).map_err(|refusal| match refusal {
        Refusal::InvalidArgument { argument, reason } => {
            invalid_argument(&argument.to_string(), about, &reason)
        }
        other => Exception::precondition(other.to_string()),
    })?;
    Ok(options)
}

/// Quorum queues are durable and shared.
fn check_quorum(flags: &QueueOptions, about: &str) -> Result<(), Exception> {
    let property = match flags {
        QueueOptions { durable: false, .. } => "non-durable",
        QueueOptions { auto_delete: true, .. } => "auto-delete",
        QueueOptions { exclusive: true, .. } => "exclusive-owner",
        _ => return Ok(()),
    };
    Err(Exception::precondition(format!("invalid property '{property}' for {about}")))
}

/// An argument that names an exchange.
pub(super) fn exchange_name(
    arguments: &Table,
    argument: &str,
    about: &str,
) -> Result<Option<Name>, Exception> {
    match arguments.get(argument.as_bytes()) {
        None => Ok(None),
        Some(Value::Text(name)) if name.as_bytes().len() > 255 => {
            Err(invalid_argument(argument, about, &format!("{{too_long,{}}}", name.as_bytes().len())))
        }
        Some(Value::Text(name)) => Ok(Some(name.clone())),
        Some(other) => Err(Exception::precondition(format!(
            "invalid type '{}' for arg '{argument}' in {about}",
            type_name(other)
        ))),
    }
}

/// Checks the arguments of `basic.consume`; returns the priority.
pub(super) fn consumer_priority(arguments: &Table, about: &str) -> Result<i32, Exception> {
    let reader = Reader { arguments, about };
    reader.bool("x-cancel-on-ha-failover")?;
    let priority = reader.integer("x-priority")?.unwrap_or_default();
    Ok(i32::try_from(priority).unwrap_or(if priority < 0 { i32::MIN } else { i32::MAX }))
}

struct Reader<'a> {
    arguments: &'a Table,
    about: &'a str,
}

impl<'a> Reader<'a> {
    fn invalid(&self, argument: &str, reason: &str) -> Exception {
        invalid_argument(argument, self.about, reason)
    }

    fn unacceptable(&self, argument: &str, value: &Value) -> Exception {
        self.invalid(argument, &format!("{{unacceptable_type,{}}}", type_name(value)))
    }

    fn integer(&self, argument: &str) -> Result<Option<i64>, Exception> {
        match self.arguments.get(argument.as_bytes()) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.unacceptable(argument, value)),
            },
        }
    }

    fn number(&self, argument: &str) -> Result<Option<u64>, Exception> {
        self.integer(argument)?
            .map(|number| {
                u64::try_from(number)
                    .map_err(|_| self.invalid(argument, &format!("{{value_negative,{number}}}")))
            })
            .transpose()
    }

    fn expiry(&self, argument: &str) -> Result<Option<u64>, Exception> {
        let number = self.number(argument)?;
        match number {
            Some(number) if number > MAX_EXPIRY_MS => {
                Err(self.invalid(argument, &format!("{{value_too_big,{number}}}")))
            }
            _ => Ok(number),
        }
    }

    fn octet(&self, argument: &str) -> Result<Option<u8>, Exception> {
        self.number(argument)?
            .map(|number| {
                u8::try_from(number)
                    .map_err(|_| self.invalid(argument, &format!("{{max_value_exceeded,{number}}}")))
            })
            .transpose()
    }

    fn text(&self, argument: &str) -> Result<Option<&'a [u8]>, Exception> {
        match self.arguments.get(argument.as_bytes()) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.as_bytes())),
            Some(other) => Err(self.unacceptable(argument, other)),
        }
    }

    fn bool(&self, argument: &str) -> Result<bool, Exception> {
        match self.arguments.get(argument.as_bytes()) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(self.unacceptable(argument, other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(argument: &str, value: Value) -> String {
        let arguments = Table(vec![(Name::from(argument), value)]);
        let about = "queue 'q' in vhost '/'";
        queue_options(arguments, QueueOptions::default(), about).expect_err("must be refused").text
    }

    #[test]
    fn queues_of_qpid_s_kinds_can_be_asked_for() {
        let arguments = Table(vec![
            (Name::from("qpid.max_count"), Value::I32(5)),
            (Name::from("qpid.policy_type"), Value::Text(Name::from("ring"))),
        ]);
        let options = queue_options(arguments, QueueOptions::default(), "queue 'q'").expect("good arguments");
        assert_eq!((options.max_length, options.overflow), (Some(5), Overflow::Ring));
        assert_eq!(
            refusal("qpid.max_count", Value::I32(-1)),
            "invalid arg 'qpid.max_count' for queue 'q' in vhost '/': '-1' is not a number from 0 on"
        );
    }

    #[test]
    fn invalid_arguments_are_worded_like_rabbitmq() {
        let text = |text: &str| Value::Text(Name::from(text));
        let cases = [
            ("x-message-ttl", Value::I32(-1), "{value_negative,-1}"),
            ("x-message-ttl", text("soon"), "{unacceptable_type,longstr}"),
            ("x-message-ttl", Value::I64(1 << 32), "{value_too_big,4294967296}"),
            ("x-expires", Value::I32(0), "{value_zero,0}"),
            ("x-max-length", Value::Bool(true), "{unacceptable_type,bool}"),
            ("x-max-length-bytes", Value::I64(-7), "{value_negative,-7}"),
            ("x-max-priority", Value::I32(256), "{max_value_exceeded,256}"),
            ("x-overflow", text("explode"), "invalid_overflow"),
            ("x-queue-mode", text("busy"), "invalid_queue_mode"),
            ("x-queue-version", Value::I32(3), "\"unsupported queue version '3'\""),
            ("x-queue-type", text("stream"), "\"unsupported queue type 'stream'\""),
            ("x-single-active-consumer", Value::I32(1), "{unacceptable_type,signedint}"),
            ("x-dead-letter-routing-key", text("k"), "routing_key_but_no_dlx_defined"),
        ];
        for (argument, value, reason) in cases {
            let expected = format!("invalid arg '{argument}' for queue 'q' in vhost '/': {reason}");
            assert_eq!(refusal(argument, value), expected);
        }
        assert_eq!(
            refusal("x-dead-letter-exchange", Value::I32(1)),
            "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"
        );
        assert_eq!(
            refusal("x-queue-type", text("quorum")),
            "invalid property 'non-durable' for queue 'q' in vhost '/'"
        );
    }
}
