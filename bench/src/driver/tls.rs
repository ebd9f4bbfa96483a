//! TLS for load generators: rustls, with the system's certificates, those of a file, or none at all.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::stream::Stream;

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

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate file.
    #[error("certificates of {0}: {1}")]
    Certificates(String, String),
    /// The host is no name that a certificate could have.
    #[error("{0:?} is no name of a server")]
    Name(String),
    /// The handshake.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The socket.
    #[error("TLS: {0}")]
    Socket(#[from] io::Error),
}

/// Begins TLS on a connected socket and waits for the end of the handshake.
///
/// # Errors
/// No certificates, or the handshake failed.
pub fn connect(mut socket: TcpStream, host: &str, trust: &Trust) -> Result<Stream, TlsError> {
    let name = ServerName::try_from(host.to_string()).map_err(|_| TlsError::Name(host.into()))?;
    let provider = Arc::new(ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::Anybody => {
            config.dangerous().with_custom_certificate_verifier(Arc::new(BelieveAnybody(provider)))
        }
        known => config.with_root_certificates(roots(known)?),
    };
    let mut connection = ClientConnection::new(Arc::new(config.with_no_client_auth()), name)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(Stream::Tls(Box::new(rustls::StreamOwned::new(connection, socket))))
}

fn roots(trust: &Trust) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Trust::File(path) = trust else {
        let found = rustls_native_certs::load_native_certs();
        if roots.add_parsable_certificates(found.certs).0 == 0 {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            let reason = format!("none found, --ca-file names some {}", errors.join(", "));
            return Err(TlsError::Certificates("the system".into(), reason));
        }
        return Ok(roots);
    };
    let failed =
        |error: &dyn fmt::Display| TlsError::Certificates(path.display().to_string(), error.to_string());
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    if roots.is_empty() { Err(failed(&"none in it")) } else { Ok(roots) }
}

/// Believes that every server is who it says; still checks that it holds the key of its certificate.
#[derive(Debug)]
struct BelieveAnybody(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
