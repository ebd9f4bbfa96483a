//! What the core may ask of stored properties.

use fulmar_core::message::{Edit, Encoding, Id, Properties, ReplyTo, Scalar};
use fulmar_core::{Table, Value as Core};

use crate::codec::table::{DeliveryProperties, MessageProperties, ReplyTo as Parts};
use crate::codec::{ContentHeader, MapRef, Value, encode_table, transfer};

/// The encoding of the properties that this protocol's messages have in the core.
pub static ENCODING: Amqp010 = Amqp010 { _address: 0 };

/// The same, for a message that came without a body segment: clients tell that from an empty body.
pub static ENCODING_WITHOUT_BODY: Amqp010 = Amqp010 { _address: 1 };

/// The structs of a header segment, as they came.
#[derive(Debug)]
pub struct Amqp010 {
    /// It takes room, so that its address is its own.
    _address: u8,
}

impl Encoding for Amqp010 {
    fn name(&self) -> &'static str {
        "amqp-0-10"
    }

    fn header(&self, properties: &[u8], name: &[u8]) -> Option<Core> {
        headers(properties).get(name).ok().flatten()?.to_core().ok()
    }

    fn headers(&self, properties: &[u8]) -> Table {
        headers(properties).to_table().unwrap_or_default()
    }

    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>> {
        headers(properties).get(name).ok().flatten().map(scalar)
    }

    fn properties<'a>(&self, properties: &'a [u8]) -> Properties<'a> {
        let header = ContentHeader::parse(properties).unwrap_or_default();
        neutral(&header.delivery_properties().unwrap_or_default(), &message(&header))
    }

    fn edit(&self, properties: &[u8], edit: &Edit) -> Vec<u8> {
        let Ok(header) = ContentHeader::parse(properties) else { return properties.to_vec() };
        let mut edited = Vec::with_capacity(properties.len());
        let mut rest = properties;
        while let Some((found, after)) = transfer::next_struct(rest) {
            rest = after;
            match found.code() {
                Ok(DeliveryProperties::CODE) if edit.clear_expiration => {
                    let delivery = header.delivery_properties().unwrap_or_default();
                    DeliveryProperties { ttl: None, expiration: None, ..delivery }.encode(&mut edited);
                }
                Ok(MessageProperties::CODE) if changes_headers(edit) => {}
                _ => transfer::encode_struct(found, &mut edited),
            }
        }
        if changes_headers(edit) {
            edit_headers(message(&header), edit, &mut edited);
        }
        edited
    }
}

fn changes_headers(edit: &Edit) -> bool {
    !edit.set_headers.is_empty() || !edit.remove_headers.is_empty()
}

/// Appends message-properties with other headers.
fn edit_headers(message: MessageProperties<'_>, edit: &Edit, out: &mut Vec<u8>) {
    let headers = message.application_headers.and_then(|headers| headers.to_table().ok());
    let mut headers = headers.unwrap_or_default();
    edit.remove_headers.iter().for_each(|name| headers.remove(name.as_bytes()));
    for (name, value) in &edit.set_headers {
        headers.set(name.as_bytes(), value.clone());
    }
    let mut map = Vec::new();
    encode_table(&headers, &mut map);
    let application_headers = (!headers.is_empty()).then_some(MapRef::new(&map));
    MessageProperties { application_headers, ..message }.encode(out);
}

fn message<'a>(header: &ContentHeader<'a>) -> MessageProperties<'a> {
    header.message_properties().unwrap_or_default()
}

/// The application's headers; empty where there are none, or the properties are malformed.
fn headers(properties: &[u8]) -> MapRef<'_> {
    let header = ContentHeader::parse(properties).unwrap_or_default();
    message(&header).application_headers.unwrap_or_default()
}

/// What all protocols understand of it, with what headers of reserved names say.
fn neutral<'a>(delivery: &DeliveryProperties<'a>, message: &MessageProperties<'a>) -> Properties<'a> {
    let mut neutral = Properties {
        content_type: message.content_type,
        content_encoding: message.content_encoding,
        delivery_mode: delivery.delivery_mode.map(|mode| mode.code()),
        priority: delivery.priority.map(|priority| priority.code()),
        ttl_ms: delivery.ttl,
        expires_s: delivery.expiration,
        timestamp_s: delivery.timestamp,
        message_id: message.message_id.map(Id::Uuid),
        correlation_id: message.correlation_id,
        reply_to: message.reply_to.and_then(reply_to),
        // The peer's C++ client names an empty user where it names none.
        user_id: message.user_id.filter(|user| !user.is_empty()),
        app_id: message.app_id,
        message_type: None,
        cluster_id: None,
    };
    for (name, value) in message.application_headers.unwrap_or_default().iter().map_while(Result::ok) {
        neutral.take_reserved(name, scalar(value));
    }
    neutral
}

fn reply_to(parts: Parts<'_>) -> Option<ReplyTo<'_>> {
    let exchange = parts.exchange.unwrap_or_default();
    let says_something = !exchange.is_empty() || parts.routing_key.is_some();
    says_something.then_some(ReplyTo::Parts { exchange, routing_key: parts.routing_key })
}

/// Text of any character set is given as it came.
fn scalar(value: Value<'_>) -> Scalar<'_> {
    match value {
        Value::Void => Scalar::Void,
        Value::Bit => Scalar::Bool(true),
        Value::Boolean(v) => Scalar::Bool(v),
        Value::Int8(v) => Scalar::Int(v.into()),
        Value::Uint8(v) => Scalar::Int(v.into()),
        Value::Int16(v) => Scalar::Int(v.into()),
        Value::Uint16(v) => Scalar::Int(v.into()),
        Value::Int32(v) => Scalar::Int(v.into()),
        Value::Uint32(v) => Scalar::Int(v.into()),
        Value::Int64(v) => Scalar::Int(v),
        Value::Uint64(v) => Scalar::of_u64(v),
        Value::Float(v) => Scalar::Float(v.into()),
        Value::Double(v) => Scalar::Float(v),
        Value::Datetime(v) => Scalar::Timestamp(v),
        Value::Dec32(scale, v) => Scalar::of_decimal(scale, v.into()),
        Value::Dec64(scale, v) => Scalar::of_decimal(scale, v),
        Value::Str8(v) | Value::Str8Latin(v) | Value::Str8Utf16(v) => Scalar::Text(v),
        Value::Str16(v) | Value::Str16Latin(v) | Value::Str16Utf16(v) => Scalar::Text(v),
        Value::Bin(v) | Value::Vbin8(v) | Value::Vbin16(v) | Value::Vbin32(v) => Scalar::Text(v),
        Value::Char(_) | Value::CharUtf32(_) | Value::Uuid(_) | Value::Map(_) | Value::List(_) => {
            Scalar::Other
        }
        Value::Array(_) | Value::Struct32(_) | Value::Other { .. } => Scalar::Other,
    }
}
