//! Tests of logins.

use super::*;
use crate::PeerIdentity;
use argon2::Params;
use argon2::password_hash::PasswordHash;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn recipe() -> Recipe {
    Recipe { argon2: Params::new(8, 1, 1, None).unwrap(), iterations: 4096, md5_realm: Some("FULMAR".into()) }
}

fn write(path: &Path, user: &str, password: &str) {
    let secrets = Secrets::new(user, password.as_bytes(), &recipe()).unwrap();
    write_text(path, &format!("{user}:{secrets}\n"));
}

fn write_text(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn offer() -> Offer {
    let mechanisms = crate::mechanism::EVERY;
    let mechanisms = mechanisms.into_iter().filter(|m| *m != Mechanism::Anonymous).collect();
    Offer { mechanisms, plain_anywhere: true, ..Offer::default() }
}

fn authority(user: &str, password: &str) -> (tempfile::TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users");
    write(&path, user, password);
    let authority = Authority::new(path, offer(), "FULMAR".into()).unwrap();
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
        other => panic!("{other:?}"),
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
    assert_eq!(log_in(&mut authority, ELSEWHERE, "PLAIN", "\0guest\0guest"), Err(Denied::GuestFromElsewhere));
    write(authority.users.path(), GUEST, "other");
    assert!(authority.refresh().unwrap());
    assert_eq!(plain(&mut authority, GUEST, GUEST), Err(Denied::Password(GUEST.into())));
    assert_eq!(plain(&mut authority, GUEST, "other"), Ok(GUEST.into()));
    assert_eq!(log_in(&mut authority, ELSEWHERE, "PLAIN", "\0guest\0other"), Err(Denied::GuestFromElsewhere));
    write_text(authority.users.path(), "guest:!\n");
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
    write_text(authority.users.path(), "rubbish\n");
    assert!(authority.refresh().is_err());
    assert!(!authority.refresh().unwrap(), "said once");
    assert_eq!(plain(&mut authority, "anna", "two"), Ok("anna".into()));
}

#[test]
fn anonymous_only_where_it_is_switched_on() {
    let (_dir, mut authority) = authority("ann", "secret");
    assert_eq!(log_in(&mut authority, HERE, "ANONYMOUS", ""), Err(Denied::Mechanism));
    assert_eq!(log_in(&mut authority, HERE, "EXTERNAL", ""), Err(Denied::Mechanism));
    authority.offer.mechanisms.push(Mechanism::Anonymous);
    assert_eq!(log_in(&mut authority, HERE, "ANONYMOUS", ""), Ok("anonymous".into()));
}

/// A client's side of a login by a mechanism with a proof. Returns who it is, and how many rounds it took.
fn prove(
    authority: &mut Authority,
    from: [u8; 4],
    mechanism: &str,
    user: &str,
    password: &str,
) -> Result<String, Denied> {
    let peer = Peer::new(from.into(), PeerIdentity::default());
    let mut client = Client { user, password, first: String::new() };
    let first = client.first(mechanism);
    let mut round = authority.begin(&peer, mechanism, first.as_deref().map(str::as_bytes))?;
    for _ in 0..5 {
        let (asked, exchange) = match round {
            Round::Accepted(user) => return Ok(user),
            Round::Challenge(asked, exchange) => (String::from_utf8(asked).unwrap(), exchange),
            Round::Protected(..) => panic!("a layer that nobody has asked for"),
        };
        let answer = client.answer(mechanism, &asked);
        round = authority.go_on(&peer, exchange, answer.as_bytes())?;
    }
    panic!("{mechanism} comes to no end");
}

struct Client<'a> {
    user: &'a str,
    password: &'a str,
    first: String,
}

impl Client<'_> {
    fn first(&mut self, mechanism: &str) -> Option<String> {
        self.first = format!("n={},r=abc", self.user);
        mechanism.starts_with("SCRAM").then(|| format!("n,,{}", self.first))
    }

    fn answer(&self, mechanism: &str, asked: &str) -> String {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD;
        use hmac::{Hmac, KeyInit, Mac};
        use md5::{Digest, Md5};
        use sha2::Sha256;
        if asked.starts_with("v=") || asked.starts_with("rspauth=") {
            return String::new();
        }
        let hex = |bytes: &[u8]| crate::sasl::hex(bytes);
        match mechanism {
            "SCRAM-SHA-256" => {
                let parts: Vec<&str> = asked.split(',').map(|part| &part[2..]).collect();
                let salt = STANDARD.decode(parts[1]).unwrap();
                let salted = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(
                    self.password.as_bytes(),
                    &salt,
                    parts[2].parse().unwrap(),
                );
                let mac = |key: &[u8], text: &[u8]| {
                    Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes()
                };
                let key = mac(&salted, b"Client Key");
                let end = format!("c=biws,r={}", parts[0]);
                let signature = mac(&Sha256::digest(key), format!("{},{asked},{end}", self.first).as_bytes());
                let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
                format!("{end},p={}", STANDARD.encode(proof))
            }
            "CRAM-MD5" => {
                let mac = Hmac::<Md5>::new_from_slice(self.password.as_bytes()).unwrap();
                let mac = mac.chain_update(asked).finalize().into_bytes();
                format!("{} {}", self.user, hex(&mac))
            }
            "DIGEST-MD5" => {
                let nonce = asked.split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
                let md5 = |text: &[u8]| hex(&Md5::digest(text));
                let Client { user, password, .. } = self;
                let secret = Md5::digest(format!("{user}:FULMAR:{password}"));
                let a1 = md5(&[&secret[..], format!(":{nonce}:c").as_bytes()].concat());
                let a2 = md5(b"AUTHENTICATE:amqp/h");
                let answer = md5(format!("{a1}:{nonce}:00000001:c:auth:{a2}").as_bytes());
                format!(
                    "username=\"{user}\",realm=\"FULMAR\",nonce=\"{nonce}\",cnonce=\"c\",nc=00000001,qop=auth,\
                     digest-uri=\"amqp/h\",response={answer}"
                )
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn proofs_log_in_without_the_password() {
    let (_dir, mut authority) = authority("ann", "secret");
    for mechanism in ["SCRAM-SHA-256", "CRAM-MD5", "DIGEST-MD5"] {
        let mut prove = |from, user, password| prove(&mut authority, from, mechanism, user, password);
        assert_eq!(prove(ELSEWHERE, "ann", "secret"), Ok("ann".into()), "{mechanism}");
        assert_eq!(prove(ELSEWHERE, "ann", "wrong"), Err(Denied::Password("ann".into())), "{mechanism}");
        assert_eq!(prove(ELSEWHERE, "bob", "secret"), Err(Denied::Unknown("bob".into())), "{mechanism}");
        assert_eq!(prove(HERE, GUEST, GUEST), Ok(GUEST.into()), "{mechanism}");
        assert_eq!(prove(ELSEWHERE, GUEST, GUEST), Err(Denied::GuestFromElsewhere), "{mechanism}");
    }
}

#[test]
fn who_has_no_keys_is_told_apart_in_the_log_alone() {
    let (_dir, mut authority) = authority("ann", "secret");
    let path = authority.users.path().to_owned();
    let old = crate::secrets::Secrets::new("ann", b"\xff", &Recipe { md5_realm: None, ..recipe() }).unwrap();
    write_text(&path, &format!("ann:{old}\nbob:!\n"));
    authority.refresh().unwrap();
    for (user, denied) in [
        ("ann", Denied::NoKeys("ann".into(), Mechanism::ScramSha256)),
        ("bob", Denied::Locked("bob".into())),
        ("eve", Denied::Unknown("eve".into())),
    ] {
        // Each is asked for a proof first.
        assert_eq!(prove(&mut authority, HERE, "SCRAM-SHA-256", user, "x"), Err(denied));
    }
}

#[test]
fn a_certificate_says_who_one_is() {
    let (_dir, mut authority) = authority("ann", "secret");
    let certificate = Some("ann@example.org".to_owned());
    let identity = PeerIdentity { encrypted: true, certificate, strength: 256 };
    let peer = Peer::new(ELSEWHERE.into(), identity);
    let mut external = |response: &[u8]| match authority.begin(&peer, "EXTERNAL", Some(response)) {
        Ok(Round::Accepted(user)) => Ok(user),
        Ok(other) => panic!("{other:?}"),
        Err(denied) => Err(denied),
    };
    assert_eq!(external(b""), Ok("ann@example.org".into()));
    assert_eq!(external(b"ann@example.org"), Ok("ann@example.org".into()));
    assert!(matches!(external(b"root"), Err(Denied::SomebodyElse(..))));
    assert_eq!(log_in(&mut authority, HERE, "EXTERNAL", ""), Err(Denied::Mechanism));
}

#[test]
fn the_realm_is_the_brokers_or_part_of_the_name() {
    let (_dir, mut authority) = authority("ann", "secret");
    assert_eq!(plain(&mut authority, "ann@FULMAR", "secret"), Ok("ann".into()));
    assert_eq!(plain(&mut authority, "ann@OTHER", "secret"), Err(Denied::Unknown("ann@OTHER".into())));
    assert_eq!(authority.identity("ann"), "ann@FULMAR");
    assert_eq!(authority.identity("ann@OTHER"), "ann@OTHER");
    assert_eq!(authority.identity(ANONYMOUS), ANONYMOUS);
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
