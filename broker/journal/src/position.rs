//! What a [`Position`] says: segment and offset of a record, or that the record is in the page file.
//!
//! Bit 63: page file. Bits 28 to 62: number of the segment. Bits 0 to 27: offset in units of [`UNIT`] bytes, so that the
//! start of a record lies within the first 4 GiB of its file. Of the page file all 63 bits are an offset in bytes.

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

/// The segment that a record is in.
#[inline]
pub fn segment_of(position: Position) -> u64 {
    debug_assert!(!position.is_page());
    position.0 >> OFFSET_BITS
}

/// Where in its segment a record begins, in bytes.
#[inline]
pub fn offset_of(position: Position) -> u64 {
    (position.0 & ((1 << OFFSET_BITS) - 1)) * UNIT
}

/// The place of a record in the page file.
///
/// # Panics
/// If the offset is beyond 2^63 bytes.
#[inline]
pub fn in_page_file(offset: u64) -> Position {
    assert!(offset < PAGE_FILE);
    Position(PAGE_FILE | offset)
}

/// Where in the page file a record begins, in bytes.
#[inline]
pub fn page_offset_of(position: Position) -> u64 {
    position.0 & !PAGE_FILE
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
        let position = in_page_file(12_345);
        assert!(position.is_page());
        assert_eq!(page_offset_of(position), 12_345);
    }
}
