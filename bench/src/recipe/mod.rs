//! Brokers that can be started for a comparison.
//!
//! 1. A recipe says how to find a broker, how to start it with its own defaults on loopback with all its files in a
//!    directory of its own, and how to install it. To add a broker, add a [`Recipe`] to [`RECIPES`].
//! 2. A broker is ready when it greets a client, and is stopped by its process id.
//! 3. Nothing of a machine's own configuration of a broker is read, and nothing is left behind.

mod probe;
mod process;
mod secured;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::url::Protocol;

pub use probe::{Greeting, greeting};
pub use process::{Running, StartError};
pub use secured::Secured;

/// How to start a broker.
#[derive(Debug)]
pub struct Recipe {
    /// What to call it.
    pub name: &'static str,
    /// Where it may be: names to look for in the search path, or paths.
    pub programs: &'static [&'static str],
    /// How to get it.
    pub install: &'static str,
    /// What it is measured with.
    pub protocol: Protocol,
    /// Whether it is measured over TLS, with a certificate made for it.
    pub tls: bool,
    /// How to start it.
    pub start: Start,
}

/// The commands that start a broker.
type Commands = fn(&Place) -> Vec<Command>;

/// How a recipe's broker is started.
#[derive(Debug)]
pub enum Start {
    /// With these commands: first those that it needs, last itself. All stay in the foreground.
    Commands(Commands),
    /// Not at all: there is no driver for its protocol, which is this.
    NoDriver(&'static str),
}

/// What a broker is given.
#[derive(Clone, Debug)]
pub struct Place {
    /// The program that was found.
    pub program: PathBuf,
    /// An empty directory for all of its files.
    pub directory: PathBuf,
    /// Where clients connect to; on loopback, like the others.
    pub port: u16,
    /// Further ports, for what else the broker wants to listen on.
    pub further_ports: [u16; 2],
    /// TLS, if it is to be spoken.
    pub tls: Option<Secured>,
}

/// All brokers that are known.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "fulmar",
        // This very program.
        programs: &["/proc/self/exe"],
        install: "it is this program",
        protocol: Protocol::Amqp091,
        tls: false,
        start: Start::Commands(fulmar),
    },
    Recipe {
        name: "rabbitmq",
        // Debian's script in the search path insists on a user of its own.
        programs: &["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"],
        install: "apt-get install --no-install-recommends rabbitmq-server (and stop the service that it starts)",
        protocol: Protocol::Amqp091,
        tls: false,
        start: Start::Commands(rabbitmq),
    },
    Recipe {
        name: "lavinmq",
        programs: &["lavinmq"],
        install: "see https://lavinmq.com/documentation/installation-guide",
        protocol: Protocol::Amqp091,
        tls: false,
        start: Start::Commands(lavinmq),
    },
    Recipe {
        name: "fulmar-0-10",
        programs: &["/proc/self/exe"],
        install: "it is this program",
        protocol: Protocol::Amqp010,
        tls: false,
        start: Start::Commands(fulmar),
    },
    Recipe {
        name: "qpidd",
        programs: &["qpidd", "/usr/sbin/qpidd", "/usr/local/sbin/qpidd"],
        install: "build it from https://qpid.apache.org, and have its directory in PATH",
        protocol: Protocol::Amqp010,
        tls: false,
        start: Start::Commands(qpidd),
    },
    Recipe {
        name: "fulmar-tls",
        programs: &["/proc/self/exe"],
        install: "it is this program",
        protocol: Protocol::Amqp091,
        tls: true,
        start: Start::Commands(fulmar),
    },
    Recipe {
        name: "fulmar-0-10-tls",
        programs: &["/proc/self/exe"],
        install: "it is this program",
        protocol: Protocol::Amqp010,
        tls: true,
        start: Start::Commands(fulmar),
    },
    Recipe {
        name: "rabbitmq-tls",
        programs: &["/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"],
        install: "apt-get install --no-install-recommends rabbitmq-server (and stop the service that it starts)",
        protocol: Protocol::Amqp091,
        tls: true,
        start: Start::Commands(rabbitmq),
    },
    Recipe {
        name: "nats",
        programs: &["nats-server"],
        install: "apt-get install nats-server",
        protocol: Protocol::Amqp091,
        tls: false,
        start: Start::NoDriver("NATS"),
    },
];

/// The recipe of that name.
pub fn find(name: &str) -> Option<&'static Recipe> {
    RECIPES.iter().find(|recipe| recipe.name == name)
}

impl Recipe {
    /// Whether its broker could be started.
    ///
    /// # Errors
    /// It is not installed, or cannot be measured.
    pub fn check(&self) -> Result<(), StartError> {
        self.ready().map(drop)
    }

    /// Its program and its commands.
    fn ready(&self) -> Result<(PathBuf, Commands), StartError> {
        let (name, install) = (self.name, self.install);
        match self.start {
            Start::NoDriver(protocol) => Err(StartError::NoDriver { name, protocol }),
            Start::Commands(commands) => match installed(self.programs) {
                Some(program) => Ok((program, commands)),
                None => Err(StartError::NotInstalled { name, install }),
            },
        }
    }
}

fn fulmar(place: &Place) -> Vec<Command> {
    let mut serve = Command::new(&place.program);
    // The default, said so that the result has it.
    serve.args(["serve", "--log-level", "warn", "--idle", "adaptive"]);
    serve.arg("--listen").arg(format!("127.0.0.1:{}", place.port));
    serve.arg("--data-dir").arg(&place.directory);
    if let Some(Secured { port, certificate, key }) = &place.tls {
        serve
            .arg("--tls-port")
            .arg(port.to_string())
            .arg("--tls-cert")
            .arg(certificate)
            .arg("--tls-key")
            .arg(key);
    }
    vec![serve]
}

/// The Erlang port mapper is started beforehand, or RabbitMQ would start one that outlives it.
fn rabbitmq(place: &Place) -> Vec<Command> {
    let [distribution_port, mapper_port] = place.further_ports;
    let file = |name: &str| place.directory.join(name);
    if let Some(Secured { port, certificate, key }) = &place.tls {
        let (certificate, key) = (certificate.display(), key.display());
        let text = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {certificate}\n\
             ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\n\
             ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n"
        );
        // Where this fails nobody listens on the port.
        drop(std::fs::write(file("rabbitmq.conf"), text));
    }
    let mut mapper = Command::new("epmd");
    mapper.args(["-address", "127.0.0.1", "-port"]).arg(mapper_port.to_string());
    let mut server = Command::new(&place.program);
    server.env_clear();
    server.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
    server
        .env("LANG", "C.UTF-8")
        .env("HOME", &place.directory)
        // Makes the script give way to the broker instead of waiting for it: the process id is the broker's.
        .env("RUNNING_UNDER_SYSTEMD", "true")
        .env("RABBITMQ_NODENAME", format!("fulmar-bench-{}@localhost", place.port))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", place.port.to_string())
        .env("RABBITMQ_DIST_PORT", distribution_port.to_string())
        .env("ERL_EPMD_PORT", mapper_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
        .env("RABBITMQ_MNESIA_BASE", file("data"))
        .env("RABBITMQ_LOG_BASE", file("log"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", file("config"))
        .env("RABBITMQ_SCHEMA_DIR", file("schema"))
        .env("RABBITMQ_PID_FILE", file("pid"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins"))
        // None of these exists but for TLS, so that none of the machine's own are read.
        .env("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf"))
        .env("RABBITMQ_CONFIG_FILE", file("rabbitmq"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced"));
    vec![mapper, server]
}

fn lavinmq(place: &Place) -> Vec<Command> {
    let [management_port, mqtt_port] = place.further_ports;
    let path = place.directory.join("lavinmq.ini");
    let listen = |section: &str, port: u16| format!("[{section}]\nbind = 127.0.0.1\nport = {port}\n");
    let text = listen("amqp", place.port) + &listen("mgmt", management_port) + &listen("mqtt", mqtt_port);
    // Where this fails, the broker says that it has no configuration.
    drop(std::fs::write(&path, text));
    let mut server = Command::new(&place.program);
    server.arg("--config").arg(path).arg("--data-dir").arg(place.directory.join("data"));
    vec![server]
}

/// Its modules are left out, since other protocols come with them; but for its store, without which nothing is durable.
fn qpidd(place: &Place) -> Vec<Command> {
    let mut server = Command::new(&place.program);
    server.args(["--interface", "127.0.0.1", "--port"]).arg(place.port.to_string());
    server.args(["--auth", "no", "--no-module-dir"]);
    if let Some(store) = qpidd_store(&place.program) {
        server.arg("--load-module").arg(store);
    }
    // Neither the machine's own configuration nor this program's environment is read. An empty file is refused.
    let config = place.directory.join("qpidd.conf");
    drop(std::fs::write(&config, "# Options are on the command line.\n"));
    server.arg("--config").arg(&config).arg("--client-config").arg(&config);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QPID")) {
        server.env_remove(name);
    }
    server.arg("--data-dir").arg(place.directory.join("data"));
    server.arg("--pid-dir").arg(&place.directory);
    server.args(["--log-to-stderr", "yes", "--log-enable", "warning+"]);
    vec![server]
}

/// Where qpidd's store lies if it is installed: beside the program, or where Linux distributions put it.
fn qpidd_store(program: &Path) -> Option<PathBuf> {
    const STORE: &str = "lib/qpid/daemon/linearstore.so";
    let own = program.parent().and_then(Path::parent).map(|prefix| prefix.join(STORE));
    let places = own.into_iter().chain(["/usr", "/usr/local"].map(|prefix| Path::new(prefix).join(STORE)));
    places.into_iter().find(|place| place.is_file())
}

/// The first of the programs that is there.
fn installed(programs: &[&str]) -> Option<PathBuf> {
    let search: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let places = |program: &str| -> Vec<PathBuf> {
        if program.contains('/') {
            vec![PathBuf::from(program)]
        } else {
            search.iter().map(|directory| directory.join(program)).collect()
        }
    };
    programs.iter().flat_map(|program| places(program)).find_map(|path| executable(&path))
}

fn executable(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path).ok()?;
    // What this program runs as has a path of its own, which its children can use as well.
    let real =
        if path == Path::new("/proc/self/exe") { std::env::current_exe().ok()? } else { path.to_path_buf() };
    (found.is_file() && found.permissions().mode() & 0o111 != 0).then_some(real)
}

#[cfg(test)]
mod tests;
