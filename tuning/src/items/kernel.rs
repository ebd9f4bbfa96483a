//! The rest of the kernel.

use crate::facts::{self, IoUring};
use crate::host::Host;
use crate::item::{Change, Computed, Finding, Group};
use crate::profile::Profile;
use crate::value::Form;

const fn item(name: &'static str, about: &'static str, check: fn(&Host) -> Finding) -> Computed {
    Computed { name, group: Group::Kernel, about, check }
}

/// The items of this group that are not single settings.
pub const ITEMS: &[Computed] = &[
    item("io-uring", "Whether the broker may use io_uring", io_uring),
    item("clocksource", "Where the kernel takes the time from", clocksource),
    item("mitigations", "What the kernel does against leaks of the processor", mitigations),
];

fn io_uring(host: &Host) -> Finding {
    let why = "With io_uring a turn costs one system call, with epoll one for each socket; but it has had many security \
               holes, so allow it to the broker's group alone where others can log in.";
    let Some(switch) = facts::io_uring(&host.root) else {
        return match host.root.exists("/proc/sys/kernel/osrelease") {
            true => Finding::not_applicable("this kernel has no switch for it"),
            false => Finding::unknown("no /proc/sys/kernel/io_uring_disabled"),
        }
        .why(why);
    };
    let group = host.root.read("/proc/sys/kernel/io_uring_group").filter(|group| !group.starts_with('-'));
    let filtered = facts::seccomp_filtered(&host.root);
    let mut found = match (switch, &group) {
        (IoUring::Allowed, _) => "allowed to all".to_owned(),
        (IoUring::GroupOnly, Some(group)) => format!("allowed to group {group}"),
        (IoUring::GroupOnly, None) => "allowed to root alone".to_owned(),
        (IoUring::Disabled, _) => "refused to all".to_owned(),
    };
    if filtered {
        found += "; a seccomp filter is active and may refuse it";
    }
    let fine = switch == IoUring::Allowed || (switch == IoUring::GroupOnly && group.is_some());
    Finding::compared(fine, found, "allowed to the broker's group, or to all").why(why).by_hand([
        "sysctl -w kernel.io_uring_group=$(getent group fulmar | cut -d: -f3)",
        "sysctl -w kernel.io_uring_disabled=1",
    ])
}

/// Clock sources that a program reads without a system call.
const FAST_CLOCKS: &[&str] =
    &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase"];

fn clocksource(host: &Host) -> Finding {
    let why = "Reading any other clock is a system call or a slow device; if the kernel itself gave tsc up as unstable, \
               leave it.";
    const DIRECTORY: &str = "/sys/devices/system/clocksource/clocksource0";
    let path = format!("{DIRECTORY}/current_clocksource");
    let Some(found) = host.root.read(&path) else {
        return Finding::unknown(format!("no {path}")).why(why);
    };
    let offered = host.root.read(&format!("{DIRECTORY}/available_clocksource")).unwrap_or_default();
    let fine = FAST_CLOCKS.contains(&found.as_str());
    let wanted = offered.split_whitespace().find(|clock| FAST_CLOCKS.contains(clock));
    let finding =
        Finding::compared(fine, &*found, wanted.unwrap_or("tsc, which the kernel does not offer here"))
            .why(why);
    match wanted {
        Some(wanted) if !fine => {
            let command = format!("echo {wanted} > {path}");
            finding.apply(vec![Change::new(path, Form::Words, found, wanted)], vec![command])
        }
        Some(_) => finding.wanting(FAST_CLOCKS[..2].join(" or ")),
        None if fine => finding.wanting(FAST_CLOCKS[..2].join(" or ")),
        None => finding.by_hand(["dmesg | grep -i clocksource # tells why"]),
    }
}

fn mitigations(host: &Host) -> Finding {
    let why = "A trade, not advice: mitigations=off makes system calls cheaper and lets any program on the host read \
               others' memory.";
    let Some(found) = facts::mitigations(&host.root) else {
        return Finding::unknown(format!("no {}/vulnerabilities", crate::host::CPU)).why(why);
    };
    let off = facts::boot_parameter(&host.root, "mitigations").is_some_and(|value| value == "off");
    match host.profile {
        Profile::Shared => Finding::compared(!off, found, "not switched off, others run here too")
            .why(why)
            .reboot("mitigations=auto in place of mitigations=off"),
        _ => Finding::any(found).why(why),
    }
}
