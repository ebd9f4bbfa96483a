//! Sessions against rustls' own client, in memory.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pkcs8::PrivateKeyInfoRef;
use pkcs8::der::pem::LineEnding;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};

use crate::{
    Acceptor, Agreed, ClientCertificates, ClientOptions, IdentityField, MinVersion, Options, Received,
    Session, Trust, client_config, identity,
};

/// Files of an issuer and of what it has issued.
struct Office {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Office {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        static ISSUERS: AtomicU32 = AtomicU32::new(0);
        let number = ISSUERS.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("Issuer {number}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Office { directory, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A file with a certificate and its key.
    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> PathBuf {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.write_secret(name, &format!("{}{}", certificate.pem(), key.serialize_pem()))
    }

    fn server(&self, dns: &str) -> PathBuf {
        let file = format!("{}.pem", dns.replace('*', "any"));
        self.issue(&file, |params| params.subject_alt_names = vec![SanType::DnsName(dns.try_into().unwrap())])
    }

    fn user(&self, name: &str, serial: u64) -> PathBuf {
        self.issue(&format!("{name}.pem"), |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.serial_number = Some(SerialNumber::from(serial));
        })
    }

    fn revoke(&self, serial: u64) -> PathBuf {
        let now = std::time::SystemTime::now();
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + std::time::Duration::from_secs(3600)).into(),
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
        let path = self.path("crl.pem");
        fs::write(&path, list.signed_by(&self.issuer).unwrap().pem().unwrap()).unwrap();
        path
    }

    fn options(&self) -> Options {
        Options { certificates: vec![self.server("localhost")], ..Options::default() }
    }

    fn asking(&self, client_certificates: ClientCertificates) -> Options {
        Options { client_certificates, client_issuers: vec![self.path("ca.pem")], ..self.options() }
    }

    fn client(&self) -> ClientOptions {
        ClientOptions { trust: Trust::File(self.path("ca.pem")), ..ClientOptions::default() }
    }

    fn client_as(&self, certificate: PathBuf) -> ClientOptions {
        ClientOptions { certificate: Some(certificate), ..self.client() }
    }
}

/// A client and a session, and what is under way between them.
struct Line {
    client: ClientConnection,
    session: Session,
    spare: Vec<u8>,
    /// What the session's side was told when it failed.
    failure: Option<String>,
    client_failure: Option<String>,
    heard: Vec<u8>,
    ended: bool,
}

impl Line {
    fn new(acceptor: &Acceptor, config: Arc<ClientConfig>, host: &str) -> Self {
        let name = ServerName::try_from(host.to_string()).unwrap();
        Line {
            client: ClientConnection::new(config, name).unwrap(),
            session: acceptor.session().unwrap(),
            spare: Vec::new(),
            failure: None,
            client_failure: None,
            heard: Vec::new(),
            ended: false,
        }
    }

    /// Lets both sides say what they have to, a few bytes at a time.
    fn run(&mut self, piece_bytes: usize) {
        for _ in 0..100 {
            let mut sent = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut sent).unwrap();
            }
            if sent.is_empty() {
                break;
            }
            for piece in sent.chunks(piece_bytes) {
                let answer = self.step(piece);
                self.hear(&answer);
            }
        }
    }

    fn step(&mut self, mut piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if self.session.is_handshaking() {
            if !self.session.push(piece).unwrap() {
                return out;
            }
            piece = &[];
            let received = self.session.shake_hands(&mut out);
            self.note(received);
        }
        if !self.session.is_handshaking() {
            let heard = &mut self.heard;
            let sink = |bytes: &[u8]| heard.extend_from_slice(bytes);
            self.session.take(piece, &mut self.spare);
            let received = self.session.receive(&mut self.spare, &mut out, sink);
            self.note(received);
        }
        out
    }

    fn note(&mut self, received: Received) {
        match received {
            Received::More => {}
            Received::End => self.ended = true,
            Received::Failed(failure) => self.failure = Some(failure.to_string()),
        }
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            if let Err(error) = self.client.process_new_packets() {
                self.client_failure = Some(error.to_string());
                return;
            }
        }
    }

    fn agreed(&self) -> Agreed {
        assert_eq!((&self.failure, &self.client_failure), (&None, &None));
        assert!(!self.session.is_handshaking() && !self.client.is_handshaking());
        self.session.agreed()
    }
}

fn meet(options: Options, client: &ClientOptions) -> Line {
    let acceptor = Acceptor::new(options).unwrap();
    let mut line = Line::new(&acceptor, client_config(client).unwrap(), "localhost");
    line.run(usize::MAX);
    line
}

#[test]
fn bytes_go_both_ways_however_they_are_cut() {
    let office = Office::new();
    let acceptor = Acceptor::new(office.options()).unwrap();
    for version in [MinVersion::Tls13, MinVersion::Tls12] {
        for piece_bytes in [1, 7, usize::MAX] {
            let client = ClientOptions { min_version: version, ..office.client() };
            let mut line = Line::new(&acceptor, client_config(&client).unwrap(), "localhost");
            line.run(piece_bytes);
            assert_eq!(line.agreed().version, "TLS 1.3");
            let said: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
            for part in said.chunks(40_000) {
                line.client.writer().write_all(part).unwrap();
                line.run(piece_bytes);
            }
            assert!(line.heard == said);
            let mut out = Vec::new();
            line.session.send(&said, &mut out).unwrap();
            assert!(!out.windows(64).any(|window| window == &said[..64]), "sent in plain");
            let mut heard = Vec::new();
            for piece in out.chunks(10_000) {
                line.hear(piece);
                let _ = line.client.reader().read_to_end(&mut heard);
            }
            assert!(heard == said);
        }
    }
}

#[test]
fn what_follows_the_handshake_at_once_is_not_lost() {
    let office = Office::new();
    let acceptor = Acceptor::new(office.options()).unwrap();
    let mut line = Line::new(&acceptor, client_config(&office.client()).unwrap(), "localhost");
    line.client.writer().write_all(b"first words").unwrap();
    line.run(usize::MAX);
    assert_eq!(line.heard, b"first words");
}

#[test]
fn an_end_is_told_and_can_be_answered() {
    let office = Office::new();
    let mut line = meet(office.options(), &office.client());
    line.client.send_close_notify();
    line.run(usize::MAX);
    assert!(line.ended);
    let mut out = Vec::new();
    line.session.send(b"last words", &mut out).unwrap();
    line.session.close(&mut out);
    line.hear(&out);
    let mut heard = String::new();
    line.client.reader().read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "last words");
}

#[test]
fn garbage_is_refused_with_an_alert() {
    let office = Office::new();
    let acceptor = Acceptor::new(office.options()).unwrap();
    for garbage in
        [&b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"[..], b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\xff\xff"]
    {
        let mut session = acceptor.session().unwrap();
        let mut out = Vec::new();
        assert!(session.push(garbage).unwrap());
        let Received::Failed(failure) = session.shake_hands(&mut out) else { panic!() };
        assert!(failure.to_string().contains("not TLS"), "{failure}");
        assert_eq!(out.first(), Some(&21), "an alert after {garbage:?}: {failure}");
        out.clear();
        assert!(session.send(b"secret", &mut out).is_err() && out.is_empty());
    }
}

#[test]
fn a_handshake_without_an_end_is_refused() {
    let office = Office::new();
    let mut session = Acceptor::new(office.options()).unwrap().session().unwrap();
    // A message that says that it has 64 KiB, in records of one byte.
    let mut sent = b"\x16\x03\x01\x00\x04\x01\x00\xff\xff".to_vec();
    let mut out = Vec::new();
    for _ in 0..20_000 {
        if session.push(&std::mem::take(&mut sent)).unwrap()
            && let Received::Failed(failure) = session.shake_hands(&mut out)
        {
            return assert!(failure.to_string().contains("too long"), "{failure}");
        }
        sent = b"\x16\x03\x01\x00\x01\x00".to_vec();
    }
    panic!("it takes everything");
}

#[test]
fn a_beginning_of_a_record_is_no_reason_to_compute() {
    let office = Office::new();
    let mut session = Acceptor::new(office.options()).unwrap().session().unwrap();
    assert!(!session.push(b"\x16\x03\x01\x10\x00").unwrap());
    for _ in 0..4095 {
        assert!(!session.push(&[1]).unwrap());
    }
    assert!(session.push(&[1]).unwrap());
}

#[test]
fn damaged_bytes_end_a_session_and_nothing_else() {
    let office = Office::new();
    let acceptor = Acceptor::new(office.asking(ClientCertificates::Want)).unwrap();
    let config = client_config(&office.client_as(office.user("ann", 1))).unwrap();
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for round in 0..2000 {
        let mut line = Line::new(&acceptor, config.clone(), "localhost");
        let damaged_flight = round % 3;
        for flight in 0..4 {
            let mut sent = Vec::new();
            line.client.writer().write_all(b"some words").unwrap();
            while line.client.wants_write() {
                line.client.write_tls(&mut sent).unwrap();
            }
            if flight == damaged_flight && !sent.is_empty() {
                for _ in 0..=next(3) {
                    let at = next(sent.len());
                    match next(3) {
                        0 => sent[at] ^= 1 << next(8),
                        1 => sent.truncate(at),
                        _ => drop(sent.splice(at..at, [0x16, 3, 3, 0, 1, 0])),
                    }
                    if sent.is_empty() {
                        break;
                    }
                }
            }
            let cut = next(sent.len() + 1);
            for piece in [&sent[..cut], &sent[cut..]] {
                let answer = line.step(piece);
                line.hear(&answer);
                let mut out = Vec::new();
                let sent = line.session.send(b"more words", &mut out);
                assert_eq!(sent.is_ok(), !out.is_empty());
            }
            if line.failure.is_some() || line.client_failure.is_some() {
                break;
            }
        }
    }
}

#[test]
fn versions_below_the_lowest_are_refused() {
    let office = Office::new();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in crate::files::certificates(&office.path("ca.pem")).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = Arc::new(old);
    let acceptor = Acceptor::new(Options { min_version: MinVersion::Tls13, ..office.options() }).unwrap();
    let mut line = Line::new(&acceptor, old.clone(), "localhost");
    line.run(usize::MAX);
    assert_eq!(line.failure.as_deref(), Some("it offers no version of TLS that is allowed here"));
    let mut line = Line::new(&Acceptor::new(office.options()).unwrap(), old, "localhost");
    line.run(usize::MAX);
    assert_eq!(line.agreed().version, "TLS 1.2");
}

#[test]
fn certificates_of_clients_are_ignored_wanted_or_required() {
    let office = Office::new();
    let ann = office.client_as(office.user("ann", 1));
    let known = |line: &Line| line.agreed().identity;
    assert_eq!(known(&meet(office.options(), &ann)), None);
    assert_eq!(known(&meet(office.asking(ClientCertificates::Want), &ann)).as_deref(), Some("ann"));
    assert_eq!(known(&meet(office.asking(ClientCertificates::Want), &office.client())), None);
    assert_eq!(known(&meet(office.asking(ClientCertificates::Require), &ann)).as_deref(), Some("ann"));
    let line = meet(office.asking(ClientCertificates::Require), &office.client());
    assert_eq!(line.failure.as_deref(), Some("it showed no certificate, which is required here"));
}

#[test]
fn bad_certificates_of_clients_are_refused_and_it_is_said_why() {
    let office = Office::new();
    let why = |options: &Options, certificate| {
        meet(options.clone(), &office.client_as(certificate)).failure.expect("let in")
    };
    for asking in [ClientCertificates::Want, ClientCertificates::Require] {
        let options = office.asking(asking);
        let stranger = Office::new();
        assert!(why(&options, stranger.user("ann", 1)).contains("trusted"));
        let old = office.issue("old.pem", |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1));
        assert_eq!(why(&options, old), "its certificate has expired");
        let early = office.issue("early.pem", |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
        assert_eq!(why(&options, early), "its certificate is not valid yet");
        let options = Options { revocation_lists: vec![office.revoke(7)], ..options };
        assert_eq!(why(&options, office.user("eve", 7)), "its certificate has been revoked");
        let line = meet(options, &office.client_as(office.user("ann", 8)));
        assert_eq!(line.agreed().identity.as_deref(), Some("ann"));
    }
}

#[test]
fn clients_refuse_brokers_that_they_should_not_believe() {
    let office = Office::new();
    let acceptor = Acceptor::new(office.options()).unwrap();
    let refused = |client: ClientOptions, host: &str| {
        let mut line = Line::new(&acceptor, client_config(&client).unwrap(), host);
        line.run(usize::MAX);
        line.client_failure.expect("believed")
    };
    assert!(refused(office.client(), "example.org").contains("not valid for name"));
    let stranger = Office::new();
    assert!(refused(stranger.client(), "localhost").contains("UnknownIssuer"));
    let mut line =
        meet(office.options(), &ClientOptions { trust: Trust::Anybody, ..ClientOptions::default() });
    line.client.writer().write_all(b"x").unwrap();
    line.run(usize::MAX);
    assert_eq!(line.heard, b"x");
}

#[test]
fn a_client_is_shown_the_certificate_of_the_name_that_it_asks_for() {
    let office = Office::new();
    let files = ["localhost", "a.example.org", "*.example.net"].map(|name| office.server(name));
    let acceptor = Acceptor::new(Options { certificates: files.to_vec(), ..Options::default() }).unwrap();
    let config = client_config(&office.client()).unwrap();
    for host in ["localhost", "a.example.org", "A.Example.Org", "b.example.net"] {
        let mut line = Line::new(&acceptor, config.clone(), host);
        line.run(usize::MAX);
        line.agreed();
    }
    for host in ["b.example.org", "example.net", "a.b.example.net"] {
        let mut line = Line::new(&acceptor, config.clone(), host);
        line.run(usize::MAX);
        assert!(line.client_failure.is_some(), "{host}");
    }
}

#[test]
fn sessions_are_resumed_until_the_files_are_read_again() {
    let office = Office::new();
    let ann = office.user("ann", 1);
    let acceptor = Acceptor::new(office.asking(ClientCertificates::Require)).unwrap();
    let config = client_config(&office.client_as(ann)).unwrap();
    let mut kinds = Vec::new();
    for round in 0..4 {
        if round == 3 {
            acceptor.reload().unwrap();
        }
        let mut line = Line::new(&acceptor, config.clone(), "localhost");
        line.run(usize::MAX);
        let agreed = line.agreed();
        assert_eq!(agreed.identity.as_deref(), Some("ann"), "a resumed session knows whose it is");
        kinds.push(agreed.is_resumed);
        assert_eq!(line.client.handshake_kind() == Some(HandshakeKind::Resumed), agreed.is_resumed);
    }
    assert_eq!(kinds, [false, true, true, false]);
}

#[test]
fn reading_again_takes_what_is_new_and_keeps_what_was_if_that_is_bad() {
    let office = Office::new();
    let acceptor = Acceptor::new(office.options()).unwrap();
    let config = client_config(&office.client()).unwrap();
    let comes_in = || {
        let mut line = Line::new(&acceptor, config.clone(), "localhost");
        line.run(usize::MAX);
        line.client_failure.is_none()
    };
    let good = fs::read_to_string(office.path("localhost.pem")).unwrap();
    office.write_secret("localhost.pem", "nothing");
    assert!(acceptor.reload().unwrap_err().to_string().contains("localhost.pem"));
    assert!(comes_in());
    let other = fs::read_to_string(office.server("example.org")).unwrap();
    office.write_secret("localhost.pem", &other);
    acceptor.reload().unwrap();
    assert!(!comes_in());
    office.write_secret("localhost.pem", &good);
    acceptor.reload().unwrap();
    assert!(comes_in());
}

fn refusal(options: Options) -> String {
    Acceptor::new(options).unwrap_err().to_string()
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let office = Office::new();
    let good = office.options();
    let missing = Options { certificates: vec![office.path("none.pem")], ..Options::default() };
    assert!(refusal(missing).contains("none.pem: No such file"));
    let keys = vec![office.server("example.org")];
    assert!(refusal(Options { keys, ..good.clone() }).contains("is not the key of the certificate in"));
    let keys = vec![office.path("ca.pem")];
    fs::set_permissions(&keys[0], fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refusal(Options { keys, ..good.clone() }).contains("no private key"));
    fs::set_permissions(&good.certificates[0], fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(good.clone()).contains("chmod 600"));
    fs::set_permissions(&good.certificates[0], fs::Permissions::from_mode(0o640)).unwrap();
    let asking = Options { client_certificates: ClientCertificates::Want, ..good.clone() };
    assert!(refusal(asking).contains("those of who issues them"));
    Acceptor::new(good).unwrap();
}

#[test]
fn an_encrypted_key_needs_its_password() {
    use pkcs8::pkcs5::pbes2::Parameters;
    let office = Office::new();
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_string()]).unwrap();
    let parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(2048, b"saltsalt", [7; 16]).unwrap();
    let key = own.signing_key.serialize_der();
    let encrypted = PrivateKeyInfoRef::try_from(&key[..]).unwrap();
    let encrypted = encrypted.encrypt_with_params(parameters, "geheim").unwrap();
    let key = encrypted.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).unwrap();
    let certificates = vec![office.write_secret("own.pem", &own.cert.pem())];
    let options =
        Options { certificates, keys: vec![office.write_secret("key.pem", &key)], ..Options::default() };
    assert!(refusal(options.clone()).contains("no file with its password"));
    let wrong = Options { key_password_file: Some(office.write_secret("wrong", "offen")), ..options.clone() };
    let refused = refusal(wrong);
    assert!(refused.contains("wrong password") && !refused.contains("offen"), "{refused}");
    let right = Options { key_password_file: Some(office.write_secret("right", "geheim\n")), ..options };
    Acceptor::new(right).unwrap();
}

#[test]
fn identities_are_those_of_the_chosen_field() {
    let office = Office::new();
    let file = office.issue("many.pem", |params| {
        let domain = DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]);
        params.distinguished_name.push(domain, "org");
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.subject_alt_names = vec![
            SanType::Rfc822Name("ann@example.org".try_into().unwrap()),
            SanType::DnsName("host.example.org".try_into().unwrap()),
            SanType::DnsName("other.example.org".try_into().unwrap()),
            SanType::URI("urn:example:ann".try_into().unwrap()),
        ];
    });
    let certificate = crate::files::certificates(&file).unwrap().remove(0);
    let of = |field| identity(&certificate, field).unwrap();
    assert_eq!(of(IdentityField::SanDns), "host.example.org");
    assert_eq!(of(IdentityField::SanEmail), "ann@example.org");
    assert_eq!(of(IdentityField::SanUri), "urn:example:ann");
    let nobody = office.issue("nobody.pem", |_| ());
    let nobody = crate::files::certificates(&nobody).unwrap().remove(0);
    assert_eq!(identity(&nobody, IdentityField::Subject), None);
    assert_eq!(identity(&nobody, IdentityField::SanDns), None);
}

/// Subject `DC=com, DC=acme, CN=bob` in the order of its encoding, as directories write them.
const DOMAIN: &str = include_str!("../testdata/certificate.pem");

#[test]
fn domain_components_follow_the_name_the_nearest_first() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let certificate = CertificateDer::from_pem_slice(DOMAIN.as_bytes()).unwrap();
    assert_eq!(identity(&certificate, IdentityField::Subject).as_deref(), Some("bob@acme.com"));
}
