//! The properties of a message in the encoding of AMQP 0-9-1.

pub(super) use fulmar_amqp_0_9_1::codec::properties::EMPTY;
pub(crate) use fulmar_amqp_0_9_1::codec::properties::ENCODING;
use fulmar_amqp_0_9_1::codec::properties::{PERSISTENT, Properties};
use fulmar_amqp_0_9_1::codec::table::{TableRef, encode_table};

use crate::MessageProperties;

/// Appends the AMQP 0-9-1 encoding.
pub(crate) fn encode(properties: &MessageProperties, out: &mut Vec<u8>) {
    if *properties == MessageProperties::default() {
        out.extend_from_slice(&EMPTY);
        return;
    }
    fn text(text: &Option<String>) -> Option<&[u8]> {
        text.as_ref().map(|text| text.as_bytes())
    }
    let mut headers = Vec::new();
    encode_table(&properties.headers, &mut headers);
    let expiration = properties.expiration_ms.map(|ms| ms.to_string());
    let encoded = Properties {
        content_type: text(&properties.content_type),
        content_encoding: text(&properties.content_encoding),
        headers: Some(TableRef::new(&headers)).filter(|headers| !headers.is_empty()),
        delivery_mode: properties.persistent.then_some(PERSISTENT),
        priority: properties.priority,
        correlation_id: text(&properties.correlation_id),
        reply_to: text(&properties.reply_to),
        expiration: text(&expiration),
        message_id: text(&properties.message_id),
        timestamp: properties.timestamp,
        type_: text(&properties.message_type),
        user_id: text(&properties.user_id),
        app_id: text(&properties.app_id),
        cluster_id: None,
    };
    encoded.encode(out);
}

#[cfg(test)]
mod tests {
    use fulmar_core::{Table, Value};

    use super::*;

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
        for properties in [properties, MessageProperties::default()] {
            let mut raw = Vec::new();
            encode(&properties, &mut raw);
            assert_eq!(MessageProperties::decode(&ENCODING, &raw), properties);
        }
    }
}
