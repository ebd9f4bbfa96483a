//! What the machine tells of processes and of itself.

use std::io;

use crate::BenchError;
use crate::poll::raise_descriptor_limit;

/// Resident memory of a process, in bytes.
///
/// # Errors
/// There is no such process, or it tells nothing.
pub fn resident_bytes(pid: u32) -> Result<u64, BenchError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| io::Error::other(format!("process {pid} tells no memory")).into())
}

/// Processor time of a process's threads that run now, in nanoseconds: of those whose name is among `names`, and of all
/// others.
pub fn processor_ns(pid: u32, names: &[&str]) -> (u64, u64) {
    let (mut own, mut others) = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let ran_ns = read("schedstat").split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
        *if names.contains(&read("comm").trim()) { &mut own } else { &mut others } += ran_ns;
    }
    (own, others)
}

/// Processor time that the host of this machine has given to others since its start, over all processors; 0 where that
/// is not told.
pub fn steal_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    // The kernel counts these in hundredths of a second, whatever its own tick is.
    ticks.unwrap_or(0) * 10_000_000
}

/// Load average over one minute; 0 where that is not told.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Lets this process have so many descriptors.
///
/// # Errors
/// The system does not allow so many.
pub fn raise_descriptor_limit_for(wanted: u64) -> Result<(), BenchError> {
    let allowed = raise_descriptor_limit();
    if allowed >= wanted {
        return Ok(());
    }
    let text = format!("too many connections: this process may have {allowed} descriptors only (ulimit -Hn)");
    Err(BenchError::Options(text))
}
