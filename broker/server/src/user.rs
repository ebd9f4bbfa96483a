//! `fulmar user`: edits the files of users and of their permissions.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use fulmar_policy::rules::{Permit, PermitFile};
use fulmar_policy::secrets::Recipe;
use fulmar_policy::users::Account;
use fulmar_policy::{GUEST, UserFile, UsersError};

/// Add, list and delete users, change their passwords and permissions
#[derive(Debug, Args)]
pub struct UserArgs {
    /// File of users [default: users in the data directory]
    #[arg(long, value_name = "FILE", env = "FULMAR_USERS_FILE", global = true)]
    users_file: Option<PathBuf>,
    /// Directory of the broker's state [default: $XDG_STATE_HOME/fulmar or ~/.local/state/fulmar]
    #[arg(long, value_name = "DIRECTORY", env = "FULMAR_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Add a user; a running broker knows it at once
    Add {
        /// Name of the user
        name: String,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        /// Keep keys for CRAM-MD5 and DIGEST-MD5 too. Whoever reads them can log in with them
        #[arg(long)]
        md5: bool,
        /// The broker's realm, for which those of DIGEST-MD5 are
        #[arg(long, value_name = "REALM", default_value = "QPID", env = "FULMAR_REALM")]
        realm: String,
    },
    /// List the users
    List,
    /// Delete a user; guest, which is always there, is locked instead
    Delete {
        /// Name of the user
        name: String,
    },
    /// Say what a user may do in a virtual host, by regular expressions for names of queues and exchanges. Users of whom
    /// nothing is said may do everything everywhere; the others, what is said and no more
    Permit {
        #[command(flatten)]
        whom: Where,
        /// What he may declare and delete
        #[arg(long, value_name = "EXPRESSION", default_value = "")]
        configure: String,
        /// What he may publish to, or have an exchange send to; the default exchange is amq.default
        #[arg(long, value_name = "EXPRESSION", default_value = "")]
        write: String,
        /// What he may receive from, empty, or bind to
        #[arg(long, value_name = "EXPRESSION", default_value = "")]
        read: String,
    },
    /// Take a user's permissions in a virtual host away; who has lost his last may do nothing
    Forbid {
        #[command(flatten)]
        whom: Where,
    },
    /// List permissions
    Permissions,
    /// Change a user's password
    Passwd {
        /// Name of the user
        name: String,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        /// Keep keys for CRAM-MD5 and DIGEST-MD5 too. Whoever reads them can log in with them
        #[arg(long)]
        md5: bool,
        /// The broker's realm, for which those of DIGEST-MD5 are
        #[arg(long, value_name = "REALM", default_value = "QPID", env = "FULMAR_REALM")]
        realm: String,
    },
}

#[derive(Debug, Args)]
struct Where {
    /// Name of the user
    name: String,
    /// The virtual host
    #[arg(long, default_value = "/")]
    vhost: String,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum UserError {
    #[error(transparent)]
    Users(#[from] UsersError),
    #[error("cannot read the password: {0}")]
    Password(io::Error),
    #[error("the passwords differ")]
    Differ,
    #[error("{0}")]
    Expression(String),
    #[error("user '{0}' has no permissions in virtual host '{1}'")]
    NoPermission(String, String),
}

/// Runs the command.
pub fn run(args: UserArgs) -> ExitCode {
    let data_dir = args.data_dir.unwrap_or_else(fulmar_policy::default_state_dir);
    let path = args.users_file.unwrap_or_else(|| data_dir.join("users"));
    match execute(&path, args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fulmar: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(path: &Path, command: UserCommand) -> Result<(), UserError> {
    let mut users = UserFile::load(path)?;
    match command {
        UserCommand::List => {
            list(&users);
            return Ok(());
        }
        UserCommand::Add { name, password_stdin, md5, realm } => {
            // Refused before anybody has typed a password.
            if users.account(&name) != Account::Unknown {
                return Err(UsersError::Exists(name).into());
            }
            users.add(&name, &read_password(&name, password_stdin)?, &recipe(md5, realm))?;
        }
        UserCommand::Passwd { name, password_stdin, md5, realm } => {
            if users.account(&name) == Account::Unknown && name != GUEST {
                return Err(UsersError::Unknown(name).into());
            }
            users.set_password(&name, &read_password(&name, password_stdin)?, &recipe(md5, realm))?;
        }
        UserCommand::Delete { name } => {
            users.delete(&name)?;
            let mut permits = PermitFile::load(&PermitFile::beside(path))?;
            // A deleted guest is locked, and stays what it was.
            if name != GUEST && permits.forget(&name) {
                permits.save()?;
            }
        }
        UserCommand::Permit { whom: Where { name, vhost }, configure, write, read } => {
            let permit = Permit::new(&configure, &write, &read).map_err(UserError::Expression)?;
            let mut permits = PermitFile::load(&PermitFile::beside(path))?;
            permits.set(&name, &vhost, permit);
            return Ok(permits.save()?);
        }
        UserCommand::Forbid { whom: Where { name, vhost } } => {
            let mut permits = PermitFile::load(&PermitFile::beside(path))?;
            if !permits.clear(&name, &vhost) {
                return Err(UserError::NoPermission(name, vhost));
            }
            return Ok(permits.save()?);
        }
        UserCommand::Permissions => {
            for (user, vhost, permit) in PermitFile::load(&PermitFile::beside(path))?.list() {
                let [configure, write, read] = permit.texts();
                println!("{user}\t{vhost}\t{configure}\t{write}\t{read}");
            }
            return Ok(());
        }
    }
    Ok(users.save()?)
}

fn recipe(md5: bool, realm: String) -> Recipe {
    Recipe { md5_realm: md5.then_some(realm), ..Recipe::default() }
}

fn list(users: &UserFile) {
    if users.account(GUEST) == Account::Unknown {
        println!("{GUEST} (password guest, from this host only)");
    }
    for name in users.names() {
        match users.account(name) {
            Account::Locked => println!("{name} (locked)"),
            _ if name == GUEST => println!("{name} (from this host only)"),
            _ => println!("{name}"),
        }
    }
}

/// The password: from standard input up to the end of its first line, or typed twice without echo.
fn read_password(name: &str, stdin: bool) -> Result<Vec<u8>, UserError> {
    if stdin || !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(UserError::Password)?;
        return Ok(line.trim_end_matches(['\r', '\n']).as_bytes().to_vec());
    }
    let ask = |prompt: String| rpassword::prompt_password(prompt).map_err(UserError::Password);
    let first = ask(format!("Password for {name}: "))?;
    if ask("Once more: ".to_string())? != first {
        return Err(UserError::Differ);
    }
    Ok(first.into_bytes())
}
