//! An engine must stand whatever a peer sends, in whatever pieces.

use std::time::Instant;

use fulmar_amqp_0_9_1::codec::frame::encode_content;
use fulmar_amqp_0_9_1::codec::{Frame, FrameKind, Method, TableRef};
use proptest::prelude::*;

use super::Event;
use super::amqp_0_9_1::Engine;
use crate::request::Request;
use crate::{Error, Options};

/// What a broker sends to let a client in.
fn greeting() -> Vec<u8> {
    let mut out = Vec::new();
    let start = Method::ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: TableRef::EMPTY,
        mechanisms: b"PLAIN",
        locales: b"en_US",
    };
    start.encode(0, &mut out);
    Method::ConnectionTune { channel_max: 10, frame_max: 4096, heartbeat: 0 }.encode(0, &mut out);
    Method::ConnectionOpenOk.encode(0, &mut out);
    out
}

fn open_engine() -> Engine {
    let mut engine = Engine::new(Options::default(), Instant::now());
    let mut events = Vec::new();
    engine.receive(&greeting(), Instant::now(), &mut events).unwrap();
    assert!(matches!(events[..], [Event::Connected]));
    for channel in 1..=3 {
        engine.request(channel, &Request::OpenChannel);
    }
    engine
}

/// A conversation on two channels.
fn conversation() -> Vec<u8> {
    let mut out = Vec::new();
    let deliver = |delivery_tag| Method::BasicDeliver {
        consumer_tag: b"c",
        delivery_tag,
        redelivered: false,
        exchange: b"x",
        routing_key: b"k",
    };
    deliver(1).encode(1, &mut out);
    encode_content(1, &[0, 0], &[7; 40], 20, &mut out);
    Method::QueueDeclareOk { queue: b"q", message_count: 1, consumer_count: 2 }.encode(2, &mut out);
    deliver(2).encode(2, &mut out);
    encode_content(2, &[0, 0], b"", 0, &mut out);
    Method::BasicAck { delivery_tag: 1, multiple: true }.encode(1, &mut out);
    let close = Method::ChannelClose { reply_code: 404, reply_text: b"", class_id: 0, method_id: 0 };
    close.encode(2, &mut out);
    Method::ConnectionBlocked { reason: b"r" }.encode(0, &mut out);
    out
}

/// Gives `bytes` in pieces, the rest of each again with the next one, as a reader of a socket does.
fn feed(engine: &mut Engine, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    let mut buffer = Vec::new();
    let mut rest = bytes;
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        buffer.extend_from_slice(piece);
        let taken = engine.receive(&buffer, Instant::now(), &mut events)?;
        buffer.drain(..taken);
    }
    assert!(buffer.is_empty());
    Ok(events)
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        4 => Just(FrameKind::Method),
        2 => Just(FrameKind::Header),
        2 => Just(FrameKind::Body),
        1 => Just(FrameKind::Heartbeat),
    ];
    let class = prop_oneof![Just(10u8), Just(20), Just(40), Just(50), Just(60), Just(85), Just(90)];
    let payload =
        (class, 0..130u8, prop::collection::vec(0..6u8, 0..24)).prop_map(|(class, method, rest)| {
            let mut payload = vec![0, class, 0, method];
            payload.extend(rest);
            payload
        });
    (kind, 0..5u16, payload).prop_map(|(kind, channel, payload)| {
        let mut out = Vec::new();
        Frame { kind, channel, payload: &payload }.encode(&mut out);
        out
    })
}

proptest! {
    #[test]
    fn frames_may_be_cut_anywhere(cuts in prop::collection::vec(0..40usize, 0..60)) {
        let whole = feed(&mut open_engine(), &conversation(), &[]).unwrap();
        let cut = feed(&mut open_engine(), &conversation(), &cuts).unwrap();
        prop_assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
        prop_assert_eq!(whole.len(), 6);
    }

    #[test]
    fn any_frames_are_events_or_an_error(frames in prop::collection::vec(any_frame(), 0..12)) {
        let mut engine = open_engine();
        let mut events = Vec::new();
        if engine.receive(&frames.concat(), Instant::now(), &mut events).is_err() {
            return Ok(());
        }
        prop_assert!(events.len() <= frames.len());
    }

    #[test]
    fn any_bytes_are_events_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for mut engine in [open_engine(), Engine::new(Options::default(), Instant::now())] {
            let mut events = Vec::new();
            if let Ok(taken) = engine.receive(&bytes, Instant::now(), &mut events) {
                prop_assert!(taken <= bytes.len());
            }
        }
    }
}
