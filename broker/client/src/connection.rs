//! A connection, as the application holds it.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

use crate::carrier::{AnyStream, FrameLimit};
use crate::channel::Channel;
use crate::driver;
use crate::request::Request;
use crate::session::{Phase, Shared};
use crate::tls::Security;
use crate::{Carrier, Error, Options};

/// A connection to a broker. Clones are the same connection; it closes when the last one and all its channels are
/// gone, or by [`Connection::close`].
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

/// What keeps the connection open.
pub(crate) struct Inner {
    pub shared: Arc<Shared>,
}

/// What happens to a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The broker takes no publishes, for this reason; publishing waits.
    Blocked(String),
    /// It takes publishes again.
    Unblocked,
    /// The connection broke; it is being made again.
    Disconnected(Error),
    /// A new connection stands, and everything that could be restored is.
    Reconnected,
    /// Something could not be restored.
    RecoveryFailed {
        /// What.
        what: String,
        /// Why.
        error: Error,
    },
    /// A queue that the broker had named got a new name; its bindings and consumers follow.
    QueueRenamed {
        /// The name until now.
        old: String,
        /// The name from now on.
        new: String,
    },
    /// The connection is over for good.
    Closed(Error),
}

/// The events of a connection, from the call of [`Connection::events`] on.
pub struct ConnectionEvents {
    receiver: broadcast::Receiver<ConnectionEvent>,
}

impl ConnectionEvents {
    /// The next event; `None` after the last one. Who lags far behind misses the oldest.
    pub async fn next(&mut self) -> Option<ConnectionEvent> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Connection {
    /// Connects and logs in. Must be called within a tokio runtime, which also runs what the connection does by
    /// itself: heartbeats, reconnection.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), fulmar_client::Error> {
    /// use fulmar_client::{Connection, Options};
    ///
    /// let connection = Connection::open(Options::from_url("amqp://guest:guest@localhost/")?).await?;
    /// let channel = connection.channel().await?;
    /// channel.publish_to_queue("hello", b"Hello World!").await?;
    /// connection.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`], [`Error::Argument`] for files of TLS, [`Error::Login`], [`Error::Timeout`], or the broker's refusal. The first attempt is the only
    /// one; [`Options::reconnect`] is for connections that once stood.
    pub async fn open(options: Options) -> Result<Connection, Error> {
        if let Some(security) = Security::of(&options)? {
            let address = (options.host.clone(), options.port);
            return Connection::open_over(options, move || security.clone().connect(address.clone())).await;
        }
        match options.carrier {
            Carrier::Tcp if options.fallbacks.is_empty() => {
                let address = (options.host.clone(), options.port);
                Connection::open_over(options, move || connect_tcp(address.clone())).await
            }
            Carrier::Tcp | Carrier::Rdma => {
                let (carriers, host, port) = (options.carriers(), options.host.clone(), options.port);
                let limit = FrameLimit::default();
                let found = limit.clone();
                let patience = options.connect_timeout;
                let connect =
                    move || AnyStream::connect(carriers.clone(), host.clone(), port, patience, found.clone());
                Connection::open_within(options, limit, connect).await
            }
        }
    }

    /// As [`Connection::open`], over streams that `connect` makes: one now, and one for each reconnection.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn open_over<S, C, F>(options: Options, connect: C) -> Result<Connection, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: FnMut() -> F + Send + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        Connection::open_within(options, FrameLimit::default(), connect).await
    }

    async fn open_within<S, C, F>(
        options: Options,
        frame_limit: FrameLimit,
        mut connect: C,
    ) -> Result<Connection, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        C: FnMut() -> F + Send + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
    {
        check_short("the user name", &options.user)?;
        check_short("the virtual host", &options.virtual_host)?;
        let shared = Arc::new(Shared::new(options, frame_limit));
        let link = driver::establish(&shared, &mut connect).await?;
        shared.lock().ready();
        tokio::spawn(driver::run(shared.clone(), link, connect));
        Ok(Connection { inner: Arc::new(Inner { shared }) })
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`Error::NoChannelLeft`], or the end of the connection.
    pub async fn channel(&self) -> Result<Channel, Error> {
        let shared = &self.inner.shared;
        let id = shared
            .until(|state| match &state.phase {
                Phase::Down => None,
                Phase::Closed(error) => Some(Err(error.clone())),
                Phase::Ready => Some(state.allocate_channel()),
            })
            .await?;
        let channel = Channel::new(id, self.inner.clone());
        shared.call(id, Request::OpenChannel).await?;
        Ok(channel)
    }

    /// What happens to the connection from now on.
    pub fn events(&self) -> ConnectionEvents {
        ConnectionEvents { receiver: self.inner.shared.events.subscribe() }
    }

    /// Whether the connection can be used at this moment: not while it is being made again.
    pub fn is_ready(&self) -> bool {
        matches!(self.inner.shared.lock().phase, Phase::Ready)
    }

    /// Sends what was published, then closes the connection in order. All channels and consumers end.
    ///
    /// # Errors
    /// The connection broke before the broker had answered; what was published may be lost.
    pub async fn close(&self) -> Result<(), Error> {
        let shared = &self.inner.shared;
        shared.start_close();
        let end = shared
            .until(|state| match &state.phase {
                Phase::Closed(error) => Some(Ok(error.clone())),
                Phase::Down | Phase::Ready => None,
            })
            .await?;
        match end {
            Error::Closed => Ok(()),
            error => Err(error),
        }
    }
}

impl Shared {
    fn start_close(&self) {
        let mut state = self.lock();
        if !state.closing {
            state.closing = true;
            state.engine.close();
            self.wake.notify_one();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.start_close();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.inner.shared.options.address()).finish()
    }
}

pub(crate) async fn connect_tcp((host, port): (String, u16)) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    // Where nobody listens on a port of the ephemeral range, TCP may connect a socket to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The protocol has room for 255 bytes.
pub(crate) fn check_short(what: &str, text: &str) -> Result<(), Error> {
    if text.len() <= 255 {
        return Ok(());
    }
    Err(Error::Argument(format!("{what} has {} bytes, the protocol allows 255", text.len())))
}
