//! Connections that go from one transport to another.

use fulmar_transport::sim::Random;
use fulmar_transport::{Close, CloseReason, Config, ConnId, Detached, Transport, Wait};

use crate::cases::{fill, world};
use crate::world::{Side, World, connect, listen, patient, pattern, settle, tiny, until};

/// The end of a connection that moves: the transport where it is, and what it has received in all.
struct Mover {
    at_client: bool,
    conn: ConnId,
    received: Vec<u8>,
}

impl Mover {
    fn at_server(conn: ConnId) -> Self {
        Mover { at_client: false, conn, received: Vec::new() }
    }

    fn side<'w, W: World>(&self, world: &'w mut W) -> &'w mut Side<W::T> {
        let (server, client) = world.sides();
        if self.at_client { client } else { server }
    }

    /// What it has received now and before.
    fn everything<W: World>(&mut self, world: &mut W) -> &[u8] {
        let conn = self.conn;
        let received = self.side(world).received.remove(&conn).unwrap_or_default();
        self.received.extend_from_slice(&received);
        &self.received
    }

    fn leave<W: World>(&mut self, world: &mut W) -> Detached {
        let (conn, at_client) = (self.conn, self.at_client);
        self.side(world).transport.detach(conn);
        until(world, "it leaves", |server, client| {
            let side = if at_client { client } else { server };
            side.detached.contains_key(&conn)
        });
        self.everything(world);
        let detached = self.side(world).detached.get_mut(&conn).and_then(Option::take).expect("it has left");
        self.received.extend_from_slice(&detached.received);
        detached
    }

    /// To the other transport.
    fn go<W: World>(&mut self, world: &mut W) {
        let detached = self.leave(world);
        self.at_client = !self.at_client;
        self.conn = self.side(world).transport.adopt(detached).expect("there is room");
    }
}

pub fn moving_at_any_moment_loses_nothing<W: World>() {
    let mut world = world!(W, tiny(), tiny());
    let (_, address) = listen(&mut world);
    let (at_server, peer) = connect(&mut world, address);
    let mut mover = Mover::at_server(at_server);
    let (up, down) = (pattern(120_000), pattern(90_000));
    let mut random = Random::new(9);
    let (mut sent_up, mut sent_down, mut moves) = (0, 0, 0);
    while sent_up < up.len() || sent_down < down.len() {
        let most = if random.chance(200_000) { 20_000 } else { 300 };
        let len = random.below(most).min(up.len() - sent_up);
        world.sides().1.write(peer, &up[sent_up..sent_up + len]);
        sent_up += len;
        let len = random.below(most).min(down.len() - sent_down);
        let conn = mover.conn;
        mover.side(&mut world).write(conn, &down[sent_down..sent_down + len]);
        sent_down += len;
        for _ in 0..random.below(5) {
            let (server, client) = world.sides();
            server.turn(Wait::Poll);
            client.turn(Wait::Poll);
            world.advance();
        }
        if random.chance(600_000) {
            mover.go(&mut world);
            moves += 1;
        }
    }
    assert!(moves > 10, "{moves} moves");
    let (conn, at_client) = (mover.conn, mover.at_client);
    let missing = up.len() - mover.everything(&mut world).len();
    until(&mut world, "both directions", |server, client| {
        let side = if at_client { &*client } else { server };
        side.received_len(conn) == missing && client.received_len(peer) == down.len()
    });
    assert!(mover.everything(&mut world) == up);
    assert!(world.sides().1.received(peer) == down);
}

pub fn what_a_slow_peer_has_not_read_moves_along<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let (at_server, peer) = connect(&mut world, address);
    world.sides().1.transport.pause(peer);
    let written = fill(&mut world, at_server);
    let mut mover = Mover::at_server(at_server);
    // Which does not wait for the peer.
    mover.go(&mut world);
    let pending = world.sides().1.transport.pending_bytes(mover.conn);
    assert!(pending > 0, "nothing was left to be sent");
    world.sides().1.transport.resume(peer);
    until(&mut world, "everything", |_, client| client.received_len(peer) == written);
    let chunk = pattern(64 * 1024);
    let (_, client) = world.sides();
    assert!(client.received(peer).chunks(chunk.len()).all(|part| part == chunk));
    assert_eq!(client.drained.get(&mover.conn), Some(&1), "it was full, and told when there was room");
}

pub fn the_end_of_the_peer_is_seen_where_it_has_moved_to<W: World>() {
    for turns_before in [0, 1, 20] {
        let mut world = world!(W, patient(), patient());
        let (_, address) = listen(&mut world);
        let (at_server, peer) = connect(&mut world, address);
        let text = pattern(5_000);
        world.sides().0.transport.pause(at_server);
        world.sides().1.write(peer, &text);
        world.sides().1.turn(Wait::Poll);
        world.sides().1.transport.close(peer, Close::Flush);
        for _ in 0..turns_before {
            let (server, client) = world.sides();
            server.turn(Wait::Poll);
            client.turn(Wait::Poll);
            world.advance();
        }
        let mut mover = Mover::at_server(at_server);
        mover.go(&mut world);
        let conn = mover.conn;
        until(&mut world, "both ends", |_, client| client.is_closed(conn) && client.is_closed(peer));
        assert_eq!(*world.sides().1.reason(conn), CloseReason::Peer);
        assert!(mover.everything(&mut world) == text);
    }
}

pub fn a_connection_that_leaves_may_be_closed<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let (at_server, peer) = connect(&mut world, address);
    let server = world.sides().0;
    server.transport.detach(at_server);
    // Twice is once.
    server.transport.detach(at_server);
    assert!(server.transport.output(at_server).is_none(), "a connection that leaves takes output");
    server.transport.close(at_server, Close::Abort);
    until(&mut world, "both ends", |server, client| server.is_closed(at_server) && client.is_closed(peer));
    assert!(world.sides().0.detached.is_empty());
    // What nobody adopts is over for its peer.
    let (at_server, peer) = connect(&mut world, address);
    let mut mover = Mover::at_server(at_server);
    let detached = mover.leave(&mut world);
    world.sides().0.transport.close(at_server, Close::Abort);
    mover.conn = world.sides().0.transport.adopt(detached).expect("there is room");
    world.sides().0.transport.close(mover.conn, Close::Flush);
    until(&mut world, "both ends", |server, client| server.is_closed(mover.conn) && client.is_closed(peer));
}

pub fn who_cannot_leave_stays<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let conn = world.sides().1.transport.connect(address).expect("connecting");
    world.sides().1.transport.detach(conn);
    until(&mut world, "a connection", |server, client| {
        client.connected.contains(&conn) && !server.accepted.is_empty()
    });
    let at_server = world.sides().0.accepted[0];
    world.sides().0.transport.close(at_server, Close::Flush);
    world.sides().0.transport.detach(at_server);
    until(&mut world, "both ends", |server, client| server.is_closed(at_server) && client.is_closed(conn));
    world.sides().0.transport.detach(at_server);
    settle(&mut world);
    let (server, client) = world.sides();
    assert!(server.detached.is_empty() && client.detached.is_empty());
}

pub fn a_full_transport_adopts_nobody<W: World>() {
    let one = Config { max_connections: 1, ..Config::default() };
    let mut world = world!(W, Config::default(), one);
    let (_, address) = listen(&mut world);
    let (at_server, peer) = connect(&mut world, address);
    let detached = Mover::at_server(at_server).leave(&mut world);
    assert!(world.sides().1.transport.adopt(detached).is_err());
    until(&mut world, "the other end", |_, client| client.is_closed(peer));
}
