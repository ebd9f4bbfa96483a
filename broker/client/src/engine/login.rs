//! Which SASL mechanism to log in with. All of them are over with the first response.

use crate::{Error, Options};

/// How a client says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// User name and password.
    Plain,
    /// As nobody in particular.
    Anonymous,
    /// As whom the connection itself shows, a certificate for one. A user name that is given asks for that user.
    External,
}

impl Mechanism {
    /// In the order in which they are tried where none is asked for.
    const ALL: [Mechanism; 3] = [Mechanism::Plain, Mechanism::External, Mechanism::Anonymous];

    /// The name that SASL has for it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Anonymous => "ANONYMOUS",
            Mechanism::External => "EXTERNAL",
        }
    }

    /// The one of that name, in whatever case.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Mechanism::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }

    /// Its only response.
    pub(super) fn response(self, options: &Options) -> Vec<u8> {
        match self {
            Mechanism::Plain => format!("\0{}\0{}", options.user, options.password.0).into_bytes(),
            Mechanism::Anonymous => options.user.clone().into_bytes(),
            Mechanism::External => Vec::new(),
        }
    }
}

/// The mechanism that is asked for, or else PLAIN, if the broker offers it.
///
/// # Errors
/// [`Error::Login`]: it does not.
pub(super) fn choose(options: &Options, offered: &[&[u8]]) -> Result<Mechanism, Error> {
    let mechanism = options.mechanism.unwrap_or(Mechanism::Plain);
    if offered.contains(&mechanism.name().as_bytes()) {
        return Ok(mechanism);
    }
    let offered: Vec<_> = offered.iter().map(|name| String::from_utf8_lossy(name)).collect();
    let text = format!("{} is not among its mechanisms ({})", mechanism.name(), offered.join(" "));
    Err(refused(options, &text))
}

/// The broker did not let the user in.
pub(super) fn refused(options: &Options, text: &str) -> Error {
    Error::Login { address: options.address(), user: options.user.clone(), text: text.to_owned() }
}
