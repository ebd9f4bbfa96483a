//! A certificate for one measurement, made by openssl.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fulmar_tls::{ClientOptions, Trust};

/// What a broker speaks TLS with.
#[derive(Clone, Debug)]
pub struct Secured {
    /// Where, besides the port without it.
    pub port: u16,
    /// File of the certificate, which vouches for itself.
    pub certificate: PathBuf,
    /// File of its key.
    pub key: PathBuf,
}

impl Secured {
    /// A new certificate and key in a directory: ECDSA on P-256, for `127.0.0.1`.
    ///
    /// # Errors
    /// There is no openssl, or it refuses.
    pub fn make(directory: &Path, port: u16) -> io::Result<Secured> {
        let file = |name| directory.join(name);
        let secured = Secured { port, certificate: file("certificate.pem"), key: file("key.pem") };
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-days", "2", "-subj", "/CN=localhost", "-addext"]);
        openssl.arg("subjectAltName=DNS:localhost,IP:127.0.0.1");
        // Not everybody believes a broker whose certificate is one for issuing others.
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(&secured.key).arg("-out").arg(&secured.certificate);
        let output = openssl.stdin(Stdio::null()).output()?;
        match output.status.success() {
            true => Ok(secured),
            false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_string())),
        }
    }

    /// What its clients are told.
    pub fn client(&self) -> ClientOptions {
        ClientOptions { trust: Trust::File(self.certificate.clone()), ..ClientOptions::default() }
    }
}
