//! Asks a broker who it is, which also tells whether it is ready.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use fulmar_amqp_0_9_1::codec::{FrameKind, Method, PROTOCOL_HEADER, TableRef, frame};
use fulmar_amqp_0_10::codec::frame as frame_0_10;
use fulmar_amqp_0_10::codec::{Control, MapRef, ProtocolHeader};
use fulmar_core::value::Value;

use crate::url::Protocol;

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

/// The greeting of a broker.
///
/// # Errors
/// Nobody answers within `patience`, or nothing that is of the protocol.
pub fn greeting(protocol: Protocol, address: SocketAddr, patience: Duration) -> io::Result<Greeting> {
    let began = Instant::now();
    let mut socket = TcpStream::connect_timeout(&address, patience)?;
    socket.set_write_timeout(Some(patience))?;
    match protocol {
        Protocol::Amqp091 => socket.write_all(&PROTOCOL_HEADER)?,
        Protocol::Amqp010 => socket.write_all(&ProtocolHeader::AMQP_0_10.to_bytes())?,
    }
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    while received.len() < LONGEST {
        let left = patience.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let count = socket.read(&mut piece)?;
        received.extend_from_slice(&piece[..count]);
        let greeting = match protocol {
            Protocol::Amqp091 => read(&received)?,
            Protocol::Amqp010 => read_0_10(&received)?,
        };
        if let Some(greeting) = greeting {
            return Ok(greeting);
        }
        if count == 0 || began.elapsed() >= patience {
            break;
        }
    }
    Err(io::Error::other(format!("it does not greet as {} brokers do", protocol.name())))
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

fn read_0_10(received: &[u8]) -> io::Result<Option<Greeting>> {
    match ProtocolHeader::parse(received).map_err(io::Error::other)? {
        None => return Ok(None),
        Some(ProtocolHeader::AMQP_0_10) => {}
        Some(_) => return Err(io::Error::other("it offers another version of AMQP")),
    }
    let rest = &received[frame_0_10::PROTOCOL_HEADER_BYTES..];
    let Some((frame, _)) = frame_0_10::parse(rest, 0).map_err(io::Error::other)? else { return Ok(None) };
    match Control::decode(frame.payload).map_err(io::Error::other)? {
        Control::ConnectionStart(start) => {
            let properties = start.server_properties.unwrap_or_default();
            Ok(Some(Greeting {
                product: text_0_10(properties, "product"),
                version: text_0_10(properties, "version"),
            }))
        }
        _ => Err(io::Error::other("its first control is not connection.start")),
    }
}

fn text_0_10(properties: MapRef<'_>, name: &str) -> Option<String> {
    let value = properties.get(name.as_bytes()).ok()??.to_core().ok()?;
    value.as_bytes().map(|text| String::from_utf8_lossy(text).into_owned())
}
