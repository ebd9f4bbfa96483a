//! What a log makes of a disk, through each transport and by each way of flushing: `flush DIRECTORY [SECONDS]`.
//!
//! One record in flight: the time until it is stored, in microseconds, beside a raw write and `fdatasync` of one block.
//! 64 KiB and 1 KiB bodies with many in flight: bytes and records a second, beside raw writes of 1 MiB. Rounds take turns,
//! since others use the disk too.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use fulmar_journal::{FlushMethod, Log, LogOptions, Told};
use fulmar_transport::{AlignedBuf, AnyTransport, Config, Event, IoChoice, Transport, Wait};

#[allow(dead_code, reason = "shared with others")]
mod support;

const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(directory) = arguments.first() else {
        eprintln!("usage: flush DIRECTORY [SECONDS]");
        std::process::exit(2);
    };
    let seconds = arguments.get(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let time = Duration::from_secs_f64(seconds);
    let directory = Path::new(directory).join("flush-example");
    let ways = [
        None,
        Some((IoChoice::Uring, FlushMethod::SyncedWrite)),
        Some((IoChoice::Uring, FlushMethod::WriteThenSync)),
        Some((IoChoice::Epoll, FlushMethod::SyncedWrite)),
        Some((IoChoice::Epoll, FlushMethod::WriteThenSync)),
    ];
    for round in 0..ROUNDS {
        println!("round {round}");
        for index in 0..ways.len() {
            std::fs::create_dir_all(&directory).expect("a directory to write in");
            // Nobody always comes after the same one.
            match ways[(round + index) % ways.len()] {
                None => raw(&directory, time),
                Some((choice, method)) => through_log(&directory, choice, method, time),
            }
            std::fs::remove_dir_all(&directory).expect("a directory to remove");
            // What was removed keeps the disk busy for a while.
            std::thread::sleep(time);
        }
    }
}

fn raw(directory: &Path, time: Duration) {
    let path = directory.join("raw");
    let bytes = 64 << 20;
    let options = |flags| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).custom_flags(flags);
        options
    };
    let file = options(libc::O_DIRECT).open(&path).expect("a file past the page cache");
    let mut buffer = AlignedBuf::with_capacity(1 << 20);
    buffer.resize(1 << 20);
    for at in (0..bytes).step_by(1 << 20) {
        file.write_all_at(&buffer, at).expect("zeros");
    }
    file.sync_all().expect("a flush");
    let one = |file: &File, sync: bool, length: usize| {
        let (start, mut times, mut at) = (Instant::now(), Vec::new(), 0);
        while start.elapsed() < time {
            let begin = Instant::now();
            file.write_all_at(&buffer[..length], at).expect("a write");
            if sync {
                file.sync_data().expect("a flush");
            }
            times.push(begin.elapsed());
            at = (at + length as u64) % bytes;
        }
        (median(&mut times), times.len() as f64 * length as f64 / start.elapsed().as_secs_f64() / 1e6)
    };
    let synced = options(libc::O_DIRECT | libc::O_DSYNC).open(&path).expect("a file past the page cache");
    let (p50, _) = one(&file, true, 4096);
    let (p50_synced, _) = one(&synced, false, 4096);
    let (_, rate) = one(&file, true, 1 << 20);
    let (_, rate_synced) = one(&synced, false, 1 << 20);
    println!("raw write, fdatasync        4 KiB p50 {p50:>6.0} µs   1 MiB {rate:>7.0} MB/s");
    println!("raw O_DSYNC                 4 KiB p50 {p50_synced:>6.0} µs   1 MiB {rate_synced:>7.0} MB/s");
    std::fs::remove_file(&path).expect("a file to remove");
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, Duration::as_secs_f64) * 1e6
}

struct Machine {
    log: Log,
    transport: AnyTransport,
    events: Vec<Event>,
    place: u64,
}

impl Machine {
    /// A turn; whether something became stored.
    fn turn(&mut self) -> bool {
        let now_ns = self.transport.now_ns();
        self.log.submit(&mut self.transport, now_ns);
        self.transport.turn(Wait::Poll, &mut self.events).expect("a turn");
        let now_ns = self.transport.now_ns();
        for event in self.events.drain(..) {
            if let Event::File(done) = event {
                self.log.completed(done, now_ns);
            }
        }
        let mut stored = false;
        while let Some(told) = self.log.take_told() {
            match told {
                Told::Stored(_) => stored = true,
                Told::Failed(reason) => panic!("{reason}"),
                told => println!("{told:?}"),
            }
        }
        stored
    }

    /// Messages leave as they come, so that segments are used again.
    fn append(&mut self, body: &[u8]) {
        use fulmar_core::journal::{Joined, Record, StoreKey};
        let at = support::append(&mut self.log, self.place, body, 1);
        self.log.retire(at, body.len());
        self.place += 1;
        if self.place.is_multiple_of(32) {
            let first = self.place - 32;
            self.log.append(&Record::Dequeued { queue: StoreKey(1), first, count: 32 }, Joined::No);
        }
    }

    fn flood(&mut self, body: &[u8], time: Duration) -> f64 {
        let (start, first) = (Instant::now(), self.place);
        while start.elapsed() < time {
            for _ in 0..64 {
                if !self.log.is_congested() {
                    self.append(body);
                }
            }
            self.turn();
        }
        (self.place - first) as f64 / start.elapsed().as_secs_f64()
    }
}

fn through_log(directory: &Path, choice: IoChoice, method: FlushMethod, time: Duration) {
    let options = LogOptions { flush_method: method, ..LogOptions::default() };
    let log = support::log(directory.to_str().expect("a plain name"), options);
    let Ok(transport) = fulmar_transport::open(Config::default(), choice) else {
        println!("{choice:?} is refused");
        return;
    };
    let mut machine = Machine { log, transport, events: Vec::new(), place: 0 };
    machine.log.get_ready();
    let start = Instant::now();
    while start.elapsed() < time {
        machine.turn();
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let begin = Instant::now();
        machine.append(&[b'x'; 1024]);
        while !machine.turn() {}
        times.push(begin.elapsed());
    }
    let p50 = median(&mut times);
    let small = machine.flood(&[b'x'; 1024], time);
    let large = machine.flood(&vec![b'x'; 65_536], time) * 65_536.0 / 1e6;
    println!(
        "{choice:?} {method:<16?}    1 KiB p50 {p50:>6.0} µs  64 KiB {large:>7.0} MB/s  1 KiB {:>6.0} k/s, \
         {} segments recycled of {}",
        small / 1e3,
        machine.log.metrics().segments_recycled,
        machine.log.metrics().segments_begun
    );
}
