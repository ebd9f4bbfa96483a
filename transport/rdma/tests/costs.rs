//! What messages cost, counted on the simulated device: posts, doorbells, completions, copies. `--nocapture` shows the
//! table that the book's page on native mode has.

use fulmar_rdma::sim::{SimDevice, SimFabric};
use fulmar_rdma::{MESSAGE_BYTES, SIGNAL_EVERY, Side};
use fulmar_transport::{Close, Config, ConnId, Event, RdmaCounts};

/// One end: its side, its connections, and the bytes that each has received.
struct End {
    side: Side<SimDevice>,
    conns: Vec<ConnId>,
    received: Vec<usize>,
}

impl End {
    fn new(fabric: &SimFabric) -> Self {
        let side = Side::new(fabric.device(), Config::default());
        End { side, conns: Vec::new(), received: Vec::new() }
    }

    fn turn(&mut self, now_ns: u64) {
        let mut events = Vec::new();
        self.side.begin(now_ns, &mut events);
        self.side.poll_events(&mut events);
        self.side.poll(&mut events);
        for event in events {
            match event {
                Event::Accepted { conn, .. } | Event::Connected { conn } => {
                    self.conns.push(conn);
                    self.received.push(0);
                }
                Event::Received { conn, buf } => {
                    let at = self.conns.iter().position(|known| *known == conn).expect("it is open");
                    self.received[at] += buf.len as usize;
                    self.side.recycle(buf);
                }
                Event::Closed { reason, .. } => panic!("a connection has ended: {reason:?}"),
                _ => {}
            }
        }
        self.side.flush();
    }

    fn write(&mut self, at: usize, bytes: usize) {
        let conn = self.conns[at];
        let out = self.side.output(conn).expect("it is open");
        out.resize(out.len() + bytes, 7);
    }
}

struct World {
    server: End,
    client: End,
    now_ns: u64,
}

impl World {
    fn new(connections: usize) -> Self {
        let fabric = SimFabric::new(1, 0);
        let (mut server, client) = (End::new(&fabric), End::new(&fabric));
        let (_, addr) = server.side.listen("10.8.0.1:5672".parse().unwrap(), 16).unwrap();
        let mut world = World { server, client, now_ns: 1 };
        for _ in 0..connections {
            world.client.side.connect(addr, world.now_ns).unwrap();
            (0..5).for_each(|_| world.step());
        }
        assert_eq!((world.server.conns.len(), world.client.conns.len()), (connections, connections));
        world
    }

    fn step(&mut self) {
        self.now_ns += 1_000;
        self.server.turn(self.now_ns);
        self.client.turn(self.now_ns);
    }

    /// What both ends have done, and how often both have rung a doorbell.
    fn counts(&self) -> [RdmaCounts; 2] {
        [self.client.side.counts(), self.server.side.counts()]
    }
}

/// The difference of counts, per message.
struct Cost {
    sends: f64,
    signaled: f64,
    send_doorbells: f64,
    receive_doorbells: f64,
    completions: f64,
    copied_bytes: f64,
}

impl Cost {
    fn between(before: [RdmaCounts; 2], after: [RdmaCounts; 2], messages: usize) -> Self {
        let sum = |of: fn(&RdmaCounts) -> u64| {
            let of = |counts: &[RdmaCounts; 2]| counts.iter().map(of).sum::<u64>();
            (of(&after) - of(&before)) as f64 / messages as f64
        };
        Cost {
            sends: sum(|counts| counts.sends),
            signaled: sum(|counts| counts.signaled),
            send_doorbells: sum(|counts| counts.send_posts),
            receive_doorbells: sum(|counts| counts.receive_posts),
            completions: sum(|counts| counts.completions),
            copied_bytes: sum(|counts| counts.copied_bytes),
        }
    }

    fn show(&self, what: &str, bytes: usize) {
        println!(
            "| {what} | {bytes} | {:.3} | {:.3} | {:.3} | {:.3} | {:.2} | {:.0} |",
            self.sends,
            self.signaled,
            self.send_doorbells,
            self.receive_doorbells,
            self.completions,
            self.copied_bytes
        );
    }
}

/// A flood from client to server, in batches of 16 messages.
fn flood(bytes: usize) -> Cost {
    let mut world = World::new(1);
    let messages = (4 << 20) / bytes.max(256);
    let before = world.counts();
    for at in 0..messages {
        world.client.write(0, bytes);
        let is_full = world.client.side.pending_bytes(world.client.conns[0]) > 16 * bytes;
        if at % 16 == 15 || is_full {
            for _ in 0..10_000 {
                world.step();
                if world.client.side.pending_bytes(world.client.conns[0]) == 0 {
                    break;
                }
            }
        }
    }
    (0..100).for_each(|_| world.step());
    assert_eq!(world.server.received[0], messages * bytes);
    Cost::between(before, world.counts(), messages)
}

/// A question and an answer, one after the other, on each of some connections in each turn.
fn questions(connections: usize, bytes: usize) -> Cost {
    let mut world = World::new(connections);
    let before = world.counts();
    let rounds = 320;
    for round in 1..=rounds {
        for at in 0..connections {
            world.client.write(at, bytes);
        }
        (0..4).for_each(|_| world.step());
        for at in 0..connections {
            assert_eq!(world.server.received[at], round * bytes);
            world.server.write(at, bytes);
        }
        (0..4).for_each(|_| world.step());
    }
    (0..10).for_each(|_| world.step());
    assert!(world.client.received.iter().all(|received| *received == rounds * bytes));
    Cost::between(before, world.counts(), 2 * rounds * connections)
}

#[test]
fn a_flood_costs_one_signalled_send_in_32_one_post_a_batch_and_no_copy_of_large_bodies() {
    for bytes in [100, 1000, 4096, 5000, 9000, 20_000, 65_536, 262_144] {
        let cost = flood(bytes);
        cost.show("flood", bytes);
        let most = 1.0 / f64::from(SIGNAL_EVERY) + 0.001;
        assert!(cost.signaled <= cost.sends * most + 0.001, "{} of {} signalled", cost.signaled, cost.sends);
        // A batch is what was written in a turn, or what there was credit for.
        let most = (cost.sends / 5.0).max(0.1);
        assert!(cost.send_doorbells <= most, "{} doorbells for {} sends", cost.send_doorbells, cost.sends);
        assert!(cost.receive_doorbells <= cost.sends / 8.0 + 0.01, "{} of receives", cost.receive_doorbells);
        let smallest = (bytes / MESSAGE_BYTES as usize).max(1) as f64;
        assert!(cost.completions <= 2.0 * smallest + 2.5, "{} completions", cost.completions);
        if bytes >= 4096 {
            assert_eq!(cost.copied_bytes, 0.0, "copies of {bytes} bytes");
        }
    }
}

#[test]
fn questions_and_answers_cost_one_post_each_and_few_of_receives() {
    for (connections, bytes) in [(1, 100), (1, 5000), (100, 100)] {
        let cost = questions(connections, bytes);
        cost.show(&format!("questions on {connections}"), bytes);
        assert!(cost.sends <= 1.1 && cost.send_doorbells <= 1.1, "{} doorbells", cost.send_doorbells);
        assert!(cost.receive_doorbells <= 0.2, "{} of receives", cost.receive_doorbells);
        assert!(cost.completions <= 1.15, "{} completions", cost.completions);
    }
}

#[test]
fn memory_is_what_is_promised_and_stays_for_the_next_connections() {
    let mut world = World::new(64);
    let each = world.server.side.counts().locked_bytes / 64;
    assert!(each <= 264 * 1024, "{each} bytes for an accepted connection");
    assert!(world.client.side.counts().locked_bytes / 64 <= 2 * 264 * 1024);
    let before = world.server.side.counts().locked_bytes;
    for at in 0..64 {
        world.client.write(at, 300_000);
    }
    (0..400).for_each(|_| world.step());
    assert_eq!(world.server.side.counts().locked_bytes, before, "a flood makes the receiver lock more");
    for conn in world.client.conns.clone() {
        world.client.side.close(conn, Close::Flush);
    }
    let mut events = Vec::new();
    for _ in 0..400 {
        world.now_ns += 1_000;
        for end in [&mut world.client, &mut world.server] {
            end.side.begin(world.now_ns, &mut events);
            end.side.poll_events(&mut events);
            end.side.poll(&mut events);
            for event in events.drain(..) {
                if let Event::Received { buf, .. } = event {
                    end.side.recycle(buf);
                }
            }
            end.side.flush();
        }
    }
    assert_eq!(world.server.side.connections() + world.client.side.connections(), 0);
    assert_eq!((world.server.side.units_in_use(), world.client.side.units_in_use()), (0, 0));
    assert!(world.server.side.counts().locked_bytes <= before);
}
