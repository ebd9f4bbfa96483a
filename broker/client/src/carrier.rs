//! What carries a connection, when there is a choice.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::rdma::RdmaStream;
use crate::{Carrier, Options};

/// The longest frame that the stream of a connection carries; set by whoever makes it, before anything is said over it.
#[derive(Clone, Debug)]
pub(crate) struct FrameLimit(Arc<AtomicU32>);

impl Default for FrameLimit {
    fn default() -> Self {
        FrameLimit(Arc::new(AtomicU32::new(u32::MAX)))
    }
}

impl FrameLimit {
    pub(crate) fn bytes(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, bytes: Option<u32>) {
        self.0.store(bytes.unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// A stream over any of the carriers.
pub(crate) enum AnyStream {
    Tcp(TcpStream),
    Rdma(Box<RdmaStream>),
}

impl AnyStream {
    /// Connects over the first carrier that works. What did not is said in one line each. A carrier that has others after
    /// it may take its share of `patience`, lest they never get their turn.
    pub(crate) async fn connect(
        carriers: Vec<Carrier>,
        host: String,
        port: u16,
        patience: Duration,
        limit: FrameLimit,
    ) -> io::Result<AnyStream> {
        let share = patience / carriers.len().max(1) as u32;
        let mut last = io::Error::other("no carrier was named");
        for (at, carrier) in carriers.iter().enumerate() {
            let connecting = AnyStream::connect_over(*carrier, &host, port);
            let connected = match tokio::time::timeout(share, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer for {share:?}"))),
            };
            match connected {
                Ok(stream) => {
                    limit.set(stream.largest_frame_bytes());
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
            if let Some(next) = carriers.get(at + 1) {
                log::warn!("{carrier}: {last}; trying {next}");
            }
        }
        Err(last)
    }

    async fn connect_over(carrier: Carrier, host: &str, port: u16) -> io::Result<AnyStream> {
        match carrier {
            Carrier::Tcp => crate::connection::connect_tcp((host.to_owned(), port)).await.map(AnyStream::Tcp),
            Carrier::Rdma => RdmaStream::connect(host, port).await.map(|s| AnyStream::Rdma(Box::new(s))),
        }
    }

    fn largest_frame_bytes(&self) -> Option<u32> {
        match self {
            AnyStream::Tcp(_) => None,
            AnyStream::Rdma(stream) => stream.largest_frame_bytes(),
        }
    }
}

impl Options {
    /// The carriers to try, in order.
    pub(crate) fn carriers(&self) -> Vec<Carrier> {
        std::iter::once(self.carrier).chain(self.fallbacks.iter().copied()).collect()
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            AnyStream::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            AnyStream::Rdma(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for AnyStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, into))
    }
}

impl AsyncWrite for AnyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}
