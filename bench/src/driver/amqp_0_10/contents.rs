//! What a publisher writes: whole transfers, of which only the stamp and the correlation id change.

use fulmar_amqp_0_10::codec::frame::{self, HEAD_BYTES};
use fulmar_amqp_0_10::codec::table::{
    AcceptMode, DeliveryMode, DeliveryProperties, MessageProperties, ReplyTo, SegmentType,
};
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::value::encode_map;
use fulmar_amqp_0_10::codec::{MapRef, Value};

use super::CHANNEL;
use crate::driver::amqp::batch::{CORRELATION_ID_BYTES, Content, Contents};
use crate::plan::Plan;
use crate::stamp::STAMP_BYTES;
use crate::workload::ExchangeKind;

/// Of the `publisher`th publisher of a plan.
pub fn of_plan(plan: &Plan, publisher: usize, frame_max: u16) -> Contents {
    let workload = &plan.workload;
    let keys = plan.routes.keys(publisher);
    let by_header = workload.exchange.kind == ExchangeKind::Headers;
    Contents::of_whole(workload, publisher, keys.len(), |key, size| {
        let key = &keys[key];
        let headers = if by_header { header_map(key, false) } else { Vec::new() };
        let header = Header {
            routing_key: key.as_bytes(),
            persistent: workload.persistent,
            reply_to: plan.reply_queue(publisher).map(str::as_bytes),
            headers: by_header.then_some(MapRef::new(&headers)),
        };
        content(plan.routes.exchange.as_bytes(), &header, size, frame_max)
    })
}

/// What the header of a message says.
struct Header<'a> {
    routing_key: &'a [u8],
    persistent: bool,
    /// With a correlation id.
    reply_to: Option<&'a [u8]>,
    headers: Option<MapRef<'a>>,
}

fn content(exchange: &[u8], header: &Header<'_>, size: usize, frame_max: u16) -> Content {
    assert!(size >= STAMP_BYTES, "a body without room for a stamp");
    let mut structs = Vec::new();
    DeliveryProperties {
        routing_key: Some(header.routing_key),
        delivery_mode: header.persistent.then_some(DeliveryMode::Persistent),
        ..DeliveryProperties::default()
    }
    .encode(&mut structs);
    let properties = MessageProperties {
        correlation_id: header.reply_to.map(|_| &[b'0'; CORRELATION_ID_BYTES] as &[u8]),
        reply_to: header.reply_to.map(|queue| ReplyTo { exchange: None, routing_key: Some(queue) }),
        application_headers: header.headers,
        ..MessageProperties::default()
    };
    if properties != MessageProperties::default() {
        properties.encode(&mut structs);
    }
    let transfer = Transfer {
        destination: exchange,
        accept_mode: AcceptMode::None,
        header: &structs,
        body: &vec![b'x'; size],
        ..Transfer::default()
    };
    let mut frames = Vec::new();
    transfer::encode(&transfer, CHANNEL, frame_max, &mut frames);
    let body = body_start(&frames);
    let correlation = header.reply_to.map(|_| {
        let find = frames[..body].windows(CORRELATION_ID_BYTES).position(|window| window == [b'0'; 16]);
        find.expect("it was encoded just now")
    });
    Content::at(frames, body, correlation)
}

/// Where the body begins in the frames of a transfer.
fn body_start(frames: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(Some((frame, taken))) = frame::parse(&frames[at..], 0) {
        if frame.kind == SegmentType::Body {
            return at + HEAD_BYTES;
        }
        at += taken;
    }
    unreachable!("it was encoded with a body")
}

/// An encoded map that names a key; for a binding that says that all of it must match.
pub fn header_map(key: &str, for_binding: bool) -> Vec<u8> {
    let entry = (&b"key"[..], Value::Str16(key.as_bytes()));
    let matching = (&b"x-match"[..], Value::Str16(b"all"));
    let mut map = Vec::new();
    encode_map([entry].into_iter().chain(for_binding.then_some(matching)), &mut map);
    map
}

#[cfg(test)]
mod tests {
    use fulmar_amqp_0_10::codec::segment::{Assembler, Limits, Piece};
    use fulmar_amqp_0_10::codec::table::Track;
    use fulmar_amqp_0_10::codec::{Command, ContentHeader};

    use super::*;
    use crate::driver::amqp::batch::{Batch, correlation_id};
    use crate::stamp::Stamp;
    use crate::workload::Workload;

    /// Destination, routing key, correlation id and stamp of each message.
    type Read = (Vec<u8>, Vec<u8>, Option<Vec<u8>>, u64, usize);

    fn read(bytes: &[u8]) -> Vec<Read> {
        let limits = Limits { segment_bytes: 1 << 16, body_bytes: 1 << 24 };
        let mut assembler = Assembler::new(Track::Command, limits);
        let (mut at, mut messages) = (0, Vec::<Read>::new());
        let mut body = Vec::new();
        while let Some((frame, taken)) = frame::parse(&bytes[at..], 4096).unwrap() {
            at += taken;
            match assembler.push(&frame).unwrap() {
                Some(Piece::Segment { kind: SegmentType::Command, payload, .. }) => {
                    let (Command::MessageTransfer(transfer), _) = Command::decode(payload).unwrap() else {
                        panic!("no transfer")
                    };
                    assert_eq!(transfer.accept_mode, Some(AcceptMode::None));
                    messages.push((transfer.destination.unwrap_or_default().into(), vec![], None, 0, 0));
                }
                Some(Piece::Segment { payload, .. }) => {
                    let header = ContentHeader::parse(payload).unwrap();
                    let last = messages.last_mut().unwrap();
                    last.1 = header.delivery_properties().unwrap().routing_key.unwrap().into();
                    last.2 = header.message_properties().unwrap().correlation_id.map(Into::into);
                    body.clear();
                }
                Some(Piece::Body { payload, is_last }) => {
                    body.extend_from_slice(payload);
                    if is_last {
                        let last = messages.last_mut().unwrap();
                        last.3 = Stamp::from_bytes(body.first_chunk().unwrap()).sequence;
                        last.4 = body.len();
                    }
                }
                None => {}
            }
        }
        assert_eq!(at, bytes.len());
        messages
    }

    fn batch(text: &str, count: u64) -> Vec<Read> {
        let plan = Plan::new(Workload::from_toml(text).unwrap(), "run".into());
        let mut batch = Batch::new(of_plan(&plan, 0, 4096));
        for sequence in 0..count {
            batch.put(Stamp { publisher: 3, sequence, due_ns: 0, sent_ns: 0 });
        }
        read(batch.bytes())
    }

    #[test]
    fn messages_are_whole_transfers_with_their_stamps() {
        for size in [64, 10_000] {
            let messages = batch(&format!("size = {size}"), 3);
            let expected = (0..3).map(|sequence| (sequence, size));
            assert!(messages.iter().map(|message| (message.3, message.4)).eq(expected));
            assert!(messages.iter().all(|message| message.0.is_empty() && message.1.starts_with(b"run")));
        }
    }

    #[test]
    fn keys_are_used_in_turn_and_sizes_as_often_as_they_weigh() {
        let text = "size = [{ size = 24, weight = 3 }, { size = 48, weight = 1 }]\n\
                    [exchange]\ntype = 'direct'\nkeys = 3\nbindings = 3\nkey = 'k{n}'\nbinding = 'k{n}'";
        let messages = batch(text, 400);
        for (message, key) in messages.iter().zip([b"k0", b"k1", b"k2", b"k0", b"k1"]) {
            assert_eq!((&message.1[..], message.0.is_empty()), (&key[..], false));
        }
        let large = messages.iter().filter(|message| message.4 == 48).count();
        assert!((60..140).contains(&large), "{large} of 400 are large");
    }

    #[test]
    fn requests_have_correlation_ids_of_their_own() {
        let messages = batch("pattern = 'request-reply'", 20);
        for (sequence, message) in (0..).zip(&messages) {
            let id = correlation_id(Stamp { publisher: 3, sequence, due_ns: 0, sent_ns: 0 });
            assert_eq!(message.2.as_deref(), Some(&id[..]));
        }
    }
}
