//! Who a peer says it is.

/// A login to be checked by the connection's caller, who answers with [`Connection::authenticated`]; checking may take
/// long, so it is not done by the connection.
///
/// [`Connection::authenticated`]: crate::Connection::authenticated
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `PLAIN`, `AMQPLAIN`, `ANONYMOUS`, …
    pub mechanism: String,
    /// User name; empty for mechanisms without one.
    pub user: String,
    /// Password; empty for mechanisms without one.
    pub password: Vec<u8>,
    /// Whether the peer is on this host.
    pub loopback: bool,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login {{ mechanism: {:?}, user: {:?}, .. }}", self.mechanism, self.user)
    }
}
