//! Decides on logins. Runs on a thread of its own: checking a password takes long on purpose.
//!
//! 1. An unknown user costs as much as a wrong password.
//! 2. Secrets are compared in constant time.
//! 3. A file of users that has changed counts from the next login on; one that has become unreadable changes nothing.
//! 4. A password that was right is remembered as a keyed hash, so that thousands of reconnects cost one check.

use std::collections::HashMap;
use std::path::PathBuf;

use argon2::password_hash::rand_core::{OsRng, RngCore};
use blake2::Blake2sMac256;
use blake2::digest::{FixedOutput, KeyInit, Update};
use fulmar_gssapi::{self as gssapi, Layer};
use subtle::ConstantTimeEq;

use crate::mechanism::{Mechanism, Offer};
use crate::replace::{Stamp, stamp};
use crate::sasl::md5_keys::Kind;
use crate::sasl::scram::{ClientFirst, Hash, Keys, Proof};
use crate::sasl::{digest_md5, md5_keys, scram};
use crate::secrets::{Recipe, Secrets, is_hashed};
use crate::users::Account;
use crate::{GUEST, Peer, UserFile, UsersError};

/// Checked in place of the hash of a user that does not exist; as dear as those that `fulmar user add` makes.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm9i$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Who has no name.
pub const ANONYMOUS: &str = "anonymous";
/// What clients call a broker's service in Kerberos, unless told otherwise.
pub const SERVICE: &str = "qpidd";
/// Passwords remembered.
const MAX_REMEMBERED: usize = 10_000;

/// Why a login was refused; for the log, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The mechanism is not offered.
    #[error("the mechanism is not offered")]
    Mechanism,
    /// What the peer said is not what the mechanism asks for.
    #[error("malformed {0} response")]
    Malformed(Mechanism),
    /// There is no such user.
    #[error("there is no user '{0}'")]
    Unknown(String),
    /// The account is locked.
    #[error("user '{0}' is locked")]
    Locked(String),
    /// The password is wrong.
    #[error("wrong password for user '{0}'")]
    Password(String),
    /// Its ticket, or what it says after it, is not accepted.
    #[error("GSSAPI: {0}")]
    Ticket(gssapi::Failure),
    /// Nothing is kept of the password for this mechanism.
    #[error(
        "user '{0}' has no keys for {1}; `fulmar user passwd` makes some (with --md5 for CRAM-MD5 and DIGEST-MD5)"
    )]
    NoKeys(String, Mechanism),
    /// The peer wants to be somebody else.
    #[error("user '{0}' wants to be '{1}'")]
    SomebodyElse(String, String),
    /// Too many logins from its address have failed.
    #[error("too many failed logins from {0}")]
    TooManyFailures(std::net::IpAddr),
    /// Too many passwords wait to be checked, and others go before those from its address.
    #[error("too many logins wait; this one from {0} was the last")]
    TooManyWaiting(std::net::IpAddr),
    /// The access control list does not let the user connect from there.
    #[error("user '{0}' may not connect from {1}")]
    Address(String, std::net::IpAddr),
    /// The user has as many connections as he may have.
    #[error("user '{0}' has {1} connections already")]
    TooManyConnections(String, u32),
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
    /// The same; what comes and goes is in a security layer once the connection is open.
    Protected(String, Box<Layer>),
}

/// A login between two rounds.
#[derive(Debug)]
pub struct Exchange(State);

#[derive(Debug)]
enum State {
    /// The peer has named a mechanism, and nothing else.
    Named(Mechanism),
    /// It has been asked to prove by SCRAM that it is this user.
    Scram(String, Hash, scram::Exchange),
    /// It has been asked to prove something by a mechanism of CRAM-MD5's kind.
    Cram(Kind, Vec<u8>),
    /// The same by DIGEST-MD5.
    Digest(digest_md5::Exchange),
    /// It has shown a ticket.
    Gssapi(Box<gssapi::Exchange>),
    /// It is this user, and has been told so; nothing is to follow.
    Proven(String, Mechanism),
}

fn challenge(challenge: Vec<u8>, state: State) -> Round {
    Round::Challenge(challenge, Exchange(state))
}

/// Decides on logins.
pub struct Authority {
    users: UserFile,
    stamp: Stamp,
    offer: Offer,
    realm: String,
    service: String,
    key: [u8; 32],
    remembered: HashMap<String, [u8; 32]>,
    /// What is kept of the password that guest has without being added; made when it is needed.
    guest: Option<Secrets>,
}

impl Authority {
    /// With the users of a file. `realm` is where users without one are from.
    ///
    /// # Errors
    /// The file is there and cannot be read, or a line of it is wrong.
    pub fn new(users_file: PathBuf, offer: Offer, realm: String) -> Result<Self, UsersError> {
        let stamp = stamp(&users_file);
        let users = UserFile::load(&users_file)?;
        let mut key = [0; 32];
        OsRng.fill_bytes(&mut key);
        let service = SERVICE.to_owned();
        Ok(Authority { users, stamp, offer, realm, service, key, remembered: HashMap::new(), guest: None })
    }

    /// What the broker's service is called in Kerberos, instead of [`SERVICE`].
    pub fn set_service(&mut self, service: &str) {
        service.clone_into(&mut self.service);
    }

    /// What is offered to whom.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The users as last read.
    pub fn users(&self) -> &UserFile {
        &self.users
    }

    /// A user as access control lists know him: `name@realm`.
    pub fn identity(&self, user: &str) -> String {
        if user.contains('@') || user == ANONYMOUS {
            user.to_owned()
        } else {
            format!("{user}@{}", self.realm)
        }
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
        let mechanism = mechanism.parse().map_err(|_| Denied::Mechanism)?;
        if !self.offer.to(peer).contains(&mechanism) {
            return Err(Denied::Mechanism);
        }
        match (mechanism, response) {
            (Mechanism::Anonymous, _) => Ok(Round::Accepted(ANONYMOUS.to_string())),
            // The broker speaks first.
            (Mechanism::Cram(kind), _) => {
                let asked = md5_keys::challenge();
                Ok(challenge(asked.clone(), State::Cram(kind, asked)))
            }
            (Mechanism::DigestMd5, _) => {
                let exchange = digest_md5::Exchange::new(&self.realm);
                Ok(challenge(exchange.challenge(), State::Digest(exchange)))
            }
            (mechanism, None) => Ok(challenge(Vec::new(), State::Named(mechanism))),
            // Clients of AMQP 0-9-1 cannot say that they say nothing yet.
            (mechanism @ (Mechanism::ScramSha1 | Mechanism::ScramSha256 | Mechanism::Gssapi), Some(b"")) => {
                Ok(challenge(Vec::new(), State::Named(mechanism)))
            }
            (mechanism, Some(response)) => self.respond(peer, mechanism, response),
        }
    }

    /// Whether a round takes the checking of a password, which takes tens of milliseconds.
    pub fn is_costly(&self, mechanism: &str, exchange: Option<&Exchange>, response: Option<&[u8]>) -> bool {
        let mechanism = match exchange {
            None => mechanism.parse().ok(),
            Some(Exchange(State::Named(mechanism))) => Some(*mechanism),
            Some(_) => None,
        };
        let (Some(Mechanism::Plain | Mechanism::AmqPlain), Some(response)) = (mechanism, response) else {
            return false;
        };
        let Some((user, password)) = read_plain(response) else { return false };
        let user = self.local(user);
        let is_usual_guest = user == GUEST && self.users.account(user) == Account::Unknown;
        !is_usual_guest && !self.is_remembered(user, password)
    }

    /// Looks at a later round.
    ///
    /// # Errors
    /// Why the login is refused.
    pub fn go_on(&mut self, peer: &Peer, exchange: Exchange, response: &[u8]) -> Result<Round, Denied> {
        match exchange.0 {
            State::Named(mechanism) => self.respond(peer, mechanism, response),
            State::Scram(user, hash, exchange) => self.finish_scram(peer, user, hash, exchange, response),
            State::Cram(kind, asked) => self.finish_cram(peer, kind, &asked, response),
            State::Digest(exchange) => self.finish_digest(peer, &exchange, response),
            State::Gssapi(exchange) => {
                self.conclude(exchange.go_on(&self.service, response, takes_layer(peer)))
            }
            State::Proven(user, _) if response.is_empty() => Ok(Round::Accepted(user)),
            State::Proven(_, mechanism) => Err(Denied::Malformed(mechanism)),
        }
    }

    /// What a peer says of itself by a mechanism in which it speaks first.
    fn respond(&mut self, peer: &Peer, mechanism: Mechanism, response: &[u8]) -> Result<Round, Denied> {
        let malformed = Denied::Malformed(mechanism);
        match mechanism {
            Mechanism::Plain | Mechanism::AmqPlain => {
                let (user, password) = read_plain(response).ok_or(malformed)?;
                let user = self.local(user).to_owned();
                self.check_password(&user, password, peer).map(Round::Accepted)
            }
            Mechanism::External => {
                let user = peer.identity.certificate.clone().ok_or(Denied::Mechanism)?;
                let wanted = std::str::from_utf8(response).map_err(|_| malformed)?;
                is_himself(&user, wanted)?;
                self.is_unlocked(&user)?;
                Ok(Round::Accepted(user))
            }
            Mechanism::Gssapi => {
                self.conclude(gssapi::Exchange::begin(&self.service, response, takes_layer(peer)))
            }
            Mechanism::ScramSha1 => self.begin_scram(Hash::Sha1, response),
            Mechanism::ScramSha256 => self.begin_scram(Hash::Sha256, response),
            Mechanism::Anonymous | Mechanism::Cram(_) | Mechanism::DigestMd5 => Err(malformed),
        }
    }

    /// What a round of GSSAPI comes to.
    fn conclude(&self, round: Result<gssapi::Round, gssapi::Failure>) -> Result<Round, Denied> {
        match round.map_err(Denied::Ticket)? {
            gssapi::Round::Challenge(asked, exchange) => Ok(challenge(asked, State::Gssapi(exchange))),
            gssapi::Round::Accepted { user, authorize_as, layer } => {
                is_himself(&user, &authorize_as)?;
                self.is_unlocked(&user)?;
                Ok(match layer {
                    None => Round::Accepted(user),
                    Some(layer) => Round::Protected(user, layer),
                })
            }
        }
    }

    /// Somebody whom others vouch for may be locked here all the same.
    fn is_unlocked(&self, user: &str) -> Result<(), Denied> {
        let is_locked = self.users.account(user) == Account::Locked;
        if is_locked { Err(Denied::Locked(user.to_owned())) } else { Ok(()) }
    }

    fn begin_scram(&mut self, hash: Hash, response: &[u8]) -> Result<Round, Denied> {
        let first = ClientFirst::read(response).ok_or(Denied::Malformed(scram_mechanism(hash)))?;
        let user = self.local(&first.user).to_owned();
        is_himself(&first.user, &first.authorize_as)?;
        let keys = self.secrets(&user).and_then(|secrets| secrets.scram(hash).cloned());
        let keys =
            keys.unwrap_or_else(|| Keys::of_nobody(hash, &self.proof(&user, hash.mechanism().as_bytes())));
        let (asked, exchange) = first.challenge(&keys, &crate::sasl::nonce());
        Ok(challenge(asked, State::Scram(user, hash, exchange)))
    }

    fn finish_scram(
        &mut self,
        peer: &Peer,
        user: String,
        hash: Hash,
        exchange: scram::Exchange,
        response: &[u8],
    ) -> Result<Round, Denied> {
        let mechanism = scram_mechanism(hash);
        let is_known = self.secrets(&user).is_some_and(|secrets| secrets.scram(hash).is_some());
        match exchange.finish(response) {
            Proof::Malformed => Err(Denied::Malformed(mechanism)),
            Proof::Right(end) if is_known => self.proven(peer, user, mechanism, end),
            _ => Err(self.refused(user, mechanism, is_known)),
        }
    }

    fn finish_cram(
        &mut self,
        peer: &Peer,
        kind: Kind,
        asked: &[u8],
        response: &[u8],
    ) -> Result<Round, Denied> {
        let mechanism = Mechanism::Cram(kind);
        let (user, answer) = md5_keys::read_answer(response).ok_or(Denied::Malformed(mechanism))?;
        let user = self.local(user).to_owned();
        let keys = self.secrets(&user).and_then(|secrets| secrets.cram(kind));
        let right = keys.map(|keys| keys.is_answer(asked, answer));
        match right {
            Some(true) => self.admit(peer, &user).map(|()| Round::Accepted(user)),
            right => Err(self.refused(user, mechanism, right.is_some())),
        }
    }

    fn finish_digest(
        &mut self,
        peer: &Peer,
        exchange: &digest_md5::Exchange,
        response: &[u8],
    ) -> Result<Round, Denied> {
        let mechanism = Mechanism::DigestMd5;
        let response = digest_md5::Response::read(response).ok_or(Denied::Malformed(mechanism))?;
        let user = response.user.clone();
        is_himself(&user, &response.authorize_as)?;
        let realm = self.realm.clone();
        let Some(secret) = self.secrets(&user).and_then(|secrets| secrets.digest(&realm)) else {
            return Err(self.refused(user, mechanism, false));
        };
        match exchange.finish(&response, secret) {
            Some(end) => self.proven(peer, user, mechanism, end),
            None => Err(self.refused(user, mechanism, true)),
        }
    }

    /// The peer knows the password. It is to be told that the broker does, and says nothing to that.
    fn proven(&self, peer: &Peer, user: String, mechanism: Mechanism, end: Vec<u8>) -> Result<Round, Denied> {
        self.admit(peer, &user)?;
        Ok(challenge(end, State::Proven(user, mechanism)))
    }

    /// Whether a user who has proven to be one may come in.
    fn admit(&self, peer: &Peer, user: &str) -> Result<(), Denied> {
        if user == GUEST && !peer.is_loopback() { Err(Denied::GuestFromElsewhere) } else { Ok(()) }
    }

    fn refused(&self, user: String, mechanism: Mechanism, has_keys: bool) -> Denied {
        match self.users.account(&user) {
            Account::Locked => Denied::Locked(user),
            Account::Unknown if user != GUEST => Denied::Unknown(user),
            _ if !has_keys => Denied::NoKeys(user, mechanism),
            _ => Denied::Password(user),
        }
    }

    /// The user in the file: realms other than the broker's are part of the name.
    fn local<'a>(&self, user: &'a str) -> &'a str {
        match user.strip_suffix(&self.realm).and_then(|start| start.strip_suffix('@')) {
            Some(name) if self.users.account(user) == Account::Unknown => name,
            _ => user,
        }
    }

    /// What is kept of a user's password.
    fn secrets(&mut self, user: &str) -> Option<&Secrets> {
        if user == GUEST && self.users.account(user) == Account::Unknown {
            if self.guest.is_none() {
                let recipe = Recipe { md5_realm: Some(self.realm.clone()), ..Recipe::default() };
                self.guest = Secrets::new(GUEST, GUEST.as_bytes(), &recipe).ok();
            }
            return self.guest.as_ref();
        }
        match self.users.account(user) {
            Account::Known(secrets) => Some(secrets),
            Account::Unknown | Account::Locked => None,
        }
    }

    fn check_password(&mut self, user: &str, password: &[u8], peer: &Peer) -> Result<String, Denied> {
        self.admit(peer, user)?;
        let account = self.users.account(user);
        if user == GUEST && account == Account::Unknown {
            return match password.ct_eq(GUEST.as_bytes()).into() {
                true => Ok(GUEST.to_string()),
                false => Err(Denied::Password(GUEST.to_string())),
            };
        }
        if self.is_remembered(user, password) {
            return Ok(user.to_string());
        }
        let is_right = match account {
            Account::Known(secrets) => secrets.is_password(password),
            Account::Unknown | Account::Locked => {
                is_hashed(NOBODY, password);
                false
            }
        };
        match account {
            Account::Unknown => Err(Denied::Unknown(user.to_string())),
            Account::Locked => Err(Denied::Locked(user.to_string())),
            Account::Known(_) if !is_right => Err(Denied::Password(user.to_string())),
            Account::Known(_) => {
                if self.remembered.len() >= MAX_REMEMBERED {
                    self.remembered.clear();
                }
                self.remembered.insert(user.to_string(), self.proof(user, password));
                Ok(user.to_string())
            }
        }
    }

    fn is_remembered(&self, user: &str, password: &[u8]) -> bool {
        self.remembered.get(user).is_some_and(|known| known.ct_eq(&self.proof(user, password)).into())
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

fn scram_mechanism(hash: Hash) -> Mechanism {
    match hash {
        Hash::Sha1 => Mechanism::ScramSha1,
        Hash::Sha256 => Mechanism::ScramSha256,
    }
}

/// Whether a security layer would protect what nothing else does.
fn takes_layer(peer: &Peer) -> bool {
    peer.takes_layer && !peer.identity.encrypted
}

/// Nobody acts for others.
fn is_himself(user: &str, wanted: &str) -> Result<(), Denied> {
    let is = wanted.is_empty() || wanted == user;
    if is { Ok(()) } else { Err(Denied::SomebodyElse(user.to_owned(), wanted.to_owned())) }
}

/// User and password of RFC 4616. What the peer would like to be beyond that is not heard.
fn read_plain(response: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = response.splitn(3, |&byte| byte == 0);
    let _authorize_as = parts.next()?;
    let user = std::str::from_utf8(parts.next()?).ok()?;
    Some((user, parts.next()?))
}

#[cfg(test)]
mod tests;
