//! Decides on logins. Runs on a thread of its own: checking a password takes long on purpose.
//!
//! 1. An unknown user costs as much as a wrong password.
//! 2. Secrets are compared in constant time.
//! 3. A file of users that has changed counts from the next login on; one that has become unreadable changes nothing.
//! 4. A password that was right is remembered as a keyed hash, so that thousands of reconnects cost one check.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use argon2::Argon2;
use argon2::password_hash::rand_core::{OsRng, RngCore};
use argon2::password_hash::{PasswordHash, PasswordVerifier};
use blake2::Blake2sMac256;
use blake2::digest::{FixedOutput, KeyInit, Update};
use subtle::ConstantTimeEq;

use crate::users::Account;
use crate::{GUEST, Peer, UserFile, UsersError};

/// Checked in place of the hash of a user that does not exist; as dear as those that `fulmar user add` makes.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm9i$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Passwords remembered.
const MAX_REMEMBERED: usize = 10_000;

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Name and password in a field table, as AMQP 0-9-1's older clients send them.
    AmqPlain,
    /// RFC 4505: no name.
    Anonymous,
}

impl Mechanism {
    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::AmqPlain => "AMQPLAIN",
            Mechanism::Anonymous => "ANONYMOUS",
        }
    }
}

impl FromStr for Mechanism {
    type Err = Denied;

    fn from_str(text: &str) -> Result<Self, Denied> {
        [Mechanism::Plain, Mechanism::AmqPlain, Mechanism::Anonymous]
            .into_iter()
            .find(|mechanism| mechanism.name() == text)
            .ok_or(Denied::Mechanism)
    }
}

/// Why a login was refused; for the log, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The mechanism is not offered.
    #[error("the mechanism is not offered")]
    Mechanism,
    /// What the peer said is not what the mechanism asks for.
    #[error("malformed {0} response")]
    Malformed(&'static str),
    /// There is no such user.
    #[error("there is no user '{0}'")]
    Unknown(String),
    /// The account is locked.
    #[error("user '{0}' is locked")]
    Locked(String),
    /// The password is wrong.
    #[error("wrong password for user '{0}'")]
    Password(String),
    /// The account is for clients on this host.
    #[error("user '{GUEST}' can log in from this host only; `fulmar user add` adds others")]
    GuestFromElsewhere,
}

/// A round of a login.
#[derive(Debug)]
pub enum Round {
    /// The peer is to say more.
    Challenge(Vec<u8>, Exchange),
    /// It is logged in, and goes by this name.
    Accepted(String),
}

/// A login between two rounds.
#[derive(Debug)]
pub struct Exchange(State);

#[derive(Debug)]
enum State {
    /// The peer has named a mechanism, and nothing else.
    Named(Mechanism),
}

/// Decides on logins.
pub struct Authority {
    users: UserFile,
    stamp: Stamp,
    anonymous: bool,
    key: [u8; 32],
    remembered: HashMap<String, [u8; 32]>,
}

/// What changes when a file does.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

impl Authority {
    /// With the users of a file, and SASL ANONYMOUS or not.
    ///
    /// # Errors
    /// The file is there and cannot be read, or a line of it is wrong.
    pub fn new(users_file: PathBuf, anonymous: bool) -> Result<Self, UsersError> {
        let stamp = stamp(&users_file);
        let users = UserFile::load(&users_file)?;
        let mut key = [0; 32];
        OsRng.fill_bytes(&mut key);
        Ok(Authority { users, stamp, anonymous, key, remembered: HashMap::new() })
    }

    /// The mechanisms on offer, in order of preference.
    pub fn mechanisms(&self) -> Vec<Mechanism> {
        let mut mechanisms = vec![Mechanism::Plain, Mechanism::AmqPlain];
        if self.anonymous {
            mechanisms.push(Mechanism::Anonymous);
        }
        mechanisms
    }

    /// The users as last read.
    pub fn users(&self) -> &UserFile {
        &self.users
    }

    /// Reads the file of users again if it has changed. Returns whether it had.
    ///
    /// # Errors
    /// The file is wrong; the users stay what they were.
    pub fn refresh(&mut self) -> Result<bool, UsersError> {
        let now = stamp(self.users.path());
        if now == self.stamp {
            return Ok(false);
        }
        // Also when it is wrong: once is enough to say so.
        self.stamp = now;
        self.users = UserFile::load(self.users.path())?;
        self.remembered.clear();
        Ok(true)
    }

    /// Looks at the first round of a login: a mechanism and, perhaps, what the peer says by it.
    ///
    /// # Errors
    /// Why the login is refused.
    pub fn begin(&mut self, peer: &Peer, mechanism: &str, response: Option<&[u8]>) -> Result<Round, Denied> {
        let mechanism = mechanism.parse()?;
        if !self.mechanisms().contains(&mechanism) {
            return Err(Denied::Mechanism);
        }
        match (mechanism, response) {
            (Mechanism::Anonymous, _) => Ok(Round::Accepted("anonymous".to_string())),
            (mechanism, None) => Ok(Round::Challenge(Vec::new(), Exchange(State::Named(mechanism)))),
            (mechanism, Some(response)) => self.respond(peer, mechanism, response),
        }
    }

    /// Looks at a later round.
    ///
    /// # Errors
    /// Why the login is refused.
    pub fn go_on(&mut self, peer: &Peer, exchange: Exchange, response: &[u8]) -> Result<Round, Denied> {
        match exchange.0 {
            State::Named(mechanism) => self.respond(peer, mechanism, response),
        }
    }

    fn respond(&mut self, peer: &Peer, mechanism: Mechanism, response: &[u8]) -> Result<Round, Denied> {
        match mechanism {
            Mechanism::Plain | Mechanism::AmqPlain => {
                let (user, password) = read_plain(response).ok_or(Denied::Malformed("PLAIN"))?;
                self.check_password(user, password, peer.is_loopback()).map(Round::Accepted)
            }
            Mechanism::Anonymous => Err(Denied::Mechanism),
        }
    }

    fn check_password(&mut self, user: &str, password: &[u8], loopback: bool) -> Result<String, Denied> {
        if user == GUEST && !loopback {
            return Err(Denied::GuestFromElsewhere);
        }
        let account = self.users.account(user);
        if user == GUEST && account == Account::Unknown {
            return match password.ct_eq(GUEST.as_bytes()).into() {
                true => Ok(GUEST.to_string()),
                false => Err(Denied::Password(GUEST.to_string())),
            };
        }
        let proof = self.proof(user, password);
        if self.remembered.get(user).is_some_and(|known| known.ct_eq(&proof).into()) {
            return Ok(user.to_string());
        }
        let hash = match account {
            Account::Hash(hash) => hash,
            Account::Unknown | Account::Locked => NOBODY,
        };
        let right = PasswordHash::new(hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok());
        match account {
            Account::Unknown => Err(Denied::Unknown(user.to_string())),
            Account::Locked => Err(Denied::Locked(user.to_string())),
            Account::Hash(_) if !right => Err(Denied::Password(user.to_string())),
            Account::Hash(_) => {
                if self.remembered.len() >= MAX_REMEMBERED {
                    self.remembered.clear();
                }
                self.remembered.insert(user.to_string(), proof);
                Ok(user.to_string())
            }
        }
    }

    /// What is remembered of a right password: useless without this process's key.
    fn proof(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let mut mac = <Blake2sMac256 as KeyInit>::new(&self.key.into());
        mac.update(&(user.len() as u64).to_le_bytes());
        mac.update(user.as_bytes());
        mac.update(password);
        mac.finalize_fixed().into()
    }
}

/// User and password of RFC 4616. What the peer would like to be beyond that is not heard.
fn read_plain(response: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = response.splitn(3, |&byte| byte == 0);
    let _authorize_as = parts.next()?;
    let user = std::str::from_utf8(parts.next()?).ok()?;
    Some((user, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerIdentity;
    use argon2::Params;

    fn write(path: &Path, user: &str, password: &str) {
        let hash = crate::users::hash(password.as_bytes(), Params::new(8, 1, 1, None).unwrap()).unwrap();
        fs::write(path, format!("{user}:{hash}\n")).unwrap();
    }

    fn authority(user: &str, password: &str) -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        write(&path, user, password);
        let authority = Authority::new(path, false).unwrap();
        (dir, authority)
    }

    fn log_in(
        authority: &mut Authority,
        from: [u8; 4],
        mechanism: &str,
        response: &str,
    ) -> Result<String, Denied> {
        let peer = Peer::new(from.into(), PeerIdentity::default());
        match authority.begin(&peer, mechanism, Some(response.as_bytes()))? {
            Round::Accepted(user) => Ok(user),
            Round::Challenge(..) => panic!("a second round"),
        }
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];
    const ELSEWHERE: [u8; 4] = [10, 0, 0, 1];

    fn plain(authority: &mut Authority, user: &str, password: &str) -> Result<String, Denied> {
        log_in(authority, HERE, "PLAIN", &format!("\0{user}\0{password}"))
    }

    #[test]
    fn the_right_password_logs_in_and_is_remembered() {
        let (_dir, mut authority) = authority("ann", "secret");
        assert_eq!(plain(&mut authority, "ann", "wrong"), Err(Denied::Password("ann".into())));
        assert!(authority.remembered.is_empty());
        assert_eq!(plain(&mut authority, "ann", "secret"), Ok("ann".into()));
        assert_eq!(authority.remembered.len(), 1);
        assert_eq!(log_in(&mut authority, ELSEWHERE, "AMQPLAIN", "\0ann\0secret"), Ok("ann".into()));
        assert_eq!(plain(&mut authority, "ann", "wrong"), Err(Denied::Password("ann".into())));
        assert_eq!(plain(&mut authority, "bob", "secret"), Err(Denied::Unknown("bob".into())));
    }

    #[test]
    fn guest_is_for_this_host_and_can_be_locked_or_changed() {
        let (_dir, mut authority) = authority("ann", "secret");
        assert_eq!(plain(&mut authority, GUEST, GUEST), Ok(GUEST.into()));
        assert_eq!(plain(&mut authority, GUEST, "x"), Err(Denied::Password(GUEST.into())));
        assert_eq!(
            log_in(&mut authority, ELSEWHERE, "PLAIN", "\0guest\0guest"),
            Err(Denied::GuestFromElsewhere)
        );
        write(authority.users.path(), GUEST, "other");
        assert!(authority.refresh().unwrap());
        assert_eq!(plain(&mut authority, GUEST, GUEST), Err(Denied::Password(GUEST.into())));
        assert_eq!(plain(&mut authority, GUEST, "other"), Ok(GUEST.into()));
        assert_eq!(
            log_in(&mut authority, ELSEWHERE, "PLAIN", "\0guest\0other"),
            Err(Denied::GuestFromElsewhere)
        );
        fs::write(authority.users.path(), "guest:!\n").unwrap();
        authority.refresh().unwrap();
        assert_eq!(plain(&mut authority, GUEST, GUEST), Err(Denied::Locked(GUEST.into())));
    }

    #[test]
    fn a_changed_file_counts_at_once_and_a_broken_one_does_not() {
        let (_dir, mut authority) = authority("ann", "one");
        assert_eq!(plain(&mut authority, "ann", "one"), Ok("ann".into()));
        assert!(!authority.refresh().unwrap());
        write(authority.users.path(), "anna", "two");
        assert!(authority.refresh().unwrap());
        assert_eq!(plain(&mut authority, "ann", "one"), Err(Denied::Unknown("ann".into())));
        assert_eq!(plain(&mut authority, "anna", "two"), Ok("anna".into()));
        fs::write(authority.users.path(), "rubbish\n").unwrap();
        assert!(authority.refresh().is_err());
        assert!(!authority.refresh().unwrap(), "said once");
        assert_eq!(plain(&mut authority, "anna", "two"), Ok("anna".into()));
    }

    #[test]
    fn anonymous_only_where_it_is_switched_on() {
        let (_dir, mut authority) = authority("ann", "secret");
        assert_eq!(log_in(&mut authority, HERE, "ANONYMOUS", ""), Err(Denied::Mechanism));
        assert_eq!(log_in(&mut authority, HERE, "EXTERNAL", ""), Err(Denied::Mechanism));
        authority.anonymous = true;
        assert_eq!(log_in(&mut authority, HERE, "ANONYMOUS", ""), Ok("anonymous".into()));
        assert_eq!(authority.mechanisms().last(), Some(&Mechanism::Anonymous));
    }

    #[test]
    fn the_stand_in_for_unknown_users_is_a_hash_as_dear_as_others() {
        let hash = PasswordHash::new(NOBODY).unwrap();
        let params = argon2::Params::try_from(&hash).unwrap();
        let default = argon2::Params::default();
        let costs = |params: &argon2::Params| (params.m_cost(), params.t_cost(), params.p_cost());
        assert_eq!(costs(&params), costs(&default));
        assert_eq!(hash.hash.unwrap().len(), default.output_len().unwrap_or(32));
    }
}
