//! Who a peer is by its certificate.

use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_DOMAIN_COMPONENT;
use x509_parser::prelude::FromDer;

/// What part of a certificate is its holder's identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityField {
    /// The common name and, after an `@`, the domain components of the subject: `CN=ann,DC=example,DC=org` is
    /// `ann@example.org`.
    #[default]
    Subject,
    /// The first DNS name among the alternative names.
    SanDns,
    /// The first e-mail address among the alternative names.
    SanEmail,
    /// The first URI among the alternative names.
    SanUri,
}

impl FromStr for IdentityField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "subject" => Ok(IdentityField::Subject),
            "san-dns" => Ok(IdentityField::SanDns),
            "san-email" => Ok(IdentityField::SanEmail),
            "san-uri" => Ok(IdentityField::SanUri),
            _ => Err("not one of subject, san-dns, san-email, san-uri".to_string()),
        }
    }
}

/// The identity in a certificate; `None` if that part is missing or empty.
pub fn identity(certificate: &CertificateDer<'_>, field: IdentityField) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let found = match field {
        IdentityField::Subject => subject(&certificate),
        _ => alternative(&certificate, field),
    };
    // Whoever reads it takes it for one line of text.
    found.filter(|identity| !identity.is_empty() && !identity.contains(char::is_control))
}

fn subject(certificate: &X509Certificate<'_>) -> Option<String> {
    // Names are stored with the most general part first; the most specific common name counts.
    let name = certificate.subject().iter_common_name().last()?.as_str().ok()?;
    let mut domain: Vec<&str> = certificate
        .subject()
        .iter_by_oid(&OID_DOMAIN_COMPONENT)
        .filter_map(|part| part.as_str().ok())
        .collect();
    domain.reverse();
    if domain.is_empty() { Some(name.to_string()) } else { Some(format!("{name}@{}", domain.join("."))) }
}

fn alternative(certificate: &X509Certificate<'_>, field: IdentityField) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match (field, name) {
        (IdentityField::SanDns, GeneralName::DNSName(text))
        | (IdentityField::SanEmail, GeneralName::RFC822Name(text))
        | (IdentityField::SanUri, GeneralName::URI(text)) => Some((*text).to_string()),
        _ => None,
    })
}
