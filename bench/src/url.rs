//! `amqp://user:password@host:port/vhost`, `amqp0-10://` for AMQP 0-10, `amqps://` or `amqps0-10://` for TLS, and `rdma://` or
//! `rdma0-10://` for RDMA.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use fulmar_tls::ClientOptions;

/// What a broker is spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// AMQP 0-9-1.
    #[default]
    #[value(name = "amqp-0-9-1")]
    Amqp091,
    /// AMQP 0-10.
    #[value(name = "amqp-0-10")]
    Amqp010,
}

impl Protocol {
    /// As results have it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Amqp091 => "amqp-0-9-1",
            Protocol::Amqp010 => "amqp-0-10",
        }
    }
}

/// Where a broker is and who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// Protocol.
    pub protocol: Protocol,
    /// User name.
    pub user: String,
    /// Password.
    pub password: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Virtual host.
    pub vhost: String,
    /// Over TLS, with these.
    pub tls: Option<Box<ClientOptions>>,
    /// Over RDMA.
    pub is_rdma: bool,
}

impl Default for Url {
    fn default() -> Self {
        Url {
            protocol: Protocol::default(),
            user: "guest".into(),
            password: "guest".into(),
            host: "127.0.0.1".into(),
            port: 5672,
            vhost: "/".into(),
            tls: None,
            is_rdma: false,
        }
    }
}

impl Url {
    /// The first address that the host resolves to.
    ///
    /// # Errors
    /// The host is not known.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        (self.host.as_str(), self.port)
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| std::io::Error::other(format!("{} has no address", self.host)))
    }
}

impl Url {
    /// What carries it: tcp, tls or rdma.
    pub fn transport(&self) -> &'static str {
        match (self.is_rdma, self.tls.is_some()) {
            (true, _) => "rdma",
            (false, true) => "tls",
            (false, false) => "tcp",
        }
    }

    fn scheme(&self) -> &'static str {
        match (self.protocol, self.transport()) {
            (Protocol::Amqp091, "rdma") => "rdma",
            (Protocol::Amqp091, "tls") => "amqps",
            (Protocol::Amqp091, _) => "amqp",
            (Protocol::Amqp010, "rdma") => "rdma0-10",
            (Protocol::Amqp010, "tls") => "amqps0-10",
            (Protocol::Amqp010, _) => "amqp0-10",
        }
    }

    /// As text, with the password.
    pub fn with_password(&self) -> String {
        let scheme = self.scheme();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let [user, password, vhost] = [&self.user, &self.password, &self.vhost].map(|text| encode(text));
        format!("{scheme}://{user}:{password}@{host}:{}/{vhost}", self.port)
    }
}

/// Everything but letters and digits as `%` and two digits.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02x}"),
        })
        .collect()
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) =
            text.split_once("://").ok_or("a URL begins with a scheme, as in amqp://host/")?;
        let (carrier, protocol) = match scheme.strip_suffix("0-10") {
            Some(carrier) => (carrier, Protocol::Amqp010),
            None => (scheme, Protocol::Amqp091),
        };
        let (tls, is_rdma, usual_port) = match carrier {
            "amqp" => (None, false, 5672),
            "amqps" => (Some(Box::default()), false, 5671),
            "rdma" => (None, true, 5672),
            _ => {
                let text = "a URL begins with amqp://, amqps:// or rdma://, or with amqp0-10://, amqps0-10:// or rdma0-10://";
                return Err(text.into());
            }
        };
        let (authority, vhost) = match rest.split_once('/') {
            Some((authority, vhost)) if !vhost.is_empty() => (authority, decode(vhost)?),
            Some((authority, _)) => (authority, "/".into()),
            None => (rest, "/".into()),
        };
        let (user, host) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("{port:?} is not a port"))?)
            }
            _ => (host, usual_port),
        };
        if host.is_empty() {
            return Err("a URL names a host".into());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').into();
        Ok(Url {
            protocol,
            user: decode(user)?,
            password: decode(password)?,
            host,
            port,
            vhost,
            tls,
            is_rdma,
        })
    }
}

impl fmt::Display for Url {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme();
        let vhost = self.vhost.replace('/', "%2f");
        write!(f, "{scheme}://{}@{}:{}/{vhost}", self.user, self.host, self.port)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(|| format!("{text:?} has a % without two hexadecimal digits"))?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_urls_apart() {
        let url: Url = "amqp://u%40x:p%3a@[::1]:5673/a%2Fb".parse().unwrap();
        assert_eq!((url.user.as_str(), url.password.as_str()), ("u@x", "p:"));
        assert_eq!((url.host.as_str(), url.port, url.vhost.as_str()), ("::1", 5673, "a/b"));
        assert_eq!(url.with_password().parse(), Ok(url));
        let url: Url = "amqp://localhost".parse().unwrap();
        assert_eq!((url.user.as_str(), url.port, url.vhost.as_str()), ("guest", 5672, "/"));
        let url: Url = "amqp://guest:guest@127.0.0.1:1/".parse().unwrap();
        assert_eq!((url.port, url.vhost.as_str(), url.tls.is_some()), (1, "/", false));
        let url: Url = "amqps://broker.example".parse().unwrap();
        assert_eq!((url.port, url.tls, url.protocol), (5671, Some(Box::default()), Protocol::Amqp091));
        let url: Url = "amqp0-10://h:7".parse().unwrap();
        assert_eq!((url.port, url.tls.is_some(), url.protocol), (7, false, Protocol::Amqp010));
        assert_eq!(url.with_password().parse(), Ok(url));
        let url: Url = "amqps0-10://h".parse().unwrap();
        assert_eq!((url.port, url.tls.is_some(), url.protocol), (5671, true, Protocol::Amqp010));
        assert!(url.to_string().starts_with("amqps0-10://"));
        for (scheme, protocol) in [("rdma", Protocol::Amqp091), ("rdma0-10", Protocol::Amqp010)] {
            let url: Url = format!("{scheme}://h").parse().unwrap();
            assert_eq!(
                (url.port, url.is_rdma, url.tls.is_some(), url.protocol),
                (5672, true, false, protocol)
            );
            assert!(url.to_string().starts_with(&format!("{scheme}://")));
            assert_eq!(url.with_password().parse(), Ok(url));
        }
    }

    #[test]
    fn refuses_what_is_no_url() {
        for text in [
            "localhost",
            "http://x",
            "amqp://",
            "amqp://h:x1/",
            "amqp://h/%2",
            "amqp://h/%zz",
            "amqp0-100-10://h",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
    }

    #[test]
    fn does_not_show_the_password() {
        let url: Url = "amqp://guest:secret@h/".parse().unwrap();
        assert!(!format!("{url} {url:?}").contains("secret"));
    }
}
