//! What a publisher writes: copies of encoded messages, of which only the stamp and the correlation id change.
//!
//! Where all messages of a publisher are alike, a buffer is filled once and only patched from then on. Otherwise each is
//! put together from the method of its key and the content of its size.

use fulmar_amqp_0_9_1::codec::{Method, Properties, TableRef, fast, frame, properties};

use super::CHANNEL;
use crate::draw::Draw;
use crate::plan::Plan;
use crate::stamp::{STAMP_BYTES, Stamp};
use crate::workload::Workload;

/// Bytes that one write carries at most, unless a single message is larger.
const BATCH_BYTES: usize = 64 * 1024;

/// Bytes of a correlation id.
pub const CORRELATION_ID_BYTES: usize = 16;

/// Drawn sizes are taken from a list of so many, again and again; a power of two.
const DRAWN: usize = 4_096;

/// The correlation id of a request.
pub fn correlation_id(stamp: Stamp) -> [u8; CORRELATION_ID_BYTES] {
    let number = u64::from(stamp.publisher) << 48 | stamp.sequence;
    let digit = |place: usize| b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15];
    std::array::from_fn(digit)
}

/// The parts of a publisher's messages.
#[derive(Clone, Debug)]
pub struct Contents {
    /// `basic.publish` by key.
    methods: Vec<Vec<u8>>,
    /// Header and body frames by size.
    contents: Vec<Content>,
    /// Which size each message has, by its number.
    sizes: Vec<u16>,
    /// From the contents of one key to those of the next; 0 if they do not depend on the key.
    stride: usize,
}

/// A message, or the part of one that does not depend on its key.
#[derive(Clone, Debug)]
pub struct Content {
    frames: Vec<u8>,
    /// Where the first byte of the body lies in them.
    body: usize,
    /// Where the correlation id does, if there is one.
    correlation: Option<usize>,
}

impl Contents {
    /// For messages to the default exchange.
    #[cfg(test)]
    pub fn new(workload: &Workload, queue: &str, frame_max: u32) -> Self {
        Contents::build(workload, 0, "", &[queue.into()], None, frame_max)
    }

    /// Of the `publisher`th publisher of a plan.
    pub fn of_plan(plan: &Plan, publisher: usize, frame_max: u32) -> Self {
        let reply_to = plan.reply_queue(publisher);
        let keys = plan.routes.keys(publisher);
        Contents::build(&plan.workload, publisher, &plan.routes.exchange, keys, reply_to, frame_max)
    }

    fn build(
        workload: &Workload,
        publisher: usize,
        exchange: &str,
        keys: &[String],
        reply_to: Option<&str>,
        frame_max: u32,
    ) -> Self {
        let by_header = workload.exchange.kind == crate::workload::ExchangeKind::Headers;
        let method = |key: &String| {
            let mut bytes = Vec::new();
            Method::BasicPublish {
                exchange: exchange.as_bytes(),
                routing_key: key.as_bytes(),
                mandatory: false,
                immediate: false,
            }
            .encode(CHANNEL, &mut bytes);
            bytes
        };
        let choices = workload.size.choices();
        let sizes = drawn_sizes(workload, publisher);
        // With a headers exchange the key is a property, and so a content for each key is needed too.
        let headers =
            if by_header { keys.iter().map(|key| header_table(key)).collect() } else { vec![Vec::new()] };
        let contents = headers.iter().flat_map(|table| {
            choices.iter().map(|choice| {
                let properties = Properties {
                    delivery_mode: workload.persistent.then_some(properties::PERSISTENT),
                    headers: by_header.then_some(TableRef::new(table)),
                    correlation_id: reply_to.map(|_| &[b'0'; CORRELATION_ID_BYTES] as &[u8]),
                    reply_to: reply_to.map(str::as_bytes),
                    ..Properties::default()
                };
                Content::new(&properties, choice.size, frame_max)
            })
        });
        let contents = contents.collect();
        let stride = if by_header { choices.len() } else { 0 };
        Contents { methods: keys.iter().map(method).collect(), contents, sizes, stride }
    }

    /// Whole messages: `content` is that of a key, by its number, with a body of so many bytes.
    pub fn of_whole(
        workload: &Workload,
        publisher: usize,
        keys: usize,
        mut content: impl FnMut(usize, usize) -> Content,
    ) -> Self {
        let choices = workload.size.choices();
        let contents = (0..keys).flat_map(|key| choices.iter().map(move |choice| (key, choice.size)));
        Contents {
            methods: vec![Vec::new(); keys],
            contents: contents.map(|(key, size)| content(key, size)).collect(),
            sizes: drawn_sizes(workload, publisher),
            stride: choices.len(),
        }
    }

    /// The same messages as a broker sends them to a consumer.
    pub fn as_deliveries(mut self) -> Self {
        for method in &mut self.methods {
            let publish = std::mem::take(method);
            let payload = &publish[frame::HEAD_BYTES..publish.len() - 1];
            let Ok(Method::BasicPublish { exchange, routing_key, .. }) = Method::decode(payload) else {
                unreachable!("it was encoded by this module")
            };
            fast::deliver(CHANNEL, b"c", 1, false, exchange, routing_key, method);
        }
        self
    }

    /// Method and content of a message.
    #[inline]
    fn parts(&self, sequence: u64) -> (&[u8], &Content) {
        let key = match self.methods.len() as u64 {
            1 => 0,
            keys => (sequence % keys) as usize,
        };
        let size = usize::from(self.sizes[sequence as usize & (self.sizes.len() - 1)]);
        (&self.methods[key], &self.contents[key * self.stride + size])
    }

    fn largest_bytes(&self) -> usize {
        let most = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        most(&mut self.methods.iter().map(Vec::len)) + most(&mut self.contents.iter().map(|c| c.frames.len()))
    }

    fn are_alike(&self) -> bool {
        self.methods.len() == 1 && self.contents.len() == 1
    }
}

/// Which size each message has, by its number.
fn drawn_sizes(workload: &Workload, publisher: usize) -> Vec<u16> {
    let choices = workload.size.choices();
    let mut draw = Draw::new(workload.seed.wrapping_add(publisher as u64));
    match choices.len() {
        1 => vec![0],
        _ => (0..DRAWN).map(|_| draw.weighted(choices.iter().map(|choice| choice.weight)) as u16).collect(),
    }
}

/// An encoded table that names a key.
pub fn header_table(key: &str) -> Vec<u8> {
    let mut table = b"\x03keyS".to_vec();
    table.extend((key.len() as u32).to_be_bytes());
    table.extend(key.as_bytes());
    table
}

impl Content {
    /// Frames with the places of the body's first byte and of the correlation id, if there is one.
    pub fn at(frames: Vec<u8>, body: usize, correlation: Option<usize>) -> Self {
        Content { frames, body, correlation }
    }

    fn new(properties: &Properties<'_>, size: usize, frame_max: u32) -> Self {
        assert!(size >= STAMP_BYTES, "a body without room for a stamp");
        let mut encoded = Vec::new();
        properties.encode(&mut encoded);
        let mut frames = Vec::new();
        frame::encode_content(CHANNEL, &encoded, &vec![b'x'; size], frame_max, &mut frames);
        // The header frame: head, class, weight, size, properties, end; then the head of the first body frame.
        let header = frame::HEAD_BYTES + 12;
        let body = header + encoded.len() + 1 + frame::HEAD_BYTES;
        let correlation = properties.correlation_id.map(|id| {
            let find = encoded.windows(id.len()).position(|window| window == id);
            header + find.expect("it was encoded just now")
        });
        Content { frames, body, correlation }
    }

    /// Patches what changes into a copy of the frames.
    #[inline]
    fn patch(&self, frames: &mut [u8], stamp: Stamp) {
        frames[self.body..self.body + STAMP_BYTES].copy_from_slice(&stamp.to_bytes());
        if let Some(at) = self.correlation {
            frames[at..at + CORRELATION_ID_BYTES].copy_from_slice(&correlation_id(stamp));
        }
    }
}

/// The output of a publisher.
#[derive(Debug)]
pub struct Batch {
    contents: Contents,
    /// Alike: copies of the message. Otherwise what has been put.
    bytes: Vec<u8>,
    /// Length of each message, if all are alike.
    alike_bytes: Option<usize>,
    capacity: usize,
    count: usize,
    /// Bytes at the end of what has been put that are no message, and what they stand in place of.
    seal: Vec<u8>,
    sealed_bytes: usize,
}

impl Batch {
    /// Empty, with room for one write.
    pub fn new(contents: Contents) -> Self {
        let largest_bytes = contents.largest_bytes();
        let capacity = (BATCH_BYTES / largest_bytes).max(1);
        let (bytes, alike_bytes) = if contents.are_alike() {
            let message = [contents.methods[0].as_slice(), &contents.contents[0].frames].concat();
            (message.repeat(capacity), Some(message.len()))
        } else {
            (Vec::with_capacity(capacity * largest_bytes), None)
        };
        Batch { contents, bytes, alike_bytes, capacity, count: 0, seal: Vec::new(), sealed_bytes: 0 }
    }

    /// How many messages were put.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Puts something else behind the messages; none may follow before the batch is cleared.
    pub fn seal(&mut self, frame: &[u8]) {
        match self.alike_bytes {
            None => self.bytes.extend_from_slice(frame),
            Some(bytes) => {
                let start = self.count * bytes;
                self.seal.clear();
                self.seal.extend(self.bytes[start..].iter().take(frame.len()));
                if self.bytes.len() < start + frame.len() {
                    self.bytes.resize(start + frame.len(), 0);
                }
                self.bytes[start..start + frame.len()].copy_from_slice(frame);
            }
        }
        self.sealed_bytes = frame.len();
    }

    /// Most messages that one write carries.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts a message at the end.
    #[inline]
    pub fn put(&mut self, stamp: Stamp) {
        let (method, content) = self.contents.parts(stamp.sequence);
        let start = match self.alike_bytes {
            Some(bytes) => self.count * bytes,
            None => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(method);
                self.bytes.extend_from_slice(&content.frames);
                start
            }
        };
        content.patch(&mut self.bytes[start + method.len()..], stamp);
        self.count += 1;
    }

    /// The messages that were put.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self.alike_bytes {
            Some(bytes) => &self.bytes[..self.count * bytes + self.sealed_bytes],
            None => &self.bytes,
        }
    }

    /// Forgets the messages.
    #[inline]
    pub fn clear(&mut self) {
        if let Some(bytes) = self.alike_bytes {
            let start = self.count * bytes;
            self.bytes[start..start + self.seal.len()].copy_from_slice(&self.seal);
            self.seal.clear();
        } else {
            self.bytes.clear();
        }
        (self.count, self.sealed_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use fulmar_amqp_0_9_1::codec::FrameKind;

    use super::*;
    use crate::driver::amqp::FRAME_MAX_BYTES;
    use crate::plan::Plan;

    /// Routing key, correlation id and body size of each message.
    fn read(bytes: &[u8]) -> Vec<(String, Option<Vec<u8>>, u64)> {
        let (mut at, mut messages) = (0, Vec::new());
        while let Some((frame, taken)) = frame::parse(&bytes[at..], FRAME_MAX_BYTES).unwrap() {
            at += taken;
            if let (FrameKind::Method, Ok(Method::BasicPublish { routing_key, .. })) =
                (frame.kind, Method::decode(frame.payload))
            {
                messages.push((String::from_utf8(routing_key.into()).unwrap(), None, 0));
            } else if frame.kind == FrameKind::Header {
                let header = fulmar_amqp_0_9_1::codec::ContentHeader::parse(frame.payload).unwrap();
                let properties = Properties::decode(header.properties).unwrap();
                let last = messages.last_mut().unwrap();
                last.1 = properties.correlation_id.map(Into::into);
                last.2 = header.body_size;
            }
        }
        assert_eq!(at, bytes.len());
        messages
    }

    fn batch(text: &str, count: u64) -> Vec<(String, Option<Vec<u8>>, u64)> {
        let plan = Plan::new(Workload::from_toml(text).unwrap(), "run".into());
        let mut batch = Batch::new(Contents::of_plan(&plan, 0, FRAME_MAX_BYTES));
        for sequence in 0..count {
            batch.put(Stamp { publisher: 3, sequence, due_ns: 0, sent_ns: 0 });
        }
        let messages = read(batch.bytes());
        batch.clear();
        assert!(batch.bytes().is_empty());
        messages
    }

    #[test]
    fn keys_are_used_in_turn() {
        let messages =
            batch("[exchange]\ntype = 'direct'\nkeys = 3\nbindings = 3\nkey = 'k{n}'\nbinding = 'k{n}'", 5);
        let keys: Vec<&str> = messages.iter().map(|message| message.0.as_str()).collect();
        assert_eq!(keys, ["k0", "k1", "k2", "k0", "k1"]);
    }

    #[test]
    fn sizes_come_as_often_as_their_weights_say() {
        let messages = batch("size = [{ size = 24, weight = 3 }, { size = 48, weight = 1 }]", 400);
        let large = messages.iter().filter(|message| message.2 == 48).count();
        assert!(messages.iter().all(|message| message.2 == 24 || message.2 == 48));
        assert!((60..140).contains(&large), "{large} of 400 are large");
    }

    #[test]
    fn a_seal_is_gone_when_the_batch_is_cleared() {
        for text in ["", "size = [{ size = 24, weight = 3 }, { size = 48, weight = 1 }]"] {
            let plan = Plan::new(Workload::from_toml(text).unwrap(), "run".into());
            let mut batch = Batch::new(Contents::of_plan(&plan, 0, FRAME_MAX_BYTES));
            for count in [1, 2, batch.capacity(), 1] {
                for sequence in 0..count as u64 {
                    batch.put(Stamp { publisher: 3, sequence, due_ns: 0, sent_ns: 0 });
                }
                let messages = batch.bytes().to_vec();
                batch.seal(b"a seal");
                assert_eq!(batch.bytes(), [&messages[..], b"a seal"].concat());
                assert_eq!((batch.count(), read(&messages).len()), (count, count));
                batch.clear();
            }
        }
    }

    #[test]
    fn requests_have_correlation_ids_of_their_own() {
        let messages = batch("pattern = 'request-reply'", 20);
        for (sequence, message) in (0..).zip(&messages) {
            let id = correlation_id(Stamp { publisher: 3, sequence, due_ns: 0, sent_ns: 0 });
            assert_eq!(message.1.as_deref(), Some(&id[..]));
        }
        assert_eq!(
            correlation_id(Stamp { publisher: 1, sequence: 0xab, due_ns: 0, sent_ns: 0 }),
            *b"00010000000000ab"
        );
    }
}
