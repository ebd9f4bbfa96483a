//! Workloads as options: each changes one thing of a workload.

use clap::Args;

use crate::BenchError;
use crate::builtin;
use crate::load::ClientWait;
use crate::workload::{Ack, Arrival, ExchangeKind, Pattern, Size, Slow, Workload};

/// Changes to a workload.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Changes to the workload")]
pub struct Overrides {
    /// What becomes of a message.
    #[arg(long, value_enum)]
    pattern: Option<Pattern>,
    /// Publishers, one connection each.
    #[arg(long, value_name = "N")]
    publishers: Option<u32>,
    /// Consumers, one connection each.
    #[arg(long, value_name = "N")]
    consumers: Option<u32>,
    /// Queues.
    #[arg(long, value_name = "N")]
    queues: Option<u32>,
    /// Type of an exchange of the run's own.
    #[arg(long, value_enum, value_name = "TYPE")]
    exchange: Option<ExchangeKind>,
    /// Bindings of each queue.
    #[arg(long, value_name = "N")]
    bindings: Option<u32>,
    /// Pattern of the binding keys, with {queue} and {n}.
    #[arg(long, value_name = "PATTERN")]
    binding: Option<String>,
    /// Different routing keys of a publisher.
    #[arg(long, value_name = "N")]
    keys: Option<u32>,
    /// Pattern of the routing keys, with {queue} and {n}.
    #[arg(long, value_name = "PATTERN")]
    key: Option<String>,
    /// Bytes of a body: 64, a range 64-4096, or sizes with weights 64:90,4096:10.
    #[arg(long, value_name = "BYTES")]
    size: Option<Size>,
    /// Durable queues and persistent messages.
    #[arg(long)]
    persistent: bool,
    /// Publish with confirms, at most that many unconfirmed.
    #[arg(long, value_name = "WINDOW")]
    confirm: Option<u64>,
    /// Unacknowledged messages that a consumer takes; 0 for no limit.
    #[arg(long, value_name = "N")]
    prefetch: Option<u16>,
    /// `auto`: consumers need not acknowledge; a number: they acknowledge that many at a time.
    #[arg(long, value_name = "auto|N")]
    ack: Option<Ack>,
    /// Messages a second of all publishers together.
    #[arg(long, value_name = "N", conflicts_with = "flood")]
    rate: Option<u64>,
    /// As many messages as go instead of a rate.
    #[arg(long)]
    flood: bool,
    /// How the messages of a rate are spaced.
    #[arg(long, value_enum)]
    arrival: Option<Arrival>,
    /// Of everything that is drawn by chance.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Seconds to run before measuring.
    #[arg(long, value_name = "SECONDS")]
    warmup: Option<f64>,
    /// Seconds to measure.
    #[arg(long)]
    seconds: Option<f64>,
    /// Stop a publisher after so many messages.
    #[arg(long, value_name = "N")]
    messages: Option<u64>,
    /// Most messages published and not yet received; a small number makes a closed loop.
    #[arg(long, value_name = "N")]
    in_flight: Option<u64>,
    /// Consumers that work slowly.
    #[arg(long, value_name = "N", requires = "slow_rate")]
    slow_consumers: Option<u32>,
    /// Messages a second that each of them takes.
    #[arg(long, value_name = "N", requires = "slow_consumers")]
    slow_rate: Option<u64>,
    /// Further connections that do nothing.
    #[arg(long, value_name = "N")]
    idle_connections: Option<u32>,
    /// Threads of the load generator; with more than one, publishers and consumers share none.
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
    /// What the load generator does between two things to do.
    #[arg(long, value_enum)]
    client: Option<ClientWait>,
    /// Processes of the load generator, each with the whole workload on queues of its own.
    #[arg(long, value_name = "N")]
    processes: Option<u16>,
}

impl Overrides {
    /// The workload of a name or a file, with the changes.
    ///
    /// # Errors
    /// There is none, or it cannot be run with them.
    pub fn workload(&self, name: &str) -> Result<Workload, BenchError> {
        let mut workload = builtin::find(name)?;
        self.change(&mut workload);
        workload.check()?;
        Ok(workload)
    }

    fn change(&self, workload: &mut Workload) {
        set(&mut workload.pattern, self.pattern);
        set(&mut workload.publishers, self.publishers);
        set(&mut workload.consumers, self.consumers);
        set(&mut workload.queues, self.queues);
        set(&mut workload.exchange.kind, self.exchange);
        set(&mut workload.exchange.bindings, self.bindings);
        set(&mut workload.exchange.binding, self.binding.clone());
        set(&mut workload.exchange.keys, self.keys);
        set(&mut workload.exchange.key, self.key.clone());
        set(&mut workload.size, self.size.clone());
        workload.persistent |= self.persistent;
        set_some(&mut workload.confirm_window, self.confirm);
        set(&mut workload.prefetch, self.prefetch);
        set(&mut workload.ack, self.ack);
        set_some(&mut workload.rate_hz, self.rate);
        if self.flood {
            (workload.rate_hz, workload.arrival) = (None, Arrival::Constant);
        }
        set(&mut workload.arrival, self.arrival);
        set(&mut workload.seed, self.seed);
        set(&mut workload.warmup_s, self.warmup);
        set(&mut workload.seconds, self.seconds);
        set_some(&mut workload.messages, self.messages);
        set_some(&mut workload.in_flight, self.in_flight);
        let slow = self.slow_consumers.zip(self.slow_rate);
        set_some(&mut workload.slow, slow.map(|(consumers, rate_hz)| Slow { consumers, rate_hz }));
        set(&mut workload.idle_connections, self.idle_connections);
        set_some(&mut workload.client.threads, self.threads);
        set_some(&mut workload.client.wait, self.client);
        set(&mut workload.client.processes, self.processes);
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn set_some<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn overrides(text: &str) -> Overrides {
        let command = Overrides::augment_args(Command::new("test").no_binary_name(true));
        Overrides::from_arg_matches(&command.get_matches_from(text.split_whitespace())).unwrap()
    }

    #[test]
    fn without_options_nothing_changes() {
        for workload in builtin::all() {
            assert_eq!(overrides("").workload(&workload.name).unwrap(), workload);
        }
    }

    #[test]
    fn every_option_changes_the_key_that_it_names() {
        let workload = overrides(
            "--publishers 3 --consumers 4 --queues 2 --exchange topic --bindings 5 --binding b.{n} --keys 2 --key b.{n} \
             --size 64:1,128:1 --persistent --confirm 9 --prefetch 8 --ack 7 --rate 100 --arrival poisson --seed 6 \
             --warmup 0 --seconds 2 --messages 50 --in-flight 40 --slow-consumers 1 --slow-rate 3 --idle-connections 2 \
             --threads 3 --client block --processes 2",
        );
        let text = toml::to_string(&workload.workload("small-flood").unwrap()).unwrap();
        for line in [
            "publishers = 3",
            "consumers = 4",
            "queues = 2",
            "type = \"topic\"",
            "bindings = 5",
            "binding = \"b.{n}\"",
            "keys = 2",
            "persistent = true",
            "confirm_window = 9",
            "prefetch = 8",
            "ack = 7",
            "rate_hz = 100",
            "arrival = \"poisson\"",
            "seed = 6",
            "warmup_s = 0.0",
            "seconds = 2.0",
            "messages = 50",
            "in_flight = 40",
            "rate_hz = 3",
            "idle_connections = 2",
            "threads = 3",
            "wait = \"block\"",
            "processes = 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let flood = overrides("--flood --pattern request-reply").workload("poisson-10k").unwrap();
        assert_eq!((flood.rate_hz, flood.pattern), (None, Pattern::RequestReply));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(overrides("--queues 2").workload("small-flood").is_err());
        assert!(overrides("--slow-consumers 1 --slow-rate 5").workload("small-flood").is_err());
    }
}
