//! Two transports that talk to each other, and what a test needs to drive them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fulmar_transport::{CloseReason, Config, ConnId, Detached, Event, FileDone, ListenerId, Transport, Wait};

/// Where a case runs: makes transports that can reach each other, and lets time pass.
pub trait World: Sized {
    type T: Transport;
    /// `None` if this machine refuses it; says so.
    fn new(server: Config, client: Config) -> Option<Self>;
    fn sides(&mut self) -> (&mut Side<Self::T>, &mut Side<Self::T>);
    /// Lets what is on its way arrive.
    fn advance(&mut self);
    /// Runs a case as often as it makes sense here.
    fn repeat(case: fn()) {
        case();
    }
    /// Where the server listens.
    fn address(&self) -> SocketAddr;
    /// An empty directory of its own, the same each time.
    fn directory(&mut self) -> PathBuf;
}

/// One transport and what it has told.
pub struct Side<T> {
    pub transport: T,
    events: Vec<Event>,
    pub accepted: Vec<ConnId>,
    pub connected: Vec<ConnId>,
    pub received: HashMap<ConnId, Vec<u8>>,
    /// Bytes handed out by the latest turn.
    pub last_turn: HashMap<ConnId, usize>,
    pub drained: HashMap<ConnId, usize>,
    pub closed: HashMap<ConnId, Vec<CloseReason>>,
    /// Connections that have left; those that were adopted since are `None`.
    pub detached: HashMap<ConnId, Option<Detached>>,
    pub woken: usize,
    /// Whether received buffers are given back at once.
    pub keep_buffers: bool,
    pub kept: Vec<fulmar_transport::RecvBuf>,
    pub echo: bool,
    /// Operations on files that have ended, by their tokens.
    pub files: HashMap<u64, FileDone>,
    pub files_in_order: Vec<u64>,
}

impl<T: Transport> Side<T> {
    pub fn new(transport: T) -> Self {
        Side {
            transport,
            events: Vec::new(),
            accepted: Vec::new(),
            connected: Vec::new(),
            received: HashMap::new(),
            last_turn: HashMap::new(),
            drained: HashMap::new(),
            closed: HashMap::new(),
            detached: HashMap::new(),
            woken: 0,
            keep_buffers: false,
            kept: Vec::new(),
            echo: false,
            files: HashMap::new(),
            files_in_order: Vec::new(),
        }
    }

    /// One turn and the bookkeeping for it, checking what every transport promises.
    pub fn turn(&mut self, wait: Wait) {
        self.transport.flush();
        self.transport.turn(wait, &mut self.events).expect("a turn");
        self.last_turn.clear();
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Accepted { conn, .. } => self.accepted.push(conn),
                Event::Connected { conn } => self.connected.push(conn),
                Event::Received { conn, buf } => {
                    assert!(!self.closed.contains_key(&conn), "bytes after the end");
                    assert!(!self.detached.contains_key(&conn), "bytes of a connection that has left");
                    assert!(buf.len > 0, "an empty buffer");
                    let bytes = self.transport.bytes(&buf).to_vec();
                    *self.last_turn.entry(conn).or_default() += bytes.len();
                    if self.echo
                        && let Some(output) = self.transport.output(conn)
                    {
                        output.extend_from_slice(&bytes);
                    }
                    self.received.entry(conn).or_default().extend_from_slice(&bytes);
                    if self.keep_buffers {
                        self.kept.push(buf);
                    } else {
                        self.transport.recycle(buf);
                    }
                }
                Event::Drained { conn } => *self.drained.entry(conn).or_default() += 1,
                Event::Closed { conn, reason } => self.closed.entry(conn).or_default().push(reason),
                Event::Detached { conn, detached } => {
                    assert!(!self.closed.contains_key(&conn), "it has left after its end");
                    assert!(self.detached.insert(conn, Some(*detached)).is_none(), "it has left twice");
                }
                Event::File(done) => {
                    self.files_in_order.push(done.token);
                    assert!(self.files.insert(done.token, done).is_none(), "an operation ended twice");
                }
                Event::Woken => self.woken += 1,
                Event::Ready => {}
            }
        }
        for (conn, reasons) in &self.closed {
            assert_eq!(reasons.len(), 1, "{conn:?} closed more than once");
            assert!(!self.detached.contains_key(conn), "{conn:?} closed after it had left");
        }
    }

    pub fn write(&mut self, conn: ConnId, bytes: &[u8]) {
        self.transport.output(conn).expect("an open connection").extend_from_slice(bytes);
    }

    pub fn received(&self, conn: ConnId) -> &[u8] {
        self.received.get(&conn).map_or(&[], |bytes| bytes)
    }

    pub fn received_len(&self, conn: ConnId) -> usize {
        self.received(conn).len()
    }

    pub fn is_closed(&self, conn: ConnId) -> bool {
        self.closed.contains_key(&conn)
    }

    pub fn reason(&self, conn: ConnId) -> &CloseReason {
        &self.closed[&conn][0]
    }
}

/// Turns both sides until `done`; fails after ten seconds.
pub fn until<W: World>(
    world: &mut W,
    what: &str,
    mut done: impl FnMut(&mut Side<W::T>, &mut Side<W::T>) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (server, client) = world.sides();
        server.turn(Wait::Poll);
        client.turn(Wait::Poll);
        if done(server, client) {
            return;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        world.advance();
    }
}

/// Turns both sides for a while, to see that nothing happens.
pub fn settle<W: World>(world: &mut W) {
    let turns = 300;
    for _ in 0..turns {
        let (server, client) = world.sides();
        server.turn(Wait::Poll);
        client.turn(Wait::Poll);
        world.advance();
    }
}

/// A listener on the server.
pub fn listen<W: World>(world: &mut W) -> (ListenerId, SocketAddr) {
    let address = world.address();
    world.sides().0.transport.listen(address, 1024).expect("listening")
}

/// A connection; its ids at the server and at the client.
pub fn connect<W: World>(world: &mut W, address: SocketAddr) -> (ConnId, ConnId) {
    let (server, client) = world.sides();
    let accepted_before = server.accepted.len();
    let conn = client.transport.connect(address).expect("connecting");
    until(world, "a connection", |server, client| {
        client.connected.contains(&conn) && server.accepted.len() > accepted_before
    });
    let (server, _) = world.sides();
    (*server.accepted.last().expect("accepted"), conn)
}

/// Bytes that differ everywhere.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Closing in order has to end by itself, not by running out of time.
pub fn patient() -> Config {
    Config { close_timeout_ms: 3_600_000, ..Config::default() }
}

pub fn tiny() -> Config {
    Config {
        recv_buffer_bytes: 512,
        recv_buffers: 4,
        turn_budget_bytes: 1024,
        high_water_bytes: 8 * 1024,
        low_water_bytes: 2 * 1024,
        ring_entries: 8,
        max_connections: 64,
        close_timeout_ms: 300,
    }
}
