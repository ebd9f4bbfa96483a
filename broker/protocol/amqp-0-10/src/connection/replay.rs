//! The commands that a resumable session has sent and that its peer may not have received: their frames, to be sent again.

/// Bytes of commands after which the peer is asked what it has received.
const FLUSH_BYTES: usize = 1 << 20;
/// Most bytes of commands kept; a peer that confirms none of them cannot resume.
const MOST_BYTES: usize = 16 << 20;
/// Of a frame's first octet: the first frame of the first segment, where a command begins.
const COMMAND_BEGINS: u8 = 0b1010;
/// Where a frame's head has its size, and its channel.
const SIZE_AT: usize = 2;
const CHANNEL_AT: usize = 6;

/// See the module.
#[derive(Debug)]
pub(super) struct Replay {
    /// The number of the first command that is kept.
    first: u64,
    frames: Vec<u8>,
    /// Bytes since the peer was last asked.
    unasked: usize,
}

impl Replay {
    /// From the command of that number on.
    pub fn new(first: u64) -> Self {
        Replay { first, frames: Vec::new(), unasked: 0 }
    }

    /// Keeps commands that follow those that are kept. Whether the peer should be asked what it has received.
    pub fn record(&mut self, frames: &[u8]) -> bool {
        self.frames.extend_from_slice(frames);
        self.unasked += frames.len();
        let ask = self.unasked >= FLUSH_BYTES;
        if ask {
            self.unasked = 0;
        }
        ask
    }

    /// Whether too much is kept.
    pub fn is_full(&self) -> bool {
        self.frames.len() > MOST_BYTES
    }

    /// The peer has received the commands from `first` to `last`.
    pub fn confirm(&mut self, first: u64, last: u64) {
        if first <= self.first && last >= self.first {
            let at = self.place(last + 1);
            self.frames.drain(..at);
            self.first = last + 1;
        }
    }

    /// The frames of the commands from that number on, of which the next one is `next`, for a channel. `None`: not all of
    /// them are kept.
    pub fn from(&mut self, number: u64, next: u64, channel: u16) -> Option<&[u8]> {
        if number < self.first || number > next {
            return None;
        }
        let at = self.place(number);
        let mut place = at;
        while let Some(size) = size(&self.frames[place..]) {
            self.frames[place + CHANNEL_AT..place + CHANNEL_AT + 2].copy_from_slice(&channel.to_be_bytes());
            place += size;
        }
        Some(&self.frames[at..])
    }

    /// Where the command of that number begins; the end if it is not there.
    fn place(&self, number: u64) -> usize {
        let (mut place, mut next) = (0, self.first);
        while let Some(size) = size(&self.frames[place..]) {
            if self.frames[place] & COMMAND_BEGINS == COMMAND_BEGINS {
                if next == number {
                    return place;
                }
                next += 1;
            }
            place += size;
        }
        place
    }
}

/// Length of the frame at the beginning.
fn size(frames: &[u8]) -> Option<usize> {
    let size = frames.get(SIZE_AT..SIZE_AT + 2)?;
    Some(usize::from(u16::from_be_bytes([size[0], size[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::frame::parse;
    use crate::codec::table::{ExecutionSync, SessionHeader};
    use crate::codec::transfer::{self, Transfer};
    use crate::codec::{Command, Frame};

    #[test]
    fn what_is_not_confirmed_comes_again() {
        let mut replay = Replay::new(7);
        let body = [b'x'; 5000];
        for n in 0..4 {
            let mut frames = Vec::new();
            if n % 2 == 0 {
                let transfer =
                    Transfer { header: b"\0\0\0\x04\x04\x01\0\0", body: &body, ..Default::default() };
                transfer::encode(&transfer, 1, 4096, &mut frames);
            } else {
                let sync = Command::from(ExecutionSync {});
                sync.encode_frames(SessionHeader { sync: false }, 1, 4096, &mut frames);
            }
            assert!(!replay.record(&frames));
        }
        let commands = |frames: &[u8]| {
            let (mut rest, mut count) = (frames, 0);
            while let Some((Frame { channel, flags, .. }, taken)) = parse(rest, 0).unwrap() {
                assert_eq!(channel, 9);
                count += usize::from(flags.first_segment && flags.first_frame);
                rest = &rest[taken..];
            }
            assert!(rest.is_empty());
            count
        };
        assert_eq!(replay.from(7, 11, 9).map(commands), Some(4));
        assert_eq!(replay.from(9, 11, 9).map(commands), Some(2));
        replay.confirm(8, 8);
        assert_eq!(replay.from(7, 11, 9).map(commands), Some(4), "the first one may be missing");
        replay.confirm(0, 8);
        assert_eq!(replay.from(8, 11, 9), None);
        assert_eq!(replay.from(9, 11, 9).map(commands), Some(2));
        assert_eq!(replay.from(11, 11, 9), Some(&b""[..]));
        assert_eq!(replay.from(12, 11, 9), None);
    }
}
