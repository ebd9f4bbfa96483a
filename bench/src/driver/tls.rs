//! TLS for load generators: a handshake on a blocking socket.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use fulmar_tls::rustls::pki_types::ServerName;
use fulmar_tls::rustls::{ClientConfig, ClientConnection, StreamOwned};
use fulmar_tls::{ClientOptions, Failure, FileError, Trust, client_config};

use super::stream::Stream;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates, or the system's.
    #[error("{error}{}", if *.is_systems { "; --ca-file names some" } else { "" })]
    Files {
        /// What is wrong.
        error: FileError,
        /// Nobody named any.
        is_systems: bool,
    },
    /// The host is no name that a certificate could have.
    #[error("{0:?} is no name of a server")]
    Name(String),
    /// The two sides do not agree, or do not believe each other.
    #[error("TLS: {0}")]
    Tls(#[from] Failure),
    /// It said nothing that would be TLS.
    #[error("TLS: it hung up during the handshake; does it speak TLS on this port?")]
    HungUp,
    /// The socket.
    #[error("TLS: {0}")]
    Socket(io::Error),
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        match Failure::of_io(&error) {
            Some(failure) => TlsError::Tls(failure),
            None if error.kind() == io::ErrorKind::UnexpectedEof => TlsError::HungUp,
            None => TlsError::Socket(error),
        }
    }
}

/// Begins TLS on a connected socket and waits for the end of the handshake.
///
/// # Errors
/// No certificates, or the handshake failed.
pub fn connect(socket: TcpStream, host: &str, options: &ClientOptions) -> Result<Stream, TlsError> {
    let is_systems = options.trust == Trust::System;
    let config = client_config(options).map_err(|error| TlsError::Files { error, is_systems })?;
    connect_with(socket, host, config)
}

/// As [`connect`], with what was read from the files before.
///
/// # Errors
/// The handshake failed.
pub fn connect_with(
    mut socket: TcpStream,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<Stream, TlsError> {
    let name = ServerName::try_from(host.to_string()).map_err(|_| TlsError::Name(host.into()))?;
    let mut connection = ClientConnection::new(config, name).map_err(Failure::from)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(Stream::Tls(Box::new(StreamOwned::new(connection, socket))))
}
