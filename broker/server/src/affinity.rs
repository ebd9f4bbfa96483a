//! Which CPUs this process may use, and pinning threads to them.

use std::io;
use std::str::FromStr;

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

const MAX_CPUS: usize = libc::CPU_SETSIZE as usize;

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
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writes of the size that is passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: `cpu` is below CPU_SETSIZE.
    (0..MAX_CPUS).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Pins the calling thread.
///
/// # Errors
/// The system's.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` came from a set of CPUs, so it is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is valid for reads of the size that is passed.
    match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the limit of open files as far as this process may, and returns it.
///
/// # Errors
/// The system's.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` is valid for reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
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
