//! What the sections of `table.rs` expand to.
//!
//! A field's type is written in one of four ways: `bit`; the name of a type of the specification, which is also that
//! of the reader's and the writer's function; `[Domain]` for an enumerated domain; `(Struct)` for a struct. `required`
//! after it repeats what the specification says.

/// The Rust type of a field.
macro_rules! field_type {
    ($a:lifetime bit) => { bool };
    ($a:lifetime [$domain:ident]) => { Option<$domain> };
    ($a:lifetime ($struct:ident)) => { Option<$struct<$a>> };
    ($a:lifetime $type:ident) => { Option<primitive_type!($a $type)> };
}

macro_rules! primitive_type {
    ($a:lifetime uint8) => { u8 };
    ($a:lifetime uint16) => { u16 };
    ($a:lifetime uint32) => { u32 };
    ($a:lifetime uint64) => { u64 };
    ($a:lifetime datetime) => { u64 };
    ($a:lifetime uuid) => { [u8; 16] };
    ($a:lifetime map) => { MapRef<$a> };
    ($a:lifetime array) => { ArrayRef<$a> };
    ($a:lifetime struct32) => { StructRef<$a> };
    ($a:lifetime sequence_no) => { SequenceNo };
    ($a:lifetime sequence_set) => { SequenceSet<$a> };
    ($a:lifetime byte_ranges) => { ByteRanges<$a> };
    // Strings and binaries.
    ($a:lifetime $bytes:ident) => { &$a [u8] };
}

#[rustfmt::skip]
macro_rules! read_field {
    ($reader:ident, $present:expr, bit) => { $present };
    ($reader:ident, $present:expr, [$domain:ident]) => { if $present { Some($domain::read($reader)?) } else { None } };
    ($reader:ident, $present:expr, ($struct:ident)) => { if $present { Some($struct::read_sized($reader)?) } else { None } };
    ($reader:ident, $present:expr, $type:ident) => { if $present { Some($reader.$type()?) } else { None } };
}

#[rustfmt::skip]
macro_rules! write_field {
    ($writer:ident, $field:expr, bit) => {};
    ($writer:ident, $field:expr, [$domain:ident]) => { if let Some(value) = $field { value.write($writer); } };
    ($writer:ident, $field:expr, ($struct:ident)) => { if let Some(value) = $field { value.write_sized($writer); } };
    ($writer:ident, $field:expr, $type:ident) => { if let Some(value) = $field { $writer.$type(value); } };
}

#[rustfmt::skip]
macro_rules! is_present {
    ($field:expr, bit) => { $field };
    ($field:expr, $other:tt) => { $field.is_some() };
}

#[rustfmt::skip]
macro_rules! is_required {
    () => { false };
    (required) => { true };
}

macro_rules! types {
    (
        coded { $($const:ident = $code:literal $name:literal $kind:ident $width:literal;)* }
        uncoded { $($bare:literal $bare_kind:ident $bare_width:literal;)* }
    ) => {
        /// Codes of types, as they stand before values in maps and lists.
        pub mod code {
            $(#[doc = concat!("`", $name, "`")] pub const $const: u8 = $code;)*
        }

        /// Name, code, whether of fixed or variable width, and the width: of the value, or of its size.
        #[cfg(test)]
        pub(super) const TYPES: &[(&str, Option<u8>, &str, usize)] = &[
            $(($name, Some($code), stringify!($kind), $width),)*
            $(($bare, None, stringify!($bare_kind), $bare_width),)*
        ];
    };
}

macro_rules! constants {
    ($($const:ident: $type:ident = $value:literal $name:literal $doc:literal;)*) => {
        $(#[doc = $doc] pub const $const: $type = $value;)*

        #[cfg(test)]
        pub(super) const CONSTANTS: &[(&str, u64)] = &[$(($name, $value)),*];
    };
}

macro_rules! domains {
    ($($domain:ident $type:ident $domain_name:literal { $($value:literal $choice:ident $name:literal;)* })*) => {
        $(
            #[doc = concat!("`", $domain_name, "`")]
            #[allow(missing_docs)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub enum $domain {
                $($choice,)*
                /// A number that the specification does not define; [`Self::from_code`] makes none of the others.
                Other(primitive_type!('a $type)),
            }

            /// The one with the number 0.
            impl Default for $domain {
                fn default() -> Self {
                    Self::from_code(0)
                }
            }

            impl $domain {
                /// The one with this number.
                #[inline]
                pub const fn from_code(code: primitive_type!('a $type)) -> Self {
                    match code {
                        $($value => $domain::$choice,)*
                        other => $domain::Other(other),
                    }
                }

                /// Its number.
                #[inline]
                pub const fn code(self) -> primitive_type!('a $type) {
                    match self {
                        $($domain::$choice => $value,)*
                        $domain::Other(other) => other,
                    }
                }

                /// Its name in the specification; `unknown` for a number that has none.
                pub const fn name(self) -> &'static str {
                    match self {
                        $($domain::$choice => $name,)*
                        $domain::Other(_) => "unknown",
                    }
                }

                #[inline(always)]
                #[allow(dead_code, reason = "the two of the frame's head are read with it")]
                fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
                    reader.$type().map(Self::from_code)
                }

                #[inline(always)]
                #[allow(dead_code, reason = "the two of the frame's head are written with it")]
                fn write(self, writer: &mut Writer<'_>) {
                    writer.$type(self.code());
                }
            }
        )*

        /// Name, type and values of each.
        #[cfg(test)]
        pub(super) const DOMAINS: &[(&str, &str, &str, &[(&str, u64)])] = &[
            $(($domain_name, stringify!($domain), stringify!($type), &[$(($name, $value)),*]),)*
        ];

        #[cfg(test)]
        pub(super) fn domain_values_agree() {
            $(
                $(
                    assert_eq!($domain::from_code($value), $domain::$choice);
                    assert_eq!(($domain::$choice.code(), $domain::$choice.name()), ($value, $name));
                )*
                assert_eq!(($domain::Other(99).code(), $domain::Other(99).name()), (99, "unknown"));
            )*
        }
    };
}

/// The struct with its fields, and how they are read and written.
macro_rules! compound {
    (
        $doc:expr, $name:ident $(<$a:lifetime>)?, $pack:literal,
        { $($field:ident: $type:tt $($required:ident)?),* }
    ) => {
        #[doc = $doc]
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name $(<$a>)? { $(pub $field: field_type!('a $type),)* }

        impl<'a> $name $(<$a>)? {
            /// Index (from zero, as in `execution.exception`) and name (in Rust) of the first field that is absent and
            /// that the specification requires.
            pub fn missing_required(&self) -> Option<(u8, &'static str)> {
                let fields: &[(&'static str, bool, bool)] = &[
                    $((stringify!($field), is_required!($($required)?), is_present!(self.$field, $type)),)*
                ];
                let at = fields.iter().position(|&(_, required, present)| required && !present)?;
                Some((at as u8, fields[at].0))
            }

            /// Flags of all fields: without packing flags none is absent.
            const ALL: u16 = {
                let fields: &[&str] = &[$(stringify!($field)),*];
                ((1u32 << fields.len()) - 1) as u16
            };

            #[inline(always)]
            #[allow(unused_mut, unused_variables, unused_assignments, clippy::extra_unused_lifetimes)]
            fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
                let flags = if $pack == 0 { Self::ALL } else { reader.flags($pack)? };
                let mut left = flags;
                let mut take = || {
                    let present = left & 1 != 0;
                    left >>= 1;
                    present
                };
                let read = $name { $($field: read_field!(reader, take(), $type),)* };
                if left == 0 { Ok(read) } else { Err(CodecError::UnknownFlags(flags)) }
            }

            #[inline(always)]
            #[allow(unused_mut, unused_variables, unused_assignments)]
            fn write(&self, writer: &mut Writer<'_>) {
                let (mut flags, mut flag) = (0u16, 1u16);
                $(
                    if is_present!(self.$field, $type) {
                        flags |= flag;
                    }
                    flag <<= 1;
                )*
                writer.flags($pack, flags);
                $(
                    write_field!(
                        writer,
                        if $pack == 0 { self.$field.or(Some(Default::default())) } else { self.$field },
                        $type
                    );
                )*
            }
        }
    };
}

macro_rules! structs {
    (
        plain {
            $(
                $plain_name:literal $plain:ident $(<$b:lifetime>)? size $plain_size:literal pack $plain_pack:literal
                { $($plain_fields:tt)* }
            )*
        }
        coded {
            $(
                $code:literal $coded_name:literal $coded:ident $(<$a:lifetime>)? size $size:literal pack $pack:literal
                { $($fields:tt)* }
            )*
        }
    ) => {
        $(
            compound!(concat!("`", $plain_name, "`"), $plain $(<$b>)?, $plain_pack, { $($plain_fields)* });

            impl<'a> $plain $(<$b>)? {
                /// From its size and fields, and nothing else.
                ///
                /// # Errors
                /// Not exactly these.
                pub fn decode(bytes: &'a [u8]) -> Result<Self, CodecError> {
                    let mut reader = Reader::new(bytes);
                    let read = Self::read_sized(&mut reader)?;
                    reader.finish()?;
                    Ok(read)
                }

                /// Appends its size and fields.
                pub fn encode(&self, out: &mut Vec<u8>) {
                    self.write_sized(&mut Writer::new(out));
                }

                #[inline(always)]
                pub(super) fn read_sized(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
                    let mut body = Reader::new(reader.sized($plain_size)?);
                    if $plain_size > 0 && body.rest().is_empty() {
                        return Ok(Self::default());
                    }
                    let read = Self::read(&mut body)?;
                    body.finish()?;
                    Ok(read)
                }

                #[inline(always)]
                pub(super) fn write_sized(&self, writer: &mut Writer<'_>) {
                    writer.sized($plain_size, |writer| self.write(writer));
                }
            }
        )*

        $(
            compound!(concat!("`", $coded_name, "`"), $coded $(<$a>)?, $pack, { $($fields)* });

            impl<'a> $coded $(<$a>)? {
                /// Its code: that of its class, and its own.
                pub const CODE: u16 = $code;

                /// From a value of type `struct32`. One without any octet has no fields.
                ///
                /// # Errors
                /// Another struct, or not exactly its fields.
                #[inline]
                pub fn decode(value: StructRef<'a>) -> Result<Self, CodecError> {
                    if value.as_bytes().is_empty() {
                        return Ok(Self::default());
                    }
                    let code = value.code()?;
                    if code != $code {
                        return Err(CodecError::UnexpectedStruct { code, expected: $code });
                    }
                    let mut reader = Reader::new(value.fields());
                    let read = Self::read(&mut reader)?;
                    reader.finish()?;
                    Ok(read)
                }

                /// Appends it as a `struct32`: size, code, fields.
                #[inline]
                pub fn encode(&self, out: &mut Vec<u8>) {
                    self.write_sized(&mut Writer::new(out));
                }

                #[inline(always)]
                #[allow(dead_code, reason = "only some are fields of others")]
                fn read_sized(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
                    Self::decode(reader.struct32()?)
                }

                #[inline(always)]
                fn write_sized(&self, writer: &mut Writer<'_>) {
                    writer.sized($size, |writer| {
                        writer.uint16($code);
                        self.write(writer);
                    });
                }
            }
        )*

        /// Any struct that has a code.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Struct<'a> {
            $($coded($coded $(<$a>)?),)*
        }

        impl<'a> Struct<'a> {
            /// From a value of type `struct32`.
            ///
            /// # Errors
            /// An unknown code, or not exactly the struct's fields.
            pub fn decode(value: StructRef<'a>) -> Result<Self, CodecError> {
                match value.code()? {
                    $($code => $coded::decode(value).map(Struct::$coded),)*
                    other => Err(CodecError::UnknownStruct(other)),
                }
            }

            /// Appends it as a `struct32`.
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Struct::$coded(value) => value.encode(out),)*
                }
            }

            /// Its code.
            pub fn code(&self) -> u16 {
                match self {
                    $(Struct::$coded(_) => $code,)*
                }
            }

            /// `message.delivery-properties`, …
            pub fn name(&self) -> &'static str {
                match self {
                    $(Struct::$coded(_) => $coded_name,)*
                }
            }
        }

        #[cfg(test)]
        pub(super) const STRUCTS: &[Row] = &[
            $(row!($plain_name, $plain, 0, $plain_size, $plain_pack, "", { $($plain_fields)* }),)*
            $(row!($coded_name, $coded, $code, $size, $pack, "", { $($fields)* }),)*
        ];
    };
}

/// A row of the table as data.
#[cfg(test)]
macro_rules! row {
    (
        $name:expr, $variant:ident, $code:expr, $size:literal, $pack:literal, $result:expr,
        { $($field:ident: $type:tt $($required:ident)?),* }
    ) => {
        Row {
            name: $name,
            variant: stringify!($variant),
            code: $code,
            size: $size,
            pack: $pack,
            result: $result,
            fields: &[$((stringify!($field), stringify!($type), is_required!($($required)?))),*],
        }
    };
}

#[rustfmt::skip]
macro_rules! result_code {
    () => { None };
    ($result:ident) => { Some($result::CODE) };
}

#[cfg(test)]
#[rustfmt::skip]
macro_rules! result_name {
    () => { "" };
    ($result:ident) => { stringify!($result) };
}

/// Controls or commands, and an enum of them all.
macro_rules! operations {
    (
        $(#[$enum_doc:meta])* $enum:ident, $rows:ident, $unknown:ident;
        $(
            $class:literal $class_name:literal {
                $($code:literal $op_name:literal $op:ident $(<$a:lifetime>)? { $($fields:tt)* } $(=> $result:ident)?;)*
            }
        )*
    ) => {
        $($(
            compound!(concat!("`", $class_name, ".", $op_name, "`"), $op $(<$a>)?, 2, { $($fields)* });

            impl<'a> From<$op $(<$a>)?> for $enum<'a> {
                #[inline]
                fn from(value: $op $(<$a>)?) -> Self {
                    $enum::$op(value)
                }
            }
        )*)*

        $(#[$enum_doc])*
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum<'a> {
            $($($op($op $(<$a>)?),)*)*
        }

        impl<'a> $enum<'a> {
            #[inline(always)]
            pub(super) fn read(class: u8, code: u8, reader: &mut Reader<'a>) -> Result<Self, CodecError> {
                let read = match (class, code) {
                    $($(($class, $code) => $enum::$op($op::read(reader)?),)*)*
                    _ => return Err(CodecError::$unknown { class, code }),
                };
                reader.finish()?;
                Ok(read)
            }

            #[inline(always)]
            pub(super) fn write(&self, writer: &mut Writer<'_>) {
                match self {
                    $($($enum::$op(value) => value.write(writer),)*)*
                }
            }

            /// Code of its class.
            pub fn class_code(&self) -> u8 {
                match self {
                    $($($enum::$op(_) => $class,)*)*
                }
            }

            /// Its code within the class.
            pub fn code(&self) -> u8 {
                match self {
                    $($($enum::$op(_) => $code,)*)*
                }
            }

            /// `session.attach`, `message.transfer`, …
            pub fn name(&self) -> &'static str {
                match self {
                    $($($enum::$op(_) => concat!($class_name, ".", $op_name),)*)*
                }
            }

            /// Code of the struct that `execution.result` carries for it; `None` if it has no result.
            pub fn result_code(&self) -> Option<u16> {
                match self {
                    $($($enum::$op(_) => result_code!($($result)?),)*)*
                }
            }

            /// Index from zero and name of the first required field that is absent.
            pub fn missing_required(&self) -> Option<(u8, &'static str)> {
                match self {
                    $($($enum::$op(value) => value.missing_required(),)*)*
                }
            }
        }

        #[cfg(test)]
        pub(super) const $rows: &[Row] = &[
            $($(
                row!(
                    concat!($class_name, ".", $op_name), $op, $class << 8 | $code, 0, 2,
                    result_name!($($result)?), { $($fields)* }
                ),
            )*)*
        ];
    };
}
