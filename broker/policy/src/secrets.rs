//! What is kept of a password: an argon2id hash for mechanisms that carry the password itself, keys for those that do
//! not. In the file of users they stand after the name, separated by blanks; or `!` for an account that is locked.

use std::fmt;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, Params};

use crate::UsersError;
use crate::sasl::md5_keys::{CramKeys, Kind};
use crate::sasl::scram::{self, Hash};
use crate::sasl::{digest_md5, hex, unhex};

/// What stands for the secrets of an account that nobody can log in to.
pub(crate) const LOCKED: &str = "!";
const DIGEST: &str = "DIGEST-MD5$";

/// What is kept of a user's password.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// An argon2id PHC string.
    argon2: Option<String>,
    scram: Vec<scram::Keys>,
    cram: Vec<(Kind, CramKeys)>,
    /// The realm, and what is kept for it.
    digest: Option<(String, [u8; 16])>,
}

/// What it costs to make secrets of a password, and which of them.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Of argon2id.
    pub argon2: Params,
    /// Of SCRAM.
    pub iterations: u32,
    /// Keys for CRAM-MD5 and DIGEST-MD5 too, the latter for this realm. Whoever reads them can log in with them.
    pub md5_realm: Option<String>,
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe { argon2: Params::default(), iterations: scram::ITERATIONS, md5_realm: None }
    }
}

impl Secrets {
    /// Of a password.
    ///
    /// # Errors
    /// It is empty.
    pub fn new(user: &str, password: &[u8], recipe: &Recipe) -> Result<Self, UsersError> {
        if password.is_empty() {
            return Err(UsersError::EmptyPassword);
        }
        let algorithm = argon2::Algorithm::Argon2id;
        let argon2 = Argon2::new(algorithm, argon2::Version::V0x13, recipe.argon2.clone());
        let salt = SaltString::generate(&mut OsRng);
        let hash = argon2.hash_password(password, &salt).expect("the parameters are valid");
        let scram = |hash| scram::Keys::new(hash, password, recipe.iterations);
        let realm = recipe.md5_realm.as_ref();
        Ok(Secrets {
            argon2: Some(hash.to_string()),
            scram: Hash::EVERY.into_iter().filter_map(scram).collect(),
            cram: realm.iter().flat_map(|_| Kind::EVERY.map(|kind| (kind, kind.keys(password)))).collect(),
            digest: realm.map(|realm| (realm.clone(), digest_md5::secret(user, realm, password))),
        })
    }

    /// Reads what [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(text: &str) -> Result<Self, &'static str> {
        let mut secrets = Secrets::default();
        for word in text.split_ascii_whitespace() {
            if word.starts_with("SCRAM-") {
                secrets.scram.push(word.parse()?);
            } else if let Some((kind, keys)) = cram_keys(word) {
                let keys = CramKeys::read(keys).ok_or("the keys of CRAM-MD5 are 64 hexadecimal digits")?;
                secrets.cram.push((kind, keys));
            } else if let Some(rest) = word.strip_prefix(DIGEST) {
                const WRONG: &str =
                    "what is kept for DIGEST-MD5 is written as DIGEST-MD5$REALM$32 hexadecimal digits";
                let (realm, digits) = rest.rsplit_once('$').ok_or(WRONG)?;
                secrets.digest = Some((realm.to_owned(), unhex(digits).ok_or(WRONG)?));
            } else if is_argon2(word) {
                secrets.argon2 = Some(word.to_owned());
            } else {
                return Err("the hash is not a PHC string; `fulmar user passwd` makes one");
            }
        }
        if secrets == Secrets::default() {
            Err("there is no hash; `fulmar user passwd` makes one")
        } else {
            Ok(secrets)
        }
    }

    /// Whether this is the password; takes long on purpose.
    pub(crate) fn is_password(&self, password: &[u8]) -> bool {
        self.argon2.as_deref().is_some_and(|hash| is_hashed(hash, password))
    }

    /// The keys of a SCRAM mechanism.
    pub(crate) fn scram(&self, hash: Hash) -> Option<&scram::Keys> {
        self.scram.iter().find(|keys| keys.hash() == hash)
    }

    /// The keys of a mechanism of CRAM-MD5's kind.
    pub(crate) fn cram(&self, kind: Kind) -> Option<&CramKeys> {
        self.cram.iter().find(|(own, _)| *own == kind).map(|(_, keys)| keys)
    }

    /// What is kept for DIGEST-MD5 in a realm.
    pub(crate) fn digest(&self, realm: &str) -> Option<&[u8; 16]> {
        self.digest.as_ref().filter(|(own, _)| own == realm).map(|(_, secret)| secret)
    }

    /// Whether something is kept with which others could log in.
    pub fn has_md5(&self) -> bool {
        !self.cram.is_empty() || self.digest.is_some()
    }
}

/// Keys that belong to a mechanism of CRAM-MD5's kind, and to which.
fn cram_keys(word: &str) -> Option<(Kind, &str)> {
    let (name, keys) = word.split_once('$')?;
    Kind::EVERY.into_iter().find(|kind| kind.mechanism() == name).map(|kind| (kind, keys))
}

fn is_argon2(text: &str) -> bool {
    PasswordHash::new(text)
        .is_ok_and(|hash| hash.hash.is_some() && hash.algorithm.as_str().starts_with("argon2"))
}

/// Whether a password is that of an argon2id PHC string.
pub(crate) fn is_hashed(hash: &str, password: &[u8]) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

impl fmt::Display for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.argon2.iter().cloned().collect();
        words.extend(self.scram.iter().map(ToString::to_string));
        words.extend(self.cram.iter().map(|(kind, keys)| format!("{}${keys}", kind.mechanism())));
        words.extend(self.digest.as_ref().map(|(realm, secret)| format!("{DIGEST}{realm}${}", hex(secret))));
        f.write_str(&words.join(" "))
    }
}

impl fmt::Debug for Secrets {
    /// Without them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Recipe {
        Recipe { argon2: Params::new(8, 1, 1, None).unwrap(), iterations: 1, md5_realm: Some("REALM".into()) }
    }

    #[test]
    fn secrets_are_read_as_they_are_written() {
        let secrets = Secrets::new("ann", b"secret", &cheap()).unwrap();
        assert_eq!(Secrets::read(&secrets.to_string()), Ok(secrets.clone()));
        assert!(secrets.is_password(b"secret") && !secrets.is_password(b"Secret"));
        assert!(secrets.digest("REALM").is_some() && secrets.digest("OTHER").is_none());
        assert!(secrets.has_md5());
        let usual = Secrets::new("ann", b"secret", &Recipe { md5_realm: None, ..cheap() }).unwrap();
        assert!(!usual.has_md5() && usual.scram(Hash::Sha1).is_some() && usual.scram(Hash::Sha256).is_some());
        assert!(!usual.to_string().contains("MD5"));
        assert_eq!(format!("{usual:?}"), "Secrets");
    }

    #[test]
    fn wrong_secrets_are_named() {
        for wrong in ["", "plain", "CRAM-MD5$00", "DIGEST-MD5$ab", "SCRAM-SHA-1$1", "$x"] {
            assert!(Secrets::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_password_that_is_not_text_has_no_scram_keys() {
        let secrets = Secrets::new("ann", b"\xff\xfe", &cheap()).unwrap();
        assert!(secrets.is_password(b"\xff\xfe") && secrets.scram(Hash::Sha256).is_none());
    }
}
