//! The client library, the tools and the load generator over TLS: messages arrive, and who should not be believed is
//! not, in words that say why.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::certificates::Office;
use fulmar_client::{Connection, Error, Mechanism, Options, Protocol, Publish, QueueOptions};
use fulmar_server::broker::Running;
use fulmar_tls::{ClientCertificates, ClientOptions, Trust};
use fulmar_transport::IoChoice;
use tokio::time::timeout;

const PROTOCOLS: [Protocol; 2] = [Protocol::Amqp091, Protocol::Amqp010];

fn start(tls: fulmar_tls::Options) -> Running {
    common::start(IoChoice::Auto, 2, |settings| settings.tls = tls)
}

fn tls_port(broker: &Running) -> u16 {
    broker.tls_addresses()[0].port()
}

fn options(protocol: Protocol, port: u16, tls: ClientOptions) -> Options {
    Options { protocol, port, tls: Some(tls), reconnect: None, ..Options::default() }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(6 * common::PATIENCE, work).await.expect("it takes too long") })
}

fn refused(options: Options) -> Error {
    run(Connection::open(options)).expect_err("nobody comes in so")
}

/// Many sizes, there and back; more at once than sockets and TLS hold.
async fn carries_messages(options: Options) {
    let connection = Connection::open(options).await.unwrap();
    let channel = connection.channel().await.unwrap();
    let queue = channel.declare_queue("", QueueOptions::default()).await.unwrap().name;
    channel.enable_confirms().await.unwrap();
    let bodies: Vec<Vec<u8>> = [0, 1, 1000, 16_384, 16_385, 300_000, 3_000_000, 5_000_000, 7]
        .iter()
        .map(|&size| vec![(size % 251) as u8; size])
        .collect();
    let mut confirmed = Vec::new();
    for body in &bodies {
        confirmed.push(channel.publish_confirmed(&Publish::to_queue(&queue, body)).await.unwrap());
    }
    for one in confirmed {
        one.await.unwrap();
    }
    let mut consumer = channel.consume(&queue, Default::default()).await.unwrap();
    for body in &bodies {
        let delivery = consumer.next().await.unwrap().unwrap();
        assert!(delivery.body() == body, "{} bytes are others", body.len());
        delivery.ack().unwrap();
    }
    connection.close().await.unwrap();
}

#[test]
fn the_library_carries_messages_in_both_protocols_and_on_both_ports() {
    let office = Office::new("issuer");
    let broker = start(office.broker());
    for protocol in PROTOCOLS {
        for port in [tls_port(&broker), broker.addr().port()] {
            run(carries_messages(options(protocol, port, office.client())));
        }
    }
    assert_eq!(broker.stats().tls_handshakes, 4);
}

#[test]
fn a_broker_that_should_not_be_believed_is_not() {
    let office = Office::new("issuer");
    let broker = start(office.broker());
    let port = tls_port(&broker);
    let stranger = Office::new("stranger");
    let said = |options| refused(options).to_string();
    for protocol in PROTOCOLS {
        let error = refused(options(protocol, port, stranger.client()));
        assert!(matches!(&error, Error::Tls { failure, .. } if failure.is_about_trust()), "{error}");
        assert!(error.to_string().contains("issued by nobody who is trusted here"), "{error}");
        let other =
            Options { server_name: Some("example.org".into()), ..options(protocol, port, office.client()) };
        assert!(said(other).contains("its certificate is for another host"));
        let anybody = ClientOptions { trust: Trust::Anybody, ..ClientOptions::default() };
        let other = Options { server_name: Some("example.org".into()), ..options(protocol, port, anybody) };
        run(Connection::open(other)).expect("whoever believes anybody believes this one");
    }
    let old = fulmar_tls::Options {
        certificates: vec![office.issue_expired("localhost", 2)],
        ..fulmar_tls::Options::default()
    };
    let error = said(options(Protocol::Amqp091, tls_port(&start(old)), office.client()));
    assert!(error.contains("its certificate has expired"), "{error}");
    let issuing = fulmar_tls::Options {
        certificates: vec![office.issue_issuer("localhost", 3)],
        ..fulmar_tls::Options::default()
    };
    let error = said(options(Protocol::Amqp091, tls_port(&start(issuing)), office.client()));
    assert!(error.contains("its certificate is one for issuing others"), "{error}");
    let by_address =
        Options { host: "127.0.0.1".into(), ..options(Protocol::Amqp091, port, office.client()) };
    assert!(said(by_address).contains("its certificate is for another host"));
    let revoked = ClientOptions { revocation_lists: vec![office.revoke(1)], ..office.client() };
    let error = said(options(Protocol::Amqp091, port, revoked));
    assert!(error.contains("its certificate has been revoked"), "{error}");
}

#[test]
fn certificates_of_clients_are_shown_and_their_refusal_is_told() {
    let office = Office::new("issuer");
    let asking = fulmar_tls::Options {
        client_certificates: ClientCertificates::Require,
        client_issuers: vec![office.ca()],
        revocation_lists: vec![office.revoke(3)],
        ..office.broker()
    };
    let broker = start(asking);
    let port = tls_port(&broker);
    let with = |certificate| ClientOptions { certificate: Some(certificate), ..office.client() };
    let (ann, eve) = (office.issue("ann", 2), office.issue("eve", 3));
    let old = office.issue_expired("old", 4);
    let other = Office::new("stranger").issue("other", 5);
    for protocol in PROTOCOLS {
        run(carries_messages(options(protocol, port, with(ann.clone()))));
        for (tls, why) in [
            (office.client(), "it requires a certificate of ours"),
            (with(eve.clone()), "to it our certificate has been revoked"),
            (with(old.clone()), "to it our certificate has expired"),
        ] {
            let error = refused(options(protocol, port, tls));
            assert!(matches!(error, Error::Tls { .. }), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
    }
    // The file of a stranger's certificate goes with him.
    assert!(!other.exists());
    let error = refused(options(Protocol::Amqp091, port, with(other)));
    assert!(matches!(error, Error::Argument(_)) && error.to_string().contains("No such file"), "{error}");
}

#[test]
fn a_port_without_tls_is_told_of() {
    let broker = common::start(IoChoice::Auto, 1, |_| {});
    let error = refused(options(Protocol::Amqp091, broker.addr().port(), Office::new("issuer").client()));
    assert!(error.to_string().contains("does it speak TLS on this port?"), "{error}");
    // What answers something else than TLS.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        use std::io::Write;
        let (mut socket, _) = listener.accept().unwrap();
        drop(socket.write_all(b"AMQP\0\0\x09\x01"));
        socket
    });
    let error = refused(options(Protocol::Amqp091, port, Office::new("issuer").client()));
    assert!(error.to_string().contains("what it sent is not TLS"), "{error}");
    drop(answering.join());
}

#[test]
fn what_does_not_go_together_is_said_before_anything_is_sent() {
    let office = Office::new("issuer");
    let with = |change: fn(&mut Options)| {
        let mut options = options(Protocol::Amqp091, 1, office.client());
        change(&mut options);
        let error = refused(options);
        assert!(matches!(error, Error::Argument(_)), "{error}");
        error.to_string()
    };
    assert!(with(|options| options.set_transports("rdma,tcp").unwrap()).contains("RDMA"));
    assert!(with(|options| options.host = "not a name".into()).contains("\"not a name\""));
    let nowhere = |options: &mut Options| {
        options.tls.as_mut().unwrap().trust = Trust::File("/nowhere.pem".into());
    };
    assert!(with(nowhere).contains("/nowhere.pem"));
}

/// A connection over TLS that breaks is made again.
#[test]
fn a_connection_over_tls_comes_back() {
    let office = Office::new("issuer");
    let broker = start(office.broker());
    let port = tls_port(&broker);
    run(async {
        let mut wanted = options(Protocol::Amqp091, port, office.client());
        wanted.reconnect =
            Some(fulmar_client::Reconnect { first_delay: Duration::from_millis(10), ..Default::default() });
        let connection = Connection::open(wanted).await.unwrap();
        let mut events = connection.events();
        let stopped = tokio::task::spawn_blocking(move || broker.stop(common::PATIENCE));
        while !matches!(events.next().await.unwrap(), fulmar_client::ConnectionEvent::Disconnected(_)) {}
        stopped.await.unwrap().unwrap();
        let broker = common::start(IoChoice::Auto, 1, |settings| {
            (settings.tls, settings.tls_port) = (office.broker(), port);
        });
        while !matches!(events.next().await.unwrap(), fulmar_client::ConnectionEvent::Reconnected) {}
        assert_eq!(broker.stats().tls_handshakes, 1);
        connection.close().await.unwrap();
    });
}

/// Runs a command of the program; its exit code and what it said.
fn tool(line: &str, files: &[(&str, &Path)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command.args(line.split_whitespace());
    files.iter().for_each(|(name, path)| {
        command.arg(name).arg(path);
    });
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), said.concat())
}

#[test]
fn the_tools_speak_tls_and_say_why_when_they_cannot() {
    let office = Office::new("issuer");
    let stranger = Office::new("stranger");
    let broker = start(office.broker());
    let port = tls_port(&broker);
    for scheme in ["amqps", "amqps0-10"] {
        let url = format!("{scheme}://localhost:{port}");
        let ca: (&str, &Path) = ("--ca-file", &office.ca());
        let (code, said) = tool(&format!("send -u {url} -q {scheme} --declare --confirm hello"), &[ca]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = tool(&format!("receive -u {url} -q {scheme} -c 1 -t 10"), &[ca]);
        assert!(code == Some(0) && said.contains("hello"), "{said}");
        let insecure = format!("send -u {url} -q {scheme} --insecure hello");
        assert_eq!(tool(&insecure, &[]).0, Some(0));
        let (code, said) = tool(&format!("send -u {url} -q q x"), &[("--ca-file", &stranger.ca())]);
        assert!(code == Some(3) && said.contains("issued by nobody") && said.contains("--ca-file"), "{said}");
        let wrong_host = format!("send -u {scheme}://127.0.0.1:{port} -q q x");
        let (code, said) = tool(&wrong_host, &[ca]);
        assert!(code == Some(3) && said.contains("is for another host"), "{said}");
        let bench = "--messages 1000 --warmup 0";
        let (code, said) = tool(&format!("bench throughput --url {url} {bench}"), &[ca]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) =
            tool(&format!("bench throughput --url {url} {bench}"), &[("--ca-file", &stranger.ca())]);
        assert!(code == Some(1) && said.contains("issued by nobody who is trusted here"), "{said}");
    }
    let plain = format!("send -u amqp://localhost:{} -q q x", broker.addr().port());
    let (code, said) = tool(&plain, &[("--ca-file", &office.ca())]);
    assert!(code == Some(2) && said.contains("amqps://"), "{said}");
}

#[test]
fn who_a_certificate_names_logs_in_by_it() {
    let office = Office::new("issuer");
    let asking = fulmar_tls::Options {
        client_certificates: ClientCertificates::Want,
        client_issuers: vec![office.ca()],
        ..office.broker()
    };
    let broker = start(asking);
    for protocol in PROTOCOLS {
        let by_certificate = |certificate: Option<_>| Options {
            mechanism: Some(Mechanism::External),
            ..options(protocol, tls_port(&broker), ClientOptions { certificate, ..office.client() })
        };
        run(carries_messages(by_certificate(Some(office.issue("guest", 2)))));
        let error = refused(by_certificate(None));
        assert!(matches!(&error, Error::Login { .. }) && error.to_string().contains("EXTERNAL"), "{error}");
    }
}
