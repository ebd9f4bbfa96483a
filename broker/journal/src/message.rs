//! The payload of a record that holds a message: 32 bytes, 32 bytes for each place, then exchange, routing key,
//! properties and bodies.
//!
//! | bytes | |
//! |---|---|
//! | 0 | code of the encoding, as the segment's header names it |
//! | 1 | priority |
//! | 2 | flags; bit 0: application headers, bit 1: persistent, bit 2: time to live |
//! | 3 | 0 |
//! | 4–5 | messages |
//! | 6–7 | length of the exchange's name |
//! | 8–9 | length of the routing key |
//! | 10–11 | 0 |
//! | 12–15 | places |
//! | 16–19 | length of the properties |
//! | 20–23 | length of all bodies |
//! | 24–31 | time to live in milliseconds, or 0 |
//!
//! A place: queue (8 bytes), place (8), expiry in milliseconds since 1970 or 2^64 − 1 (8), counted bytes (4), priority (1),
//! flags (1; bit 0: redelivered), 0 (2).

use fulmar_core::journal::{QueuePlace, StoreKey, StoredMessage};

use crate::encodings::Encodings;
use crate::record::{u32_at, u64_at};

const HEAD_BYTES: usize = 32;
const PLACE_BYTES: usize = 32;

const HAS_HEADERS: u8 = 1;
const PERSISTENT: u8 = 2;
const HAS_TTL: u8 = 4;
const REDELIVERED: u8 = 1;

/// A message and its places, read from a record.
#[derive(Clone, Copy, Debug)]
pub struct Enqueued<'a> {
    /// The message.
    pub message: StoredMessage<'a>,
    /// Where it stands.
    pub places: Places<'a>,
}

impl<'a> Enqueued<'a> {
    /// From a payload; `None` if it contradicts itself or names an encoding that is not known.
    pub fn decode(payload: &'a [u8], encodings: &Encodings) -> Option<Enqueued<'a>> {
        let (head, rest) = payload.split_at_checked(HEAD_BYTES)?;
        let flags = head[2];
        let (places, rest) = rest.split_at_checked((u32_at(head, 12) as usize).checked_mul(PLACE_BYTES)?)?;
        let (exchange, rest) = rest.split_at_checked(usize::from(u16_at(head, 6)))?;
        let (routing_key, rest) = rest.split_at_checked(usize::from(u16_at(head, 8)))?;
        let (properties, bodies) = rest.split_at_checked(u32_at(head, 16) as usize)?;
        let messages = u16_at(head, 4);
        if bodies.len() != u32_at(head, 20) as usize
            || messages == 0
            || bodies.len() % usize::from(messages) != 0
        {
            return None;
        }
        let message = StoredMessage {
            encoding: encodings.get(head[0])?,
            exchange,
            routing_key,
            properties,
            bodies,
            messages,
            ttl_ms: (flags & HAS_TTL != 0).then(|| u64_at(head, 24)),
            priority: head[1],
            has_headers: flags & HAS_HEADERS != 0,
            persistent: flags & PERSISTENT != 0,
        };
        Some(Enqueued { message, places: Places(places) })
    }
}

/// Places of a message, as they lie in a record.
#[derive(Clone, Copy)]
pub struct Places<'a>(&'a [u8]);

impl<'a> Places<'a> {
    /// One after the other.
    pub fn iter(self) -> impl ExactSizeIterator<Item = QueuePlace> + 'a {
        self.0.chunks_exact(PLACE_BYTES).map(|bytes| QueuePlace {
            queue: StoreKey(u64_at(bytes, 0)),
            place: u64_at(bytes, 8),
            expires_ms: u64_at(bytes, 16),
            counted_bytes: u32_at(bytes, 24),
            priority: bytes[28],
            redelivered: bytes[29] & REDELIVERED != 0,
        })
    }
}

impl std::fmt::Debug for Places<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Length of a payload.
#[inline]
pub fn encoded_bytes(message: &StoredMessage<'_>, places: usize) -> usize {
    HEAD_BYTES
        + places * PLACE_BYTES
        + message.exchange.len()
        + message.routing_key.len()
        + message.properties.len()
        + message.bodies.len()
}

/// Writes a payload to `into`, which is as long as it.
///
/// # Panics
/// If `into` has another length, a name is longer than 64 KiB, or the encoding is not known.
#[inline]
pub fn encode(message: &StoredMessage<'_>, places: &[QueuePlace], into: &mut [u8], encodings: &Encodings) {
    let (head, rest) = into.split_at_mut(HEAD_BYTES);
    let (standing, mut rest) = rest.split_at_mut(places.len() * PLACE_BYTES);
    for (place, into) in places.iter().zip(standing.chunks_exact_mut(PLACE_BYTES)) {
        into[..8].copy_from_slice(&place.queue.0.to_le_bytes());
        into[8..16].copy_from_slice(&place.place.to_le_bytes());
        into[16..24].copy_from_slice(&place.expires_ms.to_le_bytes());
        into[24..28].copy_from_slice(&place.counted_bytes.to_le_bytes());
        into[28..32].copy_from_slice(&[
            place.priority,
            if place.redelivered { REDELIVERED } else { 0 },
            0,
            0,
        ]);
    }
    let mut short = |length: usize, at: usize| {
        let length = u16::try_from(length).expect("names are shorter than 64 KiB");
        head[at..at + 2].copy_from_slice(&length.to_le_bytes());
    };
    short(usize::from(message.messages), 4);
    short(message.exchange.len(), 6);
    short(message.routing_key.len(), 8);
    short(0, 10);
    let mut long = |length: usize, at: usize| {
        let length = u32::try_from(length).expect("a record is shorter than 4 GiB");
        head[at..at + 4].copy_from_slice(&length.to_le_bytes());
    };
    long(places.len(), 12);
    long(message.properties.len(), 16);
    long(message.bodies.len(), 20);
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let flags = flag(message.has_headers, HAS_HEADERS)
        | flag(message.persistent, PERSISTENT)
        | flag(message.ttl_ms.is_some(), HAS_TTL);
    head[..4].copy_from_slice(&[encodings.code(message.encoding), message.priority, flags, 0]);
    head[24..32].copy_from_slice(&message.ttl_ms.unwrap_or(0).to_le_bytes());
    for part in [message.exchange, message.routing_key, message.properties, message.bodies] {
        let (here, behind) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = behind;
    }
    assert!(rest.is_empty(), "room for exactly one message");
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}
