//! A non-blocking socket under load, with room for what has been read of an incomplete frame.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use crate::driver::{FRAME_MAX_BYTES, Link};
use crate::load::LoadError;
use crate::wire::WireError;

/// Holds the largest frame and a good read behind it.
const INPUT_BYTES: usize = 2 * FRAME_MAX_BYTES as usize;

/// The socket and its input.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    input: Box<[u8]>,
    /// Bytes of `input` that are filled.
    filled: usize,
    /// There is input that was never looked at, though nothing new may come.
    fresh: bool,
}

impl Socket {
    /// Goes on where the set-up of the connection ended.
    pub fn new(link: Link) -> Self {
        let mut input = vec![0; INPUT_BYTES].into_boxed_slice();
        let filled = link.received.len();
        input[..filled].copy_from_slice(&link.received);
        Socket { stream: link.socket, input, filled, fresh: filled > 0 }
    }

    /// Writes what the kernel takes now; returns how much.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stream.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    /// Reads what is there and hands it to `walk`, which returns how much it took; the rest is kept for the next
    /// time. Returns whether anything was there.
    ///
    /// # Errors
    /// The system's, the end of the connection, and what `walk` returned.
    pub fn read_frames(
        &mut self,
        walk: impl FnOnce(&[u8]) -> Result<usize, WireError>,
    ) -> Result<bool, LoadError> {
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => return Err(LoadError::Ended),
            Ok(received) => self.filled += received,
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.fresh => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.fresh = false;
        let taken = walk(&self.input[..self.filled])?;
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(true)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}
