//! Records: no bytes do harm, and what can be read can be written again and reads the same.

use fulmar_core::journal::{
    Decision, Joined, PreparedBranch, PreparedPublish, PreparedSettlement, QueuePlace, Record, Step,
    StoreKey, StoredMessage, TransactionKey,
};
use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::shard::Settlement;
use fulmar_core::transaction::Xid;
use fulmar_core::{Encoding, ShardId, Table, Value};
use fulmar_journal::encodings::Encodings;
use fulmar_journal::header::{Batch, SegmentHeader};
use fulmar_journal::record::{Decoded, Framed, Kind, Payload};
use fulmar_journal::topology;

/// An encoding without meaning.
struct Plain {
    _room: u8,
}

static PLAIN: Plain = Plain { _room: 0 };

impl Encoding for Plain {
    fn name(&self) -> &'static str {
        "plain"
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

const KINDS: [Kind; 8] = [
    Kind::Batch,
    Kind::Enqueued,
    Kind::Dequeued,
    Kind::HandedOut,
    Kind::Changed,
    Kind::Topology,
    Kind::Transaction,
    Kind::Paged,
];

const SEGMENT: u64 = 0x1_0000_0007;

fn encodings() -> Encodings {
    Encodings::new(&[&PLAIN])
}

/// Reads `input` as it is, and as the payload of a record whose checksum is right; its first byte says which kind.
pub fn run(input: &[u8]) {
    let encodings = encodings();
    if let Ok(framed) = Framed::decode(input, SEGMENT) {
        let _ = framed.record(&encodings);
    }
    if let Ok(header) = SegmentHeader::decode(input) {
        let _ = header.encodings(&encodings);
    }
    let Some((&kind, payload)) = input.split_first() else { return };
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    let bytes = encoded(&Payload::Bytes(kind, payload.into()));
    let framed = Framed::decode(&bytes, SEGMENT).expect("its checksum is right");
    assert_eq!((framed.kind, framed.payload, framed.joined), (kind, payload, Joined::No));
    assert_eq!(framed.total_bytes(), bytes.len());
    assert!(Framed::decode(&bytes, SEGMENT + 1).is_err(), "it is another segment's");
    if let Ok(record) = framed.record(&encodings) {
        again(&record);
    }
}

fn encoded(payload: &Payload<'_>) -> Vec<u8> {
    let mut bytes = vec![0xff; payload.record_bytes()];
    payload.encode(&mut bytes, Joined::No, SEGMENT, &encodings());
    bytes
}

/// What was read is written again, and reads the same.
fn again(record: &Decoded<'_>) {
    let encodings = encodings();
    let check = |payload: &Payload<'_>| {
        let bytes = encoded(payload);
        let framed = Framed::decode(&bytes, SEGMENT).expect("its checksum is right");
        let read = framed.record(&encodings).expect("what was written can be read");
        assert_eq!(format!("{read:?}"), format!("{record:?}"));
    };
    match record {
        Decoded::Enqueued(enqueued) => {
            let places: Vec<QueuePlace> = enqueued.places.iter().collect();
            check(&Payload::of(&Record::Enqueued { message: enqueued.message, places: &places }, &encodings));
        }
        Decoded::Dequeued { queue, first, count } => {
            let record = Record::Dequeued { queue: *queue, first: *first, count: *count };
            check(&Payload::of(&record, &encodings));
        }
        Decoded::HandedOut { queue, below } => {
            check(&Payload::of(&Record::HandedOut { queue: *queue, below: *below }, &encodings));
        }
        Decoded::Changed(payload) | Decoded::Topology(payload) => {
            if let Ok(changes) = topology::decode(payload) {
                let bytes = topology::encode(&changes);
                let read = topology::decode(&bytes).expect("what was written can be read");
                assert_eq!(topology::encode(&read), bytes);
            }
        }
        Decoded::Batch(_) | Decoded::Transaction { .. } | Decoded::Paged(_) => {}
    }
}

/// One input of each kind, and a segment's header.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let encodings = encodings();
    let message = StoredMessage {
        encoding: &PLAIN,
        exchange: b"x",
        routing_key: b"a.b",
        properties: b"pp",
        bodies: b"onetwo",
        messages: 2,
        ttl_ms: Some(1000),
        priority: 4,
        has_headers: true,
        persistent: true,
    };
    let place = QueuePlace {
        queue: StoreKey(1),
        place: 5,
        expires_ms: u64::MAX,
        priority: 0,
        counted_bytes: 3,
        redelivered: true,
    };
    let places = [place];
    let transaction = TransactionKey { shard: ShardId(1), run: 2, number: 3 };
    let queues = [StoreKey(1)];
    let publishes = [PreparedPublish { message: StoredMessage { messages: 1, ..message }, queues: &queues }];
    let settlement = PreparedSettlement { queue: StoreKey(1), place: 5, settlement: Settlement::Accept };
    let xid = Xid { format: 1, global_id: "g".into(), branch_id: "b".into() };
    let homes = [ShardId(0)];
    let branch = PreparedBranch { vhost: b"/", xid: &xid, homes: &homes, timeout_s: 60 };
    let settlements = [settlement];
    let step = |step| Record::Transaction { transaction, step };
    let records = [
        ("message", Record::Enqueued { message, places: &places }),
        ("departure", Record::Dequeued { queue: StoreKey(1), first: 5, count: 2 }),
        ("mark", Record::HandedOut { queue: StoreKey(1), below: 7 }),
        ("changes", Record::Changed(&[])),
        ("topology", Record::Topology(&[])),
        ("prepared", step(Step::Prepared { publishes: &publishes, settlements: &settlements })),
        ("branch", step(Step::Branch(branch))),
        ("decided", step(Step::Decided(Decision { commit: true, by_operator: false }))),
        ("ended", step(Step::Ended)),
    ];
    let mut seeds: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, record) in records {
        let bytes = encoded(&Payload::of(&record, &encodings));
        let framed = Framed::decode(&bytes, SEGMENT).expect("its checksum is right");
        let kind = KINDS.iter().position(|kind| *kind == framed.kind).expect("a known kind") as u8;
        seeds.push((name.into(), [&[kind], framed.payload].concat()));
        seeds.push((format!("{name}-framed"), bytes));
    }
    let mut batch = vec![0; Batch::RECORD_BYTES];
    Batch { number: 1, bytes: 96, records: 1 }.encode(&mut batch, SEGMENT, &encodings);
    seeds.push(("batch-framed".into(), batch));
    seeds
}
