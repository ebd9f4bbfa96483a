//! Load generators of several processes: each is this program with the whole workload and queues of its own; rates and
//! counts add up, histograms are merged.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hdrhistogram::Histogram;

use crate::BenchError;
use crate::broker::{Broker, BrokerOptions};
use crate::ceiling::Ceiling;
use crate::result::{Distribution, ResultFile, RunResult};
use crate::url::Protocol;
use crate::workload::Workload;

/// Runs a workload on its processes and adds up.
///
/// # Errors
/// A process failed.
pub fn run(workload: &Workload, options: &BrokerOptions, broker: &Broker) -> Result<RunResult, BenchError> {
    let folder = Folder::new()?;
    let file = folder.workload(workload)?;
    let start = |n: u16| {
        let out = folder.0.join(format!("{n}.json"));
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "run"]).arg(&file).args(["--ceiling", "0", "--part", "--out"]).arg(&out);
        options.reach(broker, &mut command);
        Ok((Process::start(&mut command)?, out))
    };
    let running: Vec<(Process, PathBuf)> =
        (0..workload.client.processes).map(start).collect::<Result<_, BenchError>>()?;
    let mut whole: Option<RunResult> = None;
    for (process, out) in running {
        process.end()?;
        let result = ResultFile::read(&out)?.runs.remove(0);
        whole = Some(match whole {
            None => result,
            Some(sum) => add(sum, result)?,
        });
    }
    let mut whole = whole.expect("there is one process at least");
    whole.workload = workload.clone();
    whole.offered_hz = whole.workload.rate_hz.map(|rate| rate as f64 * f64::from(workload.client.processes));
    let plain = |of: &mut Option<Distribution>| {
        if let Some(distribution) = of {
            distribution.histogram.clear();
        }
    };
    whole.intervals.iter_mut().for_each(|interval| plain(&mut interval.latency));
    Ok(whole)
}

/// The ceiling of a workload's processes together.
///
/// # Errors
/// A process failed.
pub fn ceiling(protocol: Protocol, workload: &Workload, seconds: f64) -> Result<Ceiling, BenchError> {
    let folder = Folder::new()?;
    let file = folder.workload(&Workload { seconds, ..workload.clone() })?;
    let start = |_| {
        let mut command = Command::new(std::env::current_exe()?);
        Process::start(command.args(["bench", "ceiling", "--json", "--protocol", protocol.name()]).arg(&file))
    };
    let running: Vec<Process> =
        (0..workload.client.processes).map(start).collect::<Result<_, BenchError>>()?;
    let mut sum = Ceiling::default();
    for process in running {
        let text = process.end()?;
        let one: Ceiling = serde_json::from_str(&text).map_err(|error| failed(&error.to_string()))?;
        sum.publish_hz += one.publish_hz;
        sum.consume_hz += one.consume_hz;
        sum.both_hz += one.both_hz;
        sum.publish_reached_hz += one.publish_reached_hz;
        sum.consume_reached_hz += one.consume_reached_hz;
    }
    Ok(sum)
}

fn failed(why: &str) -> BenchError {
    BenchError::Options(format!("a process of the load generator failed: {why}"))
}

/// A process of the load generator; ended with its owner.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Result<Self, BenchError> {
        Ok(Process(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?))
    }

    /// Waits for its end; returns what it printed. A schedule that was missed and messages that were lost stand in its
    /// result.
    fn end(mut self) -> Result<String, BenchError> {
        let mut text = String::new();
        let mut output = self.0.stdout.take().expect("it is piped");
        std::io::Read::read_to_string(&mut output, &mut text)?;
        let status = self.0.wait()?;
        if status.code().is_none() { Err(failed(&status.to_string())) } else { Ok(text) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }
}

/// A folder for files between the processes; removed with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, BenchError> {
        let folder = std::env::temp_dir().join(crate::plan::unique_prefix());
        std::fs::create_dir(&folder)?;
        Ok(Folder(folder))
    }

    /// Writes the workload of one process.
    fn workload(&self, workload: &Workload) -> Result<PathBuf, BenchError> {
        let mut one = workload.clone();
        one.client.processes = 1;
        let path = self.0.join("workload.json");
        std::fs::write(&path, serde_json::to_string(&one).expect("it has no keys but text"))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(Path::new(&self.0)));
    }
}

/// Two runs at the same time as one.
fn add(mut sum: RunResult, other: RunResult) -> Result<RunResult, BenchError> {
    sum.published_hz += other.published_hz;
    sum.consumed_hz += other.consumed_hz;
    sum.kept_schedule &= other.kept_schedule;
    let (counts, more) = (&mut sum.counts, other.counts);
    counts.published += more.published;
    counts.consumed += more.consumed;
    counts.confirmed += more.confirmed;
    counts.refused += more.refused;
    counts.lost += more.lost;
    counts.left += more.left;
    counts.duplicated += more.duplicated;
    counts.out_of_order += more.out_of_order;
    sum.latency = merged(sum.latency, other.latency)?;
    sum.service_time = merged(sum.service_time, other.service_time)?;
    sum.confirm_latency = merged(sum.confirm_latency, other.confirm_latency)?;
    for (interval, more) in sum.intervals.iter_mut().zip(other.intervals) {
        interval.published_hz += more.published_hz;
        interval.consumed_hz += more.consumed_hz;
        interval.latency = merged(interval.latency.take(), more.latency)?;
    }
    let (disturbance, more) = (&mut sum.disturbance, other.disturbance);
    disturbance.core_wait_ns = disturbance.core_wait_ns.max(more.core_wait_ns);
    disturbance.steal_ns = disturbance.steal_ns.max(more.steal_ns);
    Ok(sum)
}

fn merged(
    one: Option<Distribution>,
    other: Option<Distribution>,
) -> Result<Option<Distribution>, BenchError> {
    let histogram = |of: &Distribution| -> Result<Histogram<u64>, BenchError> {
        of.to_histogram()?.ok_or_else(|| failed("a distribution without its histogram"))
    };
    match (one, other) {
        (Some(one), Some(other)) => {
            let mut sum = histogram(&one)?;
            sum.add(&histogram(&other)?).map_err(|error| failed(&error.to_string()))?;
            Ok(Some(Distribution::whole(&sum)))
        }
        (one, other) => Ok(one.or(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_results::{run, workload};

    #[test]
    fn rates_and_counts_add_up_and_histograms_merge() {
        let (mut one, mut two) = (run(workload("x"), "a", 0), run(workload("x"), "a", 1));
        two.kept_schedule = false;
        for result in [&mut one, &mut two] {
            result.intervals.iter_mut().for_each(|interval| interval.latency = None);
        }
        let sum = add(one.clone(), two.clone()).unwrap();
        assert_eq!(sum.published_hz, one.published_hz + two.published_hz);
        assert_eq!(sum.counts.published, one.counts.published + two.counts.published);
        let count = |run: &RunResult| run.latency.as_ref().unwrap().count;
        assert_eq!(count(&sum), count(&one) + count(&two));
        assert_eq!(
            sum.latency.as_ref().unwrap().max_ns,
            one.latency.as_ref().unwrap().max_ns.max(two.latency.as_ref().unwrap().max_ns)
        );
        assert!(!sum.kept_schedule);
    }
}
