//! A broker in this process or beside it, and a client that speaks the codec over a plain socket.

#![allow(dead_code, reason = "every test program uses a part of this")]

pub mod certificates;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, PROTOCOL_HEADER, TableRef, frame};
use fulmar_server::broker::{Broker, Running};
use fulmar_server::settings::Settings;
use fulmar_transport::IoChoice;

/// Longest time that any single thing may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The reactors that this host allows, each with one shard and with two.
pub fn kinds() -> Vec<(IoChoice, usize)> {
    let uring = fulmar_transport::open(Default::default(), IoChoice::Uring);
    let mut kinds = vec![(IoChoice::Epoll, 1), (IoChoice::Epoll, 2)];
    match uring {
        Ok(_) => kinds.extend([(IoChoice::Uring, 1), (IoChoice::Uring, 2)]),
        Err(refused) => eprintln!("io_uring is not tested: {refused}"),
    }
    kinds
}

/// A broker in this process, on a free port.
pub fn start(io: IoChoice, shards: usize, change: impl FnOnce(&mut Settings)) -> Running {
    let mut settings = Settings { io, shards, ..Settings::in_process() };
    change(&mut settings);
    Broker::start(&settings).expect("the broker starts")
}

/// Runs a test against a broker of every kind.
pub fn with_brokers(test: impl Fn(&Running)) {
    for (io, shards) in kinds() {
        eprintln!("{io:?}, {shards} shards");
        let running = start(io, shards, |_| {});
        test(&running);
        running.stop(PATIENCE).expect("the broker stops");
    }
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A frame, taken off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedFrame {
    pub kind: FrameKind,
    pub channel: u16,
    pub payload: Vec<u8>,
}

impl OwnedFrame {
    pub fn method(&self) -> Method<'_> {
        assert_eq!(self.kind, FrameKind::Method, "{self:?}");
        Method::decode(&self.payload).expect("the broker sends valid methods")
    }
}

/// A client that does one thing at a time.
pub struct Client {
    pub stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    /// A socket, nothing said yet.
    pub fn raw(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, input: Vec::new() }
    }

    /// Logged in as guest, channel 1 open.
    pub fn open(addr: SocketAddr) -> Self {
        let mut client = Self::login(addr, "guest", "guest").expect("guest may log in");
        client.send(1, &Method::ChannelOpen);
        assert_eq!(client.frame().method(), Method::ChannelOpenOk);
        client
    }

    /// Logged in, `/` open; otherwise the code and text of the refusal.
    pub fn login(addr: SocketAddr, user: &str, password: &str) -> Result<Self, (u16, String)> {
        let mut client = Self::raw(addr);
        client.send_bytes(&PROTOCOL_HEADER);
        assert!(matches!(client.frame().method(), Method::ConnectionStart { .. }));
        client.send_bytes(&start_ok(user, password));
        let answer = client.frame();
        if let Method::ConnectionClose { reply_code, reply_text, .. } = answer.method() {
            return Err((reply_code, String::from_utf8_lossy(reply_text).into_owned()));
        }
        let Method::ConnectionTune { channel_max, frame_max, .. } = answer.method() else {
            panic!("{:?}", answer.method());
        };
        client.send(0, &Method::ConnectionTuneOk { channel_max, frame_max, heartbeat: 0 });
        client.send(0, &Method::ConnectionOpen { virtual_host: b"/" });
        assert_eq!(client.frame().method(), Method::ConnectionOpenOk);
        Ok(client)
    }

    pub fn send(&mut self, channel: u16, method: &Method<'_>) {
        let mut out = Vec::new();
        method.encode(channel, &mut out);
        self.send_bytes(&out);
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the broker reads");
    }

    /// The next frame that is no heartbeat.
    pub fn frame(&mut self) -> OwnedFrame {
        self.try_frame().expect("the broker answers in time").expect("the connection stands")
    }

    /// The next frame; `None` at the end.
    pub fn try_frame(&mut self) -> io::Result<Option<OwnedFrame>> {
        loop {
            if let Some((frame, length)) =
                frame::parse(&self.input, 0).expect("the broker sends valid frames")
            {
                let owned =
                    OwnedFrame { kind: frame.kind, channel: frame.channel, payload: frame.payload.to_vec() };
                self.input.drain(..length);
                if owned.kind != FrameKind::Heartbeat {
                    return Ok(Some(owned));
                }
                continue;
            }
            let mut bytes = [0; 65536];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.input.extend_from_slice(&bytes[..count]),
                // An io_uring that this thread has tried out and dropped interrupts it.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Everything until the broker closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.input);
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the broker does not close: {error}"),
        }
        rest
    }

    pub fn declare(&mut self, queue: &[u8]) {
        self.send(1, &declare(queue));
        let answer = self.frame();
        assert!(matches!(answer.method(), Method::QueueDeclareOk { .. }), "{:?}", answer.method());
    }

    pub fn consume(&mut self, queue: &[u8]) {
        self.send(1, &consume(queue));
        let answer = self.frame();
        assert!(matches!(answer.method(), Method::BasicConsumeOk { .. }), "{:?}", answer.method());
    }

    pub fn publish(&mut self, queue: &[u8], body: &[u8]) {
        let mut out = Vec::new();
        publish(queue, body, &mut out);
        self.send_bytes(&out);
    }

    /// The next delivery's delivery tag and body.
    pub fn delivery(&mut self) -> (u64, Vec<u8>) {
        let frame = self.frame();
        let Method::BasicDeliver { delivery_tag, .. } = frame.method() else {
            panic!("{:?}", frame.method());
        };
        let header = self.frame();
        assert_eq!(header.kind, FrameKind::Header);
        let size = u64::from_be_bytes(header.payload[4..12].try_into().unwrap()) as usize;
        let mut body = Vec::new();
        while body.len() < size {
            let frame = self.frame();
            assert_eq!(frame.kind, FrameKind::Body);
            body.extend(frame.payload);
        }
        (delivery_tag, body)
    }
}

pub fn start_ok(user: &str, password: &str) -> Vec<u8> {
    let response = format!("\0{user}\0{password}");
    // The capability makes a refused login end with connection.close rather than with silence.
    let capability = b"\x1cauthentication_failure_closet\x01";
    let mut properties = b"\x0ccapabilitiesF".to_vec();
    properties.extend((capability.len() as u32).to_be_bytes());
    properties.extend(capability);
    let mut out = Vec::new();
    let method = Method::ConnectionStartOk {
        client_properties: TableRef::new(&properties),
        mechanism: b"PLAIN",
        response: response.as_bytes(),
        locale: b"en_US",
    };
    method.encode(0, &mut out);
    out
}

pub fn declare(queue: &[u8]) -> Method<'_> {
    Method::QueueDeclare {
        queue,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: TableRef::default(),
    }
}

pub fn consume(queue: &[u8]) -> Method<'_> {
    Method::BasicConsume {
        queue,
        consumer_tag: b"",
        no_local: false,
        no_ack: true,
        exclusive: false,
        no_wait: false,
        arguments: TableRef::default(),
    }
}

pub fn publish(queue: &[u8], body: &[u8], out: &mut Vec<u8>) {
    let method =
        Method::BasicPublish { exchange: b"", routing_key: queue, mandatory: false, immediate: false };
    method.encode(1, out);
    frame::encode_content(1, &[0, 0], body, 131_072, out);
}

/// The program, running.
pub struct Program {
    pub child: Child,
    pub addr: SocketAddr,
    // Kept, so that what the program writes has somewhere to go.
    _stdout: BufReader<ChildStdout>,
}

impl Program {
    /// `fulmar serve` on a free port, with further options. Messages are kept in memory unless those say otherwise.
    pub fn serve(options: &[&str]) -> Self {
        Self::serve_in(&[], options)
    }

    /// The same, with variables in its environment.
    pub fn serve_in(environment: &[(&str, &str)], options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fulmar"))
            .env("FULMAR_NO_DATA_DIR", "true")
            .envs(environment.iter().copied())
            .args(["serve", "--listen", "127.0.0.1:0", "--users-file", "/dev/null"])
            .args(["--cpu-affinity", "none", "--print-port", "--log-level", "warn"])
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().expect("the first line is the port");
        line.clear();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), format!("fulmar is ready on 127.0.0.1:{port} (AMQP 0-9-1, AMQP 0-10)"));
        Program { child, addr: SocketAddr::from(([127, 0, 0, 1], port)), _stdout: stdout }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: sends a signal to a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Its exit code, once it has ended.
    pub fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("the program ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// Memory that it occupies, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
