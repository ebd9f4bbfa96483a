//! The rules of declaring, deleting, binding and routing.

mod amqp_0_10;
mod declaring;
mod queries;
mod replicas;
mod routing;
mod stored;

use super::*;
use crate::exchange::tests::{Plain, encode};
use crate::{Request, Value};

const V: VhostId = VhostId(0);

/// The control shard's side of things: asks, applies.
struct World {
    topology: Topology,
    rules: Rules,
}

impl World {
    fn new() -> Self {
        World { topology: Topology::new(&["/".into(), "other".into()], 4), rules: Rules::Amqp091 }
    }

    fn ask_as(&mut self, owner: u32, request: &Request) -> Result<Plan, Refusal> {
        let plan = self.topology.plan(request, &asker(owner, self.rules), &"amq.gen-1".into())?;
        plan.changes.iter().for_each(|change| self.topology.apply(change));
        Ok(plan)
    }

    /// Asks and returns how many changes that made.
    fn ask(&mut self, request: &Request) -> Result<usize, Refusal> {
        self.ask_as(1, request).map(|plan| plan.changes.len())
    }

    fn queue(&mut self, name: &str) -> QueueId {
        self.ask_as(1, &queue(name)).unwrap().queue.unwrap()
    }

    fn exchange(&mut self, name: &str, kind: &str) {
        assert_eq!(self.ask(&exchange(name, kind)), Ok(1));
    }

    fn bind(&mut self, source: &str, destination: &str, key: &str) {
        assert_eq!(self.ask(&bind(source, destination, key)), Ok(1));
    }

    fn has_exchange(&self, name: &str) -> bool {
        self.topology.exchange(V, name.as_bytes()).is_some()
    }

    fn route(&self, exchange: &str, key: &str) -> Vec<QueueId> {
        self.route_with(exchange, key, &[]).0
    }

    fn route_with(&self, exchange: &str, key: &str, headers: &[(&str, Value)]) -> (Vec<QueueId>, bool) {
        let properties = encode(headers);
        let message = Routable {
            key: key.as_bytes(),
            properties: &properties,
            encoding: &Plain,
            has_headers: !headers.is_empty(),
            body: &[],
            random: 0,
        };
        let mut targets = Vec::new();
        let cacheable = self.topology.route(V, exchange.as_bytes(), &message, &mut targets).unwrap();
        targets.sort();
        (targets, cacheable)
    }
}

fn asker(owner: u32, rules: Rules) -> Asker {
    Asker { connection: Some(connection(owner)), shard: ShardId(3), rules }
}

fn connection(index: u32) -> ConnectionId {
    ConnectionId { shard: ShardId(3), index, generation: 0 }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn table(fields: &[(&str, Value)]) -> Table {
    Table(fields.iter().map(|(name, value)| (Name::from(*name), value.clone())).collect())
}

fn queue(name: &str) -> Request {
    queue_with(name, |_| {})
}

fn queue_with(name: &str, change: impl FnOnce(&mut QueueOptions)) -> Request {
    let mut options = Box::<QueueOptions>::default();
    change(&mut options);
    Request::DeclareQueue { vhost: V, name: name.into(), passive: false, options }
}

fn exchange(name: &str, kind: &str) -> Request {
    exchange_with(name, kind, |_| {})
}

fn exchange_with(name: &str, kind: &str, change: impl FnOnce(&mut ExchangeOptions)) -> Request {
    let mut options = ExchangeOptions { kind: kind.into(), ..ExchangeOptions::default() };
    change(&mut options);
    Request::DeclareExchange { vhost: V, name: name.into(), passive: false, options }
}

fn auto_delete(name: &str) -> Request {
    exchange_with(name, "fanout", |options| options.auto_delete = true)
}

/// The same request, only to look.
fn passive(mut request: Request) -> Request {
    match &mut request {
        Request::DeclareQueue { passive, .. } | Request::DeclareExchange { passive, .. } => *passive = true,
        other => panic!("{other:?} is no declaration"),
    }
    request
}

fn delete_queue(name: &str) -> Request {
    Request::DeleteQueue { vhost: V, name: name.into(), if_unused: false, if_empty: false }
}

fn delete_exchange(name: &str) -> Request {
    Request::DeleteExchange { vhost: V, name: name.into(), if_unused: false }
}

fn bind(source: &str, destination: &str, key: &str) -> Request {
    bind_with(source, destination, DestinationKind::Queue, key, &[])
}

fn bind_exchange(source: &str, destination: &str, key: &str) -> Request {
    bind_with(source, destination, DestinationKind::Exchange, key, &[])
}

fn bind_with(
    source: &str,
    destination: &str,
    kind: DestinationKind,
    key: &str,
    arguments: &[(&str, Value)],
) -> Request {
    let (source, destination, key) = (source.into(), destination.into(), key.into());
    Request::Bind { vhost: V, source, destination, kind, key, arguments: table(arguments) }
}

/// The request that undoes a [`Request::Bind`].
fn un(bind: Request) -> Request {
    match bind {
        Request::Bind { vhost, source, destination, kind, key, arguments } => {
            Request::Unbind { vhost, source, destination, kind, key, arguments }
        }
        other => panic!("{other:?} is no binding"),
    }
}
