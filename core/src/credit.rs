//! Credit of a consumer: how many messages, and how many bytes of them, may still be sent to it.

/// Messages and bytes that a consumer may be sent. [`Credit::UNLIMITED`] in a field takes that bound away.
///
/// A byte of credit is a byte of a message's encoded properties or of its body. A message is sent only if there is
/// credit for the whole of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    /// Messages.
    pub messages: u32,
    /// Bytes of properties and bodies.
    pub bytes: u32,
}

impl Credit {
    /// In a field: no bound.
    pub const UNLIMITED: u32 = u32::MAX;

    /// None of either.
    pub const NONE: Credit = Credit { messages: 0, bytes: 0 };

    /// Adds to both; what would overflow stops one below [`Credit::UNLIMITED`], which stays what it is.
    pub fn grant(&mut self, more: Credit) {
        self.messages = added(self.messages, more.messages);
        self.bytes = added(self.bytes, more.bytes);
    }

    /// Whether a message of so many bytes may be sent.
    #[inline]
    pub fn covers(&self, bytes: usize) -> bool {
        self.messages > 0 && (self.bytes == Credit::UNLIMITED || self.bytes as usize >= bytes)
    }

    /// Takes off what was sent.
    ///
    /// # Panics
    /// If it was not covered.
    #[inline]
    pub(crate) fn spend(&mut self, messages: u32, bytes: usize) {
        if self.messages != Credit::UNLIMITED {
            assert!(self.messages >= messages, "no message is sent without credit");
            self.messages -= messages;
        }
        if self.bytes != Credit::UNLIMITED {
            assert!(self.bytes as usize >= bytes, "no byte is sent without credit");
            self.bytes -= bytes as u32;
        }
    }

    /// Most messages that may be sent, whatever their size.
    #[inline]
    pub(crate) fn most_messages(&self) -> usize {
        if self.messages == Credit::UNLIMITED { usize::MAX } else { self.messages as usize }
    }

    /// Whether bytes are not bounded, so that one need not look at messages to count them.
    #[inline]
    pub(crate) fn counts_messages_only(&self) -> bool {
        self.bytes == Credit::UNLIMITED
    }
}

fn added(credit: u32, more: u32) -> u32 {
    if credit == Credit::UNLIMITED || more == Credit::UNLIMITED {
        return Credit::UNLIMITED;
    }
    credit.saturating_add(more).min(Credit::UNLIMITED - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_exact_to_the_byte() {
        let mut credit = Credit { messages: 2, bytes: 30 };
        assert!(credit.covers(30) && !credit.covers(31));
        credit.spend(1, 10);
        assert_eq!(credit, Credit { messages: 1, bytes: 20 });
        credit.spend(1, 0);
        assert!(!credit.covers(0), "bytes alone do not pay for a message");
    }

    #[test]
    fn no_bound_stays_and_no_sum_becomes_none() {
        let mut credit = Credit { messages: u32::MAX - 5, bytes: 1 };
        credit.grant(Credit { messages: 10, bytes: Credit::UNLIMITED });
        assert_eq!(credit, Credit { messages: u32::MAX - 1, bytes: Credit::UNLIMITED });
        credit.spend(1, usize::MAX);
        credit.grant(Credit { messages: 0, bytes: 7 });
        assert_eq!(credit, Credit { messages: u32::MAX - 2, bytes: Credit::UNLIMITED });
        assert!(credit.covers(usize::MAX));
    }
}
