//! Who else runs on the shards' cores.

use crate::cpus::CpuSet;
use crate::facts;
use crate::host::Host;
use crate::item::{Change, Computed, Finding, Group};
use crate::profile::Profile;
use crate::value::Form;

const fn item(name: &'static str, about: &'static str, check: fn(&Host) -> Finding) -> Computed {
    Computed { name, group: Group::Isolation, about, check }
}

/// The items of this group.
pub const ITEMS: &[Computed] = &[
    item("isolation", "Cores that the scheduler leaves to the shards (isolcpus)", isolation),
    item("nohz-full", "Cores without a timer tick while one thread runs (nohz_full)", nohz_full),
    item("rcu-nocbs", "Cores whose deferred freeing is done elsewhere (rcu_nocbs)", rcu_nocbs),
    item("workqueues", "CPUs that the kernel's own deferred work may use", workqueues),
    item("watchdog-cpus", "CPUs that the watchdog for hung CPUs looks after", watchdog_cpus),
];

/// How CPUs read where there may be none.
fn named(cpus: &CpuSet) -> String {
    if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() }
}

/// A set of CPUs from boot time that should cover the shards where they own their cores.
fn covering_shards(host: &Host, found: Option<CpuSet>, parameter: &str, why: &str) -> Finding {
    let Some(found) = found else {
        return Finding::unknown("neither sysfs nor the command line tells").why(why);
    };
    match (host.profile, host.no_cores_apart()) {
        (Profile::Latency, Some(reason)) => Finding::not_applicable(reason).why(why),
        (Profile::Latency, None) => {
            let wanted = host.shards.to_string();
            Finding::compared(host.shards.is_subset(&found), named(&found), &*wanted)
                .why(why)
                .reboot(format_args!("{parameter}{wanted}"))
        }
        _ => Finding::any(named(&found)).why(why),
    }
}

fn isolation(host: &Host) -> Finding {
    let why =
        "On a core that is not isolated any other thread may run in between, for milliseconds at a time.";
    covering_shards(host, facts::isolated_cpus(&host.root), "isolcpus=managed_irq,domain,", why)
}

fn nohz_full(host: &Host) -> Finding {
    let why = "The tick interrupts a running shard 100 to 1,000 times a second; the price is that each system call \
               gets a little slower.";
    covering_shards(host, facts::nohz_full_cpus(&host.root), "nohz_full=", why)
}

fn rcu_nocbs(host: &Host) -> Finding {
    let why = "Otherwise freeing of the kernel's old data runs on the shards' cores, in bursts; nohz_full brings it along.";
    let named = host.boot_cpus("rcu_nocbs");
    let implied = facts::nohz_full_cpus(&host.root).unwrap_or_default();
    covering_shards(host, named.map(|cpus| cpus.union(&implied)), "rcu_nocbs=", why)
}

/// CPUs in a file that should have none of the shards' where they own their cores.
fn sparing_shards(host: &Host, path: &str, form: Form, why: &str) -> Finding {
    let Some(found) = form.read(&host.root, path) else {
        return Finding::unknown(format!("no {path}")).why(why);
    };
    let cpus = match form {
        Form::CpuMask => CpuSet::from_mask(&found).unwrap_or_default(),
        _ => found.parse().unwrap_or_default(),
    };
    match (host.profile, host.no_cores_apart()) {
        (Profile::Latency, Some(reason)) => Finding::not_applicable(reason).why(why),
        (Profile::Latency, None) => {
            let housekeeping = host.housekeeping();
            let wanted =
                if form == Form::CpuMask { housekeeping.to_mask() } else { housekeeping.to_string() };
            let note =
                if form == Form::CpuMask { format!(" # mask of CPUs {housekeeping}") } else { String::new() };
            let command = format!("echo {wanted} > {path}{note}");
            let fine = cpus.intersection(&host.shards).is_empty();
            Finding::compared(fine, named(&cpus), housekeeping.to_string())
                .why(why)
                .apply(vec![Change::new(path, form, found, wanted)], vec![command])
        }
        _ => Finding::any(named(&cpus)).why(why),
    }
}

fn workqueues(host: &Host) -> Finding {
    let why = "Deferred work of the kernel (writeback, drivers) otherwise runs on the shards' cores too.";
    sparing_shards(host, "/sys/devices/virtual/workqueue/cpumask", Form::CpuMask, why)
}

fn watchdog_cpus(host: &Host) -> Finding {
    let why = "On each of its CPUs a timer wakes a thread of the highest priority every few seconds.";
    if host.root.number("/proc/sys/kernel/watchdog") == Some(0) {
        return Finding::not_applicable("kernel.watchdog is off").why(why);
    }
    sparing_shards(host, "/proc/sys/kernel/watchdog_cpumask", Form::CpuList, why)
}

/// CPUs that the kernel gives to interrupts of devices that come later.
pub(super) fn default_interrupts(host: &Host) -> Finding {
    let why =
        "A device that appears later (a NIC that is reset, a disk) brings its interrupts to these CPUs.";
    sparing_shards(host, "/proc/irq/default_smp_affinity", Form::CpuMask, why)
}
