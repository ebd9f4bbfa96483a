//! A connection's bytes: plain TCP, or TLS over it. Blocking while it is set up, non-blocking under load.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use fulmar_tls::rustls::{ClientConnection, StreamOwned};

/// A TCP connection, perhaps with TLS.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Tcp(TcpStream),
    /// Encrypted.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// The socket beneath.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Tcp(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }

    /// Reads what is there; `None` if nothing is.
    ///
    /// # Errors
    /// The system's, or that of TLS. An orderly end is 0 bytes.
    pub fn read_now(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        now(self.read(buffer))
    }

    /// Writes what is taken; `None` if nothing is.
    ///
    /// # Errors
    /// The system's, or that of TLS.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        now(self.write(bytes))
    }

    /// Bytes were taken that the kernel does not have yet.
    pub fn holds_output(&self) -> bool {
        matches!(self, Stream::Tls(tls) if tls.conn.wants_write())
    }

    /// Hands the kernel what is held; returns whether it took anything.
    ///
    /// # Errors
    /// The system's.
    pub fn push(&mut self) -> io::Result<bool> {
        let Stream::Tls(tls) = self else { return Ok(false) };
        let mut moved = false;
        while tls.conn.wants_write() {
            match now(tls.conn.write_tls(&mut tls.sock))? {
                Some(_) => moved = true,
                None => break,
            }
        }
        Ok(moved)
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}

fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
