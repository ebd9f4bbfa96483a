//! What it costs to take a publish apart and to put a delivery together, by size of the body.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fulmar_amqp_0_9_1::codec::{ContentHeader, FrameKind, Method, Properties, fast, frame, properties};

const FRAME_MAX_BYTES: u32 = 128 * 1024;
const SIZES: [usize; 3] = [64, 1_024, 65_536];

/// Flags and values of content type and delivery mode, as many clients set them.
fn common_properties() -> Vec<u8> {
    let mut raw = Vec::new();
    let set = Properties {
        content_type: Some(b"application/json"),
        delivery_mode: Some(2),
        ..Properties::default()
    };
    set.encode(&mut raw);
    raw
}

/// The frames of a publish.
fn publish(size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    fast::publish(1, b"amq.topic", b"orders.eu.created", false, false, &mut wire);
    frame::encode_content(1, &common_properties(), &vec![b'x'; size], FRAME_MAX_BYTES, &mut wire);
    wire
}

/// Takes the frames of a publish apart, as a broker must; how many octets its body has.
fn decode(wire: &[u8]) -> usize {
    let (mut at, mut body) = (0, 0);
    while let Some((frame, taken)) = frame::parse(&wire[at..], FRAME_MAX_BYTES).expect("the frames are good")
    {
        at += taken;
        match frame.kind {
            FrameKind::Method => drop(black_box(Method::decode(frame.payload).expect("the method is good"))),
            FrameKind::Header => {
                let header = ContentHeader::parse(frame.payload).expect("the header is good");
                black_box(properties::scan(header.properties).expect("the properties are good"));
            }
            _ => body += frame.payload.len(),
        }
    }
    body
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode publish");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let wire = publish(size);
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| assert_eq!(decode(black_box(&wire)), size));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("encode deliver");
    group.throughput(Throughput::Elements(1));
    let properties = common_properties();
    for size in SIZES {
        let body = vec![b'x'; size];
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                out.clear();
                fast::deliver(1, b"ctag1", black_box(7), false, b"amq.topic", b"orders.eu.created", &mut out);
                frame::encode_content(1, &properties, black_box(&body), FRAME_MAX_BYTES, &mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = codec
}
criterion_main!(benches);
