//! Types of fields (specification, "Types"): a bounds-checked reader, and appenders. Numbers are big-endian.

use super::CodecError;
use super::sequence::{ByteRanges, SequenceNo, SequenceSet};
use super::value::{ArrayRef, MapRef, StructRef};

/// Reads fields one after another.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline(always)]
    pub(super) fn new(input: &'a [u8]) -> Self {
        Reader { rest: input }
    }

    /// What has not been read yet.
    #[inline(always)]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline(always)]
    pub(super) fn finish(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }

    #[inline(always)]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline(always)]
    pub(super) fn octets<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline(always)]
    pub(super) fn uint8(&mut self) -> Result<u8, CodecError> {
        self.octets().map(u8::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn uint16(&mut self) -> Result<u16, CodecError> {
        self.octets().map(u16::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn uint32(&mut self) -> Result<u32, CodecError> {
        self.octets().map(u32::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn uint64(&mut self) -> Result<u64, CodecError> {
        self.octets().map(u64::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn datetime(&mut self) -> Result<u64, CodecError> {
        self.uint64()
    }

    #[inline(always)]
    pub(super) fn uuid(&mut self) -> Result<[u8; 16], CodecError> {
        self.octets()
    }

    #[inline(always)]
    pub(super) fn vbin8(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.uint8()?;
        self.take(len.into())
    }

    #[inline(always)]
    pub(super) fn vbin16(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.uint16()?;
        self.take(len.into())
    }

    #[inline(always)]
    pub(super) fn vbin32(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.uint32()?;
        self.take(usize::try_from(len).map_err(|_| CodecError::Truncated)?)
    }

    #[inline(always)]
    pub(super) fn str8(&mut self) -> Result<&'a [u8], CodecError> {
        self.vbin8()
    }

    #[inline(always)]
    pub(super) fn str16(&mut self) -> Result<&'a [u8], CodecError> {
        self.vbin16()
    }

    #[inline(always)]
    pub(super) fn sequence_no(&mut self) -> Result<SequenceNo, CodecError> {
        self.uint32().map(SequenceNo)
    }

    pub(super) fn sequence_set(&mut self) -> Result<SequenceSet<'a>, CodecError> {
        SequenceSet::new(self.vbin16()?)
    }

    pub(super) fn byte_ranges(&mut self) -> Result<ByteRanges<'a>, CodecError> {
        ByteRanges::new(self.vbin16()?)
    }

    #[inline(always)]
    pub(super) fn map(&mut self) -> Result<MapRef<'a>, CodecError> {
        self.vbin32().map(MapRef::new)
    }

    #[inline(always)]
    pub(super) fn array(&mut self) -> Result<ArrayRef<'a>, CodecError> {
        self.vbin32().map(ArrayRef::new)
    }

    #[inline(always)]
    pub(super) fn struct32(&mut self) -> Result<StructRef<'a>, CodecError> {
        self.vbin32().map(StructRef::new)
    }

    /// What follows a size of `width` octets: 0 (no size: all that is left), 1, 2 or 4.
    #[inline(always)]
    pub(super) fn sized(&mut self, width: u8) -> Result<&'a [u8], CodecError> {
        match width {
            0 => Ok(std::mem::take(&mut self.rest)),
            1 => self.vbin8(),
            2 => self.vbin16(),
            _ => self.vbin32(),
        }
    }

    /// Packing flags of `width` octets: 0, 1 or 2. Field _n_ is bit _n_ mod 8 of octet _n_ / 8, here bit _n_.
    #[inline(always)]
    pub(super) fn flags(&mut self, width: u8) -> Result<u16, CodecError> {
        Ok(match width {
            0 => 0,
            1 => self.uint8()?.into(),
            _ => self.octets().map(u16::from_le_bytes)?,
        })
    }
}

/// Appends fields one after another.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    #[inline(always)]
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out }
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    #[inline(always)]
    pub(super) fn uint8(&mut self, value: u8) {
        self.out.push(value);
    }

    #[inline(always)]
    pub(super) fn uint16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn uint32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn uint64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn datetime(&mut self, value: u64) {
        self.uint64(value);
    }

    #[inline(always)]
    pub(super) fn uuid(&mut self, value: [u8; 16]) {
        self.bytes(&value);
    }

    #[inline(always)]
    pub(super) fn vbin8(&mut self, value: &[u8]) {
        let value = &value[..value.len().min(u8::MAX.into())];
        self.uint8(value.len() as u8);
        self.bytes(value);
    }

    #[inline(always)]
    pub(super) fn vbin16(&mut self, value: &[u8]) {
        let value = &value[..value.len().min(u16::MAX.into())];
        self.uint16(value.len() as u16);
        self.bytes(value);
    }

    #[inline(always)]
    pub(super) fn vbin32(&mut self, value: &[u8]) {
        self.uint32(u32::try_from(value.len()).expect("4 GiB were given to the encoder"));
        self.bytes(value);
    }

    #[inline(always)]
    pub(super) fn str8(&mut self, text: &[u8]) {
        self.vbin8(cut(text, u8::MAX.into()));
    }

    #[inline(always)]
    pub(super) fn str16(&mut self, text: &[u8]) {
        self.vbin16(cut(text, u16::MAX.into()));
    }

    #[inline(always)]
    pub(super) fn sequence_no(&mut self, value: SequenceNo) {
        self.uint32(value.0);
    }

    pub(super) fn sequence_set(&mut self, set: SequenceSet<'_>) {
        self.vbin16(set.as_bytes_of_a_field());
    }

    pub(super) fn byte_ranges(&mut self, ranges: ByteRanges<'_>) {
        self.vbin16(ranges.as_bytes_of_a_field());
    }

    #[inline(always)]
    pub(super) fn map(&mut self, map: MapRef<'_>) {
        self.vbin32(map.as_bytes());
    }

    #[inline(always)]
    pub(super) fn array(&mut self, array: ArrayRef<'_>) {
        self.vbin32(array.as_bytes());
    }

    #[inline(always)]
    pub(super) fn struct32(&mut self, value: StructRef<'_>) {
        self.vbin32(value.as_bytes());
    }

    /// Writes what `body` writes, preceded by its size in `width` octets: 0 (no size), 1, 2 or 4.
    #[inline(always)]
    pub(super) fn sized(&mut self, width: u8, body: impl FnOnce(&mut Writer<'_>)) {
        let width = usize::from(width);
        let start = self.out.len();
        self.bytes(&[0; 4][..width]);
        body(self);
        let size = u32::try_from(self.out.len() - start - width).expect("4 GiB were given to the encoder");
        debug_assert!(width == 4 || width == 0 || size < 1 << (8 * width), "a struct outgrows its size");
        self.out[start..start + width].copy_from_slice(&size.to_be_bytes()[4 - width..]);
    }

    /// Packing flags, see [`Reader::flags`].
    #[inline(always)]
    pub(super) fn flags(&mut self, width: u8, flags: u16) {
        self.bytes(&flags.to_le_bytes()[..width.into()]);
    }
}

/// As much of `text` as `max` bytes hold, without cutting a UTF-8 character.
#[inline(always)]
pub(super) fn cut(text: &[u8], max: usize) -> &[u8] {
    if text.len() <= max { text } else { cut_long(text, max) }
}

#[cold]
fn cut_long(text: &[u8], max: usize) -> &[u8] {
    let is_continuation = |byte: u8| byte & 0xC0 == 0x80;
    let mut end = max;
    while end > max - 4 && is_continuation(text[end]) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_count_from_the_lowest_bit_of_the_first_octet() {
        let mut out = Vec::new();
        Writer::new(&mut out).flags(2, 1 | 1 << 9);
        Writer::new(&mut out).flags(1, 0x81);
        Writer::new(&mut out).flags(0, 0);
        assert_eq!(out, [1, 2, 0x81]);
        let mut reader = Reader::new(&out);
        assert_eq!((reader.flags(2), reader.flags(1), reader.flags(0)), (Ok(0x0201), Ok(0x81), Ok(0)));
        assert_eq!(reader.flags(1), Err(CodecError::Truncated));
    }

    #[test]
    fn what_is_too_long_is_cut_and_text_between_characters() {
        let text = format!("{}é", "x".repeat(254));
        let mut out = Vec::new();
        Writer::new(&mut out).str8(text.as_bytes());
        assert_eq!((out[0], out.len()), (254, 255));
        out.clear();
        Writer::new(&mut out).vbin8(text.as_bytes());
        assert_eq!((out[0], out.len()), (255, 256));
        out.clear();
        let text = format!("{}é", "x".repeat(65_534));
        Writer::new(&mut out).str16(text.as_bytes());
        assert_eq!((&out[..2], out.len()), (&[0xFF, 0xFE][..], 65_536));
        out.clear();
        Writer::new(&mut out).vbin16(text.as_bytes());
        assert_eq!((&out[..2], out.len()), (&[0xFF, 0xFF][..], 65_537));
    }

    #[test]
    fn sizes_have_the_width_asked_for() {
        for (width, size) in [(0, &b""[..]), (1, b"\x02"), (2, b"\0\x02"), (4, b"\0\0\0\x02")] {
            let mut out = Vec::new();
            Writer::new(&mut out).sized(width, |writer| writer.bytes(b"ab"));
            assert_eq!(out, [size, b"ab"].concat());
            let mut reader = Reader::new(&out);
            assert_eq!(reader.sized(width), Ok(&b"ab"[..]));
            assert_eq!(reader.finish(), Ok(()));
            if width > 0 {
                assert_eq!(Reader::new(&out[..out.len() - 1]).sized(width), Err(CodecError::Truncated));
            }
        }
    }
}
