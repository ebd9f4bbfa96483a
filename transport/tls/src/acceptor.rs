//! What a broker's sessions begin with: certificates, whom to believe, versions. Read from files, at the start and again
//! whenever it is told to.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, RwLock};

use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::names::ByName;
use crate::session::Session;
use crate::{Failure, FileError, IdentityField, files};

/// What becomes of a client's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None is asked for.
    #[default]
    Ignore,
    /// One is asked for; who shows none is let in, who shows a bad one is not.
    Want,
    /// Nobody is let in without one.
    Require,
}

impl FromStr for ClientCertificates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ignore" => Ok(ClientCertificates::Ignore),
            "want" => Ok(ClientCertificates::Want),
            "require" => Ok(ClientCertificates::Require),
            _ => Err("not one of ignore, want, require".to_string()),
        }
    }
}

/// The lowest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl FromStr for MinVersion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(MinVersion::Tls12),
            "1.3" => Ok(MinVersion::Tls13),
            _ => Err("not one of 1.2, 1.3".to_string()),
        }
    }
}

static FROM_TLS_1_2: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
static FROM_TLS_1_3: [&SupportedProtocolVersion; 1] = [&TLS13];

impl MinVersion {
    pub(crate) fn allowed(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            MinVersion::Tls12 => &FROM_TLS_1_2,
            MinVersion::Tls13 => &FROM_TLS_1_3,
        }
    }
}

/// What a broker is told of TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Files of certificates, each with its chain; the first is for clients that ask for no name, or another.
    pub certificates: Vec<PathBuf>,
    /// Files of their keys, in the same order; where there is none, the key is with the certificate.
    pub keys: Vec<PathBuf>,
    /// File whose first line decrypts the keys that are encrypted.
    pub key_password_file: Option<PathBuf>,
    /// Files of the certificates of those who issue clients' certificates.
    pub client_issuers: Vec<PathBuf>,
    /// What becomes of a client's certificate.
    pub client_certificates: ClientCertificates,
    /// Files of revocation lists for clients' certificates.
    pub revocation_lists: Vec<PathBuf>,
    /// The lowest version spoken.
    pub min_version: MinVersion,
    /// What part of a client's certificate is its identity.
    pub identity: IdentityField,
    /// Protocols to agree on by ALPN, the preferred first; empty: whatever a client says.
    pub alpn: Vec<String>,
}

impl Options {
    /// Whether TLS is spoken at all.
    pub fn is_on(&self) -> bool {
        !self.certificates.is_empty()
    }
}

/// Makes sessions of what was read last.
pub struct Acceptor {
    options: Options,
    config: RwLock<Arc<ServerConfig>>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// One that cannot be used, or what does not fit together.
    pub fn new(options: Options) -> Result<Self, FileError> {
        let config = RwLock::new(Arc::new(build(&options)?));
        Ok(Acceptor { options, config })
    }

    /// Reads the files again. Sessions that stand stay as they are, but no earlier one is resumed any more: what was
    /// believed then may not be believed now.
    ///
    /// # Errors
    /// A file that cannot be used; everything stays as it was.
    pub fn reload(&self) -> Result<(), FileError> {
        let config = Arc::new(build(&self.options)?);
        *self.config.write().unwrap_or_else(std::sync::PoisonError::into_inner) = config;
        Ok(())
    }

    /// A new session.
    ///
    /// # Errors
    /// Rustls refuses; never with what [`Acceptor::new`] lets through.
    pub fn session(&self) -> Result<Session, Failure> {
        let config = self.config.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Session::new(config, self.options.identity)
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("options", &self.options).finish_non_exhaustive()
    }
}

fn build(options: &Options) -> Result<ServerConfig, FileError> {
    let provider = Arc::new(ring::default_provider());
    let first = options.certificates.first().map_or(Path::new(""), PathBuf::as_path);
    if let Some(key) = options.keys.get(options.certificates.len()) {
        return Err(FileError::new(key, "there are more keys than certificates"));
    }
    let keys = certified_keys(options, &provider)?;
    if keys.is_empty() {
        return Err(FileError::new(first, "TLS needs a certificate"));
    }
    let verifier = client_verifier(options, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(options.min_version.allowed())
        .map_err(|error| FileError::new(first, error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(ByName::new(keys)));
    config.alpn_protocols = options.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = ring::Ticketer::new().map_err(|error| FileError::new(first, error.to_string()))?;
    Ok(config)
}

fn certified_keys(options: &Options, provider: &CryptoProvider) -> Result<Vec<Arc<CertifiedKey>>, FileError> {
    let mut keys = Vec::new();
    for (index, path) in options.certificates.iter().enumerate() {
        let chain = files::certificates(path)?;
        let key_path = options.keys.get(index).unwrap_or(path);
        let key = files::private_key(key_path, options.key_password_file.as_deref())?;
        let fitted = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                FileError::new(key_path, format!("is not the key of the certificate in {}", path.display()))
            }
            error => FileError::new(key_path, error.to_string()),
        })?;
        keys.push(Arc::new(fitted));
    }
    Ok(keys)
}

fn client_verifier(
    options: &Options,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    if options.client_certificates == ClientCertificates::Ignore {
        return Ok(WebPkiClientVerifier::no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for path in &options.client_issuers {
        for certificate in files::certificates(path)? {
            roots.add(certificate).map_err(|error| FileError::new(path, error.to_string()))?;
        }
    }
    let named = options.client_issuers.first().map_or(Path::new("client certificates"), PathBuf::as_path);
    if roots.is_empty() {
        return Err(FileError::new(named, "asking for certificates needs those of who issues them"));
    }
    let mut lists = Vec::new();
    for path in &options.revocation_lists {
        lists.extend(files::revocation_lists(path)?);
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if !lists.is_empty() {
        // Whoever issues without a list revokes nothing; what a list says always counts.
        builder = builder.with_crls(lists).allow_unknown_revocation_status();
    }
    if options.client_certificates == ClientCertificates::Want {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| FileError::new(named, error.to_string()))
}
