//! Typed values, and the maps, lists and arrays of them (specification, "Types": a type code's high half tells the
//! width of its values, so that those of unknown types can be skipped).
//!
//! Containers are borrowed as encoded and not looked at until asked; [`MapRef::validate`] and its like look at all.

use super::CodecError;
use super::table::code;
use super::wire::{Reader, Writer};

/// How deeply maps, lists and arrays may lie in each other; the outermost counts.
pub const MAX_DEPTH: usize = 64;

/// Most elements of an array whose type takes no room (`void`, `bit`): a count alone must not cost memory or time.
pub const MAX_EMPTY_ELEMENTS: u32 = 8;

/// A value of any type, borrowed. Strings and binaries are bytes as they came; those that are longer than the width of
/// their type are cut when they are encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `void`.
    Void,
    /// `bit`: set, by being there.
    Bit,
    /// `bin8` … `bin1024`, `bin40`, `bin72`, by length; bytes of any other length are encoded as `vbin32`.
    Bin(&'a [u8]),
    /// `int8`.
    Int8(i8),
    /// `uint8`.
    Uint8(u8),
    /// `char`: a character of ISO 8859-15.
    Char(u8),
    /// `boolean`.
    Boolean(bool),
    /// `int16`.
    Int16(i16),
    /// `uint16`.
    Uint16(u16),
    /// `int32`.
    Int32(i32),
    /// `uint32`.
    Uint32(u32),
    /// `float`.
    Float(f32),
    /// `char-utf32`: a code point, not checked to be one.
    CharUtf32(u32),
    /// `int64`.
    Int64(i64),
    /// `uint64`.
    Uint64(u64),
    /// `double`.
    Double(f64),
    /// `datetime`: seconds since 1970.
    Datetime(u64),
    /// `uuid`.
    Uuid([u8; 16]),
    /// `vbin8`.
    Vbin8(&'a [u8]),
    /// `str8-latin`: ISO 8859-15.
    Str8Latin(&'a [u8]),
    /// `str8`: UTF-8.
    Str8(&'a [u8]),
    /// `str8-utf16`: UTF-16, big-endian.
    Str8Utf16(&'a [u8]),
    /// `vbin16`.
    Vbin16(&'a [u8]),
    /// `str16-latin`: ISO 8859-15.
    Str16Latin(&'a [u8]),
    /// `str16`: UTF-8.
    Str16(&'a [u8]),
    /// `str16-utf16`: UTF-16, big-endian.
    Str16Utf16(&'a [u8]),
    /// `vbin32`.
    Vbin32(&'a [u8]),
    /// `map`.
    Map(MapRef<'a>),
    /// `list`.
    List(ListRef<'a>),
    /// `array`.
    Array(ArrayRef<'a>),
    /// `struct32`.
    Struct32(StructRef<'a>),
    /// `dec32`: digits after the point, and the scaled integer.
    Dec32(u8, i32),
    /// `dec64`: digits after the point, and the scaled integer.
    Dec64(u8, i64),
    /// Of a type that the specification does not define, but whose width its code tells.
    Other {
        /// Code of the type.
        code: u8,
        /// The value, without its size.
        bytes: &'a [u8],
    },
}

impl<'a> Value<'a> {
    /// Reads a value of the type with this code.
    fn read(code: u8, reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        Ok(match code {
            code::VOID => Value::Void,
            code::BIT => Value::Bit,
            code::INT8 => Value::Int8(i8::from_be_bytes(reader.octets()?)),
            code::UINT8 => Value::Uint8(reader.uint8()?),
            code::CHAR => Value::Char(reader.uint8()?),
            code::BOOLEAN => Value::Boolean(reader.uint8()? != 0),
            code::INT16 => Value::Int16(i16::from_be_bytes(reader.octets()?)),
            code::UINT16 => Value::Uint16(reader.uint16()?),
            code::INT32 => Value::Int32(i32::from_be_bytes(reader.octets()?)),
            code::UINT32 => Value::Uint32(reader.uint32()?),
            code::FLOAT => Value::Float(f32::from_be_bytes(reader.octets()?)),
            code::CHAR_UTF32 => Value::CharUtf32(reader.uint32()?),
            code::INT64 => Value::Int64(i64::from_be_bytes(reader.octets()?)),
            code::UINT64 => Value::Uint64(reader.uint64()?),
            code::DOUBLE => Value::Double(f64::from_be_bytes(reader.octets()?)),
            code::DATETIME => Value::Datetime(reader.datetime()?),
            code::UUID => Value::Uuid(reader.uuid()?),
            code::DEC32 => Value::Dec32(reader.uint8()?, i32::from_be_bytes(reader.octets()?)),
            code::DEC64 => Value::Dec64(reader.uint8()?, i64::from_be_bytes(reader.octets()?)),
            _ => Value::of_bytes(code, skip(code, reader)?),
        })
    }

    /// A value that is all bytes.
    fn of_bytes(code: u8, bytes: &'a [u8]) -> Self {
        match code {
            code::BIN8 | code::BIN16 | code::BIN32 | code::BIN64 | code::BIN128 => Value::Bin(bytes),
            code::BIN256 | code::BIN512 | code::BIN1024 | code::BIN40 | code::BIN72 => Value::Bin(bytes),
            code::VBIN8 => Value::Vbin8(bytes),
            code::STR8_LATIN => Value::Str8Latin(bytes),
            code::STR8 => Value::Str8(bytes),
            code::STR8_UTF16 => Value::Str8Utf16(bytes),
            code::VBIN16 => Value::Vbin16(bytes),
            code::STR16_LATIN => Value::Str16Latin(bytes),
            code::STR16 => Value::Str16(bytes),
            code::STR16_UTF16 => Value::Str16Utf16(bytes),
            code::VBIN32 => Value::Vbin32(bytes),
            code::MAP => Value::Map(MapRef(bytes)),
            code::LIST => Value::List(ListRef(bytes)),
            code::ARRAY => Value::Array(ArrayRef(bytes)),
            code::STRUCT32 => Value::Struct32(StructRef(bytes)),
            code => Value::Other { code, bytes },
        }
    }

    /// The code of its type.
    pub fn code(&self) -> u8 {
        match *self {
            Value::Void => code::VOID,
            Value::Bit => code::BIT,
            Value::Bin(bytes) => bin_code(bytes.len()),
            Value::Int8(_) => code::INT8,
            Value::Uint8(_) => code::UINT8,
            Value::Char(_) => code::CHAR,
            Value::Boolean(_) => code::BOOLEAN,
            Value::Int16(_) => code::INT16,
            Value::Uint16(_) => code::UINT16,
            Value::Int32(_) => code::INT32,
            Value::Uint32(_) => code::UINT32,
            Value::Float(_) => code::FLOAT,
            Value::CharUtf32(_) => code::CHAR_UTF32,
            Value::Int64(_) => code::INT64,
            Value::Uint64(_) => code::UINT64,
            Value::Double(_) => code::DOUBLE,
            Value::Datetime(_) => code::DATETIME,
            Value::Uuid(_) => code::UUID,
            Value::Vbin8(_) => code::VBIN8,
            Value::Str8Latin(_) => code::STR8_LATIN,
            Value::Str8(_) => code::STR8,
            Value::Str8Utf16(_) => code::STR8_UTF16,
            Value::Vbin16(_) => code::VBIN16,
            Value::Str16Latin(_) => code::STR16_LATIN,
            Value::Str16(_) => code::STR16,
            Value::Str16Utf16(_) => code::STR16_UTF16,
            Value::Vbin32(_) => code::VBIN32,
            Value::Map(_) => code::MAP,
            Value::List(_) => code::LIST,
            Value::Array(_) => code::ARRAY,
            Value::Struct32(_) => code::STRUCT32,
            Value::Dec32(..) => code::DEC32,
            Value::Dec64(..) => code::DEC64,
            Value::Other { code, .. } => code,
        }
    }

    /// Appends the value without the code of its type.
    fn write(&self, writer: &mut Writer<'_>) {
        match *self {
            Value::Void | Value::Bit => {}
            Value::Int8(v) => writer.bytes(&v.to_be_bytes()),
            Value::Uint8(v) | Value::Char(v) => writer.uint8(v),
            Value::Boolean(v) => writer.uint8(v.into()),
            Value::Int16(v) => writer.bytes(&v.to_be_bytes()),
            Value::Uint16(v) => writer.uint16(v),
            Value::Int32(v) => writer.bytes(&v.to_be_bytes()),
            Value::Uint32(v) | Value::CharUtf32(v) => writer.uint32(v),
            Value::Float(v) => writer.bytes(&v.to_be_bytes()),
            Value::Int64(v) => writer.bytes(&v.to_be_bytes()),
            Value::Uint64(v) => writer.uint64(v),
            Value::Double(v) => writer.bytes(&v.to_be_bytes()),
            Value::Datetime(v) => writer.datetime(v),
            Value::Uuid(v) => writer.uuid(v),
            Value::Bin(v) if bin_code(v.len()) != code::VBIN32 => writer.bytes(v),
            Value::Bin(v) | Value::Vbin32(v) => writer.vbin32(v),
            Value::Vbin8(v) | Value::Str8Latin(v) => writer.vbin8(v),
            Value::Str8(v) => writer.str8(v),
            Value::Str8Utf16(v) => writer.vbin8(&v[..v.len().min(u8::MAX as usize & !1)]),
            Value::Vbin16(v) | Value::Str16Latin(v) => writer.vbin16(v),
            Value::Str16(v) => writer.str16(v),
            Value::Str16Utf16(v) => writer.vbin16(&v[..v.len().min(u16::MAX as usize & !1)]),
            Value::Map(v) => writer.map(v),
            Value::List(v) => writer.vbin32(v.0),
            Value::Array(v) => writer.array(v),
            Value::Struct32(v) => writer.struct32(v),
            Value::Dec32(scale, v) => {
                writer.uint8(scale);
                writer.bytes(&v.to_be_bytes());
            }
            Value::Dec64(scale, v) => {
                writer.uint8(scale);
                writer.bytes(&v.to_be_bytes());
            }
            Value::Other { code, bytes } => match code >> 4 {
                8 => writer.vbin8(bytes),
                9 => writer.vbin16(bytes),
                0xA => writer.vbin32(bytes),
                _ => writer.bytes(bytes),
            },
        }
    }

    /// Appends the code of its type, and the value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.uint8(self.code());
        self.write(&mut writer);
    }

    /// Checks all that lies in it, as if a container at `depth` held it.
    fn validate_at(&self, depth: usize) -> Result<(), CodecError> {
        let within = || if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(CodecError::TooDeep) };
        match self {
            Value::Map(map) => map.validate_at(within()?),
            Value::List(list) => validate_all(list.iter(), within()?),
            Value::Array(array) => validate_all(array.iter(), within()?),
            _ => Ok(()),
        }
    }
}

/// The code of a binary of fixed width; that of `vbin32` for a length that has none.
fn bin_code(len: usize) -> u8 {
    match len {
        1 => code::BIN8,
        2 => code::BIN16,
        4 => code::BIN32,
        5 => code::BIN40,
        8 => code::BIN64,
        9 => code::BIN72,
        16 => code::BIN128,
        32 => code::BIN256,
        64 => code::BIN512,
        128 => code::BIN1024,
        _ => code::VBIN32,
    }
}

/// The bytes of a value of the type with this code, without its size.
fn skip<'a>(code: u8, reader: &mut Reader<'a>) -> Result<&'a [u8], CodecError> {
    match code >> 4 {
        width @ 0..=7 => reader.take(1 << width),
        8 => reader.vbin8(),
        9 => reader.vbin16(),
        0xA => reader.vbin32(),
        0xC => reader.take(5),
        0xD => reader.take(9),
        0xF => Ok(&[]),
        _ => Err(CodecError::UnknownType(code)),
    }
}

fn validate_all<'a>(
    mut values: impl Iterator<Item = Result<Value<'a>, CodecError>>,
    depth: usize,
) -> Result<(), CodecError> {
    values.try_for_each(|value| value?.validate_at(depth))
}

macro_rules! container {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name<'a>(&'a [u8]);

        impl<'a> $name<'a> {
            /// The empty one.
            pub const EMPTY: $name<'static> = $name(&[]);

            /// From what follows its size on the wire, or is appended by the function that encodes it.
            #[inline(always)]
            pub const fn new(encoded: &'a [u8]) -> Self {
                $name(encoded)
            }

            /// What follows its size on the wire. No octet at all is as good as a count of zero.
            #[inline(always)]
            pub const fn as_bytes(self) -> &'a [u8] {
                self.0
            }
        }
    };
}

container! {
    /// An encoded map, borrowed: names of at most 255 bytes and their values. Names may repeat; the first one counts.
    MapRef
}

container! {
    /// An encoded list, borrowed: values of any types.
    ListRef
}

container! {
    /// An encoded array, borrowed: values of one type.
    ArrayRef
}

container! {
    /// An encoded struct, borrowed: its code, and packing flags and fields, which [`super::Struct::decode`] reads. None of
    /// these where there is no struct.
    StructRef
}

impl<'a> StructRef<'a> {
    /// The code of the struct: that of its class, and its own.
    ///
    /// # Errors
    /// It is shorter than a code.
    #[inline(always)]
    pub fn code(self) -> Result<u16, CodecError> {
        self.0.first_chunk().map(|&code| u16::from_be_bytes(code)).ok_or(CodecError::Truncated)
    }

    /// Packing flags and fields.
    #[inline(always)]
    pub fn fields(self) -> &'a [u8] {
        self.0.get(2..).unwrap_or_default()
    }
}

impl std::fmt::Debug for StructRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match super::Struct::decode(*self) {
            Ok(value) => value.fmt(f),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

impl<'a> MapRef<'a> {
    /// Its entries. After an error there are no more.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Result<(&'a [u8], Value<'a>), CodecError>> {
        Elements::new(self.0, Shape::Map)
    }

    /// The first value under `name`.
    ///
    /// # Errors
    /// The map is malformed up to the end of that value.
    pub fn get(self, name: &[u8]) -> Result<Option<Value<'a>>, CodecError> {
        for entry in self.iter() {
            let (found, value) = entry?;
            if found == name {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether there are no entries.
    pub fn is_empty(self) -> bool {
        self.iter().next().is_none()
    }

    /// Checks everything in it.
    ///
    /// # Errors
    /// It is malformed, or nested more than [`MAX_DEPTH`] deep.
    pub fn validate(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { self.validate_at(1) }
    }

    fn validate_at(self, depth: usize) -> Result<(), CodecError> {
        validate_all(self.iter().map(|entry| entry.map(|(_, value)| value)), depth)
    }
}

impl<'a> ListRef<'a> {
    /// Its values. After an error there are no more.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Result<Value<'a>, CodecError>> {
        Elements::new(self.0, Shape::List).map(|element| element.map(|(_, value)| value))
    }

    /// Checks everything in it.
    ///
    /// # Errors
    /// As [`MapRef::validate`].
    pub fn validate(self) -> Result<(), CodecError> {
        validate_all(self.iter(), 1)
    }
}

impl<'a> ArrayRef<'a> {
    /// Its values. After an error there are no more.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = Result<Value<'a>, CodecError>> {
        let (shape, encoded) = match self.0.split_first() {
            Some((&code, encoded)) => (Shape::Array(code), encoded),
            None => (Shape::List, self.0),
        };
        Elements::new(encoded, shape).map(|element| element.map(|(_, value)| value))
    }

    /// The code of the type of its values; `None` for an array without any octet.
    pub fn element_code(self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Checks everything in it.
    ///
    /// # Errors
    /// As [`MapRef::validate`].
    pub fn validate(self) -> Result<(), CodecError> {
        validate_all(self.iter(), 1)
    }
}

#[derive(Clone, Copy)]
enum Shape {
    Map,
    List,
    /// With the code of the type of all elements.
    Array(u8),
}

/// Reads the elements of a container one after the other. The count bounds them, and each takes an octet at least or
/// there are few: a count that lies costs nothing.
struct Elements<'a> {
    reader: Reader<'a>,
    shape: Shape,
    left: u32,
    /// What is wrong with the count.
    error: Option<CodecError>,
}

impl<'a> Elements<'a> {
    #[inline]
    fn new(encoded: &'a [u8], shape: Shape) -> Self {
        let mut reader = Reader::new(encoded);
        let is_bare = encoded.is_empty() && !matches!(shape, Shape::Array(_));
        let (left, error) = match if is_bare { Ok(0) } else { reader.uint32() } {
            Ok(count) if matches!(shape, Shape::Array(0xF0..)) && count > MAX_EMPTY_ELEMENTS => {
                (0, Some(CodecError::TooManyEmptyElements(count)))
            }
            Ok(count) => (count, None),
            Err(error) => (0, Some(error)),
        };
        Elements { reader, shape, left, error }
    }

    #[inline(always)]
    fn read(&mut self) -> Result<(&'a [u8], Value<'a>), CodecError> {
        let name = if let Shape::Map = self.shape { self.reader.str8()? } else { &[] };
        let code = if let Shape::Array(code) = self.shape { code } else { self.reader.uint8()? };
        Ok((name, Value::read(code, &mut self.reader)?))
    }

    /// Nothing more comes after this.
    #[cold]
    fn stop(&mut self, error: CodecError) -> CodecError {
        self.left = 0;
        self.error = None;
        self.reader = Reader::new(&[]);
        error
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<(&'a [u8], Value<'a>), CodecError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let error = self.error.or(self.reader.finish().err())?;
            return Some(Err(self.stop(error)));
        }
        self.left -= 1;
        Some(self.read().map_err(|error| self.stop(error)))
    }
}

impl std::fmt::Debug for MapRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Err(error) = self.validate() {
            return write!(f, "<{error}>");
        }
        let entries = self.iter().flatten().map(|(name, value)| (name.escape_ascii().to_string(), value));
        f.debug_map().entries(entries).finish()
    }
}

impl std::fmt::Debug for ListRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.validate() {
            Ok(()) => f.debug_list().entries(self.iter().flatten()).finish(),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

impl std::fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.validate() {
            Ok(()) => f.debug_list().entries(self.iter().flatten()).finish(),
            Err(error) => write!(f, "<{error}>"),
        }
    }
}

/// Appends a map as [`MapRef::new`] takes it.
pub fn encode_map<'v>(entries: impl IntoIterator<Item = (&'v [u8], Value<'v>)>, out: &mut Vec<u8>) {
    counted(entries, out, |(name, value), writer| {
        writer.str8(name);
        value.encode(writer.out);
    });
}

/// Appends a list as [`ListRef::new`] takes it.
pub fn encode_list<'v>(values: impl IntoIterator<Item = Value<'v>>, out: &mut Vec<u8>) {
    counted(values, out, |value, writer| value.encode(writer.out));
}

/// Appends an array as [`ArrayRef::new`] takes it, of values of the type with this code.
///
/// # Panics
/// With a value of another type.
pub fn encode_array<'v>(element_code: u8, values: impl IntoIterator<Item = Value<'v>>, out: &mut Vec<u8>) {
    out.push(element_code);
    counted(values, out, |value, writer| {
        assert_eq!(value.code(), element_code, "an array holds values of one type");
        value.write(writer);
    });
}

/// Appends the count of the elements, and these.
pub(super) fn counted<T>(
    elements: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(T, &mut Writer<'_>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut count = 0u32;
    for element in elements {
        write(element, &mut Writer::new(out));
        count += 1;
    }
    out[start..start + 4].copy_from_slice(&count.to_be_bytes());
}

#[cfg(test)]
#[path = "value_tests.rs"]
pub(super) mod tests;
