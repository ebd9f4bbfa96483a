//! The file of users: one `name:secrets` a line, the secrets being those of [`crate::secrets`], or `!` for an account
//! that is locked. Comments (`#`) and empty lines are kept.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::GUEST;
use crate::replace::{SystemFiles, replace};
use crate::secrets::{LOCKED, Recipe, Secrets};

const MAX_NAME_BYTES: usize = 255;

/// Why the file of users, or a change to it, was refused.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file cannot be read or written.
    #[error("users file {0}: {1}")]
    Io(PathBuf, io::Error),
    /// Others than its owner can read the file, or write to it.
    #[error("users file {0} is open to others (mode {1:o}); chmod 600 it")]
    NotPrivate(PathBuf, u32),
    /// A line of the file of permissions is not what it should be.
    #[error("{0}:{1}: {2}")]
    BadPermission(PathBuf, usize, String),
    /// A line is not what it should be.
    #[error("{0}:{1}: {2}")]
    BadLine(PathBuf, usize, &'static str),
    /// The name cannot be a user's.
    #[error("'{0}' cannot be a user name: {1}")]
    BadName(String, &'static str),
    /// A user of that name is there already.
    #[error("there is a user '{0}' already; `fulmar user passwd` changes the password")]
    Exists(String),
    /// There is no user of that name.
    #[error("there is no user '{0}'")]
    Unknown(String),
    /// The password cannot be one.
    #[error("the password is empty")]
    EmptyPassword,
}

#[derive(Clone, Debug)]
enum Line {
    Text(String),
    /// Without secrets: locked.
    User {
        name: String,
        secrets: Option<Secrets>,
    },
}

/// The file of users in memory.
#[derive(Clone, Debug)]
pub struct UserFile {
    path: PathBuf,
    lines: Vec<Line>,
}

/// What the file says of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account<'a> {
    /// Nothing.
    Unknown,
    /// Nobody can log in.
    Locked,
    /// Whoever knows the password can.
    Known(&'a Secrets),
}

impl UserFile {
    /// Reads the file; one that does not exist has no users.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, UsersError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => {
                check_private(path)?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(UsersError::Io(path.into(), error)),
        };
        let mut file = UserFile { path: path.into(), lines: Vec::new() };
        for (number, line) in (1..).zip(text.lines()) {
            let parsed =
                file.parse(line).map_err(|reason| UsersError::BadLine(path.into(), number, reason))?;
            file.lines.push(parsed);
        }
        Ok(file)
    }

    fn parse(&self, line: &str) -> Result<Line, &'static str> {
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(Line::Text(line.to_string()));
        }
        let (name, secrets) = line.split_once(':').ok_or("expected name:hash")?;
        let secrets = secrets.trim_end();
        check_name(name)?;
        if self.account(name) != Account::Unknown {
            return Err("a second line for the same user");
        }
        let secrets = (secrets != LOCKED).then(|| Secrets::read(secrets)).transpose()?;
        Ok(Line::User { name: name.to_string(), secrets })
    }

    /// Writes the file, readable by its owner alone, in one step: a reader, and whoever comes after a power cut, sees the
    /// old one or the new one.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self) -> Result<(), UsersError> {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Text(line) => text.push_str(line),
                Line::User { name, secrets } => {
                    let secrets = secrets.as_ref().map_or_else(|| LOCKED.to_string(), Secrets::to_string);
                    text.extend([name.as_str(), ":", &secrets]);
                }
            }
            text.push('\n');
        }
        replace(&mut SystemFiles, &self.path, text.as_bytes())
            .map_err(|error| UsersError::Io(self.path.clone(), error))
    }

    /// Adds a user.
    ///
    /// # Errors
    /// The name or the password cannot be one, or the user exists.
    pub fn add(&mut self, name: &str, password: &[u8], recipe: &Recipe) -> Result<(), UsersError> {
        check_name(name).map_err(|reason| UsersError::BadName(name.to_string(), reason))?;
        if self.account(name) != Account::Unknown {
            return Err(UsersError::Exists(name.to_string()));
        }
        let secrets = Some(Secrets::new(name, password, recipe)?);
        self.lines.push(Line::User { name: name.to_string(), secrets });
        Ok(())
    }

    /// Changes a user's password. `guest` need not have been added before.
    ///
    /// # Errors
    /// There is no such user, or the password cannot be one.
    pub fn set_password(&mut self, name: &str, password: &[u8], recipe: &Recipe) -> Result<(), UsersError> {
        let secrets = Secrets::new(name, password, recipe)?;
        self.set_secrets(name, Some(secrets))
    }

    /// Removes a user. `guest`, which exists without being added, is locked instead.
    ///
    /// # Errors
    /// There is no such user.
    pub fn delete(&mut self, name: &str) -> Result<(), UsersError> {
        if name == GUEST {
            return self.set_secrets(name, None);
        }
        let before = self.lines.len();
        self.lines.retain(|line| !matches!(line, Line::User { name: other, .. } if other == name));
        if self.lines.len() == before { Err(UsersError::Unknown(name.to_string())) } else { Ok(()) }
    }

    fn set_secrets(&mut self, name: &str, new: Option<Secrets>) -> Result<(), UsersError> {
        for line in &mut self.lines {
            if let Line::User { name: other, secrets } = line
                && other == name
            {
                *secrets = new;
                return Ok(());
            }
        }
        if name != GUEST {
            return Err(UsersError::Unknown(name.to_string()));
        }
        self.lines.push(Line::User { name: name.to_string(), secrets: new });
        Ok(())
    }

    /// What the file says of a user.
    pub fn account(&self, user: &str) -> Account<'_> {
        let found = self.lines.iter().find_map(|line| match line {
            Line::User { name, secrets } if name == user => Some(secrets),
            _ => None,
        });
        match found {
            None => Account::Unknown,
            Some(None) => Account::Locked,
            Some(Some(secrets)) => Account::Known(secrets),
        }
    }

    /// The names in the file, in its order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match line {
            Line::User { name, .. } => Some(name.as_str()),
            Line::Text(_) => None,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a file of secrets that others than its owner can read.
fn check_private(path: &Path) -> Result<(), UsersError> {
    let meta = fs::metadata(path).map_err(|error| UsersError::Io(path.into(), error))?;
    let mode = meta.permissions().mode() & 0o777;
    if meta.is_file() && mode & 0o077 != 0 { Err(UsersError::NotPrivate(path.into(), mode)) } else { Ok(()) }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > MAX_NAME_BYTES {
        return Err("it is longer than 255 bytes");
    }
    if name.starts_with('#') || name.contains(':') || name.chars().any(char::is_control) {
        return Err("it starts with '#', or contains ':' or a control character");
    }
    if name.trim() != name {
        return Err("it starts or ends with a blank");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(password: &str) -> Secrets {
        let argon2 = argon2::Params::new(8, 1, 1, None).unwrap();
        let recipe = Recipe { argon2, iterations: 1, md5_realm: None };
        Secrets::new("ann", password.as_bytes(), &recipe).unwrap()
    }

    fn cheap(password: &str) -> String {
        secrets(password).to_string()
    }

    fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        (dir, path)
    }

    #[test]
    fn comments_and_order_survive_a_change() {
        let text = format!("# the team\nann:{}\n\nbob:{}\n", cheap("a"), cheap("b"));
        let (_dir, path) = file_with(&text);
        let mut users = UserFile::load(&path).unwrap();
        users.delete("bob").unwrap();
        users.save().unwrap();
        let expected: String = text.lines().take(3).map(|line| format!("{line}\n")).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert!(check_private(&path).is_ok());
        assert_eq!(users.names().collect::<Vec<_>>(), ["ann"]);
    }

    #[test]
    fn a_missing_file_is_created_private_with_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/fulmar/users");
        let mut users = UserFile::load(&path).unwrap();
        users.lines.push(Line::User { name: "ann".into(), secrets: Some(secrets("a")) });
        users.save().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        assert!(matches!(UserFile::load(&path).unwrap().account("ann"), Account::Known(_)));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let (_dir, path) = file_with("");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(UserFile::load(&path), Err(UsersError::NotPrivate(..))), "{mode:o}");
        }
    }

    #[test]
    fn bad_lines_are_named() {
        for (text, line) in [
            ("no colon\n", 1),
            ("#ok\nann:plain text\n", 2),
            (":$x\n", 1),
            (&format!("ann:{0}\nann:{0}\n", cheap("a")), 2),
        ] {
            let (_dir, path) = file_with(text);
            match UserFile::load(&path) {
                Err(UsersError::BadLine(_, number, _)) => assert_eq!(number, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn names_that_break_the_file_are_refused() {
        let (_dir, path) = file_with("");
        let mut users = UserFile::load(&path).unwrap();
        for name in ["", "a:b", "#a", "a\nb", " a", &"a".repeat(256)] {
            assert!(
                matches!(users.add(name, b"x", &Recipe::default()), Err(UsersError::BadName(..))),
                "{name:?}"
            );
        }
        assert!(matches!(users.add("ann", b"", &Recipe::default()), Err(UsersError::EmptyPassword)));
        assert!(matches!(users.delete("ann"), Err(UsersError::Unknown(_))));
        assert!(matches!(users.set_password("ann", b"x", &Recipe::default()), Err(UsersError::Unknown(_))));
    }

    #[test]
    fn deleting_guest_locks_it() {
        let (_dir, path) = file_with("");
        let mut users = UserFile::load(&path).unwrap();
        users.delete(GUEST).unwrap();
        users.save().unwrap();
        assert_eq!(UserFile::load(&path).unwrap().account(GUEST), Account::Locked);
    }
}
