//! Properties of messages that came by other protocols. Not the way of messages that came by this one: it builds tables.

use fulmar_core::message::Neutral;
use fulmar_core::message::properties::{self as neutral, reserved};
use fulmar_core::{MessageView, Name, Table, Value};

use super::SHORT_STRING_MAX_BYTES;
use super::properties::Properties;
use super::table::{TableRef, encode_table};

/// Writes the properties of a message in this protocol's encoding, in place of what `out` holds, and gives them.
///
/// Strings that do not fit go into headers of reserved names, see [`reserved`]; content type, content encoding and user
/// are left out then, as headers are where all of it would take more than `limit_bytes` (0: no limit): it has to fit a
/// frame.
#[cold]
pub fn translate<'out>(message: &MessageView<'_>, limit_bytes: usize, out: &'out mut Vec<u8>) -> &'out [u8] {
    let Neutral { properties, headers } = Neutral::from(message);
    write(&properties, headers, out);
    if limit_bytes != 0 && out.len() > limit_bytes {
        write(&properties, Table::default(), out);
    }
    out
}

fn write(properties: &neutral::Properties<'_>, mut headers: Table, out: &mut Vec<u8>) {
    let headers = &mut headers;
    let message_id = properties.message_id.map(|id| id.to_text());
    let reply_to = properties.reply_to.and_then(|reply_to| reply_to.to_address());
    let expiration = properties.ttl_ms.map(|ttl_ms| ttl_ms.to_string());
    let message_id = fit(message_id.as_deref(), reserved::MESSAGE_ID, headers);
    let correlation_id = fit(properties.correlation_id, reserved::CORRELATION_ID, headers);
    let reply_to = fit(reply_to.as_deref(), reserved::REPLY_TO, headers);
    let app_id = fit(properties.app_id, reserved::APP_ID, headers);
    let type_ = fit(properties.message_type, reserved::MESSAGE_TYPE, headers);
    let cluster_id = fit(properties.cluster_id, reserved::CLUSTER_ID, headers);
    if let Some(seconds) = properties.expires_s {
        headers.0.push((Name::from(reserved::EXPIRATION), Value::Timestamp(seconds)));
    }
    let mut table = Vec::new();
    encode_table(headers, &mut table);
    out.clear();
    Properties {
        content_type: short(properties.content_type),
        content_encoding: short(properties.content_encoding),
        headers: Some(TableRef::new(&table)).filter(|table| !table.is_empty()),
        delivery_mode: properties.delivery_mode,
        priority: properties.priority,
        correlation_id,
        reply_to,
        expiration: expiration.as_deref().map(str::as_bytes),
        message_id,
        timestamp: properties.timestamp_s,
        type_,
        user_id: short(properties.user_id),
        app_id,
        cluster_id,
    }
    .encode(out);
}

/// The text if it is a short string. Otherwise it becomes a header.
fn fit<'t>(text: Option<&'t [u8]>, reserved: &[u8], headers: &mut Table) -> Option<&'t [u8]> {
    let text = text?;
    if text.len() <= SHORT_STRING_MAX_BYTES {
        return Some(text);
    }
    let of = if str::from_utf8(text).is_ok() { Value::Text } else { Value::Bytes };
    headers.0.push((Name::from(reserved), of(Name::from(text))));
    None
}

fn short(text: Option<&[u8]>) -> Option<&[u8]> {
    text.filter(|text| text.len() <= SHORT_STRING_MAX_BYTES)
}
