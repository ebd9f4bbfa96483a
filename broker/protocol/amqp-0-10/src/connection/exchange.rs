//! Class `exchange`: passes on what the client asks for as requests.

use fulmar_core::request::{BindingInfo, DestinationKind, ExchangeOptions};
use fulmar_core::{Name, Reply, Request, Table, Value, VhostId};

use super::Env;
use super::command::{Step, decoded};
use super::errors::Fault;
use super::queue::optional;
use super::session::{Flow, Session};
use super::subscription::named_queue;
use crate::codec::table::{
    ExchangeBind, ExchangeBound, ExchangeBoundResult, ExchangeDeclare, ExchangeDelete, ExchangeQueryResult,
    ExchangeUnbind,
};
use crate::codec::{MapRef, Struct, encode_table};

/// The argument that says how long a binding is to stay, and the value for as long as its session.
const SCOPE: &[u8] = b"x-scope";
const SESSION: &[u8] = b"session";

/// A binding that goes with its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    source: Name,
    destination: Name,
    key: Name,
}

impl Binding {
    /// What ends it.
    pub fn removal(self, vhost: VhostId) -> Request {
        let Binding { source, destination, key } = self;
        let (kind, arguments) = (DestinationKind::Queue, Table::default());
        Request::Unbind { vhost, source, destination, kind, key, arguments }
    }
}

impl Session {
    /// `exchange.declare`
    pub fn declare_exchange(
        &mut self,
        env: &mut Env<'_>,
        declare: &ExchangeDeclare<'_>,
    ) -> Result<Flow, Fault> {
        let options = ExchangeOptions {
            kind: Name::from(declare.type_.unwrap_or_default()),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: false,
            alternate: optional(declare.alternate_exchange),
            arguments: decoded(declare.arguments)?,
        };
        let (vhost, name) = (env.link.vhost, required(declare.exchange));
        let passive = declare.passive;
        self.request(env, Request::DeclareExchange { vhost, name, passive, options }, Step::Done)
    }

    /// `exchange.delete`
    pub fn delete_exchange(&mut self, env: &mut Env<'_>, delete: &ExchangeDelete<'_>) -> Result<Flow, Fault> {
        let (vhost, name) = (env.link.vhost, required(delete.exchange));
        let if_unused = delete.if_unused;
        self.request(env, Request::DeleteExchange { vhost, name, if_unused }, Step::Done)
    }

    /// `exchange.query`
    pub fn query_exchange(&mut self, env: &mut Env<'_>, name: &[u8]) -> Result<Flow, Fault> {
        let request = Request::QueryExchange { vhost: env.link.vhost, name: Name::from(name) };
        self.request(env, request, Step::ExchangeQueried)
    }

    /// The answer to `exchange.query`.
    pub fn exchange_queried(&mut self, env: &mut Env<'_>, reply: Reply) -> Result<Flow, Fault> {
        let Reply::Exchange(Some(entry)) = reply else {
            let result = ExchangeQueryResult { not_found: true, ..ExchangeQueryResult::default() };
            self.result(env, &Struct::ExchangeQueryResult(result));
            return Ok(Flow::Done);
        };
        let mut arguments = Vec::new();
        encode_table(&entry.options.arguments, &mut arguments);
        let result = ExchangeQueryResult {
            type_: Some(entry.options.kind.as_bytes()),
            durable: entry.options.durable,
            not_found: false,
            arguments: Some(MapRef::new(&arguments)),
        };
        self.result(env, &Struct::ExchangeQueryResult(result));
        Ok(Flow::Done)
    }

    /// `exchange.bind`
    pub fn bind(&mut self, env: &mut Env<'_>, bind: &ExchangeBind<'_>) -> Result<Flow, Fault> {
        let arguments = decoded(bind.arguments)?;
        let binding = Binding {
            source: required(bind.exchange),
            destination: named_queue(bind.queue)?,
            key: required(bind.binding_key),
        };
        if arguments.get(SCOPE).and_then(Value::as_bytes) == Some(SESSION)
            && !self.bindings.contains(&binding)
        {
            self.bindings.push(binding.clone());
        }
        let Binding { source, destination, key } = binding;
        let (vhost, kind) = (env.link.vhost, DestinationKind::Queue);
        self.request(env, Request::Bind { vhost, source, destination, kind, key, arguments }, Step::Done)
    }

    /// `exchange.unbind`
    pub fn unbind(&mut self, env: &mut Env<'_>, unbind: &ExchangeUnbind<'_>) -> Result<Flow, Fault> {
        let binding = Binding {
            source: required(unbind.exchange),
            destination: named_queue(unbind.queue)?,
            key: required(unbind.binding_key),
        };
        self.bindings.retain(|other| *other != binding);
        self.request(env, binding.removal(env.link.vhost), Step::Done)
    }

    /// `exchange.bound`
    pub fn query_binding(&mut self, env: &mut Env<'_>, bound: &ExchangeBound<'_>) -> Result<Flow, Fault> {
        let arguments = decoded(bound.arguments)?;
        let request = Request::QueryBinding {
            vhost: env.link.vhost,
            exchange: required(bound.exchange),
            queue: optional(bound.queue),
            key: optional(bound.binding_key),
            arguments: Some(arguments).filter(|arguments| !arguments.is_empty()),
        };
        self.request(env, request, Step::Bound)
    }

    /// The answer to `exchange.bound`.
    pub fn bound(&mut self, env: &mut Env<'_>, reply: Reply) -> Result<Flow, Fault> {
        let Reply::Binding(info) = reply else { return Ok(Flow::Done) };
        let BindingInfo {
            exchange_not_found,
            queue_not_found,
            queue_not_matched,
            key_not_matched,
            arguments_not_matched: args_not_matched,
        } = info;
        let result = ExchangeBoundResult {
            exchange_not_found,
            queue_not_found,
            queue_not_matched,
            key_not_matched,
            args_not_matched,
        };
        self.result(env, &Struct::ExchangeBoundResult(result));
        Ok(Flow::Done)
    }
}

/// A name; an empty one where there is none.
fn required(name: Option<&[u8]>) -> Name {
    Name::from(name.unwrap_or_default())
}
