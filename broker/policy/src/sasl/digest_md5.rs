//! DIGEST-MD5 (RFC 2831), authentication only: no protection of what follows. For clients that know nothing better.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::hex;

/// What is kept of a user's password for a realm.
pub fn secret(user: &str, realm: &str, password: &[u8]) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(format!("{user}:{realm}:"));
    md5.update(password);
    md5.finalize().into()
}

/// Between the challenge and its answer.
#[derive(Debug)]
pub struct Exchange {
    realm: String,
    nonce: String,
}

/// What a client says, as far as it counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Who it is.
    pub user: String,
    /// What it would like to be; empty if it does not say.
    pub authorize_as: String,
    realm: String,
    nonce: String,
    cnonce: String,
    count: String,
    quality: String,
    uri: String,
    answer: String,
}

impl Exchange {
    /// A new one.
    pub fn new(realm: &str) -> Self {
        Exchange { realm: realm.to_owned(), nonce: super::nonce() }
    }

    /// What to ask the client.
    pub fn challenge(&self) -> Vec<u8> {
        let Exchange { realm, nonce } = self;
        format!("realm=\"{realm}\",nonce=\"{nonce}\",qop=\"auth\",charset=utf-8,algorithm=md5-sess")
            .into_bytes()
    }

    /// Whether the client knows the secret; if it does, what tells it that the server does. `None`: it does not, or it
    /// answers something that was not asked.
    pub fn finish(&self, response: &Response, secret: &[u8; 16]) -> Option<Vec<u8>> {
        let is_asked = response.realm == self.realm
            && response.nonce == self.nonce
            && response.count == "00000001"
            && matches!(&response.quality[..], "" | "auth");
        let right = response.expected(secret, "AUTHENTICATE");
        let is_right: bool = right.as_bytes().ct_eq(response.answer.as_bytes()).into();
        (is_asked && is_right).then(|| format!("rspauth={}", response.expected(secret, "")).into_bytes())
    }
}

impl Response {
    /// Reads `name=value,name="value",…`. `None`: it is not that, or says something twice.
    pub fn read(response: &[u8]) -> Option<Self> {
        let mut found = Response::default();
        let mut rest = std::str::from_utf8(response).ok()?.trim();
        while !rest.is_empty() {
            let (name, after) = rest.split_once('=')?;
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => unquote(quoted)?,
                None => {
                    let end = after.find(',').unwrap_or(after.len());
                    (after[..end].trim().to_owned(), &after[end..])
                }
            };
            let place = match name.trim() {
                "username" => &mut found.user,
                "realm" => &mut found.realm,
                "nonce" => &mut found.nonce,
                "cnonce" => &mut found.cnonce,
                "nc" => &mut found.count,
                "qop" => &mut found.quality,
                "digest-uri" => &mut found.uri,
                "response" => &mut found.answer,
                "authzid" => &mut found.authorize_as,
                _ => &mut String::new(),
            };
            if !place.is_empty() {
                return None;
            }
            *place = value;
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        Some(found)
    }

    fn expected(&self, secret: &[u8; 16], verb: &str) -> String {
        let mut a1 = Md5::new();
        a1.update(secret);
        a1.update(format!(":{}:{}", self.nonce, self.cnonce));
        if !self.authorize_as.is_empty() {
            a1.update(format!(":{}", self.authorize_as));
        }
        let a1 = hex(&a1.finalize());
        let a2 = hex(&Md5::digest(format!("{verb}:{}", self.uri)));
        hex(&Md5::digest(format!("{a1}:{}:{}:{}:auth:{a2}", self.nonce, self.count, self.cnonce)))
    }
}

/// A quoted text, after its first quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: &str = "charset=utf-8,username=\"chris\",realm=\"elwood.innosoft.com\",nonce=\"OA6MG9tEQGm2hh\",\
                            nc=00000001,cnonce=\"OA6MHXh6VqTrRk\",digest-uri=\"imap/elwood.innosoft.com\",\
                            response=d388dad90d4bbd760a152321f2143af7,qop=auth";

    fn exchange() -> Exchange {
        Exchange { realm: "elwood.innosoft.com".into(), nonce: "OA6MG9tEQGm2hh".into() }
    }

    #[test]
    fn the_exchange_of_the_rfc_comes_out() {
        let response = Response::read(RESPONSE.as_bytes()).unwrap();
        let secret = secret("chris", "elwood.innosoft.com", b"secret");
        let end = exchange().finish(&response, &secret);
        assert_eq!(end.as_deref(), Some(&b"rspauth=ea40f60335c427b5527b84dbabcdfffd"[..]));
        assert_eq!(exchange().finish(&response, &[0; 16]), None);
        let other = Exchange { nonce: "other".into(), ..exchange() };
        assert_eq!(other.finish(&response, &secret), None, "an answer to another challenge");
        let again = RESPONSE.replace("nc=00000001", "nc=00000002");
        assert_eq!(exchange().finish(&Response::read(again.as_bytes()).unwrap(), &secret), None);
    }

    #[test]
    fn responses_are_read_with_care() {
        let quoted = Response::read(br#"username="a\"b,c" , realm="x""#).unwrap();
        assert_eq!((&quoted.user[..], &quoted.realm[..]), ("a\"b,c", "x"));
        for wrong in ["username=\"a", "username", "username=a,username=b", "nc=\"a\\"] {
            assert_eq!(Response::read(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
