//! The program as a user runs it.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Client, Program};
use fulmar_amqp_0_9_1::codec::Method;

fn fulmar(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_fulmar")).args(args).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn sigterm_stops_it_cleanly() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut program = Program::serve(&["--shards", "2"]);
        let mut client = Client::open(program.addr);
        program.signal(signal);
        let frame = client.frame();
        assert!(matches!(frame.method(), Method::ConnectionClose { reply_code: 320, .. }), "{frame:?}");
        client.send(0, &Method::ConnectionCloseOk);
        drop(client);
        assert_eq!(program.wait(), Some(0));
    }
}

#[test]
fn a_second_signal_stops_it_at_once() {
    let mut program = Program::serve(&["--stop-timeout", "60"]);
    let _silent = Client::open(program.addr);
    program.signal(libc::SIGTERM);
    std::thread::sleep(Duration::from_millis(300));
    assert!(program.child.try_wait().unwrap().is_none(), "it waits for its client");
    let asked = Instant::now();
    program.signal(libc::SIGTERM);
    assert_eq!(program.wait(), Some(128 + libc::SIGTERM));
    assert!(asked.elapsed() < Duration::from_secs(2));
}

#[test]
fn wrong_usage_exits_2_and_says_what_is_wrong() {
    for (args, says) in [
        (&["serve", "--bogus"][..], "--bogus"),
        (&["serve", "--io", "fast"], "fast"),
        (&["serve", "--config", "/nowhere"], "/nowhere"),
        (&["frobnicate"], "frobnicate"),
    ] {
        let output = fulmar(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(says), "{args:?}: {text}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let program = Program::serve(&[]);
    let port = program.addr.port().to_string();
    let output = fulmar(&["serve", "--port", &port, "--users-file", "/dev/null", "--no-data-dir"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{text}");
}

#[test]
fn show_config_tells_values_and_origins() {
    let output = fulmar(&["serve", "--show-config", "--heartbeat", "3"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with("heartbeat=3 ") && line.ends_with("# command line")));
    assert!(text.lines().any(|line| line.starts_with("frame-max=131072 ") && line.ends_with("# default")));
}

#[test]
fn users_are_added_changed_and_deleted_while_it_runs() {
    use std::io::Write;

    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users").to_str().unwrap().to_string();
    let user = |args: &[&str], password: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fulmar"))
            .args(["user", "--users-file", &users])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let program = Program::serve(&["--users-file", &users]);
    assert!(Client::login(program.addr, "ann", "one").is_err());
    assert!(user(&["add", "ann", "--password-stdin"], "one\n").0);
    assert!(!user(&["add", "ann", "--password-stdin"], "two\n").0, "she is there already");
    assert!(Client::login(program.addr, "ann", "one").is_ok());
    assert!(Client::login(program.addr, "ann", "two").is_err());
    assert!(user(&["passwd", "ann", "--password-stdin"], "two\n").0);
    assert!(Client::login(program.addr, "ann", "one").is_err());
    assert!(Client::login(program.addr, "ann", "two").is_ok());
    assert_eq!(user(&["list"], "").1, "guest (password guest, from this host only)\nann\n");
    assert!(user(&["delete", "ann"], "").0);
    assert!(Client::login(program.addr, "ann", "two").is_err());
    assert!(Client::login(program.addr, "guest", "guest").is_ok());
    assert!(user(&["delete", "guest"], "").0);
    assert!(Client::login(program.addr, "guest", "guest").is_err());
    assert_eq!(user(&["list"], "").1, "guest (locked)\n");
}

#[test]
fn an_idle_connection_costs_less_than_8_kib() {
    const CONNECTIONS: usize = 2_000;
    for io in ["epoll", "auto"] {
        // Huge pages would round what the allocator occupies up by 2 MiB here and there.
        let program = Program::serve_in(&[("MIMALLOC_ALLOW_THP", "0")], &["--io", io]);
        // What is set up once, at first use, does not count.
        drop((0..50).map(|_| Client::open(program.addr)).collect::<Vec<_>>());
        let before = program.resident_bytes();
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| Client::open(program.addr)).collect();
        let each = (program.resident_bytes() - before) / clients.len() as u64;
        println!("{io}: {each} bytes for each idle connection");
        assert!(each < 8 * 1024, "{io}: {each} bytes for each idle connection");
    }
}

#[test]
fn a_second_broker_does_not_get_the_same_directory() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data").to_str().unwrap().to_string();
    let serve = ["serve", "--port", "0", "--listen", "127.0.0.1", "--data-dir", &data];
    let mut first = Program::serve(&["--no-data-dir=false", "--data-dir", &data]);
    let output = fulmar(&serve);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let says = format!("the data directory {data} is in use by process {}", first.child.id());
    assert!(text.contains(&says), "{text}");
    first.signal(libc::SIGKILL);
    first.wait();
    Program::serve(&["--no-data-dir=false", "--data-dir", &data]);
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let inside = file.path().join("data").to_str().unwrap().to_string();
    let output = fulmar(&["serve", "--port", "0", "--listen", "127.0.0.1", "--data-dir", &inside]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(&inside), "{text}");
}

#[test]
fn access_control_lists_are_checked_and_asked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.acl");
    std::fs::write(&file, "acl allow bob@QPID create queue name=q\nacl deny all all\n").unwrap();
    let acl = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_fulmar")).arg("acl").args(words).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let path = file.to_str().unwrap();
    assert_eq!(acl(&["check", path]).0, Some(0));
    let (code, text) = acl(&["test", path, "bob@QPID", "create", "queue", "name=q"]);
    assert_eq!((code, text), (Some(0), format!("allow ({path}:1)\n")));
    let (code, text) = acl(&["test", path, "eve@QPID", "create", "queue", "name=q"]);
    assert_eq!((code, text), (Some(1), format!("deny ({path}:2)\n")));
    std::fs::write(&file, "acl allow all fly\n").unwrap();
    let (code, text) = acl(&["check", path]);
    assert!(code == Some(2) && text.starts_with(&format!("{path}:1: unknown action 'fly'")), "{text}");
}
