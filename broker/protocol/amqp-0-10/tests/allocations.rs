//! What runs per message allocates nothing: a transfer is parsed, looked into and written, and the commands that go
//! with it, counted by the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use fulmar_amqp_0_10::codec::segment::Limits;
use fulmar_amqp_0_10::codec::table::{
    DeliveryMode, DeliveryProperties, MessageAccept, MessageFlow, MessageProperties, ReplyTo,
    SessionCompleted, SessionHeader, Track,
};
use fulmar_amqp_0_10::codec::transfer::{self, Transfer};
use fulmar_amqp_0_10::codec::{
    Assembler, Command, ContentHeader, Control, MapRef, Piece, SequenceNo, SequenceSet, Value, frame,
    sequence, value,
};
use fulmar_amqp_0_10::properties::{self, Delivery, ENCODING};

use fulmar_core::{Encoding, MessageView, Selector};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

const FRAME_MAX: u16 = 4096;
const MESSAGES: usize = 100;

/// What a receiver does with the frames of a transfer: everything that a broker needs to know of it.
fn receive(assembler: &mut Assembler, mut input: &[u8]) -> usize {
    let mut seen = 0;
    while let Some((frame, taken)) = frame::parse(input, FRAME_MAX).unwrap() {
        input = &input[taken..];
        match assembler.push(&frame).unwrap() {
            Some(Piece::Segment { payload, kind, .. }) if kind.code() == 1 => {
                let (command, header) = Command::decode(payload).unwrap();
                assert!(matches!(command, Command::MessageTransfer(_)) && header.sync);
            }
            Some(Piece::Segment { payload, .. }) => {
                let header = ContentHeader::parse(payload).unwrap();
                assert_eq!(header.delivery_properties().unwrap().ttl, Some(7));
                let message = header.message_properties().unwrap();
                let headers = message.application_headers.unwrap();
                headers.validate().unwrap();
                assert_eq!(headers.get(b"colour"), Ok(Some(Value::Str16(b"red"))));
            }
            Some(Piece::Body { payload, .. }) => seen += payload.len(),
            None => {}
        }
    }
    assert!(input.is_empty() && assembler.is_idle());
    seen
}

fn content_header() -> Vec<u8> {
    let mut headers = Vec::new();
    value::encode_map([(&b"n"[..], Value::Int64(1)), (b"colour", Value::Str16(b"red"))], &mut headers);
    let mut out = Vec::new();
    let delivery = DeliveryProperties {
        delivery_mode: Some(DeliveryMode::Persistent),
        ttl: Some(7),
        routing_key: Some(b"key"),
        ..Default::default()
    };
    delivery.encode(&mut out);
    let message = MessageProperties {
        content_length: Some(10_000),
        reply_to: Some(ReplyTo { exchange: None, routing_key: Some(b"replies") }),
        application_headers: Some(MapRef::new(&headers)),
        ..Default::default()
    };
    message.encode(&mut out);
    out
}

#[test]
fn a_transfer_is_read_and_written_without_allocating() {
    let (header, body) = (content_header(), [b'x'; 10_000]);
    let transfer = Transfer {
        destination: b"amq.topic",
        sync: true,
        header: &header,
        body: &body,
        ..Default::default()
    };
    let mut out = Vec::with_capacity(64 << 10);
    let written = allocations(|| {
        for _ in 0..MESSAGES {
            out.clear();
            transfer::encode(&transfer, 1, FRAME_MAX, &mut out);
        }
    });
    assert_eq!(written, 0, "allocations in {MESSAGES} transfers written");

    let mut assembler = Assembler::new(Track::Command, Limits { segment_bytes: 4096, body_bytes: 1 << 20 });
    let read = allocations(|| {
        for _ in 0..MESSAGES {
            assert_eq!(receive(&mut assembler, &out), body.len());
        }
    });
    assert_eq!(read, 0, "allocations in {MESSAGES} transfers read");
}

#[test]
fn properties_and_what_settles_messages_are_written_without_allocating() {
    let mut ranges = Vec::new();
    sequence::encode_sequence_set([(SequenceNo(1), SequenceNo(9))], &mut ranges);
    let set = SequenceSet::new(&ranges).unwrap();
    let mut out = Vec::with_capacity(64 << 10);
    let counted = allocations(|| {
        for _ in 0..MESSAGES {
            out.clear();
            let delivery =
                DeliveryProperties { redelivered: true, exchange: Some(b"x"), ..Default::default() };
            delivery.encode(&mut out);
            out.clear();
            let header = SessionHeader::default();
            Command::from(MessageAccept { transfers: Some(set) })
                .encode_frames(header, 1, FRAME_MAX, &mut out);
            let flow = MessageFlow { destination: Some(b"d"), value: Some(10), ..Default::default() };
            Command::from(flow).encode_frames(header, 1, FRAME_MAX, &mut out);
            let completed = SessionCompleted { commands: Some(set), timely_reply: false };
            Control::from(completed).encode_frames(1, FRAME_MAX, &mut out);
            let mut input = &out[..];
            while let Some((frame, taken)) = frame::parse(input, FRAME_MAX).unwrap() {
                input = &input[taken..];
                match frame.track {
                    Track::Control => drop(Control::decode(frame.payload).unwrap()),
                    _ => drop(Command::decode(frame.payload).unwrap()),
                }
            }
        }
    });
    assert_eq!(counted, 0, "allocations in {MESSAGES} rounds");
}

#[test]
fn a_message_of_this_protocol_is_stored_looked_into_and_delivered_without_allocating() {
    let header = content_header();
    let (mut stored, mut out) = (Vec::with_capacity(4096), Vec::with_capacity(4096));
    let selector = Selector::parse(
        "colour LIKE 'r%' AND n BETWEEN 1 AND 2 AND JMSReplyTo IN ('other', 'replies') AND NOT amqp.redelivered",
    )
    .unwrap();
    let counted = allocations(|| {
        for n in 0..MESSAGES as u64 {
            let scan = properties::scan(&header).unwrap();
            stored.clear();
            properties::store(&header, &scan, b"amq.topic", Some(n), &mut stored);
            let told = scan.message_header(b"amq.topic", &stored, 0);
            assert!(told.persistent && told.has_headers);
            let message = MessageView {
                encoding: &ENCODING,
                exchange: b"amq.topic",
                routing_key: scan.routing_key(),
                properties: &stored,
                body: b"",
            };
            assert!(selector.matches(&message));
            assert_eq!(ENCODING.properties(&stored).timestamp_s, Some(n));
            out.clear();
            properties::write_header(&message, &Delivery::default(), &mut out);
            assert_eq!(out, stored);
            out.clear();
            properties::write_header(
                &message,
                &Delivery { redelivered: true, ttl_left_ms: Some(1) },
                &mut out,
            );
            assert_eq!(out.len(), stored.len());
        }
    });
    assert_eq!(counted, 0, "allocations in {MESSAGES} messages");
}
