use super::*;

#[test]
fn a_log_that_is_full_says_so_and_goes_on_when_room_was_made() {
    let (mut log, mut files) = ready(LogOptions { max_bytes: Some(8 * SEGMENT), ..options() });
    let mut positions = Vec::new();
    let mut refusal = None;
    for number in 0..1000 {
        if let Err(reason) = log.admit(10_000) {
            refusal = Some(reason);
            break;
        }
        positions.push(enqueue(&mut log, number, &[1; 10_000]));
        settle(&mut log, &mut files);
    }
    let refusal = refusal.expect("it is full in the end");
    assert!(refusal.contains("--journal-max-bytes") && refusal.contains(DIRECTORY), "{refusal}");
    assert!(positions.len() > 60, "{} fit", positions.len());
    assert!(log.footprint().file_bytes <= 8 * SEGMENT, "{:?}", log.footprint());
    // What makes room is taken all the same.
    dequeue(&mut log, 0, 40);
    positions[..40].iter().for_each(|position| log.retire(*position, 10_000));
    let told = settle(&mut log, &mut files);
    assert!(failure_in(&told).is_none());
    assert!(log.admit(10_000).is_ok());
    assert!(log.footprint().file_bytes <= 8 * SEGMENT, "{:?}", log.footprint());
    enqueue(&mut log, 1000, &[1; 10_000]);
    assert_eq!(stored(&settle(&mut log, &mut files)), [log.end()]);
}

#[test]
fn a_full_file_system_refuses_until_there_is_room() {
    let (mut log, mut files) = ready(options());
    files.fault = Some(Box::new(|operation| {
        matches!(operation, FileOperation::Allocate(..)).then(|| io::Error::from_raw_os_error(libc::ENOSPC))
    }));
    let mut number = 0;
    while log.admit(10_000).is_ok() {
        enqueue(&mut log, number, &[1; 10_000]);
        let told = settle(&mut log, &mut files);
        assert!(failure_in(&told).is_none());
        number += 1;
        assert!(number < 100, "it is refused in the end");
    }
    assert!(log.admit(1).unwrap_err().contains("made ready"));
    // There is a reserve for what makes room.
    dequeue(&mut log, 0, 1);
    assert_eq!(stored(&settle(&mut log, &mut files)), [log.end()]);
    files.fault = None;
    log.now_ns += 2_000_000_000;
    settle(&mut log, &mut files);
    assert!(log.admit(1).is_ok());
}

#[test]
fn a_directory_that_vanished_ends_it_when_a_segment_is_needed() {
    let (mut log, mut files) = ready(options());
    files.fault = Some(Box::new(|operation| {
        matches!(operation, FileOperation::Open(..)).then(|| io::Error::from_raw_os_error(libc::ENOENT))
    }));
    let mut reason = None;
    for number in 0..200 {
        enqueue(&mut log, number, &[1; 10_000]);
        log.now_ns += 1_000_000_000;
        reason = reason.or(failure_in(&settle(&mut log, &mut files)));
    }
    assert!(reason.expect("it has ended").contains("made ready"));
}

#[test]
fn files_are_reused_and_filled_with_zeros_before_they_are_written() {
    let mut files = FakeFiles::default();
    let mut log = log(options());
    log.get_ready();
    settle(&mut log, &mut files);
    let zeros = files.done.iter().filter(|done| done.starts_with("write")).count();
    assert_eq!(zeros as u64, 3, "all of three segments in one write each: {:?}", files.done);
    let mut position = Vec::new();
    for number in 0..200 {
        position.push(enqueue(&mut log, number, &[1; 5000]));
        if number >= 10 {
            dequeue(&mut log, number - 10, 1);
            log.retire(position[number as usize - 10], 5005);
        }
        settle(&mut log, &mut files);
    }
    assert!(log.metrics().segments_recycled >= 5, "{:?}", log.metrics());
    assert!(files.list().count() <= 6, "{}", files.list().count());
    assert!(files.open_files() <= 6);
}

#[test]
fn departures_wait_a_moment_for_company() {
    let (mut log, mut files) = ready(options());
    enqueue(&mut log, 0, &[1; 100]);
    settle(&mut log, &mut files);
    let now_ns = log.now_ns;
    dequeue(&mut log, 0, 1);
    log.submit(&mut files, now_ns);
    assert!(files.waiting().is_empty(), "nobody waits for it");
    let due_ns = log.next_deadline_ns().expect("it does not wait for ever");
    assert!(due_ns > now_ns && due_ns <= now_ns + 1_000_000);
    enqueue(&mut log, 1, &[1; 100]);
    log.submit(&mut files, now_ns);
    assert_eq!(files.waiting().len(), 1, "both are written");
    settle(&mut log, &mut files);
    let now_ns = log.now_ns;
    dequeue(&mut log, 1, 1);
    log.submit(&mut files, now_ns + 1_000_000);
    assert_eq!(files.waiting().len(), 1, "its time has come");
    settle(&mut log, &mut files);
    enqueue(&mut log, 2, &[1; 100]);
    settle(&mut log, &mut files);
    let now_ns = log.now_ns;
    dequeue(&mut log, 2, 1);
    log.await_end();
    log.submit(&mut files, now_ns);
    assert_eq!(files.waiting().len(), 1, "somebody waits");
    settle(&mut log, &mut files);
    assert!(log.is_idle());
}

#[test]
fn what_was_made_in_a_hurry_is_left_for_what_is_filled_with_zeros() {
    let (mut in_a_hurry, mut files) = (log(options()), FakeFiles::default());
    let segments = [0, 1, 2].map(|number| {
        let at = enqueue(&mut in_a_hurry, number, b"body");
        settle(&mut in_a_hurry, &mut files);
        position::segment_of(at)
    });
    assert_eq!(segments, [1, 2, 2], "{:?}", files.done);
    let (mut in_time, mut files) = ready(options());
    let segments = [0, 1].map(|number| {
        let at = enqueue(&mut in_time, number, b"body");
        settle(&mut in_time, &mut files);
        position::segment_of(at)
    });
    assert_eq!(segments, [1, 1], "{:?}", files.done);
}

#[test]
fn a_segment_stays_while_it_is_read() {
    let (mut log, mut files) = ready(options());
    let at = enqueue(&mut log, 0, &[1; 10_000]);
    for number in 1..40 {
        enqueue(&mut log, number, &[1; 10_000]);
    }
    settle(&mut log, &mut files);
    log.read(Ticket(1), &[at]);
    dequeue(&mut log, 0, 40);
    (0..40).for_each(|_| log.retire(at, 10_005));
    // All but the read goes on.
    for _ in 0..200 {
        let now_ns = log.now_ns + 1_000_000;
        log.submit(&mut files, now_ns);
        let waiting = files.waiting();
        let Some(index) = waiting.iter().position(|words| !words.starts_with("read")) else { break };
        let done = files.finish(index);
        log.completed(done, now_ns);
    }
    assert!(files.waiting().iter().any(|words| words.starts_with("read")));
    assert!(files.list().any(|(path, _)| path.ends_with(file_name(1))), "it is still there");
    let told = settle(&mut log, &mut files);
    let Some(Told::Read(back)) = told.iter().find(|told| matches!(told, Told::Read(_))) else {
        panic!("{told:?}")
    };
    assert_eq!(back.messages().next().unwrap().bodies, [1; 10_000]);
    assert!(!files.list().any(|(path, _)| path.ends_with(file_name(1))), "then it goes");
}

/// Whether the file of the first segment is still what it was.
fn has_first(files: &FakeFiles) -> bool {
    found(files).iter().any(|segment| segment.header.segment == 1)
}

#[test]
fn a_segment_stays_until_what_takes_its_place_is_stored() {
    let words: [Record<'_>; 2] =
        [Record::Topology(&[]), Record::HandedOut { queue: StoreKey(1), below: u64::MAX }];
    for word in words {
        let (mut log, mut files) = ready(options());
        log.append(&word, Joined::No);
        let positions: Vec<_> = (0..60).map(|number| enqueue(&mut log, number, &[1; 10_000])).collect();
        settle(&mut log, &mut files);
        dequeue(&mut log, 0, 60);
        // Said again elsewhere, and the write that has it under way.
        log.append(&word, Joined::No);
        positions.iter().for_each(|position| log.retire(*position, 10_000));
        let now_ns = log.now_ns + 1_000_000;
        for _ in 0..3 {
            log.cleaning.look_again();
            log.submit(&mut files, now_ns);
        }
        let waiting = files.waiting();
        assert!(has_first(&files) && waiting.iter().all(|each| each.starts_with("write")), "{waiting:?}");
        settle(&mut log, &mut files);
        assert!(!has_first(&files), "{word:?}");
    }
}

#[test]
fn what_replaces_a_topology_counts_when_it_is_stored() {
    let (mut log, mut files) = ready(options());
    log.append(&Record::Topology(&[]), Joined::No);
    let positions: Vec<_> = (0..30).map(|number| enqueue(&mut log, number, &[1; 10_000])).collect();
    dequeue(&mut log, 0, 30);
    positions.iter().for_each(|position| log.retire(*position, 10_000));
    settle(&mut log, &mut files);
    assert!(has_first(&files), "it has the topology");
    log.append(&Record::Topology(&[]), Joined::No);
    let now_ns = log.now_ns + 1_000_000;
    for _ in 0..3 {
        log.cleaning.look_again();
        log.submit(&mut files, now_ns);
    }
    let waiting = files.waiting();
    assert!(waiting.iter().all(|each| each.starts_with("write")), "{waiting:?}");
    settle(&mut log, &mut files);
    assert!(!has_first(&files));
}
