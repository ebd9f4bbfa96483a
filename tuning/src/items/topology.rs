//! Where cores, memory and NIC lie.

use std::collections::BTreeSet;

use crate::cpus::CpuSet;
use crate::host::{CPU, Host};
use crate::item::{Computed, Finding, Group};
use crate::profile::Profile;

const fn item(name: &'static str, about: &'static str, check: fn(&Host) -> Finding) -> Computed {
    Computed { name, group: Group::Topology, about, check }
}

/// The items of this group.
pub const ITEMS: &[Computed] = &[
    item("smt", "Whether a shard shares its core with another hardware thread", smt),
    item("numa", "Whether shards, their memory and the NIC are on one NUMA node", numa),
];

fn siblings(host: &Host, cpu: u32) -> Option<CpuSet> {
    host.root.read(&format!("{CPU}/cpu{cpu}/topology/thread_siblings_list"))?.parse().ok()
}

fn smt(host: &Host) -> Finding {
    let why = "Two threads of a core share its caches and execution units, so a busy neighbour slows a shard by about a \
               third; sharing also lets one guess at the other's data.";
    let Some(active) = host.root.number(&format!("{CPU}/smt/active")) else {
        return Finding::unknown(format!("no {CPU}/smt/active")).why(why);
    };
    if active == 0 {
        return Finding::any("off").why(why);
    }
    if host.profile != Profile::Latency {
        return Finding::any("on").why(why);
    }
    let isolated = crate::facts::isolated_cpus(&host.root).unwrap_or_default();
    let shared: CpuSet = host
        .shards
        .iter()
        .filter(|&cpu| {
            let others = siblings(host, cpu).unwrap_or_default().intersection(&host.online);
            others
                .iter()
                .any(|other| other != cpu && (host.shards.contains(other) || !isolated.contains(other)))
        })
        .collect();
    let found = match shared.is_empty() {
        true => "on, the shards' siblings are unused".to_owned(),
        false => format!("on, shards on {shared} have busy siblings"),
    };
    let mut commands = vec![format!("echo off > {CPU}/smt/control")];
    if let Some(better) = better_cpus(host) {
        commands
            .push(format!("or one shard a core, siblings isolated: fulmar serve --cpu-affinity {better}"));
    }
    Finding::compared(shared.is_empty(), found, "off, or siblings unused").why(why).by_hand(commands)
}

fn numa(host: &Host) -> Finding {
    let why = "A message that crosses to another node pays for it at every cache line; the NIC's memory lies on its node.";
    let Some(nodes) = host.nodes() else {
        return Finding::unknown("no /sys/devices/system/node/online").why(why);
    };
    if nodes.len() == 1 {
        return Finding::not_applicable("one NUMA node").why(why);
    }
    let has_shard =
        |node: &u32| host.node_cpus(*node).is_some_and(|cpus| !cpus.intersection(&host.shards).is_empty());
    let used: BTreeSet<u32> = nodes.iter().filter(has_shard).collect();
    let shards_on = used.iter().copied().collect::<CpuSet>().to_string();
    let Some(home) = host.nic_node().or(used.first().copied()) else {
        return Finding::unknown("the host does not tell where its CPUs lie").why(why);
    };
    let furthest = used.iter().filter_map(|&node| distance(host, home, node)).max();
    let distance = furthest.map(|distance| format!(", distance {distance}")).unwrap_or_default();
    let found = match host.nic_node() {
        Some(node) => format!("NIC on node {node}, shards on {shards_on}{distance}"),
        None => format!("shards on {shards_on}{distance}"),
    };
    if host.profile == Profile::Shared {
        return Finding::any(found).why(why);
    }
    Finding::compared(used.iter().all(|&node| node == home), found, format!("shards on node {home}"))
        .why(why)
        .by_hand(better_cpus(host).map(|better| format!("fulmar serve --cpu-affinity {better}")))
}

/// CPUs that would suit shards better than those they have: all of the NIC's node and, for latency, one of each core;
/// without the first of the machine, which is left to the rest.
pub(crate) fn better_cpus(host: &Host) -> Option<CpuSet> {
    let alone = |cpu: &u32| siblings(host, *cpu).is_none_or(|all| all.iter().next() == Some(*cpu));
    let better: CpuSet = match host.profile {
        Profile::Latency => host.near_nic().iter().filter(alone).collect(),
        Profile::Throughput => host.near_nic(),
        Profile::Shared => return None,
    };
    let better: CpuSet = better.iter().filter(|&cpu| Some(cpu) != host.online.iter().next()).collect();
    (!better.is_empty() && !host.shards.is_subset(&better)).then_some(better)
}

fn distance(host: &Host, from: u32, to: u32) -> Option<u32> {
    let distances = host.root.read(&format!("/sys/devices/system/node/node{from}/distance"))?;
    let position = host.nodes()?.iter().position(|node| node == to)?;
    distances.split_whitespace().nth(position)?.parse().ok()
}
