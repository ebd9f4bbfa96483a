//! Credit of one connection: how many messages either side may send before the other has room again.
//!
//! 1. Every message costs one, also one that only grants.
//! 2. The last one is kept for a message that grants: two sides that are both out could never speak again.
//! 3. What is granted is backed by a receive that is posted already.

/// See the module's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credit {
    /// Messages that may be sent.
    transmit: u32,
    /// Receives posted that the other side does not know of.
    owed: u32,
    /// Owed ones that are told at once, without waiting for data to go along.
    tell_at: u32,
}

impl Credit {
    /// Of a connection on which this side may send `transmit` messages and the other one `granted`.
    pub(crate) fn new(transmit: u16, granted: u16) -> Self {
        Credit { transmit: transmit.into(), owed: 0, tell_at: (u32::from(granted) / 2).max(2) }
    }

    /// Whether a message with data may go.
    pub(crate) fn may_send(&self) -> bool {
        self.transmit > 1 || (self.transmit == 1 && self.owed > 0)
    }

    /// Whether a message that only grants should go, with `fresh` more receives posted.
    pub(crate) fn should_tell(&self, fresh: u32) -> bool {
        self.owed + fresh >= self.tell_at && self.transmit > 0
    }

    /// Whether `fresh` more receives should be posted for a message that goes anyway: several at once cost no more, and the
    /// other side has most of its credit yet.
    pub(crate) fn is_worth_telling(&self, fresh: u32) -> bool {
        let may_wait = self.transmit > 1 && fresh * 2 < self.tell_at;
        self.transmit > 0 && !may_wait
    }

    /// Whether any message may go.
    pub(crate) fn may_tell(&self) -> bool {
        self.transmit > 0
    }

    /// Receives have been posted.
    pub(crate) fn posted(&mut self, count: u32) {
        self.owed += count;
    }

    /// A message goes: what it grants.
    pub(crate) fn send(&mut self) -> u32 {
        assert!(self.transmit > 0, "a message without credit");
        self.transmit -= 1;
        std::mem::take(&mut self.owed)
    }

    /// A message came with this. `Err` if no peer can have so much room.
    pub(crate) fn granted(&mut self, credit: u32) -> Result<(), String> {
        self.transmit = self.transmit.saturating_add(credit);
        // A peer has as many receives as its queue is deep, and no device's is deeper.
        if self.transmit > 0xffff { Err(format!("a credit of {} cannot be", self.transmit)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::wire::LEAST_CREDIT;

    #[test]
    fn the_last_one_carries_credit_or_stays() {
        let mut credit = Credit::new(2, 8);
        assert!(credit.may_send());
        assert_eq!(credit.send(), 0);
        assert!(!credit.may_send());
        credit.posted(1);
        assert!(credit.may_send());
        assert_eq!(credit.send(), 1);
        credit.posted(8);
        assert!(!credit.may_send() && !credit.should_tell(0), "nothing goes without credit");
        credit.granted(1).unwrap();
        assert!(credit.should_tell(0));
        assert!(credit.granted(0xffff).is_err());
    }

    /// One side: its credit, receives that are posted, messages on their way to it, data that it wants to send.
    struct End {
        credit: Credit,
        posted: u32,
        inbox: VecDeque<(bool, u32)>,
        unread: u32,
        to_send: u32,
        got: u32,
    }

    impl End {
        fn new(transmit: u16, granted: u16, to_send: u32) -> Self {
            End {
                credit: Credit::new(transmit, granted),
                posted: granted.into(),
                inbox: VecDeque::new(),
                unread: 0,
                to_send,
                got: 0,
            }
        }

        fn step(&mut self, peer: &mut End, reads: bool) -> bool {
            let mut moved = false;
            while let Some((data, credit)) = self.inbox.pop_front() {
                self.posted -= 1;
                self.credit.granted(credit).unwrap();
                self.got += u32::from(data);
                self.unread += 1;
                moved = true;
            }
            if reads {
                moved |= self.unread > 0;
                self.posted += self.unread;
                self.credit.posted(std::mem::take(&mut self.unread));
            }
            while self.to_send > 0 && self.credit.may_send() {
                self.to_send -= 1;
                moved = true;
                let credit = self.credit.send();
                peer.arrive(true, credit);
            }
            if self.credit.should_tell(0) && self.credit.may_tell() {
                let credit = self.credit.send();
                peer.arrive(false, credit);
                moved = true;
            }
            moved
        }

        fn arrive(&mut self, data: bool, credit: u32) {
            self.inbox.push_back((data, credit));
            assert!(self.inbox.len() as u32 <= self.posted, "a message without a receive");
        }
    }

    proptest! {
        #[test]
        fn everything_arrives_whatever_the_order(
            one in LEAST_CREDIT..=64u16,
            two in LEAST_CREDIT..=64u16,
            first in 0..500u32,
            second in 0..500u32,
            order in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..300),
        ) {
            let mut left = End::new(two, one, first);
            let mut right = End::new(one, two, second);
            for (which, reads) in order {
                if which { left.step(&mut right, reads); } else { right.step(&mut left, reads); }
            }
            let mut rounds = 0;
            loop {
                rounds += 1;
                prop_assert!(rounds < 10_000, "grants answer grants");
                let moved = left.step(&mut right, true);
                if !right.step(&mut left, true) && !moved {
                    break;
                }
            }
            prop_assert_eq!((left.to_send, right.to_send), (0, 0));
            prop_assert_eq!((right.got, left.got), (first, second));
        }
    }
}
