//! The options of `fulmar serve`: one table defines each once; the command line, the environment and the `name=value`
//! file all read it.
//!
//! Precedence: command line, environment (`FULMAR_NAME`), file (`--config`), default.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use fulmar_journal::Durability;
use fulmar_policy::{Mechanism, Offer};
use fulmar_transport::{IdleStrategy, IoChoice};

use crate::affinity::{self, Affinity};

mod access;
mod tls;
mod values;

use values::{addresses, set, set_bytes, set_in, set_optional, set_seconds};

/// The effective options.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Addresses to listen on; `port` replaces theirs where it is given.
    pub listen: Vec<SocketAddr>,
    /// Port for all of `listen`.
    pub port: Option<u16>,
    /// Port of RDMA connections, instead of that of the addresses to listen on; 0 for none.
    pub rdma_port: Option<u16>,
    /// Print the port on standard output once listening.
    pub print_port: bool,
    /// Reactor.
    pub io: IoChoice,
    /// Shards; 0 for one fewer than there are CPUs.
    pub shards: usize,
    /// What an idle shard does.
    pub idle: IdleStrategy,
    /// Where shards run.
    pub cpu_affinity: Affinity,
    /// Virtual hosts besides `/`.
    pub vhosts: Vec<String>,
    /// Directory of the broker's state.
    pub data_dir: Option<PathBuf>,
    /// Everything is kept in memory only.
    pub no_data_dir: bool,
    /// When something counts as stored.
    pub durability: Durability,
    /// Bytes on the disk that the journals of all shards may occupy; 0: what the disk has.
    pub journal_max_bytes: u64,
    /// Size of a segment of a journal.
    pub journal_segment_bytes: u64,
    /// Bytes appended to journals and not yet written at which publishers are stopped; all shards together.
    pub journal_buffer_bytes: u64,
    /// File of users; by default in the data directory.
    pub users_file: Option<PathBuf>,
    /// Whether SASL ANONYMOUS is offered.
    pub anonymous: bool,
    /// Mechanisms that may be offered.
    pub sasl_mechanisms: Vec<Mechanism>,
    /// Whether those that show the password are offered to peers elsewhere that do not encrypt.
    pub plain_without_tls: bool,
    /// Whether who comes by TLS is offered nothing that a dictionary helps against.
    pub no_dictionary: bool,
    /// What the broker's service is called in Kerberos.
    pub sasl_service_name: String,
    /// Where users without a realm are from.
    pub realm: String,
    /// The access control list.
    pub acl_file: Option<PathBuf>,
    /// Most connections of a user; 0: any number.
    pub connections_per_user: u32,
    /// Most queues of a user; 0: any number.
    pub queues_per_user: u32,
    /// Most connections from an address; 0: any number.
    pub connections_per_address: u32,
    /// Where else clients of AMQP 0-10 find a broker, told to them as they come.
    pub known_hosts_url: Vec<String>,
    /// Whether messages that come by AMQP 0-10 are given the time of their receipt.
    pub enable_timestamp: bool,
    /// Heartbeat offered, in seconds.
    pub heartbeat_s: u16,
    /// Largest frame offered, in bytes.
    pub frame_max_bytes: u32,
    /// Highest channel number offered.
    pub channel_max: u16,
    /// Most connections.
    pub max_connections: u32,
    /// Largest message body, in bytes.
    pub max_message_bytes: u64,
    /// Bytes of messages held in memory before publishers are stopped; all shards together.
    pub memory_limit_bytes: u64,
    /// Bytes of deliveries under way to one connection.
    pub delivery_window_bytes: u32,
    /// Bytes that a queue declared by AMQP 0-10 without a limit may hold; what flow control is a part of. 0: any number.
    pub default_queue_bytes: u64,
    /// Percent of a queue's limit beyond which its publishers are stopped; 0: only if asked for.
    pub flow_stop_percent: u8,
    /// Percent of a queue's limit below which they go on.
    pub flow_resume_percent: u8,
    /// Percent of a queue's limit at which an alert is raised; 0: only if asked for.
    pub alert_percent: u8,
    /// Group of messages that name none.
    pub default_message_group: String,
    /// How long a branch of a distributed transaction may take if nobody says otherwise, in seconds; 0 for ever.
    pub dtx_default_timeout_s: u32,
    /// The longest that anybody may ask for, in seconds; 0 for any.
    pub dtx_max_timeout_s: u32,
    /// Time from connecting to `connection.open`, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Time that a clean stop may take, in milliseconds.
    pub stop_timeout_ms: u64,
    /// What TLS begins with; nothing where it is not spoken.
    pub tls: fulmar_tls::Options,
    /// Port for TLS alone, on the addresses of `listen`.
    pub tls_port: u16,
    /// Whether nobody is let in without TLS.
    pub require_encryption: bool,
    /// Least severe messages that are logged.
    pub log_level: Option<log::LevelFilter>,
}

/// One option. Applying its text changes the settings.
#[derive(Debug)]
pub struct Spec {
    /// Its name on the command line and in the file.
    pub name: &'static str,
    /// Another name for it; empty for none.
    pub alias: &'static str,
    /// What stands for its value in the help; empty for a switch.
    pub value: &'static str,
    /// Value where nothing else gives one.
    pub default: &'static str,
    /// One line.
    pub help: &'static str,
    /// Whether it may be given several times.
    pub repeatable: bool,
    apply: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Spec {
    /// Its variable in the environment.
    pub fn variable(&self) -> String {
        format!("FULMAR_{}", self.name.replace('-', "_").to_uppercase())
    }

    fn is_switch(&self) -> bool {
        self.value.is_empty()
    }
}

const fn spec(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
    apply: fn(&mut Settings, &str) -> Result<(), String>,
) -> Spec {
    Spec { name, alias: "", value, default, help, repeatable: false, apply }
}

const fn list(spec: Spec) -> Spec {
    Spec { repeatable: true, ..spec }
}

const fn alias(spec: Spec, alias: &'static str) -> Spec {
    Spec { alias, ..spec }
}

/// Every option.
pub fn specs() -> impl Iterator<Item = &'static Spec> {
    SPECS.iter().chain(access::SPECS).chain(tls::SPECS)
}

const SPECS: &[Spec] = &[
    list(spec(
        "listen",
        "ADDRESS",
        "127.0.0.1:5672,[::1]:5672",
        "Address to listen on, several separated by commas; port 0 picks a free port",
        |s, text| {
            for part in text.split(',') {
                s.listen.extend(addresses(part.trim())?);
            }
            Ok(())
        },
    )),
    spec("port", "PORT", "", "Port, instead of that of the addresses to listen on", |s, text| {
        set_optional(&mut s.port, text)
    }),
    spec(
        "rdma-port",
        "PORT",
        "",
        "Port for connections over RDMA, 0 for none [default: that of the addresses to listen on, where they are not loopback]",
        |s, text| set_optional(&mut s.rdma_port, text),
    ),
    spec("print-port", "", "false", "Print the port on a line of its own once listening", |s, text| {
        set(&mut s.print_port, text)
    }),
    spec(
        "io",
        "BACKEND",
        "auto",
        "Reactor: uring, epoll, or auto (io_uring where the kernel allows it)",
        |s, text| set(&mut s.io, text),
    ),
    spec("shards", "N", "0", "Threads that serve connections and queues; 0: CPUs less one", |s, text| {
        set_in(&mut s.shards, text, 0..=64)
    }),
    spec(
        "idle",
        "STRATEGY",
        "adaptive",
        "What an idle shard does: spin (lowest latency, takes a core), adaptive, block",
        |s, text| set(&mut s.idle, text),
    ),
    spec(
        "cpu-affinity",
        "CPUS",
        "auto",
        "CPUs of the shards, for example 2,4-7; auto pins each to its own, none pins nothing",
        |s, text| set(&mut s.cpu_affinity, text),
    ),
    list(spec("vhost", "NAME", "", "Virtual host besides /, several separated by commas", |s, text| {
        s.vhosts.extend(text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(String::from));
        Ok(())
    })),
    spec(
        "data-dir",
        "DIRECTORY",
        "",
        "Where the broker keeps its state [default: $XDG_STATE_HOME/fulmar or ~/.local/state/fulmar]",
        |s, text| set_optional(&mut s.data_dir, text),
    ),
    spec(
        "no-data-dir",
        "",
        "false",
        "Keep messages, queues and exchanges in memory only: a restart loses them, durable or not",
        |s, text| set(&mut s.no_data_dir, text),
    ),
    spec(
        "durability",
        "MODE",
        "flush",
        "When a message counts as stored: flush (it is on the disk), os (it is written, a power cut may lose it)",
        |s, text| set(&mut s.durability, text),
    ),
    spec(
        "journal-max-bytes",
        "BYTES",
        "0",
        "What the journal may occupy on the disk before persistent messages are refused; 0: what the disk has",
        |s, text| set_bytes(&mut s.journal_max_bytes, text, 0..=u64::MAX),
    ),
    spec("journal-segment-bytes", "BYTES", "64M", "Size of the journal's files", |s, text| {
        set_bytes(&mut s.journal_segment_bytes, text, (1 << 20)..=(1 << 30))
    }),
    spec(
        "journal-buffer-bytes",
        "BYTES",
        "64M",
        "Bytes that wait to be written to the journal before publishers are made to wait",
        |s, text| set_bytes(&mut s.journal_buffer_bytes, text, (1 << 20)..=(16 << 30)),
    ),
    list(spec(
        "known-hosts-url",
        "URL",
        "",
        "Where else clients of AMQP 0-10 find a broker, told to them as they come (amqp:tcp:host:port)",
        |s, text| {
            s.known_hosts_url.extend((!text.is_empty()).then(|| text.to_string()));
            Ok(())
        },
    )),
    spec(
        "enable-timestamp",
        "",
        "false",
        "Give messages that come by AMQP 0-10 the time of their receipt",
        |s, text| set(&mut s.enable_timestamp, text),
    ),
    spec("heartbeat", "SECONDS", "60", "Heartbeat offered to clients; 0 for none", |s, text| {
        set(&mut s.heartbeat_s, text)
    }),
    spec("frame-max", "BYTES", "131072", "Largest frame offered to clients", |s, text| {
        set_bytes(&mut s.frame_max_bytes, text, 4096..=(64 << 20))
    }),
    spec("channel-max", "N", "2047", "Highest channel number offered to clients", |s, text| {
        set_in(&mut s.channel_max, text, 1..=u16::MAX)
    }),
    spec("max-connections", "N", "65536", "Most connections", |s, text| {
        set_in(&mut s.max_connections, text, 1..=1 << 20)
    }),
    spec("max-message-size", "BYTES", "128M", "Largest message body", |s, text| {
        set_bytes(&mut s.max_message_bytes, text, 1..=(512 << 20))
    }),
    spec(
        "memory-limit",
        "BYTES",
        "1G",
        "Messages held in memory before publishers are made to wait",
        |s, text| set_bytes(&mut s.memory_limit_bytes, text, (1 << 20)..=u64::MAX),
    ),
    spec(
        "delivery-window",
        "BYTES",
        "256K",
        "Deliveries under way to a connection that is slow to take them",
        |s, text| set_bytes(&mut s.delivery_window_bytes, text, 256..=(1 << 30)),
    ),
    spec(
        "default-queue-limit",
        "BYTES",
        "100M",
        "What flow control is a part of where an AMQP 0-10 queue has no limit of its own; 0 for none",
        |s, text| set_bytes(&mut s.default_queue_bytes, text, 0..=u64::MAX),
    ),
    spec(
        "default-flow-stop-threshold",
        "PERCENT",
        "80",
        "Part of a queue's limit beyond which its publishers are stopped; 0 for never",
        |s, text| set_in(&mut s.flow_stop_percent, text, 0..=100),
    ),
    spec(
        "default-flow-resume-threshold",
        "PERCENT",
        "70",
        "Part of a queue's limit below which its publishers go on",
        |s, text| set_in(&mut s.flow_resume_percent, text, 0..=100),
    ),
    spec(
        "default-event-threshold-ratio",
        "PERCENT",
        "80",
        "Part of a queue's limit at which an alert is raised; 0 for never",
        |s, text| set_in(&mut s.alert_percent, text, 0..=100),
    ),
    spec(
        "default-message-group",
        "GROUP",
        "qpid.no-group",
        "Group of messages without one in queues with message groups",
        |s, text| set(&mut s.default_message_group, text),
    ),
    spec(
        "dtx-default-timeout",
        "SECONDS",
        "60",
        "Time in which a branch of a distributed transaction has to be prepared; 0 for any",
        |s, text| set_in(&mut s.dtx_default_timeout_s, text, 0..=u32::MAX),
    ),
    spec(
        "dtx-max-timeout",
        "SECONDS",
        "3600",
        "The longest that a client may ask for a branch; 0 for any",
        |s, text| set_in(&mut s.dtx_max_timeout_s, text, 0..=u32::MAX),
    ),
    spec(
        "handshake-timeout",
        "SECONDS",
        "10",
        "Time a client has from connecting to being logged in",
        |s, text| set_seconds(&mut s.handshake_timeout_ms, text),
    ),
    spec("stop-timeout", "SECONDS", "10", "Time that a clean stop may take", |s, text| {
        set_seconds(&mut s.stop_timeout_ms, text)
    }),
    spec("log-level", "LEVEL", "info", "What is logged: off, error, warn, info, debug, trace", |s, text| {
        set_optional(&mut s.log_level, text)
    }),
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table.
    Default,
    /// A line of the file.
    File(PathBuf, usize),
    /// A variable of the environment.
    Environment(String),
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(variable) => write!(f, "${variable}"),
            Origin::CommandLine => f.write_str("command line"),
        }
    }
}

/// Why options were refused; one line that names the option and its place.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    /// A line of the file is not `name=value`.
    #[error("{0}:{1}: expected name=value")]
    Malformed(PathBuf, usize),
    /// There is no such option.
    #[error("{0}: unknown option '{1}'; `fulmar serve --help` lists them")]
    Unknown(Origin, String),
    /// The value does not fit the option.
    #[error("{origin}: bad value '{text}' for {name}: {reason}")]
    BadValue {
        /// Where it was given.
        origin: Origin,
        /// The option.
        name: &'static str,
        /// The value.
        text: String,
        /// Why.
        reason: String,
    },
}

/// Settings with the text and origin of each value.
#[derive(Debug)]
pub struct Loaded {
    /// The effective options.
    pub settings: Settings,
    values: Vec<(&'static Spec, Vec<String>, Origin)>,
}

impl Loaded {
    /// From a command line parsed by [`with_options`], the environment, and the file that either names.
    ///
    /// # Errors
    /// The first bad option, by name and place.
    pub fn new(
        matches: &ArgMatches,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let file = matches
            .get_one::<PathBuf>("config")
            .cloned()
            .or_else(|| environment("FULMAR_CONFIG").map(PathBuf::from));
        let in_file = file.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let mut settings = Settings::default();
        let mut values = Vec::new();
        for spec in specs() {
            let (texts, origin) = if let Some(texts) = matches.get_many::<String>(spec.name) {
                (texts.cloned().collect(), Origin::CommandLine)
            } else if let Some(text) = environment(&spec.variable()) {
                (vec![text], Origin::Environment(spec.variable()))
            } else if let Some((texts, origin)) = in_file.get(spec.name) {
                (texts.clone(), origin.clone())
            } else {
                (vec![spec.default.to_string()], Origin::Default)
            };
            for text in &texts {
                (spec.apply)(&mut settings, text).map_err(|reason| SettingsError::BadValue {
                    origin: origin.clone(),
                    name: spec.name,
                    text: text.clone(),
                    reason,
                })?;
            }
            values.push((spec, texts, origin));
        }
        Ok(Loaded { settings, values })
    }
}

impl Loaded {
    /// Whether somebody gave this option a value, rather than the table.
    pub fn is_given(&self, name: &str) -> bool {
        self.values.iter().any(|(spec, _, origin)| spec.name == name && *origin != Origin::Default)
    }
}

/// The file that these settings would be, each line with where its value came from.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (spec, texts, origin) in &self.values {
            let line = format!("{}={}", spec.name, texts.join(","));
            writeln!(f, "{line:40} # {origin}")?;
        }
        Ok(())
    }
}

impl Default for Loaded {
    /// The defaults of the table.
    fn default() -> Self {
        let matches = with_options(Command::new("fulmar")).get_matches_from(["fulmar"]);
        Loaded::new(&matches, |_| None).expect("the defaults are valid")
    }
}

impl Settings {
    /// The defaults, listening on a free port of the loopback interface, for a broker inside a test or a measurement:
    /// one shard, not pinned, users in no file, messages in memory only.
    pub fn in_process() -> Self {
        Settings {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            shards: 1,
            cpu_affinity: Affinity::None,
            users_file: Some(PathBuf::from("/dev/null")),
            no_data_dir: true,
            tls_port: 0,
            ..Loaded::default().settings
        }
    }

    /// Shards, the default resolved.
    pub fn shard_count(&self) -> usize {
        if self.shards == 0 { affinity::default_shards() } else { self.shards }
    }

    /// Addresses to listen on, with the port that was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let port = |addr: &SocketAddr| self.port.unwrap_or(addr.port());
        self.listen.iter().map(|addr| SocketAddr::new(addr.ip(), port(addr))).collect()
    }

    /// Addresses to take connections on over RDMA. Devices have no loopback, so nothing is tried there unless a port was
    /// asked for.
    pub fn rdma_addresses(&self) -> Vec<SocketAddr> {
        let own = |addr: SocketAddr| match self.rdma_port {
            Some(port) => (port != 0).then(|| SocketAddr::new(addr.ip(), port)),
            None => (!addr.ip().is_loopback() && addr.port() != 0).then_some(addr),
        };
        self.addresses().into_iter().filter_map(own).collect()
    }

    /// Addresses to listen on for TLS alone; none where it is not spoken.
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        if !self.tls.is_on() {
            return Vec::new();
        }
        let mut addresses: Vec<_> =
            self.listen.iter().map(|addr| SocketAddr::new(addr.ip(), self.tls_port)).collect();
        addresses.sort();
        addresses.dedup();
        // A port for both is one where TLS is detected.
        let shared = self.addresses();
        addresses.retain(|addr| addr.port() == 0 || !shared.contains(addr));
        addresses
    }

    /// The directory of the broker's state, the default resolved; whether messages are kept there is another question.
    pub fn state_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(fulmar_policy::default_state_dir)
    }

    /// The data directory; `None` where everything is kept in memory.
    pub fn data_path(&self) -> Option<PathBuf> {
        (!self.no_data_dir).then(|| self.state_dir())
    }

    /// Which ways to log in are offered to whom.
    pub fn offer(&self) -> Offer {
        let mut mechanisms = self.sasl_mechanisms.clone();
        if self.anonymous {
            mechanisms.push(Mechanism::Anonymous);
        }
        Offer {
            mechanisms,
            plain_anywhere: self.plain_without_tls,
            no_dictionary: self.no_dictionary,
            encryption_required: self.require_encryption,
        }
    }

    /// The file of users.
    pub fn users_path(&self) -> PathBuf {
        self.users_file.clone().unwrap_or_else(|| self.state_dir().join("users"))
    }
}

/// Adds every option of the table, `--config` and `--show-config` to a command.
pub fn with_options(command: Command) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("File of name=value lines, the names being these options' [env: FULMAR_CONFIG]");
    let show = Arg::new("show-config")
        .long("show-config")
        .action(ArgAction::SetTrue)
        .help("Print the options as they come out, each with its origin, and exit");
    specs().fold(command.arg(config).arg(show), |command, spec| command.arg(argument(spec)))
}

fn argument(spec: &'static Spec) -> Arg {
    let default = if spec.default.is_empty() || spec.is_switch() {
        String::new()
    } else {
        format!(" [default: {}]", spec.default)
    };
    let help = format!("{}{default} [env: {}]", spec.help, spec.variable());
    let action = if spec.repeatable { ArgAction::Append } else { ArgAction::Set };
    let arg = Arg::new(spec.name)
        .long(spec.name)
        .help(help)
        .action(action)
        .visible_aliases((!spec.alias.is_empty()).then_some(spec.alias))
        .overrides_with_all(if spec.repeatable { None } else { Some(spec.name) });
    if spec.is_switch() {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
    } else {
        arg.value_name(spec.value).allow_negative_numbers(true)
    }
}

type FileValues = BTreeMap<&'static str, (Vec<String>, Origin)>;

fn read_file(path: &Path) -> Result<FileValues, SettingsError> {
    let text = fs::read_to_string(path).map_err(|error| SettingsError::Unreadable(path.into(), error))?;
    let mut values = FileValues::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            line.split_once('=').ok_or_else(|| SettingsError::Malformed(path.into(), number))?;
        let origin = Origin::File(path.into(), number);
        let name = name.trim();
        let spec = specs()
            .find(|spec| spec.name == name || (!name.is_empty() && spec.alias == name))
            .ok_or_else(|| SettingsError::Unknown(origin.clone(), name.to_string()))?;
        // A value may be followed by a comment, as `--show-config` writes them.
        let value = value.split_once(" #").map_or(value, |(value, _)| value).trim().to_string();
        match values.get_mut(spec.name) {
            Some((texts, _)) if spec.repeatable => texts.push(value),
            _ => {
                values.insert(spec.name, (vec![value], origin));
            }
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
