//! The server's side of SASL mechanisms that take several rounds. Nothing here knows of users: each mechanism is given
//! what it has to compare with.

pub mod digest_md5;
pub mod md5_keys;
pub mod scram;

use argon2::password_hash::rand_core::{OsRng, RngCore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// So many random bytes, as text that any mechanism takes.
pub(crate) fn nonce() -> String {
    let mut bytes = [0; 18];
    OsRng.fill_bytes(&mut bytes);
    STANDARD.encode(bytes)
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hexadecimal digits.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
