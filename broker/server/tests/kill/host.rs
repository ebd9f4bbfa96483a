//! The program, in a directory of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::common::eventually;

/// A broker's process.
pub struct Host {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: std::path::PathBuf,
    pub addr: SocketAddr,
}

impl Host {
    /// Starts it; it need not be ready.
    pub fn start(directory: &Path, options: &[&str]) -> Self {
        let log = directory.join("log");
        let to = fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fulmar"))
            .args(["serve", "--listen", "127.0.0.1:0", "--users-file", "/dev/null"])
            .args(["--cpu-affinity", "none", "--idle", "block", "--print-port", "--data-dir"])
            .arg(directory.join("data"))
            // Small, so that segments come and go.
            .args(["--journal-segment-bytes", "1M"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(to)
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Host { child, stdout, log, addr: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }

    /// Waits until it takes connections.
    pub fn ready(mut self) -> Self {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let Ok(port) = line.trim().parse() else {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let end: Vec<_> = log.lines().rev().take(20).collect();
            panic!("the broker did not start; its log, from the end:\n{}", end.join("\n"));
        };
        self.addr.set_port(port);
        self
    }

    /// Ends it at once.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in order.
    pub fn stop(mut self) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: sends a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let mut status = None;
        eventually("the broker stops", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
