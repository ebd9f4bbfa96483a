//! Fulmar's users, password store and SASL mechanisms.
//!
//! * [`users`]: the file of users, and what is kept of their passwords ([`secrets`]).
//! * [`authority`]: decides on logins, by [`mechanism`]s that [`sasl`] and [`fulmar_gssapi`] know.
//! * [`census`] and [`patience`]: limits of connections, and of guessing.
//! * [`acl`]: access control lists; [`rules`]: those in force, and who asks.

pub mod acl;
pub mod authority;
pub mod census;
pub mod mechanism;
pub mod patience;
mod peer;
mod replace;
pub mod rules;
pub mod sasl;
pub mod secrets;
pub mod users;

use std::path::PathBuf;

pub use authority::{Authority, Denied, Exchange, Round};
pub use mechanism::{Mechanism, Offer};
pub use peer::{Peer, PeerIdentity};
pub use users::{UserFile, UsersError};

/// The account that exists without being added, for clients on this host only.
pub const GUEST: &str = "guest";

/// Where state is kept unless told otherwise: `$XDG_STATE_HOME/fulmar`, or `~/.local/state/fulmar`.
pub fn default_state_dir() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("fulmar")
}
