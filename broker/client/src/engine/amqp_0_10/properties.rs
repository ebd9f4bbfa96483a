//! The properties of a message as the structs of a content header.
//!
//! What has no field here travels as an application header, see [`reserved`].

use fulmar_amqp_0_10::codec::table::{DeliveryMode, DeliveryPriority, DeliveryProperties, ReplyTo};
use fulmar_amqp_0_10::codec::{MapRef, encode_table, table};
use fulmar_core::Value;
use fulmar_core::message::properties::{Id, ReplyTo as Reply, reserved};

use crate::message::Publish;
use crate::{Error, MessageProperties};

/// Appends the structs of a message. The exchange is told by the transfer itself.
pub(super) fn encode(publish: &Publish<'_>, out: &mut Vec<u8>) {
    let properties = publish.properties.filter(|properties| **properties != MessageProperties::default());
    let delivery = DeliveryProperties {
        routing_key: Some(publish.routing_key.as_bytes()),
        ..properties.map_or_else(DeliveryProperties::default, delivery_properties)
    };
    delivery.encode(out);
    if let Some(properties) = properties {
        encode_message_properties(properties, out);
    }
}

fn delivery_properties(properties: &MessageProperties) -> DeliveryProperties<'_> {
    DeliveryProperties {
        priority: properties.priority.map(DeliveryPriority::from_code),
        delivery_mode: properties.persistent.then_some(DeliveryMode::Persistent),
        ttl: properties.expiration_ms,
        timestamp: properties.timestamp,
        ..DeliveryProperties::default()
    }
}

fn encode_message_properties(properties: &MessageProperties, out: &mut Vec<u8>) {
    fn text(text: &Option<String>) -> Option<&[u8]> {
        text.as_ref().map(String::as_bytes)
    }
    let reply_to = text(&properties.reply_to).map(|reply_to| Reply::Address(reply_to).to_parts());
    let message_id = text(&properties.message_id).map(Id::of_text);
    let text_id = message_id.and_then(|id| if let Id::Text(text) = id { Some(text) } else { None });
    let further = [(reserved::MESSAGE_TYPE, text(&properties.message_type)), (reserved::MESSAGE_ID, text_id)];
    let mut headers = Vec::new();
    if further.iter().any(|(_, text)| text.is_some()) {
        let mut table = properties.headers.clone();
        for (name, text) in further {
            if let Some(text) = text {
                table.set(name, Value::Text(text.into()));
            }
        }
        encode_table(&table, &mut headers);
    } else if !properties.headers.is_empty() {
        encode_table(&properties.headers, &mut headers);
    }
    let encoded = table::MessageProperties {
        content_length: None,
        message_id: message_id.and_then(|id| if let Id::Uuid(uuid) = id { Some(uuid) } else { None }),
        correlation_id: text(&properties.correlation_id),
        reply_to: reply_to.as_ref().map(|(exchange, routing_key)| ReplyTo {
            exchange: Some(&exchange[..]).filter(|exchange| !exchange.is_empty()),
            routing_key: routing_key.as_deref(),
        }),
        content_type: text(&properties.content_type),
        content_encoding: text(&properties.content_encoding),
        user_id: text(&properties.user_id),
        app_id: text(&properties.app_id),
        application_headers: (!headers.is_empty()).then_some(MapRef::new(&headers)),
    };
    if encoded != table::MessageProperties::default() {
        encoded.encode(out);
    }
}

/// Whether there is room for all of them.
///
/// # Errors
/// What is too large.
pub(super) fn check(properties: &MessageProperties) -> Result<(), Error> {
    match properties.priority {
        Some(priority @ 10..) => {
            Err(Error::Argument(format!("the priority is {priority}, the highest of AMQP 0-10 is 9")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use fulmar_amqp_0_10::codec::ContentHeader;
    use fulmar_amqp_0_10::properties::ENCODING;
    use fulmar_core::Table;

    use super::*;

    fn there_and_back(properties: &MessageProperties) -> MessageProperties {
        let mut raw = Vec::new();
        encode(&Publish::new("x", "k", b"").properties(properties), &mut raw);
        MessageProperties::decode(&ENCODING, &raw)
    }

    #[test]
    fn properties_come_back() {
        let some = |text: &str| Some(text.to_owned());
        let properties = MessageProperties {
            content_type: some("a"),
            content_encoding: some("b"),
            headers: Table::default(),
            persistent: true,
            priority: Some(3),
            correlation_id: some("c"),
            reply_to: some("d"),
            expiration_ms: Some(1500),
            message_id: some("e"),
            timestamp: Some(9),
            message_type: some("f"),
            user_id: some("g"),
            app_id: some("h"),
        }
        .header("k", Value::I32(1));
        let uuid = some("00112233-4455-6677-8899-aabbccddeeff");
        let reply_to = some("/exchanges/x/k");
        for properties in [
            properties,
            MessageProperties::default(),
            MessageProperties { message_id: uuid, reply_to, ..Default::default() },
        ] {
            assert_eq!(there_and_back(&properties), properties);
        }
    }

    #[test]
    fn fields_are_used_where_there_are_any() {
        let id = "00112233-4455-6677-8899-aabbccddeeff";
        let properties = MessageProperties {
            message_id: Some(id.into()),
            reply_to: Some("/exchanges/x".into()),
            ..Default::default()
        };
        let mut raw = Vec::new();
        encode(&Publish::new("amq.topic", "key", b"").properties(&properties), &mut raw);
        let header = ContentHeader::parse(&raw).unwrap();
        let delivery = header.delivery_properties().unwrap();
        assert_eq!((delivery.routing_key, delivery.delivery_mode), (Some(&b"key"[..]), None));
        let message = header.message_properties().unwrap();
        assert_eq!(message.message_id.map(|id| id[15]), Some(0xFF));
        assert_eq!(message.reply_to, Some(ReplyTo { exchange: Some(b"x"), routing_key: None }));
        assert_eq!(message.application_headers, None);
    }
}
