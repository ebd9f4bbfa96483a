//! The rules of declaring, deleting, binding and routing.

use super::*;
use crate::message::Edit;
use crate::{Request, Value};

const V: VhostId = VhostId(0);

/// Properties that are nothing but application headers, in a static table.
struct NoHeaders;

impl Encoding for NoHeaders {
    fn name(&self) -> &'static str {
        "none"
    }
    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }
    fn headers(&self, _: &[u8]) -> Table {
        Table::default()
    }
    fn property(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }
    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

struct World {
    topology: Topology,
}

impl World {
    fn new() -> Self {
        World { topology: Topology::new(&["/".into()], 2) }
    }

    fn ask_as(&mut self, owner: u32, request: &Request) -> Result<Plan, Refusal> {
        let plan = self.topology.plan(request, Some(connection(owner)), ShardId(1), &"amq.gen-1".into())?;
        plan.changes.iter().for_each(|change| self.topology.apply(change));
        Ok(plan)
    }

    fn ask(&mut self, request: &Request) -> Result<Plan, Refusal> {
        self.ask_as(1, request)
    }

    fn route(&self, exchange: &str, key: &str) -> Vec<QueueId> {
        let mut targets = Vec::new();
        let message = Routable {
            key: key.as_bytes(),
            properties: b"",
            encoding: &NoHeaders,
            has_headers: false,
            random: 0,
        };
        self.topology.route(V, exchange.as_bytes(), &message, &mut targets).unwrap();
        targets
    }
}

fn connection(index: u32) -> ConnectionId {
    ConnectionId { shard: ShardId(1), index, generation: 0 }
}

fn queue(name: &str) -> Request {
    Request::DeclareQueue { vhost: V, name: name.into(), passive: false, options: Box::default() }
}

#[test]
fn the_default_exchange_leads_to_every_queue_by_its_name() {
    let mut world = World::new();
    let id = world.ask(&queue("q")).unwrap().queue.unwrap();
    assert_eq!(world.route("", "q"), [id]);
    assert_eq!(world.route("", "other"), []);
}
