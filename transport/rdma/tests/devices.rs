//! What devices do to connections: several threads that share in them, removal, another address, queues that fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fulmar_rdma::sim::{SimDevice, SimFabric, SimFaults};
use fulmar_rdma::{Side, door};
use fulmar_transport::{Close, CloseReason, Config, ConnId, Event, Waker};

const ADDRESS: &str = "10.8.0.1:5672";

#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Waker for CountingWaker {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One end, and what it was told last.
struct End {
    side: Side<SimDevice>,
    waker: Arc<CountingWaker>,
    woken: usize,
    conns: Vec<ConnId>,
    closed: Vec<(ConnId, CloseReason)>,
    bytes: Vec<u8>,
}

impl End {
    fn new(fabric: &SimFabric) -> Self {
        let side = Side::new(fabric.device(), Config::default());
        let waker = Arc::default();
        End { side, waker, woken: 0, conns: Vec::new(), closed: Vec::new(), bytes: Vec::new() }
    }

    fn turn(&mut self, now_ns: u64) {
        let mut events = Vec::new();
        self.side.begin(now_ns, &mut events);
        let woken = self.waker.0.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.woken, woken) < woken {
            self.side.take_handed();
        }
        self.side.poll_events(&mut events);
        self.side.poll(&mut events);
        for event in events {
            match event {
                Event::Accepted { conn, .. } | Event::Connected { conn } => self.conns.push(conn),
                Event::Received { buf, .. } => {
                    self.bytes.extend_from_slice(self.side.bytes(&buf));
                    self.side.recycle(buf);
                }
                Event::Closed { conn, reason } => self.closed.push((conn, reason)),
                _ => {}
            }
        }
        self.side.flush();
    }

    fn is_empty(&mut self) -> bool {
        self.side.connections() == 0 && self.side.units_in_use() == 0 && self.side.device().endpoints() == 0
    }
}

struct World {
    fabric: SimFabric,
    servers: Vec<End>,
    client: End,
    now_ns: u64,
}

impl World {
    /// Of so many threads; the first listens.
    fn new(threads: usize) -> Self {
        let fabric = SimFabric::new(1, 100);
        let mut servers: Vec<End> = (0..threads).map(|_| End::new(&fabric)).collect();
        let client = End::new(&fabric);
        let (doors, inboxes): (Vec<_>, Vec<_>) = (0..threads).map(|_| door()).unzip();
        for (server, inbox) in servers.iter_mut().zip(inboxes) {
            server.side.open_inbox(inbox, server.waker.clone());
        }
        servers[0].side.spread_over(0, doors);
        servers[0].side.listen(address(), 16).unwrap();
        World { fabric, servers, client, now_ns: 1 }
    }

    fn run(&mut self, turns: usize) {
        for _ in 0..turns {
            self.now_ns += 1_000;
            self.servers.iter_mut().for_each(|server| server.turn(self.now_ns));
            self.client.turn(self.now_ns);
        }
    }

    fn connect(&mut self) -> ConnId {
        let before = self.client.conns.len();
        let conn = self.client.side.connect(address(), self.now_ns).unwrap();
        self.run(20);
        assert_eq!(self.client.conns.get(before), Some(&conn), "no connection");
        conn
    }

    fn close_reason(end: &End, conn: ConnId) -> Option<&CloseReason> {
        end.closed.iter().find(|(closed, _)| *closed == conn).map(|(_, reason)| reason)
    }
}

fn address() -> SocketAddr {
    ADDRESS.parse().unwrap()
}

#[test]
fn threads_take_turns_and_each_serves_its_own() {
    let mut world = World::new(3);
    let conns: Vec<ConnId> = (0..9).map(|_| world.connect()).collect();
    let counts: Vec<usize> = world.servers.iter().map(|server| server.conns.len()).collect();
    assert_eq!(counts, [3, 3, 3]);
    assert_eq!(world.servers[0].side.counts().handed_over, 6);
    for (at, conn) in conns.iter().enumerate() {
        world.client.side.output(*conn).unwrap().push(at as u8);
    }
    world.run(20);
    let mut heard: Vec<u8> = world.servers.iter().flat_map(|server| server.bytes.clone()).collect();
    heard.sort_unstable();
    assert_eq!(heard, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    for conn in conns {
        world.client.side.close(conn, Close::Flush);
    }
    world.run(50);
    assert!(world.client.is_empty() && world.servers.iter_mut().all(End::is_empty));
}

#[test]
fn whoever_is_handed_to_a_thread_that_ends_is_refused() {
    let mut world = World::new(2);
    world.connect();
    world.servers.truncate(1);
    let refused = world.client.side.connect(address(), world.now_ns).unwrap();
    world.run(20);
    let reason = World::close_reason(&world.client, refused);
    assert_eq!(reason, Some(&CloseReason::Error(libc::ECONNREFUSED)));
    // From then on the one that is left takes all.
    for _ in 0..4 {
        world.connect();
    }
    assert_eq!(world.servers[0].conns.len(), 5);
}

#[test]
fn a_client_that_goes_while_it_is_handed_over_leaves_nothing() {
    let mut world = World::new(2);
    world.connect();
    let conn = world.client.side.connect(address(), world.now_ns).unwrap();
    world.client.turn(world.now_ns);
    world.servers[0].turn(world.now_ns);
    world.client.side.close(conn, Close::Abort);
    world.client.turn(world.now_ns);
    world.client.turn(world.now_ns);
    world.run(20);
    assert!(world.servers[1].is_empty(), "the second thread has a connection of nobody");
    assert_eq!(world.servers[0].conns.len() + world.servers[1].conns.len(), 1);
}

#[test]
fn a_device_that_is_removed_ends_its_connections_and_another_is_listened_on() {
    let mut world = World::new(1);
    let conn = world.connect();
    world.fabric.remove(world.servers[0].side.device());
    world.run(20);
    let (at_server, reason) = &world.servers[0].closed[0];
    assert_eq!((*at_server, reason), (world.servers[0].conns[0], &CloseReason::Error(libc::ENODEV)));
    assert!(world.servers[0].is_empty());
    // The peer is not told; it finds out.
    assert_eq!(World::close_reason(&world.client, conn), None);
    world.client.side.output(conn).unwrap().extend_from_slice(b"hello");
    world.run(20);
    let reason = World::close_reason(&world.client, conn);
    assert_eq!(reason, Some(&CloseReason::Error(libc::ETIMEDOUT)));
    let early = world.client.side.connect(address(), world.now_ns).unwrap();
    world.run(20);
    assert!(World::close_reason(&world.client, early).is_some(), "nobody listens yet");
    assert!(world.servers[0].side.next_deadline_ns().is_some(), "nothing wakes it to listen again");
    world.now_ns += 1_000_000_000;
    world.run(1);
    world.connect();
}

#[test]
fn another_address_ends_connections_with_a_reason_and_tells_the_peer() {
    let mut world = World::new(1);
    let conn = world.connect();
    world.fabric.change_address(world.servers[0].side.device());
    world.run(20);
    assert_eq!(world.servers[0].closed[0].1, CloseReason::Error(libc::EADDRNOTAVAIL));
    assert_eq!(World::close_reason(&world.client, conn), Some(&CloseReason::Peer));
    assert!(world.servers[0].is_empty() && world.client.is_empty());
    world.connect();
}

#[test]
fn a_completion_queue_that_fails_takes_its_connections_along_and_no_others() {
    let mut world = World::new(1);
    let conns = [world.connect(), world.connect()];
    world.fabric.set_faults(SimFaults { overrun: 1_000_000, ..SimFaults::default() });
    world.client.side.output(conns[0]).unwrap().extend_from_slice(b"hello");
    world.run(3);
    world.fabric.set_faults(SimFaults::default());
    world.run(30);
    assert!(world.fabric.fault_counts().overrun >= 1);
    // Whichever end it was: both connections are gone at both ends, and nothing is left of them.
    for end in [&mut world.servers[0], &mut world.client] {
        assert_eq!(end.closed.len(), 2);
        assert!(end.is_empty());
    }
    let conn = world.connect();
    world.client.side.output(conn).unwrap().extend_from_slice(b"again");
    world.run(20);
    assert!(world.servers[0].bytes.ends_with(b"again"));
}

#[test]
fn every_fault_of_a_queue_ends_its_connection_at_both_ends() {
    let chance = 1_000_000;
    for (faults, error) in [
        (SimFaults { not_ready: chance, ..SimFaults::default() }, Some(libc::ETIMEDOUT)),
        (SimFaults { unanswered: chance, ..SimFaults::default() }, Some(libc::ETIMEDOUT)),
        (SimFaults { flushed: chance, ..SimFaults::default() }, None),
    ] {
        let mut world = World::new(1);
        let conn = world.connect();
        world.fabric.set_faults(faults);
        world.client.side.output(conn).unwrap().extend_from_slice(b"hello");
        world.run(40);
        let reason = World::close_reason(&world.client, conn).expect("it is over");
        match error {
            Some(error) => assert_eq!(*reason, CloseReason::Error(error)),
            None => assert!(matches!(reason, CloseReason::Error(libc::ECONNRESET) | CloseReason::Peer)),
        }
        assert_eq!(world.servers[0].closed.len(), 1);
        assert!(world.servers[0].is_empty() && world.client.is_empty());
    }
}

#[test]
fn a_peer_that_forgets_credit_is_waited_for_and_nobody_else() {
    let mut world = World::new(1);
    let (mute, other) = (world.connect(), world.connect());
    world.fabric.set_faults(SimFaults { lost_grant: 1_000_000, ..SimFaults::default() });
    let flood = vec![7; 2 << 20];
    world.client.side.output(mute).unwrap().extend_from_slice(&flood);
    world.run(400);
    assert!(world.client.side.pending_bytes(mute) > 0, "all credit is used up");
    assert!(world.client.side.counts().credit_stalls > 0);
    world.client.side.output(other).unwrap().extend_from_slice(b"hello");
    world.run(20);
    assert!(world.servers[0].bytes.ends_with(b"hello"));
    assert_eq!((world.client.closed.len(), world.servers[0].closed.len()), (0, 0));
    world.client.side.close(mute, Close::Abort);
    world.run(20);
    assert_eq!(world.servers[0].closed.len(), 1);
}
