//! Many connections on one thread that say what they have to say, quickly or slowly, and then wait for what the broker
//! does about it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::{Method, PROTOCOL_HEADER, TableRef};
use fulmar_tls::rustls::ClientConnection;
use fulmar_tls::rustls::pki_types::ServerName;
use fulmar_tls::{ClientOptions, client_config};

use super::{DisturbArgs, Nuisance, Tally};
use crate::BenchError;
use crate::recipe::Running;

/// Between two looks at whether a connection is due.
const TICK: Duration = Duration::from_millis(2);
/// Between two looks at all connections.
const SWEEP: Duration = Duration::from_millis(100);
/// Between two bytes of those that are slow.
const SLOW: Duration = Duration::from_secs(1);
/// `connection.close` of AMQP 0-9-1, as its frame has it.
const CLOSE: [u8; 4] = [0, 10, 0, 50];
/// Where a half-open handshake stops that does so in its first record.
const HALF_BYTES: usize = 60;

/// What each connection says.
struct Script {
    /// At once.
    first: Vec<u8>,
    /// What every second one says instead.
    second: Option<Vec<u8>>,
    /// A byte at a time.
    slowly: Vec<u8>,
    /// Again and again.
    endlessly: Vec<u8>,
}

struct Member {
    socket: TcpStream,
    opened: Instant,
    /// How many of the slow bytes it has said.
    said: usize,
}

/// Makes the nuisance until told to stop.
///
/// # Errors
/// What is to be said cannot be made.
pub(super) fn run(args: &DisturbArgs, broker: &Running, stop: &AtomicBool) -> Result<Tally, BenchError> {
    let script = Script::of(args.nuisance)?;
    let port = if args.nuisance == Nuisance::HalfOpen { broker.url.port } else { broker.plain_port };
    let mut tally = Tally::default();
    let mut members: Vec<Member> = Vec::new();
    let begun = Instant::now();
    let mut swept = begun;
    let mut due = 0;
    while !stop.load(Ordering::Relaxed) {
        let elapsed = begun.elapsed().as_secs_f64();
        due = due.max((elapsed * f64::from(args.nuisance_rate)) as u64);
        let tried = tally.opened + tally.refused;
        // What is not opened in time is not made up for in a burst.
        let room = (args.nuisance_connections as usize).saturating_sub(members.len()) as u64;
        for n in tried..due.min(tried + room.min(100)) {
            match args.connect(n, port, true) {
                Ok(socket) => {
                    tally.opened += 1;
                    let mut member = Member { socket, opened: Instant::now(), said: 0 };
                    if member.begin(n, &script) {
                        members.push(member);
                    }
                }
                Err(_) => tally.refused += 1,
            }
        }
        tally.most = tally.most.max(members.len() as u64);
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            members.retain_mut(|member| {
                let stays = member.go_on(&script);
                if !stays {
                    tally.ended += 1;
                    tally.took.record(member.opened.elapsed().as_nanos() as u64);
                }
                stays
            });
        }
        std::thread::sleep(TICK);
    }
    tally.seconds = begun.elapsed().as_secs_f64();
    Ok(tally)
}

impl Member {
    /// Says what is said at once. Whether it stands.
    fn begin(&mut self, n: u64, script: &Script) -> bool {
        let first = match &script.second {
            Some(second) if n % 2 == 1 => second,
            _ => &script.first,
        };
        self.say(first)
    }

    /// Whether the broker still has it.
    fn go_on(&mut self, script: &Script) -> bool {
        let mut heard = [0; 4096];
        loop {
            match self.socket.read(&mut heard) {
                Ok(0) => return false,
                Ok(count) if heard[..count].windows(4).any(|bytes| bytes == CLOSE) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        let due = 1 + (self.opened.elapsed().as_secs_f64() / SLOW.as_secs_f64()) as usize;
        while self.said < due.min(script.slowly.len()) {
            if !self.say(&script.slowly[self.said..=self.said]) {
                return false;
            }
            self.said += 1;
        }
        script.endlessly.is_empty() || self.say(&script.endlessly)
    }

    /// Says as much of it as is taken now. Whether the connection stands.
    fn say(&mut self, bytes: &[u8]) -> bool {
        let taken = self.socket.write(bytes);
        !taken.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    }
}

impl Script {
    fn of(nuisance: Nuisance) -> Result<Script, BenchError> {
        let mut script =
            Script { first: Vec::new(), second: None, slowly: Vec::new(), endlessly: Vec::new() };
        match nuisance {
            Nuisance::HalfOpen | Nuisance::Handshakes => {
                let hello = hello()?;
                script.second = Some(hello[..HALF_BYTES].to_vec());
                script.first = hello;
            }
            Nuisance::SlowLoris => script.slowly = login("guest", "guest"),
            Nuisance::WrongPasswords => script.first = login("nobody", "a wrong password"),
            Nuisance::GiantFrames => {
                script.first = PROTOCOL_HEADER.to_vec();
                script.first.extend_from_slice(&[1, 0, 0, 0x7f, 0xff, 0xff, 0xff]);
                script.endlessly = vec![0; 64 * 1024];
            }
        }
        Ok(script)
    }
}

/// All that a client says up to its password, without waiting for an answer.
fn login(user: &str, password: &str) -> Vec<u8> {
    let mut bytes = PROTOCOL_HEADER.to_vec();
    let response = format!("\0{user}\0{password}");
    let start = Method::ConnectionStartOk {
        client_properties: TableRef::EMPTY,
        mechanism: b"PLAIN",
        response: response.as_bytes(),
        locale: b"en_US",
    };
    start.encode(0, &mut bytes);
    bytes
}

/// What a client begins a handshake with.
fn hello() -> Result<Vec<u8>, BenchError> {
    let anybody = ClientOptions { trust: fulmar_tls::Trust::Anybody, ..ClientOptions::default() };
    let config = client_config(&anybody).map_err(|error| BenchError::Options(error.to_string()))?;
    let name = ServerName::try_from("localhost").expect("it is a name");
    let mut client = ClientConnection::new(Arc::clone(&config), name)
        .map_err(|error| BenchError::Options(error.to_string()))?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_hello_is_less_than_a_record() {
        let hello = hello().unwrap();
        let record = 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        assert_eq!((hello[0], hello.len()), (22, record));
        assert!(HALF_BYTES < record);
    }

    #[test]
    fn a_login_is_a_header_and_a_frame() {
        let login = login("a", "b");
        assert!(login.starts_with(&PROTOCOL_HEADER) && login.ends_with(&[206]));
        assert!(login.windows(4).any(|bytes| bytes == [0, 10, 0, 11]));
    }
}
