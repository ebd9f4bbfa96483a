//! Choosing a transport at run time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::str::FromStr;
use std::sync::Arc;

use crate::{
    Close, Config, ConnId, Detached, EpollTransport, Event, FileOperation, ListenerId, RecvBuf, Transport,
    UringTransport, Wait, Waker,
};

/// Which transport to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring, or epoll where it is refused.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

impl FromStr for IoChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(IoChoice::Auto),
            "uring" | "io_uring" => Ok(IoChoice::Uring),
            "epoll" => Ok(IoChoice::Epoll),
            _ => Err(format!("`{text}` is none of auto, uring, epoll")),
        }
    }
}

/// Either of the real transports. A program that is generic over [`Transport`] looks once and goes on with the one
/// inside; one that is not uses this as it is, for a predictable branch a call.
pub enum AnyTransport {
    /// io_uring.
    Uring(Box<UringTransport>),
    /// epoll.
    Epoll(Box<EpollTransport>),
}

/// Makes a transport. With [`IoChoice::Auto`], a refused io_uring is logged with what refuses it.
///
/// # Errors
/// What was asked for is refused, or the system has no room for it.
pub fn open(config: Config, choice: IoChoice) -> io::Result<AnyTransport> {
    let epoll = |config| Ok(AnyTransport::Epoll(Box::new(EpollTransport::new(config)?)));
    if choice == IoChoice::Epoll {
        return epoll(config);
    }
    match UringTransport::new(config.clone()) {
        Ok(uring) => Ok(AnyTransport::Uring(Box::new(uring))),
        Err(refused) if choice == IoChoice::Auto => {
            log::warn!("using epoll: {refused}");
            epoll(config)
        }
        Err(refused) => Err(io::Error::new(io::ErrorKind::Unsupported, refused)),
    }
}

macro_rules! either {
    ($self:ident, $inner:ident => $call:expr) => {
        match $self {
            AnyTransport::Uring($inner) => $call,
            AnyTransport::Epoll($inner) => $call,
        }
    };
}

impl Transport for AnyTransport {
    fn listen(&mut self, addr: SocketAddr, backlog: u32) -> io::Result<(ListenerId, SocketAddr)> {
        either!(self, inner => inner.listen(addr, backlog))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        either!(self, inner => inner.unlisten(listener));
    }

    fn connect(&mut self, addr: SocketAddr) -> io::Result<ConnId> {
        either!(self, inner => inner.connect(addr))
    }

    fn turn(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        either!(self, inner => inner.turn(wait, events))
    }

    #[inline]
    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        either!(self, inner => inner.bytes(buf))
    }

    #[inline]
    fn recycle(&mut self, buf: RecvBuf) {
        either!(self, inner => inner.recycle(buf));
    }

    #[inline]
    fn output(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        either!(self, inner => inner.output(conn))
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        either!(self, inner => inner.watch(fd))
    }

    #[inline]
    fn pending_bytes(&self, conn: ConnId) -> usize {
        either!(self, inner => inner.pending_bytes(conn))
    }

    #[inline]
    fn flush(&mut self) {
        either!(self, inner => inner.flush());
    }

    fn pause(&mut self, conn: ConnId) {
        either!(self, inner => inner.pause(conn));
    }

    fn resume(&mut self, conn: ConnId) {
        either!(self, inner => inner.resume(conn));
    }

    fn close(&mut self, conn: ConnId, how: Close) {
        either!(self, inner => inner.close(conn, how));
    }

    fn detach(&mut self, conn: ConnId) {
        either!(self, inner => inner.detach(conn));
    }

    fn adopt(&mut self, detached: Detached) -> io::Result<ConnId> {
        either!(self, inner => inner.adopt(detached))
    }

    fn file(&mut self, token: u64, operation: FileOperation) {
        either!(self, inner => inner.file(token, operation));
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        either!(self, inner => inner.now_ns())
    }

    fn wall_ms(&self) -> u64 {
        either!(self, inner => inner.wall_ms())
    }

    fn waker(&self) -> Arc<dyn Waker> {
        either!(self, inner => inner.waker())
    }

    fn name(&self) -> &'static str {
        either!(self, inner => inner.name())
    }
}
