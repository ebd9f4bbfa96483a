//! What AMQP 0-10 consists of, as one table that `spec_tests` holds against the specification: type codes, constants,
//! enumerated domains, structs, controls and commands. The classes `file` and `stream`, which Apache Qpid does not
//! implement either, are left out.
//!
//! Fields are named as there. A `bit` is a `bool`, every other field an `Option`: in packed structs any field may be
//! absent, whatever the specification requires, and peers make use of that; `missing_required` tells. Domains that only
//! rename a type are that type. Strings and binaries are borrowed bytes.

use super::CodecError;
use super::sequence::{ByteRanges, SequenceNo, SequenceSet};
#[cfg(test)]
use super::spec_tests::Row;
use super::value::{ArrayRef, MapRef, StructRef};
use super::wire::{Reader, Writer};

types! {
    coded {
        BIN8 = 0x00 "bin8" fixed 1;
        INT8 = 0x01 "int8" fixed 1;
        UINT8 = 0x02 "uint8" fixed 1;
        CHAR = 0x04 "char" fixed 1;
        BOOLEAN = 0x08 "boolean" fixed 1;
        BIN16 = 0x10 "bin16" fixed 2;
        INT16 = 0x11 "int16" fixed 2;
        UINT16 = 0x12 "uint16" fixed 2;
        BIN32 = 0x20 "bin32" fixed 4;
        INT32 = 0x21 "int32" fixed 4;
        UINT32 = 0x22 "uint32" fixed 4;
        FLOAT = 0x23 "float" fixed 4;
        CHAR_UTF32 = 0x27 "char-utf32" fixed 4;
        BIN64 = 0x30 "bin64" fixed 8;
        INT64 = 0x31 "int64" fixed 8;
        UINT64 = 0x32 "uint64" fixed 8;
        DOUBLE = 0x33 "double" fixed 8;
        DATETIME = 0x38 "datetime" fixed 8;
        BIN128 = 0x40 "bin128" fixed 16;
        UUID = 0x48 "uuid" fixed 16;
        BIN256 = 0x50 "bin256" fixed 32;
        BIN512 = 0x60 "bin512" fixed 64;
        BIN1024 = 0x70 "bin1024" fixed 128;
        VBIN8 = 0x80 "vbin8" variable 1;
        STR8_LATIN = 0x84 "str8-latin" variable 1;
        STR8 = 0x85 "str8" variable 1;
        STR8_UTF16 = 0x86 "str8-utf16" variable 1;
        VBIN16 = 0x90 "vbin16" variable 2;
        STR16_LATIN = 0x94 "str16-latin" variable 2;
        STR16 = 0x95 "str16" variable 2;
        STR16_UTF16 = 0x96 "str16-utf16" variable 2;
        VBIN32 = 0xa0 "vbin32" variable 4;
        MAP = 0xa8 "map" variable 4;
        LIST = 0xa9 "list" variable 4;
        ARRAY = 0xaa "array" variable 4;
        STRUCT32 = 0xab "struct32" variable 4;
        BIN40 = 0xc0 "bin40" fixed 5;
        DEC32 = 0xc8 "dec32" fixed 5;
        BIN72 = 0xd0 "bin72" fixed 9;
        DEC64 = 0xd8 "dec64" fixed 9;
        VOID = 0xf0 "void" fixed 0;
        BIT = 0xf1 "bit" fixed 0;
    }
    uncoded {
        "sequence-no" fixed 4;
        "byte-ranges" variable 2;
        "sequence-set" variable 2;
    }
}

constants! {
    MIN_MAX_FRAME_SIZE: u16 = 4096 "MIN-MAX-FRAME-SIZE" "Smallest maximum frame size that may be agreed on, in bytes.";
}

domains! {
    SegmentType uint8 "segment-type" {
        0 Control "control";
        1 Command "command";
        2 Header "header";
        3 Body "body";
    }
    Track uint8 "track" {
        0 Control "control";
        1 Command "command";
    }
    CloseCode uint16 "connection.close-code" {
        200 Normal "normal";
        320 ConnectionForced "connection-forced";
        402 InvalidPath "invalid-path";
        501 FramingError "framing-error";
    }
    DetachCode uint8 "session.detach-code" {
        0 Normal "normal";
        1 SessionBusy "session-busy";
        2 TransportBusy "transport-busy";
        3 NotAttached "not-attached";
        4 UnknownIds "unknown-ids";
    }
    ErrorCode uint16 "execution.error-code" {
        403 UnauthorizedAccess "unauthorized-access";
        404 NotFound "not-found";
        405 ResourceLocked "resource-locked";
        406 PreconditionFailed "precondition-failed";
        408 ResourceDeleted "resource-deleted";
        409 IllegalState "illegal-state";
        503 CommandInvalid "command-invalid";
        506 ResourceLimitExceeded "resource-limit-exceeded";
        530 NotAllowed "not-allowed";
        531 IllegalArgument "illegal-argument";
        540 NotImplemented "not-implemented";
        541 InternalError "internal-error";
        542 InvalidArgument "invalid-argument";
    }
    AcceptMode uint8 "message.accept-mode" {
        0 Explicit "explicit";
        1 None "none";
    }
    AcquireMode uint8 "message.acquire-mode" {
        0 PreAcquired "pre-acquired";
        1 NotAcquired "not-acquired";
    }
    RejectCode uint16 "message.reject-code" {
        0 Unspecified "unspecified";
        1 Unroutable "unroutable";
        2 Immediate "immediate";
    }
    DeliveryMode uint8 "message.delivery-mode" {
        1 NonPersistent "non-persistent";
        2 Persistent "persistent";
    }
    DeliveryPriority uint8 "message.delivery-priority" {
        0 Lowest "lowest";
        1 Lower "lower";
        2 Low "low";
        3 BelowAverage "below-average";
        4 Medium "medium";
        5 AboveAverage "above-average";
        6 High "high";
        7 Higher "higher";
        8 VeryHigh "very-high";
        9 Highest "highest";
    }
    FlowMode uint8 "message.flow-mode" {
        0 Credit "credit";
        1 Window "window";
    }
    CreditUnit uint8 "message.credit-unit" {
        0 Message "message";
        1 Byte "byte";
    }
    XaStatus uint16 "dtx.xa-status" {
        0 Ok "xa-ok";
        1 RollbackOnly "xa-rbrollback";
        2 RollbackTimeout "xa-rbtimeout";
        3 HeuristicHazard "xa-heurhaz";
        4 HeuristicCommit "xa-heurcom";
        5 HeuristicRollback "xa-heurrb";
        6 HeuristicMix "xa-heurmix";
        7 ReadOnly "xa-rdonly";
    }
}

structs! {
    plain {
        "session.header" SessionHeader size 1 pack 1 { sync: bit }
        "session.command-fragment" CommandFragment<'a> size 0 pack 0 {
            command_id: sequence_no required, byte_ranges: byte_ranges required
        }
        "message.reply-to" ReplyTo<'a> size 2 pack 2 { exchange: str8, routing_key: str8 }
    }
    coded {
        0x0401 "message.delivery-properties" DeliveryProperties<'a> size 4 pack 2 {
            discard_unroutable: bit, immediate: bit, redelivered: bit, priority: [DeliveryPriority] required,
            delivery_mode: [DeliveryMode] required, ttl: uint64, timestamp: datetime, expiration: datetime,
            exchange: str8, routing_key: str8, resume_id: str16, resume_ttl: uint64
        }
        0x0402 "message.fragment-properties" FragmentProperties size 4 pack 2 {
            first: bit, last: bit, fragment_size: uint64
        }
        0x0403 "message.message-properties" MessageProperties<'a> size 4 pack 2 {
            content_length: uint64, message_id: uuid, correlation_id: vbin16, reply_to: (ReplyTo),
            content_type: str8, content_encoding: str8, user_id: vbin16, app_id: vbin16,
            application_headers: map
        }
        0x0404 "message.acquired" Acquired<'a> size 4 pack 2 { transfers: sequence_set required }
        0x0405 "message.message-resume-result" MessageResumeResult size 4 pack 2 { offset: uint64 }
        0x0601 "dtx.xa-result" XaResult size 4 pack 2 { status: [XaStatus] required }
        0x0602 "dtx.get-timeout-result" GetTimeoutResult size 4 pack 2 { timeout: uint32 required }
        0x0603 "dtx.recover-result" RecoverResult<'a> size 4 pack 2 { in_doubt: array required }
        0x0604 "dtx.xid" Xid<'a> size 4 pack 2 {
            format: uint32 required, global_id: vbin8 required, branch_id: vbin8 required
        }
        0x0701 "exchange.exchange-query-result" ExchangeQueryResult<'a> size 4 pack 2 {
            type_: str8, durable: bit, not_found: bit, arguments: map
        }
        0x0702 "exchange.exchange-bound-result" ExchangeBoundResult size 4 pack 2 {
            exchange_not_found: bit, queue_not_found: bit, queue_not_matched: bit, key_not_matched: bit,
            args_not_matched: bit
        }
        0x0801 "queue.queue-query-result" QueueQueryResult<'a> size 4 pack 2 {
            queue: str8 required, alternate_exchange: str8, durable: bit, exclusive: bit, auto_delete: bit,
            arguments: map, message_count: uint32 required, subscriber_count: uint32 required
        }
    }
}

operations! {
    /// A control with its fields, borrowed.
    Control, CONTROLS, UnknownControl;
    0x1 "connection" {
        0x1 "start" ConnectionStart<'a> {
            server_properties: map, mechanisms: array required, locales: array required
        };
        0x2 "start-ok" ConnectionStartOk<'a> {
            client_properties: map, mechanism: str8 required, response: vbin32 required, locale: str8 required
        };
        0x3 "secure" ConnectionSecure<'a> { challenge: vbin32 required };
        0x4 "secure-ok" ConnectionSecureOk<'a> { response: vbin32 required };
        0x5 "tune" ConnectionTune {
            channel_max: uint16, max_frame_size: uint16, heartbeat_min: uint16, heartbeat_max: uint16
        };
        0x6 "tune-ok" ConnectionTuneOk {
            channel_max: uint16 required, max_frame_size: uint16, heartbeat: uint16
        };
        0x7 "open" ConnectionOpen<'a> { virtual_host: str8 required, capabilities: array, insist: bit };
        0x8 "open-ok" ConnectionOpenOk<'a> { known_hosts: array };
        0x9 "redirect" ConnectionRedirect<'a> { host: str16 required, known_hosts: array };
        0xa "heartbeat" ConnectionHeartbeat {};
        0xb "close" ConnectionClose<'a> { reply_code: [CloseCode] required, reply_text: str8 };
        0xc "close-ok" ConnectionCloseOk {};
    }
    0x2 "session" {
        0x1 "attach" SessionAttach<'a> { name: vbin16 required, force: bit };
        0x2 "attached" SessionAttached<'a> { name: vbin16 required };
        0x3 "detach" SessionDetach<'a> { name: vbin16 required };
        0x4 "detached" SessionDetached<'a> { name: vbin16 required, code: [DetachCode] required };
        0x5 "request-timeout" SessionRequestTimeout { timeout: uint32 };
        0x6 "timeout" SessionTimeout { timeout: uint32 };
        0x7 "command-point" SessionCommandPoint {
            command_id: sequence_no required, command_offset: uint64 required
        };
        0x8 "expected" SessionExpected<'a> { commands: sequence_set required, fragments: array };
        0x9 "confirmed" SessionConfirmed<'a> { commands: sequence_set, fragments: array };
        0xa "completed" SessionCompleted<'a> { commands: sequence_set, timely_reply: bit };
        0xb "known-completed" SessionKnownCompleted<'a> { commands: sequence_set };
        0xc "flush" SessionFlush { expected: bit, confirmed: bit, completed: bit };
        0xd "gap" SessionGap<'a> { commands: sequence_set };
    }
}

operations! {
    /// A command with its fields, borrowed; what `message.transfer` carries follows it, see [`super::transfer`].
    Command, COMMANDS, UnknownCommand;
    0x3 "execution" {
        0x1 "sync" ExecutionSync {};
        0x2 "result" ExecutionResult<'a> { command_id: sequence_no required, value: struct32 };
        0x3 "exception" ExecutionException<'a> {
            error_code: [ErrorCode] required, command_id: sequence_no, class_code: uint8, command_code: uint8,
            field_index: uint8, description: str16, error_info: map
        };
    }
    0x4 "message" {
        0x1 "transfer" MessageTransfer<'a> {
            destination: str8, accept_mode: [AcceptMode] required, acquire_mode: [AcquireMode] required
        };
        0x2 "accept" MessageAccept<'a> { transfers: sequence_set required };
        0x3 "reject" MessageReject<'a> {
            transfers: sequence_set required, code: [RejectCode] required, text: str8
        };
        0x4 "release" MessageRelease<'a> { transfers: sequence_set required, set_redelivered: bit };
        0x5 "acquire" MessageAcquire<'a> { transfers: sequence_set required } => Acquired;
        0x6 "resume" MessageResume<'a> { destination: str8, resume_id: str16 required } => MessageResumeResult;
        0x7 "subscribe" MessageSubscribe<'a> {
            queue: str8 required, destination: str8, accept_mode: [AcceptMode] required,
            acquire_mode: [AcquireMode] required, exclusive: bit, resume_id: str16, resume_ttl: uint64,
            arguments: map
        };
        0x8 "cancel" MessageCancel<'a> { destination: str8 required };
        0x9 "set-flow-mode" MessageSetFlowMode<'a> { destination: str8, flow_mode: [FlowMode] required };
        0xa "flow" MessageFlow<'a> { destination: str8, unit: [CreditUnit] required, value: uint32 };
        0xb "flush" MessageFlush<'a> { destination: str8 };
        0xc "stop" MessageStop<'a> { destination: str8 };
    }
    0x5 "tx" {
        0x1 "select" TxSelect {};
        0x2 "commit" TxCommit {};
        0x3 "rollback" TxRollback {};
    }
    0x6 "dtx" {
        0x1 "select" DtxSelect {};
        0x2 "start" DtxStart<'a> { xid: (Xid) required, join: bit, resume: bit } => XaResult;
        0x3 "end" DtxEnd<'a> { xid: (Xid) required, fail: bit, suspend: bit } => XaResult;
        0x4 "commit" DtxCommit<'a> { xid: (Xid) required, one_phase: bit } => XaResult;
        0x5 "forget" DtxForget<'a> { xid: (Xid) required };
        0x6 "get-timeout" DtxGetTimeout<'a> { xid: (Xid) required } => GetTimeoutResult;
        0x7 "prepare" DtxPrepare<'a> { xid: (Xid) required } => XaResult;
        0x8 "recover" DtxRecover {} => RecoverResult;
        0x9 "rollback" DtxRollback<'a> { xid: (Xid) required } => XaResult;
        0xa "set-timeout" DtxSetTimeout<'a> { xid: (Xid) required, timeout: uint32 required };
    }
    0x7 "exchange" {
        0x1 "declare" ExchangeDeclare<'a> {
            exchange: str8 required, type_: str8 required, alternate_exchange: str8, passive: bit, durable: bit,
            auto_delete: bit, arguments: map
        };
        0x2 "delete" ExchangeDelete<'a> { exchange: str8 required, if_unused: bit };
        0x3 "query" ExchangeQuery<'a> { name: str8 } => ExchangeQueryResult;
        0x4 "bind" ExchangeBind<'a> {
            queue: str8 required, exchange: str8 required, binding_key: str8 required, arguments: map
        };
        0x5 "unbind" ExchangeUnbind<'a> {
            queue: str8 required, exchange: str8 required, binding_key: str8 required
        };
        0x6 "bound" ExchangeBound<'a> {
            exchange: str8, queue: str8 required, binding_key: str8, arguments: map
        } => ExchangeBoundResult;
    }
    0x8 "queue" {
        0x1 "declare" QueueDeclare<'a> {
            queue: str8 required, alternate_exchange: str8, passive: bit, durable: bit, exclusive: bit,
            auto_delete: bit, arguments: map
        };
        0x2 "delete" QueueDelete<'a> { queue: str8 required, if_unused: bit, if_empty: bit };
        0x3 "purge" QueuePurge<'a> { queue: str8 required };
        0x4 "query" QueueQuery<'a> { queue: str8 required } => QueueQueryResult;
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
