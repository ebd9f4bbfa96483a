//! Publishers and consumers under load.

use std::os::fd::{AsRawFd, RawFd};

use fulmar_amqp_0_9_1::codec::fast;

use super::batch::{Batch, Contents};
use super::socket::Socket;
use super::wire::{Item, Walker};
use super::{CHANNEL, FRAME_MAX_BYTES};
use crate::driver::stream::Stream;
use crate::driver::{Answer, ConsumeLink, Link, PublishLink, Received};
use crate::load::LoadError;
use crate::stamp::Stamp;

/// A connection that publishes.
#[derive(Debug)]
pub struct Publisher {
    socket: Socket,
    walker: Walker,
    batch: Batch,
    /// Bytes of the batch that were taken.
    written: usize,
}

impl Publisher {
    /// Goes on where the set-up of the connection ended.
    pub fn new(stream: Stream, received: &[u8], contents: Contents) -> Self {
        Publisher {
            socket: Socket::new(stream, received),
            walker: Walker::new(FRAME_MAX_BYTES as usize),
            batch: Batch::new(contents),
            written: 0,
        }
    }
}

impl AsRawFd for Publisher {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Link for Publisher {
    fn stream(&self) -> &Stream {
        self.socket.stream()
    }

    #[inline]
    fn unflushed(&self) -> bool {
        !self.batch.bytes().is_empty() || self.socket.holds_output()
    }

    fn has_input(&self) -> bool {
        self.socket.has_input()
    }

    #[inline]
    fn flush(&mut self) -> Result<bool, LoadError> {
        let mut moved = self.socket.push()?;
        let rest = &self.batch.bytes()[self.written..];
        if !rest.is_empty() && !self.socket.holds_output() {
            let written = self.socket.write(rest)?;
            moved |= written > 0;
            self.written += written;
            if self.written == self.batch.bytes().len() {
                self.batch.clear();
                self.written = 0;
            }
        }
        Ok(moved)
    }
}

impl PublishLink for Publisher {
    fn capacity(&self) -> usize {
        self.batch.capacity()
    }

    #[inline]
    fn put(&mut self, stamp: Stamp) {
        self.batch.put(stamp);
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(Answer)) -> Result<bool, LoadError> {
        let walker = &mut self.walker;
        self.socket.read_frames(|input| {
            walker.walk(input, u64::MAX, |item| match item {
                Item::Confirmed { tag, multiple, refused } => {
                    each(Answer::Confirmed { tag, multiple, refused })
                }
                Item::Returned => each(Answer::Returned),
                Item::Message { .. } => {}
            })
        })
    }
}

/// A connection that consumes.
#[derive(Debug)]
pub struct Consumer {
    socket: Socket,
    walker: Walker,
    output: Vec<u8>,
}

impl Consumer {
    /// Goes on where the set-up of the connection ended. `replies`: checks the correlation ids.
    pub fn new(stream: Stream, received: &[u8], replies: bool) -> Self {
        let walker = Walker::new(FRAME_MAX_BYTES as usize);
        Consumer {
            socket: Socket::new(stream, received),
            walker: if replies { walker.checking_correlation() } else { walker },
            output: Vec::with_capacity(4096),
        }
    }
}

impl AsRawFd for Consumer {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Link for Consumer {
    fn stream(&self) -> &Stream {
        self.socket.stream()
    }

    #[inline]
    fn unflushed(&self) -> bool {
        !self.output.is_empty() || self.socket.holds_output()
    }

    fn has_input(&self) -> bool {
        self.socket.has_input()
    }

    fn flush(&mut self) -> Result<bool, LoadError> {
        flush(&mut self.socket, &mut self.output)
    }
}

impl ConsumeLink for Consumer {
    #[inline]
    fn receive(&mut self, limit: u64, mut each: impl FnMut(Received)) -> Result<bool, LoadError> {
        let walker = &mut self.walker;
        self.socket.read_frames(|input| {
            walker.walk(input, limit, |item| {
                if let Item::Message { stamp, delivery_tag } = item {
                    each(Received { stamp, tag: delivery_tag });
                }
            })
        })
    }

    fn acknowledge(&mut self, tag: u64) {
        fast::ack(CHANNEL, tag, true, &mut self.output);
    }
}

/// Writes what is taken now of `output`, and takes it out; returns whether that was anything.
pub(in crate::driver) fn flush(socket: &mut Socket, output: &mut Vec<u8>) -> Result<bool, LoadError> {
    let mut moved = socket.push()?;
    if !output.is_empty() && !socket.holds_output() {
        let written = socket.write(output)?;
        moved |= written > 0;
        output.drain(..written);
    }
    Ok(moved)
}
