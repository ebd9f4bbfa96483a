//! Records as they lie in a file: a header of 16 bytes, what it says, zeros up to a multiple of 16. Numbers are little
//! endian.
//!
//! | bytes | |
//! |---|---|
//! | 0–3 | CRC-32C of bytes 4 up to the end of the payload, seeded with bytes 12–15 |
//! | 4–7 | length of the payload in bytes |
//! | 8 | kind |
//! | 9 | flags; bit 0: joined to the next record |
//! | 10–11 | 0 |
//! | 12–15 | low bits of the segment's number: what a recycled file held before is no record |
//!
//! Encoding writes once, straight to where the record goes, and allocates nothing; decoding borrows.

use std::borrow::Cow;

use fulmar_core::journal::{Joined, QueuePlace, Record, StoreKey, StoredMessage, TransactionKey};

use crate::encodings::Encodings;
use crate::message;
use crate::transaction::DecodedStep;

/// Bytes of a record before its payload.
pub const HEADER_BYTES: usize = 16;

/// What the length of a record is a multiple of, in bytes.
pub const ALIGNMENT: usize = 16;

const JOINED_TO_NEXT: u8 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first record of each write: [`crate::header::Batch`].
    Batch = 1,
    /// [`Record::Enqueued`]
    Enqueued = 2,
    /// [`Record::Dequeued`]
    Dequeued = 3,
    /// [`Record::HandedOut`]
    HandedOut = 4,
    /// [`Record::Changed`]
    Changed = 5,
    /// [`Record::Topology`]
    Topology = 6,
    /// [`Record::Transaction`]
    Transaction = 7,
    /// A message in the page file.
    Paged = 8,
}

impl Kind {
    fn of(code: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 8] = [Batch, Enqueued, Dequeued, HandedOut, Changed, Topology, Transaction, Paged];
        ALL.get(usize::from(code.wrapping_sub(1))).copied()
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// All of the header is zero: nothing was ever written there.
    #[error("nothing is written here")]
    Empty,
    /// The record is longer than the bytes.
    #[error("the record does not end before the file does")]
    Short,
    /// Another segment's.
    #[error("the record belongs to another segment")]
    Segment,
    /// The bytes are not those that were written.
    #[error("the CRC-32C does not match")]
    Checksum,
    /// Valid bytes that say something unheard of.
    #[error("a record of kind {0} is not known to this version")]
    Kind(u8),
    /// Valid bytes that make no sense.
    #[error("the record contradicts itself")]
    Contradiction,
}

/// A record whose checksum matches.
#[derive(Clone, Copy, Debug)]
pub struct Framed<'a> {
    /// What it is.
    pub kind: Kind,
    /// Whether the next one belongs to it.
    pub joined: Joined,
    /// What it says.
    pub payload: &'a [u8],
}

impl<'a> Framed<'a> {
    /// The record that `bytes` begin with.
    ///
    /// # Errors
    /// There is none of this segment.
    pub fn decode(bytes: &'a [u8], segment: u64) -> Result<Framed<'a>, Invalid> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Invalid::Short)?;
        if *header == [0; HEADER_BYTES] {
            return Err(Invalid::Empty);
        }
        if u32_at(header, 12) != segment as u32 {
            return Err(Invalid::Segment);
        }
        let end = HEADER_BYTES + u32_at(header, 4) as usize;
        let covered = bytes.get(4..end).ok_or(Invalid::Short)?;
        if checksum(covered, segment) != u32_at(header, 0) {
            return Err(Invalid::Checksum);
        }
        let kind = Kind::of(header[8]).ok_or(Invalid::Kind(header[8]))?;
        let joined = if header[9] & JOINED_TO_NEXT != 0 { Joined::ToNext } else { Joined::No };
        Ok(Framed { kind, joined, payload: &bytes[HEADER_BYTES..end] })
    }

    /// The record that `bytes` begin with, which was decoded before.
    ///
    /// # Panics
    /// If it was not.
    pub fn trusted(bytes: &'a [u8]) -> Framed<'a> {
        let end = HEADER_BYTES + u32_at(bytes, 4) as usize;
        let kind = Kind::of(bytes[8]).expect("a record that was decoded before");
        let joined = if bytes[9] & JOINED_TO_NEXT != 0 { Joined::ToNext } else { Joined::No };
        Framed { kind, joined, payload: &bytes[HEADER_BYTES..end] }
    }

    /// How long the record says to be that `bytes` begin with, if they have its header.
    pub fn announced_bytes(bytes: &[u8]) -> Option<usize> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        Some(record_bytes(u32_at(header, 4) as usize))
    }

    /// Bytes up to the next record.
    pub fn total_bytes(&self) -> usize {
        record_bytes(self.payload.len())
    }

    /// What it says.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn record(&self, encodings: &Encodings) -> Result<Decoded<'a>, Invalid> {
        Decoded::of(self, encodings).ok_or(Invalid::Contradiction)
    }
}

/// What a record says; see [`Record`].
#[derive(Clone, Debug)]
pub enum Decoded<'a> {
    /// A batch begins.
    Batch(crate::header::Batch),
    /// A message has joined queues.
    Enqueued(message::Enqueued<'a>),
    /// Messages have left a queue.
    Dequeued {
        /// The queue.
        queue: StoreKey,
        /// The first place.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Messages may have been in a client's hands.
    HandedOut {
        /// The queue.
        queue: StoreKey,
        /// Those below.
        below: u64,
    },
    /// The topology has changed, encoded by [`crate::topology`].
    Changed(&'a [u8]),
    /// The whole topology, encoded by [`crate::topology`].
    Topology(&'a [u8]),
    /// A transaction has gone on.
    Transaction {
        /// Which one.
        transaction: TransactionKey,
        /// What has become of it.
        step: DecodedStep<'a>,
    },
    /// A message alone.
    Paged(message::Enqueued<'a>),
}

impl<'a> Decoded<'a> {
    fn of(framed: &Framed<'a>, encodings: &Encodings) -> Option<Decoded<'a>> {
        let payload = framed.payload;
        Some(match framed.kind {
            Kind::Batch => Decoded::Batch(crate::header::Batch::decode(payload)?),
            Kind::Enqueued => Decoded::Enqueued(message::Enqueued::decode(payload, encodings)?),
            Kind::Dequeued => {
                let [queue, first, count] = numbers(payload)?;
                first.checked_add(count)?;
                Decoded::Dequeued { queue: StoreKey(queue), first, count }
            }
            Kind::HandedOut => {
                let [queue, below] = numbers(payload)?;
                Decoded::HandedOut { queue: StoreKey(queue), below }
            }
            Kind::Changed => Decoded::Changed(payload),
            Kind::Topology => Decoded::Topology(payload),
            Kind::Transaction => {
                let (transaction, step) = crate::transaction::decode(payload, encodings)?;
                Decoded::Transaction { transaction, step }
            }
            Kind::Paged => Decoded::Paged(message::Enqueued::decode(payload, encodings)?),
        })
    }
}

/// What a record will say, ready to be written.
pub enum Payload<'a> {
    /// A message, and where it stands.
    Message(Kind, &'a StoredMessage<'a>, &'a [QueuePlace]),
    /// Some numbers.
    Numbers(Kind, [u64; 3], usize),
    /// Bytes as they are.
    Bytes(Kind, Cow<'a, [u8]>),
}

impl<'a> Payload<'a> {
    /// Of a record. Topology and transactions are encoded here, in memory of their own; all else allocates nothing.
    #[inline]
    pub fn of(record: &'a Record<'a>, encodings: &Encodings) -> Payload<'a> {
        match *record {
            Record::Enqueued { ref message, places } => Payload::Message(Kind::Enqueued, message, places),
            Record::Dequeued { queue, first, count } => {
                Payload::Numbers(Kind::Dequeued, [queue.0, first, count], 3)
            }
            Record::HandedOut { queue, below } => Payload::Numbers(Kind::HandedOut, [queue.0, below, 0], 2),
            Record::Changed(changes) => {
                Payload::Bytes(Kind::Changed, Cow::Owned(crate::topology::encode(changes)))
            }
            Record::Topology(changes) => {
                Payload::Bytes(Kind::Topology, Cow::Owned(crate::topology::encode(changes)))
            }
            Record::Transaction { transaction, ref step } => {
                let bytes = crate::transaction::encode(transaction, step, encodings);
                Payload::Bytes(Kind::Transaction, Cow::Owned(bytes))
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Payload::Message(kind, ..) | Payload::Numbers(kind, ..) | Payload::Bytes(kind, _) => *kind,
        }
    }

    /// Length of the payload.
    pub fn bytes(&self) -> usize {
        match self {
            Payload::Message(_, message, places) => message::encoded_bytes(message, places.len()),
            Payload::Numbers(_, _, count) => count * 8,
            Payload::Bytes(_, bytes) => bytes.len(),
        }
    }

    /// Length of the whole record.
    pub fn record_bytes(&self) -> usize {
        record_bytes(self.bytes())
    }

    /// Writes the whole record to `into`, which is as long as it.
    ///
    /// # Panics
    /// If `into` has another length, or the message an encoding that is not known.
    #[inline]
    pub fn encode(&self, into: &mut [u8], joined: Joined, segment: u64, encodings: &Encodings) {
        let bytes = self.bytes();
        assert_eq!(into.len(), record_bytes(bytes), "room for exactly one record");
        let (record, padding) = into.split_at_mut(HEADER_BYTES + bytes);
        padding.fill(0);
        let (header, payload) = record.split_at_mut(HEADER_BYTES);
        match self {
            Payload::Message(_, message, places) => message::encode(message, places, payload, encodings),
            Payload::Numbers(_, numbers, count) => {
                for (number, into) in numbers[..*count].iter().zip(payload.chunks_exact_mut(8)) {
                    into.copy_from_slice(&number.to_le_bytes());
                }
            }
            Payload::Bytes(_, bytes) => payload.copy_from_slice(bytes),
        }
        let length = u32::try_from(bytes).expect("a record is shorter than 4 GiB");
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8] = self.kind() as u8;
        header[9] = if joined == Joined::ToNext { JOINED_TO_NEXT } else { 0 };
        header[10..12].fill(0);
        header[12..16].copy_from_slice(&(segment as u32).to_le_bytes());
        let crc = checksum(&record[4..], segment);
        record[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Length of a record with a payload of so many bytes.
#[inline]
pub fn record_bytes(payload: usize) -> usize {
    (HEADER_BYTES + payload).next_multiple_of(ALIGNMENT)
}

#[inline]
fn checksum(covered: &[u8], segment: u64) -> u32 {
    crc32c::crc32c_append(segment as u32, covered)
}

/// A number at an offset.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// A number at an offset.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// All of a payload as numbers.
pub(crate) fn numbers<const N: usize>(payload: &[u8]) -> Option<[u64; N]> {
    (payload.len() == N * 8).then(|| std::array::from_fn(|index| u64_at(payload, index * 8)))
}

#[cfg(test)]
mod tests;
