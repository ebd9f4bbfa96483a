//! Somebody who issues certificates, revokes them, and keeps all of it in files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use fulmar_tls::{ClientOptions, Options, Trust};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// See the module.
pub struct Office {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Office {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Office { directory, issuer }
    }

    /// The file of its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A file with a certificate for this name, and its key.
    pub fn issue(&self, name: &str, serial: u64) -> PathBuf {
        self.issue_with(name, serial, |_| {})
    }

    /// The same of a certificate whose time is over.
    pub fn issue_expired(&self, name: &str, serial: u64) -> PathBuf {
        self.issue_with(name, serial, |params| {
            params.not_before = (SystemTime::now() - 2 * DAY).into();
            params.not_after = (SystemTime::now() - DAY).into();
        })
    }

    /// The same of one that is for issuing others, as openssl makes them when nothing else is said.
    pub fn issue_issuer(&self, name: &str, serial: u64) -> PathBuf {
        self.issue_with(name, serial, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
    }

    fn issue_with(&self, name: &str, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> PathBuf {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = self.directory.path().join(format!("{serial}.pem"));
        fs::write(&path, certificate.pem() + &key.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A list with the certificate of this number.
    pub fn revoke(&self, serial: u64) -> PathBuf {
        let now = SystemTime::now();
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: now.into(),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.directory.path().join("revoked.pem");
        fs::write(&path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }

    /// What a broker called `localhost` is told of TLS.
    pub fn broker(&self) -> Options {
        Options { certificates: vec![self.issue("localhost", 1)], ..Options::default() }
    }

    /// What a client that believes it is told.
    pub fn client(&self) -> ClientOptions {
        ClientOptions { trust: Trust::File(self.ca()), ..ClientOptions::default() }
    }
}
