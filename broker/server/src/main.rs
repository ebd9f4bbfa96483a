//! The `fulmar` program.

use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use fulmar_bench::BenchArgs;
use fulmar_server::acl::AclArgs;
use fulmar_server::tools::store::StoreArgs;
use fulmar_server::tools::{receive, send, store};
use fulmar_server::user::UserArgs;
use fulmar_server::{acl, serve, settings, user};
use fulmar_tuning::TuneArgs;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match command().get_matches().subcommand() {
        Some(("serve", matches)) => serve::run(matches),
        Some(("send", matches)) => send::run(&parsed(matches)),
        Some(("receive", matches)) => receive::run(&parsed(matches)),
        Some(("store", matches)) => store::run(parsed(matches)),
        Some(("user", matches)) => user::run(parsed(matches)),
        Some(("acl", matches)) => acl::run(parsed(matches)),
        Some(("bench", matches)) => fulmar_bench::run(parsed(matches)),
        Some(("tune", matches)) => fulmar_tuning::run(parsed(matches), &fulmar_policy::default_state_dir()),
        _ => unreachable!("clap insists on a subcommand"),
    }
}

fn command() -> Command {
    let serve = settings::with_options(Command::new("serve").about("Run a broker")).after_help(
        "Every option may also stand in the file and in the environment. Of command line, environment and file, \
         the first that has it counts.",
    );
    Command::new("fulmar")
        .about("A low-latency message broker")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve)
        .subcommand(send::Args::augment_args(Command::new("send")))
        .subcommand(receive::Args::augment_args(Command::new("receive")))
        .subcommand(StoreArgs::augment_args(Command::new("store")))
        .subcommand(UserArgs::augment_args(Command::new("user")))
        .subcommand(AclArgs::augment_args(Command::new("acl")))
        .subcommand(BenchArgs::augment_args(Command::new("bench")))
        .subcommand(TuneArgs::augment_args(Command::new("tune")))
}

/// What a subcommand was given. The program ends where it is not what the subcommand takes.
fn parsed<A: Args + FromArgMatches>(matches: &ArgMatches) -> A {
    A::from_arg_matches(matches).unwrap_or_else(|error| error.exit())
}
