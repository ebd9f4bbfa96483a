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
