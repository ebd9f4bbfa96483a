//! `fulmar user`: edits the file of users.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use fulmar_policy::users::Account;
use fulmar_policy::{GUEST, UserFile, UsersError};

/// Add, list and delete users, change their passwords
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
    },
    /// List the users
    List,
    /// Delete a user; guest, which is always there, is locked instead
    Delete {
        /// Name of the user
        name: String,
    },
    /// Change a user's password
    Passwd {
        /// Name of the user
        name: String,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
    },
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

fn execute(path: &std::path::Path, command: UserCommand) -> Result<(), UserError> {
    let mut users = UserFile::load(path)?;
    match command {
        UserCommand::List => {
            list(&users);
            return Ok(());
        }
        UserCommand::Add { name, password_stdin } => {
            // Refused before anybody has typed a password.
            if users.account(&name) != Account::Unknown {
                return Err(UsersError::Exists(name).into());
            }
            users.add(&name, &read_password(&name, password_stdin)?)?;
        }
        UserCommand::Passwd { name, password_stdin } => {
            if users.account(&name) == Account::Unknown && name != GUEST {
                return Err(UsersError::Unknown(name).into());
            }
            users.set_password(&name, &read_password(&name, password_stdin)?)?;
        }
        UserCommand::Delete { name } => users.delete(&name)?,
    }
    Ok(users.save()?)
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
