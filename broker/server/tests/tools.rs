//! `fulmar send` and `fulmar receive` as scripts use them.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use common::start;
use fulmar_transport::IoChoice;

/// What a tool left behind.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn url(addr: SocketAddr) -> String {
    format!("amqp://guest:guest@{addr}/")
}

fn command(url: &str, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command.args(line.split_whitespace()).env("FULMAR_URL", url);
    command
}

/// Runs a tool; `input` is its standard input.
fn run_with(url: &str, line: &str, input: &str) -> Ran {
    let mut child = command(url, line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not look at its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a tool that has to succeed; returns what it printed.
fn run(url: &str, line: &str) -> String {
    let ran = run_with(url, line, "");
    assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
    ran.out
}

#[test]
fn a_message_there_and_back() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let url = url(broker.addr());
    run(&url, "send -q q --declare --confirm -p content-type=text/plain -p priority=3 -H n=1 -H t=x hello");
    let printed = run(&url, "receive -q q --print-all -c 1 -t 10");
    for line in ["routing-key: \"q\"", "content-type: \"text/plain\"", "priority: 3", "header n: 1", "hello"]
    {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in {printed}");
    }
}

/// Runs a tool with a last argument that has spaces in it.
fn run_at(url: &str, line: &str, address: &str) -> Ran {
    let output = command(url, line).arg(address).output().unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn addresses_name_queues_where_the_protocol_has_no_queries() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let url = url(broker.addr());
    run(&url, "send work;{create:always} hello");
    assert_eq!(run(&url, "receive work -c 1 -t 10"), "hello\n");
    let ran = run_with(&url, "receive work;{mode:browse} -t 0.1", "");
    assert!(ran.code == Some(2) && ran.err.contains("cannot browse"), "{:?} {}", ran.code, ran.err);
}

#[test]
fn addresses_over_amqp_0_10() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let url = format!("amqp0-10://guest:guest@{}/", broker.addr());
    let ran = run_with(&url, "send work/urgent;{create:always} -p priority=3 -H n=1 --confirm hello", "");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = run_with(&url, "send work --persistent", "one\ntwo\n");
    assert_eq!(ran.code, Some(0), "{}", ran.err);

    assert_eq!(run(&url, "receive work;{mode:browse} -c 3 -t 10"), "hello\none\ntwo\n");
    let selected = run_at(&url, "receive -c 1 -t 10", "work; {mode: browse, link: {selector: \"n = 1\"}}");
    assert_eq!((selected.code, selected.out.as_str()), (Some(0), "hello\n"), "{}", selected.err);
    let printed = run(&url, "receive work --print-all -c 1 -t 10");
    for line in ["routing-key: \"work\"", "priority: 3", "header n: 1", "header qpid.subject: \"urgent\""] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in {printed}");
    }
    assert_eq!(run(&url, "receive -q work -c 2 -a none -t 10"), "one\ntwo\n");
    let ran = run_at(&url, "receive -t 0.1", "work; {delete: always}");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran = run_with(&url, "receive work -t 0.1", "");
    assert!(ran.code == Some(5) && ran.err.contains("create: always"), "{:?} {}", ran.code, ran.err);
    let ran = run_with(&url, "receive work;{mode:look} -t 0.1", "");
    assert!(ran.code == Some(2) && ran.err.contains("at character 12"), "{:?} {}", ran.code, ran.err);
}

#[test]
fn lines_of_standard_input_and_what_becomes_of_them() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let url = url(broker.addr());
    let ran = run_with(&url, "send -q q --declare --report", "one\r\ntwo\n\nfour");
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("sent 4 messages"), "{}", ran.err);

    assert_eq!(run(&url, "receive -q q --browse -t 0.3"), "one\ntwo\n\nfour\n");
    assert_eq!(run(&url, "receive -q q -c 1"), "one\n", "browsing has taken nothing away");
    assert_eq!(run(&url, "receive -q q -c 1 --prefetch 1 -a reject"), "two\n");
    assert_eq!(run(&url, "receive -q q -t 0.3 --print raw -a none"), "four");
    assert_eq!(run(&url, "receive -q q -t 0.3"), "");
}

#[test]
fn count_size_and_rate() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let url = url(broker.addr());
    let start = std::time::Instant::now();
    run(&url, "send -q q --declare --count 21 --size 10 --rate 100 --confirm");
    assert!(start.elapsed().as_millis() >= 200, "{:?}", start.elapsed());
    assert_eq!(run(&url, "receive -q q -c 21 -p raw"), "x".repeat(210));
}

#[test]
fn listening_to_an_exchange() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let url = url(broker.addr());
    let mut listener =
        command(&url, "receive -x amq.topic -k *.error --forever").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap()).lines();
    // Mandatory ones come back until the listener is there.
    let sent = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        run_with(&url, "send -x amq.topic -k disk.error --mandatory full", "").code == Some(0)
    });
    assert!(sent, "nobody listens");
    assert_eq!(lines.next().unwrap().unwrap(), "full");
    listener.kill().unwrap();
    listener.wait().unwrap();
}

#[test]
fn failures_have_a_code_and_a_reason() {
    let broker = start(IoChoice::Auto, 1, |_| {});
    let addr = broker.addr();
    let url = url(addr);
    run(&url, "send -q q --declare x");
    let cases = [
        (url.clone(), "send -q gone hello", 5, "no queue 'gone'"),
        (url.clone(), "receive -q gone", 5, "--declare"),
        (url.clone(), "send -x gone hello", 5, "no exchange 'gone'"),
        (url.clone(), "send -x amq.direct -k nobody --mandatory hello", 5, "1 of 1 messages came back"),
        (url.clone(), "receive -q q -c 2 -t 0.2", 6, "1 of 2 messages"),
        (url.clone(), "send -q q -c 100 -r 1 -t 0.3 x", 6, "sending"),
        (url.clone(), "send -q q -p colour=red hello", 2, "colour"),
        (url.clone(), "send", 2, "--queue"),
        (url.clone(), "send hello", 5, "no queue 'hello'"),
        (format!("amqp://guest:wrong@{addr}/"), "send -q q hello", 4, "refused the login of user \"guest\""),
        (format!("amqp://{addr}/nowhere"), "send -q q hello", 5, "nowhere"),
        ("amqp://127.0.0.1:1/".into(), "send -q q hello", 3, "fulmar serve"),
        ("http://127.0.0.1/".into(), "send -q q hello", 2, "\"http\""),
    ];
    for (url, line, code, reason) in cases {
        let ran = run_with(&url, line, "");
        assert_eq!(ran.code, Some(code), "{line}: {}", ran.err);
        assert!(ran.err.contains(reason), "{line}: {}", ran.err);
        assert!(!ran.err.contains("wrong@"), "no password in messages: {}", ran.err);
    }
}
