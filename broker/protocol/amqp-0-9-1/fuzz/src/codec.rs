//! The codec: whatever can be read can be written again and reads the same, and no bytes do harm.

use fulmar_amqp_0_9_1::codec::{
    ContentHeader, Frame, FrameKind, Method, Properties, TableRef, frame, properties, table,
};
use fulmar_core::{Name, Table, Value};

/// Reads `input` as frames, and as everything that a frame can carry.
pub fn run(input: &[u8]) {
    frames(input);
    method(input);
    content_header(input);
    property_list(input);
    field_table(TableRef::new(input));
}

fn frames(input: &[u8]) {
    let Some((&bound, mut rest)) = input.split_first() else { return };
    let frame_max = u32::from(bound) * 64;
    while let Ok(Some((frame, taken))) = frame::parse(rest, frame_max) {
        assert!(taken <= rest.len() && (frame_max == 0 || taken <= frame_max as usize));
        // A shorter input is never another frame and never an error.
        let cut = usize::from(bound) % taken;
        assert_eq!(frame::parse(&rest[..cut], frame_max), Ok(None));
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(again, rest[..taken]);
        match frame.kind {
            FrameKind::Method => method(frame.payload),
            FrameKind::Header => content_header(frame.payload),
            FrameKind::Body | FrameKind::Heartbeat => {}
        }
        rest = &rest[taken..];
    }
}

fn method(payload: &[u8]) {
    let Ok(method) = Method::decode(payload) else { return };
    let mut again = Vec::new();
    method.encode(7, &mut again);
    let Ok(Some((frame, taken))) = frame::parse(&again, 0) else {
        panic!("{method:?} is not written as a frame")
    };
    assert_eq!((frame.kind, frame.channel, taken), (FrameKind::Method, 7, again.len()));
    assert_eq!(Method::decode(frame.payload), Ok(method));
    if let Some(arguments) = tables_of(&method) {
        field_table(arguments);
    }
}

fn tables_of<'a>(method: &Method<'a>) -> Option<TableRef<'a>> {
    match *method {
        Method::ConnectionStartOk { client_properties, .. } => Some(client_properties),
        Method::QueueDeclare { arguments, .. }
        | Method::QueueBind { arguments, .. }
        | Method::QueueUnbind { arguments, .. }
        | Method::ExchangeDeclare { arguments, .. }
        | Method::ExchangeBind { arguments, .. }
        | Method::ExchangeUnbind { arguments, .. }
        | Method::BasicConsume { arguments, .. } => Some(arguments),
        _ => None,
    }
}

fn content_header(payload: &[u8]) {
    let Ok(header) = ContentHeader::parse(payload) else { return };
    let mut again = Vec::new();
    header.encode(7, &mut again);
    let Ok(Some((frame, _))) = frame::parse(&again, 0) else {
        panic!("{header:?} is not written as a frame")
    };
    assert_eq!(ContentHeader::parse(frame.payload), Ok(header));
    property_list(header.properties);
}

fn property_list(raw: &[u8]) {
    let decoded = Properties::decode(raw);
    let scanned = properties::scan(raw);
    let Ok(decoded) = decoded else {
        assert!(scanned.is_err(), "scan takes what decode refuses");
        return;
    };
    let mut again = Vec::new();
    decoded.encode(&mut again);
    assert_eq!(Properties::decode(&again), Ok(decoded));
    let headers = decoded.headers.unwrap_or(TableRef::EMPTY);
    assert_eq!(scanned.is_ok(), headers.validate().is_ok(), "scan differs from decode");
    if let Ok(scan) = scanned {
        assert_eq!(scan.priority, decoded.priority);
        assert_eq!(scan.delivery_mode, decoded.delivery_mode);
        assert_eq!(scan.expiration, decoded.expiration);
        assert_eq!(scan.reply_to, decoded.reply_to);
        assert_eq!(scan.user_id, decoded.user_id);
        let _ = scan.ttl_ms();
    }
    field_table(headers);
}

fn field_table(raw: TableRef<'_>) {
    let whole = raw.to_table();
    assert_eq!(raw.validate().err(), whole.as_ref().err().copied(), "validate differs from to_table");
    let Ok(whole) = whole else { return };
    // Not-a-number differs from itself, its bytes do not.
    let once = encoded(&whole);
    let Ok(again) = TableRef::new(&once).to_table() else { panic!("{whole:?} is not written as a table") };
    assert_eq!(encoded(&again), once);
    for (name, _) in whole.0.iter().take(4) {
        let Ok(Some(value)) = raw.get(name.as_bytes()) else { panic!("{name} is not found") };
        let first = whole.get(name.as_bytes()).cloned();
        assert_eq!(encoded_value(Some(value)), encoded_value(first));
    }
}

fn encoded(table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    table::encode_table(table, &mut out);
    out
}

fn encoded_value(value: Option<Value>) -> Vec<u8> {
    encoded(&Table(value.map(|value| (Name::from("v"), value)).into_iter().collect()))
}

/// A method of each kind that a client sends, content with all properties, a table with every type.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let everything = encoded(&Table(vec![
        (Name::from("void"), Value::Void),
        (Name::from("bool"), Value::Bool(true)),
        (Name::from("i8"), Value::I8(-1)),
        (Name::from("u8"), Value::U8(1)),
        (Name::from("i16"), Value::I16(-2)),
        (Name::from("u16"), Value::U16(2)),
        (Name::from("i32"), Value::I32(-3)),
        (Name::from("u32"), Value::U32(3)),
        (Name::from("i64"), Value::I64(-4)),
        (Name::from("f32"), Value::F32(0.5)),
        (Name::from("f64"), Value::F64(f64::NAN)),
        (Name::from("decimal"), Value::Decimal(2, 314)),
        (Name::from("text"), Value::Text(Name::from("text"))),
        (Name::from("bytes"), Value::Bytes(Name::from(&b"\0\xff"[..]))),
        (Name::from("time"), Value::Timestamp(1_700_000_000)),
        (Name::from("array"), Value::Array(vec![Value::Void, Value::Array(vec![Value::Bool(false)])])),
        (
            Name::from("table"),
            Value::Table(Table(vec![(Name::from("deep"), Value::Table(Table::default()))])),
        ),
    ]));
    let arguments = TableRef::new(&everything);
    let methods = crate::client_methods(arguments);
    let mut seeds = vec![("table".to_owned(), everything.clone())];
    for method in &methods {
        let mut bytes = vec![0];
        method.encode(1, &mut bytes);
        seeds.push((method.name().to_owned(), bytes));
    }
    let mut raw = Vec::new();
    all_properties(arguments).encode(&mut raw);
    let mut content = vec![0];
    frame::encode_content(1, &raw, b"a body that needs two frames", 32, &mut content);
    Frame { kind: FrameKind::Heartbeat, channel: 0, payload: &[] }.encode(&mut content);
    seeds.push(("properties".to_owned(), raw));
    seeds.push(("content".to_owned(), content));
    seeds
}

fn all_properties(headers: TableRef<'_>) -> Properties<'_> {
    Properties {
        content_type: Some(b"text/plain"),
        content_encoding: Some(b"utf-8"),
        headers: Some(headers),
        delivery_mode: Some(2),
        priority: Some(5),
        correlation_id: Some(b"c"),
        reply_to: Some(b"amq.rabbitmq.reply-to"),
        expiration: Some(b"60000"),
        message_id: Some(b"m"),
        timestamp: Some(1_700_000_000),
        type_: Some(b"t"),
        user_id: Some(b"guest"),
        app_id: Some(b"a"),
        cluster_id: Some(b""),
    }
}
