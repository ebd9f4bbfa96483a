//! Protocol engines: bytes in, events out; requests in, bytes out. No I/O, no clock, no waiting.
//!
//! What an engine takes and gives is free of its protocol's terms, so that a second protocol is a second engine beside
//! [`amqp_0_9_1`], chosen by the URL's scheme; the driver and everything above stay as they are.

pub(crate) mod amqp_0_9_1;
#[cfg(test)]
mod tests;

use crate::Error;
use crate::message::Message;
use crate::request::Reply;

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
