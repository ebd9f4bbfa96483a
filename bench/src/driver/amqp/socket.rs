//! A non-blocking connection under load, with room for what has been read of an incomplete frame.

use std::os::fd::{AsRawFd, RawFd};

use super::FRAME_MAX_BYTES;
use super::wire::{Walked, WireError};
use crate::driver::stream::Stream;
use crate::load::LoadError;

/// Holds the largest frame and a good read behind it.
const INPUT_BYTES: usize = 2 * FRAME_MAX_BYTES as usize;

/// The stream and its input.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    input: Box<[u8]>,
    /// Where in `input` lies what has been read and not taken.
    start: usize,
    end: usize,
    /// There may be a complete frame in `input`, or more than it holds beneath it.
    more: bool,
}

impl Socket {
    /// Goes on where the set-up of the connection ended, with what it had read already.
    pub fn new(stream: Stream, received: &[u8]) -> Self {
        let mut input = vec![0; INPUT_BYTES].into_boxed_slice();
        input[..received.len()].copy_from_slice(received);
        Socket { stream, input, start: 0, end: received.len(), more: true }
    }

    /// What carries it.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Writes what is taken now; returns how much.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, LoadError> {
        Ok(self.stream.write_now(bytes)?.unwrap_or(0))
    }

    /// Whether bytes were taken that the kernel does not have yet.
    pub fn holds_output(&self) -> bool {
        self.stream.holds_output()
    }

    /// Hands the kernel such bytes; returns whether it took any.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn push(&mut self) -> Result<bool, LoadError> {
        Ok(self.stream.push()?)
    }

    /// Whether there may be input that no socket will announce.
    pub fn has_input(&self) -> bool {
        self.more
    }

    /// Reads what is there and hands it to `walk`, which tells how much it took; the rest is kept for the next time.
    /// Returns whether anything was there.
    ///
    /// # Errors
    /// The connection is of no more use, or what `walk` returned.
    #[inline]
    pub fn read_frames(
        &mut self,
        walk: impl FnOnce(&[u8]) -> Result<Walked, WireError>,
    ) -> Result<bool, LoadError> {
        let kept = self.more && self.start < self.end;
        if self.start > 0 && self.input.len() - self.end < FRAME_MAX_BYTES as usize {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = self.input.len() - self.end;
        match self.stream.read_now(&mut self.input[self.end..])? {
            Some(0) if room > 0 => return Err(LoadError::Ended),
            Some(received) => {
                self.more = received == room || self.stream.holds_input();
                self.end += received;
            }
            None if kept => self.more = false,
            None => {
                self.more = false;
                return Ok(false);
            }
        }
        let walked = walk(&self.input[self.start..self.end])?;
        self.start += walked.bytes;
        self.more |= walked.stopped;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(true)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
