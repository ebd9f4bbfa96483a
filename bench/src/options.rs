//! What can be said of a load on the command line.

use std::net::IpAddr;

use clap::Args;
use fulmar_transport::IdleStrategy;

use crate::load::ClientWait;
use crate::workload::{Ack, Client, Exchange, ExchangeKind, Size, Workload, WorkloadError};

/// The shape of a load.
#[derive(Clone, Debug, Args)]
pub struct LoadOptions {
    /// Bytes of a message's body, at least 24.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub size: usize,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Stop after so many messages of each publisher, if they are through before the time is.
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Seconds to run before measuring.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub warmup: f64,
    /// Publishers, one connection each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub publishers: u32,
    /// Consumers, one connection each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub consumers: u32,
    /// Queues; publishers and consumers are dealt out to them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub queues: u32,
    /// Threads of the load generator; with more than one, publishers and consumers share none [default: 2 for
    /// throughput, 1 for latency].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// What the load generator does between two things to do [default: block for throughput, spin for latency].
    #[arg(long, value_enum)]
    pub client: Option<ClientWait>,
    /// `auto`: consumers need not acknowledge; a number: they acknowledge that many at a time.
    #[arg(long, value_name = "auto|N", default_value = "auto")]
    pub ack: Ack,
    /// Unacknowledged messages that a consumer takes; 0 for no limit.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub prefetch: u16,
    /// Publish with confirms, at most that many unconfirmed.
    #[arg(long, value_name = "WINDOW")]
    pub confirm: Option<u64>,
    /// Publish to this exchange, to which the queues are bound by their names; empty for the default exchange.
    #[arg(long, default_value = "")]
    pub exchange: String,
    /// Durable queues and persistent messages.
    #[arg(long)]
    pub persistent: bool,
    /// Messages that may be published and not yet consumed, without confirms and schedule.
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    pub max_in_flight: u64,
}

impl LoadOptions {
    /// As a workload, at a rate or as a flood.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn workload(&self, name: &str, rate_hz: Option<u64>) -> Result<Workload, WorkloadError> {
        let exchange = match self.exchange.as_str() {
            "" => Exchange::default(),
            name => Exchange {
                kind: ExchangeKind::Direct,
                name: Some(name.into()),
                key: "{queue}".into(),
                binding: "{queue}".into(),
                ..Exchange::default()
            },
        };
        let workload = Workload {
            name: name.into(),
            publishers: self.publishers,
            consumers: self.consumers,
            queues: self.queues,
            exchange,
            size: Size::Fixed(self.size),
            persistent: self.persistent,
            confirm_window: self.confirm,
            prefetch: self.prefetch,
            ack: self.ack,
            rate_hz,
            warmup_s: self.warmup,
            seconds: self.seconds,
            messages: self.messages,
            in_flight: (rate_hz.is_none() && self.confirm.is_none()).then_some(self.max_in_flight),
            client: Client { threads: self.threads, wait: self.client, processes: 1 },
            ..Workload::default()
        };
        workload.check()?;
        Ok(workload)
    }
}

/// What the floor's server is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct FloorOptions {
    /// What the server does with what it gets.
    #[arg(long, value_enum, default_value = "relay")]
    pub mode: FloorMode,
    /// What moves the bytes.
    #[arg(long, value_enum, default_value = "uring")]
    pub io: FloorIo,
    /// What the server does between two things to do: spin, adaptive or block.
    #[arg(long, default_value_t = IdleStrategy::Adaptive)]
    pub idle: IdleStrategy,
    /// Over RDMA instead of TCP, at this address of an RDMA device, or at the first there is.
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "0.0.0.0")]
    pub rdma: Option<IpAddr>,
}

/// What the floor's server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FloorMode {
    /// Sends what one connection brings to another.
    Relay,
    /// Takes messages apart and puts deliveries together, as a broker must, but routes and keeps nothing.
    Messages,
    /// Sends back what it gets.
    Echo,
}

impl FloorMode {
    /// Its name, as options and reports use it.
    pub fn name(self) -> &'static str {
        match self {
            FloorMode::Relay => "relay",
            FloorMode::Messages => "messages",
            FloorMode::Echo => "echo",
        }
    }
}

/// What moves the floor's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FloorIo {
    /// The broker's reactor on io_uring.
    Uring,
    /// The broker's reactor on epoll.
    Epoll,
    /// Plain blocking reads and writes, a thread a connection.
    Blocking,
    /// io_uring without a reactor: one receive and one send at a time for each connection.
    RawUring,
    /// Tokio, on one thread.
    Tokio,
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    /// As given on the command line.
    pub fn options<const N: usize>(arguments: [&str; N]) -> LoadOptions {
        let command = LoadOptions::augment_args(Command::new("test").no_binary_name(true));
        LoadOptions::from_arg_matches(&command.get_matches_from(arguments)).unwrap()
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let check = |options: LoadOptions| options.workload("test", None);
        assert!(check(options([])).is_ok());
        assert!(check(options(["--ack", "5", "--prefetch", "5"])).is_ok());
        for wrong in [
            ["--size", "23", "--queues", "1"],
            ["--seconds", "0", "--queues", "1"],
            ["--queues", "2", "--publishers", "2"],
            ["--ack", "6", "--prefetch", "5"],
        ] {
            assert!(check(options(wrong)).is_err(), "{wrong:?}");
        }
        let confirms = options(["--confirm", "5"]).workload("test", None).unwrap();
        assert!(crate::driver::pairs::check(&confirms).is_err());
    }
}
