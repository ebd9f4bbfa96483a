//! What a publisher writes at the start of every body, so that whoever receives it can tell what became of it.

/// Bytes of a body that a [`Stamp`] takes; the least body size.
pub const STAMP_BYTES: usize = 24;

/// Number and times of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which publisher.
    pub publisher: u16,
    /// Count of this publisher's messages, from 0; 48 bits.
    pub sequence: u64,
    /// When it should have left, on the run's clock; without a schedule, when it did.
    pub due_ns: u64,
    /// When it was handed to the socket.
    pub sent_ns: u64,
}

impl Stamp {
    /// As it stands in a body.
    #[inline]
    pub fn to_bytes(self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..8].copy_from_slice(&(u64::from(self.publisher) << 48 | self.sequence).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.due_ns.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sent_ns.to_le_bytes());
        bytes
    }

    /// From the start of a body.
    #[inline]
    pub fn from_bytes(bytes: &[u8; STAMP_BYTES]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Stamp {
            publisher: (word(0) >> 48) as u16,
            sequence: word(0) & ((1 << 48) - 1),
            due_ns: word(8),
            sent_ns: word(16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        let stamp = Stamp { publisher: 65_535, sequence: (1 << 48) - 1, due_ns: 7, sent_ns: u64::MAX };
        assert_eq!(Stamp::from_bytes(&stamp.to_bytes()), stamp);
    }
}
