//! Messages cross between AMQP 0-10 and 0-9-1 and come back: the same properties, the same headers.

use fulmar_amqp_0_9_1::codec::properties as amqp_0_9_1;
use fulmar_amqp_0_9_1::codec::table::{TableRef, encode_table as encode_table_0_9_1};
use fulmar_amqp_0_9_1::codec::translate::translate;
use fulmar_amqp_0_10::codec::table::{
    DeliveryMode, DeliveryPriority, DeliveryProperties, MessageProperties, ReplyTo,
};
use fulmar_amqp_0_10::codec::{ContentHeader, MapRef, encode_table as encode_table_0_10};
use fulmar_amqp_0_10::properties::{self as amqp_0_10, Delivery};
use fulmar_core::{Encoding, MessageView, Name, Table, Value};
use proptest::prelude::*;

const EXCHANGE: &[u8] = b"amq.topic";
const KEY: &[u8] = b"news.sport";

fn view<'a>(encoding: &'static dyn Encoding, properties: &'a [u8]) -> MessageView<'a> {
    MessageView { encoding, exchange: EXCHANGE, routing_key: KEY, properties, body: b"body" }
}

/// The properties in AMQP 0-9-1 of a message that came by 0-10.
fn to_0_9_1(properties: &[u8]) -> Vec<u8> {
    let mut out = b"of another message".to_vec();
    translate(&view(&amqp_0_10::ENCODING, properties), 0, &mut out);
    out
}

/// The header in AMQP 0-10 of a message that came by 0-9-1.
fn to_0_10(properties: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    amqp_0_10::write_header(&view(&amqp_0_9_1::ENCODING, properties), &Delivery::default(), &mut out);
    out
}

fn table(entries: &[(&str, Value)]) -> Table {
    Table(entries.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect())
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn of_0_9_1(properties: amqp_0_9_1::Properties<'_>, headers: &Table) -> Vec<u8> {
    let (mut table, mut out) = (Vec::new(), Vec::new());
    encode_table_0_9_1(headers, &mut table);
    let headers = Some(TableRef::new(&table)).filter(|table| !table.is_empty());
    amqp_0_9_1::Properties { headers, ..properties }.encode(&mut out);
    out
}

/// As stored: with the exchange.
fn of_0_10(delivery: DeliveryProperties<'_>, message: MessageProperties<'_>, headers: &Table) -> Vec<u8> {
    let (mut map, mut out) = (Vec::new(), Vec::new());
    encode_table_0_10(headers, &mut map);
    DeliveryProperties { exchange: Some(EXCHANGE), routing_key: Some(KEY), ..delivery }.encode(&mut out);
    let application_headers = (!headers.is_empty()).then_some(MapRef::new(&map));
    MessageProperties { application_headers, ..message }.encode(&mut out);
    out
}

fn decoded_0_10(header: &[u8]) -> (DeliveryProperties<'_>, MessageProperties<'_>, Table) {
    let header = ContentHeader::parse(header).expect("a content header");
    let message = header.message_properties().expect("message-properties");
    let headers = message.application_headers.unwrap_or_default().to_table().expect("headers");
    let message = MessageProperties { application_headers: None, ..message };
    (header.delivery_properties().expect("delivery-properties"), message, headers)
}

fn decoded_0_9_1(properties: &[u8]) -> (amqp_0_9_1::Properties<'_>, Table) {
    let decoded = amqp_0_9_1::Properties::decode(properties).expect("properties");
    let headers = decoded.headers.unwrap_or_default().to_table().expect("headers");
    (amqp_0_9_1::Properties { headers: None, ..decoded }, headers)
}

#[test]
fn a_message_of_0_10_in_0_9_1() {
    let delivery = DeliveryProperties {
        priority: Some(DeliveryPriority::High),
        delivery_mode: Some(DeliveryMode::Persistent),
        ttl: Some(60_000),
        timestamp: Some(5),
        expiration: Some(7),
        ..Default::default()
    };
    let message = MessageProperties {
        content_type: Some(b"text/plain"),
        content_encoding: Some(b"utf-8"),
        message_id: Some([0xAB; 16]),
        correlation_id: Some(b"c"),
        reply_to: Some(ReplyTo { exchange: Some(b"amq.direct"), routing_key: Some(b"a/b") }),
        user_id: Some(b"guest"),
        app_id: Some(b"app"),
        content_length: Some(4),
        ..Default::default()
    };
    let headers = table(&[("x-jms-type", text("greeting")), ("n", Value::U64(7))]);
    let translated = to_0_9_1(&of_0_10(delivery, message, &headers));
    let (properties, headers) = decoded_0_9_1(&translated);
    let expected = amqp_0_9_1::Properties {
        content_type: Some(b"text/plain"),
        content_encoding: Some(b"utf-8"),
        headers: None,
        delivery_mode: Some(2),
        priority: Some(6),
        correlation_id: Some(b"c"),
        reply_to: Some(b"/exchanges/amq.direct/a%2Fb"),
        expiration: Some(b"60000"),
        message_id: Some(b"abababab-abab-abab-abab-abababababab"),
        timestamp: Some(5),
        type_: Some(b"greeting"),
        user_id: Some(b"guest"),
        app_id: Some(b"app"),
        cluster_id: None,
    };
    assert_eq!(properties, expected);
    assert_eq!(headers, table(&[("n", Value::I64(7)), ("x-amqp-0-10.expiration", Value::Timestamp(7))]));
}

#[test]
fn a_message_of_0_9_1_in_0_10() {
    let properties = amqp_0_9_1::Properties {
        content_type: Some(b"text/plain"),
        delivery_mode: Some(2),
        priority: Some(200),
        reply_to: Some(b"replies"),
        expiration: Some(b"60000"),
        message_id: Some(b"order 7"),
        type_: Some(b"greeting"),
        ..Default::default()
    };
    let raw = of_0_9_1(properties, &table(&[("n", Value::I8(1))]));
    let header = to_0_10(&raw);
    let (delivery, message, headers) = decoded_0_10(&header);
    let expected = DeliveryProperties {
        priority: Some(DeliveryPriority::Other(200)),
        delivery_mode: Some(DeliveryMode::Persistent),
        ttl: Some(60_000),
        exchange: Some(EXCHANGE),
        routing_key: Some(KEY),
        ..Default::default()
    };
    assert_eq!(delivery, expected);
    let expected = MessageProperties {
        content_type: Some(b"text/plain"),
        reply_to: Some(ReplyTo { exchange: None, routing_key: Some(b"replies") }),
        ..Default::default()
    };
    assert_eq!(message, expected);
    let expected =
        [("n", Value::I8(1)), ("x-amqp-0-9-1.message-id", text("order 7")), ("x-jms-type", text("greeting"))];
    assert_eq!(headers, table(&expected));
    let delivery = Delivery { redelivered: true, ttl_left_ms: Some(9) };
    let mut out = Vec::new();
    amqp_0_10::write_header(&view(&amqp_0_9_1::ENCODING, &raw), &delivery, &mut out);
    let (delivery, ..) = decoded_0_10(&out);
    assert_eq!((delivery.redelivered, delivery.ttl), (true, Some(9)));
}

#[test]
fn an_empty_user_is_none() {
    let message = MessageProperties { user_id: Some(b""), ..Default::default() };
    let raw = of_0_10(DeliveryProperties::default(), message, &Table::default());
    assert_eq!(decoded_0_9_1(&to_0_9_1(&raw)).0.user_id, None);
}

#[test]
fn headers_that_fit_no_frame_are_left_out() {
    let long = table(&[("long", text(&"x".repeat(5000)))]);
    let message = MessageProperties { correlation_id: Some(b"c"), ..Default::default() };
    let raw = of_0_10(DeliveryProperties::default(), message, &long);
    let mut out = Vec::new();
    let (properties, headers) = decoded_0_9_1(translate(&view(&amqp_0_10::ENCODING, &raw), 4096, &mut out));
    assert_eq!((properties.correlation_id, headers), (Some(&b"c"[..]), Table::default()));
    let mut out = Vec::new();
    assert_eq!(decoded_0_9_1(translate(&view(&amqp_0_10::ENCODING, &raw), 6000, &mut out)).1, long);
}

/// Reply addresses, and what they are in AMQP 0-10.
#[test]
fn replies_find_their_way() {
    let long = [b'/'; 200];
    for (exchange, key, address) in [
        ("", Some("queue"), "queue"),
        ("", Some(""), ""),
        ("", Some("a/b"), "a/b"),
        ("", Some("/exchanges/e"), "/queues/%2Fexchanges%2Fe"),
        ("", Some("/exchanges/e/k"), "/queues/%2Fexchanges%2Fe%2Fk"),
        ("", Some("/queues/%2Fexchanges%2Fe"), "/queues/%2Fqueues%2F%252Fexchanges%252Fe"),
        ("", Some("/queues/q"), "/queues/q"),
        ("", Some("/exchanges/"), "/exchanges/"),
        ("", Some("/exchanges/%2f"), "/exchanges/%2f"),
        ("", Some("/exchanges/a b"), "/exchanges/a b"),
        ("amq.direct", None, "/exchanges/amq.direct"),
        ("amq.direct", Some(""), "/exchanges/amq.direct/"),
        ("amq.direct", Some("k"), "/exchanges/amq.direct/k"),
        ("e/ü", Some("k/%"), "/exchanges/e%2F%C3%BC/k%2F%25"),
    ] {
        let parts = ReplyTo {
            exchange: Some(exchange.as_bytes()).filter(|exchange| !exchange.is_empty()),
            routing_key: key.map(str::as_bytes),
        };
        let message = MessageProperties { reply_to: Some(parts), ..Default::default() };
        let raw = of_0_10(DeliveryProperties::default(), message, &Table::default());
        let translated = to_0_9_1(&raw);
        assert_eq!(decoded_0_9_1(&translated).0.reply_to, Some(address.as_bytes()), "{address}");
        assert_eq!(decoded_0_10(&to_0_10(&translated)).1.reply_to, Some(parts), "{address}");
    }
    // One that is too long for the field.
    let parts = ReplyTo { exchange: Some(&long), routing_key: Some(&long) };
    let message = MessageProperties { reply_to: Some(parts), ..Default::default() };
    let translated = to_0_9_1(&of_0_10(DeliveryProperties::default(), message, &Table::default()));
    let (properties, headers) = decoded_0_9_1(&translated);
    assert_eq!((properties.reply_to, headers.0.len()), (None, 1));
    assert_eq!(decoded_0_10(&to_0_10(&translated)).1.reply_to, Some(parts));
    // One that says nothing is none.
    let message = MessageProperties { reply_to: Some(ReplyTo::default()), ..Default::default() };
    let translated = to_0_9_1(&of_0_10(DeliveryProperties::default(), message, &Table::default()));
    assert_eq!(decoded_0_9_1(&translated).0.reply_to, None);
}

fn name() -> impl Strategy<Value = Name> {
    "[a-zA-Z .ü-]{0,8}".prop_map(Name::from)
}

/// Values that both protocols have a type for, and keep: text is UTF-8, and fits 16 bits of length.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Void),
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        (-1e9..1e9f32).prop_map(Value::F32),
        (-1e9..1e9f64).prop_map(Value::F64),
        any::<(u8, i32)>().prop_map(|(scale, value)| Value::Decimal(scale, value)),
        any::<u64>().prop_map(Value::Timestamp),
        "\\PC{0,8}".prop_map(|text| Value::Text(text.into())),
        prop::collection::vec(any::<u8>(), 0..8).prop_map(|bytes| Value::Bytes(Name::from(&bytes[..]))),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::vec((name(), inner), 0..3).prop_map(|entries| Value::Table(Table(entries))),
        ]
    })
}

fn any_headers() -> impl Strategy<Value = Table> {
    prop::collection::vec((name(), any_value()), 0..5).prop_map(Table)
}

fn bytes(max: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..max))
}

/// Text like that of identifiers, UUIDs among it.
fn identifier() -> impl Strategy<Value = Option<String>> {
    let uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    prop::option::of(prop_oneof!["\\PC{0,40}", uuid, uuid.prop_map(|id: String| id.to_uppercase())])
}

/// Text like that of reply addresses.
fn address() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof!["\\PC{0,20}", "/(exchanges|queues)/[a-z/%20F]{0,12}"])
}

proptest! {
    #[test]
    fn messages_of_0_9_1_come_back(
        headers in any_headers(),
        texts in prop::collection::vec(bytes(255), 5),
        octets in any::<(Option<u8>, Option<u8>)>(),
        numbers in any::<(Option<u64>, Option<u64>)>(),
        message_id in identifier(),
        reply_to in address(),
        kind in prop::option::of("\\PC{0,20}"),
    ) {
        let text = |n: usize| texts[n].as_deref();
        let expiration = numbers.0.map(|ttl| ttl.to_string());
        let properties = amqp_0_9_1::Properties {
            content_type: text(0),
            content_encoding: text(1),
            headers: None,
            delivery_mode: octets.0,
            priority: octets.1,
            correlation_id: text(2),
            reply_to: reply_to.as_deref().map(str::as_bytes),
            expiration: expiration.as_deref().map(str::as_bytes),
            message_id: message_id.as_deref().map(str::as_bytes),
            timestamp: numbers.1,
            type_: kind.as_deref().map(str::as_bytes),
            // AMQP 0-10 clients send an empty one where they mean none.
            user_id: text(3).filter(|user| !user.is_empty()),
            app_id: text(4),
            cluster_id: kind.as_deref().map(str::as_bytes),
        };
        let raw = of_0_9_1(properties, &headers);
        let back = to_0_9_1(&to_0_10(&raw));
        prop_assert_eq!(decoded_0_9_1(&back), (properties, headers));
    }

    #[test]
    fn messages_of_0_10_come_back(
        headers in any_headers(),
        short in prop::collection::vec(bytes(255), 4),
        long in prop::collection::vec(bytes(600), 2),
        octets in any::<(Option<u8>, Option<u8>)>(),
        numbers in any::<[Option<u64>; 3]>(),
        message_id in any::<Option<[u8; 16]>>(),
        user_id in bytes(255),
    ) {
        let text = |n: usize| short[n].as_deref();
        let delivery = DeliveryProperties {
            priority: octets.0.map(DeliveryPriority::from_code),
            delivery_mode: octets.1.map(DeliveryMode::from_code),
            ttl: numbers[0],
            timestamp: numbers[1],
            expiration: numbers[2],
            exchange: Some(EXCHANGE),
            routing_key: Some(KEY),
            ..Default::default()
        };
        let reply_to = ReplyTo { exchange: text(2).filter(|text| !text.is_empty()), routing_key: text(3) };
        let message = MessageProperties {
            message_id,
            correlation_id: long[0].as_deref(),
            reply_to: Some(reply_to).filter(|parts| *parts != ReplyTo::default()),
            content_type: text(0),
            content_encoding: text(1),
            user_id: user_id.as_deref().filter(|user| !user.is_empty()),
            app_id: long[1].as_deref(),
            ..Default::default()
        };
        let raw = of_0_10(delivery, message, &headers);
        let back = to_0_10(&to_0_9_1(&raw));
        prop_assert_eq!(decoded_0_10(&back), (delivery, message, headers));
    }

    #[test]
    fn no_octets_make_a_translation_fail(
        header in prop::collection::vec(any::<u8>(), 0..60),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let message = MessageProperties { correlation_id: Some(b"c"), ..Default::default() };
        let mut raw = of_0_10(DeliveryProperties::default(), message, &table(&[("x-jms-type", text("t"))]));
        flips.iter().for_each(|(at, value)| *at.get_mut(&mut raw) = *value);
        for raw in [&header, &raw] {
            let (across_0_9_1, across_0_10) = (to_0_9_1(raw), to_0_10(raw));
            prop_assert!(amqp_0_9_1::scan(&across_0_9_1).is_ok());
            prop_assert!(amqp_0_10::scan(&across_0_10).is_ok());
        }
    }
}
