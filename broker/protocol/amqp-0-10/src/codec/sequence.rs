//! Command ids, sets of them, and ranges of octets (specification, "sequence-no", "sequence-set", "byte-ranges").

use std::cmp::Ordering;
use std::fmt;

use super::CodecError;

/// The id of a command. Ids count up from any number and go on with 0 after 2³² − 1; two are compared by the shorter
/// way between them (RFC 1982), so order holds among ids less than 2³¹ apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SequenceNo(pub u32);

impl SequenceNo {
    /// The id `count` commands later.
    #[inline(always)]
    pub const fn plus(self, count: u32) -> Self {
        SequenceNo(self.0.wrapping_add(count))
    }

    /// The id of the next command.
    #[inline(always)]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// How many commands `self` is after `earlier`; negative if it comes before.
    #[inline(always)]
    pub const fn since(self, earlier: SequenceNo) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// Whether `self` comes before `other`.
    #[inline(always)]
    pub const fn is_before(self, other: SequenceNo) -> bool {
        self.since(other) < 0
    }

    /// Order on the shorter way. Not an `Ord`: it is not transitive around the whole circle.
    pub fn compare(self, other: SequenceNo) -> Ordering {
        self.since(other).cmp(&0)
    }
}

impl fmt::Display for SequenceNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! ranges {
    (
        $(#[$doc:meta])* $name:ident of $bound:ident($to:expr, $from:expr, $is_before:expr),
        $bytes:literal bytes, $error:ident
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name<'a>(&'a [u8]);

        impl<'a> $name<'a> {
            /// The set without ranges.
            pub const EMPTY: $name<'static> = $name(&[]);

            /// Most ranges that fit into a field.
            pub const MAX_RANGES: usize = u16::MAX as usize / $bytes;

            /// From encoded ranges, without the size that precedes them on the wire.
            ///
            /// # Errors
            /// Not a whole number of ranges, or one the wrong way round.
            pub fn new(ranges: &'a [u8]) -> Result<Self, CodecError> {
                if ranges.len() % $bytes != 0 {
                    return Err(CodecError::$error(ranges.len()));
                }
                let set = $name(ranges);
                if set.iter().any(|(first, last)| $is_before(last, first)) {
                    return Err(CodecError::ReversedRange);
                }
                Ok(set)
            }

            /// The encoded ranges.
            pub const fn as_bytes(self) -> &'a [u8] {
                self.0
            }

            /// As many of the encoded ranges as a field holds.
            pub(super) fn as_bytes_of_a_field(self) -> &'a [u8] {
                &self.0[..self.0.len().min(Self::MAX_RANGES * $bytes)]
            }

            /// Whether there are no ranges.
            pub const fn is_empty(self) -> bool {
                self.0.is_empty()
            }

            /// Number of ranges.
            pub const fn len(self) -> usize {
                self.0.len() / $bytes
            }

            /// First and last member of each range, in the order in which they were written; they may overlap.
            #[inline]
            pub fn iter(self) -> impl ExactSizeIterator<Item = ($bound, $bound)> + Clone + 'a {
                let bound = |half: &[u8]| $from(half.try_into().expect("halves of a range are bounds"));
                self.0.chunks_exact($bytes).map(move |range| {
                    let (first, last) = range.split_at($bytes / 2);
                    (bound(first), bound(last))
                })
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(self.iter().map(|(first, last)| $to(first)..=$to(last))).finish()
            }
        }
    };
}

ranges! {
    /// A set of command ids: ranges, borrowed. The first of a range does not come after the last.
    SequenceSet of SequenceNo(
        |bound: SequenceNo| bound.0, |bytes| SequenceNo(u32::from_be_bytes(bytes)), SequenceNo::is_before
    ), 8 bytes, BadSequenceSet
}

ranges! {
    /// Ranges of octets within a command, borrowed. The first of a range does not come after the last.
    ByteRanges of u64(
        |bound: u64| bound, u64::from_be_bytes, |last: u64, first: u64| last < first
    ), 16 bytes, BadByteRanges
}

/// Appends ranges as [`SequenceSet::new`] takes them.
pub fn encode_sequence_set(ranges: impl IntoIterator<Item = (SequenceNo, SequenceNo)>, out: &mut Vec<u8>) {
    for (first, last) in ranges {
        out.extend_from_slice(&first.0.to_be_bytes());
        out.extend_from_slice(&last.0.to_be_bytes());
    }
}

/// Appends ranges as [`ByteRanges::new`] takes them.
pub fn encode_byte_ranges(ranges: impl IntoIterator<Item = (u64, u64)>, out: &mut Vec<u8>) {
    for (first, last) in ranges {
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&last.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_go_on_over_the_end() {
        let last = SequenceNo(u32::MAX);
        assert_eq!(last.next(), SequenceNo(0));
        assert!(last.is_before(SequenceNo(0)) && !SequenceNo(0).is_before(last));
        assert_eq!((SequenceNo(3).since(last), last.since(SequenceNo(3))), (4, -4));
        assert_eq!(SequenceNo(7).compare(SequenceNo(7)), Ordering::Equal);
    }

    #[test]
    fn a_set_is_whole_ranges() {
        assert_eq!(SequenceSet::new(&[0; 7]), Err(CodecError::BadSequenceSet(7)));
        assert_eq!(ByteRanges::new(&[0; 8]), Err(CodecError::BadByteRanges(8)));
        assert_eq!(SequenceSet::new(b"\0\0\0\x02\0\0\0\x01"), Err(CodecError::ReversedRange));
        assert_eq!(SequenceSet::new(b"\0\0\0\0\x80\0\0\0"), Err(CodecError::ReversedRange));
        assert!(SequenceSet::new(b"\xff\xff\xff\xff\0\0\0\x01").is_ok());
        let reversed = [2u64.to_be_bytes(), 1u64.to_be_bytes()].concat();
        assert_eq!(ByteRanges::new(&reversed), Err(CodecError::ReversedRange));
        let set = SequenceSet::new(b"\0\0\0\x01\0\0\0\x02").unwrap();
        assert_eq!((format!("{set:?}").as_str(), set.len(), set.is_empty()), ("[1..=2]", 1, false));
        assert!(SequenceSet::EMPTY.is_empty() && SequenceSet::EMPTY.iter().next().is_none());
    }

    proptest! {
        #[test]
        fn ranges_come_back(
            ids in prop::collection::vec((any::<u32>(), 0..1u32 << 31), 0..20),
            bytes in prop::collection::vec(any::<(u64, u64)>(), 0..20),
        ) {
            let ids: Vec<_> = ids.into_iter().map(|(a, len)| (SequenceNo(a), SequenceNo(a).plus(len))).collect();
            let bytes: Vec<_> = bytes.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let mut out = Vec::new();
            encode_sequence_set(ids.iter().copied(), &mut out);
            prop_assert_eq!(SequenceSet::new(&out)?.iter().collect::<Vec<_>>(), ids);
            out.clear();
            encode_byte_ranges(bytes.iter().copied(), &mut out);
            prop_assert_eq!(ByteRanges::new(&out)?.iter().collect::<Vec<_>>(), bytes);
        }
    }
}
