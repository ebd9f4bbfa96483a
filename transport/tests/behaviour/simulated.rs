//! The simulated network, over several seeds, and what only it can show.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fulmar_transport::sim::{DiskFaults, Faults, Network, SimClientState, SimTransport};
use fulmar_transport::{CloseReason, Config, Event, Transport, Wait};

use crate::world::{Side, World, pattern};

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Seeds that every case runs with.
const SEEDS: u64 = 8;
/// The clock goes at most so far at once.
const STEP_NS: u64 = 1_000_000;

/// Two transports on a network that cuts, delays and reorders what it may.
pub struct SimWorld {
    network: Network,
    server: Side<SimTransport>,
    client: Side<SimTransport>,
}

impl World for SimWorld {
    type T = SimTransport;

    fn new(server: Config, client: Config) -> Option<Self> {
        let network = Network::new(SEED.get(), Faults::default());
        network.disk().set_faults(DiskFaults::default());
        let (server, client) = (Side::new(network.transport(server)), Side::new(network.transport(client)));
        Some(SimWorld { network, server, client })
    }

    fn sides(&mut self) -> (&mut Side<SimTransport>, &mut Side<SimTransport>) {
        (&mut self.server, &mut self.client)
    }

    fn advance(&mut self) {
        let furthest = self.network.now_ns() + STEP_NS;
        self.network.advance_to(self.network.next_event_ns().unwrap_or(furthest).min(furthest));
    }

    fn repeat(case: fn()) {
        for seed in 0..SEEDS {
            eprintln!("seed {seed}");
            SEED.set(seed);
            case();
        }
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn directory(&mut self) -> PathBuf {
        self.network.disk().make_directory(Path::new("/data"));
        PathBuf::from("/data")
    }
}

/// A server that echoes, a client that says something and reads the echo. Gives everything that happened.
fn conversation(seed: u64, faults: Faults) -> Vec<String> {
    let network = Network::new(seed, faults);
    let mut server = network.transport(Config::default());
    let (_, address) = server.listen("127.0.0.1:5672".parse().unwrap(), 16).unwrap();
    let client = network.connect(address);
    let text = pattern(20_000);
    let (mut sent, mut echoed, mut log) = (0, Vec::new(), Vec::new());
    let mut events = Vec::new();
    while echoed.len() < text.len() && !matches!(client.state(), SimClientState::Broken(_)) {
        server.turn(Wait::Until(None), &mut events).unwrap();
        for event in events.drain(..) {
            log.push(format!("{} {event:?}", network.now_ns()));
            if let Event::Received { conn, buf } = event {
                let bytes = server.bytes(&buf).to_vec();
                if let Some(output) = server.output(conn) {
                    output.extend_from_slice(&bytes);
                }
                server.recycle(buf);
            }
        }
        server.flush();
        sent += client.send(&text[sent..]);
        echoed.extend(client.receive(usize::MAX));
        if network.advance().is_none() {
            break;
        }
    }
    if !matches!(client.state(), SimClientState::Broken(_)) {
        assert_eq!(echoed, text);
    }
    log.push(format!("{:?}", client.state()));
    log
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in 0..20 {
        let first = conversation(seed, Faults::default());
        assert_eq!(first, conversation(seed, Faults::default()));
        assert_ne!(first, conversation(seed + 1, Faults::default()));
    }
}

#[test]
fn streams_are_cut_down_to_single_bytes() {
    let log =
        conversation(3, Faults { cut_chance: 1_000_000, one_byte_chance: 1_000_000, ..Faults::default() });
    assert!(log.iter().any(|line| line.contains("len: 1 ")), "{log:?}");
}

#[test]
fn resets_happen_when_asked_for() {
    let broken = (0..50)
        .map(|seed| conversation(seed, Faults { reset_chance: 50_000, ..Faults::default() }))
        .filter(|log| log.last().is_some_and(|state| state.contains("Broken")))
        .count();
    assert!(broken > 5 && broken < 50, "{broken} of 50");
}

#[test]
fn nothing_to_come_is_told() {
    let network = Network::new(1, Faults::none());
    let mut server = network.transport(Config::default());
    assert_eq!(network.advance(), None);
    let mut events = Vec::new();
    server.turn(Wait::Until(Some(5_000_000_000)), &mut events).unwrap();
    assert_eq!(network.advance(), Some(5_000_000_000));
    assert_eq!(server.now_ns(), 5_000_000_000);
    server.turn(Wait::Until(None), &mut events).unwrap();
    assert_eq!(network.advance(), None);
    server.waker().wake();
    server.waker().wake();
    assert_eq!(network.advance(), Some(5_000_000_000));
    server.turn(Wait::Until(None), &mut events).unwrap();
    assert!(matches!(events[..], [Event::Woken]));
}

/// Turns the server until nothing more will happen; gives the reason of the only connection's end.
fn end_of_only_connection(network: &Network, server: &mut SimTransport) -> Option<CloseReason> {
    let (mut events, mut reason) = (Vec::new(), None);
    for _ in 0..1_000 {
        server.turn(Wait::Until(None), &mut events).unwrap();
        for event in events.drain(..) {
            match event {
                Event::Received { buf, .. } => server.recycle(buf),
                Event::Closed { reason: told, .. } => assert_eq!(reason.replace(told), None),
                _ => {}
            }
        }
        if network.advance().is_none() {
            return reason;
        }
    }
    panic!("it never ends");
}

#[test]
fn clients_end_as_sockets_do() {
    for seed in 0..20 {
        let network = Network::new(seed, Faults::default());
        let mut server = network.transport(Config::default());
        let (_, address) = server.listen("127.0.0.1:5672".parse().unwrap(), 16).unwrap();

        let client = network.connect(address);
        while client.state() == SimClientState::Connecting {
            network.advance().unwrap();
        }
        client.send(b"bye");
        client.finish();
        assert_eq!(end_of_only_connection(&network, &mut server), Some(CloseReason::Peer));
        assert_eq!(client.state(), SimClientState::Ended);
        client.close();

        let client = network.connect(address);
        while client.state() == SimClientState::Connecting {
            network.advance().unwrap();
        }
        client.reset();
        let reason = end_of_only_connection(&network, &mut server);
        assert_eq!(reason, Some(CloseReason::Error(libc::ECONNRESET)));

        let client = network.connect("127.0.0.1:1".parse().unwrap());
        while client.state() == SimClientState::Connecting {
            network.advance().unwrap();
        }
        assert_eq!(client.state(), SimClientState::Broken(libc::ECONNREFUSED));
        drop(client);
        assert_eq!((network.live_ends(), server.connections(), server.lent_buffers()), (0, 0, 0));
    }
}

#[test]
fn several_shards_share_an_address() {
    let network = Network::new(9, Faults::default());
    let address: SocketAddr = "127.0.0.1:5672".parse().unwrap();
    let mut shards: Vec<_> = (0..2).map(|_| network.transport(Config::default())).collect();
    for shard in &mut shards {
        shard.listen(address, 64).unwrap();
    }
    let clients: Vec<_> = (0..20).map(|_| network.connect(address)).collect();
    let mut events = Vec::new();
    while network.advance().is_some() {
        for shard in &mut shards {
            shard.turn(Wait::Until(None), &mut events).unwrap();
            events.clear();
        }
    }
    assert!(clients.iter().all(|client| client.state() == SimClientState::Open));
    assert!(shards.iter().all(|shard| shard.connections() > 2));
}

#[test]
fn a_reset_takes_unread_bytes_with_it_or_not() {
    for (loses, expected) in [(0, 5), (1_000_000, 0)] {
        let network = Network::new(1, Faults { reset_loses_chance: loses, ..Faults::none() });
        let mut server = network.transport(Config::default());
        let (_, address) = server.listen("127.0.0.1:5672".parse().unwrap(), 16).unwrap();
        let client = network.connect(address);
        while client.send(b"hello") == 0 {
            network.advance().unwrap();
        }
        client.reset();
        // The bytes and the reset arrive before the server takes its turn.
        while network.advance().is_some() {}
        let mut events = Vec::new();
        for _ in 0..3 {
            server.turn(Wait::Poll, &mut events).unwrap();
        }
        let received: u32 = events
            .iter()
            .map(|event| match event {
                Event::Received { buf, .. } => buf.len,
                _ => 0,
            })
            .sum();
        assert_eq!(received, expected);
        assert!(matches!(
            events.last(),
            Some(Event::Closed { reason: CloseReason::Error(libc::ECONNRESET), .. })
        ));
    }
}
