//! Publishers and consumers under load.

use std::os::fd::{AsRawFd, RawFd};

use fulmar_amqp_0_10::codec::sequence::encode_sequence_set;
use fulmar_amqp_0_10::codec::table::{
    ExecutionSync, MessageAccept, SessionCompleted, SessionHeader, SessionKnownCompleted,
};
use fulmar_amqp_0_10::codec::{Command, Control, SequenceNo, SequenceSet};

use super::CHANNEL;
use super::completions::Completions;
use super::session::{Received as Commands, Traffic};
use super::wire::{Item, Walker};
use crate::driver::amqp::batch::{Batch, Contents};
use crate::driver::amqp::socket::Socket;
use crate::driver::stream::Stream;
use crate::driver::{Answer, ConsumeLink, Link, PublishLink, Received};
use crate::load::LoadError;
use crate::stamp::Stamp;

/// Deliveries that need no acceptance are completed so many at a time.
const COMPLETED_AT_ONCE: u64 = 1_000;

/// Without confirms a publisher looks once in so many writes at what the broker says.
const WRITES_UNHEARD: u32 = 64;

/// A connection that publishes.
#[derive(Debug)]
pub struct Publisher {
    socket: Socket,
    walker: Walker,
    batch: Batch,
    /// Bytes of the batch that were taken.
    written: usize,
    /// What follows each write, where confirms are wanted.
    sync: Vec<u8>,
    is_sealed: bool,
    completions: Completions,
    /// What the broker asked for, to be written before the next batch.
    replies: Vec<u8>,
    unheard: u32,
}

impl Publisher {
    /// Goes on where the set-up of the connection ended.
    pub fn new(traffic: Traffic, contents: Contents, confirms: bool) -> Self {
        let mut sync = Vec::new();
        if confirms {
            command(true, ExecutionSync {}, &mut sync);
        }
        Publisher {
            socket: Socket::new(traffic.stream, &traffic.input),
            walker: Walker::new(traffic.received.count),
            batch: Batch::new(contents),
            written: 0,
            sync,
            is_sealed: false,
            completions: Completions::new(traffic.sent),
            replies: Vec::new(),
            unheard: 0,
        }
    }

    /// Ends what was put with a sync.
    fn seal(&mut self) {
        self.is_sealed = true;
        if !self.sync.is_empty() {
            self.completions.wrote(self.batch.count() as u64);
            self.batch.seal(&self.sync);
        }
    }

    /// Takes what the broker says though nobody asked, so that it can go on saying it.
    fn hear(&mut self) -> Result<(), LoadError> {
        self.unheard += 1;
        if self.sync.is_empty() && self.unheard >= WRITES_UNHEARD {
            self.unheard = 0;
            self.receive(|_| {})?;
        }
        Ok(())
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
        self.batch.count() > 0 || self.socket.holds_output()
    }

    fn has_input(&self) -> bool {
        self.socket.has_input()
    }

    #[inline]
    fn flush(&mut self) -> Result<bool, LoadError> {
        let mut moved = self.socket.push()?;
        if self.socket.holds_output() || self.batch.count() == 0 {
            return Ok(moved);
        }
        if self.written == 0 && !self.replies.is_empty() {
            let written = self.socket.write(&self.replies)?;
            self.replies.drain(..written);
            if !self.replies.is_empty() {
                return Ok(moved | (written > 0));
            }
        }
        if !self.is_sealed {
            self.seal();
        }
        let written = self.socket.write(&self.batch.bytes()[self.written..])?;
        moved |= written > 0;
        self.written += written;
        if self.written == self.batch.bytes().len() {
            self.batch.clear();
            self.written = 0;
            self.is_sealed = false;
            self.hear()?;
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
        let Publisher { walker, completions, replies, .. } = self;
        self.socket.read_frames(|input| {
            walker.walk(input, u64::MAX, |item| match item {
                Item::Completed { first, last } => completions.completed(first, last, &mut each),
                Item::KnownCompleted => control(SessionKnownCompleted { commands: None }, replies),
                Item::Message { .. } | Item::Flush | Item::Other(_) => {}
            })
        })
    }
}

/// A connection that consumes.
#[derive(Debug)]
pub struct Consumer {
    socket: Socket,
    walker: Walker,
    settler: Settler,
    no_ack: bool,
    output: Vec<u8>,
}

impl Consumer {
    /// Goes on where the set-up of the connection ended. `replies`: checks the correlation ids.
    pub fn new(traffic: Traffic, replies: bool, no_ack: bool) -> Self {
        let walker = Walker::new(traffic.received.count);
        Consumer {
            socket: Socket::new(traffic.stream, &traffic.input),
            walker: if replies { walker.checking_correlation() } else { walker },
            settler: Settler::new(traffic.received),
            no_ack,
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
        crate::driver::amqp::flush(&mut self.socket, &mut self.output)
    }
}

impl ConsumeLink for Consumer {
    #[inline]
    fn receive(&mut self, limit: u64, mut each: impl FnMut(Received)) -> Result<bool, LoadError> {
        let Consumer { walker, settler, no_ack, output, .. } = self;
        let moved = self.socket.read_frames(|input| {
            walker.walk(input, limit, |item| match item {
                Item::Message { stamp, number } => {
                    settler.received = number;
                    each(Received { stamp, tag: number });
                }
                Item::Other(number) => settler.received = number,
                Item::Flush => settler.complete(*no_ack, output),
                Item::Completed { .. } | Item::KnownCompleted => {}
            })
        })?;
        if self.no_ack && self.settler.received - self.settler.settled >= COMPLETED_AT_ONCE {
            self.settler.complete(true, &mut self.output);
        }
        if self.no_ack && self.unflushed() {
            self.flush()?;
        }
        Ok(moved)
    }

    fn acknowledge(&mut self, tag: u64) {
        self.settler.accept(tag, &mut self.output);
    }
}

/// What has been received and settled.
#[derive(Debug)]
pub struct Settler {
    /// Id of the broker's command with the number 0.
    origin: SequenceNo,
    /// Number of the last command.
    pub received: u64,
    /// Number up to which all is settled.
    pub settled: u64,
    /// A set under construction.
    set: Vec<u8>,
}

impl Settler {
    /// After the broker's commands of the set-up.
    pub fn new(commands: Commands) -> Self {
        let settled = commands.count.into();
        let origin = commands.first.plus(u32::MAX);
        Settler { origin, received: settled, settled, set: Vec::with_capacity(8) }
    }

    /// Accepts and completes everything up to a number.
    pub fn accept(&mut self, number: u64, output: &mut Vec<u8>) {
        if let Some(transfers) = self.settle(number) {
            command(false, MessageAccept { transfers: Some(transfers) }, output);
            control(SessionCompleted { commands: Some(transfers), timely_reply: false }, output);
        }
    }

    /// Completes everything that has come, if it needs no acceptance.
    pub fn complete(&mut self, no_ack: bool, output: &mut Vec<u8>) {
        if let Some(commands) = no_ack.then(|| self.settle(self.received)).flatten() {
            control(SessionCompleted { commands: Some(commands), timely_reply: false }, output);
        }
    }

    /// What is settled now and was not before.
    fn settle(&mut self, number: u64) -> Option<SequenceSet<'_>> {
        if number <= self.settled {
            return None;
        }
        let id = |number: u64| self.origin.plus(number as u32);
        self.set.clear();
        encode_sequence_set([(id(self.settled + 1), id(number))], &mut self.set);
        self.settled = number;
        SequenceSet::new(&self.set).ok()
    }
}

fn command<'a>(sync: bool, command: impl Into<Command<'a>>, output: &mut Vec<u8>) {
    command.into().encode_frames(SessionHeader { sync }, CHANNEL, 0, output);
}

fn control<'a>(control: impl Into<Control<'a>>, output: &mut Vec<u8>) {
    control.into().encode_frames(CHANNEL, 0, output);
}

#[cfg(test)]
mod tests {
    use fulmar_amqp_0_10::codec::frame;

    use super::*;

    #[test]
    fn each_delivery_is_settled_once_and_in_the_peers_ids() {
        let mut settler = Settler::new(Commands { first: SequenceNo(u32::MAX), count: 2 });
        let mut output = Vec::new();
        settler.accept(3, &mut output);
        settler.accept(3, &mut output);
        settler.received = 9;
        settler.complete(false, &mut output);
        settler.complete(true, &mut output);
        let (mut rest, mut told) = (&output[..], Vec::new());
        while let Some((frame, taken)) = frame::parse(rest, 0).unwrap() {
            rest = &rest[taken..];
            told.push(match frame.track {
                fulmar_amqp_0_10::codec::table::Track::Command => {
                    let Command::MessageAccept(accept) = Command::decode(frame.payload).unwrap().0 else {
                        panic!("no accept")
                    };
                    format!("accepted {:?}", accept.transfers.unwrap())
                }
                _ => {
                    let Control::SessionCompleted(completed) = Control::decode(frame.payload).unwrap() else {
                        panic!("no completion")
                    };
                    format!("completed {:?}", completed.commands.unwrap())
                }
            });
        }
        // Numbers 1 and 2 had the ids before and after the end; 3 has 1.
        assert_eq!(told, ["accepted [1..=1]", "completed [1..=1]", "completed [2..=7]"]);
    }
}
