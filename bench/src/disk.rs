//! `fulmar bench disk`: what a disk can do without a broker, the floor beneath durable messages.
//!
//! 1. Every write is flushed before the next one: what is measured is what a publisher waits for.
//! 2. The file is written once beforehand where its name says so, so that a flush has no new blocks to note.
//! 3. Nothing is left behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use fulmar_transport::AlignedBuf;
use serde::Serialize;

use crate::BenchError;
use crate::histogram::Latencies;
use crate::report::grouped;

/// What a file is cut to before it starts over, in bytes.
const FILE_BYTES: u64 = 512 << 20;
/// Written at once when a file is prepared, in bytes.
const PREPARED_BYTES: usize = 1 << 20;

/// What `fulmar bench disk` takes.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// Directory on the disk in question; a file is made there, and removed.
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Bytes of a write; several are measured one after the other. Multiples of 4096.
    #[arg(long, value_delimiter = ',', default_value = "4096,65536,1048576", value_parser = blocks, value_name = "BYTES")]
    size: Vec<usize>,
    /// Seconds for each line.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

/// How writes get to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Appended through the page cache, then `fdatasync`.
    Append,
    /// Over written blocks, past the page cache, then `fdatasync`.
    Direct,
    /// The same by `O_DSYNC`, in one call.
    DirectSync,
    /// Read past the page cache.
    Read,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Line {
    way: Way,
    bytes: usize,
    count: u64,
    p50_ns: u64,
    p99_ns: u64,
    bytes_per_s: f64,
}

/// Measures and prints.
///
/// # Errors
/// The directory cannot be written to.
pub fn run(args: &DiskArgs, json: bool) -> Result<ExitCode, BenchError> {
    if !json {
        println!("{:<34}{:>10}{:>10}{:>12}{:>12}{:>12}", "", "bytes", "count", "p50 µs", "p99 µs", "MB/s");
    }
    for way in [Way::Append, Way::Direct, Way::DirectSync, Way::Read] {
        for &bytes in &args.size {
            match measure(args, way, bytes) {
                Ok(line) if json => println!("{}", serde_json::to_string(&line).expect("plain figures")),
                Ok(line) => print(&line),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && way != Way::Append => {
                    eprintln!("fulmar bench: {} does not take O_DIRECT, left out", args.dir.display());
                    return Ok(ExitCode::SUCCESS);
                }
                Err(error) => return Err(named(args, error).into()),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print(line: &Line) {
    let name = match line.way {
        Way::Append => "append, fdatasync",
        Way::Direct => "written blocks, direct, fdatasync",
        Way::DirectSync => "written blocks, direct, O_DSYNC",
        Way::Read => "read, direct",
    };
    let micros = |ns: u64| grouped(ns as f64 / 1e3, 1);
    println!(
        "{name:<34}{:>10}{:>10}{:>12}{:>12}{:>12}",
        line.bytes,
        line.count,
        micros(line.p50_ns),
        micros(line.p99_ns),
        grouped(line.bytes_per_s / 1e6, 1)
    );
}

fn measure(args: &DiskArgs, way: Way, bytes: usize) -> io::Result<Line> {
    let file = Temporary::new(args, way)?;
    if way != Way::Append {
        file.prepare(bytes)?;
    }
    let (mut block, mut latencies) = (AlignedBuf::with_capacity(bytes), Latencies::touched());
    block.resize(bytes);
    block.fill(0x5a);
    let (begin, limit) = (Instant::now(), Duration::from_secs_f64(args.seconds));
    let (mut offset, mut count) = (0, 0);
    while count == 0 || begin.elapsed() < limit {
        if offset + bytes as u64 > file_bytes(bytes) {
            offset = 0;
            if way == Way::Append {
                file.file.set_len(0)?;
            }
        }
        let started = Instant::now();
        match way {
            Way::Read => file.file.read_exact_at(&mut block, offset)?,
            _ => file.file.write_all_at(&block, offset)?,
        }
        if matches!(way, Way::Append | Way::Direct) {
            file.file.sync_data()?;
        }
        latencies.record(started.elapsed().as_nanos() as u64);
        (offset, count) = (offset + bytes as u64, count + 1);
    }
    let bytes_per_s = count as f64 * bytes as f64 / begin.elapsed().as_secs_f64();
    let found = latencies.distribution().ok_or_else(|| io::Error::other("nothing was written"))?;
    Ok(Line { way, bytes, count, p50_ns: found.p50_ns, p99_ns: found.p99_ns, bytes_per_s })
}

fn named(args: &DiskArgs, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", args.dir.display()))
}

/// A multiple of what direct writes want.
fn blocks(text: &str) -> Result<usize, String> {
    let bytes: usize = text.parse().map_err(|error| format!("{error}"))?;
    match bytes {
        0 => Err("at least 4096".into()),
        _ if !bytes.is_multiple_of(AlignedBuf::ALIGNMENT) => {
            Err(format!("not a multiple of {}", AlignedBuf::ALIGNMENT))
        }
        _ if bytes as u64 > FILE_BYTES => Err(format!("more than {FILE_BYTES}")),
        _ => Ok(bytes),
    }
}

/// Small writes do not get far in a few seconds.
fn file_bytes(bytes: usize) -> u64 {
    if bytes < PREPARED_BYTES { FILE_BYTES / 4 } else { FILE_BYTES }
}

/// A file that goes when it is dropped.
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Temporary {
    fn new(args: &DiskArgs, way: Way) -> io::Result<Self> {
        let path = args.dir.join(format!(".fulmar-bench-{}", std::process::id()));
        let flags = match way {
            Way::Append => 0,
            Way::Direct | Way::Read => libc::O_DIRECT,
            Way::DirectSync => libc::O_DIRECT | libc::O_DSYNC,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags);
        Ok(Temporary { file: options.open(&path)?, path })
    }

    /// Writes all that will be written over, or read, once.
    fn prepare(&self, bytes: usize) -> io::Result<()> {
        let mut block = AlignedBuf::with_capacity(PREPARED_BYTES);
        block.resize(PREPARED_BYTES);
        let whole = file_bytes(bytes);
        for offset in (0..whole).step_by(PREPARED_BYTES) {
            self.file.write_all_at(&block, offset)?;
        }
        self.file.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_is_measured_and_nothing_stays() {
        let directory = tempfile::tempdir().unwrap();
        let args = DiskArgs { dir: directory.path().into(), size: vec![8192], seconds: 0.0 };
        for way in [Way::Append, Way::Direct, Way::DirectSync, Way::Read] {
            match measure(&args, way, 8192) {
                Ok(line) => assert!(line.count > 0 && line.p50_ns > 0, "{line:?}"),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{way:?}: {error}"),
            }
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn sizes_are_whole_blocks() {
        assert_eq!(blocks("4096"), Ok(4096));
        assert!(blocks("100").unwrap_err().contains("4096"));
        assert!(blocks("0").is_err() && blocks("x").is_err());
    }
}
