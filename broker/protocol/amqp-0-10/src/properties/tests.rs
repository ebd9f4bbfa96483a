use fulmar_core::message::{Edit, Id, Neutral, Properties, ReplyTo, Scalar};
use fulmar_core::{Encoding, Value as Core};

use super::*;
use crate::codec::table::{DeliveryPriority, FragmentProperties, ReplyTo as Parts};
use crate::codec::{MapRef, Value, value};

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn map(entries: &[(&str, Value<'_>)]) -> Vec<u8> {
    encoded(|out| value::encode_map(entries.iter().map(|(name, value)| (name.as_bytes(), *value)), out))
}

fn delivery_properties() -> DeliveryProperties<'static> {
    DeliveryProperties {
        priority: Some(DeliveryPriority::High),
        delivery_mode: Some(DeliveryMode::Persistent),
        ttl: Some(60_000),
        expiration: Some(7),
        routing_key: Some(b"k"),
        ..Default::default()
    }
}

fn message_properties(headers: &[u8]) -> MessageProperties<'_> {
    MessageProperties {
        content_type: Some(b"text/plain"),
        message_id: Some([0xAB; 16]),
        reply_to: Some(Parts { exchange: Some(b"amq.direct"), routing_key: Some(b"replies") }),
        application_headers: Some(MapRef::new(headers)),
        ..Default::default()
    }
}

/// A header with the structs in another order than the usual one, and one that nobody knows.
fn header(headers: &[u8]) -> Vec<u8> {
    encoded(|out| {
        message_properties(headers).encode(out);
        out.extend_from_slice(b"\0\0\0\x03\x09\x01!");
        delivery_properties().encode(out);
        FragmentProperties { first: true, last: true, fragment_size: None }.encode(out);
    })
}

fn stored(payload: &[u8], exchange: &[u8], timestamp_s: Option<u64>) -> Vec<u8> {
    encoded(|out| store(payload, &scan(payload).unwrap(), exchange, timestamp_s, out))
}

fn view<'a>(exchange: &'a [u8], routing_key: &'a [u8], properties: &'a [u8]) -> MessageView<'a> {
    MessageView { encoding: &ENCODING, exchange, routing_key, properties, body: b"" }
}

fn delivered(message: &MessageView<'_>, delivery: Delivery) -> Vec<u8> {
    encoded(|out| write_header(message, &delivery, out))
}

#[test]
fn the_core_is_told_what_the_header_says() {
    let headers = map(&[("n", Value::Int8(1))]);
    let payload = header(&headers);
    let scan = scan(&payload).unwrap();
    let told = scan.message_header(b"amq.topic", b"stored", 9);
    assert_eq!(
        (told.exchange, told.routing_key, told.properties),
        (&b"amq.topic"[..], &b"k"[..], &b"stored"[..])
    );
    assert_eq!((told.body_bytes, told.priority, told.ttl_ms), (9, 6, Some(60_000)));
    assert!(told.persistent && told.has_headers && told.encoding.name() == "amqp-0-10");

    let nothing = Scan::default().message_header(b"", b"", 0);
    assert_eq!((nothing.routing_key, nothing.priority, nothing.ttl_ms), (&b""[..], 0, None));
    assert!(!nothing.persistent && !nothing.has_headers);
    let empty = map(&[]);
    let message = MessageProperties { application_headers: Some(MapRef::new(&empty)), ..Default::default() };
    assert!(!Scan { message, ..Scan::default() }.message_header(b"", b"", 0).has_headers);
}

#[test]
fn malformed_headers_are_refused() {
    assert_eq!(scan(b"\0\0\0\x01\x04"), Err(CodecError::Truncated));
    assert_eq!(scan(&header(b"\0\0\0\x01\x01k\xB0")), Err(CodecError::UnknownType(0xB0)));
    let twice = encoded(|out| (0..2).for_each(|_| DeliveryProperties::default().encode(out)));
    assert_eq!(scan(&twice), Err(CodecError::RepeatedStruct(DeliveryProperties::CODE)));
    assert_eq!(scan(b"\0\0\0\x04\x04\x02\0\x80"), Err(CodecError::UnknownFlags(0x8000)));
}

#[test]
fn what_is_stored_names_the_exchange_first_and_keeps_the_rest() {
    let headers = map(&[("n", Value::Int8(1))]);
    let expected = |timestamp| {
        encoded(|out| {
            DeliveryProperties { exchange: Some(b"amq.topic"), timestamp, ..delivery_properties() }
                .encode(out);
            message_properties(&headers).encode(out);
            out.extend_from_slice(b"\0\0\0\x03\x09\x01!");
            FragmentProperties { first: true, last: true, fragment_size: None }.encode(out);
        })
    };
    assert_eq!(stored(&header(&headers), b"amq.topic", None), expected(None));
    assert_eq!(stored(&header(&headers), b"amq.topic", Some(99)), expected(Some(99)));
    assert_eq!(stored(b"", b"amq.topic", None), b"");
    // The octets that the peer counts for credit: those of a header with exchange and routing key.
    let key = encoded(|out| {
        DeliveryProperties { routing_key: Some(b"q"), ..Default::default() }.encode(out);
    });
    assert_eq!(stored(&key, b"", None).len(), 11);
}

#[test]
fn a_delivery_differs_in_what_differs_alone() {
    let headers = map(&[("n", Value::Int8(1))]);
    let stored = stored(&header(&headers), b"amq.topic", None);
    let rest = &stored
        [stored.len() - (header(&headers).len() - encoded(|out| delivery_properties().encode(out)).len())..];
    let own = DeliveryProperties { exchange: Some(b"amq.topic"), ..delivery_properties() };
    let with = |delivery: DeliveryProperties<'_>| {
        encoded(|out| {
            delivery.encode(out);
            out.extend_from_slice(rest);
        })
    };
    let message = view(b"amq.topic", b"k", &stored);
    assert_eq!(delivered(&message, Delivery::default()), stored);
    let again = Delivery { redelivered: true, ttl_left_ms: Some(5) };
    assert_eq!(
        delivered(&message, again),
        with(DeliveryProperties { redelivered: true, ttl: Some(5), ..own })
    );
    let moved = DeliveryProperties { exchange: Some(b"dead"), routing_key: Some(b"letter"), ..own };
    assert_eq!(delivered(&view(b"dead", b"letter", &stored), Delivery::default()), with(moved));
    let keyless = DeliveryProperties { routing_key: Some(b""), ..own };
    assert_eq!(delivered(&view(b"amq.topic", b"", &stored), Delivery::default()), with(keyless));

    // Without a time to live, none is left; and without delivery-properties there are some now.
    let bare = encoded(|out| message_properties(&headers).encode(out));
    let expected = encoded(|out| {
        DeliveryProperties { exchange: Some(b"x"), redelivered: true, ..Default::default() }.encode(out);
        out.extend_from_slice(&bare);
    });
    assert_eq!(delivered(&view(b"x", b"", &bare), again), expected);
}

#[test]
fn the_core_sees_headers_and_properties() {
    let headers = map(&[
        ("n", Value::Uint64(u64::MAX)),
        ("text", Value::Str16(b"t")),
        ("id", Value::Uuid([1; 16])),
        ("dec", Value::Dec32(1, 15)),
        ("x-jms-type", Value::Vbin16(b"greeting")),
        ("x-amqp-0-9-1.message-id", Value::Str8(b"not the field")),
    ]);
    let raw = stored(&header(&headers), b"amq.topic", Some(5));
    assert_eq!(ENCODING.header(&raw, b"text"), Some(Core::Text("t".into())));
    assert_eq!(ENCODING.header(&raw, b"none"), None);
    assert_eq!(ENCODING.headers(&raw).0.len(), 6);
    assert_eq!(ENCODING.scalar(&raw, b"n"), Some(Scalar::Float(u64::MAX as f64)));
    assert_eq!(ENCODING.scalar(&raw, b"text"), Some(Scalar::Text(b"t")));
    assert_eq!(ENCODING.scalar(&raw, b"id"), Some(Scalar::Other));
    assert_eq!(ENCODING.scalar(&raw, b"dec"), Some(Scalar::Float(1.5)));
    assert_eq!(ENCODING.scalar(&raw, b"none"), None);
    let properties = Properties {
        content_type: Some(b"text/plain"),
        delivery_mode: Some(2),
        priority: Some(6),
        ttl_ms: Some(60_000),
        expires_s: Some(7),
        timestamp_s: Some(5),
        message_id: Some(Id::Uuid([0xAB; 16])),
        reply_to: Some(ReplyTo::Parts { exchange: b"amq.direct", routing_key: Some(b"replies") }),
        message_type: Some(b"greeting"),
        ..Default::default()
    };
    assert_eq!(ENCODING.properties(&raw), properties);
    let left = Neutral::from(&view(b"", b"", &raw)).headers;
    assert_eq!(
        left.0.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(),
        ["n", "text", "id", "dec"]
    );
    for (name, value) in [
        ("message-id", Core::Text("abababab-abab-abab-abab-abababababab".into())),
        ("reply-to", Core::Text("/exchanges/amq.direct/replies".into())),
        ("expiration", Core::Text("60000".into())),
        ("timestamp", Core::Timestamp(5)),
        ("priority", Core::U8(6)),
        ("type", Core::Text("greeting".into())),
    ] {
        assert_eq!(ENCODING.property(&raw, name.as_bytes()), Some(value), "{name}");
    }
    assert_eq!(ENCODING.property(&raw, b"correlation-id"), None);
    for malformed in [&b""[..], b"!", b"\0\0\0\x04\x04\x01\xff\xff"] {
        assert_eq!(ENCODING.properties(malformed), Properties::default());
        assert_eq!((ENCODING.header(malformed, b"n"), ENCODING.scalar(malformed, b"n")), (None, None));
    }
}

#[test]
fn an_edit_changes_what_it_names_alone() {
    let before = map(&[("CC", Value::Str8(b"c")), ("kept", Value::Int8(1))]);
    let raw = stored(&header(&before), b"amq.topic", None);
    let edit = Edit {
        set_headers: vec![("x-death".into(), Core::I64(1))],
        remove_headers: vec!["CC".into()],
        clear_expiration: true,
    };
    let edited = ENCODING.edit(&raw, &edit);
    let (was, now) = (scan(&raw).unwrap(), scan(&edited).unwrap());
    assert_eq!(now.delivery, DeliveryProperties { ttl: None, expiration: None, ..was.delivery });
    let after = map(&[("kept", Value::Int8(1)), ("x-death", Value::Int64(1))]);
    let application_headers = Some(MapRef::new(&after));
    assert_eq!(now.message, MessageProperties { application_headers, ..was.message });
    assert!(edited.windows(7).any(|octets| octets == b"\0\0\0\x03\x09\x01!"));

    let none = Edit { remove_headers: vec!["CC".into(), "kept".into()], ..Edit::default() };
    let none = ENCODING.edit(&raw, &none);
    assert_eq!(scan(&none).unwrap().message.application_headers, None);
    assert_eq!(scan(&none).unwrap().delivery, was.delivery);
    assert_eq!(ENCODING.edit(&raw, &Edit::default()), raw);
    let header = Edit { set_headers: vec![("n".into(), Core::Bool(true))], ..Edit::default() };
    let added = ENCODING.edit(b"", &header);
    assert_eq!(ENCODING.header(&added, b"n"), Some(Core::Bool(true)));
    assert_eq!(ENCODING.edit(b"!", &header), b"!");
}
