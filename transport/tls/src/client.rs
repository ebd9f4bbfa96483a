//! What a client begins TLS with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::{FileError, MinVersion, files};

/// Whom to believe that a server is who it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system believes.
    #[default]
    System,
    /// The certificates of a PEM file.
    File(PathBuf),
    /// Everybody. For test set-ups only.
    Anybody,
}

/// What a client is told of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// Whom to believe.
    pub trust: Trust,
    /// File of the own certificate, with its chain.
    pub certificate: Option<PathBuf>,
    /// File of its key, if that is not with the certificate.
    pub key: Option<PathBuf>,
    /// File whose first line decrypts the key.
    pub key_password_file: Option<PathBuf>,
    /// Revocation lists for servers' certificates.
    pub revocation_lists: Vec<PathBuf>,
    /// The lowest version spoken.
    pub min_version: MinVersion,
}

/// What rustls needs of a client.
///
/// # Errors
/// A file that cannot be used.
pub fn client_config(options: &ClientOptions) -> Result<Arc<ClientConfig>, FileError> {
    let provider = Arc::new(ring::default_provider());
    let here = Path::new("TLS");
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(options.min_version.allowed())
        .map_err(|error| FileError::new(here, error.to_string()))?;
    let builder = match &options.trust {
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(BelieveAnybody(provider)))
        }
        trust => builder.with_webpki_verifier(verifier(trust, &options.revocation_lists, &provider)?),
    };
    let Some(certificate) = &options.certificate else {
        return Ok(Arc::new(builder.with_no_client_auth()));
    };
    let chain = files::certificates(certificate)?;
    let key_path = options.key.as_ref().unwrap_or(certificate);
    let key = files::private_key(key_path, options.key_password_file.as_deref())?;
    let config = builder.with_client_auth_cert(chain, key);
    config.map(Arc::new).map_err(|error| FileError::new(key_path, error.to_string()))
}

fn verifier(
    trust: &Trust,
    revocation_lists: &[PathBuf],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, FileError> {
    let mut roots = RootCertStore::empty();
    let mut named = Path::new("the system's certificates");
    if let Trust::File(path) = trust {
        named = path;
        for certificate in files::certificates(path)? {
            roots.add(certificate).map_err(|error| FileError::new(path, error.to_string()))?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        if roots.add_parsable_certificates(found.certs).0 == 0 {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(FileError::new(named, format!("there are none {}", errors.join(", "))));
        }
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut lists = Vec::new();
    for path in revocation_lists {
        lists.extend(files::revocation_lists(path)?);
    }
    if !lists.is_empty() {
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    builder.build().map_err(|error| FileError::new(named, error.to_string()))
}

/// Takes any certificate, and checks only that the server has its key.
#[derive(Debug)]
struct BelieveAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
