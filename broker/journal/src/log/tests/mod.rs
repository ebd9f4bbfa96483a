mod pages;

use std::io;
use std::path::Path;

use fulmar_core::journal::{QueuePlace, StoreKey, StoredMessage, Ticket};

use super::*;
use crate::header::BLOCK_BYTES;
use crate::options::FlushMethod;
use crate::record::Decoded;
use crate::start::file_name;
use crate::testing::{FakeFiles, PLAIN, encodings, found};

mod space;
mod whole;

const DIRECTORY: &str = "/data/journal/0";

pub(super) const SEGMENT: u64 = 128 * 1024;

pub(super) fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT, batch_bytes: 16 * 1024, ..LogOptions::default() }
}

pub(super) fn log(options: LogOptions) -> Log {
    let start = LogStart::empty(DIRECTORY.into(), StoreId([1; 16]), 0, 1);
    Log::new(start, options, encodings())
}

pub(super) fn message(body: &[u8]) -> StoredMessage<'_> {
    StoredMessage {
        encoding: &PLAIN,
        exchange: b"",
        routing_key: b"queue",
        properties: b"",
        bodies: body,
        messages: 1,
        ttl_ms: None,
        priority: 0,
        has_headers: false,
        persistent: true,
    }
}

pub(super) fn place(place: u64) -> QueuePlace {
    QueuePlace {
        queue: StoreKey(1),
        place,
        expires_ms: u64::MAX,
        priority: 0,
        counted_bytes: 1,
        redelivered: false,
    }
}

pub(super) fn enqueue(log: &mut Log, number: u64, body: &[u8]) -> Position {
    log.append(&Record::Enqueued { message: message(body), places: &[place(number)] }, Joined::No)
}

pub(super) fn dequeue(log: &mut Log, first: u64, count: u64) -> Position {
    log.append(&Record::Dequeued { queue: StoreKey(1), first, count }, Joined::No)
}

/// Turns until nothing is left to do; what was told.
pub(super) fn settle(log: &mut Log, files: &mut FakeFiles) -> Vec<Told> {
    let mut told = Vec::new();
    for _ in 0..10_000 {
        let now_ns = log.now_ns + 1_000_000;
        log.submit(files, now_ns);
        told.extend(std::iter::from_fn(|| log.take_told()));
        if files.is_idle() {
            return told;
        }
        let done = files.finish(0);
        log.completed(done, now_ns);
        told.extend(std::iter::from_fn(|| log.take_told()));
    }
    panic!("it does not end: {:?}", files.waiting());
}

/// A log whose segments are ready.
pub(super) fn ready(options: LogOptions) -> (Log, FakeFiles) {
    let (mut log, mut files) = (log(options), FakeFiles::default());
    log.get_ready();
    settle(&mut log, &mut files);
    files.done.clear();
    (log, files)
}

fn stored(told: &[Told]) -> Vec<Position> {
    let stored = told.iter().filter_map(|told| if let Told::Stored(at) = told { Some(*at) } else { None });
    stored.collect()
}

fn failure_in(told: &[Told]) -> Option<String> {
    told.iter().find_map(|told| if let Told::Failed(reason) = told { Some(reason.to_string()) } else { None })
}

fn places_found(files: &FakeFiles) -> Vec<u64> {
    let mut places = Vec::new();
    for segment in found(files) {
        for (_, framed) in &segment.records {
            if let Ok(Decoded::Enqueued(enqueued)) = framed.record(&encodings()) {
                places.extend(enqueued.places.iter().map(|place| place.place));
            }
        }
    }
    places
}

#[test]
fn what_comes_during_a_write_goes_with_the_next_one() {
    let (mut log, mut files) = ready(options());
    let positions: Vec<_> = (0..3).map(|number| enqueue(&mut log, number, b"body")).collect();
    assert!(positions.is_sorted_by(|a, b| a < b) && positions[2] < log.end());
    log.submit(&mut files, 0);
    assert_eq!(files.waiting(), ["write 0+8192 sync"]);
    let first_end = log.end();
    enqueue(&mut log, 3, b"body");
    enqueue(&mut log, 4, b"body");
    log.submit(&mut files, 0);
    assert_eq!(files.waiting().len(), 1, "one write at a time");
    let done = files.finish(0);
    log.completed(done, 5_000);
    let Some(Told::Stored(position)) = log.take_told() else { panic!("nothing stored") };
    assert_eq!(position, first_end);
    assert!(positions[2] < position && position < log.end());
    log.submit(&mut files, 0);
    assert_eq!(files.waiting(), ["write 8192+4096 sync"]);
    let told = settle(&mut log, &mut files);
    assert_eq!(stored(&told), [log.end()]);
    assert_eq!(places_found(&files), [0, 1, 2, 3, 4]);
    assert_eq!(log.metrics().flushes, 2);
    assert_eq!(log.metrics().records, 5);
}

#[test]
fn a_log_without_records_has_no_files() {
    let (mut log, mut files) = (log(options()), FakeFiles::default());
    settle(&mut log, &mut files);
    assert_eq!(files.list().count(), 0);
    enqueue(&mut log, 0, b"first");
    assert_eq!(stored(&settle(&mut log, &mut files)).len(), 1);
}

#[test]
fn nothing_is_written_without_need() {
    let (mut log, mut files) = ready(options());
    log.submit(&mut files, 0);
    assert!(files.is_idle() && log.is_idle());
}

#[test]
fn with_two_operations_the_second_one_makes_it_stored() {
    let (mut log, mut files) = ready(LogOptions { flush_method: FlushMethod::WriteThenSync, ..options() });
    enqueue(&mut log, 0, b"body");
    log.submit(&mut files, 0);
    let done = files.finish(0);
    log.completed(done, 0);
    assert!(log.take_told().is_none(), "it is written, not flushed");
    log.submit(&mut files, 0);
    assert_eq!(files.waiting(), ["sync"]);
    assert_eq!(stored(&settle(&mut log, &mut files)).len(), 1);
}

#[test]
fn a_log_of_the_operating_system_does_not_flush() {
    let (mut log, mut files) = ready(LogOptions { durability: crate::Durability::Os, ..options() });
    enqueue(&mut log, 0, b"body");
    assert_eq!(stored(&settle(&mut log, &mut files)).len(), 1);
    assert_eq!(files.done, ["write 0+8192"]);
}

#[test]
fn segments_follow_each_other_and_say_where_the_one_before_ended() {
    let (mut log, mut files) = ready(options());
    for number in 0..100 {
        enqueue(&mut log, number, &[7; 10_000]);
        if number % 3 == 0 {
            settle(&mut log, &mut files);
        }
    }
    settle(&mut log, &mut files);
    assert_eq!(places_found(&files), (0..100).collect::<Vec<_>>());
    let segments = found(&files);
    assert!(segments.len() > 7);
    for pair in segments.windows(2) {
        assert_eq!(pair[1].header.previous, pair[0].header.segment);
        assert_eq!(pair[1].header.previous_end, pair[0].end);
        assert!(pair[0].end <= SEGMENT);
    }
    assert_eq!(segments[0].header.previous, 0);
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let (mut log, mut files) = ready(options());
    enqueue(&mut log, 0, b"small");
    let large = vec![5; 3 * SEGMENT as usize];
    let at = enqueue(&mut log, 1, &large);
    enqueue(&mut log, 2, b"small");
    settle(&mut log, &mut files);
    assert_eq!(places_found(&files), [0, 1, 2]);
    assert_eq!(found(&files).len(), 3);
    log.read(Ticket(1), &[at]);
    let told = settle(&mut log, &mut files);
    let [Told::Read(back)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(back.messages().next().unwrap().bodies, large);
}

#[test]
fn a_group_does_not_cross_segments() {
    let (mut log, mut files) = ready(options());
    enqueue(&mut log, 0, &[1; 100_000]);
    for number in 1..20 {
        let record = Record::Enqueued { message: message(&[1; 10_000]), places: &[place(number)] };
        log.append(&record, Joined::ToNext);
    }
    enqueue(&mut log, 20, b"last");
    enqueue(&mut log, 21, &[1; 10_000]);
    settle(&mut log, &mut files);
    let segments = found(&files);
    let places: Vec<usize> = segments.iter().map(|segment| segment.records.len()).collect();
    assert_eq!(places, [21, 1], "the group stays where it began");
    assert_eq!(places_found(&files), (0..22).collect::<Vec<_>>());
}

#[test]
fn a_failed_write_ends_it() {
    let (mut log, mut files) = ready(options());
    enqueue(&mut log, 0, b"stored");
    settle(&mut log, &mut files);
    files.fault = Some(Box::new(|operation| {
        matches!(operation, FileOperation::Write { .. }).then(|| io::Error::from_raw_os_error(libc::EIO))
    }));
    let lost = enqueue(&mut log, 1, b"lost");
    log.submit(&mut files, 0);
    enqueue(&mut log, 2, b"lost");
    let told = settle(&mut log, &mut files);
    assert!(stored(&told).is_empty());
    let reason = failure_in(&told).expect("it is told");
    for part in [DIRECTORY, &file_name(1), "written"] {
        assert!(reason.contains(part), "{reason}");
    }
    files.fault = None;
    assert!(!log.is_congested() && log.footprint().unstored_bytes == 0, "what is refused waits for nothing");
    assert_eq!(log.admit(1).unwrap_err().to_string(), reason);
    assert!(lost >= log.stored());
    let after = enqueue(&mut log, 3, b"after");
    assert!(after > log.stored() && log.end() > log.stored());
    let writes = files.done.len();
    assert!(settle(&mut log, &mut files).is_empty(), "told once");
    assert_eq!(files.done.len(), writes, "nothing is written any more");
}

#[test]
fn a_short_write_and_a_failed_flush_are_failures() {
    let (mut log, mut files) = ready(options());
    files.most_written = Some(4096);
    enqueue(&mut log, 0, b"body");
    let reason = failure_in(&settle(&mut log, &mut files)).unwrap();
    assert!(reason.contains("4096 of 8192 bytes"), "{reason}");

    let (mut log, mut files) = ready(LogOptions { flush_method: FlushMethod::WriteThenSync, ..options() });
    files.fault = Some(Box::new(|operation| {
        matches!(operation, FileOperation::Sync(_)).then(|| io::Error::from_raw_os_error(libc::EIO))
    }));
    enqueue(&mut log, 0, b"body");
    let told = settle(&mut log, &mut files);
    assert!(stored(&told).is_empty());
    assert!(failure_in(&told).unwrap().contains("flushed"));
}

#[test]
fn a_file_system_without_direct_access_is_written_through_the_cache() {
    let mut files = FakeFiles::default();
    files.refuses_direct = true;
    let mut log = log(options());
    enqueue(&mut log, 0, b"body");
    let told = settle(&mut log, &mut files);
    let notices = told.iter().filter(|told| matches!(told, Told::Notice(text) if text.contains(DIRECTORY)));
    assert_eq!(notices.count(), 1, "{told:?}");
    assert_eq!(stored(&told).len(), 1);
    assert_eq!(places_found(&files), [0]);
}

#[test]
fn what_is_read_first_finds_out_that_there_is_no_direct_access() {
    let mut files = FakeFiles::default();
    let mut before = log(options());
    let position = enqueue(&mut before, 0, b"body");
    settle(&mut before, &mut files);
    let (_, start) = whole::restart(&files, 2);
    files.refuses_direct = true;
    let mut log = Log::new(start, options(), encodings());
    // Both are opened before either is refused.
    log.read(Ticket(1), &[position]);
    log.get_ready();
    let told = settle(&mut log, &mut files);
    let notices = told.iter().filter(|told| matches!(told, Told::Notice(text) if text.contains(DIRECTORY)));
    assert_eq!(notices.count(), 1, "{told:?}");
    let failed = told.iter().find_map(|told| match told {
        Told::Read(back) => Some(back.failed.clone()),
        _ => None,
    });
    assert_eq!(failed, Some(None), "{told:?}");
}

#[test]
fn neighbours_are_read_at_once_and_in_order() {
    let (mut log, mut files) = ready(LogOptions { segment_bytes: 4 << 20, ..options() });
    let bodies: Vec<Vec<u8>> = (0..500_u32).map(|number| number.to_le_bytes().repeat(250)).collect();
    let mut positions = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        positions.push(enqueue(&mut log, number as u64, body));
    }
    settle(&mut log, &mut files);
    files.done.clear();
    log.read(Ticket(9), &positions);
    let told = settle(&mut log, &mut files);
    let [Told::Read(back)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(back.ticket, Ticket(9));
    assert!(back.messages().map(|message| message.bodies).eq(bodies.iter()));
    assert!(files.done.len() <= 2, "{:?}", files.done);
}

#[test]
fn any_places_can_be_read_in_any_order() {
    let (mut log, mut files) = ready(options());
    let bodies: Vec<Vec<u8>> = (0..60_u32).map(|number| number.to_le_bytes().repeat(2000)).collect();
    let positions: Vec<_> =
        bodies.iter().enumerate().map(|(number, body)| enqueue(&mut log, number as u64, body)).collect();
    let order: Vec<usize> = (0..60).map(|index| index * 37 % 60).collect();
    // Before they are stored: they come once they are.
    log.read(Ticket(1), &order.iter().map(|index| positions[*index]).collect::<Vec<_>>());
    let told = settle(&mut log, &mut files);
    let Some(Told::Read(back)) = told.last() else { panic!("{told:?}") };
    assert!(back.failed.is_none(), "{back:?}");
    assert!(back.messages().map(|message| message.bodies).eq(order.iter().map(|index| &bodies[*index])));
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_those_before_it_come() {
    let (mut log, mut files) = ready(options());
    let positions: Vec<_> = (0..3).map(|number| enqueue(&mut log, number, &[3; 5000])).collect();
    settle(&mut log, &mut files);
    let offset = position::offset_of(positions[1]);
    files.change(&Path::new(DIRECTORY).join(file_name(1)), |bytes| bytes[offset as usize + 100] ^= 1);
    log.read(Ticket(1), &positions);
    let told = settle(&mut log, &mut files);
    let [Told::Read(back)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(back.messages().len(), 1);
    let reason = back.failed.as_ref().unwrap();
    assert!(reason.contains(&file_name(1)) && reason.contains(&format!("at {offset} ")), "{reason}");
    assert!(log.failure().is_none(), "others can be read and written");
}

#[test]
fn a_file_that_was_cut_off_is_no_endless_work() {
    let (mut log, mut files) = ready(options());
    let at = enqueue(&mut log, 0, &[3; 50_000]);
    settle(&mut log, &mut files);
    for length in [0, 4096, 4200, 20_000] {
        files.change(&Path::new(DIRECTORY).join(file_name(1)), |bytes| bytes.truncate(length));
        log.read(Ticket(1), &[at]);
        let told = settle(&mut log, &mut files);
        let [Told::Read(back)] = &told[..] else { panic!("{told:?}") };
        assert!(back.failed.is_some());
    }
}

#[test]
fn so_much_may_wait() {
    let (mut log, mut files) = ready(LogOptions { buffer_bytes: 50_000, ..options() });
    for number in 0..6 {
        assert!(!log.is_congested());
        enqueue(&mut log, number, &[1; 9000]);
    }
    assert!(log.is_congested());
    settle(&mut log, &mut files);
    assert!(!log.is_congested());
    assert_eq!(log.footprint().unstored_bytes, 0);
}

#[test]
fn blocks_are_whole_and_zero_behind_the_last_record() {
    let (mut log, mut files) = ready(options());
    enqueue(&mut log, 0, &[0xff; 9000]);
    settle(&mut log, &mut files);
    // The same memory again, with less in it.
    enqueue(&mut log, 1, &[0xee; 10]);
    settle(&mut log, &mut files);
    let (_, bytes) = files.list().next().unwrap();
    let end = position::offset_of(log.end()) as usize;
    assert!(bytes[end..end.next_multiple_of(BLOCK_BYTES)].iter().all(|byte| *byte == 0));
}
