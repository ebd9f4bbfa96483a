//! A client that publishes to itself through one or more shards stepped in one thread.

use std::sync::Arc;

use fulmar_core::mesh::Wake;
use fulmar_core::message::{Edit, MessageHead, MessageHeader, Properties, Scalar};
use fulmar_core::request::{ConsumerOptions, QueueOptions};
use fulmar_core::shard::{Delivery, Published, Settlement};
use fulmar_core::{
    Clock, ConnectionId, Encoding, Limits, Name, Output, Request, SessionId, Shard, ShardConfig, ShardId,
    Table, Value, VhostId, mesh_for,
};

struct Opaque;

impl Encoding for Opaque {
    fn name(&self) -> &'static str {
        "opaque"
    }

    fn header(&self, _properties: &[u8], _name: &[u8]) -> Option<Value> {
        None
    }

    fn headers(&self, _properties: &[u8]) -> Table {
        Table::default()
    }

    fn scalar<'a>(&self, _: &'a [u8], _: &[u8]) -> Option<Scalar<'a>> {
        None
    }

    fn properties<'a>(&self, _: &'a [u8]) -> Properties<'a> {
        Properties::default()
    }

    fn edit(&self, properties: &[u8], _edit: &Edit) -> Vec<u8> {
        properties.to_vec()
    }
}

struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

/// Shards with one client on shard 0, who publishes and consumes.
pub struct Relay {
    shards: Vec<Shard>,
    connection: ConnectionId,
    session: SessionId,
    confirmed: u64,
    now_ns: u64,
}

impl Relay {
    pub fn new(shards: u8) -> Self {
        let limits = Limits::default();
        let wakers = (0..shards).map(|_| Arc::new(NoWaker) as Arc<dyn Wake>).collect();
        let mut shards: Vec<Shard> = mesh_for(wakers, &limits)
            .into_iter()
            .enumerate()
            .map(|(index, end)| {
                let config = ShardConfig {
                    id: ShardId(index as u8),
                    shards,
                    limits: limits.clone(),
                    vhosts: vec![Name::from("/")],
                    seed: index as u64,
                };
                Shard::new(config, end)
            })
            .collect();
        let connection = shards[0].open_connection(0);
        let session = shards[0].open_session(connection, 1);
        Relay { shards, connection, session, confirmed: 0, now_ns: 0 }
    }

    fn ask(&mut self, request: Request) {
        if let Some(result) = self.shards[0].request(self.session, request) {
            result.expect("the request is good");
            return;
        }
        for _ in 0..100 {
            self.turn(None);
        }
    }

    /// A queue on the last shard and a consumer on it.
    pub fn consume(&mut self, queue: &str, consumer: u32, no_ack: bool) {
        let name = Name::from(queue);
        let home = Some(self.shards.len() as u8 - 1);
        self.ask(Request::DeclareQueue {
            vhost: VhostId(0),
            name: name.clone(),
            passive: false,
            options: Box::new(QueueOptions { home, ..QueueOptions::default() }),
        });
        let options = ConsumerOptions { no_ack, ..ConsumerOptions::default() };
        self.ask(Request::Subscribe { vhost: VhostId(0), queue: name, consumer, options });
    }

    fn publish(&mut self, key: &[u8], body: &[u8], confirm: Option<u64>) {
        let header = header(key, body.len());
        let shard = &mut self.shards[0];
        let message = shard.begin_message(&header);
        shard.append_body(message, body);
        match shard.publish(self.session, VhostId(0), message, false, confirm) {
            Ok(Published::Confirmed) => self.confirmed += u64::from(confirm.is_some()),
            Ok(Published::Pending) => {}
            other => panic!("publishing gave {other:?}"),
        }
    }

    /// A turn of every shard; deliveries are counted, and settled on `settle`.
    fn turn(&mut self, settle: Option<Settlement>) -> u64 {
        self.now_ns += 1_000;
        let mut deliveries = 0;
        for index in 0..self.shards.len() {
            let shard = &mut self.shards[index];
            shard.set_clock(Clock { monotonic_ns: self.now_ns, wall_ms: 0 });
            shard.turn();
            while let Some(output) = shard.next_output() {
                match output {
                    Output::Delivery(Delivery { queue, tag, message, followers, .. }) => {
                        deliveries += u64::from(followers) + 1;
                        shard.release_all(message, followers);
                        if let Some(settlement) = settle {
                            shard.settle(self.session, queue, tag, settlement);
                        }
                    }
                    Output::Confirmed { accepted, .. } => self.confirmed += u64::from(accepted),
                    Output::Reply { result, .. } => drop(result.expect("the request is good")),
                    other => panic!("unexpected: {other:?}"),
                }
            }
            shard.publish_lanes();
        }
        deliveries
    }

    /// Publishes in batches until `messages` have come back.
    pub fn relay(&mut self, messages: u64, keys: &[&[u8]], settle: bool, confirm: bool) {
        let (mut sent, mut received, mut turns) = (0, 0, 0);
        let first = self.confirmed;
        while received < messages {
            for _ in 0..16.min(messages - sent) {
                let key = keys[sent as usize % keys.len()];
                sent += 1;
                self.publish(key, &[b'x'; 64], confirm.then_some(first + sent));
            }
            received += self.turn(settle.then_some(Settlement::Accept));
            turns += 1;
            assert!(turns < 10 * messages, "{received} of {messages} messages came back");
        }
        for _ in 0..10 {
            self.turn(None);
        }
        assert_eq!(self.confirmed - first, if confirm { messages } else { 0 });
    }

    /// Publishes messages to one queue that differ in their bodies alone, a batch a turn, until `messages` have come
    /// back.
    pub fn relay_alike(&mut self, messages: u64, key: &[u8]) {
        const BODY: &[u8] = &[b'x'; 64];
        let head = MessageHead::new(&header(key, BODY.len()));
        // The first one finds the way.
        self.publish(key, BODY, None);
        let (mut sent, mut received) = (1, 0);
        for _ in 0..messages {
            let bodies = [BODY; 32];
            let bodies = bodies.iter().copied().take((messages - sent).min(32) as usize);
            if bodies.len() > 0 {
                sent += bodies.len() as u64;
                let shard = &mut self.shards[0];
                let published =
                    shard.publish_alike(self.session, VhostId(0), &head, BODY.len(), bodies, None);
                assert_eq!(published, Some(Published::Confirmed));
            }
            received += self.turn(None);
            if received == messages {
                return;
            }
        }
        panic!("{received} of {messages} messages came back");
    }

    /// Ends the client; nothing may be left.
    pub fn end(mut self) {
        self.shards[0].close_connection(self.connection);
        for _ in 0..10 {
            self.turn(None);
        }
        for shard in &self.shards {
            let stats = shard.stats();
            assert_eq!((stats.messages, stats.memory_bytes, stats.consumers), (0, 0, 0));
        }
    }
}

fn header(key: &[u8], body_bytes: usize) -> MessageHeader<'_> {
    MessageHeader {
        encoding: &Opaque,
        exchange: b"",
        routing_key: key,
        properties: b"\x10\x00\x01",
        body_bytes: body_bytes as u64,
        priority: 0,
        ttl_ms: None,
        persistent: false,
        has_headers: false,
    }
}
