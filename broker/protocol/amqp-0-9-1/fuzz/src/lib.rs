//! What the fuzzers call, and the inputs that they start from.
//!
//! Each module is one target: `run` takes any bytes and panics only if the code under test is wrong; `seeds` gives
//! well-formed inputs. The same entry points serve libFuzzer (`fuzz_targets/`) and the plain runner (`src/plain.rs`).

pub mod codec;
pub mod connection;

use fulmar_amqp_0_9_1::codec::{Method, TableRef};

/// Every method that a client sends once its connection is open, in an order that makes sense, on a queue `q` and an
/// exchange `x`. Publishes lack their content.
pub fn client_methods(arguments: TableRef<'_>) -> Vec<Method<'_>> {
    let (queue, exchange, key) = (b"q".as_slice(), b"x".as_slice(), b"a.b".as_slice());
    vec![
        Method::ChannelOpen,
        Method::AccessRequest {
            realm: b"/",
            exclusive: false,
            passive: true,
            active: true,
            write: true,
            read: true,
        },
        Method::ExchangeDeclare {
            exchange,
            type_: b"topic",
            passive: false,
            durable: false,
            auto_delete: true,
            internal: false,
            no_wait: false,
            arguments,
        },
        Method::QueueDeclare {
            queue,
            passive: false,
            durable: false,
            exclusive: true,
            auto_delete: false,
            no_wait: false,
            arguments,
        },
        Method::QueueBind { queue, exchange, routing_key: b"a.#", no_wait: false, arguments },
        Method::ExchangeBind {
            destination: exchange,
            source: b"amq.fanout",
            routing_key: b"",
            no_wait: true,
            arguments,
        },
        Method::ConfirmSelect { no_wait: false },
        Method::BasicQos { prefetch_size: 0, prefetch_count: 2, global: false },
        Method::BasicConsume {
            queue,
            consumer_tag: b"c",
            no_local: false,
            no_ack: false,
            exclusive: false,
            no_wait: false,
            arguments: TableRef::EMPTY,
        },
        Method::BasicPublish { exchange, routing_key: key, mandatory: true, immediate: false },
        Method::BasicGet { queue, no_ack: false },
        Method::BasicAck { delivery_tag: 1, multiple: true },
        Method::BasicReject { delivery_tag: 2, requeue: true },
        Method::BasicNack { delivery_tag: 0, multiple: true, requeue: false },
        Method::BasicRecover { requeue: true },
        Method::BasicRecoverAsync { requeue: true },
        Method::ChannelFlow { active: false },
        Method::BasicCancel { consumer_tag: b"c", no_wait: false },
        Method::TxSelect,
        Method::TxCommit,
        Method::TxRollback,
        Method::QueuePurge { queue, no_wait: false },
        Method::QueueUnbind { queue, exchange, routing_key: b"a.#", arguments },
        Method::ExchangeUnbind {
            destination: exchange,
            source: b"amq.fanout",
            routing_key: b"",
            no_wait: false,
            arguments,
        },
        Method::QueueDelete { queue, if_unused: false, if_empty: false, no_wait: false },
        Method::ExchangeDelete { exchange, if_unused: false, no_wait: false },
        Method::ConnectionUpdateSecret { new_secret: b"s", reason: b"r" },
        Method::ChannelClose { reply_code: 200, reply_text: b"bye", class_id: 0, method_id: 0 },
        Method::ChannelCloseOk,
        Method::ConnectionClose { reply_code: 200, reply_text: b"bye", class_id: 0, method_id: 0 },
    ]
}
