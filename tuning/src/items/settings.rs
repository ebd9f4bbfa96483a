//! Settings that are one value in one file: what each profile wants, and why. The sysctl file and the tuned profile
//! are written from this table, so they cannot say otherwise than `check`.

use crate::host::Host;
use crate::item::{Change, Finding, Group, Item};
use crate::profile::Profile;
use crate::value::Form;

/// One value in one file.
#[derive(Debug)]
pub struct Setting {
    /// Its key for sysctl, or a name of its own.
    pub name: &'static str,
    /// Its file, for what is not a sysctl.
    pub file: Option<&'static str>,
    /// Where it stands in a report.
    pub group: Group,
    /// What it is, in a line.
    pub about: &'static str,
    /// What each profile wants, in the order of [`Profile::ALL`].
    pub wanted: [Wanted; 3],
    /// Why, in a sentence that is true of each profile that wants something.
    pub why: &'static str,
    /// Why a host has no use for it, where it has none.
    pub pointless: fn(&Host) -> Option<&'static str>,
}

/// What a profile wants of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing.
    Any,
    /// One of these; the first is what is set.
    OneOf(&'static [&'static str]),
    /// The first or more; the second is what is set.
    AtLeast(u64, u64),
    /// This or less.
    AtMost(u64),
    /// Of least, default and most, the most to be at least this; the three are what is set.
    MostAtLeast(u64, [u64; 3]),
}

use Wanted::{Any, AtLeast, AtMost, MostAtLeast, OneOf};

impl Wanted {
    fn met_by(self, found: &str) -> Option<bool> {
        Some(match self {
            Any => true,
            OneOf(values) => values.contains(&found),
            AtLeast(least, _) => found.parse::<u64>().ok()? >= least,
            AtMost(most) => found.parse::<u64>().ok()? <= most,
            MostAtLeast(least, _) => found.split(' ').nth(2)?.parse::<u64>().ok()? >= least,
        })
    }

    /// What to write in place of `found`.
    fn written(self, found: &str) -> String {
        match (self, found.split(' ').collect::<Vec<_>>().as_slice()) {
            (MostAtLeast(_, [.., most]), [least, default, _]) => format!("{least} {default} {most}"),
            _ => self.value().unwrap_or_default(),
        }
    }

    /// What to write where nothing is known of the host; `None` where nothing is wanted.
    pub fn value(self) -> Option<String> {
        match self {
            Any => None,
            OneOf(values) => Some(values[0].to_owned()),
            AtLeast(_, value) | AtMost(value) => Some(value.to_string()),
            MostAtLeast(_, values) => Some(values.map(|value| value.to_string()).join(" ")),
        }
    }

    /// Whether a host may have better already, which a file that cannot compare would spoil.
    pub fn is_bound(self) -> bool {
        matches!(self, AtLeast(..) | AtMost(_) | MostAtLeast(..))
    }

    /// As in a report.
    pub fn text(self) -> String {
        match self {
            Any => crate::item::ANY.to_owned(),
            OneOf(values) => values.join(" or "),
            AtLeast(least, _) => format!("at least {least}"),
            AtMost(value) => format!("at most {value}"),
            MostAtLeast(least, _) => format!("the last at least {least}"),
        }
    }
}

impl Setting {
    /// Its file.
    pub fn path(&self) -> String {
        match self.file {
            Some(file) => file.to_owned(),
            None => format!("/proc/sys/{}", self.name.replace('.', "/")),
        }
    }

    /// What `profile` wants.
    pub fn wanted(&self, profile: Profile) -> Wanted {
        self.wanted[profile as usize]
    }

    /// Whether sysctl knows it.
    pub fn is_sysctl(&self) -> bool {
        self.file.is_none()
    }

    fn form(&self) -> Form {
        if self.is_sysctl() { Form::Words } else { Form::Choice }
    }

    fn command(&self, value: &str) -> String {
        match self.is_sysctl() {
            true if value.contains(' ') => format!("sysctl -w {}=\"{value}\"", self.name),
            true => format!("sysctl -w {}={value}", self.name),
            false => format!("echo {value} > {}", self.path()),
        }
    }
}

impl Item for Setting {
    fn name(&self) -> &'static str {
        self.name
    }

    fn group(&self) -> Group {
        self.group
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn check(&self, host: &Host) -> Finding {
        if let Some(reason) = (self.pointless)(host) {
            return Finding::not_applicable(reason).why(self.why);
        }
        let wanted = self.wanted(host.profile);
        let path = self.path();
        let Some(found) = self.form().read(&host.root, &path) else {
            return Finding::unknown(format!("no {path}")).wanting(wanted.text()).why(self.why);
        };
        let Some(met) = wanted.met_by(&found) else {
            return Finding::unknown(format!("'{found}' in {path}")).wanting(wanted.text()).why(self.why);
        };
        let value = wanted.written(&found);
        let command = self.command(&value);
        let change = Change::new(path, self.form(), &found, value);
        Finding::compared(met, found, wanted.text()).why(self.why).apply(vec![change], vec![command])
    }
}

fn always_useful(_: &Host) -> Option<&'static str> {
    None
}

fn without_swap(host: &Host) -> Option<&'static str> {
    let swaps = host.root.read("/proc/swaps")?;
    (swaps.lines().count() <= 1).then_some("no swap")
}

fn with_one_node(host: &Host) -> Option<&'static str> {
    (host.nodes()?.len() == 1).then_some("one NUMA node")
}

const fn sysctl(
    name: &'static str,
    group: Group,
    wanted: [Wanted; 3],
    about: &'static str,
    why: &'static str,
) -> Setting {
    Setting { name, file: None, group, about, wanted, why, pointless: always_useful }
}

const ON: Wanted = OneOf(&["1"]);
const OFF: Wanted = OneOf(&["0"]);

/// As high as systemd sets them by itself, so that nothing is lowered.
const MANY_FILES: Wanted = AtLeast(1_048_576, 1_073_741_816);
const NO_LIMIT: Wanted = AtLeast(1_048_576, i64::MAX as u64);

/// Buffers: least, default, most, in bytes; the first two are the kernel's own.
const RECEIVE: [u64; 3] = [4096, 131_072, 16_777_216];
const SEND: [u64; 3] = [4096, 16_384, 16_777_216];

/// Congestion controls that send at once what the window allows.
const UNPACED: Wanted = OneOf(&["cubic", "dctcp", "reno"]);

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    Setting {
        pointless: without_swap,
        ..sysctl(
            "vm.swappiness",
            Group::Memory,
            [AtMost(1), AtMost(10), Any],
            "How readily the kernel swaps out memory of programs",
            "A message whose page was swapped out waits for the disk; file cache is the better thing to give up.",
        )
    },
    Setting {
        file: Some("/sys/kernel/mm/transparent_hugepage/enabled"),
        ..sysctl(
            "thp",
            Group::Memory,
            [OneOf(&["madvise", "never"]), Any, Any],
            "Transparent huge pages: for whom",
            "With 'always' any page fault may stop to clear 2 MiB, and khugepaged moves pages under a running broker.",
        )
    },
    Setting {
        file: Some("/sys/kernel/mm/transparent_hugepage/defrag"),
        ..sysctl(
            "thp-defrag",
            Group::Memory,
            [
                OneOf(&["madvise", "defer+madvise", "defer", "never"]),
                OneOf(&["madvise", "defer+madvise", "defer", "never"]),
                Any,
            ],
            "Transparent huge pages: whether page faults wait for compaction",
            "With 'always' a page fault compacts memory on the spot, for milliseconds when memory is fragmented.",
        )
    },
    sysctl(
        "vm.compaction_proactiveness",
        Group::Memory,
        [OFF, Any, Any],
        "How eagerly memory is compacted before anybody asks",
        "Compaction in the background moves pages that shards use; what touches them meanwhile waits.",
    ),
    sysctl(
        "vm.stat_interval",
        Group::Memory,
        [AtLeast(10, 10), Any, Any],
        "Seconds between rounds of memory statistics on every CPU",
        "Each round runs a short piece of work on every CPU that had memory activity, shards' cores included.",
    ),
    Setting {
        pointless: with_one_node,
        ..sysctl(
            "vm.zone_reclaim_mode",
            Group::Memory,
            [OFF, OFF, Any],
            "Whether a full NUMA node gives up its cache before another node is used",
            "Reclaiming on the spot stops the allocation for longer than memory of another node ever costs.",
        )
    },
    Setting {
        pointless: with_one_node,
        ..sysctl(
            "kernel.numa_balancing",
            Group::Memory,
            [OFF, OFF, Any],
            "Automatic moving of pages to the NUMA node that uses them",
            "To learn who uses a page the kernel unmaps it, so that a shard faults in the middle of a message; pinned \
             shards have their memory near already.",
        )
    },
    sysctl(
        "fs.nr_open",
        Group::Limits,
        [MANY_FILES, MANY_FILES, MANY_FILES],
        "Highest limit of open files that a process may be given",
        "The service unit asks for 1,048,576 open files, a connection being one; a lower ceiling makes it fail to start.",
    ),
    sysctl(
        "fs.file-max",
        Group::Limits,
        [NO_LIMIT, NO_LIMIT, NO_LIMIT],
        "Most open files on the host",
        "Once it is reached nobody on the host can open a file or accept a connection.",
    ),
    sysctl(
        "net.core.somaxconn",
        Group::Network,
        [AtLeast(4096, 4096), AtLeast(4096, 4096), AtLeast(4096, 4096)],
        "Longest queue of connections that wait to be accepted",
        "Fulmar asks for 4,096 and gets the smaller of the two; what does not fit when many clients come back at once \
         is retried after a second.",
    ),
    sysctl(
        "net.ipv4.tcp_max_syn_backlog",
        Group::Network,
        [AtLeast(4096, 8192), AtLeast(4096, 8192), Any],
        "Most half-open connections of a listener",
        "Many clients that connect at once are held here; beyond it the kernel falls back to SYN cookies, which \
         know fewer TCP options, or drops.",
    ),
    sysctl(
        "net.ipv4.tcp_syncookies",
        Group::Network,
        [ON, ON, ON],
        "Answering connection requests without keeping state when flooded",
        "Protects against floods of connection requests and costs nothing until the queue is full.",
    ),
    sysctl(
        "net.core.netdev_max_backlog",
        Group::Network,
        [AtLeast(4096, 16_384), AtLeast(4096, 16_384), Any],
        "Packets that may wait for a CPU (loopback, RPS)",
        "What overflows is dropped, and a drop costs a retransmission, up to 200 ms later.",
    ),
    sysctl(
        "net.core.rmem_max",
        Group::Network,
        [Any, Any, Any],
        "Largest receive buffer that a program may ask for",
        "Fulmar leaves the size to the kernel, whose own limit is tcp_rmem; this one binds programs that set SO_RCVBUF.",
    ),
    sysctl(
        "net.core.wmem_max",
        Group::Network,
        [Any, Any, Any],
        "Largest send buffer that a program may ask for",
        "Fulmar leaves the size to the kernel, whose own limit is tcp_wmem; this one binds programs that set SO_SNDBUF.",
    ),
    sysctl(
        "net.ipv4.tcp_rmem",
        Group::Network,
        [MostAtLeast(4_194_304, RECEIVE), MostAtLeast(16_777_216, RECEIVE), Any],
        "Receive buffer of a TCP socket: least, default, most, in bytes",
        "A connection carries at most one buffer a round trip: 16 MiB fills 10 Gbit/s at 13 ms, 4 MiB at 3 ms.",
    ),
    sysctl(
        "net.ipv4.tcp_wmem",
        Group::Network,
        [MostAtLeast(4_194_304, SEND), MostAtLeast(16_777_216, SEND), Any],
        "Send buffer of a TCP socket: least, default, most, in bytes",
        "What is sent stays here until it is acknowledged, so it too bounds what a connection carries a round trip.",
    ),
    sysctl(
        "net.ipv4.tcp_moderate_rcvbuf",
        Group::Network,
        [ON, ON, ON],
        "Whether receive buffers grow with what a connection carries",
        "Fulmar sets no buffer sizes; without this every connection stays at the default.",
    ),
    sysctl(
        "net.core.busy_read",
        Group::Network,
        [AtLeast(50, 50), Any, OFF],
        "Microseconds that reading polls the NIC before it waits",
        "The reader fetches packets from the NIC itself instead of waiting for its interrupt; it burns CPU in every \
         program on the host that reads sockets, and does nothing for loopback.",
    ),
    sysctl(
        "net.core.busy_poll",
        Group::Network,
        [AtLeast(50, 50), Any, OFF],
        "Microseconds that poll, select and epoll poll the NIC before they wait",
        "Waiting fetches packets from the NIC itself, which burns CPU in every program that waits; of Fulmar's \
         reactors only epoll uses it.",
    ),
    sysctl(
        "net.ipv4.tcp_congestion_control",
        Group::Network,
        [UNPACED, UNPACED, Any],
        "How TCP finds out what a path carries",
        "BBR paces: each send sets a timer, which costs CPU for every small message; it is the better choice on long \
         ways that lose packets, and connections within a host are not paced in any case.",
    ),
    sysctl(
        "net.ipv4.tcp_slow_start_after_idle",
        Group::Network,
        [OFF, OFF, Any],
        "Whether a connection that was idle starts slowly again",
        "A burst after a quiet moment is otherwise spread over several round trips, as on a new connection.",
    ),
    sysctl(
        "net.ipv4.tcp_notsent_lowat",
        Group::Network,
        [AtMost(131_072), Any, Any],
        "Bytes not yet sent at which a socket counts as full",
        "What waits in the kernel waits behind everything before it and holds memory that the broker does not see.",
    ),
    sysctl(
        "net.ipv4.tcp_autocorking",
        Group::Network,
        [OFF, Any, Any],
        "Whether the kernel holds small writes back to join them",
        "Fulmar joins what a turn brought by itself; the kernel's waiting for more only adds delay.",
    ),
    sysctl(
        "net.ipv4.tcp_timestamps",
        Group::Network,
        [ON, ON, ON],
        "Timestamps in TCP headers",
        "They give exact round-trip times and guard sequence numbers at high rates; old advice to save their 12 bytes \
         costs more than it gains.",
    ),
    sysctl(
        "net.ipv4.tcp_sack",
        Group::Network,
        [ON, ON, ON],
        "Selective acknowledgement",
        "Without it one lost packet resends all that followed.",
    ),
    sysctl(
        "net.ipv4.tcp_window_scaling",
        Group::Network,
        [ON, ON, ON],
        "Windows above 64 KiB",
        "Without it a connection carries at most 64 KiB a round trip.",
    ),
    sysctl(
        "kernel.nmi_watchdog",
        Group::Kernel,
        [OFF, Any, Any],
        "Watchdog for CPUs that hang with interrupts off",
        "It interrupts every busy CPU every few seconds and takes a performance counter; without it such a hang goes \
         unreported.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_meets_what_is_wanted() {
        for setting in SETTINGS {
            for profile in Profile::ALL {
                let wanted = setting.wanted(profile);
                if let Some(value) = wanted.value() {
                    assert_eq!(wanted.met_by(&value), Some(true), "{} {profile}", setting.name);
                    assert_eq!(
                        wanted.met_by(&wanted.written("1 2 3")),
                        Some(true),
                        "{} {profile}",
                        setting.name
                    );
                }
            }
        }
    }

    #[test]
    fn only_the_most_of_three_is_raised() {
        let wanted = MostAtLeast(16_777_216, RECEIVE);
        assert_eq!(wanted.met_by("4096 131072 6291456"), Some(false));
        assert_eq!(wanted.met_by("4096 131072 33554432"), Some(true));
        assert_eq!(wanted.met_by("4096"), None);
        assert_eq!(wanted.written("8192 65536 6291456"), "8192 65536 16777216");
    }

    #[test]
    fn every_setting_has_a_reason_that_is_one_sentence() {
        for setting in SETTINGS {
            assert!(
                setting.why.ends_with('.') && !setting.why.contains(". "),
                "{}: {}",
                setting.name,
                setting.why
            );
        }
    }
}
