//! Where to connect, as whom, and how the connection behaves.

use std::time::Duration;

use fulmar_tls::{ClientOptions as TlsOptions, Trust};

use crate::Error;
pub use crate::engine::Mechanism;

/// A protocol that this library speaks. More will come; match with a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protocol {
    /// AMQP 0-9-1 with RabbitMQ's extensions.
    Amqp091,
    /// AMQP 0-10, as Apache Qpid speaks it.
    Amqp010,
}

/// What carries the bytes. More will come; match with a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Carrier {
    /// TCP; encrypted where [`Options::tls`] asks for it.
    Tcp,
    /// RDMA, by the verbs libraries of this host.
    Rdma,
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Carrier::Tcp => "tcp",
            Carrier::Rdma => "rdma",
        })
    }
}

impl std::str::FromStr for Carrier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Carrier::Tcp),
            "rdma" => Ok(Carrier::Rdma),
            other => Err(format!("{other:?} is not a transport; tcp and rdma are")),
        }
    }
}

/// What happens to publishes in confirm mode whose answer had not come when the connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unconfirmed {
    /// Their confirmations fail with [`Error::ConnectionLost`]; the application decides.
    #[default]
    Report,
    /// They are kept and sent again, in order, after the connection is back. The broker may see some twice.
    Resend,
}

/// How to come back after the connection broke.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconnect {
    /// Wait before the first attempt.
    pub first_delay: Duration,
    /// Longest wait; each is twice the one before, up to a quarter less by chance.
    pub max_delay: Duration,
    /// Attempts after which to give up; `None` for no end.
    pub max_attempts: Option<u32>,
    /// Whether to declare again the exchanges, queues and bindings that were declared over the connection.
    pub topology: bool,
    /// What happens to unconfirmed publishes.
    pub unconfirmed: Unconfirmed,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect {
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            max_attempts: None,
            topology: true,
            unconfirmed: Unconfirmed::Report,
        }
    }
}

/// Everything about a connection that can be chosen. Start from a URL:
///
/// ```
/// # use fulmar_client::Options;
/// let options = Options::from_url("amqp://guest:guest@localhost:5672/%2F?heartbeat=30")?;
/// assert_eq!(options.virtual_host, "/");
/// # Ok::<(), fulmar_client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// Protocol.
    pub protocol: Protocol,
    /// Carrier.
    pub carrier: Carrier,
    /// What to try in its place, in this order, where it cannot be used.
    pub fallbacks: Vec<Carrier>,
    /// TLS with these; `None`: not encrypted. Files are read when the connection is opened.
    pub tls: Option<TlsOptions>,
    /// The name that the broker's certificate has to have; `None` for the host's.
    pub server_name: Option<String>,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// How to log in; `None` for [`Mechanism::Plain`] or, where a broker does not offer that, [`Mechanism::ScramSha256`].
    pub mechanism: Option<Mechanism>,
    /// Virtual host.
    pub virtual_host: String,
    /// How the connection calls itself in the broker's listings.
    pub connection_name: Option<String>,
    /// Largest frame that is offered, in bytes.
    pub frame_max_bytes: u32,
    /// Silence after which the peer counts as dead, in seconds; the broker may ask for less. 0 for none.
    pub heartbeat_s: u16,
    /// Longest time that connecting and logging in may take.
    pub connect_timeout: Duration,
    /// How to come back; `None` to fail instead.
    pub reconnect: Option<Reconnect>,
    /// Bytes waiting to be sent above which publishing waits.
    pub send_buffer_bytes: usize,
    /// Bytes of deliveries that the application has not taken above which nothing more is received.
    pub receive_buffer_bytes: usize,
    /// Unconfirmed publishes on a channel above which publishing waits.
    pub max_unconfirmed: usize,
}

/// Text that does not show in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            protocol: Protocol::Amqp091,
            carrier: Carrier::Tcp,
            fallbacks: Vec::new(),
            tls: None,
            server_name: None,
            host: "localhost".into(),
            port: 5672,
            user: "guest".into(),
            password: Secret("guest".into()),
            mechanism: None,
            virtual_host: "/".into(),
            connection_name: None,
            frame_max_bytes: 131_072,
            heartbeat_s: 60,
            connect_timeout: Duration::from_secs(10),
            reconnect: Some(Reconnect::default()),
            send_buffer_bytes: 1 << 20,
            receive_buffer_bytes: 4 << 20,
            max_unconfirmed: 65_536,
        }
    }
}

impl Options {
    /// From `amqp://user:password@host:port/virtual-host`, with
    /// `?heartbeat=seconds&connection_timeout=milliseconds&name=text&mechanism=PLAIN` after it,
    /// `SCRAM-SHA-256`, `ANONYMOUS` and `EXTERNAL` being the other mechanisms. All but the scheme and the host may be left out. Reserved characters are
    /// percent-encoded: the virtual host `/` is `%2F`, or no path at all. The scheme names protocol and carrier: `amqp`
    /// is AMQP 0-9-1 over TCP, `amqp0-10` AMQP 0-10 over TCP, `rdma` and `rdma0-10` are the same over RDMA.
    /// `transport=rdma,tcp` tries one after the other.
    ///
    /// `amqps` and `amqps0-10` are TLS over TCP, on port 5671. With them `cacertfile=path` names the certificates to
    /// believe in place of the system's, `certfile=path` and `keyfile=path` the own certificate and its key,
    /// `server_name_indication=name` the name that the broker's certificate has to have, if that is not the host's, and
    /// `verify=verify_none` believes anybody, which is no protection against one in between. Paths are percent-encoded.
    ///
    /// # Errors
    /// [`Error::Url`] with what is wrong.
    pub fn from_url(url: &str) -> Result<Options, Error> {
        parse(url).map_err(|reason| Error::Url { url: without_password(url), reason })
    }

    /// Without automatic reconnection.
    #[must_use]
    pub fn without_reconnect(mut self) -> Self {
        self.reconnect = None;
        self
    }

    /// Tries these one after the other: names separated by commas, as in `rdma,tcp`.
    ///
    /// # Errors
    /// One of them is not known.
    pub fn set_transports(&mut self, names: &str) -> Result<(), String> {
        let carriers = names.split(',').map(|name| name.trim().parse()).collect::<Result<Vec<_>, _>>()?;
        self.carrier = carriers[0];
        self.fallbacks = carriers[1..].to_vec();
        Ok(())
    }

    /// Host and port, as connecting and messages need them.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Where brokers speak TLS unless they are told otherwise.
const TLS_PORT: u16 = 5671;

fn parse(url: &str) -> Result<Options, String> {
    let (scheme, rest) = url.split_once("://").ok_or("a URL begins with a scheme, as in amqp://host/")?;
    let (protocol, carrier, is_tls) = match scheme {
        "amqp" => (Protocol::Amqp091, Carrier::Tcp, false),
        "amqps" => (Protocol::Amqp091, Carrier::Tcp, true),
        "amqp0-10" => (Protocol::Amqp010, Carrier::Tcp, false),
        "amqps0-10" => (Protocol::Amqp010, Carrier::Tcp, true),
        "rdma" => (Protocol::Amqp091, Carrier::Rdma, false),
        "rdma0-10" => (Protocol::Amqp010, Carrier::Rdma, false),
        other => {
            return Err(format!(
                "the scheme {other:?} is not known; amqp, amqps and rdma are, and with 0-10 after them"
            ));
        }
    };
    let mut options = Options { protocol, carrier, ..Options::default() };
    if is_tls {
        options.tls = Some(TlsOptions::default());
        options.port = TLS_PORT;
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host_port) = match authority.rsplit_once('@') {
        Some((login, host_port)) => (Some(login), host_port),
        None => (None, authority),
    };
    if let Some(login) = login {
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        options.user = decode(user)?;
        options.password = Secret(decode(password)?);
    }
    let (host, port) = split_host(host_port)?;
    if !host.is_empty() {
        options.host = decode(host)?;
    }
    if let Some(port) = port {
        options.port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    }
    if !path.is_empty() {
        options.virtual_host = decode(path)?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let wrong = || format!("{value:?} is not a value for {name}");
        match name {
            "heartbeat" => options.heartbeat_s = value.parse().map_err(|_| wrong())?,
            "connection_timeout" => {
                options.connect_timeout = Duration::from_millis(value.parse().map_err(|_| wrong())?);
            }
            "mechanism" => options.mechanism = Some(Mechanism::of_name(value).ok_or_else(wrong)?),
            "transport" => options.set_transports(value)?,
            "name" => options.connection_name = Some(decode(value)?),
            _ if set_tls(&mut options, name, value)? => {}
            other => return Err(format!("the parameter {other:?} is not known")),
        }
    }
    Ok(options)
}

/// Sets what a parameter says of TLS; returns whether it is about that.
fn set_tls(options: &mut Options, name: &str, value: &str) -> Result<bool, String> {
    const NAMES: [&str; 5] = ["cacertfile", "certfile", "keyfile", "verify", "server_name_indication"];
    if !NAMES.contains(&name) {
        return Ok(false);
    }
    let tls = options.tls.as_mut().ok_or_else(|| format!("{name} is for amqps:// and amqps0-10://"))?;
    let path = || decode(value).map(Into::into);
    match name {
        // Whom verify=verify_none believes anyhow.
        "cacertfile" if tls.trust == Trust::Anybody => {}
        "cacertfile" => tls.trust = Trust::File(path()?),
        "certfile" => tls.certificate = Some(path()?),
        "keyfile" => tls.key = Some(path()?),
        "verify" => match value {
            "verify_peer" => {}
            "verify_none" => tls.trust = Trust::Anybody,
            _ => return Err(format!("{value:?} is not a value for verify; verify_peer and verify_none are")),
        },
        _ => options.server_name = Some(decode(value)?),
    }
    Ok(true)
}

fn split_host(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']').ok_or("the bracket of the address is not closed")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(format!("{after:?} follows the address")),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err("an IPv6 address stands in brackets".into()),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

/// Percent-decoding.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| format!("{text:?}: two hexadecimal digits follow a %"))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

fn without_password(url: &str) -> String {
    let login = url.split_once("://").and_then(|(scheme, rest)| {
        let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
        let (login, _) = authority.rsplit_once('@')?;
        let (user, _) = login.split_once(':')?;
        Some((scheme, user, &rest[login.len()..]))
    });
    match login {
        Some((scheme, user, rest)) => format!("{scheme}://{user}:***{rest}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(url: &str) -> String {
        match Options::from_url(url) {
            Err(Error::Url { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_full_url() {
        let options =
            Options::from_url("amqp://us%40er:p%3Aw@broker.example:5673/a%2Fb?heartbeat=7&name=x").unwrap();
        assert_eq!((options.user.as_str(), options.password.0.as_str()), ("us@er", "p:w"));
        assert_eq!(options.address(), "broker.example:5673");
        assert_eq!((options.virtual_host.as_str(), options.heartbeat_s), ("a/b", 7));
        assert_eq!(options.connection_name.as_deref(), Some("x"));
    }

    #[test]
    fn the_scheme_names_the_protocol_and_a_parameter_the_mechanism() {
        let options = Options::from_url("amqp0-10://h/?mechanism=anonymous").unwrap();
        assert_eq!((options.protocol, options.mechanism), (Protocol::Amqp010, Some(Mechanism::Anonymous)));
        let options = Options::from_url("amqp://h/").unwrap();
        assert_eq!((options.protocol, options.mechanism), (Protocol::Amqp091, None));
        assert!(reason("amqp0-10://h/?mechanism=CRAM-MD5").contains("CRAM-MD5"));
    }

    #[test]
    fn tls_by_the_scheme_and_by_parameters() {
        let options = Options::from_url("amqps://h").unwrap();
        assert_eq!((options.protocol, options.port), (Protocol::Amqp091, 5671));
        assert_eq!(options.tls, Some(TlsOptions::default()));
        let url =
            "amqps0-10://h:7/?cacertfile=%2Fca.pem&certfile=me.pem&keyfile=me.key&server_name_indication=b";
        let options = Options::from_url(url).unwrap();
        let tls = options.tls.unwrap();
        assert_eq!((options.protocol, options.port), (Protocol::Amqp010, 7));
        assert_eq!(tls.trust, Trust::File("/ca.pem".into()));
        assert_eq!((tls.certificate, tls.key), (Some("me.pem".into()), Some("me.key".into())));
        assert_eq!(options.server_name.as_deref(), Some("b"));
        for url in
            ["amqps://h/?verify=verify_none&cacertfile=x", "amqps://h/?cacertfile=x&verify=verify_none"]
        {
            assert_eq!(Options::from_url(url).unwrap().tls.unwrap().trust, Trust::Anybody);
        }
        assert_eq!(Options::from_url("amqp://h").unwrap().tls, None);
    }

    #[test]
    fn what_is_left_out_is_usual() {
        for url in ["amqp://", "amqp://localhost", "amqp://localhost/", "amqp://localhost:5672/%2f"] {
            let options = Options::from_url(url).unwrap();
            assert_eq!(options.address(), "localhost:5672");
            assert_eq!((options.virtual_host.as_str(), options.user.as_str()), ("/", "guest"));
        }
    }

    #[test]
    fn ipv6_addresses_stand_in_brackets() {
        assert_eq!(Options::from_url("amqp://[::1]:99/").unwrap().address(), "[::1]:99");
        assert_eq!(Options::from_url("amqp://[::1]").unwrap().address(), "[::1]:5672");
        assert!(reason("amqp://::1/").contains("brackets"));
    }

    #[test]
    fn mistakes_are_named_without_the_password() {
        assert!(reason("localhost").contains("scheme"));
        assert!(reason("http://x/").contains("\"http\""));
        assert!(reason("amqp://x/?certfile=a").contains("amqps"));
        assert!(reason("amqps://x/?verify=perhaps").contains("verify_none"));
        assert!(reason("amqp://x:port/").contains("\"port\""));
        assert!(reason("amqp://x/%2").contains("hexadecimal"));
        assert!(reason("amqp://x/?frobnicate=1").contains("frobnicate"));
        let error = Options::from_url("amqp://me:secret@x:y/").unwrap_err().to_string();
        assert!(error.contains("me:***@x:y") && !error.contains("secret"), "{error}");
        assert!(!format!("{:?}", Options::from_url("amqp://me:secret@x/")).contains("secret"));
    }
}
