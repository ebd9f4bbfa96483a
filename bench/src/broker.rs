//! The broker to measure: one that runs, or this program's own, started for the measurement.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use fulmar_tls::{ClientOptions, Trust};

use crate::BenchError;
use crate::driver::amqp::Session;
use crate::driver::amqp_0_10;
use crate::result::TargetFacts;
use crate::target::Target;
use crate::url::{Protocol, Url};

/// Environment variable with the URL of the broker to measure: keeps a password off the command line.
const URL_VARIABLE: &str = "FULMAR_BENCH_URL";

/// How long a broker may take to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// The broker to measure.
#[derive(Clone, Debug, Args)]
pub struct BrokerOptions {
    /// The broker: amqp://user:password@host:port/vhost, amqp0-10:// for AMQP 0-10; amqps:// and amqps0-10:// for TLS, rdma://
    /// and rdma0-10:// for RDMA.
    #[arg(long, env = URL_VARIABLE, hide_env_values = true, default_value_t = Url::default())]
    pub url: Url,
    /// With amqps://, believe the certificates of this PEM file instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// With amqps://, believe any server: no protection against one in between.
    #[arg(long, conflicts_with = "ca_file")]
    pub insecure: bool,
    /// With amqps://, show the certificate of this PEM file.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its key, if that is not in the same file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub cert_key: Option<PathBuf>,
    /// Start a broker of this program on a free port instead, with these options of `fulmar serve`. Of --url only the
    /// protocol counts then.
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub serve: Option<String>,
}

/// A broker that runs; one started by this program ends with it.
#[derive(Debug)]
pub struct Broker {
    /// Where it is.
    pub url: Url,
    child: Option<Child>,
    options: Option<String>,
    // Goes after the broker has.
    _data: Option<tempfile::TempDir>,
}

impl BrokerOptions {
    /// The broker, started if asked for, with further options of `fulmar serve`.
    ///
    /// # Errors
    /// It did not start.
    pub fn start(&self, further: &[&str]) -> Result<Broker, BenchError> {
        match &self.serve {
            None => Ok(Broker { url: self.url(), child: None, options: None, _data: None }),
            Some(options) => {
                let mut broker = serve(options.split_whitespace().chain(further.iter().copied()))?;
                broker.url.protocol = self.url.protocol;
                Ok(broker)
            }
        }
    }
}

impl BrokerOptions {
    /// Whether the broker is reached over TLS.
    pub fn uses_tls(&self) -> bool {
        self.serve.is_none() && self.url.tls.is_some()
    }

    /// Lets another process of this program reach a broker that these options started or named.
    pub fn reach(&self, broker: &Broker, command: &mut Command) {
        command.env(URL_VARIABLE, broker.url.with_password());
        if self.insecure {
            command.arg("--insecure");
        } else if let Some(path) = &self.ca_file {
            command.arg("--ca-file").arg(path);
        }
        for (name, path) in [("--cert", &self.cert), ("--cert-key", &self.cert_key)] {
            if let Some(path) = path {
                command.arg(name).arg(path);
            }
        }
    }

    /// Refuses a protocol that a measurement does not know.
    ///
    /// # Errors
    /// It is another than AMQP 0-9-1.
    pub fn require_amqp_0_9_1(&self) -> Result<(), BenchError> {
        match self.url.protocol {
            Protocol::Amqp091 => Ok(()),
            Protocol::Amqp010 => Err(BenchError::Options("this measurement speaks AMQP 0-9-1 alone".into())),
        }
    }

    /// The URL, with whom to believe.
    fn url(&self) -> Url {
        let mut url = self.url.clone();
        if let Some(tls) = &mut url.tls {
            let trust = match &self.ca_file {
                _ if self.insecure => Trust::Anybody,
                Some(path) => Trust::File(path.clone()),
                None => Trust::System,
            };
            **tls = ClientOptions {
                trust,
                certificate: self.cert.clone(),
                key: self.cert_key.clone(),
                ..ClientOptions::clone(tls)
            };
        }
        url
    }
}

impl Broker {
    /// As the target of a load.
    pub fn target(&self) -> Target {
        Target::Broker(self.url.clone())
    }

    /// What it is: as it names itself, and how it was started or is reached.
    ///
    /// # Errors
    /// It does not answer.
    pub fn facts(&self) -> Result<TargetFacts, BenchError> {
        let named = |(product, version): (Option<&str>, Option<&str>)| {
            (product.map(str::to_lowercase), version.map(str::to_owned))
        };
        let (product, version) = match self.url.protocol {
            Protocol::Amqp091 => named(Session::open(&self.url)?.server()),
            Protocol::Amqp010 => named(amqp_0_10::Session::open(&self.url)?.server()),
        };
        let mut facts = self.target().facts();
        if let Some(product) = product {
            facts.name = product;
        }
        facts.version = version;
        if let Some(options) = &self.options {
            let mut words = options.split([' ', '=']).skip_while(|word| *word != "--idle");
            facts.idle = words.nth(1).map(Into::into);
            facts.options = format!("serve {options}").trim_end().into();
        }
        Ok(facts)
    }

    /// Process id, if this program started it.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // SAFETY: takes plain numbers; the process is this one's child and not yet waited for.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        let asked = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if asked.elapsed() > PATIENCE {
                eprintln!("fulmar bench: the broker does not stop, and is killed");
                drop(child.kill());
                drop(child.wait());
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn serve<'a>(options: impl Iterator<Item = &'a str>) -> Result<Broker, BenchError> {
    let options: Vec<&str> = options.collect();
    let mut serve = Command::new(std::env::current_exe()?);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--print-port", "--log-level", "warn"]);
    // Messages of a measurement do not belong among a user's own.
    let data = match options.iter().any(|option| option.contains("data-dir")) {
        true => None,
        false => Some(tempfile::tempdir()?),
    };
    if let Some(data) = &data {
        serve.arg("--data-dir").arg(data.path());
    }
    let mut child = serve.args(&options).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut port = String::new();
    // Borrowed, so that the pipe stays open for what else the broker says.
    BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut port)?;
    let mut broker =
        Broker { url: Url::default(), child: Some(child), options: Some(options.join(" ")), _data: data };
    broker.url.port = port
        .trim()
        .parse()
        .map_err(|_| BenchError::Options("the broker of --serve did not start and tell its port".into()))?;
    Ok(broker)
}
