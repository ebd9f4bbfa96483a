//! How far a recovery has come.

use std::sync::atomic::{AtomicU64, Ordering};

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Bytes that are read and checked.
    pub done_bytes: u64,
    /// Bytes that there are to read.
    pub total_bytes: u64,
    /// Messages that were found, those that have left their queues included.
    pub messages: u64,
}

/// Counts for all threads.
pub struct Progress<'a> {
    total_bytes: u64,
    done_bytes: AtomicU64,
    messages: AtomicU64,
    show: &'a (dyn Fn(&Shown) + Sync),
}

impl<'a> Progress<'a> {
    /// Nothing is done yet.
    pub fn new(total_bytes: u64, show: &'a (dyn Fn(&Shown) + Sync)) -> Self {
        Progress { total_bytes, done_bytes: AtomicU64::new(0), messages: AtomicU64::new(0), show }
    }

    /// Shows that some more is done.
    pub fn add(&self, bytes: u64, messages: u64) {
        let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let messages = self.messages.fetch_add(messages, Ordering::Relaxed) + messages;
        (self.show)(&Shown { done_bytes, total_bytes: self.total_bytes, messages });
    }
}
