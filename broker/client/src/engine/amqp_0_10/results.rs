//! What a request asks, and its answer from the result of a query.

use fulmar_amqp_0_10::codec::table::{
    ExchangeBoundResult, ExchangeQueryResult, GetTimeoutResult, QueueQueryResult, RecoverResult, XaResult,
    XaStatus,
};
use fulmar_amqp_0_10::codec::{Struct, StructRef, Value};

use super::lossy;
use crate::branch::{BranchStatus, Xid};
use crate::message::Message;
use crate::request::{BindingState, ExchangeState, QueueInfo, QueueState, Reply};

/// What is to be answered.
pub(super) enum Question {
    /// That it is done.
    Done,
    /// A queue that was declared under this name.
    Declared(String),
    /// How many messages were in a queue.
    Count,
    /// What was delivered under this name.
    Get {
        destination: String,
        got: Option<(u64, bool, Message)>,
    },
    Queue,
    Exchange,
    Binding,
    /// What came of a branch.
    Branch,
    Branches,
    BranchTimeout,
}

impl Question {
    /// The answer, from the result where there is one. What cannot be read of it counts as absent.
    pub(super) fn answer(self, result: &[u8]) -> Reply {
        let result = StructRef::new(result);
        let queue = || QueueQueryResult::decode(result).unwrap_or_default();
        match self {
            Question::Done => Reply::Done,
            Question::Declared(name) => {
                let queue = queue();
                Reply::Queue(QueueInfo {
                    name,
                    message_count: queue.message_count.unwrap_or(0),
                    consumer_count: queue.subscriber_count.unwrap_or(0),
                })
            }
            Question::Count => Reply::Count(queue().message_count.unwrap_or(0)),
            Question::Get { got: None, .. } => Reply::Empty,
            Question::Get { got: Some((delivery_tag, redelivered, message)), .. } => {
                let message_count = queue().message_count.unwrap_or(0);
                Reply::Got { delivery_tag, redelivered, message, message_count }
            }
            Question::Queue => Reply::QueueState(queue_state(&queue())),
            Question::Exchange => {
                Reply::ExchangeState(exchange_state(&ExchangeQueryResult::decode(result).unwrap_or_default()))
            }
            Question::Binding => {
                let missing = ExchangeBoundResult::decode(result).unwrap_or_default();
                Reply::BindingState(BindingState {
                    exchange_found: !missing.exchange_not_found,
                    queue_found: !missing.queue_not_found,
                    queue_matched: !missing.queue_not_matched,
                    key_matched: !missing.key_not_matched,
                    arguments_matched: !missing.args_not_matched,
                })
            }
            Question::Branch => Reply::Branch(branch_status(XaResult::decode(result).unwrap_or_default())),
            Question::Branches => {
                let result = RecoverResult::decode(result).unwrap_or_default();
                Reply::Branches(
                    result.in_doubt.unwrap_or_default().iter().flatten().filter_map(xid).collect(),
                )
            }
            Question::BranchTimeout => {
                let result = GetTimeoutResult::decode(result).unwrap_or_default();
                Reply::Count(result.timeout.unwrap_or(0))
            }
        }
    }
}

/// A status that is missing is none that can be relied on.
fn branch_status(result: XaResult) -> BranchStatus {
    match result.status.unwrap_or(XaStatus::Other(u16::MAX)) {
        XaStatus::Ok => BranchStatus::Ok,
        XaStatus::RollbackOnly => BranchStatus::RollbackOnly,
        XaStatus::RollbackTimeout => BranchStatus::TimedOut,
        XaStatus::HeuristicHazard => BranchStatus::HeuristicHazard,
        XaStatus::HeuristicCommit => BranchStatus::HeuristicCommit,
        XaStatus::HeuristicRollback => BranchStatus::HeuristicRollback,
        XaStatus::HeuristicMix => BranchStatus::HeuristicMix,
        XaStatus::ReadOnly => BranchStatus::ReadOnly,
        XaStatus::Other(status) => BranchStatus::Other(status),
    }
}

fn xid(value: Value<'_>) -> Option<Xid> {
    let Value::Struct32(encoded) = value else { return None };
    let Ok(Struct::Xid(xid)) = Struct::decode(encoded) else { return None };
    let id = |id: Option<&'_ [u8]>| id.unwrap_or_default().to_vec();
    Some(Xid::told(xid.format.unwrap_or(0), &id(xid.global_id), &id(xid.branch_id)))
}

/// A queue that is not there has no name.
fn queue_state(result: &QueueQueryResult<'_>) -> Option<Box<QueueState>> {
    result.queue.filter(|name| !name.is_empty())?;
    Some(Box::new(QueueState {
        durable: result.durable,
        exclusive: result.exclusive,
        auto_delete: result.auto_delete,
        alternate_exchange: lossy(result.alternate_exchange.unwrap_or_default()),
        arguments: result.arguments.and_then(|map| map.to_table().ok()).unwrap_or_default(),
        message_count: result.message_count.unwrap_or(0),
        consumer_count: result.subscriber_count.unwrap_or(0),
    }))
}

fn exchange_state(result: &ExchangeQueryResult<'_>) -> Option<Box<ExchangeState>> {
    (!result.not_found).then(|| {
        Box::new(ExchangeState {
            kind: lossy(result.type_.unwrap_or_default()),
            durable: result.durable,
            arguments: result.arguments.and_then(|map| map.to_table().ok()).unwrap_or_default(),
        })
    })
}
