//! Headers of messages that came by other protocols.

use fulmar_core::message::properties::reserved;
use fulmar_core::message::{Id, Neutral, Properties};
use fulmar_core::{MessageView, Name, Table, Value};

use super::{Delivery, routing_key};
use crate::codec::table::{
    DeliveryMode, DeliveryPriority, DeliveryProperties, MessageProperties, ReplyTo as Parts,
};
use crate::codec::{MapRef, encode_table};

/// Longest `str8`, and longest `vbin16`.
const STR8_MAX_BYTES: usize = 255;
const VBIN16_MAX_BYTES: usize = 65_535;

/// Appends the header's structs. What has no field goes into headers of reserved names, see [`reserved`]; what does not
/// fit its field is left out.
#[cold]
pub(super) fn write(message: &MessageView<'_>, delivery: &Delivery, out: &mut Vec<u8>) {
    let Neutral { properties, headers } = Neutral::from(message);
    DeliveryProperties {
        redelivered: delivery.redelivered,
        priority: properties.priority.map(DeliveryPriority::from_code),
        delivery_mode: properties.delivery_mode.map(DeliveryMode::from_code),
        ttl: properties.ttl_ms.map(|ttl_ms| delivery.ttl_left_ms.unwrap_or(ttl_ms)),
        timestamp: properties.timestamp_s,
        expiration: properties.expires_s,
        exchange: Some(message.exchange),
        routing_key: routing_key(message, None),
        ..Default::default()
    }
    .encode(out);
    write_message_properties(&properties, headers, out);
}

fn write_message_properties(properties: &Properties<'_>, mut headers: Table, out: &mut Vec<u8>) {
    let message_id = match properties.message_id {
        Some(Id::Uuid(uuid)) => Some(uuid),
        Some(Id::Text(text)) => {
            push(&mut headers, reserved::MESSAGE_ID, Some(text));
            None
        }
        None => None,
    };
    push(&mut headers, reserved::MESSAGE_TYPE, properties.message_type);
    push(&mut headers, reserved::CLUSTER_ID, properties.cluster_id);
    let reply_to = properties.reply_to.map(|reply_to| reply_to.to_parts());
    let reply_to = match &reply_to {
        Some((exchange, routing_key))
            if fits_str8(exchange) && routing_key.iter().all(|key| fits_str8(key)) =>
        {
            let exchange = Some(&exchange[..]).filter(|exchange| !exchange.is_empty());
            Some(Parts { exchange, routing_key: routing_key.as_deref() })
        }
        Some(_) => {
            let address = properties.reply_to.and_then(|reply_to| reply_to.to_address());
            push(&mut headers, reserved::REPLY_TO, address.as_deref());
            None
        }
        None => None,
    };
    let mut map = Vec::new();
    encode_table(&headers, &mut map);
    MessageProperties {
        message_id,
        correlation_id: fit(properties.correlation_id, VBIN16_MAX_BYTES),
        reply_to,
        content_type: fit(properties.content_type, STR8_MAX_BYTES),
        content_encoding: fit(properties.content_encoding, STR8_MAX_BYTES),
        user_id: fit(properties.user_id, VBIN16_MAX_BYTES),
        app_id: fit(properties.app_id, VBIN16_MAX_BYTES),
        application_headers: (!headers.is_empty()).then_some(MapRef::new(&map)),
        ..Default::default()
    }
    .encode(out);
}

fn fit(bytes: Option<&[u8]>, max_bytes: usize) -> Option<&[u8]> {
    bytes.filter(|bytes| bytes.len() <= max_bytes)
}

fn fits_str8(text: &[u8]) -> bool {
    text.len() <= STR8_MAX_BYTES
}

/// Adds a header, if there is a value.
fn push(headers: &mut Table, name: &[u8], value: Option<&[u8]>) {
    if let Some(value) = value {
        headers.0.push((Name::from(name), Value::Text(Name::from(value))));
    }
}
