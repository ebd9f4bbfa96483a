//! `fulmar acl`: looks at access control lists.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use fulmar_policy::acl::{Acl, Action, Fact, Object, Property, Verdict};

/// Exit code of a `test` whose answer is no.
const DENIED: u8 = 1;
/// Exit code for what cannot be answered.
const WRONG: u8 = 2;

/// Check access control lists, ask them, and have a broker read its own again
#[derive(Debug, Args)]
pub struct AclArgs {
    #[command(subcommand)]
    command: AclCommand,
}

#[derive(Debug, Subcommand)]
enum AclCommand {
    /// Read a file and tell every line that is wrong, or that will never matter. Exits with 2 if one is wrong
    Check {
        /// The file
        file: PathBuf,
    },
    /// Ask whether a user may do something, and which line says so. Exits with 1 if not
    Test {
        /// The file
        file: PathBuf,
        /// The user, as name@realm
        user: String,
        /// What he wants to do: access, bind, consume, create, …
        action: Action,
        /// With what: broker, connection, exchange, link, method, query, queue
        object: Object,
        /// What is known of it: name=…, routingkey=…, durable=true, maxqueuesize=1000, host=10.0.0.1, …
        #[arg(value_name = "PROPERTY=VALUE")]
        properties: Vec<String>,
    },
    /// Have a running broker read its file again. If a line is wrong, the rules stay as they were; its log says so
    Reload {
        /// Directory of the broker's state [default: $XDG_STATE_HOME/fulmar or ~/.local/state/fulmar]
        #[arg(long, value_name = "DIRECTORY", env = "FULMAR_DATA_DIR")]
        data_dir: Option<PathBuf>,
        /// Look at this file first, and leave the broker alone if it is wrong
        #[arg(long, value_name = "FILE", env = "FULMAR_ACL_FILE")]
        acl_file: Option<PathBuf>,
    },
}

/// Runs the command.
pub fn run(args: AclArgs) -> ExitCode {
    let result = match args.command {
        AclCommand::Check { file } => check(&file),
        AclCommand::Test { file, user, action, object, properties } => {
            test(&file, &user, action, object, &properties)
        }
        AclCommand::Reload { data_dir, acl_file } => reload(data_dir, acl_file.as_ref()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::from(WRONG)
    })
}

fn check(file: &PathBuf) -> Result<ExitCode, String> {
    let acl = read(file)?;
    for note in acl.warnings() {
        println!("{}:{note}", file.display());
    }
    println!("{}: in order", file.display());
    Ok(ExitCode::SUCCESS)
}

fn reload(data_dir: Option<PathBuf>, acl_file: Option<&PathBuf>) -> Result<ExitCode, String> {
    if let Some(file) = acl_file {
        read(file)?;
    }
    let directory = data_dir.unwrap_or_else(fulmar_policy::default_state_dir);
    let nobody = || format!("no broker runs in {}", directory.display());
    let pid = fulmar_journal::holder_of(&directory).ok_or_else(nobody)?;
    let pid = libc::pid_t::try_from(pid).map_err(|_| nobody())?;
    // SAFETY: a signal is sent, nothing of this process is touched.
    if unsafe { libc::kill(pid, libc::SIGHUP) } != 0 {
        return Err(format!("process {pid}: {}", std::io::Error::last_os_error()));
    }
    println!("told process {pid} to read its rules again");
    Ok(ExitCode::SUCCESS)
}

fn test(
    file: &PathBuf,
    user: &str,
    action: Action,
    object: Object,
    properties: &[String],
) -> Result<ExitCode, String> {
    let acl = read(file)?;
    let known = properties.iter().map(|text| property(text)).collect::<Result<Vec<_>, _>>()?;
    let text = |wanted| known.iter().find(|(property, _)| *property == wanted).map_or("", |(_, value)| value);
    let verdict = match (action, object) {
        (Action::Publish, Object::Exchange) => {
            acl.may_publish(user, text(Property::Name), text(Property::RoutingKey))
        }
        (Action::Create, Object::Connection) => {
            let host = text(Property::Host);
            let address: IpAddr = host.parse().map_err(|_| format!("host={host} is no address"))?;
            acl.may_connect(user, address)
        }
        _ => {
            let facts: Vec<(Property, Fact<'_>)> = known
                .iter()
                .filter(|(property, _)| *property != Property::Name)
                .map(|(property, value)| (*property, fact(value)))
                .collect();
            acl.decide(user, action, object, text(Property::Name), Some(&facts))
        }
    };
    let Verdict { outcome, line } = verdict;
    match line {
        Some(line) => println!("{outcome} ({}:{line})", file.display()),
        None => println!("{outcome} (no rule says anything of it)"),
    }
    if !acl.checks_publishing() && (action, object) == (Action::Publish, Object::Exchange) {
        println!("but no rule speaks of publishing, so brokers do not ask");
    }
    Ok(if outcome.allows() { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn read(file: &PathBuf) -> Result<Acl, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Acl::parse(&text).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(|note| format!("{}:{note}", file.display())).collect();
        lines.join("\n")
    })
}

fn property(text: &str) -> Result<(Property, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is not property=value"))?;
    Ok((name.parse()?, value.to_string()))
}

fn fact(value: &str) -> Fact<'_> {
    match value.parse() {
        Ok(number) => Fact::Number(number),
        Err(_) => Fact::Text(value),
    }
}
