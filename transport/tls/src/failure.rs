//! Why TLS with a peer failed, in words for a log.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Why TLS with a peer failed. One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure(Reason);

#[derive(Clone, Debug, PartialEq)]
enum Reason {
    Tls(Error),
    TooLong,
}

impl Failure {
    /// The handshake took more bytes than anybody needs for one.
    pub(crate) const TOO_LONG: Failure = Failure(Reason::TooLong);
}

impl Failure {
    /// What an error of a stream over TLS is about; `None` if it is not about TLS.
    pub fn of_io(error: &std::io::Error) -> Option<Failure> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(error.clone().into())
    }
}

impl Failure {
    /// Whether the peer's certificate was issued by somebody who is not trusted here.
    pub fn is_about_trust(&self) -> bool {
        matches!(&self.0, Reason::Tls(Error::InvalidCertificate(CertificateError::UnknownIssuer)))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(Reason::Tls(error))
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match &self.0 {
            Reason::TooLong => return f.write_str("its handshake is too long"),
            Reason::Tls(error) => error,
        };
        match error {
            Error::NoCertificatesPresented => f.write_str("it showed no certificate, which is required here"),
            Error::InvalidCertificate(error) => certificate(error, f),
            Error::AlertReceived(alert) => alert_text(*alert, f),
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            ) => f.write_str("it offers no version of TLS that is allowed here"),
            Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
                f.write_str("it offers no cipher suite that is allowed here")
            }
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                f.write_str("what it sent is not TLS")
            }
            Error::InvalidMessage(_) => write!(f, "what it sent is not TLS, or is damaged: {error}"),
            error => write!(f, "{error}"),
        }
    }
}

/// A peer's certificate was not accepted here.
fn certificate(error: &CertificateError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        CertificateError::UnknownIssuer => {
            f.write_str("its certificate was issued by nobody who is trusted here")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            f.write_str("its certificate has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            f.write_str("its certificate is not valid yet")
        }
        CertificateError::Revoked => f.write_str("its certificate has been revoked"),
        CertificateError::UnknownRevocationStatus => {
            f.write_str("there is no revocation list of the issuer of its certificate")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            f.write_str("its certificate is not for this purpose")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            write!(f, "its certificate is for another host: {error}")
        }
        CertificateError::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
            f.write_str("its certificate is one for issuing others (CA:TRUE), and not one to show")
        }
        CertificateError::Other(error) => write!(f, "its certificate is not accepted: {error}"),
        error => write!(f, "its certificate is not accepted: {error}"),
    }
}

/// The peer gave up, and said why.
fn alert_text(alert: AlertDescription, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let why = match alert {
        AlertDescription::UnknownCA => "it does not trust the issuer of our certificate",
        AlertDescription::CertificateExpired => "to it our certificate has expired",
        AlertDescription::CertificateRevoked => "to it our certificate has been revoked",
        AlertDescription::BadCertificate => {
            "it does not accept our certificate (bad certificate: its name, perhaps)"
        }
        AlertDescription::CertificateUnknown => "it does not accept our certificate (certificate unknown)",
        AlertDescription::UnsupportedCertificate => "it cannot use our certificate",
        AlertDescription::CertificateRequired => "it requires a certificate of ours",
        AlertDescription::ProtocolVersion => "it refuses the version of TLS",
        AlertDescription::HandshakeFailure => "it found nothing in common with us (handshake failure)",
        alert => return write!(f, "it gave up with the alert {alert:?}"),
    };
    f.write_str(why)
}
