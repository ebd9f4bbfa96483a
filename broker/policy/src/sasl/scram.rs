//! SCRAM (RFC 5802, RFC 7677), without channel binding: what is kept of a password, and the server's two rounds.
//!
//! 1. What is kept does not serve to log in: it takes the password, or having listened to a login in the clear and
//!    guessing.
//! 2. The proof is compared in constant time.

use std::fmt;
use std::str::FromStr;

use argon2::password_hash::rand_core::{OsRng, RngCore};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How often a password is hashed for new keys; RFC 7677 asks for 4096 at least.
pub const ITERATIONS: u32 = 10_000;
/// More is not believed of a file of users.
const MAX_ITERATIONS: u32 = 10_000_000;
const SALT_BYTES: usize = 16;

/// The hash that a mechanism uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Hash {
    /// Both, the better one first.
    pub const EVERY: [Hash; 2] = [Hash::Sha256, Hash::Sha1];

    /// The name of the mechanism.
    pub fn mechanism(self) -> &'static str {
        match self {
            Hash::Sha1 => "SCRAM-SHA-1",
            Hash::Sha256 => "SCRAM-SHA-256",
        }
    }

    fn bytes(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    fn hash(self, data: &[u8]) -> Vec<u8> {
        match self {
            Hash::Sha1 => Sha1::digest(data).to_vec(),
            Hash::Sha256 => Sha256::digest(data).to_vec(),
        }
    }

    fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        const ANY: &str = "a key may have any length";
        match self {
            Hash::Sha1 => Hmac::<Sha1>::new_from_slice(key)
                .expect(ANY)
                .chain_update(data)
                .finalize()
                .into_bytes()
                .to_vec(),
            Hash::Sha256 => Hmac::<Sha256>::new_from_slice(key)
                .expect(ANY)
                .chain_update(data)
                .finalize()
                .into_bytes()
                .to_vec(),
        }
    }

    fn salted(self, password: &[u8], salt: &[u8], iterations: u32) -> Vec<u8> {
        match self {
            Hash::Sha1 => pbkdf2::pbkdf2_hmac_array::<Sha1, 20>(password, salt, iterations).to_vec(),
            Hash::Sha256 => pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password, salt, iterations).to_vec(),
        }
    }
}

/// What is kept of a password, as RFC 5803 writes it: `SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER`.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    hash: Hash,
    iterations: u32,
    salt: Vec<u8>,
    stored: Vec<u8>,
    server: Vec<u8>,
}

impl Keys {
    /// Of a password, with a new salt. `None`: the password is not one that mechanisms of text can carry.
    pub fn new(hash: Hash, password: &[u8], iterations: u32) -> Option<Self> {
        let mut salt = [0; SALT_BYTES];
        OsRng.fill_bytes(&mut salt);
        Self::with_salt(hash, password, iterations, &salt)
    }

    fn with_salt(hash: Hash, password: &[u8], iterations: u32, salt: &[u8]) -> Option<Self> {
        let password = stringprep::saslprep(std::str::from_utf8(password).ok()?).ok()?.into_owned();
        let salted = hash.salted(password.as_bytes(), salt, iterations);
        let stored = hash.hash(&hash.hmac(&salted, b"Client Key"));
        let server = hash.hmac(&salted, b"Server Key");
        Some(Keys { hash, iterations, salt: salt.to_vec(), stored, server })
    }

    /// Keys that no password fits, the same each time for the same name: who asks for a user that is not there sees a
    /// salt as of one that is. `secret` is this process's.
    pub fn of_nobody(hash: Hash, name_proof: &[u8; 32]) -> Self {
        let keys = hash.hmac(name_proof, b"keys");
        let salt = name_proof[..SALT_BYTES].to_vec();
        Keys { hash, iterations: ITERATIONS, salt, stored: keys.clone(), server: keys }
    }

    /// Which hash they are for.
    pub fn hash(&self) -> Hash {
        self.hash
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Keys { hash, iterations, salt, stored, server } = self;
        let [salt, stored, server] = [salt, stored, server].map(|bytes| STANDARD.encode(bytes));
        write!(f, "{}${iterations}:{salt}${stored}:{server}", hash.mechanism())
    }
}

impl fmt::Debug for Keys {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.hash.mechanism())
    }
}

impl FromStr for Keys {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "SCRAM keys are written as SCRAM-SHA-256$ITERATIONS:SALT$STORED:SERVER";
        let mut parts = text.split('$');
        let (Some(name), Some(how), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(WRONG);
        };
        let hash = Hash::EVERY.into_iter().find(|hash| hash.mechanism() == name).ok_or(WRONG)?;
        let (iterations, salt) = how.split_once(':').ok_or(WRONG)?;
        let (stored, server) = keys.split_once(':').ok_or(WRONG)?;
        let iterations = iterations.parse().map_err(|_| WRONG)?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err("SCRAM keys need an iteration count from 1 to 10000000");
        }
        let [salt, stored, server] = [salt, stored, server].map(|text| STANDARD.decode(text));
        let (Ok(salt), Ok(stored), Ok(server)) = (salt, stored, server) else { return Err(WRONG) };
        if salt.is_empty() || stored.len() != hash.bytes() || server.len() != hash.bytes() {
            return Err("SCRAM keys have lengths that are not those of their hash");
        }
        Ok(Keys { hash, iterations, salt, stored, server })
    }
}

/// What the client says first.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// Who it is.
    pub user: String,
    /// What it would like to be; empty if it does not say.
    pub authorize_as: String,
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    /// Reads it. `None`: it is not one, or asks for channel binding, which is not offered.
    pub fn read(message: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let mut commas = text.match_indices(',').map(|(at, _)| at);
        let (first, second) = (commas.next()?, commas.next()?);
        let (flag, authorize_as) = (&text[..first], &text[first + 1..second]);
        if flag != "n" && flag != "y" {
            return None;
        }
        let authorize_as = match authorize_as {
            "" => String::new(),
            text => name_of(text.strip_prefix("a=")?)?,
        };
        let bare = &text[second + 1..];
        let mut attributes = bare.split(',');
        let user = name_of(attributes.next()?.strip_prefix("n=")?)?;
        let nonce = attributes.next()?.strip_prefix("r=").filter(|nonce| is_nonce(nonce))?;
        // Extensions that the server has to understand come first and are named `m`; there are none.
        Some(ClientFirst { user, authorize_as, header: &text[..=second], bare, nonce })
    }

    /// The challenge, and what is remembered until its answer.
    pub fn challenge(&self, keys: &Keys, server_nonce: &str) -> (Vec<u8>, Exchange) {
        let nonce = format!("{}{server_nonce}", self.nonce);
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        let exchange = Exchange {
            keys: keys.clone(),
            final_start: format!("c={},r={nonce}", STANDARD.encode(self.header)),
            transcript: format!("{},{server_first},", self.bare),
        };
        (server_first.into_bytes(), exchange)
    }
}

/// Between the challenge and its answer.
pub struct Exchange {
    keys: Keys,
    /// What the client's last message begins with: its header again, and the nonce.
    final_start: String,
    /// What both have said so far.
    transcript: String,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({:?})", self.keys)
    }
}

/// What the client's answer is worth.
#[derive(Debug, PartialEq, Eq)]
pub enum Proof {
    /// It knows the password; it is to be told this, by which it knows that the server does.
    Right(Vec<u8>),
    /// It does not.
    Wrong,
    /// It says something else.
    Malformed,
}

impl Exchange {
    /// Looks at the client's answer.
    pub fn finish(self, message: &[u8]) -> Proof {
        let Ok(text) = std::str::from_utf8(message) else { return Proof::Malformed };
        let Some((start, proof)) = text.rsplit_once(",p=") else { return Proof::Malformed };
        let Ok(proof) = STANDARD.decode(proof) else { return Proof::Malformed };
        let extends = |start: &str| {
            start.strip_prefix(&self.final_start).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
        };
        if !extends(start) {
            return Proof::Malformed;
        }
        let Keys { hash, stored, server, .. } = &self.keys;
        if proof.len() != hash.bytes() {
            return Proof::Wrong;
        }
        let transcript = format!("{}{start}", self.transcript);
        let signature = hash.hmac(stored, transcript.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        if !bool::from(hash.hash(&client_key).ct_eq(stored)) {
            return Proof::Wrong;
        }
        let signature = STANDARD.encode(hash.hmac(server, transcript.as_bytes()));
        Proof::Right(format!("v={signature}").into_bytes())
    }
}

/// A name as messages have it: `=2C` for a comma, `=3D` for an equals sign.
fn name_of(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('=') {
        name.push_str(before);
        name.push(match after.get(..2)? {
            "2C" => ',',
            "3D" => '=',
            _ => return None,
        });
        rest = &after[2..];
    }
    name.push_str(rest);
    (!name.is_empty()).then_some(name)
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchanges of RFC 5802 (5) and RFC 7677 (3); user `user`, password `pencil`.
    const KNOWN: [(Hash, &str, &str, &str, &str, &str); 2] = [
        (
            Hash::Sha1,
            "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            "3rfcNHYJY1ZVvWVs7j",
            "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ),
        (
            Hash::Sha256,
            "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ),
    ];

    fn keys(hash: Hash, challenge: &str) -> Keys {
        let salt = challenge.split_once("s=").unwrap().1.split_once(',').unwrap().0;
        Keys::with_salt(hash, b"pencil", 4096, &STANDARD.decode(salt).unwrap()).unwrap()
    }

    #[test]
    fn the_exchanges_of_the_rfcs_come_out() {
        for (hash, first, nonce, challenge, last, end) in KNOWN {
            let client = ClientFirst::read(first.as_bytes()).unwrap();
            assert_eq!((&client.user[..], &client.authorize_as[..]), ("user", ""));
            let keys = keys(hash, challenge);
            let (said, exchange) = client.challenge(&keys, nonce);
            assert_eq!(String::from_utf8(said).unwrap(), challenge);
            assert_eq!(exchange.finish(last.as_bytes()), Proof::Right(end.as_bytes().to_vec()));
        }
    }

    #[test]
    fn any_other_byte_is_refused() {
        for (hash, first, nonce, challenge, last, _) in KNOWN {
            let keys = keys(hash, challenge);
            for at in 0..last.len() {
                let mut bytes = last.as_bytes().to_vec();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let exchange = ClientFirst::read(first.as_bytes()).unwrap().challenge(&keys, nonce).1;
                let proof = exchange.finish(&bytes);
                assert!(matches!(proof, Proof::Wrong | Proof::Malformed), "{at}: {proof:?}");
            }
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        for hash in Hash::EVERY {
            let keys = Keys::new(hash, b"pencil", 4096).unwrap();
            assert_eq!(keys.to_string().parse(), Ok(keys.clone()));
            assert!(!format!("{keys:?}").contains('$'));
        }
        for wrong in
            ["", "SCRAM-SHA-256$4096:AA==$AA==:AA==", "SCRAM-MD5$1:AA==$AA==:AA==", "SCRAM-SHA-1$0:AA==$:"]
        {
            assert!(wrong.parse::<Keys>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn first_messages_are_read_with_care() {
        let client = ClientFirst::read(b"y,a=boss,n=a=2Cb=3Dc,r=xyz,ext=1").unwrap();
        assert_eq!((&client.user[..], &client.authorize_as[..]), ("a,b=c", "boss"));
        for wrong in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=,r=x",
            "n,,n=a,r=",
            "n,,n=a=2,r=x",
            "n,,n=a=41,r=x",
            "n,b=c,n=a,r=x",
            "p=tls-unique,,n=a,r=x",
            "n,,m=1,n=a,r=x",
            "n,,n=a",
            "n,,r=x,n=a",
        ] {
            assert_eq!(ClientFirst::read(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn who_is_not_there_has_the_same_salt_each_time_and_no_password() {
        let keys = Keys::of_nobody(Hash::Sha256, &[7; 32]);
        assert_eq!(keys, Keys::of_nobody(Hash::Sha256, &[7; 32]));
        assert_ne!(keys.salt, Keys::of_nobody(Hash::Sha256, &[8; 32]).salt);
        assert_eq!(keys.salt.len(), SALT_BYTES);
    }
}
