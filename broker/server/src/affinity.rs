//! Which CPUs this process may use, and pinning threads to them.

use std::io;
use std::str::FromStr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where shards run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Each on a CPU of its own, as far as there are enough; otherwise not pinned.
    #[default]
    Auto,
    /// Wherever the kernel likes.
    None,
    /// On these CPUs in turn.
    Cpus(Vec<usize>),
}

impl FromStr for Affinity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Affinity::Auto),
            "none" => return Ok(Affinity::None),
            _ => {}
        }
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
                (Ok(first), Ok(last)) if first <= last && last < MAX_CPUS => cpus.extend(first..=last),
                _ => {
                    return Err(format!(
                        "'{part}' is not a CPU or a range of CPUs; auto, none, or for example 2,4-7"
                    ));
                }
            }
        }
        Ok(Affinity::Cpus(cpus))
    }
}

const MAX_CPUS: usize = CpuSet::MAX_CPU;

/// How many shards there are unless told otherwise: one for each CPU that this process may use (affinity and cgroup
/// limits counted), less one that is left to the rest of the machine.
pub fn default_shards() -> usize {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() - 1).clamp(1, 64)
}

/// The CPU of each shard; `None` where it is not pinned.
///
/// # Errors
/// A CPU was asked for that this process may not use.
pub fn assign(affinity: &Affinity, shards: usize) -> Result<Vec<Option<usize>>, String> {
    let allowed = allowed_cpus();
    Ok(match affinity {
        Affinity::None => vec![None; shards],
        // CPU 0 tends to serve interrupts, so the last ones are taken.
        Affinity::Auto if allowed.len() > shards => {
            allowed[allowed.len() - shards..].iter().copied().map(Some).collect()
        }
        Affinity::Auto => vec![None; shards],
        Affinity::Cpus(cpus) => {
            if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                return Err(format!("CPU {cpu} is not among those that this process may use: {allowed:?}"));
            }
            cpus.iter().cycle().take(shards).copied().map(Some).collect()
        }
    })
}

/// The CPUs that this process may use.
fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..MAX_CPUS).filter(|&cpu| set.is_set(cpu)).collect()
}

/// Pins the calling thread.
///
/// # Errors
/// The system's.
///
/// # Panics
/// `cpu` is not one that a set of CPUs can hold (1,024).
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the limit of open files as far as this process may, and returns it.
///
/// # Errors
/// The system's.
pub fn raise_open_files() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_of_cpus_are_read() {
        assert_eq!("auto".parse(), Ok(Affinity::Auto));
        assert_eq!("none".parse(), Ok(Affinity::None));
        assert_eq!("1,4-6".parse(), Ok(Affinity::Cpus(vec![1, 4, 5, 6])));
        assert!("4-1".parse::<Affinity>().is_err());
        assert!("all".parse::<Affinity>().is_err());
        assert!("99999".parse::<Affinity>().is_err());
    }

    #[test]
    fn shards_get_allowed_cpus_only() {
        let allowed = allowed_cpus();
        assert!(!allowed.is_empty());
        let last = *allowed.last().unwrap();
        assert_eq!(assign(&Affinity::Cpus(vec![last]), 2), Ok(vec![Some(last); 2]));
        assert!(assign(&Affinity::Cpus(vec![MAX_CPUS - 1]), 1).is_err());
        assert_eq!(assign(&Affinity::Auto, allowed.len() + 1), Ok(vec![None; allowed.len() + 1]));
    }

    #[test]
    fn a_pinned_thread_may_use_its_cpu_alone() {
        let cpu = *allowed_cpus().last().unwrap();
        let seen = std::thread::spawn(move || pin(cpu).map(|()| allowed_cpus())).join().unwrap().unwrap();
        assert_eq!(seen, [cpu]);
    }
}
