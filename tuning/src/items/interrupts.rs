//! Where interrupts go.

use std::collections::BTreeMap;

use crate::cpus::{CpuSet, ranges};
use crate::host::Host;
use crate::item::{Change, Computed, Finding, Group};
use crate::items::{isolation, nic};
use crate::profile::Profile;
use crate::value::Form;

const fn item(name: &'static str, about: &'static str, check: fn(&Host) -> Finding) -> Computed {
    Computed { name, group: Group::Interrupts, about, check }
}

/// The items of this group that are not about the NIC.
pub const ITEMS: &[Computed] = &[
    item("irqbalance", "The service that moves interrupts between CPUs", irqbalance),
    item("irq-default", "CPUs that new interrupts may go to", isolation::default_interrupts),
    item("irq-affinity", "Interrupts that may come to the shards' cores", irq_affinity),
];

/// What the kernel itself keeps in the directory of an interrupt; whatever else is there is a handler.
const OWN_FILES: &[&str] = &[
    "affinity_hint",
    "effective_affinity",
    "effective_affinity_list",
    "node",
    "smp_affinity",
    "smp_affinity_list",
    "spurious",
];

/// An interrupt with a handler.
pub(super) struct Interrupt {
    pub(super) number: u32,
    /// CPUs that it may go to.
    allowed: CpuSet,
    /// CPUs that it does go to.
    pub(super) effective: CpuSet,
}

impl Interrupt {
    /// Reads one; `None` where nothing handles it or its CPUs are not told.
    pub(super) fn read(host: &Host, number: u32) -> Option<Interrupt> {
        let directory = format!("/proc/irq/{number}");
        let cpus = |file: &str| host.root.read(&format!("{directory}/{file}"))?.parse::<CpuSet>().ok();
        let allowed = cpus("smp_affinity_list")?;
        let handled = host.root.list(&directory).iter().any(|name| !OWN_FILES.contains(&name.as_str()));
        let effective =
            cpus("effective_affinity_list").filter(|cpus| !cpus.is_empty()).unwrap_or(allowed.clone());
        handled.then_some(Interrupt { number, allowed, effective })
    }

    /// The change that sends it to `wanted`.
    pub(super) fn sent_to(&self, wanted: &CpuSet) -> Change {
        let path = format!("/proc/irq/{}/smp_affinity_list", self.number);
        Change::new(path, Form::CpuList, self.allowed.to_string(), wanted.to_string())
    }
}

/// All interrupts with a handler.
fn interrupts(host: &Host) -> Vec<Interrupt> {
    let numbers = host.root.list("/proc/irq").into_iter().filter_map(|name| name.parse().ok());
    numbers.filter_map(|number| Interrupt::read(host, number)).collect()
}

/// One command for all that go to the same CPUs.
pub(super) fn commands(changes: &[Change]) -> Vec<String> {
    let mut by_target: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for change in changes {
        let number = change.path.trim_start_matches("/proc/irq/").split('/').next().unwrap_or_default();
        by_target.entry(&change.wanted).or_default().push(number);
    }
    let command = |(cpus, numbers): (&str, Vec<&str>)| match numbers.as_slice() {
        [one] => format!("echo {cpus} > /proc/irq/{one}/smp_affinity_list"),
        _ => format!("for i in {}; do echo {cpus} > /proc/irq/$i/smp_affinity_list; done", numbers.join(" ")),
    };
    by_target.into_iter().map(command).collect()
}

fn irq_affinity(host: &Host) -> Finding {
    let why = "An interrupt stops the shard for its handler and for the deferred work that follows.";
    let interrupts = interrupts(host);
    if interrupts.is_empty() {
        return Finding::not_applicable("no interrupts to be seen in /proc/irq").why(why);
    }
    match (host.profile, host.no_cores_apart()) {
        (Profile::Latency, Some(reason)) => return Finding::not_applicable(reason).why(why),
        (Profile::Latency, None) => {}
        _ => return Finding::any(format!("{} interrupts", interrupts.len())).why(why),
    }
    let of_nic = nic::interrupt_numbers(host);
    let disturbing: Vec<&Interrupt> = interrupts
        .iter()
        .filter(|interrupt| !of_nic.contains(&interrupt.number))
        .filter(|interrupt| !interrupt.effective.intersection(&host.shards).is_empty())
        .collect();
    let changes: Vec<Change> = disturbing
        .iter()
        .map(|interrupt| {
            let rest = interrupt.allowed.difference(&host.shards);
            let housekeeping = host.housekeeping();
            // Some interrupts ignore what they are told; then what is allowed says nothing of where they go.
            let kept = !rest.is_empty() && rest != interrupt.allowed;
            interrupt.sent_to(if kept { &rest } else { &housekeeping })
        })
        .collect();
    let numbers: Vec<u32> = disturbing.iter().map(|interrupt| interrupt.number).collect();
    let found = match numbers.is_empty() {
        true => "none but the NIC's".to_owned(),
        false => format!("{} of {}: {}", numbers.len(), interrupts.len(), ranges(numbers)),
    };
    let commands = commands(&changes);
    Finding::compared(changes.is_empty(), found, format!("none on {}", host.shards))
        .why(why)
        .apply(changes, commands)
}

fn irqbalance(host: &Host) -> Finding {
    let why = "It moves interrupts back onto the shards' cores, seconds after they were placed.";
    let is_it = |pid: &String| {
        let numeric = pid.bytes().all(|byte| byte.is_ascii_digit());
        numeric && host.root.read(&format!("/proc/{pid}/comm")).is_some_and(|name| name == "irqbalance")
    };
    let processes = host.root.list("/proc");
    if !processes.iter().any(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        return Finding::unknown("no processes to be seen in /proc").why(why);
    }
    let running = processes.iter().any(is_it);
    let found = if running { "running" } else { "not running" };
    if host.profile != Profile::Latency {
        return Finding::any(found).why(why);
    }
    let commands = [
        "systemctl disable --now irqbalance".to_owned(),
        format!("or IRQBALANCE_BANNED_CPULIST={} in /etc/default/irqbalance", host.shards),
    ];
    Finding::compared(!running, found, "not running, or kept off the shards' cores")
        .why(why)
        .by_hand(commands)
}
