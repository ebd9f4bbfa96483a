//! How deep cores sleep.

use std::collections::BTreeMap;

use crate::cpus::CpuSet;
use crate::host::{CPU, Host};
use crate::item::{Change, Finding};
use crate::profile::Profile;
use crate::value::Form;

/// Longest time, in microseconds, that waking a core may take where shards own their cores.
pub const SHALLOW_US: u64 = 2;

/// One idle state of one CPU.
struct State {
    path: String,
    name: String,
    latency_us: u64,
    enabled: bool,
}

fn states(host: &Host, cpu: u32) -> Vec<State> {
    let directory = format!("{CPU}/cpu{cpu}/cpuidle");
    let names = host.root.list(&directory);
    let read = names.iter().filter(|name| name.starts_with("state")).filter_map(|name| {
        let path = format!("{directory}/{name}");
        Some(State {
            name: host.root.read(&format!("{path}/name")).unwrap_or_else(|| name.clone()),
            latency_us: host.root.number(&format!("{path}/latency"))?,
            enabled: host.root.number(&format!("{path}/disable"))? == 0,
            path,
        })
    });
    read.collect()
}

pub(super) fn idle_states(host: &Host) -> Finding {
    let why = "A shard that waits lets its core sleep; waking from a deep state takes longer than a message's whole way. \
               What stays awake draws power and leaves less turbo to others.";
    let mut enabled: BTreeMap<(u64, String), Vec<u32>> = BTreeMap::new();
    let mut changes = Vec::new();
    let mut any_state = false;
    for cpu in host.shards.iter() {
        for state in states(host, cpu) {
            any_state = true;
            if state.enabled {
                enabled.entry((state.latency_us, state.name)).or_default().push(cpu);
            }
            if state.enabled && state.latency_us > SHALLOW_US {
                changes.push(Change::new(format!("{}/disable", state.path), Form::Words, "0", "1"));
            }
        }
    }
    if !any_state {
        return Finding::not_applicable("no idle states here: the hypervisor or the firmware decides")
            .why(why);
    }
    let driver =
        host.root.read(&format!("{CPU}/cpuidle/current_driver")).unwrap_or_else(|| "no driver".to_owned());
    let found = format!("{} under {driver}", listed(&enabled, &host.shards));
    if host.profile != Profile::Latency {
        return Finding::any(found).why(why);
    }
    let command = format!("cpupower -c {} idle-set -D {}", host.shards, SHALLOW_US + 1);
    Finding::compared(changes.is_empty(), found, format!("none above {SHALLOW_US} µs on {}", host.shards))
        .why(why)
        .apply(changes, vec![command])
}

/// `POLL 0 µs, C1 2 µs`, with the CPUs where not all have a state.
fn listed(states: &BTreeMap<(u64, String), Vec<u32>>, all: &CpuSet) -> String {
    let one = |((latency_us, name), cpus): (&(u64, String), &Vec<u32>)| {
        let cpus: CpuSet = cpus.iter().copied().collect();
        match cpus == *all {
            true => format!("{name} {latency_us} µs"),
            false => format!("{name} {latency_us} µs ({cpus})"),
        }
    };
    states.iter().map(one).collect::<Vec<_>>().join(", ")
}
