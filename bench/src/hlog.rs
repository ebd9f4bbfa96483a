//! Histograms by interval in HdrHistogram's log format, version 1.3, for its plotters and processors.
//!
//! Values are nanoseconds, the column of maxima milliseconds. Intervals without a tag have the latency, those tagged
//! `service_time` the service time of the same messages.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::measure::Measured;

/// Tag of the intervals with service times.
const SERVICE_TIME: &str = "service_time";

/// Nanoseconds of the unit that maxima are written in.
const MAX_UNIT_NS: f64 = 1e6;

/// Writes the intervals of runs, one after the other.
///
/// # Errors
/// The system's.
pub fn write_file(path: &Path, runs: &[&Measured]) -> io::Result<()> {
    let mut bytes = Vec::new();
    write(&mut bytes, runs)?;
    std::fs::write(path, bytes)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn write(output: &mut impl Write, runs: &[&Measured]) -> io::Result<()> {
    let began = runs.first().map_or(SystemTime::UNIX_EPOCH, |run| run.started);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Values in nanoseconds, maxima in milliseconds; logged by fulmar bench]")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(MAX_UNIT_NS)
        .begin_log_with(output, &mut serializer)?;
    let tag = Tag::new(SERVICE_TIME).expect("it has no comma");
    for run in runs {
        let offset = run.started.duration_since(began).unwrap_or_default();
        for (n, piece) in run.outcome.pieces.iter().enumerate() {
            let from_s = n as f64 * run.interval_s;
            let from = offset + Duration::from_secs_f64(from_s);
            let length = Duration::from_secs_f64(run.interval_s.min(run.seconds - from_s).max(0.0));
            for (times, tag) in [(&piece.latency, None), (&piece.service_time, Some(tag))] {
                log.write_histogram(times.histogram(), from, length, tag)
                    .map_err(|error| io::Error::other(format!("the log of histograms: {error:?}")))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;
    use crate::floor::Floor;
    use crate::measure::measure;
    use crate::options::{FloorIo, FloorMode, FloorOptions};
    use crate::workload::Workload;

    #[test]
    fn the_intervals_of_a_log_add_up_to_the_whole() {
        let options = FloorOptions {
            rdma: None,
            mode: FloorMode::Echo,
            io: FloorIo::Blocking,
            idle: fulmar_transport::IdleStrategy::Block,
        };
        let floor = Floor::start(options, 1).unwrap();
        let text = "rate_hz = 2000\nseconds = 0.3\nwarmup_s = 0\nclient = { wait = 'block' }";
        let run = measure(&floor.target(), &Workload::from_toml(text).unwrap()).unwrap();
        let mut bytes = Vec::new();
        write(&mut bytes, &[&run, &run]).unwrap();
        let (mut sums, mut last) = ([0, 0], Duration::ZERO);
        for entry in IntervalLogIterator::new(&bytes) {
            let LogEntry::Interval(interval) = entry.unwrap() else { continue };
            let encoded = BASE64.decode(interval.encoded_histogram()).unwrap();
            let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut encoded.as_slice()).unwrap();
            sums[usize::from(interval.tag().is_some())] += histogram.len();
            last = interval.start_timestamp() + interval.duration();
        }
        let count = run.outcome.latencies.count();
        assert_eq!((sums, count), ([2 * count, 2 * count], 600));
        assert!(last > Duration::from_millis(295) && last < Duration::from_millis(305), "{last:?}");
    }
}
