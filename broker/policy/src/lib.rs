//! Fulmar's users, password store and SASL mechanisms.
//!
//! * [`users`]: the file of users and their password hashes.
//! * [`authority`]: decides on logins.
//! * [`acl`]: who may do what.

pub mod acl;
pub mod authority;
mod peer;
mod replace;
pub mod users;

use std::path::PathBuf;

pub use authority::{Authority, Denied, Exchange, Mechanism, Round};
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
