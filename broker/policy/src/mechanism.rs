//! The SASL mechanisms, and which of them a peer is offered.

use std::fmt;
use std::str::FromStr;

use crate::Peer;
use crate::sasl::md5_keys::Kind;
use crate::sasl::scram::Hash;

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4422, appendix A: the peer is who its certificate says.
    External,
    /// RFC 4752: Kerberos, by the system's library.
    Gssapi,
    /// RFC 7677.
    ScramSha256,
    /// RFC 5802.
    ScramSha1,
    /// RFC 2831.
    DigestMd5,
    /// RFC 2195, and those of its kind that old clients of Qpid for Java know.
    Cram(Kind),
    /// RFC 4616.
    Plain,
    /// Name and password in a field table, as AMQP 0-9-1's older clients send them; here in the form of PLAIN.
    AmqPlain,
    /// RFC 4505: no name.
    Anonymous,
}

/// All, in order of preference.
pub const EVERY: [Mechanism; 11] = [
    Mechanism::External,
    Mechanism::Gssapi,
    Mechanism::ScramSha256,
    Mechanism::ScramSha1,
    Mechanism::DigestMd5,
    Mechanism::Cram(Kind::Password),
    Mechanism::Cram(Kind::Hex),
    Mechanism::Cram(Kind::Hashed),
    Mechanism::Plain,
    Mechanism::AmqPlain,
    Mechanism::Anonymous,
];

impl Mechanism {
    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::External => "EXTERNAL",
            Mechanism::Gssapi => "GSSAPI",
            Mechanism::ScramSha256 => Hash::Sha256.mechanism(),
            Mechanism::ScramSha1 => Hash::Sha1.mechanism(),
            Mechanism::DigestMd5 => "DIGEST-MD5",
            Mechanism::Cram(kind) => kind.mechanism(),
            Mechanism::Plain => "PLAIN",
            Mechanism::AmqPlain => "AMQPLAIN",
            Mechanism::Anonymous => "ANONYMOUS",
        }
    }

    /// Whether it sends the password itself.
    pub fn shows_password(self) -> bool {
        matches!(self, Mechanism::Plain | Mechanism::AmqPlain)
    }

    /// Whether who has listened can try passwords by a dictionary.
    fn can_be_guessed(self) -> bool {
        !matches!(self, Mechanism::External | Mechanism::Anonymous)
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        EVERY.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let known = EVERY.map(Mechanism::name).join(", ");
            format!("no mechanism '{text}'; there are {known}")
        })
    }
}

/// Which mechanisms are offered to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Those that may be offered at all.
    pub mechanisms: Vec<Mechanism>,
    /// Those that show the password, to peers elsewhere without encryption too.
    pub plain_anywhere: bool,
    /// Nothing to peers without encryption.
    pub encryption_required: bool,
    /// To peers with encryption, only what cannot be guessed by a dictionary.
    pub no_dictionary: bool,
}

impl Default for Offer {
    fn default() -> Self {
        use Mechanism::*;
        Offer {
            mechanisms: vec![External, ScramSha256, ScramSha1, Plain, AmqPlain],
            plain_anywhere: false,
            encryption_required: false,
            no_dictionary: false,
        }
    }
}

impl Offer {
    /// What a peer is offered, in order of preference.
    pub fn to(&self, peer: &Peer) -> Vec<Mechanism> {
        EVERY.into_iter().filter(|mechanism| self.is_for(*mechanism, peer)).collect()
    }

    fn is_for(&self, mechanism: Mechanism, peer: &Peer) -> bool {
        let is_encrypted = peer.identity.encrypted;
        let is_safe = is_encrypted || self.plain_anywhere || peer.is_loopback();
        self.mechanisms.contains(&mechanism)
            && (is_encrypted || !self.encryption_required)
            && (is_safe || !mechanism.shows_password())
            && (!is_encrypted || !self.no_dictionary || !mechanism.can_be_guessed())
            && (mechanism != Mechanism::External || peer.identity.certificate.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerIdentity;

    fn offered(offer: &Offer, address: &str, encrypted: bool, certificate: Option<&str>) -> String {
        let certificate = certificate.map(str::to_owned);
        let identity = PeerIdentity { encrypted, certificate, strength: 0 };
        let names = offer.to(&Peer::new(address.parse().unwrap(), identity)).into_iter().map(Mechanism::name);
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn passwords_are_asked_for_where_nobody_listens() {
        let offer = Offer::default();
        let scram = "SCRAM-SHA-256 SCRAM-SHA-1";
        assert_eq!(offered(&offer, "10.0.0.1", false, None), scram);
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(offered(&offer, address, false, None), format!("{scram} PLAIN AMQPLAIN"));
        }
        assert_eq!(offered(&offer, "10.0.0.1", true, None), format!("{scram} PLAIN AMQPLAIN"));
        let anywhere = Offer { plain_anywhere: true, ..Offer::default() };
        assert_eq!(offered(&anywhere, "10.0.0.1", false, None), format!("{scram} PLAIN AMQPLAIN"));
    }

    #[test]
    fn certificates_and_requirements_count() {
        let offer = Offer::default();
        assert!(offered(&offer, "10.0.0.1", true, Some("ann")).starts_with("EXTERNAL "));
        let strict = Offer { encryption_required: true, ..Offer::default() };
        assert_eq!(offered(&strict, "127.0.0.1", false, None), "");
        let no_dictionary = Offer { no_dictionary: true, ..Offer::default() };
        assert_eq!(offered(&no_dictionary, "10.0.0.1", true, Some("ann")), "EXTERNAL");
        assert!(offered(&no_dictionary, "127.0.0.1", false, None).contains("PLAIN"));
    }
}
