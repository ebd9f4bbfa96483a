//! The page file: what was written to it is read again, wherever it is meanwhile.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn bodies(told: &[Told]) -> Vec<Result<Vec<Vec<u8>>, String>> {
    let mut read = Vec::new();
    for told in told {
        let Told::Read(back) = told else { continue };
        let bodies = back.messages().map(|message| message.bodies.to_vec()).collect();
        read.push(back.failed.as_ref().map_or(Ok(bodies), |reason| Err(reason.to_string())));
    }
    read
}

/// A body that tells its number.
fn body(number: u64, bytes: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(8 + bytes).collect()
}

fn pages(files: &FakeFiles) -> usize {
    files.list().filter(|(path, _)| path.extension().is_some_and(|suffix| suffix == "page")).count()
}

#[test]
fn a_message_is_read_from_memory_and_from_the_file_along_with_records() {
    let (mut log, mut files) = ready(options());
    let early = log.page_out(&message(b"early"));
    log.read(Ticket(1), &[early]);
    assert_eq!(bodies(&settle(&mut log, &mut files)), [Ok(vec![b"early".to_vec()])]);
    assert_eq!(pages(&files), 0, "a page is written when it is full");
    let record = enqueue(&mut log, 0, b"record");
    let large = body(7, 20_000);
    let late = log.page_out(&message(&large));
    assert!(early.is_page() && late.is_page() && !record.is_page() && early < late);
    settle(&mut log, &mut files);
    assert_eq!(pages(&files), 1);
    log.read(Ticket(2), &[early, record, late, early]);
    let expected = [b"early".to_vec(), b"record".to_vec(), large, b"early".to_vec()];
    assert_eq!(bodies(&settle(&mut log, &mut files)), [Ok(expected.to_vec())]);
}

#[test]
fn files_in_which_nothing_is_needed_are_used_again_and_go() {
    let (mut log, mut files) = ready(options());
    let mut positions: Vec<_> = (0..200).map(|n| log.page_out(&message(&body(n, 10_000)))).collect();
    settle(&mut log, &mut files);
    let most = pages(&files);
    assert!(most > 10, "{most} files");
    let held = positions.remove(100);
    positions.drain(..).for_each(|at| log.retire(at, 0));
    settle(&mut log, &mut files);
    assert!(pages(&files) <= 5, "{} files", pages(&files));
    log.read(Ticket(1), &[held]);
    assert_eq!(bodies(&settle(&mut log, &mut files)), [Ok(vec![body(100, 10_000)])]);
    files.done.clear();
    log.retire(held, 0);
    for n in 0..20 {
        log.page_out(&message(&body(n, 10_000)));
    }
    settle(&mut log, &mut files);
    assert!(!files.done.iter().any(|done| done.starts_with("open")), "{:?}", files.done);
}

#[test]
fn what_cannot_be_written_stays_and_no_more_is_taken_until_it_can() {
    let (mut log, mut files) = ready(options());
    files.fault = Some(Box::new(|operation| {
        matches!(operation, FileOperation::Allocate(..)).then(|| io::Error::from_raw_os_error(libc::ENOSPC))
    }));
    let positions: Vec<_> = (0..10).map(|n| log.page_out(&message(&body(n, 5_000)))).collect();
    let told = settle(&mut log, &mut files);
    let notice = told.iter().find_map(|told| if let Told::Notice(text) = told { Some(text) } else { None });
    assert!(notice.is_some_and(|text| text.contains("no space") && text.contains(".page")), "{told:?}");
    assert!(!log.can_page_out());
    log.read(Ticket(1), &positions);
    assert_eq!(bodies(&settle(&mut log, &mut files))[0].as_ref().map(Vec::len), Ok(10));
    files.fault = None;
    let later_ns = log.now_ns + 2_000_000_000;
    log.submit(&mut files, later_ns);
    settle(&mut log, &mut files);
    assert!(log.can_page_out() && pages(&files) == 1);
    log.read(Ticket(2), &positions);
    assert_eq!(bodies(&settle(&mut log, &mut files))[0].as_ref().map(Vec::len), Ok(10));
}

#[test]
fn more_than_can_be_written_is_not_taken() {
    let (mut log, _) = ready(options());
    let large = body(1, 1 << 20);
    let taken = (0..100).take_while(|_| {
        let takes = log.can_page_out();
        log.page_out(&message(&large));
        takes
    });
    assert_eq!(taken.count(), 16);
}

#[test]
fn a_wrong_read_is_told() {
    let (mut log, mut files) = ready(options());
    let at = log.page_out(&message(&body(1, 15_000)));
    log.page_out(&message(&body(2, 15_000)));
    settle(&mut log, &mut files);
    let path =
        files.list().map(|(path, _)| path.to_owned()).find(|path| path.ends_with("0000000000000001.page"));
    files.change(&path.unwrap(), |bytes| bytes[100] ^= 1);
    log.read(Ticket(1), &[at]);
    let read = bodies(&settle(&mut log, &mut files));
    assert!(read[0].as_ref().is_err_and(|why| why.contains("CRC") && why.contains(".page")), "{read:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Add { bytes: usize },
    Retire { which: usize },
    Read { which: usize, count: usize },
    Fault { broken: bool },
    Finish { which: usize },
    Turn { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => prop_oneof![9 => 0..6_000usize, 1 => 0..40_000usize].prop_map(|bytes| Step::Add { bytes }),
        6 => any::<usize>().prop_map(|which| Step::Retire { which }),
        4 => (any::<usize>(), 1..20usize).prop_map(|(which, count)| Step::Read { which, count }),
        1 => proptest::bool::weighted(0.3).prop_map(|broken| Step::Fault { broken }),
        12 => any::<usize>().prop_map(|which| Step::Finish { which }),
        12 => prop_oneof![9 => 0..10u64, 1 => Just(1_000)].prop_map(|ms| Step::Turn { ms }),
    ]
}

/// A log whose page file is used at random.
struct Use {
    log: Log,
    files: FakeFiles,
    messages: BTreeMap<Position, Vec<u8>>,
    asked: BTreeMap<u64, Vec<Vec<u8>>>,
    added: u64,
    tickets: u64,
}

impl Use {
    fn step(&mut self, step: Step) {
        match step {
            Step::Add { bytes } => {
                if self.log.can_page_out() {
                    self.added += 1;
                    let body = body(self.added, bytes);
                    let at = self.log.page_out(&message(&body));
                    assert!(self.messages.insert(at, body).is_none());
                }
            }
            Step::Retire { which } => {
                if let Some(at) = self.messages.keys().nth(which % self.messages.len().max(1)).copied() {
                    self.messages.remove(&at);
                    self.log.retire(at, 0);
                }
            }
            Step::Read { which, count } => {
                let from = which % self.messages.len().max(1);
                let some: Vec<_> =
                    self.messages.iter().skip(from).step_by(1 + which % 3).take(count).collect();
                let positions: Vec<_> = some.iter().map(|(at, _)| **at).collect();
                self.tickets += 1;
                self.asked.insert(self.tickets, some.into_iter().map(|(_, body)| body.clone()).collect());
                self.log.read(Ticket(self.tickets), &positions);
            }
            Step::Fault { broken } => {
                self.files.fault = None;
                if broken {
                    self.files.fault = Some(Box::new(|operation| {
                        let is_write =
                            matches!(operation, FileOperation::Write { .. } | FileOperation::Open(..));
                        is_write.then(|| io::Error::from_raw_os_error(libc::EIO))
                    }));
                }
            }
            Step::Finish { which } => {
                let waiting = self.files.waiting().len();
                if waiting > 0 {
                    let done = self.files.finish(which % waiting);
                    let now_ns = self.log.now_ns;
                    self.log.completed(done, now_ns);
                }
            }
            Step::Turn { ms } => {
                let now_ns = self.log.now_ns + ms * 1_000_000;
                self.log.submit(&mut self.files, now_ns);
            }
        }
        while let Some(told) = self.log.take_told() {
            self.hear(told);
        }
    }

    fn hear(&mut self, told: Told) {
        let Told::Read(back) = told else { return };
        assert_eq!(back.failed, None);
        let asked = self.asked.remove(&back.ticket.0).unwrap();
        let came: Vec<_> = back.messages().map(|message| message.bodies.to_vec()).collect();
        assert_eq!(came, asked);
        self.log.recycle(back);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_what_is_needed_can_be_read(steps in proptest::collection::vec(step(), 0..600)) {
        let (log, files) = ready(options());
        let mut used = Use {
            log,
            files,
            messages: BTreeMap::new(),
            asked: BTreeMap::new(),
            added: 0,
            tickets: 0,
        };
        steps.into_iter().for_each(|step| used.step(step));
        used.files.fault = None;
        for _ in 0..4 {
            let now_ns = used.log.now_ns + 1_000_000_000;
            used.log.submit(&mut used.files, now_ns);
            for told in settle(&mut used.log, &mut used.files) {
                used.hear(told);
            }
        }
        assert!(used.asked.is_empty(), "reads that never ended");
        for at in std::mem::take(&mut used.messages).into_keys() {
            used.log.retire(at, 0);
        }
        settle(&mut used.log, &mut used.files);
        assert!(pages(&used.files) <= 3, "{} files stay", pages(&used.files));
    }
}
