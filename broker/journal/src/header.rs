//! What a segment begins with, and what each write into it begins with.
//!
//! A segment's first [`BLOCK_BYTES`]:
//!
//! | bytes | |
//! |---|---|
//! | 0–7 | `FULMARJ`, 0 |
//! | 8–11 | version of the format |
//! | 12–15 | CRC-32C of bytes 16 to 639 |
//! | 16–31 | the store's UUID |
//! | 32–39 | number of the segment |
//! | 40–47 | number of the segment before it; 0: none |
//! | 48–55 | where the log ended in that one, in bytes: what lies behind is no part of it |
//! | 56–63 | number of its first batch |
//! | 64–67 | run of the broker that began it |
//! | 68–69 | the shard |
//! | 70–71 | number of shards in that run |
//! | 72–127 | 0 |
//! | 128–639 | names of the encodings by their codes, 32 bytes each: length (1 byte), name, zeros |

use crate::encodings::{Encodings, LONGEST_ENCODING_NAME, MOST_ENCODINGS};
use crate::record::{numbers, u32_at, u64_at};

/// What a segment begins with and what writes are multiples of, in bytes.
pub const BLOCK_BYTES: usize = 4096;

/// The version of the format that is written here.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"FULMARJ\0";
const NAMES_AT: usize = 128;
const NAME_BYTES: usize = LONGEST_ENCODING_NAME + 1;
const END: usize = NAMES_AT + MOST_ENCODINGS * NAME_BYTES;

/// Identity of a data directory: 16 random bytes, made with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// From 32 hexadecimal digits, as it is shown.
    pub fn parse(text: &str) -> Option<StoreId> {
        let is_digit = |byte: u8| byte.is_ascii_hexdigit();
        let number = Some(text).filter(|text| text.len() == 32 && text.bytes().all(is_digit));
        number.and_then(|text| u128::from_str_radix(text, 16).ok()).map(|id| StoreId(id.to_be_bytes()))
    }
}

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What the header of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose it is.
    pub store: StoreId,
    /// Number of the segment.
    pub segment: u64,
    /// Number of the one before; 0: none.
    pub previous: u64,
    /// Where the log ended in the one before, in bytes.
    pub previous_end: u64,
    /// Number of its first batch.
    pub first_batch: u64,
    /// The run that began it.
    pub run: u32,
    /// The shard.
    pub shard: u16,
    /// How many there were.
    pub shards: u16,
    /// Names of encodings, by code.
    pub encodings: Vec<Vec<u8>>,
}

/// Why a segment's header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeader {
    /// There is no header.
    #[error("it does not begin with a segment's header")]
    Missing,
    /// Another version's.
    #[error("it is written in version {0} of the format; this program knows version {VERSION}")]
    Version(u32),
    /// The bytes are not those that were written.
    #[error("the CRC-32C of its header does not match")]
    Checksum,
    /// Valid bytes that make no sense.
    #[error("its header contradicts itself")]
    Contradiction,
}

impl SegmentHeader {
    /// Writes the header block.
    ///
    /// # Panics
    /// If `block` does not have [`BLOCK_BYTES`] bytes.
    pub fn encode(&self, block: &mut [u8]) {
        assert_eq!(block.len(), BLOCK_BYTES);
        block.fill(0);
        block[..8].copy_from_slice(MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[16..32].copy_from_slice(&self.store.0);
        for (index, number) in
            [self.segment, self.previous, self.previous_end, self.first_batch].into_iter().enumerate()
        {
            block[32 + 8 * index..][..8].copy_from_slice(&number.to_le_bytes());
        }
        block[64..68].copy_from_slice(&self.run.to_le_bytes());
        block[68..70].copy_from_slice(&self.shard.to_le_bytes());
        block[70..72].copy_from_slice(&self.shards.to_le_bytes());
        for (name, slot) in self.encodings.iter().zip(block[NAMES_AT..END].chunks_exact_mut(NAME_BYTES)) {
            slot[0] = name.len() as u8;
            slot[1..][..name.len()].copy_from_slice(name);
        }
        let crc = crc32c::crc32c(&block[16..END]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the header block.
    ///
    /// # Errors
    /// There is none that can be used.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, InvalidHeader> {
        let block = block.get(..END).ok_or(InvalidHeader::Missing)?;
        if block[..8] != *MAGIC {
            return Err(InvalidHeader::Missing);
        }
        if u32_at(block, 8) != VERSION {
            return Err(InvalidHeader::Version(u32_at(block, 8)));
        }
        if u32_at(block, 12) != crc32c::crc32c(&block[16..END]) {
            return Err(InvalidHeader::Checksum);
        }
        let names = block[NAMES_AT..].chunks_exact(NAME_BYTES).take_while(|slot| slot[0] != 0);
        let encodings = names
            .map(|slot| slot[1..].get(..usize::from(slot[0])).map(<[u8]>::to_vec))
            .collect::<Option<_>>()
            .ok_or(InvalidHeader::Contradiction)?;
        Ok(SegmentHeader {
            store: StoreId(block[16..32].try_into().expect("sixteen bytes")),
            segment: u64_at(block, 32),
            previous: u64_at(block, 40),
            previous_end: u64_at(block, 48),
            first_batch: u64_at(block, 56),
            run: u32_at(block, 64),
            shard: u32_at(block, 68) as u16,
            shards: (u32_at(block, 68) >> 16) as u16,
            encodings,
        })
    }

    /// The encodings that codes in this segment stand for.
    ///
    /// # Errors
    /// A name that is not known.
    pub fn encodings(&self, known: &Encodings) -> Result<Encodings, Vec<u8>> {
        known.in_order_of(self.encodings.iter().map(Vec::as_slice))
    }
}

/// The first record of each write. A write begins and ends at multiples of [`BLOCK_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which one of the log; the next one has the next number, over all segments and runs.
    pub number: u64,
    /// Bytes of the batch, this record included, without the zeros that fill its last block.
    pub bytes: u64,
    /// Records in it, this one not counted.
    pub records: u64,
}

impl Batch {
    /// Bytes of the record.
    pub const RECORD_BYTES: usize = 48;

    /// What its payload says.
    pub fn decode(payload: &[u8]) -> Option<Batch> {
        let [number, bytes, records] = numbers(payload)?;
        (bytes >= Self::RECORD_BYTES as u64).then_some(Batch { number, bytes, records })
    }

    /// Writes the record to `into`, which has [`Batch::RECORD_BYTES`] bytes.
    pub fn encode(&self, into: &mut [u8], segment: u64, encodings: &Encodings) {
        let numbers = [self.number, self.bytes, self.records];
        crate::record::Payload::Numbers(crate::record::Kind::Batch, numbers, 3).encode(
            into,
            fulmar_core::journal::Joined::No,
            segment,
            encodings,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store: StoreId([7; 16]),
            segment: 9,
            previous: 8,
            previous_end: 123_456,
            first_batch: 77,
            run: 3,
            shard: 1,
            shards: 4,
            encodings: vec![b"amqp-0-9-1".to_vec(), vec![b'x'; LONGEST_ENCODING_NAME]],
        }
    }

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        let mut block = vec![1; BLOCK_BYTES];
        header().encode(&mut block);
        assert_eq!(SegmentHeader::decode(&block), Ok(header()));
    }

    #[test]
    fn no_changed_bit_goes_unnoticed() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        for bit in 0..END * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&block).is_err(), "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(SegmentHeader::decode(&block[..END - 1]), Err(InvalidHeader::Missing));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut block = vec![0; BLOCK_BYTES];
        header().encode(&mut block);
        block[8] = 2;
        assert_eq!(SegmentHeader::decode(&block), Err(InvalidHeader::Version(2)));
    }
}
