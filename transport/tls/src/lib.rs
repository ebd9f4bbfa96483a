//! TLS without I/O: what a shard puts between a socket's bytes and a protocol, and what says whom to believe.
//!
//! 1. A [`Session`] takes and gives bytes; it owns no socket, no thread and no clock but that of certificates.
//! 2. It keeps no more of its input than [`MAX_INPUT_BYTES`], and nothing when there is nothing left over.
//! 3. An [`Acceptor`] makes sessions from what was read from files last; a file that cannot be read leaves what was.
//! 4. A key that others can read is refused; no error and no log line shows a secret.

mod acceptor;
mod client;
mod failure;
mod files;
mod identity;
mod names;
mod session;
#[cfg(test)]
mod tests;

pub use acceptor::{Acceptor, ClientCertificates, MinVersion, Options};
pub use client::{ClientOptions, Trust, client_config};
pub use failure::Failure;
pub use files::FileError;
pub use identity::{IdentityField, identity};
pub use session::{Agreed, MAX_INPUT_BYTES, Received, Session};

/// Rustls, for whoever drives its client side.
pub use rustls;
