//! A connection's bytes: plain TCP, TLS over it, or RDMA. Blocking while it is set up, non-blocking under load.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use fulmar_tls::rustls::{ClientConnection, StreamOwned};

use super::rdma::RdmaStream;
use crate::poll::PollSet;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Tcp(TcpStream),
    /// Encrypted.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Over RDMA.
    Rdma(RdmaStream),
}

impl Stream {
    /// The same connection again.
    ///
    /// # Errors
    /// The system's, or it is one of TLS.
    pub fn twin(&self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(socket) => socket.try_clone().map(Stream::Tcp),
            Stream::Tls(_) => Err(ErrorKind::Unsupported.into()),
            Stream::Rdma(rdma) => Ok(Stream::Rdma(rdma.clone())),
        }
    }

    /// From now on reads and writes return at once.
    ///
    /// # Errors
    /// The system's.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(socket) => socket.set_nonblocking(true),
            Stream::Tls(tls) => tls.sock.set_nonblocking(true),
            Stream::Rdma(rdma) => {
                rdma.set_nonblocking();
                Ok(())
            }
        }
    }

    /// The longest frame that the other side can take, where the connection limits that.
    pub fn largest_frame_bytes(&self) -> Option<u32> {
        match self {
            Stream::Rdma(rdma) => rdma.largest_frame_bytes(),
            Stream::Tcp(_) | Stream::Tls(_) => None,
        }
    }

    /// Waits for this to be readable, writable or both; returns whether it need not wait.
    pub fn watch(&self, set: &mut PollSet, readable: bool, writable: bool) -> bool {
        match self {
            Stream::Rdma(rdma) => rdma.watch(set, readable),
            Stream::Tcp(_) | Stream::Tls(_) => {
                set.add(self, readable, writable);
                false
            }
        }
    }

    /// Whether its descriptor tells of input without having been asked to by [`Stream::watch`].
    pub fn tells_of_input(&self) -> bool {
        !matches!(self, Stream::Rdma(_))
    }

    /// There may be input above the descriptor, which does not tell of it.
    pub fn holds_input(&self) -> bool {
        match self {
            Stream::Tcp(_) => false,
            Stream::Tls(_) => true,
            Stream::Rdma(rdma) => rdma.holds_input(),
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

    /// Bytes were taken that are not on their way yet.
    pub fn holds_output(&self) -> bool {
        match self {
            Stream::Tcp(_) => false,
            Stream::Tls(tls) => tls.conn.wants_write(),
            Stream::Rdma(rdma) => rdma.holds_output(),
        }
    }

    /// Hands on what is held; returns whether anything was taken.
    ///
    /// # Errors
    /// The system's.
    pub fn push(&mut self) -> io::Result<bool> {
        let tls = match self {
            Stream::Tcp(_) => return Ok(false),
            Stream::Rdma(rdma) => return rdma.push(),
            Stream::Tls(tls) => tls,
        };
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
            Stream::Rdma(rdma) => rdma.read(buffer),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
            Stream::Rdma(rdma) => rdma.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
            Stream::Rdma(rdma) => rdma.flush(),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Tcp(socket) => socket.as_raw_fd(),
            Stream::Tls(tls) => tls.sock.as_raw_fd(),
            Stream::Rdma(rdma) => rdma.as_raw_fd(),
        }
    }
}

/// Connects without TLS, by TCP or RDMA, for reads and writes that return at once.
///
/// # Errors
/// The system's.
pub fn connect(address: SocketAddr, is_rdma: bool) -> io::Result<Stream> {
    let stream = if is_rdma {
        Stream::Rdma(RdmaStream::connect(address)?)
    } else {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Stream::Tcp(socket)
    };
    stream.set_nonblocking()?;
    Ok(stream)
}

fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
