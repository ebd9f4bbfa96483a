//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding: neither side shows the password, and each
//! learns whether the other knows it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// As often as this a password is hashed at most: who asks for more only wants to keep the client busy.
const MAX_ITERATIONS: u32 = 1_000_000;

/// A login.
pub(super) struct Scram {
    password: String,
    /// What was said first, without its header.
    first: String,
    nonce: String,
    /// By which the broker will be known, once it was answered.
    signature: Option<[u8; 32]>,
}

impl Scram {
    /// Of a user, with a nonce that is used once.
    pub(super) fn new(user: &str, password: &str, nonce: String) -> Self {
        let prepared = stringprep::saslprep(user).map_or_else(|_| user.to_owned(), Into::into);
        let user = prepared.replace('=', "=3D").replace(',', "=2C");
        let password = stringprep::saslprep(password).map_or_else(|_| password.to_owned(), Into::into);
        Scram { password, first: format!("n={user},r={nonce}"), nonce, signature: None }
    }

    /// What to say first.
    pub(super) fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first).into_bytes()
    }

    /// The answer to a challenge. `None`: it is none, or whoever asks does not know the password.
    pub(super) fn answer(&mut self, challenge: &[u8]) -> Option<Vec<u8>> {
        let challenge = std::str::from_utf8(challenge).ok()?;
        match self.signature {
            None => self.prove(challenge),
            Some(signature) => {
                let shown = STANDARD.decode(challenge.strip_prefix("v=")?).ok()?;
                (shown == signature).then(Vec::new)
            }
        }
    }

    fn prove(&mut self, challenge: &str) -> Option<Vec<u8>> {
        let mut attributes = challenge.split(',');
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_answer = nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce);
        let salt = STANDARD.decode(attributes.next()?.strip_prefix("s=")?).ok()?;
        let iterations = attributes.next()?.strip_prefix("i=")?.parse().ok()?;
        if !is_answer || !(1..=MAX_ITERATIONS).contains(&iterations) {
            return None;
        }
        let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(self.password.as_bytes(), &salt, iterations);
        let last = format!("c=biws,r={nonce}");
        let transcript = format!("{},{challenge},{last}", self.first);
        let client_key = mac(&salted, b"Client Key");
        let signature = mac(&Sha256::digest(client_key), transcript.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
        self.signature = Some(mac(&mac(&salted, b"Server Key"), transcript.as_bytes()));
        Some(format!("{last},p={}", STANDARD.encode(proof)).into_bytes())
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    mac.chain_update(text).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHALLENGE: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn scram() -> Scram {
        Scram::new("user", "pencil", "rOprNGfwEbeRWgbNEkqO".into())
    }

    #[test]
    fn the_exchange_of_the_rfc_comes_out() {
        let mut scram = scram();
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let expected = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(scram.answer(CHALLENGE).as_deref(), Some(expected.as_bytes()));
        assert_eq!(scram.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Some(Vec::new()));
        assert_eq!(scram.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), None);
        assert_eq!(scram.answer(b""), None, "a broker that does not say that it knows the password");
    }

    #[test]
    fn a_challenge_that_is_none_is_not_answered() {
        let challenge = std::str::from_utf8(CHALLENGE).unwrap();
        for wrong in [
            challenge.replace("r=rOpr", "r=other"),
            challenge.replace("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", ""),
            challenge.replace("i=4096", "i=0"),
            challenge.replace("i=4096", "i=1000001"),
            challenge.replace(",s=", ",x="),
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned(),
        ] {
            assert_eq!(scram().answer(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(Scram::new("a=b,c", "x", "n".into()).first(), b"n,,n=a=3Db=2Cc,r=n");
    }
}
