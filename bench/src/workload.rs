//! Workloads as data: what is sent, by how many, how fast, for how long.
//!
//! 1. A workload says nothing of whom it is sent to; the same one runs against every target.
//! 2. It reads from TOML and JSON and is written into every result. Left out keys have the defaults of
//!    [`Workload::default`]; a key that is not known is refused, and every error names its key.
//! 3. [`Workload::check`] refuses what cannot be run, before anything is opened.

mod size;

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::load::ClientWait;
use crate::stamp::STAMP_BYTES;

pub use size::{Size, Weighted};

/// A workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workload {
    /// What to call it; of a file without one, the file's name.
    pub name: String,
    /// The question that it answers.
    pub description: String,
    /// What becomes of a message.
    pub pattern: Pattern,
    /// Publishers, one connection each; with `request-reply` the requesters.
    pub publishers: u32,
    /// Consumers, one connection each, dealt out to the queues; with `request-reply` the responders.
    pub consumers: u32,
    /// Queues. Publishers are dealt out to them; an exchange may copy a message into several.
    pub queues: u32,
    /// How messages get to the queues.
    pub exchange: Exchange,
    /// Bytes of a body.
    pub size: Size,
    /// Durable queues and persistent messages.
    pub persistent: bool,
    /// Publish with confirms; each publisher has at most so many unconfirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_window: Option<u64>,
    /// Messages that the broker may send a consumer ahead of its acknowledgements; 0 for no limit.
    pub prefetch: u16,
    /// How consumers acknowledge.
    pub ack: Ack,
    /// Messages a second of all publishers together. None: a flood, as many as go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_hz: Option<u64>,
    /// How the messages of a rate are spaced.
    pub arrival: Arrival,
    /// Of everything that is drawn by chance.
    pub seed: u64,
    /// Runs so long before measuring begins.
    pub warmup_s: f64,
    /// Length of the measured part. A `backlog-drain` ends when all is drained.
    pub seconds: f64,
    /// Ends a publisher after so many messages. With `backlog-drain`: the backlog of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// Most messages published and not yet received, over all: a closed loop, if it is small. None: no limit at a
    /// rate or with confirms, 50,000 in a flood without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    /// Some consumers work slowly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<Slow>,
    /// Further connections that do nothing.
    pub idle_connections: u32,
    /// How the load generator itself runs.
    pub client: Client,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// It goes through a queue to a consumer.
    #[default]
    Stream,
    /// A responder answers it, and its publisher receives the answer: latency is that of the round trip.
    RequestReply,
    /// All are published before the first is consumed: two rates.
    BacklogDrain,
}

/// How messages get to the queues. In patterns `{queue}` stands for the number of a queue, from 0, and `{n}` for a
/// number that counts up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Exchange {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: ExchangeKind,
    /// One that exists, of this type; none for an own one that ends with the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Pattern of a publisher's routing keys; `{queue}` is the queue that it is dealt to.
    pub key: String,
    /// Different routing keys that a publisher uses in turn: `{n}` counts up to it.
    pub keys: u32,
    /// Pattern of the binding keys of a queue.
    pub binding: String,
    /// Bindings of each queue: `{n}` counts up to it.
    pub bindings: u32,
}

/// Types of exchanges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// The default exchange: to a queue by its name.
    #[default]
    Default,
    /// By equal keys.
    Direct,
    /// To every queue.
    Fanout,
    /// By patterns of words.
    Topic,
    /// By a header `key`, equal to the binding's.
    Headers,
}

/// How consumers acknowledge: `"auto"` or how many at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// The broker takes a message as acknowledged when it is sent.
    #[default]
    Auto,
    /// So many at a time.
    Batch(u64),
}

/// How the messages of a rate are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// Evenly.
    #[default]
    Constant,
    /// As independent events are: exponentially distributed pauses.
    Poisson,
}

/// Consumers that work slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// How many of the consumers, from the first on.
    pub consumers: u32,
    /// Messages a second that each of them takes.
    pub rate_hz: u64,
}

/// How the load generator itself runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// Threads of one process; with more than one, publishers and consumers do not share any. None: 2 in a flood, 1 at
    /// a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u16>,
    /// What a thread does between two things to do. None: `block` in a flood, `spin` at a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<ClientWait>,
    /// Processes, each with the whole workload on queues of its own; their figures add up.
    pub processes: u16,
}

/// What is wrong with a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// It could not be read.
    #[error("{0}")]
    Read(String),
    /// A value that cannot be run, or two that do not go together.
    #[error("{key}: {problem}")]
    Value {
        /// Which.
        key: &'static str,
        /// Why.
        problem: String,
    },
}

impl Default for Workload {
    fn default() -> Self {
        Workload {
            name: String::new(),
            description: String::new(),
            pattern: Pattern::default(),
            publishers: 1,
            consumers: 1,
            queues: 1,
            exchange: Exchange::default(),
            size: Size::Fixed(64),
            persistent: false,
            confirm_window: None,
            prefetch: 0,
            ack: Ack::default(),
            rate_hz: None,
            arrival: Arrival::default(),
            seed: 1,
            warmup_s: 1.0,
            seconds: 10.0,
            messages: None,
            in_flight: None,
            slow: None,
            idle_connections: 0,
            client: Client::default(),
        }
    }
}

impl Default for Exchange {
    fn default() -> Self {
        let same = "{queue}.{n}";
        Exchange {
            kind: ExchangeKind::default(),
            name: None,
            key: same.into(),
            keys: 1,
            binding: same.into(),
            bindings: 1,
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Client { threads: None, wait: None, processes: 1 }
    }
}

impl Workload {
    /// From TOML.
    ///
    /// # Errors
    /// It is no workload, or one that cannot be run; with the key and the line.
    pub fn from_toml(text: &str) -> Result<Self, WorkloadError> {
        let toml = toml::Deserializer::parse(text).map_err(|error| WorkloadError::Read(error.to_string()))?;
        Workload::from_any(toml)
    }

    /// From JSON.
    ///
    /// # Errors
    /// It is no workload, or one that cannot be run; with the key and the line.
    pub fn from_json(text: &str) -> Result<Self, WorkloadError> {
        Workload::from_any(&mut serde_json::Deserializer::from_str(text))
    }

    /// From a file, JSON if its name says so and TOML otherwise.
    ///
    /// # Errors
    /// It cannot be read, or as above.
    pub fn from_file(path: &Path) -> Result<Self, WorkloadError> {
        let in_file =
            |error: &dyn std::fmt::Display| WorkloadError::Read(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| in_file(&error))?;
        let json = path.extension().is_some_and(|extension| extension == "json");
        let read = if json { Workload::from_json(&text) } else { Workload::from_toml(&text) };
        let mut workload = read.map_err(|error| in_file(&error))?;
        if workload.name.is_empty() {
            workload.name = path.file_stem().unwrap_or_default().to_string_lossy().into();
        }
        Ok(workload)
    }

    fn from_any<'de, D: Deserializer<'de>>(source: D) -> Result<Self, WorkloadError>
    where
        D::Error: std::fmt::Display,
    {
        let workload: Workload = serde_path_to_error::deserialize(source)
            .map_err(|error| WorkloadError::Read(format!("{}: {}", error.path(), error.inner())))?;
        workload.check()?;
        Ok(workload)
    }

    /// Refuses what cannot be run.
    ///
    /// # Errors
    /// Which key is wrong, and why.
    pub fn check(&self) -> Result<(), WorkloadError> {
        self.check_numbers()?;
        self.check_consumers()?;
        self.check_rate()?;
        self.check_pattern()?;
        self.size.check()
    }

    fn check_numbers(&self) -> Result<(), WorkloadError> {
        for (key, value) in
            [("publishers", self.publishers), ("consumers", self.consumers), ("queues", self.queues)]
        {
            wrong_unless((1..=65_535).contains(&value), key, "between 1 and 65,535")?;
        }
        wrong_unless(self.exchange.keys > 0, "exchange.keys", "at least 1")?;
        wrong_unless(self.exchange.bindings > 0, "exchange.bindings", "at least 1")?;
        wrong_unless(self.confirm_window != Some(0), "confirm_window", "at least 1, or left out")?;
        wrong_unless(self.in_flight != Some(0), "in_flight", "at least 1, or left out")?;
        wrong_unless(self.client.threads != Some(0), "client.threads", "at least 1")?;
        let processes = 1..=64;
        wrong_unless(processes.contains(&self.client.processes), "client.processes", "between 1 and 64")?;
        let day_s = 86_400.0;
        wrong_unless(self.seconds > 0.0 && self.seconds <= day_s, "seconds", "above 0, at most a day")?;
        wrong_unless((0.0..=day_s).contains(&self.warmup_s), "warmup_s", "at least 0, at most a day")
    }

    fn check_consumers(&self) -> Result<(), WorkloadError> {
        let text = "as many as queues at least, or some queue has nobody";
        wrong_unless(self.consumers >= self.queues, "consumers", text)?;
        if self.exchange.kind == ExchangeKind::Default {
            let text = "as many as queues at least, or some queue gets nothing";
            wrong_unless(self.publishers >= self.queues, "publishers", text)?;
        }
        if let (Ack::Batch(every), prefetch @ 1..) = (self.ack, self.prefetch) {
            let text = "more than `prefetch`: consumers would wait for messages that may not come";
            wrong_unless(every <= u64::from(prefetch), "ack", text)?;
        }
        if let Some(slow) = self.slow {
            wrong_unless(slow.consumers <= self.consumers, "slow.consumers", "more than `consumers`")?;
            wrong_unless(slow.rate_hz > 0, "slow.rate_hz", "at least 1")?;
            let text = "a number with `slow`, or the broker sends everything at once";
            wrong_unless(self.ack != Ack::Auto && self.prefetch > 0, "ack and prefetch", text)?;
        }
        Ok(())
    }

    fn check_rate(&self) -> Result<(), WorkloadError> {
        let Some(rate_hz) = self.rate_hz else {
            return wrong_unless(self.arrival == Arrival::Constant, "arrival", "poisson needs `rate_hz`");
        };
        let text = "at least 1 message a second of each publisher, at most 1,000,000,000 in all";
        wrong_unless((u64::from(self.publishers)..=1_000_000_000).contains(&rate_hz), "rate_hz", text)
    }

    fn check_pattern(&self) -> Result<(), WorkloadError> {
        match self.pattern {
            Pattern::Stream => Ok(()),
            Pattern::RequestReply => {
                let simple = self.exchange.kind == ExchangeKind::Default && self.slow.is_none();
                wrong_unless(simple, "pattern", "request-reply goes without `exchange` and `slow`")
            }
            Pattern::BacklogDrain => {
                wrong_unless(self.messages.is_some(), "messages", "backlog-drain needs it: the backlog")?;
                let text = "backlog-drain has none: it publishes as fast as it can";
                wrong_unless(self.rate_hz.is_none(), "rate_hz", text)?;
                let text = "backlog-drain has no limit but `messages`";
                wrong_unless(self.in_flight.is_none(), "in_flight", text)
            }
        }
    }

    /// Threads of a process of the load generator.
    pub fn threads(&self) -> usize {
        self.client.threads.map_or(if self.rate_hz.is_some() { 1 } else { 2 }, usize::from)
    }

    /// What its threads do between two things to do.
    pub fn wait(&self) -> ClientWait {
        let usual = if self.rate_hz.is_some() { ClientWait::Spin } else { ClientWait::Block };
        self.client.wait.unwrap_or(usual)
    }
}

fn wrong_unless(holds: bool, key: &'static str, problem: &str) -> Result<(), WorkloadError> {
    if holds { Ok(()) } else { Err(WorkloadError::Value { key, problem: problem.into() }) }
}

impl Ack {
    /// How many at a time, if consumers acknowledge.
    pub fn batch(self) -> Option<u64> {
        match self {
            Ack::Auto => None,
            Ack::Batch(every) => Some(every),
        }
    }
}

impl FromStr for Ack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Ack::Auto),
            Ok(every @ 1..) => Ok(Ack::Batch(every)),
            _ => Err(format!("{text:?} is neither 'auto' nor a number above 0")),
        }
    }
}

impl Serialize for Ack {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Ack::Auto => serializer.serialize_str("auto"),
            Ack::Batch(every) => serializer.serialize_u64(*every),
        }
    }
}

impl<'de> Deserialize<'de> for Ack {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ack;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a number above 0")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ack, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, every: u64) -> Result<Ack, E> {
                every.to_string().parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, every: i64) -> Result<Ack, E> {
                every.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Bytes that a body has at least.
pub const LEAST_SIZE: usize = STAMP_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(Workload::from_toml("").unwrap(), Workload::default());
        let workload = Workload::from_toml("name = 'x'\nrate_hz = 5\n[exchange]\ntype = 'topic'").unwrap();
        assert_eq!((workload.name.as_str(), workload.rate_hz), ("x", Some(5)));
        assert_eq!((workload.exchange.kind, workload.exchange.bindings), (ExchangeKind::Topic, 1));
    }

    #[test]
    fn comes_back_from_both_forms_as_it_was() {
        let workload = Workload {
            name: "all".into(),
            description: "two\nlines".into(),
            size: Size::Weighted(vec![
                Weighted { size: 64, weight: 0.9 },
                Weighted { size: 4_096, weight: 0.1 },
            ]),
            confirm_window: Some(100),
            ack: Ack::Batch(10),
            prefetch: 100,
            rate_hz: Some(1_000),
            arrival: Arrival::Poisson,
            slow: Some(Slow { consumers: 1, rate_hz: 10 }),
            client: Client { threads: Some(2), wait: Some(ClientWait::Block), processes: 2 },
            ..Workload::default()
        };
        assert_eq!(Workload::from_toml(&toml::to_string(&workload).unwrap()).unwrap(), workload);
        assert_eq!(Workload::from_json(&serde_json::to_string(&workload).unwrap()).unwrap(), workload);
    }

    #[test]
    fn errors_name_the_key() {
        for (text, wanted) in [
            ("colour = 1", "colour"),
            ("[exchange]\nkind = 'topic'", "exchange.kind"),
            ("[client]\nthreads = 'many'", "client.threads"),
            ("size = 'large'", "size"),
            ("size = 1", "size"),
            ("size = { min = 64, maximum = 65 }", "maximum"),
            ("size = [{ size = 64, weight = -1 }]", "size"),
            ("ack = 0", "ack"),
            ("ack = 6\nprefetch = 5", "ack"),
            ("publishers = -1", "publishers"),
            ("queues = 2", "consumers"),
            ("rate_hz = 0", "rate_hz"),
            ("seconds = 0", "seconds"),
            ("arrival = 'poisson'", "arrival"),
            ("pattern = 'backlog-drain'", "messages"),
            ("slow = { consumers = 2, rate_hz = 1 }", "slow.consumers"),
            ("slow = { consumers = 1, rate_hz = 1 }", "ack"),
        ] {
            let error = Workload::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let error = Workload::from_json(r#"{"client":{"threads":"many"}}"#).unwrap_err().to_string();
        assert!(error.contains("client.threads") && error.contains("line 1"), "{error}");
        let error = Workload::from_json(r#"{"colour":1}"#).unwrap_err().to_string();
        assert!(error.contains("colour"), "{error}");
    }

    #[test]
    fn acknowledgement_is_auto_or_a_number() {
        assert_eq!("auto".parse(), Ok(Ack::Auto));
        assert_eq!("100".parse(), Ok(Ack::Batch(100)));
        assert!("0".parse::<Ack>().is_err());
        assert!("all".parse::<Ack>().is_err());
    }
}
