//! Makes a log of many messages and measures what a restart makes of it.
//!
//! ```console
//! $ cargo run --release -p fulmar-journal --example recovery -- make DIRECTORY 10000000
//! $ cargo run --release -p fulmar-journal --example recovery -- read DIRECTORY
//! $ cargo run --release -p fulmar-journal --example recovery -- recover DIRECTORY
//! ```
//!
//! `read` reads the same files as recovery does, without looking at what is in them: the raw bandwidth to compare with.

use std::path::Path;
use std::time::{Duration, Instant};

use fulmar_core::journal::{Joined, QueuePlace, Record, StoreKey, StoredMessage};
use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::request::QueueOptions;
use fulmar_core::topology::StoredChange;
use fulmar_core::{Encoding, Table, Value};
use fulmar_journal::disk::SystemDisk;
use fulmar_journal::encodings::Encodings;
use fulmar_journal::header::StoreId;
use fulmar_journal::recovery::read::{Wanted, read};
use fulmar_journal::recovery::write::{LogWriter, WriteOptions};
use fulmar_journal::recovery::{Options, find_logs, log_directory, recover};

const BODY_BYTES: usize = 256;
const SEGMENT_BYTES: u64 = 64 << 20;
const BATCH_BYTES: usize = 64 << 10;
const QUEUE: StoreKey = StoreKey(1);

struct Plain;

static PLAIN: Plain = Plain;

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

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["make", directory, messages] => make(Path::new(directory), messages.parse().expect("a number")),
        ["read", directory] => read_raw(Path::new(directory)),
        ["recover", directory] => measure(Path::new(directory)),
        _ => eprintln!("make DIRECTORY MESSAGES | read DIRECTORY | recover DIRECTORY"),
    }
}

fn encodings() -> Encodings {
    Encodings::new(&[&PLAIN])
}

fn make(journal: &Path, messages: u64) {
    let options = WriteOptions {
        directory: log_directory(journal, 0),
        store: StoreId([1; 16]),
        shard: 0,
        shards: 1,
        run: 1,
        segment: 1,
        previous: None,
        batch: 1,
        segment_bytes: SEGMENT_BYTES,
        batch_bytes: BATCH_BYTES,
        encodings: encodings(),
    };
    let mut writer = LogWriter::new(&SystemDisk, options).expect("a directory");
    let declared = StoredChange::QueueDeclared {
        key: QUEUE,
        vhost: "/".into(),
        name: "q".into(),
        home: 0,
        options: Box::new(QueueOptions { durable: true, ..QueueOptions::default() }),
    };
    writer.append(&Record::Changed(&[declared]), Joined::No).expect("room on the disk");
    let bodies = [7; BODY_BYTES];
    for place in 0..messages {
        let message = StoredMessage {
            encoding: &PLAIN,
            exchange: b"",
            routing_key: b"work",
            properties: b"\x90\x00\x0atext/plain\x02",
            bodies: &bodies,
            messages: 1,
            ttl_ms: None,
            priority: 0,
            has_headers: false,
            persistent: true,
        };
        let places = [QueuePlace {
            queue: QUEUE,
            place,
            expires_ms: u64::MAX,
            priority: 0,
            counted_bytes: BODY_BYTES as u32,
            redelivered: false,
        }];
        writer.append(&Record::Enqueued { message, places: &places }, Joined::No).expect("room on the disk");
    }
    writer.finish().expect("a disk that can be flushed");
}

fn read_raw(journal: &Path) {
    let logs = find_logs(&SystemDisk, journal).expect("a journal");
    let files: Vec<Wanted> = logs
        .values()
        .flat_map(|log| &log.segments)
        .map(|file| Wanted { path: file.path.clone(), from: 0, to: file.bytes })
        .collect();
    let (began, cpu) = (Instant::now(), cpu_time());
    let mut bytes = 0;
    read(&SystemDisk, &files, true, |_, _, piece| bytes += piece.len() as u64).expect("files to be read");
    show("read", bytes, 0, began, cpu);
}

fn measure(journal: &Path) {
    let encodings = encodings();
    let (began, cpu) = (Instant::now(), cpu_time());
    let recovered = recover(
        &SystemDisk,
        &Options {
            journal,
            shards: 1,
            encodings: &encodings,
            new_store: StoreId([1; 16]),
            threads: 2,
            segment_bytes: SEGMENT_BYTES,
            progress: &|_| {},
        },
    )
    .expect("a sound journal");
    show("recovered", recovered.totals.bytes, recovered.totals.messages, began, cpu);
    let places: usize = recovered.logs[0].queues.iter().map(|queue| queue.places.memory_bytes()).sum();
    println!("{places} bytes of memory for the places");
}

fn show(what: &str, bytes: u64, messages: u64, began: Instant, cpu: Duration) {
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
    println!(
        "{what} {bytes} bytes, {messages} messages in {:.3} s: {:.0} MB/s; {:.3} s of CPU: {:.0} MB/s for each core",
        took.as_secs_f64(),
        bytes as f64 / took.as_secs_f64() / 1e6,
        cpu.as_secs_f64(),
        bytes as f64 / cpu.as_secs_f64() / 1e6,
    );
}

/// What all threads of the process have used.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, which is there.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
