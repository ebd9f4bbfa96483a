//! Publisher confirms of one channel: collected during a turn, written at its end, neighbours together.

use std::collections::VecDeque;

/// State of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Queues have not answered.
    Pending,
    /// To be confirmed.
    Accepted,
    /// To be refused.
    Rejected,
    /// The client has been told, before an earlier publish was resolved.
    Told,
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// `basic.ack` rather than `basic.nack`.
    pub accepted: bool,
    /// Delivery tag.
    pub tag: u64,
    /// All up to the tag.
    pub multiple: bool,
}

/// The publishes of a channel in confirm mode that the client has not been told about.
#[derive(Debug)]
pub(super) struct Confirms {
    /// States by number; the first one is that of `first`.
    states: VecDeque<State>,
    /// Number of the first publish in `states`; the client counts from 1.
    first: u64,
    /// So many of them, from the first one on, are resolved.
    prefix: usize,
    /// Numbers resolved since the last flush while an earlier one was not.
    resolved: Vec<u64>,
    /// Whether there may be something to tell.
    dirty: bool,
}

impl Default for Confirms {
    fn default() -> Self {
        Confirms { states: VecDeque::new(), first: 1, prefix: 0, resolved: Vec::new(), dirty: false }
    }
}

impl Confirms {
    /// The number of the next publish.
    pub fn next(&self) -> u64 {
        self.first + self.states.len() as u64
    }

    /// Numbers a new publish.
    pub fn begin(&mut self) -> u64 {
        let number = self.next();
        self.states.push_back(State::Pending);
        number
    }

    /// The end of a publish. Returns whether this is the first one since the last flush.
    pub fn resolve(&mut self, number: u64, accepted: bool) -> bool {
        let Some(at) = number.checked_sub(self.first) else { return false };
        let Some(state) = self.states.get_mut(at as usize) else { return false };
        if *state != State::Pending {
            return false;
        }
        *state = if accepted { State::Accepted } else { State::Rejected };
        if at as usize == self.prefix {
            self.prefix += 1;
            while self.states.get(self.prefix).is_some_and(|&state| state != State::Pending) {
                self.prefix += 1;
            }
        } else {
            self.resolved.push(number);
        }
        !std::mem::replace(&mut self.dirty, true)
    }

    /// Tells what has been resolved.
    pub fn flush(&mut self, mut tell: impl FnMut(Notice)) {
        self.dirty = false;
        let mut run: Option<(bool, u64, u64)> = None;
        for state in self.states.drain(..self.prefix) {
            if let State::Accepted | State::Rejected = state {
                let accepted = state == State::Accepted;
                run = Some(match run {
                    Some((kind, from, _)) if kind == accepted => (kind, from, self.first),
                    other => {
                        tell_run(other, &mut tell);
                        (accepted, self.first, self.first)
                    }
                });
            }
            self.first += 1;
        }
        self.prefix = 0;
        tell_run(run, &mut tell);
        for number in self.resolved.drain(..) {
            let Some(at) = number.checked_sub(self.first) else { continue };
            let state = &mut self.states[at as usize];
            if let State::Accepted | State::Rejected = *state {
                tell(Notice { accepted: *state == State::Accepted, tag: number, multiple: false });
                *state = State::Told;
            }
        }
    }
}

fn tell_run(run: Option<(bool, u64, u64)>, tell: &mut impl FnMut(Notice)) {
    if let Some((accepted, from, to)) = run {
        tell(Notice { accepted, tag: to, multiple: from != to });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushed(confirms: &mut Confirms) -> Vec<(bool, u64, bool)> {
        let mut notices = Vec::new();
        confirms.flush(|notice| notices.push((notice.accepted, notice.tag, notice.multiple)));
        notices
    }

    #[test]
    fn neighbours_are_told_together() {
        let mut confirms = Confirms::default();
        for number in 1..=4 {
            assert_eq!(confirms.begin(), number);
        }
        assert!(confirms.resolve(1, true));
        assert!(!confirms.resolve(2, true));
        confirms.resolve(3, false);
        confirms.resolve(4, true);
        assert_eq!(flushed(&mut confirms), [(true, 2, true), (false, 3, false), (true, 4, false)]);
        assert_eq!(flushed(&mut confirms), []);
        assert_eq!(confirms.begin(), 5);
    }

    #[test]
    fn a_late_publish_does_not_hold_others_back_and_is_not_covered_by_them() {
        let mut confirms = Confirms::default();
        (0..5).for_each(|_| assert!(confirms.begin() > 0));
        confirms.resolve(2, true);
        confirms.resolve(3, true);
        confirms.resolve(5, false);
        assert_eq!(flushed(&mut confirms), [(true, 2, false), (true, 3, false), (false, 5, false)]);
        confirms.resolve(1, true);
        confirms.resolve(2, false);
        assert_eq!(flushed(&mut confirms), [(true, 1, false)]);
        confirms.resolve(4, true);
        assert_eq!(flushed(&mut confirms), [(true, 4, false)]);
        assert_eq!(confirms.begin(), 6);
        confirms.resolve(6, true);
        assert_eq!(flushed(&mut confirms), [(true, 6, false)]);
    }

    proptest::proptest! {
        /// Whatever the order and the flushes between: each publish is told once, as it ended.
        #[test]
        fn each_is_told_once(order in proptest::collection::vec((0u64..40, proptest::bool::ANY, proptest::bool::ANY), 0..80)) {
            let mut confirms = Confirms::default();
            (0..40).for_each(|_| assert!(confirms.begin() > 0));
            let mut ends = std::collections::BTreeMap::new();
            let mut told = std::collections::BTreeMap::new();
            for (number, accepted, flush) in order {
                confirms.resolve(number + 1, accepted);
                ends.entry(number + 1).or_insert(accepted);
                if flush {
                    confirms.flush(|notice| {
                        let from = if notice.multiple { 1 } else { notice.tag };
                        for tag in from..=notice.tag {
                            told.entry(tag).or_insert(notice.accepted);
                        }
                    });
                    assert_eq!(ends, told);
                }
            }
        }
    }
}
