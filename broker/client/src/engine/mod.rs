//! Protocol engines: bytes in, events out; requests in, bytes out. No I/O, no clock, no waiting.
//!
//! What an engine takes and gives is free of its protocol's terms: the URL's scheme chooses one, and the driver and
//! everything above are the same for all.

pub(crate) mod amqp_0_10;
pub(crate) mod amqp_0_9_1;
mod login;
mod scram;
#[cfg(test)]
mod tests;

pub use login::Mechanism;

use std::time::{Duration, Instant};

use crate::message::{Message, Publish};
use crate::request::{Reply, Request, Settle};
use crate::{Error, Options, Protocol};

/// One connection, from the protocol header to the close.
pub(crate) trait Engine: Send {
    /// Whether requests may be written.
    fn is_open(&self) -> bool;

    /// Whether the handshake has come to the login and not past it: where brokers that dislike the user hang up.
    fn is_logging_in(&self) -> bool;

    /// Highest channel number.
    fn channel_max(&self) -> u16;

    /// The output so far, to copy what a call has just written.
    fn output(&self) -> &[u8];

    /// Bytes waiting to be sent; an estimate of those that are written only when the output is taken.
    fn output_bytes(&self) -> usize {
        self.output().len()
    }

    /// Takes the output; `spare` is used for what comes next.
    fn take_output(&mut self, spare: Vec<u8>, now: Instant) -> Vec<u8>;

    /// Takes frames from `input`, appends what they mean to `events`, and returns how many bytes were taken.
    ///
    /// # Errors
    /// The peer does not keep to the protocol; the connection is of no more use.
    fn receive(&mut self, input: &[u8], now: Instant, events: &mut Vec<Event>) -> Result<usize, Error>;

    /// When [`Engine::tick`] has something to do.
    fn next_tick(&self) -> Option<Instant>;

    /// Time passes: keeps the connection alive, and notices a silent peer. While the caller does not read
    /// (`listening` is false) silence means nothing.
    ///
    /// # Errors
    /// The peer has been silent for twice the heartbeat's time.
    fn tick(&mut self, now: Instant, listening: bool) -> Result<(), Error>;

    /// Asks the broker to end the connection; [`Event::Closed`] follows. Nothing may be written after it.
    fn close(&mut self);

    /// Writes a request.
    ///
    /// # Errors
    /// The protocol has nothing like it; nothing was written.
    fn request(&mut self, channel: u16, request: &Request) -> Result<(), Error>;

    /// Whether the protocol can carry a message.
    ///
    /// # Errors
    /// What it cannot carry.
    fn check(&self, publish: &Publish<'_>) -> Result<(), Error>;

    /// Writes a message.
    fn publish(&mut self, channel: u16, publish: &Publish<'_>);

    /// Writes a message again: the frames that [`Engine::publish`] wrote for a connection with the same limits.
    fn publish_again(&mut self, channel: u16, frames: &[u8]);

    /// How many messages of a channel the broker owes a word for, though the application may not have asked for it.
    fn unanswered(&self, channel: u16) -> usize;

    /// Settles a delivery.
    fn settle(&mut self, channel: u16, delivery_tag: u64, settle: Settle);
}

/// The engine that a connection's options ask for, with its protocol header in the output.
pub(crate) fn engine(options: &Options, now: Instant) -> Box<dyn Engine> {
    match options.protocol {
        Protocol::Amqp091 => Box::new(amqp_0_9_1::Engine::new(options.clone(), now)),
        Protocol::Amqp010 => Box::new(amqp_0_10::Engine::new(options.clone(), now)),
    }
}

/// What came from the broker.
#[derive(Debug)]
pub(crate) enum Event {
    /// The handshake is over; requests may be written.
    Connected,
    /// The answer to the oldest open request of the channel.
    Reply { channel: u16, reply: Reply },
    /// The broker closed the channel; its open requests will not be answered.
    ChannelClosed { channel: u16, error: Error },
    /// A delivery; its message knows the consumer tag.
    Delivered { channel: u16, delivery_tag: u64, redelivered: bool, message: Message },
    /// A mandatory message came back.
    Returned { channel: u16, code: u16, text: String, message: Message },
    /// Publishes up to (`multiple`) or with this number were taken or refused.
    Confirmed { channel: u16, sequence: u64, multiple: bool, acked: bool },
    /// The broker ended a consumer.
    ConsumerCancelled { channel: u16, consumer_tag: String },
    /// The broker asks the channel to stop publishing, or to go on.
    Flow { channel: u16, active: bool },
    /// The broker is short of something and takes no publishes; `None`: it does again.
    Blocked(Option<String>),
    /// The connection is over: closed by this side, or by the broker for a reason.
    Closed(Result<(), Error>),
}

/// When which side was heard last, and what follows from that.
struct Heart {
    /// `None`: nobody listens to it.
    beat: Option<Duration>,
    last_received: Instant,
    last_sent: Instant,
}

impl Heart {
    fn new(now: Instant) -> Self {
        Heart { beat: None, last_received: now, last_sent: now }
    }

    /// See [`Engine::next_tick`].
    fn next_tick(&self) -> Option<Instant> {
        let beat = self.beat?;
        Some((self.last_sent + beat / 2).min(self.last_received + beat * 2))
    }

    /// See [`Engine::tick`]. Returns whether it is time for a heartbeat, unless something else is sent.
    fn tick(&mut self, now: Instant, listening: bool) -> Result<bool, Error> {
        let Some(beat) = self.beat else { return Ok(false) };
        if !listening {
            self.last_received = now;
        }
        if now >= self.last_received + beat * 2 {
            let silence = now - self.last_received;
            return Err(Error::ConnectionLost(format!("nothing was heard for {} s", silence.as_secs())));
        }
        let due = now >= self.last_sent + beat / 2;
        if due {
            self.last_sent = now;
        }
        Ok(due)
    }
}
