//! Which certificate a client is shown, by the name that it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Certificates by the DNS names in them; the first one is for everybody else.
#[derive(Debug)]
pub(crate) struct ByName {
    first: Arc<CertifiedKey>,
    named: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// Of at least one certificate. Of two with the same name the first one counts.
    pub(crate) fn new(keys: Vec<Arc<CertifiedKey>>) -> Self {
        let mut named = HashMap::new();
        for key in &keys {
            for name in dns_names(key) {
                named.entry(name).or_insert_with(|| key.clone());
            }
        }
        ByName { first: keys.into_iter().next().expect("no certificate"), named }
    }

    /// For this name: its own, one for all names of its domain, or the first of all.
    pub(crate) fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.first };
        let wildcard = name.split_once('.').map(|(_, domain)| format!("*.{domain}"));
        let found = self.named.get(&name).or_else(|| self.named.get(&wildcard?));
        found.unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(client_hello.server_name()).clone())
    }
}

fn dns_names(key: &CertifiedKey) -> Vec<String> {
    let Some(Ok((_, certificate))) = key.cert.first().map(|der| X509Certificate::from_der(der)) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(text) => Some(text.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}
