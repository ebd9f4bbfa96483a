//! Asks a broker who it is, which also tells whether it is ready.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, PROTOCOL_HEADER, TableRef, frame};
use fulmar_core::value::Value;

/// Longest greeting that is read, in bytes.
const LONGEST: usize = 64 * 1024;

/// What a broker says of itself to whoever connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// `RabbitMQ`.
    pub product: Option<String>,
    /// Its version.
    pub version: Option<String>,
}

/// The greeting of an AMQP 0-9-1 broker.
///
/// # Errors
/// Nobody answers within `patience`, or nothing that is AMQP 0-9-1.
pub fn greeting(address: SocketAddr, patience: Duration) -> io::Result<Greeting> {
    let began = Instant::now();
    let mut socket = TcpStream::connect_timeout(&address, patience)?;
    socket.set_write_timeout(Some(patience))?;
    socket.write_all(&PROTOCOL_HEADER)?;
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    while received.len() < LONGEST {
        let left = patience.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let count = socket.read(&mut piece)?;
        received.extend_from_slice(&piece[..count]);
        if let Some(greeting) = read(&received)? {
            return Ok(greeting);
        }
        if count == 0 || began.elapsed() >= patience {
            break;
        }
    }
    Err(io::Error::other("it does not greet as AMQP 0-9-1 brokers do"))
}

fn read(received: &[u8]) -> io::Result<Option<Greeting>> {
    let Some((frame, _)) = frame::parse(received, LONGEST as u32).map_err(io::Error::other)? else {
        return Ok(None);
    };
    if frame.kind != FrameKind::Method {
        return Err(io::Error::other("its first frame is no method"));
    }
    match Method::decode(frame.payload).map_err(io::Error::other)? {
        Method::ConnectionStart { server_properties, .. } => Ok(Some(Greeting {
            product: text(server_properties, "product"),
            version: text(server_properties, "version"),
        })),
        _ => Err(io::Error::other("its first method is not connection.start")),
    }
}

fn text(properties: TableRef<'_>, name: &str) -> Option<String> {
    match properties.get(name.as_bytes()).ok()?? {
        Value::Text(name) => Some(String::from_utf8_lossy(name.as_bytes()).into_owned()),
        _ => None,
    }
}
