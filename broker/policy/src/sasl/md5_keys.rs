//! CRAM-MD5 (RFC 2195) and two of its kind, for clients that know nothing better; what is kept of a password for them.
//!
//! Whoever has what is kept can log in by these mechanisms as the user: it is the password to them. So it is kept only
//! of users who are to log in by them.

use std::fmt;

use md5::block_api::compress;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::{hex, unhex};

/// MD5's state before the first byte.
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
const BLOCK_BYTES: usize = 64;

/// What the key of the HMAC is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The password, as the RFC has it.
    Password,
    /// Its MD5, as the clients of Qpid for Java have it that call the mechanism `CRAM-MD5-HASHED`: a character for each byte,
    /// of which those from 0x80 on come out as U+FF80 to U+FFFF.
    Hashed,
    /// Its MD5 as hexadecimal digits: `CRAM-MD5-HEX`.
    Hex,
}

impl Kind {
    /// All.
    pub const EVERY: [Kind; 3] = [Kind::Password, Kind::Hashed, Kind::Hex];

    /// The name of the mechanism.
    pub fn mechanism(self) -> &'static str {
        match self {
            Kind::Password => "CRAM-MD5",
            Kind::Hashed => "CRAM-MD5-HASHED",
            Kind::Hex => "CRAM-MD5-HEX",
        }
    }

    /// What is kept of a password.
    pub fn keys(self, password: &[u8]) -> CramKeys {
        match self {
            Kind::Password => CramKeys::new(password),
            Kind::Hashed => {
                let widened = |byte: u8| if byte < 0x80 { u32::from(byte) } else { 0xff00 | u32::from(byte) };
                let characters = Md5::digest(password).into_iter().map(widened);
                let key: String = characters.filter_map(char::from_u32).collect();
                CramKeys::new(key.as_bytes())
            }
            Kind::Hex => CramKeys::new(hex(&Md5::digest(password)).as_bytes()),
        }
    }
}

/// HMAC-MD5 with a password, which is not kept: only what MD5 has made of it when the message begins.
#[derive(Clone, PartialEq, Eq)]
pub struct CramKeys {
    inner: [u32; 4],
    outer: [u32; 4],
}

impl CramKeys {
    fn new(password: &[u8]) -> Self {
        let mut key = [0; BLOCK_BYTES];
        if password.len() > BLOCK_BYTES {
            key[..16].copy_from_slice(&Md5::digest(password));
        } else {
            key[..password.len()].copy_from_slice(password);
        }
        let begun = |pad: u8| {
            let mut state = START;
            compress(&mut state, &[key.map(|byte| byte ^ pad)]);
            state
        };
        CramKeys { inner: begun(0x36), outer: begun(0x5c) }
    }

    fn hmac(&self, message: &[u8]) -> [u8; 16] {
        end(self.outer, &end(self.inner, message))
    }

    /// Whether a client that answers so to a challenge knows the password.
    pub fn is_answer(&self, challenge: &[u8], answer: &[u8]) -> bool {
        hex(&self.hmac(challenge)).as_bytes().ct_eq(answer).into()
    }

    /// Reads what [`Display`](fmt::Display) writes, without the name in front.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = unhex::<32>(text)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let state = |at: usize| [word(at), word(at + 4), word(at + 8), word(at + 12)];
        Some(CramKeys { inner: state(0), outer: state(16) })
    }
}

impl fmt::Display for CramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.inner.iter().chain(&self.outer);
        f.write_str(&words.map(|word| hex(&word.to_le_bytes())).collect::<String>())
    }
}

impl fmt::Debug for CramKeys {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CramKeys")
    }
}

/// MD5 of a message that goes on from a state after one block.
fn end(mut state: [u32; 4], message: &[u8]) -> [u8; 16] {
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(BLOCK_BYTES), 0);
    if padded.len() - message.len() < 9 {
        padded.resize(padded.len() + BLOCK_BYTES, 0);
    }
    let bits = 8 * (BLOCK_BYTES + message.len()) as u64;
    let at = padded.len() - 8;
    padded[at..].copy_from_slice(&bits.to_le_bytes());
    for block in padded.as_chunks::<BLOCK_BYTES>().0 {
        compress(&mut state, std::slice::from_ref(block));
    }
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

/// A challenge, as RFC 2195 wants it.
pub fn challenge() -> Vec<u8> {
    format!("<{}@fulmar>", super::nonce()).into_bytes()
}

/// User and answer of what a client says.
pub fn read_answer(response: &[u8]) -> Option<(&str, &[u8])> {
    let blank = response.iter().rposition(|&byte| byte == b' ')?;
    let user = std::str::from_utf8(&response[..blank]).ok()?;
    Some((user, &response[blank + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_of_the_rfc_comes_out() {
        let keys = CramKeys::new(b"tanstaaftanstaaf");
        let (user, answer) = read_answer(b"tim b913a602c7eda7a495b4e6e7334d3890").unwrap();
        assert_eq!(user, "tim");
        let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
        assert!(keys.is_answer(challenge, answer));
        assert!(!keys.is_answer(b"<other>", answer));
        assert!(!CramKeys::new(b"other").is_answer(challenge, answer));
        assert_eq!(CramKeys::read(&keys.to_string()).as_ref(), Some(&keys));
        assert_eq!(CramKeys::read("12"), None);
    }

    /// What the CRAM-MD5 of Java's own SASL answers when it is given what Qpid's clients give it.
    #[test]
    fn the_answers_of_java_come_out() {
        for (kind, answer) in [
            (Kind::Password, "733ba87e64ed7e441f062c4ac6db0103"),
            (Kind::Hashed, "e628e24f3fbe801728f0edae9c36708e"),
            (Kind::Hex, "244911ffc79bb8020a5b037bea838890"),
        ] {
            let challenge = b"<1896.697170952@postoffice.reston.mci.net>";
            assert!(kind.keys(b"secret").is_answer(challenge, answer.as_bytes()), "{kind:?}");
        }
    }

    /// RFC 2202: a key and data longer than a block, and lengths around the end of one.
    #[test]
    fn any_length_is_as_in_hmac() {
        let keys = CramKeys::new(&[0xaa; 80]);
        let data = b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data";
        assert_eq!(hex(&keys.hmac(data)), "6f630fad67cda0ee1fb1f562db3aa53e");
        for length in 0..200 {
            let message = vec![b'x'; length];
            let plain = |pad: u8, rest: &[u8]| {
                let mut key = [0; 64];
                key[..3].copy_from_slice(b"key");
                let mut all = key.map(|byte| byte ^ pad).to_vec();
                all.extend_from_slice(rest);
                Md5::digest(&all)
            };
            let expected = plain(0x5c, &plain(0x36, &message));
            assert_eq!(CramKeys::new(b"key").hmac(&message)[..], expected[..], "{length}");
        }
    }
}
