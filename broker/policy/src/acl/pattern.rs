//! How rules' values are compared with what is asked: prefixes, routing keys as topic exchanges match them, and what
//! stands for whoever asks.

const USER: &str = "${user}";
const DOMAIN: &str = "${domain}";
const USER_DOMAIN: &str = "${userdomain}";

/// What rules call the exchange without a name.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// Whoever asks: `name@realm`.
pub(super) struct Identity<'a>(&'a str);

impl<'a> Identity<'a> {
    pub(super) fn of(user: &'a str) -> Self {
        Identity(user)
    }

    /// What stands for the user, the realm and both, as it can stand in a routing key.
    fn parts(&self) -> [(&'static str, String); 3] {
        let plain = |text: &str| text.replace(['@', '.'], "_");
        let (user, domain) = self.0.split_once('@').unwrap_or((self.0, ""));
        [(USER_DOMAIN, plain(self.0)), (USER, plain(user)), (DOMAIN, plain(domain))]
    }

    /// A rule's value with the user put in.
    fn put_into(&self, value: &str) -> String {
        let [both, user, domain] = self.parts();
        [user, domain, both].iter().fold(value.to_string(), |text, (word, name)| text.replace(word, name))
    }

    /// A routing key with the words of rules in place of the user, which is what topic patterns are compared with.
    fn take_out_of(&self, key: &str) -> String {
        let parts = self.parts();
        let named = parts.iter().filter(|(_, name)| !name.is_empty());
        named.fold(key.to_string(), |text, (word, name)| text.replace(name.as_str(), word))
    }
}

fn names_user(value: &str) -> bool {
    [USER, DOMAIN, USER_DOMAIN].iter().any(|word| value.contains(word))
}

/// A value of a rule: all of it, or what comes before a `*` at its end.
#[derive(Debug)]
pub(super) struct Text {
    value: String,
    names_user: bool,
}

impl Text {
    /// `may_name_user`: some properties know no substitution.
    pub(super) fn new(value: &str, may_name_user: bool) -> Self {
        Text { value: value.to_string(), names_user: may_name_user && names_user(value) }
    }

    pub(super) fn matches(&self, user: &Identity<'_>, found: &str) -> bool {
        if self.names_user {
            return matches(&user.put_into(&self.value), found);
        }
        matches(&self.value, found)
    }

    /// The same for the exchange that somebody publishes to.
    pub(super) fn matches_exchange(&self, user: &Identity<'_>, exchange: &str) -> bool {
        if !self.names_user && self.value == DEFAULT_EXCHANGE {
            return exchange.is_empty();
        }
        self.matches(user, exchange)
    }
}

fn matches(value: &str, found: &str) -> bool {
    match value.strip_suffix('*') {
        Some(start) => found.starts_with(start),
        None => value == found,
    }
}

/// A pattern of words, as topic exchanges have them.
#[derive(Debug)]
pub(super) struct KeyPattern {
    words: Vec<String>,
    names_user: bool,
}

impl KeyPattern {
    pub(super) fn new(value: &str) -> Self {
        KeyPattern { words: value.split('.').map(str::to_string).collect(), names_user: names_user(value) }
    }

    pub(super) fn matches(&self, user: &Identity<'_>, key: &str) -> bool {
        if self.names_user {
            return self.matches_words(&user.take_out_of(key));
        }
        self.matches_words(key)
    }

    /// The same for the key that somebody publishes with, who must not use the words of rules.
    pub(super) fn matches_published(&self, user: &Identity<'_>, key: &str) -> bool {
        !names_user(key) && self.matches(user, key)
    }

    fn matches_words(&self, key: &str) -> bool {
        let words: Vec<&str> = key.split('.').collect();
        // Which beginnings of the key the pattern so far matches.
        let mut reached = vec![false; words.len() + 1];
        reached[0] = true;
        for pattern in &self.words {
            if pattern == "#" {
                let first = reached.iter().position(|&is_reached| is_reached).unwrap_or(reached.len());
                reached[first..].fill(true);
                continue;
            }
            for at in (0..words.len()).rev() {
                reached[at + 1] = reached[at] && (pattern == "*" || pattern == words[at]);
            }
            reached[0] = false;
        }
        reached[words.len()]
    }
}
