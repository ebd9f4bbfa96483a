//! A log that messages are appended to, and files whose operations end at once.

use std::collections::VecDeque;

use fulmar_core::journal::{Joined, QueuePlace, Record, StoreKey, StoredMessage};
use fulmar_core::message::{Edit, Properties, Scalar};
use fulmar_core::{Encoding, Table, Value};
use fulmar_journal::encodings::Encodings;
use fulmar_journal::header::StoreId;
use fulmar_journal::start::LogStart;
use fulmar_journal::{Files, Log, LogOptions, Told};
use fulmar_transport::file::{FileDone, FileOperation};

/// Messages after which they leave their queue, so that segments are used again.
const KEPT: u64 = 100_000;

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

/// A log in a directory.
pub fn log(directory: &str, options: LogOptions) -> Log {
    let start = LogStart::empty(directory.into(), StoreId([1; 16]), 0, 1);
    Log::new(start, options, Encodings::new(&[&PLAIN]))
}

/// Appends a message, or a batch; the place of the first one tells it from others.
pub fn append(log: &mut Log, place: u64, bodies: &[u8], messages: u16) -> fulmar_core::journal::Position {
    let message = StoredMessage {
        encoding: &PLAIN,
        exchange: b"",
        routing_key: b"orders",
        properties: &[0; 16],
        bodies,
        messages,
        ttl_ms: None,
        priority: 0,
        has_headers: false,
        persistent: true,
    };
    let place = QueuePlace {
        queue: StoreKey(1),
        place,
        expires_ms: u64::MAX,
        priority: 0,
        counted_bytes: bodies.len() as u32,
        redelivered: false,
    };
    log.append(&Record::Enqueued { message, places: &[place] }, Joined::No)
}

/// Files that do nothing, at once.
pub struct EndsAtOnce(pub VecDeque<FileDone>);

impl Files for EndsAtOnce {
    fn start(&mut self, token: u64, operation: FileOperation) {
        let (result, bytes) = match operation {
            FileOperation::Write { bytes, .. } => (bytes.len(), Some(bytes)),
            _ => (1, None),
        };
        self.0.push_back(FileDone { token, result: Ok(result), bytes });
    }
}

/// Appends messages of one kind.
#[allow(dead_code, reason = "not everybody who has this module appends so")]
pub struct Appender {
    log: Log,
    bodies: Vec<u8>,
    messages: u16,
    /// Those that have not left: place and position.
    kept: VecDeque<(u64, fulmar_core::journal::Position)>,
    place: u64,
    now_ns: u64,
}

#[allow(dead_code, reason = "as above")]
impl Appender {
    /// Messages of so many bytes, so many at a time.
    pub fn new(bytes: usize, messages: u16) -> Self {
        let log = log("/nowhere", LogOptions::default());
        let bodies = vec![b'x'; bytes * usize::from(messages)];
        Appender { log, bodies, messages, kept: VecDeque::new(), place: 0, now_ns: 0 }
    }

    /// Appends so many records, with a turn after each `turn` of them.
    pub fn append(&mut self, count: u64, turn: u64, files: &mut EndsAtOnce) {
        for number in 1..=count {
            let at = append(&mut self.log, self.place, &self.bodies, self.messages);
            self.kept.push_back((self.place, at));
            self.place += u64::from(self.messages);
            if number % turn == 0 || number == count {
                self.turn(files);
            }
        }
    }

    fn turn(&mut self, files: &mut EndsAtOnce) {
        let most = (KEPT * 64 / self.bodies.len() as u64).max(64) as usize;
        if self.kept.len() > most {
            let first = self.kept[0].0;
            for (_, at) in self.kept.drain(..most / 2) {
                self.log.retire(at, self.bodies.len() + 22);
            }
            let (queue, count) = (StoreKey(1), self.kept[0].0 - first);
            self.log.append(&Record::Dequeued { queue, first, count }, Joined::No);
        }
        self.now_ns += 100_000;
        self.log.submit(files, self.now_ns);
        while let Some(done) = files.0.pop_front() {
            self.log.completed(done, self.now_ns);
        }
        while let Some(told) = self.log.take_told() {
            assert!(matches!(told, Told::Stored(_) | Told::Notice(_)), "{told:?}");
        }
    }
}
