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
