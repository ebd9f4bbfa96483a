//! The `fulmar` program.

use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};
use fulmar_server::user::UserArgs;
use fulmar_server::{serve, settings, user};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match command().get_matches().subcommand() {
        Some(("serve", matches)) => serve::run(matches),
        Some(("user", matches)) => match UserArgs::from_arg_matches(matches) {
            Ok(args) => user::run(args),
            Err(error) => error.exit(),
        },
        _ => unreachable!("clap insists on a subcommand"),
    }
}

fn command() -> Command {
    let serve = settings::with_options(
        Command::new("serve")
            .about("Run a broker")
            .after_help("Every option can also stand in the file and in the environment; the first of command line, environment, file counts."),
    );
    let user = UserArgs::augment_args(
        Command::new("user").about("Add, list and delete users, change their passwords"),
    );
    Command::new("fulmar")
        .about("A low-latency message broker")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([serve, user])
}
