//! What a [`Position`] says: segment and offset of a record, or that the record is in the page file.
//!
//! Bit 63: page file. Bits 28 to 62: number of the segment, or of the page file's part. Bits 0 to 27: offset in units of
//! [`UNIT`] bytes, so that the start of a record lies within the first 4 GiB of its file.

use fulmar_core::journal::Position;

/// What the offset of every record is a multiple of, in bytes.
pub const UNIT: u64 = 16;

const OFFSET_BITS: u32 = 28;
const PAGE_FILE: u64 = Position::PAGE;

/// Largest number that a segment can have.
pub const LARGEST_SEGMENT: u64 = (1 << 35) - 1;

/// Behind the largest offset that a record can start at, in bytes.
pub const OFFSET_END: u64 = UNIT << OFFSET_BITS;

/// The place of a record in a segment.
///
/// # Panics
/// If no record can stand there.
#[inline]
pub fn in_segment(segment: u64, offset: u64) -> Position {
    assert!(
        segment <= LARGEST_SEGMENT && offset < OFFSET_END && offset.is_multiple_of(UNIT),
        "{segment}:{offset}"
    );
    Position((segment << OFFSET_BITS) | (offset / UNIT))
}

/// The segment that a record is in, or the part of the page file.
#[inline]
pub fn segment_of(position: Position) -> u64 {
    (position.0 & !PAGE_FILE) >> OFFSET_BITS
}

/// Whether two records are in the same file.
#[inline]
pub fn is_same_file(one: Position, other: Position) -> bool {
    one.0 >> OFFSET_BITS == other.0 >> OFFSET_BITS
}

/// Where in its segment a record begins, in bytes.
#[inline]
pub fn offset_of(position: Position) -> u64 {
    (position.0 & ((1 << OFFSET_BITS) - 1)) * UNIT
}

/// The place of a record in a part of the page file.
///
/// # Panics
/// If no record can stand there.
#[inline]
pub fn in_page_file(part: u64, offset: u64) -> Position {
    Position(PAGE_FILE | in_segment(part, offset).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_record_has_a_larger_position() {
        let places = [(1, 4096), (1, 4112), (1, OFFSET_END - UNIT), (2, 0), (LARGEST_SEGMENT, 16)];
        let positions: Vec<_> =
            places.iter().map(|(segment, offset)| in_segment(*segment, *offset)).collect();
        assert!(positions.is_sorted_by(|a, b| a < b));
        for ((segment, offset), position) in places.into_iter().zip(positions) {
            assert_eq!((segment_of(position), offset_of(position)), (segment, offset));
            assert!(!position.is_page());
        }
    }

    #[test]
    fn the_page_file_is_told_from_segments() {
        let (position, segment) = (in_page_file(3, 160), in_segment(3, 160));
        assert!(position.is_page() && position != segment && !is_same_file(position, segment));
        assert!(is_same_file(position, in_page_file(3, 16)));
        assert_eq!((segment_of(position), offset_of(position)), (3, 160));
    }
}
