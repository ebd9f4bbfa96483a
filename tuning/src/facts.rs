//! What a measurement records of the host that it ran on.
//!
//! 1. Reading never fails: what the host does not tell is `None`.
//! 2. The form grows only by fields; a file written before a field was added still reads.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cpus::CpuSet;
use crate::root::Root;

/// The host, as far as it bears on latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// Model of the first CPU.
    pub cpu_model: Option<String>,
    /// CPUs online.
    pub cpus_online: Option<u32>,
    /// Whether two or more hardware threads share a core.
    pub smt: Option<bool>,
    /// Processor packages.
    pub sockets: Option<u32>,
    /// NUMA nodes online.
    pub numa_nodes: Option<u32>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Frequency governors in use, each once; `None` where there is no frequency scaling.
    pub governors: Option<Vec<String>>,
    /// Whether a CPU may go above its base frequency.
    pub boost: Option<bool>,
    /// CPUs that the scheduler leaves alone, as a list; empty for none.
    pub isolated_cpus: Option<String>,
    /// CPUs whose timer tick stops while one thread runs, as a list; empty for none.
    pub nohz_full_cpus: Option<String>,
    /// How the kernel treats the CPU's known leaks, in one line.
    pub mitigations: Option<String>,
    /// Whether the host is a virtual machine.
    pub virtualised: Option<bool>,
    /// What says that this is a container; `None` where nothing does.
    pub container: Option<String>,
    /// Who may use io_uring.
    pub io_uring: Option<IoUring>,
    /// Load average over 1, 5 and 15 minutes.
    pub load_average: Option<[f64; 3]>,
    /// Clock source in use.
    pub clocksource: Option<String>,
}

/// `kernel.io_uring_disabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoUring {
    /// Everybody.
    Allowed,
    /// Members of `kernel.io_uring_group` and processes with `CAP_SYS_ADMIN`.
    GroupOnly,
    /// Nobody.
    Disabled,
}

impl HostFacts {
    /// Reads what the host beneath `root` tells.
    pub fn read(root: &Root) -> HostFacts {
        let cpuinfo = root.read("/proc/cpuinfo").unwrap_or_default();
        HostFacts {
            kernel: root.read("/proc/sys/kernel/osrelease"),
            cpu_model: cpu_model(&cpuinfo),
            cpus_online: cpus_online(root, &cpuinfo),
            smt: smt(root),
            sockets: sockets(root),
            numa_nodes: count(root, "/sys/devices/system/node/online"),
            memory_bytes: memory_bytes(root),
            governors: governors(root),
            boost: boost(root),
            isolated_cpus: isolated_cpus(root).map(|cpus| cpus.to_string()),
            nohz_full_cpus: nohz_full_cpus(root).map(|cpus| cpus.to_string()),
            mitigations: mitigations(root),
            virtualised: virtualised(root, &cpuinfo),
            container: container(root),
            io_uring: io_uring(root),
            load_average: load_average(root),
            clocksource: root.read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        }
    }
}

/// The value of a line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

/// Not every architecture has a line with a name.
fn cpu_model(cpuinfo: &str) -> Option<String> {
    let keys = ["model name", "cpu model", "Processor", "cpu", "Model"];
    keys.iter().find_map(|key| field(cpuinfo, key)).map(str::to_owned)
}

fn cpus_online(root: &Root, cpuinfo: &str) -> Option<u32> {
    let listed = cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u32;
    count(root, "/sys/devices/system/cpu/online").or(Some(listed).filter(|&count| count > 0))
}

/// How many a list in a file has.
fn count(root: &Root, path: &str) -> Option<u32> {
    let list: CpuSet = root.read(path)?.parse().ok()?;
    Some(list.len() as u32).filter(|&count| count > 0)
}

/// The CPUs online.
pub(crate) fn online_cpus(root: &Root) -> Option<CpuSet> {
    root.read("/sys/devices/system/cpu/online")?.parse().ok().filter(|cpus: &CpuSet| !cpus.is_empty())
}

fn smt(root: &Root) -> Option<bool> {
    root.number("/sys/devices/system/cpu/smt/active").map(|active| active == 1)
}

fn sockets(root: &Root) -> Option<u32> {
    let package = |cpu| root.read(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"));
    let packages: BTreeSet<String> = online_cpus(root)?.iter().filter_map(package).collect();
    Some(packages.len() as u32).filter(|&count| count > 0)
}

fn memory_bytes(root: &Root) -> Option<u64> {
    let meminfo = root.read("/proc/meminfo")?;
    let kib: u64 = field(&meminfo, "MemTotal")?.strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn governors(root: &Root) -> Option<Vec<String>> {
    let governor = |cpu| root.read(&format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"));
    let governors: BTreeSet<String> = online_cpus(root)?.iter().filter_map(governor).collect();
    Some(governors.into_iter().collect::<Vec<_>>()).filter(|governors| !governors.is_empty())
}

/// `intel_pstate` has a switch of its own with the opposite meaning.
pub(crate) fn boost(root: &Root) -> Option<bool> {
    let off = root.number("/sys/devices/system/cpu/intel_pstate/no_turbo").map(|no_turbo| no_turbo == 0);
    off.or_else(|| root.number("/sys/devices/system/cpu/cpufreq/boost").map(|boost| boost == 1))
}

/// The value of a boot parameter; the last counts, as in the kernel. Empty for a parameter without a value.
pub(crate) fn boot_parameter(root: &Root, name: &str) -> Option<String> {
    let command_line = root.read("/proc/cmdline")?;
    let ours = command_line.split_whitespace().take_while(|&word| word != "--");
    let values = ours.filter_map(|word| match word.split_once('=') {
        Some((key, value)) if key == name => Some(value.to_owned()),
        None if word == name => Some(String::new()),
        _ => None,
    });
    values.last()
}

/// What sysfs says counts; the command line where it says nothing.
pub(crate) fn isolated_cpus(root: &Root) -> Option<CpuSet> {
    let listed = root.read("/sys/devices/system/cpu/isolated").and_then(|list| list.parse().ok());
    listed.or_else(|| from_command_line(root, "isolcpus"))
}

pub(crate) fn nohz_full_cpus(root: &Root) -> Option<CpuSet> {
    let listed =
        root.read("/sys/devices/system/cpu/nohz_full").and_then(|list| list.trim_matches(NULL).parse().ok());
    listed.or_else(|| from_command_line(root, "nohz_full"))
}

/// Kernels that could have `nohz_full` and have none write `(null)`.
const NULL: [char; 6] = ['(', 'n', 'u', 'l', ')', ' '];

fn from_command_line(root: &Root, name: &str) -> Option<CpuSet> {
    match boot_parameter(root, name) {
        Some(value) => CpuSet::from_boot_parameter(&value),
        None => root.exists("/proc/cmdline").then(CpuSet::default),
    }
}

/// What the kernel says of each known leak, counted.
pub(crate) fn mitigations(root: &Root) -> Option<String> {
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    let names = root.list(directory);
    let states: Vec<(String, String)> = names
        .into_iter()
        .filter_map(|name| Some((root.read(&format!("{directory}/{name}"))?, name)))
        .collect();
    if states.is_empty() {
        return None;
    }
    let named = |start: &str| -> Vec<&str> {
        states.iter().filter(|(state, _)| state.starts_with(start)).map(|(_, name)| name.as_str()).collect()
    };
    let (mitigated, vulnerable) = (named("Mitigation"), named("Vulnerable"));
    let mut summary = format!("{} mitigated, {} vulnerable", mitigated.len(), vulnerable.len());
    if !vulnerable.is_empty() {
        summary += &format!(" ({})", vulnerable.join(", "));
    }
    if let Some(asked) = boot_parameter(root, "mitigations") {
        summary += &format!("; mitigations={asked}");
    }
    Some(summary)
}

fn virtualised(root: &Root, cpuinfo: &str) -> Option<bool> {
    if let Some(kind) = root.read("/sys/hypervisor/type").filter(|kind| !kind.is_empty()) {
        return Some(kind != "none");
    }
    let flags = field(cpuinfo, "flags")?;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

pub(crate) fn container(root: &Root) -> Option<String> {
    if root.exists("/run/.containerenv") {
        return Some("podman (/run/.containerenv)".to_owned());
    }
    if root.exists("/.dockerenv") {
        return Some("docker (/.dockerenv)".to_owned());
    }
    if let Some(kind) = root.read("/run/systemd/container").filter(|kind| !kind.is_empty()) {
        return Some(format!("{kind} (/run/systemd/container)"));
    }
    let cgroup = root.read("/proc/1/cgroup")?;
    let kinds = ["kubepods", "docker", "containerd", "libpod", "lxc"];
    kinds.iter().find(|kind| cgroup.contains(**kind)).map(|kind| format!("{kind} (/proc/1/cgroup)"))
}

/// The switch, where the kernel has one.
pub(crate) fn io_uring(root: &Root) -> Option<IoUring> {
    match root.number("/proc/sys/kernel/io_uring_disabled")? {
        0 => Some(IoUring::Allowed),
        1 => Some(IoUring::GroupOnly),
        2 => Some(IoUring::Disabled),
        _ => None,
    }
}

/// Whether a filter restricts the system calls of the process that asks.
pub(crate) fn seccomp_filtered(root: &Root) -> bool {
    let status = root.read("/proc/self/status").unwrap_or_default();
    field(&status, "Seccomp") == Some("2")
}

/// The user in whose name the process that asks acts.
pub(crate) fn effective_user(root: &Root) -> Option<u32> {
    let status = root.read("/proc/self/status")?;
    field(&status, "Uid")?.split_whitespace().nth(1)?.parse().ok()
}

/// The CPUs that the process that asks may use.
pub(crate) fn allowed_cpus(root: &Root) -> Option<CpuSet> {
    let status = root.read("/proc/self/status")?;
    field(&status, "Cpus_allowed_list")?.parse().ok()
}

fn load_average(root: &Root) -> Option<[f64; 3]> {
    let text = root.read("/proc/loadavg")?;
    let mut averages =
        text.split_whitespace().map(|word| word.parse().ok().filter(|average: &f64| average.is_finite()));
    Some([averages.next()??, averages.next()??, averages.next()??])
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A host of these files.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::new(directory.path());
        for (path, content) in files {
            let path = root.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        (directory, root)
    }

    #[test]
    fn a_host_that_tells_nothing_has_no_facts() {
        let (_directory, root) = host(&[]);
        assert_eq!(HostFacts::read(&root), HostFacts::default());
    }

    #[test]
    fn facts_are_read_from_their_files() {
        let cpu = "/sys/devices/system/cpu";
        let (_directory, root) = host(&[
            ("/proc/sys/kernel/osrelease", "6.1.0-13-amd64\n"),
            (
                "/proc/cpuinfo",
                "processor\t: 0\nmodel name\t: Example 9000 @ 3.0GHz\nflags\t\t: fpu hypervisor\n",
            ),
            (&format!("{cpu}/online"), "0-1\n"),
            (&format!("{cpu}/isolated"), "\n"),
            (&format!("{cpu}/nohz_full"), "  (null)\n"),
            (&format!("{cpu}/smt/active"), "1\n"),
            (&format!("{cpu}/cpu0/topology/physical_package_id"), "0\n"),
            (&format!("{cpu}/cpu1/topology/physical_package_id"), "1\n"),
            (&format!("{cpu}/cpu0/cpufreq/scaling_governor"), "powersave\n"),
            (&format!("{cpu}/cpu1/cpufreq/scaling_governor"), "powersave\n"),
            (&format!("{cpu}/intel_pstate/no_turbo"), "1\n"),
            (&format!("{cpu}/vulnerabilities/mds"), "Vulnerable: no microcode\n"),
            (&format!("{cpu}/vulnerabilities/l1tf"), "Mitigation: PTE Inversion\n"),
            ("/sys/devices/system/node/online", "0-1\n"),
            ("/proc/meminfo", "MemTotal:       1024 kB\nMemFree: 1 kB\n"),
            ("/proc/cmdline", "quiet mitigations=auto -- mitigations=off"),
            ("/proc/1/cgroup", "0::/kubepods.slice/pod1\n"),
            ("/proc/sys/kernel/io_uring_disabled", "1\n"),
            ("/proc/loadavg", "0.25 1.5 2.00 1/99 4711\n"),
            ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ]);
        let facts = HostFacts::read(&root);
        let expected = HostFacts {
            kernel: Some("6.1.0-13-amd64".into()),
            cpu_model: Some("Example 9000 @ 3.0GHz".into()),
            cpus_online: Some(2),
            smt: Some(true),
            sockets: Some(2),
            numa_nodes: Some(2),
            memory_bytes: Some(1 << 20),
            governors: Some(vec!["powersave".into()]),
            boost: Some(false),
            isolated_cpus: Some(String::new()),
            nohz_full_cpus: Some(String::new()),
            mitigations: Some("1 mitigated, 1 vulnerable (mds); mitigations=auto".into()),
            virtualised: Some(true),
            container: Some("kubepods (/proc/1/cgroup)".into()),
            io_uring: Some(IoUring::GroupOnly),
            load_average: Some([0.25, 1.5, 2.0]),
            clocksource: Some("tsc".into()),
        };
        assert_eq!(facts, expected);
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<HostFacts>(&json).unwrap(), facts);
    }

    #[test]
    fn odd_content_is_unknown() {
        let (_directory, root) = host(&[
            ("/sys/devices/system/cpu/online", "4-2"),
            ("/sys/devices/system/node/online", ""),
            ("/proc/meminfo", "MemTotal: lots kB"),
            ("/proc/loadavg", "NaN 1 2"),
            ("/proc/sys/kernel/io_uring_disabled", "7"),
            ("/proc/cpuinfo", ":::\n"),
        ]);
        assert_eq!(HostFacts::read(&root), HostFacts::default());
    }

    #[test]
    fn isolation_is_taken_from_the_command_line_where_sysfs_is_silent() {
        let (_directory, root) = host(&[("/proc/cmdline", "isolcpus=1 isolcpus=domain,2-3 nohz_full=2-3")]);
        let facts = HostFacts::read(&root);
        assert_eq!(facts.isolated_cpus.as_deref(), Some("2-3"));
        assert_eq!(facts.nohz_full_cpus.as_deref(), Some("2-3"));
    }

    #[test]
    fn facts_of_an_older_file_still_read() {
        assert_eq!(serde_json::from_str::<HostFacts>("{}").unwrap(), HostFacts::default());
    }

    #[test]
    fn this_host_tells_its_kernel() {
        assert!(HostFacts::read(&Root::default()).kernel.is_some());
    }
}
