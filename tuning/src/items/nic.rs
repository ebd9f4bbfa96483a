//! The NIC's queues and their interrupts, against the shards' cores.

use std::collections::BTreeSet;

use crate::cpus::CpuSet;
use crate::host::Host;
use crate::item::{Change, Computed, Finding, Group};
use crate::items::interrupts::{Interrupt, commands};
use crate::profile::Profile;
use crate::value::Form;

const fn item(name: &'static str, about: &'static str, check: fn(&Host) -> Finding) -> Computed {
    Computed { name, group: Group::Interrupts, about, check }
}

/// The items about the NIC.
pub const ITEMS: &[Computed] = &[
    item("nic-queues", "The NIC, and how many queues it spreads connections over", queues),
    item("nic-irqs", "CPUs that handle the interrupts of the NIC's queues", irqs),
    item("rps", "Handing received packets to other CPUs (rps_cpus)", rps),
    item("xps", "Which CPUs send by which queue (xps_cpus)", xps),
];

const NO_NIC: &str = "no interface with a default route; --nic names one";

/// The queues of the NIC whose names start with `kind`.
fn queue_names(host: &Host, kind: &str) -> Vec<String> {
    let names = host.nic_path("queues").map(|path| host.root.list(&path)).unwrap_or_default();
    names.into_iter().filter(|name| name.starts_with(kind)).collect()
}

/// Interrupts that belong to the NIC.
pub(super) fn interrupt_numbers(host: &Host) -> BTreeSet<u32> {
    // Those of a virtio device are listed at the PCI device above it.
    let paths = ["device/msi_irqs", "device/../msi_irqs"];
    let names = paths.iter().filter_map(|path| host.nic_path(path)).map(|path| host.root.list(&path));
    names.flatten().filter_map(|name| name.parse().ok()).collect()
}

fn queues(host: &Host) -> Finding {
    let why =
        "A queue's packets are all handled by one core, so fewer queues than shards make some of them wait.";
    let Some(nic) = &host.nic else {
        return Finding::not_applicable(NO_NIC).why(why);
    };
    let (receive, send) = (queue_names(host, "rx-").len(), queue_names(host, "tx-").len());
    if receive == 0 {
        return Finding::unknown(format!("no queues of {nic} in sysfs")).why(why);
    }
    let found = format!("{nic}: {receive} rx, {send} tx{}", described(host));
    if host.profile != Profile::Throughput {
        return Finding::any(found).why(why);
    }
    let shards = host.shards.len();
    Finding::compared(receive >= shards, found, format!("{shards} or more rx, or as many as the NIC has"))
        .why(why)
        .by_hand([format!("ethtool -l {nic}"), format!("ethtool -L {nic} combined {shards}")])
}

/// Driver, speed and state of the NIC, as far as they are told.
fn described(host: &Host) -> String {
    let read = |file: &str| host.nic_path(file).and_then(|path| host.root.read(&path));
    let driver = host.nic_path("device/driver").and_then(|path| host.root.link_name(&path));
    // -1 stands for unknown.
    let speed = read("speed").filter(|speed| !speed.starts_with('-')).map(|speed| format!("{speed} Mbit/s"));
    let state = read("operstate")
        .filter(|state| state != "up" && state != "unknown")
        .map(|state| format!("link {state}"));
    let parts: Vec<String> = [driver, speed, state].into_iter().flatten().collect();
    parts.iter().map(|part| format!(", {part}")).collect()
}

fn irqs(host: &Host) -> Finding {
    let why = match host.profile {
        Profile::Latency => {
            "The interrupt and the TCP work after it belong beside the shard: on its node, not on its core."
        }
        _ => {
            "The CPU that takes the interrupt does the TCP work; one CPU for all queues is a ceiling for the whole host."
        }
    };
    let Some(nic) = &host.nic else {
        return Finding::not_applicable(NO_NIC).why(why);
    };
    let numbers = interrupt_numbers(host);
    let interrupts: Vec<Interrupt> =
        numbers.iter().filter_map(|&number| Interrupt::read(host, number)).collect();
    if interrupts.is_empty() {
        return Finding::unknown(format!("no interrupts of {nic} to be seen")).why(why);
    }
    let in_use = interrupts.iter().fold(CpuSet::default(), |all, interrupt| all.union(&interrupt.effective));
    let found = format!("{} interrupts on {in_use}", interrupts.len());
    let near = host.near_nic();
    let (allowed, least) = match (host.profile, host.no_cores_apart()) {
        (Profile::Shared, _) => return Finding::any(found).why(why),
        (Profile::Latency, Some(reason)) => return Finding::not_applicable(reason).why(why),
        (Profile::Latency, None) => {
            let apart = host.housekeeping().intersection(&near);
            (if apart.is_empty() { host.housekeeping() } else { apart }, 1)
        }
        (Profile::Throughput, _) => (near.clone(), interrupts.len().min(near.len())),
    };
    let wanted = match least {
        1 => format!("on {allowed}"),
        _ => format!("on {least} different of {allowed}"),
    };
    let fine = in_use.is_subset(&allowed) && in_use.len() >= least;
    let stray = |interrupt: &&Interrupt| least > 1 || !interrupt.effective.is_subset(&allowed);
    let targets = allowed.iter().cycle().map(|cpu| CpuSet::from_iter([cpu]));
    let pairs = interrupts.iter().filter(stray).zip(targets);
    let changes: Vec<Change> = pairs.map(|(interrupt, target)| interrupt.sent_to(&target)).collect();
    let commands = commands(&changes);
    Finding::compared(fine, found, wanted).why(why).apply(changes, commands)
}

fn rps(host: &Host) -> Finding {
    let why = "A packet handed to another CPU waits for an interrupt between the two; it pays only where the NIC has \
               fewer queues than there are cores to share the work.";
    let Some(nic) = &host.nic else {
        return Finding::not_applicable(NO_NIC).why(why);
    };
    let queues = queue_names(host, "rx-");
    let paths = queues.iter().filter_map(|queue| host.nic_path(&format!("queues/{queue}/rps_cpus")));
    let masks: Vec<(String, CpuSet)> = paths
        .filter_map(|path| Some((CpuSet::from_mask(&host.root.read(&path)?)?, path)))
        .map(|(cpus, path)| (path, cpus))
        .collect();
    if masks.is_empty() {
        return Finding::unknown(format!("no rps_cpus of {nic}")).why(why);
    }
    let on = masks.iter().filter(|(_, cpus)| !cpus.is_empty());
    let to = on.clone().fold(CpuSet::default(), |all, (_, cpus)| all.union(cpus));
    let found = match to.is_empty() {
        true => "off".to_owned(),
        false => format!("{} of {} queues, to {to}", on.clone().count(), masks.len()),
    };
    let few_queues = masks.len() < host.shards.len();
    if host.profile == Profile::Shared || (host.profile == Profile::Throughput && few_queues) {
        return Finding::any(found).why(why);
    }
    let changes = on.map(|(path, cpus)| Change::new(path, Form::CpuMask, cpus.to_mask(), "0")).collect();
    let command = format!("echo 0 | tee /sys/class/net/{nic}/queues/rx-*/rps_cpus");
    Finding::compared(to.is_empty(), found, "off").why(why).apply(changes, vec![command])
}

fn xps(host: &Host) -> Finding {
    let why = "A queue that several cores send by makes them take turns at its lock.";
    let Some(nic) = &host.nic else {
        return Finding::not_applicable(NO_NIC).why(why);
    };
    let queues = queue_names(host, "tx-");
    if queues.len() < 2 {
        return Finding::not_applicable("the NIC has one tx queue").why(why);
    }
    let read = |queue: &String| {
        let path = host.nic_path(&format!("queues/{queue}/xps_cpus"))?;
        Some((CpuSet::from_mask(&host.root.read(&path)?)?, path))
    };
    let masks: Vec<(CpuSet, String)> = queues.iter().filter_map(read).collect();
    if masks.len() < queues.len() {
        return Finding::unknown(format!("no xps_cpus of {nic}")).why(why);
    }
    let cores = if host.shards.is_empty() { &host.online } else { &host.shards };
    let queues_of = |cpu: u32| masks.iter().filter(|(cpus, _)| cpus.contains(cpu)).count();
    let stray: CpuSet = cores.iter().filter(|&cpu| queues_of(cpu) != 1).collect();
    let found = match stray.is_empty() {
        true => "each shard's core sends by one queue".to_owned(),
        false => format!("none or several queues for {stray}"),
    };
    if host.profile == Profile::Shared {
        return Finding::any(found).why(why);
    }
    let share = |queue: usize| -> CpuSet {
        let taken = host.online.iter().enumerate().filter(|(position, _)| position % masks.len() == queue);
        taken.map(|(_, cpu)| cpu).collect()
    };
    let shares = masks.iter().enumerate().map(|(queue, mask)| (mask, share(queue)));
    let changes: Vec<Change> = shares
        .filter(|((cpus, _), share)| cpus != share)
        .map(|((cpus, path), share)| Change::new(path, Form::CpuMask, cpus.to_mask(), share.to_mask()))
        .collect();
    let commands = changes.iter().map(|change| format!("echo {} > {}", change.wanted, change.path)).collect();
    Finding::compared(stray.is_empty(), found, "one queue for each shard's core")
        .why(why)
        .apply(changes, commands)
}
