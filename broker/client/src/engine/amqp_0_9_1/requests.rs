//! Requests as methods.

use fulmar_amqp_0_9_1::codec::table::encode_table;
use fulmar_amqp_0_9_1::codec::{Method, TableRef, reply_code};
use fulmar_core::Table;

use crate::Error;
use crate::request::{Binding, Destination, Request};

/// The method of a request; `arguments` holds its table while it is encoded.
///
/// # Errors
/// There is none.
pub(super) fn method_of<'a>(request: &'a Request, arguments: &'a mut Vec<u8>) -> Result<Method<'a>, Error> {
    let mut table = |table: &Table| encode_table(table, arguments);
    match request {
        Request::DeclareExchange { options, .. } => table(&options.arguments),
        Request::DeclareQueue { options, .. } => table(&options.arguments),
        Request::Consume { options, .. } => table(&options.arguments),
        Request::Bind(binding) | Request::Unbind(binding) => table(&binding.arguments),
        _ => {}
    }
    let arguments = TableRef::new(arguments);
    Ok(match request {
        Request::QueryExchange { .. } | Request::QueryQueue { .. } | Request::QueryBinding(_) => {
            return Err(Error::Unsupported("AMQP 0-9-1 has no queries"));
        }
        Request::Branch(_) => {
            return Err(Error::Unsupported("AMQP 0-9-1 has no distributed transactions"));
        }
        Request::Consume { options, .. } if options.browse => {
            return Err(Error::Unsupported("AMQP 0-9-1 consumers cannot browse"));
        }
        Request::OpenChannel => Method::ChannelOpen,
        Request::CloseChannel => Method::ChannelClose {
            reply_code: reply_code::REPLY_SUCCESS,
            reply_text: b"goodbye",
            class_id: 0,
            method_id: 0,
        },
        Request::DeclareExchange { exchange, options, passive } => Method::ExchangeDeclare {
            exchange: exchange.as_bytes(),
            type_: options.kind.as_bytes(),
            passive: *passive,
            durable: options.durable,
            auto_delete: options.auto_delete,
            internal: options.internal,
            no_wait: false,
            arguments,
        },
        Request::DeleteExchange { exchange, if_unused } => {
            Method::ExchangeDelete { exchange: exchange.as_bytes(), if_unused: *if_unused, no_wait: false }
        }
        Request::DeclareQueue { queue, options, passive } => Method::QueueDeclare {
            queue: queue.as_bytes(),
            passive: *passive,
            durable: options.durable,
            exclusive: options.exclusive,
            auto_delete: options.auto_delete,
            no_wait: false,
            arguments,
        },
        Request::DeleteQueue { queue, if_unused, if_empty } => Method::QueueDelete {
            queue: queue.as_bytes(),
            if_unused: *if_unused,
            if_empty: *if_empty,
            no_wait: false,
        },
        Request::PurgeQueue { queue } => Method::QueuePurge { queue: queue.as_bytes(), no_wait: false },
        Request::Bind(Binding { kind, destination, source, routing_key, .. }) => match kind {
            Destination::Exchange => Method::ExchangeBind {
                destination: destination.as_bytes(),
                source: source.as_bytes(),
                routing_key: routing_key.as_bytes(),
                no_wait: false,
                arguments,
            },
            Destination::Queue => Method::QueueBind {
                queue: destination.as_bytes(),
                exchange: source.as_bytes(),
                routing_key: routing_key.as_bytes(),
                no_wait: false,
                arguments,
            },
        },
        Request::Unbind(Binding { kind, destination, source, routing_key, .. }) => match kind {
            Destination::Exchange => Method::ExchangeUnbind {
                destination: destination.as_bytes(),
                source: source.as_bytes(),
                routing_key: routing_key.as_bytes(),
                no_wait: false,
                arguments,
            },
            Destination::Queue => Method::QueueUnbind {
                queue: destination.as_bytes(),
                exchange: source.as_bytes(),
                routing_key: routing_key.as_bytes(),
                arguments,
            },
        },
        Request::Qos { prefetch_count, global } => {
            Method::BasicQos { prefetch_size: 0, prefetch_count: *prefetch_count, global: *global }
        }
        Request::Consume { queue, options } => Method::BasicConsume {
            queue: queue.as_bytes(),
            consumer_tag: options.consumer_tag.as_bytes(),
            no_local: false,
            no_ack: options.no_ack,
            exclusive: options.exclusive,
            no_wait: false,
            arguments,
        },
        Request::Cancel { consumer_tag } => {
            Method::BasicCancel { consumer_tag: consumer_tag.as_bytes(), no_wait: false }
        }
        Request::Get { queue, no_ack } => Method::BasicGet { queue: queue.as_bytes(), no_ack: *no_ack },
        Request::Recover => Method::BasicRecover { requeue: true },
        Request::SelectConfirms => Method::ConfirmSelect { no_wait: false },
        Request::SelectTx => Method::TxSelect,
        Request::CommitTx => Method::TxCommit,
        Request::RollbackTx => Method::TxRollback,
    })
}
