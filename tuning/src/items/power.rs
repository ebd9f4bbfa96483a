//! Clocks of the cores.

use crate::facts;
use crate::host::{CPU, Host, joined};
use crate::item::{Change, Computed, Finding, Group};
use crate::items::idle;
use crate::profile::Profile;
use crate::value::Form;

const fn item(name: &'static str, about: &'static str, check: fn(&Host) -> Finding) -> Computed {
    Computed { name, group: Group::Power, about, check }
}

/// The items of this group.
pub const ITEMS: &[Computed] = &[
    item("governor", "What sets the clock of the cores (acpi-cpufreq, intel_pstate, amd_pstate)", governor),
    item("energy-preference", "What the processor itself prefers, speed or energy", energy_preference),
    item("idle-states", "How deep cores sleep, and how long waking takes (C-states)", idle::idle_states),
    item("boost", "Clocks above the base frequency (turbo)", boost),
];

/// Governor that the profiles with cores of their own want.
pub const GOVERNOR: &str = "performance";

/// Energy preference that goes with it.
pub const ENERGY_PREFERENCE: &str = "performance";

fn frequency_file(cpu: u32, file: &str) -> String {
    format!("{CPU}/cpu{cpu}/cpufreq/{file}")
}

/// A change of a file of each CPU that does not hold `wanted`.
fn changes(host: &Host, file: &str, wanted: &str) -> Vec<Change> {
    let paths = host.online.iter().map(|cpu| frequency_file(cpu, file));
    let read = paths.filter_map(|path| Some((host.root.read(&path)?, path)));
    read.filter(|(found, _)| found != wanted)
        .map(|(found, path)| Change::new(path, Form::Words, found, wanted))
        .collect()
}

fn governor(host: &Host) -> Finding {
    let why = match host.profile {
        Profile::Shared => {
            "Under a driver without a mind of its own 'powersave' means the lowest clock, always."
        }
        _ => {
            "A governor that follows the load finds a core slow after each quiet moment and raises it too late."
        }
    };
    let read = |file: &'static str| move |cpu| host.root.read(&frequency_file(cpu, file));
    let governors = host.by_value(&host.online, read("scaling_governor"));
    if governors.is_empty() {
        return Finding::not_applicable("no frequency scaling here: the hypervisor or the firmware decides")
            .why(why);
    }
    let drivers = host.by_value(&host.online, read("scaling_driver"));
    let found = match drivers.is_empty() {
        true => joined(&governors),
        false => format!("{}, driver {}", joined(&governors), joined(&drivers)),
    };
    if host.profile == Profile::Shared {
        let dynamic = drivers.keys().all(|driver| driver == "intel_pstate" || driver == "amd-pstate-epp");
        let fine = dynamic || !governors.contains_key("powersave");
        let command = "cpupower frequency-set -g schedutil".to_owned();
        return Finding::compared(fine, found, if dynamic { "any" } else { "any but powersave" })
            .why(why)
            .by_hand([command]);
    }
    let fine = governors.keys().all(|governor| governor == GOVERNOR);
    let command = format!("cpupower frequency-set -g {GOVERNOR}");
    Finding::compared(fine, found, GOVERNOR)
        .why(why)
        .apply(changes(host, "scaling_governor", GOVERNOR), vec![command])
}

fn energy_preference(host: &Host) -> Finding {
    let why = "With intel_pstate or amd_pstate the processor chooses its clock itself and saves energy unless told not to.";
    const FILE: &str = "energy_performance_preference";
    let preferences = host.by_value(&host.online, |cpu| host.root.read(&frequency_file(cpu, FILE)));
    if preferences.is_empty() {
        return Finding::not_applicable("the processor has no preference to set").why(why);
    }
    let found = joined(&preferences);
    let accepted: &[&str] = match host.profile {
        // 0 is how some kernels write it.
        Profile::Latency => &[ENERGY_PREFERENCE, "0"],
        Profile::Throughput => &[ENERGY_PREFERENCE, "0", "balance_performance"],
        Profile::Shared => return Finding::any(found).why(why),
    };
    let fine = preferences.keys().all(|preference| accepted.contains(&preference.as_str()));
    let command = format!("echo {ENERGY_PREFERENCE} | tee {CPU}/cpu*/cpufreq/{FILE}");
    Finding::compared(fine, found, ENERGY_PREFERENCE)
        .why(why)
        .apply(changes(host, FILE, ENERGY_PREFERENCE), vec![command])
}

fn boost(host: &Host) -> Finding {
    let why = "A higher clock shortens every path; it varies with heat and neighbours, so measure without it where the \
               last percentile counts most.";
    let Some(on) = facts::boost(&host.root) else {
        return Finding::not_applicable("no switch for it here").why(why);
    };
    let found = if on { "on" } else { "off" };
    if host.profile == Profile::Shared {
        return Finding::any(found).why(why);
    }
    let intel = format!("{CPU}/intel_pstate/no_turbo");
    let change = match host.root.exists(&intel) {
        true => Change::new(intel, Form::Words, "1", "0"),
        false => Change::new(format!("{CPU}/cpufreq/boost"), Form::Words, "0", "1"),
    };
    let command = format!("echo {} > {}", change.wanted, change.path);
    Finding::compared(on, found, "on").why(why).apply(vec![change], vec![command])
}
