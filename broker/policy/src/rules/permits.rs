//! Permissions by virtual host, as RabbitMQ has them: regular expressions for what a user may configure, write to and
//! read from. One a line: `user vhost configure write read`, separated by tabs.
//!
//! A user of whom the file says nothing may do everything everywhere; one of whom it says something, that and no more.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

use crate::UsersError;
use crate::replace::{SystemFiles, replace};

/// What a permission is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Make and delete.
    Configure,
    /// Publish, or have an exchange send on.
    Write,
    /// Receive, empty, or take from an exchange.
    Read,
}

impl Access {
    const EVERY: [Access; 3] = [Access::Configure, Access::Write, Access::Read];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Access::Configure => "configure",
            Access::Write => "write",
            Access::Read => "read",
        }
    }
}

/// What a user may do in a virtual host.
#[derive(Clone, Debug)]
pub struct Permit {
    /// As given, in the order of [`Access`].
    texts: [String; 3],
    expressions: [Regex; 3],
}

impl Permit {
    /// By regular expressions for configuring, writing and reading. An empty one matches nothing.
    ///
    /// # Errors
    /// One is none; says which.
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, String> {
        let texts = [configure, write, read].map(str::to_owned);
        let mut expressions = Vec::with_capacity(3);
        for (access, text) in Access::EVERY.into_iter().zip(&texts) {
            if text.chars().any(|character| matches!(character, '\t' | '\n' | '\r')) {
                return Err(format!("the expression for {} has a tab or a line end", access.word()));
            }
            let text = if text.is_empty() { "^$" } else { text };
            let expression =
                Regex::new(text).map_err(|error| format!("{}: '{text}': {error}", access.word()))?;
            expressions.push(expression);
        }
        let expressions = expressions.try_into().expect("there are three");
        Ok(Permit { texts, expressions })
    }

    /// Whether a name is allowed. The default exchange is `amq.default` here.
    pub fn allows(&self, access: Access, name: &[u8]) -> bool {
        let name = if name.is_empty() { b"amq.default" } else { name };
        std::str::from_utf8(name).is_ok_and(|name| self.expressions[access as usize].is_match(name))
    }

    /// The expressions as given: configure, write, read.
    pub fn texts(&self) -> [&str; 3] {
        self.texts.each_ref().map(String::as_str)
    }
}

/// The file of permissions in memory.
#[derive(Clone, Debug, Default)]
pub struct PermitFile {
    path: PathBuf,
    permits: BTreeMap<String, BTreeMap<String, Permit>>,
}

impl PermitFile {
    /// The file that belongs to a file of users.
    pub fn beside(users_file: &Path) -> PathBuf {
        let mut name = users_file.file_name().unwrap_or_default().to_os_string();
        name.push(".permissions");
        users_file.with_file_name(name)
    }

    /// Reads the file; one that does not exist says nothing of anybody.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, UsersError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                String::new()
            }
            Err(error) => return Err(UsersError::Io(path.into(), error)),
        };
        let mut file = PermitFile { path: path.into(), permits: BTreeMap::new() };
        for (number, line) in (1..).zip(text.lines()) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |reason: String| UsersError::BadPermission(path.into(), number, reason);
            let fields: Vec<&str> = line.split('\t').collect();
            let [user, vhost, configure, write, read] = fields[..] else {
                return Err(wrong(
                    "expected user, virtual host and three expressions, separated by tabs".into(),
                ));
            };
            let permit = Permit::new(configure, write, read).map_err(wrong)?;
            if file.set(user, vhost, permit).is_some() {
                return Err(wrong("a second line for the same user and virtual host".into()));
            }
        }
        Ok(file)
    }

    /// Writes the file, in one step.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self) -> Result<(), UsersError> {
        let mut text = String::from("# user\tvirtual host\tconfigure\twrite\tread\n");
        for (user, vhost, permit) in self.list() {
            let [configure, write, read] = permit.texts();
            text.push_str(&format!("{user}\t{vhost}\t{configure}\t{write}\t{read}\n"));
        }
        replace(&mut SystemFiles, &self.path, text.as_bytes())
            .map_err(|error| UsersError::Io(self.path.clone(), error))
    }

    /// Sets what a user may do in a virtual host. Returns what it was.
    pub fn set(&mut self, user: &str, vhost: &str, permit: Permit) -> Option<Permit> {
        self.permits.entry(user.to_owned()).or_default().insert(vhost.to_owned(), permit)
    }

    /// Takes what a user may do in a virtual host away. The user keeps being one of whom something is said: who has lost
    /// everything may do nothing. Returns whether there was something.
    pub fn clear(&mut self, user: &str, vhost: &str) -> bool {
        let nothing = Permit::new("", "", "").expect("nothing is an expression");
        let Some(own) = self.permits.get_mut(user) else { return false };
        if own.remove(vhost).is_none() {
            return false;
        }
        if own.is_empty() {
            own.insert(String::new(), nothing);
        }
        true
    }

    /// Forgets a user.
    pub fn forget(&mut self, user: &str) -> bool {
        self.permits.remove(user).is_some()
    }

    /// What is said of a user, by virtual host. `None`: nothing, he may do everything.
    pub fn of(&self, user: &str) -> Option<&BTreeMap<String, Permit>> {
        self.permits.get(user)
    }

    /// User, virtual host and permission, in order.
    pub fn list(&self) -> impl Iterator<Item = (&str, &str, &Permit)> {
        self.permits.iter().flat_map(|(user, own)| {
            own.iter().map(move |(vhost, permit)| (user.as_str(), vhost.as_str(), permit))
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_anywhere_and_nothing_is_nothing() {
        let permit = Permit::new("^ann-", "", ".*").unwrap();
        assert!(
            permit.allows(Access::Configure, b"ann-1") && !permit.allows(Access::Configure, b"bob-ann-1")
        );
        assert!(!permit.allows(Access::Write, b"x"));
        assert!(permit.allows(Access::Read, b"anything") && permit.allows(Access::Read, b""));
        let default = Permit::new("", "^amq\\.default$", "").unwrap();
        assert!(default.allows(Access::Write, b"") && !default.allows(Access::Write, b"amq.direct"));
        assert!(!permit.allows(Access::Read, b"\xff"));
        assert!(Permit::new("(", "", "").unwrap_err().starts_with("configure"));
        assert!(Permit::new("", "a\tb", "").is_err());
    }

    #[test]
    fn a_file_is_read_as_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = PermitFile::beside(&directory.path().join("users"));
        assert_eq!(path.file_name().unwrap(), "users.permissions");
        let mut file = PermitFile::load(&path).unwrap();
        assert!(file.of("ann").is_none());
        file.set("ann", "/", Permit::new("a", "b", "c").unwrap());
        file.set("ann", "other", Permit::new("", "", "x y").unwrap());
        file.save().unwrap();
        let mut again = PermitFile::load(&path).unwrap();
        let listed: Vec<_> =
            again.list().map(|(user, vhost, permit)| (user, vhost, permit.texts())).collect();
        assert_eq!(listed, [("ann", "/", ["a", "b", "c"]), ("ann", "other", ["", "", "x y"])]);
        assert!(again.clear("ann", "/") && again.clear("ann", "other") && !again.clear("ann", "/"));
        again.save().unwrap();
        let bare = PermitFile::load(&path).unwrap();
        assert!(
            bare.of("ann").is_some_and(|own| !own.contains_key("/")),
            "who has lost everything may do nothing"
        );
        fs::write(&path, "ann\t/\t(\t\t\n").unwrap();
        assert!(matches!(PermitFile::load(&path), Err(UsersError::BadPermission(_, 1, _))));
    }
}
