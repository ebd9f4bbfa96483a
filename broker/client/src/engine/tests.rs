//! An engine must stand whatever a peer sends, in whatever pieces.

use std::time::Instant;

use fulmar_amqp_0_9_1::codec::frame::encode_content;
use fulmar_amqp_0_9_1::codec::{Frame, FrameKind, Method, TableRef};
use proptest::prelude::*;

use super::{Engine, Event};
use crate::request::{ConsumeOptions, Request};
use crate::{Error, Options, Protocol};

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

fn new_engine(protocol: Protocol) -> Box<dyn Engine> {
    super::engine(&Options { protocol, ..Options::default() }, Instant::now())
}

fn open_engine() -> Box<dyn Engine> {
    let mut engine = new_engine(Protocol::Amqp091);
    let mut events = Vec::new();
    engine.receive(&greeting(), Instant::now(), &mut events).unwrap();
    assert!(matches!(events[..], [Event::Connected]));
    for channel in 1..=3 {
        engine.request(channel, &Request::OpenChannel).unwrap();
    }
    engine
}

/// The same of AMQP 0-10, with two requests on the first channel.
fn open_engine_0_10() -> Box<dyn Engine> {
    let mut engine = new_engine(Protocol::Amqp010);
    let mut events = Vec::new();
    engine.receive(&conversation_0_10::greeting(), Instant::now(), &mut events).unwrap();
    assert!(matches!(events[..], [Event::Connected]));
    for channel in 1..=3 {
        engine.request(channel, &Request::OpenChannel).unwrap();
    }
    engine.receive(&conversation_0_10::attached(), Instant::now(), &mut events).unwrap();
    assert_eq!(events.len(), 4);
    let options = ConsumeOptions { consumer_tag: "c".into(), ..Default::default() };
    engine.request(1, &Request::Consume { queue: "q".into(), options }).unwrap();
    engine.request(1, &Request::QueryQueue { queue: "q".into() }).unwrap();
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
fn feed(engine: &mut dyn Engine, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Event>, Error> {
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

mod conversation_0_10 {
    use fulmar_amqp_0_10::codec::frame::Flags;
    use fulmar_amqp_0_10::codec::sequence::encode_sequence_set;
    use fulmar_amqp_0_10::codec::table::*;
    use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
    use fulmar_amqp_0_10::codec::value::encode_array;
    use fulmar_amqp_0_10::codec::{
        ArrayRef, Command, Control, Frame, ProtocolHeader, SequenceNo, SequenceSet, StructRef, Value,
    };
    use proptest::prelude::*;

    fn control<'a>(channel: u16, control: impl Into<Control<'a>>, out: &mut Vec<u8>) {
        control.into().encode_frames(channel, 4096, out);
    }

    fn command<'a>(channel: u16, command: impl Into<Command<'a>>, out: &mut Vec<u8>) {
        command.into().encode_frames(SessionHeader { sync: true }, channel, 4096, out);
    }

    pub(super) fn greeting() -> Vec<u8> {
        let mut out = ProtocolHeader::AMQP_0_10.to_bytes().to_vec();
        let mut mechanisms = Vec::new();
        encode_array(code::STR16, [Value::Str16(b"PLAIN")], &mut mechanisms);
        let mechanisms = Some(ArrayRef::new(&mechanisms));
        control(0, ConnectionStart { mechanisms, ..Default::default() }, &mut out);
        control(0, ConnectionTune { channel_max: Some(9), ..Default::default() }, &mut out);
        control(0, ConnectionOpenOk::default(), &mut out);
        out
    }

    pub(super) fn attached() -> Vec<u8> {
        let mut out = Vec::new();
        for channel in 1..=3 {
            control(channel, SessionAttached { name: Some(b"n") }, &mut out);
        }
        out
    }

    /// The answers to both requests, deliveries, a refusal.
    pub(super) fn conversation() -> Vec<u8> {
        let mut out = Vec::new();
        let mut set = Vec::new();
        encode_sequence_set([(SequenceNo(0), SequenceNo(4))], &mut set);
        let commands = Some(SequenceSet::new(&set).unwrap());
        control(1, SessionCompleted { commands, timely_reply: true }, &mut out);
        let mut header = Vec::new();
        DeliveryProperties { routing_key: Some(b"key"), ..Default::default() }.encode(&mut header);
        let transfer =
            Transfer { destination: b"c", header: &header, body: &[7; 100], ..Transfer::default() };
        transfer::encode(&transfer, 1, 40, &mut out);
        let mut result = Vec::new();
        QueueQueryResult { message_count: Some(3), ..Default::default() }.encode(&mut result);
        let value = Some(StructRef::new(&result[4..]));
        command(1, ExecutionResult { command_id: Some(SequenceNo(4)), value }, &mut out);
        command(
            2,
            ExecutionException { error_code: Some(ErrorCode::NotFound), ..Default::default() },
            &mut out,
        );
        control(2, SessionDetach { name: Some(b"n") }, &mut out);
        control(3, SessionDetached { name: Some(b"n"), code: Some(DetachCode::SessionBusy) }, &mut out);
        out
    }

    pub(super) fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![3 => Just(0u8), 4 => Just(1), 2 => Just(2), 2 => Just(3)];
        let payload = (0..9u8, 0..14u8, prop::collection::vec(0..6u8, 0..24));
        (kind, 0..16u8, 0..5u16, payload).prop_map(|(kind, flags, channel, (class, code, rest))| {
            let kind = SegmentType::from_code(kind);
            let track = if kind == SegmentType::Control { Track::Control } else { Track::Command };
            let payload = [&[class, code][..], &rest].concat();
            let mut out = Vec::new();
            Frame { flags: Flags::WHOLE, kind, track, channel, payload: &payload }.encode(&mut out);
            // Mostly whole, as nothing else gets far.
            if flags != 0 && kind != SegmentType::Control {
                out[0] = if flags < 6 { flags } else { [11, 3, 7][usize::from(flags) % 3] };
            }
            out
        })
    }
}

proptest! {
    #[test]
    fn frames_may_be_cut_anywhere(cuts in prop::collection::vec(0..40usize, 0..60)) {
        let whole = feed(&mut *open_engine(), &conversation(), &[]).unwrap();
        let cut = feed(&mut *open_engine(), &conversation(), &cuts).unwrap();
        prop_assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
        prop_assert_eq!(whole.len(), 6);
    }

    #[test]
    fn frames_of_amqp_0_10_may_be_cut_anywhere(cuts in prop::collection::vec(0..40usize, 0..60)) {
        let conversation = conversation_0_10::conversation();
        let whole = feed(&mut *open_engine_0_10(), &conversation, &[]).unwrap();
        let cut = feed(&mut *open_engine_0_10(), &conversation, &cuts).unwrap();
        prop_assert_eq!(format!("{whole:?}"), format!("{cut:?}"));
        prop_assert_eq!(whole.len(), 5);
    }

    #[test]
    fn any_frames_of_amqp_0_10_are_events_or_an_error(
        frames in prop::collection::vec(conversation_0_10::any_frame(), 0..12),
    ) {
        let mut engine = open_engine_0_10();
        let mut events = Vec::new();
        let taken = engine.receive(&frames.concat(), Instant::now(), &mut events);
        prop_assert!(taken.is_err() || engine.take_output(Vec::new(), Instant::now()).len() < 1 << 20);
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
        let engines = [
            open_engine(),
            open_engine_0_10(),
            new_engine(Protocol::Amqp091),
            new_engine(Protocol::Amqp010),
        ];
        for mut engine in engines {
            let mut events = Vec::new();
            if let Ok(taken) = engine.receive(&bytes, Instant::now(), &mut events) {
                prop_assert!(taken <= bytes.len());
            }
        }
    }
}
