//! The commands that the peer sends in a session: their ids, which are complete, and what the peer has to be told.
//!
//! Commands are complete in any order, mostly in theirs; then nothing here grows.

use std::collections::VecDeque;

use super::ranges::Ranges;
use crate::codec::SequenceNo;

/// The peer is asked to tell what it knows to be complete when it has been told of so many commands.
const KNOWN_COMPLETED_EVERY: u32 = 65_536;
/// So many complete commands are told at most; a peer that never says what it knows has heard of the older ones.
const MOST_TOLD: u32 = 1 << 30;

/// A command that has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CommandId {
    /// The number by which the core confirms it: its id, counted on over the wrap.
    pub number: u64,
}

impl CommandId {
    /// The id on the wire.
    #[inline]
    pub fn id(self) -> SequenceNo {
        SequenceNo(self.number as u32)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    /// The next command on the wire; behind `received` while the peer repeats some.
    expected: u64,
    /// The next command that was never seen.
    received: u64,
    /// Every command before this one is complete.
    low: u64,
    /// Complete ones from `low` on.
    ahead: Ranges,
    /// Complete ones of which the peer has not said that it knows.
    unknown: Ranges,
    /// Since the peer was last asked to say what it knows.
    since_asked: u32,
    /// Commands whose completion the peer waits for, in order.
    sync_points: VecDeque<u64>,
    /// Commands that are complete when all before them are, in order.
    syncs: VecDeque<u64>,
}

impl Incoming {
    /// The id of the next command.
    pub fn expected(&self) -> SequenceNo {
        SequenceNo(self.expected as u32)
    }

    /// The id after the last command that was seen.
    pub fn received(&self) -> SequenceNo {
        SequenceNo(self.received as u32)
    }

    /// Whether any command has come.
    pub fn has_begun(&self) -> bool {
        self.received != 0
    }

    /// `session.command-point`: the id of the next command. `Err`: commands would be left out.
    pub fn set_point(&mut self, id: SequenceNo, resumed: bool) -> Result<(), ()> {
        let ahead = id.since(self.received());
        if resumed && ahead > 0 {
            return Err(());
        }
        if ahead > 0 || !self.has_begun() {
            // What is left out counts as complete. Numbers go on growing, whatever the id.
            let number = self.received + u64::from(id.0.wrapping_sub(self.received as u32));
            self.expected = number;
            self.received = number;
            self.low = number;
            self.ahead.clear();
        } else {
            self.expected = self.received - u64::from(ahead.unsigned_abs());
        }
        Ok(())
    }

    /// A command begins. `None`: it was seen before.
    #[inline]
    pub fn begin(&mut self) -> Option<CommandId> {
        self.begin_many(1)
    }

    /// So many commands begin, of which the first is returned. `None`: it was seen before, and one has passed.
    #[inline]
    pub fn begin_many(&mut self, count: u64) -> Option<CommandId> {
        let number = self.expected;
        if number < self.received {
            self.expected += 1;
            return None;
        }
        self.expected += count;
        self.received = self.expected;
        Some(CommandId { number })
    }

    /// The number of the next command.
    #[inline]
    pub fn next_number(&self) -> u64 {
        self.expected
    }

    /// The command that began last will not come to its end, and is expected anew.
    pub fn abort(&mut self, command: CommandId) {
        if command.number + 1 == self.received {
            self.received = command.number;
            self.expected = command.number;
        }
    }

    /// Whether the next command was not seen before.
    #[inline]
    pub fn is_new(&self) -> bool {
        self.expected == self.received
    }

    /// A command is complete.
    #[inline]
    pub fn complete(&mut self, command: CommandId) {
        self.complete_many(command, 1);
    }

    /// So many commands are complete, from this one on.
    #[inline]
    pub fn complete_many(&mut self, command: CommandId, count: u64) {
        let (first, last) = (command.number, command.number + count - 1);
        let ids = (SequenceNo(first as u32), SequenceNo(last as u32));
        self.unknown.add_range(ids.0, ids.1);
        self.since_asked = self.since_asked.saturating_add(count as u32);
        if first != self.low {
            // One that the peer has meanwhile left behind with a command point needs no place.
            if first > self.low {
                self.ahead.add_range(ids.0, ids.1);
            }
            return;
        }
        self.low = last + 1;
        if !self.ahead.is_empty() || !self.syncs.is_empty() {
            self.catch_up();
        }
    }

    fn catch_up(&mut self) {
        loop {
            match self.ahead.first() {
                Some((first, last)) if first.0 == self.low as u32 => {
                    self.low += 1 + u64::from(last.0.wrapping_sub(first.0));
                    self.ahead.pop_first();
                }
                _ if self.syncs.front() == Some(&self.low) => {
                    self.syncs.pop_front();
                    let id = SequenceNo(self.low as u32);
                    self.unknown.add_range(id, id);
                    self.low += 1;
                }
                _ => return,
            }
        }
    }

    /// A command that is complete as soon as all before it are.
    pub fn complete_in_turn(&mut self, command: CommandId) {
        if command.number <= self.low {
            return self.complete(command);
        }
        self.syncs.push_back(command.number);
    }

    /// Whether the command is complete.
    fn is_complete(&self, number: u64) -> bool {
        number < self.low || self.ahead.contains(SequenceNo(number as u32))
    }

    /// The peer waits for this command. It is told as soon as the command is complete.
    pub fn await_completion(&mut self, command: CommandId) {
        self.sync_points.push_back(command.number);
    }

    /// Whether a command that the peer waits for has become complete since it was last told.
    pub fn reached_sync_point(&mut self) -> bool {
        let before = self.sync_points.len();
        while self.sync_points.front().is_some_and(|&number| self.is_complete(number)) {
            self.sync_points.pop_front();
        }
        self.sync_points.len() < before
    }

    /// Whether the peer should be told, so that neither side's books grow without end.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.since_asked >= KNOWN_COMPLETED_EVERY
    }

    /// What the peer is to be told, and whether it is asked to say that it knows.
    pub fn tell(&mut self, ask: bool) -> (&Ranges, bool) {
        let ask = ask || self.is_due();
        if ask {
            self.since_asked = 0;
        }
        self.unknown.limit_span(MOST_TOLD);
        (&self.unknown, ask)
    }

    /// What the peer has not said to know.
    pub fn unknown(&self) -> &Ranges {
        &self.unknown
    }

    /// The peer knows that these are complete. `Err`: some of them were never received.
    pub fn known(&mut self, first: SequenceNo, last: SequenceNo) -> Result<(), ()> {
        if !last.is_before(self.received()) {
            return Err(());
        }
        self.unknown.remove_range(first, last);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(incoming: &mut Incoming) -> CommandId {
        incoming.begin().expect("a new command")
    }

    #[test]
    fn completion_in_any_order() {
        let mut incoming = Incoming::default();
        let ids: Vec<_> = (0..4).map(|_| begin(&mut incoming)).collect();
        incoming.complete(ids[2]);
        incoming.complete(ids[0]);
        assert_eq!((incoming.low, incoming.unknown().count()), (1, 2));
        incoming.complete(ids[1]);
        assert_eq!(incoming.low, 3);
        assert_eq!(incoming.unknown().first(), Some((SequenceNo(0), SequenceNo(2))));
    }

    #[test]
    fn ids_go_on_over_the_wrap() {
        let mut incoming = Incoming::default();
        incoming.set_point(SequenceNo(u32::MAX - 1), false).unwrap();
        let ids: Vec<_> = (0..4).map(|_| begin(&mut incoming)).collect();
        assert_eq!(ids[3].id(), SequenceNo(1));
        assert!(ids.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
        ids.iter().rev().for_each(|&id| incoming.complete(id));
        assert_eq!(incoming.low, ids[3].number + 1);
        assert_eq!(incoming.unknown().first(), Some((SequenceNo(u32::MAX - 1), SequenceNo(1))));
        assert!(incoming.known(SequenceNo(u32::MAX - 1), SequenceNo(2)).is_err());
        incoming.known(SequenceNo(u32::MAX - 1), SequenceNo(0)).unwrap();
        assert_eq!(incoming.unknown().count(), 1);
    }

    #[test]
    fn repeated_commands_are_known() {
        let mut incoming = Incoming::default();
        for _ in 0..5 {
            let id = begin(&mut incoming);
            incoming.complete(id);
        }
        assert!(incoming.set_point(SequenceNo(6), true).is_err());
        incoming.set_point(SequenceNo(3), true).unwrap();
        assert_eq!((incoming.begin(), incoming.begin()), (None, None));
        assert_eq!(begin(&mut incoming).id(), SequenceNo(5));
    }

    #[test]
    fn a_sync_waits_for_all_before_it() {
        let mut incoming = Incoming::default();
        let ids: Vec<_> = (0..4).map(|_| begin(&mut incoming)).collect();
        incoming.complete_in_turn(ids[2]);
        incoming.complete(ids[3]);
        incoming.complete(ids[1]);
        assert!(!incoming.unknown().contains(ids[2].id()));
        incoming.complete(ids[0]);
        assert_eq!((incoming.low, incoming.unknown().count()), (4, 4));
    }

    #[test]
    fn the_peer_is_told_what_it_waits_for() {
        let mut incoming = Incoming::default();
        let ids: Vec<_> = (0..3).map(|_| begin(&mut incoming)).collect();
        incoming.await_completion(ids[1]);
        incoming.complete(ids[0]);
        assert!(!incoming.reached_sync_point());
        incoming.complete(ids[1]);
        assert!(incoming.reached_sync_point() && !incoming.reached_sync_point());
    }
}
