//! The methods, from one table that `spec_tests` holds against the specification.

use super::CodecError;
use super::frame::{END, FrameKind, head};
use super::table::TableRef;
use super::wire::{Reader, Writer};

/// The Rust type of a field.
macro_rules! field_type {
    ($a:lifetime shortstr) => { &$a [u8] };
    ($a:lifetime longstr) => { &$a [u8] };
    ($a:lifetime bit) => { bool };
    ($a:lifetime octet) => { u8 };
    ($a:lifetime short) => { u16 };
    ($a:lifetime long) => { u32 };
    ($a:lifetime longlong) => { u64 };
    ($a:lifetime table) => { TableRef<$a> };
}

/// What a reserved field is written as.
macro_rules! zero {
    (shortstr) => {
        b""
    };
    (longstr) => {
        b""
    };
    (bit) => {
        false
    };
    (short) => {
        0
    };
}

/// A row is: id, name, variant, reserved fields before the others, fields, reserved fields after them.
macro_rules! methods {
    ($(
        $class_const:ident = $class:literal $class_name:literal {
            $(
                $id:literal $name:literal $variant:ident
                $([$($before:ident),*])? $({ $($field:ident: $type:ident),* })? $([[$($after:ident),*]])?;
            )*
        }
    )*) => {
        /// Class ids.
        pub mod class {
            $(
                #[doc = concat!("`", $class_name, "`")]
                pub const $class_const: u16 = $class;
            )*
        }

        /// A method with its arguments, borrowed. Variants and fields are those of the specification; reserved
        /// fields are left out, ignored by the decoder and zero on the wire. Short and long strings are bytes.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Method<'a> {
            $($( $variant $({ $($field: field_type!('a $type)),* })?, )*)*
        }

        impl<'a> Method<'a> {
            /// From the payload of a method frame.
            ///
            /// # Errors
            /// An unknown method, or fields that do not fill the payload exactly.
            #[inline]
            pub fn decode(payload: &'a [u8]) -> Result<Method<'a>, CodecError> {
                let mut reader = Reader::new(payload);
                let (class, method) = (reader.short()?, reader.short()?);
                let decoded = match (class, method) {
                    $($(
                        ($class, $id) => {
                            $($(reader.$before()?;)*)?
                            let decoded = Method::$variant $({ $($field: reader.$type()?),* })?;
                            $($(reader.$after()?;)*)?
                            decoded
                        }
                    )*)*
                    _ => return Err(CodecError::UnknownMethod { class, method }),
                };
                reader.finish()?;
                Ok(decoded)
            }

            /// Appends a whole method frame.
            pub fn encode(&self, channel: u16, out: &mut Vec<u8>) {
                let start = out.len();
                out.extend_from_slice(&head(FrameKind::Method, channel, 0));
                let mut writer = Writer::new(out);
                match *self {
                    $($(
                        Method::$variant $({ $($field),* })? => {
                            writer.short($class);
                            writer.short($id);
                            $($(writer.$before(zero!($before));)*)?
                            $($(writer.$type($field);)*)?
                            $($(writer.$after(zero!($after));)*)?
                        }
                    )*)*
                }
                let payload_bytes = (out.len() - start - 7) as u32;
                out[start + 3..start + 7].copy_from_slice(&payload_bytes.to_be_bytes());
                out.push(END);
            }

            /// Class id.
            pub fn class_id(&self) -> u16 {
                match self {
                    $($(Method::$variant { .. } => $class,)*)*
                }
            }

            /// Method id.
            pub fn method_id(&self) -> u16 {
                match self {
                    $($(Method::$variant { .. } => $id,)*)*
                }
            }

            /// `basic.publish`, …
            pub fn name(&self) -> &'static str {
                match self {
                    $($(Method::$variant { .. } => concat!($class_name, ".", $name),)*)*
                }
            }
        }

        /// The table as data, fields as `(name, type)`; a reserved field has no name.
        #[cfg(test)]
        pub(super) const TABLE: &[super::spec_tests::Row] = &[
            $($(
                super::spec_tests::Row {
                    class: ($class_name, $class),
                    method: ($name, $id),
                    variant: stringify!($variant),
                    fields: &[
                        $($(("", stringify!($before)),)*)?
                        $($((stringify!($field), stringify!($type)),)*)?
                        $($(("", stringify!($after)),)*)?
                    ],
                },
            )*)*
        ];
    };
}

methods! {
    CONNECTION = 10 "connection" {
        10 "start" ConnectionStart {
            version_major: octet, version_minor: octet, server_properties: table, mechanisms: longstr,
            locales: longstr
        };
        11 "start-ok" ConnectionStartOk {
            client_properties: table, mechanism: shortstr, response: longstr, locale: shortstr
        };
        20 "secure" ConnectionSecure { challenge: longstr };
        21 "secure-ok" ConnectionSecureOk { response: longstr };
        30 "tune" ConnectionTune { channel_max: short, frame_max: long, heartbeat: short };
        31 "tune-ok" ConnectionTuneOk { channel_max: short, frame_max: long, heartbeat: short };
        40 "open" ConnectionOpen { virtual_host: shortstr } [[shortstr, bit]];
        41 "open-ok" ConnectionOpenOk [shortstr];
        50 "close" ConnectionClose {
            reply_code: short, reply_text: shortstr, class_id: short, method_id: short
        };
        51 "close-ok" ConnectionCloseOk;
        60 "blocked" ConnectionBlocked { reason: shortstr };
        61 "unblocked" ConnectionUnblocked;
        70 "update-secret" ConnectionUpdateSecret { new_secret: longstr, reason: shortstr };
        71 "update-secret-ok" ConnectionUpdateSecretOk;
    }
    CHANNEL = 20 "channel" {
        10 "open" ChannelOpen [shortstr];
        11 "open-ok" ChannelOpenOk [longstr];
        20 "flow" ChannelFlow { active: bit };
        21 "flow-ok" ChannelFlowOk { active: bit };
        40 "close" ChannelClose {
            reply_code: short, reply_text: shortstr, class_id: short, method_id: short
        };
        41 "close-ok" ChannelCloseOk;
    }
    ACCESS = 30 "access" {
        10 "request" AccessRequest {
            realm: shortstr, exclusive: bit, passive: bit, active: bit, write: bit, read: bit
        };
        11 "request-ok" AccessRequestOk { ticket: short };
    }
    EXCHANGE = 40 "exchange" {
        10 "declare" ExchangeDeclare [short] {
            exchange: shortstr, type_: shortstr, passive: bit, durable: bit, auto_delete: bit, internal: bit,
            no_wait: bit, arguments: table
        };
        11 "declare-ok" ExchangeDeclareOk;
        20 "delete" ExchangeDelete [short] { exchange: shortstr, if_unused: bit, no_wait: bit };
        21 "delete-ok" ExchangeDeleteOk;
        30 "bind" ExchangeBind [short] {
            destination: shortstr, source: shortstr, routing_key: shortstr, no_wait: bit, arguments: table
        };
        31 "bind-ok" ExchangeBindOk;
        40 "unbind" ExchangeUnbind [short] {
            destination: shortstr, source: shortstr, routing_key: shortstr, no_wait: bit, arguments: table
        };
        51 "unbind-ok" ExchangeUnbindOk;
    }
    QUEUE = 50 "queue" {
        10 "declare" QueueDeclare [short] {
            queue: shortstr, passive: bit, durable: bit, exclusive: bit, auto_delete: bit, no_wait: bit,
            arguments: table
        };
        11 "declare-ok" QueueDeclareOk { queue: shortstr, message_count: long, consumer_count: long };
        20 "bind" QueueBind [short] {
            queue: shortstr, exchange: shortstr, routing_key: shortstr, no_wait: bit, arguments: table
        };
        21 "bind-ok" QueueBindOk;
        30 "purge" QueuePurge [short] { queue: shortstr, no_wait: bit };
        31 "purge-ok" QueuePurgeOk { message_count: long };
        40 "delete" QueueDelete [short] { queue: shortstr, if_unused: bit, if_empty: bit, no_wait: bit };
        41 "delete-ok" QueueDeleteOk { message_count: long };
        50 "unbind" QueueUnbind [short] {
            queue: shortstr, exchange: shortstr, routing_key: shortstr, arguments: table
        };
        51 "unbind-ok" QueueUnbindOk;
    }
    BASIC = 60 "basic" {
        10 "qos" BasicQos { prefetch_size: long, prefetch_count: short, global: bit };
        11 "qos-ok" BasicQosOk;
        20 "consume" BasicConsume [short] {
            queue: shortstr, consumer_tag: shortstr, no_local: bit, no_ack: bit, exclusive: bit, no_wait: bit,
            arguments: table
        };
        21 "consume-ok" BasicConsumeOk { consumer_tag: shortstr };
        30 "cancel" BasicCancel { consumer_tag: shortstr, no_wait: bit };
        31 "cancel-ok" BasicCancelOk { consumer_tag: shortstr };
        40 "publish" BasicPublish [short] {
            exchange: shortstr, routing_key: shortstr, mandatory: bit, immediate: bit
        };
        50 "return" BasicReturn {
            reply_code: short, reply_text: shortstr, exchange: shortstr, routing_key: shortstr
        };
        60 "deliver" BasicDeliver {
            consumer_tag: shortstr, delivery_tag: longlong, redelivered: bit, exchange: shortstr,
            routing_key: shortstr
        };
        70 "get" BasicGet [short] { queue: shortstr, no_ack: bit };
        71 "get-ok" BasicGetOk {
            delivery_tag: longlong, redelivered: bit, exchange: shortstr, routing_key: shortstr,
            message_count: long
        };
        72 "get-empty" BasicGetEmpty [shortstr];
        80 "ack" BasicAck { delivery_tag: longlong, multiple: bit };
        90 "reject" BasicReject { delivery_tag: longlong, requeue: bit };
        100 "recover-async" BasicRecoverAsync { requeue: bit };
        110 "recover" BasicRecover { requeue: bit };
        111 "recover-ok" BasicRecoverOk;
        120 "nack" BasicNack { delivery_tag: longlong, multiple: bit, requeue: bit };
    }
    CONFIRM = 85 "confirm" {
        10 "select" ConfirmSelect { no_wait: bit };
        11 "select-ok" ConfirmSelectOk;
    }
    TX = 90 "tx" {
        10 "select" TxSelect;
        11 "select-ok" TxSelectOk;
        20 "commit" TxCommit;
        21 "commit-ok" TxCommitOk;
        30 "rollback" TxRollback;
        31 "rollback-ok" TxRollbackOk;
    }
}

impl Method<'_> {
    /// Whether a content header and body frames follow.
    pub fn has_content(&self) -> bool {
        matches!(
            self,
            Method::BasicPublish { .. }
                | Method::BasicReturn { .. }
                | Method::BasicDeliver { .. }
                | Method::BasicGetOk { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;
    use proptest::prelude::*;

    /// The payload of the only frame that `method` encodes to.
    fn payload(method: &Method<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        method.encode(0x0203, &mut out);
        let (frame, len) = frame::parse(&out, 0).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel, len), (FrameKind::Method, 0x0203, out.len()));
        frame.payload.to_vec()
    }

    /// Some arguments for `row`, as they lie on the wire; reserved ones are zero.
    fn arguments(row: &super::super::spec_tests::Row, seed: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out);
        let mut random = seed;
        for &(name, kind) in row.fields {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = if name.is_empty() { 0 } else { random };
            let bytes = &value.to_be_bytes()[..(value >> 61) as usize];
            match kind {
                "shortstr" => writer.shortstr(bytes),
                "longstr" => writer.longstr(bytes),
                "table" => writer.table(TableRef::new(bytes)),
                "bit" => writer.bit(value >> 63 == 1),
                "octet" => writer.octet((value >> 56) as u8),
                "short" => writer.short((value >> 48) as u16),
                "long" => writer.long((value >> 32) as u32),
                "longlong" => writer.longlong(value),
                other => panic!("{other}"),
            }
        }
        out
    }

    #[test]
    fn a_publish_on_the_wire() {
        let method =
            Method::BasicPublish { exchange: b"x", routing_key: b"key", mandatory: true, immediate: false };
        let mut out = Vec::new();
        method.encode(1, &mut out);
        assert_eq!(out, b"\x01\0\x01\0\0\0\x0d\0\x3c\0\x28\0\0\x01x\x03key\x01\xce");
        assert_eq!((method.name(), method.class_id(), method.method_id()), ("basic.publish", 60, 40));
    }

    #[test]
    fn reserved_fields_are_ignored() {
        let method = Method::decode(b"\0\x0a\0\x28\x01/\x03abc\x01").unwrap();
        assert_eq!(method, Method::ConnectionOpen { virtual_host: b"/" });
        assert_eq!(payload(&method), b"\0\x0a\0\x28\x01/\0\0");
    }

    #[test]
    fn wrong_lengths_and_numbers_are_told() {
        assert_eq!(Method::decode(b"\0\x0a\0\x33!"), Err(CodecError::Trailing(1)));
        assert_eq!(Method::decode(b"\0\x0a\0"), Err(CodecError::Truncated));
        assert_eq!(Method::decode(b"\0\x0a\0\x63"), Err(CodecError::UnknownMethod { class: 10, method: 99 }));
    }

    proptest! {
        #[test]
        fn every_method_comes_back(seed in any::<u64>()) {
            for (index, row) in TABLE.iter().enumerate() {
                let mut bytes = row.class.1.to_be_bytes().to_vec();
                bytes.extend(row.method.1.to_be_bytes());
                bytes.extend(arguments(row, seed.wrapping_add(index as u64)));

                let method = Method::decode(&bytes)?;
                prop_assert_eq!((method.class_id(), method.method_id()), (row.class.1, row.method.1));
                prop_assert_eq!(method.name(), format!("{}.{}", row.class.0, row.method.0));
                prop_assert_eq!(&payload(&method), &bytes);
                for cut in 0..bytes.len() {
                    prop_assert_eq!(Method::decode(&bytes[..cut]), Err(CodecError::Truncated));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            row in 0..TABLE.len(),
            arguments in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let row = &TABLE[row];
            let mut bytes = row.class.1.to_be_bytes().to_vec();
            bytes.extend(row.method.1.to_be_bytes());
            bytes.extend(arguments);
            if let Ok(method) = Method::decode(&bytes) {
                // Bits beyond the defined ones and reserved fields may differ; the meaning may not.
                let again = payload(&method);
                prop_assert_eq!(Method::decode(&again), Ok(method));
                let _ = format!("{method:?}");
            }
        }
    }
}
