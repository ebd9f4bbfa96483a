//! Who may come in, and what they may do, as a user sets it up.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Client, Program, eventually};
use fulmar_amqp_0_9_1::codec::Method;

/// Whether guest may declare a queue; a connection of its own.
fn may_declare(program: &Program, queue: &[u8]) -> Result<(), (u16, String)> {
    let mut client = Client::open(program.addr);
    client.send(1, &common::declare(queue));
    let answer = client.frame();
    match answer.method() {
        Method::QueueDeclareOk { .. } => Ok(()),
        Method::ChannelClose { reply_code, reply_text, .. } => {
            Err((reply_code, String::from_utf8_lossy(reply_text).into_owned()))
        }
        other => panic!("{other:?}"),
    }
}

fn fulmar(args: &[&str]) -> bool {
    Command::new(env!("CARGO_BIN_EXE_fulmar")).args(args).stdin(Stdio::null()).status().unwrap().success()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_list_holds_and_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (list, data) = (directory.path().join("acl"), directory.path().join("data"));
    fs::write(&list, "acl allow guest@QPID create queue name=a\nacl deny all all\n").unwrap();
    let program =
        Program::serve(&["--acl-file", text(&list), "--data-dir", text(&data), "--no-data-dir=false"]);
    assert_eq!(may_declare(&program, b"a"), Ok(()));
    let (code, why) = may_declare(&program, b"b").unwrap_err();
    assert_eq!((code, &why[..]), (403, "ACCESS_REFUSED - ACL denied queue create request from guest@QPID"));

    // Somebody who is connected already is held to the new rules too.
    let mut early = Client::open(program.addr);
    fs::write(&list, "acl allow guest@QPID create queue name=b\nacl deny all all\n").unwrap();
    assert!(fulmar(&["acl", "reload", "--data-dir", text(&data), "--acl-file", text(&list)]));
    eventually("the new rules hold", || may_declare(&program, b"b").is_ok());
    assert!(may_declare(&program, b"c").is_err());
    early.declare(b"b");

    fs::write(&list, "acl allow all all\nacl wrong\n").unwrap();
    assert!(
        !fulmar(&["acl", "reload", "--data-dir", text(&data), "--acl-file", text(&list)]),
        "it is looked at"
    );
    assert!(fulmar(&["acl", "reload", "--data-dir", text(&data)]));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(
        may_declare(&program, b"c").is_err() && may_declare(&program, b"b").is_ok(),
        "the old rules stay"
    );
}

#[test]
fn it_holds_in_amqp_0_10_too() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("acl");
    let rules = ["allow guest@QPID create queue name=a", "allow guest@QPID access queue", "deny all all"];
    fs::write(&list, rules.map(|rule| format!("acl {rule}\n")).concat()).unwrap();
    let program = Program::serve(&["--acl-file", text(&list)]);
    let options = fulmar_client::Options {
        protocol: fulmar_client::Protocol::Amqp010,
        port: program.addr.port(),
        reconnect: None,
        ..fulmar_client::Options::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = fulmar_client::Connection::open(options).await.unwrap();
        for (queue, is_allowed) in [("a", true), ("b", false), ("a", true)] {
            let channel = connection.channel().await.unwrap();
            let declared = channel.declare_queue(queue, Default::default()).await;
            assert_eq!(declared.is_ok(), is_allowed, "{queue}: {declared:?}");
        }
    });
}

#[test]
fn a_wrong_list_is_no_start() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("acl");
    fs::write(&list, "acl allow all all\nacl wrong\n").unwrap();
    let args =
        ["serve", "--port", "0", "--no-data-dir", "--users-file", "/dev/null", "--acl-file", text(&list)];
    let output = Command::new(env!("CARGO_BIN_EXE_fulmar")).args(args).stdin(Stdio::null()).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && says.contains("acl:2:"), "{says}");
}

#[test]
fn permissions_are_noticed_while_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    let program = Program::serve(&["--users-file", text(&users)]);
    assert_eq!(may_declare(&program, b"q"), Ok(()));
    let user = |args: &[&str]| fulmar(&[&["user", "--users-file", text(&users)], args].concat());
    assert!(user(&["permit", "guest", "--configure", "^mine"]));
    eventually("the permission holds", || may_declare(&program, b"q").is_err());
    assert_eq!(may_declare(&program, b"mine"), Ok(()));
    let (code, why) = may_declare(&program, b"q").unwrap_err();
    let expected = "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'guest'";
    assert_eq!((code, &why[..]), (403, expected));
    let mut client = Client::open(program.addr);
    client.publish(b"mine", b"x");
    assert!(matches!(client.frame().method(), Method::ChannelClose { reply_code: 403, .. }));
}

#[test]
fn connections_of_an_address_and_of_a_user_are_bounded() {
    for option in ["--connection-limit-per-ip", "--connection-limit-per-user"] {
        let program = Program::serve(&[option, "2", "--shards", "2"]);
        let login = || {
            let mut client = Client::raw(program.addr);
            client.send_bytes(&fulmar_amqp_0_9_1::codec::PROTOCOL_HEADER);
            let mut is_in = client.try_frame().ok().flatten().is_some();
            if is_in {
                client.send_bytes(&common::start_ok("guest", "guest"));
                let answer = client.try_frame().ok().flatten();
                is_in = answer.is_some_and(|frame| matches!(frame.method(), Method::ConnectionTune { .. }));
            }
            is_in.then_some(client)
        };
        let (first, _second) = (login().unwrap(), login().unwrap());
        assert!(login().is_none(), "{option}");
        drop(first);
        eventually("a place is given back", || login().is_some());
    }
}

#[test]
fn queues_of_a_user_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("acl");
    fs::write(&list, "quota queues 2 guest@QPID\nacl allow all all\n").unwrap();
    for options in [["--acl-file", text(&list)], ["--max-queues-per-user", "2"]] {
        let program = Program::serve(&[&options[..], &["--shards", "2"]].concat());
        assert!(may_declare(&program, b"a").is_ok() && may_declare(&program, b"b").is_ok());
        let (code, why) = may_declare(&program, b"c").unwrap_err();
        assert_eq!((code, &why[..]), (403, "ACCESS_REFUSED - user 'guest@QPID' has 2 queues already"));
        assert_eq!(may_declare(&program, b"a"), Ok(()), "which is there already");
        let mut client = Client::open(program.addr);
        client
            .send(1, &Method::QueueDelete { queue: b"a", if_unused: false, if_empty: false, no_wait: false });
        assert!(matches!(client.frame().method(), Method::QueueDeleteOk { .. }));
        assert_eq!(may_declare(&program, b"c"), Ok(()));
    }
}
