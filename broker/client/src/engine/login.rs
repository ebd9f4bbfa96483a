//! Which SASL mechanism to log in with, and its rounds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::scram::Scram;
use crate::{Error, Options};

/// How a client says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// User name and password.
    Plain,
    /// User name, and a proof of the password.
    ScramSha256,
    /// As nobody in particular.
    Anonymous,
    /// As whom the connection itself shows, a certificate for one. A user name that is given asks for that user.
    External,
}

impl Mechanism {
    /// In the order in which they are tried where none is asked for.
    const ALL: [Mechanism; 4] =
        [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::External, Mechanism::Anonymous];

    /// The name that SASL has for it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::Anonymous => "ANONYMOUS",
            Mechanism::External => "EXTERNAL",
        }
    }

    /// The one of that name, in whatever case.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        Mechanism::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }
}

/// A login on its way.
pub(super) struct Login {
    mechanism: Mechanism,
    scram: Option<Scram>,
}

impl Login {
    /// By the mechanism that is asked for, or else by one that shows the password where that is offered: where nobody can
    /// listen. Otherwise the password is proven.
    ///
    /// # Errors
    /// [`Error::Login`]: the broker does not offer it.
    pub(super) fn new(options: &Options, offered: &[&[u8]]) -> Result<Self, Error> {
        let mechanism = choose(options, offered)?;
        let scram = (mechanism == Mechanism::ScramSha256).then(|| {
            let mut nonce = [0; 18];
            getrandom::fill(&mut nonce)
                .map(|()| Scram::new(&options.user, &options.password.0, STANDARD.encode(nonce)))
                .map_err(|error| refused(options, &format!("no random numbers: {error}")))
        });
        Ok(Login { mechanism, scram: scram.transpose()? })
    }

    /// The name of its mechanism.
    pub(super) fn mechanism(&self) -> &'static str {
        self.mechanism.name()
    }

    /// What to say first.
    pub(super) fn first(&self, options: &Options) -> Vec<u8> {
        match (self.mechanism, &self.scram) {
            (_, Some(scram)) => scram.first(),
            (Mechanism::Plain | Mechanism::ScramSha256, None) => {
                format!("\0{}\0{}", options.user, options.password.0).into_bytes()
            }
            (Mechanism::Anonymous, None) => options.user.clone().into_bytes(),
            (Mechanism::External, None) => Vec::new(),
        }
    }

    /// What to say to a challenge.
    ///
    /// # Errors
    /// [`Error::Login`]: it is none that the mechanism has.
    pub(super) fn answer(&mut self, options: &Options, challenge: &[u8]) -> Result<Vec<u8>, Error> {
        let Some(scram) = &mut self.scram else {
            return Err(refused(options, &format!("the broker asks for more than {} has", self.mechanism())));
        };
        let text = "the broker does not prove that it knows the password";
        scram.answer(challenge).ok_or_else(|| refused(options, text))
    }
}

fn choose(options: &Options, offered: &[&[u8]]) -> Result<Mechanism, Error> {
    let is_offered = |mechanism: &Mechanism| offered.contains(&mechanism.name().as_bytes());
    let with_password = [Mechanism::Plain, Mechanism::ScramSha256];
    let wanted = options.mechanism.as_ref().map_or(&with_password[..], std::slice::from_ref);
    if let Some(mechanism) = wanted.iter().find(|mechanism| is_offered(mechanism)) {
        return Ok(*mechanism);
    }
    let mechanism = wanted[0];
    let offered: Vec<_> = offered.iter().map(|name| String::from_utf8_lossy(name)).collect();
    let text = format!("{} is not among its mechanisms ({})", mechanism.name(), offered.join(" "));
    Err(refused(options, &text))
}

/// The broker did not let the user in.
pub(super) fn refused(options: &Options, text: &str) -> Error {
    Error::Login { address: options.address(), user: options.user.clone(), text: text.to_owned() }
}
