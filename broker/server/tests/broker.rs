//! A broker in this process, met over sockets.

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::{Client, PATIENCE, eventually, publish, start, with_brokers};
use fulmar_amqp_0_9_1::codec::{Method, PROTOCOL_HEADER, TableRef, frame};
use fulmar_server::broker::{Broker, StartError};
use fulmar_server::settings::Settings;
use fulmar_transport::IoChoice;

#[test]
fn a_message_reaches_its_consumer() {
    with_brokers(|broker| {
        // Several of each, so that with two shards some are on each.
        for round in 0..8u8 {
            let queue = [b'q', b'0' + round];
            let mut consumer = Client::open(broker.addr());
            consumer.declare(&queue);
            consumer.consume(&queue);
            let mut publisher = Client::open(broker.addr());
            let large = vec![round; 300_000];
            publisher.publish(&queue, b"hello");
            publisher.publish(&queue, b"");
            publisher.publish(&queue, &large);
            assert_eq!(consumer.delivery(), (1, b"hello".to_vec()));
            assert_eq!(consumer.delivery(), (2, Vec::new()));
            assert_eq!(consumer.delivery(), (3, large));
        }
        let stats = broker.stats();
        assert_eq!((stats.accepted, stats.deliveries, stats.faults), (16, 24, 0));
        eventually("all are closed", || broker.stats().open == 0);
    });
}

#[test]
fn a_stream_keeps_its_order() {
    const COUNT: u32 = 20_000;
    with_brokers(|broker| {
        let mut consumer = Client::open(broker.addr());
        consumer.declare(b"stream");
        consumer.consume(b"stream");
        let addr = broker.addr();
        let publisher = std::thread::spawn(move || {
            let mut publisher = Client::open(addr);
            let mut out = Vec::new();
            for number in 0..COUNT {
                publish(b"stream", &number.to_be_bytes(), &mut out);
            }
            // Uneven pieces, so that frames are cut anywhere.
            out.chunks(7919).for_each(|piece| publisher.send_bytes(piece));
            publisher
        });
        for number in 0..COUNT {
            assert_eq!(consumer.delivery(), (u64::from(number) + 1, number.to_be_bytes().to_vec()));
        }
        publisher.join().unwrap();
    });
}

#[test]
fn messages_are_selected_by_their_bodies() {
    with_brokers(|broker| {
        let mut client = Client::open(broker.addr());
        client.declare(b"cheap");
        let declare = Method::ExchangeDeclare {
            exchange: b"orders",
            type_: b"xml",
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            no_wait: false,
            arguments: TableRef::default(),
        };
        client.send(1, &declare);
        assert_eq!(client.frame().method(), Method::ExchangeDeclareOk);
        let bind = |client: &mut Client, query: &str| {
            let length = (query.len() as u32).to_be_bytes();
            let entries = [&b"\x06xqueryS"[..], &length, query.as_bytes()].concat();
            let (queue, exchange, routing_key) = (&b"cheap"[..], &b"orders"[..], &b"order"[..]);
            let arguments = TableRef::new(&entries);
            client.send(1, &Method::QueueBind { queue, exchange, routing_key, no_wait: false, arguments });
        };
        bind(&mut client, "./order/price < 5");
        assert_eq!(client.frame().method(), Method::QueueBindOk);
        client.consume(b"cheap");
        for body in [&b"<order><price>9</price></order>"[..], b"none", b"<order><price>3</price></order>"] {
            let (exchange, routing_key) = (&b"orders"[..], &b"order"[..]);
            let publish = Method::BasicPublish { exchange, routing_key, mandatory: false, immediate: false };
            let mut out = Vec::new();
            publish.encode(1, &mut out);
            frame::encode_content(1, &[0, 0], body, 131_072, &mut out);
            client.send_bytes(&out);
        }
        assert_eq!(client.delivery(), (1, b"<order><price>3</price></order>".to_vec()));
        bind(&mut client, "./order/price <");
        let answer = client.frame();
        let Method::ChannelClose { reply_code, reply_text, .. } = answer.method() else {
            panic!("expected the channel to be closed: {:?}", answer.method());
        };
        let text = String::from_utf8_lossy(reply_text);
        assert!(reply_code == 406 && text.contains("line 1, column 16"), "{reply_code} {text}");
    });
}

#[test]
fn a_wrong_password_is_refused() {
    with_brokers(|broker| {
        let (code, text) = Client::login(broker.addr(), "guest", "wrong").err().expect("refused");
        assert_eq!(code, 403);
        assert!(text.starts_with("ACCESS_REFUSED"), "{text}");
        assert!(Client::login(broker.addr(), "nobody", "x").is_err());
        eventually("both are counted", || broker.stats().refused_logins == 2);
        Client::open(broker.addr());
    });
}

#[test]
fn other_protocols_are_answered_with_the_supported_header() {
    with_brokers(|broker| {
        for (greeting, answer) in [
            (&b"AMQP\x00\x01\x00\x00"[..], &PROTOCOL_HEADER[..]),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", &PROTOCOL_HEADER),
            (b"\x16\x03\x01\x02\x00\x01", b""),
            (b"CONNECT\nhost:/\n\n\0", b""),
        ] {
            let mut client = Client::raw(broker.addr());
            client.send_bytes(greeting);
            assert_eq!(client.rest(), answer, "{greeting:?}");
        }
        assert_eq!(broker.stats().refused_protocol, 4);
    });
}

#[test]
fn a_malformed_frame_ends_the_connection_with_a_reason() {
    with_brokers(|broker| {
        let mut client = Client::open(broker.addr());
        client.send_bytes(b"\x09\0\0\0\0\0\0\xce");
        let frame = client.frame();
        assert!(matches!(frame.method(), Method::ConnectionClose { reply_code: 501, .. }), "{frame:?}");
        client.send(0, &Method::ConnectionCloseOk);
        drop(client);
        eventually("it is closed and counted", || {
            let stats = broker.stats();
            stats.open == 0 && stats.faults == 1
        });
    });
}

#[test]
fn a_client_that_sends_a_byte_at_a_time_is_served() {
    with_brokers(|broker| {
        let mut client = Client::raw(broker.addr());
        let mut all = PROTOCOL_HEADER.to_vec();
        all.extend(common::start_ok("guest", "guest"));
        Method::ConnectionTuneOk { channel_max: 10, frame_max: 8192, heartbeat: 0 }.encode(0, &mut all);
        Method::ConnectionOpen { virtual_host: b"/" }.encode(0, &mut all);
        Method::ChannelOpen.encode(1, &mut all);
        common::declare(b"slow").encode(1, &mut all);
        common::consume(b"slow").encode(1, &mut all);
        publish(b"slow", b"one byte at a time", &mut all);
        for byte in all {
            client.send_bytes(&[byte]);
        }
        let methods: Vec<_> = (0..6).map(|_| client.frame().method().name()).collect();
        let expected = [
            "connection.start",
            "connection.tune",
            "connection.open-ok",
            "channel.open-ok",
            "queue.declare-ok",
            "basic.consume-ok",
        ];
        assert_eq!(methods, expected);
        assert_eq!(client.delivery().1, b"one byte at a time");
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    with_brokers(|broker| {
        let mut client = Client::open(broker.addr());
        let names: Vec<String> = (0..500).map(|number| format!("pipelined-{number}")).collect();
        let mut out = Vec::new();
        for name in &names {
            common::declare(name.as_bytes()).encode(1, &mut out);
        }
        client.send_bytes(&out);
        for name in &names {
            let frame = client.frame();
            let Method::QueueDeclareOk { queue, .. } = frame.method() else { panic!("{frame:?}") };
            assert_eq!(queue, name.as_bytes());
        }
    });
}

#[test]
fn a_client_that_never_reads_harms_nobody() {
    with_brokers(|broker| {
        let mut idle = Client::open(broker.addr());
        idle.declare(b"unread");
        idle.consume(b"unread");
        let mut other = Client::open(broker.addr());
        other.declare(b"read");
        other.consume(b"read");
        let mut publisher = Client::open(broker.addr());
        let body = vec![7; 64 * 1024];
        for _ in 0..500 {
            publisher.publish(b"unread", &body);
            publisher.publish(b"read", b"x");
        }
        for number in 1..=500 {
            assert_eq!(other.delivery(), (number, b"x".to_vec()));
        }
        // What was held back is still there, in order.
        for number in 1..=500 {
            let (tag, unread) = idle.delivery();
            assert_eq!((tag, unread.len()), (number, body.len()));
        }
    });
}

#[test]
fn a_client_that_only_writes_requests_is_no_longer_read() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let mut client = Client::open(broker.addr());
    client.declare(b"q");
    client.publish(b"q", &[0; 1000]);
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut requests = Vec::new();
    for _ in 0..1000 {
        common::declare(b"q").encode(1, &mut requests);
    }
    let started = Instant::now();
    let mut written = 0;
    while let Ok(count) = client.stream.write(&requests[written % requests.len()..]) {
        written += count;
        assert!(written < 256 << 20 && started.elapsed() < PATIENCE, "{written} bytes were taken");
    }
    drop(client);
    Client::open(broker.addr());
    broker.stop(PATIENCE).unwrap();
}

#[test]
fn thousands_of_connections_that_open_and_drop_leave_nothing_behind() {
    with_brokers(|broker| {
        for number in 0..2_000 {
            let mut client = Client::raw(broker.addr());
            match number % 4 {
                0 => {}
                1 => client.send_bytes(&PROTOCOL_HEADER[..4]),
                2 => client.send_bytes(&PROTOCOL_HEADER),
                _ => {
                    client.send_bytes(&PROTOCOL_HEADER);
                    client.send_bytes(&common::start_ok("guest", "guest"));
                }
            }
        }
        eventually("all are gone", || {
            let stats = broker.stats();
            stats.accepted == 2_000 && stats.open == 0
        });
        Client::open(broker.addr());
    });
}

#[test]
fn a_half_open_handshake_is_ended() {
    for (io, shards) in common::kinds() {
        let broker = start(io, shards, |settings| settings.handshake_timeout_ms = 100);
        let mut silent = Client::raw(broker.addr());
        let mut half = Client::raw(broker.addr());
        half.send_bytes(&PROTOCOL_HEADER);
        assert!(matches!(half.frame().method(), Method::ConnectionStart { .. }));
        assert_eq!(silent.rest(), b"");
        half.rest();
        drop((silent, half));
        assert_eq!(broker.stats().handshake_timeouts, 1);
        eventually("both are gone", || broker.stats().open == 0);
        broker.stop(PATIENCE).unwrap();
    }
}

#[test]
fn more_connections_than_allowed_are_refused() {
    let broker = start(IoChoice::Auto, 1, |settings| settings.max_connections = 3);
    let held: Vec<_> = (0..3).map(|_| Client::open(broker.addr())).collect();
    assert_eq!(Client::raw(broker.addr()).rest(), b"");
    eventually("it is counted", || broker.stats().refused_full == 1);
    drop(held);
    eventually("there is room again", || broker.stats().open == 0);
    Client::open(broker.addr());
    broker.stop(PATIENCE).unwrap();
}

#[test]
fn a_stop_tells_clients_and_finishes_what_was_accepted() {
    for (io, shards) in common::kinds() {
        let broker = start(io, shards, |_| {});
        let mut client = Client::open(broker.addr());
        let addr = broker.addr();
        let stopping = std::thread::spawn(move || broker.stop(PATIENCE));
        let frame = client.frame();
        let Method::ConnectionClose { reply_code, reply_text, .. } = frame.method() else {
            panic!("{frame:?}")
        };
        assert_eq!(reply_code, 320);
        assert_eq!(reply_text, b"CONNECTION_FORCED - broker shutting down");
        client.send(0, &Method::ConnectionCloseOk);
        assert_eq!(client.rest(), b"");
        drop(client);
        stopping.join().unwrap().expect("it stops in time");
        assert!(std::net::TcpStream::connect(addr).is_err(), "nobody listens any more");
    }
}

#[test]
fn a_stop_does_not_wait_for_clients_that_do_not_answer() {
    for (io, shards) in common::kinds() {
        let broker = start(io, shards, |_| {});
        let _silent = Client::open(broker.addr());
        let _mute = Client::raw(broker.addr());
        let started = Instant::now();
        broker.stop(Duration::from_millis(300)).unwrap();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

#[test]
fn two_brokers_do_not_share_a_port() {
    let first = start(IoChoice::Auto, 1, |_| {});
    let settings = Settings { listen: vec![first.addr()], ..Settings::in_process() };
    assert!(matches!(Broker::start(&settings), Err(StartError::Listen(addr, _)) if addr == first.addr()));
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = Settings { listen: vec![foreign.local_addr().unwrap()], ..Settings::in_process() };
    assert!(matches!(Broker::start(&settings), Err(StartError::Listen(..))));
    first.stop(PATIENCE).unwrap();
}

#[test]
fn it_listens_on_all_its_addresses() {
    let listen = vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()];
    let broker = start(IoChoice::Auto, 2, |settings| settings.listen = listen);
    assert_eq!(broker.addresses().len(), 2);
    for &addr in broker.addresses() {
        Client::open(addr);
    }
    broker.stop(PATIENCE).unwrap();
}

#[test]
fn publishers_wait_while_memory_is_short() {
    for (io, shards) in common::kinds() {
        let broker = start(io, shards, |settings| settings.memory_limit_bytes = 8 << 20);
        let mut publisher = Client::open(broker.addr());
        publisher.declare(b"full");
        publisher.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut batch = Vec::new();
        for _ in 0..16 {
            publish(b"full", &[1; 64 * 1024], &mut batch);
        }
        let mut written = 0;
        'full: loop {
            let mut at = 0;
            while at < batch.len() {
                match publisher.stream.write(&batch[at..]) {
                    Ok(count) => at += count,
                    Err(_) => {
                        written += at;
                        break 'full;
                    }
                }
            }
            written += at;
            assert!(written < 128 << 20, "{written} bytes were taken");
        }
        assert!(broker.stats().congestions > 0);
        // Somebody who takes messages away is served, and the publisher goes on.
        let mut consumer = Client::open(broker.addr());
        consumer.consume(b"full");
        let whole = written / (batch.len() / 16);
        for _ in 0..whole {
            consumer.delivery();
        }
        publisher.stream.set_write_timeout(Some(PATIENCE)).unwrap();
        publisher.send_bytes(&batch[written % batch.len()..]);
        drop((publisher, consumer));
        broker.stop(PATIENCE).unwrap();
    }
}
