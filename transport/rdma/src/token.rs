//! The number that goes with a request and comes back with its end: slot (24 bits), generation (16), kind (1), and which
//! receive buffer or send (23).

use fulmar_transport::ConnId;

/// What ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Send,
    Receive,
}

const WHICH_BITS: u32 = 23;
/// Of the number of a send, this much comes back.
pub(crate) const WHICH_MASK: u32 = (1 << WHICH_BITS) - 1;

/// Of a request of this connection.
pub(crate) fn make(id: ConnId, kind: Kind, which: u32) -> u64 {
    let kind = u64::from(kind == Kind::Receive);
    u64::from(id.index) << 40
        | u64::from(id.generation as u16) << 24
        | kind << WHICH_BITS
        | u64::from(which & WHICH_MASK)
}

/// Slot, the lower half of its generation, kind, and which.
pub(crate) fn split(token: u64) -> (u32, u16, Kind, u32) {
    let kind = if token >> WHICH_BITS & 1 == 1 { Kind::Receive } else { Kind::Send };
    ((token >> 40) as u32, (token >> 24) as u16, kind, token as u32 & WHICH_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_back() {
        let id = ConnId { index: 0x00ff_fffe, generation: 0x1234_5678 };
        for kind in [Kind::Send, Kind::Receive] {
            assert_eq!(split(make(id, kind, WHICH_MASK)), (0x00ff_fffe, 0x5678, kind, WHICH_MASK));
        }
    }
}
