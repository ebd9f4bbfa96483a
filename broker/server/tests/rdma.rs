//! The program where there is no RDMA library: one line says so, and everything else is as ever.
//!
//! A file that is no library stands before one that this host may have.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// A folder to look for libraries in, with one that cannot be loaded.
fn without_library() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("librdmacm.so.1"), "none").unwrap();
    folder
}

fn fulmar(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command.env("LD_LIBRARY_PATH", folder).stdin(Stdio::null());
    command
}

/// A broker whose log goes to a file of the folder.
struct Broker {
    child: Child,
    port: String,
}

impl Broker {
    fn serve(folder: &Path, options: &[&str]) -> Self {
        let mut child = fulmar(folder)
            .args(["serve", "--no-data-dir", "--shards", "2", "--cpu-affinity", "none", "--print-port"])
            .args(["--users-file", "/dev/null"])
            .args(options)
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut port).unwrap();
        Broker { child, port: port.trim().into() }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_about_rdma(folder: &Path) -> Vec<String> {
    let log = fs::read_to_string(folder.join("log")).unwrap();
    log.lines().filter(|line| line.to_lowercase().contains("rdma")).map(Into::into).collect()
}

fn run(folder: &Path, line: &str) -> Output {
    fulmar(folder).args(line.split_whitespace()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn one_line_says_what_is_missing_and_tcp_goes_on() {
    let folder = without_library();
    let folder = folder.path();
    let broker = Broker::serve(folder, &["--listen", "127.0.0.1:0", "--rdma-port", "5672"]);
    let url = format!("rdma://127.0.0.1:{}", broker.port);

    let alone = run(folder, &format!("send --url {url} --queue q --declare hello"));
    assert_eq!(alone.status.code(), Some(3), "{alone:?}");
    assert!(text(&alone.stderr).contains("librdmacm.so.1"), "{alone:?}");

    let falling_back = format!("--url {url} --transport rdma,tcp --queue q");
    let sent = run(folder, &format!("send {falling_back} --declare --confirm hello"));
    assert!(sent.status.success(), "{sent:?}");
    assert_eq!(text(&sent.stderr).lines().filter(|line| line.contains("librdmacm")).count(), 1, "{sent:?}");
    let received = run(folder, &format!("receive {falling_back} --count 1 --timeout 20"));
    assert_eq!(text(&received.stdout), "hello\n", "{received:?}");

    let lines = lines_about_rdma(folder);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("librdmacm.so.1"), "{lines:?}");
}

#[test]
fn nobody_is_told_who_did_not_ask() {
    let folder = without_library();
    let _broker = Broker::serve(folder.path(), &["--listen", "127.0.0.1:0"]);
    assert_eq!(lines_about_rdma(folder.path()), [""; 0]);
}

#[test]
fn measuring_says_what_is_missing() {
    let folder = without_library();
    let floor = run(folder.path(), "bench floor --rdma --messages 10 --seconds 1 --warmup 0");
    assert_eq!(floor.status.code(), Some(1), "{floor:?}");
    assert!(text(&floor.stderr).contains("librdmacm.so.1"), "{floor:?}");
}
