//! Connections over simulated devices: what arrives, what it costs, how it ends.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use fulmar_rdma::sim::{SimDevice, SimFabric};
use fulmar_rdma::{ACCEPT_CREDIT, DIRECT_BYTES, MESSAGE_BYTES, SIGNAL_EVERY, Side};
use fulmar_transport::sim::Random;
use fulmar_transport::{Close, CloseReason, Config, ConnId, Event};
use proptest::prelude::*;

/// One end, and what it was told.
struct End {
    side: Side<SimDevice>,
    accepted: Vec<ConnId>,
    connected: Vec<ConnId>,
    received: BTreeMap<(u32, u32), Vec<u8>>,
    closed: Vec<(ConnId, CloseReason)>,
    drained: usize,
}

impl End {
    fn new(fabric: &SimFabric, config: Config) -> Self {
        End {
            side: Side::new(fabric.device(), config),
            accepted: Vec::new(),
            connected: Vec::new(),
            received: BTreeMap::new(),
            closed: Vec::new(),
            drained: 0,
        }
    }

    /// What a shard's turn does.
    fn turn(&mut self, now_ns: u64) -> bool {
        let mut events = Vec::new();
        self.side.begin(now_ns, &mut events);
        self.side.poll(&mut events);
        self.side.poll_events(&mut events);
        let happened = !events.is_empty();
        for event in events {
            match event {
                Event::Accepted { conn, .. } => self.accepted.push(conn),
                Event::Connected { conn } => self.connected.push(conn),
                Event::Received { conn, buf } => {
                    assert!(!self.is_closed(conn), "bytes after the end");
                    let bytes = self.side.bytes(&buf).to_vec();
                    self.received.entry((conn.index, conn.generation)).or_default().extend(bytes);
                    self.side.recycle(buf);
                }
                Event::Drained { .. } => self.drained += 1,
                Event::Closed { conn, reason } => {
                    assert!(!self.is_closed(conn), "closed twice");
                    self.closed.push((conn, reason));
                }
                event => panic!("{event:?}"),
            }
        }
        self.side.flush();
        happened || self.side.has_work()
    }

    fn is_closed(&self, conn: ConnId) -> bool {
        self.closed.iter().any(|(closed, _)| *closed == conn)
    }

    fn reason(&self, conn: ConnId) -> &CloseReason {
        &self.closed.iter().find(|(closed, _)| *closed == conn).expect("it is closed").1
    }

    fn bytes_of(&self, conn: ConnId) -> &[u8] {
        self.received.get(&(conn.index, conn.generation)).map_or(&[], Vec::as_slice)
    }

    fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        self.side.output(conn).expect("it is open").extend_from_slice(bytes);
    }
}

struct World {
    fabric: SimFabric,
    server: End,
    client: End,
    addr: SocketAddr,
    now_ns: u64,
}

impl World {
    fn new(seed: u64, hold: usize) -> Self {
        World::with(seed, hold, Config::default())
    }

    fn with(seed: u64, hold: usize, config: Config) -> Self {
        let fabric = SimFabric::new(seed, hold);
        let mut server = End::new(&fabric, config.clone());
        let client = End::new(&fabric, config);
        let (_, addr) = server.side.listen("10.8.0.1:5672".parse().unwrap(), 16).unwrap();
        World { fabric, server, client, addr, now_ns: 1 }
    }

    fn step(&mut self) -> bool {
        self.now_ns += 1_000;
        let server = self.server.turn(self.now_ns);
        self.client.turn(self.now_ns) || server
    }

    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..200_000 {
            quiet = if self.step() { 0 } else { quiet + 1 };
            if quiet > 60 {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn connect(&mut self) -> (ConnId, ConnId) {
        let before = self.server.accepted.len();
        let at_client = self.client.side.connect(self.addr, self.now_ns).unwrap();
        for _ in 0..1_000 {
            self.step();
            if self.server.accepted.len() > before && self.client.connected.contains(&at_client) {
                return (self.server.accepted[before], at_client);
            }
        }
        panic!("no connection");
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 251) as u8).collect()
}

const HEADER: &[u8; 8] = b"AMQP\x01\x01\x00\x0a";

/// A header and frames of AMQP 0-10 with so many bytes of content each.
fn frames(contents: &[usize]) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    for content in contents {
        bytes.extend([0x0f, 0]);
        bytes.extend((*content as u16 + 12).to_be_bytes());
        bytes.extend(pattern(content + 8));
    }
    bytes
}

#[test]
fn bytes_go_both_ways_and_an_orderly_close_loses_nothing() {
    let mut world = World::new(1, 300);
    let (server, client) = world.connect();
    let (question, answer) = (pattern(300_000), pattern(70_001));
    world.client.write(client, &question);
    world.server.write(server, &answer);
    world.client.side.flush();
    world.server.side.flush();
    world.server.side.close(server, Close::Flush);
    assert!(world.server.side.output(server).is_none(), "a closing connection takes output");
    world.settle();
    assert_eq!(world.client.bytes_of(client), answer);
    assert_eq!(*world.server.reason(server), CloseReason::Local);
    assert_eq!(*world.client.reason(client), CloseReason::Peer);
    for end in [&mut world.server, &mut world.client] {
        assert_eq!((end.side.connections(), end.side.units_in_use()), (0, 0), "everything is given back");
        assert_eq!(end.side.device().endpoints(), 0);
    }
}

#[test]
fn everything_arrives_when_the_client_closes_too() {
    let mut world = World::new(2, 300);
    let (server, client) = world.connect();
    let question = pattern(300_000);
    world.client.write(client, &question);
    world.client.side.close(client, Close::Flush);
    world.settle();
    assert_eq!(world.server.bytes_of(server), question);
    assert_eq!(*world.server.reason(server), CloseReason::Peer);
}

#[test]
fn under_load_one_send_in_32_tells_its_end_and_a_batch_is_one_post() {
    for version in [None, Some(0), Some(1)] {
        let mut world = World::new(3, 0);
        if let Some(version) = version {
            world.client.side.offer_compatible(version);
        }
        let (server, client) = world.connect();
        let before = world.client.side.device().counts();
        let mut batches = 0;
        let mut expected = Vec::new();
        for batch in 0..500usize {
            // Twenty messages of this connection's own: too large for one another's company.
            let contents: Vec<usize> = (0..20).map(|at| 4200 + at + batch % 7).collect();
            let bytes = frames(&contents);
            let bytes = if batch == 0 { &bytes[..] } else { &bytes[8..] };
            expected.extend(bytes);
            world.client.write(client, bytes);
            let pending = world.client.side.pending_bytes(client);
            world.client.side.flush();
            batches += u64::from(world.client.side.pending_bytes(client) < pending);
            while world.client.side.pending_bytes(client) > 0 {
                world.now_ns += 1;
                world.server.turn(world.now_ns);
                let posts = world.client.side.device().counts().send_posts;
                world.client.turn(world.now_ns);
                batches += world.client.side.device().counts().send_posts - posts;
            }
        }
        world.settle();
        assert_eq!(world.server.bytes_of(server), expected);
        let after = world.client.side.device().counts();
        let (sends, signaled) = (after.sends - before.sends, after.signaled - before.signaled);
        let posts = after.send_posts - before.send_posts;
        assert!(sends >= 10_000 / 2, "{sends}");
        assert!(signaled <= sends / u64::from(SIGNAL_EVERY) + 1, "{signaled} of {sends} tell their end");
        assert!(posts <= batches + 32, "{posts} posts of {batches} batches");
        assert!(sends / posts >= 5, "{posts} posts of {sends} sends");
        assert_eq!(after.not_ready + world.server.side.device().counts().not_ready, 0);
    }
}

#[test]
fn many_small_messages_go_in_one() {
    let mut world = World::new(4, 0);
    world.client.side.offer_compatible(1);
    let (server, client) = world.connect();
    let before = world.client.side.device().counts();
    let bytes = frames(&[20; 250]);
    assert!(bytes.len() < MESSAGE_BYTES as usize);
    world.client.write(client, &bytes);
    world.client.side.flush();
    let after = world.client.side.device().counts();
    assert_eq!((after.sends - before.sends, after.send_posts - before.send_posts), (1, 1));
    world.settle();
    assert_eq!(world.server.bytes_of(server), bytes);
}

#[test]
fn small_messages_go_inline_and_large_ones_are_not_copied() {
    for version in [None, Some(0), Some(1)] {
        let mut world = World::new(5, 100);
        if let Some(version) = version {
            world.client.side.offer_compatible(version);
        }
        let (server, client) = world.connect();
        let mut expected = frames(&[]);
        world.client.write(client, &expected);
        world.settle();
        let counts = world.client.side.counts();
        assert!(counts.inline >= 1 && counts.copied_bytes == 0, "{counts:?}");
        for _ in 0..50 {
            let bytes = frames(&[DIRECT_BYTES - 12; 10]);
            expected.extend(&bytes[8..]);
            world.client.write(client, &bytes[8..]);
            world.settle();
        }
        let counts = world.client.side.counts();
        assert_eq!(counts.copied_bytes, 0);
        assert_eq!(counts.direct_bytes, expected.len() as u64 - 8);
        assert_eq!(world.server.bytes_of(server), expected);
        // Buffers keep their registrations: what is written again and again is registered once.
        let registrations = world.client.side.device().counts().registrations;
        assert!(registrations < 20, "{registrations} registrations");
    }
}

#[test]
fn a_slow_reader_holds_back_its_sender_and_nobody_else() {
    let mut world = World::new(6, 100);
    let (slow_server, slow_client) = world.connect();
    let (server, client) = world.connect();
    world.server.side.pause(slow_server);
    let flood = pattern(4 << 20);
    world.client.write(slow_client, &flood);
    world.settle();
    assert_eq!(world.server.bytes_of(slow_server), b"");
    let bound = usize::from(ACCEPT_CREDIT) * MESSAGE_BYTES as usize;
    assert!(world.client.side.pending_bytes(slow_client) >= flood.len() - bound);
    world.client.write(client, b"hello");
    world.settle();
    assert_eq!(world.server.bytes_of(server), b"hello");
    assert_eq!(world.client.drained, 0);
    world.server.side.resume(slow_server);
    world.settle();
    assert_eq!(world.server.bytes_of(slow_server), flood);
    assert_eq!(world.client.drained, 1, "told once that there is room again");
    assert_eq!(world.client.side.device().counts().not_ready, 0, "credit is never more than there is room");
}

#[test]
fn what_was_received_before_the_end_is_handed_out_after_a_pause() {
    let mut world = World::new(7, 0);
    let (server, client) = world.connect();
    world.server.side.pause(server);
    world.client.write(client, b"last words");
    world.client.side.close(client, Close::Flush);
    world.settle();
    assert!(world.client.is_closed(client) && !world.server.is_closed(server));
    world.server.side.resume(server);
    world.settle();
    assert_eq!(world.server.bytes_of(server), b"last words");
    assert_eq!(*world.server.reason(server), CloseReason::Peer);
}

#[test]
fn a_peer_that_vanishes_is_noticed_by_what_is_sent_to_it() {
    let mut world = World::new(8, 0);
    let (server, _) = world.connect();
    world.settle();
    world.fabric.cut(world.client.side.device());
    world.settle();
    assert!(!world.server.is_closed(server), "nothing tells of a peer that vanishes");
    world.server.write(server, b"are you there");
    world.settle();
    assert_eq!(*world.server.reason(server), CloseReason::Error(libc::ETIMEDOUT));
    assert_eq!((world.server.side.connections(), world.server.side.units_in_use()), (0, 0));
}

#[test]
fn closing_ends_though_the_peer_never_reads() {
    let config = Config { close_timeout_ms: 200, ..Config::default() };
    let mut world = World::with(9, 0, config);
    let (server, client) = world.connect();
    world.client.side.pause(client);
    world.server.write(server, &pattern(8 << 20));
    world.server.side.close(server, Close::Flush);
    world.settle();
    assert!(!world.server.is_closed(server));
    world.now_ns += 201_000_000;
    world.settle();
    assert_eq!(*world.server.reason(server), CloseReason::Local);
}

#[test]
fn nobody_listens_and_too_many_connect() {
    let config = Config { max_connections: 2, ..Config::default() };
    let mut world = World::with(10, 0, config);
    let nowhere = world.client.side.connect("10.8.0.1:1".parse().unwrap(), world.now_ns).unwrap();
    world.settle();
    assert_eq!(*world.client.reason(nowhere), CloseReason::Error(libc::ECONNREFUSED));
    let mut others = End::new(&world.fabric, Config::default());
    world.connect();
    let (server, client) = world.connect();
    assert!(world.client.side.connect(world.addr, world.now_ns).is_err());
    let third = others.side.connect(world.addr, world.now_ns).unwrap();
    for _ in 0..20 {
        world.step();
        others.turn(world.now_ns);
    }
    assert_eq!(*others.reason(third), CloseReason::Error(libc::ECONNREFUSED));
    assert_eq!(others.side.refusal(), Some("there are too many connections"));
    assert_eq!(world.server.side.counts().refused, 1);
    world.client.side.close(client, Close::Abort);
    world.settle();
    assert!(world.server.is_closed(server));
    world.connect();
}

#[test]
fn a_frame_longer_than_a_message_ends_the_connection() {
    let mut world = World::new(11, 0);
    world.client.side.offer_compatible(1);
    let (server, client) = world.connect();
    assert_eq!(world.client.side.largest_frame_bytes(client), Some(MESSAGE_BYTES));
    assert_eq!(world.server.side.largest_frame_bytes(server), Some(MESSAGE_BYTES));
    world.client.write(client, &frames(&[MESSAGE_BYTES as usize]));
    world.settle();
    assert_eq!(*world.client.reason(client), CloseReason::Error(libc::EMSGSIZE));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Connections that come, talk and go in any way, over a fabric with any delays.
    #[test]
    fn whatever_happens_order_is_kept_and_everything_is_given_back(seed: u64, hold in 0..900usize) {
        let mut random = Random::new(seed);
        let config = Config { turn_budget_bytes: 20_000, ..Config::default() };
        let mut world = World::with(seed, hold, config);
        let mut pairs: Vec<(ConnId, ConnId)> = Vec::new();
        let mut written: BTreeMap<(bool, u32, u32), Vec<u8>> = BTreeMap::new();
        let mut in_order: Vec<(ConnId, ConnId)> = Vec::new();
        for _ in 0..random.within(20..=300) {
            match random.below(12) {
                0 if pairs.len() < 5 => {
                    if random.chance(500_000) {
                        world.client.side.offer_compatible(random.below(2) as u16);
                    }
                    let pair = world.connect();
                    for (is_server, conn) in [(true, pair.0), (false, pair.1)] {
                        // The client's header comes first, so that both know the framing.
                        let bytes = if is_server { Vec::new() } else { frames(&[]) };
                        let end = if is_server { &mut world.server } else { &mut world.client };
                        end.write(conn, &bytes);
                        written.insert((is_server, conn.index, conn.generation), bytes);
                    }
                    world.settle();
                    pairs.push(pair);
                }
                1 if !pairs.is_empty() => {
                    let pair = pairs.swap_remove(random.below(pairs.len()));
                    let how = if random.chance(700_000) { Close::Flush } else { Close::Abort };
                    world.client.side.resume(pair.1);
                    world.server.side.resume(pair.0);
                    world.client.side.close(pair.1, how);
                    if how == Close::Flush {
                        in_order.push(pair);
                    }
                }
                2 if !pairs.is_empty() => world.server.side.pause(pairs[random.below(pairs.len())].0),
                3 if !pairs.is_empty() => world.server.side.resume(pairs[random.below(pairs.len())].0),
                4..=8 if !pairs.is_empty() => {
                    let pair = pairs[random.below(pairs.len())];
                    let is_server = random.chance(500_000);
                    let (end, conn) = if is_server { (&mut world.server, pair.0) } else { (&mut world.client, pair.1) };
                    let contents: Vec<usize> = (0..random.below(12)).map(|_| random.below(8180)).collect();
                    let bytes = &frames(&contents)[8..];
                    end.write(conn, bytes);
                    written.get_mut(&(is_server, conn.index, conn.generation)).unwrap().extend(bytes);
                }
                _ => { world.step(); }
            }
        }
        for pair in &pairs {
            world.server.side.resume(pair.0);
        }
        world.settle();
        for (server, client) in pairs.iter().chain(&in_order) {
            let sent = &written[&(false, client.index, client.generation)];
            prop_assert!(world.server.bytes_of(*server) == sent.as_slice(), "the client's bytes");
        }
        for (server, client) in &pairs {
            let sent = &written[&(true, server.index, server.generation)];
            prop_assert!(world.client.bytes_of(*client) == sent.as_slice(), "the server's bytes");
            world.server.side.close(*server, Close::Flush);
        }
        world.settle();
        for end in [&mut world.server, &mut world.client] {
            prop_assert_eq!((end.side.connections(), end.side.units_in_use()), (0, 0));
            prop_assert_eq!(end.side.device().endpoints(), 0);
            prop_assert_eq!(end.side.device().counts().not_ready, 0);
        }
    }
}
