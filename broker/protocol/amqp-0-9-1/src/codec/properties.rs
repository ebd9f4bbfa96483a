//! The properties of basic content: flags, then the values of those that are set. Messages keep them encoded as they
//! came; this is how to look into them.

use fulmar_core::message::{self, Edit, Id, ReplyTo, Scalar};
use fulmar_core::{Encoding, Name, Table, Value};

use super::CodecError;
use super::table::{TableRef, encode_table};
use super::wire::{Reader, Writer};

/// The encoding of the properties that this protocol's messages have in the core.
pub static ENCODING: Amqp091 = Amqp091 { _address: 0 };

/// Properties without any value.
pub const EMPTY: [u8; 2] = [0, 0];

/// Value of `delivery-mode` that asks for persistence.
pub const PERSISTENT: u8 = 2;

macro_rules! property_type {
    ($a:lifetime shortstr) => { &$a [u8] };
    ($a:lifetime octet) => { u8 };
    ($a:lifetime longlong) => { u64 };
    ($a:lifetime table) => { TableRef<$a> };
}

macro_rules! property_value {
    (shortstr $field:ident $value:expr) => {
        Value::Text(Name::from($value))
    };
    (octet $field:ident $value:expr) => {
        Value::U8($value)
    };
    (longlong $field:ident $value:expr) => {
        Value::Timestamp($value)
    };
    (table $field:ident $value:expr) => {
        Value::Table($value.to_table().ok()?)
    };
}

macro_rules! properties {
    ($($bit:literal $name:literal $field:ident: $type:ident $doc:literal;)*) => {
        /// All properties, decoded; borrowed from the encoded ones.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct Properties<'a> {
            $(#[doc = $doc] pub $field: Option<property_type!('a $type)>,)*
        }

        impl<'a> Properties<'a> {
            /// From flags and values.
            ///
            /// # Errors
            /// Anything but defined flags and exactly their values. The headers are not looked into.
            pub fn decode(raw: &'a [u8]) -> Result<Self, CodecError> {
                let mut reader = Reader::new(raw);
                let flags = reader.short()?;
                check_flags(flags)?;
                let properties = Properties {
                    $($field: if flags & (1 << $bit) != 0 { Some(reader.$type()?) } else { None },)*
                };
                reader.finish()?;
                Ok(properties)
            }

            /// Appends flags and values.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let mut flags = 0u16;
                $(flags |= u16::from(self.$field.is_some()) << $bit;)*
                let mut writer = Writer::new(out);
                writer.short(flags);
                $(if let Some(value) = self.$field {
                    writer.$type(value);
                })*
            }

            /// The property of this AMQP name; `None` if it is not set, or there is none of that name.
            pub fn get(&self, name: &[u8]) -> Option<Value> {
                $(if name == $name.as_bytes() {
                    return Some(property_value!($type $field self.$field?));
                })*
                None
            }
        }

        const DEFINED: u16 = $((1 << $bit))|*;

        #[cfg(test)]
        pub(super) const TABLE: &[(&str, &str)] = &[$(($name, stringify!($type))),*];
    };
}

properties! {
    15 "content-type" content_type: shortstr "MIME type of the body.";
    14 "content-encoding" content_encoding: shortstr "MIME encoding of the body.";
    13 "headers" headers: table "Application headers.";
    12 "delivery-mode" delivery_mode: octet "1: transient, 2: persistent.";
    11 "priority" priority: octet "Priority, 0 to 255.";
    10 "correlation-id" correlation_id: shortstr "What a reply refers to.";
    9 "reply-to" reply_to: shortstr "Queue for the reply.";
    8 "expiration" expiration: shortstr "Time to live in milliseconds, as decimal text.";
    7 "message-id" message_id: shortstr "The application's identifier.";
    6 "timestamp" timestamp: longlong "Seconds since 1970.";
    5 "type" type_: shortstr "The application's type of message.";
    4 "user-id" user_id: shortstr "User who publishes; checked by the broker.";
    3 "app-id" app_id: shortstr "Application that publishes.";
    2 "cluster-id" cluster_id: shortstr "Reserved; carried for old clients.";
}

const FLAG_HEADERS: u16 = 1 << 13;
const FLAG_DELIVERY_MODE: u16 = 1 << 12;
const FLAG_PRIORITY: u16 = 1 << 11;
const FLAG_REPLY_TO: u16 = 1 << 9;
const FLAG_EXPIRATION: u16 = 1 << 8;
const FLAG_TIMESTAMP: u16 = 1 << 6;
const FLAG_USER_ID: u16 = 1 << 4;

#[inline(always)]
fn check_flags(flags: u16) -> Result<(), CodecError> {
    if flags & !DEFINED == 0 { Ok(()) } else { Err(CodecError::UnknownPropertyFlags(flags)) }
}

/// What a broker reads of every message.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scan<'a> {
    /// 1: transient, 2: persistent.
    pub delivery_mode: Option<u8>,
    /// Priority.
    pub priority: Option<u8>,
    /// Time to live in milliseconds, as decimal text; see [`Scan::ttl_ms`].
    pub expiration: Option<&'a [u8]>,
    /// Queue for the reply.
    pub reply_to: Option<&'a [u8]>,
    /// User who claims to publish.
    pub user_id: Option<&'a [u8]>,
    /// Application headers; empty if there are none.
    pub headers: TableRef<'a>,
    /// Whether there are application headers.
    pub has_headers: bool,
}

impl Scan<'_> {
    /// Whether persistence is asked for.
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode == Some(PERSISTENT)
    }

    /// The expiration as a number; `Err` for one that is not a decimal number that fits.
    #[allow(clippy::result_unit_err)]
    pub fn ttl_ms(&self) -> Result<Option<u64>, ()> {
        self.expiration.map(parse_decimal).transpose()
    }
}

/// One pass over flags and values: reads what a broker needs, and checks that all of it, the headers included, is well
/// formed.
///
/// # Errors
/// Anything but defined flags and exactly their values, or malformed headers.
#[inline]
pub fn scan(raw: &[u8]) -> Result<Scan<'_>, CodecError> {
    let mut reader = Reader::new(raw);
    let flags = reader.short()?;
    let mut scan = Scan::default();
    if flags != 0 {
        scan_values(flags, &mut reader, &mut scan)?;
    }
    reader.finish()?;
    Ok(scan)
}

fn scan_values<'a>(flags: u16, reader: &mut Reader<'a>, scan: &mut Scan<'a>) -> Result<(), CodecError> {
    check_flags(flags)?;
    // From the highest bit down, as the values lie; only set flags cost anything.
    let mut left = flags;
    while left != 0 {
        let flag = 0x8000 >> left.leading_zeros();
        left &= !flag;
        match flag {
            FLAG_HEADERS => {
                scan.headers = reader.table()?;
                scan.headers.validate()?;
                scan.has_headers = !scan.headers.is_empty();
            }
            FLAG_DELIVERY_MODE => scan.delivery_mode = Some(reader.octet()?),
            FLAG_PRIORITY => scan.priority = Some(reader.octet()?),
            FLAG_REPLY_TO => scan.reply_to = Some(reader.shortstr()?),
            FLAG_EXPIRATION => scan.expiration = Some(reader.shortstr()?),
            FLAG_TIMESTAMP => drop(reader.longlong()?),
            FLAG_USER_ID => scan.user_id = Some(reader.shortstr()?),
            _ => drop(reader.shortstr()?),
        }
    }
    Ok(())
}

/// Digits alone, no sign, no blank: clients are told what is wrong rather than guessed at.
fn parse_decimal(text: &[u8]) -> Result<u64, ()> {
    if text.is_empty() {
        return Err(());
    }
    text.iter().try_fold(0u64, |value, &digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return Err(());
        }
        value.checked_mul(10).and_then(|value| value.checked_add(digit.into())).ok_or(())
    })
}

/// AMQP 0-9-1 basic properties, flags and values.
#[derive(Debug)]
pub struct Amqp091 {
    /// It takes room, so that its address is its own.
    _address: u8,
}

impl Encoding for Amqp091 {
    fn name(&self) -> &'static str {
        "amqp-0-9-1"
    }

    fn header(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        headers(properties).get(name).ok().flatten()
    }

    fn headers(&self, properties: &[u8]) -> Table {
        headers(properties).to_table().unwrap_or_default()
    }

    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>> {
        headers(properties).scalars().find(|(found, _)| *found == name).map(|(_, scalar)| scalar)
    }

    fn properties<'a>(&self, properties: &'a [u8]) -> message::Properties<'a> {
        Properties::decode(properties).unwrap_or_default().to_neutral()
    }

    fn property(&self, properties: &[u8], name: &[u8]) -> Option<Value> {
        Properties::decode(properties).ok()?.get(name)
    }

    fn has_further_keys(&self) -> bool {
        true
    }

    fn edit(&self, properties: &[u8], edit: &Edit) -> Vec<u8> {
        let Ok(mut decoded) = Properties::decode(properties) else {
            return properties.to_vec();
        };
        let mut headers = Vec::new();
        if !edit.set_headers.is_empty() || !edit.remove_headers.is_empty() {
            let mut table = decoded.headers.and_then(|headers| headers.to_table().ok()).unwrap_or_default();
            edit.remove_headers.iter().for_each(|name| table.remove(name.as_bytes()));
            for (name, value) in &edit.set_headers {
                table.set(name.as_bytes(), value.clone());
            }
            encode_table(&table, &mut headers);
            decoded.headers = Some(TableRef::new(&headers)).filter(|headers| !headers.is_empty());
        }
        if edit.clear_expiration {
            decoded.expiration = None;
        }
        let mut encoded = Vec::with_capacity(properties.len() + headers.len());
        decoded.encode(&mut encoded);
        encoded
    }
}

impl<'a> Properties<'a> {
    /// What all protocols understand of them, with what headers of reserved names say.
    fn to_neutral(self) -> message::Properties<'a> {
        let mut neutral = message::Properties {
            content_type: self.content_type,
            content_encoding: self.content_encoding,
            delivery_mode: self.delivery_mode,
            priority: self.priority,
            ttl_ms: self.expiration.and_then(|text| parse_decimal(text).ok()),
            expires_s: None,
            timestamp_s: self.timestamp,
            message_id: self.message_id.map(Id::of_text),
            correlation_id: self.correlation_id,
            reply_to: self.reply_to.map(ReplyTo::Address),
            user_id: self.user_id,
            app_id: self.app_id,
            message_type: self.type_,
            cluster_id: self.cluster_id,
        };
        for (name, value) in self.headers.unwrap_or_default().scalars() {
            neutral.take_reserved(name, value);
        }
        neutral
    }
}

/// The headers, found without decoding the rest; empty where there are none, or the properties are malformed.
fn headers(properties: &[u8]) -> TableRef<'_> {
    let find = || -> Result<_, CodecError> {
        let mut reader = Reader::new(properties);
        let flags = reader.short()?;
        if flags & FLAG_HEADERS == 0 {
            return Ok(TableRef::EMPTY);
        }
        // Only the two content strings can come before them.
        for _ in 0..(flags >> 14).count_ones() {
            reader.shortstr()?;
        }
        reader.table()
    };
    find().unwrap_or(TableRef::EMPTY)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::any_table;
    use super::*;
    use proptest::prelude::*;

    fn encoded(properties: &Properties<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        properties.encode(&mut out);
        out
    }

    fn headers_of(pairs: &[(&str, Value)]) -> Vec<u8> {
        let mut out = Vec::new();
        let table = Table(pairs.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect());
        encode_table(&table, &mut out);
        out
    }

    #[test]
    fn values_lie_in_the_order_of_their_flags() {
        let properties = Properties {
            app_id: Some(b"a"),
            content_type: Some(b"t"),
            delivery_mode: Some(2),
            ..Default::default()
        };
        assert_eq!(encoded(&properties), b"\x90\x08\x01t\x02\x01a");
    }

    #[test]
    fn undefined_flags_are_refused() {
        for raw in [[0, 1], [0, 2]] {
            let error = CodecError::UnknownPropertyFlags(raw[1].into());
            assert_eq!(scan(&raw), Err(error));
            assert_eq!(Properties::decode(&raw), Err(error));
        }
        assert_eq!(scan(&[]), Err(CodecError::Truncated));
        assert_eq!(scan(&[0, 0, 0]), Err(CodecError::Trailing(1)));
        assert_eq!(scan(&EMPTY), Ok(Scan::default()));
    }

    #[test]
    fn a_scan_refuses_malformed_headers() {
        let properties = Properties { headers: Some(TableRef::new(b"\x01k?")), ..Default::default() };
        assert_eq!(scan(&encoded(&properties)), Err(CodecError::UnknownValueType(b'?')));
    }

    #[test]
    fn an_expiration_is_a_decimal_number() {
        let ttl =
            |text: &'static str| Scan { expiration: Some(text.as_bytes()), ..Default::default() }.ttl_ms();
        assert_eq!(ttl("60000"), Ok(Some(60_000)));
        assert_eq!(ttl("18446744073709551615"), Ok(Some(u64::MAX)));
        for wrong in ["", "-1", "+1", "1.5", "x", " 1", "18446744073709551616"] {
            assert_eq!(ttl(wrong), Err(()), "{wrong:?}");
        }
        assert_eq!(Scan::default().ttl_ms(), Ok(None));
    }

    #[test]
    fn the_core_sees_headers_and_properties() {
        let headers = headers_of(&[("x", Value::I32(1)), ("y", Value::Text("z".into()))]);
        let raw = encoded(&Properties {
            content_type: Some(b"text/plain"),
            headers: Some(TableRef::new(&headers)),
            timestamp: Some(5),
            priority: Some(3),
            ..Default::default()
        });
        assert_eq!(ENCODING.header(&raw, b"y"), Some(Value::Text("z".into())));
        assert_eq!(ENCODING.header(&raw, b"z"), None);
        assert_eq!(ENCODING.headers(&raw).0.len(), 2);
        assert_eq!(ENCODING.property(&raw, b"timestamp"), Some(Value::Timestamp(5)));
        assert_eq!(ENCODING.property(&raw, b"priority"), Some(Value::U8(3)));
        assert_eq!(ENCODING.property(&raw, b"message-id"), None);
        assert_eq!(ENCODING.property(&raw, b"nonsense"), None);
    }

    #[test]
    fn an_edit_changes_what_it_names_alone() {
        let headers = headers_of(&[("CC", Value::Void), ("BCC", Value::Void)]);
        let before = Properties {
            headers: Some(TableRef::new(&headers)),
            expiration: Some(b"10"),
            reply_to: Some(b"r"),
            ..Default::default()
        };
        let edit = Edit {
            set_headers: vec![("x-death".into(), Value::I64(1))],
            remove_headers: vec!["BCC".into()],
            clear_expiration: true,
        };
        let raw = ENCODING.edit(&encoded(&before), &edit);
        let headers = headers_of(&[("CC", Value::Void), ("x-death", Value::I64(1))]);
        let after = Properties { headers: Some(TableRef::new(&headers)), expiration: None, ..before };
        assert_eq!(Properties::decode(&raw), Ok(after));

        let edit = Edit { remove_headers: vec!["CC".into(), "BCC".into()], ..Edit::default() };
        let raw = ENCODING.edit(&encoded(&before), &edit);
        assert_eq!(Properties::decode(&raw), Ok(Properties { headers: None, ..before }));
        assert_eq!(ENCODING.edit(b"!", &edit), b"!");
    }

    proptest! {
        #[test]
        fn properties_come_back_and_the_scan_agrees(
            present in any::<u16>(),
            table in any_table(),
            text in prop::collection::vec(any::<u8>(), 0..20),
            octet in any::<u8>(),
            number in any::<u64>(),
        ) {
            let mut headers = Vec::new();
            encode_table(&table, &mut headers);
            let has = |bit: u16| present & (1 << bit) != 0;
            let string = |bit| has(bit).then_some(&text[..]);
            let properties = Properties {
                content_type: string(15),
                content_encoding: string(14),
                headers: has(13).then_some(TableRef::new(&headers)),
                delivery_mode: has(12).then_some(octet),
                priority: has(11).then_some(octet),
                correlation_id: string(10),
                reply_to: string(9),
                expiration: string(8),
                message_id: string(7),
                timestamp: has(6).then_some(number),
                type_: string(5),
                user_id: string(4),
                app_id: string(3),
                cluster_id: string(2),
            };
            let raw = encoded(&properties);
            prop_assert_eq!(Properties::decode(&raw)?, properties);
            let headers = properties.headers.unwrap_or_default();
            let expected = Scan {
                delivery_mode: properties.delivery_mode,
                priority: properties.priority,
                expiration: properties.expiration,
                reply_to: properties.reply_to,
                user_id: properties.user_id,
                headers,
                has_headers: !headers.is_empty(),
            };
            prop_assert_eq!(scan(&raw)?, expected);
            prop_assert_eq!(ENCODING.headers(&raw), headers.to_table()?);
            for cut in 0..raw.len() {
                prop_assert!(scan(&raw[..cut]).is_err());
                prop_assert!(Properties::decode(&raw[..cut]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(flags in any::<u16>(), bytes in prop::collection::vec(0..5u8, 0..64)) {
            let mut raw = flags.to_be_bytes().to_vec();
            raw.extend(bytes);
            if scan(&raw).is_ok() {
                prop_assert!(Properties::decode(&raw).is_ok());
            }
            let _ = (ENCODING.headers(&raw), ENCODING.header(&raw, b""), ENCODING.property(&raw, b"headers"));
            let edit = Edit { set_headers: vec![("k".into(), Value::Void)], ..Edit::default() };
            let _ = ENCODING.edit(&raw, &edit);
        }
    }
}
