//! Class `queue`: passes on what the client asks for as requests.

use fulmar_core::request::QueueOptions;
use fulmar_core::{Name, Refusal, Reply, Request, Table};

use super::Env;
use super::command::{Step, decoded};
use super::errors::Fault;
use super::session::{Flow, Session};
use super::subscription::named_queue;
use crate::codec::table::{QueueDeclare, QueueDelete, QueueQueryResult};
use crate::codec::{MapRef, Struct, encode_table};

/// The argument by which a client chooses a queue's home.
const HOME: &str = "x-fulmar-shard";

impl Session {
    /// `queue.declare`
    pub fn declare_queue(&mut self, env: &mut Env<'_>, declare: &QueueDeclare<'_>) -> Result<Flow, Fault> {
        let vhost = env.link.vhost;
        let name = named_queue(declare.queue)?;
        if declare.passive {
            let exclusive = declare.exclusive;
            let request = Request::QueryQueue { vhost, name: name.clone() };
            return self.request(env, request, Step::QueueFound { name, exclusive });
        }
        let arguments = decoded(declare.arguments)?;
        let mut options = QueueOptions {
            durable: declare.durable,
            exclusive: declare.exclusive,
            outlives_owner: true,
            auto_delete: declare.auto_delete,
            alternate: optional(declare.alternate_exchange),
            home: home(&arguments)?,
            ..QueueOptions::default()
        };
        options.take_arguments(&arguments)?;
        let request = Request::DeclareQueue { vhost, name, passive: false, options: Box::new(options) };
        self.request(env, request, Step::QueueDeclared)
    }

    /// `queue.declare` with `passive`: the queue is there, or not. Exclusive use is the owner's alone.
    pub fn queue_found(
        &mut self,
        name: Name,
        exclusive: bool,
        result: Result<Reply, Refusal>,
    ) -> Result<Flow, Fault> {
        match result? {
            Reply::Queue(None) => Err(Refusal::NoQueue(name).into()),
            Reply::Queue(Some(info)) if exclusive && info.entry.owner != Some(self.connection) => {
                Err(Refusal::ExclusiveToOther(name).into())
            }
            _ => Ok(Flow::Done),
        }
    }

    /// `queue.delete`
    pub fn delete_queue(&mut self, env: &mut Env<'_>, delete: &QueueDelete<'_>) -> Result<Flow, Fault> {
        let (vhost, name) = (env.link.vhost, named_queue(delete.queue)?);
        let (if_unused, if_empty) = (delete.if_unused, delete.if_empty);
        self.request(env, Request::DeleteQueue { vhost, name, if_unused, if_empty }, Step::Done)
    }

    /// `queue.purge`
    pub fn purge_queue(&mut self, env: &mut Env<'_>, queue: &[u8]) -> Result<Flow, Fault> {
        let (vhost, name) = (env.link.vhost, named_queue(Some(queue))?);
        self.request(env, Request::PurgeQueue { vhost, name }, Step::Done)
    }

    /// `queue.query`
    pub fn query_queue(&mut self, env: &mut Env<'_>, queue: &[u8]) -> Result<Flow, Fault> {
        let request = Request::QueryQueue { vhost: env.link.vhost, name: Name::from(queue) };
        self.request(env, request, Step::QueueQueried)
    }

    /// The answer to `queue.query`: without a name if there is no such queue.
    pub fn queue_queried(&mut self, env: &mut Env<'_>, reply: Reply) -> Result<Flow, Fault> {
        let Reply::Queue(Some(info)) = reply else {
            self.result(env, &Struct::QueueQueryResult(QueueQueryResult::default()));
            return Ok(Flow::Done);
        };
        let mut arguments = Vec::new();
        let options = &info.entry.options;
        encode_table(&options.arguments, &mut arguments);
        let result = QueueQueryResult {
            queue: Some(info.entry.name.as_bytes()),
            alternate_exchange: options.alternate.as_ref().map(Name::as_bytes),
            durable: options.durable,
            exclusive: info.entry.owner.is_some(),
            auto_delete: options.auto_delete,
            arguments: Some(MapRef::new(&arguments)),
            message_count: Some(info.messages),
            subscriber_count: Some(info.consumers),
        };
        self.result(env, &Struct::QueueQueryResult(result));
        Ok(Flow::Done)
    }
}

/// The home shard that a queue is declared for.
fn home(arguments: &Table) -> Result<Option<u8>, Refusal> {
    let Some(value) = arguments.get(HOME.as_bytes()) else { return Ok(None) };
    let shard = value.as_i64().and_then(|shard| u8::try_from(shard).ok());
    let invalid = || Refusal::InvalidArgument { argument: HOME.into(), reason: "not a shard".into() };
    shard.map(Some).ok_or_else(invalid)
}

/// A name that need not be there.
pub(super) fn optional(name: Option<&[u8]>) -> Option<Name> {
    name.filter(|name| !name.is_empty()).map(Name::from)
}
