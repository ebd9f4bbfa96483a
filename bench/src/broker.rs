//! The broker to measure: one that runs, or this program's own, started for the measurement.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;

use crate::BenchError;
use crate::driver::tls::Trust;
use crate::target::Target;
use crate::url::Url;

/// How long a broker may take to stop.
const PATIENCE: Duration = Duration::from_secs(20);

/// The broker to measure.
#[derive(Clone, Debug, Args)]
pub struct BrokerOptions {
    /// The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS.
    #[arg(long, default_value_t = Url::default())]
    pub url: Url,
    /// With amqps://, believe the certificates of this PEM file instead of the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// With amqps://, believe any server: no protection against one in between.
    #[arg(long, conflicts_with = "ca_file")]
    pub insecure: bool,
    /// Start a broker of this program on a free port instead, with these options of `fulmar serve`.
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub serve: Option<String>,
}

/// A broker that runs; one started by this program ends with it.
#[derive(Debug)]
pub struct Broker {
    /// Where it is.
    pub url: Url,
    child: Option<Child>,
}

impl BrokerOptions {
    /// The broker, started if asked for, with further options of `fulmar serve`.
    ///
    /// # Errors
    /// It did not start.
    pub fn start(&self, further: &[&str]) -> Result<Broker, BenchError> {
        match &self.serve {
            None => Ok(Broker { url: self.url(), child: None }),
            Some(options) => serve(options.split_whitespace().chain(further.iter().copied())),
        }
    }
}

impl BrokerOptions {
    /// The URL, with whom to believe.
    fn url(&self) -> Url {
        let mut url = self.url.clone();
        if let Some(trust) = &mut url.tls {
            if self.insecure {
                *trust = Trust::Anybody;
            } else if let Some(path) = &self.ca_file {
                *trust = Trust::File(path.clone());
            }
        }
        url
    }
}

impl Broker {
    /// As the target of a load.
    pub fn target(&self) -> Target {
        Target::Broker(self.url.clone())
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
    let mut child = Command::new(std::env::current_exe()?)
        .args(["serve", "--listen", "127.0.0.1:0", "--print-port", "--log-level", "warn"])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut port = String::new();
    // Borrowed, so that the pipe stays open for what else the broker says.
    BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut port)?;
    let mut broker = Broker { url: Url::default(), child: Some(child) };
    broker.url.port = port
        .trim()
        .parse()
        .map_err(|_| BenchError::Options("the broker of --serve did not start and tell its port".into()))?;
    Ok(broker)
}
