use fulmar_core::journal::StoredMessage;
use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::{Encoding, Table, Value};
use proptest::prelude::*;

use super::*;

struct Named(&'static str);

impl Encoding for Named {
    fn name(&self) -> &'static str {
        self.0
    }
    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }
    fn headers(&self, _: &[u8]) -> Table {
        Table::default()
    }
    fn scalar<'a>(&self, _: &'a [u8], _: &[u8]) -> Option<Scalar<'a>> {
        None
    }
    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }
    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

static ONE: Named = Named("one");
static TWO: Named = Named("two");

fn encodings() -> Encodings {
    Encodings::new(&[&ONE, &TWO])
}

fn encoded(payload: &Payload<'_>, joined: Joined, segment: u64) -> Vec<u8> {
    let mut bytes = vec![0xff; payload.record_bytes()];
    payload.encode(&mut bytes, joined, segment, &encodings());
    bytes
}

fn place() -> impl Strategy<Value = QueuePlace> {
    (any::<u64>(), 0..u64::MAX / 2, any::<u64>(), any::<u8>(), any::<u32>(), any::<bool>()).prop_map(
        |(queue, place, expires_ms, priority, counted_bytes, redelivered)| QueuePlace {
            queue: StoreKey(queue),
            place,
            expires_ms,
            priority,
            counted_bytes,
            redelivered,
        },
    )
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #[test]
    fn a_message_comes_back_as_it_was_written(
        places in proptest::collection::vec(place(), 1..5),
        (exchange, routing_key, properties, bodies) in (bytes(40), bytes(40), bytes(200), bytes(500)),
        batch in any::<bool>(),
        ttl_ms in any::<Option<u64>>(),
        (priority, has_headers, persistent, other) in any::<(u8, bool, bool, bool)>(),
        (segment, joined) in any::<(u32, bool)>(),
    ) {
        let messages = if batch && !bodies.is_empty() { bodies.len() as u16 } else { 1 };
        let encoding: &'static dyn Encoding = if other { &TWO } else { &ONE };
        let message = StoredMessage {
            encoding, exchange: &exchange, routing_key: &routing_key, properties: &properties, bodies: &bodies,
            messages, ttl_ms, priority, has_headers, persistent,
        };
        let record = Record::Enqueued { message, places: &places };
        let joined = if joined { Joined::ToNext } else { Joined::No };
        let bytes = encoded(&Payload::of(&record, &encodings()), joined, segment.into());
        let framed = Framed::decode(&bytes, segment.into()).unwrap();
        prop_assert_eq!(framed.total_bytes(), bytes.len());
        prop_assert_eq!(framed.joined, joined);
        let Ok(Decoded::Enqueued(read)) = framed.record(&encodings()) else { panic!("no message") };
        prop_assert_eq!(read.places.iter().collect::<Vec<_>>(), places);
        let back = read.message;
        prop_assert_eq!(back.encoding.name(), encoding.name());
        prop_assert_eq!(
            (back.exchange, back.routing_key, back.properties, back.bodies),
            (&exchange[..], &routing_key[..], &properties[..], &bodies[..])
        );
        prop_assert_eq!(
            (back.messages, back.ttl_ms, back.priority, back.has_headers, back.persistent),
            (messages, ttl_ms, priority, has_headers, persistent)
        );
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(at in 0_usize..40, change in 1_u8..) {
        let mut bytes = encoded(&Payload::Numbers(Kind::Dequeued, [1, 2, 3], 3), Joined::No, 5);
        bytes[at] ^= change;
        prop_assert!(Framed::decode(&bytes, 5).is_err());
    }

    #[test]
    fn any_bytes_can_be_decoded(mut bytes in bytes(300), kind in 0_u8..10) {
        let _ = Framed::decode(&bytes, 0).map(|framed| framed.record(&encodings()).is_ok());
        if bytes.len() >= HEADER_BYTES {
            // With a header that is right the payload may still be anything.
            let length = (bytes.len() - HEADER_BYTES) as u32;
            bytes[4..8].copy_from_slice(&length.to_le_bytes());
            bytes[8] = kind;
            bytes[12..16].fill(0);
            let crc = checksum(&bytes[4..], 0);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            let _ = Framed::decode(&bytes, 0).map(|framed| framed.record(&encodings()).is_ok());
        }
    }
}

#[test]
fn what_another_segment_held_is_no_record() {
    let bytes = encoded(&Payload::Numbers(Kind::HandedOut, [1, 2, 0], 2), Joined::No, 5);
    assert_eq!(Framed::decode(&bytes, 6).unwrap_err(), Invalid::Segment);
    // Not even with the right number written over it.
    let mut bytes = bytes;
    bytes[12] = 6;
    assert_eq!(Framed::decode(&bytes, 6).unwrap_err(), Invalid::Checksum);
}

#[test]
fn numbers_come_back() {
    let bytes = encoded(
        &Payload::of(&Record::HandedOut { queue: StoreKey(3), below: 9 }, &encodings()),
        Joined::No,
        1,
    );
    let record = Framed::decode(&bytes, 1).unwrap().record(&encodings()).unwrap();
    assert!(matches!(record, Decoded::HandedOut { queue: StoreKey(3), below: 9 }));
    let dequeued = Record::Dequeued { queue: StoreKey(1), first: 2, count: 3 };
    let bytes = encoded(&Payload::of(&dequeued, &encodings()), Joined::No, 1);
    let record = Framed::decode(&bytes, 1).unwrap().record(&encodings()).unwrap();
    assert!(matches!(record, Decoded::Dequeued { queue: StoreKey(1), first: 2, count: 3 }));
}

#[test]
fn zeros_are_no_record_and_the_end_is_seen() {
    assert_eq!(Framed::decode(&[0; 64], 1).unwrap_err(), Invalid::Empty);
    assert_eq!(Framed::decode(&[1; 15], 1).unwrap_err(), Invalid::Short);
    let bytes = encoded(&Payload::Numbers(Kind::Dequeued, [1, 2, 3], 3), Joined::No, 5);
    assert_eq!(Framed::decode(&bytes[..39], 5).unwrap_err(), Invalid::Short);
}

#[test]
fn the_payload_is_what_the_format_says() {
    let batch = crate::header::Batch { number: 1, bytes: 96, records: 1 };
    let mut bytes = vec![0; crate::header::Batch::RECORD_BYTES];
    batch.encode(&mut bytes, 7, &encodings());
    assert_eq!(bytes[4..16], [24, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(bytes[16..24], [1, 0, 0, 0, 0, 0, 0, 0]);
    let Ok(Decoded::Batch(read)) = Framed::decode(&bytes, 7).unwrap().record(&encodings()) else { panic!() };
    assert_eq!(read, batch);
}

#[test]
fn steps_of_transactions_come_back() {
    use fulmar_core::journal::{Decision, PreparedBranch, PreparedPublish, PreparedSettlement, Step};
    use fulmar_core::shard::Settlement;
    use fulmar_core::transaction::Xid;
    use fulmar_core::{Name, ShardId};

    let message = StoredMessage {
        encoding: &TWO,
        exchange: b"x",
        routing_key: b"key",
        properties: b"",
        bodies: b"body",
        messages: 1,
        ttl_ms: None,
        priority: 4,
        has_headers: false,
        persistent: true,
    };
    let publishes = [PreparedPublish { message, queues: &[StoreKey(1), StoreKey(2)] }];
    let settlement = PreparedSettlement { queue: StoreKey(3), place: 77, settlement: Settlement::Reject };
    let xid = Xid { format: 9, global_id: Name::from("global"), branch_id: Name::from("b") };
    let branch = PreparedBranch { vhost: b"/", xid: &xid, homes: &[ShardId(0), ShardId(2)], timeout_s: 60 };
    let steps = [
        Step::Prepared { publishes: &publishes, settlements: &[settlement] },
        Step::Ended,
        Step::Branch(branch),
        Step::Decided(Decision { commit: true, by_operator: false }),
        Step::Decided(Decision { commit: false, by_operator: true }),
        Step::Forgotten,
        Step::Closed,
    ];
    let transaction = TransactionKey { shard: ShardId(2), run: 5, number: 6 };
    for step in steps {
        let record = Record::Transaction { transaction, step };
        let bytes = encoded(&Payload::of(&record, &encodings()), Joined::No, 1);
        let framed = Framed::decode(&bytes, 1).unwrap();
        let encodings = encodings();
        let Ok(Decoded::Transaction { transaction: read, step: back }) = framed.record(&encodings) else {
            panic!("no transaction");
        };
        assert_eq!(read, transaction);
        match (step, back) {
            (Step::Prepared { .. }, DecodedStep::Prepared { publishes, settlements }) => {
                assert_eq!(settlements, [settlement]);
                let [(read, queues)] = &publishes[..] else { panic!("one message") };
                assert_eq!((read.bodies, read.routing_key, read.priority), (&b"body"[..], &b"key"[..], 4));
                assert_eq!(queues, &[StoreKey(1), StoreKey(2)]);
            }
            (Step::Branch(_), DecodedStep::Branch { vhost, xid: read, homes, timeout_s }) => {
                assert_eq!((vhost, &read, timeout_s), (&b"/"[..], &xid, 60));
                assert_eq!(homes, [ShardId(0), ShardId(2)]);
            }
            (Step::Decided(decision), DecodedStep::Decided(read)) => assert_eq!(read, decision),
            (Step::Ended, DecodedStep::Ended)
            | (Step::Forgotten, DecodedStep::Forgotten)
            | (Step::Closed, DecodedStep::Closed) => {}
            (step, back) => panic!("{step:?} became {back:?}"),
        }
    }
}
