//! Elementary types: a bounds-checked reader, and appenders.

use super::{CodecError, SHORT_STRING_MAX_BYTES, TableRef};

/// Reads fields one after another.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet that holds the current run of bits, and how many of them were read.
    bits: u8,
    bits_read: u8,
}

impl<'a> Reader<'a> {
    #[inline(always)]
    pub(super) fn new(input: &'a [u8]) -> Self {
        Reader { rest: input, bits: 0, bits_read: 0 }
    }

    /// What has not been read yet.
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
        self.bits_read = 0;
        Ok(taken)
    }

    #[inline(always)]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        self.bits_read = 0;
        Ok(*taken)
    }

    #[inline(always)]
    pub(super) fn octet(&mut self) -> Result<u8, CodecError> {
        self.array().map(u8::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn short(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn long(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn longlong(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_be_bytes)
    }

    #[inline(always)]
    pub(super) fn shortstr(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.octet()?;
        self.take(len.into())
    }

    #[inline(always)]
    pub(super) fn longstr(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.long()?;
        self.take(usize::try_from(len).map_err(|_| CodecError::Truncated)?)
    }

    #[inline(always)]
    pub(super) fn table(&mut self) -> Result<TableRef<'a>, CodecError> {
        self.longstr().map(TableRef::new)
    }

    /// A bit; those that follow each other share an octet, the first one lowest.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> Result<bool, CodecError> {
        if self.bits_read == 0 {
            self.bits = self.octet()?;
        }
        let bit = self.bits & (1 << self.bits_read) != 0;
        self.bits_read = (self.bits_read + 1) % 8;
        Ok(bit)
    }
}

/// Appends fields one after another.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    bits_written: u8,
}

impl<'a> Writer<'a> {
    #[inline(always)]
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out, bits_written: 0 }
    }

    #[inline(always)]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.bits_written = 0;
    }

    #[inline(always)]
    pub(super) fn octet(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    #[inline(always)]
    pub(super) fn short(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn long(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn longlong(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    #[inline(always)]
    pub(super) fn shortstr(&mut self, text: &[u8]) {
        let text = cut(text);
        self.octet(text.len() as u8);
        self.bytes(text);
    }

    #[inline(always)]
    pub(super) fn longstr(&mut self, bytes: &[u8]) {
        self.long(u32::try_from(bytes.len()).expect("a string of 4 GiB was given to the encoder"));
        self.bytes(bytes);
    }

    #[inline(always)]
    pub(super) fn table(&mut self, table: TableRef<'_>) {
        self.longstr(table.as_bytes());
    }

    #[inline(always)]
    pub(super) fn bit(&mut self, bit: bool) {
        let place = self.bits_written;
        if place == 0 {
            self.out.push(0);
        }
        if let Some(last) = self.out.last_mut() {
            *last |= u8::from(bit) << place;
        }
        self.bits_written = (place + 1) % 8;
    }
}

/// As much of `text` as a short string holds, without cutting a UTF-8 character.
#[inline(always)]
pub(super) fn cut(text: &[u8]) -> &[u8] {
    if text.len() <= SHORT_STRING_MAX_BYTES { text } else { cut_long(text) }
}

#[cold]
fn cut_long(text: &[u8]) -> &[u8] {
    let is_continuation = |byte: u8| byte & 0xC0 == 0x80;
    let mut end = SHORT_STRING_MAX_BYTES;
    while end > SHORT_STRING_MAX_BYTES - 4 && is_continuation(text[end]) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_share_an_octet_until_another_field_comes() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        for bit in [true, false, true] {
            writer.bit(bit);
        }
        writer.octet(7);
        writer.bit(true);
        assert_eq!(out, [0b101, 7, 1]);

        let mut reader = Reader::new(&out);
        assert_eq!([reader.bit(), reader.bit(), reader.bit()], [Ok(true), Ok(false), Ok(true)]);
        assert_eq!(reader.octet(), Ok(7));
        assert_eq!(reader.bit(), Ok(true));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn the_ninth_bit_opens_an_octet() {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        (0..9).for_each(|_| writer.bit(true));
        assert_eq!(out, [0xFF, 1]);
        let mut reader = Reader::new(&out);
        assert!((0..9).all(|_| reader.bit() == Ok(true)));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_long_short_string_is_cut_between_characters() {
        let text = format!("{}é", "x".repeat(254));
        let mut out = Vec::new();
        Writer::new(&mut out).shortstr(text.as_bytes());
        assert_eq!(out[0], 254);
        assert_eq!(out.len(), 255);
    }
}
