//! The threads that compute TLS handshakes: each takes up to milliseconds, in which a shard could serve thousands of
//! messages. They take them in the order in which they came, whichever shard they came from.
//!
//! They have the priority of shards: a shard that hands something over meets the lock of a queue now and then, and would wait
//! for as long as everybody else keeps a nicer thread that holds it from running.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::login::Mailbox;
use crate::worker::{Handshake, Handshaker, Note};

/// CPUs for each thread, and most threads.
const CPUS_PER_THREAD: usize = 4;
const MAX_THREADS: usize = 8;

struct Question {
    shard: usize,
    /// The client will have been given up by then.
    expires: Instant,
    handshake: Handshake,
}

/// A shard's end towards the threads.
pub struct Desk {
    shard: usize,
    patience: Duration,
    questions: Sender<Question>,
}

impl Handshaker for Desk {
    fn advance(&mut self, handshake: Handshake) -> Option<Handshake> {
        let expires = Instant::now() + self.patience;
        // A broker that is stopping takes none; the client then runs into its time-out.
        let _ = self.questions.send(Question { shard: self.shard, expires, handshake });
        None
    }
}

/// Starts the threads; they end when every [`Desk`] is gone. A handshake that is not begun within `patience` is dropped.
pub fn spawn(
    mailboxes: Vec<Mailbox>,
    patience: Duration,
) -> std::io::Result<(Vec<Desk>, Vec<JoinHandle<()>>)> {
    let (questions, inbox) = channel();
    let desks =
        (0..mailboxes.len()).map(|shard| Desk { shard, patience, questions: questions.clone() }).collect();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (inbox, mailboxes) = (Arc::new(Mutex::new(inbox)), Arc::new(mailboxes));
    let threads = (0..(cpus / CPUS_PER_THREAD).clamp(1, MAX_THREADS)).map(|_| {
        let (inbox, mailboxes) = (inbox.clone(), mailboxes.clone());
        std::thread::Builder::new().name("fulmar-tls".to_string()).spawn(move || answer(&inbox, &mailboxes))
    });
    Ok((desks, threads.collect::<Result<_, _>>()?))
}

fn answer(inbox: &Mutex<Receiver<Question>>, mailboxes: &[Mailbox]) {
    loop {
        let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Question { shard, expires, mut handshake }) = next else { return };
        if Instant::now() >= expires {
            continue;
        }
        handshake.advance();
        let mailbox = &mailboxes[shard];
        if mailbox.notes.send(Note::Handshake(handshake)).is_ok() {
            mailbox.waker.wake();
        }
    }
}
