//! The header of a message and a selector: what is in order is stored, looked into, edited, taken to AMQP 0-9-1 and back,
//! and selected; nothing that is not does harm.

use fulmar_amqp_0_9_1::codec::properties as amqp_0_9_1;
use fulmar_amqp_0_9_1::codec::translate::translate;
use fulmar_amqp_0_10::codec::table::{DeliveryProperties, MessageProperties, ReplyTo};
use fulmar_amqp_0_10::codec::value::encode_map;
use fulmar_amqp_0_10::codec::{MapRef, Value};
use fulmar_amqp_0_10::properties::{self, Delivery, ENCODING};
use fulmar_core::message::Edit;
use fulmar_core::{Encoding, MessageView, Name, Selector, Value as Core};

/// The length of the header in two octets, the header, and the selector.
pub fn run(input: &[u8]) {
    let Some((&length, rest)) = input.split_first_chunk() else { return };
    let Some((header, selector)) = rest.split_at_checked(u16::from_be_bytes(length).into()) else { return };
    let selector = Selector::parse(&String::from_utf8_lossy(selector));
    let mut stored = Vec::new();
    match properties::scan(header) {
        Ok(scan) => {
            properties::store(header, &scan, b"amq.topic", Some(5), &mut stored);
            in_order(&stored);
        }
        Err(_) => stored.extend_from_slice(header),
    }
    let _ = (ENCODING.headers(&stored), ENCODING.property(&stored, b"reply-to"));
    let crossed = to_0_9_1(&stored);
    for view in [view(&ENCODING, &stored), view(&amqp_0_9_1::ENCODING, &crossed)] {
        if let Ok(selector) = &selector {
            selector.matches(&view);
        }
    }
}

/// A header that was in order, as it is stored.
fn in_order(stored: &[u8]) {
    let scan = properties::scan(stored).expect("what is stored is in order");
    assert_eq!((scan.delivery.exchange, scan.delivery.timestamp), (Some(&b"amq.topic"[..]), Some(5)));
    let mut delivered = Vec::new();
    let view = MessageView { routing_key: scan.routing_key(), ..view(&ENCODING, stored) };
    properties::write_header(&view, &Delivery::default(), &mut delivered);
    assert_eq!(delivered, stored, "a delivery is what is stored");

    let edit = Edit {
        set_headers: vec![(Name::from("edited"), Core::Bool(true))],
        remove_headers: vec![Name::from("n")],
        clear_expiration: true,
    };
    let edited = ENCODING.edit(stored, &edit);
    let delivery = properties::scan(&edited).expect("what is edited is in order").delivery;
    assert_eq!((delivery.ttl, delivery.expiration), (None, None));
    assert_eq!(ENCODING.header(&edited, b"edited"), Some(Core::Bool(true)));
    assert_eq!(ENCODING.header(&edited, b"n"), None);

    // What has no counterpart is lost on the first way; from then on nothing changes.
    let there = to_0_9_1(&to_0_10(&to_0_9_1(stored)));
    assert!(amqp_0_9_1::scan(&there).is_ok());
    assert_eq!(to_0_9_1(&to_0_10(&there)), there);
}

fn view<'a>(encoding: &'static dyn Encoding, properties: &'a [u8]) -> MessageView<'a> {
    MessageView { encoding, exchange: b"amq.topic", routing_key: b"k", properties, body: b"" }
}

fn to_0_9_1(properties: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    translate(&view(&ENCODING, properties), 0, &mut out);
    out
}

fn to_0_10(properties: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    properties::write_header(&view(&amqp_0_9_1::ENCODING, properties), &Delivery::default(), &mut out);
    assert!(properties::scan(&out).is_ok());
    out
}

pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let selectors = [
        ("comparison", "n > 6.5 AND NOT (text = 'it''s' OR n IS NULL)"),
        ("special", "text LIKE 'gr%_' ESCAPE '!' AND n BETWEEN 0x1 AND 077 AND n NOT IN (1, -2e3, 'x')"),
        ("arithmetic", "-(n + 1) * 2 / 3 - \"odd name\" <> 0b101L"),
        ("properties", "JMSType <> 'x' OR amqp.reply_to LIKE 'amq.%' OR JMSMessageID IS NOT NULL"),
    ];
    let seed = |(name, selector): &(&str, &str)| {
        let header = header();
        let length = (header.len() as u16).to_be_bytes();
        (name.to_string(), [&length[..], &header, selector.as_bytes()].concat())
    };
    selectors.iter().map(seed).collect()
}

/// A header with most of what there is.
fn header() -> Vec<u8> {
    let (mut headers, mut out) = (Vec::new(), Vec::new());
    let entries = [
        (&b"n"[..], Value::Int32(7)),
        (b"text", Value::Str16("grün".as_bytes())),
        (b"wide", Value::Uint64(u64::MAX)),
        (b"x-jms-type", Value::Str8(b"greeting")),
        (b"x-amqp-0-9-1.message-id", Value::Str8(b"7")),
    ];
    encode_map(entries, &mut headers);
    MessageProperties {
        correlation_id: Some(&[b'c'; 300]),
        reply_to: Some(ReplyTo { exchange: Some(b"amq.direct"), routing_key: Some(b"a/b") }),
        content_type: Some(b"text/plain"),
        application_headers: Some(MapRef::new(&headers)),
        ..Default::default()
    }
    .encode(&mut out);
    let delivery = DeliveryProperties { ttl: Some(9), expiration: Some(8), ..Default::default() };
    DeliveryProperties { redelivered: true, routing_key: Some(b"k"), ..delivery }.encode(&mut out);
    out
}
