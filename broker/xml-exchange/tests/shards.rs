//! The exchange type in a broker of one shard and of two: declared, bound, published to.

use std::sync::Arc;

use fulmar_core::mesh::Wake;
use fulmar_core::message::{Edit, Encoding, MessageHeader, Properties, Scalar};
use fulmar_core::request::{DestinationKind, ExchangeOptions, QueueOptions};
use fulmar_core::{
    Limits, Name, Output, Refusal, Reply, Request, SessionId, Shard, ShardConfig, ShardId, Table, Value,
    VhostId, mesh_for,
};

const V: VhostId = VhostId(0);

struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

/// Properties are the header `colour`.
struct Colour;

impl Encoding for Colour {
    fn name(&self) -> &'static str {
        "colour"
    }

    fn header(&self, _: &[u8], _: &[u8]) -> Option<Value> {
        None
    }

    fn headers(&self, _: &[u8]) -> Table {
        Table::default()
    }

    fn scalar<'a>(&self, properties: &'a [u8], name: &[u8]) -> Option<Scalar<'a>> {
        (name == b"colour").then_some(Scalar::Text(properties))
    }

    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }

    fn edit(&self, properties: &[u8], _: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

struct Broker {
    shards: Vec<Shard>,
    sessions: Vec<SessionId>,
}

impl Broker {
    /// With a session on each shard.
    fn new(shards: u8) -> Self {
        let limits = Limits::default();
        let wakers = (0..shards).map(|_| Arc::new(NoWaker) as Arc<dyn Wake>).collect();
        let make = |(id, mesh)| {
            let id = ShardId(id as u8);
            let vhosts = vec![Name::from("/")];
            let config = ShardConfig { id, shards, limits: limits.clone(), vhosts, seed: 1 };
            let mut shard = Shard::new(config, mesh);
            shard.add_exchange_types(&[&fulmar_xml_exchange::XML]);
            shard
        };
        let mut shards: Vec<Shard> = mesh_for(wakers, &limits).into_iter().enumerate().map(make).collect();
        let open = |shard: &mut Shard| {
            let connection = shard.open_connection(0);
            shard.open_session(connection, 1)
        };
        let sessions = shards.iter_mut().map(open).collect();
        Broker { shards, sessions }
    }

    /// Turns of all shards; the answers that come.
    fn run(&mut self) -> Vec<Result<Reply, Refusal>> {
        let mut replies = Vec::new();
        for _ in 0..20 {
            for shard in &mut self.shards {
                shard.turn();
                while let Some(output) = shard.next_output() {
                    match output {
                        Output::Reply { result, .. } => replies.push(*result),
                        other => panic!("nothing else was asked for: {other:?}"),
                    }
                }
                shard.publish_lanes();
            }
        }
        replies
    }

    fn ask(&mut self, at: usize, request: Request) -> Result<Reply, Refusal> {
        match self.shards[at].request(self.sessions[at], request) {
            Some(result) => result,
            None => self.run().pop().expect("a request is answered"),
        }
    }

    fn bind(&mut self, at: usize, queue: &str, query: &str) -> Result<Reply, Refusal> {
        let arguments = Table(vec![("xquery".into(), Value::Text(query.into()))]);
        let request = Request::Bind {
            vhost: V,
            source: "x".into(),
            destination: queue.into(),
            kind: DestinationKind::Queue,
            key: "k".into(),
            arguments,
        };
        self.ask(at, request)
    }

    fn publish(&mut self, at: usize, colour: &str, body: &str) {
        let header = MessageHeader {
            encoding: &Colour,
            exchange: b"x",
            routing_key: b"k",
            properties: colour.as_bytes(),
            body_bytes: body.len() as u64,
            priority: 0,
            ttl_ms: None,
            persistent: false,
            has_headers: true,
        };
        let message = self.shards[at].begin_message_with(&header, body.as_bytes());
        self.shards[at].publish(self.sessions[at], V, message, false, None).unwrap();
        self.run();
    }

    fn depth(&mut self, at: usize, queue: &str) -> u32 {
        match self.ask(at, Request::QueryQueue { vhost: V, name: queue.into() }) {
            Ok(Reply::Queue(Some(info))) => info.messages,
            other => panic!("a query was answered with {other:?}"),
        }
    }
}

#[test]
fn messages_go_where_their_body_and_headers_say() {
    for shards in 1..=2 {
        let mut broker = Broker::new(shards);
        let last = usize::from(shards) - 1;
        let options = ExchangeOptions { kind: "xml".into(), ..Default::default() };
        let declare = Request::DeclareExchange { vhost: V, name: "x".into(), passive: false, options };
        broker.ask(last, declare).unwrap();
        for (queue, home) in [("cheap", 0), ("blue", shards - 1)] {
            let options = Box::new(QueueOptions { home: Some(home), ..Default::default() });
            let declare = Request::DeclareQueue { vhost: V, name: queue.into(), passive: false, options };
            broker.ask(0, declare).unwrap();
        }
        broker.bind(last, "cheap", "for $i in ./items/item where $i/@price < 5 return $i").unwrap();
        broker.bind(0, "blue", "declare variable $colour external; $colour = 'blue'").unwrap();
        let refused = broker.bind(last, "blue", "for $i in");
        match refused {
            Err(Refusal::InvalidBinding { reason, .. }) => {
                assert!(reason.contains("line 1, column 10"), "{reason}")
            }
            other => panic!("expected it to be refused: {other:?}"),
        }
        for at in [0, last] {
            broker.publish(at, "blue", "no XML");
            broker.publish(at, "red", "<items><item price='9'/><item price='2'/></items>");
            broker.publish(at, "blue", "<items><item price='3'/></items>");
            broker.publish(at, "red", "<items><item price='9'/></items>");
        }
        for at in [0, last] {
            assert_eq!((broker.depth(at, "cheap"), broker.depth(at, "blue")), (4, 4), "{shards} shards");
        }
    }
}
