//! What a run leaves behind: one JSON document that reports, comparisons and regressions read.
//!
//! 1. A document is whole: the workload, the target, the host, every count, the histograms themselves.
//! 2. Times are nanoseconds, rates messages a second, sizes bytes; the unit is in the name.
//! 3. Histograms are kept in HdrHistogram's compressed V2 encoding, in base64, so that runs can be merged and any
//!    percentile read later; the percentiles that people ask for stand beside them in plain numbers.
//! 4. [`SCHEMA`] grows when a reader of the old form would misread the new one. A reader refuses what is newer than
//!    itself.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fulmar_tuning::{HostFacts, Root};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::workload::Workload;

/// Version of the form below.
pub const SCHEMA: u32 = 1;

/// Runs that belong together: of one command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    /// [`SCHEMA`] when it was written.
    pub schema: u32,
    /// The host that the load generator ran on.
    pub host: HostFacts,
    /// In the order in which they ran.
    pub runs: Vec<RunResult>,
    /// What a search for the highest rate found; its steps are the runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
}

/// The highest rate that stays under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sweep {
    /// The limit of p99.
    pub limit_p99_ns: u64,
    /// The rate; none if even the lowest one failed.
    pub highest_hz: Option<u64>,
}

/// One run of one workload against one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// What was asked for.
    pub workload: Workload,
    /// What it was asked of.
    pub target: TargetFacts,
    /// When measuring began, RFC 3339 in UTC.
    pub started_at: String,
    /// Which round of an interleaved series this is, from 0.
    pub round: u32,
    /// Length of the measured part.
    pub seconds: f64,
    /// Rate asked of all publishers together; none in a flood.
    pub offered_hz: Option<f64>,
    /// Rate reached by the publishers; of a backlog, before the first message was consumed.
    pub published_hz: f64,
    /// Rate reached by the consumers; of a backlog, after the last message was published.
    pub consumed_hz: f64,
    /// Whether the publishers kept the schedule. True in a flood.
    pub kept_schedule: bool,
    /// What became of the messages.
    pub counts: Counts,
    /// From when a message should have left to when it was received; with request and reply, to when its answer was.
    /// None without a schedule.
    pub latency: Option<Distribution>,
    /// From when a message did leave to when it was received: what a closed loop would have told.
    pub service_time: Option<Distribution>,
    /// From when a message should have left to its confirm. None without confirms or schedule.
    pub confirm_latency: Option<Distribution>,
    /// The run cut into pieces of equal length.
    pub intervals: Vec<Interval>,
    /// The most messages a second that the load generator itself can do with this workload, where it was measured.
    pub ceiling_hz: Option<f64>,
    /// How much others on the machine disturbed the load generator.
    pub disturbance: Disturbance,
}

/// What was put under load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetFacts {
    /// As a person would call it: `fulmar`, `rabbitmq`, `floor relay`.
    pub name: String,
    /// As it names itself.
    pub version: Option<String>,
    /// `amqp-0-9-1`, `amqp-0-10`, or `none` for a floor.
    pub protocol: String,
    /// `tcp` or `tls`.
    pub transport: String,
    /// Options that it was started with, or its URL without the password.
    pub options: String,
    /// `spin`, `adaptive` or `block`, where known.
    pub idle: Option<String>,
}

/// What became of the messages of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Written by the publishers.
    pub published: u64,
    /// Received by the consumers, duplicates included.
    pub consumed: u64,
    /// Confirmed by the broker.
    pub confirmed: u64,
    /// Refused or returned by the broker.
    pub refused: u64,
    /// Copies that should have been received, less those that were, less `left`.
    pub lost: u64,
    /// Copies that were still in the queues when a run with slow consumers ended.
    #[serde(default)]
    pub left: u64,
    /// Received more than once.
    pub duplicated: u64,
    /// Received after a later one of the same publisher.
    pub out_of_order: u64,
}

/// A histogram and what people read of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// HdrHistogram V2 compressed, base64. Empty in intervals.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub histogram: String,
    /// How many values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ns: f64,
    /// Half were at most this.
    pub p50_ns: u64,
    /// 90 % were at most this.
    pub p90_ns: u64,
    /// 99 % were at most this.
    pub p99_ns: u64,
    /// 99.9 % were at most this.
    pub p999_ns: u64,
    /// 99.99 % were at most this.
    pub p9999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

/// One piece of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Where it begins, from the start of measuring.
    pub from_s: f64,
    /// Its length.
    pub seconds: f64,
    /// Rate of the publishers in it.
    pub published_hz: f64,
    /// Rate of the consumers in it.
    pub consumed_hz: f64,
    /// Of the messages that were due in it.
    pub latency: Option<Distribution>,
    /// Memory of the broker's process at its end, where the harness knows the process.
    pub broker_rss_bytes: Option<u64>,
}

/// How much others on the machine disturbed the load generator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Disturbance {
    /// How long the load generator's threads stood ready to run and were not run; the longer of them.
    pub core_wait_ns: u64,
    /// One-minute load average when measuring began.
    pub load_average: f64,
    /// Processor time stolen from this machine by its host during the run, over all processors.
    pub steal_ns: u64,
}

/// Why a result cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Its file.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// It is no result.
    #[error("{0}: {1}")]
    Form(String, serde_json::Error),
    /// A later version of this program wrote it.
    #[error("{0}: a result of schema {1}, and this program knows those up to {SCHEMA}")]
    Newer(String, u32),
    /// A histogram that is none.
    #[error("a histogram that cannot be read: {0}")]
    Histogram(String),
}

impl ResultFile {
    /// Of runs on this host.
    pub fn new(runs: Vec<RunResult>) -> Self {
        ResultFile { schema: SCHEMA, host: HostFacts::read(&Root::default()), runs, sweep: None }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none, or a newer one than this program knows.
    pub fn read(path: &Path) -> Result<Self, ResultError> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ResultError::File(name(), error))?;
        let head: Head = serde_json::from_str(&text).map_err(|error| ResultError::Form(name(), error))?;
        if head.schema > SCHEMA {
            return Err(ResultError::Newer(name(), head.schema));
        }
        serde_json::from_str(&text).map_err(|error| ResultError::Form(name(), error))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ResultError> {
        let failed = |error| ResultError::File(path.display().to_string(), error);
        let mut text = serde_json::to_string_pretty(self).expect("it has no keys but text");
        text.push('\n');
        std::fs::write(path, text).map_err(failed)
    }
}

impl Distribution {
    /// Of a histogram in nanoseconds, which comes along.
    pub fn whole(histogram: &Histogram<u64>) -> Self {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(histogram, &mut bytes).expect("memory takes every histogram");
        Distribution { histogram: BASE64.encode(bytes), ..Distribution::plain(histogram) }
    }

    /// Of a histogram in nanoseconds, which stays behind.
    pub fn plain(histogram: &Histogram<u64>) -> Self {
        let at = |percentile| histogram.value_at_percentile(percentile);
        Distribution {
            histogram: String::new(),
            count: histogram.len(),
            mean_ns: histogram.mean(),
            p50_ns: at(50.0),
            p90_ns: at(90.0),
            p99_ns: at(99.0),
            p999_ns: at(99.9),
            p9999_ns: at(99.99),
            max_ns: histogram.max(),
        }
    }

    /// The histogram that came along; none if it stayed behind.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn to_histogram(&self) -> Result<Option<Histogram<u64>>, ResultError> {
        if self.histogram.is_empty() {
            return Ok(None);
        }
        let failed = |error: &dyn std::fmt::Display| ResultError::Histogram(error.to_string());
        let bytes = BASE64.decode(&self.histogram).map_err(|error| failed(&error))?;
        Deserializer::new().deserialize(&mut bytes.as_slice()).map(Some).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram() -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000_000, 3).unwrap();
        (1..=1_000).for_each(|n| histogram.record(n * 1_000).unwrap());
        histogram
    }

    #[test]
    fn a_histogram_comes_back_as_it_was() {
        let distribution = Distribution::whole(&histogram());
        let back = distribution.to_histogram().unwrap().unwrap();
        assert_eq!(back, histogram());
        assert_eq!(Distribution::whole(&back), distribution);
        assert_eq!(Distribution::plain(&histogram()).to_histogram().unwrap(), None);
        let broken = Distribution { histogram: "HISTF".into(), ..distribution };
        assert!(broken.to_histogram().is_err());
    }

    #[test]
    fn what_is_newer_is_refused_by_name() {
        let folder = std::env::temp_dir().join(format!("fulmar-bench-result-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("result.json");
        let file = ResultFile::new(Vec::new());
        file.write(&path).unwrap();
        assert_eq!(ResultFile::read(&path).unwrap(), file);
        std::fs::write(&path, format!(r#"{{"schema":{},"else":1}}"#, SCHEMA + 1)).unwrap();
        let error = ResultFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("result.json") && error.contains("schema"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
