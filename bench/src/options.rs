//! What can be said of a load on the command line.

use clap::Args;
use fulmar_transport::IdleStrategy;

use crate::BenchError;
use crate::load::ClientWait;
use crate::wire::STAMP_BYTES;
use crate::workload::Ack;

/// The shape of a load.
#[derive(Clone, Debug, Args)]
pub struct LoadOptions {
    /// Bytes of a message's body, at least 16.
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
    pub publishers: usize,
    /// Consumers, one connection each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub consumers: usize,
    /// Queues; publishers and consumers are dealt out to them.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub queues: usize,
    /// Threads of the load generator: 1, or 2 with the consumers on the second [default: 2 for throughput, 1 for
    /// latency].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub threads: Option<u8>,
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
    /// Refuses what cannot be run.
    ///
    /// # Errors
    /// Which option is wrong.
    pub fn check(&self) -> Result<(), BenchError> {
        let wrong = |text: &str| Err(BenchError::Options(text.into()));
        if self.size < STAMP_BYTES {
            return wrong("--size: a body has at least 16 bytes, for the time and number that it carries");
        }
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0 && (0.0..=86_400.0).contains(&self.warmup)) {
            return wrong("--seconds and --warmup: between 0 and a day");
        }
        if self.publishers == 0 || self.publishers > 65_536 || self.consumers == 0 || self.queues == 0 {
            return wrong(
                "--publishers, --consumers and --queues: at least 1 each, at most 65536 publishers",
            );
        }
        if self.consumers < self.queues || self.publishers < self.queues {
            return wrong("--queues: no more than publishers and consumers");
        }
        if self.confirm == Some(0) || self.max_in_flight == 0 {
            return wrong("--confirm and --max-in-flight: at least 1");
        }
        if let (Ack::Batch(every), 1..) = (self.ack, self.prefetch)
            && every > u64::from(self.prefetch)
        {
            return wrong("--ack: consumers would wait for more messages than --prefetch lets them have");
        }
        Ok(())
    }

    /// Refuses what needs a broker.
    ///
    /// # Errors
    /// Which option is wrong.
    pub fn check_pairs(&self) -> Result<(), BenchError> {
        let plain = self.confirm.is_none() && self.ack == Ack::Auto;
        if plain && self.publishers == self.consumers && self.publishers == self.queues {
            Ok(())
        } else {
            Err(BenchError::Options(
                "the floor knows neither confirms nor acknowledgements, and as many publishers as consumers and queues"
                    .into(),
            ))
        }
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
    /// Plain blocking reads and writes.
    Blocking,
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
        assert!(options([]).check().is_ok());
        assert!(options(["--ack", "5", "--prefetch", "5"]).check().is_ok());
        for wrong in [
            ["--size", "15", "--queues", "1"],
            ["--seconds", "0", "--queues", "1"],
            ["--queues", "2", "--publishers", "2"],
            ["--ack", "6", "--prefetch", "5"],
        ] {
            assert!(options(wrong).check().is_err(), "{wrong:?}");
        }
        assert!(options(["--confirm", "5"]).check_pairs().is_err());
    }
}
