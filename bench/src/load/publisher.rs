//! One publisher: puts stamped messages, as fast as it may or on a schedule.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use super::{LoadError, Recorder, Shared};
use crate::driver::{Answer, PublishLink};
use crate::plan::Copies;
use crate::poll::PollSet;
use crate::schedule::Schedule;
use crate::stamp::Stamp;

/// When a publisher publishes.
#[derive(Debug)]
pub enum Pace {
    /// Whenever the socket takes it.
    Flood,
    /// When it is due.
    Scheduled(Schedule),
}

/// A publisher under load.
#[derive(Debug)]
pub struct Publisher<L> {
    id: u16,
    link: L,
    pace: Pace,
    copies: Copies,
    /// Messages to publish in all.
    limit: u64,
    /// Messages put, and of them those that were taken.
    put: u64,
    published: u64,
    confirms: Option<Confirms>,
    /// Messages returned.
    returned: u64,
    /// Messages put before the window, and taken before its end.
    put_before: u64,
    taken_in_time: Option<u64>,
    done: bool,
}

impl<L: PublishLink> Publisher<L> {
    /// Publishes at most `limit` messages, of so many copies.
    pub fn new(id: u16, link: L, pace: Pace, copies: Copies, limit: u64, confirms: Option<Confirms>) -> Self {
        Publisher {
            id,
            link,
            pace,
            copies,
            limit,
            put: 0,
            published: 0,
            confirms,
            returned: 0,
            put_before: 0,
            taken_in_time: None,
            done: false,
        }
    }

    /// Messages written so far.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Copies that they make.
    pub fn expected(&self) -> u64 {
        self.copies.of_first(self.published)
    }

    /// Messages confirmed so far.
    pub fn confirmed(&self) -> u64 {
        self.confirms.as_ref().map_or(0, |confirms| confirms.settled - confirms.refused)
    }

    /// Messages refused or returned.
    pub fn refused(&self) -> u64 {
        self.returned + self.confirms.as_ref().map_or(0, |confirms| confirms.refused)
    }

    /// Messages that were due in the window.
    pub fn due(&self) -> u64 {
        match self.pace {
            Pace::Flood => 0,
            Pace::Scheduled(_) => self.put - self.put_before,
        }
    }

    /// Messages of those that had not left when the window ended.
    pub fn late(&self) -> u64 {
        match self.pace {
            Pace::Flood => 0,
            Pace::Scheduled(_) if !self.done => self.put.max(1),
            Pace::Scheduled(_) => self.put - self.taken_in_time.unwrap_or(self.put),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Publishes what may be published now. Returns whether anything moved.
    pub(super) fn step(&mut self, shared: &Shared, recorder: &mut Recorder) -> Result<bool, LoadError> {
        let mut moved = self.read_answers(shared, recorder)?;
        if self.done {
            return Ok(moved);
        }
        if !self.link.unflushed() {
            self.fill(shared);
        }
        if self.link.unflushed() {
            moved |= self.link.flush()?;
            if !self.link.unflushed() {
                self.taken(shared, recorder);
            }
        } else if self.ended(shared) {
            self.done = true;
            // Release pairs with the acquire in `Shared::all_published`.
            shared.publishers_left.fetch_sub(1, Ordering::Release);
        }
        Ok(moved)
    }

    /// Puts as many messages as may leave now.
    fn fill(&mut self, shared: &Shared) {
        let now_ns = shared.clock.now_ns();
        if now_ns >= shared.window.to_ns {
            self.taken_in_time.get_or_insert(self.published);
        }
        let window = self.confirms.as_ref().map_or(u64::MAX, |confirms| confirms.room(self.published));
        let in_flight = match shared.room() {
            u64::MAX => u64::MAX,
            copies => copies.div_ceil(self.copies.most().max(1)),
        };
        let capacity = self.link.capacity() as u64;
        let room = window.min(in_flight).min(capacity).min(self.limit - self.published);
        for _ in 0..room {
            let due_ns = match &mut self.pace {
                Pace::Flood if now_ns < shared.window.to_ns => now_ns,
                Pace::Scheduled(schedule)
                    if schedule.next_due_ns() <= now_ns && schedule.next_due_ns() < shared.window.to_ns =>
                {
                    schedule.take()
                }
                _ => break,
            };
            self.link.put(Stamp { publisher: self.id, sequence: self.put, due_ns, sent_ns: now_ns });
            self.put += 1;
            if due_ns < shared.window.from_ns {
                self.put_before = self.put;
            }
            if let Some(confirms) = &mut self.confirms {
                confirms.sent(due_ns);
            }
        }
    }

    /// The kernel took what was put.
    fn taken(&mut self, shared: &Shared, recorder: &mut Recorder) {
        let now_ns = shared.clock.now_ns();
        if now_ns >= shared.window.to_ns {
            self.taken_in_time.get_or_insert(self.published);
        }
        let copies = self.copies.of_first(self.put) - self.copies.of_first(self.published);
        shared.count_published(self.put - self.published, copies);
        recorder.count_published(self.put - self.published, now_ns);
        self.published = self.put;
    }

    fn ended(&self, shared: &Shared) -> bool {
        let published_all = match &self.pace {
            Pace::Flood => shared.clock.now_ns() >= shared.window.to_ns,
            Pace::Scheduled(schedule) => schedule.next_due_ns() >= shared.window.to_ns,
        };
        (published_all || self.published == self.limit)
            && self.confirms.as_ref().is_none_or(|confirms| confirms.settled >= self.published)
    }

    fn read_answers(&mut self, shared: &Shared, recorder: &mut Recorder) -> Result<bool, LoadError> {
        let Some(confirms) = &mut self.confirms else { return Ok(false) };
        if confirms.settled == self.put {
            return Ok(false);
        }
        let returned = &mut self.returned;
        let mut now_ns = 0;
        self.link.receive(|answer| match answer {
            Answer::Confirmed { tag, multiple, refused } => {
                if now_ns == 0 {
                    now_ns = shared.clock.now_ns();
                }
                confirms.settle(tag, multiple, refused, |due_ns| recorder.confirmed(due_ns, now_ns));
            }
            Answer::Returned => *returned += 1,
        })
    }

    /// Adds what this publisher waits for; returns whether it needs not wait.
    pub(super) fn interests(&self, set: &mut PollSet) -> bool {
        let unwritten = self.link.unflushed();
        let unconfirmed = self.confirms.as_ref().is_some_and(|confirms| confirms.settled < self.published);
        let is_ready = (unwritten || unconfirmed) && self.link.stream().watch(set, unconfirmed, unwritten);
        is_ready || (unconfirmed && self.link.has_input())
    }

    /// When this publisher has something to do even if no socket is ready.
    pub(super) fn next_due_ns(&self, shared: &Shared) -> Option<u64> {
        let now_ns = shared.clock.now_ns();
        let soon_ns = now_ns + 50_000;
        match &self.pace {
            _ if self.done || self.link.unflushed() || self.published == self.limit => None,
            Pace::Scheduled(schedule) => {
                let due_ns = schedule.next_due_ns().min(shared.window.to_ns);
                let window_full =
                    self.confirms.as_ref().is_some_and(|confirms| confirms.room(self.published) == 0);
                match due_ns > now_ns {
                    true => Some(due_ns),
                    // Held up by confirms, which a socket tells, or by consumers on another thread, who do not tell.
                    false if window_full => None,
                    false => Some(soon_ns),
                }
            }
            Pace::Flood if self.confirms.is_some() && shared.room() > 0 => Some(shared.window.to_ns),
            Pace::Flood => Some(soon_ns),
        }
    }
}

/// What a publisher knows of its confirms.
#[derive(Debug)]
pub struct Confirms {
    window: u64,
    /// Everything up to this tag is settled.
    low: u64,
    /// When each message was due, from tag `low + 1` on; [`SETTLED`] if it is settled already.
    due_ns: VecDeque<u64>,
    settled: u64,
    refused: u64,
}

/// Stands for the time of a message that is settled.
const SETTLED: u64 = u64::MAX;

impl Confirms {
    /// At most so many unconfirmed.
    pub fn new(window: u64) -> Self {
        let room = window.min(1 << 20) as usize;
        Confirms { window, low: 0, due_ns: VecDeque::with_capacity(room), settled: 0, refused: 0 }
    }

    fn room(&self, published: u64) -> u64 {
        self.window.saturating_sub(published - self.settled)
    }

    fn sent(&mut self, due_ns: u64) {
        self.due_ns.push_back(due_ns);
    }

    fn settle(&mut self, tag: u64, multiple: bool, refused: bool, mut each: impl FnMut(u64)) {
        let known = self.due_ns.len();
        let Some(place) = tag.checked_sub(self.low + 1).map(|place| place as usize) else { return };
        let places = match multiple {
            true => 0..known.min(place + 1),
            false if place < known => place..place + 1,
            false => return,
        };
        for due_ns in self.due_ns.range_mut(places) {
            if *due_ns != SETTLED {
                each(*due_ns);
                *due_ns = SETTLED;
                self.settled += 1;
                self.refused += u64::from(refused);
            }
        }
        while self.due_ns.front() == Some(&SETTLED) {
            self.due_ns.pop_front();
            self.low += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confirms_settle_once_in_whatever_order_they_come() {
        let mut confirms = Confirms::new(10);
        let mut told = Vec::new();
        (1..=6).for_each(|tag| confirms.sent(tag));
        assert_eq!(confirms.room(6), 4);
        confirms.settle(2, false, false, |due_ns| told.push(due_ns));
        confirms.settle(2, false, false, |due_ns| told.push(due_ns));
        assert_eq!((confirms.settled, confirms.low), (1, 0));
        confirms.settle(3, true, false, |due_ns| told.push(due_ns));
        assert_eq!((confirms.settled, confirms.low), (3, 3));
        confirms.settle(5, false, true, |due_ns| told.push(due_ns));
        confirms.settle(4, false, false, |due_ns| told.push(due_ns));
        assert_eq!((confirms.settled, confirms.low, confirms.refused), (5, 5, 1));
        confirms.settle(99, true, false, |due_ns| told.push(due_ns));
        assert_eq!((confirms.settled, confirms.room(6)), (6, 10));
        confirms.settle(3, true, false, |due_ns| told.push(due_ns));
        assert_eq!(told, [2, 1, 3, 5, 4, 6]);
    }
}
