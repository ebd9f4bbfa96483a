//! Certificates, keys and revocation lists from PEM files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::der::SecretDocument;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const ENCRYPTED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";

/// A file that TLS needs and that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct FileError {
    path: PathBuf,
    reason: String,
}

impl FileError {
    pub(crate) fn new(path: &Path, reason: impl Into<String>) -> Self {
        FileError { path: path.to_path_buf(), reason: reason.into() }
    }
}

/// The certificates of a file, in their order; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    sections(path, "certificate")
}

/// The revocation lists of a file; at least one.
pub(crate) fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, FileError> {
    sections(path, "revocation list")
}

fn sections<T: PemObject>(path: &Path, what: &str) -> Result<Vec<T>, FileError> {
    let text = fs::read(path).map_err(|error| FileError::new(path, error.to_string()))?;
    let found: Vec<T> = T::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| FileError::new(path, error.to_string()))?;
    if found.is_empty() {
        return Err(FileError::new(path, format!("there is no {what} in it")));
    }
    Ok(found)
}

/// The private key of a file, which nobody else may be able to read; an encrypted one needs the password that the first
/// line of `password_file` is.
pub(crate) fn private_key(
    path: &Path,
    password_file: Option<&Path>,
) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = secret_text(path)?;
    if let Some(start) = text.find(ENCRYPTED_BEGIN) {
        let Some(password_file) = password_file else {
            return Err(FileError::new(path, "the key is encrypted, and no file with its password is given"));
        };
        let password = secret_text(password_file)?;
        let password = password.lines().next().unwrap_or_default();
        return decrypt(&text[start..], password).map_err(|reason| FileError::new(path, reason));
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        let reason = "the key is encrypted in the old form of OpenSSL; `openssl pkcs8 -topk8` makes one that can be read";
        return Err(FileError::new(path, reason));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => FileError::new(path, "there is no private key in it"),
        error => FileError::new(path, error.to_string()),
    })
}

fn decrypt(text: &str, password: &str) -> Result<PrivateKeyDer<'static>, String> {
    let end = text.find(ENCRYPTED_END).ok_or("the key has no end")? + ENCRYPTED_END.len();
    let (_, encrypted) = SecretDocument::from_pem(&text[..end]).map_err(|error| unreadable(&error))?;
    let encrypted =
        EncryptedPrivateKeyInfoRef::try_from(encrypted.as_bytes()).map_err(|error| unreadable(&error))?;
    let key = encrypted
        .decrypt(password)
        .map_err(|_| "the key cannot be decrypted: a wrong password, or a cipher that is not known here")?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

fn unreadable(error: &dyn std::error::Error) -> String {
    format!("the encrypted key cannot be read: {error}")
}

/// The text of a file that others must not be able to read.
fn secret_text(path: &Path) -> Result<String, FileError> {
    let unreadable = |error: std::io::Error| FileError::new(path, error.to_string());
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(FileError::new(path, "holds a secret and can be read by others; chmod 600 it"));
    }
    fs::read_to_string(path).map_err(unreadable)
}
