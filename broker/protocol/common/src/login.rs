//! How a peer logs in: rounds of SASL between it and whoever checks logins. The connection carries bytes to and fro and
//! does not look into them.

use std::any::Any;
use std::fmt;

use fulmar_core::permission::Permission;

/// Most rounds of one login.
pub const MAX_LOGIN_ROUNDS: u8 = 10;

/// What a mechanism remembers between rounds. It is kept by the connection, so that it goes with it.
pub type Exchange = Box<dyn Any + Send>;

/// A place among those that a limit leaves; dropping it gives it back.
pub type Seat = Box<dyn Any + Send>;

/// What lies between a connection and its socket once it is open ([`Action::Protect`]); it is made by who checks logins, and
/// used by who has the socket.
///
/// [`Action::Protect`]: crate::Action::Protect
pub type Layer = Box<dyn Any + Send>;

/// One round of a login, for the connection's caller, who answers with [`Connection::authenticated`]; that may take long,
/// so it is not done by the connection.
///
/// [`Connection::authenticated`]: crate::Connection::authenticated
pub struct Login {
    /// `PLAIN`, `SCRAM-SHA-256`, …: one of those offered. `AMQPLAIN` has the response of `PLAIN`.
    pub mechanism: String,
    /// What the peer says. `None`: nothing but the mechanism's name yet.
    pub response: Option<Vec<u8>>,
    /// What [`LoginAnswer::Challenge`] brought, in later rounds.
    pub exchange: Option<Exchange>,
    /// Whether the protocol has a place for a security layer.
    pub takes_layer: bool,
}

/// The answer to a round of a login.
pub enum LoginAnswer {
    /// The peer is to say more.
    Challenge(Vec<u8>, Exchange),
    /// It is logged in.
    Accepted(Accepted),
    /// It is not; why, for the log. The peer learns only that it was refused.
    Refused(String),
    /// What it said is not what the mechanism asks for; why, for the log.
    Malformed(String),
}

/// Who has logged in.
pub struct Accepted {
    /// The name to go by.
    pub user: String,
    /// What it may do; everything without one.
    pub permission: Option<Box<dyn Permission>>,
    /// Held for as long as the connection is there.
    pub seat: Option<Seat>,
    /// What is to lie between the connection and its socket; only if the protocol has a place for it.
    pub layer: Option<Layer>,
}

impl LoginAnswer {
    /// Somebody who may do everything.
    pub fn accepted(user: &str) -> Self {
        LoginAnswer::Accepted(Accepted { user: user.to_owned(), permission: None, seat: None, layer: None })
    }
}

impl fmt::Debug for Login {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login {{ mechanism: {:?}, .. }}", self.mechanism)
    }
}

impl fmt::Debug for LoginAnswer {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoginAnswer::Challenge(..) => f.write_str("Challenge"),
            LoginAnswer::Accepted(accepted) => write!(f, "Accepted({:?})", accepted.user),
            LoginAnswer::Refused(why) => write!(f, "Refused({why:?})"),
            LoginAnswer::Malformed(why) => write!(f, "Malformed({why:?})"),
        }
    }
}

impl Login {
    /// User and password of a response of `PLAIN` (RFC 4616); what the peer would like to be beyond that is not heard, as
    /// RabbitMQ has it. `None`: it is not one.
    pub fn plain(response: &[u8]) -> Option<(String, Vec<u8>)> {
        let mut parts = response.splitn(3, |&byte| byte == 0);
        let _authorize_as = parts.next()?;
        let user = String::from_utf8_lossy(parts.next()?).into_owned();
        Some((user, parts.next()?.to_vec()))
    }
}
