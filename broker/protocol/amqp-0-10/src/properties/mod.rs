//! The properties of messages in the core: those that came by this protocol are kept as the structs of their header
//! segment, those that came by another are translated when they are delivered.
//!
//! 1. What is stored begins with the delivery-properties, which name the exchange; all else is as it came.
//! 2. Storing, looking into and delivering a message of this protocol builds no table and allocates nothing but what the
//!    caller's buffer grows by.
//! 3. A delivery of a message of this protocol differs from what is stored in its delivery-properties alone.

mod encoding;
mod translate;

use fulmar_core::MessageView;
use fulmar_core::message::MessageHeader;

pub use encoding::{Amqp010, ENCODING, ENCODING_WITHOUT_BODY};

use crate::codec::table::{DeliveryMode, DeliveryProperties, MessageProperties};
use crate::codec::{CodecError, ContentHeader, StructRef, transfer};

/// What a broker reads of a transfer's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan<'a> {
    /// How the message is to be delivered.
    pub delivery: DeliveryProperties<'a>,
    /// What the application says of it.
    pub message: MessageProperties<'a>,
}

/// Reads what a broker needs, and checks that all of it, the application's headers included, is well formed.
///
/// # Errors
/// Anything but whole structs with exactly their fields, each once, or malformed headers.
pub fn scan(payload: &[u8]) -> Result<Scan<'_>, CodecError> {
    let header = ContentHeader::parse(payload)?;
    header.fragment_properties()?;
    let scan = Scan { delivery: header.delivery_properties()?, message: header.message_properties()? };
    if let Some(headers) = scan.message.application_headers {
        headers.validate()?;
    }
    Ok(scan)
}

impl<'a> Scan<'a> {
    /// The routing key; empty if there is none.
    pub fn routing_key(&self) -> &'a [u8] {
        self.delivery.routing_key.unwrap_or_default()
    }

    /// What the core is told of a message for `exchange`, whose properties [`store`] has written.
    pub fn message_header<'m>(
        &self,
        exchange: &'m [u8],
        stored: &'m [u8],
        body_bytes: u64,
    ) -> MessageHeader<'m>
    where
        'a: 'm,
    {
        MessageHeader {
            encoding: &ENCODING,
            exchange,
            routing_key: self.routing_key(),
            properties: stored,
            body_bytes,
            priority: self.delivery.priority.map_or(0, |priority| priority.code()),
            ttl_ms: self.delivery.ttl,
            persistent: self.delivery.delivery_mode == Some(DeliveryMode::Persistent),
            has_headers: self.message.application_headers.is_some_and(|headers| !headers.is_empty()),
        }
    }
}

/// Appends what is to be stored of a header of which `scan` was read, for a message to `exchange`. With the time of its
/// receipt, in seconds since 1970, if messages are to bear one. Nothing for an empty header.
pub fn store(payload: &[u8], scan: &Scan<'_>, exchange: &[u8], timestamp_s: Option<u64>, out: &mut Vec<u8>) {
    if payload.is_empty() && timestamp_s.is_none() {
        return;
    }
    let timestamp = timestamp_s.or(scan.delivery.timestamp);
    DeliveryProperties { exchange: Some(exchange), timestamp, ..scan.delivery }.encode(out);
    let (before, _, after) = split(payload);
    out.extend_from_slice(before);
    out.extend_from_slice(after);
}

/// What is particular to one delivery of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The message may have been delivered before.
    pub redelivered: bool,
    /// How long a message with a time to live has left of it, in milliseconds; if it is not known, the header tells what
    /// the publisher said.
    pub ttl_left_ms: Option<u64>,
}

/// Appends the header segment's payload for a delivery of a message of any encoding. It does not depend on the body.
#[inline]
pub fn write_header(message: &MessageView<'_>, delivery: &Delivery, out: &mut Vec<u8>) {
    if message.is_encoded_by(&ENCODING) || is_without_body(message) {
        write_own(message, delivery, out);
    } else {
        translate::write(message, delivery, out);
    }
}

/// Whether a message came without a body segment.
#[inline]
pub fn is_without_body(message: &MessageView<'_>) -> bool {
    message.is_encoded_by(&ENCODING_WITHOUT_BODY)
}

fn write_own(message: &MessageView<'_>, delivery: &Delivery, out: &mut Vec<u8>) {
    let (before, found, after) = split(message.properties);
    let stored = DeliveryProperties::decode(found).unwrap_or_default();
    let current = DeliveryProperties {
        redelivered: stored.redelivered || delivery.redelivered,
        ttl: stored.ttl.map(|ttl| delivery.ttl_left_ms.unwrap_or(ttl)),
        exchange: Some(message.exchange),
        routing_key: routing_key(message, stored.routing_key),
        ..stored
    };
    if current == stored {
        return out.extend_from_slice(message.properties);
    }
    current.encode(out);
    out.extend_from_slice(before);
    out.extend_from_slice(after);
}

/// The routing key as a field; an empty one only where there was one.
fn routing_key<'a>(message: &MessageView<'a>, stored: Option<&[u8]>) -> Option<&'a [u8]> {
    Some(message.routing_key).filter(|key| !key.is_empty() || stored.is_some())
}

/// What comes before the delivery-properties, these (no octet if there are none), and what comes after.
#[inline]
fn split(payload: &[u8]) -> (&[u8], StructRef<'_>, &[u8]) {
    let mut rest = payload;
    while let Some((found, after)) = transfer::next_struct(rest) {
        if found.code() == Ok(DeliveryProperties::CODE) {
            return (&payload[..payload.len() - rest.len()], found, after);
        }
        rest = after;
    }
    (payload, StructRef::EMPTY, &[])
}

#[cfg(test)]
mod tests;
