//! TLS on a simulated network: a worker against rustls' own client.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, Sender, channel};

use fulmar_amqp_0_9_1::codec::PROTOCOL_HEADER;
use fulmar_tls::rustls::ClientConnection;
use fulmar_tls::rustls::pki_types::ServerName;
use fulmar_tls::{Acceptor, ClientOptions, Options, Trust, client_config};
use fulmar_transport::sim::{SimClient, SimClientState};

use super::super::tests::House;
use super::super::{Handshake, Handshaker, Note};
use super::*;

const SECOND_NS: u64 = 1_000_000_000;

fn house(require_encryption: bool) -> House {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), key.cert.pem() + &key.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let options = Options { certificates: vec![file.path().into()], ..Options::default() };
    let mut house = House::new(1 << 20);
    house.worker.config.tls = Some(std::sync::Arc::new(Acceptor::new(options).unwrap()));
    house.worker.config.require_encryption = require_encryption;
    house
}

struct TlsPeer {
    socket: SimClient,
    tls: ClientConnection,
    /// Everything that was on the wire towards the client.
    wire: Vec<u8>,
}

impl TlsPeer {
    fn connect(house: &mut House) -> Self {
        let trust = ClientOptions { trust: Trust::Anybody, ..ClientOptions::default() };
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(client_config(&trust).unwrap(), name).unwrap();
        let socket = house.network.connect(house.addr);
        house.pass(SECOND_NS / 100);
        TlsPeer { socket, tls, wire: Vec::new() }
    }

    /// Sends and receives for a while; what came, decrypted.
    fn exchange(&mut self, house: &mut House) -> Vec<u8> {
        let mut heard = Vec::new();
        for _ in 0..20 {
            let mut sent = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut sent).unwrap();
            }
            assert_eq!(self.socket.send(&sent), sent.len());
            house.pass(SECOND_NS / 100);
            let got = self.socket.receive(usize::MAX);
            self.wire.extend_from_slice(&got);
            let mut got = &got[..];
            while !got.is_empty() {
                self.tls.read_tls(&mut got).unwrap();
                self.tls.process_new_packets().unwrap();
                let _ = self.tls.reader().read_to_end(&mut heard);
            }
        }
        heard
    }
}

fn is_start(bytes: &[u8]) -> bool {
    bytes.starts_with(&[1, 0, 0]) && bytes.windows(9).any(|window| window == b"mechanism")
        || bytes.windows(5).any(|w| w == b"PLAIN")
}

#[test]
fn a_connection_within_tls_is_served_and_nothing_of_it_is_sent_in_plain() {
    for require_encryption in [false, true] {
        let mut house = house(require_encryption);
        let mut peer = TlsPeer::connect(&mut house);
        peer.tls.writer().write_all(&PROTOCOL_HEADER).unwrap();
        assert!(is_start(&peer.exchange(&mut house)));
        assert!(!is_start(&peer.wire));
        assert_eq!((house.counters.tls_handshakes.get(), house.counters.open.get()), (1, 1));
        peer.tls.send_close_notify();
        peer.exchange(&mut house);
        drop(peer);
        house.pass(SECOND_NS * 10);
        assert_eq!((house.counters.open.get(), house.counters.tls_failures.get()), (0, 0));
    }
}

#[test]
fn other_protocols_within_tls_are_told_what_is_spoken() {
    let mut house = house(false);
    let mut peer = TlsPeer::connect(&mut house);
    peer.tls.writer().write_all(b"AMQP\x00\x01\x00\x00").unwrap();
    assert_eq!(peer.exchange(&mut house), PROTOCOL_HEADER);
    assert_eq!(house.counters.refused_protocol.get(), 1);
}

#[test]
fn nothing_in_plain_is_taken_where_encryption_is_required() {
    let mut house = house(true);
    let plain = house.network.connect(house.addr);
    house.pass(SECOND_NS / 100);
    plain.send(&PROTOCOL_HEADER);
    house.pass(SECOND_NS / 10);
    assert_eq!(plain.receive(100), b"");
    assert_ne!(plain.state(), SimClientState::Open);
}

#[test]
fn a_handshake_that_does_not_end_is_dropped_in_time() {
    let mut house = house(false);
    let half = house.network.connect(house.addr);
    house.pass(SECOND_NS / 100);
    half.send(b"\x16\x03\x01\x01\x00\x01");
    for _ in 0..8 {
        house.pass(SECOND_NS);
        half.send(b"\0");
        assert_eq!(half.state(), SimClientState::Open);
    }
    house.pass(3 * SECOND_NS);
    assert_ne!(half.state(), SimClientState::Open);
    assert_eq!((house.counters.handshake_timeouts.get(), house.counters.tls_handshakes.get()), (1, 0));
}

#[test]
fn damaged_records_end_the_connection() {
    let mut house = house(false);
    let mut peer = TlsPeer::connect(&mut house);
    peer.tls.writer().write_all(&PROTOCOL_HEADER).unwrap();
    peer.exchange(&mut house);
    peer.socket.send(b"\x17\x03\x03\x00\x20damagedamagedamagedamagedamagedx");
    house.pass(SECOND_NS / 10);
    let alert = peer.socket.receive(usize::MAX);
    assert!(!alert.is_empty(), "the peer is told");
    house.pass(SECOND_NS / 10);
    assert_ne!(peer.socket.state(), SimClientState::Open);
    assert_eq!(house.counters.tls_failures.get(), 1);
}

/// Hands handshakes to the test.
struct Elsewhere(Sender<Handshake>);

impl Handshaker for Elsewhere {
    fn advance(&mut self, handshake: Handshake) -> Option<Handshake> {
        self.0.send(handshake).unwrap();
        None
    }
}

fn away(house: &mut House) -> Receiver<Handshake> {
    let (sender, away) = channel();
    house.worker.set_handshaker(Box::new(Elsewhere(sender)));
    away
}

fn come_back(house: &mut House, away: &Receiver<Handshake>) -> usize {
    let mut count = 0;
    while let Ok(mut handshake) = away.try_recv() {
        handshake.advance();
        house.notes.send(Note::Handshake(handshake)).unwrap();
        house.worker.transport().waker().wake();
        count += 1;
    }
    count
}

#[test]
fn handshakes_may_be_computed_elsewhere_and_take_their_time() {
    let mut house = house(false);
    let away = away(&mut house);
    let mut peer = TlsPeer::connect(&mut house);
    peer.tls.writer().write_all(&PROTOCOL_HEADER).unwrap();
    let mut heard = Vec::new();
    let mut trips = 0;
    for _ in 0..5 {
        heard.extend(peer.exchange(&mut house));
        trips += come_back(&mut house, &away);
    }
    heard.extend(peer.exchange(&mut house));
    assert_eq!(trips, 2, "once for what the client begins with, once for its end");
    assert!(is_start(&heard));
}

#[test]
fn a_handshake_that_comes_back_too_late_finds_nobody() {
    let mut house = house(false);
    let away = away(&mut house);
    let mut peer = TlsPeer::connect(&mut house);
    peer.exchange(&mut house);
    house.pass(11 * SECOND_NS);
    assert_ne!(peer.socket.state(), SimClientState::Open);
    let mut next = TlsPeer::connect(&mut house);
    next.exchange(&mut house);
    assert_eq!(come_back(&mut house, &away), 2);
    next.exchange(&mut house);
    assert_eq!(come_back(&mut house, &away), 1);
    next.exchange(&mut house);
    assert_eq!(house.counters.tls_handshakes.get(), 1);
}
