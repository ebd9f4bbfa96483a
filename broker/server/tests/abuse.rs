//! Clients that mean no good, or have a fault: they are dropped in time, cost little, and keep nobody else out.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::certificates::Office;
use common::{Client, PATIENCE, eventually, start_ok};
use fulmar_amqp_0_9_1::codec::{Method, PROTOCOL_HEADER};
use fulmar_server::broker::Running;
use fulmar_server::settings::Settings;
use fulmar_tls::client_config;
use fulmar_tls::rustls::ClientConnection;
use fulmar_tls::rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};

const AMQP_0_10: &[u8] = b"AMQP\x01\x01\x00\x0a";
/// How many of each kind there are.
const CROWD: usize = 40;
/// What they have to finish their handshake within.
const TIME: Duration = Duration::from_millis(800);

/// Runs a test against a broker with TLS on every kind of reactor.
fn with_brokers(test: impl Fn(&Running, &Office)) {
    let office = Office::new("issuer");
    for (io, shards) in common::kinds().into_iter().filter(|(_, shards)| *shards == 2) {
        let broker = common::start(io, shards, |settings: &mut Settings| {
            settings.tls = office.broker();
            settings.handshake_timeout_ms = TIME.as_millis() as u64;
        });
        test(&broker, &office);
        broker.stop(PATIENCE).expect("the broker stops");
    }
}

/// A connection from another address of this host, non-blocking.
fn from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// What a client of TLS begins with.
fn hello(office: &Office) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = ClientConnection::new(client_config(&office.client()).unwrap(), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello
}

/// Whether the broker has ended a connection; what it says before is not looked at.
fn has_ended(mut socket: &TcpStream) -> bool {
    let mut heard = [0; 4096];
    loop {
        match socket.read(&mut heard) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Each connection sends its bytes one by one until the broker ends it, which it has to do in time; others come in meanwhile.
fn send_slowly(broker: &Running, to: SocketAddr, bytes: &[u8]) {
    let begun = Instant::now();
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|n| from(Ipv4Addr::new(127, 1, 1, n as u8), to)).collect();
    for byte in bytes {
        if crowd.is_empty() || begun.elapsed() > PATIENCE {
            break;
        }
        crowd.retain(|mut socket| !has_ended(socket) && socket.write(&[*byte]).is_ok());
        drop(Client::open(broker.addr()));
        std::thread::sleep(Duration::from_millis(40));
    }
    assert!(begun.elapsed() >= TIME, "they had less time than they have");
    eventually("all are dropped", || {
        crowd.retain(|socket| !has_ended(socket));
        crowd.is_empty()
    });
}

#[test]
fn who_sends_byte_by_byte_is_dropped_in_time() {
    with_brokers(|broker, office| {
        let login = [&PROTOCOL_HEADER[..], &start_ok("guest", "guest")].concat();
        send_slowly(broker, broker.addr(), &login);
        send_slowly(broker, broker.tls_addresses()[0], &hello(office));
    });
}

#[test]
fn who_stops_in_the_middle_of_a_handshake_is_dropped_in_time() {
    with_brokers(|broker, office| {
        let hello = hello(office);
        let halves = [&hello[..], &hello[..60], &hello[..1], &[]];
        let mut crowd: Vec<TcpStream> = (0..CROWD)
            .map(|n| {
                let mut socket = from(Ipv4Addr::new(127, 1, 2, n as u8), broker.tls_addresses()[0]);
                socket.write_all(halves[n % halves.len()]).unwrap();
                socket
            })
            .collect();
        drop(Client::open(broker.addr()));
        eventually("all are dropped", || {
            crowd.retain(|socket| !has_ended(socket));
            crowd.is_empty()
        });
        assert_eq!(broker.stats().handshake_timeouts, CROWD as u64);
        eventually("nothing of them is left", || broker.stats().open == 0);
    });
}

#[test]
fn who_says_nothing_within_tls_is_dropped_in_time() {
    with_brokers(|broker, office| {
        let config = client_config(&office.client()).unwrap();
        let connect = |_| {
            let mut socket = TcpStream::connect(broker.tls_addresses()[0]).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut tls = ClientConnection::new(Arc::clone(&config), name).unwrap();
            while tls.is_handshaking() {
                tls.complete_io(&mut socket).unwrap();
            }
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let mut crowd: Vec<TcpStream> = (0..CROWD).map(connect).collect();
        eventually("all are dropped", || {
            crowd.retain(|socket| !has_ended(socket));
            crowd.is_empty()
        });
        let stats = broker.stats();
        assert_eq!((stats.tls_handshakes, stats.handshake_timeouts), (CROWD as u64, CROWD as u64));
    });
}

/// How many bytes of an endless stream the broker takes before it ends the connection.
fn bytes_taken(to: SocketAddr, begin: &[u8], again: &[u8]) -> usize {
    let mut client = Client::raw(to);
    client.send_bytes(begin);
    let mut taken = begin.len();
    while taken < 64 << 20 {
        match client.stream.write(again) {
            Ok(count) => taken += count,
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "the broker neither reads nor ends");
                return taken;
            }
        }
    }
    taken
}

#[test]
fn frames_before_a_login_are_small() {
    /// What sockets hold on both sides, and no more.
    const MOST: usize = 12 << 20;
    with_brokers(|broker, office| {
        // AMQP 0-9-1: a method's frame of 2 GiB, and one that a login could do without.
        for size in [0x7fff_ffff, 100_000] {
            let mut begin = PROTOCOL_HEADER.to_vec();
            begin.extend([1, 0, 0]);
            begin.extend(u32::to_be_bytes(size));
            assert!(bytes_taken(broker.addr(), &begin, &[0; 1 << 16]) < MOST, "{size}");
        }
        // AMQP 0-10: a control whose frames have no end; flags, type, size, track and channel.
        let mut frame = vec![0b1000, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        frame.resize(0xffff, 0);
        assert!(bytes_taken(broker.addr(), &[AMQP_0_10, &frame].concat(), &frame) < MOST);
        // TLS: what is no record, and a first message whose records have no end.
        let tls = broker.tls_addresses()[0];
        assert!(bytes_taken(tls, &[22, 3, 1, 0xff, 0xff], &[0; 1 << 16]) < MOST);
        let mut record = vec![22, 3, 1, 0x40, 0];
        record.resize(5 + 0x4000, 0);
        let mut first = record.clone();
        first[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        assert!(bytes_taken(tls, &first, &record) < MOST);
        assert!(bytes_taken(broker.addr(), &hello(office), &[0; 1 << 16]) < MOST);
        drop(Client::open(broker.addr()));
    });
}

/// Connections from many addresses that all have sent a wrong password, and do not wait for the answer.
fn guess(broker: &Running, addresses: u8, each: usize) -> Vec<TcpStream> {
    let guess = |n: usize| {
        let source = Ipv4Addr::new(127, 2, (n / 200) as u8, (n % usize::from(addresses)) as u8 + 1);
        let mut socket = from(source, broker.addr());
        let login = [&PROTOCOL_HEADER[..], &start_ok(&format!("user{n}"), "wrong")].concat();
        socket.write_all(&login).unwrap();
        socket
    };
    (0..usize::from(addresses) * each).map(guess).collect()
}

#[test]
fn who_guesses_is_slowed_and_others_come_in() {
    let broker = common::start(fulmar_transport::IoChoice::Auto, 2, |_| {});
    let crowd = guess(&broker, 1, 100);
    // Sooner than all the guesses could have been looked at.
    drop(Client::open(broker.addr()));
    assert!(broker.stats().refused_logins < 100, "every guess was looked at");
    drop(crowd);
    broker.stop(PATIENCE).expect("the broker stops");
}

#[test]
fn a_broker_stops_while_guesses_wait() {
    let broker = common::start(fulmar_transport::IoChoice::Auto, 2, |_| {});
    let crowd = guess(&broker, 200, 3);
    eventually("they are looked at", || broker.stats().refused_logins > 0);
    broker.stop(PATIENCE).expect("the broker stops");
    drop(crowd);
}

#[test]
fn a_refused_login_is_told_and_the_next_one_is_taken() {
    let broker = common::start(fulmar_transport::IoChoice::Auto, 1, |_| {});
    for _ in 0..3 {
        let Err((code, _)) = Client::login(broker.addr(), "guest", "wrong") else { panic!("it came in") };
        assert_eq!(code, 403);
    }
    let mut client = Client::login(broker.addr(), "guest", "guest").expect("guest may log in");
    client.send(1, &Method::ChannelOpen);
    assert_eq!(client.frame().method(), Method::ChannelOpenOk);
    broker.stop(PATIENCE).expect("the broker stops");
}
