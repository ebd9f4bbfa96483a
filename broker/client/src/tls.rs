//! TLS over TCP: what a connection is secured with, and what its failures mean.

use std::io;

use fulmar_tls::rustls::pki_types::ServerName;
use fulmar_tls::{Failure, client_config};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connection::connect_tcp;
use crate::{Carrier, Error, Options};

/// What the connections of some options are secured with. Files are read once, when it is made.
#[derive(Clone)]
pub(crate) struct Security {
    connector: TlsConnector,
    server_name: ServerName<'static>,
}

impl Security {
    /// `None` where no TLS is asked for.
    ///
    /// # Errors
    /// [`Error::Argument`]: a file that cannot be used, a host that no certificate can name, TLS over what is not TCP.
    pub(crate) fn of(options: &Options) -> Result<Option<Security>, Error> {
        let Some(tls) = &options.tls else { return Ok(None) };
        if options.carriers().contains(&Carrier::Rdma) {
            return Err(Error::Argument("RDMA carries no TLS; use TCP, or a URL without TLS".into()));
        }
        let config = client_config(tls).map_err(|error| Error::Argument(format!("TLS: {error}")))?;
        let name = options.server_name.as_ref().unwrap_or(&options.host);
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| Error::Argument(format!("{name:?} is no name that a certificate could have")))?;
        Ok(Some(Security { connector: TlsConnector::from(config), server_name }))
    }

    /// Connects, and waits for the end of the handshake.
    ///
    /// # Errors
    /// The system's; or one about TLS, which [`failure`] takes apart.
    pub(crate) async fn connect(self, address: (String, u16)) -> io::Result<TlsStream<TcpStream>> {
        let stream = connect_tcp(address).await?;
        self.connector.connect(self.server_name, stream).await.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => io::Error::new(
                error.kind(),
                "it hung up during the handshake of TLS; does it speak TLS on this port?",
            ),
            _ => error,
        })
    }
}

/// The error of TLS that an error of a stream is about, if it is.
pub(crate) fn failure(options: &Options, error: &io::Error) -> Option<Error> {
    let failure = Failure::of_io(error)?;
    Some(Error::Tls { address: options.address(), failure })
}
