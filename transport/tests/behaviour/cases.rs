//! What every transport does, whatever it stands on.

use fulmar_transport::sim::Random;
use fulmar_transport::{Close, CloseReason, Config, ConnId, Transport, Wait};

use crate::world::{Side, World, connect, listen, patient, pattern, settle, tiny, until};

macro_rules! world {
    ($W:ty) => {
        world!($W, Config::default(), Config::default())
    };
    ($W:ty, $server:expr, $client:expr) => {
        match <$W>::new($server, $client) {
            Some(world) => world,
            None => return,
        }
    };
}
pub(crate) use world;

pub fn echoes_what_arrives<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().0.echo = true;
    let text = pattern(10_000);
    world.sides().1.write(at_client, &text);
    until(&mut world, "the echo", |_, client| client.received_len(at_client) == text.len());
    let (server, client) = world.sides();
    assert_eq!(client.received(at_client), text);
    assert_eq!(server.received(at_server), text);
}

pub fn moves_much_both_ways_through_tiny_buffers<W: World>() {
    let mut world = world!(W, tiny(), tiny());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    let (up, down) = (pattern(300_000), pattern(200_001));
    let (server, client) = world.sides();
    client.write(at_client, &up);
    server.write(at_server, &down);
    until(&mut world, "both directions", |server, client| {
        server.received_len(at_server) == up.len() && client.received_len(at_client) == down.len()
    });
    let (server, client) = world.sides();
    assert_eq!(server.received(at_server), up);
    assert_eq!(client.received(at_client), down);
    assert_eq!(client.transport.pending_bytes(at_client), 0);
}

/// Writes until the kernel takes no more.
pub fn fill<W: World>(world: &mut W, conn: ConnId) -> usize {
    let chunk = pattern(64 * 1024);
    let mut written = 0;
    for _ in 0..2_000 {
        world.sides().0.write(conn, &chunk);
        written += chunk.len();
        for _ in 0..3 {
            let (server, client) = world.sides();
            server.turn(Wait::Poll);
            client.turn(Wait::Poll);
            world.advance();
        }
        if world.sides().0.transport.pending_bytes(conn) > 1 << 20 {
            return written;
        }
    }
    panic!("a reader that does not read took everything");
}

pub fn drained_is_told_once_a_slow_reader_caught_up<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().1.transport.pause(at_client);
    let written = fill(&mut world, at_server);
    assert_eq!(world.sides().0.drained.get(&at_server), None);
    world.sides().1.transport.resume(at_client);
    until(&mut world, "everything", |_, client| client.received_len(at_client) == written);
    let (server, client) = world.sides();
    assert_eq!(server.drained.get(&at_server), Some(&1));
    assert_eq!(server.transport.pending_bytes(at_server), 0);
    let chunk = pattern(64 * 1024);
    assert!(client.received(at_client).chunks(chunk.len()).all(|part| part == chunk));
}

pub fn a_flood_starves_nobody<W: World>() {
    let config = Config { turn_budget_bytes: 32 * 1024, ..Config::default() };
    let mut world = world!(W, config, Config::default());
    let (_, address) = listen(&mut world);
    let (flooded, flooding) = connect(&mut world, address);
    let (calm_server, calm_client) = connect(&mut world, address);
    let flood = pattern(8 << 20);
    world.sides().1.write(flooding, &flood);
    // The flood is under way.
    until(&mut world, "the flood", |server, _| server.received_len(flooded) > 1 << 20);
    world.sides().1.write(calm_client, b"hello");
    let mut worst = 0;
    until(&mut world, "the calm one", |server, _| {
        worst = worst.max(server.last_turn.get(&flooded).copied().unwrap_or(0));
        server.received_len(calm_server) == 5
    });
    assert!(world.sides().0.received_len(flooded) < flood.len(), "the calm one waited for the whole flood");
    until(&mut world, "the rest", |server, _| {
        worst = worst.max(server.last_turn.get(&flooded).copied().unwrap_or(0));
        server.received_len(flooded) == flood.len()
    });
    assert!(worst <= 32 * 1024, "{worst} bytes in one turn");
    assert_eq!(world.sides().0.received(flooded), flood);
}

pub fn a_flood_through_few_buffers_starves_nobody<W: World>() {
    let mut world = world!(W, tiny(), Config::default());
    let (_, address) = listen(&mut world);
    let (flooded, flooding) = connect(&mut world, address);
    let calm: Vec<_> = (0..6).map(|_| connect(&mut world, address)).collect();
    let flood = vec![7; 2 << 20];
    world.sides().1.write(flooding, &flood);
    until(&mut world, "the flood", |server, _| server.received_len(flooded) > 10_000);
    for (_, at_client) in &calm {
        world.sides().1.write(*at_client, b"hello");
    }
    until(&mut world, "the calm ones", |server, _| {
        calm.iter().all(|(conn, _)| server.received_len(*conn) == 5)
    });
    assert!(world.sides().0.received_len(flooded) < flood.len(), "the calm ones waited for the whole flood");
}

pub fn pause_stops_and_resume_goes_on_in_order<W: World>() {
    let mut world = world!(W, tiny(), Config::default());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    let (other_server, other_client) = connect(&mut world, address);
    let text = pattern(100_000);
    world.sides().1.write(at_client, &text);
    until(&mut world, "a beginning", |server, _| server.received_len(at_server) > 2_000);
    world.sides().0.transport.pause(at_server);
    let before = world.sides().0.received_len(at_server);
    settle(&mut world);
    assert_eq!(world.sides().0.received_len(at_server), before, "bytes of a paused connection");
    // Whatever is kept for the paused one does not keep buffers from others.
    world.sides().1.write(other_client, &text);
    until(&mut world, "the other one", |server, _| server.received_len(other_server) == text.len());
    // Pausing twice and resuming many times is the same as once.
    world.sides().0.transport.pause(at_server);
    for _ in 0..5 {
        let server = &mut world.sides().0.transport;
        server.resume(at_server);
        server.pause(at_server);
        server.resume(at_server);
        let (server, client) = world.sides();
        server.turn(Wait::Poll);
        client.turn(Wait::Poll);
        world.advance();
        world.sides().0.transport.pause(at_server);
        settle(&mut world);
    }
    world.sides().0.transport.resume(at_server);
    until(&mut world, "the rest", |server, _| server.received_len(at_server) == text.len());
    assert_eq!(world.sides().0.received(at_server), text);
}

pub fn paused_connections_hold_no_buffers<W: World>() {
    let mut world = world!(W, tiny(), Config::default());
    let (_, address) = listen(&mut world);
    let floods: Vec<_> = (0..4).map(|_| connect(&mut world, address)).collect();
    let (calm_server, calm_client) = connect(&mut world, address);
    for (_, at_client) in &floods {
        world.sides().1.write(*at_client, &vec![7; 1 << 20]);
    }
    for (at_server, _) in &floods {
        let before = world.sides().0.received_len(*at_server);
        until(&mut world, "some of a flood", |server, _| server.received_len(*at_server) > before);
        world.sides().0.transport.pause(*at_server);
    }
    world.sides().1.write(calm_client, b"hello");
    until(&mut world, "the calm one", |server, _| server.received_len(calm_server) == 5);
}

pub fn pausing_and_resuming_at_any_moment_loses_nothing<W: World>() {
    let mut world = world!(W, tiny(), Config::default());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    let text = pattern(200_000);
    let mut random = Random::new(5);
    let (mut written, mut paused) = (0, false);
    while written < text.len() {
        // Now a few bytes, so that a connection is quiet most of the time, now many.
        let most = if random.chance(100_000) { 20_000 } else { 200 };
        let len = random.below(most).min(text.len() - written);
        world.sides().1.write(at_client, &text[written..written + len]);
        written += len;
        for _ in 0..random.below(6) {
            let (server, client) = world.sides();
            while random.chance(400_000) {
                paused = !paused;
                if paused { server.transport.pause(at_server) } else { server.transport.resume(at_server) }
            }
            server.turn(Wait::Poll);
            client.turn(Wait::Poll);
            assert!(!paused || server.last_turn.is_empty(), "bytes of a paused connection");
            world.advance();
        }
        if !paused && random.chance(300_000) {
            until(&mut world, "what was written", |server, _| server.received_len(at_server) == written);
        }
    }
    world.sides().0.transport.resume(at_server);
    until(&mut world, "everything", |server, _| server.received_len(at_server) == text.len());
    assert_eq!(world.sides().0.received(at_server), text);
}

pub fn a_flood_waits_in_the_kernel<W: World>() {
    let config = Config { recv_buffer_bytes: 64 * 1024, turn_budget_bytes: 1024, ..Config::default() };
    let mut world = world!(W, config, Config::default());
    let (_, address) = listen(&mut world);
    let (_, flooding) = connect(&mut world, address);
    world.sides().1.write(flooding, &vec![7; 64 << 20]);
    for _ in 0..60 {
        let (server, client) = world.sides();
        server.turn(Wait::Poll);
        client.turn(Wait::Poll);
        world.advance();
    }
    let left = world.sides().1.transport.pending_bytes(flooding);
    assert!(left > 32 << 20, "{} bytes were taken", (64 << 20) - left);
}

pub fn a_paused_flood_is_bounded<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().0.transport.pause(at_server);
    world.sides().1.write(at_client, &vec![7; 64 << 20]);
    settle(&mut world);
    let left = world.sides().1.transport.pending_bytes(at_client);
    assert!(left > 32 << 20, "a paused connection took {} bytes", (64 << 20) - left);
    assert_eq!(world.sides().0.received_len(at_server), 0);
}

pub fn closing_in_order_delivers_everything<W: World>() {
    let mut world = world!(W, patient(), patient());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    // The client has something under way too, which the server does not want any more.
    world.sides().1.write(at_client, &pattern(50_000));
    let text = pattern(3 << 20);
    let (server, _) = world.sides();
    server.write(at_server, &text);
    server.transport.close(at_server, Close::Flush);
    assert!(server.transport.output(at_server).is_none(), "a closing connection takes output");
    until(&mut world, "both ends", |server, client| {
        server.is_closed(at_server) && client.is_closed(at_client)
    });
    let (server, client) = world.sides();
    assert_eq!(client.received(at_client), text);
    assert_eq!(*server.reason(at_server), CloseReason::Local);
    assert_eq!(*client.reason(at_client), CloseReason::Peer);
    assert_eq!(server.received_len(at_server), 0);
}

pub fn closing_in_order_ends_though_the_peer_never_reads<W: World>() {
    let config = Config { close_timeout_ms: 200, ..Config::default() };
    let mut world = world!(W, config, Config::default());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().1.transport.pause(at_client);
    fill(&mut world, at_server);
    world.sides().0.transport.close(at_server, Close::Flush);
    until(&mut world, "the end", |server, _| server.is_closed(at_server));
    assert_eq!(*world.sides().0.reason(at_server), CloseReason::Local);
}

pub fn aborting_resets_the_peer<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().0.write(at_server, &pattern(100));
    world.sides().0.transport.close(at_server, Close::Abort);
    world.sides().0.transport.close(at_server, Close::Abort);
    world.sides().0.transport.close(at_server, Close::Flush);
    until(&mut world, "both ends", |server, client| {
        server.is_closed(at_server) && client.is_closed(at_client)
    });
    let (server, client) = world.sides();
    assert_eq!(*server.reason(at_server), CloseReason::Local);
    assert!(matches!(client.reason(at_client), CloseReason::Error(_)), "{:?}", client.reason(at_client));
}

pub fn aborting_ends_a_closing_that_hangs<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().1.transport.pause(at_client);
    fill(&mut world, at_server);
    world.sides().0.transport.close(at_server, Close::Flush);
    settle(&mut world);
    assert!(!world.sides().0.is_closed(at_server));
    world.sides().0.transport.close(at_server, Close::Abort);
    until(&mut world, "the end", |server, _| server.is_closed(at_server));
}

pub fn what_arrived_before_the_end_comes_first<W: World>() {
    let mut world = world!(W, patient(), patient());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    let text = pattern(1 << 20);
    world.sides().1.write(at_client, &text);
    world.sides().1.transport.close(at_client, Close::Flush);
    until(&mut world, "both ends", |server, client| {
        server.is_closed(at_server) && client.is_closed(at_client)
    });
    let (server, client) = world.sides();
    assert_eq!(server.received(at_server), text);
    assert_eq!(*server.reason(at_server), CloseReason::Peer);
    assert_eq!(*client.reason(at_client), CloseReason::Local);
}

pub fn the_last_words_of_a_peer_are_answered<W: World>() {
    let mut world = world!(W, patient(), patient());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().0.echo = true;
    world.sides().1.write(at_client, b"and goodbye");
    // Closing in order is a half-close until the server has ended too; the client does not want the answer any more,
    // but the server's send must not turn into an error.
    world.sides().1.transport.close(at_client, Close::Flush);
    until(&mut world, "both ends", |server, client| {
        server.is_closed(at_server) && client.is_closed(at_client)
    });
    assert_eq!(*world.sides().0.reason(at_server), CloseReason::Peer);
}

pub fn stale_ids_are_ignored<W: World>() {
    let mut world = world!(W, patient(), patient());
    let (_, address) = listen(&mut world);
    let (at_server, at_client) = connect(&mut world, address);
    world.sides().1.transport.close(at_client, Close::Flush);
    until(&mut world, "both ends", |server, client| {
        server.is_closed(at_server) && client.is_closed(at_client)
    });
    let (new_server, new_client) = connect(&mut world, address);
    assert_eq!(
        (new_server.index, new_client.index),
        (at_server.index, at_client.index),
        "slots are used again"
    );
    assert_ne!(new_server, at_server);
    let server = &mut world.sides().0.transport;
    assert!(server.output(at_server).is_none());
    assert_eq!(server.pending_bytes(at_server), 0);
    server.pause(at_server);
    server.close(at_server, Close::Abort);
    server.resume(at_server);
    world.sides().1.write(new_client, b"still here");
    until(&mut world, "the new one", |server, _| server.received_len(new_server) == 10);
    assert!(!world.sides().0.is_closed(new_server));
}

pub fn a_refused_connection_closes<W: World>() {
    let mut world = world!(W);
    let (listener, address) = listen(&mut world);
    settle(&mut world);
    world.sides().0.transport.unlisten(listener);
    settle(&mut world);
    let conn = world.sides().1.transport.connect(address).expect("a socket");
    until(&mut world, "the refusal", |_, client| client.is_closed(conn));
    assert!(matches!(world.sides().1.reason(conn), CloseReason::Error(_)));
    assert!(world.sides().0.accepted.is_empty());
}

pub fn a_connection_can_be_given_up_while_connecting<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let conn = world.sides().1.transport.connect(address).expect("a socket");
    world.sides().1.transport.close(conn, Close::Flush);
    until(&mut world, "the end", |_, client| client.is_closed(conn));
    assert_eq!(*world.sides().1.reason(conn), CloseReason::Local);
    settle(&mut world);
    assert!(world.sides().1.connected.is_empty());
}

pub fn output_written_while_connecting_is_sent<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let conn = world.sides().1.transport.connect(address).expect("a socket");
    world.sides().1.write(conn, b"early");
    until(&mut world, "the bytes", |server, _| {
        server.accepted.first().is_some_and(|conn| server.received_len(*conn) == 5)
    });
}

pub fn a_connection_can_be_paused_while_connecting<W: World>() {
    let mut world = world!(W);
    let (_, address) = listen(&mut world);
    let conn = world.sides().1.transport.connect(address).expect("a socket");
    world.sides().1.transport.pause(conn);
    until(&mut world, "the connection", |server, client| {
        server.accepted.len() == 1 && client.connected.contains(&conn)
    });
    let (server, _) = world.sides();
    server.write(server.accepted[0], b"hello");
    settle(&mut world);
    assert_eq!(world.sides().1.received_len(conn), 0);
    world.sides().1.transport.resume(conn);
    until(&mut world, "the bytes", |_, client| client.received_len(conn) == 5);
}

pub fn exhausted_buffers_come_back<W: World>() {
    let mut world = world!(W, tiny(), Config::default());
    let (_, address) = listen(&mut world);
    let pairs: Vec<_> = (0..10).map(|_| connect(&mut world, address)).collect();
    world.sides().0.keep_buffers = true;
    let text = pattern(5_000);
    for (_, at_client) in &pairs {
        world.sides().1.write(*at_client, &text);
    }
    settle(&mut world);
    let handed: usize = pairs.iter().map(|(at_server, _)| world.sides().0.received_len(*at_server)).sum();
    assert!(handed > 0 && handed <= 4 * 512, "{handed} bytes out of 4 buffers");
    let (server, _) = world.sides();
    server.keep_buffers = false;
    for buf in std::mem::take(&mut server.kept) {
        server.transport.recycle(buf);
    }
    until(&mut world, "all bytes", |server, _| {
        pairs.iter().all(|(conn, _)| server.received_len(*conn) == text.len())
    });
    for (at_server, _) in &pairs {
        assert_eq!(world.sides().0.received(*at_server), text);
    }
}

pub fn no_more_connections_than_allowed<W: World>() {
    let config = Config { max_connections: 3, ..Config::default() };
    let mut world = world!(W, config, Config::default());
    let (_, address) = listen(&mut world);
    let conns: Vec<_> =
        (0..5).map(|_| world.sides().1.transport.connect(address).expect("a socket")).collect();
    until(&mut world, "two refusals", |server, client| {
        server.accepted.len() == 3 && client.closed.len() == 2
    });
    let open: Vec<_> = conns.into_iter().filter(|conn| !world.sides().1.is_closed(*conn)).collect();
    world.sides().1.transport.close(open[0], Close::Abort);
    until(&mut world, "room", |server, _| server.closed.len() == 1);
    connect(&mut world, address);
}

/// Many connections that come and go, some in order and some not.
pub fn come_and_go<W: World>(cycles: usize) -> Option<W> {
    let mut world = W::new(Config::default(), Config::default())?;
    let (_, address) = listen(&mut world);
    let closed = |side: &Side<W::T>| side.closed.len();
    for cycle in 0..cycles {
        let client = &mut world.sides().1.transport;
        let conn = client.connect(address).expect("a socket");
        client.output(conn).expect("open").extend_from_slice(b"AMQP");
        let batch = (cycle + 1) % 20 == 0;
        if batch {
            until(&mut world, "connections", |server, client| {
                server.accepted.len() == cycle + 1 && client.connected.len() == cycle + 1
            });
            let open: Vec<_> = world.sides().1.connected[cycle + 1 - 20..].to_vec();
            for (at, conn) in open.into_iter().enumerate() {
                let how = if at % 2 == 0 { Close::Flush } else { Close::Abort };
                world.sides().1.transport.close(conn, how);
            }
            until(&mut world, "ends", |server, client| {
                closed(server) == cycle + 1 && closed(client) == cycle + 1
            });
        }
    }
    let (server, client) = world.sides();
    let highest = server.accepted.iter().chain(&client.connected).map(|conn| conn.index).max();
    assert!(highest < Some(64), "slots are not used again: {highest:?}");
    Some(world)
}
