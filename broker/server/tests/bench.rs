//! The load generator against the broker: every shape of workload, TLS, a broker that stalls, the program itself.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Program;
use fulmar_amqp_0_9_1::codec::{Method, TableRef};
use fulmar_bench::builtin;
use fulmar_bench::load::ClientWait;
use fulmar_bench::measure::{Extras, Measured, measure, measure_with};
use fulmar_bench::result::ResultFile;
use fulmar_bench::target::Target;
use fulmar_bench::url::{Protocol, Url};
use fulmar_bench::workload::Workload;
use fulmar_tls::{ClientOptions, Trust};
use tokio::net::{TcpListener, TcpStream};

/// How long the broker is stopped each time.
const STALL: Duration = Duration::from_millis(200);

fn at(port: u16) -> Url {
    Url { port, ..Url::default() }
}

/// The same workload, but small and quick.
fn shortened(mut workload: Workload) -> Workload {
    workload.client.wait = Some(ClientWait::Block);
    workload.warmup_s = 0.0;
    workload.seconds = 0.3;
    workload.rate_hz = workload.rate_hz.map(|rate_hz| rate_hz.min(2_000));
    workload.idle_connections = workload.idle_connections.min(20);
    workload.in_flight = workload.in_flight.map(|in_flight| in_flight.min(5_000));
    match &mut workload.slow {
        Some(slow) => slow.rate_hz = 100,
        // Ends by count: a machine that is busy elsewhere may take long.
        None => (workload.messages, workload.seconds) = (Some(100), 30.0),
    }
    // As many as are asked for, however long a busy machine takes.
    if workload.rate_hz.is_none() && workload.slow.is_none() {
        (workload.messages, workload.seconds) = (Some(5_000), 30.0);
    }
    workload
}

fn assert_sound(run: &Measured) {
    let (name, outcome) = (&run.workload.name, &run.outcome);
    assert!(run.is_sound(), "{name}: {outcome:?}");
    assert!(outcome.published > 0 && outcome.received > 0, "{name}: {outcome:?}");
    assert_eq!(outcome.received + outcome.left, outcome.expected, "{name}: {outcome:?}");
}

#[test]
fn every_built_in_workload_runs_and_loses_nothing() {
    runs_and_loses_nothing(Protocol::Amqp091);
}

#[test]
fn every_built_in_workload_runs_over_amqp_0_10_and_loses_nothing() {
    runs_and_loses_nothing(Protocol::Amqp010);
}

fn runs_and_loses_nothing(protocol: Protocol) {
    for (io, shards) in common::kinds().into_iter().filter(|(_, shards)| *shards == 2) {
        let broker = common::start(io, shards, |_| {});
        for workload in builtin::all().map(shortened) {
            let url = Url { protocol, ..at(broker.addr().port()) };
            let run = measure(&Target::Broker(url), &workload).unwrap();
            assert_sound(&run);
            let copies = match workload.name.as_str() {
                "fan-out" => 10,
                "topic-fanout" => 8,
                _ => 1,
            };
            assert_eq!(run.outcome.expected, copies * run.outcome.published, "{}", workload.name);
            assert_eq!(run.outcome.left > 0, workload.slow.is_some(), "{}: {:?}", workload.name, run.outcome);
            let timed = workload.rate_hz.is_some();
            assert_eq!(run.outcome.latencies.count() > 0, timed, "{}", workload.name);
            let confirms = workload.confirm_window.map_or(0, |_| run.outcome.published);
            assert_eq!(run.outcome.confirmed, confirms, "{}", workload.name);
        }
        broker.stop(common::PATIENCE).unwrap();
    }
}

/// More consumers than are asked one by one.
#[test]
fn many_consumers_on_one_thread_get_everything() {
    let program = Program::serve(&[]);
    let target = Target::Broker(at(program.addr.port()));
    let base = "consumers = 40\nqueues = 40\nwarmup_s = 0\nseconds = 0.3\nexchange = { type = 'fanout' }\n";
    for more in [
        "rate_hz = 200\nack = 2\nclient = { wait = 'block' }",
        "rate_hz = 200\nclient = { wait = 'spin' }",
        "in_flight = 2000\nmessages = 500\nack = 1\nprefetch = 10",
    ] {
        assert_sound(&measure(&target, &Workload::from_toml(&format!("{base}{more}")).unwrap()).unwrap());
    }
}

#[test]
fn nothing_of_a_run_stays_in_the_broker() {
    let program = Program::serve(&[]);
    let text = "queues = 2\nconsumers = 2\nmessages = 100\nwarmup_s = 0\n[exchange]\ntype = 'headers'";
    let workload = Workload::from_toml(text).unwrap();
    let target = Target::Broker(at(program.addr.port()));
    assert_sound(&measure(&target, &workload).unwrap());
    let prefix = format!("fulmar-bench.{}.", std::process::id());
    // Every run of this process has the prefix and a number of its own.
    for run in 0..50 {
        let (queue, exchange) = (format!("{prefix}{run}.0"), format!("{prefix}{run}.exchange"));
        let mut client = common::Client::open(program.addr);
        client.send(1, &passive(&queue));
        assert!(refused(&mut client), "{queue} is still there");
        let mut client = common::Client::open(program.addr);
        client.send(1, &passive_exchange(&exchange));
        assert!(refused(&mut client), "{exchange} is still there");
    }
}

fn passive(queue: &str) -> Method<'_> {
    match common::declare(queue.as_bytes()) {
        Method::QueueDeclare { queue, durable, exclusive, auto_delete, no_wait, arguments, .. } => {
            Method::QueueDeclare { queue, passive: true, durable, exclusive, auto_delete, no_wait, arguments }
        }
        other => other,
    }
}

fn passive_exchange(exchange: &str) -> Method<'_> {
    Method::ExchangeDeclare {
        exchange: exchange.as_bytes(),
        type_: b"headers",
        passive: true,
        durable: false,
        auto_delete: false,
        internal: false,
        no_wait: false,
        arguments: TableRef::EMPTY,
    }
}

fn refused(client: &mut common::Client) -> bool {
    matches!(client.frame().method(), Method::ChannelClose { reply_code: 404, .. })
}

/// A broker that stops for 200 ms again and again. The open loop counts every message that should have left meanwhile;
/// the closed loop, which has one message under way at a time, counts one for each stop.
#[test]
fn a_stalled_broker_shows_in_the_latency_in_full_and_hardly_in_the_service_time() {
    let program = Program::serve(&[]);
    let text = "name = 'stalled'\nrate_hz = 500\nin_flight = 1\nwarmup_s = 0\nseconds = 4\nclient = { wait = 'block' }";
    let workload = Workload::from_toml(text).unwrap();
    let over = AtomicBool::new(false);
    let run = std::thread::scope(|scope| {
        let stalls = scope.spawn(|| {
            let mut stalls = 0;
            while !over.load(Ordering::Relaxed) && stalls < 100 {
                std::thread::sleep(Duration::from_secs(1) - STALL);
                program.signal(libc::SIGSTOP);
                std::thread::sleep(STALL);
                program.signal(libc::SIGCONT);
                stalls += 1;
            }
            stalls
        });
        let run = measure(&Target::Broker(at(program.addr.port())), &workload);
        over.store(true, Ordering::Relaxed);
        assert!(stalls.join().unwrap() >= 3);
        run.unwrap()
    });
    assert_sound(&run);
    let open_ms = run.outcome.latencies.at_ns(99.0) as f64 / 1e6;
    let closed_ms = run.outcome.service_times.at_ns(99.0) as f64 / 1e6;
    let worst_ms = run.outcome.service_times.at_ns(100.0) as f64 / 1e6;
    eprintln!(
        "p99 of the open loop {open_ms:.1} ms, of the closed loop {closed_ms:.1} ms, its worst {worst_ms:.1} ms"
    );
    // A fifth of the messages are due while the broker is stopped: the last hundredth waits for nearly all of a stop.
    assert!(open_ms > 0.7 * STALL.as_secs_f64() * 1e3, "the open loop tells {open_ms} ms");
    assert!(closed_ms < open_ms / 2.0, "the closed loop tells {closed_ms} ms, the open one {open_ms} ms");
    assert!(worst_ms > 0.7 * STALL.as_secs_f64() * 1e3, "the worst of the closed loop is {worst_ms} ms");
}

/// A port that speaks TLS and hands on to the broker in plain; ends with the runtime. Returns the port, and the
/// certificate to believe.
async fn terminate_tls(broker: u16) -> (u16, String) {
    let names = vec!["localhost".to_string(), "127.0.0.1".to_string()];
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(socket).await else { return };
                let mut inside = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
            });
        }
    });
    (port, cert.pem())
}

#[test]
fn measures_over_tls_whom_it_believes() {
    let program = Program::serve(&[]);
    let broker = program.addr.port();
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let terminator = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tell.send(terminate_tls(broker).await).unwrap();
            drop(ended.await);
        });
    });
    let (port, certificate) = told.recv().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, certificate).unwrap();
    let url = |host: &str, trust| Url {
        host: host.into(),
        tls: Some(Box::new(ClientOptions { trust, ..ClientOptions::default() })),
        ..at(port)
    };
    let workload =
        "seconds = 0.3\nwarmup_s = 0\nsize = { min = 24, max = 20000 }\nconfirm_window = 50\nack = 5";
    for rate in ["", "\nrate_hz = 500\nclient = { wait = 'block' }"] {
        let workload = Workload::from_toml(&format!("{workload}{rate}")).unwrap();
        for url in [url("localhost", Trust::File(file.clone())), url("127.0.0.1", Trust::Anybody)] {
            let target = Target::Broker(url);
            assert_eq!(target.facts().transport, "tls");
            assert_sound(&measure(&target, &workload).unwrap());
        }
        let error = measure(&Target::Broker(url("localhost", Trust::System)), &workload).unwrap_err();
        assert!(error.to_string().contains("ertificate"), "{error}");
    }
    drop(end);
    terminator.join().unwrap();
}

#[test]
fn memory_of_the_broker_is_read_at_every_interval() {
    let program = Program::serve(&[]);
    let text = "rate_hz = 100\nwarmup_s = 0\nseconds = 0.5\nclient = { wait = 'block' }";
    let extras = Extras { pid: Some(program.child.id()), ..Extras::default() };
    let target = Target::Broker(at(program.addr.port()));
    let run = measure_with(&target, &Workload::from_toml(text).unwrap(), &extras).unwrap();
    let result = run.result(target.facts(), 0);
    assert_eq!(result.intervals.len(), 10);
    // The last one ends with the run, and may not be looked at any more.
    assert!(result.intervals[..9].iter().all(|interval| interval.broker_rss_bytes > Some(1 << 20)));
    let counted: u64 =
        result.intervals.iter().filter_map(|interval| Some(interval.latency.as_ref()?.count)).sum();
    assert_eq!(counted, result.latency.unwrap().count);
}

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command.arg("bench").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn file_in(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().into()
}

#[test]
fn run_leaves_a_result_and_a_log_for_every_round() {
    let folder = tempfile::tempdir().unwrap();
    let (json, hlog) = (file_in(folder.path(), "out.json"), file_in(folder.path(), "out.hlog"));
    let output = bench(&[
        "run",
        "poisson-10k",
        "--serve",
        "--rate",
        "200",
        "--seconds",
        "0.5",
        "--warmup",
        "0",
        "--client",
        "block",
        "--rounds",
        "2",
        "--out",
        &json,
        "--hlog",
        &hlog,
    ]);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A machine that is very busy may miss the schedule, and says so.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}{errors}");
    for word in ["p99.99", "round 2", "lost 0", "duplicated 0", "out of order 0", "asked 200"] {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
    let file = ResultFile::read(Path::new(&json)).unwrap();
    let rounds: Vec<u32> = file.runs.iter().map(|run| run.round).collect();
    assert_eq!(rounds, [0, 1]);
    assert_eq!(
        (file.runs[0].target.name.as_str(), file.runs[0].target.protocol.as_str()),
        ("fulmar", "amqp-0-9-1")
    );
    // The same seed, the same messages.
    assert_eq!(file.runs[0].counts, file.runs[1].counts);
    let log = std::fs::read_to_string(&hlog).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("HIST") && !line.starts_with("Tag=")).count(), 20);
    assert_eq!(log.lines().filter(|line| line.starts_with("Tag=service_time,")).count(), 20);
}

#[test]
fn processes_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let json = file_in(folder.path(), "out.json");
    let output = bench(&[
        "run",
        "latency-1k",
        "--serve",
        "--rate",
        "100",
        "--seconds",
        "0.5",
        "--warmup",
        "0.5",
        "--client",
        "block",
        "--processes",
        "2",
        "--out",
        &json,
    ]);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
    let run = ResultFile::read(Path::new(&json)).unwrap().runs.remove(0);
    assert_eq!((run.counts.published, run.counts.consumed, run.counts.lost), (200, 200, 0));
    assert_eq!((run.offered_hz, run.latency.unwrap().count), (Some(200.0), 100));
}

#[test]
fn a_schedule_that_cannot_be_kept_exits_with_3() {
    let output = bench(&[
        "run",
        "latency-1k",
        "--serve",
        "--rate",
        "1000000000",
        "--seconds",
        "0.01",
        "--warmup",
        "0",
        "--messages",
        "500000",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(r#""kept_schedule":false"#), "{text}");
}

#[test]
fn what_is_wrong_with_a_workload_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = file_in(folder.path(), "mine.toml");
    std::fs::write(&path, "colour = 'red'").unwrap();
    for (arguments, wanted) in [
        (&["run", path.as_str()][..], "colour"),
        (&["run", "no-such"], "latency-1k"),
        (&["run", "small-flood", "--queues", "2"], "consumers"),
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(wanted), "{arguments:?}: {errors}");
    }
}

#[test]
fn list_explains_every_workload() {
    let output = bench(&["list"]);
    let text = String::from_utf8_lossy(&output.stdout);
    for workload in builtin::all() {
        let first = workload.description.split(' ').take(4).collect::<Vec<_>>().join(" ");
        assert!(text.contains(&workload.name) && text.contains(&first), "{}", workload.name);
    }
}

#[test]
fn sweep_finds_a_rate_and_keeps_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let json = file_in(folder.path(), "out.json");
    let output = bench(&[
        "sweep",
        "latency-1k",
        "--serve",
        "--p99",
        "60s",
        "--from",
        "50",
        "--to",
        "200",
        "--seconds",
        "0.3",
        "--warmup",
        "0",
        "--client",
        "block",
        "--out",
        &json,
    ]);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("highest rate of latency-1k"), "{text}{errors}");
    let file = ResultFile::read(Path::new(&json)).unwrap();
    assert_eq!(file.sweep.unwrap().limit_p99_ns, 60_000_000_000);
    // A machine that is very busy may miss even these rates.
    let offered: Vec<f64> = file.runs.iter().filter_map(|run| run.offered_hz).collect();
    assert_eq!(offered[0], 50.0);
    assert_eq!(offered.len(), text.lines().filter(|line| line.contains("msg/s   p50")).count());
}

#[test]
fn ceilings_of_processes_add_up() {
    let ceiling = |processes| {
        let output = bench(&["ceiling", "--seconds", "0.2", "--processes", processes, "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, figure) = text.split_once("\"both_hz\":").unwrap();
        figure.split([',', '}']).next().unwrap().parse::<f64>().unwrap()
    };
    // A busy machine may give it no time at all.
    assert!((0..20).any(|_| ceiling("1") > 0.0) && (0..20).any(|_| ceiling("2") > 0.0));
}
