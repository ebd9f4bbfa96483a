//! Messages: what is published, and what comes.

use std::borrow::Cow;

use fulmar_core::{Encoding, Table, Value};

/// Delivery mode of messages that shall survive the broker.
const PERSISTENT: u8 = 2;

/// The properties of a message. All are optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageProperties {
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// MIME encoding of the body.
    pub content_encoding: Option<String>,
    /// Application headers.
    pub headers: Table,
    /// Whether the message shall survive a restart of the broker, in a durable queue.
    pub persistent: bool,
    /// Priority, for queues that have them.
    pub priority: Option<u8>,
    /// What a reply refers to.
    pub correlation_id: Option<String>,
    /// Queue for the reply; `/exchanges/E/K` for an exchange and a routing key.
    pub reply_to: Option<String>,
    /// Time to live, in milliseconds.
    pub expiration_ms: Option<u64>,
    /// The application's identifier.
    pub message_id: Option<String>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The application's type of message.
    pub message_type: Option<String>,
    /// User who publishes; checked by the broker.
    pub user_id: Option<String>,
    /// Application that publishes.
    pub app_id: Option<String>,
}

impl MessageProperties {
    /// Properties that ask for persistence.
    pub fn persistent() -> Self {
        MessageProperties { persistent: true, ..Default::default() }
    }

    /// With a header added.
    #[must_use]
    pub fn header(mut self, name: &str, value: Value) -> Self {
        self.headers.set(name.as_bytes(), value);
        self
    }

    /// From a protocol's encoding; what cannot be decoded counts as absent.
    pub(crate) fn decode(encoding: &dyn Encoding, raw: &[u8]) -> Self {
        let properties = encoding.properties(raw);
        let mut headers = encoding.headers(raw);
        properties.remove_reserved(&mut headers);
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        MessageProperties {
            content_type: text(properties.content_type),
            content_encoding: text(properties.content_encoding),
            headers,
            persistent: properties.delivery_mode == Some(PERSISTENT),
            priority: properties.priority,
            correlation_id: text(properties.correlation_id),
            reply_to: text(properties.reply_to.and_then(|reply_to| reply_to.to_address()).as_deref()),
            expiration_ms: properties.ttl_ms,
            message_id: text(properties.message_id.map(|id| id.to_text()).as_deref()),
            timestamp: properties.timestamp_s,
            message_type: text(properties.message_type),
            user_id: text(properties.user_id),
            app_id: text(properties.app_id),
        }
    }

    /// The strings that the protocol bounds to 255 bytes, with their names.
    pub(crate) fn short_strings(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("content type", &self.content_type),
            ("content encoding", &self.content_encoding),
            ("correlation id", &self.correlation_id),
            ("reply-to", &self.reply_to),
            ("message id", &self.message_id),
            ("message type", &self.message_type),
            ("user id", &self.user_id),
            ("app id", &self.app_id),
        ]
        .into_iter()
        .filter_map(|(name, text)| Some((name, text.as_deref()?)))
    }
}

/// A message that came: delivered, fetched or returned. One allocation holds all of it.
#[derive(Clone)]
pub struct Message {
    /// Of its properties: that of the protocol that it came by.
    encoding: &'static dyn Encoding,
    /// Consumer tag, exchange, routing key, encoded properties, body.
    buffer: Vec<u8>,
    /// Where all but the body end.
    ends: [usize; 4],
}

impl Message {
    /// Begins a message; properties and body follow.
    pub(crate) fn begin(
        encoding: &'static dyn Encoding,
        consumer_tag: &[u8],
        exchange: &[u8],
        routing_key: &[u8],
    ) -> Self {
        let mut buffer = Vec::with_capacity(consumer_tag.len() + exchange.len() + routing_key.len());
        buffer.extend_from_slice(consumer_tag);
        buffer.extend_from_slice(exchange);
        buffer.extend_from_slice(routing_key);
        let exchange_end = consumer_tag.len() + exchange.len();
        let ends = [consumer_tag.len(), exchange_end, buffer.len(), buffer.len()];
        Message { encoding, buffer, ends }
    }

    pub(crate) fn push_properties(&mut self, raw: &[u8], body_bytes: usize) {
        self.buffer.reserve(raw.len() + body_bytes);
        self.buffer.extend_from_slice(raw);
        self.ends[3] = self.buffer.len();
    }

    pub(crate) fn push_body(&mut self, part: &[u8]) {
        self.buffer.extend_from_slice(part);
    }

    pub(crate) fn consumer_tag(&self) -> &[u8] {
        &self.buffer[..self.ends[0]]
    }

    /// What the message costs in memory.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffer.len() + size_of::<Self>()
    }

    /// Exchange that the message was published to.
    pub fn exchange(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.buffer[self.ends[0]..self.ends[1]])
    }

    /// Routing key that it was published with.
    pub fn routing_key(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.buffer[self.ends[1]..self.ends[2]])
    }

    /// All properties, decoded anew with each call.
    pub fn properties(&self) -> MessageProperties {
        MessageProperties::decode(self.encoding, self.raw_properties())
    }

    /// One application header, found without decoding the rest.
    pub fn header(&self, name: &str) -> Option<Value> {
        self.encoding.header(self.raw_properties(), name.as_bytes())
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.buffer[self.ends[3]..]
    }

    /// The body, taken out.
    pub fn into_body(mut self) -> Vec<u8> {
        self.buffer.drain(..self.ends[3]);
        self.buffer
    }

    fn raw_properties(&self) -> &[u8] {
        &self.buffer[self.ends[2]..self.ends[3]]
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("exchange", &self.exchange())
            .field("routing_key", &self.routing_key())
            .field("properties", &self.properties())
            .field("body_bytes", &self.body().len())
            .finish()
    }
}

/// A mandatory message that reached no queue.
#[derive(Clone, Debug)]
pub struct Returned {
    /// AMQP reply code; 312 for no route.
    pub code: u16,
    /// The broker's text.
    pub text: String,
    /// The message.
    pub message: Message,
}

/// A message to publish.
///
/// ```
/// # use fulmar_client::{MessageProperties, Publish};
/// let properties = MessageProperties::persistent();
/// let publish = Publish::new("logs", "kernel.error", b"oops").properties(&properties).mandatory();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) body: &'a [u8],
    pub(crate) properties: Option<&'a MessageProperties>,
    pub(crate) mandatory: bool,
}

impl<'a> Publish<'a> {
    /// To an exchange with a routing key.
    pub fn new(exchange: &'a str, routing_key: &'a str, body: &'a [u8]) -> Self {
        Publish { exchange, routing_key, body, properties: None, mandatory: false }
    }

    /// Straight to a queue, through the default exchange.
    pub fn to_queue(queue: &'a str, body: &'a [u8]) -> Self {
        Publish::new("", queue, body)
    }

    /// With properties.
    #[must_use]
    pub fn properties(mut self, properties: &'a MessageProperties) -> Self {
        self.properties = Some(properties);
        self
    }

    /// Asks for the message to be returned if it reaches no queue; see [`crate::Channel::returns`].
    #[must_use]
    pub fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::amqp_0_9_1;

    #[test]
    fn the_parts_of_a_message_lie_where_they_should() {
        let mut raw = Vec::new();
        let properties = MessageProperties::default().header("k", Value::Bool(true));
        amqp_0_9_1::properties::encode(&properties, &mut raw);
        let mut message = Message::begin(&amqp_0_9_1::properties::ENCODING, b"tag", b"exchange", b"key");
        message.push_properties(&raw, 4);
        message.push_body(b"bo");
        message.push_body(b"dy");
        assert_eq!(message.consumer_tag(), b"tag");
        assert_eq!((&*message.exchange(), &*message.routing_key()), ("exchange", "key"));
        assert_eq!(message.header("k"), Some(Value::Bool(true)));
        assert_eq!(message.body(), b"body");
        assert_eq!(message.into_body(), b"body");
    }
}
