//! The engine as its callers see it: one or several shards stepped in one thread.

mod basics;
mod branches;
mod browse;
mod chaos;
mod credit;
mod deadletters;
mod durable;
mod durable_chaos;
mod ending;
mod flow;
mod groups;
mod holding;
mod keeping;
mod lifetimes;
mod moving;
mod paging;
mod permissions;
mod policies;
mod policy_chaos;
mod policy_model;
mod queries;
mod queues;
mod selectors;
mod stored;
mod stored_chaos;
mod transaction_chaos;
mod transaction_records;
mod transactions;
mod watchers;

use std::collections::VecDeque;
use std::sync::Arc;

use super::*;
use crate::mesh::Wake;
use crate::message::{MessageHead, MessageHeader};
use crate::request::{ConsumerOptions, DestinationKind, ExchangeOptions, Got, QueueOptions, Request};
use crate::test_support::Plain;
use crate::test_support::journal::TestJournal;
use crate::{Table, Value, VhostId};

const VHOST: VhostId = VhostId(0);
const MS: u64 = 1_000_000;

struct NoWaker;

impl Wake for NoWaker {
    fn wake(&self) {}
}

/// A client: a session on a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Client {
    shard: usize,
    connection: ConnectionId,
    session: SessionId,
    owner: u32,
}

/// A delivery with its message's content.
#[derive(Clone, Debug)]
struct Received {
    queue: QueueId,
    tag: u64,
    consumer: u32,
    redelivered: bool,
    ttl_left_ms: Option<u32>,
    exchange: String,
    key: String,
    body: String,
    headers: Table,
    expiration: Option<Value>,
}

/// What a client has been told besides deliveries.
#[derive(Debug)]
enum Told {
    Reply(Result<Reply, Refusal>),
    Confirmed(u64, bool),
    Cancelled(u32),
}

/// Shards, their clients and a clock.
struct Broker {
    shards: Vec<Shard>,
    clock: Clock,
    /// By owner.
    received: Vec<VecDeque<Received>>,
    told: Vec<VecDeque<Told>>,
    /// They store what is appended while somebody waits for an answer.
    journals: Vec<TestJournal>,
    /// When journals answer, and in which order; at once and in order if nobody says so.
    lateness: Option<Random>,
    /// Messages are persistent if nobody says otherwise.
    is_persistent: bool,
    /// The next reading fails.
    is_failing: bool,
}

impl Broker {
    fn new(shards: u8) -> Self {
        Broker::with_limits(shards, Limits::default())
    }

    fn with_limits(shards: u8, limits: Limits) -> Self {
        let wakers = (0..shards).map(|_| Arc::new(NoWaker) as Arc<dyn Wake>).collect();
        let ends = mesh_for(wakers, &limits);
        let shard = |(index, end)| {
            let config = ShardConfig {
                id: ShardId(index as u8),
                shards,
                limits: limits.clone(),
                vhosts: vec![Name::from("/")],
                seed: index as u64,
            };
            Shard::new(config, end)
        };
        let mut broker = Broker {
            shards: ends.into_iter().enumerate().map(shard).collect(),
            clock: Clock { monotonic_ns: 1_000 * MS, wall_ms: 1_700_000_000_000 },
            received: Vec::new(),
            told: Vec::new(),
            journals: Vec::new(),
            lateness: None,
            is_persistent: false,
            is_failing: false,
        };
        broker.tell_time();
        broker
    }

    fn client(&mut self, shard: usize) -> Client {
        let owner = self.received.len() as u32;
        self.received.push(VecDeque::new());
        self.told.push(VecDeque::new());
        let connection = self.shards[shard].open_connection(owner);
        let session = self.shards[shard].open_session(connection, 1);
        Client { shard, connection, session, owner }
    }

    fn tell_time(&mut self) {
        for shard in &mut self.shards {
            shard.set_clock(self.clock);
        }
    }

    /// Time passes; then everything settles.
    fn pass(&mut self, ms: u64) {
        self.clock.monotonic_ns += ms * MS;
        self.clock.wall_ms += ms;
        self.tell_time();
        self.run();
    }

    /// One turn of one shard.
    fn turn(&mut self, index: usize) -> bool {
        let is_awaited = self.serve_journal(index);
        let shard = &mut self.shards[index];
        let mut worked = shard.turn() || is_awaited;
        while let Some(output) = shard.next_output() {
            worked = true;
            match output {
                Output::Delivery(delivery) => {
                    for part in 0..=delivery.followers {
                        let message = delivery.message.after(part);
                        let received = look(shard, &Delivery { message, ..delivery });
                        self.received[delivery.owner as usize].push_back(received);
                    }
                    shard.release_all(delivery.message, delivery.followers);
                }
                Output::Reply { owner, result, .. } => {
                    self.told[owner as usize].push_back(Told::Reply(*result));
                }
                Output::Confirmed { owner, sequence, accepted, .. } => {
                    self.told[owner as usize].push_back(Told::Confirmed(sequence, accepted));
                }
                Output::ConsumerCancelled { owner, consumer, .. } => {
                    self.told[owner as usize].push_back(Told::Cancelled(consumer));
                }
            }
        }
        shard.publish_lanes();
        worked
    }

    /// Turns of all shards until nothing happens any more.
    fn run(&mut self) {
        let mut idle_rounds = 0;
        for _ in 0..10_000 {
            let worked = (0..self.shards.len()).fold(false, |any, index| self.turn(index) | any);
            let waiting = self.shards.iter().any(|shard| shard.has_work() || shard.mesh.has_backlog());
            // What a shard sends in one round, another may see only in the next.
            idle_rounds = if worked || waiting { 0 } else { idle_rounds + 1 };
            if idle_rounds == 2 {
                return;
            }
        }
        panic!("the shards never came to rest");
    }

    /// A request and its answer, be it at once or later.
    fn ask(&mut self, client: Client, request: Request) -> Result<Reply, Refusal> {
        if let Some(result) = self.shards[client.shard].request(client.session, request) {
            return result;
        }
        for _ in 0..1_000 {
            (0..self.shards.len()).for_each(|index| {
                self.turn(index);
            });
            for (shard, journal) in self.shards.iter_mut().zip(&self.journals) {
                journal.store_all(shard);
            }
            let told = &mut self.told[client.owner as usize];
            if let Some(at) = told.iter().position(|told| matches!(told, Told::Reply(_))) {
                let Some(Told::Reply(result)) = told.remove(at) else { unreachable!() };
                return result;
            }
        }
        panic!("a request was never answered");
    }

    fn declare(&mut self, client: Client, name: &str, options: QueueOptions) -> (u32, u32) {
        self.try_declare(client, name, options).expect("the declaration is good")
    }

    fn try_declare(
        &mut self,
        client: Client,
        name: &str,
        options: QueueOptions,
    ) -> Result<(u32, u32), Refusal> {
        let request = Request::DeclareQueue {
            vhost: VHOST,
            name: Name::from(name),
            passive: false,
            options: Box::new(options),
        };
        match self.ask(client, request)? {
            Reply::QueueDeclared { messages, consumers, .. } => Ok((messages, consumers)),
            other => panic!("a declare was answered with {other:?}"),
        }
    }

    /// Messages and consumers, by a passive declare.
    fn counts(&mut self, client: Client, name: &str) -> Result<(u32, u32), Refusal> {
        let request = Request::DeclareQueue {
            vhost: VHOST,
            name: Name::from(name),
            passive: true,
            options: Box::default(),
        };
        match self.ask(client, request)? {
            Reply::QueueDeclared { messages, consumers, .. } => Ok((messages, consumers)),
            other => panic!("a declare was answered with {other:?}"),
        }
    }

    fn exchange(&mut self, client: Client, name: &str, kind: &str, arguments: Table) {
        let options = ExchangeOptions { kind: Name::from(kind), arguments, ..Default::default() };
        let request =
            Request::DeclareExchange { vhost: VHOST, name: Name::from(name), passive: false, options };
        self.ask(client, request).expect("the declaration is good");
    }

    fn bind(&mut self, client: Client, source: &str, queue: &str, key: &str) {
        let request = Request::Bind {
            vhost: VHOST,
            source: Name::from(source),
            destination: Name::from(queue),
            kind: DestinationKind::Queue,
            key: Name::from(key),
            arguments: Table::default(),
        };
        self.ask(client, request).expect("the binding is good");
    }

    fn subscribe(&mut self, client: Client, queue: &str, consumer: u32, options: ConsumerOptions) {
        self.try_subscribe(client, queue, consumer, options).expect("the subscription is good");
    }

    fn try_subscribe(
        &mut self,
        client: Client,
        queue: &str,
        consumer: u32,
        options: ConsumerOptions,
    ) -> Result<Reply, Refusal> {
        let queue = Name::from(queue);
        self.ask(client, Request::Subscribe { vhost: VHOST, queue, consumer, options })
    }

    fn message(&mut self, client: Client, exchange: &str, key: &str, body: &str) -> MessageId {
        self.message_with(client, exchange, key, body, &[], |_| {})
    }

    fn message_with(
        &mut self,
        client: Client,
        exchange: &str,
        key: &str,
        body: &str,
        properties: &[u8],
        change: impl FnOnce(&mut MessageHeader<'_>),
    ) -> MessageId {
        let mut header = MessageHeader {
            encoding: &Plain,
            exchange: exchange.as_bytes(),
            routing_key: key.as_bytes(),
            properties,
            body_bytes: body.len() as u64,
            priority: 0,
            ttl_ms: None,
            persistent: self.is_persistent,
            has_headers: !properties.is_empty(),
        };
        change(&mut header);
        let shard = &mut self.shards[client.shard];
        let id = shard.begin_message(&header);
        shard.append_body(id, body.as_bytes());
        id
    }

    /// Publishes a plain message without confirm.
    fn publish(&mut self, client: Client, exchange: &str, key: &str, body: &str) -> Published {
        let id = self.message(client, exchange, key, body);
        self.send(client, id)
    }

    fn send(&mut self, client: Client, message: MessageId) -> Published {
        self.shards[client.shard]
            .publish(client.session, VHOST, message, false, None)
            .expect("the exchange is there")
    }

    fn settle(&mut self, client: Client, received: &Received, settlement: Settlement) {
        self.shards[client.shard].settle(client.session, received.queue, received.tag, settlement);
    }

    fn get(&mut self, client: Client, queue: &str, no_ack: bool) -> Option<(Received, u32)> {
        let queue = Name::from(queue);
        let reply = self.ask(client, Request::Get { vhost: VHOST, queue, no_ack });
        let Ok(Reply::Got(got)) = reply else { panic!("a get was answered with {reply:?}") };
        let Got { queue, tag, message, redelivered, remaining } = got?;
        let shard = &mut self.shards[client.shard];
        let delivery = Delivery {
            owner: client.owner,
            channel: 1,
            redelivered,
            ttl_left_ms: None,
            consumer: 0,
            queue,
            tag,
            message,
            followers: 0,
        };
        let received = look(shard, &delivery);
        shard.release(message);
        Some((received, remaining))
    }

    /// What has arrived at a client since the last look.
    fn take(&mut self, client: Client) -> Vec<Received> {
        self.run();
        self.received[client.owner as usize].drain(..).collect()
    }

    fn bodies(&mut self, client: Client) -> Vec<String> {
        self.take(client).into_iter().map(|received| received.body).collect()
    }

    /// Ends every client and checks that nothing is left.
    fn end(mut self, clients: &[Client]) {
        for client in clients {
            self.shards[client.shard].close_connection(client.connection);
        }
        self.run();
        for shard in &self.shards {
            let stats = shard.stats();
            let queued = stats.ready + stats.unsettled;
            // Queues share messages, nobody else holds any.
            assert!(stats.messages <= queued, "messages that no queue holds: {stats:?}");
            assert_eq!((stats.sessions, stats.connections, stats.consumers, stats.unsettled), (0, 0, 0, 0));
        }
    }
}

fn look(shard: &Shard, delivery: &Delivery) -> Received {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let view = shard.message(delivery.message);
    Received {
        queue: delivery.queue,
        tag: delivery.tag,
        consumer: delivery.consumer,
        redelivered: delivery.redelivered,
        ttl_left_ms: delivery.ttl_left_ms.map(|left_ms| left_ms.get()),
        exchange: text(view.exchange),
        key: text(view.routing_key),
        body: text(view.body),
        headers: view.encoding.headers(view.properties),
        expiration: view.encoding.property(view.properties, b"expiration"),
    }
}

/// Queue options with a home.
fn at_home(shard: u8) -> QueueOptions {
    QueueOptions { home: Some(shard), ..QueueOptions::default() }
}
