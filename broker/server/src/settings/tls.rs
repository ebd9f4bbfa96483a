//! The options of TLS.

use super::values::{set, set_optional};
use super::{Spec, alias, list, spec};

/// Every option of TLS.
pub(super) const SPECS: &[Spec] = &[
    list(spec(
        "tls-cert",
        "FILE",
        "",
        "Certificate and its chain (PEM); several for several names, the first for clients that ask for no other. With \
         one, TLS is spoken on --tls-port and on the ports of --listen",
        |s, text| {
            s.tls.certificates.extend(paths(text));
            Ok(())
        },
    )),
    list(spec(
        "tls-key",
        "FILE",
        "",
        "Key of the certificate (PEM), in the same order [default: in the file of the certificate]",
        |s, text| {
            s.tls.keys.extend(paths(text));
            Ok(())
        },
    )),
    alias(
        spec(
            "tls-key-password-file",
            "FILE",
            "",
            "File whose first line decrypts keys that are encrypted",
            |s, text| set_optional(&mut s.tls.key_password_file, text),
        ),
        "ssl-cert-password-file",
    ),
    alias(
        spec("tls-port", "PORT", "5671", "Port for TLS alone, on the addresses of --listen", |s, text| {
            set(&mut s.tls_port, text)
        }),
        "ssl-port",
    ),
    list(spec(
        "tls-client-ca",
        "FILE",
        "",
        "Certificates of those who issue clients' certificates (PEM)",
        |s, text| {
            s.tls.client_issuers.extend(paths(text));
            Ok(())
        },
    )),
    spec(
        "tls-client-certs",
        "WHAT",
        "ignore",
        "Certificates of clients: ignore; want (a client without one comes in, one with a bad one does not); require",
        |s, text| set(&mut s.tls.client_certificates, text),
    ),
    spec(
        "ssl-require-client-authentication",
        "",
        "false",
        "The same as --tls-client-certs require",
        |s, text| {
            let mut is_required = false;
            set(&mut is_required, text)?;
            if is_required {
                s.tls.client_certificates = fulmar_tls::ClientCertificates::Require;
            }
            Ok(())
        },
    ),
    list(spec("tls-crl", "FILE", "", "Revocation lists for clients' certificates (PEM)", |s, text| {
        s.tls.revocation_lists.extend(paths(text));
        Ok(())
    })),
    spec("tls-min-version", "VERSION", "1.2", "Lowest version of TLS: 1.2 or 1.3", |s, text| {
        set(&mut s.tls.min_version, text)
    }),
    spec(
        "tls-identity",
        "FIELD",
        "subject",
        "What in a client's certificate is its user for EXTERNAL: subject (CN, and @ with the DCs if there are any), \
         san-dns, san-email, san-uri",
        |s, text| set(&mut s.tls.identity, text),
    ),
    list(spec(
        "tls-alpn",
        "NAME",
        "",
        "Application protocol to agree on by ALPN; without one, what clients offer is not looked at",
        |s, text| {
            s.tls
                .alpn
                .extend(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(String::from));
            Ok(())
        },
    )),
    spec("require-encryption", "", "false", "Let nobody in without TLS, on whatever port", |s, text| {
        set(&mut s.require_encryption, text)
    }),
];

fn paths(text: &str) -> impl Iterator<Item = std::path::PathBuf> + '_ {
    text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(Into::into)
}
